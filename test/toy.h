/* toy.h: a small model with all the memory that training and scoring it takes, for tests above the model. */
#ifndef VENEER_TEST_TOY_H
#define VENEER_TEST_TOY_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/rng.h"
#include "base/size.h"
#include "lora.h"
#include "model.h"

#define ASSERT_OK(call)                                        \
    do {                                                       \
        err.text[0] = 0;                                       \
        enum status status_ = (call);                          \
        if (status_ != OK)                                     \
            fail_msg("%s: status %d: %s", #call, (int)status_, err.text); \
    } while (0)

struct toy {
    struct arena weights, optimizer, activations, scratch;
    struct model model;
    struct lora lora;
    struct model_grads grads; /* when full */
    real *m, *v;
    struct ops table; /* a copy, so that a test can put a slot of its own in */
    struct ops_context ops;
    struct model_run run;
};

/* Two layers, GQA, head_dim * heads != hidden_size. */
static inline void toy_config(struct model_config *config, int32_t vocab_size)
{
    struct err err;
    ASSERT_OK(model_config_alloc(config, 2, &err));
    config->vocab_size = vocab_size;
    config->hidden_size = 32;
    config->head_dim = 16;
    config->max_position_embeddings = 64;
    for (int l = 0; l < 2; l++) {
        config->num_attention_heads[l] = 4;
        config->num_key_value_heads[l] = 2;
        config->intermediate_size[l] = 96;
    }
}

/* Threads and scratch of the kernels, activations for max_n rows; the model is placed.  training false: for scoring alone. */
static inline void toy_place(struct toy *toy, size_t max_n, size_t max_rank, int threads, bool training)
{
    struct err err;
    const struct model_config *c = &toy->model.config;
    linalg_init(); /* as the engine does: BLAS leaves the threads to us */
    size_t widest = (size_t)c->hidden_size;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        widest = size_max(widest, (size_t)c->intermediate_size[l]);
        widest = size_max(widest, (size_t)c->num_attention_heads[l] * (size_t)c->head_dim);
    }
    toy->table = *cpu_ops(false);
    toy->ops = (struct ops_context){.ops = &toy->table, .threads = threads};
    size_t n = toy->table.scratch_size(&toy->ops, widest, widest, (size_t)c->head_dim, max_n, (size_t)c->vocab_size);
    arena_take(&toy->scratch, n, sizeof(real));
    ASSERT_OK(arena_commit(&toy->scratch, "scratch", &err));
    toy->ops.scratch = arena_take(&toy->scratch, n, sizeof(real));
    toy->run = (struct model_run){.ops = &toy->ops, .max_n = max_n, .max_rank = max_rank, .dropout = true, .training = training, .keep = training};
    ASSERT_OK(model_run_place(&toy->run, &toy->model, &toy->lora, &toy->activations, &err));
    ASSERT_OK(arena_commit(&toy->activations, "activations", &err));
    ASSERT_OK(model_run_place(&toy->run, &toy->model, &toy->lora, &toy->activations, &err));
}

static inline void toy_place_run(struct toy *toy, size_t max_n, size_t max_rank, int threads)
{
    toy_place(toy, max_n, max_rank, threads, true);
}

/* Random weights in `format`, adapters of rank `rank` (0: full training, weights F32) started with A random and B = 0. */
static inline void toy_open(struct toy *toy, int32_t vocab_size, enum format format, int32_t rank, size_t max_n, int threads)
{
    struct err err;
    struct model_config config;
    struct plan plan;
    struct toy full = {0};
    memset(toy, 0, sizeof *toy);
    toy_config(&config, vocab_size);
    ASSERT_OK(plan_new(&plan, &config, FORMAT_F32, &err));
    ASSERT_OK(model_shape(&full.model, &config, &plan, &err));
    model_place(&full.model, FORMAT_F32, &full.weights);
    ASSERT_OK(arena_commit(&full.weights, "weights", &err));
    model_place(&full.model, FORMAT_F32, &full.weights);
    model_random(&full.model, 0.02, 7);
    if (rank == 0) {
        *toy = full;
        toy->model.head = full.model.head;
    } else {
        for (int l = 0; l < plan.n_layers; l++)
            for (int j = 0; j < LINEAR_COUNT; j++) {
                plan.layer[l].linear[j].format = format;
                plan.layer[l].linear[j].rank = rank;
                plan.layer[l].linear[j].alpha = (float)(2 * rank);
            }
        ASSERT_OK(model_shape(&toy->model, &config, &plan, &err));
        model_place(&toy->model, FORMAT_F32, &toy->weights);
        lora_place(&toy->lora, &plan, &config, true, &toy->optimizer);
        ASSERT_OK(arena_commit(&toy->weights, "weights", &err));
        ASSERT_OK(arena_commit(&toy->optimizer, "optimizer", &err));
        model_place(&toy->model, FORMAT_F32, &toy->weights);
        lora_place(&toy->lora, &plan, &config, true, &toy->optimizer);
        size_t C = (size_t)config.hidden_size, V = (size_t)vocab_size;
        memcpy(toy->model.embed.codes, full.model.embed.codes, V * C * sizeof(real));
        memcpy(toy->model.head.codes, full.model.head.codes, V * C * sizeof(real));
        memcpy(toy->model.norm, full.model.norm, C * sizeof(real));
        for (int l = 0; l < plan.n_layers; l++) {
            memcpy(toy->model.layer[l].input_norm, full.model.layer[l].input_norm, C * sizeof(real));
            memcpy(toy->model.layer[l].post_norm, full.model.layer[l].post_norm, C * sizeof(real));
            for (int j = 0; j < LINEAR_COUNT; j++) {
                const struct adapter *a = &toy->lora.adapter[l][j];
                struct lora_init_options o = {.init = LORA_INIT_DEFAULT, .loftq_iters = 1, .seed = 3,
                                              .step = (uint32_t)(l * LINEAR_COUNT + j)};
                ASSERT_OK(lora_start(&toy->model.layer[l].linear[j], a->A, a->B, full.model.layer[l].linear[j].codes, a->r, a->s, &o,
                                     &err));
            }
        }
        model_free(&full.model);
        arena_free(&full.weights);
    }
    if (rank == 0) {
        size_t n;
        assert_non_null(model_parameter_block(&toy->model, &n));
        for (int pass = 0; pass < 2; pass++) {
            model_grads_place(&toy->grads, &toy->model, false, &toy->optimizer);
            assert_int_equal(toy->grads.n, n);
            toy->m = arena_take(&toy->optimizer, n, sizeof(real));
            toy->v = arena_take(&toy->optimizer, n, sizeof(real));
            if (pass == 0)
                ASSERT_OK(arena_commit(&toy->optimizer, "optimizer", &err));
        }
    }
    toy_place_run(toy, max_n, rank > 0 ? (size_t)rank : 1, threads);
    plan_free(&plan);
    model_config_free(&config);
}

static inline void toy_close(struct toy *toy)
{
    model_free(&toy->model);
    arena_free(&toy->weights);
    arena_free(&toy->optimizer);
    arena_free(&toy->activations);
    arena_free(&toy->scratch);
}

#endif
