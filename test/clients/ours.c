/* ours.c: what the programs have no option for, so that other clients' numbers can be held against ours: the logits of every position of a
 * text, and the ids of a text file.  Numbers go into a file as they are: float32 [n, V], int32 [n].
 *
 *     ours logits MODEL ADAPTER|- COMPUTE IDS OUT     IDS: int32 ids of one sequence; COMPUTE: f32, bf16, int8, or q8_0: f32 of activations that are
 *                                                     rounded as ggml rounds them for the weights' format; q8_0-jitter
 *     ours ids MODEL TEXT OUT                         no BOS; names of special tokens are these tokens */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "inference.h"
#include "tools/roof.h"

enum { MOST_BYTES = 1 << 28, ROWS = 32 };

/* ---- llama.cpp's arithmetic ---- */

static const struct ops *exact;
static bool jitter; /* every second activation a bit up, the others a bit down, by what sums in another order differ: what of the result is chance? */

/* ggml multiplies Q8_0 with x in blocks of Q8_0 (32 numbers of 8 bits, an f16 scale: quantize_row_q8_0), F16 with x in F16, F32 with x as it is. */
static enum status round_activations(const struct linear_args *a, struct arena *arena, real **x, struct err *err)
{
    struct qmat q;
    for (int pass = 0; pass < 2; pass++) {
        quant_place(&q, a->W->format, 0, false, a->n, a->W->cols, arena);
        *x = arena_take(arena, a->n * a->W->cols, sizeof **x);
        if (pass == 0)
            TRY(arena_commit(arena, "rounded activations", err));
    }
    for (size_t i = 0; i < a->n * a->W->cols; i++)
        (*x)[i] = jitter ? a->x[i] * (1 + (i % 2 ? 0x1p-22F : -0x1p-22F)) : a->x[i];
    TRY(quant_encode(&q, *x, false, err));
    quant_decode_rows(&q, 0, a->n, *x);
    return OK;
}

static void rounded_forward(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    struct linear_args args[LINEAR_GROUP];
    struct arena arena = {0};
    struct err err;
    real *x = NULL;
    bool rounds = a->W->format == FORMAT_Q8_0 || a->W->format == FORMAT_F16;
    enum status status = rounds ? round_activations(a, &arena, &x, &err) : OK;
    if (status != OK) /* a kernel has no way to say it */
        exit(roof_fail("ours", status, &err));
    for (size_t i = 0; i < count; i++) {
        args[i] = a[i];
        args[i].x = x ? x : a[i].x;
    }
    exact->linear_forward(c, args, count);
    arena_free(&arena);
}

static void round_as_llama_cpp(struct inference *in)
{
    static struct ops ops;
    exact = in->ops.ops;
    ops = *exact;
    ops.linear_forward = rounded_forward;
    in->ops.ops = &ops;
}

/* ---- logits ---- */

static enum status write_logits(const struct inference *in, const real *x, size_t n, const char *path, struct err *err)
{
    size_t V = (size_t)in->model.config.vocab_size, C = (size_t)in->model.config.hidden_size;
    struct publish out = {0};
    real *logits = malloc(ROWS * V * sizeof *logits);
    if (!logits)
        return err_set(err, ERR_MEMORY, "out of memory for %d rows of %zu logits", ROWS, V);
    enum status status = publish_open(&out, path, err);
    for (size_t row = 0; status == OK && row < n; row += ROWS) {
        size_t rows = n - row < ROWS ? n - row : ROWS;
        model_logits(&in->run, &in->model, x + row * C, rows, logits);
        status = publish_write(&out, logits, rows * V * sizeof *logits, err);
    }
    if (status == OK)
        status = publish_commit(&out, err);
    publish_abandon(&out);
    free(logits);
    return status;
}

