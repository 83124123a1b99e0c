/* level.h: what one instruction set gives: micro-kernels of matrix products on packed operands.  Private to cpu/.
 *
 * A level is a table of functions compiled with its own flags (level_avx2.c, level_avx512.c ...), chosen once at run time.  One thread
 * each; who shares work out (gemm.h) stands above.  The scheme is that of Goto and van de Geijn (ACM TOMS 34(3), 2008): both operands are
 * copied into narrow panels that the innermost loop reads in order, and a tile of C stays in registers for a whole run of k.
 *
 * Packed operands are made of units along k.  unit = 1: a unit is one real.  unit = 2: a unit is 32 bits that hold two bf16 numbers,
 * k even in the low half (what VDPBF16PS and BFMMLA read); an odd k gets a zero beside it.
 *     A panel: packed[ceil(k / unit)][m]      m <= MR rows of the left operand
 *     B panel: packed[ceil(k / unit)][NR]     NR columns of the right operand, zeros behind the last
 *
 * The bits.  With unit = 1 every element of C is the chain c = fma(a_k, b_k, c) from c = 0 over k ascending within one call, whatever the
 * instruction set; the levels differ in speed alone. */
#ifndef VENEER_CPU_LEVEL_H
#define VENEER_CPU_LEVEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/real.h"
#include "quant.h"

enum {
    MICRO_MR_MOST = 16, /* no level has a larger MR, */
    MICRO_NR_MOST = 64, /* NR, */
    FEW_MOST = 12       /* or more rows in `few` */
};

struct micro {
    const char *name; /* "avx2 f32" ... */
    int unit;         /* 1: reals, 2: pairs of bf16 */
    int MR, NR;
    bool fixed; /* few: 4-bit codes and x are multiplied in 16-bit fixed point; all else is that of unit 1 */

    /* packed[ceil(k/unit)][width] from x[m, k], rows ldx apart; columns m .. width-1 are zeros.  For A: width = m; for B: width = NR. */
    void (*pack)(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k);
    /* The same from x[k, m], rows (of k) ldx apart. */
    void (*pack_t)(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k);
    /* B panel of y = x W^T: column j is row row0 + j of W (n <= NR of them), its elements k0 .. k0+k-1.
     * When W is in panels (quant_panels), row0 and k0 are multiples of 16 and 64 where k reaches beyond. */
    void (*panel)(real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k);
    /* B panel of dx = dy W: column j is column col0 + j of W (n <= NR of them), its rows row0 .. row0+k-1. Multiples as above. */
    void (*panel_t)(real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k);
    /* C[m, n] = (or += when add) A B over `units` units; m <= MR, n <= NR; rows of C ldc apart, nothing beyond column n is touched. */
    void (*kernel)(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t m, size_t n, bool add);
    /* Few rows, weights as they lie in memory: y[i, o] = sum_k x[i, k] W[o, k] for i < m <= FEW_MOST and row0 <= o < row0 + n (row0 a multiple of 16;
     * y points at column row0).  x is one A panel of all W->cols.  The order of the sum depends on W alone.  soon: what the caller will read next,
     * or NULL: a kernel that asks memory ahead goes on there behind its last row.
     * NULL, or false when W's format has no such kernel: the caller then goes by panels. */
    bool (*few)(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon);
};

struct vector;
struct int8_product;
struct level {
    const char *name;            /* as in VENEER_CPU: "plain", "avx2", "avx512", "avx512_bf16", "neon" */
    bool (*supported)(void);     /* by this machine */
    const struct micro *f32;     /* never NULL */
    const struct micro *bf16;    /* of products that may be as inexact as bf16: NULL where nothing is faster than f32 */
    const struct int8_product *int8; /* int8.h; NULL where the CPU does not multiply bytes */
    const struct vector *vector; /* rows and runs (vector.h) */
};

extern const struct level level_plain;
#if defined(__x86_64__) && !defined(VENEER_DOUBLE)
extern const struct level level_avx2, level_avx512, level_avx512_bf16;
#endif
#if defined(__aarch64__) && !defined(VENEER_DOUBLE)
extern const struct level level_neon;
#endif

/* The level of this process: the one that VENEER_CPU names, else the best that the machine supports.  Fixed at the first call. */
const struct level *level(void);
/* Levels of this build, best first, also those that the machine lacks; NULL behind the last. */
const struct level *level_at(int i);

#endif
