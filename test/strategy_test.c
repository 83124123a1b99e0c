/* strategy_test.c: amq, dp and evopress on toys of 24 layers with three levels whose neighbours make each other worse.  What a user would miss: a strategy no
 * better than chance at equal trials, a budget that is broken, a search that breaks on failed or equal trials, one that goes another way after a restart. */
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

#include "base/linalg.h"
#include "base/order.h"
#include "choice.h"
#include "refused.h"
#include "search_toy.h"

enum { LAYERS = 24, EVALUATIONS = 85, SEEDS = 3 };

static const char *const strategies[] = {"amq", "dp", "evopress"};
enum { STRATEGIES = sizeof strategies / sizeof *strategies };

static void pair_toy(struct toy *toy, size_t n, uint8_t levels, uint64_t seed)
{
    toy_make(toy, n, levels, seed);
    toy_pair(toy);
}

/* Runs a strategy for EVALUATIONS trials, its probes among them. */
static void run_all(const struct toy *toy, struct search_options options, bool failing, struct search_archive *archive)
{
    const struct strategy *strategy;
    ASSERT_OK(search_strategy_find(options.strategy, &strategy, &err));
    struct search_cache cache = {0};
    options.cache = &cache;
    options.num_initial = 10;
    options.batch = 16;
    options.num_trials = EVALUATIONS - 10 - search_probe_count(&toy->space, strategy->probes);
    toy_run(toy, &options, failing, archive);
    search_cache_free(&cache);
}

/* The truth of the best trial within the budget. */
static double best_truth(const struct toy *toy, const struct search_archive *archive)
{
    double best = 0;
    for (size_t i = 0; i < archive->n; i++)
        if (archive->point[i].size <= toy->space.max_size)
            best = fmax(best, toy_truth(toy, archive->point[i].level));
    return best;
}

/* Median over the seeds of the hypervolume, or, with a budget, of the best truth within it. */
static double median_worth(const char *strategy, const char *predictor, bool exact, double max_size)
{
    double worth[SEEDS];
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct toy toy;
        struct search_archive archive = {0};
        pair_toy(&toy, LAYERS, 3, 40 + seed);
        toy.exact = exact;
        toy.space.max_size = max_size;
        run_all(&toy, (struct search_options){.strategy = strategy, .predictor = predictor, .seed = seed}, false, &archive);
        assert_int_equal(archive.n, EVALUATIONS);
        worth[seed] = isfinite(max_size) ? best_truth(&toy, &archive) : toy_volume(&toy, &archive);
        search_archive_free(&archive);
    }
    qsort(worth, SEEDS, sizeof *worth, order_doubles);
    return worth[SEEDS / 2];
}

static void beat_random_at_equal_trials(void **state)
{
    (void)state;
    static const struct {
        bool exact;
        double max_size;
    } cases[] = {{false, INFINITY}, {true, INFINITY}, {false, LAYERS * 700}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double random = median_worth("random", NULL, cases[c].exact, cases[c].max_size);
        for (size_t k = 0; k < STRATEGIES; k++) {
            double worth = median_worth(strategies[k], NULL, cases[c].exact, cases[c].max_size);
            print_message("%s, budget %.0f: median %s of %s %.4f, of random %.4f\n", cases[c].exact ? "exact" : "noisy", cases[c].max_size,
                          isfinite(cases[c].max_size) ? "best score" : "hypervolume", strategies[k], worth, random);
            assert_true(worth >= random);
        }
    }
}

/* ---- what every strategy must live through ---- */

static void failed_trials(void **state)
{
    (void)state;
    for (size_t k = 0; k < STRATEGIES; k++) {
        struct toy toy;
        struct search_archive archive = {0};
        size_t failed = 0;
        pair_toy(&toy, LAYERS, 3, 7);
        toy.fails = 11;
        run_all(&toy, (struct search_options){.strategy = strategies[k], .seed = 1}, false, &archive);
        assert_int_equal(archive.n, EVALUATIONS);
        for (size_t i = 0; i < archive.n; i++)
            failed += archive.point[i].failed;
        print_message("%s: %zu of %zu trials failed\n", strategies[k], failed, archive.n);
        assert_true(failed < EVALUATIONS / 2);
        search_archive_free(&archive);
        run_all(&toy, (struct search_options){.strategy = strategies[k], .seed = 1}, true, &archive);
        assert_int_equal(archive.n, EVALUATIONS);
        search_archive_free(&archive);
    }
}

