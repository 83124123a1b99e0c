/* dataset.h: fine-tuning data: text in one of the usual shapes -> token rows with labels. */
#ifndef VENEER_DATASET_H
#define VENEER_DATASET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/tokenizer.h"

struct example {
    int32_t *tokens; /* [n] */
    int32_t *labels; /* [n] tokens[t + 1], or -1 where nothing is learned (prompt, last row) */
    int32_t n;
};

struct dataset {
    struct example *example; /* owned with their arrays; those without a label are left out */
    size_t n;
    int32_t longest;      /* rows of the longest example */
    uint64_t tokens, labelled; /* rows in all, rows with a label */
    size_t cut;           /* examples that were cut at max_seq_len */
    size_t skipped;       /* rows left out by skip_invalid */
    char first_skipped[256]; /* what was wrong with the first of them */
    char format[16];      /* what was detected */
    char form[80];        /* what conversations were written by, "": there were none */
};

struct dataset_options {
    int32_t max_seq_len;
    bool train_on_inputs, packing;
    int bos; /* -1: as the tokenizer's models expect, 0: no, 1: yes */
    size_t limit; /* examples; 0: all */
    const char *chat_template; /* Jinja for messages and sharegpt; NULL: ChatML, written by this program */
    const char *chat_tools;    /* another for conversations with tools, or NULL */
    const char *chat_name;     /* what messages call it: "the model's chat template", a name, a path */
    bool chat_all;             /* it is for alpaca too */
    bool skip_invalid; /* rows that lack a field, are empty or are no JSON are left out and counted */
};

/* Prompts are not learned, answers are with the token that ends them: EOS, or what a chat template ends the assistant's turn with
 * (chat_template_answers).
 * format: "auto", "alpaca", "messages", "sharegpt", "prompt", "text".  ERR_INPUT: file:line:field and what is wanted. */
enum status dataset_load(struct dataset *dataset, const char *path, const char *format, const struct tokenizer *tokenizer,
                         const struct dataset_options *options, struct err *err);
void dataset_free(struct dataset *dataset);

/* The Alpaca prompt of an instruction and an optional input ("" or NULL), owned by the caller; NULL: out of memory. */
char *dataset_alpaca_prompt(const char *instruction, const char *input);

#endif
