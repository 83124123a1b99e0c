/* dataset_private.h: shared by dataset*.c. */
#ifndef VENEER_DATASET_PRIVATE_H
#define VENEER_DATASET_PRIVATE_H
#include "base/file.h"
#include "base/text.h"
#include "io/chat_template.h"
#include "io/dataset.h"
#include "io/json.h"

enum dataset_format { DATASET_AUTO, DATASET_ALPACA, DATASET_MESSAGES, DATASET_SHAREGPT, DATASET_PROMPT, DATASET_TEXT };

struct loader {
    struct dataset *dataset;
    size_t cap;
    const char *path;
    char where[512]; /* path:line or path[index] of the record at hand */
    const struct tokenizer *tokenizer;
    const struct dataset_options *options;
    enum dataset_format format;
    struct tokens stream; /* packed text */
    struct chat_template *chat; /* opened for the first conversation */
    struct err *err;
};

enum status dataset_no_memory(const struct loader *load);
/* Takes tokens[n] with learn[t] saying whether token t may be a target; labels are shifted by one.  An example in which nothing is
 * learned is left out. */
enum status dataset_add_example(struct loader *load, const int32_t *tokens, const uint8_t *learn, size_t n);
/* A member that is text and not empty. */
enum status dataset_need_text(const struct loader *load, const struct json *record, const char *key, const char **out);

/* ---- conversations (dataset_chat.c) ---- */
/* A record of messages, or of conversations as ShareGPT has them. */
enum status dataset_add_conversation(struct loader *load, const struct json *record, bool sharegpt);
/* An instruction with its input (may be "") and the answer, by the chat template. */
enum status dataset_add_exchange(struct loader *load, const char *instruction, const char *input, const char *answer);

/* ---- shapes of records, plain text (dataset_text.c) ---- */
enum status dataset_format_parse(const char *name, enum dataset_format *format, struct err *err);
const char *dataset_format_name(enum dataset_format format);
/* The format that a record's members say. */
enum status dataset_detect(struct loader *load, const struct json *record);
enum status dataset_add_text(struct loader *load, const char *text, size_t n);
/* Plain text: documents are divided by lines that hold only <|endoftext|>, or by blank lines when there is none. */
enum status dataset_read_text(struct loader *load, const char *text, size_t n);

#endif
