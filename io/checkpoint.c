/* checkpoint.c: which container a path is, and the checks that all containers share. */
#include "io/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/checkpoint_private.h"

/* ---- names ---- */

int checkpoint_layer(const char *name, const char **leaf)
{
    static const char prefix[] = "model.layers.";
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    long l = strtol(name + sizeof prefix - 1, &end, 10);
    if (end == name + sizeof prefix - 1 || *end != '.' || l < 0 || l >= MAX_LAYERS)
        return -1;
    *leaf = end + 1;
    return (int)l;
}

size_t checkpoint_heads(const struct checkpoint *c, const char *name)
{
    const char *leaf;
    int l = checkpoint_layer(name, &leaf);
    if (l < 0 || l >= c->config.num_hidden_layers)
        return 0;
    if (strncmp(leaf, "self_attn.q_proj.", 17) == 0)
        return (size_t)c->config.num_attention_heads[l];
    if (strncmp(leaf, "self_attn.k_proj.", 17) == 0)
        return (size_t)c->config.num_key_value_heads[l];
    return 0;
}

void checkpoint_unpermute(real *to, const real *from, size_t heads, size_t D, size_t cols)
{
    for (size_t h = 0; h < heads; h++)
        for (size_t j = 0; j < D / 2; j++)
            for (size_t p = 0; p < 2; p++)
                memcpy(to + (h * D + p * (D / 2) + j) * cols, from + (h * D + 2 * j + p) * cols, cols * sizeof *to);
}

/* ---- the promise of the config: every tensor there, of the right shape ---- */

static enum status check_tensor(const struct checkpoint *c, const char *name, size_t rows, size_t cols, struct err *err)
{
    struct qmat shape;
    if (!c->ops->has(c, name))
        return err_set(err, ERR_INPUT, "%s: tensor %s is missing", c->path, name);
    TRY(c->ops->format(c, name, &shape, err));
    if (shape.rows != rows || shape.cols != cols)
        return err_set(err, ERR_INPUT, "%s: %s has shape [%zu, %zu], the configuration wants [%zu, %zu]", c->path, name, shape.rows,
                       shape.cols, rows, cols);
    return OK;
}

void checkpoint_layer_promises(const struct checkpoint *c, int l, struct checkpoint_promise promise[CHECKPOINT_PROMISES])
{
    const struct model_config *m = &c->config;
    size_t C = (size_t)m->hidden_size, D = (size_t)m->head_dim, q = (size_t)m->num_attention_heads[l] * D;
    size_t k = (size_t)m->num_key_value_heads[l] * D, F = (size_t)m->intermediate_size[l];
    const struct checkpoint_promise tensors[CHECKPOINT_PROMISES] = {
        {"input_layernorm.weight", 1, C, false},  {"post_attention_layernorm.weight", 1, C, false},
        {"self_attn.q_proj.weight", q, C, false}, {"self_attn.k_proj.weight", k, C, false},
        {"self_attn.v_proj.weight", k, C, false}, {"self_attn.o_proj.weight", C, q, false},
        {"mlp.gate_proj.weight", F, C, false},    {"mlp.up_proj.weight", F, C, false},
        {"mlp.down_proj.weight", C, F, false},    {"self_attn.q_proj.bias", 1, q, !m->attention_bias},
        {"self_attn.k_proj.bias", 1, k, !m->attention_bias}, {"self_attn.v_proj.bias", 1, k, !m->attention_bias},
        {"self_attn.o_proj.bias", 1, C, !m->attention_out_bias}, {"mlp.gate_proj.bias", 1, F, true},
        {"mlp.up_proj.bias", 1, F, true},         {"mlp.down_proj.bias", 1, C, true},
    };
    memcpy(promise, tensors, sizeof tensors);
}

static enum status check_layer(const struct checkpoint *c, int l, struct err *err)
{
    struct checkpoint_promise tensors[CHECKPOINT_PROMISES];
    checkpoint_layer_promises(c, l, tensors);
    for (size_t i = 0; i < CHECKPOINT_PROMISES; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s", l, tensors[i].leaf);
        if (!tensors[i].optional)
            TRY(check_tensor(c, name, tensors[i].rows, tensors[i].cols, err));
        else if (c->ops->has(c, name))
            return err_set(err, ERR_INPUT, "%s: %s is there, the configuration says there is none", c->path, name);
    }
    return OK;
}

static enum status check_all(const struct checkpoint *c, struct err *err)
{
    const struct model_config *m = &c->config;
    size_t V = (size_t)m->vocab_size, C = (size_t)m->hidden_size;
    TRY(check_tensor(c, "model.embed_tokens.weight", V, C, err));
    TRY(check_tensor(c, "model.norm.weight", 1, C, err));
    if (!m->tie_word_embeddings && c->ops->has(c, "lm_head.weight"))
        TRY(check_tensor(c, "lm_head.weight", V, C, err));
    for (int l = 0; l < m->num_hidden_layers; l++)
        TRY(check_layer(c, l, err));
    return OK;
}

