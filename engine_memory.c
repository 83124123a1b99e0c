/* engine_memory.c: the widths after pruning and the memory plan: every lifetime counted by the code that later carves it. */
#include "engine.h"

#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "export.h"
#include "quant_cut.h"
#include "quant_panel.h"

/* ---- pruning options ---- */

static void read_prune_options(struct engine *engine)
{
    const struct config *config = engine->config;
    struct prune_options *o = &engine->prune_options;
    static const char *const modes[] = {"block", "channel", "layer"};
    static const char *const types[] = {"taylor", "l1", "l2", "random"};
    static const char *const taylors[] = {"vectorize", "param_first", "param_second", "param_mix"};
    static const char *const groupings[] = {"sum", "mean", "max", "prod", "first"};
    for (int i = 0; i < 3; i++)
        if (strcmp(config->pruning_mode, modes[i]) == 0)
            o->mode = (enum prune_mode)i;
    for (int i = 0; i < 4; i++) {
        if (strcmp(config->pruner_type, types[i]) == 0)
            o->type = (enum prune_type)i;
        if (strcmp(config->taylor, taylors[i]) == 0)
            o->taylor = (enum salience)i;
    }
    for (int i = 0; i < 5; i++)
        if (strcmp(config->grouping_strategy, groupings[i]) == 0)
            o->grouping = (enum prune_grouping)i;
    o->attention_start = (int32_t)config->block_attention_layer_start;
    o->attention_end = (int32_t)config->block_attention_layer_end;
    o->mlp_start = (int32_t)config->block_mlp_layer_start;
    o->mlp_end = (int32_t)config->block_mlp_layer_end;
    o->ffn_multiple = (int32_t)config->ffn_multiple;
    o->hidden_multiple = (int32_t)config->hidden_multiple;
    o->keep_layers = (int32_t)config->keep_layers;
    o->global = config->global_pruning;
    o->seed = (uint64_t)config->seed;
    prune_ranges(o, engine->base_shape.num_hidden_layers);
}

bool engine_prunes(const struct config *config)
{
    return config->pruning_ratio > 0 || config->keep_layers > 0 || *config->pruning_ratios;
}

bool engine_measures(const struct engine *engine)
{
    return engine_prunes(engine->config) && engine->config->keep_layers == 0 && engine->prune_options.type != PRUNE_RANDOM;
}

/* ---- the memory plan: every lifetime counted by the code that later carves it ---- */

/* Nothing is cut from the base: it is what every format is made from. */
static bool takes_base(const struct engine *engine)
{
    return engine->n_ratios ? engine->ratio[engine->n_ratios - 1].value == 0 : !engine_prunes(engine->config);
}

/* Calibrated quantizers and the training of all weights work on F32. */
static bool works_on_reals(const struct config *config)
{
    return strcmp(config->train_mode, "full") == 0 || engine_requantizes(config) || trials_start_from_data(config);
}

bool engine_as_stored(const struct engine *engine)
{
    bool only_moved = engine_floats(engine) != FORMAT_F32 && !engine->stored.encoded;
    return config_keeps(engine->config) || (only_moved && !works_on_reals(engine->config));
}

/* A base that is cut once lies as it is stored until then, whatever the cut leaves. */
static bool base_as_stored(const struct engine *engine)
{
    return engine_as_stored(engine) || (!takes_base(engine) && engine->config->iterative_steps == 1 && !engine->stored.encoded);
}

static enum status held_in(const struct engine *engine, const struct model_config *shape, bool as_stored, struct model_stored *held, struct text *told)
{
    const char *embedding = engine->embedding ? engine->embedding : config_embedding(engine->config);
    TRY(plan_new(&held->plan, shape, FORMAT_F32, engine->err));
    if (as_stored)
        prune_formats(&held->plan, shape, &engine->stored.plan, &engine->base_shape, engine->prune_options.mode, NULL, told);
    held->embed = engine->stored.embed;
    held->head = engine->stored.head;
    if (strcmp(embedding, "keep") == 0)
        return OK;
    format_parse(embedding, &held->embed, NULL); /* one of its names: config.c has checked */
    held->head = held->embed;
    return OK;
}

enum status engine_held(const struct engine *engine, const struct model_config *shape, struct model_stored *held, struct text *told)
{
    return held_in(engine, shape, engine_as_stored(engine), held, told);
}

