/* level_avx512.h: how both AVX-512 levels read a matrix: 16 numbers a register.  Private to level_avx512*.c.
 *
 * The codes of a matrix in panels (quant_panel.h) come 16 rows a register.  A value is always fma(code's value, scale, minimum): of formats
 * without a minimum that is -0, which changes no bit.  With -0 or with ggml's short factors the product and the sum are rounded once by
 * either way, so these are the bits of quant_decode_span. */
#ifndef VENEER_CPU_LEVEL_AVX512_H
#define VENEER_CPU_LEVEL_AVX512_H
#include <immintrin.h>

#include "cpu/level_codes.h"

extern const struct micro micro_avx512; /* fp32, of both levels */

#define INLINE static inline __attribute__((always_inline))
/* Loops over registers.  Sanitizers watch each access to an array: unrolled, these files would take them minutes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { LANES = 16, GROUP = 8 }; /* rows of a panel; columns that are decoded together */

INLINE __mmask16 first(size_t n)
{
    return (__mmask16)(n >= LANES ? 0xffff : (1u << n) - 1);
}

INLINE __m512 as_ps(__m512i x)
{
    return _mm512_castsi512_ps(x);
}

INLINE __m512i as_si(__m512 x)
{
    return _mm512_castps_si512(x);
}

/* 16 x 16 dwords: four rounds of 16 shuffles, by pairs, by fours, and twice by quarters of a register. */
INLINE void transpose16(__m512i r[16])
{
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* ---- matrices of plain numbers, row by row ---- */

enum cell { CELL_F32, CELL_F16, CELL_BF16, CELL_NONE };

static inline enum cell cell_of(enum format format)
{
    return format == FORMAT_F32 ? CELL_F32 : format == FORMAT_F16 ? CELL_F16 : format == FORMAT_BF16 ? CELL_BF16 : CELL_NONE;
}

/* Numbers i .. i+15 of x where `some` says so, zeros elsewhere. */
INLINE __m512 load_cells(enum cell cell, const void *x, size_t i, __mmask16 some)
{
    if (cell == CELL_F32)
        return _mm512_maskz_loadu_ps(some, (const float *)x + i);
    __m256i half = _mm256_maskz_loadu_epi16(some, (const uint16_t *)x + i);
    return cell == CELL_F16 ? _mm512_cvtph_ps(half) : as_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* ---- matrices in panels ---- */

enum kind {
    NIBBLES,    /* 4 bits, an index into 16 values */
    BYTES,      /* signed */
    BYTES_127,  /* signed, and the product with the scale is then divided by 127 (int8) */
    BYTES_TABLE /* 8 bits, an index into 256 values (nf8) */
};

static inline enum kind kind_of(enum format format)
{
    switch (format) {
    case FORMAT_INT8:
        return BYTES_127;
    case FORMAT_INT8_64:
    case FORMAT_Q5_0:
    case FORMAT_Q5_1:
    case FORMAT_Q8_0:
    case FORMAT_Q5_K:
    case FORMAT_Q6_K:
        return BYTES;
    case FORMAT_NF8:
        return BYTES_TABLE;
    default:
        return NIBBLES;
    }
}

static const float q4_values[2 * LANES] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, /* q4_0, */
                                           0,  1,  2,  3,  4,  5,  6,  7,  8, 9, 10, 11, 12, 13, 14, 15}; /* q4_1 */

/* The values of codes that are indices; of others whatever, unused. */
static inline const float *values_of(enum format format)
{
    switch (format) {
    case FORMAT_Q4_0:
    case FORMAT_Q3_K:
        return q4_values;
    case FORMAT_Q4_1:
    case FORMAT_Q2_K:
    case FORMAT_Q4_K:
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return q4_values + LANES;
    case FORMAT_NF8:
        return quant_nf8_table();
    default:
        return code_levels(format);
    }
}

/* Of a register of codes. */
INLINE size_t columns_of(enum kind kind)
{
    return kind == NIBBLES ? 8 : 4;
}

/* Codes of 16 rows and 8 columns: one register of nibbles, two of bytes. */
INLINE size_t group_bytes(enum kind kind)
{
    return GROUP / columns_of(kind) * 64;
}

INLINE const uint8_t *codes_at(const struct qmat *q, enum kind kind, size_t p, size_t col)
{
    return (const uint8_t *)q->codes + (p * (q->cols / GROUP) + col / GROUP) * group_bytes(kind);
}

struct scales {
    __m512 scale, minimum; /* lane r: row r of the panel */
};

/* gcc's macro for -O0 passes the mask of all lanes as a short. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
INLINE __m512 gather(__m512i index, const float *table)
{
    return _mm512_i32gather_ps(index, table, 4);
}
#pragma GCC diagnostic pop

/* Scales that are codes themselves: the operations of quant_block_scale.  b: the block in its row, of `blocks`. */
static inline __m512 double_scales(const struct qmat *q, size_t p, size_t b, size_t blocks)
{
    uint8_t code[LANES];
    int nested[LANES];
    for (size_t r = 0; r < LANES; r++) {
        size_t i = (p * LANES + r) * blocks + b;
        code[r] = q->scale_codes[i];
        nested[r] = (int)(i / 256);
    }
    __m512 value = gather(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)code)), quant_dynamic_table(true));
    __m512 scale = _mm512_mul_ps(value, gather(_mm512_loadu_si512(nested), q->nested_absmax));
    return _mm512_max_ps(_mm512_add_ps(scale, _mm512_set1_ps(q->nested_offset)), _mm512_setzero_ps());
}

