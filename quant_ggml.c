/* quant_ggml.c: the blocks of quant_ggml.h, bit for bit as ggml's reference quantizers write them. */
#include "quant_ggml.h"

#include <math.h>
#include <string.h>

struct layout {
    uint16_t elements, bytes;
    int16_t scale, minimum; /* where these f16 numbers stand; -1: none */
};

static struct layout layout_of(enum format format)
{
    switch (format) {
    case FORMAT_Q4_0:
    case FORMAT_IQ4_NL:
        return (struct layout){GGML_BLOCK, 18, 0, -1};
    case FORMAT_Q4_1:
        return (struct layout){GGML_BLOCK, 20, 0, 2};
    case FORMAT_Q5_0:
        return (struct layout){GGML_BLOCK, 22, 0, -1};
    case FORMAT_Q5_1:
        return (struct layout){GGML_BLOCK, 24, 0, 2};
    case FORMAT_Q2_K:
        return (struct layout){GGML_SUPERBLOCK, 84, 80, 82};
    case FORMAT_Q3_K:
        return (struct layout){GGML_SUPERBLOCK, 110, 108, -1};
    case FORMAT_Q4_K:
        return (struct layout){GGML_SUPERBLOCK, 144, 0, 2};
    case FORMAT_Q5_K:
        return (struct layout){GGML_SUPERBLOCK, 176, 0, 2};
    case FORMAT_Q6_K:
        return (struct layout){GGML_SUPERBLOCK, 210, 208, -1};
    case FORMAT_IQ4_XS:
        return (struct layout){GGML_SUPERBLOCK, 136, 0, -1};
    default: /* q8_0 */
        return (struct layout){GGML_BLOCK, 34, 0, -1};
    }
}

size_t quant_ggml_bytes(enum format format)
{
    return layout_of(format).bytes;
}

size_t quant_ggml_elements(enum format format)
{
    return layout_of(format).elements;
}

size_t quant_ggml_size(enum format format, size_t n)
{
    return n / quant_ggml_elements(format) * quant_ggml_bytes(format);
}

int quant_ggml_scale_at(enum format format, int k)
{
    struct layout layout = layout_of(format);
    return k == 0 ? layout.scale : layout.minimum;
}

static void put_u16(uint8_t *to, uint16_t x)
{
    to[0] = (uint8_t)x;
    to[1] = (uint8_t)(x >> 8);
}

/* 1 / d, or 0 where that is no number: such a scale is 0 in f16, and so is all that is decoded with it. */
static float inverse(float d)
{
    float inv = d != 0 ? 1 / d : 0;
    return isfinite(inv) ? inv : 0;
}

static int clamp_code(float x, int most)
{
    int q = (int)x; /* x is not negative: truncation is floor */
    return q < most ? q : most;
}

/* Codes of 4 or 5 bits into qh (5 bits only) and qs. */
static void put_codes(uint8_t *qh, uint8_t *qs, const int code[GGML_BLOCK])
{
    uint32_t high = 0;
    for (int j = 0; j < 16; j++) {
        qs[j] = (uint8_t)((code[j] & 15) | (code[j + 16] & 15) << 4);
        high |= (uint32_t)(code[j] >> 4 & 1) << j | (uint32_t)(code[j + 16] >> 4 & 1) << (j + 16);
    }
    for (int i = 0; qh && i < 4; i++)
        qh[i] = (uint8_t)(high >> (8 * i));
}

/* Symmetric: the element of largest magnitude, with its sign, becomes the lowest code. */
static void encode_symmetric(uint8_t *block, const real *x, int bits)
{
    float most = 0, signed_most = 0;
    int half = 1 << (bits - 1), code[GGML_BLOCK];
    for (int j = 0; j < GGML_BLOCK; j++)
        if (most < fabsf((float)x[j])) {
            most = fabsf((float)x[j]);
            signed_most = (float)x[j];
        }
    float d = signed_most / (float)-half, inv = inverse(d);
    put_u16(block, f16_from_f32(d));
    for (int j = 0; j < GGML_BLOCK; j++)
        code[j] = clamp_code((float)x[j] * inv + ((float)half + 0.5f), 2 * half - 1);
    put_codes(bits == 5 ? block + 2 : NULL, block + (bits == 5 ? 6 : 2), code);
}

