/* program.c: whole programs on the shapes of SmolLM2-135M: decoding, a prompt, training steps, evaluation, opening a file.
 *
 *     build/bench/program [--only WORD] [--threads N] [--out DIR]
 *
 * Random weights in their formats (workload.h), the code that users run (generate.h, finetune.h, model.h).  Each row is a process of its own, which measures
 * its peak of resident memory first and then takes turns with the limit that the row is held against. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bench/child.h"
#include "bench/roofline.h"
#include "bench/samples.h"
#include "bench/table.h"
#include "bench/workload.h"
#include "generate.h"
#include "inference.h"

static const char default_model[] = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf";
enum { LENGTH = 256, SEQUENCES = 4, RANK = 16, CONTEXT = 128, TOKENS = 64, ROUNDS_LEAST = 3, ROUNDS_MOST = 12 };
enum { READ_BYTES = 384 << 20 };

struct job {
    enum format format; /* of the linears */
    enum format embed;
    bool keep;
    int threads;
    bool fast; /* a prompt with 8-bit activations */
};

struct outcome {
    struct samples rate;    /* tokens a second (opening: 1 / seconds) */
    struct samples limit;   /* tokens a second at the limit, measured between the repeats */
    double bytes;           /* peak of resident memory before the limit was measured */
    struct samples other;   /* a second rate (evaluation: label tokens) */
    uint64_t bits;          /* a checksum of what was computed */
};

static double peak_now(int threads)
{
    return 1e9 * peak_measure(level_has_bf16() ? PEAK_BF16 : PEAK_F32, threads);
}

static enum compute compute_of(const struct job *job)
{
    return job->fast ? COMPUTE_INT8 : best_compute();
}

/* Whether to go for another round: three at least, a dozen at most, some 8 s. */
static bool again(int i, double start)
{
    double spent = bench_clock_s() - start;
    return i < ROUNDS_MOST && (i == 0 || (i < ROUNDS_LEAST ? spent < 40 : spent < 8));
}

static enum status open_workload(struct workload *w, const struct job *job, size_t sequences, int32_t rank, bool training, struct err *err)
{
    struct workload_options options = {.even = job->format, .odd = job->format, .embed = job->embed, .rank = rank, .sequences = sequences,
                                       .length = LENGTH, .training = training, .keep = job->keep, .threads = job->threads};
    return workload_open(w, &smollm2_135m, &options, err);
}

/* ---- decoding and a prompt: generate.h ---- */

static enum status decode_tokens(struct generator *g, const int32_t *prompt, double *rate, struct err *err)
{
    g->cache.n = 0;
    TRY(generator_feed(g, prompt, CONTEXT, err));
    double start = bench_clock_s();
    for (int i = 0; i < TOKENS; i++) {
        int32_t token;
        TRY(generator_sample(g, &token, err));
        TRY(generator_feed(g, &token, 1, err));
    }
    *rate = TOKENS / (bench_clock_s() - start);
    return OK;
}

static enum status measure_decode(struct workload *w, struct generator *g, int threads, struct outcome *o, struct err *err)
{
    struct read_buffer buffer;
    double rate, bytes = generator_weight_bytes(&w->model);
    const int32_t *prompt = w->dataset.example[0].tokens;
    TRY(decode_tokens(g, prompt, &rate, err));
    o->bytes = process_peak_bytes();
    TRY(read_buffer_open(&buffer, READ_BYTES, err));
    double start = bench_clock_s();
    for (int i = 0; again(i, start); i++) {
        for (int j = 0; j < 3; j++)
            samples_add(&o->limit, 1e9 * read_measure(&buffer, buffer.n, threads) / bytes);
        TRY(decode_tokens(g, prompt, &rate, err));
        samples_add(&o->rate, rate);
    }
    read_buffer_close(&buffer);
    return OK;
}

