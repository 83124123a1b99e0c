/* evaluate_compare_test.c: finished evaluations against each other.  What a user would miss: documents that are paired with others than their own, a test that
 * calls luck a difference or a difference luck, an interval that does not hold what it says, files that are taken for what they are not. */
#include "refused.h"

#include <math.h>

#include "base/file.h"
#include "evaluate_compare.h"

static void write_text(const char *path, const char *text)
{
    struct err err;
    if (file_write(path, text, strlen(text), &err) != OK)
        fail_msg("%s", err.text);
}

/* Documents first, first + step ... of a task, right where the string has a 1. */
static void add_lines(struct text *out, const char *task, int first, int step, const char *right)
{
    for (int i = 0; right[i]; i++)
        text_printf(out, "{\"task\": \"%s\", \"idx\": %d, \"loglikelihoods\": [-1, -2], \"label\": 0, \"acc\": %c, \"acc_norm\": %c}\n", task, first + i * step, right[i],
                    right[i] == '1' ? '0' : '1'); /* acc_norm says the opposite: the headline metric is what counts */
}

static void write_lines(const char *path, const char *task, int first, int step, const char *right)
{
    struct text text = {0};
    add_lines(&text, task, first, step, right);
    write_text(path, text.s);
    text_free(&text);
}

static void read_both(const char *a, const char *b, struct answers both[2])
{
    struct err err;
    if (answers_read(&both[0], a, &err) != OK || answers_read(&both[1], b, &err) != OK)
        fail_msg("%s", err.text);
}

static struct comparison compared(struct answers both[2], const char *task)
{
    struct comparison c;
    struct err err;
    if (answers_compare(&both[0], &both[1], task, &c, &err) != OK)
        fail_msg("%s", err.text);
    return c;
}

static void free_both(struct answers both[2])
{
    answers_free(&both[0]);
    answers_free(&both[1]);
}

/* Of ten documents that one alone got right, two to eight: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10. */
static void mcnemar_by_hand(void **state)
{
    (void)state;
    struct answers both[2];
    write_lines("a.jsonl", "boolq", 0, 1, "100000000111");
    write_lines("b.jsonl", "boolq", 0, 1, "011111111101");
    read_both("a.jsonl", "b.jsonl", both);
    struct comparison c = compared(both, "boolq");
    assert_int_equal(c.n, 12);
    assert_int_equal(c.only_a, 2);
    assert_int_equal(c.only_b, 8);
    assert_true(fabs(c.p - 112.0 / 1024) <= 1e-13); /* logarithms up to 15, five roundings of 2^-53 each */
    assert_true(fabs(c.a - 4.0 / 12) <= 1e-15 && fabs(c.b - 10.0 / 12) <= 1e-15);
    free_both(both);
    read_both("a.jsonl", "a.jsonl", both);
    c = compared(both, NULL);
    assert_true(c.p == 1 && c.low == 0 && c.high == 0 && c.a == c.b);
    free_both(both);
}

/* Documents are paired by idx, whatever their order; what one alone answered is left out. */
static void pairs_are_by_document(void **state)
{
    (void)state;
    struct answers both[2];
    struct text text = {0};
    add_lines(&text, "piqa", 11, -1, "110"); /* 11, 10, 9 */
    add_lines(&text, "hellaswag", 0, 1, "01");
    write_text("a.jsonl", text.s);
    text_clear(&text);
    add_lines(&text, "hellaswag", 1, 1, "10"); /* 1, 2 */
    add_lines(&text, "piqa", 8, 1, "1011");    /* 8, 9, 10, 11 */
    write_text("b.jsonl", text.s);
    read_both("a.jsonl", "b.jsonl", both);
    struct comparison c = compared(both, "piqa");
    assert_int_equal(c.n, 3);
    assert_int_equal(c.only_a + c.only_b, 0);
    c = compared(both, "hellaswag"); /* its headline is acc_norm: the opposite */
    assert_int_equal(c.n, 1);
    assert_true(c.a == 0 && c.b == 0);
    c = compared(both, NULL);
    assert_int_equal(c.n, 4);
    assert_true(fabs(c.a - (2.0 / 3 + 0) / 2) <= 1e-15); /* the mean over tasks, not over documents */
    c = compared(both, "boolq");
    assert_true(c.n == 0 && isnan(c.a) && isnan(c.low) && isnan(c.p));
    free_both(both);
    text_free(&text);
}

