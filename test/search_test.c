/* search_test.c: the choice wing on toys: scores that add up over layers, measured with the noise of counted answers.  What a user would miss:
 * a search no better than chance, a configuration paid for twice, one beyond the budget, a resumed search that goes another way.
 * gp_test.c and pareto_test.c hold what the search is built of. */
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
#include <time.h>

#include "base/linalg.h"
#include "choice.h"
#include "refused.h"
#include "search_toy.h"

/* ---- searches ---- */

static double volume_of(const char *strategy, size_t n, uint64_t seed, size_t trials)
{
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = strategy, .seed = seed, .num_initial = 10, .num_trials = trials};
    toy_make(&toy, n, 2, 100 + seed);
    toy_run(&toy, &options, false, &archive);
    assert_int_equal(archive.n, 10 + trials);
    double volume = toy_volume(&toy, &archive);
    search_archive_free(&archive);
    return volume;
}

static void gp_beats_random(void **state)
{
    (void)state;
    static const size_t sizes[] = {8, 16, 32};
    for (size_t k = 0; k < 3; k++) {
        double gp = 0, random = 0;
        for (uint64_t seed = 1; seed <= 4; seed++) {
            gp += volume_of("gp", sizes[k], seed, 25);
            random += volume_of("random", sizes[k], seed, 25);
        }
        print_message("%zu layers: hypervolume gp %.4f, random %.4f (4 seeds)\n", sizes[k], gp, random);
        assert_true(gp > random);
    }
}

static void budget(void **state)
{
    (void)state;
    static const char *const strategies[] = {"gp", "random"};
    struct toy toy;
    struct err said;
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    toy_make(&toy, 12, 4, 7);
    for (int k = 0; k < 2; k++) {
        struct search_archive archive = {0};
        struct search_options options = {.strategy = strategies[k], .seed = 3, .num_initial = 8, .num_trials = 12};
        toy.space.max_size = 8000; /* all-low has 4800, all-high 19200 */
        toy_run(&toy, &options, false, &archive);
        assert_int_equal(archive.n, 20);
        search_archive_free(&archive);
        toy.space.max_size = 4799;
        assert_refused(search_propose(&toy.space, &archive, &options, &next, &said), ERR_INPUT, &said, "",
                       "nothing fits the budget of 4799 bytes: the smallest configuration has 4800, the largest 19200");
        toy.space.max_size = 4800; /* exactly one configuration */
        toy_run(&toy, &options, false, &archive);
        assert_int_equal(archive.n, 1);
        search_archive_free(&archive);
    }
    struct search_options unknown = {.strategy = "grid", .num_initial = 1};
    struct search_archive none = {0};
    assert_refused(search_propose(&toy.space, &none, &unknown, &next, &said), ERR_INPUT, &said, "", "search = 'grid', want amq, autoqra, dp, evopress, gp or random");
}

static void seed_set(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "gp", .seed = 5, .num_initial = 6, .num_trials = 0};
    toy_make(&toy, 20, 2, 1);
    toy_run(&toy, &options, false, &archive);
    assert_int_equal(archive.n, 6);
    assert_true(archive.point[0].size == 20 * 400.0); /* all low */
    assert_true(archive.point[1].size == 20 * 800.0); /* all high */
    for (size_t i = 3; i < 6; i++)                     /* strata in between rise: neighbours are 0.2 apart, one draw's sd is sqrt(p(1-p)/20) < 0.11 */
        assert_true(archive.point[i].size > archive.point[2].size);
    search_archive_free(&archive);
}

/* A ratio of `levels` as the last variable, which brings half of what can be won. */
static void make_ratio(struct toy *toy, size_t n, uint8_t levels, uint64_t seed)
{
    static const double thirds[] = {0, 1.0 / 3, 2.0 / 3, 1};
    static uint8_t kind[MOST];
    toy_make(toy, n, 2, seed);
    toy->ratio = n - 1;
    toy->n_levels[n - 1] = levels;
    toy->feature[n - 1] = thirds;
    for (size_t i = 0; i < n; i++) {
        kind[i] = i == n - 1 ? SEARCH_RATIO : SEARCH_FORMAT;
        toy->gain[i] = i == n - 1 ? 0.25 : toy->gain[i] / 2;
    }
    toy->space.kind = kind;
}

