/* Any bytes as a GGUF: every key asked for as every type, every tensor read, then the same file as a model with its tokenizer. */
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/tokenizer.h"
#include "test/fuzz/memfd.h"

static void ask(const struct gguf *g, const char *key)
{
    const char *s;
    int64_t i;
    double x;
    bool b;
    int32_t three[3];
    const struct gguf_value *array;
    gguf_string(g, key, &s, NULL);
    gguf_int(g, key, -3, 1 << 20, &i, NULL);
    gguf_number(g, key, -1e9, 1e9, &x, NULL);
    gguf_bool(g, key, &b, NULL);
    gguf_ints(g, key, 3, 0, 100, three, NULL);
    if (gguf_array(g, key, GGUF_STRING, &array, NULL) == OK)
        for (uint64_t k = 0; k < array->n; k++) {
            size_t n, sum = 0;
            s = gguf_item_string(array, k, &n);
            for (size_t c = 0; c < n; c++)
                sum += (unsigned char)s[c];
            if (sum > 255 * n)
                abort(); /* keeps the reads */
        }
    if (gguf_array(g, key, GGUF_I64, &array, NULL) == OK)
        for (uint64_t k = 0; k < array->n; k++)
            gguf_item_int(array, k);
    if (gguf_array(g, key, GGUF_F64, &array, NULL) == OK)
        for (uint64_t k = 0; k < array->n; k++)
            gguf_item_number(array, k);
}

static void read_tensor(const struct gguf *g, const struct gguf_tensor *t)
{
    unsigned char *bytes = malloc((size_t)t->bytes);
    real *row = malloc((size_t)t->dim[0] * sizeof *row);
    if (!bytes || !row || gguf_read(g, t, 0, bytes, (size_t)t->bytes, NULL) != OK)
        abort();
    if (gguf_read(g, t, 1, bytes, (size_t)t->bytes, NULL) == OK)
        abort();
    gguf_read_rows(g, t, t->elements / t->dim[0] - 1, 1, row, NULL);
    free(bytes);
    free(row);
}

static void as_model(const char *path)
{
    struct checkpoint *model;
    struct err err;
    const struct tokenizer *tokenizer;
    if (checkpoint_open(&model, path, &err) != OK)
        return;
    const struct model_config *m = checkpoint_config(model);
    real *norm = malloc((size_t)m->hidden_size * sizeof *norm);
    if (!norm)
        abort();
    checkpoint_read(model, "model.norm.weight", norm, 1, (size_t)m->hidden_size, &err);
    checkpoint_tokenizer(model, &tokenizer, &err);
    free(norm);
    checkpoint_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g;
    struct err err;
    char path[64];
    int fd = memfd_of(data, n, path);
    static const char *const keys[] = {"general.architecture", "general.alignment", "llama.block_count", "k", "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.scores", "llama.attention.head_count", "tokenizer.ggml.bos_token_id"};
    if (gguf_open(&g, path, &err) == OK) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            ask(g, keys[i]);
        for (size_t i = 0; i < gguf_n_tensors(g) && i < 16; i++)
            read_tensor(g, gguf_tensor_at(g, i));
        gguf_close(g);
        as_model(path);
    }
    close(fd);
    return 0;
}
