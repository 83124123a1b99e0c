/* half.h: what IEEE's f16 makes of a number: the nearest multiple of its last place, even ones where two are as near, of numbers beyond the largest the largest. */
#ifndef VENEER_TEST_HALF_H
#define VENEER_TEST_HALF_H
#include <math.h>

static inline double half_of(double x)
{
    if (!(fabs(x) < 65504))
        return isnan(x) ? x : copysign(65504, x);
    double last_place = ldexp(1, (x != 0 && ilogb(x) > -14 ? ilogb(x) : -14) - 10);
    return nearbyint(x / last_place) * last_place;
}

#endif
