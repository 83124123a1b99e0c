/* prune_private.h: what the files of pruning share; private to prune*.c. */
#ifndef VENEER_PRUNE_PRIVATE_H
#define VENEER_PRUNE_PRIVATE_H
#include "prune.h"

/* prune.c: parameters of one layer, of all; the `keep` best of n units, sorted ascending, into *out (owned by the caller). */
uint64_t prune_layer_parameters(const struct model_config *c, int32_t l);
uint64_t prune_parameters(const struct model_config *c);
enum status prune_best_units(int32_t **out, const double *score, int32_t n, int32_t keep, struct err *err);

/* prune_units.c: prune_widths and prune_select of the modes channel and layer. */
enum status prune_unit_widths(struct model_config *config, const struct prune_options *options, double *group_ratio, double *achieved,
                              struct err *err);
enum status prune_select_units(struct prune_selection *selection, const struct prune_scores *scores, const struct model_config *config,
                               const struct prune_options *options, const struct model_config *original, struct err *err);
/* config with only these units: layers that are moved together, or a smaller hidden_size. */
void prune_keep_units(struct model_config *config, enum prune_mode mode, const int32_t *unit, int32_t n);

/* prune_scores.c: doubles that salience adds up at one time. */
size_t prune_sums(const struct model *model);

/* prune_gradients.c.  Does the salience read squared gradients? */
bool prune_needs_fisher(const struct prune_options *options);
/* All gradients into room; where it holds those of one layer at a time, the streams of all sequences: then for l = L - 1 .. 0 those of layer l. */
enum status prune_gradients(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n,
                            const struct prune_options *options, struct err *err);
enum status prune_layer_gradients(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n, int32_t l,
                                  struct err *err);

#endif
