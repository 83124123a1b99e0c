/* mlp_test.c: the perceptron.  What a user would miss: a gradient that is wrong in one part, a surrogate no better than the mean of what it saw,
 * another proposal from the same archive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "mlp.h"
#include "refused.h"

static struct err err;

static double smooth(const double *x)
{
    return sin(2 * x[0]) + x[1] * x[2] - 0.5 * x[3];
}

/* Targets far from 0 beside their spread. */
static void draw(uint64_t seed, size_t n, size_t d, double *X, double *y)
{
    struct rng rng = {.seed = seed, .stream = RNG_WORLD};
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < d; k++)
            X[i * d + k] = 2 * rng_uniform(&rng) - 1;
        y[i] = 50 + 1e-3 * smooth(X + i * d);
    }
}

/* Central differences with h = 1e-5 and a loss of order 1: truncation h^2 f''' ~ 1e-10 times third derivatives of order 10, rounding eps / h ~ 2e-11.
 * RELU has no third derivative but a kink, which no unit sits within h of here. */
static void gradient_is_right(void **state)
{
    (void)state;
    enum { N = 7, D = 4 };
    double X[N * D], y[N];
    struct rng rng = {.seed = 3, .stream = RNG_SAMPLE};
    draw(1, N, D, X, y);
    for (int kind = MLP_GELU; kind <= MLP_RELU; kind++) {
        struct mlp_options options = mlp_defaults;
        struct mlp mlp;
        options.hidden1 = 5;
        options.hidden2 = 3;
        options.activation = (enum mlp_activation)kind;
        options.penalty = 0.1;
        options.epochs = 0;
        assert_int_equal(mlp_fit(&mlp, X, y, N, D, &options, &err), OK);
        assert_int_equal(mlp.n_theta, 4 * 5 + 5 + 5 * 3 + 3 + 3 + 1);
        double *gradient = malloc(mlp.n_theta * sizeof *gradient), t[N], h = 1e-5;
        assert_non_null(gradient);
        for (size_t i = 0; i < mlp.n_theta; i++) /* output weights begin at 0 and would hide what lies below them */
            mlp.theta[i] += 0.3 * rng_normal(&rng);
        for (size_t i = 0; i < N; i++)
            t[i] = 2 * rng_normal(&rng); /* some errors are beyond 1, in the straight part of the loss */
        mlp_loss(&mlp, X, t, N, gradient);
        for (size_t i = 0; i < mlp.n_theta; i++) {
            double keep = mlp.theta[i];
            mlp.theta[i] = keep + h;
            double up = mlp_loss(&mlp, X, t, N, NULL);
            mlp.theta[i] = keep - h;
            double down = mlp_loss(&mlp, X, t, N, NULL);
            mlp.theta[i] = keep;
            assert_true(fabs((up - down) / (2 * h) - gradient[i]) <= 1e-8);
        }
        free(gradient);
        mlp_free(&mlp);
    }
}

/* Squared error on points it has not seen, as a share of the variance: what the mean of the targets would leave is 1. */
static double unexplained(size_t n, uint64_t seed, const struct mlp_options *options)
{
    enum { D = 4, SEEN = 200, NEW = 200 };
    static double X[(SEEN + NEW) * D], y[SEEN + NEW];
    double error = 0, variance = 0, mean = 0;
    struct mlp mlp;
    draw(seed, SEEN + NEW, D, X, y);
    assert_int_equal(mlp_fit(&mlp, X, y, n, D, options, &err), OK);
    for (size_t i = 0; i < n; i++)
        mean += y[i] / (double)n;
    for (size_t i = SEEN; i < SEEN + NEW; i++) {
        double e = mlp_predict(&mlp, X + i * D) - y[i];
        error += e * e;
        variance += (y[i] - mean) * (y[i] - mean);
    }
    mlp_free(&mlp);
    return error / variance;
}

/* var sin(2 x) = 0.595, var (x1 x2) = 1/9, var (x3 / 2) = 1/12; the best linear function explains cov(x, sin 2x)^2 / var x = 0.569 of the first and all of
 * the last and leaves 0.174 of the whole, so 200 points must show what is bent; from 40 there must be more to learn than the mean. */
static void learns(void **state)
{
    (void)state;
    double many = 0, few = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        many += unexplained(200, seed, NULL) / 4;
        few += unexplained(40, seed, NULL) / 4;
    }
    print_message("variance left: %.3f with 200 points, %.3f with 40\n", many, few);
    assert_true(many <= 0.174);
    assert_true(few <= 0.5);
    struct mlp_options relu = mlp_defaults;
    relu.activation = MLP_RELU;
    assert_true(unexplained(200, 1, &relu) <= 0.174);
}

