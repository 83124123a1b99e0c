/* prune_slice.c: the smaller model: real slices of what stays, no masks. */
#include <string.h>

#include "prune_private.h"
#include "quant_cut.h"

/* Kept units of `width` numbers each. */
static void take(real *dst, const real *src, const struct quant_units *u)
{
    for (size_t i = 0; i < u->n; i++)
        memcpy(dst + i * u->width, src + (u->unit ? (size_t)u->unit[i] : i) * u->width, u->width * sizeof *dst);
}

static struct quant_units all_of(size_t n)
{
    return (struct quant_units){.n = n, .width = 1};
}

static struct quant_units kept(const int32_t *unit, int32_t n, size_t width)
{
    return (struct quant_units){unit, (size_t)n, width};
}

static enum status take_linear(struct model_layer *to, const struct model_layer *from, enum linear j, struct quant_units rows, struct quant_units cols,
                               struct err *err)
{
    if (from->bias[j])
        take(to->bias[j], from->bias[j], &rows);
    enum status status = quant_cut(&to->linear[j], &from->linear[j], &rows, &cols, err);
    return status == OK ? OK : err_prefix(err, status, "%s", linear_name[j]);
}

static enum status take_linear_rows(struct model_layer *to, const struct model_layer *from, enum linear j, struct quant_units rows, struct err *err)
{
    return take_linear(to, from, j, rows, all_of(from->linear[j].cols), err);
}

static enum status take_whole(struct model_layer *to, const struct model_layer *from, enum linear j, struct err *err)
{
    if (to->linear[j].format != from->linear[j].format)
        return take_linear_rows(to, from, j, all_of(from->linear[j].rows), err);
    quant_copy(&to->linear[j], &from->linear[j]);
    if (from->bias[j])
        memcpy(to->bias[j], from->bias[j], from->linear[j].rows * sizeof(real));
    return OK;
}

