/* checkpoint_folder.c: a Hugging Face folder: config.json, safetensors, tokenizer; weights as floats or as bitsandbytes packs them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/checkpoint_private.h"
#include "io/json.h"
#include "quant_affine.h"

/* ---- names beside a weight ---- */

static const struct st_tensor *beside(const struct checkpoint *c, const char *name, const char *suffix)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    return safetensors_find(&c->st, full);
}

/* "x.weight" -> "x.SCB" */
static const struct st_tensor *row_scales(const struct checkpoint *c, const char *name)
{
    char full[160];
    size_t n = strlen(name);
    if (n < 7 || n > 140 || strcmp(name + n - 7, ".weight") != 0)
        return NULL;
    snprintf(full, sizeof full, "%.*s.SCB", (int)(n - 7), name);
    return safetensors_find(&c->st, full);
}

static const struct st_tensor *quant_state(const struct checkpoint *c, const char *name, enum format *format)
{
    const struct st_tensor *t = beside(c, name, ".quant_state.bitsandbytes__nf4");
    *format = t ? FORMAT_NF4 : FORMAT_FP4;
    return t ? t : beside(c, name, ".quant_state.bitsandbytes__fp4");
}

/* Scales and zeros of affine groups. */
static const struct st_tensor *affine_pairs(const struct checkpoint *c, const char *name, enum format *format)
{
    char suffix[16];
    const struct st_tensor *t = NULL;
    for (int f = FORMAT_HQQ2; !t && f <= FORMAT_HQQ4; f++) {
        *format = (enum format)f;
        snprintf(suffix, sizeof suffix, ".%s", format_info(*format)->name);
        t = beside(c, name, suffix);
    }
    return t;
}

static bool has(const struct checkpoint *c, const char *name)
{
    return safetensors_find(&c->st, name) != NULL;
}

/* ---- formats ---- */

struct state {
    int64_t block, rows, cols;
    bool nested;
    double offset;
};

static enum status read_state(const struct checkpoint *c, const struct st_tensor *t, struct state *s, struct err *err)
{
    char text[1024];
    struct json *json;
    const struct json *shape;
    if (t->bytes >= sizeof text)
        return err_set(err, ERR_INPUT, "%s: %s has %llu bytes, want less than 1024", c->path, t->name, (unsigned long long)t->bytes);
    TRY(safetensors_read(&c->st, t, 0, text, (size_t)t->bytes, err));
    TRY(json_parse(text, (size_t)t->bytes, t->name, &json, err));
    const char *type = "", *suffix = t->name + strlen(t->name) - 3; /* the name ends in nf4 or fp4 */
    enum status status = json_string(json, "quant_type", t->name, &type, err);
    if (status == OK && strcmp(type, suffix) != 0)
        status = err_set(err, ERR_INPUT, "%s: %s.quant_type: got %.20s, want %s", c->path, t->name, type, suffix);
    if (status == OK)
        status = json_int(json, "blocksize", t->name, 32, 4096, &s->block, err);
    if (status == OK)
        status = json_array(json, "shape", t->name, &shape, err);
    if (status == OK && json_size(shape) != 2)
        status = err_set(err, ERR_INPUT, "%s: %s.shape has %zu numbers, want 2", c->path, t->name, json_size(shape));
    if (status == OK)
        status = json_as_int(json_at(shape, 0), t->name, 1, 1 << 30, &s->rows, err);
    if (status == OK)
        status = json_as_int(json_at(shape, 1), t->name, 1, 1 << 30, &s->cols, err);
    s->nested = json_member(json, "nested_offset") != NULL;
    if (status == OK)
        status = json_number_or(json, "nested_offset", t->name, 0, &s->offset, err);
    json_free(json);
    return status;
}

static enum status float_format(const struct checkpoint *c, const struct st_tensor *t, enum format *format, struct err *err)
{
    switch (t->dtype) {
    case ST_F64:
    case ST_F32:
        *format = FORMAT_F32;
        return OK;
    case ST_F16:
        *format = FORMAT_F16;
        return OK;
    case ST_BF16:
        *format = FORMAT_BF16;
        return OK;
    default:
        return err_set(err, ERR_INPUT, "%s: %s is stored as %s, want F32, F16, BF16 or bitsandbytes' nf4, fp4, int8", c->path, t->name,
                       st_dtype_name(t->dtype));
    }
}

