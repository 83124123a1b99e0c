/* checkpoint_shapes.c: a folder that holds config.json and no weights: names and shapes of the tensors that it promises, for a plan.
 *
 * What it is not: a model; nothing can be read from it. */
#include <stdio.h>
#include <string.h>

#include "io/checkpoint_private.h"
#include "io/json.h"

/* Shape of a promised tensor. */
static bool find(const struct checkpoint *c, const char *name, size_t *rows, size_t *cols)
{
    const struct model_config *m = &c->config;
    struct checkpoint_promise promise[CHECKPOINT_PROMISES];
    const char *leaf;
    int l = checkpoint_layer(name, &leaf);
    bool head = strcmp(name, "lm_head.weight") == 0;
    *cols = (size_t)m->hidden_size;
    *rows = strcmp(name, "model.norm.weight") == 0 ? 1 : (size_t)m->vocab_size;
    if (l < 0 || l >= m->num_hidden_layers)
        return *rows == 1 || (head && !m->tie_word_embeddings) || strcmp(name, "model.embed_tokens.weight") == 0;
    checkpoint_layer_promises(c, l, promise);
    for (size_t i = 0; i < CHECKPOINT_PROMISES; i++)
        if (!promise[i].optional && strcmp(leaf, promise[i].leaf) == 0) {
            *rows = promise[i].rows;
            *cols = promise[i].cols;
            return true;
        }
    return false;
}

static bool has(const struct checkpoint *c, const char *name)
{
    size_t rows, cols;
    return find(c, name, &rows, &cols);
}

static enum status format_of(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    static const char suffix[] = "_proj.weight";
    size_t n = strlen(name), k = sizeof suffix - 1;
    (void)err;
    *q = c->promised[n > k && strcmp(name + n - k, suffix) == 0];
    find(c, name, &q->rows, &q->cols);
    return OK;
}

static enum status missing(const struct checkpoint *c, const char *what, struct err *err)
{
    return err_set(err, ERR_INPUT, "%s: holds config.json alone, and no %s", c->path, what);
}

static enum status read_reals(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err)
{
    (void)dst, (void)rows, (void)cols;
    return missing(c, name, err);
}

static enum status read_codes(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    (void)q;
    return missing(c, name, err);
}

static enum status tokenizer(struct checkpoint *c, struct err *err)
{
    return missing(c, "tokenizer", err);
}

static const struct checkpoint_ops shapes_ops = {"config.json", has, format_of, read_reals, read_codes, tokenizer};

bool checkpoint_has_weights(const struct checkpoint *c)
{
    return c->ops != &shapes_ops;
}

/* bitsandbytes' switches, with transformers' defaults. */
static enum status read_packed(struct qmat *linear, const struct json *quantization, const char *where, struct err *err)
{
    const char *method, *type;
    bool four, eight, twice;
    TRY(json_string_or(quantization, "quant_method", where, "bitsandbytes", &method, err));
    if (strcmp(method, "bitsandbytes") != 0)
        return err_set(err, ERR_INPUT, "%s.quant_method: got %.20s, want bitsandbytes", where, method);
    TRY(json_bool_or(quantization, "load_in_4bit", where, false, &four, err));
    TRY(json_bool_or(quantization, "load_in_8bit", where, false, &eight, err));
    TRY(json_bool_or(quantization, "bnb_4bit_use_double_quant", where, false, &twice, err));
    TRY(json_string_or(quantization, "bnb_4bit_quant_type", where, "fp4", &type, err));
    if (four && strcmp(type, "nf4") != 0 && strcmp(type, "fp4") != 0)
        return err_set(err, ERR_INPUT, "%s.bnb_4bit_quant_type: got %.20s, want nf4 or fp4", where, type);
    linear->double_quant = four && twice;
    if (four || eight)
        linear->format = !four ? FORMAT_INT8 : strcmp(type, "nf4") == 0 ? FORMAT_NF4 : FORMAT_FP4;
    linear->block = format_info(linear->format)->default_block;
    return OK;
}

static enum status read_quantization(struct checkpoint *c, const struct json *root, const char *where, struct err *err)
{
    const struct json *quantization;
    char inside[512];
    c->promised[1] = c->promised[0];
    TRY(json_object_or(root, "quantization_config", where, &quantization, err));
    snprintf(inside, sizeof inside, "%s.quantization_config", where);
    return quantization ? read_packed(&c->promised[1], quantization, inside, err) : OK;
}

/* transformers 5 calls it dtype. */
static enum status read_dtype(struct checkpoint *c, const struct json *root, const char *where, struct err *err)
{
    static const struct {
        const char *name;
        enum format format;
    } known[] = {{"bfloat16", FORMAT_BF16}, {"float16", FORMAT_F16}, {"float32", FORMAT_F32}};
    const char *key = json_member(root, "dtype") ? "dtype" : "torch_dtype", *name;
    TRY(json_string_or(root, key, where, "bfloat16", &name, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            c->promised[0].format = known[i].format;
            return OK;
        }
    return err_set(err, ERR_INPUT, "%s.%s: got %.20s, want float32, float16 or bfloat16", where, key, name);
}

enum status checkpoint_take_shapes(struct checkpoint *c, const char *json, size_t n, const char *where, struct err *err)
{
    struct json *root;
    c->ops = &shapes_ops;
    TRY(json_parse(json, n, where, &root, err));
    enum status status = read_dtype(c, root, where, err);
    if (status == OK)
        status = read_quantization(c, root, where, err);
    json_free(root);
    return status;
}
