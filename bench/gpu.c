/* gpu.c: LoRA steps, decoding and products with one row on a GPU, beside what its data sheet allows on paper, and the memory taken beside the planned.
 *
 *     build/release-cuda/bench/gpu [--toy] [--only training|decoding|products] [--tokens N] [--steps N] [--bandwidth GB/s] [--tensor TFLOP/s] [--out DIR]
 *
 * One table, to be pasted into docs/results/gpu.md.  --toy: shapes of a hundred numbers, to see the program run where nothing is to be measured.
 * Weights are random and made in their formats.  A step goes through model.h and optim.h as train does; memory is counted by the code that places it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bench/paper.h"
#include "bench/roofline.h"
#include "bench/samples.h"
#include "bench/table.h"
#include "bench/workload.h"
#include "cuda/device.h"
#include "generate.h"

enum { RANK = 16, LENGTH = 512, TOY_LENGTH = 16, CONTEXT = 128, DECODED = 64, COPIES_MOST = 64, POOL = 256 << 20 };

static const struct shape toy = {.name = "toy", .C = 128, .L = 2, .H = 2, .KV = 1, .D = 64, .F = 160, .V = 97};

struct settings {
    struct device *device;
    struct card card;
    bool toy;
    size_t tokens;
    int steps;
    const char *only, *dir;
};

/* What a row of the table says; numbers that are not known are NaN. */
struct figures {
    struct samples rate;
    double bound;           /* in the rate's unit */
    double planned, taken;  /* bytes of the device */
};

/* ---- the table ---- */

static const char *const columns[] = {"what", "model", "weights", "best", "median", "unit", "bound", "% of bound", "goal %", "met", "planned GB", "taken GB"};

static void print_row(struct table *t, const char *what, const char *model, const char *weights, const char *unit, const struct figures *f, double goal)
{
    double best = samples_best(&f->rate), share = 100 * best / f->bound;
    int digits = best < 100 ? 2 : 0;
    table_text(t, "%s", what);
    table_text(t, "%s", model);
    table_text(t, "%s", weights);
    table_number(t, best, digits);
    table_number(t, samples_median(&f->rate), digits);
    table_text(t, "%s", unit);
    table_number(t, f->bound, f->bound < 100 ? 2 : 0);
    table_number(t, share, 1);
    table_number(t, goal, 0);
    table_text(t, "%s", isnan(share) ? "" : share >= goal ? "yes" : "no");
    table_number(t, f->planned / 1e9, 3);
    table_number(t, f->taken / 1e9, 3);
}

static bool wanted(const struct settings *s, const char *part)
{
    return !s->only || strcmp(s->only, part) == 0;
}

static enum status available(const struct settings *s, double *bytes, struct err *err)
{
    size_t total, now;
    TRY(device_memory(s->device, &total, &now, err));
    *bytes = (double)now;
    return OK;
}

/* What does not fit on this card is a note, not the end. */
static enum status unless_too_large(struct table *t, enum status status, const char *what, struct err *err)
{
    if (status != ERR_MEMORY)
        return status;
    text_printf(&t->notes, "%s does not fit: %s\n\n", what, err->text);
    return OK;
}

/* ---- a training step ---- */

static struct batch fill_batch(struct workload *w)
{
    struct finetune *f = &w->finetune;
    struct batch batch = {.tokens = f->tokens, .positions = f->positions, .labels = f->labels, .segments = f->segments, .n_segments = w->dataset.n};
    for (size_t i = 0; i < w->dataset.n; i++) {
        const struct example *e = &w->dataset.example[i];
        f->segments[i] = (struct segment){.start = (int32_t)batch.n, .len = e->n};
        for (int32_t k = 0; k < e->n; k++, batch.n++) {
            f->tokens[batch.n] = e->tokens[k];
            f->labels[batch.n] = e->labels[k];
            f->positions[batch.n] = k;
        }
    }
    return batch;
}

