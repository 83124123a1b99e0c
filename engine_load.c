/* engine_load.c: the inputs of a job, the memory it will take, pruning. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/stop.h"

/* ---- inputs ---- */

static enum status load_model_head(struct engine *engine)
{
    const struct config *config = engine->config;
    if (*config->model) {
        TRY(checkpoint_open(&engine->checkpoint, config->model, engine->err));
        TRY(model_config_copy(&engine->base_shape, checkpoint_config(engine->checkpoint), engine->err));
    }
    if (*config->tokenizer) {
        TRY(tokenizer_load_sentencepiece(&engine->own_tokenizer, config->tokenizer, engine->err));
        engine->tokenizer = engine->own_tokenizer;
        return OK;
    }
    return checkpoint_tokenizer(engine->checkpoint, &engine->tokenizer, engine->err);
}

static int bos_of(const struct config *config)
{
    return strcmp(config->bos, "yes") == 0 ? 1 : strcmp(config->bos, "no") == 0 ? 0 : -1;
}

/* The last twentieth (at most 200) of the examples is held out: what is measured on them is not what was trained on. */
static enum status hold_out(struct engine *engine)
{
    size_t n = engine->dataset.n / 20;
    n = n > 200 ? 200 : n;
    if (n < 2)
        return err_set(engine->err, ERR_INPUT, "%s: %zu examples, want at least 40 where some are held out for the objective; or give search_data",
                       engine->config->dataset, engine->dataset.n);
    engine->held_out.example = calloc(n, sizeof *engine->held_out.example);
    if (!engine->held_out.example)
        return err_set(engine->err, ERR_MEMORY, "out of memory for held-out examples");
    engine->dataset.n -= n;
    memcpy(engine->held_out.example, engine->dataset.example + engine->dataset.n, n * sizeof *engine->held_out.example);
    engine->held_out.longest = engine->dataset.longest;
    engine->held_out.n = n;
    engine->held_out_is_tail = true;
    return OK;
}

static bool requantizes(const struct config *config)
{
    return strcmp(config->quantizer, "hqq") != 0;
}

static bool starts_from_data(const struct config *config)
{
    return strcmp(config->lora_init, "cloq") == 0;
}

static bool needs_held_out(const struct config *config)
{
    bool searches = strcmp(config->search, "none") != 0 && !*config->plan && strcmp(config->train_mode, "full") != 0;
    return config_objective(config) != OBJECTIVE_ACCURACY || requantizes(config) || (searches && strcmp(config->search, "autoqra") == 0); /* it measures importance there */
}

/* A text is cut into rows of max_seq_len, one after the other. */
static enum status load_search_data(struct engine *engine, struct dataset_options options)
{
    options.packing = true;
    options.train_on_inputs = true;
    return dataset_load(&engine->held_out, engine->config->search_data, "auto", engine->tokenizer, &options, engine->err);
}

static enum status load_data(struct engine *engine)
{
    const struct config *config = engine->config;
    int64_t context = engine->checkpoint ? engine->base_shape.max_position_embeddings : config->max_position_embeddings;
    if (config->max_seq_len > context)
        return err_set(engine->err, ERR_INPUT, "max_seq_len = %lld is longer than the model's context of %lld tokens",
                       (long long)config->max_seq_len, (long long)context);
    struct dataset_options options = {.max_seq_len = (int32_t)config->max_seq_len,
                                      .train_on_inputs = config->train_on_inputs,
                                      .packing = config->packing,
                                      .skip_invalid = config->skip_invalid,
                                      .bos = bos_of(config)};
    TRY(dataset_load(&engine->dataset, config->dataset, config->dataset_format, engine->tokenizer, &options, engine->err));
    log_line(&engine->log, "data: %zu examples (%s), %llu tokens, %llu in the loss, longest %d", engine->dataset.n,
             engine->dataset.format, (unsigned long long)engine->dataset.tokens, (unsigned long long)engine->dataset.labelled,
             engine->dataset.longest);
    if (engine->dataset.skipped > 0)
        log_line(&engine->log, "data: %zu rows were left out (skip_invalid), the first: %s", engine->dataset.skipped, engine->dataset.first_skipped);
    if (*config->calibration_data)
        TRY(dataset_load(&engine->calibration, config->calibration_data, "auto", engine->tokenizer, &options, engine->err));
    if (!needs_held_out(config))
        return OK;
    return *config->search_data ? load_search_data(engine, options) : hold_out(engine);
}

