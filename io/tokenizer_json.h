/* tokenizer_json.h: the components of a tokenizer.json, between its reader's files; private to the tokenizer.
 * Form: huggingface/tokenizers, tokenizer/serialization.rs and the components' own serde. */
#ifndef VENEER_TOKENIZER_JSON_H
#define VENEER_TOKENIZER_JSON_H
#include "io/json.h"
#include "io/tokenizer_private.h"

/* What the components say about the vocabulary. */
struct json_steps {
    bool byte_level, escapes_spaces; /* ByteLevel; a space becomes U+2581 */
    int32_t bos, eos;                /* of the post-processor's template: in front of a text and behind it, -1: none */
};

/* normalizer, pre_tokenizer and decoder of `root` into t->pretokenizer; before tokenizer_finish.  ERR_INPUT names a component that is not known. */
enum status json_read_steps(struct tokenizer *t, const struct json *root, const char *where, struct json_steps *steps, struct err *err);
/* post_processor; ids must be pieces of t. */
enum status json_read_template(struct tokenizer *t, const struct json *root, const char *where, struct json_steps *steps, struct err *err);

#endif
