/* checkpoint.h: a model on disk, whatever its container: a Hugging Face folder, a .gguf file, or the model/ folder that train
 * writes.  Tensors are asked for by their Hugging Face names and come back in Hugging Face's row order. */
#ifndef VENEER_CHECKPOINT_H
#define VENEER_CHECKPOINT_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/real.h"
#include "io/model_config.h"
#include "quant.h"

struct checkpoint; /* opaque */
struct tokenizer;

/* Detects by content.  Every name, shape and dtype that the config promises is checked here; ERR_INPUT says which is wrong. */
enum status checkpoint_open(struct checkpoint **checkpoint, const char *path, struct err *err);
/* checkpoint_open for a plan: a folder may hold config.json and no weights.  Its tensors then have the names and shapes that the config promises, in its
 * torch_dtype (bf16 where it says none), its linears as quantization_config says (bitsandbytes: nf4, fp4, int8); reading one is ERR_INPUT. */
enum status checkpoint_open_shapes(struct checkpoint **checkpoint, const char *path, struct err *err);
bool checkpoint_has_weights(const struct checkpoint *checkpoint); /* false: of checkpoint_open_shapes, config.json stands alone */
void checkpoint_close(struct checkpoint *checkpoint);
const struct model_config *checkpoint_config(const struct checkpoint *checkpoint);
const char *checkpoint_kind(const struct checkpoint *checkpoint); /* "gguf", "safetensors" */
bool checkpoint_has(const struct checkpoint *checkpoint, const char *name);
/* The format a weight is stored in, with block and double quantization (rows and cols set, no memory): nf4/fp4/int8 of a bitsandbytes-style folder, q4_0 ... of
 * a GGUF (F32/F16/BF16 as such). */
enum status checkpoint_format(const struct checkpoint *checkpoint, const char *name, struct qmat *shape, struct err *err);
/* Decoded to reals: dst[rows, cols] (1-D tensors: rows = 1).  ERR_INPUT on NaN or Inf, naming the tensor and the element. */
enum status checkpoint_read(const struct checkpoint *checkpoint, const char *name, real *dst, size_t rows, size_t cols,
                            struct err *err);
/* The stored codes as they are into a placed qmat of the very same format and shape (nf4, fp4, int8 folders; GGUF types except q/k of permuted archs). */
enum status checkpoint_read_codes(const struct checkpoint *checkpoint, const char *name, struct qmat *dst, struct err *err);
/* The tokenizer beside or inside the model, made once, owned by the checkpoint. */
enum status checkpoint_tokenizer(struct checkpoint *checkpoint, const struct tokenizer **tokenizer, struct err *err);
/* Sets its chat template (tokenizer_set_chat_template). */
enum status checkpoint_set_chat_template(struct checkpoint *checkpoint, const char *source, struct err *err);
/* plan.txt of a model/ folder (owned by the checkpoint), NULL when there is none. */
const char *checkpoint_plan_text(const struct checkpoint *checkpoint);
/* The path of a Hugging Face folder, whose tokenizer files an export copies; NULL for a single file. */
const char *checkpoint_folder(const struct checkpoint *checkpoint);

#endif
