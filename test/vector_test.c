/* The vector loops themselves, plain and of this machine: exponentials and angles over their whole range, sums of any length, dropout's masks, divergences; every
 * buffer ends at a page that may not be touched.  Bounds as in rounding.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/linalg.h"
#include "cpu/vector.h"
#include "half.h"
#include "ops.h"
#include "walled_reals.h"

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Every 1001st float of [-87.33, 88.72] within 2 ulp of exp in double. */
static void exp_sweep(const struct vector *v)
{
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t bits = 1; bits < 0x42b20000u; bits += 1001) {
            float x = float_of(bits | sign << 31);
            if (x < -87.33f || x > 88.72f)
                continue;
            real z[1] = {(real)x};
            v->exp_sum(z, 1, 0, 1);
            double want = exp((double)x), ulp = ldexp(1, ilogb(want) - 23);
            assert_true(fabs((double)z[0] - want) <= 2 * ulp);
        }
    real edge[5] = {-(real)INFINITY, (real)-104, (real)89, (real)INFINITY, (real)NAN};
    v->exp_sum(edge, 1, 0, 5);
    assert_true(edge[0] == 0 && edge[1] == 0 && isinf(edge[2]) && isinf(edge[3]) && isnan(edge[4]));
}

/* The sum is that of the exponentials returned: six levels of additions in runs of 64. */
static void exp_lengths(const struct vector *v)
{
    static const size_t lengths[] = {1, 7, 63, 64, 65, 172, 1023, 4403};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t n = lengths[i];
        real *z = normals(n, 1, 3);
        const real *x = copied(z, n, false);
        double sum = v->exp_sum(z, (real)0.7, (real)0.3, n), want = 0;
        for (size_t j = 0; j < n; j++) {
            real one[1] = {x[j]};
            v->exp_sum(one, (real)0.7, (real)0.3, 1);
            assert_true(z[j] == one[0]); /* wherever it stands in its row */
            want += (double)z[j];
        }
        assert_true(fabs(sum - want) <= gamma_of(6) * want);
        walls_down(&walls);
    }
}

/* Of rows whose probabilities span 60 orders of magnitude, of short ones and of long ones; equal rows give 0 exactly.  Roundings as in evaluate_text_test. */
static void divergence_lengths(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 7, 64, 65, 1000, 4403};
    enum { ROWS = 3 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t n = ROWS * lengths[i];
        real *p = normals(n, 12, 5), *q = normals(n, 12, 6);
        memcpy(q, p, lengths[i] * sizeof *q); /* row 0 */
        for (size_t j = 0; j < lengths[i]; j++)
            q[lengths[i] + j] = p[lengths[i] + j] + (real)0.01 * q[lengths[i] + j];
        real *p0 = copied(p, n, false), *q0 = copied(q, n, false);
        double kl[ROWS], jsd[ROWS], want_kl[ROWS], want_jsd[ROWS], lse[2 * ROWS], want_lse[2 * ROWS];
        struct ops_context c = {.threads = 2};
        cpu_ops(false)->divergence(&c, p, q, ROWS, lengths[i], kl, jsd, lse);
        cpu_ops(true)->divergence(&c, p0, q0, ROWS, lengths[i], want_kl, want_jsd, want_lse);
        assert_true(kl[0] == 0 && jsd[0] == 0);
        double most = 0; /* of |log P - log Q|: twice what the logits differ by */
        for (size_t j = 0; j < n; j++)
            most = fmax(most, 2 * fabs((double)p0[j] - (double)q0[j]));
        for (int row = 1; row < ROWS; row++) {
            assert_true(fabs(kl[row] - want_kl[row]) <= U * (60 + 12 * most));
            assert_true(fabs(jsd[row] - want_jsd[row]) <= U * (60 + 12 * most));
        }
        for (int row = 0; row < 2 * ROWS; row++) /* the sum of exponentials is within 8 roundings */
            assert_true(fabs(lse[row] - want_lse[row]) <= 9 * U * (1 + fabs(want_lse[row])));
        walls_down(&walls);
    }
}

static void sincos_sweep(const struct vector *v)
{
    float inv_freq[9] = {1, 0.7f, 0.3f, 0.1f, 0.03f, 0.001f, 1e-4f, 1e-5f, 0};
    for (int32_t position = 0; position < 131072; position += 13) {
        real sine[9], cosine[9];
        v->sincos(sine, cosine, position, inv_freq, 9);
        for (int j = 0; j < 9; j++) {
            double angle = (double)position * (double)inv_freq[j];
            assert_true(fabs((double)sine[j] - sin(angle)) <= U / 2 + 1e-12);
            assert_true(fabs((double)cosine[j] - cos(angle)) <= U / 2 + 1e-12);
        }
    }
}

