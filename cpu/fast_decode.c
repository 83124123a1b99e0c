/* fast_decode.c: attention of a query that is being decoded, against keys and values in the cache.
 *
 * Nothing is computed twice and little is computed at all: the time is that of reading the cache.  So it is cut into spans of keys that fit half of the first
 * cache; whoever takes a span reads it once for all query heads that share it (Dao et al. 2023, Flash-Decoding), and leaves for each
 *
 *     m = max_j q k_j / sqrt(D),   z = sum_j exp(q k_j / sqrt(D) - m),   o = sum_j exp(q k_j / sqrt(D) - m) v_j
 *
 * from which the output is sum_s exp(m_s - M) o_s / sum_s exp(m_s - M) z_s, M = max_s m_s.  Spans depend on shapes alone, and so do the bits. */
#include <math.h>

#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/vector.h"

enum { SPAN_REALS = 4096, SPAN_LEAST = 32 /* keys */, SPAN_MOST = 128 };

static size_t span_of(size_t D)
{
    return cpu_min(cpu_max(SPAN_REALS / D, SPAN_LEAST), SPAN_MOST);
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

/* Share i of `group` of n rows is asked into the second cache: while one block of rows is worked on, group times, the next one comes. */
static void ask_for(const real *rows, size_t n, size_t D, size_t i, size_t group)
{
    const char *at = (const char *)rows, *end = at + n * D * sizeof(real) * (i + 1) / group;
    for (at += n * D * sizeof(real) * i / group; at < end; at += 64)
        __builtin_prefetch(at, 0, 2);
}

/* Span s of the keys for the query heads of KV head g; q of one row. */
static void attend_span(const struct ops_context *c, const struct decode_args *a, const real *q, size_t g, size_t spans, size_t s, size_t n)
{
    const struct vector *f = vector();
    size_t D = (size_t)a->D, group = (size_t)(a->H / a->KV), span = span_of(D), at = (g * a->capacity + s * span) * D;
    bool last = s + 1 == spans && g + 1 == (size_t)a->KV;
    size_t next = s + 1 < spans ? at + span * D : (g + 1) * a->capacity * D;
    real *scores = cpu_scratch(c), scale = (real)(1 / sqrt((double)D));
    for (size_t i = 0; i < group; i++) {
        ask_for(a->v + at, n, D, i, group);
        f->dots(scores + i * span, q + (g * group + i) * D, a->k + at, n, D);
    }
    for (size_t i = 0; i < group; i++) {
        if (!last)
            ask_for(a->k + next, n, D, i, group);
        real *left = left_by(c, g * group + i, spans, s, D), *p = scores + i * span;
        left[0] = scale * f->largest(p, n);
        left[1] = (real)f->exp_sum(p, scale, left[0], n);
        f->weighted(left + 2, p, a->v + at, n, D);
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

/* Row i of the new ones. */
static void decode_row(const struct ops_context *c, const struct decode_args *a, size_t i)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, keys = a->past + i + 1, span = span_of(D), spans = (keys + span - 1) / span;
#pragma omp parallel num_threads(team(c, keys * H * D))
    {
#pragma omp for schedule(static)
        for (size_t t = 0; t < KV * spans; t++)
            attend_span(c, a, a->q + i * H * D, t / spans, spans, t % spans, cpu_min(span, keys - t % spans * span));
#pragma omp for schedule(static) nowait
        for (size_t h = 0; h < H; h++)
            join_spans(c, h, spans, D, a->out + (i * H + h) * D);
    }
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