static enum status run_sequence(struct inference *in, const int32_t *ids, size_t n, const char *path, struct err *err)
{
    struct segment whole = {.start = 0, .len = (int32_t)n};
    int32_t *positions = malloc(n * sizeof *positions), *labels = malloc(n * sizeof *labels);
    const real *x;
    enum status status = positions && labels ? inference_place(in, n, err) : err_set(err, ERR_MEMORY, "out of memory for %zu tokens", n);
    for (size_t i = 0; status == OK && i < n; i++) {
        positions[i] = (int32_t)i;
        labels[i] = -1;
    }
    struct batch batch = {.n = n, .tokens = ids, .positions = positions, .labels = labels, .segments = &whole, .n_segments = 1};
    if (status == OK)
        status = model_hidden(&in->run, &in->model, inference_lora(in), &batch, &x, err);
    if (status == OK)
        status = write_logits(in, x, n, path, err);
    free(positions);
    free(labels);
    return status;
}

static enum status check_ids(const struct inference *in, const int32_t *ids, size_t n, const char *path, struct err *err)
{
    if (n == 0 || n > (size_t)in->model.config.max_position_embeddings)
        return err_set(err, ERR_INPUT, "%s holds %zu ids, the model takes 1 to %d", path, n, in->model.config.max_position_embeddings);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= in->model.config.vocab_size)
            return err_set(err, ERR_INPUT, "%s: id %d at %zu, want 0 to %d", path, ids[i], i, in->model.config.vocab_size - 1);
    return OK;
}

static enum status logits(char **argv, struct err *err)
{
    struct inference in;
    struct inference_options options = {.adapter = strcmp(argv[3], "-") == 0 ? NULL : argv[3], .threads = 1};
    jitter = strcmp(argv[4], "q8_0-jitter") == 0;
    bool rounded = jitter || strcmp(argv[4], "q8_0") == 0;
    char *bytes = NULL;
    size_t size;
    TRY(compute_parse(rounded ? "f32" : argv[4], &options.compute, err));
    enum status status = inference_open(&in, argv[2], &options, err);
    if (status == OK && rounded)
        round_as_llama_cpp(&in);
    if (status == OK)
        status = file_read(argv[5], MOST_BYTES, &bytes, &size, err);
    if (status == OK)
        status = check_ids(&in, (const int32_t *)(void *)bytes, size / sizeof(int32_t), argv[5], err);
    if (status == OK)
        status = run_sequence(&in, (const int32_t *)(void *)bytes, size / sizeof(int32_t), argv[6], err);
    free(bytes);
    inference_close(&in);
    return status;
}

/* ---- ids ---- */

static enum status ids(char **argv, struct err *err)
{
    struct checkpoint *checkpoint = NULL;
    const struct tokenizer *tokenizer;
    struct tokens tokens = {0};
    char *text = NULL;
    size_t size;
    enum status status = checkpoint_open(&checkpoint, argv[2], err);
    if (status == OK)
        status = checkpoint_tokenizer(checkpoint, &tokenizer, err);
    if (status == OK)
        status = file_read(argv[3], MOST_BYTES, &text, &size, err);
    if (status == OK)
        status = tokenizer_encode(tokenizer, text, size, true, &tokens, err);
    if (status == OK)
        status = file_write(argv[4], tokens.id, tokens.n * sizeof *tokens.id, err);
    tokens_free(&tokens);
    free(text);
    checkpoint_close(checkpoint);
    return status;
}

int main(int argc, char **argv)
{
    struct err err = {0};
    roof_start(argv);
    bool wants_logits = argc == 7 && strcmp(argv[1], "logits") == 0, wants_ids = argc == 5 && strcmp(argv[1], "ids") == 0;
    if (!wants_logits && !wants_ids) {
        fputs("usage: ours logits MODEL ADAPTER|- COMPUTE IDS OUT | ours ids MODEL TEXT OUT\n", stderr);
        return ERR_INPUT;
    }
    enum status status = (wants_logits ? logits : ids)(argv, &err);
    return status == OK ? 0 : roof_fail("ours", status, &err);
}
