/* Quantized matrices, read and written: every format decodes to the CPU's bits, as reals and rounded to bf16, for whole matrices, for rows that begin anywhere and for
 * a matrix that ends inside of eight; products with few rows of reals and of bf16 straight from the codes; what the device encodes has the CPU's bits. */
#include "on_device.h"
#include "cuda/private.h"
#include "random_blocks.h"

/* A matrix in the format: encoded from normal numbers of size 0.02, with a block of zeros; formats that are only read: random blocks. */
static void fill(struct qmat *q, enum format format, bool twice, size_t rows, size_t cols)
{
    real *W = normals(rows * cols, 7, 0.02);
    for (size_t i = 64; i < 192 && i < rows * cols; i++)
        W[i] = 0;
    if (!format_info(format)->read_only) {
        encoded(q, format, twice, rows, cols, W);
        return;
    }
    quant_place(q, format, 0, twice, rows, cols, &host);
    random_blocks(format, q->codes, rows * cols, 3);
}

static size_t cols_of(enum format format, size_t cols)
{
    size_t multiple = (size_t)format_info(format)->row_multiple;
    return (cols + multiple - 1) / multiple * multiple;
}

static void decode(enum format format, bool twice, size_t rows, size_t cols)
{
    struct qmat q;
    cols = cols_of(format, cols);
    size_t n = rows * cols;
    fill(&q, format, twice, rows, cols);
    struct qmat Q = up_matrix(&q);
    real *want = zeros(n), *W = up_nan(n), *Y = up_nan(2 * cols), *row = zeros(2 * cols);
    uint16_t *halves = take(n * sizeof *halves), *H = (uint16_t *)(void *)up_nan(n / 2 + 1);
    int32_t tokens[2] = {(int32_t)rows - 1, (int32_t)(rows / 3)};
    quant_decode_rows(&q, 0, rows, want);
    for (size_t i = 0; i < n; i++)
        halves[i] = bf16_from_f32(want[i]);
    cuda_decode(card, &Q, 0, rows, W, false);
    same(format_info(format)->name, DOWN(W, n), want, n * sizeof *want);
    cuda_decode(card, &Q, 0, rows, H, true);
    same(format_info(format)->name, DOWN(H, n), halves, n * sizeof *halves);
    size_t row0 = rows > 8 ? 8 : 0; /* a slab behind the first */
    W = up_nan(n);
    cuda_decode(card, &Q, row0, rows - row0, W, false);
    same(format_info(format)->name, DOWN(W, n - row0 * cols), want + row0 * cols, (n - row0 * cols) * sizeof *want);
    gpu.ops->embed_forward(&gpu, &Q, UP(tokens, 2), 2, Y);
    memcpy(row, want + (size_t)tokens[0] * cols, cols * sizeof *row);
    memcpy(row + cols, want + (size_t)tokens[1] * cols, cols * sizeof *row);
    same(format_info(format)->name, DOWN(Y, 2 * cols), row, 2 * cols * sizeof *row);
}

static void every_format_decodes_to_the_cpus_bits(void **state)
{
    (void)state;
    for (int f = 0; f < FORMAT_COUNT; f++) {
        decode((enum format)f, false, 33, 576);
        decode((enum format)f, false, 11, 37);
        if (format_info((enum format)f)->double_quant)
            decode((enum format)f, true, 33, 576);
    }
}

/* Two rows a warp; a lane sums ceil(cols / 256) eights, then a tree: gamma(cols / 32 + 8 + 5).  x is what bf16 holds; a y that is an act is rounded once, which
 * costs 2^-8 of what was computed: of |y|, and of the sum's own error. */
static void gemv(enum compute compute, bool real_y, enum format format, size_t rows, size_t cols, size_t n)
{
    struct qmat q;
    cols = cols_of(format, cols);
    fill(&q, format, false, rows, cols);
    set_compute(compute);
    struct qmat Q = up_matrix(&q);
    bool rounded = act_in_halves(&gpu) && !real_y;
    real *x = compute == COMPUTE_F32 ? normals(n * cols, 9, 1) : normal_halves(n * cols, 9, 1), *W = zeros(rows * cols), *want = zeros(n * rows), *size = zeros(n * rows);
    real *Y = rounded ? up_nan_acts(n * rows) : up_nan(n * rows);
    double sums = gamma_of((double)cols / 32 + 13);
    quant_decode_rows(&q, 0, rows, W);
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < rows; o++) {
            double sum = 0, absolute = 0;
            for (size_t k = 0; k < cols; k++) {
                sum += (double)x[i * cols + k] * (double)W[o * cols + k];
                absolute += fabs((double)x[i * cols + k] * (double)W[o * cols + k]);
            }
            want[i * rows + o] = (real)sum;
            size[i * rows + o] = (real)absolute;
        }
    cuda_gemv(&gpu, &Q, up_acts(x, n * cols), n, Y, real_y);
    double store = rounded ? HALF_UNIT : 0;
    check(format_info(format)->name, rounded ? down_acts(Y, n * rows) : DOWN(Y, n * rows), want, size, (1 + store) * sums, 1 + store / UNIT, n * rows);
}