static enum status measure_prompt(struct workload *w, struct generator *g, int threads, struct outcome *o, struct err *err)
{
    struct arithmetic a = workload_arithmetic(w, LENGTH);
    double flops = arithmetic_prefill(&a, LENGTH);
    TRY(generator_feed(g, w->dataset.example[0].tokens, LENGTH, err));
    o->bytes = process_peak_bytes();
    double begin = bench_clock_s();
    for (int i = 0; again(i, begin); i++)
        for (int j = 0; j < 3; j++) {
            samples_add(&o->limit, peak_now(threads) / flops);
            g->cache.n = 0;
            double start = bench_clock_s();
            TRY(generator_feed(g, w->dataset.example[0].tokens, LENGTH, err));
            samples_add(&o->rate, LENGTH / (bench_clock_s() - start));
        }
    return OK;
}

static enum status generating(const struct job *job, bool prompt, struct outcome *o, struct err *err)
{
    struct workload w;
    struct generator g = {0};
    enum status status = open_workload(&w, job, 1, 0, false, err);
    if (status == OK) {
        arena_free(&w.activations); /* the generator has its own */
        w.ops.compute = compute_of(job);
        status = generator_open(&g, &w.model, NULL, LENGTH + 1, FORMAT_F16, &w.ops, err);
    }
    if (status == OK)
        status = prompt ? measure_prompt(&w, &g, job->threads, o, err) : measure_decode(&w, &g, job->threads, o, err);
    generator_close(&g);
    workload_close(&w);
    return status;
}

static enum status decoding(const void *job, void *outcome, struct err *err)
{
    return generating(job, false, outcome, err);
}

static enum status prompting(const void *job, void *outcome, struct err *err)
{
    return generating(job, true, outcome, err);
}

/* ---- training: finetune.h ---- */

/* FNV-1a over the adapters' bits. */
static uint64_t checksum(const void *bytes, size_t n)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        sum = (sum ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
    return sum;
}

static enum status training(const void *argument, void *result, struct err *err)
{
    const struct job *job = argument;
    struct outcome *o = result;
    struct workload w;
    double loss;
    enum status status = open_workload(&w, job, SEQUENCES, RANK, true, err);
    if (status == OK)
        status = workload_step(&w, &loss, err);
    if (status == OK)
        o->bits = checksum(w.lora.p, w.lora.n * sizeof *w.lora.p);
    o->bytes = process_peak_bytes();
    struct arithmetic a = {0};
    if (status == OK)
        a = workload_arithmetic(&w, LENGTH);
    double begin = bench_clock_s(), flops = arithmetic_training(&a, job->keep);
    for (int i = 0; status == OK && again(i, begin); i++) {
        for (int j = 0; j < 3; j++)
            samples_add(&o->limit, peak_now(job->threads) / flops);
        double start = bench_clock_s();
        status = workload_step(&w, &loss, err);
        samples_add(&o->rate, SEQUENCES * LENGTH / (bench_clock_s() - start));
    }
    workload_close(&w);
    return status;
}

/* ---- evaluation: documents as evaluate.c lays them out ---- */

/* Mean rows of a document of each of the seven tasks: what its choices share, the choices, tokens of a choice. */
static const struct {
    int32_t prefix, choices, len;
} documents[] = {{135, 2, 2} /* boolq */, {14, 2, 24} /* piqa */, {56, 4, 32} /* hellaswag */, {18, 2, 8} /* winogrande */,
                 {28, 4, 6} /* arc_easy */, {31, 4, 8} /* arc_challenge */, {14, 4, 5} /* openbookqa */};

struct documents {
    struct batch batch;
    int32_t tokens[SEQUENCES * LENGTH], positions[SEQUENCES * LENGTH], labels[SEQUENCES * LENGTH];
    struct segment segments[SEQUENCES * LENGTH];
    size_t labelled, fed; /* rows with a label; rows that a harness without shared prefixes computes */
};

static void add_run(struct documents *d, int32_t len, int32_t prefix_start, int32_t prefix_len, bool labelled)
{
    size_t row = d->batch.n;
    d->segments[d->batch.n_segments++] = (struct segment){.start = (int32_t)row, .len = len, .prefix_start = prefix_start, .prefix_len = prefix_len};
    for (int32_t t = 0; t < len; t++, row++) {
        d->tokens[row] = (int32_t)(row * 7919 % 49152);
        d->positions[row] = prefix_len + t;
        d->labels[row] = labelled ? (int32_t)(row * 104729 % 49152) : -1;
    }
    d->batch.n = row;
    d->labelled += labelled ? (size_t)len : 0;
    d->fed += labelled ? (size_t)(prefix_len + len) : 0;
}

