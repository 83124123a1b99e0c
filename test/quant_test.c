/* quant_test.c: number formats by hand: layouts pinned to bytes, zero blocks, refusals, error bounds, rows that begin inside a block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "base/rng.h"
#include "placed.h"
#include "quant_affine.h"
#include "random_blocks.h"

static void encode(struct placed *p, enum format format, int block, bool twice, size_t rows, size_t cols, const float *W)
{
    struct err err;
    place(p, format, block, twice, rows, cols);
    if (quant_encode(&p->q, W, false, &err) != OK)
        fail_msg("%s: %s", format_info(format)->name, err.text);
}

static float *normals(size_t n, uint32_t step, double size)
{
    struct rng rng = {.seed = 1, .stream = RNG_WORLD, .step = step};
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(size * rng_normal(&rng));
    return x;
}

static bool written(enum format format)
{
    return !format_info(format)->read_only;
}

/* ---- layouts, by hand ---- */

static void four_bits_put_the_first_element_high(void **state)
{
    (void)state;
    const float W[5] = {-2, 2, 0, 1, -2}; /* absmax 2: -1, 1, 0, 0.5, -1 */
    struct placed p;
    encode(&p, FORMAT_NF4, 0, false, 1, 5, W);
    const uint8_t *c = p.q.codes;
    assert_int_equal(c[0], 0x0f); /* -1 is code 0, 1 is code 15 */
    assert_int_equal(c[1], 0x7c); /* 0.5: between 0.4407 and 0.5626 the midpoint is 0.50166, so code 12 */
    assert_int_equal(c[2], 0x07); /* an odd end is filled with zero */
    assert_true(p.q.scales[0] == 2);
    arena_free(&p.arena);
    encode(&p, FORMAT_FP4, 0, false, 1, 5, W);
    c = p.q.codes;
    assert_int_equal(c[0], 0xb3); /* sign bit 8, magnitude 1 is 3 */
    assert_int_equal(c[1], 0x05); /* 0.5 is 5 */
    assert_int_equal(c[2], 0xb0);
    arena_free(&p.arena);
}

static void int8_rounds_half_to_even(void **state)
{
    (void)state;
    const float W[2][5] = {{127, 0.5f, 1.5f, 2.5f, -0.5f}, {-254, 1, 3, 253, 0}};
    const int8_t want[2][5] = {{127, 0, 2, 2, 0}, {-127, 0, 2, 126, 0}}; /* 126.5 to 126 */
    struct placed p;
    encode(&p, FORMAT_INT8, 0, false, 2, 5, W[0]);
    assert_memory_equal(p.q.codes, want, sizeof want);
    assert_true(p.q.scales[0] == 127 && p.q.scales[1] == 254);
    arena_free(&p.arena);
}

static void int8_64_has_a_scale_each_64(void **state)
{
    (void)state;
    float W[70] = {0}, out[70];
    W[3] = -127;
    W[4] = 64;
    W[69] = 1270;
    struct placed p;
    encode(&p, FORMAT_INT8_64, 0, false, 1, 70, W);
    const int8_t *c = p.q.codes;
    assert_true(c[3] == -127 && c[4] == 64 && c[69] == 127 && c[68] == 0);
    assert_true(p.q.scales[0] == 127 && p.q.scales[1] == 1270);
    quant_decode_rows(&p.q, 0, 1, out);
    assert_true(out[3] == -127 && out[4] == 64 && out[69] == 1270);
    arena_free(&p.arena);
}

/* q4_0 and q8_0 as quant_ggml.h draws them: q4_0 with d = -8 / -8 = 1, so codes are x + 8. */
static void ggml_blocks_as_drawn(void **state)
{
    (void)state;
    float W[32];
    for (int i = 0; i < 32; i++)
        W[i] = (float)(i % 16 - 8);
    W[0] = -8;
    W[16] = 7;
    struct placed p;
    encode(&p, FORMAT_Q4_0, 0, false, 1, 32, W);
    const uint8_t *c = p.q.codes;
    assert_true(c[0] == 0x00 && c[1] == 0x3c); /* 1.0 in f16, little-endian */
    assert_int_equal(c[2], 0xf0);              /* element 0 in the low nibble, element 16 in the high one */
    for (int j = 1; j < 16; j++)
        assert_int_equal(c[2 + j], j | j << 4);
    arena_free(&p.arena);
    W[5] = 127;
    encode(&p, FORMAT_Q8_0, 0, false, 1, 32, W);
    c = p.q.codes;
    assert_true(c[0] == 0x00 && c[1] == 0x3c);
    for (int j = 0; j < 32; j++)
        assert_int_equal((int8_t)c[2 + j], (int)W[j]);
    arena_free(&p.arena);
    W[5] = 23; /* from -8 to 23: d = 1, m = -8, codes x + 8 of 5 bits */
    encode(&p, FORMAT_Q5_1, 0, false, 1, 32, W);
    c = p.q.codes;
    assert_true(c[1] == 0x3c && c[2] == 0x00 && c[3] == 0xc8);
    assert_int_equal(c[4], 1 << 5); /* only element 5 needs the fifth bit: 31 */
    assert_int_equal(c[8 + 5] & 15, 15);
    arena_free(&p.arena);
}

