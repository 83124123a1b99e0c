/* rbf_test.c: the interpolant that amq searches on.  What a user would miss: a model that is not the one of the equations, one that depends on how the
 * points came in, one that breaks on repeated trials or on fewer trials than variables, a refit that is felt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "choice.h"
#include "rbf.h"

static struct err err;

/* The first d + 1 points are all-high and one variable lowered each (PROBES); the first half lies in a plane (PLANE). */
enum shape { RANDOM, PROBES, PLANE, SHAPES };

/* n points on the grid {0, 1/2, 1}^d, a rough function of them. */
struct data {
    size_t n, d;
    double *X, *y;
};

static struct data made(size_t n, size_t d, enum shape shape, uint64_t seed)
{
    struct rng rng = {.seed = seed, .stream = RNG_WORLD};
    struct data data = {n, d, malloc((n * d + 1) * sizeof(double)), malloc((n + 1) * sizeof(double))};
    for (size_t i = 0; i < n; i++) {
        data.y[i] = rng_uniform(&rng);
        for (size_t c = 0; c < d; c++)
            data.X[i * d + c] = shape == PROBES && i <= d ? (i == c + 1 ? 0 : 1) : 0.5 * rng_below(&rng, 3);
        if (shape == PLANE && d > 1 && i < n / 2)
            data.X[i * d + d - 1] = data.X[i * d];
    }
    return data;
}

static void data_free(struct data *data)
{
    free(data->X);
    free(data->y);
}

static struct rbf fitted(const struct data *data)
{
    struct rbf rbf;
    assert_int_equal(rbf_new(&rbf, data->d, &err), OK);
    assert_int_equal(rbf_add(&rbf, data->X, data->y, data->n, &err), OK);
    return rbf;
}

/* ---- the equations, solved plainly ---- */

/* Gaussian elimination with partial pivoting of A[n, n] x = b; x in b. */
static void eliminate(double *A, double *b, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        size_t at = c;
        for (size_t r = c + 1; r < n; r++)
            at = fabs(A[r * n + c]) > fabs(A[at * n + c]) ? r : at;
        for (size_t k = 0; k <= n; k++) {
            double *x = k < n ? &A[c * n + k] : &b[c], *y = k < n ? &A[at * n + k] : &b[at], keep = *x;
            *x = *y;
            *y = keep;
        }
        for (size_t r = c + 1; r < n; r++) {
            double f = A[r * n + c] / A[c * n + c];
            for (size_t k = c; k < n; k++)
                A[r * n + k] -= f * A[c * n + k];
            b[r] -= f * b[c];
        }
    }
    for (size_t c = n; c-- > 0;) {
        for (size_t k = c + 1; k < n; k++)
            b[c] -= A[c * n + k] * b[k];
        b[c] /= A[c * n + c];
    }
}

static double cube(const double *x, const double *y, size_t d)
{
    double r2 = 0;
    for (size_t c = 0; c < d; c++)
        r2 += (x[c] - y[c]) * (x[c] - y[c]);
    return r2 * sqrt(r2);
}

/* (lambda, c0, c) of the saddle system. */
static double *plain_solution(const struct data *data)
{
    size_t n = data->n, d = data->d, order = n + d + 1;
    double *A = calloc(order * order, sizeof *A), *b = calloc(order, sizeof *b);
    for (size_t i = 0; i < n; i++) {
        b[i] = data->y[i];
        for (size_t j = 0; j < n; j++)
            A[i * order + j] = i == j ? 1e-6 : cube(data->X + i * d, data->X + j * d, d);
        for (size_t c = 0; c <= d; c++)
            A[i * order + n + c] = A[(n + c) * order + i] = c == 0 ? 1 : data->X[i * d + c - 1];
    }
    eliminate(A, b, order);
    free(A);
    return b;
}

static double plain_predict(const struct data *data, const double *solution, const double *x)
{
    double sum = solution[data->n];
    for (size_t i = 0; i < data->n; i++)
        sum += solution[i] * cube(data->X + i * data->d, x, data->d);
    for (size_t c = 0; c < data->d; c++)
        sum += solution[data->n + 1 + c] * x[c];
    return sum;
}

