/* generate.h: text from a model, token by token: the prompt in pieces, sampling, whole UTF-8 characters.
 *
 * What it is not: it reads no command line and prints nothing.
 * Sampling: temperature, then the top_k likeliest, then the nucleus of top_p: a kernel (ops.h). */
#ifndef VENEER_GENERATE_H
#define VENEER_GENERATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"
#include "model.h"

/* ---- sampling ---- */

/* How a token is drawn: sample_args of ops.h. */
struct sampler {
    double temperature; /* 0: the first largest logit */
    int32_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    struct rng rng;     /* stream RNG_SAMPLE: a number for each token, none at temperature 0 */
};

/* The next token for logits[V] into *token: memory of c's kernels, as are the logits; c's scratch is one for a head of V rows. */
void sampler_next(struct sampler *sampler, const struct ops_context *c, const real *logits, size_t V, int32_t *token);

/* ---- a running generation ---- */

struct generator {
    const struct model *model;
    const struct lora *lora; /* NULL: none */
    struct ops_context ops;
    struct model_run run;
    struct kv_cache cache;
    struct sampler sampler;
    real *logits;   /* [V] after the last token that was fed, and */
    int32_t *token; /* [1] what is drawn of them: both where kernels run */
    int32_t *held;  /* [cache.n] what was fed */
    struct arena memory, tables; /* what kernels read and write; on a device: what the host does */
};

/* Takes the memory for a context of `context` tokens, their keys and values in cache_type (model.h), where the kernels of `ops` run: its table, device, threads and compute are taken over, its scratch is not.
 * model and lora lie there too, and are borrowed.  ERR_MEMORY. */
enum status generator_open(struct generator *generator, const struct model *model, const struct lora *lora, size_t context, enum format cache_type,
                           const struct ops_context *ops, struct err *err);
/* Bytes of `memory`, with adapters of up to max_rank. */
size_t generator_bytes(const struct model *model, size_t max_rank, size_t context, enum format cache_type, const struct ops_context *ops);
void generator_close(struct generator *generator); /* a zeroed one is fine */
/* The context grows by n tokens; logits are those of the last one.  ERR_INPUT when it is full. */
enum status generator_feed(struct generator *generator, const int32_t *tokens, size_t n, struct err *err);
/* The next token, not fed yet; of a device nothing else comes back.  ERR_FAILED: the device's, as of generator_logits, a copy of logits[V]. */
enum status generator_sample(struct generator *generator, int32_t *token, struct err *err);
enum status generator_logits(const struct generator *generator, real *logits, struct err *err);
/* The token ends a text: one of the model's eos_token_id. */
bool generator_is_end(const struct generator *generator, int32_t token);
/* Bytes of weights that one decoded token reads: linears, head, norms; one row of an embedding of its own. */
double generator_weight_bytes(const struct model *model);

/* ---- text as it is made ---- */

/* The text of tokens one after the other, in whole characters.  Bytes of a character may come in several tokens. */
struct text_stream {
    const struct tokenizer *tokenizer; /* borrowed */
    struct tokens ids;
    size_t shown, known; /* tokens whose text has been handed out; where decoding starts, for the spaces between pieces */
};

/* What comes continues these tokens (a prompt), whose own text is not handed out.  text_stream_free in any case. */
enum status text_stream_start(struct text_stream *stream, const struct tokenizer *tokenizer, const int32_t *ids, size_t n, struct err *err);
/* Appends to out what the token completes. */
enum status text_stream_add(struct text_stream *stream, int32_t id, struct text *out, struct err *err);
/* Appends what is still held; an incomplete character is U+FFFD. */
enum status text_stream_end(struct text_stream *stream, struct text *out, struct err *err);
void text_stream_free(struct text_stream *stream); /* a zeroed one is fine */

/* ---- chat ---- */

struct conversation {
    struct chat_template *template; /* borrowed */
    struct chat_message *message;   /* [n] */
    char **content;                 /* [n], owned */
    size_t n, cap;
    int32_t end; /* the token that ends a turn; -1: none */
};

/* Errors as chat_template_end's; conversation_free in any case. */
enum status conversation_open(struct conversation *conversation, struct chat_template *template, struct err *err);
void conversation_free(struct conversation *conversation); /* a zeroed one is fine */
/* Another message; the content is copied, the role is borrowed. */
enum status conversation_say(struct conversation *conversation, const char *role, const char *content, struct err *err);
/* Brings the generator's context to the whole conversation and what opens the assistant's answer: what it already holds of that stays, what the
 * template now writes in another way is taken back.  *fed: tokens that were new.  ERR_INPUT: the template refuses, the context is too small. */
enum status conversation_feed(const struct conversation *conversation, struct generator *generator, size_t *fed, struct err *err);
/* The token ends an answer: the template's end of a turn, or of the model's eos_token_id. */
bool conversation_is_end(const struct conversation *conversation, const struct generator *generator, int32_t token);

#endif
