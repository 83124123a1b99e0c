/* tasks_own_test.c: a user's own documents: contexts, examples in front and what counts of a written answer by hand; the sentences of files that are wrong. */
#include "refused.h"

#include "io/tasks.h"

static void put(const char *name, const char *text)
{
    put_file(".", name, text, strlen(text));
}

static struct task load(const char *name, int64_t num_fewshot)
{
    struct task task;
    struct err err = {{0}};
    enum status status = task_load_fewshot(&task, name, ".", num_fewshot, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return task;
}

/* ---- documents ---- */

/* A document with choices is what it says; characters, not bytes; idx counts documents, not lines. */
static void choices(void **state)
{
    (void)state;
    put("mine.jsonl", "{\"context\": \"Q: a?\\nA:\", \"choices\": [\"n\xc3\xa9\", \"b\"], \"gold\": 1, \"source\": 7}\r\n\n"
                      "{\"context\": \"C\", \"choices\": [\"x\", \"y\", \"z\"], \"gold\": 0, \"split\": \"report\"}\n");
    struct task t = load("mine", 0);
    assert_true(t.own && t.has_norm && !t.headline_norm && !t.rules && t.n == 2 && t.num_fewshot == 0);
    const struct task_doc *d = &t.doc[0];
    assert_string_equal(d->context[0], "Q: a?\nA:");
    assert_ptr_equal(d->context[1], d->context[0]);
    assert_string_equal(d->continuation[0], " n\xc3\xa9");
    assert_true(d->characters[0] == 2 && d->gold == 1 && d->idx == 0 && d->line == 1);
    d = &t.doc[1];
    assert_true(d->n_choices == 3 && d->gold == 0 && d->idx == 1 && d->line == 3 && d->part == 'r');
    assert_string_equal(t.path, "./mine.jsonl");
    task_free(&t);
}

/* Description, the group's examples with their right answers, the document: as MMLU has it. */
static void examples_of_a_group(void **state)
{
    (void)state;
    put("mmlu.test.jsonl", "{\"config\": {\"num_fewshot\": 2, \"metric\": \"acc_norm\"}}\n"
                           "{\"group\": \"law\", \"description\": \"About law.\\n\\n\", \"context\": \"L3\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 0}\n"
                           "{\"group\": \"art\", \"context\": \"K3\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 1}\n"
                           "{\"fewshot\": \"As it is. \", \"context\": \"K4\", \"choices\": [\"A\", \"B\"], \"gold\": 1}\n");
    put("mmlu.dev.jsonl", "{\"config\": {\"description\": \"not looked at\"}}\n"
                          "{\"group\": \"law\", \"context\": \"L1\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 1}\n"
                          "{\"group\": \"art\", \"context\": \"K1\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 0}\n"
                          "{\"group\": \"law\", \"context\": \"L2\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 0}\n"
                          "{\"group\": \"art\", \"context\": \"K2\\nAnswer:\", \"choices\": [\"A\", \"B\"], \"gold\": 1}\n"
                          "{\"group\": \"law\", \"context\": \"one too many\", \"choices\": [\"A\", \"B\"], \"gold\": 1}\n");
    struct task t = load("mmlu", 0);
    assert_true(t.headline_norm && t.num_fewshot == 2);
    assert_string_equal(t.doc[0].context[0], "About law.\n\nL1\nAnswer: B\n\nL2\nAnswer: A\n\nL3\nAnswer:");
    assert_ptr_equal(t.doc[0].context[1], t.doc[0].context[0]);
    assert_string_equal(t.doc[1].context[1], "K1\nAnswer: A\n\nK2\nAnswer: B\n\nK3\nAnswer:");
    assert_string_equal(t.doc[2].context[0], "As it is. K4");
    assert_null(t.doc[0].front);
    task_free(&t);
    t = load("mmlu", 1); /* what the caller says goes before what the file says */
    assert_string_equal(t.doc[1].context[0], "K1\nAnswer: A\n\nK3\nAnswer:");
    task_free(&t);
}

/* The common-sense tasks take examples too; winogrande's contexts differ, and an example is its right side. */
static void examples_of_a_known_task(void **state)
{
    (void)state;
    put("winogrande.jsonl", "{\"sentence\": \"Ian ate as _ was hungry.\", \"choices\": [\"Ian\", \"Dennis\"], \"label\": 1}\n");
    put("winogrande.train.jsonl", "{\"sentence\": \"A saw _ run.\", \"choices\": [\"B\", \"C\"], \"label\": 1}\n");
    struct task t = load("winogrande", 1);
    assert_string_equal(t.doc[0].context[0], "A saw C run.\n\nIan ate as Ian");
    assert_string_equal(t.doc[0].context[1], "A saw C run.\n\nIan ate as Dennis");
    assert_false(t.own);
    task_free(&t);
}

/* As GSM8K has it: examples show the whole answer, the reference is what the pattern finds in it. */
static void prompts(void **state)
{
    (void)state;
    put("gsm8k.test.jsonl", "{\"config\": {\"pattern\": \"#### (-?[0-9.,]+)\", \"until\": [\"Question:\", \"</s>\"], \"max_gen_toks\": 40, \"regexes_to_ignore\": [\",\"]}}\n"
                            "{\"prompt\": \"Question: 1?\\nAnswer:\", \"answer\": \"It is so.\\n#### 1,024\"}\n"
                            "{\"prompt\": \"P\", \"answer\": \" Yes \", \"pattern\": \"(?i)yes|no\"}\n"
                            "{\"prompt\": \"P\", \"answer\": \"12\"}\n");
    put("gsm8k.train.jsonl", "{\"prompt\": \"Question: 0?\\nAnswer:\", \"answer\": \"It is not.\\n#### 0\"}\n");
    struct task t = load("gsm8k", 1);
    assert_true(t.rules && !t.has_norm && t.rules->max_gen_toks == 40 && t.rules->n_until == 2 && t.rules->n_patterns == 2);
    assert_string_equal(t.doc[0].context[0], "Question: 0?\nAnswer: It is not.\n#### 0\n\nQuestion: 1?\nAnswer:");
    assert_string_equal(t.doc[0].answer, "1024");
    assert_string_equal(t.doc[1].answer, "Yes");
    assert_string_equal(t.doc[2].answer, "12"); /* the pattern is not in it: all of it */
    assert_int_equal(t.doc[0].n_choices, 1);
    task_free(&t);
    put("plain.jsonl", "{\"prompt\": \"P\", \"answer\": \"12\"}\n");
    t = load("plain", 0);
    assert_true(t.rules->max_gen_toks == 256 && t.rules->n_until == 1 && t.doc[0].pattern == NO_PATTERN);
    assert_string_equal(t.rules->until[0], "\n\n");
    task_free(&t);
}

/* ---- what counts of an answer ---- */

static const struct extraction {
    const char *pattern, *ignored, *text, *want; /* want NULL: not found */
    int64_t select;
} extractions[] = {
    {NULL, NULL, " a b\n", "a b", 0},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", "12", 0},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", "13", -1},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", "12", -2},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", "13", 1},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", NULL, 2},
    {"#### (-?[0-9.,]+)", NULL, "so\n#### 12\n#### 13", NULL, -3},
    {"#### (-?[0-9.,]+)", NULL, "12", NULL, 0},
    {"(-?[$0-9.,]{2,})|(-?[0-9]+)", NULL, "it is 7", "7", -1},     /* the harness' flexible-extract: the group that holds something */
    {"(-?[$0-9.,]{2,})|(-?[0-9]+)", "[$,]|\\.$", "7, so $1,250.", "1250", -1},
    {"[0-9]*", NULL, "\xc3\xa9 12", "", 0},                            /* matches nothing first, as re.findall does */
    {"[0-9]*", NULL, "\xc3\xa9 12", "12", 2},                          /* behind a character, not a byte */
    {"(?<=is )\\w+", NULL, "it is \xc3\xbc" "ber all", "\xc3\xbc" "ber", 0},    /* \w is Unicode's */
    {"\\bB\\b", "B", "B", "", 0},
    {"(x+x+)+y", NULL, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", NULL, 0}, /* gives up: not found */
};

