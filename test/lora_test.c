/* lora_test.c: where adapters lie, how they start (what LoftQ and PiSSA promise at any scaling), what a merge adds, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/rng.h"
#include "lora.h"

/* ---- memory ---- */

static void toy_plan(struct model_config *c, struct plan *plan)
{
    struct err err;
    assert_int_equal(model_config_alloc(c, 2, &err), OK);
    c->vocab_size = 50;
    c->hidden_size = 32;
    c->head_dim = 8;
    for (int l = 0; l < 2; l++) {
        c->num_attention_heads[l] = 4;
        c->num_key_value_heads[l] = 2;
        c->intermediate_size[l] = l ? 48 : 80;
    }
    assert_int_equal(plan_new(plan, c, FORMAT_F32, &err), OK);
    int32_t ranks[] = {8, 0, 3, 1};
    for (int l = 0; l < 2; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            plan->layer[l].linear[j].rank = ranks[(l * LINEAR_COUNT + j) % 4];
            plan->layer[l].linear[j].alpha = 6;
        }
}

/* Adapters lie one after the other in the order layer, linear, A, B, without gaps; gradients beside them. */
static void adapters_fill_one_block(void **state)
{
    (void)state;
    struct model_config c = {0};
    struct plan plan;
    struct lora lora = {0};
    struct arena arena = {0};
    struct err err;
    toy_plan(&c, &plan);
    lora_place(&lora, &plan, &c, true, &arena);
    size_t counted = arena.used;
    assert_int_equal(arena_commit(&arena, "adapters", &err), OK);
    lora_place(&lora, &plan, &c, true, &arena);
    assert_int_equal(arena.used, counted);
    assert_true(!arena.overflow && lora.n_layers == 2);
    size_t at = 0;
    for (int l = 0; l < 2; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *a = &lora.adapter[l][j];
            size_t out, in;
            plan_shape(&plan, &c, l, (enum linear)j, &out, &in);
            assert_true(a->r == plan.layer[l].linear[j].rank && a->out == out && a->in == in);
            assert_true(a->r == 0 || a->s == (real)(6.0 / a->r));
            assert_true(a->A == lora.p + at && a->dA == lora.g + at);
            at += (size_t)a->r * in;
            assert_true(a->B == lora.p + at && a->dB == lora.g + at);
            at += (size_t)a->r * out;
        }
    assert_int_equal(at, lora.n);
    assert_int_equal(lora.n, plan_adapter_parameters(&plan, &c));
    assert_true(lora.m && lora.v && lora.m != lora.v);
    arena_free(&arena);
    plan_free(&plan);
    model_config_free(&c);
}

static void adapters_for_use_have_no_gradients(void **state)
{
    (void)state;
    struct model_config c = {0};
    struct plan plan;
    struct lora lora = {0};
    struct arena arena = {0}, training = {0};
    struct err err;
    toy_plan(&c, &plan);
    plan.use_rslora = true;
    lora_place(&lora, &plan, &c, true, &training);
    lora_place(&lora, &plan, &c, false, &arena);
    assert_true(arena.used < training.used);
    assert_int_equal(arena_commit(&arena, "adapters", &err), OK);
    lora_place(&lora, &plan, &c, false, &arena);
    assert_true(!lora.g && !lora.m && !lora.v && !lora.adapter[0][0].dA && !lora.adapter[0][0].dB && lora.adapter[0][0].A);
    assert_true(fabs((double)lora.adapter[0][0].s - 6 / sqrt(8)) <= 1e-6);
    arena_free(&arena);
    plan_free(&plan);
    model_config_free(&c);
}

/* ---- starts ---- */

struct started {
    struct qmat q;
    struct arena arena;
    real *A, *B;
    size_t out, in;
    int32_t r;
    real s;
};

