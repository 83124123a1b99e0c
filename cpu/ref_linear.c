/* ref_linear.c: the plain truth, second part: a frozen matrix in any format plus a low-rank adapter.
 *
 *     h = dropout(x) A^T          y = x W^T + bias + s h B^T
 *     dh = s dy B                 dx = dy W + dropout'(dh A)
 *     dB += s dy^T h              dA += dh^T dropout(x)            dW += dy^T x         dbias += sum dy
 *
 * Hu et al. 2021 (LoRA, arXiv:2106.09685).  W is decoded a row at a time; its gradient, where wanted, is that of the decoded W. */
#include "cpu/cpu.h"

enum { ROWS = 16 }; /* token rows whose sums are kept while W passes by, row after row */

/* ---- forward ---- */

static void lora_hidden(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < a->n; i++)
        for (size_t j = 0; j < r; j++) {
            double sum = 0;
            for (size_t k = 0; k < in; k++)
                sum += (double)(dropout_factor(&a->lora, in, i, k) * a->x[i * in + k]) * (double)a->lora.A[j * in + k];
            a->lora.h[i * r + j] = (real)sum;
        }
}

static void forward_one(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    if (r > 0)
        lora_hidden(c, a);
    if (!a->y)
        return;
#pragma omp parallel for num_threads(c->threads)
    for (size_t o = 0; o < out; o++) {
        const real *w = cpu_row(a->W, o, cpu_scratch(c));
        for (size_t i = 0; i < a->n; i++) {
            double sum = a->bias ? (double)a->bias[o] : 0, adapter = 0;
            for (size_t k = 0; k < in; k++)
                sum += (double)a->x[i * in + k] * (double)w[k];
            for (size_t j = 0; j < r; j++)
                adapter += (double)a->lora.h[i * r + j] * (double)a->lora.B[o * r + j];
            a->y[i * out + o] = (real)(sum + (double)a->lora.s * adapter);
        }
    }
}

void ref_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    for (size_t i = 0; i < count; i++)
        forward_one(c, &a[i]);
}

/* ---- backward ---- */

/* dh[i,j] = s sum_o dy[i,o] B[o,j] */
static double lora_dh(const struct linear_args *a, size_t i, size_t j)
{
    size_t out = a->W->rows, r = (size_t)a->lora.r;
    double sum = 0;
    for (size_t o = 0; o < out; o++)
        sum += (double)a->dy[i * out + o] * (double)a->lora.B[o * r + j];
    return (double)a->lora.s * sum;
}

/* Rows i0 .. i0+m-1 of dx; sum[m, in] is kept in double. */
static void dx_rows(const struct linear_args *a, size_t i0, size_t m, double *sum, real *row)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    for (size_t k = 0; k < m * in; k++)
        sum[k] = a->dx_add ? (double)a->dx[i0 * in + k] : 0;
    for (size_t o = 0; o < out; o++) {
        const real *w = cpu_row(a->W, o, row);
        for (size_t i = 0; i < m; i++)
            for (size_t k = 0; k < in; k++)
                sum[i * in + k] += (double)a->dy[(i0 + i) * out + o] * (double)w[k];
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < r; j++) {
            double dh = lora_dh(a, i0 + i, j);
            for (size_t k = 0; k < in; k++)
                sum[i * in + k] += (double)dropout_factor(&a->lora, in, i0 + i, k) * dh * (double)a->lora.A[j * in + k];
        }
    for (size_t k = 0; k < m * in; k++)
        a->dx[i0 * in + k] = (real)sum[k];
}

static void linear_dx(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols;
#pragma omp parallel for num_threads(c->threads)
    for (size_t i0 = 0; i0 < a->n; i0 += ROWS) {
        double *sum = (double *)(void *)cpu_scratch(c);
        dx_rows(a, i0, size_min(ROWS, a->n - i0), sum, (real *)(sum + ROWS * in));
    }
}

static void linear_dW(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows;
#pragma omp parallel for num_threads(c->threads)
    for (size_t o = 0; o < out; o++) {
        double *sum = (double *)(void *)cpu_scratch(c);
        for (size_t k = 0; k < in; k++)
            sum[k] = 0;
        for (size_t i = 0; i < a->n; i++)
            for (size_t k = 0; k < in; k++)
                sum[k] += (double)a->dy[i * out + o] * (double)a->x[i * in + k];
        for (size_t k = 0; k < in; k++)
            a->dW[o * in + k] += (real)sum[k];
    }
}

static void linear_dbias(const struct linear_args *a)
{
    size_t out = a->W->rows;
    for (size_t o = 0; o < out; o++) {
        double sum = 0;
        for (size_t i = 0; i < a->n; i++)
            sum += (double)a->dy[i * out + o];
        a->dbias[o] += (real)sum;
    }
}

static void lora_dA(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
#pragma omp parallel for num_threads(c->threads)
    for (size_t j = 0; j < r; j++) {
        double *sum = (double *)(void *)cpu_scratch(c);
        for (size_t k = 0; k < in; k++)
            sum[k] = 0;
        for (size_t i = 0; i < a->n; i++) {
            double dh = lora_dh(a, i, j);
            for (size_t k = 0; k < in; k++)
                sum[k] += dh * (double)(dropout_factor(&a->lora, in, i, k) * a->x[i * in + k]);
        }
        for (size_t k = 0; k < in; k++)
            a->lora.dA[j * in + k] += (real)sum[k];
    }
}

static void lora_dB(const struct ops_context *c, const struct linear_args *a)
{
    size_t out = a->W->rows, r = (size_t)a->lora.r;
#pragma omp parallel for num_threads(c->threads)
    for (size_t o = 0; o < out; o++)
        for (size_t j = 0; j < r; j++) {
            double sum = 0;
            for (size_t i = 0; i < a->n; i++)
                sum += (double)a->dy[i * out + o] * (double)a->lora.h[i * r + j];
            a->lora.dB[o * r + j] += (real)((double)a->lora.s * sum);
        }
}

void ref_linear_backward(const struct ops_context *c, const struct linear_args *a)
{
    if (a->lora.r > 0 && a->lora.dA)
        lora_dA(c, a);
    if (a->lora.r > 0 && a->lora.dB)
        lora_dB(c, a);
    if (a->dW)
        linear_dW(c, a);
    if (a->dbias)
        linear_dbias(a);
    if (a->dx)
        linear_dx(c, a);
}
