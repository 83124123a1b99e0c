/* export_folder.c: the model/ folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/stop.h"
#include "export.h"
#include "io/safetensors.h"
#include "quant_affine.h"
#include "quant_panel.h"

/* A tensor to be written: bytes as they are, or reals that are rounded on the way. */
struct part {
    char name[128];
    struct st_item item;
    const void *bytes; /* as they are */
    const real *reals; /* to be written as item.dtype */
    const struct qmat *decode; /* to be decoded to F32 */
    const struct qmat *panels; /* to be written in the layout of files: its scales when `scales`, else its codes */
    bool scales;
    char *owned;       /* text that lives as long as the list */
};

struct parts {
    struct part *part;
    size_t n, cap;
    enum st_dtype dtype;
    struct err *err;
};

static struct part *add(struct parts *parts, const char *name, const char *suffix, enum st_dtype dtype, int n_dims, uint64_t d0, uint64_t d1)
{
    if (parts->n == parts->cap) {
        size_t cap = parts->cap ? 2 * parts->cap : 256;
        struct part *grown = realloc(parts->part, cap * sizeof *grown);
        if (!grown)
            return NULL;
        parts->part = grown;
        parts->cap = cap;
    }
    struct part *p = &parts->part[parts->n];
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    p->item = (struct st_item){.dtype = dtype, .n_dims = n_dims, .dim = {d0, d1}, .id = parts->n};
    parts->n++;
    return p;
}

static enum status no_memory(const struct parts *parts)
{
    return err_set(parts->err, ERR_MEMORY, "out of memory for the list of tensors");
}

static enum status add_bytes(struct parts *parts, const char *name, const char *suffix, enum st_dtype dtype, int n_dims, uint64_t d0,
                             uint64_t d1, const void *bytes)
{
    struct part *p = add(parts, name, suffix, dtype, n_dims, d0, d1);
    if (!p)
        return no_memory(parts);
    p->bytes = bytes;
    return OK;
}

static enum status add_reals(struct parts *parts, const char *name, int n_dims, uint64_t d0, uint64_t d1, const real *reals)
{
    struct part *p = add(parts, name, "", parts->dtype, n_dims, d0, d1);
    if (!p)
        return no_memory(parts);
    p->reals = reals;
    return OK;
}

/* ---- one matrix in its format ---- */

/* The codes of q, or its scales; from panels they are laid out as in files when they are written. */
static enum status add_stored(struct parts *parts, const char *name, const char *suffix, enum st_dtype dtype, int n_dims, uint64_t d0,
                              uint64_t d1, const struct qmat *q, bool scales)
{
    struct part *p = add(parts, name, suffix, dtype, n_dims, d0, d1);
    if (!p)
        return no_memory(parts);
    if (q->panels) {
        p->panels = q;
        p->scales = scales;
    } else
        p->bytes = scales ? q->scales : q->codes;
    return OK;
}

/* bitsandbytes' description of a packed weight. */
static enum status add_quant_state(struct parts *parts, const char *name, const struct qmat *q)
{
    const char *type = format_info(q->format)->name;
    struct text text = {0};
    char suffix[64];
    text_printf(&text, "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"float32\", \"shape\": [%zu, %zu]", type, q->block, q->rows,
                q->cols);
    if (q->double_quant)
        text_printf(&text, ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": %.9g", (double)q->nested_offset);
    text_puts(&text, "}");
    snprintf(suffix, sizeof suffix, ".quant_state.bitsandbytes__%s", type);
    struct part *p = text.failed ? NULL : add(parts, name, suffix, ST_U8, 1, text.n, 0);
    if (!p) {
        text_free(&text);
        return no_memory(parts);
    }
    p->owned = text.s;
    p->bytes = text.s;
    return OK;
}