/* Affine: codes from the block's minimum to its maximum. */
static void encode_affine(uint8_t *block, const real *x, int bits)
{
    float low = (float)x[0], high = (float)x[0];
    int code[GGML_BLOCK], top = (1 << bits) - 1;
    for (int j = 1; j < GGML_BLOCK; j++) {
        low = (float)x[j] < low ? (float)x[j] : low;
        high = (float)x[j] > high ? (float)x[j] : high;
    }
    float d = (high - low) / (float)top, inv = inverse(d);
    put_u16(block, f16_from_f32(d));
    put_u16(block + 2, f16_from_f32(low));
    for (int j = 0; j < GGML_BLOCK; j++)
        code[j] = clamp_code(((float)x[j] - low) * inv + 0.5f, top);
    put_codes(bits == 5 ? block + 4 : NULL, block + (bits == 5 ? 8 : 4), code);
}

static void encode_q8_0(uint8_t *block, const real *x)
{
    float most = 0;
    for (int j = 0; j < GGML_BLOCK; j++)
        most = fmaxf(most, fabsf((float)x[j]));
    float d = most / 127, inv = inverse(d);
    put_u16(block, f16_from_f32(d));
    for (int j = 0; j < GGML_BLOCK; j++)
        block[2 + j] = (uint8_t)(int8_t)roundf((float)x[j] * inv);
}

/* Nearest entry, the upper one where two are as near; outside of the table its ends. */
static int nearest_iq4(float x)
{
    const int8_t *v = quant_iq4_table;
    int low = 0, high = 15;
    if (x <= v[0])
        return 0;
    if (x >= v[15])
        return 15;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (x < v[middle])
            high = middle;
        else
            low = middle;
    }
    return x - v[low] < v[high] - x ? low : high;
}

/* Sums of x^2 x v[q] and x^2 v[q]^2 over a block whose codes are found with the scale 1 / inv: least squares, with weights x^2, has d = xq / qq. */
static void iq4_sums(const real *x, float inv, float *xq, float *qq)
{
    *xq = *qq = 0;
    for (int j = 0; j < GGML_BLOCK; j++) {
        float e = (float)x[j], q = quant_iq4_table[nearest_iq4(inv * e)], weight = e * e;
        *xq += weight * q * e;
        *qq += weight * q * q;
    }
}

/* True when x are the values of a block already, whose largest has a code at either end: they keep the scale, which the search below could miss, so that
 * what is stored as values comes back as the same block. */
static bool iq4_scale(const real *x, float largest, float *d)
{
    static const uint8_t ends[] = {0, 15, 1, 14};
    for (size_t i = 0; i < sizeof ends; i++) {
        *d = largest / quant_iq4_table[ends[i]];
        if (f32_from_f16(f16_from_f32(*d)) != *d)
            continue;
        int j = 0;
        while (j < GGML_BLOCK && (float)x[j] == *d * quant_iq4_table[nearest_iq4((float)x[j] / *d)])
            j++;
        if (j == GGML_BLOCK)
            return true;
    }
    return false;
}

/* Among scales that put the largest element at v[0] + k, |k| <= 7 (and at -v[0]) the one whose least squares gains most. */
static void encode_iq4_nl(uint8_t *block, const real *x)
{
    enum { TRIES = 7 };
    float most = 0, signed_most = 0, d = 0, xq, qq;
    int code[GGML_BLOCK];
    for (int j = 0; j < GGML_BLOCK; j++)
        if (most < fabsf((float)x[j])) {
            most = fabsf((float)x[j]);
            signed_most = (float)x[j];
        }
    if (most >= 1e-15f && !iq4_scale(x, signed_most, &d)) { /* ggml's own end: squares of what is smaller vanish */
        iq4_sums(x, 1 / (-signed_most / quant_iq4_table[0]), &xq, &qq);
        d = qq > 0 ? xq / qq : 0;
        float best = d * xq;
        for (int k = -TRIES; k <= TRIES; k++) {
            iq4_sums(x, (float)(k + quant_iq4_table[0]) / signed_most, &xq, &qq);
            if (qq > 0 && xq * xq > best * qq) {
                d = xq / qq;
                best = d * xq;
            }
        }
    }
    float inv = d != 0 ? 1 / d : 0;
    put_u16(block, f16_from_f32(d));
    for (int j = 0; j < GGML_BLOCK; j++)
        code[j] = nearest_iq4(inv * (float)x[j]);
    put_codes(NULL, block + 2, code);
}

