/* autoqra_moves.c: what autoqra knows of the space, and how it makes one configuration from others. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "strategy/autoqra.h"

/* ---- the space ---- */

static enum search_kind kind_of(const struct search_space *space, size_t i)
{
    return space->kind && space->kind[i] == SEARCH_RANK ? SEARCH_RANK : SEARCH_FORMAT;
}

static bool same_group(const struct search_space *space, size_t i, size_t j)
{
    return space->group ? space->group[i] == space->group[j] : i == j;
}

static uint8_t top_of(const struct search_space *space, size_t i)
{
    return (uint8_t)(space->n_levels[i] - 1);
}

/* What a low format costs and what a high rank brings have different units: each kind is set on its own axis. */
static void normalise(const struct search_space *space, double *importance)
{
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    for (size_t i = 0; space->importance && i < space->n; i++)
        if (isfinite(space->importance[i])) {
            enum search_kind k = kind_of(space, i);
            low[k] = fmin(low[k], space->importance[i]);
            high[k] = fmax(high[k], space->importance[i]);
        }
    for (size_t i = 0; i < space->n; i++) {
        enum search_kind k = kind_of(space, i);
        if (space->importance && !isfinite(space->importance[i]))
            importance[i] = 1; /* what cannot even be measured at a low level */
        else
            importance[i] = high[k] > low[k] ? (space->importance[i] - low[k]) / (high[k] - low[k]) : 0.5;
    }
}

/* Sizes add up over the variables, so one table is enough for all configurations. */
static void weigh(struct autoqra *q, uint8_t *level)
{
    const struct search_space *space = q->space;
    memset(level, 0, space->n);
    double base = space->size(space->user, level);
    for (size_t i = 0; i < space->n; i++) {
        for (uint8_t k = 0; k < space->n_levels[i]; k++) {
            level[i] = k;
            q->bytes[i * q->stride + k] = space->size(space->user, level) - base;
        }
        level[i] = 0;
    }
    search_ends(space, level, &q->low_size, &q->high_size);
    for (size_t i = 0; i < space->n; i++)
        level[i] = top_of(space, i);
    q->bound = !search_fits(space, level);
}

enum status autoqra_new(struct autoqra *q, struct err *err)
{
    const struct search_space *space = q->space;
    size_t n = space->n + 1;
    for (size_t i = 0; i < space->n; i++)
        q->stride = space->n_levels[i] > q->stride ? space->n_levels[i] : q->stride;
    q->importance = malloc(n * sizeof *q->importance);
    q->bytes = malloc((n * q->stride + 1) * sizeof *q->bytes);
    q->unit = malloc(n * sizeof *q->unit);
    q->child = malloc(n);
    q->best = malloc(n);
    if (!q->importance || !q->bytes || !q->unit || !q->child || !q->best)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    normalise(space, q->importance);
    weigh(q, q->child);
    for (size_t i = 0; i < space->n; i++)
        for (q->unit[i] = 0; !same_group(space, i, q->unit[i]) || kind_of(space, i) != kind_of(space, q->unit[i]); q->unit[i]++)
            ;
    return OK;
}

void autoqra_free(struct autoqra *q)
{
    free(q->importance);
    free(q->bytes);
    free(q->unit);
    free(q->child);
    free(q->best);
}

double autoqra_budget(const struct autoqra *q, double fraction)
{
    return q->bound ? q->space->max_size : q->low_size + fraction * (q->high_size - q->low_size);
}

double autoqra_weighted(const struct autoqra *q, enum search_kind kind, const uint8_t *level)
{
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < q->space->n; i++)
        if (kind_of(q->space, i) == kind) {
            sum += q->importance[i] * q->space->feature[i][level[i]];
            count++;
        }
    return count ? sum / (double)count : 0;
}

bool autoqra_known(const struct autoqra *q, const uint8_t *level)
{
    for (size_t i = 0; i < q->archive->n; i++)
        if (memcmp(q->archive->point[i].level, level, q->space->n) == 0)
            return true;
    return false;
}

/* ---- repair ---- */

/* The downgrade that loses least for a byte; AUTOQRA_NONE: there is none.  partners: only the other kind in the group of `raised`. */
static long cheapest(const struct autoqra *q, const uint8_t *level, long raised, bool partners)
{
    const struct search_space *space = q->space;
    double least = INFINITY, position = 0;
    long chosen = AUTOQRA_NONE;
    for (size_t i = 0; i < space->n; i++) {
        if ((long)i == raised || level[i] <= search_least(space, i))
            continue;
        if (partners && !(same_group(space, i, (size_t)raised) && kind_of(space, i) != kind_of(space, (size_t)raised)))
            continue;
        const double *bytes = q->bytes + i * q->stride + level[i];
        double saved = bytes[0] - bytes[-1], cost = (q->importance[i] + 1e-8) / saved, here = space->feature[i][level[i]];
        if (saved > 0 && (cost < least || (cost == least && here > position))) {
            least = cost;
            position = here;
            chosen = (long)i;
        }
    }
    return chosen;
}

