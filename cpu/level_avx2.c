/* level_avx2.c: the level of CPUs with AVX2 and FMA, in single precision: packing, unpacking of frozen weights, the micro-kernel.
 * Products with few rows are in level_avx2_few.c, and level_avx2_words.c.
 *
 * A tile of C is 6 x 16: twelve of the sixteen registers hold it, two a row of B, one an element of A: 12 FMA for 8 loads. */
#include "cpu/level.h"

#if defined(__x86_64__) && !defined(VENEER_DOUBLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <cpuid.h>
#include <string.h>

#include "base/size.h"
#include "cpu/level_avx2.h"
#include "cpu/vector.h"

enum { MR = 6, NR = PANEL_ROWS, SPAN = 64, PANELS_AHEAD = 6 };

/* ---- packing ---- */

AVX2_INLINE void transpose(__m256 r[8])
{
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* The first n of eight floats; all eight where the caller says that there is room (the next store overwrites the rest). */
AVX2_INLINE void put(float *to, __m256 v, size_t n, bool room)
{
    if (n == 8 || room) {
        _mm256_storeu_ps(to, v);
        return;
    }
    float all[8];
    _mm256_storeu_ps(all, v);
    memcpy(to, all, n * sizeof *to);
}

/* Rows r0 .. r0+7 of the panel (those from m on are zeros), all k. */
static void pack_rows(float *packed, size_t width, const float *x, size_t ldx, size_t r0, size_t m, size_t k)
{
    size_t some = size_min(8, width - r0), rows = m > r0 ? size_min(8, m - r0) : 0, j = 0;
    for (; j + 8 <= k; j += 8) {
        __m256 r[8];
        for (size_t i = 0; i < 8; i++)
            r[i] = i < rows ? _mm256_loadu_ps(x + (r0 + i) * ldx + j) : _mm256_setzero_ps();
        transpose(r);
        for (size_t i = 0; i < 8; i++)
            put(packed + (j + i) * width + r0, r[i], some, width <= 8 && (j + i) * width + 8 <= k * width);
    }
    for (; j < k; j++)
        for (size_t i = 0; i < some; i++)
            packed[j * width + r0 + i] = i < rows ? x[(r0 + i) * ldx + j] : 0;
}

static void pack(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    for (size_t r0 = 0; r0 < width; r0 += 8)
        pack_rows(packed, width, x, ldx, r0, m, k);
}

/* Rows of 16, or of a narrow panel: eight are read and written while there are eight, and the next row puts right what is too much. */
static void pack_t(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    size_t j = 0, whole = (k - 1) * ldx + m;
    if (m == NR && width == NR)
        for (; j < k; j++) {
            _mm256_storeu_ps(packed + j * NR, _mm256_loadu_ps(x + j * ldx));
            _mm256_storeu_ps(packed + j * NR + 8, _mm256_loadu_ps(x + j * ldx + 8));
        }
    if (m == width && width <= 8)
        for (; j < k && j * ldx + 8 <= whole && j * width + 8 <= k * width; j++)
            _mm256_storeu_ps(packed + j * width, _mm256_loadu_ps(x + j * ldx));
    for (; j < k; j++) {
        memcpy(packed + j * width, x + j * ldx, m * sizeof *x);
        memset(packed + j * width + m, 0, (width - m) * sizeof *x);
    }
}

/* ---- panels of W ---- */

/* value * scale + minimum, in the operations of quant.c; int8: (code * absmax) / 127 as it computes it. */
AVX2_INLINE __m256 weight(enum code_kind kind, bool is_int8, __m256 value, __m256 scale, __m256 minimum)
{
    __m256 w = _mm256_mul_ps(value, scale);
    if (is_int8)
        w = _mm256_mul_ps(w, _mm256_set1_ps(0.007874015718698502f));
    return kind == CODE4 || kind == CENTRED4 || kind == LIFTED8 ? _mm256_add_ps(w, minimum) : w;
}

/* Columns [k, end) of panel p, whole groups, run after run. */
AVX2_INLINE void unpack_columns(enum code_kind kind, bool is_int8, float *to, const struct qmat *W, size_t p, size_t k, size_t end)
{
    struct avx2_book book = avx2_open_book(W);
    const struct scale_map map = scale_map_of(W);
    struct avx2_runs runs = avx2_first_run(&map, p, k);
    int group = (int)code_group(kind);
    const uint32_t *codes = codes_of(kind, W, p, k);
    for (; k < end; avx2_next_run(&runs)) {
        struct avx2_scales s;
        avx2_scales_of(&runs, &s);
        for (size_t stop = size_min(runs.end, end); k < stop; k += (size_t)group, codes += PANEL_ROWS, to += group * NR)
            for (int h = 0; h < 2; h++) {
                __m256i words = avx2_words(codes + 8 * h);
#pragma GCC unroll 8
                for (int j = 0; j < group; j++)
                    _mm256_storeu_ps(to + j * NR + 8 * h,
                                     weight(kind, is_int8, avx2_values(kind, &book, words, j), s.scale[h], s.minimum[h]));
            }
    }
}

static void unpack(float *to, const struct qmat *W, size_t p, size_t k, size_t end)
{
    switch (code_kind_of(W)) {
    case BOOK4: unpack_columns(BOOK4, false, to, W, p, k, end); break;
    case CODE4: unpack_columns(CODE4, false, to, W, p, k, end); break;
    case CENTRED4: unpack_columns(CENTRED4, false, to, W, p, k, end); break;
    case BOOK8: unpack_columns(BOOK8, false, to, W, p, k, end); break;
    case LIFTED8: unpack_columns(LIFTED8, false, to, W, p, k, end); break;
    default:
        if (W->format == FORMAT_INT8)
            unpack_columns(CODE8, true, to, W, p, k, end);
        else
            unpack_columns(CODE8, false, to, W, p, k, end);
    }
}

/* A last group that k cuts goes by a copy. */
static void panel_of_panels(float *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    size_t end = k0 + k, whole = end / 8 * 8;
    unpack(packed, W, row0 / PANEL_ROWS, k0, whole);
    if (end > whole) {
        float group[8 * NR];
        unpack(group, W, row0 / PANEL_ROWS, whole, whole + 8);
        memcpy(packed + (whole - k0) * NR, group, (end - whole) * NR * sizeof *packed);
    }
    for (size_t i = 0; n < NR && i < k; i++)
        memset(packed + i * NR + n, 0, (NR - n) * sizeof *packed);
}

static void span_bf16(const uint16_t *from, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(from + i)));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    for (; i < n; i++)
        out[i] = f32_from_bf16(from[i]);
}

