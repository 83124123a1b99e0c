/* attention.cu: the slots of attention: tensor cores where flash.cu can, else plain kernels in fp32 for any head size; decoding in splits.
 * Templates: T is what an act is, float or bf16; KEY a key's number, T's or that of a cache.
 *
 * Plain kernels: a warp takes one query (or key) of one head.  Its lanes compute the scores of 32 keys at once, then each lane sums its share of the
 * head's columns over those keys.  cpu/ref_attention.c has the equations. */
#include "cuda/attention.cuh"

enum { WARPS = 4, PLAIN_THREADS = 32 * WARPS, KEEP_THREADS = 64 };

/* ---- one query against runs of keys ---- */

/* A warp's softmax on the way: the largest score, the sum of exponentials; the weighted sum of values lies in shared memory. */
struct running {
    float most, sum;
};

template <class KEY> __device__ static inline float dot_of(const float *a, const KEY *b, int D)
{
    float sum = 0;
    for (int d = 0; d < D; d++)
        sum += a[d] * real_of(b[d]);
    return sum;
}

/* Rows of a cache; where a head has whole eights, so has all that lies before it. */
__device__ static inline float dot_of(const float *a, const f16 *b, int D)
{
    float sum = 0;
    int eights = D % 8 == 0 ? D : 0;
    for (int d = 0; d < eights; d += 8) {
        halves8 h = load_halves(&b[d].bits);
        for (int j = 0; j < 8; j++)
            sum += a[d + j] * f32_of_f16(h.v[j]);
    }
    for (int d = eights; d < D; d++)
        sum += a[d] * real_of(b[d]);
    return sum;
}

/* Keys from .. to-1; q[D] and acc[D] are this warp's.  All lanes walk alike. */
template <class T, class KEY>
__device__ static inline void attend_run(struct running *r, const struct attend<T> &a, const float *q, float *acc, struct key_rows<KEY> head, int from, int to)
{
    int lane = threadIdx.x & 31;
    for (int k0 = from; k0 < to; k0 += 32) {
        int count = min(32, to - k0);
        float score = lane < count ? dot_of(q, head.k + (size_t)(k0 + lane) * a.k_row, a.D) * a.scale : -INFINITY;
        float next = fmaxf(r->most, warp_max(score)), shrink = expf(r->most - next), p = lane < count ? expf(score - next) : 0;
        r->sum = r->sum * shrink + warp_sum(p);
        r->most = next;
        for (int d = lane; d < a.D; d += 32)
            acc[d] *= shrink;
        for (int j = 0; j < count; j++) {
            float w = __shfl_sync(0xffffffffu, p, j);
            const KEY *row = head.v + (size_t)(k0 + j) * a.k_row;
            for (int d = lane; d < a.D; d += 32)
                acc[d] += w * real_of(row[d]);
        }
    }
}

template <class T, class KEY> __device__ static inline struct key_rows<KEY> head_of(struct key_rows<KEY> keys, const struct attend<T> &a, int h)
{
    size_t at = (size_t)(h / (a.H / a.KV)) * a.k_head;
    return {keys.k + at, keys.v + at};
}

/* This warp's shared memory: rows of D floats. */
__device__ static inline float *warp_memory(float *memory, int rows, int D)
{
    return memory + (size_t)(threadIdx.x >> 5) * rows * D;
}

template <class T> __device__ static inline void copy_row(float *to, const T *from, int D)
{
    for (int d = threadIdx.x & 31; d < D; d += 32)
        to[d] = real_of(from[d]);
}

__device__ static inline void clear_row(float *to, int D)
{
    for (int d = threadIdx.x & 31; d < D; d += 32)
        to[d] = 0;
}

