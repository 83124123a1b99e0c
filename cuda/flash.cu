/* flash.cu: causal attention on tensor cores, heads of 64 and 128.  Dao 2023 (FlashAttention-2, arXiv:2307.08691).
 *
 *     S = q k^T / sqrt(D) in fp32 from bf16 factors       P = exp(S - lse)       out = P v       (P rounded to bf16)
 *     dS = P (dout v^T - delta) / sqrt(D)                  dq = dS k              dk = dS^T q     dv = P^T dout
 *
 * Acts are bf16: tiles of them are copied as they lie, results are rounded once, when they are stored.
 * A block of four warps takes 64 queries (backward of keys: 64 keys) of one head and walks over tiles of the other side.  Queries of a tile may belong to
 * several sequences and may share prefixes: the tile walks over the union, and each score is masked by its own query's reach.  Backward is two kernels,
 * one for dq and one for dk and dv, seven products instead of five: nothing is added by two blocks, so the bits are always the same. */
#include "cuda/attention.cuh"
#include "cuda/mma.cuh"

static const int FLASH_THREADS = 128, TILE = 64, WARP_ROWS = 16;
#define LOG2E 1.4426950408889634f

/* Eight numbers as bf16: a copy; of a cache, rounded. */
__device__ static inline uint4 eight_halves(const bf16 *p)
{
    return *(const uint4 *)p;
}

__device__ static inline uint4 eight_halves(const float *p)
{
    floats<4> a = load<4>(p), b = load<4>(p + 4);
    return make_uint4(two_halves(a.v[0], a.v[1]), two_halves(a.v[2], a.v[3]), two_halves(b.v[0], b.v[1]), two_halves(b.v[2], b.v[3]));
}

__device__ static inline uint4 eight_halves(const f16 *p)
{
    halves8 h = load_halves(&p->bits);
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
__device__ static inline struct span span_of(const struct attend<bf16> &a, const int4 *reach, int q0)
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

/* ---- forward ---- */

/* What this lane holds of a fragment C: of two rows of the block's tile, two columns in each eight, from `column` on. */
struct share {
    int row[2], column;
};

__device__ static inline struct share share_of_lane()
{
    int lane = threadIdx.x & 31, row = (int)(threadIdx.x >> 5) * WARP_ROWS + (lane >> 2);
    return {{row, row + 8}, (lane & 3) * 2};
}

/* The rows of a tile that this warp multiplies. */
template <int D> __device__ static inline const uint16_t *rows_of_warp(const uint16_t *tile_rows)
{
    return tile_rows + (threadIdx.x >> 5) * WARP_ROWS * tile<D>::LD;
}

/* This lane's share of rows on the way to their softmax; the sum is whole when the four lanes of a row are added. */
template <int D> struct sums {
    float acc[D / 8][4], most[2], sum[2];
};

/* Scores to base 2; -infinity where the query does not read the key: all do, where `free`. */
__device__ static inline void mask(float s[TILE / 8][4], const struct attend<bf16> &a, const int4 *reach, struct share own, int q0, int k0, int to, bool free)
{
    float factor = a.scale * LOG2E;
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int key = k0 + j * 8 + own.column + (e & 1), row = own.row[e >> 1];
            bool read = free || (key < to && reads(reach[row], a.past + q0 + row, key));
            s[j][e] = read ? s[j][e] * factor : -INFINITY;
        }
}

/* The largest scores may have grown: what was summed so far shrinks. */
template <int D> __device__ static inline void shrink(struct sums<D> &r, const float s[TILE / 8][4])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float next = r.most[i];
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
            next = fmaxf(next, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1)); /* four lanes hold a row */
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
        float factor = next == -INFINITY ? 1 : exp2f(r.most[i] - next);
        r.most[i] = next;
        r.sum[i] *= factor;
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            r.acc[d][2 * i] *= factor;
            r.acc[d][2 * i + 1] *= factor;
        }
    }
}

/* Scores become weights. */
template <int D> __device__ static inline void weigh(float s[TILE / 8][4], struct sums<D> &r)
{
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[j][e] = r.most[e >> 1] == -INFINITY ? 0 : exp2f(s[j][e] - r.most[e >> 1]);
            r.sum[e >> 1] += s[j][e];
        }
}

/* This lane's share of row i of C, times factor: two neighbours at once. */
template <int D> __device__ static inline void store_row(bf16 *to, const float acc[D / 8][4], int i, struct share own, float factor)
{
#pragma unroll
    for (int d = 0; d < D / 8; d++)
        *(uint32_t *)(to + d * 8 + own.column) = two_halves(acc[d][2 * i] * factor, acc[d][2 * i + 1] * factor);
}

