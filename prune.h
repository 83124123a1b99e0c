/* prune.h: structured pruning, block-wise: which KV heads (with their query heads) and FFN channels go, and the smaller model.
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

enum prune_type { PRUNE_TAYLOR, PRUNE_L1, PRUNE_L2, PRUNE_RANDOM };
enum prune_grouping { GROUP_SUM, GROUP_MEAN, GROUP_MAX, GROUP_PROD, GROUP_FIRST };

struct prune_options {
    enum prune_type type;
    enum salience taylor;       /* SALIENCE_VECTORIZE .. SALIENCE_PARAM_MIX */
    enum prune_grouping grouping;
    bool interleaved_folding;   /* LLM-Pruner's GQA folding, for comparison only */
    int32_t attention_start, attention_end, mlp_start, mlp_end; /* layers [start, end); -1: by depth */
    double ratio;               /* share of all parameters to remove */
    double group_ratio;         /* above 0: LLM-Pruner's own ratio, of the channels of each pruned layer, instead */
    int32_t ffn_multiple;
    bool global;
    uint64_t seed;
};

struct prune_scores {
    int32_t n_layers;
    double **head, **ffn; /* [n_layers][kv heads], [n_layers][channels] */
};

/* Which units stay, sorted ascending. */
struct prune_selection {
    int32_t n_layers;
    int32_t *n_heads, *n_ffn;   /* kept KV heads, kept channels */
    int32_t **head, **ffn;
    double group_ratio;         /* solved for; 0 when global */
    double achieved;            /* share of parameters really removed */
};

/* Layer ranges by depth where the options say -1: spares about the first eighth and the last sixteenth, at least one each from 4 layers on. */
void prune_ranges(struct prune_options *options, int32_t n_layers);

/* Scores of every unit.  Taylor: batches of one sequence each, labels in place; grads placed with linears_only; fisher (same size as
 * grads->block) only for PARAM_SECOND and PARAM_MIX, else NULL. */
enum status prune_scores_compute(struct prune_scores *scores, const struct model *model, struct model_run *run,
                                 struct model_grads *grads, real *fisher, const struct batch *batches, size_t n_batches,
                                 const struct prune_options *options, struct err *err);
/* Solves for the widths and picks the units.  The ratio counts from `original_parameters`: in the k-th of n steps config is what the
 * steps before left and the ratio k/n of the whole.
 * ERR_INPUT when no width reaches the ratio (says the largest that is reachable) or a range of layers is not the model's. */
enum status prune_select(struct prune_selection *selection, const struct prune_scores *scores, const struct model_config *config,
                         const struct prune_options *options, uint64_t original_parameters, struct err *err);
/* The widths that a ratio leads to when all layers in range lose the same share, without scores: for --plan.  Fills config's widths. */
enum status prune_widths(struct model_config *config, const struct prune_options *options, double *group_ratio, double *achieved,
                         struct err *err);
/* dst: shaped with the selection's widths and placed all-F32; copies the kept rows and columns of src. */
void prune_apply(struct model *dst, const struct model *src, const struct prune_selection *selection);
/* config with the selection's widths (a copy of src's config otherwise). */
enum status prune_config(struct model_config *config, const struct model_config *src, const struct prune_selection *selection,
                         struct err *err);
void prune_scores_free(struct prune_scores *scores);
void prune_selection_free(struct prune_selection *selection);

#endif
