/* tasks_test.c: the prompts of every task by hand, as lm-evaluation-harness writes them; the parts of a task; files that lie. */
#include "dir.h"

#include <math.h>

#include "io/tasks.h"

static void put_task(const char *name, const char *text)
{
    put_file(dir, name, text, strlen(text));
}

static struct task load(const char *name, const char *file, const char *text)
{
    struct task task;
    struct err err = {{0}};
    put_task(file, text);
    enum status status = task_load(&task, name, dir, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return task;
}

struct choice {
    const char *context, *continuation;
    int32_t characters;
};

static void same_doc(const struct task_doc *doc, const struct choice *want, int32_t n, int32_t gold)
{
    assert_int_equal(doc->n_choices, n);
    assert_int_equal(doc->gold, gold);
    for (int32_t c = 0; c < n; c++) {
        assert_string_equal(doc->context[c], want[c].context);
        assert_string_equal(doc->continuation[c], want[c].continuation);
        assert_int_equal(doc->characters[c], want[c].characters);
    }
}

/* acc_norm divides by characters, not bytes: "né" has two. */
static void prompts(void **state)
{
    (void)state;
    struct task t = load("boolq", "boolq.validation.jsonl", "{\"idx\": 7, \"question\": \"is it\", \"passage\": \"P.\", \"label\": 1}\n");
    const struct choice boolq[] = {{"P.\nQuestion: is it?\nAnswer:", " no", 2}, {"P.\nQuestion: is it?\nAnswer:", " yes", 3}};
    same_doc(t.doc, boolq, 2, 1);
    assert_int_equal(t.doc->idx, 7);
    assert_false(t.has_norm);
    task_free(&t);
    t = load("piqa", "piqa.validation.jsonl", "{\"goal\": \"G\", \"choices\": [\"n\xc3\xa9\", \" b \"], \"label\": 0}\n");
    const struct choice piqa[] = {{"Question: G\nAnswer:", " n\xc3\xa9", 2}, {"Question: G\nAnswer:", "  b ", 3}};
    same_doc(t.doc, piqa, 2, 0);
    assert_true(t.has_norm && !t.headline_norm);
    task_free(&t);
    t = load("hellaswag", "hellaswag.validation.jsonl", "{\"activity_label\": \"A\", \"ctx\": \"C. he\", \"choices\": [\"x\", \"y\", \"z\", \"w\"], \"label\": 3}\n");
    const struct choice hellaswag[] = {{"A: C. he", " x", 1}, {"A: C. he", " y", 1}, {"A: C. he", " z", 1}, {"A: C. he", " w", 1}};
    same_doc(t.doc, hellaswag, 4, 3);
    assert_true(t.headline_norm);
    task_free(&t);
    t = load("arc_easy", "arc_easy.test.jsonl", "{\"question\": \"Q?\", \"choices\": [\"x\", \"y\", \"z\"], \"label\": 2}\n");
    const struct choice arc[] = {{"Question: Q?\nAnswer:", " x", 1}, {"Question: Q?\nAnswer:", " y", 1}, {"Question: Q?\nAnswer:", " z", 1}};
    same_doc(t.doc, arc, 3, 2);
    task_free(&t);
    t = load("openbookqa", "openbookqa.test.jsonl", "{\"question_stem\": \"S\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n");
    const struct choice openbookqa[] = {{"S", " x", 1}, {"S", " y", 1}};
    same_doc(t.doc, openbookqa, 2, 0);
    task_free(&t);
}

/* WinoGrande scores what stands behind the blank, LAMBADA the last word. */
static void endings(void **state)
{
    (void)state;
    struct task t = load("winogrande", "winogrande_xl.validation.jsonl", "{\"sentence\": \"Ian ate as _ was hungry. \", \"choices\": [\"Ian\", \"Dennis\"], \"label\": 1}\n");
    const struct choice winogrande[] = {{"Ian ate as Ian", " was hungry.", 11}, {"Ian ate as Dennis", " was hungry.", 11}};
    same_doc(t.doc, winogrande, 2, 1);
    task_free(&t);
    const struct choice lambada[] = {{"I don't care about", " signs", 5}};
    t = load("lambada", "lambada_openai.jsonl", "{\"text\": \"I don't care about signs\"}\n\n{\"context\": \"I don't care about\", \"continuation\": \"signs\"}\n");
    assert_int_equal(t.n, 2);
    same_doc(&t.doc[0], lambada, 1, 0);
    same_doc(&t.doc[1], lambada, 1, 0);
    assert_true(t.greedy);
    task_free(&t);
}

/* The whole files: their numbers of documents are those of the published splits. */
static void real_files(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n;
    } tasks[] = {{"boolq", 3270},    {"piqa", 1838},          {"hellaswag", 10042}, {"winogrande", 1267},
                 {"arc_easy", 2376}, {"arc_challenge", 1172}, {"openbookqa", 500},  {"lambada", 5153}};
    if (access("../shared/data/commonsense/piqa.validation.jsonl", R_OK) != 0 || access("../shared/data/lm/lambada_openai.jsonl", R_OK) != 0)
        skip();
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        struct task t;
        struct err err = {{0}};
        enum status status = task_load(&t, tasks[i].name, i < 7 ? "../shared/data/commonsense" : "../shared/data/lm", &err);
        assert_string_equal(err.text, "");
        assert_int_equal(status, OK);
        assert_int_equal(t.n, tasks[i].n);
        task_free(&t);
    }
}

