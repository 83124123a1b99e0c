/* search.h: which configuration to try next.  The choice wing: it knows no model, it asks a callback, so it is tested on toys.
 *
 * A configuration is one level per variable.  size (bytes) is known exactly before a trial and adds up over the variables, unless one of them is a
 * pruning ratio, which scales what all others weigh; a higher level is never smaller.  score is measured with noise.  A third objective may be the time
 * that a token takes, known exactly too, and neither rising nor falling with the levels.
 * A search is probes (what a strategy measures of each variable first), the seed set, then what the strategy proposes. */
#ifndef VENEER_SEARCH_H
#define VENEER_SEARCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"

enum search_kind { SEARCH_FORMAT, SEARCH_RANK, SEARCH_RATIO };

struct search_space {
    size_t n;                /* variables (formats of layers or linears, ranks) */
    const uint8_t *n_levels; /* [n] */
    const double *const *feature; /* [n][n_levels[i]] position of a level on the variable's axis, 0..1 */
    /* Exact size in bytes of a configuration. */
    double (*size)(void *user, const uint8_t *level);
    void *user;
    double max_size;         /* budget; INFINITY: none.  Larger configurations are never proposed, but probed */
    const uint8_t *kind;     /* [n] enum search_kind; NULL: all formats */
    const uint16_t *group;   /* [n] which layer a variable belongs to: its format and its rank make up for each other; NULL: each variable its own */
    const double *importance; /* [n] what is known before any trial, larger: more is lost at a low level, any unit; NULL: nothing */
    double (*time)(void *user, const uint8_t *level); /* the third objective, smaller is better; NULL: there are two.  "gp" and "random" alone */
    const uint8_t *least;    /* [n] the lowest level that may be proposed; NULL: 0 */
    const struct search_prior *prior; /* "gp": what another search learnt (search_prior.h); NULL: nothing */
};

struct search_point {
    const uint8_t *level; /* [n] */
    double size, time;    /* the space's; time 0: there are two objectives */
    double score;         /* larger is better */
    double variance;      /* of the score, e.g. p(1-p)/N averaged over tasks */
    double paired;        /* variance of its difference from other trials' scores, each bearing half: all answer the same questions; 0: not known */
    bool failed;          /* diverged: no score */
    bool low_fidelity;    /* a shorter trial: for the strategy alone, never on a front */
};

struct search_archive {
    struct search_point *point; /* owned with their levels, in the order of the trials */
    size_t n, cap;
};
enum status search_archive_add(struct search_archive *archive, const struct search_space *space, const struct search_point *point,
                               struct err *err);
bool search_archive_has(const struct search_archive *archive, const struct search_space *space, const uint8_t *level);
void search_archive_free(struct search_archive *archive);

/* What a strategy wants to remember between proposals of one search; it can be lost at any time without changing what is proposed. */
struct search_cache {
    void *state;
    void (*free_state)(void *state);
};
void search_cache_free(struct search_cache *cache);

struct search_options {
    const char *strategy;   /* one of search_strategy_find's names */
    uint64_t seed;
    size_t num_initial, num_trials; /* seed set, proposals after it; probes come before and are not counted */
    double low_cost;        /* what a trial of low fidelity costs, of a full one; 0: there are none */
    const char *predictor;  /* amq: "rbf", "gp" or "mlp"; NULL: rbf */
    size_t batch;           /* amq: proposals of one iteration, between which nothing is learned; 0: 8 */
    struct search_cache *cache; /* optional */
    double stop_gain;       /* stop when the relative hypervolume gain over stop_patience proposals is below this; 0: never */
    size_t stop_patience;
};

/* What to try next. */
struct search_proposal {
    uint8_t *level;    /* [n], the caller's */
    bool low_fidelity;
    bool done;         /* nothing is left to propose */
    char note[128];    /* one phrase on why, for the journal */
};

/* Probes: all-high, then one variable alone lowered, to its lowest level or to every one below the top, in the order of variables. */
enum search_probes { PROBE_NONE, PROBE_LOWEST, PROBE_EVERY };

/* One way to propose.  All are pure functions of (space, archive, options): a resumed search proposes the same next point. */
struct strategy {
    const char *name;
    enum search_probes probes;
    bool own_seeds; /* proposes the seed set too: propose is asked for all after the probes */
    bool any_size;  /* asks for whole configurations alone, so that sizes need not add up: may be given a SEARCH_RATIO and a time */
    enum status (*propose)(const struct search_space *space, const struct search_archive *archive,
                           const struct search_options *options, struct search_proposal *next, struct err *err);
};

enum status search_strategy_find(const char *name, const struct strategy **strategy, struct err *err);
/* The strategy's probes first, then the seed set (sizes spread evenly, all-low and all-high or the budget first) for num_initial trials, then what the
 * strategy proposes, until num_initial + num_trials are spent (those of low fidelity cost low_cost). */
enum status search_propose(const struct search_space *space, const struct search_archive *archive,
                           const struct search_options *options, struct search_proposal *next, struct err *err);
/* What the trials after the first `probes` have cost, in full trials. */
double search_spent(const struct search_archive *archive, const struct search_options *options, size_t probes);
/* ERR_INPUT when max_size is below the smallest configuration: says the range. */
enum status search_check_budget(const struct search_space *space, struct err *err);
/* Probes of a strategy in this space. */
size_t search_probe_count(const struct search_space *space, enum search_probes probes);

/* Dominated hypervolume of the first k points below 1.1 on each axis, on axes that the whole archive spans from 0 to 1; and the front's indices. */
double search_hypervolume(const struct search_archive *archive, size_t k);
size_t search_front(const struct search_archive *archive, size_t *index /*[n]*/);
/* Eq. 5 of AutoMixQ (arXiv:2411.13814): argmin M(q) - lambda P(q) over the front, on axes that the archive spans from 0
 * to 1; with three objectives M is the mean of size and time; with a budget: the best score within it, of equal scores the smallest size. */
enum status search_pick(const struct search_archive *archive, double lambda, double max_size, size_t *pick, struct err *err);
/* The same pick on the front of what the model of "gp" believes of each trial.  The best of many noisy scores was mostly lucky; a model that
 * pools all trials takes most of the luck out. */
enum status search_pick_posterior(const struct search_space *space, const struct search_archive *archive, double lambda, double max_size,
                                  size_t *pick, struct err *err);

#endif
