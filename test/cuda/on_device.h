/* on_device.h: an open device, the same numbers on both sides, and comparison by a bound.
 *
 * Knows nothing of who executes the kernels: linked with the emulator it runs on this CPU, with CUDA's runtime on a GPU.
 *
 * Bounds.  u = 2^-24.  A float sum of k products is off by at most gamma(k) sum |x||w|, gamma(k) = k u / (1 - k u), in any order (Higham 2002, (3.5));
 * rounding both factors to bf16 costs 2 * 2^-8 + 2^-16 of each product.  The reference sums in double: its own share is the rounding of its results.
 * Sums of absolute values come from running the reference on absolute values. */
#ifndef VENEER_TEST_ON_DEVICE_H
#define VENEER_TEST_ON_DEVICE_H
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "cuda/device.h"
#include "ops.h"
#ifdef VENEER_CUDA_EMU
#include "emu_ctl.h"
#endif

#define UNIT 0x1p-24
#define HALF_UNIT 0x1p-8 /* of bf16 */

static struct device *card;
static struct ops_context gpu, cpu; /* cpu: the plain reference */
static struct arena gpu_scratch, room, host;
static struct err on_device_err;

enum { ROOM = 24 << 20, HOST_ROOM = 192 << 20, FENCE = 64, MOST_FENCES = 16384 };

__attribute__((unused)) static double gamma_of(double k)
{
    return k * UNIT / (1 - k * UNIT);
}

static void must(enum status status)
{
    if (status != OK)
        print_error("%s\n", on_device_err.text);
    assert_int_equal(status, OK);
}

/* ---- memory that a test takes and never gives back: each test begins with all of it ---- */

static void *take(size_t bytes)
{
    void *p = arena_take(&host, bytes, 1);
    assert_non_null(p);
    return p;
}

/* Behind each piece of the device's memory lies a fence, 64 bytes and what is left of the last 64: nobody's.  The checker reports whoever touches it;
 * without a checker a fence that is not as it was fails the test at its end. */
static const unsigned char fence_byte = 0xa5;
static struct fence {
    size_t at, bytes; /* in room */
} fences[MOST_FENCES];
static size_t n_fences;

/* open: bytes that may be read, though not written. */
static void *piece(size_t bytes, size_t open)
{
    unsigned char *to = arena_take(&room, bytes + FENCE, 1);
    assert_non_null(to);
    assert_true(n_fences < MOST_FENCES);
    size_t at = (size_t)(to - room.base) + bytes;
    fences[n_fences++] = (struct fence){at, room.used - at};
#ifdef VENEER_CUDA_EMU
    emu_fence(to + open, (size_t)(room.base + room.used - to) - open);
#else
    (void)open; /* a GPU fences nothing */
#endif
    return to;
}

static void raise_fences(void)
{
    size_t used = host.used;
    n_fences = 0;
    must(device_upload(card, room.base, memset(take(room.size), fence_byte, room.size), room.size, &on_device_err));
    host.used = used;
}

/* How many fences were written to; 0 on a device that failed, which device_check says. */
static int count_broken(void)
{
    int broken = 0;
    unsigned char *all = take(room.used);
    if (device_download(card, all, room.base, room.used, &on_device_err) != OK)
        return 0;
    for (size_t f = 0; f < n_fences; f++)
        for (size_t i = 0; i < fences[f].bytes; i++)
            if (all[fences[f].at + i] != fence_byte) {
                print_error("byte %zu behind piece %zu of the device's memory was written\n", i, f);
                broken++;
                break;
            }
    return broken;
}

__attribute__((unused)) static void *up(const void *from, size_t bytes)
{
    void *to = piece(bytes, bytes);
    must(device_upload(card, to, from, bytes, &on_device_err));
    return to;
}

/* n reals that are NaN until a kernel writes them. */
__attribute__((unused)) static real *up_nan(size_t n)
{
    real *x = take(n * sizeof *x);
    memset(x, 0xff, n * sizeof *x);
    return up(x, n * sizeof *x);
}

