/* fast_linear.c: ref_linear.c's equations on tiles of single-threaded BLAS.
 *
 * W is decoded once a pass, a block of rows at a time, by all threads together; then every thread takes output tiles (token rows
 * x columns).  The dropout mask is drawn again wherever it is needed, never stored.
 * A few rows (generation) go another way: no tile of W is kept, each row of it is decoded and multiplied at once. */
#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum {
    ROW_TILE = 128, /* token rows */
    COL_TILE = 256, /* columns of y or dx */
    FEW = 8,        /* rows up to which W is streamed */
    FEW_ROWS = 16,  /* rows of W that one thread takes then */
    HIDDEN = 1 << 17 /* reals of dh kept at once */
};

/* own: dropped-out inputs or FEW_ROWS rows of W, [64, in], or a tile; shared: the decoded block, and dh. */
static size_t own_scratch(size_t in)
{
    return cpu_max(64 * in, (size_t)ROW_TILE * COL_TILE);
}

size_t fast_linear_scratch(size_t max_out, size_t max_in)
{
    size_t block = cpu_min(max_out * max_in, cpu_max(DECODED, 64 * max_in));
    return own_scratch(max_in) + block + HIDDEN + 64;
}

const real *decode_together(const struct qmat *W, size_t o0, size_t n, real *shared)
{
    if (W->format == FORMAT_F32)
        return (const real *)W->codes + o0 * W->cols;
    struct tiles t = tiles_of(n, 16);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < t.count; i++)
        vector()->decode(W, o0 + i * t.size, tile_length(&t, i), shared + i * t.size * W->cols);
    return shared;
}

/* y[m, n] = or += dropout(x)[m, n] for the elements that start at (row, col) of the input [*, in]; strides in elements. */
static void masked_tile(const struct lora_args *lora, size_t in, size_t row, size_t col, size_t m, size_t n, real *y, size_t ldy,
                        const real *x, size_t ldx, bool add)
{
    struct vector_dropout d = {.seed = lora->seed, .step = lora->step, .threshold = dropout_threshold(lora->dropout),
                               .kept = (real)(1 / (1 - (double)lora->dropout))};
    for (size_t i = 0; i < m; i++) {
        d.index = lora->index0 + (uint64_t)(row + i) * in + col;
        vector()->dropout(y + i * ldy, x + i * ldx, &d, n, add);
    }
}

/* ---- forward ---- */

/* h = dropout(x) A^T */
static void hidden_tiles(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(a->n, 64);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < t.count; i++) {
        size_t row = i * t.size, m = tile_length(&t, i);
        const real *x = a->x + row * in;
        if (a->lora.dropout > 0) {
            real *dropped = cpu_scratch(c);
            masked_tile(&a->lora, in, row, 0, m, in, dropped, in, x, in, false);
            x = dropped;
        }
        gemm_nt((struct gemm){.m = m, .n = r, .k = in, .alpha = 1, .A = x, .lda = in, .B = a->lora.A, .ldb = in,
                              .C = a->lora.h + row * r, .ldc = r});
    }
}

/* One tile of y: rows i0.., columns o0.. ; w is row o0 of W. */
static void forward_tile(const struct linear_args *a, const real *w, size_t i0, size_t m, size_t o0, size_t n)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    real *y = a->y + i0 * out + o0;
    for (size_t i = 0; a->bias && i < m; i++)
        for (size_t o = 0; o < n; o++)
            y[i * out + o] = a->bias[o0 + o];
    gemm_nt((struct gemm){.m = m, .n = n, .k = in, .alpha = 1, .beta = a->bias ? 1 : 0, .A = a->x + i0 * in, .lda = in, .B = w,
                          .ldb = in, .C = y, .ldc = out});
    if (r > 0)
        gemm_nt((struct gemm){.m = m, .n = n, .k = r, .alpha = a->lora.s, .beta = 1, .A = a->lora.h + i0 * r, .lda = r,
                              .B = a->lora.B + o0 * r, .ldb = r, .C = y, .ldc = out});
}

/* Columns o0 .. o0+n-1 of y, all rows. */
static void forward_block(const struct linear_args *a, const real *w, size_t o0, size_t n)
{
    struct tiles rows = tiles_of(a->n, ROW_TILE), cols = tiles_of(n, COL_TILE);
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t i = t % rows.count, j = t / rows.count;
        forward_tile(a, w + j * cols.size * a->W->cols, i * rows.size, tile_length(&rows, i), o0 + j * cols.size,
                     tile_length(&cols, j));
    }
}

