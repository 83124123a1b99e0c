/* awq_test.c: scales and bounds are the best of their grids, found plainly from the rows themselves; folding changes no output; the quantized outputs err
 * less than those rounded to nearest; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "awq.h"
#include "base/stop.h"
#include "refused.h"
#include "toy.h"

enum { ROWS = 40, GROUP = 24, WIDEST = 96 };

/* ---- a layer, and rows for each of its inputs ---- */

struct bench {
    struct toy toy; /* weights and run of a model of two layers, with biases */
    struct arena arena;
    struct model_layer *layer;
    struct gram gram[GRAM_COUNT];
    double x[GRAM_COUNT][ROWS][WIDEST];
    struct awq_scales scales;
    struct awq_options options;
};

static void fill_biases(struct model_layer *layer)
{
    struct rng rng = {.seed = 2, .stream = RNG_WORLD};
    for (int j = 0; j < LINEAR_COUNT; j++)
        for (size_t i = 0; layer->bias[j] && i < layer->linear[j].rows; i++)
            layer->bias[j][i] = (real)(0.1 * rng_normal(&rng));
}

static void open_model(struct toy *toy, int32_t kv_heads)
{
    struct err err;
    struct model_config config;
    struct plan plan;
    memset(toy, 0, sizeof *toy);
    toy_config(&config, 40);
    config.attention_bias = true;
    for (int l = 0; l < 2; l++)
        config.num_key_value_heads[l] = kv_heads;
    ASSERT_OK(plan_new(&plan, &config, FORMAT_F32, &err));
    ASSERT_OK(model_shape(&toy->model, &config, &plan, &err));
    model_place(&toy->model, FORMAT_F32, &toy->weights);
    ASSERT_OK(arena_commit(&toy->weights, "weights", &err));
    model_place(&toy->model, FORMAT_F32, &toy->weights);
    model_random(&toy->model, 0.1, 7);
    fill_biases(&toy->model.layer[1]);
    toy_place(toy, 48, 1, 1, false);
    plan_free(&plan);
    model_config_free(&config);
}

/* A few channels carry far more than the others, as in a model. */
static void fill_gram(struct gram *g, double (*x)[WIDEST], uint32_t step)
{
    struct rng rng = {.seed = 3, .stream = RNG_WORLD, .step = step};
    for (size_t t = 0; t < ROWS; t++)
        for (size_t i = 0; i < g->in; i++)
            x[t][i] = i == 11 ? 0 : rng_normal(&rng) * (i % 9 == 4 ? 20 : 1);
    for (size_t i = 0; i < g->in; i++)
        for (size_t t = 0; t < ROWS; t++) {
            g->abs_sum[i] += fabs(x[t][i]);
            for (size_t j = 0; j < g->in; j++)
                g->H[i * g->in + j] += x[t][i] * x[t][j];
        }
    g->n = ROWS;
}

static void bench_open(struct bench *b, int32_t kv_heads)
{
    static const int bits[LINEAR_COUNT] = {4, 2, 3, 3, 2, 4, 3}; /* each its own */
    struct err err;
    memset(b, 0, sizeof *b);
    open_model(&b->toy, kv_heads);
    b->layer = &b->toy.model.layer[1];
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < GRAM_COUNT; i++)
            gram_place(&b->gram[i], b->layer->linear[gram_reader((enum gram_input)i)].cols, &b->arena);
        awq_scales_place(&b->scales, b->layer, &b->arena);
        if (pass == 0)
            ASSERT_OK(arena_commit(&b->arena, "bench", &err));
    }
    for (int i = 0; i < GRAM_COUNT; i++)
        fill_gram(&b->gram[i], b->x[i], (uint32_t)i);
    b->options = (struct awq_options){.group = GROUP, .threads = 1};
    memcpy(b->options.bits, bits, sizeof bits);
}

static void bench_close(struct bench *b)
{
    toy_close(&b->toy);
    arena_free(&b->arena);
}

/* ---- plainly ---- */

/* ||x (W - Q)^T||^2 over the rows x. */
static double plain_error(const real *W, const double *Q, size_t out, size_t in, double (*x)[WIDEST])
{
    double sum = 0;
    for (size_t r = 0; r < out; r++)
        for (size_t t = 0; t < ROWS; t++) {
            double y = 0;
            for (size_t i = 0; i < in; i++)
                y += ((double)W[r * in + i] - Q[r * in + i]) * x[t][i];
            sum += y * y;
        }
    return sum;
}

