/* search_strategies.h: the strategies there are, and what search.c offers them; private to the search. */
#ifndef VENEER_SEARCH_STRATEGIES_H
#define VENEER_SEARCH_STRATEGIES_H
#include "base/rng.h"
#include "search.h"

extern const struct strategy strategy_gp, strategy_random;

bool search_fits(const struct search_space *space, const uint8_t *level);
/* The ends of the size axis: all-low, and all-high or the budget if that is less.  level[n] is work space, all 0 afterwards. */
void search_ends(const struct search_space *space, uint8_t *level, double *low, double *high);
/* A configuration that fits and is not in the archive, its size at most `fraction` of the way between the ends and, mostly, just below it;
 * false: the space is used up. */
bool search_draw_new(const struct search_space *space, const struct search_archive *archive, struct rng *rng, double fraction,
                     uint8_t *level);
/* Mean and standard deviation [archive->n] of what the model of "gp" believes of each trial's score, failed ones too. */
enum status search_posterior(const struct search_space *space, const struct search_archive *archive, double *mean, double *sd,
                             struct err *err);
#endif