/* As many documents as fit into a batch. */
static void lay_out_documents(struct documents *d)
{
    memset(d, 0, sizeof *d);
    d->batch.tokens = d->tokens;
    d->batch.positions = d->positions;
    d->batch.labels = d->labels;
    d->batch.segments = d->segments;
    for (size_t i = 0;; i++) {
        size_t k = i % (sizeof documents / sizeof *documents);
        int32_t prefix = documents[k].prefix, start = (int32_t)d->batch.n;
        if (d->batch.n + (size_t)(prefix + documents[k].choices * documents[k].len) > SEQUENCES * LENGTH)
            return;
        add_run(d, prefix, 0, 0, false);
        for (int c = 0; c < documents[k].choices; c++)
            add_run(d, documents[k].len, start, prefix, true);
    }
}

static enum status evaluating(const void *argument, void *result, struct err *err)
{
    const struct job *job = argument;
    struct outcome *o = result;
    struct workload w;
    double sum;
    size_t count;
    struct documents *d = malloc(sizeof *d);
    if (!d)
        return err_set(err, ERR_MEMORY, "out of memory for documents");
    enum status status = open_workload(&w, job, SEQUENCES, RANK, false, err);
    lay_out_documents(d);
    if (status == OK)
        status = model_score(&w.run, &w.model, &w.lora, &d->batch, NULL, NULL, &sum, &count, err);
    o->bytes = process_peak_bytes();
    struct arithmetic a = {0};
    if (status == OK)
        a = workload_arithmetic(&w, 64);
    double begin = bench_clock_s(), n = (double)d->batch.n;
    double flops = a.linear + a.attention + a.lora + a.head * (double)d->labelled / n;
    for (int i = 0; status == OK && again(i, begin); i++) {
        samples_add(&o->limit, peak_now(job->threads) / flops);
        double start = bench_clock_s();
        status = model_score(&w.run, &w.model, &w.lora, &d->batch, NULL, NULL, &sum, &count, err);
        double spent = bench_clock_s() - start;
        samples_add(&o->rate, n / spent);
        samples_add(&o->other, (double)d->fed / spent);
    }
    free(d);
    workload_close(&w);
    return status;
}

/* ---- opening a file ---- */

static enum status first_token(const struct job *job, struct err *err)
{
    struct inference in;
    struct generator g = {0};
    struct inference_options options = {.threads = job->threads, .compute = best_compute()};
    int32_t token;
    static const int32_t prompt[] = {1, 504, 3575, 282, 4649, 314};
    enum status status = inference_open(&in, default_model, &options, err);
    if (status == OK)
        status = generator_open(&g, &in.model, NULL, LENGTH, FORMAT_F16, &in.ops, err);
    if (status == OK)
        status = generator_feed(&g, prompt, sizeof prompt / sizeof *prompt, err);
    if (status == OK)
        status = generator_sample(&g, &token, err);
    generator_close(&g);
    inference_close(&in);
    return status;
}

static enum status opening(const void *job, void *outcome, struct err *err)
{
    struct outcome *o = outcome;
    TRY(first_token(job, err)); /* the file is in memory after this */
    o->bytes = process_peak_bytes();
    for (int i = 0; i < 5; i++) {
        double start = bench_clock_s();
        TRY(first_token(job, err));
        samples_add(&o->rate, 1 / (bench_clock_s() - start));
    }
    return OK;
}

/* ---- the table ---- */

static const char *const columns[] = {"what", "weights", "threads", "figure", "best", "median", "unit", "limit", "% of limit", "goal", "met"};

struct row {
    const char *what, *weights;
    int threads;
    const struct outcome *o;
};

