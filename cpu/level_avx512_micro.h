/* level_avx512_micro.h: the functions of a micro (level.h) for 512-bit registers, written once for both units.
 *
 * Not a header in the usual sense: level_avx512.c and level_avx512_bf16.c include it once each, after they have defined, for their unit,
 *     UNIT                1 (reals) or 2 (pairs of bf16)
 *     multiply_add        sums += 16 units times 16 units
 *     load_units          16 units of one row
 *     cross_units         a unit of each of 16 columns
 *     decode_units        8 columns of 16 rows in panels -> 8 / UNIT registers, a row in each lane
 *     decode_across       16 columns of 16 rows -> 16 / UNIT registers, a column in each lane
 *     struct looks, look_at, look_up   the values of codes, without their scales
 * The tile is 12 x 32: 24 of the 32 registers are sums, two hold B, and A comes as operands broadcast from memory. */
enum { MR = 12, NR = 32, UNITS = GROUP / UNIT /* units of a group of columns */ };

/* ---- packing ---- */

/* Rows of numbers laid across: 16 rows of 16 units at a time. */
INLINE void pack_cells(enum cell cell, real *packed, size_t width, const void *x, size_t ldx, size_t m, size_t k)
{
    for (size_t at = 0; at < k; at += LANES * UNIT)
        for (size_t i = 0; i < width; i += LANES) {
            size_t units = (k - at + UNIT - 1) / UNIT;
            __mmask16 lanes = first(width - i);
            __m512i t[LANES];
            UNROLL for (size_t r = 0; r < LANES; r++)
                t[r] = i + r < m ? load_units(cell, x, (i + r) * ldx + at, k - at) : _mm512_setzero_si512();
            transpose16(t);
            real *to = packed + at / UNIT * width + i;
            UNROLL for (size_t u = 0; u < LANES; u++)
                if (u < units)
                    _mm512_mask_storeu_ps(to + u * width, lanes, as_ps(t[u]));
        }
}

/* Rows of numbers as they are, UNIT of them at a time. */
INLINE void pack_cells_t(enum cell cell, real *packed, size_t width, const void *x, size_t at, size_t ldx, size_t m, size_t k)
{
    for (size_t j = 0; j < k; j += UNIT, at += UNIT * ldx)
        for (size_t i = 0; i < width; i += LANES) {
            __mmask16 some = first(i < m ? m - i : 0);
            _mm512_mask_storeu_ps(packed + j / UNIT * width + i, first(width - i), as_ps(cross_units(cell, x, at + i, ldx, k - j, some)));
        }
}

static void pack(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    pack_cells(CELL_F32, packed, width, x, ldx, m, k);
}

static void pack_t(real *packed, size_t width, const real *x, size_t ldx, size_t m, size_t k)
{
    pack_cells_t(CELL_F32, packed, width, x, 0, ldx, m, k);
}

/* ---- panels of a matrix ---- */

/* Any format and any place: spans are decoded into a tile, then packed. */
enum { SPAN = 64, BLOCK = 32 /* of ggml: spans begin at its multiples */ };

static void panel_any(real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    real tile[NR * SPAN];
    for (size_t at = 0; at < k;) {
        size_t begin = (k0 + at) / BLOCK * BLOCK, skip = k0 + at - begin;
        size_t length = k - at < SPAN - BLOCK ? k - at : SPAN - BLOCK;
        for (size_t j = 0; j < n; j++)
            quant_decode_span(W, row0 + j, begin, skip + length, tile + j * SPAN);
        pack(packed + at / UNIT * NR, NR, tile + skip, SPAN, n, length);
        at += length;
    }
}

static void panel_t_any(real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k)
{
    enum { ROWS = 16, WIDE = NR + BLOCK };
    real tile[ROWS * WIDE];
    size_t begin = col0 / BLOCK * BLOCK;
    for (size_t at = 0; at < k; at += ROWS) {
        size_t rows = k - at < ROWS ? k - at : ROWS;
        for (size_t i = 0; i < rows; i++)
            quant_decode_span(W, row0 + at + i, begin, col0 + n - begin, tile + i * WIDE);
        pack_t(packed + at / UNIT * NR, NR, tile + (col0 - begin), WIDE, n, rows);
    }
}

