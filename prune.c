/* prune.c: block-wise: how much to remove (widths from a ratio), which units (from their scores).
 *
 * prune_scores.c measures importance, prune_units.c does the same for layers and channels of the residual stream, prune_slice.c makes the
 * smaller model.  LLM-Pruner, arXiv:2305.11627, sec. 3; its group ratio counts channels of the pruned layers,
 * ours (`pruning_ratio`) parameters of the whole model: the first is solved for. */
#include "prune_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void prune_ranges(struct prune_options *o, int32_t n_layers)
{
    int32_t spare = n_layers >= 4, first = n_layers / 8, last = n_layers / 16;
    first = first > spare ? first : spare;
    last = last > spare ? last : spare;
    if (o->attention_start < 0)
        o->attention_start = first;
    if (o->attention_end < 0)
        o->attention_end = n_layers - last;
    if (o->mlp_start < 0)
        o->mlp_start = first;
    if (o->mlp_end < 0)
        o->mlp_end = n_layers - last;
}

static enum status check_range(const char *key, int32_t start, int32_t end, int32_t n_layers, struct err *err)
{
    if (start >= 0 && start <= end && end <= n_layers)
        return OK;
    return err_set(err, ERR_INPUT, "%s_start, %s_end = %d, %d: want a range of layers from 0 to %d", key, key, start, end, n_layers);
}

static enum status check_ranges(const struct prune_options *o, int32_t n_layers, struct err *err)
{
    TRY(check_range("block_attention_layer", o->attention_start, o->attention_end, n_layers, err));
    return check_range("block_mlp_layer", o->mlp_start, o->mlp_end, n_layers, err);
}

/* ---- parameters ---- */

static uint64_t layer_parameters(const struct model_config *c, int32_t heads, int32_t kv, int32_t ffn)
{
    uint64_t C = (uint64_t)c->hidden_size, q = (uint64_t)heads * (uint64_t)c->head_dim, k = (uint64_t)kv * (uint64_t)c->head_dim;
    uint64_t bias = (c->attention_bias ? q + 2 * k : 0) + (c->attention_out_bias ? C : 0);
    return 2 * C * q + 2 * C * k + 3 * C * (uint64_t)ffn + 2 * C + bias;
}

static uint64_t all_parameters(const struct model_config *c, const int32_t *kv, const int32_t *ffn)
{
    uint64_t C = (uint64_t)c->hidden_size, n = (uint64_t)c->vocab_size * C * (c->tie_word_embeddings ? 1 : 2) + C;
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        int32_t n_rep = c->num_attention_heads[l] / c->num_key_value_heads[l];
        n += layer_parameters(c, kv[l] * n_rep, kv[l], ffn[l]);
    }
    return n;
}

uint64_t prune_layer_parameters(const struct model_config *c, int32_t l)
{
    return layer_parameters(c, c->num_attention_heads[l], c->num_key_value_heads[l], c->intermediate_size[l]);
}

uint64_t prune_parameters(const struct model_config *c)
{
    return all_parameters(c, c->num_key_value_heads, c->intermediate_size);
}

/* ---- widths from a group ratio ---- */

/* LLM-Pruner keeps floor(C (1 - s)) channels; 1e-9 absorbs the rounding of the product (0.6 * 4096 ...). */
static int32_t kept_channels(int32_t C, double s)
{
    return (int32_t)floor((double)C * (1 - s) + 1e-9);
}

static int32_t kept_heads(int32_t kv, int32_t head_dim, double s)
{
    int32_t C = kv * head_dim, gone = (C - kept_channels(C, s)) / head_dim;
    return kv - gone > 1 ? kv - gone : 1;
}

static int32_t kept_ffn(int32_t F, int32_t multiple, double s)
{
    int32_t kept = kept_channels(F, s);
    if (multiple > 1 && kept < F)
        kept = (kept + multiple / 2) / multiple * multiple;
    int32_t least = multiple < F ? multiple : F;
    kept = kept < F ? kept : F;
    return kept > least ? kept : least;
}

struct widths {
    int32_t *kv, *ffn; /* [layers], after pruning */
};

static enum status widths_alloc(struct widths *w, int32_t n_layers, struct err *err)
{
    w->kv = calloc((size_t)n_layers, sizeof *w->kv);
    w->ffn = calloc((size_t)n_layers, sizeof *w->ffn);
    return w->kv && w->ffn ? OK : err_set(err, ERR_MEMORY, "out of memory for widths");
}

static void widths_free(struct widths *w)
{
    free(w->kv);
    free(w->ffn);
}

static void widths_at(struct widths *w, const struct model_config *c, const struct prune_options *o, double s)
{
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        bool attention = l >= o->attention_start && l < o->attention_end, mlp = l >= o->mlp_start && l < o->mlp_end;
        w->kv[l] = attention ? kept_heads(c->num_key_value_heads[l], c->head_dim, s) : c->num_key_value_heads[l];
        w->ffn[l] = mlp ? kept_ffn(c->intermediate_size[l], o->ffn_multiple, s) : c->intermediate_size[l];
    }
}

