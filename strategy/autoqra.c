/* autoqra.c: AutoQRA: formats and ranks searched together, for a low format can be made up for by a higher rank.  An evolution that starts from what is
 * known of each variable and asks cheap trials which children deserve a full one; then Bayesian optimisation around the front (autoqra_region.c).
 *
 * Stages go by the compute spent: the seed set is the first population, two thirds of all belong to the evolution.  What was done is read from the
 * archive; nothing else is remembered. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "strategy/autoqra.h"

enum { CHILDREN = 8, PROMOTED = 2, OVERSAMPLED = 4, TRIES = 100 };

/* ---- where the search stands ---- */

enum stage { WARM, EVOLVE, REGION };

struct course {
    enum stage stage;
    size_t begin;          /* first trial of the stage */
    size_t population;     /* WARM: configurations so far */
    size_t generation;     /* EVOLVE: first trial of the generation */
    size_t children, promoted; /* of it */
};

/* A generation is its cheap trials, then full ones of the best of them; the next cheap one begins another. */
static void count_child(struct course *c, const struct search_point *point, size_t i)
{
    if (point->low_fidelity && c->promoted > 0) {
        c->generation = i;
        c->children = c->promoted = 0;
    }
    c->children += point->low_fidelity;
    c->promoted += !point->low_fidelity;
}

static struct course course_of(const struct search_archive *archive, const struct search_options *options)
{
    struct course c = {.stage = WARM};
    double cost = 0, first = (double)options->num_initial, second = fmax(first, (first + (double)options->num_trials) * 2 / 3);
    for (size_t i = 0; i <= archive->n; i++) {
        enum stage stage = cost < first ? WARM : cost < second ? EVOLVE : REGION;
        if (stage != c.stage)
            c = (struct course){.stage = stage, .begin = i, .generation = i};
        if (i == archive->n)
            break;
        const struct search_point *point = &archive->point[i];
        c.population += options->low_cost > 0 ? point->low_fidelity : 1;
        if (stage == EVOLVE)
            count_child(&c, point, i);
        cost += point->low_fidelity ? options->low_cost : 1;
    }
    if (c.promoted >= PROMOTED)
        c = (struct course){.stage = c.stage, .begin = c.begin, .generation = archive->n};
    return c;
}

/* Golden-ratio steps: every part of the size axis has its turn, for any number of turns. */
static double turn(size_t k)
{
    double step = (double)k * 0.61803398874989485;
    return step - floor(step);
}

/* ---- the first population ---- */

/* The ends; three starts by importance; then in turn a configuration of a size of its own and a start, or all-high, drawn anew in part. */
static void first_population(struct autoqra *q, size_t t, struct search_proposal *next)
{
    static const double powers[] = {0, 0, 1, 0.5, 2}, fractions[] = {0, 1, 0.5, 0.75, 0.25};
    uint8_t *level = next->level;
    double power = t < 5 ? powers[t] : powers[1 + t / 2 % 4], fraction = t < 5 ? fractions[t] : turn(t);
    if (t >= 5 && t % 2 == 0) {
        next->done = !search_draw_new(q->space, q->archive, &q->rng, fraction, level);
        snprintf(next->note, sizeof next->note, "autoqra: a draw of size %.2f", fraction);
        return;
    }
    autoqra_start(q, power, level);
    if (t >= 5)
        autoqra_redraw(q, level);
    autoqra_repair(q, t == 0 ? q->low_size : autoqra_budget(q, fraction), AUTOQRA_NONE, level);
    if (t > 0)
        autoqra_fill(q, level);
    if (t < 2)
        snprintf(next->note, sizeof next->note, "autoqra: all %s", t == 0 ? "low" : q->bound ? "high, lowered to the budget" : "high");
    else
        snprintf(next->note, sizeof next->note, "autoqra: start from importance^%g%s", power, t >= 5 ? ", drawn anew in part" : "");
    if (autoqra_known(q, level)) {
        next->done = !search_draw_new(q->space, q->archive, &q->rng, turn(t), level);
        snprintf(next->note, sizeof next->note, "autoqra: a draw");
    }
}

