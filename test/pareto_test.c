/* pareto_test.c: fronts, volumes, ranks, crowding and exact improvements against their definitions, counted out on small grids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "pareto.h"

enum { SETS = 100000, MOST = 9, GRID = 8 };

/* Whole numbers: every area below is exact.  Few values, so that ties and duplicates are common; some lie beyond the reference. */
static size_t draw(struct rng *rng, struct pareto_point *p)
{
    size_t n = rng_below(rng, MOST + 1);
    for (size_t i = 0; i < n; i++)
        p[i] = (struct pareto_point){rng_below(rng, GRID + 2), rng_below(rng, GRID + 2)};
    return n;
}

static bool beaten(const struct pareto_point *p, size_t n, size_t i, const int *rank, int above)
{
    for (size_t j = 0; j < n; j++)
        if ((!rank || rank[j] >= above) && p[j].a <= p[i].a && p[j].b <= p[i].b && !(p[j].a == p[i].a && p[j].b == p[i].b))
            return true;
    return false;
}

/* Unit cells below the reference (GRID, GRID) that some point covers. */
static int cells(const struct pareto_point *p, size_t n)
{
    int count = 0;
    for (int x = 0; x < GRID; x++)
        for (int y = 0; y < GRID; y++)
            for (size_t i = 0; i < n; i++)
                if (p[i].a <= x && p[i].b <= y) {
                    count++;
                    break;
                }
    return count;
}

static void fronts_and_volumes(void **state)
{
    (void)state;
    struct rng rng = {.seed = 1, .stream = RNG_WORLD};
    for (int c = 0; c < SETS; c++) {
        struct pareto_point p[MOST];
        struct err err;
        bool front[MOST];
        double volume;
        size_t n = draw(&rng, p), members = 0;
        size_t found = pareto_front(p, n, front);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(front[i], !beaten(p, n, i, NULL, 0));
            members += front[i];
        }
        assert_int_equal(found, members);
        assert_int_equal(pareto_hypervolume(p, n, (struct pareto_point){GRID, GRID}, &volume, &err), OK);
        assert_true(volume == cells(p, n));
    }
}

/* With both objectives known exactly the expected improvement is the improvement. */
static void known_exactly(void **state)
{
    (void)state;
    struct rng rng = {.seed = 2, .stream = RNG_WORLD};
    for (int c = 0; c < SETS; c++) {
        struct pareto_point p[MOST + 1], known = {0, 0};
        struct pareto_ehvi e;
        struct err err;
        size_t n = draw(&rng, p);
        int before = cells(p, n);
        assert_int_equal(pareto_ehvi_new(&e, p, n, (struct pareto_point){GRID, GRID}, &err), OK);
        p[n] = (struct pareto_point){rng_below(&rng, GRID + 2), rng_below(&rng, GRID + 2)};
        assert_true(pareto_ehvi_at(&e, p[n], known) == cells(p, n + 1) - before);
        pareto_ehvi_free(&e);
    }
}

static double gain(const struct pareto_point *p, size_t n, struct pareto_point at)
{
    struct pareto_ehvi e;
    struct err err;
    assert_int_equal(pareto_ehvi_new(&e, p, n, (struct pareto_point){GRID, GRID}, &err), OK);
    double value = pareto_ehvi_at(&e, at, (struct pareto_point){0, 0});
    pareto_ehvi_free(&e);
    return value;
}

/* One objective known, the other normal: the mean gain over a midpoint rule.  The gain is piecewise linear with slopes of at most GRID, so
 * N cells over 12 deviations err by GRID N h^2 at most (h = 12 sd / N): below 1e-4 here; the tail beyond 6 deviations holds 1e-9. */
static void one_known_one_normal(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    for (int c = 0; c < 60; c++) {
        struct pareto_point p[MOST], mean = {rng_uniform(&rng) * GRID, rng_uniform(&rng) * GRID}, sd = {0, 0};
        struct pareto_ehvi e;
        struct err err;
        size_t n = draw(&rng, p);
        double s = 0.05 + 1.0 * rng_uniform(&rng), sum = 0;
        bool second = c % 2;
        for (int k = 0; k < N; k++) {
            double z = -6 + 12 * (k + 0.5) / N;
            struct pareto_point at = {mean.a + (second ? 0 : s * z), mean.b + (second ? s * z : 0)};
            sum += gain(p, n, at) * exp(-0.5 * z * z) * 0.3989422804014327 * 12 / N;
        }
        *(second ? &sd.b : &sd.a) = s;
        assert_int_equal(pareto_ehvi_new(&e, p, n, (struct pareto_point){GRID, GRID}, &err), OK);
        assert_true(fabs(pareto_ehvi_at(&e, mean, sd) - sum) <= 1e-4);
        pareto_ehvi_free(&e);
    }
}

static void ranks_and_crowding(void **state)
{
    (void)state;
    struct rng rng = {.seed = 4, .stream = RNG_WORLD};
    for (int c = 0; c < SETS / 10; c++) {
        struct pareto_point p[MOST];
        struct err err;
        int rank[MOST];
        double crowding[MOST];
        size_t n = draw(&rng, p);
        assert_int_equal(pareto_ranks(p, n, rank, &err), OK);
        assert_int_equal(pareto_crowding(p, rank, n, crowding, &err), OK);
        for (size_t i = 0; i < n; i++) {
            assert_true(rank[i] >= 0 && !beaten(p, n, i, rank, rank[i])); /* nothing of its own rank or a later one beats it */
            assert_true(rank[i] == 0 || beaten(p, n, i, rank, rank[i] - 1)); /* one rank earlier something does */
            bool copy = false, end = true;
            for (size_t j = 0; j < i; j++)
                copy = copy || (p[j].a == p[i].a && p[j].b == p[i].b);
            for (size_t j = 0; j < n; j++)
                end = end && (rank[j] != rank[i] || p[j].a >= p[i].a);
            assert_true(copy ? crowding[i] == 0 : crowding[i] > 0);
            assert_true(copy || !end || crowding[i] == INFINITY);
        }
    }
}

/* Infinite and missing numbers come from failed trials: they never enter a front, a volume or an expectation. */
static void no_numbers(void **state)
{
    (void)state;
    struct pareto_point p[] = {{NAN, 1}, {2, 3}, {1, NAN}, {INFINITY, INFINITY}}, reference = {4, 4};
    struct pareto_ehvi e;
    struct err err;
    bool front[4];
    double volume;
    assert_int_equal(pareto_front(p, 4, front), 1);
    assert_true(front[1]);
    assert_int_equal(pareto_hypervolume(p, 4, reference, &volume, &err), OK);
    assert_true(volume == 2);
    assert_int_equal(pareto_ehvi_new(&e, p, 4, reference, &err), OK);
    assert_true(pareto_ehvi_at(&e, (struct pareto_point){1, NAN}, (struct pareto_point){0, 1}) == 0);
    assert_true(pareto_ehvi_at(&e, (struct pareto_point){1, 1}, (struct pareto_point){0, 1e-320}) == 9 - 2);
    pareto_ehvi_free(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fronts_and_volumes),  cmocka_unit_test(known_exactly), cmocka_unit_test(one_known_one_normal),
        cmocka_unit_test(ranks_and_crowding),  cmocka_unit_test(no_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
