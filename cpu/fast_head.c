/* fast_head.c: cross-entropy through the head for a chunk of labelled rows at a time: gather, logits, softmax in place, dx, dW; divergence of two rows of logits.
 *
 * Rows without a label are never multiplied.  What it is not: a place where all logits exist; z[chunk, V] is about 25 MB at most (32 rows of a large vocabulary more). */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum { CHUNK_MOST = 256, CHUNK_LEAST = 32, LOGITS = 3 << 21, SLICE = 4096, TILE_V = 256 };

/* Labelled rows taken together. */
static size_t chunk_rows(size_t V)
{
    return size_max(CHUNK_LEAST, size_min(CHUNK_MOST, LOGITS / V / 8 * 8));
}

/* The packed left operand: x, or a slice of dz. */
size_t fast_head_shared(size_t C, size_t V)
{
    return chunk_rows(V) * (V + 2 * C + size_max(C, size_min(V, SLICE)) + 1) + 64;
}

struct chunk {
    size_t row[CHUNK_MOST], n;
    real *x, *dx, *z, *packed; /* [n, C], [n, C], [n, V] logits, then their gradient */
};

/* z = x W^T */
static void logits(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    struct product p = {.micro = micro_of(c), .W = a->W, .n = k->n, .packed = k->packed};
    product_pack(&p, k->x, a->W->cols);
#pragma omp barrier
    product_multiply(c, &p, k->z, a->W->rows, false);
#pragma omp barrier
}

static uint8_t is_first_largest(const real *z, size_t V, size_t label)
{
    real target = z[label];
    int beaten = !(target == target);
    for (size_t v = 0; v < label; v++)
        beaten |= !(z[v] < target);
    for (size_t v = label; v < V; v++)
        beaten |= !(z[v] <= target);
    return !beaten;
}

/* nll and greedy of row i, and z -> scale (softmax(z) - [v = label]). */
static void loss_row(const struct head_args *a, size_t i, real *z)
{
    const struct vector *v = vector();
    size_t V = a->W->rows, label = (size_t)a->labels[i];
    double target = (double)z[label];
    if (a->greedy)
        a->greedy[i] = is_first_largest(z, V, label);
    real largest = v->largest(z, V);
    double sum = v->exp_sum(z, 1, largest, V);
    if (a->nll)
        a->nll[i] = (double)largest + log(sum) - target;
    if (!a->dx && !a->dW)
        return;
    v->scale(z, (real)((double)a->scale / sum), V);
    z[label] -= a->scale;
}

/* dx = dz W, summed over slices of the vocabulary in order, then put back where the rows came from. */
static void head_dx(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols;
    for (size_t v0 = 0; v0 < V; v0 += SLICE) {
        struct product p = {.micro = micro_of(c), .W = a->W, .transposed = true, .n = k->n, .first = v0,
                            .count = size_min(SLICE, V - v0), .packed = k->packed};
        product_pack(&p, k->z + v0, V);
#pragma omp barrier
        product_multiply(c, &p, k->dx, C, v0 > 0);
#pragma omp barrier
    }
#pragma omp for nowait
    for (size_t i = 0; i < k->n; i++)
        memcpy(a->dx + k->row[i] * C, k->dx + i * C, C * sizeof(real));
}

/* dW += dz^T x */
static void head_dW(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols;
    struct tiles rows = tiles_of(V, TILE_V), cols = tiles_of(C, TILE_V);
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t v0 = t % rows.count * rows.size, j0 = t / rows.count * cols.size;
        gemm_tn(c, (struct gemm){.m = tile_length(&rows, t % rows.count), .n = tile_length(&cols, t / rows.count), .k = k->n,
                              .add = true, .A = k->z + v0, .lda = V, .B = k->x + j0, .ldb = C,
                              .C = a->dW + v0 * C + j0, .ldc = C});
    }
}

static void head_chunk(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols;
#pragma omp parallel num_threads(team(c, k->n * V * C))
    {
#pragma omp for
        for (size_t i = 0; i < k->n; i++)
            memcpy(k->x + i * C, a->x + k->row[i] * C, C * sizeof(real));
        logits(c, a, k);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < k->n; i++)
            loss_row(a, k->row[i], k->z + i * V);
        if (a->dW)
            head_dW(c, a, k);
        if (a->dx)
            head_dx(c, a, k);
    }
}

static void unlabelled_row(const struct head_args *a, size_t i)
{
    size_t C = a->W->cols;
    if (a->nll)
        a->nll[i] = 0;
    if (a->greedy)
        a->greedy[i] = 0;
    if (a->dx)
        memset(a->dx + i * C, 0, C * sizeof(real));
}

void fast_head_loss(const struct ops_context *c, const struct head_args *a)
{
    size_t V = a->W->rows, C = a->W->cols, most = chunk_rows(V);
    struct chunk k = {.n = 0, .x = c->scratch};
    k.dx = k.x + most * C;
    k.z = k.dx + most * C;
    k.packed = k.z + most * V;
    for (size_t i = 0; i < a->n; i++) {
        if (a->labels[i] < 0) {
            unlabelled_row(a, i);
            continue;
        }
        k.row[k.n++] = i;
        if (k.n == most) {
            head_chunk(c, a, &k);
            k.n = 0;
        }
    }
    if (k.n > 0)
        head_chunk(c, a, &k);
}

void fast_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse)
{
    const struct vector *v = vector();
#pragma omp parallel for schedule(dynamic) num_threads(team(c, 8 * n * V))
    for (size_t i = 0; i < n; i++) {
        real *a = p + i * V, *b = q + i * V;
        real most_a = v->largest(a, V), most_b = v->largest(b, V);
        double sums[2], sum_a = v->exp_sum(a, 1, most_a, V), sum_b = v->exp_sum(b, 1, most_b, V);
        v->divergences(a, b, (real)(1 / sum_a), (real)(1 / sum_b), V, sums);
        kl[i] = sums[0] < 0 ? 0 : sums[0]; /* rounding of distributions that are equal; NaN stays NaN */
        jsd[i] = sums[1] < 0 ? 0 : 0.5 * sums[1];
        if (lse) {
            lse[2 * i] = (double)most_a + log(sum_a);
            lse[2 * i + 1] = (double)most_b + log(sum_b);
        }
    }
}
