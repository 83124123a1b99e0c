/* quant.h: number formats.  One table row per format; a matrix in any of them is a `struct qmat`.
 *
 * What it is not: it knows no layer and no file.  The byte layouts are bitsandbytes' (nf4, fp4, int8), ggml's (q4_0 ...) and quant_affine.h's (hqq2 ...).
 * Sources: Dettmers et al. 2023 (QLoRA, arXiv:2305.14314) app. E; Dettmers et al. 2022 (LLM.int8, arXiv:2208.07339). */
#ifndef VENEER_QUANT_H
#define VENEER_QUANT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/real.h"

enum format {
    FORMAT_F32, /* stored as `real` */
    FORMAT_F16,
    FORMAT_BF16,
    FORMAT_NF4,     /* blocks over the flattened matrix, default 64; fp32 absmax, or double quantization */
    FORMAT_FP4,     /* likewise */
    FORMAT_INT8,    /* LLM.int8: one fp32 absmax a row, w = code * absmax / 127 */
    FORMAT_INT8_64, /* int8 in blocks of 64 over the flattened matrix, w = code * absmax / 127 */
    FORMAT_NF8,     /* 256 normal quantiles, blocks of 64: what PEFT 0.11's 8-bit LoftQ computed */
    FORMAT_Q4_0,    /* ggml blocks of 32 along a row; columns must be a multiple of 32 */
    FORMAT_Q4_1,
    FORMAT_Q5_0,
    FORMAT_Q5_1,
    FORMAT_Q8_0,
    FORMAT_IQ4_NL,
    FORMAT_IQ4_XS, /* ggml superblocks of 256 along a row, only read; columns must be a multiple of 256 */
    FORMAT_Q2_K,
    FORMAT_Q3_K,
    FORMAT_Q4_K,
    FORMAT_Q5_K,
    FORMAT_Q6_K,
    FORMAT_HQQ2, /* affine codes in groups of 128 over the flattened matrix (quant_affine.h) */
    FORMAT_HQQ3,
    FORMAT_HQQ4,
    FORMAT_COUNT
};

struct format_info {
    const char *name;  /* as in config.txt: "nf4" */
    double bits;       /* nominal bits of a code: 4, 8, 16, 32 */
    int default_block; /* elements that share a scale; 0: the whole row (int8) or none (floats) */
    int row_multiple;  /* columns must be a multiple of this */
    bool double_quant; /* can have it */
    bool read_only;    /* comes from files alone: there is no encoder */
};

const struct format_info *format_info(enum format format);
bool format_is_float(enum format format); /* f32, f16, bf16: numbers instead of codes */
bool format_is_ggml(enum format format);  /* q4_0 ... q6_k: whole blocks with their scales inside */
/* ERR_INPUT with the nearest known name. */
enum status format_parse(const char *name, enum format *format, struct err *err);

/* A matrix W[rows, cols] in a format.  Memory belongs to whoever placed it. */
struct qmat {
    enum format format;
    uint8_t double_quant; /* nf4, fp4: scales are 8-bit codes of the dynamic map */
    uint8_t panels;       /* 1: rearranged for the kernels (quant_panel.h) */
    int32_t block;        /* 0 where the format has none */
    size_t rows, cols;
    void *codes;          /* floats: the values.  nf4, fp4: (n+1)/2 bytes, element 2k in the HIGH nibble.  int8: int8_t[n].
                             ggml formats: whole blocks with their scales inside.  hqq2 ...: a stream of bits, and room for quant_panel.h's */
    float *scales;        /* absmax a block (or a row); NULL for floats, ggml formats, affine codes and double quantization */
    uint16_t *affine;     /* hqq2 ...: [groups][2], f16 scale and f16 zero; NULL otherwise */
    uint8_t *scale_codes; /* double quantization: [blocks] */
    float *nested_absmax; /* double quantization: [ceil(blocks / 256)] */
    float nested_offset;  /* double quantization: mean of all absmax */
};

