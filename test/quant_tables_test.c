/* quant_tables_test.c: the code books of the number formats, and floats of 16 bits: entries, ties, every one of them back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/rng.h"
#include "quant.h"

/* ---- code books ---- */

static void the_dynamic_map(void **state)
{
    (void)state;
    const float *t = quant_dynamic_table(true), *u = quant_dynamic_table(false);
    assert_true(t[126] < 0 && t[127] == 0 && t[128] > 0);
    assert_true(t[0] == -0.99296875f && t[254] == 0.99296875f && t[255] == 1); /* -1 is not there */
    assert_true(fabsf(t[128] - 5.5e-7f) <= 1e-13f);
    assert_true(u[0] == 0 && fabsf(u[1] - 3.25e-7f) <= 1e-13f && u[254] == 0.996484375f && u[255] == 1);
    for (int i = 0; i < 255; i++)
        assert_true(t[i] < t[i + 1] && u[i] < u[i + 1]);
}

/* The nearest entry by trying all; the lower one where two are as near. */
static int nearest(const float *table, float x)
{
    int best = 0;
    for (int i = 1; i < 256; i++)
        if (x > 0.5f * (table[i - 1] + table[i]))
            best = i;
    return best;
}

static void nearest_entries(void **state)
{
    (void)state;
    const float *tables[3] = {quant_nf8_table(), quant_dynamic_table(true), quant_dynamic_table(false)};
    struct rng rng = {.seed = 2, .stream = RNG_WORLD};
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 256; i++) {
            assert_int_equal(quant_nearest256(tables[t], tables[t][i]), i);
            float middle = i < 255 ? 0.5f * (tables[t][i] + tables[t][i + 1]) : 2;
            assert_int_equal(quant_nearest256(tables[t], middle), i); /* ties down */
            assert_int_equal(quant_nearest256(tables[t], nextafterf(middle, 3)), i < 255 ? i + 1 : 255);
        }
        for (int k = 0; k < 2000; k++) {
            float x = (float)(2 * rng_uniform(&rng) - 1);
            assert_int_equal(quant_nearest256(tables[t], x), nearest(tables[t], x));
        }
    }
}

/* ---- 16-bit floats ---- */

static void every_half_comes_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f32_from_f16((uint16_t)h), b = f32_from_bf16((uint16_t)h);
        if (!isnan(f))
            assert_int_equal(f16_from_f32(f), h);
        if (!isnan(b))
            assert_int_equal(bf16_from_f32(b), h);
        assert_true(isnan(f) == ((h & 0x7fff) > 0x7c00) && isnan(b) == ((h & 0x7fff) > 0x7f80));
    }
    assert_true(f32_from_f16(0x3555) == 0x1.554p-2f && f32_from_f16(0x0001) == 0x1p-24f && f32_from_f16(0x7bff) == 65504);
}

/* Between neighbours the nearer one wins, the even one half-way. */
static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h += 7) {
        float low = f32_from_f16((uint16_t)h), high = f32_from_f16((uint16_t)(h + 1)), middle = (low + high) / 2;
        assert_int_equal(f16_from_f32(middle), h % 2 ? h + 1 : h);
        assert_int_equal(f16_from_f32(nextafterf(middle, 0)), h);
        assert_int_equal(f16_from_f32(-nextafterf(middle, 1e6f)), (h + 1) | 0x8000);
    }
    for (uint32_t h = 0; h < 0x7f7f; h += 5) {
        float low = f32_from_bf16((uint16_t)h), high = f32_from_bf16((uint16_t)(h + 1)), middle = low + (high - low) / 2;
        assert_int_equal(bf16_from_f32(middle), h % 2 ? h + 1 : h);
        assert_int_equal(bf16_from_f32(nextafterf(middle, 0)), h);
        assert_int_equal(bf16_from_f32(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_true(isnan(f32_from_bf16(bf16_from_f32(NAN))) && isnan(f32_from_f16(f16_from_f32(-NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_dynamic_map),              cmocka_unit_test(nearest_entries),
        cmocka_unit_test(every_half_comes_back),        cmocka_unit_test(halves_round_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
