/* calibrate_test.c: a model quantized layer after layer: each layer from the inputs that the quantized layers before it leave, outputs nearer to the model's
 * than by rounding to nearest, what stays as it is, the same codes for any number of threads, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "awq.h"
#include "base/stop.h"
#include "calibrate.h"
#include "gptq.h"
#include "refused.h"
#include "toy.h"

enum { LAYERS = 2, BATCHES = 6, LENGTH = 40, VOCAB = 40, C = 32, TOKENS = BATCHES * LENGTH };

/* ---- data, and a model that what comes out is put into ---- */

struct data {
    int32_t tokens[BATCHES][LENGTH], positions[LENGTH];
    struct segment whole;
    struct batch batch[BATCHES];
};

static void data_make(struct data *d)
{
    struct rng rng = {.seed = 1, .stream = RNG_WORLD};
    d->whole = (struct segment){.len = LENGTH};
    for (int i = 0; i < LENGTH; i++)
        d->positions[i] = i;
    for (int b = 0; b < BATCHES; b++) {
        for (int i = 0; i < LENGTH; i++)
            d->tokens[b][i] = (int32_t)rng_below(&rng, VOCAB);
        d->batch[b] = (struct batch){.n = LENGTH, .tokens = d->tokens[b], .positions = d->positions, .segments = &d->whole, .n_segments = 1};
    }
}

/* Embeddings of few directions and of uneven size, so that inputs hang together as a trained model's do. */
static void open_source(struct toy *toy, int threads)
{
    struct rng rng = {.seed = 4, .stream = RNG_WORLD};
    double direction[3][C];
    toy_open(toy, VOCAB, FORMAT_F32, 0, LENGTH, threads);
    model_random(&toy->model, 0.15, 7);
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < C; c++)
            direction[k][c] = rng_normal(&rng) * (c % 8 == 2 ? 6 : 1);
    for (int t = 0; t < VOCAB; t++) {
        real *x = (real *)toy->model.embed.codes + t * C;
        for (int k = 0; k < 3; k++) {
            double f = rng_normal(&rng);
            for (int c = 0; c < C; c++)
                x[c] += (real)(f * direction[k][c]);
        }
    }
}

struct taken {
    struct toy *toy; /* weights become what the codes say; NULL: codes only */
    uint8_t *codes[LAYERS][LINEAR_COUNT];
    int calls;
};

static enum status take(void *user, const struct calibrated_layer *layer, struct err *err)
{
    struct taken *taken = user;
    (void)err;
    assert_int_equal(layer->l, taken->calls++);
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct affine *q = &layer->linear[j];
        const struct qmat *W = &layer->layer->linear[j];
        assert_true(q->out == W->rows && q->in == W->cols);
        if (taken->toy)
            memcpy(taken->toy->model.layer[layer->l].linear[j].codes, W->codes, q->out * q->in * sizeof(real));
        if (q->bits == 0)
            continue;
        taken->codes[layer->l][j] = memcpy(malloc(q->out * q->in), q->codes, q->out * q->in);
        real *back = malloc(q->out * q->in * sizeof *back);
        affine_decode(q, back);
        assert_memory_equal(back, W->codes, q->out * q->in * sizeof *back);
        free(back);
    }
    if (taken->toy) {
        memcpy(taken->toy->model.layer[layer->l].input_norm, layer->layer->input_norm, C * sizeof(real));
        memcpy(taken->toy->model.layer[layer->l].post_norm, layer->layer->post_norm, C * sizeof(real));
    }
    return OK;
}

static void taken_free(struct taken *t)
{
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            free(t->codes[l][j]);
}

/* Each linear its own bits, 0 among them when `some`. */
static struct calibrate_options options_of(enum quantizer quantizer, uint8_t (*bits)[LINEAR_COUNT], uint8_t b, bool some)
{
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            bits[l][j] = some && j == LINEAR_K + l ? 0 : b;
    return (struct calibrate_options){.quantizer = quantizer, .bits = (const uint8_t(*)[LINEAR_COUNT])bits, .group = 64, .damp = 0.01};
}

