/* Drawing a token (ops.h, sample_args): its weights against exp, shares of u against probabilities, cuts against their definition, this machine's table against the
 * reference, token by token; equal, infinite and odd logits; every buffer ends at a page that may not be touched. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/sample.h"
#include "walled_reals.h"

struct choice {
    double temperature;
    int32_t top_k;
    double top_p;
};

static int32_t draw(bool reference, int threads, const real *logits, size_t V, const struct choice *s, double u)
{
    struct ops_context c = {.ops = cpu_ops(reference), .threads = threads};
    struct walls own = {0};
    size_t room = c.ops == cpu_ops(true) ? ref_sample_shared(V) : fast_sample_shared(V);
    assert_true(room <= c.ops->scratch_size(&c, 1, 1, 1, 1, V));
    c.scratch = walled(&own, (room + 1) / 2 * 2 * sizeof *c.scratch);
    int32_t *token = walled(&own, sizeof *token);
    c.ops->sample(&c, &(struct sample_args){logits, V, s->temperature, s->top_k, s->top_p, u, token});
    int32_t drawn = *token;
    walls_down(&own);
    assert_true(drawn >= 0 && (size_t)drawn < V);
    return drawn;
}

static int32_t drawn(const real *logits, size_t V, const struct choice *s, double u)
{
    int32_t want = draw(true, 1, logits, V, s, u), got = draw(false, 1, logits, V, s, u);
    if (got != want)
        fail_msg("V %zu, temperature %g, top_k %d, top_p %g, u %.17g: token %d, want %d", V, s->temperature, s->top_k, s->top_p, u, got, want);
    return want;
}

/* ---- weights ---- */

/* 2^30 e^((z - most) / temperature).  y = (z - most) scale has three roundings, of the difference, of scale, of the product, each u = 2^-24 of it.  2^f: what is left of the series,
 * 1.2e-7; its last step rounds once, the steps and coefficients before act on 0.42 at most and on half as much each time: 4 u.  Adding one half rounds once more, and
 * one half is what a whole number may be off by. */
static void weights_are_exponentials(void **state)
{
    (void)state;
    static const double temperatures[] = {0.1, 0.8, 1, 7};
    static const real most[] = {0, 13, -100};
    for (int t = 0; t < 4; t++)
        for (int m = 0; m < 3; m++)
            for (int i = 0; i <= 20000; i++) {
                double T = temperatures[t];
                real z = (real)((double)most[m] - 24 * T * i / 20000);
                double y = ((double)most[m] - (double)z) / T / log(2), want = 0x1p30 * exp2(-y), u = 0x1p-24;
                double got = (double)sample_weight(z, most[m], sample_scale(T));
                if (y < 30.999 || y > 31.001) /* from 31 on: 0 */
                    assert_true(fabs(got - (y < 31 ? want : 0)) <= 0.5 + want * (1.2e-7 + 5 * u + 4 * y * log(2) * u));
            }
    assert_int_equal(sample_weight(3, 3, sample_scale(1e-320)), 1 << SAMPLE_BITS);
    assert_int_equal(sample_weight(2.5, 3, sample_scale(1e-320)), 0);
    assert_int_equal(sample_weight((real)NAN, 3, sample_scale(1)), 0);
    assert_int_equal(sample_weight(-(real)INFINITY, 3, sample_scale((double)INFINITY)), 0);
}

/* ---- distributions ---- */

/* Of N draws at u = 0, 1/N, 2/N ... each token has its share of them, less than one more or fewer; the tokens come in order. */
static void shares_of_u(const real *logits, size_t V, const struct choice *s, const double *probability)
{
    enum { N = 3000 };
    int *count = calloc(V, sizeof *count);
    int32_t before = 0;
    assert_non_null(count);
    for (int i = 0; i < N; i++) {
        int32_t token = drawn(logits, V, s, (double)i / N);
        assert_true(token >= before);
        before = token;
        count[token]++;
    }
    for (size_t v = 0; v < V; v++) {
        assert_true(fabs(count[v] - N * probability[v]) <= 1 + N * 1e-5); /* of a sum of weights, each within 1e-5 of its own */
        assert_true(probability[v] > 0 || count[v] == 0);
    }
    free(count);
}

