/* quant_affine_test.c: affine codes in groups: the drawing pinned to bytes, HQQ against its equations written plainly in double, what it gains over
 * rounding, groups with nothing to fit, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "quant_affine.h"
#include "refused.h"

static const enum format formats[] = {FORMAT_HQQ2, FORMAT_HQQ3, FORMAT_HQQ4};

/* Every array as long as it must be and no longer, so that the sanitizer sees one too many. */
static struct qmat matrix(enum format format, size_t rows, size_t cols)
{
    size_t n = rows * cols;
    struct qmat q = {.format = format, .block = AFFINE_GROUP, .rows = rows, .cols = cols};
    q.codes = calloc(quant_affine_bytes(format, n), 1);
    q.affine = calloc(quant_affine_groups(n), 2 * sizeof *q.affine);
    assert_true(q.codes && q.affine);
    return q;
}

static void drop(struct qmat *q)
{
    free(q->codes);
    free(q->affine);
}

static struct qmat encoded(enum format format, size_t rows, size_t cols, const float *W)
{
    struct err err;
    struct qmat q = matrix(format, rows, cols);
    if (quant_encode(&q, W, false, &err) != OK)
        fail_msg("%s: %s", format_info(format)->name, err.text);
    return q;
}

/* Plain rounding between each group's minimum and maximum, by the primitives that GPTQ and AWQ store with. */
static struct qmat rounded(enum format format, size_t rows, size_t cols, const float *W)
{
    struct qmat q = matrix(format, rows, cols);
    size_t n = rows * cols;
    for (size_t g = 0; g < quant_affine_groups(n); g++) {
        float low = W[g * 128], high = low;
        for (size_t i = g * 128; i < (g + 1) * 128 && i < n; i++) {
            low = fminf(low, W[i]);
            high = fmaxf(high, W[i]);
        }
        float scale = (high - low) / (float)((1 << quant_affine_bits(format)) - 1);
        assert_true(quant_affine_put(&q, g, scale, -low / f32_from_f16(f16_from_f32(scale))));
        quant_affine_round(&q, g, W + g * 128);
    }
    return q;
}

static float *normals(size_t n, uint32_t step, double size)
{
    struct rng rng = {.seed = 7, .stream = RNG_WORLD, .step = step};
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(size * rng_normal(&rng));
    return x;
}

/* ---- storage ---- */

static void codes_lie_as_drawn(void **state)
{
    (void)state;
    static const uint8_t want[3][4] = {{0xe4, 0xe4}, {0x88, 0xc6, 0xfa}, {0x10, 0x32, 0x54, 0x76}};
    for (int f = 0; f < 3; f++) { /* codes 0 .. 7, of two bits 0 .. 3 twice */
        unsigned top = (1u << (f + 2)) - 1;
        struct qmat q = matrix(formats[f], 1, 8), r = matrix(formats[f], 1, 8);
        float W[8];
        assert_true(quant_affine_put(&q, 0, 0.5f, 1) && quant_affine_put(&r, 0, 0.5f, 1));
        for (size_t i = 8; i-- > 0;) {
            quant_affine_set_code(&q, i, top); /* what was there goes */
            quant_affine_set_code(&q, i, (unsigned)i & top);
            W[i] = ((float)((unsigned)i & top) - 1) / 2;
        }
        assert_memory_equal(q.codes, want[f], (size_t)f + 2);
        quant_affine_round(&r, 0, W);
        assert_memory_equal(r.codes, want[f], (size_t)f + 2);
        drop(&q);
        drop(&r);
    }
    struct qmat q = encoded(FORMAT_HQQ4, 1, 1, (float[]){0});
    assert_true(quant_affine_put(&q, 0, 1, -2) && q.affine[0] == 0x3c00 && q.affine[1] == 0xc000);
    drop(&q);
}

