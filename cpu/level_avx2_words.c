/* level_avx2_words.c: few rows times matrices of 4-bit codes in 16-bit fixed point: AVX2's place for what other CPUs do in bf16.
 *
 * With one row the time is that of reading W, if unpacking keeps pace.  Floats do not (level_avx2_few.c: two rounds of unpacking, half a product an
 * instruction); words do: a level's two bytes come from two tables of 16 bytes by VPSHUFB, one round of unpacking joins them, and VPMADDWD
 * multiplies and adds 16 of them.  The codes of q4_0 and q4_1 are words where they stand.
 *
 * x is turned once a call: 16 bits for each piece of at most 64 columns, in units of the piece's largest |x| / 32767 (nf4: / 8191).  Levels are whole
 * numbers: exact but for nf4's, which are rounded to 1/8192.  A sum of 32 products of nf4's stays below 2^31, one of 64 of the others too, so sums of a
 * piece are exact, and an element's error is at most
 *     sum_k |w_k| max|x| 2^-16    (nf4: sum_k scale (|x_k| 2^-14 + |level_k| max|x| / 16382))    beside the roundings of single precision. */
#include "cpu/level.h"

#if defined(__x86_64__) && !defined(VENEER_DOUBLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "cpu/level_avx2.h"

enum {
    PIECE = 64,   /* columns of one exact sum at most */
    BLOCK = 2048, /* columns for which x is turned at once */
    PIECES = BLOCK / 8,
    GROUP = 8,    /* columns of a dword */
    AHEAD = 4096  /* bytes: codes are asked for before they are needed */
};

enum words_way {
    LOOKED, /* nf4, fp4, iq4_nl, iq4_xs: by tables */
    PLAIN   /* q4_0, q4_1, hqq2, q4_k ...: the codes themselves */
};

/* x, for columns of one block. */
struct turned {
    int16_t word[FEW_MOST][BLOCK];
    float scale[FEW_MOST][PIECES], sum[FEW_MOST][PIECES]; /* of a piece: its unit; what a minimum is multiplied with */
};

struct words_book {
    __m256i low, high; /* bytes of the levels, twice */
    float factor;      /* of all sums */
    float most;        /* the largest |word| of x */
};

static void open_words(struct words_book *book, const struct qmat *W)
{
    bool nf4 = W->format == FORMAT_NF4;
    const float *levels = code_levels(W->format);
    float unit = nf4 ? 8192 : W->format == FORMAT_FP4 ? 192 : 1; /* fp4's levels are multiples of 1/192, iq4's whole numbers */
    uint8_t low[32], high[32];
    for (int i = 0; i < 32; i++) {
        int level = (int)rintf(levels[i % 16] * unit);
        low[i] = (uint8_t)(level & 255);
        high[i] = (uint8_t)(level >> 8 & 255);
    }
    book->low = _mm256_loadu_si256((const __m256i *)(const void *)low);
    book->high = _mm256_loadu_si256((const __m256i *)(const void *)high);
    book->factor = code_kind_of(W) == BOOK4 ? 1 / unit : 1;
    book->most = nf4 ? 8191 : 32767;
}

/* ---- eight columns of eight rows ---- */

/* LOOKED: the low nibbles of a dword's bytes are columns 0 4 1 5, the high ones 2 6 3 7.  Registers 0 and 1 hold the first four columns of rows
 * 0 1 4 5 and 2 3 6 7, registers 2 and 3 the others.  PLAIN: register i holds columns 2i and 2i+1 of the eight rows. */
AVX2_INLINE void unpack(enum words_way way, const struct words_book *book, __m256i codes, __m256i v[4])
{
    const __m256i nibble = _mm256_set1_epi8(15), low = _mm256_set1_epi16(15);
    if (way == PLAIN) {
        v[0] = _mm256_and_si256(codes, low);
        v[1] = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
        v[2] = _mm256_and_si256(_mm256_srli_epi16(codes, 8), low);
        v[3] = _mm256_srli_epi16(codes, 12);
        return;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256i at = _mm256_and_si256(i ? _mm256_srli_epi16(codes, 4) : codes, nibble);
        __m256i a = _mm256_shuffle_epi8(book->low, at), b = _mm256_shuffle_epi8(book->high, at);
        v[2 * i] = _mm256_unpacklo_epi8(a, b);
        v[2 * i + 1] = _mm256_unpackhi_epi8(a, b);
    }
}

/* The columns of register i. */
AVX2_INLINE __m256i words_of(enum words_way way, const int16_t *x, int i)
{
    if (way == PLAIN) {
        int32_t two;
        memcpy(&two, x + 2 * i, sizeof two);
        return _mm256_set1_epi32(two);
    }
    int64_t four;
    memcpy(&four, x + i / 2 * 4, sizeof four);
    return _mm256_set1_epi64x(four);
}