/* From panels: 16 rows side by side, run by run. */
INLINE void panel_codes(enum kind kind, real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    const struct scale_map map = scale_map_of(W);
    const float *table = values_of(W->format);
    size_t run = quant_panel_run(W), end = k0 + k;
    for (size_t h = 0; h < NR; h += LANES) {
        real *to = packed + h;
        for (size_t c = k0; h < n && c < end;) {
            size_t p = (row0 + h) / LANES, stop = (c / run + 1) * run < end ? (c / run + 1) * run : end;
            struct scales s = scales_at(&map, p, c);
            const uint8_t *codes = codes_at(W, kind, p, c);
            for (; c < stop; c += GROUP, codes += group_bytes(kind), to += UNITS * NR) {
                __m512i w[UNITS];
                decode_units(kind, codes, table, s, w);
                UNROLL for (int u = 0; u < UNITS; u++)
                    _mm512_storeu_ps(to + u * NR, as_ps(w[u]));
            }
        }
        for (size_t u = 0; h >= n && u < k / UNIT; u++)
            _mm512_storeu_ps(to + u * NR, _mm512_setzero_ps());
    }
}

/* From panels, columns side by side. */
INLINE void panel_t_codes(enum kind kind, real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k)
{
    const float *table = values_of(W->format);
    const struct scale_map map = scale_map_of(W);
    for (size_t h = 0; h < NR; h += LANES)
        for (size_t i = 0; i < k; i += LANES) {
            real *to = packed + i / UNIT * NR + h;
            __m512i w[LANES / UNIT];
            if (h < n) {
                struct square at;
                square_at(&at, &map, kind, (row0 + i) / LANES, col0 + h, h + GROUP < n);
                decode_across(kind, &at, table, w);
            }
            UNROLL for (int u = 0; u < LANES / UNIT; u++)
                _mm512_storeu_ps(to + u * NR, h < n ? as_ps(w[u]) : _mm512_setzero_ps());
        }
}

static void panel(real *packed, const struct qmat *W, size_t row0, size_t n, size_t k0, size_t k)
{
    enum cell cell = cell_of(W->format);
    size_t at = row0 * W->cols + k0;
    if (cell == CELL_F32)
        pack_cells(CELL_F32, packed, NR, (const float *)W->codes + at, W->cols, n, k);
    else if (cell == CELL_F16)
        pack_cells(CELL_F16, packed, NR, (const uint16_t *)W->codes + at, W->cols, n, k);
    else if (cell == CELL_BF16)
        pack_cells(CELL_BF16, packed, NR, (const uint16_t *)W->codes + at, W->cols, n, k);
    else if (!W->panels || row0 % LANES != 0 || n % LANES != 0 || k0 % GROUP != 0 || k % GROUP != 0)
        panel_any(packed, W, row0, n, k0, k);
    else
        switch (kind_of(W->format)) {
        case NIBBLES:
            panel_codes(NIBBLES, packed, W, row0, n, k0, k);
            break;
        case BYTES:
            panel_codes(BYTES, packed, W, row0, n, k0, k);
            break;
        case BYTES_127:
            panel_codes(BYTES_127, packed, W, row0, n, k0, k);
            break;
        default:
            panel_codes(BYTES_TABLE, packed, W, row0, n, k0, k);
        }
}

static void panel_t(real *packed, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k)
{
    enum cell cell = cell_of(W->format);
    size_t at = row0 * W->cols + col0;
    if (cell == CELL_F32)
        pack_cells_t(CELL_F32, packed, NR, W->codes, at, W->cols, n, k);
    else if (cell == CELL_F16)
        pack_cells_t(CELL_F16, packed, NR, W->codes, at, W->cols, n, k);
    else if (cell == CELL_BF16)
        pack_cells_t(CELL_BF16, packed, NR, W->codes, at, W->cols, n, k);
    else if (!W->panels || row0 % LANES != 0 || k % LANES != 0 || col0 % GROUP != 0 || n % GROUP != 0)
        panel_t_any(packed, W, col0, n, row0, k);
    else
        switch (kind_of(W->format)) {
        case NIBBLES:
            panel_t_codes(NIBBLES, packed, W, col0, n, row0, k);
            break;
        case BYTES:
            panel_t_codes(BYTES, packed, W, col0, n, row0, k);
            break;
        case BYTES_127:
            panel_t_codes(BYTES_127, packed, W, col0, n, row0, k);
            break;
        default:
            panel_t_codes(BYTES_TABLE, packed, W, col0, n, row0, k);
        }
}

/* ---- the tile ---- */

INLINE void put(real *c, __m512 sum, __mmask16 some, bool add)
{
    if (add)
        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(some, c), sum);
    _mm512_mask_storeu_ps(c, some, sum);
}