/* Any span is what codes, scale and zero say one by one, also where rows and spans begin inside a byte and the last group is short. */
static void spans_are_what_single_codes_say(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 67, N = ROWS * COLS };
    struct rng rng = {.seed = 1, .stream = RNG_WORLD};
    for (int f = 0; f < 3; f++) {
        struct qmat q = matrix(formats[f], ROWS, COLS);
        unsigned code[N];
        for (size_t g = 0; g < quant_affine_groups(N); g++)
            assert_true(quant_affine_put(&q, g, 0.01f * (float)(g + 1), (float)rng_uniform(&rng) * 9 - 3));
        for (size_t i = 0; i < N; i++)
            quant_affine_set_code(&q, i, code[i] = rng_below(&rng, 1u << (f + 2)));
        for (size_t row = 0; row < ROWS; row++)
            for (size_t from = 0; from < COLS; from++) {
                float *out = malloc((COLS - from) * sizeof *out);
                quant_decode_span(&q, row, from, COLS - from, out);
                for (size_t c = from; c < COLS; c++) {
                    size_t i = row * COLS + c, g = i / AFFINE_GROUP;
                    double want = ((double)code[i] - (double)quant_affine_zero(&q, g)) * (double)quant_affine_scale(&q, g);
                    assert_int_equal(quant_affine_code(&q, i), code[i]);
                    assert_true(out[c - from] == (float)want); /* exact in double: rounded once */
                }
                free(out);
            }
        drop(&q);
    }
}

static void decoded_values_keep_their_codes(void **state)
{
    (void)state;
    enum { N = 3 * 131 };
    float *W = normals(N, 2, 0.02), out[N];
    for (int f = 0; f < 3; f++) {
        struct qmat q = encoded(formats[f], 3, 131, W);
        size_t bytes = quant_affine_bytes(formats[f], N);
        uint8_t *kept = malloc(bytes);
        memcpy(kept, q.codes, bytes);
        quant_decode_rows(&q, 0, 3, out);
        memset(q.codes, 0xff, bytes);
        for (size_t g = 0; g < quant_affine_groups(N); g++)
            quant_affine_round(&q, g, out + g * AFFINE_GROUP);
        assert_memory_equal(kept, q.codes, bytes);
        free(kept);
        drop(&q);
    }
    free(W);
}

/* ---- HQQ ---- */

struct reference {
    size_t n, groups;
    double top, *W, *s, *z, *best;
};

/* One iteration of the equations in quant_affine.h, as they stand there: the mean |W - Wr|, and the next z. */
static double iterate(struct reference *r)
{
    double sum = 0;
    for (size_t g = 0; g < r->groups; g++) {
        size_t first = g * 128, last = first + 128 < r->n ? first + 128 : r->n;
        double mean = 0;
        for (size_t i = first; i < last; i++) {
            double Wq = fmin(fmax(rint(r->W[i] * r->s[g] + r->z[g]), 0), r->top), Wr = (Wq - r->z[g]) / r->s[g], x = r->W[i] - Wr;
            double e = x == 0 ? 0 : copysign(fmax(fabs(x) - pow(fabs(x), 0.7 - 1) / 10, 0), x);
            sum += fabs(x);
            mean += (Wq - (r->W[i] - e) * r->s[g]) / (double)(last - first);
        }
        r->z[g] = mean;
    }
    return sum / (double)r->n;
}

static double f16(double x)
{
    return (double)f32_from_f16(f16_from_f32((float)x));
}

