/* fast_attention.c: ref_attention.c's equations on blocks of 64 queries.
 *
 * A block sees a run of keys that ends at its own last row; its scores S[64, keys] live in one thread's scratch, become P there,
 * and are gone.  Forward is shared out by (segment, query head); backward by (segment, KV head), so that dk and dv of a head
 * have one owner and are summed in the order of its query heads and blocks. */
#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum { BLOCK = 64, FEW = 8 };

/* Two of S[BLOCK, T]. */
size_t fast_attention_own(size_t T)
{
    return 2 * BLOCK * (T + 16);
}

/* A block of queries of one head: m rows; the first of them sees `seen` keys of the second run, each further row one more. */
struct block {
    const real *q;
    real *out, *lse;        /* lse may be NULL */
    const real *k[2], *v[2]; /* first key and value: of the prefix, of the own sequence */
    size_t m, prefix, seen;
    size_t q_stride, k_stride, lse_stride, D;
};

/* S = q k^T over both runs; returns its row length. */
static size_t block_scores(const struct ops_context *c, const struct block *b, real *S)
{
    size_t own = b->seen + b->m - 1, keys = b->prefix + own;
    struct gemm g = {.m = b->m, .k = b->D, .A = b->q, .lda = b->q_stride, .ldb = b->k_stride, .ldc = keys};
    if (b->prefix > 0) {
        g.n = b->prefix, g.B = b->k[0], g.C = S;
        gemm_nt(c, g);
    }
    g.n = own, g.B = b->k[1], g.C = S + b->prefix;
    gemm_nt(c, g);
    return keys;
}

/* out = softmax(S / sqrt(D)) v: P is left unnormalised, the sum of each row divides its output. */
static void block_forward(const struct ops_context *c, const struct block *b, real *S)
{
    const struct vector *v = vector();
    size_t keys = block_scores(c, b, S);
    real scale = (real)(1 / sqrt((double)b->D)), inverse[BLOCK];
    for (size_t i = 0; i < b->m; i++) {
        size_t seen = b->prefix + b->seen + i;
        real *row = S + i * keys, largest = scale * v->largest(row, seen);
        double sum = v->exp_sum(row, scale, largest, seen);
        for (size_t j = seen; j < keys; j++)
            row[j] = 0;
        inverse[i] = (real)(1 / sum);
        if (b->lse)
            b->lse[i * b->lse_stride] = (real)((double)largest + log(sum));
    }
    struct gemm g = {.m = b->m, .n = b->D, .lda = keys, .ldb = b->k_stride, .C = b->out, .ldc = b->q_stride};
    g.k = keys - b->prefix, g.A = S + b->prefix, g.B = b->v[1];
    gemm_nn(c, g);
    if (b->prefix > 0) {
        g.k = b->prefix, g.A = S, g.B = b->v[0], g.add = true;
        gemm_nn(c, g);
    }
    for (size_t i = 0; i < b->m; i++)
        v->scale(b->out + i * b->q_stride, inverse[i], b->D);
}

/* All blocks of one query head in one segment. */
static void segment_forward(const struct ops_context *c, const struct attention_args *a, const struct segment *s, size_t h, real *S)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, stride = KV * D;
    size_t kv = h / (H / KV) * D, start = (size_t)s->start, len = (size_t)s->len;
    size_t prefix = (size_t)s->prefix_start * stride + kv, own = start * stride + kv;
    for (size_t i0 = 0; i0 < len; i0 += BLOCK) {
        size_t at = ((start + i0) * H + h) * D;
        struct block b = {.q = a->q + at, .out = a->out + at, .lse = a->lse ? a->lse + (start + i0) * H + h : NULL,
                          .k = {a->k + prefix, a->k + own}, .v = {a->v + prefix, a->v + own}, .m = cpu_min(BLOCK, len - i0),
                          .prefix = (size_t)s->prefix_len, .seen = i0 + 1, .q_stride = H * D, .k_stride = stride,
                          .lse_stride = H, .D = D};
        block_forward(c, &b, S);
    }
}

static size_t attention_work(const struct attention_args *a)
{
    size_t work = 0;
    for (size_t s = 0; s < a->n_segments; s++)
        work += (size_t)a->segments[s].len * (size_t)(a->segments[s].len + a->segments[s].prefix_len);
    return work * (size_t)a->H * (size_t)a->D;
}

void fast_attention_forward(const struct ops_context *c, const struct attention_args *a)
{
    size_t H = (size_t)a->H;
#pragma omp parallel for num_threads(team(c, attention_work(a))) schedule(dynamic)
    for (size_t t = 0; t < a->n_segments * H; t++)
        segment_forward(c, a, &a->segments[t / H], t % H, cpu_scratch(c));
}

/* ---- decoding: few queries against a cache ---- */

/* One query by itself: keys are read once, in order. */
static void attend_one(real *out, const real *q, const real *k, const real *v, size_t keys, size_t stride, size_t D, real *p)
{
    const struct vector *f = vector();
    real scale = (real)(1 / sqrt((double)D));
    for (size_t j = 0; j < keys; j++)
        p[j] = f->dot(q, k + j * stride, D);
    double sum = f->exp_sum(p, scale, scale * f->largest(p, keys), keys);
    for (size_t d = 0; d < D; d++)
        out[d] = 0;
    for (size_t j = 0; j < keys; j++)
        f->axpy(out, p[j], v + j * stride, D);
    f->scale(out, (real)(1 / sum), D);
}

