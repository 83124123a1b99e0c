/* search.c: strategies against each other on problems whose whole truth is known: hypervolume against trials and against seconds.
 *
 *   build/bench/search [--seeds N] [--only STRATEGY] [--out DIR]
 * A problem is a table of every configuration: toys computed here, and data/world/truth.jsonl, 256 plans of a real model that were all fine-tuned and scored.
 * A strategy sees noisy scores (of the real model: one seed's); what it has found is judged by the true ones.  "gp" runs again with what a search of a teacher, the
 * same problem or one of another depth, has learnt (search_prior.h).  Writes search.md, .csv, .json and search.svg. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/linalg.h"
#include "base/rng.h"
#include "bench/table.h"
#include "io/json.h"
#include "io/report_svg.h"
#include "pareto.h"
#include "search.h"
#include "search_prior.h"

enum { MOST_VARIABLES = 16, MOST_LEVELS = 4, MOST_TRIALS = 60, CHECKPOINTS = 5, MOST_SEEDS = 100, TRUTH_SEEDS = 3 };
static const int checkpoint[CHECKPOINTS] = {10, 20, 30, 40, 50};
static const struct contestant {
    const char *name, *strategy;
    double low_cost;  /* of a short trial; 0: there are none */
    double agreement; /* of a short trial's true score with the full one, a correlation; 1: fewer documents alone */
} contestants[] = {{"random", "random", 0, 1}, {"gp", "gp", 0, 1}, {"amq", "amq", 0, 1}, {"autoqra", "autoqra", 0, 1}, {"autoqra, short trials", "autoqra", 0.25, 1},
                   {"evopress", "evopress", 0, 1}, {"dp", "dp", 0, 1}};
/* What "gp" makes of short trials: the quarter of the documents that autoqra gets, and a tenth of the steps, of which no truth is recorded: made up, see bent. */
static const struct contestant shorter[] = {{"gp, a quarter of the documents", "gp", 0.25, 1}, {"gp, a tenth of the steps, 0.9", "gp", 0.1, 0.9},
                                            {"gp, a tenth of the steps, 0.6", "gp", 0.1, 0.6}, {"gp, a tenth of the steps, 0", "gp", 0.1, 0}};
enum { STRATEGIES = sizeof contestants / sizeof *contestants };

/* ---- problems ---- */

struct problem {
    const char *name, *what;
    size_t n, count;                 /* variables; configurations */
    uint8_t n_levels[MOST_VARIABLES], kind[MOST_VARIABLES];
    uint16_t group[MOST_VARIABLES];
    double feature[MOST_VARIABLES][MOST_LEVELS], importance[MOST_VARIABLES], bytes[MOST_VARIABLES][MOST_LEVELS];
    const double *axis[MOST_VARIABLES];
    double fixed, deviation;         /* bytes of no variable; of the noise, where it is made here */
    double *truth;                   /* [count] */
    double *seen, *variance;         /* [count][TRUTH_SEEDS]: measured scores, or NULL */
    double *other;                   /* [count] scores of a world with the same mean and deviation as the truth, whose losses add up, drawn apart from it */
    double mean;                     /* of the truth */
    double trial_s;                  /* what a trial of the real model took; 0: a toy */
    double low_size, high_size, worst, best, volume; /* ranges of the truth and its hypervolume, on axes from 0 to 1 */
    struct search_space space;
    const struct problem *teacher;   /* what a search of it learns, one seed on, is this one's prior; NULL: none */
};

static size_t index_of(const struct problem *p, const uint8_t *level)
{
    size_t at = 0;
    for (size_t i = 0; i < p->n; i++)
        at = at * p->n_levels[i] + level[i];
    return at;
}

static void level_of(const struct problem *p, size_t at, uint8_t *level)
{
    for (size_t i = p->n; i-- > 0; at /= p->n_levels[i])
        level[i] = (uint8_t)(at % p->n_levels[i]);
}

static double size_of(void *user, const uint8_t *level)
{
    const struct problem *p = user;
    double size = p->fixed;
    for (size_t i = 0; i < p->n; i++)
        size += p->bytes[i][level[i]];
    return size;
}

