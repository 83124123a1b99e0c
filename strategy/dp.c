/* dp.c: DartMQ's way: what each variable loses alone is taken to add up, and the knapsack over the bytes is solved exactly, for one size after the other.
 *
 *     least sum_i loss_i(k_i)   with   sum_i bytes_i(k_i) <= target,     f_i[c] = min_k f_(i-1)[c - bytes_i(k)] + loss_i(k)
 * What it is not: it learns nothing from the trials after the probes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search_strategies.h"

enum { CELLS = 20000, STRIDE = 256 };

struct knapsack {
    const struct search_space *space;
    double *loss;      /* [n, STRIDE] */
    double *delta;     /* [n, STRIDE] bytes above the lowest level */
    double low, range; /* of the sizes: the ends */
    double unit;       /* bytes of a cell */
    size_t cells;
    double *least;     /* [cells + 1] least loss within so many cells */
    double *before;    /* [cells + 1] the same without the variable at hand */
    uint8_t *chosen;   /* [n, cells + 1] level of a variable there */
};

/* A failed probe costs more than all finite losses together can save, so it is chosen only where nothing else fits. */
static void price_failures(const struct search_space *space, double *loss)
{
    double sum = 1;
    for (size_t i = 0; i < space->n; i++) {
        double most = 0;
        for (size_t k = 0; k < space->n_levels[i]; k++)
            if (isfinite(loss[i * STRIDE + k]))
                most = fmax(most, fabs(loss[i * STRIDE + k]));
        sum += 2 * most;
    }
    for (size_t i = 0; i < space->n; i++)
        for (size_t k = 0; k < space->n_levels[i]; k++)
            if (!isfinite(loss[i * STRIDE + k]))
                loss[i * STRIDE + k] = sum;
}

/* The greatest common divisor of the bytes, or the finest unit for which the axis has CELLS. */
static double find_unit(const struct knapsack *sack)
{
    double unit = 0;
    for (size_t i = 0; i < sack->space->n; i++)
        for (size_t k = 0; k < sack->space->n_levels[i]; k++) {
            double a = fabs(sack->delta[i * STRIDE + k]), b = unit;
            while (b > 0) {
                double rest = fmod(a, b);
                a = b;
                b = rest;
            }
            unit = a;
        }
    return unit > 0 && sack->range <= CELLS * unit ? unit : sack->range / CELLS;
}

/* Rounded up, so that what fits in cells fits in bytes. */
static size_t cells_of(const struct knapsack *sack, size_t i, size_t k)
{
    double delta = sack->delta[i * STRIDE + k];
    return delta > 0 ? (size_t)fmin(ceil(delta / sack->unit), (double)sack->cells + 1) : 0;
}

/* All of the table: f_n in sack->least. */
static void fill(struct knapsack *sack)
{
    memset(sack->least, 0, (sack->cells + 1) * sizeof *sack->least);
    for (size_t i = 0; i < sack->space->n; i++) {
        uint8_t *chosen = sack->chosen + i * (sack->cells + 1);
        double *swap = sack->before;
        sack->before = sack->least;
        sack->least = swap;
        for (size_t c = 0; c <= sack->cells; c++)
            sack->least[c] = INFINITY;
        for (size_t k = search_least(sack->space, i); k < sack->space->n_levels[i]; k++) {
            double loss = sack->loss[i * STRIDE + k];
            size_t taken = cells_of(sack, i, k);
            for (size_t c = taken; c <= sack->cells; c++)
                if (sack->before[c - taken] + loss < sack->least[c]) {
                    sack->least[c] = sack->before[c - taken] + loss;
                    chosen[c] = (uint8_t)k;
                }
        }
    }
}

/* The best configuration within low + fraction of the range; of equal losses the smallest size. */
static void solution(const struct knapsack *sack, double fraction, uint8_t *level)
{
    double cells = floor(fraction * sack->range / sack->unit);
    size_t c = (size_t)fmin(cells, (double)sack->cells);
    while (c > 0 && sack->least[c - 1] <= sack->least[c])
        c--;
    for (size_t i = sack->space->n; i-- > 0;) {
        level[i] = sack->chosen[i * (sack->cells + 1) + c];
        c -= cells_of(sack, i, level[i]);
    }
}

static enum status prepare(struct knapsack *sack, const struct search_archive *archive, uint8_t *level, struct err *err)
{
    const struct search_space *space = sack->space;
    double high;
    sack->loss = malloc((space->n + 1) * STRIDE * sizeof *sack->loss);
    sack->delta = malloc((space->n + 1) * STRIDE * sizeof *sack->delta);
    if (!sack->loss || !sack->delta)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    search_probe_losses(space, archive, PROBE_EVERY, STRIDE, sack->loss);
    price_failures(space, sack->loss);
    search_size_deltas(space, level, STRIDE, sack->delta);
    search_ends(space, level, &sack->low, &high);
    sack->range = high - sack->low;
    sack->unit = sack->range > 0 ? find_unit(sack) : 1;
    sack->cells = (size_t)floor(sack->range / sack->unit);
    sack->least = malloc((sack->cells + 1) * sizeof *sack->least);
    sack->before = malloc((sack->cells + 1) * sizeof *sack->before);
    sack->chosen = malloc((space->n + 1) * (sack->cells + 1));
    if (!sack->least || !sack->before || !sack->chosen)
        return err_set(err, ERR_MEMORY, "out of memory for a knapsack of %zu cells", sack->cells);
    fill(sack);
    return OK;
}

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
    struct knapsack sack = {.space = space};
    size_t t = archive->n - search_probe_count(space, PROBE_EVERY), targets = options->num_initial + options->num_trials;
    enum status status = prepare(&sack, archive, next->level, err);
    bool found = false;
    for (size_t s = 0; status == OK && !found && s < targets; s++) {
        solution(&sack, target((t + s) % targets), next->level);
        found = search_fits(space, next->level) && !search_archive_has(archive, space, next->level);
        snprintf(next->note, sizeof next->note, "dp: the best sum of losses within %.3f of the axis", target((t + s) % targets));
    }
    if (status == OK && !found) {
        next->done = !search_draw_new(space, archive, &rng, target(t), next->level);
        snprintf(next->note, sizeof next->note, "dp: all targets are tried, a random one");
    }
    free(sack.loss);
    free(sack.delta);
    free(sack.least);
    free(sack.before);
    free(sack.chosen);
    return status;
}

const struct strategy strategy_dp = {.name = "dp", .probes = PROBE_EVERY, .own_seeds = true, .propose = propose};
