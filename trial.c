/* trial.c: levels of the search space, the cache of quantized linears, one trial. */
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/stop.h"
#include "quant_panel.h"

enum { NOT_PINNED = 255, OTHER_BITS = 32 };

/* ---- the space ---- */

static size_t linear_index(int layer, int linear)
{
    return (size_t)layer * LINEAR_COUNT + (size_t)linear;
}

static size_t variable_of(const struct trials *trials, size_t linear)
{
    return trials->n_variables == trials->n_linears ? linear : linear / LINEAR_COUNT;
}

/* Index of a format among the levels and pinned formats, added when new. */
static enum status format_index(struct trials *trials, enum format format, size_t *index, struct err *err)
{
    for (size_t i = 0; i < trials->n_formats; i++)
        if (trials->format[i] == format) {
            *index = i;
            return OK;
        }
    if (trials->n_formats == MAX_LEVELS)
        return err_set(err, ERR_INPUT, "quant_types and bits_pattern name more than %d formats", MAX_LEVELS);
    *index = trials->n_formats;
    trials->format[trials->n_formats++] = format;
    return OK;
}

/* Levels in ascending stored size, so that level 0 is "all low". */
static void sort_levels(struct trials *trials)
{
    for (size_t i = 1; i < trials->n_formats; i++)
        for (size_t j = i; j > 0; j--) {
            enum format *a = &trials->format[j - 1], *b = &trials->format[j];
            if (quant_bytes(*a, 0, false, 64, 4096) <= quant_bytes(*b, 0, false, 64, 4096))
                break;
            enum format t = *a;
            *a = *b;
            *b = t;
        }
}

static enum status read_levels(struct trials *trials, struct err *err)
{
    for (const char *p = trials->config->quant_types; *p;) {
        char name[16];
        size_t n = strcspn(p, ","), index;
        if (n >= sizeof name)
            return err_set(err, ERR_INPUT, "quant_types holds '%.*s', want format names", (int)n, p);
        memcpy(name, p, n);
        name[n] = 0;
        enum format format;
        TRY(format_parse(name, &format, err));
        TRY(format_index(trials, format, &index, err));
        p += n + (p[n] == ',');
    }
    sort_levels(trials);
    trials->n_levels = trials->n_formats;
    return OK;
}

static bool has_adapter(const char *targets, enum linear linear)
{
    const char *dot = strrchr(linear_name[linear], '.');
    return config_list_has(targets, "all") || config_list_has(targets, dot ? dot + 1 : linear_name[linear]);
}

/* Ranks, blocks and patterns into the plan. */
static enum status make_plan(struct trials *trials, const struct model_config *shape, struct err *err)
{
    const struct config *config = trials->config;
    TRY(plan_new(&trials->plan, shape, trials->format[0], err));
    trials->plan.use_rslora = config->use_rslora;
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *p = &trials->plan.layer[l].linear[j];
            bool adapter = has_adapter(config->lora_target_modules, (enum linear)j);
            p->rank = adapter ? (int32_t)config->lora_r : 0;
            p->alpha = (float)config->lora_alpha;
        }
    TRY(plan_apply_pattern(&trials->plan, shape, PATTERN_RANK, config->rank_pattern, "rank_pattern", err));
    return plan_apply_pattern(&trials->plan, shape, PATTERN_ALPHA, config->alpha_pattern, "alpha_pattern", err);
}

/* bits_pattern: linears that keep one format.  Found by setting the patterns on two plans that differ everywhere else. */
static enum status read_pins(struct trials *trials, const struct model_config *shape, struct err *err)
{
    memset(trials->pinned, NOT_PINNED, trials->n_linears);
    if (!*trials->config->bits_pattern)
        return OK;
    struct plan a, b;
    TRY(plan_new(&a, shape, FORMAT_F32, err));
    enum status status = plan_new(&b, shape, FORMAT_BF16, err);
    if (status == OK)
        status = plan_apply_pattern(&a, shape, PATTERN_FORMAT, trials->config->bits_pattern, "bits_pattern", err);
    if (status == OK)
        status = plan_apply_pattern(&b, shape, PATTERN_FORMAT, trials->config->bits_pattern, "bits_pattern", err);
    for (int l = 0; status == OK && l < a.n_layers; l++)
        for (int j = 0; status == OK && j < LINEAR_COUNT; j++)
            if (a.layer[l].linear[j].format == b.layer[l].linear[j].format) {
                size_t index = 0;
                status = format_index(trials, a.layer[l].linear[j].format, &index, err);
                trials->pinned[linear_index(l, j)] = (uint8_t)index;
            }
    plan_free(&a);
    plan_free(&b);
    return status;
}

