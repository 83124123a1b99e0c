/* search_strategies.h: the strategies there are, and what search.c offers them; private to the search. */
#ifndef VENEER_SEARCH_STRATEGIES_H
#define VENEER_SEARCH_STRATEGIES_H
#include "base/rng.h"
#include "search.h"

extern const struct strategy strategy_gp, strategy_random;

bool search_fits(const struct search_space *space, const uint8_t *level);
/* Lowers random variables until the configuration fits (or all are at 0). */
void search_repair(const struct search_space *space, struct rng *rng, uint8_t *level);
/* A configuration that fits and is not in the archive, with a mean level of about `fraction` of the highest; false: the space is used up. */
bool search_draw_new(const struct search_space *space, const struct search_archive *archive, struct rng *rng, double fraction,
                     uint8_t *level);
#endif
