/* workload.h: a model of given shapes with random weights made straight in their formats, ready to train, to score and to decode.
 *
 * The time of a kernel does not depend on the weights' values, so no file is needed.  Everything goes through model.h, lora.h and finetune.h as train does.
 * What it is not: it measures nothing. */
#ifndef VENEER_BENCH_WORKLOAD_H
#define VENEER_BENCH_WORKLOAD_H
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "finetune.h"
#include "lora.h"
#include "model.h"

/* Layers pruned_from .. pruned_to-1 have the pruned widths; none when both are 0. */
struct shape {
    const char *name;
    int32_t C, L, H, KV, D, F, V;
    bool tied;
    int32_t pruned_from, pruned_to, pruned_H, pruned_KV, pruned_F;
};
extern const struct shape smollm2_135m, llama_7b, llama_7b_pruned;

struct workload_options {
    enum format even, odd; /* linears of layers 0, 2, 4 ... and of 1, 3, 5 ...: nf4 or int8 */
    enum format embed;     /* embedding and head: bf16 and f32 too */
    int32_t rank;          /* of the adapters on all seven linears; 0: none */
    size_t sequences, length; /* of a batch */
    bool training, keep;
    int threads;
    struct device *device; /* open; NULL: the CPU */
};

struct workload {
    struct model model;
    struct lora lora;
    struct ops_context ops;
    struct model_run run;
    struct finetune finetune;
    struct dataset dataset; /* random tokens, every next one a label */
    struct finetune_options options;
    struct arena weights, adapters, activations, scratch; /* where the kernels run */
    struct arena data, tables[3];                         /* the host's */
};

/* ERR_MEMORY, ERR_INPUT (a format without random weights); workload_close in any case. */
enum status workload_open(struct workload *w, const struct shape *shape, const struct workload_options *options, struct err *err);
void workload_close(struct workload *w);
/* Bytes that it has taken where the kernels run. */
size_t workload_bytes(const struct workload *w);
/* One optimizer step of finetune_run over the batch; *loss nats a token. */
enum status workload_step(struct workload *w, double *loss, struct err *err);

/* Random weights of rms 0.02 into a placed matrix, in panels where it has them: random codes, scales to fit.  nf4, int8, bf16, f32. */
enum status random_matrix(struct qmat *q, uint64_t seed, struct err *err);
/* The same weights into n matrices of one shape and format that are placed on a device: made on the host, then uploaded. */
enum status random_matrices(struct device *device, struct qmat *q, size_t n, uint64_t seed, struct err *err);

/* Multiplications and additions a token, by what a token goes through.  Attention: causal over `length` tokens. */
struct arithmetic {
    double linear, head, attention, lora; /* forward */
    double down;                          /* of linear: the down projections, which recomputation leaves out */
};
struct arithmetic workload_arithmetic(const struct workload *w, size_t length);
/* A training step: forward; backward by dx alone (the weights are frozen), 2.5 x attention (it is computed again), 2 x adapters; and forward again when
 * not kept. */
double arithmetic_training(const struct arithmetic *a, bool keep);
/* A prompt of `length` tokens, logits of its last. */
double arithmetic_prefill(const struct arithmetic *a, size_t length);

/* What "auto" is: COMPUTE_BF16 where the level has something faster than fp32 for it. */
enum compute best_compute(void);

#endif
