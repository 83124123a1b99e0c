/* export_gguf.c: a GGUF that llama.cpp loads.  Names and rules: docs/formats in the ggml repository (gguf.md), and the shapes that its
 * loader builds for architectures llama and deci (per-layer widths as INT32 arrays, key_length and value_length always said). */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "export_private.h"
#include "quant_affine.h"
#include "quant_panel.h"

enum format export_gguf_format(const struct qmat *W)
{
    enum format f = W->format;
    enum format want = f == FORMAT_NF4 || f == FORMAT_FP4                                ? FORMAT_Q4_0
                       : f == FORMAT_INT8 || f == FORMAT_INT8_64 || f == FORMAT_NF8 ? FORMAT_Q8_0
                       : f == FORMAT_F32 || f == FORMAT_BF16                        ? FORMAT_F16
                       : quant_affine_bits(f) > 0                                   ? FORMAT_Q4_1
                                                                                    : f;
    return W->cols % (size_t)format_info(want)->row_multiple == 0 ? want : FORMAT_F16;
}

enum format export_gguf_merged_format(const struct qmat *W)
{
    enum format f = export_gguf_format(W);
    return format_info(f)->read_only ? FORMAT_Q8_0 : f; /* whole superblocks are whole blocks */
}

/* Codes that go over as they are. */
static bool takes_over(enum format to, const struct qmat *from)
{
    return from->format == to && (format_is_ggml(to) || format_is_float(to)) && (to != FORMAT_F32 || sizeof(real) == sizeof(float));
}

/* q: placed as `from` is. */
static enum status take_over(struct qmat *q, const struct qmat *from, struct err *err)
{
    quant_copy(q, from);
    return quant_from_panels(q, err);
}

void export_merged(const struct model *model, const struct lora *lora, int layer, enum linear linear, real *W)
{
    const struct qmat *q = &model->layer[layer].linear[linear];
    quant_decode_rows(q, 0, q->rows, W);
    if (lora && lora->adapter[layer][linear].r > 0)
        lora_merge(W, &lora->adapter[layer][linear]);
}

enum status export_gguf_linear(const struct model *model, const struct lora *lora, int layer, enum linear linear, real *W, struct qmat *q,
                               struct err *err)
{
    const struct qmat *from = &model->layer[layer].linear[linear];
    bool merged = lora && lora->adapter[layer][linear].r > 0;
    if (!merged && takes_over(q->format, from))
        return take_over(q, from, err);
    export_merged(model, lora, layer, linear, W);
    if (!merged && quant_affine_bits(from->format) > 0 && q->format == FORMAT_Q4_1)
        return quant_affine_as_q4_1(q, from, W, err);
    return quant_encode(q, W, false, err);
}

/* ---- what each tensor is made from ---- */

struct source {
    const struct model *model;
    const struct lora *lora;
    bool stored;        /* as export_gguf_stored says */
    real *temp;         /* the largest matrix */
    float *rope_freqs;  /* [head_dim / 2] */
};

/* The format of a matrix of the model, into which an adapter is merged or not. */
static enum format format_for(const struct source *s, const struct qmat *q, bool merged)
{
    if (s->stored && format_is_float(q->format))
        return q->format;
    return merged ? export_gguf_merged_format(q) : export_gguf_format(q);
}

enum { EMBED, HEAD, NORM, ROPE_FREQS, LAYERS }; /* ids; then 16 a layer */
enum { INPUT_NORM = LINEAR_COUNT, POST_NORM = LINEAR_COUNT + 1, BIAS = 8, PER_LAYER = 16 };

static size_t layer_id(int l, int what)
{
    return LAYERS + (size_t)l * PER_LAYER + (size_t)what;
}

size_t export_gguf_row(int j, size_t r, size_t head_dim)
{
    size_t i = r % head_dim;
    return j == LINEAR_Q || j == LINEAR_K ? r - i + i % 2 * (head_dim / 2) + i / 2 : r;
}

