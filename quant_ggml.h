/* quant_ggml.h: ggml's blocks, their scales inside; private to quant.
 *
 * Blocks of 32 elements:
 *
 *   q4_0  | d f16 | qs[16] |                x = (q - 8) d       q of element j in the low nibble of qs[j], of j+16 in the high one
 *   q4_1  | d f16 | m f16 | qs[16] |        x = q d + m
 *   q5_0  | d f16 | qh u32 | qs[16] |       x = (q - 16) d      fifth bit of element e is bit e of qh
 *   q5_1  | d f16 | m f16 | qh u32 | qs[16] | x = q d + m
 *   q8_0  | d f16 | int8 qs[32] |           x = q d
 *   iq4_nl | d f16 | qs[16] |               x = v[q] d          v: 16 whole numbers that lie closer near zero
 *
 * Superblocks of 256 elements, which have no encoder (quant_kquants.c).  Let s = 0 .. 7 count the runs of 32 elements, l the element in its run, and
 * t = 2s + [l >= 16] the runs of 16:
 *
 *   q2_k   | scales[16] | qs[64] | d f16 | dmin f16 |            x = (d sc) q - dmin m      sc, m: low and high nibble of scales[t]
 *   q3_k   | hmask[32] | qs[64] | scales[12] | d f16 |           x = d (sc - 32) (q - 4)    third bit of q is bit s of hmask[l]
 *   q4_k   | d f16 | dmin f16 | scales[12] | qs[128] |           x = (d sc) q - dmin m      q: nibble s % 2 of qs[32 (s / 2) + l]
 *   q5_k   | d f16 | dmin f16 | scales[12] | qh[32] | qs[128] |  likewise                   fifth bit of q is bit s of qh[l]
 *   q6_k   | ql[128] | qh[64] | int8 scales[16] | d f16 |        x = (d sc) (q - 32)        sc: scales[t]
 *   iq4_xs | d f16 | scales_h u16 | scales_l[4] | qs[128] |      x = d (sc - 32) v[q]       q: as iq4_nl's in each run
 *
 * where 2 bits of q2_k and q3_k are at 2 (s % 4) in qs[32 (s / 4) + l]; 4 bits of q6_k are nibble s % 4 / 2 of ql[64 (s / 4) + 32 (s % 2) + l], its two
 * others at 2 (s % 4) in qh[32 (s / 4) + l]; the 6-bit numbers in scales[12] and scales_h are drawn at the functions that read them. */
#ifndef VENEER_QUANT_GGML_H
#define VENEER_QUANT_GGML_H
#include "quant.h"

enum { GGML_BLOCK = 32, GGML_SUPERBLOCK = 256 };

size_t quant_ggml_bytes(enum format format);    /* of a block or superblock */
size_t quant_ggml_elements(enum format format); /* in it: 32 or 256 */
size_t quant_ggml_size(enum format format, size_t n); /* bytes of n elements, whole blocks */
/* Where in a block the f16 scale (k = 0) stands, and the f16 minimum or scale of minima (k = 1); -1: it has none. */
int quant_ggml_scale_at(enum format format, int k);
/* n elements, a multiple of 32, in a format of 32.  Returns the first block whose scale or minimum f16 cannot hold, n / 32 when all are good.
 * iq4_nl: of 16 scales near -max / v[0] the one with the least sum of x^2 (x - x')^2, as ggml's quantize_iq4_nl without an importance matrix; but
 * values that a block has given keep its scale and codes. */
size_t quant_ggml_encode(enum format format, void *blocks, const real *x, size_t n);
/* Elements at .. at+n-1, both multiples of 32; codes: element 0's block. */
void quant_ggml_decode(enum format format, const void *codes, size_t at, size_t n, real *x);

/* The 32 elements of run s of a superblock in whole numbers: x = (d scale) value - dmin minimum with one scale and minimum for each quant_kquant_run elements
 * (16 or 32), value = code - 8 (q3_k), v[code] (iq4_xs), code (the others). */
struct quant_kquant {
    int8_t code[GGML_BLOCK], scale[2], minimum[2];
};
size_t quant_kquant_run(enum format format);
void quant_kquant_read(enum format format, const uint8_t *block, size_t s, struct quant_kquant *run);
/* Back, into a block that is zeros there.  What was read is written bit for bit. */
void quant_kquant_write(enum format format, uint8_t *block, size_t s, const struct quant_kquant *run);
/* The 32 elements of run s of a superblock, in ggml's operations: the same bits. */
void quant_kquant_decode(enum format format, const uint8_t *block, size_t s, real x[GGML_BLOCK]);
extern const int8_t quant_iq4_table[16]; /* v, ascending */

static inline float quant_ggml_f16(const uint8_t *from)
{
    return f32_from_f16((uint16_t)(from[0] | from[1] << 8));
}

#endif
