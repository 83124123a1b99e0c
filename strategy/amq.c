/* amq.c: AMQ (arXiv:2509.12019): variables that lose much are pinned at the top, a predictor is fitted to the trials, NSGA-II looks for the front of
 * (size, predicted loss), and a batch of its last population, spread along the size axis, is tried next.
 *
 * What differs from the paper, and why:
 * - The rule of 2 medians is for outliers.  Where losses are noisy, or differ by much anyway, it would pin half the variables, so the excess must stand out of the
 *   noise, and pinning may cost at most a tenth of the size axis (AMQ's own models: 2 %).
 * - Mutation re-draws a whole individual with probability 0.1, and also each gene with 1/n: the former alone never looks at the neighbours of what is good.
 *   Re-drawn individuals are spread over the size axis; uniform genes would all have its middle.
 * - Every second configuration of the seed set is the best one of its size if what the probes lost added up (knapsack.h), beside the evenly spread ones: in a
 *   space of hundreds of variables random ones are all far from the front, and a predictor that has seen none near it cannot tell what lies there.
 * - The batch is chosen greedily, farthest from the sizes of the front and of what was chosen; AMQ runs a second genetic algorithm over the deviation of
 *   the gaps.
 *
 * An iteration knows the trials before it, none of its own, so what a batch holds depends on the archive alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/order.h"
#include "nsga2.h"
#include "search_strategies.h"
#include "strategy/knapsack.h"
#include "strategy/predictor.h"

enum { POPULATION = 200, GENERATIONS = 20, BATCH = 8, GIVE_UP = 32 };

/* What is kept between proposals: the batch and the model of the iteration that began at trial `begin`. */
struct amq_state {
    char key[65]; /* of all that the batch depends on; "": nothing is kept */
    size_t begin;
    const struct predictor *predictor;
    void *model;
    uint8_t *batch; /* [n_batch, n] */
    double *expected;
    size_t n_batch;
};

struct population {
    size_t n;
    uint8_t *level; /* [2 POPULATION, space->n] */
    struct pareto_point *p; /* size, predicted loss */
    double *violation;      /* bytes over the budget */
    struct nsga2_fitness *fitness;
};

struct iteration {
    struct search_space space; /* with the pins in `least` */
    struct search_archive before;
    const struct search_options *options;
    const struct predictor *predictor;
    struct amq_state *state;
    struct rng rng;
    uint8_t *least;
    size_t *open, d, pinned; /* variables that are not pinned, number of them */
    double *x;               /* [d] */
    uint8_t *level;          /* [n] work space */
    struct population all;
};

/* ---- pins ---- */

static double median(const double *x, size_t n, double *sorted)
{
    memcpy(sorted, x, n * sizeof *x);
    qsort(sorted, n, sizeof *sorted, order_doubles);
    return n == 0 ? 0 : 0.5 * (sorted[(n - 1) / 2] + sorted[n / 2]);
}

/* loss[k] of the variables of more than one level, the k-th of which is probe k + 1, minus what the noise explains: two standard deviations. */
static void probe_losses(const struct search_archive *archive, size_t n, double *loss, double *clear)
{
    const struct search_point *top = archive->point;
    for (size_t k = 0; k < n; k++) {
        const struct search_point *p = top + k + 1;
        double variance = top->variance + p->variance;
        loss[k] = top->failed || p->failed ? INFINITY : top->score - p->score;
        clear[k] = loss[k] - 2 * sqrt(variance > 0 ? variance : 0);
    }
}

/* Pins the variable of the largest loss that is above `limit` and costs at most *room; false: there is none. */
static bool pin_one(struct iteration *it, const double *loss, const double *clear, const double *cost, double limit, double *room)
{
    const struct search_space *space = &it->space;
    size_t best = space->n;
    double most = -INFINITY;
    for (size_t i = 0, k = 0; i < space->n; i++) {
        if (space->n_levels[i] < 2)
            continue;
        if (clear[k] > limit && loss[k] > most && it->least[i] + 1 < space->n_levels[i] && cost[i] <= *room) {
            most = loss[k];
            best = i;
        }
        k++;
    }
    if (best == space->n)
        return false;
    it->least[best] = (uint8_t)(space->n_levels[best] - 1);
    *room -= cost[best];
    it->pinned++;
    return true;
}