/* A tensor that belongs to a packed weight: there, of this dtype and length. */
static enum status want_part(const struct checkpoint *c, const struct st_tensor *t, const char *name, const char *what,
                             enum st_dtype dtype, size_t n, struct err *err)
{
    if (t && t->dtype == dtype && t->elements == n)
        return OK;
    if (!t)
        return err_set(err, ERR_INPUT, "%s: %s has no %s, want %zu elements of %s", c->path, name, what, n, st_dtype_name(dtype));
    return err_set(err, ERR_INPUT, "%s: %s has %llu elements of %s, want %zu of %s", c->path, t->name,
                   (unsigned long long)t->elements, st_dtype_name(t->dtype), n, st_dtype_name(dtype));
}

/* All that a 4-bit weight needs beside its codes, before a byte of them is read. */
static enum status nibbles_format(const struct checkpoint *c, const char *name, const struct st_tensor *t, const struct state *s,
                                  struct qmat *q, struct err *err)
{
    size_t n = (size_t)s->rows * (size_t)s->cols; /* each at most 2^30 */
    size_t blocks = (n + (size_t)s->block - 1) / (size_t)s->block;
    q->block = (int32_t)s->block;
    q->double_quant = s->nested;
    q->rows = (size_t)s->rows;
    q->cols = (size_t)s->cols;
    if (quant_check(q->format, q->block, q->rows, q->cols, err) != OK)
        return err_prefix(err, ERR_INPUT, "%s: %s", c->path, name);
    TRY(want_part(c, t, name, "codes", ST_U8, (n + 1) / 2, err));
    TRY(want_part(c, beside(c, name, ".absmax"), name, "absmax", s->nested ? ST_U8 : ST_F32, blocks, err));
    return s->nested ? want_part(c, beside(c, name, ".nested_absmax"), name, "nested_absmax", ST_F32, (blocks + 255) / 256, err) : OK;
}

/* int8 rows: a scale each, and codes in plain order (weight_format 0) where the file says which. */
static enum status int8_format(const struct checkpoint *c, const char *name, const struct qmat *q, struct err *err)
{
    const struct st_tensor *order = beside(c, name, "_format");
    uint8_t code = 0;
    TRY(want_part(c, row_scales(c, name), name, "SCB", ST_F32, q->rows, err));
    if (!order)
        return OK;
    TRY(want_part(c, order, name, "weight_format", ST_U8, 1, err));
    TRY(safetensors_read(&c->st, order, 0, &code, 1, err));
    return code == 0 ? OK : err_set(err, ERR_INPUT, "%s: %s: got %d, want 0 (plain rows)", c->path, order->name, code);
}

static enum status format_of(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    const struct st_tensor *t = safetensors_find(&c->st, name);
    enum format packed;
    const struct st_tensor *state = quant_state(c, name, &packed);
    memset(q, 0, sizeof *q);
    if (state) {
        struct state s;
        TRY(read_state(c, state, &s, err));
        q->format = packed;
        return nibbles_format(c, name, t, &s, q, err);
    }
    if (t->n_dims < 1 || t->n_dims > 2)
        return err_set(err, ERR_INPUT, "%s: %s has %d dimensions, want 1 or 2", c->path, name, t->n_dims);
    q->rows = t->n_dims == 2 ? (size_t)t->dim[0] : 1;
    q->cols = (size_t)t->dim[t->n_dims - 1];
    if (t->dtype == ST_I8 && row_scales(c, name)) {
        q->format = FORMAT_INT8;
        return int8_format(c, name, q, err);
    }
    const struct st_tensor *pairs = affine_pairs(c, name, &packed);
    if (pairs && t->dtype == ST_F32) {
        q->format = packed;
        q->block = AFFINE_GROUP;
        return want_part(c, pairs, name, "scales", ST_F16, 2 * quant_affine_groups(q->rows * q->cols), err);
    }
    return float_format(c, t, &q->format, err);
}

/* ---- codes ---- */

static enum status read_part(const struct checkpoint *c, const struct st_tensor *t, const char *what, enum st_dtype dtype, void *dst, size_t n,
                             struct err *err)
{
    TRY(want_part(c, t, what, "scales", dtype, n, err));
    return safetensors_read(&c->st, t, 0, dst, (size_t)t->bytes, err);
}

static enum status check_scales(const struct checkpoint *c, const char *name, const float *s, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!(s[i] >= 0) || isinf(s[i]))
            return err_set(err, ERR_INPUT, "%s: scale %zu of %s is %g, want a finite one that is not negative", c->path, i, name, (double)s[i]);
    return OK;
}

