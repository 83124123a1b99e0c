/* samples.h: rates of repeated runs: the best says what the machine can do, the median what it did. */
#ifndef VENEER_BENCH_SAMPLES_H
#define VENEER_BENCH_SAMPLES_H

enum { SAMPLES_MOST = 128 };

struct samples {
    double value[SAMPLES_MOST]; /* larger is better */
    int n;
};

void samples_add(struct samples *samples, double value); /* beyond SAMPLES_MOST: left out */
double samples_best(const struct samples *samples);      /* NaN when there is none */
double samples_median(const struct samples *samples);

#endif
