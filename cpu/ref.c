/* ref.c: the plain truth, first part: embedding, RMSNorm, RoPE, SwiGLU, addition.
 *
 * Every kernel is a loop over its equation, sums in double, each output owned by one thread.  What it is not: fast; the other
 * tables are, and each of their slots is held to these.  Touvron et al. 2023 (arXiv:2302.13971) and the papers it stands on. */
#include "cpu/cpu.h"

/* Enough for the largest user: the linear's backward keeps 16 rows of sums in double and one row of W. */
size_t ref_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V)
{
    (void)max_out;
    size_t linear = 33 * (max_in + 16), attention = T + 16 + 4 * D, head = V + 3 * max_in + 32;
    return cpu_scratch_sizes(c, 0, size_max(size_max(linear, attention), size_max(head, ref_sample_shared(V))));
}

/* ---- embedding ---- */

void ref_embed_forward(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        quant_decode_rows(W, (size_t)tokens[i], 1, y + i * W->cols);
}

/* A token may come twice, so the columns are shared out, not the rows. */
void ref_embed_backward(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t j = 0; j < C; j++)
        for (size_t i = 0; i < n; i++)
            dW[(size_t)tokens[i] * C + j] += dy[i * C + j];
}

/* ---- RMSNorm: Zhang & Sennrich 2019 (arXiv:1910.07467) ---- */

void ref_rmsnorm_forward(const struct ops_context *c, real *y, real *s, const real *x, const real *g, real eps, size_t n,
                         size_t C)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < C; j++)
            sum += (double)x[i * C + j] * (double)x[i * C + j];
        s[i] = (real)(1 / sqrt(sum / (double)C + (double)eps));
        for (size_t j = 0; j < C; j++)
            y[i * C + j] = g[j] * x[i * C + j] * s[i];
    }
}

/* ds/dx[j] = -s^3 x[j] / C, so dx[j] = s g[j] dy[j] - x[j] s^3/C sum_k g[k] dy[k] x[k]. */
void ref_rmsnorm_backward(const struct ops_context *c, real *dx, real *dg, const real *dy, const real *x, const real *g,
                          const real *s, size_t n, size_t C)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++) {
        double sum = 0, si = (double)s[i];
        for (size_t j = 0; j < C; j++)
            sum += (double)g[j] * (double)dy[i * C + j] * (double)x[i * C + j];
        double common = si * si * si * sum / (double)C;
        for (size_t j = 0; j < C; j++)
            dx[i * C + j] += (real)(si * (double)g[j] * (double)dy[i * C + j] - (double)x[i * C + j] * common);
    }
    if (!dg)
        return;
#pragma omp parallel for num_threads(c->threads)
    for (size_t j = 0; j < C; j++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)dy[i * C + j] * (double)x[i * C + j] * (double)s[i];
        dg[j] += (real)sum;
    }
}

/* ---- RoPE: Su et al. 2021 (arXiv:2104.09864), pairs as in Hugging Face: element j turns with j + D/2 ---- */

/* A rotation's transpose is the rotation by the negative angle: that is the whole backward. */
void ref_rope_angles(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D)
{
    size_t half = D / 2;
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < half; j++) {
            double angle = (double)positions[i] * (double)inv_freq[j];
            angles[i * D + j] = scale * (real)sin(angle);
            angles[i * D + half + j] = scale * (real)cos(angle);
        }
}

void ref_rope(const struct ops_context *c, real *x, const real *angles, size_t n, size_t heads, size_t D, bool backward)
{
    size_t half = D / 2;
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < heads; h++)
            for (size_t j = 0; j < half; j++) {
                real sine = backward ? -angles[i * D + j] : angles[i * D + j], cosine = angles[i * D + half + j];
                real *a = x + (i * heads + h) * D + j, *b = a + half;
                real a0 = *a, b0 = *b;
                *a = a0 * cosine - b0 * sine;
                *b = b0 * cosine + a0 * sine;
            }
}

/* ---- SwiGLU: Shazeer 2020 (arXiv:2002.05202), silu(z) = z / (1 + e^-z) ---- */

void ref_swiglu_forward(const struct ops_context *c, real *y, const real *gate, const real *up, size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++) {
        double z = (double)gate[i];
        y[i] = (real)(z / (1 + exp(-z)) * (double)up[i]);
    }
}

/* With sig = 1 / (1 + e^-z):  d silu / dz = sig (1 + z (1 - sig)).  Outputs may lie in the inputs: read first, then write. */
void ref_swiglu_backward(const struct ops_context *c, real *dgate, real *dup, const real *dy, const real *gate, const real *up,
                         size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++) {
        double z = (double)gate[i], u = (double)up[i], d = (double)dy[i], sig = 1 / (1 + exp(-z));
        dgate[i] = (real)(d * u * sig * (1 + z * (1 - sig)));
        dup[i] = (real)(d * z * sig);
    }
}

void ref_add(const struct ops_context *c, real *y, const real *x, size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

void ref_add_squares(const struct ops_context *c, real *y, const real *x, real divisor, size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        y[i] += x[i] * x[i] / divisor;
}

void ref_to_bf16(const struct ops_context *c, uint16_t *to, const real *x, size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        to[i] = bf16_from_f32((float)x[i]);
}

void ref_from_bf16(const struct ops_context *c, real *y, const uint16_t *from, size_t n)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < n; i++)
        y[i] = (real)f32_from_bf16(from[i]);
}
