/* predictor.c: the predictors there are.  A new one is three functions and a row of the table. */
#include "strategy/predictor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gp.h"
#include "mlp.h"
#include "rbf.h"

/* ---- rbf: AMQ's default.  It meets every score, so noise goes into it unchanged ---- */

struct rbf_model {
    struct rbf rbf;
    size_t rows; /* of the data that are in it */
};

static enum status rbf_fit(void **model, const struct predictor_data *data, struct err *err)
{
    struct rbf_model *m = *model;
    if (!m) {
        *model = m = calloc(1, sizeof *m);
        if (!m)
            return err_set(err, ERR_MEMORY, "out of memory for an interpolant");
        TRY(rbf_new(&m->rbf, data->d, err));
    }
    TRY(rbf_add(&m->rbf, data->X + m->rows * data->d, data->y + m->rows, data->n - m->rows, err));
    m->rows = data->n;
    return OK;
}

static double rbf_score(const void *model, const double *x)
{
    return rbf_predict(&((const struct rbf_model *)model)->rbf, x);
}

static void rbf_release(void *model)
{
    if (model)
        rbf_free(&((struct rbf_model *)model)->rbf);
    free(model);
}

/* ---- gp: knows the noise; its hyper-parameters are found anew for each fit ---- */

static void gp_release(void *model)
{
    if (model)
        gp_free(model);
    free(model);
}

static enum status gp_refit(void **model, const struct predictor_data *data, struct err *err)
{
    gp_release(*model);
    struct gp *gp = *model = calloc(1, sizeof *gp);
    if (!gp)
        return err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    TRY(gp_new(gp, data->X, data->y, data->variance, data->n, data->d, err));
    return gp_fit(gp, err);
}

static double gp_score(const void *model, const double *x)
{
    const struct gp *gp = model;
    double mean, variance;
    gp_predict(gp, x, &mean, &variance);
    return gp->y_mean + gp->y_scale * mean;
}

/* ---- mlp: AMQ's other one, narrower than its release's (64 and 32 instead of 300 and 300: tens of points, not thousands); learnt anew for each fit ---- */

static void mlp_release(void *model)
{
    if (model)
        mlp_free(model);
    free(model);
}

static enum status mlp_refit(void **model, const struct predictor_data *data, struct err *err)
{
    struct mlp_options options = mlp_defaults;
    options.activation = MLP_RELU;
    options.seed = data->seed;
    mlp_release(*model);
    *model = calloc(1, sizeof(struct mlp));
    if (!*model)
        return err_set(err, ERR_MEMORY, "out of memory for a perceptron");
    return mlp_fit(*model, data->X, data->y, data->n, data->d, &options, err);
}

static double mlp_score(const void *model, const double *x)
{
    return mlp_predict(model, x);
}

static const struct predictor all[] = {
    {"rbf", rbf_fit, rbf_score, rbf_release},
    {"gp", gp_refit, gp_score, gp_release},
    {"mlp", mlp_refit, mlp_score, mlp_release},
};
enum { COUNT = sizeof all / sizeof *all };

enum status predictor_find(const char *name, const struct predictor **predictor, struct err *err)
{
    char names[128] = "";
    for (size_t i = 0; i < COUNT; i++) {
        if (!name || strcmp(name, all[i].name) == 0) {
            *predictor = &all[i];
            return OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : i + 1 < COUNT ? ", " : " or ", all[i].name);
    }
    return err_set(err, ERR_INPUT, "amq_predictor = '%s', want %s", name, names);
}
