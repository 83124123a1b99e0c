/* gguf_write.c: keys and tensors into a GGUF of version 3, alignment 32. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "io/gguf_private.h"
#include "io/json.h"

enum { ALIGNMENT = 32, VERSION = 3 };

/* ---- keys ---- */

static void put_u32(struct text *out, uint32_t x)
{
    text_add(out, (const char *)&x, sizeof x);
}

static void put_u64(struct text *out, uint64_t x)
{
    text_add(out, (const char *)&x, sizeof x);
}

static void put_bytes(struct text *out, const char *s, size_t n)
{
    put_u64(out, n);
    text_add(out, s, n);
}

static void put_key(struct gguf_writer *writer, const char *key, enum gguf_type type)
{
    put_bytes(&writer->keys, key, strlen(key));
    put_u32(&writer->keys, type);
    writer->n_keys++;
}

static void put_array(struct gguf_writer *writer, const char *key, enum gguf_type item, size_t n)
{
    put_key(writer, key, GGUF_ARRAY);
    put_u32(&writer->keys, item);
    put_u64(&writer->keys, n);
}

void gguf_put_string(struct gguf_writer *writer, const char *key, const char *value)
{
    put_key(writer, key, GGUF_STRING);
    put_bytes(&writer->keys, value, strlen(value));
}

void gguf_put_u32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    put_key(writer, key, GGUF_U32);
    put_u32(&writer->keys, value);
}

void gguf_put_f32(struct gguf_writer *writer, const char *key, float value)
{
    put_key(writer, key, GGUF_F32);
    text_add(&writer->keys, (const char *)&value, sizeof value);
}

void gguf_put_bool(struct gguf_writer *writer, const char *key, bool value)
{
    put_key(writer, key, GGUF_BOOL);
    text_add(&writer->keys, value ? "\1" : "\0", 1);
}

