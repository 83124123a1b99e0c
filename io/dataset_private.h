/* dataset_private.h: shared by dataset.c and dataset_text.c. */
#ifndef VENEER_DATASET_PRIVATE_H
#define VENEER_DATASET_PRIVATE_H
#include "base/file.h"
#include "base/text.h"
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
    struct err *err;
};

enum status dataset_format_parse(const char *name, enum dataset_format *format, struct err *err);
const char *dataset_format_name(enum dataset_format format);
/* The format that a record's members say. */
enum status dataset_detect(struct loader *load, const struct json *record);
enum status dataset_add_text(struct loader *load, const char *text, size_t n);
/* Plain text: documents are divided by lines that hold only <|endoftext|>, or by blank lines when there is none. */
enum status dataset_read_text(struct loader *load, const char *text, size_t n);

#endif
