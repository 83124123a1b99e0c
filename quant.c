/* quant.c: the table of formats; placing, encoding and decoding a matrix.  ggml's blocks are in quant_ggml.c, affine
 * groups in quant_affine.c, code books in quant_tables.c. */
#include "quant.h"

#include <math.h>
#include <string.h>

#include "quant_affine.h"
#include "quant_ggml.h"
#include "quant_panel.h"

static const struct format_info formats[FORMAT_COUNT] = {
    /*                 name     bits block row double_quant read_only */
    [FORMAT_F32] = {"f32", 32, 0, 1, false, false},      [FORMAT_F16] = {"f16", 16, 0, 1, false, false},
    [FORMAT_BF16] = {"bf16", 16, 0, 1, false, false},    [FORMAT_NF4] = {"nf4", 4, 64, 1, true, false},
    [FORMAT_FP4] = {"fp4", 4, 64, 1, true, false},       [FORMAT_INT8] = {"int8", 8, 0, 1, false, false},
    [FORMAT_INT8_64] = {"int8_64", 8, 64, 1, false, false}, [FORMAT_NF8] = {"nf8", 8, 64, 1, false, false},
    [FORMAT_Q4_0] = {"q4_0", 4, 32, 32, false, false},   [FORMAT_Q4_1] = {"q4_1", 4, 32, 32, false, false},
    [FORMAT_Q5_0] = {"q5_0", 5, 32, 32, false, false},   [FORMAT_Q5_1] = {"q5_1", 5, 32, 32, false, false},
    [FORMAT_Q8_0] = {"q8_0", 8, 32, 32, false, false},   [FORMAT_IQ4_NL] = {"iq4_nl", 4, 32, 32, false, false},
    [FORMAT_IQ4_XS] = {"iq4_xs", 4, 256, 256, false, true}, [FORMAT_Q2_K] = {"q2_k", 2, 256, 256, false, true},
    [FORMAT_Q3_K] = {"q3_k", 3, 256, 256, false, true},  [FORMAT_Q4_K] = {"q4_k", 4, 256, 256, false, true},
    [FORMAT_Q5_K] = {"q5_k", 5, 256, 256, false, true},  [FORMAT_Q6_K] = {"q6_k", 6, 256, 256, false, true},
    [FORMAT_HQQ2] = {"hqq2", 2, AFFINE_GROUP, 1, false, false}, [FORMAT_HQQ3] = {"hqq3", 3, AFFINE_GROUP, 1, false, false},
    [FORMAT_HQQ4] = {"hqq4", 4, AFFINE_GROUP, 1, false, false},
};
enum { NESTED = 256, MIN_BLOCK = 32, MAX_BLOCK = 4096 };

const struct format_info *format_info(enum format format)
{
    return &formats[format];
}

/* How many letters two names have in common, place by place: enough to find the name that was meant. */
static int likeness(const char *a, const char *b)
{
    int same = 0;
    for (size_t i = 0; a[i] && b[i]; i++)
        same += a[i] == b[i] ? 2 : 0;
    size_t na = strlen(a), nb = strlen(b);
    return same - (int)(na > nb ? na - nb : nb - na);
}

bool format_is_float(enum format format)
{
    return format == FORMAT_F32 || format == FORMAT_F16 || format == FORMAT_BF16;
}

bool format_is_ggml(enum format f)
{
    return f >= FORMAT_Q4_0 && f <= FORMAT_Q6_K;
}

enum status format_parse(const char *name, enum format *format, struct err *err)
{
    int best = 0;
    for (int i = 0; i < FORMAT_COUNT; i++) {
        if (strcmp(name, formats[i].name) == 0) {
            *format = (enum format)i;
            return OK;
        }
        if (likeness(name, formats[i].name) > likeness(name, formats[best].name))
            best = i;
    }
    return err_set(err, ERR_INPUT, "unknown format '%s', the nearest known one is '%s'", name, formats[best].name);
}

/* ---- shapes and sizes ---- */

static bool is_affine(enum format f)
{
    return quant_affine_bits(f) > 0;
}

static bool is_nibbles(enum format f)
{
    return f == FORMAT_NF4 || f == FORMAT_FP4;
}

