/* gguf.c: the header of a GGUF, read once and believed in nothing.
 *
 * The header's length is not written anywhere, so it is loaded as far as the walk has come.  Every length is compared with what
 * is left of the file before it is used, every product and sum is checked, every count before it becomes memory. */
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/size.h"
#include "io/gguf_private.h"
#include "io/json.h"

/* ---- tables ---- */

static const struct ggml_type_row types[] = {
    [0] = {"F32", 1, 4, FORMAT_F32},            [1] = {"F16", 1, 2, FORMAT_F16},            [2] = {"Q4_0", 32, 18, FORMAT_Q4_0},
    [3] = {"Q4_1", 32, 20, FORMAT_Q4_1},        [6] = {"Q5_0", 32, 22, FORMAT_Q5_0},        [7] = {"Q5_1", 32, 24, FORMAT_Q5_1},
    [8] = {"Q8_0", 32, 34, FORMAT_Q8_0},        [9] = {"Q8_1", 32, 36, -1},                 [10] = {"Q2_K", 256, 84, FORMAT_Q2_K},
    [11] = {"Q3_K", 256, 110, FORMAT_Q3_K},     [12] = {"Q4_K", 256, 144, FORMAT_Q4_K},     [13] = {"Q5_K", 256, 176, FORMAT_Q5_K},
    [14] = {"Q6_K", 256, 210, FORMAT_Q6_K},     [15] = {"Q8_K", 256, 292, -1},              [16] = {"IQ2_XXS", 256, 66, -1},
    [17] = {"IQ2_XS", 256, 74, -1},             [18] = {"IQ3_XXS", 256, 98, -1},            [19] = {"IQ1_S", 256, 50, -1},
    [20] = {"IQ4_NL", 32, 18, FORMAT_IQ4_NL},   [21] = {"IQ3_S", 256, 110, -1},             [22] = {"IQ2_S", 256, 82, -1},
    [23] = {"IQ4_XS", 256, 136, FORMAT_IQ4_XS}, [24] = {"I8", 1, 1, -1},                    [25] = {"I16", 1, 2, -1},
    [26] = {"I32", 1, 4, -1},                   [27] = {"I64", 1, 8, -1},                   [28] = {"F64", 1, 8, -1},
    [29] = {"IQ1_M", 256, 56, -1},              [30] = {"BF16", 1, 2, FORMAT_BF16},         [34] = {"TQ1_0", 256, 54, -1},
    [35] = {"TQ2_0", 256, 66, -1},              [39] = {"MXFP4", 32, 17, -1},
};

const struct ggml_type_row *ggml_type_row(uint32_t type)
{
    return type < sizeof types / sizeof *types && types[type].block ? &types[type] : NULL;
}

const char *gguf_type_name(uint32_t ggml_type)
{
    const struct ggml_type_row *row = ggml_type_row(ggml_type);
    return row ? row->name : "?";
}