static struct pareto_point on_axes(const struct problem *p, double size, double score)
{
    return (struct pareto_point){(size - p->low_size) / (p->high_size - p->low_size), (p->best - score) / (p->best - p->worst), 0};
}

static double volume_of(const struct pareto_point *point, size_t n)
{
    struct err err;
    struct pareto_point reference = {1.1, 1.1, 1};
    double volume = 0;
    return pareto_hypervolume(point, n, reference, &volume, &err) == OK ? volume : NAN;
}

static double mean_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] / (double)n;
    return sum;
}

static double deviation_of(const double *x, size_t n)
{
    double mean = mean_of(x, n), squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean) / (double)n;
    return sqrt(squares);
}

/* Gains of each variable drawn anew, so that what they sum up to has little to do with the truth but to grow with the levels; that is taken out. */
static void make_other(struct problem *p)
{
    struct rng rng = {.seed = 13, .stream = RNG_WORLD};
    double gain[MOST_VARIABLES], shared = 0;
    uint8_t level[MOST_VARIABLES];
    for (size_t i = 0; i < p->n; i++)
        gain[i] = rng_normal(&rng);
    for (size_t at = 0; at < p->count; at++) {
        level_of(p, at, level);
        for (size_t i = 0; i < p->n; i++)
            p->other[at] += gain[i] * p->feature[i][level[i]];
    }
    p->mean = mean_of(p->truth, p->count);
    double mean = mean_of(p->other, p->count), own = deviation_of(p->truth, p->count);
    for (size_t at = 0; at < p->count; at++)
        shared += (p->other[at] - mean) * (p->truth[at] - p->mean) / (own * own * (double)p->count);
    for (size_t at = 0; at < p->count; at++)
        p->other[at] -= mean + shared * (p->truth[at] - p->mean);
    double ratio = own / deviation_of(p->other, p->count);
    for (size_t at = 0; at < p->count; at++)
        p->other[at] = p->mean + ratio * p->other[at];
}

/* The rest of a problem whose variables, sizes and truth are there. */
static enum status finish(struct problem *p, struct err *err)
{
    struct pareto_point *all = malloc(p->count * sizeof *all);
    uint8_t level[MOST_VARIABLES];
    if (!all)
        return err_set(err, ERR_MEMORY, "out of memory for a front");
    make_other(p);
    p->low_size = p->worst = INFINITY;
    p->high_size = p->best = -INFINITY;
    for (size_t at = 0; at < p->count; at++) {
        level_of(p, at, level);
        double size = size_of(p, level);
        p->low_size = fmin(p->low_size, size);
        p->high_size = fmax(p->high_size, size);
        p->worst = fmin(p->worst, p->truth[at]);
        p->best = fmax(p->best, p->truth[at]);
    }
    for (size_t at = 0; at < p->count; at++) {
        level_of(p, at, level);
        all[at] = on_axes(p, size_of(p, level), p->truth[at]);
    }
    p->volume = volume_of(all, p->count);
    free(all);
    for (size_t i = 0; i < p->n; i++)
        p->axis[i] = p->feature[i];
    p->space = (struct search_space){.n = p->n, .n_levels = p->n_levels, .feature = p->axis, .size = size_of, .user = p, .max_size = INFINITY,
                                     .kind = p->kind, .group = p->group, .importance = p->importance};
    return OK;
}

static enum status take_truth(struct problem *p, struct err *err)
{
    p->count = 1;
    for (size_t i = 0; i < p->n; i++)
        p->count *= p->n_levels[i];
    p->truth = calloc(p->count, sizeof *p->truth);
    p->other = calloc(p->count, sizeof *p->other);
    return p->truth && p->other ? OK : err_set(err, ERR_MEMORY, "out of memory for %zu configurations", p->count);
}

enum depth { OF_12, OF_8, OF_8_REVERSED };

