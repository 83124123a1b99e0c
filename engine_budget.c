/* engine_budget.c: what target_size and target_bpw allow, and the embedding's format where nothing else would fit. */
#include "engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* max_memory bounds the memory plan, in which every format of every linear stands beside the others, so it does not depend on the configuration. */
double engine_size_budget(const struct engine *engine)
{
    double most = INFINITY;
    const struct config *config = engine->config;
    if (config->target_size > 0)
        most = config->target_size;
    if (config->target_bpw > 0) {
        double weights = 0;
        for (int l = 0; l < engine->shape.num_hidden_layers; l++)
            for (int j = 0; j < LINEAR_COUNT; j++) {
                size_t out, in;
                plan_shape(&engine->trials.plan, &engine->shape, l, (enum linear)j, &out, &in);
                weights += (double)out * (double)in;
            }
        most = fmin(most, engine->trials.fixed_bytes + config->target_bpw * weights / 8);
    }
    return most;
}

/* ---- the embedding ---- */

/* Bytes of the smallest configuration with the embedding in this format (NULL: as the keys say); INFINITY where its rows cannot take it. */
static enum status least_with(struct engine *engine, const char *embedding, double *least)
{
    struct model_stored held;
    struct trials trials = {0};
    struct text told = {0};
    struct err err;
    *least = INFINITY;
    engine->embedding = embedding;
    TRY(engine_held(engine, &engine->shape, &held, &told));
    enum status status = trials_init(&trials, engine->config, &engine->shape, &held, &err);
    uint8_t *lowest = status == OK ? calloc(trials.n_variables + 1, sizeof *lowest) : NULL;
    if (lowest)
        *least = trials_size(&trials, lowest);
    bool starved = status == OK ? !lowest : status == ERR_MEMORY;
    free(lowest);
    trials_free(&trials);
    plan_free(&held.plan);
    text_free(&told);
    return starved ? err_set(engine->err, ERR_MEMORY, "out of memory for a configuration") : OK; /* other faults are said when the plan is made */
}

enum status engine_fit_embedding(struct engine *engine)
{
    const struct config *config = engine->config;
    const char *const candidate[] = {NULL, engine->stored.embed == FORMAT_F16 ? "f16" : "bf16", "int8", "nf4"}, *best = NULL;
    bool is_free = strcmp(config->embedding_type, "auto") == 0 && strcmp(config_embedding(config), "f32") == 0 && strcmp(config->pruning_mode, "channel") != 0;
    double least = INFINITY, size;
    if (!config_searches(config) || config->target_size == 0 || !is_free)
        return OK;
    for (size_t i = 0; i < sizeof candidate / sizeof *candidate && least > config->target_size; i++) {
        TRY(least_with(engine, candidate[i], &size));
        if (size < least) {
            least = size;
            best = candidate[i];
        }
    }
    engine->embedding = best;
    return OK;
}

/* ---- what cannot be met ---- */

/* What a user can do about a budget that is below the smallest configuration: the keys that are still free to go lower, the embedding's with its bytes. */
static enum status too_small(struct engine *engine)
{
    const struct trials *trials = &engine->trials;
    struct plan_storage storage = trials->storage;
    char sentence[sizeof engine->err->text], embed[64] = "";
    uint64_t now = plan_bytes(&trials->plan, &engine->shape, &storage), then;
    storage.embed = storage.head = FORMAT_NF4;
    then = plan_bytes(&trials->plan, &engine->shape, &storage);
    if (then < now && quant_check(FORMAT_NF4, 0, (size_t)engine->shape.vocab_size, (size_t)engine->shape.hidden_size, NULL) == OK)
        snprintf(embed, sizeof embed, "embedding_type = nf4 (%.0f less), ", (double)(now - then));
    snprintf(sentence, sizeof sentence, "%s", engine->err->text);
    return err_set(engine->err, ERR_INPUT, "%s; to go lower: %sa larger %s, smaller quant_types or %s", sentence, embed,
                   *engine->config->pruning_ratios ? "ratio among pruning_ratios" : "pruning_ratio", trials->n_ranks ? "rank_types" : "lora_r");
}

enum status engine_check_budget(struct engine *engine)
{
    TRY(engine_make_space(engine, engine_size_budget(engine)));
    if (!config_searches(engine->config))
        return OK;
    enum status status = search_check_budget(&engine->space, engine->err);
    return status == ERR_INPUT ? too_small(engine) : status;
}