static enum status begin(struct started *m, enum format format, size_t out, size_t in, const real *W, int32_t r, real s,
                         const struct lora_init_options *o, struct err *err)
{
    *m = (struct started){.out = out, .in = in, .r = r, .s = s};
    quant_place(&m->q, format, 0, false, out, in, &m->arena);
    assert_int_equal(arena_commit(&m->arena, "W", err), OK);
    quant_place(&m->q, format, 0, false, out, in, &m->arena);
    m->A = calloc((size_t)r * in + 1, sizeof *m->A);
    m->B = calloc((size_t)r * out + 1, sizeof *m->B);
    err->text[0] = 0;
    return lora_start(&m->q, m->A, m->B, W, r, s, o, err);
}

static void must_begin(struct started *m, enum format format, size_t out, size_t in, const real *W, int32_t r, real s,
                       const struct lora_init_options *o)
{
    struct err err;
    if (begin(m, format, out, in, W, r, s, o, &err) != OK)
        fail_msg("%s", err.text);
}

static void end(struct started *m)
{
    arena_free(&m->arena);
    free(m->A);
    free(m->B);
}

static real *normals(size_t n, uint32_t step)
{
    struct rng rng = {.seed = 8, .stream = RNG_WORLD, .step = step};
    real *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (real)(0.05 * rng_normal(&rng));
    return x;
}

/* W - Q - with * s B A in double; with 0: the quantization error alone. */
static double *difference(const struct started *m, const real *W, double with)
{
    double *E = malloc(m->out * m->in * sizeof *E);
    real *row = malloc(m->in * sizeof *row);
    for (size_t o = 0; o < m->out; o++) {
        quant_decode_rows(&m->q, o, 1, row);
        for (size_t c = 0; c < m->in; c++) {
            double sum = 0;
            for (size_t i = 0; i < (size_t)m->r; i++)
                sum += (double)m->B[o * (size_t)m->r + i] * (double)m->A[i * m->in + c];
            E[o * m->in + c] = (double)W[o * m->in + c] - (double)row[c] - with * (double)m->s * sum;
        }
    }
    free(row);
    return E;
}

static double norm_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* sqrt(sum of the squared singular values after the first r): no rank r comes nearer (Eckart-Young).  E is destroyed. */
static double tail_of(double *E, size_t out, size_t in, int32_t r)
{
    size_t k = out < in ? out : in;
    double *S = malloc(k * sizeof *S), tail;
    struct err err;
    assert_int_equal(linalg_svd(E, out, in, NULL, S, NULL, &err), OK);
    tail = norm_of(S + r, k - (size_t)r);
    free(S);
    return tail;
}

static void random_starts(void **state)
{
    (void)state;
    enum { OUT = 40, IN = 200, R = 16, N = R * IN };
    real *W = normals(OUT * IN, 1);
    for (int g = 0; g < 2; g++) {
        struct lora_init_options o = {.init = g ? LORA_INIT_GAUSSIAN : LORA_INIT_DEFAULT, .seed = 3, .step = 5};
        struct started m, same, other;
        double sum = 0, squares = 0, most = 0;
        must_begin(&m, FORMAT_NF4, OUT, IN, W, R, 2, &o);
        for (size_t i = 0; i < N; i++) {
            sum += (double)m.A[i];
            squares += (double)m.A[i] * (double)m.A[i];
            most = fmax(most, fabs((double)m.A[i]));
        }
        /* uniform: deviation bound / sqrt 3; five standard errors of a mean and of a variance (kurtosis 1.8 or 3) */
        double bound = 1 / sqrt(IN), deviation = g ? 1.0 / R : bound / sqrt(3), variance = deviation * deviation;
        assert_true(fabs(sum / N) <= 5 * deviation / sqrt(N));
        assert_true(fabs(squares / N - variance) <= 5 * variance * sqrt((g ? 2 : 0.8) / N));
        assert_true(g || most <= bound);
        for (size_t i = 0; i < OUT * R; i++)
            assert_true(m.B[i] == 0);
        must_begin(&same, FORMAT_NF4, OUT, IN, W, R, 2, &o);
        assert_memory_equal(m.A, same.A, N * sizeof *m.A);
        o.step = 6;
        must_begin(&other, FORMAT_NF4, OUT, IN, W, R, 2, &o);
        assert_true(memcmp(m.A, other.A, N * sizeof *m.A) != 0); /* every tensor its own numbers */
        end(&m);
        end(&same);
        end(&other);
    }
    free(W);
}

