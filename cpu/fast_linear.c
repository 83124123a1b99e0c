/* fast_linear.c: ref_linear.c's equations over gemm.h: many rows as a product with packed panels, a few rows straight from the weights.
 *
 * The adapter is part of the same product (gemm.h), but for dropout, whose mask differs from element to element. */
#include <stdatomic.h>

#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/gemm.h"
#include "cpu/int8.h"
#include "cpu/vector.h"

enum {
    ROW_TILE = 128,   /* token rows of a tile of gradients */
    COL_TILE = 256,   /* columns of one */
    PACKED = 1 << 21, /* reals of the packed left operand, unless MR rows need more */
    HIDDEN = 1 << 17  /* reals of dh kept at once, and of s h */
};

/* Dropped-out rows [64, in], or a tile. */
size_t fast_linear_own(size_t max_in)
{
    return size_max(64 * max_in, (size_t)ROW_TILE * COL_TILE);
}

/* dh, s h, and the packed operand: all rows when there is room for them. */
size_t fast_linear_shared(size_t max_out, size_t max_in, size_t T)
{
    size_t row = size_max(max_out, max_in) + 1024;
    return 2 * HIDDEN + size_max(size_min(PACKED, T * row), MICRO_MR_MOST * row);
}

static size_t packed_room(const struct ops_context *c)
{
    return c->shared_n - 2 * HIDDEN;
}

/* y[m, n] = or += dropout(x)[m, n] for the elements that start at (row, col) of the input [*, in]; strides in elements. */
static void masked_tile(const struct lora_args *lora, size_t in, size_t row, size_t col, size_t m, size_t n, real *y, size_t ldy,
                        const real *x, size_t ldx, bool add)
{
    real kept = (real)(1 / (1 - (double)lora->dropout));
    for (size_t i = 0; i < m; i++)
        vector()->apply_mask(y + i * ldy, x + i * ldx, lora->mask + (row + i) * mask_words(in), col, kept, n, add);
}

/* ---- forward ---- */

static void draw_masks(const struct lora_args *lora, size_t in, size_t row, size_t m)
{
    struct vector_dropout d = {.seed = lora->seed, .step = lora->step, .threshold = dropout_threshold(lora->dropout)};
    size_t rows = in % 32 == 0 ? m : 1; /* at once: where no row ends inside a word they are one run */
    for (size_t i = row; i < row + m; i += rows) {
        d.index = lora->index0 + (uint64_t)i * in;
        vector()->draw_mask(lora->mask + i * mask_words(in), &d, rows * in);
    }
}

/* h = dropout(x) A^T */
static void masked_hidden(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(a->n, 64);
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < t.count; i++) {
        size_t row = i * t.size, m = tile_length(&t, i);
        real *dropped = cpu_scratch(c);
        draw_masks(&a->lora, in, row, m);
        masked_tile(&a->lora, in, row, 0, m, in, dropped, in, a->x + row * in, in, false);
        gemm_nt(c, (struct gemm){.m = m, .n = r, .k = in, .A = dropped, .lda = in, .B = a->lora.A, .ldb = in, .C = a->lora.h + row * r,
                                 .ldc = r});
    }
}

/* y = bias in every row. */
static void fill_bias(const struct linear_args *a)
{
    size_t out = a->W->rows;
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < a->n; i++)
        for (size_t o = 0; o < out; o++)
            a->y[i * out + o] = a->bias[o];
}

struct span {
    const struct ops_context *c;
    const struct linear_args *a;
    size_t count;
    struct product p[LINEAR_GROUP];
};

