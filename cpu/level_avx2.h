/* level_avx2.h: what the files of the AVX2 level share: reading panels (quant_panel.h) into registers of eight floats.  Only included where
 * the compiler has AVX2, FMA and F16C. */
#ifndef VENEER_CPU_LEVEL_AVX2_H
#define VENEER_CPU_LEVEL_AVX2_H
#include <immintrin.h>

#include "cpu/level_codes.h"

#define AVX2_INLINE static inline __attribute__((always_inline))

AVX2_INLINE __m256i avx2_words(const uint32_t *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

struct avx2_book {
    __m256 low, high;   /* 16 levels */
    const float *wide;  /* 256 levels */
};

AVX2_INLINE struct avx2_book avx2_open_book(const struct qmat *W)
{
    const float *table = code_levels(W->format);
    return (struct avx2_book){_mm256_loadu_ps(table), _mm256_loadu_ps(table + 8), W->format == FORMAT_NF8 ? quant_nf8_table() : NULL};
}

/* The levels of 4-bit codes: `index` has the code in its low bits, `top` its highest bit in bit 31; other bits do not matter. */
AVX2_INLINE __m256 avx2_level(const struct avx2_book *book, __m256i index, __m256i top)
{
    __m256 low = _mm256_permutevar8x32_ps(book->low, index), high = _mm256_permutevar8x32_ps(book->high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(top));
}

/* Values (before their scale) of codes that stand in the low bits of dwords, with other codes above them. */
AVX2_INLINE __m256 avx2_low_values(enum code_kind kind, const struct avx2_book *book, __m256i codes)
{
    switch (kind) {
    case BOOK4: return avx2_level(book, codes, _mm256_slli_epi32(codes, 28));
    case CODE4: return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
    case CENTRED4:
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(15)), _mm256_set1_epi32(8)));
    case CODE8:
    case LIFTED8: return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(codes, 24), 24));
    default: return _mm256_i32gather_ps(book->wide, _mm256_and_si256(codes, _mm256_set1_epi32(255)), 4);
    }
}

/* Values of column j of the group in `words`, one row a lane. */
AVX2_INLINE __m256 avx2_values(enum code_kind kind, const struct avx2_book *book, __m256i words, int j)
{
    return avx2_low_values(kind, book, _mm256_srli_epi32(words, code_shift(kind, j)));
}

/* Scales and minima of 16 rows, as two registers each. */
struct avx2_scales {
    __m256 scale[2], minimum[2];
};

/* The runs of a panel's columns that share their scales, one after the other. */
struct avx2_runs {
    const struct qmat *W;
    size_t p, run, end;     /* panel; columns of a run; first column behind this run */
    const float *floats;    /* scales of this run where they lie in panels ... */
    const uint16_t *halves; /* ... or as ggml's; neither: of superblocks, pairs, or quant_panel_scales finds them */
    const struct scale_map *super;
    bool pairs;             /* of affine groups */
    size_t minima;          /* q4_1, q5_1: their minima stand so far behind the scales */
    bool over_127;          /* int8_64's scales are absmax */
    float no_minimum;       /* code_no_minimum */
};

/* The run with column k of panel p. */
AVX2_INLINE struct avx2_runs avx2_first_run(const struct scale_map *map, size_t p, size_t k)
{
    enum format format = map->q->format;
    struct avx2_runs r = {.W = map->q, .p = p, .run = map->run, .over_127 = format == FORMAT_INT8_64, .no_minimum = code_no_minimum(format)};
    size_t i = k / r.run, at = (p * map->runs + i) * PANEL_ROWS;
    r.end = (i + 1) * r.run;
    if (map->way == SCALES_HALF) {
        r.halves = (const uint16_t *)(const void *)map->scale + at;
        r.minima = map->minimum ? map->q->rows * map->runs : 0;
    } else if (map->way == SCALES_FLOAT)
        r.floats = (const float *)(const void *)map->scale + at;
    r.super = map->way == SCALES_SUPER ? map : NULL;
    r.pairs = map->way == SCALES_PAIRS;
    return r;
}

