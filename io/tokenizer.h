/* tokenizer.h: text <-> token ids.  SentencePiece BPE (tokenizer.model, GGUF "llama"), byte-level BPE (GGUF "gpt2" with pre
 * smollm, starcoder, llama-bpe, qwen2, gpt-2, default), both as Hugging Face's tokenizer.json, llama2.c's tok.bin. */
#ifndef VENEER_TOKENIZER_H
#define VENEER_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"

struct tokenizer; /* opaque, immutable after loading, safe to share between threads */
struct gguf;

enum status tokenizer_load_sentencepiece(struct tokenizer **tokenizer, const char *path, struct err *err);
enum status tokenizer_parse_sentencepiece(struct tokenizer **tokenizer, const void *bytes, size_t n, const char *where,
                                          struct err *err);
enum status tokenizer_load_gguf(struct tokenizer **tokenizer, const struct gguf *gguf, struct err *err);
/* tiktoken rank file (Llama 3's tokenizer.model): lines of base64 and rank; pre-tokenizer llama-bpe. */
enum status tokenizer_load_tiktoken(struct tokenizer **tokenizer, const char *path, struct err *err);
enum status tokenizer_load_llama2c(struct tokenizer **tokenizer, const char *path, int32_t vocab_size, struct err *err);
/* Hugging Face's tokenizer.json and, where they stand beside it, special_tokens_map.json, tokenizer_config.json (over the former) and the chat
 * template.  ERR_INPUT names the component that is not known. */
enum status tokenizer_load_json(struct tokenizer **tokenizer, const char *path, struct err *err);
enum status tokenizer_parse_json(struct tokenizer **tokenizer, const char *text, size_t n, const char *where, struct err *err);
/* bos_token, eos_token and add_bos_token of a tokenizer_config.json; what it does not say stays as it is. */
enum status tokenizer_apply_config(struct tokenizer *tokenizer, const char *text, size_t n, const char *where, struct err *err);
#define TOKENIZER_TEMPLATES "additional_chat_templates"
enum { TOKENIZER_MOST_TEMPLATES = 64 };
/* chat_template.jinja in the folder of the file `path`, else the template that the tokenizer has; TOKENIZER_TEMPLATES/NAME.jinja of that folder as NAME.
 * Where that gives no first one, chat_template of the folder's tokenizer_config.json: one, or several with names; nothing when none is there. */
enum status tokenizer_load_chat_template(struct tokenizer *tokenizer, const char *path, struct err *err);
void tokenizer_free(struct tokenizer *tokenizer);

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer);
int32_t tokenizer_bos(const struct tokenizer *tokenizer); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);
int32_t tokenizer_unk(const struct tokenizer *tokenizer);
bool tokenizer_add_bos(const struct tokenizer *tokenizer); /* whether this vocabulary's models expect BOS by default */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer); /* NULL: none */
/* The template of that name that stands beside the first one (tool_use, rag ...); NULL: none. */
const char *tokenizer_named_chat_template(const struct tokenizer *tokenizer, const char *name);
const char *tokenizer_chat_template_name(const struct tokenizer *tokenizer, size_t i); /* the names, in order; NULL behind the last */
/* Another template in place of its own, from here on: what is written takes it along. */
enum status tokenizer_set_chat_template(struct tokenizer *tokenizer, const char *source, struct err *err);
bool tokenizer_chat_template_is_new(const struct tokenizer *tokenizer); /* so set */

struct tokens {
    int32_t *id; /* owned, tokens_free */
    size_t n, cap;
};
void tokens_free(struct tokens *tokens);
enum status tokens_push(struct tokens *tokens, int32_t id, struct err *err);

/* Appends the ids of text[n]; no BOS, no EOS.  parse_special: names of control tokens in the text become those tokens.  User-defined tokens are
 * always found.  A byte that byte-level BPE has no piece for is <unk>, or left out where there is none, as transformers and llama.cpp do. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n, bool parse_special,
                             struct tokens *out, struct err *err);
/* The BOS that stands in front of a text; -1: none.  bos: 1 yes, 0 no, -1 as this vocabulary's models expect. */
int32_t tokenizer_bos_for(const struct tokenizer *tokenizer, int bos);
/* tokenizer_encode with parse_special, behind the token `bos` (-1: none), unless the text's own first token is that one.  Told by ids, for a text that
 * begins with the name of BOS may begin with another token (a longer name), and one that does not with BOS (which takes the spaces before it). */
enum status tokenizer_encode_bos(const struct tokenizer *tokenizer, int32_t bos, const char *text, size_t n, struct tokens *out, struct err *err);
/* Bytes of the ids as the reference library decodes them (SentencePiece drops the dummy prefix's space); malformed UTF-8 as U+FFFD. Owned by the caller. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n, char **text, size_t *text_n,
                             struct err *err);
/* Id of a piece by its stored name, -1 when absent. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *piece);

/* The vocabulary as stored, for writing it into a GGUF: kind "llama" or "gpt2". */
/* All pointers belong to the tokenizer. */
struct tokenizer_view {
    const char *model, *pre; /* pre NULL for "llama", and where llama.cpp has no name for the pre-tokenizer */
    int32_t n;
    const char *const *piece;   /* [n] NUL-terminated as GGUF stores them */
    const float *score;         /* [n] or NULL */
    const int32_t *type;        /* [n] 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte */
    const char *const *merge;   /* [n_merges] "left right", NULL for "llama" */
    int32_t n_merges;
    bool add_space_prefix;
};
void tokenizer_view(const struct tokenizer *tokenizer, struct tokenizer_view *view);

/* ---- the vocabulary as Hugging Face's files (tokenizer_json_write.c) ---- */
/* false: a piece is no UTF-8, or it was read from a tokenizer.json: that file is to be copied. */
bool tokenizer_has_json(const struct tokenizer *tokenizer);
/* tokenizer.json of one that tokenizer_has_json.  ERR_MEMORY, ERR_STOPPED. */
enum status tokenizer_print_json(const struct tokenizer *tokenizer, struct text *out, struct err *err);
/* tokenizer_config.json beside it: special tokens, chat template, and a class that takes tokenizer.json as it is. */
void tokenizer_print_config(const struct tokenizer *tokenizer, int32_t max_length, struct text *out);

#endif
