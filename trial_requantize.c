/* trial_requantize.c: what trials take from calibration data.  One configuration quantized again: a search tries formats by a quick quantizer (HQQ), what is
 * kept is written by GPTQ or AWQ at the bits that were chosen, as AMQ does.  Adapters that start by CLoQ; formats that a search tries as GPTQ writes them.
 *
 * The variants of the configuration get other codes and their adapters other starts; AWQ also leaves norms of its own.  What it is not: it chooses no bits. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "cloq.h"
#include "gptq.h"
#include "quant_affine.h"
#include "quant_panel.h"
#include "trial.h"

/* Second moments are summed by the host. */
static struct model_run *calibration_run(const struct trials *trials)
{
    return trials->host_run ? trials->host_run : trials->run;
}

struct requantize {
    struct trials *trials;
    const uint8_t *level;
};

/* Neutral codes into a format's storage; both have groups of 128 elements of the flattened matrix and numbers that fp16 has. */
static enum status store(struct qmat *q, const struct affine *from, struct err *err)
{
    TRY(quant_from_panels(q, err));
    for (size_t g = 0; g < affine_groups(from->out, from->in, from->group); g++)
        if (!quant_affine_put(q, g, from->scale[g], from->zero[g]))
            return err_set(err, ERR_FAILED, "group %zu has scale %g and zero %g: fp16 cannot hold one of them", g, (double)from->scale[g], (double)from->zero[g]);
    for (size_t i = 0; i < from->out * from->in; i++)
        quant_affine_set_code(q, i, from->codes[i]);
    return OK;
}

static enum status take_linear(void *user, int l, enum linear j, const real *W, const struct affine *from, const struct gram *gram, struct err *err)
{
    struct requantize *r = user;
    struct trials *trials = r->trials;
    size_t linear = (size_t)l * LINEAR_COUNT + (size_t)j;
    struct variant *v = trials_variant(trials, linear, r->level);
    if (from->codes)
        TRY(store(&v->q, from, err));
    else {
        TRY(quant_from_panels(&v->q, err));
        TRY(quant_encode(&v->q, W, false, err)); /* awq has scaled what it does not quantize, too */
    }
    TRY(trials_start_beside(trials, linear, r->level, v, W, gram, err));
    TRY(trials_rest(trials, &v->q, err));
    v->ready = true;
    return OK;
}

/* Norms and biases that the quantizer left: the model's own until another configuration is requantized. */
static void copy_own(struct trials *trials, int l, const struct model_layer *from)
{
    struct model_layer *own = &trials->own_layer[l];
    size_t C = (size_t)trials->source->config.hidden_size;
    memcpy(own->input_norm, from->input_norm, C * sizeof(real));
    memcpy(own->post_norm, from->post_norm, C * sizeof(real));
    for (int j = 0; j < LINEAR_COUNT; j++)
        if (own->bias[j])
            memcpy(own->bias[j], from->bias[j], from->linear[j].rows * sizeof(real));
}

static enum status take_layer(void *user, const struct calibrated_layer *done, struct err *err)
{
    (void)err;
    copy_own(((struct requantize *)user)->trials, done->l, done->layer);
    return OK;
}

static void place_own(struct trials *trials, struct arena *arena)
{
    const struct model *source = trials->source;
    size_t C = (size_t)source->config.hidden_size;
    trials->own_layer = arena_take(arena, (size_t)source->config.num_hidden_layers, sizeof *trials->own_layer);
    for (int l = 0; l < source->config.num_hidden_layers; l++) {
        struct model_layer own = {.input_norm = arena_take(arena, C, sizeof(real)), .post_norm = arena_take(arena, C, sizeof(real))};
        for (int j = 0; j < LINEAR_COUNT; j++)
            if (source->layer[l].bias[j])
                own.bias[j] = arena_take(arena, source->layer[l].linear[j].rows, sizeof(real));
        if (trials->own_layer)
            trials->own_layer[l] = own;
    }
}

static enum status own_layers(struct trials *trials, struct err *err)
{
    if (trials->own_layer)
        return OK;
    place_own(trials, &trials->own);
    enum status status = arena_commit(&trials->own, "norms", err);
    if (status == OK)
        place_own(trials, &trials->own);
    return status;
}

static enum quantizer quantizer_of(const struct config *config)
{
    return strcmp(config->quantizer, "gptq") == 0 ? QUANTIZER_GPTQ : strcmp(config->quantizer, "awq") == 0 ? QUANTIZER_AWQ : QUANTIZER_RTN;
}

