/* autoqra_toy.h: a world where a higher rank makes up for a low format, and searches in it. */
#ifndef VENEER_TEST_AUTOQRA_TOY_H
#define VENEER_TEST_AUTOQRA_TOY_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "base/rng.h"
#include "search.h"

#define ASSERT_OK(call)                                                       \
    do {                                                                      \
        struct err err = {""};                                                \
        enum status status_ = (call);                                         \
        if (status_ != OK)                                                    \
            fail_msg("%s: status %d, %s", #call, (int)status_, err.text);     \
    } while (0)

enum { GROUPS = 16, MOST = 2 * GROUPS, QUESTIONS = 400 };

/* ---- the toy: of each group a format (2, 3, 4, 8 bits) and a rank (4, 8, 16).  A format loses `loss`, of which the rank gives back up to 0.7 ---- */

struct toy {
    uint8_t n_levels[MOST], kind[MOST], least[MOST];
    uint16_t group[MOST];
    const double *feature[MOST];
    double loss[GROUPS], gives_back[GROUPS], importance[MOST];
    struct search_space space;
};

static inline double toy_size(void *user, const uint8_t *level)
{
    static const double bits[] = {2, 3, 4, 8}, rank[] = {4, 8, 16};
    const struct toy *toy = user;
    double size = 0;
    for (size_t i = 0; i < toy->space.n; i++)
        size += toy->kind[i] == SEARCH_RANK ? 60 * rank[level[i]] : 1000 * bits[level[i]];
    return size;
}

/* Few groups matter much; what is known of each is right within a factor of 1.5 or so. */
static inline void toy_make(struct toy *toy, size_t groups, uint64_t seed)
{
    static const double formats[] = {0, 1.0 / 6, 1.0 / 3, 1}, ranks[] = {0, 0.5, 1};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD};
    double sum = 0;
    memset(toy, 0, sizeof *toy);
    for (size_t g = 0; g < groups; g++) {
        toy->loss[g] = pow(rng_uniform(&rng), 3) + 0.03;
        toy->gives_back[g] = 0.7 * rng_uniform(&rng);
        sum += toy->loss[g];
    }
    for (size_t i = 0; i < 2 * groups; i++) {
        bool rank = i & 1;
        toy->loss[i / 2] *= rank ? 1 : 0.5 / sum;
        toy->n_levels[i] = rank ? 3 : 4;
        toy->kind[i] = rank ? SEARCH_RANK : SEARCH_FORMAT;
        toy->group[i] = (uint16_t)(i / 2);
        toy->feature[i] = rank ? ranks : formats;
        toy->importance[i] = toy->loss[i / 2] * (rank ? toy->gives_back[i / 2] : 1) * exp(0.4 * rng_normal(&rng));
    }
    toy->space = (struct search_space){.n = 2 * groups, .n_levels = toy->n_levels, .feature = toy->feature, .size = toy_size, .user = toy,
                                       .max_size = INFINITY, .kind = toy->kind, .group = toy->group, .importance = toy->importance};
}

static inline double toy_truth(const struct toy *toy, const uint8_t *level)
{
    static const double lost[] = {1, 0.4, 0.15, 0}, ranks[] = {0, 0.5, 1};
    double score = 0.75;
    for (size_t i = 0; i + 1 < toy->space.n; i += 2)
        score -= toy->loss[i / 2] * lost[level[i]] * (1 - toy->gives_back[i / 2] * ranks[level[i + 1]]);
    return score;
}

/* The share of QUESTIONS that are answered; a cheap trial answers fewer. */
static inline struct search_point toy_measure(const struct toy *toy, const struct search_proposal *next, uint64_t seed, size_t trial)
{
    struct rng rng = {.seed = seed, .stream = RNG_SAMPLE, .step = (uint32_t)trial};
    double truth = toy_truth(toy, next->level), right = 0;
    for (int q = 0; q < QUESTIONS; q++)
        right += rng_uniform(&rng) < (next->low_fidelity ? 0.2 + 0.7 * truth : truth);
    double p = right / QUESTIONS;
    return (struct search_point){.level = next->level, .size = toy_size((void *)(uintptr_t)toy, next->level), .score = p,
                                 .variance = p * (1 - p) / QUESTIONS, .low_fidelity = next->low_fidelity};
}

static inline bool tried(const struct search_archive *archive, const uint8_t *level, size_t n)
{
    for (size_t i = 0; i < archive->n; i++)
        if (memcmp(archive->point[i].level, level, n) == 0)
            return true;
    return false;
}

static inline size_t edits_between(const uint8_t *a, const uint8_t *b)
{
    size_t edits = 0;
    for (size_t i = 0; i < MOST; i++)
        edits += (size_t)abs(a[i] - b[i]);
    return edits;
}

enum outcome { MEASURED, FAILING, SAME };

/* Goes on until `most` trials or its end (false); every proposal fits and has had no such trial. */
static inline bool toy_go_on(const struct toy *toy, const struct search_options *options, enum outcome outcome, size_t most, struct search_archive *archive)
{
    while (archive->n < most) {
        uint8_t level[MOST];
        struct search_proposal next = {.level = level};
        memset(level, 255, sizeof level);
        ASSERT_OK(search_propose(&toy->space, archive, options, &next, &err));
        assert_true(strlen(next.note) > 0 || next.done);
        if (next.done)
            return false;
        for (size_t i = 0; i < toy->space.n; i++)
            assert_true(level[i] >= toy->least[i] && level[i] < toy->n_levels[i]);
        assert_false(next.low_fidelity ? tried(archive, level, toy->space.n) : search_archive_has(archive, &toy->space, level));
        assert_true(options->low_cost > 0 || !next.low_fidelity);
        assert_true(toy_size((void *)(uintptr_t)toy, level) <= toy->space.max_size);
        struct search_point point = toy_measure(toy, &next, options->seed, archive->n);
        point.failed = outcome == FAILING;
        point.score = outcome == SAME ? 0.5 : point.score;
        ASSERT_OK(search_archive_add(archive, &toy->space, &point, &err));
    }
    return true;
}

static inline struct search_options options_of(uint64_t seed, size_t num_initial, size_t num_trials, double low_cost)
{
    return (struct search_options){.strategy = "autoqra", .seed = seed, .num_initial = num_initial, .num_trials = num_trials, .low_cost = low_cost};
}

#endif
