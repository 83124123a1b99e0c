/* plan.c: shapes, formats and ranks by name; counting; patterns.  Its text form is in plan_text.c. */
#include "plan.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const linear_name[LINEAR_COUNT] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                               "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

enum status plan_new(struct plan *plan, const struct model_config *config, enum format format, struct err *err)
{
    memset(plan, 0, sizeof *plan);
    plan->layer = calloc((size_t)config->num_hidden_layers, sizeof *plan->layer);
    if (!plan->layer)
        return err_set(err, ERR_MEMORY, "out of memory for a plan");
    plan->n_layers = config->num_hidden_layers;
    for (int l = 0; l < plan->n_layers; l++) {
        struct plan_layer *p = &plan->layer[l];
        p->heads = config->num_attention_heads[l];
        p->kv_heads = config->num_key_value_heads[l];
        p->ffn = config->intermediate_size[l];
        for (int j = 0; j < LINEAR_COUNT; j++)
            p->linear[j].format = format;
    }
    return OK;
}

enum status plan_copy(struct plan *to, const struct plan *from, struct err *err)
{
    struct plan_layer *layer = malloc((size_t)from->n_layers * sizeof *layer);
    if (!layer)
        return err_set(err, ERR_MEMORY, "out of memory for a plan");
    memcpy(layer, from->layer, (size_t)from->n_layers * sizeof *layer);
    *to = *from;
    to->layer = layer;
    return OK;
}

void plan_free(struct plan *plan)
{
    free(plan->layer);
    memset(plan, 0, sizeof *plan);
}

void plan_shape(const struct plan *plan, const struct model_config *config, int layer, enum linear linear, size_t *out, size_t *in)
{
    const struct plan_layer *p = &plan->layer[layer];
    size_t C = (size_t)config->hidden_size, D = (size_t)config->head_dim;
    size_t q = (size_t)p->heads * D, kv = (size_t)p->kv_heads * D, F = (size_t)p->ffn;
    const size_t shape[LINEAR_COUNT][2] = {{q, C}, {kv, C}, {kv, C}, {C, q}, {F, C}, {F, C}, {C, F}};
    *out = shape[linear][0];
    *in = shape[linear][1];
}

float plan_scaling(const struct plan *plan, int layer, enum linear linear)
{
    const struct plan_linear *p = &plan->layer[layer].linear[linear];
    if (p->rank == 0)
        return 0;
    return plan->use_rslora ? p->alpha / sqrtf((float)p->rank) : p->alpha / (float)p->rank;
}

void plan_name(int layer, enum linear linear, char name[64])
{
    snprintf(name, 64, "model.layers.%d.%s", layer, linear_name[linear]);
}

/* ---- counting ---- */

/* Matrices of [V, C]. */
static uint64_t embeddings(const struct model_config *config)
{
    return config->tie_word_embeddings ? 1 : 2;
}

/* Norms and biases. */
static uint64_t vector_parameters(const struct plan *plan, const struct model_config *config)
{
    uint64_t C = (uint64_t)config->hidden_size, D = (uint64_t)config->head_dim, n = C;
    for (int l = 0; l < plan->n_layers; l++) {
        const struct plan_layer *p = &plan->layer[l];
        n += 2 * C;
        if (config->attention_bias)
            n += ((uint64_t)p->heads + 2 * (uint64_t)p->kv_heads) * D;
        if (config->attention_out_bias)
            n += C;
    }
    return n;
}

/* Everything that is not one of the seven linears. */
static uint64_t other_parameters(const struct plan *plan, const struct model_config *config)
{
    return (uint64_t)config->vocab_size * (uint64_t)config->hidden_size * embeddings(config) + vector_parameters(plan, config);
}

uint64_t plan_parameters(const struct plan *plan, const struct model_config *config)
{
    uint64_t n = other_parameters(plan, config);
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in;
            plan_shape(plan, config, l, (enum linear)j, &out, &in);
            n += (uint64_t)out * in;
        }
    return n;
}

uint64_t plan_adapter_parameters(const struct plan *plan, const struct model_config *config)
{
    uint64_t n = 0;
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t out, in;
            plan_shape(plan, config, l, (enum linear)j, &out, &in);
            n += (uint64_t)plan->layer[l].linear[j].rank * (out + in);
        }
    return n;
}

static uint64_t matrix_bytes(enum format format, int block, bool double_quant, size_t out, size_t in, int float_bits)
{
    return format == FORMAT_F32 ? (uint64_t)out * in * (uint64_t)float_bits / 8 : quant_bytes(format, block, double_quant, out, in);
}

uint64_t plan_linear_bytes(const struct plan_linear *p, size_t out, size_t in, int float_bits)
{
    return matrix_bytes(p->format, p->block, p->double_quant, out, in, float_bits);
}

static uint64_t linear_bytes(const struct plan *plan, const struct model_config *config, int float_bits)
{
    uint64_t n = 0;
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &plan->layer[l].linear[j];
            size_t out, in;
            plan_shape(plan, config, l, (enum linear)j, &out, &in);
            n += plan_linear_bytes(p, out, in, float_bits);
        }
    return n;
}

uint64_t plan_bytes(const struct plan *plan, const struct model_config *config, const struct plan_storage *storage)
{
    size_t V = (size_t)config->vocab_size, C = (size_t)config->hidden_size;
    uint64_t embed = matrix_bytes(storage->embed, 0, false, V, C, storage->float_bits);
    if (!config->tie_word_embeddings)
        embed += matrix_bytes(storage->head, 0, false, V, C, storage->float_bits);
    return linear_bytes(plan, config, storage->float_bits) + embed + vector_parameters(plan, config) * (uint64_t)storage->float_bits / 8 +
           plan_adapter_parameters(plan, config) * 4;
}

