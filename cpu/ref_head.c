/* ref_head.c: the plain truth, last part: cross-entropy through the head, AdamW, the sum of squares, salience.
 *
 * The head's logits exist for one row at a time. */
#include "cpu/cpu.h"

/* ---- head and cross-entropy:  nll = log sum_v exp(z[v]) - z[label],  z = x W^T;  dz = scale (softmax(z) - [v = label]) ---- */

static void head_logits(const struct ops_context *c, const struct head_args *a, const real *x, real *z)
{
    size_t V = a->W->rows, C = a->W->cols;
#pragma omp parallel for num_threads(c->threads)
    for (size_t v = 0; v < V; v++) {
        /* thread 0's scratch begins with z and two rows of sums: rows of W stand behind them */
        const real *w = cpu_row(a->W, v, cpu_scratch(c) + (V + 15) / 16 * 16 + 2 * C);
        double sum = 0;
        for (size_t k = 0; k < C; k++)
            sum += (double)x[k] * (double)w[k];
        z[v] = (real)sum;
    }
}

/* Turns z into scale * (softmax(z) - [v = label]); returns the nll. */
static double softmax_loss(real *z, size_t V, size_t label, double scale)
{
    double largest = -INFINITY, sum = 0, target = (double)z[label];
    for (size_t v = 0; v < V; v++)
        largest = fmax(largest, (double)z[v]);
    for (size_t v = 0; v < V; v++)
        sum += exp((double)z[v] - largest);
    double lse = largest + log(sum);
    for (size_t v = 0; v < V; v++)
        z[v] = (real)(scale * (exp((double)z[v] - lse) - (v == label)));
    return lse - target;
}

static bool is_first_largest(const real *z, size_t V, size_t label)
{
    for (size_t v = 0; v < V; v++)
        if (v < label ? !(z[v] < z[label]) : !(z[v] <= z[label]))
            return false;
    return true;
}

/* dx = dz W */
static void head_dx(const struct head_args *a, const real *dz, real *dx, double *sum, real *row)
{
    size_t V = a->W->rows, C = a->W->cols;
    for (size_t k = 0; k < C; k++)
        sum[k] = 0;
    for (size_t v = 0; v < V; v++) {
        const real *w = cpu_row(a->W, v, row);
        for (size_t k = 0; k < C; k++)
            sum[k] += (double)dz[v] * (double)w[k];
    }
    for (size_t k = 0; k < C; k++)
        dx[k] = (real)sum[k];
}

static void head_row(const struct ops_context *c, const struct head_args *a, size_t i)
{
    size_t V = a->W->rows, C = a->W->cols, label = (size_t)a->labels[i];
    const real *x = a->x + i * C;
    real *z = c->scratch;
    double *sum = (double *)(void *)(z + (V + 15) / 16 * 16);
    head_logits(c, a, x, z);
    if (a->greedy)
        a->greedy[i] = is_first_largest(z, V, label);
    double nll = softmax_loss(z, V, label, (double)a->scale);
    if (a->nll)
        a->nll[i] = nll;
    if (a->dx)
        head_dx(a, z, a->dx + i * C, sum, (real *)(sum + C));
    if (!a->dW)
        return;
#pragma omp parallel for num_threads(c->threads)
    for (size_t v = 0; v < V; v++)
        for (size_t k = 0; k < C; k++)
            a->dW[v * C + k] += z[v] * x[k];
}

void ref_head_loss(const struct ops_context *c, const struct head_args *a)
{
    size_t C = a->W->cols;
    for (size_t i = 0; i < a->n; i++) {
        if (a->labels[i] >= 0) {
            head_row(c, a, i);
            continue;
        }
        if (a->nll)
            a->nll[i] = 0;
        if (a->greedy)
            a->greedy[i] = 0;
        for (size_t k = 0; a->dx && k < C; k++)
            a->dx[i * C + k] = 0;
    }
}

/* ---- divergence of two distributions given by logits ---- */

static double log_sum_exp(const real *x, size_t n)
{
    double most = (double)x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* Logarithms are taken of logits, not of probabilities: a tail that underflows still counts.  Rounding may make equal distributions negative. */
void ref_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse)
{
#pragma omp parallel for num_threads(c->threads)
    for (size_t row = 0; row < n; row++) {
        const real *a = p + row * V, *b = q + row * V;
        double sum = 0, both = 0, za = log_sum_exp(a, V), zb = log_sum_exp(b, V);
        for (size_t i = 0; i < V; i++) {
            double la = (double)a[i] - za, lb = (double)b[i] - zb, x = exp(la), y = exp(lb);
            double lm = la == lb ? la : log(0.5 * (x + y)); /* equal rows: 0 exactly */
            sum += x * (la - lb);
            both += (x > 0 ? 0.5 * x * (la - lm) : 0) + (y > 0 ? 0.5 * y * (lb - lm) : 0);
        }
        kl[row] = sum < 0 ? 0 : sum;
        jsd[row] = both < 0 ? 0 : both;
        if (lse) {
            lse[2 * row] = za;
            lse[2 * row + 1] = zb;
        }
    }
}

