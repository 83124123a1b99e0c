/* quant_kquants.c: ggml's superblocks (quant_ggml.h), read in runs of 32 elements.
 *
 * Every one of them is x = scale * code - minimum, with a scale and a minimum for 16 elements; a minimum of 0 changes no bit.  They are only read:
 * their encoders are searches of llama.cpp's over each superblock. */
#include "quant_ggml.h"

struct run {
    int code[GGML_BLOCK];
    float scale[2], minimum[2]; /* of elements 0 .. 15 and 16 .. 31 */
};

const int8_t quant_iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* | scales[16] | qs[64] | d | dmin | */
static void q2_k(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *qs = b + 16 + s / 4 * 32;
    float d = quant_ggml_f16(b + 80), dmin = quant_ggml_f16(b + 82);
    for (size_t half = 0; half < 2; half++) {
        run->scale[half] = d * (float)(b[2 * s + half] & 15);
        run->minimum[half] = dmin * (float)(b[2 * s + half] >> 4);
    }
    for (int l = 0; l < GGML_BLOCK; l++)
        run->code[l] = qs[l] >> s % 4 * 2 & 3;
}

/* 16 numbers of 6 bits: the low four of number t in nibble t / 8 of byte t % 8, the others at 2 (t / 4) in byte 8 + t % 4. */
static int scale6(const uint8_t *scales, size_t t)
{
    return (scales[t % 8] >> t / 8 * 4 & 15) | (scales[8 + t % 4] >> t / 4 * 2 & 3) << 4;
}

/* | hmask[32] | qs[64] | scales[12] | d | */
static void q3_k(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *qs = b + 32 + s / 4 * 32;
    float d = quant_ggml_f16(b + 108);
    for (size_t half = 0; half < 2; half++) {
        run->scale[half] = d * (float)(scale6(b + 96, 2 * s + half) - 32);
        run->minimum[half] = 0;
    }
    for (int l = 0; l < GGML_BLOCK; l++)
        run->code[l] = (qs[l] >> s % 4 * 2 & 3) + (b[l] >> s & 1) * 4 - 4;
}

/* Scales and minima of 6 bits, 8 of each: those of runs 0 .. 3 in the low bits of bytes 0 .. 3 and 4 .. 7; of runs 4 .. 7 four bits in the low and
 * high nibbles of bytes 8 .. 11, the others in the two bits that bytes 0 .. 7 have left. */
static void scale_and_minimum(const uint8_t *b, const uint8_t *scales, size_t s, struct run *run)
{
    int sc = s < 4 ? scales[s] & 63 : (scales[s + 4] & 15) | scales[s - 4] >> 6 << 4;
    int m = s < 4 ? scales[s + 4] & 63 : scales[s + 4] >> 4 | scales[s] >> 6 << 4;
    run->scale[0] = run->scale[1] = quant_ggml_f16(b) * (float)sc;
    run->minimum[0] = run->minimum[1] = quant_ggml_f16(b + 2) * (float)m;
}

/* | d | dmin | scales[12] | qs[128] | */
static void q4_k(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *qs = b + 16 + s / 2 * 32;
    scale_and_minimum(b, b + 4, s, run);
    for (int l = 0; l < GGML_BLOCK; l++)
        run->code[l] = qs[l] >> s % 2 * 4 & 15;
}

/* | d | dmin | scales[12] | qh[32] | qs[128] | */
static void q5_k(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *qh = b + 16, *qs = b + 48 + s / 2 * 32;
    scale_and_minimum(b, b + 4, s, run);
    for (int l = 0; l < GGML_BLOCK; l++)
        run->code[l] = (qs[l] >> s % 2 * 4 & 15) | (qh[l] >> s & 1) << 4;
}

/* | ql[128] | qh[64] | int8 scales[16] | d | */
static void q6_k(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *ql = b + s / 4 * 64 + s % 2 * 32, *qh = b + 128 + s / 4 * 32;
    float d = quant_ggml_f16(b + 208);
    for (size_t half = 0; half < 2; half++) {
        run->scale[half] = d * (float)(int8_t)b[192 + 2 * s + half];
        run->minimum[half] = 0;
    }
    for (int l = 0; l < GGML_BLOCK; l++)
        run->code[l] = ((ql[l] >> s % 4 / 2 * 4 & 15) | (qh[l] >> s % 4 * 2 & 3) << 4) - 32;
}

/* | d | scales_h u16 | scales_l[4] | qs[128] |: of run s's 6-bit scale four bits in nibble s % 2 of scales_l[s / 2], the others at 2s in scales_h. */
static void iq4_xs(const uint8_t *b, size_t s, struct run *run)
{
    const uint8_t *qs = b + 8 + s * 16;
    int sc = (b[4 + s / 2] >> s % 2 * 4 & 15) | (b[2 + s / 4] >> s % 4 * 2 & 3) << 4;
    run->scale[0] = run->scale[1] = quant_ggml_f16(b) * (float)(sc - 32);
    run->minimum[0] = run->minimum[1] = 0;
    for (int j = 0; j < 16; j++) {
        run->code[j] = quant_iq4_table[qs[j] & 15];
        run->code[j + 16] = quant_iq4_table[qs[j] >> 4];
    }
}

void quant_kquant_decode(enum format format, const uint8_t *block, size_t s, real x[GGML_BLOCK])
{
    struct run run;
    switch (format) {
    case FORMAT_Q2_K:
        q2_k(block, s, &run);
        break;
    case FORMAT_Q3_K:
        q3_k(block, s, &run);
        break;
    case FORMAT_Q4_K:
        q4_k(block, s, &run);
        break;
    case FORMAT_Q5_K:
        q5_k(block, s, &run);
        break;
    case FORMAT_Q6_K:
        q6_k(block, s, &run);
        break;
    default:
        iq4_xs(block, s, &run);
    }
    for (int l = 0; l < 16; l++)
        x[l] = (real)(run.scale[0] * (float)run.code[l] - run.minimum[0]);
    for (int l = 16; l < GGML_BLOCK; l++)
        x[l] = (real)(run.scale[1] * (float)run.code[l] - run.minimum[1]);
}
