/* job.h: a tiny model, data and tasks in a folder of their own, and jobs on them through veneer.h, for tests of the whole.
 *
 * Every path is relative to that folder, so that a message is the same text on every machine. */
#ifndef VENEER_TEST_JOB_H
#define VENEER_TEST_JOB_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "veneer.h"

/* build/CONFIG/NAME, for a test that is build/CONFIG/test/x. */
static inline void job_program(char path[512], const char *name)
{
    char dir[448], *slash;
    ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
    assert_true(n > 0 && n < (ssize_t)sizeof dir - 1);
    dir[n] = 0;
    for (int up = 0; up < 2; up++) {
        assert_non_null(slash = strrchr(dir, '/'));
        *slash = 0;
    }
    snprintf(path, 512, "%s/%s", dir, name);
}

/* How often `word` stands in `text`. */
static inline size_t job_count(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, word)); p++)
        n++;
    return n;
}

struct job_home {
    char dir[64];
    char world[512]; /* data/world, absolute */
};

static const char base_text[] = "train_mode = full\ntokenizer = tokenizer.model\ndataset = text.jsonl\noutput_dir = base\nhidden_size = 32\n"
                                "num_hidden_layers = 4\nnum_attention_heads = 4\nnum_key_value_heads = 2\nintermediate_size = 64\n"
                                "max_position_embeddings = 128\nmax_seq_len = 64\nbatch_size = 8\nmicro_batch_size = 8\nmax_steps = 3\n"
                                "learning_rate = 1e-2\nthreads = 1\ndevice = cpu\n";

/* objective = loss: the scores of a hardly trained model differ in every digit, its accuracies hardly at all. */
static const char job_text[] = "model = base/model\ndataset = train.jsonl\neval_data = tasks\noutput_dir = out\npruning_ratio = 0.15\n"
                               "ffn_multiple = 8\nquant_types = nf4,int8\nnum_initial = 3\nnum_trials = 2\nmax_steps = 2\nlora_r = 2\n"
                               "save_steps = 1\nbatch_size = 8\nmicro_batch_size = 4\nmax_seq_len = 96\ncalibration_seq_len = 32\n"
                               "learning_rate = 1e-2\nobjective = loss\nthreads = 1\ndevice = cpu\n";

static const char *const job_task_files[] = {"arc_challenge.test.jsonl", "arc_easy.test.jsonl",    "boolq.validation.jsonl",
                                             "hellaswag.validation.jsonl", "openbookqa.test.jsonl", "piqa.validation.jsonl",
                                             "winogrande_xl.validation.jsonl"};
enum { JOB_TASKS = sizeof job_task_files / sizeof *job_task_files };

static inline void job_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* The first `most` lines that hold `word` ("" : any). */
static inline void job_copy_lines(const char *from, const char *to, const char *mode, const char *word, int most)
{
    char *line = NULL;
    size_t cap = 0;
    FILE *in = fopen(from, "r"), *out = fopen(to, mode);
    assert_true(in && out);
    for (int n = 0; n < most && getline(&line, &cap, in) >= 0;)
        if (strstr(line, word)) {
            assert_true(fputs(line, out) >= 0);
            n++;
        }
    free(line);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

static inline void job_copy(const char *from, const char *to)
{
    char *bytes;
    size_t n;
    struct err err;
    if (file_read(from, 1 << 26, &bytes, &n, &err) != OK || file_write(to, bytes, n, &err) != OK)
        fail_msg("%s", err.text);
    free(bytes);
}

/* One job in this process: the configuration file, then assignments up to NULL.  The sentence of a failure into sentence[1024]. */
static inline int job_run_list(char *sentence, const char *config, va_list assignments)
{
    struct veneer *job;
    assert_int_equal(veneer_new(&job), 0);
    int code = veneer_read(job, config);
    for (const char *a; !code && (a = va_arg(assignments, const char *));)
        code = veneer_set(job, a, "test");
    if (!code)
        code = veneer_run(job);
    snprintf(sentence, 1024, "%s", code ? veneer_error(job) : "");
    veneer_free(job);
    return code;
}

static inline int job_run(char *sentence, const char *config, ...)
{
    va_list list;
    va_start(list, config);
    int code = job_run_list(sentence, config, list);
    va_end(list);
    return code;
}

static inline void job_make_tasks(const struct job_home *home)
{
    assert_int_equal(mkdir("tasks", 0777), 0);
    for (int i = 0; i < JOB_TASKS; i++) {
        char from[640], to[128];
        snprintf(from, sizeof from, "%s/%s", home->world, job_task_files[i]);
        snprintf(to, sizeof to, "tasks/%s", job_task_files[i]);
        job_copy_lines(from, to, "w", "\"split\": \"search\"", 6);
        job_copy_lines(from, to, "a", "\"split\": \"report\"", 6);
    }
}

/* Documents about the world's things: the world's own text is too large to be kept with the sources. */
static inline void job_write_text(const char *path, int documents)
{
    static const char *const who[] = {"fox", "owl", "horse", "frog", "hen"}, *const food[] = {"seeds", "flies", "grass", "worms", "bread"};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < documents; i++)
        fprintf(f, "{\"text\": \"The %s eats %s. The %s met the %s near the river, and the %s ate some %s. What does the %s eat? It eats %s.\"}\n", who[i % 5],
                food[i % 5], who[i / 5 % 5], who[i % 5], who[i % 5], food[i % 5], who[i / 5 % 5], food[i / 5 % 5]);
    assert_int_equal(fclose(f), 0);
}

/* Makes the folder, goes into it, fills it and trains the base model: base/model, job.txt, train.jsonl, text.jsonl, tasks/. */
static inline void job_open(struct job_home *home)
{
    char from[640], sentence[1024];
    char *world = realpath("data/world", NULL);
    assert_non_null(world);
    snprintf(home->world, sizeof home->world, "%s", world);
    free(world);
    snprintf(home->dir, sizeof home->dir, "/tmp/veneer-job-XXXXXX");
    assert_non_null(mkdtemp(home->dir));
    assert_int_equal(chdir(home->dir), 0);
    snprintf(from, sizeof from, "%s/tokenizer.model", home->world);
    job_copy(from, "tokenizer.model");
    job_write_text("text.jsonl", 200);
    snprintf(from, sizeof from, "%s/instruct.jsonl", home->world);
    job_copy_lines(from, "train.jsonl", "w", "", 40);
    job_make_tasks(home);
    job_write("base.txt", base_text);
    job_write("job.txt", job_text);
    if (job_run(sentence, "base.txt", NULL))
        fail_msg("base model: %s", sentence);
}

static inline void job_close(const struct job_home *home)
{
    assert_int_equal(chdir("/"), 0);
    dir_remove(home->dir);
}

/* A group's setup and teardown: *state is the home. */
static inline int job_setup(void **state)
{
    static struct job_home home;
    job_open(&home);
    *state = &home;
    return 0;
}

static inline int job_teardown(void **state)
{
    job_close(*state);
    return 0;
}

/* Threads that wait give their core away: this machine may be shared.  libgomp reads this when it is loaded. */
static inline void job_share_cores(char **argv)
{
    if (getenv("OMP_WAIT_POLICY"))
        return;
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
}

#endif