/* AMQ's rule: more than 2 medians of the losses.  Failed probes count as infinite loss. */
static enum status pin(struct iteration *it, const struct search_archive *archive, struct err *err)
{
    enum { STRIDE = 256 };
    const struct search_space *space = &it->space;
    size_t n = search_probe_count(space, PROBE_LOWEST) - 1;
    double *loss = malloc((3 * n + space->n * (STRIDE + 1) + 1) * sizeof *loss), *clear = loss + n, *cost = clear + 2 * n, *delta = cost + space->n, low, high;
    if (!loss)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    probe_losses(archive, n, loss, clear);
    double limit = 2 * fmax(0, median(loss, n, clear + n)); /* a negative median is noise */
    search_size_deltas(space, it->level, STRIDE, delta);
    for (size_t i = 0; i < space->n; i++)
        cost[i] = delta[i * STRIDE + space->n_levels[i] - 1];
    search_ends(space, it->level, &low, &high);
    double room = 0.1 * (high - low);
    while (pin_one(it, loss, clear, cost, limit, &room))
        ;
    free(loss);
    it->space.least = it->least;
    for (size_t i = 0; i < space->n; i++)
        if (it->least[i] + 1 < space->n_levels[i])
            it->open[it->d++] = i;
    return OK;
}

static bool respects_pins(const struct iteration *it, const uint8_t *level)
{
    for (size_t i = 0; i < it->space.n; i++)
        if (level[i] < it->least[i])
            return false;
    return true;
}

/* ---- the model ---- */

static void features(const struct iteration *it, const uint8_t *level, double *x)
{
    for (size_t k = 0; k < it->d; k++)
        x[k] = it->space.feature[it->open[k]][level[it->open[k]]];
}

/* False when no trial has succeeded: there is nothing to fit. */
static enum status fit(struct iteration *it, bool *fitted, struct err *err)
{
    const struct search_archive *a = &it->before;
    size_t rows = a->n ? a->n : 1, n = 0;
    double *X = malloc(rows * (it->d + 2) * sizeof *X), *y = X + rows * it->d, *variance = y + rows;
    if (!X)
        return err_set(err, ERR_MEMORY, "out of memory for the model of the scores");
    for (size_t i = 0; i < a->n; i++) {
        const struct search_point *p = &a->point[i];
        if (!search_counts(p) || !respects_pins(it, p->level))
            continue;
        features(it, p->level, X + n * it->d);
        y[n] = p->score;
        variance[n++] = p->variance;
    }
    struct predictor_data data = {.X = X, .y = y, .variance = variance, .n = n, .d = it->d, .seed = it->options->seed};
    *fitted = n > 0;
    enum status status = n > 0 ? it->predictor->fit(&it->state->model, &data, err) : OK;
    free(X);
    return status;
}

/* ---- the population ---- */

static uint8_t *individual(const struct iteration *it, size_t i)
{
    return it->all.level + i * it->space.n;
}

/* Appends `level` unless it is there already. */
static bool join(struct iteration *it, const uint8_t *level)
{
    struct population *all = &it->all;
    size_t i = all->n, n = it->space.n;
    for (size_t k = 0; k < i; k++)
        if (memcmp(individual(it, k), level, n) == 0)
            return false;
    memcpy(individual(it, i), level, n);
    features(it, level, it->x);
    double size = it->space.size(it->space.user, level);
    all->p[i] = (struct pareto_point){size, -it->predictor->predict(it->state->model, it->x), 0};
    all->violation[i] = size > it->space.max_size ? size - it->space.max_size : 0;
    all->n++;
    return true;
}

