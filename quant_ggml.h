/* quant_ggml.h: ggml's blocks of 32 elements, their scales inside; private to quant.
 *
 *   q4_0  | d f16 | qs[16] |                x = (q - 8) d       q of element j in the low nibble of qs[j], of j+16 in the high one
 *   q4_1  | d f16 | m f16 | qs[16] |        x = q d + m
 *   q5_0  | d f16 | qh u32 | qs[16] |       x = (q - 16) d      fifth bit of element e is bit e of qh
 *   q5_1  | d f16 | m f16 | qh u32 | qs[16] | x = q d + m
 *   q8_0  | d f16 | int8 qs[32] |           x = q d */
#ifndef VENEER_QUANT_GGML_H
#define VENEER_QUANT_GGML_H
#include "quant.h"

enum { GGML_BLOCK = 32 };

size_t quant_ggml_bytes(enum format format); /* of a block */
/* n elements, a multiple of 32.  Returns the first block whose scale or minimum f16 cannot hold, n / 32 when all are good. */
size_t quant_ggml_encode(enum format format, void *blocks, const real *x, size_t n);
void quant_ggml_decode(enum format format, const void *blocks, size_t n, real *x);

#endif