/* n <= 32 columns; `wide`: more than 16 of them.  With r = 8 or 16 of an adapter, and heads of 16, half of the registers would be sums of nothing. */
INLINE void tile(const size_t m, const bool wide, size_t units, const real *a, const real *b, real *c, size_t ldc, size_t n, bool add)
{
    __m512 left[MR], right[MR];
    UNROLL for (size_t i = 0; i < m; i++)
        left[i] = right[i] = _mm512_setzero_ps();
    for (size_t u = 0; u < units; u++, a += m, b += NR) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = wide ? _mm512_loadu_ps(b + LANES) : b0;
        UNROLL for (size_t i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(a[i]);
            left[i] = multiply_add(left[i], x, b0);
            right[i] = wide ? multiply_add(right[i], x, b1) : right[i];
        }
    }
    __mmask16 some = first(n), more = first(wide ? n - LANES : 0);
    UNROLL for (size_t i = 0; i < m; i++) {
        put(c + i * ldc, left[i], some, add);
        if (wide)
            put(c + i * ldc + LANES, right[i], more, add);
    }
}

/* ---- few rows ---- */

/* Bytes between a prefetch and its use: of a panel's codes, and of a row of plain numbers.  16 rows of a power of two share a set of the first
 * cache: they are asked into the second. */
enum { AHEAD = 4096, ROW_AHEAD = 1024 };

struct few {
    const struct qmat *W;
    const real *x; /* A panel */
    real *y;       /* y[0, row0] */
    size_t ldy, row0, n;
    const uint8_t *soon; /* read next, or NULL */
    const float *sums; /* of x over each run [run][m]: what a minimum is multiplied with */
};

/* 16 rows (`rows` of them, then the first again) from column k on: to[u] is unit u of all of them.  What comes ROW_AHEAD bytes later is asked
 * for: behind the end of a row that is the begin of the next 16. */
static void lay_across(enum cell cell, real to[LANES * LANES], const struct qmat *W, size_t row0, size_t rows, size_t k)
{
    const size_t bytes = cell == CELL_F32 ? 4 : 2, at = row0 * W->cols + k, left = W->cols - k;
    const size_t ahead = (size_t)ROW_AHEAD < left * bytes ? ROW_AHEAD : ROW_AHEAD + (LANES - 1) * W->cols * bytes;
    __m512i t[LANES];
    UNROLL for (size_t r = 0; r < LANES; r++) {
        size_t from = at + (r < rows ? r : 0) * W->cols;
        UNROLL for (size_t line = 0; line < UNIT * bytes; line += 4)
            _mm_prefetch((const char *)W->codes + from * bytes + ahead + line * LANES, _MM_HINT_T1);
        if (cell == CELL_F32)
            t[r] = load_units(CELL_F32, W->codes, from, left);
        else if (cell == CELL_F16)
            t[r] = load_units(CELL_F16, W->codes, from, left);
        else
            t[r] = load_units(CELL_BF16, W->codes, from, left);
    }
    transpose16(t);
    UNROLL for (size_t u = 0; u < LANES; u++)
        _mm512_storeu_ps(to + u * LANES, as_ps(t[u]));
}

INLINE void add_unit(const size_t m, __m512 sum[FEW_MOST], const real *x, const real *w)
{
    __m512 both = _mm512_loadu_ps(w);
    UNROLL for (size_t i = 0; i < m; i++)
        sum[i] = multiply_add(sum[i], _mm512_set1_ps(x[i]), both);
}

/* Plain numbers: even units are summed in one chain and odd ones in another. */
INLINE void few_cells(const size_t m, enum cell cell, const struct few *f)
{
    const size_t cols = f->W->cols, units = (cols + UNIT - 1) / UNIT;
    for (size_t o = 0; o < f->n; o += LANES) {
        size_t rows = f->n - o < LANES ? f->n - o : LANES;
        const real *x = f->x;
        __m512 sum[2][FEW_MOST];
        UNROLL for (size_t i = 0; i < m; i++)
            sum[0][i] = sum[1][i] = _mm512_setzero_ps();
        for (size_t u = 0; u < units; u += LANES) {
            real square[LANES * LANES];
            size_t count = units - u < LANES ? units - u : LANES;
            lay_across(cell, square, f->W, f->row0 + o, rows, u * UNIT);
            for (size_t j = 0; j + 1 < count; j += 2, x += 2 * m) {
                add_unit(m, sum[0], x, square + j * LANES);
                add_unit(m, sum[1], x + m, square + (j + 1) * LANES);
            }
            if (count % 2 == 1)
                add_unit(m, sum[0], x, square + (count - 1) * LANES);
        }
        UNROLL for (size_t i = 0; i < m; i++)
            _mm512_mask_storeu_ps(f->y + i * f->ldy + o, first(rows), _mm512_add_ps(sum[0][i], sum[1][i]));
    }
}