/* The archive's front, then random ones.  A small space yields fewer: no more are drawn after GIVE_UP in a row that were there. */
static enum status populate(struct iteration *it, struct err *err)
{
    const struct search_archive *a = &it->before;
    size_t *front = malloc((a->n ? a->n : 1) * sizeof *front);
    if (!front)
        return err_set(err, ERR_MEMORY, "out of memory for a population");
    size_t n = search_front(a, front);
    for (size_t k = 0; k < n && it->all.n < POPULATION; k++)
        if (respects_pins(it, a->point[front[k]].level))
            join(it, a->point[front[k]].level);
    for (int in_vain = 0; it->all.n < POPULATION && in_vain < GIVE_UP;) {
        if (!search_draw_new(&it->space, a, &it->rng, rng_uniform(&it->rng), it->level))
            break;
        in_vain = join(it, it->level) ? 0 : in_vain + 1;
    }
    free(front);
    return OK;
}

static void mate(struct iteration *it, size_t parents, uint8_t *child)
{
    const struct population *all = &it->all;
    struct rng *rng = &it->rng;
    const uint8_t *a = individual(it, nsga2_tournament(all->fitness, parents, rng)), *b = individual(it, nsga2_tournament(all->fitness, parents, rng));
    bool cross = rng_uniform(rng) < 0.9;
    memcpy(child, a, it->space.n);
    for (size_t k = 0; k < it->d; k++) {
        size_t i = it->open[k];
        if (cross && rng_uniform(rng) < 0.5)
            child[i] = b[i];
        if (rng_uniform(rng) * (double)it->d < 1)
            child[i] = (uint8_t)(it->least[i] + rng_below(rng, it->space.n_levels[i] - it->least[i]));
    }
    if (rng_uniform(rng) < 0.1 && !search_draw_new(&it->space, &it->before, rng, rng_uniform(rng), child))
        memcpy(child, a, it->space.n); /* none is left */
}

/* The best POPULATION, with the ranks and distances that they were chosen by; in their order in memory, so that each moves down at most. */
static enum status survive(struct iteration *it, struct err *err)
{
    struct population *all = &it->all;
    size_t chosen[2 * POPULATION], keep = all->n < POPULATION ? all->n : POPULATION, to = 0;
    bool lives[2 * POPULATION] = {false};
    TRY(nsga2_select(all->fitness, all->n, keep, chosen, err));
    for (size_t k = 0; k < keep; k++)
        lives[chosen[k]] = true;
    for (size_t i = 0; i < all->n; i++)
        if (lives[i]) {
            memmove(individual(it, to), individual(it, i), it->space.n);
            all->p[to] = all->p[i];
            all->fitness[to] = all->fitness[i];
            all->violation[to++] = all->violation[i];
        }
    all->n = keep;
    return OK;
}

static enum status evolve(struct iteration *it, struct err *err)
{
    struct population *all = &it->all;
    TRY(populate(it, err));
    TRY(nsga2_rank(all->p, all->violation, all->n, all->fitness, err));
    for (int g = 0; g < GENERATIONS && all->n > 1; g++) {
        size_t parents = all->n;
        for (int in_vain = 0; all->n < parents + POPULATION && in_vain < GIVE_UP;) {
            mate(it, parents, it->level);
            in_vain = join(it, it->level) ? 0 : in_vain + 1;
        }
        TRY(nsga2_rank(all->p, all->violation, all->n, all->fitness, err));
        TRY(survive(it, err));
    }
    return OK;
}

/* ---- the batch ---- */

struct choice {
    size_t n;
    size_t *candidate;  /* individuals that fit, were not tried, and are of the best ranks that fill a batch */
    double *taken;      /* sizes of the front and of what was chosen */
    size_t n_taken;
    size_t *front, n_front; /* of the archive */
};

