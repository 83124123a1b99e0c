/* gptq_test.c: the codes are those of the equations written plainly, for groups that end with rows and for groups that do not; the outputs err less than
 * by rounding to nearest; inputs that are always 0, fewer tokens than inputs; what is refused.  And the grid that all quantizers share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/rng.h"
#include "base/stop.h"
#include "gptq.h"
#include "quant.h"
#include "refused.h"
#include "toy.h"

enum { DEAD = 5 }; /* a column that is always 0, where a problem has one */

struct problem {
    size_t out, in, group;
    struct arena arena;
    struct affine q;
    struct gram gram;
    real *W, *back;
    double *U;
};

/* X = n rows of inputs that hang together through a few common causes; the columns differ in size. */
static void problem_open(struct problem *p, size_t out, size_t in, size_t group, int bits, size_t n, bool dead)
{
    struct err err;
    struct rng rng = {.seed = 8, .stream = RNG_WORLD, .step = (uint32_t)(out * in)};
    double x[512], cause[4];
    linalg_init();
    memset(p, 0, sizeof *p);
    p->out = out;
    p->in = in;
    p->group = group;
    for (int pass = 0; pass < 2; pass++) {
        affine_place(&p->q, out, in, group, bits, &p->arena);
        gram_place(&p->gram, in, &p->arena);
        p->W = arena_take(&p->arena, out * in, sizeof *p->W);
        p->back = arena_take(&p->arena, out * in, sizeof *p->back);
        p->U = arena_take(&p->arena, in * in, sizeof *p->U);
        if (pass == 0)
            ASSERT_OK(arena_commit(&p->arena, "problem", &err));
    }
    for (size_t i = 0; i < out * in; i++)
        p->W[i] = (real)(0.1 * rng_normal(&rng));
    for (size_t t = 0; t < n; t++) {
        for (int k = 0; k < 4; k++)
            cause[k] = rng_normal(&rng);
        for (size_t i = 0; i < in; i++)
            x[i] = dead && i == DEAD ? 0 : (0.3 * rng_normal(&rng) + cause[i % 4]) * (1 + 3 * (i % 7 == 0));
        for (size_t i = 0; i < in; i++)
            for (size_t j = 0; j < in; j++)
                p->gram.H[i * in + j] += x[i] * x[j];
    }
    p->gram.n = n;
}

static void problem_close(struct problem *p)
{
    arena_free(&p->arena);
}

static void quantize(struct problem *p, int threads)
{
    struct err err;
    ASSERT_OK(gptq_factor(p->U, &p->gram, 0.01, &err));
    ASSERT_OK(gptq_quantize(&p->q, p->W, &p->gram, p->U, threads, &err));
    affine_decode(&p->q, p->back);
}

/* tr((W - Q) H (W - Q)^T), summed plainly. */
static double output_error(const struct problem *p)
{
    double sum = 0;
    for (size_t r = 0; r < p->out; r++)
        for (size_t i = 0; i < p->in; i++)
            for (size_t j = 0; j < p->in; j++)
                sum += ((double)p->W[r * p->in + i] - (double)p->back[r * p->in + i]) * p->gram.H[i * p->in + j] *
                       ((double)p->W[r * p->in + j] - (double)p->back[r * p->in + j]);
    return sum;
}

/* ---- the equations, plainly ---- */

/* The inverse of A[n, n] by Gauss and Jordan; A is positive definite. */
static double *inverse_of(const double *A, size_t n)
{
    double *a = malloc(n * n * sizeof *a), *b = calloc(n * n, sizeof *b);
    memcpy(a, A, n * n * sizeof *a);
    for (size_t i = 0; i < n; i++)
        b[i * n + i] = 1;
    for (size_t p = 0; p < n; p++) {
        double pivot = a[p * n + p];
        for (size_t j = 0; j < n; j++) {
            a[p * n + j] /= pivot;
            b[p * n + j] /= pivot;
        }
        for (size_t i = 0; i < n; i++) {
            double f = a[i * n + p];
            for (size_t j = 0; i != p && j < n; j++) {
                a[i * n + j] -= f * a[p * n + j];
                b[i * n + j] -= f * b[p * n + j];
            }
        }
    }
    free(a);
    return b;
}

