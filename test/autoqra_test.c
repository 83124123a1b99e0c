/* autoqra_test.c: formats and ranks searched together, on toys; autoqra_moves_test.c holds what the search is built of.  What a
 * user would miss: a search no better than chance, a configuration beyond the budget or paid for twice, a cheap trial taken for a real one, a resumed search
 * that goes another way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "autoqra_toy.h"
#include "base/linalg.h"
#include "choice.h"
#include "pareto.h"
#include "refused.h"

/* ---- searches ---- */

static double volume_of(const struct toy *toy, const struct search_archive *archive)
{
    uint8_t low[MOST] = {0}, high[MOST];
    struct pareto_point *p = malloc((archive->n + 1) * sizeof *p);
    double volume = 0;
    size_t n = 0;
    assert_non_null(p);
    for (size_t i = 0; i < toy->space.n; i++)
        high[i] = (uint8_t)(toy->n_levels[i] - 1);
    double s0 = toy_size((void *)(uintptr_t)toy, low), s1 = toy_size((void *)(uintptr_t)toy, high), p0 = toy_truth(toy, low), p1 = toy_truth(toy, high);
    for (size_t i = 0; i < archive->n; i++)
        if (!archive->point[i].low_fidelity)
            p[n++] = (struct pareto_point){(archive->point[i].size - s0) / (s1 - s0), (p1 - toy_truth(toy, archive->point[i].level)) / (p1 - p0), 0};
    ASSERT_OK(pareto_hypervolume(p, n, (struct pareto_point){1.1, 1.1, 1}, &volume, &err));
    free(p);
    return volume;
}

/* Medians over seeds: true hypervolume of the full trials, and with a budget the true score of the pick. */
static double median_of(const char *strategy, double low_cost, bool budget)
{
    enum { SEEDS = 5 };
    double value[SEEDS];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = options_of(seed, 10, 20, low_cost);
        size_t pick = 0;
        options.strategy = strategy;
        toy_make(&toy, GROUPS, seed);
        toy.space.max_size = budget ? 70000 : INFINITY;
        assert_false(toy_go_on(&toy, &options, MEASURED, 500, &archive));
        value[seed - 1] = volume_of(&toy, &archive);
        if (budget) {
            ASSERT_OK(search_pick_posterior(&toy.space, &archive, 1, 70000, &pick, &err));
            value[seed - 1] = toy_truth(&toy, archive.point[pick].level);
        }
        search_archive_free(&archive);
    }
    qsort(value, SEEDS, sizeof *value, order_doubles);
    return value[SEEDS / 2];
}

static void beats_random(void **state)
{
    (void)state;
    double random = median_of("random", 0, false), one = median_of("autoqra", 0, false), two = median_of("autoqra", 0.25, false);
    print_message("16 groups, compute of 30 trials: hypervolume random %.4f, autoqra %.4f, with cheap trials %.4f (median of 5)\n", random, one, two);
    assert_true(one >= random && two >= random);
    double random_pick = median_of("random", 0, true), one_pick = median_of("autoqra", 0, true), two_pick = median_of("autoqra", 0.25, true);
    print_message("within a budget, true score of the pick: random %.4f, autoqra %.4f, with cheap trials %.4f\n", random_pick, one_pick, two_pick);
    assert_true(one_pick >= random_pick && two_pick >= random_pick);
}

static void budgets_bind(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    for (int k = 0; k < 2; k++) {
        struct search_options options = options_of(3, 8, 16, k ? 0.25 : 0);
        struct err said;
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        toy_make(&toy, 6, 7);
        toy.least[0] = toy.least[3] = 1;
        toy.space.least = toy.least;
        static const double budgets[] = {14921, 20000, 53000, 53760}; /* all-low has 14680, all-high 53760 */
        for (size_t b = 0; b < 4; b++) {
            toy.space.max_size = budgets[b];
            toy_go_on(&toy, &options, MEASURED, 500, &archive);
            assert_true(archive.n >= 3);
            search_archive_free(&archive);
        }
        toy.space.max_size = 14680; /* exactly one configuration */
        toy_go_on(&toy, &options, MEASURED, 500, &archive);
        assert_int_equal(archive.n, k ? 2 : 1);
        search_archive_free(&archive);
        toy.space.max_size = 14679;
        assert_refused(search_propose(&toy.space, &archive, &options, &next, &said), ERR_INPUT, &said, "",
                       "nothing fits the budget of 14679 bytes: the smallest configuration has 14680, the largest 53760");
    }
}

