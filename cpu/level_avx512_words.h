/* level_avx512_words.h: few rows times matrices of bytes (int8, int8_64, q8_0, q5_0, q5_1, q5_k, q6_k) in 16-bit fixed point, summed by VPDPWSSD.
 *
 * Not a header in the usual sense: level_avx512_micro.h includes it for pairs of bf16.  A byte becomes a word with 1.5 operations for two
 * columns, a bf16 number with three; and VPDPWSSD is as fast as VDPBF16PS.  x, which was rounded to bf16, is turned once a call: 16 bits for each row
 * and span of at most 256 columns, in units of 2^-15 of the span's largest |x|, so that an element is off by at most 2^-16 of that.
 * Sums are exact: 256 products of at most 2^7 2^15 stay below 2^31. */
enum {
    SPAN_MOST = 256,
    ROWS_AT_ONCE = 6, /* times 2 panels: with more, or with 8, sums or words go to memory */
    TURNED = 4096,    /* dwords of x that are turned at once: half of the first cache */
    TURNED_SPANS = 64 /* a span has 129 columns or more, but for the last */
};

struct turned {
    uint32_t words[TURNED];            /* [k / 4][2][m]: columns 0 and 2 of four, columns 1 and 3 */
    float scale[TURNED_SPANS * LANES]; /* [span][LANES]: by row */
    size_t span;
};

/* Columns that share a scale of x: whole runs where one is short. */
static size_t span_of(const struct qmat *W)
{
    size_t run = quant_panel_run(W);
    return run < SPAN_MOST ? SPAN_MOST / run * run : SPAN_MOST;
}

/* scale = largest / 32767 and its inverse, zeros where all are zeros. */
INLINE __m512 scale_of(__m512 largest, __m512 *inverse)
{
    const __m512 most = _mm512_set1_ps(32767);
    *inverse = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(largest, _mm512_set1_ps(0x1p-100f), _CMP_GT_OQ), most, largest);
    return _mm512_div_ps(largest, most);
}

INLINE __m512i fixed_low(__m512i pairs, __m512 inverse)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(as_ps(_mm512_slli_epi32(pairs, 16)), inverse));
}

INLINE __m512i fixed_high(__m512i pairs, __m512 inverse)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(as_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))), inverse));
}

/* The larger of both magnitudes of each pair, both bf16: as integers they are ordered alike. */
INLINE __m512 larger_of(__m512i magnitudes)
{
    return as_ps(_mm512_slli_epi32(_mm512_max_epu16(magnitudes, _mm512_srli_epi32(magnitudes, 16)), 16));
}

/* One row, 32 columns in a register.  Returns the scale. */
static float turn_row(uint32_t *to, const real *x, size_t columns)
{
    const __m512i both = _mm512_set1_epi32(0x7fff7fff);
    __m512i magnitudes = _mm512_setzero_si512();
    __m512 inverse;
    for (size_t u = 0; u < columns / 2; u += LANES)
        magnitudes = _mm512_max_epu16(magnitudes, _mm512_and_si512(both, as_si(_mm512_maskz_loadu_ps(first(columns / 2 - u), x + u))));
    __m512 scale = scale_of(_mm512_set1_ps(_mm512_reduce_max_ps(larger_of(magnitudes))), &inverse);
    for (size_t u = 0; u < columns / 2; u += LANES) {
        __mmask16 some = first(columns / 2 - u);
        __m512i pairs = as_si(_mm512_maskz_loadu_ps(some, x + u));
        __m256i even = _mm512_cvtepi32_epi16(fixed_low(pairs, inverse)), odd = _mm512_cvtepi32_epi16(fixed_high(pairs, inverse));
        __m512i zip = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
        __m512i joined = _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1);
        _mm512_mask_storeu_epi32(to + u, some, _mm512_permutexvar_epi32(zip, joined));
    }
    return _mm512_cvtss_f32(scale);
}

