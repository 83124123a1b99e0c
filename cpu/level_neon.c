/* level_neon.c: the level of 64-bit ARM, in single precision.  Every such CPU has what it needs.
 *
 * A tile of C is 6 x 16: 24 of the 32 registers hold it, four a row of B, two six elements of A, which FMLA takes by lane.  The 16 levels of a 4-bit
 * format are 64 bytes in four registers: TBL looks up the four bytes of a float at 4 code + 0 .. 3. */
#include "cpu/level_codes.h"

#if defined(__aarch64__) && !defined(VENEER_DOUBLE)
#include <arm_neon.h>
#include <string.h>

#include "base/size.h"
#include "cpu/vector.h"

#define NEON_INLINE static inline __attribute__((always_inline))

enum { MR = 6, NR = PANEL_ROWS, SPAN = 64, QUADS = NR / 4 };

/* ---- packing ---- */

/* Four rows ldx apart, four columns, turned into rows of width `width`. */
NEON_INLINE void transpose4(float *to, size_t width, const float *x, size_t ldx)
{
    float32x4_t a = vld1q_f32(x), b = vld1q_f32(x + ldx), c = vld1q_f32(x + 2 * ldx), d = vld1q_f32(x + 3 * ldx);
    float32x4_t ab0 = vtrn1q_f32(a, b), ab1 = vtrn2q_f32(a, b), cd0 = vtrn1q_f32(c, d), cd1 = vtrn2q_f32(c, d);
    vst1q_f32(to, vcombine_f32(vget_low_f32(ab0), vget_low_f32(cd0)));
    vst1q_f32(to + width, vcombine_f32(vget_low_f32(ab1), vget_low_f32(cd1)));
    vst1q_f32(to + 2 * width, vcombine_f32(vget_high_f32(ab0), vget_high_f32(cd0)));
    vst1q_f32(to + 3 * width, vcombine_f32(vget_high_f32(ab1), vget_high_f32(cd1)));
}

static void pack(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    size_t rows = m / 4 * 4, columns = k / 4 * 4;
    for (size_t j = 0; j < columns; j += 4)
        for (size_t i = 0; i < rows; i += 4)
            transpose4(packed + j * width + i, width, x + i * ldx + j, ldx);
    for (size_t j = 0; j < k; j++)
        for (size_t i = j < columns ? rows : 0; i < width; i++)
            packed[j * width + i] = i < m ? x[i * ldx + j] : 0;
}

static void pack_t(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    for (size_t j = 0; j < k; j++) {
        memcpy(packed + j * width, x + j * ldx, m * sizeof *x);
        memset(packed + j * width + m, 0, (width - m) * sizeof *x);
    }
}

/* ---- codes ---- */

struct book {
    uint8x16x4_t levels; /* 16 floats */
    const float *wide;   /* 256 */
};

static struct book open_book(const struct qmat *W)
{
    const uint8_t *bytes = (const uint8_t *)(const void *)code_levels(W->format);
    struct book book = {.wide = W->format == FORMAT_NF8 ? quant_nf8_table() : NULL};
    for (int i = 0; i < 4; i++)
        book.levels.val[i] = vld1q_u8(bytes + 16 * i);
    return book;
}

/* Values, before their scale, of codes in the low bits of dwords (others may stand above them). */
NEON_INLINE float32x4_t values_of(enum code_kind kind, const struct book *book, uint32x4_t codes)
{
    uint32x4_t nibble = vandq_u32(codes, vdupq_n_u32(15));
    if (kind == BOOK4) {
        uint32x4_t at = vmlaq_n_u32(vdupq_n_u32(0x03020100u), nibble, 0x04040404u);
        return vreinterpretq_f32_u8(vqtbl4q_u8(book->levels, vreinterpretq_u8_u32(at)));
    }
    if (kind == CODE4)
        return vcvtq_f32_u32(nibble);
    if (kind == CENTRED4)
        return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(nibble), vdupq_n_s32(8)));
    if (kind == CODE8 || kind == LIFTED8)
        return vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(vreinterpretq_s32_u32(codes), 24), 24));
    uint32_t index[4];
    vst1q_u32(index, vandq_u32(codes, vdupq_n_u32(255)));
    float wide[4];
    for (int i = 0; i < 4; i++)
        wide[i] = book->wide[index[i]];
    return vld1q_f32(wide);
}

