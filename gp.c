/* gp.c: likelihood, gradient, posterior, fit.
 *
 * Nothing here may end a search: numbers far outside what double holds are pulled in before they meet a kernel, a factorisation that fails
 * is a wall for the optimiser, and an optimiser that fails leaves the priors' medians. */
#include "gp.h"

#include <math.h>
#include <nlopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"

static double *copy(const double *from, size_t n)
{
    double *to = malloc((n ? n : 1) * sizeof *to);
    if (to && n)
        memcpy(to, from, n * sizeof *to);
    return to;
}

enum status gp_new(struct gp *gp, const double *X, const double *y, const double *noise, size_t n, size_t d, struct err *err)
{
    memset(gp, 0, sizeof *gp);
    gp->n = n;
    gp->d = d;
    gp->X = copy(X, n * d);
    gp->y = copy(y, n);
    gp->noise = copy(noise, n);
    gp->w = malloc((d ? d : 1) * sizeof *gp->w);
    gp->L = malloc((n * n + 1) * sizeof *gp->L);
    gp->a = malloc((n + 1) * sizeof *gp->a);
    gp->work = malloc((n * n + 2 * n + d + 1) * sizeof *gp->work);
    if (!gp->X || !gp->y || !gp->noise || !gp->w || !gp->L || !gp->a || !gp->work) {
        gp_free(gp);
        return err_set(err, ERR_MEMORY, "out of memory for a Gaussian process of %zu points", n);
    }
    for (size_t i = 0; i < d; i++)
        gp->w[i] = 1;
    gp->sf2 = 1;
    gp->sn2 = 1e-6;
    gp->y_scale = 1;
    return OK;
}

void gp_free(struct gp *gp)
{
    free(gp->X);
    free(gp->y);
    free(gp->noise);
    free(gp->low);
    free(gp->w);
    free(gp->L);
    free(gp->a);
    free(gp->work);
    memset(gp, 0, sizeof *gp);
}

enum status gp_set_low(struct gp *gp, const bool *low, struct err *err)
{
    bool *own = malloc((gp->n ? gp->n : 1) * sizeof *own);
    if (!own)
        return err_set(err, ERR_MEMORY, "out of memory for a Gaussian process of %zu points", gp->n);
    for (size_t i = 0; i < gp->n; i++)
        own[i] = low[i];
    free(gp->low);
    gp->low = own;
    gp->correlation = 0.7;
    gp->low_scale = 1;
    gp->low_sn2 = 1e-6;
    return OK;
}

size_t gp_parameters(const struct gp *gp)
{
    return gp->d + (gp->low ? 6 : 3);
}

/* ---- kernel ---- */

static double length_mean(size_t d)
{
    return sqrt(2) + 0.5 * log(d > 0 ? (double)d : 1);
}

/* What sl2 is multiplied by before it meets the products: 4/d m^2. */
static double linear_unit(size_t d)
{
    return 4 / (d > 0 ? (double)d : 1) * exp(2 * length_mean(d));
}

static size_t cube(const struct gp *gp) /* features without the trend */
{
    return gp->d - gp->trend;
}

struct pair {
    double r2, product, trend; /* sum_i w_i (x_i - z_i)^2, sum_i w_i (x_i - 1/2)(z_i - 1/2), w_t x_t z_t */
};

static struct pair compare(const struct gp *gp, const double *x, const double *z)
{
    size_t d = cube(gp);
    struct pair p = {.trend = gp->trend ? gp->w[d] * x[d] * z[d] : 0};
    for (size_t i = 0; i < d; i++) {
        double t = x[i] - z[i];
        p.r2 += gp->w[i] * t * t;
        p.product += gp->w[i] * (x[i] - 0.5) * (z[i] - 0.5);
    }
    return p;
}

/* Beyond it both the kernel and its slope are 0 in double, and inf * 0 must not be computed. */
static const double far_away = 1e6;

static double matern(double sf2, double r2)
{
    if (!(r2 < far_away))
        return 0;
    double r = sqrt(5 * r2);
    return sf2 * (1 + r + 5.0 / 3 * r2) * exp(-r);
}

/* dk/dr2: finite at 0, which is why the derivative is taken with respect to r2 and not r. */
static double matern_slope(double sf2, double r2)
{
    if (!(r2 < far_away))
        return 0;
    double r = sqrt(5 * r2);
    return -5.0 / 6 * sf2 * (1 + r) * exp(-r);
}

static double kernel(const struct gp *gp, double slopes, struct pair p)
{
    return slopes * p.product + p.trend + matern(gp->sf2, p.r2);
}

/* What the kernel is multiplied by between points of these fidelities: 1, c s or s^2. */
static double mixing(const struct gp *gp, bool low, bool other)
{
    if (!low && !other)
        return 1;
    return low && other ? gp->low_scale * gp->low_scale : gp->correlation * gp->low_scale;
}