static enum status add_nibbles(struct parts *parts, const char *name, const struct qmat *q)
{
    uint64_t n = q->rows * q->cols, blocks = (n + (uint64_t)q->block - 1) / (uint64_t)q->block;
    const float *table = q->format == FORMAT_NF4 ? quant_nf4_table : quant_fp4_table;
    TRY(add_stored(parts, name, "", ST_U8, 2, (n + 1) / 2, 1, q, false));
    TRY(add_bytes(parts, name, ".quant_map", ST_F32, 1, 16, 0, table));
    if (q->double_quant) {
        TRY(add_bytes(parts, name, ".absmax", ST_U8, 1, blocks, 0, q->scale_codes));
        TRY(add_bytes(parts, name, ".nested_absmax", ST_F32, 1, (blocks + 255) / 256, 0, q->nested_absmax));
        TRY(add_bytes(parts, name, ".nested_quant_map", ST_F32, 1, 256, 0, quant_dynamic_table(true)));
    } else {
        TRY(add_stored(parts, name, ".absmax", ST_F32, 1, blocks, 0, q, true));
    }
    return add_quant_state(parts, name, q);
}

static enum status add_int8(struct parts *parts, const char *name, const struct qmat *q)
{
    static const uint8_t row_format = 0;
    char module[96];
    snprintf(module, sizeof module, "%s", name);
    module[strlen(module) - strlen(".weight")] = 0;
    TRY(add_stored(parts, name, "", ST_I8, 2, q->rows, q->cols, q, false));
    TRY(add_stored(parts, module, ".SCB", ST_F32, 1, q->rows, 0, q, true));
    return add_bytes(parts, module, ".weight_format", ST_U8, 0, 0, 0, &row_format);
}

/* Decoded.  Affine groups bring their scales and zeros along: fitted again they would be others, with them the codes come back. */
static enum status add_decoded(struct parts *parts, const char *name, const struct qmat *q)
{
    char suffix[16];
    struct part *p = add(parts, name, "", ST_F32, 2, q->rows, q->cols);
    if (!p)
        return no_memory(parts);
    p->decode = q;
    snprintf(suffix, sizeof suffix, ".%s", format_info(q->format)->name);
    return q->affine ? add_bytes(parts, name, suffix, ST_F16, 2, quant_affine_groups(q->rows * q->cols), 2, q->affine) : OK;
}

static enum status add_matrix(struct parts *parts, const char *name, const struct qmat *q)
{
    switch (q->format) {
    case FORMAT_NF4:
    case FORMAT_FP4:
        return add_nibbles(parts, name, q);
    case FORMAT_INT8:
        return add_int8(parts, name, q);
    case FORMAT_F32:
        return add_reals(parts, name, 2, q->rows, q->cols, q->codes);
    case FORMAT_BF16:
        return add_bytes(parts, name, "", ST_BF16, 2, q->rows, q->cols, q->codes);
    case FORMAT_F16:
        return add_bytes(parts, name, "", ST_F16, 2, q->rows, q->cols, q->codes);
    default: /* decoded without loss, so that encoding again gives the same codes */
        return add_decoded(parts, name, q);
    }
}

static enum status add_layer(struct parts *parts, const struct model *model, int l)
{
    const struct model_layer *layer = &model->layer[l];
    uint64_t C = (uint64_t)model->config.hidden_size;
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
    TRY(add_reals(parts, name, 1, C, 0, layer->input_norm));
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
    TRY(add_reals(parts, name, 1, C, 0, layer->post_norm));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, linear_name[j]);
        TRY(add_matrix(parts, name, &layer->linear[j]));
        snprintf(name, sizeof name, "model.layers.%d.%s.bias", l, linear_name[j]);
        if (layer->bias[j])
            TRY(add_reals(parts, name, 1, layer->linear[j].rows, 0, layer->bias[j]));
    }
    return OK;
}

static enum status add_model(struct parts *parts, const struct model *model)
{
    TRY(add_matrix(parts, "model.embed_tokens.weight", &model->embed));
    for (int l = 0; l < model->plan.n_layers; l++)
        TRY(add_layer(parts, model, l));
    TRY(add_reals(parts, "model.norm.weight", 1, (uint64_t)model->config.hidden_size, 0, model->norm));
    return model->config.tie_word_embeddings ? OK : add_matrix(parts, "lm_head.weight", &model->head);
}