/* Values of column j of the group whose four dwords of rows are in `words`. */
NEON_INLINE float32x4_t column_values(enum code_kind kind, const struct book *book, uint32x4_t words, int j)
{
    return values_of(kind, book, vshlq_u32(words, vdupq_n_s32(-code_shift(kind, j))));
}

/* ---- panels of W ---- */

struct scales {
    float scale[PANEL_ROWS], minimum[PANEL_ROWS];
};

/* quant_panel_scales; int8's stays absmax, for its 1/127 is multiplied after the code. */
static void scales_of(const struct qmat *W, size_t p, size_t k, struct scales *s)
{
    quant_panel_scales(W, p, k, s->scale, s->minimum);
    if (W->format == FORMAT_INT8)
        memcpy(s->scale, W->scales + p * PANEL_ROWS, sizeof s->scale);
}

/* value * scale + minimum in the operations of quant.c. */
NEON_INLINE float32x4_t weight(enum code_kind kind, bool is_int8, float32x4_t value, float32x4_t scale, float32x4_t minimum)
{
    float32x4_t w = vmulq_f32(value, scale);
    if (is_int8)
        w = vmulq_n_f32(w, 0.007874015718698502f);
    return kind == CODE4 || kind == CENTRED4 || kind == LIFTED8 ? vaddq_f32(w, minimum) : w;
}

/* Columns [k, end) of panel p, which share their scales; whole groups. */
NEON_INLINE void unpack_run(enum code_kind kind, bool is_int8, float *to, const struct qmat *W, size_t p, size_t k, size_t end)
{
    struct book book = open_book(W);
    struct scales s;
    scales_of(W, p, k, &s);
    size_t group = code_group(kind);
    const uint32_t *codes = codes_of(kind, W, p, k);
    for (; k < end; k += group, codes += PANEL_ROWS, to += group * NR)
        for (int q = 0; q < QUADS; q++) {
            uint32x4_t words = vld1q_u32(codes + 4 * q);
            float32x4_t scale = vld1q_f32(s.scale + 4 * q), minimum = vld1q_f32(s.minimum + 4 * q);
#pragma GCC unroll 8
            for (int j = 0; j < (int)group; j++)
                vst1q_f32(to + j * NR + 4 * q, weight(kind, is_int8, column_values(kind, &book, words, j), scale, minimum));
        }
}

static void unpack(float *to, const struct qmat *W, size_t p, size_t k, size_t end)
{
    switch (code_kind_of(W)) {
    case BOOK4: unpack_run(BOOK4, false, to, W, p, k, end); break;
    case CODE4: unpack_run(CODE4, false, to, W, p, k, end); break;
    case CENTRED4: unpack_run(CENTRED4, false, to, W, p, k, end); break;
    case BOOK8: unpack_run(BOOK8, false, to, W, p, k, end); break;
    case LIFTED8: unpack_run(LIFTED8, false, to, W, p, k, end); break;
    default:
        if (W->format == FORMAT_INT8)
            unpack_run(CODE8, true, to, W, p, k, end);
        else
            unpack_run(CODE8, false, to, W, p, k, end);
    }
}

/* Run after run; a last group that k cuts goes by a copy. */
static void panel_of_panels(float *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    size_t run = quant_panel_run(W), end = k0 + k, whole = end / 8 * 8;
    for (size_t at = k0; at < whole;) {
        size_t stop = size_min((at / run + 1) * run, whole);
        unpack(packed + (at - k0) * NR, W, row0 / PANEL_ROWS, at, stop);
        at = stop;
    }
    if (end > whole) {
        float group[8 * NR];
        unpack(group, W, row0 / PANEL_ROWS, whole, whole + 8);
        memcpy(packed + (whole - k0) * NR, group, (end - whole) * NR * sizeof *packed);
    }
    for (size_t i = 0; n < NR && i < k; i++)
        memset(packed + i * NR + n, 0, (NR - n) * sizeof *packed);
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
            quant_decode_span(W, row0 + j, k0 + at, length, rows + j * SPAN);
        pack(packed + at * NR, NR, rows, SPAN, n, length);
    }
}

