/* mlp.c: forward, backward, and training with the full batch.  Weight matrices lie [in, out]: the inner loops run over outputs. */
#include "mlp.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

const struct mlp_options mlp_defaults = {.hidden1 = 64, .hidden2 = 32, .activation = MLP_GELU, .rate = 1e-3, .penalty = 1e-3, .held_out = 0.2,
                                         .epochs = 500, .patience = 10};

/* ---- the net at one point ---- */

/* Where the parts of a parameter vector, or of its gradient, lie. */
struct parts {
    double *W1, *b1, *W2, *b2, *w3, *b3;
};

static struct parts parts_of(const struct mlp *m, double *theta)
{
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    struct parts p = {.W1 = theta};
    p.b1 = p.W1 + m->d * h1;
    p.W2 = p.b1 + h1;
    p.b2 = p.W2 + h1 * h2;
    p.w3 = p.b2 + h2;
    p.b3 = p.w3 + h2;
    return p;
}

/* s(a) in place and its slope. */
static void activate(enum mlp_activation kind, double *a, double *slope, size_t n)
{
    static const double sqrt_half = 0.70710678118654752440, inv_sqrt_2pi = 0.39894228040143267794;
    for (size_t j = 0; j < n; j++) {
        double x = a[j];
        if (kind == MLP_RELU) {
            slope[j] = x > 0;
            a[j] = x > 0 ? x : 0;
        } else {
            double phi = 0.5 * erfc(-x * sqrt_half);
            slope[j] = phi + x * inv_sqrt_2pi * exp(-0.5 * x * x);
            a[j] = x * phi;
        }
    }
}

/* out = b + W^T x */
static void linear(const double *W, const double *b, const double *x, size_t n_in, size_t n_out, double *out)
{
    memcpy(out, b, n_out * sizeof *out);
    for (size_t i = 0; i < n_in; i++)
        for (size_t j = 0; j < n_out; j++)
            out[j] += W[i * n_out + j] * x[i];
}

/* dW += x dout^T, db += dout; dx = W dout where it is wanted. */
static void linear_back(const double *W, const double *x, const double *dout, size_t n_in, size_t n_out, double *dW, double *db, double *dx)
{
    for (size_t i = 0; i < n_in; i++) {
        double sum = 0;
        for (size_t j = 0; j < n_out; j++)
            dW[i * n_out + j] += x[i] * dout[j];
        for (size_t j = 0; dx && j < n_out; j++)
            sum += W[i * n_out + j] * dout[j];
        if (dx)
            dx[i] = sum;
    }
    for (size_t j = 0; j < n_out; j++)
        db[j] += dout[j];
}

/* Units and slopes of the two hidden layers in m->work. */
struct units {
    double *u1, *s1, *d1, *u2, *s2, *d2, *z;
};

static struct units units_of(const struct mlp *m)
{
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    struct units u = {.u1 = m->work};
    u.s1 = u.u1 + h1;
    u.d1 = u.s1 + h1;
    u.u2 = u.d1 + h1;
    u.s2 = u.u2 + h2;
    u.d2 = u.s2 + h2;
    u.z = u.d2 + h2;
    return u;
}

static double forward(const struct mlp *m, const struct units *u, const double *z)
{
    const struct parts p = parts_of(m, m->theta);
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    double f = *p.b3;
    linear(p.W1, p.b1, z, m->d, h1, u->u1);
    activate(m->options.activation, u->u1, u->s1, h1);
    linear(p.W2, p.b2, u->u1, h1, h2, u->u2);
    activate(m->options.activation, u->u2, u->s2, h2);
    for (size_t j = 0; j < h2; j++)
        f += p.w3[j] * u->u2[j];
    return f;
}

/* Adds df times the gradient of f at the point that forward was at. */
static void backward(const struct mlp *m, const struct units *u, const double *z, double df, double *gradient)
{
    const struct parts p = parts_of(m, m->theta), g = parts_of(m, gradient);
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    *g.b3 += df;
    for (size_t j = 0; j < h2; j++) {
        g.w3[j] += df * u->u2[j];
        u->d2[j] = df * p.w3[j] * u->s2[j];
    }
    linear_back(p.W2, u->u1, u->d2, h1, h2, g.W2, g.b2, u->d1);
    for (size_t j = 0; j < h1; j++)
        u->d1[j] *= u->s1[j];
    linear_back(p.W1, z, u->d1, m->d, h1, g.W1, g.b1, NULL);
}

