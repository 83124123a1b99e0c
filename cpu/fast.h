/* fast.h: what the fast table's files share: matrix products on one thread, tiles whose sizes depend on shapes alone.
 *
 * Private to cpu/.  The way to the same bits for any number of threads: a kernel cuts its OUTPUT into tiles, `omp for` deals
 * the tiles to whichever thread is free, and each tile is computed by one call of a single-threaded gemm. */
#ifndef VENEER_CPU_FAST_H
#define VENEER_CPU_FAST_H
#include <cblas.h>

#include "ops.h"

/* C[m,n] = alpha op(A) op(B) + beta C, row-major; the leading dimensions are row strides. */
struct gemm {
    size_t m, n, k;
    real alpha, beta;
    const real *A, *B;
    real *C;
    size_t lda, ldb, ldc;
};

#ifdef VENEER_DOUBLE
#define CBLAS_GEMM cblas_dgemm
#else
#define CBLAS_GEMM cblas_sgemm
#endif

static inline void gemm_call(const struct gemm *g, CBLAS_TRANSPOSE a, CBLAS_TRANSPOSE b)
{
    CBLAS_GEMM(CblasRowMajor, a, b, (blasint)g->m, (blasint)g->n, (blasint)g->k, g->alpha, g->A, (blasint)g->lda, g->B,
               (blasint)g->ldb, g->beta, g->C, (blasint)g->ldc);
}

/* A[m,k] B[k,n] */
static inline void gemm_nn(struct gemm g)
{
    gemm_call(&g, CblasNoTrans, CblasNoTrans);
}

/* A[m,k] B[n,k]^T */
static inline void gemm_nt(struct gemm g)
{
    gemm_call(&g, CblasNoTrans, CblasTrans);
}

/* A[k,m]^T B[k,n] */
static inline void gemm_tn(struct gemm g)
{
    gemm_call(&g, CblasTrans, CblasNoTrans);
}

/* A length cut into equal tiles of at most `most`, each a multiple of 16 but the last. */
struct tiles {
    size_t n, size, count;
};

static inline struct tiles tiles_of(size_t n, size_t most)
{
    size_t count = (n + most - 1) / most, size = 16;
    if (count > 0)
        size = ((n + count - 1) / count + 15) / 16 * 16;
    return (struct tiles){.n = n, .size = size, .count = (n + size - 1) / size};
}

/* Elements of tile i. */
static inline size_t tile_length(const struct tiles *t, size_t i)
{
    size_t left = t->n - i * t->size;
    return left < t->size ? left : t->size;
}

/* Threads worth waking for so many multiplications. */
static inline int team(const struct ops_context *c, size_t work)
{
    return work < 60000 ? 1 : c->threads;
}

/* Decoded at once: about a megabyte, or 64 rows. */
enum { DECODED = 1 << 18 };
static inline size_t decode_block(const struct qmat *W)
{
    size_t rows = DECODED / (W->cols + 1) / 16 * 16;
    rows = rows < 64 ? 64 : rows;
    return W->format == FORMAT_F32 || rows > W->rows ? W->rows : rows;
}

/* Rows o0 .. o0+n-1 of W: in place when they are reals; else the threads of the team decode them into shared[n, cols] together
 * and wait for each other.  Called by every thread of a region. */
const real *decode_together(const struct qmat *W, size_t o0, size_t n, real *shared);

size_t fast_linear_scratch(size_t max_out, size_t max_in);
void fast_linear_forward(const struct ops_context *c, const struct linear_args *a);
void fast_linear_backward(const struct ops_context *c, const struct linear_args *a);
size_t fast_attention_scratch(size_t D, size_t T);
void fast_attention_forward(const struct ops_context *c, const struct attention_args *a);
void fast_attention_backward(const struct ops_context *c, const struct attention_args *a);
void fast_attention_decode(const struct ops_context *c, real *out, const real *q, const real *k_cache, const real *v_cache,
                           size_t n, size_t past, int32_t H, int32_t KV, int32_t D);
size_t fast_head_scratch(size_t C, size_t V);
void fast_head_loss(const struct ops_context *c, const struct head_args *a);

extern const struct ops fast_table; /* cpu/fast.c */

#endif
