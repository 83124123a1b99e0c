/* level_avx2_few.c: products of up to twelve rows with a frozen matrix, as it lies in memory: what decoding a token does all the time.
 *
 * With one row the time is that of reading W, if unpacking keeps pace.  It does not with a lookup of floats by lane (two permutations and a blend
 * for eight weights); looking up bytes is cheaper.  A level's four bytes come from four tables of 16 bytes, each by one VPSHUFB for 32
 * codes, and two rounds of unpacking join them to 32 floats: every register then holds four columns of two rows,
 *
 *     | row a: c0 c1 c2 c3 | row b: c0 c1 c2 c3 |
 *
 * so the sums run along columns in four chains a row, and x is four of its elements, twice.  fp4's levels times 12 have zeros in the lower two
 * bytes, and so have iq4_nl's and iq4_xs's: one round of unpacking does.  The codes of q4_0, q4_1 and of K-quants of 4 bits need no table: a nibble becomes a float where it stands in its dword.  Chains end after at most 64 columns, or where the scale changes. */
#include "cpu/level.h"

#if defined(__x86_64__) && !defined(VENEER_DOUBLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "cpu/level_avx2.h"

enum {
    PIECE = 64,    /* columns of a chain at most */
    BLOCK = 2048,  /* columns for which x is laid out at once */
    STRIDE = BLOCK + 16, /* of rows of x: a power of two would put them all into the same few lines of the first cache */
    RUN = 16,      /* columns of the shortest run beside a minimum */
    SUMS = BLOCK / RUN,
    STEP = 4,      /* columns of a register */
    AHEAD = 4096   /* bytes: codes are asked for before they are needed */
};

/* x, for columns of one block: each row on its own, in the order in which the unpacked columns come. */
struct few_x {
    float value[FEW_MOST * STRIDE]; /* [m][STRIDE] */
    float sum[FEW_MOST][SUMS]; /* of `each` columns: what a minimum is multiplied with */
    size_t each;
};

/* How bytes become values. */
struct few_book {
    __m256i byte[4];      /* tables for the bytes of a float, twice */
    __m256i mask[7];      /* for the nibbles of a dword */
    const float *wide;    /* nf8's levels */
    float factor;         /* joins the scale: 1/127 of int8, 1/12 of fp4 */
};

static void open_book(struct few_book *book, const struct qmat *W)
{
    uint8_t bytes[4][32];
    for (int i = 0; i < 32; i++) {
        float level = 0;
        if (W->format == FORMAT_NF4)
            level = quant_nf4_table[i % 16];
        else if (W->format == FORMAT_FP4)
            level = rintf(quant_fp4_table[i % 16] * 192) / 16; /* its levels are multiples of 1/192 */
        else
            level = code_levels(W->format)[i % 16]; /* whole numbers of 7 bits; unused where codes need no table */
        uint32_t bits;
        memcpy(&bits, &level, sizeof bits);
        for (int b = 0; b < 4; b++)
            bytes[b][i] = (uint8_t)(bits >> (8 * b));
    }
    for (int b = 0; b < 4; b++)
        book->byte[b] = _mm256_loadu_si256((const __m256i *)(const void *)bytes[b]);
    for (int i = 0; i < 7; i++)
        book->mask[i] = _mm256_set1_epi32(15 << (4 * i));
    book->wide = W->format == FORMAT_NF8 ? quant_nf8_table() : NULL;
    book->factor = W->format == FORMAT_INT8 ? 0.007874015718698502f : W->format == FORMAT_FP4 ? 1.0f / 12 : 1;
}

/* ---- four columns of eight rows ---- */

/* How codes lie and what their values take. */
enum few_way {
    LONG_NIBBLES,  /* nf4: all four bytes */
    SHORT_NIBBLES, /* fp4, iq4_nl, iq4_xs: the upper two */
    PLAIN_NIBBLES, /* q4_0, q4_1, hqq2, q4_k ...: the codes themselves */
    SIGNED_BYTES,  /* int8, int8_64, q8_0, q5_k ... */
    WIDE_BYTES     /* nf8 */
};

AVX2_INLINE bool is_nibbles(enum few_way way)
{
    return way <= PLAIN_NIBBLES;
}

/* Columns of a dword. */
AVX2_INLINE size_t group_of(enum few_way way)
{
    return is_nibbles(way) ? 8 : 4;
}

