/* engine_pairs.c: which documents each trial answered right, so that trials are compared on the same questions.
 *
 * Of N documents of a task, document d was answered right by a share p_d of the trials.  Two trials differ by luck only where p_d is neither 0 nor 1, and a
 * trial bears half of that variance:  sum over tasks of sum_d p_d (1 - p_d) / N^2, / tasks^2.  The binomial variance, which counts how hard the documents are
 * as if it were luck, is several times as large.  What it is not: no test; docs/results has McNemar's. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum status engine_pairs_new(struct engine *engine)
{
    struct engine_pairs *p = &engine->pairs;
    if (engine->trials.objective == OBJECTIVE_ACCURACY)
        for (p->n_tasks = 0; p->n_tasks < engine->tasks.n; p->n_tasks++) {
            p->n[p->n_tasks] = evaluate_count(engine->tasks.search[p->n_tasks]);
            p->n_documents += p->n[p->n_tasks];
        }
    p->right = calloc(p->n_documents + 1, 1);
    p->count = calloc(p->n_documents + 1, sizeof *p->count);
    return p->right && p->count ? OK : err_set(engine->err, ERR_MEMORY, "out of memory for the answers of trials");
}

void engine_pairs_free(struct engine_pairs *p)
{
    free(p->right);
    free(p->count);
    memset(p, 0, sizeof *p);
}

void engine_pairs_add(struct engine_pairs *p, const uint8_t *right)
{
    p->n_trials++;
    for (size_t d = 0; d < p->n_documents; d++)
        p->count[d] += right[d];
}

/* sum of p (1 - p), with Jeffreys' prior: the first trials know little of p. */
static double flips(const struct engine_pairs *p, size_t first, size_t n)
{
    double sum = 0;
    for (size_t d = first; d < first + n; d++) {
        double share = ((double)p->count[d] + 0.5) / ((double)p->n_trials + 1);
        sum += share * (1 - share);
    }
    return sum;
}

double engine_pairs_variance(const struct engine_pairs *p)
{
    double variance = 0, tasks = (double)p->n_tasks;
    size_t first = 0;
    for (size_t i = 0; i < p->n_tasks; first += p->n[i++])
        variance += flips(p, first, p->n[i]) / ((double)p->n[i] * (double)p->n[i]);
    return p->n_trials ? variance / (tasks * tasks) : 0;
}

void engine_pairs_apply(struct engine *engine)
{
    double variance = engine_pairs_variance(&engine->pairs);
    for (size_t i = 0; engine->pairs.n_documents && i < engine->archive.n; i++)
        if (!engine->archive.point[i].low_fidelity)
            engine->archive.point[i].paired = variance;
}
