/* bitstack_test.c: the error falls with every block and is what decoding leaves; a matrix of the form comes back; blocks are the best by the plain equation;
 * bytes add up, and more memory holds what less memory held; what is refused. */
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
#include "base/stop.h"
#include "bitstack.h"
#include "quant.h"
#include "refused.h"
#include "toy.h"

enum { BLOCKS = 5 };
static const double f16_error = 0x1p-11; /* relative error of a rounding to fp16 */

struct problem {
    struct arena arena;
    struct bitstack stack;
    struct gram gram;
    real *W, *back;
    double *s; /* sqrt(H_ii / n) */
};

/* H is diagonal here: only its diagonal is read. */
static void problem_open(struct problem *p, size_t out, size_t in, uint32_t step)
{
    struct err err;
    struct rng rng = {.seed = 3, .stream = RNG_WORLD, .step = step};
    linalg_init();
    memset(p, 0, sizeof *p);
    for (int pass = 0; pass < 2; pass++) {
        bitstack_place(&p->stack, out, in, BLOCKS, &p->arena);
        gram_place(&p->gram, in, &p->arena);
        p->W = arena_take(&p->arena, out * in, sizeof *p->W);
        p->back = arena_take(&p->arena, out * in, sizeof *p->back);
        p->s = arena_take(&p->arena, in, sizeof *p->s);
        if (pass == 0)
            ASSERT_OK(arena_commit(&p->arena, "problem", &err));
    }
    p->gram.n = 50;
    for (size_t i = 0; i < in; i++) {
        p->s[i] = exp(rng_normal(&rng));
        p->gram.H[i * in + i] = 50 * p->s[i] * p->s[i];
    }
    for (size_t i = 0; i < out * in; i++)
        p->W[i] = (real)(0.05 * rng_normal(&rng));
}

/* sum of s_i^2 (w - w')^2 with the first m blocks. */
static double error_of(struct problem *p, size_t m)
{
    double sum = 0;
    size_t in = p->stack.in;
    bitstack_decode(&p->stack, m, p->back);
    for (size_t i = 0; i < p->stack.out * in; i++) {
        double e = ((double)p->W[i] - (double)p->back[i]) * p->s[i % in];
        sum += e * e;
    }
    return sum;
}

/* The shapes go through the whole SVD (the first two) and through the one from random directions. */
static const size_t shapes[][2] = {{12, 40}, {40, 33}, {70, 150}};

static void error_falls_with_every_block(void **state)
{
    (void)state;
    struct err err;
    for (size_t k = 0; k < 3; k++) {
        struct problem p;
        problem_open(&p, shapes[k][0], shapes[k][1], 1);
        ASSERT_OK(bitstack_decompose(&p.stack, p.W, &p.gram, &err));
        double most = INFINITY;
        for (size_t m = 0; m <= BLOCKS; m++) {
            double e = error_of(&p, m), sum = 0;
            assert_true(fabs(e - p.stack.error[m]) <= 1e-5 * p.stack.error[0]); /* decoding adds up in fp32 */
            assert_true(e <= most + 1e-12 * p.stack.error[0]); /* (2^-24)^2 a few times, where fp32 is all that is left */
            for (size_t i = 0; i < p.stack.out * p.stack.in; i++)
                sum += fabs(((double)p.W[i] - (double)p.back[i]) * p.s[i % p.stack.in]);
            most = e - sum * sum / (double)(p.stack.out * p.stack.in); /* the mean of |R| for all of |R| has rank 1, and the best block leaves no more */
        }
        arena_free(&p.arena);
    }
}

/* ||R||^2 less the squares of the k largest singular values of |R| is what the best block leaves. */
static void blocks_are_the_best_of_their_form(void **state)
{
    (void)state;
    struct err err;
    for (size_t k = 0; k < 3; k++) {
        struct problem p;
        problem_open(&p, shapes[k][0], shapes[k][1], 2);
        size_t out = p.stack.out, in = p.stack.in, n = out * in, rank = p.stack.rank;
        double *A = malloc(n * sizeof *A), S[70];
        ASSERT_OK(bitstack_decompose(&p.stack, p.W, &p.gram, &err));
        assert_int_equal(rank, out < 16 ? out : 16);
        for (size_t m = 0; m < BLOCKS; m++) {
            double all = error_of(&p, m), left;
            for (size_t i = 0; i < n; i++)
                A[i] = fabs(((double)p.W[i] - (double)p.back[i]) * p.s[i % in]);
            ASSERT_OK(linalg_svd(A, out, in, NULL, S, NULL, &err));
            left = all;
            for (size_t i = 0; i < rank; i++)
                left -= S[i] * S[i];
            /* from random directions the smallest of the 16 are found to a few percent; fp16's rounding is far below what a block leaves, but where it
             * leaves nothing */
            double slack = 0.02 * fabs(left) + 64 * f16_error * f16_error * all + 1e-5 * p.stack.error[0];
            if (!(fabs(p.stack.error[m + 1] - left) <= slack))
                fail_msg("shape %zu, block %zu: leaves %g, the best %g", k, m, p.stack.error[m + 1], left);
        }
        free(A);
        arena_free(&p.arena);
    }
}

