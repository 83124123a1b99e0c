/* prune_gradients.c: the gradients that Taylor importance reads: of all weights at one time, or of the linears of one layer at a time.
 *
 * One layer at a time, from the top: the residual stream x before each layer is kept for every calibration sequence, and dx, the gradient of the loss with respect to what
 * the layer at hand gives.  Each sequence goes through the layer again, forward from x and backward from dx.
 *
 *     all at one time            gradients of all linears
 *     one layer at a time        gradients of the widest layer's linears + (L + 1) rows C        rows: of all sequences together
 *
 * A layer's gradient is the sum over the sequences in their order either way: the same bits.  It takes a forward pass more where activations are kept. */
#include "prune_private.h"

static size_t labels_of(const struct batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++)
        n += b->labels[i] >= 0;
    return n;
}

static size_t all_labels(const struct batch *batches, size_t n)
{
    size_t labels = 0;
    for (size_t i = 0; i < n; i++)
        labels += labels_of(&batches[i]);
    return labels;
}

/* What the nll of a sample's labels is multiplied by: its own mean. */
static double own_scale(const struct batch *b)
{
    size_t labels = labels_of(b);
    return 1.0 / (double)(labels ? labels : 1);
}

bool prune_needs_fisher(const struct prune_options *options)
{
    return options->taylor == SALIENCE_PARAM_SECOND || options->taylor == SALIENCE_PARAM_MIX;
}

/* The salience of PARAM_SECOND reads squares alone. */
static bool needs_mean(const struct prune_options *options)
{
    return options->taylor != SALIENCE_PARAM_SECOND;
}

/* ---- memory ---- */

static void place_all(struct prune_room *room, const struct model *model, const struct prune_options *o, struct arena *arena)
{
    model_grads_place(&room->grads, model, o->mode != PRUNE_CHANNEL, arena);
    if (prune_needs_fisher(o))
        room->fisher = arena_take(arena, room->grads.n, sizeof *room->fisher);
}

static void place_by_layer(struct prune_room *room, const struct model *model, const struct prune_options *o, struct arena *arena)
{
    size_t L = (size_t)model->config.num_hidden_layers, n = room->rows * (size_t)model->config.hidden_size;
    model_grads_place_layer(&room->grads, model, arena);
    if (prune_needs_fisher(o))
        room->fisher = arena_take(arena, room->grads.n, sizeof *room->fisher);
    room->x = arena_take_table(arena, L, sizeof *room->x);
    room->stream = arena_take_table(arena, L, sizeof *room->stream);
    for (size_t l = 0; l < L; l++) {
        real *x = arena_take(arena, n, sizeof *x);
        if (room->x)
            room->x[l] = x;
    }
    if (needs_mean(o))
        room->dx = arena_take(arena, n, sizeof *room->dx);
    if (prune_needs_fisher(o))
        room->own_dx = arena_take(arena, n, sizeof *room->own_dx);
}

void prune_room_place(struct prune_room *room, const struct model *model, const struct prune_options *options, size_t rows, struct arena *arena)
{
    struct prune_room counted = {.rows = rows};
    struct arena all = {0}, by_layer = {0};
    *room = counted;
    if (options->type == PRUNE_TAYLOR) {
        place_all(&counted, model, options, &all);
        place_by_layer(&counted, model, options, &by_layer);
        bool layered = options->mode != PRUNE_CHANNEL && by_layer.used < all.used && !by_layer.overflow;
        (layered ? place_by_layer : place_all)(room, model, options, arena);
    }
    if (options->type != PRUNE_RANDOM && arena->tables)
        room->sums = arena_take(arena, prune_sums(model), sizeof *room->sums);
}

/* ---- all at one time ---- */

static enum status add_gradient(struct model_grads *grads, const struct model *model, struct model_run *run, const struct batch *b,
                                double scale, struct err *err)
{
    double sum;
    size_t count;
    return model_train(run, model, NULL, grads, b, (real)scale, 0, &sum, &count, err);
}

