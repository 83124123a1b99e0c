/* The model: the same bits whatever the threads, the memory mode and the company; prefixes that change nothing; loading; what it refuses; and that a step
 * takes no memory.  Decoding: model_decode_test.c.
 *
 * Where sums may be in another order (a batch of another size is cut into other tiles), results agree to rounding.  An
 * nll of about 6 comes out of three layers of sums over at most 64 terms of size 1: each of some 40 sums on the way is off by at most
 * sqrt(64) 2^-24 of its size, together below 40 * 8 * 6e-8 = 2e-5 (on average far less). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/stop.h"
#include "golden.h"
#include "io/safetensors.h"
#include "model_toy.h"

static const double rounding = 2e-5;

/* ---- a malloc that counts what our own code asks for (the thread library takes memory for its teams) ---- */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS_MALLOC 1
extern char __executable_start, etext;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);
static size_t own_allocations;

static void count(const void *caller)
{
    if ((const char *)caller >= &__executable_start && (const char *)caller < &etext)
        __atomic_add_fetch(&own_allocations, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t n)
{
    count(__builtin_return_address(0));
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count(__builtin_return_address(0));
    return __libc_realloc(p, n);
}
#endif

/* ---- the same bits ---- */

struct outcome {
    double nll[128], score, train;
    uint8_t greedy[128];
    real *grads, *lora; /* owned */
    size_t n_grads, n_lora;
};

static real *duplicate(const real *x, size_t n)
{
    real *copy = malloc(n * sizeof *copy);
    assert_non_null(copy);
    return memcpy(copy, x, n * sizeof *x);
}

static void take_outcome(struct outcome *o, struct fixture_options options)
{
    struct fixture f;
    struct fixture_batch *b = malloc(sizeof *b);
    size_t n;
    assert_non_null(b);
    memset(o, 0, sizeof *o);
    open_model(&f, 4, options);
    make_batch(b);
    CHECK(model_score(&f.run, &f.model, &f.lora, &b->batch, o->nll, o->greedy, &o->score, &n, &err));
    CHECK(model_train(&f.run, &f.model, &f.lora, &f.grads, &b->batch, (real)0.1, 7, &o->train, &n, &err));
    o->n_grads = f.grads.n;
    o->n_lora = f.lora.n;
    o->grads = duplicate(f.grads.block, f.grads.n);
    o->lora = duplicate(f.lora.g, f.lora.n);
    free(b);
    fixture_close(&f);
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_memory_equal(a->nll, b->nll, sizeof a->nll);
    assert_memory_equal(a->greedy, b->greedy, sizeof a->greedy);
    assert_true(a->score == b->score && a->train == b->train && isfinite(a->train));
    assert_memory_equal(a->grads, b->grads, a->n_grads * sizeof *a->grads);
    assert_memory_equal(a->lora, b->lora, a->n_lora * sizeof *a->lora);
}

static void free_outcome(struct outcome *o)
{
    free(o->grads);
    free(o->lora);
}

static void test_same_bits(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        struct outcome one, other;
        take_outcome(&one, (struct fixture_options){.threads = 1, .keep = true, .reference = reference});
        for (int threads = 1; threads <= 3; threads++)
            for (int keep = 0; keep < 2; keep++) {
                take_outcome(&other, (struct fixture_options){.threads = threads, .keep = keep, .reference = reference});
                assert_same(&one, &other);
                free_outcome(&other);
            }
        /* with dropout the training loss is another one */
        assert_true(one.train != one.score);
        free_outcome(&one);
    }
}

/* ||a - b|| / ||b|| */
static double distance(const real *a, const real *b, size_t n)
{
    double d = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(d / size);
}

/* bf16 products and activations kept in bf16: each of the roundings on the way of a gradient changes it by at most 2^-9 of its size; a factor passes
 * through about ten of them in a layer (two in each product, one where it is kept), independent of each other: sqrt(10 * 3 layers) 2^-9 = 1.1e-2 for
 * forward, as much again for backward.  A buffer mistaken for another is off by 1. */