/* plan = FILE: every linear's format, rank and alpha are given; widths must be those that pruning leads to. */
static enum status take_plan(struct trials *trials, const struct plan *given, struct err *err)
{
    trials->plan.use_rslora = given->use_rslora;
    for (int l = 0; l < given->n_layers; l++) {
        const struct plan_layer *want = &given->layer[l], *have = &trials->plan.layer[l];
        if (want->heads != have->heads || want->kv_heads != have->kv_heads || want->ffn != have->ffn)
            return err_set(err, ERR_INPUT,
                           "%s: model.layers.%d has heads=%d kv_heads=%d ffn=%d, the model has heads=%d kv_heads=%d ffn=%d after pruning",
                           trials->config->plan, l, want->heads, want->kv_heads, want->ffn, have->heads, have->kv_heads, have->ffn);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *p = &trials->plan.layer[l].linear[j];
            size_t index = 0;
            TRY(format_index(trials, want->linear[j].format, &index, err));
            trials->pinned[linear_index(l, j)] = (uint8_t)index;
            p->rank = want->linear[j].rank;
            p->alpha = want->linear[j].alpha;
        }
    }
    return OK;
}

static enum status read_given_plan(struct trials *trials, const struct model_config *shape, struct err *err)
{
    char *text;
    size_t n;
    struct plan given;
    if (!*trials->config->plan)
        return OK;
    TRY(file_read(trials->config->plan, 1 << 24, &text, &n, err));
    enum status status = plan_parse(&given, shape, text, trials->config->plan, err);
    free(text);
    TRY(status);
    status = take_plan(trials, &given, err);
    plan_free(&given);
    return status;
}

/* Block and double quantization where a format has them. */
static void set_format(const struct config *config, struct plan_linear *p, enum format format)
{
    bool nibbles = format == FORMAT_NF4 || format == FORMAT_FP4;
    p->format = format;
    p->block = nibbles ? (int32_t)config->block_size : 0;
    p->double_quant = nibbles && config->double_quant;
}

static enum status check_shapes(struct trials *trials, const struct model_config *shape, struct err *err)
{
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in, at = linear_index(l, j);
            plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
            size_t rank = (size_t)trials->plan.layer[l].linear[j].rank, most = out < in ? out : in;
            if (rank > most) {
                char which[64];
                plan_name(l, (enum linear)j, which);
                return err_set(err, ERR_INPUT, "lora_r = %zu for %s, want at most %zu, the smaller side of the matrix", rank, which, most);
            }
            for (size_t f = 0; f < trials->n_formats; f++) {
                struct plan_linear p;
                set_format(trials->config, &p, trials->format[f]);
                trials->bytes[at * MAX_LEVELS + f] = (double)quant_bytes(p.format, p.block, p.double_quant, out, in);
                bool used = trials->pinned[at] == NOT_PINNED ? f < trials->n_levels : f == trials->pinned[at];
                char name[64];
                plan_name(l, (enum linear)j, name);
                if (used && quant_check(p.format, p.block, out, in, err) != OK)
                    return err_prefix(err, ERR_INPUT, "%s", name);
            }
        }
    return OK;
}

/* Position of a level on its axis: nominal bits, or the order where bits agree. */
static double position(const struct trials *trials, size_t level)
{
    size_t last = trials->n_levels - 1;
    double low = format_info(trials->format[0])->bits, high = format_info(trials->format[last])->bits;
    if (last == 0)
        return 0;
    if (high <= low)
        return (double)level / (double)last;
    return (format_info(trials->format[level])->bits - low) / (high - low);
}

