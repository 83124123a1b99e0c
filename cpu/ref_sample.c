/* ref_sample.c: the plain truth of drawing a token: all of them in a row, likeliest first. */
#include <stdlib.h>

#include "cpu/cpu.h"
#include "cpu/sample.h"

struct ranked {
    real z;
    uint32_t w;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint64_t sum_of(const struct ranked *row, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += row[i].w;
    return sum;
}

/* Those of the nucleus, first in the row; tokens that weigh nothing are left out from the start. */
static size_t rank(const struct sample_args *a, real most, struct ranked *row)
{
    size_t n = 0, kept = 0;
    for (size_t v = 0; v < a->V; v++) {
        uint32_t w = sample_weight(a->logits[v], most, sample_scale(a->temperature));
        if (w > 0)
            row[n++] = (struct ranked){a->logits[v], w, (int32_t)v};
    }
    qsort(row, n, sizeof *row, by_logit);
    if (a->top_k > 0 && (size_t)a->top_k < n)
        n = (size_t)a->top_k;
    uint64_t target = sample_target(a->top_p, sum_of(row, n)), sum = 0;
    while (sum < target)
        sum += row[kept++].w;
    return kept;
}

void ref_sample(const struct ops_context *c, const struct sample_args *a)
{
    struct ranked *row = (struct ranked *)(void *)c->scratch;
    size_t first = 0;
    real most = -(real)INFINITY;
    for (size_t v = 0; v < a->V; v++)
        if (a->logits[v] > most) {
            most = a->logits[v];
            first = v;
        }
    *a->token = (int32_t)first;
    if (sample_is_greedy(a, most))
        return;
    size_t n = rank(a, most, row), i = 0;
    qsort(row, n, sizeof *row, by_id);
    uint64_t point = sample_point(a->u, sum_of(row, n)), sum = row[0].w;
    while (sum <= point)
        sum += row[++i].w;
    *a->token = row[i].id;
}

size_t ref_sample_shared(size_t V)
{
    return V * sizeof(struct ranked) / sizeof(real) + 1;
}