/* Of 400 documents 40 are right in a alone, 20 in b alone: the difference is 0.05, its standard deviation sqrt((0.15 - 0.05^2) / 400) = 0.0192, so that
 * the interval is 0.05 -+ 1.96 * 0.0192.  Its ends are quantiles of 2000 draws, each with a deviation of sqrt(0.025 * 0.975 / 2000) / (density 0.0584 / 0.0192)
 * = 0.0011, and steps of 1 / 400 = 0.0025: within 4 deviations and a step. */
static void the_interval_is_that_of_the_difference(void **state)
{
    (void)state;
    char a[401], b[401];
    struct answers both[2];
    for (int i = 0; i < 400; i++) {
        a[i] = i < 40 || i >= 200 ? '1' : '0';
        b[i] = (i >= 40 && i < 60) || i >= 200 ? '1' : '0';
    }
    a[400] = b[400] = 0;
    write_lines("a.jsonl", "boolq", 0, 1, a);
    write_lines("b.jsonl", "boolq", 0, 1, b);
    read_both("a.jsonl", "b.jsonl", both);
    struct comparison c = compared(both, NULL);
    double deviation = sqrt((0.15 - 0.0025) / 400);
    assert_true(fabs(c.low - (0.05 - 1.96 * deviation)) <= 4 * 0.0011 + 0.0025);
    assert_true(fabs(c.high - (0.05 + 1.96 * deviation)) <= 4 * 0.0011 + 0.0025);
    free_both(both);
}

/* Lines, results with documents and a run's folder say the same; a folder also what the run took. */
static void three_forms(void **state)
{
    (void)state;
    struct answers both[2];
    struct err err;
    write_lines("a.jsonl", "boolq", 0, 1, "01");
    write_text("b.json", "{\"results\": {}, \"samples\": {\"boolq\": [{\"task\": \"boolq\", \"idx\": 1, \"acc\": 1}, {\"task\": \"boolq\", \"idx\": 0, \"acc\": 0}]}}");
    read_both("a.jsonl", "b.json", both);
    struct comparison c = compared(both, NULL);
    assert_true(c.n == 2 && c.only_a == 0 && c.only_b == 0 && isnan(both[0].size));
    free_both(both);
    assert_int_equal(dir_make("run", &err) || dir_make("run/eval", &err), 0);
    write_lines("run/eval/samples_boolq.jsonl", "boolq", 0, 1, "01");
    write_text("run/run.json", "{\"measured_peak_bytes\": 5e6, \"seconds\": 12}");
    write_text("run/eval/results.json", "{\"rows\": {\"pick\": {\"size_bytes\": 2500000}}}");
    read_both("run/", "b.json", both);
    c = compared(both, NULL);
    assert_true(c.n == 2 && c.only_a == 0 && c.only_b == 0);
    assert_string_equal(both[0].name, "run");
    struct text table = {0};
    struct answers three[3] = {both[0], both[1], both[1]};
    if (answers_print(three, 3, &table, &err) != OK)
        fail_msg("%s", err.text);
    assert_non_null(strstr(table.s, "| run | 50.0 | 50.0 +- 35.4 | 2.5 | 5 | 12 | baseline | |\n"));
    assert_non_null(strstr(table.s, "| b.json | 50.0 | 50.0 +- 35.4 | | | | +0.0 [+0.0, +0.0] | 1 |\n"));
    text_clear(&table);
    if (answers_print(both, 2, &table, &err) != OK)
        fail_msg("%s", err.text);
    assert_non_null(strstr(table.s, "| mean | 2 | 50.0 | 50.0 | +0.0 [+0.0, +0.0] | 0 | 0 | 1 |\n"));
    text_free(&table);
    free_both(both);
}

