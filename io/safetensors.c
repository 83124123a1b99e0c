/* safetensors.c: the reader, with every check of the reference library (safetensors/src/tensor.rs), and the writer. */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "base/text.h"
#include "io/json.h"
#include "quant.h"

enum { INDEX_LIMIT = 100000000, MAX_SHARDS = 512 };

struct st_shard {
    struct file file;
    struct json *header; /* owns the names */
    uint64_t data;       /* where the data begins */
};

static const struct {
    const char *name;
    int bits;
} dtypes[ST_COUNT] = {
    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
    {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64},
};

const char *st_dtype_name(enum st_dtype dtype)
{
    return dtypes[dtype].name;
}

int st_dtype_bits(enum st_dtype dtype)
{
    return dtypes[dtype].bits;
}

void st_shape_text(const struct st_tensor *tensor, char text[128])
{
    size_t n = (size_t)snprintf(text, 128, "[");
    for (int i = 0; i < tensor->n_dims && n < 100; i++)
        n += (size_t)snprintf(text + n, 128 - n, "%s%llu", i ? ", " : "", (unsigned long long)tensor->dim[i]);
    snprintf(text + (n < 126 ? n : 126), 2, "]");
}

/* ---- sizes ---- */

/* *elements = product of dims, *bytes = elements * bits / 8; false when one of the products overflows or the bits fill no byte. */
static bool tensor_size(enum st_dtype dtype, const uint64_t *dim, int n_dims, uint64_t *elements, uint64_t *bytes)
{
    uint64_t bits;
    *elements = 1;
    for (int i = 0; i < n_dims; i++)
        if (!size_mul(*elements, dim[i], elements))
            return false;
    if (!size_mul(*elements, (uint64_t)dtypes[dtype].bits, &bits) || bits % 8 != 0)
        return false;
    *bytes = bits / 8;
    return true;
}

/* ---- one entry of the header ---- */

struct header {
    const char *path;
    uint64_t data, data_bytes; /* where the data begins and how long it is */
    size_t shard;
    struct err *err;
};

static enum status read_dtype(const struct json *entry, const char *where, struct st_tensor *tensor, struct err *err)
{
    const char *name;
    TRY(json_string(entry, "dtype", where, &name, err));
    for (int k = 0; k < ST_COUNT; k++)
        if (strcmp(name, dtypes[k].name) == 0) {
            tensor->dtype = (enum st_dtype)k;
            return OK;
        }
    return err_set(err, ERR_INPUT, "%s.dtype: got \"%.40s\", want F32, F16, BF16 ... U8 as the format lists them", where, name);
}

static enum status read_shape(const struct json *entry, const char *where, struct st_tensor *tensor, struct err *err)
{
    const struct json *shape;
    char place[400];
    TRY(json_array(entry, "shape", where, &shape, err));
    for (const struct json *item = json_first(shape); item; item = json_next(item)) {
        int64_t value;
        if (tensor->n_dims == ST_MAX_DIMS)
            return err_set(err, ERR_INPUT, "%s.shape: more than %d dimensions", where, ST_MAX_DIMS);
        snprintf(place, sizeof place, "%.380s.shape[%d]", where, tensor->n_dims);
        TRY(json_as_int(item, place, 0, (int64_t)1 << 48, &value, err));
        tensor->dim[tensor->n_dims++] = (uint64_t)value;
    }
    return OK;
}

