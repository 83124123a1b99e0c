/* model_load.c: weights from a checkpoint, by Hugging Face's names, into the formats of the plan. */
#include <stdio.h>
#include <stdlib.h>

#include "base/stop.h"
#include "model.h"

struct loading {
    const struct checkpoint *checkpoint;
    real *temp; /* the largest matrix */
    struct err *err;
};

static bool same_storage(const struct qmat *a, const struct qmat *b)
{
    return a->format == b->format && a->block == b->block && a->double_quant == b->double_quant && a->rows == b->rows &&
           a->cols == b->cols;
}

static enum status load_matrix(const struct loading *load, const char *name, struct qmat *q)
{
    TRY(stop_check(load->err));
    if (q->format == FORMAT_F32)
        return checkpoint_read(load->checkpoint, name, q->codes, q->rows, q->cols, load->err);
    struct qmat stored;
    TRY(checkpoint_format(load->checkpoint, name, &stored, load->err));
    if (same_storage(&stored, q)) {
        TRY(checkpoint_read_codes(load->checkpoint, name, q, load->err));
        if (quant_is_finite(q))
            return OK; /* else the reader of values finds the element and names it */
    }
    TRY(checkpoint_read(load->checkpoint, name, load->temp, q->rows, q->cols, load->err));
    enum status status = quant_encode(q, load->temp, false, load->err);
    return status == OK ? OK : err_prefix(load->err, status, "%s", name);
}

static enum status load_vector(const struct loading *load, const char *name, real *to, size_t n)
{
    return checkpoint_read(load->checkpoint, name, to, 1, n, load->err);
}

static enum status load_layer(const struct loading *load, struct model *model, int l)
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

static size_t largest_matrix(const struct model *model)
{
    bool floats = model->embed.format == FORMAT_F32 && (model->config.tie_word_embeddings || model->head.format == FORMAT_F32);
    size_t most = floats ? 1 : model->embed.rows * model->embed.cols;
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *W = &model->layer[l].linear[j];
            if (W->format != FORMAT_F32 && W->rows * W->cols > most)
                most = W->rows * W->cols;
        }
    return most;
}

static enum status load_all(const struct loading *load, struct model *model)
{
    TRY(load_matrix(load, "model.embed_tokens.weight", &model->embed));
    if (model->config.tie_word_embeddings)
        model->head = model->embed;
    else if (checkpoint_has(load->checkpoint, "lm_head.weight"))
        TRY(load_matrix(load, "lm_head.weight", &model->head));
    else /* a few repositories leave it out though they say it is not tied */
        TRY(load_matrix(load, "model.embed_tokens.weight", &model->head));
    for (int l = 0; l < model->plan.n_layers; l++)
        TRY(load_layer(load, model, l));
    return load_vector(load, "model.norm.weight", model->norm, (size_t)model->config.hidden_size);
}

size_t model_load_bytes(const struct model *model)
{
    return largest_matrix(model) * sizeof(real);
}

enum status model_load(struct model *model, const struct checkpoint *checkpoint, struct err *err)
{
    size_t n = largest_matrix(model);
    struct loading load = {.checkpoint = checkpoint, .err = err, .temp = malloc(n * sizeof *load.temp)};
    if (!load.temp)
        return err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu elements", n);
    enum status status = load_all(&load, model);
    free(load.temp);
    return status;
}
