/* model_load.c: weights from a checkpoint, by Hugging Face's names, into the formats of the plan. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "cuda/device.h"
#include "model.h"

struct loading {
    const struct checkpoint *checkpoint;
    struct device *device; /* where the model lies, or NULL: in the host's memory */
    real *temp; /* the largest matrix that had to be decoded so far, or NULL */
    size_t room;
    struct err *err;
};

static bool same_storage(const struct qmat *a, const struct qmat *b)
{
    return a->format == b->format && a->block == b->block && a->double_quant == b->double_quant && a->rows == b->rows &&
           a->cols == b->cols;
}

static enum status need_room(struct loading *load, size_t n)
{
    if (n <= load->room)
        return OK;
    free(load->temp);
    load->temp = malloc(n * sizeof *load->temp);
    load->room = load->temp ? n : 0;
    return load->temp ? OK : err_set(load->err, ERR_MEMORY, "out of memory for a matrix of %zu elements", n);
}

static enum status load_here(struct loading *load, const char *name, struct qmat *q)
{
    if (q->format == FORMAT_F32)
        return checkpoint_read(load->checkpoint, name, q->codes, q->rows, q->cols, load->err);
    struct qmat stored;
    TRY(checkpoint_format(load->checkpoint, name, &stored, load->err));
    if (same_storage(&stored, q)) {
        TRY(checkpoint_read_codes(load->checkpoint, name, q, load->err));
        if (quant_is_finite(q))
            return OK; /* else the reader of values finds the element and names it */
    }
    TRY(need_room(load, q->rows * q->cols));
    TRY(checkpoint_read(load->checkpoint, name, load->temp, q->rows, q->cols, load->err));
    enum status status = quant_encode(q, load->temp, false, load->err);
    return status == OK ? OK : err_prefix(load->err, status, "%s", name);
}

static void place_alike(struct qmat *q, const struct qmat *as, struct arena *arena)
{
    quant_place(q, as->format, as->block, as->double_quant, as->rows, as->cols, arena);
}

/* A device's matrix passes through memory of its own size, which is given back. */
static enum status load_there(struct loading *load, const char *name, struct qmat *q)
{
    struct qmat here;
    struct arena memory = {0};
    place_alike(&here, q, &memory);
    TRY(arena_commit(&memory, name, load->err));
    place_alike(&here, q, &memory);
    enum status status = load_here(load, name, &here);
    if (status == OK)
        status = device_upload_matrix(load->device, q, &here, load->err);
    arena_free(&memory);
    return status;
}

static enum status load_matrix(struct loading *load, const char *name, struct qmat *q)
{
    TRY(stop_check(load->err));
    return load->device ? load_there(load, name, q) : load_here(load, name, q);
}

static enum status load_vector(struct loading *load, const char *name, real *to, size_t n)
{
    if (!load->device)
        return checkpoint_read(load->checkpoint, name, to, 1, n, load->err);
    TRY(need_room(load, n));
    TRY(checkpoint_read(load->checkpoint, name, load->temp, 1, n, load->err));
    return device_upload(load->device, to, load->temp, n * sizeof *to, load->err);
}

/* Where the host does not write them itself (model_place_head). */
static enum status load_frequencies(struct loading *load, struct model *model)
{
    size_t n = (size_t)model->config.head_dim / 2;
    if (!load->device)
        return OK;
    float *here = malloc(n * sizeof *here);
    if (!here)
        return err_set(load->err, ERR_MEMORY, "out of memory for %zu frequencies", n);
    model_config_inv_freq(&model->config, here);
    enum status status = device_upload(load->device, model->inv_freq, here, n * sizeof *here, load->err);
    free(here);
    return status;
}

static enum status load_layer(struct loading *load, struct model *model, int l)
{
    struct model_layer *layer = &model->layer[l];
    size_t C = (size_t)model->config.hidden_size;
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
    TRY(load_vector(load, name, layer->input_norm, C));
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
    TRY(load_vector(load, name, layer->post_norm, C));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, linear_name[j]);
        TRY(load_matrix(load, name, &layer->linear[j]));
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", l, linear_name[j]);
        if (layer->bias[j])
            TRY(load_vector(load, name, layer->bias[j], layer->linear[j].rows));
    }
    return OK;
}

