/* trial_importance.c: what is known of each variable before any trial, as AutoQRA wants it (section 3.2 of the paper, eqs. 4-6).
 *
 * Fidelity of a format variable: the KL divergence from the unquantized model that appears when this variable alone takes its lowest level, all others
 * their highest.  Plasticity of a rank variable: how fast the loss would fall along its adapters' gradients, ||dL/dA||^2 + ||dL/dB||^2 summed over its
 * linears, at the start of fine-tuning with all formats lowest.  What it is not: no trial; nothing is fine-tuned. */
#include <math.h>
#include <stdlib.h>

#include "base/stop.h"
#include "cuda/device.h"
#include "trial.h"

enum { GRADIENT_EXAMPLES = 32 };

static void all_at_ends(const struct trials *trials, bool high, uint8_t *level)
{
    for (size_t v = 0; v < trials->n_variables; v++)
        level[v] = high ? (uint8_t)(trials->n_variable_levels[v] - 1) : 0;
}


static enum status measure_fidelity(struct trials *trials, uint8_t *level, double *importance, struct err *err)
{
    double top;
    all_at_ends(trials, true, level);
    TRY(trials_divergence(trials, level, &top, err));
    for (size_t v = 0; v < trials->n_format_variables; v++) {
        uint8_t keep = level[v];
        if (keep == 0)
            continue;
        level[v] = 0;
        TRY(trials_divergence(trials, level, &importance[v], err));
        importance[v] = fmax(importance[v] - top, 0);
        level[v] = keep;
    }
    return OK;
}

/* The gradient of the mean loss over the first examples, into the g of the adapters that a pass trains. */
static enum status adapter_gradients(struct trials *trials, struct err *err)
{
    const struct dataset *data = trials->dataset;
    size_t n = data->n < GRADIENT_EXAMPLES ? data->n : GRADIENT_EXAMPLES, labelled = 0;
    for (size_t i = 0; i < n; i++)
        for (int32_t t = 0; t < data->example[i].n; t++)
            labelled += data->example[i].labels[t] >= 0;
    const struct model *model = &trials->model;
    const struct lora *host = &trials->lora;
    TRY(trials_there(trials, &model, &host, err));
    struct lora *lora = trials_trained(trials);
    model_clear(trials->run->ops, lora->g, lora->n);
    float dropout = lora->dropout;
    lora->dropout = 0;
    enum status status = OK;
    for (size_t i = 0; status == OK && i < n; i++) {
        const struct example *e = &data->example[i];
        double sum;
        size_t count;
        struct segment segment;
        struct batch batch = trials_example(trials, e, &segment);
        status = stop_check(err);
        if (status == OK)
            status = model_train(trials->run, model, lora, NULL, &batch, (real)(1 / (double)labelled), 0, &sum, &count, err);
    }
    lora->dropout = dropout;
    return status;
}

static enum status measure_plasticity(struct trials *trials, uint8_t *level, double *importance, struct err *err)
{
    if (trials->n_ranks == 0)
        return OK;
    all_at_ends(trials, false, level);
    for (size_t v = trials->n_format_variables; v < trials->n_variables; v++)
        level[v] = (uint8_t)(trials->n_variable_levels[v] - 1); /* the largest rank sees most directions */
    TRY(trials_set(trials, level, err));
    TRY(adapter_gradients(trials, err));
    const struct ops_context *c = trials->run->ops;
    for (size_t i = 0; i < trials->n_linears; i++) {
        const struct adapter *a = &trials_trained(trials)->adapter[i / LINEAR_COUNT][i % LINEAR_COUNT];
        if (!trials->ranked[i])
            continue;
        size_t v = trials->n_format_variables + trials_variable(trials, i), r = (size_t)a->r;
        importance[v] += c->ops->sum_squares(c, a->dA, r * a->in) + c->ops->sum_squares(c, a->dB, r * a->out);
    }
    return c->device ? device_check(c->device, err) : OK;
}

enum status trials_measure_importance(struct trials *trials, struct err *err)
{
    uint8_t *level = calloc(trials->n_variables, 1);
    free(trials->importance);
    trials->importance = calloc(trials->n_variables, sizeof *trials->importance);
    enum status status = level && trials->importance ? OK : err_set(err, ERR_MEMORY, "out of memory for the importance of layers");
    if (status == OK)
        status = measure_fidelity(trials, level, trials->importance, err);
    if (status == OK)
        status = measure_plasticity(trials, level, trials->importance, err);
    free(level);
    if (status != OK) {
        free(trials->importance);
        trials->importance = NULL;
    }
    return status;
}
