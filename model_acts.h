/* model_acts.h: what a forward pass leaves for the backward pass; private to model. */
#ifndef VENEER_MODEL_ACTS_H
#define VENEER_MODEL_ACTS_H
#include "model.h"

/* One layer's activations for up to max_n rows; the letters are those of model_forward.c. */
struct layer_acts {
    act *n1;              /* normed input [n, C] */
    act *q, *k, *v;       /* after RoPE: [n, H D], [n, KV D], [n, KV D] */
    act *att;             /* [n, H D] */
    act *n2;              /* normed xm [n, C] */
    act *gate, *up, *act; /* [n, F] */
    real *xm;             /* residual stream after attention [n, C] */
    real *s1, *s2, *lse;  /* scales of the norms [n], log-sum-exp of attention's scores [n, H] */
    real *h[LINEAR_COUNT]; /* [n, r] A dropout(x) of each adapter */
    uint32_t *mask[LINEAR_COUNT]; /* [n, mask_words(in)] */
};

/* What is kept of a layer in bf16 until its backward pass; the rest is computed again from these: norms, and silu(gate) * up; all but x where x alone is kept.
 * Where acts are bf16 the layer has q, k, v, att, gate, up of its own, and x and xm alone are here. */
struct layer_kept {
    bool stream_only;
    uint16_t *x, *q, *k, *v, *att, *xm, *gate, *up; /* shapes as in layer_acts */
};

/* Memory of a device for what a batch brings and what a pass leaves for the host, up to max_n rows; host: where nll comes to when nobody else wants it. */
struct model_there {
    int32_t *tokens, *positions, *labels;
    struct segment *segments;
    uint8_t *greedy;
    double *host;
};

struct model_acts {
    real **x;                 /* [L + 1] residual stream before each layer, and after the last: each [n, C] */
    struct layer_kept *kept;  /* [L], or NULL: what is kept is kept as it is */
    struct layer_acts *layer; /* [L]; all the same memory when a layer is recomputed in backward */
    act *nf;                  /* after the final norm [n, C] */
    real *sf;                 /* its scales [n] */
    real *angles;             /* [n, D] of the batch's positions (ops.h) */
    double *nll;              /* [n] */
    struct model_there *there; /* on a device: the batch, and what comes back; NULL on the CPU */
    real *dx;                 /* [n, C] of the residual stream */
    act *dn;                  /* [n, C] of a norm's output */
    act *dq, *dk, *dv, *datt; /* [n, H D] or [n, KV D] */
    act *dact; /* [n, F]; those of gate and up take the place of gate and up */
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
    const real *angles;
    int l;
};

/* Sines and cosines of the batch's positions into acts->angles, scaled where the model's RoPE says so (yarn). */
void model_angles(const struct model_run *run, const struct model *model, const int32_t *positions, size_t n);
struct linear_args model_linear_args(const struct layer_pass *p, enum linear j, const struct layer_acts *a, const act *x);
/* model_keep.c: memory of a layer's bf16 copies (`acts`: of acts too, else of its streams alone); into them, x before the layer, q, k, v before attention, the rest at its end; back into a and x. */
void model_kept_place(struct layer_kept *kept, bool stream_only, bool acts, size_t n, size_t C, size_t HD, size_t KVD, size_t F, struct arena *arena);
void model_keep_stream(const struct layer_pass *p, const struct layer_kept *kept, const real *x);
void model_keep_qkv(const struct layer_pass *p, const struct layer_kept *kept, struct layer_acts *a);
void model_keep_rest(const struct layer_pass *p, const struct layer_kept *kept, const struct layer_acts *a);
void model_restore(const struct layer_pass *p, const struct layer_kept *kept, struct layer_acts *a, real *x);
void model_layer_qkv(const struct layer_pass *p, struct layer_acts *a, const real *x);
/* y NULL: up to what backward needs, the layer's output is not wanted again. */
void model_layer_rest(const struct layer_pass *p, struct layer_acts *a, const real *x, real *y);

/* model_device.c.  On the CPU none of them does anything: a batch is where it is.  up: `to` is the batch as kernels read it; down: nll[n] and greedy[n]
 * (either may be NULL) from where head_args of model_head_args left them. */
void model_there_place(struct model_acts *acts, size_t n, struct arena *arena);
enum status model_batch_up(const struct model_run *run, const struct batch *batch, struct batch *to, struct err *err);
enum status model_scores_down(const struct model_run *run, size_t n, double *nll, uint8_t *greedy, struct err *err);

#endif
