/* engine_device.c: what lies in a GPU's memory, stage after stage, counted by the code that places it: no GPU is asked.
 *
 * The host's memory plan (engine_memory.c) stands beside it: there the base is loaded and cut, every linear is written in every format, and adapters start. */
#include <string.h>

#include "base/size.h"
#include "cuda/device.h"
#include "engine.h"
#include "export.h"

bool engine_on_device(const struct engine *engine)
{
    return engine->ops.device || (engine->planning && strcmp(engine->config->device, "cuda") == 0);
}

/* The host decodes linears into F32; cutting units changes no number of them. */
enum format engine_floats(const struct engine *engine)
{
    const struct plan *stored = &engine->stored.plan;
    enum format first = stored->n_layers ? stored->layer[0].linear[0].format : FORMAT_F32;
    for (int i = 0; i < stored->n_layers * LINEAR_COUNT; i++)
        if (stored->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].format != first)
            return FORMAT_F32;
    return first == FORMAT_BF16 || first == FORMAT_F16 ? first : FORMAT_F32;
}

/* ---- a pruned model and its trials ---- */

/* model.gguf beside the pick, each matrix as export_gguf stores it (linears of the widest formats, merged or not). */
static enum status count_gguf(struct engine *engine, const struct model *pruned, size_t *bytes)
{
    struct model view;
    struct arena tables = {0}, count = {.tables = &tables};
    TRY(model_shape(&view, &engine->shape, &engine->trials.widest, engine->err));
    model_place_head(&view, pruned->embed.format, pruned->head.format, &count);
    for (int i = 0; i < view.plan.n_layers * LINEAR_COUNT; i++) {
        struct qmat *q = &view.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        *q = (struct qmat){.format = export_gguf_merged_format(q), .rows = q->rows, .cols = q->cols};
    }
    enum status status = model_mirror_bytes(&view, NULL, FORMAT_F32, bytes, engine->err);
    *bytes += evaluate_divergence_bytes(&view, (size_t)engine->dataset.longest);
    model_free(&view);
    return status;
}

/* Linears in the smallest of their formats: what a configuration takes at least. */
static enum status count_smallest(struct engine *engine, const struct model *pruned, size_t *bytes)
{
    struct plan plan = {0};
    TRY(trials_formats_by_room(&engine->trials, &engine->shape, false, &plan, engine->err));
    enum status status = model_mirror_bytes(pruned, &plan, FORMAT_F32, bytes, engine->err);
    plan_free(&plan);
    return status;
}

enum status engine_count_device(struct engine *engine, const struct model *pruned, size_t reference)
{
    struct device_plan *d = &engine->memory.device;
    size_t weights, smallest, whole = 0, gguf = 0;
    bool prunes = engine->n_ratios ? engine_ratio(engine) > 0 : engine_prunes(engine->config);
    TRY(model_mirror_bytes(pruned, &engine->trials.widest, FORMAT_F32, &weights, engine->err));
    TRY(count_smallest(engine, pruned, &smallest));
    if (reference || (prunes && engine->tasks.n))
        TRY(model_mirror_bytes(pruned, NULL, engine_floats(engine), &whole, engine->err));
    if (config_list_has(engine->config->export_formats, "gguf") && engine_has_weights(engine))
        TRY(count_gguf(engine, pruned, &gguf));
    d->weights = size_max(d->weights, weights);
    d->smallest = d->smallest && d->smallest < smallest ? d->smallest : smallest;
    d->adapters = size_max(d->adapters, model_mirror_adapter_bytes(&engine->trials.lora));
    d->unquantized = size_max(d->unquantized, whole);
    d->reference = size_max(d->reference, reference);
    d->gguf = size_max(d->gguf, gguf);
    return OK;
}

/* ---- the base, and what all stages share ---- */

static enum status count_run(const struct engine *engine, const struct model *model, struct model_run run, size_t *bytes)
{
    struct arena tables = {0}, count = {.tables = &tables};
    TRY(model_run_place(&run, model, NULL, &count, engine->err));
    *bytes = count.used;
    return OK;
}

static enum status count_runs(const struct engine *engine, const struct model *model, bool keep, struct device_run *d)
{
    struct ops_context exact = {.compute = COMPUTE_F32};
    struct model_run run = engine_measuring_run(engine, keep);
    run.ops = &exact;
    TRY(count_run(engine, model, engine_run_of(engine, keep), &d->tuning));
    return engine_measures(engine) ? count_run(engine, model, run, &d->measuring) : OK;
}

size_t engine_device_scratch(const struct engine *engine, const struct model *base, struct ops_context *c)
{
    struct ops_context exact = *c;
    size_t n = model_device_scratch(base, c, engine_run_of(engine, true).max_n);
    exact.compute = COMPUTE_F32;
    if (engine_measures(engine))
        n = size_max(n, model_device_scratch(base, &exact, engine_measuring_run(engine, true).max_n));
    c->shared_n = n;
    return n;
}

