/* size.h: arithmetic on sizes.  Of numbers that came from a file every product and sum is checked, never the result. */
#ifndef VENEER_SIZE_H
#define VENEER_SIZE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a * b, a + b, a rounded up to a multiple of `align` (a power of two).  false, and *out untouched, on overflow. */
static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool size_align(uint64_t a, uint64_t align, uint64_t *out)
{
    uint64_t r;
    if (align == 0 || (align & (align - 1)) != 0 || !size_add(a, align - 1, &r))
        return false;
    *out = r & ~(align - 1);
    return true;
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