/* ---- zeros ---- */

/* A zero block among others decodes to zeros in every format, also where its scale is itself quantized and does not come back as 0. */
static void zero_blocks_stay_zero(void **state)
{
    (void)state;
    enum { ROWS = 8, COLS = 64 };
    float *W = normals(ROWS * COLS, 3, 1), out[COLS];
    memset(W + 2 * COLS, 0, 2 * COLS * sizeof *W);
    for (int f = 0; f < FORMAT_COUNT; f++)
        for (int twice = 0; written((enum format)f) && twice <= format_info((enum format)f)->double_quant; twice++) {
            struct placed p;
            encode(&p, (enum format)f, 0, twice, ROWS, COLS, W);
            for (size_t r = 2; r < 4; r++) {
                quant_decode_rows(&p.q, r, 1, out);
                for (int c = 0; c < COLS; c++)
                    if (!(out[c] == 0))
                        fail_msg("%s: a zero became %g", format_info((enum format)f)->name, (double)out[c]);
            }
            const uint8_t *codes = p.q.codes;
            if (f == FORMAT_NF4)
                assert_int_equal(codes[2 * COLS / 2], 0x77);
            if (f == FORMAT_FP4)
                assert_int_equal(codes[2 * COLS / 2], 0x00);
            arena_free(&p.arena);
        }
    free(W);
}

/* Blocks so small that 1 / absmax or 127 / absmax overflows: no error above absmax, zeros stay, no undefined conversion (the sanitizer build sees it). */
static void tiny_blocks_do_no_harm(void **state)
{
    (void)state;
    static const float sizes[] = {1e-45f, 1e-42f, 2.9e-39f, 1e-38f, 3e-37f};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int f = 0; f < FORMAT_COUNT; f++) {
            if (!written((enum format)f))
                continue;
            float W[64], out[64];
            for (int i = 0; i < 64; i++)
                W[i] = (float)(i - 32) / 32 * sizes[s];
            struct placed p;
            encode(&p, (enum format)f, 0, false, 1, 64, W);
            quant_decode_rows(&p.q, 0, 1, out);
            for (int i = 0; i < 64; i++)
                if (!(fabsf(out[i] - W[i]) <= sizes[s]) || (W[i] == 0 && out[i] != 0))
                    fail_msg("%s: %g became %g", format_info((enum format)f)->name, (double)W[i], (double)out[i]);
            arena_free(&p.arena);
        }
}

/* ---- refusals ---- */

static void refused(enum format format, const float *W, const char *want)
{
    struct placed p;
    struct err err = {{0}};
    place(&p, format, 0, false, 2, 32);
    enum status status = quant_encode(&p.q, W, false, &err);
    if (status != ERR_FAILED || strcmp(err.text, want) != 0)
        fail_msg("%s: status %d, '%s', want '%s'", format_info(format)->name, (int)status, err.text, want);
    arena_free(&p.arena);
}

static void what_is_not_finite_is_named(void **state)
{
    (void)state;
    float W[64] = {0};
    for (int f = 0; f < FORMAT_COUNT; f++) {
        if (!written((enum format)f))
            continue;
        W[40] = NAN;
        refused((enum format)f, W, "element [1, 8] is NaN, want a finite number");
        W[40] = -INFINITY;
        refused((enum format)f, W, "element [1, 8] is infinite, want a finite number");
    }
}