AVX2_INLINE void multiply(enum words_way way, __m256i sum[2], const __m256i v[4], const int16_t *x)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        sum[i % 2] = _mm256_add_epi32(sum[i % 2], _mm256_madd_epi16(v[i], words_of(way, x, i)));
}

/* ---- a piece ---- */

struct piece {
    const struct words_book *book;
    const uint32_t *codes;
    size_t columns;
    bool has_minimum;
    struct avx2_scales scales;
};

/* total += scale * unit * sum + minimum * (sum of x), eight rows */
AVX2_INLINE void add_sums(enum words_way way, const struct piece *p, int h, const __m256i sum[2], float unit, float sum_x, float total[PANEL_ROWS])
{
    __m256 whole = _mm256_cvtepi32_ps(way == PLAIN ? _mm256_add_epi32(sum[0], sum[1]) : _mm256_hadd_epi32(sum[0], sum[1]));
    __m256 t = _mm256_fmadd_ps(whole, _mm256_mul_ps(p->scales.scale[h], _mm256_set1_ps(unit)), _mm256_loadu_ps(total + 8 * h));
    if (p->has_minimum)
        t = _mm256_fmadd_ps(p->scales.minimum[h], _mm256_set1_ps(sum_x), t);
    _mm256_storeu_ps(total + 8 * h, t);
}

/* One x: unpacked words go from register to register. */
AVX2_INLINE void piece_alone(enum words_way way, const struct piece *p, const int16_t *x, float unit, float sum_x, float total[PANEL_ROWS])
{
    const struct words_book book = *p->book;
    const uint32_t *codes = p->codes;
    __m256i sum[2][2] = {{_mm256_setzero_si256(), _mm256_setzero_si256()}, {_mm256_setzero_si256(), _mm256_setzero_si256()}}, v[4];
    for (size_t k = 0; k < p->columns; k += GROUP, codes += PANEL_ROWS) {
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            unpack(way, &book, avx2_words(codes + 8 * h), v);
            multiply(way, sum[h], v, x + k);
        }
    }
    for (int h = 0; h < 2; h++)
        add_sums(way, p, h, sum[h], unit, sum_x, total);
}

/* Several rows: unpacked once into the first cache; sums of whole numbers are the same in any order. */
AVX2_INLINE void piece_shared(enum words_way way, const struct piece *p, const struct turned *x, size_t at, size_t i0, size_t m,
                              float (*total)[PANEL_ROWS])
{
    __m256i value[PIECE / GROUP][2][4];
    size_t groups = p->columns / GROUP;
    for (size_t g = 0; g < groups; g++)
        for (int h = 0; h < 2; h++)
            unpack(way, p->book, avx2_words(p->codes + g * PANEL_ROWS + 8 * h), value[g][h]);
    for (size_t i = 0; i < m; i++) {
        const int16_t *word = x->word[i] + at;
        __m256i sum[2][2] = {{_mm256_setzero_si256(), _mm256_setzero_si256()}, {_mm256_setzero_si256(), _mm256_setzero_si256()}};
        for (size_t g = 0; g < groups; g++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                multiply(way, sum[h], value[g][h], word + g * GROUP);
        for (int h = 0; h < 2; h++)
            add_sums(way, p, h, sum[h], x->scale[i][i0], x->sum[i][i0], total[i]);
    }
}

/* Each way in functions of its own: inlined into larger ones, the sums would not stay in registers. */
static void alone_looked(const struct piece *p, const int16_t *x, float unit, float sum_x, float total[PANEL_ROWS])
{
    piece_alone(LOOKED, p, x, unit, sum_x, total);
}

static void alone_plain(const struct piece *p, const int16_t *x, float unit, float sum_x, float total[PANEL_ROWS])
{
    piece_alone(PLAIN, p, x, unit, sum_x, total);
}

static void shared_looked(const struct piece *p, const struct turned *x, size_t at, size_t i0, size_t m, float (*total)[PANEL_ROWS])
{
    piece_shared(LOOKED, p, x, at, i0, m, total);
}

static void shared_plain(const struct piece *p, const struct turned *x, size_t at, size_t i0, size_t m, float (*total)[PANEL_ROWS])
{
    piece_shared(PLAIN, p, x, at, i0, m, total);
}

/* ---- a panel ---- */

/* total[m][16] = rows of panel p times columns [k0, k0 + k) of x. */
static void panel_block(const struct qmat *W, const struct words_book *book, size_t p, size_t k0, size_t k, const struct turned *x, size_t m,
                        float (*total)[PANEL_ROWS])
{
    enum code_kind kind = code_kind_of(W);
    bool plain = kind != BOOK4;
    struct piece piece = {.book = book, .codes = codes_of(kind, W, p, k0), .has_minimum = plain};
    const struct scale_map map = scale_map_of(W);
    struct avx2_runs runs = avx2_first_run(&map, p, k0);
    for (size_t at = 0, i = 0; at < k; avx2_next_run(&runs)) {
        size_t stop = size_min(runs.end - k0, k);
        avx2_scales_of(&runs, &piece.scales);
        for (int h = 0; h < 2; h++) {
            if (kind == CENTRED4) /* code - 8 */
                piece.scales.minimum[h] = _mm256_mul_ps(piece.scales.scale[h], _mm256_set1_ps(-8));
            if (!plain)
                piece.scales.scale[h] = _mm256_mul_ps(piece.scales.scale[h], _mm256_set1_ps(book->factor));
        }
        for (; at < stop; at += piece.columns, piece.codes += piece.columns * 2, i++) {
            piece.columns = size_min(PIECE, stop - at);
            if (m == 1)
                (plain ? alone_plain : alone_looked)(&piece, x->word[0] + at, x->scale[0][i], x->sum[0][i], total[0]);
            else
                (plain ? shared_plain : shared_looked)(&piece, x, at, i, m, total);
        }
    }
}

/* ---- x ---- */

AVX2_INLINE float largest_bits(const float *x, size_t n)
{
    __m256i most = _mm256_setzero_si256();
    for (size_t j = 0; j < n; j += 8) /* as integers magnitudes are ordered alike, and NaN is the largest */
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(x + j)), _mm256_set1_epi32(0x7fffffff)));
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1))));
}

