/* fast.c: the fast table: rows and runs shared out among threads, each one of vector.h's loops; the matrix slots are in fast_*.c.
 *
 * What is not here is the reference's own (salience: once a pruning step). */
#include "cpu/fast.h"

#include "cpu/cpu.h"
#include "cpu/vector.h"

enum { RUN = 4096, RUNS = 256, COLUMNS = 64 };

static size_t fast_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V)
{
    ref_scratch_size(c, 0, max_in, D, T, 0); /* for the slots that are the reference's own */
    size_t own = size_max(c->scratch_n, size_max(fast_linear_own(max_in), fast_attention_own(D, T)));
    size_t shared = size_max(fast_linear_shared(max_out, max_in, T), fast_head_shared(max_in, V));
    shared = size_max(shared, size_max(fast_decode_shared(max_in, D, T), fast_sample_shared(V)));
    return cpu_scratch_sizes(c, shared, own + GEMM_SCRATCH);
}

/* ---- embedding ---- */

static void fast_embed_forward(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y)
{
#pragma omp parallel for num_threads(team(c, n * W->cols))
    for (size_t i = 0; i < n; i++)
        vector()->decode(W, (size_t)tokens[i], 1, y + i * W->cols);
}

static void fast_embed_backward(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy)
{
    struct tiles t = tiles_of(C, COLUMNS);
#pragma omp parallel for num_threads(team(c, n * C))
    for (size_t b = 0; b < t.count; b++)
        for (size_t i = 0; i < n; i++)
            vector()->axpy(dW + (size_t)tokens[i] * C + b * t.size, 1, dy + i * C + b * t.size, tile_length(&t, b));
}

/* ---- RMSNorm ---- */

static void fast_rmsnorm_forward(const struct ops_context *c, real *y, real *s, const real *x, const real *g, real eps, size_t n,
                                 size_t C)
{
    if (n == 1) { /* decoding: here and below, no team for one row or run */
        s[0] = vector()->rmsnorm(y, x, g, eps, C);
        return;
    }
#pragma omp parallel for num_threads(team(c, n * C))
    for (size_t i = 0; i < n; i++)
        s[i] = vector()->rmsnorm(y + i * C, x + i * C, g, eps, C);
}

/* dg[j] += sum_i dy[i,j] x[i,j] s[i] for a tile of columns. */
static void rmsnorm_dg(real *dg, const real *dy, const real *x, const real *s, size_t n, size_t C, size_t j0, size_t m)
{
    double sum[COLUMNS] = {0};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            sum[j] += (double)(dy[i * C + j0 + j] * x[i * C + j0 + j] * s[i]);
    for (size_t j = 0; j < m; j++)
        dg[j0 + j] += (real)sum[j];
}

static void fast_rmsnorm_backward(const struct ops_context *c, real *dx, real *dg, const real *dy, const real *x, const real *g,
                                  const real *s, size_t n, size_t C)
{
    struct tiles t = tiles_of(C, COLUMNS);
#pragma omp parallel num_threads(team(c, n * C))
    {
        if (dg) {
#pragma omp for nowait
            for (size_t b = 0; b < t.count; b++)
                rmsnorm_dg(dg, dy, x, s, n, C, b * t.size, tile_length(&t, b));
        }
#pragma omp for
        for (size_t i = 0; i < n; i++)
            vector()->rmsnorm_back(dx + i * C, dy + i * C, x + i * C, g, s[i], C);
    }
}

/* ---- RoPE ---- */

static void fast_rope_angles(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D)
{
#pragma omp parallel for num_threads(team(c, 8 * n * D))
    for (size_t i = 0; i < n; i++) {
        vector()->sincos(angles + i * D, angles + i * D + D / 2, (double)positions[i], inv_freq, D / 2);
        for (size_t j = 0; scale != 1 && j < D; j++)
            angles[i * D + j] *= scale;
    }
}

static void rope_row(real *x, const real *angles, size_t heads, size_t half, bool backward)
{
    for (size_t h = 0; h < heads; h++)
        vector()->rotate(x + h * 2 * half, angles, angles + half, half, backward);
}

static void fast_rope(const struct ops_context *c, real *x, const real *angles, size_t n, size_t heads, size_t D, bool backward)
{
    if (n == 1) {
        rope_row(x, angles, heads, D / 2, backward);
        return;
    }
#pragma omp parallel for num_threads(team(c, 2 * n * heads * D))
    for (size_t i = 0; i < n; i++)
        rope_row(x + i * heads * D, angles + i * D, heads, D / 2, backward);
}