/* ---- opening ---- */

static enum status open_kind(struct checkpoint *c, struct err *err)
{
    struct stat st;
    struct file file;
    char magic[4] = "";
    if (stat(c->path, &st) == 0 && S_ISDIR(st.st_mode))
        return checkpoint_open_folder(c, err);
    TRY(file_open(&file, c->path, err));
    uint64_t size = file.size;
    enum status status = size >= 4 ? file_pread(&file, 0, magic, 4, err) : OK;
    file_close(&file);
    TRY(status);
    if (memcmp(magic, "GGUF", 4) == 0)
        return checkpoint_open_gguf(c, err);
    size_t n = strlen(c->path);
    if (n > 4 && strcmp(c->path + n - 4, ".bin") == 0)
        return checkpoint_open_llama2c(c, err);
    return err_set(err, ERR_INPUT, "%s: is no model: want a folder with config.json, a GGUF file or a llama2.c .bin", c->path);
}

static enum status open_checked(struct checkpoint **out, const char *path, bool shapes_do, struct err *err)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return err_set(err, ERR_MEMORY, "out of memory for a model's header");
    }
    c->shapes_do = shapes_do;
    enum status status = open_kind(c, err);
    if (status == OK)
        status = check_all(c, err);
    if (status != OK) {
        checkpoint_close(c);
        return status;
    }
    *out = c;
    return OK;
}

enum status checkpoint_open(struct checkpoint **checkpoint, const char *path, struct err *err)
{
    return open_checked(checkpoint, path, false, err);
}

enum status checkpoint_open_shapes(struct checkpoint **checkpoint, const char *path, struct err *err)
{
    return open_checked(checkpoint, path, true, err);
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    tokenizer_free(c->own_tokenizer);
    model_config_free(&c->config);
    safetensors_close(&c->st);
    gguf_close(c->gguf);
    file_close(&c->file);
    free(c->plan);
    free(c->path);
    free(c);
}

const struct model_config *checkpoint_config(const struct checkpoint *c)
{
    return &c->config;
}

const char *checkpoint_kind(const struct checkpoint *c)
{
    return c->ops->kind;
}

const char *checkpoint_folder(const struct checkpoint *c)
{
    return strcmp(c->ops->kind, "safetensors") == 0 ? c->path : NULL;
}

const char *checkpoint_plan_text(const struct checkpoint *c)
{
    return c->plan;
}

bool checkpoint_has(const struct checkpoint *c, const char *name)
{
    return c->ops->has(c, name);
}

enum status checkpoint_format(const struct checkpoint *c, const char *name, struct qmat *shape, struct err *err)
{
    if (!c->ops->has(c, name))
        return err_set(err, ERR_INPUT, "%s: tensor %s is missing", c->path, name);
    return c->ops->format(c, name, shape, err);
}

enum status checkpoint_read(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err)
{
    TRY(check_tensor(c, name, rows, cols, err));
    TRY(c->ops->read(c, name, dst, rows, cols, err));
    for (size_t i = 0; i < rows * cols; i++)
        if (!isfinite(dst[i]))
            return err_set(err, ERR_INPUT, "%s: %s[%zu, %zu] is %s, want a finite number", c->path, name, i / cols, i % cols,
                           isnan(dst[i]) ? "NaN" : "infinite");
    return OK;
}

enum status checkpoint_read_codes(const struct checkpoint *c, const char *name, struct qmat *dst, struct err *err)
{
    struct qmat shape;
    TRY(check_tensor(c, name, dst->rows, dst->cols, err));
    TRY(c->ops->format(c, name, &shape, err));
    if (shape.format != dst->format || shape.block != dst->block || shape.double_quant != dst->double_quant)
        return err_set(err, ERR_FAILED, "%s: %s is stored as %s, not as %s", c->path, name, format_info(shape.format)->name,
                       format_info(dst->format)->name);
    return c->ops->read_codes(c, name, dst, err);
}

enum status checkpoint_tokenizer(struct checkpoint *c, const struct tokenizer **tokenizer, struct err *err)
{
    if (!c->own_tokenizer)
        TRY(c->ops->tokenizer(c, err));
    int32_t pieces = tokenizer_vocab_size(c->own_tokenizer);
    if (pieces > c->config.vocab_size) /* fewer is usual: rows of padding */
        return err_set(err, ERR_INPUT, "%s: the tokenizer has %d pieces, the embedding %d rows", c->path, pieces,
                       c->config.vocab_size);
    *tokenizer = c->own_tokenizer;
    return OK;
}

enum status checkpoint_set_chat_template(struct checkpoint *c, const char *source, struct err *err)
{
    const struct tokenizer *tokenizer;
    TRY(checkpoint_tokenizer(c, &tokenizer, err));
    return tokenizer_set_chat_template(c->own_tokenizer, source, err);
}