static void test_kept_in_halves(void **state)
{
    (void)state;
    struct outcome exact, kept, recomputed;
    take_outcome(&exact, (struct fixture_options){.threads = 1, .keep = true, .small_adapters = true});
    take_outcome(&recomputed, (struct fixture_options){.threads = 1, .compute = COMPUTE_BF16, .small_adapters = true});
    take_outcome(&kept, (struct fixture_options){.threads = 2, .keep = true, .compute = COMPUTE_BF16, .small_adapters = true});
    assert_true(distance(recomputed.lora, exact.lora, exact.n_lora) <= 2.2e-2);
    assert_true(distance(kept.lora, exact.lora, exact.n_lora) <= 2.2e-2);
    assert_true(distance(kept.grads, exact.grads, exact.n_grads) <= 2.2e-2);
    assert_true(distance(kept.lora, recomputed.lora, exact.n_lora) > 0); /* it is another way */
    assert_true(fabs(kept.train - exact.train) <= 2.2e-2 * exact.train);
    struct outcome again;
    take_outcome(&again, (struct fixture_options){.threads = 3, .keep = true, .compute = COMPUTE_BF16, .small_adapters = true});
    assert_same(&kept, &again);
    free_outcome(&exact), free_outcome(&kept), free_outcome(&recomputed), free_outcome(&again);
}

/* Layer by layer from the top, with the gradients of one layer at a time: model_train's, to the bit, whether it keeps activations or the stream alone, as they are or in bf16. */
static void test_one_layer_at_a_time(void **state)
{
    (void)state;
    static const struct fixture_options ways[] = {{.threads = 1, .keep = true},
                                                  {.threads = 1, .keep = false},
                                                  {.threads = 1, .keep = true, .compute = COMPUTE_BF16},
                                                  {.threads = 1, .keep = false, .compute = COMPUTE_BF16}};
    static struct fixture_batch b;
    make_batch(&b);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        struct fixture f;
        struct arena arena = {0};
        struct model_grads one = {0};
        double sum[2];
        size_t n[2], all = b.batch.n;
        open_model(&f, 0, ways[w]);
        size_t C = (size_t)f.model.config.hidden_size, L = (size_t)f.model.config.num_hidden_layers;
        real *dx = calloc(all * C, sizeof *dx), *memory = calloc(L * all * C, sizeof *memory), *x[8];
        assert_true(dx && memory && L <= 8);
        for (size_t l = 0; l < L; l++)
            x[l] = memory + l * all * C;
        model_grads_place_layer(&one, &f.model, &arena);
        CHECK(arena_commit(&arena, "gradients", &err));
        model_grads_place_layer(&one, &f.model, &arena);
        assert_true(one.n * sizeof(real) + L * sizeof *one.layer <= arena.used && one.n < f.grads.n / 2);
        CHECK(model_train(&f.run, &f.model, NULL, &f.grads, &b.batch, (real)0.25, 0, &sum[0], &n[0], &err));
        CHECK(model_streams(&f.run, &f.model, &b.batch, x, &err));
        CHECK(model_head_backward(&f.run, &f.model, &b.batch, 1, dx, &sum[1], &n[1], &err));
        CHECK(model_head_backward(&f.run, &f.model, &b.batch, (real)0.25, dx, &sum[1], &n[1], &err));
        assert_true(sum[0] == sum[1] && n[0] == n[1]);
        for (size_t l = L; l-- > 0;) {
            memset(one.block, 0, one.n * sizeof *one.block);
            CHECK(model_block_backward(&f.run, &f.model, &one, &b.batch, (int)l, x[l], dx, &err));
            for (int j = 0; j < LINEAR_COUNT; j++) {
                const struct qmat *W = &f.model.layer[l].linear[j];
                assert_memory_equal(one.layer[l].linear[j], f.grads.layer[l].linear[j], W->rows * W->cols * sizeof(real));
            }
        }
        free(dx);
        free(memory);
        arena_free(&arena);
        fixture_close(&f);
    }
}

/* ---- company, prefixes ---- */

static void assert_near(const double *a, const double *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= rounding))
            fail_msg("row %zu: %.9g and %.9g", i, a[i], b[i]);
}

static void test_alone_and_packed(void **state)
{
    (void)state;
    struct fixture f;
    static struct fixture_batch all, alone;
    double together[128], apart[128], sum;
    size_t n;
    open_model(&f, 4, (struct fixture_options){.threads = 2, .scoring = true});
    make_batch(&all);
    CHECK(model_score(&f.run, &f.model, &f.lora, &all.batch, together, NULL, &sum, &n, &err));
    for (uint32_t i = 0; i < 4; i++) {
        memset(&alone, 0, sizeof alone);
        add_random_sequence(&alone, lengths[i], VOCAB, i);
        CHECK(model_score(&f.run, &f.model, &f.lora, &alone.batch, apart, NULL, &sum, &n, &err));
        assert_near(apart, together + all.segments[i].start, (size_t)lengths[i]);
    }
    fixture_close(&f);
}

