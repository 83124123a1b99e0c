/* prune_fixture.h: shapes, a model with all that a pruner may meet, its scores: for the tests of pruning. */
#ifndef VENEER_TEST_PRUNE_FIXTURE_H
#define VENEER_TEST_PRUNE_FIXTURE_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model_fixture.h"
#include "prune.h"

static inline void uniform(struct model_config *c, int32_t L, int32_t hidden, int32_t heads, int32_t kv, int32_t D, int32_t ffn, int32_t vocab)
{
    CHECK(model_config_alloc(c, L, &err));
    c->hidden_size = hidden;
    c->head_dim = D;
    c->vocab_size = vocab;
    for (int32_t l = 0; l < L; l++) {
        c->num_attention_heads[l] = heads;
        c->num_key_value_heads[l] = kv;
        c->intermediate_size[l] = ffn;
    }
}

static inline uint64_t parameters(const struct model_config *c)
{
    struct plan plan;
    CHECK(plan_new(&plan, c, FORMAT_F32, &err));
    uint64_t n = plan_parameters(&plan, c);
    plan_free(&plan);
    return n;
}

/* Grouped heads, uneven layers, biases on all of attention, heads * D != C. */
static inline void open_model_with(struct fixture *f, bool tied, struct fixture_options options)
{
    struct model_config c = {0};
    struct plan plan;
    uniform(&c, 3, 24, 6, 3, 8, 64, 40);
    c.num_attention_heads[1] = 4;
    c.num_key_value_heads[1] = 2;
    c.intermediate_size[1] = 96;
    c.attention_bias = c.attention_out_bias = true;
    c.tie_word_embeddings = tied;
    c.max_position_embeddings = 64;
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    fixture_open(f, &c, &plan, options);
    fixture_fill(f, 11);
    plan_free(&plan);
    model_config_free(&c);
}

static inline void open_model(struct fixture *f, bool tied)
{
    open_model_with(f, tied, (struct fixture_options){.max_n = 24, .threads = 1, .keep = true});
}

enum { CALIBRATION_ROWS = 40, LONG_CALIBRATION = 100000 }; /* of two sequences; so many that gradients of all layers take less */

/* Scores with memory for calibration of so many rows, which decides by which way gradients come. */
static inline struct prune_scores compute_in(struct fixture *f, const struct prune_options *o, const struct fixture_batch *b, size_t n, size_t rows)
{
    struct arena arena = {0};
    struct prune_room room;
    struct batch batches[4];
    struct prune_scores scores;
    prune_room_place(&room, &f->model, o, rows, &arena);
    size_t counted = arena.used;
    CHECK(arena_commit(&arena, "importance", &err));
    prune_room_place(&room, &f->model, o, rows, &arena);
    assert_int_equal(arena.used, counted);
    assert_int_equal(room.x != NULL, o->type == PRUNE_TAYLOR && o->mode != PRUNE_CHANNEL && rows <= CALIBRATION_ROWS);
    for (size_t i = 0; i < n; i++)
        batches[i] = b[i].batch;
    CHECK(prune_scores_compute(&scores, &f->model, &f->run, &room, batches, n, o, &err));
    arena_free(&arena);
    return scores;
}

static inline struct prune_scores compute(struct fixture *f, const struct prune_options *o, const struct fixture_batch *b, size_t n)
{
    return compute_in(f, o, b, n, CALIBRATION_ROWS);
}

static inline double magnitude(const struct qmat *W, size_t row0, size_t rows, size_t col0, size_t cols, int power)
{
    double sum = 0;
    for (size_t r = row0; r < row0 + rows; r++)
        for (size_t c = col0; c < col0 + cols; c++) {
            double w = fabs((double)((const real *)W->codes)[r * W->cols + c]);
            sum += power == 2 ? w * w : w;
        }
    return sum;
}

#endif