static void what_counts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof extractions / sizeof *extractions; i++) {
        const struct extraction *x = &extractions[i];
        struct task_rules *rules = task_rules_new();
        struct err err = {{0}};
        struct text out = {0};
        int32_t index = NO_PATTERN;
        bool found;
        assert_non_null(rules);
        rules->group_select = x->select;
        if (x->pattern)
            assert_int_equal(task_rules_add_pattern(rules, x->pattern, "here", &index, &err), OK);
        if (x->ignored)
            assert_int_equal(task_rules_add_ignored(rules, x->ignored, "here", &err), OK);
        text_add(&out, "", 0);
        assert_int_equal(task_rules_extract(rules, index, x->text, strlen(x->text), &out, &found, &err), OK);
        if (found != (x->want != NULL) || (found && strcmp(out.s, x->want) != 0))
            fail_msg("%zu: '%s' in '%s' is '%s'", i, x->pattern, x->text, found ? out.s : "nowhere");
        text_free(&out);
        task_rules_free(rules);
    }
}

static void sameness_and_stops(void **state)
{
    (void)state;
    struct task_rules *rules = task_rules_new(), *other = task_rules_share(rules);
    struct err err = {{0}};
    bool same;
    static const struct {
        const char *a, *b;
        bool same, anyway; /* anyway: when the case is ignored */
    } pairs[] = {{"12", "12", true, true}, {"Yes", "yes", false, true}, {"\xc3\x9c" "ber", "\xc3\xbc" "ber", false, true}, {"a.c", "abc", false, false}, {"yes", "yes.", false, false}, {"", "", true, true}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        for (int ignore = 0; ignore < 2; ignore++) {
            rules->ignore_case = ignore;
            assert_int_equal(task_rules_same(rules, pairs[i].a, pairs[i].b, &same, &err), OK);
            assert_int_equal(same, ignore ? pairs[i].anyway : pairs[i].same);
        }
    assert_int_equal(task_rules_add_until(rules, "\n\n", "here", &err), OK);
    assert_int_equal(task_rules_add_until(rules, "Q:", "here", &err), OK);
    assert_int_equal(task_rules_end(rules, "a Q: b\n\n", 8, 0), 2);
    assert_int_equal(task_rules_end(rules, "a\n\nQ:", 5, 0), 1);
    assert_int_equal(task_rules_end(rules, "ab\n\n", 4, 3), 2); /* its first byte was there before */
    assert_int_equal(task_rules_end(rules, "a\n", 2, 0), 2);
    task_rules_free(rules);
    assert_int_equal(other->n_until, 2); /* the other holder still has it */
    task_rules_free(other);
}

/* ---- files that are wrong ---- */

static void refused(const char *text, const char *sentence)
{
    struct task t;
    struct err err = {{0}};
    put("bad.jsonl", text);
    assert_refused(task_load(&t, "bad", ".", &err), ERR_INPUT, &err, ".", sentence);
    assert_true(!t.doc && !t.rules && !t.path);
}

static void wrong_lines(void **state)
{
    (void)state;
    static const struct {
        const char *line, *sentence;
    } lines[] = {
        {"{\"choices\": [\"x\", \"y\"], \"gold\": 0}", "bad.jsonl:2.context: is missing, want a string"},
        {"{\"context\": \"\", \"choices\": [\"x\", \"y\"], \"gold\": 0}", "bad.jsonl:2.context: is empty, want text"},
        {"{\"context\": \"C\", \"choices\": [\"x\"], \"gold\": 0}", "bad.jsonl:2.choices: 1 choices, want 2 to 16"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"\"], \"gold\": 0}", "bad.jsonl:2.choices: one is empty, want text"},
        {"{\"context\": \"C\", \"choices\": [\"x\", 3], \"gold\": 0}", "bad.jsonl:2: got a number, want a string"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 2}", "bad.jsonl:2.gold: got 2, want an integer from 0 to 1"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": -1}", "bad.jsonl:2.gold: got -1, want an integer from 0 to 1"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": \"x\"}", "bad.jsonl:2.gold: got a string, want a number"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"]}", "bad.jsonl:2.gold: is missing, want a number"},
        {"{\"context\": \"C\", \"context\": \"C\"}", "bad.jsonl:2: member \"context\" is there twice"},
        {"{\"prompt\": \"P\", \"answer\": \"x\"}", "bad.jsonl:2: has a prompt, the documents before it choices; want one kind in a task"},
        {"{\"context\": \"C\", \"answer\": \"x\"}", "bad.jsonl:2: has fields of both kinds, want either context, choices and gold, or prompt and answer"},
        {"{\"question\": \"Q\"}", "bad.jsonl:2: has no document, want either context, choices and gold, or prompt and answer"},
        {"{\"config\": {}}", "bad.jsonl:2.config: want it in the first line alone"},
        {"[1]", "bad.jsonl:2: got an array, want an object"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0, \"idx\": 0}", "bad.jsonl:2.idx: 0 is that of line 1 too"},
        {"{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0, \"fewshot\": \"F\", \"group\": \"g\"}",
         "bad.jsonl:2: has fewshot, which stands for all examples, and group, whose examples are taken; want one of them"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n%s\n", lines[i].line);
        refused(text, lines[i].sentence);
    }
    refused("", "bad.jsonl: is empty, want documents of bad");
    refused("{\"config\": {}}\n", "bad.jsonl: is empty, want documents of bad");
    refused("{\"prompt\": \"\", \"answer\": \"x\"}\n", "bad.jsonl:1.prompt: is empty, want text");
    refused("{\"prompt\": \"P\", \"answer\": 72}\n", "bad.jsonl:1.answer: got a number, want a string");
    refused("{\"prompt\": \"P\", \"answer\": \" \"}\n", "bad.jsonl:1.answer: ' ' leaves nothing to be matched, once blanks and regexes_to_ignore are taken out");
    refused("{\"prompt\": \"P\", \"answer\": \"x\", \"pattern\": \"a(b\"}\n", "bad.jsonl:1.pattern: 'a(b' is no regular expression: missing closing parenthesis at offset 3");
    refused("{\"prompt\": \"P\", \"answer\": \"x\"}\n{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n",
            "bad.jsonl:2: has choices, the documents before it prompts; want one kind in a task");
}

