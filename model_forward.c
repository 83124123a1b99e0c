/* model_forward.c: a layer forward, the same layer backward, the passes over all layers.
 *
 *     n1 = norm(x)      q, k, v = n1 W^T (+ adapters)     q, k rotated by position
 *     xm = x + o(attention(q, k, v))
 *     n2 = norm(xm)     y = xm + down(silu(gate(n2)) * up(n2))
 *
 * Backward stands under its forward and repeats its letters; d + name is the gradient of the loss with respect to name. */
#include <math.h>
#include <string.h>

#include "base/stop.h"
#include "model_acts.h"

/* ---- memory ---- */

/* What each layer keeps for itself even when the large activations are shared. */
static void place_small(const struct model_run *run, struct layer_acts *a, size_t C, size_t HD, size_t H, size_t F, struct arena *arena)
{
    a->lse = arena_take(arena, run->max_n * H, sizeof(real));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        size_t in = j == LINEAR_O ? HD : j == LINEAR_DOWN ? F : C;
        a->h[j] = arena_take(arena, run->max_n * run->max_rank, sizeof(real));
        a->mask[j] = run->dropout && run->max_rank > 0 ? arena_take(arena, run->max_n * mask_words(in), sizeof(uint32_t)) : NULL;
    }
}

/* What a layer that is kept in bf16 may have for itself. */
static void place_own(const struct model_run *run, struct layer_acts *a, size_t HD, size_t KVD, size_t F, struct arena *arena)
{
    size_t n = run->max_n, bytes = model_act_bytes(run, arena);
    a->q = arena_take(arena, n * HD, bytes);
    a->k = arena_take(arena, n * KVD, bytes);
    a->v = arena_take(arena, n * KVD, bytes);
    a->att = arena_take(arena, n * HD, bytes);
    a->gate = arena_take(arena, n * F, bytes);
    a->up = arena_take(arena, n * F, bytes);
}

/* What is computed again then: the norms, silu(gate) * up. */
static void place_again(const struct model_run *run, struct layer_acts *a, size_t C, size_t F, struct arena *arena)
{
    size_t n = run->max_n, bytes = model_act_bytes(run, arena);
    a->n1 = arena_take(arena, n * C, bytes);
    a->s1 = arena_take(arena, n, sizeof(real));
    a->xm = arena_take(arena, n * C, sizeof(real));
    a->n2 = arena_take(arena, n * C, bytes);
    a->s2 = arena_take(arena, n, sizeof(real));
    a->act = arena_take(arena, n * F, bytes);
}

static void place_layer(const struct model_run *run, struct layer_acts *a, size_t C, size_t HD, size_t KVD, size_t H, size_t F, struct arena *arena)
{
    place_again(run, a, C, F, arena);
    place_own(run, a, HD, KVD, F, arena);
    place_small(run, a, C, HD, H, F, arena);
}

struct widest {
    size_t HD, KVD, H, F;
};

static struct widest widest_layer(const struct model *model)
{
    struct widest w = {0};
    size_t D = (size_t)model->config.head_dim;
    for (int l = 0; l < model->plan.n_layers; l++) {
        const struct plan_layer *p = &model->plan.layer[l];
        w.H = (size_t)p->heads > w.H ? (size_t)p->heads : w.H;
        w.KVD = (size_t)p->kv_heads * D > w.KVD ? (size_t)p->kv_heads * D : w.KVD;
        w.F = (size_t)p->ffn > w.F ? (size_t)p->ffn : w.F;
    }
    w.HD = w.H * D;
    return w;
}

/* That of act is gone when those of attention begin (layer_backward): they lie in the same memory. */
static void place_gradients(const struct model_run *run, size_t C, const struct widest *w, struct model_acts *acts, struct arena *arena)
{
    size_t n = run->max_n, bytes = model_act_bytes(run, arena);
    acts->dx = arena_take(arena, n * C, sizeof(real));
    acts->dn = arena_take(arena, n * C, bytes);
    size_t start = arena->used;
    acts->dact = arena_take(arena, n * w->F, bytes);
    size_t end = arena->used;
    arena->used = start;
    acts->dq = arena_take(arena, n * w->HD, bytes);
    acts->dk = arena_take(arena, n * w->KVD, bytes);
    acts->dv = arena_take(arena, n * w->KVD, bytes);
    acts->datt = arena_take(arena, n * w->HD, bytes);
    arena->used = arena->used > end ? arena->used : end;
}

