/* pareto_test.c: fronts, volumes, ranks, crowding and exact improvements against their definitions, counted out on small grids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "pareto.h"

enum { SETS = 100000, MOST = 9, GRID = 8, DEPTH = 5 };

/* Two objectives lie in the one layer c = 0 below 1, three in DEPTH layers. */
static struct pareto_point reference(int depth)
{
    return (struct pareto_point){GRID, GRID, depth};
}

static struct pareto_point draw_one(struct rng *rng, int depth)
{
    struct pareto_point p = {rng_below(rng, GRID + 2), rng_below(rng, GRID + 2), 0};
    if (depth > 1)
        p.c = rng_below(rng, (uint32_t)depth + 2);
    return p;
}

/* Whole numbers: every area below is exact.  Few values, so that ties and duplicates are common; some lie beyond the reference. */
static size_t draw(struct rng *rng, int depth, struct pareto_point *p)
{
    size_t n = rng_below(rng, MOST + 1);
    for (size_t i = 0; i < n; i++)
        p[i] = draw_one(rng, depth);
    return n;
}

static bool beaten(const struct pareto_point *p, size_t n, size_t i, const int *rank, int above)
{
    for (size_t j = 0; j < n; j++)
        if ((!rank || rank[j] >= above) && p[j].a <= p[i].a && p[j].b <= p[i].b && p[j].c <= p[i].c &&
            !(p[j].a == p[i].a && p[j].b == p[i].b && p[j].c == p[i].c))
            return true;
    return false;
}

static bool covered(const struct pareto_point *p, size_t n, int x, int y, int z)
{
    for (size_t i = 0; i < n; i++)
        if (p[i].a <= x && p[i].b <= y && p[i].c <= z)
            return true;
    return false;
}

/* Unit cells below the reference that some point covers. */
static int cells(const struct pareto_point *p, size_t n, int depth)
{
    int count = 0;
    for (int x = 0; x < GRID; x++)
        for (int y = 0; y < GRID; y++)
            for (int z = 0; z < depth; z++)
                count += covered(p, n, x, y, z);
    return count;
}

static void fronts_and_volumes(void **state)
{
    (void)state;
    struct rng rng = {.seed = 1, .stream = RNG_WORLD};
    for (int c = 0; c < SETS; c++) {
        struct pareto_point p[MOST];
        struct err err;
        int depth = c % 4 == 0 ? DEPTH : 1;
        bool front[MOST];
        double volume;
        size_t n = draw(&rng, depth, p), members = 0;
        size_t found = pareto_front(p, n, front);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(front[i], !beaten(p, n, i, NULL, 0));
            members += front[i];
        }
        assert_int_equal(found, members);
        assert_int_equal(pareto_hypervolume(p, n, reference(depth), &volume, &err), OK);
        assert_true(volume == cells(p, n, depth));
    }
}

/* With all objectives known exactly the expected improvement is the improvement. */
static void known_exactly(void **state)
{
    (void)state;
    struct rng rng = {.seed = 2, .stream = RNG_WORLD};
    for (int c = 0; c < SETS; c++) {
        struct pareto_point p[MOST + 1], known = {0, 0, 0};
        struct pareto_ehvi e;
        struct err err;
        int depth = c % 4 == 0 ? DEPTH : 1;
        size_t n = draw(&rng, depth, p);
        int before = cells(p, n, depth);
        assert_int_equal(pareto_ehvi_new(&e, p, n, reference(depth), &err), OK);
        p[n] = draw_one(&rng, depth);
        assert_true(pareto_ehvi_at(&e, p[n], known) == cells(p, n + 1, depth) - before);
        pareto_ehvi_free(&e);
    }
}

static double gain(const struct pareto_point *p, size_t n, int depth, struct pareto_point at)
{
    struct pareto_ehvi e;
    struct err err;
    assert_int_equal(pareto_ehvi_new(&e, p, n, reference(depth), &err), OK);
    double value = pareto_ehvi_at(&e, at, (struct pareto_point){0, 0, 0});
    pareto_ehvi_free(&e);
    return value;
}

/* One objective known, the other normal: the mean gain over a midpoint rule.  The gain is piecewise linear with slopes of at most GRID DEPTH,
 * so N cells over 12 deviations err by GRID DEPTH h^2 / 8 at each of at most MOST kinks (h = 12 sd / N): below 1e-4 here; the tail beyond 6 deviations holds 1e-9. */
static void one_known_one_normal(void **state)
{
    (void)state;
    enum { N = 20000 };
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    for (int c = 0; c < 60; c++) {
        int depth = c % 3 == 0 ? DEPTH : 1;
        struct pareto_point p[MOST], sd = {0, 0, 0}, mean = {rng_uniform(&rng) * GRID, rng_uniform(&rng) * GRID, depth > 1 ? rng_uniform(&rng) * DEPTH : 0};
        struct pareto_ehvi e;
        struct err err;
        size_t n = draw(&rng, depth, p);
        double s = 0.05 + 1.0 * rng_uniform(&rng), sum = 0;
        bool second = c % 2;
        for (int k = 0; k < N; k++) {
            double z = -6 + 12 * (k + 0.5) / N;
            struct pareto_point at = {mean.a + (second ? 0 : s * z), mean.b + (second ? s * z : 0), mean.c};
            sum += gain(p, n, depth, at) * exp(-0.5 * z * z) * 0.3989422804014327 * 12 / N;
        }
        *(second ? &sd.b : &sd.a) = s;
        assert_int_equal(pareto_ehvi_new(&e, p, n, reference(depth), &err), OK);
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
        size_t n = draw(&rng, 1, p);
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
    struct pareto_point p[] = {{NAN, 1, 0}, {2, 3, 0}, {1, NAN, 0}, {INFINITY, INFINITY, 0}}, corner = {4, 4, 1};
    struct pareto_ehvi e;
    struct err err;
    bool front[4];
    double volume;
    assert_int_equal(pareto_front(p, 4, front), 1);
    assert_true(front[1]);
    assert_int_equal(pareto_hypervolume(p, 4, corner, &volume, &err), OK);
    assert_true(volume == 2);
    assert_int_equal(pareto_ehvi_new(&e, p, 4, corner, &err), OK);
    assert_true(pareto_ehvi_at(&e, (struct pareto_point){1, NAN, 0}, (struct pareto_point){0, 1, 0}) == 0);
    assert_true(pareto_ehvi_at(&e, (struct pareto_point){1, 1, 0}, (struct pareto_point){0, 1e-320, 0}) == 9 - 2);
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
