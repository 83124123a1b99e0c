/* engine_model.c: what becomes of the model: loaded, pruned, placed for trials; calibration data for pruning and for calibrated quantizers. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/stop.h"
#include "use_device.h"

/* ---- where passes run ---- */

enum status engine_open_device(struct engine *engine)
{
    const struct config *config = engine->config;
    TRY(use_device_open(engine->planning ? "cpu" : config->device, &engine->ops, engine->err));
    engine->ops.threads = engine_threads(config);
    engine->mirror.ops = &engine->ops;
    engine->mirror.floats = strcmp(config->train_mode, "full") == 0 ? FORMAT_F32 : engine_floats(engine); /* what is trained is F32 */
    TRY(compute_parse(config->compute_dtype, &engine->ops.compute, engine->err));
    if (engine_on_device(engine) && strcmp(config->compute_dtype, "f32") != 0)
        engine->ops.compute = COMPUTE_BF16; /* its tensor cores' own, whatever the CPU beside it has */
    return OK;
}

struct model_mirror *engine_mirror(struct engine *engine)
{
    return engine_on_device(engine) ? &engine->mirror : NULL;
}

const char *engine_kernels(const struct engine *engine)
{
    return engine->ops.device ? engine->ops.ops->name : cpu_level_name();
}

const char *engine_compute(const struct engine *engine)
{
    enum compute compute = engine->ops.compute;
    return !engine->ops.device ? compute_name(compute) : compute == COMPUTE_F32 ? "f32" : "bf16";
}

/* ---- pruning ---- */

/* Sequences for importance and for calibrated quantizers: the first ones of a Philox order of the data, cut. */
struct calibration {
    struct batch *batch;
    struct segment *segment;
    int32_t *positions, *labels;
    size_t n;
};

static enum status make_calibration(struct engine *engine, size_t most_n, struct calibration *c)
{
    size_t T = (size_t)engine->config->calibration_seq_len;
    const struct dataset *data = engine->calibration.n ? &engine->calibration : &engine->dataset;
    c->n = most_n < data->n ? most_n : data->n;
    uint32_t *order = calloc(data->n, sizeof *order);
    c->batch = calloc(c->n, sizeof *c->batch);
    c->segment = calloc(c->n, sizeof *c->segment);
    c->positions = calloc(T, sizeof *c->positions);
    c->labels = calloc(c->n * T, sizeof *c->labels);
    if (!order || !c->batch || !c->segment || !c->positions || !c->labels) {
        free(order);
        return err_set(engine->err, ERR_MEMORY, "out of memory for calibration data");
    }
    for (size_t i = 0; i < data->n; i++)
        order[i] = (uint32_t)i;
    struct rng rng = {.seed = (uint64_t)engine->config->seed, .stream = RNG_PRUNE};
    rng_shuffle(&rng, order, data->n);
    for (size_t t = 0; t < T; t++)
        c->positions[t] = (int32_t)t;
    for (size_t i = 0; i < c->n; i++) {
        const struct example *e = &data->example[order[i]];
        size_t n = (size_t)e->n < T ? (size_t)e->n : T;
        int32_t *labels = c->labels + i * T; /* every next token counts, prompts too */
        for (size_t t = 0; t < n; t++)
            labels[t] = t + 1 < n ? e->tokens[t + 1] : -1;
        c->segment[i] = (struct segment){.len = (int32_t)n};
        c->batch[i] = (struct batch){.n = n, .tokens = e->tokens, .positions = c->positions, .labels = labels,
                                     .segments = &c->segment[i], .n_segments = 1};
    }
    free(order);
    return OK;
}

static void free_calibration(struct calibration *c)
{
    free(c->batch);
    free(c->segment);
    free(c->positions);
    free(c->labels);
}

static size_t all_rows(const struct calibration *c)
{
    size_t rows = 0;
    for (size_t i = 0; i < c->n; i++)
        rows += c->batch[i].n;
    return rows;
}

/* In the formats in which it is held. */
static enum status place_model(struct engine *engine, struct model *model, const struct model_config *shape, const struct model_stored *held,
                               struct arena *arena, const char *what)
{
    TRY(model_shape(model, shape, &held->plan, engine->err));
    model_place_head(model, held->embed, held->head, arena);
    TRY(arena_commit(arena, what, engine->err));
    model_place_head(model, held->embed, held->head, arena);
    return OK;
}

static enum status place_base(struct engine *engine)
{
    struct model_stored held;
    TRY(engine_held_base(engine, &held));
    enum status status = place_model(engine, &engine->base, &engine->base_shape, &held, &engine->base_weights, "base weights");
    plan_free(&held.plan);
    return status;
}

