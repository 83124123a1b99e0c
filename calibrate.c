/* calibrate.c: the walk over the layers. */
#include "calibrate.h"

#include <string.h>

#include "awq.h"
#include "base/size.h"
#include "base/stop.h"
#include "gptq.h"
#include "gram.h"

/* Of one layer at a time, carved anew for each: layers may have widths of their own. */
struct block {
    struct model_layer now; /* the layer's weights, F32: as they are, then quantized */
    struct affine q[LINEAR_COUNT];
    struct gram gram[GRAM_COUNT];
    struct awq_scales scales;
    double *U;  /* [in, in] of the widest input */
    real *part; /* likewise */
};

struct calibration {
    struct model_run *run;
    struct model view; /* the model, but for the layer at hand */
    const struct model *model;
    const struct batch *batches;
    size_t n_batches;
    const struct calibrate_options *options;
    real *x; /* [tokens, C] what the layer at hand reads */
    struct arena stream, blocks;
    struct block block;
};

static bool needs_data(const struct calibrate_options *o)
{
    return o->quantizer == QUANTIZER_GPTQ || o->quantizer == QUANTIZER_AWQ;
}

static int bits_of(const struct calibrate_options *o, int l, int j)
{
    return o->bits ? o->bits[l][j] : 0;
}

/* ---- memory ---- */

size_t calibrate_widest_input(const struct model_layer *layer)
{
    size_t in = 0;
    for (int j = 0; j < LINEAR_COUNT; j++)
        in = layer->linear[j].cols > in ? layer->linear[j].cols : in;
    return in;
}

static void block_place(struct block *b, const struct model *model, int l, const struct calibrate_options *o, struct arena *arena)
{
    const struct model_layer *from = &model->layer[l];
    size_t C = (size_t)model->config.hidden_size, in = calibrate_widest_input(from);
    b->now.input_norm = arena_take(arena, C, sizeof(real));
    b->now.post_norm = arena_take(arena, C, sizeof(real));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *W = &from->linear[j];
        quant_place(&b->now.linear[j], FORMAT_F32, 0, false, W->rows, W->cols, arena);
        b->now.bias[j] = from->bias[j] ? arena_take(arena, W->rows, sizeof(real)) : NULL;
        if (bits_of(o, l, j) > 0)
            affine_place(&b->q[j], W->rows, W->cols, o->group, bits_of(o, l, j), arena);
        else
            b->q[j] = (struct affine){.out = W->rows, .in = W->cols, .group = o->group};
    }
    if (!needs_data(o))
        return;
    for (int i = 0; i < GRAM_COUNT; i++)
        gram_place(&b->gram[i], from->linear[gram_reader((enum gram_input)i)].cols, arena);
    b->part = arena_take(arena, in * in, sizeof *b->part);
    b->U = o->quantizer == QUANTIZER_GPTQ && o->bits ? arena_take(arena, in * in, sizeof *b->U) : NULL;
    if (o->quantizer == QUANTIZER_AWQ)
        awq_scales_place(&b->scales, from, arena);
}

/* Counted: what the widest layer takes. */
static struct arena widest_block(const struct model *model, const struct calibrate_options *o)
{
    struct arena widest = {0};
    for (int l = 0; l < model->plan.n_layers; l++) {
        struct block b;
        struct arena count = {0};
        block_place(&b, model, l, o, &count);
        widest.used = size_max(widest.used, count.used);
        widest.overflow = widest.overflow || count.overflow;
    }
    return widest;
}

/* What quantizing a layer takes besides. */
static size_t passing_bytes(const struct model *model, int l, const struct calibrate_options *o, int threads)
{
    struct block b;
    size_t bytes = 0;
    struct awq_options awq = {.group = o->group, .threads = threads};
    block_place(&b, model, l, o, &(struct arena){0});
    if (o->quantizer == QUANTIZER_AWQ)
        bytes = awq_search_bytes(&model->layer[l], &awq);
    for (int j = 0; j < LINEAR_COUNT && needs_data(o); j++) {
        size_t linear = o->quantizer == QUANTIZER_AWQ ? awq_quantize_bytes(&b.q[j], threads) : size_max(gptq_factor_bytes(b.q[j].in), gptq_bytes(&b.q[j], threads));
        bytes = size_max(bytes, linear);
    }
    return bytes;
}

