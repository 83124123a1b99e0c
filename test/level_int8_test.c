/* level_int8_test.c: the products of every level in 8 bits (cpu/int8.h) against plain arithmetic in double, by derived bounds, on shapes around the tiles' edges
 * and in every format that has them. */
#include "level_matrix.h"

#include "cpu/int8.h"

/* What rounding one element of x, and one weight of column k in row o, may cost: half of 1/127 of the largest |x| of its 64 columns (the fast mode's
 * promise); of nf4 alone half of 1/112.03 of the block's largest weight.  The arithmetic of their scales: a few units more. */
static void int8_bound(const struct matrix *M, const float *x, size_t o, double *want, double *bound)
{
    size_t cols = M->q.cols;
    *want = *bound = 0;
    for (size_t k0 = 0; k0 < cols; k0 += INT8_RUN) {
        double largest = 0;
        for (size_t k = k0; k < size_min(cols, k0 + INT8_RUN); k++)
            largest = fmax(largest, fabs((double)x[k]));
        for (size_t k = k0; k < size_min(cols, k0 + INT8_RUN); k++) {
            float scale[PANEL_ROWS];
            double w = (double)M->value[o * cols + k], dx = largest / 254, dw = 0, xk = fabs((double)x[k]);
            quant_panel_scales(&M->q, o / PANEL_ROWS, k, scale, NULL);
            if (M->q.format == FORMAT_NF4)
                dw = 0.5 / 112.03 * (double)scale[o % PANEL_ROWS];
            *want += (double)x[k] * w;
            *bound += dx * (fabs(w) + dw) + xk * dw + gamma_of(cols / 16 + 16) * (xk + dx) * (fabs(w) + dw);
        }
    }
}

/* Columns [k0, k0 + k) of rows [row0, row0 + n) times m rows of x into C. */
static void int8_run(const struct int8_product *p, const struct matrix *M, const float *x, size_t m, size_t row0, size_t n, size_t k0, size_t k, float *C,
                     size_t ldc)
{
    struct walls walls = {0};
    size_t runs = int8_runs(k), cols = M->q.cols;
    int32_t *a = walled(&walls, runs * INT8_A * m * sizeof *a), *b = walled(&walls, runs * INT8_B * p->NR * sizeof *b);
    memset(a, 0x5a, runs * INT8_A * m * sizeof *a);
    memset(b, 0x5a, runs * INT8_B * p->NR * sizeof *b);
    p->pack(a, x + k0, cols, m, k);
    p->panel(b, &M->q, row0, n, k0, k);
    p->kernel(runs, a, b, C, ldc, m, n, quant_panel_run(&M->q) < INT8_RUN, k0 > 0);
    walls_down(&walls);
}

/* Each element within its bound, all of them within the goal of 1e-2 (relative, Frobenius). */
static void int8_matrix(const struct int8_product *p, const struct matrix *M)
{
    double error = 0, norm = 0;
    size_t rows = M->q.rows, cols = M->q.cols, cut = cols > 1000 ? 2048 : cols > 64 ? 64 : 0;
    struct walls walls = {0};
    float *x = normals(&walls, p->MR, cols, cols, 6);
    for (size_t j = 0; j < cols && cols > INT8_RUN; j += j < INT8_RUN ? 1 : INT8_RUN)
        x[cols + j] = 0; /* a run of zeros; an outlier elsewhere */
    x[cols - 1] = 40;
    for (size_t row0 = 0, m = 2; row0 < rows; row0 += p->NR, m = m % p->MR + 1) {
        size_t n = size_min(p->NR, rows - row0), ldc = p->NR + 3;
        float *C = poison(&walls, (m - 1) * ldc + n);
        if (cut > 0)
            int8_run(p, M, x, m, row0, n, 0, cut, C, ldc);
        int8_run(p, M, x, m, row0, n, cut, cols - cut, C, ldc);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < (i + 1 < m ? ldc : n); j++) {
                double want, bound, got = (double)C[i * ldc + j];
                if (j >= n) {
                    assert_true(isnan(got)); /* between the rows */
                    continue;
                }
                int8_bound(M, x + i * cols, row0 + j, &want, &bound);
                if (!(fabs(got - want) <= bound))
                    print_error("int8 of %s [%zu, %zu] m %zu: [%zu, %zu] is %g, want %g, bound %g\n", name_of(M), rows, cols, m, i, row0 + j, got, want, bound);
                assert_true(fabs(got - want) <= bound);
                error += i > 0 ? (got - want) * (got - want) : 0;
                norm += i > 0 ? want * want : 0;
            }
    }
    if (cols >= 352)
        assert_true(norm > 0 && sqrt(error) <= 1e-2 * sqrt(norm));
    walls_down(&walls);
}

static void test_int8(void **state)
{
    static const size_t panel_rows[] = {16, 48, 80, 224, 32}, panel_cols[] = {64, 96, 352, 576, 4448};
    const struct level *is = *state;
    if (!is->supported() || !is->int8)
        skip();
    for (int v = 0; v < VARIANTS; v++)
        for (int s = 0; s < 5; s++) {
            struct matrix M;
            size_t multiple = (size_t)format_info(variants[v].format)->row_multiple;
            if (!quant_has_panels(variants[v].format, 64, 16, 64))
                continue;
            matrix_open(&M, &variants[v], panel_rows[s], (panel_cols[s] + multiple - 1) / multiple * multiple, true);
            if (is->int8->has(&M.q))
                int8_matrix(is->int8, &M);
            else
                assert_true(variants[v].format != FORMAT_NF4 || variants[v].block > 64); /* what a fast mode is for */
            walls_down(&M.walls);
        }
}

int main(void)
{
    static const struct level_case cases[] = {{"int8", test_int8}};
    return run_levels(cases, sizeof cases / sizeof *cases);
}