/* ---- parts ---- */

static struct task numbered(size_t n)
{
    struct task t = {.n = n};
    t.doc = calloc(n, sizeof *t.doc);
    assert_non_null(t.doc);
    return t;
}

/* SEARCH and REPORT share nothing, miss nothing, come in order, and SEARCH has ceil(share n). */
static void parts_without_names(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        double share;
    } cases[] = {{1, 0.5}, {10, 0.3}, {10, 0.0}, {10, 1.0}, {7, 0.5}, {1000, 0.25}, {3, 1.0 / 3}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct task t = numbered(cases[k].n);
        size_t *a = malloc(t.n * sizeof *a), *b = malloc(t.n * sizeof *b);
        int *seen = calloc(t.n, sizeof *seen);
        assert_true(a && b && seen);
        size_t na = task_split(&t, PART_SEARCH, cases[k].share, 0, a), nb = task_split(&t, PART_REPORT, cases[k].share, 0, b);
        assert_int_equal(na, (size_t)ceil(cases[k].share * (double)t.n));
        assert_int_equal(na + nb, t.n);
        for (size_t i = 0; i < na; i++)
            seen[a[i]]++;
        for (size_t i = 0; i < nb; i++)
            seen[b[i]]++;
        for (size_t i = 0; i < t.n; i++)
            assert_int_equal(seen[i], 1);
        for (size_t i = 1; i < na; i++)
            assert_true(a[i - 1] < a[i]);
        free(a);
        free(b);
        free(seen);
        task_free(&t);
    }
}

/* A limit takes documents from all over the file, the same ones each time, and a larger limit keeps them. */
static void limits(void **state)
{
    (void)state;
    struct task t = numbered(1000);
    size_t a[1000], b[1000], late = 0, kept = 0;
    assert_int_equal(task_split(&t, PART_REPORT, 0.2, 50, a), 50);
    assert_int_equal(task_split(&t, PART_REPORT, 0.2, 100, b), 100);
    for (size_t i = 0; i < 50; i++) {
        late += a[i] >= 500;
        for (size_t j = 0; j < 100; j++)
            kept += a[i] == b[j];
    }
    assert_int_equal(kept, 50);
    assert_true(late >= 10 && late <= 40); /* 25 expected; outside with probability 1e-5 for a fair draw, and the draw is fixed */
    assert_int_equal(task_split(&t, PART_ALL, 0.2, 0, a), 1000);
    assert_int_equal(a[999], 999);
    task_free(&t);
}

