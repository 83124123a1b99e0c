/* fast.h: what the fast table's files share: tiles whose sizes depend on shapes alone, its slots.
 *
 * Private to cpu/.  The way to the same bits for any number of threads: a kernel cuts its OUTPUT into tiles, `omp for` deals
 * the tiles to whichever thread is free, and each tile is computed by single-threaded products (gemm.h). */
#ifndef VENEER_CPU_FAST_H
#define VENEER_CPU_FAST_H
#include "cpu/gemm.h"
#include "cpu/team.h"
#include "ops.h"

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

/* Reals of scratch: of a thread, of the team. */
size_t fast_linear_own(size_t max_in);
size_t fast_linear_shared(size_t max_out, size_t max_in, size_t T);
void fast_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count);
void fast_linear_backward(const struct ops_context *c, const struct linear_args *a);
size_t fast_attention_own(size_t D, size_t T);
void fast_attention_forward(const struct ops_context *c, const struct attention_args *a);
void fast_attention_backward(const struct ops_context *c, const struct attention_args *a);
void fast_attention_decode_many(const struct ops_context *c, const struct decode_args *a);
size_t fast_decode_shared(size_t width, size_t D, size_t T);
void fast_attention_keep(const struct ops_context *c, const struct decode_args *a);
void fast_attention_decode(const struct ops_context *c, const struct decode_args *a);
size_t fast_head_shared(size_t C, size_t V);
void fast_head_loss(const struct ops_context *c, const struct head_args *a);
void fast_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse);
size_t fast_sample_shared(size_t V);
void fast_sample(const struct ops_context *c, const struct sample_args *a);

extern const struct ops fast_table; /* cpu/fast.c */

#endif