/* With alpha / r divided out, the start misses W by the tail of the error's spectrum and nothing more, whatever the scaling is. */
static void loftq_leaves_the_tail_at_any_scaling(void **state)
{
    (void)state;
    static const enum format formats[] = {FORMAT_NF4, FORMAT_FP4, FORMAT_INT8, FORMAT_NF8};
    static const real scalings[] = {(real)0.25, 1, 2, 16};
    static const size_t shapes[][2] = {{48, 80}, {80, 48}, {33, 67}};
    for (size_t k = 0; k < 12; k++) {
        size_t out = shapes[k % 3][0], in = shapes[k % 3][1];
        real *W = normals(out * in, (uint32_t)k);
        for (size_t i = 0; i < 4; i++) {
            struct lora_init_options o = {.init = LORA_INIT_LOFTQ, .loftq_iters = 1 + (int)(k / 6) * 2};
            struct started m;
            must_begin(&m, formats[k % 4], out, in, W, 6, scalings[i], &o);
            double *left = difference(&m, W, 1), *error = difference(&m, W, 0), whole = norm_of(error, out * in);
            double got = norm_of(left, out * in), want = tail_of(error, out, in, 6);
            /* A and B are rounded to float: 2^-24 each of numbers of the size of the error */
            assert_true(fabs(got - want) <= 1e-6 * whole);
            assert_true(want < whole);
            free(left);
            free(error);
            end(&m);
        }
        free(W);
    }
}

/* The full rank of the smaller side mends the quantization error wholly. */
static void loftq_of_full_rank_is_exact(void **state)
{
    (void)state;
    real *W = normals(8 * 40, 2);
    struct lora_init_options o = {.init = LORA_INIT_LOFTQ, .loftq_iters = 1};
    struct started m;
    must_begin(&m, FORMAT_NF4, 8, 40, W, 8, 2, &o);
    double *left = difference(&m, W, 1), *error = difference(&m, W, 0);
    assert_true(norm_of(left, 320) <= 1e-6 * norm_of(error, 320));
    free(left);
    free(error);
    end(&m);
    free(W);
}

/* PiSSA on an unquantized base changes nothing at first: W_residual + s B A = W, and B A is W's best of rank r. */
static void pissa_starts_at_w(void **state)
{
    (void)state;
    enum { OUT = 48, IN = 80, R = 6 };
    real *W = normals(OUT * IN, 4);
    static const real scalings[] = {(real)0.5, 2};
    for (int i = 0; i < 2; i++) {
        struct lora_init_options o = {.init = LORA_INIT_PISSA};
        struct started m;
        must_begin(&m, FORMAT_F32, OUT, IN, W, R, scalings[i], &o);
        double *left = difference(&m, W, 1), *copy = malloc(OUT * IN * sizeof *copy), *base = malloc(OUT * IN * sizeof *base);
        for (size_t k = 0; k < OUT * IN; k++) {
            copy[k] = (double)W[k];
            base[k] = (double)((const real *)m.q.codes)[k];
        }
        double size = norm_of(copy, OUT * IN);
        assert_true(norm_of(left, OUT * IN) <= (2 + R) * 0x1p-24 * size); /* residual: r float subtractions and products */
        assert_true(fabs(norm_of(base, OUT * IN) - tail_of(copy, OUT, IN, R)) <= 1e-6 * size);
        free(left);
        free(copy);
        free(base);
        end(&m);
    }
    free(W);
}

/* A spectrum that falls by half each time, as PiSSA supposes: four power iterations find the leading vectors. */
static real *decaying(size_t out, size_t in)
{
    double *G = malloc(out * in * sizeof *G), *U = malloc(out * in * sizeof *U), *S = malloc(out * sizeof *S), *Vt = malloc(out * in * sizeof *Vt);
    real *W = normals(out * in, 9);
    struct err err;
    for (size_t i = 0; i < out * in; i++)
        G[i] = (double)W[i];
    assert_int_equal(linalg_svd(G, out, in, U, S, Vt, &err), OK); /* out <= in: U is out x out */
    for (size_t r = 0; r < out; r++)
        for (size_t c = 0; c < in; c++) {
            double sum = 0;
            for (size_t i = 0; i < out; i++)
                sum += U[r * out + i] * pow(0.5, (double)i) * Vt[i * in + c];
            W[r * in + c] = (real)sum;
        }
    free(G);
    free(U);
    free(S);
    free(Vt);
    return W;
}