static enum status prepare_part(struct engine *engine, const struct task *task, enum task_part part, struct evaluate_set **set)
{
    const struct config *config = engine->config;
    size_t *index = calloc(task->n ? task->n : 1, sizeof *index);
    if (!index)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a task");
    int64_t limit = part == PART_SEARCH && config->search_eval_limit ? config->search_eval_limit : config->eval_limit;
    size_t n = task_split(task, part, config->eval_split, (size_t)limit, index);
    struct evaluate_options options = {.legacy = strcmp(config->harness, "legacy") == 0,
                                       .bos = bos_of(config) < 0 ? BOS_AUTO : bos_of(config) ? BOS_YES : BOS_NO};
    enum status status = evaluate_prepare(set, task, index, n, engine->tokenizer, &engine->base_shape, &options, engine->err);
    free(index);
    return status;
}

enum status engine_load_tasks(struct engine *engine)
{
    struct trial_tasks *tasks = &engine->tasks;
    for (const char *p = engine->config->eval_tasks; *p && *engine->config->eval_data;) {
        size_t n = strcspn(p, ",");
        if (tasks->n == MAX_TASKS)
            return err_set(engine->err, ERR_INPUT, "eval_tasks names more than %d tasks", MAX_TASKS);
        struct task *task = &engine->task[tasks->n];
        char *name = tasks->name[tasks->n];
        memcpy(name, p, n < 31 ? n : 31);
        TRY(task_load(task, name, engine->config->eval_data, engine->err));
        TRY(prepare_part(engine, task, PART_SEARCH, &tasks->search[tasks->n]));
        TRY(prepare_part(engine, task, PART_REPORT, &tasks->report[tasks->n]));
        tasks->n++;
        p += n + (p[n] == ',');
    }
    return OK;
}

enum status engine_load_inputs(struct engine *engine)
{
    TRY(cpu_check(engine->err));
    TRY(load_model_head(engine));
    if (engine->checkpoint && tokenizer_vocab_size(engine->tokenizer) > engine->base_shape.vocab_size)
        return err_set(engine->err, ERR_INPUT, "%s: the tokenizer has %d pieces, the embedding %d rows", engine->config->model,
                       tokenizer_vocab_size(engine->tokenizer), engine->base_shape.vocab_size);
    TRY(load_data(engine));
    return OK;
}

/* ---- pruning options ---- */

static void read_prune_options(struct engine *engine)
{
    const struct config *config = engine->config;
    struct prune_options *o = &engine->prune_options;
    static const char *const types[] = {"taylor", "l1", "l2", "random"};
    static const char *const taylors[] = {"vectorize", "param_first", "param_second", "param_mix"};
    static const char *const groupings[] = {"sum", "mean", "max", "prod", "first"};
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
    o->ratio = config->pruning_ratio;
    o->ffn_multiple = (int32_t)config->ffn_multiple;
    o->global = config->global_pruning;
    o->seed = (uint64_t)config->seed;
    prune_ranges(o, engine->base_shape.num_hidden_layers);
}

static bool needs_gradients(const struct engine *engine)
{
    return engine->config->pruning_ratio > 0 && engine->prune_options.type == PRUNE_TAYLOR;
}

static bool needs_fisher(const struct engine *engine)
{
    return engine->prune_options.taylor == SALIENCE_PARAM_SECOND || engine->prune_options.taylor == SALIENCE_PARAM_MIX;
}