enum { AT_ONCE = 4 /* panels, at most */, SUMS = 16384 /* of few's, at most: 12 rows of 21845 columns in runs of 16 */ };

/* sums[run][i] = sum of x[i] over a run. */
static void sum_runs(size_t m, const real *x, size_t cols, size_t run, float *sums)
{
    for (size_t k = 0; k < cols; k += run, sums += m) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t u = 0; u < run / UNIT; u++, x += m)
            sum = multiply_add(sum, _mm512_maskz_loadu_ps(first(m), x), unit_of_ones());
        _mm512_mask_storeu_ps(sums, first(m), sum);
    }
}

/* Some panels of 16 rows, from row o of f.  What follows them in memory is asked for meanwhile, as it lies: one stream of 64 bytes for 64 bytes,
 * into the second cache; behind f's last row that is what f says. */
struct block {
    const struct few *f;
    const struct looks *looks;
    struct scale_map map;
    size_t m, panels, o, run, panel_bytes;
};

/* sum[p][i] = x[i] times the bare values of panel p over the run from column k. */
INLINE void sum_run(const struct block b, enum kind kind, size_t k, __m512 sum[AT_ONCE][FEW_MOST])
{
    const size_t m = b.m, columns = columns_of(kind), units = columns / UNIT;
    const uint8_t *codes = codes_at(b.f->W, kind, (b.f->row0 + b.o) / LANES, k);
    const uint8_t *later = codes + b.panels * b.panel_bytes + (b.panels - 1) * (k / columns) * 64;
    const real *x = b.f->x + k / UNIT * m;
    if (b.o + b.panels * LANES >= b.f->n)
        later = b.f->soon ? b.f->soon + b.panels * (k / columns) * 64 : codes;
    UNROLL for (size_t p = 0; p < b.panels; p++)
        UNROLL for (size_t i = 0; i < m; i++)
            sum[p][i] = _mm512_setzero_ps();
    for (size_t c = 0; c < b.run; c += columns, x += units * m, codes += 64) {
        struct look look[AT_ONCE];
        UNROLL for (size_t p = 0; p < b.panels; p++) {
            look[p] = look_at(kind, codes + p * b.panel_bytes, b.looks);
            _mm_prefetch((const char *)later + 64 * p, _MM_HINT_T1);
        }
        later += 64 * b.panels;
        UNROLL for (size_t j = 0; j < units; j++) {
            __m512 w[AT_ONCE];
            UNROLL for (size_t p = 0; p < b.panels; p++)
                w[p] = look_up(kind, &look[p], b.looks, j);
            UNROLL for (size_t i = 0; i < m; i++) {
                __m512 xi = _mm512_set1_ps(x[j * m + i]);
                UNROLL for (size_t p = 0; p < b.panels; p++)
                    sum[p][i] = multiply_add(sum[p][i], xi, w[p]);
            }
        }
    }
}

/* Each panel with its chain of sums: while one waits the others add. */
INLINE void few_block(const struct block b, enum kind kind)
{
    const struct few *f = b.f;
    const size_t panel = (f->row0 + b.o) / LANES;
    __m512 total[AT_ONCE][FEW_MOST], sum[AT_ONCE][FEW_MOST];
    UNROLL for (size_t p = 0; p < b.panels; p++)
        UNROLL for (size_t i = 0; i < b.m; i++)
            total[p][i] = _mm512_setzero_ps();
    for (size_t k = 0; k < f->W->cols; k += b.run) {
        sum_run(b, kind, k, sum);
        UNROLL for (size_t p = 0; p < b.panels; p++) {
            struct scales s = scales_at(&b.map, panel + p, k);
            scales_soon(&b.map, panel + p + b.panels, k);
            UNROLL for (size_t i = 0; i < b.m; i++) {
                total[p][i] = _mm512_fmadd_ps(sum[p][i], s.scale, total[p][i]);
                if (f->sums)
                    total[p][i] = _mm512_fmadd_ps(_mm512_set1_ps(f->sums[k / b.run * b.m + i]), s.minimum, total[p][i]);
            }
        }
    }
    UNROLL for (size_t p = 0; p < b.panels; p++)
        UNROLL for (size_t i = 0; i < b.m; i++)
            _mm512_storeu_ps(f->y + i * f->ldy + b.o + p * LANES, _mm512_mul_ps(total[p][i], _mm512_set1_ps(b.looks->factor)));
}

