/* awq.c: the exponent of the scales, folding them into the layer, the bound of each group. */
#include "awq.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/linalg.h"
#include "base/size.h"
#include "base/stop.h"

/* ---- scales ---- */

static size_t inputs_of(const struct model_layer *layer, enum gram_input input)
{
    return layer->linear[gram_reader(input)].cols;
}

void awq_scales_place(struct awq_scales *scales, const struct model_layer *layer, struct arena *arena)
{
    for (int i = 0; i < GRAM_COUNT; i++) {
        scales->s[i] = arena_take(arena, inputs_of(layer, (enum gram_input)i), sizeof *scales->s[i]);
        scales->exponent[i] = 0;
    }
}

/* The smallest power is 1e-4, so that a channel that is always 0 has a scale. */
static void set_scales(double *s, const struct gram *gram, double exponent)
{
    double lo = INFINITY, hi = 0;
    for (size_t i = 0; i < gram->in; i++) {
        s[i] = fmax(pow(gram->abs_sum[i] / (double)gram->n, exponent), 1e-4);
        lo = fmin(lo, s[i]);
        hi = fmax(hi, s[i]);
    }
    for (size_t i = 0; i < gram->in; i++)
        s[i] /= sqrt(lo * hi);
}

/* ---- the exponent ---- */

/* A tile: rows that are rounded and weighed at once; it begins with a group. */
struct tile_space {
    real *w;         /* [rows, in] W diag(s) */
    double *e, *t;   /* [rows, in] errors, times H */
    double *near;    /* [group] */
    struct affine q; /* [rows, in] */
};

struct search_space {
    size_t in, tile; /* the widest input; rows of its tile */
    double *part;    /* [tiles of the tallest linear] */
    struct tile_space *thread;
};

static size_t tile_rows(size_t in, size_t group)
{
    enum { ROWS = 64 };
    size_t period = affine_period(in, group);
    return period * ((ROWS + period - 1) / period);
}

static void search_place(struct search_space *space, const struct model_layer *layer, const struct awq_options *o, struct arena *arena)
{
    size_t out = 0, most = 0;
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *W = &layer->linear[j];
        most = most > W->cols * tile_rows(W->cols, o->group) ? most : W->cols * tile_rows(W->cols, o->group);
        out = out > W->rows ? out : W->rows;
    }
    space->part = arena_take(arena, out, sizeof *space->part);
    space->thread = arena_take(arena, (size_t)o->threads, sizeof *space->thread);
    for (int i = 0; i < o->threads; i++) {
        struct tile_space t;
        t.w = arena_take(arena, most, sizeof *t.w);
        t.e = arena_take(arena, most, sizeof *t.e);
        t.t = arena_take(arena, most, sizeof *t.t);
        t.near = arena_take(arena, o->group, sizeof *t.near);
        affine_place(&t.q, 1, most, o->group, 1, arena);
        if (space->thread)
            space->thread[i] = t;
    }
}

/* ||(W - round(W diag(s)) / s) X^T||_F^2 of n rows of W. */
static double tile_error(struct tile_space *t, const real *W, size_t n, int bits, const double *s, const struct gram *gram)
{
    size_t in = gram->in, groups = affine_groups(n, in, t->q.group);
    t->q.out = n;
    t->q.in = in;
    t->q.bits = bits;
    for (size_t i = 0; i < n * in; i++)
        t->w[i] = (real)((double)W[i] * s[i % in]);
    for (size_t g = 0; g < groups; g++) {
        size_t first = g * t->q.group;
        affine_round_group(&t->q, g, t->w + first, 1, t->near);
        for (size_t i = first; i < size_min(first + t->q.group, n * in); i++)
            t->e[i] = (double)W[i] - t->near[i - first] / s[i % in];
    }
    return gram_energy(gram, t->e, n, t->t);
}