static enum status make_variables(struct trials *trials, struct err *err)
{
    trials->feature = calloc(trials->n_variables, sizeof *trials->feature);
    trials->n_variable_levels = calloc(trials->n_variables, 1);
    if (!trials->feature || !trials->n_variable_levels)
        return err_set(err, ERR_MEMORY, "out of memory for the search space");
    for (size_t i = 0; i < trials->n_linears; i++)
        if (trials->pinned[i] == NOT_PINNED)
            trials->n_variable_levels[variable_of(trials, i)] = (uint8_t)trials->n_levels;
    for (size_t v = 0; v < trials->n_variables; v++) {
        if (trials->n_variable_levels[v] == 0)
            trials->n_variable_levels[v] = 1;
        trials->feature[v] = calloc(MAX_LEVELS, sizeof **trials->feature);
        if (!trials->feature[v])
            return err_set(err, ERR_MEMORY, "out of memory for the search space");
        for (size_t k = 0; k < trials->n_levels; k++)
            trials->feature[v][k] = position(trials, k);
    }
    return OK;
}

static double fixed_bytes(const struct trials *trials, const struct model_config *shape)
{
    double linears = 0;
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &trials->plan.layer[l].linear[j];
            size_t out, in;
            plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
            linears += (double)quant_bytes(p->format, p->block, p->double_quant, out, in);
        }
    return (double)plan_bytes(&trials->plan, shape, OTHER_BITS) - linears;
}

enum status trials_init(struct trials *trials, const struct config *config, const struct model_config *shape, struct err *err)
{
    trials->config = config;
    trials->n_linears = (size_t)shape->num_hidden_layers * LINEAR_COUNT;
    trials->n_variables =
        strcmp(config->search_space, "linear") == 0 ? trials->n_linears : (size_t)shape->num_hidden_layers;
    trials->pinned = calloc(trials->n_linears, 1);
    trials->bytes = calloc(trials->n_linears * MAX_LEVELS, sizeof *trials->bytes);
    if (!trials->pinned || !trials->bytes)
        return err_set(err, ERR_MEMORY, "out of memory for the search space");
    TRY(read_levels(trials, err));
    TRY(make_plan(trials, shape, err));
    TRY(read_pins(trials, shape, err));
    TRY(read_given_plan(trials, shape, err));
    TRY(check_shapes(trials, shape, err));
    TRY(make_variables(trials, err));
    trials->fixed_bytes = fixed_bytes(trials, shape);
    return OK;
}

void trials_free(struct trials *trials)
{
    for (size_t v = 0; trials->feature && v < trials->n_variables; v++)
        free(trials->feature[v]);
    free(trials->feature);
    free(trials->n_variable_levels);
    free(trials->pinned);
    free(trials->bytes);
    plan_free(&trials->plan);
    model_free(&trials->model);
    memset(trials, 0, sizeof *trials);
}

/* Which format a linear takes under a configuration. */
static size_t choice(const struct trials *trials, size_t linear, const uint8_t *level)
{
    return trials->pinned[linear] != NOT_PINNED ? trials->pinned[linear] : level[variable_of(trials, linear)];
}

double trials_size(const struct trials *trials, const uint8_t *level)
{
    double sum = trials->fixed_bytes;
    for (size_t i = 0; i < trials->n_linears; i++)
        sum += trials->bytes[i * MAX_LEVELS + choice(trials, i, level)];
    return sum;
}

static double size_of(void *user, const uint8_t *level)
{
    return trials_size(user, level);
}

void trials_space(struct trials *trials, double max_size, struct search_space *space)
{
    *space = (struct search_space){.n = trials->n_variables, .n_levels = trials->n_variable_levels,
                                   .feature = (const double *const *)trials->feature, .size = size_of, .user = trials,
                                   .max_size = max_size};
}

/* ---- memory ---- */

static bool variant_used(const struct trials *trials, size_t linear, size_t format)
{
    return trials->pinned[linear] == NOT_PINNED ? format < trials->n_levels : format == trials->pinned[linear];
}