static enum status read_offsets(const struct json *entry, const char *where, const struct header *header,
                                struct st_tensor *tensor)
{
    const struct json *pair;
    int64_t at[2] = {0, 0};
    char place[400];
    TRY(json_array(entry, "data_offsets", where, &pair, header->err));
    if (json_size(pair) != 2)
        return err_set(header->err, ERR_INPUT, "%s.data_offsets: %zu numbers, want begin and end", where, json_size(pair));
    for (size_t k = 0; k < 2; k++) {
        snprintf(place, sizeof place, "%.380s.data_offsets[%zu]", where, k);
        TRY(json_as_int(json_at(pair, k), place, 0, JSON_MAX_INT, &at[k], header->err));
    }
    if (at[1] < at[0])
        return err_set(header->err, ERR_INPUT, "%s.data_offsets: ends at %lld, before it begins at %lld", where,
                       (long long)at[1], (long long)at[0]);
    if ((uint64_t)at[1] > header->data_bytes)
        return err_set(header->err, ERR_INPUT, "%s.data_offsets: ends at byte %lld of %llu bytes of data", where,
                       (long long)at[1], (unsigned long long)header->data_bytes);
    uint64_t bytes;
    if (!tensor_size(tensor->dtype, tensor->dim, tensor->n_dims, &tensor->elements, &bytes))
        return err_set(header->err, ERR_INPUT, "%s.shape: its size overflows or is no whole number of bytes", where);
    tensor->bytes = (uint64_t)(at[1] - at[0]);
    if (bytes != tensor->bytes)
        return err_set(header->err, ERR_INPUT, "%s: %llu bytes of data, want %llu for its shape and dtype", where,
                       (unsigned long long)tensor->bytes, (unsigned long long)bytes);
    tensor->offset = header->data + (uint64_t)at[0]; /* within the file: data + data_bytes is its size */
    return OK;
}

static enum status read_entry(const struct json *entry, const struct header *header, struct st_tensor *tensor)
{
    char where[360];
    const char *name = json_key(entry);
    snprintf(where, sizeof where, "%.200s: %.120s", header->path, name);
    if (strlen(name) < 1 || strlen(name) > ST_MAX_NAME)
        return err_set(header->err, ERR_INPUT, "%s: a tensor's name of %zu bytes, want 1 to %d", header->path, strlen(name),
                       ST_MAX_NAME);
    if (json_type(entry) != JSON_OBJECT)
        return err_set(header->err, ERR_INPUT, "%s: got %s, want an object", where, json_type_name(json_type(entry)));
    *tensor = (struct st_tensor){.name = name, .shard = header->shard};
    TRY(read_dtype(entry, where, tensor, header->err));
    TRY(read_shape(entry, where, tensor, header->err));
    return read_offsets(entry, where, header, tensor);
}

static enum status check_metadata(const struct json *metadata, const char *path, struct err *err)
{
    if (json_type(metadata) != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "%s: __metadata__: got %s, want an object", path, json_type_name(json_type(metadata)));
    for (const struct json *item = json_first(metadata); item; item = json_next(item))
        if (json_type(item) != JSON_STRING)
            return err_set(err, ERR_INPUT, "%s: __metadata__.%.100s: got %s, want a string", path, json_key(item),
                           json_type_name(json_type(item)));
    return OK;
}

/* ---- a whole header ---- */

static int compare_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

/* In the order of the data each tensor begins where the one before ends, and the last one ends the file. */
static enum status check_coverage(struct st_tensor *tensor, size_t n, const struct header *header)
{
    uint64_t end = header->data;
    qsort(tensor, n, sizeof *tensor, compare_offset);
    for (size_t i = 0; i < n; i++) {
        if (tensor[i].offset != end)
            return err_set(header->err, ERR_INPUT, "%s: %.120s begins at byte %llu of the data, want %llu (no %s)", header->path,
                           tensor[i].name, (unsigned long long)(tensor[i].offset - header->data),
                           (unsigned long long)(end - header->data), tensor[i].offset < end ? "overlap" : "hole");
        end += tensor[i].bytes;
    }
    if (end - header->data != header->data_bytes)
        return err_set(header->err, ERR_INPUT, "%s: %llu bytes follow the last tensor", header->path,
                       (unsigned long long)(header->data_bytes - (end - header->data)));
    return OK;
}