/* Four panels at once, or two when there are several rows; then what is left. */
INLINE void few_panels(const size_t m, enum kind kind, const struct few *f, const struct looks *looks)
{
    const size_t most = m == 1 ? 4 : 2, columns = columns_of(kind);
    struct block b = {.f = f, .looks = looks, .map = scale_map_of(f->W), .run = quant_panel_run(f->W), .panel_bytes = f->W->cols / columns * 64};
    b.m = m;
    for (b.o = 0; b.o < f->n; b.o += b.panels * LANES) {
        size_t left = (f->n - b.o) / LANES;
        if (left >= most) {
            b.panels = most;
            few_block(b, kind);
        } else if (left == 3) {
            b.panels = 3;
            few_block(b, kind);
        } else if (left == 2) {
            b.panels = 2;
            few_block(b, kind);
        } else {
            b.panels = 1;
            few_block(b, kind);
        }
    }
}

#if UNIT == 1
INLINE void few_bytes(const size_t m, const struct few *f, const struct looks *looks)
{
    few_panels(m, BYTES, f, looks);
}
#else
#include "cpu/level_avx512_words.h"
#endif

/* ---- one function for each number of rows, so that its sums are registers ---- */

#define ROWS(m)                                                                                                                                \
    static void tile_##m(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t n, bool add)                                  \
    {                                                                                                                                          \
        tile(m, true, units, a, b, c, ldc, n, add);                                                                                            \
    }                                                                                                                                          \
    static void half_##m(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t n, bool add)                                  \
    {                                                                                                                                          \
        tile(m, false, units, a, b, c, ldc, n, add);                                                                                           \
    }                                                                                                                                          \
    static void few_cells_##m(enum cell cell, const struct few *f)                                                                             \
    {                                                                                                                                          \
        few_cells(m, cell, f);                                                                                                                 \
    }                                                                                                                                          \
    static void few_nibbles_##m(const struct few *f, const struct looks *looks)                                                                \
    {                                                                                                                                          \
        few_panels(m, NIBBLES, f, looks);                                                                                                      \
    }                                                                                                                                          \
    static void few_bytes_##m(const struct few *f, const struct looks *looks)                                                                  \
    {                                                                                                                                          \
        few_bytes(m, f, looks);                                                                                                                \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)
ROWS(7)
ROWS(8)
ROWS(9)
ROWS(10)
ROWS(11)
ROWS(12)

#define OF_ROWS(f) {f##_1, f##_2, f##_3, f##_4, f##_5, f##_6, f##_7, f##_8, f##_9, f##_10, f##_11, f##_12}

static void kernel(size_t units, const real *a, const real *b, real *c, size_t ldc, size_t m, size_t n, bool add)
{
    static void (*const tiles[2][MR])(size_t, const real *, const real *, real *, size_t, size_t, bool) = {OF_ROWS(half), OF_ROWS(tile)};
    if (m > 0)
        tiles[n > LANES][m - 1](units, a, b, c, ldc, n, add);
}

static bool few(const struct qmat *W, size_t row0, size_t n, const real *x, size_t m, real *y, size_t ldy, const void *soon)
{
    static void (*const cells[FEW_MOST])(enum cell, const struct few *) = OF_ROWS(few_cells);
    static void (*const nibbles[FEW_MOST])(const struct few *, const struct looks *) = OF_ROWS(few_nibbles);
    static void (*const bytes[FEW_MOST])(const struct few *, const struct looks *) = OF_ROWS(few_bytes);
    struct few f = {.W = W, .x = x, .y = y, .ldy = ldy, .row0 = row0, .n = n, .soon = soon};
    enum cell cell = cell_of(W->format);
    float sums[SUMS];
    if (m == 0 || (cell == CELL_NONE && (!W->panels || n % LANES != 0 || W->format == FORMAT_NF8)))
        return m == 0;
    if (cell == CELL_NONE && code_has_minimum(W)) {
        size_t run = quant_panel_run(W);
        if (W->cols / run * m > SUMS)
            return false;
        sum_runs(m, x, W->cols, run, sums);
        f.sums = sums;
    }
    const struct looks looks = make_looks(W->format);
    if (cell != CELL_NONE)
        cells[m - 1](cell, &f);
    else if (kind_of(W->format) == NIBBLES)
        nibbles[m - 1](&f, &looks);
    else
        bytes[m - 1](&f, &looks);
    return true;
}