/* ---- the memory plan: every lifetime counted by the code that later carves it ---- */

static enum status count_model(const struct model_config *shape, size_t *bytes, struct model *model, struct err *err)
{
    struct plan plan;
    struct arena arena = {0};
    TRY(plan_new(&plan, shape, FORMAT_F32, err));
    enum status status = model_shape(model, shape, &plan, err);
    plan_free(&plan);
    if (status != OK)
        return status;
    model_place(model, FORMAT_F32, &arena);
    *bytes = arena.used;
    return OK;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
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
    rows = most(rows, (size_t)engine->held_out.longest);
    return most(rows, (size_t)engine->config->calibration_seq_len);
}

static size_t scratch_reals(struct engine *engine)
{
    const struct model_config *c = &engine->base_shape;
    size_t widest = (size_t)c->hidden_size;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        widest = most(widest, (size_t)c->intermediate_size[l]);
        widest = most(widest, (size_t)c->num_attention_heads[l] * (size_t)c->head_dim);
    }
    return engine->ops.ops->scratch_size(&engine->ops, widest, widest, (size_t)c->head_dim, most_rows(engine), (size_t)c->vocab_size);
}

/* Unless everything shall be fp32, activations wait for backward as bf16. */
static bool keeps_halves(const struct engine *engine)
{
    return strcmp(engine->config->compute_dtype, "f32") != 0 && strcmp(engine->config->train_mode, "full") != 0;
}

/* What a pass over the largest micro-batch needs room for. */
static struct model_run run_of(const struct engine *engine, bool keep)
{
    return (struct model_run){.ops = &engine->ops, .max_n = most_rows(engine), .max_rank = trials_max_rank(&engine->trials),
                              .dropout = engine->config->lora_dropout > 0, .training = true, .keep = keep, .halves = keeps_halves(engine)};
}

/* The activations of the larger of the two models, for training with adapters of the plan. */
static enum status count_activations(struct engine *engine, const struct model *model, bool keep, size_t *bytes)
{
    struct arena arena = {0};
    struct model_run run = run_of(engine, keep);
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
    for (int l = 0; l < engine->shape.num_hidden_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in;
            plan_shape(&engine->trials.plan, &engine->shape, l, (enum linear)j, &out, &in);
            largest = most(largest, lora_start_bytes(out, in, engine->trials.plan.layer[l].linear[j].rank, &options));
        }
    return largest;
}

int engine_threads(const struct config *config)
{
    return config->threads > 0 ? (int)config->threads : machine_cores();
}

static size_t peak_of(const struct memory_plan *m)
{
    size_t pruning = m->base_weights + m->importance + m->activations;
    size_t slicing = m->base_weights + m->weights + m->activations;
    size_t starting = m->weights + m->variants + m->optimizer + m->activations + most(most(m->start, m->reference), m->requantize);
    return most(most(pruning, slicing), starting) + m->scratch + m->program;
}

static enum status choose_activations(struct engine *engine, const struct model *base)
{
    struct memory_plan *m = &engine->memory;
    const char *asked = engine->config->gradient_checkpointing;
    double limit = engine->config->max_memory;
    m->keep_activations = strcmp(asked, "yes") != 0;
    TRY(count_activations(engine, base, m->keep_activations, &m->activations));
    m->peak = peak_of(m);
    if (strcmp(asked, "auto") == 0 && limit > 0 && (double)m->peak > limit) {
        m->keep_activations = false;
        TRY(count_activations(engine, base, false, &m->activations));
        m->peak = peak_of(m);
    }
    return OK;
}