/* Appends the tensors of a parsed header to st. */
static enum status take_header(struct safetensors *st, const struct json *root, const struct header *header)
{
    if (json_type(root) != JSON_OBJECT)
        return err_set(header->err, ERR_INPUT, "%s: the header is %s, want an object", header->path,
                       json_type_name(json_type(root)));
    size_t most = json_size(root), n = 0;
    struct st_tensor *grown = realloc(st->tensor, (st->n + most + 1) * sizeof *grown);
    if (!grown)
        return err_set(header->err, ERR_MEMORY, "%s: no memory for %zu tensors", header->path, most);
    st->tensor = grown;
    for (const struct json *item = json_first(root); item; item = json_next(item)) {
        if (strcmp(json_key(item), "__metadata__") == 0)
            TRY(check_metadata(item, header->path, header->err));
        else
            TRY(read_entry(item, header, &grown[st->n + n++]));
    }
    TRY(check_coverage(grown + st->n, n, header));
    st->n += n;
    return OK;
}

/* Reads and checks the header of an open file, which becomes st's from here on. */
static enum status take_file(struct safetensors *st, struct file *file, struct err *err)
{
    struct st_shard *shard = &st->shard[st->n_shards];
    *shard = (struct st_shard){.file = *file};
    struct header header = {.path = shard->file.path, .shard = st->n_shards++, .err = err};
    unsigned char length[8];
    if (shard->file.size < 8)
        return err_set(err, ERR_INPUT, "%s: %llu bytes, want at least 8 (a safetensors file begins with its header's length)",
                       header.path, (unsigned long long)shard->file.size);
    TRY(file_pread(&shard->file, 0, length, 8, err));
    uint64_t n = 0;
    for (int k = 7; k >= 0; k--)
        n = n << 8 | length[k];
    if (n > ST_MAX_HEADER)
        return err_set(err, ERR_INPUT, "%s: at byte 0: a header of %llu bytes, want at most %d (is this a safetensors file?)",
                       header.path, (unsigned long long)n, ST_MAX_HEADER);
    if (n > shard->file.size - 8)
        return err_set(err, ERR_INPUT, "%s: at byte 0: a header of %llu bytes, the file has %llu", header.path,
                       (unsigned long long)n, (unsigned long long)shard->file.size);
    header.data = 8 + n;
    header.data_bytes = shard->file.size - header.data;
    char *json = malloc((size_t)n + 1);
    if (!json)
        return err_set(err, ERR_MEMORY, "%s: no memory for a header of %llu bytes", header.path, (unsigned long long)n);
    enum status status = file_pread(&shard->file, 8, json, (size_t)n, err);
    if (status == OK && (n == 0 || json[0] != '{'))
        status = err_set(err, ERR_INPUT, "%s: at byte 8: the header does not begin with '{'", header.path);
    if (status == OK)
        status = json_parse(json, (size_t)n, header.path, &shard->header, err);
    free(json);
    TRY(status);
    return take_header(st, shard->header, &header);
}

/* Sorts by name, so that safetensors_find can halve; a name may come from one shard only. */
static enum status sort_names(struct safetensors *st, struct err *err)
{
    if (st->n)
        qsort(st->tensor, st->n, sizeof *st->tensor, compare_name);
    for (size_t i = 1; i < st->n; i++)
        if (strcmp(st->tensor[i - 1].name, st->tensor[i].name) == 0)
            return err_set(err, ERR_INPUT, "%s: %.120s is also in %s", safetensors_path(st, &st->tensor[i]), st->tensor[i].name,
                           safetensors_path(st, &st->tensor[i - 1]));
    return OK;
}

enum status safetensors_open(struct safetensors *st, const char *path, struct err *err)
{
    struct file file;
    memset(st, 0, sizeof *st);
    if (!(st->shard = calloc(1, sizeof *st->shard)))
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    enum status status = file_open(&file, path, err);
    if (status == OK)
        status = take_file(st, &file, err);
    if (status == OK)
        status = sort_names(st, err);
    if (status != OK)
        safetensors_close(st);
    return status;
}

void safetensors_close(struct safetensors *st)
{
    for (size_t i = 0; i < st->n_shards; i++) {
        file_close(&st->shard[i].file);
        json_free(st->shard[i].header);
    }
    free(st->shard);
    free(st->tensor);
    memset(st, 0, sizeof *st);
}

