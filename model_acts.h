/* model_acts.h: what a forward pass leaves for the backward pass; private to model. */
#ifndef VENEER_MODEL_ACTS_H
#define VENEER_MODEL_ACTS_H
#include "model.h"

/* One layer's activations for up to max_n rows; the letters are those of model_forward.c. */
struct layer_acts {
    real *n1, *s1;         /* normed input [n, C], its scales [n] */
    real *q, *k, *v;       /* after RoPE: [n, H D], [n, KV D], [n, KV D] */
    real *att, *lse;       /* [n, H D], [n, H] */
    real *xm;              /* residual stream after attention [n, C] */
    real *n2, *s2;         /* normed xm, its scales */
    real *gate, *up, *act; /* [n, F] */
    real *h[LINEAR_COUNT]; /* [n, r] A dropout(x) of each adapter */
};

struct model_acts {
    real **x;                 /* [L + 1] residual stream before each layer, and after the last: each [n, C] */
    struct layer_acts *layer; /* [L]; all the same memory when a layer is recomputed in backward */
    real *nf, *sf;            /* after the final norm [n, C], its scales [n] */
    double *nll;              /* [n] */
    real *dx, *dn;            /* [n, C] of the residual stream, of a norm's output */
    real *dq, *dk, *dv, *datt; /* [n, H D] or [n, KV D] */
    real *dgate, *dup, *dact; /* [n, F] */
};

/* One layer forward: x -> y, leaving a.  Shared by training, scoring and (without attention over segments) decoding. */
struct layer_pass {
    const struct ops_context *ops;
    const struct model *model;
    const struct lora *lora; /* NULL: none */
    struct model_grads *grads;
    const struct batch *batch;
    bool dropout;
    uint32_t dropout_step;
    int l;
};

struct linear_args model_linear_args(const struct layer_pass *p, enum linear j, const struct layer_acts *a, const real *x);
void model_layer_qkv(const struct layer_pass *p, struct layer_acts *a, const real *x);
void model_layer_rest(const struct layer_pass *p, struct layer_acts *a, const real *x, real *y);

#endif
