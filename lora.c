/* lora.c: memory of the adapters, and how they start. */
#include "lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "base/rng.h"
#include "base/size.h"

/* ---- memory ---- */

static size_t adapter_parameters(const struct adapter *a)
{
    return (size_t)a->r * (a->in + a->out);
}

void lora_place(struct lora *lora, const struct plan *plan, const struct model_config *config, bool training, struct arena *arena)
{
    lora->n_layers = plan->n_layers;
    lora->adapter = arena_take_table(arena, (size_t)plan->n_layers, sizeof *lora->adapter);
    lora->n = (size_t)plan_adapter_parameters(plan, config);
    lora->p = arena_take(arena, lora->n, sizeof(real));
    lora->g = training ? arena_take(arena, lora->n, sizeof(real)) : NULL;
    lora->m = training ? arena_take(arena, lora->n, sizeof(real)) : NULL;
    lora->v = training ? arena_take(arena, lora->n, sizeof(real)) : NULL;
    if (!lora->adapter)
        return;
    size_t at = 0;
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct adapter *a = &lora->adapter[l][j];
            *a = (struct adapter){.r = plan->layer[l].linear[j].rank, .s = (real)plan_scaling(plan, l, (enum linear)j)};
            plan_shape(plan, config, l, (enum linear)j, &a->out, &a->in);
            size_t b = at + (size_t)a->r * a->in;
            a->A = lora->p + at;
            a->B = lora->p + b;
            a->dA = training ? lora->g + at : NULL;
            a->dB = training ? lora->g + b : NULL;
            at += adapter_parameters(a);
        }
}

enum status lora_init_parse(const char *name, enum lora_init *init, struct err *err)
{
    static const char *const names[] = {"default", "gaussian", "loftq", "pissa", "cloq"};
    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            *init = (enum lora_init)i;
            return OK;
        }
    return err_set(err, ERR_INPUT, "lora_init = '%s', want default, gaussian, loftq, pissa or cloq", name);
}

/* ---- random starts ---- */

static void start_random(real *A, real *B, size_t out, size_t in, int32_t r, const struct lora_init_options *o)
{
    struct rng rng = {.seed = o->seed, .stream = RNG_INIT, .step = o->step};
    double bound = 1 / sqrt((double)in), deviation = 1 / (double)r;
    for (size_t i = 0; i < (size_t)r * in; i++)
        A[i] = (real)(o->init == LORA_INIT_GAUSSIAN ? deviation * rng_normal(&rng) : bound * (2 * rng_uniform(&rng) - 1));
    memset(B, 0, out * (size_t)r * sizeof *B);
}

/* ---- starts from a singular value decomposition ---- */

/* In double precision: a quantization error has a flat spectrum, so its leading vectors are ill-conditioned.
 * E[out, in] -> B = U_r sqrt(S_r / s), A = sqrt(S_r / s) V_r: the best s B A of rank r for E (Eckart-Young). */
struct svd_space {
    size_t k;                  /* singular values: r, or r + OVERSAMPLING when randomised */
    double *E, *U, *S, *Vt;    /* [out, in], [out, k], [k], [k, in] */
    double *Y, *Q, *small;     /* randomised, else NULL: [out, k], [k, in], [k, k] */
    double *gram, *values, *vectors; /* not randomised, else NULL, n = min(out, in): [n, n], [n], [k, n] */
};

enum { OVERSAMPLING = 10 };

/* How many singular values are computed, and whether from random directions. */
static size_t svd_values(size_t out, size_t in, int32_t r, const struct lora_init_options *o, bool *randomised)
{
    size_t all = size_min(out, in), some = (size_t)r + OVERSAMPLING;
    *randomised = o->init == LORA_INIT_PISSA && o->pissa_niter > 0 && some < all;
    return *randomised ? some : (size_t)r;
}

