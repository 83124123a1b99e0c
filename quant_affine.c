/* quant_affine.c: the storage of quant_affine.h, and HQQ's half-quadratic fit of the zero points. */
#include "quant_affine.h"

#include <math.h>
#include <string.h>

#include "quant_ggml.h"

int quant_affine_bits(enum format format)
{
    return format >= FORMAT_HQQ2 && format <= FORMAT_HQQ4 ? (int)(format - FORMAT_HQQ2) + 2 : 0;
}

size_t quant_affine_groups(size_t n)
{
    return (n + AFFINE_GROUP - 1) / AFFINE_GROUP;
}

size_t quant_affine_bytes(enum format format, size_t n)
{
    return n / 8 * (size_t)quant_affine_bits(format) + (n % 8 * (size_t)quant_affine_bits(format) + 7) / 8;
}

/* ---- scale and zero ---- */

float quant_affine_scale(const struct qmat *q, size_t group)
{
    return f32_from_f16(q->affine[2 * group]);
}

float quant_affine_zero(const struct qmat *q, size_t group)
{
    return f32_from_f16(q->affine[2 * group + 1]);
}

static bool is_infinite(uint16_t half)
{
    return (half & 0x7c00) == 0x7c00;
}

bool quant_affine_put(struct qmat *q, size_t group, float scale, float zero)
{
    uint16_t s = f16_from_f32(scale), z = f16_from_f32(zero);
    if (is_infinite(s) || is_infinite(z))
        return false;
    q->affine[2 * group] = s;
    q->affine[2 * group + 1] = z;
    return true;
}

bool quant_affine_is_finite(const struct qmat *q)
{
    unsigned bad = 0;
    for (size_t i = 0; i < 2 * quant_affine_groups(q->rows * q->cols); i++)
        bad |= is_infinite(q->affine[i]);
    return !bad;
}

/* ---- codes ---- */

unsigned quant_affine_code(const struct qmat *q, size_t element)
{
    unsigned bits = (unsigned)quant_affine_bits(q->format), bit = (unsigned)(element % 8) * bits, shift = bit % 8;
    const uint8_t *at = (const uint8_t *)q->codes + element / 8 * bits + bit / 8;
    unsigned word = at[0] | (shift + bits > 8 ? (unsigned)at[1] << 8 : 0); /* no byte behind the last is read */
    return word >> shift & ((1u << bits) - 1);
}

void quant_affine_set_code(const struct qmat *q, size_t element, unsigned code)
{
    unsigned bits = (unsigned)quant_affine_bits(q->format), bit = (unsigned)(element % 8) * bits, shift = bit % 8;
    uint8_t *at = (uint8_t *)q->codes + element / 8 * bits + bit / 8;
    unsigned mask = ((1u << bits) - 1) << shift, word = code << shift;
    at[0] = (uint8_t)((at[0] & ~mask) | word);
    if (shift + bits > 8)
        at[1] = (uint8_t)((at[1] & ~(mask >> 8)) | word >> 8);
}

/* Eight codes side by side become a byte each, in three steps that part halves: fours, twos, ones. */
static inline uint64_t spread(uint64_t x, int bits)
{
    const uint64_t four = (1u << 4 * bits) - 1, two = 0x100000001u * ((1u << 2 * bits) - 1), one = 0x1000100010001u * ((1u << bits) - 1);
    x = (x & four) | (x & four << 4 * bits) << (32 - 4 * bits);
    x = (x & two) | (x & two << 2 * bits) << (16 - 2 * bits);
    return (x & one) | (x & one << bits) << (8 - bits);
}

/* The way back. */
static inline uint64_t gather(uint64_t x, int bits)
{
    const uint64_t four = (1u << 4 * bits) - 1, two = 0x100000001u * ((1u << 2 * bits) - 1), one = 0x1000100010001u * ((1u << bits) - 1);
    x = (x & one) | (x >> (8 - bits) & one << bits);
    x = (x & two) | (x >> (16 - 2 * bits) & two << 2 * bits);
    return (x & four) | (x >> (32 - 4 * bits) & four << 4 * bits);
}

/* n codes, a byte each, from the first of eight on; code has room for whole eights. */
static inline void unpack_eights(uint8_t *code, const uint8_t *from, size_t n, int bits)
{
    for (size_t i = 0; i < n; i += 8, from += bits) {
        size_t bytes = n - i < 8 ? ((n - i) * (size_t)bits + 7) / 8 : (size_t)bits; /* of the last eight some may not be there */
        uint64_t x = 0;
        for (size_t b = 0; b < bytes; b++)
            x |= (uint64_t)from[b] << 8 * b;
        x = spread(x, bits);
        for (int j = 0; j < 8; j++)
            code[i + (size_t)j] = (uint8_t)(x >> 8 * j);
    }
}

