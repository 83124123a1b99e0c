// cuda_emu.h: compiles a .cu file with g++ (forced in with -include) so that its kernels run on the CPU.
//
// Every CUDA thread of a block is a fiber; the blocks of a launch run one after another, all on one thread of the host.
//   __syncthreads, __syncwarp, __shfl_*_sync   hand over to the scheduler (blocks.cpp)
//   __shared__                                 static thread_local: one copy, since there is one host thread
//   cudaMalloc, cublasGemmEx, ...              NVIDIA's own prototypes (its real headers), bodies in runtime.cpp and blas.cpp
// What g++ cannot parse is rewritten by cu2cpp.sed: k<<<grid, block, shared, stream>>>(args) and "extern __shared__ T x[];".
// Nothing else of a .cu file changes.  It is not a model of a GPU's speed, caches or memory order (docs/cuda.md says what stays open).
//
// Rules for a kernel: not `static` (it is found by its name), launched from one place a line, block sizes that are multiples of 32.
#pragma once
#define CUDA_EMU 1
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <new>
#include <tuple>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __constant__ const
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))

namespace emu {
struct Ids {
    uint3 tid, bid;
    dim3 bdim, gdim;
    int lane, warp, linear;
};
__attribute__((const)) const Ids *ids(); // the same for the life of a thread, so the compiler may call it once

// blocks.cpp.  `line` tells one barrier or shuffle from another.
enum BarrierKind { BARRIER_PLAIN, BARRIER_OR, BARRIER_AND, BARRIER_COUNT };
int barrier(BarrierKind kind, int predicate, int line);
void syncwarp(unsigned mask, int line);
enum Exchange { X_IDX, X_UP, X_DOWN, X_XOR, X_BALLOT, X_MMA, X_LDMATRIX };
uint64_t shfl(Exchange op, unsigned mask, uint64_t value, int argument, int width, int line);
unsigned ballot(unsigned mask, int predicate, int line);
void *dyn_smem();
[[noreturn]] void trap(int line);

// An atomic is told to the checker (checker.cpp) as such; its own load and store are not.
void note_atomic(void *p, int size, uintptr_t pc);
template <class T>
__attribute__((noinline, no_sanitize_thread)) T atomic_update(T *p, T operand, T compare, T (*f)(T old, T operand, T compare))
{
    note_atomic(p, sizeof(T), reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
    T old = *p;
    *p = f(old, operand, compare);
    return old;
}

// tensor.cpp: tensor-core and asynchronous copies, by the fragment layouts of the PTX manual.
void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16, int line);
void ldmatrix_x4(uint32_t r[4], const void *row, bool trans, int line);
void cp_async16(void *smem, const void *gmem, int src_bytes);
void cp_async_commit();
void cp_async_wait(int groups);

// launch.cpp
struct Config {
    dim3 grid, block;
    size_t smem;
    cudaStream_t stream;
    const char *name;
};
void *argument_memory(size_t bytes); // arguments of a launch live here until it ran, as in a GPU's constant bank
void submit(const Config &, const void *kernel, void (*body)(void *), void *arguments, const void *const *each);

template <class... P> struct Launcher {
    void (*kernel)(P...);
    Config config;
    struct Arguments {
        void (*kernel)(P...);
        std::tuple<P...> values;
    };
    static void body(void *p)
    {
        Arguments *a = static_cast<Arguments *>(p);
        std::apply(a->kernel, a->values);
    }
    template <class... A> void operator()(A &&...a)
    {
        static_assert(sizeof(std::tuple<P...>) <= 4096, "the arguments of a kernel are at most 4 KB");
        Arguments *x = new (argument_memory(sizeof(Arguments))) Arguments{kernel, std::tuple<P...>(static_cast<P>(a)...)};
        const void **each = static_cast<const void **>(argument_memory((sizeof...(P) + 1) * sizeof(void *)));
        int n = 0;
        std::apply([&](auto &...e) { ((each[n++] = &e), ...); }, x->values); // for PTX: where each argument lies
        submit(config, reinterpret_cast<const void *>(kernel), body, x, each);
    }
};
template <class... P>
Launcher<P...> launch(const char *name, void (*k)(P...), dim3 grid, dim3 block, size_t smem = 0, cudaStream_t stream = nullptr)
{
    return Launcher<P...>{k, Config{grid, block, smem, stream, name}};
}

template <class T> inline uint64_t pack(T v)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> inline T unpack(uint64_t u)
{
    T v;
    memcpy(&v, &u, sizeof v);
    return v;
}
} // namespace emu

#define threadIdx (emu::ids()->tid)
#define blockIdx (emu::ids()->bid)
#define blockDim (emu::ids()->bdim)
#define gridDim (emu::ids()->gdim)
#define warpSize 32

