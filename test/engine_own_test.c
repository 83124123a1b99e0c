/* engine_own_test.c: a whole job that searches and reports on a user's own tasks.  What a user would miss: written answers that the written model does not give, a stopped
 * job that ends with other ones, a comparison or a report without them, memory that no plan told. */
#include "job_outputs.h"

#include "evaluate_compare.h"

static const char tasks[] = "eval_tasks=piqa,mine,written", objective[] = "objective=accuracy";

/* Twelve documents a task; what hardly trained models do with them does not matter. */
static void make_own_tasks(void)
{
    struct text mine = {0}, written = {0};
    static const char *const who[] = {"fox", "owl", "horse", "frog"}, *const food[] = {"seeds", "flies", "grass", "worms"};
    text_puts(&mine, "{\"config\": {\"metric\": \"acc_norm\"}}\n");
    text_puts(&written, "{\"config\": {\"max_gen_toks\": 7, \"num_fewshot\": 1, \"pattern\": \"[a-z]+\", \"until\": [\"\\n\"]}}\n");
    for (int i = 0; i < 12; i++) {
        text_printf(&mine, "{\"context\": \"What does the %s number %d eat?\", \"choices\": [\"It eats %s.\", \"Some %s\"], \"gold\": %d}\n", who[i % 4], i, food[i % 4],
                    food[(i + 1) % 4], i % 2);
        text_printf(&written, "{\"prompt\": \"The %s number %d eats\", \"answer\": \"%s\"}\n", who[i % 4], i, food[i % 4]);
    }
    job_write("tasks/mine.jsonl", mine.s);
    job_write("tasks/written.jsonl", written.s);
    job_write("tasks/written.dev.jsonl", "{\"prompt\": \"The hen eats\", \"answer\": \"bread\"}\n");
    text_free(&mine);
    text_free(&written);
}

static void run(const char *out)
{
    char sentence[1024];
    if (job_run(sentence, "job.txt", out, tasks, objective, NULL))
        fail_msg("%s", sentence);
}

/* What the job says of each document is what the files that it wrote say again. */
static void written_as_measured(void **state)
{
    (void)state;
    static const char *const names[] = {"mine", "written"};
    struct err err;
    make_own_tasks();
    run("output_dir=own");
    assert_true(dir_make("again", &err) == OK);
    for (int i = 0; i < 2; i++) {
        struct text now = {0};
        char path[64];
        job_score_again("own/model", "own/adapter", names[i], &now);
        snprintf(path, sizeof path, "again/samples_%s.jsonl", names[i]);
        ASSERT_OK(file_write(path, now.s, now.n, &err));
        job_assert_same_file("again", "own/eval", path + 6);
        assert_int_equal(job_count(now.s, names[i][0] == 'm' ? ", \"headline\": \"acc_norm\"}" : ", \"exact_match\": "), 8); /* 12 documents, less the search's ceil(0.3 * 12) */
        text_free(&now);
    }
    char *results = job_read_text("own/eval/results.json"), *report = job_read_text("own/report.html");
    assert_non_null(strstr(results, "\"written\": {\"alias\": \"written\", \"exact_match,none\": "));
    assert_non_null(strstr(results, "\"n-shot\": {\"piqa\": 0, \"mine\": 0, \"written\": 1}"));
    assert_non_null(strstr(report, ">written (exact match)<"));
    free(results);
    free(report);
}

/* Killed after its first trials, and when all but the outputs was there: what the journal holds is not done again. */
static void a_stopped_job_goes_on(void **state)
{
    (void)state;
    static const char *const files[] = {"search/journal.jsonl", "eval/results.json", "eval/samples_mine.jsonl", "eval/samples_written.jsonl", "model.gguf"};
    char *journal = job_read_text("own/search/journal.jsonl");
    job_cut_journal("own", "own-again", 4);
    job_cut_journal("own", "own-late", job_count(journal, "\n"));
    run("output_dir=own-again");
    run("output_dir=own-late");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        job_assert_same_file("own", "own-again", files[i]);
        job_assert_same_file("own", "own-late", files[i]);
    }
    free(journal);
}

static void a_run_compares(void **state)
{
    (void)state;
    struct err err;
    struct answers a;
    struct comparison c;
    ASSERT_OK(answers_read(&a, "own", &err));
    assert_int_equal(a.n_tasks, 3);
    assert_string_equal(a.task[0].name, "piqa");
    assert_string_equal(a.task[2].name, "written");
    ASSERT_OK(answers_compare(&a, &a, "written", &c, &err));
    assert_true(c.n == 8 && c.p == 1);
    answers_free(&a);
}

/* The context of the longest answer is planned: keys and values of four layers and two heads of eight for each of its tokens are in it. */
static void memory_is_planned(void **state)
{
    (void)state;
    struct veneer *job;
    const char *text;
    double peak[2], answers = 0;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(veneer_new(&job), 0);
        assert_true(veneer_read(job, "job.txt") == 0 && veneer_set(job, i ? tasks : "eval_tasks=piqa,mine", "test") == 0 && veneer_set(job, objective, "test") == 0);
        if (veneer_plan(job, &text))
            fail_msg("%s", veneer_error(job));
        peak[i] = job_number_after(text, "\npeak");
        assert_true((strstr(text, "\nanswers ") != NULL) == (i == 1));
        answers = i ? job_number_after(text, "\nanswers") : 0;
        veneer_free(job);
    }
    assert_true(answers >= 4 * 2 * 2 * 8 * sizeof(float) * 10.0 && peak[1] > peak[0]);
}

static void refused(const char *sentence, const char *first, const char *second)
{
    char got[1024];
    int code = job_run(got, "job.txt", "output_dir=refused", objective, first, second, NULL);
    assert_string_equal(got, sentence);
    assert_int_equal(code, VENEER_INPUT);
}

static void what_cannot_be_scored(void **state)
{
    (void)state;
    refused("eval_tasks: names 'mine' twice", "eval_tasks=mine,piqa,mine", NULL);
    refused("tasks: num_fewshot = 3 wants examples of task mine in mine.dev.jsonl or mine.train.jsonl", "eval_tasks=mine", "num_fewshot=3");
    refused("tasks/written.dev.jsonl: has 1 examples without a group, num_fewshot = 3", "eval_tasks=written", "num_fewshot=3");
    job_write("tasks/long.jsonl", "{\"config\": {\"max_gen_toks\": 128}}\n{\"split\": \"search\", \"prompt\": \"a\", \"answer\": \"x\"}\n");
    char got[1024];
    assert_int_equal(job_run(got, "job.txt", "output_dir=refused", objective, "eval_tasks=long", NULL), VENEER_INPUT);
    assert_non_null(strstr(got, "task long: tasks/long.jsonl:2: the prompt has "));
    assert_non_null(strstr(got, " tokens, and max_gen_toks is 128: the model's window holds 128; want fewer of either, or of num_fewshot"));
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_as_measured), cmocka_unit_test(a_stopped_job_goes_on), cmocka_unit_test(a_run_compares),
        cmocka_unit_test(memory_is_planned),   cmocka_unit_test(what_cannot_be_scored),
    };
    return cmocka_run_group_tests(tests, job_setup, job_teardown);
}