/* Q = round(W diag(s)) / s, groups of the flattened matrix. */
static void plain_round(double *Q, const struct qmat *W, int bits, const double *s)
{
    size_t n = W->rows * W->cols;
    for (size_t first = 0; first < n; first += GROUP) {
        double lo = 0, hi = 0;
        float scale, zero;
        size_t end = first + GROUP < n ? first + GROUP : n;
        for (size_t i = first; i < end; i++) {
            Q[i] = (double)(real)((double)((real *)W->codes)[i] * s[i % W->cols]);
            lo = fmin(lo, Q[i]);
            hi = fmax(hi, Q[i]);
        }
        affine_grid(lo, hi, bits, &scale, &zero);
        for (size_t i = first; i < end; i++)
            Q[i] = (affine_code(Q[i], bits, scale, zero) - (double)zero) * (double)scale / s[i % W->cols];
    }
}

static void plain_scales(double *s, double (*x)[WIDEST], size_t in, double exponent)
{
    double lo = INFINITY, hi = 0;
    for (size_t i = 0; i < in; i++) {
        double mean = 0;
        for (size_t t = 0; t < ROWS; t++)
            mean += fabs(x[t][i]) / ROWS;
        s[i] = fmax(pow(mean, exponent), 1e-4);
        lo = fmin(lo, s[i]);
        hi = fmax(hi, s[i]);
    }
    for (size_t i = 0; i < in; i++)
        s[i] /= sqrt(lo * hi);
}

static void scales_are_the_best_of_the_grid(void **state)
{
    (void)state;
    struct err err;
    for (int32_t kv = 2; kv <= 4; kv += 2) {
        struct bench b;
        bench_open(&b, kv);
        b.options.bits[LINEAR_K] = 0; /* has no say */
        ASSERT_OK(awq_search(&b.scales, b.layer, b.gram, &b.options, &err));
        for (int i = 0; i < GRAM_COUNT; i++) {
            size_t in = b.gram[i].in;
            double best = INFINITY, exponent = 0, s[WIDEST], *Q = malloc(WIDEST * WIDEST * sizeof *Q);
            for (int k = 0; k < 20 && (i != GRAM_O || kv == 4); k++) {
                double sum = 0;
                plain_scales(s, b.x[i], in, 0.05 * k);
                for (int j = 0; j < LINEAR_COUNT; j++) {
                    const struct qmat *W = &b.layer->linear[j];
                    if ((int)gram_input_of((enum linear)j) != i || j == LINEAR_K)
                        continue;
                    plain_round(Q, W, b.options.bits[j], s);
                    sum += plain_error(W->codes, Q, W->rows, in, b.x[i]);
                }
                exponent = sum < best ? 0.05 * k : exponent;
                best = fmin(sum, best);
            }
            assert_true(fabs(b.scales.exponent[i] - exponent) < 1e-12);
            assert_true(exponent > 0 || (i == GRAM_O && kv == 2)); /* large channels: the grid is really searched */
            plain_scales(s, b.x[i], in, exponent);
            for (size_t c = 0; c < in; c++)
                assert_true(fabs(b.scales.s[i][c] - s[c]) <= 1e-12 * s[c]);
            free(Q);
        }
        bench_close(&b);
    }
}

/* ---- folding ---- */

static void folding_changes_no_output(void **state)
{
    (void)state;
    enum { N = 20, C = 32 };
    struct err err;
    for (int32_t kv = 2; kv <= 4; kv += 2) {
        struct bench b;
        real x[N * C], before[N * C], after[N * C];
        int32_t tokens[N] = {0}, positions[N];
        struct segment whole = {.start = 0, .len = N};
        struct batch batch = {.n = N, .tokens = tokens, .positions = positions, .segments = &whole, .n_segments = 1};
        struct rng rng = {.seed = 9, .stream = RNG_WORLD};
        double most = 0;
        bench_open(&b, kv);
        for (int i = 0; i < N * C; i++)
            x[i] = (real)rng_normal(&rng);
        for (int i = 0; i < N; i++)
            positions[i] = i;
        for (int i = 0; i < GRAM_COUNT; i++) /* any scales, but 1 where nothing can be folded */
            for (size_t c = 0; c < b.gram[i].in; c++)
                b.scales.s[i][c] = i == GRAM_O && kv == 2 ? 1 : exp(rng_normal(&rng));
        ASSERT_OK(model_block(&b.toy.run, &b.toy.model, &batch, 1, x, before, NULL, &err));
        awq_fold(b.layer, &b.scales);
        ASSERT_OK(model_block(&b.toy.run, &b.toy.model, &batch, 1, x, after, NULL, &err));
        /* each number of the way is scaled and scaled back: a few roundings of 2^-24, in sums of up to 96 terms */
        for (int i = 0; i < N * C; i++)
            most = fmax(most, fabs((double)before[i]));
        for (int i = 0; i < N * C; i++)
            if (!(fabs((double)after[i] - (double)before[i]) <= 96 * (double)FLT_EPSILON * most))
                fail_msg("kv %d, output %d: %g, before folding %g", (int)kv, i, (double)after[i], (double)before[i]);
        bench_close(&b);
    }
}