/* What is asked for is the best score within the budget: no start, child or neighbour of the front leaves room for one more level. */
static void budgets_are_filled(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(4, 6, 18, 0);
    size_t filled = 0;
    toy_make(&toy, 6, 7);
    toy.space.max_size = 30000;
    for (uint8_t level[MOST]; archive.n < 24;) {
        struct search_proposal next = {.level = level};
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        bool drawn = strstr(next.note, "draw of") || strstr(next.note, "a draw") || strstr(next.note, "random one") || strstr(next.note, "all low");
        for (size_t i = 0; i < toy.space.n && !drawn; i++)
            if (level[i] + 1 < toy.n_levels[i]) {
                level[i]++;
                assert_true(toy_size(&toy, level) > toy.space.max_size);
                level[i]--;
            }
        filled += !drawn;
        struct search_point point = toy_measure(&toy, &next, 4, archive.n);
        ASSERT_OK(search_archive_add(&archive, &toy.space, &point, &err));
    }
    assert_true(filled >= 16);
    search_archive_free(&archive);
}

/* A search resumed with a smaller budget: nothing that was tried fits, nor what is one edit away.  The evolution (after 8 trials) and the second stage
 * (after 23) go on from what they know, lowered to the budget. */
static void nothing_tried_fits(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive wide = {0};
    struct search_options options = options_of(3, 8, 42, 0);
    toy_make(&toy, 6, 7);
    options.strategy = "random";
    toy_go_on(&toy, &options, MEASURED, 50, &wide);
    options = options_of(3, 8, 16, 0);
    toy.space.max_size = 13440 + 1000; /* all-low has 13440 */
    for (size_t t = 8; t < 24; t += 15) {
        struct search_archive archive = {0};
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        for (size_t i = 0; i < wide.n && archive.n < t; i++)
            if (wide.point[i].size > 20000)
                ASSERT_OK(search_archive_add(&archive, &toy.space, &wide.point[i], &err));
        assert_int_equal(archive.n, t);
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        assert_true(toy_size(&toy, level) <= toy.space.max_size);
        assert_null(strstr(next.note, "draw"));
        assert_null(strstr(next.note, "random"));
        search_archive_free(&archive);
    }
    search_archive_free(&wide);
}

static void resume(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct toy toy;
        struct search_archive whole = {0}, rebuilt = {0};
        struct search_options options = options_of(9, 6, 15, k ? 0.25 : 0);
        toy_make(&toy, 8, 2);
        toy_go_on(&toy, &options, MEASURED, 500, &whole);
        for (size_t t = 0; t <= whole.n; t++) {
            uint8_t level[MOST];
            struct search_proposal next = {.level = level};
            ASSERT_OK(search_propose(&toy.space, &rebuilt, &options, &next, &err));
            assert_int_equal(next.done, t == whole.n);
            if (t == whole.n)
                break;
            assert_memory_equal(level, whole.point[t].level, toy.space.n);
            assert_int_equal(next.low_fidelity, whole.point[t].low_fidelity);
            search_archive_free(&rebuilt);
            for (size_t i = 0; i <= t; i++)
                ASSERT_OK(search_archive_add(&rebuilt, &toy.space, &whole.point[i], &err));
        }
        search_archive_free(&whole);
        search_archive_free(&rebuilt);
    }
}

/* ---- two fidelities ---- */