size_t gguf_type_bytes(enum gguf_type type)
{
    static const uint8_t bytes[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[type];
}

/* ---- a cursor that knows where the file ends ---- */

struct cursor {
    struct gguf *g;
    uint64_t at;
    struct err *err;
};

#define BAD(c, format, ...)                                                                                     \
    err_set((c)->err, ERR_INPUT, "%s: at byte %llu: " format, (c)->g->file.path, (unsigned long long)(c)->at, __VA_ARGS__)

typedef unsigned long long ull;

/* The next n bytes are there and loaded. */
static enum status need(struct cursor *c, uint64_t n, const char *what)
{
    struct gguf *g = c->g;
    if (n > g->file.size - c->at)
        return BAD(c, "%s: got %llu bytes, the file has %llu more", what, (ull)n, (ull)(g->file.size - c->at));
    if (n > GGUF_MAX_HEADER || c->at > GGUF_MAX_HEADER - n)
        return BAD(c, "%s: the header is longer than %d bytes", what, GGUF_MAX_HEADER);
    uint64_t end = c->at + n;
    if (end <= g->loaded)
        return OK;
    uint64_t want = g->loaded < 32768 ? 65536 : 2 * g->loaded;
    want = want < end ? end : want;
    want = want > g->file.size ? g->file.size : want;
    unsigned char *grown = realloc(g->header, (size_t)want);
    if (!grown)
        return err_set(c->err, ERR_MEMORY, "%s: no memory for a header of %llu bytes", g->file.path, (ull)want);
    g->header = grown;
    TRY(file_pread(&g->file, g->loaded, grown + g->loaded, (size_t)(want - g->loaded), c->err));
    g->loaded = want;
    return OK;
}

static enum status read_u32(struct cursor *c, const char *what, uint32_t *out)
{
    TRY(need(c, 4, what));
    memcpy(out, c->g->header + c->at, 4);
    c->at += 4;
    return OK;
}

static enum status read_u64(struct cursor *c, const char *what, uint64_t *out)
{
    TRY(need(c, 8, what));
    memcpy(out, c->g->header + c->at, 8);
    c->at += 8;
    return OK;
}

/* A length and that many bytes: *start, *n say where they are. */
static enum status read_string(struct cursor *c, const char *what, uint64_t *start, uint64_t *n)
{
    TRY(read_u64(c, what, n));
    if (*n > GGUF_MAX_STRING)
        return BAD(c, "%s: a string of %llu bytes, want at most %d", what, (ull)*n, GGUF_MAX_STRING);
    TRY(need(c, *n, what));
    *start = c->at;
    c->at += *n;
    return OK;
}

static enum status read_name(struct cursor *c, const char *what, uint64_t most, uint64_t *start, uint64_t *n)
{
    TRY(read_string(c, what, start, n));
    if (*n < 1 || *n > most)
        return BAD(c, "%s: %llu bytes long, want 1 to %llu", what, (ull)*n, (ull)most);
    if (!utf8_is_name((const char *)c->g->header + *start, (size_t)*n))
        return BAD(c, "%s: is not UTF-8 or holds a NUL", what);
    return OK;
}

/* ---- keys ---- */

static enum status read_type(struct cursor *c, const char *what, enum gguf_type *type)
{
    uint32_t number;
    TRY(read_u32(c, what, &number));
    if (number >= GGUF_TYPES)
        return BAD(c, "%s: got %u, want 0 to %d", what, number, GGUF_TYPES - 1);
    *type = (enum gguf_type)number;
    return OK;
}

/* Fixed-size elements, one after the other; a bool is 0 or 1. */
static enum status read_scalars(struct cursor *c, enum gguf_type type, uint64_t n)
{
    uint64_t bytes;
    if (!size_mul(n, gguf_type_bytes(type), &bytes))
        return BAD(c, "value: %llu elements overflow", (ull)n);
    TRY(need(c, bytes, "value"));
    if (type == GGUF_BOOL)
        for (uint64_t i = 0; i < n; i++)
            if (c->g->header[c->at + i] > 1)
                return BAD(c, "value: a bool is %d, want 0 or 1", c->g->header[c->at + i]);
    c->at += bytes;
    return OK;
}

static enum status read_strings(struct cursor *c, struct gguf_value *value)
{
    uint64_t begin = c->at, start, n;
    uint64_t *at = malloc((size_t)(value->n + 1) * sizeof *at); /* n <= bytes left / 8 */
    if (!at)
        return err_set(c->err, ERR_MEMORY, "%s: no memory for %llu strings", c->g->file.path, (ull)value->n);
    value->at = at; /* the entry owns it from here on */
    for (uint64_t i = 0; i < value->n; i++) {
        at[i] = c->at - begin;
        TRY(read_string(c, "element", &start, &n));
    }
    return OK;
}

static enum status read_array(struct cursor *c, struct gguf_entry *entry)
{
    struct gguf_value *value = &entry->value;
    TRY(read_type(c, "element type", &value->item));
    if (value->item == GGUF_ARRAY)
        return BAD(c, "element type: an array of arrays%s", "");
    TRY(read_u64(c, "element count", &value->n));
    uint64_t least = value->item == GGUF_STRING ? 8 : gguf_type_bytes(value->item), left = c->g->file.size - c->at;
    left = left < GGUF_MAX_HEADER ? left : GGUF_MAX_HEADER;
    if (value->n > left / least)
        return BAD(c, "element count: got %llu, want at most %llu (what there is room for)", (ull)value->n, (ull)(left / least));
    entry->start = c->at;
    return value->item == GGUF_STRING ? read_strings(c, value) : read_scalars(c, value->item, value->n);
}

static enum status read_entry(struct cursor *c, struct gguf_entry *entry)
{
    TRY(read_name(c, "key", GGUF_MAX_NAME, &entry->key_at, &entry->key_n));
    TRY(read_type(c, "value type", &entry->value.type));
    if (entry->value.type == GGUF_ARRAY)
        return read_array(c, entry);
    if (entry->value.type == GGUF_STRING)
        return read_string(c, "value", &entry->start, &entry->value.n);
    entry->start = c->at;
    return read_scalars(c, entry->value.type, 1);
}

/* ---- tensors ---- */

static enum status read_dims(struct cursor *c, struct gguf_tensor *tensor)
{
    uint32_t n_dims;
    TRY(read_u32(c, "n_dims", &n_dims));
    if (n_dims < 1 || n_dims > GGUF_MAX_DIMS)
        return BAD(c, "n_dims: got %u, want 1 to %d", n_dims, GGUF_MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    tensor->elements = 1;
    for (int k = 0; k < GGUF_MAX_DIMS; k++)
        tensor->dim[k] = 1;
    for (int k = 0; k < tensor->n_dims; k++) {
        TRY(read_u64(c, "dim", &tensor->dim[k]));
        if (tensor->dim[k] == 0)
            return BAD(c, "dim[%d]: got 0, want at least 1", k);
        if (!size_mul(tensor->elements, tensor->dim[k], &tensor->elements) || tensor->elements > INT64_MAX)
            return BAD(c, "dim[%d]: the number of elements overflows at %llu", k, (ull)tensor->dim[k]);
    }
    return OK;
}

static enum status read_info(struct cursor *c, struct gguf_info *info)
{
    struct gguf_tensor *tensor = &info->tensor;
    TRY(read_name(c, "tensor name", GGUF_MAX_TENSOR_NAME, &info->name_at, &info->name_n));
    TRY(read_dims(c, tensor));
    TRY(read_u32(c, "tensor type", &tensor->type));
    const struct ggml_type_row *row = ggml_type_row(tensor->type);
    if (!row)
        return BAD(c, "tensor type of %.*s: got %u, ggml has no such type", (int)info->name_n, (const char *)c->g->header + info->name_at,
                   tensor->type);
    if (tensor->dim[0] % row->block != 0)
        return BAD(c, "dim[0]: got %llu, want a multiple of %d (blocks of %s)", (ull)tensor->dim[0], row->block, row->name);
    if (!size_mul(tensor->elements / row->block, row->bytes, &tensor->bytes))
        return BAD(c, "tensor: the size of %llu elements overflows", (ull)tensor->elements);
    return read_u64(c, "tensor offset", &tensor->offset);
}

/* Offsets are the running sum of the padded sizes; all of it lies in the file.  Makes offsets count from the file's start. */
static enum status place_tensors(struct cursor *c, uint64_t alignment)
{
    struct gguf *g = c->g;
    uint64_t data, want = 0, end;
    if (g->n_infos == 0)
        return OK;
    if (!size_align(c->at, alignment, &data) || data > g->file.size)
        return BAD(c, "data: begins behind the end of the file (%llu bytes)", (ull)g->file.size);
    for (size_t i = 0; i < g->n_infos; i++) {
        struct gguf_tensor *tensor = &g->info[i].tensor;
        const char *name = (const char *)g->header + g->info[i].name_at;
        int n = (int)g->info[i].name_n;
        if (tensor->offset != want)
            return BAD(c, "%.*s: offset %llu, want %llu (tensors follow each other)", n, name, (ull)tensor->offset, (ull)want);
        if (!size_add(want, tensor->bytes, &end) || end > g->file.size - data)
            return BAD(c, "%.*s: %llu bytes at %llu of the data, the file has %llu bytes of data", n, name, (ull)tensor->bytes,
                       (ull)want, (ull)(g->file.size - data));
        if (!size_align(end, alignment, &want))
            return BAD(c, "%.*s: its padded size overflows", n, name);
        tensor->offset += data;
    }
    return OK;
}

/* ---- names, once the header stands still ---- */

static int compare_key(const void *a, const void *b)
{
    return strcmp(((const struct gguf_entry *)a)->value.key, ((const struct gguf_entry *)b)->value.key);
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const struct gguf_info *)a)->tensor.name, ((const struct gguf_info *)b)->tensor.name);
}