/* The rows of linear j, n of so many bytes. */
static enum status put_rows(const struct source *s, int j, const void *rows, size_t n, size_t bytes, struct gguf_sink *sink, struct err *err)
{
    size_t D = (size_t)s->model->config.head_dim;
    if (j != LINEAR_Q && j != LINEAR_K)
        return gguf_sink_put(sink, rows, n * bytes, err);
    for (size_t i = 0; i < n; i++)
        TRY(gguf_sink_put(sink, (const unsigned char *)rows + export_gguf_row(j, i, D) * bytes, bytes, err));
    return OK;
}

/* Blocks lie in rows, so that rows of codes are put in order as well as rows of weights. */
static enum status put_linear(const struct source *s, int l, int j, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    const struct qmat *from = &s->model->layer[l].linear[j];
    struct arena arena = {0};
    struct qmat q;
    quant_place(&q, item->format, 0, false, from->rows, from->cols, &arena);
    TRY(arena_commit(&arena, item->name, err));
    quant_place(&q, item->format, 0, false, from->rows, from->cols, &arena);
    enum status status = export_gguf_linear(s->model, s->lora, l, (enum linear)j, s->temp, &q, err);
    if (status == ERR_FAILED)
        err_prefix(err, status, "%s", item->name);
    if (status == OK)
        status = put_rows(s, j, q.codes, q.rows, (size_t)item->bytes / q.rows, sink, err);
    arena_free(&arena);
    return status;
}

enum status export_gguf_encoded(const real *W, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    struct arena arena = {0};
    struct qmat q;
    size_t cols = (size_t)item->dim[0], rows = item->n_dims > 1 ? (size_t)item->dim[1] : 1;
    quant_place(&q, item->format, 0, false, rows, cols, &arena);
    TRY(arena_commit(&arena, item->name, err));
    quant_place(&q, item->format, 0, false, rows, cols, &arena);
    enum status status = quant_encode(&q, W, false, err);
    if (status == OK)
        status = gguf_sink_put(sink, q.codes, (size_t)item->bytes, err);
    arena_free(&arena);
    return status;
}

/* A matrix in panels is copied and turned back. */
static enum status put_stored(const struct qmat *from, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    struct arena arena = {0};
    struct qmat q;
    if (!from->panels)
        return gguf_sink_put(sink, from->codes, (size_t)item->bytes, err);
    quant_place(&q, from->format, 0, false, from->rows, from->cols, &arena);
    TRY(arena_commit(&arena, item->name, err));
    quant_place(&q, from->format, 0, false, from->rows, from->cols, &arena);
    enum status status = take_over(&q, from, err);
    if (status == OK)
        status = gguf_sink_put(sink, q.codes, (size_t)item->bytes, err);
    arena_free(&arena);
    return status;
}

static enum status emit(void *user, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    struct source *s = user;
    const struct model *m = s->model;
    TRY(stop_check(err));
    if (item->id == EMBED || item->id == HEAD) {
        const struct qmat *q = item->id == EMBED ? &m->embed : &m->head;
        if (takes_over(item->format, q))
            return put_stored(q, item, sink, err);
        if (q->format == FORMAT_F32)
            return export_gguf_encoded(q->codes, item, sink, err);
        quant_decode_rows(q, 0, q->rows, s->temp);
        return export_gguf_encoded(s->temp, item, sink, err);
    }
    if (item->id == NORM)
        return export_gguf_encoded(m->norm, item, sink, err);
    if (item->id == ROPE_FREQS)
        return gguf_sink_put(sink, s->rope_freqs, (size_t)item->bytes, err);
    int l = (int)((item->id - LAYERS) / PER_LAYER), what = (int)((item->id - LAYERS) % PER_LAYER);
    const struct model_layer *layer = &m->layer[l];
    if (what == INPUT_NORM || what == POST_NORM)
        return export_gguf_encoded(what == INPUT_NORM ? layer->input_norm : layer->post_norm, item, sink, err);
    if (what > BIAS) {
        int j = what - BIAS - 1;
        return put_rows(s, j, layer->bias[j], layer->linear[j].rows, sizeof(real), sink, err); /* F32 */
    }
    return put_linear(s, l, what, item, sink, err);
}

