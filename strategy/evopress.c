/* evopress.c: EvoPress (arXiv:2410.14649): an elitist (1 + lambda) evolution of level vectors of one size, by switches that keep the size.
 *
 * With a budget there is one run, at the budget, as in the paper; without, the two ends and then RUNS runs in turn at sizes spread over the axis, so that a
 * front comes out, and neighbouring runs lend each other parents.
 * The paper's stages of growing token budgets are our two fidelities: LAMBDA offspring of one parent are tried at low fidelity and the best of them in
 * full.  Where there is no low fidelity, each offspring is tried in full, and the parent is chosen anew after each.
 *
 * Nothing is remembered: the run and the place in the generation are counted off the archive, and a parent is the best trial of its size. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search_strategies.h"

enum { LAMBDA = 4, RUNS = 8, SWITCHES = 3, TRIES = 200, STRIDE = 256 };

struct evolution {
    const struct search_space *space;
    const struct search_archive *archive;
    struct rng rng;
    double fraction; /* of the size axis: where the run at hand is */
    double target;   /* the same in bytes */
    double spacing;  /* bytes between runs; 0: there is one */
    double step;     /* the largest step of one level, in bytes: how far below the target a size still is of this run */
};

static bool tried(const struct evolution *e, const uint8_t *level)
{
    for (size_t i = 0; i < e->archive->n; i++) /* at any fidelity */
        if (memcmp(e->archive->point[i].level, level, e->space->n) == 0)
            return true;
    return false;
}

/* The best full trial of a size, of equal ones the first; NULL: there is none. */
static const struct search_point *best_at(const struct evolution *e, double size)
{
    const struct search_point *best = NULL;
    for (size_t i = 0; i < e->archive->n; i++) {
        const struct search_point *p = &e->archive->point[i];
        bool here = p->size <= size && p->size > size - e->step;
        if (here && search_counts(p) && (!best || p->score > best->score))
            best = p;
    }
    return best;
}

/* Random variable that `may`, marked by its level: raised ones below the top, lowered ones above the least and not raised in this offspring. */
static bool pick_variable(struct evolution *e, const uint8_t *level, const bool *raised, bool up, size_t *which)
{
    const struct search_space *space = e->space;
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        size_t left = pass ? rng_below(&e->rng, (uint32_t)count) : 0;
        for (size_t i = 0; i < space->n; i++) {
            bool may = up ? level[i] + 1 < space->n_levels[i] : level[i] > search_least(space, i) && !raised[i];
            if (may && pass == 0)
                count++;
            else if (may && left-- == 0) {
                *which = i;
                return true;
            }
        }
        if (count == 0)
            return false;
    }
    return false;
}

/* Levels down or up at random until the size is within a step below the target. */
static void move_to_target(struct evolution *e, uint8_t *level, const bool *raised)
{
    size_t i;
    while (e->space->size(e->space->user, level) > e->target && pick_variable(e, level, raised, false, &i))
        level[i]--;
    while (e->space->size(e->space->user, level) <= e->target - e->step && pick_variable(e, level, raised, true, &i))
        level[i]++;
}

/* One level up somewhere, levels down elsewhere until the size is back at or below the target. */
static void switch_levels(struct evolution *e, uint8_t *level, bool *raised)
{
    size_t i;
    if (!pick_variable(e, level, raised, true, &i))
        return;
    level[i]++;
    raised[i] = true;
    move_to_target(e, level, raised);
}

/* A new offspring of the parent: as many switches as the smaller of two draws from 1..3 says. */
static bool mutate(struct evolution *e, const uint8_t *parent, uint8_t *level, bool *raised)
{
    for (int tries = 0; tries < TRIES; tries++) {
        uint32_t a = 1 + rng_below(&e->rng, SWITCHES), b = 1 + rng_below(&e->rng, SWITCHES);
        memcpy(level, parent, e->space->n);
        memset(raised, 0, e->space->n * sizeof *raised);
        for (uint32_t k = 0; k < (a < b ? a : b); k++)
            switch_levels(e, level, raised);
        if (e->space->size(e->space->user, level) <= e->target && !tried(e, level))
            return true;
    }
    return false;
}

