/* model_decode.c: one sequence, token by token, with its keys and values kept. */
#include <string.h>

#include "base/stop.h"
#include "model_acts.h"

void kv_cache_place(struct kv_cache *cache, const struct model *model, size_t capacity, struct arena *arena)
{
    size_t L = (size_t)model->config.num_hidden_layers, D = (size_t)model->config.head_dim;
    cache->capacity = capacity;
    cache->n = 0;
    cache->k = arena_take(arena, L, sizeof *cache->k);
    cache->v = arena_take(arena, L, sizeof *cache->v);
    for (size_t l = 0; l < L; l++) {
        size_t width = (size_t)model->plan.layer[l].kv_heads * D;
        real *k = arena_take(arena, capacity * width, sizeof(real)), *v = arena_take(arena, capacity * width, sizeof(real));
        if (cache->k) {
            cache->k[l] = k;
            cache->v[l] = v;
        }
    }
}

static void decode_layer(const struct layer_pass *p, struct layer_acts *a, struct kv_cache *cache, const real *x, real *y)
{
    const struct plan_layer *w = &p->model->plan.layer[p->l];
    size_t n = p->batch->n, KV = (size_t)w->kv_heads, D = (size_t)p->model->config.head_dim;
    model_layer_qkv(p, a, x);
    for (size_t i = 0; i < n * KV; i++) {
        size_t to = (i % KV * cache->capacity + cache->n + i / KV) * D;
        memcpy(cache->k[p->l] + to, a->k + i * D, D * sizeof(real));
        memcpy(cache->v[p->l] + to, a->v + i * D, D * sizeof(real));
    }
    p->ops->ops->attention_decode(p->ops, &(struct decode_args){.out = a->att, .q = a->q, .k = cache->k[p->l], .v = cache->v[p->l], .n = n,
                                                                .past = cache->n, .capacity = cache->capacity, .H = w->heads, .KV = w->kv_heads,
                                                                .D = p->model->config.head_dim});
    model_layer_rest(p, a, x, y);
}

enum status model_decode(struct model_run *run, const struct model *model, const struct lora *lora, struct kv_cache *cache,
                         const int32_t *tokens, size_t n, real *logits, struct err *err)
{
    struct model_acts *acts = run->acts;
    size_t C = (size_t)model->config.hidden_size;
    int L = model->config.num_hidden_layers;
    if (n == 0 || n > run->max_n)
        return err_set(err, ERR_FAILED, "%zu tokens at once, memory was planned for 1 to %zu", n, run->max_n);
    if (n > cache->capacity - cache->n)
        return err_set(err, ERR_INPUT, "the context of %zu tokens is full", cache->capacity);
    int32_t *positions = (int32_t *)(void *)acts->nll; /* max_n doubles, unused here */
    for (size_t i = 0; i < n; i++)
        positions[i] = (int32_t)(cache->n + i);
    struct batch batch = {.n = n, .tokens = tokens, .positions = positions};
    struct layer_pass p = {.ops = run->ops, .model = model, .lora = lora, .batch = &batch, .angles = acts->angles};
    model_angles(run, model, positions, n);
    run->ops->ops->embed_forward(run->ops, &model->embed, tokens, n, acts->x[0]);
    for (p.l = 0; p.l < L; p.l++) {
        TRY(stop_check(err));
        decode_layer(&p, &acts->layer[p.l], cache, acts->x[p.l], acts->x[p.l + 1]);
    }
    cache->n += n;
    const real *last = acts->x[L] + (n - 1) * C;
    run->ops->ops->rmsnorm_forward(run->ops, acts->nf, acts->sf, last, model->norm, (real)model->config.rms_norm_eps, 1, C);
    model_logits(run, model, acts->nf, 1, logits);
    return OK;
}
