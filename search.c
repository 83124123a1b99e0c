/* search.c: the archive of trials, the seed set, the pick; strategies propose what comes after the seed set. */
#include "search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "pareto.h"
#include "search_strategies.h"

/* ---- archive ---- */

enum status search_archive_add(struct search_archive *archive, const struct search_space *space, const struct search_point *point,
                               struct err *err)
{
    if (archive->n == archive->cap) {
        size_t cap = archive->cap ? 2 * archive->cap : 64;
        struct search_point *grown = realloc(archive->point, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for trials");
        archive->point = grown;
        archive->cap = cap;
    }
    uint8_t *level = malloc(space->n ? space->n : 1);
    if (!level)
        return err_set(err, ERR_MEMORY, "out of memory for trials");
    memcpy(level, point->level, space->n);
    archive->point[archive->n] = *point;
    archive->point[archive->n++].level = level;
    return OK;
}

bool search_archive_has(const struct search_archive *archive, const struct search_space *space, const uint8_t *level)
{
    for (size_t i = 0; i < archive->n; i++)
        if (!archive->point[i].low_fidelity && memcmp(archive->point[i].level, level, space->n) == 0)
            return true;
    return false;
}

void search_archive_free(struct search_archive *archive)
{
    for (size_t i = 0; i < archive->n; i++)
        free((void *)(uintptr_t)archive->point[i].level);
    free(archive->point);
    memset(archive, 0, sizeof *archive);
}

void search_cache_free(struct search_cache *cache)
{
    if (cache->state)
        cache->free_state(cache->state);
    *cache = (struct search_cache){0};
}

/* ---- feasible configurations ---- */

uint8_t search_least(const struct search_space *space, size_t variable)
{
    return space->least ? space->least[variable] : 0;
}

static void all_low(const struct search_space *space, uint8_t *level)
{
    for (size_t i = 0; i < space->n; i++)
        level[i] = search_least(space, i);
}

static void all_high(const struct search_space *space, uint8_t *level)
{
    for (size_t i = 0; i < space->n; i++)
        level[i] = (uint8_t)(space->n_levels[i] - 1);
}

bool search_fits(const struct search_space *space, const uint8_t *level)
{
    return space->size(space->user, level) <= space->max_size;
}

/* Lowers random variables until the size is at most `target`, or all are at their lowest. */
static void lower_to(const struct search_space *space, struct rng *rng, double target, uint8_t *level)
{
    while (!(space->size(space->user, level) <= target)) {
        size_t above = 0;
        for (size_t i = 0; i < space->n; i++)
            above += level[i] > search_least(space, i);
        if (above == 0)
            return;
        size_t which = rng_below(rng, (uint32_t)above);
        for (size_t i = 0; i < space->n; i++)
            if (level[i] > search_least(space, i) && which-- == 0) {
                level[i]--;
                break;
            }
    }
}

/* Raises random variables while the size stays at most `target`; a few that would still fit may be missed. */
static void raise_to(const struct search_space *space, struct rng *rng, double target, uint8_t *level)
{
    for (size_t tries = 0; tries < 4 * space->n; tries++) {
        size_t i = rng_below(rng, (uint32_t)space->n);
        if (level[i] + 1 >= space->n_levels[i])
            continue;
        level[i]++;
        if (!(space->size(space->user, level) <= target))
            level[i]--;
    }
}

void search_ends(const struct search_space *space, uint8_t *level, double *low, double *high)
{
    all_high(space, level);
    *high = fmin(space->size(space->user, level), space->max_size);
    all_low(space, level);
    *low = space->size(space->user, level);
}

void search_size_deltas(const struct search_space *space, uint8_t *level, size_t stride, double *delta)
{
    all_low(space, level);
    double low = space->size(space->user, level);
    for (size_t i = 0; i < space->n; i++) {
        uint8_t least = search_least(space, i);
        for (uint8_t k = 0; k < space->n_levels[i]; k++) {
            level[i] = k;
            delta[i * stride + k] = space->size(space->user, level) - low;
        }
        level[i] = least;
    }
}

/* The size is drawn first, then levels that have it: levels drawn independently would all lie near the middle of the size axis. */
static void draw(const struct search_space *space, struct rng *rng, double fraction, uint8_t *level)
{
    double low, high;
    search_ends(space, level, &low, &high);
    if (space->n == 0)
        return;
    for (size_t i = 0; i < space->n; i++) {
        double least = search_least(space, i), most = space->n_levels[i] - 1, x = least + floor(fraction * (most - least) + rng_uniform(rng));
        level[i] = (uint8_t)(x < most ? x : most);
    }
    double target = low + fraction * (high - low);
    lower_to(space, rng, target, level);
    raise_to(space, rng, target, level);
}

/* A configuration one step from one that was tried.  Whatever is smaller than what fits, fits, so steps lead from every configuration that
 * fits down to all-low, the first trial: when no step leads to a new one, all have been tried. */
static bool next_door(const struct search_space *space, const struct search_archive *archive, uint8_t *level)
{
    all_low(space, level);
    if (search_fits(space, level) && !search_archive_has(archive, space, level))
        return true;
    for (size_t t = archive->n; t-- > 0;) {
        memcpy(level, archive->point[t].level, space->n);
        for (size_t i = 0; i < space->n; i++) {
            uint8_t keep = level[i];
            for (uint8_t k = search_least(space, i); k < space->n_levels[i]; k++) {
                level[i] = k;
                if (k != keep && search_fits(space, level) && !search_archive_has(archive, space, level))
                    return true;
            }
            level[i] = keep;
        }
    }
    return false;
}

bool search_draw_new(const struct search_space *space, const struct search_archive *archive, struct rng *rng, double fraction,
                     uint8_t *level)
{
    for (int tries = 0; tries < 200; tries++) {
        draw(space, rng, fraction, level);
        if (!search_archive_has(archive, space, level))
            return true;
        fraction = rng_uniform(rng); /* this stratum may be used up: all-low and all-high hold one configuration each */
    }
    return next_door(space, archive, level);
}

/* ---- probes ---- */

size_t search_probe_count(const struct search_space *space, enum search_probes probes)
{
    size_t count = 1;
    for (size_t i = 0; i < space->n; i++)
        count += space->n_levels[i] < 2 ? 0 : probes == PROBE_EVERY ? space->n_levels[i] - 1u : 1;
    return probes == PROBE_NONE ? 0 : count;
}

/* The variable that probe t > 0 lowers, and the level that it takes. */
static size_t probed(const struct search_space *space, enum search_probes probes, size_t t, uint8_t *level)
{
    t--;
    for (size_t i = 0;; i++) {
        size_t here = space->n_levels[i] < 2 ? 0 : probes == PROBE_EVERY ? space->n_levels[i] - 1u : 1;
        if (t < here) {
            *level = (uint8_t)t;
            return i;
        }
        t -= here;
    }
}

void search_probe(const struct search_space *space, enum search_probes probes, size_t t, uint8_t *level)
{
    all_high(space, level);
    if (t > 0) {
        uint8_t lowered;
        size_t i = probed(space, probes, t, &lowered);
        level[i] = lowered;
    }
}

void search_probe_losses(const struct search_space *space, const struct search_archive *archive, enum search_probes probes, size_t stride, double *loss)
{
    size_t count = search_probe_count(space, probes);
    double top = archive->point[0].failed ? NAN : archive->point[0].score;
    for (size_t i = 0; i < space->n; i++)
        loss[i * stride + space->n_levels[i] - 1] = 0;
    for (size_t t = 1; t < count; t++) {
        uint8_t level;
        size_t i = probed(space, probes, t, &level);
        const struct search_point *p = &archive->point[t];
        double lost = p->failed || isnan(top) ? INFINITY : top - p->score;
        size_t last = space->n_levels[i] - 1u;
        for (size_t k = level; k < (probes == PROBE_EVERY ? level + 1u : last); k++)
            loss[i * stride + k] = lost * (space->feature[i][last] - space->feature[i][k]) / (space->feature[i][last] - space->feature[i][level]);
    }
}

/* ---- the seed set ---- */

bool search_seed(const struct search_space *space, const struct search_archive *archive, const struct search_options *options, size_t t, uint8_t *level)
{
    struct rng rng = {.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n};
    double fraction = t == 0 ? 0 : t == 1 ? 1 : (double)(t - 1) / (double)(options->num_initial > 1 ? options->num_initial - 1 : 1);
    return search_draw_new(space, archive, &rng, fraction, level);
}

enum status search_check_budget(const struct search_space *space, struct err *err)
{
    uint8_t *level = malloc(space->n ? space->n : 1);
    if (!level)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration");
    all_high(space, level);
    double most = space->size(space->user, level);
    all_low(space, level);
    double least = space->size(space->user, level);
    free(level);
    if (least <= space->max_size)
        return OK;
    return err_set(err, ERR_INPUT, "nothing fits the budget of %.0f bytes: the smallest configuration has %.0f, the largest %.0f", space->max_size, least, most);
}

/* The hypervolume has not grown by stop_gain over the last stop_patience trials. */
static bool stands_still(const struct search_archive *archive, const struct search_options *options, size_t probes)
{
    size_t n = archive->n;
    if (options->stop_gain <= 0 || n < probes + options->num_initial + options->stop_patience)
        return false;
    double before = search_hypervolume(archive, n - options->stop_patience), now = search_hypervolume(archive, n);
    return now - before <= options->stop_gain * fabs(before);
}

double search_spent(const struct search_archive *archive, const struct search_options *options, size_t probes)
{
    double cost = 0;
    for (size_t i = probes; i < archive->n; i++)
        cost += archive->point[i].low_fidelity ? options->low_cost : 1;
    return cost;
}

enum status search_strategy_find(const char *name, const struct strategy **strategy, struct err *err)
{
    static const struct strategy *const all[] = {&strategy_amq, &strategy_autoqra, &strategy_dp, &strategy_evopress, &strategy_gp, &strategy_random};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(name, all[i]->name) == 0) {
            *strategy = all[i];
            return OK;
        }
    return err_set(err, ERR_INPUT, "search = '%s', want amq, autoqra, dp, evopress, gp or random", name);
}

