/* gp.h: a Gaussian process with a linear and a Matern-5/2 kernel, both ARD, and known, unequal noise.
 *
 *     k(x, x') = sl2 4/d sum_i m^2 w_i (x_i - 1/2)(x'_i - 1/2)  +  sf2 (1 + sqrt(5 r2) + 5/3 r2) exp(-sqrt(5 r2))
 *              + w_t x_t x'_t, where the last feature is a trend: it enters neither sum, and its w is the variance of its slope
 *     r2 = sum_i w_i (x_i - x'_i)^2,   w_i = 1 / length_i^2,   m the median of gp_fit's prior of lengths
 *     y ~ N(0, K + diag(noise + sn2))
 * The linear part is a sum of one slope a feature, slopes independent and normal: at the corners of the cube 0..1 and lengths of m its variance is sl2.
 * Rasmussen & Williams 2006, ch. 2, 4, 5.  What it is not: it knows no models and no searches. */
#ifndef VENEER_GP_H
#define VENEER_GP_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct gp {
    size_t n, d;
    double *X, *y, *noise; /* [n, d], [n], [n]; owned copies */
    double *w;             /* [d] */
    bool trend;            /* set after gp_new: the last feature is a trend, such as what another model expects */
    double sf2, sn2, sl2;
    double *L, *a;         /* Cholesky factor of K + noise [n, n], (K + noise)^-1 y [n] */
    double jitter;
    double y_mean, y_scale; /* gp_fit standardises: y = (given - y_mean) / y_scale */
    double *work;          /* [n, n] and more */
};

/* Copies the data; w = 1, sf2 = 1, sn2 = 1e-6, sl2 = 0 (no linear part), y as it is.  gp_free releases (also after a failure). */
enum status gp_new(struct gp *gp, const double *X, const double *y, const double *noise, size_t n, size_t d, struct err *err);
void gp_free(struct gp *gp);
/* Factors K for the present w, sf2, sn2, sl2.  ERR_FAILED when it is not positive definite even with jitter. */
enum status gp_condition(struct gp *gp, struct err *err);
/* log p(y) in nats of a conditioned gp and, when not NULL, its derivatives with respect to log w [d], log sf2, log sn2, log sl2. */
double gp_likelihood(struct gp *gp, double *dlog_w, double *dlog_sf2, double *dlog_sn2, double *dlog_sl2);
/* Posterior mean and variance of the function (without noise) at x [d], in the units of gp->y; variance may be NULL. */
void gp_predict(const struct gp *gp, const double *x, double *mean, double *variance);
/* Standardises y (noise with it), and finds w, sf2, sn2, sl2 by maximum a posteriori (L-BFGS, two fixed starts; below ten points the
 * priors' medians are taken).  Priors: length_i ~ LogNormal(sqrt 2 + ln(d)/2, sqrt 3) (Hvarfner et al. 2024, arXiv:2402.02229), d without the trend,
 * sf2 ~ LogNormal(0, 1), sl2 ~ LogNormal(-1, 1), sn2 ~ LogNormal(-4, 1), w_t ~ LogNormal(0, 1), all as densities of the logarithm.  Leaves gp conditioned.
 * A deterministic function of the data; y of any size, equal or repeated points, noise of 0 or NaN all fit.  ERR_FAILED for a feature that is no number,
 * ERR_MEMORY. */
enum status gp_fit(struct gp *gp, struct err *err);
/* log posterior density (up to a constant) of theta = (log w [d], log sf2, log sn2, log sl2) and its gradient [d + 3]; -INFINITY when K cannot be
 * factored. */
double gp_log_posterior(struct gp *gp, const double *theta, double *gradient);

#endif
