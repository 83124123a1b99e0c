/* calibrate.h: a whole model into affine codes, layer after layer, each from the inputs that the quantized layers before it leave.
 *
 * Of each layer two forward passes over the calibration data: one with its weights as they are, which leaves the second moments of its linears' inputs
 * (gram.h); then it is quantized; one with the quantized weights, which leaves the next layer's inputs.
 * What it is not: it stores nothing; the caller packs what it is handed. */
#ifndef VENEER_CALIBRATE_H
#define VENEER_CALIBRATE_H
#include "affine.h"
#include "gram.h"
#include "model.h"

enum quantizer {
    QUANTIZER_RTN,  /* round to nearest: no data */
    QUANTIZER_GPTQ, /* gptq.h */
    QUANTIZER_AWQ   /* awq.h; q and k are not clipped */
};

struct calibrate_options {
    enum quantizer quantizer;
    const uint8_t (*bits)[LINEAR_COUNT]; /* [layers] 1 to 8; 0: the linear is not quantized; NULL: none is */
    size_t group;                        /* elements, 128 usually */
    double damp;                         /* gptq: 0.01 usually */
    /* Optional, called with sink's user for every linear of a layer before sink gets the layer: the W[out, in] that was quantized (awq: folded), its codes (those
     * of 0 bits hold none) and the moments of its inputs (NULL for rtn). */
    enum status (*linear)(void *user, int l, enum linear j, const real *W, const struct affine *q, const struct gram *gram, struct err *err);
};

/* What layer l became; valid during the call. */
struct calibrated_layer {
    int l;
    const struct affine *linear;     /* [LINEAR_COUNT]; of those with 0 bits there is nothing but the shape */
    const struct model_layer *layer; /* all F32: what the codes say; linears with 0 bits, biases and norms as awq left them */
};
typedef enum status calibrate_sink(void *user, const struct calibrated_layer *layer, struct err *err);

/* model: all linears F32, in the layout of files; not changed.  batches: without labels or with; each of up to run->max_n rows; run and its kernels'
 * scratch placed for the model.  sink (optional) gets every layer, from the first; a failure of its own ends the work.
 * Takes calibrate_bytes while it runs.  The same codes for any number of threads.
 * ERR_FAILED: a linear that is not F32, or whose numbers no group can hold (by name); ERR_INPUT: no token, a token beyond the vocabulary; ERR_DIVERGED: inputs that
 * are not finite; ERR_STOPPED; ERR_MEMORY. */
enum status calibrate_model(struct model_run *run, const struct model *model, const struct batch *batches, size_t n_batches,
                            const struct calibrate_options *options, calibrate_sink *sink, void *user, struct err *err);
/* n_tokens: rows of all batches. */
size_t calibrate_bytes(const struct model *model, size_t n_tokens, const struct calibrate_options *options, int threads);
/* Columns of the widest of a layer's linears. */
size_t calibrate_widest_input(const struct model_layer *layer);

#endif
