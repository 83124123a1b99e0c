/* level_avx512.c: AVX-512 F, BW, VL, DQ: products in fp32, a tile of 12 x 32.  The bits of every other level. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && !defined(VENEER_DOUBLE)
#include "cpu/level_avx512.h"
#include "cpu/vector.h"

#define UNIT 1

INLINE __m512 multiply_add(__m512 sum, __m512 a, __m512 b)
{
    return _mm512_fmadd_ps(a, b, sum);
}

INLINE __m512 unit_of_ones(void)
{
    return _mm512_set1_ps(1);
}

INLINE __m512i load_units(enum cell cell, const void *x, size_t i, size_t left)
{
    return as_si(load_cells(cell, x, i, first(left)));
}

INLINE __m512i cross_units(enum cell cell, const void *x, size_t i, size_t ldx, size_t left, __mmask16 some)
{
    (void)ldx, (void)left;
    return as_si(load_cells(cell, x, i, some));
}

/* Column c of a group of nibbles lies in bits `place` of the dwords. */
INLINE unsigned place(int c)
{
    return (unsigned)(c % 2 * 16 + c / 2 * 4);
}

/* Of a register of codes, that of column c in each dword, as `values` wants it. */
INLINE __m512i code_of(enum kind kind, __m512i codes, int c)
{
    if (kind == NIBBLES)
        return _mm512_srli_epi32(codes, place(c));
    if (kind == BYTES_TABLE)
        return _mm512_and_si512(_mm512_srli_epi32(codes, (unsigned)(c * 8)), _mm512_set1_epi32(255));
    return _mm512_srai_epi32(_mm512_slli_epi32(codes, (unsigned)(24 - c * 8)), 24);
}

INLINE void decode_units(enum kind kind, const uint8_t *from, const float *table, struct scales s, __m512i w[8])
{
    const __m512 table16 = _mm512_loadu_ps(table);
    const int columns = (int)columns_of(kind);
    UNROLL for (int c = 0; c < GROUP; c++) {
        __m512i codes = code_of(kind, _mm512_loadu_si512(from + c / columns * 64), c % columns);
        w[c] = as_si(scaled(kind, values(kind, codes, table, table16), s.scale, s.minimum));
    }
}

/* Lanes 0-7 from one number, 8-15 from another. */
INLINE __m512i halves(int a, int b)
{
    return _mm512_mask_set1_epi32(_mm512_set1_epi32(a), 0xff00, b);
}

INLINE __m512 halves_ps(float a, float b)
{
    return _mm512_mask_broadcastss_ps(_mm512_set1_ps(a), 0xff00, _mm_set_ss(b));
}

/* The codes of row r, a column in each lane. */
INLINE __m512i row_codes(enum kind kind, const struct square *at, int r)
{
    const __m512i places = _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 0, 16, 4, 20, 8, 24, 12, 28);
    if (kind != NIBBLES)
        return widen(kind, _mm_loadu_si128((const void *)(at->bytes[r % 4] + r / 4 * 16)));
    int a, b = 0;
    __builtin_memcpy(&a, at->codes + r * 4, 4);
    if (at->second)
        __builtin_memcpy(&b, at->codes + 64 + r * 4, 4);
    return _mm512_srlv_epi32(halves(a, b), places);
}

INLINE void decode_across(enum kind kind, const struct square *at, const float *table, __m512i w[16])
{
    const __m512 table16 = _mm512_loadu_ps(table);
    UNROLL for (int r = 0; r < LANES; r++)
        w[r] = as_si(scaled(kind, values(kind, row_codes(kind, at, r), table, table16), halves_ps(at->scale[0][r], at->scale[1][r]),
                            halves_ps(at->minimum[0][r], at->minimum[1][r])));
}

/* Values without their scales, for few rows. */
struct looks {
    __m512 table;
    float factor; /* of all sums */
};

struct look {
    __m512i codes;
};

static struct looks make_looks(enum format format)
{
    return (struct looks){_mm512_loadu_ps(values_of(format)), format == FORMAT_INT8 ? 0.007874015718698502f : 1};
}

INLINE struct look look_at(enum kind kind, const uint8_t *codes, const struct looks *looks)
{
    (void)looks;
    (void)kind;
    return (struct look){_mm512_loadu_si512(codes)};
}

INLINE __m512 look_up(enum kind kind, const struct look *look, const struct looks *looks, size_t j)
{
    return values(kind, code_of(kind, look->codes, (int)j), NULL, looks->table);
}

#include "cpu/level_avx512_micro.h"

static bool supported(void)
{
    /* libgcc asks the system too (XGETBV): these are true only where it keeps the registers. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

const struct micro micro_avx512 = {.name = "avx512 f32", .unit = UNIT, .MR = MR, .NR = NR, .pack = pack, .pack_t = pack_t, .panel = panel,
                                   .panel_t = panel_t, .kernel = kernel, .few = few};

const struct level level_avx512 = {.name = "avx512", .supported = supported, .f32 = &micro_avx512, .vector = &vector_avx512};
#else
typedef int level_avx512_is_for_x86; /* ISO C wants a declaration in every file */
#endif