static enum status check_limits(const struct engine *engine)
{
    double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), peak = (double)engine->memory.peak;
    if (engine->config->max_memory > 0 && peak > engine->config->max_memory)
        return err_set(engine->err, ERR_MEMORY, "%s takes %.1f MB, max_memory = %.1f MB",
                       engine->memory.keep_activations ? "the plan" : "the smallest plan", peak / 1e6, engine->config->max_memory / 1e6);
    if (machine > 0 && peak > machine)
        return err_set(engine->err, ERR_MEMORY, "the plan takes %.1f MB, this machine has %.1f MB", peak / 1e6, machine / 1e6);
    return OK;
}

static enum status shape_after_pruning(struct engine *engine)
{
    read_prune_options(engine);
    TRY(model_config_copy(&engine->shape, &engine->base_shape, engine->err));
    if (engine->config->pruning_ratio > 0)
        TRY(prune_widths(&engine->shape, &engine->prune_options, &engine->group_ratio, &engine->achieved_ratio, engine->err));
    return OK;
}

enum status engine_plan_memory(struct engine *engine)
{
    struct memory_plan *m = &engine->memory;
    struct model base = {0}, pruned = {0};
    engine->ops.ops = cpu_ops(false);
    engine->ops.threads = engine_threads(engine->config);
    TRY(compute_parse(engine->config->compute_dtype, &engine->ops.compute, engine->err));
    m->program = (size_t)process_now_bytes();
    TRY(shape_after_pruning(engine));
    TRY(trials_init(&engine->trials, engine->config, &engine->shape, engine->err));
    engine->trials.dataset = &engine->dataset;
    enum status status = count_model(&engine->base_shape, &m->base_weights, &base, engine->err);
    if (status == OK)
        status = count_model(&engine->shape, &m->weights, &pruned, engine->err);
    if (status == OK) {
        struct arena variants = {0}, optimizer = {0}, importance = {0};
        struct model_grads grads;
        trials_place_weights(&engine->trials, &engine->shape, &variants);
        int64_t steps = finetune_steps(engine->config->max_steps, engine->config->num_epochs, engine->dataset.n,
                                       engine->config->batch_size);
        engine->trials.steps = steps;
        if (engine->config->final_steps > steps)
            steps = engine->config->final_steps;
        trials_place_training(&engine->trials, &engine->shape, steps, &optimizer);
        if (needs_gradients(engine))
            model_grads_place(&grads, &base, true, &importance);
        m->variants = variants.used;
        m->optimizer = optimizer.used;
        m->importance = importance.used * (needs_gradients(engine) && needs_fisher(engine) ? 2 : 1);
        m->scratch = scratch_reals(engine) * sizeof(real);
        m->start = start_workspace(engine);
        if (engine->held_out.n && (objective_is_divergence(engine->trials.objective) || engine->trials.objective == OBJECTIVE_ACCURACY))
            m->reference = evaluate_reference_bytes(&engine->held_out, (size_t)engine->config->search_tokens, most_rows(engine),
                                                    (size_t)engine->shape.hidden_size, (size_t)engine->shape.vocab_size);
        if (requantizes(engine->config) || starts_from_data(engine->config))
            m->requantize = trials_requantize_bytes(&engine->trials, &pruned, (size_t)(engine->config->quantizer_samples * engine->config->calibration_seq_len),
                                                    engine->ops.threads);
        status = choose_activations(engine, &base);
    }
    model_free(&base);
    model_free(&pruned);
    TRY(status);
    return check_limits(engine);
}

static void print_bytes(struct text *out, const char *name, size_t bytes, const char *what)
{
    text_printf(out, "%-16s %14zu  %s\n", name, bytes, what);
}