struct ranked {
    double z;
    size_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->z != y->z ? (x->z > y->z ? -1 : 1) : x->id < y->id ? -1 : 1;
}

/* The definition, in doubles. */
static void probabilities(const real *logits, size_t V, const struct choice *s, double *p)
{
    struct ranked *r = calloc(V, sizeof *r);
    size_t n = s->top_k > 0 && (size_t)s->top_k < V ? (size_t)s->top_k : V, kept = 0;
    double all = 0, nucleus = 0;
    assert_non_null(r);
    for (size_t v = 0; v < V; v++)
        r[v] = (struct ranked){(double)logits[v], v};
    qsort(r, V, sizeof *r, by_rank);
    for (size_t i = 0; i < n; i++)
        all += exp((r[i].z - r[0].z) / s->temperature);
    while (kept < n && (kept == 0 || nucleus < s->top_p * all))
        nucleus += exp((r[kept++].z - r[0].z) / s->temperature);
    memset(p, 0, V * sizeof *p);
    for (size_t i = 0; i < kept; i++)
        p[r[i].id] = exp((r[i].z - r[0].z) / s->temperature) / nucleus;
    free(r);
}

static void distributions(void **state)
{
    (void)state;
    static const struct choice choices[] = {{1, 0, 1}, {0.7, 0, 1}, {0.8, 20, 1}, {0.8, 0, 0.9}, {0.8, 40, 0.95}, {2, 3, 0.5}, {1, 150, 1}, {1.5, 90, 0.8}};
    enum { V = 150 };
    double p[V];
    for (uint32_t c = 0; c < sizeof choices / sizeof *choices; c++) {
        const real *logits = normals(V, c + 1, 2);
        probabilities(logits, V, &choices[c], p);
        shares_of_u(logits, V, &choices[c], p);
        walls_down(&walls);
    }
}

/* ---- both tables ---- */

static const struct choice settings[] = {{0, 40, 0.95}, {0.8, 40, 0.95}, {0.8, 0, 1}, {0.8, 0, 0.95}, {1.3, 3, 1}, {0.8, 1000, 0.9}, {0.8, 20000, 0.99}, {1, 0, 1e-9}, {1e-3, 40, 0.9},
                                         {1e-320, 0, 1}, {50, 0, 0.9}, {2, 1, 0.3}, {1e300, 2, 1}, {0.8, 1 << 30, 0.99}, {0.8, -1, 2}, {0.8, 0, -1}, {(double)NAN, 3, 0.5}, {1, 2, (double)NAN}};
enum { SETTINGS = sizeof settings / sizeof *settings };

/* Blocks of 64 logits and groups of 16 at their ends; a row that rises, whose last are its largest. */
static void tables_agree(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 5, 16, 63, 64, 65, 97, 128, 3001, 4096, 49152};
    for (uint32_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int rising = 0; rising < 2; rising++) {
            size_t V = lengths[i];
            real *logits = normals(V, i, 3);
            for (size_t v = 0; rising && v < V; v++)
                logits[v] = (real)v * (real)0.01 + (real)0.001 * logits[v];
            for (int s = 0; s < SETTINGS; s++)
                for (int draws = V > 5000 ? 3 : 12, k = 0; k <= draws; k++)
                    drawn(logits, V, &settings[s], k < draws ? (double)k / draws : 1 - 0x1p-32);
            walls_down(&walls);
        }
}

static void threads_change_nothing(void **state)
{
    (void)state;
    enum { V = 3001 };
    const real *logits = normals(V, 1, 3);
    for (int s = 0; s < SETTINGS; s++)
        for (int k = 0; k < 5; k++)
            for (int reference = 0; reference < 2; reference++)
                assert_int_equal(draw(reference, 7, logits, V, &settings[s], k / 5.0), draw(reference, 1, logits, V, &settings[s], k / 5.0));
    walls_down(&walls);
}

/* ---- equal logits ---- */

