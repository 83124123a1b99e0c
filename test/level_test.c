/* level_test.c: every slot of every level (cpu/level.h) that this machine has, but int8, against plain arithmetic in double, on shapes around the tiles'
 * edges and in every number format, in panels and as files lay it; every buffer ends at a page that may not be touched, so reading or writing past it
 * crashes.
 *
 * Bounds.  u = 2^-24.  A float sum of k products differs from the exact one by at most gamma(k) sum |x||w|, gamma(k) = k u / (1 - k u), in any order
 * (Higham 2002, (3.5)).  bf16 has 8 significant bits: rounding to it costs at most 2^-8 relative.  A product of two bf16 numbers is exact in
 * single precision, so a sum of them obeys the same gamma. */
#include "level_matrix.h"

static const double U_BF16 = 0x1p-8;
static const size_t shapes[] = {1, 7, 63, 64, 65, 172, 4403};
enum { SHAPES = 7, MICROS = 2 };

/* ---- packed operands ---- */

static size_t units_of(const struct micro *micro, size_t k)
{
    return (k + (size_t)micro->unit - 1) / (size_t)micro->unit;
}

/* Element k of column i of a panel. */
static float packed_at(const struct micro *micro, const float *packed, size_t width, size_t i, size_t k)
{
    if (micro->unit == 1)
        return packed[k * width + i];
    uint32_t pair;
    memcpy(&pair, packed + k / 2 * width + i, sizeof pair);
    return f32_from_bf16((uint16_t)(pair >> (k % 2 * 16)));
}

static void put_packed(const struct micro *micro, float *packed, size_t width, size_t i, size_t k, float value)
{
    if (micro->unit == 1) {
        packed[k * width + i] = value;
        return;
    }
    uint32_t pair;
    memcpy(&pair, packed + k / 2 * width + i, sizeof pair);
    pair = (pair & (k % 2 ? 0xffffu : 0xffff0000u)) | (uint32_t)bf16_from_f32(value) << (k % 2 * 16);
    memcpy(packed + k / 2 * width + i, &pair, sizeof pair);
}

