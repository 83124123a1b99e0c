/* evaluate_compare.c: answers read back, paired by document, compared. */
#include "evaluate_compare.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/order.h"
#include "base/rng.h"
#include "io/json.h"
#include "io/tasks.h"

enum { DRAWS = 2000 };
static const size_t MOST_BYTES = (size_t)1 << 30;

/* ---- reading ---- */

static enum status task_of(struct answers *answers, const char *name, size_t *at, struct err *err)
{
    for (*at = 0; *at < answers->n_tasks; ++*at)
        if (strcmp(answers->task[*at].name, name) == 0)
            return OK;
    if (answers->n_tasks == ANSWERS_TASKS)
        return err_set(err, ERR_INPUT, "answers to more than %d tasks", ANSWERS_TASKS);
    snprintf(answers->task[answers->n_tasks++].name, sizeof answers->task[0].name, "%s", name);
    return OK;
}

static enum status add_answer(struct answers *answers, const char *task, int64_t idx, bool right, struct err *err)
{
    size_t at;
    TRY(task_of(answers, task, &at, err));
    size_t n = answers->task[at].n;
    if ((n & (n - 1)) == 0) { /* room is doubled at powers of 2 */
        struct answer *grown = realloc(answers->task[at].answer, (n ? 2 * n : 1) * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for answers");
        answers->task[at].answer = grown;
    }
    answers->task[at].answer[answers->task[at].n++] = (struct answer){idx, right};
    return OK;
}

/* One document as evaluate_print_sample writes it. */
static enum status read_sample(struct answers *answers, const struct json *json, const char *where, struct err *err)
{
    const char *task, *metric;
    int64_t idx, right;
    TRY(json_string(json, "task", where, &task, err));
    TRY(json_int(json, "idx", where, 0, JSON_MAX_INT, &idx, err));
    TRY(json_string_or(json, "headline", where, task_headline_norm(task) ? "acc_norm" : "acc", &metric, err));
    TRY(json_int(json, json_member(json, "exact_match") ? "exact_match" : metric, where, 0, 1, &right, err));
    return add_answer(answers, task, idx, right == 1, err);
}

static enum status read_lines(struct answers *answers, const char *path, struct err *err)
{
    char *text;
    size_t n, number = 0;
    TRY(file_read(path, MOST_BYTES, &text, &n, err));
    enum status status = OK;
    for (size_t at = 0; at < n && status == OK;) {
        const char *line = text + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        struct json *json;
        char where[512];
        at += length + 1;
        snprintf(where, sizeof where, "%s:%zu", path, ++number);
        if (length == 0)
            continue;
        status = json_parse(line, length, where, &json, err);
        if (status != OK)
            break;
        status = read_sample(answers, json, where, err);
        json_free(json);
    }
    free(text);
    return status;
}

static enum status read_json(const char *path, struct json **json, struct err *err)
{
    char *text;
    size_t n;
    TRY(file_read(path, MOST_BYTES, &text, &n, err));
    enum status status = json_parse(text, n, path, json, err);
    free(text);
    return status;
}

static enum status read_results(struct answers *answers, const char *path, struct err *err)
{
    struct json *json;
    const struct json *samples;
    TRY(read_json(path, &json, err));
    enum status status = json_object(json, "samples", path, &samples, err);
    for (const struct json *task = status == OK ? json_first(samples) : NULL; task && status == OK; task = json_next(task)) {
        size_t number = 0;
        for (const struct json *sample = json_first(task); sample && status == OK; sample = json_next(sample)) {
            char where[512];
            snprintf(where, sizeof where, "%s.samples.%s[%zu]", path, json_key(task), number++);
            status = read_sample(answers, sample, where, err);
        }
    }
    json_free(json);
    return status;
}

/* Bytes, peak and time of a run. */
static enum status read_costs(struct answers *answers, const char *folder, struct err *err)
{
    char *run = path_join(folder, "run.json"), *results = path_join(folder, "eval/results.json");
    struct json *json = NULL;
    const struct json *rows, *pick;
    enum status status = run && results ? read_json(run, &json, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK)
        status = json_number(json, "measured_peak_bytes", run, &answers->peak, err);
    if (status == OK)
        status = json_number(json, "seconds", run, &answers->seconds, err);
    json_free(json);
    json = NULL;
    if (status == OK)
        status = read_json(results, &json, err);
    if (status == OK)
        status = json_object(json, "rows", results, &rows, err);
    if (status == OK)
        status = json_object(rows, "pick", results, &pick, err);
    if (status == OK)
        status = json_number(pick, "size_bytes", results, &answers->size, err);
    json_free(json);
    free(run);
    free(results);
    return status;
}

/* eval/samples_TASK.jsonl: the common-sense tasks in their order, then a user's own by name. */
static int place_of(const char *name)
{
    int i = 0;
    size_t n = strlen(name) - strlen(".jsonl");
    for (const char *task; (task = task_name_at((size_t)i)); i++)
        if (strlen(task) == n - strlen("samples_") && strncmp(name + strlen("samples_"), task, strlen(task)) == 0)
            break;
    return i;
}

static int by_place(const struct dirent **a, const struct dirent **b)
{
    int x = place_of((*a)->d_name), y = place_of((*b)->d_name);
    return x != y ? x - y : strcmp((*a)->d_name, (*b)->d_name);
}

static int is_samples(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 14 && strncmp(entry->d_name, "samples_", 8) == 0 && strcmp(entry->d_name + n - 6, ".jsonl") == 0;
}

static enum status read_folder(struct answers *answers, const char *folder, struct err *err)
{
    char *eval = path_join(folder, "eval");
    struct dirent **file = NULL;
    if (!eval)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    int n = scandir(eval, &file, is_samples, by_place);
    enum status status = OK;
    for (int i = 0; i < n; i++) {
        char *path = status == OK ? path_join(eval, file[i]->d_name) : NULL;
        if (status == OK)
            status = path ? read_lines(answers, path, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
        free(path);
        free(file[i]);
    }
    free(file);
    free(eval);
    TRY(status);
    return answers->n_tasks ? read_costs(answers, folder, err) : OK;
}

static int by_idx(const void *a, const void *b)
{
    const struct answer *x = a, *y = b;
    return (x->idx > y->idx) - (x->idx < y->idx);
}

static enum status sort_answers(struct answers *answers, const char *path, struct err *err)
{
    for (size_t t = 0; t < answers->n_tasks; t++) {
        struct answer *answer = answers->task[t].answer;
        qsort(answer, answers->task[t].n, sizeof *answer, by_idx);
        for (size_t i = 1; i < answers->task[t].n; i++)
            if (answer[i].idx == answer[i - 1].idx)
                return err_set(err, ERR_INPUT, "%s: document %lld of %s is there twice", path, (long long)answer[i].idx, answers->task[t].name);
    }
    return OK;
}

enum status answers_read(struct answers *answers, const char *path, struct err *err)
{
    struct stat file;
    size_t n = strlen(path);
    *answers = (struct answers){.size = NAN, .peak = NAN, .seconds = NAN};
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *last = path + n;
    while (last > path && last[-1] != '/')
        last--;
    snprintf(answers->name, sizeof answers->name, "%.*s", (int)(path + n - last), last);
    bool folder = stat(path, &file) == 0 && S_ISDIR(file.st_mode), lines = n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
    TRY(folder ? read_folder(answers, path, err) : lines ? read_lines(answers, path, err) : read_results(answers, path, err));
    if (answers->n_tasks == 0)
        return err_set(err, ERR_INPUT, "%s: no answers; want a folder that train wrote, or what evaluate --json or --samples wrote", path);
    return sort_answers(answers, path, err);
}

void answers_free(struct answers *answers)
{
    for (size_t t = 0; t < answers->n_tasks; t++)
        free(answers->task[t].answer);
    answers->n_tasks = 0;
}

/* ---- pairs ---- */

/* Documents of one task that both answered. */
struct pairs {
    size_t n;
    uint8_t *a, *b; /* [n]; a owns both */
};

static enum status pair_task(const struct answers *a, size_t t, const struct answers *b, struct pairs *pairs, struct err *err)
{
    size_t u = 0, n = a->task[t].n;
    while (u < b->n_tasks && strcmp(b->task[u].name, a->task[t].name) != 0)
        u++;
    *pairs = (struct pairs){.n = 0};
    if (u == b->n_tasks)
        return OK;
    pairs->a = malloc(2 * n);
    if (!pairs->a)
        return err_set(err, ERR_MEMORY, "out of memory for pairs of answers");
    pairs->b = pairs->a + n;
    for (size_t i = 0, k = 0; i < n; i++) {
        const struct answer *x = &a->task[t].answer[i];
        while (k < b->task[u].n && b->task[u].answer[k].idx < x->idx)
            k++;
        if (k == b->task[u].n || b->task[u].answer[k].idx != x->idx)
            continue;
        pairs->a[pairs->n] = x->right;
        pairs->b[pairs->n++] = b->task[u].answer[k].right;
    }
    return OK;
}

/* Of n documents that one alone got right, `fewer` by the one: as uneven a split or a more uneven one, by a fair coin. */
static double mcnemar(size_t fewer, size_t n)
{
    double p = 0, most = (double)n;
    for (size_t k = 0; k <= fewer; k++)
        p += exp(lgamma(most + 1) - lgamma((double)k + 1) - lgamma(most - (double)k + 1) - most * log(2));
    return fmin(2 * p, 1);
}

static double drawn_difference(const struct pairs *pairs, size_t n_tasks, uint32_t draw)
{
    struct rng rng = {.seed = 1, .stream = RNG_BOOTSTRAP, .step = draw};
    double sum = 0, tasks = 0;
    for (size_t t = 0; t < n_tasks; t++) {
        int64_t here = 0;
        for (size_t i = 0; i < pairs[t].n; i++) {
            size_t k = rng_below(&rng, (uint32_t)pairs[t].n);
            here += pairs[t].a[k] - pairs[t].b[k];
        }
        sum += pairs[t].n ? (double)here / (double)pairs[t].n : 0;
        tasks += pairs[t].n > 0;
    }
    return sum / tasks;
}

static void compare_pairs(const struct pairs *pairs, size_t n_tasks, double *draws, struct comparison *c)
{
    double tasks = 0;
    *c = (struct comparison){.n = 0};
    for (size_t t = 0; t < n_tasks; t++) {
        size_t a = 0, b = 0;
        for (size_t i = 0; i < pairs[t].n; i++) {
            a += pairs[t].a[i];
            b += pairs[t].b[i];
            c->only_a += pairs[t].a[i] > pairs[t].b[i];
            c->only_b += pairs[t].b[i] > pairs[t].a[i];
        }
        if (pairs[t].n == 0)
            continue;
        c->n += pairs[t].n;
        c->a += (double)a / (double)pairs[t].n;
        c->b += (double)b / (double)pairs[t].n;
        tasks++;
    }
    c->a /= tasks;
    c->b /= tasks;
    for (uint32_t d = 0; d < DRAWS; d++)
        draws[d] = drawn_difference(pairs, n_tasks, d);
    qsort(draws, DRAWS, sizeof *draws, order_doubles);
    c->low = draws[DRAWS / 40];
    c->high = draws[DRAWS - 1 - DRAWS / 40];
    c->p = c->n ? mcnemar(c->only_a < c->only_b ? c->only_a : c->only_b, c->only_a + c->only_b) : NAN;
}

enum status answers_compare(const struct answers *a, const struct answers *b, const char *task, struct comparison *comparison, struct err *err)
{
    struct pairs pairs[ANSWERS_TASKS] = {{0}};
    double *draws = malloc(DRAWS * sizeof *draws);
    enum status status = draws ? OK : err_set(err, ERR_MEMORY, "out of memory for a comparison");
    for (size_t t = 0; t < a->n_tasks && status == OK; t++)
        if (!task || strcmp(task, a->task[t].name) == 0)
            status = pair_task(a, t, b, &pairs[t], err);
    if (status == OK)
        compare_pairs(pairs, a->n_tasks, draws, comparison);
    for (size_t t = 0; t < ANSWERS_TASKS; t++)
        free(pairs[t].a);
    free(draws);
    return status;
}

/* ---- tables ---- */

static enum status compare_some(const struct answers *a, const struct answers *b, const char *task, struct comparison *c, struct err *err)
{
    TRY(answers_compare(a, b, task, c, err));
    if (c->n == 0 && !task)
        return err_set(err, ERR_INPUT, "%s and %s: no document that both answered", a->name, b->name);
    return OK;
}

static void print_difference(const struct comparison *c, struct text *out)
{
    text_printf(out, "%+.1f [%+.1f, %+.1f]", 100 * (c->a - c->b), 100 * c->low, 100 * c->high);
}

static enum status print_two(const struct answers *a, const struct answers *b, struct text *out, struct err *err)
{
    text_printf(out, "| task | documents | %s %% | %s %% | difference, 95 %% | right in the first alone | in the second alone | McNemar p |\n", a->name, b->name);
    text_puts(out, "|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for (size_t t = 0; t <= a->n_tasks; t++) {
        struct comparison c;
        TRY(compare_some(a, b, t < a->n_tasks ? a->task[t].name : NULL, &c, err));
        text_printf(out, "| %s | %zu | %.1f | %.1f | ", t < a->n_tasks ? a->task[t].name : "mean", c.n, 100 * c.a, 100 * c.b);
        print_difference(&c, out);
        text_printf(out, " | %zu | %zu | %.2g |\n", c.only_a, c.only_b, c.p);
    }
    return OK;
}

/* Accuracy of a task and the variance of that mean. */
static double accuracy(const struct answers *a, const char *task, double *variance)
{
    for (size_t t = 0; t < a->n_tasks; t++)
        if (strcmp(a->task[t].name, task) == 0) {
            size_t right = 0;
            for (size_t i = 0; i < a->task[t].n; i++)
                right += a->task[t].answer[i].right;
            double p = (double)right / (double)a->task[t].n;
            *variance = p * (1 - p) / (double)a->task[t].n;
            return p;
        }
    *variance = 0;
    return NAN;
}

static void print_number(double x, int digits, struct text *out)
{
    if (isfinite(x))
        text_printf(out, " %.*f |", digits, x);
    else
        text_puts(out, " |");
}

static enum status print_row(const struct answers *a, const struct answers *baseline, struct text *out, struct err *err)
{
    double sum = 0, variances = 0, variance;
    text_printf(out, "| %s |", a->name);
    for (size_t t = 0; t < baseline->n_tasks; t++) {
        double p = accuracy(a, baseline->task[t].name, &variance);
        sum += p;
        variances += variance;
        print_number(100 * p, 1, out);
    }
    double tasks = (double)baseline->n_tasks;
    text_printf(out, " %.1f +- %.1f |", 100 * sum / tasks, 100 * sqrt(variances) / tasks);
    print_number(a->size / 1e6, 1, out);
    print_number(a->peak / 1e6, 0, out);
    print_number(a->seconds, 0, out);
    if (a == baseline) {
        text_puts(out, " baseline | |\n");
        return OK;
    }
    struct comparison c;
    TRY(compare_some(a, baseline, NULL, &c, err));
    text_puts(out, " ");
    print_difference(&c, out);
    text_printf(out, " | %.2g |\n", c.p);
    return OK;
}

enum status answers_print(const struct answers *answers, size_t n, struct text *out, struct err *err)
{
    if (n == 2)
        return print_two(&answers[0], &answers[1], out, err);
    text_puts(out, "| run |");
    for (size_t t = 0; t < answers->n_tasks; t++)
        text_printf(out, " %s |", answers->task[t].name);
    text_puts(out, " mean % | model MB | peak MB | seconds | difference, 95 % | McNemar p |\n|---|");
    for (size_t t = 0; t < answers->n_tasks + 6; t++)
        text_puts(out, "---:|");
    text_puts(out, "\n");
    for (size_t i = 0; i < n; i++)
        TRY(print_row(&answers[i], answers, out, err));
    return OK;
}
