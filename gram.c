/* gram.c: X^T X through the kernels of the linears' own gradient (dW += dy^T x with dy = x). */
#include "gram.h"

#include <math.h>
#include <string.h>

#include "base/linalg.h"

enum gram_input gram_input_of(enum linear linear)
{
    static const enum gram_input input[LINEAR_COUNT] = {
        [LINEAR_Q] = GRAM_QKV,         [LINEAR_K] = GRAM_QKV,        [LINEAR_V] = GRAM_QKV,     [LINEAR_O] = GRAM_O,
        [LINEAR_GATE] = GRAM_GATE_UP, [LINEAR_UP] = GRAM_GATE_UP, [LINEAR_DOWN] = GRAM_DOWN,
    };
    return input[linear];
}

enum linear gram_reader(enum gram_input input)
{
    static const enum linear reader[GRAM_COUNT] = {LINEAR_Q, LINEAR_O, LINEAR_GATE, LINEAR_DOWN};
    return reader[input];
}

void gram_place(struct gram *gram, size_t in, struct arena *arena)
{
    *gram = (struct gram){.in = in};
    gram->H = arena_take(arena, in * in, sizeof *gram->H);
    gram->abs_sum = arena_take(arena, in, sizeof *gram->abs_sum);
}

void gram_clear(struct gram *gram)
{
    gram->n = 0;
    memset(gram->H, 0, gram->in * gram->in * sizeof *gram->H);
    memset(gram->abs_sum, 0, gram->in * sizeof *gram->abs_sum);
}

void gram_add(struct gram *gram, const struct ops_context *ops, const real *x, size_t n, real *part)
{
    size_t in = gram->in;
    struct ops_context exact = *ops;
    struct qmat shape = {.format = FORMAT_F32, .rows = in, .cols = in};
    struct linear_args args = {.W = &shape, .n = n, .x = x, .dy = x, .dW = part};
    exact.compute = COMPUTE_F32;
    memset(part, 0, in * in * sizeof *part);
    ops->ops->linear_backward(&exact, &args);
#pragma omp parallel for num_threads(ops->threads)
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < in; j++)
            gram->H[i * in + j] += (double)part[i * in + j];
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < in; i++)
            gram->abs_sum[i] += fabs((double)x[t * in + i]);
    gram->n += n;
}

enum status gram_check(const struct gram *gram, struct err *err)
{
    if (gram->n == 0)
        return err_set(err, ERR_INPUT, "the calibration data has no token");
    for (size_t i = 0; i < gram->in; i++)
        if (!isfinite(gram->H[i * gram->in + i]))
            return err_set(err, ERR_DIVERGED, "calibration: input %zu of a linear is not finite", i);
    return OK;
}

double gram_energy(const struct gram *gram, const double *E, size_t rows, double *T)
{
    size_t in = gram->in;
    double sum = 0;
    memset(T, 0, rows * in * sizeof *T);
    linalg_multiply_add(T, in, 1, E, in, gram->H, in, rows, in, in);
    for (size_t i = 0; i < rows * in; i++)
        sum += T[i] * E[i];
    return sum;
}
