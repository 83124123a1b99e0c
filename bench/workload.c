/* workload.c: shapes, random weights, one training step, its arithmetic. */
#include "bench/workload.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "bench/roofline.h"
#include "cuda/device.h"
#include "cpu/level.h"
#include "quant_panel.h"

const struct shape smollm2_135m = {.name = "SmolLM2-135M", .C = 576, .L = 30, .H = 9, .KV = 3, .D = 64, .F = 1536, .V = 49152, .tied = true};
const struct shape llama_7b = {.name = "LLaMA-7B", .C = 4096, .L = 32, .H = 32, .KV = 32, .D = 128, .F = 11008, .V = 32000};
/* What LLM-Pruner's block-wise pruning by 20 % leaves of it. */
const struct shape llama_7b_pruned = {.name = "LLaMA-7B pruned 20 %", .C = 4096, .L = 32, .H = 32, .KV = 32, .D = 128, .F = 11008, .V = 32000,
                                      .pruned_from = 4, .pruned_to = 30, .pruned_H = 24, .pruned_KV = 24, .pruned_F = 8256};

enum compute best_compute(void)
{
    return strcmp(cpu_level_name(), "ref") != 0 && level()->bf16 ? COMPUTE_BF16 : COMPUTE_F32;
}

/* ---- weights ---- */

static uint64_t next_random(uint64_t *state) /* xorshift64 (Marsaglia 2003): fast, and any codes will do */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void random_bytes(void *bytes, size_t n, uint64_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    unsigned char *to = bytes;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = next_random(&state);
        memcpy(to + i, &word, n - i < 8 ? n - i : 8);
    }
}

/* -128 is no code of int8. */
static void mend_int8(int8_t *code, size_t n)
{
    for (size_t i = 0; i < n; i++)
        code[i] = code[i] == -128 ? 0 : code[i];
}

enum status random_matrix(struct qmat *q, uint64_t seed, struct err *err)
{
    const double rms = 0.02, rms_nf4 = 0.596, rms_int8 = 0.577; /* of uniform codes of largest value 1 */
    size_t n = q->rows * q->cols;
    if (q->format == FORMAT_F32 || q->format == FORMAT_BF16) {
        uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
        for (size_t i = 0; i < n; i++) { /* uniform: rms 1/sqrt(3) of the largest */
            real x = (real)(((double)(next_random(&state) >> 11) * 0x1p-52 - 1) * rms * sqrt(3));
            if (q->format == FORMAT_F32)
                ((real *)q->codes)[i] = x;
            else
                ((uint16_t *)q->codes)[i] = bf16_from_f32(x);
        }
        return OK;
    }
    if (q->double_quant || (q->format != FORMAT_NF4 && q->format != FORMAT_INT8))
        return err_set(err, ERR_INPUT, "no random weights in %s, want nf4, int8, bf16 or f32", format_info(q->format)->name);
    bool nf4 = q->format == FORMAT_NF4;
    size_t scales = nf4 ? (n + (size_t)q->block - 1) / (size_t)q->block : q->rows;
    random_bytes(q->codes, nf4 ? (n + 1) / 2 : n, seed);
    if (!nf4)
        mend_int8(q->codes, n);
    for (size_t i = 0; i < scales; i++)
        q->scales[i] = (float)(rms / (nf4 ? rms_nf4 : rms_int8));
    q->panels = quant_has_panels(q->format, q->block, q->rows, q->cols); /* a permutation of random codes is as random */
    return OK;
}

enum status random_matrices(struct device *device, struct qmat *q, size_t n, uint64_t seed, struct err *err)
{
    struct qmat here;
    struct arena memory = {0};
    quant_place(&here, q->format, q->block, q->double_quant, q->rows, q->cols, &memory);
    TRY(arena_commit(&memory, "a matrix", err));
    quant_place(&here, q->format, q->block, q->double_quant, q->rows, q->cols, &memory);
    enum status status = random_matrix(&here, seed, err);
    for (size_t i = 0; i < n && status == OK; i++)
        status = device_upload_matrix(device, &q[i], &here, err);
    arena_free(&memory);
    return status;
}

/* The bits of panels are as random as those of files. */
static enum status fill_matrix(const struct workload *w, struct qmat *q, uint64_t seed, struct err *err)
{
    return w->ops.device ? random_matrices(w->ops.device, q, 1, seed, err) : random_matrix(q, seed, err);
}

static enum status fill_reals(const struct workload *w, real *to, const real *from, size_t n, struct err *err)
{
    if (w->ops.device)
        return device_upload(w->ops.device, to, from, n * sizeof *to, err);
    memcpy(to, from, n * sizeof *to);
    return OK;
}

