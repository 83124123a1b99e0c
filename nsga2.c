/* nsga2.c: ranks with constraints, the order of selection, tournaments. */
#include "nsga2.h"

#include <stdlib.h>

struct ordered {
    double key;
    size_t index;
};

static int by_key(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Ranks behind `rank` for the k points of `broken`, by violation. */
static void rank_broken(struct ordered *broken, size_t k, int rank, struct nsga2_fitness *fitness)
{
    qsort(broken, k, sizeof *broken, by_key);
    for (size_t i = 0; i < k; i++) {
        if (i > 0 && broken[i].key > broken[i - 1].key)
            rank++;
        fitness[broken[i].index].rank = rank;
    }
}

struct work {
    struct pareto_point *p; /* the feasible ones */
    int *rank, *all;        /* of those; of everything */
    double *distance;
    size_t *where;
    struct ordered *broken;
};

static enum status rank_all(struct work *w, const struct pareto_point *p, const double *violation, size_t n, struct nsga2_fitness *fitness,
                            struct err *err)
{
    size_t feasible = 0, k = 0;
    int last = 0;
    for (size_t i = 0; i < n; i++)
        if (violation && violation[i] > 0) {
            w->broken[k++] = (struct ordered){violation[i], i};
        } else {
            w->p[feasible] = p[i];
            w->where[feasible++] = i;
        }
    TRY(pareto_ranks(w->p, feasible, w->rank, err));
    for (size_t i = 0; i < feasible; i++) {
        fitness[w->where[i]].rank = w->rank[i];
        last = w->rank[i] >= last ? w->rank[i] + 1 : last;
    }
    rank_broken(w->broken, k, last, fitness);
    for (size_t i = 0; i < n; i++)
        w->all[i] = fitness[i].rank;
    TRY(pareto_crowding(p, w->all, n, w->distance, err));
    for (size_t i = 0; i < n; i++)
        fitness[i].distance = w->distance[i];
    return OK;
}

enum status nsga2_rank(const struct pareto_point *p, const double *violation, size_t n, struct nsga2_fitness *fitness, struct err *err)
{
    struct work w = {.p = calloc(n + 1, sizeof *w.p), .rank = malloc((n + 1) * sizeof *w.rank), .all = malloc((n + 1) * sizeof *w.all),
                     .distance = malloc((n + 1) * sizeof *w.distance), .where = malloc((n + 1) * sizeof *w.where),
                     .broken = malloc((n + 1) * sizeof *w.broken)};
    bool got = w.p && w.rank && w.all && w.distance && w.where && w.broken;
    enum status status = got ? rank_all(&w, p, violation, n, fitness, err) : err_set(err, ERR_MEMORY, "out of memory for a population");
    free(w.p);
    free(w.rank);
    free(w.all);
    free(w.distance);
    free(w.where);
    free(w.broken);
    return status;
}

bool nsga2_better(const struct nsga2_fitness *a, const struct nsga2_fitness *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->distance > b->distance;
}

struct contender {
    struct nsga2_fitness fitness;
    size_t index;
};

static int by_fitness(const void *a, const void *b)
{
    const struct contender *x = a, *y = b;
    if (nsga2_better(&x->fitness, &y->fitness))
        return -1;
    if (nsga2_better(&y->fitness, &x->fitness))
        return 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

enum status nsga2_select(const struct nsga2_fitness *fitness, size_t n, size_t keep, size_t *chosen, struct err *err)
{
    struct contender *all = malloc((n + 1) * sizeof *all);
    if (!all)
        return err_set(err, ERR_MEMORY, "out of memory for a population");
    for (size_t i = 0; i < n; i++)
        all[i] = (struct contender){fitness[i], i};
    qsort(all, n, sizeof *all, by_fitness);
    for (size_t i = 0; i < keep; i++)
        chosen[i] = all[i].index;
    free(all);
    return OK;
}

size_t nsga2_tournament(const struct nsga2_fitness *fitness, size_t n, struct rng *rng)
{
    size_t a = rng_below(rng, (uint32_t)n), b = rng_below(rng, (uint32_t)n);
    return nsga2_better(&fitness[b], &fitness[a]) ? b : a;
}
