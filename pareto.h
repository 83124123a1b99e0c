/* pareto.h: two or three objectives, all minimised: dominance, fronts, hypervolume, expected hypervolume improvement. */
#ifndef VENEER_PARETO_H
#define VENEER_PARETO_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Two objectives: c is 0, and 1 in a reference. */
struct pareto_point {
    double a, b, c;
};

/* p is at least as good in all and better in one. */
bool pareto_dominates(struct pareto_point p, struct pareto_point q);
/* Marks the points that no other dominates: front[n]; of identical points all are marked. Returns their number. O(n^2). */
size_t pareto_front(const struct pareto_point *p, size_t n, bool *front);
/* Rank 0: the front; rank k: the front when ranks below k are taken away (Deb et al. 2002, NSGA-II).  Identical points share a rank. */
enum status pareto_ranks(const struct pareto_point *p, size_t n, int *rank, struct err *err);
/* Crowding distance within each rank: over a and b the gap between neighbours divided by the rank's range; INFINITY at the ends;
 * of identical points the first counts, the others get 0. */
enum status pareto_crowding(const struct pareto_point *p, const int *rank, size_t n, double *distance, struct err *err);
/* What is dominated inside the box up to `reference`: the volume below `reference`, above the points. */
enum status pareto_hypervolume(const struct pareto_point *p, size_t n, struct pareto_point reference, double *volume, struct err *err);

/* Expected growth of the hypervolume when a point is added whose a and b are independent normal, (mean, sd), sd 0: known exactly; its c is known.  Exact.
 * The volume is cut where points begin along c.  In a slice the front of those that have begun, sorted by a: (a_1, h_1) .. (a_n, h_n), a_0 = -inf,
 * h_0 = reference.b, b_i = a_(i+1), b_n = reference.a, grows by the area
 *     sum_i [psi(b_i; m1, s1) - psi(a_i; m1, s1)] psi(h_i; m2, s2),     psi(c; m, s) = E max(c - x, 0),
 * times how thick the slice is from the new point's c on.  O(n) with two objectives, where there is one slice; O(n^2) with three. */
struct pareto_slice {
    double from;                /* the c at which it begins */
    struct pareto_point *front; /* sorted by a, strictly improving in b, inside the reference; in the first slice's array, which is owned */
    size_t n;
};
struct pareto_ehvi {
    struct pareto_slice *slice; /* ascending; the first begins at -inf and is empty; owned */
    size_t n;
    struct pareto_point reference;
};
enum status pareto_ehvi_new(struct pareto_ehvi *e, const struct pareto_point *p, size_t n, struct pareto_point reference, struct err *err);
double pareto_ehvi_at(const struct pareto_ehvi *e, struct pareto_point mean, struct pareto_point sd);
void pareto_ehvi_free(struct pareto_ehvi *e);

/* erfcx(x) = exp(x^2) erfc(x). */
double normal_erfcx(double x);
/* h(z) = z Phi(z) + phi(z), the standardised expected improvement, and its logarithm, good far into the tail. */
double normal_h(double z);
double normal_log_h(double z);

#endif