/* m rows, a row in each lane. */
INLINE __m512 turn_rows(const size_t m, uint32_t *to, const real *x, size_t columns)
{
    const __m512i both = _mm512_set1_epi32(0x7fff7fff);
    const __mmask16 rows = first(m);
    __m512i magnitudes = _mm512_setzero_si512();
    __m512 inverse;
    for (size_t u = 0; u < columns / 2; u++)
        magnitudes = _mm512_max_epu16(magnitudes, _mm512_and_si512(both, as_si(_mm512_maskz_loadu_ps(rows, x + u * m))));
    __m512 scale = scale_of(larger_of(magnitudes), &inverse);
    for (size_t u = 0; u < columns / 2; u += 2) {
        __m512i a = as_si(_mm512_maskz_loadu_ps(rows, x + u * m)), b = as_si(_mm512_maskz_loadu_ps(rows, x + (u + 1) * m));
        __m512i even = _mm512_mask_mov_epi16(fixed_low(a, inverse), 0xaaaaaaaa, _mm512_slli_epi32(fixed_low(b, inverse), 16));
        __m512i odd = _mm512_mask_mov_epi16(fixed_high(a, inverse), 0xaaaaaaaa, _mm512_slli_epi32(fixed_high(b, inverse), 16));
        _mm512_mask_storeu_epi32(to + u * m, rows, even);
        _mm512_mask_storeu_epi32(to + (u + 1) * m, rows, odd);
    }
    return scale;
}

/* Columns [k0, k0 + k) of x. */
INLINE void turn(const size_t m, struct turned *t, const real *x, size_t k0, size_t k)
{
    for (size_t at = 0; at < k; at += t->span) {
        size_t columns = k - at < t->span ? k - at : t->span;
        const real *from = x + (k0 + at) / 2 * m;
        uint32_t *to = t->words + at / 2 * m;
        __m512 scale = m == 1 ? _mm512_set1_ps(turn_row(to, from, columns)) : turn_rows(m, to, from, columns);
        _mm512_storeu_ps(t->scale + at / t->span * LANES, scale);
    }
}

struct words {
    const struct few *f;
    const struct turned *t;
    struct scale_map map;
    size_t k0, k; /* columns of t */
    float factor;
};

/* ---- one row: panel after panel, as they lie in memory, since whole sums may be taken in any order ---- */

/* x times the codes over `columns`: four chains. */
INLINE __m512i sum_alone(const uint8_t *codes, const uint8_t *later, size_t columns, const uint32_t *x)
{
    __m512i sum[4];
    UNROLL for (size_t j = 0; j < 4; j++)
        sum[j] = _mm512_setzero_si512();
    for (size_t c = 0; c < columns; c += 8, codes += 128, later += 128, x += 4)
        UNROLL for (size_t j = 0; j < 4; j += 2) {
            if (c + 2 * j >= columns)
                break;
            __m512i bytes = _mm512_loadu_si512(codes + 32 * j);
            _mm_prefetch((const char *)later + 32 * j, _MM_HINT_T0);
            sum[j] = _mm512_dpwssd_epi32(sum[j], _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8), _mm512_set1_epi32((int)x[j]));
            sum[j + 1] = _mm512_dpwssd_epi32(sum[j + 1], _mm512_srai_epi16(bytes, 8), _mm512_set1_epi32((int)x[j + 1]));
        }
    return _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[1]), _mm512_add_epi32(sum[2], sum[3]));
}