/* ---- elementwise: runs of RUN ---- */

static void fast_swiglu_forward(const struct ops_context *c, real *y, const real *gate, const real *up, size_t n)
{
    if (n <= RUN) {
        vector()->swiglu(y, gate, up, n);
        return;
    }
#pragma omp parallel for num_threads(team(c, 4 * n))
    for (size_t i = 0; i < n; i += RUN)
        vector()->swiglu(y + i, gate + i, up + i, size_min(RUN, n - i));
}

static void fast_swiglu_backward(const struct ops_context *c, real *dgate, real *dup, const real *dy, const real *gate,
                                 const real *up, size_t n)
{
#pragma omp parallel for num_threads(team(c, 4 * n))
    for (size_t i = 0; i < n; i += RUN)
        vector()->swiglu_back(dgate + i, dup + i, dy + i, gate + i, up + i, size_min(RUN, n - i));
}

static void fast_add(const struct ops_context *c, real *y, const real *x, size_t n)
{
    if (n <= RUN) {
        vector()->axpy(y, 1, x, n);
        return;
    }
#pragma omp parallel for num_threads(team(c, n / 2))
    for (size_t i = 0; i < n; i += RUN)
        vector()->axpy(y + i, 1, x + i, size_min(RUN, n - i));
}

static void fast_to_bf16(const struct ops_context *c, uint16_t *to, const real *x, size_t n)
{
#pragma omp parallel for num_threads(team(c, n / 2))
    for (size_t i = 0; i < n; i += RUN)
        vector()->to_bf16(to + i, x + i, size_min(RUN, n - i));
}

static void fast_from_bf16(const struct ops_context *c, real *y, const uint16_t *from, size_t n)
{
#pragma omp parallel for num_threads(team(c, n / 2))
    for (size_t i = 0; i < n; i += RUN)
        vector()->from_bf16(y + i, from + i, size_min(RUN, n - i));
}

static void fast_adamw(const struct ops_context *c, const struct adamw_args *a)
{
    double correction1 = 1 - pow((double)a->beta1, (double)a->t), correction2 = 1 - pow((double)a->beta2, (double)a->t);
    const struct vector_adamw v = {.grad_scale = a->grad_scale, .beta1 = a->beta1, .beta2 = a->beta2,
                                   .decay = (real)(1 - (double)a->lr * (double)a->weight_decay),
                                   .step = (real)((double)a->lr / correction1), .root = (real)(1 / sqrt(correction2)),
                                   .eps = a->eps};
#pragma omp parallel for num_threads(team(c, 4 * a->n))
    for (size_t i = 0; i < a->n; i += RUN)
        vector()->adamw(a->p + i, a->g + i, a->m + i, a->v + i, &v, size_min(RUN, a->n - i));
}

static double fast_sum_squares(const struct ops_context *c, const real *x, size_t n)
{
    double total = 0, part[RUNS];
    for (size_t i0 = 0; i0 < n; i0 += (size_t)RUN * RUNS) {
        size_t runs = size_min(RUNS, (n - i0 + RUN - 1) / RUN);
#pragma omp parallel for num_threads(team(c, n))
        for (size_t j = 0; j < runs; j++)
            part[j] = vector()->squares(x + i0 + j * RUN, size_min(RUN, n - i0 - j * RUN));
        for (size_t j = 0; j < runs; j++)
            total += part[j];
    }
    return total;
}

const struct ops fast_table = {
    .name = "fast",
    .scratch_size = fast_scratch_size,
    .together = team_together,
    .embed_forward = fast_embed_forward,
    .embed_backward = fast_embed_backward,
    .rmsnorm_forward = fast_rmsnorm_forward,
    .rmsnorm_backward = fast_rmsnorm_backward,
    .linear_forward = fast_linear_forward,
    .linear_backward = fast_linear_backward,
    .rope_angles = fast_rope_angles,
    .rope = fast_rope,
    .attention_forward = fast_attention_forward,
    .attention_backward = fast_attention_backward,
    .attention_keep = fast_attention_keep,
    .attention_decode = fast_attention_decode,
    .swiglu_forward = fast_swiglu_forward,
    .swiglu_backward = fast_swiglu_backward,
    .add = fast_add,
    .add_squares = ref_add_squares,
    .to_bf16 = fast_to_bf16,
    .from_bf16 = fast_from_bf16,
    .head_loss = fast_head_loss,
    .divergence = fast_divergence,
    .sample = fast_sample,
    .adamw = fast_adamw,
    .sum_squares = fast_sum_squares,
    .salience = ref_salience,
};
