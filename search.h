/* search.h: which configuration to try next.  The choice wing: it knows no model, it asks a callback, so it is tested on toys.
 *
 * A configuration is one level per variable.  size (bytes) is known exactly before a trial; score is measured with noise. */
#ifndef VENEER_SEARCH_H
#define VENEER_SEARCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"

struct search_space {
    size_t n;                /* variables (layers or linears) */
    const uint8_t *n_levels; /* [n] */
    const double *const *feature; /* [n][n_levels[i]] position of a level on the variable's axis, 0..1 */
    /* Exact size in bytes of a configuration. */
    double (*size)(void *user, const uint8_t *level);
    void *user;
    double max_size;         /* budget; INFINITY: none.  Larger configurations are never proposed */
};

struct search_point {
    const uint8_t *level; /* [n] */
    double size;
    double score;         /* larger is better */
    double variance;      /* of the score, e.g. p(1-p)/N averaged over tasks */
    bool failed;          /* diverged: no score */
};

struct search_archive {
    struct search_point *point; /* owned with their levels, in the order of the trials */
    size_t n, cap;
};
enum status search_archive_add(struct search_archive *archive, const struct search_space *space, const struct search_point *point,
                               struct err *err);
bool search_archive_has(const struct search_archive *archive, const struct search_space *space, const uint8_t *level);
void search_archive_free(struct search_archive *archive);

struct search_options {
    const char *strategy;   /* "gp" or "random" */
    uint64_t seed;
    size_t num_initial, num_trials; /* seed set, proposals after it */
    double stop_gain;       /* stop when the relative hypervolume gain over stop_patience proposals is below this; 0: never */
    size_t stop_patience;
};

/* One way to propose.  All are pure functions of (space, archive, options): a resumed search proposes the same next point. */
struct strategy {
    const char *name;
    /* The next configuration into level[n]; *done when the space is used up. note[128]: one phrase on why, for the journal. */
    enum status (*propose)(const struct search_space *space, const struct search_archive *archive,
                           const struct search_options *options, uint8_t *level, bool *done, char note[128], struct err *err);
};

enum status search_strategy_find(const char *name, const struct strategy **strategy, struct err *err);
/* Trial t = archive->n: the seed set (sizes spread evenly, all-low and all-high or the budget first) while t < num_initial, then the strategy. */
enum status search_propose(const struct search_space *space, const struct search_archive *archive,
                           const struct search_options *options, uint8_t *level, bool *done, char note[128], struct err *err);

/* Dominated hypervolume of the first k points below (1.1, 1.1), on axes that the whole archive spans from 0 to 1; and the front's indices. */
double search_hypervolume(const struct search_archive *archive, size_t k);
size_t search_front(const struct search_archive *archive, size_t *index /*[n]*/);
/* Eq. 5 of AutoMixQ (arXiv:2411.13814): argmin M(q) - lambda P(q) over the front, on axes that the archive spans from 0
 * to 1; with a budget: the best score within it, of equal scores the smallest size. */
enum status search_pick(const struct search_archive *archive, double lambda, double max_size, size_t *pick, struct err *err);
/* The same pick on the front of what the model of "gp" believes of each trial.  The best of many noisy scores was mostly lucky; a model that
 * pools all trials takes most of the luck out. */
enum status search_pick_posterior(const struct search_space *space, const struct search_archive *archive, double lambda, double max_size,
                                  size_t *pick, struct err *err);

#endif