/* 8 full trials' worth of pairs, then generations of 8 cheap ones (2) and 2 full until 28 are spent, then full ones until 42. */
static void cheap_trials(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(4, 10, 32, 0.25);
    double spent = 0, generations = 0;
    size_t index[100], n, i = 0;
    toy_make(&toy, GROUPS, 4);
    assert_false(toy_go_on(&toy, &options, MEASURED, 500, &archive));
    for (; i < 16; i += 2) { /* 16 x 1.25 / 2 = 10 */
        assert_true(archive.point[i].low_fidelity && !archive.point[i + 1].low_fidelity);
        assert_memory_equal(archive.point[i].level, archive.point[i + 1].level, MOST);
        spent += 1.25;
    }
    for (; spent + 4 <= 28; spent += 4, generations++, i += 10) {
        for (size_t k = 0; k < 10; k++)
            assert_int_equal(archive.point[i + k].low_fidelity, k < 8);
        for (size_t k = 8; k < 10; k++) { /* the full ones are of these eight */
            bool found = false;
            for (size_t j = 0; j < 8; j++)
                found = found || memcmp(archive.point[i + j].level, archive.point[i + k].level, MOST) == 0;
            assert_true(found);
        }
    }
    assert_true(generations == 4);
    spent = 0;
    for (size_t t = 0; t < archive.n; t++) {
        assert_true(spent < 42); /* none was asked for after the end */
        assert_true(spent < 28 || !archive.point[t].low_fidelity);
        spent += archive.point[t].low_fidelity ? 0.25 : 1;
    }
    assert_true(spent >= 42);
    n = search_front(&archive, index);
    for (size_t k = 0; k < n; k++)
        assert_false(archive.point[index[k]].low_fidelity);
    search_archive_free(&archive);
}

/* Children that are nearer to the second of two camps, of 60.  The camps have five configurations each, of about one size and with nothing in common;
 * `size` and `score` are what was recorded of the second, 35000 and 0.3 of the first, whose cheap trials scored `cheap`. */
static int children_of_second(double size, double score, double cheap)
{
    struct toy toy;
    struct search_archive archive = {0};
    uint8_t level[MOST], camp[2][MOST];
    int near = 0;
    toy_make(&toy, GROUPS, 5);
    toy.space.max_size = 70000;
    for (size_t k = 0; k < 15; k++) { /* the first camp's cheap trials, then all full ones in turn */
        size_t which = k < 5 ? 0 : k & 1, own = k < 5 ? 6 + 2 * k : k;
        for (size_t i = 0; i < MOST; i++)
            camp[which][i] = level[i] = ((i / 2) & 1) == which ? 2 : 0;
        level[(own & ~1u) * 2 % MOST + which * 2] = 1; /* each its own */
        struct search_point p = {.level = level, .size = which ? size : 35000, .score = k < 5 ? cheap : which ? score : 0.3, .variance = 1e-4,
                                 .low_fidelity = k < 5};
        ASSERT_OK(search_archive_add(&archive, &toy.space, &p, &err));
    }
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct search_options options = options_of(seed, 10, 32, 0.25);
        struct search_proposal next = {.level = level};
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        assert_true(next.low_fidelity);
        near += edits_between(level, camp[1]) < edits_between(level, camp[0]);
    }
    search_archive_free(&archive);
    return near;
}

/* The better of two drawn at random is of the better camp with probability 3/4: of 60 children 45 with a deviation of 3.4, less some that are as near to both.
 * Camps that do not dominate each other would have 30 each, less those.  What fits the budget is better than what does not (15); a full trial counts, not
 * the cheap one before it. */
static void good_parents_have_children(void **state)
{
    (void)state;
    int better = children_of_second(35000, 0.6, 0.2), too_large = children_of_second(80000, 0.6, 0.2), cheap = children_of_second(35000, 0.6, 0.9);
    print_message("children of the better camp: %d of 60, beyond the budget %d, against good cheap trials %d\n", better, too_large, cheap);
    assert_true(better > 30 && too_large < 20 && cheap > 30);
}