/* Squared difference of the hidden states of two models over the data. */
static double difference(struct toy *a, struct toy *b, const struct data *d)
{
    struct err err;
    double sum = 0;
    const real *x, *y;
    for (int i = 0; i < BATCHES; i++) {
        ASSERT_OK(model_hidden(&a->run, &a->model, NULL, &d->batch[i], &x, &err));
        ASSERT_OK(model_hidden(&b->run, &b->model, NULL, &d->batch[i], &y, &err));
        for (int k = 0; k < LENGTH * C; k++)
            sum += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
    }
    return sum;
}

/* ---- what it is for ---- */

static double loss_of(enum quantizer quantizer, uint8_t b, const struct data *d)
{
    struct err err;
    struct toy source, result;
    struct taken taken = {.toy = &result};
    uint8_t bits[LAYERS][LINEAR_COUNT];
    struct calibrate_options o = options_of(quantizer, bits, b, false);
    open_source(&source, 1);
    open_source(&result, 1);
    ASSERT_OK(calibrate_model(&source.run, &source.model, d->batch, BATCHES, &o, take, &taken, &err));
    assert_int_equal(taken.calls, LAYERS);
    double sum = difference(&source, &result, d);
    taken_free(&taken);
    toy_close(&source);
    toy_close(&result);
    return sum;
}

static void outputs_differ_less_than_rounded_to_nearest(void **state)
{
    (void)state;
    struct data d;
    data_make(&d);
    for (uint8_t bits = 3; bits <= 4; bits++) {
        double nearest = loss_of(QUANTIZER_RTN, bits, &d), gptq = loss_of(QUANTIZER_GPTQ, bits, &d), awq = loss_of(QUANTIZER_AWQ, bits, &d);
        if (!(gptq < 0.7 * nearest && awq < 0.9 * nearest))
            fail_msg("%d bits: nearest %g, gptq %g, awq %g", bits, nearest, gptq, awq);
    }
    double fine = loss_of(QUANTIZER_AWQ, 8, &d), coarse = loss_of(QUANTIZER_AWQ, 4, &d);
    assert_true(fine < coarse / 64); /* 2^-8 of the squared error, if all is folded back */
}

/* ---- layer after layer ---- */

struct by_hand {
    struct arena arena;
    struct gram gram[GRAM_COUNT];
    struct awq_scales scales;
    struct affine q;
    double *U;
    real *x, *part;
};

/* Moments of layer l of the source, whose inputs come through the layers before it in `before`; room for one linear's codes. */
static void by_hand_open(struct by_hand *h, struct toy *source, struct toy *before, int l, enum linear j, const struct data *d)
{
    struct err err;
    const struct model_layer *layer = &source->model.layer[l];
    memset(h, 0, sizeof *h);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < GRAM_COUNT; i++)
            gram_place(&h->gram[i], layer->linear[gram_reader((enum gram_input)i)].cols, &h->arena);
        awq_scales_place(&h->scales, layer, &h->arena);
        affine_place(&h->q, layer->linear[j].rows, layer->linear[j].cols, 64, 3, &h->arena);
        h->U = arena_take(&h->arena, 96 * 96, sizeof *h->U);
        h->part = arena_take(&h->arena, 96 * 96, sizeof *h->part);
        h->x = arena_take(&h->arena, LENGTH * C, sizeof *h->x);
        if (pass == 0)
            ASSERT_OK(arena_commit(&h->arena, "by hand", &err));
    }
    for (int b = 0; b < BATCHES; b++) {
        const real *inputs[LINEAR_COUNT];
        ASSERT_OK(model_embed(&source->run, &source->model, &d->batch[b], h->x, &err));
        for (int k = 0; k < l; k++)
            ASSERT_OK(model_block(&before->run, &before->model, &d->batch[b], k, h->x, h->x, NULL, &err));
        ASSERT_OK(model_block(&source->run, &source->model, &d->batch[b], l, h->x, h->x, inputs, &err));
        for (int i = 0; i < GRAM_COUNT; i++)
            gram_add(&h->gram[i], &source->ops, inputs[gram_reader((enum gram_input)i)], LENGTH, h->part);
    }
}

