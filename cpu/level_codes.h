/* level_codes.h: what levels share of reading codes from panels (quant_panel.h): how a code becomes a value, where the codes of a column stand. */
#ifndef VENEER_CPU_LEVEL_CODES_H
#define VENEER_CPU_LEVEL_CODES_H
#include <string.h>

#include "cpu/level.h"
#include "quant_affine.h"
#include "quant_ggml.h"
#include "quant_panel.h"

#define CODES_INLINE static inline __attribute__((always_inline))

/* How a code becomes a value; every use has it as a constant, so that each kind gets its own loop. */
enum code_kind {
    BOOK4,    /* nf4, fp4, iq4_nl, iq4_xs: 16 levels */
    CODE4,    /* q4_1; hqq2, hqq3, hqq4; q2_k, q4_k: 0 .. 15 */
    CENTRED4, /* q4_0, q3_k: code - 8 */
    CODE8,    /* int8, int8_64, q8_0, q6_k: signed bytes */
    LIFTED8,  /* q5_1, q5_k: signed bytes beside a minimum; q5_0: beside +0 */
    BOOK8     /* nf8: 256 levels */
};

CODES_INLINE enum code_kind code_kind_of(const struct qmat *W)
{
    switch (W->format) {
    case FORMAT_NF4:
    case FORMAT_FP4:
    case FORMAT_IQ4_NL:
    case FORMAT_IQ4_XS: return BOOK4;
    case FORMAT_Q4_1:
    case FORMAT_Q2_K:
    case FORMAT_Q4_K:
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4: return CODE4;
    case FORMAT_Q4_0:
    case FORMAT_Q3_K: return CENTRED4;
    case FORMAT_Q5_0:
    case FORMAT_Q5_1:
    case FORMAT_Q5_K: return LIFTED8;
    case FORMAT_NF8: return BOOK8;
    default: return CODE8;
    }
}

/* Whether a value has a minimum beside its scale. */
CODES_INLINE bool code_has_minimum(const struct qmat *W)
{
    return code_kind_of(W) == CODE4 || code_kind_of(W) == LIFTED8;
}

/* The levels of BOOK4. */
CODES_INLINE const float *code_levels(enum format format)
{
    static const float iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return format == FORMAT_FP4 ? quant_fp4_table : format == FORMAT_NF4 ? quant_nf4_table : iq4;
}

/* A minimum of formats that have none: what is added changes no bit, but that q4_0 and q5_0 have no negative zeros. */
CODES_INLINE float code_no_minimum(enum format format)
{
    return format == FORMAT_Q4_0 || format == FORMAT_Q5_0 ? 0 : -0.0f;
}

CODES_INLINE bool code_is_nibbles(enum code_kind kind)
{
    return kind <= CENTRED4;
}

/* Columns of a group: the codes of one dword. */
CODES_INLINE size_t code_group(enum code_kind kind)
{
    return code_is_nibbles(kind) ? 8 : 4;
}

/* Bits above which column j of a group stands in its dword.  Nibbles: column 2i is nibble i, column 2i+1 nibble 4+i. */
CODES_INLINE int code_shift(enum code_kind kind, int j)
{
    return code_is_nibbles(kind) ? j % 2 * 16 + j / 2 * 4 : 8 * j;
}

/* Dwords of column k's group: 16 rows of panel p. */
CODES_INLINE const uint32_t *codes_of(enum code_kind kind, const struct qmat *W, size_t p, size_t k)
{
    size_t group = code_group(kind);
    return (const uint32_t *)W->codes + (p * (W->cols / group) + k / group) * PANEL_ROWS;
}

/* Where the scales of a matrix in panels lie, found out once: for each run of a panel's columns 16 of them, panel after panel. */
struct scale_map {
    const struct qmat *q;
    /* floats; f16 behind the codes, as ggml has them; f16 of superblocks times bytes of runs; pairs of f16 as in the file (affine groups);
     * quant_panel_scales finds them */
    enum { SCALES_FLOAT, SCALES_HALF, SCALES_SUPER, SCALES_PAIRS, SCALES_COMPUTED } way;
    const uint8_t *scale, *minimum; /* of panel 0; minimum: NULL where the format has none, or SCALES_PAIRS */
    const uint8_t *fine, *fine_minimum; /* SCALES_SUPER: the bytes */
    size_t run, runs;               /* columns of a run; runs of a panel */
    unsigned shift;                 /* column >> shift: its run */
};

static inline struct scale_map scale_map_of(const struct qmat *q)
{
    size_t run = quant_panel_run(q), runs = q->cols / run, codes = code_is_nibbles(code_kind_of(q)) ? q->rows * q->cols / 2 : q->rows * q->cols;
    struct scale_map m = {.q = q, .way = SCALES_FLOAT, .scale = (const uint8_t *)q->scales, .run = run, .runs = runs};
    m.shift = runs == 1 ? 63 : (unsigned)__builtin_ctzl(run);
    if (q->affine) {
        m.way = SCALES_PAIRS;
    } else if (quant_panel_is_super(q->format)) {
        const struct quant_panel_super at = quant_panel_super_of(q);
        const uint8_t *bytes = q->codes;
        m.way = SCALES_SUPER;
        m.scale = bytes + at.d;
        m.fine = bytes + at.scale;
        m.minimum = code_has_minimum(q) ? bytes + at.dmin : NULL;
        m.fine_minimum = bytes + at.minimum;
    } else if (format_is_ggml(q->format)) {
        m.way = SCALES_HALF;
        m.scale = (const uint8_t *)q->codes + codes;
        m.minimum = quant_ggml_scale_at(q->format, 1) >= 0 ? m.scale + 2 * q->rows * runs : NULL;
    } else if (q->format != FORMAT_INT8 && (q->double_quant || run != (size_t)q->block || (run & (run - 1)) != 0)) {
        m.way = SCALES_COMPUTED;
    }
    return m;
}

/* Pairs of affine groups as dwords, scale low and zero high: of the element e places behind (row, col), of[(rest + e) / 128]. */
struct pair_place {
    const uint32_t *of;
    uint32_t rest;
};

CODES_INLINE struct pair_place pairs_at(const struct qmat *q, size_t row, size_t col)
{
    size_t element = row * q->cols + col;
    return (struct pair_place){(const uint32_t *)(const void *)q->affine + element / AFFINE_GROUP, (uint32_t)(element % AFFINE_GROUP)};
}

/* panel_t's columns col0 .. col0+n-1 (n <= NR) from rows decoded one by one; `decode` is quant_decode_span or gives its bits.  Columns that begin inside a block
 * of ggml's are decoded from the block's first on; those behind the last are left alone. */
CODES_INLINE void panel_t_spans(real *packed, size_t NR, const struct qmat *W, size_t col0, size_t n, size_t row0, size_t k,
                                void (*decode)(const struct qmat *, size_t, size_t, size_t, real *))
{
    real row[MICRO_NR_MOST + 2 * GGML_BLOCK];
    size_t begin = col0 / GGML_BLOCK * GGML_BLOCK, end = (col0 + n + GGML_BLOCK - 1) / GGML_BLOCK * GGML_BLOCK;
    end = end < W->cols ? end : W->cols;
    for (size_t i = 0; i < k; i++) {
        decode(W, row0 + i, begin, end - begin, row);
        memcpy(packed + i * NR, row + (col0 - begin), n * sizeof *row);
    }
}

#endif
