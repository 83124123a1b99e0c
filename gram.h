/* gram.h: second moments of what linears read, H = X^T X, from which calibrated quantizers know what an error in a weight costs.
 *
 * For an error E = W - Q of a linear the error of its outputs over the rows X is ||E X^T||_F^2 = tr(E H E^T): X itself is not kept.
 * What it is not: it runs no model (calibrate.h does). */
#ifndef VENEER_GRAM_H
#define VENEER_GRAM_H
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "ops.h"
#include "plan.h"

/* The distinct inputs of a layer's linears. */
enum gram_input { GRAM_QKV, GRAM_O, GRAM_GATE_UP, GRAM_DOWN, GRAM_COUNT };
enum gram_input gram_input_of(enum linear linear);
enum linear gram_reader(enum gram_input input); /* the first linear that reads it */

/* Usual damping of H: times the mean of its diagonal is added to it before it is factored. */
#define GRAM_DAMP 0.01

struct gram {
    size_t in, n;    /* columns; rows added so far */
    double *H;       /* [in, in] sum over rows of x x^T, symmetric */
    double *abs_sum; /* [in] sum over rows of |x| */
};

void gram_place(struct gram *gram, size_t in, struct arena *arena);
void gram_clear(struct gram *gram);
/* Adds the rows x[n, in].  Each call's sum is taken in `real` with fp32 factors, whatever ops->compute is, then added in double: the same bits for any
 * number of threads.  part[in, in]: scratch.  The kernels' scratch must be counted for matrices of in x in. */
void gram_add(struct gram *gram, const struct ops_context *ops, const real *x, size_t n, real *part);
/* ERR_INPUT when no row was added; ERR_DIVERGED names the column in which a row was not finite. */
enum status gram_check(const struct gram *gram, struct err *err);
/* tr(E H E^T) for rows E[rows, in]; T[rows, in]: scratch. */
double gram_energy(const struct gram *gram, const double *E, size_t rows, double *T);

#endif