static void span_f16(const uint16_t *from, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from + i))));
    for (; i < n; i++)
        out[i] = f32_from_f16(from[i]);
}

static void span(const struct qmat *W, size_t row, size_t col0, size_t n, float *out)
{
    const uint16_t *halves = W->codes;
    if (W->format == FORMAT_BF16)
        span_bf16(halves + row * W->cols + col0, n, out);
    else if (W->format == FORMAT_F16)
        span_f16(halves + row * W->cols + col0, n, out);
    else
        quant_decode_span(W, row, col0, n, out);
}

static void panel(real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    float rows[NR * SPAN];
    if (W->format == FORMAT_F32) {
        pack(packed, NR, (const float *)W->codes + row0 * W->cols + k0, W->cols, n, k);
        return;
    }
    if (W->panels && row0 % PANEL_ROWS == 0 && k0 % 8 == 0) {
        panel_of_panels(packed, W, row0, n, k0, k);
        return;
    }
    for (size_t at = 0; at < k; at += SPAN) {
        size_t length = size_min(SPAN, k - at);
        for (size_t j = 0; j < n; j++)
            span(W, row0 + j, k0 + at, length, rows + j * SPAN);
        pack(packed + at * NR, NR, rows, SPAN, n, length);
    }
}

/* Eight columns of one row: `codes` points at its dword (nibbles), at two of them 16 apart (bytes). */
AVX2_INLINE __m256 row_values(enum code_kind kind, const struct avx2_book *book, const uint32_t *codes)
{
    if (code_is_nibbles(kind)) {
        const __m256i shifts = _mm256_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28);
        return avx2_low_values(kind, book, _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)*codes), shifts));
    }
    __m128i bytes = _mm_insert_epi32(_mm_cvtsi32_si128((int32_t)codes[0]), (int32_t)codes[PANEL_ROWS], 1);
    if (kind == BOOK8)
        return _mm256_i32gather_ps(book->wide, _mm256_cvtepu8_epi32(bytes), 4);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

/* Columns col0 .. col0+7 of rows row0 .. row0+k-1 into to[k][NR].  From one panel to the next is a row of 16: no hardware asks so far ahead. */
AVX2_INLINE void unpack_rows(enum code_kind kind, bool is_int8, float *to, const struct qmat *W, size_t col0, size_t row0, size_t k)
{
    struct avx2_book book = avx2_open_book(W);
    const struct scale_map map = scale_map_of(W);
    float scale[PANEL_ROWS], minimum[PANEL_ROWS];
    for (size_t row = row0, end = row0 + k; row < end;) {
        size_t p = row / PANEL_ROWS, stop = size_min((p + 1) * PANEL_ROWS, end);
        const uint32_t *codes = codes_of(kind, W, p, col0);
        _mm_prefetch((const char *)codes_of(kind, W, p + PANELS_AHEAD, col0), _MM_HINT_T0);
        if (!code_is_nibbles(kind))
            _mm_prefetch((const char *)codes_of(kind, W, p + PANELS_AHEAD, col0 + 4), _MM_HINT_T0);
        struct avx2_runs runs = avx2_first_run(&map, p, col0);
        struct avx2_scales s;
        avx2_scales_of(&runs, &s);
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(scale + 8 * h, s.scale[h]);
            _mm256_storeu_ps(minimum + 8 * h, s.minimum[h]);
        }
        for (; row < stop; row++, to += NR) {
            size_t r = row % PANEL_ROWS;
            __m256 value = row_values(kind, &book, codes + r);
            _mm256_storeu_ps(to, weight(kind, is_int8, value, _mm256_set1_ps(scale[r]), _mm256_set1_ps(minimum[r])));
        }
    }
}