/* Small spaces are used up, each configuration once; with one level there is one. */
static void small_spaces(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        uint8_t levels;
        size_t all;
    } cases[] = {{1, 2, 2}, {1, 4, 4}, {3, 2, 8}, {2, 4, 16}, {5, 1, 1}, {3, 3, 27}};
    for (size_t k = 0; k < STRATEGIES; k++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            struct toy toy;
            struct search_archive archive = {0};
            struct search_options options = {.strategy = strategies[k], .seed = 4, .num_initial = 3, .num_trials = 60};
            pair_toy(&toy, cases[c].n, cases[c].levels, 3);
            toy_run(&toy, &options, false, &archive);
            assert_int_equal(archive.n, cases[c].all);
            search_archive_free(&archive);
        }
}

static void equal_scores(void **state)
{
    (void)state;
    for (size_t k = 0; k < STRATEGIES; k++) {
        struct toy toy;
        struct search_archive archive = {0};
        pair_toy(&toy, LAYERS, 3, 8);
        memset(toy.gain, 0, sizeof toy.gain);
        memset(toy.pair, 0, sizeof toy.pair);
        toy.exact = true;
        run_all(&toy, (struct search_options){.strategy = strategies[k], .seed = 2}, false, &archive);
        assert_int_equal(archive.n, EVALUATIONS);
        search_archive_free(&archive);
    }
}

static void copy_first(const struct toy *toy, const struct search_archive *whole, size_t n, struct search_archive *copy)
{
    search_archive_free(copy);
    for (size_t i = 0; i < n; i++)
        ASSERT_OK(search_archive_add(copy, &toy->space, &whole->point[i], &err));
}

/* The same proposal with a cache, whatever is in it, and without. */
static void cache_changes_nothing(const struct toy *toy, const struct search_archive *archive, struct search_options options, struct search_cache *cache,
                                  struct search_proposal *next)
{
    uint8_t level[MOST];
    struct search_proposal kept = {.level = level};
    options.cache = NULL;
    ASSERT_OK(search_propose(&toy->space, archive, &options, next, &err));
    options.cache = cache;
    ASSERT_OK(search_propose(&toy->space, archive, &options, &kept, &err));
    assert_int_equal(next->done, kept.done);
    assert_int_equal(next->low_fidelity, kept.low_fidelity);
    assert_string_equal(next->note, kept.note);
    if (!kept.done)
        assert_memory_equal(next->level, level, toy->n);
}

/* A search goes the same way with a cache, without one, from an archive that was read back, and with a cache of another moment or of other scores. */
static void restarts(const struct toy *toy, struct search_options options)
{
    struct search_archive whole = {0}, rebuilt = {0};
    struct search_cache cache = {0};
    options.num_initial = 6;
    options.num_trials = 30;
    options.cache = &cache;
    toy_run(toy, &options, false, &whole);
    for (size_t t = 0; t <= whole.n; t += t % 3 + 1) { /* the cache that is at the end serves from the beginning, with gaps */
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        copy_first(toy, &whole, t, &rebuilt);
        cache_changes_nothing(toy, &rebuilt, options, &cache, &next);
        assert_int_equal(next.done, t == whole.n);
        if (!next.done) {
            assert_memory_equal(level, whole.point[t].level, toy->n);
            assert_int_equal(next.low_fidelity, whole.point[t].low_fidelity);
        }
        for (size_t i = 0; i < t; i += 3)
            rebuilt.point[i].score += 0.1;
        cache_changes_nothing(toy, &rebuilt, options, &cache, &next);
    }
    search_archive_free(&whole);
    search_archive_free(&rebuilt);
    search_cache_free(&cache);
}

static void resume(void **state)
{
    (void)state;
    for (size_t k = 0; k < STRATEGIES; k++) {
        struct toy toy;
        pair_toy(&toy, 12, 3, 9);
        restarts(&toy, (struct search_options){.strategy = strategies[k], .seed = 3, .batch = 5});
    }
}

/* ---- amq ---- */

/* The 20 layers' probes lose 0.01 each but for two: 0.0201 is above two medians, 0.0199 is not.  What is pinned shows in the seeds after all-low.
 * Scores are linear and exact, so the interpolant meets them, if nothing outside the pins went into it: to the four digits of the note. */