/* The grid of a group by hand: over the least and the largest number, 0 among them; the scale as fp16 has it. */
static void plain_grid(const double *w, size_t n, int bits, double *scale, double *zero)
{
    double lo = 0, hi = 0;
    for (size_t i = 0; i < n; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    *scale = (double)f32_from_f16(f16_from_f32((float)((hi - lo) / ((1 << bits) - 1))));
    *zero = rint(-lo / *scale);
}

/* OBQ in the order of columns (Frantar et al. 2022, eq. 2 and 3): after column j each row moves by -(w_j - q_j) / G_jj G_j and G, the inverse of H, loses row
 * and column j.  Row after row over the flattened matrix, no blocks, no factor.  -> Q[out, in] */
static double *plain_gptq(const struct problem *p, double damp)
{
    size_t in = p->in, n = p->out * in;
    double *w = malloc(n * sizeof *w), *H = malloc(in * in * sizeof *H), mean = 0, scale = 1, zero = 0, most = (1 << p->q.bits) - 1;
    memcpy(H, p->gram.H, in * in * sizeof *H);
    for (size_t i = 0; i < n; i++)
        w[i] = H[i % in * in + i % in] == 0 ? 0 : (double)p->W[i];
    for (size_t i = 0; i < in; i++) {
        H[i * in + i] = H[i * in + i] == 0 ? 1 : H[i * in + i];
        mean += H[i * in + i] / (double)in;
    }
    for (size_t i = 0; i < in; i++)
        H[i * in + i] += damp * mean;
    double *start = inverse_of(H, in), *G = malloc(in * in * sizeof *G);
    for (size_t i = 0; i < n; i++) {
        size_t j = i % in;
        double *row = w + i - j;
        if (j == 0)
            memcpy(G, start, in * in * sizeof *G);
        if (i % p->group == 0)
            plain_grid(w + i, p->group < n - i ? p->group : n - i, p->q.bits, &scale, &zero);
        double q = (fmin(fmax(rint(w[i] / scale + zero), 0), most) - zero) * scale, e = (w[i] - q) / G[j * in + j];
        for (size_t k = j + 1; k < in; k++)
            row[k] -= e * G[j * in + k];
        for (size_t a = j + 1; a < in; a++)
            for (size_t b = j + 1; b < in; b++)
                G[a * in + b] -= G[a * in + j] * G[j * in + b] / G[j * in + j];
        w[i] = q;
    }
    free(start);
    free(G);
    free(H);
    return w;
}

/* Shapes: groups that end with rows, that begin inside rows, that are longer than rows, one short group, more rows than a tile has. */
static const size_t shapes[][3] = {{9, 32, 8}, {7, 24, 16}, {11, 12, 32}, {5, 20, 128}, {150, 18, 8}, {3, 64, 64}};

static void codes_are_those_of_the_equations(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int bits = 2; bits <= 4; bits++) {
            struct problem p;
            problem_open(&p, shapes[k][0], shapes[k][1], shapes[k][2], bits, 300, k % 2);
            quantize(&p, 1);
            double *want = plain_gptq(&p, 0.01), ours = output_error(&p);
            for (size_t i = 0; i < p.out * p.in; i++) { /* equal codes decode to numbers that differ by the rounding to float alone */
                if (!(fabs((double)p.back[i] - want[i]) <= 2 * (double)FLT_EPSILON * fabs(want[i])))
                    fail_msg("shape %zu, %d bits, element %zu: %.9g, want %.9g", k, bits, i, (double)p.back[i], want[i]);
                p.back[i] = (real)want[i];
            }
            assert_true(fabs(ours - output_error(&p)) <= 1e-6 * ours);
            free(want);
            problem_close(&p);
        }
}

/* ---- what it is for ---- */

static void outputs_err_less_than_rounded_to_nearest(void **state)
{
    (void)state;
    for (size_t in = 72; in <= 256; in += 184)
        for (int bits = 2; bits <= 4; bits++) {
            struct problem p;
            problem_open(&p, 40, in, 128, bits, 600, false);
            affine_round(&p.q, p.W);
            affine_decode(&p.q, p.back);
            double nearest = output_error(&p);
            quantize(&p, 1);
            double ours = output_error(&p);
            /* inputs that hang together let one column make up for another: here less than half of the error remains */
            if (!(ours < 0.5 * nearest))
                fail_msg("%zu inputs, %d bits: %g, rounding to nearest %g", in, bits, ours, nearest);
            problem_close(&p);
        }
}

static void same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    struct problem one, four;
    problem_open(&one, 300, 72, 64, 3, 200, true); /* period 8: not a whole number of tiles */
    problem_open(&four, 300, 72, 64, 3, 200, true);
    quantize(&one, 1);
    quantize(&four, 4);
    assert_memory_equal(one.q.codes, four.q.codes, 300 * 72);
    assert_memory_equal(one.q.scale, four.q.scale, affine_groups(300, 72, 64) * sizeof(float));
    problem_close(&one);
    problem_close(&four);
}