/* ---- the list of tensors ---- */

const char *export_gguf_architecture(const struct model_config *config)
{
    return model_config_uniform(config) ? "llama" : "deci";
}

void export_gguf_name(int layer, enum linear linear, const char *suffix, char name[GGUF_MAX_TENSOR_NAME + 1])
{
    static const char *const names[LINEAR_COUNT] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    snprintf(name, GGUF_MAX_TENSOR_NAME + 1, "blk.%d.%s.%s", layer, names[linear], suffix);
}

enum status export_gguf_matrix(struct gguf_writer *w, const char *name, size_t rows, size_t cols, enum format format, size_t id, struct err *err)
{
    struct gguf_item item = {.format = format, .n_dims = 2, .dim = {cols, rows, 1, 1}, .id = id};
    snprintf(item.name, sizeof item.name, "%s", name);
    return gguf_put_tensor(w, &item, err);
}

static enum status put_vector(struct gguf_writer *w, const char *name, size_t n, size_t id, struct err *err)
{
    struct gguf_item item = {.format = FORMAT_F32, .n_dims = 1, .dim = {n, 1, 1, 1}, .id = id};
    snprintf(item.name, sizeof item.name, "%s", name);
    return gguf_put_tensor(w, &item, err);
}

static enum status put_layer(struct gguf_writer *w, const struct source *s, int l, struct err *err)
{
    const struct model *model = s->model;
    size_t C = (size_t)model->config.hidden_size;
    char name[GGUF_MAX_TENSOR_NAME + 1];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
    TRY(put_vector(w, name, C, layer_id(l, INPUT_NORM), err));
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
    TRY(put_vector(w, name, C, layer_id(l, POST_NORM), err));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *q = &model->layer[l].linear[j];
        export_gguf_name(l, (enum linear)j, "weight", name);
        bool merged = s->lora && s->lora->adapter[l][j].r > 0;
        TRY(export_gguf_matrix(w, name, q->rows, q->cols, format_for(s, q, merged), layer_id(l, j), err));
        export_gguf_name(l, (enum linear)j, "bias", name);
        if (model->layer[l].bias[j])
            TRY(put_vector(w, name, q->rows, layer_id(l, BIAS + 1 + j), err));
    }
    return OK;
}

/* Frequencies that are scaled by more than one factor: a divisor for each, as llama.cpp's converter writes llama3 scaling. */
static enum status rope_divisors(struct source *s, struct err *err)
{
    const struct model_config *c = &s->model->config;
    if (c->rope_type != ROPE_LLAMA3 && !c->rope_freqs)
        return OK;
    size_t half = (size_t)c->head_dim / 2;
    struct model_config plain = *c;
    plain.rope_type = ROPE_DEFAULT;
    plain.rope_freqs = NULL;
    float *base = malloc(half * sizeof *base);
    s->rope_freqs = malloc(half * sizeof *s->rope_freqs);
    if (!base || !s->rope_freqs) {
        free(base);
        return err_set(err, ERR_MEMORY, "out of memory for rope frequencies");
    }
    model_config_inv_freq(&plain, base);
    for (size_t i = 0; i < half; i++)
        s->rope_freqs[i] = base[i] / s->model->inv_freq[i];
    free(base);
    return OK;
}

