/* gram_test.c: X^T X as the equation says, one layer at a time the same as all at once, the same bits for any number of threads, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gram.h"
#include "refused.h"
#include "toy.h"

enum { IN = 96, ROWS = 70 };

/* ---- sums ---- */

/* Columns that hang together, one far larger than the rest. */
static void fill_rows(real *x, size_t n, uint32_t step)
{
    struct rng rng = {.seed = 5, .stream = RNG_WORLD, .step = step};
    for (size_t t = 0; t < n; t++) {
        double common = rng_normal(&rng);
        for (size_t i = 0; i < IN; i++)
            x[t * IN + i] = (real)((i == 3 ? 50 : 1) * (rng_normal(&rng) + common));
    }
}

static struct gram sum_of(struct toy *toy, struct arena *arena, const real *x, real *part, size_t split)
{
    struct err err;
    struct gram g;
    gram_place(&g, IN, arena);
    ASSERT_OK(arena_commit(arena, "gram", &err));
    gram_place(&g, IN, arena);
    gram_clear(&g);
    gram_add(&g, &toy->ops, x, split, part);
    gram_add(&g, &toy->ops, x + split * IN, ROWS - split, part);
    return g;
}

/* Each sum of m products in fp32 errs by at most m eps of the sum of their magnitudes; bf16 factors would err by 2^-8 of it. */
static void sums_are_those_of_the_equation(void **state)
{
    (void)state;
    struct toy toy;
    struct arena arena[4] = {{0}};
    struct gram g[4];
    real *x = malloc(ROWS * IN * sizeof *x), *part = malloc(IN * IN * sizeof *part);
    fill_rows(x, ROWS, 1);
    for (int k = 0; k < 4; k++) {
        toy_open(&toy, 40, FORMAT_F32, 0, 48, k < 3 ? k + 1 : 1);
        toy.ops.compute = k < 3 ? COMPUTE_F32 : COMPUTE_BF16;
        g[k] = sum_of(&toy, &arena[k], x, part, 33);
        toy_close(&toy);
    }
    for (size_t i = 0; i < IN; i++) {
        double sum = 0;
        for (size_t t = 0; t < ROWS; t++)
            sum += fabs((double)x[t * IN + i]);
        assert_true(fabs(g[0].abs_sum[i] - sum) <= ROWS * DBL_EPSILON * sum);
        for (size_t j = 0; j < IN; j++) {
            double want = 0, size = 0;
            for (size_t t = 0; t < ROWS; t++) {
                want += (double)x[t * IN + i] * (double)x[t * IN + j];
                size += fabs((double)x[t * IN + i] * (double)x[t * IN + j]);
            }
            assert_true(fabs(g[0].H[i * IN + j] - want) <= ROWS * (double)FLT_EPSILON * size);
            assert_true(g[0].H[i * IN + j] == g[0].H[j * IN + i]);
        }
    }
    for (int k = 1; k < 4; k++)
        assert_memory_equal(g[0].H, g[k].H, IN * IN * sizeof *g[0].H);
    for (int k = 0; k < 4; k++)
        arena_free(&arena[k]);
    free(x);
    free(part);
}

static void energy_is_the_error_of_the_outputs(void **state)
{
    (void)state;
    struct toy toy;
    struct arena arena = {0};
    real *x = malloc(ROWS * IN * sizeof *x), *part = malloc(IN * IN * sizeof *part);
    double E[3 * IN], T[3 * IN], want = 0;
    struct rng rng = {.seed = 6, .stream = RNG_WORLD};
    for (size_t i = 0; i < 3 * IN; i++)
        E[i] = rng_normal(&rng);
    fill_rows(x, ROWS, 2);
    toy_open(&toy, 40, FORMAT_F32, 0, 48, 1);
    struct gram g = sum_of(&toy, &arena, x, part, 20);
    for (size_t r = 0; r < 3; r++)
        for (size_t t = 0; t < ROWS; t++) {
            double y = 0;
            for (size_t i = 0; i < IN; i++)
                y += E[r * IN + i] * (double)x[t * IN + i];
            want += y * y;
        }
    double got = gram_energy(&g, E, 3, T);
    if (!(fabs(got - want) <= 1e-5 * want)) /* H is of fp32 sums */
        fail_msg("%.9g, want %.9g", got, want);
    toy_close(&toy);
    arena_free(&arena);
    free(x);
    free(part);
}

