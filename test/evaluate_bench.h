/* evaluate_bench.h: a toy model with a tokenizer, for the tests of evaluation, and the plain definition of a score. */
#ifndef VENEER_TEST_EVALUATE_BENCH_H
#define VENEER_TEST_EVALUATE_BENCH_H
#include "toy.h"

#include "golden.h"
#include "io/tokenizer.h"

enum { BENCH_CONTEXT = 64, BENCH_ROWS = 200 }; /* the model's window; rows of a batch, unless a test wants more */

struct bench {
    struct toy toy;
    struct tokenizer *tokenizer;
};

/* For batches of up to most_n rows. */
static inline void bench_open(struct bench *b, size_t most_n)
{
    struct err err;
    char path[512];
    ASSERT_OK(tokenizer_load_sentencepiece(&b->tokenizer, golden_path(path, "gguf/tokenizer.model"), &err));
    toy_open(&b->toy, tokenizer_vocab_size(b->tokenizer), FORMAT_F32, 0, most_n, 2);
    real *head = b->toy.model.head.codes; /* larger logits: tokens differ by nats, as a trained model's do, and by far more than rounding */
    for (size_t i = 0; i < b->toy.model.head.rows * b->toy.model.head.cols; i++)
        head[i] *= 30;
}

static inline void bench_close(struct bench *b)
{
    toy_close(&b->toy);
    tokenizer_free(b->tokenizer);
}

/* A group's setup and teardown: *state is the bench. */
static inline int open_bench(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    *state = b;
    bench_open(b, BENCH_ROWS);
    return 0;
}

static inline int close_bench(void **state)
{
    bench_close(*state);
    free(*state);
    return 0;
}

/* log p(ids[first ..] | before) of one sequence, nothing shared. */
static inline double log_likelihood(struct bench *b, const int32_t *ids, size_t n, size_t first)
{
    struct err err;
    int32_t positions[BENCH_CONTEXT], labels[BENCH_CONTEXT];
    double sum;
    size_t count;
    assert_true(n >= 2 && n - 1 <= BENCH_CONTEXT && first >= 1);
    for (size_t t = 0; t + 1 < n; t++) {
        positions[t] = (int32_t)t;
        labels[t] = t + 1 >= first ? ids[t + 1] : -1;
    }
    struct segment segment = {.len = (int32_t)n - 1};
    struct batch batch = {.n = n - 1, .tokens = ids, .positions = positions, .labels = labels, .segments = &segment, .n_segments = 1};
    ASSERT_OK(model_score(&b->toy.run, &b->toy.model, NULL, &batch, NULL, NULL, &sum, &count, &err));
    assert_int_equal(count, n - first);
    return -sum;
}

#endif
