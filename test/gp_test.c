/* gp_test.c: what a search relies on: the gradient that the fit climbs is the slope of what it maximises, the fit recovers a function it is
 * shown, and no set of points, however degenerate, gives NaN or a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/rng.h"
#include "gp.h"

enum { MOST_POINTS = 40, MOST_DIMS = 32 };

struct data {
    double X[MOST_POINTS * MOST_DIMS], y[MOST_POINTS], noise[MOST_POINTS];
    size_t n, d;
};

static void fill(struct data *s, struct rng *rng, size_t n, size_t d)
{
    s->n = n;
    s->d = d;
    for (size_t i = 0; i < n * d; i++)
        s->X[i] = rng_uniform(rng);
    for (size_t i = 0; i < n; i++) {
        s->y[i] = 0.2 * rng_normal(rng);
        for (size_t k = 0; k < d; k++)
            s->y[i] += s->X[i * d + k] / (1 + (double)k);
        s->noise[i] = 0.04 * rng_uniform(rng);
    }
}

static const bool every_third[MOST_POINTS] = {true, false, false, true, false, false, true, false, false, true, false, false, true, false, false, true};

/* Central differences of step h err by h^2 f'''/6 + eps |f| / h: with h = 1e-5, |f| < 1e3 and third derivatives < 1e3 that is
 * 2e-8 + 1e-8; 1e-6 leaves room for the condition number (below 1e3 with this noise). */
static void gradient_is_the_slope(void **state)
{
    (void)state;
    static const size_t dims[] = {1, 2, 7, 32};
    struct rng rng = {.seed = 1, .stream = RNG_WORLD};
    for (size_t c = 0; c < 3 * (sizeof dims / sizeof *dims); c++) {
        struct data s;
        struct gp gp;
        struct err err;
        double theta[MOST_DIMS + 6], slope[MOST_DIMS + 6], ignored[MOST_DIMS + 6], h = 1e-5;
        size_t d = dims[c / 3];
        fill(&s, &rng, 17, d);
        assert_int_equal(gp_new(&gp, s.X, s.y, s.noise, s.n, d, &err), OK);
        gp.trend = c % 3 > 0;
        if (c % 3 == 2)
            assert_int_equal(gp_set_low(&gp, every_third, &err), OK);
        assert_int_equal(gp_parameters(&gp), d + (c % 3 == 2 ? 6 : 3));
        for (size_t i = 0; i < d; i++)
            theta[i] = -log((double)d) + rng_normal(&rng);
        theta[d] = 0.3;
        theta[d + 1] = -3.5;
        theta[d + 2] = -0.4;
        theta[d + 3] = 0.6;
        theta[d + 4] = -0.3;
        theta[d + 5] = -2.5;
        assert_true(isfinite(gp_log_posterior(&gp, theta, slope)));
        for (size_t i = 0; i < gp_parameters(&gp); i++) {
            double at = theta[i];
            theta[i] = at + h;
            double up = gp_log_posterior(&gp, theta, ignored);
            theta[i] = at - h;
            double down = gp_log_posterior(&gp, theta, ignored);
            theta[i] = at;
            assert_true(fabs((up - down) / (2 * h) - slope[i]) <= 1e-6 * (1 + fabs(slope[i])));
        }
        gp_free(&gp);
    }
}

/* y depends on the first three of twenty variables.  Predicting the mean would be wrong by the standard deviation of y; a fit that uses its
 * 40 points well is wrong by less than half of it, and says so: nine in ten errors lie within three of its own deviations. */
static void learns_and_knows_its_error(void **state)
{
    (void)state;
    enum { N = 40, D = 20, ASKED = 200 };
    struct rng rng = {.seed = 2, .stream = RNG_WORLD};
    struct data s = {.n = N, .d = D};
    struct gp gp;
    struct err err;
    double wrong = 0, spread = 0;
    int within = 0;
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < D; k++)
            s.X[i * D + k] = rng_below(&rng, 2);
        s.y[i] = 40 + 3 * s.X[i * D] + 2 * s.X[i * D + 1] + s.X[i * D + 2] + 0.1 * rng_normal(&rng);
        s.noise[i] = 0.01;
    }
    assert_int_equal(gp_new(&gp, s.X, s.y, s.noise, N, D, &err), OK);
    assert_int_equal(gp_fit(&gp, &err), OK);
    for (int q = 0; q < ASKED; q++) {
        double x[D], mean, variance;
        for (size_t k = 0; k < D; k++)
            x[k] = rng_below(&rng, 2);
        double truth = 40 + 3 * x[0] + 2 * x[1] + x[2];
        gp_predict(&gp, x, &mean, &variance);
        double error = gp.y_mean + gp.y_scale * mean - truth;
        wrong += error * error / ASKED;
        spread += (truth - 43) * (truth - 43) / ASKED;
        within += fabs(error) <= 3 * gp.y_scale * sqrt(variance);
    }
    assert_true(sqrt(wrong) < 0.5 * sqrt(spread));
    assert_true(within >= ASKED * 9 / 10);
    gp_free(&gp);
}