static void each_layer_sees_the_quantized_ones_before_it(void **state)
{
    (void)state;
    struct err err;
    struct data d;
    struct toy source, result;
    struct taken taken = {.toy = &result};
    struct by_hand h;
    uint8_t bits[LAYERS][LINEAR_COUNT];
    struct calibrate_options o = options_of(QUANTIZER_GPTQ, bits, 3, true);
    data_make(&d);
    open_source(&source, 1);
    open_source(&result, 1);
    ASSERT_OK(calibrate_model(&source.run, &source.model, d.batch, BATCHES, &o, take, &taken, &err));
    assert_memory_equal(result.model.layer[0].linear[LINEAR_K].codes, source.model.layer[0].linear[LINEAR_K].codes, C * C * sizeof(real)); /* 0 bits */
    assert_memory_equal(result.model.layer[1].linear[LINEAR_V].codes, source.model.layer[1].linear[LINEAR_V].codes, C * C * sizeof(real));
    by_hand_open(&h, &source, &result, 1, LINEAR_DOWN, &d);
    const struct qmat *W = &source.model.layer[1].linear[LINEAR_DOWN];
    ASSERT_OK(gptq_factor(h.U, &h.gram[GRAM_DOWN], 0.01, &err));
    ASSERT_OK(gptq_quantize(&h.q, W->codes, &h.gram[GRAM_DOWN], h.U, 1, &err));
    assert_memory_equal(h.q.codes, taken.codes[1][LINEAR_DOWN], W->rows * W->cols);
    taken_free(&taken);
    arena_free(&h.arena);
    toy_close(&source);
    toy_close(&result);
}

static void awq_is_searched_folded_and_bound(void **state)
{
    (void)state;
    struct err err;
    struct data d;
    struct toy source, result;
    struct taken taken = {.toy = &result};
    struct by_hand h;
    uint8_t bits[LAYERS][LINEAR_COUNT];
    struct calibrate_options o = options_of(QUANTIZER_AWQ, bits, 3, true);
    struct awq_options awq = {.group = 64, .threads = 1};
    data_make(&d);
    open_source(&source, 1);
    open_source(&result, 1);
    ASSERT_OK(calibrate_model(&source.run, &source.model, d.batch, BATCHES, &o, take, &taken, &err));
    by_hand_open(&h, &source, NULL, 0, LINEAR_UP, &d);
    for (int j = 0; j < LINEAR_COUNT; j++)
        awq.bits[j] = bits[0][j];
    struct model_layer *layer = &source.model.layer[0];
    ASSERT_OK(awq_search(&h.scales, layer, h.gram, &awq, &err));
    assert_true(h.scales.exponent[GRAM_QKV] > 0);
    awq_fold(layer, &h.scales);
    ASSERT_OK(awq_quantize(&h.q, layer->linear[LINEAR_UP].codes, &h.gram[GRAM_GATE_UP], h.scales.s[GRAM_GATE_UP], true, 1, &err));
    assert_memory_equal(h.q.codes, taken.codes[0][LINEAR_UP], 96 * C);
    assert_memory_equal(layer->input_norm, result.model.layer[0].input_norm, C * sizeof(real));
    assert_memory_equal(layer->linear[LINEAR_K].codes, result.model.layer[0].linear[LINEAR_K].codes, C * C * sizeof(real)); /* scaled, not quantized */
    taken_free(&taken);
    arena_free(&h.arena);
    toy_close(&source);
    toy_close(&result);
}

static void same_codes_for_any_number_of_threads(void **state)
{
    (void)state;
    struct err err;
    struct data d;
    struct toy one, three;
    data_make(&d);
    open_source(&one, 1);
    open_source(&three, 3);
    for (enum quantizer quantizer = QUANTIZER_GPTQ; quantizer <= QUANTIZER_AWQ; quantizer++) {
        struct taken a = {0}, b = {0};
        uint8_t bits[LAYERS][LINEAR_COUNT];
        struct calibrate_options o = options_of(quantizer, bits, 2, true);
        ASSERT_OK(calibrate_model(&one.run, &one.model, d.batch, BATCHES, &o, take, &a, &err));
        ASSERT_OK(calibrate_model(&three.run, &three.model, d.batch, BATCHES, &o, take, &b, &err));
        for (int l = 0; l < LAYERS; l++)
            for (int j = 0; j < LINEAR_COUNT; j++)
                if (bits[l][j] > 0)
                    assert_memory_equal(a.codes[l][j], b.codes[l][j], one.model.layer[l].linear[j].rows * one.model.layer[l].linear[j].cols);
        taken_free(&a);
        taken_free(&b);
    }
    toy_close(&one);
    toy_close(&three);
}

/* ---- what is refused, and what it takes ---- */

