/* search_prior.c: another search's trials as an expectation: a process fitted to them, and which of its variables corresponds to which. */
#include "search_prior.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "search_strategies.h"

/* Where a variable stands: its share of the depth, and its place among the variables of its kind in its layer. */
struct place {
    double low, high;
    size_t slot, slots;
    uint8_t kind;
};

static size_t group_of(const struct search_space *space, size_t i)
{
    return space->group ? space->group[i] : i;
}

static uint8_t kind_of(const struct search_space *space, size_t i)
{
    return space->kind ? space->kind[i] : SEARCH_FORMAT;
}

static struct place place_of(const struct search_space *space, size_t variable)
{
    struct place p = {.kind = kind_of(space, variable)};
    size_t group = group_of(space, variable), groups = 1;
    for (size_t i = 0; i < space->n; i++) {
        bool beside = group_of(space, i) == group && kind_of(space, i) == p.kind;
        p.slots += beside;
        p.slot += beside && i < variable;
        groups = group_of(space, i) + 1 > groups ? group_of(space, i) + 1 : groups;
    }
    p.low = (double)group / (double)groups;
    p.high = (double)(group + 1) / (double)groups;
    return p;
}

static double shared(const struct place *a, const struct place *b)
{
    bool apart = a->kind != b->kind || (a->slots == b->slots && a->slot != b->slot);
    double depth = fmin(a->high, b->high) - fmax(a->low, b->low);
    return apart || depth < 1e-9 ? 0 : depth; /* neighbours that touch share a rounding */
}

static void find_shares(struct search_prior *prior, const struct search_space *other, const struct search_space *space)
{
    for (size_t j = 0; j < prior->d; j++) {
        double *share = prior->share + j * prior->n, sum = 0;
        struct place there = place_of(other, j);
        for (size_t i = 0; i < prior->n; i++) {
            struct place here = place_of(space, i);
            sum += share[i] = shared(&there, &here);
        }
        for (size_t i = 0; sum > 0 && i < prior->n; i++)
            share[i] /= sum;
    }
}

enum status search_prior_new(struct search_prior *prior, const struct search_space *other, const struct search_archive *learnt,
                             const struct search_space *space, struct err *err)
{
    struct search_model m = {.space = other, .archive = learnt, .d = other->n, .features = search_positions, .user = other};
    *prior = (struct search_prior){.d = other->n, .n = space->n};
    prior->share = calloc(prior->d * prior->n + 1, sizeof *prior->share);
    prior->here = calloc(prior->n + 1, sizeof *prior->here);
    prior->there = calloc(prior->d + 1, sizeof *prior->there);
    if (!prior->share || !prior->here || !prior->there)
        return err_set(err, ERR_MEMORY, "out of memory for what another search learnt");
    find_shares(prior, other, space);
    enum status status = search_model_learn(&m, err);
    prior->gp = m.gp;
    if (status == OK && m.gp.n == 0)
        status = err_set(err, ERR_INPUT, "no trial succeeded, want a search that learnt something");
    return status;
}

void search_prior_free(struct search_prior *prior)
{
    gp_free(&prior->gp);
    free(prior->share);
    free(prior->here);
    free(prior->there);
    memset(prior, 0, sizeof *prior);
}

double search_prior_mean(const struct search_prior *prior, const struct search_space *space, const uint8_t *level)
{
    double mean;
    for (size_t i = 0; i < prior->n; i++)
        prior->here[i] = space->feature[i][level[i]];
    for (size_t j = 0; j < prior->d; j++) {
        const double *share = prior->share + j * prior->n;
        double sum = 0;
        prior->there[j] = 0;
        for (size_t i = 0; i < prior->n; i++) {
            prior->there[j] += share[i] * prior->here[i];
            sum += share[i];
        }
        if (sum == 0)
            prior->there[j] = 0.5; /* no counterpart: the middle, for all configurations alike */
    }
    gp_predict(&prior->gp, prior->there, &mean, NULL);
    return mean;
}