/* What each layer brings: drawn for 12; 8 layers share these out by depth, 3 of 12 to 2 of 8, or in the reverse order. */
static size_t draw_gains(enum depth depth, double gain[12])
{
    struct rng rng = {.seed = 7, .stream = RNG_WORLD};
    double of_12[12];
    for (size_t i = 0; i < 12; i++)
        gain[i] = of_12[i] = pow(rng_uniform(&rng), 4) + 0.02;
    for (size_t i = 0; depth != OF_12 && i < 8; i++) {
        size_t whole = i / 2 * 3 + i % 2 * 2, at = depth == OF_8_REVERSED ? 7 - i : i;
        gain[at] = of_12[whole] + 0.5 * of_12[i / 2 * 3 + 1];
    }
    return depth == OF_12 ? 12 : 8;
}

/* Layers of two formats: few layers matter much, most hardly at all; `coupling` makes neighbours need each other. */
static enum status make_layers(struct problem *p, const char *name, const char *what, enum depth depth, double coupling, struct err *err)
{
    uint8_t level[MOST_VARIABLES];
    double gain[12], sum = 0;
    *p = (struct problem){.name = name, .what = what, .n = draw_gains(depth, gain), .deviation = 0.01};
    for (size_t i = 0; i < p->n; i++) {
        p->n_levels[i] = 2;
        p->group[i] = (uint16_t)i;
        p->feature[i][1] = 1;
        p->bytes[i][0] = 450;
        p->bytes[i][1] = 850;
        sum += gain[i];
    }
    TRY(take_truth(p, err));
    for (size_t i = 0; i < p->n; i++)
        p->importance[i] = gain[i];
    for (size_t at = 0; at < p->count; at++) {
        level_of(p, at, level);
        p->truth[at] = 0.5;
        for (size_t i = 0; i < p->n; i++) {
            bool alone = i + 1 < p->n && level[i] != level[i + 1];
            p->truth[at] += 0.2 * gain[i] / sum * (level[i] - (alone ? coupling : 0));
        }
    }
    return finish(p, err);
}

/* 4 layers of 4 formats and 3 ranks: a rank wins back what a low format lost there, and does little elsewhere. */
static enum status make_ranks(struct problem *p, struct err *err)
{
    static const double loss[4] = {1, 0.45, 0.12, 0}, bits[4] = {2.25, 3.25, 4.5, 8.1}, back[3] = {0.1, 0.35, 0.6};
    struct rng rng = {.seed = 11, .stream = RNG_WORLD};
    uint8_t level[MOST_VARIABLES];
    double gain[4];
    *p = (struct problem){.name = "bits x ranks", .what = "4 layers of 4 formats and 3 ranks, a rank wins back what a low format lost", .n = 8, .deviation = 0.01};
    for (size_t i = 0; i < p->n; i++) {
        bool rank = i >= 4;
        p->n_levels[i] = rank ? 3 : 4;
        p->kind[i] = rank ? SEARCH_RANK : SEARCH_FORMAT;
        p->group[i] = (uint16_t)(i % 4);
        for (int k = 0; k < p->n_levels[i]; k++) {
            p->feature[i][k] = rank ? k / 2.0 : (exp2(-2 * bits[0]) - exp2(-2 * bits[k])) / (exp2(-2 * bits[0]) - exp2(-2 * bits[3])); /* as trial_space.c */
            p->bytes[i][k] = rank ? 60 * (1 << k) : 100 * bits[k];
        }
        if (!rank)
            gain[i] = rng_uniform(&rng) + 0.1;
        p->importance[i] = rank ? gain[i % 4] * 0.5 : gain[i];
    }
    TRY(take_truth(p, err));
    for (size_t at = 0; at < p->count; at++) {
        level_of(p, at, level);
        p->truth[at] = 0.7;
        for (size_t i = 0; i < 4; i++)
            p->truth[at] -= 0.1 * gain[i] * (loss[level[i]] * (1 - back[level[i + 4]]) - 0.02 * level[i + 4]);
    }
    return finish(p, err);
}

/* ---- the measured problem ---- */

