/* ops_checks.h: what the tests of kernels share: shapes around the tiles' edges, kernels with scratch, comparisons.  Include after cmocka.h. */
#ifndef VENEER_TEST_OPS_CHECKS_H
#define VENEER_TEST_OPS_CHECKS_H
#include "ops.h"
#include "walled_reals.h"

static const size_t shapes[] = {1, 7, 63, 64, 65, 172};
enum { SHAPES = 6, MOST = 172 };

static inline struct ops_context context_new(const struct ops *ops, int threads)
{
    struct ops_context c = {.ops = ops, .threads = threads};
    size_t reals = ops->scratch_size(&c, 700, 800, 64, 2 * MOST, 9000);
    assert_int_equal(c.scratch_n % 16, 0);
    c.scratch = zeros(reals);
    return c;
}

/* |got - want| <= factor * size[i] + u |want| everywhere */
static inline void check(const char *what, const real *got, const real *want, const real *size, double factor, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[i]);
        double bound = factor * (double)size[i] + U * fabs((double)want[i]);
        if (!(error <= bound))
            print_error("%s[%zu]: %g, want %g, off by %g, bound %g\n", what, i, (double)got[i], (double)want[i], error, bound);
        assert_true(error <= bound);
    }
}

static inline void same_bits(const char *what, const real *a, const real *b, size_t n)
{
    if (memcmp(a, b, n * sizeof *a) != 0)
        print_error("%s: other bits with another number of threads\n", what);
    assert_memory_equal(a, b, n * sizeof *a);
}

static inline double largest(const real *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

static inline void check_within(const char *what, const real *got, const real *want, double bound, size_t n)
{
    real *one = zeros(n);
    for (size_t i = 0; i < n; i++)
        one[i] = 1;
    check(what, got, want, one, bound, n);
}

#endif