static enum status unreachable(const struct model_config *c, const struct widths *least, double ratio, uint64_t original,
                               struct err *err)
{
    double most = 1 - (double)all_parameters(c, least->kv, least->ffn) / (double)original;
    return err_set(err, ERR_INPUT,
                   "pruning_ratio = %g: the layers that may be pruned hold no more than %.4f of the parameters (one KV head and the "
                   "smallest FFN width stay); lower it or widen block_attention_layer_* and block_mlp_layer_*",
                   ratio, most);
}

/* Heads go in coarse steps: what they leave open is taken from FFN widths, one step a layer in turn, as long as that brings the count nearer
 * to the target. */
static void settle(struct widths *w, const struct model_config *c, const struct prune_options *o, double target)
{
    double left = (double)all_parameters(c, w->kv, w->ffn) - target, step = 3.0 * c->hidden_size * o->ffn_multiple;
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t l = o->mlp_start; l < o->mlp_end; l++)
            if (left > step / 2 && w->ffn[l] - o->ffn_multiple >= o->ffn_multiple && w->ffn[l] % o->ffn_multiple == 0) {
                w->ffn[l] -= o->ffn_multiple;
                left -= step;
                moved = true;
            }
    }
}

/* The widths whose parameter count is nearest to (1 - ratio) * original: bisection on the group ratio s, then single steps. */
static enum status solve_widths(struct widths *w, const struct model_config *c, const struct prune_options *o, uint64_t original,
                                double *group_ratio, struct err *err)
{
    double target = (1 - o->ratio) * (double)original, low = 0, high = 1;
    if (o->group_ratio > 0) {
        widths_at(w, c, o, o->group_ratio);
        *group_ratio = o->group_ratio;
        return OK;
    }
    widths_at(w, c, o, 1);
    if ((double)all_parameters(c, w->kv, w->ffn) > target)
        return unreachable(c, w, o->ratio, original, err);
    for (int i = 0; i < 60; i++) { /* count(low) > target >= count(high) */
        double s = 0.5 * (low + high);
        widths_at(w, c, o, s);
        if ((double)all_parameters(c, w->kv, w->ffn) > target)
            low = s;
        else
            high = s;
    }
    widths_at(w, c, o, high);
    double under = target - (double)all_parameters(c, w->kv, w->ffn);
    widths_at(w, c, o, low);
    settle(w, c, o, target);
    *group_ratio = low;
    if (under < fabs((double)all_parameters(c, w->kv, w->ffn) - target)) {
        widths_at(w, c, o, high);
        *group_ratio = high;
    }
    return OK;
}

static void set_widths(struct model_config *c, const struct widths *w)
{
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        int32_t n_rep = c->num_attention_heads[l] / c->num_key_value_heads[l];
        c->num_attention_heads[l] = w->kv[l] * n_rep;
        c->num_key_value_heads[l] = w->kv[l];
        c->intermediate_size[l] = w->ffn[l];
    }
}

enum status prune_widths(struct model_config *config, const struct prune_options *options, double *group_ratio, double *achieved,
                         struct err *err)
{
    struct widths w = {0};
    uint64_t original = prune_parameters(config);
    if (options->mode != PRUNE_BLOCK)
        return prune_unit_widths(config, options, group_ratio, achieved, err);
    TRY(check_ranges(options, config->num_hidden_layers, err));
    enum status status = widths_alloc(&w, config->num_hidden_layers, err);
    if (status == OK)
        status = solve_widths(&w, config, options, original, group_ratio, err);
    if (status == OK) {
        *achieved = 1 - (double)all_parameters(config, w.kv, w.ffn) / (double)original;
        set_widths(config, &w);
    }
    widths_free(&w);
    return status;
}

/* ---- global: one threshold for all layers, scores divided by the mean of their type ---- */

static double mean_score(double *const *score, const int32_t *n, int32_t start, int32_t end)
{
    double sum = 0, count = 0;
    for (int32_t l = start; l < end; l++)
        for (int32_t i = 0; i < n[l]; i++, count++)
            sum += score[l][i];
    return count > 0 && sum > 0 ? sum / count : 1;
}

static int32_t above(const double *score, int32_t n, double threshold)
{
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++)
        count += score[i] > threshold;
    return count;
}

static void widths_above(struct widths *w, const struct model_config *c, const struct prune_options *o, const struct prune_scores *s,
                         double head_mean, double ffn_mean, double threshold)
{
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        int32_t kv = c->num_key_value_heads[l], F = c->intermediate_size[l];
        if (l >= o->attention_start && l < o->attention_end) {
            int32_t k = above(s->head[l], kv, threshold * head_mean);
            kv = k > 1 ? k : 1;
        }
        if (l >= o->mlp_start && l < o->mlp_end)
            F = kept_ffn(F, o->ffn_multiple, 1 - (double)above(s->ffn[l], F, threshold * ffn_mean) / (double)F);
        w->kv[l] = kv;
        w->ffn[l] = F;
    }
}

