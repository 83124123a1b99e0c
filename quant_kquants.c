/* quant_kquants.c: ggml's superblocks (quant_ggml.h), in runs of 32 elements: their codes and scales as whole numbers, there and back.
 *
 * Every one of them is x = (d sc) value - dmin m with sc and m for 16 or 32 elements; what has no m subtracts 0, which changes no bit.  There is no
 * encoder: those are searches of llama.cpp's over each superblock. */
#include "quant_ggml.h"

const int8_t quant_iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

enum { HALF = GGML_BLOCK / 2 };

/* The format is a constant where these are called, so that the loops over a run have their places computed beforehand. */
#define KQUANT_INLINE static inline __attribute__((always_inline))

/* `bits` bits at `shift` of a byte: read, or or-ed in where the byte held zeros. */
KQUANT_INLINE uint8_t bits_at(const uint8_t *from, size_t shift, unsigned bits)
{
    return (uint8_t)(*from >> shift & ((1u << bits) - 1));
}

KQUANT_INLINE void put_bits(uint8_t *to, size_t shift, unsigned x)
{
    *to = (uint8_t)(*to | x << shift);
}

/* Where the parts of a number are: n places, from the lowest bits on. */
struct places {
    int n;
    struct {
        size_t byte, shift;
        unsigned bits;
    } at[2];
};

/* Of the code of element l, a multiple of 16: those of the 15 that follow are in the bytes that follow. */
KQUANT_INLINE struct places places_of(enum format format, size_t s, size_t l)
{
    switch (format) {
    case FORMAT_Q2_K:
        return (struct places){1, {{16 + s / 4 * 32 + l, s % 4 * 2, 2}}};
    case FORMAT_Q3_K:
        return (struct places){2, {{32 + s / 4 * 32 + l, s % 4 * 2, 2}, {l, s, 1}}};
    case FORMAT_Q4_K:
        return (struct places){1, {{16 + s / 2 * 32 + l, s % 2 * 4, 4}}};
    case FORMAT_Q5_K:
        return (struct places){2, {{48 + s / 2 * 32 + l, s % 2 * 4, 4}, {16 + l, s, 1}}};
    case FORMAT_Q6_K:
        return (struct places){2, {{s / 4 * 64 + s % 2 * 32 + l, s % 4 / 2 * 4, 4}, {128 + s / 4 * 32 + l, s % 4 * 2, 2}}};
    default: /* iq4_xs */
        return (struct places){1, {{8 + s * 16, l / 16 * 4, 4}}};
    }
}

/* The same of number t of a superblock's scales (minimum: of its minima), which has six bits but for q2_k (4) and q6_k (8):
 *   q2_k    nibbles of byte t: scale low, minimum high;   q6_k   byte t
 *   q3_k    16 of them: the low four bits in nibble t / 8 of byte t % 8, the others at 2 (t / 4) in byte 8 + t % 4
 *   q4_k, q5_k   8 of each: those of runs 0 .. 3 in the low bits of bytes t (minima t + 4); of runs 4 .. 7 four bits in the nibbles of byte t + 4, low (minima
 *           high), the others in the two bits that bytes t - 4 (minima t) have left
 *   iq4_xs  8: four bits in nibble t % 2 of byte t / 2 behind scales_h, the others at 2 t in scales_h */
KQUANT_INLINE struct places scale_places(enum format format, size_t t, bool minimum)
{
    size_t high = minimum ? t : t - 4;
    switch (format) {
    case FORMAT_Q2_K:
        return (struct places){1, {{t, minimum ? 4 : 0, 4}}};
    case FORMAT_Q3_K:
        return (struct places){2, {{96 + t % 8, t / 8 * 4, 4}, {104 + t % 4, t / 4 * 2, 2}}};
    case FORMAT_Q4_K:
    case FORMAT_Q5_K:
        if (t < 4)
            return (struct places){1, {{4 + t + (minimum ? 4 : 0), 0, 6}}};
        return (struct places){2, {{4 + t + 4, minimum ? 4 : 0, 4}, {4 + high, 6, 2}}};
    case FORMAT_Q6_K:
        return (struct places){1, {{192 + t, 0, 8}}};
    default:
        return (struct places){2, {{4 + t / 2, t % 2 * 4, 4}, {2 + t / 4, t % 4 * 2, 2}}};
    }
}

KQUANT_INLINE unsigned read_places(const uint8_t *block, const struct places *p)
{
    unsigned x = bits_at(block + p->at[0].byte, p->at[0].shift, p->at[0].bits);
    return p->n == 1 ? x : x | (unsigned)bits_at(block + p->at[1].byte, p->at[1].shift, p->at[1].bits) << p->at[0].bits;
}

KQUANT_INLINE void write_places(uint8_t *block, const struct places *p, unsigned x)
{
    put_bits(block + p->at[0].byte, p->at[0].shift, x & ((1u << p->at[0].bits) - 1));
    if (p->n == 2)
        put_bits(block + p->at[1].byte, p->at[1].shift, x >> p->at[0].bits);
}

/* What is subtracted from a stored number. */
KQUANT_INLINE int scale_offset(enum format format)
{
    return format == FORMAT_Q3_K || format == FORMAT_IQ4_XS ? 32 : 0;
}

