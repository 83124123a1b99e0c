/* quant_golden_test.c: stored bytes and decoded values as bitsandbytes and gguf compute them; exceptions as the golden folder's README. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "golden_tensors.h"
#include "placed.h"

static void shape_of(const struct st_tensor *t, size_t *rows, size_t *cols)
{
    *rows = t->n_dims == 2 ? (size_t)t->dim[0] : 1;
    *cols = (size_t)t->dim[t->n_dims - 1];
}

static float *floats(const struct safetensors *st, const struct st_tensor *t)
{
    assert_int_equal(t->dtype, ST_F32);
    return golden_bytes(st, t);
}

static int code_at(const uint8_t *codes, size_t i)
{
    return i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
}

/* bitsandbytes' CPU op works below absmax 1e-38 with a clamped scale and stores 1e-38 for a short block of zeros: those blocks are left out. */
static bool comparable(float absmax)
{
    return absmax == 0 || absmax > 1.1e-38f;
}

static void compare_nibbles(const struct qmat *q, const uint8_t *packed, const float *absmax, const float *dequant, const char *name)
{
    size_t n = q->rows * q->cols, block = (size_t)q->block;
    float *row = malloc(q->cols * sizeof *row);
    for (size_t i = 0; i < n; i++) {
        int got = code_at(q->codes, i), want = code_at(packed, i);
        if (q->format == FORMAT_FP4) { /* both zeros are zero */
            got = got == 8 ? 0 : got;
            want = want == 8 ? 0 : want;
        }
        if (comparable(absmax[i / block]) && got != want)
            fail_msg("%s: code %zu is %d, want %d", name, i, got, want);
    }
    for (size_t r = 0; r < q->rows; r++) {
        quant_decode_rows(q, r, 1, row);
        for (size_t c = 0; c < q->cols; c++) {
            size_t i = r * q->cols + c;
            if (comparable(absmax[i / block]) && row[c] != dequant[i])
                fail_msg("%s: value %zu is %.9g, want %.9g", name, i, (double)row[c], (double)dequant[i]);
        }
    }
    free(row);
}

/* Scale codes are the nearest entries.  The offset is a float32 mean, summed in another order there: an entry may differ by one where
 * (absmax - offset) / nested_absmax lies so near to the midpoint that 1e-6 of the offset decides. */
static void compare_scale_codes(const struct qmat *q, const uint8_t *want, const float *absmax, size_t blocks, const char *name)
{
    const float *table = quant_dynamic_table(true);
    for (size_t i = 0; i < blocks; i++) {
        int got = q->scale_codes[i], low = got < want[i] ? got : want[i];
        if (got == want[i])
            continue;
        float nested = q->nested_absmax[i / 256], x = (absmax[i] - q->nested_offset) / nested, middle = (table[low] + table[low + 1]) / 2;
        if (abs(got - want[i]) != 1 || !(fabsf(x - middle) <= 2e-6f * fabsf(q->nested_offset) / nested))
            fail_msg("%s: code of scale %zu is %d, want %d", name, i, got, want[i]);
    }
}

static float block_absmax(const float *W, size_t n, size_t block, size_t b)
{
    float most = 0;
    for (size_t i = b * block; i < n && i < (b + 1) * block; i++)
        most = fmaxf(most, fabsf(W[i]));
    return most;
}