size_t model_scratch_size(const struct model *model, struct ops_context *c, size_t T)
{
    size_t out = model->head.rows, in = model->head.cols, D = (size_t)model->config.head_dim;
    if (c->device)
        return model_device_scratch(model, c, T);
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *W = &model->layer[l].linear[j];
            out = W->rows > out ? W->rows : out;
            in = W->cols > in ? W->cols : in;
        }
    return c->ops->scratch_size(c, out, in, D, T, model->head.rows);
}

enum status model_run_place(struct model_run *run, const struct model *model, const struct lora *lora, struct arena *arena,
                            struct err *err)
{
    (void)lora; /* max_rank says what adapters need: a run serves any adapters up to it */
    const struct model_config *c = &model->config;
    size_t L = (size_t)c->num_hidden_layers, n = run->max_n, C = (size_t)c->hidden_size;
    struct widest w = widest_layer(model);
    struct model_acts none = {0}, *acts = arena_take_table(arena, 1, sizeof *acts);
    run->acts = acts;
    acts = acts ? acts : &none;
    acts->x = arena_take_table(arena, L + 1, sizeof *acts->x);
    acts->layer = arena_take_table(arena, L, sizeof *acts->layer);
    bool halves = run->training && run->halves; /* model_keep.c */
    bool shares = !run->training || !run->keep || halves; /* all layers one set of activations */
    bool streams = run->training && !halves; /* scoring alone needs only two residual streams, so do streams kept in halves */
    real *even = NULL, *odd = NULL;
    struct layer_acts shared = {0};
    if (!streams) {
        even = arena_take(arena, n * C, sizeof(real));
        odd = arena_take(arena, n * C, sizeof(real));
    }
    acts->kept = halves ? arena_take_table(arena, L, sizeof *acts->kept) : NULL;
    bool own = halves && run->keep && model_act_bytes(run, arena) < sizeof(real); /* acts are kept where they are computed */
    if (own)
        place_again(run, &shared, C, w.F, arena);
    else if (shares)
        place_layer(run, &shared, C, w.HD, w.KVD, w.H, w.F, arena);
    for (size_t l = 0; l <= L; l++) {
        real *x = streams ? arena_take(arena, n * C, sizeof(real)) : l % 2 ? odd : even;
        if (acts->x)
            acts->x[l] = x;
        if (l == L)
            break;
        struct layer_acts a = shared;
        const struct plan_layer *p = &model->plan.layer[l];
        size_t D = (size_t)c->head_dim, H = (size_t)p->heads;
        if (halves) {
            struct layer_kept kept;
            model_kept_place(&kept, !run->keep, !own, n, C, H * D, (size_t)p->kv_heads * D, (size_t)p->ffn, arena);
            if (own)
                place_own(run, &a, H * D, (size_t)p->kv_heads * D, (size_t)p->ffn, arena);
            if (run->keep)
                place_small(run, &a, C, H * D, H, (size_t)p->ffn, arena);
            if (acts->kept)
                acts->kept[l] = kept;
        } else if (!shares)
            place_layer(run, &a, C, H * D, (size_t)p->kv_heads * D, H, (size_t)p->ffn, arena);
        if (acts->layer)
            acts->layer[l] = a;
    }
    acts->nf = shares ? shared.n1 : arena_take(arena, n * C, model_act_bytes(run, arena)); /* the last layer's n1 is read no more, or computed again */
    acts->sf = arena_take(arena, n, sizeof(real));
    acts->angles = arena_take(arena, n * (size_t)c->head_dim, sizeof(real));
    acts->nll = arena_take(arena, n, sizeof *acts->nll);
    model_there_place(acts, n, arena);
    if (run->training)
        place_gradients(run, C, &w, acts, arena);
    return arena->overflow ? err_set(err, ERR_MEMORY, "activations of %zu rows do not fit in memory addresses", n) : OK;
}