static size_t blocks_of(enum format f, int block, size_t rows, size_t cols)
{
    if (f == FORMAT_INT8)
        return rows;
    return block ? (rows * cols + (size_t)block - 1) / (size_t)block : 0;
}

static size_t code_bytes(enum format f, size_t rows, size_t cols)
{
    size_t n = rows * cols;
    if (f == FORMAT_F32)
        return n * sizeof(real);
    if (f == FORMAT_F16 || f == FORMAT_BF16)
        return 2 * n;
    if (is_nibbles(f))
        return (n + 1) / 2;
    if (is_affine(f))
        return quant_affine_bytes(f, n);
    return format_is_ggml(f) ? quant_ggml_size(f, n) : n;
}

/* Bytes of what one block is scaled with. */
static size_t scale_bytes(enum format f)
{
    return is_affine(f) ? 2 * sizeof(uint16_t) : sizeof(float);
}

static int block_or_default(enum format f, int block)
{
    return is_nibbles(f) && block ? block : formats[f].default_block;
}

static enum status check_writable(enum format format, struct err *err)
{
    if (!formats[format].read_only)
        return OK;
    return err_set(err, ERR_INPUT, "%s is only read from GGUF files, want a format that can be written, such as q4_0, iq4_nl or q8_0",
                   formats[format].name);
}

enum status quant_check(enum format format, int block, size_t rows, size_t cols, struct err *err)
{
    TRY(check_writable(format, err));
    return quant_check_shape(format, block, rows, cols, err);
}

enum status quant_check_shape(enum format format, int block, size_t rows, size_t cols, struct err *err)
{
    size_t multiple = (size_t)formats[format].row_multiple;
    if (rows == 0 || cols == 0 || cols % multiple != 0)
        return err_set(err, ERR_INPUT, "a matrix of %zu x %zu cannot be %s, which wants columns in multiples of %zu", rows, cols,
                       formats[format].name, multiple);
    if (is_nibbles(format) && block != 0 && (block < MIN_BLOCK || block > MAX_BLOCK || (block & (block - 1)) != 0))
        return err_set(err, ERR_INPUT, "block = %d for %s, want a power of two from %d to %d", block, formats[format].name,
                       MIN_BLOCK, MAX_BLOCK);
    return OK;
}

void quant_place(struct qmat *q, enum format format, int block, bool double_quant, size_t rows, size_t cols, struct arena *arena)
{
    block = block_or_default(format, block);
    bool twice = double_quant && formats[format].double_quant;
    size_t blocks = format_is_ggml(format) ? 0 : blocks_of(format, block, rows, cols);
    *q = (struct qmat){.format = format, .double_quant = twice, .block = block, .rows = rows, .cols = cols};
    size_t bytes = code_bytes(format, rows, cols), room = arena->tables ? 0 : quant_panel_room(format, block, rows, cols);
    q->codes = arena_take(arena, room > bytes ? room : bytes, 1);
    if (is_affine(format))
        q->affine = arena_take(arena, blocks, scale_bytes(format));
    else if (blocks && !twice)
        q->scales = arena_take(arena, blocks, sizeof *q->scales);
    if (blocks && twice) {
        q->scale_codes = arena_take(arena, blocks, 1);
        q->nested_absmax = arena_take(arena, (blocks + NESTED - 1) / NESTED, sizeof *q->nested_absmax);
    }
}

void quant_copy(struct qmat *to, const struct qmat *from)
{
    size_t bytes = code_bytes(from->format, from->rows, from->cols), room = quant_panel_room(from->format, from->block, from->rows, from->cols);
    size_t blocks = format_is_ggml(from->format) ? 0 : blocks_of(from->format, from->block, from->rows, from->cols);
    memcpy(to->codes, from->codes, from->panels ? room : bytes);
    if (from->affine)
        memcpy(to->affine, from->affine, blocks * scale_bytes(from->format));
    if (from->scales)
        memcpy(to->scales, from->scales, blocks * sizeof *from->scales);
    if (from->double_quant) {
        memcpy(to->scale_codes, from->scale_codes, blocks);
        memcpy(to->nested_absmax, from->nested_absmax, (blocks + NESTED - 1) / NESTED * sizeof *from->nested_absmax);
    }
    to->nested_offset = from->nested_offset;
    to->panels = from->panels;
}