/* ||W - decode||_F of the reference; steps: how many iterations it took. */
static double reference_error(const float *W, size_t n, int bits, int *steps)
{
    size_t groups = (n + 127) / 128;
    double *room = calloc(n + 3 * groups, sizeof *room), best = INFINITY, error = 0;
    struct reference r = {n, groups, (1 << bits) - 1, room, room + n, room + n + groups, room + n + 2 * groups};
    for (size_t i = 0; i < n; i++)
        r.W[i] = (double)W[i];
    for (size_t g = 0; g < groups; g++) {
        double low = INFINITY, high = -INFINITY;
        for (size_t i = g * 128; i < n && i < g * 128 + 128; i++)
            low = fmin(low, r.W[i]), high = fmax(high, r.W[i]);
        r.s[g] = high - low <= 1e-4 ? 1 : fmin(r.top / (high - low), 2e4);
        r.z[g] = bits == 4 ? rint(-low * r.s[g]) : -low * r.s[g];
    }
    for (*steps = 0; *steps < 20; ++*steps) {
        double z[64];
        memcpy(z, r.z, groups * sizeof *z);
        double mean = iterate(&r);
        if (!(mean < best))
            break;
        best = mean;
        memcpy(r.best, z, groups * sizeof *z);
    }
    for (size_t i = 0; i < n; i++) {
        double scale = f16(1 / r.s[i / 128]), zero = f16(r.best[i / 128]);
        double code = fmin(fmax(rint(r.W[i] / scale + zero), 0), r.top), d = r.W[i] - (code - zero) * scale;
        error += d * d;
    }
    free(room);
    return sqrt(error);
}

/* Sizes: errors that shrink never leaves (0.02), often (2) and by far (200, and an outlier); the last group has 3 to 128 elements. */
static void hqq_is_its_equations(void **state)
{
    (void)state;
    static const struct {
        size_t rows, cols;
        double size;
    } cases[] = {{4, 128, 0.02}, {8, 172, 0.02}, {7, 131, 2}, {5, 128, 2}, {3, 300, 200}, {1, 5, 0.1}, {6, 259, 1e-3}, {4, 64, 3e-5}};
    int most = 0;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int f = 0; f < 3; f++) {
            size_t n = cases[k].rows * cases[k].cols;
            float *W = normals(n, (uint32_t)k, cases[k].size), *out = malloc(n * sizeof *out);
            double error = 0;
            int steps;
            W[n / 2] *= k % 2 ? 12 : 1;
            struct qmat q = encoded(formats[f], cases[k].rows, cases[k].cols, W);
            quant_decode_rows(&q, 0, q.rows, out);
            for (size_t i = 0; i < n; i++)
                error += ((double)W[i] - (double)out[i]) * ((double)W[i] - (double)out[i]);
            double want = reference_error(W, n, f + 2, &steps);
            most = steps > most ? steps : most;
            if (!(fabs(sqrt(error) - want) <= 1e-6 * want))
                fail_msg("%s of %zu x %zu, size %g: error %.9g, want %.9g", format_info(formats[f])->name, q.rows, q.cols, cases[k].size,
                         sqrt(error), want);
            free(W);
            free(out);
            drop(&q);
        }
    assert_true(most > 3); /* zeros did move */
}

static double norm_07(const struct qmat *q, const float *W)
{
    size_t n = q->rows * q->cols;
    float *out = malloc(n * sizeof *out);
    double sum = 0;
    quant_decode_rows(q, 0, q->rows, out);
    for (size_t i = 0; i < n; i++)
        sum += pow(fabs((double)W[i] - (double)out[i]), 0.7);
    free(out);
    return sum / (double)n;
}

/* Weights with heavy tails, as layers have them: the norm that HQQ is made to lower is below that of plain rounding. */
static void hqq_gains_over_rounding(void **state)
{
    (void)state;
    enum { ROWS = 32, COLS = 256 };
    float *W = normals(ROWS * COLS, 9, 0.02);
    for (size_t i = 0; i < ROWS * COLS; i += 61)
        W[i] *= 4;
    for (int f = 0; f < 3; f++) {
        struct qmat hqq = encoded(formats[f], ROWS, COLS, W), rtn = rounded(formats[f], ROWS, COLS, W);
        assert_true(norm_07(&hqq, W) < norm_07(&rtn, W));
        drop(&hqq);
        drop(&rtn);
    }
    free(W);
}

