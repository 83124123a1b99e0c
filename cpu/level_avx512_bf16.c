/* level_avx512_bf16.c: AVX-512 BF16 (with VBMI): products of pairs of bf16, summed in fp32 by VDPBF16PS, a tile of 12 x 32.
 *
 * Numbers are rounded to bf16 to nearest even; a product of two is exact, denormals count as zero (the instruction's rule).  Weights in
 * panels become bf16(value * scale) in panels; with few rows they stay codes, exact in bf16 or nearly so, and the scale comes after the sum. */
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && !defined(VENEER_DOUBLE)
#include "cpu/level_avx512.h"
#include "cpu/vector.h"

#define UNIT 2

INLINE __m512 multiply_add(__m512 sum, __m512 a, __m512 b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)as_si(a), (__m512bh)as_si(b));
}

INLINE __m512 unit_of_ones(void)
{
    return as_ps(_mm512_set1_epi16(0x3f80));
}

/* bf16 of low's lanes in words 0-15, of high's in words 16-31. */
INLINE __m512i round_both(__m512 low, __m512 high)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

INLINE __m512i load_units(enum cell cell, const void *x, size_t i, size_t left)
{
    if (cell == CELL_BF16)
        return _mm512_maskz_loadu_epi16(left >= 32 ? 0xffffffff : (1u << left) - 1, (const uint16_t *)x + i);
    return round_both(load_cells(cell, x, i, first(left)), load_cells(cell, x, i + LANES, first(left > LANES ? left - LANES : 0)));
}

INLINE __m512i cross_units(enum cell cell, const void *x, size_t i, size_t ldx, size_t left, __mmask16 some)
{
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                         16, 0);
    __m512 odd = left > 1 ? load_cells(cell, x, i + ldx, some) : _mm512_setzero_ps();
    return _mm512_permutexvar_epi16(zip, round_both(load_cells(cell, x, i, some), odd));
}

/* Lanes 2r and 2r+1: x's lane r, of its lower or upper eight. */
INLINE __m512 twice_low(__m512 x)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), x);
}

INLINE __m512 twice_high(__m512 x)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), x);
}

/* Two rounded registers side by side are one of pairs when lanes 2r, 2r+1 of the first hold a pair of row r < 8 and those of the second one
 * of row 8 + r.  Nibbles: widening words gives these lanes.  Bytes: first the low words of all dwords (columns 0, 1), then the high words. */
INLINE void decode_units(enum kind kind, const uint8_t *from, const float *table, struct scales s, __m512i w[4])
{
    const __m512i low_words_first = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12,
                                                     10, 8, 6, 4, 2, 0);
    const __m512 table16 = _mm512_loadu_ps(table);
    __m512 scale[2] = {twice_low(s.scale), twice_high(s.scale)}, minimum[2] = {twice_low(s.minimum), twice_high(s.minimum)};
    uint8_t bytes[128];
    if (kind != NIBBLES)
        UNROLL for (int g = 0; g < 2; g++)
            _mm512_storeu_si512(bytes + g * 64, _mm512_permutexvar_epi16(low_words_first, _mm512_loadu_si512(from + g * 64)));
    UNROLL for (unsigned j = 0; j < 4; j++) {
        __m512 half[2];
        UNROLL for (int h = 0; h < 2; h++) {
            __m512i codes = kind == NIBBLES ? _mm512_srli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(from + h * 32))), 4 * j)
                                            : widen(kind, _mm_loadu_si128((const void *)(bytes + j * 32 + h * 16)));
            half[h] = scaled(kind, values(kind, codes, table, table16), scale[h], minimum[h]);
        }
        w[j] = round_both(half[0], half[1]);
    }
}

/* A pair of numbers in lanes 0, 1 and again in 2, 3 ... */
INLINE __m512i pairs_of(const void *two)
{
    int64_t both;
    __builtin_memcpy(&both, two, 8);
    return _mm512_set1_epi64(both);
}