enum status trials_requantize(struct trials *trials, const uint8_t *level, const struct batch *batches, size_t n_batches, struct err *err)
{
    struct requantize r = {.trials = trials, .level = level};
    struct calibrate_options options = {.group = AFFINE_GROUP, .damp = GRAM_DAMP, .linear = take_linear, .quantizer = quantizer_of(trials->config)};
    uint8_t (*bits)[LINEAR_COUNT] = calloc(trials->n_linears / LINEAR_COUNT, sizeof *bits);
    bool any = false;
    if (!bits)
        return err_set(err, ERR_MEMORY, "out of memory for the bits of layers");
    for (size_t i = 0; i < trials->n_linears; i++) {
        int b = quant_affine_bits(trials->format[trials_format(trials, i, level)]);
        bits[i / LINEAR_COUNT][i % LINEAR_COUNT] = (uint8_t)b;
        any = any || b > 0;
    }
    options.bits = (const uint8_t(*)[LINEAR_COUNT])bits;
    model_mirror_forget(trials->mirror); /* codes and norms change where they are */
    for (int l = 0; !any && trials->own_layer && l < trials->source->config.num_hidden_layers; l++)
        copy_own(trials, l, &trials->source->layer[l]); /* not those of another configuration */
    enum status status = any ? own_layers(trials, err) : OK;
    if (status == OK && any)
        status = calibrate_model(calibration_run(trials), trials->source, batches, n_batches, &options, take_layer, &r, err);
    free(bits);
    return status;
}

/* ---- all variants from calibration data ---- */

bool trials_start_from_data(const struct config *config)
{
    return strcmp(config->lora_init, "cloq") == 0 || strcmp(config->search_quantizer, "gptq") == 0;
}

enum status trials_encode_gptq(const struct trials *trials, struct qmat *q, const real *W, const struct gram *gram, const double *U, struct err *err)
{
    struct arena arena = {0};
    struct affine codes;
    affine_place(&codes, q->rows, q->cols, AFFINE_GROUP, quant_affine_bits(q->format), &arena);
    TRY(arena_commit(&arena, "codes", err));
    affine_place(&codes, q->rows, q->cols, AFFINE_GROUP, quant_affine_bits(q->format), &arena);
    enum status status = gptq_quantize(&codes, W, gram, U, trials->run->ops->threads, err);
    if (status == OK)
        status = store(q, &codes, err);
    arena_free(&arena);
    return status;
}

struct start {
    struct trials *trials;
    double *U;    /* NULL: no format is written by GPTQ */
    int l, input; /* whose factor stands in U */
};

static enum status start_linear(void *user, int l, enum linear j, const real *W, const struct affine *none, const struct gram *gram, struct err *err)
{
    (void)none;
    struct start *start = user;
    int input = (int)gram_input_of(j);
    if (start->U && (start->l != l || start->input != input)) {
        TRY(gptq_factor(start->U, gram, GRAM_DAMP, err));
        start->l = l;
        start->input = input;
    }
    return trials_start_variants(start->trials, (size_t)l * LINEAR_COUNT + (size_t)j, W, gram, start->U, err);
}

static size_t widest_input(const struct model *model)
{
    size_t in = 0;
    for (int l = 0; l < model->plan.n_layers; l++) {
        size_t here = calibrate_widest_input(&model->layer[l]);
        in = here > in ? here : in;
    }
    return in;
}

/* No bits are asked for, so the walk over the layers quantizes nothing: it is taken for its moments. */
enum status trials_start_all(struct trials *trials, const struct batch *batches, size_t n_batches, struct err *err)
{
    struct calibrate_options options = {.quantizer = QUANTIZER_GPTQ, .group = AFFINE_GROUP, .damp = GRAM_DAMP, .linear = start_linear};
    struct start start = {.trials = trials, .l = -1};
    size_t in = widest_input(trials->source);
    if (strcmp(trials->config->search_quantizer, "gptq") == 0) {
        start.U = malloc(in * in * sizeof *start.U);
        if (!start.U)
            return err_set(err, ERR_MEMORY, "out of memory for the factor of a linear's moments");
    }
    enum status status = calibrate_model(calibration_run(trials), trials->source, batches, n_batches, &options, NULL, &start, err);
    free(start.U);
    return status;
}

size_t trials_requantize_bytes(const struct trials *trials, const struct model *shape, size_t n_tokens, int threads)
{
    struct calibrate_options options = {.group = AFFINE_GROUP, .quantizer = quantizer_of(trials->config)};
    if (trials_start_from_data(trials->config) && options.quantizer == QUANTIZER_RTN)
        options.quantizer = QUANTIZER_GPTQ; /* the same moments */
    uint8_t (*bits)[LINEAR_COUNT] = calloc(trials->n_linears / LINEAR_COUNT, sizeof *bits);
    if (!bits)
        return 0;
    memset(bits, 4, trials->n_linears);
    options.bits = (const uint8_t(*)[LINEAR_COUNT])bits;
    size_t bytes = calibrate_bytes(shape, n_tokens, &options, threads), largest = 0;
    free(bits);
    for (size_t i = 0; strcmp(trials->config->lora_init, "cloq") == 0 && i < trials->n_linears; i++) {
        struct cloq cloq = {.r = (int32_t)trials_max_rank(trials)};
        plan_shape(&trials->plan, &shape->config, (int)(i / LINEAR_COUNT), (enum linear)(i % LINEAR_COUNT), &cloq.out, &cloq.in);
        size_t start = cloq_bytes(&cloq) + cloq.out * cloq.in * sizeof(real);
        largest = start > largest ? start : largest;
    }
    return bytes + largest;
}