static void span_team(void *args)
{
    struct span *s = args;
    const struct linear_args *a = s->a;
    product_pack(&s->p[0], a->x, a->W->cols);
#pragma omp barrier
    for (size_t j = 0; j < s->count; j++) {
        if (s->p[j].extra.r > 0 && a[j].lora.dropout > 0)
            masked_hidden(s->c, &a[j]);
        else if (s->p[j].extra.r > 0)
            product_narrow(s->c, &s->p[j], a[j].lora.A, s->p[j].extra.r, a[j].lora.h);
        if (a[j].bias && a[j].y)
            fill_bias(&a[j]);
    }
#pragma omp barrier
    for (size_t j = 0; j < s->count; j++)
        if (s->p[j].extra.r > 0 && a[j].y)
            product_pack_extra(&s->p[j], a[j].lora.h, a[j].lora.s);
#pragma omp barrier
    for (size_t j = 0; j < s->count; j++)
        if (a[j].y)
            product_multiply(s->c, &s->p[j], a[j].y, a[j].W->rows, a[j].bias != NULL);
}

/* Multiplications of a group without its adapters. */
static size_t group_work(const struct linear_args *a, size_t count)
{
    size_t work = 0;
    for (size_t j = 0; j < count; j++)
        work += a->n * a->W->cols * a[j].W->rows;
    return work;
}

/* Products of one x with several matrices: three meetings of the team, however many they are. */
static void forward_span(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    struct span s = {.c = c, .a = a, .count = count};
    real *packed = c->scratch + 2 * HIDDEN, *extra = packed + a->n * units_of(micro_of(c), a->W->cols);
    for (size_t j = 0; j < count; j++) {
        size_t r = (size_t)a[j].lora.r;
        s.p[j] = (struct product){.micro = micro_of(c), .W = a[j].W, .n = a->n, .packed = packed,
                                  .extra = {.r = r, .right = a[j].lora.B, .ld = r, .packed = extra}};
        extra += a->n * units_of(micro_of(c), r);
    }
    team_run(c, group_work(a, count), span_team, &s);
}

/* Rows of W that each thread takes: whole pairs of panels. */
static size_t share_of(const struct ops_context *c, const struct qmat *W)
{
    size_t shares = (size_t)c->threads;
    return ((W->rows + shares - 1) / shares + 31) / 32 * 32;
}

/* Rows [o0, o0 + n) of W, all of x: y, and what bias and adapter add.  The same thread's share of the next matrix is what it will read soon. */
static bool few_rows(const struct ops_context *c, const struct linear_args *a, const real *packed, size_t o0, size_t n)
{
    const struct micro *m = micro_of(c);
    size_t then = a->next ? o0 / share_of(c, a->W) * share_of(c, a->next) : 0;
    const void *soon = a->next && then < a->next->rows ? quant_row(a->next, then) : NULL;
    size_t out = a->W->rows, r = (size_t)a->lora.r;
    if (!m->few(a->W, o0, n, packed, a->n, a->y + o0, out, soon))
        return false;
    for (size_t i = 0; (r > 0 || a->bias) && i < a->n; i++)
        for (size_t o = o0; o < o0 + n; o++) {
            real y = a->y[i * out + o] + (a->bias ? a->bias[o] : 0);
            a->y[i * out + o] = r > 0 ? y + a->lora.s * vector()->dot(a->lora.h + i * r, a->lora.B + o * r, r) : y;
        }
    return true;
}

struct few {
    const struct ops_context *c;
    const struct linear_args *a;
    size_t count;
    const real *packed;
    atomic_bool refused; /* a format that the level has no such product for */
};

/* Columns begin .. end-1 of all h of a group, one after the other. */
static void few_hidden(void *args, size_t begin, size_t end)
{
    const struct few *f = args;
    size_t first = 0;
    for (size_t k = 0; k < f->count; first += (size_t)f->a[k++].lora.r) {
        const struct linear_args *a = &f->a[k];
        size_t in = a->W->cols, r = (size_t)a->lora.r;
        for (size_t j = size_max(begin, first); j < size_min(end, first + r); j++)
            for (size_t i = 0; i < a->n; i++)
                a->lora.h[i * r + j - first] = vector()->dot(a->x + i * in, a->lora.A + (j - first) * in, in);
    }
}