static enum status place_scratch(struct ops_context *c, size_t n, struct arena *arena, struct err *err)
{
    arena_take(arena, n, sizeof(real));
    TRY(model_commit(c, arena, "kernel scratch", err));
    c->scratch = arena_take(arena, n, sizeof(real));
    return OK;
}

static enum status place_activations(struct engine *engine, const struct model *model, struct model_run run)
{
    engine->run = run;
    model_use_tables(&engine->ops, &engine->activations, &engine->tables[0]);
    TRY(model_run_place(&engine->run, model, &engine->trials.lora, &engine->activations, engine->err));
    TRY(model_commit(&engine->ops, &engine->activations, "activations", engine->err));
    return model_run_place(&engine->run, model, &engine->trials.lora, &engine->activations, engine->err);
}

enum status engine_place_run(struct engine *engine, const struct model *model)
{
    TRY(place_scratch(&engine->ops, engine_scratch_reals(engine, model), &engine->scratch, engine->err));
    return place_activations(engine, model, engine_run_of(engine, engine->memory.keep_activations));
}

/* On a device, others in the place of those that are there. */
static enum status change_activations(struct engine *engine, const struct model *model, struct model_run run)
{
    if (!engine->ops.device)
        return OK;
    model_release(&engine->ops, &engine->activations);
    return place_activations(engine, model, run);
}

/* Second moments of a linear's inputs are summed up on the CPU, also where passes run on a device. */
static bool needs_host_run(const struct engine *engine)
{
    return engine_on_device(engine) && (engine_requantizes(engine->config) || trials_start_from_data(engine->config));
}

static void host_run_of(const struct engine *engine, struct ops_context *c, struct model_run *run)
{
    *c = (struct ops_context){.ops = cpu_ops(false), .threads = engine->ops.threads, .compute = engine->ops.compute};
    *run = (struct model_run){.ops = c, .max_n = (size_t)engine->config->calibration_seq_len};
}

size_t engine_host_run_bytes(const struct engine *engine, const struct model *model)
{
    struct ops_context c;
    struct model_run run;
    struct arena arena = {0};
    struct err err;
    if (!needs_host_run(engine))
        return 0;
    host_run_of(engine, &c, &run);
    arena_take(&arena, model_scratch_size(model, &c, run.max_n), sizeof(real));
    return model_run_place(&run, model, NULL, &arena, &err) == OK ? arena.used : SIZE_MAX / 4;
}

static enum status place_host_run(struct engine *engine, const struct model *model)
{
    struct ops_context *c = &engine->host_ops;
    struct model_run *run = &engine->host_run;
    if (run->ops || !needs_host_run(engine))
        return OK;
    host_run_of(engine, c, run);
    TRY(place_scratch(c, model_scratch_size(model, c, run->max_n), &engine->host_scratch, engine->err));
    TRY(model_run_place(run, model, NULL, &engine->host_activations, engine->err));
    TRY(arena_commit(&engine->host_activations, "activations", engine->err));
    return model_run_place(run, model, NULL, &engine->host_activations, engine->err);
}

/* Rows of calibration for importance; without data each sequence is as long as it may be. */
static enum status calibration_rows(struct engine *engine, size_t *rows)
{
    size_t samples = (size_t)engine->config->calibration_samples;
    struct calibration c = {0};
    *rows = samples * (size_t)engine->config->calibration_seq_len;
    if (!engine_has_weights(engine))
        return OK;
    enum status status = make_calibration(engine, samples, &c);
    if (status == OK)
        *rows = all_rows(&c);
    free_calibration(&c);
    return status;
}

enum status engine_importance_bytes(struct engine *engine, const struct model *base, size_t *bytes)
{
    struct prune_room room;
    struct arena tables = {0}, count = {.tables = engine_on_device(engine) ? &tables : NULL};
    size_t rows;
    *bytes = 0;
    if (!engine_measures(engine))
        return OK;
    TRY(calibration_rows(engine, &rows));
    prune_room_place(&room, base, &engine->prune_options, rows, &count);
    *bytes = count.used;
    return OK;
}

/* Memory for measuring this model's importance; of one that is random or known nothing. */
static enum status place_room(struct engine *engine, const struct model *model, size_t rows, struct prune_room *room)
{
    struct arena *arena = &engine->importance;
    if (!engine_measures(engine))
        return OK;
    model_use_tables(&engine->ops, arena, &engine->tables[1]);
    prune_room_place(room, model, &engine->prune_options, rows, arena);
    TRY(model_commit(&engine->ops, arena, "importance", engine->err));
    prune_room_place(room, model, &engine->prune_options, rows, arena);
    return OK;
}