/* Three continuations of one prefix: with the prefix computed once, and each with its own copy. */
static void test_shared_prefix(void **state)
{
    (void)state;
    enum { PREFIX = 19 };
    static const int32_t tails[] = {5, 1, 12};
    struct fixture f;
    static struct fixture_batch shared, whole;
    double a[128], b[128], sum_a, sum_b;
    size_t n_a, n_b;
    memset(&shared, 0, sizeof shared);
    memset(&whole, 0, sizeof whole);
    open_model(&f, 4, (struct fixture_options){.threads = 2, .scoring = true});
    begin_segment(&shared);
    for (int32_t t = 0; t < PREFIX; t++)
        add_row(&shared, (7 * t + 3) % VOCAB, t, -1);
    for (int32_t i = 0; i < 3; i++) {
        struct segment *s = begin_segment(&shared);
        s->prefix_len = PREFIX;
        begin_segment(&whole);
        for (int32_t t = 0; t < PREFIX; t++)
            add_row(&whole, (7 * t + 3) % VOCAB, t, -1);
        for (int32_t t = 0; t < tails[i]; t++) {
            add_row(&shared, (11 * t + i) % VOCAB, PREFIX + t, (t + 2 * i) % VOCAB);
            add_row(&whole, (11 * t + i) % VOCAB, PREFIX + t, (t + 2 * i) % VOCAB);
        }
    }
    CHECK(model_score(&f.run, &f.model, &f.lora, &shared.batch, a, NULL, &sum_a, &n_a, &err));
    CHECK(model_score(&f.run, &f.model, &f.lora, &whole.batch, b, NULL, &sum_b, &n_b, &err));
    assert_true(n_a == 18 && n_b == 18);
    for (int i = 0; i < 3; i++)
        assert_near(a + shared.segments[i + 1].start, b + whole.segments[i].start + PREFIX, (size_t)tails[i]);
    fixture_close(&f);
}

/* ---- memory ---- */

static void test_modes_take_what_they_count(void **state)
{
    (void)state;
    enum { SCORED, STREAM_HALVES, STREAM, HALVES, WHOLE, MODES };
    static const struct fixture_options modes[MODES] = {
        [SCORED] = {.threads = 1, .scoring = true},
        [STREAM_HALVES] = {.threads = 1, .compute = COMPUTE_BF16},
        [STREAM] = {.threads = 1},
        [HALVES] = {.threads = 1, .keep = true, .compute = COMPUTE_BF16},
        [WHOLE] = {.threads = 1, .keep = true},
    };
    size_t used[MODES];
    for (int m = 0; m < MODES; m++) {
        struct fixture f; /* fixture_open compares counted with carved */
        open_model(&f, 4, modes[m]);
        used[m] = f.acts.used;
        fixture_close(&f);
    }
    assert_true(used[SCORED] < used[STREAM_HALVES] && used[STREAM_HALVES] < used[STREAM] && used[STREAM] < used[WHOLE]);
    assert_true(used[STREAM_HALVES] < used[HALVES] && used[HALVES] < used[WHOLE]);
}

static void test_a_step_takes_no_memory(void **state)
{
    (void)state;
#ifdef COUNTS_MALLOC
    struct fixture f;
    static struct fixture_batch b;
    struct kv_cache cache;
    struct arena arena;
    real logits[VOCAB];
    double sum;
    size_t n;
    open_model(&f, 4, (struct fixture_options){.threads = 2, .keep = true});
    open_cache(&cache, &arena, &f.model, FORMAT_F16, 64);
    make_batch(&b);
    size_t before = own_allocations;
    for (uint32_t step = 0; step < 100; step++) {
        CHECK(model_train(&f.run, &f.model, &f.lora, &f.grads, &b.batch, 1, step, &sum, &n, &err));
        CHECK(model_score(&f.run, &f.model, &f.lora, &b.batch, NULL, NULL, &sum, &n, &err));
        if (step < 64)
            CHECK(model_decode(&f.run, &f.model, &f.lora, &cache, b.tokens, 1, logits, &err));
    }
    assert_int_equal(own_allocations, before);
    void *volatile p = duplicate(logits, VOCAB); /* the counter does count */
    assert_int_equal(own_allocations, before + 1);
    free(p);
    arena_free(&arena);
    fixture_close(&f);
#else
    skip(); /* the sanitizer has a malloc of its own */
#endif
}

