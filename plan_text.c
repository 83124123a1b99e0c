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

static enum status read_layer_word(const struct reading *r, struct plan_layer *p, char *word, char *value)
{
    double x;
    TRY(number(r, word, value, 1, 1 << 20, &x));
    size_t n = (size_t)(value - word - 1);
    int32_t *to = n == 5 && strncmp(word, "heads", n) == 0      ? &p->heads
                  : n == 8 && strncmp(word, "kv_heads", n) == 0 ? &p->kv_heads
                  : n == 3 && strncmp(word, "ffn", n) == 0      ? &p->ffn
                                                                : NULL;
    if (!to)
        return wrong(r, "want heads=, kv_heads= or ffn=, got", word);
    *to = (int32_t)x;
    return OK;
}

static enum status read_linear_word(const struct reading *r, struct plan_linear *p, char *word, char *value)
{
    double x;
    size_t n = (size_t)(value - word - 1);
    if (n == 6 && strncmp(word, "format", n) == 0) {
        if (format_parse(value, &p->format, r->err) != OK)
            return err_prefix(r->err, ERR_INPUT, "%s:%d", r->where, r->line);
        return OK;
    }
    if (n == 12 && strncmp(word, "double_quant", n) == 0) {
        p->double_quant = strcmp(value, "yes") == 0;
        return p->double_quant || strcmp(value, "no") == 0 ? OK : wrong(r, "want yes or no, got", word);
    }
    if (n == 5 && strncmp(word, "alpha", n) == 0) {
        TRY(number(r, word, value, 0, 1e6, &x));
        p->alpha = (float)x;
        return OK;
    }
    if (n == 4 && strncmp(word, "rank", n) == 0) {
        TRY(number(r, word, value, 0, 65536, &x));
        p->rank = (int32_t)x;
        return OK;
    }
    if (n == 5 && strncmp(word, "block", n) == 0) {
        TRY(number(r, word, value, 32, 4096, &x));
        p->block = (int32_t)x;
        return OK;
    }
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
    if (strncmp(name, "use_rslora=", 11) == 0) {
        r->plan->use_rslora = strcmp(name + 11, "yes") == 0;
        return OK;
    }
    int layer = 0, linear = -1;
    TRY(read_name(r, name, &layer, &linear));
    struct plan_layer *p = &r->plan->layer[layer];
    for (char *word; (word = strtok_r(NULL, " \t\r", &save));) {
        char *equals = strchr(word, '=');
        if (!equals)
            return wrong(r, "want key=value, got", word);
        if (linear < 0)
            TRY(read_layer_word(r, p, word, equals + 1));
        else
            TRY(read_linear_word(r, &p->linear[linear], word, equals + 1));
    }
    return OK;
}

/* What single lines cannot say: whole heads, shapes that can take their formats, ranks below the sides. */
static enum status check(const struct reading *r)
{
    for (int l = 0; l < r->plan->n_layers; l++) {
        const struct plan_layer *p = &r->plan->layer[l];
        if (p->heads % p->kv_heads != 0)
            return err_set(r->err, ERR_INPUT, "%s: model.layers.%d: heads=%d is no multiple of kv_heads=%d", r->where, l, p->heads,
                           p->kv_heads);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *q = &p->linear[j];
            size_t out, in;
            char name[64];
            plan_shape(r->plan, r->config, l, (enum linear)j, &out, &in);
            plan_name(l, (enum linear)j, name);
            if (quant_check(q->format, q->block, out, in, r->err) != OK)
                return err_prefix(r->err, ERR_INPUT, "%s: %s", r->where, name);
            if ((size_t)q->rank > (out < in ? out : in))
                return err_set(r->err, ERR_INPUT, "%s: %s: rank=%d, want at most %zu", r->where, name, q->rank, out < in ? out : in);
        }
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
