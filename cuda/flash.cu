/* flash.cu: causal attention on tensor cores, heads of 64 and 128.  Dao 2023 (FlashAttention-2, arXiv:2307.08691).
 *
 *     S = q k^T / sqrt(D) in fp32 from bf16 factors       P = exp(S - lse)       out = P v       (P rounded to bf16)
 *     dS = P (dout v^T - delta) / sqrt(D)                  dq = dS k              dk = dS^T q     dv = P^T dout
 *
 * A block of four warps takes 64 queries (backward of keys: 64 keys) of one head and walks over tiles of the other side.  Queries of a tile may belong to
 * several sequences and may share prefixes: the tile walks over the union, and each score is masked by its own query's reach.  Backward is two kernels,
 * one for dq and one for dk and dv, seven products instead of five: nothing is added by two blocks, so the bits are always the same. */
#include "cuda/attention.cuh"
#include "cuda/mma.cuh"

static const int FLASH_THREADS = 128, TILE = 64, WARP_ROWS = 16;
#define LOG2E 1.4426950408889634f

/* Eight numbers as bf16. */
__device__ static inline uint4 eight_halves(const float *p)
{
    floats<4> a = load<4>(p), b = load<4>(p + 4);
    return make_uint4(two_halves(a.v[0], a.v[1]), two_halves(a.v[2], a.v[3]), two_halves(b.v[0], b.v[1]), two_halves(b.v[2], b.v[3]));
}

__device__ static inline uint4 eight_halves(const uint16_t *p) /* f16 */
{
    halves8 h = load_halves(p);
    uint32_t u[4];
    for (int i = 0; i < 4; i++)
        u[i] = two_halves(f32_of_f16(h.v[2 * i]), f32_of_f16(h.v[2 * i + 1]));
    return make_uint4(u[0], u[1], u[2], u[3]);
}

/* Rows row0 .. row0+ROWS-1 of D numbers, as bf16 in shared memory; zeros from `end` on. */
template <int D, int ROWS, class KEY> __device__ static inline void load_tile(uint16_t *to, const KEY *from, size_t stride, int row0, int end)
{
    for (int i = threadIdx.x; i < ROWS * D / 8; i += FLASH_THREADS) {
        int r = i / (D / 8), c = i % (D / 8) * 8;
        uint4 h = make_uint4(0, 0, 0, 0);
        if (row0 + r < end)
            h = eight_halves(from + (size_t)(row0 + r) * stride + c);
        *(uint4 *)(to + r * tile<D>::LD + c) = h;
    }
}

/* The keys that a tile of queries reads: one or two runs, and where a score needs no mask. */
struct span {
    int from, to, prefix, prefix_end; /* the second is empty where the first holds it */
    int free_from, free_to;           /* every query of the tile reads all keys between */
};

