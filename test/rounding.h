/* rounding.h: u = 2^-24, and what a sum rounds.  A float sum of k products differs from the exact one by at most gamma(k) sum |x||w|,
 * gamma(k) = k u / (1 - k u), in any order (Higham 2002, (3.5)). */
#ifndef VENEER_TEST_ROUNDING_H
#define VENEER_TEST_ROUNDING_H
#include <stddef.h>

static const double U = 0x1p-24;

static inline double gamma_of(size_t k)
{
    return (double)k * U / (1 - (double)k * U);
}

#endif
