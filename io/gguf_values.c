/* gguf_values.c: metadata as C types, tensors as reals. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "io/gguf_private.h"
#include "io/json.h"

const char *gguf_path(const struct gguf *gguf)
{
    return gguf->file.path;
}

/* ---- elements ---- */

static bool is_int(enum gguf_type type)
{
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

static bool is_float(enum gguf_type type)
{
    return type == GGUF_F32 || type == GGUF_F64;
}

static int64_t int_at(enum gguf_type type, const unsigned char *p)
{
    union {
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } x = {0};
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL: return *p;
    case GGUF_I8: return *p < 128 ? *p : (int64_t)*p - 256;
    case GGUF_U16: memcpy(&x, p, 2); return x.u16;
    case GGUF_I16: memcpy(&x, p, 2); return x.i16;
    case GGUF_U32: memcpy(&x, p, 4); return x.u32;
    case GGUF_I32: memcpy(&x, p, 4); return x.i32;
    case GGUF_U64: memcpy(&x, p, 8); return x.u64 > INT64_MAX ? INT64_MAX : (int64_t)x.u64;
    default: memcpy(&x, p, 8); return x.i64;
    }
}

static double number_at(enum gguf_type type, const unsigned char *p)
{
    float single;
    double wide;
    if (type == GGUF_F32) {
        memcpy(&single, p, 4);
        return (double)single;
    }
    memcpy(&wide, p, 8);
    return wide;
}

int64_t gguf_item_int(const struct gguf_value *value, uint64_t i)
{
    return int_at(value->item, value->bytes + i * gguf_type_bytes(value->item));
}

double gguf_item_number(const struct gguf_value *value, uint64_t i)
{
    return number_at(value->item, value->bytes + i * gguf_type_bytes(value->item));
}

const char *gguf_item_string(const struct gguf_value *value, uint64_t i, size_t *n)
{
    uint64_t length;
    memcpy(&length, value->bytes + value->at[i], 8);
    *n = (size_t)length;
    return (const char *)value->bytes + value->at[i] + 8;
}

/* ---- scalars ---- */

static const char *type_name(enum gguf_type type)
{
    return type == GGUF_STRING ? "a string" : type == GGUF_ARRAY ? "an array" : type == GGUF_BOOL ? "a bool" : is_int(type) ? "an integer" : "a float";
}

static enum status mismatch(const struct gguf *gguf, const char *key, const struct gguf_value *value, const char *want,
                            struct err *err)
{
    if (!value)
        return err_set(err, ERR_INPUT, "%s: key %s is missing, want %s", gguf->file.path, key, want);
    return err_set(err, ERR_INPUT, "%s: key %s: got %s, want %s", gguf->file.path, key, type_name(value->type), want);
}

enum status gguf_string(const struct gguf *gguf, const char *key, const char **out, struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value || value->type != GGUF_STRING)
        return mismatch(gguf, key, value, "a string", err);
    if (!utf8_is_name((const char *)value->bytes, (size_t)value->n))
        return err_set(err, ERR_INPUT, "%s: key %s: is not UTF-8 or holds a NUL", gguf->file.path, key);
    *out = (const char *)value->bytes;
    return OK;
}

enum status gguf_int(const struct gguf *gguf, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value || !is_int(value->type))
        return mismatch(gguf, key, value, "an integer", err);
    int64_t x = int_at(value->type, value->bytes);
    if (x < lo || x > hi)
        return err_set(err, ERR_INPUT, "%s: key %s: got %lld, want %lld to %lld", gguf->file.path, key, (long long)x,
                       (long long)lo, (long long)hi);
    *out = x;
    return OK;
}

enum status gguf_number(const struct gguf *gguf, const char *key, double lo, double hi, double *out, struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value || !is_float(value->type))
        return mismatch(gguf, key, value, "a float", err);
    double x = number_at(value->type, value->bytes);
    if (!(x >= lo && x <= hi)) /* NaN too */
        return err_set(err, ERR_INPUT, "%s: key %s: got %g, want %g to %g", gguf->file.path, key, x, lo, hi);
    *out = x;
    return OK;
}

enum status gguf_bool(const struct gguf *gguf, const char *key, bool *out, struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    if (!value || value->type != GGUF_BOOL)
        return mismatch(gguf, key, value, "a bool", err);
    *out = *value->bytes != 0;
    return OK;
}

enum status gguf_string_or(const struct gguf *gguf, const char *key, const char *fallback, const char **out, struct err *err)
{
    *out = fallback;
    return gguf_find(gguf, key) ? gguf_string(gguf, key, out, err) : OK;
}

enum status gguf_int_or(const struct gguf *gguf, const char *key, int64_t lo, int64_t hi, int64_t fallback, int64_t *out,
                        struct err *err)
{
    *out = fallback;
    return gguf_find(gguf, key) ? gguf_int(gguf, key, lo, hi, out, err) : OK;
}

enum status gguf_number_or(const struct gguf *gguf, const char *key, double lo, double hi, double fallback, double *out,
                           struct err *err)
{
    *out = fallback;
    return gguf_find(gguf, key) ? gguf_number(gguf, key, lo, hi, out, err) : OK;
}