/* With cheap trials each configuration has both: they tell what a cheap score is worth. */
static void warm(struct autoqra *q, const struct course *c, struct search_proposal *next)
{
    const struct search_archive *a = q->archive;
    const struct search_point *last = a->n ? &a->point[a->n - 1] : NULL;
    bool cheap = q->options->low_cost > 0;
    if (last && last->low_fidelity && !last->failed && !search_archive_has(a, q->space, last->level)) {
        memcpy(next->level, last->level, q->space->n);
        snprintf(next->note, sizeof next->note, "autoqra: full trial of the same");
        return;
    }
    first_population(q, c->population, next);
    next->low_fidelity = cheap && !next->done && !autoqra_known(q, next->level);
}

/* ---- children ---- */

/* One record a configuration: its full trial, else its cheap one. */
struct parents {
    size_t n, *index; /* in the archive */
    struct pareto_point *p;
    double *violation;
    struct nsga2_fitness *fitness;
};

static void parents_free(struct parents *s)
{
    free(s->index);
    free(s->p);
    free(s->violation);
    free(s->fitness);
}

static enum status parents_new(const struct autoqra *q, struct parents *s, struct err *err)
{
    const struct search_archive *a = q->archive;
    size_t n = a->n + 1;
    *s = (struct parents){.index = malloc(n * sizeof *s->index), .p = malloc(n * sizeof *s->p), .violation = malloc(n * sizeof *s->violation),
                          .fitness = malloc(n * sizeof *s->fitness)};
    if (!s->index || !s->p || !s->violation || !s->fitness)
        return err_set(err, ERR_MEMORY, "out of memory for a population");
    for (size_t i = 0; i < a->n; i++) {
        const struct search_point *point = &a->point[i];
        if (point->failed || !isfinite(point->score) || (point->low_fidelity && search_archive_has(a, q->space, point->level)))
            continue;
        s->p[s->n] = (struct pareto_point){point->size, -point->score, 0};
        s->index[s->n++] = i;
    }
    return OK;
}

/* Who fits the budget at hand comes first. */
static enum status rank_for(struct parents *s, double budget, struct err *err)
{
    for (size_t i = 0; i < s->n; i++)
        s->violation[i] = fmax(0, s->p[i].a - budget);
    return nsga2_rank(s->p, s->violation, s->n, s->fitness, err);
}

static void breed(struct autoqra *q, const struct parents *s, double budget, uint8_t *level)
{
    const uint8_t *a = q->archive->point[s->index[nsga2_tournament(s->fitness, s->n, &q->rng)]].level;
    const uint8_t *b = q->archive->point[s->index[nsga2_tournament(s->fitness, s->n, &q->rng)]].level;
    memcpy(level, a, q->space->n);
    if (rng_uniform(&q->rng) < 0.5)
        autoqra_cross(q, a, b, level);
    if (rng_uniform(&q->rng) < 0.3)
        autoqra_couple(q, level);
    else
        autoqra_mutate(q, level);
    autoqra_repair(q, budget, AUTOQRA_NONE, level);
    autoqra_fill(q, level);
}

/* A child that is new and fits; found: false when the parents have none left. */
static enum status make_child(struct autoqra *q, struct parents *s, double fraction, uint8_t *level, bool *found, struct err *err)
{
    double budget = autoqra_budget(q, fraction);
    *found = false;
    if (s->n == 0)
        return OK;
    TRY(rank_for(s, budget, err));
    for (int tries = 0; tries < TRIES && !*found; tries++) {
        breed(q, s, tries < TRIES / 2 ? budget : q->space->max_size, level); /* all that is small may have been tried */
        *found = search_fits(q->space, level) && !autoqra_known(q, level);
    }
    return OK;
}

static void draw_instead(struct autoqra *q, const char *why, struct search_proposal *next)
{
    next->done = !search_draw_new(q->space, q->archive, &q->rng, turn(q->archive->n), next->level);
    snprintf(next->note, sizeof next->note, "autoqra: %s, a draw", why);
}