/* A code book in the file must be the one that is built in: another one would mean other weights. */
static enum status check_book(const struct checkpoint *c, const struct st_tensor *t, const float *book, size_t n, struct err *err)
{
    float stored[256];
    if (!t)
        return OK;
    TRY(want_part(c, t, t->name, "code book", ST_F32, n, err));
    TRY(safetensors_read(&c->st, t, 0, stored, n * sizeof *stored, err));
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(stored[i] - book[i]) <= 1e-6f)) /* versions of the library round the book differently */
            return err_set(err, ERR_INPUT, "%s: %s[%zu]: got %.7g, want %.7g", c->path, t->name, i, (double)stored[i],
                           (double)book[i]);
    return OK;
}

static enum status read_nibbles(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    size_t n = q->rows * q->cols, blocks = (n + (size_t)q->block - 1) / (size_t)q->block, nested = (blocks + 255) / 256;
    enum format packed;
    struct state s;
    TRY(read_state(c, quant_state(c, name, &packed), &s, err));
    TRY(check_book(c, beside(c, name, ".quant_map"), packed == FORMAT_NF4 ? quant_nf4_table : quant_fp4_table, 16, err));
    TRY(check_book(c, beside(c, name, ".nested_quant_map"), quant_dynamic_table(true), 256, err));
    TRY(read_part(c, safetensors_find(&c->st, name), name, ST_U8, q->codes, (n + 1) / 2, err));
    if (!q->double_quant) {
        TRY(read_part(c, beside(c, name, ".absmax"), name, ST_F32, q->scales, blocks, err));
        return check_scales(c, name, q->scales, blocks, err);
    }
    q->nested_offset = (float)s.offset;
    TRY(read_part(c, beside(c, name, ".absmax"), name, ST_U8, q->scale_codes, blocks, err));
    TRY(read_part(c, beside(c, name, ".nested_absmax"), name, ST_F32, q->nested_absmax, nested, err));
    return check_scales(c, name, q->nested_absmax, nested, err);
}

/* The values are stored; each must be one that its group's scale and zero give. */
static enum status read_affine(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    enum { GROUPS = 32 };
    real x[GROUPS * AFFINE_GROUP], back[GROUPS * AFFINE_GROUP];
    enum format format;
    size_t n = q->rows * q->cols, groups = quant_affine_groups(n);
    const struct st_tensor *t = safetensors_find(&c->st, name), *pairs = affine_pairs(c, name, &format);
    TRY(read_part(c, pairs, name, ST_F16, q->affine, 2 * groups, err));
    if (!quant_affine_is_finite(q))
        return err_set(err, ERR_INPUT, "%s: %s holds a scale or a zero that is not finite", c->path, pairs->name);
    for (size_t group = 0; group < groups; group += GROUPS) {
        size_t first = group * AFFINE_GROUP, k = n - first < GROUPS * AFFINE_GROUP ? n - first : GROUPS * AFFINE_GROUP;
        TRY(safetensors_read_real(&c->st, t, first, k, x, err));
        for (size_t g = 0; g < GROUPS && group + g < groups; g++)
            quant_affine_round(q, group + g, x + g * AFFINE_GROUP);
        quant_affine_decode(q, first, first + k, back);
        for (size_t i = 0; i < k; i++)
            if (!(back[i] == x[i]))
                return err_set(err, ERR_INPUT, "%s: %s[%zu] is %.9g, the nearest value of its group in %s is %.9g", c->path, name, first + i,
                               (double)x[i], pairs->name, (double)back[i]);
    }
    return OK;
}

static enum status read_codes(const struct checkpoint *c, const char *name, struct qmat *q, struct err *err)
{
    const struct st_tensor *t = safetensors_find(&c->st, name);
    switch (q->format) {
    case FORMAT_NF4:
    case FORMAT_FP4:
        return read_nibbles(c, name, q, err);
    case FORMAT_INT8:
        TRY(read_part(c, t, name, ST_I8, q->codes, q->rows * q->cols, err));
        TRY(read_part(c, row_scales(c, name), name, ST_F32, q->scales, q->rows, err));
        return check_scales(c, name, q->scales, q->rows, err);
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return read_affine(c, name, q, err);
    case FORMAT_F32: /* an F64 tensor too */
        return safetensors_read_real(&c->st, t, 0, q->rows * q->cols, q->codes, err);
    default:
        return read_part(c, t, name, q->format == FORMAT_F16 ? ST_F16 : ST_BF16, q->codes, q->rows * q->cols, err);
    }
}

