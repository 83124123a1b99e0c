/* quant_tables.c: code books and 16-bit floats.
 *
 * NF4 are quantiles of a normal distribution scaled to [-1, 1] (Dettmers et al. 2023, arXiv:2305.14314, app. E); FP4 is
 * bitsandbytes' 1-2-1 format in the order of its bit patterns; NF8 is NF4's construction with 256 levels; the dynamic map is the
 * 8-bit code of block-wise optimizers (arXiv:2110.02861). */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"
#include "quant.h"

const float quant_nf4_table[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

#define TWELFTH(x) ((float)((x) / 12.0))
const float quant_fp4_table[16] = {0.0f,         TWELFTH(.0625), TWELFTH(8.),  TWELFTH(12.), TWELFTH(4.),  TWELFTH(6.),
                                   TWELFTH(2.),  TWELFTH(3.),    -0.0f,        -TWELFTH(.0625), -TWELFTH(8.), -TWELFTH(12.),
                                   -TWELFTH(4.), -TWELFTH(6.),   -TWELFTH(2.), -TWELFTH(3.)};

/* ---- tables that are computed: written once, by whoever comes first, always with the same values ---- */

struct tables {
    float nf8[256], dynamic_signed[256], dynamic_unsigned[256];
};

/* Inverse of the normal distribution by Newton's method on Phi from a rational start (good to double precision here). */
static double normal_quantile(double p)
{
    double t = sqrt(-2 * log(p < 0.5 ? p : 1 - p));
    double x = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    if (p < 0.5)
        x = -x;
    for (int i = 0; i < 8; i++)
        x -= (0.5 * erfc(-x / sqrt(2)) - p) / (exp(-x * x / 2) / sqrt(2 * 3.14159265358979323846));
    return x;
}

/* 128 positive quantiles from offset to 1/2, 127 negative ones and 0, divided by the largest. */
static void fill_nf8(float table[256])
{
    const double offset = 0.9677083;
    double most = normal_quantile(offset);
    int n = 0;
    for (int i = 0; i < 128; i++)
        table[n++] = (float)(normal_quantile(offset + (0.5 - offset) * i / 128) / most);
    for (int i = 0; i < 127; i++)
        table[n++] = (float)(-normal_quantile(offset + (0.5 - offset) * i / 127) / most);
    table[n] = 0;
    qsort(table, 256, sizeof *table, order_floats);
}

/* Point k of `steps` even ones from 0.1 to 1, from the nearer end, a single-precision step with one rounding: the reference's arithmetic,
 * since decoded values follow the table's last bit. */
static float even_point(int k, int steps)
{
    double step = (double)((1.0f - 0.1f) / (float)(steps - 1));
    return (float)(k < steps / 2 ? (double)0.1f + step * k : 1 - step * (steps - k - 1));
}

/* For each of 7 decades the midpoints of an even division of [0.1, 1], twice as many each time; then 0 and 1. */
static void fill_dynamic(float table[256], bool is_signed)
{
    int n = 0;
    for (int i = 0; i < 7; i++) {
        int items = is_signed ? 1 << i : 1 << (i + 1);
        for (int k = 0; k < items; k++) {
            float middle = (even_point(k, items + 1) + even_point(k + 1, items + 1)) / 2, x = (float)pow(10, i - 6) * middle;
            table[n++] = x;
            if (is_signed)
                table[n++] = -x;
        }
    }
    table[n++] = 0;
    table[n++] = 1;
    while (n < 256)
        table[n++] = 0;
    qsort(table, 256, sizeof *table, order_floats);
}

static const struct tables *tables(void)
{
    static _Atomic(struct tables *) made;
    struct tables *t = atomic_load(&made);
    if (t)
        return t;
    static struct tables storage[2]; /* two threads that both come first must not write into what the other reads */
    static atomic_int writers;
    int mine = atomic_fetch_add(&writers, 1);
    if (mine > 1) { /* a third waits for the others */
        while (!(t = atomic_load(&made)))
            ;
        return t;
    }
    fill_nf8(storage[mine].nf8);
    fill_dynamic(storage[mine].dynamic_signed, true);
    fill_dynamic(storage[mine].dynamic_unsigned, false);
    struct tables *none = NULL;
    atomic_compare_exchange_strong(&made, &none, &storage[mine]);
    return atomic_load(&made);
}

const float *quant_nf8_table(void)
{
    return tables()->nf8;
}

const float *quant_dynamic_table(bool is_signed)
{
    return is_signed ? tables()->dynamic_signed : tables()->dynamic_unsigned;
}

/* Halves the range eight times without a branch: every step adds its width where the midpoint there is below x. */
uint8_t quant_nearest256(const float table[256], float x)
{
    int at = 0;
    for (int step = 128; step > 0; step /= 2)
        at += x > 0.5f * (table[at + step - 1] + table[at + step]) ? step : 0;
    return (uint8_t)at;
}

uint8_t quant_dynamic_code(float x, bool is_signed)
{
    return quant_nearest256(quant_dynamic_table(is_signed), x);
}

/* ---- 16-bit floats ---- */

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

uint16_t bf16_from_f32(float x)
{
    uint32_t u = bits_of(x);
    if (isnan(x))
        return (uint16_t)(u >> 16 | 0x40); /* quiet, never rounded to infinity */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float f32_from_bf16(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t f16_from_f32(float x)
{
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: a multiple of 2^-24 */
        float scaled = float_of(magnitude) * 0x1p24f;
        return (uint16_t)(sign | (uint32_t)rintf(scaled));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

uint16_t f16_within_range(float x)
{
    const float most = 65504;
    return f16_from_f32(x > most ? most : x < -most ? -most : x); /* NaN is neither */
}

float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31)
        return float_of(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0)
        return float_of(sign | bits_of((float)mantissa * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}