/* ERR_INPUT when a matrix of this shape cannot be encoded in the format (row_multiple, block outside 32..4096, read_only). */
enum status quant_check(enum format format, int block, size_t rows, size_t cols, struct err *err);
/* The same of a matrix that need not be encoded: read_only formats are fine. */
enum status quant_check_shape(enum format format, int block, size_t rows, size_t cols, struct err *err);
/* Sets the shape and takes the memory (counts while the arena counts): quant_bytes, or more where panels want it (quant_panel_room; memory of a
 * device, which has tables, holds none).  block 0: the format's default. */
void quant_place(struct qmat *q, enum format format, int block, bool double_quant, size_t rows, size_t cols,
                 struct arena *arena);
/* Bytes of codes, scales (and zeros) and nested scales. */
size_t quant_bytes(enum format format, int block, bool double_quant, size_t rows, size_t cols);
/* The same bits into `to`, placed with from's format, block and shape; panels stay panels. */
void quant_copy(struct qmat *to, const struct qmat *from);
/* Where the codes of row `row` begin; of a matrix in panels (quant_panel.h), those of the panel that begins with it: a multiple of 16. */
const void *quant_row(const struct qmat *q, size_t row);

/* ERR_FAILED names the first element that is not finite or that the format would make infinite by itself; f16_first as in quant_encode. */
enum status quant_check_values(const struct qmat *q, const real *W, bool f16_first, struct err *err);
/* W[rows, cols] -> q (placed).  ERR_FAILED names the element when W is not finite or the format would make it infinite (f16, bf16 and
 * the f16 scales of ggml's blocks and of affine groups have a largest number).  hqq2 ...: quant_affine_encode; ERR_MEMORY.  An all-zero block stores absmax 0 and the
 * code of zero (nf4 7, fp4 0, int8 0).  ERR_INPUT: read_only.  f16_first: round W to fp16 before int8, as bitsandbytes' Linear8bitLt does. */
enum status quant_encode(struct qmat *q, const real *W, bool f16_first, struct err *err);
/* Rows row0 .. row0+n-1 as reals: out[n, cols]. */
void quant_decode_rows(const struct qmat *q, size_t row0, size_t n, real *out);
/* Elements col0 .. col0+n-1 of one row: out[n].  ggml's blocks: col0 a multiple of 32. */
void quant_decode_span(const struct qmat *q, size_t row, size_t col0, size_t n, real *out);
/* Scale of a block of nf4, fp4, int8_64, nf8 in the layout of files, restored where it is itself quantized; never below 0. */
float quant_block_scale(const struct qmat *q, size_t block);
/* False when a stored number or scale is NaN or infinite: the matrix decodes to such.  Layout of files; F32 is not looked at. */
bool quant_is_finite(const struct qmat *q);
/* ||W - decode(q)||_F^2 / ||W||_F^2 */
double quant_error(const struct qmat *q, const real *W);

/* The code books, for readers and writers of files: 16 floats (nf4, fp4), 256 (nf8, dynamic map). */
extern const float quant_nf4_table[16];
extern const float quant_fp4_table[16];
const float *quant_nf8_table(void);
const float *quant_dynamic_table(bool is_signed);
/* Nearest entry of an ascending table by midpoints, ties down. */
uint8_t quant_nearest256(const float table[256], float x);
/* Nearest entry of the signed (or unsigned) dynamic map by midpoints, ties down; x in [-1, 1]. Used by double quantization and 8-bit Adam. */
uint8_t quant_dynamic_code(float x, bool is_signed);

uint16_t f16_from_f32(float x); /* round to nearest even */
uint16_t f16_within_range(float x); /* the same, but what is too large, infinity too, becomes the largest number, 65504 */
float f32_from_f16(uint16_t h);
uint16_t bf16_from_f32(float x);
float f32_from_bf16(uint16_t h);

#endif