static bool is_low(const struct gp *gp, size_t i)
{
    return gp->low && gp->low[i];
}

/* Covariance of l or f at a place with the points: k[n]. */
static void covariances(const struct gp *gp, const double *x, bool low, double *k)
{
    double slopes = gp->sl2 * linear_unit(cube(gp));
    for (size_t i = 0; i < gp->n; i++)
        k[i] = mixing(gp, low, is_low(gp, i)) * kernel(gp, slopes, compare(gp, x, gp->X + i * gp->d)) + (low && is_low(gp, i) ? 1 : 0);
}

enum status gp_condition(struct gp *gp, struct err *err)
{
    size_t n = gp->n;
    double slopes = gp->sl2 * linear_unit(cube(gp));
    if (n == 0)
        return OK; /* the prior */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            bool low = is_low(gp, i), other = is_low(gp, j);
            double k = mixing(gp, low, other) * kernel(gp, slopes, compare(gp, gp->X + i * gp->d, gp->X + j * gp->d)) + (low && other ? 1 : 0);
            gp->L[i * n + j] = k + (i == j ? gp->noise[i] + (low ? gp->low_sn2 : gp->sn2) : 0);
        }
    TRY(linalg_cholesky(gp->L, n, &gp->jitter, err));
    memcpy(gp->a, gp->y, n * sizeof *gp->a);
    linalg_solve_lower(gp->L, n, gp->a, 1);
    linalg_solve_lower_transposed(gp->L, n, gp->a, 1);
    return OK;
}

/* ---- likelihood ---- */

/* work[n, n] = (K + noise)^-1 */
static void invert(struct gp *gp)
{
    size_t n = gp->n;
    memset(gp->work, 0, n * n * sizeof *gp->work);
    for (size_t i = 0; i < n; i++)
        gp->work[i * n + i] = 1;
    linalg_solve_lower(gp->L, n, gp->work, n);
    linalg_solve_lower_transposed(gp->L, n, gp->work, n);
}

/* Of logit c, log s and log low_sn2, for a pair whose share of the trace is m and whose kernel is k: dc / dlogit c = c (1 - c). */
static void low_derivatives(const struct gp *gp, size_t i, size_t j, double m, double k, double *g)
{
    int lows = is_low(gp, i) + is_low(gp, j);
    double part = m * mixing(gp, is_low(gp, i), is_low(gp, j)) * k;
    g[0] += lows == 1 ? part * (1 - gp->correlation) : 0;
    g[1] += lows * part;
    g[2] += i == j && lows ? m * gp->low_sn2 : 0;
}

/* d log p / d theta = 1/2 tr((a a^T - K^-1) dK / d theta) */
static void derivatives(struct gp *gp, double *g)
{
    size_t n = gp->n, d = gp->d;
    double slopes = gp->sl2 * linear_unit(cube(gp));
    invert(gp);
    memset(g, 0, gp_parameters(gp) * sizeof *g);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            const double *x = gp->X + i * d, *z = gp->X + j * d;
            double share = (gp->a[i] * gp->a[j] - gp->work[i * n + j]) * (i == j ? 0.5 : 1), m = share * mixing(gp, is_low(gp, i), is_low(gp, j));
            struct pair p = compare(gp, x, z);
            double slope = m * matern_slope(gp->sf2, p.r2);
            g[d] += m * matern(gp->sf2, p.r2);
            g[d + 1] += i == j && !is_low(gp, i) ? share * gp->sn2 : 0;
            g[d + 2] += m * slopes * p.product;
            if (gp->low)
                low_derivatives(gp, i, j, share, kernel(gp, slopes, p), g + d + 3);
            if (gp->trend)
                g[d - 1] += m * p.trend;
            for (size_t k = 0; k < cube(gp); k++)
                g[k] += gp->w[k] * (slope * (x[k] - z[k]) * (x[k] - z[k]) + m * slopes * (x[k] - 0.5) * (z[k] - 0.5));
        }
}

double gp_likelihood(struct gp *gp, double *gradient)
{
    double fit = 0, logs = 0;
    for (size_t i = 0; i < gp->n; i++) {
        fit += gp->y[i] * gp->a[i];
        logs += log(gp->L[i * gp->n + i]);
    }
    if (gradient)
        derivatives(gp, gradient);
    return -0.5 * fit - logs - 0.5 * (double)gp->n * log(2 * 3.14159265358979323846);
}

/* Far outside the cube lies nothing that a search asks for, and the square of 1e300 is no number. */
static double pulled_in(double x)
{
    const double farthest = 1e6;
    return fmax(-farthest, fmin(farthest, x));
}

static const double *place(const struct gp *gp, const double *x)
{
    double *at = gp->work + gp->n * gp->n + 2 * gp->n;
    for (size_t i = 0; i < gp->d; i++)
        at[i] = pulled_in(x[i]);
    return at;
}

