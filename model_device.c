/* model_device.c: what a pass needs besides kernels when they run on a device: the weights there, the batch there, scores back.
 *
 * On the CPU (no tables of their own, arena.h) these functions change nothing. */
#include <string.h>

#include "base/size.h"
#include "cuda/device.h"
#include "model_acts.h"

size_t model_act_bytes(const struct model_run *run, const struct arena *arena)
{
    return arena->tables && run->ops->compute != COMPUTE_F32 ? sizeof(uint16_t) : sizeof(real);
}

void model_there_place(struct model_acts *acts, size_t n, struct arena *arena)
{
    acts->there = NULL; /* memory may have been another run's */
    if (!arena->tables)
        return;
    struct model_there none = {0}, *there = arena_take_table(arena, 1, sizeof *there);
    acts->there = there;
    there = there ? there : &none;
    there->tokens = arena_take(arena, n, sizeof *there->tokens);
    there->positions = arena_take(arena, n, sizeof *there->positions);
    there->labels = arena_take(arena, n, sizeof *there->labels);
    there->segments = arena_take(arena, n, sizeof *there->segments);
    there->greedy = arena_take(arena, n, sizeof *there->greedy);
    there->host = arena_take_table(arena, n, sizeof *there->host);
}

size_t model_device_scratch(const struct model *model, struct ops_context *c, size_t T)
{
    const struct qmat *head = &model->head;
    size_t D = (size_t)model->config.head_dim, C = head->cols, n = device_scratch_size(c, C, C, D, T, head->rows); /* the loss in chunks: more than logits alone take */
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            n = size_max(n, device_scratch_size(c, model->layer[l].linear[j].rows, model->layer[l].linear[j].cols, D, T, 0));
    c->shared_n = n;
    return n;
}

enum status model_batch_up(const struct model_run *run, const struct batch *batch, struct batch *to, struct err *err)
{
    const struct model_there *there = run->acts->there;
    struct device *device = run->ops->device;
    size_t n = batch->n;
    *to = *batch;
    if (!there)
        return OK;
    if (batch->n_segments > run->max_n)
        return err_set(err, ERR_FAILED, "%zu sequences in a batch, memory was planned for %zu rows", batch->n_segments, run->max_n);
    to->tokens = there->tokens;
    to->positions = there->positions;
    to->labels = batch->labels ? there->labels : NULL;
    to->segments = there->segments;
    TRY(device_upload(device, there->tokens, batch->tokens, n * sizeof *batch->tokens, err));
    TRY(device_upload(device, there->positions, batch->positions, n * sizeof *batch->positions, err));
    if (batch->labels)
        TRY(device_upload(device, there->labels, batch->labels, n * sizeof *batch->labels, err));
    return device_upload(device, there->segments, batch->segments, batch->n_segments * sizeof *batch->segments, err);
}

enum status model_scores_down(const struct model_run *run, size_t n, double *nll, uint8_t *greedy, struct err *err)
{
    const struct model_acts *acts = run->acts;
    if (!acts->there)
        return OK;
    if (nll)
        TRY(device_download(run->ops->device, nll, acts->nll, n * sizeof *nll, err));
    return greedy ? device_download(run->ops->device, greedy, acts->there->greedy, n, err) : OK;
}

void model_use_tables(const struct ops_context *c, struct arena *arena, struct arena *tables)
{
    arena->tables = c->device ? tables : NULL;
}

enum status model_commit(const struct ops_context *c, struct arena *arena, const char *what, struct err *err)
{
    struct arena *tables = arena->tables;
    if (!c->device)
        return arena_commit(arena, what, err);
    if (tables)
        TRY(arena_commit(tables, what, err));
    enum status status = device_commit(c->device, arena, what, err);
    if (status != OK && tables)
        arena_free(tables);
    return status;
}

void model_release(const struct ops_context *c, struct arena *arena)
{
    if (!c->device) {
        arena_free(arena);
        return;
    }
    if (arena->tables)
        arena_free(arena->tables);
    device_release(c->device, arena);
}

void model_copy(const struct ops_context *c, real *to, size_t to_stride, const real *from, size_t from_stride, size_t n, size_t rows)
{
    if (c->device) {
        device_copy(c->device, to, to_stride * sizeof *to, from, from_stride * sizeof *from, n * sizeof *to, rows);
        return;
    }
    for (size_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, n * sizeof *to);
}