void fast_attention_decode(const struct ops_context *c, real *out, const real *q, const real *k_cache, const real *v_cache,
                           size_t n, size_t past, int32_t H, int32_t KV, int32_t D)
{
    size_t heads = (size_t)H, width = (size_t)D, stride = (size_t)KV * width, blocks = n <= FEW ? n : (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(team(c, n * (past + n) * heads * width)) schedule(dynamic)
    for (size_t t = 0; t < blocks * heads; t++) {
        size_t h = t % heads, kv = h / (heads / (size_t)KV) * width, i0 = t / heads * (n <= FEW ? 1 : BLOCK);
        size_t at = (i0 * heads + h) * width;
        if (n <= FEW) {
            attend_one(out + at, q + at, k_cache + kv, v_cache + kv, past + i0 + 1, stride, width, cpu_scratch(c));
            continue;
        }
        struct block b = {.q = q + at, .out = out + at, .k = {NULL, k_cache + kv}, .v = {NULL, v_cache + kv},
                          .m = cpu_min(BLOCK, n - i0), .seen = past + i0 + 1, .q_stride = heads * width, .k_stride = stride,
                          .D = width};
        block_forward(c, &b, cpu_scratch(c));
    }
}

/* ---- backward ---- */

/* S -> P = exp(S / sqrt(D) - lse);  dP -> ds;  both 0 where the row does not see the key.  Row i is row i0 + i of its segment. */
static void block_ds(const struct attention_args *a, size_t row, size_t h, size_t i0, size_t m, real *P, real *dP)
{
    const struct vector *v = vector();
    size_t H = (size_t)a->H, D = (size_t)a->D, keys = i0 + m;
    real scale = (real)(1 / sqrt((double)D));
    for (size_t i = 0; i < m; i++) {
        size_t at = (row + i) * H + h, seen = i0 + i + 1;
        real delta = v->dot(a->dout + at * D, a->out + at * D, D);
        v->exp_sum(P + i * keys, scale, a->lse[at], seen);
        v->softmax_back(dP + i * keys, P + i * keys, delta, scale, seen);
        for (size_t j = seen; j < keys; j++)
            P[i * keys + j] = dP[i * keys + j] = 0;
    }
}

/* One block of queries of head h: writes dq, adds to dk and dv. */
static void block_backward(const struct ops_context *c, const struct attention_args *a, size_t start, size_t h, size_t i0, size_t m, real *P, real *dP)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, keys = i0 + m, lq = H * D, lk = KV * D;
    size_t at = ((start + i0) * H + h) * D, kv = (start * KV + h / (H / KV)) * D;
    gemm_nt(c, (struct gemm){.m = m, .n = keys, .k = D, .A = a->q + at, .lda = lq, .B = a->k + kv, .ldb = lk, .C = P,
                          .ldc = keys});
    gemm_nt(c, (struct gemm){.m = m, .n = keys, .k = D, .A = a->dout + at, .lda = lq, .B = a->v + kv, .ldb = lk,
                          .C = dP, .ldc = keys});
    block_ds(a, start + i0, h, i0, m, P, dP);
    gemm_nn(c, (struct gemm){.m = m, .n = D, .k = keys, .A = dP, .lda = keys, .B = a->k + kv, .ldb = lk,
                          .C = a->dq + at, .ldc = lq});
    gemm_tn(c, (struct gemm){.m = keys, .n = D, .k = m, .add = true, .A = dP, .lda = keys, .B = a->q + at, .ldb = lq,
                          .C = a->dk + kv, .ldc = lk});
    gemm_tn(c, (struct gemm){.m = keys, .n = D, .k = m, .add = true, .A = P, .lda = keys, .B = a->dout + at, .ldb = lq,
                          .C = a->dv + kv, .ldc = lk});
}

/* dk and dv of one KV head in one segment, and dq of the query heads that read it. */
static void segment_backward(const struct ops_context *c, const struct attention_args *a, const struct segment *s, size_t g, real *scratch)
{
    size_t KV = (size_t)a->KV, D = (size_t)a->D, group = (size_t)(a->H / a->KV), start = (size_t)s->start, len = (size_t)s->len;
    for (size_t j = start; j < start + len; j++)
        for (size_t d = 0; d < D; d++)
            a->dk[(j * KV + g) * D + d] = a->dv[(j * KV + g) * D + d] = 0;
    for (size_t h = g * group; h < (g + 1) * group; h++)
        for (size_t i0 = 0; i0 < len; i0 += BLOCK) {
            size_t m = cpu_min(BLOCK, len - i0);
            block_backward(c, a, start, h, i0, m, scratch, scratch + (i0 + m) * m);
        }
}

void fast_attention_backward(const struct ops_context *c, const struct attention_args *a)
{
    size_t KV = (size_t)a->KV;
#pragma omp parallel for num_threads(team(c, attention_work(a))) schedule(dynamic)
    for (size_t t = 0; t < a->n_segments * KV; t++)
        segment_backward(c, a, &a->segments[t / KV], t % KV, cpu_scratch(c));
}
