/* model_decode_test.c: decoding with a cache: what scoring gives, however the tokens come; keys and values in f16.
 *
 * A cache's sums are in another order than a batch's: results agree to rounding, as in model_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "half.h"
#include "model_toy.h"

static const double rounding = 2e-5;

enum { N = 40 };

/* N tokens in a cache of this type, by a table of kernels: the logits behind each piece, got[pieces, VOCAB]. */
static void decode_pieces(struct fixture *f, const struct ops *ops, enum format type, const size_t *pieces, size_t n_pieces, real *got)
{
    static struct fixture_batch b;
    struct kv_cache cache;
    struct arena arena;
    const struct ops *own = f->ops.ops;
    memset(&b, 0, sizeof b);
    add_random_sequence(&b, N, VOCAB, 9);
    open_cache(&cache, &arena, &f->model, type, N);
    f->ops.ops = ops;
    for (size_t i = 0; i < n_pieces; i++)
        CHECK(model_decode(&f->run, &f->model, &f->lora, &cache, b.tokens + cache.n, pieces[i], got + i * VOCAB, &err));
    f->ops.ops = own;
    arena_free(&arena);
}

static const size_t in_pieces[] = {1, 7, 1, 1, 13, 1, 16};
enum { PIECES = 7 };

static void test_decoding(void **state)
{
    (void)state;
    struct fixture f;
    struct arena arena;
    struct kv_cache cache;
    static struct fixture_batch b;
    real *want = malloc(N * VOCAB * sizeof *want), got[PIECES][VOCAB];
    const real *x;
    assert_non_null(want);
    memset(&b, 0, sizeof b);
    add_random_sequence(&b, N, VOCAB, 9);
    open_model(&f, 4, (struct fixture_options){.threads = 2, .scoring = true});
    CHECK(model_hidden(&f.run, &f.model, &f.lora, &b.batch, &x, &err));
    model_logits(&f.run, &f.model, x, N, want);
    decode_pieces(&f, f.ops.ops, FORMAT_F32, in_pieces, PIECES, got[0]);
    for (size_t i = 0, at = 0; i < PIECES; i++) {
        at += in_pieces[i];
        for (size_t v = 0; v < VOCAB; v++)
            assert_true(fabs((double)got[i][v] - (double)want[(at - 1) * VOCAB + v]) <= rounding);
    }
    open_cache(&cache, &arena, &f.model, FORMAT_F32, N);
    CHECK(model_decode(&f.run, &f.model, &f.lora, &cache, b.tokens, N, got[0], &err));
    struct err full;
    assert_int_equal(model_decode(&f.run, &f.model, &f.lora, &cache, b.tokens, 1, got[0], &full), ERR_INPUT);
    assert_string_equal(full.text, "the context of 40 tokens is full");
    cache.n = 0; /* starting over needs no more than that */
    CHECK(model_decode(&f.run, &f.model, &f.lora, &cache, b.tokens, 3, got[0], &err));
    assert_true(fabs((double)got[0][0] - (double)want[2 * VOCAB]) <= rounding);
    free(want);
    arena_free(&arena);
    fixture_close(&f);
}

/* What stands in for attention_keep: the table's own, on rows that were changed before. */
static struct {
    const struct ops *own;
    bool round;           /* to f16, all of them */
    size_t calls, change; /* numbers that passed; the one that is changed by what f16 may round at most */
} kept;

static const double f16_error = 0x1p-11;

static void keep_changed(const struct ops_context *c, const struct decode_args *a)
{
    real k[N * 16], v[N * 16], *to[2] = {k, v};
    const real *from[2] = {a->k, a->v};
    struct decode_args changed = *a;
    for (int i = 0; i < 2; i++)
        for (size_t e = 0; e < a->n * (size_t)(a->KV * a->D); e++, kept.calls++) {
            to[i][e] = kept.round ? (real)half_of((double)from[i][e]) : from[i][e];
            to[i][e] *= (real)(1 + (kept.calls == kept.change ? f16_error : 0));
        }
    changed.k = k;
    changed.v = v;
    kept.own->attention_keep(c, &changed);
}

/* A context in f16 is one of reals that were rounded as they came in: the same bits, on the fast kernels and on the reference, and on both for any number of
 * threads.  In the reference, whose sums know nothing of how many rows there are, also however the tokens are cut into pieces. */
static void test_decoding_in_f16(void **state)
{
    (void)state;
    static const size_t at_once[] = {N};
    real got[PIECES][VOCAB], want[PIECES][VOCAB];
    for (int reference = 0; reference < 2; reference++) {
        struct ops changing = *cpu_ops(reference);
        changing.attention_keep = keep_changed;
        for (int threads = 1; threads <= 3; threads++) {
            struct fixture f;
            open_model(&f, 4, (struct fixture_options){.threads = threads, .scoring = true, .reference = reference});
            kept.own = f.ops.ops;
            kept.round = true;
            kept.change = SIZE_MAX;
            if (threads == 1)
                decode_pieces(&f, &changing, FORMAT_F32, in_pieces, PIECES, want[0]);
            decode_pieces(&f, f.ops.ops, FORMAT_F16, in_pieces, PIECES, got[0]);
            assert_memory_equal(got, want, sizeof want);
            if (reference) {
                decode_pieces(&f, f.ops.ops, FORMAT_F16, at_once, 1, got[0]);
                assert_memory_equal(got[0], want[PIECES - 1], sizeof want[0]);
            }
            fixture_close(&f);
        }
    }
}