/* Both solve the same system backward stably: solutions differ by at most a multiple of eps times the condition number.  |A| <= n d^1.5 and the smallest
 * eigenvalue on P^T lambda = 0 is at least that of the cubic at the grid's least distance 1/2, which is above 1e-2 for these d; with a
 * factor d^2 for affine combinations of up to d anchors: eps n d^3.5 1e2. */
static void is_the_saddle_system(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{5, 1}, {30, 2}, {40, 5}, {100, 12}, {13, 12}, {120, 33}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (enum shape shape = 0; shape < SHAPES; shape++) {
            size_t n = cases[k][0], d = cases[k][1], kept = 0;
            struct data data = made(n, d, shape, 3 + k);
            for (size_t i = 0; i < n; i++) { /* distinct ones only: the saddle system knows no merging */
                bool new = true;
                for (size_t j = 0; j < kept; j++)
                    new = new && cube(data.X + i * d, data.X + j * d, d) > 0;
                if (new)
                    memmove(data.X + kept++ * d, data.X + i * d, d * sizeof *data.X);
            }
            data.n = kept;
            struct rbf rbf = fitted(&data);
            struct data probe = made(20, d, RANDOM, 77);
            if (rbf.n_anchors == d + 1) { /* 13 random points in 12 variables may lie in a plane */
                double *solution = plain_solution(&data), bound = DBL_EPSILON * (double)n * pow((double)d, 3.5) * 1e2, worst = 0;
                for (size_t i = 0; i < 20; i++)
                    worst = fmax(worst, fabs(rbf_predict(&rbf, probe.X + i * d) - plain_predict(&data, solution, probe.X + i * d)));
                assert_true(worst <= bound);
                free(solution);
            } else {
                assert_true(shape != PROBES);
            }
            data_free(&probe);
            data_free(&data);
            rbf_free(&rbf);
        }
}

static double linear(const double *x, size_t d)
{
    double sum = 0.3;
    for (size_t c = 0; c < d; c++)
        sum += (c % 2 ? 0.1 : -0.07) * (double)(c + 1) * x[c];
    return sum;
}

/* lambda = 0 solves it, whatever eta is: what is left is the rounding of d^1.5 steps on values of d^2. */
static void reproduces_linear_functions(void **state)
{
    (void)state;
    struct data data = made(90, 20, PROBES, 4), probe = made(20, 20, RANDOM, 5);
    for (size_t i = 0; i < data.n; i++)
        data.y[i] = linear(data.X + i * 20, 20);
    struct rbf rbf = fitted(&data);
    for (size_t i = 0; i < 20; i++)
        assert_true(fabs(rbf_predict(&rbf, probe.X + i * 20) - linear(probe.X + i * 20, 20)) <= DBL_EPSILON * pow(20, 3.5) * 8);
    data_free(&data);
    data_free(&probe);
    rbf_free(&rbf);
}

static void grows_to_the_same_bits(void **state)
{
    (void)state;
    struct data data = made(70, 9, PLANE, 6), probe = made(10, 9, RANDOM, 7);
    struct rbf whole = fitted(&data), grown;
    assert_int_equal(rbf_new(&grown, 9, &err), OK);
    for (size_t at = 0, step = 1; at < data.n; at += step, step = step % 5 + 1) {
        step = at + step > data.n ? data.n - at : step;
        assert_int_equal(rbf_add(&grown, data.X + at * 9, data.y + at, step, &err), OK);
    }
    for (size_t i = 0; i < 10; i++)
        assert_true(rbf_predict(&grown, probe.X + i * 9) == rbf_predict(&whole, probe.X + i * 9));
    data_free(&data);
    data_free(&probe);
    rbf_free(&whole);
    rbf_free(&grown);
}

/* Fewer points than variables: all are met, by a function that is linear along them and constant across, so a variable that none of them changes has no
 * effect.  None at all is 0, one is a constant. */
