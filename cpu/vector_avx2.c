/* vector_avx2.c: vector.c compiled for AVX2, and by hand what a compiler does not find: the decoding of nf4, fp4 and int8 and
 * eight Philox blocks at once.
 *
 * Only built with -mavx2 -mfma -mbmi2 (Makefile), only called when the machine has them.  Products and sums stay separate (no
 * contraction), so a decoded weight has the bits that quant.c gives. */
#include "cpu/vector.h"

#if defined(VECTOR_AVX2) && defined(__AVX2__)
#include <immintrin.h>
#include <string.h>

#include "base/rng.h"

/* ---- decoding ---- */

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
            decode_4bit(q->codes, table, quant_block_scale(q, e0 / block), e0, n, out);
        out += n;
        e0 += n;
    }
}

void vector_decode_avx2(const struct qmat *q, size_t row0, size_t n, real *out)
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

/* ---- Philox4x32-10, a block in each 64-bit lane (Salmon et al. 2011) ----
 *
 * VPMULUDQ reads the lower 32 bits of a lane and fills all 64: a word's upper half may hold anything, and no product needs to be put together. */

struct keys {
    __m256i word[10][2]; /* of every round */
};

static void philox_keys(struct keys *keys, uint64_t seed)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        keys->word[round][0] = _mm256_set1_epi64x(k0);
        keys->word[round][1] = _mm256_set1_epi64x(k1);
    }
}

struct words {
    __m256i c0, c1, c2, c3; /* word w of four counters */
};

static inline struct words philox_start(const struct vector_dropout *d, uint64_t first)
{
    __m256i counter = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)first), _mm256_setr_epi64x(0, 1, 2, 3));
    return (struct words){counter, _mm256_srli_epi64(counter, 32), _mm256_set1_epi64x(d->step), _mm256_set1_epi64x(RNG_DROPOUT)};
}

static inline struct words philox_round(struct words l, const __m256i key[2])
{
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i p0 = _mm256_mul_epu32(l.c0, m0), p1 = _mm256_mul_epu32(l.c2, m1);
    return (struct words){_mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(l.c1, key[0])), p1,
                          _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(l.c3, key[1])), p0};
}

/* From word w of block b to block b, word w. */
static inline void philox_store(struct words l, uint32_t bits[16])
{
    __m256i low = _mm256_blend_epi32(l.c0, _mm256_slli_epi64(l.c1, 32), 0xaa), high = _mm256_blend_epi32(l.c2, _mm256_slli_epi64(l.c3, 32), 0xaa);
    __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high); /* blocks 0 and 2, 1 and 3 */
    __m256i *to = (__m256i *)(void *)bits;
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
}

/* Two sets of four blocks side by side: a round waits for its multiplications, the other set fills the wait. */
static void philox_avx2(const struct vector_dropout *d, uint64_t first, size_t blocks, uint32_t *bits)
{
    struct keys keys;
    philox_keys(&keys, d->seed);
    for (size_t done = 0; done < blocks; done += 8, bits += 32) {
        struct words a = philox_start(d, first + done), b = philox_start(d, first + done + 4);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            a = philox_round(a, keys.word[round]);
            b = philox_round(b, keys.word[round]);
        }
        philox_store(a, bits);
        philox_store(b, bits + 16);
    }
}

static inline uint32_t at_least_avx2(const uint32_t bits[32], uint32_t threshold)
{
    uint32_t word = 0;
    const __m256i least = _mm256_set1_epi32((int32_t)threshold);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256i eight = _mm256_loadu_si256((const __m256i *)(const void *)(bits + 8 * j));
        __m256i reaches = _mm256_cmpeq_epi32(_mm256_max_epu32(eight, least), eight);
        word |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(reaches)) << 8 * j;
    }
    return word;
}

#define VECTOR_TABLE vector_avx2
#define VECTOR_AT_LEAST at_least_avx2
#define VECTOR_DECODE vector_decode_avx2
#define VECTOR_PHILOX philox_avx2
#define VECTOR_OWN_PHILOX 1
#include "cpu/vector.c"
#endif