static void randomised_pissa_agrees_with_the_exact(void **state)
{
    (void)state;
    enum { OUT = 40, IN = 64, R = 4 };
    real *W = decaying(OUT, IN);
    struct lora_init_options exact = {.init = LORA_INIT_PISSA}, random = {.init = LORA_INIT_PISSA, .pissa_niter = 4, .seed = 1, .step = 2};
    struct started a, b, c;
    must_begin(&a, FORMAT_F32, OUT, IN, W, R, 2, &exact);
    omp_set_num_threads(1);
    must_begin(&b, FORMAT_F32, OUT, IN, W, R, 2, &random);
    omp_set_num_threads(3);
    must_begin(&c, FORMAT_F32, OUT, IN, W, R, 2, &random);
    /* the ratio of singular values 15 and 4 (oversampling 10), 2^-10 to the power 2 * 4 + 1, is far below a float's rounding */
    for (size_t i = 0; i < R * IN; i++)
        assert_true(fabs((double)a.A[i] - (double)b.A[i]) <= 4 * 0x1p-24);
    for (size_t i = 0; i < R * OUT; i++)
        assert_true(fabs((double)a.B[i] - (double)b.B[i]) <= 4 * 0x1p-24);
    assert_memory_equal(b.A, c.A, R * IN * sizeof *b.A); /* any number of threads */
    assert_memory_equal(b.B, c.B, R * OUT * sizeof *b.B);
    assert_memory_equal(b.q.codes, c.q.codes, OUT * IN * sizeof(real));
    end(&a);
    end(&b);
    end(&c);
    free(W);
}

/* PiSSA's randomised start where rank and oversampling reach the smaller side takes the exact way. */
static void a_small_side_is_exact(void **state)
{
    (void)state;
    real *W = normals(12 * 64, 5);
    struct lora_init_options exact = {.init = LORA_INIT_PISSA}, random = {.init = LORA_INIT_PISSA, .pissa_niter = 1};
    struct started a, b;
    must_begin(&a, FORMAT_NF4, 12, 64, W, 4, 2, &exact);
    must_begin(&b, FORMAT_NF4, 12, 64, W, 4, 2, &random);
    assert_memory_equal(a.A, b.A, 4 * 64 * sizeof *a.A);
    end(&a);
    end(&b);
    free(W);
}

static void w_is_not_changed_and_rank_0_only_quantizes(void **state)
{
    (void)state;
    real *W = normals(16 * 64, 6), *copy = memcpy(malloc(16 * 64 * sizeof *copy), W, 16 * 64 * sizeof *copy);
    for (int i = 0; i <= LORA_INIT_PISSA; i++) {
        struct lora_init_options o = {.init = (enum lora_init)i, .loftq_iters = 2};
        struct started m, none;
        struct qmat q;
        struct arena arena = {0};
        struct err err;
        must_begin(&m, FORMAT_NF4, 16, 64, W, 4, 2, &o);
        must_begin(&none, FORMAT_NF4, 16, 64, W, 0, 0, &o);
        assert_memory_equal(W, copy, 16 * 64 * sizeof *W);
        quant_place(&q, FORMAT_NF4, 0, false, 16, 64, &arena);
        assert_int_equal(arena_commit(&arena, "W", &err), OK);
        quant_place(&q, FORMAT_NF4, 0, false, 16, 64, &arena);
        assert_int_equal(quant_encode(&q, W, false, &err), OK);
        assert_memory_equal(none.q.codes, q.codes, 16 * 64 / 2);
        arena_free(&arena);
        end(&m);
        end(&none);
    }
    free(W);
    free(copy);
}