/* W = sign * (u v) / s with positive u, v that fp16 holds in full: one block is all of it. */
static void a_matrix_of_the_form_comes_back(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    struct rng rng = {.seed = 5, .stream = RNG_WORLD};
    problem_open(&p, 60, 90, 3);
    double u[60], v[90];
    for (size_t r = 0; r < 60; r++)
        u[r] = 0.5 + rng_uniform(&rng);
    for (size_t c = 0; c < 90; c++)
        v[c] = 0.5 + rng_uniform(&rng);
    for (size_t i = 0; i < 60 * 90; i++)
        p.W[i] = (real)((rng_below(&rng, 2) ? 1 : -1) * u[i / 90] * v[i % 90]);
    ASSERT_OK(bitstack_decompose(&p.stack, p.W, &p.gram, &err));
    bitstack_decode(&p.stack, 1, p.back);
    for (size_t i = 0; i < 60 * 90; i++) /* two factors, each rounded once */
        assert_true(fabs((double)p.back[i] - (double)p.W[i]) <= 2.1 * f16_error * fabs((double)p.W[i]));
    bitstack_decode(&p.stack, 0, p.back);
    assert_true(p.back[0] == 0 && p.back[60 * 90 - 1] == 0);
    arena_free(&p.arena);
}

static void zeros_and_inputs_that_no_token_reached(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    problem_open(&p, 20, 30, 4);
    p.gram.H[7 * 30 + 7] = 0;
    ASSERT_OK(bitstack_decompose(&p.stack, p.W, &p.gram, &err));
    bitstack_decode(&p.stack, BLOCKS, p.back);
    for (size_t i = 0; i < 20 * 30; i++)
        assert_true(isfinite((double)p.back[i]) && fabs((double)p.back[i]) < 1);
    memset(p.W, 0, 20 * 30 * sizeof *p.W);
    ASSERT_OK(bitstack_decompose(&p.stack, p.W, &p.gram, &err));
    assert_true(error_of(&p, BLOCKS) == 0 && p.stack.error[0] == 0);
    arena_free(&p.arena);
}

static void bytes_add_up_and_more_memory_holds_more(void **state)
{
    (void)state;
    struct err err;
    struct problem p[3];
    struct bitstack stacks[3];
    uint32_t order[3 * BLOCKS];
    size_t loaded[3], before[3] = {0}, seen[3] = {0};
    uint64_t all = 0, last = 0;
    for (size_t k = 0; k < 3; k++) {
        size_t out = shapes[k][0], in = shapes[k][1], rank = out < 16 ? out : 16;
        problem_open(&p[k], out, in, 5);
        ASSERT_OK(bitstack_decompose(&p[k].stack, p[k].W, &p[k].gram, &err));
        stacks[k] = p[k].stack;
        assert_int_equal(bitstack_block_bytes(&stacks[k]), (out * in + 7) / 8 + 2 * rank * (out + in));
        all += BLOCKS * bitstack_block_bytes(&stacks[k]);
    }
    ASSERT_OK(bitstack_order(stacks, 3, order, &err));
    for (size_t at = 0; at < 3 * BLOCKS; at++) { /* each step is the best that can be taken */
        size_t took = order[at];
        for (size_t i = 0; i < 3; i++) {
            double ours = (stacks[took].error[seen[took]] - stacks[took].error[seen[took] + 1]) / (double)bitstack_block_bytes(&stacks[took]);
            if (seen[i] < BLOCKS)
                assert_true((stacks[i].error[seen[i]] - stacks[i].error[seen[i] + 1]) / (double)bitstack_block_bytes(&stacks[i]) <= ours);
        }
        seen[took]++;
    }
    for (uint64_t budget = 0; budget <= all + 100; budget += 97) {
        uint64_t bytes = bitstack_load(stacks, 3, order, budget, loaded), sum = 0;
        for (size_t i = 0; i < 3; i++) {
            sum += loaded[i] * bitstack_block_bytes(&stacks[i]);
            assert_true(loaded[i] >= before[i]);
            before[i] = loaded[i];
        }
        assert_true(bytes == sum && bytes <= budget && bytes >= last);
        last = bytes;
    }
    assert_true(bitstack_load(stacks, 3, order, all, loaded) == all && loaded[0] == BLOCKS && loaded[2] == BLOCKS);
    for (size_t k = 0; k < 3; k++)
        arena_free(&p[k].arena);
}

static void what_cannot_be_decomposed_is_said(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    problem_open(&p, 12, 40, 6);
    p.W[3 * 40 + 9] = NAN;
    assert_refused(bitstack_decompose(&p.stack, p.W, &p.gram, &err), ERR_FAILED, &err, "", "element [3, 9] is nan, want a finite number");
    p.W[3 * 40 + 9] = 1e30f;
    assert_refused(bitstack_decompose(&p.stack, p.W, &p.gram, &err), ERR_FAILED, &err, "",
                   "bitstack: a factor of a matrix of 12 x 40 is beyond fp16");
    p.W[3 * 40 + 9] = 0;
    stop_request();
    assert_int_equal(bitstack_decompose(&p.stack, p.W, &p.gram, &err), ERR_STOPPED);
    stop_reset();
    p.gram.n = 0;
    assert_refused(bitstack_decompose(&p.stack, p.W, &p.gram, &err), ERR_INPUT, &err, "", "the calibration data has no token");
    arena_free(&p.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_falls_with_every_block),
        cmocka_unit_test(blocks_are_the_best_of_their_form),
        cmocka_unit_test(a_matrix_of_the_form_comes_back),
        cmocka_unit_test(zeros_and_inputs_that_no_token_reached),
        cmocka_unit_test(bytes_add_up_and_more_memory_holds_more),
        cmocka_unit_test(what_cannot_be_decomposed_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