static void dead_inputs_and_few_tokens(void **state)
{
    (void)state;
    struct problem p;
    problem_open(&p, 30, 64, 32, 2, 10, true); /* H has rank 10 of 64 */
    for (size_t r = 0; r < 30; r++)
        p.W[r * 64 + DEAD] = 40; /* must not widen a grid */
    quantize(&p, 1);
    for (size_t r = 0; r < 30; r++)
        assert_true(p.back[r * 64 + DEAD] == 0);
    for (size_t g = 0; g < affine_groups(30, 64, 32); g++)
        assert_true(isfinite((double)p.q.scale[g]) && p.q.scale[g] < 1);
    for (size_t r = 0; r < 30; r++)
        p.W[r * 64 + DEAD] = 0;
    double ours = output_error(&p);
    affine_round(&p.q, p.W);
    affine_decode(&p.q, p.back);
    assert_true(ours < output_error(&p));
    memset(p.gram.H, 0, 64 * 64 * sizeof *p.gram.H); /* all dead */
    quantize(&p, 1);
    for (size_t i = 0; i < 30 * 64; i++)
        assert_true(p.back[i] == 0);
    problem_close(&p);
}

static void what_cannot_be_quantized_is_said(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    problem_open(&p, 8, 16, 8, 3, 30, false);
    assert_refused(gptq_factor(p.U, &p.gram, 0, &err), ERR_FAILED, &err, "", "gptq: damp = 0, want above 0");
    ASSERT_OK(gptq_factor(p.U, &p.gram, 0.01, &err));
    p.W[2 * 16 + 5] = NAN;
    assert_refused(gptq_quantize(&p.q, p.W, &p.gram, p.U, 1, &err), ERR_FAILED, &err, "",
                   "element [2, 5] is nan: scales in fp16 reach to 65504");
    p.W[2 * 16 + 5] = 1e6f;
    assert_refused(gptq_quantize(&p.q, p.W, &p.gram, p.U, 1, &err), ERR_FAILED, &err, "",
                   "element [2, 5] is 1e+06: scales in fp16 reach to 65504");
    p.W[2 * 16 + 5] = 0;
    p.q.bits = 9;
    assert_refused(gptq_quantize(&p.q, p.W, &p.gram, p.U, 1, &err), ERR_FAILED, &err, "", "codes of 9 bits, want 1 to 8");
    p.q.bits = 3;
    stop_request();
    assert_int_equal(gptq_quantize(&p.q, p.W, &p.gram, p.U, 2, &err), ERR_STOPPED);
    stop_reset();
    p.gram.H[3 * 16 + 3] = NAN;
    assert_refused(gptq_factor(p.U, &p.gram, 0.01, &err), ERR_DIVERGED, &err, "", "calibration: input 3 of a linear is not finite");
    p.gram.n = 0;
    assert_refused(gptq_factor(p.U, &p.gram, 0.01, &err), ERR_INPUT, &err, "", "the calibration data has no token");
    problem_close(&p);
}

/* ---- the grid ---- */

static void numbers_of_the_grid_come_back(void **state)
{
    (void)state;
    float scale, zero;
    affine_grid(-0.5, 1, 2, &scale, &zero); /* 0.5 a step */
    assert_true(scale == 0.5f && zero == 1);
    for (int k = 0; k < 4; k++)
        assert_int_equal(affine_code(0.5 * k - 0.5, 2, scale, zero), k);
    assert_int_equal(affine_code(-7, 2, scale, zero), 0);
    assert_int_equal(affine_code(7, 2, scale, zero), 3);
    affine_grid(3, 4, 4, &scale, &zero); /* 0 belongs to every grid */
    assert_true(zero == 0 && affine_code(0, 4, scale, zero) == 0);
    affine_grid(0, 0, 3, &scale, &zero);
    assert_true(scale > 0 && affine_code(0, 3, scale, zero) == (uint8_t)zero);
    affine_grid(-2e5, 2e5, 1, &scale, &zero);
    assert_true(scale == 65504);
    for (int bits = 1; bits <= 8; bits++) { /* scales are fp16's own */
        affine_grid(-0.123, 0.456, bits, &scale, &zero);
        assert_true(scale == f32_from_f16(f16_from_f32(scale)) && zero == rintf(zero));
    }
    assert_int_equal(affine_period(256, 128), 1);
    assert_int_equal(affine_period(576, 128), 2);
    assert_int_equal(affine_period(96, 128), 4);
    assert_int_equal(affine_period(33, 128), 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_those_of_the_equations),
        cmocka_unit_test(outputs_err_less_than_rounded_to_nearest),
        cmocka_unit_test(same_bits_for_any_number_of_threads),
        cmocka_unit_test(dead_inputs_and_few_tokens),
        cmocka_unit_test(what_cannot_be_quantized_is_said),
        cmocka_unit_test(numbers_of_the_grid_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