static enum status put_tensors(struct gguf_writer *w, const struct source *s, struct err *err)
{
    const struct model *m = s->model;
    TRY(export_gguf_matrix(w, "token_embd.weight", m->embed.rows, m->embed.cols, format_for(s, &m->embed, false), EMBED, err));
    TRY(put_vector(w, "output_norm.weight", (size_t)m->config.hidden_size, NORM, err));
    if (!m->config.tie_word_embeddings)
        TRY(export_gguf_matrix(w, "output.weight", m->head.rows, m->head.cols, format_for(s, &m->head, false), HEAD, err));
    if (s->rope_freqs)
        TRY(put_vector(w, "rope_freqs.weight", (size_t)m->config.head_dim / 2, ROPE_FREQS, err));
    for (int l = 0; l < m->plan.n_layers; l++)
        TRY(put_layer(w, s, l, err));
    return OK;
}

/* ---- metadata ---- */

/* A GGUF says how text is cut by a name alone. */
enum status export_gguf_tokenizer(const struct tokenizer *tokenizer, struct err *err)
{
    struct tokenizer_view v;
    tokenizer_view(tokenizer, &v);
    if (v.pre || strcmp(v.model, "llama") == 0)
        return OK;
    return err_set(err, ERR_FAILED, "GGUF has no name for the pre-tokenizer of this tokenizer.json, so llama.cpp could not cut text as it does");
}

enum status export_gguf_rope(const struct model_config *config, struct err *err)
{
    if (config->rope_type != ROPE_YARN || config->rope_truncate)
        return OK;
    return err_set(err, ERR_FAILED, "GGUF has no key for yarn with truncate = false, so llama.cpp would turn heads at other speeds");
}

static void put_vocabulary(struct gguf_writer *w, const struct tokenizer *tokenizer, int32_t rows)
{
    struct tokenizer_view v;
    tokenizer_view(tokenizer, &v);
    size_t n = (size_t)v.n, all = (size_t)(rows > v.n ? rows : v.n);
    const char **piece = calloc(all, sizeof *piece);
    float *score = calloc(all, sizeof *score);
    int32_t *type = calloc(all, sizeof *type);
    char (*pad)[32] = calloc(all - n + 1, sizeof *pad);
    if (!piece || !score || !type || !pad) {
        w->keys.failed = true;
    } else {
        for (size_t i = 0; i < n; i++) {
            piece[i] = v.piece[i];
            score[i] = v.score ? v.score[i] : 0;
            type[i] = v.type[i];
        }
        for (size_t i = n; i < all; i++) { /* rows of the embedding that no piece uses */
            snprintf(pad[i - n], sizeof *pad, "[PAD%zu]", i);
            piece[i] = pad[i - n];
            score[i] = -10000;
            type[i] = 5;
        }
        gguf_put_string(w, "tokenizer.ggml.model", v.model);
        if (v.pre)
            gguf_put_string(w, "tokenizer.ggml.pre", v.pre);
        gguf_put_strings(w, "tokenizer.ggml.tokens", piece, all);
        if (v.score)
            gguf_put_f32s(w, "tokenizer.ggml.scores", score, all);
        gguf_put_i32s(w, "tokenizer.ggml.token_type", type, all);
        if (v.merge)
            gguf_put_strings(w, "tokenizer.ggml.merges", v.merge, (size_t)v.n_merges);
    }
    free(piece);
    free(score);
    free(type);
    free(pad);
}

/* As the gguf package writes them: letters and digits of a name stay, the rest becomes '_'. */
static void put_templates(struct gguf_writer *w, const struct tokenizer *tokenizer)
{
    char list[TOKENIZER_MOST_TEMPLATES][128];
    const char *names[TOKENIZER_MOST_TEMPLATES], *name;
    size_t n = 0;
    for (size_t i = 0; (name = tokenizer_chat_template_name(tokenizer, i)); i++) {
        char key[192];
        size_t k = 0;
        snprintf(list[n], sizeof list[n], "%s", name);
        for (char *c = list[n]; *c; c++)
            *c = isalnum((unsigned char)*c) ? *c : '_';
        while (k < n && strcmp(list[k], list[n]) != 0)
            k++;
        if (k < n) /* two names that differ in the rest alone: the first stays */
            continue;
        snprintf(key, sizeof key, "tokenizer.chat_template.%s", list[n]);
        gguf_put_string(w, key, tokenizer_named_chat_template(tokenizer, name));
        names[n] = list[n];
        n++;
    }
    if (n > 0)
        gguf_put_strings(w, "tokenizer.chat_templates", names, n);
    if (tokenizer_chat_template(tokenizer))
        gguf_put_string(w, "tokenizer.chat_template", tokenizer_chat_template(tokenizer));
}

