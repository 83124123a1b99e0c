/* fast_decode.c: attention of a query that is being decoded, against keys and values in the cache.
 *
 * Nothing is computed twice and little is computed at all: the time is that of reading the cache.  So it is cut into spans of keys that fit half of the first
 * cache; whoever takes a span reads it once for all query heads that share it (Dao et al. 2023, Flash-Decoding), and leaves for each
 *
 *     m = max_j q k_j / sqrt(D),   z = sum_j exp(q k_j / sqrt(D) - m),   o = sum_j exp(q k_j / sqrt(D) - m) v_j
 *
 * from which the output is sum_s exp(m_s - M) o_s / sum_s exp(m_s - M) z_s, M = max_s m_s.  Spans depend on shapes alone, and so do the bits. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum { SPAN_REALS = 4096, SPAN_LEAST = 32 /* keys */, SPAN_MOST = 128 };

static size_t span_of(size_t D)
{
    return size_min(size_max(SPAN_REALS / D, SPAN_LEAST), SPAN_MOST);
}

/* Reals of what the spans of one row leave; heads * D <= width. */
size_t fast_decode_shared(size_t width, size_t D, size_t T)
{
    return (T / span_of(D) + 1) * (width + 2 * (width / D + 1));
}

/* What a span leaves for one head: m, z, o[D]. */
static real *left_by(const struct ops_context *c, size_t h, size_t spans, size_t s, size_t D)
{
    return c->scratch + (h * spans + s) * (D + 2);
}

/* Where number `at` of a cache stands. */
static const void *number_at(const struct decode_args *a, const void *cache, size_t at)
{
    return (const char *)cache + at * cache_number_bytes(a->cache_type);
}

/* Numbers begin .. end-1 of a cache are asked into the second cache: while one block of rows is worked on, head after head, the next one comes. */
static void ask_for(const struct decode_args *a, const void *cache, size_t begin, size_t end)
{
    const char *at = number_at(a, cache, begin), *last = number_at(a, cache, end);
    for (; at < last; at += 64)
        __builtin_prefetch(at, 0, 2);
}

/* Span s of the keys for the query heads of KV head g, VECTOR_HEADS of them at a time; q of one row. */
static void attend_span(const struct ops_context *c, const struct decode_args *a, const real *q, size_t g, size_t spans, size_t s, size_t n)
{
    const struct vector *f = vector();
    size_t D = (size_t)a->D, group = (size_t)(a->H / a->KV), span = span_of(D), at = (g * a->capacity + s * span) * D, all = n * D;
    bool last = s + 1 == spans && g + 1 == (size_t)a->KV, f16 = a->cache_type == FORMAT_F16;
    size_t next = s + 1 < spans ? at + span * D : (g + 1) * a->capacity * D;
    real *scores = cpu_scratch(c), scale = (real)(1 / sqrt((double)D));
    for (size_t i = 0, heads; i < group; i += heads) {
        heads = size_min(group - i, VECTOR_HEADS);
        ask_for(a, a->v_cache, at + all * i / group, at + all * (i + heads) / group);
        f->dots(scores + i * span, span, q + (g * group + i) * D, heads, number_at(a, a->k_cache, at), f16, n, D);
    }
    for (size_t i = 0, heads; i < group; i += heads) {
        real *left = left_by(c, g * group + i, spans, s, D), *p = scores + i * span;
        heads = size_min(group - i, VECTOR_HEADS);
        if (!last)
            ask_for(a, a->k_cache, next + all * i / group, next + all * (i + heads) / group);
        for (size_t h = 0; h < heads; h++) {
            real *of = left_by(c, g * group + i + h, spans, s, D);
            of[0] = scale * f->largest(p + h * span, n);
            of[1] = (real)f->exp_sum(p + h * span, scale, of[0], n);
        }
        f->weighted(left + 2, spans * (D + 2), p, span, heads, number_at(a, a->v_cache, at), f16, n, D);
    }
}

static void join_spans(const struct ops_context *c, size_t h, size_t spans, size_t D, real *out)
{
    const struct vector *f = vector();
    real most = left_by(c, h, spans, 0, D)[0];
    double sum = 0;
    for (size_t s = 1; s < spans; s++)
        most = left_by(c, h, spans, s, D)[0] > most ? left_by(c, h, spans, s, D)[0] : most;
    for (size_t d = 0; d < D; d++)
        out[d] = 0;
    for (size_t s = 0; s < spans; s++) {
        const real *left = left_by(c, h, spans, s, D);
        double weight = exp((double)(left[0] - most));
        sum += weight * (double)left[1];
        f->axpy(out, (real)weight, left + 2, D);
    }
    f->scale(out, (real)(1 / sum), D);
}

static void keep_head(const struct decode_args *a, void *cache, const real *from, size_t at)
{
    void *to = (char *)cache + at * cache_number_bytes(a->cache_type);
    if (a->cache_type == FORMAT_F16)
        vector()->to_f16(to, from, (size_t)a->D);
    else
        memcpy(to, from, (size_t)a->D * sizeof *from);
}

/* Head t % KV of row t / KV, from begin to end - 1. */
static void keep_heads(void *args, size_t begin, size_t end)
{
    const struct decode_args *a = args;
    size_t KV = (size_t)a->KV, D = (size_t)a->D;
    for (size_t t = begin; t < end; t++) {
        size_t i = t / KV, at = (t % KV * a->capacity + a->past + i) * D;
        keep_head(a, a->k_cache, a->k + t * D, at);
        keep_head(a, a->v_cache, a->v + t * D, at);
    }
}

void fast_attention_keep(const struct ops_context *c, const struct decode_args *a)
{
    struct decode_args args = *a;
    size_t heads = a->n * (size_t)a->KV;
    team_share(c, 2 * heads * (size_t)a->D, heads, keep_heads, &args); /* keys and values */
}

struct row {
    const struct ops_context *c;
    const struct decode_args *a;
    size_t i; /* number of the row among the new ones */
    size_t keys, spans;
};

static void attend_spans(void *args, size_t begin, size_t end)
{
    const struct row *r = args;
    const real *q = r->a->q + r->i * (size_t)(r->a->H * r->a->D);
    size_t span = span_of((size_t)r->a->D);
    for (size_t t = begin; t < end; t++)
        attend_span(r->c, r->a, q, t / r->spans, r->spans, t % r->spans, size_min(span, r->keys - t % r->spans * span));
}

static void join_heads(void *args, size_t begin, size_t end)
{
    const struct row *r = args;
    size_t H = (size_t)r->a->H, D = (size_t)r->a->D;
    for (size_t h = begin; h < end; h++)
        join_spans(r->c, h, r->spans, D, r->a->out + (r->i * H + h) * D);
}

static void decode_row(const struct ops_context *c, const struct decode_args *a, size_t i)
{
    size_t H = (size_t)a->H, D = (size_t)a->D, keys = a->past + i + 1, span = span_of(D), spans = (keys + span - 1) / span;
    struct row row = {.c = c, .a = a, .i = i, .keys = keys, .spans = spans};
    team_share(c, keys * H * D, (size_t)a->KV * spans, attend_spans, &row);
    team_share(c, spans * H * D, H, join_heads, &row);
}

void fast_attention_decode(const struct ops_context *c, const struct decode_args *a)
{
    enum { FEW = 8 };
    if (a->n > FEW)
        fast_attention_decode_many(c, a);
    else
        for (size_t i = 0; i < a->n; i++)
            decode_row(c, a, i);
}
