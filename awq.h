/* awq.h: input channels that carry large activations are scaled up before their weights are rounded, and down again in the operation before.
 *
 * Lin et al. 2023 (arXiv:2306.00978).  Scale of channel i: s_i = mean|x_i|^a, divided by sqrt(max s * min s); a from a grid of 20 in [0, 0.95], by the
 * output error (gram.h) of all linears that read the input, each in its own bits; the four inputs of a layer are searched apart, on the weights as they are.
 * Then each group's grid is narrowed where that lowers its error.
 * With s the linear holds W diag(s), and x / s comes out of: the norm's gains (q, k, v; gate, up), up_proj's rows (down), v_proj's rows (o, when there are as
 * many KV heads as heads; else o stays as it is). */
#ifndef VENEER_AWQ_H
#define VENEER_AWQ_H
#include <stdbool.h>

#include "affine.h"
#include "gram.h"
#include "model.h"

enum { AWQ_GRID = 20 };

struct awq_options {
    int bits[LINEAR_COUNT]; /* 1 to 8; 0: the linear stays as it is and has no say */
    size_t group;
    int threads;
};

struct awq_scales {
    double *s[GRAM_COUNT];       /* [in of that input] */
    double exponent[GRAM_COUNT]; /* the a that won; 0 leaves s = 1 */
};

void awq_scales_place(struct awq_scales *scales, const struct model_layer *layer, struct arena *arena);
/* layer: all linears F32.  The same result for any number of threads.
 * ERR_FAILED: affine_check, with the linear's name; ERR_INPUT, ERR_DIVERGED: gram_check; ERR_STOPPED; ERR_MEMORY: it takes awq_search_bytes while it runs. */
enum status awq_search(struct awq_scales *scales, const struct model_layer *layer, const struct gram gram[GRAM_COUNT],
                       const struct awq_options *options, struct err *err);
size_t awq_search_bytes(const struct model_layer *layer, const struct awq_options *options);
/* Scales columns, rows, biases and gains in place: the layer computes what it did. */
void awq_fold(struct model_layer *layer, const struct awq_scales *scales);
/* W[out, in], folded -> q (placed), rounded to nearest.  clip: of the bounds 1, 0.95 ... 0.5 times a group's max |w| the one that leaves the least error of the
 * group alone, sum over rows of e H_gg e^T; the paper clips all linears but q and k.  gram: of the inputs before folding; s their scales.
 * ERR_FAILED: affine_check; ERR_STOPPED; ERR_MEMORY: it takes awq_quantize_bytes while it runs. */
enum status awq_quantize(struct affine *q, const real *W, const struct gram *gram, const double *s, bool clip, int threads, struct err *err);
size_t awq_quantize_bytes(const struct affine *q, int threads);

#endif
