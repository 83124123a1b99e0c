/* cloq.h: an adapter that makes up for the quantization error of a linear's outputs on calibration data, in closed form.
 *
 * Deng et al. 2025, CLoQ (arXiv:2501.18475).  With H = X^T X of the calibration rows (gram.h), damped, H = L L^T, the error of the outputs is
 *     ||(W - Q - s B A) X^T||_F = ||(W - Q) L - s B A L||_F
 * and least, of all B A of rank r, where s B A L is the leading part of the singular value decomposition U S V of (W - Q) L:
 *     B = U_r sqrt(S_r / s)      A = sqrt(S_r / s) V_r L^-1.
 * With H = identity it is one step of LoftQ (lora.h).  What it is not: it does not quantize. */
#ifndef VENEER_CLOQ_H
#define VENEER_CLOQ_H
#include "gram.h"

struct cloq {
    size_t out, in;
    int32_t r;   /* 1 to the smaller side */
    real s;      /* alpha / r, or alpha / sqrt(r) */
    double damp; /* times the mean of H's diagonal is added to it; 0.01 usually */
};
/* Fills A[r, in] and B[out, r] for W[out, in] and what its codes say, Q[out, in].  The whole decomposition, in double.  It takes cloq_bytes while it runs.
 * ERR_INPUT: r or s out of range, gram_check; ERR_DIVERGED: gram_check; ERR_FAILED: damp is not above 0, or names the element of W - Q that is not finite;
 * ERR_MEMORY. */
enum status cloq_start(real *A, real *B, const real *W, const real *Q, const struct gram *gram, const struct cloq *cloq, struct err *err);
size_t cloq_bytes(const struct cloq *cloq);

#endif
