/* ref_attention.c: the plain truth, third part: causal attention over segments of consecutive rows, query heads in groups.
 *
 *     s[j] = q . k[j] / sqrt(D)       P[j] = exp(s[j] - lse),  lse = log sum exp(s)       out = sum_j P[j] v[j]
 *     dP[j] = dout . v[j]             ds[j] = P[j] (dP[j] - dout . out) / sqrt(D)
 *     dq = sum_j ds[j] k[j]           dk[j] = sum_i ds[i,j] q[i]                          dv[j] = sum_i P[i,j] dout[i]
 *
 * Vaswani et al. 2017 (arXiv:1706.03762); backward from the saved lse as in Dao et al. 2022 (arXiv:2205.14135), app. B;
 * grouped heads: Ainslie et al. 2023 (arXiv:2305.13245).  Only one row of scores ever exists. */
#include "cpu/cpu.h"

static double dot(const real *a, const real *b, size_t D)
{
    double sum = 0;
    for (size_t d = 0; d < D; d++)
        sum += (double)a[d] * (double)b[d];
    return sum;
}

/* One query against keys in two runs of rows (either may be empty): a shared prefix and the row's own sequence. */
struct keys {
    const void *k, *v; /* of numbers in type: F32 (reals) or F16 */
    enum format type;
    size_t first[2], n[2], stride; /* where the first row of this head stands in each run */
};

static double number_of(const struct keys *keys, const void *from, size_t at)
{
    return keys->type == FORMAT_F16 ? (double)f32_from_f16(((const uint16_t *)from)[at]) : (double)((const real *)from)[at];
}

/* out[D] and the log-sum-exp of one query. scores: as many reals as there are keys. */
static double attend(real *out, const real *q, const struct keys *keys, size_t D, real *scores, double *sum_v)
{
    double scale = 1 / sqrt((double)D), largest = -INFINITY, sum = 0;
    size_t j = 0;
    for (int run = 0; run < 2; run++)
        for (size_t t = 0; t < keys->n[run]; t++, j++) {
            double score = 0;
            for (size_t d = 0; d < D; d++)
                score += (double)q[d] * number_of(keys, keys->k, keys->first[run] + t * keys->stride + d);
            scores[j] = (real)(score * scale);
            largest = fmax(largest, (double)scores[j]);
        }
    for (size_t d = 0; d < D; d++)
        sum_v[d] = 0;
    j = 0;
    for (int run = 0; run < 2; run++)
        for (size_t t = 0; t < keys->n[run]; t++, j++) {
            double p = exp((double)scores[j] - largest);
            sum += p;
            for (size_t d = 0; d < D; d++)
                sum_v[d] += p * number_of(keys, keys->v, keys->first[run] + t * keys->stride + d);
        }
    for (size_t d = 0; d < D; d++)
        out[d] = (real)(sum_v[d] / sum);
    return largest + log(sum);
}

static void forward_row(const struct ops_context *c, const struct attention_args *a, const struct segment *seg, size_t i)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, start = (size_t)seg->start;
    double *sum_v = (double *)(void *)cpu_scratch(c);
    for (size_t h = 0; h < H; h++) {
        size_t g = h / (H / KV), stride = KV * D;
        struct keys keys = {.k = a->k,
                            .v = a->v,
                            .type = FORMAT_F32,
                            .first = {(size_t)seg->prefix_start * stride + g * D, start * stride + g * D},
                            .n = {(size_t)seg->prefix_len, i - start + 1},
                            .stride = stride};
        double lse = attend(a->out + (i * H + h) * D, a->q + (i * H + h) * D, &keys, D, (real *)(sum_v + D), sum_v);
        if (a->lse)
            a->lse[i * H + h] = (real)lse;
    }
}

void ref_attention_forward(const struct ops_context *c, const struct attention_args *a)
{
    for (size_t t = 0; t < a->n_segments; t++) {
        const struct segment *seg = &a->segments[t];
#pragma omp parallel for num_threads(c->threads)
        for (int32_t i = seg->start; i < seg->start + seg->len; i++)
            forward_row(c, a, seg, (size_t)i);
    }
}

/* ---- decoding ---- */

static void keep_number(const struct decode_args *a, void *cache, size_t at, real x)
{
    if (a->cache_type == FORMAT_F16)
        ((uint16_t *)cache)[at] = f16_within_range((float)x);
    else
        ((real *)cache)[at] = x;
}