void trials_place_weights(struct trials *trials, const struct model_config *shape, struct arena *weights)
{
    trials->variant = arena_take(weights, trials->n_linears * MAX_LEVELS, sizeof *trials->variant);
    for (size_t i = 0; i < trials->n_linears; i++) {
        int l = (int)(i / LINEAR_COUNT), j = (int)(i % LINEAR_COUNT);
        size_t out, in, r = (size_t)trials->plan.layer[l].linear[j].rank;
        plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
        for (size_t f = 0; f < trials->n_formats; f++) {
            if (!variant_used(trials, i, f))
                continue;
            struct plan_linear p;
            struct variant v = {.ready = false};
            set_format(trials->config, &p, trials->format[f]);
            quant_place(&v.q, p.format, p.block, p.double_quant, out, in, weights);
            v.A = arena_take(weights, r * in, sizeof(real));
            v.B = arena_take(weights, r * out, sizeof(real));
            if (trials->variant)
                trials->variant[i * MAX_LEVELS + f] = v;
        }
    }
}

void trials_place_training(struct trials *trials, const struct model_config *shape, int64_t max_steps, struct arena *optimizer)
{
    lora_place(&trials->lora, &trials->plan, shape, true, optimizer);
    trials->lora.dropout = (float)trials->config->lora_dropout;
    trials->lora.seed = (uint64_t)trials->config->seed;
    finetune_place(&trials->finetune, trials->dataset, trials->config->micro_batch_size, max_steps, optimizer);
}

/* ---- a trial ---- */

static enum status start_variant(struct trials *trials, size_t linear, size_t format, struct err *err)
{
    struct variant *v = &trials->variant[linear * MAX_LEVELS + format];
    if (v->ready)
        return OK;
    TRY(stop_check(err));
    int l = (int)(linear / LINEAR_COUNT), j = (int)(linear % LINEAR_COUNT);
    const struct plan_linear *p = &trials->plan.layer[l].linear[j];
    struct lora_init_options options = {.loftq_iters = (int)trials->config->loftq_iters,
                                        .pissa_niter = (int)trials->config->pissa_niter,
                                        .seed = (uint64_t)trials->config->seed,
                                        .step = (uint32_t)linear};
    TRY(lora_init_parse(trials->config->lora_init, &options.init, err));
    const real *W = trials->source->layer[l].linear[j].codes;
    enum status status = lora_start(&v->q, v->A, v->B, W, p->rank, plan_scaling(&trials->plan, l, (enum linear)j), &options, err);
    char name[64];
    plan_name(l, (enum linear)j, name);
    if (status == OK)
        status = quant_to_panels(&v->q, err);
    if (status != OK)
        return err_prefix(err, status, "%s", name);
    v->ready = true;
    return OK;
}

static void start_adapter(struct adapter *a, const struct variant *v)
{
    if (a->r == 0)
        return;
    memcpy(a->A, v->A, (size_t)a->r * a->in * sizeof(real));
    memcpy(a->B, v->B, (size_t)a->r * a->out * sizeof(real));
}

enum status trials_set(struct trials *trials, const uint8_t *level, struct err *err)
{
    for (size_t i = 0; i < trials->n_linears; i++) {
        int l = (int)(i / LINEAR_COUNT), j = (int)(i % LINEAR_COUNT);
        size_t f = choice(trials, i, level);
        TRY(start_variant(trials, i, f, err));
        const struct variant *v = &trials->variant[i * MAX_LEVELS + f];
        set_format(trials->config, &trials->plan.layer[l].linear[j], trials->format[f]);
        start_adapter(&trials->lora.adapter[l][j], v);
    }
    if (!trials->model.layer)
        TRY(model_alias(&trials->model, trials->source, &trials->plan, err));
    for (size_t i = 0; i < trials->n_linears; i++) {
        int l = (int)(i / LINEAR_COUNT), j = (int)(i % LINEAR_COUNT);
        trials->model.layer[l].linear[j] = trials->variant[i * MAX_LEVELS + choice(trials, i, level)].q;
        trials->model.plan.layer[l].linear[j] = trials->plan.layer[l].linear[j];
    }
    return OK;
}