/* The mask is rng_at's, wherever a run begins. */
static void dropout_sweep(const struct vector *v)
{
    for (uint64_t first = 0xfffffffa0u; first < 0xfffffffa0u + 40; first++) {
        struct vector_dropout d = {.seed = 0x123456789abcdefu, .index = first, .step = 77, .threshold = 1u << 30};
        size_t n = first % 3 == 0 ? 1271 : 71; /* more than is drawn at once, and not */
        real *x = normals(n, 1, 1), *y = zeros(n), *more = normals(n, 2, 1), *sum = zeros(n);
        uint32_t *mask = walled(&walls, mask_words(n) * sizeof *mask);
        v->draw_mask(mask, &d, n);
        v->apply_mask(y, x, mask, 0, 2, n, false);
        memcpy(sum, more, n * sizeof *sum);
        v->apply_mask(sum + 24, x, mask, 24, 2, n - 24, true); /* a tile that begins inside a word */
        for (size_t i = 0; i < n; i++) {
            bool kept = rng_at(d.seed, RNG_DROPOUT, d.step, first + i) >= d.threshold;
            assert_true(y[i] == (kept ? 2 * x[i] : 0));
            assert_true(i < 24 || sum[i] == more[i] + (kept ? 2 : 0) * x[i - 24]);
        }
        walls_down(&walls);
    }
}

/* Every f16 as a number and back; what lies between two, at their middle and beside it; what is too large, and what is none. */
static void halves_sweep(const struct vector *v)
{
    enum { ALL = 1 << 16 };
    uint16_t *halves = walled(&walls, ALL * sizeof *halves), *again = walled(&walls, ALL * sizeof *again);
    real *x = zeros(ALL);
    for (uint32_t h = 0; h < ALL; h++)
        halves[h] = (uint16_t)h;
    v->from_f16(x, halves, ALL);
    v->to_f16(again, x, ALL);
    for (uint32_t h = 0; h < ALL; h++) {
        bool negative = h >= 0x8000, infinite = (h & 0x7fff) == 0x7c00;
        uint32_t exponent = h >> 10 & 31, mantissa = h & 1023;
        double want = exponent ? ldexp(1024 + mantissa, (int)exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(x[h]) && (again[h] & 0x7fff) > 0x7c00);
            continue;
        }
        assert_true((double)x[h] == copysign(infinite ? INFINITY : want, negative ? -1 : 1) && (bool)signbit(x[h]) == negative);
        assert_int_equal(again[h], infinite ? (h & 0x8000) | 0x7bff : h);
    }
    enum { MIDDLES = 3 * 0x7bff };
    real *near = zeros(MIDDLES), *back = zeros(MIDDLES);
    for (uint32_t h = 0; h < 0x7bff; h++) { /* ascending */
        float middle = (float)(((double)x[h] + (double)x[h + 1]) / 2);
        near[3 * h] = middle;
        near[3 * h + 1] = nextafterf(middle, 0);
        near[3 * h + 2] = -nextafterf(middle, INFINITY);
    }
    for (size_t i = 0; i < MIDDLES; i += 31) { /* some by eights, some alone */
        size_t n = MIDDLES - i < 31 ? MIDDLES - i : 31;
        v->to_f16(again, near + i, n);
        v->from_f16(back + i, again, n);
    }
    for (size_t i = 0; i < MIDDLES; i++)
        assert_true((double)back[i] == half_of((double)near[i]));
    real large[9] = {65519, 65520, -65520, 1e30f, -1e30f, INFINITY, -(real)INFINITY, NAN, 65504}, small[9]; /* eight at once, one alone */
    v->to_f16(again, large, 9);
    v->from_f16(small, again, 9);
    for (int i = 0; i < 9; i++)
        assert_true(i == 7 ? isnan(small[i]) : small[i] == copysignf(65504, large[i]));
    walls_down(&walls);
}

static void test_vector(void **state)
{
    (void)state;
    const struct vector *tables[] = {&vector_plain, vector()};
    for (int t = 0; t < 2; t++) {
        exp_sweep(tables[t]);
        exp_lengths(tables[t]);
        sincos_sweep(tables[t]);
        dropout_sweep(tables[t]);
        halves_sweep(tables[t]);
    }
}

int main(void)
{
    linalg_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(divergence_lengths), cmocka_unit_test(test_vector)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
