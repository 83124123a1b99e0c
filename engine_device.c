/* engine_device.c: what lies in a GPU's memory while a configuration is fine-tuned and scored there, counted by the code that places it: no GPU is asked.
 *
 * The host's memory plan (engine_memory.c) stands beside it: the base is loaded, scored and pruned there, and every linear is written in every format. */
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "engine.h"

bool engine_on_device(const struct config *config)
{
    return strcmp(config->device, "cuda") == 0;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- the model ---- */

/* Every linear in the largest of its formats, where there is room for any configuration, or in the smallest. */
static enum status choose_formats(const struct engine *engine, bool largest, struct plan *plan)
{
    const struct trials *t = &engine->trials;
    uint8_t *level = calloc(t->n_variables, sizeof *level);
    enum status status = level ? plan_copy(plan, &t->plan, engine->err) : err_set(engine->err, ERR_MEMORY, "out of memory for a plan");
    for (size_t i = 0; status == OK && i < t->n_linears; i++) {
        struct plan_linear *chosen = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT], p = *chosen;
        size_t out, in, bytes = 0;
        plan_shape(plan, &engine->shape, (int)(i / LINEAR_COUNT), (enum linear)(i % LINEAR_COUNT), &out, &in);
        for (size_t f = 0; f < t->n_levels; f++) {
            memset(level, (int)f, t->n_variables);
            trials_set_format(t, i, t->format[trials_format(t, i, level)], &p);
            size_t n = quant_bytes(p.format, p.block, p.double_quant, out, in);
            if (f > 0 && largest != (n > bytes))
                continue;
            *chosen = p;
            bytes = n;
        }
    }
    free(level);
    return status;
}

/* An arena of the device: tables that the host reads go elsewhere. */
struct count {
    struct arena tables, arena;
};

static enum status count_run(const struct engine *engine, const struct model *model, bool keep, size_t *bytes)
{
    struct count count = {.arena = {.tables = &count.tables}};
    struct model_run run = engine_run_of(engine, keep);
    TRY(model_run_place(&run, model, NULL, &count.arena, engine->err));
    *bytes = most(*bytes, count.arena.used);
    return OK;
}

/* The model's weights, placed nowhere. */
static enum status shape_model(const struct engine *engine, bool largest, const struct model_stored *held, struct model *model, size_t *bytes)
{
    struct count count = {.arena = {.tables = &count.tables}};
    struct plan plan = {0};
    enum status status = choose_formats(engine, largest, &plan);
    if (status == OK)
        status = model_shape(model, &engine->shape, &plan, engine->err);
    plan_free(&plan);
    TRY(status);
    model_place_head(model, held->embed, held->head, &count.arena);
    *bytes = count.arena.used;
    return OK;
}

/* auto is what is fast there, whatever this CPU has. */
static enum compute device_compute(const struct config *config)
{
    return strcmp(config->compute_dtype, "f32") == 0 ? COMPUTE_F32 : COMPUTE_BF16;
}

static enum status count_training(const struct engine *engine, const struct model *model, struct device_plan *d)
{
    struct count adapters = {.arena = {.tables = &adapters.tables}};
    struct ops_context c = {.compute = device_compute(engine->config)};
    struct lora lora = {0};
    lora_place(&lora, &model->plan, &engine->shape, true, &adapters.arena);
    d->adapters = most(d->adapters, adapters.arena.used);
    d->scratch = most(d->scratch, model_device_scratch(model, &c, engine_run_of(engine, true).max_n) * sizeof(real));
    TRY(count_run(engine, model, true, &d->kept));
    return count_run(engine, model, false, &d->recomputed);
}

enum status engine_count_device(struct engine *engine, const struct model_stored *held)
{
    struct device_plan *d = &engine->memory.device;
    struct model model = {0};
    size_t weights, smallest;
    if (!engine_on_device(engine->config))
        return OK;
    TRY(shape_model(engine, false, held, &model, &smallest));
    model_free(&model);
    enum status status = shape_model(engine, true, held, &model, &weights);
    if (status == OK)
        status = count_training(engine, &model, d);
    model_free(&model);
    d->own = device_own_bytes();
    d->weights = most(d->weights, weights);
    d->smallest = d->smallest && d->smallest < smallest ? d->smallest : smallest;
    return status;
}

size_t engine_device_peak(struct engine *engine)
{
    struct device_plan *d = &engine->memory.device;
    d->activations = engine->memory.keep_activations ? d->kept : d->recomputed;
    d->peak = d->weights + d->adapters + d->activations + d->scratch + d->own;
    return d->peak;
}

/* ---- in words ---- */

static void print_row(struct text *out, const char *name, size_t bytes, const char *what)
{
    text_printf(out, "%-16s %14zu  %s\n", name, bytes, what);
}

void engine_print_device(const struct engine *engine, struct text *out)
{
    const struct device_plan *d = &engine->memory.device;
    if (!engine_on_device(engine->config))
        return;
    text_printf(out, "\non the device in bytes, for batches of up to %zu tokens\n", engine_run_of(engine, false).max_n);
    text_printf(out, "%-16s %14zu  as they are stored, every linear in the largest of its formats; in the smallest %zu\n", "weights", d->weights, d->smallest);
    print_row(out, "adapters", d->adapters, "with gradients and moments");
    print_row(out, "activations", d->activations, engine->memory.keep_activations ? "kept for backward" : "recomputed in backward");
    print_row(out, "scratch", d->scratch, "of the kernels: a decoded matrix, factors in bf16, a chunk of logits");
    print_row(out, "own", d->own, "cuBLAS's workspace, tables of the formats");
    print_row(out, "peak", d->peak, "all of it at one time; the driver takes some hundred MB beside it");
}
