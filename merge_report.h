/* merge_report.h: how much of an adapter is left after a merge into formats that round.
 *
 * An adapter changes a linear by dW = s B A.  Merged and encoded again, the weights are W' = Q(W + dW), W being the decoded base.  An update that is smaller
 * than a format's step may be rounded away as a whole:
 *
 *     survived = <W' - W, dW> / ||dW||^2        the update's share in what changed: 1 all of it, 0 nothing
 *     noise    = ||W' - W - dW|| / ||dW||       what rounding adds beside it, in units of the update
 *
 * What it is not: it knows no text (evaluate_divergence measures what the difference does). */
#ifndef VENEER_MERGE_REPORT_H
#define VENEER_MERGE_REPORT_H
#include "base/err.h"
#include "base/text.h"
#include "model.h"

/* Sums over elements: those of several linears may be added. */
struct merge_sums {
    double moved;  /* <W' - W, dW> */
    double update; /* ||dW||^2 */
    double rest;   /* ||W' - W - dW||^2 */
};
double merge_survived(const struct merge_sums *sums); /* NaN without an update */
double merge_noise(const struct merge_sums *sums);

/* Of one linear: W = from, W' = the first rows and columns of `to`, which is at least as large.  The same sums for any number of threads.  ERR_MEMORY. */
enum status merge_compare(const struct qmat *from, const struct adapter *adapter, const struct qmat *to, struct merge_sums *sums, struct err *err);

struct merge_report { /* start with {0}, end with merge_report_free */
    int32_t n_layers;
    struct merge_sums (*linear)[LINEAR_COUNT]; /* [n_layers]; zeros where there is no adapter */
};
/* Every linear of a model with its adapters against that of the merged one.  ERR_MEMORY, ERR_STOPPED. */
enum status merge_report_make(struct merge_report *report, const struct model *from, const struct lora *lora, const struct model *to, struct err *err);
/* Two tables, survived and noise: a line a layer, a column a linear, and both for the layer and the model as a whole; "-": no update. */
void merge_report_print(const struct merge_report *report, struct text *out);
void merge_report_free(struct merge_report *report);

#endif
