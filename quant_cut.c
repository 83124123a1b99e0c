/* quant_cut.c: the cut of quant_cut.h. */
#include "quant_cut.h"

#include <stdlib.h>
#include <string.h>

#include "quant_affine.h"
#include "quant_ggml.h"

size_t quant_atom(enum format format, int block, bool double_quant, size_t cols)
{
    if (format_is_ggml(format))
        return quant_ggml_elements(format);
    if (format_is_float(format))
        return 1;
    if (format == FORMAT_INT8)
        return cols;
    size_t n = (size_t)(block ? block : format_info(format)->default_block);
    return double_quant || quant_affine_bits(format) > 0 || cols % n != 0 ? 0 : n;
}

enum format quant_fallback(enum format format, size_t cols)
{
    static const enum format instead[FORMAT_COUNT] = {[FORMAT_Q2_K] = FORMAT_IQ4_NL, [FORMAT_Q3_K] = FORMAT_IQ4_NL, [FORMAT_IQ4_XS] = FORMAT_IQ4_NL,
                                                      [FORMAT_Q4_K] = FORMAT_Q5_0,   [FORMAT_Q5_K] = FORMAT_Q5_1,   [FORMAT_Q6_K] = FORMAT_Q8_0};
    enum format to = format_info(format)->read_only ? instead[format] : format;
    return cols % (size_t)format_info(to)->row_multiple == 0 ? to : FORMAT_F16;
}

/* ---- bytes ---- */

/* Atoms of a row: their elements, their bytes of codes, and how many float scales stand beside each. */
struct atoms {
    size_t elements, bytes, scales;
};

static struct atoms atoms_of(const struct qmat *q)
{
    struct atoms a = {.elements = quant_atom(q->format, q->block, q->double_quant, q->cols), .scales = q->scales ? 1 : 0};
    a.bytes = a.elements == 0 ? 0 : quant_bytes(q->format, q->block, false, 1, a.elements) - a.scales * sizeof(float);
    return a;
}

static bool same_storage(const struct qmat *a, const struct qmat *b)
{
    return a->format == b->format && a->block == b->block && !a->panels && !b->panels && !a->double_quant && !b->double_quant;
}

static size_t place(const struct quant_units *u, size_t i)
{
    return u->unit ? (size_t)u->unit[i] : i;
}

static void move(void *to, const void *from, size_t to_at, size_t from_at, size_t n, size_t bytes)
{
    memcpy((unsigned char *)to + to_at * bytes, (const unsigned char *)from + from_at * bytes, n * bytes);
}

/* Row `from_row` of from, in atoms: the units of columns that stay, of `width` atoms each. */
static void move_row(struct qmat *to, const struct qmat *from, const struct atoms *a, size_t row, size_t from_row, const struct quant_units *cols, size_t width)
{
    size_t to_atoms = to->cols / a->elements, from_atoms = from->cols / a->elements;
    for (size_t i = 0; i < cols->n; i++) {
        size_t t = row * to_atoms + i * width, f = from_row * from_atoms + place(cols, i) * width;
        move(to->codes, from->codes, t, f, width, a->bytes);
        if (a->scales)
            move(to->scales, from->scales, t, f, width, sizeof(float));
    }
}

/* ---- values ---- */

size_t quant_cut_bytes(size_t rows, size_t cols, size_t from_cols)
{
    return (rows * cols + from_cols) * sizeof(real);
}

/* The values that stay, W[rows, cols] of to's shape; row: room for one of from's. */
static void decode_cut(real *W, const struct qmat *to, const struct qmat *from, const struct quant_units *rows, const struct quant_units *cols, real *row)
{
    for (size_t r = 0; r < to->rows; r++) {
        quant_decode_rows(from, place(rows, r / rows->width) * rows->width + r % rows->width, 1, row);
        for (size_t i = 0; i < cols->n; i++, W += cols->width)
            memcpy(W, row + place(cols, i) * cols->width, cols->width * sizeof *W);
    }
}

/* Floats are decoded to where they go. */
static enum status encode_cut(struct qmat *to, const struct qmat *from, const struct quant_units *rows, const struct quant_units *cols, struct err *err)
{
    bool floats = to->format == FORMAT_F32;
    real *row = malloc(quant_cut_bytes(floats ? 0 : to->rows, to->cols, from->cols)), *W = row ? row + from->cols : NULL;
    if (!row)
        return err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu elements", to->rows * to->cols);
    decode_cut(floats ? to->codes : W, to, from, rows, cols, row);
    enum status status = floats ? OK : quant_encode(to, W, false, err);
    free(row);
    return status;
}

enum status quant_cut(struct qmat *to, const struct qmat *from, const struct quant_units *rows, const struct quant_units *cols, struct err *err)
{
    struct atoms a = atoms_of(from);
    bool whole = cols->unit == NULL && cols->n * cols->width == from->cols;
    const struct quant_units all = {.n = 1, .width = from->cols};
    cols = whole ? &all : cols;
    if (!same_storage(to, from) || a.elements == 0 || cols->width % a.elements != 0)
        return encode_cut(to, from, rows, cols, err);
    for (size_t r = 0; r < to->rows; r++)
        move_row(to, from, &a, r, place(rows, r / rows->width) * rows->width + r % rows->width, cols, cols->width / a.elements);
    return OK;
}
