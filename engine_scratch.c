/* engine_scratch.c: train_mode = full: all weights are trained, of a model from random numbers or of a given one.
 *
 * The model is F32 while it is trained; its model/ folder is written in export_dtype. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cuda/device.h"
#include "engine.h"

/* The shape that the configuration spells out. */
static enum status shape_from_config(struct engine *engine, struct model_config *shape)
{
    const struct config *c = engine->config;
    struct err *err = engine->err;
    int64_t heads = c->num_attention_heads, kv = c->num_key_value_heads ? c->num_key_value_heads : heads;
    int64_t head_dim = c->head_dim ? c->head_dim : c->hidden_size / heads;
    int64_t vocab = c->vocab_size ? c->vocab_size : tokenizer_vocab_size(engine->tokenizer);
    if (heads % kv != 0)
        return err_set(err, ERR_INPUT, "num_attention_heads = %lld, want a multiple of num_key_value_heads = %lld", (long long)heads,
                       (long long)kv);
    if (!c->head_dim && c->hidden_size % heads != 0)
        return err_set(err, ERR_INPUT, "hidden_size = %lld, want a multiple of num_attention_heads = %lld or a head_dim",
                       (long long)c->hidden_size, (long long)heads);
    if (head_dim % 2 != 0)
        return err_set(err, ERR_INPUT, "head_dim = %lld, want an even number", (long long)head_dim);
    if (vocab < tokenizer_vocab_size(engine->tokenizer))
        return err_set(err, ERR_INPUT, "vocab_size = %lld, the tokenizer has %d pieces", (long long)vocab,
                       tokenizer_vocab_size(engine->tokenizer));
    TRY(model_config_alloc(shape, (int32_t)c->num_hidden_layers, err));
    shape->vocab_size = (int32_t)vocab;
    shape->hidden_size = (int32_t)c->hidden_size;
    shape->head_dim = (int32_t)head_dim;
    shape->max_position_embeddings = (int32_t)c->max_position_embeddings;
    shape->rms_norm_eps = (float)c->rms_norm_eps;
    shape->rope_theta = c->rope_theta;
    shape->tie_word_embeddings = c->tie_word_embeddings;
    shape->bos_token_id = tokenizer_bos(engine->tokenizer);
    shape->eos_token_id[0] = tokenizer_eos(engine->tokenizer);
    shape->n_eos = shape->eos_token_id[0] >= 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        shape->num_attention_heads[l] = (int32_t)heads;
        shape->num_key_value_heads[l] = (int32_t)kv;
        shape->intermediate_size[l] = (int32_t)c->intermediate_size;
    }
    return OK;
}

/* Everything that full training takes beside the weights: the same code counts and carves. */
struct full {
    struct model_grads grads;
    struct finetune finetune;
    real *m, *v;
};

static void place_full(struct full *full, struct engine *engine, int64_t steps)
{
    model_grads_place(&full->grads, &engine->base, false, &engine->importance);
    full->m = arena_take(&engine->importance, full->grads.n, sizeof(real));
    full->v = arena_take(&engine->importance, full->grads.n, sizeof(real));
    finetune_place(&full->finetune, &engine->dataset, engine->config->micro_batch_size, steps, &engine->importance);
}

static enum status place_everything(struct full *full, struct engine *engine, int64_t steps)
{
    struct plan plan;
    TRY(plan_new(&plan, &engine->base_shape, FORMAT_F32, engine->err));
    enum status status = model_shape(&engine->base, &engine->base_shape, &plan, engine->err);
    plan_free(&plan);
    TRY(status);
    model_place(&engine->base, FORMAT_F32, &engine->base_weights);
    TRY(arena_commit(&engine->base_weights, "weights", engine->err));
    model_place(&engine->base, FORMAT_F32, &engine->base_weights);
    model_use_tables(&engine->ops, &engine->importance, &engine->tables[1]);
    place_full(full, engine, steps);
    TRY(model_commit(&engine->ops, &engine->importance, "optimizer", engine->err));
    place_full(full, engine, steps);
    return engine_place_run(engine, &engine->base);
}

static enum status score(struct engine *engine, const struct model *model)
{
    for (size_t i = 0; i < engine->tasks.n; i++) {
        struct evaluate_result r;
        TRY(evaluate_run(engine->tasks.report[i], 1, &engine->run, model, NULL, &r, NULL, engine->err));
        log_line(&engine->log, "%-14s %.4f +- %.4f (%zu documents)", r.task, r.headline, r.headline_stderr, r.n);
    }
    return OK;
}

/* `there` is the base, or its copy on a device, whose parameters come back at the end. */
static enum status train(struct engine *engine, struct full *full, const struct model *there, int64_t steps)
{
    size_t n = 0;
    struct finetune_options options;
    trial_options(engine->config, steps, &options);
    options.log = engine->log;
    options.checkpoint_dir = engine->config->output_dir;
    struct finetune_target target = {.grads = &full->grads, .p = model_parameter_block(there, &n), .m = full->m, .v = full->v};
    if (!target.p || n != full->grads.n)
        return err_set(engine->err, ERR_FAILED, "the weights are not one block of %zu parameters", full->grads.n);
    log_line(&engine->log, "training %zu parameters for %lld steps", n, (long long)steps);
    TRY(finetune_run(&full->finetune, &engine->run, there, &target, &engine->dataset, steps, &options, engine->err));
    if (!engine->ops.device)
        return OK;
    return device_download(engine->ops.device, model_parameter_block(&engine->base, &n), target.p, n * sizeof *target.p, engine->err);
}

enum status engine_train_full(struct engine *engine)
{
    const struct config *config = engine->config;
    struct full full;
    const struct model *there;
    memset(&full, 0, sizeof full);
    if (!engine->checkpoint)
        TRY(shape_from_config(engine, &engine->base_shape));
    TRY(engine_load_tasks(engine));
    int64_t steps = finetune_steps(config->max_steps, config->num_epochs, engine->dataset.n, config->batch_size);
    engine->ops.compute = COMPUTE_F32;
    engine->memory.keep_activations = strcmp(config->gradient_checkpointing, "yes") != 0;
    TRY(place_everything(&full, engine, steps));
    if (engine->checkpoint)
        TRY(model_load(&engine->base, engine->checkpoint, engine->err));
    else
        model_random(&engine->base, config->initializer_range, (uint64_t)config->seed);
    TRY(model_mirror_model(engine_mirror(engine), &engine->base, NULL, &there, engine->err));
    TRY(train(engine, &full, there, steps));
    TRY(score(engine, there));
    return engine_write_scratch(engine, &full.finetune);
}