static void fewer_points_than_variables(void **state)
{
    (void)state;
    struct data data = made(6, 15, PROBES, 8);
    double x[15], before;
    struct rbf rbf;
    assert_int_equal(rbf_new(&rbf, 15, &err), OK);
    for (size_t c = 0; c < 15; c++)
        x[c] = 1;
    assert_true(rbf_predict(&rbf, x) == 0);
    assert_int_equal(rbf_add(&rbf, data.X, data.y, 1, &err), OK);
    x[3] = 0;
    assert_true(rbf_predict(&rbf, x) == data.y[0]);
    assert_int_equal(rbf_add(&rbf, data.X + 15, data.y + 1, 5, &err), OK);
    for (size_t i = 0; i < 6; i++)
        assert_true(fabs(rbf_predict(&rbf, data.X + i * 15) - data.y[i]) <= 64 * DBL_EPSILON);
    before = rbf_predict(&rbf, x);
    x[14] = 0; /* lowered by none of the first six */
    assert_true(fabs(rbf_predict(&rbf, x) - before) <= 64 * DBL_EPSILON);
    data_free(&data);
    rbf_free(&rbf);
}

/* A point given twice counts as one with the mean: 90 trials of 3^3 configurations are at most 27 points.  Near the ridge of 1e-6 a score is missed by at most
 * eta |lambda|, and |lambda| is at most the spread of y over the least eigenvalue, which is above 1e-3 here. */
static void repeated_points_are_averaged(void **state)
{
    (void)state;
    struct data data = made(90, 3, RANDOM, 9);
    struct rbf rbf = fitted(&data);
    assert_true(rbf.n <= 27);
    for (size_t i = 0; i < data.n; i++) {
        double sum = 0, count = 0;
        for (size_t j = 0; j < data.n; j++)
            if (cube(data.X + i * 3, data.X + j * 3, 3) == 0) {
                sum += data.y[j];
                count++;
            }
        assert_true(fabs(rbf_predict(&rbf, data.X + i * 3) - sum / count) <= 1e-3);
    }
    data_free(&data);
    rbf_free(&rbf);
}

static void equal_values_give_a_constant(void **state)
{
    (void)state;
    struct data data = made(60, 7, RANDOM, 10), probe = made(10, 7, RANDOM, 11);
    for (size_t i = 0; i < data.n; i++)
        data.y[i] = 0.625;
    struct rbf rbf = fitted(&data);
    for (size_t i = 0; i < 10; i++)
        assert_true(fabs(rbf_predict(&rbf, probe.X + i * 7) - 0.625) <= DBL_EPSILON * pow(7, 3.5) * 8);
    data_free(&data);
    data_free(&probe);
    rbf_free(&rbf);
    struct data none = made(5, 0, RANDOM, 12); /* no variables at all: the mean */
    double mean = 0;
    for (size_t i = 0; i < 5; i++)
        mean += none.y[i] / 5;
    rbf = fitted(&none);
    assert_true(fabs(rbf_predict(&rbf, none.X) - mean) <= 8 * DBL_EPSILON);
    data_free(&none);
    rbf_free(&rbf);
}

/* One more trial at 1000 points is not felt. */
static void refit_is_quick(void **state)
{
    (void)state;
    struct data data = made(1010, 57, PROBES, 13);
    struct rbf rbf;
    double best = INFINITY, begun = now_ms();
    assert_int_equal(rbf_new(&rbf, 57, &err), OK);
    assert_int_equal(rbf_add(&rbf, data.X, data.y, 1000, &err), OK);
    double first = now_ms() - begun;
    for (size_t i = 1000; i < 1010; i++) {
        begun = now_ms();
        assert_int_equal(rbf_add(&rbf, data.X + i * 57, data.y + i, 1, &err), OK);
        best = fmin(best, now_ms() - begun);
    }
    print_message("1000 points in 57 variables: %.1f ms, one more: %.2f ms\n", first, best);
#ifndef __SANITIZE_ADDRESS__
    assert_true(best <= 20);
#endif
    data_free(&data);
    rbf_free(&rbf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_the_saddle_system),
        cmocka_unit_test(reproduces_linear_functions),
        cmocka_unit_test(grows_to_the_same_bits),
        cmocka_unit_test(fewer_points_than_variables),
        cmocka_unit_test(repeated_points_are_averaged),
        cmocka_unit_test(equal_values_give_a_constant),
        cmocka_unit_test(refit_is_quick),
    };
    return cmocka_run_group_tests_name("rbf", tests, NULL, NULL);
}