/* Sizes that do not add up are no harm to either, and the model finds the better mixtures. */
static void gp_beats_random_over_ratios(void **state)
{
    (void)state;
    double volume[2] = {0};
    for (uint64_t seed = 1; seed <= 8; seed++)
        for (int k = 0; k < 2; k++) {
            struct toy toy;
            struct search_archive archive = {0};
            struct search_options options = {.strategy = k ? "random" : "gp", .seed = seed, .num_initial = 8, .num_trials = 24};
            make_ratio(&toy, 13, 4, seed);
            toy_run(&toy, &options, false, &archive);
            volume[k] += toy_volume(&toy, &archive);
            search_archive_free(&archive);
        }
    print_message("a ratio and 12 layers: hypervolume gp %.4f, random %.4f (8 seeds)\n", volume[0], volume[1]);
    assert_true(volume[0] > volume[1]);
}

/* Under a budget the strata end at the budget: every size is as far above all-low as its place in the seed set says. */
static void seed_set_within_budget(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "gp", .seed = 5, .num_initial = 6, .num_trials = 0};
    static const double want[] = {8000, 12000, 8800, 9600, 10400, 11200}; /* layers of 400 more each */
    toy_make(&toy, 20, 2, 1);
    toy.space.max_size = 12000;
    toy_run(&toy, &options, false, &archive);
    assert_int_equal(archive.n, 6);
    for (size_t i = 0; i < 6; i++)
        assert_true(archive.point[i].size == want[i]);
    search_archive_free(&archive);
}

/* A space too large to count through, of which the budget leaves 33 configurations: all of them are found, then it is done. */
static void large_space_used_up(void **state)
{
    (void)state;
    static const char *const strategies[] = {"gp", "random"};
    for (int k = 0; k < 2; k++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = {.strategy = strategies[k], .seed = 8, .num_initial = 5, .num_trials = 60};
        toy_make(&toy, 32, 2, 5);
        toy.space.max_size = 32 * 400 + 400;
        toy_run(&toy, &options, false, &archive);
        assert_int_equal(archive.n, 33);
        search_archive_free(&archive);
    }
}

/* The best of 40 noisy scores was lucky; what the model believes of them picks a truly better one (the sum over 10 seeds). */
static void posterior_resists_luck(void **state)
{
    (void)state;
    double by_score = 0, by_model = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = {.strategy = "random", .seed = seed, .num_initial = 10, .num_trials = 30};
        size_t pick;
        toy_make(&toy, 16, 2, seed);
        toy_run(&toy, &options, false, &archive);
        ASSERT_OK(search_pick(&archive, 1, 9000, &pick, &err));
        by_score += toy_truth(&toy, archive.point[pick].level);
        ASSERT_OK(search_pick_posterior(&toy.space, &archive, 1, 9000, &pick, &err));
        assert_true(archive.point[pick].size <= 9000);
        by_model += toy_truth(&toy, archive.point[pick].level);
        search_archive_free(&archive);
    }
    print_message("true score of the pick, mean of 10: by score %.4f, by the model %.4f\n", by_score / 10, by_model / 10);
    assert_true(by_model > by_score);
}

static void resume(void **state)
{
    (void)state;
    static const char *const strategies[] = {"gp", "random"};
    for (int k = 0; k < 2; k++) {
        struct toy toy;
        struct search_archive whole = {0}, rebuilt = {0};
        struct search_options options = {.strategy = strategies[k], .seed = 9, .num_initial = 5, .num_trials = 14};
        toy_make(&toy, 16, 2, 2);
        toy_run(&toy, &options, false, &whole);
        for (size_t t = 0; t <= whole.n; t++) {
            uint8_t level[MOST];
            struct search_proposal next = {.level = level};
            ASSERT_OK(search_propose(&toy.space, &rebuilt, &options, &next, &err));
            assert_int_equal(next.done, t == whole.n);
            if (t == whole.n)
                break;
            assert_memory_equal(level, whole.point[t].level, toy.n);
            /* a fresh copy of the first t + 1 trials, as a journal gives them back */
            search_archive_free(&rebuilt);
            for (size_t i = 0; i <= t; i++)
                ASSERT_OK(search_archive_add(&rebuilt, &toy.space, &whole.point[i], &err));
        }
        search_archive_free(&whole);
        search_archive_free(&rebuilt);
    }
}