enum status engine_held_base(const struct engine *engine, struct model_stored *held)
{
    struct text told = {0};
    enum status status = held_in(engine, &engine->base_shape, base_as_stored(engine), held, &told); /* nothing is cut yet */
    text_free(&told);
    return status;
}

static enum status count_model(const struct model_config *shape, const struct model_stored *held, size_t *bytes, struct model *model, struct err *err)
{
    struct arena arena = {0};
    TRY(model_shape(model, shape, &held->plan, err));
    model_place_head(model, held->embed, held->head, &arena);
    *bytes = arena.used;
    return OK;
}

/* Rows of the largest batch: a micro-batch, a document with its choices, a calibration sequence. */
static size_t most_rows(const struct engine *engine)
{
    size_t rows = finetune_rows(&engine->dataset, engine->config->micro_batch_size);
    for (size_t i = 0; i < engine->tasks.n; i++) {
        size_t s = evaluate_rows(engine->tasks.search[i]), r = evaluate_rows(engine->tasks.report[i]);
        rows = s > rows ? s : rows;
        rows = r > rows ? r : rows;
    }
    rows = size_max(rows, (size_t)engine->held_out.longest);
    return size_max(rows, (size_t)engine->config->calibration_seq_len);
}

size_t engine_scratch_reals(struct engine *engine, const struct model *base)
{
    const struct model_config *c = &engine->base_shape;
    size_t widest = (size_t)c->hidden_size;
    if (engine->ops.device)
        return engine_device_scratch(engine, base, &engine->ops);
    for (int l = 0; l < c->num_hidden_layers; l++) {
        widest = size_max(widest, (size_t)c->intermediate_size[l]);
        widest = size_max(widest, (size_t)c->num_attention_heads[l] * (size_t)c->head_dim);
    }
    return engine->ops.ops->scratch_size(&engine->ops, widest, widest, (size_t)c->head_dim, most_rows(engine), (size_t)c->vocab_size);
}

/* Unless everything shall be fp32, activations wait for backward as bf16. */
static bool keeps_halves(const struct engine *engine)
{
    return strcmp(engine->config->compute_dtype, "f32") != 0 && strcmp(engine->config->train_mode, "full") != 0;
}

/* What a pass over the largest micro-batch needs room for. */
struct model_run engine_run_of(const struct engine *engine, bool keep)
{
    return (struct model_run){.ops = &engine->ops, .max_n = most_rows(engine), .max_rank = trials_max_rank(&engine->trials),
                              .dropout = engine->config->lora_dropout > 0, .training = true, .keep = keep, .halves = keeps_halves(engine)};
}

/* Importance is computed in f32, so that which units go does not depend on the machine's instructions: on a device, where acts are wider then, by a run of its own. */
struct model_run engine_measuring_run(const struct engine *engine, bool keep)
{
    struct model_run run = engine_run_of(engine, keep);
    run.max_n = (size_t)engine->config->calibration_seq_len;
    return run;
}

/* The activations of the larger of the two models, for training with adapters of the plan. */
static enum status count_activations(struct engine *engine, const struct model *model, bool keep, size_t *bytes)
{
    struct arena arena = {0};
    struct model_run run = engine_run_of(engine, keep);
    *bytes = 0;
    if (engine_on_device(engine))
        return OK; /* engine_device.c */
    TRY(model_run_place(&run, model, &engine->trials.lora, &arena, engine->err));
    *bytes = arena.used;
    return OK;
}

static size_t start_workspace(const struct engine *engine)
{
    struct lora_init_options options = {.loftq_iters = (int)engine->config->loftq_iters,
                                        .pissa_niter = (int)engine->config->pissa_niter};
    struct err err;
    if (lora_init_parse(engine->config->lora_init, &options.init, &err) != OK)
        return 0;
    size_t largest = 0;
    bool decodes = engine_as_stored(engine), quantizes = trials_quantizes(&engine->trials);
    for (int l = 0; quantizes && l < engine->shape.num_hidden_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in;
            plan_shape(&engine->trials.plan, &engine->shape, l, (enum linear)j, &out, &in);
            size_t decoded = decodes ? out * in * sizeof(real) : 0;
            largest = size_max(largest, decoded + lora_start_bytes(out, in, engine->trials.plan.layer[l].linear[j].rank, &options));
        }
    return largest;
}