static void named_parts(void **state)
{
    (void)state;
    struct task t = load("piqa", "piqa.validation.jsonl",
                         "{\"split\": \"search\", \"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n"
                         "{\"split\": \"report\", \"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n"
                         "{\"split\": \"report\", \"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n");
    size_t index[3];
    assert_int_equal(task_split(&t, PART_SEARCH, 0.9, 0, index), 1);
    assert_int_equal(index[0], 0);
    assert_int_equal(task_split(&t, PART_REPORT, 0.9, 0, index), 2);
    assert_int_equal(index[0], 1);
    assert_int_equal(index[1], 2);
    task_free(&t);
}

/* ---- files that lie ---- */

static void refused(const char *name, const char *file, const char *text, const char *sentence)
{
    struct task t;
    struct err err;
    put_task(file, text);
    assert_refused(task_load(&t, name, dir, &err), ERR_INPUT, &err, dir, sentence);
    assert_null(t.doc);
}

static void files_that_lie(void **state)
{
    (void)state;
    static const char good[] = "{\"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n";
    static const struct {
        const char *line, *sentence;
    } lines[] = {
        {"{\"choices\": [\"x\", \"y\"], \"label\": 0}", "piqa.validation.jsonl:2.goal: is missing, want a string"},
        {"{\"goal\": \"\", \"choices\": [\"x\", \"y\"], \"label\": 0}", "piqa.validation.jsonl:2.goal: is empty, want text"},
        {"{\"goal\": \"G\", \"label\": 0}", "piqa.validation.jsonl:2.choices: is missing, want an array"},
        {"{\"goal\": \"G\", \"choices\": [\"x\"], \"label\": 0}", "piqa.validation.jsonl:2.choices: 1 choices, want 2 to 16"},
        {"{\"goal\": \"G\", \"choices\": [\"x\", \"\"], \"label\": 0}", "piqa.validation.jsonl:2.choices: one is empty, want text"},
        {"{\"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 2}", "piqa.validation.jsonl:2.label: got 2, want an integer from 0 to 1"},
        {"{\"goal\": \"G\", \"choices\": [\"x\", \"y\"]}", "piqa.validation.jsonl:2.label: is missing, want a number"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s%s\n", good, lines[i].line);
        refused("piqa", "piqa.validation.jsonl", text, lines[i].sentence);
    }
    refused("piqa", "piqa.validation.jsonl", "", "piqa.validation.jsonl: is empty, want documents of piqa");
    refused("boolq", "boolq.validation.jsonl", "{\"question\": \"q\", \"passage\": null, \"label\": 0}\n", "boolq.validation.jsonl:1.passage: got null, want a string");
    refused("winogrande", "winogrande_xl.validation.jsonl", "{\"sentence\": \"no blank\", \"choices\": [\"a\", \"b\"], \"label\": 0}\n",
            "winogrande_xl.validation.jsonl:1.sentence: want one with a blank _ and two choices");
    refused("lambada", "lambada_openai.jsonl", "{\"text\": \"word\"}\n", "lambada_openai.jsonl:1.text: want at least two words");
}

static void no_such_file(void **state)
{
    (void)state;
    struct task t;
    struct err err;
    assert_int_equal(task_load(&t, "arc_challenge", dir, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, ": has no data of task arc_challenge, want one of: arc_challenge.test.jsonl, arc_challenge.validation.jsonl, "
                                     "arc_challenge_xl.validation.jsonl, arc_challenge_openai.jsonl, arc_challenge.jsonl"));
    assert_int_equal(task_load(&t, "mmlu", dir, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, ": has no data of task mmlu, want one of: mmlu.test.jsonl, mmlu.validation.jsonl, mmlu_xl.validation.jsonl, mmlu_openai.jsonl, "
                                     "mmlu.jsonl; it is none of boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa, lambada, so it is a task of "
                                     "your own (docs/evaluate.md)"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts), cmocka_unit_test(endings), cmocka_unit_test(real_files), cmocka_unit_test(parts_without_names),
        cmocka_unit_test(limits), cmocka_unit_test(named_parts), cmocka_unit_test(files_that_lie), cmocka_unit_test(no_such_file),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
