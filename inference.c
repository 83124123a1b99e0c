/* inference.c: opening a model for use. */
#include "inference.h"

#include <string.h>

#include "base/linalg.h"
#include "base/log.h"
#include "cuda/device.h"

/* Whether a matrix stays in the format that it is stored in. */
static bool stays(const struct inference_options *o, enum format stored)
{
    return !o->decode || (o->keep_blocks && format_is_ggml(stored));
}

static enum status make_plan(struct inference *in, const struct inference_options *o, struct model_stored *stored, struct err *err)
{
    const struct model_config *config = checkpoint_config(in->checkpoint);
    bool planned = checkpoint_plan_text(in->checkpoint);
    TRY(model_stored_formats(stored, in->checkpoint, err));
    in->plan = stored->plan;
    for (int l = 0; l < in->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *p = &in->plan.layer[l].linear[j];
            if (!planned && !stays(o, p->format))
                *p = (struct plan_linear){.format = FORMAT_F32};
            p->rank = 0; /* ranks are the adapter's, whatever the plan was made with */
        }
    return o->adapter ? adapter_read_plan(&in->plan, config, o->adapter, err) : OK;
}

static enum status load_weights(struct inference *in, const struct inference_options *o, const struct model_stored *stored, struct err *err)
{
    enum format embed = stays(o, stored->embed) ? stored->embed : FORMAT_F32, head = stays(o, stored->head) ? stored->head : FORMAT_F32;
    TRY(model_shape(&in->model, checkpoint_config(in->checkpoint), &in->plan, err));
    model_use_tables(&in->ops, &in->weights, &in->weight_tables);
    model_place_head(&in->model, embed, head, &in->weights);
    TRY(model_commit(&in->ops, &in->weights, "weights", err));
    model_place_head(&in->model, embed, head, &in->weights);
    TRY(model_load_onto(&in->model, in->checkpoint, in->ops.device, err));
    return o->keep_blocks || in->ops.device ? OK : model_to_panels(&in->model, err);
}

/* Read into memory of the host, then taken to the device. */
static enum status upload_adapter(struct inference *in, const char *adapter, struct err *err)
{
    struct lora here = {0};
    struct arena memory = {0};
    lora_place(&here, &in->plan, &in->model.config, false, &memory);
    TRY(arena_commit(&memory, "adapters", err));
    lora_place(&here, &in->plan, &in->model.config, false, &memory);
    enum status status = adapter_read_weights(&here, adapter, err);
    if (status == OK)
        status = device_upload(in->ops.device, in->lora.p, here.p, here.n * sizeof *here.p, err);
    arena_free(&memory);
    return status;
}

static enum status load_adapter(struct inference *in, const char *adapter, struct err *err)
{
    if (!adapter)
        return OK;
    model_use_tables(&in->ops, &in->adapters, &in->adapter_tables);
    lora_place(&in->lora, &in->plan, &in->model.config, false, &in->adapters);
    TRY(model_commit(&in->ops, &in->adapters, "adapters", err));
    lora_place(&in->lora, &in->plan, &in->model.config, false, &in->adapters);
    TRY(in->ops.device ? upload_adapter(in, adapter, err) : adapter_read_weights(&in->lora, adapter, err));
    in->has_adapter = true;
    return OK;
}

enum status inference_open(struct inference *in, const char *path, const struct inference_options *options, struct err *err)
{
    struct model_stored stored;
    memset(in, 0, sizeof *in);
    linalg_init();
    TRY(cpu_check(err));
    in->ops.ops = options->device ? device_ops() : cpu_ops(false);
    in->ops.device = options->device;
    in->ops.threads = options->threads > 0 ? options->threads : machine_cores();
    in->ops.compute = options->compute;
    TRY(cpu_threads(in->ops.threads, err));
    TRY(checkpoint_open(&in->checkpoint, path, err));
    TRY(checkpoint_tokenizer(in->checkpoint, &in->tokenizer, err));
    TRY(make_plan(in, options, &stored, err));
    TRY(load_weights(in, options, &stored, err));
    return load_adapter(in, options->adapter, err);
}

static size_t largest_rank(const struct plan *plan)
{
    int32_t most = 0;
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            most = plan->layer[l].linear[j].rank > most ? plan->layer[l].linear[j].rank : most;
    return (size_t)most;
}

enum status inference_place(struct inference *in, size_t max_rows, struct err *err)
{
    size_t scratch = model_scratch_size(&in->model, &in->ops, max_rows);
    arena_take(&in->scratch, scratch, sizeof(real));
    TRY(model_commit(&in->ops, &in->scratch, "kernel scratch", err));
    in->ops.scratch = arena_take(&in->scratch, scratch, sizeof(real));
    in->run = (struct model_run){.ops = &in->ops, .max_n = max_rows, .max_rank = largest_rank(&in->plan)};
    model_use_tables(&in->ops, &in->activations, &in->activation_tables);
    TRY(model_run_place(&in->run, &in->model, inference_lora(in), &in->activations, err));
    TRY(model_commit(&in->ops, &in->activations, "activations", err));
    return model_run_place(&in->run, &in->model, inference_lora(in), &in->activations, err);
}

const struct lora *inference_lora(const struct inference *in)
{
    return in->has_adapter ? &in->lora : NULL;
}

void inference_close(struct inference *in)
{
    model_free(&in->model);
    plan_free(&in->plan);
    model_release(&in->ops, &in->weights);
    model_release(&in->ops, &in->adapters);
    model_release(&in->ops, &in->activations);
    model_release(&in->ops, &in->scratch);
    checkpoint_close(in->checkpoint);
    memset(in, 0, sizeof *in);
}