static enum status step(struct workload *w, const struct batch *batch, int k, struct err *err)
{
    double sum, norm;
    size_t count;
    struct lora *l = &w->lora;
    device_zero(w->ops.device, l->g, l->n * sizeof *l->g);
    TRY(model_train(&w->run, &w->model, l, NULL, batch, 1 / (real)batch->n, (uint32_t)k, &sum, &count, err));
    TRY(optim_step(&w->options.optim, &w->ops, k, l->p, l->g, l->m, l->v, l->n, &norm, err));
    return device_check(w->ops.device, err);
}

/* The first step is not counted: cuBLAS loads its kernels. */
static enum status train(const struct settings *s, struct workload *w, size_t length, double before, struct figures *f, struct err *err)
{
    struct batch batch = fill_batch(w);
    double now;
    for (int k = 0; k <= s->steps; k++) {
        double start = bench_clock_s();
        TRY(step(w, &batch, k, err));
        if (k > 0)
            samples_add(&f->rate, (double)batch.n / (bench_clock_s() - start));
    }
    TRY(available(s, &now, err));
    f->taken = before - now + (double)device_own_bytes();
    f->planned = (double)(workload_bytes(w) + device_own_bytes());
    f->bound = (double)batch.n / paper_step_s(&s->card, w, (double)batch.n, length);
    return OK;
}

static enum status training_row(const struct settings *s, struct table *t, const struct shape *shape, bool keep, struct err *err)
{
    size_t most = s->toy ? TOY_LENGTH : LENGTH, length = s->tokens < most ? s->tokens : most;
    struct workload_options options = {.even = FORMAT_NF4, .odd = FORMAT_NF4, .embed = FORMAT_BF16, .rank = RANK, .sequences = s->tokens / length, .length = length,
                                       .training = true, .keep = keep, .threads = 1, .device = s->device};
    struct workload w;
    struct figures f = {.bound = NAN};
    char what[96];
    double before;
    TRY(available(s, &before, err));
    snprintf(what, sizeof what, "training, %zu x %zu tokens, r %d, %s", options.sequences, length, RANK, keep ? "kept" : "recomputed");
    enum status status = workload_open(&w, shape, &options, err);
    if (status == OK)
        status = train(s, &w, length, before, &f, err);
    workload_close(&w);
    if (status == OK)
        print_row(t, what, shape->name, "nf4", "tok/s", &f, 60);
    return unless_too_large(t, status, what, err);
}

/* ---- decoding ---- */

static enum status decode(const struct settings *s, struct workload *w, struct generator *g, struct figures *rate, struct figures *bytes, struct err *err)
{
    double a_token = paper_token_bytes(&w->model, CONTEXT + DECODED / 2.0);
    for (int k = 0; k <= s->steps; k++) {
        g->cache.n = 0;
        TRY(generator_feed(g, w->dataset.example[0].tokens, CONTEXT, err));
        double start = bench_clock_s();
        for (int i = 0; i < DECODED; i++) {
            int32_t token;
            TRY(generator_sample(g, &token, err));
            TRY(generator_feed(g, &token, 1, err));
        }
        double seconds = (bench_clock_s() - start) / DECODED;
        if (k > 0) {
            samples_add(&rate->rate, 1 / seconds);
            samples_add(&bytes->rate, a_token / seconds / 1e9);
        }
    }
    bytes->bound = s->card.bandwidth > 0 ? s->card.bandwidth / 1e9 : NAN;
    rate->bound = bytes->bound * 1e9 / a_token;
    return OK;
}

