/* search_model.c: what a Gaussian process believes of the scores, and what a configuration promises to add to the front of it.  The model of "gp" and of
 * the second stage of "autoqra".  What it is not: it proposes nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "search_prior.h"
#include "search_strategies.h"

void search_positions(const void *space_, const uint8_t *level, double *x)
{
    const struct search_space *space = space_;
    for (size_t i = 0; i < space->n; i++)
        x[i] = space->feature[i][level[i]];
}

static void positions_and_prior(const void *space_, const uint8_t *level, double *x)
{
    const struct search_space *space = space_;
    search_positions(space, level, x);
    x[space->n] = search_prior_mean(space->prior, space, level);
}

struct search_model search_model_gp(const struct search_space *space, const struct search_archive *archive)
{
    bool prior = space->prior != NULL, low = false;
    for (size_t i = 0; i < archive->n; i++)
        low = low || archive->point[i].low_fidelity;
    return (struct search_model){.space = space, .archive = archive, .d = space->n + prior, .features = prior ? positions_and_prior : search_positions,
                                 .user = space, .trend = prior, .low = low};
}

static double size_axis(const struct search_model *m, double size)
{
    return (size - m->low_size) / m->size_range;
}

static double time_axis(const struct search_model *m, const uint8_t *level)
{
    return m->space->time ? (m->space->time(m->space->user, level) - m->low_time) / m->time_range : 0;
}

/* Sizes over the whole space; times over the trials, as neither end of the levels need be the fastest. */
static enum status measure_axis(struct search_model *m, struct err *err)
{
    double high, slow = -INFINITY;
    uint8_t *level = malloc(m->space->n ? m->space->n : 1);
    if (!level)
        return err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    search_ends(m->space, level, &m->low_size, &high);
    m->size_range = high > m->low_size ? high - m->low_size : 1;
    m->low_time = INFINITY;
    for (size_t i = 0; i < m->archive->n; i++) {
        m->low_time = fmin(m->low_time, m->archive->point[i].time);
        slow = fmax(slow, m->archive->point[i].time);
    }
    m->time_range = slow > m->low_time ? slow - m->low_time : 1;
    free(level);
    return OK;
}

enum status search_model_learn(struct search_model *m, struct err *err)
{
    const struct search_archive *a = m->archive;
    size_t d = m->d, n = 0;
    double *X = malloc((a->n ? a->n : 1) * (d ? d : 1) * sizeof *X), *y = malloc((a->n + 1) * sizeof *y), *noise = malloc((a->n + 1) * sizeof *noise);
    bool *low = malloc(a->n + 1);
    enum status status = X && y && noise && low ? OK : err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    for (size_t i = 0; status == OK && i < a->n; i++)
        if (!a->point[i].failed && (m->low || !a->point[i].low_fidelity)) {
            m->features(m->user, a->point[i].level, X + n * d);
            y[n] = a->point[i].score;
            low[n] = a->point[i].low_fidelity;
            noise[n++] = a->point[i].paired > 0 ? a->point[i].paired : a->point[i].variance;
        }
    if (status == OK)
        status = gp_new(&m->gp, X, y, noise, n, d, err);
    m->gp.trend = m->trend;
    if (status == OK && m->low)
        status = gp_set_low(&m->gp, low, err);
    if (status == OK)
        status = gp_fit(&m->gp, err);
    free(X);
    free(y);
    free(noise);
    free(low);
    return status;
}

static enum status make_front(struct search_model *m, struct err *err)
{
    const struct search_archive *a = m->archive;
    struct pareto_point *tried = malloc((a->n ? a->n : 1) * sizeof *tried);
    double worst = -INFINITY, best = INFINITY, variance, mean;
    size_t n = 0;
    if (!tried)
        return err_set(err, ERR_MEMORY, "out of memory for a front");
    for (size_t i = 0; i < a->n; i++) {
        if (!search_counts(&a->point[i]))
            continue;
        m->features(m->user, a->point[i].level, m->x);
        gp_predict(&m->gp, m->x, &mean, &variance);
        tried[n++] = (struct pareto_point){size_axis(m, a->point[i].size), -mean, time_axis(m, a->point[i].level)};
        worst = fmax(worst, -mean);
        best = fmin(best, -mean);
    }
    double range = worst > best ? worst - best : 1;
    struct pareto_point reference = {1.1, worst + 0.1 * range, m->space->time ? 1.1 : 1};
    enum status status = pareto_ehvi_new(&m->ehvi, tried, n, reference, err);
    free(tried);
    return status;
}

enum status search_model_fit(struct search_model *m, struct err *err)
{
    m->x = malloc((m->d ? m->d : 1) * sizeof *m->x);
    if (!m->x)
        return err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    TRY(measure_axis(m, err));
    TRY(search_model_learn(m, err));
    return make_front(m, err);
}

void search_model_free(struct search_model *m)
{
    gp_free(&m->gp);
    pareto_ehvi_free(&m->ehvi);
    free(m->x);
    m->x = NULL;
}

double search_model_gain(struct search_model *m, const uint8_t *level, double *mean, double *sd)
{
    double variance;
    if (!search_fits(m->space, level) || search_archive_has(m->archive, m->space, level))
        return -1;
    m->features(m->user, level, m->x);
    gp_predict(&m->gp, m->x, mean, &variance);
    *sd = sqrt(variance);
    struct pareto_point at = {size_axis(m, m->space->size(m->space->user, level)), -*mean, time_axis(m, level)}, s = {0, *sd, 0};
    return pareto_ehvi_at(&m->ehvi, at, s);
}

double search_model_told(struct search_model *m, const uint8_t *level, double variance)
{
    double mean, own, low, shared, noise = variance / (m->gp.y_scale * m->gp.y_scale) + m->gp.low_sn2;
    if (!m->low)
        return 0;
    m->features(m->user, level, m->x);
    gp_predict(&m->gp, m->x, &mean, &own);
    gp_predict_low(&m->gp, m->x, &low, &shared);
    if (!(own > 0 && low + noise > 0 && shared > 0)) /* known already, or the other way round */
        return 0;
    return fmin(shared * shared / (own * (low + noise)), 1);
}

enum status search_posterior(const struct search_space *space, const struct search_archive *archive, double *mean, double *sd, struct err *err)
{
    struct search_model m = search_model_gp(space, archive);
    double variance;
    enum status status = search_model_fit(&m, err);
    for (size_t i = 0; status == OK && i < archive->n; i++) {
        m.features(m.user, archive->point[i].level, m.x);
        gp_predict(&m.gp, m.x, &mean[i], &variance);
        mean[i] = m.gp.y_mean + m.gp.y_scale * mean[i];
        sd[i] = m.gp.y_scale * sqrt(variance);
    }
    search_model_free(&m);
    return status;
}