/* Below ten points nothing is fitted: the same lengths for any y. */
static void few_points_keep_the_defaults(void **state)
{
    (void)state;
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    struct data s;
    struct gp gp;
    struct err err;
    for (size_t n = 0; n < 10; n++) {
        fill(&s, &rng, n, 4);
        assert_int_equal(gp_new(&gp, s.X, s.y, s.noise, n, 4, &err), OK);
        assert_int_equal(gp_fit(&gp, &err), OK);
        double length = exp(sqrt(2) + 0.5 * log(4)), mean, variance, x[4] = {0.5, 0.5, 0.5, 0.5};
        for (size_t i = 0; i < 4; i++)
            assert_true(fabs(gp.w[i] * length * length - 1) <= 1e-12);
        gp_predict(&gp, x, &mean, &variance);
        assert_true(isfinite(mean) && variance >= 0 && variance <= gp.sf2); /* in the middle the linear part is 0 */
        gp_free(&gp);
    }
}

/* ---- two fidelities ---- */

/* x of A x = b, n <= 8, by Gauss and Jordan with pivots: nothing of linalg.h. */
static void solve(double A[8][8], double *b, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        size_t p = c;
        for (size_t r = c; r < n; r++)
            p = fabs(A[r][c]) > fabs(A[p][c]) ? r : p;
        for (size_t k = 0; k < n; k++) {
            double t = A[c][k];
            A[c][k] = A[p][k];
            A[p][k] = t;
        }
        double t = b[c];
        b[c] = b[p];
        b[p] = t;
        for (size_t r = 0; r < n; r++) {
            double q = r == c ? 0 : A[r][c] / A[c][c];
            for (size_t k = 0; k < n; k++)
                A[r][k] -= q * A[c][k];
            b[r] -= q * b[c];
        }
    }
    for (size_t r = 0; r < n; r++)
        b[r] /= A[r][r];
}

/* The kernel of one variable of length 1, without a linear part. */
static double matern(double x, double z)
{
    double r = sqrt(5) * fabs(x - z);
    return 1.3 * (1 + r + r * r / 3) * exp(-r);
}

/* As gp.h writes the model: the unknowns are g and e at eight places (the last is asked about) and o, all independent but for the kernel; a fidelity is a row of
 * weights over these 17. */
enum { PLACES = 8, UNKNOWNS = 2 * PLACES + 1 };

static void weights(size_t place, bool low, double c, double s, double *a)
{
    memset(a, 0, UNKNOWNS * sizeof *a);
    a[place] = low ? s : c;
    a[PLACES + place] = low ? 0 : sqrt(1 - c * c);
    a[2 * PLACES] = low;
}

static double together(const double *x, const double *a, const double *b)
{
    double sum = a[2 * PLACES] * b[2 * PLACES];
    for (size_t i = 0; i < PLACES; i++)
        for (size_t j = 0; j < PLACES; j++)
            sum += (a[i] * b[j] + a[PLACES + i] * b[PLACES + j]) * matern(x[i], x[j]);
    return sum;
}

/* Posterior of f and l at a place from seven points of both, two of them at one place, against the normal distribution of all unknowns written out.  Condition
 * below 1e3: 1e-16 * 1e3 * a few. */