static char *pool_add(struct gguf *g, size_t *used, uint64_t start, uint64_t n)
{
    char *copy = g->pool + *used;
    if (n)
        memcpy(copy, g->header + start, (size_t)n);
    copy[n] = 0;
    *used += (size_t)n + 1;
    return copy;
}

/* Each string has eight bytes of length in the header, so with a NUL instead they fit in as many bytes. */
static enum status name_entries(struct cursor *c, size_t *used)
{
    struct gguf *g = c->g;
    for (size_t i = 0; i < g->n_entries; i++) {
        struct gguf_entry *entry = &g->entry[i];
        entry->value.key = pool_add(g, used, entry->key_at, entry->key_n);
        entry->value.bytes = g->header + entry->start;
        if (entry->value.type == GGUF_STRING)
            entry->value.bytes = (unsigned char *)pool_add(g, used, entry->start, entry->value.n);
    }
    qsort(g->entry, g->n_entries, sizeof *g->entry, compare_key);
    for (size_t i = 1; i < g->n_entries; i++)
        if (strcmp(g->entry[i - 1].value.key, g->entry[i].value.key) == 0)
            return err_set(c->err, ERR_INPUT, "%s: key %s is there twice", g->file.path, g->entry[i].value.key);
    return OK;
}

static enum status name_tensors(struct cursor *c, size_t *used)
{
    struct gguf *g = c->g;
    for (size_t i = 0; i < g->n_infos; i++)
        g->info[i].tensor.name = pool_add(g, used, g->info[i].name_at, g->info[i].name_n);
    qsort(g->info, g->n_infos, sizeof *g->info, compare_name);
    for (size_t i = 1; i < g->n_infos; i++)
        if (strcmp(g->info[i - 1].tensor.name, g->info[i].tensor.name) == 0)
            return err_set(c->err, ERR_INPUT, "%s: tensor %s is there twice", g->file.path, g->info[i].tensor.name);
    return OK;
}