/* Between minimum and maximum no element is farther than half a step, the rounding of the scale over all steps and that of the zero. */
static void rounding_is_to_the_nearest(void **state)
{
    (void)state;
    enum { N = 300 };
    float *W = normals(N, 10, 0.05), out[N];
    for (int f = 0; f < 3; f++) {
        struct qmat q = rounded(formats[f], 1, N, W);
        quant_decode_rows(&q, 0, 1, out);
        for (size_t i = 0; i < N; i++) {
            double scale = (double)quant_affine_scale(&q, i / 128), zero = fabs((double)quant_affine_zero(&q, i / 128));
            double top = (1 << (f + 2)) - 1, most = scale * (0.5 + top * 0x1p-11 + zero * 0x1p-11) * (1 + 1e-6);
            assert_true(fabs((double)out[i] - (double)W[i]) <= most);
        }
        drop(&q);
    }
    free(W);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { ROWS = 160, COLS = 300 };
    float *W = normals(ROWS * COLS, 11, 1);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    struct qmat one = encoded(FORMAT_HQQ3, ROWS, COLS, W);
    omp_set_num_threads(5);
    struct qmat five = encoded(FORMAT_HQQ3, ROWS, COLS, W);
    omp_set_num_threads(threads);
    assert_memory_equal(one.codes, five.codes, quant_affine_bytes(FORMAT_HQQ3, ROWS * COLS));
    assert_memory_equal(one.affine, five.affine, quant_affine_groups(ROWS * COLS) * 4);
    drop(&one);
    drop(&five);
    free(W);
}

/* ---- groups with nothing to fit, refusals ---- */

/* A group of one value has scale 1 and finds its zero: -value, rounded to f16.  Zeros are zeros. */
static void constant_groups_are_kept(void **state)
{
    (void)state;
    float W[3 * 128] = {0}, out[3 * 128];
    for (int i = 0; i < 128; i++)
        W[i] = 0.3f, W[256 + i] = -1234.5f;
    for (int f = 0; f < 3; f++) {
        struct qmat q = encoded(formats[f], 3, 128, W);
        quant_decode_rows(&q, 0, 3, out);
        for (int i = 0; i < 3 * 128; i++)
            assert_true(fabsf(out[i] - W[i]) <= 0x1p-11f * fabsf(W[i]));
        assert_true(quant_affine_scale(&q, 1) == 1 && quant_is_finite(&q));
        q.affine[1] = 0x7c00;
        assert_false(quant_is_finite(&q));
        drop(&q);
    }
}

static void what_f16_cannot_hold_is_refused(void **state)
{
    (void)state;
    static const char text[] = "elements [1, 32] to [2, 63] are too large for hqq2: f16 cannot hold the scale or the zero point of their group";
    struct err err;
    struct qmat q = matrix(FORMAT_HQQ2, 3, 96); /* groups of 128, 128, 32 */
    float W[3 * 96] = {0};
    W[1 * 96 + 5] = NAN;
    assert_refused(quant_encode(&q, W, false, &err), ERR_FAILED, &err, "", "element [1, 5] is NaN, want a finite number");
    W[1 * 96 + 5] = 0;
    W[150] = 3 * 65520; /* its scale is 65520, which is infinite in f16 */
    for (int turn = 0; turn < 2; turn++) {
        assert_refused(quant_encode(&q, W, false, &err), ERR_FAILED, &err, "", text);
        for (int i = 128; i < 256; i++)
            W[i] = 70000; /* now the scale is 1 and the zero too large */
    }
    assert_false(quant_affine_put(&q, 0, 65520, 0) || quant_affine_put(&q, 0, 1, -65520) || quant_affine_put(&q, 0, NAN, 0));
    drop(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_lie_as_drawn),        cmocka_unit_test(spans_are_what_single_codes_say),
        cmocka_unit_test(decoded_values_keep_their_codes), cmocka_unit_test(hqq_is_its_equations),
        cmocka_unit_test(hqq_gains_over_rounding),   cmocka_unit_test(rounding_is_to_the_nearest),
        cmocka_unit_test(threads_change_no_bit),     cmocka_unit_test(constant_groups_are_kept),
        cmocka_unit_test(what_f16_cannot_hold_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
