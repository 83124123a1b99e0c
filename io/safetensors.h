/* safetensors.h: named tensors in a file, https://github.com/huggingface/safetensors, one file or shards with an index.
 *
 *     | u64 N, little-endian | N bytes of JSON, space-padded | data, row-major, to the end of the file |
 *     {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {"format": "pt"}}
 *
 * The data is covered exactly: no overlap, no hole, nothing before the first tensor or behind the last one.
 * What it is not: it knows no model and no number format but plain floats. */
#ifndef VENEER_SAFETENSORS_H
#define VENEER_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "base/real.h"

/* In the order in which the reference library ranks them; a writer puts the highest first, which aligns all of them. */
enum st_dtype {
    ST_BOOL, ST_F4, ST_F6_E2M3, ST_F6_E3M2, ST_U8, ST_I8, ST_F8_E5M2, ST_F8_E4M3, ST_F8_E8M0, ST_F8_E4M3FNUZ, ST_F8_E5M2FNUZ,
    ST_I16, ST_U16, ST_F16, ST_BF16, ST_I32, ST_U32, ST_F32, ST_C64, ST_F64, ST_I64, ST_U64, ST_COUNT
};
enum { ST_MAX_DIMS = 8, ST_MAX_NAME = 255, ST_MAX_HEADER = 100000000 };

const char *st_dtype_name(enum st_dtype dtype);
int st_dtype_bits(enum st_dtype dtype);

struct st_tensor {
    const char *name; /* owned by the struct safetensors */
    enum st_dtype dtype;
    int n_dims;       /* 0: one element */
    uint64_t dim[ST_MAX_DIMS];
    uint64_t elements, offset, bytes; /* offset from the start of its file */
    size_t shard;
};

struct st_shard; /* an open file and its header */

struct safetensors {
    struct st_tensor *tensor; /* [n], by name */
    size_t n;
    struct st_shard *shard; /* [n_shards] */
    size_t n_shards;
};

/* Opens one file and checks its header in full.  ERR_INPUT names the file, the tensor and what is wrong. */
enum status safetensors_open(struct safetensors *st, const char *path, struct err *err);
/* Opens the shards that DIR/index_name maps names to.  A shard is a plain file name in DIR and no symbolic link. */
enum status safetensors_open_index(struct safetensors *st, const char *dir, const char *index_name, struct err *err);
void safetensors_close(struct safetensors *st); /* a zeroed one is fine */

const struct st_tensor *safetensors_find(const struct safetensors *st, const char *name); /* NULL: none */
const char *safetensors_path(const struct safetensors *st, const struct st_tensor *tensor);
/* Value of a key of __metadata__ of the first file; NULL: none. */
const char *safetensors_metadata(const struct safetensors *st, const char *key);
/* The shape as text, "[2, 3]". */
void st_shape_text(const struct st_tensor *tensor, char text[128]);

/* n bytes of a tensor from its byte `offset` on. */
enum status safetensors_read(const struct safetensors *st, const struct st_tensor *tensor, uint64_t offset, void *dst, size_t n,
                             struct err *err);
/* Elements first .. first+n-1 of an F64, F32, F16 or BF16 tensor as reals.  Does not ask whether they are finite. */
enum status safetensors_read_real(const struct safetensors *st, const struct st_tensor *tensor, uint64_t first, size_t n,
                                  real *dst, struct err *err);

/* ---- writing ---- */

struct st_sink; /* where the bytes of a tensor go */

struct st_item {
    const char *name;
    enum st_dtype dtype;
    int n_dims;
    uint64_t dim[ST_MAX_DIMS];
    const void *data; /* the whole tensor, little-endian; NULL: `emit` is asked for it */
    size_t id;        /* for emit */
};

/* Calls st_put until all bytes of the item are there. */
typedef enum status st_emit(void *user, const struct st_item *item, struct st_sink *sink, struct err *err);
enum status st_put(struct st_sink *sink, const void *bytes, size_t n, struct err *err);

/* Publishes PATH with "format": "pt" and the pairs metadata[2k], metadata[2k+1] (NULL-terminated, may be NULL) in __metadata__.
 * Items in any order; they are written by dtype rank, then by name.  ERR_INPUT: a name twice or empty, a shape that overflows. */
enum status safetensors_write(const char *path, const struct st_item *items, size_t n, const char *const *metadata,
                              st_emit *emit, void *user, struct err *err);

#endif
