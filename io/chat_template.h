/* chat_template.h: a conversation -> text and tokens, in the form that a model was tuned with.
 *
 * A model carries its form as a template in Jinja (jinja.h): GGUF tokenizer.chat_template, chat_template.jinja, chat_template of
 * tokenizer_config.json.  It is rendered as transformers' apply_chat_template does: messages, add_generation_prompt, tools, bos_token, eos_token and
 * unk_token are its variables.  Templates of common forms are known by name, for models that carry none.
 * The text is tokenized with the names of special tokens in it read as those tokens, as transformers and llama.cpp do; a user's words may so
 * hold such a name too. */
#ifndef VENEER_CHAT_TEMPLATE_H
#define VENEER_CHAT_TEMPLATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/json.h"
#include "io/tokenizer.h"

struct chat_template; /* one thread at a time */

struct chat_message {
    const char *role, *content; /* content NULL: it is left to members */
    const struct json *members; /* an object whose other members the template sees too (tool_calls, name), or NULL */
};
struct chat {
    const struct chat_message *message; /* [n] */
    size_t n;
    const struct json *tools; /* or NULL */
};

/* Jinja `source`; where opens messages: "the model's chat template".  The tokenizer is borrowed.  ERR_INPUT: not understood. */
enum status chat_template_open(struct chat_template **out, const char *source, const char *where, const struct tokenizer *tokenizer, struct err *err);
void chat_template_free(struct chat_template *template); /* NULL is fine */
/* Another source for conversations with tools, as transformers takes the template named tool_use where there is one. */
enum status chat_template_for_tools(struct chat_template *template, const char *source, struct err *err);

/* ---- templates by name (chat_template_known.c) ---- */

/* The Jinja of chatml, llama2, llama3, ...; NULL: none of that name. */
const char *chat_template_known(const char *name);
extern const char chat_template_names[]; /* "chatml, llama2, ..." */
/* A template that the tokenizer has by that name, one of the names above, or else a file of Jinja.  *source is owned by the caller.  ERR_INPUT: none of them. */
enum status chat_template_read(const char *name_or_path, const struct tokenizer *tokenizer, char **source, struct err *err);
/* What there is to choose: the names that the tokenizer has and chat_template_names. */
void chat_template_choices(const struct tokenizer *tokenizer, char choices[1024]);
/* ERR_INPUT: the tokenizer has templates with names and none that is taken without one, as in transformers. */
enum status chat_template_first(const struct tokenizer *tokenizer, struct err *err);

/* ---- conversations ---- */

/* Appends the text.  generation_prompt: what opens the assistant's next answer follows, where the template has such.
 * ERR_INPUT: the template refuses the conversation, or uses what is not known here. */
enum status chat_template_render(struct chat_template *template, const struct chat *chat, bool generation_prompt, struct text *out, struct err *err);
/* The tokens of that text.  bos: -1 as the tokenizer's models expect, 0, 1; none is put in front of tokens that begin with it. */
enum status chat_template_encode(struct chat_template *template, const struct chat *chat, bool generation_prompt, int bos, struct tokens *out,
                                 struct err *err);

/* A conversation for training.  learn[t], owned by the caller: token t belongs to an answer: to what stands in {% generation %}, or else to what
 * rendering with an assistant's message adds to rendering without it and with a generation prompt: the message and the token that ends the turn,
 * no white space behind that.  An answer at the end that has no special token gets an EOS.
 * Answers that begin behind `most` tokens need not be marked (those rows are cut).
 * ERR_INPUT: the text of the first messages is not what the whole text begins with (a template that rewrites earlier turns); the first message is an
 * answer; and what chat_template_render says. */
enum status chat_template_answers(struct chat_template *template, const struct chat *chat, int bos, size_t most, struct tokens *out, uint8_t **learn,
                                  struct err *err);

/* *id: the special token behind an assistant's message; -1: none. */
enum status chat_template_end(struct chat_template *template, int32_t *id, struct err *err);

#endif
