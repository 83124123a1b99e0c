/* quant_panel.c: the layout of quant_panel.h: there, back, and reading it. */
#include "quant_panel.h"

#include <stdlib.h>
#include <string.h>

#include "quant_affine.h"
#include "quant_ggml.h"

enum width { NIBBLES, BYTES };

static bool is_ggml(enum format format)
{
    return format == FORMAT_Q4_0 || format == FORMAT_Q4_1 || format == FORMAT_Q8_0;
}

static bool is_affine(enum format format)
{
    return quant_affine_bits(format) > 0;
}

static enum width width_of(enum format format)
{
    return is_affine(format) || format == FORMAT_NF4 || format == FORMAT_FP4 || format == FORMAT_Q4_0 || format == FORMAT_Q4_1 ? NIBBLES : BYTES;
}

bool quant_has_panels(enum format format, int block, size_t rows, size_t cols)
{
    switch (format) {
    case FORMAT_NF4:
    case FORMAT_FP4:
    case FORMAT_INT8:
    case FORMAT_INT8_64:
    case FORMAT_NF8:
    case FORMAT_Q4_0:
    case FORMAT_Q4_1:
    case FORMAT_Q8_0:
        return rows % PANEL_ROWS == 0 && cols % 8 == 0 && block % 8 == 0;
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return rows % PANEL_ROWS == 0 && cols % 32 == 0; /* kernels sum x over runs of 32 */
    default:
        return false;
    }
}

/* ---- where an element lies ---- */

/* Codes of the layout of files: bitsandbytes' nibbles (even element high), ggml's blocks, plain bytes. */
static void put_file_code(const struct qmat *q, uint8_t *codes, size_t i, uint8_t code)
{
    if (is_affine(q->format))
        quant_affine_set_code(q, i, code);
    else if (is_ggml(q->format)) {
        size_t bytes = quant_ggml_bytes(q->format), e = i % GGML_BLOCK, inside = bytes == 20 ? 4 : 2;
        uint8_t *at = codes + i / GGML_BLOCK * bytes + inside + (q->format == FORMAT_Q8_0 ? e : e % 16);
        *at = (uint8_t)(q->format == FORMAT_Q8_0 ? code : e < 16 ? *at | code : *at | code << 4);
    } else if (width_of(q->format) == BYTES)
        codes[i] = code;
    else
        codes[i / 2] = (uint8_t)(codes[i / 2] | (i % 2 == 0 ? code << 4 : code));
}

/* Byte and shift of element (row, col) in panels. */
static size_t panel_byte(const struct qmat *q, size_t row, size_t col, int *shift)
{
    size_t p = row / PANEL_ROWS, r = row % PANEL_ROWS;
    if (width_of(q->format) == BYTES) {
        *shift = 0;
        return ((p * (q->cols / 4) + col / 4) * PANEL_ROWS + r) * 4 + col % 4;
    }
    size_t pair = col % 8 / 2; /* nibble `pair` of the low word, or of the high one */
    *shift = pair % 2 ? 4 : 0;
    return ((p * (q->cols / 8) + col / 8) * PANEL_ROWS + r) * 4 + (col % 2) * 2 + pair / 2;
}

static uint8_t panel_code(const struct qmat *q, size_t row, size_t col)
{
    int shift;
    size_t at = panel_byte(q, row, col, &shift);
    uint8_t byte = ((const uint8_t *)q->codes)[at];
    return (uint8_t)(width_of(q->format) == BYTES ? byte : byte >> shift & 15);
}

/* Bytes of all codes, behind which ggml's scales lie. */
static size_t code_bytes(const struct qmat *q)
{
    return width_of(q->format) == BYTES ? q->rows * q->cols : q->rows * q->cols / 2;
}

static bool scales_move(const struct qmat *q)
{
    return q->block > 0 && !q->double_quant && !is_ggml(q->format) && !is_affine(q->format) && q->cols % (size_t)q->block == 0;
}

/* ---- there and back ---- */

static size_t stored_bytes(const struct qmat *q)
{
    if (is_affine(q->format))
        return quant_affine_bytes(q->format, q->rows * q->cols);
    return is_ggml(q->format) ? quant_ggml_size(q->format, q->rows * q->cols) : code_bytes(q);
}

size_t quant_panel_room(enum format format, int block, size_t rows, size_t cols)
{
    struct qmat q = {.format = format, .rows = rows, .cols = cols};
    if (!quant_has_panels(format, block, rows, cols))
        return 0;
    return is_affine(format) ? code_bytes(&q) : stored_bytes(&q);
}

/* Scale of row, block b of the row: from[row, b] <-> to[p, b, r].  ggml: the f16 at `inside` bytes of each block. */
static size_t scale_place(size_t row, size_t b, size_t blocks)
{
    return (row / PANEL_ROWS * blocks + b) * PANEL_ROWS + row % PANEL_ROWS;
}

