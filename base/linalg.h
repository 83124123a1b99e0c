/* linalg.h: the one room that calls LAPACK.  Row-major in and out, double precision. */
#ifndef VENEER_LINALG_H
#define VENEER_LINALG_H
#include <stddef.h>

#include "base/err.h"
#include "base/rng.h"

/* K = L L^T in place (lower triangle of K[n,n]; the strict upper triangle is left alone).  When K is not positive definite,
 * 1e-10 .. 1e-4 times the mean diagonal is added, by tens; *jitter says how much (0 mostly).  ERR_FAILED when 1e-4 is not enough. */
enum status linalg_cholesky(double *K, size_t n, double *jitter, struct err *err);
/* x = L^-1 b (forward) and x = L^-T b (backward), in place, m right-hand sides stored as rows: b[m,n]. */
void linalg_solve_lower(const double *L, size_t n, double *b, size_t m);
void linalg_solve_lower_transposed(const double *L, size_t n, double *b, size_t m);
/* L^-1 in place of the lower triangle L[n,n], whose diagonal is not 0; the strict upper triangle is left alone. */
void linalg_invert_lower(double *L, size_t n);
/* C[m,n] += alpha A[m,k] B[k,n]; ld: from one row to the next.  May be called from several threads, after linalg_init. */
void linalg_multiply_add(double *C, size_t ldc, double alpha, const double *A, size_t lda, const double *B, size_t ldb, size_t m, size_t n, size_t k);
/* Thin SVD  W[rows,cols] = U diag(S) Vt,  k = min(rows, cols): U[rows,k], S[k] descending, Vt[k,cols].  W is overwritten.
 * Signs are made unique: the largest-magnitude entry of each row of Vt is positive.  LAPACK gesdd; any of U, Vt may be NULL (both or none). */
enum status linalg_svd(double *W, size_t rows, size_t cols, double *U, double *S, double *Vt, struct err *err);
/* The k leading values and vectors of a W[rows, cols] that is not changed: U[rows,k], S[k], Vt[k,cols], signs as above.  From eigenvectors of the smaller of
 * W W^T and W^T W (LAPACK dsyevr), n = min(rows, cols) wide: for few of many values a sixth of gesdd's time.  A value s_i is the length of W times its vector, and
 * is wrong by 1e-8 s_0 at most, where squares no longer tell s_i from 0; vectors of values below that are not orthogonal, those of 0 are 0.
 * Scratch: gram[n,n], values[n], vectors[k,n].  ERR_FAILED: W is not finite. */
struct linalg_leading_svd {
    size_t rows, cols, k; /* 1 <= k <= n */
    double *U, *S, *Vt, *gram, *values, *vectors;
};
enum status linalg_svd_leading(const struct linalg_leading_svd *svd, const double *W, struct err *err);
/* The same from random directions.  A basis of W's range from rng (stream, step) and `iterations` power iterations, then the small SVD of W in that basis: Halko
 * et al. 2011 (arXiv:0909.4061), alg. 4.4 and 5.1; the last few of the k are the least exact.  Scratch: Y[rows,k], Q[k,cols], small[k,k]. */
struct linalg_random_svd {
    size_t rows, cols, k;
    int iterations;
    struct rng rng;
    double *U, *S, *Vt, *Y, *Q, *small;
};
enum status linalg_svd_randomised(struct linalg_random_svd *svd, const double *W, struct err *err);
/* a . b, summed in eight lanes: a compiler may not part a sum by itself. */
double linalg_dot(const double *a, const double *b, size_t n);
/* One BLAS thread for the small problems here and for kernels that share work among our own threads.  Call once at start. */
void linalg_init(void);
/* Takes the working memory of LAPACK while it can still be refused with a sentence.  OpenBLAS asks for it at the first call, 128 MB of which it touches little, and
 * where the system has none it asks again for ever.  ERR_MEMORY. */
enum status linalg_reserve(struct err *err);

#endif