static void few_rows_meet_the_codes(void **state)
{
    (void)state;
    for (int f = 0; f < FORMAT_COUNT; f++) {
        gemv(COMPUTE_F32, true, (enum format)f, 33, 576, 1);
        gemv(COMPUTE_BF16, f % 2, (enum format)f, 33, 576, 1);
    }
    gemv(COMPUTE_F32, false, FORMAT_NF4, 64, 1024, 3);
    gemv(COMPUTE_BF16, false, FORMAT_NF4, 64, 1024, 3);
    gemv(COMPUTE_BF16, true, FORMAT_Q4_0, 17, 320, 4);
}

/* ---- encoding ---- */

/* Numbers that try a format: normal ones, a block of zeros, ties at midpoints, a block that f16 would make subnormal, one with negative zeros. */
static real *trying(size_t n)
{
    real *W = normals(n, 7, 0.02);
    for (size_t i = 0; i < n; i++) {
        size_t block = i / 128;
        W[i] = block == 1 ? 0 : block == 2 ? W[i] * 1e-6f : block == 3 ? (real)((int)(i % 17) - 8) / 8 : block == 4 ? -0.0f : W[i];
    }
    return W;
}

static void encode(enum format format, bool twice, bool f16_first, size_t rows, size_t cols)
{
    cols = cols_of(format, cols);
    real *W = trying(rows * cols);
    struct qmat want, got = place_matrix(format, 0, twice, rows, cols);
    quant_place(&want, format, 0, twice, rows, cols, &host);
    must(quant_encode(&want, W, f16_first, &on_device_err));
    must(device_encode(card, &got, UP(W, rows * cols), f16_first, &on_device_err));
    const char *name = format_info(format)->name;
    struct parts parts = parts_of(&want);
    same(name, DOWN((uint8_t *)got.codes, parts.codes), want.codes, parts.codes);
    if (want.affine)
        same(name, DOWN(got.affine, 2 * parts.blocks), want.affine, 4 * parts.blocks);
    if (want.scales)
        same(name, DOWN(got.scales, parts.blocks), want.scales, 4 * parts.blocks);
    if (!twice)
        return;
    same(name, DOWN(got.scale_codes, parts.blocks), want.scale_codes, parts.blocks);
    same(name, DOWN(got.nested_absmax, parts.nested), want.nested_absmax, 4 * parts.nested);
    assert_true(got.nested_offset == want.nested_offset);
}

static void codes_and_scales_are_the_cpus_bits(void **state)
{
    (void)state;
    static const enum format formats[] = {FORMAT_F32, FORMAT_F16, FORMAT_BF16, FORMAT_NF4, FORMAT_FP4, FORMAT_INT8, FORMAT_INT8_64, FORMAT_NF8, FORMAT_Q4_0, FORMAT_Q8_0,
                                          FORMAT_HQQ2, FORMAT_HQQ3, FORMAT_HQQ4};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        encode(formats[i], false, false, 33, 576);
        encode(formats[i], false, false, 27, 37); /* ends inside of a block, a byte, a group */
    }
    encode(FORMAT_NF4, true, false, 33, 576);
    encode(FORMAT_FP4, true, false, 27, 37);
    encode(FORMAT_INT8, false, true, 9, 96);
}

/* Errors above 0.17 are what HQQ shrinks: large weights. */
static void hqq_of_large_weights(void **state)
{
    (void)state;
    struct qmat want, got;
    real *W = normals(20 * 128, 3, 3);
    for (int f = FORMAT_HQQ2; f <= FORMAT_HQQ4; f++) {
        quant_place(&want, (enum format)f, 0, false, 20, 128, &host);
        got = place_matrix((enum format)f, 0, false, 20, 128);
        must(quant_encode(&want, W, false, &on_device_err));
        must(device_encode(card, &got, UP(W, 20 * 128), false, &on_device_err));
        same("scales and zeros", DOWN(got.affine, 40), want.affine, 80);
        same("codes", DOWN((uint8_t *)got.codes, 320), want.codes, 320);
    }
}

static void what_is_refused(void **state)
{
    (void)state;
    struct qmat q;
    struct err err;
    real *W = normals(2 * 64, 1, 1);
    q = place_matrix(FORMAT_IQ4_NL, 0, false, 2, 64);
    assert_int_equal(device_encode(card, &q, UP(W, 128), false, &err), ERR_INPUT);
    assert_string_equal(err.text, "iq4_nl is not encoded on a GPU, want device = cpu or another format");
    W[70] = 1e7f;
    q = place_matrix(FORMAT_Q4_0, 0, false, 2, 64);
    assert_int_equal(device_encode(card, &q, UP(W, 128), false, &err), ERR_FAILED);
    assert_string_equal(err.text, "elements [1, 0] to [1, 31] are too large for q4_0: f16 cannot hold what their block is scaled with");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(every_format_decodes_to_the_cpus_bits),
        ON_DEVICE(few_rows_meet_the_codes),
        ON_DEVICE(codes_and_scales_are_the_cpus_bits),
        ON_DEVICE(hqq_of_large_weights),
        ON_DEVICE(what_is_refused),
    };
    return cmocka_run_group_tests_name("quant_cuda", tests, NULL, NULL);
}