static void amq_pins_above_two_medians(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "amq", .seed = 1, .num_initial = 12, .num_trials = 0};
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    double expected;
    toy_make(&toy, 20, 3, 1);
    toy.exact = true;
    for (size_t i = 0; i < 20; i++)
        toy.gain[i] = i == 4 ? 0.0201 : i == 7 ? 0.0199 : 0.01;
    toy_run(&toy, &options, false, &archive);
    bool lowered[20] = {false};
    for (size_t t = 22; t < archive.n; t++)
        for (size_t i = 0; i < 20; i++)
            lowered[i] = lowered[i] || archive.point[t].level[i] < 2;
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(lowered[i], i != 4);
    assert_int_equal(archive.point[21].level[4], 0); /* all-low is all low */
    options.num_trials = 1;
    ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
    assert_int_equal(sscanf(next.note, "amq: rbf expects %lf, 1 pinned", &expected), 1);
    assert_true(fabs(expected - toy_truth(&toy, level)) <= 1e-4);
    search_archive_free(&archive);
}

/* Where a third of the layers lose much, pins still leave nine tenths of the axis; of 20 layers that noise alone tells apart hardly any is pinned: a loss must be
 * 2.8 of its standard deviations above the others, 0.05 of 20 layers. */
static void amq_pins_few(void **state)
{
    (void)state;
    size_t pinned[2] = {0};
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = {.strategy = "amq", .seed = seed, .num_initial = 40, .num_trials = 0};
        bool noisy = seed > 0;
        toy_make(&toy, 20, 3, 1);
        toy.exact = !noisy;
        for (size_t i = 0; i < 20; i++)
            toy.gain[i] = noisy ? 0.001 : i % 3 == 0 ? 0.05 : 0.01;
        toy_run(&toy, &options, false, &archive);
        for (size_t i = 0; i < 20; i++) {
            bool lowered = false;
            for (size_t t = 22; t < archive.n; t++)
                lowered = lowered || archive.point[t].level[i] < 2;
            pinned[noisy] += !lowered;
        }
        search_archive_free(&archive);
    }
    print_message("amq: pinned by noise: %zu of 100\n", pinned[1]);
    assert_int_equal(pinned[0], 2);
    assert_true(pinned[1] <= 1);
}

static void amq_with_other_predictors(void **state)
{
    (void)state;
    static const char *const names[] = {"gp", "mlp"};
    double random = median_worth("random", NULL, false, INFINITY);
    for (int k = 0; k < 2; k++) {
        double volume = median_worth("amq", names[k], false, INFINITY);
        print_message("noisy: median hypervolume amq with %s %.4f, random %.4f\n", names[k], volume, random);
        assert_true(volume >= random);
        struct toy toy;
        pair_toy(&toy, 10, 3, 9);
        restarts(&toy, (struct search_options){.strategy = "amq", .predictor = names[k], .seed = 3});
    }
}

static void amq_predictor_by_name(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "amq", .num_initial = 1, .predictor = "spline"};
    struct err said;
    uint8_t level[MOST] = {0};
    struct search_proposal next = {.level = level};
    toy_make(&toy, 1, 1, 1); /* one level: the only probe is all-high */
    struct search_point point = toy_measure(&toy, level, 1, 0);
    ASSERT_OK(search_archive_add(&archive, &toy.space, &point, &err));
    assert_refused(search_propose(&toy.space, &archive, &options, &next, &said), ERR_INPUT, &said, "", "amq_predictor = 'spline', want rbf, gp or mlp");
    search_archive_free(&archive);
}

/* With a budget, the first half of every batch has the largest sizes of the batch, largest first. */
static void amq_looks_close_to_the_budget(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "amq", .seed = 2, .num_initial = 8, .num_trials = 32, .batch = 8};
    pair_toy(&toy, LAYERS, 3, 5);
    toy.exact = true;
    toy.space.max_size = LAYERS * 700;
    toy_run(&toy, &options, false, &archive);
    for (size_t begin = LAYERS + 1 + 8; begin + 8 <= archive.n; begin += 8)
        for (size_t i = begin; i < begin + 4; i++)
            for (size_t k = i + 1; k < begin + 8; k++)
                assert_true(archive.point[i].size >= archive.point[k].size);
    search_archive_free(&archive);
}

/* ---- dp ---- */

enum { SMALL = 6, ALL = 729 }; /* 3^6 configurations */

static void nth(size_t t, uint8_t *level)
{
    for (size_t i = 0; i < SMALL; i++, t /= 3)
        level[i] = (uint8_t)(t % 3);
}

/* A toy of six layers, the later the smaller, and what each configuration of it loses by the probes: the sum over the layers.  `equal`: all gain the same, which
 * binary fractions hold exactly. */
