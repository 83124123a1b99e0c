/* nsga2_test.c: selection with constraints.  What a user would miss: a configuration over the budget that outlives one within it, a front that
 * loses its ends, parents that are no better than chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <math.h>

#include "nsga2.h"

static struct err err;

/* Worked by hand: 0, 1, 2 are the front, 3 lies behind 1; 4 would lead but breaks its budget by 2, 5 and 6 by 1. */
static const struct pareto_point points[] = {{1, 5, 0}, {2, 3, 0}, {4, 1, 0}, {3, 4, 0}, {0, 0, 0}, {9, 9, 0}, {1, 1, 0}};
static const double violation[] = {0, 0, 0, 0, 2, 1, 1};
enum { N = sizeof points / sizeof *points };

static void ranks_obey_constraints(void **state)
{
    (void)state;
    static const int want[] = {0, 0, 0, 1, 3, 2, 2};
    struct nsga2_fitness fitness[N];
    assert_int_equal(nsga2_rank(points, violation, N, fitness, &err), OK);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(fitness[i].rank, want[i]);
    assert_true(isinf(fitness[0].distance) && isinf(fitness[2].distance));
    assert_true(fabs(fitness[1].distance - 2) < 1e-12); /* both gaps span the whole front: (4-1)/3 + (5-1)/4 */
    assert_int_equal(nsga2_rank(points, NULL, N, fitness, &err), OK);
    assert_int_equal(fitness[4].rank, 0); /* without a budget it dominates all */
    assert_int_equal(fitness[6].rank, 1);
}

static void selection_keeps_ends_first(void **state)
{
    (void)state;
    struct nsga2_fitness fitness[N];
    size_t chosen[N];
    static const size_t want[] = {0, 2, 1, 3, 5, 6, 4};
    assert_int_equal(nsga2_rank(points, violation, N, fitness, &err), OK);
    assert_int_equal(nsga2_select(fitness, N, N, chosen, &err), OK);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(chosen[i], want[i]);
}

/* Two draws with replacement: point 0 (as good as 2) is a parent with probability 7/49 + 5/49 = 0.245, the worst with (1/7)^2 = 0.020.  2000 draws have a
 * standard deviation of 0.010 and 0.003; bounds are five of them away. */
static void tournament_prefers_the_better(void **state)
{
    (void)state;
    struct nsga2_fitness fitness[N];
    struct rng rng = {.seed = 5, .stream = RNG_SEARCH};
    int best = 0, worst = 0;
    assert_int_equal(nsga2_rank(points, violation, N, fitness, &err), OK);
    for (int i = 0; i < 2000; i++) {
        size_t parent = nsga2_tournament(fitness, N, &rng);
        best += parent == 0;
        worst += parent == 4;
    }
    assert_true(best > 2000 * 0.197 && worst < 2000 * 0.039);
}

static void empty_populations_are_no_error(void **state)
{
    (void)state;
    size_t chosen[1];
    assert_int_equal(nsga2_rank(NULL, NULL, 0, NULL, &err), OK);
    assert_int_equal(nsga2_select(NULL, 0, 0, chosen, &err), OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_obey_constraints),
        cmocka_unit_test(selection_keeps_ends_first),
        cmocka_unit_test(tournament_prefers_the_better),
        cmocka_unit_test(empty_populations_are_no_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