static enum status read_plan(struct problem *p, const struct json *json, const char *where, double *size, struct err *err)
{
    const char *plan;
    const struct json *scores, *variances;
    uint8_t level[MOST_VARIABLES];
    TRY(json_string(json, "plan", where, &plan, err));
    TRY(json_number(json, "size", where, size, err));
    TRY(json_array(json, "score", where, &scores, err));
    TRY(json_array(json, "variance", where, &variances, err));
    if (strlen(plan) != p->n || json_size(scores) != TRUTH_SEEDS || json_size(variances) != TRUTH_SEEDS)
        return err_set(err, ERR_INPUT, "%s: want a plan of %zu digits and %d scores", where, p->n, TRUTH_SEEDS);
    for (size_t i = 0; i < p->n; i++)
        level[i] = plan[i] == '1';
    size_t at = index_of(p, level), k = 0;
    for (const struct json *s = json_first(scores), *v = json_first(variances); s && v; s = json_next(s), v = json_next(v), k++) {
        TRY(json_as_number(s, where, &p->seen[at * TRUTH_SEEDS + k], err));
        TRY(json_as_number(v, where, &p->variance[at * TRUTH_SEEDS + k], err));
        p->truth[at] += p->seen[at * TRUTH_SEEDS + k] / TRUTH_SEEDS;
    }
    size_t raised = 0, which = 0;
    for (size_t i = 0; i < p->n; i++)
        if (level[i]) {
            raised++;
            which = i;
        }
    if (raised == 0)
        p->fixed = *size;
    else if (raised == 1)
        p->bytes[which][1] = *size; /* less the fixed part, once that is known */
    return OK;
}

static enum status read_lines(struct problem *p, char *text, const char *path, struct err *err)
{
    size_t line = 0;
    double size;
    for (char *s = strtok(text, "\n"); s; s = strtok(NULL, "\n")) {
        char where[300];
        struct json *json;
        snprintf(where, sizeof where, "%s:%zu", path, ++line);
        TRY(json_parse(s, strlen(s), where, &json, err));
        enum status status = read_plan(p, json, where, &size, err);
        json_free(json);
        TRY(status);
    }
    if (line != p->count)
        return err_set(err, ERR_INPUT, "%s: %zu plans, want %zu", path, line, p->count);
    for (size_t i = 0; i < p->n; i++)
        p->bytes[i][1] -= p->fixed;
    return OK;
}

/* Importance is what the one-layer-raised plans gain, as a run would have measured it. */
static enum status make_measured(struct problem *p, struct err *err)
{
    static const char path[] = "data/world/truth.jsonl";
    char *text;
    size_t length;
    uint8_t level[MOST_VARIABLES] = {0};
    *p = (struct problem){.name = "small world", .what = "all plans {nf4, int8}^8 of the default run's model, each fine-tuned and scored with 3 seeds", .n = 8,
                          .trial_s = 1.4};
    for (size_t i = 0; i < p->n; i++) {
        p->n_levels[i] = 2;
        p->group[i] = (uint16_t)i;
        p->feature[i][1] = 1;
    }
    TRY(file_read(path, 1 << 22, &text, &length, err));
    enum status status = take_truth(p, err);
    if (status == OK) {
        p->seen = calloc(p->count * TRUTH_SEEDS, sizeof *p->seen);
        p->variance = calloc(p->count * TRUTH_SEEDS, sizeof *p->variance);
        status = p->seen && p->variance ? read_lines(p, text, path, err) : err_set(err, ERR_MEMORY, "out of memory for %s", path);
    }
    free(text);
    TRY(status);
    for (size_t i = 0; i < p->n; i++) {
        level[i] = 1;
        p->importance[i] = fmax(p->truth[index_of(p, level)] - p->truth[0], 0);
        level[i] = 0;
    }
    return finish(p, err);
}

static void problem_free(struct problem *p)
{
    free(p->truth);
    free(p->other);
    free(p->seen);
    free(p->variance);
}

/* ---- one run ---- */

struct course {
    double volume[MOST_TRIALS + 1]; /* share of the true one after so many full trials' cost */
    double seconds, proposals;      /* of proposing alone */
};