double plan_bits(const struct plan *plan, const struct model_config *config)
{
    double weights = (double)(plan_parameters(plan, config) - other_parameters(plan, config));
    return 8 * (double)linear_bytes(plan, config, 32) / weights;
}

/* ---- patterns ---- */

struct pattern {
    enum plan_pattern kind;
    const char *where;
    char regex[256], value[64];
    enum format format;
    double number;
};

static enum status parse_value(struct pattern *p, struct err *err)
{
    char *end;
    if (p->kind == PATTERN_FORMAT) {
        if (format_parse(p->value, &p->format, err) != OK)
            return err_prefix(err, ERR_INPUT, "%s: %s", p->where, p->regex);
        return OK;
    }
    p->number = strtod(p->value, &end);
    bool rank = p->kind == PATTERN_RANK;
    if (end == p->value || *end || !(p->number >= 0 && p->number <= (rank ? 65536 : 1e6)) || (rank && p->number != floor(p->number)))
        return err_set(err, ERR_INPUT, "%s: %s = '%s', want %s", p->where, p->regex, p->value,
                       rank ? "a rank from 0 to 65536" : "a number from 0 to 1000000");
    return OK;
}

/* The next "regex=value"; the last = divides, since an expression may hold one.  *rest is moved behind it. */
static enum status next_pattern(struct pattern *p, const char **rest, struct err *err)
{
    size_t n = strcspn(*rest, ",");
    const char *equals = NULL;
    for (size_t i = 0; i < n; i++)
        if ((*rest)[i] == '=')
            equals = *rest + i;
    size_t regex_n = equals ? (size_t)(equals - *rest) : 0, value_n = equals ? n - regex_n - 1 : 0;
    if (regex_n == 0 || value_n == 0 || regex_n >= sizeof p->regex || value_n >= sizeof p->value)
        return err_set(err, ERR_INPUT, "%s: '%.*s', want regex=value", p->where, (int)n, *rest);
    memcpy(p->regex, *rest, regex_n);
    p->regex[regex_n] = 0;
    memcpy(p->value, equals + 1, value_n);
    p->value[value_n] = 0;
    *rest += n + ((*rest)[n] == ',');
    return parse_value(p, err);
}

static enum status set_linear(struct plan *plan, const struct model_config *config, const struct pattern *p, int l, int j,
                              struct err *err)
{
    struct plan_linear *q = &plan->layer[l].linear[j];
    size_t out, in;
    char name[64];
    plan_shape(plan, config, l, (enum linear)j, &out, &in);
    plan_name(l, (enum linear)j, name);
    if (p->kind == PATTERN_ALPHA)
        q->alpha = (float)p->number;
    else if (p->kind == PATTERN_RANK)
        q->rank = (int32_t)p->number;
    else {
        q->format = p->format;
        q->block = 0; /* what belonged to the format before */
        q->double_quant = false;
    }
    if (p->kind == PATTERN_RANK && (size_t)q->rank > (out < in ? out : in))
        return err_set(err, ERR_INPUT, "%s: %s: rank %d, want at most %zu (the smaller side of the matrix)", p->where, name, q->rank,
                       out < in ? out : in);
    if (p->kind == PATTERN_FORMAT && quant_check(p->format, 0, out, in, err) != OK)
        return err_prefix(err, ERR_INPUT, "%s: %s", p->where, name);
    return OK;
}

/* Sets what the expression matches and no earlier one has; taken[layers * LINEAR_COUNT] remembers. */
static enum status apply(struct plan *plan, const struct model_config *config, const struct pattern *p, uint8_t *taken, struct err *err)
{
    regex_t regex;
    if (regcomp(&regex, p->regex, REG_EXTENDED | REG_NOSUB) != 0)
        return err_set(err, ERR_INPUT, "%s: '%s' is no regular expression", p->where, p->regex);
    bool any = false;
    enum status status = OK;
    for (int l = 0; status == OK && l < plan->n_layers; l++)
        for (int j = 0; status == OK && j < LINEAR_COUNT; j++) {
            char name[64];
            plan_name(l, (enum linear)j, name);
            if (regexec(&regex, name, 0, NULL, 0) != 0)
                continue;
            any = true;
            uint8_t *t = &taken[l * LINEAR_COUNT + j];
            if (!*t)
                status = set_linear(plan, config, p, l, j, err);
            *t = 1;
        }
    regfree(&regex);
    if (status == OK && !any)
        return err_set(err, ERR_INPUT, "%s: '%s' matches no linear (model.layers.0.self_attn.q_proj ...)", p->where, p->regex);
    return status;
}

enum status plan_apply_pattern(struct plan *plan, const struct model_config *config, enum plan_pattern kind, const char *patterns,
                               const char *where, struct err *err)
{
    uint8_t *taken = calloc((size_t)plan->n_layers * LINEAR_COUNT, 1);
    if (!taken)
        return err_set(err, ERR_MEMORY, "out of memory for %s", where);
    enum status status = OK;
    for (const char *rest = patterns; status == OK && *rest;) {
        struct pattern p = {.kind = kind, .where = where};
        status = next_pattern(&p, &rest, err);
        if (status == OK)
            status = apply(plan, config, &p, taken, err);
    }
    free(taken);
    return status;
}