/* ---- loss ---- */

static double huber(double e, double *slope)
{
    *slope = fmax(-1, fmin(1, e));
    return fabs(e) <= 1 ? 0.5 * e * e : fabs(e) - 0.5;
}

/* Mean loss of the points; adds its gradient where that is wanted. */
static double data_loss(const struct mlp *m, const double *Z, const double *t, size_t n, double *gradient)
{
    const struct units u = units_of(m);
    double sum = 0, slope;
    for (size_t i = 0; i < n; i++) {
        sum += huber(forward(m, &u, Z + i * m->d) - t[i], &slope);
        if (gradient)
            backward(m, &u, Z + i * m->d, slope / (double)n, gradient);
    }
    return sum / (double)n;
}

static double weight_loss(const double *w, size_t n, double penalty, double *gradient)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += w[i] * w[i];
        if (gradient)
            gradient[i] += penalty * w[i];
    }
    return 0.5 * penalty * sum;
}

double mlp_loss(const struct mlp *m, const double *Z, const double *t, size_t n, double *gradient)
{
    const struct parts p = parts_of(m, m->theta);
    struct parts g = {0};
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    if (gradient) {
        memset(gradient, 0, m->n_theta * sizeof *gradient);
        g = parts_of(m, gradient);
    }
    double loss = data_loss(m, Z, t, n, gradient);
    loss += weight_loss(p.W1, m->d * h1, m->options.penalty, g.W1);
    loss += weight_loss(p.W2, h1 * h2, m->options.penalty, g.W2);
    return loss + weight_loss(p.w3, h2, m->options.penalty, g.w3);
}

/* ---- training ---- */

/* Output weights begin at 0: what is not learned is predicted as the mean. */
static void first_weights(struct mlp *m)
{
    const struct parts p = parts_of(m, m->theta);
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    struct rng rng = {.seed = m->options.seed, .stream = RNG_INIT};
    for (size_t i = 0; i < m->d * h1; i++)
        p.W1[i] = rng_normal(&rng) / sqrt((double)m->d);
    for (size_t i = 0; i < h1 * h2; i++)
        p.W2[i] = rng_normal(&rng) * sqrt(2 / (double)h1);
}

struct adam {
    double *gradient, *first, *second; /* [n_theta] */
    double decay1, decay2;             /* 0.9^t, 0.999^t */
};

static void adam_step(struct mlp *m, struct adam *a)
{
    a->decay1 *= 0.9;
    a->decay2 *= 0.999;
    for (size_t i = 0; i < m->n_theta; i++) {
        double g = a->gradient[i];
        a->first[i] = 0.9 * a->first[i] + 0.1 * g;
        a->second[i] = 0.999 * a->second[i] + 0.001 * g * g;
        m->theta[i] -= m->options.rate * (a->first[i] / (1 - a->decay1)) / (sqrt(a->second[i] / (1 - a->decay2)) + 1e-8);
    }
}

/* The first n - held points train, the others judge.  work [4, n_theta], zeros. */
static void train(struct mlp *m, const double *Z, const double *t, size_t n, size_t held, double *work)
{
    struct adam adam = {.gradient = work, .first = work + m->n_theta, .second = work + 2 * m->n_theta, .decay1 = 1, .decay2 = 1};
    double *kept = work + 3 * m->n_theta, least = INFINITY;
    size_t trained = n - held;
    for (size_t epoch = 0, waited = 0; epoch <= m->options.epochs && waited <= m->options.patience; epoch++) {
        double loss = mlp_loss(m, Z, t, trained, adam.gradient);
        if (held > 0)
            loss = data_loss(m, Z + trained * m->d, t + trained, held, NULL);
        waited = loss < least ? 0 : waited + 1;
        if (loss < least) {
            least = loss;
            memcpy(kept, m->theta, m->n_theta * sizeof *kept);
        }
        adam_step(m, &adam);
    }
    memcpy(m->theta, kept, m->n_theta * sizeof *kept);
}

/* ---- standardising ---- */

