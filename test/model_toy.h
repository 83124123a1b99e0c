/* model_toy.h: three layers of unlike widths with biases and, where asked for, adapters on four linears of five; a batch of four sequences.  For the tests of
 * model; include after cmocka.h. */
#ifndef VENEER_TEST_MODEL_TOY_H
#define VENEER_TEST_MODEL_TOY_H
#include "model_fixture.h"

enum { VOCAB = 61 };

static inline void make_config(struct model_config *config)
{
    static const int32_t heads[] = {4, 6, 2}, kv[] = {2, 2, 1}, ffn[] = {64, 96, 37};
    CHECK(model_config_alloc(config, 3, &err));
    config->vocab_size = VOCAB;
    config->hidden_size = 48;
    config->head_dim = 8;
    config->max_position_embeddings = 128;
    config->attention_bias = true;
    for (int l = 0; l < 3; l++) {
        config->num_attention_heads[l] = heads[l];
        config->num_key_value_heads[l] = kv[l];
        config->intermediate_size[l] = ffn[l];
    }
}

static inline void open_model(struct fixture *f, int32_t rank, struct fixture_options o)
{
    struct model_config config;
    struct plan plan;
    make_config(&config);
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    for (int i = 0; i < 3 * LINEAR_COUNT; i++) {
        plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].rank = i % 5 ? rank : 0;
        plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].alpha = 8;
    }
    o.max_n = 128;
    fixture_open(f, &config, &plan, o);
    plan_free(&plan);
    model_config_free(&config);
    fixture_fill(f, 21);
    for (size_t i = 0; o.small_adapters && i < f->lora.n; i++)
        f->lora.p[i] *= (real)0.1;
    f->lora.dropout = 0.2f;
    f->lora.seed = 5;
}

static const int32_t lengths[] = {17, 1, 40, 33};

static inline void make_batch(struct fixture_batch *b)
{
    memset(b, 0, sizeof *b);
    for (uint32_t i = 0; i < 4; i++)
        add_random_sequence(b, lengths[i], VOCAB, i);
}

static inline void open_cache(struct kv_cache *cache, struct arena *arena, const struct model *model, enum format type, size_t capacity)
{
    memset(arena, 0, sizeof *arena);
    kv_cache_place(cache, model, type, capacity, arena);
    CHECK(arena_commit(arena, "cache", &err));
    kv_cache_place(cache, model, type, capacity, arena);
}

#endif