/* ---- bounds, and what it is for ---- */

static struct affine placed(struct arena *arena, const struct qmat *W, int bits)
{
    struct err err;
    struct affine q;
    affine_place(&q, W->rows, W->cols, GROUP, bits, arena);
    ASSERT_OK(arena_commit(arena, "codes", &err));
    affine_place(&q, W->rows, W->cols, GROUP, bits, arena);
    return q;
}

/* What the part of Q in each row costs, the row's other columns apart: error of the numbers first .. end-1 of the flattened matrix. */
static double plain_group_error(const real *W, const double *Q, size_t first, size_t end, size_t in, double (*x)[WIDEST], const double *s)
{
    double sum = 0;
    for (size_t t = 0; t < ROWS; t++) {
        double y = 0;
        for (size_t i = first; i < end; i++) {
            y += ((double)W[i] - Q[i]) * x[t][i % in] / s[i % in];
            if (i + 1 == end || i % in == in - 1) {
                sum += y * y;
                y = 0;
            }
        }
    }
    return sum;
}

static void bounds_are_the_best_of_the_grid(void **state)
{
    (void)state;
    struct err err;
    struct bench b;
    struct arena arena = {0};
    size_t narrowed = 0;
    bench_open(&b, 4);
    struct qmat *W = &b.layer->linear[LINEAR_GATE]; /* 32 columns in groups of 24: over the ends of rows */
    const real *w = W->codes;
    size_t n = W->rows * W->cols;
    struct affine q = placed(&arena, W, 2);
    double s[WIDEST], Q[WIDEST * 32];
    plain_scales(s, b.x[GRAM_GATE_UP], 32, 0.5);
    ASSERT_OK(awq_quantize(&q, w, &b.gram[GRAM_GATE_UP], s, true, 1, &err));
    for (size_t first = 0, g = 0; first < n; first += GROUP, g++) {
        size_t end = first + GROUP < n ? first + GROUP : n;
        double lo = 0, hi = 0, best = INFINITY;
        float scale, zero, best_scale = 0, best_zero = 0;
        for (size_t i = first; i < end; i++) {
            lo = fmin(lo, (double)w[i]);
            hi = fmax(hi, (double)w[i]);
        }
        for (int k = 0; k <= 10; k++) {
            double most = (1 - 0.05 * k) * fmax(-lo, hi), error;
            affine_grid(fmax(lo, -most), fmin(hi, most), 2, &scale, &zero);
            for (size_t i = first; i < end; i++)
                Q[i] = (affine_code((double)w[i], 2, scale, zero) - (double)zero) * (double)scale;
            error = plain_group_error(w, Q, first, end, 32, b.x[GRAM_GATE_UP], s);
            if (error < best) {
                best = error;
                best_scale = scale;
                best_zero = zero;
            }
        }
        assert_true(q.scale[g] == best_scale && q.zero[g] == best_zero);
        for (size_t i = first; i < end; i++)
            assert_int_equal(q.codes[i], affine_code((double)w[i], 2, best_scale, best_zero));
        affine_grid(lo, hi, 2, &scale, &zero);
        narrowed += best_scale < scale;
    }
    assert_true(narrowed > affine_groups(W->rows, W->cols, GROUP) / 4);
    arena_free(&arena);
    bench_close(&b);
}