static void what_would_become_infinite_is_named(void **state)
{
    (void)state;
    float W[64] = {0};
    W[33] = -65520;
    refused(FORMAT_F16, W, "element [1, 1] is -65520, want less than 65520 in magnitude, which f16 can hold");
    W[33] = 65519;
    struct placed p;
    encode(&p, FORMAT_F16, 0, false, 2, 32, W);
    arena_free(&p.arena);
    W[33] = 3.4e38f;
    refused(FORMAT_BF16, W, "element [1, 1] is 3.4e+38, want less than 3.39618e+38 in magnitude, which bf16 can hold");
    static const enum format ggml[] = {FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_Q5_0, FORMAT_Q5_1, FORMAT_Q8_0, FORMAT_IQ4_NL};
    for (int i = 0; i < 6; i++) {
        char want[160];
        snprintf(want, sizeof want, "elements [1, 0] to [1, 31] are too large for %s: f16 cannot hold the scale of their block",
                 format_info(ggml[i])->name);
        refused(ggml[i], W, want);
    }
}

static void names_and_shapes_are_checked(void **state)
{
    (void)state;
    enum format format;
    struct err err;
    for (int f = 0; f < FORMAT_COUNT; f++) {
        assert_int_equal(format_parse(format_info((enum format)f)->name, &format, &err), OK);
        assert_int_equal(format, f);
    }
    assert_int_equal(format_parse("nf5", &format, &err), ERR_INPUT);
    assert_string_equal(err.text, "unknown format 'nf5', the nearest known one is 'nf4'");
    assert_int_equal(quant_check(FORMAT_Q8_0, 0, 4, 48, &err), ERR_INPUT);
    assert_string_equal(err.text, "a matrix of 4 x 48 cannot be q8_0, which wants columns in multiples of 32");
    assert_int_equal(quant_check(FORMAT_NF4, 48, 4, 48, &err), ERR_INPUT);
    assert_string_equal(err.text, "block = 48 for nf4, want a power of two from 32 to 4096");
    assert_int_equal(quant_check(FORMAT_NF4, 8192, 4, 48, &err), ERR_INPUT);
    assert_int_equal(quant_check(FORMAT_INT8, 0, 0, 48, &err), ERR_INPUT);
    assert_int_equal(quant_check(FORMAT_NF4, 4096, 4, 47, &err), OK);
}

/* What has no encoder says so wherever it is asked to be one; its f16 numbers are looked at like the others'. */
static void superblocks_are_only_read(void **state)
{
    (void)state;
    float W[256] = {0}, out[256];
    for (int f = 0; f < FORMAT_COUNT; f++) {
        struct placed p;
        struct err err;
        char want[128];
        if (written((enum format)f))
            continue;
        snprintf(want, sizeof want, "%s is only read from GGUF files, want a format that can be written, such as q4_0, iq4_nl or q8_0",
                 format_info((enum format)f)->name);
        assert_int_equal(quant_check((enum format)f, 0, 4, 256, &err), ERR_INPUT);
        assert_string_equal(err.text, want);
        place(&p, (enum format)f, 0, false, 1, 256);
        assert_int_equal(quant_encode(&p.q, W, false, &err), ERR_INPUT);
        assert_string_equal(err.text, want);
        random_blocks((enum format)f, p.q.codes, 256, 0);
        assert_true(quant_is_finite(&p.q));
        for (int k = 0; k < 2 && quant_ggml_scale_at((enum format)f, k) >= 0; k++) {
            random_blocks((enum format)f, p.q.codes, 256, 0);
            uint8_t *high = (uint8_t *)p.q.codes + quant_ggml_scale_at((enum format)f, k) + 1;
            *high = (uint8_t)(*high | 0x7c);
            assert_false(quant_is_finite(&p.q));
            quant_decode_rows(&p.q, 0, 1, out);
            int bad = 0;
            for (int i = 0; i < 256; i++)
                bad += !isfinite(out[i]);
            assert_true(bad > 0); /* so that it was the number that counts */
        }
        arena_free(&p.arena);
    }
}

/* ---- sizes ---- */

