/* export_private.h: what the writers of GGUF files share: names, the order of rows, a tensor made from reals. */
#ifndef VENEER_EXPORT_PRIVATE_H
#define VENEER_EXPORT_PRIVATE_H
#include "export.h"
#include "io/gguf.h"

/* general.architecture: "llama", or "deci" when widths differ between layers. */
const char *export_gguf_architecture(const struct model_config *config);
/* "blk.3.attn_q.SUFFIX" */
void export_gguf_name(int layer, enum linear linear, const char *suffix, char name[GGUF_MAX_TENSOR_NAME + 1]);
/* Our row that is row r of linear j in a GGUF.  ggml's "norm" rope turns pairs (2j, 2j+1), ours (j, j + D/2): row 2j+p of a head of q or k is our
 * row p D/2 + j; other linears keep their order. */
size_t export_gguf_row(int j, size_t r, size_t head_dim);
/* Appends a matrix [rows, cols] to the list; its bytes come from `emit`. */
enum status export_gguf_matrix(struct gguf_writer *w, const char *name, size_t rows, size_t cols, enum format format, size_t id, struct err *err);
/* W in the item's format and shape.  Errors as quant_encode's. */
enum status export_gguf_encoded(const real *W, const struct gguf_item *item, struct gguf_sink *sink, struct err *err);

#endif
