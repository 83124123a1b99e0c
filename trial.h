/* trial.h: one configuration tried out: the model in its formats, adapters started, fine-tuned, scored.
 *
 * All levels of all linears are quantized and their adapters started once (a linear's start depends only on its weights, its
 * format and its rank), then swapped by pointer; a trial costs fine-tuning and scoring.  What it is not: it chooses nothing. */
#ifndef VENEER_TRIAL_H
#define VENEER_TRIAL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/log.h"
#include "config.h"
#include "evaluate.h"
#include "finetune.h"
#include "gram.h"
#include "model.h"
#include "model_mirror.h"
#include "search.h"

enum { MAX_LEVELS = 16, MAX_TASKS = 16, TRIALS_NOT_PINNED = 255 };
/* A level that is no format but each linear's own: the one that the source holds it in (quant_types = keep). */
#define FORMAT_KEEP ((enum format)FORMAT_COUNT)

/* A linear in one format with its adapter's start; of FORMAT_KEEP q is the source's matrix itself. */
struct variant {
    struct qmat q;
    real *A, *B;
    bool ready;
};

struct trial_tasks {
    char name[MAX_TASKS][MAX_TASK_NAME + 1];
    struct evaluate_set *search[MAX_TASKS], *report[MAX_TASKS];
    size_t n;
};

struct trials {
    const struct config *config;
    struct log log;
    const struct model *source; /* pruned; linears F32, or with keep as they are stored, in panels */
    const struct dataset *dataset, *held_out; /* held_out: what no trial trains on, NULL when the objective is accuracy */
    const struct trial_tasks *tasks;
    struct model_run *run;
    struct model_run *host_run;       /* on the CPU, for what calibration data tells; NULL: run is */
    struct model_mirror *mirror;      /* where passes run on a device: what they read; NULL: they read what is here */

    enum objective objective;
    struct evaluate_reference *reference; /* of the unquantized model, made when first asked for */

    struct plan_storage storage;      /* by embedding_type and export_dtype */
    struct plan_linear *kept;         /* [n_linears] what FORMAT_KEEP stands for; NULL: no keep among the levels */
    double kept_bits, kept_stored_bits; /* means of it a weight: of a code, with scales */

    struct plan plan;                 /* widths; formats, ranks, alphas of the last configuration that was set, the largest ranks before */
    enum format format[MAX_LEVELS];   /* of the levels, ascending in stored bytes; pinned formats behind them */
    size_t n_levels, n_formats;
    int32_t rank[MAX_LEVELS];         /* rank_types, ascending */
    size_t n_ranks;                   /* 0: no rank is chosen */
    uint8_t *pinned;                  /* [n_linears] index into format, or TRIALS_NOT_PINNED */
    bool *ranked;                     /* [n_linears] its rank is chosen */
    size_t n_linears, n_variables, n_format_variables;
    uint8_t *n_variable_levels;       /* [n_variables] n_levels or n_ranks, or 1 when all its linears are pinned */
    double **feature;                 /* [n_variables] position of each level, 0..1 */
    uint8_t *kind;                    /* [n_variables] enum search_kind */
    uint16_t *group;                  /* [n_variables] its layer */
    double *importance;               /* [n_variables] trials_measure_importance's, or NULL */
    double *bytes;                    /* [n_linears][n_formats] stored bytes of a linear */
    double *weights;                  /* [n_linears] out * in */
    double seconds[MAX_LEVELS];       /* of a token with every linear at a level, adapters merged: trials_measure_speed's; 0: not measured */
    double *rank_bytes;               /* [n_linears] stored bytes of an adapter of rank 1 where ranks are chosen */
    double fixed_bytes;               /* embeddings, norms, biases, adapters whose rank is not chosen */

    struct model_layer *own_layer;    /* [layers] norms and biases of a configuration that was requantized, in `own`; NULL: the source's */
    struct arena own;