static void unpack_t(float *to, const struct qmat *W, size_t col0, size_t row0, size_t k)
{
    switch (code_kind_of(W)) {
    case BOOK4: unpack_rows(BOOK4, false, to, W, col0, row0, k); break;
    case CODE4: unpack_rows(CODE4, false, to, W, col0, row0, k); break;
    case CENTRED4: unpack_rows(CENTRED4, false, to, W, col0, row0, k); break;
    case BOOK8: unpack_rows(BOOK8, false, to, W, col0, row0, k); break;
    case LIFTED8: unpack_rows(LIFTED8, false, to, W, col0, row0, k); break;
    default:
        if (W->format == FORMAT_INT8)
            unpack_rows(CODE8, true, to, W, col0, row0, k);
        else
            unpack_rows(CODE8, false, to, W, col0, row0, k);
    }
}

static void panel_t(real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k)
{
    if (W->format == FORMAT_F32) {
        pack_t(packed, NR, (const float *)W->codes + row0 * W->cols + col0, W->cols, n, k);
        return;
    }
    if (W->panels && col0 % 8 == 0)
        for (size_t j = 0; j < n; j += 8)
            unpack_t(packed + j, W, col0 + j, row0, k);
    else
        panel_t_spans(packed, NR, W, col0, n, row0, k, span);
    for (size_t i = 0; n < NR && i < k; i++)
        memset(packed + i * NR + n, 0, (NR - n) * sizeof *packed);
}

/* ---- the micro-kernel ---- */

AVX2_INLINE void add_to(float *c, __m256 sum, bool add)
{
    _mm256_storeu_ps(c, add ? _mm256_add_ps(_mm256_loadu_ps(c), sum) : sum);
}

/* m is a constant where this is called: the tile stays in registers. */
AVX2_INLINE void multiply(int m, size_t units, const float *a, const float *b, float *c, size_t ldc, bool add)
{
    __m256 sum[MR][2];
#pragma GCC unroll 6
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    for (size_t u = 0; u < units; u++, a += m, b += NR) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
        for (int i = 0; i < m; i++) {
            __m256 ai = _mm256_broadcast_ss(a + i);
            sum[i][0] = _mm256_fmadd_ps(ai, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(ai, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < m; i++, c += ldc) {
        add_to(c, sum[i][0], add);
        add_to(c + 8, sum[i][1], add);
    }
}

static void multiply_rows(size_t units, const float *a, const float *b, float *c, size_t ldc, size_t m, bool add)
{
    switch (m) {
    case 1: multiply(1, units, a, b, c, ldc, add); break;
    case 2: multiply(2, units, a, b, c, ldc, add); break;
    case 3: multiply(3, units, a, b, c, ldc, add); break;
    case 4: multiply(4, units, a, b, c, ldc, add); break;
    case 5: multiply(5, units, a, b, c, ldc, add); break;
    default: multiply(6, units, a, b, c, ldc, add);
    }
}

/* A tile cut on the right is finished beside C: a store under a mask costs AMD's CPUs dozens of cycles. */
static void kernel(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t m, size_t n, bool add)
{
    if (n == NR) {
        multiply_rows(units, a, b, c, ldc, m, add);
        return;
    }
    float tile[MR * NR];
    multiply_rows(units, a, b, tile, NR, m, false);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = add ? c[i * ldc + j] + tile[i * NR + j] : tile[i * NR + j];
}

/* clang before 17 does not know the name for __builtin_cpu_supports. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && has_f16c();
}

static const struct micro avx2_f32 = {.name = "avx2 f32", .unit = 1, .MR = MR, .NR = NR, .pack = pack, .pack_t = pack_t, .panel = panel,
                                      .panel_t = panel_t, .kernel = kernel, .few = avx2_few};

/* Products of many rows are those of avx2_f32: more exact than bf16, and there is nothing faster. */
static const struct micro avx2_i16 = {.name = "avx2 i16", .unit = 1, .MR = MR, .NR = NR, .fixed = true, .pack = pack, .pack_t = pack_t, .panel = panel,
                                      .panel_t = panel_t, .kernel = kernel, .few = avx2_few_words};

const struct level level_avx2 = {.name = "avx2", .supported = supported, .f32 = &avx2_f32, .bf16 = &avx2_i16, .vector = &vector_avx2};
#endif