/* Shares begin .. end-1 of each matrix of a group. */
static void few_shares(void *args, size_t begin, size_t end)
{
    struct few *f = args;
    for (size_t j = 0; j < f->count; j++) {
        size_t out = f->a[j].y ? f->a[j].W->rows : 0, share = share_of(f->c, f->a[j].W);
        for (size_t s = begin; s < end && s * share < out; s++)
            if (!few_rows(f->c, &f->a[j], f->packed, s * share, size_min(share, out - s * share)))
                atomic_store(&f->refused, true);
    }
}

/* At most FEW_MOST rows without dropout: one A panel, W as it lies in memory; every thread takes a run of its rows. */
static bool forward_few(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    const struct micro *m = micro_of(c);
    size_t in = a->W->cols, ranks = 0;
    real *packed = c->scratch + 2 * HIDDEN;
    struct few f = {.c = c, .a = a, .count = count, .packed = packed};
    if (!m->few || a->n > FEW_MOST)
        return false;
    for (size_t j = 0; j < count; j++) {
        ranks += (size_t)a[j].lora.r;
        if (a[j].lora.r > 0 && a[j].lora.dropout > 0)
            return false;
    }
    m->pack(packed, a->n, a->x, in, a->n, in);
    if (ranks > 0)
        team_share(c, a->n * in * ranks, ranks, few_hidden, &f);
    team_share(c, group_work(a, count), (size_t)c->threads, few_shares, &f);
    return !f.refused;
}

/* y += s (x A^T) B^T, some rows. */
static void adapter_rows(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(a->n, 64);
#pragma omp for schedule(dynamic) nowait
    for (size_t i = 0; i < t.count; i++) {
        size_t row = i * t.size, m = tile_length(&t, i);
        real *h = a->lora.h + row * r, *scaled = cpu_scratch(c);
        gemm_nt(c, (struct gemm){.m = m, .n = r, .k = in, .A = a->x + row * in, .lda = in, .B = a->lora.A, .ldb = in, .C = h, .ldc = r});
        for (size_t j = 0; j < m * r; j++)
            scaled[j] = a->lora.s * h[j];
        gemm_nt(c, (struct gemm){.m = m, .n = out, .k = r, .add = true, .A = scaled, .lda = r, .B = a->lora.B, .ldb = r, .C = a->y + row * out, .ldc = out});
    }
}

/* int8.h's product of at most so many rows that the packed x fits; adapters in bf16. */
struct int8_span {
    const struct ops_context *c;
    const struct int8_product *p;
    const struct linear_args *a;
    size_t count;
    int32_t *packed;
};

static void int8_team(void *args)
{
    const struct int8_span *s = args;
    const struct linear_args *a = s->a;
    int8_pack(s->p, s->packed, a->x, a->n, a->W->cols);
    for (size_t j = 0; j < s->count; j++)
        if (a[j].bias)
            fill_bias(&a[j]);
#pragma omp barrier
    for (size_t j = 0; j < s->count; j++)
        int8_multiply(s->c, s->p, a[j].W, s->packed, a->n, a[j].y, a[j].bias != NULL);
#pragma omp barrier
    for (size_t j = 0; j < s->count; j++)
        if (a[j].lora.r > 0)
            adapter_rows(s->c, &a[j]);
}

/* The fast mode, when all matrices have it: rows that fit the place of the packed x (fast_linear_shared counts 4 bytes a column; here 5/4 are needed). */
static size_t int8_rows(const struct ops_context *c, const struct int8_product *p, const struct linear_args *a, size_t count)
{
    if (!p)
        return 0;
    for (size_t j = 0; j < count; j++)
        if (!p->has(a[j].W) || !a[j].y || (a[j].lora.r > 0 && a[j].lora.dropout > 0) || (size_t)a[j].lora.r > a[j].W->cols)
            return 0;
    return packed_room(c) / (int8_runs(a->W->cols) * INT8_A) / p->MR * p->MR;
}

