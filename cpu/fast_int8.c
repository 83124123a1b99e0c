/* fast_int8.c: the loops around int8.h's kernels, like product's in gemm.c: W is unpacked, a tile of its rows at a time, into memory that stays in the
 * second-level cache, and multiplied with all rows of x.  A sum's order depends on the contraction's length alone. */
#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/int8.h"
#include "quant_panel.h"

enum { KC = 2048 /* columns of the contraction in a block */ };
_Static_assert(KC / INT8_RUN * INT8_B * (GEMM_COLUMNS + MICRO_NR_MOST) <= GEMM_SCRATCH, "a B tile fits a thread's packing buffers");

const struct int8_product *int8_of(const struct ops_context *c)
{
    return c->compute == COMPUTE_INT8 ? level()->int8 : NULL;
}

static size_t panels_of(const struct int8_product *p, size_t n)
{
    return (n + p->MR - 1) / p->MR;
}

void int8_pack(const struct int8_product *p, int32_t *packed, const real *x, size_t n, size_t k)
{
    size_t panels = panels_of(p, n);
    struct panels own = gemm_own(panels);
    for (size_t i = own.first; i < own.end; i++) {
        size_t r0 = n * i / panels, rows = n * (i + 1) / panels - r0;
        p->pack(packed + r0 * int8_runs(k) * INT8_A, x + r0 * k, k, rows, k);
    }
}

/* Columns [j0, j0 + count) of these panels of y. */
static void multiply_tile(const struct ops_context *c, const struct int8_product *p, const struct qmat *W, const int32_t *packed, size_t n, struct panels of,
                          size_t j0, size_t count, real *y, bool add)
{
    int32_t *b = (int32_t *)(void *)(cpu_scratch(c) + c->scratch_n - GEMM_SCRATCH);
    size_t out = W->rows, K = W->cols, panels = panels_of(p, n), all = int8_runs(K) * INT8_A;
    bool halves = quant_panel_run(W) < INT8_RUN;
    for (size_t k0 = 0; k0 < K; k0 += KC) {
        size_t k = size_min(KC, K - k0), runs = int8_runs(k), skip = k0 / INT8_RUN * INT8_A;
        for (size_t j = 0; j < count; j += p->NR)
            p->panel(b + j * runs * INT8_B, W, j0 + j, size_min(p->NR, count - j), k0, k);
        for (size_t j = 0; j < count; j += p->NR)
            for (size_t i = of.first; i < of.end; i++) {
                size_t r0 = n * i / panels, rows = n * (i + 1) / panels - r0;
                p->kernel(runs, packed + r0 * all + skip * rows, b + j * runs * INT8_B, y + r0 * out + j0 + j, out, rows, size_min(p->NR, count - j),
                          halves, add || k0 > 0);
            }
    }
}

void int8_multiply(const struct ops_context *c, const struct int8_product *p, const struct qmat *W, const int32_t *packed, size_t n, real *y, bool add)
{
    size_t size = gemm_tile_columns(c, p->NR, W->rows), panels = panels_of(p, n);
    if (gemm_by_rows(n)) {
        for (size_t j0 = 0; j0 < W->rows; j0 += GEMM_COLUMNS)
            multiply_tile(c, p, W, packed, n, gemm_own(panels), j0, size_min(GEMM_COLUMNS, W->rows - j0), y, add);
        return;
    }
#pragma omp for schedule(dynamic) nowait
    for (size_t j0 = 0; j0 < W->rows; j0 += size)
        multiply_tile(c, p, W, packed, n, (struct panels){0, panels}, j0, size_min(size, W->rows - j0), y, add);
}
