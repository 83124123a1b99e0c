/* gp.c: AutoMixQ (arXiv:2411.13814): a Gaussian process models the score, the size is known exactly, and the configuration with the largest
 * expected hypervolume improvement is tried next.
 *
 * The front that has to be beaten is that of the posterior means at the tried configurations, not of the scores themselves: a lucky score
 * would hide what lies below it.  The improvement is maximised over configurations by coordinate search from several starts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gp.h"
#include "pareto.h"
#include "search_strategies.h"

enum { RANDOM_STARTS = 6, FRONT_STARTS = 6, SWEEPS = 6 };

struct proposal {
    const struct search_space *space;
    const struct search_archive *archive;
    struct rng rng;
    struct gp gp;
    struct pareto_ehvi ehvi;
    double low_size, size_range; /* axis of sizes: 0 at all-low, 1 at all-high or the budget */
    double *x;                   /* [n] features of the configuration at hand */
    uint8_t *trial, *best;       /* [n] */
    double best_value, best_mean, best_sd;
};

static void features(const struct search_space *space, const uint8_t *level, double *x)
{
    for (size_t i = 0; i < space->n; i++)
        x[i] = space->feature[i][level[i]];
}

static double size_axis(const struct proposal *p, double size)
{
    return (size - p->low_size) / p->size_range;
}

/* Expected improvement of a configuration; negative when it may not be proposed. */
static double value_of(struct proposal *p, const uint8_t *level, double *mean, double *sd)
{
    double variance;
    if (!search_fits(p->space, level) || search_archive_has(p->archive, p->space, level))
        return -1;
    features(p->space, level, p->x);
    gp_predict(&p->gp, p->x, mean, &variance);
    *sd = sqrt(variance);
    struct pareto_point m = {size_axis(p, p->space->size(p->space->user, level)), -*mean}, s = {0, *sd};
    return pareto_ehvi_at(&p->ehvi, m, s);
}

static void consider(struct proposal *p, const uint8_t *level)
{
    double mean, sd, value = value_of(p, level, &mean, &sd);
    if (value > p->best_value) {
        p->best_value = value;
        p->best_mean = mean;
        p->best_sd = sd;
        memcpy(p->best, level, p->space->n);
    }
}