static void bytes_by_hand(void **state)
{
    (void)state;
    /* 5 x 67 = 335 elements: 168 bytes of nibbles, 6 blocks of 64, 1 block of 256 scales and the offset */
    assert_int_equal(quant_bytes(FORMAT_NF4, 0, false, 5, 67), 168 + 6 * 4);
    assert_int_equal(quant_bytes(FORMAT_NF4, 0, true, 5, 67), 168 + 6 + 4 + 4);
    assert_int_equal(quant_bytes(FORMAT_FP4, 128, false, 5, 67), 168 + 3 * 4);
    assert_int_equal(quant_bytes(FORMAT_INT8, 0, false, 5, 67), 335 + 5 * 4);
    assert_int_equal(quant_bytes(FORMAT_INT8_64, 0, false, 5, 67), 335 + 6 * 4);
    assert_int_equal(quant_bytes(FORMAT_NF8, 0, false, 5, 67), 335 + 6 * 4);
    assert_int_equal(quant_bytes(FORMAT_F16, 0, false, 5, 67), 670);
    assert_int_equal(quant_bytes(FORMAT_Q4_0, 0, false, 5, 64), 10 * 18);
    assert_int_equal(quant_bytes(FORMAT_Q5_1, 0, false, 5, 64), 10 * 24);
    assert_int_equal(quant_bytes(FORMAT_Q8_0, 0, false, 5, 64), 10 * 34);
    assert_int_equal(quant_bytes(FORMAT_IQ4_NL, 0, false, 5, 64), 10 * 18);
    assert_int_equal(quant_bytes(FORMAT_Q4_K, 0, false, 5, 512), 10 * 144);
    assert_int_equal(quant_bytes(FORMAT_Q6_K, 0, false, 5, 512), 10 * 210);
    /* 335 elements: 670, 1005, 1340 bits; 3 groups of 128 with two f16 each */
    assert_int_equal(quant_bytes(FORMAT_HQQ2, 0, false, 5, 67), 84 + 3 * 4);
    assert_int_equal(quant_bytes(FORMAT_HQQ3, 0, false, 5, 67), 126 + 3 * 4);
    assert_int_equal(quant_bytes(FORMAT_HQQ4, 64, false, 5, 67), 168 + 3 * 4);
}

/* ---- errors ---- */

/* Largest distance of a number in [-1, 1] from its nearest entry: half the largest gap, or what is missing at an end. */
static double largest_distance(const float *table, size_t n)
{
    float sorted[256];
    memcpy(sorted, table, n * sizeof *table);
    qsort(sorted, n, sizeof *sorted, order_floats);
    double most = fmax((double)sorted[0] + 1, 1 - (double)sorted[n - 1]);
    for (size_t i = 0; i + 1 < n; i++)
        most = fmax(most, ((double)sorted[i + 1] - (double)sorted[i]) / 2);
    return most;
}

struct spread {
    double absmax, low, high;
};

static struct spread spread_of(const float *W, size_t n, size_t start, size_t block)
{
    struct spread s = {0, (double)W[start], (double)W[start]};
    for (size_t i = start; i < n && i < start + block; i++) {
        s.absmax = fmax(s.absmax, fabs((double)W[i]));
        s.low = fmin(s.low, (double)W[i]);
        s.high = fmax(s.high, (double)W[i]);
    }
    return s;
}

/* Half a step, or what is missing to the nearer end of the grid: HQQ gives up far elements for the many near ones. */
static double affine_bound(const struct qmat *q, double w, size_t group)
{
    double scale = (double)quant_affine_scale(q, group), zero = (double)quant_affine_zero(q, group);
    double low = -zero * scale, high = ((1 << quant_affine_bits(q->format)) - 1 - zero) * scale;
    return fmax(scale / 2, fmax(low - w, w - high));
}

/* Half the largest gap, 24 steps, or what is missing to the nearer end of -127 .. 113. */
static double iq4_bound(const struct qmat *q, double w, size_t i)
{
    double d = (double)quant_ggml_f16((const uint8_t *)q->codes + i / GGML_BLOCK * quant_ggml_bytes(FORMAT_IQ4_NL));
    double low = fmin(-127 * d, 113 * d), high = fmax(-127 * d, 113 * d);
    return fmax(12 * fabs(d), fmax(low - w, w - high));
}

/* How far element i may be from itself after encoding: half the largest gap of the format's grid times its scale, f16 scales wrong by
 * half a unit in the last place (2^-11 relative: 11 significant bits), and a few float roundings of what is decoded. */