__attribute__((unused)) static void *down(const void *from, size_t bytes)
{
    void *to = take(bytes ? bytes : 1);
    must(device_download(card, to, from, bytes, &on_device_err));
    return to;
}

/* Acts (ops.h): from reals, rounded where the device's context holds them in bf16; NaN until a kernel writes them; back as reals. */
__attribute__((unused)) static act *up_acts(const real *x, size_t n)
{
    uint16_t *halves = take(n * sizeof *halves + 1);
    for (size_t i = 0; i < n; i++)
        halves[i] = bf16_from_f32(x[i]);
    return act_in_halves(&gpu) ? up(halves, n * sizeof *halves) : up(x, n * sizeof *x);
}

__attribute__((unused)) static act *up_nan_acts(size_t n)
{
    return up(memset(take(n * sizeof(real) + 1), 0xff, n * sizeof(real)), n * act_bytes(&gpu));
}

__attribute__((unused)) static real *down_acts(const act *from, size_t n)
{
    real *x = take(n * sizeof *x + 1);
    const void *got = down(from, n * act_bytes(&gpu));
    for (size_t i = 0; i < n; i++)
        x[i] = act_in_halves(&gpu) ? f32_from_bf16(((const uint16_t *)got)[i]) : ((const real *)got)[i];
    return x;
}

#define UP(x, n) up(x, (n) * sizeof *(x))
#define DOWN(x, n) down(x, (n) * sizeof *(x))

/* Bytes of a matrix's codes; its blocks, each with a scale or a scale's code; its groups of 256 such codes. */
struct parts {
    size_t codes, blocks, nested;
};

static struct parts parts_of(const struct qmat *q)
{
    size_t n = q->rows * q->cols, bytes = quant_bytes(q->format, q->block, q->double_quant, q->rows, q->cols);
    size_t blocks = q->format == FORMAT_INT8 ? q->rows : q->block ? (n + (size_t)q->block - 1) / (size_t)q->block : 0, nested = (blocks + 255) / 256;
    return (struct parts){bytes - (q->affine || q->scales ? 4 * blocks : q->double_quant ? blocks + 4 * nested + 4 : 0), blocks, nested};
}

/* A matrix on the device, each of its arrays a piece; the last 64 bytes of codes may be read whole (cuda/quant.cuh). */
__attribute__((unused)) static struct qmat place_matrix(enum format format, int block, bool twice, size_t rows, size_t cols)
{
    struct qmat q;
    quant_place(&q, format, block, twice, rows, cols, &room); /* says which arrays there are */
    struct parts parts = parts_of(&q);
    q.codes = piece(parts.codes, (parts.codes + 63) / 64 * 64);
    q.affine = q.affine ? piece(4 * parts.blocks, 4 * parts.blocks) : NULL;
    q.scales = q.scales ? piece(4 * parts.blocks, 4 * parts.blocks) : NULL;
    q.scale_codes = q.scale_codes ? piece(parts.blocks, parts.blocks) : NULL;
    q.nested_absmax = q.nested_absmax ? piece(4 * parts.nested, 4 * parts.nested) : NULL;
    return q;
}

/* A matrix of the host, on the device. */
__attribute__((unused)) static struct qmat up_matrix(const struct qmat *q)
{
    struct qmat to = place_matrix(q->format, q->block, q->double_quant, q->rows, q->cols);
    must(device_upload_matrix(card, &to, q, &on_device_err));
    return to;
}

/* ---- numbers ---- */

__attribute__((unused)) static real *normals(size_t n, uint32_t step, double size)
{
    struct rng rng = {.seed = 5, .stream = RNG_INIT, .step = step};
    real *x = take(n * sizeof *x + 1);
    for (size_t i = 0; i < n; i++)
        x[i] = (real)(size * rng_normal(&rng));
    return x;
}

/* Numbers that bf16 holds: rounding them again changes nothing. */
__attribute__((unused)) static real *normal_halves(size_t n, uint32_t step, double size)
{
    real *x = normals(n, step, size);
    for (size_t i = 0; i < n; i++)
        x[i] = f32_from_bf16(bf16_from_f32(x[i]));
    return x;
}