void gguf_put_strings(struct gguf_writer *writer, const char *key, const char *const *value, size_t n)
{
    put_array(writer, key, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_bytes(&writer->keys, value[i], strlen(value[i]));
}

void gguf_put_i32s(struct gguf_writer *writer, const char *key, const int32_t *value, size_t n)
{
    put_array(writer, key, GGUF_I32, n);
    text_add(&writer->keys, (const char *)value, n * sizeof *value);
}

void gguf_put_f32s(struct gguf_writer *writer, const char *key, const float *value, size_t n)
{
    put_array(writer, key, GGUF_F32, n);
    text_add(&writer->keys, (const char *)value, n * sizeof *value);
}

/* ---- tensors ---- */

/* ggml's number of a format; -1: none. */
static int type_of(enum format format)
{
    for (uint32_t type = 0; type < 64; type++) {
        const struct ggml_type_row *row = ggml_type_row(type);
        if (row && row->format == (int)format)
            return (int)type;
    }
    return -1;
}

static enum status item_bytes(struct gguf_item *item, struct err *err)
{
    int type = type_of(item->format);
    if (type < 0)
        return err_set(err, ERR_INPUT, "%s: GGUF has no type for %s", item->name, format_info(item->format)->name);
    const struct ggml_type_row *row = ggml_type_row((uint32_t)type);
    uint64_t elements = 1;
    if (item->n_dims < 1 || item->n_dims > GGUF_MAX_DIMS || item->dim[0] % row->block != 0)
        return err_set(err, ERR_INPUT, "%s: rows of %llu elements, %s wants a multiple of %d", item->name,
                       (unsigned long long)item->dim[0], row->name, row->block);
    for (int k = 0; k < item->n_dims; k++)
        if (item->dim[k] == 0 || !size_mul(elements, item->dim[k], &elements))
            return err_set(err, ERR_INPUT, "%s: its number of elements is 0 or overflows", item->name);
    if (!size_mul(elements / row->block, row->bytes, &item->bytes))
        return err_set(err, ERR_INPUT, "%s: its size overflows", item->name);
    return OK;
}

enum status gguf_put_tensor(struct gguf_writer *writer, const struct gguf_item *item, struct err *err)
{
    size_t length = strnlen(item->name, sizeof item->name);
    if (length < 1 || length > GGUF_MAX_TENSOR_NAME || !utf8_is_name(item->name, length))
        return err_set(err, ERR_INPUT, "\"%.63s\" cannot be the name of a tensor, want 1 to %d bytes", item->name,
                       GGUF_MAX_TENSOR_NAME);
    for (size_t i = 0; i < writer->n; i++)
        if (strcmp(writer->item[i].name, item->name) == 0)
            return err_set(err, ERR_INPUT, "%s is given twice", item->name);
    if (writer->n == writer->cap) {
        size_t cap = writer->cap ? 2 * writer->cap : 64;
        struct gguf_item *grown = realloc(writer->item, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for %zu tensors", cap);
        writer->item = grown;
        writer->cap = cap;
    }
    struct gguf_item *to = &writer->item[writer->n];
    *to = *item;
    TRY(item_bytes(to, err));
    const struct gguf_item *last = writer->n ? to - 1 : NULL;
    if (last && (!size_add(last->offset, last->bytes, &to->offset) || !size_align(to->offset, ALIGNMENT, &to->offset)))
        return err_set(err, ERR_INPUT, "%s: its offset overflows", item->name);
    if (!last)
        to->offset = 0;
    writer->n++;
    return OK;
}

void gguf_writer_free(struct gguf_writer *writer)
{
    text_free(&writer->keys);
    free(writer->item);
    memset(writer, 0, sizeof *writer);
}

/* ---- the file ---- */

struct gguf_sink {
    struct publish publish;
    uint64_t left; /* bytes of the present tensor that are still to come */
    const char *name;
};

enum status gguf_sink_put(struct gguf_sink *sink, const void *bytes, size_t n, struct err *err)
{
    if (n > sink->left)
        return err_set(err, ERR_FAILED, "%s: %s: more bytes than its shape", sink->publish.path, sink->name);
    sink->left -= n;
    return publish_write(&sink->publish, bytes, n, err);
}

static enum status pad(struct publish *publish, uint64_t written, struct err *err)
{
    static const char zeros[ALIGNMENT];
    return publish_write(publish, zeros, (size_t)((ALIGNMENT - written % ALIGNMENT) % ALIGNMENT), err);
}

static void print_infos(const struct gguf_writer *writer, struct text *out)
{
    for (size_t i = 0; i < writer->n; i++) {
        const struct gguf_item *item = &writer->item[i];
        put_bytes(out, item->name, strlen(item->name));
        put_u32(out, (uint32_t)item->n_dims);
        for (int k = 0; k < item->n_dims; k++)
            put_u64(out, item->dim[k]);
        put_u32(out, (uint32_t)type_of(item->format));
        put_u64(out, item->offset);
    }
}

static enum status write_all(const struct gguf_writer *writer, const struct text *head, const struct text *infos,
                             struct gguf_sink *sink, gguf_emit *emit, void *user, struct err *err)
{
    struct publish *publish = &sink->publish;
    TRY(publish_write(publish, head->s, head->n, err));
    TRY(publish_write(publish, writer->keys.s, writer->keys.n, err));
    TRY(publish_write(publish, infos->s, infos->n, err));
    TRY(pad(publish, head->n + writer->keys.n + infos->n, err));
    for (size_t i = 0; i < writer->n; i++) {
        const struct gguf_item *item = &writer->item[i];
        sink->left = item->bytes;
        sink->name = item->name;
        TRY(item->data ? gguf_sink_put(sink, item->data, (size_t)item->bytes, err) : emit(user, item, sink, err));
        if (sink->left)
            return err_set(err, ERR_FAILED, "%s: %s: %llu bytes are missing", publish->path, item->name,
                           (unsigned long long)sink->left);
        TRY(pad(publish, item->bytes, err));
    }
    return OK;
}

enum status gguf_write(const struct gguf_writer *writer, const char *path, gguf_emit *emit, void *user, struct err *err)
{
    struct text head = {0}, infos = {0};
    struct gguf_sink sink = {0};
    text_puts(&head, "GGUF");
    put_u32(&head, VERSION);
    put_u64(&head, writer->n);
    put_u64(&head, writer->n_keys);
    print_infos(writer, &infos);
    enum status status = OK;
    if (head.failed || infos.failed || writer->keys.failed)
        status = err_set(err, ERR_MEMORY, "%s: out of memory for the header", path);
    if (status == OK)
        status = publish_open(&sink.publish, path, err);
    if (status == OK) {
        status = write_all(writer, &head, &infos, &sink, emit, user, err);
        if (status == OK)
            status = publish_commit(&sink.publish, err);
        else
            publish_abandon(&sink.publish);
    }
    text_free(&head);
    text_free(&infos);
    return status;
}