static void candidates(const struct iteration *it, size_t batch, struct choice *c)
{
    for (int rank = 0; rank < 2 * POPULATION && c->n < batch; rank++)
        for (size_t i = 0; i < it->all.n; i++)
            if (it->all.fitness[i].rank == rank && it->all.violation[i] == 0 && !search_archive_has(&it->before, &it->space, individual(it, i)))
                c->candidate[c->n++] = i;
}

/* Score promised above the best of the archive's front that is no larger. */
static double gain(const struct iteration *it, const struct choice *c, size_t i)
{
    double best = -INFINITY;
    for (size_t k = 0; k < c->n_front; k++) {
        const struct search_point *p = &it->before.point[c->front[k]];
        if (p->size <= it->all.p[i].a)
            best = fmax(best, p->score);
    }
    return -it->all.p[i].b - best;
}

static double nearest(const struct choice *c, double size)
{
    double gap = INFINITY;
    for (size_t k = 0; k < c->n_taken; k++)
        gap = fmin(gap, fabs(size - c->taken[k]));
    return gap;
}

/* Takes the candidate of the largest `worth` (its size when close to a budget, else its gap), of equal ones the largest gain. */
static void take_one(struct iteration *it, struct choice *c, bool close)
{
    struct amq_state *state = it->state;
    size_t at = 0;
    double best = -INFINITY, best_gain = -INFINITY;
    for (size_t k = 0; k < c->n; k++) {
        double size = it->all.p[c->candidate[k]].a, worth = close ? size : nearest(c, size), promised = gain(it, c, c->candidate[k]);
        if (worth > best || (worth == best && promised > best_gain)) {
            best = worth;
            best_gain = promised;
            at = k;
        }
    }
    size_t i = c->candidate[at];
    memmove(c->candidate + at, c->candidate + at + 1, (--c->n - at) * sizeof *c->candidate);
    c->taken[c->n_taken++] = it->all.p[i].a;
    memcpy(state->batch + state->n_batch * it->space.n, individual(it, i), it->space.n);
    state->expected[state->n_batch++] = -it->all.p[i].b;
}

/* With a budget, half of the batch is as close below it as the front has candidates: there the pick will be. */
static enum status choose(struct iteration *it, size_t batch, struct err *err)
{
    const struct search_archive *a = &it->before;
    struct choice c = {.candidate = malloc(2 * POPULATION * sizeof *c.candidate), .taken = malloc((a->n + batch) * sizeof *c.taken),
                       .front = malloc((a->n + 1) * sizeof *c.front)};
    enum status status = c.candidate && c.taken && c.front ? OK : err_set(err, ERR_MEMORY, "out of memory for a batch");
    if (status == OK) {
        c.n_front = search_front(a, c.front);
        for (size_t k = 0; k < c.n_front; k++)
            c.taken[c.n_taken++] = a->point[c.front[k]].size;
        candidates(it, batch, &c);
        for (size_t k = 0; k < batch && c.n > 0; k++)
            take_one(it, &c, isfinite(it->space.max_size) && k < (batch + 1) / 2);
    }
    free(c.candidate);
    free(c.taken);
    free(c.front);
    return status;
}

/* ---- what is kept between proposals ---- */

static void state_clear(struct amq_state *state)
{
    if (state->model)
        state->predictor->free_model(state->model);
    free(state->batch);
    free(state->expected);
    *state = (struct amq_state){0};
}

static void state_free(void *state)
{
    state_clear(state);
    free(state);
}