/* One piece of one row.  A row with an infinity or NaN gets a unit that is one.  The sum is that of the words, so that what is subtracted with a
 * minimum is what was added with the codes. */
static void turn_piece(enum words_way way, float most, int16_t *to, const float *x, size_t n, float *unit, float *sum)
{
    const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    float largest = largest_bits(x, n);
    __m256 inverse = _mm256_set1_ps(largest <= 0x1p-100f ? 0 : most / largest);
    __m256i total = _mm256_setzero_si256();
    for (size_t j = 0; j < n; j += 8) {
        __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + j), inverse));
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        total = _mm256_add_epi32(total, whole);
        _mm_storeu_si128((__m128i *)(void *)(to + j), way == LOOKED ? _mm_shuffle_epi8(words, order) : words);
    }
    int32_t lane[8], all = 0;
    _mm256_storeu_si256((__m256i *)(void *)lane, total);
    for (int j = 0; j < 8 && largest < INFINITY; j++)
        all += lane[j];
    *unit = largest / most;
    *sum = (float)all * *unit;
}

/* Columns k0 .. k0+k-1 of the A panel x[.][m], in the pieces in which panel_block goes through them. */
static void turn(struct turned *to, const struct qmat *W, const struct words_book *book, const float *x, size_t m, size_t k0, size_t k)
{
    enum words_way way = code_kind_of(W) == BOOK4 ? LOOKED : PLAIN;
    size_t run = quant_panel_run(W), end = (k0 / run + 1) * run - k0, i = 0;
    for (size_t at = 0, n; at < k; at += n, i++) {
        end = at < end ? end : end + run;
        n = size_min(PIECE, size_min(end, k) - at);
        for (size_t r = 0; r < m; r++) {
            float row[PIECE];
            for (size_t j = 0; j < n; j++)
                row[j] = x[(k0 + at + j) * m + r];
            turn_piece(way, book->most, to->word[r] + at, row, n, &to->scale[r][i], &to->sum[r][i]);
        }
    }
}

bool avx2_few_words(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon)
{
    if (!W->panels || !code_is_nibbles(code_kind_of(W)))
        return avx2_few(W, row0, n, x, m, y, ldy, soon);
    struct turned turned;
    struct words_book book;
    open_words(&book, W);
    for (size_t k0 = 0; k0 < W->cols; k0 += BLOCK) {
        size_t k = size_min(BLOCK, W->cols - k0);
        turn(&turned, W, &book, x, m, k0, k);
        for (size_t o = 0; o < n; o += PANEL_ROWS) {
            float total[FEW_MOST][PANEL_ROWS] = {{0}};
            panel_block(W, &book, (row0 + o) / PANEL_ROWS, k0, k, &turned, m, total);
            for (size_t i = 0; i < m; i++)
                for (size_t r = 0; r < size_min(PANEL_ROWS, n - o); r++)
                    y[i * ldy + o + r] = k0 > 0 ? y[i * ldy + o + r] + total[i][r] : total[i][r];
        }
    }
    return true;
}
#else
typedef int level_avx2_words_is_for_avx2; /* ISO C wants a declaration in every file */
#endif