static double error_bound(const struct qmat *q, const float *W, size_t i)
{
    const double f16 = 0x1p-11, eps = 0x1p-24;
    size_t n = q->rows * q->cols, block = q->format == FORMAT_INT8 ? q->cols : (size_t)q->block;
    struct spread s = block ? spread_of(W, n, i / block * block, block) : (struct spread){0, 0, 0};
    double rounding = 4 * eps * s.absmax, x = fabs((double)W[i]);
    switch (q->format) {
    case FORMAT_F32:
        return 0;
    case FORMAT_F16:
        return f16 * x + 0x1p-25;
    case FORMAT_BF16:
        return 0x1p-8 * x; /* 8 significant bits */
    case FORMAT_NF4:
        return largest_distance(quant_nf4_table, 16) * s.absmax + rounding;
    case FORMAT_FP4:
        return largest_distance(quant_fp4_table, 16) * s.absmax + rounding;
    case FORMAT_NF8:
        return largest_distance(quant_nf8_table(), 256) * s.absmax + rounding;
    case FORMAT_INT8:
    case FORMAT_INT8_64: /* an inexact 1 / absmax moves a code's edge by 127 eps of a step */
        return s.absmax / 127 * (0.5 + 3 * 127 * eps) + rounding;
    case FORMAT_Q8_0:
        return s.absmax / 127 * 0.5 + f16 * s.absmax + rounding;
    case FORMAT_Q4_0: /* codes end one step before the largest of the other sign: a whole step there, half a step elsewhere */
        return s.absmax / (x <= s.absmax * 7 / 8 ? 16 : 8) + f16 * s.absmax + rounding;
    case FORMAT_Q5_0:
        return s.absmax / (x <= s.absmax * 15 / 16 ? 32 : 16) + f16 * s.absmax + rounding;
    case FORMAT_Q4_1:
        return (s.high - s.low) / 15 / 2 + f16 * (s.high - s.low + fabs(s.low)) + rounding;
    case FORMAT_Q5_1:
        return (s.high - s.low) / 31 / 2 + f16 * (s.high - s.low + fabs(s.low)) + rounding;
    case FORMAT_IQ4_NL:
        return iq4_bound(q, (double)W[i], i) + f16 * 127 / 113 * s.absmax + rounding;
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return affine_bound(q, (double)W[i], i / AFFINE_GROUP) + rounding;
    default:
        return -1;
    }
}

/* Double quantization adds the error of the scale: the dynamic map's largest distance times the nested absmax. */
static double scale_error(const struct qmat *q, size_t i)
{
    if (!q->double_quant)
        return 0;
    double nested = (double)q->nested_absmax[i / (size_t)q->block / 256];
    return largest_distance(quant_dynamic_table(true), 256) * nested * (1 + 1e-6) + 1e-6 * fabs((double)q->nested_offset);
}

static void errors_are_bounded_by_the_grid(void **state)
{
    (void)state;
    enum { ROWS = 70, COLS = 96 };
    float *W = normals(ROWS * COLS, 5, 0.05), *out = malloc(ROWS * COLS * sizeof *out);
    W[100] = 3; /* an outlier */
    for (int f = 0; f < FORMAT_COUNT; f++)
        for (int twice = 0; written((enum format)f) && twice <= format_info((enum format)f)->double_quant; twice++) {
            struct placed p;
            double error = 0, norm = 0;
            encode(&p, (enum format)f, 0, twice, ROWS, COLS, W);
            quant_decode_rows(&p.q, 0, ROWS, out);
            for (size_t i = 0; i < ROWS * COLS; i++) {
                double d = fabs((double)out[i] - (double)W[i]), most = error_bound(&p.q, W, i) + scale_error(&p.q, i);
                if (!(d <= most))
                    fail_msg("%s: element %zu: %.9g became %.9g, off by %.3g, want at most %.3g", format_info((enum format)f)->name, i,
                             (double)W[i], (double)out[i], d, most);
                error += d * d;
                norm += (double)W[i] * (double)W[i];
            }
            assert_true(fabs(quant_error(&p.q, W) - error / norm) <= 1e-12 * (error / norm));
            arena_free(&p.arena);
        }
    free(W);
    free(out);
}

/* A block's largest element is an entry of these books, so encoding what was decoded changes nothing. */
static void books_are_fixed_points(void **state)
{
    (void)state;
    static const enum format formats[] = {FORMAT_NF4, FORMAT_FP4, FORMAT_NF8};
    float *W = normals(9 * 67, 6, 1), *out = malloc(9 * 67 * sizeof *out);
    for (int i = 0; i < 3; i++) {
        struct placed a, b;
        encode(&a, formats[i], 0, false, 9, 67, W);
        quant_decode_rows(&a.q, 0, 9, out);
        encode(&b, formats[i], 0, false, 9, 67, out);
        assert_memory_equal(a.q.scales, b.q.scales, (9 * 67 + 63) / 64 * sizeof(float));
        assert_memory_equal(a.q.codes, b.q.codes, formats[i] == FORMAT_NF8 ? 9 * 67 : (9 * 67 + 1) / 2);
        arena_free(&a.arena);
        arena_free(&b.arena);
    }
    free(W);
    free(out);
}