/* The decoder follows the stored scales, so it is then given those. */
static void double_scales(struct qmat *q, const struct safetensors *st, int block, const char *input, const float *W, size_t blocks)
{
    uint8_t *codes = golden_bytes(st, golden_find(st, "b%d.%s.absmax_codes", block, input));
    uint8_t *nearest = golden_bytes(st, golden_find(st, "b%d.%s.absmax_codes_nearest", block, input));
    float *offset = floats(st, golden_find(st, "b%d.%s.offset", block, input));
    float *nested = floats(st, golden_find(st, "b%d.%s.nested_absmax", block, input)), *absmax = malloc(blocks * sizeof *absmax);
    for (size_t i = 0; i < blocks; i++)
        absmax[i] = block_absmax(W, q->rows * q->cols, (size_t)block, i);
    compare_scale_codes(q, nearest, absmax, blocks, input);
    assert_true(fabsf(q->nested_offset - *offset) <= 1e-6f * fabsf(*offset));
    for (size_t i = 0; i < (blocks + 255) / 256; i++) /* a difference from the offset: its error, and a rounding */
        assert_true(fabsf(q->nested_absmax[i] - nested[i]) <= 1e-6f * fabsf(*offset) + 1.2e-7f * nested[i]);
    memcpy(q->scale_codes, codes, blocks);
    memcpy(q->nested_absmax, nested, (blocks + 255) / 256 * sizeof *nested);
    q->nested_offset = *offset;
    free(codes);
    free(nearest);
    free(offset);
    free(nested);
    free(absmax);
}

/* Every "b{block}.{input}.packed" of a file. */
static void nibble_file(const char *file, enum format format, bool twice)
{
    struct safetensors st = {0}, inputs = {0};
    size_t cases = 0;
    golden_open(&inputs, "quant/inputs.safetensors");
    golden_open(&st, file);
    for (size_t k = 0; k < st.n; k++) {
        int block;
        char input[64];
        if (sscanf(st.tensor[k].name, "b%d.%63[^.].packed", &block, input) != 2 || !strstr(st.tensor[k].name, ".packed"))
            continue;
        const struct st_tensor *t = golden_find(&inputs, "%s", input);
        assert_non_null(t);
        size_t rows, cols;
        shape_of(t, &rows, &cols);
        float *W = floats(&inputs, t), *absmax = floats(&st, golden_find(&st, "b%d.%s.absmax", block, input));
        float *dequant = floats(&st, golden_find(&st, "b%d.%s.dequant", block, input));
        uint8_t *packed = golden_bytes(&st, &st.tensor[k]);
        struct placed p;
        struct err err;
        place(&p, format, block, twice, rows, cols);
        assert_int_equal(quant_encode(&p.q, W, false, &err), OK);
        size_t blocks = (rows * cols + (size_t)block - 1) / (size_t)block;
        if (twice)
            double_scales(&p.q, &st, block, input, W, blocks);
        for (size_t i = 0; !twice && i < blocks; i++)
            if (comparable(absmax[i]) && p.q.scales[i] != absmax[i])
                fail_msg("%s: absmax %zu is %.9g, want %.9g", st.tensor[k].name, i, (double)p.q.scales[i], (double)absmax[i]);
        compare_nibbles(&p.q, packed, absmax, dequant, st.tensor[k].name);
        arena_free(&p.arena);
        free(W);
        free(absmax);
        free(dequant);
        free(packed);
        cases++;
    }
    assert_true(cases > 0);
    safetensors_close(&st);
    safetensors_close(&inputs);
}

static void nf4(void **state)
{
    (void)state;
    nibble_file("quant/nf4.safetensors", FORMAT_NF4, false);
}

static void fp4(void **state)
{
    (void)state;
    nibble_file("quant/fp4.safetensors", FORMAT_FP4, false);
}

static void nf4_double(void **state)
{
    (void)state;
    nibble_file("quant/nf4_double.safetensors", FORMAT_NF4, true);
}

