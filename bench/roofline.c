/* roofline.c: loops of independent instructions, and reading a buffer.
 *
 * A peak loop keeps 12 accumulators in registers: more than 8, which cover a latency of 4 cycles at 2 instructions a cycle, and with both factors less than
 * the 16 registers of AVX2.  Each is compiled for its own
 * instruction set by an attribute and called only where the CPU has it. */
#include "bench/roofline.h"

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/log.h"
#include "cpu/level.h"
#include "ops.h"

enum { LANES = 12, CHUNKS = 3 };

double bench_clock_s(void)
{
    const char *clock = getenv("BENCH_CLOCK");
    struct timespec t;
    if (!clock || strcmp(clock, "cpu") != 0 || clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) != 0)
        return clock_s();
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- peaks ---- */

struct peak_loop {
    const char *name;
    void (*run)(long n); /* n * LANES instructions */
    double operations;   /* of one instruction */
};

#if defined(__x86_64__)
#include <immintrin.h>

/* The empty asm tells the compiler that the accumulators are read, once, behind the loop. */
#define PEAK_LOOP(name, isa, vector, zero, call)                    \
    static __attribute__((target(isa), noinline)) void name(long n) \
    {                                                               \
        vector a = zero, b = zero, c[LANES];                        \
        __asm__ volatile("" : "+v"(a), "+v"(b));                    \
        for (int i = 0; i < LANES; i++)                             \
            c[i] = zero;                                            \
        for (; n > 0; n--)                                          \
            _Pragma("GCC unroll 12") for (int i = 0; i < LANES; i++) c[i] = call; \
        for (int i = 0; i < LANES; i++)                             \
            __asm__ volatile("" : : "v"(c[i]));                     \
    }
PEAK_LOOP(fma_256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(a, b, c[i]))
PEAK_LOOP(fma_512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, c[i]))
PEAK_LOOP(bf16_512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(c[i], (__m512bh)a, (__m512bh)b))
PEAK_LOOP(vnni_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(c[i], a, b))

static struct peak_loop find_loop(enum peak peak)
{
    if (peak == PEAK_BF16 && __builtin_cpu_supports("avx512bf16"))
        return (struct peak_loop){"VDPBF16PS, 512 bits", bf16_512, 64};
    if (peak == PEAK_INT8 && __builtin_cpu_supports("avx512vnni"))
        return (struct peak_loop){"VPDPBUSD, 512 bits", vnni_512, 128};
    bool narrow = strcmp(cpu_level_name(), "avx2") == 0; /* a level is held against its own registers */
    if (peak == PEAK_F32 && __builtin_cpu_supports("avx512f") && !narrow)
        return (struct peak_loop){"VFMADD231PS, 512 bits", fma_512, 32};
    if (peak == PEAK_F32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct peak_loop){"VFMADD231PS, 256 bits", fma_256, 16};
    return (struct peak_loop){0};
}
#elif defined(__aarch64__)
#include <arm_neon.h>

static __attribute__((noinline)) void fmla_128(long n)
{
    float32x4_t a = vdupq_n_f32(0), b = a, c[LANES];
    __asm__ volatile("" : "+w"(a), "+w"(b));
    for (int i = 0; i < LANES; i++)
        c[i] = vdupq_n_f32(0);
    for (; n > 0; n--)
        _Pragma("GCC unroll 12") for (int i = 0; i < LANES; i++) c[i] = vfmaq_f32(c[i], a, b);
    for (int i = 0; i < LANES; i++)
        __asm__ volatile("" : : "w"(c[i]));
}

static struct peak_loop find_loop(enum peak peak)
{
    return peak == PEAK_F32 ? (struct peak_loop){"FMLA, 128 bits", fmla_128, 8} : (struct peak_loop){0};
}
#else
static struct peak_loop find_loop(enum peak peak)
{
    (void)peak;
    return (struct peak_loop){0};
}
#endif

const char *peak_name(enum peak peak)
{
    return find_loop(peak).name;
}

double peak_measure(enum peak peak, int threads)
{
    struct peak_loop loop = find_loop(peak);
    long n = 500000; /* about 4 ms at 2 instructions a cycle of 1 GHz, 1 to 2 ms on what is sold today */
    double best = INFINITY;
    if (!loop.run)
        return NAN;
    for (int chunk = 0; chunk <= CHUNKS; chunk++) { /* the first wakes the threads */
        double start = bench_clock_s();
#pragma omp parallel num_threads(threads)
        loop.run(n);
        double spent = bench_clock_s() - start;
        best = chunk > 0 && spent < best ? spent : best;
    }
    return loop.operations * LANES * (double)n * threads / best / 1e9;
}

/* ---- reading ---- */

enum status read_buffer_open(struct read_buffer *buffer, size_t n, struct err *err)
{
    void *bytes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *buffer = (struct read_buffer){0};
    if (bytes == MAP_FAILED)
        return err_set(err, ERR_MEMORY, "%zu bytes to read are not to be had", n);
#ifdef MADV_HUGEPAGE
    madvise(bytes, n, MADV_HUGEPAGE); /* a wish: without huge pages it only reads slower */
#endif
    memset(bytes, 1, n);
    *buffer = (struct read_buffer){.bytes = bytes, .n = n};
    return OK;
}

void read_buffer_close(struct read_buffer *buffer)
{
    if (buffer->bytes)
        munmap(buffer->bytes, buffer->n);
    *buffer = (struct read_buffer){0};
}

/* Or of all words; four cache lines at a time. */
static uint64_t read_all(const unsigned char *bytes, size_t n, size_t ahead)
{
    const uint64_t *word = (const uint64_t *)(const void *)bytes;
    uint64_t sum[32] = {0}, all = 0;
    for (size_t i = 0; i + 32 <= n / 8; i += 32) {
        if (ahead)
            for (size_t line = 0; line < 4; line++)
                __builtin_prefetch((const char *)(word + i) + ahead + 64 * line);
        for (size_t j = 0; j < 32; j++)
            sum[j] |= word[i + j];
    }
    for (size_t j = 0; j < 32; j++)
        all |= sum[j];
    return all;
}

static double read_seconds(const struct read_buffer *buffer, size_t n, int threads, size_t repeats, size_t ahead)
{
    size_t share = n / (size_t)threads / 256 * 256;
    double start = bench_clock_s();
#pragma omp parallel num_threads(threads)
    for (size_t r = 0; r < repeats; r++) {
        uint64_t all = read_all(buffer->bytes + share * (size_t)omp_get_thread_num(), share, ahead);
        __asm__ volatile("" : : "r"(all) : "memory"); /* it is wanted, every time */
    }
    return bench_clock_s() - start;
}

double read_measure(const struct read_buffer *buffer, size_t n, int threads)
{
    size_t share = n / (size_t)threads / 256 * 256, repeats = 1 + ((size_t)32 << 20) / (share + 1);
    double best = INFINITY;
    n = n < buffer->n ? n : buffer->n;
    for (int ahead = 0; ahead < 2; ahead++) {
        double spent = read_seconds(buffer, n, threads, repeats, ahead ? 4096 : 0);
        best = spent < best ? spent : best;
    }
    return (double)(share * repeats) * threads / best / 1e9;
}

bool level_has_bf16(void)
{
    return strcmp(cpu_level_name(), "ref") != 0 && level()->bf16 && level()->bf16->unit == 2;
}

bool level_has_int8(void)
{
    return strcmp(cpu_level_name(), "ref") != 0 && level()->int8 != NULL;
}
