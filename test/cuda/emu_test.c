/* emu_test.c: the emulator itself: what kernels compute on it against plain C, and that the host's mistakes and a device's
 * failures show. */
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "cuda/emu_kernels.h"
#include "emu_ctl.h"

static void *on_device(const void *from, size_t bytes)
{
    void *p = NULL;
    assert_int_equal(cudaMalloc(&p, bytes), cudaSuccess);
    if (from)
        assert_int_equal(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

static void from_device(void *to, void *p, size_t bytes)
{
    assert_int_equal(cudaMemcpy(to, p, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
}

static void shuffles_and_votes(void **state)
{
    (void)state;
    int out[64][10];
    int *p = on_device(NULL, sizeof out);
    run_self_warp(p);
    from_device(out, p, sizeof out);
    for (int t = 0; t < 64; t++) {
        int lane = t % 32, warp = t / 32 * 32;
        unsigned thirds = 0;
        for (int l = 0; l < 32; l++)
            thirds |= (unsigned)((warp + l) % 3 == 0) << l;
        assert_int_equal(out[t][0], warp + 5);
        assert_int_equal(out[t][1], lane < 3 ? t : t - 3);
        assert_int_equal(out[t][2], lane > 28 ? t : t + 3);
        assert_int_equal(out[t][3], t ^ 6);
        assert_int_equal(out[t][4], t ^ 4);
        assert_int_equal(out[t][5], lane % 4 == 3 ? t : t + 1);
        assert_int_equal((unsigned)out[t][6], thirds);
        assert_int_equal(out[t][7], (warp == 32) + 2 * (warp == 0));
        assert_int_equal(out[t][8], 13);
        assert_int_equal(out[t][9], 1);
    }
}

static void sums_and_atomics(void **state)
{
    (void)state;
    enum { N = 1000 };
    int x[N];
    unsigned zero = 0, total, most, sum = 0, largest = 0;
    for (int i = 0; i < N; i++) {
        x[i] = i * 7 % 113;
        sum += (unsigned)x[i];
    }
    for (int b = 0; b < N; b += 128) {
        unsigned s = 0;
        for (int i = b; i < N && i < b + 128; i++)
            s += (unsigned)x[i];
        largest = s > largest ? s : largest;
    }
    int *px = on_device(x, sizeof x);
    unsigned *pt = on_device(&zero, sizeof zero), *pm = on_device(&zero, sizeof zero);
    run_self_sum(px, N, pt, pm);
    from_device(&total, pt, sizeof total);
    from_device(&most, pm, sizeof most);
    cudaFree(px);
    assert_int_equal(total, sum);
    assert_int_equal(most, largest);
}

/* Every integer operation, conversion and rounding that a kernel compiles to: the same bits as the host's. */
static void arithmetic(void **state)
{
    (void)state;
    enum { N = 2000 };
    static uint64_t out[N];
    uint64_t *p = on_device(NULL, sizeof out);
    run_self_mix(p, N);
    from_device(out, p, sizeof out);
    for (int i = 0; i < N; i++)
        assert_int_equal(out[i], self_mix_expected(i));
    struct emu_counters counts;
    emu_counts(&counts, 0);
    assert_int_equal(counts.ptx_instructions > 0, getenv("EMU_PTX") != NULL); /* where PTX is asked for, it is what ran */
}

/* Small integers are exact in bf16, and their sums in fp32. */
static void tiles(void **state)
{
    (void)state;
    uint16_t a[16 * 16], b[16 * 8];
    float c[16 * 8];
    for (int i = 0; i < 256; i++)
        a[i] = (uint16_t)((uint32_t)(((union {
                                         float f;
                                         uint32_t u;
                                     }){(float)(i * 5 % 17 - 8)})
                                         .u) >>
                          16);
    for (int i = 0; i < 128; i++)
        b[i] = (uint16_t)((uint32_t)(((union {
                                         float f;
                                         uint32_t u;
                                     }){(float)(i * 3 % 19 - 9)})
                                         .u) >>
                          16);
    float *pc = on_device(NULL, sizeof c);
    uint16_t *pa = on_device(a, sizeof a), *pb = on_device(b, sizeof b);
    run_self_tile(pc, pa, pb);
    from_device(c, pc, sizeof c);
    cudaFree(pa);
    cudaFree(pb);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            int want = 0;
            for (int k = 0; k < 16; k++)
                want += ((i * 16 + k) * 5 % 17 - 8) * ((k * 8 + j) * 3 % 19 - 9);
            assert_int_equal((int)c[i * 8 + j], want);
        }
}

/* Host code that follows a device pointer faults, as it would beside a GPU. */
static sigjmp_buf caught;
static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(caught, 1);
}

static void host_cannot_touch(void **state)
{
    (void)state;
    volatile float *p = on_device(NULL, 64);
    volatile int faults = 0;
    void (*before)(int) = signal(SIGSEGV, on_fault);
    if (sigsetjmp(caught, 1))
        faults++;
    else
        p[3] = 1;
    signal(SIGSEGV, before);
    assert_int_equal(faults, 1);
    cudaFree((void *)(uintptr_t)p);
}

/* A buffer that is written again before the copy from it is over, or read before the copy to it is: late streams show it,
 * prompt ones do not. */
static int trial(int lazy, int wait_in, int wait_out)
{
    emu_set(0, 1, lazy, 0);
    cudaStream_t s;
    float *in, *out, *x = on_device(NULL, 128), *y = on_device(NULL, 128);
    int good = 1;
    assert_int_equal(cudaStreamCreate(&s), cudaSuccess);
    assert_int_equal(cudaMallocHost((void **)&in, 128), cudaSuccess);
    assert_int_equal(cudaMallocHost((void **)&out, 128), cudaSuccess);
    for (int i = 0; i < 32; i++) {
        in[i] = (float)i;
        out[i] = -1;
    }
    cudaMemcpyAsync(x, in, 128, cudaMemcpyHostToDevice, s);
    if (wait_in)
        cudaStreamSynchronize(s);
    for (int i = 0; i < 32; i++)
        in[i] = 1000;
    run_self_double(y, x, s);
    cudaMemcpyAsync(out, y, 128, cudaMemcpyDeviceToHost, s);
    if (wait_out)
        cudaStreamSynchronize(s);
    for (int i = 0; i < 32; i++)
        good &= out[i] == (float)(2 * i);
    cudaStreamDestroy(s);
    cudaFree(x);
    cudaFree(y);
    cudaFreeHost(in);
    cudaFreeHost(out);
    return good;
}

static void late_streams(void **state)
{
    (void)state;
    assert_true(trial(1, 1, 1));
    assert_false(trial(1, 0, 1));
    assert_false(trial(1, 1, 0));
    assert_true(trial(0, 1, 1));
    assert_true(trial(0, 0, 1));
}

/* A product in each transposition, leading dimensions longer than needed; then what the library refuses. */
static float of(const float *m, int ld, bool turned, int row, int column)
{
    return turned ? m[column + row * ld] : m[row + column * ld];
}

static void products(void **state)
{
    (void)state;
    enum { M = 5, N = 7, K = 9, LD = 12 };
    float a[LD * LD], b[LD * LD], c[LD * LD], alpha = 2, beta = 0.5f;
    cublasHandle_t h;
    assert_int_equal(cublasCreate(&h), CUBLAS_STATUS_SUCCESS);
    for (int i = 0; i < LD * LD; i++) {
        a[i] = (float)(i % 11 - 5);
        b[i] = (float)(i % 7 - 3);
    }
    float *pa = on_device(a, sizeof a), *pb = on_device(b, sizeof b);
    for (int way = 0; way < 4; way++) {
        bool ta = way & 1, tb = way & 2;
        for (int i = 0; i < LD * LD; i++)
            c[i] = (float)i;
        float *pc = on_device(c, sizeof c), before[LD * LD];
        memcpy(before, c, sizeof c);
        assert_int_equal(cublasGemmEx(h, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, M, N, K, &alpha, pa,
                                      CUDA_R_32F, LD, pb, CUDA_R_32F, LD, &beta, pc, CUDA_R_32F, LD, CUBLAS_COMPUTE_32F,
                                      CUBLAS_GEMM_DEFAULT),
                         CUBLAS_STATUS_SUCCESS);
        from_device(c, pc, sizeof c);
        for (int j = 0; j < N; j++)
            for (int i = 0; i < M; i++) {
                float want = beta * before[i + j * LD];
                for (int k = 0; k < K; k++)
                    want += alpha * of(a, LD, ta, i, k) * of(b, LD, tb, k, j);
                assert_true(c[i + j * LD] == want); /* small integers and halves: exact */
            }
        assert_true(c[M] == before[M]);
    }
    emu_quiet(1);
    emu_errors(1);
    assert_int_equal(cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha, pa, CUDA_R_32F, M - 1, pb, CUDA_R_32F, LD,
                                  &beta, pa, CUDA_R_32F, LD, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(cublasGemmEx(h, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha, pa, CUDA_R_32F, LD, pb, CUDA_R_16BF, LD,
                                  &beta, pa, CUDA_R_32F, LD, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(emu_errors(1), 2);
    emu_quiet(0);
    cudaFree(pa);
    cudaFree(pb);
    cublasDestroy(h);
}

/* One job in which each call is made to fail in turn: its error comes back, nothing stays. */
static cudaError_t job(void)
{
    void *a = NULL, *b = NULL;
    float host[32] = {0};
    cudaError_t e = cudaMalloc(&a, sizeof host);
    if (e == cudaSuccess)
        e = cudaMalloc(&b, sizeof host);
    if (e == cudaSuccess)
        e = cudaMemcpy(a, host, sizeof host, cudaMemcpyHostToDevice);
    if (e == cudaSuccess) {
        run_self_double(b, a, NULL);
        e = cudaGetLastError();
    }
    if (e == cudaSuccess)
        e = cudaMemcpy(host, b, sizeof host, cudaMemcpyDeviceToHost);
    cudaFree(a);
    cudaFree(b);
    return e;
}

static void calls_fail(void **state)
{
    (void)state;
    static const cudaError_t want[] = {cudaErrorMemoryAllocation, cudaErrorMemoryAllocation, cudaErrorIllegalAddress,
                                       cudaErrorLaunchFailure, cudaErrorIllegalAddress};
    long live = emu_live();
    emu_calls(1);
    assert_int_equal(job(), cudaSuccess);
    assert_int_equal(emu_calls(1), 5);
    for (long n = 1; n <= 5; n++) {
        emu_fail(n, 0);
        assert_int_equal(job(), want[n - 1]);
        assert_non_null(emu_failed());
        assert_int_equal(emu_live(), live);
        cudaGetLastError();
        assert_int_equal(job(), cudaSuccess); /* it was this once */
    }
    emu_fail(4, 1);
    assert_int_equal(job(), cudaErrorLaunchFailure);
    assert_int_equal(job(), cudaErrorLaunchFailure); /* and from then on */
    emu_revive();
    assert_int_equal(job(), cudaSuccess);
}

static void other_machines(void **state)
{
    (void)state;
    struct emu_device d = emu_default_device;
    void *p;
    int n;
    d.devices = 0;
    emu_set_device(&d);
    assert_int_equal(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    d = emu_default_device;
    d.driver = 12040;
    emu_set_device(&d);
    assert_int_equal(cudaMalloc(&p, 4), cudaErrorInsufficientDriver);
    d = emu_default_device;
    d.memory = 1 << 20;
    emu_set_device(&d);
    assert_int_equal(cudaMalloc(&p, (1 << 20) + 1), cudaErrorMemoryAllocation);
    assert_non_null(dlopen("libcublas.so.13", RTLD_NOW));
    d.no_blas = true;
    emu_set_device(&d);
    assert_null(dlopen("libcublas.so.13", RTLD_NOW));
    assert_string_equal(dlerror(), "libcublas.so.13: cannot open shared object file: No such file or directory");
    emu_set_device(&emu_default_device);
    emu_revive();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shuffles_and_votes), cmocka_unit_test(sums_and_atomics),
        cmocka_unit_test(arithmetic),         cmocka_unit_test(tiles),
        cmocka_unit_test(host_cannot_touch),  cmocka_unit_test(late_streams),
        cmocka_unit_test(products),           cmocka_unit_test(calls_fail),
        cmocka_unit_test(other_machines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
