/* paper.h: what a card could do at best, on paper: the bytes that kernels must move and the products they must compute, over its data sheet's figures.
 *
 * The bound of a step is the sum of its kernels' bounds (docs/cuda.md, "Roofline, on paper"): nothing overlaps.  Taken as reachable: 80 % of the bandwidth, 60 % of
 * the tensor cores for large products, 20 % for attention.
 * What it is not: a measurement. */
#ifndef VENEER_BENCH_PAPER_H
#define VENEER_BENCH_PAPER_H
#include <stdbool.h>

#include "bench/workload.h"

struct card {
    double bandwidth; /* bytes a second of its memory; 0: not known */
    double tensor;    /* operations a second of bf16, dense */
};

/* By a device's name, from NVIDIA's data sheets; zeros for a card that is not in the list. */
struct card card_of(const char *name);

/* Seconds of a training step of `rows` tokens in sequences of `length`, layers kept or recomputed; NaN when the card is not known. */
double paper_step_s(const struct card *card, const struct workload *w, double rows, size_t length);
/* Bytes that one decoded token reads, with `context` keys and values in the cache. */
double paper_token_bytes(const struct model *model, double context);

#endif