static void put_tokenizer(struct gguf_writer *w, const struct tokenizer *tokenizer, int32_t rows)
{
    struct tokenizer_view v;
    tokenizer_view(tokenizer, &v);
    put_vocabulary(w, tokenizer, rows);
    if (tokenizer_bos(tokenizer) >= 0)
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)tokenizer_bos(tokenizer));
    if (tokenizer_eos(tokenizer) >= 0)
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)tokenizer_eos(tokenizer));
    if (tokenizer_unk(tokenizer) >= 0)
        gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)tokenizer_unk(tokenizer));
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", tokenizer_add_bos(tokenizer));
    gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v.add_space_prefix);
    put_templates(w, tokenizer);
}

static void put_u32(struct gguf_writer *w, const char *arch, const char *key, uint32_t value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    gguf_put_u32(w, name, value);
}

static void put_f32(struct gguf_writer *w, const char *arch, const char *key, double value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    gguf_put_f32(w, name, (float)value);
}

/* llama.cpp's keys; yarn's own attention factor and betas need none. */
static void put_scaling(struct gguf_writer *w, const char *arch, const struct model_config *c)
{
    char key[64];
    double factor = c->rope_attention_factor / model_config_yarn_factor(c->rope_factor);
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    gguf_put_string(w, key, c->rope_type == ROPE_YARN ? "yarn" : "linear");
    put_f32(w, arch, "rope.scaling.factor", c->rope_factor);
    if (c->rope_type != ROPE_YARN)
        return;
    put_u32(w, arch, "rope.scaling.original_context_length", (uint32_t)c->rope_original_max_position);
    if (fabs(factor - 1) > 1e-6)
        put_f32(w, arch, "rope.scaling.attn_factor", factor);
    if (c->rope_beta_fast != 32)
        put_f32(w, arch, "rope.scaling.yarn_beta_fast", c->rope_beta_fast);
    if (c->rope_beta_slow != 1)
        put_f32(w, arch, "rope.scaling.yarn_beta_slow", c->rope_beta_slow);
}

/* One number when all layers agree, else an INT32 array (older readers take no other). */
static void put_widths(struct gguf_writer *w, const char *arch, const char *key, const int32_t *value, const struct model_config *c)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    if (model_config_uniform(c))
        gguf_put_u32(w, name, (uint32_t)value[0]);
    else
        gguf_put_i32s(w, name, value, (size_t)c->num_hidden_layers);
}

/* llama.cpp's number for a file whose matrices are mostly in this format. */
static uint32_t file_type(const struct source *s)
{
    switch (format_for(s, &s->model->layer[0].linear[LINEAR_GATE], false)) {
    case FORMAT_F32: return 0;
    case FORMAT_Q4_0: return 2;
    case FORMAT_Q4_1: return 3;
    case FORMAT_Q8_0: return 7;
    case FORMAT_Q5_0: return 8;
    case FORMAT_Q5_1: return 9;
    case FORMAT_Q2_K: return 10;
    case FORMAT_Q3_K: return 12;
    case FORMAT_Q4_K: return 15;
    case FORMAT_Q5_K: return 17;
    case FORMAT_Q6_K: return 18;
    case FORMAT_IQ4_NL: return 25;
    case FORMAT_IQ4_XS: return 30;
    case FORMAT_BF16: return 32;
    default: return 1;
    }
}

