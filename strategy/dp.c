/* dp.c: DartMQ's way: what each variable loses alone is taken to add up, and the knapsack over the bytes is solved exactly, for one size after the other (knapsack.h).
 * What it is not: it learns nothing from the trials after the probes. */
#include <math.h>
#include <stdio.h>

#include "strategy/knapsack.h"

/* Target t: the upper end first, then golden-ratio steps, which fill the axis evenly for any number of trials. */
static double target(size_t t)
{
    double step = (double)t * 0.61803398874989485;
    return t == 0 ? 1 : step - floor(step);
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct rng rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n};
    struct knapsack sack;
    size_t t = archive->n - search_probe_count(space, PROBE_EVERY), targets = options->num_initial + options->num_trials;
    enum status status = knapsack_new(&sack, space, archive, PROBE_EVERY, next->level, err);
    bool found = false;
    for (size_t s = 0; status == OK && !found && s < targets; s++) {
        knapsack_solution(&sack, target((t + s) % targets), next->level);
        found = search_fits(space, next->level) && !search_archive_has(archive, space, next->level);
        snprintf(next->note, sizeof next->note, "dp: the best sum of losses within %.3f of the axis", target((t + s) % targets));
    }
    if (status == OK && !found) {
        next->done = !search_draw_new(space, archive, &rng, target(t), next->level);
        snprintf(next->note, sizeof next->note, "dp: all targets are tried, a random one");
    }
    knapsack_free(&sack);
    return status;
}

const struct strategy strategy_dp = {.name = "dp", .probes = PROBE_EVERY, .own_seeds = true, .propose = propose};
