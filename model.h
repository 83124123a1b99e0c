/* model.h: a LLaMA over per-layer shapes: weights, forward, backward, decoding.
 *
 * Letters as in ops.h.  Touvron et al. 2023 (arXiv:2302.13971): RMSNorm, RoPE, SwiGLU; GQA (arXiv:2305.13245).
 * Activations are [n, ...] with all sequences of a batch one after the other. */
#ifndef VENEER_MODEL_H
#define VENEER_MODEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "io/checkpoint.h"
#include "lora.h"
#include "ops.h"
#include "plan.h"

struct model_layer {
    struct qmat linear[LINEAR_COUNT];
    real *bias[LINEAR_COUNT];       /* NULL: none */
    real *input_norm, *post_norm;   /* [C] */
};

struct model {
    struct model_config config; /* owned; widths per layer */
    struct plan plan;           /* owned; formats and shapes agree with the qmats */
    struct qmat embed;          /* [V, C] */
    struct qmat head;           /* [V, C]; a view of embed when tied */
    real *norm;                 /* [C] */
    struct model_layer *layer;  /* [L] */
    float *inv_freq;            /* [D/2] */
};

/* Counts or carves the weights for the config and plan that model_shape copied.  embed_format: of embedding and head. */
void model_place(struct model *model, enum format embed_format, struct arena *arena);
/* model_place with another format for a head that is not tied, as files may have it. */
void model_place_head(struct model *model, enum format embed_format, enum format head_format, struct arena *arena);
/* Sets config and plan (copies) without memory for weights: the step before model_place. */
enum status model_shape(struct model *model, const struct model_config *config, const struct plan *plan, struct err *err);
/* A view that shares base's weights, with its own config, plan and table of layers, whose linears the caller then swaps: a search
 * changes formats by pointer.  model_free gives back what is its own. */
enum status model_alias(struct model *view, const struct model *base, const struct plan *plan, struct err *err);
/* Fills a placed model from a checkpoint whose widths are the model's: decoded, then encoded in the plan's formats (codes are taken over as they
 * are when the stored format is the plan's). scratch is taken and freed inside (the largest matrix). */
enum status model_load(struct model *model, const struct checkpoint *checkpoint, struct err *err);
/* model_load of a model that was placed in memory of this device (NULL: of the host): each matrix passes through memory of the host of its own size.  ERR_FAILED: the
 * device's. */
enum status model_load_onto(struct model *model, const struct checkpoint *checkpoint, struct device *device, struct err *err);
/* Bytes that model_load takes beside the placed model while it runs: the largest matrix that is not taken over as it is stored. */
size_t model_load_bytes(const struct model *model, const struct checkpoint *checkpoint);
/* How a checkpoint holds its matrices: linears as plan.txt says, where a folder has one (what has no form in safetensors lies there decoded and is
 * encoded again to the same codes), else as they are stored; embedding and head (the embedding's, where there is none). */
struct model_stored {
    struct plan plan; /* plan_free releases */
    enum format embed, head;
    bool encoded; /* some linear is not read as it lies there: decoded and encoded again */
};
enum status model_stored_formats(struct model_stored *stored, const struct checkpoint *checkpoint, struct err *err);
/* Every matrix into the layout that kernels read fastest (quant_panel.h): for weights that stay as they are; embedding and head alone.  ERR_MEMORY. */
enum status model_to_panels(struct model *model, struct err *err);
enum status model_embed_to_panels(struct model *model, struct err *err);
/* A piece of a model's weights that lies on a device, and the host's that it is a copy of. */
struct model_held {
    const void *host, *there;
};
/* Matrices, norms, biases of a model of n_layers. */
size_t model_pieces(int32_t n_layers);
/* The weights of a model in the host's memory, in the layout of files, onto a device: `to` was shaped alike and placed in memory of c's device, in the same formats but for F32 that may go
 * into another.  held: [model_pieces],
 * what lies there already and is not copied again; brought up to date; NULL: all is copied.  ERR_FAILED: the device's, or a matrix in panels. */
