/* predictor.h: what amq may believe of scores that were not measured: a table of models behind one face.  What it is not: the models; rbf.h and gp.h are. */
#ifndef VENEER_PREDICTOR_H
#define VENEER_PREDICTOR_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Scores y[n] with their variances at X[n, d], features in 0..1. */
struct predictor_data {
    const double *X, *y, *variance;
    size_t n, d;
    uint64_t seed;
};

struct predictor {
    const char *name;
    /* A model of the data, n > 0.  *model is NULL or what an earlier fit made of the first rows of the same data, which may be built upon: the result is the same, bit
     * by bit.  free_model releases, also after a failure.  ERR_MEMORY, ERR_FAILED. */
    enum status (*fit)(void **model, const struct predictor_data *data, struct err *err);
    /* Score at x[d]. */
    double (*predict)(const void *model, const double *x);
    void (*free_model)(void *model);
};

/* NULL: the first, rbf.  ERR_INPUT for an unknown name. */
enum status predictor_find(const char *name, const struct predictor **predictor, struct err *err);

#endif
