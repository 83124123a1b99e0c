/* inference.h: a model opened for use: generate, evaluate, convert.  Weights in the formats of its plan, adapters beside them, memory for
 * batches: on a device when one is given, then in the layout of files.  What it is not: it trains nothing. */
#ifndef VENEER_INFERENCE_H
#define VENEER_INFERENCE_H
#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "io/checkpoint.h"
#include "io/tokenizer.h"
#include "model.h"

struct inference {
    struct checkpoint *checkpoint;
    const struct tokenizer *tokenizer;
    struct plan plan;
    struct model model;
    struct lora lora;
    bool has_adapter;
    struct ops_context ops;
    struct model_run run;
    struct arena weights, adapters, activations, scratch; /* where the kernels run */
    struct arena weight_tables, adapter_tables, activation_tables; /* on a device: what the host reads of them */
};

struct inference_options {
    const char *adapter;  /* a PEFT folder, or NULL */
    struct device *device; /* open (use_device.h), borrowed: for longer than the model is open; NULL: the CPU */
    int threads;          /* 0: one a core */
    enum compute compute;
    bool decode;          /* every matrix as F32 that has no format in a plan.txt; else weights stay in the format they are stored in */
    bool keep_blocks;     /* with decode: ggml's blocks stay as they are stored, in the layout of files, to be handed on byte for byte */
};

/* Opens `path` (checkpoint.h).  ERR_INPUT, ERR_MEMORY, ERR_FAILED (the device's); close in any case. */
enum status inference_open(struct inference *in, const char *path, const struct inference_options *options, struct err *err);
/* Takes activations for batches of up to max_rows. */
enum status inference_place(struct inference *in, size_t max_rows, struct err *err);
const struct lora *inference_lora(const struct inference *in); /* NULL without an adapter */
void inference_close(struct inference *in);

/* A PEFT folder onto the plan: ranks and alphas of its linears, then weights into a placed lora.  ERR_INPUT names the file, the key or tensor and what
 * is wrong; DoRA, biases and modules_to_save are refused by name. */
enum status adapter_read_plan(struct plan *plan, const struct model_config *config, const char *dir, struct err *err);
enum status adapter_read_weights(struct lora *lora, const char *dir, struct err *err);

#endif
