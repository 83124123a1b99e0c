/* gp.c: AutoMixQ (arXiv:2411.13814): a Gaussian process models the score, the size is known exactly, and the configuration with the largest
 * expected hypervolume improvement is tried next.
 *
 * The model is search_model.c; its expected improvement is maximised over configurations by coordinate search from several starts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search_strategies.h"

enum { RANDOM_STARTS = 6, FRONT_STARTS = 6, SWEEPS = 6 };

struct proposal {
    struct search_model model;
    struct rng rng;
    uint8_t *trial, *best; /* [n] */
    double best_value, best_mean, best_sd;
};

static void consider(struct proposal *p, const uint8_t *level)
{
    double mean, sd, value = search_model_gain(&p->model, level, &mean, &sd);
    if (value > p->best_value) {
        p->best_value = value;
        p->best_mean = mean;
        p->best_sd = sd;
        memcpy(p->best, level, p->model.space->n);
    }
}

/* One variable after the other takes its best level, until nothing changes. */
static void climb(struct proposal *p)
{
    uint8_t *level = p->trial;
    double mean, sd, here = search_model_gain(&p->model, level, &mean, &sd);
    consider(p, level);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool moved = false;
        for (size_t i = 0; i < p->model.space->n; i++) {
            uint8_t keep = level[i], chosen = keep;
            for (uint8_t k = search_least(p->model.space, i); k < p->model.space->n_levels[i]; k++) {
                level[i] = k;
                double value = k == keep ? here : search_model_gain(&p->model, level, &mean, &sd);
                if (value > here) {
                    here = value;
                    chosen = k;
                }
            }
            level[i] = chosen;
            moved = moved || chosen != keep;
        }
        if (!moved)
            break;
    }
    consider(p, level);
}

static void search_starts(struct proposal *p)
{
    const struct search_archive *a = p->model.archive;
    size_t *front = malloc((a->n ? a->n : 1) * sizeof *front), n = front ? search_front(a, front) : 0;
    for (int k = 0; k < RANDOM_STARTS; k++)
        if (search_draw_new(p->model.space, a, &p->rng, (k + 0.5) / RANDOM_STARTS, p->trial))
            climb(p);
    for (size_t k = 0; k < n && k < FRONT_STARTS; k++) {
        size_t i = front[n > FRONT_STARTS ? k * n / FRONT_STARTS : k]; /* spread along the front */
        memcpy(p->trial, a->point[i].level, p->model.space->n);
        climb(p);
    }
    free(front);
}

static enum status choose(struct proposal *p, struct search_proposal *next, struct err *err)
{
    const struct gp *gp = &p->model.gp;
    TRY(search_model_fit(&p->model, err));
    p->best_value = 0; /* nothing that promises no gain */
    search_starts(p);
    if (p->best_value > 0) {
        memcpy(next->level, p->best, p->model.space->n);
        snprintf(next->note, sizeof next->note, "gp: expects %.4f +- %.4f, hypervolume gain %.3g", gp->y_mean + gp->y_scale * p->best_mean,
                 gp->y_scale * p->best_sd, p->best_value);
        return OK;
    }
    next->done = !search_draw_new(p->model.space, p->model.archive, &p->rng, rng_uniform(&p->rng), next->level);
    snprintf(next->note, sizeof next->note, "gp: no gain expected anywhere, a random one");
    return OK;
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct proposal p = {.model = search_model_gp(space, archive),
                         .rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n}};
    size_t n = space->n ? space->n : 1;
    p.trial = malloc(n);
    p.best = malloc(n);
    size_t succeeded = 0;
    for (size_t i = 0; i < archive->n; i++)
        succeeded += !archive->point[i].failed && !archive->point[i].low_fidelity;
    enum status status = p.trial && p.best ? OK : err_set(err, ERR_MEMORY, "out of memory for a proposal");
    if (status == OK && succeeded == 0) {
        next->done = !search_draw_new(space, archive, &p.rng, rng_uniform(&p.rng), next->level);
        snprintf(next->note, sizeof next->note, "random: no trial has succeeded yet");
    } else if (status == OK) {
        status = choose(&p, next, err);
    }
    search_model_free(&p.model);
    free(p.trial);
    free(p.best);
    return status;
}

const struct strategy strategy_gp = {.name = "gp", .propose = propose};