/* Everything is divided by the largest first, whose square may not fit in a double.  What is equal up to rounding does not vary: 0. */
static void moments(const double *x, size_t n, size_t stride, double *mean, double *deviation)
{
    double unit = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        unit = fmax(unit, fabs(x[i * stride]));
    for (size_t i = 0; i < n && unit > 0; i++)
        sum += x[i * stride] / unit / (double)n;
    for (size_t i = 0; i < n && unit > 0; i++)
        squares += (x[i * stride] / unit - sum) * (x[i * stride] / unit - sum) / (double)n;
    *mean = sum * unit;
    *deviation = squares > 1e-18 ? sqrt(squares) * unit : 0;
}

static double standard(double x, double mean, double deviation)
{
    return deviation > 0 ? (x - mean) / deviation : 0;
}

static enum status check(const double *X, const double *y, size_t n, size_t d, struct err *err)
{
    for (size_t i = 0; i < n * d; i++)
        if (!isfinite(X[i]))
            return err_set(err, ERR_FAILED, "feature %zu of point %zu of a perceptron is %g, want a number", i % d, i / d, X[i]);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(y[i]))
            return err_set(err, ERR_FAILED, "target %zu of a perceptron is %g, want a number", i, y[i]);
    return OK;
}

/* Points in a random order, so that anyone may be held out. */
static void arrange(const struct mlp *m, const double *X, const double *y, size_t n, uint32_t *order, double *Z, double *t)
{
    struct rng rng = {.seed = m->options.seed, .stream = RNG_DATA_ORDER};
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(&rng, order, n);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < m->d; k++)
            Z[i * m->d + k] = standard(X[order[i] * m->d + k], m->x_mean[k], m->x_scale[k]);
        t[i] = standard(y[order[i]], m->y_mean, m->y_scale);
    }
}

static enum status fit(struct mlp *m, const double *X, const double *y, size_t n, struct err *err)
{
    double *work = calloc(4 * m->n_theta, sizeof *work), *Z = malloc((n * m->d + 1) * sizeof *Z), *t = malloc(n * sizeof *t);
    uint32_t *order = malloc(n * sizeof *order);
    bool got = work && Z && t && order;
    if (got) {
        arrange(m, X, y, n, order, Z, t);
        train(m, Z, t, n, (size_t)(m->options.held_out * (double)n), work);
    }
    free(work);
    free(Z);
    free(t);
    free(order);
    return got ? OK : err_set(err, ERR_MEMORY, "out of memory for a perceptron");
}

enum status mlp_fit(struct mlp *m, const double *X, const double *y, size_t n, size_t d, const struct mlp_options *options, struct err *err)
{
    *m = (struct mlp){.options = options ? *options : mlp_defaults, .d = d};
    size_t h1 = m->options.hidden1, h2 = m->options.hidden2;
    m->n_theta = (d + 1) * h1 + (h1 + 1) * h2 + h2 + 1;
    TRY(check(X, y, n, d, err));
    m->theta = calloc(m->n_theta, sizeof *m->theta);
    m->x_mean = calloc(d + 1, sizeof *m->x_mean);
    m->x_scale = calloc(d + 1, sizeof *m->x_scale);
    m->work = calloc(3 * (h1 + h2) + d, sizeof *m->work);
    if (!m->theta || !m->x_mean || !m->x_scale || !m->work)
        return err_set(err, ERR_MEMORY, "out of memory for a perceptron");
    for (size_t k = 0; k < d; k++)
        moments(X + k, n, d, &m->x_mean[k], &m->x_scale[k]);
    moments(y, n, 1, &m->y_mean, &m->y_scale);
    first_weights(m);
    return m->y_scale > 0 ? fit(m, X, y, n, err) : OK;
}

double mlp_predict(const struct mlp *m, const double *x)
{
    const struct units u = units_of(m);
    if (m->y_scale == 0)
        return m->y_mean;
    for (size_t k = 0; k < m->d; k++)
        u.z[k] = standard(x[k], m->x_mean[k], m->x_scale[k]);
    return m->y_mean + m->y_scale * forward(m, &u, u.z);
}

void mlp_free(struct mlp *m)
{
    free(m->theta);
    free(m->x_mean);
    free(m->x_scale);
    free(m->work);
    memset(m, 0, sizeof *m);
}
