/* gptq.c: the factor of H^-1, and the sweep over the columns.
 *
 * Rows do not depend on each other but where a group runs from one into the next.  Every affine_period rows a row begins with a group, so that such
 * rows form chains, and chains are independent.  A tile is some chains; in it the first rows of all chains are swept together, then the second
 * rows, and so on.  Rows that are swept together begin at the same place of a group: their lazy blocks (alg. 1: updates within a block at once,
 * those of the columns after it as one product) are the groups. */
#include "gptq.h"

#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <string.h>

#include "base/linalg.h"
#include "base/size.h"
#include "base/stop.h"

enum { CHAINS = 64 }; /* of a tile: rows that share one product */

/* ---- the factor ---- */

/* J A J, where J reverses the order: the flattened matrix backwards. */
static void reverse(double *A, size_t n)
{
    for (size_t i = 0, j = n - 1; i < j; i++, j--) {
        double t = A[i];
        A[i] = A[j];
        A[j] = t;
    }
}

/* J H J = L L^T gives H^-1 = U^T U with the upper U = J L^-1 J: no inverse of H is formed. */
enum status gptq_factor(double *U, const struct gram *gram, double damp, struct err *err)
{
    size_t in = gram->in;
    double mean = 0, jitter;
    if (!(damp > 0))
        return err_set(err, ERR_FAILED, "gptq: damp = %g, want above 0", damp);
    TRY(gram_check(gram, err));
    memcpy(U, gram->H, in * in * sizeof *U);
    for (size_t i = 0; i < in; i++) {
        double *diagonal = &U[i * in + i];
        *diagonal = *diagonal > 0 ? *diagonal : 1;
        mean += *diagonal / (double)in;
    }
    for (size_t i = 0; i < in; i++)
        U[i * in + i] += damp * mean;
    reverse(U, in * in);
    TRY(linalg_cholesky(U, in, &jitter, err));
    linalg_invert_lower(U, in);
    reverse(U, in * in);
    return OK;
}

size_t gptq_factor_bytes(size_t in)
{
    return in * in * sizeof(double); /* linalg_cholesky's copy */
}

/* ---- the sweep ---- */

/* What all tiles read, and the rows of a tile that are swept together. */
struct sweep {
    struct affine *q;
    const real *W;
    const double *H, *U;
    size_t *row;  /* [CHAINS] which rows, `rows` of them */
    size_t rows;
    double *w;    /* [CHAINS, in] their values, updated */
    double *e;    /* [CHAINS, block] their errors in the block at hand */
    size_t block; /* columns of a lazy block, at most */
};

static bool is_dead(const struct sweep *s, size_t col)
{
    return !(s->H[col * s->q->in + col] > 0);
}

/* Values of the rows first, first + period ... of the tile's chains. */
static void gather(struct sweep *s, size_t first, size_t period)
{
    size_t in = s->q->in;
    s->rows = 0;
    for (size_t row = first; row < s->q->out && s->rows < CHAINS; row += period) {
        double *w = s->w + s->rows * in;
        s->row[s->rows++] = row;
        for (size_t j = 0; j < in; j++)
            w[j] = is_dead(s, j) ? 0 : (double)s->W[row * in + j];
    }
}

/* The grid of the group that begins at element `first`: its n elements w in this row, the others as they are in the rows after it. */
static void set_grid(const struct sweep *s, size_t first, const double *w, size_t n)
{
    struct affine *q = s->q;
    size_t g = first / q->group, end = size_min(first + q->group, q->out * q->in);
    double lo = 0, hi = 0;
    for (size_t j = 0; j < n; j++) {
        lo = fmin(lo, w[j]);
        hi = fmax(hi, w[j]);
    }
    for (size_t i = first + n; i < end; i++)
        if (!is_dead(s, i % q->in)) {
            lo = fmin(lo, (double)s->W[i]);
            hi = fmax(hi, (double)s->W[i]);
        }
    affine_grid(lo, hi, q->bits, &q->scale[g], &q->zero[g]);
}

/* Columns col .. col+n-1, all of one group, of the k-th row. */
static void quantize_block(const struct sweep *s, size_t k, size_t col, size_t n)
{
    struct affine *q = s->q;
    size_t in = q->in, first = s->row[k] * in + col, g = first / q->group;
    double *w = s->w + k * in + col, *e = s->e + k * s->block;
    if (first % q->group == 0)
        set_grid(s, first, w, n);
    for (size_t j = 0; j < n; j++) {
        const double *U = s->U + (col + j) * in + col;
        uint8_t code = affine_code(w[j], q->bits, q->scale[g], q->zero[g]);
        q->codes[first + j] = code;
        e[j] = (w[j] - ((double)code - (double)q->zero[g]) * (double)q->scale[g]) / U[j];
        for (size_t i = j + 1; i < n; i++)
            w[i] -= e[j] * U[i];
    }
}

static void sweep_rows(const struct sweep *s)
{
    const struct affine *q = s->q;
    size_t in = q->in;
    for (size_t col = 0, n; col < in; col += n) {
        size_t next = col + (n = size_min(q->group - (s->row[0] * in + col) % q->group, in - col));
        for (size_t k = 0; k < s->rows; k++)
            quantize_block(s, k, col, n);
        linalg_multiply_add(s->w + next, in, -1, s->e, s->block, s->U + col * in + next, in, s->rows, in - next, n);
    }
}

/* One of each thread. */
static void sweeps_place(struct sweep **sweeps, const struct affine *q, int threads, struct arena *arena)
{
    *sweeps = arena_take(arena, (size_t)threads, sizeof **sweeps);
    for (int i = 0; i < threads; i++) {
        struct sweep s = {.block = size_min(q->group, q->in)};
        s.row = arena_take(arena, CHAINS, sizeof *s.row);
        s.w = arena_take(arena, CHAINS * q->in, sizeof *s.w);
        s.e = arena_take(arena, CHAINS * s.block, sizeof *s.e);
        if (*sweeps)
            (*sweeps)[i] = s;
    }
}

static void quantize_tile(struct sweep *s, size_t first, size_t period)
{
    for (size_t row = first; row < size_min(first + period, s->q->out) && !stop_requested(); row++) {
        gather(s, row, period);
        sweep_rows(s);
    }
}

enum status gptq_quantize(struct affine *q, const real *W, const struct gram *gram, const double *U, int threads, struct err *err)
{
    struct sweep *sweeps;
    struct arena arena = {0};
    TRY(affine_check(q, W, err));
    sweeps_place(&sweeps, q, threads, &arena);
    TRY(arena_commit(&arena, "gptq", err));
    sweeps_place(&sweeps, q, threads, &arena);
    size_t period = affine_period(q->in, q->group), tile = CHAINS * period;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t first = 0; first < q->out; first += tile) {
        struct sweep *s = &sweeps[omp_get_thread_num()];
        s->q = q;
        s->W = W;
        s->H = gram->H;
        s->U = U;
        quantize_tile(s, first, period);
    }
    arena_free(&arena);
    return stop_check(err);
}

size_t gptq_bytes(const struct affine *q, int threads)
{
    struct sweep *sweeps;
    struct arena arena = {0};
    sweeps_place(&sweeps, q, threads, &arena);
    return arena.used;
}