static void two_fidelities_are_their_definition(void **state)
{
    (void)state;
    const double x[PLACES] = {0, 0.3, 0.35, 0.6, 0.9, 0.9, 1.4, 0.5}, y[7] = {0.2, -0.5, 0.9, 1.1, -0.3, 0.4, 0.7}, noise[7] = {0.1, 0, 0.2, 0.05, 0.1, 0.3, 0.1};
    const bool low[7] = {false, true, false, true, true, false, true};
    const double c = 0.83, s = 0.6, sn2 = 0.02, low_sn2 = 0.07;
    struct gp gp;
    struct err err;
    assert_int_equal(gp_new(&gp, x, y, noise, 7, 1, &err), OK);
    assert_int_equal(gp_set_low(&gp, low, &err), OK);
    gp.sf2 = 1.3;
    gp.sn2 = sn2;
    gp.correlation = c;
    gp.low_scale = s;
    gp.low_sn2 = low_sn2;
    assert_int_equal(gp_condition(&gp, &err), OK);
    double row[7][UNKNOWNS], f[UNKNOWNS], l[UNKNOWNS], K[8][8], solved[3][7], want[5] = {0}, mean, variance, low_variance, covariance;
    weights(7, false, c, s, f);
    weights(7, true, c, s, l);
    for (size_t i = 0; i < 7; i++)
        weights(i, low[i], c, s, row[i]);
    for (int k = 0; k < 3; k++) { /* K^-1 of y, cov(f, y), cov(l, y) */
        for (size_t i = 0; i < 7; i++) {
            for (size_t j = 0; j < 7; j++)
                K[i][j] = together(x, row[i], row[j]) + (i == j ? noise[i] + (low[i] ? low_sn2 : sn2) : 0);
            solved[k][i] = k == 0 ? y[i] : together(x, k == 1 ? f : l, row[i]);
        }
        solve(K, solved[k], 7);
    }
    want[1] = together(x, f, f);
    want[2] = together(x, l, l);
    want[3] = together(x, f, l);
    for (size_t i = 0; i < 7; i++) {
        want[0] += together(x, f, row[i]) * solved[0][i];
        want[1] -= together(x, f, row[i]) * solved[1][i];
        want[2] -= together(x, l, row[i]) * solved[2][i];
        want[3] -= together(x, l, row[i]) * solved[1][i];
    }
    gp_predict(&gp, &x[7], &mean, &variance);
    gp_predict_low(&gp, &x[7], &low_variance, &covariance);
    assert_true(fabs(mean - want[0]) <= 1e-12);
    assert_true(fabs(variance - want[1]) <= 1e-12);
    assert_true(fabs(low_variance - want[2]) <= 1e-12);
    assert_true(fabs(covariance - want[3]) <= 1e-12);
    gp_free(&gp);
}

/* Twelve points of a sum over eight variables, and 28 of another fidelity: half as wide and far below the same sum, or of a sum of its own. */
static double fit_beside(bool alike, bool use_low, double *correlation, struct rng *rng)
{
    enum { N = 40, FULL = 12, D = 8, ASKED = 100 };
    struct data s = {.n = N, .d = D};
    struct gp gp;
    struct err err;
    bool low[N];
    double wrong = 0, gain[D], other[D];
    for (size_t k = 0; k < D; k++) {
        gain[k] = rng_normal(rng);
        other[k] = alike ? gain[k] : rng_normal(rng);
    }
    for (size_t i = 0; i < N; i++) {
        low[i] = i >= FULL;
        s.y[i] = low[i] ? -30 : 0;
        for (size_t k = 0; k < D; k++) {
            s.X[i * D + k] = rng_below(rng, 2);
            s.y[i] += s.X[i * D + k] * (low[i] ? 0.5 * other[k] : gain[k]);
        }
        s.noise[i] = 1e-3;
        s.y[i] += sqrt(s.noise[i]) * rng_normal(rng);
    }
    assert_int_equal(gp_new(&gp, s.X, s.y, s.noise, use_low ? N : FULL, D, &err), OK);
    if (use_low)
        assert_int_equal(gp_set_low(&gp, low, &err), OK);
    assert_int_equal(gp_fit(&gp, &err), OK);
    for (int q = 0; q < ASKED; q++) {
        double x[D], mean, truth = 0;
        for (size_t k = 0; k < D; k++) {
            x[k] = rng_below(rng, 2);
            truth += gain[k] * x[k];
        }
        gp_predict(&gp, x, &mean, NULL);
        wrong += pow(gp.y_mean + gp.y_scale * mean - truth, 2) / ASKED;
    }
    *correlation = gp.correlation;
    gp_free(&gp);
    return sqrt(wrong);
}

/* One that goes the same way is believed and more than halves the error, summed over ten worlds; one of its own is not, and costs less than a tenth. */
static void learns_what_a_low_fidelity_is_worth(void **state)
{
    (void)state;
    double wrong[2] = {0}, alone[2] = {0}, mean[2] = {0};
    for (uint64_t seed = 1; seed <= 10; seed++)
        for (int own = 0; own < 2; own++) {
            struct rng rng = {.seed = seed, .stream = RNG_WORLD}, again = rng;
            double c, ignored;
            wrong[own] += fit_beside(!own, true, &c, &rng);
            alone[own] += fit_beside(!own, false, &ignored, &again);
            mean[own] += c / 10;
        }
    print_message("error with a low fidelity alike %.3f, without %.3f, correlation %.2f; of its own %.3f, without %.3f, %.2f\n", wrong[0], alone[0], mean[0], wrong[1],
                  alone[1], mean[1]);
    assert_true(wrong[0] < 0.5 * alone[0]);
    assert_true(wrong[1] < 1.1 * alone[1]);
    assert_true(mean[0] > 0.9 && mean[1] < 0.7);
}