#define CHOICE_LINE "{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
#define PROMPT_LINE "{\"prompt\": \"P\", \"answer\": \"x\"}\n"

static void wrong_first_lines(void **state)
{
    (void)state;
    refused("{\"config\": 3}\n" CHOICE_LINE, "bad.jsonl:1.config: got a number, want an object");
    refused("{\"config\": {\"patern\": \"x\"}}\n" PROMPT_LINE,
            "bad.jsonl:1.config.patern: is unknown, want description, target_delimiter, fewshot_delimiter, num_fewshot; metric for choices; max_gen_toks, until, pattern, "
            "group_select, ignore_case, regexes_to_ignore for answers");
    refused("{\"config\": {\"pattern\": \"[a\"}}\n" PROMPT_LINE,
            "bad.jsonl:1.config.pattern: '[a' is no regular expression: missing terminating ] for character class at offset 2");
    refused("{\"config\": {\"regexes_to_ignore\": [\",\", \"*\"]}}\n" PROMPT_LINE,
            "bad.jsonl:1.config.regexes_to_ignore: '*' is no regular expression: quantifier does not follow a repeatable item at offset 0");
    refused("{\"config\": {\"until\": [\"\"]}}\n" PROMPT_LINE, "bad.jsonl:1.config.until: one is empty, want text");
    refused("{\"config\": {\"max_gen_toks\": 0}}\n" PROMPT_LINE, "bad.jsonl:1.config.max_gen_toks: got 0, want an integer from 1 to 1048576");
    refused("{\"config\": {\"metric\": \"f1\"}}\n" CHOICE_LINE, "bad.jsonl:1.config.metric: 'f1', want acc or acc_norm");
    refused("{\"config\": {\"metric\": \"acc\"}}\n" PROMPT_LINE, "bad.jsonl:1.config.metric: is for choices, the documents have prompts: their metric is exact_match");
    refused("{\"config\": {\"until\": [\"x\"]}}\n" CHOICE_LINE,
            "bad.jsonl:1.config: has keys for prompts (max_gen_toks, until, pattern, group_select, ignore_case, regexes_to_ignore), the documents have choices");
}