__device__ static inline int warp_least(int x)
{
    for (int o = 16; o > 0; o >>= 1)
        x = min(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

/* reach: of the tile's queries, in shared memory. */
__device__ static inline struct span span_of(const struct attend &a, const int4 *reach, int q0)
{
    const int none = 0x7fffffff;
    int own = none, latest = none, prefix = none, prefix_end = none, whole = 1, rows = min(TILE, a.n - q0);
    for (int i = threadIdx.x & 31; i < rows; i += 32) {
        int4 r = reach[i];
        if (r.y > 0) {
            own = min(own, r.x);
            latest = min(latest, -r.x);
        }
        whole = min(whole, r.y > 0 ? 1 : 0);
        if (r.w > r.z) {
            prefix = min(prefix, r.z);
            prefix_end = min(prefix_end, -r.w);
        }
    }
    own = warp_least(own);
    latest = -warp_least(latest);
    prefix = warp_least(prefix);
    prefix_end = -warp_least(prefix_end);
    whole = warp_least(whole);
    int end = min(a.keys, a.past + q0 + rows);
    struct span s = {own, own == none ? own : end, 0, 0, latest, whole ? a.past + q0 + 1 : 0};
    if (prefix == none)
        return s;
    if (own == none || prefix_end < own) { /* two runs with a gap between */
        s.prefix = prefix;
        s.prefix_end = prefix_end;
    } else {
        s.from = min(own, prefix);
        s.to = max(end, prefix_end);
    }
    return s;
}

template <int D, class KEY> __global__ void __launch_bounds__(FLASH_THREADS) k_flash_forward(struct attend a, struct key_rows<KEY> keys)
{
    extern __shared__ __align__(16) uint16_t memory[];
    __shared__ int4 reach[TILE];
    const int LD = tile<D>::LD;
    uint16_t *sq = memory, *sk = sq + TILE * LD, *sv = sk + TILE * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    int h = blockIdx.y, q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE; /* the longest tiles first */
    const KEY *k = keys.k + (size_t)(h / (a.H / a.KV)) * a.k_head, *v = keys.v + (size_t)(h / (a.H / a.KV)) * a.k_head;
    if (threadIdx.x < TILE)
        reach[threadIdx.x] = reach_of(a, q0 + (int)threadIdx.x);
    load_tile<D, TILE>(sq, a.q + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    __syncthreads();
    struct span span = span_of(a, reach, q0);
    int local[2] = {warp * WARP_ROWS + g, warp * WARP_ROWS + g + 8};
    float acc[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, factor = a.scale * LOG2E;
    for (int run = 0; run < 2; run++) {
        int to = run == 0 ? span.to : span.prefix_end;
        for (int k0 = run == 0 ? span.from : span.prefix; k0 < to; k0 += TILE) {
            __syncthreads(); /* everyone has done with the tile before */
            load_tile<D, TILE>(sk, k, a.k_row, k0, a.keys);
            load_tile<D, TILE>(sv, v, a.k_row, k0, a.keys);
            __syncthreads();
            float s[TILE / 8][4], next[2] = {most[0], most[1]};
            rows_by_rows<D, TILE>(s, sq + warp * WARP_ROWS * LD, sk);
            bool free = k0 >= span.free_from && k0 + TILE <= span.free_to && k0 + TILE <= to;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = k0 + j * 8 + t * 2 + (e & 1), row = local[e >> 1];
                    bool read = free || (key < to && reads(reach[row], a.past + q0 + row, key));
                    s[j][e] = read ? s[j][e] * factor : -INFINITY;
                    next[e >> 1] = fmaxf(next[e >> 1], s[j][e]);
                }
#pragma unroll
            for (int i = 0; i < 2; i++) { /* four lanes hold a row */
                next[i] = fmaxf(next[i], __shfl_xor_sync(0xffffffffu, next[i], 1));
                next[i] = fmaxf(next[i], __shfl_xor_sync(0xffffffffu, next[i], 2));
                float shrink = next[i] == -INFINITY ? 1 : exp2f(most[i] - next[i]);
                most[i] = next[i];
                sum[i] *= shrink;
#pragma unroll
                for (int d = 0; d < D / 8; d++) {
                    acc[d][2 * i] *= shrink;
                    acc[d][2 * i + 1] *= shrink;
                }
            }
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[j][e] = most[e >> 1] == -INFINITY ? 0 : exp2f(s[j][e] - most[e >> 1]);
                    sum[e >> 1] += s[j][e];
                }
            rows_by_columns<D, TILE>(acc, s, sv);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        int row = q0 + local[i];
        if (row >= a.n || !(reach[local[i]].y > 0))
            continue;
        float inverse = 1 / sum[i], *out = a.out + ((size_t)row * a.H + h) * D;
        if (t == 0 && a.lse)
            a.lse[(size_t)row * a.H + h] = (most[i] + log2f(sum[i])) * 0.6931471805599453f;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            *(float2 *)(out + d * 8 + t * 2) = make_float2(acc[d][2 * i] * inverse, acc[d][2 * i + 1] * inverse);
    }
}

/* ---- backward ---- */

/* Keys or queries of the other side's tile: fewer for wide heads, whose sums fill the registers. */
template <int D> struct other {
    enum { ROWS = D == 64 ? 64 : 32 };
};

template <int D> __device__ static inline void store_gradient(float *to, const float acc[D / 8][4], int i, int t)
{
#pragma unroll
    for (int d = 0; d < D / 8; d++)
        *(float2 *)(to + d * 8 + t * 2) = make_float2(acc[d][2 * i], acc[d][2 * i + 1]);
}

/* dq: a block takes 64 queries of a head. */
template <int D> __global__ void __launch_bounds__(FLASH_THREADS) k_flash_dq(struct attend a)
{
    extern __shared__ __align__(16) uint16_t memory[];
    __shared__ int4 reach[TILE];
    const int LD = tile<D>::LD, N = other<D>::ROWS;
    uint16_t *sq = memory, *sdo = sq + TILE * LD, *sk = sdo + TILE * LD, *sv = sk + N * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    int h = blockIdx.y, q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    const float *k = a.k + (size_t)(h / (a.H / a.KV)) * a.k_head, *v = a.v + (size_t)(h / (a.H / a.KV)) * a.k_head;
    if (threadIdx.x < TILE)
        reach[threadIdx.x] = reach_of(a, q0 + (int)threadIdx.x);
    load_tile<D, TILE>(sq, a.q + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    load_tile<D, TILE>(sdo, a.dout + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    __syncthreads();
    struct span span = span_of(a, reach, q0);
    int local[2] = {warp * WARP_ROWS + g, warp * WARP_ROWS + g + 8};
    float acc[D / 8][4] = {}, lse[2], delta[2], factor = a.scale * LOG2E;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool there = q0 + local[i] < a.n && reach[local[i]].y > 0;
        size_t at = (size_t)(q0 + local[i]) * a.H + h;
        lse[i] = there ? a.lse[at] * LOG2E : 0;
        delta[i] = there ? a.delta[at] : 0;
    }
    for (int k0 = span.from; k0 < span.to; k0 += N) {
        __syncthreads();
        load_tile<D, N>(sk, k, a.k_row, k0, a.keys);
        load_tile<D, N>(sv, v, a.k_row, k0, a.keys);
        __syncthreads();
        float s[N / 8][4], ds[N / 8][4];
        rows_by_rows<D, N>(s, sq + warp * WARP_ROWS * LD, sk);
        rows_by_rows<D, N>(ds, sdo + warp * WARP_ROWS * LD, sv);
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = k0 + j * 8 + t * 2 + (e & 1), row = local[e >> 1];
                bool read = reads(reach[row], q0 + row, key);
                float P = read ? exp2f(s[j][e] * factor - lse[e >> 1]) : 0;
                ds[j][e] = P * (ds[j][e] - delta[e >> 1]) * a.scale;
            }
        rows_by_columns<D, N>(acc, ds, sk);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (q0 + local[i] < a.n && reach[local[i]].y > 0)
            store_gradient<D>(a.dq + ((size_t)(q0 + local[i]) * a.H + h) * D, acc, i, t);
}

/* dk and dv: a block takes 64 keys of a head and walks over the queries behind them, through every query head of its group.  Tiles are keys x queries. */
template <int D> __global__ void __launch_bounds__(FLASH_THREADS, 2) k_flash_dkv(struct attend a)
{
    extern __shared__ __align__(16) uint16_t memory[];
    const int LD = tile<D>::LD, N = other<D>::ROWS;
    __shared__ float lse[other<D>::ROWS], delta[other<D>::ROWS];
    __shared__ int ends[TILE];
    uint16_t *sk = memory, *sv = sk + TILE * LD, *sq = sv + TILE * LD, *sdo = sq + N * LD;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    int kv = blockIdx.y, group = a.H / a.KV, k0 = (int)blockIdx.x * TILE;
    load_tile<D, TILE>(sk, a.k + (size_t)kv * a.k_head, a.k_row, k0, a.keys);
    load_tile<D, TILE>(sv, a.v + (size_t)kv * a.k_head, a.k_row, k0, a.keys);
    if (threadIdx.x < TILE)
        ends[threadIdx.x] = reach_of(a, k0 + (int)threadIdx.x).y;
    __syncthreads();
    int last = max(ends[lane], ends[lane + 32]);
    last = -warp_least(-last);
    int local[2] = {warp * WARP_ROWS + g, warp * WARP_ROWS + g + 8}, end[2] = {ends[local[0]], ends[local[1]]};
    float dk[D / 8][4] = {}, dv[D / 8][4] = {}, factor = a.scale * LOG2E;
    for (int h = kv * group; h < (kv + 1) * group; h++)
        for (int q0 = k0; q0 < last; q0 += N) {
            __syncthreads();
            load_tile<D, N>(sq, a.q + (size_t)h * D, (size_t)a.H * D, q0, a.n);
            load_tile<D, N>(sdo, a.dout + (size_t)h * D, (size_t)a.H * D, q0, a.n);
            if (threadIdx.x < N) {
                bool there = q0 + (int)threadIdx.x < last; /* rows of no segment have no lse; none of them is read */
                there = there && reach_of(a, q0 + (int)threadIdx.x).y > 0;
                size_t at = (size_t)(q0 + (int)threadIdx.x) * a.H + h;
                lse[threadIdx.x] = there ? a.lse[at] * LOG2E : 0;
                delta[threadIdx.x] = there ? a.delta[at] : 0;
            }
            __syncthreads();
            float s[N / 8][4], ds[N / 8][4];
            rows_by_rows<D, N>(s, sk + warp * WARP_ROWS * LD, sq);
            rows_by_rows<D, N>(ds, sv + warp * WARP_ROWS * LD, sdo);
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = j * 8 + t * 2 + (e & 1), query = q0 + column, key = k0 + local[e >> 1];
                    bool read = query >= key && query < end[e >> 1];
                    s[j][e] = read ? exp2f(s[j][e] * factor - lse[column]) : 0;
                    ds[j][e] = s[j][e] * (ds[j][e] - delta[column]) * a.scale;
                }
            rows_by_columns<D, N>(dv, s, sdo);
            rows_by_columns<D, N>(dk, ds, sq);
        }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (end[i] > 0) {
            size_t at = ((size_t)(k0 + local[i]) * a.KV + kv) * D;
            store_gradient<D>(a.dk + at, dk, i, t);
            store_gradient<D>(a.dv + at, dv, i, t);
        }
}

/* ---- launches: more than 48 KB of shared memory are asked for by name ---- */

static bool allow(struct device *d, const void *kernel, size_t bytes)
{
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    device_note(d, error, "attention");
    return error == cudaSuccess;
}

template <int D, class KEY> static void launch_forward(struct device *d, const struct attend &a, struct key_rows<KEY> keys)
{
    size_t bytes = 3 * TILE * tile<D>::LD * sizeof(uint16_t);
    if (!allow(d, (const void *)k_flash_forward<D, KEY>, bytes))
        return;
    k_flash_forward<D, KEY><<<dim3(blocks_for((size_t)a.n, TILE), (unsigned)a.H), FLASH_THREADS, bytes, d->stream>>>(a, keys);
    launched(d, "attention_forward");
}

template <int D> static void launch_backward(struct device *d, const struct attend &a)
{
    size_t bytes = 2 * (TILE + other<D>::ROWS) * tile<D>::LD * sizeof(uint16_t);
    unsigned tiles = blocks_for((size_t)a.n, TILE);
    if (!allow(d, (const void *)k_flash_dq<D>, bytes) || !allow(d, (const void *)k_flash_dkv<D>, bytes))
        return;
    k_flash_dq<D><<<dim3(tiles, (unsigned)a.H), FLASH_THREADS, bytes, d->stream>>>(a);
    launched(d, "attention_backward");
    k_flash_dkv<D><<<dim3(tiles, (unsigned)a.KV), FLASH_THREADS, bytes, d->stream>>>(a);
    launched(d, "attention_backward");
}

static bool can_flash(const struct ops_context *c, const struct attend &a)
{
    return in_halves(c) && (a.D == 64 || a.D == 128) && in_fours(0, a.q, a.k, a.v, a.out) && in_fours(0, a.dout, a.dq, a.dk, a.dv); /* those that are there */
}

template <class KEY> bool flash_forward(const struct ops_context *c, const struct attend &a, struct key_rows<KEY> keys)
{
    if (!can_flash(c, a) || !in_fours(0, keys.k, keys.v))
        return false;
    (a.D == 64 ? launch_forward<64, KEY> : launch_forward<128, KEY>)(c->device, a, keys);
    return true;
}

template bool flash_forward(const struct ops_context *, const struct attend &, struct key_rows<float>);
template bool flash_forward(const struct ops_context *, const struct attend &, struct key_rows<uint16_t>);

bool flash_backward(const struct ops_context *c, const struct attend &a)
{
    if (!can_flash(c, a))
        return false;
    (a.D == 64 ? launch_backward<64> : launch_backward<128>)(c->device, a);
    return true;
}