template <class T, class KEY> __global__ void __launch_bounds__(PLAIN_THREADS) k_attention_forward(struct attend<T> a, struct key_rows<KEY> keys)
{
    extern __shared__ __align__(16) float memory[];
    int lane = threadIdx.x & 31, h = blockIdx.y, i = (int)blockIdx.x * WARPS + (int)(threadIdx.x >> 5);
    float *q = warp_memory(memory, 2, a.D), *acc = q + a.D;
    int4 reach = reach_of(a, i);
    if (!(reach.y > 0)) /* a whole warp; no barrier of the block follows */
        return;
    struct key_rows<KEY> head = head_of(keys, a, h);
    size_t at = (size_t)i * a.H + h;
    copy_row(q, a.q + at * a.D, a.D);
    clear_row(acc, a.D);
    __syncwarp();
    struct running r = {-INFINITY, 0};
    attend_run(&r, a, q, acc, head, reach.z, reach.w);
    attend_run(&r, a, q, acc, head, reach.x, a.past + i + 1);
    for (int d = lane; d < a.D; d += 32)
        put(a.out + at * a.D + d, acc[d] / r.sum);
    if (lane == 0 && a.lse)
        a.lse[at] = r.most + logf(r.sum);
}

/* ---- backward ---- */

/* delta = dout . out of each query and head */
template <class T> __global__ void __launch_bounds__(PLAIN_THREADS) k_delta(float *delta, const T *dout, const T *out, size_t rows, int D)
{
    size_t row = (size_t)blockIdx.x * WARPS + (threadIdx.x >> 5);
    float sum = 0;
    for (int d = threadIdx.x & 31; row < rows && d < D; d += 32)
        sum += real_of(dout[row * D + d]) * real_of(out[row * D + d]);
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0 && row < rows)
        delta[row] = sum;
}

template <class T> __global__ void __launch_bounds__(PLAIN_THREADS) k_attention_dq(struct attend<T> a)
{
    extern __shared__ __align__(16) float memory[];
    int lane = threadIdx.x & 31, h = blockIdx.y, i = (int)blockIdx.x * WARPS + (int)(threadIdx.x >> 5), kv = h / (a.H / a.KV);
    float *q = warp_memory(memory, 3, a.D), *dout = q + a.D, *acc = dout + a.D;
    int4 reach = reach_of(a, i);
    if (!(reach.y > 0))
        return;
    const T *k = a.k + (size_t)kv * a.k_head, *v = a.v + (size_t)kv * a.k_head;
    size_t at = (size_t)i * a.H + h;
    copy_row(q, a.q + at * a.D, a.D);
    copy_row(dout, a.dout + at * a.D, a.D);
    clear_row(acc, a.D);
    __syncwarp();
    for (int k0 = reach.x; k0 <= i; k0 += 32) {
        int count = min(32, i + 1 - k0);
        float ds = 0;
        if (lane < count) {
            size_t key = (size_t)(k0 + lane) * a.k_row;
            float P = expf(dot_of(q, k + key, a.D) * a.scale - a.lse[at]);
            ds = P * (dot_of(dout, v + key, a.D) - a.delta[at]) * a.scale;
        }
        for (int j = 0; j < count; j++) {
            float w = __shfl_sync(0xffffffffu, ds, j);
            for (int d = lane; d < a.D; d += 32)
                acc[d] += w * real_of(k[(size_t)(k0 + j) * a.k_row + d]);
        }
    }
    for (int d = lane; d < a.D; d += 32)
        put(a.dq + at * a.D + d, acc[d]);
}

