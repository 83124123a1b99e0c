/* engine_speed.c: tokens a second as the third objective of a search (the key search_speed).
 *
 * A clock never says the same twice, so what it said before the first trial is kept in the journal, {"type": "speed", ...}: a run that goes on after a stop
 * proposes what it would have proposed. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum status engine_check_speed(const struct engine *engine)
{
    const struct strategy *strategy;
    if (!engine->config->search_speed || strcmp(engine->config->search, "none") == 0)
        return OK;
    TRY(search_strategy_find(engine->config->search, &strategy, engine->err));
    return strategy->any_size ? OK
                              : err_set(engine->err, ERR_INPUT, "search = %s, want gp or random with search_speed: it knows two objectives", strategy->name);
}

/* Of every ratio's trials, which are in use one after the other. */
static enum status measure(struct engine *engine)
{
    size_t before = engine->ratio_in_use;
    enum status status = OK;
    for (size_t k = 0; status == OK && k < engine_models(engine); k++) {
        engine_use_ratio(engine, k);
        status = trials_measure_speed(&engine->trials, engine->err);
    }
    engine_use_ratio(engine, before);
    return status;
}

static void remember(struct engine *engine)
{
    size_t before = engine->ratio_in_use, n = engine->trials.n_levels;
    for (size_t k = 0; k < engine_models(engine); k++) {
        engine_use_ratio(engine, k);
        memcpy(engine->trials.seconds, engine->known_speed + k * n, n * sizeof *engine->known_speed);
    }
    engine_use_ratio(engine, before);
}

static double time_of(void *user, const uint8_t *level)
{
    return trials_time(engine_trials_of(user, level), level);
}

static void log_speeds(const struct engine *engine)
{
    for (size_t f = 0; f < engine->trials.n_levels; f++)
        log_line(&engine->log, "speed: %.1f tokens a second with every linear %s", 1 / engine->trials.seconds[f], trials_level_name(&engine->trials, f));
}

enum status engine_know_speed(struct engine *engine)
{
    if (!engine->config->search_speed)
        return OK;
    if (engine->known_speed) {
        remember(engine);
    } else {
        TRY(measure(engine));
        TRY(engine_record_speed(engine));
    }
    log_speeds(engine);
    engine->space.time = time_of;
    for (size_t i = 0; i < engine->archive.n; i++)
        engine->archive.point[i].time = time_of(engine, engine->archive.point[i].level);
    return OK;
}