/* Of the processor: what others do meanwhile does not count. */
static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of the variance of a measured score, what engine_pairs.c says of the 256 trials of a seed: 1.9e-4 of 5.0e-4. */
#define PAIRED_SHARE 0.38

/* Few steps and all documents: a score that correlates with the true one as said, behind it by two of its deviations, with the noise of a full trial. */
static struct search_point bent(const struct problem *p, const struct search_proposal *next, uint64_t seed, double agreement)
{
    size_t at = index_of(p, next->level);
    struct search_point point = {.level = next->level, .size = size_of((void *)(uintptr_t)p, next->level), .low_fidelity = true};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD, .step = (uint32_t)at + (1u << 30)};
    double variance = p->variance ? p->variance[at * TRUTH_SEEDS + seed % TRUTH_SEEDS] : p->deviation * p->deviation;
    double luck = p->variance ? PAIRED_SHARE * variance : variance;
    point.score = p->mean + agreement * (p->truth[at] - p->mean) + sqrt(1 - agreement * agreement) * (p->other[at] - p->mean);
    point.score += sqrt(luck) * rng_normal(&rng) - 2 * deviation_of(p->truth, p->count);
    point.variance = luck;
    return point;
}

/* A short trial answers with four times the variance: a quarter of the documents. */
static struct search_point measure(const struct problem *p, const struct search_proposal *next, uint64_t seed, const struct contestant *who)
{
    double low_cost = who->low_cost;
    if (next->low_fidelity && who->agreement < 1)
        return bent(p, next, seed, who->agreement);
    size_t at = index_of(p, next->level);
    struct search_point point = {.level = next->level, .size = size_of((void *)(uintptr_t)p, next->level), .low_fidelity = next->low_fidelity};
    struct rng rng = {.seed = seed, .stream = RNG_WORLD, .step = (uint32_t)at + (next->low_fidelity ? 1u << 30 : 0)};
    double deviation = p->deviation;
    if (p->seen) {
        point.score = p->seen[at * TRUTH_SEEDS + seed % TRUTH_SEEDS];
        point.variance = p->variance[at * TRUTH_SEEDS + seed % TRUTH_SEEDS];
        deviation = next->low_fidelity ? sqrt(point.variance * (1 / low_cost - 1)) : 0;
    } else {
        deviation *= next->low_fidelity ? sqrt(1 / low_cost) : 1;
        point.score = p->truth[at];
        point.variance = deviation * deviation;
    }
    point.score += deviation * rng_normal(&rng);
    if (next->low_fidelity && p->seen)
        point.variance /= low_cost;
    else if (p->seen)
        point.paired = PAIRED_SHARE * point.variance;
    return point;
}

/* One search, from its first trial to its last, into an empty archive and a course of zeros. */
static enum status search_once(const struct problem *p, const struct search_space *space, const struct contestant *who, uint64_t seed,
                               struct search_archive *archive, struct course *course, struct err *err)
{
    struct search_cache cache = {0};
    struct search_options options = {.strategy = who->strategy, .seed = seed, .num_initial = 10, .num_trials = MOST_TRIALS - 10, .low_cost = who->low_cost,
                                     .batch = 8, .cache = &cache};
    struct pareto_point *found = calloc(16 * MOST_TRIALS, sizeof *found);
    uint8_t level[MOST_VARIABLES];
    struct search_proposal next = {.level = level};
    double cost = 0;
    size_t n = 0, reached = 0;
    enum status status = found ? OK : err_set(err, ERR_MEMORY, "out of memory for a run");
    while (status == OK && cost < MOST_TRIALS) {
        double start = now_s();
        status = search_propose(space, archive, &options, &next, err);
        course->seconds += now_s() - start;
        course->proposals++;
        if (status != OK || next.done)
            break;
        struct search_point point = measure(p, &next, seed, who);
        status = search_archive_add(archive, space, &point, err);
        cost += next.low_fidelity ? options.low_cost : 1;
        if (!next.low_fidelity && n < 16 * MOST_TRIALS)
            found[n++] = on_axes(p, point.size, p->truth[index_of(p, level)]);
        double share = volume_of(found, n) / p->volume;
        while (reached < MOST_TRIALS && (double)(reached + 1) <= cost + 1e-9)
            course->volume[++reached] = share;
    }
    for (size_t t = reached + 1; t <= MOST_TRIALS; t++) /* the space is used up, or nothing more is proposed */
        course->volume[t] = course->volume[reached];
    search_cache_free(&cache);
    free(found);
    return status;
}