/* ---- one linear ---- */

struct linear_args model_linear_args(const struct layer_pass *p, enum linear j, const struct layer_acts *a, const act *x)
{
    const struct model_layer *layer = &p->model->layer[p->l];
    bool last = p->l + 1 == p->model->config.num_hidden_layers;
    struct linear_args args = {.W = &layer->linear[j], .bias = layer->bias[j], .n = p->batch->n, .x = x,
                               .real_y = j == LINEAR_O || j == LINEAR_DOWN}; /* the residual stream */
    args.next = j != LINEAR_DOWN ? &layer->linear[j + 1] : last ? &p->model->head : &p->model->layer[p->l + 1].linear[LINEAR_Q];
    if (p->lora && p->lora->adapter[p->l][j].r > 0) {
        const struct adapter *d = &p->lora->adapter[p->l][j];
        args.lora = (struct lora_args){.r = d->r, .s = d->s, .A = d->A, .B = d->B, .dA = d->dA, .dB = d->dB, .h = a->h[j], .mask = a->mask[j],
                                       .dropout = p->dropout ? p->lora->dropout : 0, .seed = p->lora->seed, .step = p->dropout_step,
                                       /* each linear draws from numbers of its own */
                                       .index0 = (uint64_t)(p->l * LINEAR_COUNT + (int)j) << 40};
    }
    return args;
}

static void forward(const struct layer_pass *p, enum linear j, const struct layer_acts *a, const act *x, real *y)
{
    struct linear_args args = model_linear_args(p, j, a, x);
    args.y = y;
    p->ops->ops->linear_forward(p->ops, &args, 1);
}

/* Linears j, j + 1 ... of one x. */
static void forward_group(const struct layer_pass *p, enum linear j, size_t count, const struct layer_acts *a, const act *x, act *const y[])
{
    struct linear_args args[LINEAR_GROUP];
    for (size_t i = 0; i < count; i++) {
        args[i] = model_linear_args(p, (enum linear)(j + i), a, x);
        args[i].y = y[i];
    }
    p->ops->ops->linear_forward(p->ops, args, count);
}

/* dx NULL: nothing below is trained. */
static void backward(const struct layer_pass *p, enum linear j, const struct layer_acts *a, const act *x, const act *dy, act *dx,
                     bool add)
{
    struct linear_args args = model_linear_args(p, j, a, x);
    args.dy = dy;
    args.dx = dx;
    args.dx_add = add;
    args.dW = p->grads ? p->grads->layer[p->l].linear[j] : NULL;
    args.dbias = p->grads ? p->grads->layer[p->l].bias[j] : NULL;
    p->ops->ops->linear_backward(p->ops, &args);
}

/* ---- one layer ---- */

static struct attention_args attention_args(const struct layer_pass *p, const struct layer_acts *a)
{
    const struct plan_layer *w = &p->model->plan.layer[p->l];
    return (struct attention_args){.segments = p->batch->segments, .n_segments = p->batch->n_segments, .n = p->batch->n,
                                   .H = w->heads, .KV = w->kv_heads, .D = p->model->config.head_dim, .q = a->q, .k = a->k,
                                   .v = a->v, .out = a->att, .lse = a->lse};
}

void model_angles(const struct model_run *run, const struct model *model, const int32_t *positions, size_t n)
{
    run->ops->ops->rope_angles(run->ops, run->acts->angles, positions, model->inv_freq, (real)model->config.rope_attention_factor, n,
                               (size_t)model->config.head_dim);
}

static void rope(const struct layer_pass *p, act *x, int32_t heads, bool back)
{
    p->ops->ops->rope(p->ops, x, p->angles, p->batch->n, (size_t)heads, (size_t)p->model->config.head_dim, back);
}