void gp_predict(const struct gp *gp, const double *x, double *mean, double *variance)
{
    size_t n = gp->n;
    double *k = gp->work + n * n, sum = 0, less = 0;
    const double *at = place(gp, x);
    covariances(gp, at, false, k);
    for (size_t i = 0; i < n; i++)
        sum += k[i] * gp->a[i];
    *mean = sum;
    if (!variance)
        return;
    if (n > 0)
        linalg_solve_lower(gp->L, n, k, 1);
    for (size_t i = 0; i < n; i++)
        less += k[i] * k[i];
    double before = kernel(gp, gp->sl2 * linear_unit(cube(gp)), compare(gp, at, at));
    *variance = before > less ? before - less : 0;
}

void gp_predict_low(const struct gp *gp, const double *x, double *variance, double *covariance)
{
    size_t n = gp->n;
    double *k = gp->work + n * n, less = 0, shared = 0;
    const double *at = place(gp, x);
    covariances(gp, at, false, k);
    covariances(gp, at, true, k + n);
    if (n > 0)
        linalg_solve_lower(gp->L, n, k, 2);
    for (size_t i = 0; i < n; i++) {
        shared += k[i] * k[n + i];
        less += k[n + i] * k[n + i];
    }
    double own = kernel(gp, gp->sl2 * linear_unit(cube(gp)), compare(gp, at, at)), before = mixing(gp, true, true) * own + 1;
    *variance = before > less ? before - less : 0;
    *covariance = mixing(gp, true, false) * own - shared;
}

/* ---- fit ---- */

static double log_normal(double log_x, double mean, double deviation, double *slope)
{
    double t = (log_x - mean) / deviation;
    *slope = -t / deviation;
    return -0.5 * t * t;
}

static void set_theta(struct gp *gp, const double *theta)
{
    for (size_t i = 0; i < gp->d; i++)
        gp->w[i] = exp(theta[i]);
    gp->sf2 = exp(theta[gp->d]);
    gp->sn2 = exp(theta[gp->d + 1]);
    gp->sl2 = exp(theta[gp->d + 2]);
    if (gp->low) {
        gp->correlation = 1 / (1 + exp(-theta[gp->d + 3]));
        gp->low_scale = exp(theta[gp->d + 4]);
        gp->low_sn2 = exp(theta[gp->d + 5]);
    }
}

/* Medians and deviations of what follows the w in theta. */
static const struct {
    double median, deviation;
} scalar_prior[] = {{0, 1}, {-4, 1}, {-1, 1}, {1, 1.5}, {0, 1}, {-4, 1}};

double gp_log_posterior(struct gp *gp, const double *theta, double *gradient)
{
    struct err err;
    size_t d = gp->d;
    double slope, prior = 0;
    set_theta(gp, theta);
    memset(gradient, 0, gp_parameters(gp) * sizeof *gradient);
    if (gp_condition(gp, &err) != OK)
        return -INFINITY;
    double value = gp_likelihood(gp, gradient);
    /* The density is that of log length, whose mode is the prior's median.  Over length itself (one more -log length) the mode is 20 times
     * shorter, and with few points in many dimensions every configuration would look unlike every other. */
    for (size_t i = 0; i < cube(gp); i++) { /* log length = -1/2 log w */
        prior += log_normal(-0.5 * theta[i], length_mean(cube(gp)), sqrt(3), &slope);
        gradient[i] += -0.5 * slope;
    }
    if (gp->trend) {
        prior += log_normal(theta[d - 1], 0, 1, &slope);
        gradient[d - 1] += slope;
    }
    for (size_t i = d; i < gp_parameters(gp); i++) {
        prior += log_normal(theta[i], scalar_prior[i - d].median, scalar_prior[i - d].deviation, &slope);
        gradient[i] += slope;
    }
    return value + prior;
}

static double objective(unsigned n, const double *theta, double *gradient, void *user)
{
    double value = gp_log_posterior(user, theta, gradient);
    bool finite = isfinite(value);
    for (unsigned i = 0; finite && i < n; i++)
        finite = isfinite(gradient[i]);
    if (!finite) { /* a wall that the line search turns back from */
        memset(gradient, 0, n * sizeof *gradient);
        return -1e30;
    }
    return value;
}

static double largest(const double *y, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(y[i]))
            most = fmax(most, fabs(y[i]));
    return most;
}

static size_t count_of(const struct gp *gp, bool low)
{
    size_t count = 0;
    for (size_t i = 0; i < gp->n; i++)
        count += is_low(gp, i) == low;
    return count;
}

static double mean_of(const struct gp *gp, bool low)
{
    double mean = 0, count = (double)count_of(gp, low);
    for (size_t i = 0; i < gp->n; i++)
        mean += is_low(gp, i) == low ? gp->y[i] / count : 0;
    return mean;
}