/* Output error of linear j in `bits`: rounded to nearest, or scaled, bound and rounded. */
static double error_of(struct bench *b, enum linear j, const real *original, bool awq)
{
    struct err err;
    struct arena arena = {0};
    struct qmat *W = &b->layer->linear[j];
    enum gram_input i = gram_input_of(j);
    size_t n = W->rows * W->cols;
    struct affine q = placed(&arena, W, b->options.bits[j]);
    real *back = malloc(n * sizeof *back);
    double *Q = malloc(n * sizeof *Q);
    if (awq)
        ASSERT_OK(awq_quantize(&q, W->codes, &b->gram[i], b->scales.s[i], j > LINEAR_K, 1, &err));
    else
        affine_round(&q, original);
    affine_decode(&q, back);
    for (size_t k = 0; k < n; k++)
        Q[k] = (double)back[k] / (awq ? b->scales.s[i][k % W->cols] : 1);
    double error = plain_error(original, Q, W->rows, W->cols, b->x[i]);
    free(back);
    free(Q);
    arena_free(&arena);
    return error;
}

static void outputs_err_less_than_rounded_to_nearest(void **state)
{
    (void)state;
    struct err err;
    struct bench b;
    bench_open(&b, 2); /* o cannot be folded: its bounds alone help */
    real *original[LINEAR_COUNT];
    for (int j = 0; j < LINEAR_COUNT; j++) {
        size_t bytes = b.layer->linear[j].rows * b.layer->linear[j].cols * sizeof(real);
        original[j] = memcpy(malloc(bytes), b.layer->linear[j].codes, bytes);
    }
    ASSERT_OK(awq_search(&b.scales, b.layer, b.gram, &b.options, &err));
    awq_fold(b.layer, &b.scales);
    /* up_proj's rows are scaled too: its outputs are measured before that */
    for (size_t i = 0; i < b.layer->linear[LINEAR_UP].rows * b.layer->linear[LINEAR_UP].cols; i++)
        ((real *)b.layer->linear[LINEAR_UP].codes)[i] = (real)((double)original[LINEAR_UP][i] * b.scales.s[GRAM_GATE_UP][i % 32]);
    for (int j = 0; j < LINEAR_COUNT; j++) {
        double nearest = error_of(&b, (enum linear)j, original[j], false), ours = error_of(&b, (enum linear)j, original[j], true);
        if (!(ours < 0.8 * nearest))
            fail_msg("%s: %g, rounding to nearest %g", linear_name[j], ours, nearest);
        free(original[j]);
    }
    bench_close(&b);
}

static void same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    struct err err;
    struct bench one, three;
    bench_open(&one, 4);
    bench_open(&three, 4);
    one.options.threads = 1;
    three.options.threads = 3;
    ASSERT_OK(awq_search(&one.scales, one.layer, one.gram, &one.options, &err));
    ASSERT_OK(awq_search(&three.scales, three.layer, three.gram, &three.options, &err));
    for (int i = 0; i < GRAM_COUNT; i++)
        assert_memory_equal(one.scales.s[i], three.scales.s[i], one.gram[i].in * sizeof(double));
    assert_true(awq_search_bytes(one.layer, &one.options) < awq_search_bytes(three.layer, &three.options));
    bench_close(&one);
    bench_close(&three);
}

static void what_cannot_be_searched_is_said(void **state)
{
    (void)state;
    struct err err;
    struct bench b;
    bench_open(&b, 4);
    ((real *)b.layer->linear[LINEAR_UP].codes)[3 * 32 + 2] = -INFINITY;
    assert_refused(awq_search(&b.scales, b.layer, b.gram, &b.options, &err), ERR_FAILED, &err, "",
                   "mlp.up_proj: element [3, 2] is -inf: scales in fp16 reach to 65504");
    ((real *)b.layer->linear[LINEAR_UP].codes)[3 * 32 + 2] = 0;
    stop_request();
    assert_int_equal(awq_search(&b.scales, b.layer, b.gram, &b.options, &err), ERR_STOPPED);
    stop_reset();
    b.gram[GRAM_DOWN].H[0] = INFINITY;
    assert_refused(awq_search(&b.scales, b.layer, b.gram, &b.options, &err), ERR_DIVERGED, &err, "",
                   "calibration: input 0 of a linear is not finite");
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_are_the_best_of_the_grid),
        cmocka_unit_test(folding_changes_no_output),
        cmocka_unit_test(bounds_are_the_best_of_the_grid),
        cmocka_unit_test(outputs_err_less_than_rounded_to_nearest),
        cmocka_unit_test(same_bits_for_any_number_of_threads),
        cmocka_unit_test(what_cannot_be_searched_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
