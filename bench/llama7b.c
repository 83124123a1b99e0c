/* llama7b.c: real LoRA steps on a LLaMA-7B pruned by 20 %, quantized to 4 and 8 bits, in the memory of an ordinary machine.
 *
 *     build/bench/llama7b [--steps N] [--mode kept|recomputed] [--layers N] [--threads N] [--out DIR]
 *
 * Layers 4 to 29 have 24 heads and an FFN of 8256 as LLM-Pruner's block-wise pruning leaves them; layers take turns in nf4 and int8.  The weights are random
 * codes, made where they lie: no copy of the model in floats exists at any time.  Both modes, each in its own process: tokens a second, peak of resident memory. */
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

enum { SEQUENCES = 4, LENGTH = 256, RANK = 8 };

struct job {
    bool keep;
    int threads, steps;
    struct shape shape;
};

struct outcome {
    struct samples rate, peak; /* tokens a second, GF/s between steps */
    double bytes, parameters, weights, flops, loss;
};

static void measure_peak(struct samples *peak, int threads)
{
    samples_add(peak, peak_measure(level_has_bf16() ? PEAK_BF16 : PEAK_F32, threads));
}

static enum status train(const void *argument, void *result, struct err *err)
{
    const struct job *job = argument;
    struct outcome *o = result;
    struct workload w;
    struct workload_options options = {.even = FORMAT_NF4, .odd = FORMAT_INT8, .embed = FORMAT_INT8, .rank = RANK, .sequences = SEQUENCES,
                                       .length = LENGTH, .training = true, .keep = job->keep, .threads = job->threads};
    enum status status = workload_open(&w, &job->shape, &options, err);
    measure_peak(&o->peak, job->threads);
    for (int i = 0; status == OK && i < job->steps; i++) {
        double start = bench_clock_s();
        status = workload_step(&w, &o->loss, err);
        double spent = bench_clock_s() - start;
        samples_add(&o->rate, SEQUENCES * LENGTH / spent);
        measure_peak(&o->peak, job->threads);
        fprintf(stderr, "%s, step %d: %.1f s, loss %.3f\n", job->keep ? "kept" : "recomputed", i + 1, spent, o->loss);
    }
    if (status == OK) {
        struct arithmetic a = workload_arithmetic(&w, LENGTH);
        o->flops = arithmetic_training(&a, job->keep);
        o->parameters = (double)plan_parameters(&w.model.plan, &w.model.config);
        o->weights = (double)w.weights.used;
        o->bytes = process_peak_bytes();
    }
    workload_close(&w);
    return status;
}

static const char *const columns[] = {"model", "parameters", "weights GB", "activations", "threads", "best tok/s", "median tok/s", "goal tok/s",
                                      "% of limit", "peak RSS GB", "goal GB", "met"};

static void print_row(struct table *table, const struct job *job, const struct outcome *o)
{
    bool whole = job->shape.L == llama_7b_pruned.L;
    double rate = samples_best(&o->rate), goal = (job->keep ? 15 : 11.5) * (level_has_bf16() ? 1 : 0.5), memory = job->keep ? 9 : 6.5;
    table_text(table, "%s", job->shape.name);
    table_text(table, "%.2f B", o->parameters / 1e9);
    table_number(table, o->weights / 1e9, 2);
    table_text(table, job->keep ? "kept" : "recomputed");
    table_number(table, job->threads, 0);
    table_number(table, rate, 2);
    table_number(table, samples_median(&o->rate), 2);
    table_number(table, whole ? goal : NAN, 2);
    table_number(table, 100 * rate * o->flops / 1e9 / samples_best(&o->peak), 1);
    table_number(table, o->bytes / 1e9, 2);
    table_number(table, whole ? memory : NAN, 1);
    if (whole)
        table_yes_no(table, rate >= goal && o->bytes / 1e9 <= memory);
    else
        table_text(table, "fewer layers");
}

static enum status run(struct job *job, const char *mode, const char *dir, struct err *err)
{
    struct table table;
    enum status status = OK;
    TRY(cpu_check(err));
    table_open(&table, "llama7b", "A LoRA step of LLaMA-7B pruned by 20 %, nf4 and int8 in turns, r 8, 4 x 256 tokens", columns,
               sizeof columns / sizeof *columns);
    for (int keep = 0; keep < 2 && status == OK; keep++) {
        struct outcome outcome = {0};
        if (mode && strcmp(mode, keep ? "kept" : "recomputed") != 0)
            continue;
        job->keep = keep;
        status = child_run(train, job, &outcome, sizeof outcome, err);
        if (status == OK)
            print_row(&table, job, &outcome);
    }
    if (status == OK)
        status = table_write(&table, dir, err);
    table_free(&table);
    return status;
}

int main(int argc, char **argv)
{
    struct job job = {.threads = omp_get_num_procs(), .steps = 2, .shape = llama_7b_pruned};
    const char *mode = NULL, *dir = "build/bench";
    struct err err = {.text = ""};
    bool right = argc % 2 == 1;
    for (int i = 1; right && i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--steps") == 0)
            job.steps = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--mode") == 0)
            mode = argv[i + 1];
        else if (strcmp(argv[i], "--layers") == 0)
            job.shape.L = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--threads") == 0)
            job.threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--out") == 0)
            dir = argv[i + 1];
        else
            right = false;
    }
    bool known = !mode || strcmp(mode, "kept") == 0 || strcmp(mode, "recomputed") == 0;
    if (!right || !known || job.threads < 1 || job.steps < 1 || job.steps > SAMPLES_MOST || job.shape.L < 1 || job.shape.L > llama_7b_pruned.L) {
        fprintf(stderr, "usage: llama7b [--steps N] [--mode kept|recomputed] [--layers 1..32] [--threads N] [--out DIR]\n");
        return ERR_INPUT;
    }
    enum status status = run(&job, mode, dir, &err);
    if (status != OK)
        fprintf(stderr, "llama7b: %s\n", err.text);
    return (int)status;
}