/* ---- shards ---- */

/* A shard's name comes from a file: one path component, and what it names is opened without following a link. */
static enum status open_shard(struct file *file, const char *dir, const char *name, const char *index, struct err *err)
{
    struct stat stat;
    memset(file, 0, sizeof *file);
    if (*name == 0 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strlen(name) > ST_MAX_NAME)
        return err_set(err, ERR_INPUT, "%s: shard \"%.200s\" is not a plain file name", index, name);
    if (!(file->path = path_join(dir, name)))
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file->fd < 0) {
        err_set(err, ERR_INPUT, "%s: %s", file->path,
                errno == ELOOP ? "is a symbolic link, want the file itself (a shard may not point elsewhere)" : strerror(errno));
    } else if (fstat(file->fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
        err_set(err, ERR_INPUT, "%s: want a regular file", file->path);
    } else {
        file->size = (uint64_t)stat.st_size;
        return OK;
    }
    file_close(file);
    return ERR_INPUT;
}

/* Opens each file that the map names, once. */
static enum status take_shards(struct safetensors *st, const struct json *map, const char *dir, const char *index,
                               struct err *err)
{
    size_t entries = json_size(map), n = 0;
    const char **name = malloc((entries + 1) * sizeof *name);
    enum status status = OK;
    if (!name)
        return err_set(err, ERR_MEMORY, "%s: no memory for %zu names", index, entries);
    for (const struct json *item = json_first(map); item && status == OK; item = json_next(item)) {
        size_t k = 0;
        status = json_as_string(item, index, &name[n], err);
        while (status == OK && k < n && strcmp(name[k], name[n]) != 0)
            k++;
        n += status == OK && k == n;
        if (n > MAX_SHARDS)
            status = err_set(err, ERR_INPUT, "%s: more than %d shards", index, MAX_SHARDS);
    }
    if (status == OK && !(st->shard = calloc(n + 1, sizeof *st->shard)))
        status = err_set(err, ERR_MEMORY, "%s: out of memory", index);
    for (size_t k = 0; k < n && status == OK; k++) {
        struct file file;
        status = open_shard(&file, dir, name[k], index, err);
        if (status == OK)
            status = take_file(st, &file, err);
    }
    free(name);
    return status;
}

static enum status take_index(struct safetensors *st, const struct json *root, const char *dir, const char *index,
                              struct err *err)
{
    const struct json *map;
    TRY(json_object(root, "weight_map", index, &map, err));
    TRY(take_shards(st, map, dir, index, err));
    TRY(sort_names(st, err));
    for (const struct json *item = json_first(map); item; item = json_next(item)) {
        const struct st_tensor *tensor = safetensors_find(st, json_key(item));
        const char *want;
        TRY(json_as_string(item, index, &want, err));
        const char *path = tensor ? safetensors_path(st, tensor) : NULL, *slash = path ? strrchr(path, '/') : NULL;
        if (!path || strcmp(slash ? slash + 1 : path, want) != 0)
            return err_set(err, ERR_INPUT, "%s: %.120s is not in %.120s", index, json_key(item), want);
    }
    return OK;
}

enum status safetensors_open_index(struct safetensors *st, const char *dir, const char *index_name, struct err *err)
{
    memset(st, 0, sizeof *st);
    char *index = path_join(dir, index_name), *text = NULL;
    struct json *root = NULL;
    size_t n;
    if (!index)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = file_read(index, INDEX_LIMIT, &text, &n, err);
    if (status == OK)
        status = json_parse(text, n, index, &root, err);
    if (status == OK)
        status = take_index(st, root, dir, index, err);
    json_free(root);
    free(text);
    free(index);
    if (status != OK)
        safetensors_close(st);
    return status;
}

/* ---- looking and reading ---- */

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    struct st_tensor key = {.name = name};
    return st->n ? bsearch(&key, st->tensor, st->n, sizeof key, compare_name) : NULL;
}

const char *safetensors_path(const struct safetensors *st, const struct st_tensor *tensor)
{
    return st->shard[tensor->shard].file.path;
}