static enum status space_open(struct svd_space *w, size_t out, size_t in, int32_t r, const struct lora_init_options *o, struct err *err)
{
    bool randomised;
    w->k = svd_values(out, in, r, o, &randomised);
    w->E = malloc(out * in * sizeof *w->E);
    w->U = malloc(out * w->k * sizeof *w->U);
    w->S = malloc(w->k * sizeof *w->S);
    w->Vt = malloc(w->k * in * sizeof *w->Vt);
    bool good = w->E && w->U && w->S && w->Vt;
    size_t n = size_min(out, in);
    if (!randomised) {
        w->gram = malloc(n * n * sizeof *w->gram);
        w->values = malloc(n * sizeof *w->values);
        w->vectors = malloc(w->k * n * sizeof *w->vectors);
        good = good && w->gram && w->values && w->vectors;
    } else {
        w->Y = malloc(out * w->k * sizeof *w->Y);
        w->Q = malloc(w->k * in * sizeof *w->Q);
        w->small = malloc(w->k * w->k * sizeof *w->small);
        good = good && w->Y && w->Q && w->small;
    }
    return good ? OK : err_set(err, ERR_MEMORY, "out of memory for the SVD of %zu x %zu", out, in);
}

static void space_close(struct svd_space *w)
{
    free(w->E);
    free(w->U);
    free(w->S);
    free(w->Vt);
    free(w->Y);
    free(w->Q);
    free(w->small);
    free(w->gram);
    free(w->values);
    free(w->vectors);
}

static void factors(real *A, real *B, const struct svd_space *w, size_t out, size_t in, int32_t r, real s)
{
    for (size_t i = 0; i < (size_t)r; i++) {
        double root = sqrt(w->S[i] / (double)s);
        for (size_t c = 0; c < in; c++)
            A[i * in + c] = (real)(root * w->Vt[i * in + c]);
        for (size_t o = 0; o < out; o++)
            B[o * (size_t)r + i] = (real)(root * w->U[o * w->k + i]);
    }
}

static enum status best_factors(struct svd_space *w, real *A, real *B, size_t out, size_t in, int32_t r, real s,
                                const struct lora_init_options *o, struct err *err)
{
    if (w->small) {
        struct linalg_random_svd svd = {.rows = out, .cols = in, .k = w->k, .iterations = o->pissa_niter, .U = w->U, .S = w->S, .Vt = w->Vt, .Y = w->Y,
                                        .Q = w->Q, .small = w->small, .rng = {.seed = o->seed, .stream = RNG_SVD, .step = o->step}};
        TRY(linalg_svd_randomised(&svd, w->E, err));
    } else {
        struct linalg_leading_svd svd = {out, in, w->k, w->U, w->S, w->Vt, w->gram, w->values, w->vectors};
        TRY(linalg_svd_leading(&svd, w->E, err));
    }
    factors(A, B, w, out, in, r, s);
    return OK;
}

/* E = W - s B A */
static void residual(real *E, const real *W, const real *A, const real *B, size_t out, size_t in, int32_t r, real s)
{
#pragma omp parallel for
    for (size_t o = 0; o < out; o++) {
        memcpy(E + o * in, W + o * in, in * sizeof *E);
        for (size_t i = 0; i < (size_t)r; i++) {
            real f = s * B[o * (size_t)r + i];
            for (size_t c = 0; c < in; c++)
                E[o * in + c] -= f * A[i * in + c];
        }
    }
}

/* LoftQ alternates: Q = quant(W - s B A), then the best s B A for W - Q.  Upstream leaves s out; dividing by it makes the first
 * forward pass equal W up to the tail of the spectrum for every alpha. */
/* The best adapter for what q does not hold of W. */
static enum status fill_in(const struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *o, struct svd_space *w,
                           real *temp, struct err *err)
{
    size_t out = q->rows, in = q->cols;
    quant_decode_rows(q, 0, out, temp);
    for (size_t i = 0; i < out * in; i++)
        w->E[i] = (double)W[i] - (double)temp[i];
    return best_factors(w, A, B, out, in, r, s, o, err);
}

static enum status start_loftq(struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *o,
                               struct svd_space *w, real *temp, struct err *err)
{
    size_t out = q->rows, in = q->cols;
    memset(A, 0, (size_t)r * in * sizeof *A);
    memset(B, 0, out * (size_t)r * sizeof *B);
    for (int t = 0; t < o->loftq_iters; t++) {
        residual(temp, W, A, B, out, in, t ? r : 0, s);
        TRY(quant_encode(q, temp, false, err));
        TRY(fill_in(q, A, B, W, r, s, o, w, temp, err));
    }
    return OK;
}

