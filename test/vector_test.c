/* The vector loops themselves, plain and of this machine: exponentials and angles over their whole range, sums of any length, dropout's masks, divergences, weights of tokens; every
 * buffer ends at a page that may not be touched.  Bounds as in rounding.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/linalg.h"
#include "cpu/sample.h"
#include "cpu/vector.h"
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

/* Weights of up to 64 logits, wherever they stand; those below a bound are dropped, and what is no number. */
static void weights_sweep(const struct vector *v)
{
    for (size_t n = 1; n <= 64; n++) {
        real *z = normals(n, (uint32_t)n, 5), most = v->largest(z, n), scale = sample_scale(0.7);
        z[n / 2] = n % 3 == 0 ? (real)NAN : n % 3 == 1 ? -(real)INFINITY : z[n / 2];
        uint32_t *w = walled(&walls, n * sizeof *w);
        uint64_t sum = v->weigh(w, z, most, scale, n), want = 0, kept = 0;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(w[i], sample_weight(z[i], most, scale));
            want += w[i];
            kept += z[i] >= z[0] ? w[i] : 0;
        }
        assert_true(sum == want);
        assert_true(v->drop_below(w, z, z[0], n) == kept);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(w[i], z[i] >= z[0] ? sample_weight(z[i], most, scale) : 0);
        for (size_t i = 0; i < n; i++)
            z[i] = most; /* the largest sum */
        assert_true(v->weigh(w, z, most, scale, n) == (uint64_t)n << SAMPLE_BITS);
        walls_down(&walls);
    }
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
        weights_sweep(tables[t]);
    }
}

int main(void)
{
    linalg_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(divergence_lengths), cmocka_unit_test(test_vector)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