static double linear_error(struct search_space *space, const struct qmat *W, int bits, const double *s, const struct gram *gram,
                           const struct awq_options *o)
{
    size_t tile = tile_rows(W->cols, o->group);
    double sum = 0;
#pragma omp parallel for num_threads(o->threads) schedule(dynamic)
    for (size_t row = 0; row < W->rows; row += tile)
        space->part[row / tile] = tile_error(&space->thread[omp_get_thread_num()], (const real *)W->codes + row * W->cols, size_min(tile, W->rows - row),
                                             bits, s, gram);
    for (size_t row = 0; row < W->rows; row += tile)
        sum += space->part[row / tile];
    return sum;
}

/* v_proj's rows are o_proj's inputs only where no KV head serves several heads. */
static bool can_fold(const struct model_layer *layer, enum gram_input input)
{
    return input != GRAM_O || layer->linear[LINEAR_V].rows == layer->linear[LINEAR_O].cols;
}

static enum status search_input(struct awq_scales *scales, struct search_space *space, const struct model_layer *layer, enum gram_input input,
                                const struct gram *gram, const struct awq_options *o, struct err *err)
{
    double best = INFINITY;
    scales->exponent[input] = 0;
    for (int k = 0; k < AWQ_GRID && can_fold(layer, input); k++) {
        double exponent = (double)k / AWQ_GRID, sum = 0;
        TRY(stop_check(err));
        set_scales(scales->s[input], gram, exponent);
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (gram_input_of((enum linear)j) == input && o->bits[j] > 0)
                sum += linear_error(space, &layer->linear[j], o->bits[j], scales->s[input], gram, o);
        if (sum < best) {
            best = sum;
            scales->exponent[input] = exponent;
        }
    }
    set_scales(scales->s[input], gram, scales->exponent[input]);
    return OK;
}

static enum status check_layer(const struct model_layer *layer, const struct gram gram[GRAM_COUNT], const struct awq_options *o, struct err *err)
{
    for (int i = 0; i < GRAM_COUNT; i++)
        TRY(gram_check(&gram[i], err));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *W = &layer->linear[j];
        struct affine shape = {.out = W->rows, .in = W->cols, .group = o->group, .bits = o->bits[j]};
        if (o->bits[j] != 0 && affine_check(&shape, W->codes, err) != OK)
            return err_prefix(err, ERR_FAILED, "%s", linear_name[j]);
    }
    return OK;
}

enum status awq_search(struct awq_scales *scales, const struct model_layer *layer, const struct gram gram[GRAM_COUNT],
                       const struct awq_options *options, struct err *err)
{
    struct search_space space;
    struct arena arena = {0};
    TRY(check_layer(layer, gram, options, err));
    search_place(&space, layer, options, &arena);
    TRY(arena_commit(&arena, "awq", err));
    search_place(&space, layer, options, &arena);
    enum status status = OK;
    for (int i = 0; i < GRAM_COUNT && status == OK; i++)
        status = search_input(scales, &space, layer, (enum gram_input)i, &gram[i], options, err);
    arena_free(&arena);
    return status;
}

size_t awq_search_bytes(const struct model_layer *layer, const struct awq_options *options)
{
    struct search_space space;
    struct arena arena = {0};
    search_place(&space, layer, options, &arena);
    return arena.used;
}

/* ---- folding ---- */

static void divide(real *x, size_t n, const double *s)
{
    for (size_t i = 0; x && i < n; i++)
        x[i] = (real)((double)x[i] / s[i]);
}

static void divide_rows(struct qmat *W, const double *s)
{
    for (size_t i = 0; i < W->rows * W->cols; i++)
        ((real *)W->codes)[i] = (real)((double)((real *)W->codes)[i] / s[i / W->cols]);
}

static void multiply_columns(struct qmat *W, const double *s)
{
    for (size_t i = 0; i < W->rows * W->cols; i++)
        ((real *)W->codes)[i] = (real)((double)((real *)W->codes)[i] * s[i % W->cols]);
}

