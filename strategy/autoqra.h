/* autoqra.h: the parts of the strategy "autoqra"; private to it and its test. */
#ifndef VENEER_STRATEGY_AUTOQRA_H
#define VENEER_STRATEGY_AUTOQRA_H
#include "base/rng.h"
#include "mlp.h"
#include "nsga2.h"
#include "search_strategies.h"

/* One proposal at work. */
struct autoqra {
    const struct search_space *space; /* the first four are the caller's */
    const struct search_archive *archive;
    const struct search_options *options;
    struct rng rng;
    size_t stride;                /* most levels of a variable */
    double *importance;           /* [n] space->importance from 0 to 1 within each kind; 1 where it is no number; 0.5 where all are equal; owned, as all below */
    double *bytes;                /* [n, stride] what a level adds to the size of the lowest configuration */
    size_t *unit;                 /* [n] first variable of the same group and kind */
    double low_size, high_size;   /* ends of the size axis: search_ends */
    bool bound;                   /* the budget is less than all-high */
    uint8_t *child, *best;        /* [n] work space */
};

/* ---- autoqra_moves.c: configurations ---- */

enum { AUTOQRA_NONE = -1 };

/* Reads the space; autoqra_free releases, also after a failure.  ERR_MEMORY. */
enum status autoqra_new(struct autoqra *q, struct err *err);
void autoqra_free(struct autoqra *q);
/* The budget itself where it binds; else one that stands in for it, `fraction` of the way along the size axis: every part of it gets its turn. */
double autoqra_budget(const struct autoqra *q, double fraction);
/* While the size is above the budget: one variable one level down, that of the least (importance + 1e-8) / bytes saved; of equal ones that at the highest
 * position, then the first; none below space->least.  With `raised` (a variable, or AUTOQRA_NONE): never that one, and the other kind of its group before
 * the rest.  What cannot be made to fit is left at its lowest. */
void autoqra_repair(const struct autoqra *q, double budget, long raised, uint8_t *level);
/* Where the budget binds: one variable one level up as long as one fits, that of the most importance * way along its axis for a byte: what is asked for is then
 * the best score within the budget, and bytes that are left over score nothing. */
void autoqra_fill(const struct autoqra *q, uint8_t *level);
/* Warm start: level_i = round(importance_i^power * top level); powers 1/2, 1, 2 (tau of eqs. 4-6), 0: all-high. */
void autoqra_start(const struct autoqra *q, double power, uint8_t *level);
/* Some variables, a quarter or so, take a level at random. */
void autoqra_redraw(struct autoqra *q, uint8_t *level);
/* One variable, drawn with probability ~ (importance + 0.1)^1.5, one level up with probability of its importance, else down. */
void autoqra_mutate(struct autoqra *q, uint8_t *level);
/* One variable, drawn likewise, one level up; then repaired elsewhere to the old size. */
void autoqra_couple(struct autoqra *q, uint8_t *level);
/* Formats of a group from a or b, its ranks from a or b, each by a coin. */
void autoqra_cross(struct autoqra *q, const uint8_t *a, const uint8_t *b, uint8_t *level);
/* Mean of importance * position over the variables of a kind; 0 without any. */
double autoqra_weighted(const struct autoqra *q, enum search_kind kind, const uint8_t *level);
/* It had a trial of any fidelity. */
bool autoqra_known(const struct autoqra *q, const uint8_t *level);

/* ---- autoqra_surrogate.c: which child deserves a full trial ---- */

/* Predicts the full score from [low score,] size, both autoqra_weighted, and the shares of the variables of each kind at each level. */
struct autoqra_surrogate {
    struct mlp mlp;
    size_t d;
    bool low;      /* the low score is a feature, and the prediction while too few pairs are known */
    bool trained;  /* on 10 or more */
    double shift;  /* mean full score less low score */
    double worst, range; /* of the full scores */
    struct pareto_ehvi front; /* of the full scores, on axes that they span */
    bool any;      /* there is one */
    double *x;     /* [d] work space */
};
/* ERR_MEMORY.  autoqra_surrogate_free releases, also after a failure. */
enum status autoqra_surrogate_fit(const struct autoqra *q, struct autoqra_surrogate *s, struct err *err);
/* Hypervolume that a configuration is predicted to add to the front; where it adds none, less than 0 by what its score lacks. */
double autoqra_merit(const struct autoqra *q, const struct autoqra_surrogate *s, const uint8_t *level, double low_score);
void autoqra_surrogate_free(struct autoqra_surrogate *s);

/* ---- autoqra_region.c: the second stage ---- */

/* A full trial near the front of those in the archive, of which those from `begin` on were of this stage.  Without one that is new and promises a gain:
 * a random one. */
enum status autoqra_region(struct autoqra *q, size_t begin, struct search_proposal *next, struct err *err);

#endif
