/* autoqra_surrogate.c: a perceptron that predicts the score of a full trial, from a cheap one where there are such. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "strategy/autoqra.h"

enum { ENOUGH = 10 };

static size_t n_features(const struct autoqra *q, bool low)
{
    return low + 3 + 2 * q->stride;
}

static double size_axis(const struct autoqra *q, double size)
{
    return q->high_size > q->low_size ? (size - q->low_size) / (q->high_size - q->low_size) : 0;
}

static void features(const struct autoqra *q, bool low, const uint8_t *level, double low_score, double *x)
{
    const struct search_space *space = q->space;
    double size = space->size(space->user, level);
    memset(x, 0, n_features(q, low) * sizeof *x);
    if (low)
        *x++ = low_score;
    *x++ = size_axis(q, size);
    *x++ = autoqra_weighted(q, SEARCH_FORMAT, level);
    *x++ = autoqra_weighted(q, SEARCH_RANK, level);
    for (size_t i = 0; i < space->n; i++)
        x[(space->kind && space->kind[i] == SEARCH_RANK ? q->stride : 0) + level[i]] += 1.0 / (double)space->n;
}

/* The last trial of low fidelity of a configuration that succeeded. */
static const struct search_point *low_trial(const struct autoqra *q, const uint8_t *level)
{
    for (size_t i = q->archive->n; i-- > 0;) {
        const struct search_point *p = &q->archive->point[i];
        if (p->low_fidelity && !p->failed && memcmp(p->level, level, q->space->n) == 0)
            return p;
    }
    return NULL;
}

/* X[n, d] and y[n] of the full trials to learn from, and the mean distance from the cheap ones. */
static size_t collect(const struct autoqra *q, struct autoqra_surrogate *s, double *X, double *y)
{
    size_t n = 0;
    for (size_t i = 0; i < q->archive->n; i++) {
        const struct search_point *p = &q->archive->point[i], *low = s->low ? low_trial(q, p->level) : NULL;
        if (!search_counts(p) || !isfinite(p->score) || (s->low && !low))
            continue;
        features(q, s->low, p->level, low ? low->score : 0, X + n * s->d);
        s->shift += low ? p->score - low->score : 0;
        y[n++] = p->score;
    }
    s->shift /= n ? (double)n : 1;
    return n;
}

static enum status learn(const struct autoqra *q, struct autoqra_surrogate *s, struct err *err)
{
    /* a third of the usual width: a proposal takes milliseconds */
    struct mlp_options options = mlp_defaults;
    options.hidden1 = 20;
    options.hidden2 = 10;
    options.seed = q->options->seed;
    double *X = malloc((q->archive->n + 1) * s->d * sizeof *X), *y = malloc((q->archive->n + 1) * sizeof *y);
    enum status status = X && y ? OK : err_set(err, ERR_MEMORY, "out of memory for a surrogate");
    size_t n = status == OK ? collect(q, s, X, y) : 0;
    s->trained = n >= ENOUGH;
    if (s->trained)
        status = mlp_fit(&s->mlp, X, y, n, s->d, &options, err);
    free(X);
    free(y);
    return status;
}

static enum status make_front(const struct autoqra *q, struct autoqra_surrogate *s, struct err *err)
{
    const struct search_archive *a = q->archive;
    double best = -INFINITY;
    size_t n = 0;
    struct pareto_point *p = malloc((a->n + 1) * sizeof *p), reference = {1.1, 1.1, 1};
    if (!p)
        return err_set(err, ERR_MEMORY, "out of memory for a front");
    s->worst = INFINITY;
    for (size_t i = 0; i < a->n; i++)
        if (search_counts(&a->point[i]) && isfinite(a->point[i].score)) {
            p[n++] = (struct pareto_point){size_axis(q, a->point[i].size), a->point[i].score, 0};
            best = fmax(best, a->point[i].score);
            s->worst = fmin(s->worst, a->point[i].score);
        }
    s->any = n > 0;
    s->range = best > s->worst ? best - s->worst : 1;
    for (size_t i = 0; i < n; i++)
        p[i].b = 1 - (p[i].b - s->worst) / s->range;
    enum status status = pareto_ehvi_new(&s->front, p, n, reference, err);
    free(p);
    return status;
}

enum status autoqra_surrogate_fit(const struct autoqra *q, struct autoqra_surrogate *s, struct err *err)
{
    *s = (struct autoqra_surrogate){.low = q->options->low_cost > 0};
    s->d = n_features(q, s->low);
    s->x = malloc(s->d * sizeof *s->x);
    if (!s->x)
        return err_set(err, ERR_MEMORY, "out of memory for a surrogate");
    TRY(learn(q, s, err));
    return make_front(q, s, err);
}

double autoqra_merit(const struct autoqra *q, const struct autoqra_surrogate *s, const uint8_t *level, double low_score)
{
    double score = low_score + s->shift, height = s->front.reference.b;
    if (s->trained) {
        features(q, s->low, level, low_score, s->x);
        score = mlp_predict(&s->mlp, s->x);
    }
    if (!s->any)
        return score;
    struct pareto_point at = {size_axis(q, q->space->size(q->space->user, level)), 1 - (score - s->worst) / s->range, 0}, sure = {0, 0, 0};
    double gain = pareto_ehvi_at(&s->front, at, sure);
    const struct pareto_slice *front = &s->front.slice[s->front.n - 1]; /* of all points */
    for (size_t i = 0; i < front->n && front->front[i].a <= at.a; i++)
        height = front->front[i].b;
    return gain > 0 ? gain : height - at.b;
}

void autoqra_surrogate_free(struct autoqra_surrogate *s)
{
    mlp_free(&s->mlp);
    pareto_ehvi_free(&s->front);
    free(s->x);
    s->x = NULL;
}
