/* search_toy.h: a space of which the truth is known, for tests of searches: sizes and scores add up over layers, neighbours may make each other worse,
 * scores are measured with the noise of counted answers. */
#ifndef VENEER_TEST_SEARCH_TOY_H
#define VENEER_TEST_SEARCH_TOY_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "pareto.h"
#include "search.h"
#include "search_strategies.h"

#define ASSERT_OK(call)                                                       \
    do {                                                                      \
        struct err err = {""};                                                \
        enum status status_ = (call);                                         \
        if (status_ != OK)                                                    \
            fail_msg("%s: status %d, %s", #call, (int)status_, err.text);     \
    } while (0)

enum { MOST = 64, QUESTIONS = 400 };

/* ---- the toy: size = sum of bytes, score = 0.25 + sum of what each raised layer brings ---- */

struct toy {
    size_t n;
    uint8_t n_levels[MOST];
    const double *feature[MOST];
    double bytes[MOST], gain[MOST];
    double pair[MOST]; /* what i and i + 1 lose together when both are low; 0: nothing */
    bool exact;        /* scores without noise */
    size_t ratio;      /* this one, alone without bytes, scales those of all others; MOST: none */
    size_t fails;      /* a trial with this layer at its lowest level fails; MOST: none */
    struct search_space space;
};

static inline double toy_size(void *user, const uint8_t *level)
{
    const struct toy *toy = user;
    double size = 0;
    for (size_t i = 0; i < toy->n; i++)
        size += i == toy->ratio ? 0 : toy->bytes[i] * (4 + 4.0 * level[i]);
    return toy->ratio < toy->n ? size * (0.5 + 0.5 * toy->feature[toy->ratio][level[toy->ratio]]) : size;
}

/* Few layers matter much, most hardly at all, as in a model. */
static inline void toy_make(struct toy *toy, size_t n, uint8_t levels, uint64_t seed)
{
    static const double axis[4][4] = {{0}, {0, 1}, {0, 0.5, 1}, {0, 1.0 / 3, 2.0 / 3, 1}};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD};
    double sum = 0;
    memset(toy, 0, sizeof *toy);
    toy->n = n;
    toy->fails = toy->ratio = MOST;
    for (size_t i = 0; i < n; i++) {
        toy->n_levels[i] = levels;
        toy->feature[i] = axis[levels - 1];
        toy->bytes[i] = 100;
        toy->gain[i] = pow(rng_uniform(&rng), 4) + 0.02;
        sum += toy->gain[i];
    }
    for (size_t i = 0; i < n; i++)
        toy->gain[i] *= 0.5 / sum;
    toy->space = (struct search_space){.n = n, .n_levels = toy->n_levels, .feature = toy->feature, .size = toy_size, .user = toy,
                                       .max_size = INFINITY};
}

/* Neighbours lose 0.1 together when all are low. */
static inline void toy_pair(struct toy *toy)
{
    for (size_t i = 0; i + 1 < toy->n; i++)
        toy->pair[i] = 0.1 / (double)(toy->n - 1);
}

static inline double toy_truth(const struct toy *toy, const uint8_t *level)
{
    double score = 0.25;
    for (size_t i = 0; i < toy->n; i++)
        score += toy->gain[i] * toy->feature[i][level[i]];
    for (size_t i = 0; i + 1 < toy->n; i++)
        score -= toy->pair[i] * (1 - toy->feature[i][level[i]]) * (1 - toy->feature[i + 1][level[i + 1]]);
    return score;
}

/* The share of QUESTIONS that are answered, each with the true probability. */
static inline struct search_point toy_measure(const struct toy *toy, const uint8_t *level, uint64_t seed, size_t trial)
{
    struct rng rng = {.seed = seed, .stream = RNG_SAMPLE, .step = (uint32_t)trial};
    double truth = toy_truth(toy, level), right = 0;
    for (int q = 0; q < QUESTIONS; q++)
        right += rng_uniform(&rng) < truth;
    double p = right / QUESTIONS;
    struct search_point point = {.level = level, .size = toy_size((void *)(uintptr_t)toy, level), .score = p, .variance = p * (1 - p) / QUESTIONS};
    if (toy->exact) {
        point.score = truth;
        point.variance = 0;
    }
    point.failed = toy->fails < toy->n && level[toy->fails] == 0;
    return point;
}

/* Runs a search to its end; every proposal is new and, after the probes, fits. */
static inline void toy_run(const struct toy *toy, const struct search_options *options, bool failing, struct search_archive *archive)
{
    const struct strategy *strategy;
    ASSERT_OK(search_strategy_find(options->strategy, &strategy, &err));
    size_t probes = search_probe_count(&toy->space, strategy->probes);
    for (;;) {
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        memset(level, 255, sizeof level);
        ASSERT_OK(search_propose(&toy->space, archive, options, &next, &err));
        assert_true(strlen(next.note) < sizeof next.note);
        if (next.done)
            return;
        for (size_t i = 0; i < toy->n; i++)
            assert_true(level[i] < toy->n_levels[i]);
        assert_false(search_archive_has(archive, &toy->space, level));
        assert_true(archive->n < probes || toy_size((void *)(uintptr_t)toy, level) <= toy->space.max_size);
        struct search_point point = toy_measure(toy, level, options->seed, archive->n);
        point.failed = point.failed || failing;
        point.low_fidelity = next.low_fidelity;
        ASSERT_OK(search_archive_add(archive, &toy->space, &point, &err));
    }
}

/* What the tried configurations are truly worth: on axes that all-low and all-high span. */
static inline double toy_volume(const struct toy *toy, const struct search_archive *archive)
{
    uint8_t low[MOST] = {0}, high[MOST];
    struct pareto_point *p = malloc((archive->n + 1) * sizeof *p);
    double volume = 0;
    assert_non_null(p);
    for (size_t i = 0; i < toy->n; i++)
        high[i] = (uint8_t)(toy->n_levels[i] - 1);
    double s0 = toy_size((void *)(uintptr_t)toy, low), s1 = toy_size((void *)(uintptr_t)toy, high), p0 = toy_truth(toy, low), p1 = toy_truth(toy, high);
    size_t n = 0;
    for (size_t i = 0; i < archive->n; i++)
        if (!archive->point[i].failed && !archive->point[i].low_fidelity)
            p[n++] = (struct pareto_point){(archive->point[i].size - s0) / (s1 - s0), (p1 - toy_truth(toy, archive->point[i].level)) / (p1 - p0), 0};
    ASSERT_OK(pareto_hypervolume(p, n, (struct pareto_point){1.1, 1.1, 1}, &volume, &err));
    free(p);
    return volume;
}

#endif