void fast_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    size_t in = a->W->cols, r = 0;
    if (forward_few(c, a, count))
        return;
    for (size_t j = 0; j < count; j++)
        r += (size_t)a[j].lora.r + 1;
    const struct int8_product *int8 = int8_of(c);
    size_t eight = int8_rows(c, int8, a, count), span = eight > 0 ? eight : product_rows(micro_of(c), packed_room(c), in, r);
    for (size_t i0 = 0; i0 < a->n; i0 += span) {
        struct linear_args part[LINEAR_GROUP];
        for (size_t j = 0; j < count; j++) {
            part[j] = a[j];
            part[j].n = size_min(span, a->n - i0);
            part[j].x = a->x + i0 * in;
            part[j].y = a[j].y ? a[j].y + i0 * a[j].W->rows : NULL;
            part[j].lora.h = a[j].lora.r > 0 ? a[j].lora.h + i0 * (size_t)a[j].lora.r : NULL;
            part[j].lora.mask = a[j].lora.mask ? a[j].lora.mask + i0 * mask_words(in) : NULL;
            part[j].lora.index0 += (uint64_t)i0 * in;
        }
        if (eight > 0)
            team_run(c, group_work(part, count), int8_team,
                     &(struct int8_span){c, int8, part, count, (int32_t *)(void *)(c->scratch + 2 * HIDDEN)});
        else
            forward_span(c, part, count);
    }
}

/* ---- backward ---- */

static void scale_run(real *to, const real *from, real s, size_t n)
{
#pragma omp for schedule(static) nowait
    for (size_t i = 0; i < n; i++)
        to[i] = s * from[i];
}

/* dB += dy^T (s h), computed as (s h)^T dy, which is wide, and turned.  nowait, here and below: nothing in the same region reads it. */
static void dB_tiles(const struct ops_context *c, const struct linear_args *a, const real *scaled)
{
    size_t out = a->W->rows, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(out, COL_TILE), ranks = tiles_of(r, ROW_TILE);
#pragma omp for schedule(dynamic) nowait
    for (size_t i = 0; i < t.count * ranks.count; i++) {
        size_t o0 = i % t.count * t.size, m = tile_length(&t, i % t.count), j0 = i / t.count * ranks.size;
        size_t n = tile_length(&ranks, i / t.count);
        real *turned = cpu_scratch(c);
        gemm_tn(c, (struct gemm){.m = n, .n = m, .k = a->n, .A = scaled + j0, .lda = r, .B = a->dy + o0, .ldb = out, .C = turned, .ldc = m});
        for (size_t o = 0; o < m; o++)
            for (size_t j = 0; j < n; j++)
                a->lora.dB[(o0 + o) * r + j0 + j] += turned[j * m + o];
    }
}

/* dA += dh^T dropout(x), a tile of columns over all rows, ROW_TILE of them at a time where a mask has to be drawn. */
static void dA_tiles(const struct ops_context *c, const struct linear_args *a, const real *dh)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    struct tiles t = tiles_of(in, 64), rows = tiles_of(a->n, a->lora.dropout > 0 ? ROW_TILE : size_max(a->n, 1));
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
            gemm_tn(c, (struct gemm){.m = r, .n = n, .k = m, .add = true, .A = dh + i0 * r, .lda = r, .B = x, .ldb = ldx,
                                     .C = a->lora.dA + j * t.size, .ldc = in});
        }
}

