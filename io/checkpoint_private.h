/* checkpoint_private.h: what each container answers; private to the checkpoint. */
#ifndef VENEER_CHECKPOINT_PRIVATE_H
#define VENEER_CHECKPOINT_PRIVATE_H
#include "base/file.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"

struct checkpoint_ops {
    const char *kind;
    bool (*has)(const struct checkpoint *c, const char *name);
    /* Shape as [rows, cols] (1-D: rows = 1) and stored format. */
    enum status (*format)(const struct checkpoint *c, const char *name, struct qmat *shape, struct err *err);
    enum status (*read)(const struct checkpoint *c, const char *name, real *dst, size_t rows, size_t cols, struct err *err);
    enum status (*read_codes)(const struct checkpoint *c, const char *name, struct qmat *dst, struct err *err);
    enum status (*tokenizer)(struct checkpoint *c, struct err *err); /* sets own_tokenizer */
};

struct checkpoint {
    const struct checkpoint_ops *ops;
    char *path;
    struct model_config config;
    struct tokenizer *own_tokenizer;
    struct safetensors st; /* folders */
    struct gguf *gguf;
    bool permuted;         /* GGUF: rows of q and k are in interleaved order */
    struct file file;      /* llama2.c */
    char *plan;            /* plan.txt */
    bool shapes_do;        /* a folder without weights is no error */
    struct qmat promised[2]; /* formats of its tensors (torch_dtype) and of its linears (quantization_config) */
};

/* A tensor that the config promises to every layer, or that must not be there. */
struct checkpoint_promise {
    const char *leaf;
    size_t rows, cols;
    bool optional;
};
enum { CHECKPOINT_PROMISES = 16 };
void checkpoint_layer_promises(const struct checkpoint *c, int l, struct checkpoint_promise promise[CHECKPOINT_PROMISES]);

enum status checkpoint_open_folder(struct checkpoint *c, struct err *err);
/* checkpoint_shapes.c: what a folder without weights answers. json[n]: its config.json, that `where` names. */
enum status checkpoint_take_shapes(struct checkpoint *c, const char *json, size_t n, const char *where, struct err *err);
enum status checkpoint_open_gguf(struct checkpoint *c, struct err *err);
enum status checkpoint_open_llama2c(struct checkpoint *c, struct err *err);

/* Layer and leaf ("self_attn.q_proj.weight") of a Hugging Face name; -1: not of a layer. */
int checkpoint_layer(const char *name, const char **leaf);
/* Rows of each head from interleaved pairs (2j, 2j+1) back to halves (j, j + D/2); `to` and `from` do not overlap. */
void checkpoint_unpermute(real *to, const real *from, size_t heads, size_t D, size_t cols);
/* Heads of q or k in this layer, 0 for every other tensor. */
size_t checkpoint_heads(const struct checkpoint *c, const char *name);

#endif
