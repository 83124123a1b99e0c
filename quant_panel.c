/* quant_panel.c: the layout of quant_panel.h: there, back, and reading it. */
#include "quant_panel.h"

#include <stdlib.h>
#include <string.h>

#include "quant_affine.h"
#include "quant_ggml.h"

enum width { NIBBLES, BYTES };

/* Blocks of 32 with f16 scales. */
static bool is_block(enum format format)
{
    return format >= FORMAT_Q4_0 && format <= FORMAT_IQ4_NL;
}

bool quant_panel_is_super(enum format format)
{
    return format >= FORMAT_IQ4_XS && format <= FORMAT_Q6_K;
}

static bool is_five(enum format format)
{
    return format == FORMAT_Q5_0 || format == FORMAT_Q5_1;
}

static bool is_affine(enum format format)
{
    return quant_affine_bits(format) > 0;
}

static enum width width_of(enum format format)
{
    switch (format) {
    case FORMAT_INT8:
    case FORMAT_INT8_64:
    case FORMAT_NF8:
    case FORMAT_Q8_0:
    case FORMAT_Q5_0:
    case FORMAT_Q5_1:
    case FORMAT_Q5_K:
    case FORMAT_Q6_K:
        return BYTES;
    default:
        return NIBBLES;
    }
}