/* Codes of rows r, r+1 (r even) of a group of 8 columns: lanes 2c and 2c+1 are column c. */
INLINE __m512i pair_codes(enum kind kind, const struct square *at, int r, int group)
{
    const __m512i places = _mm512_setr_epi32(0, 0, 16, 16, 4, 4, 20, 20, 8, 8, 24, 24, 12, 12, 28, 28);
    if (kind == NIBBLES)
        return group == 0 || at->second ? _mm512_srlv_epi32(pairs_of(at->codes + group * 64 + r * 4), places) : _mm512_setzero_si512();
    __m128i a = _mm_loadl_epi64((const void *)(at->bytes[r % 4] + r / 4 * 16 + group * 8));
    __m128i b = _mm_loadl_epi64((const void *)(at->bytes[r % 4 + 1] + r / 4 * 16 + group * 8));
    return widen(kind, _mm_unpacklo_epi8(a, b));
}

INLINE void decode_across(enum kind kind, const struct square *at, const float *table, __m512i w[8])
{
    const __m512 table16 = _mm512_loadu_ps(table);
    UNROLL for (int r = 0; r < LANES; r += 2) {
        __m512 half[2];
        UNROLL for (int g = 0; g < 2; g++)
            half[g] = scaled(kind, values(kind, pair_codes(kind, at, r, g), table, table16), as_ps(pairs_of(at->scale[g] + r)),
                             as_ps(pairs_of(at->minimum[g] + r)));
        w[r / 2] = round_both(half[0], half[1]);
    }
}

/* ---- nibbles as bf16, for few rows (bytes: level_avx512_words.h) ---- */

struct looks {
    __m512i words; /* 16 bf16, twice over */
    float factor;  /* of all sums */
};

struct look {
    __m512i codes;
};

/* NF4's sixteen levels times 1.18872 lie nearest to bf16 numbers: the largest relative error is 1.6e-3 instead of 3.9e-3.  FP4's times 12
 * are bf16 numbers. */
static struct looks make_looks(enum format format)
{
    struct looks looks;
    float times = format == FORMAT_NF4 ? 1.18872f : format == FORMAT_FP4 ? 12 : 1;
    __m256i words = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(values_of(format)), _mm512_set1_ps(times)));
    looks.words = _mm512_broadcast_i64x4(words);
    looks.factor = format == FORMAT_INT8 ? 0.007874015718698502f : 1 / times;
    return looks;
}

INLINE struct look look_at(enum kind kind, const uint8_t *codes, const struct looks *looks)
{
    (void)kind, (void)looks;
    return (struct look){_mm512_loadu_si512(codes)};
}

/* Words of pair j to the lowest bits; what stands above them is ignored. */
INLINE __m512i nibble(__m512i codes, size_t j)
{
    return j == 0 ? codes : j == 1 ? _mm512_srli_epi16(codes, 4) : j == 2 ? _mm512_srli_epi16(codes, 8) : _mm512_srli_epi16(codes, 12);
}

INLINE __m512 look_up(enum kind kind, const struct look *look, const struct looks *looks, size_t j)
{
    (void)kind;
    return as_ps(_mm512_permutexvar_epi16(nibble(look->codes, j), looks->words));
}

#include "cpu/level_avx512_micro.h"

extern const struct int8_product int8_avx512; /* level_avx512_int8.c */

static bool supported(void)
{
    return level_avx512.supported() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi");
}

static const struct micro micro_bf16 = {.name = "avx512 bf16", .unit = UNIT, .MR = MR, .NR = NR, .pack = pack, .pack_t = pack_t, .panel = panel,
                                        .panel_t = panel_t, .kernel = kernel, .few = few};

const struct level level_avx512_bf16 = {.name = "avx512_bf16", .supported = supported, .f32 = &micro_avx512, .bf16 = &micro_bf16, .int8 = &int8_avx512,
                                        .vector = &vector_avx512};
#else
typedef int level_avx512_bf16_is_for_x86; /* ISO C wants a declaration in every file */
#endif
