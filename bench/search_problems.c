/* search_problems.c: toys whose truth is computed, and the real model's truth read from data/world/truth.jsonl. */
#include "bench/search_problems.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "io/json.h"


size_t problem_index(const struct problem *p, const uint8_t *level)
{
    size_t at = 0;
    for (size_t i = 0; i < p->n; i++)
        at = at * p->n_levels[i] + level[i];
    return at;
}

static void problem_level(const struct problem *p, size_t at, uint8_t *level)
{
    for (size_t i = p->n; i-- > 0; at /= p->n_levels[i])
        level[i] = (uint8_t)(at % p->n_levels[i]);
}

double problem_size(void *user, const uint8_t *level)
{
    const struct problem *p = user;
    double size = p->fixed;
    for (size_t i = 0; i < p->n; i++)
        size += p->bytes[i][level[i]];
    return size;
}

struct pareto_point problem_on_axes(const struct problem *p, double size, double score)
{
    return (struct pareto_point){(size - p->low_size) / (p->high_size - p->low_size), (p->best - score) / (p->best - p->worst), 0};
}

double problem_volume(const struct pareto_point *point, size_t n)
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

double problem_deviation(const double *x, size_t n)
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
        problem_level(p, at, level);
        for (size_t i = 0; i < p->n; i++)
            p->other[at] += gain[i] * p->feature[i][level[i]];
    }
    p->mean = mean_of(p->truth, p->count);
    double mean = mean_of(p->other, p->count), own = problem_deviation(p->truth, p->count);
    for (size_t at = 0; at < p->count; at++)
        shared += (p->other[at] - mean) * (p->truth[at] - p->mean) / (own * own * (double)p->count);
    for (size_t at = 0; at < p->count; at++)
        p->other[at] -= mean + shared * (p->truth[at] - p->mean);
    double ratio = own / problem_deviation(p->other, p->count);
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
        problem_level(p, at, level);
        double size = problem_size(p, level);
        p->low_size = fmin(p->low_size, size);
        p->high_size = fmax(p->high_size, size);
        p->worst = fmin(p->worst, p->truth[at]);
        p->best = fmax(p->best, p->truth[at]);
    }
    for (size_t at = 0; at < p->count; at++) {
        problem_level(p, at, level);
        all[at] = problem_on_axes(p, problem_size(p, level), p->truth[at]);
    }
    p->volume = problem_volume(all, p->count);
    free(all);
    for (size_t i = 0; i < p->n; i++)
        p->axis[i] = p->feature[i];
    p->space = (struct search_space){.n = p->n, .n_levels = p->n_levels, .feature = p->axis, .size = problem_size, .user = p, .max_size = INFINITY,
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
enum status problem_layers(struct problem *p, const char *name, const char *what, enum depth depth, double coupling, struct err *err)
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
        problem_level(p, at, level);
        p->truth[at] = 0.5;
        for (size_t i = 0; i < p->n; i++) {
            bool alone = i + 1 < p->n && level[i] != level[i + 1];
            p->truth[at] += 0.2 * gain[i] / sum * (level[i] - (alone ? coupling : 0));
        }
    }
    return finish(p, err);
}

enum status problem_ranks(struct problem *p, struct err *err)
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
        problem_level(p, at, level);
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
    size_t at = problem_index(p, level), k = 0;
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

enum status problem_measured(struct problem *p, struct err *err)
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
        p->importance[i] = fmax(p->truth[problem_index(p, level)] - p->truth[0], 0);
        level[i] = 0;
    }
    return finish(p, err);
}

void problem_free(struct problem *p)
{
    free(p->truth);
    free(p->other);
    free(p->seen);
    free(p->variance);
}
