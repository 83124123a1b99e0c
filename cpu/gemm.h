/* gemm.h: matrix products over a level's micro-kernels.  Private to cpu/.
 *
 * gemm(): two dense matrices on one thread, for tiles that a kernel hands to whichever thread is free.
 * product: many rows times a frozen matrix W in any format, by all threads of a team; W is unpacked into a panel that fits the second-level cache
 * right before it is used, so that no copy of W in floats ever exists.  A low-rank adapter rides along as more columns of the contraction:
 *     y = [x | s h] [W | B]^T      dx = [dy | dh] [W ; A]
 * The bits of an element depend on its own contraction length alone: k is cut at fixed places, tiles only share out the output. */
#ifndef VENEER_CPU_GEMM_H
#define VENEER_CPU_GEMM_H
#include "cpu/level.h"
#include "ops.h"

/* C[m,n] = op(A) op(B), or += when add; row-major; the leading dimensions are row strides. */
struct gemm {
    size_t m, n, k;
    bool add;
    const real *A, *B;
    real *C;
    size_t lda, ldb, ldc;
};

void gemm_nn(const struct ops_context *c, struct gemm g); /* A[m,k] B[k,n] */
void gemm_nt(const struct ops_context *c, struct gemm g); /* A[m,k] B[n,k]^T */
void gemm_tn(const struct ops_context *c, struct gemm g); /* A[k,m]^T B[k,n] */

/* Every thread's scratch ends with the packing buffers of gemm and product. */
enum { GEMM_SCRATCH = (128 + 16) * 512 + 512 * (128 + 64) };

/* Columns of C that are unpacked at once, at most. */
enum { GEMM_COLUMNS = 128 };
/* Tiles of at most so many columns, as many as share out evenly. */
size_t gemm_tile_columns(const struct ops_context *c, size_t NR, size_t columns);

/* Panels of rows, first .. end-1. */
struct panels {
    size_t first, end;
};

/* This thread's share of so many panels: the rows that `omp for` gives it elsewhere. */
struct panels gemm_own(size_t panels);
/* Whether each thread of this team multiplies its own of n rows with all columns (gemm.c), not all rows with some columns. */
bool gemm_by_rows(size_t n);

/* The micro-kernels for c->compute. */
const struct micro *micro_of(const struct ops_context *c);

static inline size_t units_of(const struct micro *m, size_t k)
{
    return (k + (size_t)m->unit - 1) / (size_t)m->unit;
}

/* Columns appended to the contraction: y += left right^T, right[columns, r] (forward) or right[r, columns] (transposed, dx). */
struct product_extra {
    size_t r;           /* 0: none */
    const real *right;
    size_t ld;
    real *packed;       /* the left operand's extra columns: n * units(r) reals */
};

struct product {
    const struct micro *micro;
    const struct qmat *W;
    bool transposed;    /* false: y = x W^T; true: dx = dy W */
    size_t n;           /* rows */
    size_t first, count; /* a window of the contraction; count 0: all of it */
    struct product_extra extra;
    real *packed;       /* the left operand in A panels: n * units(k) reals, shared by the team */
};

/* Rows whose contraction of k columns and r more fits into `reals`; a multiple of MR, at least MR. */
size_t product_rows(const struct micro *micro, size_t reals, size_t k, size_t r);
/* Called by every thread of the team, which must meet (omp barrier) before it reads what one of these wrote: several products of one x go on side by side.
 * pack: the left operand's own k columns; pack_extra: its extra columns, times scale. */
void product_pack(const struct product *p, const real *x, size_t ldx);
void product_pack_extra(const struct product *p, const real *left, real scale);
/* y[n, columns] = (or += when add), rows ldy apart. */
void product_multiply(const struct ops_context *c, const struct product *p, real *y, size_t ldy, bool add);
/* left[n, r] = x right^T with right[r, k] (forward: h = x A^T), or x right with right[k, r] (transposed: dy B), from the packed x. */
void product_narrow(const struct ops_context *c, const struct product *p, const real *right, size_t r, real *left);

#endif
