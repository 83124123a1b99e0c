/* cloq.c: the error seen through L, its leading part, back. */
#include "cloq.h"

#include <math.h>
#include <string.h>

#include "base/linalg.h"

struct space {
    size_t k;           /* singular values: the smaller side */
    double *L;          /* [in, in] */
    double *D, *E;      /* [out, in] W - Q; (W - Q) L */
    double *U, *S, *Vt; /* [out, k], [k], [k, in] */
};

static void space_place(struct space *w, const struct cloq *c, struct arena *arena)
{
    w->k = c->out < c->in ? c->out : c->in;
    w->L = arena_take(arena, c->in * c->in, sizeof *w->L);
    w->D = arena_take(arena, c->out * c->in, sizeof *w->D);
    w->E = arena_take(arena, c->out * c->in, sizeof *w->E);
    w->U = arena_take(arena, c->out * w->k, sizeof *w->U);
    w->S = arena_take(arena, w->k, sizeof *w->S);
    w->Vt = arena_take(arena, w->k * c->in, sizeof *w->Vt);
}

size_t cloq_bytes(const struct cloq *cloq)
{
    struct space w;
    struct arena arena = {0};
    space_place(&w, cloq, &arena);
    return arena.used + cloq->in * cloq->in * sizeof(double); /* linalg_cholesky's copy */
}

static enum status check(const struct cloq *c, const real *W, const real *Q, struct err *err)
{
    size_t most = c->out < c->in ? c->out : c->in;
    if (c->r < 1 || (size_t)c->r > most)
        return err_set(err, ERR_INPUT, "cloq: rank %d of a matrix of %zu x %zu, want 1 to %zu", (int)c->r, c->out, c->in, most);
    if (!(c->s > 0))
        return err_set(err, ERR_INPUT, "cloq: a scale of %g, want above 0", (double)c->s);
    if (!(c->damp > 0))
        return err_set(err, ERR_FAILED, "cloq: damp = %g, want above 0", c->damp);
    for (size_t i = 0; i < c->out * c->in; i++)
        if (!isfinite((double)W[i] - (double)Q[i]))
            return err_set(err, ERR_FAILED, "element [%zu, %zu] of the error is %g, want a finite number", i / c->in, i % c->in,
                           (double)W[i] - (double)Q[i]);
    return OK;
}

/* H damped = L L^T; zeros above the diagonal, for the product. */
static enum status factor(double *L, const struct gram *gram, double damp, struct err *err)
{
    size_t in = gram->in;
    double mean = 0, jitter;
    memcpy(L, gram->H, in * in * sizeof *L);
    for (size_t i = 0; i < in; i++)
        mean += L[i * in + i] / (double)in;
    for (size_t i = 0; i < in; i++)
        L[i * in + i] += mean > 0 ? damp * mean : 1; /* no input was ever above 0: any adapter will do */
    TRY(linalg_cholesky(L, in, &jitter, err));
    for (size_t i = 0; i < in; i++)
        memset(L + i * in + i + 1, 0, (in - 1 - i) * sizeof *L);
    return OK;
}

/* V_r L^-1 is the a of a L = V_r, row by row L^T a^T = v^T. */
static void put_factors(const struct space *w, const struct cloq *c, real *A, real *B)
{
    size_t in = c->in, r = (size_t)c->r;
    linalg_solve_lower_transposed(w->L, in, w->Vt, r);
    for (size_t i = 0; i < r; i++) {
        double root = sqrt(w->S[i] / (double)c->s);
        for (size_t k = 0; k < in; k++)
            A[i * in + k] = (real)(root * w->Vt[i * in + k]);
        for (size_t o = 0; o < c->out; o++)
            B[o * r + i] = (real)(root * w->U[o * w->k + i]);
    }
}

static enum status start(real *A, real *B, struct space *w, const struct gram *gram, const struct cloq *c, struct err *err)
{
    TRY(factor(w->L, gram, c->damp, err));
    linalg_multiply_add(w->E, c->in, 1, w->D, c->in, w->L, c->in, c->out, c->in, c->in); /* E is fresh memory: zeros */
    TRY(linalg_svd(w->E, c->out, c->in, w->U, w->S, w->Vt, err));
    put_factors(w, c, A, B);
    return OK;
}

enum status cloq_start(real *A, real *B, const real *W, const real *Q, const struct gram *gram, const struct cloq *cloq, struct err *err)
{
    struct space w;
    struct arena arena = {0};
    TRY(check(cloq, W, Q, err));
    TRY(gram_check(gram, err));
    space_place(&w, cloq, &arena);
    TRY(arena_commit(&arena, "cloq", err));
    space_place(&w, cloq, &arena);
    for (size_t i = 0; i < cloq->out * cloq->in; i++)
        w.D[i] = (double)W[i] - (double)Q[i];
    enum status status = start(A, B, &w, gram, cloq, err);
    arena_free(&arena);
    return status;
}