void model_layer_qkv(const struct layer_pass *p, struct layer_acts *a, const real *x)
{
    const struct ops *ops = p->ops->ops;
    const struct model_layer *layer = &p->model->layer[p->l];
    size_t n = p->batch->n, C = (size_t)p->model->config.hidden_size;
    ops->rmsnorm_forward(p->ops, a->n1, a->s1, x, layer->input_norm, (real)p->model->config.rms_norm_eps, n, C);
    forward_group(p, LINEAR_Q, 3, a, a->n1, (act *const[]){a->q, a->k, a->v});
    rope(p, a->q, p->model->plan.layer[p->l].heads, false);
    rope(p, a->k, p->model->plan.layer[p->l].kv_heads, false);
}

void model_layer_rest(const struct layer_pass *p, struct layer_acts *a, const real *x, real *y)
{
    const struct ops *ops = p->ops->ops;
    const struct model_layer *layer = &p->model->layer[p->l];
    size_t n = p->batch->n, C = (size_t)p->model->config.hidden_size, F = (size_t)p->model->plan.layer[p->l].ffn;
    forward(p, LINEAR_O, a, a->att, a->xm);
    ops->add(p->ops, a->xm, x, n * C);
    ops->rmsnorm_forward(p->ops, a->n2, a->s2, a->xm, layer->post_norm, (real)p->model->config.rms_norm_eps, n, C);
    forward_group(p, LINEAR_GATE, 2, a, a->n2, (act *const[]){a->gate, a->up});
    ops->swiglu_forward(p->ops, a->act, a->gate, a->up, n * F);
    forward(p, LINEAR_DOWN, a, a->act, y);
    if (y)
        ops->add(p->ops, y, a->xm, n * C);
}

/* kept: where to keep the activations, or NULL.  y NULL: computed again for its backward. */
static void layer_forward(const struct layer_pass *p, struct layer_acts *a, const struct layer_kept *kept, const real *x, real *y)
{
    if (kept)
        model_keep_stream(p, kept, x);
    model_layer_qkv(p, a, x);
    if (kept)
        model_keep_qkv(p, kept, a);
    struct attention_args attention = attention_args(p, a);
    p->ops->ops->attention_forward(p->ops, &attention);
    model_layer_rest(p, a, x, y);
    if (kept)
        model_keep_rest(p, kept, a);
}

/* The activations of layer l that its backward pass reads: from what is kept of it, or from the stream before it, which stands in x[l] then. */
static void layer_restore(const struct model_run *run, const struct layer_pass *p)
{
    struct model_acts *acts = run->acts;
    if (acts->kept)
        model_restore(p, &acts->kept[p->l], &acts->layer[p->l], acts->x[p->l]);
    if (!run->keep)
        layer_forward(p, &acts->layer[p->l], NULL, acts->x[p->l], NULL);
}