static enum status take_linear_columns(struct model_layer *to, const struct model_layer *from, enum linear j, struct quant_units cols, struct err *err)
{
    return take_linear(to, from, j, all_of(from->linear[j].rows), cols, err);
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

static enum status apply_block(struct model *dst, const struct model *src, const struct prune_selection *s, struct err *err)
{
    size_t D = (size_t)src->config.head_dim;
    copy_outside(dst, src);
    for (int32_t l = 0; l < s->n_layers; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[l];
        size_t n_rep = (size_t)(src->config.num_attention_heads[l] / src->config.num_key_value_heads[l]);
        struct quant_units queries = kept(s->head[l], s->n_heads[l], n_rep * D), keys = kept(s->head[l], s->n_heads[l], D), ffn = kept(s->ffn[l], s->n_ffn[l], 1);
        bool heads_stay = s->n_heads[l] == src->config.num_key_value_heads[l], ffn_stays = s->n_ffn[l] == src->config.intermediate_size[l];
        copy_norms(to, from, (size_t)src->config.hidden_size);
        TRY(take_linear_rows(to, from, LINEAR_Q, queries, err));
        TRY(take_linear_rows(to, from, LINEAR_K, keys, err));
        TRY(take_linear_rows(to, from, LINEAR_V, keys, err));
        TRY(take_linear_columns(to, from, LINEAR_O, heads_stay ? all_of(from->linear[LINEAR_O].cols) : queries, err));
        TRY(take_linear_rows(to, from, LINEAR_GATE, ffn, err));
        TRY(take_linear_rows(to, from, LINEAR_UP, ffn, err));
        TRY(take_linear_columns(to, from, LINEAR_DOWN, ffn_stays ? all_of(from->linear[LINEAR_DOWN].cols) : ffn, err));
    }
    return OK;
}

static enum status apply_layer(struct model *dst, const struct model *src, const struct prune_selection *s, struct err *err)
{
    copy_outside(dst, src);
    for (int32_t l = 0; l < s->n_units; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[s->unit[l]];
        copy_norms(to, from, (size_t)src->config.hidden_size);
        for (int j = 0; j < LINEAR_COUNT; j++)
            TRY(take_whole(to, from, (enum linear)j, err));
    }
    return OK;
}

/* o_proj and down_proj write into the residual stream, all others read it: rows there, columns here. */
static enum status apply_channel(struct model *dst, const struct model *src, const struct prune_selection *s, struct err *err)
{
    struct quant_units channels = kept(s->unit, s->n_units, 1), words = all_of((size_t)src->config.vocab_size);
    TRY(quant_cut(&dst->embed, &src->embed, &words, &channels, err));
    if (!src->config.tie_word_embeddings)
        TRY(quant_cut(&dst->head, &src->head, &words, &channels, err));
    take(dst->norm, src->norm, &channels);
    for (int32_t l = 0; l < s->n_layers; l++) {
        struct model_layer *to = &dst->layer[l];
        const struct model_layer *from = &src->layer[l];
        take(to->input_norm, from->input_norm, &channels);
        take(to->post_norm, from->post_norm, &channels);
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (j == LINEAR_O || j == LINEAR_DOWN)
                TRY(take_linear_rows(to, from, (enum linear)j, channels, err));
            else
                TRY(take_linear_columns(to, from, (enum linear)j, channels, err));
    }
    return OK;
}

enum status prune_apply(struct model *dst, const struct model *src, const struct prune_selection *selection, struct err *err)
{
    static enum status (*const apply[])(struct model *, const struct model *, const struct prune_selection *, struct err *) = {
        [PRUNE_BLOCK] = apply_block, [PRUNE_CHANNEL] = apply_channel, [PRUNE_LAYER] = apply_layer};
    return apply[selection->mode](dst, src, selection, err);
}

/* ---- formats ---- */

/* Columns of a linear that go or stay together. */
static size_t column_unit(const struct model_config *c, enum prune_mode mode, int32_t l, int j)
{
    bool heads = mode == PRUNE_BLOCK && j == LINEAR_O;
    return heads ? (size_t)(c->num_attention_heads[l] / c->num_key_value_heads[l] * c->head_dim) : 1;
}

/* True when the stored numbers of what stays are moved; else they are encoded anew. */
static bool moves(const struct plan_linear *from, const size_t shape[2], const size_t was[2], size_t unit)
{
    size_t atom = quant_atom(from->format, from->block, from->double_quant, was[1]);
    if (shape[0] == was[0] && shape[1] == was[1])
        return true;
    return atom > 0 && (shape[1] == was[1] || unit % atom == 0);
}

static void cut_format(struct plan_linear *to, const struct plan_linear *from, bool whole_rows, bool moved, size_t cols)
{
    to->format = from->format;
    to->block = from->block;
    to->double_quant = from->double_quant;
    if (!moved && !whole_rows)
        to->format = quant_fallback(from->format, cols);
    if (to->format != from->format) {
        to->block = 0;
        to->double_quant = false;
    }
}

/* Of all layers the one whose linear j is the largest. */
static int32_t largest_layer(const struct plan *plan, const struct model_config *c, int j)
{
    int32_t best = 0;
    uint64_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        size_t out, in;
        plan_shape(plan, c, l, (enum linear)j, &out, &in);
        uint64_t bytes = plan_linear_bytes(&plan->layer[l].linear[j], out, in, 32);
        if (bytes > most) {
            most = bytes;
            best = l;
        }
    }
    return best;
}

/* How many linears of a name were encoded anew, from a format to a format. */
struct anew {
    size_t n[LINEAR_COUNT][FORMAT_COUNT][FORMAT_COUNT];
};

static void tell_anew(const struct anew *anew, struct text *out)
{
    for (int j = 0; j < LINEAR_COUNT; j++)
        for (int f = 0; f < FORMAT_COUNT; f++)
            for (int t = 0; t < FORMAT_COUNT; t++)
                if (anew->n[j][f][t] > 0)
                    text_printf(out, "%s%zu %s %s -> %s", out->n ? ", " : "", anew->n[j][f][t], strchr(linear_name[j], '.') + 1,
                                format_info((enum format)f)->name, format_info((enum format)t)->name);
}

void prune_formats(struct plan *to, const struct model_config *config, const struct plan *from, const struct model_config *src, enum prune_mode mode,
                   const struct prune_selection *selection, struct text *told)
{
    struct anew anew = {0};
    for (int32_t l = 0; l < to->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t shape[2], was[2];
            int32_t at = mode != PRUNE_LAYER || to->n_layers == from->n_layers ? l : selection ? selection->unit[l] : largest_layer(from, src, j);
            const struct plan_linear *p = &from->layer[at].linear[j];
            struct plan_linear *q = &to->layer[l].linear[j];
            plan_shape(to, config, l, (enum linear)j, &shape[0], &shape[1]);
            plan_shape(from, src, at, (enum linear)j, &was[0], &was[1]);
            bool moved = moves(p, shape, was, column_unit(src, mode, at, j));
            cut_format(q, p, shape[1] == was[1], moved, shape[1]);
            anew.n[j][p->format][q->format] += !moved;
        }
    tell_anew(&anew, told);
}
