// emu_kernels.cu: kernels that hold the emulator itself to plain C++ (emu_test.c), as compiled source and as PTX.
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "cuda/emu_kernels.h"

// ---- shuffles, votes, barriers that vote
__global__ void self_warp(int *out)
{
    int t = (int)threadIdx.x, *o = out + 10 * t;
    unsigned full = 0xffffffffu;
    o[0] = __shfl_sync(full, t, 5);
    o[1] = __shfl_up_sync(full, t, 3);
    o[2] = __shfl_down_sync(full, t, 3);
    o[3] = __shfl_xor_sync(full, t, 6);
    o[4] = __shfl_xor_sync(full, t, 4, 8);
    o[5] = __shfl_down_sync(full, t, 1, 4);
    o[6] = (int)__ballot_sync(full, t % 3 == 0);
    o[7] = __any_sync(full, t == 33) + 2 * __all_sync(full, t < 40);
    o[8] = __syncthreads_count(t % 5 == 0);
    o[9] = __syncthreads_or(t == 63) + 2 * __syncthreads_and(t < 63);
}

// ---- a sum over a block in dynamic shared memory, and by integer atomics over the grid
__global__ void self_sum(const int *x, int n, unsigned *total, unsigned *most)
{
    extern __shared__ int partial[];
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    partial[threadIdx.x] = i < n ? x[i] : 0;
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        atomicAdd(total, (unsigned)partial[0]);
        atomicMax(most, (unsigned)partial[0]);
    }
}

// ---- integers, floats, conversions: one function, on both sides
__host__ __device__ static inline uint64_t mix(uint64_t h, uint64_t v)
{
    return (h ^ v) * 0x9e3779b97f4a7c15ull + (h >> 29);
}

// Becomes clz or bfind; of 0: 32.
__host__ __device__ static int leading_zeros(uint32_t x)
{
#ifdef __CUDA_ARCH__
    return __clz((int)x);
#else
    return x ? __builtin_clz(x) : 32;
#endif
}

__host__ __device__ static uint64_t integers(uint64_t seed)
{
    uint32_t a = (uint32_t)seed * 2654435761u, b = (uint32_t)(seed >> 7) * 40503u + 1;
    int32_t s = (int32_t)a, d = (int32_t)b | 1;
    int64_t l = (int64_t)(seed * 0x2545f4914f6cdd1dull);
    int16_t h = (int16_t)a;
    int8_t c = (int8_t)b;
    uint64_t r = mix(seed, (uint64_t)a * b >> 32);
    r = mix(r, (uint64_t)(s / d));
    r = mix(r, (uint64_t)(s % d));
    r = mix(r, (uint64_t)(l / d));
    r = mix(r, (uint64_t)l % b);
    r = mix(r, (uint64_t)(s >> (b & 31)));
    r = mix(r, (uint64_t)(l >> (b & 63)));
    r = mix(r, a << (b & 31) | a >> (31 & (32 - (b & 31))));
    r = mix(r, (uint64_t)(h * c));
    r = mix(r, (uint64_t)(s < d ? s : d));
    r = mix(r, a > b ? a - b : b - a);
    r = mix(r, (a >> 5 & 0x7ff) | (b & 0x3f) << 11);
    r = mix(r, (uint64_t)((int32_t)(a << 9) >> 20));
    r = mix(r, (uint64_t)(unsigned)(31 - leading_zeros(a >> (b & 31)) + leading_zeros((uint32_t)l)));
    return mix(r, (uint64_t)(l < 0 ? -l : l));
}

__host__ __device__ static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

