/* convert.c: see convert.h. */
#include "convert.h"

#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "export.h"

/* Every layer as wide as the widest; query heads keep their KV heads, so the ratio of both must be one for all layers. */
static enum status widen(struct plan *plan, struct err *err)
{
    struct plan_layer most = {0};
    for (int l = 0; l < plan->n_layers; l++) {
        const struct plan_layer *p = &plan->layer[l];
        most.heads = p->heads > most.heads ? p->heads : most.heads;
        most.kv_heads = p->kv_heads > most.kv_heads ? p->kv_heads : most.kv_heads;
        most.ffn = p->ffn > most.ffn ? p->ffn : most.ffn;
    }
    for (int l = 0; l < plan->n_layers; l++) {
        struct plan_layer *p = &plan->layer[l];
        if (p->heads * most.kv_heads != most.heads * p->kv_heads)
            return err_set(err, ERR_INPUT, "layer %d has %d query heads for %d KV heads, the widest layer %d for %d: padding cannot keep them together",
                           l, p->heads, p->kv_heads, most.heads, most.kv_heads);
        p->heads = most.heads;
        p->kv_heads = most.kv_heads;
        p->ffn = most.ffn;
    }
    return OK;
}

static void copy_corner(real *to, size_t to_cols, const real *from, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * to_cols, from + r * cols, cols * sizeof *to);
}

static size_t largest(const struct model *a, size_t most)
{
    for (int l = 0; l < a->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t n = a->layer[l].linear[j].rows * a->layer[l].linear[j].cols;
            most = n > most ? n : most;
        }
    return most;
}

/* Blocks stay as they are where nothing about them changes: encoded again they could be others, and some cannot be. */
static bool hands_on(const struct qmat *to, const struct qmat *from)
{
    return format_is_ggml(from->format) && from->format == to->format && !from->panels && from->rows == to->rows && from->cols == to->cols;
}

static bool is_merged(const struct lora *lora, int l, int j)
{
    return lora && lora->adapter[l][j].r > 0;
}

static enum status fill_linear(struct model *to, const struct model *from, const struct lora *lora, int l, int j, real *small, real *wide,
                               struct err *err)
{
    const struct qmat *a = &from->layer[l].linear[j];
    struct qmat *b = &to->layer[l].linear[j];
    bool same = a->rows == b->rows && a->cols == b->cols;
    TRY(stop_check(err));
    if (from->layer[l].bias[j])
        memcpy(to->layer[l].bias[j], from->layer[l].bias[j], a->rows * sizeof(real));
    if (hands_on(b, a) && !is_merged(lora, l, j)) {
        quant_copy(b, a);
        return OK;
    }
    export_merged(from, lora, l, (enum linear)j, small);
    if (!same) {
        memset(wide, 0, b->rows * b->cols * sizeof *wide);
        copy_corner(wide, b->cols, small, a->rows, a->cols);
    }
    enum status status = quant_encode(b, same ? small : wide, false, err);
    char name[64];
    plan_name(l, (enum linear)j, name);
    return status == OK ? OK : err_prefix(err, status, "%s", name);
}

static enum status fill_embed(struct qmat *to, const struct qmat *from, real *small, struct err *err)
{
    bool floats = to->format == FORMAT_F32;
    if (hands_on(to, from)) {
        quant_copy(to, from);
        return OK;
    }
    quant_decode_rows(from, 0, from->rows, floats ? to->codes : small);
    return floats ? OK : quant_encode(to, small, false, err);
}

static enum status fill(struct model *to, const struct model *from, const struct lora *lora, struct err *err)
{
    bool floats = to->embed.format == FORMAT_F32 && to->head.format == FORMAT_F32;
    size_t C = (size_t)from->config.hidden_size, embed = floats ? 1 : to->embed.rows * C;
    real *small = malloc(largest(from, embed) * sizeof *small), *wide = malloc(largest(to, 1) * sizeof *wide);
    enum status status = small && wide ? OK : err_set(err, ERR_MEMORY, "out of memory for the largest matrix");
    if (status == OK)
        status = fill_embed(&to->embed, &from->embed, small, err);
    if (status == OK && !from->config.tie_word_embeddings)
        status = fill_embed(&to->head, &from->head, small, err);
    memcpy(to->norm, from->norm, C * sizeof(real));
    for (int l = 0; status == OK && l < from->plan.n_layers; l++) {
        memcpy(to->layer[l].input_norm, from->layer[l].input_norm, C * sizeof(real));
        memcpy(to->layer[l].post_norm, from->layer[l].post_norm, C * sizeof(real));
        for (int j = 0; status == OK && j < LINEAR_COUNT; j++)
            status = fill_linear(to, from, lora, l, j, small, wide, err);
    }
    free(small);
    free(wide);
    return status;
}

