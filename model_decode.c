/* model_decode.c: one sequence, token by token, with its keys and values kept. */
#include "base/size.h"
#include "base/stop.h"
#include "model_acts.h"

/* Products have few rows, attention many keys: what one kernel takes, others take in turn. */
size_t model_decode_scratch_size(const struct model *model, struct ops_context *c, size_t rows, size_t context)
{
    size_t D = (size_t)model->config.head_dim, width = 0;
    for (int l = 0; l < model->plan.n_layers; l++)
        width = size_max(width, (size_t)model->plan.layer[l].heads * D);
    model_scratch_size(model, c, rows);
    size_t shared = c->shared_n, own = c->scratch_n;
    c->ops->scratch_size(c, width, width, D, context, 1);
    c->shared_n = size_max(c->shared_n, shared);
    c->scratch_n = size_max(c->scratch_n, own);
    return c->shared_n + c->scratch_n * (size_t)c->threads;
}

void kv_cache_place(struct kv_cache *cache, const struct model *model, enum format type, size_t capacity, struct arena *arena)
{
    size_t L = (size_t)model->config.num_hidden_layers, D = (size_t)model->config.head_dim, bytes = cache_number_bytes(type);
    cache->capacity = capacity;
    cache->n = 0;
    cache->type = type;
    cache->k = arena_take_table(arena, L, sizeof *cache->k);
    cache->v = arena_take_table(arena, L, sizeof *cache->v);
    for (size_t l = 0; l < L; l++) {
        size_t width = (size_t)model->plan.layer[l].kv_heads * D;
        void *k = arena_take(arena, capacity * width, bytes), *v = arena_take(arena, capacity * width, bytes);
        if (cache->k) {
            cache->k[l] = k;
            cache->v[l] = v;
        }
    }
}

static void decode_layer(const struct layer_pass *p, struct layer_acts *a, struct kv_cache *cache, const real *x, real *y)
{
    const struct plan_layer *w = &p->model->plan.layer[p->l];
    const struct decode_args args = {.out = a->att, .q = a->q, .k = a->k, .v = a->v, .k_cache = cache->k[p->l], .v_cache = cache->v[p->l],
                                     .cache_type = cache->type, .n = p->batch->n, .past = cache->n, .capacity = cache->capacity,
                                     .H = w->heads, .KV = w->kv_heads, .D = p->model->config.head_dim};
    model_layer_qkv(p, a, x);
    p->ops->ops->attention_keep(p->ops, &args);
    p->ops->ops->attention_decode(p->ops, &args);
    model_layer_rest(p, a, x, y);
}

struct token_pass {
    struct layer_pass p;
    struct model_run *run;
    struct kv_cache *cache;
    real *logits;
    enum status status;
    struct err *err;
};

/* All layers, and the logits of the last row. */
static void decode_token(void *args)
{
    struct token_pass *t = args;
    struct layer_pass *p = &t->p;
    const struct model *model = p->model;
    struct model_acts *acts = t->run->acts;
    const struct ops *ops = p->ops->ops;
    size_t n = p->batch->n, C = (size_t)model->config.hidden_size;
    int L = model->config.num_hidden_layers;
    model_angles(t->run, model, p->batch->positions, n);
    ops->embed_forward(p->ops, &model->embed, p->batch->tokens, n, acts->x[0]);
    for (p->l = 0; p->l < L; p->l++) {
        if ((t->status = stop_check(t->err)) != OK)
            return;
        decode_layer(p, &acts->layer[p->l], t->cache, acts->x[p->l], acts->x[p->l + 1]);
    }
    ops->rmsnorm_forward(p->ops, acts->nf, acts->sf, acts->x[L] + (n - 1) * C, model->norm, (real)model->config.rms_norm_eps, 1, C);
    model_logits(t->run, model, acts->nf, 1, t->logits);
}

enum status model_decode(struct model_run *run, const struct model *model, const struct lora *lora, struct kv_cache *cache,
                         const int32_t *tokens, size_t n, real *logits, struct err *err)
{
    struct model_acts *acts = run->acts;
    if (n == 0 || n > run->max_n)
        return err_set(err, ERR_FAILED, "%zu tokens at once, memory was planned for 1 to %zu", n, run->max_n);
    if (n > cache->capacity - cache->n)
        return err_set(err, ERR_INPUT, "the context of %zu tokens is full", cache->capacity);
    int32_t *positions = (int32_t *)(void *)(acts->there ? acts->there->host : acts->nll); /* max_n doubles, unused here */
    for (size_t i = 0; i < n; i++)
        positions[i] = (int32_t)(cache->n + i);
    struct batch batch = {.n = n, .tokens = tokens, .positions = positions}, read;
    struct token_pass t = {.p = {.ops = run->ops, .model = model, .lora = lora, .batch = &read, .angles = acts->angles}, .run = run, .cache = cache,
                           .logits = logits, .err = err};
    TRY(model_batch_up(run, &batch, &read, err));
    if (n == 1)
        run->ops->ops->together(run->ops, decode_token, &t);
    else
        decode_token(&t);
    TRY(t.status);
    cache->n += n;
    return OK;
}
