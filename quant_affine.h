/* quant_affine.h: affine codes in groups: hqq2, hqq3, hqq4.
 *
 *   w' = (code - zero) scale        code 0 .. 2^b - 1, b = 2, 3, 4; scale and zero in f16, one pair for each group of 128 elements
 *
 * computed as code * scale - zero * scale: both products are exact in single precision (15 and 22 bits), so that w' is the exact value rounded once,
 * and a kernel that adds a minimum -zero * scale to a product gets the same bits.  Groups run over the flattened matrix, the last may be shorter.
 *
 * The codes are one stream of bits: element e has bits b e .. b e + b - 1, lowest first, and bit i of the stream is bit i % 8 of byte i / 8.  A group
 * begins with a byte of its own.  Eight codes fill b bytes (a digit: which of the eight; the lowest bit of a byte stands right):
 *
 *           byte 0     byte 1     byte 2
 *   hqq2    33221100   77665544
 *   hqq3    22111000   54443332   77766655
 *   hqq4    11110000   33332222   55554444   (byte 3) 77776666
 *
 *   affine  | scale f16 | zero f16 | of group 0, then of group 1 ...
 *
 * HQQ is one way to fill this storage; GPTQ and AWQ fill it too, by quant_affine_put and quant_affine_set_code.  What it is not: it knows no activations.
 * Source: Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models (mobiusml.github.io/hqq_blog). */
#ifndef VENEER_QUANT_AFFINE_H
#define VENEER_QUANT_AFFINE_H
#include "quant.h"

enum { AFFINE_SHIFT = 7, AFFINE_GROUP = 1 << AFFINE_SHIFT };

/* Bits of a code: 2, 3, 4; 0 when the format is not affine. */
int quant_affine_bits(enum format format);
/* Groups and bytes of codes of n elements. */
size_t quant_affine_groups(size_t n);
size_t quant_affine_bytes(enum format format, size_t n);

/* Of a group, as stored. */
float quant_affine_scale(const struct qmat *q, size_t group);
float quant_affine_zero(const struct qmat *q, size_t group);
/* Rounds both to f16 and stores them.  False, with nothing stored, when f16 cannot hold one of them. */
bool quant_affine_put(struct qmat *q, size_t group, float scale, float zero);
/* Code of an element of the flattened matrix; layout of files.  set: code < 2^b. */
unsigned quant_affine_code(const struct qmat *q, size_t element);
void quant_affine_set_code(const struct qmat *q, size_t element, unsigned code);
/* Eight codes from their b bytes, a byte each, the first lowest. */
uint64_t quant_affine_eight(enum format format, const uint8_t *from);
/* Sets the codes of a group: code = clamp(round(x / scale + zero), 0, 2^b - 1) with the stored scale and zero, halves to even.  x: the group's
 * elements.  What quant_affine_decode gave comes back as the same codes, unless the scale is 0. */
void quant_affine_round(struct qmat *q, size_t group, const real *x);

/* W[rows, cols] -> q by HQQ.  For each group s = (2^b - 1) / (max - min), at most 2e4, or 1 where max - min <= 1e-4, and z = -min s (4 bits:
 * rounded); then, at most 20 times,
 *     Wq = clamp(round(W s + z), 0, 2^b - 1)      Wr = (Wq - z) / s      e = shrink(W - Wr)      z = mean over the group of Wq - (W - e) s
 *     shrink(x) = sign(x) max(|x| - |x|^(p-1) / beta, 0),  p = 0.7, beta = 10
 * as long as the mean |W - Wr| of the whole matrix falls; the z of its lowest value is kept.  s stays.  Stored are 1 / s, z and the codes nearest
 * under what was stored.  Computed in double, sums in a fixed order: the same bits for any number of threads.
 * W is finite (quant_encode has checked).  ERR_FAILED names the group whose scale or zero f16 cannot hold; ERR_MEMORY. */
enum status quant_affine_encode(struct qmat *q, const real *W, struct err *err);
/* Elements at .. end-1 of the flattened matrix, in the layout of files. */
void quant_affine_decode(const struct qmat *q, size_t at, size_t end, real *out);
/* to (q4_1, placed) <- from: the same codes, scale and minimum -zero * scale, which is rounded to f16 once more.  W: from decoded; from may be in panels.
 * Columns are a multiple of 32, so that a group holds whole blocks.  ERR_FAILED names the group whose minimum f16 cannot hold. */
enum status quant_affine_as_q4_1(struct qmat *to, const struct qmat *from, const real *W, struct err *err);
/* False when a stored scale or zero is NaN or infinite. */
bool quant_affine_is_finite(const struct qmat *q);

#endif
