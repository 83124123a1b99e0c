/* plan_text.c: a plan as text, one line a layer and one a linear, and back. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"

void plan_print(const struct plan *plan, struct text *out)
{
    text_printf(out, "use_rslora=%s\n", plan->use_rslora ? "yes" : "no");
    for (int l = 0; l < plan->n_layers; l++) {
        const struct plan_layer *p = &plan->layer[l];
        text_printf(out, "model.layers.%d heads=%d kv_heads=%d ffn=%d\n", l, p->heads, p->kv_heads, p->ffn);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *q = &p->linear[j];
            char name[64];
            plan_name(l, (enum linear)j, name);
            text_printf(out, "%s format=%s", name, format_info(q->format)->name);
            if (q->block)
                text_printf(out, " block=%d", q->block);
            if (q->double_quant)
                text_puts(out, " double_quant=yes");
            if (q->rank)
                text_printf(out, " rank=%d alpha=%.9g", q->rank, (double)q->alpha);
            text_puts(out, "\n");
        }
    }
}

/* ---- reading ---- */

struct reading {
    struct plan *plan;
    const struct model_config *config;
    const char *where;
    int line;
    struct err *err;
};

static enum status wrong(const struct reading *r, const char *what, const char *word)
{
    return err_set(r->err, ERR_INPUT, "%s:%d: %s '%s'", r->where, r->line, what, word);
}

static enum status number(const struct reading *r, const char *word, const char *value, double low, double high, double *out)
{
    char *end;
    *out = strtod(value, &end);
    if (end == value || *end || !(*out >= low && *out <= high))
        return err_set(r->err, ERR_INPUT, "%s:%d: '%s', want a number from %g to %g", r->where, r->line, word, low, high);
    return OK;
}

static enum status integer(const struct reading *r, const char *word, const char *value, int32_t low, int32_t high, int32_t *out)
{
    char *end;
    long x = strtol(value, &end, 10);
    if (end == value || *end || x < low || x > high)
        return err_set(r->err, ERR_INPUT, "%s:%d: '%s', want an integer from %d to %d", r->where, r->line, word, low, high);
    *out = (int32_t)x;
    return OK;
}

static bool is_key(const char *word, const char *value, const char *key)
{
    size_t n = (size_t)(value - word - 1);
    return strlen(key) == n && strncmp(word, key, n) == 0;
}

/* Widths of a layer never grow: 1 to what the model has. */
static enum status read_layer_word(const struct reading *r, int l, char *word, char *value)
{
    const struct model_config *c = r->config;
    struct plan_layer *p = &r->plan->layer[l];
    if (is_key(word, value, "heads"))
        return integer(r, word, value, 1, c->num_attention_heads[l], &p->heads);
    if (is_key(word, value, "kv_heads"))
        return integer(r, word, value, 1, c->num_key_value_heads[l], &p->kv_heads);
    if (is_key(word, value, "ffn"))
        return integer(r, word, value, 1, c->intermediate_size[l], &p->ffn);
    return wrong(r, "want heads=, kv_heads= or ffn=, got", word);
}

static enum status read_flag(const struct reading *r, const char *word, const char *value, bool *flag)
{
    *flag = strcmp(value, "yes") == 0;
    return *flag || strcmp(value, "no") == 0 ? OK : wrong(r, "want yes or no, got", word);
}

static enum status read_linear_word(const struct reading *r, struct plan_linear *p, char *word, char *value)
{
    if (is_key(word, value, "format")) {
        if (format_parse(value, &p->format, r->err) != OK)
            return err_prefix(r->err, ERR_INPUT, "%s:%d", r->where, r->line);
        return OK;
    }
    if (is_key(word, value, "double_quant"))
        return read_flag(r, word, value, &p->double_quant);
    if (is_key(word, value, "alpha")) {
        double x;
        TRY(number(r, word, value, 0, 1e6, &x));
        p->alpha = (float)x;
        return OK;
    }
    if (is_key(word, value, "rank"))
        return integer(r, word, value, 0, 65536, &p->rank);
    if (is_key(word, value, "block"))
        return integer(r, word, value, 32, 4096, &p->block);
    return wrong(r, "want format=, block=, double_quant=, rank= or alpha=, got", word);
}

