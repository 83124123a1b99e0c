/* gguf_private.h: what the files of gguf share. */
#ifndef VENEER_GGUF_PRIVATE_H
#define VENEER_GGUF_PRIVATE_H
#include "base/file.h"
#include "io/gguf.h"

struct gguf_entry {
    struct gguf_value value;
    uint64_t key_at, key_n, start; /* in the header; value's pointers are set when the header has stopped growing */
};

struct gguf_info {
    struct gguf_tensor tensor;
    uint64_t name_at, name_n;
};

struct gguf {
    struct file file;
    unsigned char *header; /* the first `loaded` bytes of the file */
    uint64_t loaded;
    uint32_t version;
    struct gguf_entry *entry; /* [n_entries], by key */
    struct gguf_info *info;   /* [n_infos], by name */
    size_t n_entries, n_infos;
    char *pool; /* keys, names and string values, each with a NUL */
};

/* One row per number format of ggml. */
struct ggml_type_row {
    const char *name;
    uint16_t block, bytes; /* elements and bytes of a block; 0: no such type */
    int16_t format;        /* enum format, or -1 where quant.h has none */
};
const struct ggml_type_row *ggml_type_row(uint32_t type); /* NULL: ggml has no such type */

size_t gguf_type_bytes(enum gguf_type type); /* of a scalar; 0: string, array */

#endif