void engine_print_plan(struct engine *engine, struct text *out)
{
    const struct memory_plan *m = &engine->memory;
    struct trials *t = &engine->trials;
    uint64_t before, after;
    struct plan plan = {0};
    before = plan_new(&plan, &engine->base_shape, FORMAT_F32, engine->err) == OK ? plan_parameters(&plan, &engine->base_shape) : 0;
    plan_free(&plan);
    after = plan_parameters(&t->plan, &engine->shape);
    text_printf(out, "%-8s %6s %8s %6s  %-20s %5s\n", "layer", "heads", "kv_heads", "ffn", "formats", "rank");
    for (int l = 0; l < t->plan.n_layers; l++) {
        const struct plan_layer *p = &t->plan.layer[l];
        text_printf(out, "%-8d %6d %8d %6d  %-20s %5d\n", l, p->heads, p->kv_heads, p->ffn, engine->config->quant_types,
                    p->linear[0].rank);
    }
    text_printf(out, "\nparameters       %14llu  of %llu (%.2f %% removed; group ratio %.4f), adapters %llu\n",
                (unsigned long long)after, (unsigned long long)before, 100 * engine->achieved_ratio, engine->group_ratio,
                (unsigned long long)plan_adapter_parameters(&t->plan, &engine->shape));
    double low = t->fixed_bytes, high = t->fixed_bytes;
    for (size_t i = 0; i < t->n_linears; i++) {
        low += t->bytes[i * MAX_LEVELS] + (t->ranked[i] ? t->rank_bytes[i] * t->rank[0] : 0);
        high += t->bytes[i * MAX_LEVELS + t->n_levels - 1] + (t->ranked[i] ? t->rank_bytes[i] * t->rank[t->n_ranks - 1] : 0);
    }
    text_printf(out, "stored model     %14.0f  to %.0f bytes, by the formats%s chosen\n\n", low, high, t->n_ranks ? " and ranks" : "");
    text_puts(out, "memory in bytes\n");
    print_bytes(out, "program", m->program, "code, libraries, data and tasks");
    print_bytes(out, "base weights", m->base_weights, "the model as loaded, F32, until it is pruned");
    print_bytes(out, "importance", m->importance, "gradients of its linears, until it is pruned");
    print_bytes(out, "weights", m->weights, "the pruned model, F32");
    print_bytes(out, "formats", m->variants, "its linears in every format, with adapter starts");
    print_bytes(out, "optimizer", m->optimizer, "adapters, gradients, moments, micro-batch");
    print_bytes(out, "activations", m->activations, m->keep_activations ? "kept for backward" : "recomputed in backward");
    print_bytes(out, "scratch", m->scratch, "of the kernels");
    if (m->reference)
        print_bytes(out, "reference", m->reference, "the unquantized model's hidden states on the held-out text");
    if (m->requantize)
        print_bytes(out, "quantizer", m->requantize, "its hidden states and moments, before the last fine-tunings");
    print_bytes(out, "start", m->start, "LoftQ's workspace, until all formats are made");
    print_bytes(out, "peak", m->peak, "the most that exists at one time");
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

static enum status place_model(struct engine *engine, struct model *model, const struct model_config *shape, struct arena *arena,
                               const char *what)
{
    struct plan plan;
    TRY(plan_new(&plan, shape, FORMAT_F32, engine->err));
    enum status status = model_shape(model, shape, &plan, engine->err);
    plan_free(&plan);
    TRY(status);
    model_place(model, FORMAT_F32, arena);
    TRY(arena_commit(arena, what, engine->err));
    model_place(model, FORMAT_F32, arena);
    return OK;
}

enum status engine_place_run(struct engine *engine, const struct model *model)
{
    size_t n = scratch_reals(engine);
    arena_take(&engine->scratch, n, sizeof(real));
    TRY(arena_commit(&engine->scratch, "kernel scratch", engine->err));
    engine->ops.scratch = arena_take(&engine->scratch, n, sizeof(real));
    struct model_run *run = &engine->run;
    *run = run_of(engine, engine->memory.keep_activations);
    TRY(model_run_place(run, model, &engine->trials.lora, &engine->activations, engine->err));
    TRY(arena_commit(&engine->activations, "activations", engine->err));
    return model_run_place(run, model, &engine->trials.lora, &engine->activations, engine->err);
}

static enum status score_units(struct engine *engine, const struct model *model, struct prune_scores *scores)
{
    struct calibration calibration = {0};
    struct model_grads grads = {0};
    real *fisher = NULL;
    enum status status = make_calibration(engine, (size_t)engine->config->calibration_samples, &calibration);
    if (status == OK && needs_gradients(engine)) {
        for (int pass = 0; status == OK && pass < 2; pass++) {
            model_grads_place(&grads, model, true, &engine->importance);
            if (needs_fisher(engine))
                fisher = arena_take(&engine->importance, grads.n, sizeof(real));
            if (pass == 0)
                status = arena_commit(&engine->importance, "importance", engine->err);
        }
    }
    enum compute compute = engine->ops.compute;
    engine->ops.compute = COMPUTE_F32; /* which units go should not depend on the machine's instructions */
    if (status == OK)
        status = prune_scores_compute(scores, model, &engine->run, &grads, fisher, calibration.batch, calibration.n,
                                      &engine->prune_options, engine->err);
    engine->ops.compute = compute;
    arena_free(&engine->importance);
    free_calibration(&calibration);
    return status;
}

static enum status start_from_data(struct engine *engine)
{
    struct calibration c = {0};
    enum status status = make_calibration(engine, (size_t)engine->config->quantizer_samples, &c);
    if (status == OK)
        status = trials_start_cloq(&engine->trials, c.batch, c.n, engine->err);
    free_calibration(&c);
    return status;
}

/* Both divergences are told: a calibrated quantizer is not always the better one. */
enum status engine_requantize(struct engine *engine, const uint8_t *level, const char *label)
{
    struct calibration c = {0};
    double before, after;
    if (!requantizes(engine->config))
        return OK;
    TRY(trials_divergence(&engine->trials, level, &before, engine->err));
    enum status status = make_calibration(engine, (size_t)engine->config->quantizer_samples, &c);
    if (status == OK)
        status = trials_requantize(&engine->trials, level, c.batch, c.n, engine->err);
    free_calibration(&c);
    TRY(status);
    TRY(trials_divergence(&engine->trials, level, &after, engine->err));
    log_line(&engine->log, "%squantized by %s: KL %.4f nats a token from the unquantized model (by hqq %.4f)", label, engine->config->quantizer, after, before);
    return OK;
}

/* One step: scores of `from`, the units that stay, the smaller model in `to` (its own arena). */
static enum status prune_once(struct engine *engine, const struct model *from, double ratio, uint64_t original, struct model *to,
                              struct arena *arena)
{
    struct prune_scores scores = {0};
    struct prune_selection selection = {0};
    struct model_config shape = {0};
    engine->prune_options.ratio = ratio;
    enum status status = score_units(engine, from, &scores);
    if (status == OK)
        status = prune_select(&selection, &scores, &from->config, &engine->prune_options, original, engine->err);
    if (status == OK)
        status = prune_config(&shape, &from->config, &selection, engine->err);
    if (status == OK)
        status = place_model(engine, to, &shape, arena, "pruned weights");
    if (status == OK) {
        prune_apply(to, from, &selection);
        engine->group_ratio = selection.group_ratio;
        engine->achieved_ratio = selection.achieved;
    }
    model_config_free(&shape);
    prune_scores_free(&scores);
    prune_selection_free(&selection);
    return status;
}

static enum status prune_steps(struct engine *engine)
{
    int64_t steps = engine->config->iterative_steps;
    uint64_t original = plan_parameters(&engine->base.plan, &engine->base_shape);
    for (int64_t k = 1; k <= steps; k++) {
        struct model smaller = {0};
        struct arena arena = {0};
        TRY(stop_check(engine->err));
        double ratio = engine->config->pruning_ratio * (double)k / (double)steps;
        enum status status = prune_once(engine, &engine->base, ratio, original, &smaller, &arena);
        if (status != OK) {
            model_free(&smaller);
            arena_free(&arena);
            return status;
        }
        model_free(&engine->base);
        arena_free(&engine->base_weights);
        engine->base = smaller;
        engine->base_weights = arena;
    }
    return OK;
}

enum status engine_prune(struct engine *engine)
{
    TRY(place_model(engine, &engine->base, &engine->base_shape, &engine->base_weights, "base weights"));
    TRY(model_load(&engine->base, engine->checkpoint, engine->err));
    TRY(engine_place_run(engine, &engine->base));
    engine->trials.log = engine->log;
    engine->trials.run = &engine->run;
    engine->trials.tasks = &engine->tasks;
    engine->trials.held_out = engine->held_out.n ? &engine->held_out : NULL;
    struct milestone_record *before = &engine->milestone[BEFORE_PRUNING];
    if (!before->done) {
        TRY(trials_score(&engine->trials, PART_REPORT, 1, &engine->base, NULL, &before->outcome, engine->err));
        before->outcome.size = (double)plan_bytes(&engine->base.plan, &engine->base_shape, 32);
        log_line(&engine->log, "before pruning: %.4f +- %.4f", before->outcome.score, sqrt(before->outcome.variance));
        TRY(engine_record_milestone(engine, BEFORE_PRUNING));
    }
    if (engine->config->pruning_ratio > 0)
        TRY(prune_steps(engine));
    engine->pruned = engine->base;
    engine->weights = engine->base_weights;
    memset(&engine->base, 0, sizeof engine->base);
    memset(&engine->base_weights, 0, sizeof engine->base_weights);
    model_config_free(&engine->shape);
    TRY(model_config_copy(&engine->shape, &engine->pruned.config, engine->err));
    log_line(&engine->log, "pruned: %.2f %% of the parameters removed (group ratio %.4f), %llu left", 100 * engine->achieved_ratio,
             engine->group_ratio, (unsigned long long)plan_parameters(&engine->pruned.plan, &engine->shape));
    return OK;
}

/* The widths of the real selection may differ from the planned ones (global pruning): the space is made anew from them. */
enum status engine_place_training(struct engine *engine)
{
    struct trials *t = &engine->trials;
    struct trials old = *t;
    trials_free(&old);
    memset(t, 0, sizeof *t);
    TRY(trials_init(t, engine->config, &engine->shape, engine->err));
    t->log = engine->log;
    t->run = &engine->run;
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
    return starts_from_data(engine->config) ? start_from_data(engine) : OK;
}

void engine_free(struct engine *engine)
{
    trials_free(&engine->trials);
    model_free(&engine->base);
    model_free(&engine->pruned);
    struct arena *arenas[] = {&engine->base_weights, &engine->importance, &engine->weights, &engine->variants,
                              &engine->optimizer, &engine->activations, &engine->scratch};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++)
        arena_free(arenas[i]);
    for (size_t i = 0; i < MAX_TASKS; i++) {
        evaluate_free(engine->tasks.search[i]);
        evaluate_free(engine->tasks.report[i]);
        task_free(&engine->task[i]);
    }
    for (int i = 0; i < MILESTONES; i++) {
        free(engine->milestone[i].curve);
        free(engine->milestone[i].level);
    }
    if (engine->held_out_is_tail) {
        engine->dataset.n += engine->held_out.n;
        free(engine->held_out.example);
    } else {
        dataset_free(&engine->held_out);
    }
    dataset_free(&engine->dataset);
    dataset_free(&engine->calibration);
    search_archive_free(&engine->archive);
    free(engine->known_importance);
    engine_pairs_free(&engine->pairs);
    if (engine->journal.path)
        journal_close(&engine->journal);
    text_free(&engine->trial_notes);
    model_config_free(&engine->base_shape);
    model_config_free(&engine->shape);
    checkpoint_close(engine->checkpoint);
    tokenizer_free(engine->own_tokenizer);
    if (engine->log_fd >= 0)
        close(engine->log_fd);
    if (engine->lock_fd >= 0)
        close(engine->lock_fd);
}
