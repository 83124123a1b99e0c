/* quantizers.c: what each linear's outputs lose by round to nearest, HQQ and GPTQ on calibration text.
 *
 *   build/bench/quantizers MODEL --text FILE [--bits 2|3|4] [--tokens N]
 * Output error of a linear: ||(W - Q) X^T||_F^2 / ||W X^T||_F^2 over the calibration rows X, which GPTQ leaves behind the layers before it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "bench/text.h"
#include "calibrate.h"
#include "inference.h"

struct tally {
    int bits;
    size_t linears, gptq_below_rtn, gptq_below_hqq;
    double log_gptq, log_hqq; /* sums of the logarithms of errors over RTN's */
};

static double energy_of(const real *W, const real *Q, const struct gram *gram, size_t out, double *E, double *T)
{
    for (size_t i = 0; i < out * gram->in; i++)
        E[i] = (double)W[i] - (Q ? (double)Q[i] : 0);
    return gram_energy(gram, E, out, T);
}

static enum status hqq_of(const real *W, real *Q, size_t out, size_t in, int bits, struct err *err)
{
    struct qmat q;
    struct arena arena = {0};
    enum format format = bits == 2 ? FORMAT_HQQ2 : bits == 3 ? FORMAT_HQQ3 : FORMAT_HQQ4;
    quant_place(&q, format, 0, false, out, in, &arena);
    TRY(arena_commit(&arena, "a matrix", err));
    quant_place(&q, format, 0, false, out, in, &arena);
    enum status status = quant_encode(&q, W, false, err);
    if (status == OK)
        quant_decode_rows(&q, 0, out, Q);
    arena_free(&arena);
    return status;
}

static enum status compare(void *user, int l, enum linear j, const real *W, const struct affine *gptq, const struct gram *gram, struct err *err)
{
    struct tally *t = user;
    size_t n = gptq->out * gptq->in;
    struct affine rtn = *gptq;
    real *Q = malloc(n * sizeof *Q);
    double *E = malloc(n * sizeof *E), *T = malloc(n * sizeof *T);
    rtn.codes = malloc(n);
    rtn.scale = malloc(affine_groups(gptq->out, gptq->in, gptq->group) * sizeof *rtn.scale);
    rtn.zero = malloc(affine_groups(gptq->out, gptq->in, gptq->group) * sizeof *rtn.zero);
    enum status status = Q && E && T && rtn.codes && rtn.scale && rtn.zero ? OK : err_set(err, ERR_MEMORY, "out of memory for a linear");
    double error[3] = {0}, all = 1;
    if (status == OK) {
        all = energy_of(W, NULL, gram, gptq->out, E, T);
        affine_round(&rtn, W);
        affine_decode(&rtn, Q);
        error[0] = energy_of(W, Q, gram, gptq->out, E, T) / all;
        affine_decode(gptq, Q);
        error[2] = energy_of(W, Q, gram, gptq->out, E, T) / all;
        status = hqq_of(W, Q, gptq->out, gptq->in, t->bits, err);
    }
    if (status == OK) {
        error[1] = energy_of(W, Q, gram, gptq->out, E, T) / all;
        printf("%d %s %.6f %.6f %.6f\n", l, linear_name[j], error[0], error[1], error[2]);
        t->linears++;
        t->gptq_below_rtn += error[2] < error[0];
        t->gptq_below_hqq += error[2] < error[1];
        t->log_hqq += log(error[1] / error[0]);
        t->log_gptq += log(error[2] / error[0]);
    }
    free(Q);
    free(E);
    free(T);
    free(rtn.codes);
    free(rtn.scale);
    free(rtn.zero);
    return status;
}

static enum status run(struct inference *in, const char *text, size_t tokens, struct tally *t, struct err *err)
{
    struct text_batches b = {0};
    size_t layers = (size_t)in->model.config.num_hidden_layers;
    uint8_t (*bits)[LINEAR_COUNT] = calloc(layers, sizeof *bits);
    if (!bits)
        return err_set(err, ERR_MEMORY, "out of memory for layers");
    memset(bits, t->bits, layers * LINEAR_COUNT);
    struct calibrate_options options = {.quantizer = QUANTIZER_GPTQ, .bits = (const uint8_t(*)[LINEAR_COUNT])bits, .group = 128, .damp = GRAM_DAMP, .linear = compare};
    enum status status = text_batches_open(&b, text, tokens, in->tokenizer, err);
    if (status == OK)
        status = inference_place(in, TEXT_ROWS, err);
    if (status == OK)
        status = calibrate_model(&in->run, &in->model, b.batch, b.n, &options, NULL, t, err);
    text_batches_close(&b);
    free(bits);
    return status;
}

int main(int argc, char **argv)
{
    const char *model = NULL, *text = NULL;
    struct tally t = {.bits = 3};
    struct inference in;
    struct err err = {""};
    size_t tokens = 16384;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--text") == 0 && has_value)
            text = argv[++i];
        else if (strcmp(argv[i], "--bits") == 0 && has_value)
            t.bits = atoi(argv[++i]);
        else if (strcmp(argv[i], "--tokens") == 0 && has_value)
            tokens = strtoul(argv[++i], NULL, 10);
        else
            model = argv[i];
    }
    if (!model || !text || t.bits < 2 || t.bits > 4) {
        fputs("usage: quantizers MODEL --text FILE [--bits 2|3|4] [--tokens N]\n", stderr);
        return 2;
    }
    linalg_init();
    puts("layer linear rtn hqq gptq");
    enum status status = inference_open(&in, model, &(struct inference_options){.decode = true}, &err);
    if (status == OK)
        status = run(&in, text, tokens, &t, &err);
    inference_close(&in);
    if (status != OK)
        fprintf(stderr, "quantizers: %s\n", err.text);
    else
        printf("gptq is below rtn on %zu of %zu linears (geometric mean of the ratio %.3f), below hqq on %zu (hqq to rtn %.3f)\n", t.gptq_below_rtn, t.linears,
               exp(t.log_gptq / (double)t.linears), t.gptq_below_hqq, exp(t.log_hqq / (double)t.linears));
    return status == OK ? 0 : status == ERR_INPUT ? 2 : 1;
}
