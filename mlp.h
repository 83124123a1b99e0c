/* mlp.h: a small multilayer perceptron for regression: a few features, tens to a few hundred points.
 *
 *     f(x) = w3 . s(W2 s(W1 z + b1) + b2) + b3,   z = (x - mean) / deviation,   y = y_mean + y_scale f
 * Trained with the full batch: Huber loss (Huber 1964), Adam (Kingma & Ba 2015, arXiv:1412.6980), the best weights on held-out points kept
 * (Prechelt 1998).  What it is not: it knows no models and no searches, and gives no error bars (gp.h does). */
#ifndef VENEER_MLP_H
#define VENEER_MLP_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum mlp_activation {
    MLP_GELU, /* x Phi(x), Hendrycks & Gimpel 2016, arXiv:1606.08415 */
    MLP_RELU,
};

struct mlp_options {
    size_t hidden1, hidden2; /* > 0 */
    enum mlp_activation activation;
    double rate;             /* Adam's step; its decays are 0.9 and 0.999 */
    double penalty;          /* added to the loss: penalty / 2 times the sum of the squares of W1, W2, w3 */
    double held_out;         /* share of the points, 0..1, that judge the weights and train none; their number is rounded down */
    size_t epochs, patience; /* at most; ends after `patience` epochs without a better loss on the held-out points (without any: on all) */
    uint64_t seed;           /* of the first weights and of who is held out */
};
/* 64, 32, GELU, 1e-3, 1e-3, 0.2, 500, 10, 0 */
extern const struct mlp_options mlp_defaults;

struct mlp {
    struct mlp_options options;
    size_t d, n_theta;
    double *theta;            /* W1 [d, hidden1], b1, W2 [hidden1, hidden2], b2, w3 [hidden2], b3; owned, as all here */
    double *x_mean, *x_scale; /* [d]; scale 0: the feature never varied and says nothing */
    double y_mean, y_scale;   /* scale 0: so do the targets, which are predicted as they are */
    double *work;
};

/* Fits y[n] to X[n, d].  options NULL: mlp_defaults.  A deterministic function of data and options, the same bits every time.  n = 0 predicts 0
 * everywhere, n = 1 and equal targets that target.  ERR_FAILED for a feature or target that is no number, ERR_MEMORY.  mlp_free releases (also after a
 * failure). */
enum status mlp_fit(struct mlp *mlp, const double *X, const double *y, size_t n, size_t d, const struct mlp_options *options, struct err *err);
/* f at x [d], in the units of y. */
double mlp_predict(const struct mlp *mlp, const double *x);
/* mean_i huber(f(z_i) - t_i) + penalty, of standardised points Z[n, d] and targets t[n], n > 0, and when not NULL its gradient [n_theta].
 * huber(e) = e^2 / 2 for |e| <= 1, else |e| - 1/2. */
double mlp_loss(const struct mlp *mlp, const double *Z, const double *t, size_t n, double *gradient);
void mlp_free(struct mlp *mlp);

#endif