/* A warp takes a key: all later queries of its segment read it, through every query head of its group. */
template <class T> __global__ void __launch_bounds__(PLAIN_THREADS) k_attention_dkv(struct attend<T> a)
{
    extern __shared__ __align__(16) float memory[];
    int lane = threadIdx.x & 31, kv = blockIdx.y, key = (int)blockIdx.x * WARPS + (int)(threadIdx.x >> 5), group = a.H / a.KV;
    float *k = warp_memory(memory, 4, a.D), *v = k + a.D, *dk = v + a.D, *dv = dk + a.D;
    int end = reach_of(a, key).y;
    if (!(end > 0))
        return;
    size_t at = (size_t)key * a.k_row + (size_t)kv * a.k_head;
    copy_row(k, a.k + at, a.D);
    copy_row(v, a.v + at, a.D);
    clear_row(dk, a.D);
    clear_row(dv, a.D);
    __syncwarp();
    for (int h = kv * group; h < (kv + 1) * group; h++)
        for (int q0 = key; q0 < end; q0 += 32) {
            int count = min(32, end - q0);
            float P = 0, ds = 0;
            if (lane < count) {
                size_t row = (size_t)(q0 + lane) * a.H + h;
                P = expf(dot_of(k, a.q + row * a.D, a.D) * a.scale - a.lse[row]);
                ds = P * (dot_of(v, a.dout + row * a.D, a.D) - a.delta[row]) * a.scale;
            }
            for (int j = 0; j < count; j++) {
                float w = __shfl_sync(0xffffffffu, P, j), dw = __shfl_sync(0xffffffffu, ds, j);
                size_t row = ((size_t)(q0 + j) * a.H + h) * a.D;
                for (int d = lane; d < a.D; d += 32) {
                    dk[d] += dw * real_of(a.q[row + d]);
                    dv[d] += w * real_of(a.dout[row + d]);
                }
            }
        }
    for (int d = lane; d < a.D; d += 32) {
        put(a.dk + ((size_t)key * a.KV + kv) * a.D + d, dk[d]);
        put(a.dv + ((size_t)key * a.KV + kv) * a.D + d, dv[d]);
    }
}

/* ---- keys and values into a cache: a block takes a row of a head ---- */

__device__ static inline void put(f16 *to, float x)
{
    const float most = 65504;
    to->bits = f16_of(x > most ? most : x < -most ? -most : x); /* NaN is neither */
}

template <class T, class KEY>
__global__ void __launch_bounds__(KEEP_THREADS) k_keep(KEY *k_cache, KEY *v_cache, const T *k, const T *v, size_t past, size_t capacity, int D)
{
    size_t i = blockIdx.x, g = blockIdx.y, from = (i * gridDim.y + g) * (size_t)D, to = (g * capacity + past + i) * (size_t)D;
    for (int d = threadIdx.x; d < D; d += KEEP_THREADS) {
        put(k_cache + to + d, real_of(k[from + d]));
        put(v_cache + to + d, real_of(v[from + d]));
    }
}

/* ---- decoding: a warp takes 64 keys of one query and head; a second kernel merges ---- */

/* part: of each query, head and split the running maximum, sum and weighted values: D + 2 floats. */
template <class T, class KEY> __global__ void __launch_bounds__(PLAIN_THREADS) k_decode_splits(float *part, struct attend<T> a, struct key_rows<KEY> keys, int splits)
{
    extern __shared__ __align__(16) float memory[];
    int lane = threadIdx.x & 31, ih = blockIdx.y, i = ih / a.H, h = ih % a.H, split = (int)blockIdx.x * WARPS + (int)(threadIdx.x >> 5);
    float *q = warp_memory(memory, 2, a.D), *acc = q + a.D;
    int from = split * SPLIT, to = min(from + SPLIT, a.past + i + 1);
    if (split >= splits)
        return;
    copy_row(q, a.q + (size_t)ih * a.D, a.D);
    clear_row(acc, a.D);
    __syncwarp();
    struct running r = {-INFINITY, 0};
    if (from < to) /* earlier queries of a step read fewer splits */
        attend_run(&r, a, q, acc, head_of(keys, a, h), from, to);
    part += ((size_t)ih * splits + split) * (a.D + 2);
    for (int d = lane; d < a.D; d += 32)
        part[2 + d] = acc[d];
    if (lane == 0) {
        part[0] = r.most;
        part[1] = r.sum;
    }
}

template <class T> __global__ void __launch_bounds__(PLAIN_THREADS) k_decode_merge(T *out, const float *part, int rows, int splits, int D)
{
    int lane = threadIdx.x & 31, ih = (int)blockIdx.x * WARPS + (int)(threadIdx.x >> 5);
    if (ih >= rows)
        return;
    part += (size_t)ih * splits * (D + 2);
    float most = -INFINITY, sum = 0;
    for (int s = 0; s < splits; s++)
        most = fmaxf(most, part[(size_t)s * (D + 2)]);
    for (int s = 0; s < splits; s++)
        sum += part[(size_t)s * (D + 2) + 1] * expf(part[(size_t)s * (D + 2)] - most);
    for (int d = lane; d < D; d += 32) {
        float x = 0;
        for (int s = 0; s < splits; s++)
            x += part[(size_t)s * (D + 2) + 2 + d] * expf(part[(size_t)s * (D + 2)] - most);
        put(out + (size_t)ih * D + d, x / sum);
    }
}

