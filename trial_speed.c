/* trial_speed.c: how fast the model writes in each format, for a search that trades speed too.
 *
 * Measured: one sequence decoded with all linears in one format, without adapters (they are merged by then), the seconds of a token, S_f.  A mix is taken as
 * its linears' shares of the time, by their weights:  S = sum_i (w_i / sum w) S_f(i),  exact where all have one format.  Linears whose format is pinned
 * are in every S_f and have no share. */
#include <math.h>
#include <stdlib.h>

#include "base/stop.h"
#include "trial.h"

enum { BLOCK = 8, LEAST_BLOCKS = 3, MOST_BLOCKS = 12 };
static const double ENOUGH_S = 0.4;

struct decoding {
    struct arena arena, tables; /* keys and values, where passes run; what the host reads of them */
    struct kv_cache cache;
    real *logits; /* where passes run */
};

static void decoding_place(struct decoding *d, const struct model *model)
{
    kv_cache_place(&d->cache, model, FORMAT_F16, BLOCK, &d->arena);
    d->logits = arena_take(&d->arena, (size_t)model->config.vocab_size, sizeof *d->logits);
}

/* One sequence of BLOCK tokens from its start. */
static enum status decode_block(struct trials *trials, const struct model *model, struct decoding *d, double *seconds, struct err *err)
{
    int32_t token = 0;
    real first;
    double start = clock_s();
    d->cache.n = 0;
    for (int i = 0; i < BLOCK; i++) {
        TRY(model_decode(trials->run, model, NULL, &d->cache, &token, 1, d->logits, err));
        TRY(model_fetch(trials->run->ops, &first, d->logits, sizeof first, err)); /* a device has then done all of it */
    }
    *seconds = (clock_s() - start) / BLOCK;
    return OK;
}

/* The fastest of several blocks: whatever disturbs a clock makes it slower.  The first one warms up. */
static enum status fastest_block(struct trials *trials, struct decoding *d, double *seconds, struct err *err)
{
    const struct model *model = &trials->model;
    const struct lora *none = NULL;
    double first, spent = 0;
    TRY(trials_there(trials, &model, &none, err));
    TRY(decode_block(trials, model, d, &first, err));
    *seconds = INFINITY;
    for (int i = 0; i < MOST_BLOCKS && (i < LEAST_BLOCKS || spent < ENOUGH_S); i++) {
        double here;
        TRY(stop_check(err));
        TRY(decode_block(trials, model, d, &here, err));
        *seconds = fmin(*seconds, here);
        spent += BLOCK * here;
    }
    return OK;
}

static enum status measure_formats(struct trials *trials, struct decoding *d, uint8_t *level, struct err *err)
{
    for (size_t f = 0; f < trials->n_levels; f++) {
        for (size_t v = 0; v < trials->n_format_variables; v++)
            level[v] = trials->n_variable_levels[v] > 1 ? (uint8_t)f : 0;
        TRY(trials_set(trials, level, err));
        TRY(fastest_block(trials, d, &trials->seconds[f], err));
    }
    return OK;
}

enum status trials_measure_speed(struct trials *trials, struct err *err)
{
    struct decoding d = {0};
    uint8_t *level = calloc(trials->n_variables, 1);
    enum status status = level ? OK : err_set(err, ERR_MEMORY, "out of memory for a configuration");
    d.arena.tables = trials->mirror ? &d.tables : NULL;
    if (status == OK) {
        decoding_place(&d, trials->source);
        status = model_commit(trials->run->ops, &d.arena, "decoding", err);
    }
    if (status == OK) {
        decoding_place(&d, trials->source);
        status = measure_formats(trials, &d, level, err);
    }
    model_release(trials->run->ops, &d.arena);
    free(level);
    return status;
}

double trials_time(const struct trials *trials, const uint8_t *level)
{
    double sum = 0, weights = 0;
    for (size_t i = 0; i < trials->n_linears; i++) {
        if (trials->pinned[i] != TRIALS_NOT_PINNED)
            continue;
        sum += trials->weights[i] * trials->seconds[trials_format(trials, i, level)];
        weights += trials->weights[i];
    }
    return weights > 0 ? sum / weights : trials->seconds[0];
}
