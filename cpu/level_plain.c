/* level_plain.c: the level of every machine, in plain C: what the others must equal.  Also the level of the double build. */
#include <math.h>
#include <string.h>

#include "cpu/level_codes.h"
#include "cpu/vector.h"

enum { MR = 4, NR = 16, SPAN = 64 };

static void pack(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    for (size_t j = 0; j < k; j++) {
        for (size_t i = 0; i < m; i++)
            packed[j * width + i] = x[i * ldx + j];
        for (size_t i = m; i < width; i++)
            packed[j * width + i] = 0;
    }
}

static void pack_t(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    for (size_t j = 0; j < k; j++) {
        memcpy(packed + j * width, x + j * ldx, m * sizeof *x);
        for (size_t i = m; i < width; i++)
            packed[j * width + i] = 0;
    }
}

/* Spans of SPAN columns of each row, decoded and laid across. */
static void panel(real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    real span[SPAN];
    memset(packed, 0, k * NR * sizeof *packed);
    for (size_t j = 0; j < n; j++)
        for (size_t at = 0; at < k; at += SPAN) {
            size_t length = k - at < SPAN ? k - at : SPAN;
            quant_decode_span(W, row0 + j, k0 + at, length, span);
            for (size_t i = 0; i < length; i++)
                packed[(at + i) * NR + j] = span[i];
        }
}

static void panel_t(real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k)
{
    memset(packed, 0, k * NR * sizeof *packed);
    panel_t_spans(packed, NR, W, col0, n, row0, k, quant_decode_span);
}

static real multiply_add(real a, real b, real c)
{
#ifdef VENEER_DOUBLE
    return fma(a, b, c);
#else
    return fmaf(a, b, c);
#endif
}

static void kernel(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t m, size_t n, bool add)
{
    real sum[MR][NR] = {{0}};
    for (size_t u = 0; u < units; u++, a += m, b += NR)
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < NR; j++)
                sum[i][j] = multiply_add(a[i], b[j], sum[i][j]);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = add ? c[i * ldc + j] + sum[i][j] : sum[i][j];
}

static bool always(void)
{
    return true;
}

static const struct micro plain_f32 = {.name = "plain f32", .unit = 1, .MR = MR, .NR = NR, .pack = pack, .pack_t = pack_t, .panel = panel,
                                       .panel_t = panel_t, .kernel = kernel};

const struct level level_plain = {.name = "plain", .supported = always, .f32 = &plain_f32, .vector = &vector_plain};
