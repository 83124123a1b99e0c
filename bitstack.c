/* bitstack.c: the decomposition, back to a matrix, and which blocks are loaded. */
#include "bitstack.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/size.h"
#include "base/stop.h"
#include "quant.h"

/* ---- memory ---- */

void bitstack_place(struct bitstack *stack, size_t out, size_t in, size_t n, struct arena *arena)
{
    size_t rank = size_min(BITSTACK_RANK, size_min(out, in));
    *stack = (struct bitstack){.out = out, .in = in, .rank = rank, .n = n};
    stack->block = arena_take(arena, n, sizeof *stack->block);
    stack->error = arena_take(arena, n + 1, sizeof *stack->error);
    for (size_t m = 0; m < n; m++) {
        struct bitstack_block b;
        b.signs = arena_take(arena, (out * in + 7) / 8, sizeof *b.signs);
        b.U = arena_take(arena, out * rank, sizeof *b.U);
        b.V = arena_take(arena, rank * in, sizeof *b.V);
        if (stack->block)
            stack->block[m] = b;
    }
}

size_t bitstack_block_bytes(const struct bitstack *stack)
{
    return (stack->out * stack->in + 7) / 8 + stack->rank * (stack->out + stack->in) * sizeof(uint16_t);
}

/* Scratch of a decomposition.  |R| has one large singular value and a slowly falling rest: random directions with some to spare find the leading ones, unless
 * there are hardly more in all. */
struct space {
    size_t k;      /* singular values that are computed */
    bool randomised;
    double *s;     /* [in] */
    double *R, *A; /* [out, in] what is left; its magnitudes */
    double *U, *S, *V, *Y, *Q, *small;
};

static void space_place(struct space *w, const struct bitstack *stack, struct arena *arena)
{
    enum { OVERSAMPLING = 10 };
    size_t out = stack->out, in = stack->in, all = size_min(out, in);
    w->randomised = 2 * (stack->rank + OVERSAMPLING) < all;
    w->k = w->randomised ? stack->rank + OVERSAMPLING : all;
    w->s = arena_take(arena, in, sizeof *w->s);
    w->R = arena_take(arena, out * in, sizeof *w->R);
    w->A = arena_take(arena, out * in, sizeof *w->A);
    w->U = arena_take(arena, out * w->k, sizeof *w->U);
    w->S = arena_take(arena, w->k, sizeof *w->S);
    w->V = arena_take(arena, w->k * in, sizeof *w->V);
    w->Y = w->randomised ? arena_take(arena, out * w->k, sizeof *w->Y) : NULL;
    w->Q = w->randomised ? arena_take(arena, w->k * in, sizeof *w->Q) : NULL;
    w->small = w->randomised ? arena_take(arena, w->k * w->k, sizeof *w->small) : NULL;
}

size_t bitstack_bytes(const struct bitstack *stack)
{
    struct space w;
    struct arena arena = {0};
    space_place(&w, stack, &arena);
    return arena.used;
}

/* ---- decomposition ---- */

static void set_scales(double *s, const struct gram *gram)
{
    double most = 0;
    for (size_t i = 0; i < gram->in; i++) {
        s[i] = sqrt(gram->H[i * gram->in + i] / (double)gram->n);
        most = fmax(most, s[i]);
    }
    for (size_t i = 0; i < gram->in; i++)
        s[i] = most > 0 ? fmax(s[i], 1e-4 * most) : 1;
}

static enum status leading_factors(struct space *w, const struct bitstack *stack, uint32_t block, struct err *err)
{
    if (!w->randomised)
        return linalg_svd(w->A, stack->out, stack->in, w->U, w->S, w->V, err);
    struct linalg_random_svd svd = {.rows = stack->out, .cols = stack->in, .k = w->k, .iterations = 4, .U = w->U, .S = w->S, .Vt = w->V, .Y = w->Y,
                                    .Q = w->Q, .small = w->small, .rng = {.stream = RNG_SVD, .step = block}};
    return linalg_svd_randomised(&svd, w->A, err);
}

static bool put_half(uint16_t *to, double x)
{
    *to = f16_from_f32((float)x);
    return isfinite((double)f32_from_f16(*to));
}

static enum status store(struct bitstack_block *b, const struct bitstack *stack, const struct space *w, struct err *err)
{
    bool fits = true;
    size_t rank = stack->rank, n = stack->out * stack->in;
    memset(b->signs, 0, (n + 7) / 8);
    for (size_t i = 0; i < n; i++)
        b->signs[i / 8] = (uint8_t)(b->signs[i / 8] | (w->R[i] < 0) << i % 8);
    for (size_t i = 0; i < rank; i++) {
        double root = sqrt(w->S[i]);
        for (size_t r = 0; r < stack->out; r++)
            fits = put_half(&b->U[r * rank + i], root * w->U[r * w->k + i]) && fits;
        for (size_t c = 0; c < stack->in; c++)
            fits = put_half(&b->V[i * stack->in + c], root * w->V[i * stack->in + c] / w->s[c]) && fits;
    }
    return fits ? OK : err_set(err, ERR_FAILED, "bitstack: a factor of a matrix of %zu x %zu is beyond fp16", stack->out, stack->in);
}

/* Some columns of a block, V out of fp16: what both ways of reading a block go through. */
enum { COLUMNS = 128 };
struct panel {
    size_t first, n;
    double V[BITSTACK_RANK][COLUMNS];
};