/* y = (y - mean) / deviation.  Scores that are identical up to rounding have no deviation to divide by: their floor makes them 0, not
 * noise blown up.  Everything is divided by the largest score first, whose square may not fit in a double. */
static void standardise(struct gp *gp)
{
    enum { FARTHEST = 1000 }; /* deviations; only a floored one reaches it */
    size_t n = gp->n, count = count_of(gp, false);
    double most = largest(gp->y, n), unit = most > 0 ? most : 1, squares = 0;
    for (size_t i = 0; i < n; i++)
        gp->y[i] = isfinite(gp->y[i]) ? gp->y[i] / unit : 0;
    double mean = mean_of(gp, false), low_mean = mean_of(gp, true);
    for (size_t i = 0; i < n; i++)
        squares += is_low(gp, i) ? 0 : (gp->y[i] - mean) * (gp->y[i] - mean);
    double scale = fmax(count > 1 ? sqrt(squares / (double)(count - 1)) : 0, 1e-9);
    for (size_t i = 0; i < n; i++) {
        double v = gp->noise[i] / unit / unit / (scale * scale);
        gp->y[i] = fmax(-FARTHEST, fmin(FARTHEST, (gp->y[i] - (is_low(gp, i) ? low_mean : mean)) / scale));
        gp->noise[i] = v >= 0 ? fmin(v, FARTHEST) : FARTHEST; /* an error bar that is no number says nothing */
    }
    gp->y_mean = mean * unit;
    gp->y_scale = scale * unit;
}

static void start(const struct gp *gp, double *theta, int which)
{
    size_t d = gp->d;
    for (size_t i = 0; i < d; i++)
        theta[i] = -2 * (length_mean(cube(gp)) - (which ? 1.5 : 0)); /* the prior's median, and shorter lengths */
    if (gp->trend)
        theta[d - 1] = 0;
    for (size_t i = d; i < gp_parameters(gp); i++)
        theta[i] = scalar_prior[i - d].median;
    if (which) /* less noise */
        theta[d + 1] = -6;
}

/* The better of two local optima into best, which stays as it is when there is none.  work [4, gp_parameters] */
static void maximise(struct gp *gp, double *best, double *work)
{
    static const double lowest[] = {-6, -14, -6, -6, -4, -14}, highest[] = {4, 2, 4, 6, 4, 2};
    size_t d = gp->d, n = gp_parameters(gp);
    double *theta = work, *low = theta + n, *high = low + n, *slope = high + n;
    double best_value = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        low[i] = i < d ? -14 : lowest[i - d];
        high[i] = i < d ? 8 : highest[i - d];
    }
    for (int which = 0; which < 2; which++) {
        nlopt_opt opt = nlopt_create(NLOPT_LD_LBFGS, (unsigned)n);
        double value = -INFINITY;
        if (!opt)
            return;
        nlopt_set_lower_bounds(opt, low);
        nlopt_set_upper_bounds(opt, high);
        nlopt_set_max_objective(opt, objective, gp);
        nlopt_set_ftol_abs(opt, 1e-4);
        nlopt_set_maxeval(opt, 60);
        start(gp, theta, which);
        nlopt_optimize(opt, theta, &value); /* its verdict does not matter: a failed line search still leaves its best point in theta */
        nlopt_destroy(opt);
        value = objective((unsigned)n, theta, slope, gp);
        if (value > best_value) {
            best_value = value;
            memcpy(best, theta, n * sizeof *best);
        }
    }
}

enum { FEW = 10 };

enum status gp_fit(struct gp *gp, struct err *err)
{
    size_t d = gp->d, parameters = gp_parameters(gp);
    for (size_t i = 0; i < gp->n * d; i++)
        if (!isfinite(gp->X[i]))
            return err_set(err, ERR_FAILED, "feature %zu of point %zu of a Gaussian process is %g, want a number", i % d, i / d, gp->X[i]);
    double *best = malloc(5 * parameters * sizeof *best);
    if (!best)
        return err_set(err, ERR_MEMORY, "out of memory for %zu hyper-parameters", parameters);
    for (size_t i = 0; i < gp->n * d; i++)
        gp->X[i] = pulled_in(gp->X[i]);
    standardise(gp);
    start(gp, best, 0);
    if (gp->n >= FEW)
        maximise(gp, best, best + parameters);
    set_theta(gp, best);
    enum status status = gp_condition(gp, err);
    if (status != OK) { /* no optimum ends here, but the way out is kept: with so much noise every K factors */
        start(gp, best, 0);
        set_theta(gp, best);
        gp->sn2 = gp->low_sn2 = 0.1;
        status = gp_condition(gp, err);
    }
    free(best);
    return status;
}
