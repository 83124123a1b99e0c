/* random.c: the baseline: configurations stratified over mean size, none twice. */
#include <stdio.h>

#include "search_strategies.h"

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    (void)err;
    struct rng rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n};
    /* golden-ratio steps fill the size axis evenly for any number of trials */
    double step = (double)archive->n * 0.61803398874989485, fraction = step - (double)(long)step;
    next->done = !search_draw_new(space, archive, &rng, fraction, next->level);
    snprintf(next->note, sizeof next->note, "random: mean level %.2f", fraction);
    return OK;
}

const struct strategy strategy_random = {.name = "random", .any_size = true, .propose = propose};