/* general.alignment; 32 without it. */
static enum status read_alignment(const struct gguf *g, uint64_t *alignment, struct err *err)
{
    const struct gguf_value *value = gguf_find(g, "general.alignment");
    uint32_t number = 32;
    if (value && value->type != GGUF_U32)
        return err_set(err, ERR_INPUT, "%s: general.alignment: want an unsigned 32-bit integer", g->file.path);
    if (value)
        memcpy(&number, value->bytes, 4);
    if (number == 0 || (number & (number - 1)) != 0 || number > GGUF_MAX_ALIGNMENT)
        return err_set(err, ERR_INPUT, "%s: general.alignment: got %u, want a power of two up to %d", g->file.path, number,
                       GGUF_MAX_ALIGNMENT);
    *alignment = number;
    return OK;
}

/* ---- the whole ---- */

static enum status read_start(struct cursor *c, uint64_t *n_infos, uint64_t *n_entries)
{
    TRY(need(c, 4, "magic"));
    if (memcmp(c->g->header, "GGUF", 4) != 0)
        return BAD(c, "magic: want \"GGUF\" (%s)", "this is no GGUF file");
    c->at = 4;
    TRY(read_u32(c, "version", &c->g->version));
    if ((c->g->version & 0xffff) == 0)
        return BAD(c, "version: got 0x%08x, a big-endian file, want little-endian", c->g->version);
    if (c->g->version != 2 && c->g->version != 3)
        return BAD(c, "version: got %u, want 2 or 3", c->g->version);
    TRY(read_u64(c, "n_tensors", n_infos));
    TRY(read_u64(c, "n_kv", n_entries));
    uint64_t left = c->g->file.size - c->at;
    if (*n_entries > GGUF_MAX_KEYS || *n_entries > left / 14) /* 8 + 1 of the key, 4 of the type, 1 of the value */
        return BAD(c, "n_kv: got %llu, want at most %d and 14 bytes of file for each", (ull)*n_entries, GGUF_MAX_KEYS);
    if (*n_infos > GGUF_MAX_TENSORS || *n_infos > left / 33) /* 8 + 1 of the name, 4, 8, 4, 8 */
        return BAD(c, "n_tensors: got %llu, want at most %d and 33 bytes of file for each", (ull)*n_infos, GGUF_MAX_TENSORS);
    return OK;
}