static void test_parameters_are_one_block(void **state)
{
    (void)state;
    struct fixture f;
    static struct parameters all;
    size_t n;
    open_model(&f, 0, (struct fixture_options){.threads = 1, .keep = true});
    real *block = model_parameter_block(&f.model, &n);
    assert_non_null(block);
    assert_int_equal(n, f.grads.n);
    list_parameters(&all, &f);
    for (size_t i = 0; i < all.n; i++) { /* as far into the weights as into the gradients, none outside */
        assert_int_equal(all.p[i].w - block, all.p[i].g - f.grads.block);
        assert_true(all.p[i].w >= block && all.p[i].w + all.p[i].rows * all.p[i].cols <= block + n);
    }
    f.model.layer[1].linear[LINEAR_UP].format = FORMAT_BF16;
    assert_null(model_parameter_block(&f.model, &n));
    fixture_close(&f);
}

/* ---- views ---- */

static void test_views(void **state)
{
    (void)state;
    struct fixture f;
    struct model view;
    struct plan plan;
    struct qmat q;
    struct arena arena = {0};
    static struct fixture_batch b;
    double base, again, other, same;
    size_t n;
    open_model(&f, 0, (struct fixture_options){.threads = 1, .scoring = true});
    make_batch(&b);
    CHECK(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &base, &n, &err));
    CHECK(plan_copy(&plan, &f.model.plan, &err));
    CHECK(model_alias(&view, &f.model, &plan, &err));
    CHECK(model_score(&f.run, &view, NULL, &b.batch, NULL, NULL, &same, &n, &err));
    assert_true(same == base);
    const struct qmat *W = &f.model.layer[1].linear[LINEAR_GATE];
    quant_place(&q, FORMAT_NF4, 0, false, W->rows, W->cols, &arena);
    CHECK(arena_commit(&arena, "matrix", &err));
    quant_place(&q, FORMAT_NF4, 0, false, W->rows, W->cols, &arena);
    CHECK(quant_encode(&q, W->codes, false, &err));
    view.layer[1].linear[LINEAR_GATE] = q;
    view.plan.layer[1].linear[LINEAR_GATE].format = FORMAT_NF4;
    CHECK(model_score(&f.run, &view, NULL, &b.batch, NULL, NULL, &other, &n, &err));
    CHECK(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &again, &n, &err));
    assert_true(again == base && other != base && fabs(other - base) < 0.2 * base);
    model_free(&view);
    model_free(&view); /* once more does no harm */
    CHECK(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &again, &n, &err));
    assert_true(again == base);
    plan_free(&plan);
    arena_free(&arena);
    fixture_close(&f);
}

/* ---- loading ---- */

/* golden/llama/A: F32 weights come as they are, other formats as quant_encode makes them of those. */
static void test_loading(void **state)
{
    (void)state;
    char path[512], file[600];
    struct checkpoint *checkpoint;
    struct safetensors st;
    struct plan plan;
    struct fixture f, q;
    static struct parameters all;
    CHECK(checkpoint_open(&checkpoint, golden_path(path, "llama/A"), &err));
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    CHECK(safetensors_open(&st, file, &err));
    const struct model_config *config = checkpoint_config(checkpoint);
    CHECK(plan_new(&plan, config, FORMAT_F32, &err));
    struct fixture_options o = {.max_n = 8, .threads = 1, .scoring = true};
    fixture_open(&f, config, &plan, o);
    CHECK(model_load(&f.model, checkpoint, &err));
    list_parameters(&all, &f);
    for (size_t i = 0; i < all.n; i++) {
        size_t n = all.p[i].rows * all.p[i].cols;
        real *want = malloc(n * sizeof *want);
        assert_non_null(want);
        CHECK(safetensors_read_real(&st, safetensors_find(&st, all.p[i].name), 0, n, want, &err));
        assert_memory_equal(want, all.p[i].w, n * sizeof *want);
        free(want);
    }
    plan_free(&plan);
    CHECK(plan_new(&plan, config, FORMAT_NF4, &err));
    fixture_open(&q, config, &plan, o);
    CHECK(model_load(&q.model, checkpoint, &err));
    for (int l = 0; l < plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *got = &q.model.layer[l].linear[j], *from = &f.model.layer[l].linear[j];
            double e = quant_error(got, from->codes);
            assert_int_equal(got->format, FORMAT_NF4);
            /* nf4 in blocks of 64 leaves normal weights with about 0.9 % of their energy */
            assert_true(e > 0.004 && e < 0.016);
        }
    plan_free(&plan);
    fixture_close(&f);
    fixture_close(&q);
    safetensors_close(&st);
    checkpoint_close(checkpoint);
}

