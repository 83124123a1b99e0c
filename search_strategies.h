/* search_strategies.h: the strategies there are, and what search.c offers them; private to the search. */
#ifndef VENEER_SEARCH_STRATEGIES_H
#define VENEER_SEARCH_STRATEGIES_H
#include "base/rng.h"
#include "gp.h"
#include "pareto.h"
#include "search.h"

extern const struct strategy strategy_amq, strategy_autoqra, strategy_dp, strategy_evopress, strategy_gp, strategy_random;

/* Probe t of search_probe_count into level[n]. */
void search_probe(const struct search_space *space, enum search_probes probes, size_t t, uint8_t *level);
/* The lowest level that may be proposed for a variable. */
uint8_t search_least(const struct search_space *space, size_t variable);
/* Scores lost by lowering one variable alone to level k, from the probes at the archive's beginning: loss[n][MAX], INFINITY where a probe failed, 0 at the
 * top; levels that were not probed (PROBE_LOWEST) lie on the line between.  loss[i * stride + k]. */
void search_probe_losses(const struct search_space *space, const struct search_archive *archive, enum search_probes probes, size_t stride, double *loss);
bool search_fits(const struct search_space *space, const uint8_t *level);
/* It succeeded, in full: it may stand on a front. */
bool search_counts(const struct search_point *p);
/* The ends of the size axis: all-low, and all-high or the budget if that is less.  level[n] is work space, all 0 afterwards. */
void search_ends(const struct search_space *space, uint8_t *level, double *low, double *high);
/* Bytes that variable i at level k has more than at its lowest allowed level, all others at theirs: delta[i * stride + k], k < n_levels[i].  level[n] is work
 * space, all low afterwards. */
void search_size_deltas(const struct search_space *space, uint8_t *level, size_t stride, double *delta);
/* A configuration that fits and is not in the archive, its size at most `fraction` of the way between the ends and, mostly, just below it;
 * false: the space is used up. */
bool search_draw_new(const struct search_space *space, const struct search_archive *archive, struct rng *rng, double fraction,
                     uint8_t *level);
/* Trial t of a seed set of num_initial: all-low, all-high or the budget, then sizes spread evenly; one that is taken is replaced by a random one.  false: the space
 * is used up. */
bool search_seed(const struct search_space *space, const struct search_archive *archive, const struct search_options *options, size_t t, uint8_t *level);

/* ---- search_model.c ---- */

/* A Gaussian process of the scores of the trials that succeeded, over features of configurations, and the front to beat: that of the posterior means at
 * the tried configurations, not of the scores themselves (a lucky score would hide what lies below it). */
struct search_model {
    const struct search_space *space; /* the first seven are the caller's */
    const struct search_archive *archive;
    size_t d;                         /* features */
    void (*features)(const void *user, const uint8_t *level, double *x /*[d]*/);
    const void *user;
    bool trend;                       /* the last feature is a trend (gp.h) */
    bool low;                         /* short trials that succeeded are points of the lower fidelity (gp.h); else they are left out */
    struct gp gp;                     /* of standardised scores: score = gp.y_mean + gp.y_scale * mean */
    struct pareto_ehvi ehvi;          /* the reference lies a tenth of the ranges behind the worst */
    double low_size, size_range;      /* axis of sizes: 0 at all-low, 1 at all-high or the budget */
    double low_time, time_range;      /* axis of times: 0 and 1 at the fastest and the slowest trial */
    double *x;                        /* [d] work space */
};
/* The position of each variable's level, x[space->n]; user: the space. */
void search_positions(const void *space, const uint8_t *level, double *x);
/* The model of "gp": positions and, with a prior, what it expects as the trend; short trials count too. */
struct search_model search_model_gp(const struct search_space *space, const struct search_archive *archive);
/* The process alone, without a front. */
enum status search_model_learn(struct search_model *m, struct err *err);
/* ERR_MEMORY, ERR_FAILED (gp_fit); search_model_free releases, also after a failure. */
enum status search_model_fit(struct search_model *m, struct err *err);
/* Expected hypervolume improvement of a configuration (its size is known exactly), mean and deviation of its standardised score; -1, and neither of them,
 * when it may not be proposed: it does not fit, or had a full trial. */
double search_model_gain(struct search_model *m, const uint8_t *level, double *mean, double *sd);
/* The share of what is not known of a configuration's full score that a short trial of it, with this variance (in score^2), would tell, 0 to 1: with l and f the
 * low and the full fidelity there (gp.h),
 *     Cov(l, f)^2 / (Var f (Var l + v)),   v = variance + low_sn2
 * 0 where m->low is not set. */
double search_model_told(struct search_model *m, const uint8_t *level, double variance);
void search_model_free(struct search_model *m);
/* Mean and standard deviation [archive->n] of what the model of "gp" believes of each trial's score, failed ones too. */
enum status search_posterior(const struct search_space *space, const struct search_archive *archive, double *mean, double *sd,
                             struct err *err);
#endif
