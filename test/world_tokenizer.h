/* world_tokenizer.h: a group's setup and teardown: the tokenizer of the small world. */
#ifndef VENEER_TEST_WORLD_TOKENIZER_H
#define VENEER_TEST_WORLD_TOKENIZER_H
#include "io/tokenizer.h"

static struct tokenizer *tokenizer; /* SentencePiece, <s> 1, </s> 2, add_bos */

static inline int load_tokenizer(void **state)
{
    (void)state;
    struct err err;
    return tokenizer_load_sentencepiece(&tokenizer, "data/world/tokenizer.model", &err) == OK ? 0 : -1;
}

static inline int free_tokenizer(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

#endif
