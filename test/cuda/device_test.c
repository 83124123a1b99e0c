/* Opening a device: one sentence for each thing that can be missing; memory that is not there, with both numbers; every call failing once, with the right
 * status and nothing left behind.  The machine is the emulator's to change: on a GPU these tests skip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "cuda/device.h"
#include "ops.h"

#ifdef VENEER_CUDA_EMU
#include "emu_ctl.h"

static int restore(void **state)
{
    (void)state;
    unsetenv("CUDA_VISIBLE_DEVICES");
    emu_revive();
    emu_set_device(&emu_default_device);
    return emu_live() == 0 ? 0 : -1; /* nothing that a test made is left */
}

static void refused(const struct emu_device *machine, const char *sentence)
{
    struct device *card;
    struct err err = {""};
    emu_set_device(machine);
    assert_int_equal(device_open(&card, &err), ERR_INPUT);
    assert_null(card);
    assert_string_equal(err.text, sentence);
}

static void what_is_missing_is_said(void **state)
{
    (void)state;
    struct emu_device m = emu_default_device;
    m.driver = 0;
    refused(&m, "no CUDA driver: libcuda.so.1 is not there, want NVIDIA's driver or device = cpu");
    m.driver = 12040;
    refused(&m, "the CUDA driver is for CUDA 12.4, this program was built with CUDA 13.0, want a newer driver");
    m = emu_default_device;
    m.devices = 0;
    refused(&m, "no CUDA device: the driver finds no GPU (nvidia-smi lists them), want one or device = cpu");
    m = emu_default_device;
    m.no_blas = true;
    refused(&m, "no cuBLAS: libcublas.so.13 is not there (LD_LIBRARY_PATH may name its folder), want the CUDA 13 libraries or device = cpu");
    m = emu_default_device;
    m.major = 7, m.minor = 5;
    refused(&m, "the GPU emulated device has compute capability 7.5, want 8.0 or newer (Ampere and later) or device = cpu");
}

/* What the variable names, and how many GPUs there are. */
static void visible_devices(void **state)
{
    (void)state;
    struct emu_device m = emu_default_device;
    m.devices = 0;
    m.gpus = 2;
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    refused(&m, "no CUDA device: CUDA_VISIBLE_DEVICES is empty, this machine has 2 GPUs, want a number from 0 to 1 or the variable unset");
    setenv("CUDA_VISIBLE_DEVICES", "7", 1);
    refused(&m, "no CUDA device: CUDA_VISIBLE_DEVICES is '7', this machine has 2 GPUs, want a number from 0 to 1 or the variable unset");
    m.gpus = 1;
    refused(&m, "no CUDA device: CUDA_VISIBLE_DEVICES is '7', this machine has 1 GPU, want 0 or the variable unset");
    m.gpus = 0; /* nobody counts them */
    refused(&m, "no CUDA device: CUDA_VISIBLE_DEVICES is '7', which names no GPU of this machine, want its number, such as 0, or the variable unset");
}

static void memory_that_is_not_there(void **state)
{
    (void)state;
    struct device *card;
    struct err err = {""};
    struct emu_device m = emu_default_device;
    m.memory = 64 << 20;
    emu_set_device(&m);
    assert_int_equal(device_open(&card, &err), OK);
    size_t total, before, after;
    assert_int_equal(device_memory(card, &total, &before, &err), OK);
    assert_int_equal(total - before, device_own_bytes());
    struct arena arena = {0};
    arena_take(&arena, 100 << 20, 1);
    assert_int_equal(device_commit(card, &arena, "weights", &err), ERR_MEMORY);
    char sentence[200];
    snprintf(sentence, sizeof sentence, "weights: the GPU emulated device has %zu of its %d bytes free, want %d or device = cpu", before, 64 << 20, 100 << 20);
    assert_string_equal(err.text, sentence);
    arena = (struct arena){0}; /* and the device is still of use */
    arena_take(&arena, 1000, 1);
    assert_int_equal(device_commit(card, &arena, "weights", &err), OK);
    assert_int_equal(device_check(card, &err), OK);
    device_release(card, &arena);
    assert_int_equal(device_memory(card, &total, &after, &err), OK);
    assert_int_equal(after, before);
    device_close(card);
    m.memory = 1 << 20; /* no room for the device's own */
    emu_set_device(&m);
    assert_int_equal(device_open(&card, &err), ERR_MEMORY);
    snprintf(sentence, sizeof sentence, "cuBLAS's workspace: the GPU emulated device has %d of its %d bytes free, want %zu or device = cpu", 1 << 20, 1 << 20, device_own_bytes());
    assert_string_equal(err.text, sentence);
}

