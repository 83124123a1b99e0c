/* text.c: cut, then one batch a row. */
#include "bench/text.h"

#include <stdlib.h>

enum status text_batches_open(struct text_batches *b, const char *path, size_t tokens, const struct tokenizer *tokenizer, struct err *err)
{
    struct dataset_options options = {.max_seq_len = TEXT_ROWS, .train_on_inputs = true, .packing = true, .bos = -1};
    *b = (struct text_batches){0};
    TRY(dataset_load(&b->text, path, "auto", tokenizer, &options, err));
    b->batch = calloc(b->text.n, sizeof *b->batch);
    b->segment = calloc(b->text.n, sizeof *b->segment);
    b->positions = calloc(TEXT_ROWS, sizeof *b->positions);
    if (!b->batch || !b->segment || !b->positions)
        return err_set(err, ERR_MEMORY, "out of memory for calibration text");
    for (int32_t t = 0; t < TEXT_ROWS; t++)
        b->positions[t] = t;
    for (size_t rows = 0; b->n < b->text.n && rows < tokens; b->n++) {
        const struct example *e = &b->text.example[b->n];
        b->segment[b->n] = (struct segment){.len = e->n};
        b->batch[b->n] = (struct batch){.n = (size_t)e->n, .tokens = e->tokens, .labels = e->labels, .positions = b->positions, .segments = &b->segment[b->n],
                                        .n_segments = 1};
        rows += (size_t)e->n;
    }
    return OK;
}

void text_batches_close(struct text_batches *b)
{
    dataset_free(&b->text);
    free(b->batch);
    free(b->segment);
    free(b->positions);
}