/* Of the options, the space and the first `begin` trials. */
static void make_key(const struct search_space *space, const struct search_archive *archive, const struct search_options *options, size_t begin,
                     const struct predictor *predictor, char key[65])
{
    struct sha256 hash;
    double numbers[] = {(double)options->num_initial, (double)options->batch, (double)space->n, (double)begin, space->max_size};
    sha256_init(&hash);
    sha256_add(&hash, &options->seed, sizeof options->seed);
    sha256_add(&hash, predictor->name, strlen(predictor->name));
    sha256_add(&hash, numbers, sizeof numbers);
    sha256_add(&hash, space->n_levels, space->n);
    for (size_t i = 0; i < space->n; i++) {
        uint8_t least = search_least(space, i);
        sha256_add(&hash, &least, 1);
        sha256_add(&hash, space->feature[i], space->n_levels[i] * sizeof *space->feature[i]);
    }
    for (size_t t = 0; t < begin; t++) {
        const struct search_point *p = &archive->point[t];
        double seen[] = {p->size, p->score, p->variance, p->failed, p->low_fidelity};
        sha256_add(&hash, seen, sizeof seen);
        sha256_add(&hash, p->level, space->n);
    }
    sha256_hex(&hash, key);
}

/* ---- one proposal ---- */

static enum status begin(struct iteration *it, const struct search_space *space, const struct search_archive *archive, struct err *err)
{
    size_t n = space->n ? space->n : 1;
    it->space = *space;
    it->least = malloc(n);
    it->level = malloc(n);
    it->open = malloc(n * sizeof *it->open);
    it->x = malloc(n * sizeof *it->x);
    if (!it->least || !it->level || !it->open || !it->x)
        return err_set(err, ERR_MEMORY, "out of memory for a proposal");
    for (size_t i = 0; i < space->n; i++)
        it->least[i] = search_least(space, i);
    return pin(it, archive, err);
}

static void end(struct iteration *it)
{
    free(it->least);
    free(it->level);
    free(it->open);
    free(it->x);
    free(it->all.level);
    free(it->all.p);
    free(it->all.violation);
    free(it->all.fitness);
}

static enum status make_batch(struct iteration *it, size_t batch, struct err *err)
{
    enum { MOST = 2 * POPULATION };
    struct amq_state *state = it->state;
    size_t n = it->space.n ? it->space.n : 1;
    bool fitted;
    it->all = (struct population){.level = malloc(MOST * n), .p = malloc(MOST * sizeof *it->all.p), .violation = malloc(MOST * sizeof *it->all.violation),
                                  .fitness = malloc(MOST * sizeof *it->all.fitness)};
    state->batch = malloc(batch * n);
    state->expected = malloc(batch * sizeof *state->expected);
    if (!it->all.level || !it->all.p || !it->all.violation || !it->all.fitness || !state->batch || !state->expected)
        return err_set(err, ERR_MEMORY, "out of memory for a population");
    TRY(fit(it, &fitted, err));
    if (!fitted)
        return OK;
    TRY(evolve(it, err));
    return choose(it, batch, err);
}

/* The batch of the iteration into it->state: it is there, or its model is that of an earlier iteration, which is built upon, or nothing is of use. */
static enum status find_batch(struct iteration *it, const struct search_space *space, const struct search_archive *archive, size_t batch, struct err *err)
{
    struct amq_state *state = it->state;
    char key[65], now[65];
    make_key(space, archive, it->options, it->before.n, it->predictor, now);
    if (strcmp(now, state->key) == 0)
        return OK;
    if (state->key[0] && state->begin <= archive->n)
        make_key(space, archive, it->options, state->begin, it->predictor, key);
    void *model = state->key[0] && state->begin < it->before.n && strcmp(key, state->key) == 0 ? state->model : NULL;
    if (model)
        state->model = NULL;
    state_clear(state);
    state->predictor = it->predictor;
    state->model = model;
    enum status status = make_batch(it, batch, err);
    if (status != OK) {
        state_clear(state);
        return status;
    }
    state->begin = it->before.n;
    memcpy(state->key, now, sizeof now);
    return OK;
}

