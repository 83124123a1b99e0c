/* checkpoint_llama2c.c: the first format of llama2.c: seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
 * a negative vocab_size says that the head is not tied), then fp32 tensors one after the other, kind by kind; rows of q and k interleaved. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_private.h"

enum { HEADER_BYTES = 28 };

/* Kinds in file order; those of layers hold all layers one after the other. */
static const char *const kinds[] = {"model.embed_tokens.weight", "input_layernorm.weight",  "self_attn.q_proj.weight",
                                    "self_attn.k_proj.weight",   "self_attn.v_proj.weight", "self_attn.o_proj.weight",
                                    "post_attention_layernorm.weight", "mlp.gate_proj.weight", "mlp.down_proj.weight",
                                    "mlp.up_proj.weight",        "model.norm.weight",       "rope tables", "lm_head.weight"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void shape_of(const struct model_config *m, size_t kind, size_t *rows, size_t *cols)
{
    size_t C = (size_t)m->hidden_size, V = (size_t)m->vocab_size, F = (size_t)m->intermediate_size[0], D = (size_t)m->head_dim;
    size_t q = (size_t)m->num_attention_heads[0] * D, k = (size_t)m->num_key_value_heads[0] * D;
    const size_t shapes[N_KINDS][2] = {{V, C}, {1, C}, {q, C}, {k, C}, {k, C}, {C, q}, {1, C}, {F, C}, {C, F}, {F, C}, {1, C},
                                       {(size_t)m->max_position_embeddings, D}, {V, C}};
    *rows = shapes[kind][0];
    *cols = shapes[kind][1];
}

/* Byte where a tensor begins, and its shape; false: no such tensor. */
static bool locate(const struct checkpoint *c, const char *name, uint64_t *offset, size_t *rows, size_t *cols)
{
    const char *leaf = name;
    int layer = checkpoint_layer(name, &leaf);
    uint64_t at = HEADER_BYTES, L = (uint64_t)c->config.num_hidden_layers;
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        bool per_layer = kind >= 1 && kind <= 9;
        shape_of(&c->config, kind, rows, cols);
        uint64_t bytes = (uint64_t)*rows * *cols * 4;
        if (per_layer == (layer >= 0) && strcmp(leaf, kinds[kind]) == 0) {
            *offset = at + (layer >= 0 ? (uint64_t)layer * bytes : 0);
            return layer < (int)L && !(kind == N_KINDS - 1 && c->config.tie_word_embeddings);
        }
        at += bytes * (per_layer ? L : 1);
    }
    return false;
}

static bool has(const struct checkpoint *c, const char *name)
{
    uint64_t offset;
    size_t rows, cols;
    return locate(c, name, &offset, &rows, &cols);
}

static enum status format_of(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    uint64_t offset;
    memset(q, 0, sizeof *q);
    q->format = FORMAT_F32;
    if (!locate(c, name, &offset, &q->rows, &q->cols))
        return err_set(err, ERR_INPUT, "%s: has no %s", c->path, name);
    return OK;
}

static enum status read_reals(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err)
{
    uint64_t offset;
    size_t r, k, n = rows * cols, heads = checkpoint_heads(c, name);
    locate(c, name, &offset, &r, &k);
    float *raw = malloc(n * sizeof *raw);
    real *temp = malloc(n * sizeof *temp);
    enum status status = raw && temp ? file_pread(&c->file, offset, raw, n * sizeof *raw, err)
                                     : err_set(err, ERR_MEMORY, "out of memory for %s", name);
    for (size_t i = 0; status == OK && i < n; i++)
        temp[i] = (real)raw[i];
    if (status == OK && heads)
        checkpoint_unpermute(dst, temp, heads, (size_t)c->config.head_dim, cols);
    else if (status == OK)
        memcpy(dst, temp, n * sizeof *dst);
    free(raw);
    free(temp);
    return status;
}

static enum status read_codes(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    return read_reals(c, name, q->codes, q->rows, q->cols, err);
}

/* tok512.bin or tokenizer.bin beside the model. */
static enum status tokenizer(struct checkpoint *c, struct err *err)
{
    const char *slash = strrchr(c->path, '/');
    int n = slash ? (int)(slash - c->path) + 1 : 0;
    char path[1024];
    struct file file;
    snprintf(path, sizeof path, "%.*stok%d.bin", n, c->path, c->config.vocab_size);
    if (file_open(&file, path, err) != OK)
        snprintf(path, sizeof path, "%.*stokenizer.bin", n, c->path);
    else
        file_close(&file);
    return tokenizer_load_llama2c(&c->own_tokenizer, path, c->config.vocab_size, err);
}

static const struct checkpoint_ops llama2c_ops = {"llama2.c", has, format_of, read_reals, read_codes, tokenizer};

static enum status read_header(struct checkpoint *c, struct err *err)
{
    static const char *const names[7] = {"dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"};
    static const int32_t most[7] = {1 << 16, 1 << 20, MAX_LAYERS, 1 << 10, 1 << 10, 4000000, 1 << 20};
    int32_t h[7];
    struct model_config *m = &c->config;
    TRY(file_pread(&c->file, 0, h, HEADER_BYTES, err));
    bool tied = h[5] > 0;
    h[5] = h[5] < 0 && h[5] > INT32_MIN ? -h[5] : h[5];
    for (int i = 0; i < 7; i++)
        if (h[i] < 1 || h[i] > most[i])
            return err_set(err, ERR_INPUT, "%s: %s = %d, want 1 to %d", c->path, names[i], h[i], most[i]);
    if (h[0] % h[3] != 0 || h[3] % h[4] != 0 || h[0] / h[3] % 2 != 0)
        return err_set(err, ERR_INPUT, "%s: dim %d, n_heads %d, n_kv_heads %d do not divide each other", c->path, h[0], h[3], h[4]);
    TRY(model_config_alloc(m, h[2], err));
    m->hidden_size = h[0];
    m->vocab_size = h[5];
    m->max_position_embeddings = h[6];
    m->head_dim = h[0] / h[3];
    m->rms_norm_eps = 1e-5f;
    m->rope_theta = 10000;
    m->tie_word_embeddings = tied;
    m->bos_token_id = 1;
    m->eos_token_id[0] = 2;
    m->n_eos = 1;
    for (int32_t l = 0; l < h[2]; l++) {
        m->intermediate_size[l] = h[1];
        m->num_attention_heads[l] = h[3];
        m->num_key_value_heads[l] = h[4];
    }
    return OK;
}

enum status checkpoint_open_llama2c(struct checkpoint *c, struct err *err)
{
    c->ops = &llama2c_ops;
    TRY(file_open(&c->file, c->path, err));
    TRY(read_header(c, err));
    uint64_t want = HEADER_BYTES, L = (uint64_t)c->config.num_hidden_layers;
    for (size_t kind = 0; kind < N_KINDS - (c->config.tie_word_embeddings ? 1u : 0u); kind++) {
        size_t rows, cols;
        shape_of(&c->config, kind, &rows, &cols);
        want += (uint64_t)rows * cols * 4 * (kind >= 1 && kind <= 9 ? L : 1);
    }
    if (want != c->file.size)
        return err_set(err, ERR_INPUT, "%s: has %llu bytes, its header wants %llu", c->path, (unsigned long long)c->file.size,
                       (unsigned long long)want);
    return OK;
}