/* dx: on entry the gradient of y, on exit that of x (unless `last`: nothing below is trained, and it is left unfinished). */
static void layer_backward(const struct layer_pass *p, struct model_acts *acts, const struct layer_acts *a, const real *x, bool last)
{
    const struct ops *ops = p->ops->ops;
    const struct model_layer *layer = &p->model->layer[p->l];
    const struct plan_layer *w = &p->model->plan.layer[p->l];
    real *dinput_norm = p->grads ? p->grads->layer[p->l].input_norm : NULL;
    real *dpost_norm = p->grads ? p->grads->layer[p->l].post_norm : NULL;
    size_t n = p->batch->n, C = (size_t)p->model->config.hidden_size, F = (size_t)w->ffn;

    backward(p, LINEAR_DOWN, a, a->act, acts->dx, acts->dact, false);
    act *dgate = a->gate, *dup = a->up; /* in their places: nobody reads them again */
    ops->swiglu_backward(p->ops, dgate, dup, acts->dact, a->gate, a->up, n * F);
    backward(p, LINEAR_UP, a, a->n2, dup, acts->dn, false);
    backward(p, LINEAR_GATE, a, a->n2, dgate, acts->dn, true);
    ops->rmsnorm_backward(p->ops, acts->dx, dpost_norm, acts->dn, a->xm, layer->post_norm, a->s2, n, C); /* dx += */

    /* datt, dq, dk, dv lie where dact was */
    backward(p, LINEAR_O, a, a->att, acts->dx, acts->datt, false);
    struct attention_args attention = attention_args(p, a);
    attention.dout = acts->datt;
    attention.dq = acts->dq;
    attention.dk = acts->dk;
    attention.dv = acts->dv;
    ops->attention_backward(p->ops, &attention);
    rope(p, acts->dq, w->heads, true);
    rope(p, acts->dk, w->kv_heads, true);
    act *dn = last ? NULL : acts->dn;
    backward(p, LINEAR_V, a, a->n1, acts->dv, dn, false);
    backward(p, LINEAR_K, a, a->n1, acts->dk, dn, dn != NULL);
    backward(p, LINEAR_Q, a, a->n1, acts->dq, dn, dn != NULL);
    if (last)
        return;
    ops->rmsnorm_backward(p->ops, acts->dx, dinput_norm, acts->dn, x, layer->input_norm, a->s1, n, C); /* dx += */
}

/* ---- all layers ---- */

static enum status check_batch(const struct model_run *run, const struct model *model, const struct batch *batch, struct err *err)
{
    int32_t V = model->config.vocab_size;
    if (batch->n == 0 || batch->n > run->max_n)
        return err_set(err, ERR_FAILED, "a batch of %zu rows, memory was planned for 1 to %zu", batch->n, run->max_n);
    for (size_t i = 0; i < batch->n; i++) {
        if (batch->tokens[i] < 0 || batch->tokens[i] >= V)
            return err_set(err, ERR_INPUT, "token %d at row %zu, the model has 0 to %d", batch->tokens[i], i, V - 1);
        if (batch->labels && batch->labels[i] >= V)
            return err_set(err, ERR_INPUT, "label %d at row %zu, the model has 0 to %d", batch->labels[i], i, V - 1);
    }
    return OK;
}

static enum status check_no_prefix(const struct batch *batch, struct err *err)
{
    for (size_t i = 0; i < batch->n_segments; i++)
        if (batch->segments[i].prefix_len > 0)
            return err_set(err, ERR_FAILED, "segment %zu has a shared prefix: those have no backward", i);
    return OK;
}

/* Checks the batch; `read` is what kernels see of it. */
static enum status batch_in(const struct model_run *run, const struct model *model, const struct batch *batch, struct batch *read, struct err *err)
{
    TRY(check_batch(run, model, batch, err));
    return model_batch_up(run, batch, read, err);
}

/* x: where the residual stream before each layer goes; what the last one gives goes into the run's own. */
static enum status forward_all(struct model_run *run, struct layer_pass *p, real *const x[], struct err *err)
{
    struct model_acts *acts = run->acts;
    const struct model *model = p->model;
    size_t n = p->batch->n, C = (size_t)model->config.hidden_size;
    int L = model->config.num_hidden_layers;
    p->ops->ops->embed_forward(p->ops, &model->embed, p->batch->tokens, n, x[0]);
    model_angles(run, model, p->batch->positions, n);
    p->angles = acts->angles;
    for (p->l = 0; p->l < L; p->l++) {
        TRY(stop_check(err));
        layer_forward(p, &acts->layer[p->l], acts->kept && p->dropout ? &acts->kept[p->l] : NULL, x[p->l], p->l + 1 < L ? x[p->l + 1] : acts->x[L]);
    }
    p->ops->ops->rmsnorm_forward(p->ops, acts->nf, acts->sf, acts->x[L], model->norm, (real)model->config.rms_norm_eps, n, C);
    return OK;
}