static enum status read_header(struct gguf *g, struct err *err)
{
    struct cursor c = {.g = g, .err = err};
    uint64_t n_infos = 0, n_entries = 0, alignment = 0;
    size_t used = 0;
    TRY(read_start(&c, &n_infos, &n_entries));
    g->entry = calloc((size_t)n_entries + 1, sizeof *g->entry);
    g->info = calloc((size_t)n_infos + 1, sizeof *g->info);
    if (!g->entry || !g->info)
        return err_set(err, ERR_MEMORY, "%s: no memory for %llu tensors", g->file.path, (ull)n_infos);
    while (g->n_entries < n_entries) /* counted before it is read: what a half-read one owns is freed */
        TRY(read_entry(&c, &g->entry[g->n_entries++]));
    while (g->n_infos < n_infos)
        TRY(read_info(&c, &g->info[g->n_infos++]));
    if (!(g->pool = malloc((size_t)c.at)))
        return err_set(err, ERR_MEMORY, "%s: no memory for %llu bytes of names", g->file.path, (ull)c.at);
    TRY(name_entries(&c, &used));
    TRY(read_alignment(g, &alignment, err));
    TRY(place_tensors(&c, alignment));
    return name_tensors(&c, &used);
}

enum status gguf_open(struct gguf **gguf, const char *path, struct err *err)
{
    *gguf = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    enum status status = file_open(&g->file, path, err);
    if (status == OK)
        status = read_header(g, err);
    if (status != OK)
        gguf_close(g);
    else
        *gguf = g;
    return status;
}

void gguf_close(struct gguf *gguf)
{
    if (!gguf)
        return;
    for (size_t i = 0; i < gguf->n_entries; i++)
        free((void *)gguf->entry[i].value.at);
    file_close(&gguf->file);
    free(gguf->entry);
    free(gguf->info);
    free(gguf->header);
    free(gguf->pool);
    free(gguf);
}

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    struct gguf_entry wanted = {.value.key = key};
    const struct gguf_entry *found =
        gguf->n_entries ? bsearch(&wanted, gguf->entry, gguf->n_entries, sizeof wanted, compare_key) : NULL;
    return found ? &found->value : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, const char *name)
{
    struct gguf_info wanted = {.tensor.name = name};
    const struct gguf_info *found =
        gguf->n_infos ? bsearch(&wanted, gguf->info, gguf->n_infos, sizeof wanted, compare_name) : NULL;
    return found ? &found->tensor : NULL;
}