static void int8_rows(void **state)
{
    (void)state;
    struct safetensors st = {0};
    size_t cases = 0;
    golden_open(&st, "quant/int8.safetensors");
    for (size_t k = 0; k < st.n; k++) {
        char input[64];
        if (!strstr(st.tensor[k].name, ".input") || sscanf(st.tensor[k].name, "%63[^.].input", input) != 1)
            continue;
        float *W = floats(&st, &st.tensor[k]);
        size_t rows, cols;
        shape_of(&st.tensor[k], &rows, &cols);
        for (int half = 0; half < 2; half++, cases++) {
            const char *kind = half ? "f16" : "f32";
            int8_t *codes = golden_bytes(&st, golden_find(&st, "%s.%s.CB", input, kind));
            float *scales = floats(&st, golden_find(&st, "%s.%s.SCB", input, kind));
            float *dequant = floats(&st, golden_find(&st, "%s.%s.dequant", input, kind));
            struct placed p;
            struct err err;
            place(&p, FORMAT_INT8, 0, false, rows, cols);
            assert_int_equal(quant_encode(&p.q, W, half, &err), OK);
            assert_memory_equal(p.q.scales, scales, rows * sizeof *scales);
            assert_memory_equal(p.q.codes, codes, rows * cols);
            float *row = malloc(cols * sizeof *row);
            for (size_t r = 0; r < rows; r++) {
                quant_decode_rows(&p.q, r, 1, row);
                for (size_t c = 0; c < cols; c++) /* two roundings of a product of three */
                    assert_true(fabsf(row[c] - dequant[r * cols + c]) <= 1.2e-7f * fabsf(dequant[r * cols + c]));
            }
            free(row);
            free(codes);
            free(scales);
            free(dequant);
            arena_free(&p.arena);
        }
        free(W);
    }
    assert_true(cases > 0);
    safetensors_close(&st);
}

/* Every "{encode,decode}.{type}.raw" of a file: encoded to the same bytes, decoded to the same bits. */
static void ggml_file(const char *file)
{
    struct safetensors st = {0};
    size_t cases = 0;
    golden_open(&st, file);
    for (size_t k = 0; k < st.n; k++) {
        char side[16], type[16], lower[16];
        enum format format;
        struct err err;
        if (sscanf(st.tensor[k].name, "%15[^.].%15[^.].raw", side, type) != 2 || !strstr(st.tensor[k].name, ".raw"))
            continue;
        for (size_t i = 0; i <= strlen(type); i++)
            lower[i] = (char)(type[i] >= 'A' && type[i] <= 'Z' ? type[i] + 32 : type[i]);
        assert_int_equal(format_parse(lower, &format, &err), OK);
        const struct st_tensor *values = golden_find(&st, "%s.%s.dequant", side, type);
        size_t rows, cols;
        shape_of(values, &rows, &cols);
        uint8_t *raw = golden_bytes(&st, &st.tensor[k]);
        float *want = floats(&st, values), *got = malloc(rows * cols * sizeof *got);
        struct placed p;
        place(&p, format, 0, false, rows, cols);
        bool halves = format == FORMAT_F16 || format == FORMAT_BF16;
        if (strcmp(side, "encode") == 0 && !halves) {
            float *input = floats(&st, golden_find(&st, "input"));
            assert_int_equal(quant_encode(&p.q, input, false, &err), OK);
            if (memcmp(p.q.codes, raw, (size_t)st.tensor[k].bytes) != 0)
                fail_msg("%s: stored bytes differ", st.tensor[k].name);
            free(input);
        }
        memcpy(p.q.codes, raw, (size_t)st.tensor[k].bytes);
        quant_decode_rows(&p.q, 0, rows, got);
        for (size_t i = 0; i < rows * cols; i++)
            if (!(got[i] == want[i] || (isnan(got[i]) && isnan(want[i]))))
                fail_msg("%s: value %zu is %.9g, want %.9g", st.tensor[k].name, i, (double)got[i], (double)want[i]);
        arena_free(&p.arena);
        free(raw);
        free(want);
        free(got);
        cases++;
    }
    assert_true(cases > 0);
    safetensors_close(&st);
}

static void ggml(void **state)
{
    (void)state;
    ggml_file("quant/gguf.safetensors");
}

