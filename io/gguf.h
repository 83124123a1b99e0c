/* gguf.h: the GGUF container, version 3 (2 has the same layout): typed metadata and tensors in ggml's number formats.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 *     | "GGUF" | u32 version | u64 n_tensors | u64 n_kv |
 *     n_kv      x | string key | u32 type | value |                    string: | u64 length | bytes |
 *     n_tensors x | string name | u32 n_dims | u64 dim[n_dims] | u32 ggml type | u64 offset |
 *     | zeros up to the alignment | data: in the order of the infos, each tensor padded to the alignment |
 *
 * dim[0] is the contiguous one: a matrix [out, in] has dim = {in, out}.
 * What it is not: it knows no model; checkpoint.h gives the tensors their meaning. */
#ifndef VENEER_GGUF_H
#define VENEER_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/real.h"
#include "base/text.h"
#include "quant.h"

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64,
    GGUF_F64, GGUF_TYPES
};
enum { /* what a reader accepts */
    GGUF_MAX_KEYS = 65536, GGUF_MAX_TENSORS = 1 << 20, GGUF_MAX_NAME = 255, GGUF_MAX_TENSOR_NAME = 63, GGUF_MAX_DIMS = 4,
    GGUF_MAX_STRING = 1 << 24, GGUF_MAX_HEADER = 100000000, GGUF_MAX_ALIGNMENT = 65536
};

struct gguf; /* an open file and its metadata */

struct gguf_value {
    const char *key;
    enum gguf_type type;
    enum gguf_type item;        /* type of an array's elements */
    uint64_t n;                 /* elements of an array, bytes of a string */
    const unsigned char *bytes; /* elements one after the other; a string's text */
    const uint64_t *at;         /* arrays of strings: where in `bytes` element i begins with its length */
};

struct gguf_tensor {
    const char *name;
    uint32_t type;      /* ggml's number */
    int n_dims;
    uint64_t dim[GGUF_MAX_DIMS]; /* 1 beyond n_dims */
    uint64_t elements, offset, bytes; /* offset from the start of the file */
};

/* ---- reading ---- */

/* Opens and checks the whole header, offsets and sizes of all tensors included.  ERR_INPUT: "FILE: at byte N: ...". */
enum status gguf_open(struct gguf **gguf, const char *path, struct err *err);
void gguf_close(struct gguf *gguf); /* NULL is fine */
const char *gguf_path(const struct gguf *gguf);

/* Metadata by key.  Integers of any width are one kind, floats another.  ERR_INPUT names key, type and range.
 * The *_or forms give `fallback` when the key is absent. */
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key); /* NULL: absent */
enum status gguf_string(const struct gguf *gguf, const char *key, const char **out, struct err *err);
enum status gguf_int(const struct gguf *gguf, const char *key, int64_t lo, int64_t hi, int64_t *out, struct err *err);
enum status gguf_number(const struct gguf *gguf, const char *key, double lo, double hi, double *out, struct err *err);
enum status gguf_bool(const struct gguf *gguf, const char *key, bool *out, struct err *err);
enum status gguf_string_or(const struct gguf *gguf, const char *key, const char *fallback, const char **out, struct err *err);
enum status gguf_int_or(const struct gguf *gguf, const char *key, int64_t lo, int64_t hi, int64_t fallback, int64_t *out,
                        struct err *err);
enum status gguf_number_or(const struct gguf *gguf, const char *key, double lo, double hi, double fallback, double *out,
                           struct err *err);
enum status gguf_bool_or(const struct gguf *gguf, const char *key, bool fallback, bool *out, struct err *err);

/* An array whose elements are strings (kind GGUF_STRING), integers (GGUF_I64: any width) or floats (GGUF_F64: any width). */
enum status gguf_array(const struct gguf *gguf, const char *key, enum gguf_type kind, const struct gguf_value **out,
                       struct err *err);
/* One integer for all, or an array of exactly n: out[n]. */
enum status gguf_ints(const struct gguf *gguf, const char *key, size_t n, int64_t lo, int64_t hi, int32_t *out, struct err *err);
/* Element i < value->n of an array; integers above INT64_MAX come as INT64_MAX. The string is not NUL-terminated. */
const char *gguf_item_string(const struct gguf_value *value, uint64_t i, size_t *n);
int64_t gguf_item_int(const struct gguf_value *value, uint64_t i);
double gguf_item_number(const struct gguf_value *value, uint64_t i);

size_t gguf_n_tensors(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t i); /* by name */
const struct gguf_tensor *gguf_tensor(const struct gguf *gguf, const char *name); /* NULL: none */
const char *gguf_type_name(uint32_t ggml_type); /* "Q4_K"; "?" for a number that ggml does not have */
/* The format of a tensor; ERR_INPUT when quant.h has none for it (I-quants of less than 4 bits, integers ...). */
enum status gguf_format(const struct gguf *gguf, const struct gguf_tensor *tensor, enum format *format, struct err *err);
enum status gguf_read(const struct gguf *gguf, const struct gguf_tensor *tensor, uint64_t offset, void *dst, size_t n,
                      struct err *err);
/* Rows row0 .. row0+n-1 (a row has dim[0] elements) as reals: dst[n, dim[0]].  Does not ask whether they are finite. */
enum status gguf_read_rows(const struct gguf *gguf, const struct gguf_tensor *tensor, uint64_t row0, size_t n, real *dst,
                           struct err *err);

/* ---- writing: put keys, put tensors, write ---- */

struct gguf_item {
    char name[GGUF_MAX_TENSOR_NAME + 1];
    enum format format;
    int n_dims;
    uint64_t dim[GGUF_MAX_DIMS];
    const void *data; /* the whole tensor as stored; NULL: `emit` is asked for it */
    size_t id;        /* for emit */
    uint64_t bytes, offset;
};

struct gguf_writer { /* start with {0}, end with gguf_writer_free */
    struct text keys; /* what is put so far; remembers that memory ran out */
    uint64_t n_keys;
    struct gguf_item *item;
    size_t n, cap;
};

void gguf_put_string(struct gguf_writer *writer, const char *key, const char *value);
void gguf_put_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_put_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_put_strings(struct gguf_writer *writer, const char *key, const char *const *value, size_t n);
void gguf_put_i32s(struct gguf_writer *writer, const char *key, const int32_t *value, size_t n);
void gguf_put_f32s(struct gguf_writer *writer, const char *key, const float *value, size_t n);
/* `item` is copied; its bytes and offset are set here.  ERR_INPUT: a name of no or more than 63 bytes or given before, a shape that the format
 * cannot take, a format that GGUF has no type for. */
enum status gguf_put_tensor(struct gguf_writer *writer, const struct gguf_item *item, struct err *err);

struct gguf_sink; /* where the bytes of a tensor go */
typedef enum status gguf_emit(void *user, const struct gguf_item *item, struct gguf_sink *sink, struct err *err);
enum status gguf_sink_put(struct gguf_sink *sink, const void *bytes, size_t n, struct err *err);
/* Publishes PATH; alignment 32. */
enum status gguf_write(const struct gguf_writer *writer, const char *path, gguf_emit *emit, void *user, struct err *err);
void gguf_writer_free(struct gguf_writer *writer);

#endif