static enum status measure_units(struct engine *engine, const struct model *model, const struct calibration *c, struct prune_scores *scores)
{
    struct prune_room room = {0};
    bool keep = engine->memory.keep_activations;
    enum compute compute = engine->ops.compute;
    engine->ops.compute = COMPUTE_F32; /* engine_measuring_run */
    enum status status = engine_measures(engine) ? change_activations(engine, &engine->base, engine_measuring_run(engine, keep)) : OK;
    if (status == OK)
        status = place_room(engine, model, all_rows(c), &room);
    if (status == OK)
        status = prune_scores_compute(scores, model, &engine->run, &room, c->batch, c->n, &engine->prune_options, engine->err);
    engine->ops.compute = compute;
    model_release(&engine->ops, &engine->importance);
    if (status == OK && engine_measures(engine))
        status = change_activations(engine, &engine->base, engine_run_of(engine, keep));
    return status;
}

static enum status score_units(struct engine *engine, const struct model *model, struct prune_scores *scores)
{
    struct calibration calibration = {0};
    enum status status = make_calibration(engine, (size_t)engine->config->calibration_samples, &calibration);
    if (status == OK && engine_measures(engine))
        status = model_mirror_model(engine_mirror(engine), model, NULL, &model, engine->err);
    if (status == OK)
        status = measure_units(engine, model, &calibration, scores);
    free_calibration(&calibration);
    return status;
}

static enum status start_from_data(struct engine *engine)
{
    struct calibration c = {0};
    enum status status = make_calibration(engine, (size_t)engine->config->quantizer_samples, &c);
    if (status == OK)
        status = trials_start_all(&engine->trials, c.batch, c.n, engine->err);
    free_calibration(&c);
    return status;
}

/* Both divergences are told: a calibrated quantizer is not always the better one. */
enum status engine_requantize(struct engine *engine, const uint8_t *level, const char *label)
{
    struct calibration c = {0};
    double before, after;
    if (!engine_requantizes(engine->config))
        return OK;
    TRY(trials_divergence(&engine->trials, level, &before, engine->err));
    enum status status = make_calibration(engine, (size_t)engine->config->quantizer_samples, &c);
    if (status == OK)
        status = trials_requantize(&engine->trials, level, c.batch, c.n, engine->err);
    free_calibration(&c);
    TRY(status);
    TRY(trials_divergence(&engine->trials, level, &after, engine->err));
    log_line(&engine->log, "%squantized by %s: KL %.4f nats a token from the unquantized model (by %s %.4f)", label, engine->config->quantizer, after,
             engine->config->search_quantizer, before);
    return OK;
}

/* Layers by the numbers that they have in the base, on through all steps. */
static void follow_layers(int32_t *layer, const struct prune_selection *selection)
{
    for (int32_t i = 0; selection->mode == PRUNE_LAYER && i < selection->n_units; i++)
        layer[i] = layer[selection->unit[i]];
}

static void log_layers(const struct engine *engine, const int32_t *layer, int32_t n)
{
    struct text gone = {0};
    for (int32_t l = 0, at = 0; l < engine->base_shape.num_hidden_layers; l++) {
        if (at < n && layer[at] == l)
            at++;
        else
            text_printf(&gone, " %d", l);
    }
    log_line(&engine->log, "layers removed:%s", gone.n ? gone.s : " none");
    text_free(&gone);
}

/* The smaller model's linears are F32, or as stored in what the cut leaves of from's formats; with quant_types = keep what it divides is told. */
static enum status place_cut(struct engine *engine, const struct model *from, const struct model_config *shape, const struct prune_selection *selection,
                             struct model *to, struct arena *arena)
{
    struct model_stored held = {.embed = from->embed.format, .head = from->head.format};
    struct text told = {0};
    TRY(plan_new(&held.plan, shape, FORMAT_F32, engine->err));
    if (engine_as_stored(engine))
        prune_formats(&held.plan, shape, &from->plan, &from->config, selection->mode, selection, &told);
    if (config_keeps(engine->config))
        log_line(&engine->log, "stored blocks: %s%s", told.n ? "encoded anew, as the cut divides them: " : "all that stay are as they were", told.n ? told.s : "");
    text_free(&told);
    enum status status = place_model(engine, to, shape, &held, arena, "pruned weights");
    plan_free(&held.plan);
    return status;
}