/* What ggml's own quantizers wrote. */
static void kquants(void **state)
{
    (void)state;
    char path[512];
    if (access(golden_path(path, "kquants/kquants.safetensors"), R_OK) != 0)
        skip(); /* another set of vectors need not have them */
    ggml_file("kquants/kquants.safetensors");
}

static void half_floats(void **state)
{
    (void)state;
    struct safetensors st = {0};
    golden_open(&st, "quant/gguf.safetensors");
    const struct st_tensor *t = golden_find(&st, "half_input");
    float *x = floats(&st, t);
    uint16_t *f16 = golden_bytes(&st, golden_find(&st, "encode.F16.raw")), *bf16 = golden_bytes(&st, golden_find(&st, "encode.BF16.raw"));
    for (size_t i = 0; i < t->elements; i++) {
        if (isnan(x[i])) { /* the payload is free */
            assert_true(isnan(f32_from_f16(f16_from_f32(x[i]))) && isnan(f32_from_bf16(bf16_from_f32(x[i]))));
            continue;
        }
        if (f16_from_f32(x[i]) != f16[i] || bf16_from_f32(x[i]) != bf16[i])
            fail_msg("%.9g: f16 %04x want %04x, bf16 %04x want %04x", (double)x[i], f16_from_f32(x[i]), f16[i], bf16_from_f32(x[i]), bf16[i]);
    }
    free(x);
    free(f16);
    free(bf16);
    safetensors_close(&st);
}

static void compare_table(const struct safetensors *st, const char *name, const float *table)
{
    const struct st_tensor *t = golden_find(st, "%s", name);
    float *want = floats(st, t);
    for (size_t i = 0; i < t->elements; i++)
        if (table[i] != want[i])
            fail_msg("%s[%zu] is %.9g, want %.9g", name, i, (double)table[i], (double)want[i]);
    free(want);
}

static void tables(void **state)
{
    (void)state;
    struct safetensors st = {0};
    golden_open(&st, "quant/tables.safetensors");
    compare_table(&st, "nf4", quant_nf4_table);
    compare_table(&st, "fp4", quant_fp4_table);
    compare_table(&st, "dynamic_signed", quant_dynamic_table(true));
    compare_table(&st, "dynamic_unsigned", quant_dynamic_table(false));
    safetensors_close(&st);
}

static void dynamic(void **state)
{
    (void)state;
    struct safetensors st = {0}, inputs = {0};
    size_t cases = 0;
    golden_open(&inputs, "quant/inputs.safetensors");
    golden_open(&st, "quant/dynamic8.safetensors");
    for (size_t k = 0; k < st.n; k++) {
        int block;
        char input[64];
        if (sscanf(st.tensor[k].name, "b%d.%63[^.].codes_nearest", &block, input) != 2 || !strstr(st.tensor[k].name, "codes_nearest"))
            continue;
        const struct st_tensor *t = golden_find(&inputs, "%s", input);
        float *x = floats(&inputs, t), *absmax = floats(&st, golden_find(&st, "b%d.%s.absmax", block, input));
        uint8_t *want = golden_bytes(&st, &st.tensor[k]);
        for (size_t i = 0; i < t->elements; i++) {
            float a = absmax[i / (size_t)block];
            if (a > 0 && quant_dynamic_code(x[i] * (1 / a), true) != want[i])
                fail_msg("%s: code %zu is %d, want %d", st.tensor[k].name, i, quant_dynamic_code(x[i] * (1 / a), true), want[i]);
        }
        free(x);
        free(absmax);
        free(want);
        cases++;
    }
    assert_true(cases > 0);
    safetensors_close(&st);
    safetensors_close(&inputs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nf4),  cmocka_unit_test(fp4),         cmocka_unit_test(nf4_double), cmocka_unit_test(int8_rows),
        cmocka_unit_test(ggml), cmocka_unit_test(kquants), cmocka_unit_test(half_floats), cmocka_unit_test(tables),     cmocka_unit_test(dynamic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