static enum status random_layers(struct workload *w, const real *ones, struct err *err)
{
    struct model *model = &w->model;
    size_t C = (size_t)model->config.hidden_size;
    TRY(fill_matrix(w, &model->embed, 1, err));
    for (int l = 0; l < model->plan.n_layers; l++) {
        TRY(fill_reals(w, model->layer[l].input_norm, ones, C, err));
        TRY(fill_reals(w, model->layer[l].post_norm, ones, C, err));
        for (int j = 0; j < LINEAR_COUNT; j++)
            TRY(fill_matrix(w, &model->layer[l].linear[j], (uint64_t)(l * LINEAR_COUNT + j + 2), err));
    }
    TRY(fill_reals(w, model->norm, ones, C, err));
    if (!model->config.tie_word_embeddings)
        return fill_matrix(w, &model->head, 1 << 20, err);
    model->head = model->embed;
    return OK;
}

static enum status random_model(struct workload *w, struct err *err)
{
    size_t C = (size_t)w->model.config.hidden_size, half = (size_t)w->model.config.head_dim / 2;
    real *row = malloc((C + half) * sizeof *row);
    if (!row)
        return err_set(err, ERR_MEMORY, "out of memory for a row");
    for (size_t i = 0; i < C; i++)
        row[i] = 1;
    enum status status = random_layers(w, row, err);
    model_config_inv_freq(&w->model.config, row);
    if (status == OK)
        status = fill_reals(w, w->model.inv_freq, row, half, err);
    free(row);
    return status;
}

/* ---- shapes ---- */

static enum status make_config(struct model_config *c, const struct shape *s, struct err *err)
{
    TRY(model_config_alloc(c, s->L, err));
    c->vocab_size = s->V;
    c->hidden_size = s->C;
    c->head_dim = s->D;
    c->tie_word_embeddings = s->tied;
    c->max_position_embeddings = 2048;
    for (int32_t l = 0; l < s->L; l++) {
        bool pruned = l >= s->pruned_from && l < s->pruned_to;
        c->num_attention_heads[l] = pruned ? s->pruned_H : s->H;
        c->num_key_value_heads[l] = pruned ? s->pruned_KV : s->KV;
        c->intermediate_size[l] = pruned ? s->pruned_F : s->F;
    }
    return OK;
}

static void set_formats(struct plan *plan, const struct workload_options *o)
{
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            plan->layer[l].linear[j] = (struct plan_linear){.format = l % 2 ? o->odd : o->even, .rank = o->rank, .alpha = 2.0f * (float)o->rank};
}

static enum status make_weights(struct workload *w, const struct shape *shape, const struct workload_options *o, struct err *err)
{
    struct model_config config = {0};
    struct plan plan = {0};
    enum status status = make_config(&config, shape, err);
    if (status == OK)
        status = plan_new(&plan, &config, o->even, err);
    if (status == OK) {
        set_formats(&plan, o);
        status = model_shape(&w->model, &config, &plan, err);
    }
    plan_free(&plan);
    model_config_free(&config);
    TRY(status);
    model_place(&w->model, o->embed, &w->weights);
    TRY(model_commit(&w->ops, &w->weights, "weights", err));
    model_place(&w->model, o->embed, &w->weights);
    return random_model(w, err);
}

/* ---- adapters, data, activations ---- */

static enum status make_adapters(struct workload *w, bool training, struct err *err)
{
    uint64_t state = 88172645463325252u;
    lora_place(&w->lora, &w->model.plan, &w->model.config, training, &w->adapters);
    TRY(model_commit(&w->ops, &w->adapters, "adapters", err));
    lora_place(&w->lora, &w->model.plan, &w->model.config, training, &w->adapters);
    real *here = calloc(w->lora.n + 1, sizeof *here);
    if (!here)
        return err_set(err, ERR_MEMORY, "out of memory for adapters");
    for (int l = 0; l < w->model.plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) { /* B starts at 0, as PEFT's default */
            struct adapter *d = &w->lora.adapter[l][j];
            real *A = here + (d->A - w->lora.p);
            for (size_t i = 0; i < (size_t)d->r * d->in; i++)
                A[i] = (real)(((double)(next_random(&state) >> 11) * 0x1p-52 - 1) / sqrt((double)d->in));
        }
    enum status status = fill_reals(w, w->lora.p, here, w->lora.n, err);
    free(here);
    return status;
}

static void place_data(struct workload *w, const struct workload_options *o)
{
    struct dataset *d = &w->dataset;
    d->n = o->sequences;
    d->longest = (int32_t)o->length;
    d->example = arena_take(&w->data, d->n, sizeof *d->example);
    for (size_t i = 0; i < d->n; i++) {
        int32_t *tokens = arena_take(&w->data, o->length, sizeof *tokens), *labels = arena_take(&w->data, o->length, sizeof *labels);
        if (d->example)
            d->example[i] = (struct example){.tokens = tokens, .labels = labels, .n = (int32_t)o->length};
    }
    finetune_place(&w->finetune, d, (int64_t)o->sequences, 1, &w->data);
}