/* Sum over labelled rows in row order, so that it does not depend on chunks. */
static enum status sum_nll(const struct batch *batch, const double *nll, double *sum, size_t *count, struct err *err)
{
    *sum = 0;
    *count = 0;
    for (size_t i = 0; i < batch->n; i++)
        if (batch->labels[i] >= 0) {
            *sum += nll[i];
            ++*count;
        }
    return isfinite(*sum) ? OK : err_set(err, ERR_DIVERGED, "the loss is not finite");
}

enum status model_score(struct model_run *run, const struct model *model, const struct lora *lora, const struct batch *batch,
                        double *nll, uint8_t *greedy, double *sum, size_t *count, struct err *err)
{
    const struct model_there *there = run->acts->there;
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .lora = lora, .batch = &read};
    TRY(batch_in(run, model, batch, &read, err));
    TRY(forward_all(run, &p, run->acts->x, err));
    struct head_args head = {.W = &model->head, .n = read.n, .x = run->acts->nf, .labels = read.labels, .nll = nll && !there ? nll : run->acts->nll,
                             .greedy = greedy && there ? there->greedy : greedy};
    run->ops->ops->head_loss(run->ops, &head);
    double *to = nll ? nll : there ? there->host : run->acts->nll;
    TRY(model_scores_down(run, read.n, to, greedy, err));
    return sum_nll(batch, to, sum, count, err);
}

/* The lowest layer with something to train; L when there is none. */
static int lowest_trained(const struct layer_pass *p)
{
    int L = p->model->config.num_hidden_layers;
    if (p->grads)
        return 0;
    for (int l = 0; p->lora && l < L; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (p->lora->adapter[l][j].r > 0)
                return l;
    return L;
}

/* The loss of what forward_all left, and dx[n, C], its gradient with respect to what the last layer gave. */
static enum status head_backward(struct model_run *run, const struct layer_pass *p, const struct batch *batch, real scale, real *dx, double *sum,
                                 size_t *count, struct err *err)
{
    struct model_acts *acts = run->acts;
    const struct model *model = p->model;
    size_t n = p->batch->n, C = (size_t)model->config.hidden_size;
    struct head_args head = {.W = &model->head, .n = n, .x = acts->nf, .labels = p->batch->labels, .nll = acts->nll, .dx = acts->dn, .scale = scale};
    if (p->grads && !p->grads->linears_only)
        head.dW = model->config.tie_word_embeddings ? p->grads->embed : p->grads->head;
    p->ops->ops->head_loss(p->ops, &head);
    double *nll = acts->there ? acts->there->host : acts->nll;
    TRY(model_scores_down(run, n, nll, NULL, err));
    TRY(sum_nll(batch, nll, sum, count, err));
    model_clear(p->ops, dx, n * C); /* rmsnorm_backward adds */
    p->ops->ops->rmsnorm_backward(p->ops, dx, p->grads ? p->grads->norm : NULL, acts->dn, acts->x[model->config.num_hidden_layers], model->norm, acts->sf,
                                  n, C);
    return OK;
}

static enum status backward_all(struct model_run *run, struct layer_pass *p, struct err *err)
{
    struct model_acts *acts = run->acts;
    const struct model *model = p->model;
    size_t n = p->batch->n, C = (size_t)model->config.hidden_size;
    int L = model->config.num_hidden_layers, lowest = lowest_trained(p);
    bool whole = p->grads && !p->grads->linears_only; /* embeddings and norms too */
    for (p->l = L - 1; p->l >= lowest; p->l--) {
        TRY(stop_check(err));
        layer_restore(run, p);
        layer_backward(p, acts, &acts->layer[p->l], acts->x[p->l], p->l == lowest && !whole);
    }
    if (whole)
        p->ops->ops->embed_backward(p->ops, p->grads->embed, p->batch->tokens, n, C, acts->dx);
    return OK;
}

enum status model_train(struct model_run *run, const struct model *model, struct lora *lora, struct model_grads *grads,
                        const struct batch *batch, real scale, uint32_t dropout_step, double *sum, size_t *count, struct err *err)
{
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .lora = lora, .grads = grads, .batch = &read, .dropout = true,
                           .dropout_step = dropout_step};
    if (lora && lora->dropout > 0 && !run->dropout)
        return err_set(err, ERR_FAILED, "adapters with dropout, but memory was planned for none");
    TRY(check_no_prefix(batch, err));
    TRY(batch_in(run, model, batch, &read, err));
    TRY(forward_all(run, &p, run->acts->x, err));
    TRY(head_backward(run, &p, batch, scale, run->acts->dx, sum, count, err));
    return backward_all(run, &p, err);
}

