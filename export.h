/* export.h: what other tools load: a Hugging Face style model/ folder, a GGUF file, an adapter as a PEFT folder or as a GGUF.
 *
 * Everything is published atomically.  What it is not: it reads nothing back (io/checkpoint.h and inference.h do). */
#ifndef VENEER_EXPORT_H
#define VENEER_EXPORT_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "io/tokenizer.h"
#include "model.h"

/* dir/: model.safetensors, plan.txt, the tokenizer's files (export_tokenizer), generation_config.json and, last, config.json.  nf4 and fp4 as bitsandbytes stores them (weight, absmax, quant_map, quant_state or nested_*), int8
 * as weight, SCB, weight_format; formats that Hugging Face has no form for as F32, hqq2, hqq3 and hqq4 with their scales and zeros beside them (NAME.hqq4 F16 [groups, 2]); the embedding likewise in its format; norms, biases and F32
 * matrices in `dtype` ("f32", "bf16", "f16"). */
enum status export_folder(const char *dir, const struct model *model, const struct tokenizer *tokenizer, const char *tokenizer_from,
                          const char *dtype, struct err *err);

/* The tokenizer's files into dir.  from: the folder that the model came from, a tokenizer.model, or NULL.  A folder with a tokenizer.json: it and
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja, tokenizer.model and our tokenizer.gguf are copied as they are.
 * A chat template that is new (tokenizer_set_chat_template) is written over the copied ones as chat_template.jinja, which transformers takes first;
 * templates with names as additional_chat_templates/NAME.jinja, unless they stand in the tokenizer_config.json that is copied.
 * Else tokenizer.gguf, tokenizer.json (where tokenizer_has_json) and tokenizer_config.json are made, tokenizer.model is copied.  Such files that are
 * in dir already and not written are removed. */
enum status export_tokenizer(const char *dir, const struct tokenizer *tokenizer, const char *from, int32_t max_length, struct err *err);

/* dir/chat_template.jinja and dir/additional_chat_templates/: the tokenizer's chat templates; earlier ones that it has not are removed. */
enum status export_chat_template(const char *dir, const struct tokenizer *tokenizer, struct err *err);

/* A GGUF of architecture llama, or deci when widths differ between layers.  The adapters are merged in (lora may be NULL), then each
 * linear takes the ggml format nearest to its own: export_gguf_format. */
enum status export_gguf(const char *path, const struct model *model, const struct lora *lora, const struct tokenizer *tokenizer,
                        const char *name, struct err *err);
/* The model as it is held, without adapters: every matrix whose format GGUF has keeps it, F32 and BF16 too, and ggml's blocks byte for byte. */
enum status export_gguf_stored(const char *path, const struct model *model, const struct tokenizer *tokenizer, const char *name, struct err *err);
/* nf4, fp4 -> q4_0; int8, int8_64, nf8 -> q8_0; hqq2, hqq3, hqq4 -> q4_1; ggml's own stay; the rest, and rows that are no multiple of 32, -> f16. */
enum format export_gguf_format(const struct qmat *W);
/* Of a linear into which an adapter is merged: superblocks have no encoder and become q8_0, in which least of the update is lost. */
enum format export_gguf_merged_format(const struct qmat *W);
/* A linear as the GGUF has it: q, placed in export_gguf_format of the linear, in Hugging Face's row order.  Merged and encoded; without an adapter
 * the codes of hqq2, hqq3, hqq4 are taken over, and ggml's blocks byte for byte.  W: room for [out, in].  Errors as quant_encode's. */
enum status export_gguf_linear(const struct model *model, const struct lora *lora, int layer, enum linear linear, real *W, struct qmat *q,
                               struct err *err);
/* W + s B A of a linear as reals [out, in], in Hugging Face's row order. */
void export_merged(const struct model *model, const struct lora *lora, int layer, enum linear linear, real *W);

/* OK, or ERR_FAILED with the sentence that export_gguf would say: llama.cpp has no name for the pre-tokenizer. */
enum status export_gguf_tokenizer(const struct tokenizer *tokenizer, struct err *err);
/* Likewise: yarn whose blend has bounds that are no whole numbers, which llama.cpp's always are. */
enum status export_gguf_rope(const struct model_config *config, struct err *err);
/* A GGUF that holds the vocabulary alone.  ERR_FAILED as export_gguf_tokenizer. */
enum status export_vocabulary(const char *path, const struct tokenizer *tokenizer, struct err *err);

/* dir/: adapter_model.safetensors (base_model.model.NAME.lora_A.weight [r, in], lora_B.weight [out, r]) and adapter_config.json with
 * rank_pattern and alpha_pattern where they differ from the plan's most common ones; base_model_name_or_path = base (NULL: null). */
enum status export_adapter(const char *dir, const struct lora *lora, const struct plan *plan, const char *base, struct err *err);

/* The adapters alone as a GGUF, which llama.cpp adds to a GGUF of the same model (llama-cli -m base.gguf --lora PATH): general.type adapter,
 * adapter.type lora, the model's architecture, and for each linear with a rank blk.N.NAME.weight.lora_a (r rows of `in`) and .lora_b (`out` rows of r),
 * the rows of q's and k's B in a GGUF's order.  llama.cpp scales by alpha / r with one alpha for all, and by 1 where adapter.lora.alpha is 0: so it is 0
 * and s is in lora_b, which is right for any ranks and alphas.  format: F32, F16 or BF16.  ERR_INPUT: another format, no linear with a rank;
 * ERR_FAILED names the tensor with a number that the format has not. */
enum status export_adapter_gguf(const char *path, const struct lora *lora, const struct model_config *config, enum format format, const char *name,
                                struct err *err);

#endif