static void put_keys(struct gguf_writer *w, const struct source *s, const char *name)
{
    const struct model *model = s->model;
    const struct model_config *c = &model->config;
    const char *arch = export_gguf_architecture(c);
    gguf_put_string(w, "general.architecture", arch);
    gguf_put_string(w, "general.type", "model");
    gguf_put_string(w, "general.name", name);
    gguf_put_u32(w, "general.file_type", file_type(s));
    gguf_put_u32(w, "general.quantization_version", 2);
    put_u32(w, arch, "vocab_size", (uint32_t)c->vocab_size);
    put_u32(w, arch, "context_length", (uint32_t)c->max_position_embeddings);
    put_u32(w, arch, "embedding_length", (uint32_t)c->hidden_size);
    put_u32(w, arch, "block_count", (uint32_t)c->num_hidden_layers);
    put_widths(w, arch, "feed_forward_length", c->intermediate_size, c);
    put_widths(w, arch, "attention.head_count", c->num_attention_heads, c);
    put_widths(w, arch, "attention.head_count_kv", c->num_key_value_heads, c);
    put_u32(w, arch, "attention.key_length", (uint32_t)c->head_dim);
    put_u32(w, arch, "attention.value_length", (uint32_t)c->head_dim);
    put_f32(w, arch, "attention.layer_norm_rms_epsilon", (double)c->rms_norm_eps);
    put_u32(w, arch, "rope.dimension_count", (uint32_t)c->head_dim);
    put_f32(w, arch, "rope.freq_base", c->rope_theta);
    if (c->rope_type == ROPE_LINEAR || c->rope_type == ROPE_YARN)
        put_scaling(w, arch, c);
}

static size_t largest(const struct model *m)
{
    size_t most = m->embed.rows * m->embed.cols;
    for (int l = 0; l < m->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            size_t n = m->layer[l].linear[j].rows * m->layer[l].linear[j].cols;
            most = n > most ? n : most;
        }
    return most;
}

static enum status write_model(const char *path, struct source s, const struct tokenizer *tokenizer, const char *name, struct err *err)
{
    const struct model *model = s.model;
    struct gguf_writer w = {0};
    size_t n = largest(model);
    TRY(export_gguf_tokenizer(tokenizer, err));
    TRY(export_gguf_rope(&model->config, err));
    s.temp = malloc(n * sizeof(real));
    enum status status = s.temp ? OK : err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu elements", n);
    put_keys(&w, &s, name);
    put_tokenizer(&w, tokenizer, model->config.vocab_size);
    if (status == OK)
        status = rope_divisors(&s, err);
    if (status == OK)
        status = put_tensors(&w, &s, err);
    if (status == OK)
        status = gguf_write(&w, path, emit, &s, err);
    gguf_writer_free(&w);
    free(s.temp);
    free(s.rope_freqs);
    return status;
}

enum status export_gguf(const char *path, const struct model *model, const struct lora *lora, const struct tokenizer *tokenizer,
                        const char *name, struct err *err)
{
    return write_model(path, (struct source){.model = model, .lora = lora}, tokenizer, name, err);
}

enum status export_gguf_stored(const char *path, const struct model *model, const struct tokenizer *tokenizer, const char *name, struct err *err)
{
    return write_model(path, (struct source){.model = model, .stored = true}, tokenizer, name, err);
}

enum status export_vocabulary(const char *path, const struct tokenizer *tokenizer, struct err *err)
{
    struct gguf_writer w = {0};
    TRY(export_gguf_tokenizer(tokenizer, err));
    gguf_put_string(&w, "general.architecture", "llama");
    gguf_put_string(&w, "general.type", "vocab");
    put_tokenizer(&w, tokenizer, 0);
    enum status status = gguf_write(&w, path, NULL, NULL, err);
    gguf_writer_free(&w);
    return status;
}