/* At the end: a matrix of model.gguf as it is written, then all that the pick has not in the same form beside the pick, with the logits of both; room to decode one. */
static size_t gguf_bytes(const struct engine *engine, const struct model *pruned)
{
    const struct plan *widest = &engine->trials.widest;
    struct arena beside = {0};
    size_t written = 0, decoded = 0;
    if (!config_list_has(engine->config->export_formats, "gguf") || !engine_has_weights(engine))
        return 0;
    for (int i = engine->shape.tie_word_embeddings ? -1 : -2; i < widest->n_layers * LINEAR_COUNT; i++) {
        const struct qmat *q = i >= 0 ? &pruned->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT] : i == -1 ? &pruned->embed : &pruned->head;
        struct qmat from = {.format = i >= 0 ? widest->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].format : q->format, .rows = q->rows, .cols = q->cols};
        enum format to = (i >= 0 && config_merges(engine->config) ? export_gguf_merged_format : export_gguf_format)(&from);
        bool floats = i < 0 && format_is_float(from.format); /* are compared as they are */
        if (to != from.format && !floats)
            quant_place(&(struct qmat){0}, to, 0, false, q->rows, q->cols, &beside);
        written = size_max(written, quant_bytes(to, 0, false, q->rows, q->cols));
        decoded = size_max(decoded, floats ? 0 : q->rows * q->cols * sizeof(real));
    }
    size_t logits = engine_on_device(engine) ? 0 : evaluate_divergence_bytes(pruned, (size_t)engine->dataset.longest);
    return decoded + size_max(written, beside.used + logits);
}

int engine_threads(const struct config *config)
{
    return config->threads > 0 ? (int)config->threads : machine_cores();
}

/* A matrix that a cut divides is decoded and encoded anew. */
static size_t recoding_bytes(const struct engine *engine, const struct model *pruned)
{
    size_t bytes = 0;
    for (int l = 0; l < pruned->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *q = &pruned->layer[l].linear[j];
            size_t wide = size_max((size_t)engine->base_shape.intermediate_size[l], q->cols);
            bytes = size_max(bytes, quant_cut_bytes(q->rows, q->cols, wide));
        }
    return bytes;
}

/* The first of several steps leaves a model that is hardly smaller beside the base.  Of several ratios, 0 takes the base itself. */
static size_t peak_of(const struct engine *engine)
{
    const struct memory_plan *m = &engine->memory;
    size_t pruned = m->weights - (takes_base(engine) ? m->base_weights : 0) + m->slicing;
    size_t loading = m->base_weights + m->loading;
    size_t pruning = m->base_weights + m->importance + m->activations;
    size_t slicing = m->base_weights + (engine->config->iterative_steps > 1 ? m->base_weights + m->slicing : pruned) + m->activations;
    size_t starting = m->weights + m->variants + m->optimizer + m->activations + size_max(size_max(m->start, m->reference), size_max(m->requantize, m->gguf));
    return size_max(size_max(size_max(loading, pruning), slicing), starting) + m->scratch + m->answers + m->program;
}

/* max_memory is the device's, where there is one. */
static double limited_peak(struct engine *engine)
{
    size_t device = engine_device_peak(engine);
    engine->memory.peak = peak_of(engine);
    return (double)(engine_on_device(engine) ? device : engine->memory.peak);
}

static enum status choose_activations(struct engine *engine, const struct model *base)
{
    struct memory_plan *m = &engine->memory;
    const char *asked = engine->config->gradient_checkpointing;
    double limit = engine->config->max_memory;
    if (limit == 0 && engine->ops.device)
        TRY(engine_device_room(engine, &limit));
    m->keep_activations = strcmp(asked, "yes") != 0;
    TRY(count_activations(engine, base, m->keep_activations, &m->activations));
    if (limited_peak(engine) > limit && limit > 0 && strcmp(asked, "auto") == 0) {
        m->keep_activations = false;
        TRY(count_activations(engine, base, false, &m->activations));
        limited_peak(engine);
    }
    return OK;
}

/* A plan without weights is for another machine. */
static enum status check_limits(struct engine *engine)
{
    double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), limited = limited_peak(engine), peak = (double)engine->memory.peak;
    if (engine->config->max_memory > 0 && limited > engine->config->max_memory)
        return err_set(engine->err, ERR_MEMORY, "%s takes %.1f MB%s, max_memory = %.1f MB", engine->memory.keep_activations ? "the plan" : "the smallest plan",
                       limited / 1e6, engine_on_device(engine) ? " on the device" : "", engine->config->max_memory / 1e6);
    if (machine > 0 && peak > machine && engine_has_weights(engine))
        return err_set(engine->err, ERR_MEMORY, "the plan takes %.1f MB, this machine has %.1f MB", peak / 1e6, machine / 1e6);
    return engine_check_device(engine);
}

