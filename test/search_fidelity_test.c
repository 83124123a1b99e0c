/* search_fidelity_test.c: gp with short trials.  What a user would miss: short trials that were not asked for, a budget spent on them alone, a resumed search that
 * goes another way, a full trial of what diverged when short, a second task that does not help where short trials tell much or costs much where they tell nothing. */
#include "search_toy.h"

#include "choice.h"

enum how { ALIKE, OF_ITS_OWN };

/* A short trial's score: a third lower, without noise to speak of, and of the toy's truth or of a world of its own. */
static struct search_point measure(const struct toy *toy, const struct search_proposal *next, enum how how, uint64_t seed, size_t trial)
{
    struct search_point point = toy_measure(toy, next->level, seed, trial);
    if (!next->low_fidelity)
        return point;
    struct rng rng = {.seed = 77, .stream = RNG_WORLD};
    double other = 0;
    for (size_t i = 0; i < toy->n; i++)
        other += 0.5 / (double)toy->n * (1 - 2 * rng_uniform(&rng)) * 2 * toy->feature[i][next->level[i]];
    point.score = how == ALIKE ? 2.0 / 3 * toy_truth(toy, next->level) : 0.3 + other;
    point.variance = 1e-6;
    point.low_fidelity = true;
    return point;
}

static void go(const struct toy *toy, const struct search_options *options, enum how how, struct search_archive *archive)
{
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    for (;;) {
        ASSERT_OK(search_propose(&toy->space, archive, options, &next, &err));
        if (next.done)
            return;
        for (size_t i = 0; i < archive->n; i++) /* nothing is measured twice alike */
            assert_true(archive->point[i].low_fidelity != next.low_fidelity || memcmp(archive->point[i].level, level, toy->n) != 0);
        struct search_point point = measure(toy, &next, how, options->seed, archive->n);
        ASSERT_OK(search_archive_add(archive, &toy->space, &point, &err));
    }
}

static struct search_options options_of(uint64_t seed, size_t num_trials, double low_cost)
{
    return (struct search_options){.strategy = "gp", .seed = seed, .num_initial = 8, .num_trials = num_trials, .low_cost = low_cost};
}

/* The seed set in full, then short trials of as many seeds as one full trial pays for, the ends of it among them; no run of short trials costs more than that,
 * and the last trial is full. */
static void order_and_budget(void **state)
{
    (void)state;
    static const struct {
        double cost;
        size_t pairs;
    } cases[] = {{0.25, 4}, {0.1, 8}, {0.4, 2}, {1, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            struct toy toy;
            struct search_archive archive = {0};
            struct search_options options = options_of(seed, 12, cases[c].cost);
            size_t run = 0, n = 0;
            toy_make(&toy, 12, 2, seed);
            go(&toy, &options, ALIKE, &archive);
            for (size_t i = 0; i < archive.n; i++) {
                run = archive.point[i].low_fidelity ? run + 1 : 0;
                n += archive.point[i].low_fidelity;
                assert_true((double)run * cases[c].cost <= 1 + 1e-6);
                assert_int_equal(i < 8 && archive.point[i].low_fidelity, 0);
                if (i >= 8 && i < 8 + cases[c].pairs)
                    assert_true(archive.point[i].low_fidelity && search_archive_has(&archive, &toy.space, archive.point[i].level));
            }
            assert_memory_equal(archive.point[8].level, archive.point[0].level, toy.n);
            assert_true(cases[c].pairs < 2 || memcmp(archive.point[7 + cases[c].pairs].level, archive.point[7].level, toy.n) == 0);
            double spent = search_spent(&archive, &options, 0);
            assert_true(spent >= 20 - 1e-6 && spent < 21 && run == 0 && n >= cases[c].pairs);
            search_archive_free(&archive);
        }
}

static void a_resumed_search_goes_the_same_way(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive whole = {0}, rebuilt = {0};
    struct search_options options = options_of(2, 10, 0.1);
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    size_t n = 0;
    toy_make(&toy, 10, 3, 5);
    go(&toy, &options, ALIKE, &whole);
    for (size_t t = 0; t < whole.n; t++) {
        ASSERT_OK(search_propose(&toy.space, &rebuilt, &options, &next, &err));
        assert_memory_equal(level, whole.point[t].level, toy.n);
        assert_int_equal(next.low_fidelity, whole.point[t].low_fidelity);
        ASSERT_OK(search_archive_add(&rebuilt, &toy.space, &whole.point[t], &err));
        n += next.low_fidelity;
    }
    assert_true(n > 8); /* more than the seeds' */
    search_archive_free(&whole);
    search_archive_free(&rebuilt);
}

/* Where every short trial diverges none of their configurations but seeds, tried before, is tried in full, and the search goes on. */
static void what_diverged_short_is_left(void **state)
{
    (void)state;
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(1, 12, 0.1);
    uint8_t level[MOST];
    struct search_proposal next = {.level = level};
    size_t full = 0;
    toy_make(&toy, 10, 2, 3);
    for (;;) {
        ASSERT_OK(search_propose(&toy.space, &archive, &options, &next, &err));
        if (next.done)
            break;
        for (size_t i = 8; i < archive.n; i++)
            assert_true(next.low_fidelity || !archive.point[i].low_fidelity || memcmp(archive.point[i].level, level, toy.n) != 0);
        struct search_point point = measure(&toy, &next, ALIKE, 1, archive.n);
        point.failed = next.low_fidelity;
        ASSERT_OK(search_archive_add(&archive, &toy.space, &point, &err));
        full += !next.low_fidelity;
    }
    assert_true(full >= 16);
    search_archive_free(&archive);
}

static double volume_of(size_t layers, enum how how, double low_cost, uint64_t seed)
{
    struct toy toy;
    struct search_archive archive = {0};
    struct search_options options = options_of(seed, 16, low_cost);
    toy_make(&toy, layers, 2, 200 + seed);
    go(&toy, &options, how, &archive);
    for (size_t i = 0; low_cost == 0 && i < archive.n; i++)
        assert_false(archive.point[i].low_fidelity);
    double volume = toy_volume(&toy, &archive);
    search_archive_free(&archive);
    return volume;
}

/* At equal cost, eight seeds of 24 layers: short trials that go the same way find more; those of a world of their own lose less than a fiftieth. */
static void worth_their_cost(void **state)
{
    (void)state;
    double without = 0, alike = 0, own = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        without += volume_of(24, ALIKE, 0, seed) / 8;
        alike += volume_of(24, ALIKE, 0.1, seed) / 8;
        own += volume_of(24, OF_ITS_OWN, 0.1, seed) / 8;
    }
    print_message("hypervolume at the cost of 24 full trials: without short ones %.4f, with such as go the same way %.4f, with others %.4f\n", without, alike, own);
    assert_true(alike > without);
    assert_true(own > 0.98 * without);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_and_budget),
        cmocka_unit_test(a_resumed_search_goes_the_same_way),
        cmocka_unit_test(what_diverged_short_is_left),
        cmocka_unit_test(worth_their_cost),
    };
    return cmocka_run_group_tests_name("short trials of gp", tests, choice_setup, NULL);
}