/* "model.layers.3" or "model.layers.3.mlp.down_proj"; *linear is -1 for a layer. */
static enum status read_name(const struct reading *r, const char *name, int *layer, int *linear)
{
    static const char prefix[] = "model.layers.";
    char *end = NULL;
    long l = strncmp(name, prefix, sizeof prefix - 1) == 0 ? strtol(name + sizeof prefix - 1, &end, 10) : -1;
    if (!end || end == name + sizeof prefix - 1 || (*end && *end != '.'))
        return wrong(r, "want a name such as model.layers.0 or model.layers.0.mlp.up_proj, got", name);
    if (l < 0 || l >= r->plan->n_layers)
        return err_set(r->err, ERR_INPUT, "%s:%d: '%s', the model has layers 0 to %d", r->where, r->line, name, r->plan->n_layers - 1);
    *layer = (int)l;
    *linear = -1;
    for (int j = 0; *end && j < LINEAR_COUNT; j++)
        if (strcmp(end + 1, linear_name[j]) == 0)
            *linear = j;
    return *end && *linear < 0 ? wrong(r, "no linear is called", name) : OK;
}

static enum status read_line(const struct reading *r, char *line)
{
    char *save, *name = strtok_r(line, " \t\r", &save);
    if (!name || *name == '#')
        return OK;
    if (strncmp(name, "use_rslora=", 11) == 0)
        return read_flag(r, name, name + 11, &r->plan->use_rslora);
    int layer = 0, linear = -1;
    TRY(read_name(r, name, &layer, &linear));
    for (char *word; (word = strtok_r(NULL, " \t\r", &save));) {
        char *equals = strchr(word, '=');
        if (!equals)
            return wrong(r, "want key=value, got", word);
        if (linear < 0)
            TRY(read_layer_word(r, layer, word, equals + 1));
        else
            TRY(read_linear_word(r, &r->plan->layer[layer].linear[linear], word, equals + 1));
    }
    return OK;
}

/* What single words cannot say: whether the shape can take the format, whether the rank is below both sides. */
static enum status check_linear(const struct reading *r, int l, enum linear j)
{
    const struct plan_linear *q = &r->plan->layer[l].linear[j];
    size_t out, in;
    char name[64];
    plan_shape(r->plan, r->config, l, j, &out, &in);
    plan_name(l, j, name);
    if (quant_check_shape(q->format, q->block, out, in, r->err) != OK)
        return err_prefix(r->err, ERR_INPUT, "%s: %s", r->where, name);
    if (q->double_quant && !format_info(q->format)->double_quant)
        return err_set(r->err, ERR_INPUT, "%s: %s: %s has no double quantization", r->where, name, format_info(q->format)->name);
    if ((size_t)q->rank > (out < in ? out : in))
        return err_set(r->err, ERR_INPUT, "%s: %s: rank=%d, want at most %zu (the smaller side of the matrix)", r->where, name, q->rank,
                       out < in ? out : in);
    return OK;
}

static enum status check(const struct reading *r)
{
    for (int l = 0; l < r->plan->n_layers; l++) {
        const struct plan_layer *p = &r->plan->layer[l];
        if (p->heads % p->kv_heads != 0)
            return err_set(r->err, ERR_INPUT, "%s: model.layers.%d: heads=%d is no multiple of kv_heads=%d", r->where, l, p->heads,
                           p->kv_heads);
        for (int j = 0; j < LINEAR_COUNT; j++)
            TRY(check_linear(r, l, (enum linear)j));
    }
    return OK;
}

enum status plan_parse(struct plan *plan, const struct model_config *config, const char *text, const char *where, struct err *err)
{
    TRY(plan_new(plan, config, FORMAT_F32, err));
    struct reading r = {.plan = plan, .config = config, .where = where, .err = err};
    char *copy = strdup(text);
    enum status status = copy ? OK : err_set(err, ERR_MEMORY, "out of memory for a plan");
    for (char *line = copy, *next; status == OK && line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        r.line++;
        status = read_line(&r, line);
    }
    free(copy);
    if (status == OK)
        status = check(&r);
    if (status != OK)
        plan_free(plan);
    return status;
}
