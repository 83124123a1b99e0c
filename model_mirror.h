/* model_mirror.h: what passes read of a model and its adapters, in the memory of the device whose kernels run them.
 *
 * The host keeps the model that is pruned, encoded, merged and written; the mirror holds a copy of the one that the next pass reads, in the formats in which it is
 * stored.  One model at a time; what lies there already is not copied again.  On the CPU (ops->device NULL, or no mirror) it shows the host's own and takes nothing.
 * What it is not: it does not see that numbers of the host changed where they are, or that others took their place: model_mirror_forget. */
#ifndef VENEER_MODEL_MIRROR_H
#define VENEER_MODEL_MIRROR_H
#include "model.h"

/* ops is the owner's; all else begins as zeros. */
struct model_mirror {
    const struct ops_context *ops;
    enum format floats; /* in which F32 linears of a whole model lie: BF16 or F16 where their numbers are known to be such, as in most files; else F32 */
    struct model model; /* of the device, as the last call put it there */
    struct lora lora;   /* likewise */
    struct model_held *held;
    struct arena weights, adapters, tables;
};

/* Counts what a model of host's shape takes: linears as in `widest`, or (NULL) in the host's own formats, F32 as `floats`.  host may have no memory yet. */
enum status model_mirror_bytes(const struct model *host, const struct plan *widest, enum format floats, size_t *bytes, struct err *err);
/* Of the adapters that the host has, with gradients and moments. */
size_t model_mirror_adapter_bytes(const struct lora *host);

/* *there: the model for a pass that reads what host is now; on a device valid until another is asked for.  widest: each linear takes the room of this format,
 * so that models that differ in formats alone take turns in the same memory; NULL: a whole model, as host has it, but for mirror->floats.  ERR_MEMORY names the bytes wanted and free. */
enum status model_mirror_model(struct model_mirror *mirror, const struct model *host, const struct plan *widest, const struct model **there, struct err *err);
/* *there: adapters with the host's values; on a device with gradients and moments of any value.  host NULL: none. */
enum status model_mirror_adapters(struct model_mirror *mirror, const struct lora *host, const struct lora **there, struct err *err);
/* The adapters' values as a pass left them, into the host's. */
enum status model_mirror_adapters_down(const struct model_mirror *mirror, struct lora *host, struct err *err);
/* Nothing that lies there counts as a copy. */
void model_mirror_forget(struct model_mirror *mirror);
/* Gives the memory back, before the device is closed; the mirror may be used again. */
void model_mirror_free(struct model_mirror *mirror);

#endif
