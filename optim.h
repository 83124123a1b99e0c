/* optim.h: learning-rate schedules, global clipping, the AdamW step over a flat block of parameters. */
#ifndef VENEER_OPTIM_H
#define VENEER_OPTIM_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "ops.h"

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
enum status schedule_parse(const char *name, enum schedule *schedule, struct err *err);

struct optim {
    real lr, beta1, beta2, eps, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    enum schedule schedule;
    int64_t warmup_steps, total_steps;
};

void optim_default(struct optim *optim); /* 3e-4, 0.9, 0.999, 1e-8, 0, 1.0, linear, 0, 0 */

/* Rate used in 0-based step k, as transformers' schedules: warm-up k/warmup (so step 0 has rate 0 when there is one), then
 * linear: (total - k)/(total - warmup), cosine: half a period, constant. */
double optim_rate(const struct optim *optim, int64_t step);

/* Global L2 norm in double, clips by min(1, max/(norm + 1e-6)), one AdamW update of p.  *norm is before clipping.
 * ERR_DIVERGED, p m v untouched, when the norm is not finite. */
enum status optim_step(const struct optim *optim, const struct ops_context *c, int64_t step, real *p, const real *g, real *m,
                       real *v, size_t n, double *norm, struct err *err);

#endif