static void what_is_not_finite_is_refused(void **state)
{
    (void)state;
    struct err err;
    struct toy toy;
    struct arena arena = {0};
    real *x = malloc(ROWS * IN * sizeof *x), *part = malloc(IN * IN * sizeof *part);
    fill_rows(x, ROWS, 3);
    toy_open(&toy, 40, FORMAT_F32, 0, 48, 1);
    x[5 * IN + 7] = NAN;
    struct gram g = sum_of(&toy, &arena, x, part, 20);
    assert_refused(gram_check(&g, &err), ERR_DIVERGED, &err, "", "calibration: input 7 of a linear is not finite");
    gram_clear(&g);
    assert_refused(gram_check(&g, &err), ERR_INPUT, &err, "", "the calibration data has no token");
    x[5 * IN + 7] = 0;
    gram_add(&g, &toy.ops, x, ROWS, part);
    ASSERT_OK(gram_check(&g, &err));
    toy_close(&toy);
    arena_free(&arena);
    free(x);
    free(part);
}

/* ---- one layer at a time ---- */

enum { TOKENS = 24 };

/* Row r of W times row t of x; size: the sum of magnitudes. */
static void add_product(double *sum, double *size, const struct qmat *W, size_t r, const real *x, size_t t)
{
    const real *w = (const real *)W->codes + r * W->cols;
    for (size_t i = 0; i < W->cols; i++) {
        double product = (double)w[i] * (double)x[t * W->cols + i];
        *sum += product;
        *size += fabs(product);
    }
}

static void layers_one_by_one_are_the_model(void **state)
{
    (void)state;
    struct err err;
    struct toy toy;
    int32_t tokens[TOKENS], positions[TOKENS];
    struct segment segments[2] = {{.start = 0, .len = 10}, {.start = 10, .len = 14}};
    const real *inputs[LINEAR_COUNT], *hidden;
    toy_open(&toy, 40, FORMAT_F32, 0, 48, 2);
    size_t C = (size_t)toy.model.config.hidden_size;
    real *x = malloc(TOKENS * C * sizeof *x), *before = malloc(TOKENS * C * sizeof *x);
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = (i * 7 + 3) % 40;
        positions[i] = i < 10 ? i : i - 10;
    }
    struct batch batch = {.n = TOKENS, .tokens = tokens, .positions = positions, .segments = segments, .n_segments = 2};
    ASSERT_OK(model_embed(&toy.run, &toy.model, &batch, x, &err));
    for (int l = 0; l < 2; l++) {
        const struct model_layer *layer = &toy.model.layer[l];
        memcpy(before, x, TOKENS * C * sizeof *x);
        ASSERT_OK(model_block(&toy.run, &toy.model, &batch, l, x, x, inputs, &err)); /* in place */
        assert_true(inputs[LINEAR_Q] == inputs[LINEAR_V] && inputs[LINEAR_GATE] == inputs[LINEAR_UP]);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t c = 0; c < C; c++) { /* y = x + o(its input) + down(its input) */
                double want = (double)before[t * C + c], size = fabs(want);
                add_product(&want, &size, &layer->linear[LINEAR_O], c, inputs[LINEAR_O], t);
                add_product(&want, &size, &layer->linear[LINEAR_DOWN], c, inputs[LINEAR_DOWN], t);
                assert_true(fabs((double)x[t * C + c] - want) <= (double)(toy.model.config.intermediate_size[l] + 64) * (double)FLT_EPSILON * size);
            }
    }
    ASSERT_OK(model_hidden(&toy.run, &toy.model, NULL, &batch, &hidden, &err));
    for (size_t t = 0; t < TOKENS; t++) { /* the final norm, by hand */
        double ss = 0;
        for (size_t c = 0; c < C; c++)
            ss += (double)x[t * C + c] * (double)x[t * C + c];
        double s = 1 / sqrt(ss / (double)C + (double)toy.model.config.rms_norm_eps);
        for (size_t c = 0; c < C; c++)
            assert_true(fabs((double)hidden[t * C + c] - (double)x[t * C + c] * s) <= 4 * (double)FLT_EPSILON * fabs((double)hidden[t * C + c]));
    }
    ASSERT_OK(model_block(&toy.run, &toy.model, &batch, 1, before, NULL, inputs, &err)); /* inputs alone */
    tokens[3] = 40;
    assert_refused(model_embed(&toy.run, &toy.model, &batch, x, &err), ERR_INPUT, &err, "", "token 40 at row 3, the model has 0 to 39");
    toy_close(&toy);
    free(x);
    free(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_the_equation),
        cmocka_unit_test(energy_is_the_error_of_the_outputs),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(layers_one_by_one_are_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