// Rounded once each, so that any compiler gives these bits: no a * b + c.
__host__ __device__ static uint64_t floats(uint64_t seed)
{
    int32_t s = (int32_t)(seed * 2654435761u);
    float x = (float)s * 1.5258789e-5f, y = (float)(uint32_t)(seed >> 3) + 0.5f;
    double d = (double)s / 3.0, e = (double)(seed * 0x9e3779b97f4a7c15ull);
    uint64_t r = mix(seed, bits_of(x)), bits;
    r = mix(r, bits_of(x / y));
    r = mix(r, bits_of(sqrtf(fabsf(x))));
    r = mix(r, bits_of(fmaf(x, y, 1.f)));
    r = mix(r, bits_of(fminf(x, y)));
    r = mix(r, bits_of(floorf(x)));
    r = mix(r, bits_of(truncf(x)));
    r = mix(r, bits_of(rintf(x)));
    r = mix(r, (uint64_t)(int32_t)x);
    r = mix(r, (uint64_t)(int64_t)y);
    r = mix(r, bits_of((float)e));
    r = mix(r, bits_of((float)(int64_t)(seed << 40)));
    d = sqrt(fabs(d)) < 1e4 ? fma(d, e, 1.0) : d / e;
    memcpy(&bits, &d, 8);
    r = mix(r, bits);
    return mix(r, (uint64_t)(x < y) + 2 * (uint64_t)(x != x) + 4 * (uint64_t)(d >= 0.5));
}

__global__ void self_mix(uint64_t *out, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        out[i] = integers((uint64_t)i * 77) ^ floats((uint64_t)i * 99);
}

// ---- C[16, 8] = A[16, 16] B[16, 8] in bf16, B through ldmatrix.trans; A by cp.async
#ifdef CUDA_EMU
#define mma16816(d, a, b)     emu::mma_m16n8k16(d, a, b, true, __LINE__)
#define ldmatrix4(r, p)       emu::ldmatrix_x4(r, p, false, __LINE__)
#define ldmatrix4_trans(r, p) emu::ldmatrix_x4(r, p, true, __LINE__)
#define copy16(to, from)      emu::cp_async16(to, from, 16)
#define copies_done()         (emu::cp_async_commit(), emu::cp_async_wait(0))
#else
__device__ static inline void mma16816(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#define LDMATRIX(name, trans)                                                                                               \
    __device__ static inline void name(uint32_t r[4], const void *p)                                                        \
    {                                                                                                                       \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" trans ".shared.b16 {%0,%1,%2,%3}, [%4];"                               \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                                                       \
                     : "r"((uint32_t)__cvta_generic_to_shared(p))                                                           \
                     : "memory");                                                                                           \
    }
LDMATRIX(ldmatrix4, "")
LDMATRIX(ldmatrix4_trans, ".trans")
__device__ static inline void copy16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}
__device__ static inline void copies_done()
{
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
}
#endif

__global__ void self_tile(float *c, const uint16_t *a, const uint16_t *b)
{
    __shared__ __align__(16) uint16_t as[16 * 16], bs[16 * 16];
    int lane = (int)threadIdx.x;
    copy16(as + 8 * lane, a + 8 * lane);
    for (int i = lane; i < 256; i += 32)
        bs[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : 0;
    copies_done();
    __syncwarp();
    uint32_t fa[4], fb[4];
    float d[4] = {0.f, 0.f, 0.f, 0.f};
    ldmatrix4(fa, as + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix4_trans(fb, bs + (lane % 16) * 16 + lane / 16 * 8);
    mma16816(d, fa, fb);
    for (int r = 0; r < 4; r++)
        c[(lane / 4 + 8 * (r / 2)) * 8 + lane % 4 * 2 + r % 2] = d[r];
}

__global__ void self_double(float *y, const float *x)
{
    y[threadIdx.x] = 2 * x[threadIdx.x];
}

// ---- what emu_test.c calls
extern "C" void run_self_warp(int *out)
{
    self_warp<<<1, 64>>>(out);
}
extern "C" void run_self_sum(const int *x, int n, unsigned *total, unsigned *most)
{
    self_sum<<<(unsigned)(n + 127) / 128, 128, 128 * sizeof(int)>>>(x, n, total, most);
}
extern "C" void run_self_mix(uint64_t *out, int n)
{
    self_mix<<<(unsigned)(n + 63) / 64, 64>>>(out, n);
}
extern "C" uint64_t self_mix_expected(int i)
{
    return integers((uint64_t)i * 77) ^ floats((uint64_t)i * 99);
}
extern "C" void run_self_tile(float *c, const uint16_t *a, const uint16_t *b)
{
    self_tile<<<1, 32>>>(c, a, b);
}
extern "C" void run_self_double(float *y, const float *x, cudaStream_t stream)
{
    self_double<<<1, 32, 0, stream>>>(y, x);
}
