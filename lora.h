/* lora.h: the trainable adapters and the ways to start them.  Hu et al. 2021 (LoRA), Li et al. 2023 (LoftQ, arXiv:2310.08659),
 * Meng et al. 2024 (PiSSA, arXiv:2404.02948). The product itself is in ops.h's linear slots. */
#ifndef VENEER_LORA_H
#define VENEER_LORA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "ops.h"
#include "plan.h"

struct adapter {
    int32_t r; /* 0: none */
    real s;
    size_t in, out;
    real *A, *B;   /* [r, in], [out, r] */
    real *dA, *dB; /* same shapes, or NULL when not training */
};

/* All adapters of a model.  p holds A and B of every linear one after the other in the order layer, linear, A, B; g, m, v likewise. */
struct lora {
    int32_t n_layers;
    struct adapter (*adapter)[LINEAR_COUNT]; /* [n_layers] */
    real *p, *g, *m, *v;
    size_t n;
    float dropout;
    uint64_t seed;
};

/* Counts, then carves (arena_take order: adapter table, p, then g, m, v when `training`). */
void lora_place(struct lora *lora, const struct plan *plan, const struct model_config *config, bool training,
                struct arena *arena);

/* cloq is started by cloq.h: it needs the moments of a linear's inputs, which this room does not know. */
enum lora_init { LORA_INIT_DEFAULT, LORA_INIT_GAUSSIAN, LORA_INIT_LOFTQ, LORA_INIT_PISSA, LORA_INIT_CLOQ };
enum status lora_init_parse(const char *name, enum lora_init *init, struct err *err);

struct lora_init_options {
    enum lora_init init;
    int loftq_iters; /* T >= 1 */
    int pissa_niter; /* 0: exact SVD; k: randomised with k power iterations, oversampling 10 */
    uint64_t seed;
    uint32_t step;   /* RNG_INIT step: which tensor */
};

/* Quantizes W[out, in] into q (placed) and fills A[r, in], B[out, r] so that q + s B A starts where the method says:
 * default  A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0, Q = quant(W);   gaussian  A ~ N(0, 1/r^2), B = 0;
 * loftq    T times: Q = quant(W - s B A), U S V = svd(W - Q), B = U_r sqrt(S_r/s), A = sqrt(S_r/s) V_r;
 * pissa    U S V = svd(W), A, B as in loftq, Q = quant(W - s B A).
 * loftq and pissa: ERR_INPUT when r is more than the smaller side of W, or s is not positive.
 * r = 0: just quantizes.  W is not changed.  Allocates its workspace (svd) and frees it. */
enum status lora_start(struct qmat *q, real *A, real *B, const real *W, int32_t r, real s,
                       const struct lora_init_options *options, struct err *err);
/* The start beside codes that are there already (GPTQ's, AWQ's): q is not changed; loftq and pissa fill in what it does not hold of W, once. */
enum status lora_start_beside(const struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *options, struct err *err);
/* Bytes that lora_start takes for a matrix of this shape and rank. */
size_t lora_start_bytes(size_t out, size_t in, int32_t r, const struct lora_init_options *options);

/* W += s B A */
void lora_merge(real *W, const struct adapter *adapter);

#endif