static float rounded(const struct micro *micro, float x)
{
    return micro->unit == 1 ? x : f32_from_bf16(bf16_from_f32(x));
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* ---- pack, pack_t ---- */

static void pack_one(const struct micro *micro, bool transposed, size_t width, size_t m, size_t k)
{
    struct walls walls = {0};
    size_t rows = transposed ? k : m, cols = transposed ? m : k, ldx = cols + 3, units = units_of(micro, k);
    float *x = normals(&walls, rows, cols, ldx, 1), *packed = poison(&walls, units * width);
    (transposed ? micro->pack_t : micro->pack)(packed, width, x, ldx, m, k);
    for (size_t i = 0; i < width; i++)
        for (size_t j = 0; j < units * (size_t)micro->unit; j++) {
            float want = i < m && j < k ? rounded(micro, transposed ? x[j * ldx + i] : x[i * ldx + j]) : 0;
            float got = packed_at(micro, packed, width, i, j);
            if (!same(got, want))
                print_error("%s %s width %zu m %zu k %zu: [%zu, %zu] is %g, want %g\n", micro->name, transposed ? "pack_t" : "pack", width, m,
                            k, j, i, (double)got, (double)want);
            assert_true(same(got, want));
        }
    walls_down(&walls);
}

static void pack_micro(const struct micro *micro)
{
    size_t most = micro->MR > FEW_MOST ? (size_t)micro->MR : FEW_MOST, NR = (size_t)micro->NR;
    for (int s = 0; s < SHAPES; s++)
        for (int transposed = 0; transposed < 2; transposed++) {
            size_t k = shapes[s], step = k > 1000 ? 5 : 1;
            for (size_t m = 1; m <= most; m += step)
                pack_one(micro, transposed, m, m, k);
            for (size_t n = 1; n <= NR; n += step)
                pack_one(micro, transposed, NR, n, k);
            pack_one(micro, transposed, NR, NR, k);
        }
}

/* ---- kernel ---- */

struct product {
    size_t MR, NR, k;
    const float *A, *B; /* [k, MR], [k, NR] plain numbers */
    double *want, *size; /* [MR, NR] sums of products and of their magnitudes */
    float *chain;        /* the same as a chain of fma */
};

static void product_fill(struct product *p, struct walls *walls)
{
    size_t tile = p->MR * p->NR;
    p->want = walled(walls, tile * sizeof(double));
    p->size = walled(walls, tile * sizeof(double));
    p->chain = walled(walls, tile * sizeof(float));
    for (size_t k = 0; k < p->k; k++)
        for (size_t i = 0; i < p->MR; i++)
            for (size_t j = 0; j < p->NR; j++) {
                float a = p->A[k * p->MR + i], b = p->B[k * p->NR + j];
                p->want[i * p->NR + j] += (double)a * (double)b;
                p->size[i * p->NR + j] += fabs((double)a * (double)b);
                p->chain[i * p->NR + j] = fmaf(a, b, p->chain[i * p->NR + j]);
            }
}

static void kernel_check(const struct micro *micro, const struct product *p, size_t i, size_t j, float got, float before, bool add)
{
    double want = p->want[i * p->NR + j], size = p->size[i * p->NR + j];
    float chain = p->chain[i * p->NR + j];
    if (add)
        want += (double)before, size += fabs((double)before), chain = before + chain;
    bool near = fabs((double)got - want) <= gamma_of(p->k + 2) * size, equal = micro->unit == 2 || same(got, chain);
    if (!near || !equal)
        print_error("%s kernel k %zu [%zu, %zu]: %g, want %g (chain %g)\n", micro->name, p->k, i, j, (double)got, want, (double)chain);
    assert_true(near && equal);
}

static void kernel_one(const struct micro *micro, const struct product *p, const float *b, size_t m, size_t n, bool add)
{
    struct walls walls = {0};
    size_t units = units_of(micro, p->k), ldc = p->NR + 3, length = (m - 1) * ldc + n;
    float *a = walled(&walls, units * m * sizeof *a), *c = walled(&walls, length * sizeof *c);
    for (size_t k = 0; k < p->k; k++)
        for (size_t i = 0; i < m; i++)
            put_packed(micro, a, m, i, k, p->A[k * p->MR + i]);
    for (size_t i = 0; i < length; i++)
        c[i] = (float)i - 7;
    micro->kernel(units, a, b, c, ldc, m, n, add);
    for (size_t i = 0; i < length; i++) {
        if (i % ldc < n)
            kernel_check(micro, p, i / ldc, i % ldc, c[i], (float)i - 7, add);
        else
            assert_true(same(c[i], (float)i - 7)); /* between the rows */
    }
    walls_down(&walls);
}

static void kernel_micro(const struct micro *micro)
{
    for (int s = 0; s < SHAPES; s++) {
        struct walls walls = {0};
        struct product p = {.MR = (size_t)micro->MR, .NR = (size_t)micro->NR, .k = shapes[s]};
        float *A = normals(&walls, p.k, p.MR, p.MR, 2), *B = normals(&walls, p.k, p.NR, p.NR, 3);
        float *b = walled(&walls, units_of(micro, p.k) * p.NR * sizeof *b);
        for (size_t i = 0; i < p.k * p.MR; i++)
            A[i] = rounded(micro, A[i]);
        for (size_t i = 0; i < p.k * p.NR; i++) {
            B[i] = rounded(micro, B[i]);
            put_packed(micro, b, p.NR, i % p.NR, i / p.NR, B[i]);
        }
        p.A = A, p.B = B;
        product_fill(&p, &walls);
        for (size_t m = 1; m <= p.MR; m++)
            for (size_t n = 1; n <= p.NR; n += p.k > 100 && n + 1 < p.NR ? p.NR / 2 - 1 : 1)
                for (int add = 0; add < 2; add++)
                    kernel_one(micro, &p, b, m, n, add);
        walls_down(&walls);
    }
}

/* ---- every matrix ---- */

/* Calls `check` with every variant in shapes that suit it. */
static void each_matrix(const struct micro *micro, void (*check)(const struct micro *micro, const struct matrix *M))
{
    static const size_t panel_rows[] = {16, 48, 80, 160, 32}, panel_cols[] = {64, 96, 352, 576, 4448};
    static const size_t file_rows[] = {1, 7, 65, 48, 33}, file_cols[] = {1, 63, 172, 64, 4403};
    for (int v = 0; v < VARIANTS; v++) {
        const struct variant *is = &variants[v];
        struct matrix M;
        size_t multiple = (size_t)format_info(is->format)->row_multiple;
        for (int s = 0; s < 5 && quant_has_panels(is->format, 64, 16, 64); s++) {
            matrix_open(&M, is, panel_rows[s], (panel_cols[s] + multiple - 1) / multiple * multiple, true);
            check(micro, &M);
            walls_down(&M.walls);
        }
        for (int s = 0; s < 5; s++) {
            matrix_open(&M, is, file_rows[s], (file_cols[s] + multiple - 1) / multiple * multiple, false);
            check(micro, &M);
            walls_down(&M.walls);
        }
    }
}

/* ---- panel, panel_t ---- */

/* |got - want| is nothing in single precision, one rounding in bf16 (which a CPU may do with small numbers as zeros). */
static void panel_check(const struct micro *micro, const struct matrix *M, const float *packed, size_t j, size_t i, const char *what, float want)
{
    float got = packed_at(micro, packed, (size_t)micro->NR, j, i);
    bool good = micro->unit == 1 ? same(got, want) : fabs((double)got - (double)want) <= U_BF16 * (1 + 0x1p-14) * fabs((double)want) + 0x1p-126;
    if (!good)
        print_error("%s %s of %s%s [%zu, %zu] block %d: column %zu, k %zu: %g, want %g\n", micro->name, what, name_of(M),
                    M->q.panels ? " in panels" : "", M->q.rows, M->q.cols, M->q.block, j, i, (double)got, (double)want);
    assert_true(good);
}

static void panel_one(const struct micro *micro, const struct matrix *M, size_t row0, size_t n, size_t k0, size_t k)
{
    struct walls walls = {0};
    size_t NR = (size_t)micro->NR, units = units_of(micro, k), all = units * (size_t)micro->unit;
    float *packed = poison(&walls, units * NR);
    micro->panel(packed, &M->q, row0, n, k0, k);
    for (size_t i = 0; i < all; i++)
        for (size_t j = 0; j < NR; j++)
            panel_check(micro, M, packed, j, i, "panel", j < n && i < k ? M->value[(row0 + j) * M->q.cols + k0 + i] : 0);
    walls_down(&walls);
}

static void panel_t_one(const struct micro *micro, const struct matrix *M, size_t col0, size_t n, size_t row0, size_t k)
{
    struct walls walls = {0};
    size_t NR = (size_t)micro->NR, units = units_of(micro, k), all = units * (size_t)micro->unit;
    float *packed = poison(&walls, units * NR);
    micro->panel_t(packed, &M->q, col0, n, row0, k);
    for (size_t i = 0; i < all; i++)
        for (size_t j = 0; j < NR; j++)
            panel_check(micro, M, packed, j, i, "panel_t", j < n && i < k ? M->value[(row0 + i) * M->q.cols + col0 + j] : 0);
    walls_down(&walls);
}

static void panels_matrix(const struct micro *micro, const struct matrix *M)
{
    size_t NR = (size_t)micro->NR, rows = M->q.rows, cols = M->q.cols;
    for (size_t row0 = 0; row0 < rows; row0 += NR)
        for (size_t k0 = 0; k0 < cols; k0 += k0 + 640 < cols ? 640 : 64) {
            size_t n = size_min(NR, rows - row0), k = cols - k0;
            panel_one(micro, M, row0, n, k0, k);
            panel_one(micro, M, row0, 1, k0, size_min(k, 63));
            panel_one(micro, M, row0, n - n / 3, k0, size_min(k, 65));
        }
    for (size_t col0 = 0; col0 < cols; col0 += col0 + 10 * NR < cols ? 3 * NR : NR)
        for (size_t row0 = 0; row0 < rows; row0 += 64) {
            size_t n = size_min(NR, cols - col0), k = rows - row0;
            panel_t_one(micro, M, col0, n, row0, k);
            panel_t_one(micro, M, col0, 1, row0, size_min(k, 64));
            panel_t_one(micro, M, col0, n - n / 3, row0, size_min(k, 7));
        }
}

/* ---- few ---- */

/* y[i, o] is a sum of cols products and of the parts of its scale: a value times scale is rounded at most twice in `value`, twice more in the
 * kernel, and at most one rounding a column joins chains and runs: gamma(2 cols + 8).  In bf16 x is exact (it was rounded when packed), and a
 * table of levels may have been rounded: 2^-8; or x is multiplied in 16 bits of fixed point: off by half a unit of 2^-15 of the largest |x| near it, no
 * more than 2^-16 (1 + 2^-10) of the largest of all (the unit is 1/32767 of it, and rounded).
 * The other micro in fixed point (`fixed`): likewise, but of nf4 x has units of 1/8191 of the largest: 1/16382; and its levels units of 1/8192 of a scale
 * that is some |w| (the largest of its block): 2^-14 of it. */
static void few_check(const struct micro *micro, const struct matrix *M, const float *x, size_t o, float got)
{
    size_t cols = M->q.cols;
    double want = 0, size = 0, largest = 0, weights = 0, sum_x = 0;
    for (size_t k = 0; k < cols; k++) {
        double value = (double)rounded(micro, x[k]);
        want += value * (double)M->value[o * cols + k];
        size += fabs(value) * (double)M->large[o * cols + k];
        largest = fmax(largest, fabs(value));
        weights += (double)M->large[o * cols + k];
        sum_x += fabs(value);
    }
    double bound = gamma_of(2 * cols + 8) * size + 0x1p-120;
    if (micro->unit == 2)
        bound += U_BF16 * (1 + 0x1p-8) * size + 0x1p-16 * (1 + 0x1p-10) * largest * weights;
    if (micro->fixed && M->q.panels) {
        bool nf4 = M->q.format == FORMAT_NF4;
        bound += (nf4 ? 1.0 / 16382 : 0x1p-16) * (1 + 0x1p-9) * largest * weights + (nf4 ? 0x1p-14 * M->largest * sum_x : 0);
    }
    bool good = fabs((double)got - want) <= bound;
    if (!good)
        print_error("%s few of %s%s [%zu, %zu] block %d, row %zu: %g, want %g, bound %g\n", micro->name, name_of(M), M->q.panels ? " in panels" : "",
                    M->q.rows, cols, M->q.block, o, (double)got, want, bound);
    assert_true(good);
}

/* Rows row0 .. row0+n-1 of m vectors into y[m, n]; false when there is no such kernel. */
static bool few_run(const struct micro *micro, const struct matrix *M, const float *x, size_t row0, size_t n, size_t m, float *y)
{
    struct walls walls = {0};
    size_t cols = M->q.cols, ldy = n + 5;
    float *packed = poison(&walls, units_of(micro, cols) * m), *wide = poison(&walls, (m - 1) * ldy + n);
    micro->pack(packed, m, x, cols, m, cols);
    bool has = micro->few(&M->q, row0, n, packed, m, wide, ldy, n > 16 ? M->q.codes : NULL);
    for (size_t i = 0; has && i < m; i++) {
        memcpy(y + i * n, wide + i * ldy, n * sizeof *y);
        for (size_t j = n; i + 1 < m && j < ldy; j++)
            assert_true(isnan(wide[i * ldy + j])); /* between the rows */
    }
    walls_down(&walls);
    return has;
}

static void few_matrix(const struct micro *micro, const struct matrix *M)
{
    struct walls walls = {0};
    size_t rows = M->q.rows, cols = M->q.cols;
    float *x = normals(&walls, FEW_MOST, cols, cols, 5);
    float *alone = walled(&walls, FEW_MOST * rows * sizeof *alone), *y = walled(&walls, FEW_MOST * rows * sizeof *y);
    for (size_t i = 0; i < FEW_MOST; i++) {
        if (!few_run(micro, M, x + i * cols, 0, rows, 1, alone + i * rows)) {
            walls_down(&walls);
            return;
        }
        for (size_t o = 0; o < rows; o++)
            few_check(micro, M, x + i * cols, o, alone[i * rows + o]);
    }
    for (size_t m = 2; m <= FEW_MOST; m++) { /* the order of the sum knows neither m nor the other rows */
        size_t row0 = m % 2 && rows > 16 ? 16 : 0, n = m % 4 == 3 ? size_min(16, rows - row0) : rows - row0;
        assert_true(few_run(micro, M, x, row0, n, m, y));
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                assert_true(same(y[i * n + j], alone[i * rows + row0 + j]));
    }
    walls_down(&walls);
}

/* ---- levels ---- */

static void each_micro(void **state, void (*run)(const struct micro *micro))
{
    const struct level *is = *state;
    if (!is->supported())
        skip();
    const struct micro *micros[MICROS] = {is->f32, is->bf16};
    assert_non_null(is->f32);
    for (int i = 0; i < MICROS; i++)
        if (micros[i])
            run(micros[i]);
}

static void shape_micro(const struct micro *micro)
{
    assert_in_range(micro->MR, 1, MICRO_MR_MOST);
    assert_in_range(micro->NR, 4, MICRO_NR_MOST);
    assert_int_equal(micro->NR % 4, 0);
    assert_in_range(micro->unit, 1, 2);
}

static void panels_micro(const struct micro *micro)
{
    each_matrix(micro, panels_matrix);
}

static void few_micro(const struct micro *micro)
{
    if (micro->few)
        each_matrix(micro, few_matrix);
}

static void test_shape(void **state)
{
    each_micro(state, shape_micro);
}

static void test_pack(void **state)
{
    each_micro(state, pack_micro);
}

static void test_kernel(void **state)
{
    each_micro(state, kernel_micro);
}

static void test_panels(void **state)
{
    each_micro(state, panels_micro);
}

static void test_few(void **state)
{
    each_micro(state, few_micro);
}

int main(void)
{
    static const struct level_case cases[] = {{"shape", test_shape}, {"pack", test_pack}, {"kernel", test_kernel}, {"panels", test_panels}, {"few", test_few}};
    return run_levels(cases, sizeof cases / sizeof *cases);
}