/* Register i holds rows i and i+4 of eight. */
AVX2_INLINE void unpack_long(const struct few_book *book, __m256i code, __m256 v[4])
{
    __m256i b0 = _mm256_shuffle_epi8(book->byte[0], code), b1 = _mm256_shuffle_epi8(book->byte[1], code);
    __m256i b2 = _mm256_shuffle_epi8(book->byte[2], code), b3 = _mm256_shuffle_epi8(book->byte[3], code);
    __m256i low0 = _mm256_unpacklo_epi8(b0, b1), low1 = _mm256_unpackhi_epi8(b0, b1);
    __m256i high0 = _mm256_unpacklo_epi8(b2, b3), high1 = _mm256_unpackhi_epi8(b2, b3);
    v[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low0, high0));
    v[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low0, high0));
    v[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low1, high1));
    v[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low1, high1));
}

/* The upper halves of floats, side by side: the even columns are shifted up, the odd ones are there.  Registers 0 and 1 hold rows 0 1 4 5,
 * 2 and 3 rows 2 3 6 7; two columns each. */
AVX2_INLINE void unpack_short(const struct few_book *book, __m256i code, __m256 v[4])
{
    const __m256i upper = _mm256_set1_epi32((int32_t)0xffff0000u);
    __m256i b2 = _mm256_shuffle_epi8(book->byte[2], code), b3 = _mm256_shuffle_epi8(book->byte[3], code);
    __m256i first = _mm256_unpacklo_epi8(b2, b3), second = _mm256_unpackhi_epi8(b2, b3);
    v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(first, 16));
    v[1] = _mm256_castsi256_ps(_mm256_and_si256(first, upper));
    v[2] = _mm256_castsi256_ps(_mm256_slli_epi32(second, 16));
    v[3] = _mm256_castsi256_ps(_mm256_and_si256(second, upper));
}

/* Nibbles 4 step .. 4 step + 3 where they stand: register i holds eight rows of code * 16^nibble; x is divided by as much, exactly.  The
 * highest would be a sign: it is shifted down. */
AVX2_INLINE void unpack_plain(const struct few_book *book, __m256i words, int step, __m256 v[4])
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int nibble = 4 * step + i;
        v[i] = _mm256_cvtepi32_ps(nibble == 7 ? _mm256_srli_epi32(words, 28) : _mm256_and_si256(words, book->mask[nibble]));
    }
}

/* Register i holds rows 2i and 2i+1. */
AVX2_INLINE void unpack_bytes(enum few_way way, const struct few_book *book, const uint32_t *codes, __m256 v[4])
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(codes + 2 * i));
        v[i] = way == WIDE_BYTES ? _mm256_i32gather_ps(book->wide, _mm256_cvtepu8_epi32(bytes), 4)
                                 : _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
}

/* Step `step` (0, or 1 for the high nibble of each byte) of a group. */
AVX2_INLINE void unpack_step(enum few_way way, const struct few_book *book, const uint32_t *codes, int step, __m256 v[4])
{
    if (!is_nibbles(way)) {
        unpack_bytes(way, book, codes, v);
        return;
    }
    if (way == PLAIN_NIBBLES) {
        unpack_plain(book, avx2_words(codes), step, v);
        return;
    }
    __m256i words = avx2_words(codes), code = _mm256_and_si256(step ? _mm256_srli_epi32(words, 4) : words, _mm256_set1_epi8(15));
    if (way == LONG_NIBBLES)
        unpack_long(book, code, v);
    else
        unpack_short(book, code, v);
}

AVX2_INLINE void multiply_step(enum few_way way, __m256 sum[4], const __m256 v[4], const float *x)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256 xi;
        if (way == PLAIN_NIBBLES)
            xi = _mm256_broadcast_ss(x + i);
        else if (way == SHORT_NIBBLES)
            xi = _mm256_castpd_ps(_mm256_broadcast_sd((const double *)(const void *)(x + i % 2 * 2)));
        else
            xi = _mm256_broadcast_ps((const __m128 *)(const void *)x);
        sum[i] = _mm256_fmadd_ps(v[i], xi, sum[i]);
    }
}

