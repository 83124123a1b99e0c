/* autoqra_moves_test.c: what autoqra makes configurations with.  What a user would miss: a repair that takes from what matters, a child of nobody, a start
 * that does not look at the importance, a surrogate that knows sizes only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <float.h>

#include "autoqra_toy.h"
#include "base/linalg.h"
#include "choice.h"
#include "strategy/autoqra.h"

/* ---- repair ---- */

static void repair_is_minimal_and_ordered(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive none = {0};
    struct search_options options = options_of(1, 4, 4, 0);
    uint8_t level[MOST];
    toy_make(&toy, 3, 1);
    /* bits take 1000 bytes each, ranks 240 for 4.  On their own axes: formats 0.5, 0, 1, ranks 1, 0.5, 0 */
    static const double importance[] = {30, 0.9, 10, 0.6, 50, 0.3};
    memcpy(toy.importance, importance, sizeof importance);
    toy.least[2] = 1;
    toy.space.least = toy.least;
    struct autoqra q = {.space = &toy.space, .archive = &none, .options = &options};
    ASSERT_OK(autoqra_new(&q, &err));
    static const double axis[] = {0.5, 1, 0, 0.5, 1, 0};
    for (size_t i = 0; i < 6; i++)
        assert_true(fabs(q.importance[i] - axis[i]) <= 4 * DBL_EPSILON);
    static const struct {
        double saved; /* at least, of the 26880 bytes of all-high */
        uint8_t want[6];
    } cases[] = {
        {0, {3, 2, 3, 2, 3, 2}},
        {1, {3, 2, 2, 2, 3, 2}},     /* 1e-8 / 4000 of format 1 before 1e-8 / 480 of rank 2 */
        {4001, {3, 2, 1, 2, 3, 2}},  /* then its 1e-8 / 1000 */
        {5001, {3, 2, 1, 2, 3, 1}},  /* its lowest is 1: rank 2 */
        {5500, {3, 2, 1, 2, 3, 0}},
        {5721, {2, 2, 1, 2, 3, 0}},  /* 0.5 / 4000 of format 0 before 1 / 4000 of format 2 */
        {9721, {2, 2, 1, 2, 2, 0}},  /* 1 / 4000 before 0.5 / 1000 */
        {13721, {1, 2, 1, 2, 2, 0}}, /* 0.5 / 1000 before 1 / 1000 and the ranks' 0.5 / 480 */
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        autoqra_start(&q, 0, level);
        assert_true(toy_size(&toy, level) == 26880);
        autoqra_repair(&q, 26880 - cases[c].saved, AUTOQRA_NONE, level);
        assert_memory_equal(level, cases[c].want, 6);
    }
    autoqra_repair(&q, 0, AUTOQRA_NONE, level); /* what cannot fit ends at the lowest that may be */
    static const uint8_t lowest[] = {0, 0, 1, 0, 0, 0};
    assert_memory_equal(level, lowest, 6);
    /* raised: the rank of the same group pays first, though another format would lose less for a byte; then the rest */
    static const uint8_t from[] = {1, 2, 3, 2, 3, 2}, own_rank[] = {2, 1, 3, 2, 3, 2}, rest[] = {2, 0, 2, 2, 3, 2};
    memcpy(level, from, 6);
    double before = toy_size(&toy, level);
    level[0]++;
    autoqra_repair(&q, before + 1000 - 480, 0, level);
    assert_memory_equal(level, own_rank, 6);
    autoqra_repair(&q, before, 0, level);
    assert_memory_equal(level, rest, 6);
    autoqra_free(&q);
}

/* Nothing known: no variable is emptied before another is touched. */
static void repair_of_equals_is_even(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive none = {0};
    struct search_options options = options_of(1, 4, 4, 0);
    uint8_t level[MOST];
    static const uint8_t want[] = {0, 2, 1, 2, 1, 2, 1, 2};
    toy_make(&toy, 4, 1);
    toy.space.importance = NULL;
    struct autoqra q = {.space = &toy.space, .archive = &none, .options = &options};
    ASSERT_OK(autoqra_new(&q, &err));
    autoqra_start(&q, 0, level); /* 4 x 4000, then 1000 a step */
    autoqra_repair(&q, toy_size(&toy, level) - 21000, AUTOQRA_NONE, level);
    assert_memory_equal(level, want, 8);
    autoqra_free(&q);
}

/* ---- moves ---- */

