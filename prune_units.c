/* prune_units.c: units that the whole model has one list of: layers, and channels of the residual stream.  How many stay follows from the
 * shape alone, so that a plan knows it; which ones follows from their scores.
 *
 * LLM-Pruner's layer-wise mode keeps the first N layers (keep_layers); to rank them is ours.  Its channel-wise mode cuts hidden_size. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune_private.h"

/* ---- layers ---- */

/* Layers of unlike widths count as their mean: how many go may not depend on which. */
static enum status layers_that_stay(const struct model_config *c, const struct prune_options *o, int32_t *keep, struct err *err)
{
    int32_t L = c->num_hidden_layers;
    double all = (double)prune_parameters(c), layers = 0;
    if (o->keep_layers > L)
        return err_set(err, ERR_INPUT, "keep_layers = %d: the model has %d layers", o->keep_layers, L);
    *keep = o->keep_layers;
    if (*keep > 0)
        return OK;
    for (int32_t l = 0; l < L; l++)
        layers += (double)prune_layer_parameters(c, l);
    double gone = ceil(o->ratio * all / (layers / L) - 1e-9); /* at least the ratio; 1e-9 absorbs the rounding of the quotient */
    if (gone > L - 1)
        return err_set(err, ERR_INPUT, "pruning_ratio = %g: no more than %.4f of the parameters can go (one layer of %d stays); lower it", o->ratio,
                       layers / L * (L - 1) / all, L);
    *keep = L - (int32_t)gone;
    return OK;
}

/* ---- channels of the residual stream ---- */

static double parameters_at(const struct model_config *c, int32_t hidden_size)
{
    struct model_config at = *c; /* borrows the widths */
    at.hidden_size = hidden_size;
    return (double)prune_parameters(&at);
}

/* Every parameter but the biases of q, k, v belongs to a channel: the count is a line over hidden_size, the nearest multiple on it is taken. */
static enum status channels_that_stay(const struct model_config *c, const struct prune_options *o, int32_t *keep, struct err *err)
{
    int32_t C = c->hidden_size, multiple = o->hidden_multiple, least = multiple < C ? multiple : C;
    double all = parameters_at(c, C), rest = parameters_at(c, 0), target = (1 - o->ratio) * all;
    if (parameters_at(c, least) > target)
        return err_set(err, ERR_INPUT,
                       "pruning_ratio = %g: no more than %.4f of the parameters can go (%d channels of hidden_size = %d stay); lower it or "
                       "hidden_multiple",
                       o->ratio, 1 - parameters_at(c, least) / all, least, C);
    double nearest = floor((target - rest) / (all - rest) * C / multiple + 0.5) * multiple;
    *keep = nearest < C ? (int32_t)nearest : C;
    *keep = *keep > least ? *keep : least;
    return OK;
}

/* ---- either ---- */

static int32_t units_of(const struct model_config *c, enum prune_mode mode)
{
    return mode == PRUNE_LAYER ? c->num_hidden_layers : c->hidden_size;
}

static enum status units_that_stay(const struct model_config *c, const struct prune_options *o, int32_t *keep, struct err *err)
{
    return o->mode == PRUNE_LAYER ? layers_that_stay(c, o, keep, err) : channels_that_stay(c, o, keep, err);
}

void prune_keep_units(struct model_config *config, enum prune_mode mode, const int32_t *unit, int32_t n)
{
    if (mode == PRUNE_CHANNEL) {
        config->hidden_size = n;
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        config->num_attention_heads[i] = config->num_attention_heads[unit[i]];
        config->num_key_value_heads[i] = config->num_key_value_heads[unit[i]];
        config->intermediate_size[i] = config->intermediate_size[unit[i]];
    }
    config->num_hidden_layers = n;
}

/* The layers that a plan counts with: the first keep_layers, else the largest, so that no selection takes more memory. */
static enum status planned_layers(const struct model_config *c, const struct prune_options *o, int32_t keep, int32_t **unit, struct err *err)
{
    double *size = calloc((size_t)c->num_hidden_layers, sizeof *size);
    if (!size)
        return err_set(err, ERR_MEMORY, "out of memory for pruning");
    for (int32_t l = 0; o->keep_layers == 0 && l < c->num_hidden_layers; l++)
        size[l] = (double)prune_layer_parameters(c, l);
    enum status status = prune_best_units(unit, size, c->num_hidden_layers, keep, err);
    free(size);
    return status;
}

enum status prune_unit_widths(struct model_config *config, const struct prune_options *options, double *group_ratio, double *achieved,
                              struct err *err)
{
    int32_t keep, n = units_of(config, options->mode), *unit = NULL;
    double before = (double)prune_parameters(config);
    TRY(units_that_stay(config, options, &keep, err));
    if (keep == n && options->mode == PRUNE_CHANNEL)
        return err_set(err, ERR_INPUT, "pruning_ratio = %g: no channel of hidden_size = %d would go, for hidden_multiple = %d; raise the one or lower the other",
                       options->ratio, n, options->hidden_multiple);
    if (options->mode == PRUNE_LAYER)
        TRY(planned_layers(config, options, keep, &unit, err));
    prune_keep_units(config, options->mode, unit, keep);
    free(unit);
    *group_ratio = 1 - (double)keep / n;
    *achieved = 1 - (double)prune_parameters(config) / before;
    return OK;
}

enum status prune_select_units(struct prune_selection *selection, const struct prune_scores *scores, const struct model_config *config,
                               const struct prune_options *options, const struct model_config *original, struct err *err)
{
    struct model_config left = {0};
    TRY(units_that_stay(original, options, &selection->n_units, err));
    TRY(prune_best_units(&selection->unit, scores->unit, units_of(config, options->mode), selection->n_units, err));
    TRY(prune_config(&left, config, selection, err));
    selection->group_ratio = 1 - (double)selection->n_units / units_of(original, options->mode);
    selection->achieved = 1 - (double)prune_parameters(&left) / (double)prune_parameters(original);
    model_config_free(&left);
    return OK;
}