static enum status decoding_row(const struct settings *s, struct table *t, const struct shape *shape, struct err *err)
{
    struct workload_options options = {.even = FORMAT_NF4, .odd = FORMAT_NF4, .embed = FORMAT_BF16, .sequences = 1, .length = CONTEXT, .threads = 1, .device = s->device};
    struct workload w;
    struct generator g = {0};
    struct figures rate = {.bound = NAN}, bytes = {.bound = NAN, .planned = NAN, .taken = NAN};
    double before, now = 0;
    TRY(available(s, &before, err));
    enum status status = workload_open(&w, shape, &options, err);
    if (status == OK)
        status = generator_open(&g, &w.model, NULL, CONTEXT + DECODED, FORMAT_F16, &w.ops, err);
    if (status == OK)
        status = decode(s, &w, &g, &rate, &bytes, err);
    if (status == OK)
        status = available(s, &now, err);
    rate.taken = before - now + (double)device_own_bytes();
    rate.planned = (double)(workload_bytes(&w) + g.memory.size + device_own_bytes());
    generator_close(&g);
    workload_close(&w);
    if (status == OK) {
        print_row(t, "decoding, context 128 to 192", shape->name, "nf4", "tok/s", &rate, 80);
        print_row(t, "decoding, context 128 to 192", shape->name, "nf4", "GB/s", &bytes, 80);
    }
    return unless_too_large(t, status, "decoding", err);
}

/* ---- products with one row ---- */

/* Copies of a matrix, more than the last cache holds, met one after the other. */
struct pool {
    struct ops_context ops;
    struct qmat q[COPIES_MOST];
    size_t n, bytes; /* of one */
    real *x, *y;
    struct arena arena;
};

static void place_pool(struct pool *p, enum format format, size_t rows, size_t cols)
{
    for (size_t i = 0; i < p->n; i++)
        quant_place(&p->q[i], format, 0, false, rows, cols, &p->arena);
    p->x = arena_take(&p->arena, cols, sizeof *p->x);
    p->y = arena_take(&p->arena, rows, sizeof *p->y);
    p->ops.scratch = arena_take(&p->arena, p->ops.ops->scratch_size(&p->ops, rows, cols, 64, 1, 0), sizeof(real));
}

static enum status one_round(const struct pool *p, struct err *err)
{
    for (size_t i = 0; i < p->n; i++) {
        struct linear_args args = {.W = &p->q[i], .n = 1, .x = p->x, .y = p->y};
        p->ops.ops->linear_forward(&p->ops, &args, 1);
    }
    return device_check(p->ops.device, err);
}

static enum status measure_pool(const struct settings *s, struct pool *p, struct figures *f, struct err *err)
{
    int rounds = s->toy ? 1 : 10;
    for (int k = 0; k <= s->steps; k++) {
        double start = bench_clock_s();
        for (int i = 0; i < rounds; i++)
            TRY(one_round(p, err));
        if (k > 0)
            samples_add(&f->rate, (double)p->bytes * (double)p->n * rounds / (bench_clock_s() - start) / 1e9);
    }
    return OK;
}

static enum status product_row(const struct settings *s, struct table *t, size_t rows, size_t cols, enum format format, struct err *err)
{
    struct pool p = {.ops = {.ops = device_ops(), .device = s->device, .threads = 1, .compute = COMPUTE_BF16}};
    struct figures f = {.bound = s->card.bandwidth > 0 ? s->card.bandwidth / 1e9 : NAN, .planned = NAN, .taken = NAN};
    char shape[48];
    p.bytes = quant_bytes(format, format_info(format)->default_block, false, rows, cols);
    p.n = s->toy ? 2 : POOL / p.bytes + 1;
    p.n = p.n < COPIES_MOST ? p.n : COPIES_MOST;
    place_pool(&p, format, rows, cols);
    TRY(device_commit(s->device, &p.arena, "matrices", err));
    place_pool(&p, format, rows, cols);
    enum status status = random_matrices(s->device, p.q, p.n, 1, err);
    if (status == OK)
        status = measure_pool(s, &p, &f, err);
    device_release(s->device, &p.arena);
    snprintf(shape, sizeof shape, "%zu x %zu", rows, cols);
    if (status == OK)
        print_row(t, "product with one row", shape, format_info(format)->name, "GB/s", &f, 80);
    return status;
}

static enum status product_rows(const struct settings *s, struct table *t, struct err *err)
{
    static const enum format formats[] = {FORMAT_NF4, FORMAT_INT8, FORMAT_BF16};
    static const size_t shapes[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {32000, 4096}};
    for (size_t i = 0; i < (s->toy ? 1 : 4); i++)
        for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
            TRY(product_row(s, t, s->toy ? (size_t)toy.F : shapes[i][0], s->toy ? (size_t)toy.C : shapes[i][1], formats[f], err));
    return OK;
}

