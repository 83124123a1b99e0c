/* compare.c: a table of finished runs: accuracy of each task, bytes, and whether a run differs from a baseline by more than luck.
 *
 *   build/bench/compare BASELINE DIR...       folders that ./train wrote with the same tasks; BASELINE is one of them
 * All runs answered the same documents, so they are compared on these: McNemar's exact test on the documents that only one of two got right, and a bootstrap
 * interval of the difference of means (documents drawn anew within each task, 2000 times). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "io/json.h"

enum { TASKS = 8, MOST_DOCUMENTS = 20000, DRAWS = 2000, MOST_RUNS = 64 };
static const char *const task_name[TASKS] = {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "lambada"};
static const char *const task_metric[TASKS] = {"acc", "acc", "acc_norm", "acc", "acc", "acc_norm", "acc_norm", "acc"}; /* of the published tables */

struct run {
    const char *dir;
    size_t n[TASKS];          /* documents; 0: the task was not run */
    uint8_t *right[TASKS];
    double size, peak, seconds;
};

static enum status read_file(const char *dir, const char *name, char **text, size_t *n, struct err *err)
{
    char *path = path_join(dir, name);
    if (!path)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = file_read(path, 1 << 28, text, n, err);
    free(path);
    return status;
}

static enum status read_samples(struct run *run, int task, char *text, struct err *err)
{
    run->right[task] = calloc(MOST_DOCUMENTS, 1);
    if (!run->right[task])
        return err_set(err, ERR_MEMORY, "out of memory for documents");
    for (char *line = strtok(text, "\n"); line && run->n[task] < MOST_DOCUMENTS; line = strtok(NULL, "\n")) {
        char where[320];
        struct json *json;
        double right;
        snprintf(where, sizeof where, "%s/eval/samples_%s.jsonl:%zu", run->dir, task_name[task], run->n[task] + 1);
        TRY(json_parse(line, strlen(line), where, &json, err));
        enum status status = json_number(json, task_metric[task], where, &right, err);
        json_free(json);
        TRY(status);
        run->right[task][run->n[task]++] = right > 0.5;
    }
    return OK;
}

static enum status read_run_json(struct run *run, struct err *err)
{
    char *text;
    size_t n;
    struct json *json;
    const struct json *rows, *pick;
    TRY(read_file(run->dir, "run.json", &text, &n, err));
    enum status status = json_parse(text, n, "run.json", &json, err);
    free(text);
    TRY(status);
    status = json_number(json, "measured_peak_bytes", "run.json", &run->peak, err);
    if (status == OK)
        status = json_number(json, "seconds", "run.json", &run->seconds, err);
    json_free(json);
    TRY(status);
    TRY(read_file(run->dir, "eval/results.json", &text, &n, err));
    status = json_parse(text, n, "results.json", &json, err);
    free(text);
    TRY(status);
    rows = json_member(json, "rows");
    pick = rows ? json_member(rows, "pick") : NULL;
    status = pick ? json_number(pick, "size_bytes", "results.json", &run->size, err) : err_set(err, ERR_INPUT, "%s: results.json has no pick", run->dir);
    json_free(json);
    return status;
}

static enum status read_run(struct run *run, const char *dir, struct err *err)
{
    *run = (struct run){.dir = dir};
    TRY(read_run_json(run, err));
    for (int t = 0; t < TASKS; t++) {
        char name[64], *text;
        size_t n;
        struct err missing;
        snprintf(name, sizeof name, "eval/samples_%s.jsonl", task_name[t]);
        if (read_file(dir, name, &text, &n, &missing) != OK)
            continue;
        enum status status = read_samples(run, t, text, err);
        free(text);
        TRY(status);
    }
    return OK;
}

static double share(const uint8_t *right, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += right[i];
    return n ? (double)sum / (double)n : NAN;
}

static double mean_of(const struct run *r, double *error)
{
    double sum = 0, variance = 0, tasks = 0;
    for (int t = 0; t < TASKS; t++)
        if (r->n[t]) {
            double p = share(r->right[t], r->n[t]);
            sum += p;
            variance += p * (1 - p) / (double)r->n[t];
            tasks++;
        }
    *error = tasks > 0 ? sqrt(variance) / tasks : NAN;
    return tasks > 0 ? sum / tasks : NAN;
}