const void *quant_row(const struct qmat *q, size_t row)
{
    if (q->panels) /* scales stand behind all codes then */
        return (const uint8_t *)q->codes + row * q->cols * (size_t)quant_panel_bits(q->format) / 8;
    if (is_affine(q->format)) /* a row may begin inside a byte */
        return (const uint8_t *)q->codes + row * q->cols * (size_t)quant_affine_bits(q->format) / 8;
    return (const uint8_t *)q->codes + row * code_bytes(q->format, 1, q->cols);
}

size_t quant_bytes(enum format format, int block, bool double_quant, size_t rows, size_t cols)
{
    block = block_or_default(format, block);
    size_t bytes = code_bytes(format, rows, cols), blocks = format_is_ggml(format) ? 0 : blocks_of(format, block, rows, cols);
    if (double_quant && formats[format].double_quant)
        return bytes + blocks + (blocks + NESTED - 1) / NESTED * sizeof(float) + sizeof(float);
    return bytes + blocks * scale_bytes(format);
}

/* ---- encoding ---- */

/* Magnitudes from here on become infinite: 65520 is the first that fp16 rounds up, 255.5 * 2^120 the first of bf16. */
static double bound_of(enum format format, bool f16_first)
{
    if (format == FORMAT_F16 || (format == FORMAT_INT8 && f16_first))
        return 65520;
    if (format == FORMAT_BF16)
        return 0x1.ffp127;
    return format == FORMAT_F32 ? INFINITY : 0x1.ffffffp127; /* the others compute in single precision */
}

enum status quant_check_values(const struct qmat *q, const real *W, bool f16_first, struct err *err)
{
    double bound = bound_of(q->format, f16_first);
    for (size_t i = 0; i < q->rows * q->cols; i++) {
        double x = (double)W[i];
        if (fabs(x) < bound)
            continue;
        if (isfinite(x))
            return err_set(err, ERR_FAILED, "element [%zu, %zu] is %g, want less than %g in magnitude, which %s can hold", i / q->cols,
                           i % q->cols, x, bound, q->format == FORMAT_BF16 ? "bf16" : bound < 1e6 ? "f16" : "single precision");
        return err_set(err, ERR_FAILED, "element [%zu, %zu] is %s, want a finite number", i / q->cols, i % q->cols,
                       isnan(x) ? "NaN" : "infinite");
    }
    return OK;
}

static float largest(const real *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf((float)x[i]);
        most = a > most ? a : most;
    }
    return most;
}

/* Entries of a 4-bit code book in ascending order of value; between neighbours the midpoint decides, ties go down. */
struct book {
    int n;
    uint8_t code[16];
    float midpoint[15];
};