/* Of a generation the child that promises most is promoted: here one of them scores beyond all, whichever it is. */
static void best_child_is_promoted(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(4, 10, 32, 0.25);
    toy_make(&toy, GROUPS, 5);
    toy_go_on(&toy, &options, MEASURED, 24, &archive); /* 16 of the first population, 8 children */
    for (size_t k = 16; k < 24; k++) {
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        double keep = archive.point[k].score;
        archive.point[k].score = 0.99;
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        assert_false(next.low_fidelity);
        assert_memory_equal(level, archive.point[k].level, MOST);
        archive.point[k].score = keep;
    }
    for (size_t k = 16; k < 24; k++) /* all failed: another child, not one of them */
        archive.point[k].failed = true;
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
    assert_true(next.low_fidelity);
    search_archive_free(&archive);
}

/* ---- the second stage ---- */

/* Edits that the next proposal may be away from the front, from its note; checked. */
static int region_width(const struct toy *toy, const struct search_archive *archive, const struct search_options *options)
{
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    int width = 0;
    size_t front[100], n, nearest = 1000;
    ASSERT_OK(search_propose(&toy->space, archive, options, &next, &err));
    assert_int_equal(sscanf(next.note, "autoqra: %d edits", &width), 1);
    n = search_front(archive, front);
    for (size_t k = 0; k < n; k++) {
        size_t edits = edits_between(level, archive->point[front[k]].level);
        nearest = edits < nearest ? edits : nearest;
    }
    assert_true(nearest >= 1 && nearest <= (size_t)width);
    return width;
}

/* Three gains in a row double the radius, up to 4; three trials without one halve it; below 1 it starts anew.  All of it is read from the archive. */
static void region_widens_and_narrows(void **state)
{
    (void)state;
    static const struct {
        const char *trials; /* of the stage, which begins with the 35th of 51; +: a gain */
        int want;
    } cases[] = {{"", 1},          {"++", 1},        {"+++", 2},          {"++-++", 1},         {"++++++", 4},       {"+++++++++", 4},
                 {"++++++---", 2}, {"+++--+--", 2}, {"++++++------", 1}, {"++++++------+++", 2}, {"---", 1},          {"---+++", 2}};
    struct toy toy;
    struct search_options options = options_of(5, 10, 41, 0);
    toy_make(&toy, GROUPS, 8);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct search_archive archive = {0};
        options.strategy = "random";
        toy_go_on(&toy, &options, MEASURED, 34, &archive);
        options.strategy = "autoqra";
        for (size_t k = 0; cases[c].trials[k]; k++) {
            bool gain = cases[c].trials[k] == '+';
            uint8_t level[MOST] = {(uint8_t)(k & 3), 0, (uint8_t)(k >> 2), 0, 1};
            struct search_point p = {.level = level, .size = gain ? 50000 : 150000, .score = gain ? 0.8 + 0.001 * (double)k : 0.1, .variance = 1e-4};
            ASSERT_OK(search_archive_add(&archive, &toy.space, &p, &err));
        }
        assert_int_equal(region_width(&toy, &archive, &options), cases[c].want);
        search_archive_free(&archive);
    }
}

/* The region around the front depends on no seed until it starts anew: then each seed has other centres. */
static void restart_has_other_centres(void **state)
{
    (void)state;
    for (int restarted = 0; restarted < 2; restarted++) {
        uint8_t first[MOST], level[MOST] = {0};
        bool other = false;
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = options_of(5, 10, 41, 0);
        toy_make(&toy, GROUPS, 8);
        options.strategy = "random";
        toy_go_on(&toy, &options, MEASURED, 34, &archive);
        for (int k = 0; k < (restarted ? 3 : 2); k++) {
            struct search_point p = {.level = level, .size = 150000, .score = 0.1, .variance = 1e-4};
            level[0] = (uint8_t)(k + 1);
            ASSERT_OK(search_archive_add(&archive, &toy.space, &p, &err));
        }
        options.strategy = "autoqra";
        for (options.seed = 1; options.seed <= 8; options.seed++) {
            struct search_proposal next = {.level = level};
            ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
            other = other || (options.seed > 1 && memcmp(level, first, MOST) != 0);
            memcpy(first, level, MOST);
        }
        assert_int_equal(other, restarted);
        search_archive_free(&archive);
    }
}

/* ---- odd input ---- */