/* Exact McNemar: of b + c documents that one run alone got right, as lopsided a split as this or more, by a fair coin. */
static double mcnemar(const struct run *a, const struct run *b)
{
    int only_a = 0, only_b = 0;
    for (int t = 0; t < TASKS; t++)
        for (size_t i = 0; i < a->n[t] && i < b->n[t]; i++) {
            only_a += a->right[t][i] && !b->right[t][i];
            only_b += !a->right[t][i] && b->right[t][i];
        }
    int n = only_a + only_b, few = only_a < only_b ? only_a : only_b;
    double p = 0;
    for (int k = 0; k <= few; k++)
        p += exp(lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0) - n * log(2));
    return fmin(2 * p, 1);
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* 95 % interval of mean(a) - mean(b) by the percentiles of DRAWS bootstrap samples. */
static void bootstrap(const struct run *a, const struct run *b, double *low, double *high)
{
    static double difference[DRAWS];
    for (uint32_t d = 0; d < DRAWS; d++) {
        struct rng rng = {.seed = 1, .stream = RNG_SEARCH, .step = d};
        double sum = 0, tasks = 0;
        for (int t = 0; t < TASKS; t++) {
            if (!a->n[t] || a->n[t] != b->n[t])
                continue;
            double here = 0;
            for (size_t i = 0; i < a->n[t]; i++) {
                size_t k = rng_below(&rng, (uint32_t)a->n[t]);
                here += (double)a->right[t][k] - (double)b->right[t][k];
            }
            sum += here / (double)a->n[t];
            tasks++;
        }
        difference[d] = tasks > 0 ? sum / tasks : NAN;
    }
    qsort(difference, DRAWS, sizeof *difference, by_value);
    *low = difference[DRAWS / 40];
    *high = difference[DRAWS - 1 - DRAWS / 40];
}

static void print_row(const struct run *r, const struct run *baseline)
{
    double error, mean = mean_of(r, &error), theirs, low, high;
    const char *slash = strrchr(r->dir, '/');
    printf("| %s |", slash ? slash + 1 : r->dir);
    for (int t = 0; t < TASKS; t++)
        if (baseline->n[t])
            printf(" %.1f |", 100 * share(r->right[t], r->n[t]));
    printf(" %.1f +- %.1f | %.1f | %.0f | %.0f |", 100 * mean, 100 * error, r->size / 1e6, r->peak / 1e6, r->seconds);
    if (r == baseline) {
        printf(" baseline | |\n");
        return;
    }
    bootstrap(r, baseline, &low, &high);
    printf(" %+.1f [%+.1f, %+.1f] | %.2g |\n", 100 * (mean - mean_of(baseline, &theirs)), 100 * low, 100 * high, mcnemar(r, baseline));
}

static void print_table(const struct run *run, size_t n, const struct run *baseline)
{
    int columns = 0;
    printf("| run |");
    for (int t = 0; t < TASKS; t++)
        if (baseline->n[t]) {
            printf(" %s |", task_name[t]);
            columns++;
        }
    printf(" mean %% | model MB | peak MB | seconds | difference [95 %%] | McNemar p |\n|---|");
    for (int t = 0; t < columns + 6; t++)
        printf("---:|");
    printf("\n");
    for (size_t i = 0; i < n; i++)
        print_row(&run[i], baseline);
}

int main(int argc, char **argv)
{
    static struct run run[MOST_RUNS];
    struct err err = {""};
    size_t n = 0;
    const struct run *baseline = NULL;
    enum status status = OK;
    if (argc < 3 || argc - 2 > MOST_RUNS) {
        fputs("usage: compare BASELINE DIR...\n", stderr);
        return 2;
    }
    for (int i = 2; status == OK && i < argc; i++, n++) {
        status = read_run(&run[n], argv[i], &err);
        if (strcmp(argv[i], argv[1]) == 0)
            baseline = &run[n];
    }
    if (status == OK && !baseline)
        status = err_set(&err, ERR_INPUT, "%s is not among the folders", argv[1]);
    if (status == OK)
        print_table(run, n, baseline);
    else
        fprintf(stderr, "compare: %s\n", err.text);
    for (size_t i = 0; i <= n && i < MOST_RUNS; i++)
        for (int t = 0; t < TASKS; t++)
            free(run[i].right[t]);
    return status == OK ? 0 : 2;
}