void autoqra_repair(const struct autoqra *q, double budget, long raised, uint8_t *level)
{
    const struct search_space *space = q->space;
    for (int partners = raised != AUTOQRA_NONE; partners >= 0; partners--)
        while (space->size(space->user, level) > budget) {
            long i = cheapest(q, level, raised, partners);
            if (i == AUTOQRA_NONE)
                break;
            level[i]--;
        }
}

/* ---- filling ---- */

/* The upgrade that fits and brings most for a byte: importance times the way along the variable's axis; AUTOQRA_NONE: nothing fits. */
static long dearest(const struct autoqra *q, const uint8_t *level, double room)
{
    const struct search_space *space = q->space;
    double most = -INFINITY;
    long chosen = AUTOQRA_NONE;
    for (size_t i = 0; i < space->n; i++) {
        if (level[i] >= top_of(space, i))
            continue;
        const double *bytes = q->bytes + i * q->stride + level[i], *position = space->feature[i] + level[i];
        double added = bytes[1] - bytes[0], gain = (q->importance[i] + 1e-8) * fmax(position[1] - position[0], 1e-8);
        if (added > 0 && added <= room && gain / added > most) {
            most = gain / added;
            chosen = (long)i;
        }
    }
    return chosen;
}

void autoqra_fill(const struct autoqra *q, uint8_t *level)
{
    const struct search_space *space = q->space;
    double room = q->bound ? space->max_size - space->size(space->user, level) : 0;
    for (long i; room > 0 && (i = dearest(q, level, room)) != AUTOQRA_NONE; level[i]++)
        room -= q->bytes[(size_t)i * q->stride + level[i] + 1] - q->bytes[(size_t)i * q->stride + level[i]];
}

/* ---- moves ---- */

void autoqra_start(const struct autoqra *q, double power, uint8_t *level)
{
    for (size_t i = 0; i < q->space->n; i++) {
        uint8_t k = (uint8_t)lround(pow(q->importance[i], power) * top_of(q->space, i)), least = search_least(q->space, i);
        level[i] = k > least ? k : least;
    }
}

void autoqra_redraw(struct autoqra *q, uint8_t *level)
{
    const struct search_space *space = q->space;
    for (size_t times = 0; times < space->n / 4 + 1; times++) {
        size_t i = rng_below(&q->rng, (uint32_t)space->n);
        uint8_t least = search_least(space, i);
        level[i] = (uint8_t)(least + rng_below(&q->rng, space->n_levels[i] - (uint32_t)least));
    }
}

/* How likely a variable is to be edited; 0: it cannot move (up: upwards). */
static double weight_of(const struct autoqra *q, const uint8_t *level, size_t i, bool up)
{
    bool stuck = level[i] >= top_of(q->space, i) && (up || level[i] <= search_least(q->space, i));
    return stuck ? 0 : pow(q->importance[i] + 0.1, 1.5);
}

static long pick_variable(struct autoqra *q, const uint8_t *level, bool up)
{
    double sum = 0, draw = rng_uniform(&q->rng);
    long chosen = AUTOQRA_NONE;
    for (size_t i = 0; i < q->space->n; i++)
        sum += weight_of(q, level, i, up);
    for (size_t i = 0; i < q->space->n && draw >= 0; i++) {
        double weight = weight_of(q, level, i, up);
        chosen = weight > 0 ? (long)i : chosen;
        draw -= weight > 0 ? weight / sum : 0;
    }
    return chosen;
}

void autoqra_mutate(struct autoqra *q, uint8_t *level)
{
    long i = pick_variable(q, level, false);
    if (i == AUTOQRA_NONE)
        return;
    bool can_rise = level[i] < top_of(q->space, (size_t)i), can_fall = level[i] > search_least(q->space, (size_t)i);
    bool up = rng_uniform(&q->rng) < q->importance[i];
    if ((up && can_rise) || !can_fall)
        level[i]++;
    else
        level[i]--;
}

void autoqra_couple(struct autoqra *q, uint8_t *level)
{
    long i = pick_variable(q, level, true);
    if (i == AUTOQRA_NONE)
        return;
    double before = q->space->size(q->space->user, level);
    level[i]++;
    autoqra_repair(q, before, i, level);
}

void autoqra_cross(struct autoqra *q, const uint8_t *a, const uint8_t *b, uint8_t *level)
{
    struct rng *rng = &q->rng;
    for (size_t i = 0; i < q->space->n; i++)
        level[i] = rng_at(rng->seed, rng->stream, rng->step, rng->index + q->unit[i]) & 1 ? a[i] : b[i];
    rng->index += q->space->n;
}