static void dW_tiles(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct tiles rows = tiles_of(out, ROW_TILE), cols = tiles_of(in, COL_TILE);
#pragma omp for schedule(dynamic) nowait
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t o0 = t % rows.count * rows.size, j0 = t / rows.count * cols.size;
        gemm_tn(c, (struct gemm){.m = tile_length(&rows, t % rows.count), .n = tile_length(&cols, t / rows.count), .k = a->n, .add = true,
                                 .A = a->dy + o0, .lda = out, .B = a->x + j0, .ldb = in, .C = a->dW + o0 * in + j0, .ldc = in});
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

/* dx += dropout'(dh A): the adapter's share where a mask lies between. */
static void masked_share(const struct ops_context *c, const struct linear_args *a, const real *dh)
{
    size_t in = a->W->cols, r = (size_t)a->lora.r;
    struct tiles rows = tiles_of(a->n, ROW_TILE), cols = tiles_of(in, COL_TILE);
#pragma omp for schedule(static) nowait
    for (size_t t = 0; t < rows.count * cols.count; t++) {
        size_t i0 = t / cols.count * rows.size, m = tile_length(&rows, t / cols.count);
        size_t j0 = t % cols.count * cols.size, n = tile_length(&cols, t % cols.count);
        real *tile = cpu_scratch(c);
        gemm_nn(c, (struct gemm){.m = m, .n = n, .k = r, .A = dh + i0 * r, .lda = r, .B = a->lora.A + j0, .ldb = in, .C = tile, .ldc = n});
        masked_tile(&a->lora, in, i0, j0, m, n, a->dx + i0 * in + j0, in, tile, n, true);
    }
}

/* At most so many rows that the packed dy and dh fit their places. */
static void backward_span(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    bool masked = r > 0 && a->lora.dropout > 0, needs_dh = r > 0 && (a->dx || a->lora.dA);
    real *dh = c->scratch, *scaled = dh + HIDDEN;
    struct product p = {.micro = micro_of(c), .W = a->W, .transposed = true, .n = a->n, .packed = scaled + HIDDEN,
                        .extra = {.r = masked ? 0 : r, .right = a->lora.A, .ld = in}};
    p.extra.packed = p.packed + a->n * units_of(p.micro, out);
#pragma omp parallel num_threads(team(c, a->n * in * out))
    {
        if (a->dx || needs_dh)
            product_pack(&p, a->dy, out);
        if (r > 0 && a->lora.dB)
            scale_run(scaled, a->lora.h, a->lora.s, a->n * r);
#pragma omp barrier
        if (needs_dh) {
            product_narrow(c, &p, a->lora.B, r, dh);
#pragma omp barrier
            scale_run(dh, dh, a->lora.s, a->n * r);
#pragma omp barrier
        }
        if (r > 0 && a->lora.dB)
            dB_tiles(c, a, scaled);
        if (r > 0 && a->lora.dA)
            dA_tiles(c, a, dh);
        if (a->dW)
            dW_tiles(c, a);
        if (a->dbias)
            dbias_tiles(a);
        if (a->dx) {
            if (p.extra.r > 0) {
                product_pack_extra(&p, dh, 1);
#pragma omp barrier
            }
            product_multiply(c, &p, a->dx, in, a->dx_add);
            if (masked) {
#pragma omp barrier
                masked_share(c, a, dh);
            }
        }
    }
}

void fast_linear_backward(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)a->lora.r;
    size_t span = product_rows(micro_of(c), packed_room(c), out, r);
    span = r > 0 ? size_max(1, size_min(span, HIDDEN / r)) : span;
    for (size_t i0 = 0; i0 < a->n; i0 += span) {
        struct linear_args part = *a;
        part.n = size_min(span, a->n - i0);
        part.x = a->x + i0 * in;
        part.dy = a->dy + i0 * out;
        part.dx = a->dx ? a->dx + i0 * in : NULL;
        part.lora.h = r > 0 ? a->lora.h + i0 * r : NULL;
        part.lora.mask = a->lora.mask ? a->lora.mask + i0 * mask_words(in) : NULL;
        part.lora.index0 += (uint64_t)i0 * in;
        backward_span(c, &part);
    }
}
