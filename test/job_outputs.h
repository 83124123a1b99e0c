/* job_outputs.h: what a job of job.h wrote, held against another job's and against what it had measured. */
#ifndef VENEER_TEST_JOB_OUTPUTS_H
#define VENEER_TEST_JOB_OUTPUTS_H
#include "evaluate.h"
#include "inference.h"
#include "io/safetensors.h"
#include "io/tasks.h"
#include "job.h"

#define ASSERT_OK(call)               \
    do {                              \
        if ((call) != OK)             \
            fail_msg("%s", err.text); \
    } while (0)

static inline void job_assert_same_file(const char *a, const char *b, const char *name)
{
    struct err err;
    char first[256], second[256], *x, *y;
    size_t n, m;
    snprintf(first, sizeof first, "%s/%s", a, name);
    snprintf(second, sizeof second, "%s/%s", b, name);
    if (file_read(first, 1 << 26, &x, &n, &err) != OK || file_read(second, 1 << 26, &y, &m, &err) != OK)
        fail_msg("%s", err.text);
    if (n != m || memcmp(x, y, n) != 0)
        fail_msg("%s and %s differ", first, second);
    free(x);
    free(y);
}

/* Scores the report part of a task with what was written; the text of samples_TASK.jsonl. */
static inline void job_score_again(const char *model, const char *adapter, const char *name, struct text *samples)
{
    struct err err;
    struct inference in;
    struct task task;
    struct evaluate_set *set;
    struct evaluate_options options = {0};
    struct evaluate_result result;
    const struct evaluate_sample *sample;
    size_t index[64];
    struct inference_options opening = {.adapter = adapter, .threads = 1};
    ASSERT_OK(compute_parse("auto", &opening.compute, &err)); /* as the run's */
    ASSERT_OK(inference_open(&in, model, &opening, &err));
    ASSERT_OK(task_load(&task, name, "tasks", &err));
    assert_true(task.n <= 64);
    size_t n = task_split(&task, PART_REPORT, 0.3, 0, index);
    ASSERT_OK(evaluate_prepare(&set, &task, index, n, in.tokenizer, &in.model.config, &options, &err));
    ASSERT_OK(inference_place(&in, 512, &err));
    ASSERT_OK(evaluate_run(set, 1, &in.run, &in.model, inference_lora(&in), &result, &sample, &err));
    evaluate_print_samples(name, sample, n, task.has_norm, samples);
    evaluate_free(set);
    task_free(&task);
    inference_close(&in);
}

/* The folder and the adapter are the very model that was measured: every log-likelihood comes out the same to the last digit. */
static inline void job_assert_written_as_measured(const char *dir)
{
    static const char *const tasks[] = {"boolq", "piqa", "hellaswag"};
    char model[64], adapter[64], eval[64];
    snprintf(model, sizeof model, "%s/model", dir);
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    snprintf(eval, sizeof eval, "%s/eval", dir);
    for (int i = 0; i < 3; i++) {
        struct text now = {0};
        struct err err;
        char path[64];
        snprintf(path, sizeof path, "again/samples_%s.jsonl", tasks[i]);
        job_score_again(model, adapter, tasks[i], &now);
        ASSERT_OK(dir_make("again", &err));
        ASSERT_OK(file_write(path, now.s, now.n, &err));
        job_assert_same_file("again", eval, path + 6);
        text_free(&now);
    }
}

struct job_file {
    char *s;
    size_t n;
};

static inline char *job_read_text(const char *path)
{
    struct err err;
    struct job_file text = {0};
    ASSERT_OK(file_read(path, 1 << 26, &text.s, &text.n, &err));
    return text.s;
}

static inline bool job_ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* Bytes of the tensors but code books and descriptions. */
static inline double job_tensor_bytes(const char *path)
{
    static const char *const aside[] = {".quant_map", ".weight_format", ".quant_state.bitsandbytes__nf4"};
    struct err err;
    struct safetensors st;
    double sum = 0;
    ASSERT_OK(safetensors_open(&st, path, &err));
    for (size_t i = 0; i < st.n; i++)
        if (!job_ends_in(st.tensor[i].name, aside[0]) && !job_ends_in(st.tensor[i].name, aside[1]) && !job_ends_in(st.tensor[i].name, aside[2]))
            sum += (double)st.tensor[i].bytes;
    safetensors_close(&st);
    return sum;
}

static inline double job_number_after(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    assert_non_null(at);
    return strtod(at + strlen(word), NULL);
}

/* size_bytes of a row of the final table. */
static inline double job_told_size(const char *dir, const char *row)
{
    char path[128], word[64], *text;
    size_t n;
    struct err err;
    snprintf(path, sizeof path, "%s/eval/results.json", dir);
    snprintf(word, sizeof word, "\"%s\": {\"size_bytes\": ", row);
    ASSERT_OK(file_read(path, 1 << 24, &text, &n, &err));
    double size = job_number_after(text, word);
    free(text);
    return size;
}

/* The same, of the files of the pick. */
static inline double job_written_size(const char *dir)
{
    char path[128];
    snprintf(path, sizeof path, "%s/model/model.safetensors", dir);
    double size = job_tensor_bytes(path);
    snprintf(path, sizeof path, "%s/adapter/adapter_model.safetensors", dir);
    return size + job_tensor_bytes(path);
}

/* The first `lines` lines of a journal, in a folder of its own: what a kill at that moment leaves. */
static inline void job_cut_journal(const char *from, const char *to, size_t lines)
{
    struct err err;
    char path[128], *text, *end;
    snprintf(path, sizeof path, "%s/search/journal.jsonl", from);
    end = text = job_read_text(path);
    for (size_t i = 0; i < lines; i++) {
        assert_non_null(end = strchr(end, '\n'));
        end++;
    }
    snprintf(path, sizeof path, "%s/search", to);
    ASSERT_OK(dir_make(to, &err));
    ASSERT_OK(dir_make(path, &err));
    snprintf(path, sizeof path, "%s/search/journal.jsonl", to);
    ASSERT_OK(file_write(path, text, (size_t)(end - text), &err));
    free(text);
}

#endif
