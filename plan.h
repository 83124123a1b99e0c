/* plan.h: the plan.  For every layer its heads, KV heads and FFN width, for every linear its number format and LoRA rank.
 *
 * Pruning edits the shapes of a plan, search edits formats and ranks, quantization and export obey it, the journal stores it,
 * the report shows it.  Keyed by name (model.layers.3.mlp.down_proj), never by position; prints as text. */
#ifndef VENEER_PLAN_H
#define VENEER_PLAN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"
#include "io/model_config.h"
#include "quant.h"

enum linear { LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, LINEAR_COUNT };
extern const char *const linear_name[LINEAR_COUNT]; /* "self_attn.q_proj" ... */

struct plan_linear {
    enum format format;
    int32_t block;      /* 0: the format's default */
    bool double_quant;
    int32_t rank;       /* 0: no adapter */
    float alpha;        /* lora_alpha */
};

struct plan_layer {
    int32_t heads, kv_heads, ffn;
    struct plan_linear linear[LINEAR_COUNT];
};

struct plan {
    int32_t n_layers;
    struct plan_layer *layer; /* owned, [n_layers] */
    bool use_rslora;
};

/* Every linear in `format` without adapters, widths from the config. */
enum status plan_new(struct plan *plan, const struct model_config *config, enum format format, struct err *err);
enum status plan_copy(struct plan *to, const struct plan *from, struct err *err);
void plan_free(struct plan *plan);

/* Rows (out) and columns (in) of a linear under this plan. */
void plan_shape(const struct plan *plan, const struct model_config *config, int layer, enum linear linear, size_t *out,
                size_t *in);
/* s = alpha / r or alpha / sqrt(r); 0 when there is no adapter. */
float plan_scaling(const struct plan *plan, int layer, enum linear linear);
/* "model.layers.3.mlp.down_proj" into name[64]. */
void plan_name(int layer, enum linear linear, char name[64]);

uint64_t plan_parameters(const struct plan *plan, const struct model_config *config); /* all, tied head once, no adapters */
uint64_t plan_adapter_parameters(const struct plan *plan, const struct model_config *config);
/* How what the plan does not say is stored: the embedding, and a head that is not tied; norms, biases and every matrix in F32, linears too, in
 * numbers of float_bits (32, or 16 where they are written as bf16 or f16). */
struct plan_storage {
    enum format embed, head;
    int float_bits;
};
/* Bytes of the stored model: codes and scales of each matrix in its format, the rest by `storage`, adapters at 32 bits. */
uint64_t plan_bytes(const struct plan *plan, const struct model_config *config, const struct plan_storage *storage);
/* Of one linear [out, in], without its adapter. */
uint64_t plan_linear_bytes(const struct plan_linear *p, size_t out, size_t in, int float_bits);
double plan_bits(const struct plan *plan, const struct model_config *config); /* mean stored bits a weight of the linears */

/* Applies "regex=value,regex=value": each regular expression (POSIX extended) is searched in the full module name
 * (model.layers.3.mlp.down_proj); of several that match a linear the first counts.  Value: a format (with its default block), a rank, or an alpha.  ERR_INPUT: a bad
 * regex or value, a pattern that matches nothing, a format that a shape cannot take. */
enum plan_pattern { PATTERN_FORMAT, PATTERN_RANK, PATTERN_ALPHA };
enum status plan_apply_pattern(struct plan *plan, const struct model_config *config, enum plan_pattern kind, const char *patterns,
                               const char *where, struct err *err);

/* Text, one line a layer group: "model.layers.3 heads=6 kv_heads=2 ffn=256" and
 * "model.layers.3.mlp.down_proj format=nf4 block=64 rank=8 alpha=16"; reads back equal.  A line that is not there leaves the config's widths,
 * f32, no adapter.  ERR_INPUT names where, line and word: widths beyond the config's, layers and linears that it does not have, unknown
 * formats and words, formats that a shape cannot take. */
void plan_print(const struct plan *plan, struct text *out);
enum status plan_parse(struct plan *plan, const struct model_config *config, const char *text, const char *where,
                       struct err *err);

#endif