static void unpack(uint8_t *code, const uint8_t *from, size_t n, int bits)
{
    if (bits == 2)
        unpack_eights(code, from, n, 2);
    else if (bits == 3)
        unpack_eights(code, from, n, 3);
    else
        unpack_eights(code, from, n, 4);
}

uint64_t quant_affine_eight(enum format format, const uint8_t *from)
{
    uint64_t x = 0;
    int bits = quant_affine_bits(format);
    for (int b = 0; b < bits; b++)
        x |= (uint64_t)from[b] << 8 * b;
    return spread(x, bits);
}

/* The codes of a group; bytes behind the n-th of `code` are zeros up to a whole eight. */
static void pack(uint8_t *to, const uint8_t *code, size_t n, int bits)
{
    for (size_t i = 0; i < n; i += 8, to += bits) {
        size_t bytes = n - i < 8 ? ((n - i) * (size_t)bits + 7) / 8 : (size_t)bits;
        uint64_t x = 0;
        for (int j = 0; j < 8; j++)
            x |= (uint64_t)code[i + (size_t)j] << 8 * j;
        x = gather(x, bits);
        for (size_t b = 0; b < bytes; b++)
            to[b] = (uint8_t)(x >> 8 * b);
    }
}

static size_t group_length(size_t n, size_t group)
{
    size_t left = n - group * AFFINE_GROUP;
    return left < AFFINE_GROUP ? left : AFFINE_GROUP;
}

/* Nearest integer, halves to even, of 0 <= x < 2^51: in such a sum no digits are left behind the point.  A loop over it has no call in it. */
static inline double nearest(double x)
{
    return x + 0x1.8p52 - 0x1.8p52;
}

static inline double clamp(double x, double most)
{
    x = x > 0 ? x : 0;
    return x < most ? x : most;
}

/* Nearest codes of n elements of a group. */
static void codes_of(uint8_t *code, const struct qmat *q, size_t group, const real *x, size_t n)
{
    double scale = (double)quant_affine_scale(q, group), zero = (double)quant_affine_zero(q, group), inverse = scale != 0 ? 1 / scale : 0;
    double top = (1 << quant_affine_bits(q->format)) - 1;
    for (size_t i = 0; i < n; i++)
        code[i] = (uint8_t)nearest(clamp((double)x[i] * inverse + zero, top));
}

void quant_affine_round(struct qmat *q, size_t group, const real *x)
{
    int bits = quant_affine_bits(q->format);
    size_t n = group_length(q->rows * q->cols, group);
    uint8_t code[AFFINE_GROUP] = {0};
    codes_of(code, q, group, x, n);
    pack((uint8_t *)q->codes + group * (AFFINE_GROUP / 8) * (size_t)bits, code, n, bits);
}

void quant_affine_decode(const struct qmat *q, size_t at, size_t end, real *out)
{
    int bits = quant_affine_bits(q->format);
    while (at < end) {
        size_t group = at / AFFINE_GROUP, skip = at % 8, stop = (group + 1) * AFFINE_GROUP < end ? (group + 1) * AFFINE_GROUP : end;
        float scale = quant_affine_scale(q, group), offset = quant_affine_zero(q, group) * scale;
        uint8_t code[AFFINE_GROUP];
        unpack(code, (const uint8_t *)q->codes + at / 8 * (size_t)bits, stop - at + skip, bits);
        for (size_t i = 0; i < stop - at; i++)
            out[i] = (real)((float)code[skip + i] * scale - offset);
        out += stop - at;
        at = stop;
    }
}

/* ---- HQQ ---- */

enum { ITERATIONS = 20, LANES = 8 };
static const double power = 0.7, beta = 10, widest = 1e-4, steepest = 2e4;
/* shrink gives 0 up to here: |x|^(2-p) <= 1 / beta (0.17013), rounded down. */
static const double shrunk = 0.17;

struct fit {
    const real *W;
    size_t n, groups;
    double top;
    int bits;
    double *s;                    /* [groups]: 1 / scale */
    double *zero, *next, *best;   /* [groups] */
    double *error;                /* [groups]: sum of |W - Wr| */
};

