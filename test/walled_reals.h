/* walled_reals.h: numbers for the kernels' tests, each array with a wall behind it. */
#ifndef VENEER_TEST_WALLED_REALS_H
#define VENEER_TEST_WALLED_REALS_H
#include <math.h>
#include <stdbool.h>

#include "base/real.h"
#include "base/rng.h"
#include "rounding.h"
#include "walled.h"

static struct walls walls; /* of the case under way */

static inline real *zeros(size_t n)
{
    return walled(&walls, n * sizeof(real));
}

static inline real *normals(size_t n, uint32_t step, double size)
{
    struct rng rng = {.seed = 5, .stream = RNG_INIT, .step = step};
    real *x = zeros(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (real)(size * rng_normal(&rng));
    return x;
}

static inline real *copied(const real *x, size_t n, bool absolute)
{
    real *y = zeros(n);
    for (size_t i = 0; i < n; i++)
        y[i] = absolute ? (real)fabs((double)x[i]) : x[i];
    return y;
}

#endif
