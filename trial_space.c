/* trial_space.c: what a search may choose: levels of formats and ranks, variables, pinned linears, and the exact size of a configuration.
 *
 * Format variables come first, one a layer or one a linear; when rank_types names ranks, as many rank variables follow. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "trial.h"

enum { MOST_RANK = 4096 };

static size_t linear_index(int layer, int linear)
{
    return (size_t)layer * LINEAR_COUNT + (size_t)linear;
}

size_t trials_variable(const struct trials *trials, size_t linear)
{
    return trials->n_format_variables == trials->n_linears ? linear : linear / LINEAR_COUNT;
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

/* Bits a weight that a level stores: of a format on a shape that all of them take, of FORMAT_KEEP the mean over its linears. */
static double stored_bits(const struct trials *trials, enum format format)
{
    if (format == FORMAT_KEEP)
        return trials->kept_stored_bits;
    return 8.0 * (double)quant_bytes(format, 0, false, 64, 4096) / (64 * 4096);
}

/* Levels in ascending stored size, so that level 0 is "all low". */
static void sort_levels(struct trials *trials)
{
    for (size_t i = 1; i < trials->n_formats; i++)
        for (size_t j = i; j > 0; j--) {
            enum format *a = &trials->format[j - 1], *b = &trials->format[j];
            if (stored_bits(trials, *a) <= stored_bits(trials, *b))
                break;
            enum format t = *a;
            *a = *b;
            *b = t;
        }
}

static enum status read_levels(struct trials *trials, struct err *err)
{
    for (const char *p = config_quant_types(trials->config); *p;) {
        char name[16];
        size_t n = strcspn(p, ","), index;
        if (n >= sizeof name)
            return err_set(err, ERR_INPUT, "quant_types holds '%.*s', want format names", (int)n, p);
        memcpy(name, p, n);
        name[n] = 0;
        enum format format = FORMAT_KEEP;
        if (strcmp(name, "keep") != 0)
            TRY(format_parse(name, &format, err));
        TRY(format_index(trials, format, &index, err));
        p += n + (p[n] == ',');
    }
    sort_levels(trials);
    trials->n_levels = trials->n_formats;
    return OK;
}

/* rank_types, ascending.  autoqra chooses ranks by its nature: without the key it takes those of its paper. */
static enum status read_ranks(struct trials *trials, struct err *err)
{
    const char *given = trials->config->rank_types;
    if (!*given && strcmp(trials->config->search, "autoqra") == 0)
        given = "4,8,16";
    for (const char *p = given; *p;) {
        char *end;
        long rank = strtol(p, &end, 10);
        long before = trials->n_ranks ? trials->rank[trials->n_ranks - 1] : 0;
        if (end == p || (*end && *end != ',') || rank <= before || rank > MOST_RANK)
            return err_set(err, ERR_INPUT, "rank_types = '%s', want ascending whole numbers from 1 to %d such as 4,8,16", given, MOST_RANK);
        if (trials->n_ranks == MAX_LEVELS)
            return err_set(err, ERR_INPUT, "rank_types names more than %d ranks", MAX_LEVELS);
        trials->rank[trials->n_ranks++] = (int32_t)rank;
        p = end + (*end == ',');
    }
    return OK;
}

/* Of a rank that is chosen: s = alpha / r stays lora_alpha / lora_r, or a rank would change the size of a step too; rsLoRA's alpha stays. */
float trials_alpha(const struct trials *trials, int32_t rank)
{
    const struct config *config = trials->config;
    double reference = config->lora_r > 0 ? (double)config->lora_r : 1;
    return (float)(config->use_rslora ? config->lora_alpha : config->lora_alpha * (double)rank / reference);
}

static bool has_adapter(const char *targets, enum linear linear)
{
    const char *dot = strrchr(linear_name[linear], '.');
    return config_list_has(targets, "all") || config_list_has(targets, dot ? dot + 1 : linear_name[linear]);
}

