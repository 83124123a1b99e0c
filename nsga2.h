/* nsga2.h: the selection of NSGA-II with constraints (Deb, Pratap, Agarwal, Meyarivan 2002, IEEE TEC 6(2)): who of a population lives on, who is a
 * parent.  What it is not: it knows no genotypes; crossover and mutation are the strategies' own.
 *
 * Constrained domination: feasible before infeasible; of two infeasible the smaller violation; else Pareto domination. */
#ifndef VENEER_NSGA2_H
#define VENEER_NSGA2_H
#include "base/err.h"
#include "base/rng.h"
#include "pareto.h"

struct nsga2_fitness {
    int rank;        /* 0: the front.  Infeasible ones come behind all feasible, by violation; equal violations share a rank */
    double distance; /* crowding within the rank; INFINITY at its ends */
};

/* fitness[n] of points p[n], both objectives minimised.  violation[n]: by how much a constraint is broken, 0: feasible; NULL: all are.
 * ERR_MEMORY. */
enum status nsga2_rank(const struct pareto_point *p, const double *violation, size_t n, struct nsga2_fitness *fitness, struct err *err);
/* a is preferred to b: lower rank, then larger distance. */
bool nsga2_better(const struct nsga2_fitness *a, const struct nsga2_fitness *b);
/* The `keep` best of n, best first, ties by index: chosen[keep].  keep <= n.  ERR_MEMORY. */
enum status nsga2_select(const struct nsga2_fitness *fitness, size_t n, size_t keep, size_t *chosen, struct err *err);
/* Index of a parent: the better of two drawn at random from n > 0. */
size_t nsga2_tournament(const struct nsga2_fitness *fitness, size_t n, struct rng *rng);

#endif
