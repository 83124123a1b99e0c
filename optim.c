/* optim.c: schedules, clipping, one AdamW step. */
#include "optim.h"

#include <math.h>
#include <string.h>

#include "cuda/device.h"

enum status schedule_parse(const char *name, enum schedule *schedule, struct err *err)
{
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *schedule = (enum schedule)i;
            return OK;
        }
    return err_set(err, ERR_INPUT, "lr_scheduler = '%s', want linear, cosine or constant", name);
}

void optim_default(struct optim *optim)
{
    *optim = (struct optim){.lr = (real)3e-4, .beta1 = (real)0.9, .beta2 = (real)0.999, .eps = (real)1e-8, .max_grad_norm = 1,
                            .schedule = SCHEDULE_LINEAR};
}

double optim_rate(const struct optim *optim, int64_t step)
{
    double lr = (double)optim->lr, k = (double)step, warmup = (double)optim->warmup_steps, total = (double)optim->total_steps;
    if (step < optim->warmup_steps)
        return lr * k / warmup;
    if (optim->schedule == SCHEDULE_CONSTANT)
        return lr;
    double length = fmax(1, total - warmup);
    if (optim->schedule == SCHEDULE_LINEAR)
        return lr * fmax(0, (total - k) / length);
    return lr * fmax(0, 0.5 * (1 + cos(3.14159265358979323846 * (k - warmup) / length)));
}

enum status optim_step(const struct optim *optim, const struct ops_context *c, int64_t step, real *p, const real *g, real *m, real *v,
                       size_t n, double *norm, struct err *err)
{
    *norm = sqrt(c->ops->sum_squares(c, g, n));
    if (c->device) /* its failure is not the loss's */
        TRY(device_check(c->device, err));
    if (!isfinite(*norm))
        return err_set(err, ERR_DIVERGED, "step %lld: the gradient's norm is not finite", (long long)step + 1);
    double most = (double)optim->max_grad_norm, scale = most > 0 ? fmin(1, most / (*norm + 1e-6)) : 1;
    struct adamw_args args = {.n = n, .p = p, .g = g, .m = m, .v = v, .grad_scale = (real)scale, .beta1 = optim->beta1,
                              .beta2 = optim->beta2, .eps = optim->eps, .weight_decay = optim->weight_decay, .t = step + 1,
                              .lr = (real)optim_rate(optim, step)};
    c->ops->adamw(c, &args);
    return OK;
}