static bool ratio_prunes(const struct engine *engine)
{
    return engine->n_ratios ? engine_ratio(engine) > 0 : engine_prunes(engine->config);
}

static enum status shape_after_pruning(struct engine *engine)
{
    engine->prune_options.ratio = engine_ratio(engine);
    TRY(model_config_copy(&engine->shape, &engine->base_shape, engine->err));
    if (ratio_prunes(engine))
        TRY(prune_widths(&engine->shape, &engine->prune_options, &engine->group_ratio, &engine->achieved_ratio, engine->err));
    return OK;
}

/* What the ratio in use adds: its weights, formats and adapters stay, the work spaces come after each other. */
static enum status count_pruned(struct engine *engine)
{
    struct memory_plan *m = &engine->memory;
    struct trials *trials = &engine->trials;
    struct arena variants = {0}, optimizer = {0};
    struct model pruned = {0};
    struct model_stored held;
    struct text told = {0};
    size_t weights;
    TRY(shape_after_pruning(engine));
    if (engine->ratio_in_use == 0)
        TRY(engine_fit_embedding(engine));
    TRY(engine_held(engine, &engine->shape, &held, &told));
    bool recodes = told.n > 0;
    text_free(&told);
    enum status status = trials_init(trials, engine->config, &engine->shape, &held, engine->err);
    if (status != OK && engine->n_ratios)
        status = err_prefix(engine->err, status, "pruning_ratios: at %g", engine_ratio(engine));
    trials->mirror = engine_mirror(engine);
    trials->dataset = &engine->dataset;
    trials->held_out = engine->held_out.n ? &engine->held_out : NULL;
    if (status == OK)
        status = count_model(&engine->shape, &held, &weights, &pruned, engine->err);
    if (status == OK)
        status = trials_find_widest(trials, &engine->shape, engine->err);
    plan_free(&held.plan);
    if (status != OK) {
        model_free(&pruned);
        return status;
    }
    trials_place_weights(trials, &engine->shape, &variants);
    trials->steps = finetune_steps(engine->config->max_steps, engine->config->num_epochs, engine->dataset.n, engine->config->batch_size);
    int64_t steps = engine->config->final_steps > trials->steps ? engine->config->final_steps : trials->steps;
    trials_place_training(trials, &engine->shape, steps, &optimizer);
    m->weights += weights;
    m->variants += variants.used;
    m->optimizer += optimizer.used;
    m->start = size_max(m->start, start_workspace(engine));
    m->gguf = size_max(m->gguf, gguf_bytes(engine, &pruned));
    size_t reference = 0;
    if (engine->held_out.n && (objective_is_divergence(trials->objective) || trials->objective == OBJECTIVE_ACCURACY))
        reference = evaluate_reference_bytes(&engine->held_out, (size_t)engine->config->search_tokens, most_rows(engine), (size_t)engine->shape.hidden_size,
                                             (size_t)engine->shape.vocab_size);
    if (!engine_on_device(engine))
        m->reference = size_max(m->reference, reference);
    else if (status == OK)
        status = engine_count_device(engine, &pruned, reference);
    if (engine_requantizes(engine->config) || trials_start_from_data(engine->config)) {
        size_t tokens = (size_t)(engine->config->quantizer_samples * engine->config->calibration_seq_len);
        m->requantize = size_max(m->requantize, trials_requantize_bytes(trials, &pruned, tokens, engine->ops.threads) + engine_host_run_bytes(engine, &pruned));
    }
    if (recodes)
        m->slicing = size_max(m->slicing, recoding_bytes(engine, &pruned));
    model_free(&pruned);
    return status;
}

/* Of the base: a pruned model keeps no more keys and values. */
static size_t largest_answers(const struct engine *engine, const struct model *base)
{
    size_t bytes = 0, rank = trials_max_rank(&engine->trials);
    for (size_t i = 0; i < engine->tasks.n; i++) {
        bytes = size_max(bytes, evaluate_bytes(engine->tasks.search[i], base, rank, &engine->ops));
        bytes = size_max(bytes, evaluate_bytes(engine->tasks.report[i], base, rank, &engine->ops));
    }
    return bytes;
}