/* ---- one fidelity ---- */

/* Of several children the one that the surrogate expects most of. */
static enum status best_of_several(struct autoqra *q, struct parents *s, struct search_proposal *next, struct err *err)
{
    struct autoqra_surrogate surrogate;
    double best = -INFINITY;
    bool found = true, any = false;
    enum status status = autoqra_surrogate_fit(q, &surrogate, err);
    size_t several = surrogate.trained ? OVERSAMPLED * CHILDREN : 1;
    for (size_t k = 0; status == OK && found && k < several; k++) {
        status = make_child(q, s, turn(q->archive->n * several + k), q->child, &found, err);
        double merit = status == OK && found && surrogate.trained ? autoqra_merit(q, &surrogate, q->child, 0) : 0;
        if (status == OK && found && (!any || merit > best)) {
            best = merit;
            any = true;
            memcpy(next->level, q->child, q->space->n);
        }
    }
    autoqra_surrogate_free(&surrogate);
    snprintf(next->note, sizeof next->note, "autoqra: child, best of %zu, merit %.3g", several, best);
    if (status == OK && !any)
        draw_instead(q, "no new child", next);
    return status;
}

/* ---- two fidelities ---- */

/* The child of this generation that the surrogate expects most of, and that had no full trial yet. */
static enum status promote(struct autoqra *q, const struct course *c, struct search_proposal *next, bool *found, struct err *err)
{
    const struct search_archive *a = q->archive;
    struct autoqra_surrogate surrogate;
    double best = -INFINITY;
    enum status status = autoqra_surrogate_fit(q, &surrogate, err);
    *found = false;
    for (size_t i = c->generation; status == OK && i < a->n; i++) {
        const struct search_point *point = &a->point[i];
        if (!point->low_fidelity || point->failed || !search_fits(q->space, point->level) || search_archive_has(a, q->space, point->level))
            continue;
        double merit = autoqra_merit(q, &surrogate, point->level, point->score);
        if (!*found || merit > best) {
            *found = true;
            best = merit;
            memcpy(next->level, point->level, q->space->n);
            snprintf(next->note, sizeof next->note, "autoqra: promoted, cheap score %.4f, merit %.3g", point->score, merit);
        }
    }
    autoqra_surrogate_free(&surrogate);
    return status;
}

static enum status evolve_cheaply(struct autoqra *q, struct parents *s, const struct course *c, struct search_proposal *next, struct err *err)
{
    bool found = false, full = c->children >= CHILDREN || c->promoted > 0;
    if (full)
        TRY(promote(q, c, next, &found, err));
    if (found)
        return OK;
    TRY(make_child(q, s, turn(q->archive->n), next->level, &found, err));
    next->low_fidelity = found;
    snprintf(next->note, sizeof next->note, "autoqra: child, cheap trial");
    if (!found && !full)
        TRY(promote(q, c, next, &found, err));
    if (!found)
        draw_instead(q, "no new child", next);
    return OK;
}

/* ---- the strategy ---- */

static enum status evolve(struct autoqra *q, const struct course *c, struct search_proposal *next, struct err *err)
{
    struct parents s;
    enum status status = parents_new(q, &s, err);
    if (status == OK)
        status = q->options->low_cost > 0 ? evolve_cheaply(q, &s, c, next, err) : best_of_several(q, &s, next, err);
    parents_free(&s);
    return status;
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct autoqra q = {.space = space, .archive = archive, .options = options,
                        .rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n}};
    struct course c = course_of(archive, options);
    enum status status = autoqra_new(&q, err);
    if (status == OK && c.stage == WARM)
        warm(&q, &c, next);
    else if (status == OK && c.stage == EVOLVE)
        status = evolve(&q, &c, next, err);
    else if (status == OK)
        status = autoqra_region(&q, c.begin, next, err);
    autoqra_free(&q);
    return status;
}

const struct strategy strategy_autoqra = {.name = "autoqra", .own_seeds = true, .propose = propose};
