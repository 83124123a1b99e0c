/* gp.h: a Gaussian process with a linear and a Matern-5/2 kernel, both ARD, and known, unequal noise.
 *
 *     k(x, x') = sl2 4/d sum_i m^2 w_i (x_i - 1/2)(x'_i - 1/2)  +  sf2 (1 + sqrt(5 r2) + 5/3 r2) exp(-sqrt(5 r2))
 *              + w_t x_t x'_t, where the last feature is a trend: it enters neither sum, and its w is the variance of its slope
 *     r2 = sum_i w_i (x_i - x'_i)^2,   w_i = 1 / length_i^2,   m the median of gp_fit's prior of lengths
 *     y ~ N(0, K + diag(noise + sn2))
 * The linear part is a sum of one slope a feature, slopes independent and normal: at the corners of the cube 0..1 and lengths of m its variance is sl2.
 *
 * Points of a lower fidelity (gp_set_low), such as cheaper measurements, may stand among those of the function f that is asked for:
 *     l(x) = s g(x) + o,   f(x) = c g(x) + sqrt(1 - c^2) e(x),   g and e independent with the kernel k above, o ~ N(0, 1):
 *     cov(f, f') = k,   cov(f, l') = c s k,   cov(l, l') = s^2 k + 1,   noise of l: its own low_sn2 instead of sn2
 * which is Kennedy & O'Hagan 2000 (Biometrika 87(1)), eq. 1, with rho = c / s, and, as both share the lengths of k, an intrinsic coregionalisation
 * (Alvarez et al. 2012, arXiv:1106.6251, sect. 4.2).  The correlation c is learnt: near 0 where l tells nothing of f, which is then as it would be without.
 *
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
    bool *low;             /* [n] which points are of the lower fidelity; NULL: none.  gp_set_low */
    double correlation, low_scale, low_sn2; /* c, s, low_sn2 */
    double *L, *a;         /* Cholesky factor of K + noise [n, n], (K + noise)^-1 y [n] */
    double jitter;
    double y_mean, y_scale; /* gp_fit standardises: y = (given - y_mean) / y_scale */
    double *work;          /* [n, n] and more */
};

/* Copies the data; w = 1, sf2 = 1, sn2 = 1e-6, sl2 = 0 (no linear part), y as it is.  gp_free releases (also after a failure). */
enum status gp_new(struct gp *gp, const double *X, const double *y, const double *noise, size_t n, size_t d, struct err *err);
void gp_free(struct gp *gp);
/* Says which points are of the lower fidelity: low[n], copied; c = 0.7, s = 1, low_sn2 = 1e-6.  ERR_MEMORY. */
enum status gp_set_low(struct gp *gp, const bool *low, struct err *err);
/* Numbers in theta = (log w [d], log sf2, log sn2, log sl2), after gp_set_low also logit c, log s, log low_sn2. */
size_t gp_parameters(const struct gp *gp);
/* Factors K for the present parameters.  ERR_FAILED when it is not positive definite even with jitter. */
enum status gp_condition(struct gp *gp, struct err *err);
/* log p(y) in nats of a conditioned gp and, when not NULL, its gradient[gp_parameters] with respect to theta. */
double gp_likelihood(struct gp *gp, double *gradient);
/* Posterior mean and variance of the function (without noise) at x [d], in the units of gp->y; variance may be NULL. */
void gp_predict(const struct gp *gp, const double *x, double *mean, double *variance);
/* After gp_set_low: posterior variance of l at x, and its covariance with f(x). */
void gp_predict_low(const struct gp *gp, const double *x, double *variance, double *covariance);
/* Standardises y (noise with it): by the mean and deviation of f's points; those of l are centred on their own mean.  Finds the parameters by maximum a posteriori (L-BFGS, two fixed starts; below ten points the
 * priors' medians are taken).  Priors: length_i ~ LogNormal(sqrt 2 + ln(d)/2, sqrt 3) (Hvarfner et al. 2024, arXiv:2402.02229), d without the trend,
 * sf2 ~ LogNormal(0, 1), sl2 ~ LogNormal(-1, 1), sn2 ~ LogNormal(-4, 1), w_t ~ LogNormal(0, 1), logit c ~ N(1, 1.5), s ~ LogNormal(0, 1),
 * low_sn2 ~ LogNormal(-4, 1), all as densities of theta.  Leaves gp conditioned.
 * A deterministic function of the data; y of any size, equal or repeated points, noise of 0 or NaN all fit.  ERR_FAILED for a feature that is no number,
 * ERR_MEMORY. */
enum status gp_fit(struct gp *gp, struct err *err);
/* log posterior density (up to a constant) of theta and its gradient; -INFINITY when K cannot be factored. */
double gp_log_posterior(struct gp *gp, const double *theta, double *gradient);

#endif
