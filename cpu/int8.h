/* int8.h: the labelled fast mode (COMPUTE_INT8): y = x W^T with x rounded to 8 bits, products summed by VPDPBUSD.  Private to cpu/.
 *
 * A level's third product beside micro.f32 and micro.bf16, for many rows and forward alone: x gets 8 bits and a scale for each row and run of 64
 * columns (rounded, symmetric), a weight the integer of its code or of its level; the sum over a run is exact, and
 *     y[i, o] = sum over runs of  x scale[i, run] * w scale[o, run] * sum_k x code[i, k] w code[o, k]      in fp32, runs ascending.
 * The weights are unsigned for the instruction, code + 128; what that adds, 128 sum_k x code, is taken off where the sum begins.
 *
 * Packed operands, in dwords; a last run that is shorter is filled with zeros.
 *     A panel: [runs][20][m]    scale; -128 sum of the run's codes, of its first 32, of its other 32; 16 dwords of four codes
 *     B panel: [runs][18][NR]   scales of the first 32 columns and of the others; 16 dwords of four unsigned codes */
#ifndef VENEER_CPU_INT8_H
#define VENEER_CPU_INT8_H
#include "cpu/level.h"
#include "ops.h"

enum { INT8_RUN = 64, INT8_A = 20, INT8_B = 18 };

static inline size_t int8_runs(size_t k)
{
    return (k + INT8_RUN - 1) / INT8_RUN;
}

struct int8_product {
    size_t MR, NR;
    /* Whether W has such a product: nf4 (blocks to 128), int8, int8_64, q4_0, q8_0 in panels, their scales for 32, 64, 128 ... columns or whole rows. */
    bool (*has)(const struct qmat *W);
    /* An A panel of x[m, k], rows ldx apart; m <= MR. */
    void (*pack)(int32_t *packed, const real *x, size_t ldx, size_t m, size_t k);
    /* A B panel: rows row0 .. row0+n-1 of W (n <= NR, multiples of 16), its columns k0 .. k0+k-1 (k0 a multiple of 64; k too but at the end of a row). */
    void (*panel)(int32_t *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k);
    /* C[m, n] = (or += when add) A B over `runs` runs; halves: W's scales are for 32 columns.  n a multiple of 16. */
    void (*kernel)(size_t runs, const int32_t *a, const int32_t *b, real *c, size_t ldc, size_t m, size_t n, bool halves, bool add);
};

/* fast_int8.c: all rows of x by all threads of a team.  The product of c's compute and level, NULL: none (use micro_of). */
const struct int8_product *int8_of(const struct ops_context *c);
/* Called by every thread of the team, which must meet before multiply reads what pack wrote.  packed: n * int8_runs(k) * INT8_A dwords. */
void int8_pack(const struct int8_product *p, int32_t *packed, const real *x, size_t n, size_t k);
/* y[n, W->rows] = (or += when add) the product. */
void int8_multiply(const struct ops_context *c, const struct int8_product *p, const struct qmat *W, const int32_t *packed, size_t n, real *y, bool add);

#endif
