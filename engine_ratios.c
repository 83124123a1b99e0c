/* engine_ratios.c: several pruned models in one search (the key pruning_ratios): a model, its trials and their memory for each ratio, one of them in use.
 *
 * What the engine calls pruned, shape, weights, variants, optimizer and trials are those of the ratio in use; the others rest in engine->ratio.  Contents
 * are exchanged, so a pointer to engine->pruned or engine->trials is always one to what is in use.
 *
 * The space of the search is that of the trials, which all ratios share but for the widths, with one variable more, the last: the ratio.  What a
 * configuration weighs is what the trials of its ratio say.  Without the key there is one model, and nothing here does anything. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* ---- which ratio ---- */

static void swap(void *a, void *b, size_t n)
{
    unsigned char *x = a, *y = b;
    for (size_t i = 0; i < n; i++) {
        unsigned char t = x[i];
        x[i] = y[i];
        y[i] = t;
    }
}

static void exchange(struct engine *engine, struct engine_ratio *r)
{
    swap(&engine->shape, &r->shape, sizeof r->shape);
    swap(&engine->group_ratio, &r->group_ratio, sizeof r->group_ratio);
    swap(&engine->achieved_ratio, &r->achieved_ratio, sizeof r->achieved_ratio);
    swap(&engine->weights, &r->weights, sizeof r->weights);
    swap(&engine->variants, &r->variants, sizeof r->variants);
    swap(&engine->optimizer, &r->optimizer, sizeof r->optimizer);
    swap(&engine->pruned, &r->pruned, sizeof r->pruned);
    swap(&engine->trials, &r->trials, sizeof r->trials);
}

void engine_use_ratio(struct engine *engine, size_t k)
{
    if (engine->n_ratios == 0 || k == engine->ratio_in_use)
        return;
    exchange(engine, &engine->ratio[engine->ratio_in_use]);
    exchange(engine, &engine->ratio[k]);
    engine->ratio_in_use = k;
}

size_t engine_models(const struct engine *engine)
{
    return engine->n_ratios ? engine->n_ratios : 1;
}

double engine_ratio(const struct engine *engine)
{
    return engine->n_ratios ? engine->ratio[engine->ratio_in_use].value : engine->config->pruning_ratio;
}

size_t engine_ratio_of(const struct engine *engine, const uint8_t *level)
{
    return engine->n_ratios ? level[engine->trials.n_variables] : 0;
}

const struct trials *engine_trials_at(const struct engine *engine, size_t k)
{
    return k == engine->ratio_in_use ? &engine->trials : &engine->ratio[k].trials;
}

const struct trials *engine_trials_of(const struct engine *engine, const uint8_t *level)
{
    return engine_trials_at(engine, engine_ratio_of(engine, level));
}

/* ---- the list ---- */

enum status engine_ratios_new(struct engine *engine)
{
    const struct strategy *strategy;
    double ratio[CONFIG_RATIOS];
    size_t n;
    TRY(config_ratios(engine->config, ratio, &n, engine->err));
    if (n == 0)
        return OK;
    TRY(search_strategy_find(engine->config->search, &strategy, engine->err));
    if (!strategy->any_size)
        return err_set(engine->err, ERR_INPUT, "search = %s, want gp or random with pruning_ratios: it counts on sizes that add up over layers",
                       strategy->name);
    if (objective_is_divergence(config_objective(engine->config)))
        return err_set(engine->err, ERR_INPUT, "objective = %s, want accuracy or loss with pruning_ratios: a divergence is from the same pruned model, "
                       "unquantized, and does not tell what pruning lost", engine->config->objective);
    engine->ratio = calloc(n, sizeof *engine->ratio);
    if (!engine->ratio)
        return err_set(engine->err, ERR_MEMORY, "out of memory for pruning ratios");
    engine->n_ratios = n;
    for (size_t k = 0; k < n; k++) /* more pruned is a lower level: a higher one is larger */
        engine->ratio[k].value = ratio[n - 1 - k];
    return OK;
}

static double achieved(const struct engine *engine, size_t k)
{
    return k == engine->ratio_in_use ? engine->achieved_ratio : engine->ratio[k].achieved_ratio;
}

enum status engine_ratios_check(const struct engine *engine)
{
    for (size_t k = 1; k < engine->n_ratios; k++)
        if (!(achieved(engine, k) < achieved(engine, k - 1)))
            return err_set(engine->err, ERR_INPUT, "pruning_ratios = %s: %g and %g lead to the same widths; take them further apart",
                           engine->config->pruning_ratios, engine->ratio[k].value, engine->ratio[k - 1].value);
    return OK;
}

void engine_ratios_free(struct engine *engine)
{
    for (size_t k = 0; k < engine->n_ratios; k++) {
        struct engine_ratio *r = &engine->ratio[k];
        trials_free(&r->trials);
        model_free(&r->pruned);
        model_config_free(&r->shape);
        arena_free(&r->weights);
        arena_free(&r->variants);
        arena_free(&r->optimizer);
    }
    free(engine->ratio);
    free(engine->joint.n_levels);
    free(engine->joint.kind);
    free(engine->joint.group);
    free(engine->joint.feature);
}

/* ---- the space ---- */

static double size_of(void *user, const uint8_t *level)
{
    const struct engine *engine = user;
    return trials_size(engine_trials_of(engine, level), level);
}

/* By the parameters that are kept.  Pruning one model by one threshold (global_pruning) may leave two of them equal, though they were planned apart. */
static void place_positions(struct engine *engine)
{
    size_t last = engine->n_ratios - 1;
    double low = achieved(engine, 0), span = low - achieved(engine, last);
    for (size_t k = 0; k <= last; k++)
        engine->joint.position[k] = span > 0 ? (low - achieved(engine, k)) / span : (double)k / (double)last;
}

enum status engine_make_space(struct engine *engine, double max_size)
{
    struct engine_joint *j = &engine->joint;
    struct search_space *space = &engine->space;
    engine->max_size = max_size;
    trials_space(&engine->trials, max_size, space);
    space->size = size_of;
    space->user = engine;
    if (engine->n_ratios == 0)
        return OK;
    size_t n = space->n;
    if (!j->n_levels) {
        j->n_levels = malloc(n + 1);
        j->kind = malloc(n + 1);
        j->group = malloc((n + 1) * sizeof *j->group);
        j->feature = malloc((n + 1) * sizeof *j->feature);
    }
    if (!j->n_levels || !j->kind || !j->group || !j->feature)
        return err_set(engine->err, ERR_MEMORY, "out of memory for the search space");
    memcpy(j->n_levels, space->n_levels, n);
    memcpy(j->kind, space->kind, n);
    memcpy(j->group, space->group, n * sizeof *j->group);
    memcpy(j->feature, space->feature, n * sizeof *j->feature);
    place_positions(engine);
    j->n_levels[n] = (uint8_t)engine->n_ratios;
    j->kind[n] = SEARCH_RATIO;
    j->group[n] = UINT16_MAX; /* of no layer */
    j->feature[n] = j->position;
    space->n = n + 1;
    space->n_levels = j->n_levels;
    space->feature = j->feature;
    space->kind = j->kind;
    space->group = j->group;
    return OK;
}