static void range_of(const real *x, size_t n, double *low, double *high)
{
    real least = x[0], most = x[0];
    for (size_t i = 1; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *low = (double)least;
    *high = (double)most;
}

static void fit_start(struct fit *f)
{
    for (size_t g = 0; g < f->groups; g++) {
        double low, high;
        range_of(f->W + g * AFFINE_GROUP, group_length(f->n, g), &low, &high);
        double s = high - low <= widest ? 1 : f->top / (high - low);
        f->s[g] = s < steepest ? s : steepest;
        double z = (0 - low) * f->s[g];
        f->zero[g] = f->bits == 4 ? rint(z) : z;
    }
}

/* Of zeros behind the last number, in lanes: the order does not depend on the machine. */
static double sum_of(const double x[AFFINE_GROUP])
{
    double lane[LANES] = {0}, sum = 0;
    for (size_t i = 0; i < AFFINE_GROUP; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += x[i + j];
    for (size_t j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

static double shrink(double x)
{
    double a = fabs(x), e = a <= shrunk ? 0 : a - pow(a, power - 1) / beta;
    return e > 0 ? copysign(e, x) : 0;
}

/* One step of group g from zero[g]: its error, and next[g].  Most groups have no error that shrink leaves: their loops have no call in them. */
static void fit_step(struct fit *f, size_t g)
{
    const real *W = f->W + g * AFFINE_GROUP;
    size_t n = group_length(f->n, g);
    double s = f->s[g], z = f->zero[g], inverse = 1 / s, largest = 0;
    double rest[AFFINE_GROUP] = {0}, shift[AFFINE_GROUP] = {0}, size[AFFINE_GROUP] = {0};
    for (size_t i = 0; i < n; i++) {
        double w = (double)W[i], code = nearest(clamp(w * s + z, f->top));
        rest[i] = w - (code - z) * inverse;
        shift[i] = code - w * s;
        size[i] = fabs(rest[i]);
    }
    for (size_t i = 0; i < n; i++)
        largest = size[i] > largest ? size[i] : largest;
    for (size_t i = 0; largest > shrunk && i < n; i++)
        shift[i] += shrink(rest[i]) * s;
    f->error[g] = sum_of(size);
    f->next[g] = sum_of(shift) / (double)n;
}

static void fit_zeros(struct fit *f)
{
    double best = INFINITY;
    for (int k = 0; k < ITERATIONS; k++) {
        double sum = 0;
#pragma omp parallel for schedule(static) if (f->groups > 256)
        for (size_t g = 0; g < f->groups; g++)
            fit_step(f, g);
        for (size_t g = 0; g < f->groups; g++)
            sum += f->error[g];
        if (!(sum < best))
            return;
        best = sum;
        double *old = f->best;
        f->best = f->zero;
        f->zero = f->next;
        f->next = old;
    }
}

static enum status too_large(const struct qmat *q, size_t group, struct err *err)
{
    size_t first = group * AFFINE_GROUP, last = first + group_length(q->rows * q->cols, group) - 1;
    return err_set(err, ERR_FAILED,
                   "elements [%zu, %zu] to [%zu, %zu] are too large for %s: f16 cannot hold the scale or the zero point of their group",
                   first / q->cols, first % q->cols, last / q->cols, last % q->cols, format_info(q->format)->name);
}

static enum status fit_store(const struct fit *f, struct qmat *q, struct err *err)
{
    for (size_t g = 0; g < f->groups; g++) {
        if (!quant_affine_put(q, g, (float)(1 / f->s[g]), (float)f->best[g]))
            return too_large(q, g, err);
        quant_affine_round(q, g, f->W + g * AFFINE_GROUP);
    }
    return OK;
}

static void fit_place(struct fit *f, struct arena *arena)
{
    double **const array[] = {&f->s, &f->zero, &f->next, &f->best, &f->error};
    for (size_t i = 0; i < sizeof array / sizeof *array; i++)
        *array[i] = arena_take(arena, f->groups, sizeof(double));
}

enum status quant_affine_encode(struct qmat *q, const real *W, struct err *err)
{
    struct arena temp = {0};
    struct fit f = {.W = W, .n = q->rows * q->cols, .groups = quant_affine_groups(q->rows * q->cols), .bits = quant_affine_bits(q->format)};
    f.top = (1 << f.bits) - 1;
    fit_place(&f, &temp);
    TRY(arena_commit(&temp, "the zero points of a matrix", err));
    fit_place(&f, &temp);
    fit_start(&f);
    fit_zeros(&f);
    enum status status = fit_store(&f, q, err);
    arena_free(&temp);
    return status;
}

/* ---- as ggml's blocks ---- */

enum status quant_affine_as_q4_1(struct qmat *to, const struct qmat *from, const real *W, struct err *err)
{
    uint8_t *block = to->codes, code[GGML_BLOCK];
    for (size_t at = 0; at < from->rows * from->cols; at += GGML_BLOCK, block += quant_ggml_bytes(FORMAT_Q4_1)) {
        size_t group = at / AFFINE_GROUP;
        uint16_t half[2] = {from->affine[2 * group], f16_from_f32(-quant_affine_zero(from, group) * quant_affine_scale(from, group))};
        if (is_infinite(half[1]))
            return too_large(from, group, err);
        memcpy(block, half, sizeof half);
        codes_of(code, from, group, W + at, GGML_BLOCK);
        for (size_t j = 0; j < 16; j++)
            block[4 + j] = (uint8_t)(code[j] | code[j + 16] << 4);
    }
    return OK;
}
