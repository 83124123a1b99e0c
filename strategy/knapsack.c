/* knapsack.c: dynamic programming over the bytes, in cells of their greatest common divisor. */
#include "strategy/knapsack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 20000, STRIDE = KNAPSACK_STRIDE };

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

void knapsack_solution(const struct knapsack *sack, double fraction, uint8_t *level)
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

enum status knapsack_new(struct knapsack *sack, const struct search_space *space, const struct search_archive *archive, enum search_probes probes, uint8_t *level,
                         struct err *err)
{
    double high;
    *sack = (struct knapsack){.space = space};
    sack->loss = malloc((space->n + 1) * STRIDE * sizeof *sack->loss);
    sack->delta = malloc((space->n + 1) * STRIDE * sizeof *sack->delta);
    if (!sack->loss || !sack->delta)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    search_probe_losses(space, archive, probes, STRIDE, sack->loss);
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

void knapsack_free(struct knapsack *sack)
{
    free(sack->loss);
    free(sack->delta);
    free(sack->least);
    free(sack->before);
    free(sack->chosen);
}