enum status search_propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    const struct strategy *strategy = NULL;
    next->done = next->low_fidelity = false;
    next->note[0] = 0;
    TRY(search_strategy_find(options->strategy, &strategy, err));
    TRY(search_check_budget(space, err));
    size_t t = archive->n, probes = search_probe_count(space, strategy->probes);
    if (t < probes) {
        search_probe(space, strategy->probes, t, next->level);
        strcpy(next->note, t == 0 ? "probe: all high" : "probe: one variable lowered");
        return OK;
    }
    t -= probes;
    if (search_spent(archive, options, probes) >= (double)(options->num_initial + options->num_trials) || stands_still(archive, options, probes)) {
        next->done = true;
        return OK;
    }
    if (t >= options->num_initial || strategy->own_seeds)
        return strategy->propose(space, archive, options, next, err);
    next->done = !search_seed(space, archive, options, t, next->level);
    strcpy(next->note, t == 0 ? "seed: all low" : t == 1 ? "seed: all high" : "seed");
    return OK;
}

/* ---- fronts ---- */

bool search_counts(const struct search_point *p)
{
    return !p->failed && !p->low_fidelity;
}

/* The axis of one objective: 0 to 1 over the archive. */
static void stretch(double *x, size_t stride, size_t n)
{
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, x[i * stride]);
        high = fmax(high, x[i * stride]);
    }
    for (size_t i = 0; i < n; i++)
        x[i * stride] = (x[i * stride] - low) / (high > low ? high - low : 1);
}