/* Columns 4 half .. 4 half + 3 of the eight from a group's first on, of one row; `codes` points at the row's dword. */
NEON_INLINE float32x4_t row_values(enum code_kind kind, const struct book *book, const uint32_t *codes, int half)
{
    static const int32_t nibbles[2][4] = {{0, -16, -4, -20}, {-8, -24, -12, -28}}, bytes[4] = {0, -8, -16, -24};
    uint32_t word = code_is_nibbles(kind) ? codes[0] : codes[half * PANEL_ROWS];
    int32x4_t shift = vld1q_s32(code_is_nibbles(kind) ? nibbles[half] : bytes);
    return values_of(kind, book, vshlq_u32(vdupq_n_u32(word), shift));
}

/* Columns col0 .. col0+7 of rows row0 .. row0+k-1 into to[k][NR]. */
NEON_INLINE void unpack_rows(enum code_kind kind, bool is_int8, float *to, const struct qmat *W, size_t col0, size_t row0, size_t k)
{
    struct book book = open_book(W);
    for (size_t row = row0, end = row0 + k; row < end;) {
        size_t p = row / PANEL_ROWS, stop = size_min((p + 1) * PANEL_ROWS, end);
        const uint32_t *codes = codes_of(kind, W, p, col0);
        struct scales s;
        scales_of(W, p, col0, &s);
        for (; row < stop; row++, to += NR) {
            size_t r = row % PANEL_ROWS;
            float32x4_t scale = vdupq_n_f32(s.scale[r]), minimum = vdupq_n_f32(s.minimum[r]);
            for (int half = 0; half < 2; half++)
                vst1q_f32(to + 4 * half, weight(kind, is_int8, row_values(kind, &book, codes + r, half), scale, minimum));
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
        panel_t_spans(packed, NR, W, col0, n, row0, k, quant_decode_span);
    for (size_t i = 0; n < NR && i < k; i++)
        memset(packed + i * NR + n, 0, (NR - n) * sizeof *packed);
}

/* ---- the micro-kernel ---- */

/* m is a constant where this is called, and every loop over the tile is unrolled: it stays in registers. */
NEON_INLINE void multiply(int m, size_t units, const float *a, const float *b, float *c, size_t ldc, bool add)
{
    float32x4_t sum[MR][QUADS];
#pragma GCC unroll 6
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++)
            sum[i][q] = vdupq_n_f32(0);
    for (size_t u = 0; u < units; u++, a += m, b += NR) {
        float32x4_t row[QUADS];
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++)
            row[q] = vld1q_f32(b + 4 * q);
#pragma GCC unroll 6
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int q = 0; q < QUADS; q++)
                sum[i][q] = vfmaq_n_f32(sum[i][q], row[q], a[i]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < m; i++, c += ldc)
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++)
            vst1q_f32(c + 4 * q, add ? vaddq_f32(vld1q_f32(c + 4 * q), sum[i][q]) : sum[i][q]);
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

/* A tile cut on the right is finished beside C. */
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

/* ---- few rows ---- */

/* Values of at most SPAN columns, before scales: [columns][16]. */
NEON_INLINE void unpack_values(enum code_kind kind, const struct book *book, const uint32_t *codes, size_t columns, float *to)
{
    size_t group = code_group(kind);
    for (size_t k = 0; k < columns; k += group, codes += PANEL_ROWS, to += group * NR)
        for (int q = 0; q < QUADS; q++) {
            uint32x4_t words = vld1q_u32(codes + 4 * q);
#pragma GCC unroll 8
            for (int j = 0; j < (int)group; j++)
                vst1q_f32(to + j * NR + 4 * q, column_values(kind, book, words, j));
        }
}

