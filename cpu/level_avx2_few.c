/* level_avx2_few.c: products of up to twelve rows with a frozen matrix, as it lies in memory: what decoding a token does all the time.
 *
 * With one row the time is that of reading W, if unpacking keeps pace.  It does not with a lookup of floats by lane (two permutations and a blend
 * for eight weights); looking up bytes is cheaper.  A level's four bytes come from four tables of 16 bytes, each by one VPSHUFB for 32
 * codes, and two rounds of unpacking join them to 32 floats: every register then holds four columns of two rows,
 *
 *     | row a: c0 c1 c2 c3 | row b: c0 c1 c2 c3 |
 *
 * so the sums run along columns in four chains a row, and x is four of its elements, twice.  Small integers (q4_0, q4_1, and fp4 times 12) have
 * zeros in the lower two bytes.  Chains end after at most 64 columns, or where the scale changes. */
#include "cpu/level.h"

#if defined(__x86_64__) && !defined(VENEER_DOUBLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <math.h>
#include <string.h>

#include "cpu/level_avx2.h"

enum {
    PIECE = 64,    /* columns of a chain at most */
    BLOCK = 2048,  /* columns for which x is laid out at once */
    STEP = 4,      /* columns of a register */
    VECTORS = 8,   /* registers of a step: 16 rows */
    AHEAD = 1024   /* bytes: codes are asked for before they are needed */
};

/* x, for columns of one block: each row on its own, in the order in which the unpacked columns come. */
struct few_x {
    float value[FEW_MOST * BLOCK]; /* [m][BLOCK] */
    float sum[FEW_MOST][BLOCK / GGML_BLOCK]; /* of blocks of 32: what a minimum is multiplied with */
};

/* How bytes become values. */
struct few_book {
    __m256i byte[4];      /* tables for the bytes of a float, twice */
    const float *wide;    /* nf8's levels */
    float factor;         /* joins the scale: 1/127 of int8, 1/12 of fp4 */
};

static void open_book(struct few_book *book, const struct qmat *W)
{
    uint8_t bytes[4][32];
    for (int i = 0; i < 32; i++) {
        float code = (float)(i % 16), level = code;
        if (W->format == FORMAT_NF4)
            level = quant_nf4_table[i % 16];
        else if (W->format == FORMAT_FP4)
            level = rintf(quant_fp4_table[i % 16] * 192) / 16; /* its levels are multiples of 1/192 */
        else if (W->format == FORMAT_Q4_0)
            level = code - 8;
        uint32_t bits;
        memcpy(&bits, &level, sizeof bits);
        for (int b = 0; b < 4; b++)
            bytes[b][i] = (uint8_t)(bits >> (8 * b));
    }
    for (int b = 0; b < 4; b++)
        book->byte[b] = _mm256_loadu_si256((const __m256i *)(const void *)bytes[b]);
    book->wide = W->format == FORMAT_NF8 ? quant_nf8_table() : NULL;
    book->factor = W->format == FORMAT_INT8 ? 0.007874015718698502f : W->format == FORMAT_FP4 ? 1.0f / 12 : 1;
}

/* ---- one step: four columns of 16 rows ---- */

/* Registers 4h+i hold rows 8h+i and 8h+i+4.  `half` is the nibble of each byte. */
AVX2_INLINE void unpack_nibbles(bool is_short, const struct few_book *book, const uint32_t *codes, int half, __m256 v[VECTORS])
{
    const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++, v += 4) {
        __m256i words = avx2_words(codes + 8 * h);
        __m256i code = _mm256_and_si256(half ? _mm256_srli_epi32(words, 4) : words, mask);
        __m256i low0 = _mm256_setzero_si256(), low1 = low0;
        if (!is_short) {
            __m256i b0 = _mm256_shuffle_epi8(book->byte[0], code), b1 = _mm256_shuffle_epi8(book->byte[1], code);
            low0 = _mm256_unpacklo_epi8(b0, b1);
            low1 = _mm256_unpackhi_epi8(b0, b1);
        }
        __m256i b2 = _mm256_shuffle_epi8(book->byte[2], code), b3 = _mm256_shuffle_epi8(book->byte[3], code);
        __m256i high0 = _mm256_unpacklo_epi8(b2, b3), high1 = _mm256_unpackhi_epi8(b2, b3);
        v[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low0, high0));
        v[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low0, high0));
        v[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low1, high1));
        v[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low1, high1));
    }
}