/* Equal ones rank by id, and both zeros are equal: cuts keep the first of them. */
static void equal_logits_rank_by_id(void **state)
{
    (void)state;
    enum { V = 300 };
    real *logits = zeros(V);
    for (size_t v = 0; v < V; v += 2)
        logits[v] = -(real)0.;
    for (int k = 0; k < V; k += 7) {
        const struct choice all = {1, 0, 1}, first = {1, k + 1, 1}, share = {1, 0, k / (double)V}, none = {0, 0, 1};
        double u = 1 - 0x1p-32;
        assert_int_equal(drawn(logits, V, &all, (k + 0.5) / V), k);
        assert_int_equal(drawn(logits, V, &first, u), k);
        assert_int_equal(drawn(logits, V, &share, u), k == 0 ? 0 : k - 1 + (sample_target(share.top_p, (uint64_t)V << SAMPLE_BITS) > (uint64_t)k << SAMPLE_BITS));
        assert_int_equal(drawn(logits, V, &none, u), 0);
    }
    logits[200] = logits[270] = 1;
    assert_int_equal(drawn(logits, V, &(struct choice){0, 0, 1}, 0.5), 200);
    assert_int_equal(drawn(logits, V, &(struct choice){1, 1, 1}, 0.9), 200);
    assert_int_equal(drawn(logits, V, &(struct choice){1, 2, 1}, 0.9), 270);
    assert_int_equal(drawn(logits, V, &(struct choice){1, 4, 1}, 0), 0); /* of 0, 1, 200, 270 */
    assert_int_equal(drawn(logits, V, &(struct choice){1, 0, 1e-9}, 0.9), 200);
    walls_down(&walls);
}

/* Few values: cuts go through equal ones almost always. */
static void tables_agree_on_equal_logits(void **state)
{
    (void)state;
    for (uint32_t values = 1; values < 9; values++) {
        enum { V = 1500 };
        real *logits = zeros(V);
        for (uint32_t v = 0; v < V; v++)
            logits[v] = (real)(rng_at(7, RNG_DATA_ORDER, values, v) % values);
        for (int k = 1; k < V; k = 2 * k + 3)
            for (int i = 0; i < 9; i++) {
                drawn(logits, V, &(struct choice){1, k, 1}, i / 9.0);
                drawn(logits, V, &(struct choice){1, 0, k / (double)V}, i / 9.0);
                drawn(logits, V, &(struct choice){1, V - k, k / (double)V}, i / 9.0);
            }
        walls_down(&walls);
    }
}

/* ---- odd logits ---- */

/* What is no number counts as -infinity; an infinite largest logit wins, the first of them; where nothing is larger than -infinity, token 0. */
static void odd_logits(void **state)
{
    (void)state;
    enum { V = 80 };
    static const struct choice choices[] = {{0, 0, 1}, {1, 0, 1}, {1, 5, 0.9}, {1, 0, 0.5}};
    static const double us[] = {0, 0.5, 1 - 0x1p-32, 1, -1, (double)NAN, (double)INFINITY};
    const real inf = (real)INFINITY, nan = (real)NAN;
    real *logits = normals(V, 1, 1);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 7; i++) {
            double u = us[i];
            drawn(logits, V, &choices[c], u);
            for (int v = 0; v < V; v++)
                logits[v] = v % 2 ? nan : -inf;
            assert_int_equal(drawn(logits, V, &choices[c], u), 0);
            for (int v = 0; v < V; v++)
                logits[v] = nan;
            assert_int_equal(drawn(logits, V, &choices[c], u), 0);
            logits[70] = -3;
            assert_int_equal(drawn(logits, V, &choices[c], u), 70);
            logits[66] = logits[69] = inf;
            assert_int_equal(drawn(logits, V, &choices[c], u), 66);
            logits[66] = -inf;
            assert_int_equal(drawn(logits, V, &choices[c], u), 69);
            logits[69] = nan;
            logits[71] = (real)3.4e38, logits[72] = (real)-3.4e38;
            assert_int_equal(drawn(logits, V, &choices[c], u), 71);
            const real *again = normals(V, 1, 1);
            memcpy(logits, again, V * sizeof *logits);
        }
    walls_down(&walls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_exponentials), cmocka_unit_test(distributions),
        cmocka_unit_test(tables_agree),             cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(equal_logits_rank_by_id),  cmocka_unit_test(tables_agree_on_equal_logits),
        cmocka_unit_test(odd_logits),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
