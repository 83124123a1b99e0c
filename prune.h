/* prune.h: structured pruning: which units go, and the smaller model.  Units are KV heads (with their query heads) and FFN channels of each
 * layer (block), channels of the residual stream (channel), or layers (layer).
 *
 * Ma et al. 2023, LLM-Pruner (arXiv:2305.11627).  What it is not: it trains nothing and reads no file. */
#ifndef VENEER_PRUNE_H
#define VENEER_PRUNE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "model.h"
#include "ops.h"

enum prune_mode { PRUNE_BLOCK, PRUNE_CHANNEL, PRUNE_LAYER };
enum prune_type { PRUNE_TAYLOR, PRUNE_L1, PRUNE_L2, PRUNE_RANDOM };
enum prune_grouping { GROUP_SUM, GROUP_MEAN, GROUP_MAX, GROUP_PROD, GROUP_FIRST };

struct prune_options {
    enum prune_mode mode;
    enum prune_type type;
    enum salience taylor;       /* SALIENCE_VECTORIZE .. SALIENCE_PARAM_MIX */
    enum prune_grouping grouping;
    bool interleaved_folding;   /* LLM-Pruner's GQA folding, for comparison only */
    int32_t attention_start, attention_end, mlp_start, mlp_end; /* layers [start, end); -1: by depth */
    double ratio;               /* share of all parameters to remove */
    double group_ratio;         /* block, above 0: LLM-Pruner's own ratio, of the channels of each pruned layer, instead */
    int32_t ffn_multiple, hidden_multiple;
    int32_t keep_layers;        /* layer, above 0: so many layers stay, the first ones, instead of a ratio */
    bool global;
    uint64_t seed;
};

struct prune_scores {
    int32_t n_layers;
    double **head, **ffn; /* block: [n_layers][kv heads], [n_layers][channels]; else NULL */
    double *unit;         /* channel: [hidden_size]; layer: [n_layers]; else NULL */
};

/* Which units stay, sorted ascending. */
struct prune_selection {
    enum prune_mode mode;
    int32_t n_layers;           /* of the model that is pruned */
    int32_t *n_heads, *n_ffn;   /* block: kept KV heads, kept channels; else NULL */
    int32_t **head, **ffn;
    int32_t n_units, *unit;     /* kept channels of the residual stream or layers; block: 0, NULL */
    double group_ratio;         /* share of the units that goes, block: solved for, 0 when global */
    double achieved;            /* share of parameters really removed */
};

/* Layer ranges by depth where the options say -1: spares about the first eighth and the last sixteenth, at least one each from 4 layers on. */
void prune_ranges(struct prune_options *options, int32_t n_layers);

/* What measuring takes beside a pass: gradients of all that is scored, or those of the linears of one layer at a time and the residual streams of all
 * calibration.  Both give the same bits. */
struct prune_room {
    struct model_grads grads; /* Taylor */
    real *fisher;             /* [grads.n] PARAM_SECOND, PARAM_MIX: mean over samples of the squared gradient of the sample's own mean loss */
    double *sums;             /* what a device's kernels add up; NULL on the CPU */
    size_t rows;              /* of calibration, all sequences together */
    real **x;                 /* one layer at a time: [L] the stream before each layer, [rows, C]; NULL: all gradients at one time */
    real **stream;            /* [L] of the sequence at hand */
    real *dx, *own_dx;        /* [rows, C] gradient, with respect to what the layer at hand gives, of the mean loss over all labels; of each sample's own mean loss.
                               * NULL: that one is not wanted */
};
/* Counts or carves for model, options and so many rows of calibration the way that takes less; mode channel, whose scores read gradients of embedding, head and norms too, all
 * at one time.  With arena->tables it is a device's memory. */
void prune_room_place(struct prune_room *room, const struct model *model, const struct prune_options *options, size_t rows, struct arena *arena);
/* Scores of every unit.  Taylor: batches of one sequence each, labels in place, together at most the rows that room was placed for; model and room lie
 * where run's kernels are.  keep_layers: nothing is measured, all layers score 0.  ERR_INPUT: no label.  ERR_STOPPED between layers. */
enum status prune_scores_compute(struct prune_scores *scores, const struct model *model, struct model_run *run, struct prune_room *room,
                                 const struct batch *batches, size_t n_batches, const struct prune_options *options, struct err *err);
/* Solves for the widths and picks the units.  The ratio counts from `original`: in the k-th of n steps config is what the steps before left
 * and the ratio k/n of the whole.
 * ERR_INPUT when no width reaches the ratio (says the largest that is reachable) or a range of layers is not the model's. */
enum status prune_select(struct prune_selection *selection, const struct prune_scores *scores, const struct model_config *config,
                         const struct prune_options *options, const struct model_config *original, struct err *err);
/* The widths that a ratio leads to, without scores: for --plan.  Fills config's widths.  block: when all layers in range lose the same share;
 * layer: the number of layers that stay is that of prune_select, their widths are the largest. ERR_INPUT as above, and when nothing would go. */
enum status prune_widths(struct model_config *config, const struct prune_options *options, double *group_ratio, double *achieved,
                         struct err *err);
/* dst: shaped with the selection's widths and placed, its linears in F32, in src's formats or in those of prune_formats; the rows, columns and layers of src that
 * stay (quant_cut.h).  Linears lie in the layout of files; src's may lie in panels where dst's are F32.  Errors as quant_encode's, where something is encoded anew. */
enum status prune_apply(struct model *dst, const struct model *src, const struct prune_selection *selection, struct err *err);
/* The formats of a model of `config`'s widths (to: its plan) that is cut out of `src`: each linear its own, or quant_fallback's where columns go and divide
 * its blocks.  selection NULL: before it is known which layers stay, each linear is as large as the largest of its name.  told: what is encoded
 * anew, such as "28 down_proj q4_k -> q5_0", is appended. */
void prune_formats(struct plan *to, const struct model_config *config, const struct plan *from, const struct model_config *src, enum prune_mode mode,
                   const struct prune_selection *selection, struct text *told);
/* config with the selection's widths (a copy of src's config otherwise). */
enum status prune_config(struct model_config *config, const struct model_config *src, const struct prune_selection *selection,
                         struct err *err);
void prune_scores_free(struct prune_scores *scores);
void prune_selection_free(struct prune_selection *selection);

#endif