/* A child of two parents takes all formats of a group from one of them and all ranks from one; a coupled move keeps the size; a guided one is one step. */
static void moves(void **state)
{
    (void)state;
    enum { TIMES = 2000 };
    struct toy toy;
    struct search_archive none = {0};
    struct search_options options = options_of(1, 4, 4, 0);
    uint8_t a[MOST] = {0}, b[MOST], level[MOST], at[MOST];
    toy_make(&toy, GROUPS, 1);
    for (size_t i = 0; i < MOST; i++)
        toy.group[i] = (uint16_t)(i / 4); /* two formats and two ranks a group */
    struct autoqra q = {.space = &toy.space, .archive = &none, .options = &options, .rng = {.seed = 1, .stream = RNG_SEARCH}};
    ASSERT_OK(autoqra_new(&q, &err));
    autoqra_start(&q, 0, b);
    size_t apart = 0, raised_important = 0, lowered_important = 0, by_hand[2] = {0, 0};
    for (size_t k = 0; k < TIMES; k++) {
        autoqra_cross(&q, a, b, level);
        for (size_t i = 0; i < MOST; i += 4) {
            assert_true((level[i] == 0) == (level[i + 2] == 0) && (level[i + 1] == 0) == (level[i + 3] == 0));
            apart += (level[i] == 0) != (level[i + 1] == 0);
        }
        memset(at, 1, sizeof at);
        autoqra_couple(&q, at);
        assert_true(toy_size(&toy, at) <= 16 * (3000 + 480));
        size_t raised = 0;
        for (size_t i = 0; i < MOST; i++)
            raised += at[i] > 1;
        assert_int_equal(raised, 1);
        memset(at, 1, sizeof at);
        autoqra_mutate(&q, at);
        for (size_t i = 0; i < MOST; i++) {
            assert_true(at[i] <= 2);
            by_hand[q.importance[i] > 0.5] += at[i] != 1;
            raised_important += q.importance[i] > 0.5 && at[i] == 2;
            lowered_important += q.importance[i] > 0.5 && at[i] == 0;
        }
    }
    assert_int_equal(by_hand[0] + by_hand[1], TIMES); /* one variable each time */
    /* coins of formats and ranks are independent: 8 groups x 2000 coins, half of them apart, sd 63; five of them */
    assert_true(fabs((double)apart - 8000) < 320);
    assert_true(raised_important > lowered_important);
    double share = 0, all = 0;
    for (size_t i = 0; i < MOST; i++) {
        double weight = pow(q.importance[i] + 0.1, 1.5);
        all += weight;
        share += q.importance[i] > 0.5 ? weight : 0;
    }
    share /= all; /* binomial: sd sqrt(share (1 - share) 2000); five of them */
    assert_true(fabs((double)by_hand[1] - share * TIMES) < 5 * sqrt(share * (1 - share) * TIMES));
    autoqra_free(&q);
}

/* ---- the first population ---- */

static void start_follows_importance(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(2, 10, 20, 0);
    toy_make(&toy, GROUPS, 3);
    toy_go_on(&toy, &options, MEASURED, 10, &archive);
    for (size_t i = 0; i < MOST; i++) {
        assert_int_equal(archive.point[0].level[i], 0);
        assert_int_equal(archive.point[1].level[i], toy.n_levels[i] - 1);
    }
    for (size_t t = 2; t < 5; t++)
        for (size_t i = 0; i < MOST; i++)
            for (size_t j = i & 1; j < MOST; j += 2) /* all variables of a kind weigh the same: the more important has no lower level */
                assert_true(toy.importance[i] <= toy.importance[j] || archive.point[t].level[i] >= archive.point[t].level[j]);
    /* identity, square root, square, none larger than its stand-in budget: 0.5, 0.75, 0.25 of the way from 35840 bytes to 143360 */
    static const double way[] = {0.5, 0.75, 0.25};
    for (size_t t = 2; t < 5; t++)
        assert_true(archive.point[t].size <= 35840 + way[t - 2] * (143360 - 35840));
    assert_true(archive.point[4].size < archive.point[2].size && archive.point[2].size < archive.point[3].size);
    search_archive_free(&archive);
    /* under a budget the second is all-high lowered to it: no more than one step of a format (4000) below */
    toy.space.max_size = 70000;
    toy_go_on(&toy, &options, MEASURED, 10, &archive);
    assert_true(archive.point[1].size > 66000 && archive.point[1].size <= 70000);
    search_archive_free(&archive);
}

/* ---- the surrogate ---- */

/* Same size, same histogram: the trained surrogate still expects more where the bits are on what matters. */
static void surrogate_knows_what_matters(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(6, 10, 40, 0);
    options.strategy = "random";
    toy_make(&toy, GROUPS, 6);
    toy_go_on(&toy, &options, MEASURED, 50, &archive);
    struct autoqra q = {.space = &toy.space, .archive = &archive, .options = &options};
    struct autoqra_surrogate s;
    ASSERT_OK(autoqra_new(&q, &err));
    ASSERT_OK(autoqra_surrogate_fit(&q, &s, &err));
    assert_true(s.trained);
    uint8_t right[MOST], wrong[MOST];
    double median[GROUPS];
    for (size_t g = 0; g < GROUPS; g++)
        median[g] = toy.importance[2 * g];
    qsort(median, GROUPS, sizeof *median, order_doubles);
    for (size_t i = 0; i < MOST; i++) {
        bool matters = toy.importance[i - (i & 1)] >= median[GROUPS / 2];
        right[i] = i & 1 ? 1 : matters ? 3 : 1;
        wrong[i] = i & 1 ? 1 : matters ? 1 : 3;
    }
    assert_true(toy_size(&toy, right) == toy_size(&toy, wrong));
    assert_true(autoqra_merit(&q, &s, right, 0) > autoqra_merit(&q, &s, wrong, 0));
    autoqra_surrogate_free(&s);
    autoqra_free(&q);
    search_archive_free(&archive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repair_is_minimal_and_ordered),
        cmocka_unit_test(repair_of_equals_is_even),
        cmocka_unit_test(moves),
        cmocka_unit_test(start_follows_importance),
        cmocka_unit_test(surrogate_knows_what_matters),
    };
    return cmocka_run_group_tests_name("autoqra_moves", tests, choice_setup, NULL);
}
