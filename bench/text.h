/* text.h: a text as batches of one sequence each, for calibration. */
#ifndef VENEER_BENCH_TEXT_H
#define VENEER_BENCH_TEXT_H
#include "io/dataset.h"
#include "model.h"

enum { TEXT_ROWS = 512 };

struct text_batches {
    struct dataset text;
    struct batch *batch;
    struct segment *segment;
    int32_t *positions;
    size_t n;
};

/* Rows of TEXT_ROWS tokens of the file at `path` until `tokens` are reached.  Close also after a failure. */
enum status text_batches_open(struct text_batches *b, const char *path, size_t tokens, const struct tokenizer *tokenizer, struct err *err);
void text_batches_close(struct text_batches *b);

#endif