static enum status make_data(struct workload *w, const struct workload_options *o, struct err *err)
{
    uint64_t state = 362436069;
    place_data(w, o);
    TRY(arena_commit(&w->data, "data", err));
    place_data(w, o);
    for (size_t i = 0; i < w->dataset.n; i++) {
        struct example *e = &w->dataset.example[i];
        for (int32_t t = 0; t < e->n; t++)
            e->tokens[t] = (int32_t)(next_random(&state) % (uint64_t)w->model.config.vocab_size);
        for (int32_t t = 0; t < e->n; t++)
            e->labels[t] = t + 1 < e->n ? e->tokens[t + 1] : e->tokens[0]; /* all rows count, as in the arithmetic */
    }
    return OK;
}

static enum status make_run(struct workload *w, const struct workload_options *o, struct err *err)
{
    size_t rows = o->sequences * o->length;
    size_t scratch = model_scratch_size(&w->model, &w->ops, rows);
    arena_take(&w->scratch, scratch, sizeof(real));
    TRY(model_commit(&w->ops, &w->scratch, "kernel scratch", err));
    w->ops.scratch = arena_take(&w->scratch, scratch, sizeof(real));
    w->run = (struct model_run){.ops = &w->ops, .max_n = rows, .max_rank = (size_t)o->rank, .training = o->training, .keep = o->keep, .halves = true};
    TRY(model_run_place(&w->run, &w->model, &w->lora, &w->activations, err));
    TRY(model_commit(&w->ops, &w->activations, "activations", err));
    return model_run_place(&w->run, &w->model, &w->lora, &w->activations, err);
}

enum status workload_open(struct workload *w, const struct shape *shape, const struct workload_options *options, struct err *err)
{
    struct arena *there[] = {&w->weights, &w->adapters, &w->activations};
    memset(w, 0, sizeof *w);
    linalg_init();
    w->ops = (struct ops_context){.ops = options->device ? device_ops() : cpu_ops(false), .device = options->device, .threads = options->threads,
                                  .compute = options->device ? COMPUTE_BF16 : best_compute()};
    for (int i = 0; i < 3; i++)
        there[i]->tables = options->device ? &w->tables[i] : NULL;
    TRY(make_weights(w, shape, options, err));
    TRY(make_adapters(w, options->training, err));
    TRY(make_data(w, options, err));
    TRY(make_run(w, options, err));
    w->options = (struct finetune_options){.batch_size = (int64_t)options->sequences, .micro_batch_size = (int64_t)options->sequences, .label = ""};
    optim_default(&w->options.optim);
    w->options.optim.total_steps = 1000;
    return OK;
}

void workload_close(struct workload *w)
{
    struct arena *there[] = {&w->weights, &w->adapters, &w->activations, &w->scratch};
    model_free(&w->model);
    for (int i = 0; i < 4; i++)
        model_release(&w->ops, there[i]);
    arena_free(&w->data);
}

size_t workload_bytes(const struct workload *w)
{
    return w->weights.size + w->adapters.size + w->activations.size + w->scratch.size;
}

enum status workload_step(struct workload *w, double *loss, struct err *err)
{
    struct finetune_target target = {.lora = &w->lora};
    TRY(finetune_run(&w->finetune, &w->run, &w->model, &target, &w->dataset, 1, &w->options, err));
    *loss = w->finetune.curve[0].loss;
    return isfinite(*loss) ? OK : err_set(err, ERR_DIVERGED, "the loss of a random model is %g, want a number", *loss);
}

/* ---- arithmetic ---- */

struct arithmetic workload_arithmetic(const struct workload *w, size_t length)
{
    const struct model *m = &w->model;
    struct arithmetic a = {.head = 2.0 * (double)m->head.rows * (double)m->head.cols};
    for (int l = 0; l < m->plan.n_layers; l++) {
        const struct plan_layer *p = &m->plan.layer[l];
        for (int j = 0; j < LINEAR_COUNT; j++) {
            double out = (double)m->layer[l].linear[j].rows, in = (double)m->layer[l].linear[j].cols;
            a.linear += 2 * out * in;
            a.down += j == LINEAR_DOWN ? 2 * out * in : 0;
            a.lora += 2 * (double)p->linear[j].rank * (out + in);
        }
        /* row i of a sequence meets i + 1 keys: scores and values */
        a.attention += 2 * 2 * ((double)length + 1) / 2 * (double)p->heads * (double)m->config.head_dim;
    }
    return a;
}

double arithmetic_training(const struct arithmetic *a, bool keep)
{
    double kept = 2 * a->linear + 2 * a->head + 3.5 * a->attention + 3 * a->lora;
    return keep ? kept : kept + a->linear - a->down + a->attention + a->lora;
}

double arithmetic_prefill(const struct arithmetic *a, size_t length)
{
    return a->linear + a->attention + a->head / (double)length;
}
