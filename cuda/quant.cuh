/* quant.cuh: eight consecutive elements of a matrix in any format, with the CPU's bits (quant.h, quant_ggml.h, quant_affine.h draw the layouts).
 *
 * A matrix on the device has the layout of files, never panels.  Its pieces begin at multiples of 64 bytes and are whole multiples of them (base/arena.h),
 * zeroed: the last eight may be read whole where the matrix ends inside them.  A group of eight never crosses a block: blocks are multiples of 8. */
#ifndef VENEER_CUDA_QUANT_CUH
#define VENEER_CUDA_QUANT_CUH
#include "cuda/kernels.cuh"

struct eight {
    float v[8];
};

/* Two bytes at an even address: ggml's blocks have an even number of them. */
__device__ static inline uint32_t u16_at(const uint8_t *p)
{
    return *(const uint16_t *)p;
}

/* Scale of a block of nf4, fp4 (quant_block_scale). */
__device__ static inline float block_scale(const struct qmat &q, size_t block, const struct code_books *books)
{
    if (!q.double_quant)
        return q.scales[block];
    float s = __fadd_rn(__fmul_rn(books->dynamic[q.scale_codes[block]], q.nested_absmax[block >> 8]), q.nested_offset);
    return s > 0 ? s : 0;
}

/* ---- bitsandbytes' formats; e: the first element, a multiple of 8 ---- */

__device__ static inline eight book4(const struct qmat &q, size_t e, const float *book, const struct code_books *books)
{
    uint32_t codes = *(const uint32_t *)((const uint8_t *)q.codes + e / 2);
    float s = block_scale(q, e / (size_t)q.block, books);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fmul_rn(book[codes >> (8 * (j / 2) + (j % 2 ? 0 : 4)) & 15], s);
    return x;
}

__device__ static inline uint2 bytes8(const struct qmat &q, size_t e)
{
    return *(const uint2 *)((const uint8_t *)q.codes + e);
}

__device__ static inline uint32_t byte_of(uint2 b, int j)
{
    return (j < 4 ? b.x >> (8 * j) : b.y >> (8 * j - 32)) & 255;
}

/* One scale a row: eight elements may lie in two or more. */
__device__ static inline eight int8_rows(const struct qmat &q, size_t e)
{
    uint2 b = bytes8(q, e);
    size_t row = e / q.cols, col = e % q.cols;
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float s = row < q.rows ? q.scales[row] : 0;
        x.v[j] = __fmul_rn(__fmul_rn((float)(int8_t)byte_of(b, j), s), 0.007874015718698502f);
        if (++col == q.cols) {
            col = 0;
            row++;
        }
    }
    return x;
}

__device__ static inline eight int8_blocks(const struct qmat &q, size_t e)
{
    uint2 b = bytes8(q, e);
    float s = __fdiv_rn(q.scales[e / (size_t)q.block], 127.f);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fmul_rn((float)(int8_t)byte_of(b, j), s);
    return x;
}

__device__ static inline eight nf8_blocks(const struct qmat &q, size_t e, const struct code_books *books)
{
    uint2 b = bytes8(q, e);
    float s = q.scales[e / (size_t)q.block];
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fmul_rn(books->nf8[byte_of(b, j)], s);
    return x;
}

template <int BITS> __device__ static inline eight affine(const struct qmat &q, size_t e)
{
    const uint8_t *at = (const uint8_t *)q.codes + e / 8 * BITS;
    uint32_t stream = 0, pair = *(const uint32_t *)(q.affine + 2 * (e >> 7)); /* groups of 128 */
#pragma unroll
    for (int b = 0; b < BITS; b++)
        stream |= (uint32_t)at[b] << 8 * b;
    float scale = f32_of_f16(pair & 0xffff), offset = __fmul_rn(f32_of_f16(pair >> 16), scale);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fsub_rn(__fmul_rn((float)(stream >> (BITS * j) & ((1u << BITS) - 1)), scale), offset);
    return x;
}

/* ---- ggml's blocks of 32: eight of them are a quarter; elements 0 .. 15 are low nibbles, 16 .. 31 high ones ---- */

__device__ static inline uint2 quarter_bytes(const uint8_t *p)
{
    return make_uint2(u16_at(p) | u16_at(p + 2) << 16, u16_at(p + 4) | u16_at(p + 6) << 16);
}

