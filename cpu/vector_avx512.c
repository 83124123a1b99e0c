/* vector_avx512.c: vector.c compiled for AVX-512, eight Philox blocks in a register, masks as the machine has them.
 *
 * Only built with the flags of level_avx512 (Makefile), only called when the machine has them.  Every sum of vector.c says its own order, so the bits are
 * those of vector_avx2. */
#include "cpu/vector.h"

#if defined(VECTOR_AVX2) && defined(__AVX512DQ__)
#include <immintrin.h>

#include "base/rng.h"

struct words {
    __m512i c0, c1, c2, c3; /* word w of eight counters, each in the lower half of a 64-bit lane (vector_avx2.c) */
};

static inline struct words philox_start(const struct vector_dropout *d, uint64_t first)
{
    __m512i counter = _mm512_add_epi64(_mm512_set1_epi64((int64_t)first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    return (struct words){counter, _mm512_srli_epi64(counter, 32), _mm512_set1_epi64(d->step), _mm512_set1_epi64(RNG_DROPOUT)};
}

static inline struct words philox_round(struct words l, const uint64_t key[2])
{
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    enum { XOR3 = 0x96 };
    __m512i p0 = _mm512_mul_epu32(l.c0, m0), p1 = _mm512_mul_epu32(l.c2, m1);
    return (struct words){_mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), l.c1, _mm512_set1_epi64((int64_t)key[0]), XOR3), p1,
                          _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), l.c3, _mm512_set1_epi64((int64_t)key[1]), XOR3), p0};
}

/* From word w of block b to block b, word w. */
static inline void philox_store(struct words l, uint32_t bits[32])
{
    __m512i low = _mm512_mask_blend_epi32(0xaaaa, l.c0, _mm512_slli_epi64(l.c1, 32)), high = _mm512_mask_blend_epi32(0xaaaa, l.c2, _mm512_slli_epi64(l.c3, 32));
    _mm512_storeu_si512(bits, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high));
    _mm512_storeu_si512(bits + 16, _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), high));
}

/* Two sets of eight blocks side by side: while one waits for its multiplications the other goes on. */
static void philox_avx512(const struct vector_dropout *d, uint64_t first, size_t blocks, uint32_t *bits)
{
    uint64_t keys[10][2]; /* of every round: operands that are broadcast from memory */
    for (uint32_t round = 0; round < 10; round++) {
        keys[round][0] = (uint32_t)d->seed + round * 0x9E3779B9u;
        keys[round][1] = (uint32_t)(d->seed >> 32) + round * 0xBB67AE85u;
    }
    for (size_t done = 0; done < blocks; done += 16, bits += 64) {
        struct words a = philox_start(d, first + done), b = philox_start(d, first + done + 8);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            a = philox_round(a, keys[round]);
            b = philox_round(b, keys[round]);
        }
        philox_store(a, bits);
        if (done + 8 < blocks)
            philox_store(b, bits + 32);
    }
}

static inline uint32_t at_least_avx512(const uint32_t bits[32], uint32_t threshold)
{
    const __m512i least = _mm512_set1_epi32((int32_t)threshold);
    uint32_t low = _mm512_cmpge_epu32_mask(_mm512_loadu_si512(bits), least), high = _mm512_cmpge_epu32_mask(_mm512_loadu_si512(bits + 16), least);
    return high << 16 | low;
}

/* 8 or 16 bits of a mask are a mask of lanes as they lie: first is a multiple of 8. */
static void apply_mask(real *restrict y, const real *restrict x, const uint32_t *restrict mask, size_t first, real a, size_t n, bool add)
{
    const uint8_t *bits = (const uint8_t *)mask + first / 8;
    for (size_t i = 0; i < n; i += 16, bits += 2) {
        size_t some = n - i < 16 ? n - i : 16;
        __mmask16 there = (__mmask16)(0xffff >> (16 - some)), kept = bits[0];
        if (some > 8)
            kept = (__mmask16)(kept | bits[1] << 8);
        __m512 z = _mm512_mul_ps(_mm512_maskz_mov_ps(kept, _mm512_set1_ps(a)), _mm512_maskz_loadu_ps(there, x + i)); /* 0 x: an infinity is not lost */
        _mm512_mask_storeu_ps(y + i, there, add ? _mm512_add_ps(z, _mm512_maskz_loadu_ps(there, y + i)) : z);
    }
}

#define VECTOR_TABLE vector_avx512
#define VECTOR_AT_LEAST at_least_avx512
#define VECTOR_DECODE vector_decode_avx2
#define VECTOR_PHILOX philox_avx512
#define VECTOR_OWN_PHILOX 1
#define VECTOR_OWN_MASK 1
#include "cpu/vector.c"
#else
typedef int vector_avx512_is_for_x86; /* ISO C wants a declaration in every file */
#endif