/* ---- refusals ---- */

static void refused(const real *W, int32_t r, real s, struct lora_init_options o, enum status want, const char *text)
{
    struct started m;
    struct err err;
    enum status status = begin(&m, FORMAT_NF4, 16, 64, W, r, s, &o, &err);
    if (status != want || strcmp(err.text, text) != 0)
        fail_msg("status %d, '%s', want '%s'", (int)status, err.text, text);
    end(&m);
}

static void starts_that_cannot_be(void **state)
{
    (void)state;
    real *W = normals(16 * 64, 7);
    struct lora_init_options loftq = {.init = LORA_INIT_LOFTQ, .loftq_iters = 1}, pissa = {.init = LORA_INIT_PISSA, .pissa_niter = 2};
    struct lora_init_options never = {.init = LORA_INIT_LOFTQ};
    struct err err;
    enum lora_init init;
    refused(W, 17, 1, loftq, ERR_INPUT, "lora_r = 17: loftq wants at most 16, the smaller side of a matrix of 16 x 64");
    refused(W, 40, 1, pissa, ERR_INPUT, "lora_r = 40: pissa wants at most 16, the smaller side of a matrix of 16 x 64");
    refused(W, 4, 0, loftq, ERR_INPUT, "lora_alpha is not positive: loftq divides by alpha / r");
    refused(W, 4, 1, never, ERR_INPUT, "loftq_iters = 0, want at least 1");
    W[70] = (real)NAN;
    refused(W, 4, 1, loftq, ERR_FAILED, "element [1, 6] is NaN, want a finite number");
    refused(W, 4, 1, pissa, ERR_FAILED, "element [1, 6] is NaN, want a finite number");
    assert_int_equal(lora_init_parse("olora", &init, &err), ERR_INPUT);
    assert_string_equal(err.text, "lora_init = 'olora', want default, gaussian, loftq, pissa or cloq");
    assert_true(lora_init_parse("pissa", &init, &err) == OK && init == LORA_INIT_PISSA);
    free(W);
}

/* ---- merging ---- */

static void a_merge_adds_the_product(void **state)
{
    (void)state;
    enum { OUT = 9, IN = 13, R = 3 };
    real *W = normals(OUT * IN, 1), *old = normals(OUT * IN, 1), *A = normals(R * IN, 2), *B = normals(OUT * R, 3);
    struct adapter a = {.r = R, .s = (real)1.5, .in = IN, .out = OUT, .A = A, .B = B};
    lora_merge(W, &a);
    for (size_t o = 0; o < OUT; o++)
        for (size_t c = 0; c < IN; c++) {
            double sum = 0, size = fabs((double)old[o * IN + c]);
            for (size_t i = 0; i < R; i++) {
                sum += 1.5 * (double)B[o * R + i] * (double)A[i * IN + c];
                size += fabs(1.5 * (double)B[o * R + i] * (double)A[i * IN + c]);
            }
            assert_true(fabs((double)W[o * IN + c] - (double)old[o * IN + c] - sum) <= 3 * R * 0x1p-24 * size);
        }
    memcpy(W, old, OUT * IN * sizeof *W);
    a.r = 0;
    lora_merge(W, &a);
    assert_memory_equal(W, old, OUT * IN * sizeof *W);
    free(W);
    free(old);
    free(A);
    free(B);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_fill_one_block),
        cmocka_unit_test(adapters_for_use_have_no_gradients),
        cmocka_unit_test(random_starts),
        cmocka_unit_test(loftq_leaves_the_tail_at_any_scaling),
        cmocka_unit_test(loftq_of_full_rank_is_exact),
        cmocka_unit_test(pissa_starts_at_w),
        cmocka_unit_test(randomised_pissa_agrees_with_the_exact),
        cmocka_unit_test(a_small_side_is_exact),
        cmocka_unit_test(w_is_not_changed_and_rank_0_only_quantizes),
        cmocka_unit_test(starts_that_cannot_be),
        cmocka_unit_test(a_merge_adds_the_product),
    };
    linalg_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