/* The 16 rows from row o of f; sums in the order of add_block. */
INLINE void add_alone(const struct words *w, size_t o)
{
    const struct few *f = w->f;
    const size_t run = quant_panel_run(f->W), span = w->t->span, p = (f->row0 + o) / LANES;
    const uint8_t *codes = codes_at(f->W, BYTES, p, 0) + w->k0 * LANES, *end = codes_at(f->W, BYTES, (f->row0 + f->n) / LANES, 0);
    __m512 total = w->k0 == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(f->y + o);
    for (size_t at = 0; at < w->k; at += span) {
        size_t columns = w->k - at < span ? w->k - at : span, step = run < columns ? run : columns;
        __m512 part = _mm512_setzero_ps();
        for (size_t c = 0; c < columns; c += step, codes += step * LANES) {
            const uint8_t *later = codes + AHEAD;
            if (later >= end)
                later = f->soon ? f->soon + (later - end) : codes;
            __m512 sum = _mm512_cvtepi32_ps(sum_alone(codes, later, step, w->t->words + (at + c) / 2));
            const struct scales s = scales_at(&w->map, p, w->k0 + at + c);
            part = _mm512_fmadd_ps(sum, s.scale, part);
            if (f->sums)
                total = _mm512_fmadd_ps(_mm512_set1_ps(f->sums[(w->k0 + at + c) / run]), s.minimum, total);
            scales_soon(&w->map, p + 1, w->k0 + at + c);
        }
        total = _mm512_fmadd_ps(part, _mm512_set1_ps(w->t->scale[at / span * LANES]), total);
    }
    _mm512_storeu_ps(f->y + o, _mm512_mul_ps(total, _mm512_set1_ps(w->factor)));
}

/* ---- more rows: two panels at once ---- */

enum { PANELS = 2 };

/* Some of the m rows with two panels: as many sums as there are registers for. */
struct part {
    size_t m, i0, rows;
};

/* sum[p][i] = x[i] times the codes of panel p over `columns` (a multiple of 4), in whole numbers. */
INLINE void sum_words(const struct part b, const uint8_t *codes[PANELS], const uint8_t *later, size_t columns, const uint32_t *x,
                      __m512i sum[PANELS][ROWS_AT_ONCE])
{
    UNROLL for (size_t p = 0; p < PANELS; p++)
        UNROLL for (size_t i = 0; i < b.rows; i++)
            sum[p][i] = _mm512_setzero_si512();
    x += b.i0;
    for (size_t c = 0; c < columns; c += 4, x += 2 * b.m) {
        __m512i even[PANELS], odd[PANELS];
        UNROLL for (size_t p = 0; p < PANELS; p++, later += 64) {
            __m512i bytes = _mm512_loadu_si512(codes[p]);
            _mm_prefetch((const char *)later, _MM_HINT_T1);
            codes[p] += 64;
            even[p] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
            odd[p] = _mm512_srai_epi16(bytes, 8);
        }
        UNROLL for (size_t i = 0; i < b.rows; i++) {
            __m512i xi = _mm512_set1_epi32((int)x[i]), next = _mm512_set1_epi32((int)x[b.m + i]);
            UNROLL for (size_t p = 0; p < PANELS; p++)
                sum[p][i] = _mm512_dpwssd_epi32(sum[p][i], even[p], xi);
            UNROLL for (size_t p = 0; p < PANELS; p++)
                sum[p][i] = _mm512_dpwssd_epi32(sum[p][i], odd[p], next);
        }
    }
}

