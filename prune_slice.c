/* prune_slice.c: the smaller model: real slices of what stays, no masks. */
#include <string.h>

#include "prune_private.h"

/* Kept units of `width` consecutive rows each: dst[keep * width, cols] from src[.., cols]; cols 1 for biases. */
static void take_rows(real *dst, const real *src, const int32_t *unit, int32_t keep, size_t width, size_t cols)
{
    for (int32_t i = 0; i < keep; i++)
        memcpy(dst + (size_t)i * width * cols, src + (size_t)unit[i] * width * cols, width * cols * sizeof *dst);
}

/* The same of columns: dst[rows, keep * width] from src[rows, cols]. */
static void take_columns(real *dst, const real *src, const int32_t *unit, int32_t keep, size_t width, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        for (int32_t i = 0; i < keep; i++)
            memcpy(dst + (r * (size_t)keep + (size_t)i) * width, src + r * cols + (size_t)unit[i] * width, width * sizeof *dst);
}

static void take_linear_rows(struct model_layer *to, const struct model_layer *from, enum linear j, const int32_t *unit, int32_t keep,
                             size_t width)
{
    take_rows(to->linear[j].codes, from->linear[j].codes, unit, keep, width, from->linear[j].cols);
    if (from->bias[j])
        take_rows(to->bias[j], from->bias[j], unit, keep, width, 1);
}

static void take_linear_columns(struct model_layer *to, const struct model_layer *from, enum linear j, const int32_t *unit,
                                int32_t keep, size_t width)
{
    const struct qmat *W = &from->linear[j];
    take_columns(to->linear[j].codes, W->codes, unit, keep, width, W->rows, W->cols);
    if (from->bias[j])
        memcpy(to->bias[j], from->bias[j], W->rows * sizeof(real));
}

/* What is no linear: norms of a layer, as they are. */
static void copy_norms(struct model_layer *to, const struct model_layer *from, size_t C)
{
    memcpy(to->input_norm, from->input_norm, C * sizeof(real));
    memcpy(to->post_norm, from->post_norm, C * sizeof(real));
}

static void copy_outside(struct model *dst, const struct model *src)
{
    quant_copy(&dst->embed, &src->embed);
    if (src->config.tie_word_embeddings)
        dst->head = dst->embed; /* in panels, if the embedding is */
    else
        quant_copy(&dst->head, &src->head);
    memcpy(dst->norm, src->norm, (size_t)src->config.hidden_size * sizeof(real));
}

static void apply_block(struct model *dst, const struct model *src, const struct prune_selection *s)
{
    size_t D = (size_t)src->config.head_dim;
    copy_outside(dst, src);
    for (int32_t l = 0; l < s->n_layers; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[l];
        size_t n_rep = (size_t)(src->config.num_attention_heads[l] / src->config.num_key_value_heads[l]);
        copy_norms(to, from, (size_t)src->config.hidden_size);
        take_linear_rows(to, from, LINEAR_Q, s->head[l], s->n_heads[l], n_rep * D);
        take_linear_rows(to, from, LINEAR_K, s->head[l], s->n_heads[l], D);
        take_linear_rows(to, from, LINEAR_V, s->head[l], s->n_heads[l], D);
        take_linear_columns(to, from, LINEAR_O, s->head[l], s->n_heads[l], n_rep * D);
        take_linear_rows(to, from, LINEAR_GATE, s->ffn[l], s->n_ffn[l], 1);
        take_linear_rows(to, from, LINEAR_UP, s->ffn[l], s->n_ffn[l], 1);
        take_linear_columns(to, from, LINEAR_DOWN, s->ffn[l], s->n_ffn[l], 1);
    }
}

static void apply_layer(struct model *dst, const struct model *src, const struct prune_selection *s)
{
    copy_outside(dst, src);
    for (int32_t l = 0; l < s->n_units; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[s->unit[l]];
        copy_norms(to, from, (size_t)src->config.hidden_size);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *W = &from->linear[j];
            memcpy(to->linear[j].codes, W->codes, W->rows * W->cols * sizeof(real));
            if (from->bias[j])
                memcpy(to->bias[j], from->bias[j], W->rows * sizeof(real));
        }
    }
}

/* o_proj and down_proj write into the residual stream, all others read it: rows there, columns here. */
static void apply_channel(struct model *dst, const struct model *src, const struct prune_selection *s)
{
    size_t C = (size_t)src->config.hidden_size, V = (size_t)src->config.vocab_size;
    take_columns(dst->embed.codes, src->embed.codes, s->unit, s->n_units, 1, V, C);
    if (!src->config.tie_word_embeddings)
        take_columns(dst->head.codes, src->head.codes, s->unit, s->n_units, 1, V, C);
    take_rows(dst->norm, src->norm, s->unit, s->n_units, 1, 1);
    for (int32_t l = 0; l < s->n_layers; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[l];
        take_rows(to->input_norm, from->input_norm, s->unit, s->n_units, 1, 1);
        take_rows(to->post_norm, from->post_norm, s->unit, s->n_units, 1, 1);
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (j == LINEAR_O || j == LINEAR_DOWN)
                take_linear_rows(to, from, (enum linear)j, s->unit, s->n_units, 1);
            else
                take_linear_columns(to, from, (enum linear)j, s->unit, s->n_units, 1);
    }
}

void prune_apply(struct model *dst, const struct model *src, const struct prune_selection *selection)
{
    static void (*const apply[])(struct model *, const struct model *, const struct prune_selection *) = {
        [PRUNE_BLOCK] = apply_block, [PRUNE_CHANNEL] = apply_channel, [PRUNE_LAYER] = apply_layer};
    apply[selection->mode](dst, src, selection);
}
