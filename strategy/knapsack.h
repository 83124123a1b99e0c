/* knapsack.h: the best configuration for every size at once, if what each variable loses alone adds up:
 *
 *     least sum_i loss_i(k_i)   with   sum_i bytes_i(k_i) <= target,     f_i[c] = min_k f_(i-1)[c - bytes_i(k)] + loss_i(k)
 * What it is not: it learns nothing from the trials after the probes. */
#ifndef VENEER_STRATEGY_KNAPSACK_H
#define VENEER_STRATEGY_KNAPSACK_H
#include "search_strategies.h"

enum { KNAPSACK_STRIDE = 256 };

struct knapsack {
    const struct search_space *space;
    double *loss;      /* [n, KNAPSACK_STRIDE] */
    double *delta;     /* [n, KNAPSACK_STRIDE] bytes above the lowest level */
    double low, range; /* of the sizes: the ends */
    double unit;       /* bytes of a cell */
    size_t cells;
    double *least;     /* [cells + 1] least loss within so many cells */
    double *before;    /* [cells + 1] the same without the variable at hand */
    uint8_t *chosen;   /* [n, cells + 1] level of a variable there */
};

/* From the losses of the probes at the archive's beginning.  level[n]: work space.  knapsack_free also after a failure.  ERR_MEMORY. */
enum status knapsack_new(struct knapsack *sack, const struct search_space *space, const struct search_archive *archive, enum search_probes probes, uint8_t *level,
                         struct err *err);
/* The best configuration within low + fraction of the range; of equal losses the smallest size. */
void knapsack_solution(const struct knapsack *sack, double fraction, uint8_t *level);
void knapsack_free(struct knapsack *sack);

#endif
