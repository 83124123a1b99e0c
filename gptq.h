/* gptq.h: codes chosen column by column, each column's rounding error passed on to the columns after it.
 *
 * Frantar et al. 2022 (arXiv:2210.17323), alg. 1, in the order of columns (no "act-order").  With H = X^T X of the calibration rows (gram.h), damped,
 * and the upper U of H^-1 = U^T U (their Cholesky(H^-1)^T):
 *     e = (w_j - q_j) / U_jj      w_k -= e U_jk  for the columns k > j of the same row. */
#ifndef VENEER_GPTQ_H
#define VENEER_GPTQ_H
#include "affine.h"
#include "gram.h"

/* U[in, in] (what stands below its diagonal is not read) for all linears that read this input.  Columns that were always 0 (H_jj = 0) get H_jj = 1, then damp * mean_j H_jj is added to the diagonal.
 * ERR_INPUT, ERR_DIVERGED: gram_check; ERR_FAILED: damp is not above 0, or H cannot be factored; ERR_MEMORY: it takes gptq_factor_bytes while it runs. */
enum status gptq_factor(double *U, const struct gram *gram, double damp, struct err *err);
size_t gptq_factor_bytes(size_t in);

/* W[out, in] -> q (placed), where q->in = gram->in.  Dead columns (H_jj = 0) count as 0.  A group's grid is set when its first element is reached, rows
 * in order: over the values of its elements at that moment, which are updated where they stand in that row, and untouched where the group runs into
 * the next row.  All in double; the same bits for any number of threads.
 * ERR_FAILED: affine_check; ERR_STOPPED; ERR_MEMORY: it takes gptq_bytes while it runs. */
enum status gptq_quantize(struct affine *q, const real *W, const struct gram *gram, const double *U, int threads, struct err *err);
size_t gptq_bytes(const struct affine *q, int threads);

#endif