enum status model_upload(struct model *to, const struct model *from, struct model_held *held, const struct ops_context *c, struct err *err);
/* Memory that c's kernels read and write, counted in `arena`: of c's device, or of the host.  On a device the arena's tables (arena.h) are taken with it.
 * model_release gives both back. */
enum status model_commit(const struct ops_context *c, struct arena *arena, const char *what, struct err *err);
void model_release(const struct ops_context *c, struct arena *arena);
/* Before such memory is counted: what the host reads of it is taken in `tables`, where c's kernels run on a device; else beside the rest. */
void model_use_tables(const struct ops_context *c, struct arena *arena, struct arena *tables);
/* Within that memory: `rows` pieces of n reals, one every to_stride and from_stride reals; on a device queued. */
void model_copy(const struct ops_context *c, real *to, size_t to_stride, const real *from, size_t from_stride, size_t n, size_t rows);
/* The same of n acts that lie one after the other. */
void model_copy_acts(const struct ops_context *c, act *to, const act *from, size_t n);
/* Out of that memory, when all that was queued is done.  ERR_FAILED: the device's. */
enum status model_fetch(const struct ops_context *c, void *to, const void *from, size_t bytes, struct err *err);
/* x = 0, queued behind what was. */
void model_clear(const struct ops_context *c, real *x, size_t n);
/* Random weights for training from scratch (all F32), of standard deviation s: N(0, s), o_proj and down_proj N(0, s/sqrt(2L)), norms 1. */
void model_random(struct model *model, double s, uint64_t seed);
void model_free(struct model *model); /* config, plan, tables; not the arena */

/* ---- a batch ---- */
struct batch {
    size_t n;
    const int32_t *tokens;    /* [n] */
    const int32_t *positions; /* [n] */
    const int32_t *labels;    /* [n] the token to predict at that row, -1 none (already shifted) */
    const struct segment *segments;
    size_t n_segments;
};

/* Gradients of weights, for full training and for importance: same memory order as the weights of an all-F32 model. */
struct model_grads {
    real *embed, *head, *norm; /* head NULL when tied (added into embed) */
    struct {
        real *linear[LINEAR_COUNT], *bias[LINEAR_COUNT], *input_norm, *post_norm;
    } *layer;
    real *block; /* all of them, n reals: parallel to the weights' block in full training */
    size_t n;
    bool linears_only; /* importance: embed, head, norms, biases are NULL */
};
void model_grads_place(struct model_grads *grads, const struct model *model, bool linears_only, struct arena *arena);
/* Linears only, of one layer at a time: those of every layer lie in the same memory, block, of n reals, what the widest takes. */
void model_grads_place_layer(struct model_grads *grads, const struct model *model, struct arena *arena);
/* For full training: the parameters as one block in the order of model_grads (weights placed all-F32 are contiguous in that order). NULL when not. */
real *model_parameter_block(const struct model *model, size_t *n);

/* Activations and scratch of forward/backward for batches up to max_n rows. keep: keep activations instead of recomputing a layer in backward. */
struct model_run {
    const struct ops_context *ops;
    size_t max_n, max_rank;
    bool dropout; /* room for the masks of adapters' dropout */
    bool training, keep;
    bool halves; /* what is kept, activations or the residual stream alone, is kept as bf16 (model_keep.c), not as it is */
    struct model_acts *acts; /* private, carved from the arena */
};
/* Reals of scratch that the kernels need for this model and up to T rows; sets c's sizes (ops.h). */
size_t model_scratch_size(const struct model *model, struct ops_context *c, size_t T);
/* The same for a device's kernels, which need not be there: matrix by matrix, as they take turns in it. */
size_t model_device_scratch(const struct model *model, struct ops_context *c, size_t T);
/* Bytes of an act in memory that is counted or carved for a run: as act_bytes, of a device that need not be there. */
size_t model_act_bytes(const struct model_run *run, const struct arena *arena);
enum status model_run_place(struct model_run *run, const struct model *model, const struct lora *lora, struct arena *arena,
                            struct err *err);

