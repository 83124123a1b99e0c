/* vector.c: the loops of vector.h.  Compiled as it is for every machine, and once more inside vector_avx2.c and vector_avx512.c.
 *
 * Partial sums are kept in eight lanes, whatever the machine's registers: their order follows from the length alone, and AVX-512 gives the bits of AVX2. */
#include "cpu/vector.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/rng.h"
#include "cpu/sample.h"

#ifndef VECTOR_TABLE
#define VECTOR_TABLE vector_plain
#define VECTOR_DECODE quant_decode_rows
#define VECTOR_PHILOX philox_blocks
#define VECTOR_AT_LEAST at_least
#endif

enum {
    BLOCKS = 128, /* Philox blocks drawn at once: 512 elements of a mask */
    RUN = 64     /* exponentials summed as reals before they join a double */
};

/* Eight numbers. */
typedef real lanes __attribute__((vector_size(8 * sizeof(real)), aligned(sizeof(real)), may_alias));
#ifdef VENEER_DOUBLE
typedef int64_t lane_places __attribute__((vector_size(64)));
#else
typedef int32_t lane_places __attribute__((vector_size(32)));
#endif

static inline const lanes *lanes_at(const real *x)
{
    return (const lanes *)(const void *)x;
}

static inline real lanes_sum(const lanes *all)
{
    real l[8];
    memcpy(l, all, sizeof l);
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

typedef double doubles __attribute__((vector_size(8 * sizeof(double))));

static inline double doubles_sum(const doubles two[2])
{
    double d[8];
    doubles all = two[0] + two[1];
    memcpy(d, &all, sizeof d);
    return ((d[0] + d[4]) + (d[2] + d[6])) + ((d[1] + d[5]) + (d[3] + d[7]));
}

/* ---- exponential ---- */

/* a b + c, in one rounding where the machine has such an instruction: a call for every element elsewhere. */
static inline float fused(float a, float b, float c)
{
#if defined(__FMA__) || defined(__aarch64__)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* exp in single precision within 2 ulp of the true value (test/ops_test.c tries every 1001st float):
 * x = 2 k log 2 + t, |t| <= log 2; 2^k twice, exactly, so that 2^128 and denormals come out by themselves; e^t = 1 + t q(t), q the minimax
 * polynomial of degree 7 (relative error 2^-27.5 with these coefficients).  NaN stays NaN.  No branch is left, so loops become vectors. */
static inline real exp_real(real x)
{
#ifdef VENEER_DOUBLE
    return exp(x);
#else
    const float shift = 0x1.8p23f; /* adding it rounds to an integer, which then stands in the low bits */
    float clamped = x < -105.0f ? -105.0f : x; /* from here on the products below underflow to 0 by themselves */
    float biased = fused(clamped, 0x1.715476p-1f, shift), k = biased - shift;
    float t = fused(k, -0x1.7f7d1cp-19f, fused(k, -0x1.62e400p+0f, clamped)); /* the inner product is exact */
    float t2 = t * t; /* by Estrin's scheme: a chain half as long as Horner's */
    float q01 = fused(0.5f, t, 1.0f), q23 = fused(0x1.5555b0p-5f, t, 0x1.555574p-3f);
    float q45 = fused(0x1.6be10ep-10f, t, 0x1.11048ap-7f), q67 = fused(0x1.b39ca2p-16f, t, 0x1.a77c04p-13f);
    float q = fused(fused(q67, t2, q45), t2 * t2, fused(q23, t2, q01));
    uint32_t bits;
    memcpy(&bits, &biased, sizeof bits);
    bits = (bits << 23) + (127u << 23); /* the shift's own bits leave at the top */
    float power;
    memcpy(&power, &bits, sizeof power);
    return x > 89.0f ? INFINITY : fused(q, t * power, power) * power;
#endif
}

/* z = exp(a z - b).  In a function of its own: unrolled into another, its constants would not stay in registers. */
static __attribute__((noinline)) void exp_run(real *z, real a, real b, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        z[i] = exp_real(a * z[i] - b);
}

/* The sum of z[RUN], pair by pair: eight lanes whatever the machine's registers. */
static inline real sum_run(const real z[RUN])
{
    const lanes *v = lanes_at(z);
    lanes sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    return lanes_sum(&sum);
}

static double exp_sum(real *z, real a, real b, size_t n)
{
    enum { BLOCK = 16 * RUN };
    double sum = 0;
    size_t i = 0, whole = n / RUN * RUN;
    for (size_t end; i < whole; i = end) { /* a block is in the first cache when it is summed */
        end = whole - i < BLOCK ? whole : i + BLOCK;
        exp_run(z + i, a, b, end - i);
        for (size_t j = i; j < end; j += RUN)
            sum += (double)sum_run(z + j);
    }
    if (i == n)
        return sum;
    real rest[RUN] = {0}; /* whole vectors: elements one by one would cost as much as all others */
    size_t some = n - i;
    memcpy(rest, z + i, some * sizeof *z);
    exp_run(rest, a, b, (some + 15) / 16 * 16);
    memcpy(z + i, rest, some * sizeof *z);
    memset(rest + some, 0, (RUN - some) * sizeof *rest);
    return sum + (double)sum_run(rest);
}

/* ---- divergence ---- */

/* log of a normal number in single precision, within 2 ulp or 2^-25: x = 2^k m, sqrt(1/2) <= m < sqrt 2, log m = 2 artanh(s), s = (m - 1) / (m + 1); the series ends
 * behind s^9: what is left is below 2^-28 of it. */
static inline real log_real(real x)
{
#ifdef VENEER_DOUBLE
    return log(x);
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t places = bits - 0x3f3504f3u; /* the bits of sqrt(1/2): the exponent of what is left is k */
    float k = (float)((int32_t)places >> 23), m;
    bits = (places & 0x007fffffu) + 0x3f3504f3u;
    memcpy(&m, &bits, sizeof m);
    float s = (m - 1) / (m + 1), s2 = s * s;
    float series = fused(fused(fused(fused(1.0f / 9, s2, 1.0f / 7), s2, 1.0f / 5), s2, 1.0f / 3), s2, 1.0f);
    return fused(k, 0x1.62e430p-1f, 2 * s * series);
#endif
}

/* A run's terms, then their sums in eight lanes. */
static __attribute__((noinline)) void divergence_run(real *restrict kl, real *restrict jsd, const real *p, const real *q, real a, real b, size_t n)
{
    const real least = (real)1.2e-38; /* the smallest normal number: what is below it weighs nothing */
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real P = a * p[i], Q = b * q[i], inverse = 2 / (P + Q > least ? P + Q : least);
        real u = P * inverse, w = Q * inverse;
        real lu = log_real(u > least ? u : least), lw = log_real(w > least ? w : least);
        kl[i] = P * (lu - lw);
        jsd[i] = P * lu + Q * lw;
    }
}

static void divergences(const real *p, const real *q, real a, real b, size_t n, double sums[2])
{
    real kl[RUN], jsd[RUN];
    sums[0] = sums[1] = 0;
    for (size_t i = 0; i < n; i += RUN) {
        size_t k = n - i < RUN ? n - i : RUN;
        if (k < RUN) {
            memset(kl, 0, sizeof kl);
            memset(jsd, 0, sizeof jsd);
        }
        divergence_run(kl, jsd, p + i, q + i, a, b, k);
        sums[0] += (double)sum_run(kl);
        sums[1] += (double)sum_run(jsd);
    }
}

/* ---- drawing a token ---- */

/* The sum of w[n], n <= 64, each at most 2^30: halves of 16 bits have sums of 32. */
static uint64_t sum_weights(const uint32_t *w, size_t n)
{
    uint32_t low = 0, high = 0;
#pragma omp simd reduction(+ : low, high)
    for (size_t i = 0; i < n; i++) {
        low += w[i] & 0xffff;
        high += w[i] >> 16;
    }
    return ((uint64_t)high << 16) + low;
}

static uint64_t weigh(uint32_t *restrict w, const real *restrict z, real most, real scale, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        w[i] = sample_weight(z[i], most, scale);
    return sum_weights(w, n);
}

static uint64_t drop_below(uint32_t *restrict w, const real *restrict z, real least, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        w[i] = z[i] >= least ? w[i] : 0;
    return sum_weights(w, n);
}

/* ---- sums and scales ---- */

static real dot(const real *a, const real *b, size_t n)
{
    lanes sum[4] = {{0}};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t j = 0; j < 4; j++)
            sum[j] += lanes_at(a + i)[j] * lanes_at(b + i)[j];
    for (; i + 8 <= n; i += 8)
        sum[0] += *lanes_at(a + i) * *lanes_at(b + i);
    lanes all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real total = lanes_sum(&all);
    for (; i < n; i++)
        total += a[i] * b[i];
    return total;
}

