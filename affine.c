/* affine.c: min-max grids, nearest codes, back to numbers. */
#include "affine.h"

#include <math.h>

#include "quant.h"

static const double F16_MAX = 65504, F16_MIN = 0x1p-24; /* the largest number, the smallest above 0 */

size_t affine_groups(size_t out, size_t in, size_t group)
{
    return (out * in + group - 1) / group;
}

size_t affine_period(size_t in, size_t group)
{
    size_t a = group, b = in;
    while (b > 0) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return group / a; /* a: the greatest common divisor */
}

void affine_place(struct affine *q, size_t out, size_t in, size_t group, int bits, struct arena *arena)
{
    size_t groups = affine_groups(out, in, group);
    *q = (struct affine){.out = out, .in = in, .group = group, .bits = bits};
    q->codes = arena_take(arena, out * in, sizeof *q->codes);
    q->scale = arena_take(arena, groups, sizeof *q->scale);
    q->zero = arena_take(arena, groups, sizeof *q->zero);
}

enum status affine_check(const struct affine *q, const real *W, struct err *err)
{
    if (q->bits < 1 || q->bits > 8)
        return err_set(err, ERR_FAILED, "codes of %d bits, want 1 to 8", q->bits);
    if (q->group < 1)
        return err_set(err, ERR_FAILED, "groups of no element");
    for (size_t i = 0; i < q->out * q->in; i++)
        if (!(fabs((double)W[i]) <= F16_MAX))
            return err_set(err, ERR_FAILED, "element [%zu, %zu] is %g: scales in fp16 reach to %g", i / q->in, i % q->in, (double)W[i], F16_MAX);
    return OK;
}

void affine_grid(double lo, double hi, int bits, float *scale, float *zero)
{
    double most = (1 << bits) - 1;
    lo = lo < 0 ? lo : 0;
    hi = hi > 0 ? hi : 0;
    double step = fmin(fmax((hi - lo) / most, F16_MIN), F16_MAX);
    *scale = f32_from_f16(f16_from_f32((float)step));
    *zero = (float)fmin(rint(-lo / (double)*scale), most);
}

uint8_t affine_code(double w, int bits, float scale, float zero)
{
    double most = (1 << bits) - 1, at = w / (double)scale + (double)zero;
    at = at > 0 ? at : 0;
    return (uint8_t)lrint(at < most ? at : most);
}

static double bound_to(double w, double most)
{
    return w < -most ? -most : w > most ? most : w;
}

void affine_round_group(struct affine *q, size_t g, const real *w, double clip, double *near)
{
    size_t first = g * q->group, left = q->out * q->in - first, n = left < q->group ? left : q->group;
    uint8_t *codes = q->codes + first;
    double lo = 0, hi = 0;
    for (size_t i = 0; i < n; i++) {
        lo = (double)w[i] < lo ? (double)w[i] : lo;
        hi = (double)w[i] > hi ? (double)w[i] : hi;
    }
    double most = clip * fmax(-lo, hi);
    affine_grid(bound_to(lo, most), bound_to(hi, most), q->bits, &q->scale[g], &q->zero[g]);
    for (size_t i = 0; i < n; i++) {
        codes[i] = affine_code((double)w[i], q->bits, q->scale[g], q->zero[g]); /* the grid's ends are the bound */
        if (near)
            near[i] = ((double)codes[i] - (double)q->zero[g]) * (double)q->scale[g];
    }
}

void affine_round(struct affine *q, const real *W)
{
    size_t groups = affine_groups(q->out, q->in, q->group);
    for (size_t g = 0; g < groups; g++)
        affine_round_group(q, g, W + g * q->group, 1, NULL);
}

void affine_decode(const struct affine *q, real *W)
{
    for (size_t i = 0; i < q->out * q->in; i++)
        W[i] = (real)((float)q->codes[i] * q->scale[i / q->group] - q->zero[i / q->group] * q->scale[i / q->group]);
}