/* (size, -score, time) on axes that the whole archive spans: 0 to 1.  Failed points come as NaN. */
static enum status normalised(const struct search_archive *archive, struct pareto_point **out, struct err *err)
{
    enum { OBJECTIVES = sizeof(struct pareto_point) / sizeof(double) };
    struct pareto_point *p = malloc((archive->n ? archive->n : 1) * sizeof *p);
    if (!p)
        return err_set(err, ERR_MEMORY, "out of memory for a front");
    for (size_t i = 0; i < archive->n; i++) {
        const struct search_point *s = &archive->point[i];
        p[i] = search_counts(s) ? (struct pareto_point){s->size, -s->score, s->time} : (struct pareto_point){NAN, NAN, NAN};
    }
    stretch(&p->a, OBJECTIVES, archive->n);
    stretch(&p->b, OBJECTIVES, archive->n);
    stretch(&p->c, OBJECTIVES, archive->n);
    *out = p;
    return OK;
}

static bool timed(const struct search_archive *archive)
{
    return archive->n > 0 && archive->point[0].time > 0;
}

double search_hypervolume(const struct search_archive *archive, size_t k)
{
    struct err err;
    struct pareto_point *p, reference = {1.1, 1.1, timed(archive) ? 1.1 : 1};
    double volume = 0;
    size_t n = 0;
    if (normalised(archive, &p, &err) != OK)
        return 0;
    for (size_t i = 0; i < k && i < archive->n; i++)
        if (search_counts(&archive->point[i]))
            p[n++] = p[i];
    if (pareto_hypervolume(p, n, reference, &volume, &err) != OK)
        volume = 0;
    free(p);
    return volume;
}

