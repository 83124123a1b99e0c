/* gp.c: AutoMixQ (arXiv:2411.13814): a Gaussian process models the score, the size is known exactly, and the configuration with the largest
 * expected hypervolume improvement is tried next.
 *
 * The model is search_model.c; its expected improvement is maximised over configurations by coordinate search from several starts.
 *
 * With a low fidelity the model has short trials as a second task (gp.h), and what is maximised is the gain of a trial for what a full one costs:
 *     full: EHVI(x)        short, once a configuration: EHVI(x) told(x) / low_cost,   told(x) the share of f(x)'s variance that it takes away (search_model_told)
 * so short trials come where, and as long as, they tell more of full ones than they cost.  The first of them repeat configurations of the seed set, as in the
 * nested designs of Kennedy & O'Hagan 2000: what a short score is worth is known from pairs.  A run of short trials never costs more than one full trial. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search_strategies.h"

enum { RANDOM_STARTS = 6, FRONT_STARTS = 6, SWEEPS = 6 };

struct proposal {
    struct search_model model;
    struct rng rng;
    uint8_t *trial, *best; /* [n] */
    double short_cost, short_variance; /* of a short trial; cost 0: none may come now */
    double best_value, best_mean, best_sd;
    bool best_short;
};

static const struct search_point *short_trial(const struct search_archive *a, const uint8_t *level, size_t n)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->point[i].low_fidelity && memcmp(a->point[i].level, level, n) == 0)
            return &a->point[i];
    return NULL;
}

/* Expected gain for what a full trial costs; low: a short one is worth more.  Where the short trial diverged the full one would too. */
static double merit(struct proposal *p, const uint8_t *level, double *mean, double *sd, bool *low)
{
    double gain = search_model_gain(&p->model, level, mean, sd), more;
    *low = false;
    if (!p->model.low || gain <= 0)
        return gain;
    const struct search_point *had = short_trial(p->model.archive, level, p->model.space->n);
    if (had || p->short_cost <= 0)
        return had && had->failed ? -1 : gain;
    more = search_model_told(&p->model, level, p->short_variance) / p->short_cost;
    *low = more > 1;
    return gain * (*low ? more : 1);
}

static void consider(struct proposal *p, const uint8_t *level)
{
    bool low;
    double mean, sd, value = merit(p, level, &mean, &sd, &low);
    if (value > p->best_value) {
        p->best_short = low;
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
    bool low;
    double mean, sd, here = merit(p, level, &mean, &sd, &low);
    consider(p, level);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool moved = false;
        for (size_t i = 0; i < p->model.space->n; i++) {
            uint8_t keep = level[i], chosen = keep;
            for (uint8_t k = search_least(p->model.space, i); k < p->model.space->n_levels[i]; k++) {
                level[i] = k;
                double value = k == keep ? here : merit(p, level, &mean, &sd, &low);
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
        next->low_fidelity = p->best_short;
        snprintf(next->note, sizeof next->note, "gp: %sexpects %.4f +- %.4f, hypervolume gain %.3g%s", p->best_short ? "short, " : "",
                 gp->y_mean + gp->y_scale * p->best_mean, gp->y_scale * p->best_sd, p->best_value, p->best_short ? " for a full one's cost" : "");
        return OK;
    }
    next->done = !search_draw_new(p->model.space, p->model.archive, &p->rng, rng_uniform(&p->rng), next->level);
    snprintf(next->note, sizeof next->note, "gp: no gain expected anywhere, a random one");
    return OK;
}

static const double slack = 1e-9; /* sums of costs such as 0.1 */

/* A short trial may come when the run of them at the archive's end stays within one full trial, and a full one can follow it. */
static void allow_short(struct proposal *p, const struct search_options *options)
{
    const struct search_archive *a = p->model.archive;
    double run = options->low_cost, n[2] = {0, 0}, variance[2] = {0, 0};
    for (size_t i = a->n; i-- > 0 && a->point[i].low_fidelity;)
        run += options->low_cost;
    for (size_t i = 0; i < a->n; i++)
        if (!a->point[i].failed) {
            n[a->point[i].low_fidelity]++;
            variance[a->point[i].low_fidelity] += a->point[i].variance;
        }
    bool room = search_spent(a, options, 0) + options->low_cost < (double)(options->num_initial + options->num_trials) - slack;
    p->model.low = p->model.low || options->low_cost > 0;
    p->short_cost = room && run <= 1 + slack ? options->low_cost : 0;
    if (p->short_cost > 0) /* with no short trial yet: of fewer documents */
        p->short_variance = n[1] > 0 ? variance[1] / n[1] : n[0] > 0 ? variance[0] / n[0] / options->low_cost : 0;
}

/* As many short trials of the seed set's configurations as one full trial pays for, spread over their sizes; false: these are there. */
static bool pair_up(const struct proposal *p, const struct search_options *options, struct search_proposal *next)
{
    const struct search_archive *a = p->model.archive;
    size_t seeds = options->num_initial, done = 0, n = p->model.space->n;
    for (size_t i = 0; i < a->n; i++)
        done += a->point[i].low_fidelity;
    if (p->short_cost <= 0 || seeds > a->n)
        return false;
    size_t pairs = (size_t)fmin((double)seeds, 1 / options->low_cost + slack);
    for (size_t i = done < pairs && pairs > 1 ? done * (seeds - 1) / (pairs - 1) : 0; done < pairs && i < seeds; i++) {
        const struct search_point *seed = &a->point[i];
        if (!search_counts(seed) || short_trial(a, seed->level, n))
            continue;
        memcpy(next->level, seed->level, n);
        next->low_fidelity = true;
        snprintf(next->note, sizeof next->note, "gp: short, of a seed");
        return true;
    }
    return false;
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
        succeeded += search_counts(&archive->point[i]);
    enum status status = p.trial && p.best ? OK : err_set(err, ERR_MEMORY, "out of memory for a proposal");
    allow_short(&p, options);
    if (status == OK && succeeded == 0) {
        next->done = !search_draw_new(space, archive, &p.rng, rng_uniform(&p.rng), next->level);
        snprintf(next->note, sizeof next->note, "random: no trial has succeeded yet");
    } else if (status == OK && !pair_up(&p, options, next)) {
        status = choose(&p, next, err);
    }
    search_model_free(&p.model);
    free(p.trial);
    free(p.best);
    return status;
}

const struct strategy strategy_gp = {.name = "gp", .any_size = true, .propose = propose};
