/* rbf.h: a cubic radial basis function interpolant with a linear tail, grown point by point.
 *
 *     s(x) = sum_i lambda_i |x - x_i|^3 + c0 + c . x
 *     [ Phi + eta I   P ] [lambda]   [y]
 *     [ P^T           0 ] [c0, c ] = [0],     Phi_ij = |x_i - x_j|^3,   P_i = (1, x_i),   eta = 1e-6
 * Regis & Shoemaker 2007 (INFORMS J. Computing 19(4)), eq. 2 to 4; the ridge is pySOT's.  What it is not: it knows no noise and no searches; gp.h knows noise.
 *
 * Phi is positive definite where P^T lambda = 0.  The first points that are affinely independent are the anchors; every other point j is their affine
 * combination w_j, and e_j - sum_b w_jb e_b solves P^T lambda = 0.  In this basis the system is a positive definite matrix that gains a row with each
 * point and keeps the others, so its Cholesky factor does too: O(n^2 + n d) a point.  Its pivots are at least eta.
 *
 * While the points do not span the space (fewer than d + 1 of them, or all in one plane), P has no full rank and c is not determined: the tail is then linear
 * along the points' affine hull and constant across it, which is the c of least norm.  A tail that is constant everywhere would not do: r^3 is not definite
 * on sum lambda = 0 alone. */
#ifndef VENEER_RBF_H
#define VENEER_RBF_H
#include <stddef.h>

#include "base/err.h"

struct rbf {
    size_t n, d;      /* distinct points, variables */
    size_t cap;
    double *X;        /* [n / 8][d][8]: tiles of eight points; all arrays are owned */
    double *y;        /* [n] mean of what was given for the point */
    size_t *count;    /* [n] how often it was given */
    double *lambda;   /* [n], 0 up to a full tile */
    double c0, *c;    /* c[d] */
    size_t n_anchors, *anchor; /* [d + 1] indices of points */
    size_t n_others, *other;   /* [n] indices of points */
    double *Q, *R;    /* [d, d]: x_b - x_0 = sum_(c <= b) R_bc q_c, q orthonormal rows */
    double *F;        /* [d + 1, d + 1] Phi + eta I among the anchors */
    double *W, *H;    /* [n_others, d + 1]: w_j;  F w_j - phi_bj */
    double *L;        /* rows of the factor, packed: row i begins at i (i + 1) / 2 */
    double *phi;      /* [n] work: |x - x_i|^3 of the point at hand */
    double *work;     /* [n + 4 d + 4] */
};

/* No points yet, d variables (0 is allowed).  rbf_free releases, also after a failure.  ERR_MEMORY. */
enum status rbf_new(struct rbf *rbf, size_t d, struct err *err);
/* Appends X[n, d] with values y[n], all finite, and solves.  A point that is there already is averaged with it.  The result depends on the points and their
 * order, not on how they were split into calls: bit by bit.  ERR_MEMORY: the points before the one that failed are kept, nothing is solved. */
enum status rbf_add(struct rbf *rbf, const double *X, const double *y, size_t n, struct err *err);
/* s(x) at x[d], in the units of y; 0 without points.  O(n d). */
double rbf_predict(const struct rbf *rbf, const double *x);
void rbf_free(struct rbf *rbf);

#endif
