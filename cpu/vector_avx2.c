/* vector_avx2.c: vector.c compiled for AVX2, and by hand what a compiler does not find: the decoding of nf4, fp4 and int8 and
 * sixteen Philox blocks at once.
 *
 * Only built with -mavx2 -mfma -mbmi2 (Makefile), only called when the machine has them.  Products and sums stay separate (no
 * contraction), so a decoded weight has the bits that quant.c gives. */
#include "cpu/vector.h"

#if defined(VECTOR_AVX2) && defined(__AVX2__)
#include <immintrin.h>
#include <string.h>

#include "base/rng.h"

/* ---- decoding ---- */

/* The scale of the block that holds element e. */
static float block_scale(const struct qmat *q, size_t e)
{
    size_t b = e / (size_t)q->block;
    if (!q->double_quant)
        return q->scales[b];
    float s = quant_dynamic_table(true)[q->scale_codes[b]] * q->nested_absmax[b / 256] + q->nested_offset;
    return s > 0 ? s : 0;
}

/* Elements e0 .. e0+n-1 of one block: 16 levels in two registers, the code's high bit chooses between them.
 *
 *     bytes   |1 0|3 2|5 4|7 6|    element 2k in the high nibble: element j sits 4, 0, 12, 8, 20, 16, 28, 24 bits up */
static void decode_4bit(const uint8_t *codes, const float *table, float scale, size_t e0, size_t n, float *out)
{
    size_t i = 0;
    if (e0 % 2 == 1 && n > 0)
        out[i++] = table[codes[e0 / 2] & 15] * scale;
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8), s = _mm256_set1_ps(scale);
    const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    for (; i + 8 <= n; i += 8) {
        int32_t word;
        memcpy(&word, codes + (e0 + i) / 2, 4);
        __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
        __m256 choice = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
        __m256 level = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code), choice);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(level, s));
    }
    for (; i < n; i++) {
        size_t e = e0 + i;
        out[i] = table[e % 2 == 0 ? codes[e / 2] >> 4 : codes[e / 2] & 15] * scale;
    }
}

/* code * a * b, in this order. */
static void decode_int8(const int8_t *codes, float a, float b, size_t n, float *out)
{
    size_t i = 0;
    const __m256 va = _mm256_set1_ps(a), vb = _mm256_set1_ps(b);
    for (; i + 8 <= n; i += 8) {
        __m256i code = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(codes + i)));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(code), va), vb));
    }
    for (; i < n; i++)
        out[i] = (float)codes[i] * a * b;
}

static void decode_blocks(const struct qmat *q, size_t e0, size_t e1, float *out)
{
    const float *table = q->format == FORMAT_NF4 ? quant_nf4_table : quant_fp4_table;
    size_t block = (size_t)q->block;
    while (e0 < e1) {
        size_t end = (e0 / block + 1) * block, n = (end < e1 ? end : e1) - e0;
        if (q->format == FORMAT_INT8_64)
            decode_int8((const int8_t *)q->codes + e0, q->scales[e0 / block] / 127, 1, n, out);
        else
            decode_4bit(q->codes, table, block_scale(q, e0), e0, n, out);
        out += n;
        e0 += n;
    }
}

static void decode_avx2(const struct qmat *q, size_t row0, size_t n, real *out)
{
    size_t cols = q->cols;
    if (q->panels) {
        quant_decode_rows(q, row0, n, out);
        return;
    }
    switch (q->format) {
    case FORMAT_NF4:
    case FORMAT_FP4:
    case FORMAT_INT8_64: decode_blocks(q, row0 * cols, (row0 + n) * cols, out); break;
    case FORMAT_INT8:
        for (size_t i = row0; i < row0 + n; i++)
            decode_int8((const int8_t *)q->codes + i * cols, q->scales[i], 0.007874015718698502f, cols, out + (i - row0) * cols);
        break;
    default: quant_decode_rows(q, row0, n, out);
    }
}

/* ---- Philox4x32-10, one block a lane (Salmon et al. 2011) ---- */

/* High and low halves of a * m in each of eight lanes. */
static inline void multiply(__m256i a, __m256i m, __m256i *high, __m256i *low)
{
    __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

struct lanes {
    __m256i c0, c1, c2, c3; /* word w of eight counters */
};

static inline void philox_start(struct lanes *l, const struct vector_dropout *d, uint64_t first)
{
    uint32_t lo[8], hi[8];
    for (uint32_t b = 0; b < 8; b++) {
        lo[b] = (uint32_t)(first + b);
        hi[b] = (uint32_t)((first + b) >> 32);
    }
    l->c0 = _mm256_loadu_si256((const __m256i *)(const void *)lo);
    l->c1 = _mm256_loadu_si256((const __m256i *)(const void *)hi);
    l->c2 = _mm256_set1_epi32((int32_t)d->step);
    l->c3 = _mm256_set1_epi32(RNG_DROPOUT);
}

static inline void philox_round(struct lanes *l, __m256i k0, __m256i k1)
{
    const __m256i m0 = _mm256_set1_epi32((int32_t)0xD2511F53u), m1 = _mm256_set1_epi32((int32_t)0xCD9E8D57u);
    __m256i h0, l0, h1, l1;
    multiply(l->c0, m0, &h0, &l0);
    multiply(l->c2, m1, &h1, &l1);
    l->c0 = _mm256_xor_si256(_mm256_xor_si256(h1, l->c1), k0);
    l->c2 = _mm256_xor_si256(_mm256_xor_si256(h0, l->c3), k1);
    l->c1 = l1;
    l->c3 = l0;
}

/* From word w of block b to block b, word w: a 4 x 8 transpose. */
static inline void philox_store(const struct lanes *l, uint32_t bits[32])
{
    __m256i a = _mm256_unpacklo_epi32(l->c0, l->c1), b = _mm256_unpackhi_epi32(l->c0, l->c1);
    __m256i e = _mm256_unpacklo_epi32(l->c2, l->c3), f = _mm256_unpackhi_epi32(l->c2, l->c3);
    __m256i p = _mm256_unpacklo_epi64(a, e), q = _mm256_unpackhi_epi64(a, e); /* blocks 0 and 4, 1 and 5 */
    __m256i r = _mm256_unpacklo_epi64(b, f), s = _mm256_unpackhi_epi64(b, f); /* blocks 2 and 6, 3 and 7 */
    __m256i *to = (__m256i *)(void *)bits;
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(p, q, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(r, s, 0x20));
    _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(p, q, 0x31));
    _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(r, s, 0x31));
}

/* Two sets of eight blocks side by side: a round waits for its multiplications, the other set fills the wait. */
static void philox_avx2(const struct vector_dropout *d, uint64_t first, uint32_t bits[64])
{
    struct lanes a, b;
    philox_start(&a, d, first);
    philox_start(&b, d, first + 8);
    uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32);
    for (int round = 0; round < 10; round++) {
        __m256i key0 = _mm256_set1_epi32((int32_t)k0), key1 = _mm256_set1_epi32((int32_t)k1);
        philox_round(&a, key0, key1);
        philox_round(&b, key0, key1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    philox_store(&a, bits);
    philox_store(&b, bits + 32);
}

#define VECTOR_TABLE vector_avx2
#define VECTOR_DECODE decode_avx2
#define VECTOR_PHILOX philox_avx2
#define VECTOR_OWN_PHILOX 1
#include "cpu/vector.c"
#endif