static enum status run_once(const struct problem *p, const struct contestant *who, uint64_t seed, struct course *course, struct err *err)
{
    struct search_archive archive = {0}, learnt = {0};
    struct search_prior prior = {0};
    struct search_space space = p->space;
    enum status status = OK;
    if (p->teacher) {
        struct course ignored = {.proposals = 0};
        status = search_once(p->teacher, &p->teacher->space, who, seed + 1, &learnt, &ignored, err);
        if (status == OK)
            status = search_prior_new(&prior, &p->teacher->space, &learnt, &p->space, err);
        space.prior = &prior;
    }
    memset(course, 0, sizeof *course);
    if (status == OK)
        status = search_once(p, &space, who, seed, &archive, course, err);
    search_archive_free(&archive);
    search_archive_free(&learnt);
    search_prior_free(&prior);
    return status;
}

/* ---- many runs ---- */

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Linear between the two nearest of n sorted values. */
static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

struct summary {
    double median[MOST_TRIALS + 1], low[MOST_TRIALS + 1], high[MOST_TRIALS + 1];
    double proposal_s;
    double to95, to99; /* trials until the median is there; NaN: not within the run */
};

static enum status summarise(const struct problem *p, const struct contestant *who, size_t seeds, struct summary *s, struct err *err)
{
    struct course *course = calloc(seeds, sizeof *course);
    double value[MOST_SEEDS], seconds = 0, proposals = 0;
    if (!course)
        return err_set(err, ERR_MEMORY, "out of memory for runs");
    enum status status = OK;
    for (size_t k = 0; status == OK && k < seeds; k++) {
        status = run_once(p, who, k + 1, &course[k], err);
        seconds += course[k].seconds;
        proposals += course[k].proposals;
    }
    *s = (struct summary){.proposal_s = proposals > 0 ? seconds / proposals : 0, .to95 = NAN, .to99 = NAN};
    for (size_t t = 1; status == OK && t <= MOST_TRIALS; t++) {
        for (size_t k = 0; k < seeds; k++)
            value[k] = course[k].volume[t];
        qsort(value, seeds, sizeof *value, by_value);
        s->median[t] = quantile(value, seeds, 0.5);
        s->low[t] = quantile(value, seeds, 0.25);
        s->high[t] = quantile(value, seeds, 0.75);
        if (isnan(s->to95) && s->median[t] >= 0.95)
            s->to95 = (double)t;
        if (isnan(s->to99) && s->median[t] >= 0.99)
            s->to99 = (double)t;
    }
    free(course);
    return status;
}

/* ---- output ---- */

static const char *const column[] = {"problem", "strategy", "10 trials %", "20", "30", "40", "50", "quartiles at 30", "95 % after", "99 % after", "a proposal, ms",
                                     "minutes to 95 %"};

static void add_row(struct table *table, const struct problem *p, const char *strategy, const struct summary *s)
{
    table_text(table, "%s", p->name);
    table_text(table, "%s", strategy);
    for (int k = 0; k < CHECKPOINTS; k++)
        table_number(table, 100 * s->median[checkpoint[k]], 1);
    table_text(table, "%.1f - %.1f", 100 * s->low[30], 100 * s->high[30]);
    table_number(table, s->to95, 0);
    table_number(table, s->to99, 0);
    table_number(table, 1e3 * s->proposal_s, 2);
    table_number(table, p->trial_s > 0 ? s->to95 * (p->trial_s + s->proposal_s) / 60 : NAN, 2);
}