template <int D> __device__ static inline void store_rows(const struct attend<bf16> &a, struct sums<D> &r, const int4 *reach, struct share own, int q0)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = r.sum[i];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (!(reach[own.row[i]].y > 0))
            continue;
        size_t at = (size_t)(q0 + own.row[i]) * a.H + blockIdx.y;
        if (own.column == 0 && a.lse)
            a.lse[at] = (r.most[i] + log2f(sum)) * 0.6931471805599453f;
        store_row<D>(a.out + at * D, r.acc, i, own, 1 / sum);
    }
}

template <int D, class KEY> __global__ void __launch_bounds__(FLASH_THREADS) k_flash_forward(struct attend<bf16> a, struct key_rows<KEY> keys)
{
    extern __shared__ __align__(16) uint16_t memory[];
    __shared__ int4 reach[TILE];
    const int LD = tile<D>::LD;
    uint16_t *sq = memory, *sk = sq + TILE * LD, *sv = sk + TILE * LD;
    int h = blockIdx.y, q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE; /* the longest tiles first */
    const KEY *k = keys.k + (size_t)(h / (a.H / a.KV)) * a.k_head, *v = keys.v + (size_t)(h / (a.H / a.KV)) * a.k_head;
    if (threadIdx.x < TILE)
        reach[threadIdx.x] = reach_of(a, q0 + (int)threadIdx.x);
    load_tile<D, TILE>(sq, a.q + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    __syncthreads();
    struct span span = span_of(a, reach, q0);
    struct share own = share_of_lane();
    struct sums<D> r = {{}, {-INFINITY, -INFINITY}, {0, 0}};
    for (int run = 0; run < 2; run++) {
        int to = run == 0 ? span.to : span.prefix_end;
        for (int k0 = run == 0 ? span.from : span.prefix; k0 < to; k0 += TILE) {
            __syncthreads(); /* everyone has done with the tile before */
            load_tile<D, TILE>(sk, k, a.k_row, k0, a.keys);
            load_tile<D, TILE>(sv, v, a.k_row, k0, a.keys);
            __syncthreads();
            float s[TILE / 8][4];
            rows_by_rows<D, TILE>(s, rows_of_warp<D>(sq), sk);
            mask(s, a, reach, own, q0, k0, to, k0 >= span.free_from && k0 + TILE <= span.free_to && k0 + TILE <= to);
            shrink(r, s);
            weigh(s, r);
            rows_by_columns<D, TILE>(r.acc, s, sv);
        }
    }
    store_rows(a, r, reach, own, q0);
}

/* ---- backward ---- */

/* Keys or queries of the other side's tile: fewer for wide heads, whose sums fill the registers. */
template <int D> struct other {
    enum { ROWS = D == 64 ? 64 : 32 };
};

/* dq: a block takes 64 queries of a head. */
template <int D> __global__ void __launch_bounds__(FLASH_THREADS) k_flash_dq(struct attend<bf16> a)
{
    extern __shared__ __align__(16) uint16_t memory[];
    __shared__ int4 reach[TILE];
    const int LD = tile<D>::LD, N = other<D>::ROWS;
    uint16_t *sq = memory, *sdo = sq + TILE * LD, *sk = sdo + TILE * LD, *sv = sk + N * LD;
    int h = blockIdx.y, q0 = (int)(gridDim.x - 1 - blockIdx.x) * TILE;
    const bf16 *k = a.k + (size_t)(h / (a.H / a.KV)) * a.k_head, *v = a.v + (size_t)(h / (a.H / a.KV)) * a.k_head;
    if (threadIdx.x < TILE)
        reach[threadIdx.x] = reach_of(a, q0 + (int)threadIdx.x);
    load_tile<D, TILE>(sq, a.q + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    load_tile<D, TILE>(sdo, a.dout + (size_t)h * D, (size_t)a.H * D, q0, a.n);
    __syncthreads();
    struct span span = span_of(a, reach, q0);
    struct share own = share_of_lane();
    float acc[D / 8][4] = {}, lse[2], delta[2], factor = a.scale * LOG2E;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool there = reach[own.row[i]].y > 0;
        size_t at = (size_t)(q0 + own.row[i]) * a.H + h;
        lse[i] = there ? a.lse[at] * LOG2E : 0;
        delta[i] = there ? a.delta[at] : 0;
    }
    for (int k0 = span.from; k0 < span.to; k0 += N) {
        __syncthreads();
        load_tile<D, N>(sk, k, a.k_row, k0, a.keys);
        load_tile<D, N>(sv, v, a.k_row, k0, a.keys);
        __syncthreads();
        float s[N / 8][4], ds[N / 8][4];
        rows_by_rows<D, N>(s, rows_of_warp<D>(sq), sk);
        rows_by_rows<D, N>(ds, rows_of_warp<D>(sdo), sv);
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = k0 + j * 8 + own.column + (e & 1), row = own.row[e >> 1];
                bool read = reads(reach[row], q0 + row, key);
                float P = read ? exp2f(s[j][e] * factor - lse[e >> 1]) : 0;
                ds[j][e] = P * (ds[j][e] - delta[e >> 1]) * a.scale;
            }
        rows_by_columns<D, N>(acc, ds, sk);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (reach[own.row[i]].y > 0)
            store_row<D>(a.dq + ((size_t)(q0 + own.row[i]) * a.H + h) * D, acc, i, own, 1);
}

/* dk and dv: a block takes 64 keys of a head and walks over the queries behind them, through every query head of its group.  Tiles are keys x queries. */
template <int D> __global__ void __launch_bounds__(FLASH_THREADS, 2) k_flash_dkv(struct attend<bf16> a)
{
    extern __shared__ __align__(16) uint16_t memory[];
    const int LD = tile<D>::LD, N = other<D>::ROWS;
    __shared__ float lse[other<D>::ROWS], delta[other<D>::ROWS];
    __shared__ int ends[TILE];
    uint16_t *sk = memory, *sv = sk + TILE * LD, *sq = sv + TILE * LD, *sdo = sq + N * LD;
    int lane = threadIdx.x & 31, kv = blockIdx.y, group = a.H / a.KV, k0 = (int)blockIdx.x * TILE;
    load_tile<D, TILE>(sk, a.k + (size_t)kv * a.k_head, a.k_row, k0, a.keys);
    load_tile<D, TILE>(sv, a.v + (size_t)kv * a.k_head, a.k_row, k0, a.keys);
    if (threadIdx.x < TILE)
        ends[threadIdx.x] = reach_of(a, k0 + (int)threadIdx.x).y;
    __syncthreads();
    int last = max(ends[lane], ends[lane + 32]);
    last = -warp_least(-last);
    struct share own = share_of_lane();
    int end[2] = {ends[own.row[0]], ends[own.row[1]]};
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
            rows_by_rows<D, N>(s, rows_of_warp<D>(sk), sq);
            rows_by_rows<D, N>(ds, rows_of_warp<D>(sv), sdo);
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = j * 8 + own.column + (e & 1), query = q0 + column, key = k0 + own.row[e >> 1];
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
            size_t at = ((size_t)(k0 + own.row[i]) * a.KV + kv) * D;
            store_row<D>(a.dk + at, dk, i, own, 1);
            store_row<D>(a.dv + at, dv, i, own, 1);
        }
}

