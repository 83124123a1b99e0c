/* quant_ggml.c: the blocks of quant_ggml.h, bit for bit as ggml's reference quantizers write them. */
#include "quant_ggml.h"

#include <math.h>
#include <string.h>

size_t quant_ggml_bytes(enum format format)
{
    switch (format) {
    case FORMAT_Q4_0:
        return 18;
    case FORMAT_Q4_1:
        return 20;
    case FORMAT_Q5_0:
        return 22;
    case FORMAT_Q5_1:
        return 24;
    default:
        return 34;
    }
}

static void put_u16(uint8_t *to, uint16_t x)
{
    to[0] = (uint8_t)x;
    to[1] = (uint8_t)(x >> 8);
}

static float get_f16(const uint8_t *from)
{
    return f32_from_f16((uint16_t)(from[0] | from[1] << 8));
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

static bool is_held(enum format format, const uint8_t *block)
{
    bool affine = format == FORMAT_Q4_1 || format == FORMAT_Q5_1;
    return isfinite(get_f16(block)) && (!affine || isfinite(get_f16(block + 2)));
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
        default:
            encode_q8_0(block, x);
        }
        if (!is_held(format, block))
            return i / GGML_BLOCK;
    }
    return n / GGML_BLOCK;
}

static void decode_codes(const uint8_t *qh, const uint8_t *qs, float d, float m, float zero, real *x)
{
    uint32_t high = qh ? (uint32_t)qh[0] | (uint32_t)qh[1] << 8 | (uint32_t)qh[2] << 16 | (uint32_t)qh[3] << 24 : 0;
    for (int j = 0; j < 16; j++) {
        int a = (qs[j] & 15) | (int)(high >> j & 1) << 4, b = qs[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
        x[j] = (real)(((float)a - zero) * d + m);
        x[j + 16] = (real)(((float)b - zero) * d + m);
    }
}

void quant_ggml_decode(enum format format, const void *blocks, size_t n, real *x)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i += GGML_BLOCK, b += quant_ggml_bytes(format), x += GGML_BLOCK) {
        float d = get_f16(b);
        switch (format) {
        case FORMAT_Q4_0:
            decode_codes(NULL, b + 2, d, 0, 8, x);
            break;
        case FORMAT_Q4_1:
            decode_codes(NULL, b + 4, d, get_f16(b + 2), 0, x);
            break;
        case FORMAT_Q5_0:
            decode_codes(b + 2, b + 6, d, 0, 16, x);
            break;
        case FORMAT_Q5_1:
            decode_codes(b + 4, b + 8, d, get_f16(b + 2), 0, x);
            break;
        default:
            for (int j = 0; j < GGML_BLOCK; j++)
                x[j] = (real)((float)(int8_t)b[2 + j] * d);
        }
    }
}