static void small_spaces(void **state)
{
    (void)state;
    static const char *const strategies[] = {"gp", "random"};
    static const struct {
        size_t n;
        uint8_t levels;
        size_t all;
    } cases[] = {{1, 2, 2}, {1, 4, 4}, {3, 2, 8}, {2, 4, 16}, {5, 1, 1}};
    for (int k = 0; k < 2; k++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            struct toy toy;
            struct search_archive archive = {0};
            struct search_options options = {.strategy = strategies[k], .seed = 4, .num_initial = 3, .num_trials = 40};
            toy_make(&toy, cases[c].n, cases[c].levels, 3);
            toy_run(&toy, &options, false, &archive);
            assert_int_equal(archive.n, cases[c].all); /* each once, then done */
            search_archive_free(&archive);
        }
}

static void all_failed(void **state)
{
    (void)state;
    static const char *const strategies[] = {"gp", "random"};
    for (int k = 0; k < 2; k++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = {.strategy = strategies[k], .seed = 6, .num_initial = 4, .num_trials = 12};
        struct err said;
        size_t pick, index[16];
        toy_make(&toy, 8, 2, 4);
        toy_run(&toy, &options, true, &archive);
        assert_int_equal(archive.n, 16);
        assert_int_equal(search_front(&archive, index), 0);
        assert_true(search_hypervolume(&archive, 16) == 0);
        assert_refused(search_pick(&archive, 1, INFINITY, &pick, &said), ERR_FAILED, &said, "",
                       "no trial succeeded within the budget: there is nothing to pick");
        archive.point[3].failed = false; /* one success is enough to go on from, and is the pick */
        options.num_trials = 16;
        toy_run(&toy, &options, true, &archive);
        assert_int_equal(archive.n, 20);
        ASSERT_OK(search_pick(&archive, 1, INFINITY, &pick, &err));
        assert_int_equal(pick, 3);
        search_archive_free(&archive);
    }
}

/* ---- the stop rule and the pick, on archives made by hand ---- */

struct made {
    double size, score;
};

static void make_archive(struct search_archive *archive, const struct toy *toy, const struct made *made, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t level[MOST] = {0};
        for (size_t b = 0; b < toy->n; b++)
            level[b] = (i >> b) & 1;
        struct search_point p = {.level = level, .size = made[i].size, .score = made[i].score, .variance = 1e-4};
        ASSERT_OK(search_archive_add(archive, &toy->space, &p, &err));
    }
}

static bool is_done(const struct toy *toy, const struct search_archive *archive, const struct search_options *options)
{
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    ASSERT_OK(search_propose(&toy->space, archive, options, &next, &err));
    return next.done;
}

static void stop_rule(void **state)
{
    (void)state;
    /* two seeds span the axes, three that they dominate, one that is better */
    static const struct made made[] = {{0, 0}, {10, 1}, {10, 0.5}, {9.9, 0}, {5, 0}, {2, 0.9}};
    struct toy toy;
    struct search_options options = {.strategy = "random", .seed = 1, .num_initial = 2, .num_trials = 100, .stop_gain = 0.01, .stop_patience = 3};
    toy_make(&toy, 8, 2, 1);
    for (size_t n = 2; n <= 6; n++) {
        struct search_archive archive = {0};
        make_archive(&archive, &toy, made, n);
        /* below (1.1, 1.1): the corners (0, 1) and (1, 0) have 1.1 x 0.1 + 0.1 x 1; (0.2, 0.1) makes it 1.1 x 0.1 + 0.9 x 0.9 + 0.1 x 0.1 */
        assert_true(fabs(search_hypervolume(&archive, n) - (n < 6 ? 0.21 : 0.93)) <= 8 * DBL_EPSILON);
        assert_true(fabs(search_hypervolume(&archive, 2) - 0.21) <= 8 * DBL_EPSILON);
        options.stop_gain = 0.01;
        assert_int_equal(is_done(&toy, &archive, &options), n == 5); /* three proposals without gain; not when a fourth gained */
        options.stop_gain = 0;
        assert_false(is_done(&toy, &archive, &options));
        search_archive_free(&archive);
    }
}

