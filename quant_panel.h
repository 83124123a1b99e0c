/* quant_panel.h: the layout in which kernels read a frozen matrix: panels of 16 rows, so that one vector register holds 16 rows.
 *
 * It is a permutation of the same bytes, but for codes that are widened to 4 or 8 bits (hqq2, hqq3, q5_0, q5_1, K-quants); quant.h's layout (that of files) can be had back.  A matrix whose shape or format has no panels stays
 * as it is and is still read right by every kernel.  Let p count panels (row / 16) and r the row in it.
 *
 *   nf4, fp4   group of 8 columns = 16 little-endian dwords, one a row: nibble j (bits 4j .. 4j+3) is column 2j, nibble 4+j is column 2j+1, j < 4.
 *              dword (p * cols/8 + g) * 16 + r.
 *   int8, int8_64, nf8   group of 4 columns = 16 dwords, one a row: byte i is column i.  dword (p * cols/4 + g) * 16 + r.
 *   q4_0, q4_1 the codes (0 .. 15) like nf4's; behind all of them the f16 scales d[(p * cols/32 + b) * 16 + r], then (q4_1) the minima m likewise.
 *   q8_0       the codes like int8's; behind them the f16 scales likewise.
 *   iq4_nl     as q4_0: its codes are indices of 16 values.
 *   q5_0, q5_1 the codes like int8's, code - 16 of q5_0; behind them the f16 scales, and minima, likewise.
 *   q2_k, q3_k, q4_k, iq4_xs   the codes (q3_k's value + 8) like nf4's; q5_k, q6_k (its value) like int8's.  Behind all of them the f16 d of
 *              superblocks, d[(p * cols/256 + b) * 16 + r], and dmin likewise (q2_k, q4_k, q5_k); then the scales of runs of 16 (q2_k, q3_k, q6_k) or 32 columns
 *              as signed bytes, sc[(p * cols/run + b) * 16 + r], and minima m likewise.  A run's scale is d sc, its minimum -(dmin m).
 *   hqq2, hqq3, hqq4   the codes like nf4's: those of hqq2 and hqq3 are widened to nibbles, for which quant_place takes the room (quant_panel_room), so
 *              that plans of memory count it; quant_bytes stays what is stored.  Pairs of scale and zero lie as in the file.
 *   scales     of nf4, fp4, int8_64, nf8 whose block divides the row: float [(p * cols/block + b) * 16 + r].  Otherwise (int8's one a row, blocks that
 *              run over row ends, double quantization) they lie as in the file. */
#ifndef VENEER_QUANT_PANEL_H
#define VENEER_QUANT_PANEL_H
#include "quant.h"

enum { PANEL_ROWS = 16 };

/* Bits of a code in panels: 4 or 8. */
int quant_panel_bits(enum format format);
/* True when quant_to_panels would change the matrix: a format above, rows % 16 == 0, cols % 8 == 0 (hqq2, hqq3, hqq4: cols % 32 == 0), block % 8 == 0. */
bool quant_has_panels(enum format format, int block, size_t rows, size_t cols);
/* Bytes that codes, with the scales inside, take in panels; 0 when the matrix has none. */
size_t quant_panel_room(enum format format, int block, size_t rows, size_t cols);
/* Into panels (q->panels becomes 1); a matrix without panels, or in panels already, is left alone.  Takes and frees a copy of the codes and
 * scales; ERR_MEMORY leaves the matrix as it was. */
enum status quant_to_panels(struct qmat *q, struct err *err);
/* Back into the layout of files. */
enum status quant_from_panels(struct qmat *q, struct err *err);

/* Columns that share a scale, counted so that no run of them crosses a block: 64 for nf4 of 64, 32 for ggml's, cols for int8; of blocks that run over
 * the ends of rows the largest number that divides both block and row (at least 8). */
size_t quant_panel_run(const struct qmat *q);
/* Scales of rows 16p .. 16p+15 for the run with column k: w = value * scale + minimum.  Values: nf4, fp4, nf8, iq4_nl, iq4_xs: the table's; int8, int8_64:
 * the code (the 1/127 is in the scale); q4_0, q3_k: code - 8; the others: the code.  minimum[16] may be NULL; it is that of q4_1, q5_1, q2_k, q4_k, q5_k and
 * hqq2 ... (-zero * scale), 0 of q4_0 and q5_0 (which have no negative zeros), else -0, which changes no bit. */
void quant_panel_scales(const struct qmat *q, size_t p, size_t k, float *scale, float *minimum);
/* Superblocks: where their scales lie in the codes, bytes from the first. */
struct quant_panel_super {
    size_t run, d, dmin, scale, minimum, end; /* columns of a run; dmin and minimum: `scale` and `end` where there are none */
};
bool quant_panel_is_super(enum format format);
struct quant_panel_super quant_panel_super_of(const struct qmat *q);
/* quant_decode_span from panels: the same bits. */
void quant_panel_decode_span(const struct qmat *q, size_t row, size_t col0, size_t n, real *out);

#endif