static void same_bits(void **state)
{
    (void)state;
    enum { N = 30, D = 4 };
    double X[N * D], y[N];
    struct mlp a, b;
    struct mlp_options other = mlp_defaults;
    draw(2, N, D, X, y);
    assert_int_equal(mlp_fit(&a, X, y, N, D, NULL, &err), OK);
    assert_int_equal(mlp_fit(&b, X, y, N, D, &mlp_defaults, &err), OK);
    assert_memory_equal(a.theta, b.theta, a.n_theta * sizeof *a.theta);
    mlp_free(&b);
    other.seed = 1;
    assert_int_equal(mlp_fit(&b, X, y, N, D, &other, &err), OK);
    assert_memory_not_equal(a.theta, b.theta, a.n_theta * sizeof *a.theta);
    mlp_free(&a);
    mlp_free(&b);
}

static void few_points_and_equal_targets(void **state)
{
    (void)state;
    static const double X[] = {1, 2, 3, 2, 5, 3, 3, 1, 3, 4, 4, 3}, y[] = {0.5, 0.5, 0.5, 0.5}, up[] = {1e300, 2e300, -1e300, 3e300};
    const double far[] = {9, 9, 9};
    struct mlp mlp;
    for (size_t n = 0; n <= 4; n++) {
        assert_int_equal(mlp_fit(&mlp, X, y, n, 3, NULL, &err), OK);
        assert_true(mlp_predict(&mlp, far) == (n ? 0.5 : 0));
        mlp_free(&mlp);
    }
    /* n < 5: nobody is held out; a feature that never varied changes nothing; targets whose squares do not fit in a double */
    const double one[] = {1, 2, 3}, same[] = {1, 2, 70};
    assert_int_equal(mlp_fit(&mlp, X, up, 4, 3, NULL, &err), OK);
    assert_true(mlp_predict(&mlp, one) == mlp_predict(&mlp, same));
    assert_true(fabs(mlp_predict(&mlp, one) - 1e300) < 1e300); /* nearer to its target than a deviation (1.5e300) */
    mlp_free(&mlp);
    assert_int_equal(mlp_fit(&mlp, X, up, 4, 0, NULL, &err), OK); /* no features: the mean, nearly */
    assert_true(fabs(mlp_predict(&mlp, X) - 1.25e300) < 1e300);
    mlp_free(&mlp);
}

static void refuses_what_is_no_number(void **state)
{
    (void)state;
    double X[] = {1, 2, 3, NAN}, y[] = {1, 2};
    struct mlp mlp;
    assert_refused(mlp_fit(&mlp, X, y, 2, 2, NULL, &err), ERR_FAILED, &err, "", "feature 1 of point 1 of a perceptron is nan, want a number");
    mlp_free(&mlp);
    X[3] = 4;
    y[1] = INFINITY;
    assert_refused(mlp_fit(&mlp, X, y, 2, 2, NULL, &err), ERR_FAILED, &err, "", "target 1 of a perceptron is inf, want a number");
    mlp_free(&mlp);
}

/* The held-out points end the training: with targets that no feature explains it stops long before its last epoch, near the mean. */
static void stops_before_it_learns_noise(void **state)
{
    (void)state;
    enum { N = 40, D = 10 };
    double X[N * D], y[N], left = 0, patient = 0;
    struct rng rng = {.seed = 9, .stream = RNG_WORLD};
    for (size_t i = 0; i < N * D; i++)
        X[i] = rng_normal(&rng);
    for (size_t i = 0; i < N; i++)
        y[i] = rng_normal(&rng);
    struct mlp_options options = mlp_defaults;
    for (int k = 0; k < 2; k++) {
        struct mlp mlp;
        options.held_out = k ? 0 : 0.2;
        assert_int_equal(mlp_fit(&mlp, X, y, N, D, &options, &err), OK);
        for (size_t i = 0; i < N; i++) {
            double e = mlp_predict(&mlp, X + i * D) - y[i];
            *(k ? &patient : &left) += e * e / N;
        }
        mlp_free(&mlp);
    }
    print_message("noise: squared error %.3f with held-out points, %.3f without\n", left, patient);
    assert_true(patient <= 0.5 * left); /* 2800 weights learn 40 numbers by heart unless they are stopped */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_is_right),
        cmocka_unit_test(learns),
        cmocka_unit_test(same_bits),
        cmocka_unit_test(few_points_and_equal_targets),
        cmocka_unit_test(refuses_what_is_no_number),
        cmocka_unit_test(stops_before_it_learns_noise),
    };
    return cmocka_run_group_tests_name("mlp", tests, NULL, NULL);
}