/* ---- AdamW: Loshchilov & Hutter 2017 (arXiv:1711.05101), algorithm 2 ---- */

void ref_adamw(const struct ops_context *c, const struct adamw_args *a)
{
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    double correction1 = 1 - pow(beta1, (double)a->t), correction2 = 1 - pow(beta2, (double)a->t);
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < a->n; i++) {
        double g = (double)a->g[i] * (double)a->grad_scale, p = (double)a->p[i];
        p -= lr * (double)a->weight_decay * p;
        double m = beta1 * (double)a->m[i] + (1 - beta1) * g;
        double v = beta2 * (double)a->v[i] + (1 - beta2) * g * g;
        a->m[i] = (real)m;
        a->v[i] = (real)v;
        a->p[i] = (real)(p - lr * (m / correction1) / (sqrt(v / correction2) + (double)a->eps));
    }
}

/* ---- sum of squares: chunks of 4096 in order, whoever sums each of them ---- */

enum { CHUNK = 4096, CHUNKS = 256 };

static double chunk_squares(const real *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

double ref_sum_squares(const struct ops_context *c, const real *x, size_t n)
{
    double total = 0, part[CHUNKS];
    for (size_t i0 = 0; i0 < n; i0 += (size_t)CHUNK * CHUNKS) {
        size_t chunks = size_min(CHUNKS, (n - i0 + CHUNK - 1) / CHUNK);
#pragma omp parallel for num_threads(c->threads)
        for (size_t j = 0; j < chunks; j++)
            part[j] = chunk_squares(x + i0 + j * CHUNK, size_min(CHUNK, n - i0 - j * CHUNK));
        for (size_t j = 0; j < chunks; j++)
            total += part[j];
    }
    return total;
}

/* ---- salience: Ma et al. 2023 (LLM-Pruner, arXiv:2305.11627), eq. 3-5 ---- */

/* What losing one weight w costs, by its gradient g and Fisher term f. */
static double element(enum salience kind, double w, double g, double f)
{
    switch (kind) {
    case SALIENCE_VECTORIZE: return w * g; /* summed with its sign */
    case SALIENCE_PARAM_FIRST: return fabs(w * g);
    case SALIENCE_PARAM_SECOND: return fabs(w * w * f);
    case SALIENCE_PARAM_MIX: return fabs(w * g - 0.5 * w * w * f);
    case SALIENCE_L1: return fabs(w);
    case SALIENCE_L2: return w * w;
    }
    return 0;
}

/* Sums over one row's inputs (*row) and adds each element to its column, for columns j0 .. j1-1. */
static double salience_row(enum salience kind, const real *w, const real *G, const real *F, size_t j0, size_t j1, double *cols)
{
    double row = 0;
    for (size_t j = j0; j < j1; j++) {
        double s = element(kind, (double)w[j], G ? (double)G[j] : 0, F ? (double)F[j] : 0);
        row += s;
        if (cols)
            cols[j] += s;
    }
    return row;
}

/* Elements j0 .. j1-1 of row i, where j0 .. j1-1 of the result are. */
static const real *row_part(const struct qmat *W, size_t i, size_t j0, size_t j1, real *row)
{
    if (W->format == FORMAT_F32)
        return cpu_row(W, i, row);
    quant_decode_span(W, i, j0, j1 - j0, row + j0);
    return row;
}

/* Twice over W: once with the rows shared out, once with blocks of columns. */
void ref_salience(const struct ops_context *c, enum salience kind, const struct qmat *W, const real *G, const real *F,
                  double *rows, double *cols)
{
    size_t out = W->rows, in = W->cols;
#pragma omp parallel for num_threads(c->threads)
    for (size_t i = 0; i < out; i++) {
        const real *w = cpu_row(W, i, cpu_scratch(c));
        rows[i] += salience_row(kind, w, G ? G + i * in : NULL, F ? F + i * in : NULL, 0, in, NULL);
    }
#pragma omp parallel for num_threads(c->threads)
    for (size_t j0 = 0; j0 < in; j0 += 64)
        for (size_t i = 0; i < out; i++) {
            size_t j1 = size_min(j0 + 64, in);
            const real *w = row_part(W, i, j0, j1, cpu_scratch(c));
            salience_row(kind, w, G ? G + i * in : NULL, F ? F + i * in : NULL, j0, j1, cols);
        }
}