/* F = mean over samples of the squared gradient of the sample's own mean loss. */
static enum status fill_fisher(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n,
                               struct err *err)
{
    const struct ops_context *c = run->ops;
    struct model_grads *grads = &room->grads;
    model_clear(c, room->fisher, grads->n);
    for (size_t i = 0; i < n; i++) {
        model_clear(c, grads->block, grads->n);
        TRY(add_gradient(grads, model, run, &batches[i], own_scale(&batches[i]), err));
        c->ops->add_squares(c, room->fisher, grads->block, (real)n, grads->n);
    }
    return OK;
}

/* G of the mean loss over all labelled tokens of all samples. */
static enum status fill_gradient(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n,
                                 struct err *err)
{
    model_clear(run->ops, room->grads.block, room->grads.n);
    for (size_t i = 0; i < n; i++)
        TRY(add_gradient(&room->grads, model, run, &batches[i], 1.0 / (double)all_labels(batches, n), err));
    return OK;
}

/* ---- one layer at a time ---- */

/* x of each layer, dx of the last one, for the sequence whose rows begin at `at`. */
static enum status fill_streams(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *b, size_t at,
                                size_t labels, struct err *err)
{
    double sum;
    size_t count;
    for (int32_t l = 0; l < model->config.num_hidden_layers; l++)
        room->stream[l] = room->x[l] + at;
    TRY(model_streams(run, model, b, room->stream, err));
    if (room->dx)
        TRY(model_head_backward(run, model, b, (real)(1.0 / (double)labels), room->dx + at, &sum, &count, err));
    if (room->own_dx)
        TRY(model_head_backward(run, model, b, (real)own_scale(b), room->own_dx + at, &sum, &count, err));
    return OK;
}

static enum status fill_all_streams(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n,
                                    struct err *err)
{
    size_t rows = 0, C = (size_t)model->config.hidden_size;
    for (size_t i = 0; i < n; i++)
        rows += batches[i].n;
    if (rows > room->rows)
        return err_set(err, ERR_FAILED, "%zu rows of calibration, memory was planned for %zu", rows, room->rows);
    rows = 0;
    for (size_t i = 0; i < n; rows += batches[i++].n)
        TRY(fill_streams(room, model, run, &batches[i], rows * C, all_labels(batches, n), err));
    return OK;
}

enum status prune_layer_gradients(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n, int32_t l,
                                  struct err *err)
{
    const struct ops_context *c = run->ops;
    struct model_grads *grads = &room->grads;
    size_t C = (size_t)model->config.hidden_size, at = 0;
    if (room->fisher)
        model_clear(c, room->fisher, grads->n);
    for (size_t i = 0; room->fisher && i < n; at += batches[i++].n * C) {
        model_clear(c, grads->block, grads->n);
        TRY(model_block_backward(run, model, grads, &batches[i], l, room->x[l] + at, room->own_dx + at, err));
        c->ops->add_squares(c, room->fisher, grads->block, (real)n, grads->n);
    }
    at = 0;
    if (room->dx)
        model_clear(c, grads->block, grads->n);
    for (size_t i = 0; room->dx && i < n; at += batches[i++].n * C)
        TRY(model_block_backward(run, model, grads, &batches[i], l, room->x[l] + at, room->dx + at, err));
    return OK;
}

/* ---- either ---- */

enum status prune_gradients(struct prune_room *room, const struct model *model, struct model_run *run, const struct batch *batches, size_t n,
                            const struct prune_options *options, struct err *err)
{
    if (all_labels(batches, n) == 0)
        return err_set(err, ERR_INPUT, "the calibration data has no token to predict");
    if (room->x)
        return fill_all_streams(room, model, run, batches, n, err);
    if (prune_needs_fisher(options))
        TRY(fill_fisher(room, model, run, batches, n, err));
    return needs_mean(options) ? fill_gradient(room, model, run, batches, n, err) : OK;
}