/* A run's code is the stored one plus this: q3_k's value is code - 8, q6_k's the code. */
KQUANT_INLINE int code_offset(enum format format)
{
    return format == FORMAT_Q3_K ? 4 : format == FORMAT_Q6_K ? -32 : 0;
}

KQUANT_INLINE bool has_minima(enum format format)
{
    return format == FORMAT_Q2_K || format == FORMAT_Q4_K || format == FORMAT_Q5_K;
}

KQUANT_INLINE size_t run_of(enum format format)
{
    return format == FORMAT_Q2_K || format == FORMAT_Q3_K || format == FORMAT_Q6_K ? 16 : 32;
}

size_t quant_kquant_run(enum format format)
{
    return run_of(format);
}

KQUANT_INLINE void read_run(enum format format, const uint8_t *block, size_t s, struct quant_kquant *run)
{
    size_t halves = GGML_BLOCK / run_of(format);
    bool minima = has_minima(format);
    for (size_t h = 0; h < halves; h++) {
        struct places sc = scale_places(format, s * halves + h, false), m = scale_places(format, s * halves + h, true);
        run->scale[h] = (int8_t)((int)read_places(block, &sc) - scale_offset(format)); /* q6_k's 8 bits are signed */
        run->minimum[h] = minima ? (int8_t)read_places(block, &m) : 0;
    }
    for (size_t l = 0; l < GGML_BLOCK; l += HALF) {
        const struct places p = places_of(format, s, l);
        const uint8_t *low = block + p.at[0].byte, *high = block + p.at[1].byte;
        const unsigned mask = (1u << p.at[0].bits) - 1, more = p.n > 1 ? (1u << p.at[1].bits) - 1 : 0;
        for (size_t e = 0; e < HALF; e++)
            run->code[l + e] = (int8_t)((int)((low[e] >> p.at[0].shift & mask) | (high[e] >> p.at[1].shift & more) << p.at[0].bits) + code_offset(format));
    }
}

KQUANT_INLINE void write_run(enum format format, uint8_t *block, size_t s, const struct quant_kquant *run)
{
    size_t halves = GGML_BLOCK / run_of(format);
    bool minima = has_minima(format);
    for (size_t h = 0; h < halves; h++) {
        struct places sc = scale_places(format, s * halves + h, false), m = scale_places(format, s * halves + h, true);
        write_places(block, &sc, (unsigned)(run->scale[h] + scale_offset(format)) & 255);
        if (minima)
            write_places(block, &m, (unsigned)run->minimum[h]);
    }
    for (size_t l = 0; l < GGML_BLOCK; l++) {
        struct places p = places_of(format, s, l / HALF * HALF);
        p.at[0].byte += l % HALF;
        p.at[1].byte += l % HALF;
        write_places(block, &p, (unsigned)(run->code[l] - code_offset(format)) & 255);
    }
}

KQUANT_INLINE void decode_run(enum format format, const uint8_t *block, size_t s, real x[GGML_BLOCK])
{
    struct quant_kquant run;
    size_t n = run_of(format);
    float d = quant_ggml_f16(block + quant_ggml_scale_at(format, 0)), dmin = has_minima(format) ? quant_ggml_f16(block + quant_ggml_scale_at(format, 1)) : 0;
    read_run(format, block, s, &run);
    for (size_t l = 0; l < GGML_BLOCK; l += HALF) {
        float scale = d * (float)run.scale[l / n], minimum = dmin * (float)run.minimum[l / n];
        real level[16];
        for (int i = 0; i < 16 && format == FORMAT_IQ4_XS; i++)
            level[i] = (real)(scale * (float)quant_iq4_table[i] - minimum);
        for (size_t e = l; e < l + HALF; e++)
            x[e] = format == FORMAT_IQ4_XS ? level[run.code[e]] : (real)(scale * (float)(run.code[e] - (format == FORMAT_Q3_K ? 8 : 0)) - minimum);
    }
}

#define EACH_FORMAT(call)          \
    switch (format) {              \
    case FORMAT_Q2_K:              \
        call(FORMAT_Q2_K);         \
        break;                     \
    case FORMAT_Q3_K:              \
        call(FORMAT_Q3_K);         \
        break;                     \
    case FORMAT_Q4_K:              \
        call(FORMAT_Q4_K);         \
        break;                     \
    case FORMAT_Q5_K:              \
        call(FORMAT_Q5_K);         \
        break;                     \
    case FORMAT_Q6_K:              \
        call(FORMAT_Q6_K);         \
        break;                     \
    default:                       \
        call(FORMAT_IQ4_XS);       \
    }

void quant_kquant_read(enum format format, const uint8_t *block, size_t s, struct quant_kquant *run)
{
#define READ(f) read_run(f, block, s, run)
    EACH_FORMAT(READ)
}

void quant_kquant_write(enum format format, uint8_t *block, size_t s, const struct quant_kquant *run)
{
#define WRITE(f) write_run(f, block, s, run)
    EACH_FORMAT(WRITE)
}

void quant_kquant_decode(enum format format, const uint8_t *block, size_t s, real x[GGML_BLOCK])
{
#define DECODE(f) decode_run(f, block, s, x)
    EACH_FORMAT(DECODE)
}