enum status gguf_bool_or(const struct gguf *gguf, const char *key, bool fallback, bool *out, struct err *err)
{
    *out = fallback;
    return gguf_find(gguf, key) ? gguf_bool(gguf, key, out, err) : OK;
}

/* ---- arrays ---- */

enum status gguf_array(const struct gguf *gguf, const char *key, enum gguf_type kind, const struct gguf_value **out,
                       struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    const char *want = kind == GGUF_STRING ? "an array of strings" : kind == GGUF_I64 ? "an array of integers" : "an array of floats";
    if (!value || value->type != GGUF_ARRAY)
        return mismatch(gguf, key, value, want, err);
    bool right = kind == GGUF_STRING ? value->item == GGUF_STRING : kind == GGUF_I64 ? is_int(value->item) : is_float(value->item);
    if (!right)
        return err_set(err, ERR_INPUT, "%s: key %s: got an array whose elements are each %s, want %s", gguf->file.path, key,
                       type_name(value->item), want);
    *out = value;
    return OK;
}

enum status gguf_ints(const struct gguf *gguf, const char *key, size_t n, int64_t lo, int64_t hi, int32_t *out, struct err *err)
{
    const struct gguf_value *value = gguf_find(gguf, key);
    int64_t x;
    if (!value || value->type != GGUF_ARRAY) {
        TRY(gguf_int(gguf, key, lo, hi, &x, err));
        for (size_t i = 0; i < n; i++)
            out[i] = (int32_t)x;
        return OK;
    }
    TRY(gguf_array(gguf, key, GGUF_I64, &value, err));
    if (value->n != n)
        return err_set(err, ERR_INPUT, "%s: key %s: %llu elements, want %zu", gguf->file.path, key,
                       (unsigned long long)value->n, n);
    for (size_t i = 0; i < n; i++) {
        x = gguf_item_int(value, i);
        if (x < lo || x > hi)
            return err_set(err, ERR_INPUT, "%s: key %s[%zu]: got %lld, want %lld to %lld", gguf->file.path, key, i,
                           (long long)x, (long long)lo, (long long)hi);
        out[i] = (int32_t)x;
    }
    return OK;
}

/* ---- tensors ---- */

size_t gguf_n_tensors(const struct gguf *gguf)
{
    return gguf->n_infos;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i)
{
    return &gguf->info[i].tensor;
}

enum status gguf_format(const struct gguf *gguf, const struct gguf_tensor *tensor, enum format *format, struct err *err)
{
    const struct ggml_type_row *row = ggml_type_row(tensor->type);
    if (row->format < 0)
        return err_set(err, ERR_INPUT, "%s: %s: type %u (%s), want F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL or IQ4_XS",
                       gguf->file.path, tensor->name, tensor->type, row->name);
    *format = (enum format)row->format;
    return OK;
}

enum status gguf_read(const struct gguf *gguf, const struct gguf_tensor *tensor, uint64_t offset, void *dst, size_t n,
                      struct err *err)
{
    if (offset > tensor->bytes || n > tensor->bytes - offset)
        return err_set(err, ERR_INPUT, "%s: %s: %zu bytes at %llu are wanted, it has %llu", gguf->file.path, tensor->name, n,
                       (unsigned long long)offset, (unsigned long long)tensor->bytes);
    return file_pread(&gguf->file, tensor->offset + offset, dst, n, err);
}

enum status gguf_read_rows(const struct gguf *gguf, const struct gguf_tensor *tensor, uint64_t row0, size_t n, real *dst,
                           struct err *err)
{
    enum format format;
    TRY(gguf_format(gguf, tensor, &format, err));
    const struct ggml_type_row *type = ggml_type_row(tensor->type);
    uint64_t rows = tensor->elements / tensor->dim[0], row_bytes = tensor->dim[0] / type->block * type->bytes;
    if (row0 > rows || n > rows - row0)
        return err_set(err, ERR_INPUT, "%s: %s: %zu rows at %llu are wanted, it has %llu", gguf->file.path, tensor->name, n,
                       (unsigned long long)row0, (unsigned long long)rows);
    if (format == FORMAT_F32 && sizeof(real) == sizeof(float))
        return gguf_read(gguf, tensor, row0 * row_bytes, dst, n * row_bytes, err);
    size_t step = (size_t)((1 << 20) / row_bytes) + 1; /* about a mebibyte at a time */
    void *codes = malloc(step * row_bytes);
    if (!codes)
        return err_set(err, ERR_MEMORY, "%s: no memory for a row of %llu bytes", gguf->file.path, (unsigned long long)row_bytes);
    enum status status = OK;
    struct qmat part = {.format = format, .block = format_info(format)->default_block, .cols = tensor->dim[0], .codes = codes};
    for (size_t done = 0; done < n && status == OK; done += part.rows) {
        part.rows = n - done < step ? n - done : step;
        status = gguf_read(gguf, tensor, (row0 + done) * row_bytes, codes, part.rows * row_bytes, err);
        if (status == OK)
            quant_decode_rows(&part, 0, part.rows, dst + done * tensor->dim[0]);
    }
    free(codes);
    return status;
}
