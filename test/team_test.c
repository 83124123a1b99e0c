/* team_test.c: parts of a kernel are computed once each, and what one kernel left is there for the next, whether threads are called each time or wait awake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <omp.h>

#include "cpu/team.h"

enum { N = 37, ROUNDS = 2000, WORTH_IT = 60000, TRIFLE = 100 };

struct rounds {
    const struct ops_context *c;
    size_t n, work;
    uint32_t cells[2][N];
    int round;
    int threads; /* that took part in the last team_run */
    bool strangers; /* somebody else took part in a trifle */
};

/* A cell becomes one more than the other side's mirror image: a part that is left out, done twice or read too early shows in every later round. */
static void one_more(void *args, size_t begin, size_t end)
{
    struct rounds *r = args;
    uint32_t *to = r->cells[r->round % 2];
    const uint32_t *from = r->cells[1 - r->round % 2];
    for (size_t i = begin; i < end; i++)
        to[i] = from[r->n - 1 - i] + (to[i] + 1 == from[i] || r->round == 0);
}

static void all_rounds(void *args)
{
    struct rounds *r = args;
    for (r->round = 0; r->round < ROUNDS; r->round++)
        team_share(r->c, r->work, r->n, one_more, r);
}

static void check_rounds(const struct rounds *r)
{
    for (size_t i = 0; i < r->n; i++) {
        assert_int_equal(r->cells[(ROUNDS - 1) % 2][i], ROUNDS);
        assert_int_equal(r->cells[ROUNDS % 2][i], ROUNDS - 1);
    }
}

static void test_every_part_once(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 3, N};
    for (int threads = 1; threads <= 3; threads++)
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            struct ops_context c = {.threads = threads};
            struct rounds alone = {.c = &c, .n = lengths[k], .work = WORTH_IT}, together = alone, trifles = alone;
            trifles.work = TRIFLE;
            all_rounds(&alone);
            check_rounds(&alone);
            team_together(&c, all_rounds, &together);
            check_rounds(&together);
            team_together(&c, all_rounds, &trifles);
            check_rounds(&trifles);
        }
}

/* A kernel of two phases, by the loops and meetings of OpenMP. */
static void two_phases(void *args)
{
    struct rounds *r = args;
#pragma omp single
    r->threads = omp_get_num_threads();
#pragma omp for schedule(dynamic) nowait
    for (size_t i = 0; i < N; i++)
        r->cells[0][i]++;
#pragma omp barrier
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < N; i++)
        r->cells[1][i] += r->cells[0][N - 1 - i];
}

static void both_sizes(void *args)
{
    struct rounds *r = args;
    for (r->round = 0; r->round < ROUNDS; r->round++) {
        team_run(r->c, TRIFLE, two_phases, r);
        r->strangers = r->strangers || r->threads != 1;
        team_run(r->c, WORTH_IT, two_phases, r);
    }
}

static void test_a_team_of_its_own(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        struct ops_context c = {.threads = threads};
        struct rounds r = {.c = &c};
        team_together(&c, both_sizes, &r);
        assert_int_equal(r.threads, threads);
        assert_false(r.strangers);
        for (size_t i = 0; i < N; i++) {
            assert_int_equal(r.cells[0][i], 2 * ROUNDS);
            assert_int_equal(r.cells[1][i], ROUNDS * (2 * ROUNDS + 1));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_part_once), cmocka_unit_test(test_a_team_of_its_own)};
    return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
