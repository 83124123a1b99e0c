/* sample.h: the whole numbers by which a token is drawn (ops.h, sample_args): weights, how much of them a nucleus wants, where the draw falls.
 *
 * In single operations that every machine rounds alike, so that each level, and a device (cuda/sample.cu), draws the same token.  Private to cpu/. */
#ifndef VENEER_CPU_SAMPLE_H
#define VENEER_CPU_SAMPLE_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ops.h"

/* 2^30 2^y rounded, y = (z - most) scale; 0 where y <= -31 or z is no number.  y = k + f, |f| <= 1/2: 2^f by its series, whose next term is (log(2) / 2)^7 / 7! =
 * 1.2e-7 of it. */
static inline uint32_t sample_weight(real z, real most, real scale)
{
    const float shift = 0x1.8p23f; /* adding it rounds to an integer, which then stands in the low bits */
    real exponent = (z - most) * scale;
    float y = exponent > -32 ? (float)exponent : -32.0f; /* not a number: -32 too */
    float biased = y + shift, f = y - (biased - shift);
    float power = (((((1.5403530e-4f * f + 1.3333558e-3f) * f + 9.6181291e-3f) * f + 5.5504109e-2f) * f + 2.4022651e-1f) * f + 6.9314718e-1f) * f + 1;
    uint32_t bits, k;
    memcpy(&bits, &power, sizeof bits);
    memcpy(&k, &biased, sizeof k);
    bits += (k << 23) + ((uint32_t)SAMPLE_BITS << 23);
    memcpy(&power, &bits, sizeof power);
    return (uint32_t)(int32_t)(power + 0.5f);
}

/* What the nucleus has to reach, 1 .. all. */
static inline uint64_t sample_target(double top_p, uint64_t all)
{
    double want = ceil(top_p * (double)all);
    if (!(top_p < 1) || want >= (double)all)
        return all;
    return want > 1 ? (uint64_t)want : 1;
}

/* What the running sum has to exceed, 0 .. all - 1. */
static inline uint64_t sample_point(double u, uint64_t all)
{
    double at = u * (double)all;
    if (at >= (double)all)
        return all - 1;
    return at > 0 ? (uint64_t)at : 0;
}

/* Whether the largest logit decides alone. */
static inline bool sample_is_greedy(const struct sample_args *a, real most)
{
    return !(a->temperature > 0) || !isfinite(most);
}

#endif