static void move_ggml_scales(const struct qmat *q, const uint8_t *from, uint8_t *to, bool into)
{
    size_t blocks = q->cols / GGML_BLOCK, bytes = quant_ggml_bytes(q->format), kinds = bytes == 20 ? 2 : 1;
    for (size_t kind = 0; kind < kinds; kind++)
        for (size_t row = 0; row < q->rows; row++)
            for (size_t b = 0; b < blocks; b++) {
                size_t file = (row * blocks + b) * bytes + kind * 2;
                size_t panel = code_bytes(q) + (kind * q->rows * blocks + scale_place(row, b, blocks)) * 2;
                memcpy(to + (into ? panel : file), from + (into ? file : panel), 2);
            }
}

static void move_scales(const struct qmat *q, const float *from, float *to, bool into)
{
    size_t blocks = q->cols / (size_t)q->block;
    for (size_t row = 0; row < q->rows; row++)
        for (size_t b = 0; b < blocks; b++) {
            size_t file = row * blocks + b, panel = scale_place(row, b, blocks);
            to[into ? panel : file] = from[into ? file : panel];
        }
}

/* Nibbles 0 .. 3 from the low halves of bytes 0 .. 3. */
static uint32_t gather_nibbles(uint32_t bytes)
{
    uint32_t x = bytes & 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return (x | x >> 8) & 0xffffu;
}

static uint32_t load32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Eight columns from `col` of a row in the layout of files: even columns in the low word. */
static uint32_t eight_nibbles(const struct qmat *q, const uint8_t *row, size_t col)
{
    if (is_affine(q->format)) {
        uint64_t code = quant_affine_eight(q->format, row + col / 8 * (size_t)quant_affine_bits(q->format));
        uint64_t even = code & 0x000f000f000f000fu, odd = code >> 8 & 0x000f000f000f000fu; /* from 16 bits to 4 */
        uint64_t both = even | odd << 4;
        both = (both | both >> 8) & 0x0000ffff0000ffffu;
        both |= both >> 16; /* nibbles even odd even odd ... */
        return gather_nibbles((uint32_t)both) | gather_nibbles((uint32_t)both >> 4) << 16;
    }
    if (!is_ggml(q->format)) {
        uint32_t v = load32(row + col / 2); /* column 2k in the high nibble of byte k */
        return gather_nibbles(v >> 4) | gather_nibbles(v) << 16;
    }
    size_t bytes = quant_ggml_bytes(q->format), e = col % GGML_BLOCK; /* columns e and e + 16 share a byte */
    const uint8_t *at = row + col / GGML_BLOCK * bytes + (bytes == 20 ? 4 : 2) + e % 16;
    int shift = e < 16 ? 0 : 4;
    uint32_t a = load32(at) >> shift & 0x0f0f0f0fu, b = load32(at + 4) >> shift & 0x0f0f0f0fu;
    uint32_t even = (a & 0xff) | (a >> 16 & 0xff) << 8 | (b & 0xff) << 16 | (b >> 16 & 0xff) << 24;
    uint32_t odd = (a >> 8 & 0xff) | (a >> 24) << 8 | (b >> 8 & 0xff) << 16 | (b >> 24) << 24;
    return gather_nibbles(even) | gather_nibbles(odd) << 16;
}

/* Four columns of 8-bit codes. */
static uint32_t four_bytes(const struct qmat *q, const uint8_t *row, size_t col)
{
    return load32(is_ggml(q->format) ? row + col / GGML_BLOCK * 34 + 2 + col % GGML_BLOCK : row + col);
}

static void codes_to_panels(const struct qmat *q, const uint8_t *from)
{
    bool nibbles = width_of(q->format) == NIBBLES;
    size_t step = nibbles ? 8 : 4, row_bytes = stored_bytes(q) / q->rows;
    uint8_t *to = q->codes;
    for (size_t row0 = 0; row0 < q->rows; row0 += PANEL_ROWS)
        for (size_t col = 0; col < q->cols; col += step)
            for (size_t r = 0; r < PANEL_ROWS; r++, to += 4) {
                const uint8_t *row = from + (row0 + r) * row_bytes;
                uint32_t v = nibbles ? eight_nibbles(q, row, col) : four_bytes(q, row, col);
                to[0] = (uint8_t)v;
                to[1] = (uint8_t)(v >> 8);
                to[2] = (uint8_t)(v >> 16);
                to[3] = (uint8_t)(v >> 24);
            }
}

static void codes_from_panels(const struct qmat *q, const uint8_t *from)
{
    struct qmat old = *q;
    old.codes = (void *)(uintptr_t)from;   /* only read */
    memset(q->codes, 0, quant_panel_room(q->format, q->block, q->rows, q->cols)); /* nibbles are or-ed in */
    for (size_t row = 0; row < q->rows; row++)
        for (size_t col = 0; col < q->cols; col++)
            put_file_code(q, q->codes, row * q->cols + col, panel_code(&old, row, col));
}

