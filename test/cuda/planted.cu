// planted.cu: one fault a kernel; the comment says the habit it comes from.
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "cuda/planted.h"

#define FULL 0xffffffffu
#ifdef CUDA_EMU
#define copy16(to, from) emu::cp_async16(to, from, 16)
#define commit() emu::cp_async_commit()
#define wait_copies() emu::cp_async_wait(0)
#else
__device__ static inline void copy16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ static inline void commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ static inline void wait_copies()
{
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}
#endif

__device__ static inline float warp_sum(float v)
{
    for (int lanes = 16; lanes; lanes >>= 1)
        v += __shfl_xor_sync(FULL, v, lanes);
    return v;
}

// ---- controls
__global__ void good_exchange(float *y, const float *x)
{
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    float v = warp_sum(s[63 - threadIdx.x]);
    __syncthreads();
    s[threadIdx.x] = v;
    __syncwarp();
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void good_count(int *count, float *y)
{
    atomicAdd(count, 1);
    y[blockIdx.x * blockDim.x + threadIdx.x] = 1;
}
__global__ void good_copy(float *y, const float *x)
{
    __shared__ __align__(16) float s[64];
    if (threadIdx.x < 16)
        copy16(s + threadIdx.x * 4, x + threadIdx.x * 4);
    commit();
    wait_copies();
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}

// ---- a neighbour's value is read without a barrier
__global__ void missing_barrier(float *y, const float *x)
{
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[(threadIdx.x + 33) % 64];
}
// ---- the classic of reductions: the buffer is used again before everyone has read it
__device__ static float reduce_without_leading_barrier(float v)
{
    __shared__ float s[32];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        s[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? s[threadIdx.x % 32] : 0);
}
__global__ void reduction_buffer_reused(float *y, const float *x)
{
    float a = reduce_without_leading_barrier(x[threadIdx.x]);
    float b = reduce_without_leading_barrier(a * x[threadIdx.x]);
    if (threadIdx.x == 0)
        y[0] = b;
}
// ---- lanes taken to run in lockstep
__global__ void lockstep_assumed(float *y, const float *x)
{
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 16)
        s[threadIdx.x] += s[threadIdx.x + 16];
    __syncwarp();
    y[threadIdx.x] = s[threadIdx.x % 16];
}
// ---- two warps at two barriers
__global__ void divergent_barrier(float *y)
{
    __shared__ float s[64];
    s[threadIdx.x] = 1;
    if (threadIdx.x < 32) {
        __syncthreads();
        s[0] = 2;
    } else {
        s[threadIdx.x] = 3;
        __syncthreads();
        s[threadIdx.x] = 4;
    }
    y[threadIdx.x] = s[threadIdx.x];
}
// ---- all lanes are named, half of them come
__global__ void shuffle_in_branch(float *y, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v += __shfl_xor_sync(FULL, v, 8);
    y[threadIdx.x] = v;
}
__global__ void exit_before_shuffle(float *y, const float *x, int n)
{
    if ((int)threadIdx.x >= n)
        return;
    y[threadIdx.x] = warp_sum(x[threadIdx.x]);
}
// ---- a lane reads from one that its mask leaves out
__global__ void shuffle_outside_mask(float *y, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v = __shfl_sync(0xffffu, v, 20);
    y[threadIdx.x] = v;
}
// ---- ends of arrays
__global__ void no_tail_guard(float *y, const float *x, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    y[i] = x[i] + (float)n;
}
__global__ void guard_off_by_one(float *y, const float *x, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i > n)
        return;
    y[i] = x[i];
}
__global__ void shared_too_short(float *y)
{
    extern __shared__ float s[];
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
// ---- read before written
__global__ void shared_unwritten(float *y)
{
    __shared__ float s[64];
    if (threadIdx.x < 63)
        s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
__global__ void plain_copy(float *y, const float *x)
{
    y[threadIdx.x] = x[threadIdx.x];
}
// ---- 8 bytes at an address that is a multiple of 4 alone
__global__ void misaligned(float *y, const float *x)
{
    *(float2 *)(y + threadIdx.x * 2) = *(const float2 *)(x + threadIdx.x % 16 * 2 + 1);
}
// ---- two blocks add to one place
__global__ void blocks_race(float *y, const float *x)
{
    y[threadIdx.x] += x[blockIdx.x * blockDim.x + threadIdx.x];
}
// ---- llm.c's fused classifier: each thread walks the whole tail
__global__ void tail_by_everyone(float *p, int n)
{
    for (int i = (int)threadIdx.x + 32; i < n; i++)
        p[i] = p[i] * 2;
}
__global__ void atomic_read_plainly(int *count, float *y)
{
    atomicAdd(count, 1);
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = (float)*(volatile int *)count;
}
__global__ void copy_without_wait(float *y, const float *x)
{
    __shared__ __align__(16) float s[64];
    if (threadIdx.x < 16)
        copy16(s + threadIdx.x * 4, x + threadIdx.x * 4);
    commit();
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void two_writers(float *y)
{
    y[threadIdx.x / 2] = (float)threadIdx.x;
}

#define RUN(name, launch)                                                                                                    \
    static void run_##name(const struct planted_memory *m)                                                                   \
    {                                                                                                                        \
        (void)m;                                                                                                             \
        launch;                                                                                                              \
    }
// clang-format off
RUN(good_exchange, (good_exchange<<<1, 64>>>(m->y, m->x)))
RUN(good_count, (good_count<<<2, 32>>>(m->count, m->y)))
RUN(good_copy, (good_copy<<<1, 32>>>(m->y, m->x)))
RUN(missing_barrier, (missing_barrier<<<1, 64>>>(m->y, m->x)))
RUN(reduction_buffer_reused, (reduction_buffer_reused<<<1, 64>>>(m->y, m->x)))
RUN(lockstep_assumed, (lockstep_assumed<<<1, 32>>>(m->y, m->x)))
RUN(divergent_barrier, (divergent_barrier<<<1, 64>>>(m->y)))
RUN(shuffle_in_branch, (shuffle_in_branch<<<1, 32>>>(m->y, m->x)))
RUN(exit_before_shuffle, (exit_before_shuffle<<<1, 32>>>(m->y, m->x, 20)))
RUN(shuffle_outside_mask, (shuffle_outside_mask<<<1, 32>>>(m->y, m->x)))
RUN(no_tail_guard, (no_tail_guard<<<2, 48>>>(m->y, m->x, 64)))
RUN(guard_off_by_one, (guard_off_by_one<<<2, 48>>>(m->y, m->x, 64)))
RUN(shared_too_short, (shared_too_short<<<1, 64, 128>>>(m->y)))
RUN(shared_above_48k, (shared_too_short<<<1, 64, 60000>>>(m->y)))
RUN(shared_unwritten, (shared_unwritten<<<1, 64>>>(m->y)))
RUN(global_unwritten, (plain_copy<<<1, 64>>>(m->y, m->unwritten)))
RUN(misaligned, (misaligned<<<1, 32>>>(m->y, m->x)))
RUN(blocks_race, (blocks_race<<<2, 32>>>(m->y, m->x)))
RUN(tail_by_everyone, (tail_by_everyone<<<1, 32>>>(m->x, 60)))
RUN(atomic_read_plainly, (atomic_read_plainly<<<2, 32>>>(m->count, m->y)))
RUN(host_pointer, (plain_copy<<<1, 32>>>(m->y, m->host)))
RUN(copy_without_wait, (copy_without_wait<<<1, 32>>>(m->y, m->x)))
RUN(two_writers, (two_writers<<<1, 64>>>(m->y)))
RUN(threads_2048, (plain_copy<<<1, 2048>>>(m->y, m->x)))
RUN(no_blocks, (plain_copy<<<0, 32>>>(m->y, m->x)))
// clang-format on

static void freed(const struct planted_memory *m)
{
    void *p;
    cudaMalloc(&p, 256);
    cudaFree(p);
    plain_copy<<<1, 32>>>((float *)p, m->x);
}
static void freed_twice(const struct planted_memory *m)
{
    void *p;
    (void)m;
    cudaMalloc(&p, 256);
    cudaFree(p);
    cudaFree(p);
}
static void copy_past_end(const struct planted_memory *m)
{
    cudaMemcpy(m->y, m->x, 65 * sizeof(float), cudaMemcpyDeviceToDevice);
}
static void copy_unwritten(const struct planted_memory *m)
{
    cudaMemcpy(m->host, m->unwritten, 64 * sizeof(float), cudaMemcpyDeviceToHost);
}
static void copy_wrong_way(const struct planted_memory *m)
{
    cudaMemcpy(m->x, m->host, 64 * sizeof(float), cudaMemcpyDeviceToHost);
}

#define PLANTED(name, kind) {#name, kind, run_##name}
const struct planted planted[] = {
    PLANTED(good_exchange, NULL),
    PLANTED(good_count, NULL),
    PLANTED(good_copy, NULL),
    PLANTED(missing_barrier, "racecheck"),
    PLANTED(reduction_buffer_reused, "racecheck"),
    PLANTED(lockstep_assumed, "racecheck"),
    PLANTED(divergent_barrier, "synccheck"),
    PLANTED(shuffle_in_branch, "synccheck"),
    PLANTED(exit_before_shuffle, "synccheck"),
    PLANTED(shuffle_outside_mask, "synccheck"),
    PLANTED(no_tail_guard, "memcheck"),
    PLANTED(guard_off_by_one, "memcheck"),
    PLANTED(shared_too_short, "memcheck"),
    PLANTED(shared_above_48k, "launch"),
    PLANTED(shared_unwritten, "initcheck"),
    PLANTED(global_unwritten, "initcheck"),
    PLANTED(misaligned, "memcheck"),
    PLANTED(blocks_race, "racecheck"),
    PLANTED(tail_by_everyone, "racecheck"),
    PLANTED(atomic_read_plainly, "racecheck"),
    PLANTED(host_pointer, "memcheck"),
    PLANTED(copy_without_wait, "initcheck"),
    PLANTED(two_writers, "racecheck"),
    PLANTED(threads_2048, "launch"),
    PLANTED(no_blocks, "launch"),
    {"freed", "memcheck", freed},
    {"freed_twice", "memcheck", freed_twice},
    {"copy_past_end", "memcheck", copy_past_end},
    {"copy_unwritten", "initcheck", copy_unwritten},
    {"copy_wrong_way", "memcheck", copy_wrong_way},
};
const int planted_count = sizeof planted / sizeof *planted;