/* Sums along columns, the eight rows in order. */
AVX2_INLINE __m256 join(enum few_way way, const __m256 v[4])
{
    if (way == PLAIN_NIBBLES)
        return _mm256_add_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3]));
    if (way == SHORT_NIBBLES)
        return _mm256_hadd_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3]));
    __m256 sum = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return way == LONG_NIBBLES ? sum : _mm256_permutevar8x32_ps(sum, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* ---- a piece: at most 64 columns of a panel ---- */

struct piece {
    const struct few_book *book;
    const uint32_t *codes;
    size_t columns;
    bool has_minimum;
    struct avx2_scales scales;
};

/* total += scale * sum + minimum * (sum of x), eight rows */
AVX2_INLINE void add_sums(const struct piece *p, int h, __m256 sum, float sum_x, float total[PANEL_ROWS])
{
    __m256 t = _mm256_fmadd_ps(sum, p->scales.scale[h], _mm256_loadu_ps(total + 8 * h));
    if (p->has_minimum)
        t = _mm256_fmadd_ps(p->scales.minimum[h], _mm256_set1_ps(sum_x), t);
    _mm256_storeu_ps(total + 8 * h, t);
}

AVX2_INLINE void clear(__m256 sum[4])
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        sum[i] = _mm256_setzero_ps();
}

/* One x: unpacked values go from register to register. */
AVX2_INLINE void piece_alone(enum few_way way, const struct piece *p, const float *x, float sum_x, float total[PANEL_ROWS])
{
    const struct few_book *book = p->book;
    size_t group = group_of(way), columns = p->columns;
    int together = is_nibbles(way) ? 1 : 2; /* halves: eight sums beside tables would not fit the registers */
#pragma GCC unroll 2
    for (int first = 0; first < 2; first += together) {
        __m256 sum[2][4], v[4];
        clear(sum[0]);
        clear(sum[1]);
        const uint32_t *codes = p->codes + 8 * first;
        const float *at = x;
        for (size_t k = 0; k < columns; k += group, codes += PANEL_ROWS, at += group) {
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
            for (size_t step = 0; step < group / STEP; step++)
#pragma GCC unroll 2
                for (int h = 0; h < together; h++) {
                    unpack_step(way, book, codes + 8 * h, (int)step, v);
                    multiply_step(way, sum[h], v, at + step * STEP);
                }
        }
        for (int h = 0; h < together; h++)
            add_sums(p, first + h, join(way, sum[h]), sum_x, total);
    }
}