static const char *head_name(const struct checkpoint *checkpoint)
{
    /* a few repositories leave it out though they say it is not tied */
    return checkpoint_has(checkpoint, "lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight";
}

static enum status load_all(struct loading *load, struct model *model)
{
    TRY(load_matrix(load, "model.embed_tokens.weight", &model->embed));
    if (model->config.tie_word_embeddings)
        model->head = model->embed;
    else
        TRY(load_matrix(load, head_name(load->checkpoint), &model->head));
    for (int l = 0; l < model->plan.n_layers; l++)
        TRY(load_layer(load, model, l));
    TRY(load_frequencies(load, model));
    return load_vector(load, "model.norm.weight", model->norm, (size_t)model->config.hidden_size);
}

/* Reals that reading q takes, q as it is placed. */
static size_t room_of(const struct checkpoint *checkpoint, const char *name, const struct qmat *q)
{
    struct qmat stored;
    struct err err;
    if (q->format == FORMAT_F32 || (checkpoint_format(checkpoint, name, &stored, &err) == OK && same_storage(&stored, q)))
        return 0;
    return q->rows * q->cols;
}

size_t model_load_bytes(const struct model *model, const struct checkpoint *checkpoint)
{
    size_t most = room_of(checkpoint, "model.embed_tokens.weight", &model->embed);
    size_t head = model->config.tie_word_embeddings ? 0 : room_of(checkpoint, head_name(checkpoint), &model->head);
    most = head > most ? head : most;
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, linear_name[j]);
            size_t n = room_of(checkpoint, name, &model->layer[l].linear[j]);
            most = n > most ? n : most;
        }
    return most * sizeof(real);
}

enum status model_load_onto(struct model *model, const struct checkpoint *checkpoint, struct device *device, struct err *err)
{
    struct loading load = {.checkpoint = checkpoint, .device = device, .err = err};
    enum status status = load_all(&load, model);
    free(load.temp);
    return status;
}

enum status model_load(struct model *model, const struct checkpoint *checkpoint, struct err *err)
{
    return model_load_onto(model, checkpoint, NULL, err);
}

/* ---- formats ---- */

static enum status stored_linears(struct plan *plan, const struct checkpoint *checkpoint, struct err *err)
{
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[96];
            struct qmat q;
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, linear_name[j]);
            TRY(checkpoint_format(checkpoint, name, &q, err));
            struct plan_linear *p = &plan->layer[l].linear[j];
            p->format = q.format;
            p->block = q.block;
            p->double_quant = q.double_quant;
        }
    return OK;
}

/* Does plan.txt name another format than a linear lies in? */
static enum status differs(const struct plan *plan, const struct checkpoint *checkpoint, bool *encoded, struct err *err)
{
    struct plan file;
    TRY(plan_new(&file, checkpoint_config(checkpoint), FORMAT_F32, err));
    enum status status = stored_linears(&file, checkpoint, err);
    for (int i = 0; status == OK && i < plan->n_layers * LINEAR_COUNT; i++) {
        const struct plan_linear *p = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT], *q = &file.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        *encoded = *encoded || p->format != q->format || p->block != q->block || p->double_quant != q->double_quant;
    }
    plan_free(&file);
    return status;
}

static enum status stored_plan(struct model_stored *stored, const struct checkpoint *checkpoint, const char *text, struct err *err)
{
    const struct model_config *config = checkpoint_config(checkpoint);
    if (!text) {
        TRY(plan_new(&stored->plan, config, FORMAT_F32, err));
        return stored_linears(&stored->plan, checkpoint, err);
    }
    TRY(plan_parse(&stored->plan, config, text, "plan.txt", err));
    return differs(&stored->plan, checkpoint, &stored->encoded, err);
}

enum status model_stored_formats(struct model_stored *stored, const struct checkpoint *checkpoint, struct err *err)
{
    const struct model_config *config = checkpoint_config(checkpoint);
    const char *text = checkpoint_plan_text(checkpoint);
    struct qmat embed, head;
    memset(stored, 0, sizeof *stored);
    TRY(checkpoint_format(checkpoint, "model.embed_tokens.weight", &embed, err));
    TRY(checkpoint_format(checkpoint, config->tie_word_embeddings ? "model.embed_tokens.weight" : head_name(checkpoint), &head, err));
    stored->embed = embed.format;
    stored->head = head.format;
    enum status status = stored_plan(stored, checkpoint, text, err);
    if (status != OK)
        plan_free(&stored->plan);
    return status;
}