const char *safetensors_metadata(const struct safetensors *st, const char *key)
{
    const struct json *metadata = st->n_shards ? json_member(st->shard[0].header, "__metadata__") : NULL;
    const struct json *value = json_member(metadata, key);
    const char *text = NULL;
    return value && json_as_string(value, "", &text, NULL) == OK ? text : NULL;
}

enum status safetensors_read(const struct safetensors *st, const struct st_tensor *tensor, uint64_t offset, void *dst, size_t n,
                             struct err *err)
{
    if (offset > tensor->bytes || n > tensor->bytes - offset)
        return err_set(err, ERR_INPUT, "%s: %.120s: %zu bytes at %llu are wanted, it has %llu", safetensors_path(st, tensor),
                       tensor->name, n, (unsigned long long)offset, (unsigned long long)tensor->bytes);
    return file_pread(&st->shard[tensor->shard].file, tensor->offset + offset, dst, n, err);
}

static real real_from(enum st_dtype dtype, const unsigned char *bytes)
{
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case ST_F64: memcpy(&wide, bytes, 8); return (real)wide;
    case ST_F32: memcpy(&single, bytes, 4); return (real)single;
    default: memcpy(&half, bytes, 2); return (real)(dtype == ST_F16 ? f32_from_f16(half) : f32_from_bf16(half));
    }
}

enum status safetensors_read_real(const struct safetensors *st, const struct st_tensor *tensor, uint64_t first, size_t n,
                                  real *dst, struct err *err)
{
    enum st_dtype dtype = tensor->dtype;
    if (dtype != ST_F64 && dtype != ST_F32 && dtype != ST_F16 && dtype != ST_BF16)
        return err_set(err, ERR_INPUT, "%s: %.120s: dtype %s, want F32, F16 or BF16", safetensors_path(st, tensor), tensor->name,
                       st_dtype_name(dtype));
    unsigned char buffer[8192];
    size_t width = (size_t)dtypes[dtype].bits / 8, most = sizeof buffer / width;
    if (first > tensor->elements || n > tensor->elements - first)
        return err_set(err, ERR_INPUT, "%s: %.120s: %zu elements at %llu are wanted, it has %llu", safetensors_path(st, tensor),
                       tensor->name, n, (unsigned long long)first, (unsigned long long)tensor->elements);
    if (dtype == ST_F32 && sizeof(real) == sizeof(float)) /* as it is: files and machines are little-endian */
        return safetensors_read(st, tensor, first * width, dst, n * width, err);
    for (size_t done = 0; done < n;) {
        size_t part = n - done < most ? n - done : most;
        TRY(safetensors_read(st, tensor, (first + done) * width, buffer, part * width, err));
        for (size_t i = 0; i < part; i++)
            dst[done + i] = real_from(dtype, buffer + i * width);
        done += part;
    }
    return OK;
}

/* ---- writing ---- */

struct st_sink {
    struct publish publish;
    uint64_t left; /* bytes of the present item that are still to come */
    const char *name;
};

enum status st_put(struct st_sink *sink, const void *bytes, size_t n, struct err *err)
{
    if (n > sink->left)
        return err_set(err, ERR_FAILED, "%s: %s: more bytes than its shape", sink->publish.path, sink->name);
    sink->left -= n;
    return publish_write(&sink->publish, bytes, n, err);
}

static int compare_item_name(const void *a, const void *b)
{
    return strcmp((*(const struct st_item *const *)a)->name, (*(const struct st_item *const *)b)->name);
}

static int compare_item_rank(const void *a, const void *b)
{
    const struct st_item *x = *(const struct st_item *const *)a, *y = *(const struct st_item *const *)b;
    return x->dtype != y->dtype ? (x->dtype < y->dtype ? 1 : -1) : compare_item_name(a, b);
}