/* Several rows, STRIDE apart: unpacked once into the first cache, then the same sums in the same order. */
AVX2_INLINE void piece_shared(enum few_way way, const struct piece *p, const float *x, const float *sum_x, size_t m, float (*total)[PANEL_ROWS])
{
    __m256 value[PIECE / STEP][2][4];
    size_t group = group_of(way), steps = p->columns / STEP, each = group / STEP;
    const uint32_t *codes = p->codes;
    for (size_t s = 0; s < steps; s += each, codes += PANEL_ROWS)
#pragma GCC unroll 2
        for (size_t step = 0; step < each; step++)
            for (int h = 0; h < 2; h++)
                unpack_step(way, p->book, codes + 8 * h, (int)step, value[s + step][h]);
    for (size_t i = 0; i < m; i++, x += STRIDE, sum_x += SUMS) {
        __m256 sum[2][4];
        clear(sum[0]);
        clear(sum[1]);
        for (size_t s = 0; s < steps; s++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                multiply_step(way, sum[h], value[s][h], x + s * STEP);
        for (int h = 0; h < 2; h++)
            add_sums(p, h, join(way, sum[h]), *sum_x, total[i]);
    }
}

/* Each way in functions of its own: inlined into larger ones, the sums would not stay in registers. */
struct few_kind {
    void (*alone)(const struct piece *p, const float *x, float sum_x, float total[PANEL_ROWS]);
    void (*shared)(const struct piece *p, const float *x, const float *sum_x, size_t m, float (*total)[PANEL_ROWS]);
};

#define FEW_KIND(name, way)                                                                                                                       \
    static void alone_##name(const struct piece *p, const float *x, float sum_x, float total[PANEL_ROWS])                                          \
    {                                                                                                                                             \
        piece_alone(way, p, x, sum_x, total);                                                                                                     \
    }                                                                                                                                             \
    static void shared_##name(const struct piece *p, const float *x, const float *sum_x, size_t m, float (*total)[PANEL_ROWS])                     \
    {                                                                                                                                             \
        piece_shared(way, p, x, sum_x, m, total);                                                                                                 \
    }
FEW_KIND(long_nibbles, LONG_NIBBLES)
FEW_KIND(short_nibbles, SHORT_NIBBLES)
FEW_KIND(plain_nibbles, PLAIN_NIBBLES)
FEW_KIND(signed_bytes, SIGNED_BYTES)
FEW_KIND(wide_bytes, WIDE_BYTES)

static const struct few_kind kinds[] = {
    [LONG_NIBBLES] = {alone_long_nibbles, shared_long_nibbles},
    [SHORT_NIBBLES] = {alone_short_nibbles, shared_short_nibbles},
    [PLAIN_NIBBLES] = {alone_plain_nibbles, shared_plain_nibbles},
    [SIGNED_BYTES] = {alone_signed_bytes, shared_signed_bytes},
    [WIDE_BYTES] = {alone_wide_bytes, shared_wide_bytes},
};

static enum few_way way_of(const struct qmat *W)
{
    switch (code_kind_of(W)) {
    case BOOK4: return W->format == FORMAT_NF4 ? LONG_NIBBLES : SHORT_NIBBLES;
    case CODE4:
    case CENTRED4: return PLAIN_NIBBLES;
    case BOOK8: return WIDE_BYTES;
    default: return SIGNED_BYTES;
    }
}

/* ---- a panel ---- */

/* total[m][16] = rows of panel p times columns [k0, k0 + k) of x. */
static void panel_block(const struct qmat *W, const struct few_kind *kind, const struct few_book *book, size_t p, size_t k0, size_t k,
                        const struct few_x *x, size_t m, float (*total)[PANEL_ROWS])
{
    enum code_kind codes = code_kind_of(W);
    size_t dwords = code_is_nibbles(codes) ? 2 : 4; /* of a column */
    struct piece piece = {.book = book, .codes = codes_of(codes, W, p, k0), .has_minimum = codes == CENTRED4 || code_has_minimum(W)};
    size_t most = piece.has_minimum ? x->each : PIECE;
    const struct scale_map map = scale_map_of(W);
    struct avx2_runs runs = avx2_first_run(&map, p, k0);
    for (size_t at = 0; at < k; avx2_next_run(&runs)) {
        size_t stop = size_min(runs.end - k0, k);
        avx2_scales_of(&runs, &piece.scales);
        for (int h = 0; h < 2; h++) {
            if (codes == CENTRED4) /* code - 8 */
                piece.scales.minimum[h] = _mm256_mul_ps(piece.scales.scale[h], _mm256_set1_ps(-8));
            piece.scales.scale[h] = _mm256_mul_ps(piece.scales.scale[h], _mm256_set1_ps(book->factor));
        }
        for (; at < stop; at += piece.columns, piece.codes += piece.columns * dwords) {
            piece.columns = size_min(most, stop - at);
            if (m == 1)
                kind->alone(&piece, x->value + at, x->sum[0][at / x->each], total[0]);
            else
                kind->shared(&piece, x->value + at, &x->sum[0][at / x->each], m, total);
        }
    }
}

/* ---- x ---- */

/* The low nibbles of a dword's bytes are columns 0 4 1 5, the high ones 2 6 3 7; short ones: even bytes first; plain ones: nibble after
 * nibble, and divided by what each is multiplied with where it stands. */
static void order_nibbles(enum few_way way, float *x, size_t k)
{
    static const int32_t orders[3][8] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 1, 4, 5, 2, 3, 6, 7}, {0, 2, 4, 6, 1, 3, 5, 7}};
    const __m256i order = _mm256_loadu_si256((const __m256i *)(const void *)orders[way]);
    const __m256 factor = _mm256_setr_ps(1, 0x1p-4f, 0x1p-8f, 0x1p-12f, 0x1p-16f, 0x1p-20f, 0x1p-24f, 1);
    for (size_t j = 0; j < k; j += 8) {
        __m256 eight = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + j), order);
        _mm256_storeu_ps(x + j, way == PLAIN_NIBBLES ? _mm256_mul_ps(eight, factor) : eight);
    }
}

/* Columns k0 .. k0+k-1 of the A panel x[.][m]. */
static void lay_out(struct few_x *to, const float *x, size_t m, size_t k0, size_t k, enum few_way way, size_t run)
{
    to->each = run < GGML_BLOCK && run % RUN == 0 ? RUN : GGML_BLOCK;
    for (size_t i = 0; i < m; i++) {
        float *row = to->value + i * STRIDE;
        for (size_t j = 0; j < k; j++)
            row[j] = x[(k0 + j) * m + i];
        for (size_t j = 0; j < k; j += to->each) {
            float sum = 0;
            for (size_t e = j; e < size_min(j + to->each, k); e++)
                sum += row[e];
            to->sum[i][j / to->each] = sum;
        }
        if (is_nibbles(way))
            order_nibbles(way, row, k);
    }
}