/* Going into panels takes a copy of a matrix. */
static size_t panel_copy(const struct model *base)
{
    size_t bytes = 0;
    for (int l = -1; l < base->plan.n_layers; l++)
        for (int j = 0; j < (l < 0 ? 2 : LINEAR_COUNT); j++) {
            const struct qmat *q = l >= 0 ? &base->layer[l].linear[j] : j ? &base->head : &base->embed;
            if (quant_has_panels(q->format, q->block, q->rows, q->cols))
                bytes = size_max(bytes, quant_bytes(q->format, q->block, q->double_quant, q->rows, q->cols));
        }
    return bytes;
}

static enum status count_base(struct engine *engine, struct model *base)
{
    struct memory_plan *m = &engine->memory;
    struct model_stored held;
    TRY(engine_held_base(engine, &held));
    enum status status = count_model(&engine->base_shape, &held, &m->base_weights, base, engine->err);
    plan_free(&held.plan);
    TRY(status);
    m->loading = size_max(engine->checkpoint ? model_load_bytes(base, engine->checkpoint) : 0, panel_copy(base));
    size_t importance, answers = largest_answers(engine, base);
    TRY(engine_importance_bytes(engine, base, &importance));
    if (engine_on_device(engine))
        return engine_count_device_base(engine, base, importance, answers);
    m->importance = importance;
    m->scratch = engine_scratch_reals(engine, base) * sizeof(real);
    m->answers = answers;
    return OK;
}

enum status engine_plan_memory(struct engine *engine)
{
    struct model base = {0};
    TRY(engine_open_device(engine));
    engine->memory.program = (size_t)process_now_bytes();
    read_prune_options(engine);
    TRY(engine_ratios_new(engine));
    TRY(engine_check_speed(engine));
    for (size_t k = 0; k < engine_models(engine); k++) {
        engine_use_ratio(engine, k);
        TRY(count_pruned(engine));
    }
    TRY(engine_ratios_check(engine));
    enum status status = count_base(engine, &base);
    if (status == OK)
        status = choose_activations(engine, &base);
    model_free(&base);
    TRY(status);
    return check_limits(engine);
}

static void print_bytes(struct text *out, const char *name, size_t bytes, const char *what)
{
    text_printf(out, "%-16s %14zu  %s\n", name, bytes, what);
}

/* What quant_types comes to; in the place of keep what the layer's linears are stored in. */
static void layer_formats(const struct trials *t, int l, struct text *out)
{
    bool seen[FORMAT_COUNT] = {false};
    for (size_t f = 0; f < t->n_levels; f++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear p;
            trials_set_format(t, (size_t)(l * LINEAR_COUNT + j), t->format[f], &p);
            if (!seen[p.format])
                text_printf(out, "%s%s", out->n ? "," : "", format_info(p.format)->name);
            seen[p.format] = true;
        }
}

static void print_recoded(struct engine *engine, struct text *out)
{
    struct text told = {0};
    struct model_stored held = {.embed = FORMAT_F32};
    if (engine_held(engine, &engine->shape, &held, &told) == OK && told.n)
        text_printf(out, "encoded anew     %14s  %s: the cut divides their blocks\n", "", told.s);
    plan_free(&held.plan);
    text_free(&told);
}