/* PiSSA trains the principal part and quantizes the rest. */
static enum status start_pissa(struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *o,
                               struct svd_space *w, real *temp, struct err *err)
{
    size_t out = q->rows, in = q->cols;
    TRY(quant_encode(q, W, false, err)); /* names an element that is not finite; the SVD could not */
    for (size_t i = 0; i < out * in; i++)
        w->E[i] = (double)W[i];
    TRY(best_factors(w, A, B, out, in, r, s, o, err));
    residual(temp, W, A, B, out, in, r, s);
    return quant_encode(q, temp, false, err);
}

static bool needs_svd(const struct lora_init_options *o)
{
    return o->init == LORA_INIT_LOFTQ || o->init == LORA_INIT_PISSA;
}

static enum status check_start(size_t out, size_t in, int32_t r, real s, const struct lora_init_options *o, struct err *err)
{
    const char *name = o->init == LORA_INIT_LOFTQ ? "loftq" : "pissa";
    if (!(s > 0))
        return err_set(err, ERR_INPUT, "lora_alpha is not positive: %s divides by alpha / r", name);
    if ((size_t)r > size_min(out, in))
        return err_set(err, ERR_INPUT, "lora_r = %d: %s wants at most %zu, the smaller side of a matrix of %zu x %zu", r, name,
                       size_min(out, in), out, in);
    if (o->init == LORA_INIT_LOFTQ && o->loftq_iters < 1)
        return err_set(err, ERR_INPUT, "loftq_iters = %d, want at least 1", o->loftq_iters);
    return OK;
}

enum status lora_start(struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *options,
                       struct err *err)
{
    if (r > 0 && !needs_svd(options))
        start_random(A, B, q->rows, q->cols, r, options);
    if (r == 0 || !needs_svd(options))
        return quant_encode(q, W, false, err);
    TRY(check_start(q->rows, q->cols, r, s, options, err));
    struct svd_space space = {0};
    real *temp = malloc(q->rows * q->cols * sizeof *temp);
    enum status status =
        temp ? space_open(&space, q->rows, q->cols, r, options, err) : err_set(err, ERR_MEMORY, "out of memory for an adapter's start");
    if (status == OK)
        status = (options->init == LORA_INIT_LOFTQ ? start_loftq : start_pissa)(q, A, B, W, r, s, options, &space, temp, err);
    space_close(&space);
    free(temp);
    return status;
}

enum status lora_start_beside(const struct qmat *q, real *A, real *B, const real *W, int32_t r, real s, const struct lora_init_options *options, struct err *err)
{
    if (r > 0 && !needs_svd(options))
        start_random(A, B, q->rows, q->cols, r, options);
    if (r == 0 || !needs_svd(options))
        return OK;
    TRY(check_start(q->rows, q->cols, r, s, options, err));
    struct svd_space space = {0};
    real *temp = malloc(q->rows * q->cols * sizeof *temp);
    enum status status =
        temp ? space_open(&space, q->rows, q->cols, r, options, err) : err_set(err, ERR_MEMORY, "out of memory for an adapter's start");
    if (status == OK)
        status = fill_in(q, A, B, W, r, s, options, &space, temp, err);
    space_close(&space);
    free(temp);
    return status;
}

size_t lora_start_bytes(size_t out, size_t in, int32_t r, const struct lora_init_options *options)
{
    if (r == 0 || !needs_svd(options))
        return 0;
    bool randomised;
    size_t k = svd_values(out, in, r, options, &randomised), factors_n = (out + in + 1) * k, n = size_min(out, in);
    /* what LAPACK takes for itself: gesdd some 4 k^2 + 7 k, dsyevr some 40 n */
    size_t work = randomised ? factors_n + 5 * k * k + 8 * k : n * n + (k + 41) * n + k;
    return (out * in + factors_n + work) * sizeof(double) + out * in * sizeof(real);
}

void lora_merge(real *W, const struct adapter *a)
{
#pragma omp parallel for
    for (size_t o = 0; o < a->out; o++)
        for (size_t i = 0; i < (size_t)a->r; i++) {
            real f = a->s * a->B[o * (size_t)a->r + i];
            for (size_t c = 0; c < a->in; c++)
                W[o * a->in + c] += f * a->A[i * a->in + c];
        }
}