int quant_panel_bits(enum format format)
{
    return width_of(format) == BYTES ? 8 : 4;
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
    case FORMAT_Q5_0:
    case FORMAT_Q5_1:
    case FORMAT_Q8_0:
    case FORMAT_IQ4_NL:
    case FORMAT_IQ4_XS:
    case FORMAT_Q2_K:
    case FORMAT_Q3_K:
    case FORMAT_Q4_K:
    case FORMAT_Q5_K:
    case FORMAT_Q6_K:
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

/* The fifth bits of q5_0's and q5_1's codes, and their low four. */
static void put_five(uint8_t *block, size_t bytes, size_t e, uint8_t code)
{
    uint8_t *high = block + bytes - 20 + e / 8, *low = block + bytes - 16 + e % 16;
    *high = (uint8_t)(*high | (code >> 4 & 1) << e % 8);
    *low = (uint8_t)(*low | (code & 15) << (e < 16 ? 0 : 4));
}

/* Codes of the layout of files: bitsandbytes' nibbles (even element high), ggml's blocks, plain bytes. */
static void put_file_code(const struct qmat *q, uint8_t *codes, size_t i, uint8_t code)
{
    if (is_affine(q->format))
        quant_affine_set_code(q, i, code);
    else if (is_five(q->format))
        put_five(codes + i / GGML_BLOCK * quant_ggml_bytes(q->format), quant_ggml_bytes(q->format), i % GGML_BLOCK,
                 (uint8_t)(q->format == FORMAT_Q5_0 ? code + 16 : code));
    else if (is_block(q->format)) {
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
    return q->block > 0 && !q->double_quant && !format_is_ggml(q->format) && !is_affine(q->format) && q->cols % (size_t)q->block == 0;
}

/* ---- there and back ---- */

static size_t stored_bytes(const struct qmat *q)
{
    if (is_affine(q->format))
        return quant_affine_bytes(q->format, q->rows * q->cols);
    return format_is_ggml(q->format) ? quant_ggml_size(q->format, q->rows * q->cols) : code_bytes(q);
}

/* f16 numbers of a block or superblock. */
static size_t kinds_of(enum format format)
{
    return quant_ggml_scale_at(format, 1) >= 0 ? 2 : 1;
}

struct quant_panel_super quant_panel_super_of(const struct qmat *q)
{
    size_t n = q->rows * q->cols, kinds = kinds_of(q->format);
    struct quant_panel_super s = {.run = quant_kquant_run(q->format), .d = code_bytes(q)};
    s.dmin = s.d + 2 * (n / GGML_SUPERBLOCK);
    s.scale = s.d + 2 * kinds * (n / GGML_SUPERBLOCK);
    s.minimum = s.scale + n / s.run;
    s.end = s.scale + kinds * (n / s.run);
    return s;
}

size_t quant_panel_room(enum format format, int block, size_t rows, size_t cols)
{
    struct qmat q = {.format = format, .rows = rows, .cols = cols};
    if (!quant_has_panels(format, block, rows, cols))
        return 0;
    if (quant_panel_is_super(format))
        return quant_panel_super_of(&q).end;
    if (is_block(format))
        return code_bytes(&q) + 2 * kinds_of(format) * (rows * cols / GGML_BLOCK);
    return code_bytes(&q);
}

/* Scale of row, block b of the row: from[row, b] <-> to[p, b, r].  ggml: the f16 at `inside` bytes of each block. */
static size_t scale_place(size_t row, size_t b, size_t blocks)
{
    return (row / PANEL_ROWS * blocks + b) * PANEL_ROWS + row % PANEL_ROWS;
}

static void move_ggml_scales(const struct qmat *q, const uint8_t *from, uint8_t *to, bool into)
{
    size_t blocks = q->cols / quant_ggml_elements(q->format), bytes = quant_ggml_bytes(q->format);
    for (size_t kind = 0; kind < kinds_of(q->format); kind++)
        for (size_t row = 0; row < q->rows; row++)
            for (size_t b = 0; b < blocks; b++) {
                size_t file = (row * blocks + b) * bytes + (size_t)quant_ggml_scale_at(q->format, (int)kind);
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
    if (!is_block(q->format)) {
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

/* Four columns of codes of 5 bits, as bytes. */
static uint32_t four_fives(enum format format, const uint8_t *block, size_t e)
{
    const uint8_t *low = block + quant_ggml_bytes(format) - 16;
    uint32_t high = load32(low - 4) >> e & 15, v = load32(low + e % 16) >> (e < 16 ? 0 : 4) & 0x0f0f0f0fu;
    v |= (high & 1) << 4 | (high & 2) << 11 | (high & 4) << 18 | (high & 8) << 25;
    return format == FORMAT_Q5_0 ? ((v | 0x80808080u) - 0x10101010u) ^ 0x80808080u : v; /* code - 16, byte by byte */
}

/* Four columns of 8-bit codes. */
static uint32_t four_bytes(const struct qmat *q, const uint8_t *row, size_t col)
{
    if (is_five(q->format))
        return four_fives(q->format, row + col / GGML_BLOCK * quant_ggml_bytes(q->format), col % GGML_BLOCK);
    return load32(is_block(q->format) ? row + col / GGML_BLOCK * 34 + 2 + col % GGML_BLOCK : row + col);
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

/* ---- superblocks ---- */

/* The codes of 32 columns from `col` on, dword by dword. */
static void put_codes(const struct qmat *q, size_t row, size_t col, const int8_t code[GGML_BLOCK])
{
    size_t step = width_of(q->format) == BYTES ? 4 : 8;
    uint8_t *to = (uint8_t *)q->codes + ((row / PANEL_ROWS * (q->cols / step) + col / step) * PANEL_ROWS + row % PANEL_ROWS) * 4;
    for (size_t c = 0; c < GGML_BLOCK; c += step, to += PANEL_ROWS * 4)
        for (size_t i = 0; i < 4; i++) /* of nibbles: columns 4i and 4i + 2 of the even ones in the first two bytes, of the odd ones in the others */
            to[i] = (uint8_t)(step == 4 ? code[c + i] : (code[c + i % 2 * 4 + i / 2] & 15) | code[c + i % 2 * 4 + 2 + i / 2] << 4);
}

/* Run b of a row, of its scales number b * halves. */
static void run_to_panels(const struct qmat *q, const struct quant_panel_super *at, const struct quant_kquant *run, size_t row, size_t b)
{
    size_t halves = GGML_BLOCK / at->run, runs = q->cols / at->run;
    uint8_t *to = q->codes;
    put_codes(q, row, b * GGML_BLOCK, run->code);
    for (size_t h = 0; h < halves; h++) {
        size_t place = scale_place(row, b * halves + h, runs);
        to[at->scale + place] = (uint8_t)run->scale[h];
        if (at->minimum < at->end)
            to[at->minimum + place] = (uint8_t)run->minimum[h];
    }
}

static void run_from_panels(const struct qmat *old, const struct quant_panel_super *at, struct quant_kquant *run, size_t row, size_t b)
{
    size_t halves = GGML_BLOCK / at->run, runs = old->cols / at->run;
    const uint8_t *from = old->codes;
    for (size_t l = 0; l < GGML_BLOCK; l++)
        run->code[l] = (int8_t)panel_code(old, row, b * GGML_BLOCK + l);
    for (size_t h = 0; h < halves; h++) {
        size_t place = scale_place(row, b * halves + h, runs);
        run->scale[h] = (int8_t)from[at->scale + place];
        run->minimum[h] = at->minimum < at->end ? (int8_t)from[at->minimum + place] : 0;
    }
}

static void super_to_panels(const struct qmat *q, const uint8_t *from)
{
    const struct quant_panel_super at = quant_panel_super_of(q);
    size_t runs = q->cols / GGML_BLOCK, each = GGML_SUPERBLOCK / GGML_BLOCK, bytes = quant_ggml_bytes(q->format);
    for (size_t row = 0; row < q->rows; row++)
        for (size_t b = 0; b < runs; b++) {
            struct quant_kquant run;
            quant_kquant_read(q->format, from + (row * runs + b) / each * bytes, b % each, &run);
            run_to_panels(q, &at, &run, row, b);
        }
}

static void super_from_panels(const struct qmat *q, const uint8_t *from)
{
    const struct quant_panel_super at = quant_panel_super_of(q);
    size_t runs = q->cols / GGML_BLOCK, each = GGML_SUPERBLOCK / GGML_BLOCK, bytes = quant_ggml_bytes(q->format);
    struct qmat old = *q;
    old.codes = (void *)(uintptr_t)from; /* only read */
    memset(q->codes, 0, at.end);
    for (size_t row = 0; row < q->rows; row++)
        for (size_t b = 0; b < runs; b++) {
            struct quant_kquant run;
            run_from_panels(&old, &at, &run, row, b);
            quant_kquant_write(q->format, (uint8_t *)q->codes + (row * runs + b) / each * bytes, b % each, &run);
        }
}

static void move_codes(const struct qmat *q, const uint8_t *copy, bool into)
{
    if (quant_panel_is_super(q->format))
        (into ? super_to_panels : super_from_panels)(q, copy);
    else
        (into ? codes_to_panels : codes_from_panels)(q, copy);
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
    move_codes(q, copy, into);
    if (format_is_ggml(q->format))
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
    if (quant_panel_is_super(q->format))
        return quant_kquant_run(q->format);
    if (is_block(q->format))
        return GGML_BLOCK;
    return q->block == 0 ? q->cols : common_divisor(q->cols, (size_t)q->block);
}

static float half_at(const struct qmat *q, size_t i)
{
    uint16_t h;
    memcpy(&h, (const uint8_t *)q->codes + code_bytes(q) + 2 * i, 2);
    return f32_from_f16(h);
}

/* In the operations of quant_kquant_decode. */
static void super_scales(const struct qmat *q, size_t row, size_t k, float *scale, float *minimum)
{
    const struct quant_panel_super at = quant_panel_super_of(q);
    size_t d = scale_place(row, k / GGML_SUPERBLOCK, q->cols / GGML_SUPERBLOCK), place = scale_place(row, k / at.run, q->cols / at.run);
    const int8_t *bytes = q->codes;
    *scale = half_at(q, d) * (float)bytes[at.scale + place];
    if (minimum && at.minimum < at.end)
        *minimum = -(half_at(q, (at.dmin - at.d) / 2 + d) * (float)bytes[at.minimum + place]);
}

void quant_panel_scales(const struct qmat *q, size_t p, size_t k, float *scale, float *minimum)
{
    for (size_t r = 0; r < PANEL_ROWS; r++) {
        size_t row = p * PANEL_ROWS + r;
        if (minimum)
            minimum[r] = q->format == FORMAT_Q4_0 || q->format == FORMAT_Q5_0 ? 0 : -0.0f;
        if (quant_panel_is_super(q->format)) {
            super_scales(q, row, k, &scale[r], minimum ? &minimum[r] : NULL);
        } else if (is_block(q->format)) {
            size_t at = scale_place(row, k / GGML_BLOCK, q->cols / GGML_BLOCK);
            scale[r] = half_at(q, at);
            if (minimum && kinds_of(q->format) == 2)
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
    case FORMAT_IQ4_NL:
    case FORMAT_IQ4_XS:
        return quant_iq4_table[code] * scale;
    case FORMAT_Q4_0: /* + 0: no negative zeros, as in quant_ggml.c */
    case FORMAT_Q3_K:
        return (float)(code - 8) * scale + minimum;
    default:
        return (float)(int8_t)code * scale + minimum; /* of nibbles the sign is never set */
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