/* Trial b of the batch, or a random one where the batch holds too few: among the pinned first, then anywhere. */
static void give(const struct iteration *it, const struct search_space *space, const struct search_archive *archive, size_t b, struct search_proposal *next)
{
    const struct amq_state *state = it->state;
    struct rng rng = {.seed = it->options->seed, .stream = RNG_SEARCH, .step = (uint32_t)archive->n};
    if (b < state->n_batch && !search_archive_has(archive, space, state->batch + b * space->n)) {
        memcpy(next->level, state->batch + b * space->n, space->n);
        snprintf(next->note, sizeof next->note, "amq: %s expects %.4f, %zu pinned", it->predictor->name, state->expected[b], it->pinned);
        return;
    }
    next->done = !search_draw_new(&it->space, archive, &rng, rng_uniform(&rng), next->level) &&
                 !search_draw_new(space, archive, &rng, rng_uniform(&rng), next->level);
    snprintf(next->note, sizeof next->note, "amq: the front holds none that is new, a random one");
}

/* Every second one by the knapsack, its size as far up the axis as that of the seed set's own.  False: it was tried. */
static enum status knapsack_seed(struct iteration *it, const struct search_archive *archive, size_t t, uint8_t *level, bool *found, struct err *err)
{
    struct knapsack sack;
    enum status status = knapsack_new(&sack, &it->space, archive, PROBE_LOWEST, level, err);
    if (status == OK) {
        knapsack_solution(&sack, (double)(t - 1) / (double)(it->options->num_initial - 1), level);
        *found = search_fits(&it->space, level) && !search_archive_has(archive, &it->space, level);
    }
    knapsack_free(&sack);
    return status;
}

/* All-low without pins first: the end of the axis. */
static enum status seed(struct iteration *it, const struct search_space *space, const struct search_archive *archive, size_t t, struct search_proposal *next,
                        struct err *err)
{
    bool found = false;
    if (t > 1 && t % 2 == 0)
        TRY(knapsack_seed(it, archive, t, next->level, &found, err));
    snprintf(next->note, sizeof next->note, "amq: seed%s, %zu pinned", found ? " by the knapsack" : "", it->pinned);
    if (!found)
        next->done = !search_seed(t == 0 ? space : &it->space, archive, it->options, t, next->level) && !search_seed(space, archive, it->options, t, next->level);
    return OK;
}

static enum status next_trial(struct iteration *it, const struct search_space *space, const struct search_archive *archive, struct search_proposal *next,
                              struct err *err)
{
    const struct search_options *options = it->options;
    size_t probes = search_probe_count(space, PROBE_LOWEST), t = archive->n - probes, batch = options->batch ? options->batch : BATCH;
    if (t < options->num_initial)
        return seed(it, space, archive, t, next, err);
    size_t b = (t - options->num_initial) % batch;
    it->before = (struct search_archive){.point = archive->point, .n = archive->n - b};
    it->rng = (struct rng){.seed = options->seed, .stream = RNG_SEARCH, .step = (uint32_t)it->before.n};
    TRY(find_batch(it, space, archive, batch, err));
    give(it, space, archive, b, next);
    return OK;
}

static enum status propose(const struct search_space *space, const struct search_archive *archive, const struct search_options *options,
                           struct search_proposal *next, struct err *err)
{
    struct iteration it = {.options = options};
    struct amq_state own = {0}, *kept = NULL;
    TRY(predictor_find(options->predictor, &it.predictor, err));
    if (options->cache) {
        kept = options->cache->state ? options->cache->state : calloc(1, sizeof *kept);
        if (!kept)
            return err_set(err, ERR_MEMORY, "out of memory for a proposal");
        *options->cache = (struct search_cache){kept, state_free};
    }
    it.state = kept ? kept : &own;
    enum status status = begin(&it, space, archive, err);
    if (status == OK)
        status = next_trial(&it, space, archive, next, err);
    end(&it);
    state_clear(&own);
    return status;
}

const struct strategy strategy_amq = {.name = "amq", .probes = PROBE_LOWEST, .own_seeds = true, .propose = propose};