/* BYTES of a block; CODES: where the 16 bytes of nibbles begin; HIGH: where the fifth bits stand, or 0; MINIMUM: whether an f16 follows the scale. */
template <int BYTES, int CODES, int HIGH, int MINIMUM, int ZERO> __device__ static inline eight nibble_block(const struct qmat &q, size_t e)
{
    const uint8_t *b = (const uint8_t *)q.codes + e / 32 * BYTES;
    int first = (int)(e % 32);
    float d = f32_of_f16(u16_at(b)), m = MINIMUM ? f32_of_f16(u16_at(b + 2)) : 0;
    uint2 n = quarter_bytes(b + CODES + first % 16);
    uint32_t high = HIGH ? (u16_at(b + HIGH) | u16_at(b + HIGH + 2) << 16) >> first : 0;
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        int code = (int)(byte_of(n, j) >> (first < 16 ? 0 : 4) & 15) + (int)(high >> j & 1) * 16;
        x.v[j] = __fadd_rn(__fmul_rn((float)code - (float)ZERO, d), m);
    }
    return x;
}

__device__ static inline eight iq4_nl(const struct qmat &q, size_t e, const struct code_books *books)
{
    const uint8_t *b = (const uint8_t *)q.codes + e / 32 * 18;
    int first = (int)(e % 32);
    float d = f32_of_f16(u16_at(b));
    uint2 n = quarter_bytes(b + 2 + first % 16);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fmul_rn(d, books->iq4[byte_of(n, j) >> (first < 16 ? 0 : 4) & 15]);
    return x;
}

__device__ static inline eight q8_0(const struct qmat &q, size_t e)
{
    const uint8_t *b = (const uint8_t *)q.codes + e / 32 * 34;
    float d = f32_of_f16(u16_at(b));
    uint2 n = quarter_bytes(b + 2 + e % 32);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fmul_rn((float)(int8_t)byte_of(n, j), d);
    return x;
}

/* ---- ggml's superblocks of 256: run s of 32, elements l .. l+7 of it (quant_kquants.c) ---- */

struct place {
    const uint8_t *b;
    int s, l, t; /* run, first element in it, run of 16 */
};

template <int BYTES> __device__ static inline place place_of(const struct qmat &q, size_t e)
{
    place p;
    int in = (int)(e % 256);
    p.b = (const uint8_t *)q.codes + e / 256 * BYTES;
    p.s = in / 32;
    p.l = in % 32;
    p.t = in / 16;
    return p;
}

/* scale * code - minimum, as the CPU rounds it. */
__device__ static inline float scaled(float scale, int code, float minimum)
{
    return __fsub_rn(__fmul_rn(scale, (float)code), minimum);
}

__device__ static inline eight q2_k(const struct qmat &q, size_t e)
{
    place p = place_of<84>(q, e);
    float scale = __fmul_rn(f32_of_f16(u16_at(p.b + 80)), (float)(p.b[p.t] & 15)), minimum = __fmul_rn(f32_of_f16(u16_at(p.b + 82)), (float)(p.b[p.t] >> 4));
    const uint8_t *qs = p.b + 16 + p.s / 4 * 32 + p.l;
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = scaled(scale, qs[j] >> p.s % 4 * 2 & 3, minimum);
    return x;
}

__device__ static inline eight q3_k(const struct qmat &q, size_t e)
{
    place p = place_of<110>(q, e);
    const uint8_t *scales = p.b + 96, *qs = p.b + 32 + p.s / 4 * 32 + p.l, *mask = p.b + p.l;
    int sc = (scales[p.t % 8] >> p.t / 8 * 4 & 15) | (scales[8 + p.t % 4] >> p.t / 4 * 2 & 3) << 4;
    float scale = __fmul_rn(f32_of_f16(u16_at(p.b + 108)), (float)(sc - 32));
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = scaled(scale, (qs[j] >> p.s % 4 * 2 & 3) + (mask[j] >> p.s & 1) * 4 - 4, 0);
    return x;
}

/* Of q4_k and q5_k: 6-bit scale and minimum of run s. */
__device__ static inline void scale_and_minimum(place p, float *scale, float *minimum)
{
    const uint8_t *scales = p.b + 4;
    int s = p.s, sc = s < 4 ? scales[s] & 63 : (scales[s + 4] & 15) | scales[s - 4] >> 6 << 4;
    int m = s < 4 ? scales[s + 4] & 63 : scales[s + 4] >> 4 | scales[s] >> 6 << 4;
    *scale = __fmul_rn(f32_of_f16(u16_at(p.b)), (float)sc);
    *minimum = __fmul_rn(f32_of_f16(u16_at(p.b + 2)), (float)m);
}

__device__ static inline eight q4_k(const struct qmat &q, size_t e)
{
    place p = place_of<144>(q, e);
    const uint8_t *qs = p.b + 16 + p.s / 2 * 32 + p.l;
    float scale, minimum;
    scale_and_minimum(p, &scale, &minimum);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = scaled(scale, qs[j] >> p.s % 2 * 4 & 15, minimum);
    return x;
}