static void axpy(real *restrict y, real a, const real *restrict x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void scale(real *x, real a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= a;
}

#include "cpu/vector_cache.h"

/* ---- more sums ---- */

static real largest(const real *x, size_t n)
{
    real most = -(real)INFINITY;
#pragma omp simd reduction(max : most)
    for (size_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

static double squares(const real *x, size_t n)
{
    doubles sum[2] = {{0}};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 2; j++) {
            doubles some = __builtin_convertvector(lanes_at(x + i)[j], doubles);
            sum[j] += some * some;
        }
    double total = doubles_sum(sum);
    for (; i < n; i++)
        total += (double)x[i] * (double)x[i];
    return total;
}

/* ---- RMSNorm ---- */

static real rmsnorm(real *y, const real *x, const real *g, real eps, size_t C)
{
    real s = (real)(1 / sqrt(squares(x, C) / (double)C + (double)eps));
#pragma omp simd
    for (size_t j = 0; j < C; j++)
        y[j] = g[j] * x[j] * s;
    return s;
}

static void rmsnorm_back(real *restrict dx, const real *dy, const real *x, const real *g, real s, size_t C)
{
    doubles part[2] = {{0}};
    size_t i = 0;
    for (; i + 16 <= C; i += 16)
        for (size_t j = 0; j < 2; j++)
            part[j] += __builtin_convertvector(lanes_at(g + i)[j] * lanes_at(dy + i)[j] * lanes_at(x + i)[j], doubles);
    double sum = doubles_sum(part);
    for (; i < C; i++)
        sum += (double)(g[i] * dy[i] * x[i]);
    real common = (real)((double)s * (double)s * (double)s * sum / (double)C);
    for (size_t j = 0; j < C; j++)
        dx[j] += s * g[j] * dy[j] - x[j] * common;
}

/* ---- SwiGLU: no restrict, an output may be an input ---- */

static void swiglu(real *y, const real *gate, const real *up, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1 + exp_real(-gate[i])) * up[i];
}

static void swiglu_back(real *dgate, real *dup, const real *dy, const real *gate, const real *up, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real z = gate[i], u = up[i], d = dy[i], sig = 1 / (1 + exp_real(-z));
        dgate[i] = d * u * sig * (1 + z * (1 - sig));
        dup[i] = d * z * sig;
    }
}