/* ---- the slots ---- */

/* Of each row of a segment {start, end, prefix, prefix_end}; rows of none stay zeros. */
__global__ void __launch_bounds__(PLAIN_THREADS) k_reach(int4 *reach, const struct segment *segments)
{
    struct segment s = segments[blockIdx.x];
    for (int i = s.start + (int)threadIdx.x; i < s.start + s.len; i += PLAIN_THREADS)
        reach[i] = make_int4(s.start, s.start + s.len, s.prefix_start, s.prefix_start + s.prefix_len);
}

static const int4 *reach_for(const struct ops_context *c, struct pieces *p, const struct attention_args *a)
{
    struct device *d = c->device;
    int4 *reach = (int4 *)piece_take(p, a->n * sizeof *reach);
    if (!reach)
        return NULL;
    device_note(d, cudaMemsetAsync(reach, 0, a->n * sizeof *reach, d->stream), "attention");
    if (a->n_segments == 0)
        return reach;
    k_reach<<<(unsigned)a->n_segments, PLAIN_THREADS, 0, d->stream>>>(reach, a->segments);
    launched(d, "attention");
    return reach;
}

template <class T> static struct attend<T> attend_of(const struct attention_args *a, const int4 *reach)
{
    struct attend<T> t = {};
    t.q = (const T *)a->q;
    t.k = (const T *)a->k;
    t.v = (const T *)a->v;
    t.out = (T *)a->out;
    t.lse = a->lse;
    t.reach = reach;
    t.n = t.keys = (int)a->n;
    t.H = a->H;
    t.KV = a->KV;
    t.D = a->D;
    t.k_row = (size_t)a->KV * (size_t)a->D;
    t.k_head = (size_t)a->D;
    t.scale = (float)(1 / sqrt((double)a->D));
    t.dout = (const T *)a->dout;
    t.dq = (T *)a->dq;
    t.dk = (T *)a->dk;
    t.dv = (T *)a->dv;
    return t;
}

template <class T, class KEY> static void forward_over(struct device *d, const struct attend<T> &a, struct key_rows<KEY> keys)
{
    size_t bytes = (size_t)WARPS * 2 * (size_t)a.D * sizeof(float);
    if (flash_forward(d, a, keys))
        return;
    k_attention_forward<T, KEY><<<dim3(blocks_for((size_t)a.n, WARPS), (unsigned)a.H), PLAIN_THREADS, bytes, d->stream>>>(a, keys);
    launched(d, "attention_forward");
}

template <class T> static void forward(const struct ops_context *c, const struct attention_args *args)
{
    struct pieces p = pieces_of(c);
    if (args->n == 0)
        return;
    struct attend<T> a = attend_of<T>(args, reach_for(c, &p, args));
    if (a.reach)
        forward_over(c->device, a, key_rows<T>{a.k, a.v});
}

extern "C" void cuda_attention_forward(const struct ops_context *c, const struct attention_args *args)
{
    (act_in_halves(c) ? forward<bf16> : forward<float>)(c, args);
}

template <class T> static void backward(const struct ops_context *c, const struct attention_args *args)
{
    struct pieces p = pieces_of(c);
    struct device *d = c->device;
    if (args->n == 0)
        return;
    struct attend<T> a = attend_of<T>(args, reach_for(c, &p, args));
    size_t rows = args->n * (size_t)a.H, row = (size_t)WARPS * (size_t)a.D * sizeof(float);
    float *delta = (float *)piece_take(&p, rows * sizeof *delta);
    if (!a.reach || !delta)
        return;
    k_delta<T><<<blocks_for(rows, WARPS), PLAIN_THREADS, 0, d->stream>>>(delta, a.dout, a.out, rows, a.D);
    launched(d, "attention_backward");
    a.delta = delta;
    if (flash_backward(d, a))
        return;
    k_attention_dq<T><<<dim3(blocks_for(args->n, WARPS), (unsigned)a.H), PLAIN_THREADS, 3 * row, d->stream>>>(a);
    launched(d, "attention_backward");
    k_attention_dkv<T><<<dim3(blocks_for(args->n, WARPS), (unsigned)a.KV), PLAIN_THREADS, 4 * row, d->stream>>>(a);
    launched(d, "attention_backward");
}

