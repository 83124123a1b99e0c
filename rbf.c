/* rbf.c: anchors and their affine combinations, the factor that grows by a row a point, the solve. */
#include "rbf.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"

enum { LANES = 8 };

static const double eta = 1e-6;
/* How far from the anchors' hull, relative to the distance from the first anchor, a point is outside it.  Rounding leaves 1e-15; levels of a variable are
 * farther apart than this. */
static const double outside = 1e-6;

/* ---- plain loops that the compiler turns into vectors ---- */

static void add_scaled(double *y, double scale, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += scale * x[i];
}

/* |x - x_i|^3 of one tile of points. */
static inline void cubes(const double *tile, const double *x, size_t d, double cube[LANES])
{
    double r2[LANES] = {0};
    for (size_t c = 0; c < d; c++)
        for (size_t k = 0; k < LANES; k++) {
            double step = x[c] - tile[c * LANES + k];
            r2[k] += step * step;
        }
    for (size_t k = 0; k < LANES; k++)
        cube[k] = r2[k] * sqrt(r2[k]);
}

double rbf_predict(const struct rbf *rbf, const double *x)
{
    double lane[LANES] = {0}, cube[LANES], sum = rbf->c0 + linalg_dot(rbf->c, x, rbf->d);
    for (size_t i = 0; i < rbf->n; i += LANES) {
        cubes(rbf->X + i * rbf->d, x, rbf->d, cube);
        for (size_t k = 0; k < LANES; k++)
            lane[k] += rbf->lambda[i + k] * cube[k];
    }
    for (size_t k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

/* ---- memory ---- */

enum status rbf_new(struct rbf *rbf, size_t d, struct err *err)
{
    size_t m = d + 1;
    memset(rbf, 0, sizeof *rbf);
    rbf->d = d;
    rbf->c = calloc(m, sizeof *rbf->c);
    rbf->anchor = calloc(m, sizeof *rbf->anchor);
    rbf->Q = calloc(m * m, sizeof *rbf->Q);
    rbf->R = calloc(m * m, sizeof *rbf->R);
    rbf->F = calloc(m * m, sizeof *rbf->F);
    if (rbf->c && rbf->anchor && rbf->Q && rbf->R && rbf->F)
        return OK;
    return err_set(err, ERR_MEMORY, "out of memory for an interpolant of %zu variables", d);
}

void rbf_free(struct rbf *rbf)
{
    void *all[] = {rbf->X, rbf->y, rbf->count, rbf->lambda, rbf->c, rbf->anchor, rbf->other, rbf->Q, rbf->R, rbf->F, rbf->W, rbf->H, rbf->L, rbf->phi,
                   rbf->work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    memset(rbf, 0, sizeof *rbf);
}

static bool grow(double **array, size_t n)
{
    double *grown = realloc(*array, n * sizeof *grown);
    *array = grown ? grown : *array;
    return grown != NULL;
}

static bool grow_indices(size_t **array, size_t n)
{
    size_t *grown = realloc(*array, n * sizeof *grown);
    *array = grown ? grown : *array;
    return grown != NULL;
}

/* Room for one more point. */
static enum status reserve(struct rbf *rbf, struct err *err)
{
    if (rbf->n < rbf->cap)
        return OK;
    size_t cap = rbf->cap ? 2 * rbf->cap : 64, m = rbf->d + 1; /* whole tiles */
    bool got = grow(&rbf->X, cap * m) && grow(&rbf->y, cap) && grow_indices(&rbf->count, cap) && grow(&rbf->lambda, cap) &&
               grow_indices(&rbf->other, cap) && grow(&rbf->W, cap * m) && grow(&rbf->H, cap * m) && grow(&rbf->L, cap * (cap + 1) / 2) &&
               grow(&rbf->phi, cap) && grow(&rbf->work, cap + 4 * m);
    if (!got)
        return err_set(err, ERR_MEMORY, "out of memory for an interpolant of %zu points", cap);
    rbf->cap = cap;
    return OK;
}

/* ---- one point ---- */

/* rbf->phi of x and all points; the index of a point that x repeats, or n. */
static size_t measure(struct rbf *rbf, const double *x)
{
    for (size_t i = 0; i < rbf->n; i += LANES)
        cubes(rbf->X + i * rbf->d, x, rbf->d, rbf->phi + i);
    for (size_t i = 0; i < rbf->n; i++)
        if (rbf->phi[i] == 0)
            return i;
    return rbf->n;
}

static void store(struct rbf *rbf, const double *x, double y)
{
    size_t i = rbf->n++, lane = i % LANES;
    double *tile = rbf->X + (i - lane) * rbf->d;
    for (size_t c = 0; c < rbf->d; c++) {
        for (size_t k = lane; k < LANES; k++) /* lanes that are not taken yet repeat the last point: their lambda is 0 */
            tile[c * LANES + k] = x[c];
    }
    for (size_t k = i; k < i - lane + LANES; k++)
        rbf->lambda[k] = 0;
    rbf->y[i] = y;
    rbf->count[i] = 1;
}

/* t = Q (x - x_0); what is left of x - x_0 outside the hull goes to left[d].  Twice, for one pass loses orthogonality. */
static void project(const struct rbf *rbf, const double *x, double *t, double *left)
{
    size_t d = rbf->d, k = rbf->n_anchors - 1, first = rbf->anchor[0];
    const double *tile = rbf->X + (first - first % LANES) * d + first % LANES;
    for (size_t c = 0; c < d; c++)
        left[c] = x[c] - tile[c * LANES];
    memset(t, 0, k * sizeof *t);
    for (int pass = 0; pass < 2; pass++)
        for (size_t b = 0; b < k; b++) {
            double along = linalg_dot(rbf->Q + b * d, left, d);
            t[b] += along;
            add_scaled(left, -along, rbf->Q + b * d, d);
        }
}

/* The point at hand, index p, becomes an anchor.  The others are combinations of the anchors before it, so their w gains a 0 and the factor stays. */
static void add_anchor(struct rbf *rbf, size_t p, const double *t, const double *left, double length)
{
    size_t d = rbf->d, m = d + 1, b = rbf->n_anchors++;
    rbf->anchor[b] = p;
    for (size_t a = 0; a < b; a++)
        rbf->F[a * m + b] = rbf->F[b * m + a] = rbf->phi[rbf->anchor[a]];
    rbf->F[b * m + b] = eta;
    if (b > 0) {
        memcpy(rbf->R + (b - 1) * m, t, (b - 1) * sizeof *t);
        rbf->R[(b - 1) * m + b - 1] = length;
        for (size_t c = 0; c < d; c++)
            rbf->Q[(b - 1) * d + c] = left[c] / length;
    }
    for (size_t k = 0; k < rbf->n_others; k++) {
        rbf->W[k * m + b] = 0;
        rbf->H[k * m + b] = linalg_dot(rbf->F + b * m, rbf->W + k * m, b) - rbf->phi[rbf->other[k]];
    }
}

/* w: x = sum_b w_b x_b, sum_b w_b = 1, from t = R^T (w_1 ..), which is overwritten. */
static void combine(const struct rbf *rbf, double *t, double *w)
{
    size_t k = rbf->n_anchors - 1, m = rbf->d + 1;
    w[0] = 1;
    for (size_t b = k; b-- > 0;) {
        const double *row = rbf->R + b * m;
        w[b + 1] = t[b] / row[b];
        w[0] -= w[b + 1];
        add_scaled(t, -w[b + 1], row, b);
    }
}

/* The point at hand, index p, inside the hull: one more row of the factor. */
static void add_other(struct rbf *rbf, size_t p, double *t)
{
    size_t m = rbf->d + 1, j = rbf->n_others, a = rbf->n_anchors;
    double *w = rbf->W + j * m, *h = rbf->H + j * m, *row = rbf->L + j * (j + 1) / 2, *near = t + m;
    combine(rbf, t, w);
    for (size_t b = 0; b < a; b++)
        near[b] = rbf->phi[rbf->anchor[b]];
    for (size_t b = 0; b < a; b++)
        h[b] = linalg_dot(rbf->F + b * m, w, a) - near[b];
    for (size_t k = 0; k < j; k++) {
        const double *L = rbf->L + k * (k + 1) / 2;
        double entry = rbf->phi[rbf->other[k]] + linalg_dot(w, rbf->H + k * m, a) - linalg_dot(rbf->W + k * m, near, a);
        row[k] = (entry - linalg_dot(L, row, k)) / L[k];
    }
    double pivot = eta + linalg_dot(w, h, a) - linalg_dot(w, near, a) - linalg_dot(row, row, j);
    row[j] = sqrt(fmax(pivot, eta)); /* less is rounding */
    rbf->other[rbf->n_others++] = p;
}

static enum status add_point(struct rbf *rbf, const double *x, double y, struct err *err)
{
    TRY(reserve(rbf, err));
    size_t p = measure(rbf, x), d = rbf->d;
    if (p < rbf->n) {
        rbf->count[p]++;
        rbf->y[p] += (y - rbf->y[p]) / (double)rbf->count[p];
        return OK;
    }
    double *t = rbf->work, *left = t + 2 * (d + 1), length = 0;
    if (rbf->n_anchors > 0) {
        project(rbf, x, t, left);
        length = sqrt(linalg_dot(left, left, d));
    }
    store(rbf, x, y);
    if (rbf->n_anchors == 0 || (rbf->n_anchors <= d && length > outside * sqrt(length * length + linalg_dot(t, t, rbf->n_anchors - 1))))
        add_anchor(rbf, p, t, left, length);
    else
        add_other(rbf, p, t);
    return OK;
}

/* ---- the solve ---- */

/* The tail through v at the anchors: R (q . c) = v_b - v_0.  v is overwritten. */
static void solve_tail(struct rbf *rbf, double *v)
{
    size_t d = rbf->d, m = d + 1, first = rbf->anchor[0];
    const double *tile = rbf->X + (first - first % LANES) * d + first % LANES;
    memset(rbf->c, 0, d * sizeof *rbf->c);
    rbf->c0 = v[0];
    for (size_t b = 0; b + 1 < rbf->n_anchors; b++) {
        const double *row = rbf->R + b * m;
        v[b + 1] = (v[b + 1] - v[0] - linalg_dot(row, v + 1, b)) / row[b];
        add_scaled(rbf->c, v[b + 1], rbf->Q + b * d, d);
    }
    for (size_t c = 0; c < d; c++)
        rbf->c0 -= rbf->c[c] * tile[c * LANES];
}

/* lambda of the others: (L L^T) mu = y_j - w_j . y_b; of the anchors: -W^T mu.  What is left for the tail at anchor b is, with lambda put in,
 * y_b - (Phi lambda)_b - eta lambda_b = y_b + (H^T mu)_b. */
static void solve(struct rbf *rbf)
{
    size_t m = rbf->d + 1, a = rbf->n_anchors, f = rbf->n_others;
    double *v = rbf->work, *minus = v + m, *mu = v + 2 * m;
    for (size_t b = 0; b < a; b++) {
        v[b] = rbf->y[rbf->anchor[b]];
        minus[b] = 0;
    }
    for (size_t k = 0; k < f; k++) {
        const double *row = rbf->L + k * (k + 1) / 2;
        mu[k] = (rbf->y[rbf->other[k]] - linalg_dot(rbf->W + k * m, v, a) - linalg_dot(row, mu, k)) / row[k];
    }
    for (size_t k = f; k-- > 0;) {
        const double *row = rbf->L + k * (k + 1) / 2;
        mu[k] /= row[k];
        add_scaled(mu, -mu[k], row, k);
        rbf->lambda[rbf->other[k]] = mu[k];
        add_scaled(minus, mu[k], rbf->W + k * m, a);
        add_scaled(v, mu[k], rbf->H + k * m, a);
    }
    for (size_t b = 0; b < a; b++)
        rbf->lambda[rbf->anchor[b]] = -minus[b];
    solve_tail(rbf, v);
}

enum status rbf_add(struct rbf *rbf, const double *X, const double *y, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        TRY(add_point(rbf, X + i * rbf->d, y[i], err));
    if (rbf->n > 0)
        solve(rbf);
    return OK;
}