static void test_f16_takes_half_the_memory(void **state)
{
    (void)state;
    enum { ROWS = 64, KV_HEADS = 2 + 2 + 1, D = 8 };
    struct fixture f;
    struct kv_cache cache;
    struct arena halves, reals;
    open_model(&f, 0, (struct fixture_options){.threads = 1, .scoring = true});
    open_cache(&cache, &halves, &f.model, FORMAT_F16, ROWS);
    open_cache(&cache, &reals, &f.model, FORMAT_F32, ROWS);
    assert_int_equal(reals.used - halves.used, 2 * ROWS * KV_HEADS * D * 2);
    arena_free(&halves);
    arena_free(&reals);
    fixture_close(&f);
}

/* What f16 may cost, by the model itself: every key and value changes by at most 2^-11 of itself, so that to first order a logit changes by no more than
 * the sum of what it changes by when one of them alone does.  A tenth more for what is not of first order. */
static void test_f16_costs_what_its_roundings_may(void **state)
{
    (void)state;
    enum { FED = 10 };
    static const size_t pieces[FED] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    struct fixture f;
    real want[FED][VOCAB], got[FED][VOCAB];
    double bound[VOCAB] = {0}, most = 0;
    open_model(&f, 4, (struct fixture_options){.threads = 1, .scoring = true});
    struct ops changing = *f.ops.ops;
    changing.attention_keep = keep_changed;
    kept.own = f.ops.ops;
    kept.round = false;
    decode_pieces(&f, f.ops.ops, FORMAT_F32, pieces, FED, want[0]);
    for (size_t change = 0, numbers = 1; change < numbers; change++) {
        kept.change = change;
        kept.calls = 0;
        decode_pieces(&f, &changing, FORMAT_F32, pieces, FED, got[0]);
        numbers = kept.calls;
        for (size_t v = 0; v < VOCAB; v++)
            bound[v] += fabs((double)got[FED - 1][v] - (double)want[FED - 1][v]);
    }
    decode_pieces(&f, f.ops.ops, FORMAT_F16, pieces, FED, got[0]);
    for (size_t v = 0; v < VOCAB; v++) {
        double change = fabs((double)got[FED - 1][v] - (double)want[FED - 1][v]);
        assert_true(change <= 1.1 * bound[v] + rounding);
        most = fmax(most, change);
    }
    assert_true(most > rounding); /* and it is really f16 */
    fixture_close(&f);
}

/* Yarn's attention factor a turns q k into a^2 q k: the model with a = 2 is the one whose q_proj is 4 times as large, to the last bit, for the factors are powers
 * of 2; its gradient of q_proj is 4 times the other's.  Scoring, training and decoding all see it. */
static void test_scaled_rope(void **state)
{
    (void)state;
    struct fixture f[2];
    struct fixture_batch *b = malloc(sizeof *b);
    double nll[2][128], sum;
    size_t n, C = 48;
    real got[2][VOCAB];
    assert_non_null(b);
    make_batch(b);
    for (int k = 0; k < 2; k++) {
        struct arena arena;
        struct kv_cache cache;
        open_model(&f[k], 0, (struct fixture_options){.threads = 1});
        f[k].model.config.rope_attention_factor = k ? 1 : 2;
        for (int l = 0; k && l < 3; l++) {
            struct qmat *q = &f[k].model.layer[l].linear[LINEAR_Q];
            for (size_t i = 0; i < q->rows * C; i++)
                ((real *)q->codes)[i] *= 4;
            for (size_t i = 0; i < q->rows; i++)
                f[k].model.layer[l].bias[LINEAR_Q][i] *= 4;
        }
        CHECK(model_score(&f[k].run, &f[k].model, NULL, &b->batch, nll[k], NULL, &sum, &n, &err));
        CHECK(model_train(&f[k].run, &f[k].model, NULL, &f[k].grads, &b->batch, (real)0.5, 7, &sum, &n, &err));
        open_cache(&cache, &arena, &f[k].model, FORMAT_F16, 8);
        CHECK(model_decode(&f[k].run, &f[k].model, NULL, &cache, b->tokens, 5, got[k], &err));
        CHECK(model_decode(&f[k].run, &f[k].model, NULL, &cache, b->tokens + 5, 1, got[k], &err));
        arena_free(&arena);
    }
    assert_memory_equal(nll[0], nll[1], b->batch.n * sizeof(double));
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    for (int l = 0; l < 3; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            for (size_t i = 0; i < f[0].model.layer[l].linear[j].rows * f[0].model.layer[l].linear[j].cols; i++)
                assert_true(f[0].grads.layer[l].linear[j][i] == f[1].grads.layer[l].linear[j][i] * (j == LINEAR_Q ? 4 : 1));
    fixture_close(&f[0]);
    fixture_close(&f[1]);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_decoding_in_f16),
        cmocka_unit_test(test_f16_takes_half_the_memory),
        cmocka_unit_test(test_f16_costs_what_its_roundings_may),
        cmocka_unit_test(test_scaled_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