/* ---- writing ---- */

static enum status put_reals(const real *x, size_t n, enum st_dtype dtype, struct st_sink *sink, struct err *err)
{
    enum { CHUNK = 4096 };
    uint16_t half[CHUNK];
    float whole[CHUNK];
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t k = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < k; i++) {
            whole[i] = (float)x[at + i];
            half[i] = dtype == ST_BF16 ? bf16_from_f32(whole[i]) : f16_from_f32(whole[i]);
        }
        if (dtype == ST_F32)
            TRY(st_put(sink, whole, k * sizeof *whole, err));
        else
            TRY(st_put(sink, half, k * sizeof *half, err));
    }
    return OK;
}

static enum status put_decoded(const struct qmat *q, struct st_sink *sink, struct err *err)
{
    real *row = malloc(q->cols * sizeof *row);
    enum status status = row ? OK : err_set(err, ERR_MEMORY, "out of memory for a row");
    for (size_t r = 0; status == OK && r < q->rows; r++) {
        quant_decode_rows(q, r, 1, row);
        status = put_reals(row, q->cols, ST_F32, sink, err);
    }
    free(row);
    return status;
}

/* One matrix at a time is copied and turned back. */
static enum status put_from_panels(const struct part *part, struct st_sink *sink, struct err *err)
{
    const struct qmat *q = part->panels;
    struct arena arena = {0};
    struct qmat file;
    quant_place(&file, q->format, q->block, q->double_quant, q->rows, q->cols, &arena);
    TRY(arena_commit(&arena, part->name, err));
    quant_place(&file, q->format, q->block, q->double_quant, q->rows, q->cols, &arena);
    bool nibbles = q->format == FORMAT_NF4 || q->format == FORMAT_FP4;
    size_t n = q->rows * q->cols, scales = nibbles ? (n + (size_t)q->block - 1) / (size_t)q->block : q->rows;
    size_t codes = nibbles ? (n + 1) / 2 : n;
    quant_copy(&file, q);
    enum status status = quant_from_panels(&file, err);
    if (status == OK)
        status = part->scales ? st_put(sink, file.scales, scales * sizeof *file.scales, err) : st_put(sink, file.codes, codes, err);
    arena_free(&arena);
    return status;
}

static enum status emit(void *user, const struct st_item *item, struct st_sink *sink, struct err *err)
{
    const struct part *p = &((const struct parts *)user)->part[item->id];
    TRY(stop_check(err));
    if (p->decode)
        return put_decoded(p->decode, sink, err);
    if (p->panels)
        return put_from_panels(p, sink, err);
    size_t n = 1;
    for (int d = 0; d < item->n_dims; d++)
        n *= (size_t)item->dim[d];
    return put_reals(p->reals, n, item->dtype, sink, err);
}

static enum status write_weights(const char *path, struct parts *parts)
{
    struct st_item *items = malloc(parts->n * sizeof *items);
    if (!items)
        return no_memory(parts);
    for (size_t i = 0; i < parts->n; i++) {
        items[i] = parts->part[i].item;
        items[i].name = parts->part[i].name; /* the list no longer moves */
        items[i].data = parts->part[i].bytes;
    }
    enum status status = safetensors_write(path, items, parts->n, NULL, emit, parts, parts->err);
    free(items);
    return status;
}

static enum status write_named(const char *dir, const char *name, const void *bytes, size_t n, struct err *err)
{
    char *path = path_join(dir, name);
    if (!path)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = file_write(path, bytes, n, err);
    free(path);
    return status;
}

static enum status write_text(const char *dir, const char *name, struct text *text, struct err *err)
{
    enum status status = text->failed ? err_set(err, ERR_MEMORY, "out of memory for %s", name) : write_named(dir, name, text->s, text->n, err);
    text_free(text);
    return status;
}

/* Whether add_matrix writes codes; else it writes floats, whatever the format. */
static bool is_packed(enum format format)
{
    return format == FORMAT_NF4 || format == FORMAT_FP4 || format == FORMAT_INT8;
}

