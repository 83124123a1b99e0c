/* search_problems.h: problems for search strategies whose whole truth is known: a table of every configuration with its size and its true score.
 *
 * What it is not: it runs no strategy (search.c does). */
#ifndef VENEER_BENCH_SEARCH_PROBLEMS_H
#define VENEER_BENCH_SEARCH_PROBLEMS_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "pareto.h"
#include "search.h"

enum { MOST_VARIABLES = 16, MOST_LEVELS = 4, TRUTH_SEEDS = 3 };

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

/* Layers of two formats: few layers matter much, most hardly at all; `coupling` makes neighbours need each other.  8 layers share out what 12 bring, by depth
 * or the other way round. */
enum depth { OF_12, OF_8, OF_8_REVERSED };
enum status problem_layers(struct problem *p, const char *name, const char *what, enum depth depth, double coupling, struct err *err);
/* 4 layers of 4 formats and 3 ranks: a rank wins back what a low format lost there, and does little elsewhere. */
enum status problem_ranks(struct problem *p, struct err *err);
/* data/world/truth.jsonl.  Importance is what the one-layer-raised plans gain, as a run would have measured it.  ERR_INPUT. */
enum status problem_measured(struct problem *p, struct err *err);
void problem_free(struct problem *p); /* also after a failure */

size_t problem_index(const struct problem *p, const uint8_t *level); /* of a configuration in the tables */
double problem_size(void *p, const uint8_t *level);                  /* search_space.size */
/* A size and a score on axes that the truth spans from 0 to 1, smaller is better; the volume that points dominate there below (1.1, 1.1). */
struct pareto_point problem_on_axes(const struct problem *p, double size, double score);
double problem_volume(const struct pareto_point *point, size_t n);
double problem_deviation(const double *x, size_t n);

#endif
