/* finetune.h: fine-tunes the adapters of a frozen, quantized model (or all weights) on a dataset.
 *
 * What it is not: it chooses nothing and scores nothing.  Deterministic: a run that was stopped and resumed gives the same bits. */
#ifndef VENEER_FINETUNE_H
#define VENEER_FINETUNE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/log.h"
#include "io/dataset.h"
#include "model.h"
#include "optim.h"

struct finetune_options {
    struct optim optim;          /* optim.total_steps and warmup are taken as they are: see finetune_steps */
    int64_t batch_size, micro_batch_size; /* sequences */
    bool micro_mean;             /* false: normalised by the label tokens of the whole step; true: mean of micro-batch means */
    uint64_t seed;               /* data order */
    const char *checkpoint_dir;  /* NULL: no checkpoints */
    int64_t save_steps;          /* 0: only when stopped */
    struct log log;
    const char *label;           /* "[trial 12/50] ", in front of progress lines; "" for none */
};

struct finetune_point {
    int64_t step; /* from 1 */
    double loss;  /* nats a label token, before the update; NaN where it was not finite */
    double norm;  /* gradient norm before clipping; NaN: the step was skipped */
    double rate;
    int64_t tokens; /* rows of the step */
};

/* Memory for one fine-tuning, reused by the next. */
struct finetune {
    int32_t *tokens, *positions, *labels; /* a micro-batch, [max_rows] */
    struct segment *segments;
    uint32_t *order;                      /* [dataset n] */
    struct finetune_point *curve;         /* [max_steps] */
    size_t max_rows, max_segments, max_steps, n_curve;
    int64_t skipped;                      /* steps whose loss or gradient was not finite: parameters, moments, schedule stay */
};

/* Optimizer steps for max_steps or num_epochs over a dataset of n examples. */
int64_t finetune_steps(int64_t max_steps, double num_epochs, size_t n, int64_t batch_size);
/* Rows that a micro-batch can have: micro_batch_size * the longest example. */
size_t finetune_rows(const struct dataset *dataset, int64_t micro_batch_size);
/* Counts or carves; all of it is the host's (arena_take_table). */
void finetune_place(struct finetune *finetune, const struct dataset *dataset, int64_t micro_batch_size, int64_t max_steps,
                    struct arena *arena);

/* What is trained: the adapters (lora with g, m, v), or all weights (grads plus the parallel block p, m, v); in the memory of the run's kernels. */
struct finetune_target {
    struct lora *lora;          /* adapters, or NULL */
    struct model_grads *grads;  /* full training, or NULL */
    real *p, *m, *v;            /* full training: [grads->n] */
};

/* `steps` optimizer steps from the target's present values; m and v start at 0 unless checkpoint_dir holds a checkpoint of the same run
 * (the same start, data, plan and options), from which it goes on to the same bits.  Allocates nothing inside a step.
 * ERR_DIVERGED: five steps in a row were not finite, or the median of the last eight finite losses is above three times that of the
 * first eight.  ERR_STOPPED: a signal; the last finished step is saved into checkpoint_dir when there is one. */
enum status finetune_run(struct finetune *finetune, struct model_run *run, const struct model *model,
                         struct finetune_target *target, const struct dataset *dataset, int64_t steps,
                         const struct finetune_options *options, struct err *err);

#endif