/* rank_pattern: linears that keep one rank.  Found like pinned formats: what the pattern leaves different on two plans it does not name. */
static enum status pin_ranks(struct trials *trials, const struct model_config *shape, struct err *err)
{
    struct plan a, b;
    if (!*trials->config->rank_pattern || trials->n_ranks == 0)
        return OK;
    TRY(plan_new(&a, shape, FORMAT_F32, err));
    enum status status = plan_new(&b, shape, FORMAT_F32, err);
    for (int l = 0; status == OK && l < a.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            a.layer[l].linear[j].rank = 1;
            b.layer[l].linear[j].rank = 2;
        }
    if (status == OK)
        status = plan_apply_pattern(&a, shape, PATTERN_RANK, trials->config->rank_pattern, "rank_pattern", err);
    if (status == OK)
        status = plan_apply_pattern(&b, shape, PATTERN_RANK, trials->config->rank_pattern, "rank_pattern", err);
    for (int l = 0; status == OK && l < a.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (a.layer[l].linear[j].rank == b.layer[l].linear[j].rank)
                trials->ranked[linear_index(l, j)] = false;
    plan_free(&a);
    plan_free(&b);
    return status;
}

/* Ranks, blocks and patterns into the plan; a rank that is chosen stands there as the largest. */
static enum status make_plan(struct trials *trials, const struct model_config *shape, struct err *err)
{
    const struct config *config = trials->config;
    TRY(plan_new(&trials->plan, shape, FORMAT_F32, err));
    trials->plan.use_rslora = config->use_rslora;
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *p = &trials->plan.layer[l].linear[j];
            trials_set_format(trials, linear_index(l, j), trials->format[0], p);
            bool adapter = has_adapter(config->lora_target_modules, (enum linear)j);
            trials->ranked[linear_index(l, j)] = adapter && trials->n_ranks > 0;
            p->rank = !adapter ? 0 : trials->n_ranks ? trials->rank[trials->n_ranks - 1] : (int32_t)config->lora_r;
            p->alpha = trials->n_ranks ? trials_alpha(trials, p->rank) : (float)config->lora_alpha;
        }
    TRY(pin_ranks(trials, shape, err));
    TRY(plan_apply_pattern(&trials->plan, shape, PATTERN_RANK, config->rank_pattern, "rank_pattern", err));
    return plan_apply_pattern(&trials->plan, shape, PATTERN_ALPHA, config->alpha_pattern, "alpha_pattern", err);
}

/* bits_pattern: linears that keep one format.  Found by setting the patterns on two plans that differ everywhere else. */
static enum status read_pins(struct trials *trials, const struct model_config *shape, struct err *err)
{
    memset(trials->pinned, TRIALS_NOT_PINNED, trials->n_linears);
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
            size_t index = 0, at = linear_index(l, j);
            bool kept = trials->kept && trials->kept[at].format == want->linear[j].format;
            TRY(format_index(trials, kept ? FORMAT_KEEP : want->linear[j].format, &index, err));
            trials->pinned[at] = (uint8_t)index;
            trials->ranked[at] = false;
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
void trials_set_format(const struct trials *trials, size_t linear, enum format format, struct plan_linear *p)
{
    bool nibbles = format == FORMAT_NF4 || format == FORMAT_FP4, keep = format == FORMAT_KEEP;
    const struct plan_linear chosen = {.format = format, .block = nibbles ? (int32_t)trials->config->block_size : 0,
                                       .double_quant = nibbles && trials->config->double_quant};
    const struct plan_linear *from = keep ? &trials->kept[linear] : &chosen;
    p->format = from->format;
    p->block = from->block;
    p->double_quant = from->double_quant;
}

const char *trials_level_name(const struct trials *trials, size_t level)
{
    return trials->format[level] == FORMAT_KEEP ? "keep" : format_info(trials->format[level])->name;
}

double trials_level_bits(const struct trials *trials, enum format format)
{
    return format == FORMAT_KEEP ? trials->kept_bits : format_info(format)->bits;
}

bool trials_quantizes(const struct trials *trials)
{
    for (size_t f = 0; f < trials->n_formats; f++)
        if (trials->format[f] != FORMAT_KEEP)
            return true;
    return false;
}

static enum status check_shapes(struct trials *trials, const struct model_config *shape, struct err *err)
{
    struct plan_storage storage = trials->storage;
    if (strcmp(config_embedding(trials->config), "keep") != 0 && quant_check(storage.embed, 0, (size_t)shape->vocab_size, (size_t)shape->hidden_size, err) != OK)
        return err_prefix(err, ERR_INPUT, "embedding_type");
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in, at = linear_index(l, j);
            plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
            size_t rank = (size_t)trials->plan.layer[l].linear[j].rank, most = out < in ? out : in;
            trials->weights[at] = (double)out * (double)in;
            trials->rank_bytes[at] = trials->ranked[at] ? (double)(out + in) * sizeof(float) : 0;
            if (rank > most) {
                char which[64];
                plan_name(l, (enum linear)j, which);
                return err_set(err, ERR_INPUT, "%s = %zu for %s, want at most %zu, the smaller side of the matrix",
                               trials->ranked[at] ? "rank_types" : "lora_r", rank, which, most);
            }
            for (size_t f = 0; f < trials->n_formats; f++) {
                struct plan_linear p;
                trials_set_format(trials, at, trials->format[f], &p);
                trials->bytes[at * MAX_LEVELS + f] = (double)plan_linear_bytes(&p, out, in, storage.float_bits);
                bool used = trials->pinned[at] == TRIALS_NOT_PINNED ? f < trials->n_levels : f == trials->pinned[at];
                char name[64];
                plan_name(l, (enum linear)j, name);
                if (used && trials->format[f] != FORMAT_KEEP && quant_check(p.format, p.block, out, in, err) != OK)
                    return err_prefix(err, ERR_INPUT, "%s", name);
            }
        }
    return OK;
}