enum status engine_count_device_base(struct engine *engine, const struct model *base, size_t importance, size_t answers)
{
    struct device_plan *d = &engine->memory.device;
    struct ops_context c = {.compute = engine->ops.compute};
    if (engine->tasks.n || engine_measures(engine))
        TRY(model_mirror_bytes(base, NULL, engine_floats(engine), &d->base, engine->err));
    d->importance = importance;
    d->answers = answers;
    d->scratch = engine_device_scratch(engine, base, &c) * sizeof(real);
    d->own = device_own_bytes();
    TRY(count_runs(engine, base, true, &d->kept));
    return count_runs(engine, base, false, &d->recomputed);
}

/* Stages: the base scored and measured; the pruned model unquantized, as it is scored and becomes the reference; trials; the pick beside its GGUF. */
static size_t pruning_stage(const struct device_plan *d, size_t importance)
{
    return d->base + size_max(importance ? importance + d->activations.measuring : 0, d->answers + d->activations.tuning);
}

static size_t trial_stage(const struct device_plan *d)
{
    size_t trial = d->weights + size_max(d->answers, d->gguf);
    return d->adapters + d->reference + d->activations.tuning + size_max(trial, d->unquantized ? d->unquantized + d->answers : 0);
}

static size_t peak_with(const struct device_plan *d, size_t importance)
{
    return size_max(pruning_stage(d, importance), trial_stage(d)) + d->scratch + d->own;
}

size_t engine_device_peak(struct engine *engine)
{
    struct device_plan *d = &engine->memory.device;
    d->activations = engine->memory.keep_activations ? d->kept : d->recomputed;
    d->peak = peak_with(d, d->importance);
    return d->peak;
}

enum status engine_device_room(const struct engine *engine, double *bytes)
{
    size_t total, available;
    TRY(device_memory(engine->ops.device, &total, &available, engine->err));
    *bytes = (double)(available + device_own_bytes()); /* which it has taken already */
    return OK;
}

enum status engine_check_device(const struct engine *engine)
{
    const struct device_plan *d = &engine->memory.device;
    double room;
    if (!engine->ops.device)
        return OK;
    TRY(engine_device_room(engine, &room));
    if ((double)d->peak <= room)
        return OK;
    bool gradients = d->importance > 0 && (double)peak_with(d, 0) <= room;
    return err_set(engine->err, ERR_MEMORY, "the plan takes %.1f MB on the device, the GPU %s has %.1f MB free: want %s, or device = cpu", (double)d->peak / 1e6,
                   device_name(engine->ops.device), room / 1e6,
                   gradients ? "pruner_type = l1, which needs no gradients" : "a smaller micro_batch_size or max_seq_len, gradient_checkpointing = yes, smaller quant_types");
}

/* ---- in words ---- */

static void print_row(struct text *out, const char *name, size_t bytes, const char *what)
{
    if (bytes > 0)
        text_printf(out, "%-16s %14zu  %s\n", name, bytes, what);
}

void engine_print_device(const struct engine *engine, struct text *out)
{
    const struct device_plan *d = &engine->memory.device;
    if (!engine_on_device(engine))
        return;
    text_printf(out, "\non the device in bytes, for batches of up to %zu tokens\n", engine_run_of(engine, false).max_n);
    text_printf(out, "%-16s %14zu  as they are stored, every linear in the largest of its formats; in the smallest %zu\n", "weights", d->weights, d->smallest);
    print_row(out, "adapters", d->adapters, "with gradients and moments");
    print_row(out, "activations", d->activations.tuning, engine->memory.keep_activations ? "kept for backward" : "recomputed in backward");
    print_row(out, "scratch", d->scratch, "of the kernels: a decoded matrix, factors in bf16, a chunk of logits");
    print_row(out, "own", d->own, "cuBLAS's workspace, tables of the formats");
    print_row(out, "base", d->base, "the model as it is stored, while it is scored and its importance measured");
    print_row(out, "importance", d->importance, "gradients and what calibration keeps, until it is pruned");
    print_row(out, "measuring", d->activations.measuring, "activations in f32 meanwhile, in the place of the others");
    print_row(out, "unquantized", d->unquantized, "a pruned model before it is quantized, while it is scored or becomes the reference");
    print_row(out, "reference", d->reference, "its hidden states on the held-out text");
    print_row(out, "answers", d->answers, "keys, values and activations of the longest answer that a task has written");
    print_row(out, "comparison", d->gguf, "model.gguf beside the pick, at the end");
    print_row(out, "tuning", d->weights + d->adapters + d->activations.tuning + d->scratch + d->own, "the first five together: what a trial's fine-tuning takes");
    print_row(out, "peak", d->peak, "the most that lies there at one time; the driver takes some hundred MB beside it");
}
