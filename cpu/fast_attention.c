/* fast_attention.c: ref_attention.c's equations on blocks of 64 queries, over a level's micro-kernels.
 *
 * Keys and values of one KV head in one sequence are packed once and serve all blocks of all query heads that read them.  A block sees a run of keys that
 * ends at its own last row; its scores S[64, keys] live in one thread's scratch, become P there, and are gone: T x T is never stored (Dao et al. 2022,
 * arXiv:2205.14135, without its running maximum, for a row of S fits the cache).  Work is shared out by (sequence, KV head), so that dk and dv of a head have one
 * owner and are summed in the order of its query heads and blocks. */
#include <string.h>

#include "base/size.h"
#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum { BLOCK = 64 };

/* A run of keys and values of one head: n rows, `stride` apart. */
struct run {
    const real *k, *v;
    size_t n;
};

/* What one thread holds while it works on one KV head.  Packed: B panels of K and V as rows (S = q K^T, dP = dout V^T) and as columns (P V, dS K). */
struct worker {
    const struct micro *micro;
    size_t D, stride;                     /* of a row of k and v */
    struct run run[2];                    /* a shared prefix (or none), the sequence itself */
    real *k_rows[2], *v_rows[2], *k_columns[2], *v_columns[2];
    real *S, *dP;                         /* [BLOCK, keys] */
    real *a, *b;                          /* packed left operand [BLOCK, keys or D]; packed right operand of one block of queries */
};