static void few_of_panels(const struct qmat *W, size_t row0, size_t n, const float *x, size_t m, float *y, size_t ldy)
{
    struct few_x laid;
    struct few_book book;
    enum few_way way = way_of(W);
    open_book(&book, W);
    for (size_t k0 = 0; k0 < W->cols; k0 += BLOCK) {
        size_t k = size_min(BLOCK, W->cols - k0);
        lay_out(&laid, x, m, k0, k, way, quant_panel_run(W));
        for (size_t o = 0; o < n; o += PANEL_ROWS) {
            float total[FEW_MOST][PANEL_ROWS] = {{0}};
            panel_block(W, &kinds[way], &book, (row0 + o) / PANEL_ROWS, k0, k, &laid, m, total);
            for (size_t i = 0; i < m; i++)
                for (size_t r = 0; r < size_min(PANEL_ROWS, n - o); r++)
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

AVX2_INLINE float across(const __m256 sum[4])
{
    __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    four = _mm_hadd_ps(four, four);
    return _mm_cvtss_f32(_mm_hadd_ps(four, four));
}

/* to[i] = row x_i for m <= 3 (a constant where this is called) x, STRIDE apart: four chains of eight lanes each. */
AVX2_INLINE void dots(size_t m, enum format format, const void *row, const float *x, size_t k, float to[3])
{
    __m256 sum[3][4];
#pragma GCC unroll 3
    for (size_t i = 0; i < m; i++)
        clear(sum[i]);
    size_t j = 0;
    for (; j + 32 <= k; j += 32)
#pragma GCC unroll 4
        for (size_t e = 0; e < 4; e++) {
            __m256 w = eight(format, row, j + 8 * e);
#pragma GCC unroll 3
            for (size_t i = 0; i < m; i++)
                sum[i][e] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + i * STRIDE + j + 8 * e), sum[i][e]);
        }
    for (; j + 8 <= k; j += 8)
#pragma GCC unroll 3
        for (size_t i = 0; i < m; i++)
            sum[i][0] = _mm256_fmadd_ps(eight(format, row, j), _mm256_loadu_ps(x + i * STRIDE + j), sum[i][0]);
#pragma GCC unroll 3
    for (size_t i = 0; i < m; i++) {
        to[i] = across(sum[i]);
        for (size_t e = j; e < k; e++)
            to[i] = fmaf(one(format, row, e), x[i * STRIDE + e], to[i]);
    }
}

/* n rows by the columns of one block; up to three x at a time, so that they and the rows of W stay in the first cache. */
AVX2_INLINE void few_block(enum format format, const char *rows, size_t row_bytes, size_t n, const struct few_x *x, size_t k, size_t m, bool add,
                           float *y, size_t ldy)
{
    for (size_t i = 0, some; i < m; i += some) {
        size_t passes = (m - i + 2) / 3;
        some = (m - i + passes - 1) / passes;
        for (size_t o = 0; o < n; o++) {
            float sum[3];
            if (some == 3)
                dots(3, format, rows + o * row_bytes, x->value + i * STRIDE, k, sum);
            else if (some == 2)
                dots(2, format, rows + o * row_bytes, x->value + i * STRIDE, k, sum);
            else
                dots(1, format, rows + o * row_bytes, x->value + i * STRIDE, k, sum);
            for (size_t e = 0; e < some; e++) {
                float *to = y + (i + e) * ldy + o;
                *to = add ? *to + sum[e] : sum[e];
            }
        }
    }
}

AVX2_INLINE void few_rows(enum format format, const struct qmat *W, size_t row0, size_t n, const float *x, size_t m, float *y, size_t ldy)
{
    enum { ROWS = 8 };
    struct few_x laid;
    size_t element = format == FORMAT_F32 ? sizeof(float) : sizeof(uint16_t);
    for (size_t k0 = 0; k0 < W->cols; k0 += BLOCK) {
        size_t k = size_min(BLOCK, W->cols - k0);
        lay_out(&laid, x, m, k0, k, SIGNED_BYTES, W->cols);
        for (size_t o = 0; o < n; o += ROWS)
            few_block(format, (const char *)W->codes + ((row0 + o) * W->cols + k0) * element, W->cols * element, size_min(ROWS, n - o), &laid, k, m,
                      k0 > 0, y + o, ldy);
    }
}

bool avx2_few(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon)
{
    (void)soon;
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