__device__ static inline eight q5_k(const struct qmat &q, size_t e)
{
    place p = place_of<176>(q, e);
    const uint8_t *qh = p.b + 16 + p.l, *qs = p.b + 48 + p.s / 2 * 32 + p.l;
    float scale, minimum;
    scale_and_minimum(p, &scale, &minimum);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = scaled(scale, (qs[j] >> p.s % 2 * 4 & 15) | (qh[j] >> p.s & 1) << 4, minimum);
    return x;
}

__device__ static inline eight q6_k(const struct qmat &q, size_t e)
{
    place p = place_of<210>(q, e);
    const uint8_t *ql = p.b + p.s / 4 * 64 + p.s % 2 * 32 + p.l, *qh = p.b + 128 + p.s / 4 * 32 + p.l;
    float scale = __fmul_rn(f32_of_f16(u16_at(p.b + 208)), (float)(int8_t)p.b[192 + p.t]);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = scaled(scale, ((ql[j] >> p.s % 4 / 2 * 4 & 15) | (qh[j] >> p.s % 4 * 2 & 3) << 4) - 32, 0);
    return x;
}

__device__ static inline eight iq4_xs(const struct qmat &q, size_t e, const struct code_books *books)
{
    place p = place_of<136>(q, e);
    const uint8_t *qs = p.b + 8 + p.s * 16 + p.l % 16;
    int sc = (p.b[4 + p.s / 2] >> p.s % 2 * 4 & 15) | (p.b[2 + p.s / 4] >> p.s % 4 * 2 & 3) << 4;
    float scale = __fmul_rn(f32_of_f16(u16_at(p.b)), (float)(sc - 32));
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = __fsub_rn(__fmul_rn(scale, books->iq4[qs[j] >> (p.l < 16 ? 0 : 4) & 15]), 0);
    return x;
}

/* ---- floats ---- */

__device__ static inline eight floats32(const struct qmat &q, size_t e)
{
    const float *p = (const float *)q.codes + e;
    floats<4> a = load<4>(p), b = load<4>(p + 4);
    eight x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        x.v[j] = a.v[j];
        x.v[4 + j] = b.v[j];
    }
    return x;
}

template <bool F16> __device__ static inline eight floats16(const struct qmat &q, size_t e)
{
    halves8 h = load_halves((const uint16_t *)q.codes + e);
    eight x;
#pragma unroll
    for (int j = 0; j < 8; j++)
        x.v[j] = F16 ? f32_of_f16(h.v[j]) : f32_of_bf16(h.v[j]);
    return x;
}

/* Elements e .. e+7 of the flattened matrix. */
template <int FORMAT> __device__ static inline eight eight_of(const struct qmat &q, size_t e, const struct code_books *books)
{
    switch (FORMAT) {
    case FORMAT_F32: return floats32(q, e);
    case FORMAT_F16: return floats16<true>(q, e);
    case FORMAT_BF16: return floats16<false>(q, e);
    case FORMAT_NF4: return book4(q, e, books->nf4, books);
    case FORMAT_FP4: return book4(q, e, books->fp4, books);
    case FORMAT_INT8: return int8_rows(q, e);
    case FORMAT_INT8_64: return int8_blocks(q, e);
    case FORMAT_NF8: return nf8_blocks(q, e, books);
    case FORMAT_Q4_0: return nibble_block<18, 2, 0, 0, 8>(q, e);
    case FORMAT_Q4_1: return nibble_block<20, 4, 0, 1, 0>(q, e);
    case FORMAT_Q5_0: return nibble_block<22, 6, 2, 0, 16>(q, e);
    case FORMAT_Q5_1: return nibble_block<24, 8, 4, 1, 0>(q, e);
    case FORMAT_Q8_0: return q8_0(q, e);
    case FORMAT_IQ4_NL: return iq4_nl(q, e, books);
    case FORMAT_IQ4_XS: return iq4_xs(q, e, books);
    case FORMAT_Q2_K: return q2_k(q, e);
    case FORMAT_Q3_K: return q3_k(q, e);
    case FORMAT_Q4_K: return q4_k(q, e);
    case FORMAT_Q5_K: return q5_k(q, e);
    case FORMAT_Q6_K: return q6_k(q, e);
    case FORMAT_HQQ2: return affine<2>(q, e);
    case FORMAT_HQQ3: return affine<3>(q, e);
    default: return affine<4>(q, e);
    }
}

#endif