/* A rate against its limit; goals of 0 are none: the least share of the limit, the least rate. */
static void rate_row(struct table *t, const struct row *r, double share, double rate)
{
    double best = samples_best(&r->o->rate), limit = samples_best(&r->o->limit), is = best / limit;
    table_text(t, "%s", r->what);
    table_text(t, "%s", r->weights);
    table_number(t, r->threads, 0);
    table_text(t, "speed");
    table_number(t, best, 1);
    table_number(t, samples_median(&r->o->rate), 1);
    table_text(t, "tok/s");
    table_number(t, limit, 1);
    table_number(t, 100 * is, 1);
    if (share > 0 && rate > 0)
        table_text(t, ">= %.0f %%, >= %.0f tok/s", 100 * share, rate);
    else if (share > 0)
        table_text(t, ">= %.0f %%", 100 * share);
    else if (rate > 0)
        table_text(t, ">= %.0f tok/s", rate);
    else
        table_text(t, "%s", "");
    if (share > 0 || rate > 0)
        table_yes_no(t, is >= share && best >= rate);
    else
        table_text(t, "%s", "");
}

/* Any other figure; at_most: smaller is better; goal NaN: none. */
static void figure_row(struct table *t, const struct row *r, const char *figure, const char *unit, double value, double goal, bool at_most)
{
    table_text(t, "%s", r->what);
    table_text(t, "%s", r->weights);
    table_number(t, r->threads, 0);
    table_text(t, "%s", figure);
    table_number(t, value, 2);
    table_text(t, "%s", "");
    table_text(t, "%s", unit);
    table_text(t, "%s", "");
    table_text(t, "%s", "");
    if (isnan(goal)) {
        table_text(t, "%s", "");
        table_text(t, "%s", "");
        return;
    }
    table_text(t, "%s %.2f %s", at_most ? "<=" : ">=", goal, unit);
    table_yes_no(t, at_most ? value <= goal : value >= goal);
}

static void memory_row(struct table *t, const struct row *r, double goal)
{
    figure_row(t, r, "peak RSS", "GB", r->o->bytes / 1e9, goal, true);
}

struct settings {
    const char *only, *dir;
    int threads;
};

static bool wanted(const struct settings *s, const char *what)
{
    return !s->only || strstr(what, s->only);
}

static void tell(const char *what)
{
    fprintf(stderr, "program: %s\n", what);
}

/* Runs work in a child and fills the row; false when it failed or is not wanted (*status says which). */
static bool measure(const struct settings *s, enum status (*work)(const void *, void *, struct err *), const struct job *job, struct row *row,
                    struct outcome *o, enum status *status, struct err *err)
{
    if (*status != OK || !wanted(s, row->what))
        return false;
    tell(row->what);
    memset(o, 0, sizeof *o);
    row->o = o;
    row->threads = job->threads;
    *status = child_run(work, job, o, sizeof *o, err);
    return *status == OK;
}

static enum status decode_rows(const struct settings *s, struct table *t, struct err *err)
{
    static const struct {
        const char *name;
        enum format format;
        double share;
    } set[] = {{"nf4", FORMAT_NF4, 0.85}, {"int8", FORMAT_INT8, 0.80}};
    enum status status = OK;
    struct outcome o;
    for (int i = 0; i < 2; i++)
        for (int threads = 1; threads <= s->threads; threads += s->threads > 1 ? s->threads - 1 : 1) {
            struct job job = {.format = set[i].format, .embed = set[i].format, .threads = threads};
            struct row row = {.what = "decode, context 128 to 192", .weights = set[i].name};
            if (!measure(s, decoding, &job, &row, &o, &status, err))
                continue;
            rate_row(t, &row, threads == s->threads ? set[i].share : 0, 0);
            if (threads == s->threads)
                memory_row(t, &row, NAN);
        }
    return status;
}

static enum status prompt_rows(const struct settings *s, struct table *t, struct err *err)
{
    enum status status = OK;
    struct outcome o;
    struct row row = {.what = "prompt of 256 tokens", .weights = "nf4"};
    struct job job = {.format = FORMAT_NF4, .embed = FORMAT_NF4, .threads = s->threads};
    if (measure(s, prompting, &job, &row, &o, &status, err))
        rate_row(t, &row, 0.72, level_has_bf16() ? 1500 : 750);
    row.what = "prompt of 256 tokens, fast (int8)";
    job.fast = true;
    if (level_has_int8() && measure(s, prompting, &job, &row, &o, &status, err))
        rate_row(t, &row, 0, 2000);
    return status;
}

