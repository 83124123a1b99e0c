/* samples.c: best and median. */
#include "bench/samples.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/order.h"

void samples_add(struct samples *samples, double value)
{
    if (samples->n < SAMPLES_MOST)
        samples->value[samples->n++] = value;
}

double samples_best(const struct samples *samples)
{
    double best = samples->n ? samples->value[0] : NAN;
    for (int i = 1; i < samples->n; i++)
        best = samples->value[i] > best ? samples->value[i] : best;
    return best;
}

double samples_median(const struct samples *samples)
{
    double value[SAMPLES_MOST];
    int n = samples->n;
    if (n == 0)
        return NAN;
    memcpy(value, samples->value, (size_t)n * sizeof *value);
    qsort(value, (size_t)n, sizeof *value, order_doubles);
    return n % 2 ? value[n / 2] : 0.5 * (value[n / 2 - 1] + value[n / 2]);
}
