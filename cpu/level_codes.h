/* level_codes.h: what levels share of reading codes from panels (quant_panel.h): how a code becomes a value, where the codes of a column stand. */
#ifndef VENEER_CPU_LEVEL_CODES_H
#define VENEER_CPU_LEVEL_CODES_H
#include <string.h>

#include "cpu/level.h"
#include "quant_ggml.h"
#include "quant_panel.h"

#define CODES_INLINE static inline __attribute__((always_inline))

/* How a code becomes a value; every use has it as a constant, so that each kind gets its own loop. */
enum code_kind {
    BOOK4,    /* nf4, fp4: 16 levels */
    CODE4,    /* q4_1: 0 .. 15 */
    CENTRED4, /* q4_0: code - 8 */
    CODE8,    /* int8, int8_64, q8_0: signed bytes */
    BOOK8     /* nf8: 256 levels */
};

CODES_INLINE enum code_kind code_kind_of(const struct qmat *W)
{
    switch (W->format) {
    case FORMAT_NF4:
    case FORMAT_FP4: return BOOK4;
    case FORMAT_Q4_1: return CODE4;
    case FORMAT_Q4_0: return CENTRED4;
    case FORMAT_NF8: return BOOK8;
    default: return CODE8;
    }
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