/* Random weights: the deviation that is promised, the same ones for the same seed, others for another. */
static void test_random_weights(void **state)
{
    (void)state;
    struct fixture a, b;
    struct fixture_options o = {.threads = 1, .scoring = true};
    open_model(&a, 0, o);
    open_model(&b, 0, o);
    model_random(&a.model, 0.02, 3);
    model_random(&b.model, 0.02, 3);
    size_t n;
    const real *p = model_parameter_block(&a.model, &n), *q = model_parameter_block(&b.model, &n);
    assert_memory_equal(p, q, n * sizeof *p);
    model_random(&b.model, 0.02, 4);
    assert_memory_not_equal(p, q, n * sizeof *p);
    static const enum linear which[] = {LINEAR_UP, LINEAR_DOWN};
    for (int k = 0; k < 2; k++) {
        const struct qmat *W = &a.model.layer[1].linear[which[k]];
        double squares = 0, want = k ? 0.02 / sqrt(6) : 0.02, count = (double)(W->rows * W->cols);
        for (size_t i = 0; i < W->rows * W->cols; i++)
            squares += (double)((real *)W->codes)[i] * (double)((real *)W->codes)[i];
        /* the deviation of n normal numbers is known to 1/sqrt(2 n) of itself: five times that */
        assert_true(fabs(sqrt(squares / count) - want) <= 5 * want / sqrt(2 * count));
    }
    assert_true(a.model.norm[5] == 1 && a.model.layer[2].bias[LINEAR_Q][1] == 0);
    fixture_close(&a);
    fixture_close(&b);
}

/* ---- what it refuses ---- */

static void test_refusals(void **state)
{
    (void)state;
    struct fixture f;
    static struct fixture_batch b;
    struct err err;
    double sum;
    size_t n;
    open_model(&f, 0, (struct fixture_options){.threads = 1, .keep = true});
    make_batch(&b);
    b.tokens[3] = VOCAB;
    assert_int_equal(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &sum, &n, &err), ERR_INPUT);
    assert_string_equal(err.text, "token 61 at row 3, the model has 0 to 60");
    b.tokens[3] = 0;
    b.labels[5] = VOCAB;
    assert_int_equal(model_train(&f.run, &f.model, NULL, &f.grads, &b.batch, 1, 0, &sum, &n, &err), ERR_INPUT);
    assert_string_equal(err.text, "label 61 at row 5, the model has 0 to 60");
    b.labels[5] = 0;
    b.segments[1].prefix_len = 3;
    assert_int_equal(model_train(&f.run, &f.model, NULL, &f.grads, &b.batch, 1, 0, &sum, &n, &err), ERR_FAILED);
    b.segments[1].prefix_len = 0;
    f.run.max_n = 90;
    assert_int_equal(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &sum, &n, &err), ERR_FAILED);
    assert_string_equal(err.text, "a batch of 91 rows, memory was planned for 1 to 90");
    f.run.max_n = 128;
    stop_request();
    assert_int_equal(model_score(&f.run, &f.model, NULL, &b.batch, NULL, NULL, &sum, &n, &err), ERR_STOPPED);
    stop_reset();
    f.model.layer[2].input_norm[0] = (real)NAN;
    assert_int_equal(model_train(&f.run, &f.model, NULL, &f.grads, &b.batch, 1, 0, &sum, &n, &err), ERR_DIVERGED);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_kept_in_halves), cmocka_unit_test(test_one_layer_at_a_time),
        cmocka_unit_test(test_alone_and_packed),
        cmocka_unit_test(test_shared_prefix),
        cmocka_unit_test(test_modes_take_what_they_count),
        cmocka_unit_test(test_a_step_takes_no_memory),
        cmocka_unit_test(test_parameters_are_one_block),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_loading),
        cmocka_unit_test(test_random_weights),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