static inline __m512 computed_scales(const struct qmat *q, size_t p, size_t col)
{
    float scale[LANES];
    size_t block = (size_t)q->block;
    if (q->double_quant && q->cols % block == 0)
        return double_scales(q, p, col / block, q->cols / block);
    quant_panel_scales(q, p, col, scale, NULL);
    return _mm512_loadu_ps(scale);
}

/* Affine groups: one gather for 16 rows. */
INLINE struct scales pair_scales(const struct qmat *q, size_t p, size_t col)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const struct pair_place place = pairs_at(q, p * LANES, col);
    __m512i element = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_set1_epi32((int)q->cols), lane), _mm512_set1_epi32((int)place.rest));
    __m512i pairs = as_si(gather(_mm512_srli_epi32(element, AFFINE_SHIFT), (const float *)(const void *)place.of));
    __m512 scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)), zero = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
    return (struct scales){scale, _mm512_xor_ps(_mm512_mul_ps(zero, scale), _mm512_set1_ps(-0.0f))};
}

/* Asks memory for what scales_at will read. */
INLINE void scales_soon(const struct scale_map *m, size_t p, size_t col)
{
    const size_t at = (p * m->runs + (col >> m->shift)) * LANES;
    if (m->way == SCALES_FLOAT)
        _mm_prefetch((const char *)m->scale + 4 * at, _MM_HINT_T1);
    else if (m->way == SCALES_HALF)
        _mm_prefetch((const char *)m->scale + 2 * at, _MM_HINT_T1);
    else if (m->way == SCALES_SUPER)
        _mm_prefetch((const char *)m->fine + at, _MM_HINT_T1);
    if (m->way == SCALES_HALF && m->minimum)
        _mm_prefetch((const char *)m->minimum + 2 * at, _MM_HINT_T1);
    else if (m->way == SCALES_SUPER && m->minimum)
        _mm_prefetch((const char *)m->fine_minimum + at, _MM_HINT_T1);
}

INLINE __m512 halves_at(const uint8_t *from, size_t i)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(from + 2 * i)));
}

/* A superblock's f16 number times a run's byte. */
INLINE __m512 super_at(const uint8_t *whole, size_t super, const uint8_t *fine, size_t at)
{
    __m512i bytes = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(fine + at)));
    return _mm512_mul_ps(halves_at(whole, super), _mm512_cvtepi32_ps(bytes));
}