static void small_spaces(void **state)
{
    (void)state;
    static const struct {
        size_t groups;
        uint8_t levels;
        size_t all, compute;
    } cases[] = {{1, 0, 12, 43}, {1, 2, 4, 43}, {2, 2, 16, 43}, {2, 2, 16, 24}, {3, 1, 1, 43}}; /* used up in the first stage, and in the second */
    for (int k = 0; k < 2; k++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            struct toy toy;
            struct search_archive archive = {0};
            struct search_options options = options_of(4, 3, cases[c].compute - 3, k ? 0.25 : 0);
            toy_make(&toy, cases[c].groups, 3);
            for (size_t i = 0; i < toy.space.n && cases[c].levels; i++)
                toy.n_levels[i] = cases[c].levels;
            assert_false(toy_go_on(&toy, &options, MEASURED, 500, &archive));
            size_t full = 0;
            for (size_t i = 0; i < archive.n; i++)
                full += !archive.point[i].low_fidelity;
            assert_int_equal(full, cases[c].all); /* each once, then done */
            search_archive_free(&archive);
        }
}

static void odd_worlds(void **state)
{
    (void)state;
    for (int k = 0; k < 14; k++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = options_of(4, 6, 15, k & 1 ? 0.25 : 0);
        double spent = 0;
        toy_make(&toy, 9, 3);
        for (size_t i = 0; k / 2 == 3 && i < toy.space.n; i++)
            toy.importance[i] = 7;
        toy.importance[0] = k / 2 == 4 ? INFINITY : toy.importance[0];
        toy.importance[1] = k / 2 == 4 ? NAN : toy.importance[1];
        toy.space.importance = k / 2 == 2 || k / 2 == 6 ? NULL : toy.importance;
        toy.space.kind = k / 2 >= 5 ? NULL : toy.kind;
        toy.space.group = k / 2 >= 5 ? NULL : toy.group;
        assert_false(toy_go_on(&toy, &options, k / 2 == 0 ? FAILING : k / 2 == 1 ? SAME : MEASURED, 500, &archive));
        for (size_t i = 0; i < archive.n; i++)
            spent += archive.point[i].low_fidelity ? 0.25 : 1;
        assert_true(spent >= 21 && spent < 22); /* all of it was spent */
        search_archive_free(&archive);
    }
}

/* A proposal should not be felt beside a trial of minutes: 50 ms on an idle core; the gate leaves room for a busy machine and sanitizers. */
static void proposal_is_quick(void **state)
{
    (void)state;
    for (int stage = 0; stage < 2; stage++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = options_of(1, 10, 40, 0);
        double best = INFINITY;
        toy_make(&toy, GROUPS, 1);
        options.strategy = "random";
        toy_go_on(&toy, &options, MEASURED, 50, &archive);
        options.strategy = "autoqra";
        options.num_trials = stage ? 41 : 400;
        for (int k = 0; k < 5; k++) {
            uint8_t level[MOST];
            struct search_proposal next = {.level = level};
            double begun = now_ms();
            ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
            best = fmin(best, now_ms() - begun);
        }
        print_message("a proposal at 50 points and 32 variables, %s: %.1f ms\n", stage ? "second stage" : "first stage", best);
#ifndef __SANITIZE_ADDRESS__
        assert_true(best <= 250);
#endif
        search_archive_free(&archive);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beats_random),
        cmocka_unit_test(budgets_bind),
        cmocka_unit_test(budgets_are_filled),
        cmocka_unit_test(nothing_tried_fits),
        cmocka_unit_test(resume),
        cmocka_unit_test(cheap_trials),
        cmocka_unit_test(good_parents_have_children),
        cmocka_unit_test(best_child_is_promoted),
        cmocka_unit_test(region_widens_and_narrows),
        cmocka_unit_test(restart_has_other_centres),
        cmocka_unit_test(small_spaces),
        cmocka_unit_test(odd_worlds),
        cmocka_unit_test(proposal_is_quick),
    };
    return cmocka_run_group_tests_name("autoqra", tests, choice_setup, NULL);
}