/* FP4 has two zeros: +0 stands for both.  Its ties go to the entry that is lower with its sign. */
static void open_book(struct book *book, enum format format)
{
    static const uint8_t nf4[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const uint8_t fp4[] = {11, 10, 13, 12, 15, 14, 9, 0, 1, 6, 7, 4, 5, 2, 3};
    bool is_nf4 = format == FORMAT_NF4;
    const float *table = is_nf4 ? quant_nf4_table : quant_fp4_table;
    book->n = is_nf4 ? 16 : 15;
    memcpy(book->code, is_nf4 ? nf4 : fp4, (size_t)book->n);
    for (int i = 0; i + 1 < book->n; i++)
        book->midpoint[i] = 0.5f * (table[book->code[i]] + table[book->code[i + 1]]);
}

/* 1 / absmax where that is finite, else 0: a zero block takes the code of zero, and so does one whose absmax is so small
 * that its inverse overflows. */
static float inverse(float absmax)
{
    float inv = absmax > 0 ? 1 / absmax : 0;
    return isfinite(inv) ? inv : 0;
}

/* Codes of k elements, k <= MAX_BLOCK.  The rank of x is the number of midpoints below it: loops without branches. */
static void block_codes(uint8_t *code, const real *x, size_t k, float inv, const struct book *book)
{
    float scaled[MAX_BLOCK];
    for (size_t i = 0; i < k; i++)
        scaled[i] = (float)x[i] * inv;
    memset(code, 0, k);
    for (int m = 0; m + 1 < book->n; m++)
        for (size_t i = 0; i < k; i++)
            code[i] = (uint8_t)(code[i] + (scaled[i] > book->midpoint[m]));
    for (size_t i = 0; i < k; i++)
        code[i] = book->code[code[i]];
}

/* Blocks are even, so each begins with a byte of its own; after an odd end comes the code of zero. */
static void encode_nibbles(struct qmat *q, const real *W, float *absmax)
{
    size_t n = q->rows * q->cols, block = (size_t)q->block;
    uint8_t *codes = q->codes, code[MAX_BLOCK + 1];
    struct book book;
    open_book(&book, q->format);
    for (size_t at = 0, b = 0; at < n; at += block, b++) {
        size_t k = n - at < block ? n - at : block;
        absmax[b] = largest(W + at, k);
        block_codes(code, W + at, k, inverse(absmax[b]), &book);
        code[k] = q->format == FORMAT_NF4 ? 7 : 0;
        for (size_t i = 0; i < k; i += 2)
            codes[(at + i) / 2] = (uint8_t)(code[i] << 4 | code[i + 1]);
    }
}

static void encode_blocks8(struct qmat *q, const real *W)
{
    size_t n = q->rows * q->cols, block = (size_t)q->block;
    const float *nf8 = quant_nf8_table();
    for (size_t at = 0, b = 0; at < n; at += block, b++) {
        size_t k = n - at < block ? n - at : block;
        float absmax = largest(W + at, k), inv = inverse(absmax);
        q->scales[b] = absmax;
        for (size_t i = at; i < at + k; i++) { /* x / absmax first: 127 / absmax may overflow */
            float x = (float)W[i] * inv;
            if (q->format == FORMAT_NF8)
                ((uint8_t *)q->codes)[i] = quant_nearest256(nf8, x);
            else
                ((int8_t *)q->codes)[i] = (int8_t)rintf(x * 127);
        }
    }
}

static void encode_int8(struct qmat *q, const real *W, bool f16_first)
{
    int8_t *codes = q->codes;
    for (size_t r = 0; r < q->rows; r++) {
        const real *row = W + r * q->cols;
        float absmax = 0;
        for (size_t c = 0; c < q->cols; c++) {
            float x = fabsf(f16_first ? f32_from_f16(f16_from_f32((float)row[c])) : (float)row[c]);
            absmax = x > absmax ? x : absmax;
        }
        q->scales[r] = absmax;
        float scale = absmax > 0 ? 127 / absmax : 0;
        scale = isfinite(scale) ? scale : 0;
        for (size_t c = 0; c < q->cols; c++) {
            float x = f16_first ? f32_from_f16(f16_from_f32((float)row[c])) : (float)row[c];
            codes[r * q->cols + c] = (int8_t)rintf(x * scale);
        }
    }
}

/* absmax -> 8-bit codes of (absmax - mean) in blocks of 256.  arXiv:2305.14314, sec. 3. */
static void encode_scales(struct qmat *q, const float *absmax, size_t blocks)
{
    double sum = 0;
    for (size_t i = 0; i < blocks; i++)
        sum += (double)absmax[i];
    q->nested_offset = (float)(sum / (double)blocks);
    for (size_t at = 0, b = 0; at < blocks; at += NESTED, b++) {
        size_t k = blocks - at < NESTED ? blocks - at : NESTED;
        float most = 0;
        for (size_t i = at; i < at + k; i++)
            most = fmaxf(most, fabsf(absmax[i] - q->nested_offset));
        q->nested_absmax[b] = most;
        float inv = inverse(most);
        for (size_t i = at; i < at + k; i++)
            q->scale_codes[i] = quant_dynamic_code((absmax[i] - q->nested_offset) * inv, true);
    }
}

static void encode_halves(struct qmat *q, const real *W)
{
    uint16_t *codes = q->codes;
    for (size_t i = 0; i < q->rows * q->cols; i++)
        codes[i] = q->format == FORMAT_F16 ? f16_from_f32((float)W[i]) : bf16_from_f32((float)W[i]);
}

static enum status encode_nibble_format(struct qmat *q, const real *W, struct err *err)
{
    if (!q->double_quant) {
        encode_nibbles(q, W, q->scales);
        return OK;
    }
    struct arena temp = {0};
    size_t blocks = blocks_of(q->format, q->block, q->rows, q->cols);
    arena_take(&temp, blocks, sizeof(float));
    TRY(arena_commit(&temp, "scales of a matrix", err));
    float *absmax = arena_take(&temp, blocks, sizeof(float));
    encode_nibbles(q, W, absmax);
    encode_scales(q, absmax, blocks);
    arena_free(&temp);
    return OK;
}

static enum status encode_ggml(struct qmat *q, const real *W, struct err *err)
{
    size_t n = q->rows * q->cols, at = quant_ggml_encode(q->format, q->codes, W, n) * GGML_BLOCK;
    if (at == n)
        return OK;
    return err_set(err, ERR_FAILED, "elements [%zu, %zu] to [%zu, %zu] are too large for %s: f16 cannot hold the scale of their block",
                   at / q->cols, at % q->cols, at / q->cols, at % q->cols + GGML_BLOCK - 1, formats[q->format].name);
}

enum status quant_encode(struct qmat *q, const real *W, bool f16_first, struct err *err)
{
    TRY(check_writable(q->format, err));
    TRY(quant_check_values(q, W, f16_first, err));
    switch (q->format) {
    case FORMAT_F32:
        memcpy(q->codes, W, q->rows * q->cols * sizeof *W);
        return OK;
    case FORMAT_F16:
    case FORMAT_BF16:
        encode_halves(q, W);
        return OK;
    case FORMAT_NF4:
    case FORMAT_FP4:
        return encode_nibble_format(q, W, err);
    case FORMAT_INT8:
        encode_int8(q, W, f16_first);
        return OK;
    case FORMAT_INT8_64:
    case FORMAT_NF8:
        encode_blocks8(q, W);
        return OK;
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return quant_affine_encode(q, W, err);
    default:
        return encode_ggml(q, W, err);
    }
}

/* ---- decoding ---- */

float quant_block_scale(const struct qmat *q, size_t block)
{
    if (!q->double_quant)
        return q->scales[block];
    float s = quant_dynamic_table(true)[q->scale_codes[block]] * q->nested_absmax[block / NESTED] + q->nested_offset;
    return s > 0 ? s : 0;
}

static void decode_nibbles(const struct qmat *q, size_t at, size_t end, real *out)
{
    const float *table = q->format == FORMAT_NF4 ? quant_nf4_table : quant_fp4_table;
    const uint8_t *codes = q->codes;
    size_t block = (size_t)q->block;
    while (at < end) {
        size_t b = at / block, stop = (b + 1) * block < end ? (b + 1) * block : end;
        float value[16], s = quant_block_scale(q, b);
        for (int i = 0; i < 16; i++)
            value[i] = table[i] * s;
        if (at % 2 && at < stop) /* a row may begin inside a byte */
            *out++ = (real)value[codes[at++ / 2] & 15];
        for (; at + 1 < stop; at += 2, out += 2) {
            uint8_t pair = codes[at / 2];
            out[0] = (real)value[pair >> 4];
            out[1] = (real)value[pair & 15];
        }
        if (at < stop)
            *out++ = (real)value[codes[at++ / 2] >> 4];
    }
}

static void decode_blocks8(const struct qmat *q, size_t at, size_t end, real *out)
{
    size_t block = (size_t)q->block;
    const float *nf8 = q->format == FORMAT_NF8 ? quant_nf8_table() : NULL;
    while (at < end) {
        size_t b = at / block, stop = (b + 1) * block < end ? (b + 1) * block : end;
        float s = q->scales[b];
        if (nf8)
            for (; at < stop; at++)
                *out++ = (real)(nf8[((const uint8_t *)q->codes)[at]] * s);
        else
            for (s /= 127; at < stop; at++)
                *out++ = (real)((float)((const int8_t *)q->codes)[at] * s);
    }
}

/* code * absmax * (1/127) in this order, as bitsandbytes computes it. */
static void decode_int8(const struct qmat *q, size_t row, size_t col0, size_t n, real *out)
{
    const int8_t *codes = (const int8_t *)q->codes + row * q->cols + col0;
    float s = q->scales[row];
    for (size_t c = 0; c < n; c++)
        *out++ = (real)((float)codes[c] * s * 0.007874015718698502f);
}

/* Elements [at, end) of the flattened matrix; every format but int8. */
static void decode_flat(const struct qmat *q, size_t at, size_t end, real *out)
{
    const uint16_t *halves = q->codes;
    switch (q->format) {
    case FORMAT_F32:
        memcpy(out, (const real *)q->codes + at, (end - at) * sizeof *out);
        return;
    case FORMAT_F16:
        for (; at < end; at++)
            *out++ = (real)f32_from_f16(halves[at]);
        return;
    case FORMAT_BF16:
        for (; at < end; at++)
            *out++ = (real)f32_from_bf16(halves[at]);
        return;
    case FORMAT_NF4:
    case FORMAT_FP4:
        decode_nibbles(q, at, end, out);
        return;
    case FORMAT_INT8_64:
    case FORMAT_NF8:
        decode_blocks8(q, at, end, out);
        return;
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        quant_affine_decode(q, at, end, out);
        return;
    default:
        quant_ggml_decode(q->format, q->codes, at, end - at, out);
        return;
    }
}

void quant_decode_span(const struct qmat *q, size_t row, size_t col0, size_t n, real *out)
{
    size_t at = row * q->cols + col0;
    if (q->panels)
        quant_panel_decode_span(q, row, col0, n, out);
    else if (q->format == FORMAT_INT8)
        decode_int8(q, row, col0, n, out);
    else
        decode_flat(q, at, at + n, out);
}

void quant_decode_rows(const struct qmat *q, size_t row0, size_t n, real *out)
{
    if (!q->panels && q->format != FORMAT_INT8) {
        decode_flat(q, row0 * q->cols, (row0 + n) * q->cols, out);
        return;
    }
    for (size_t i = 0; i < n; i++)
        quant_decode_span(q, row0 + i, 0, q->cols, out + i * q->cols);
}

static bool halves_finite(const uint8_t *at, size_t step, size_t n, uint16_t exponent)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++, at += step) {
        uint16_t h = (uint16_t)(at[0] | at[1] << 8);
        bad |= (h & exponent) == exponent;
    }
    return !bad;
}

