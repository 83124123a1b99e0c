/* model.c: the weights: placing them, random ones, gradients as a parallel block.  model_load.c reads them, model_forward.c computes. */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "quant_panel.h"

enum status model_shape(struct model *model, const struct model_config *config, const struct plan *plan, struct err *err)
{
    memset(model, 0, sizeof *model);
    TRY(model_config_copy(&model->config, config, err));
    enum status status = plan_copy(&model->plan, plan, err);
    if (status == OK && !(model->layer = calloc((size_t)config->num_hidden_layers, sizeof *model->layer)))
        status = err_set(err, ERR_MEMORY, "out of memory for the table of layers");
    if (status != OK) {
        model_free(model);
        return status;
    }
    for (int l = 0; l < plan->n_layers; l++) { /* the plan's widths are the model's */
        model->config.num_attention_heads[l] = plan->layer[l].heads;
        model->config.num_key_value_heads[l] = plan->layer[l].kv_heads;
        model->config.intermediate_size[l] = plan->layer[l].ffn;
    }
    return OK;
}

void model_free(struct model *model)
{
    model_config_free(&model->config);
    plan_free(&model->plan);
    free(model->layer);
    memset(model, 0, sizeof *model);
}

enum status model_alias(struct model *view, const struct model *base, const struct plan *plan, struct err *err)
{
    TRY(model_shape(view, &base->config, plan, err));
    memcpy(view->layer, base->layer, (size_t)base->config.num_hidden_layers * sizeof *view->layer);
    view->embed = base->embed;
    view->head = base->head;
    view->norm = base->norm;
    view->inv_freq = base->inv_freq;
    return OK;
}

/* ---- memory ---- */

static bool has_bias(const struct model_config *config, int linear)
{
    return linear <= LINEAR_V ? config->attention_bias : linear == LINEAR_O && config->attention_out_bias;
}

/* The order is that of model_grads: weights of an all-F32 model and their gradients lie at the same distances. */
void model_place(struct model *model, enum format embed_format, struct arena *arena)
{
    model_place_head(model, embed_format, embed_format, arena);
}

void model_place_head(struct model *model, enum format embed_format, enum format head_format, struct arena *arena)
{
    const struct model_config *c = &model->config;
    size_t C = (size_t)c->hidden_size, V = (size_t)c->vocab_size;
    quant_place(&model->embed, embed_format, 0, false, V, C, arena);
    for (int l = 0; l < model->plan.n_layers; l++) {
        struct model_layer *layer = &model->layer[l];
        layer->input_norm = arena_take(arena, C, sizeof(real));
        layer->post_norm = arena_take(arena, C, sizeof(real));
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &model->plan.layer[l].linear[j];
            size_t out, in;
            plan_shape(&model->plan, c, l, (enum linear)j, &out, &in);
            quant_place(&layer->linear[j], p->format, p->block, p->double_quant, out, in, arena);
            layer->bias[j] = has_bias(c, j) ? arena_take(arena, out, sizeof(real)) : NULL;
        }
    }
    model->norm = arena_take(arena, C, sizeof(real));
    if (c->tie_word_embeddings)
        model->head = model->embed;
    else
        quant_place(&model->head, head_format, 0, false, V, C, arena);
    model->inv_freq = arena_take(arena, (size_t)c->head_dim / 2, sizeof(float));
    if (model->inv_freq && !arena->tables) /* a device's are uploaded */
        model_config_inv_freq(c, model->inv_freq);
}

static void place_layer_grads(struct model_grads *grads, const struct model *model, int l, struct arena *arena)
{
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *W = &model->layer[l].linear[j];
        real *dW = arena_take(arena, W->rows * W->cols, sizeof(real));
        real *dbias = !grads->linears_only && has_bias(&model->config, j) ? arena_take(arena, W->rows, sizeof(real)) : NULL;
        if (grads->layer) {
            grads->layer[l].linear[j] = dW;
            grads->layer[l].bias[j] = dbias;
        }
    }
}

void model_grads_place_layer(struct model_grads *grads, const struct model *model, struct arena *arena)
{
    memset(grads, 0, sizeof *grads);
    grads->linears_only = true;
    grads->layer = arena_take_table(arena, (size_t)model->plan.n_layers, sizeof *grads->layer);
    size_t start = arena->used, end = start;
    grads->block = arena->base ? (real *)(void *)(arena->base + start) : NULL;
    for (int l = 0; l < model->plan.n_layers; l++) {
        arena->used = start;
        place_layer_grads(grads, model, l, arena);
        end = arena->used > end ? arena->used : end;
    }
    arena->used = end;
    grads->n = (end - start) / sizeof(real);
}

