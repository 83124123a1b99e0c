/* checkpoint_gguf.c: a GGUF of architecture llama, deci or qwen2. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_private.h"

/* ---- names: ours -> ggml's ---- */

static void ggml_name(const char *name, char out[GGUF_MAX_TENSOR_NAME + 1])
{
    static const char *const leaves[][2] = {
        {"input_layernorm", "attn_norm"},  {"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},    {"self_attn.v_proj", "attn_v"},           {"self_attn.o_proj", "attn_output"},
        {"mlp.gate_proj", "ffn_gate"},     {"mlp.up_proj", "ffn_up"},                {"mlp.down_proj", "ffn_down"},
    };
    const char *leaf, *dot = strrchr(name, '.');
    int l = checkpoint_layer(name, &leaf);
    out[0] = 0;
    if (strcmp(name, "model.embed_tokens.weight") == 0)
        strcpy(out, "token_embd.weight");
    else if (strcmp(name, "model.norm.weight") == 0)
        strcpy(out, "output_norm.weight");
    else if (strcmp(name, "lm_head.weight") == 0)
        strcpy(out, "output.weight");
    for (size_t i = 0; l >= 0 && i < sizeof leaves / sizeof *leaves; i++)
        if (strncmp(leaf, leaves[i][0], (size_t)(dot - leaf)) == 0 && leaves[i][0][dot - leaf] == 0)
            snprintf(out, GGUF_MAX_TENSOR_NAME + 1, "blk.%d.%s%s", l, leaves[i][1], dot);
}

static const struct gguf_tensor *find(const struct checkpoint *c, const char *name)
{
    char out[GGUF_MAX_TENSOR_NAME + 1];
    ggml_name(name, out);
    return out[0] ? gguf_tensor(c->gguf, out) : NULL;
}

static bool has(const struct checkpoint *c, const char *name)
{
    return find(c, name) != NULL;
}

static enum status format_of(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    const struct gguf_tensor *t = find(c, name);
    memset(q, 0, sizeof *q);
    if (t->n_dims > 2)
        return err_set(err, ERR_INPUT, "%s: %s has %d dimensions, want 1 or 2", c->path, t->name, t->n_dims);
    TRY(gguf_format(c->gguf, t, &q->format, err));
    if (t->n_dims == 1 && format_info(q->format)->row_multiple > 1)
        return err_set(err, ERR_INPUT, "%s: %s is one row of %s, want F32, F16 or BF16", c->path, t->name, gguf_type_name(t->type));
    q->block = format_info(q->format)->default_block;
    q->rows = t->n_dims == 2 ? (size_t)t->dim[1] : 1;
    q->cols = (size_t)t->dim[0];
    return OK;
}

static enum status read_reals(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err)
{
    const struct gguf_tensor *t = find(c, name);
    size_t heads = c->permuted ? checkpoint_heads(c, name) : 0;
    if (heads == 0)
        return gguf_read_rows(c->gguf, t, 0, rows, dst, err);
    real *temp = malloc(rows * cols * sizeof *temp);
    if (!temp)
        return err_set(err, ERR_MEMORY, "out of memory for %s", name);
    enum status status = gguf_read_rows(c->gguf, t, 0, rows, temp, err);
    if (status == OK)
        checkpoint_unpermute(dst, temp, heads, (size_t)c->config.head_dim, rows == 1 ? 1 : cols); /* a bias is one element a row */
    free(temp);
    return status;
}

/* Blocks run along a row, so rows of q and k are put in order as a whole. */
static enum status read_codes(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    const struct gguf_tensor *t = find(c, name);
    size_t heads = c->permuted ? checkpoint_heads(c, name) : 0, D = (size_t)c->config.head_dim;
    size_t row = (size_t)t->bytes / (q->rows == 1 && heads ? heads * D : q->rows); /* a bias is one element a row */
    TRY(gguf_read(c->gguf, t, 0, q->codes, (size_t)t->bytes, err));
    if (heads == 0)
        return OK;
    unsigned char *temp = malloc((size_t)t->bytes), *codes = q->codes;
    if (!temp)
        return err_set(err, ERR_MEMORY, "out of memory for %s", name);
    memcpy(temp, codes, (size_t)t->bytes);
    for (size_t h = 0; h < heads; h++)
        for (size_t j = 0; j < D / 2; j++)
            for (size_t p = 0; p < 2; p++)
                memcpy(codes + (h * D + p * (D / 2) + j) * row, temp + (h * D + 2 * j + p) * row, row);
    free(temp);
    return OK;
}

static enum status tokenizer(struct checkpoint *c, struct err *err)
{
    return tokenizer_load_gguf(&c->own_tokenizer, c->gguf, err);
}

static const struct checkpoint_ops gguf_ops = {"gguf", has, format_of, read_reals, read_codes, tokenizer};

/* ---- metadata -> config ---- */

struct reader {
    const struct gguf *g;
    const char *arch;
    struct err *err;
};

static const char *key(const struct reader *r, const char *name, char out[128])
{
    snprintf(out, 128, "%s.%s", r->arch, name);
    return out;
}

static enum status get_int(const struct reader *r, const char *name, int64_t low, int64_t high, int32_t *out)
{
    char k[128];
    int64_t x;
    TRY(gguf_int(r->g, key(r, name, k), low, high, &x, r->err));
    *out = (int32_t)x;
    return OK;
}

static enum status get_int_or(const struct reader *r, const char *name, int64_t low, int64_t high, int64_t fallback, int32_t *out)
{
    char k[128];
    int64_t x;
    TRY(gguf_int_or(r->g, key(r, name, k), low, high, fallback, &x, r->err));
    *out = (int32_t)x;
    return OK;
}

static enum status get_widths(const struct reader *r, struct model_config *m)
{
    size_t L = (size_t)m->num_hidden_layers;
    char k[128];
    TRY(gguf_ints(r->g, key(r, "attention.head_count", k), L, 1, 1 << 16, m->num_attention_heads, r->err));
    TRY(gguf_ints(r->g, key(r, "feed_forward_length", k), L, 1, 1 << 24, m->intermediate_size, r->err));
    if (!gguf_find(r->g, key(r, "attention.head_count_kv", k)))
        memcpy(m->num_key_value_heads, m->num_attention_heads, L * sizeof *m->num_attention_heads);
    else
        TRY(gguf_ints(r->g, k, L, 1, 1 << 16, m->num_key_value_heads, r->err));
    for (size_t l = 0; l < L; l++)
        if (m->num_attention_heads[l] % m->num_key_value_heads[l] != 0)
            return err_set(r->err, ERR_INPUT, "%s: layer %zu has %d heads, want a multiple of its %d KV heads", gguf_path(r->g), l,
                           m->num_attention_heads[l], m->num_key_value_heads[l]);
    return OK;
}

/* llama.cpp's attn_factor multiplies yarn's own factor. */
static enum status get_yarn(const struct reader *r, struct model_config *m)
{
    char k[128];
    int64_t original;
    double factor;
    m->rope_type = ROPE_YARN;
    TRY(gguf_number(r->g, key(r, "rope.scaling.factor", k), 1, 1e6, &m->rope_factor, r->err));
    TRY(gguf_int_or(r->g, key(r, "rope.scaling.original_context_length", k), 1, 1 << 28, m->max_position_embeddings, &original, r->err));
    TRY(gguf_number_or(r->g, key(r, "rope.scaling.attn_factor", k), 1e-6, 1e6, 1, &factor, r->err));
    TRY(gguf_number_or(r->g, key(r, "rope.scaling.yarn_beta_fast", k), 1e-6, 1e6, 32, &m->rope_beta_fast, r->err));
    TRY(gguf_number_or(r->g, key(r, "rope.scaling.yarn_beta_slow", k), 1e-6, 1e6, 1, &m->rope_beta_slow, r->err));
    if (m->rope_beta_fast <= m->rope_beta_slow || m->rope_theta <= 1)
        return err_set(r->err, ERR_INPUT, "%s: yarn with beta_fast %g, beta_slow %g and freq_base %g, want them falling, and a freq_base above 1", gguf_path(r->g),
                       m->rope_beta_fast, m->rope_beta_slow, m->rope_theta);
    m->rope_original_max_position = (int32_t)original;
    m->rope_attention_factor = factor * model_config_yarn_factor(m->rope_factor);
    return OK;
}

static enum status get_rope(const struct reader *r, struct model_config *m)
{
    char k[128];
    const char *type;
    double eps;
    TRY(gguf_number_or(r->g, key(r, "rope.freq_base", k), 1, 1e12, 10000, &m->rope_theta, r->err));
    TRY(gguf_number(r->g, key(r, "attention.layer_norm_rms_epsilon", k), 1e-12, 1, &eps, r->err));
    m->rms_norm_eps = (float)eps;
    TRY(gguf_string_or(r->g, key(r, "rope.scaling.type", k), "none", &type, r->err));
    if (strcmp(type, "linear") == 0) {
        m->rope_type = ROPE_LINEAR;
        return gguf_number(r->g, key(r, "rope.scaling.factor", k), 1e-3, 1e6, &m->rope_factor, r->err);
    }
    if (strcmp(type, "yarn") == 0)
        return get_yarn(r, m);
    if (strcmp(type, "none") != 0)
        return err_set(r->err, ERR_INPUT, "%s: %s = '%s', want none, linear or yarn", gguf_path(r->g), k, type);
    if (!gguf_find(r->g, key(r, "rope.scale_linear", k))) /* the older name of a linear factor */
        return OK;
    m->rope_type = ROPE_LINEAR;
    return gguf_number(r->g, k, 1e-3, 1e6, &m->rope_factor, r->err);
}

static enum status get_rope_freqs(const struct reader *r, struct model_config *m)
{
    const struct gguf_tensor *t = gguf_tensor(r->g, "rope_freqs.weight");
    size_t half = (size_t)m->head_dim / 2;
    if (!t)
        return OK;
    real row[4096];
    if (t->n_dims != 1 || t->elements != half || half > 4096)
        return err_set(r->err, ERR_INPUT, "%s: rope_freqs.weight has %llu elements, want %zu", gguf_path(r->g),
                       (unsigned long long)t->elements, half);
    m->rope_freqs = malloc(half * sizeof *m->rope_freqs);
    if (!m->rope_freqs)
        return err_set(r->err, ERR_MEMORY, "out of memory for rope frequencies");
    TRY(gguf_read_rows(r->g, t, 0, 1, row, r->err));
    for (size_t i = 0; i < half; i++) {
        if (!(row[i] >= 1e-6f && row[i] <= 1e6f))
            return err_set(r->err, ERR_INPUT, "%s: rope_freqs.weight[%zu] = %g, want 1e-6 to 1e6", gguf_path(r->g), i, (double)row[i]);
        m->rope_freqs[i] = (float)row[i];
    }
    return OK;
}

/* A GGUF carries llama3's scaling as divisors.  The published parameters that give the same ones are put back, so that config.json
 * can say them; other divisors stay as they are. */
static void name_scaling(struct model_config *m)
{
    static const double factors[] = {8, 32};
    size_t half = (size_t)m->head_dim / 2;
    for (size_t k = 0; m->rope_freqs && m->rope_type == ROPE_DEFAULT && k < 2; k++) {
        float scaled[2048], plain[2048];
        struct model_config guess = *m;
        guess.rope_freqs = NULL;
        model_config_inv_freq(&guess, plain);
        guess.rope_type = ROPE_LLAMA3;
        guess.rope_factor = factors[k];
        guess.rope_low_freq_factor = 1;
        guess.rope_high_freq_factor = 4;
        guess.rope_original_max_position = 8192;
        model_config_inv_freq(&guess, scaled);
        size_t i = 0;
        while (i < half && fabsf(plain[i] / scaled[i] / m->rope_freqs[i] - 1.0f) <= 1e-5f) /* a few float roundings; 8 and 32 are far apart */
            i++;
        if (i < half)
            continue;
        free(m->rope_freqs);
        *m = guess;
    }
}

static enum status get_special(const struct reader *r, struct model_config *m)
{
    int64_t bos, eos;
    TRY(gguf_int_or(r->g, "tokenizer.ggml.bos_token_id", 0, m->vocab_size - 1, -1, &bos, r->err));
    TRY(gguf_int_or(r->g, "tokenizer.ggml.eos_token_id", 0, m->vocab_size - 1, -1, &eos, r->err));
    m->bos_token_id = (int32_t)bos;
    m->eos_token_id[0] = (int32_t)eos;
    m->n_eos = eos >= 0;
    return OK;
}

static enum status read_config(struct checkpoint *c, const struct reader *r)
{
    struct model_config *m = &c->config;
    int32_t layers, width, heads0;
    TRY(get_int(r, "block_count", 1, MAX_LAYERS, &layers));
    TRY(model_config_alloc(m, layers, r->err));
    TRY(get_int(r, "embedding_length", 1, 1 << 20, &m->hidden_size));
    TRY(get_int(r, "context_length", 1, 1 << 28, &m->max_position_embeddings));
    TRY(get_widths(r, m));
    heads0 = m->num_attention_heads[0];
    TRY(get_int_or(r, "attention.key_length", 2, 4096, m->hidden_size / heads0, &m->head_dim));
    TRY(get_int_or(r, "attention.value_length", 2, 4096, m->head_dim, &width));
    if (width != m->head_dim || m->head_dim % 2 != 0 || m->head_dim < 2 || m->head_dim > 4096)
        return err_set(r->err, ERR_INPUT, "%s: key_length %d and value_length %d, want the same even number from 2 to 4096", c->path,
                       m->head_dim, width);
    TRY(get_int_or(r, "rope.dimension_count", 2, 4096, m->head_dim, &width));
    if (width != m->head_dim)
        return err_set(r->err, ERR_INPUT, "%s: rope.dimension_count = %d, want the head size %d", c->path, width, m->head_dim);
    TRY(get_rope(r, m));
    TRY(get_rope_freqs(r, m));
    name_scaling(m);
    const struct gguf_tensor *embed = gguf_tensor(r->g, "token_embd.weight");
    if (!embed || embed->n_dims != 2)
        return err_set(r->err, ERR_INPUT, "%s: tensor token_embd.weight is missing", c->path);
    if (embed->dim[1] == 0 || embed->dim[1] > 4000000)
        return err_set(r->err, ERR_INPUT, "%s: token_embd.weight has %llu rows, want 1 to 4000000", c->path, (unsigned long long)embed->dim[1]);
    m->vocab_size = (int32_t)embed->dim[1];
    const struct gguf_value *pieces = gguf_find(r->g, "tokenizer.ggml.tokens");
    if (pieces && pieces->n != embed->dim[1])
        return err_set(r->err, ERR_INPUT, "%s: tokenizer.ggml.tokens has %llu pieces, token_embd.weight %llu rows", c->path,
                       (unsigned long long)pieces->n, (unsigned long long)embed->dim[1]);
    m->tie_word_embeddings = !gguf_tensor(r->g, "output.weight");
    m->attention_bias = gguf_tensor(r->g, "blk.0.attn_q.bias") != NULL;
    m->attention_out_bias = gguf_tensor(r->g, "blk.0.attn_output.bias") != NULL;
    return get_special(r, m);
}

enum status checkpoint_open_gguf(struct checkpoint *c, struct err *err)
{
    const char *arch;
    c->ops = &gguf_ops;
    TRY(gguf_open(&c->gguf, c->path, err));
    TRY(gguf_string(c->gguf, "general.architecture", &arch, err));
    bool qwen = strcmp(arch, "qwen2") == 0;
    if (!qwen && strcmp(arch, "llama") != 0 && strcmp(arch, "deci") != 0)
        return err_set(err, ERR_INPUT, "%s: general.architecture = '%s', want llama, deci or qwen2", c->path, arch);
    c->permuted = !qwen;
    struct reader r = {c->gguf, arch, err};
    TRY(read_config(c, &r));
    if (c->config.attention_out_bias && !c->config.attention_bias)
        return err_set(err, ERR_INPUT, "%s: biases on attn_output but not on attn_q, attn_k, attn_v", c->path);
    if (qwen || (c->config.attention_bias && !c->config.attention_out_bias)) /* Hugging Face has that form under this name */
        snprintf(c->config.model_type, sizeof c->config.model_type, "qwen2");
    return OK;
}