/* Register i holds rows 2i and 2i+1. */
AVX2_INLINE void unpack_bytes(enum avx2_kind kind, const struct few_book *book, const uint32_t *codes, __m256 v[VECTORS])
{
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; i++) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(codes + 2 * i));
        v[i] = kind == AVX2_BOOK8 ? _mm256_i32gather_ps(book->wide, _mm256_cvtepu8_epi32(bytes), 4)
                                  : _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
}

/* Sums along columns of four registers, rows in order. */
AVX2_INLINE __m256 join(enum avx2_kind kind, const __m256 v[4])
{
    __m256 sum = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return avx2_is_nibbles(kind) ? sum : _mm256_permutevar8x32_ps(sum, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

AVX2_INLINE void unpack_step(enum avx2_kind kind, bool is_short, const struct few_book *book, const uint32_t *codes, int step, __m256 v[VECTORS])
{
    if (avx2_is_nibbles(kind))
        unpack_nibbles(is_short, book, codes, step, v);
    else
        unpack_bytes(kind, book, codes, v);
}

AVX2_INLINE void multiply_step(__m256 sum[VECTORS], const __m256 v[VECTORS], const float *x)
{
    __m256 four = _mm256_broadcast_ps((const __m128 *)(const void *)x);
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; i++)
        sum[i] = _mm256_fmadd_ps(v[i], four, sum[i]);
}

/* ---- a piece of a panel ---- */

struct piece {
    const struct few_book *book;
    const uint32_t *codes;
    size_t columns;      /* at most PIECE; whole groups */
    struct avx2_scales scales;
};

AVX2_INLINE void add_piece(enum avx2_kind kind, const struct piece *p, const __m256 sum[VECTORS], const float *sum_x, float total[PANEL_ROWS])
{
    for (int h = 0; h < 2; h++) {
        __m256 t = _mm256_fmadd_ps(join(kind, sum + 4 * h), p->scales.scale[h], _mm256_loadu_ps(total + 8 * h));
        if (kind == AVX2_CODE4)
            t = _mm256_fmadd_ps(p->scales.minimum[h], _mm256_broadcast_ss(sum_x), t);
        _mm256_storeu_ps(total + 8 * h, t);
    }
}

/* One row: unpacked values go from register to register. */
AVX2_INLINE void piece_alone(enum avx2_kind kind, bool is_short, const struct piece *p, const float *x, const float *sum_x, float *total)
{
    __m256 sum[VECTORS], v[VECTORS];
    size_t group = avx2_group(kind);
    const uint32_t *codes = p->codes;
#pragma GCC unroll 8
    for (int i = 0; i < VECTORS; i++)
        sum[i] = _mm256_setzero_ps();
    for (size_t k = 0; k < p->columns; k += group, codes += PANEL_ROWS, x += group) {
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
        for (size_t step = 0; step < group / STEP; step++) {
            unpack_step(kind, is_short, p->book, codes, (int)step, v);
            multiply_step(sum, v, x + step * STEP);
        }
    }
    add_piece(kind, p, sum, sum_x, total);
}

/* Several rows: unpacked once into the first cache, in the same order of sums. */
AVX2_INLINE void piece_shared(enum avx2_kind kind, bool is_short, const struct piece *p, const struct few_x *x, size_t at, size_t m,
                              float (*total)[PANEL_ROWS])
{
    __m256 value[PIECE / STEP][VECTORS];
    size_t group = avx2_group(kind), steps = p->columns / STEP;
    const uint32_t *codes = p->codes;
    for (size_t s = 0; s < steps; s += group / STEP, codes += PANEL_ROWS)
#pragma GCC unroll 2
        for (size_t step = 0; step < group / STEP; step++)
            unpack_step(kind, is_short, p->book, codes, (int)step, value[s + step]);
    for (size_t i = 0; i < m; i++) {
        __m256 sum[VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++)
            sum[j] = _mm256_setzero_ps();
        for (size_t s = 0; s < steps; s++)
            multiply_step(sum, value[s], x->value + i * BLOCK + at + s * STEP);
        add_piece(kind, p, sum, &x->sum[i][at / GGML_BLOCK], total[i]);
    }
}

/* ---- a panel ---- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* total[m][16] = rows of panel p times columns [k0, k0 + k) of x. */
AVX2_INLINE void panel_block(enum avx2_kind kind, bool is_short, const struct qmat *W, const struct few_book *book, size_t p, size_t k0, size_t k,
                             const struct few_x *x, size_t m, float (*total)[PANEL_ROWS])
{
    size_t run = quant_panel_run(W), at = 0;
    while (at < k) {
        size_t run_end = smaller(((k0 + at) / run + 1) * run - k0, k);
        struct piece piece = {.book = book};
        avx2_scales_of(W, p, k0 + at, &piece.scales);
        for (int h = 0; h < 2; h++)
            piece.scales.scale[h] = _mm256_mul_ps(piece.scales.scale[h], _mm256_set1_ps(book->factor));
        for (; at < run_end; at += piece.columns) {
            piece.columns = smaller(PIECE, run_end - at);
            piece.codes = avx2_codes(kind, W, p, k0 + at);
            if (m == 1)
                piece_alone(kind, is_short, &piece, x->value + at, &x->sum[0][at / GGML_BLOCK], total[0]);
            else
                piece_shared(kind, is_short, &piece, x, at, m, total);
        }
    }
}

static void panel_of(const struct qmat *W, const struct few_book *book, size_t p, size_t k0, size_t k, const struct few_x *x, size_t m,
                     float (*total)[PANEL_ROWS])
{
    switch (avx2_kind_of(W)) {
    case AVX2_BOOK4:
        if (W->format == FORMAT_NF4)
            panel_block(AVX2_BOOK4, false, W, book, p, k0, k, x, m, total);
        else
            panel_block(AVX2_BOOK4, true, W, book, p, k0, k, x, m, total);
        break;
    case AVX2_CODE4: panel_block(AVX2_CODE4, true, W, book, p, k0, k, x, m, total); break;
    case AVX2_CENTRED4: panel_block(AVX2_CENTRED4, true, W, book, p, k0, k, x, m, total); break;
    case AVX2_BOOK8: panel_block(AVX2_BOOK8, false, W, book, p, k0, k, x, m, total); break;
    default: panel_block(AVX2_CODE8, false, W, book, p, k0, k, x, m, total);
    }
}

/* ---- x ---- */

/* Nibbles: the low ones of a dword's bytes are columns 0 4 1 5, the high ones 2 6 3 7. */
static void order_nibbles(float *x, size_t k)
{
    for (size_t j = 0; j < k; j += 8)
        _mm256_storeu_ps(x + j, _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + j), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

/* Columns k0 .. k0+k-1 of the A panel x[.][m]. */
static void lay_out(struct few_x *to, const float *x, size_t m, size_t k0, size_t k, bool is_nibbles)
{
    for (size_t i = 0; i < m; i++) {
        float *row = to->value + i * BLOCK;
        for (size_t j = 0; j < k; j++)
            row[j] = x[(k0 + j) * m + i];
        for (size_t j = 0; j < k; j += GGML_BLOCK) {
            float sum = 0;
            for (size_t e = j; e < smaller(j + GGML_BLOCK, k); e++)
                sum += row[e];
            to->sum[i][j / GGML_BLOCK] = sum;
        }
        if (is_nibbles)
            order_nibbles(row, k);
    }
}

static void few_of_panels(const struct qmat *W, size_t row0, size_t n, const float *x, size_t m, float *y, size_t ldy)
{
    struct few_x laid;
    struct few_book book;
    bool is_nibbles = avx2_is_nibbles(avx2_kind_of(W));
    open_book(&book, W);
    for (size_t k0 = 0; k0 < W->cols; k0 += BLOCK) {
        size_t k = smaller(BLOCK, W->cols - k0);
        lay_out(&laid, x, m, k0, k, is_nibbles);
        for (size_t o = 0; o < n; o += PANEL_ROWS) {
            float total[FEW_MOST][PANEL_ROWS] = {{0}};
            panel_of(W, &book, (row0 + o) / PANEL_ROWS, k0, k, &laid, m, total);
            for (size_t i = 0; i < m; i++)
                for (size_t r = 0; r < smaller(PANEL_ROWS, n - o); r++)
                    y[i * ldy + o + r] = k0 > 0 ? y[i * ldy + o + r] + total[i][r] : total[i][r];
        }
    }
}

/* ---- matrices of floats, row by row ---- */

AVX2_INLINE __m256 eight(enum format format, const void *row, size_t j)
{
    if (format == FORMAT_F32)
        return _mm256_loadu_ps((const float *)row + j);
    __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)row + j));
    if (format == FORMAT_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

AVX2_INLINE float one(enum format format, const void *row, size_t j)
{
    if (format == FORMAT_F32)
        return ((const float *)row)[j];
    uint16_t half = ((const uint16_t *)row)[j];
    return format == FORMAT_F16 ? f32_from_f16(half) : f32_from_bf16(half);
}

/* Four chains of eight lanes. */
AVX2_INLINE float dot(enum format format, const void *row, const float *x, size_t k)
{
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t j = 0;
    for (; j + 32 <= k; j += 32)
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
            sum[i] = _mm256_fmadd_ps(eight(format, row, j + 8 * i), _mm256_loadu_ps(x + j + 8 * i), sum[i]);
    for (; j + 8 <= k; j += 8)
        sum[0] = _mm256_fmadd_ps(eight(format, row, j), _mm256_loadu_ps(x + j), sum[0]);
    __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    four = _mm_hadd_ps(four, four);
    float total = _mm_cvtss_f32(_mm_hadd_ps(four, four));
    for (; j < k; j++)
        total = fmaf(one(format, row, j), x[j], total);
    return total;
}

AVX2_INLINE void few_rows(enum format format, const struct qmat *W, size_t row0, size_t n, const float *x, size_t m, float *y, size_t ldy)
{
    struct few_x laid;
    size_t bytes = format == FORMAT_F32 ? sizeof(float) : sizeof(uint16_t);
    for (size_t k0 = 0; k0 < W->cols; k0 += BLOCK) {
        size_t k = smaller(BLOCK, W->cols - k0);
        lay_out(&laid, x, m, k0, k, false);
        for (size_t o = 0; o < n; o++) {
            const void *row = (const char *)W->codes + ((row0 + o) * W->cols + k0) * bytes;
            for (size_t i = 0; i < m; i++) {
                float sum = dot(format, row, laid.value + i * BLOCK, k);
                y[i * ldy + o] = k0 > 0 ? y[i * ldy + o] + sum : sum;
            }
        }
    }
}

bool avx2_few(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy)
{
    switch (W->format) {
    case FORMAT_F32: few_rows(FORMAT_F32, W, row0, n, x, m, y, ldy); return true;
    case FORMAT_F16: few_rows(FORMAT_F16, W, row0, n, x, m, y, ldy); return true;
    case FORMAT_BF16: few_rows(FORMAT_BF16, W, row0, n, x, m, y, ldy); return true;
    default:
        if (W->panels)
            few_of_panels(W, row0, n, x, m, y, ldy);
        return W->panels;
    }
}
#endif