/* One variable after the other takes its best level, until nothing changes. */
static void climb(struct proposal *p)
{
    uint8_t *level = p->trial;
    double mean, sd, here = value_of(p, level, &mean, &sd);
    consider(p, level);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        bool moved = false;
        for (size_t i = 0; i < p->space->n; i++) {
            uint8_t keep = level[i], chosen = keep;
            for (uint8_t k = search_least(p->space, i); k < p->space->n_levels[i]; k++) {
                level[i] = k;
                double value = k == keep ? here : value_of(p, level, &mean, &sd);
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

/* ---- the model ---- */

static enum status fit(struct proposal *p, struct err *err)
{
    const struct search_archive *a = p->archive;
    size_t d = p->space->n, n = 0;
    double *X = malloc((a->n ? a->n : 1) * (d ? d : 1) * sizeof *X), *y = malloc((a->n + 1) * sizeof *y), *noise = malloc((a->n + 1) * sizeof *noise);
    enum status status = X && y && noise ? OK : err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    for (size_t i = 0; status == OK && i < a->n; i++)
        if (!a->point[i].failed && !a->point[i].low_fidelity) {
            features(p->space, a->point[i].level, X + n * d);
            y[n] = a->point[i].score;
            noise[n++] = a->point[i].paired > 0 ? a->point[i].paired : a->point[i].variance;
        }
    if (status == OK)
        status = gp_new(&p->gp, X, y, noise, n, d, err);
    if (status == OK)
        status = gp_fit(&p->gp, err);
    free(X);
    free(y);
    free(noise);
    return status;
}

/* Posterior means of what was tried, as the front to beat; the reference lies a tenth of the ranges behind the worst. */
static enum status make_front(struct proposal *p, struct pareto_point *tried, size_t *n, struct err *err)
{
    const struct search_archive *a = p->archive;
    double worst = -INFINITY, best = INFINITY, variance, mean;
    *n = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (a->point[i].failed || a->point[i].low_fidelity)
            continue;
        features(p->space, a->point[i].level, p->x);
        gp_predict(&p->gp, p->x, &mean, &variance);
        tried[*n] = (struct pareto_point){size_axis(p, a->point[i].size), -mean};
        worst = fmax(worst, -mean);
        best = fmin(best, -mean);
        ++*n;
    }
    double range = worst > best ? worst - best : 1;
    struct pareto_point reference = {1.1, worst + 0.1 * range};
    return pareto_ehvi_new(&p->ehvi, tried, *n, reference, err);
}

static void search_starts(struct proposal *p)
{
    const struct search_archive *a = p->archive;
    size_t *front = malloc((a->n ? a->n : 1) * sizeof *front), n = front ? search_front(a, front) : 0;
    for (int k = 0; k < RANDOM_STARTS; k++)
        if (search_draw_new(p->space, a, &p->rng, (k + 0.5) / RANDOM_STARTS, p->trial))
            climb(p);
    for (size_t k = 0; k < n && k < FRONT_STARTS; k++) {
        size_t i = front[n > FRONT_STARTS ? k * n / FRONT_STARTS : k]; /* spread along the front */
        memcpy(p->trial, a->point[i].level, p->space->n);
        climb(p);
    }
    free(front);
}

static void measure_axis(struct proposal *p)
{
    double high;
    search_ends(p->space, p->trial, &p->low_size, &high);
    p->size_range = high > p->low_size ? high - p->low_size : 1;
}

static enum status choose(struct proposal *p, struct search_proposal *next, struct err *err)
{
    struct pareto_point *tried = malloc((p->archive->n ? p->archive->n : 1) * sizeof *tried);
    size_t n = 0;
    if (!tried)
        return err_set(err, ERR_MEMORY, "out of memory for a front");
    measure_axis(p);
    enum status status = fit(p, err);
    if (status == OK)
        status = make_front(p, tried, &n, err);
    free(tried);
    TRY(status);
    p->best_value = 0; /* nothing that promises no gain */
    search_starts(p);
    if (p->best_value > 0) {
        memcpy(next->level, p->best, p->space->n);
        snprintf(next->note, sizeof next->note, "gp: expects %.4f +- %.4f, hypervolume gain %.3g", p->gp.y_mean + p->gp.y_scale * p->best_mean,
                 p->gp.y_scale * p->best_sd, p->best_value);
        return OK;
    }
    next->done = !search_draw_new(p->space, p->archive, &p->rng, rng_uniform(&p->rng), next->level);
    snprintf(next->note, sizeof next->note, "gp: no gain expected anywhere, a random one");
    return OK;
}

enum status search_posterior(const struct search_space *space, const struct search_archive *archive, double *mean, double *sd, struct err *err)
{
    struct proposal p = {.space = space, .archive = archive};
    double variance;
    p.x = malloc((space->n ? space->n : 1) * sizeof *p.x);
    enum status status = p.x ? fit(&p, err) : err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    for (size_t i = 0; status == OK && i < archive->n; i++) {
        features(space, archive->point[i].level, p.x);
        gp_predict(&p.gp, p.x, &mean[i], &variance);
        mean[i] = p.gp.y_mean + p.gp.y_scale * mean[i];
        sd[i] = p.gp.y_scale * sqrt(variance);
    }
    gp_free(&p.gp);
    free(p.x);
    return status;
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct proposal p = {.space = space, .archive = archive,
                         .rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n}};
    size_t n = space->n ? space->n : 1;
    p.x = malloc(n * sizeof *p.x);
    p.trial = malloc(n);
    p.best = malloc(n);
    size_t succeeded = 0;
    for (size_t i = 0; i < archive->n; i++)
        succeeded += !archive->point[i].failed && !archive->point[i].low_fidelity;
    enum status status = p.x && p.trial && p.best ? OK : err_set(err, ERR_MEMORY, "out of memory for a proposal");
    if (status == OK && succeeded == 0) {
        next->done = !search_draw_new(space, archive, &p.rng, rng_uniform(&p.rng), next->level);
        snprintf(next->note, sizeof next->note, "random: no trial has succeeded yet");
    } else if (status == OK) {
        status = choose(&p, next, err);
    }
    gp_free(&p.gp);
    pareto_ehvi_free(&p.ehvi);
    free(p.x);
    free(p.trial);
    free(p.best);
    return status;
}

const struct strategy strategy_gp = {.name = "gp", .propose = propose};