extern "C" void cuda_attention_backward(const struct ops_context *c, const struct attention_args *args)
{
    (act_in_halves(c) ? backward<bf16> : backward<float>)(c, args);
}

template <class T, class KEY> static void keep_in(struct device *d, const struct decode_args *a)
{
    KEY *k = (KEY *)a->k_cache, *v = (KEY *)a->v_cache;
    k_keep<T, KEY><<<dim3((unsigned)a->n, (unsigned)a->KV), KEEP_THREADS, 0, d->stream>>>(k, v, (const T *)a->k, (const T *)a->v, a->past, a->capacity, a->D);
    launched(d, "attention_keep");
}

template <class T> static void keep_rows(struct device *d, const struct decode_args *a)
{
    (a->cache_type == FORMAT_F16 ? keep_in<T, f16> : keep_in<T, float>)(d, a);
}

extern "C" void cuda_attention_keep(const struct ops_context *c, const struct decode_args *args)
{
    if (args->n == 0)
        return;
    (act_in_halves(c) ? keep_rows<bf16> : keep_rows<float>)(c->device, args);
}

template <class T, class KEY> static void decode_in_splits(const struct ops_context *c, const struct attend<T> &a, struct key_rows<KEY> keys)
{
    struct pieces p = pieces_of(c);
    struct device *d = c->device;
    int splits = (a.past + a.n + SPLIT - 1) / SPLIT, rows = a.n * a.H;
    size_t bytes = (size_t)WARPS * 2 * (size_t)a.D * sizeof(float);
    float *part = (float *)piece_take(&p, (size_t)rows * (size_t)splits * (size_t)(a.D + 2) * sizeof *part);
    if (!part)
        return;
    k_decode_splits<T, KEY><<<dim3(blocks_for((size_t)splits, WARPS), (unsigned)rows), PLAIN_THREADS, bytes, d->stream>>>(part, a, keys, splits);
    launched(d, "attention_decode");
    k_decode_merge<T><<<blocks_for((size_t)rows, WARPS), PLAIN_THREADS, 0, d->stream>>>(a.out, part, rows, splits, a.D);
    launched(d, "attention_decode");
}

/* Many queries at once are a prompt: what a sequence of its own does, over the cache's keys. */
template <class T, class KEY> static void decode_over(const struct ops_context *c, const struct attend<T> &a, const struct decode_args *args)
{
    struct key_rows<KEY> keys = {(const KEY *)args->k_cache, (const KEY *)args->v_cache};
    if (a.n <= DECODE_MOST)
        decode_in_splits(c, a, keys);
    else
        forward_over(c->device, a, keys);
}

template <class T> static void decode(const struct ops_context *c, const struct decode_args *args)
{
    struct attend<T> a = {};
    a.q = (const T *)args->q;
    a.out = (T *)args->out;
    a.n = (int)args->n;
    a.past = (int)args->past;
    a.keys = a.past + a.n;
    a.H = args->H;
    a.KV = args->KV;
    a.D = args->D;
    a.k_row = (size_t)args->D;
    a.k_head = args->capacity * (size_t)args->D;
    a.scale = (float)(1 / sqrt((double)args->D));
    (args->cache_type == FORMAT_F16 ? decode_over<T, f16> : decode_over<T, float>)(c, a, args);
}

extern "C" void cuda_attention_decode(const struct ops_context *c, const struct decode_args *args)
{
    if (args->n == 0)
        return;
    (act_in_halves(c) ? decode<bf16> : decode<float>)(c, args);
}
