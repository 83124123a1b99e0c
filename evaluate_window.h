/* evaluate_window.h: windows of a text, one after the other, as batches of one sequence; private to the evaluation. */
#ifndef VENEER_EVALUATE_WINDOW_H
#define VENEER_EVALUATE_WINDOW_H
#include <stdlib.h>
#include <string.h>

#include "model.h"

struct text_window {
    struct batch batch;
    struct segment segment;
    int32_t *positions, *labels; /* owned */
};

/* ERR_MEMORY; close also after a failure. */
static inline enum status text_window_open(struct text_window *w, size_t size, struct err *err)
{
    memset(w, 0, sizeof *w);
    w->positions = malloc(size * sizeof *w->positions);
    w->labels = malloc(size * sizeof *w->labels);
    if (!w->positions || !w->labels)
        return err_set(err, ERR_MEMORY, "out of memory for a window of %zu tokens", size);
    for (size_t t = 0; t < size; t++)
        w->positions[t] = (int32_t)t;
    w->segment = (struct segment){.len = (int32_t)size};
    w->batch = (struct batch){.n = size, .positions = w->positions, .labels = w->labels, .segments = &w->segment, .n_segments = 1};
    return OK;
}

/* Every token but the first is to be predicted. */
static inline void text_window_set(struct text_window *w, const int32_t *tokens)
{
    w->batch.tokens = tokens;
    for (size_t t = 0; t < w->batch.n; t++)
        w->labels[t] = t + 1 < w->batch.n ? tokens[t + 1] : -1;
}

static inline void text_window_close(struct text_window *w)
{
    free(w->positions);
    free(w->labels);
}

static inline enum status text_window_check(const struct model_run *run, size_t n, size_t window, struct err *err)
{
    if (window < 2 || window > run->max_n)
        return err_set(err, ERR_INPUT, "a window of %zu tokens, want 2 to %zu", window, run->max_n);
    if (n < window)
        return err_set(err, ERR_INPUT, "the text has %zu tokens, a window %zu", n, window);
    return OK;
}

#endif