static enum status refuse(void *user, const struct calibrated_layer *layer, struct err *err)
{
    (void)user;
    return err_set(err, ERR_FAILED, "layer %d is not wanted", layer->l);
}

static void what_cannot_be_calibrated_is_said(void **state)
{
    (void)state;
    struct err err;
    struct data d;
    struct toy toy;
    uint8_t bits[LAYERS][LINEAR_COUNT];
    struct calibrate_options o = options_of(QUANTIZER_GPTQ, bits, 3, false);
    data_make(&d);
    open_source(&toy, 1);
    struct model_layer *layer = toy.model.layer;
    assert_refused(calibrate_model(&toy.run, &toy.model, d.batch, BATCHES, &o, refuse, NULL, &err), ERR_FAILED, &err, "", "layer 0 is not wanted");
    assert_refused(calibrate_model(&toy.run, &toy.model, d.batch, 0, &o, refuse, NULL, &err), ERR_INPUT, &err, "",
                   "model.layers.0: self_attn.q_proj: the calibration data has no token");
    real keep = ((real *)layer[0].linear[LINEAR_UP].codes)[33];
    o.quantizer = QUANTIZER_RTN; /* without data it is the weights that are looked at */
    ((real *)layer[0].linear[LINEAR_UP].codes)[33] = NAN;
    assert_refused(calibrate_model(&toy.run, &toy.model, NULL, 0, &o, refuse, NULL, &err), ERR_FAILED, &err, "",
                   "model.layers.0: mlp.up_proj: element [1, 1] is nan: scales in fp16 reach to 65504");
    o.quantizer = QUANTIZER_AWQ; /* the inputs of down_proj first */
    assert_refused(calibrate_model(&toy.run, &toy.model, d.batch, BATCHES, &o, refuse, NULL, &err), ERR_DIVERGED, &err, "",
                   "model.layers.0: calibration: input 1 of a linear is not finite");
    ((real *)layer[0].linear[LINEAR_UP].codes)[33] = keep;
    o.quantizer = QUANTIZER_GPTQ;
    layer[1].linear[LINEAR_O].format = FORMAT_NF4;
    assert_refused(calibrate_model(&toy.run, &toy.model, d.batch, BATCHES, &o, refuse, NULL, &err), ERR_FAILED, &err, "",
                   "model.layers.1.self_attn.o_proj is nf4: calibration wants f32");
    layer[1].linear[LINEAR_O].format = FORMAT_F32;
    stop_request();
    assert_int_equal(calibrate_model(&toy.run, &toy.model, d.batch, BATCHES, &o, refuse, NULL, &err), ERR_STOPPED);
    stop_reset();
    toy_close(&toy);
}

static void memory_is_counted_before_it_is_taken(void **state)
{
    (void)state;
    struct toy toy;
    uint8_t bits[LAYERS][LINEAR_COUNT];
    open_source(&toy, 1);
    struct calibrate_options o = options_of(QUANTIZER_GPTQ, bits, 3, false);
    /* residual stream; the layer in F32 and its codes; H of four inputs in double, U and one linalg copy for the widest (96) */
    size_t layer = 2 * C * 64 + 2 * C * C + 3 * C * 96, H = (2 * C * C + 64 * 64 + 96 * 96) * sizeof(double);
    size_t least = TOKENS * C * 4 + layer * 5 + H + 96 * 96 * (8 + 8 + 4), counted = calibrate_bytes(&toy.model, TOKENS, &o, 1);
    assert_true(counted >= least && counted < least + least / 4);
    assert_true(calibrate_bytes(&toy.model, 1000, &o, 4) > calibrate_bytes(&toy.model, 10, &o, 4));
    o.quantizer = QUANTIZER_RTN; /* neither data nor moments */
    counted = calibrate_bytes(&toy.model, 1000000, &o, 4);
    assert_true(counted >= layer * 5 && counted < layer * 6);
    toy_close(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_differ_less_than_rounded_to_nearest),
        cmocka_unit_test(each_layer_sees_the_quantized_ones_before_it),
        cmocka_unit_test(awq_is_searched_folded_and_bound),
        cmocka_unit_test(same_codes_for_any_number_of_threads),
        cmocka_unit_test(what_cannot_be_calibrated_is_said),
        cmocka_unit_test(memory_is_counted_before_it_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