static void picks(void **state)
{
    (void)state;
    /* sizes and scores on axes 0..1: 0 and 10 GB, 0.2 and 0.7 */
    static const struct made made[] = {{0, 0.2}, {10, 0.7}, {2, 0.6}, {5, 0.65}, {3, 0.6}, {0, 0.1999}, {7, 0.7}};
    struct toy toy;
    struct search_archive archive = {0};
    struct err said;
    size_t pick, index[8];
    toy_make(&toy, 8, 2, 1);
    make_archive(&archive, &toy, made, 7);
    /* M - lambda P with P from 0 (0.1999) to 1: lambda 1: 0 - 0.0002, 0.7 - 1, 0.2 - 0.8, 0.5 - 0.9: the third */
    ASSERT_OK(search_pick(&archive, 1, INFINITY, &pick, &err));
    assert_int_equal(pick, 2);
    ASSERT_OK(search_pick(&archive, 0, INFINITY, &pick, &err));
    assert_int_equal(pick, 0); /* the smallest, of two of that size the one on the front */
    ASSERT_OK(search_pick(&archive, 100, INFINITY, &pick, &err));
    assert_int_equal(pick, 6); /* the best score; (10, 0.7) is as good and larger */
    ASSERT_OK(search_pick(&archive, 1, 6, &pick, &err));
    assert_int_equal(pick, 3); /* within a budget the best score counts */
    ASSERT_OK(search_pick(&archive, 1, 4, &pick, &err));
    assert_int_equal(pick, 2); /* of equal scores the smaller size */
    ASSERT_OK(search_pick(&archive, 1, 100, &pick, &err));
    assert_int_equal(pick, 6);
    assert_refused(search_pick(&archive, 1, -1, &pick, &said), ERR_FAILED, &said, "", "no trial succeeded within the budget: there is nothing to pick");
    assert_int_equal(search_front(&archive, index), 4);
    static const size_t want[] = {0, 2, 3, 6};
    for (int i = 0; i < 4; i++)
        assert_int_equal(index[i], want[i]);
    search_archive_free(&archive);
    /* the better of two at the smallest size, whichever was tried first */
    static const struct made tie[] = {{0, 0.1}, {0, 0.2}, {10, 0.7}};
    make_archive(&archive, &toy, tie, 3);
    ASSERT_OK(search_pick(&archive, 0, INFINITY, &pick, &err));
    assert_int_equal(pick, 1);
    search_archive_free(&archive);
}

/* A proposal should not be felt beside a trial of minutes: 50 ms on an idle core; the gate leaves room for a busy machine and sanitizers. */
static void proposal_is_quick(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "random", .seed = 1, .num_initial = 10, .num_trials = 40};
    double best = INFINITY;
    toy_make(&toy, 32, 2, 1);
    toy_run(&toy, &options, false, &archive);
    assert_int_equal(archive.n, 50);
    options.strategy = "gp";
    options.num_trials = 41;
    for (int k = 0; k < 5; k++) {
        double begun = now_ms();
        assert_false(is_done(&toy, &archive, &options));
        best = fmin(best, now_ms() - begun);
    }
    print_message("a proposal at 50 points and 32 layers: %.1f ms\n", best);
#ifndef __SANITIZE_ADDRESS__
    assert_true(best <= 250);
#endif
    search_archive_free(&archive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gp_beats_random),
        cmocka_unit_test(budget),
        cmocka_unit_test(seed_set),
        cmocka_unit_test(seed_set_within_budget),
        cmocka_unit_test(gp_beats_random_over_ratios),
        cmocka_unit_test(large_space_used_up),
        cmocka_unit_test(posterior_resists_luck),
        cmocka_unit_test(resume),
        cmocka_unit_test(small_spaces),
        cmocka_unit_test(all_failed),
        cmocka_unit_test(stop_rule),
        cmocka_unit_test(picks),
        cmocka_unit_test(proposal_is_quick),
    };
    return cmocka_run_group_tests_name("search", tests, choice_setup, NULL);
}
