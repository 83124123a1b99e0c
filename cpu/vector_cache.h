/* vector_cache.h: keys and values in a cache, reals or f16: scores of queries, weighted sums.  Part of vector.c, whose lanes and sums it uses, for the files that
 * compile it for an instruction set. */
#ifndef VENEER_VECTOR_CACHE_H
#define VENEER_VECTOR_CACHE_H
#if defined(__F16C__) && defined(VECTOR_AVX2)
#include <immintrin.h>
#define VECTOR_F16C 1
#elif defined(__aarch64__) && !defined(VENEER_DOUBLE)
#include <arm_neon.h>
#define VECTOR_NEON 1
#endif

/* Lanes of x, then of y, by their places: gcc and clang have each a name of their own for it. */
#if defined(__clang__)
#define PICK(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define PICK(x, y, ...) __builtin_shuffle(x, y, (lane_places){__VA_ARGS__})
#endif

/* x0 + x1, y0 + y1, ...: a macro, for a function that takes such vectors has another ABI where there is no AVX. */
#define ADD_NEIGHBOURS(x, y) (PICK(x, y, 0, 8, 2, 10, 4, 12, 6, 14) + PICK(x, y, 1, 9, 3, 11, 5, 13, 7, 15))

/* to[i] = the sum of sum[i]'s lanes, four at once. */
static inline void sum_lanes(const lanes sum[4], real to[4])
{
    lanes a = ADD_NEIGHBOURS(sum[0], sum[1]), b = ADD_NEIGHBOURS(sum[2], sum[3]);
    lanes all = PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    for (int i = 0; i < 4; i++)
        to[i] = all[i] + all[i + 4];
}

/* ---- keys and values in a cache: reals, or f16 ----
 *
 * The loops below are written once for both and for one, two, three heads: whoever calls them with constants gets a loop of its own. */

#define PER_KIND static inline __attribute__((always_inline))

/* What f16 says, NaN and numbers below 2^-14 too: choices without branches. */
static inline real widened(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu, bits;
    float small = (float)(int32_t)magnitude * 0x1p-24f, x;
    memcpy(&bits, &small, sizeof bits);
    bits = magnitude < 0x400 ? bits : (magnitude << 13) + (magnitude < 0x7c00 ? 112u << 23 : 224u << 23);
    bits |= (uint32_t)(h & 0x8000u) << 16;
    memcpy(&x, &bits, sizeof x);
    return (real)x;
}

/* Eight of them. */
static inline void widen(lanes *to, const uint16_t *from)
{
#if defined(VECTOR_F16C)
    *to = (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
#elif defined(VECTOR_NEON)
    float32x4_t two[2] = {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))), vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4)))};
    memcpy(to, two, sizeof two);
#else
    real x[8];
    for (int i = 0; i < 8; i++)
        x[i] = widened(from[i]);
    memcpy(to, x, sizeof x);
#endif
}

static inline void narrow(uint16_t *to, const real *x)
{
#if defined(VECTOR_F16C)
    const __m256 most = _mm256_set1_ps(65504), least = _mm256_set1_ps(-65504);
    __m256 within = _mm256_max_ps(least, _mm256_min_ps(most, _mm256_loadu_ps(x))); /* of a NaN both give the second operand */
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT));
#elif defined(VECTOR_NEON)
    const float32x4_t most = vdupq_n_f32(65504), least = vdupq_n_f32(-65504);
    for (int i = 0; i < 8; i += 4) /* of a NaN both give a NaN */
        vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vmaxq_f32(least, vminq_f32(most, vld1q_f32(x + i))))));
#else
    for (int i = 0; i < 8; i++)
        to[i] = f16_within_range((float)x[i]);
#endif
}

static void to_f16(uint16_t *restrict to, const real *restrict x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        narrow(to + i, x + i);
    for (; i < n; i++)
        to[i] = f16_within_range((float)x[i]);
}

static void from_f16(real *restrict y, const uint16_t *restrict from, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        lanes eight;
        widen(&eight, from + i);
        memcpy(y + i, &eight, sizeof eight);
    }
    for (; i < n; i++)
        y[i] = widened(from[i]);
}

/* Eight numbers of rows from `at` on, and one. */
PER_KIND void load_lanes(lanes *to, const void *rows, bool f16, size_t at)
{
    if (f16)
        widen(to, (const uint16_t *)rows + at);
    else
        *to = *lanes_at((const real *)rows + at);
}

PER_KIND real load_one(const void *rows, bool f16, size_t at)
{
    return f16 ? widened(((const uint16_t *)rows)[at]) : ((const real *)rows)[at];
}

/* What is left of D behind whole eights, of row i. */
PER_KIND void dots_tail(real *y, const real *x, const void *rows, bool f16, size_t i, size_t D)
{
    for (size_t d = D / 8 * 8; d < D; d++)
        *y += x[d] * load_one(rows, f16, i * D + d);
}

