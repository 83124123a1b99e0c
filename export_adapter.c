/* export_adapter.c: a folder that PEFT loads: adapter_config.json and adapter_model.safetensors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "export.h"
#include "io/safetensors.h"

/* ---- weights ---- */

struct names {
    char (*name)[112];
    struct st_item *item;
    size_t n;
};

static void add(struct names *names, const char *module, const char *side, size_t rows, size_t cols, const real *data)
{
    snprintf(names->name[names->n], sizeof *names->name, "base_model.model.%s.lora_%s.weight", module, side);
    names->item[names->n] = (struct st_item){.name = names->name[names->n], .dtype = sizeof(real) == 4 ? ST_F32 : ST_F64, .n_dims = 2,
                                             .dim = {rows, cols}, .data = data};
    names->n++;
}

static enum status write_weights(const char *path, const struct lora *lora, struct err *err)
{
    size_t most = (size_t)lora->n_layers * LINEAR_COUNT * 2;
    struct names names = {.name = calloc(most, sizeof *names.name), .item = calloc(most, sizeof *names.item)};
    enum status status = names.name && names.item ? OK : err_set(err, ERR_MEMORY, "out of memory for an adapter");
    for (int l = 0; status == OK && l < lora->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *a = &lora->adapter[l][j];
            char module[64];
            plan_name(l, (enum linear)j, module);
            if (a->r == 0)
                continue;
            add(&names, module, "A", (size_t)a->r, a->in, a->A);
            add(&names, module, "B", a->out, (size_t)a->r, a->B);
        }
    if (status == OK)
        status = safetensors_write(path, names.item, names.n, NULL, NULL, NULL, err);
    free(names.name);
    free(names.item);
    return status;
}

/* ---- configuration ---- */

/* Rank and alpha that most adapters have; the others go into the patterns. */
static void most_common(const struct plan *plan, int32_t *rank, float *alpha)
{
    int best = 0;
    *rank = 8;
    *alpha = 16;
    for (int i = 0; i < plan->n_layers * LINEAR_COUNT; i++) {
        const struct plan_linear *p = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        int count = 0;
        for (int k = 0; p->rank && k < plan->n_layers * LINEAR_COUNT; k++) {
            const struct plan_linear *q = &plan->layer[k / LINEAR_COUNT].linear[k % LINEAR_COUNT];
            count += q->rank == p->rank && q->alpha == p->alpha;
        }
        if (count > best) {
            best = count;
            *rank = p->rank;
            *alpha = p->alpha;
        }
    }
}

static void print_patterns(const struct plan *plan, int32_t rank, float alpha, struct text *out)
{
    for (int pass = 0; pass < 2; pass++) {
        const char *comma = "";
        text_printf(out, "  \"%s\": {", pass ? "alpha_pattern" : "rank_pattern");
        for (int i = 0; i < plan->n_layers * LINEAR_COUNT; i++) {
            const struct plan_linear *p = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
            char name[64];
            plan_name(i / LINEAR_COUNT, (enum linear)(i % LINEAR_COUNT), name);
            if (p->rank && (pass ? p->alpha != alpha : p->rank != rank)) {
                text_printf(out, "%s\n    \"%s\": %.9g", comma, name, pass ? (double)p->alpha : (double)p->rank);
                comma = ",";
            }
        }
        text_puts(out, *comma ? "\n  },\n" : "},\n");
    }
}

/* Leaf names when every layer has the same ones, else full names. */
static void print_targets(const struct plan *plan, struct text *out)
{
    const char *comma = "";
    bool same = true;
    for (int i = 0; i < plan->n_layers * LINEAR_COUNT; i++)
        same = same && (plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].rank > 0) ==
                           (plan->layer[0].linear[i % LINEAR_COUNT].rank > 0);
    text_puts(out, "  \"target_modules\": [");
    for (int i = 0; i < (same ? LINEAR_COUNT : plan->n_layers * LINEAR_COUNT); i++) {
        char name[64];
        if (plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].rank == 0)
            continue;
        plan_name(i / LINEAR_COUNT, (enum linear)(i % LINEAR_COUNT), name);
        text_printf(out, "%s\"%s\"", comma, same ? strrchr(name, '.') + 1 : name);
        comma = ", ";
    }
    text_puts(out, "],\n");
}

static void print_config(const struct lora *lora, const struct plan *plan, const char *base, struct text *out)
{
    int32_t rank;
    float alpha;
    most_common(plan, &rank, &alpha);
    text_puts(out, "{\n");
    print_patterns(plan, rank, alpha, out);
    text_puts(out, "  \"base_model_name_or_path\": ");
    if (base)
        text_json_string(out, base, strlen(base));
    else
        text_puts(out, "null");
    text_puts(out, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n");
    text_puts(out, "  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n");
    text_printf(out, "  \"lora_alpha\": %.9g,\n  \"lora_dropout\": %.9g,\n  \"modules_to_save\": null,\n", (double)alpha, (double)lora->dropout);
    text_printf(out, "  \"peft_type\": \"LORA\",\n  \"r\": %d,\n", rank);
    print_targets(plan, out);
    text_printf(out, "  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": %s\n}\n", plan->use_rslora ? "true" : "false");
}

enum status export_adapter(const char *dir, const struct lora *lora, const struct plan *plan, const char *base, struct err *err)
{
    struct text text = {0};
    TRY(dir_make(dir, err));
    char *weights = path_join(dir, "adapter_model.safetensors"), *config = path_join(dir, "adapter_config.json");
    enum status status = weights && config ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    print_config(lora, plan, base, &text);
    if (status == OK && text.failed)
        status = err_set(err, ERR_MEMORY, "out of memory for adapter_config.json");
    if (status == OK)
        status = write_weights(weights, lora, err);
    if (status == OK)
        status = file_write(config, text.s, text.n, err);
    text_free(&text);
    free(weights);
    free(config);
    return status;
}