static void same_data_same_bits(void **state)
{
    (void)state;
    struct rng rng = {.seed = 4, .stream = RNG_WORLD};
    struct data s;
    struct gp a, b;
    struct err err;
    fill(&s, &rng, 30, 12);
    assert_int_equal(gp_new(&a, s.X, s.y, s.noise, s.n, s.d, &err), OK);
    assert_int_equal(gp_new(&b, s.X, s.y, s.noise, s.n, s.d, &err), OK);
    assert_int_equal(gp_fit(&a, &err), OK);
    assert_int_equal(gp_fit(&b, &err), OK);
    assert_memory_equal(a.w, b.w, s.d * sizeof *a.w);
    assert_memory_equal(a.a, b.a, s.n * sizeof *a.a);
    gp_free(&a);
    gp_free(&b);
}

/* ---- degenerate sets ---- */

static void spoil(struct data *s, struct rng *rng, int how)
{
    static const double scale[] = {1e300, -1e300, 1e-300, 1e150, 1e-160, 1};
    size_t n = s->n, d = s->d;
    for (size_t i = 0; i < n; i++)
        s->y[i] *= how & 1 ? scale[rng_below(rng, 6)] : 1;
    if (how & 2) /* one score for all */
        for (size_t i = 0; i < n; i++)
            s->y[i] = s->y[0];
    if (how & 4) /* one point many times */
        for (size_t i = 0; i < n * d; i++)
            s->X[i] = s->X[i % d];
    if (how & 8) /* on a line */
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < d; k++)
                s->X[i * d + k] = (double)i / (double)n;
    if (how & 16)
        for (size_t i = 0; i < n * d; i++)
            s->X[i] *= scale[rng_below(rng, 6)];
    for (size_t i = 0; i < n; i++)
        if (how & 32)
            s->noise[i] = rng_below(rng, 2) ? 0 : how & 64 ? NAN : 1e300;
        else if (how & 64)
            s->noise[i] = how & 128 ? -1 : 0;
    if (how & 256)
        s->y[rng_below(rng, (uint32_t)n)] = how & 128 ? INFINITY : NAN;
}

static void nothing_breaks_it(void **state)
{
    (void)state;
    struct rng rng = {.seed = 5, .stream = RNG_WORLD};
    for (int c = 0; c < 10000; c++) {
        struct data s;
        struct gp gp;
        struct err err;
        double x[MOST_DIMS], mean, variance;
        /* mostly too few to be fitted, which is fast; one in eight goes through the optimiser */
        fill(&s, &rng, 1 + rng_below(&rng, c % 8 ? 9 : 20), 1 + rng_below(&rng, 8));
        spoil(&s, &rng, (int)rng_below(&rng, 512));
        assert_int_equal(gp_new(&gp, s.X, s.y, s.noise, s.n, s.d, &err), OK);
        if (c % 3 == 0)
            assert_int_equal(gp_set_low(&gp, every_third + c % 2, &err), OK); /* the first may be of either fidelity, and alone */
        if (gp_fit(&gp, &err) != OK)
            fail_msg("set %d: %s", c, err.text);
        for (int q = 0; q < 3; q++) {
            memcpy(x, s.X + (q ? 0 : rng_below(&rng, (uint32_t)s.n)) * s.d, s.d * sizeof *x);
            for (size_t k = 0; q && k < s.d; k++)
                x[k] = q == 1 ? rng_uniform(&rng) : 1e300;
            gp_predict(&gp, x, &mean, &variance);
            assert_true(isfinite(mean) && variance >= 0 && isfinite(variance));
            if (c % 3 == 0) {
                gp_predict_low(&gp, x, &variance, &mean);
                assert_true(isfinite(mean) && variance >= 0 && isfinite(variance));
            }
            assert_true(isfinite(gp.y_mean) && isfinite(gp.y_scale) && gp.y_scale > 0);
        }
        gp_free(&gp);
    }
}

static void features_must_be_numbers(void **state)
{
    (void)state;
    struct gp gp;
    struct err err;
    double X[] = {0, 1, 0.5, NAN}, y[] = {1, 2}, noise[] = {0, 0};
    assert_int_equal(gp_new(&gp, X, y, noise, 2, 2, &err), OK);
    assert_int_equal(gp_fit(&gp, &err), ERR_FAILED);
    assert_non_null(strstr(err.text, "feature 1 of point 1"));
    gp_free(&gp);
}

int main(void)
{
    linalg_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_is_the_slope),  cmocka_unit_test(learns_and_knows_its_error), cmocka_unit_test(few_points_keep_the_defaults),
        cmocka_unit_test(two_fidelities_are_their_definition), cmocka_unit_test(learns_what_a_low_fidelity_is_worth),
        cmocka_unit_test(same_data_same_bits),    cmocka_unit_test(nothing_breaks_it),          cmocka_unit_test(features_must_be_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