/* A folder holds ggml's formats as values (export_folder.c): encoded again they are the same blocks. */
static void blocks_are_fixed_points(void **state)
{
    (void)state;
    enum { ROWS = 400, COLS = 512 };
    static const enum format ggml[] = {FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_Q5_0, FORMAT_Q5_1, FORMAT_Q8_0, FORMAT_IQ4_NL};
    float *W = normals(ROWS * COLS, 6, 0.05), *out = malloc(ROWS * COLS * sizeof *out);
    for (size_t i = 0; i < ROWS * COLS; i += 1 + i % 97)
        W[i] *= 6; /* outliers */
    for (size_t i = 0; i < sizeof ggml / sizeof *ggml; i++) {
        struct placed a, b;
        encode(&a, ggml[i], 0, false, ROWS, COLS, W);
        quant_decode_rows(&a.q, 0, ROWS, out);
        encode(&b, ggml[i], 0, false, ROWS, COLS, out);
        size_t bytes = quant_ggml_bytes(ggml[i]), different = 0;
        for (size_t k = 0; k < ROWS * COLS / GGML_BLOCK; k++)
            different += memcmp((char *)a.q.codes + k * bytes, (char *)b.q.codes + k * bytes, bytes) != 0;
        if (different)
            fail_msg("%s: %zu of %d blocks changed", format_info(ggml[i])->name, different, ROWS * COLS / GGML_BLOCK);
        arena_free(&a.arena);
        arena_free(&b.arena);
    }
    free(W);
    free(out);
}

/* ---- rows ---- */

/* Any range of rows is the same numbers as in the whole matrix: rows that begin inside a byte, blocks that straddle rows, one row alone. */
static void rows_are_rows_of_the_whole(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {7, 1}, {5, 67}, {3, 63}, {3, 65}, {9, 33}, {2, 129}, {4, 64}, {3, 96}, {3, 512}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int f = 0; f < FORMAT_COUNT; f++)
            for (int twice = 0; twice <= format_info((enum format)f)->double_quant; twice++) {
                size_t rows = shapes[k][0], cols = shapes[k][1];
                struct placed p;
                if (cols % (size_t)format_info((enum format)f)->row_multiple != 0)
                    continue;
                float *W = normals(rows * cols, (uint32_t)k, 1), *whole = malloc(rows * cols * sizeof *whole);
                if (written((enum format)f)) {
                    encode(&p, (enum format)f, 0, twice, rows, cols, W);
                } else {
                    place(&p, (enum format)f, 0, false, rows, cols);
                    random_blocks((enum format)f, p.q.codes, rows * cols, (uint32_t)k);
                }
                quant_decode_rows(&p.q, 0, rows, whole);
                for (size_t row = 0; row < rows; row++)
                    for (size_t n = 1; row + n <= rows; n++) {
                        float *part = malloc(n * cols * sizeof *part); /* exactly, so that the sanitizer sees one too many */
                        quant_decode_rows(&p.q, row, n, part);
                        if (memcmp(part, whole + row * cols, n * cols * sizeof *part) != 0)
                            fail_msg("%s %zu x %zu: rows %zu to %zu differ", format_info((enum format)f)->name, rows, cols, row, row + n - 1);
                        free(part);
                    }
                arena_free(&p.arena);
                free(W);
                free(whole);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bits_put_the_first_element_high),
        cmocka_unit_test(int8_rounds_half_to_even),
        cmocka_unit_test(int8_64_has_a_scale_each_64),
        cmocka_unit_test(ggml_blocks_as_drawn),
        cmocka_unit_test(zero_blocks_stay_zero),
        cmocka_unit_test(tiny_blocks_do_no_harm),
        cmocka_unit_test(what_is_not_finite_is_named),
        cmocka_unit_test(what_would_become_infinite_is_named),
        cmocka_unit_test(names_and_shapes_are_checked),
        cmocka_unit_test(superblocks_are_only_read),
        cmocka_unit_test(bytes_by_hand),
        cmocka_unit_test(errors_are_bounded_by_the_grid),
        cmocka_unit_test(books_are_fixed_points),
        cmocka_unit_test(blocks_are_fixed_points),
        cmocka_unit_test(rows_are_rows_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