/* A task of one's own counts by exact_match, or by what its lines say; in a folder it stands behind the common-sense tasks. */
static void own_tasks(void **state)
{
    (void)state;
    struct answers both[2];
    struct err err;
    assert_int_equal(dir_make("own/eval", &err), OK);
    write_text("own/run.json", "{\"measured_peak_bytes\": 5e6, \"seconds\": 12}");
    write_text("own/eval/results.json", "{\"rows\": {\"pick\": {\"size_bytes\": 2500000}}}");
    write_lines("own/eval/samples_piqa.jsonl", "piqa", 0, 1, "1");
    write_lines("own/eval/samples_boolq.jsonl", "boolq", 0, 1, "1");
    write_text("own/eval/samples_gsm8k.jsonl", "{\"task\": \"gsm8k\", \"idx\": 0, \"target\": \"7\", \"resps\": [\"7\"], \"filtered_resps\": [\"7\"], \"exact_match\": 1}\n"
                                               "{\"task\": \"gsm8k\", \"idx\": 1, \"exact_match\": 1}\n{\"task\": \"gsm8k\", \"idx\": 2, \"exact_match\": 0}\n");
    write_text("own/eval/samples_a-b.jsonl", "{\"task\": \"a-b\", \"idx\": 0, \"acc\": 1, \"acc_norm\": 0, \"headline\": \"acc_norm\"}\n");
    write_text("b.json", "{\"samples\": {\"gsm8k\": [{\"task\": \"gsm8k\", \"idx\": 0, \"exact_match\": 0}, {\"task\": \"gsm8k\", \"idx\": 1, \"exact_match\": 0}]}}");
    read_both("own", "b.json", both);
    static const char *const names[] = {"boolq", "piqa", "a-b", "gsm8k"};
    assert_int_equal(both[0].n_tasks, 4);
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(both[0].task[i].name, names[i]);
    assert_false(both[0].task[2].answer[0].right);
    struct comparison c = compared(both, "gsm8k");
    assert_true(c.n == 2 && c.only_a == 2 && c.only_b == 0 && fabs(c.p - 0.5) <= 1e-15); /* 2 / 2^2 */
    free_both(both);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text, *sentence;
    } bad[] = {
        {"empty.jsonl", "\n", "empty.jsonl: no answers; want a folder that train wrote, or what evaluate --json or --samples wrote"},
        {"old.json", "{\"results\": {}}", "old.json.samples: is missing, want an object"},
        {"word.jsonl", "word\n", NULL},
        {"metric.jsonl", "{\"task\": \"boolq\", \"idx\": 0}", "metric.jsonl:1.acc: is missing, want a number"},
        {"match.jsonl", "{\"task\": \"gsm8k\", \"idx\": 0, \"exact_match\": 2}", "match.jsonl:1.exact_match: got 2, want an integer from 0 to 1"},
        {"norm.jsonl", "{\"task\": \"hellaswag\", \"idx\": 0, \"acc\": 1}", "norm.jsonl:1.acc_norm: is missing, want a number"},
        {"twice.jsonl", "{\"task\": \"boolq\", \"idx\": 3, \"acc\": 1}\n{\"task\": \"boolq\", \"idx\": 3, \"acc\": 1}\n", "twice.jsonl: document 3 of boolq is there twice"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answers answers;
        struct err err;
        write_text(bad[i].file, bad[i].text);
        assert_int_equal(answers_read(&answers, bad[i].file, &err), ERR_INPUT);
        if (bad[i].sentence)
            assert_string_equal(err.text, bad[i].sentence);
        answers_free(&answers);
    }
    struct answers both[2];
    struct text table = {0};
    struct err err;
    write_lines("a.jsonl", "boolq", 0, 1, "01");
    write_lines("b.jsonl", "boolq", 2, 1, "01");
    read_both("a.jsonl", "b.jsonl", both);
    assert_int_equal(answers_print(both, 2, &table, &err), ERR_INPUT);
    assert_string_equal(err.text, "a.jsonl and b.jsonl: no document that both answered");
    text_free(&table);
    free_both(both);
    assert_int_equal(answers_read(&both[0], "nowhere.json", &err), ERR_INPUT);
    assert_string_equal(err.text, "nowhere.json: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mcnemar_by_hand), cmocka_unit_test(pairs_are_by_document), cmocka_unit_test(the_interval_is_that_of_the_difference),
        cmocka_unit_test(three_forms),     cmocka_unit_test(own_tasks),             cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