    struct plan widest;               /* of each linear the format that takes the most room among its variants: of a device's memory */
    struct variant *variant;          /* [n_linears][n_formats][ranks that need a start of their own] */
    struct model model;               /* the view whose linears are swapped */
    struct lora lora;
    struct finetune finetune;
    int32_t *positions;               /* 0, 1 ... for the longest example of dataset and held_out */
    int64_t steps;                    /* of a trial */
};

struct trial_outcome {
    double score, variance;            /* objective: larger is better */
    struct evaluate_result task[MAX_TASKS];
    size_t n_tasks;
    double held_out_loss, divergence;  /* NaN unless they are the objective */
    double first_loss, last_loss;      /* of fine-tuning; NaN when there was none */
    double size;                       /* stored bytes */
    uint8_t *right;                    /* optional, the caller's, one a document of all search parts: 1 where a document of the search part was answered right */
};

/* The static part: levels, pins, bytes, features (no arena).  held: the formats in which the source has its matrices (copied).  ERR_INPUT when embedding_type
 * or a pinned format does not fit a shape. */
enum status trials_init(struct trials *trials, const struct config *config, const struct model_config *shape, const struct model_stored *held, struct err *err);
/* Of another run's keys, of whose model no more is known than how many variables it has: levels, positions, kinds and groups alone, nothing pinned.
 * ERR_INPUT when so many variables are no whole number of layers. */
enum status trials_init_space(struct trials *trials, const struct config *config, size_t n_variables, struct err *err);
void trials_free(struct trials *trials);
/* Counts or carves: `weights` takes the variants, `optimizer` adapters (with gradients and moments, unless the mirror has them) and the micro-batch. */
void trials_place_weights(struct trials *trials, const struct model_config *shape, struct arena *weights);
void trials_place_training(struct trials *trials, const struct model_config *shape, int64_t max_steps, struct arena *optimizer);

/* search.h's view of the space (borrows trials). */
void trials_space(struct trials *trials, double max_size, struct search_space *space);
/* Bytes of codes, scales and numbers that model/ and adapter/ hold.  A linear in a format that Hugging Face has no form for (docs/interop.md) stands there
 * decoded and counts as what it is. */
double trials_size(const struct trials *trials, const uint8_t *level);
/* The format variable of a linear; its rank variable is n_format_variables behind. */
size_t trials_variable(const struct trials *trials, size_t linear);
/* Under a configuration: index into trials->format; into trials->rank (0 where the rank is not chosen). */
size_t trials_format(const struct trials *trials, size_t linear, const uint8_t *level);
size_t trials_rank_level(const struct trials *trials, size_t linear, const uint8_t *level);
/* lora_alpha of an adapter whose rank is chosen. */
float trials_alpha(const struct trials *trials, int32_t rank);
/* The largest rank that any adapter can have. */
size_t trials_max_rank(const struct trials *trials);
/* The plan of a configuration, and the part of it that a linear has; plan_free releases. */
enum status trials_plan(const struct trials *trials, const uint8_t *level, struct plan *plan, struct err *err);
void trials_plan_linear(const struct trials *trials, size_t linear, const uint8_t *level, struct plan_linear *p);
/* Format, block and double quantization of a linear at a level; the rest of p is left alone. */
void trials_set_format(const struct trials *trials, size_t linear, enum format format, struct plan_linear *p);
/* "nf4", or "keep". */
const char *trials_level_name(const struct trials *trials, size_t level);
/* Nominal bits of a level's codes; of FORMAT_KEEP their mean over the linears. */
double trials_level_bits(const struct trials *trials, enum format format);
/* True when some variant is quantized here, from the source's weights. */
bool trials_quantizes(const struct trials *trials);

/* Puts a configuration into trials->model, trials->plan and trials->lora (adapters at their start, moments 0). */
enum status trials_set(struct trials *trials, const uint8_t *level, struct err *err);
/* Of a linear under a configuration: where its matrix and its adapter's start are kept. */
struct variant *trials_variant(const struct trials *trials, size_t linear, const uint8_t *level);
/* Fills v's adapter beside the codes that v holds.  gram: the moments of the linear's inputs; for lora_init = cloq alone. */
enum status trials_start_beside(struct trials *trials, size_t linear, const uint8_t *level, struct variant *v, const real *W, const struct gram *gram,
                                struct err *err);