void ref_attention_keep(const struct ops_context *c, const struct decode_args *a)
{
    size_t KV = (size_t)a->KV, D = (size_t)a->D;
#pragma omp parallel for num_threads(c->threads)
    for (size_t e = 0; e < a->n * KV * D; e++) {
        size_t i = e / (KV * D), g = e / D % KV, at = (g * a->capacity + a->past + i) * D + e % D;
        keep_number(a, a->k_cache, at, a->k[e]);
        keep_number(a, a->v_cache, at, a->v[e]);
    }
}

void ref_attention_decode(const struct ops_context *c, const struct decode_args *a)
{
    size_t H = (size_t)a->H, D = (size_t)a->D;
#pragma omp parallel for num_threads(c->threads)
    for (size_t ih = 0; ih < a->n * H; ih++) {
        size_t i = ih / H, head = ih % H / (H / (size_t)a->KV) * a->capacity * D;
        double *sum_v = (double *)(void *)cpu_scratch(c);
        struct keys keys = {.k = a->k_cache, .v = a->v_cache, .type = a->cache_type, .first = {head, 0}, .n = {a->past + i + 1, 0}, .stride = D};
        attend(a->out + ih * D, a->q + ih * D, &keys, D, (real *)(sum_v + D), sum_v);
    }
}

/* ---- backward ---- */

/* P and ds of query row i, head h against key row j.  The score is rounded as it was for lse: where scores are large, half a unit of the last place is
 * enough to make an exp that must not exceed 1 infinite. */
static void pair(const struct attention_args *a, size_t i, size_t h, size_t j, double *P, double *ds)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, qi = (i * H + h) * D, kj = (j * KV + h / (H / KV)) * D;
    double scale = 1 / sqrt((double)D);
    real score = (real)(dot(a->q + qi, a->k + kj, D) * scale);
    *P = exp((double)score - (double)a->lse[i * H + h]);
    *ds = *P * (dot(a->dout + qi, a->v + kj, D) - dot(a->dout + qi, a->out + qi, D)) * scale;
}

static void dq_row(const struct ops_context *c, const struct attention_args *a, size_t start, size_t i)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D;
    double *sum = (double *)(void *)cpu_scratch(c), P, ds;
    for (size_t h = 0; h < H; h++) {
        for (size_t d = 0; d < D; d++)
            sum[d] = 0;
        for (size_t j = start; j <= i; j++) {
            pair(a, i, h, j, &P, &ds);
            for (size_t d = 0; d < D; d++)
                sum[d] += ds * (double)a->k[(j * KV + h / (H / KV)) * D + d];
        }
        for (size_t d = 0; d < D; d++)
            a->dq[(i * H + h) * D + d] = (real)sum[d];
    }
}

/* A key is read by every later row of its segment, through every query head of its group. */
static void dk_dv_row(const struct ops_context *c, const struct attention_args *a, size_t end, size_t j)
{
    size_t H = (size_t)a->H, KV = (size_t)a->KV, D = (size_t)a->D, group = H / KV;
    double *sum_k = (double *)(void *)cpu_scratch(c), *sum_v = sum_k + D, P, ds;
    for (size_t g = 0; g < KV; g++) {
        for (size_t d = 0; d < D; d++)
            sum_k[d] = sum_v[d] = 0;
        for (size_t h = g * group; h < (g + 1) * group; h++)
            for (size_t i = j; i < end; i++) {
                pair(a, i, h, j, &P, &ds);
                for (size_t d = 0; d < D; d++) {
                    sum_k[d] += ds * (double)a->q[(i * H + h) * D + d];
                    sum_v[d] += P * (double)a->dout[(i * H + h) * D + d];
                }
            }
        for (size_t d = 0; d < D; d++) {
            a->dk[(j * KV + g) * D + d] = (real)sum_k[d];
            a->dv[(j * KV + g) * D + d] = (real)sum_v[d];
        }
    }
}

void ref_attention_backward(const struct ops_context *c, const struct attention_args *a)
{
    for (size_t t = 0; t < a->n_segments; t++) {
        int32_t start = a->segments[t].start, end = start + a->segments[t].len;
#pragma omp parallel for num_threads(c->threads)
        for (int32_t i = start; i < end; i++) {
            dq_row(c, a, (size_t)start, (size_t)i);
            dk_dv_row(c, a, (size_t)end, (size_t)i);
        }
    }
}