/* ---- the program ---- */

static enum status fill_table(const struct settings *s, struct table *t, struct err *err)
{
    const struct shape *const shapes[] = {s->toy ? &toy : &smollm2_135m, s->toy ? NULL : &llama_7b};
    for (size_t i = 0; i < 2 && shapes[i]; i++)
        for (int keep = 1; keep >= 0 && wanted(s, "training"); keep--)
            TRY(training_row(s, t, shapes[i], keep, err));
    for (size_t i = 0; i < 2 && shapes[i] && wanted(s, "decoding"); i++)
        TRY(decoding_row(s, t, shapes[i], err));
    return wanted(s, "products") ? product_rows(s, t, err) : OK;
}

static enum status run(struct settings *s, struct err *err)
{
    struct table table;
    char title[320];
    TRY(device_open(&s->device, err));
    struct card known = card_of(device_name(s->device));
    s->card.bandwidth = s->card.bandwidth > 0 ? s->card.bandwidth : known.bandwidth;
    s->card.tensor = s->card.tensor > 0 ? s->card.tensor : known.tensor;
    snprintf(title, sizeof title, "On the GPU %s", device_name(s->device));
    table_open(&table, "gpu", title, columns, sizeof columns / sizeof *columns);
    enum status status = fill_table(s, &table, err);
    if (s->card.bandwidth > 0)
        text_printf(&table.notes, "Bounds are on paper, from %.0f GB/s and %.0f TFLOP/s (data sheet): of a step the sum of its kernels' bounds at 80 %% of the bandwidth, "
                                  "60 %% of the tensor cores; of the others the bytes that are read, at the whole bandwidth.\n", s->card.bandwidth / 1e9, s->card.tensor / 1e12);
    else
        text_printf(&table.notes, "This card is not in the list of bench/paper.c: --bandwidth and --tensor say what its data sheet does.\n");
    if (status == OK)
        status = table_write(&table, s->dir, err);
    table_free(&table);
    device_close(s->device);
    return status;
}

static bool parse(int argc, char **argv, struct settings *s)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--toy") == 0) {
            s->toy = true;
            s->tokens = 32;
            s->steps = 1;
            continue;
        }
        if (!value)
            return false;
        i++;
        if (strcmp(a, "--only") == 0)
            s->only = value;
        else if (strcmp(a, "--out") == 0)
            s->dir = value;
        else if (strcmp(a, "--tokens") == 0)
            s->tokens = (size_t)atoi(value);
        else if (strcmp(a, "--steps") == 0)
            s->steps = atoi(value);
        else if (strcmp(a, "--bandwidth") == 0)
            s->card.bandwidth = 1e9 * atof(value);
        else if (strcmp(a, "--tensor") == 0)
            s->card.tensor = 1e12 * atof(value);
        else
            return false;
    }
    bool part = !s->only || strcmp(s->only, "training") == 0 || strcmp(s->only, "decoding") == 0 || strcmp(s->only, "products") == 0;
    return part && s->tokens >= 2 && s->tokens <= 1 << 20 && s->steps >= 1 && s->steps < SAMPLES_MOST && s->card.bandwidth >= 0 && s->card.tensor >= 0;
}

int main(int argc, char **argv)
{
    struct settings s = {.tokens = 4096, .steps = 10, .dir = "build/bench"};
    struct err err = {.text = ""};
    if (!parse(argc, argv, &s)) {
        fprintf(stderr, "usage: gpu [--toy] [--only training|decoding|products] [--tokens 2..1048576] [--steps 1..127] [--bandwidth GB/s] [--tensor TFLOP/s] [--out DIR]\n");
        return ERR_INPUT;
    }
    enum status status = run(&s, &err);
    if (status != OK)
        fprintf(stderr, "gpu: %s\n", err.text);
    return (int)status;
}
