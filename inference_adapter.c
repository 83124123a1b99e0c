/* inference_adapter.c: reading a PEFT adapter folder. */
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "inference.h"
#include "io/json.h"
#include "io/safetensors.h"

struct peft {
    const struct json *root;
    char where[512];
    int64_t r;
    double alpha;
    struct err *err;
};

/* PEFT tries the keys of a pattern in order as ^(.*\.)?(KEY)$ on the module path; the first that matches counts. */
static enum status from_pattern(const struct peft *p, const char *pattern, const char *module, double *value)
{
    const struct json *map;
    TRY(json_object_or(p->root, pattern, p->where, &map, p->err));
    for (const struct json *item = map ? json_first(map) : NULL; item; item = json_next(item)) {
        regex_t regex;
        char expression[512];
        int n = snprintf(expression, sizeof expression, "^(.*\\.)?(%s)$", json_key(item));
        if (n >= (int)sizeof expression || regcomp(&regex, expression, REG_EXTENDED | REG_NOSUB) != 0)
            return err_set(p->err, ERR_INPUT, "%s.%s: '%s' is no regular expression", p->where, pattern, json_key(item));
        bool match = regexec(&regex, module, 0, NULL, 0) == 0;
        regfree(&regex);
        if (match)
            return json_as_number(item, p->where, value, p->err);
    }
    return OK;
}

/* A list names leaves or ends of paths; a string is a regular expression for the whole path, "all-linear" everything. */
static enum status is_target(const struct peft *p, const char *module, bool *yes)
{
    const struct json *targets = json_member(p->root, "target_modules");
    *yes = false;
    if (targets && json_type(targets) == JSON_STRING) {
        const char *s;
        regex_t regex;
        char expression[512];
        TRY(json_as_string(targets, p->where, &s, p->err));
        *yes = strcmp(s, "all-linear") == 0;
        snprintf(expression, sizeof expression, "^(%s)$", s);
        if (*yes || regcomp(&regex, expression, REG_EXTENDED | REG_NOSUB) != 0)
            return OK;
        *yes = regexec(&regex, module, 0, NULL, 0) == 0;
        regfree(&regex);
        return OK;
    }
    const struct json *list;
    TRY(json_array(p->root, "target_modules", p->where, &list, p->err));
    for (const struct json *item = json_first(list); item && !*yes; item = json_next(item)) {
        const char *s;
        TRY(json_as_string(item, p->where, &s, p->err));
        size_t n = strlen(s), m = strlen(module);
        *yes = strcmp(s, module) == 0 || (n < m && module[m - n - 1] == '.' && strcmp(module + m - n, s) == 0);
    }
    return OK;
}

static enum status refuse(const struct peft *p)
{
    bool dora;
    const char *type, *bias;
    const struct json *saved = json_member(p->root, "modules_to_save");
    TRY(json_string(p->root, "peft_type", p->where, &type, p->err));
    TRY(json_bool_or(p->root, "use_dora", p->where, false, &dora, p->err));
    TRY(json_string_or(p->root, "bias", p->where, "none", &bias, p->err));
    if (strcmp(type, "LORA") != 0)
        return err_set(p->err, ERR_INPUT, "%s.peft_type: '%s', want LORA", p->where, type);
    if (dora)
        return err_set(p->err, ERR_INPUT, "%s.use_dora: DoRA adapters are not read, merge it with PEFT first", p->where);
    if (strcmp(bias, "none") != 0)
        return err_set(p->err, ERR_INPUT, "%s.bias: '%s', want none", p->where, bias);
    if (saved && json_type(saved) == JSON_ARRAY && json_size(saved) > 0)
        return err_set(p->err, ERR_INPUT, "%s.modules_to_save: full copies of modules are not read", p->where);
    return OK;
}

static enum status set_ranks(const struct peft *p, struct plan *plan, const struct model_config *config)
{
    TRY(json_bool_or(p->root, "use_rslora", p->where, false, &plan->use_rslora, p->err));
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *q = &plan->layer[l].linear[j];
            char module[64];
            bool target;
            double rank = (double)p->r, alpha = p->alpha;
            size_t out, in;
            plan_name(l, (enum linear)j, module);
            plan_shape(plan, config, l, (enum linear)j, &out, &in);
            TRY(is_target(p, module, &target));
            TRY(from_pattern(p, "rank_pattern", module, &rank));
            TRY(from_pattern(p, "alpha_pattern", module, &alpha));
            if (!(rank >= 1 && rank <= 65536 && rank == floor(rank)))
                return err_set(p->err, ERR_INPUT, "%s: rank %g of %s, want 1 to 65536", p->where, rank, module);
            q->rank = target ? (int32_t)rank : 0;
            q->alpha = (float)alpha;
        }
    return OK;
}

enum status adapter_read_plan(struct plan *plan, const struct model_config *config, const char *dir, struct err *err)
{
    struct peft p = {.err = err};
    char *path = path_join(dir, "adapter_config.json"), *text = NULL;
    size_t n = 0;
    struct json *root = NULL;
    enum status status = path ? file_read(path, 1 << 24, &text, &n, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK) {
        snprintf(p.where, sizeof p.where, "%s", path);
        status = json_parse(text, n, p.where, &root, err);
    }
    p.root = root;
    if (status == OK)
        status = refuse(&p);
    if (status == OK)
        status = json_int_or(root, "r", p.where, 1, 65536, 8, &p.r, err);
    if (status == OK)
        status = json_number_or(root, "lora_alpha", p.where, 8, &p.alpha, err);
    if (status == OK)
        status = set_ranks(&p, plan, config);
    json_free(root);
    free(text);
    free(path);
    return status;
}

static enum status read_side(const struct safetensors *st, const char *module, char side, real *to, size_t rows, size_t cols, const char *path,
                             struct err *err)
{
    char name[128];
    snprintf(name, sizeof name, "base_model.model.%s.lora_%c.weight", module, side);
    const struct st_tensor *t = safetensors_find(st, name);
    if (!t)
        return err_set(err, ERR_INPUT, "%s: tensor %s is missing", path, name);
    if (t->n_dims != 2 || t->dim[0] != rows || t->dim[1] != cols) {
        char shape[128];
        st_shape_text(t, shape);
        return err_set(err, ERR_INPUT, "%s: %s has shape %s, want [%zu, %zu]", path, name, shape, rows, cols);
    }
    TRY(safetensors_read_real(st, t, 0, rows * cols, to, err));
    for (size_t i = 0; i < rows * cols; i++)
        if (!isfinite(to[i]))
            return err_set(err, ERR_INPUT, "%s: %s[%zu, %zu] is not finite", path, name, i / cols, i % cols);
    return OK;
}

enum status adapter_read_weights(struct lora *lora, const char *dir, struct err *err)
{
    struct safetensors st = {0};
    char *path = path_join(dir, "adapter_model.safetensors");
    enum status status = path ? safetensors_open(&st, path, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    for (int l = 0; status == OK && l < lora->n_layers; l++)
        for (int j = 0; status == OK && j < LINEAR_COUNT; j++) {
            struct adapter *a = &lora->adapter[l][j];
            char module[64];
            plan_name(l, (enum linear)j, module);
            if (a->r == 0)
                continue;
            status = read_side(&st, module, 'A', a->A, (size_t)a->r, a->in, path, err);
            if (status == OK)
                status = read_side(&st, module, 'B', a->B, a->out, (size_t)a->r, path, err);
        }
    safetensors_close(&st);
    free(path);
    return status;
}