/* The best of the run; half of the time that of the run on either side, if there is one: what was found at one size is nearly right at the next. */
static const struct search_point *parent_of(struct evolution *e)
{
    const struct search_point *own = best_at(e, e->target), *other = NULL;
    uint32_t side = rng_below(&e->rng, 4);
    if (side < 2 && e->spacing > 0)
        other = best_at(e, e->target + (side ? e->spacing : -e->spacing));
    return own && other ? other : own;
}

static enum status find_step(struct evolution *e, uint8_t *level, struct err *err)
{
    const struct search_space *space = e->space;
    double low, high, *delta = malloc((space->n + 1) * STRIDE * sizeof *delta);
    if (!delta)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    search_size_deltas(space, level, STRIDE, delta);
    for (size_t i = 0; i < space->n; i++)
        for (size_t k = 1u + search_least(space, i); k < space->n_levels[i]; k++)
            e->step = fmax(e->step, delta[i * STRIDE + k] - delta[i * STRIDE + k - 1]);
    free(delta);
    search_ends(space, level, &low, &high);
    e->target = low + e->fraction * (high - low);
    e->spacing = isfinite(space->max_size) ? 0 : (high - low) / (RUNS + 1);
    return OK;
}

/* The best of the generation's trials at low fidelity, the last `n` of the archive; NULL: all have failed. */
static const struct search_point *best_of_generation(const struct search_archive *archive, size_t n)
{
    const struct search_point *best = NULL;
    for (size_t i = archive->n - n; i < archive->n; i++)
        if (!archive->point[i].failed && (!best || archive->point[i].score > best->score))
            best = &archive->point[i];
    return best;
}

/* `waiting`: trials at low fidelity since the last full one. */
static enum status breed(struct evolution *e, bool low_fidelity, size_t waiting, struct search_proposal *next, struct err *err)
{
    const struct search_space *space = e->space;
    TRY(find_step(e, next->level, err));
    bool *raised = malloc((space->n + 1) * sizeof *raised);
    if (!raised)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    const struct search_point *parent = parent_of(e), *winner = waiting == LAMBDA ? best_of_generation(e->archive, LAMBDA) : NULL;
    if (winner) {
        memcpy(next->level, winner->level, space->n);
        snprintf(next->note, sizeof next->note, "evopress: best of %d offspring at %.2f of the axis", LAMBDA, e->fraction);
    } else if (parent && mutate(e, parent->level, next->level, raised)) {
        next->low_fidelity = low_fidelity && waiting < LAMBDA;
        snprintf(next->note, sizeof next->note, "evopress: offspring of %.4f at %.2f of the axis", parent->score, e->fraction);
    } else {
        next->done = !search_draw_new(space, e->archive, &e->rng, e->fraction, next->level);
        snprintf(next->note, sizeof next->note, "evopress: a new start at %.2f of the axis", e->fraction);
    }
    free(raised);
    return OK;
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct evolution e = {.space = space, .archive = archive, .rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n}};
    size_t full = 0, waiting = 0;
    for (size_t i = 0; i < archive->n; i++) { /* every generation ends with one full trial */
        waiting = archive->point[i].low_fidelity ? waiting + 1 : 0;
        full += !archive->point[i].low_fidelity;
    }
    if (isfinite(space->max_size)) {
        e.fraction = 1;
    } else if (full < 2) {
        next->done = !search_seed(space, archive, options, full, next->level);
        snprintf(next->note, sizeof next->note, full == 0 ? "evopress: all low" : "evopress: all high");
        return OK;
    } else {
        e.fraction = (1.0 + (double)((full - 2) % RUNS)) / (RUNS + 1);
    }
    return breed(&e, options->low_cost > 0, waiting, next, err);
}

const struct strategy strategy_evopress = {.name = "evopress", .probes = PROBE_NONE, .own_seeds = true, .propose = propose};
