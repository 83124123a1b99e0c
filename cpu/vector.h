/* vector.h: loops over one row or run, written so that the compiler turns them into vector instructions.
 *
 * One thread each, no shapes beyond a length.  vector.c is compiled twice: for every machine (vector_plain) and for AVX2
 * (vector_avx2); the level of this process (level.h) says which runs.  Private to cpu/. */
#ifndef VENEER_CPU_VECTOR_H
#define VENEER_CPU_VECTOR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/level.h"
#include "quant.h"

/* Where the random numbers of a dropout mask begin, and what survives. */
struct vector_dropout {
    uint64_t seed, index; /* of the first element */
    uint32_t step, threshold;
};

struct vector_adamw {
    real grad_scale, beta1, beta2, decay; /* decay: 1 - lr weight_decay */
    real step, root, eps;                 /* p -= step m / (root sqrt(v) + eps) */
};

enum { VECTOR_HEADS = 3 }; /* whose sums stay in registers */

struct vector {
    /* Rows row0 .. row0+n-1 of q, bit for bit what quant_decode_rows gives. */
    void (*decode)(const struct qmat *q, size_t row0, size_t n, real *out);
    real (*dot)(const real *a, const real *b, size_t n);
    /* Rows [n, D] of a cache of keys or values, reals or (f16) half as wide and widened in registers, read once for `heads` <= VECTOR_HEADS:
     * y[h ldy + i] = x[h D ..] . row i;   y[h ldy ..] = sum_i w[h ldw + i] row i. */
    void (*dots)(real *y, size_t ldy, const real *x, size_t heads, const void *rows, bool f16, size_t n, size_t D);
    void (*weighted)(real *y, size_t ldy, const real *w, size_t ldw, size_t heads, const void *rows, bool f16, size_t n, size_t D);
    void (*axpy)(real *y, real a, const real *x, size_t n);  /* y += a x */
    void (*scale)(real *x, real a, size_t n);                /* x *= a */
    real (*largest)(const real *x, size_t n);                /* NaN elements are passed over */
    /* z = exp(a z - b); returns the sum, of runs of 64 pair by pair as reals (relative error gamma(6)), of the runs as doubles */
    double (*exp_sum)(real *z, real a, real b, size_t n);
    double (*squares)(const real *x, size_t n);
    /* Of distributions P = a p, Q = b q [n]: sums[0] = sum P (log P - log Q), sums[1] = sum P (log P - log M) + Q (log Q - log M), M = (P + Q) / 2,
     * by u = P / M and w = Q / M, whose logarithms lose nothing where P and Q are near each other. */
    void (*divergences)(const real *p, const real *q, real a, real b, size_t n, double sums[2]);
    /* w = sample_weight(z, most, scale) (sample.h);  w = 0 where z < least or z is no number.  Both return the sum of w, of at most 64 numbers. */
    uint64_t (*weigh)(uint32_t *w, const real *z, real most, real scale, size_t n);
    uint64_t (*drop_below)(uint32_t *w, const real *z, real least, size_t n);
    void (*to_f16)(uint16_t *to, const real *x, size_t n); /* f16_within_range */
    void (*from_f16)(real *y, const uint16_t *from, size_t n);
    void (*to_bf16)(uint16_t *to, const real *x, size_t n); /* to nearest even; NaN stays NaN */
    void (*from_bf16)(real *y, const uint16_t *from, size_t n);
    real (*rmsnorm)(real *y, const real *x, const real *g, real eps, size_t C);
    void (*rmsnorm_back)(real *dx, const real *dy, const real *x, const real *g, real s, size_t C);
    void (*swiglu)(real *y, const real *gate, const real *up, size_t n);
    void (*swiglu_back)(real *dgate, real *dup, const real *dy, const real *gate, const real *up, size_t n);
    /* ds = P (dP - delta) a, in place of dP */
    void (*softmax_back)(real *dP, const real *P, real delta, real a, size_t n);
    void (*sincos)(real *sine, real *cosine, double position, const float *inv_freq, size_t n);
    void (*rotate)(real *x, const real *sine, const real *cosine, size_t half, bool backward); /* one head */
    /* Bit i % 32 of mask[i / 32]: whether element i of n survives (behind n: anything). */
    void (*draw_mask)(uint32_t *mask, const struct vector_dropout *d, size_t n);
    /* y[i] = (or +=) x[i] a where bit first + i of the mask is set, 0 elsewhere; first a multiple of 8. */
    void (*apply_mask)(real *y, const real *x, const uint32_t *mask, size_t first, real a, size_t n, bool add);
    void (*adamw)(real *p, const real *g, real *m, real *v, const struct vector_adamw *a, size_t n);
};

extern const struct vector vector_plain, vector_avx2, vector_avx512; /* the same bits of the latter two */
void vector_decode_avx2(const struct qmat *q, size_t row0, size_t n, real *out); /* vector_avx2.c; AVX-512's too */

#if defined(__x86_64__) && !defined(VENEER_DOUBLE)
#define VECTOR_AVX2 1
#endif

/* Those of this process's level: an atomic load, so it may be called in inner loops. */
static inline const struct vector *vector(void)
{
    return level()->vector;
}

#endif