/* The units of `from` that stay, and the smaller model in `to` (its own arena). */
static enum status cut(struct engine *engine, const struct model *from, const struct prune_scores *scores, double ratio, struct model *to,
                       struct arena *arena, int32_t *layer)
{
    struct prune_selection selection = {0};
    struct model_config shape = {0};
    engine->prune_options.ratio = ratio;
    enum status status = prune_select(&selection, scores, &from->config, &engine->prune_options, &engine->base_shape, engine->err);
    if (status == OK)
        status = prune_config(&shape, &from->config, &selection, engine->err);
    if (status == OK)
        status = place_cut(engine, from, &shape, &selection, to, arena);
    if (status == OK)
        status = prune_apply(to, from, &selection, engine->err);
    if (status == OK) {
        follow_layers(layer, &selection);
        engine->group_ratio = selection.group_ratio;
        engine->achieved_ratio = selection.achieved;
    }
    model_config_free(&shape);
    prune_selection_free(&selection);
    return status;
}

/* One step, from scores of its own. */
static enum status prune_once(struct engine *engine, const struct model *from, double ratio, struct model *to, struct arena *arena, int32_t *layer)
{
    struct prune_scores scores = {0};
    enum status status = score_units(engine, from, &scores);
    if (status == OK)
        status = cut(engine, from, &scores, ratio, to, arena, layer);
    prune_scores_free(&scores);
    return status;
}

static enum status prune_steps(struct engine *engine, int32_t *layer)
{
    int64_t steps = engine->config->iterative_steps;
    for (int64_t k = 1; k <= steps; k++) {
        struct model smaller = {0};
        struct arena arena = {0};
        TRY(stop_check(engine->err));
        double ratio = engine->config->pruning_ratio * (double)k / (double)steps;
        enum status status = prune_once(engine, &engine->base, ratio, &smaller, &arena, layer);
        if (status != OK) {
            model_free(&smaller);
            arena_free(&arena);
            return status;
        }
        model_free(&engine->base);
        arena_free(&engine->base_weights);
        model_mirror_forget(&engine->mirror); /* its memory may be another's */
        engine->base = smaller;
        engine->base_weights = arena;
    }
    return OK;
}

static enum status prune(struct engine *engine)
{
    int32_t *layer = calloc((size_t)engine->base_shape.num_hidden_layers, sizeof *layer);
    if (!layer)
        return err_set(engine->err, ERR_MEMORY, "out of memory for the numbers of layers");
    for (int32_t l = 0; l < engine->base_shape.num_hidden_layers; l++)
        layer[l] = l;
    enum status status = prune_steps(engine, layer);
    if (status == OK && engine->prune_options.mode == PRUNE_LAYER)
        log_layers(engine, layer, engine->base.config.num_hidden_layers);
    free(layer);
    return status;
}

static void take_base(struct engine *engine)
{
    engine->pruned = engine->base;
    engine->weights = engine->base_weights;
    memset(&engine->base, 0, sizeof engine->base);
    memset(&engine->base_weights, 0, sizeof engine->base_weights);
}

static enum status keep_shape(struct engine *engine)
{
    model_config_free(&engine->shape);
    TRY(model_config_copy(&engine->shape, &engine->pruned.config, engine->err));
    log_line(&engine->log, "pruned: %.2f %% of the parameters removed (group ratio %.4f), %llu left", 100 * engine->achieved_ratio,
             engine->group_ratio, (unsigned long long)plan_parameters(&engine->pruned.plan, &engine->shape));
    return OK;
}

/* A model for every ratio, all cut from the base by the same scores; the last, if nothing goes from it, is the base. */
static enum status prune_to_ratios(struct engine *engine)
{
    struct prune_scores scores = {0};
    enum status status = score_units(engine, &engine->base, &scores);
    for (size_t k = 0; status == OK && k < engine->n_ratios; k++) {
        engine_use_ratio(engine, k);
        if (engine_ratio(engine) > 0)
            status = cut(engine, &engine->base, &scores, engine_ratio(engine), &engine->pruned, &engine->weights, NULL);
        else
            take_base(engine);
        if (status == OK)
            status = keep_shape(engine);
    }
    prune_scores_free(&scores);
    model_free(&engine->base);
    arena_free(&engine->base_weights);
    model_mirror_forget(&engine->mirror);
    return status;
}