__attribute__((unused)) static real *copied(const real *x, size_t n, bool absolute)
{
    real *y = take(n * sizeof *y + 1);
    for (size_t i = 0; i < n; i++)
        y[i] = absolute ? fabsf(x[i]) : x[i];
    return y;
}

__attribute__((unused)) static real *zeros(size_t n)
{
    real *x = take(n * sizeof *x + 1);
    memset(x, 0, n * sizeof *x);
    return x;
}

/* Values that this format holds, of this size; encoded into q (host memory). */
__attribute__((unused)) static void encoded(struct qmat *q, enum format format, bool twice, size_t rows, size_t cols, const real *W)
{
    quant_place(q, format, 0, twice, rows, cols, &host);
    must(quant_encode(q, W, false, &on_device_err));
}

/* |got - want| <= factor size[i] + some |want| u everywhere; NaN fails. */
__attribute__((unused)) static void check(const char *what, const real *got, const real *want, const real *size, double factor, double some, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[i]), bound = factor * (size ? (double)size[i] : 0) + some * UNIT * fabs((double)want[i]);
        if (!(error <= bound))
            print_error("%s[%zu]: %.9g, want %.9g, off by %g, bound %g\n", what, i, (double)got[i], (double)want[i], error, bound);
        assert_true(error <= bound);
    }
}

__attribute__((unused)) static void same(const char *what, const void *got, const void *want, size_t bytes)
{
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) {
            print_error("%s: byte %zu of %zu is %02x, want %02x\n", what, i, bytes, a[i], b[i]);
            break;
        }
    assert_memory_equal(got, want, bytes);
}

/* ---- both contexts ---- */

/* Shapes that scratch is for; a test of larger vocabularies says so. */
#ifndef MOST_V
#define MOST_V 128
#endif
enum { MOST_OUT = 700, MOST_IN = 1024, MOST_D = 160, MOST_T = 260 };

/* Scratch is NaN, and to the checker unwritten: what a kernel reads there, a kernel has written. */
static void set_compute(enum compute compute)
{
    gpu = (struct ops_context){.ops = device_ops(), .device = card, .threads = 1, .compute = compute};
    size_t n = gpu.ops->scratch_size(&gpu, MOST_OUT, MOST_IN, 32, MOST_T, MOST_V);
    device_release(card, &gpu_scratch);
    arena_take(&gpu_scratch, n, sizeof(real));
    must(device_commit(card, &gpu_scratch, "scratch", &on_device_err));
    gpu.scratch = arena_take(&gpu_scratch, n, sizeof(real));
    size_t used = host.used;
    void *nan = take(n * sizeof(real));
    memset(nan, 0xff, n * sizeof(real));
    must(device_upload(card, gpu.scratch, nan, n * sizeof(real), &on_device_err));
    host.used = used;
#ifdef VENEER_CUDA_EMU
    emu_forget(gpu.scratch, n * sizeof(real));
#endif
}

static int begin(void **state)
{
    (void)state;
    must(device_open(&card, &on_device_err));
    arena_take(&room, ROOM, 1);
    must(device_commit(card, &room, "the test's memory", &on_device_err));
    arena_take(&host, HOST_ROOM, 1);
    must(arena_commit(&host, "the test's memory", &on_device_err));
    raise_fences();
    cpu = (struct ops_context){.ops = cpu_ops(true), .threads = 1};
    size_t n = cpu.ops->scratch_size(&cpu, MOST_OUT, MOST_IN, MOST_D, 2 * MOST_T, MOST_V);
    cpu.scratch = take(n * sizeof(real));
    set_compute(COMPUTE_F32);
    return 0;
}

static int end(void **state)
{
    (void)state;
    struct err err;
    int broken = count_broken();
    enum status status = device_check(card, &err);
    if (status != OK)
        print_error("%s\n", err.text);
    else if (broken)
        status = ERR_INPUT;
    device_release(card, &gpu_scratch);
    device_release(card, &room);
    device_close(card);
    arena_free(&host);
    return status;
}

#define ON_DEVICE(test) cmocka_unit_test_setup_teardown(test, begin, end)

#endif