/* transformers' switch for the packed weights; 8-bit and 4-bit cannot be mixed there, so it is written only when it tells the truth. */
static void quantization_config(const struct model *model, struct text *out)
{
    bool floats = !is_packed(model->embed.format) && !is_packed(model->head.format); /* packed ones are unknown there */
    bool all_nf4 = floats, all_int8 = floats;
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            all_nf4 = all_nf4 && model->layer[l].linear[j].format == FORMAT_NF4;
            all_int8 = all_int8 && model->layer[l].linear[j].format == FORMAT_INT8;
        }
    if (!all_nf4 && !all_int8)
        return;
    text_printf(out,
                "\"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": %s, \"load_in_8bit\": %s, "
                "\"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": %s, \"bnb_4bit_compute_dtype\": \"float32\", "
                "\"bnb_4bit_quant_storage\": \"uint8\", \"llm_int8_threshold\": 6.0, \"llm_int8_skip_modules\": [\"lm_head\"]}",
                all_nf4 ? "true" : "false", all_int8 ? "true" : "false",
                all_nf4 && model->layer[0].linear[0].double_quant ? "true" : "false");
}

/* Ids that the model has; transformers takes one id or a list. */
static void print_generation(const struct model_config *c, struct text *out)
{
    text_puts(out, "{");
    if (c->bos_token_id >= 0)
        text_printf(out, "\"bos_token_id\": %d%s", c->bos_token_id, c->n_eos ? ", " : "");
    for (int32_t i = 0; i < c->n_eos; i++)
        text_printf(out, "%s%d", i ? ", " : c->n_eos > 1 ? "\"eos_token_id\": [" : "\"eos_token_id\": ", c->eos_token_id[i]);
    text_puts(out, c->n_eos > 1 ? "]}\n" : "}\n");
}

/* The formats in which the folder can be read back: superblocks, which have no encoder, are F32 in it from now on. */
static enum status print_formats(const struct plan *plan, struct text *out, struct err *err)
{
    struct plan held;
    TRY(plan_copy(&held, plan, err));
    for (int l = 0; l < held.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct plan_linear *p = &held.layer[l].linear[j];
            if (format_info(p->format)->read_only)
                *p = (struct plan_linear){.format = FORMAT_F32, .rank = p->rank, .alpha = p->alpha};
        }
    plan_print(&held, out);
    plan_free(&held);
    return OK;
}

static enum status write_configs(const char *dir, const struct model *model, const char *dtype, struct err *err)
{
    struct text plan = {0}, generation = {0}, config = {0}, extra = {0};
    const struct model_config *c = &model->config;
    TRY(print_formats(&model->plan, &plan, err));
    TRY(write_text(dir, "plan.txt", &plan, err));
    print_generation(c, &generation);
    TRY(write_text(dir, "generation_config.json", &generation, err));
    quantization_config(model, &extra);
    const char *torch = strcmp(dtype, "bf16") == 0 ? "bfloat16" : strcmp(dtype, "f16") == 0 ? "float16" : "float32";
    model_config_print(c, torch, extra.n ? extra.s : NULL, &config);
    text_free(&extra);
    return write_text(dir, "config.json", &config, err);
}

enum status export_folder(const char *dir, const struct model *model, const struct tokenizer *tokenizer, const char *tokenizer_from,
                          const char *dtype, struct err *err)
{
    struct parts parts = {.err = err};
    parts.dtype = strcmp(dtype, "bf16") == 0 ? ST_BF16 : strcmp(dtype, "f16") == 0 ? ST_F16 : ST_F32;
    TRY(dir_make(dir, err));
    char *weights = path_join(dir, "model.safetensors");
    enum status status = weights ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK)
        status = add_model(&parts, model);
    if (status == OK)
        status = write_weights(weights, &parts);
    if (status == OK)
        status = export_tokenizer(dir, tokenizer, tokenizer_from, model->config.max_position_embeddings, err);
    for (size_t i = 0; i < parts.n; i++)
        free(parts.part[i].owned);
    free(parts.part);
    free(weights);
    return status == OK ? write_configs(dir, model, dtype, err) : status;
}
