/* planted_test.c: the checker checked: every planted fault is reported as what it is, in three orders of threads, and the
 * controls are silent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "cuda/planted.h"
#include "emu_ctl.h"

enum { HOST = 64 };

static void make_memory(struct planted_memory *m, float *host)
{
    float values[256];
    for (int i = 0; i < 256; i++)
        values[i] = (float)i * 0.5f;
    for (int i = 0; i < HOST; i++)
        host[i] = 1;
    m->host = host;
    assert_int_equal(cudaMalloc((void **)&m->x, 64 * sizeof(float)), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&m->y, 256 * sizeof(float)), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&m->unwritten, 64 * sizeof(float)), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&m->count, sizeof(int)), cudaSuccess);
    cudaMemcpy(m->x, values, 64 * sizeof(float), cudaMemcpyHostToDevice);
    cudaMemcpy(m->y, values, 256 * sizeof(float), cudaMemcpyHostToDevice);
    cudaMemset(m->count, 0, sizeof(int));
}

static void free_memory(const struct planted_memory *m)
{
    cudaFree(m->x);
    cudaFree(m->y);
    cudaFree(m->unwritten);
    cudaFree(m->count);
}

static void each_is_named(void **state)
{
    (void)state;
    static float host[HOST];
    int wrong = 0;
    emu_quiet(1);
    for (int order = 0; order < 3; order++)
        for (int i = 0; i < planted_count; i++) {
            struct planted_memory m;
            const struct planted *p = &planted[i];
            emu_set(order, 5, 0, 0);
            make_memory(&m, host);
            emu_errors(1);
            p->run(&m);
            long named = p->kind ? emu_reported(p->kind) : 0, all = emu_errors(1);
            if (p->kind ? named == 0 : all > 0) {
                print_error("%s, order %d: %ld reports, %ld of kind %s\n", p->name, order, all, named,
                            p->kind ? p->kind : "none");
                wrong++;
            }
            free_memory(&m);
            emu_errors(1);
        }
    emu_quiet(0);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