static enum status solve_global(struct widths *w, const struct model_config *c, const struct prune_options *o,
                                const struct prune_scores *s, uint64_t original, struct err *err)
{
    double target = (1 - o->ratio) * (double)original, low = 0, high = 1;
    double head = mean_score(s->head, c->num_key_value_heads, o->attention_start, o->attention_end);
    double ffn = mean_score(s->ffn, c->intermediate_size, o->mlp_start, o->mlp_end);
    widths_above(w, c, o, s, head, ffn, INFINITY);
    if ((double)all_parameters(c, w->kv, w->ffn) > target)
        return unreachable(c, w, o->ratio, original, err);
    do {
        high *= 2;
        widths_above(w, c, o, s, head, ffn, high);
    } while ((double)all_parameters(c, w->kv, w->ffn) > target);
    for (int i = 0; i < 100; i++) {
        double t = 0.5 * (low + high);
        widths_above(w, c, o, s, head, ffn, t);
        if ((double)all_parameters(c, w->kv, w->ffn) > target)
            low = t;
        else
            high = t;
    }
    widths_above(w, c, o, s, head, ffn, high);
    return OK;
}

/* ---- which units ---- */

struct ranked {
    double score;
    int32_t unit;
};

/* Descending score; of equals the lower unit number stays. */
static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->unit > y->unit) - (x->unit < y->unit);
}

static int by_unit(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The `keep` best of n units, ascending by number. */
enum status prune_best_units(int32_t **out, const double *score, int32_t n, int32_t keep, struct err *err)
{
    struct ranked *r = malloc((size_t)n * sizeof *r);
    *out = malloc((size_t)keep * sizeof **out);
    if (!r || !*out) {
        free(r);
        return err_set(err, ERR_MEMORY, "out of memory for pruning");
    }
    for (int32_t i = 0; i < n; i++)
        r[i] = (struct ranked){score[i], i};
    qsort(r, (size_t)n, sizeof *r, by_score);
    for (int32_t i = 0; i < keep; i++)
        (*out)[i] = r[i].unit;
    qsort(*out, (size_t)keep, sizeof **out, by_unit);
    free(r);
    return OK;
}

enum status prune_select(struct prune_selection *selection, const struct prune_scores *scores, const struct model_config *config,
                         const struct prune_options *options, const struct model_config *original, struct err *err)
{
    size_t L = (size_t)config->num_hidden_layers;
    uint64_t original_parameters = prune_parameters(original);
    struct widths w = {0};
    memset(selection, 0, sizeof *selection);
    selection->mode = options->mode;
    selection->n_layers = config->num_hidden_layers;
    if (options->mode != PRUNE_BLOCK)
        return prune_select_units(selection, scores, config, options, original, err);
    TRY(check_ranges(options, config->num_hidden_layers, err));
    selection->n_heads = calloc(L, sizeof *selection->n_heads);
    selection->n_ffn = calloc(L, sizeof *selection->n_ffn);
    selection->head = calloc(L, sizeof *selection->head);
    selection->ffn = calloc(L, sizeof *selection->ffn);
    enum status status = widths_alloc(&w, config->num_hidden_layers, err);
    if (status == OK && (!selection->n_heads || !selection->n_ffn || !selection->head || !selection->ffn))
        status = err_set(err, ERR_MEMORY, "out of memory for pruning");
    if (status == OK)
        status = options->global ? solve_global(&w, config, options, scores, original_parameters, err)
                                 : solve_widths(&w, config, options, original_parameters, &selection->group_ratio, err);
    for (size_t l = 0; status == OK && l < L; l++) {
        selection->n_heads[l] = w.kv[l];
        selection->n_ffn[l] = w.ffn[l];
        status = prune_best_units(&selection->head[l], scores->head[l], config->num_key_value_heads[l], w.kv[l], err);
        if (status == OK)
            status = prune_best_units(&selection->ffn[l], scores->ffn[l], config->intermediate_size[l], w.ffn[l], err);
    }
    if (status == OK)
        selection->achieved = 1 - (double)all_parameters(config, w.kv, w.ffn) / (double)original_parameters;
    widths_free(&w);
    return status;
}

void prune_selection_free(struct prune_selection *s)
{
    for (int32_t l = 0; l < s->n_layers; l++) {
        if (s->head)
            free(s->head[l]);
        if (s->ffn)
            free(s->ffn[l]);
    }
    free(s->head);
    free(s->ffn);
    free(s->n_heads);
    free(s->n_ffn);
    free(s->unit);
    memset(s, 0, sizeof *s);
}

enum status prune_config(struct model_config *config, const struct model_config *src, const struct prune_selection *selection,
                         struct err *err)
{
    struct widths w = {.kv = selection->n_heads, .ffn = selection->n_ffn};
    TRY(model_config_copy(config, src, err));
    if (selection->mode == PRUNE_BLOCK)
        set_widths(config, &w);
    else
        prune_keep_units(config, selection->mode, selection->unit, selection->n_units);
    return OK;
}