AVX2_INLINE void avx2_next_run(struct avx2_runs *r)
{
    r->end += r->run;
    r->floats = r->floats ? r->floats + PANEL_ROWS : NULL;
    r->halves = r->halves ? r->halves + PANEL_ROWS : NULL;
}

/* Affine groups: a gather for eight rows. */
AVX2_INLINE void avx2_pair_scales(const struct qmat *W, size_t p, size_t k, struct avx2_scales *s)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t h = 0; h < 2; h++) {
        const struct pair_place place = pairs_at(W, p * PANEL_ROWS + 8 * h, k);
        __m256i element = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_set1_epi32((int)W->cols), lane), _mm256_set1_epi32((int)place.rest));
        __m256i pairs = _mm256_i32gather_epi32((const int *)(const void *)place.of, _mm256_srli_epi32(element, AFFINE_SHIFT), 4);
        __m256i apart = _mm256_packus_epi32(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(pairs, 16));
        apart = _mm256_permute4x64_epi64(apart, 0xd8); /* scales, then zeros */
        s->scale[h] = _mm256_cvtph_ps(_mm256_castsi256_si128(apart));
        __m256 zero = _mm256_cvtph_ps(_mm256_extracti128_si256(apart, 1));
        s->minimum[h] = _mm256_xor_ps(_mm256_mul_ps(zero, s->scale[h]), _mm256_set1_ps(-0.0f));
    }
}

/* A superblock's f16 numbers times a run's bytes, of eight rows. */
AVX2_INLINE __m256 avx2_super_at(const uint8_t *whole, size_t super, const uint8_t *fine, size_t at)
{
    __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(whole + 2 * super)));
    __m256i bytes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(fine + at)));
    return _mm256_mul_ps(d, _mm256_cvtepi32_ps(bytes));
}

AVX2_INLINE void avx2_super_scales(const struct scale_map *map, size_t p, size_t k, struct avx2_scales *s)
{
    size_t at = (p * map->runs + k / map->run) * PANEL_ROWS, super = (p * (map->q->cols / GGML_SUPERBLOCK) + k / GGML_SUPERBLOCK) * PANEL_ROWS;
    for (size_t h = 0; h < 2; h++) {
        s->scale[h] = avx2_super_at(map->scale, super + 8 * h, map->fine, at + 8 * h);
        if (map->minimum)
            s->minimum[h] = _mm256_xor_ps(avx2_super_at(map->minimum, super + 8 * h, map->fine_minimum, at + 8 * h), _mm256_set1_ps(-0.0f));
    }
}

/* As quant_panel_scales; int8's is absmax alone, its 1/127 is left to the caller. */
AVX2_INLINE void avx2_scales_of(const struct avx2_runs *r, struct avx2_scales *s)
{
    s->minimum[0] = s->minimum[1] = _mm256_set1_ps(r->no_minimum);
    if (r->floats) {
        for (int h = 0; h < 2; h++) {
            s->scale[h] = _mm256_loadu_ps(r->floats + 8 * h);
            if (r->over_127)
                s->scale[h] = _mm256_div_ps(s->scale[h], _mm256_set1_ps(127));
        }
        return;
    }
    if (r->halves) {
        const __m128i *halves = (const __m128i *)(const void *)r->halves, *minima = (const __m128i *)(const void *)(r->halves + r->minima);
        for (int h = 0; h < 2; h++) {
            s->scale[h] = _mm256_cvtph_ps(_mm_loadu_si128(halves + h));
            if (r->minima)
                s->minimum[h] = _mm256_cvtph_ps(_mm_loadu_si128(minima + h));
        }
        return;
    }
    if (r->super) {
        avx2_super_scales(r->super, r->p, r->end - r->run, s);
        return;
    }
    if (r->pairs) {
        avx2_pair_scales(r->W, r->p, r->end - r->run, s);
        return;
    }
    float scale[PANEL_ROWS];
    quant_panel_scales(r->W, r->p, r->end - r->run, scale, NULL);
    for (int h = 0; h < 2; h++)
        s->scale[h] = _mm256_loadu_ps(scale + 8 * h);
}

bool avx2_few(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon);
/* The same with 4-bit codes and x in 16-bit fixed point (level_avx2_words.c). */
bool avx2_few_words(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon);

#endif