/* Sum of nll over labelled rows (nats) and their count; nll[n], greedy[n] optional.  ERR_DIVERGED when the sum is not finite. ERR_STOPPED between layers. */
enum status model_score(struct model_run *run, const struct model *model, const struct lora *lora, const struct batch *batch,
                        double *nll, uint8_t *greedy, double *sum, size_t *count, struct err *err);
/* The same and backward: gradients of scale * sum(nll) are added to lora's dA, dB and/or grads (each optional).  dropout_step: a number
 * that never repeats within a run (optimizer step * accumulation + micro-batch); dropout is on when lora->dropout > 0. */
enum status model_train(struct model_run *run, const struct model *model, struct lora *lora, struct model_grads *grads,
                        const struct batch *batch, real scale, uint32_t dropout_step, double *sum, size_t *count, struct err *err);
/* Hidden states after the final norm, x[n, C] (points into run's memory, rows found by act_at), and logits[n, V] of n rows of them. */
enum status model_hidden(struct model_run *run, const struct model *model, const struct lora *lora, const struct batch *batch,
                         const act **x, struct err *err);
void model_logits(const struct model_run *run, const struct model *model, const act *x, size_t n, real *logits);
enum { MODEL_LOGITS_MOST = 256 }; /* rows of it at once: what scratch is planned for */

/* One layer at a time, for calibration: x[n, C] the residual stream before the first layer; then y = layer l of x, without adapters (y may be x; NULL: not
 * wanted), and where each linear's input lies until the next call: inputs[j] [n, in of j], optional.  ERR_STOPPED. */
enum status model_embed(const struct model_run *run, const struct model *model, const struct batch *batch, real *x, struct err *err);
enum status model_block(struct model_run *run, const struct model *model, const struct batch *batch, int l, const real *x, real *y,
                        const act *inputs[LINEAR_COUNT], struct err *err);

/* model_train of the linears one layer at a time, without adapters and to the same bits, so that gradients of one layer at a time need memory.
 * model_streams: forward; x[l], l < L: becomes the residual stream before layer l, [n, C].  model_head_backward: of the batch that model_streams was called with last, as often as
 * wanted: dx[n, C] = the gradient of scale * sum(nll) with respect to what the last layer gives; sum and count as of model_train.  model_block_backward, from the last layer down to
 * the first: x as it was left; dx on entry the gradient of what layer l gives, on exit that of x (of layer 0: unfinished); those of its linears are added to
 * grads, placed with linears only.  ERR_STOPPED between layers. */
enum status model_streams(struct model_run *run, const struct model *model, const struct batch *batch, real *const x[], struct err *err);
enum status model_head_backward(struct model_run *run, const struct model *model, const struct batch *batch, real scale, real *dx, double *sum,
                                size_t *count, struct err *err);
enum status model_block_backward(struct model_run *run, const struct model *model, struct model_grads *grads, const struct batch *batch, int l,
                                 const real *x, real *dx, struct err *err);

/* ---- decoding ---- */
struct kv_cache {
    size_t capacity, n; /* rows, rows filled */
    enum format type;   /* FORMAT_F16, half the memory and half the bytes to read, or FORMAT_F32: reals */
    void **k, **v;      /* [L] each [KV_l, capacity, D] */
};
/* Reals of scratch for model_decode with up to `rows` tokens at once and `context` in all; sets c's sizes (ops.h). */
size_t model_decode_scratch_size(const struct model *model, struct ops_context *c, size_t rows, size_t context);
void kv_cache_place(struct kv_cache *cache, const struct model *model, enum format type, size_t capacity, struct arena *arena);
/* Feeds n tokens (n <= run->max_n); logits[V], memory of the kernels (model_commit), gets those of the last one: on a device they are queued.  ERR_INPUT when the context is
 * full; ERR_FAILED: the device's. */
enum status model_decode(struct model_run *run, const struct model *model, const struct lora *lora, struct kv_cache *cache,
                         const int32_t *tokens, size_t n, real *logits, struct err *err);

#endif