static void softmax_back(real *restrict dP, const real *restrict P, real delta, real a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dP[i] = P[i] * (dP[i] - delta) * a;
}

/* ---- RoPE ---- */

/* Sine and cosine of position * inv_freq[j] to double precision for angles up to 2^20: the angle less a multiple of pi/2 (in three
 * parts), then Taylor polynomials on [-pi/4, pi/4] up to the terms below 2^-53. */
static void sincos_run(real *restrict sine, real *restrict cosine, double position, const float *restrict inv_freq, size_t n)
{
    const double shift = 0x1.8p52;
#pragma omp simd
    for (size_t j = 0; j < n; j++) {
        double angle = position * (double)inv_freq[j];
        double biased = angle * 0x1.45f306dc9c883p-1 + shift, k = biased - shift;
        double t = ((angle - k * 0x1.921fb54400000p+0) - k * 0x1.0b4611a600000p-34) - k * 0x1.3198a2e037073p-69;
        double u = t * t;
        double s = -1.0 / 1307674368000;
        s = s * u + 1.0 / 6227020800;
        s = s * u - 1.0 / 39916800;
        s = s * u + 1.0 / 362880;
        s = s * u - 1.0 / 5040;
        s = s * u + 1.0 / 120;
        s = s * u - 1.0 / 6;
        s = s * u * t + t;
        double c = 1.0 / 20922789888000;
        c = c * u - 1.0 / 87178291200;
        c = c * u + 1.0 / 479001600;
        c = c * u - 1.0 / 3628800;
        c = c * u + 1.0 / 40320;
        c = c * u - 1.0 / 720;
        c = c * u + 1.0 / 24;
        c = c * u - 0.5;
        c = c * u + 1;
        uint64_t quadrant;
        memcpy(&quadrant, &biased, sizeof quadrant); /* k in the low bits */
        double y = quadrant & 1 ? c : s, x = quadrant & 1 ? s : c;
        sine[j] = (real)(quadrant & 2 ? -y : y);
        cosine[j] = (real)((quadrant + 1) & 2 ? -x : x);
    }
}

static void rotate(real *x, const real *restrict sine, const real *restrict cosine, size_t half, bool backward)
{
    real *restrict a = x, *restrict b = x + half, sign = backward ? -1 : 1;
    for (size_t j = 0; j < half; j++) {
        real a0 = a[j], b0 = b[j], sine_j = sign * sine[j];
        a[j] = a0 * cosine[j] - b0 * sine_j;
        b[j] = b0 * cosine[j] + a0 * sine_j;
    }
}

/* ---- dropout ---- */

