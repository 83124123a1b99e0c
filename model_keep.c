/* model_keep.c: activations kept in bf16 between a layer's forward and its backward pass.
 *
 * Half the memory of keeping them as they are, and none of a second forward pass: only the norms and silu(gate) * up are computed again.  Where
 * products are computed in bf16 anyway, what is kept is what those products read.  q, k, v are rounded before attention reads them: the
 * scores that backward computes again then agree with the log-sum-exp that forward left.
 *
 * Where the whole layer is computed again (gradient_checkpointing), only the residual stream before it is kept, in bf16 too: the second forward pass
 * starts from the rounded stream, the first one does not, so that the loss is that of an unrounded stream.
 *
 * Where a device holds acts in bf16, a layer that is kept simply has its own, and nothing but the two streams is rounded. */
#include "model_acts.h"

struct widths {
    size_t C, HD, KVD, F;
};

static struct widths widths_of(const struct layer_pass *p)
{
    const struct plan_layer *w = &p->model->plan.layer[p->l];
    size_t D = (size_t)p->model->config.head_dim;
    return (struct widths){.C = (size_t)p->model->config.hidden_size, .HD = (size_t)w->heads * D, .KVD = (size_t)w->kv_heads * D,
                           .F = (size_t)w->ffn};
}

void model_kept_place(struct layer_kept *kept, bool stream_only, bool acts, size_t n, size_t C, size_t HD, size_t KVD, size_t F, struct arena *arena)
{
    *kept = (struct layer_kept){.stream_only = stream_only, .x = arena_take(arena, n * C, sizeof *kept->x)};
    if (stream_only)
        return;
    kept->xm = arena_take(arena, n * C, sizeof *kept->xm);
    if (!acts)
        return;
    kept->q = arena_take(arena, n * HD, sizeof *kept->q);
    kept->k = arena_take(arena, n * KVD, sizeof *kept->k);
    kept->v = arena_take(arena, n * KVD, sizeof *kept->v);
    kept->att = arena_take(arena, n * HD, sizeof *kept->att);
    kept->gate = arena_take(arena, n * F, sizeof *kept->gate);
    kept->up = arena_take(arena, n * F, sizeof *kept->up);
}

/* Kept, and rounded where they stand. */
static void keep_rounded(const struct layer_pass *p, uint16_t *kept, real *x, size_t n)
{
    p->ops->ops->to_bf16(p->ops, kept, x, n);
    p->ops->ops->from_bf16(p->ops, x, kept, n);
}

void model_keep_qkv(const struct layer_pass *p, const struct layer_kept *kept, struct layer_acts *a)
{
    struct widths w = widths_of(p);
    if (!kept->q)
        return;
    keep_rounded(p, kept->q, a->q, p->batch->n * w.HD);
    keep_rounded(p, kept->k, a->k, p->batch->n * w.KVD);
    keep_rounded(p, kept->v, a->v, p->batch->n * w.KVD);
}

void model_keep_stream(const struct layer_pass *p, const struct layer_kept *kept, const real *x)
{
    p->ops->ops->to_bf16(p->ops, kept->x, x, p->batch->n * widths_of(p).C);
}

void model_keep_rest(const struct layer_pass *p, const struct layer_kept *kept, const struct layer_acts *a)
{
    struct widths w = widths_of(p);
    size_t n = p->batch->n;
    void (*to)(const struct ops_context *, uint16_t *, const real *, size_t) = p->ops->ops->to_bf16;
    if (kept->stream_only)
        return;
    to(p->ops, kept->xm, a->xm, n * w.C);
    if (!kept->q)
        return;
    to(p->ops, kept->att, a->att, n * w.HD);
    to(p->ops, kept->gate, a->gate, n * w.F);
    to(p->ops, kept->up, a->up, n * w.F);
}

static void restore_acts(const struct layer_pass *p, const struct layer_kept *kept, struct layer_acts *a)
{
    const struct ops *ops = p->ops->ops;
    struct widths w = widths_of(p);
    size_t n = p->batch->n;
    ops->from_bf16(p->ops, a->q, kept->q, n * w.HD);
    ops->from_bf16(p->ops, a->k, kept->k, n * w.KVD);
    ops->from_bf16(p->ops, a->v, kept->v, n * w.KVD);
    ops->from_bf16(p->ops, a->att, kept->att, n * w.HD);
    ops->from_bf16(p->ops, a->gate, kept->gate, n * w.F);
    ops->from_bf16(p->ops, a->up, kept->up, n * w.F);
}

void model_restore(const struct layer_pass *p, const struct layer_kept *kept, struct layer_acts *a, real *x)
{
    const struct ops *ops = p->ops->ops;
    const struct model_layer *layer = &p->model->layer[p->l];
    real eps = (real)p->model->config.rms_norm_eps;
    struct widths w = widths_of(p);
    size_t n = p->batch->n;
    ops->from_bf16(p->ops, x, kept->x, n * w.C);
    if (kept->stream_only)
        return;
    ops->from_bf16(p->ops, a->xm, kept->xm, n * w.C);
    if (kept->q)
        restore_acts(p, kept, a);
    ops->rmsnorm_forward(p->ops, a->n1, a->s1, x, layer->input_norm, eps, n, w.C);
    ops->rmsnorm_forward(p->ops, a->n2, a->s2, a->xm, layer->post_norm, eps, n, w.C);
    ops->swiglu_forward(p->ops, a->act, a->gate, a->up, n * w.F);
}
