/* cpu.h: what the tables of this folder share: the slots of the plain reference, each thread's scratch, a row of a matrix.
 *
 * Private to cpu/.  ops.h says what each slot computes. */
#ifndef VENEER_CPU_H
#define VENEER_CPU_H
#include <math.h>
#include <omp.h>

#include "base/rng.h"
#include "base/size.h"
#include "ops.h"

/* This thread's own scratch: scratch_n reals, aligned to 64 bytes as long as shared_n and scratch_n are multiples of 16. */
static inline real *cpu_scratch(const struct ops_context *c)
{
    return c->scratch + c->shared_n + (size_t)omp_get_thread_num() * c->scratch_n;
}

/* Row i of W: in place when it is stored as reals, else decoded into row[cols]. */
static inline const real *cpu_row(const struct qmat *W, size_t i, real *row)
{
    if (W->format == FORMAT_F32)
        return (const real *)W->codes + i * W->cols;
    quant_decode_rows(W, i, 1, row);
    return row;
}

/* Dropout keeps an element when its 32 random bits reach this: p * 2^32. */
static inline uint32_t dropout_threshold(float p)
{
    return (uint32_t)((double)p * 4294967296.0);
}

/* What dropout multiplies element (row, col) of x[n, in] by: 0 or 1 / (1 - p). */
static inline real dropout_factor(const struct lora_args *lora, size_t in, size_t row, size_t col)
{
    if (lora->dropout <= 0)
        return 1;
    uint32_t bits = rng_at(lora->seed, RNG_DROPOUT, lora->step, lora->index0 + (uint64_t)row * in + col);
    return bits >= dropout_threshold(lora->dropout) ? (real)(1 / (1 - (double)lora->dropout)) : 0;
}

/* Sets the sizes (rounded up to 16) and returns all. */
static inline size_t cpu_scratch_sizes(struct ops_context *c, size_t shared, size_t own)
{
    c->shared_n = (shared + 15) / 16 * 16;
    c->scratch_n = (own + 15) / 16 * 16;
    return c->shared_n + c->scratch_n * (size_t)c->threads;
}

/* The reference's slots (ref*.c). */
size_t ref_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V);
void ref_embed_forward(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y);
void ref_embed_backward(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy);
void ref_rmsnorm_forward(const struct ops_context *c, real *y, real *s, const real *x, const real *g, real eps, size_t n,
                         size_t C);
void ref_rmsnorm_backward(const struct ops_context *c, real *dx, real *dg, const real *dy, const real *x, const real *g,
                          const real *s, size_t n, size_t C);
void ref_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count);
void ref_linear_backward(const struct ops_context *c, const struct linear_args *a);
void ref_rope_angles(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D);
void ref_rope(const struct ops_context *c, real *x, const real *angles, size_t n, size_t heads, size_t D, bool backward);
void ref_attention_forward(const struct ops_context *c, const struct attention_args *a);
void ref_attention_backward(const struct ops_context *c, const struct attention_args *a);
void ref_attention_keep(const struct ops_context *c, const struct decode_args *a);
void ref_attention_decode(const struct ops_context *c, const struct decode_args *a);
void ref_swiglu_forward(const struct ops_context *c, real *y, const real *gate, const real *up, size_t n);
void ref_swiglu_backward(const struct ops_context *c, real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                         size_t n);
void ref_to_bf16(const struct ops_context *c, uint16_t *to, const real *x, size_t n);
void ref_from_bf16(const struct ops_context *c, real *y, const uint16_t *from, size_t n);
void ref_add(const struct ops_context *c, real *y, const real *x, size_t n);
void ref_add_squares(const struct ops_context *c, real *y, const real *x, real divisor, size_t n);
void ref_head_loss(const struct ops_context *c, const struct head_args *a);
void ref_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse);
void ref_sample(const struct ops_context *c, const struct sample_args *a);
size_t ref_sample_shared(size_t V); /* reals of scratch */
void ref_adamw(const struct ops_context *c, const struct adamw_args *a);
double ref_sum_squares(const struct ops_context *c, const real *x, size_t n);
void ref_salience(const struct ops_context *c, enum salience kind, const struct qmat *W, const real *G, const real *F,
                  double *rows, double *cols);

#endif
