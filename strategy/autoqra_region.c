/* autoqra_region.c: Bayesian optimisation in a discrete trust region: what lies within a few edits of the front (Eriksson et al. 2019,
 * arXiv:1910.01739, and for discrete spaces Wan et al. 2021, arXiv:2102.07188, with their side lengths counted in edits).
 *
 * Expected improvement of the utility along each segment of the front is the expected improvement of the hypervolume, which needs no weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "strategy/autoqra.h"

enum { WIDEST = 4, PATIENCE = 3, MOST_CANDIDATES = 1024 };

/* Positions of all variables, and both weighted means. */
static void embed(const void *user, const uint8_t *level, double *x)
{
    const struct autoqra *q = user;
    search_positions(q->space, level, x);
    x[q->space->n] = autoqra_weighted(q, SEARCH_FORMAT, level);
    x[q->space->n + 1] = autoqra_weighted(q, SEARCH_RANK, level);
}

/* ---- how wide ---- */

struct width {
    int edits;
    uint32_t restarts;
};

/* Replays the trials of this stage: wider after three gains in a row, narrower after three without, anew from other centres when it would close. */
static struct width replay(const struct search_archive *archive, size_t begin)
{
    struct width w = {1, 0};
    int gains = 0, failures = 0;
    for (size_t i = begin; i < archive->n; i++) {
        if (archive->point[i].low_fidelity)
            continue;
        bool gained = search_hypervolume(archive, i + 1) > search_hypervolume(archive, i);
        gains = gained ? gains + 1 : 0;
        failures = gained ? 0 : failures + 1;
        if (gains == PATIENCE) {
            w.edits = w.edits < WIDEST ? 2 * w.edits : WIDEST;
            gains = 0;
        }
        if (failures == PATIENCE) {
            w.restarts += w.edits == 1;
            w.edits = w.edits > 1 ? w.edits / 2 : 1;
            failures = 0;
        }
    }
    return w;
}

/* The front at first; after a restart each of its members by a coin of its own, all again where no coin falls right. */
static size_t choose_centres(const struct autoqra *q, uint32_t restarts, size_t *centre)
{
    size_t n = search_front(q->archive, centre), kept = 0;
    for (size_t k = 0; restarts > 0 && k < n; k++)
        if (rng_at(q->options->seed, RNG_SEARCH, UINT32_MAX - restarts, centre[k]) & 1)
            centre[kept++] = centre[k];
    return kept > 0 ? kept : search_front(q->archive, centre);
}

/* ---- candidates ---- */

struct hunt {
    struct autoqra *q;
    struct search_model model;
    double gain, mean, sd; /* of q->best */
};

static void consider(struct hunt *h, uint8_t *level)
{
    double mean, sd;
    autoqra_repair(h->q, h->q->space->max_size, AUTOQRA_NONE, level);
    autoqra_fill(h->q, level);
    double gain = search_model_gain(&h->model, level, &mean, &sd);
    if (gain > h->gain) {
        h->gain = gain;
        h->mean = mean;
        h->sd = sd;
        memcpy(h->q->best, level, h->q->space->n);
    }
}

static bool edit(const struct search_space *space, size_t i, bool up, uint8_t *level)
{
    if (up ? level[i] + 1 >= space->n_levels[i] : level[i] <= search_least(space, i))
        return false;
    level[i] = (uint8_t)(up ? level[i] + 1 : level[i] - 1);
    return true;
}

/* Every configuration one edit away. */
static void neighbours(struct hunt *h, const uint8_t *centre)
{
    size_t n = h->q->space->n;
    for (size_t move = 0; move < 2 * n; move++) {
        memcpy(h->q->child, centre, n);
        if (edit(h->q->space, move / 2, move & 1, h->q->child))
            consider(h, h->q->child);
    }
}

static void random_edits(struct hunt *h, const uint8_t *centre, int most)
{
    struct autoqra *q = h->q;
    memcpy(q->child, centre, q->space->n);
    for (uint32_t edits = 1 + rng_below(&q->rng, (uint32_t)most); edits > 0; edits--) {
        size_t i = rng_below(&q->rng, (uint32_t)q->space->n);
        edit(q->space, i, rng_next(&q->rng) & 1, q->child);
    }
    consider(h, q->child);
}

static void search_region(struct hunt *h, const size_t *centre, size_t n, int edits)
{
    const struct search_point *point = h->q->archive->point;
    bool all = edits == 1 && 2 * h->q->space->n * n <= MOST_CANDIDATES;
    for (size_t k = 0; all && k < n; k++)
        neighbours(h, point[centre[k]].level);
    for (size_t k = 0; !all && k < MOST_CANDIDATES; k++)
        random_edits(h, point[centre[k % n]].level, edits);
}

static enum status hunt(struct hunt *h, size_t begin, struct search_proposal *next, struct err *err)
{
    struct autoqra *q = h->q;
    struct width w = replay(q->archive, begin);
    size_t *centre = malloc((q->archive->n + 1) * sizeof *centre), n = centre ? choose_centres(q, w.restarts, centre) : 0;
    enum status status = centre ? search_model_fit(&h->model, err) : err_set(err, ERR_MEMORY, "out of memory for a front");
    int edits = w.edits;
    for (; status == OK && n > 0 && edits <= WIDEST && h->gain <= 0; edits *= 2)
        search_region(h, centre, n, edits);
    free(centre);
    TRY(status);
    if (h->gain > 0) {
        const struct gp *gp = &h->model.gp;
        memcpy(next->level, q->best, q->space->n);
        snprintf(next->note, sizeof next->note, "autoqra: %d edits or fewer from the front, expects %.4f +- %.4f, hypervolume gain %.3g", edits / 2,
                 gp->y_mean + gp->y_scale * h->mean, gp->y_scale * h->sd, h->gain);
        return OK;
    }
    next->done = !search_draw_new(q->space, q->archive, &q->rng, rng_uniform(&q->rng), next->level);
    snprintf(next->note, sizeof next->note, "autoqra: no gain expected near the front, a random one");
    return OK;
}

enum status autoqra_region(struct autoqra *q, size_t begin, struct search_proposal *next, struct err *err)
{
    struct hunt h = {.q = q, .model = {.space = q->space, .archive = q->archive, .d = q->space->n + 2, .features = embed, .user = q}};
    enum status status = hunt(&h, begin, next, err);
    search_model_free(&h.model);
    return status;
}