/* The model of the ratio in use. */
static void print_model(struct engine *engine, struct text *out)
{
    const struct trials *t = &engine->trials;
    uint64_t before, after;
    struct plan plan = {0};
    before = plan_new(&plan, &engine->base_shape, FORMAT_F32, engine->err) == OK ? plan_parameters(&plan, &engine->base_shape) : 0;
    plan_free(&plan);
    after = plan_parameters(&t->plan, &engine->shape);
    text_printf(out, "%-8s %6s %8s %6s  %-20s %5s\n", "layer", "heads", "kv_heads", "ffn", "formats", "rank");
    for (int l = 0; l < t->plan.n_layers; l++) {
        const struct plan_layer *p = &t->plan.layer[l];
        struct text formats = {0};
        layer_formats(t, l, &formats);
        text_printf(out, "%-8d %6d %8d %6d  %-20s %5d\n", l, p->heads, p->kv_heads, p->ffn, formats.n ? formats.s : "",
                    p->linear[0].rank);
        text_free(&formats);
    }
    if (engine->shape.num_hidden_layers != engine->base_shape.num_hidden_layers)
        text_printf(out, "\nlayers           %14d  of %d: the %s", engine->shape.num_hidden_layers, engine->base_shape.num_hidden_layers,
                    engine->config->keep_layers ? "first ones" : "most important ones, as will be measured");
    if (engine->shape.hidden_size != engine->base_shape.hidden_size)
        text_printf(out, "\nhidden_size      %14d  of %d", engine->shape.hidden_size, engine->base_shape.hidden_size);
    text_printf(out, "\nparameters       %14llu  of %llu (%.2f %% removed; group ratio %.4f), adapters %llu\n",
                (unsigned long long)after, (unsigned long long)before, 100 * engine->achieved_ratio, engine->group_ratio,
                (unsigned long long)plan_adapter_parameters(&t->plan, &engine->shape));
    double low = t->fixed_bytes, high = t->fixed_bytes;
    for (size_t i = 0; i < t->n_linears; i++) {
        low += t->bytes[i * MAX_LEVELS] + (t->ranked[i] ? t->rank_bytes[i] * t->rank[0] : 0);
        high += t->bytes[i * MAX_LEVELS + t->n_levels - 1] + (t->ranked[i] ? t->rank_bytes[i] * t->rank[t->n_ranks - 1] : 0);
    }
    print_recoded(engine, out);
    if (engine->embedding)
        text_printf(out, "embedding        %14s  for target_size: with f32 nothing fits\n", engine->embedding);
    text_printf(out, "stored model     %14.0f  to %.0f bytes, by the formats%s chosen\n\n", low, high, t->n_ranks ? " and ranks" : "");
}

void engine_print_plan(struct engine *engine, struct text *out)
{
    static const char *const weights[2][2] = {{"the pruned model, linears F32", "a pruned model of each ratio, linears F32"},
                                              {"the pruned model, as it is stored", "a pruned model of each ratio, as it is stored"}};
    const struct memory_plan *m = &engine->memory;
    for (size_t k = 0; k < engine_models(engine); k++) {
        engine_use_ratio(engine, k);
        if (engine->n_ratios)
            text_printf(out, "pruning_ratio %g, one of those that the search chooses from\n", engine_ratio(engine));
        print_model(engine, out);
    }
    if (!engine_has_weights(engine))
        text_printf(out, "%s holds config.json alone: no data and no tasks were opened; rows of max_seq_len = %lld tokens are assumed\n", engine->config->model,
                    (long long)engine->config->max_seq_len);
    text_puts(out, "memory in bytes\n");
    print_bytes(out, "program", m->program, "code, libraries, data and tasks");
    bool keeps = config_keeps(engine->config);
    print_bytes(out, "base weights", m->base_weights,
                base_as_stored(engine) ? "the model as it is stored, until it is pruned" : "the model as loaded, linears F32, until it is pruned");
    bool device = engine_on_device(engine); /* where these lie then */
    if (!device)
        print_bytes(out, "importance", m->importance, "gradients and what calibration keeps, until it is pruned");
    print_bytes(out, "weights", m->weights, weights[engine_as_stored(engine)][engine->n_ratios > 0]);
    print_bytes(out, "formats", m->variants, keeps ? "adapter starts, and its linears in every other format" : "its linears in every format, with adapter starts");
    print_bytes(out, "optimizer", m->optimizer, device ? "adapters, micro-batch" : "adapters, gradients, moments, micro-batch");
    if (!device)
        print_bytes(out, "activations", m->activations, m->keep_activations ? "kept for backward" : "recomputed in backward");
    if (!device)
        print_bytes(out, "scratch", m->scratch, "of the kernels");
    if (m->reference)
        print_bytes(out, "reference", m->reference, "the unquantized model's hidden states on the held-out text");
    if (m->requantize)
        print_bytes(out, "quantizer", m->requantize, "its hidden states and moments, before the last fine-tunings");
    if (m->answers)
        print_bytes(out, "answers", m->answers, "keys, values and activations of the longest answer that a task has written");
    print_bytes(out, "start", m->start, "LoftQ's workspace, until all formats are made");
    if (m->gguf)
        print_bytes(out, "comparison", m->gguf, "model.gguf as it is written, then beside the pick, at the end");
    print_bytes(out, "peak", m->peak, "the most that exists at one time");
    engine_print_device(engine, out);
}