/* At most FEW rows: h by rows of A, then y by rows of W. */
static void forward_few(const struct ops_context *c, const struct linear_args *a)
{
    const struct vector *v = vector();
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(out, FEW_ROWS);
#pragma omp parallel num_threads(team(c, a->n * in * out))
    {
        if (r > 0 && a->lora.dropout > 0)
            hidden_tiles(c, a);
        else if (r > 0) {
#pragma omp for
            for (size_t j = 0; j < r; j++)
                for (size_t i = 0; i < a->n; i++)
                    a->lora.h[i * r + j] = v->dot(a->x + i * in, a->lora.A + j * in, in);
        }
#pragma omp for schedule(dynamic)
        for (size_t b = 0; b < t.count; b++) {
            size_t o0 = b * t.size, m = tile_length(&t, b);
            const real *w = (const real *)a->W->codes + o0 * in;
            if (a->W->format != FORMAT_F32) {
                v->decode(a->W, o0, m, cpu_scratch(c));
                w = cpu_scratch(c);
            }
            for (size_t o = o0; o < o0 + m; o++, w += in)
                for (size_t i = 0; i < a->n; i++) {
                    real y = v->dot(a->x + i * in, w, in) + (a->bias ? a->bias[o] : 0);
                    a->y[i * out + o] = r > 0 ? y + a->lora.s * v->dot(a->lora.h + i * r, a->lora.B + o * r, r) : y;
                }
        }
    }
}

void fast_linear_forward(const struct ops_context *c, const struct linear_args *a)
{
    if (a->n <= FEW) {
        forward_few(c, a);
        return;
    }
    size_t in = a->W->cols, out = a->W->rows, block = decode_block(a->W);
    real *shared = c->scratch + own_scratch(in);
#pragma omp parallel num_threads(team(c, a->n * in * out))
    {
        if (a->lora.r > 0)
            hidden_tiles(c, a);
        for (size_t o0 = 0; o0 < out; o0 += block) {
            size_t n = cpu_min(block, out - o0);
            forward_block(a, decode_together(a->W, o0, n, shared), o0, n);
        }
    }
}

/* ---- backward ---- */

/* dh = s dy B */
static void dh_tiles(const struct linear_args *a, real *dh)
{
    size_t out = a->W->rows, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(a->n, 64);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < t.count; i++)
        gemm_nn((struct gemm){.m = tile_length(&t, i), .n = r, .k = out, .alpha = a->lora.s, .A = a->dy + i * t.size * out,
                              .lda = out, .B = a->lora.B, .ldb = r, .C = dh + i * t.size * r, .ldc = r});
}

/* dB += s dy^T h.  nowait, here and below: nothing in the same region reads it. */
static void dB_tiles(const struct linear_args *a)
{
    size_t out = a->W->rows, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(out, 64);
#pragma omp for schedule(dynamic) nowait
    for (size_t i = 0; i < t.count; i++)
        gemm_tn((struct gemm){.m = tile_length(&t, i), .n = r, .k = a->n, .alpha = a->lora.s, .beta = 1, .A = a->dy + i * t.size,
                              .lda = out, .B = a->lora.h, .ldb = r, .C = a->lora.dB + i * t.size * r, .ldc = r});
}

/* dA += dh^T dropout(x), a tile of columns over all rows, ROW_TILE of them at a time where a mask has to be drawn. */
static void dA_tiles(const struct ops_context *c, const struct linear_args *a, const real *dh)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(in, 64), rows = tiles_of(a->n, a->lora.dropout > 0 ? ROW_TILE : cpu_max(a->n, 1));
#pragma omp for schedule(dynamic) nowait
    for (size_t j = 0; j < t.count; j++)
        for (size_t i = 0; i < rows.count; i++) {
            size_t i0 = i * rows.size, m = tile_length(&rows, i), n = tile_length(&t, j), ldx = in;
            const real *x = a->x + i0 * in + j * t.size;
            if (a->lora.dropout > 0) {
                real *dropped = cpu_scratch(c);
                masked_tile(&a->lora, in, i0, j * t.size, m, n, dropped, n, x, in, false);
                x = dropped;
                ldx = n;
            }
            gemm_tn((struct gemm){.m = r, .n = n, .k = m, .alpha = 1, .beta = 1, .A = dh + i0 * r, .lda = r, .B = x, .ldb = ldx,
                                  .C = a->lora.dA + j * t.size, .ldc = in});
        }
}