static void print_metadata(const char *const *metadata, struct text *json)
{
    text_puts(json, "{\"__metadata__\":{\"format\":\"pt\"");
    for (; metadata && metadata[0] && metadata[1]; metadata += 2) {
        text_puts(json, ",");
        text_json_string(json, metadata[0], strlen(metadata[0]));
        text_puts(json, ":");
        text_json_string(json, metadata[1], strlen(metadata[1]));
    }
    text_puts(json, "}");
}

/* The header for items in their order; the data behind it begins at a multiple of 8. */
static enum status print_header(const struct st_item *const *item, size_t n, const char *const *metadata, struct text *json,
                                struct err *err)
{
    uint64_t begin = 0;
    print_metadata(metadata, json);
    for (size_t i = 0; i < n; i++) {
        const struct st_item *it = item[i];
        uint64_t elements, bytes, end;
        size_t length = strlen(it->name);
        if (length < 1 || length > ST_MAX_NAME || !utf8_is_name(it->name, length) || strcmp(it->name, "__metadata__") == 0)
            return err_set(err, ERR_INPUT, "\"%.120s\" cannot be the name of a tensor", it->name);
        if (!tensor_size(it->dtype, it->dim, it->n_dims, &elements, &bytes) || !size_add(begin, bytes, &end))
            return err_set(err, ERR_INPUT, "%s: its size overflows or is no whole number of bytes", it->name);
        text_puts(json, ",");
        text_json_string(json, it->name, length);
        text_printf(json, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(it->dtype));
        for (int k = 0; k < it->n_dims; k++)
            text_printf(json, "%s%llu", k ? "," : "", (unsigned long long)it->dim[k]);
        text_printf(json, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)end);
        begin = end;
    }
    text_puts(json, "}");
    while (json->n % 8 != 0 && !json->failed)
        text_puts(json, " ");
    return json->failed ? err_set(err, ERR_MEMORY, "out of memory for a header of %zu tensors", n) : OK;
}

static enum status write_items(struct st_sink *sink, const struct st_item *const *item, size_t n, const struct text *header,
                               st_emit *emit, void *user, struct err *err)
{
    unsigned char length[8];
    for (int k = 0; k < 8; k++)
        length[k] = (unsigned char)((uint64_t)header->n >> (8 * k));
    TRY(publish_write(&sink->publish, length, 8, err));
    TRY(publish_write(&sink->publish, header->s, header->n, err));
    for (size_t i = 0; i < n; i++) {
        uint64_t elements;
        tensor_size(item[i]->dtype, item[i]->dim, item[i]->n_dims, &elements, &sink->left);
        sink->name = item[i]->name;
        TRY(item[i]->data ? st_put(sink, item[i]->data, (size_t)sink->left, err) : emit(user, item[i], sink, err));
        if (sink->left)
            return err_set(err, ERR_FAILED, "%s: %s: %llu bytes are missing", sink->publish.path, sink->name,
                           (unsigned long long)sink->left);
    }
    return OK;
}

enum status safetensors_write(const char *path, const struct st_item *items, size_t n, const char *const *metadata,
                              st_emit *emit, void *user, struct err *err)
{
    struct text header = {0};
    struct st_sink sink = {0};
    const struct st_item **order = malloc((n + 1) * sizeof *order);
    if (!order)
        return err_set(err, ERR_MEMORY, "%s: no memory for %zu tensors", path, n);
    for (size_t i = 0; i < n; i++)
        order[i] = &items[i];
    enum status status = OK;
    qsort(order, n, sizeof *order, compare_item_name);
    for (size_t i = 1; i < n && status == OK; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            status = err_set(err, ERR_INPUT, "%s: %s is given twice", path, order[i]->name);
    qsort(order, n, sizeof *order, compare_item_rank);
    if (status == OK && (status = print_header(order, n, metadata, &header, err)) != OK)
        err_prefix(err, status, "%s", path);
    if (status == OK)
        status = publish_open(&sink.publish, path, err);
    if (status == OK) {
        status = write_items(&sink, order, n, &header, emit, user, err);
        if (status == OK)
            status = publish_commit(&sink.publish, err);
        else
            publish_abandon(&sink.publish);
    }
    text_free(&header);
    free(order);
    return status;
}