/* Opens a device, uploads, adds, downloads. */
static enum status small_job(struct err *err)
{
    struct device *card;
    TRY(device_open(&card, err));
    struct arena arena = {0};
    float x[100] = {1, 2, 3}, y[100];
    arena_take(&arena, sizeof x, 2);
    enum status status = device_commit(card, &arena, "numbers", err);
    float *X = (float *)(void *)arena.base;
    if (status == OK)
        status = device_upload(card, X, x, sizeof x, err);
    if (status == OK) {
        struct ops_context c = {.ops = device_ops(), .device = card, .threads = 1};
        device_zero(card, X + 100, sizeof x);
        c.ops->add(&c, X + 100, X, 100);
        double sum = c.ops->sum_squares(&c, X, 100);
        status = device_download(card, y, X + 100, sizeof y, err);
        assert_true(status != OK || (y[1] == 2 && sum == 14));
    }
    device_release(card, &arena);
    device_close(card);
    return status;
}

/* What the first call of a name gives that fails: in opening, in a copy, in a kernel. */
static const struct {
    const char *call, *sentence;
} sentences[] = {
    {"cudaGetDeviceCount", "the CUDA driver gives no device: unknown error"},
    {"cudaStreamCreate", "the GPU emulated device gives no stream: out of memory"},
    {"cublasCreate", "cuBLAS cannot be started on the GPU emulated device: status 1"},
    {"cudaMemcpyAsync", "the GPU emulated device failed in a copy to it: an illegal memory access was encountered"},
    {"kernel launch", "the GPU emulated device failed in add: unspecified launch failure"},
};
enum { SENTENCES = sizeof sentences / sizeof *sentences };

static void every_call_fails_once(void **state)
{
    (void)state;
    struct err err;
    bool seen[SENTENCES] = {false};
    assert_int_equal(small_job(&err), OK);
    emu_calls(1);
    assert_int_equal(small_job(&err), OK);
    long calls = emu_calls(1);
    assert_true(calls > 15);
    for (long i = 1; i <= calls; i++)
        for (int sticky = 0; sticky < 2; sticky++) {
            err.text[0] = '\0';
            emu_fail(i, sticky);
            enum status status = small_job(&err);
            const char *failed = emu_failed();
            if (status == OK) /* the versions alone may go unknown; a library has a second name */
                assert_true(strcmp(failed, "cudaRuntimeGetVersion") == 0 || strcmp(failed, "dlopen") == 0 || strcmp(failed, "cudaFree") == 0);
            else
                assert_true(strlen(err.text) > 10);
            for (int k = 0; k < SENTENCES; k++)
                if (!seen[k] && strcmp(failed, sentences[k].call) == 0) {
                    assert_string_equal(err.text, sentences[k].sentence);
                    seen[k] = true;
                }
            emu_revive();
            assert_int_equal(emu_live(), 0);
        }
    for (int k = 0; k < SENTENCES; k++)
        assert_true(seen[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_is_missing_is_said, restore),
        cmocka_unit_test_teardown(visible_devices, restore),
        cmocka_unit_test_teardown(memory_that_is_not_there, restore),
        cmocka_unit_test_teardown(every_call_fails_once, restore),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}

#else

static void needs_the_emulator(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(needs_the_emulator)};
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
#endif
