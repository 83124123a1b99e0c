/* search_prior.h: what another search learnt, as an expectation of this search's configurations.
 *
 * A Gaussian process is fitted to the other search's trials.  What it expects of the counterpart of a configuration is a trend of this search's process
 * (gp.h): a straight line in it, whose slope is found from this search's own scores, near 0 where the other search tells nothing.
 *
 * The counterpart: each variable of the other search takes the mean position of this search's variables of its kind that lie at its relative depth,
 * group / groups, each weighed by how much of the depth they share; of its place within the layer too, where both have as many variables a layer.
 * What it is not: it reads no files. */
#ifndef VENEER_SEARCH_PRIOR_H
#define VENEER_SEARCH_PRIOR_H
#include "gp.h"
#include "search.h"

struct search_prior {
    struct gp gp;          /* of the other search's scores */
    size_t d, n;           /* variables of the other search; of this one */
    double *share;         /* [d, n] rows sum to 1, or are 0 where nothing corresponds */
    double *here, *there;  /* [n], [d] work space: one thread at a time */
};

/* other: n, n_levels, feature, kind and group are used; learnt: its trials, of which failed and short ones are left out.  ERR_INPUT when no trial is left,
 * ERR_MEMORY; search_prior_free releases, also after a failure. */
enum status search_prior_new(struct search_prior *prior, const struct search_space *other, const struct search_archive *learnt,
                             const struct search_space *space, struct err *err);
void search_prior_free(struct search_prior *prior);
/* The other search's expectation of a configuration of this one, in standard deviations of the other's scores around their mean. */
double search_prior_mean(const struct search_prior *prior, const struct search_space *space, const uint8_t *level);

#endif