static size_t rounded(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Reals of one packed K or V of up to T rows in two runs, either way. */
static size_t packed_most(size_t D, size_t T)
{
    return (T + 2 * MICRO_NR_MOST + 2) * rounded(D, MICRO_NR_MOST);
}

size_t fast_attention_own(size_t D, size_t T)
{
    size_t wide = size_max(T, rounded(D, MICRO_NR_MOST)) + 2 * MICRO_NR_MOST;
    return 4 * packed_most(D, T) + 4 * BLOCK * wide;
}

static void open_worker(struct worker *w, const struct ops_context *c, size_t D, size_t stride, size_t T)
{
    real *at = cpu_scratch(c);
    size_t packed = packed_most(D, T), wide = size_max(T, rounded(D, MICRO_NR_MOST)) + 2 * MICRO_NR_MOST;
    *w = (struct worker){.micro = micro_of(c), .D = D, .stride = stride};
    w->k_rows[0] = at;
    w->v_columns[0] = at + packed;
    w->v_rows[0] = at + 2 * packed;
    w->k_columns[0] = at + 3 * packed;
    w->S = at + 4 * packed;
    w->dP = w->S + BLOCK * wide;
    w->a = w->dP + BLOCK * wide;
    w->b = w->a + BLOCK * wide;
}

/* B panels of x[n, D] with rows as columns of the product (contraction over D). */
static real *pack_rows(const struct worker *w, real *to, const real *x, size_t n)
{
    size_t NR = (size_t)w->micro->NR, units = units_of(w->micro, w->D);
    for (size_t j = 0; j < n; j += NR, to += units * NR)
        w->micro->pack(to, NR, x + j * w->stride, w->stride, size_min(NR, n - j), w->D);
    return to;
}

/* B panels of x[n, D], rows ld apart, as the right factor (contraction over n). */
static real *pack_columns(const struct worker *w, real *to, const real *x, size_t ld, size_t n)
{
    size_t NR = (size_t)w->micro->NR, units = units_of(w->micro, n);
    for (size_t j = 0; j < w->D; j += NR, to += units * NR)
        w->micro->pack_t(to, NR, x + j, ld, size_min(NR, w->D - j), n);
    return to;
}

static void pack_head(struct worker *w, bool backward)
{
    for (int i = 0; i < 2; i++) {
        real *k_rows = pack_rows(w, w->k_rows[i], w->run[i].k, w->run[i].n);
        real *v_columns = pack_columns(w, w->v_columns[i], w->run[i].v, w->stride, w->run[i].n);
        real *v_rows = backward ? pack_rows(w, w->v_rows[i], w->run[i].v, w->run[i].n) : w->v_rows[i];
        real *k_columns = backward ? pack_columns(w, w->k_columns[i], w->run[i].k, w->stride, w->run[i].n) : w->k_columns[i];
        if (i == 0) {
            w->k_rows[1] = k_rows;
            w->v_columns[1] = v_columns;
            w->v_rows[1] = v_rows;
            w->k_columns[1] = k_columns;
        }
    }
}

/* A panels of x[m, k] (rows ld apart), or of its transpose x[k, m]. */
static void pack_left(const struct worker *w, const real *x, size_t ld, size_t m, size_t k, bool transposed)
{
    size_t MR = (size_t)w->micro->MR, units = units_of(w->micro, k);
    for (size_t i = 0; i < m; i += MR) {
        size_t rows = size_min(MR, m - i);
        if (transposed)
            w->micro->pack_t(w->a + i * units, rows, x + i, ld, rows, k);
        else
            w->micro->pack(w->a + i * units, rows, x + i * ld, ld, rows, k);
    }
}

/* C[m, n] = (+=) (packed left) (B panels that hold all_units of the contraction, of which the first k count). */
static void multiply(const struct worker *w, const real *b, size_t all_units, size_t k, real *C, size_t ldc, size_t m, size_t n, bool add)
{
    size_t MR = (size_t)w->micro->MR, NR = (size_t)w->micro->NR, units = units_of(w->micro, k);
    for (size_t j = 0; j < n; j += NR)
        for (size_t i = 0; i < m; i += MR)
            w->micro->kernel(units, w->a + i * units, b + j * all_units, C + i * ldc + j, ldc, size_min(MR, m - i), size_min(NR, n - j), add);
}

/* A block of queries of one head: m rows; the first of them sees `seen` keys of the second run, each further row one more. */
struct block {
    const real *q;
    real *out, *lse; /* lse may be NULL */
    size_t m, seen, q_stride, lse_stride;
};

/* S = x K^T (or x V^T) over both runs, x[m, D]; rows `keys` apart. */
static void block_scores(const struct worker *w, real *S, size_t keys, real *const rows[2], const real *x, size_t ld, size_t m)
{
    size_t prefix = w->run[0].n, units = units_of(w->micro, w->D);
    pack_left(w, x, ld, m, w->D, false);
    multiply(w, rows[0], units, w->D, S, keys, m, prefix, false);
    multiply(w, rows[1], units, w->D, S + prefix, keys, m, keys - prefix, false);
}

/* out[m, D] = P (V or K) over both runs. */
static void block_sum(const struct worker *w, const real *P, size_t keys, real *const columns[2], real *out, size_t ld, size_t m)
{
    size_t prefix = w->run[0].n;
    if (prefix > 0) {
        pack_left(w, P, keys, m, prefix, false);
        multiply(w, columns[0], units_of(w->micro, prefix), prefix, out, ld, m, w->D, false);
    }
    pack_left(w, P + prefix, keys, m, keys - prefix, false);
    multiply(w, columns[1], units_of(w->micro, w->run[1].n), keys - prefix, out, ld, m, w->D, prefix > 0);
}

/* out = softmax(S / sqrt(D)) v: P is left unnormalised, the sum of each row divides its output. */
static void block_forward(const struct worker *w, const struct block *b)
{
    const struct vector *v = vector();
    size_t keys = w->run[0].n + b->seen + b->m - 1;
    real scale = (real)(1 / sqrt((double)w->D)), inverse[BLOCK];
    block_scores(w, w->S, keys, w->k_rows, b->q, b->q_stride, b->m);
    for (size_t i = 0; i < b->m; i++) {
        size_t seen = w->run[0].n + b->seen + i;
        real *row = w->S + i * keys, largest = scale * v->largest(row, seen);
        double sum = v->exp_sum(row, scale, largest, seen);
        for (size_t j = seen; j < keys; j++)
            row[j] = 0;
        inverse[i] = (real)(1 / sum);
        if (b->lse)
            b->lse[i * b->lse_stride] = (real)((double)largest + log(sum));
    }
    block_sum(w, w->S, keys, w->v_columns, b->out, b->q_stride, b->m);
    for (size_t i = 0; i < b->m; i++)
        v->scale(b->out + i * b->q_stride, inverse[i], w->D);
}

static void open_segment(struct worker *w, const struct ops_context *c, const struct attention_args *a, const struct segment *s, size_t g)
{
    size_t D = (size_t)a->D, stride = (size_t)a->KV * D, prefix = (size_t)s->prefix_start * stride + g * D;
    size_t own = (size_t)s->start * stride + g * D;
    open_worker(w, c, D, stride, (size_t)(s->len + s->prefix_len));
    w->run[0] = (struct run){a->k + prefix, a->v + prefix, (size_t)s->prefix_len};
    w->run[1] = (struct run){a->k + own, a->v + own, (size_t)s->len};
}

/* All blocks of the query heads that read KV head g in one segment. */
static void segment_forward(const struct ops_context *c, const struct attention_args *a, const struct segment *s, size_t g)
{
    size_t H = (size_t)a->H, D = (size_t)a->D, group = H / (size_t)a->KV, start = (size_t)s->start, len = (size_t)s->len;
    struct worker w;
    open_segment(&w, c, a, s, g);
    pack_head(&w, false);
    for (size_t h = g * group; h < (g + 1) * group; h++)
        for (size_t i0 = 0; i0 < len; i0 += BLOCK) {
            size_t at = ((start + i0) * H + h) * D;
            struct block b = {.q = a->q + at, .out = a->out + at, .lse = a->lse ? a->lse + (start + i0) * H + h : NULL,
                              .m = size_min(BLOCK, len - i0), .seen = i0 + 1, .q_stride = H * D, .lse_stride = H};
            block_forward(&w, &b);
        }
}

static size_t attention_work(const struct attention_args *a)
{
    size_t work = 0;
    for (size_t s = 0; s < a->n_segments; s++)
        work += (size_t)a->segments[s].len * (size_t)(a->segments[s].len + a->segments[s].prefix_len);
    return work * (size_t)a->H * (size_t)a->D;
}

/* A task is a KV head of a segment. */
static void each_segment(const struct ops_context *c, const struct attention_args *a,
                         void (*run)(const struct ops_context *, const struct attention_args *, const struct segment *, size_t g))
{
    size_t KV = (size_t)a->KV;
    int threads = team(c, attention_work(a));
    struct deal d;
    deal_open(&d, a->n_segments * KV, threads);
#pragma omp parallel num_threads(threads)
    for (size_t t; (t = deal_next(&d)) < d.n;)
        run(c, a, &a->segments[t / KV], t % KV);
}

void fast_attention_forward(const struct ops_context *c, const struct attention_args *a)
{
    each_segment(c, a, segment_forward);
}

/* ---- a prompt against the cache (one query: fast_decode.c) ---- */

/* keys rows of a head of the cache as reals, where they lie or (f16) in `room`. */
static const real *cached_rows(const struct decode_args *a, const void *cache, size_t at, size_t keys, real *room)
{
    if (a->cache_type != FORMAT_F16)
        return (const real *)cache + at;
    vector()->from_f16(room, (const uint16_t *)cache + at, keys * (size_t)a->D);
    return room;
}

/* Rows [i0, end) of one KV head's query heads against the keys that the last of them sees.  What only backward packs is room here. */
static void decode_rows(const struct ops_context *c, const struct decode_args *a, size_t g, size_t i0, size_t end)
{
    size_t H = (size_t)a->H, D = (size_t)a->D, group = H / (size_t)a->KV, at = g * a->capacity * D, keys = a->past + end;
    struct worker w;
    open_worker(&w, c, D, D, keys);
    const real *k = cached_rows(a, a->k_cache, at, keys, w.v_rows[0]), *v = cached_rows(a, a->v_cache, at, keys, w.k_columns[0]);
    w.run[0] = (struct run){k, v, 0};
    w.run[1] = (struct run){k, v, keys};
    pack_head(&w, false);
    for (; i0 < end; i0 += BLOCK)
        for (size_t h = g * group; h < (g + 1) * group; h++) {
            size_t row = (i0 * H + h) * D;
            struct block b = {.q = a->q + row, .out = a->out + row, .m = size_min(BLOCK, end - i0), .seen = a->past + i0 + 1, .q_stride = H * D};
            block_forward(&w, &b);
        }
}

/* A task is a part of the rows, two parts a thread, and a KV head, which is packed for each part. */
void fast_attention_decode_many(const struct ops_context *c, const struct decode_args *a)
{
    size_t KV = (size_t)a->KV, blocks = (a->n + BLOCK - 1) / BLOCK;
    int threads = team(c, a->n * (a->past + a->n) * (size_t)(a->H * a->D));
    size_t rows = (blocks + 2 * (size_t)threads - 1) / (2 * (size_t)threads) * BLOCK;
    struct deal d;
    deal_open(&d, (a->n + rows - 1) / rows * KV, threads);
#pragma omp parallel num_threads(threads)
    for (size_t t; (t = deal_next(&d)) < d.n;)
        decode_rows(c, a, t % KV, t / KV * rows, size_min(a->n, (t / KV + 1) * rows));
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

/* d[keys, D] += P^T x, x[m, D] rows ld apart. */
static void block_scatter(const struct worker *w, const real *P, size_t keys, const real *x, size_t ld, size_t m, real *d)
{
    pack_columns(w, w->b, x, ld, m);
    for (size_t j = 0; j < keys; j += BLOCK) {
        size_t some = size_min(BLOCK, keys - j);
        pack_left(w, P + j, keys, some, m, true);
        multiply(w, w->b, units_of(w->micro, m), m, d + j * w->stride, w->stride, some, w->D, true);
    }
}

/* One block of queries of head h: writes dq, adds to dk and dv. */
static void block_backward(const struct worker *w, const struct attention_args *a, size_t start, size_t h, size_t i0, size_t m)
{
    size_t H = (size_t)a->H, D = (size_t)a->D, keys = i0 + m, ld = H * D, at = ((start + i0) * H + h) * D;
    size_t kv = start * w->stride + h / (H / (size_t)a->KV) * D;
    block_scores(w, w->S, keys, w->k_rows, a->q + at, ld, m);
    block_scores(w, w->dP, keys, w->v_rows, a->dout + at, ld, m);
    block_ds(a, start + i0, h, i0, m, w->S, w->dP);
    block_sum(w, w->dP, keys, w->k_columns, a->dq + at, ld, m);
    block_scatter(w, w->dP, keys, a->q + at, ld, m, a->dk + kv);
    block_scatter(w, w->S, keys, a->dout + at, ld, m, a->dv + kv);
}

/* dk and dv of one KV head in one segment, and dq of the query heads that read it. */
static void segment_backward(const struct ops_context *c, const struct attention_args *a, const struct segment *s, size_t g)
{
    size_t KV = (size_t)a->KV, D = (size_t)a->D, group = (size_t)(a->H / a->KV), start = (size_t)s->start, len = (size_t)s->len;
    struct worker w;
    open_segment(&w, c, a, s, g);
    pack_head(&w, true);
    for (size_t j = start; j < start + len; j++) {
        memset(a->dk + (j * KV + g) * D, 0, D * sizeof(real));
        memset(a->dv + (j * KV + g) * D, 0, D * sizeof(real));
    }
    for (size_t h = g * group; h < (g + 1) * group; h++)
        for (size_t i0 = 0; i0 < len; i0 += BLOCK)
            block_backward(&w, a, start, h, i0, size_min(BLOCK, len - i0));
}

void fast_attention_backward(const struct ops_context *c, const struct attention_args *a)
{
    each_segment(c, a, segment_backward);
}