/* A page of its own: the classes of the lines are here. */
static void open_page(struct text *svg, double height)
{
    text_printf(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n<style>"
                     "text{fill:#444}.grid{stroke:#ddd}.axis{stroke:#888}path,polyline{fill:none;stroke-width:2}.s0{stroke:#888}.s1{stroke:#2563a8}.s2{stroke:#2a8559}"
                     ".s3{stroke:#b4257a}.s4{stroke:#c47b12}.s5{stroke:#6b4fbb}.s6{stroke:#1a9aa0}</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", height);
}

static void draw(struct text *svg, const struct problem *p, const struct summary *s, double top)
{
    struct svg_plot plot;
    double x[MOST_TRIALS], y[MOST_TRIALS], least = 100;
    for (size_t k = 0; k < STRATEGIES; k++)
        least = s[k].median[5] > 0 ? fmin(least, 100 * s[k].median[5]) : least;
    struct svg_axes axes = {.x0 = 5, .x1 = MOST_TRIALS, .y0 = least, .y1 = 100, .x_label = "trials", .y_label = "hypervolume found, % (median)", .title = p->name};
    text_printf(svg, "<text x=\"20\" y=\"%.0f\" font-weight=\"bold\">%s: %s</text>\n<g transform=\"translate(0 %.0f)\">", top + 16, p->name, p->what, top + 22);
    svg_open(&plot, svg, "plot", 620, 260, &axes);
    for (size_t k = 0; k < STRATEGIES; k++) {
        char css[8];
        size_t n = 0;
        for (size_t t = 5; t <= MOST_TRIALS; t++, n++) {
            x[n] = (double)t;
            y[n] = 100 * s[k].median[t];
        }
        snprintf(css, sizeof css, "s%zu", k);
        if (s[k].median[MOST_TRIALS] > 0)
            svg_line(&plot, css, x, y, n, false);
    }
    svg_close(&plot);
    text_puts(svg, "</g>\n");
    for (size_t k = 0; k < STRATEGIES; k++)
        text_printf(svg, "<path class=\"s%zu\" d=\"M640 %.0fh20\"/><text x=\"666\" y=\"%.0f\">%s</text>\n", k, top + 46 + 18 * (double)k, top + 50 + 18 * (double)k,
                    contestants[k].name);
}

struct arguments {
    size_t seeds;
    const char *only, *out;
};

static int usage(void)
{
    fputs("usage: search [--seeds 1..100] [--only random|gp|amq|autoqra|evopress|dp] [--out DIR]\n", stderr);
    return 2;
}

static bool read_arguments(int argc, char **argv, struct arguments *a)
{
    *a = (struct arguments){.seeds = 20, .out = "build/bench"};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--seeds") == 0)
            a->seeds = (size_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            a->only = argv[i + 1];
        else if (strcmp(argv[i], "--out") == 0)
            a->out = argv[i + 1];
        else
            return false;
    }
    return a->seeds >= 1 && a->seeds <= MOST_SEEDS;
}

static enum status bench_problem(struct problem *p, const struct arguments *a, struct table *table, struct text *svg, double top, struct err *err)
{
    struct summary s[STRATEGIES];
    memset(s, 0, sizeof s);
    for (size_t k = 0; k < STRATEGIES; k++) {
        if (a->only && strcmp(a->only, contestants[k].strategy) != 0)
            continue;
        TRY(summarise(p, &contestants[k], a->seeds, &s[k], err));
        add_row(table, p, contestants[k].name, &s[k]);
        fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, contestants[k].name, 100 * s[k].median[30]);
    }
    draw(svg, p, s, top);
    return OK;
}

static enum status bench_short(struct problem *p, const struct arguments *a, struct table *table, struct err *err)
{
    for (size_t k = 0; k < sizeof shorter / sizeof *shorter && (!a->only || strcmp(a->only, "gp") == 0); k++) {
        struct summary s;
        TRY(summarise(p, &shorter[k], a->seeds, &s, err));
        add_row(table, p, shorter[k].name, &s);
        fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, shorter[k].name, 100 * s.median[30]);
    }
    return OK;
}