static void panel_open(struct panel *p, const struct bitstack *stack, const struct bitstack_block *b, size_t first)
{
    p->first = first;
    p->n = size_min(COLUMNS, stack->in - first);
    for (size_t i = 0; i < stack->rank; i++)
        for (size_t c = 0; c < p->n; c++)
            p->V[i][c] = (double)f32_from_f16(b->V[i * stack->in + first + c]);
}

/* y[n] = row r of the block's matrix. */
static void panel_row(double *y, const struct panel *p, const struct bitstack *stack, const struct bitstack_block *b, size_t r)
{
    size_t at = r * stack->in + p->first;
    memset(y, 0, p->n * sizeof *y);
    for (size_t i = 0; i < stack->rank; i++) {
        double u = (double)f32_from_f16(b->U[r * stack->rank + i]);
        for (size_t c = 0; c < p->n; c++)
            y[c] += u * p->V[i][c];
    }
    for (size_t c = 0; c < p->n; c++, at++)
        y[c] = b->signs[at / 8] >> at % 8 & 1 ? -y[c] : y[c];
}

/* R -= what the block says, times diag(s). */
static void subtract(struct space *w, const struct bitstack *stack, const struct bitstack_block *b)
{
#pragma omp parallel for
    for (size_t first = 0; first < stack->in; first += COLUMNS) {
        struct panel p;
        double y[COLUMNS];
        panel_open(&p, stack, b, first);
        for (size_t r = 0; r < stack->out; r++) {
            panel_row(y, &p, stack, b, r);
            for (size_t c = 0; c < p.n; c++)
                w->R[r * stack->in + first + c] -= y[c] * w->s[first + c];
        }
    }
}

static double sum_squares(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

static enum status decompose(struct bitstack *stack, struct space *w, struct err *err)
{
    size_t n = stack->out * stack->in;
    stack->error[0] = sum_squares(w->R, n);
    for (size_t m = 0; m < stack->n; m++) {
        TRY(stop_check(err));
        for (size_t i = 0; i < n; i++)
            w->A[i] = fabs(w->R[i]);
        TRY(leading_factors(w, stack, (uint32_t)m, err));
        TRY(store(&stack->block[m], stack, w, err));
        subtract(w, stack, &stack->block[m]);
        stack->error[m + 1] = sum_squares(w->R, n);
    }
    return OK;
}

enum status bitstack_decompose(struct bitstack *stack, const real *W, const struct gram *gram, struct err *err)
{
    struct space w;
    struct arena arena = {0};
    size_t n = stack->out * stack->in;
    TRY(gram_check(gram, err));
    for (size_t i = 0; i < n; i++)
        if (!isfinite((double)W[i]))
            return err_set(err, ERR_FAILED, "element [%zu, %zu] is %g, want a finite number", i / stack->in, i % stack->in, (double)W[i]);
    space_place(&w, stack, &arena);
    TRY(arena_commit(&arena, "bitstack", err));
    space_place(&w, stack, &arena);
    set_scales(w.s, gram);
    for (size_t i = 0; i < n; i++)
        w.R[i] = (double)W[i] * w.s[i % stack->in];
    enum status status = decompose(stack, &w, err);
    arena_free(&arena);
    return status;
}

void bitstack_decode(const struct bitstack *stack, size_t m, real *W)
{
    size_t in = stack->in;
    memset(W, 0, stack->out * in * sizeof *W);
#pragma omp parallel for
    for (size_t first = 0; first < in; first += COLUMNS)
        for (size_t b = 0; b < m; b++) {
            struct panel p;
            double y[COLUMNS];
            panel_open(&p, stack, &stack->block[b], first);
            for (size_t r = 0; r < stack->out; r++) {
                panel_row(y, &p, stack, &stack->block[b], r);
                for (size_t c = 0; c < p.n; c++)
                    W[r * in + first + c] += (real)y[c];
            }
        }
}

/* ---- loading ---- */

/* What the next block lowers the error by, per byte. */
static double gain(const struct bitstack *stack, size_t loaded)
{
    return loaded < stack->n ? (stack->error[loaded] - stack->error[loaded + 1]) / (double)bitstack_block_bytes(stack) : -INFINITY;
}

enum status bitstack_order(const struct bitstack *stacks, size_t n_stacks, uint32_t *order, struct err *err)
{
    size_t total = 0, *loaded = calloc(n_stacks ? n_stacks : 1, sizeof *loaded);
    if (!loaded)
        return err_set(err, ERR_MEMORY, "out of memory for the order of %zu stacks", n_stacks);
    for (size_t i = 0; i < n_stacks; i++)
        total += stacks[i].n;
    for (size_t at = 0; at < total; at++) {
        size_t best = 0;
        for (size_t i = 1; i < n_stacks; i++)
            best = gain(&stacks[i], loaded[i]) > gain(&stacks[best], loaded[best]) ? i : best;
        order[at] = (uint32_t)best;
        loaded[best]++;
    }
    free(loaded);
    return OK;
}

uint64_t bitstack_load(const struct bitstack *stacks, size_t n_stacks, const uint32_t *order, uint64_t budget_bytes, size_t *loaded)
{
    size_t total = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < n_stacks; i++) {
        total += stacks[i].n;
        loaded[i] = 0;
    }
    for (size_t at = 0; at < total; at++) {
        uint64_t block = bitstack_block_bytes(&stacks[order[at]]);
        if (bytes + block > budget_bytes)
            break;
        bytes += block;
        loaded[order[at]]++;
    }
    return bytes;
}