/* A format without an encoder ends where the weights change: 8 bits lose least of what all of them hold. */
static enum status settle_format(struct plan *plan, const struct model *from, const struct lora *lora, int l, int j, struct err *err)
{
    const struct qmat *W = &from->layer[l].linear[j];
    struct plan_linear *p = &plan->layer[l].linear[j];
    struct err no_fit;
    size_t out, in;
    if (!format_info(p->format)->read_only)
        return OK;
    plan_shape(plan, &from->config, l, (enum linear)j, &out, &in);
    if (W->format != p->format) {
        char name[64];
        plan_name(l, (enum linear)j, name);
        quant_check(p->format, 0, out, in, err);
        return err_prefix(err, ERR_INPUT, "%s", name);
    }
    if (W->rows != out || W->cols != in || is_merged(lora, l, j))
        *p = (struct plan_linear){.format = quant_check(FORMAT_Q8_0, 0, out, in, &no_fit) == OK ? FORMAT_Q8_0 : FORMAT_F32};
    return OK;
}

static enum status make_plan(struct plan *out, const struct model *from, const struct lora *lora, const struct plan *plan, bool pad, struct err *err)
{
    TRY(plan ? plan_copy(out, plan, err) : plan_new(out, &from->config, FORMAT_F32, err));
    if (pad)
        TRY(widen(out, err));
    for (int l = 0; l < out->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            out->layer[l].linear[j].rank = 0; /* merged */
            TRY(settle_format(out, from, lora, l, j, err));
        }
    return OK;
}

enum status convert_model(struct model *to, const struct model *from, const struct lora *lora, const struct plan *plan, enum format embed,
                          enum format head, bool pad, struct arena *arena, struct err *err)
{
    struct plan made = {0};
    enum status status = make_plan(&made, from, lora, plan, pad, err);
    if (status == OK)
        status = model_shape(to, &from->config, &made, err);
    plan_free(&made);
    TRY(status);
    model_place_head(to, embed, head, arena);
    TRY(arena_commit(arena, "converted weights", err));
    model_place_head(to, embed, head, arena);
    return fill(to, from, lora, err);
}

/* ---- adapters ---- */

static enum status shape_wide(struct model *shape, const struct model_config *config, const struct plan *plan, struct err *err)
{
    struct plan wide = {0};
    enum status status = plan_copy(&wide, plan, err);
    if (status == OK)
        status = widen(&wide, err);
    if (status == OK)
        status = model_shape(shape, config, &wide, err);
    plan_free(&wide);
    return status;
}

static void pad_adapter(struct adapter *to, const struct adapter *from)
{
    size_t r = (size_t)from->r;
    memset(to->A, 0, r * to->in * sizeof *to->A);
    copy_corner(to->A, to->in, from->A, r, from->in);
    memset(to->B, 0, to->out * r * sizeof *to->B);
    copy_corner(to->B, r, from->B, from->out, r);
}

enum status convert_adapter(struct model *shape, struct lora *to, const struct lora *from, const struct model_config *config, const struct plan *plan,
                            struct arena *arena, struct err *err)
{
    TRY(shape_wide(shape, config, plan, err));
    *to = (struct lora){.dropout = from->dropout};
    lora_place(to, &shape->plan, &shape->config, false, arena);
    TRY(arena_commit(arena, "adapters", err));
    lora_place(to, &shape->plan, &shape->config, false, arena);
    for (int i = 0; i < plan->n_layers * LINEAR_COUNT; i++) {
        TRY(stop_check(err));
        if (from->adapter[i / LINEAR_COUNT][i % LINEAR_COUNT].r > 0)
            pad_adapter(&to->adapter[i / LINEAR_COUNT][i % LINEAR_COUNT], &from->adapter[i / LINEAR_COUNT][i % LINEAR_COUNT]);
    }
    return OK;
}