static void wrong_examples(void **state)
{
    (void)state;
    struct task t;
    struct err err = {{0}};
    put("lone.jsonl", CHOICE_LINE);
    assert_refused(task_load_fewshot(&t, "lone", ".", 2, &err), ERR_INPUT, &err, "",
                   ".: num_fewshot = 2 wants examples of task lone in lone.dev.jsonl or lone.train.jsonl");
    put("lone.dev.jsonl", CHOICE_LINE);
    assert_refused(task_load_fewshot(&t, "lone", ".", 2, &err), ERR_INPUT, &err, ".", "lone.dev.jsonl: has 1 examples without a group, num_fewshot = 2");
    put("lone.dev.jsonl", PROMPT_LINE);
    assert_refused(task_load_fewshot(&t, "lone", ".", 1, &err), ERR_INPUT, &err, ".",
                   "lone.dev.jsonl:1: has a prompt, the documents before it choices; want one kind in a task");
    put("lone.jsonl", "{\"group\": \"g\", \"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n");
    put("lone.dev.jsonl", CHOICE_LINE);
    assert_refused(task_load_fewshot(&t, "lone", ".", 1, &err), ERR_INPUT, &err, ".", "lone.dev.jsonl: has 0 examples of group 'g', num_fewshot = 1");
    put("piqa.jsonl", "{\"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n");
    put("piqa.train.jsonl", "{\"goal\": \"G\", \"choices\": [\"x\", \"y\"], \"label\": 0}\n");
    assert_refused(task_load_fewshot(&t, "piqa", ".", 5, &err), ERR_INPUT, &err, ".", "piqa.train.jsonl: has 1 examples, num_fewshot = 5");
}

