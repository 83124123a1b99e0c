/* The layout of panels: there and back gives the bytes of before, and decoding from panels gives the bits of decoding from the file's layout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "quant_panel.h"
#include "random_blocks.h"

static const enum format formats[] = {FORMAT_NF4, FORMAT_FP4, FORMAT_INT8, FORMAT_INT8_64, FORMAT_NF8, FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_Q8_0,
                                      FORMAT_HQQ2, FORMAT_HQQ3, FORMAT_HQQ4, FORMAT_Q5_0, FORMAT_Q5_1, FORMAT_IQ4_NL, FORMAT_IQ4_XS, FORMAT_Q2_K, FORMAT_Q3_K,
                                      FORMAT_Q4_K, FORMAT_Q5_K, FORMAT_Q6_K};
enum { FORMATS = sizeof formats / sizeof *formats };

static void fill(real *W, size_t n)
{
    struct rng rng = {.seed = 3, .stream = RNG_INIT};
    for (size_t i = 0; i < n; i++)
        W[i] = (real)rng_normal(&rng);
}

static void one(enum format format, bool double_quant, size_t rows, size_t cols)
{
    struct err err;
    struct arena arena = {0};
    struct qmat q;
    size_t n = rows * cols, bytes = quant_bytes(format, 0, double_quant, rows, cols);
    real *W = malloc(n * sizeof *W), *before = malloc(n * sizeof *W), *after = malloc(n * sizeof *W);
    fill(W, n);
    quant_place(&q, format, 0, double_quant, rows, cols, &arena);
    assert_int_equal(arena_commit(&arena, "W", &err), OK);
    quant_place(&q, format, 0, double_quant, rows, cols, &arena);
    if (format_info(format)->read_only)
        random_blocks(format, q.codes, n, 4);
    else
        assert_int_equal(quant_encode(&q, W, false, &err), OK);
    unsigned char *kept = malloc(arena.size);
    memcpy(kept, arena.base, arena.size);
    quant_decode_rows(&q, 0, rows, before);

    assert_true(quant_has_panels(format, q.block, rows, cols));
    assert_int_equal(quant_to_panels(&q, &err), OK);
    assert_int_equal(q.panels, 1);
    assert_memory_not_equal(kept, arena.base, bytes < arena.size ? bytes : arena.size); /* it did move */
    quant_decode_rows(&q, 0, rows, after);
    assert_memory_equal(before, after, n * sizeof *W);
    quant_decode_span(&q, rows - 1, 32, cols - 32, after);
    assert_memory_equal(before + (rows - 1) * cols + 32, after, (cols - 32) * sizeof *W);

    assert_int_equal(quant_from_panels(&q, &err), OK);
    assert_memory_equal(kept, arena.base, arena.size);
    arena_free(&arena);
    free(W), free(before), free(after), free(kept);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const size_t cols[] = {64, 96, 576, 352}; /* whole blocks of 64, and blocks that run over the ends of rows */
    for (int f = 0; f < FORMATS; f++)
        for (int c = 0; c < 4; c++)
            one(formats[f], false, 48, cols[c] * (format_info(formats[f])->read_only ? 8 : 1));
    one(FORMAT_NF4, true, 48, 576);
    one(FORMAT_FP4, true, 32, 96);
}

static void test_left_alone(void **state)
{
    (void)state;
    assert_false(quant_has_panels(FORMAT_NF4, 64, 17, 64));
    assert_false(quant_has_panels(FORMAT_INT8, 0, 16, 63));
    assert_false(quant_has_panels(FORMAT_F32, 0, 16, 64));
    assert_false(quant_has_panels(FORMAT_Q4_K, 0, 24, 256));
    assert_false(quant_has_panels(FORMAT_HQQ4, 128, 16, 72));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_left_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