size_t search_front(const struct search_archive *archive, size_t *index)
{
    struct err err;
    struct pareto_point *p;
    bool *front = calloc(archive->n ? archive->n : 1, sizeof *front);
    size_t n = 0;
    if (front && normalised(archive, &p, &err) == OK) {
        pareto_front(p, archive->n, front);
        free(p);
    }
    for (size_t i = 0; front && i < archive->n; i++)
        if (front[i])
            index[n++] = i;
    free(front);
    return n;
}

/* Eq. 5 is a trade of bytes for score.  With a budget there is no trade: what fits is allowed, so the best score counts.  Whatever dominates a
 * point that fits is smaller and fits too, so the front of all is enough; of equal values the smallest size. */
enum status search_pick(const struct search_archive *archive, double lambda, double max_size, size_t *pick, struct err *err)
{
    struct pareto_point *p;
    bool *front = calloc(archive->n + 1, sizeof *front), budget = isfinite(max_size), three = timed(archive), any = false;
    double best = INFINITY;
    enum status status = front ? normalised(archive, &p, err) : err_set(err, ERR_MEMORY, "out of memory for a front");
    if (status != OK) {
        free(front);
        return status;
    }
    pareto_front(p, archive->n, front);
    for (size_t i = 0; i < archive->n; i++) {
        double cost = three ? (p[i].a + p[i].c) / 2 : p[i].a, value = budget ? p[i].b : cost + lambda * p[i].b;
        bool better = value < best || (any && value == best && p[i].a < p[*pick].a);
        if (front[i] && archive->point[i].size <= max_size && better) {
            best = value;
            *pick = i;
            any = true;
        }
    }
    free(p);
    free(front);
    return any ? OK : err_set(err, ERR_FAILED, "no trial succeeded within the budget: there is nothing to pick");
}

enum status search_pick_posterior(const struct search_space *space, const struct search_archive *archive, double lambda, double max_size,
                                  size_t *pick, struct err *err)
{
    size_t n = archive->n ? archive->n : 1;
    struct search_archive believed = {.point = malloc(n * sizeof *believed.point), .n = archive->n};
    double *mean = malloc(2 * n * sizeof *mean);
    enum status status = believed.point && mean ? search_posterior(space, archive, mean, mean + n, err)
                                                : err_set(err, ERR_MEMORY, "out of memory for a front");
    for (size_t i = 0; status == OK && i < archive->n; i++) {
        believed.point[i] = archive->point[i];
        believed.point[i].score = mean[i];
    }
    if (status == OK)
        status = search_pick(&believed, lambda, max_size, pick, err);
    free(believed.point); /* its levels are the archive's */
    free(mean);
    return status;
}