static void small_toy(struct toy *toy, double scale, bool equal, double loss[ALL], double size[ALL])
{
    toy_make(toy, SMALL, 3, 12);
    if (!equal)
        toy_pair(toy);
    toy->exact = true;
    for (size_t i = 0; i < SMALL; i++) {
        toy->bytes[i] = scale * (double)(100 + 7 * (SMALL - i) * (SMALL - i));
        toy->gain[i] = equal ? 0.0625 : toy->gain[i];
    }
    for (size_t t = 0; t < ALL; t++) {
        uint8_t level[MOST] = {2, 2, 2, 2, 2, 2};
        double top = toy_truth(toy, level);
        nth(t, level);
        size[t] = toy_size(toy, level);
        loss[t] = 0;
        for (size_t i = 0; i < SMALL; i++) {
            uint8_t alone[MOST] = {2, 2, 2, 2, 2, 2};
            alone[i] = level[i];
            loss[t] += top - toy_truth(toy, alone);
        }
    }
}

static size_t number_of(const uint8_t *level)
{
    size_t t = 0;
    for (size_t i = SMALL; i-- > 0;)
        t = 3 * t + level[i];
    return t;
}

/* Every solution of the knapsack, by which a note begins, is that of counting through: nothing within its size loses less, nothing smaller loses as little.  Losses are sums of six, so they agree to
 * a few eps of their size, 0.5. */
static void check_solutions(const char *strategy, const char *solution, bool equal)
{
    static double loss[ALL], size[ALL];
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = strategy, .seed = 1, .num_initial = 100, .num_trials = 100};
    size_t solutions = 0;
    small_toy(&toy, 1, equal, loss, size);
    for (;;) {
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        size_t t = number_of(level);
        if (next.done || strstr(next.note, "random") || strstr(next.note, "expects"))
            break;
        if (strncmp(next.note, solution, strlen(solution)) == 0) {
            for (size_t k = 0; k < ALL; k++)
                assert_false(size[k] <= size[t] && (loss[k] < loss[t] - 1e-15 || (size[k] < size[t] && loss[k] <= loss[t])));
            solutions++;
        }
        struct search_point point = toy_measure(&toy, level, 1, archive.n);
        ASSERT_OK(search_archive_add(&archive, &toy.space, &point, &err));
    }
    print_message("%s: %zu solutions before the targets were used up\n", strategy, solutions);
    assert_true(solutions >= 6);
    search_archive_free(&archive);
}

static void dp_is_brute_force(void **state)
{
    (void)state;
    check_solutions("dp", "dp:", false);
    check_solutions("dp", "dp:", true);
}

/* Losses between the probed ends lie on the line here, so the knapsack over the lowest levels alone is exact. */
static void amq_seeds_are_brute_force(void **state)
{
    (void)state;
    check_solutions("amq", "amq: seed by the knapsack", true);
}

/* At every budget the first proposal is the best within it (bytes of whole numbers: exactly), unless a probe was that already. */
static void dp_meets_the_budget(void **state)
{
    (void)state;
    static double loss[ALL], size[ALL];
    for (int whole = 0; whole < 2; whole++) {
        struct toy toy;
        small_toy(&toy, whole ? 1 : sqrt(2), false, loss, size);
        for (size_t b = 0; b < ALL; b += 11) {
            struct search_archive archive = {0};
            struct search_options options = {.strategy = "dp", .seed = 1, .num_initial = 1};
            uint8_t level[MOST];
            toy.space.max_size = size[b];
            toy_run(&toy, &options, false, &archive);
            size_t best = 0;
            for (size_t k = 0; k < ALL; k++)
                if (size[k] <= size[b] && (size[best] > size[b] || loss[k] < loss[best]))
                    best = k;
            nth(best, level);
            bool probed = false;
            for (size_t i = 0; i + 1 < archive.n; i++)
                probed = probed || memcmp(archive.point[i].level, level, SMALL) == 0;
            assert_true(archive.point[archive.n - 1].size <= size[b]);
            if (whole && !probed)
                assert_true(loss[number_of(archive.point[archive.n - 1].level)] <= loss[best] + 1e-15);
            search_archive_free(&archive);
        }
    }
}

