/* quant_cut.h: some rows and columns of a matrix in its own format: bytes where the cut falls between blocks, else encoded anew.
 *
 * Let an atom be what a row stores as one, its scale included: an element of f32, f16, bf16; a block of 32 or a superblock of 256 of ggml's; a block of nf4,
 * fp4, int8_64, nf8 where whole ones fill a row; a row of int8.  A cut between atoms moves bytes and changes no value that stays. */
#ifndef VENEER_QUANT_CUT_H
#define VENEER_QUANT_CUT_H
#include "quant.h"

/* Rows or columns that stay: n units of `width` each, unit[i] counted in units; unit NULL: the first n. */
struct quant_units {
    const int32_t *unit;
    size_t n, width;
};

/* Elements of an atom of a matrix with so many columns; 0: it has none (blocks that run over the ends of rows, scales of scales, affine groups). */
size_t quant_atom(enum format format, int block, bool double_quant, size_t cols);
/* What takes the place of a format where a cut divides its atoms: itself if it has an encoder, else the format that llama.cpp's quantizer falls back on for
 * a width that holds no superblock (q2_k, q3_k, iq4_xs -> iq4_nl; q4_k -> q5_0; q5_k -> q5_1; q6_k -> q8_0); f16 where `cols` is no multiple of its block. */
enum format quant_fallback(enum format format, size_t cols);
/* to: placed in the layout of files, of the shape that stays, in from's format or another.  Errors as quant_encode's; ERR_MEMORY. */
enum status quant_cut(struct qmat *to, const struct qmat *from, const struct quant_units *rows, const struct quant_units *cols, struct err *err);
/* Bytes that quant_cut takes while it encodes. */
size_t quant_cut_bytes(size_t rows, size_t cols, size_t from_cols);

#endif