static enum status rearrange(struct qmat *q, bool into, struct err *err)
{
    if (!quant_has_panels(q->format, q->block, q->rows, q->cols) || q->panels == into)
        return OK;
    size_t bytes = into ? stored_bytes(q) : quant_panel_room(q->format, q->block, q->rows, q->cols);
    size_t floats = scales_move(q) ? q->rows * (q->cols / (size_t)q->block) : 0;
    uint8_t *copy = malloc(bytes + floats * sizeof(float) + 1);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a copy of a matrix of %zu bytes", bytes);
    memcpy(copy, q->codes, bytes);
    (into ? codes_to_panels : codes_from_panels)(q, copy);
    if (is_ggml(q->format))
        move_ggml_scales(q, copy, q->codes, into);
    if (floats > 0) {
        memcpy(copy, q->scales, floats * sizeof(float));
        move_scales(q, (const float *)(const void *)copy, q->scales, into);
    }
    free(copy);
    q->panels = into;
    return OK;
}

enum status quant_to_panels(struct qmat *q, struct err *err)
{
    return rearrange(q, true, err);
}

enum status quant_from_panels(struct qmat *q, struct err *err)
{
    return rearrange(q, false, err);
}

/* ---- reading ---- */

static size_t common_divisor(size_t a, size_t b)
{
    return b == 0 ? a : common_divisor(b, a % b);
}

size_t quant_panel_run(const struct qmat *q)
{
    if (is_ggml(q->format))
        return GGML_BLOCK;
    return q->block == 0 ? q->cols : common_divisor(q->cols, (size_t)q->block);
}

static float half_at(const struct qmat *q, size_t i)
{
    uint16_t h;
    memcpy(&h, (const uint8_t *)q->codes + code_bytes(q) + 2 * i, 2);
    return f32_from_f16(h);
}

void quant_panel_scales(const struct qmat *q, size_t p, size_t k, float *scale, float *minimum)
{
    for (size_t r = 0; r < PANEL_ROWS; r++) {
        size_t row = p * PANEL_ROWS + r;
        if (minimum)
            minimum[r] = 0;
        if (is_ggml(q->format)) {
            size_t at = scale_place(row, k / GGML_BLOCK, q->cols / GGML_BLOCK);
            scale[r] = half_at(q, at);
            if (minimum && q->format == FORMAT_Q4_1)
                minimum[r] = half_at(q, q->rows * (q->cols / GGML_BLOCK) + at);
        } else if (is_affine(q->format)) {
            size_t group = (row * q->cols + k) / AFFINE_GROUP;
            scale[r] = quant_affine_scale(q, group);
            if (minimum)
                minimum[r] = -(quant_affine_zero(q, group) * scale[r]);
        } else if (q->format == FORMAT_INT8)
            scale[r] = q->scales[row] * 0.007874015718698502f;
        else {
            float s = scales_move(q) ? q->scales[scale_place(row, k / (size_t)q->block, q->cols / (size_t)q->block)]
                                     : quant_block_scale(q, (row * q->cols + k) / (size_t)q->block);
            scale[r] = q->format == FORMAT_INT8_64 ? s / 127 : s;
        }
    }
}

/* One element in the same operations as the layout of files: the same bits. */
static float value_of(const struct qmat *q, uint8_t code, float scale, float minimum)
{
    switch (q->format) {
    case FORMAT_NF4:
        return quant_nf4_table[code] * scale;
    case FORMAT_FP4:
        return quant_fp4_table[code] * scale;
    case FORMAT_NF8:
        return quant_nf8_table()[code] * scale;
    case FORMAT_Q4_0:
        return (float)(code - 8) * scale + minimum; /* + 0: no negative zeros, as in quant_ggml.c */
    case FORMAT_Q4_1:
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return (float)code * scale + minimum;
    default:
        return (float)(int8_t)code * scale;
    }
}

void quant_panel_decode_span(const struct qmat *q, size_t row, size_t col0, size_t n, real *out)
{
    size_t run = quant_panel_run(q), p = row / PANEL_ROWS, r = row % PANEL_ROWS;
    for (size_t k = col0; k < col0 + n;) {
        size_t end = (k / run + 1) * run < col0 + n ? (k / run + 1) * run : col0 + n;
        float scale[PANEL_ROWS], minimum[PANEL_ROWS];
        quant_panel_scales(q, p, k, scale, minimum);
        for (; k < end; k++) {
            uint8_t code = panel_code(q, row, k);
            *out++ = q->format == FORMAT_INT8 ? (real)((float)(int8_t)code * q->scales[row] * 0.007874015718698502f)
                                              : (real)value_of(q, code, scale[r], minimum[r]);
        }
    }
}
