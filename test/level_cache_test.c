/* level_cache_test.c: what every level makes of keys and values in a cache (cpu/vector.h): f16 both ways, and sums over rows of reals and of f16, for one head and
 * for several, on ragged shapes. */
#include "level_matrix.h"

#include "cpu/vector.h"
#include "half.h"

/* Every f16 as a number and back; what lies between two, at their middle and beside it; what is too large, and what is none. */
static void halves_level(const struct vector *v)
{
    struct walls walls = {0};
    enum { ALL = 1 << 16 };
    uint16_t *halves = walled(&walls, ALL * sizeof *halves), *again = walled(&walls, ALL * sizeof *again);
    float *x = poison(&walls, ALL);
    for (uint32_t h = 0; h < ALL; h++)
        halves[h] = (uint16_t)h;
    for (size_t i = 0; i < ALL; i += 31) { /* by eights, and what is left alone */
        v->from_f16(x + i, halves + i, size_min(31, ALL - i));
        v->to_f16(again + i, x + i, size_min(31, ALL - i));
    }
    for (uint32_t h = 0; h < ALL; h++) {
        bool negative = h >= 0x8000, infinite = (h & 0x7fff) == 0x7c00;
        uint32_t exponent = h >> 10 & 31, mantissa = h & 1023;
        double want = exponent ? ldexp(1024 + mantissa, (int)exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(x[h]) && (again[h] & 0x7fff) > 0x7c00);
            continue;
        }
        assert_true((double)x[h] == copysign(infinite ? INFINITY : want, negative ? -1 : 1) && (bool)signbit(x[h]) == negative);
        assert_int_equal(again[h], infinite ? (h & 0x8000) | 0x7bff : h);
    }
    enum { MIDDLES = 3 * 0x7bff };
    float *near = poison(&walls, MIDDLES), *back = poison(&walls, MIDDLES);
    for (uint32_t h = 0; h < 0x7bff; h++) { /* ascending */
        float middle = (float)(((double)x[h] + (double)x[h + 1]) / 2);
        near[3 * h] = middle;
        near[3 * h + 1] = nextafterf(middle, 0);
        near[3 * h + 2] = -nextafterf(middle, INFINITY);
    }
    for (size_t i = 0; i < MIDDLES; i += 31) {
        v->to_f16(again, near + i, size_min(31, MIDDLES - i));
        v->from_f16(back + i, again, size_min(31, MIDDLES - i));
    }
    for (size_t i = 0; i < MIDDLES; i++)
        assert_true((double)back[i] == half_of((double)near[i]));
    float large[9] = {65519, 65520, -65520, 1e30f, -1e30f, INFINITY, -INFINITY, NAN, 65504}, small[9]; /* eight at once, one alone */
    v->to_f16(again, large, 9);
    v->from_f16(small, again, 9);
    for (int i = 0; i < 9; i++)
        assert_true(i == 7 ? isnan(small[i]) : small[i] == copysignf(65504, large[i]));
    walls_down(&walls);
}

/* What one call of dots and of weighted gives for `heads` rows of x and of w. */
static void rows_one(const struct vector *v, size_t n, size_t D, size_t heads, bool f16)
{
    struct walls walls = {0};
    size_t ldy = n + 2, ldw = n + 1, ldz = D + 3;
    float *rows = normals(&walls, n, D, D, 1), *x = normals(&walls, heads, D, D, 2), *w = normals(&walls, heads, n, ldw, 3);
    float *y = poison(&walls, (heads - 1) * ldy + n), *z = poison(&walls, (heads - 1) * ldz + D);
    uint16_t *halves = walled(&walls, n * D * sizeof *halves);
    for (size_t e = 0; f16 && e < n * D; e++)
        rows[e] = f32_from_f16(halves[e] = f16_from_f32(rows[e]));
    v->dots(y, ldy, x, heads, f16 ? (const void *)halves : rows, f16, n, D);
    v->weighted(z, ldz, w, ldw, heads, f16 ? (const void *)halves : rows, f16, n, D);
    for (size_t h = 0; h < heads; h++) {
        for (size_t i = 0; i < n; i++) {
            double want = 0, size = 0;
            for (size_t d = 0; d < D; d++) {
                want += (double)x[h * D + d] * (double)rows[i * D + d];
                size += fabs((double)x[h * D + d] * (double)rows[i * D + d]);
            }
            assert_true(fabs((double)y[h * ldy + i] - want) <= gamma_of(D) * size);
        }
        for (size_t d = 0; d < D; d++) {
            double want = 0, size = 0;
            for (size_t i = 0; i < n; i++) {
                want += (double)w[h * ldw + i] * (double)rows[i * D + d];
                size += fabs((double)w[h * ldw + i] * (double)rows[i * D + d]);
            }
            assert_true(fabs((double)z[h * ldz + d] - want) <= gamma_of(n) * size);
        }
        for (size_t i = n; h + 1 < heads && i < ldy; i++)
            assert_true(isnan(y[h * ldy + i])); /* between the rows */
        for (size_t d = D; h + 1 < heads && d < ldz; d++)
            assert_true(isnan(z[h * ldz + d]));
    }
    walls_down(&walls);
}

static void test_halves(void **state)
{
    const struct level *is = *state;
    if (!is->supported())
        skip();
    halves_level(is->vector);
}

static void test_rows(void **state)
{
    static const size_t widths[] = {1, 7, 8, 20, 33, 64, 100}, lengths[] = {1, 3, 4, 7, 64};
    const struct level *is = *state;
    if (!is->supported())
        skip();
    for (size_t d = 0; d < 7; d++)
        for (size_t n = 0; n < 5; n++)
            for (size_t heads = 1; heads <= VECTOR_HEADS; heads++) {
                rows_one(is->vector, lengths[n], widths[d], heads, false);
                rows_one(is->vector, lengths[n], widths[d], heads, true);
            }
}

int main(void)
{
    static const struct level_case cases[] = {{"halves", test_halves}, {"rows", test_rows}};
    return run_levels(cases, sizeof cases / sizeof *cases);
}