/* Position of a level on its axis: by the error that its bits leave, 2^(-2 bits) of the variance (the step of a uniform quantizer halves with each bit), so
 * that levels lie as far apart as their scores; the order where bits agree. */
static double position(const struct trials *trials, size_t level)
{
    size_t last = trials->n_levels - 1;
    double low = exp2(-2 * trials_level_bits(trials, trials->format[0])), high = exp2(-2 * trials_level_bits(trials, trials->format[last]));
    if (last == 0)
        return 0;
    if (high >= low)
        return (double)level / (double)last;
    return (low - exp2(-2 * trials_level_bits(trials, trials->format[level]))) / (low - high);
}

/* Ranks by their logarithm: doubling one buys about as much each time. */
static double rank_position(const struct trials *trials, size_t level)
{
    double low = log2(trials->rank[0]), high = log2(trials->rank[trials->n_ranks - 1]);
    return high > low ? (log2(trials->rank[level]) - low) / (high - low) : 0;
}

/* A variable whose linears are all pinned has one level. */
static void count_levels(struct trials *trials)
{
    size_t ranks = trials->n_format_variables;
    memset(trials->n_variable_levels, 1, trials->n_variables);
    for (size_t i = 0; i < trials->n_linears; i++) {
        size_t v = trials_variable(trials, i);
        if (trials->pinned[i] == TRIALS_NOT_PINNED)
            trials->n_variable_levels[v] = (uint8_t)trials->n_levels;
        if (trials->ranked[i])
            trials->n_variable_levels[ranks + v] = (uint8_t)trials->n_ranks;
    }
}

static enum status make_variables(struct trials *trials, struct err *err)
{
    size_t n = trials->n_variables = trials->n_format_variables * (trials->n_ranks ? 2 : 1);
    trials->feature = calloc(n, sizeof *trials->feature);
    trials->n_variable_levels = calloc(n, 1);
    trials->kind = calloc(n, 1);
    trials->group = calloc(n, sizeof *trials->group);
    if (!trials->feature || !trials->n_variable_levels || !trials->kind || !trials->group)
        return err_set(err, ERR_MEMORY, "out of memory for the search space");
    count_levels(trials);
    for (size_t v = 0; v < n; v++) {
        size_t at = v % trials->n_format_variables;
        bool rank = v >= trials->n_format_variables;
        trials->kind[v] = rank ? SEARCH_RANK : SEARCH_FORMAT;
        trials->group[v] = (uint16_t)(trials->n_format_variables == trials->n_linears ? at / LINEAR_COUNT : at);
        trials->feature[v] = calloc(MAX_LEVELS, sizeof **trials->feature);
        if (!trials->feature[v])
            return err_set(err, ERR_MEMORY, "out of memory for the search space");
        for (size_t k = 0; k < (rank ? trials->n_ranks : trials->n_levels); k++)
            trials->feature[v][k] = rank ? rank_position(trials, k) : position(trials, k);
    }
    return OK;
}

static double fixed_bytes(const struct trials *trials, const struct model_config *shape)
{
    struct plan_storage storage = trials->storage;
    double linears = 0;
    for (int l = 0; l < trials->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &trials->plan.layer[l].linear[j];
            size_t out, in;
            plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
            linears += (double)plan_linear_bytes(p, out, in, storage.float_bits);
        }
    double chosen = 0;
    for (size_t i = 0; i < trials->n_linears; i++)
        if (trials->ranked[i])
            chosen += trials->rank_bytes[i] * trials->rank[trials->n_ranks - 1];
    return (double)plan_bytes(&trials->plan, shape, &storage) - linears - chosen;
}

static enum status take_linears(struct trials *trials, const struct config *config, size_t n_layers, struct err *err)
{
    trials->config = config;
    trials->objective = config_objective(config);
    trials->n_linears = n_layers * LINEAR_COUNT;
    trials->n_format_variables = strcmp(config->search_space, "linear") == 0 ? trials->n_linears : n_layers;
    trials->pinned = calloc(trials->n_linears, 1);
    trials->ranked = calloc(trials->n_linears, sizeof *trials->ranked);
    trials->rank_bytes = calloc(trials->n_linears, sizeof *trials->rank_bytes);
    trials->weights = calloc(trials->n_linears, sizeof *trials->weights);
    trials->bytes = calloc(trials->n_linears * MAX_LEVELS, sizeof *trials->bytes);
    if (!trials->pinned || !trials->ranked || !trials->rank_bytes || !trials->weights || !trials->bytes)
        return err_set(err, ERR_MEMORY, "out of memory for the search space");
    return OK;
}