/* ---- launches: more than 48 KB of shared memory are asked for by name ---- */

static bool allow(struct device *d, const void *kernel, size_t bytes)
{
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    device_note(d, error, "attention");
    return error == cudaSuccess;
}

template <int D, class KEY> static void launch_forward(struct device *d, const struct attend<bf16> &a, struct key_rows<KEY> keys)
{
    size_t bytes = 3 * TILE * tile<D>::LD * sizeof(uint16_t);
    if (!allow(d, (const void *)k_flash_forward<D, KEY>, bytes))
        return;
    k_flash_forward<D, KEY><<<dim3(blocks_for((size_t)a.n, TILE), (unsigned)a.H), FLASH_THREADS, bytes, d->stream>>>(a, keys);
    launched(d, "attention_forward");
}

template <int D> static void launch_backward(struct device *d, const struct attend<bf16> &a)
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

static bool can_flash(const struct attend<bf16> &a)
{
    return (a.D == 64 || a.D == 128) && in_fours(0, a.q, a.k, a.v, a.out) && in_fours(0, a.dout, a.dq, a.dk, a.dv); /* those that are there */
}

template <class KEY> bool flash_forward(struct device *d, const struct attend<bf16> &a, struct key_rows<KEY> keys)
{
    if (!can_flash(a) || !in_fours(0, keys.k, keys.v))
        return false;
    (a.D == 64 ? launch_forward<64, KEY> : launch_forward<128, KEY>)(d, a, keys);
    return true;
}

template bool flash_forward(struct device *, const struct attend<bf16> &, struct key_rows<bf16>);
template bool flash_forward(struct device *, const struct attend<bf16> &, struct key_rows<f16>);
template bool flash_forward(struct device *, const struct attend<bf16> &, struct key_rows<float>);

bool flash_backward(struct device *d, const struct attend<bf16> &a)
{
    if (!can_flash(a))
        return false;
    (a.D == 64 ? launch_backward<64> : launch_backward<128>)(d, a);
    return true;
}