void trial_options(const struct config *config, int64_t steps, struct finetune_options *options)
{
    memset(options, 0, sizeof *options);
    struct optim *o = &options->optim;
    optim_default(o);
    o->lr = (real)config->learning_rate;
    o->beta1 = (real)config->adam_beta1;
    o->beta2 = (real)config->adam_beta2;
    o->eps = (real)config->adam_epsilon;
    o->weight_decay = (real)config->weight_decay;
    o->max_grad_norm = (real)config->max_grad_norm;
    schedule_parse(config->lr_scheduler, &o->schedule, NULL); /* one of its names: config.c has checked */
    o->total_steps = steps;
    o->warmup_steps = config->warmup_steps ? config->warmup_steps : (int64_t)ceil(config->warmup_ratio * (double)steps);
    options->batch_size = config->batch_size;
    options->micro_batch_size = config->micro_batch_size;
    options->micro_mean = strcmp(config->loss_average, "micro") == 0;
    options->seed = (uint64_t)config->seed;
    options->save_steps = config->save_steps;
    options->label = "";
}

enum status trials_finetune(struct trials *trials, int64_t steps, const char *label, const char *checkpoint_dir, struct err *err)
{
    struct finetune_options options;
    trial_options(trials->config, steps, &options);
    options.log = trials->log;
    options.label = label;
    options.checkpoint_dir = checkpoint_dir;
    if (trials->lora.n == 0) {
        trials->finetune.n_curve = 0;
        return OK;
    }
    struct finetune_target target = {.lora = &trials->lora};
    return finetune_run(&trials->finetune, trials->run, &trials->model, &target, trials->dataset, steps, &options, err);
}

/* Mean nll of held-out examples, and the variance of that mean over examples. */
static enum status score_held_out(struct trials *trials, const struct model *model, const struct lora *lora,
                                  struct trial_outcome *outcome, struct err *err)
{
    double sum = 0, squares = 0;
    size_t n = trials->held_out->n;
    for (size_t i = 0; i < n; i++) {
        const struct example *e = &trials->held_out->example[i];
        for (int32_t t = 0; t < e->n; t++)
            trials->finetune.positions[t] = t;
        struct segment segment = {.len = e->n};
        struct batch batch = {.n = (size_t)e->n, .tokens = e->tokens, .labels = e->labels, .segments = &segment,
                              .n_segments = 1, .positions = trials->finetune.positions};
        double nll;
        size_t count;
        TRY(model_score(trials->run, model, lora, &batch, NULL, NULL, &nll, &count, err));
        double mean = nll / (double)(count ? count : 1);
        sum += mean;
        squares += mean * mean;
    }
    double mean = sum / (double)n;
    outcome->held_out_loss = mean;
    outcome->score = -mean;
    outcome->variance = n > 1 ? fmax(squares / (double)n - mean * mean, 0) / (double)(n - 1) : 0;
    return OK;
}

enum status trials_score(struct trials *trials, enum task_part part, const struct model *model, const struct lora *lora,
                         struct trial_outcome *outcome, struct err *err)
{
    const struct trial_tasks *tasks = trials->tasks;
    outcome->n_tasks = tasks->n;
    outcome->held_out_loss = NAN;
    outcome->first_loss = outcome->last_loss = NAN;
    if (trials->finetune.n_curve && lora) {
        outcome->first_loss = trials->finetune.curve[0].loss;
        outcome->last_loss = trials->finetune.curve[trials->finetune.n_curve - 1].loss;
    }
    for (size_t i = 0; i < tasks->n; i++) {
        struct evaluate_set *set = part == PART_SEARCH ? tasks->search[i] : tasks->report[i];
        TRY(evaluate_run(set, trials->run, model, lora, &outcome->task[i], NULL, err));
    }
    outcome->score = outcome->variance = 0;
    if (tasks->n)
        evaluate_mean(outcome->task, tasks->n, &outcome->score, &outcome->variance);
    if (part == PART_SEARCH && trials->held_out)
        return score_held_out(trials, model, lora, outcome, err);
    return OK;
}