static void lists_of_names(void **state)
{
    (void)state;
    struct err err = {{0}};
    char name[MAX_TASK_NAME + 1];
    const char *list = "piqa,my-own_1.2";
    assert_int_equal(task_list_check(list, "--tasks", 2, &err), OK);
    assert_true(task_list_next(&list, name));
    assert_string_equal(name, "piqa");
    assert_true(task_list_next(&list, name));
    assert_string_equal(name, "my-own_1.2");
    assert_false(task_list_next(&list, name));
    static const struct {
        const char *list, *sentence;
    } wrong[] = {{"piqa,a,piqa", "--tasks: names 'piqa' twice"},
                 {"a,b,c", "--tasks: names more than 2 tasks"},
                 {"", "--tasks: names no task"},
                 {"a,,b", "--tasks: '' is no name of a task, want 1 to 31 letters, digits, '_', '-' and '.'"},
                 {"../a", "--tasks: '../a' is no name of a task, want 1 to 31 letters, digits, '_', '-' and '.'"},
                 {"a_name_that_has_more_than_31_let", "--tasks: 'a_name_that_has_more_than_31_let' is no name of a task, want 1 to 31 letters, digits, '_', '-' and '.'"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_refused(task_list_check(wrong[i].list, "--tasks", 2, &err), ERR_INPUT, &err, "", wrong[i].sentence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices),     cmocka_unit_test(examples_of_a_group), cmocka_unit_test(examples_of_a_known_task), cmocka_unit_test(prompts),
        cmocka_unit_test(what_counts), cmocka_unit_test(sameness_and_stops),  cmocka_unit_test(wrong_lines),              cmocka_unit_test(wrong_first_lines),
        cmocka_unit_test(wrong_examples), cmocka_unit_test(lists_of_names),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
