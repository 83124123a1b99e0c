/* search_prior_test.c: what a search gains from another one's trials.  What a user would miss: a prior that is looked up at the wrong layers, that does not help
 * where the other model is alike, or that costs trials where it is not. */
#include "search_toy.h"

#include "search_prior.h"

/* Gains by relative depth: late layers matter, early ones do not; turned: the other way round. */
static void by_depth(struct toy *toy, size_t n, bool turned)
{
    toy_make(toy, n, 2, 1);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double depth = ((double)i + 0.5) / (double)n;
        sum += toy->gain[i] = 0.02 + pow(turned ? 1 - depth : depth, 4);
    }
    for (size_t i = 0; i < n; i++)
        toy->gain[i] *= 0.5 / sum;
}

static void learn(struct search_prior *prior, const struct toy *teacher, const struct toy *toy, uint64_t seed)
{
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "gp", .seed = seed, .num_initial = 10, .num_trials = 20};
    toy_run(teacher, &options, false, &archive);
    ASSERT_OK(search_prior_new(prior, &teacher->space, &archive, &toy->space, &err));
    search_archive_free(&archive);
}

/* Each variable looks at its own depth, and what the process knows of the first and the last layer is found there. */
static void a_counterpart_is_found_by_depth(void **state)
{
    (void)state;
    static const size_t layers[][2] = {{12, 12}, {8, 12}, {12, 8}, {5, 3}};
    for (size_t c = 0; c < sizeof layers / sizeof *layers; c++) {
        struct toy teacher, toy;
        struct search_prior prior;
        uint8_t level[MOST] = {0};
        by_depth(&teacher, layers[c][0], false);
        by_depth(&toy, layers[c][1], false);
        teacher.exact = true;
        learn(&prior, &teacher, &toy, 1);
        size_t n = toy.n;
        for (size_t j = 0; j < prior.d; j++) {
            double sum = 0, depth = 0;
            for (size_t i = 0; i < n; i++) {
                sum += prior.share[j * n + i];
                depth += prior.share[j * n + i] * ((double)i + 0.5) / (double)n;
            }
            assert_true(fabs(sum - 1) <= 1e-12);
            assert_true(fabs(depth - ((double)j + 0.5) / (double)prior.d) <= 0.5 / (double)n); /* a layer's half */
            assert_true(layers[c][0] != layers[c][1] || prior.share[j * n + j] == 1);
        }
        double low = search_prior_mean(&prior, &toy.space, level);
        level[n - 1] = 1;
        double last = search_prior_mean(&prior, &toy.space, level);
        level[n - 1] = 0;
        level[0] = 1;
        double first = search_prior_mean(&prior, &toy.space, level);
        assert_true(last - low > 3 * fabs(first - low)); /* truly 20 times and more */
        search_prior_free(&prior);
    }
}

/* Formats stay with formats and places in a layer with theirs; where a layer has one variable and the other seven, it is all of them. */
static void kinds_and_places(void **state)
{
    (void)state;
    static const uint8_t kinds[] = {SEARCH_FORMAT, SEARCH_FORMAT, SEARCH_FORMAT, SEARCH_FORMAT, SEARCH_RANK, SEARCH_RANK};
    static const uint16_t groups[] = {0, 0, 1, 1, 0, 1};
    struct toy teacher, toy;
    struct search_prior prior;
    toy_make(&teacher, 4, 2, 1);
    toy_make(&toy, 6, 2, 1);
    toy.space.kind = kinds;
    toy.space.group = groups;
    teacher.space.group = groups; /* two linears in each of two layers */
    learn(&prior, &teacher, &toy, 1);
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < 6; i++)
            assert_true(prior.share[j * 6 + i] == (i == j));
    search_prior_free(&prior);
    teacher.space.group = NULL; /* four layers, of which two lie in each of this model's */
    learn(&prior, &teacher, &toy, 1);
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < 6; i++)
            assert_true(prior.share[j * 6 + i] == (i < 4 && i / 2 == j / 2 ? 0.5 : 0));
    search_prior_free(&prior);
}

static double volume_with(const struct toy *toy, const struct search_prior *prior, uint64_t seed)
{
    struct toy copy = *toy;
    struct search_archive archive = {0};
    struct search_options options = {.strategy = "gp", .seed = seed, .num_initial = 8, .num_trials = 12};
    copy.space.user = &copy;
    copy.space.n_levels = copy.n_levels;
    copy.space.feature = copy.feature;
    copy.space.prior = prior;
    toy_run(&copy, &options, false, &archive);
    double volume = toy_volume(&copy, &archive);
    search_archive_free(&archive);
    return volume;
}

/* Over 16 seeds a prior of a model alike, with another number of layers, finds more in 20 trials; one that is turned around costs less than that gain. */
static void a_prior_helps_or_costs_nothing(void **state)
{
    (void)state;
    double without = 0, alike = 0, misleading = 0;
    for (uint64_t seed = 1; seed <= 16; seed++) {
        struct toy toy, teacher, turned;
        struct search_prior good, bad;
        by_depth(&toy, 16, false);
        by_depth(&teacher, 10, false);
        by_depth(&turned, 10, true);
        learn(&good, &teacher, &toy, 100 + seed);
        learn(&bad, &turned, &toy, 100 + seed);
        without += volume_with(&toy, NULL, seed) / 16;
        alike += volume_with(&toy, &good, seed) / 16;
        misleading += volume_with(&toy, &bad, seed) / 16;
        search_prior_free(&good);
        search_prior_free(&bad);
    }
    print_message("volume: without %.4f, alike %.4f, misleading %.4f\n", without, alike, misleading);
    assert_true(alike > without);
    assert_true(misleading > without - (alike - without));
}

static void no_trial_no_prior(void **state)
{
    (void)state;
    struct toy toy;
    struct search_prior prior;
    struct search_archive none = {0};
    struct err err;
    toy_make(&toy, 4, 2, 1);
    assert_int_equal(search_prior_new(&prior, &toy.space, &none, &toy.space, &err), ERR_INPUT);
    assert_string_equal(err.text, "no trial succeeded, want a search that learnt something");
    search_prior_free(&prior);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_counterpart_is_found_by_depth),
        cmocka_unit_test(kinds_and_places),
        cmocka_unit_test(a_prior_helps_or_costs_nothing),
        cmocka_unit_test(no_trial_no_prior),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