/* Both modes, and one thread beside all for the scaling and the bits. */
static enum status training_rows(const struct settings *s, struct table *t, struct err *err)
{
    enum status status = OK;
    struct outcome o, one;
    for (int keep = 1; keep >= 0; keep--) {
        struct row row = {.what = keep ? "training 4 x 256, r 16, kept" : "training 4 x 256, r 16, recomputed", .weights = "nf4"};
        struct job job = {.format = FORMAT_NF4, .embed = FORMAT_INT8, .keep = keep, .threads = s->threads}, single = job;
        if (!measure(s, training, &job, &row, &o, &status, err))
            continue;
        rate_row(t, &row, keep ? 0.65 : 0.68, 0);
        memory_row(t, &row, keep ? 0.75 : 0.40);
        single.threads = 1;
        if (!keep || s->threads < 2 || !measure(s, training, &single, &row, &one, &status, err))
            continue;
        rate_row(t, &row, 0, 0);
        row.threads = s->threads;
        figure_row(t, &row, "against 1 thread", "x", samples_best(&o.rate) / samples_best(&one.rate), s->threads == 2 ? 1.85 : NAN, false);
        figure_row(t, &row, "same bits as 1 thread", "", o.bits == one.bits, 1, false);
    }
    return status;
}

static enum status evaluation_rows(const struct settings *s, struct table *t, struct err *err)
{
    enum status status = OK;
    struct outcome o;
    struct row row = {.what = "evaluation, seven tasks", .weights = "nf4"};
    struct job job = {.format = FORMAT_NF4, .embed = FORMAT_INT8, .threads = s->threads};
    if (!measure(s, evaluating, &job, &row, &o, &status, err))
        return status;
    rate_row(t, &row, 0, level_has_bf16() ? 1200 : 600);
    figure_row(t, &row, "speed, shared prefixes counted for each choice", "tok/s", samples_best(&o.other), NAN, false);
    memory_row(t, &row, NAN);
    return OK;
}

static enum status opening_rows(const struct settings *s, struct table *t, struct err *err)
{
    enum status status = OK;
    struct outcome o;
    struct row row = {.what = "opening a GGUF of 98 MB to the first token", .weights = "q4_1"};
    struct job job = {.threads = s->threads};
    FILE *f = fopen(default_model, "re");
    if (!f) {
        if (wanted(s, row.what))
            figure_row(t, &(struct row){.what = row.what, .weights = "file absent", .threads = s->threads}, "time", "s", NAN, NAN, true);
        return OK;
    }
    fclose(f);
    if (!measure(s, opening, &job, &row, &o, &status, err))
        return status;
    figure_row(t, &row, "time, the file in memory", "s", 1 / samples_best(&o.rate), 0.5, true);
    memory_row(t, &row, NAN);
    return OK;
}

static enum status run(const struct settings *s, struct err *err)
{
    static enum status (*const rows[])(const struct settings *, struct table *, struct err *) = {decode_rows, prompt_rows, training_rows,
                                                                                                 evaluation_rows, opening_rows};
    struct table table;
    enum status status = OK;
    TRY(cpu_check(err));
    table_open(&table, "program", "Whole programs on the shapes of SmolLM2-135M", columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < sizeof rows / sizeof *rows && status == OK; i++)
        status = rows[i](s, &table, err);
    text_printf(&table.notes, "Limits: decoding, the read bandwidth of the same minute over the bytes that a token reads; the others, the %s peak of the same "
                              "minute over the arithmetic of a token.\n", level_has_bf16() ? "bf16" : "fp32");
    if (status == OK)
        status = table_write(&table, s->dir, err);
    table_free(&table);
    return status;
}

int main(int argc, char **argv)
{
    struct settings s = {.threads = omp_get_num_procs(), .dir = "build/bench"};
    struct err err = {.text = ""};
    bool right = argc % 2 == 1;
    for (int i = 1; right && i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--only") == 0)
            s.only = argv[i + 1];
        else if (strcmp(argv[i], "--threads") == 0)
            s.threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--out") == 0)
            s.dir = argv[i + 1];
        else
            right = false;
    }
    if (!right || s.threads < 1) {
        fprintf(stderr, "usage: program [--only WORD] [--threads N] [--out DIR]\n");
        return ERR_INPUT;
    }
    enum status status = run(&s, &err);
    if (status != OK)
        fprintf(stderr, "program: %s\n", err.text);
    return (int)status;
}