void awq_fold(struct model_layer *layer, const struct awq_scales *scales)
{
    for (int j = 0; j < LINEAR_COUNT; j++)
        multiply_columns(&layer->linear[j], scales->s[gram_input_of((enum linear)j)]);
    divide(layer->input_norm, inputs_of(layer, GRAM_QKV), scales->s[GRAM_QKV]);
    divide(layer->post_norm, inputs_of(layer, GRAM_GATE_UP), scales->s[GRAM_GATE_UP]);
    divide_rows(&layer->linear[LINEAR_UP], scales->s[GRAM_DOWN]);
    divide(layer->bias[LINEAR_UP], inputs_of(layer, GRAM_DOWN), scales->s[GRAM_DOWN]);
    if (can_fold(layer, GRAM_O)) {
        divide_rows(&layer->linear[LINEAR_V], scales->s[GRAM_O]);
        divide(layer->bias[LINEAR_V], inputs_of(layer, GRAM_O), scales->s[GRAM_O]);
    }
}

/* ---- the bound of each group ---- */

struct clip_space {
    double *e, *near; /* [group] each */
};

static void clip_place(struct clip_space **space, size_t group, int threads, struct arena *arena)
{
    *space = arena_take(arena, (size_t)threads, sizeof **space);
    for (int i = 0; i < threads; i++) {
        struct clip_space s = {arena_take(arena, group, sizeof *s.e), arena_take(arena, group, sizeof *s.near)};
        if (*space)
            (*space)[i] = s;
    }
}

/* e H e^T over the columns col .. col+n-1 of a row; H is symmetric: each pair counts twice. */
static double span_error(const double *e, size_t n, const struct gram *gram, size_t col)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double *H = gram->H + (col + i) * gram->in + col;
        sum += e[i] * (2 * linalg_dot(H, e, i) + H[i] * e[i]);
    }
    return sum;
}

/* Rounds group g with this bound; what that costs, the group's part in each row for itself. */
static double group_error(struct clip_space *space, struct affine *q, size_t g, const real *W, const struct gram *gram, const double *s, double clip)
{
    size_t first = g * q->group, end = size_min(first + q->group, q->out * q->in);
    double sum = 0;
    affine_round_group(q, g, W + first, clip, space->near);
    for (size_t i = first; i < end; i++)
        space->e[i - first] = ((double)W[i] - space->near[i - first]) / s[i % q->in];
    for (size_t i = first, n; i < end; i += n) {
        n = size_min(q->in - i % q->in, end - i);
        sum += span_error(space->e + (i - first), n, gram, i % q->in);
    }
    return sum;
}

static void clip_group(struct clip_space *space, struct affine *q, size_t g, const real *W, const struct gram *gram, const double *s)
{
    double best = INFINITY, best_clip = 1;
    for (int k = 0; 2 * k <= AWQ_GRID; k++) {
        double clip = 1 - (double)k / AWQ_GRID, error = group_error(space, q, g, W, gram, s, clip);
        if (error < best) {
            best = error;
            best_clip = clip;
        }
    }
    affine_round_group(q, g, W + g * q->group, best_clip, NULL);
}

enum status awq_quantize(struct affine *q, const real *W, const struct gram *gram, const double *s, bool clip, int threads, struct err *err)
{
    struct clip_space *space;
    struct arena arena = {0};
    size_t groups = affine_groups(q->out, q->in, q->group);
    TRY(affine_check(q, W, err));
    if (!clip) {
        affine_round(q, W);
        return OK;
    }
    clip_place(&space, q->group, threads, &arena);
    TRY(arena_commit(&arena, "awq", err));
    clip_place(&space, q->group, threads, &arena);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (size_t g = 0; g < groups; g++)
        if (!stop_requested())
            clip_group(&space[omp_get_thread_num()], q, g, W, gram, s);
    arena_free(&arena);
    return stop_check(err);
}

size_t awq_quantize_bytes(const struct affine *q, int threads)
{
    struct clip_space *space;
    struct arena arena = {0};
    clip_place(&space, q->group, threads, &arena);
    return arena.used;
}