/* Every variant of a linear, W[out, in]: quantized, its adapter started beside.  U: gram's gptq_factor, by which the hqq formats are then written; or NULL. */
enum status trials_start_variants(struct trials *trials, size_t linear, const real *W, const struct gram *gram, const double *U, struct err *err);
/* True when variants need calibration data: lora_init = cloq, search_quantizer = gptq. */
bool trials_start_from_data(const struct config *config);
/* Every variant of every linear, with the moments that the unquantized model leaves on calibration batches. */
enum status trials_start_all(struct trials *trials, const struct batch *batches, size_t n_batches, struct err *err);
/* q in its format, its codes chosen by GPTQ. */
enum status trials_encode_gptq(const struct trials *trials, struct qmat *q, const real *W, const struct gram *gram, const double *U, struct err *err);
/* Writes the hqq formats of a configuration again by the key `quantizer` (rtn, gptq, awq), from calibration batches; trials_set then puts it into the model. */
enum status trials_requantize(struct trials *trials, const uint8_t *level, const struct batch *batches, size_t n_batches, struct err *err);
/* Bytes that either takes while it runs, at most; shape: a model of the right widths, its weights need not be there. */
size_t trials_requantize_bytes(const struct trials *trials, const struct model *shape, size_t n_tokens, int threads);
/* Fine-tunes what was set. checkpoint_dir may be NULL. */
enum status trials_finetune(struct trials *trials, int64_t steps, const char *label, const char *checkpoint_dir, struct err *err);
/* Scores what is there on a share of it (0 < share <= 1, the first documents or sequences): part report: every task; part search: by the objective. */
enum status trials_score(struct trials *trials, enum task_part part, double share, const struct model *model, const struct lora *lora,
                         struct trial_outcome *outcome, struct err *err);

/* Model and adapters of the host, or NULL, into those that a pass reads: themselves, or on a device their copies, made there. */
enum status trials_there(struct trials *trials, const struct model **model, const struct lora **lora, struct err *err);
/* The adapters that a pass trains, where trials_there put them. */
struct lora *trials_trained(struct trials *trials);
/* A matrix that stays as it is: into panels, unless a device reads it. */
enum status trials_rest(const struct trials *trials, struct qmat *q, struct err *err);
/* Of each linear the variant's format that takes the most room in memory of a device, or the least; plan_free releases.  Fills trials->widest so, after trials_init. */
enum status trials_formats_by_room(const struct trials *trials, const struct model_config *shape, bool most, struct plan *plan, struct err *err);
enum status trials_find_widest(struct trials *trials, const struct model_config *shape, struct err *err);

/* An example as a batch of one sequence, in *segment and trials->positions. */
struct batch trials_example(const struct trials *trials, const struct example *example, struct segment *segment);
/* Sets a configuration and measures its KL divergence from the unquantized model on the held-out text, nats a token, before fine-tuning. */
enum status trials_divergence(struct trials *trials, const uint8_t *level, double *kl, struct err *err);

/* Fills trials->importance (see trial_importance.c for the two measures); n_format_variables + 2 passes over the held-out text and one over a few
 * examples.  Needs held_out. */
enum status trials_measure_importance(struct trials *trials, struct err *err);

/* Fills trials->seconds (see trial_speed.c), by the clock: no two calls agree.  trials_time: what a token takes under a configuration by them. */
enum status trials_measure_speed(struct trials *trials, struct err *err);
double trials_time(const struct trials *trials, const uint8_t *level);

/* Fine-tuning options that the configuration asks for, for `steps` optimizer steps. */
void trial_options(const struct config *config, int64_t steps, struct finetune_options *options);

#endif