static void values_of_piece(const struct qmat *W, const struct book *book, size_t p, size_t k, size_t columns, float *to)
{
    switch (code_kind_of(W)) {
    case BOOK4: unpack_values(BOOK4, book, codes_of(BOOK4, W, p, k), columns, to); break;
    case CODE4: unpack_values(CODE4, book, codes_of(CODE4, W, p, k), columns, to); break;
    case CENTRED4: unpack_values(CENTRED4, book, codes_of(CENTRED4, W, p, k), columns, to); break;
    case BOOK8: unpack_values(BOOK8, book, codes_of(BOOK8, W, p, k), columns, to); break;
    default: unpack_values(CODE8, book, codes_of(CODE8, W, p, k), columns, to);
    }
}

/* total[16] += scale * (piece x) + minimum * (sum of x); x is a column of the A panel, m apart.  Two chains a row, even and odd columns. */
static void add_piece(const float *value, size_t columns, const float *x, size_t m, const float *scale, const float *minimum, float *total)
{
    float32x4_t sum[2][QUADS], sum_x = vdupq_n_f32(0);
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q++)
        sum[0][q] = sum[1][q] = vdupq_n_f32(0);
    for (size_t k = 0; k < columns; k += 2, value += 2 * NR, x += 2 * m) {
        float32x4_t even = vdupq_n_f32(x[0]), odd = vdupq_n_f32(x[m]);
        sum_x = vaddq_f32(vaddq_f32(sum_x, even), odd);
#pragma GCC unroll 4
        for (int q = 0; q < QUADS; q++) {
            sum[0][q] = vfmaq_f32(sum[0][q], vld1q_f32(value + 4 * q), even);
            sum[1][q] = vfmaq_f32(sum[1][q], vld1q_f32(value + NR + 4 * q), odd);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q++) {
        float32x4_t t = vfmaq_f32(vld1q_f32(total + 4 * q), vaddq_f32(sum[0][q], sum[1][q]), vld1q_f32(scale + 4 * q));
        vst1q_f32(total + 4 * q, vfmaq_f32(t, sum_x, vld1q_f32(minimum + 4 * q)));
    }
}

/* Pieces of at most SPAN columns, unpacked once into the first cache for all rows of x. */
static void few_panel(const struct qmat *W, const struct book *book, size_t p, const float *x, size_t m, float (*total)[PANEL_ROWS])
{
    size_t run = quant_panel_run(W), columns;
    for (size_t begin = 0; begin < W->cols; begin += run) {
        float scale[PANEL_ROWS], minimum[PANEL_ROWS], value[SPAN * NR];
        quant_panel_scales(W, p, begin, scale, minimum);
        for (size_t k = begin; k < begin + run; k += columns) {
            columns = size_min(SPAN, begin + run - k);
            values_of_piece(W, book, p, k, columns, value);
            for (size_t i = 0; i < m; i++)
                add_piece(value, columns, x + k * m + i, m, scale, minimum, total[i]);
        }
    }
}

static bool few(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon)
{
    (void)soon;
    if (!W->panels)
        return false;
    struct book book = open_book(W);
    for (size_t o = 0; o < n; o += PANEL_ROWS) {
        float total[FEW_MOST][PANEL_ROWS] = {{0}};
        few_panel(W, &book, (row0 + o) / PANEL_ROWS, x, m, total);
        for (size_t i = 0; i < m; i++)
            memcpy(y + i * ldy + o, total[i], size_min(PANEL_ROWS, n - o) * sizeof *y);
    }
    return true;
}

static bool supported(void)
{
    return true;
}

static const struct micro neon_f32 = {.name = "neon f32", .unit = 1, .MR = MR, .NR = NR, .pack = pack, .pack_t = pack_t, .panel = panel,
                                      .panel_t = panel_t, .kernel = kernel, .few = few};

const struct level level_neon = {.name = "neon", .supported = supported, .f32 = &neon_f32, .vector = &vector_plain};
#endif
