/* level_avx512_int8.c: int8.h's product by VPDPBUSD, a tile of 6 x 32: 12 registers of whole sums and 12 of scaled ones.
 *
 * A weight is an integer: int8's, int8_64's and q8_0's code, q4_0's code - 8; nf4's level times 112.03, the factor of the least mean square
 * error (3.3e-3 of the levels' rms). */
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && !defined(VENEER_DOUBLE)
#include <math.h>

#include "cpu/int8.h"
#include "cpu/level_avx512.h"

enum { MR = 6, NR = 2 * LANES, QUADS = INT8_RUN / 4, HALF = INT8_RUN / 2 };
static const float nf4_factor = 112.03f;

/* nf4 in large blocks: weights are small against the block's largest, and the levels' rounding costs more than the mode promises (1e-2). */
static bool has(const struct qmat *W)
{
    enum format f = W->format;
    size_t run = W->panels ? quant_panel_run(W) : 0;
    bool known = f == FORMAT_NF4 || f == FORMAT_INT8 || f == FORMAT_INT8_64 || f == FORMAT_Q4_0 || f == FORMAT_Q8_0;
    if (f == FORMAT_NF4 && W->block > 128)
        return false;
    return known && run > 0 && (run == HALF || run % INT8_RUN == 0 || run == W->cols);
}

/* ---- x ---- */

/* Of 64 columns (fewer: `left`): the codes; the scale and both halves' sums. */
INLINE void quantize(int8_t codes[INT8_RUN], float *scale, int32_t sum[2], const float *x, size_t left)
{
    __m512 v[4];
    __m512i largest = _mm512_setzero_si512(), half[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    UNROLL for (size_t j = 0; j < 4; j++) {
        v[j] = _mm512_maskz_loadu_ps(first(left > j * LANES ? left - j * LANES : 0), x + j * LANES);
        largest = _mm512_max_epi32(largest, as_si(_mm512_abs_ps(v[j]))); /* of magnitudes the bits are ordered alike, and NaN comes last */
    }
    float most = _mm512_cvtss_f32(as_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(largest))));
    __m512 inverse = _mm512_set1_ps(most > 0x1p-100f ? 127 / most : 0);
    *scale = most / 127;
    UNROLL for (size_t j = 0; j < 4; j++) {
        __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(v[j], inverse));
        half[j / 2] = _mm512_add_epi32(half[j / 2], code);
        _mm_storeu_si128((void *)(codes + j * LANES), _mm512_cvtsepi32_epi8(code));
    }
    sum[0] = _mm512_reduce_add_epi32(half[0]);
    sum[1] = _mm512_reduce_add_epi32(half[1]);
}

static void pack(int32_t *packed, const real *x, size_t ldx, size_t m, size_t k)
{
    for (size_t at = 0; at < k; at += INT8_RUN, packed += INT8_A * m)
        for (size_t i = 0; i < m; i++) {
            int8_t codes[INT8_RUN];
            int32_t sum[2];
            float scale;
            quantize(codes, &scale, sum, x + i * ldx + at, k - at);
            __builtin_memcpy(packed + i, &scale, sizeof scale);
            packed[m + i] = -128 * (sum[0] + sum[1]);
            packed[2 * m + i] = -128 * sum[0];
            packed[3 * m + i] = -128 * sum[1];
            UNROLL for (size_t q = 0; q < QUADS; q++)
                __builtin_memcpy(packed + (4 + q) * m + i, codes + 4 * q, 4);
        }
}

/* ---- W ---- */

/* Sixteen unsigned weights for the low four bits of a byte, four times over. */
static __m512i weights_of(enum format format)
{
    uint8_t weight[64];
    for (int i = 0; i < 64; i++)
        weight[i] = (uint8_t)(128 + (format == FORMAT_NF4 ? (int)lrintf(nf4_factor * quant_nf4_table[i % 16]) : i % 16 - 8));
    return _mm512_loadu_si512(weight);
}

/* 8 columns of 16 rows.  A dword's low nibbles are columns 0 4 1 5, its high ones 2 6 3 7. */
INLINE void unpack_nibbles(int32_t *to, const uint8_t *codes, __m512i weights, const __m512i join[2])
{
    __m512i both = _mm512_loadu_si512(codes), low = _mm512_permutexvar_epi8(both, weights);
    __m512i high = _mm512_permutexvar_epi8(_mm512_srli_epi16(both, 4), weights);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi8(low, join[0], high));
    _mm512_storeu_si512(to + NR, _mm512_permutex2var_epi8(low, join[1], high));
}

/* Columns [0, columns) of a run of 16 rows, zeros up to 64 (times x's zeros). */
INLINE void unpack_run(int32_t *to, const uint8_t *codes, enum kind kind, size_t columns, __m512i weights, const __m512i join[2])
{
    for (size_t g = 0; g < INT8_RUN / GROUP; g++, to += 2 * NR, codes += group_bytes(kind)) {
        if (g * GROUP >= columns) {
            _mm512_storeu_si512(to, _mm512_setzero_si512());
            _mm512_storeu_si512(to + NR, _mm512_setzero_si512());
        } else if (kind == NIBBLES) {
            unpack_nibbles(to, codes, weights, join);
        } else {
            _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(-128)));
            _mm512_storeu_si512(to + NR, _mm512_xor_si512(_mm512_loadu_si512(codes + 64), _mm512_set1_epi8(-128)));
        }
    }
}