// ---- barriers, shuffles, votes: the default argument is the line of the call
#define EMU_LINE int line = __builtin_LINE()
static inline void __syncthreads(EMU_LINE) { emu::barrier(emu::BARRIER_PLAIN, 0, line); }
static inline int __syncthreads_or(int p, EMU_LINE) { return emu::barrier(emu::BARRIER_OR, p, line); }
static inline int __syncthreads_and(int p, EMU_LINE) { return emu::barrier(emu::BARRIER_AND, p, line); }
static inline int __syncthreads_count(int p, EMU_LINE) { return emu::barrier(emu::BARRIER_COUNT, p, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_LINE) { emu::syncwarp(mask, line); }
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMU_LINE)
{
    return emu::unpack<T>(emu::shfl(emu::X_IDX, mask, emu::pack(v), lane, width, line));
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_LINE)
{
    return emu::unpack<T>(emu::shfl(emu::X_UP, mask, emu::pack(v), static_cast<int>(delta), width, line));
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_LINE)
{
    return emu::unpack<T>(emu::shfl(emu::X_DOWN, mask, emu::pack(v), static_cast<int>(delta), width, line));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32, EMU_LINE)
{
    return emu::unpack<T>(emu::shfl(emu::X_XOR, mask, emu::pack(v), lanes, width, line));
}
static inline unsigned __ballot_sync(unsigned mask, int p, EMU_LINE) { return emu::ballot(mask, p, line); }
static inline int __any_sync(unsigned mask, int p, EMU_LINE) { return emu::ballot(mask, p, line) != 0; }
static inline int __all_sync(unsigned mask, int p, EMU_LINE) { return emu::ballot(mask, p, line) == mask; }
static inline void __trap(EMU_LINE) { emu::trap(line); }
#undef EMU_LINE
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// ---- atomics
#define EMU_ATOMIC(name, expression)                                                                                         \
    template <class T> T name(T *p, T v)                                                                                     \
    {                                                                                                                        \
        return emu::atomic_update<T>(p, v, T(), [](T old, T operand, T) -> T { return expression; });                        \
    }
EMU_ATOMIC(atomicAdd, static_cast<T>(old + operand))
EMU_ATOMIC(atomicMax, old > operand ? old : operand)
EMU_ATOMIC(atomicMin, old < operand ? old : operand)
EMU_ATOMIC(atomicExch, ((void)old, operand))
EMU_ATOMIC(atomicOr, static_cast<T>(old | operand))
EMU_ATOMIC(atomicAnd, static_cast<T>(old & operand))
#undef EMU_ATOMIC
template <class T> T atomicCAS(T *p, T compare, T v)
{
    return emu::atomic_update<T>(p, v, compare, [](T old, T operand, T c) -> T { return old == c ? operand : old; });
}

// ---- loads with hints, bits, integers
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
template <class T> void __stcs(T *p, T v) { *p = v; }
template <class T> void __stcg(T *p, T v) { *p = v; }
static inline float __uint_as_float(unsigned u) { return emu::unpack<float>(u); }
static inline unsigned __float_as_uint(float f) { return static_cast<unsigned>(emu::pack(f)); }
static inline float __int_as_float(int u) { return emu::unpack<float>(static_cast<unsigned>(u)); }
static inline int __float_as_int(float f) { return static_cast<int>(emu::pack(f)); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n)
{
    return static_cast<unsigned>(((static_cast<uint64_t>(hi) << 32 | lo) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n)
{
    return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) >> (n & 31));
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return c;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t v = static_cast<uint64_t>(y) << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned byte = static_cast<unsigned>(v >> 8 * ((selector >> 4 * i) & 7)) & 255;
        if ((selector >> 4 * i) & 8)
            byte = byte & 128 ? 255 : 0;
        r |= byte << 8 * i;
    }
    return r;
}
template <class A, class B> static inline auto min(A a, B b) -> decltype(a + b) { return b < a ? b : a; }
template <class A, class B> static inline auto max(A a, B b) -> decltype(a + b) { return a < b ? b : a; }

// ---- floats.  noinline: g++ neither contracts nor reorders across them, as _rn promises on a GPU
#define EMU_RN static inline __attribute__((noinline)) float
EMU_RN __fmul_rn(float a, float b) { return a * b; }
EMU_RN __fadd_rn(float a, float b) { return a + b; }
EMU_RN __fsub_rn(float a, float b) { return a - b; }
EMU_RN __fdiv_rn(float a, float b) { return a / b; }
EMU_RN __frcp_rn(float a) { return 1.f / a; }
EMU_RN __fsqrt_rn(float a) { return sqrtf(a); }
EMU_RN __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
#undef EMU_RN
static inline __attribute__((noinline)) double __dmul_rn(double a, double b) { return a * b; }
static inline __attribute__((noinline)) double __dadd_rn(double a, double b) { return a + b; }
#define __expf emu_expf // glibc owns the names with two underscores
#define __logf emu_logf
static inline float emu_expf(float x) { return exp2f(x * 1.4426950408889634f); }
static inline float emu_logf(float x) { return logf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
static inline float __saturatef(float x) { return x < 0.f ? 0.f : x > 1.f ? 1.f : x; }
static inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
static inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