static bool is_held(enum format format, const uint8_t *block)
{
    int minimum = quant_ggml_scale_at(format, 1);
    return isfinite(quant_ggml_f16(block)) && (minimum < 0 || isfinite(quant_ggml_f16(block + minimum)));
}

size_t quant_ggml_encode(enum format format, void *blocks, const real *x, size_t n)
{
    uint8_t *block = blocks;
    for (size_t i = 0; i < n; i += GGML_BLOCK, block += quant_ggml_bytes(format), x += GGML_BLOCK) {
        switch (format) {
        case FORMAT_Q4_0:
            encode_symmetric(block, x, 4);
            break;
        case FORMAT_Q5_0:
            encode_symmetric(block, x, 5);
            break;
        case FORMAT_Q4_1:
            encode_affine(block, x, 4);
            break;
        case FORMAT_Q5_1:
            encode_affine(block, x, 5);
            break;
        case FORMAT_IQ4_NL:
            encode_iq4_nl(block, x);
            break;
        default:
            encode_q8_0(block, x);
        }
        if (!is_held(format, block))
            return i / GGML_BLOCK;
    }
    return n / GGML_BLOCK;
}

/* Loops without shifts that differ from element to element: every x86-64 has vectors for them. */
static void decode_codes(const uint8_t *qh, const uint8_t *qs, float d, float m, float zero, real *x)
{
    static const uint32_t bit[16] = {1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    uint32_t low = qh ? (uint32_t)qh[0] | (uint32_t)qh[1] << 8 : 0, high = qh ? (uint32_t)qh[2] | (uint32_t)qh[3] << 8 : 0;
    int code[GGML_BLOCK];
    for (int j = 0; j < 16; j++) {
        code[j] = (qs[j] & 15) + (low & bit[j] ? 16 : 0);
        code[j + 16] = (qs[j] >> 4) + (high & bit[j] ? 16 : 0);
    }
    for (int j = 0; j < GGML_BLOCK; j++)
        x[j] = (real)(((float)code[j] - zero) * d + m);
}

static void decode_iq4_nl(const uint8_t *qs, float d, real *x)
{
    real value[16];
    for (int i = 0; i < 16; i++)
        value[i] = (real)(d * quant_iq4_table[i]);
    for (int j = 0; j < 16; j++) {
        x[j] = value[qs[j] & 15];
        x[j + 16] = value[qs[j] >> 4];
    }
}

static void decode_block(enum format format, const uint8_t *b, real *x)
{
    float d = quant_ggml_f16(b);
    switch (format) {
    case FORMAT_Q4_0:
        decode_codes(NULL, b + 2, d, 0, 8, x);
        break;
    case FORMAT_Q4_1:
        decode_codes(NULL, b + 4, d, quant_ggml_f16(b + 2), 0, x);
        break;
    case FORMAT_Q5_0:
        decode_codes(b + 2, b + 6, d, 0, 16, x);
        break;
    case FORMAT_Q5_1:
        decode_codes(b + 4, b + 8, d, quant_ggml_f16(b + 2), 0, x);
        break;
    case FORMAT_IQ4_NL:
        decode_iq4_nl(b + 2, d, x);
        break;
    default:
        for (int j = 0; j < GGML_BLOCK; j++)
            x[j] = (real)((float)(int8_t)b[2 + j] * d);
    }
}

void quant_ggml_decode(enum format format, const void *codes, size_t at, size_t n, real *x)
{
    size_t elements = quant_ggml_elements(format), bytes = quant_ggml_bytes(format);
    for (size_t i = at; i < at + n; i += GGML_BLOCK, x += GGML_BLOCK) {
        const uint8_t *block = (const uint8_t *)codes + i / elements * bytes;
        if (elements == GGML_BLOCK)
            decode_block(format, block, x);
        else
            quant_kquant_decode(format, block, i % elements / GGML_BLOCK, x);
    }
}