INLINE void panel_of(enum kind kind, int32_t *packed, const struct qmat *W, size_t p, size_t k0, size_t k)
{
    const __m512i weights = weights_of(W->format);
    const __m512 factor = _mm512_set1_ps(W->format == FORMAT_NF4 ? 1 / nf4_factor : W->format == FORMAT_INT8 ? 0.007874015718698502f : 1);
    const bool halves = quant_panel_run(W) < INT8_RUN;
    const struct scale_map map = scale_map_of(W);
    __m512i join[2];
    for (int j = 0; j < 2; j++)
        join[j] = _mm512_add_epi32(_mm512_set1_epi32(j == 0 ? 0x42400200 : 0x43410301), /* bytes 0 2 | 0 2 of the other, 1 3 | 1 3 */
                                   _mm512_mullo_epi32(_mm512_set1_epi32(0x04040404), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    for (size_t at = 0; at < k; at += INT8_RUN, packed += INT8_B * NR) {
        __m512 scale = _mm512_mul_ps(scales_at(&map, p, k0 + at).scale, factor);
        _mm512_storeu_ps(packed, scale);
        if (halves && at + HALF < k)
            scale = _mm512_mul_ps(scales_at(&map, p, k0 + at + HALF).scale, factor);
        _mm512_storeu_ps(packed + NR, scale);
        unpack_run(packed + 2 * NR, codes_at(W, kind, p, k0 + at), kind, k - at, weights, join);
    }
}

static void panel(int32_t *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    for (size_t h = 0; h < NR; h += LANES)
        if (h >= n)
            for (size_t i = 0; i < int8_runs(k) * INT8_B; i++)
                _mm512_storeu_si512(packed + i * NR + h, _mm512_setzero_si512());
        else if (kind_of(W->format) == NIBBLES)
            panel_of(NIBBLES, packed + h, W, (row0 + h) / LANES, k0, k);
        else
            panel_of(BYTES, packed + h, W, (row0 + h) / LANES, k0, k);
}

/* ---- the tile ---- */

/* sum[i] = correction[i] + `quads` quadruples of row i times both panels. */
INLINE void sum_quads(const size_t m, size_t quads, const int32_t *correction, const int32_t *a, const int32_t *b, __m512i sum[MR][2])
{
    UNROLL for (size_t i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = _mm512_set1_epi32(correction[i]);
    for (size_t q = 0; q < quads; q++, a += m, b += NR) {
        __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + LANES);
        UNROLL for (size_t i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32(a[i]);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], left, x);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], right, x);
        }
    }
}

/* total += x's scale times the weights' times the sum. */
INLINE void add_scaled(const size_t m, const int32_t *a, const int32_t *scales, __m512i sum[MR][2], __m512 total[MR][2])
{
    UNROLL for (size_t p = 0; p < 2; p++) {
        __m512 scale = _mm512_loadu_ps(scales + p * LANES);
        UNROLL for (size_t i = 0; i < m; i++) {
            __m512 both = _mm512_mul_ps(scale, as_ps(_mm512_set1_epi32(a[i])));
            total[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][p]), both, total[i][p]);
        }
    }
}

INLINE void tile(const size_t m, const bool halves, size_t runs, const int32_t *a, const int32_t *b, real *c, size_t ldc, size_t n, bool add)
{
    __m512 total[MR][2];
    UNROLL for (size_t i = 0; i < m; i++)
        total[i][0] = total[i][1] = _mm512_setzero_ps();
    for (size_t run = 0; run < runs; run++, a += INT8_A * m, b += INT8_B * NR) {
        __m512i sum[MR][2];
        sum_quads(m, halves ? QUADS / 2 : QUADS, a + (halves ? 2 : 1) * m, a + 4 * m, b + 2 * NR, sum);
        add_scaled(m, a, b, sum, total);
        if (halves) {
            sum_quads(m, QUADS / 2, a + 3 * m, a + (4 + QUADS / 2) * m, b + (2 + QUADS / 2) * NR, sum);
            add_scaled(m, a, b + NR, sum, total);
        }
    }
    UNROLL for (size_t i = 0; i < m; i++)
        UNROLL for (size_t p = 0; p < 2; p++)
            if (p * LANES < n) {
                real *to = c + i * ldc + p * LANES;
                _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), total[i][p]) : total[i][p]);
            }
}

#define ROWS(m)                                                                                                                                \
    static void tile_##m(size_t runs, const int32_t *a, const int32_t *b, real *c, size_t ldc, size_t n, bool halves, bool add)                \
    {                                                                                                                                          \
        if (halves)                                                                                                                            \
            tile(m, true, runs, a, b, c, ldc, n, add);                                                                                         \
        else                                                                                                                                   \
            tile(m, false, runs, a, b, c, ldc, n, add);                                                                                        \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)

static void kernel(size_t runs, const int32_t *a, const int32_t *b, real *c, size_t ldc, size_t m, size_t n, bool halves, bool add)
{
    static void (*const tiles[MR])(size_t, const int32_t *, const int32_t *, real *, size_t, size_t, bool, bool) = {tile_1, tile_2, tile_3,
                                                                                                                     tile_4, tile_5, tile_6};
    if (m > 0)
        tiles[m - 1](runs, a, b, c, ldc, n, halves, add);
}

const struct int8_product int8_avx512 = {.MR = MR, .NR = NR, .has = has, .pack = pack, .panel = panel, .kernel = kernel};
#else
typedef int level_avx512_int8_is_for_x86; /* ISO C wants a declaration in every file */
#endif