static void stream_place(real **x, size_t n_tokens, const struct model *model, const struct calibrate_options *o, struct arena *arena)
{
    *x = needs_data(o) ? arena_take(arena, n_tokens * (size_t)model->config.hidden_size, sizeof **x) : NULL;
}

size_t calibrate_bytes(const struct model *model, size_t n_tokens, const struct calibrate_options *options, int threads)
{
    struct arena stream = {0};
    real *x;
    size_t bytes = 0;
    stream_place(&x, n_tokens, model, options, &stream);
    for (int l = 0; l < model->plan.n_layers; l++)
        bytes = size_max(bytes, passing_bytes(model, l, options, threads));
    return stream.used + widest_block(model, options).used + bytes;
}

/* ---- what linears read ---- */

/* One pass over the data through layer l: sums of what its linears read, or (y) what the next layer reads. */
static enum status pass(struct calibration *c, int l, bool outputs, struct err *err)
{
    size_t C = (size_t)c->model->config.hidden_size;
    real *x = c->x;
    for (size_t i = 0; i < c->n_batches; x += c->batches[i++].n * C) {
        const act *inputs[LINEAR_COUNT];
        TRY(model_block(c->run, &c->view, &c->batches[i], l, x, outputs ? x : NULL, inputs, err));
        for (int k = 0; k < GRAM_COUNT && !outputs; k++)
            gram_add(&c->block.gram[k], c->run->ops, inputs[gram_reader((enum gram_input)k)], c->batches[i].n, c->block.part);
    }
    return OK;
}

static enum status embed(struct calibration *c, struct err *err)
{
    real *x = c->x;
    for (size_t i = 0; i < c->n_batches; x += c->batches[i++].n * (size_t)c->model->config.hidden_size)
        TRY(model_embed(c->run, c->model, &c->batches[i], x, err));
    return OK;
}

/* ---- one layer ---- */

static void copy_layer(struct model_layer *to, const struct model_layer *from, size_t C)
{
    memcpy(to->input_norm, from->input_norm, C * sizeof(real));
    memcpy(to->post_norm, from->post_norm, C * sizeof(real));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct qmat *W = &from->linear[j];
        memcpy(to->linear[j].codes, W->codes, W->rows * W->cols * sizeof(real));
        if (from->bias[j])
            memcpy(to->bias[j], from->bias[j], W->rows * sizeof(real));
    }
}

static enum status scale_layer(struct calibration *c, int l, struct err *err)
{
    struct block *b = &c->block;
    struct awq_options o = {.group = c->options->group, .threads = c->run->ops->threads};
    for (int j = 0; j < LINEAR_COUNT; j++)
        o.bits[j] = bits_of(c->options, l, j);
    TRY(awq_search(&b->scales, &b->now, b->gram, &o, err));
    awq_fold(&b->now, &b->scales);
    return OK;
}

/* factored: b->U is that of this linear's input. */
static enum status quantize_linear(struct calibration *c, enum linear j, bool factored, struct err *err)
{
    struct block *b = &c->block;
    struct affine *q = &b->q[j];
    const real *W = b->now.linear[j].codes;
    enum gram_input input = gram_input_of(j);
    const struct gram *gram = &b->gram[input];
    int threads = c->run->ops->threads;
    switch (c->options->quantizer) {
    case QUANTIZER_AWQ:
        return awq_quantize(q, W, gram, b->scales.s[input], j != LINEAR_Q && j != LINEAR_K, threads, err);
    case QUANTIZER_GPTQ:
        if (!factored)
            TRY(gptq_factor(b->U, gram, c->options->damp, err));
        return gptq_quantize(q, W, gram, b->U, threads, err);
    case QUANTIZER_RTN:
        break;
    }
    TRY(affine_check(q, W, err));
    affine_round(q, W);
    return OK;
}

