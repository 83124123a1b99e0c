/* bitstack.c: a model as BitStack would hold it at a number of bits a weight, written as a folder of F32 weights, for tables that compare it.
 *
 *   build/bench/bitstack MODEL --text FILE --bpw B --out DIR [--tokens N]
 * FILE is calibration text.  B counts signs and factors of the linears.  What it is not: a way to run such a model, the blocks are put together here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "bench/text.h"
#include "bitstack.h"
#include "calibrate.h"
#include "export.h"
#include "inference.h"

enum { BLOCKS = 6 };

struct arguments {
    const char *model, *text, *out;
    double bpw;
    size_t tokens;
};

struct stacks {
    struct model *model;
    struct bitstack *stack; /* [layers * LINEAR_COUNT] */
    size_t n;
    struct arena arena;
};

static void place(struct stacks *s)
{
    s->stack = arena_take(&s->arena, s->n, sizeof *s->stack);
    for (size_t i = 0; i < s->n; i++) {
        const struct qmat *W = &s->model->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        struct bitstack stack;
        bitstack_place(&stack, W->rows, W->cols, BLOCKS, &s->arena);
        if (s->stack)
            s->stack[i] = stack;
    }
}

static enum status decompose(void *user, int l, enum linear j, const real *W, const struct affine *q, const struct gram *gram, struct err *err)
{
    struct stacks *s = user;
    (void)q;
    return bitstack_decompose(&s->stack[(size_t)l * LINEAR_COUNT + (size_t)j], W, gram, err);
}

/* Blocks within the budget, put together into the model's weights. */
static enum status load(struct stacks *s, double bpw, struct err *err)
{
    uint32_t *order = calloc(s->n * BLOCKS, sizeof *order);
    size_t *loaded = calloc(s->n, sizeof *loaded);
    double weights = 0;
    enum status status = order && loaded ? bitstack_order(s->stack, s->n, order, err) : err_set(err, ERR_MEMORY, "out of memory for the order of blocks");
    for (size_t i = 0; i < s->n; i++)
        weights += (double)s->stack[i].out * (double)s->stack[i].in;
    if (status == OK) {
        uint64_t bytes = bitstack_load(s->stack, s->n, order, (uint64_t)(bpw * weights / 8), loaded);
        for (size_t i = 0; i < s->n; i++)
            bitstack_decode(&s->stack[i], loaded[i], s->model->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].codes);
        printf("%.3f bits a weight\n", 8 * (double)bytes / weights);
    }
    free(order);
    free(loaded);
    return status;
}

static enum status run(const struct arguments *a, struct inference *in, struct err *err)
{
    struct stacks s = {.model = &in->model, .n = (size_t)in->model.config.num_hidden_layers * LINEAR_COUNT};
    struct text_batches b = {0};
    struct calibrate_options options = {.quantizer = QUANTIZER_GPTQ, .group = 128, .damp = GRAM_DAMP, .linear = decompose};
    place(&s);
    enum status status = arena_commit(&s.arena, "blocks", err);
    if (status == OK) {
        place(&s);
        status = text_batches_open(&b, a->text, a->tokens, in->tokenizer, err);
    }
    if (status == OK)
        status = inference_place(in, TEXT_ROWS, err);
    if (status == OK)
        status = calibrate_model(&in->run, &in->model, b.batch, b.n, &options, NULL, &s, err);
    if (status == OK)
        status = load(&s, a->bpw, err);
    if (status == OK)
        status = export_folder(a->out, &in->model, in->tokenizer, checkpoint_folder(in->checkpoint), "f32", err);
    text_batches_close(&b);
    arena_free(&s.arena);
    return status;
}

static bool read_arguments(int argc, char **argv, struct arguments *a)
{
    *a = (struct arguments){.tokens = 16384};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--text") == 0 && has_value)
            a->text = argv[++i];
        else if (strcmp(argv[i], "--out") == 0 && has_value)
            a->out = argv[++i];
        else if (strcmp(argv[i], "--bpw") == 0 && has_value)
            a->bpw = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--tokens") == 0 && has_value)
            a->tokens = strtoul(argv[++i], NULL, 10);
        else
            a->model = argv[i];
    }
    return a->model && a->text && a->out && a->bpw > 0;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct inference in;
    struct err err = {""};
    if (!read_arguments(argc, argv, &a)) {
        fputs("usage: bitstack MODEL --text FILE --bpw B --out DIR [--tokens N]\n", stderr);
        return 2;
    }
    linalg_init();
    enum status status = inference_open(&in, a.model, &(struct inference_options){.decode = true}, &err);
    if (status == OK)
        status = run(&a, &in, &err);
    inference_close(&in);
    if (status != OK)
        fprintf(stderr, "bitstack: %s\n", err.text);
    return status == OK ? 0 : status == ERR_INPUT ? 2 : 1;
}