PER_KIND void dots_of(real *y, size_t ldy, const real *x, size_t heads, const void *rows, bool f16, size_t n, size_t D)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        lanes sum[VECTOR_HEADS][4] = {{{0}}}, row;
        for (size_t d = 0; d < D / 8; d++)
            for (size_t j = 0; j < 4; j++) {
                load_lanes(&row, rows, f16, (i + j) * D + 8 * d);
                for (size_t h = 0; h < heads; h++)
                    sum[h][j] += lanes_at(x + h * D)[d] * row;
            }
        for (size_t h = 0; h < heads; h++) {
            sum_lanes(sum[h], y + h * ldy + i);
            for (size_t j = 0; D % 8 != 0 && j < 4; j++)
                dots_tail(y + h * ldy + i + j, x + h * D, rows, f16, i + j, D);
        }
    }
    for (; i < n; i++)
        for (size_t h = 0; h < heads; h++) {
            lanes sum = {0}, row;
            for (size_t d = 0; d < D / 8; d++) {
                load_lanes(&row, rows, f16, i * D + 8 * d);
                sum += lanes_at(x + h * D)[d] * row;
            }
            y[h * ldy + i] = lanes_sum(&sum);
            dots_tail(y + h * ldy + i, x + h * D, rows, f16, i, D);
        }
}

/* Columns d .. d + 8 wide - 1: their sums stay in registers.  A single head's are two chains, of even rows and of odd ones, so that no addition waits for the
 * one before. */
PER_KIND void weighted_columns(real *y, size_t ldy, const real *w, size_t ldw, size_t heads, const void *rows, bool f16, size_t n, size_t D, size_t d, size_t wide)
{
    enum { WIDEST = 4 };
    lanes sum[VECTOR_HEADS][WIDEST] = {{{0}}}, odd[WIDEST] = {{0}}, row;
    size_t i = 0;
    for (; heads == 1 && i + 2 <= n; i += 2)
        for (size_t j = 0; j < wide; j++) {
            load_lanes(&row, rows, f16, i * D + d + 8 * j);
            sum[0][j] += w[i] * row;
            load_lanes(&row, rows, f16, (i + 1) * D + d + 8 * j);
            odd[j] += w[i + 1] * row;
        }
    for (; i < n; i++)
        for (size_t j = 0; j < wide; j++) {
            load_lanes(&row, rows, f16, i * D + d + 8 * j);
            for (size_t h = 0; h < heads; h++)
                sum[h][j] += w[h * ldw + i] * row;
        }
    for (size_t h = 0; h < heads; h++)
        for (size_t j = 0; j < wide; j++) {
            lanes all = sum[h][j];
            if (heads == 1)
                all += odd[j];
            memcpy(y + h * ldy + d + 8 * j, &all, sizeof all);
        }
}

PER_KIND void weighted_of(real *y, size_t ldy, const real *w, size_t ldw, size_t heads, const void *rows, bool f16, size_t n, size_t D)
{
    size_t d = 0;
    for (; d + 32 <= D; d += 32)
        weighted_columns(y, ldy, w, ldw, heads, rows, f16, n, D, d, 4);
    for (; d + 8 <= D; d += 8)
        weighted_columns(y, ldy, w, ldw, heads, rows, f16, n, D, d, 1);
    for (; d < D; d++)
        for (size_t h = 0; h < heads; h++) {
            real sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += w[h * ldw + i] * load_one(rows, f16, i * D + d);
            y[h * ldy + d] = sum;
        }
}

static void dots(real *y, size_t ldy, const real *x, size_t heads, const void *rows, bool f16, size_t n, size_t D)
{
    switch (2 * heads + f16) {
    case 2: dots_of(y, ldy, x, 1, rows, false, n, D); break;
    case 3: dots_of(y, ldy, x, 1, rows, true, n, D); break;
    case 4: dots_of(y, ldy, x, 2, rows, false, n, D); break;
    case 5: dots_of(y, ldy, x, 2, rows, true, n, D); break;
    case 6: dots_of(y, ldy, x, 3, rows, false, n, D); break;
    default: dots_of(y, ldy, x, 3, rows, true, n, D);
    }
}

static void weighted(real *y, size_t ldy, const real *w, size_t ldw, size_t heads, const void *rows, bool f16, size_t n, size_t D)
{
    switch (2 * heads + f16) {
    case 2: weighted_of(y, ldy, w, ldw, 1, rows, false, n, D); break;
    case 3: weighted_of(y, ldy, w, ldw, 1, rows, true, n, D); break;
    case 4: weighted_of(y, ldy, w, ldw, 2, rows, false, n, D); break;
    case 5: weighted_of(y, ldy, w, ldw, 2, rows, true, n, D); break;
    case 6: weighted_of(y, ldy, w, ldw, 3, rows, false, n, D); break;
    default: weighted_of(y, ldy, w, ldw, 3, rows, true, n, D);
    }
}

#endif