static void dW_tiles(const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct tiles rows = tiles_of(out, ROW_TILE), cols = tiles_of(in, COL_TILE);
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t o0 = t % rows.count * rows.size, j0 = t / rows.count * cols.size;
        gemm_tn((struct gemm){.m = tile_length(&rows, t % rows.count), .n = tile_length(&cols, t / rows.count), .k = a->n,
                              .alpha = 1, .beta = 1, .A = a->dy + o0, .lda = out, .B = a->x + j0, .ldb = in,
                              .C = a->dW + o0 * in + j0, .ldc = in});
    }
}

static void dbias_tiles(const struct linear_args *a)
{
    size_t out = a->W->rows;
    struct tiles t = tiles_of(out, 64);
#pragma omp for schedule(dynamic) nowait
    for (size_t b = 0; b < t.count; b++) {
        double sum[64] = {0};
        size_t m = tile_length(&t, b);
        for (size_t i = 0; i < a->n; i++)
            for (size_t o = 0; o < m; o++)
                sum[o] += (double)a->dy[i * out + b * t.size + o];
        for (size_t o = 0; o < m; o++)
            a->dbias[b * t.size + o] += (real)sum[o];
    }
}

/* The adapter's share of one tile of dx: dropout'(dh A). */
static void adapter_tile(const struct ops_context *c, const struct linear_args *a, const real *dh, size_t i0, size_t m, size_t j0,
                         size_t n)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    bool drop = a->lora.dropout > 0;
    real *dx = a->dx + i0 * in + j0, *tile = cpu_scratch(c);
    gemm_nn((struct gemm){.m = m, .n = n, .k = r, .alpha = 1, .beta = drop ? 0 : 1, .A = dh + i0 * r, .lda = r,
                          .B = a->lora.A + j0, .ldb = in, .C = drop ? tile : dx, .ldc = drop ? n : in});
    if (drop)
        masked_tile(&a->lora, in, i0, j0, m, n, dx, in, tile, n, true);
}

/* dx = or += dy[:, o0 .. o0+k-1] W[o0 .. o0+k-1, :]; the last block brings the adapter's share. */
static void dx_block(const struct ops_context *c, const struct linear_args *a, const real *w, size_t o0, size_t k, const real *dh)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct tiles rows = tiles_of(a->n, ROW_TILE), cols = tiles_of(in, COL_TILE);
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t i0 = t % rows.count * rows.size, m = tile_length(&rows, t % rows.count);
        size_t j0 = t / rows.count * cols.size, n = tile_length(&cols, t / rows.count);
        gemm_nn((struct gemm){.m = m, .n = n, .k = k, .alpha = 1, .beta = o0 > 0 || a->dx_add ? 1 : 0,
                              .A = a->dy + i0 * out + o0, .lda = out, .B = w + j0, .ldb = in, .C = a->dx + i0 * in + j0,
                              .ldc = in});
        if (a->lora.r > 0 && o0 + k == out)
            adapter_tile(c, a, dh, i0, m, j0, n);
    }
}

/* At most so many rows that dh fits its place. */
static void backward_span(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, block = decode_block(a->W);
    real *dh = c->scratch + own_scratch(in), *shared = dh + HIDDEN;
#pragma omp parallel num_threads(team(c, a->n * in * out))
    {
        if (a->lora.r > 0)
            dh_tiles(a, dh);
        if (a->lora.r > 0 && a->lora.dB)
            dB_tiles(a);
        if (a->lora.r > 0 && a->lora.dA)
            dA_tiles(c, a, dh);
        if (a->dW)
            dW_tiles(a);
        if (a->dbias)
            dbias_tiles(a);
        for (size_t o0 = 0; a->dx && o0 < out; o0 += block) {
            size_t k = cpu_min(block, out - o0);
            dx_block(c, a, decode_together(a->W, o0, k, shared), o0, k, dh);
        }
    }
}

void fast_linear_backward(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    size_t span = r > 0 ? cpu_max(1, HIDDEN / r) : cpu_max(1, a->n);
    for (size_t i0 = 0; i0 < a->n; i0 += span) {
        struct linear_args part = *a;
        part.n = cpu_min(span, a->n - i0);
        part.x = a->x + i0 * in;
        part.dy = a->dy + i0 * out;
        part.dx = a->dx ? a->dx + i0 * in : NULL;
        part.lora.h = r > 0 ? a->lora.h + i0 * r : NULL;
        part.lora.index0 += (uint64_t)i0 * in;
        backward_span(c, &part);
    }
}