static enum status hand_over(struct calibration *c, int l, enum linear j, void *user, struct err *err)
{
    struct block *b = &c->block;
    if (!c->options->linear)
        return OK;
    return c->options->linear(user, l, j, b->now.linear[j].codes, &b->q[j], needs_data(c->options) ? &b->gram[gram_input_of(j)] : NULL, err);
}

static enum status quantize_layer(struct calibration *c, int l, void *user, struct err *err)
{
    struct block *b = &c->block;
    int factored = -1; /* the input whose factor stands in U */
    if (c->options->quantizer == QUANTIZER_AWQ)
        TRY(scale_layer(c, l, err));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        int input = (int)gram_input_of((enum linear)j);
        bool chosen = bits_of(c->options, l, j) > 0;
        TRY(stop_check(err));
        enum status status = chosen ? quantize_linear(c, (enum linear)j, input == factored, err) : OK;
        if (status == OK)
            status = hand_over(c, l, (enum linear)j, user, err);
        if (status != OK)
            return err_prefix(err, status, "%s", linear_name[j]);
        if (!chosen)
            continue;
        factored = input;
        affine_decode(&b->q[j], b->now.linear[j].codes);
    }
    return OK;
}

static enum status calibrate_layer(struct calibration *c, int l, calibrate_sink *sink, void *user, struct err *err)
{
    struct block *b = &c->block;
    c->blocks.used = 0;
    block_place(b, c->model, l, c->options, &c->blocks);
    copy_layer(&b->now, &c->model->layer[l], (size_t)c->model->config.hidden_size);
    c->view.layer[l] = b->now;
    if (needs_data(c->options)) {
        for (int i = 0; i < GRAM_COUNT; i++)
            gram_clear(&b->gram[i]);
        TRY(pass(c, l, false, err));
    }
    enum status status = quantize_layer(c, l, user, err);
    if (status != OK)
        return status == ERR_STOPPED ? status : err_prefix(err, status, "model.layers.%d", l);
    const struct calibrated_layer done = {.l = l, .linear = b->q, .layer = &b->now};
    if (sink)
        TRY(sink(user, &done, err));
    if (needs_data(c->options) && l + 1 < c->model->plan.n_layers)
        TRY(pass(c, l, true, err));
    c->view.layer[l] = c->model->layer[l]; /* the block's memory is the next layer's */
    return OK;
}

/* ---- all layers ---- */

static enum status check_model(const struct model *model, struct err *err)
{
    for (int l = 0; l < model->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (model->layer[l].linear[j].format != FORMAT_F32 || model->layer[l].linear[j].panels) {
                char name[64];
                plan_name(l, (enum linear)j, name);
                return err_set(err, ERR_FAILED, "%s is %s: calibration wants f32", name, format_info(model->layer[l].linear[j].format)->name);
            }
    return OK;
}

static enum status calibration_open(struct calibration *c, struct err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_batches; i++)
        n += c->batches[i].n;
    TRY(model_alias(&c->view, c->model, &c->model->plan, err));
    stream_place(&c->x, n, c->model, c->options, &c->stream);
    TRY(arena_commit(&c->stream, "calibration", err));
    stream_place(&c->x, n, c->model, c->options, &c->stream);
    c->blocks = widest_block(c->model, c->options);
    return arena_commit(&c->blocks, "calibration", err);
}

static void calibration_close(struct calibration *c)
{
    model_free(&c->view);
    arena_free(&c->stream);
    arena_free(&c->blocks);
}

enum status calibrate_model(struct model_run *run, const struct model *model, const struct batch *batches, size_t n_batches,
                            const struct calibrate_options *options, calibrate_sink *sink, void *user, struct err *err)
{
    struct calibration c = {.run = run, .model = model, .batches = batches, .n_batches = n_batches, .options = options};
    TRY(check_model(model, err));
    enum status status = calibration_open(&c, err);
    if (status == OK && needs_data(options))
        status = embed(&c, err);
    for (int l = 0; l < model->plan.n_layers && status == OK; l++)
        status = calibrate_layer(&c, l, sink, user, err);
    calibration_close(&c);
    return status;
}