enum status model_hidden(struct model_run *run, const struct model *model, const struct lora *lora, const struct batch *batch,
                         const act **x, struct err *err)
{
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .lora = lora, .batch = &read};
    TRY(batch_in(run, model, batch, &read, err));
    TRY(forward_all(run, &p, run->acts->x, err));
    *x = run->acts->nf;
    return OK;
}

enum status model_embed(const struct model_run *run, const struct model *model, const struct batch *batch, real *x, struct err *err)
{
    struct batch read;
    TRY(batch_in(run, model, batch, &read, err));
    run->ops->ops->embed_forward(run->ops, &model->embed, read.tokens, read.n, x);
    return OK;
}

enum status model_block(struct model_run *run, const struct model *model, const struct batch *batch, int l, const real *x, real *y,
                        const act *inputs[LINEAR_COUNT], struct err *err)
{
    const struct layer_acts *a = &run->acts->layer[l];
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .batch = &read, .angles = run->acts->angles, .l = l};
    TRY(batch_in(run, model, batch, &read, err));
    TRY(stop_check(err));
    model_angles(run, model, read.positions, read.n);
    layer_forward(&p, &run->acts->layer[l], NULL, x, y);
    for (int j = 0; inputs && j < LINEAR_COUNT; j++)
        inputs[j] = j <= LINEAR_V ? a->n1 : j == LINEAR_O ? a->att : j <= LINEAR_UP ? a->n2 : a->act;
    return OK;
}

/* `dropout` stands for training: where activations are kept in bf16, they are rounded as model_train rounds them. */
enum status model_streams(struct model_run *run, const struct model *model, const struct batch *batch, real *const x[], struct err *err)
{
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .batch = &read, .dropout = true};
    TRY(check_no_prefix(batch, err));
    TRY(batch_in(run, model, batch, &read, err));
    return forward_all(run, &p, x, err);
}

enum status model_head_backward(struct model_run *run, const struct model *model, const struct batch *batch, real scale, real *dx, double *sum,
                                size_t *count, struct err *err)
{
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .batch = &read};
    TRY(batch_in(run, model, batch, &read, err));
    return head_backward(run, &p, batch, scale, dx, sum, count, err);
}

enum status model_block_backward(struct model_run *run, const struct model *model, struct model_grads *grads, const struct batch *batch, int l,
                                 const real *x, real *dx, struct err *err)
{
    struct model_acts acts = *run->acts; /* but for dx */
    const struct layer_kept *kept = acts.kept ? &acts.kept[l] : NULL;
    struct batch read;
    struct layer_pass p = {.ops = run->ops, .model = model, .grads = grads, .batch = &read, .angles = acts.angles, .l = l};
    TRY(batch_in(run, model, batch, &read, err));
    TRY(stop_check(err));
    model_angles(run, model, read.positions, read.n);
    if (kept && kept->stream_only)
        model_keep_stream(&p, kept, x);
    else
        layer_forward(&p, &acts.layer[l], kept, x, NULL);
    if (kept)
        layer_restore(run, &p);
    acts.dx = dx;
    layer_backward(&p, &acts, &acts.layer[l], kept ? acts.x[l] : x, l == 0);
    return OK;
}

void model_logits(const struct model_run *run, const struct model *model, const act *x, size_t n, real *logits)
{
    struct linear_args args = {.W = &model->head, .n = n, .x = x, .y = logits, .real_y = true};
    run->ops->ops->linear_forward(run->ops, &args, 1);
}