/* Columns [at, at + columns) of t, a span: total[p][i] += x[i] times the values of panel p, run by run, x's scale last. */
INLINE void add_span(const struct part b, const struct words *w, size_t o, const size_t panel[PANELS], size_t at, size_t columns,
                     __m512 total[PANELS][ROWS_AT_ONCE])
{
    const struct qmat *W = w->f->W;
    const size_t run = quant_panel_run(W), step = run < columns ? run : columns, k = w->k0 + at;
    const uint8_t *codes[PANELS], *later = codes_at(W, BYTES, (w->f->row0 + o) / LANES + PANELS, 0) + PANELS * k * LANES;
    if (o + PANELS * LANES >= w->f->n)
        later = w->f->soon ? w->f->soon + PANELS * k * LANES : codes_at(W, BYTES, panel[0], 0);
    __m512 part[PANELS][ROWS_AT_ONCE];
    UNROLL for (size_t p = 0; p < PANELS; p++) {
        codes[p] = codes_at(W, BYTES, panel[p], 0) + k * LANES;
        UNROLL for (size_t i = 0; i < b.rows; i++)
            part[p][i] = _mm512_setzero_ps();
    }
    for (size_t c = 0; c < columns; c += step, later += PANELS * step * LANES) {
        __m512i sum[PANELS][ROWS_AT_ONCE];
        sum_words(b, codes, later, step, w->t->words + (at + c) / 2 * b.m, sum);
        UNROLL for (size_t p = 0; p < PANELS; p++) {
            const struct scales s = scales_at(&w->map, panel[p], k + c);
            scales_soon(&w->map, panel[p] + PANELS, k + c);
            UNROLL for (size_t i = 0; i < b.rows; i++) {
                part[p][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][i]), s.scale, part[p][i]);
                if (w->f->sums)
                    total[p][i] = _mm512_fmadd_ps(_mm512_set1_ps(w->f->sums[(k + c) / run * b.m + b.i0 + i]), s.minimum, total[p][i]);
            }
        }
    }
    UNROLL for (size_t p = 0; p < PANELS; p++)
        UNROLL for (size_t i = 0; i < b.rows; i++)
            total[p][i] = _mm512_fmadd_ps(part[p][i], _mm512_set1_ps(w->t->scale[at / w->t->span * LANES + b.i0 + i]), total[p][i]);
}

/* The panels from row o of f.  Begins with zeros when k0 is 0, else goes on with y. */
INLINE void add_block(const struct part b, const struct words *w, size_t o)
{
    const struct few *f = w->f;
    const size_t span = w->t->span;
    float *to[PANELS];
    size_t panel[PANELS];
    __m512 total[PANELS][ROWS_AT_ONCE];
    UNROLL for (size_t p = 0; p < PANELS; p++) {
        size_t at = o + p * LANES < f->n ? o + p * LANES : f->n - LANES;
        panel[p] = (f->row0 + at) / LANES;
        to[p] = f->y + b.i0 * f->ldy + at;
        UNROLL for (size_t i = 0; i < b.rows; i++)
            total[p][i] = w->k0 == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(to[p] + i * f->ldy);
    }
    for (size_t at = 0; at < w->k; at += span)
        add_span(b, w, o, panel, at, w->k - at < span ? w->k - at : span, total);
    UNROLL for (size_t p = 0; p < PANELS; p++)
        UNROLL for (size_t i = 0; i < b.rows; i++)
            _mm512_storeu_ps(to[p] + i * f->ldy, _mm512_mul_ps(total[p][i], _mm512_set1_ps(w->factor)));
}

/* More than that in two parts: the second finds the codes in the first cache. */
INLINE void few_bytes(const size_t m, const struct few *f, const struct looks *looks)
{
    const size_t rows = m > ROWS_AT_ONCE ? (m + 1) / 2 : m, cols = f->W->cols;
    struct turned t;
    t.span = span_of(f->W);
    const size_t block = 2 * TURNED / m / t.span * t.span;
    for (size_t k0 = 0; k0 < cols; k0 += block) {
        size_t k = cols - k0 < block ? cols - k0 : block;
        turn(m, &t, f->x, k0, k);
        struct words w = {.f = f, .t = &t, .map = scale_map_of(f->W), .k0 = k0, .k = k, .factor = k0 + k == cols ? looks->factor : 1};
        for (size_t o = 0; o < f->n; o += m == 1 ? LANES : PANELS * LANES) {
            if (m == 1) {
                add_alone(&w, o);
                continue;
            }
            add_block((struct part){m, 0, rows}, &w, o);
            if (rows < m)
                add_block((struct part){m, rows, m - rows}, &w, o);
        }
    }
}