/* A level whose probe failed is proposed only where nothing else fits. */
static void dp_avoids_failed_levels(void **state)
{
    (void)state;
    static double loss[ALL], size[ALL];
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "dp", .seed = 1, .num_initial = 2, .num_trials = 6};
    small_toy(&toy, 1, false, loss, size);
    toy.fails = 2;
    toy_run(&toy, &options, false, &archive);
    for (size_t i = 13; i < archive.n; i++)
        assert_true(archive.point[i].level[2] > 0 || archive.point[i].size < size[0] + 4 * toy.bytes[2]);
    search_archive_free(&archive);
}

/* ---- evopress ---- */

/* At a fixed size it ends at the best of all configurations; all but the start are offspring, at most a level's step below the budget. */
static void evopress_finds_the_optimum(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct toy toy;
        struct search_archive archive = {0};
        struct search_options options = {.strategy = "evopress", .seed = seed, .num_initial = 10, .num_trials = 50};
        double best = 0, optimum = 0;
        toy_make(&toy, SMALL, 3, seed);
        toy.exact = true;
        toy.space.max_size = SMALL * 800;
        for (size_t t = 0; t < ALL; t++) {
            uint8_t level[MOST];
            nth(t, level);
            if (search_fits(&toy.space, level))
                optimum = fmax(optimum, toy_truth(&toy, level));
        }
        toy_run(&toy, &options, false, &archive);
        for (size_t i = 0; i < archive.n; i++) {
            best = fmax(best, archive.point[i].score);
            assert_true(archive.point[i].size > toy.space.max_size - 400);
        }
        assert_true(best > archive.point[0].score);
        assert_true(best == optimum);
        search_archive_free(&archive);
    }
}

/* With a low fidelity a generation is four short trials of new offspring and a full one of the best of them, and costs 2. */
static void evopress_tries_short_first(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "evopress", .seed = 2, .num_initial = 1, .num_trials = 20, .low_cost = 0.25};
    pair_toy(&toy, LAYERS, 3, 5);
    toy.space.max_size = LAYERS * 700;
    toy_run(&toy, &options, false, &archive);
    assert_int_equal(archive.n, 1 + 10 * 5);
    for (size_t begin = 1; begin < archive.n; begin += 5) {
        size_t best = begin;
        for (size_t i = begin; i < begin + 4; i++) {
            assert_true(archive.point[i].low_fidelity);
            best = archive.point[i].score > archive.point[best].score ? i : best;
            for (size_t k = 0; k < i; k++)
                assert_true(memcmp(archive.point[i].level, archive.point[k].level, LAYERS) != 0);
        }
        assert_false(archive.point[begin + 4].low_fidelity);
        assert_memory_equal(archive.point[begin + 4].level, archive.point[best].level, LAYERS);
    }
    search_archive_free(&archive);
    toy_run(&toy, &options, true, &archive); /* all fail: new starts in full */
    assert_int_equal(archive.n, 21);
    search_archive_free(&archive);
    toy.space.max_size = INFINITY;
    restarts(&toy, options);
}

/* A batch at 300 trials of 57 layers is not felt beside one trial. */
static void amq_batch_is_quick(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "random", .seed = 1, .num_initial = 10, .num_trials = 290};
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    pair_toy(&toy, 57, 3, 1);
    toy_run(&toy, &options, false, &archive);
    options = (struct search_options){.strategy = "amq", .seed = 1, .num_initial = 10, .num_trials = 400};
    double begun = now_ms();
    ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
    begun = now_ms() - begun;
    print_message("a batch of amq at 300 trials of 57 layers: %.0f ms (%s)\n", begun, next.note);
#ifndef __SANITIZE_ADDRESS__
    assert_true(begun <= 1000);
#endif
    search_archive_free(&archive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beat_random_at_equal_trials),
        cmocka_unit_test(failed_trials),
        cmocka_unit_test(small_spaces),
        cmocka_unit_test(equal_scores),
        cmocka_unit_test(resume),
        cmocka_unit_test(amq_pins_above_two_medians),
        cmocka_unit_test(amq_pins_few),
        cmocka_unit_test(amq_with_other_predictors),
        cmocka_unit_test(amq_predictor_by_name),
        cmocka_unit_test(amq_looks_close_to_the_budget),
        cmocka_unit_test(amq_batch_is_quick),
        cmocka_unit_test(dp_is_brute_force),
        cmocka_unit_test(amq_seeds_are_brute_force),
        cmocka_unit_test(dp_meets_the_budget),
        cmocka_unit_test(dp_avoids_failed_levels),
        cmocka_unit_test(evopress_finds_the_optimum),
        cmocka_unit_test(evopress_tries_short_first),
    };
    return cmocka_run_group_tests_name("strategies", tests, choice_setup, NULL);
}