/* Of panel p, for the run of columns that holds col.  int8: absmax alone (BYTES_127). */
INLINE struct scales scales_at(const struct scale_map *m, size_t p, size_t col)
{
    const enum format format = m->q->format;
    const size_t at = (p * m->runs + (col >> m->shift)) * LANES;
    struct scales s = {_mm512_setzero_ps(), _mm512_set1_ps(code_no_minimum(format))};
    if (m->way == SCALES_HALF) {
        s.scale = halves_at(m->scale, at);
        if (m->minimum)
            s.minimum = halves_at(m->minimum, at);
    } else if (m->way == SCALES_SUPER) {
        const size_t super = (p * (m->q->cols / GGML_SUPERBLOCK) + col / GGML_SUPERBLOCK) * LANES;
        s.scale = super_at(m->scale, super, m->fine, at);
        if (m->minimum)
            s.minimum = _mm512_xor_ps(super_at(m->minimum, super, m->fine_minimum, at), _mm512_set1_ps(-0.0f));
    } else if (m->way == SCALES_PAIRS) {
        s = pair_scales(m->q, p, col);
    } else if (m->way == SCALES_COMPUTED) {
        s.scale = computed_scales(m->q, p, col);
    } else {
        s.scale = _mm512_loadu_ps(m->scale + 4 * at);
        if (format == FORMAT_INT8_64)
            s.scale = _mm512_div_ps(s.scale, _mm512_set1_ps(127));
    }
    return s;
}

INLINE __m512 scaled(enum kind kind, __m512 value, __m512 scale, __m512 minimum)
{
    if (kind == BYTES_127)
        return _mm512_mul_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(0.007874015718698502f));
    return _mm512_fmadd_ps(value, scale, minimum);
}

/* 16 codes, one a dword; of nibbles the bits above are ignored, of bytes they must be the sign's (or zeros for BYTES_TABLE). */
INLINE __m512 values(enum kind kind, __m512i codes, const float *table, __m512 table16)
{
    if (kind == NIBBLES)
        return _mm512_permutexvar_ps(codes, table16);
    if (kind == BYTES_TABLE)
        return gather(codes, table);
    return _mm512_cvtepi32_ps(codes);
}

INLINE __m512i widen(enum kind kind, __m128i bytes)
{
    return kind == BYTES_TABLE ? _mm512_cvtepu8_epi32(bytes) : _mm512_cvtepi8_epi32(bytes);
}

/* Four groups of 4 columns, bytes: rows[j] holds in quarter L the 16 bytes of row 4L + j. */
INLINE void bytes_by_row(const __m512i group[4], __m512i rows[4])
{
    __m512i a = _mm512_unpacklo_epi32(group[0], group[1]), b = _mm512_unpackhi_epi32(group[0], group[1]);
    __m512i c = _mm512_unpacklo_epi32(group[2], group[3]), d = _mm512_unpackhi_epi32(group[2], group[3]);
    rows[0] = _mm512_unpacklo_epi64(a, c);
    rows[1] = _mm512_unpackhi_epi64(a, c);
    rows[2] = _mm512_unpacklo_epi64(b, d);
    rows[3] = _mm512_unpackhi_epi64(b, d);
}

/* What decoding across a panel's rows needs: 16 rows, two groups of 8 columns and their scales. */
struct square {
    const uint8_t *codes;
    bool second; /* the other group exists; its values are zeros otherwise */
    float scale[2][LANES], minimum[2][LANES];
    uint8_t bytes[4][64]; /* formats of bytes: row r at [r % 4][r / 4 * 16] */
};

INLINE void square_bytes(struct square *at)
{
    __m512i group[4], rows[4];
    UNROLL for (int g = 0; g < 4; g++)
        group[g] = g < 2 || at->second ? _mm512_loadu_si512(at->codes + g * 64) : _mm512_setzero_si512();
    bytes_by_row(group, rows);
    UNROLL for (int j = 0; j < 4; j++)
        _mm512_storeu_si512(at->bytes[j], rows[j]);
}

INLINE void square_at(struct square *at, const struct scale_map *map, enum kind kind, size_t p, size_t col, bool second)
{
    struct scales s;
    at->codes = codes_at(map->q, kind, p, col);
    at->second = second;
    for (size_t g = 0; g < 2; g++) {
        if (g == 1 && !second)
            s = (struct scales){_mm512_setzero_ps(), _mm512_setzero_ps()};
        else if (g == 0 || (col + GROUP) >> map->shift != col >> map->shift || map->way == SCALES_COMPUTED)
            s = scales_at(map, p, col + g * GROUP);
        _mm512_storeu_ps(at->scale[g], s.scale);
        _mm512_storeu_ps(at->minimum[g], s.minimum);
    }
    if (kind != NIBBLES)
        square_bytes(at);
}

#endif