static bool ggml_is_finite(const struct qmat *q)
{
    size_t blocks = q->rows * q->cols / quant_ggml_elements(q->format), bytes = quant_ggml_bytes(q->format);
    bool finite = true;
    for (int k = 0; k < 2; k++) {
        int at = quant_ggml_scale_at(q->format, k);
        finite = finite && (at < 0 || halves_finite((const uint8_t *)q->codes + at, bytes, blocks, 0x7c00));
    }
    return finite;
}

bool quant_is_finite(const struct qmat *q)
{
    size_t n = q->rows * q->cols;
    if (format_is_ggml(q->format))
        return ggml_is_finite(q);
    switch (q->format) {
    case FORMAT_F16:
        return halves_finite(q->codes, 2, n, 0x7c00);
    case FORMAT_BF16:
        return halves_finite(q->codes, 2, n, 0x7f80);
    case FORMAT_HQQ2:
    case FORMAT_HQQ3:
    case FORMAT_HQQ4:
        return quant_affine_is_finite(q);
    default:
        return true; /* scales of bitsandbytes' formats are checked where they are read */
    }
}

double quant_error(const struct qmat *q, const real *W)
{
    struct arena temp = {0};
    struct err err;
    double error = 0, norm = 0;
    arena_take(&temp, q->cols, sizeof(real));
    if (arena_commit(&temp, "a row", &err) != OK)
        return NAN;
    real *row = arena_take(&temp, q->cols, sizeof(real));
    for (size_t r = 0; r < q->rows; r++) {
        quant_decode_rows(q, r, 1, row);
        for (size_t c = 0; c < q->cols; c++) {
            double w = (double)W[r * q->cols + c], d = w - (double)row[c];
            error += d * d;
            norm += w * w;
        }
    }
    arena_free(&temp);
    return norm > 0 ? error / norm : 0;
}
