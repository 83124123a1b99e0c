/* kernels.cuh: what kernels share: 16-byte loads, sums over a warp and a block, bf16, the counter-based random numbers.
 *
 * House rules: block sizes are multiples of 32; masks are full; no thread leaves before the last barrier or shuffle of a kernel; blocks never speak to
 * each other; no atomics on floats; sizes are size_t.  Where bits must be the CPU's, a product and a sum are __fmul_rn and __fadd_rn, so that no
 * compiler makes one operation of them. */
#ifndef VENEER_CUDA_KERNELS_CUH
#define VENEER_CUDA_KERNELS_CUH
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include "cuda/private.h"
extern "C" {
#include "base/rng.h"
}

enum { THREADS = 256 };

static inline unsigned blocks_for(size_t n, size_t each)
{
    return (unsigned)((n + each - 1) / each);
}

/* ---- memory: V floats at once, V = 4 only where the address is a multiple of 16 ---- */

template <int V> struct floats {
    float v[V];
};

template <int V> __device__ static inline floats<V> load(const float *p)
{
    floats<V> r;
    if (V == 4) {
        uint4 u = *(const uint4 *)p;
        memcpy(&r, &u, sizeof r);
    } else {
        r.v[0] = *p;
    }
    return r;
}

template <int V> __device__ static inline void store(float *p, floats<V> x)
{
    if (V == 4) {
        uint4 u;
        memcpy(&u, &x, sizeof u);
        *(uint4 *)p = u;
    } else {
        *p = x.v[0];
    }
}

/* Whether all of these may be read four floats at a time. */
static inline bool in_fours(size_t n, const void *a, const void *b = NULL, const void *c = NULL, const void *d = NULL, const void *e = NULL)
{
    return (n % 4 | ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d | (uintptr_t)e) % 16) == 0;
}

/* ---- 16-bit floats, by the CPU's rules (quant.h) ---- */

__device__ static inline uint16_t bf16_of(float x)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

__device__ static inline float f32_of_bf16(uint32_t h)
{
    return __uint_as_float(h << 16);
}

__device__ static inline uint16_t f16_of(float x)
{
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)__float2int_rn(__fmul_rn(__uint_as_float(magnitude), 16777216.f)));
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

/* One instruction. */
__device__ static inline float f32_of_f16(uint32_t h)
{
    return __half2float(__ushort_as_half((uint16_t)h));
}

/* A bf16 in memory: what an act is where products are computed in halves (ops.h).  Kernels of acts are templates over its type T, float or bf16. */
struct bf16 {
    uint16_t bits;
};

__device__ static inline float real_of(float x)
{
    return x;
}

__device__ static inline float real_of(bf16 x)
{
    return f32_of_bf16(x.bits);
}

__device__ static inline void put(float *to, float x)
{
    *to = x;
}

__device__ static inline void put(bf16 *to, float x)
{
    to->bits = bf16_of(x);
}

struct __align__(8) halves4 {
    uint16_t v[4];
};

/* As of floats: four at once are 8 bytes. */
template <int V> __device__ static inline floats<V> load(const bf16 *p)
{
    floats<V> r;
    if (V == 4) {
        uint2 u = *(const uint2 *)p;
        halves4 h;
        memcpy(&h, &u, sizeof h);
        for (int i = 0; i < V; i++)
            r.v[i] = f32_of_bf16(h.v[i]);
    } else {
        r.v[0] = real_of(*p);
    }
    return r;
}

template <int V> __device__ static inline void store(bf16 *p, floats<V> x)
{
    if (V == 4) {
        halves4 h;
        for (int i = 0; i < V; i++)
            h.v[i] = bf16_of(x.v[i]);
        uint2 u;
        memcpy(&u, &h, sizeof u);
        *(uint2 *)p = u;
    } else {
        put(p, x.v[0]);
    }
}

/* Eight at once: 16 bytes. */
struct __align__(16) halves8 {
    uint16_t v[8];
};

__device__ static inline halves8 load_halves(const uint16_t *p)
{
    uint4 u = *(const uint4 *)p;
    halves8 r;
    memcpy(&r, &u, sizeof r);
    return r;
}

__device__ static inline void store_halves(uint16_t *p, halves8 x)
{
    uint4 u;
    memcpy(&u, &x, sizeof u);
    *(uint4 *)p = u;
}

/* ---- sums ---- */

template <class T> __device__ static inline T warp_sum(T x)
{
    for (int o = 16; o > 0; o >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}

__device__ static inline float warp_max(float x)
{
    for (int o = 16; o > 0; o >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}

/* Every thread gets the result.  The barrier in front lets the words be used by the next call. */
template <class T> __device__ static T block_sum(T x)
{
    __shared__ T part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0)
        part[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : (T)0);
}

__device__ static float block_max(float x)
{
    __shared__ float part[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0)
        part[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? part[lane] : -INFINITY);
}

/* ---- random numbers: base/rng.c's, word for word ---- */

struct random4 {
    uint32_t v[4];
};

__device__ static inline random4 random_block(uint64_t seed, uint32_t stream, uint32_t step, uint64_t block)
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = step, c3 = stream, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return random4{{c0, c1, c2, c3}};
}

#endif
