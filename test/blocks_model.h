/* blocks_model.h: a model whose matrices are in given formats, those without an encoder too, and GGUF files compared byte by byte.  Include after cmocka.h. */
#ifndef VENEER_TEST_BLOCKS_MODEL_H
#define VENEER_TEST_BLOCKS_MODEL_H
#include "io/gguf.h"
#include "model_fixture.h"
#include "random_blocks.h"

enum { BLOCKS_VOCAB = 1030, BLOCKS_HIDDEN = 256, BLOCKS_HEADS = 4, BLOCKS_KV = 2, BLOCKS_HEAD_DIM = 64 };

struct blocks_model {
    struct model model;
    struct arena arena;
};

static inline void blocks_fill(struct qmat *q, uint32_t step)
{
    struct rng rng = {.seed = 2, .stream = RNG_INIT, .step = step};
    size_t n = q->rows * q->cols;
    if (format_info(q->format)->read_only) {
        random_blocks(q->format, q->codes, n, step);
        return;
    }
    real *W = malloc(n * sizeof *W);
    for (size_t i = 0; i < n; i++)
        W[i] = (real)(0.05 * rng_normal(&rng));
    CHECK(quant_encode(q, W, false, &err));
    free(W);
}

/* Linear i of all has formats[i + its layer], modulo their number; where its rows hold no whole block of it, q5_0.  Embedding q4_k, head q6_k. */
static inline void blocks_make(struct blocks_model *w, int layers, const int32_t *ffn, const enum format *formats, int n_formats)
{
    struct model_config c = {0};
    struct plan plan;
    memset(w, 0, sizeof *w);
    CHECK(model_config_alloc(&c, layers, &err));
    c.vocab_size = BLOCKS_VOCAB;
    c.hidden_size = BLOCKS_HIDDEN;
    c.head_dim = BLOCKS_HEAD_DIM;
    c.max_position_embeddings = 64;
    strcpy(c.model_type, "llama");
    for (int l = 0; l < layers; l++) {
        c.num_attention_heads[l] = BLOCKS_HEADS;
        c.num_key_value_heads[l] = BLOCKS_KV;
        c.intermediate_size[l] = ffn[l];
    }
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    for (int i = 0; i < layers * LINEAR_COUNT; i++) {
        enum format f = formats[(i + i / LINEAR_COUNT) % n_formats];
        size_t out, in;
        plan_shape(&plan, &c, i / LINEAR_COUNT, (enum linear)(i % LINEAR_COUNT), &out, &in);
        plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].format = in % (size_t)format_info(f)->row_multiple == 0 ? f : FORMAT_Q5_0;
    }
    CHECK(model_shape(&w->model, &c, &plan, &err));
    model_place_head(&w->model, FORMAT_Q4_K, FORMAT_Q6_K, &w->arena);
    CHECK(arena_commit(&w->arena, "weights", &err));
    model_place_head(&w->model, FORMAT_Q4_K, FORMAT_Q6_K, &w->arena);
    blocks_fill(&w->model.embed, 100);
    blocks_fill(&w->model.head, 101);
    for (int i = 0; i < BLOCKS_HIDDEN; i++)
        w->model.norm[i] = 1;
    for (int l = 0; l < layers; l++) {
        for (int i = 0; i < BLOCKS_HIDDEN; i++)
            w->model.layer[l].input_norm[i] = w->model.layer[l].post_norm[i] = 1;
        for (int j = 0; j < LINEAR_COUNT; j++)
            blocks_fill(&w->model.layer[l].linear[j], (uint32_t)(l * LINEAR_COUNT + j));
    }
    plan_free(&plan);
    model_config_free(&c);
}

static inline void blocks_free(struct blocks_model *w)
{
    model_free(&w->model);
    arena_free(&w->arena);
}

/* Both files have the same tensors, byte for byte. */
static inline void blocks_same_tensors(const char *a_path, const char *b_path)
{
    struct gguf *a, *b;
    CHECK(gguf_open(&a, a_path, &err));
    CHECK(gguf_open(&b, b_path, &err));
    assert_int_equal(gguf_n_tensors(a), gguf_n_tensors(b));
    for (size_t i = 0; i < gguf_n_tensors(a); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(a, i), *u = gguf_tensor(b, t->name);
        assert_non_null(u);
        if (t->type != u->type)
            fail_msg("%s: %s, want %s", t->name, gguf_type_name(u->type), gguf_type_name(t->type));
        assert_int_equal(t->bytes, u->bytes);
        char *x = malloc((size_t)t->bytes), *y = malloc((size_t)t->bytes);
        CHECK(gguf_read(a, t, 0, x, (size_t)t->bytes, &err));
        CHECK(gguf_read(b, u, 0, y, (size_t)t->bytes, &err));
        if (memcmp(x, y, (size_t)t->bytes) != 0)
            fail_msg("%s: other bytes", t->name);
        free(x);
        free(y);
    }
    gguf_close(a);
    gguf_close(b);
}

#endif