static enum status read_reals(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err)
{
    struct qmat q;
    struct arena arena = {0};
    TRY(format_of(c, name, &q, err));
    if (format_is_float(q.format) || quant_affine_bits(q.format) > 0) /* stored as values */
        return safetensors_read_real(&c->st, safetensors_find(&c->st, name), 0, rows * cols, dst, err);
    struct qmat placed;
    quant_place(&placed, q.format, q.block, q.double_quant, rows, cols, &arena);
    TRY(arena_commit(&arena, name, err));
    quant_place(&placed, q.format, q.block, q.double_quant, rows, cols, &arena);
    enum status status = read_codes(c, name, &placed, err);
    if (status == OK)
        quant_decode_rows(&placed, 0, rows, dst);
    arena_free(&arena);
    return status;
}

/* ---- tokenizer ---- */

static char *file_in(const struct checkpoint *c, const char *name)
{
    char *path = path_join(c->path, name);
    if (path && access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static enum status own_file(struct checkpoint *c, const char *path, struct err *err)
{
    struct gguf *gguf;
    TRY(gguf_open(&gguf, path, err));
    enum status status = tokenizer_load_gguf(&c->own_tokenizer, gguf, err);
    gguf_close(gguf);
    return status == OK ? tokenizer_load_chat_template(c->own_tokenizer, path, err) : status;
}

static enum status json_file(struct checkpoint *c, const char *path, struct err *err)
{
    return tokenizer_load_json(&c->own_tokenizer, path, err);
}

static enum status model_file(struct checkpoint *c, const char *path, struct err *err)
{
    enum status status = tokenizer_load_sentencepiece(&c->own_tokenizer, path, err);
    if (status == ERR_INPUT) { /* Llama 3 calls its rank file by the same name */
        struct err second;
        if (tokenizer_load_tiktoken(&c->own_tokenizer, path, &second) == OK)
            status = OK;
    }
    return status == OK ? tokenizer_load_chat_template(c->own_tokenizer, path, err) : status;
}

/* tokenizer.gguf is our own, and says what the model was trained with; of the others the first is the one that transformers takes. */
static enum status tokenizer(struct checkpoint *c, struct err *err)
{
    static const struct {
        const char *name;
        enum status (*load)(struct checkpoint *c, const char *path, struct err *err);
    } known[] = {{"tokenizer.gguf", own_file}, {"tokenizer.json", json_file}, {"tokenizer.model", model_file}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char *path = file_in(c, known[i].name);
        if (!path)
            continue;
        enum status status = known[i].load(c, path, err);
        free(path);
        return status;
    }
    return err_set(err, ERR_INPUT, "%s: has no tokenizer.json, tokenizer.model or tokenizer.gguf", c->path);
}

static const struct checkpoint_ops folder_ops = {"safetensors", has, format_of, read_reals, read_codes, tokenizer};

/* ---- opening ---- */

static enum status read_text_file(const struct checkpoint *c, const char *name, char **text, size_t *n, struct err *err)
{
    char *path = path_join(c->path, name);
    if (!path)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = file_read(path, 1 << 26, text, n, err);
    free(path);
    return status;
}

static enum status open_weights(struct checkpoint *c, struct err *err)
{
    char *index = file_in(c, "model.safetensors.index.json");
    free(index);
    if (index)
        return safetensors_open_index(&c->st, c->path, "model.safetensors.index.json", err);
    char *weights = path_join(c->path, "model.safetensors");
    enum status status = weights ? safetensors_open(&c->st, weights, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    free(weights);
    return status;
}

static bool has_weights(const struct checkpoint *c)
{
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
    bool any = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = path_join(c->path, names[i]);
        any = any || !path || access(path, F_OK) == 0;
        free(path);
    }
    return any;
}

static enum status read_config(struct checkpoint *c, bool weights, struct err *err)
{
    char *text;
    size_t n;
    TRY(read_text_file(c, "config.json", &text, &n, err));
    char *where = path_join(c->path, "config.json");
    enum status status = where ? model_config_parse(&c->config, text, n, where, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK && !weights && !c->shapes_do)
        status = err_set(err, ERR_INPUT, "%s: holds config.json and no weights, want model.safetensors beside it (train --plan needs none)", c->path);
    if (status == OK && !weights)
        status = checkpoint_take_shapes(c, text, n, where, err);
    free(where);
    free(text);
    return status;
}

enum status checkpoint_open_folder(struct checkpoint *c, struct err *err)
{
    size_t n;
    bool weights = has_weights(c);
    c->ops = &folder_ops;
    TRY(read_config(c, weights, err));
    if (!weights)
        return OK;
    TRY(open_weights(c, err));
    char *plan = file_in(c, "plan.txt");
    enum status status = plan ? file_read(plan, 1 << 24, &c->plan, &n, err) : OK;
    free(plan);
    return status;
}
