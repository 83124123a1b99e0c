/* convert.h: a model made into another: other formats, adapters merged, pruned layers padded with zeros to one width. */
#ifndef VENEER_CONVERT_H
#define VENEER_CONVERT_H
#include <stdbool.h>

#include "base/arena.h"
#include "base/err.h"
#include "model.h"

/* Shapes, places (in `arena`) and fills `to` with from's weights in the formats of `plan` (NULL: all F32), the embedding in `embed`, a head of its own in `head`, adapters merged
 * when lora is not NULL.  ggml's blocks (in the layout of files) whose format, shape and weights stay are handed on byte for byte; those that are only read and
 * do not stay become q8_0, or F32 where the row does not fit.
 * pad: every layer gets the widths of the widest one; what is new is zero, which leaves every output as it was: a head whose v and o are
 * zero adds nothing, nor does a channel whose up and down are. */
enum status convert_model(struct model *to, const struct model *from, const struct lora *lora, const struct plan *plan, enum format embed,
                          enum format head, bool pad, struct arena *arena, struct err *err);

/* The adapters of a model that convert_model pads, padded likewise: A's new columns and B's new rows are zero.  plan: `from`'s widths, ranks and alphas;
 * shape: config and plan with the new widths, no weights (model_free); `to` in `arena`. */
enum status convert_adapter(struct model *shape, struct lora *to, const struct lora *from, const struct model_config *config, const struct plan *plan,
                            struct arena *arena, struct err *err);

#endif