void model_copy_acts(const struct ops_context *c, act *to, const act *from, size_t n)
{
    if (c->device)
        device_copy(c->device, to, 0, from, 0, n * act_bytes(c), 1);
    else
        memcpy(to, from, n * sizeof *to);
}

enum status model_fetch(const struct ops_context *c, void *to, const void *from, size_t bytes, struct err *err)
{
    if (c->device)
        return device_download(c->device, to, from, bytes, err);
    memcpy(to, from, bytes);
    return OK;
}

void model_clear(const struct ops_context *c, real *x, size_t n)
{
    if (c->device)
        device_zero(c->device, x, n * sizeof *x);
    else
        memset(x, 0, n * sizeof *x);
}

/* ---- weights ---- */

enum { NORMS = 2, LAYER_PIECES = NORMS + 2 * LINEAR_COUNT, OUTER_PIECES = 4 };

size_t model_pieces(int32_t n_layers)
{
    return (size_t)n_layers * LAYER_PIECES + OUTER_PIECES;
}

struct upload {
    struct device *device;
    struct model_held *held; /* of the next piece; NULL: nothing is held */
    struct err *err;
};

/* Steps on to the next piece; true when it is there already. */
static bool is_there(struct upload *u, const void *to, const void *from)
{
    if (!u->held)
        return false;
    struct model_held *held = u->held++;
    bool there = held->host == from && held->there == to;
    *held = (struct model_held){from, to};
    return there;
}

static enum status upload_vector(struct upload *u, void *to, const void *from, size_t bytes)
{
    return is_there(u, to, from) || !from ? OK : device_upload(u->device, to, from, bytes, u->err);
}

/* F32 into the half as wide format that it is known to fit. */
static enum status upload_encoded(struct upload *u, struct qmat *to, const struct qmat *from)
{
    struct arena memory = {0};
    struct qmat half;
    quant_place(&half, to->format, to->block, to->double_quant, to->rows, to->cols, &memory);
    TRY(arena_commit(&memory, "a matrix on its way to the device", u->err));
    quant_place(&half, to->format, to->block, to->double_quant, to->rows, to->cols, &memory);
    enum status status = quant_encode(&half, from->codes, false, u->err);
    if (status == OK)
        status = device_upload_matrix(u->device, to, &half, u->err);
    arena_free(&memory);
    return status;
}

static enum status upload_matrix(struct upload *u, struct qmat *to, const struct qmat *from)
{
    to->nested_offset = from->nested_offset;
    if (from->panels)
        return err_set(u->err, ERR_FAILED, "a matrix in panels cannot be uploaded: kernels of a device read the layout of files");
    if (is_there(u, to->codes, from->codes))
        return OK;
    return to->format == from->format ? device_upload_matrix(u->device, to, from, u->err) : upload_encoded(u, to, from);
}

static enum status upload_layer(struct upload *u, struct model_layer *t, const struct model_layer *f, size_t C)
{
    TRY(upload_vector(u, t->input_norm, f->input_norm, C * sizeof(real)));
    TRY(upload_vector(u, t->post_norm, f->post_norm, C * sizeof(real)));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        TRY(upload_matrix(u, &t->linear[j], &f->linear[j]));
        TRY(upload_vector(u, t->bias[j], f->bias[j], f->linear[j].rows * sizeof(real)));
    }
    return OK;
}

/* A failure leaves `held` saying too much: the device is of no use then. */
enum status model_upload(struct model *to, const struct model *from, struct model_held *held, const struct ops_context *c, struct err *err)
{
    struct upload u = {c->device, held, err};
    size_t C = (size_t)from->config.hidden_size;
    for (int l = 0; l < from->plan.n_layers; l++)
        TRY(upload_layer(&u, &to->layer[l], &from->layer[l], C));
    TRY(upload_vector(&u, to->norm, from->norm, C * sizeof(real)));
    TRY(upload_vector(&u, to->inv_freq, from->inv_freq, (size_t)from->config.head_dim / 2 * sizeof(float)));
    TRY(upload_matrix(&u, &to->embed, &from->embed));
    if (!from->config.tie_word_embeddings)
        return upload_matrix(&u, &to->head, &from->head);
    to->head = to->embed;
    return OK;
}