void model_grads_place(struct model_grads *grads, const struct model *model, bool linears_only, struct arena *arena)
{
    const struct model_config *c = &model->config;
    size_t C = (size_t)c->hidden_size, V = (size_t)c->vocab_size;
    memset(grads, 0, sizeof *grads);
    grads->linears_only = linears_only;
    grads->layer = arena_take_table(arena, (size_t)model->plan.n_layers, sizeof *grads->layer);
    size_t start = arena->used;
    grads->block = arena->base ? (real *)(void *)(arena->base + start) : NULL;
    if (!linears_only)
        grads->embed = arena_take(arena, V * C, sizeof(real));
    for (int l = 0; l < model->plan.n_layers; l++) {
        real *input_norm = linears_only ? NULL : arena_take(arena, C, sizeof(real));
        real *post_norm = linears_only ? NULL : arena_take(arena, C, sizeof(real));
        if (grads->layer) {
            grads->layer[l].input_norm = input_norm;
            grads->layer[l].post_norm = post_norm;
        }
        place_layer_grads(grads, model, l, arena);
    }
    if (!linears_only) {
        grads->norm = arena_take(arena, C, sizeof(real));
        grads->head = c->tie_word_embeddings ? NULL : arena_take(arena, V * C, sizeof(real));
    }
    grads->n = (arena->used - start) / sizeof(real);
}

real *model_parameter_block(const struct model *model, size_t *n)
{
    const struct model_config *c = &model->config;
    size_t C = (size_t)c->hidden_size, V = (size_t)c->vocab_size;
    if (model->embed.format != FORMAT_F32)
        return NULL;
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (model->layer[l].linear[j].format != FORMAT_F32)
                return NULL;
    const unsigned char *start = model->embed.codes;
    const unsigned char *end = (const unsigned char *)(c->tie_word_embeddings ? model->norm + C : (real *)model->head.codes + V * C);
    size_t bytes = ((size_t)(end - start) + 63) / 64 * 64; /* pieces are rounded up to 64 bytes, the last one too */
    *n = bytes / sizeof(real);
    return model->embed.codes;
}

enum status model_embed_to_panels(struct model *model, struct err *err)
{
    TRY(quant_to_panels(&model->embed, err));
    if (!model->config.tie_word_embeddings)
        return quant_to_panels(&model->head, err);
    model->head = model->embed;
    return OK;
}

enum status model_to_panels(struct model *model, struct err *err)
{
    TRY(model_embed_to_panels(model, err));
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            TRY(quant_to_panels(&model->layer[l].linear[j], err));
    return OK;
}

/* ---- random weights ---- */

static void fill_normal(struct qmat *q, double deviation, uint64_t seed, uint32_t tensor)
{
    struct rng rng = {.seed = seed, .stream = RNG_INIT, .step = tensor};
    real *w = q->codes;
    for (size_t i = 0; i < q->rows * q->cols; i++)
        w[i] = (real)(deviation * rng_normal(&rng));
}

static void fill_ones(real *g, size_t n)
{
    for (size_t i = 0; i < n; i++)
        g[i] = 1;
}

void model_random(struct model *model, double s, uint64_t seed)
{
    size_t C = (size_t)model->config.hidden_size;
    uint32_t tensor = 0;
    /* matrices that write into the residual stream start smaller, so that its variance does not grow with depth (GPT-2) */
    double residual = s / sqrt(2.0 * model->config.num_hidden_layers);
    fill_normal(&model->embed, s, seed, tensor++);
    for (int l = 0; l < model->plan.n_layers; l++) {
        struct model_layer *layer = &model->layer[l];
        fill_ones(layer->input_norm, C);
        fill_ones(layer->post_norm, C);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            bool into_stream = j == LINEAR_O || j == LINEAR_DOWN;
            fill_normal(&layer->linear[j], into_stream ? residual : s, seed, tensor++);
            if (layer->bias[j])
                memset(layer->bias[j], 0, layer->linear[j].rows * sizeof(real));
        }
    }
    fill_ones(model->norm, C);
    if (!model->config.tie_word_embeddings)
        fill_normal(&model->head, s, seed, tensor);
}
