/* affine.h: a matrix as codes of 1 to 8 bits with a scale and a zero for each group of elements: w = (code - zero) scale.
 *
 * Groups are consecutive elements of the flattened matrix: one may run over the end of a row, the last may be shorter.  Scales and zeros are numbers that fp16
 * has, so that what a quantizer computes with is what a format stores.
 * What it is not: a storage format (quant.h), nor a way to choose codes beyond the nearest one: gptq.h and awq.h choose. */
#ifndef VENEER_AFFINE_H
#define VENEER_AFFINE_H
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/real.h"

struct affine {
    size_t out, in, group; /* group: 128 usually */
    int bits;
    uint8_t *codes;      /* [out, in], 0 to 2^bits - 1 */
    float *scale, *zero; /* [affine_groups] */
};

size_t affine_groups(size_t out, size_t in, size_t group);
/* Rows after which a row begins where a group does: rows that are that far apart are quantized alike and apart. */
size_t affine_period(size_t in, size_t group);
/* Sets the shape and takes the memory (counts while the arena counts). */
void affine_place(struct affine *q, size_t out, size_t in, size_t group, int bits, struct arena *arena);
/* ERR_FAILED when bits or group are not of this room, or names the element of W[out, in] that is not finite or beyond fp16's largest number. */
enum status affine_check(const struct affine *q, const real *W, struct err *err);

/* The grid over [min(lo, 0), max(hi, 0)]: scale = (hi - lo) / (2^bits - 1), zero = round(-lo / scale), so that 0 is a number of the grid. */
void affine_grid(double lo, double hi, int bits, float *scale, float *zero);
/* The code of the number of the grid that is nearest to w. */
uint8_t affine_code(double w, int bits, float scale, float zero);
/* Round to nearest: group g from its elements w (those of the flattened matrix from g * group on), on the grid over the part of [min w, max w] within
 * clip * max |w|; near[group], optional: what the codes say. */
void affine_round_group(struct affine *q, size_t g, const real *w, double clip, double *near);
/* Round to nearest of the whole W[out, in], with min-max grids. */
void affine_round(struct affine *q, const real *W);
/* W[out, in] that the codes say, computed as code scale - zero scale. */
void affine_decode(const struct affine *q, real *W);

#endif