/* What keep stands for, before the levels are sorted by what they store. */
static enum status take_kept(struct trials *trials, const struct model_config *shape, const struct plan *held, struct err *err)
{
    double weights = 0;
    if (!config_keeps(trials->config))
        return OK;
    trials->kept = calloc(trials->n_linears, sizeof *trials->kept);
    if (!trials->kept)
        return err_set(err, ERR_MEMORY, "out of memory for the search space");
    for (size_t i = 0; i < trials->n_linears; i++) {
        int l = (int)(i / LINEAR_COUNT), j = (int)(i % LINEAR_COUNT);
        size_t out, in;
        plan_shape(held, shape, l, (enum linear)j, &out, &in);
        trials->kept[i] = held->layer[l].linear[j];
        trials->kept_bits += format_info(trials->kept[i].format)->bits * (double)out * (double)in;
        weights += (double)out * (double)in;
    }
    trials->kept_bits /= weights;
    trials->kept_stored_bits = plan_bits(held, shape);
    return OK;
}

enum status trials_init_space(struct trials *trials, const struct config *config, size_t n_variables, struct err *err)
{
    struct trials probe = {.config = config};
    TRY(read_ranks(&probe, err));
    size_t a_layer = (strcmp(config->search_space, "linear") == 0 ? LINEAR_COUNT : 1) * (probe.n_ranks ? 2u : 1u);
    if (n_variables == 0 || n_variables % a_layer)
        return err_set(err, ERR_INPUT, "%zu variables, want %zu for each layer", n_variables, a_layer);
    if (config_keeps(config))
        return err_set(err, ERR_INPUT, "quant_types holds keep, which is another format in every model");
    TRY(take_linears(trials, config, n_variables / a_layer, err));
    TRY(read_levels(trials, err));
    TRY(read_ranks(trials, err));
    memset(trials->pinned, TRIALS_NOT_PINNED, trials->n_linears);
    for (size_t i = 0; i < trials->n_linears; i++)
        trials->ranked[i] = trials->n_ranks > 0;
    return make_variables(trials, err);
}

enum status trials_init(struct trials *trials, const struct config *config, const struct model_config *shape, const struct model_stored *held, struct err *err)
{
    TRY(take_linears(trials, config, (size_t)shape->num_hidden_layers, err));
    trials->storage = (struct plan_storage){.embed = held->embed, .head = held->head, .float_bits = strcmp(config->export_dtype, "f32") == 0 ? 32 : 16};
    TRY(take_kept(trials, shape, &held->plan, err));
    TRY(read_levels(trials, err));
    TRY(read_ranks(trials, err));
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
    free(trials->kind);
    free(trials->group);
    free(trials->importance);
    free(trials->kept);
    free(trials->pinned);
    free(trials->ranked);
    free(trials->rank_bytes);
    free(trials->weights);
    evaluate_reference_free(trials->reference);
    arena_free(&trials->own);
    free(trials->bytes);
    plan_free(&trials->plan);
    plan_free(&trials->widest);
    model_free(&trials->model);
    memset(trials, 0, sizeof *trials);
}

size_t trials_format(const struct trials *trials, size_t linear, const uint8_t *level)
{
    return trials->pinned[linear] != TRIALS_NOT_PINNED ? trials->pinned[linear] : level[trials_variable(trials, linear)];
}

size_t trials_rank_level(const struct trials *trials, size_t linear, const uint8_t *level)
{
    return trials->ranked[linear] ? level[trials->n_format_variables + trials_variable(trials, linear)] : 0;
}

void trials_plan_linear(const struct trials *trials, size_t linear, const uint8_t *level, struct plan_linear *p)
{
    trials_set_format(trials, linear, trials->format[trials_format(trials, linear, level)], p);
    if (trials->ranked[linear]) {
        p->rank = trials->rank[trials_rank_level(trials, linear, level)];
        p->alpha = trials_alpha(trials, p->rank);
    }
}

enum status trials_plan(const struct trials *trials, const uint8_t *level, struct plan *plan, struct err *err)
{
    TRY(plan_copy(plan, &trials->plan, err));
    for (size_t i = 0; i < trials->n_linears; i++)
        trials_plan_linear(trials, i, level, &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT]);
    return OK;
}

double trials_size(const struct trials *trials, const uint8_t *level)
{
    double sum = trials->fixed_bytes;
    for (size_t i = 0; i < trials->n_linears; i++) {
        sum += trials->bytes[i * MAX_LEVELS + trials_format(trials, i, level)];
        if (trials->ranked[i])
            sum += trials->rank_bytes[i] * trials->rank[trials_rank_level(trials, i, level)];
    }
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
                                   .max_size = max_size, .kind = trials->kind, .group = trials->group, .importance = trials->importance};
}