static void log_kept(const struct engine *engine)
{
    if (!config_keeps(engine->config))
        return;
    log_line(&engine->log, "the base is what is stored: %.2f bits a weight of the linears, embedding %s", plan_bits(&engine->base.plan, &engine->base_shape),
             format_info(engine->base.embed.format)->name);
    if (strcmp(engine->config->lora_init, "loftq") == 0)
        log_line(&engine->log, "lora_init = loftq finds nothing that a stored format lacks: beside it adapters start with B = 0, as with default");
}

enum status engine_untried_bytes(struct engine *engine, const struct plan *plan, const struct model_config *shape, double *bytes)
{
    struct plan reals;
    if (config_keeps(engine->config)) {
        *bytes = (double)plan_bytes(plan, shape, &engine->trials.storage);
        return OK;
    }
    TRY(plan_new(&reals, shape, FORMAT_F32, engine->err));
    *bytes = (double)plan_bytes(&reals, shape, &engine->trials.storage);
    plan_free(&reals);
    return OK;
}

enum status engine_prune(struct engine *engine)
{
    bool moves = engine_as_stored(engine) && engine_prunes(engine->config); /* the cut moves bytes: it wants linears in the layout of files */
    TRY(place_base(engine));
    TRY(model_load(&engine->base, engine->checkpoint, engine->err));
    if (!engine->ops.device) /* which reads the layout of files */
        TRY((moves ? model_embed_to_panels : model_to_panels)(&engine->base, engine->err));
    log_kept(engine);
    TRY(engine_place_run(engine, &engine->base));
    engine->trials.log = engine->log;
    engine->trials.run = &engine->run;
    engine->trials.mirror = engine_mirror(engine);
    engine->trials.tasks = &engine->tasks;
    engine->trials.held_out = engine->held_out.n ? &engine->held_out : NULL;
    struct milestone_record *before = &engine->milestone[BEFORE_PRUNING];
    if (!before->done) {
        TRY(trials_score(&engine->trials, PART_REPORT, 1, &engine->base, NULL, &before->outcome, engine->err));
        TRY(engine_untried_bytes(engine, &engine->base.plan, &engine->base_shape, &before->outcome.size));
        log_line(&engine->log, "before pruning: %.4f +- %.4f", before->outcome.score, sqrt(before->outcome.variance));
        TRY(engine_record_milestone(engine, BEFORE_PRUNING));
    }
    if (engine->n_ratios)
        return prune_to_ratios(engine);
    if (engine_prunes(engine->config))
        TRY(prune(engine));
    take_base(engine);
    return keep_shape(engine);
}

/* The widths of the real selection may differ from the planned ones (global pruning): the space is made anew from them. */
static enum status place_training(struct engine *engine)
{
    struct trials *t = &engine->trials;
    struct trials old = *t;
    struct model_stored held = {.plan = engine->pruned.plan, .embed = engine->pruned.embed.format, .head = engine->pruned.head.format};
    trials_free(&old);
    memset(t, 0, sizeof *t);
    TRY(trials_init(t, engine->config, &engine->shape, &held, engine->err));
    if (engine_as_stored(engine) && !engine->ops.device)
        TRY(model_to_panels(&engine->pruned, engine->err));
    if (engine->ops.device)
        TRY(place_host_run(engine, &engine->pruned));
    TRY(trials_find_widest(t, &engine->shape, engine->err));
    t->log = engine->log;
    t->run = &engine->run;
    t->host_run = engine->host_run.ops ? &engine->host_run : NULL;
    t->mirror = engine_mirror(engine);
    t->tasks = &engine->tasks;
    t->held_out = engine->held_out.n ? &engine->held_out : NULL;
    t->dataset = &engine->dataset;
    t->source = &engine->pruned;
    t->steps = finetune_steps(engine->config->max_steps, engine->config->num_epochs, engine->dataset.n, engine->config->batch_size);
    int64_t steps = engine->config->final_steps > t->steps ? engine->config->final_steps : t->steps;
    trials_place_weights(t, &engine->shape, &engine->variants);
    TRY(arena_commit(&engine->variants, "formats", engine->err));
    trials_place_weights(t, &engine->shape, &engine->variants);
    trials_place_training(t, &engine->shape, steps, &engine->optimizer);
    TRY(arena_commit(&engine->optimizer, "optimizer", engine->err));
    trials_place_training(t, &engine->shape, steps, &engine->optimizer);
    return trials_start_from_data(engine->config) ? start_from_data(engine) : OK;
}

enum status engine_place_training(struct engine *engine)
{
    for (size_t k = 0; k < engine_models(engine); k++) {
        engine_use_ratio(engine, k);
        TRY(place_training(engine));
    }
    return OK;
}