/* "gp" alone, with what it has learnt of the teacher. */
static enum status bench_prior(struct problem *p, const struct problem *teacher, const char *what, const struct arguments *a, struct table *table, struct err *err)
{
    static const struct contestant gp = {"gp", "gp", 0, 1};
    struct summary s;
    if (a->only && strcmp(a->only, "gp") != 0)
        return OK;
    p->teacher = teacher;
    enum status status = summarise(p, &gp, a->seeds, &s, err);
    p->teacher = NULL;
    TRY(status);
    add_row(table, p, what, &s);
    fprintf(stderr, "%s, %s: %.1f %% after 30 trials\n", p->name, what, 100 * s.median[30]);
    return OK;
}

enum { SMALL_WORLD, ADDITIVE, COUPLED, RANKS, PROBLEMS };

static enum status bench_priors(struct problem *p, int which, const struct arguments *a, struct table *table, struct err *err)
{
    struct problem teacher = {0};
    if (which == SMALL_WORLD)
        return bench_prior(p, p, "gp, another seed's prior", a, table, err);
    if (which == RANKS)
        return OK;
    enum status status = make_layers(&teacher, "8 layers", "", OF_8, 0, err);
    if (status == OK)
        status = bench_prior(p, &teacher, "gp, prior of 8 layers", a, table, err);
    problem_free(&teacher);
    TRY(status);
    status = make_layers(&teacher, "reversed", "", OF_8_REVERSED, 0, err);
    if (status == OK)
        status = bench_prior(p, &teacher, "gp, misleading prior", a, table, err);
    problem_free(&teacher);
    return status;
}

static enum status make_problem(struct problem *p, int which, struct err *err)
{
    switch (which) {
    case SMALL_WORLD:
        return make_measured(p, err);
    case ADDITIVE:
        return make_layers(p, "additive", "12 layers of 2 formats whose losses add up", OF_12, 0, err);
    case COUPLED:
        return make_layers(p, "coupled", "the same, but a layer is worth less when the next one differs", OF_12, 0.4, err);
    default:
        return make_ranks(p, err);
    }
}

static enum status bench_all(const struct arguments *a, struct table *table, struct text *svg, struct err *err)
{
    enum { HEIGHT = 300 };
    open_page(svg, PROBLEMS * HEIGHT);
    for (int k = 0; k < PROBLEMS; k++) {
        struct problem p;
        enum status status = make_problem(&p, k, err);
        if (status == OK)
            status = bench_problem(&p, a, table, svg, k * HEIGHT, err);
        if (status == OK)
            status = bench_short(&p, a, table, err);
        if (status == OK)
            status = bench_priors(&p, k, a, table, err);
        problem_free(&p);
        TRY(status);
    }
    text_puts(svg, "</svg>\n");
    return svg->failed ? err_set(err, ERR_MEMORY, "out of memory for the figure") : OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct err err = {""};
    struct table table;
    struct text svg = {0};
    if (!read_arguments(argc, argv, &a))
        return usage();
    linalg_init();
    table_open(&table, "search", "Search strategies: share of the true hypervolume found", column, sizeof column / sizeof *column);
    text_printf(&table.notes, "Medians over %zu seeds. A trial is a full one; probes count, short trials count a quarter. Judged by true scores, on axes that "
                              "the whole space spans from 0 to 1, below (1.1, 1.1). Minutes: trials of 1.4 s, as the default run's, and the proposals. search.svg draws it.\n",
                a.seeds);
    enum status status = bench_all(&a, &table, &svg, &err);
    if (status == OK)
        status = table_write(&table, a.out, &err);
    char *path = path_join(a.out, "search.svg");
    if (status == OK)
        status = path ? file_write(path, svg.s, svg.n, &err) : err_set(&err, ERR_MEMORY, "out of memory for a path");
    free(path);
    text_free(&svg);
    table_free(&table);
    if (status != OK)
        fprintf(stderr, "search: %s\n", err.text);
    return status == OK ? 0 : status == ERR_INPUT ? 2 : 1;
}