#ifndef VECTOR_OWN_PHILOX
/* The random bits of `blocks` blocks from `first` on: bits[4 * block + lane].  Whole eights of them may be written. */
static void philox_blocks(const struct vector_dropout *d, uint64_t first, size_t blocks, uint32_t *bits)
{
    const uint32_t key[2] = {(uint32_t)d->seed, (uint32_t)(d->seed >> 32)};
    for (uint64_t b = 0; b < blocks; b++) {
        uint64_t at = first + b;
        const uint32_t counter[4] = {(uint32_t)at, (uint32_t)(at >> 32), d->step, RNG_DROPOUT};
        philox4x32(counter, key, bits + 4 * b);
    }
}

/* Bit e: bits[e] >= threshold. */
static inline uint32_t at_least(const uint32_t bits[32], uint32_t threshold)
{
    uint32_t word = 0;
    for (int e = 0; e < 32; e++)
        word |= (uint32_t)(bits[e] >= threshold) << e;
    return word;
}
#endif

static void draw_mask(uint32_t *mask, const struct vector_dropout *d, size_t n)
{
    uint32_t bits[4 * BLOCKS + 32]; /* whole words of the mask, wherever in its block the first number lies */
    size_t skip = (size_t)(d->index % 4);
    for (size_t i = 0; i < n; i += 4 * BLOCKS - 32) {
        size_t some = n - i < 4 * BLOCKS - 32 ? n - i : 4 * BLOCKS - 32;
        VECTOR_PHILOX(d, (d->index + i) / 4, (skip + some + 3) / 4, bits);
        if (some % 32 != 0)
            memset(bits + skip + some, 0, 32 * sizeof *bits);
        for (size_t j = 0; j < some; j += 32)
            mask[(i + j) / 32] = VECTOR_AT_LEAST(bits + skip + j, d->threshold);
    }
}

#ifndef VECTOR_OWN_MASK
static void apply_mask(real *restrict y, const real *restrict x, const uint32_t *restrict mask, size_t first, real a, size_t n, bool add)
{
    const lane_places place = {0, 1, 2, 3, 4, 5, 6, 7};
    const lanes all = a - (lanes){0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        int bits = (int)(mask[(first + i) / 32] >> (first + i) % 32 & 255);
        lane_places chosen;
        lanes kept;
        memcpy(&chosen, &all, sizeof chosen);
        chosen &= -(((lane_places){0} + bits) >> place & 1); /* a, or the bits of 0 */
        memcpy(&kept, &chosen, sizeof kept);
        kept *= *lanes_at(x + i);
        if (add)
            kept += *lanes_at(y + i);
        memcpy(y + i, &kept, sizeof kept);
    }
    for (; i < n; i++) {
        real kept = (mask[(first + i) / 32] >> (first + i) % 32 & 1 ? a : 0) * x[i];
        y[i] = add ? y[i] + kept : kept;
    }
}
#endif

/* ---- bf16 ---- */

static void to_bf16(uint16_t *restrict to, const real *restrict x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float f = (float)x[i];
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        uint32_t nan = (u & 0x7fffffffu) > 0x7f800000u, rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
        to[i] = (uint16_t)(nan ? u >> 16 | 0x40 : rounded);
    }
}

static void from_bf16(real *restrict y, const uint16_t *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)from[i] << 16;
        float f;
        memcpy(&f, &u, sizeof f);
        y[i] = (real)f;
    }
}

/* ---- AdamW ---- */

static void adamw(real *restrict p, const real *restrict g, real *restrict m, real *restrict v, const struct vector_adamw *a,
                  size_t n)
{
    real beta1 = a->beta1, beta2 = a->beta2;
    for (size_t i = 0; i < n; i++) {
        real gi = g[i] * a->grad_scale;
        m[i] = beta1 * m[i] + (1 - beta1) * gi;
        v[i] = beta2 * v[i] + (1 - beta2) * gi * gi;
        p[i] = p[i] * a->decay - a->step * m[i] / (a->root * (real)sqrt(v[i]) + a->eps);
    }
}

const struct vector VECTOR_TABLE = {
    .decode = VECTOR_DECODE,
    .dot = dot,
    .dots = dots,
    .weighted = weighted,
    .axpy = axpy,
    .scale = scale,
    .largest = largest,
    .exp_sum = exp_sum,
    .squares = squares,
    .divergences = divergences,
    .weigh = weigh,
    .drop_below = drop_below,
    .to_f16 = to_f16,
    .from_f16 = from_f16,
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .rmsnorm = rmsnorm,
    .rmsnorm_back = rmsnorm_back,
    .swiglu = swiglu,
    .swiglu_back = swiglu_back,
    .softmax_back = softmax_back,
    .sincos = sincos_run,
    .rotate = rotate,
    .draw_mask = draw_mask,
    .apply_mask = apply_mask,
    .adamw = adamw,
};
