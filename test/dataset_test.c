/* dataset_test.c: what is learned of an example and what is not, token by token; every shape of record; files that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "io/dataset.h"
#include "world_tokenizer.h"

static const char *temp_path(void)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/veneer-dataset-%d", (int)getpid());
    return path;
}

static enum status load_bytes(struct dataset *d, const char *bytes, size_t n, const char *format, struct dataset_options options, struct err *err)
{
    *err = (struct err){{0}};
    assert_int_equal(file_write(temp_path(), bytes, n, err), OK);
    enum status status = dataset_load(d, temp_path(), format, tokenizer, &options, err);
    unlink(temp_path());
    return status;
}

static struct dataset load(const char *file, const char *format, struct dataset_options options)
{
    struct dataset d;
    struct err err;
    enum status status = load_bytes(&d, file, strlen(file), format, options, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return d;
}

static const struct dataset_options usual = {.max_seq_len = 256, .bos = -1};

static void encode(struct tokens *out, const char *text)
{
    struct err err;
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, out, &err), OK);
}

/* Tokens as given; targets from `first` on. */
static void same_example(const struct example *e, const struct tokens *want, size_t first)
{
    assert_int_equal(e->n, want->n);
    for (size_t t = 0; t < want->n; t++) {
        assert_int_equal(e->tokens[t], want->id[t]);
        assert_int_equal(e->labels[t], t + 1 < want->n && t + 1 >= first ? want->id[t + 1] : -1);
    }
}

/* ---- prompt and answer ---- */

static const char with_input[] = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
                                 "appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n";
static const char without_input[] = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
                                    "### Instruction:\nGreet.\n\n### Response:\n";

static void alpaca_template(void **state)
{
    (void)state;
    char *a = dataset_alpaca_prompt("Add.", "1 and 2"), *b = dataset_alpaca_prompt("Greet.", ""), *c = dataset_alpaca_prompt("Greet.", NULL);
    assert_string_equal(a, with_input);
    assert_string_equal(b, without_input);
    assert_string_equal(c, without_input);
    free(a);
    free(b);
    free(c);
}

/* BOS, prompt and answer in one, EOS; the prompt is masked. */
static void answer_is_learned(void **state)
{
    (void)state;
    struct tokens want = {0}, prompt = {0};
    struct err err;
    struct dataset_options wide = {.max_seq_len = 2048, .bos = -1};
    char all[1024];
    struct dataset d = load("{\"instruction\": \"Add.\", \"input\": \"1 and 2\", \"output\": \"3\"}\n\n{\"instruction\": \"Greet.\", \"output\": \"Hello there\"}\n",
                            "auto", wide);
    assert_string_equal(d.format, "alpaca");
    assert_int_equal(d.n, 2);
    assert_int_equal(tokens_push(&want, 1, &err), OK);
    snprintf(all, sizeof all, "%sHello there", without_input);
    encode(&want, all);
    encode(&prompt, without_input);
    assert_int_equal(tokens_push(&want, 2, &err), OK);
    same_example(&d.example[1], &want, 1 + prompt.n);
    dataset_free(&d);
    wide.train_on_inputs = true;
    wide.bos = 0;
    d = load("[{\"instruction\": \"Greet.\", \"input\": null, \"response\": \"Hello there\"}]", "auto", wide);
    memmove(want.id, want.id + 1, (want.n - 1) * sizeof *want.id);
    want.n--;
    same_example(&d.example[0], &want, 1);
    assert_int_equal(d.labelled, want.n - 1);
    dataset_free(&d);
    tokens_free(&want);
    tokens_free(&prompt);
}

/* Cut on the right; EOS only where it fits; an example of which no answer is left does not count. */
static void cut_on_the_right(void **state)
{
    (void)state;
    static const char file[] = "{\"prompt\": \"one two\", \"completion\": \" three four\"}\n";
    struct tokens want = {0}, prompt = {0};
    struct err err;
    assert_int_equal(tokens_push(&want, 1, &err), OK);
    encode(&want, "one two three four");
    encode(&prompt, "one two");
    int32_t n = (int32_t)want.n;
    struct dataset d = load(file, "auto", (struct dataset_options){.max_seq_len = n, .bos = -1});
    assert_string_equal(d.format, "prompt");
    same_example(&d.example[0], &want, 1 + prompt.n); /* exactly full: no EOS, and none is missing */
    assert_int_equal(d.cut, 0);
    dataset_free(&d);
    want.n--;
    d = load(file, "auto", (struct dataset_options){.max_seq_len = n - 1, .bos = -1});
    same_example(&d.example[0], &want, 1 + prompt.n);
    assert_int_equal(d.cut, 1);
    dataset_free(&d);
    struct dataset_options narrow = {.max_seq_len = (int32_t)prompt.n + 1, .bos = -1};
    assert_int_equal(load_bytes(&d, file, sizeof file - 1, "auto", narrow, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "no example has a token to learn within"));
    tokens_free(&want);
    tokens_free(&prompt);
}

static void same_datasets(const struct dataset *a, const struct dataset *b)
{
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        assert_int_equal(a->example[i].n, b->example[i].n);
        size_t bytes = (size_t)a->example[i].n * sizeof(int32_t);
        assert_memory_equal(a->example[i].tokens, b->example[i].tokens, bytes);
        assert_memory_equal(a->example[i].labels, b->example[i].labels, bytes);
    }
}

/* A prompt that brings its BOS along is the same example as one that does not. */
static void one_bos_before_a_prompt(void **state)
{
    (void)state;
    struct dataset with = load("{\"prompt\": \"<s>one two\", \"completion\": \" three four\"}\n", "auto", usual);
    struct dataset without = load("{\"prompt\": \"one two\", \"completion\": \" three four\"}\n", "auto", usual);
    assert_int_equal(without.example[0].tokens[0], 1);
    same_datasets(&with, &without);
    dataset_free(&with);
    dataset_free(&without);
}

/* ---- conversations ---- */

static void answers_of_a_conversation(void **state)
{
    (void)state;
    struct dataset a = load("{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"one\"}, "
                            "{\"role\": \"assistant\", \"content\": \"two\"}]}",
                            "auto", usual);
    struct dataset b = load("{\"conversations\": [{\"from\": \"system\", \"value\": \"S\"}, {\"from\": \"human\", \"value\": \"one\"}, "
                            "{\"from\": \"gpt\", \"value\": \"two\"}]}",
                            "auto", usual);
    assert_string_equal(a.format, "messages");
    assert_string_equal(b.format, "sharegpt");
    assert_string_equal(a.form, "as ChatML: the model has no chat template");
    same_datasets(&a, &b);
    const struct example *e = &a.example[0];
    int32_t learned[64], n = 0; /* what is learned reads "two<|im_end|>" */
    for (int32_t t = 0; t < e->n; t++)
        if (e->labels[t] >= 0)
            learned[n++] = e->labels[t];
    char *text;
    size_t text_n;
    struct err err;
    assert_int_equal(tokenizer_decode(tokenizer, learned, (size_t)n, &text, &text_n, &err), OK);
    text[strcspn(text, "<")] = 0;
    assert_non_null(strstr(text, "two"));
    assert_null(strstr(text, "one"));
    free(text);
    dataset_free(&a);
    dataset_free(&b);
}

/* ---- by a chat template ---- */

static const char answered[] = "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' ~ m.content ~ '\n' }}{% else %}{{ 'A: ' ~ m.content ~ eos_token ~ '\n' }}{% endif %}"
                               "{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}";

static struct dataset_options by(const char *source, bool all)
{
    return (struct dataset_options){.max_seq_len = 256, .bos = -1, .chat_template = source, .chat_name = "the template", .chat_all = all};
}

/* BOS and the template's text; answers with the EOS behind each are learned, and nothing else. */
static void conversations_by_a_template(void **state)
{
    (void)state;
    static const char *const part[] = {"Q: one two\nA:", "Q: one two\nA: three</s>", "Q: one two\nA: three</s>\nQ: four\nA:",
                                       "Q: one two\nA: three</s>\nQ: four\nA: five six</s>"};
    struct tokens want = {0}, before[4] = {{0}};
    struct err err;
    struct dataset a = load("{\"messages\": [{\"role\": \"user\", \"content\": \"one two\"}, {\"role\": \"assistant\", \"content\": \"three\"}, "
                            "{\"role\": \"user\", \"content\": \"four\"}, {\"role\": \"assistant\", \"content\": \"five six\"}]}",
                            "auto", by(answered, false));
    struct dataset b = load("[{\"conversations\": [{\"from\": \"human\", \"value\": \"one two\"}, {\"from\": \"gpt\", \"value\": \"three\"}, "
                            "{\"from\": \"human\", \"value\": \"four\"}, {\"from\": \"gpt\", \"value\": \"five six\"}]}]",
                            "auto", by(answered, false));
    assert_string_equal(a.form, "the template");
    same_datasets(&a, &b);
    assert_int_equal(tokens_push(&want, 1, &err), OK);
    encode(&want, "Q: one two\nA: three</s>\nQ: four\nA: five six</s>\n");
    for (int i = 0; i < 4; i++)
        encode(&before[i], part[i]);
    const struct example *e = &a.example[0];
    assert_int_equal(e->n, want.n);
    for (size_t t = 0; t < want.n; t++) {
        bool first = t >= before[0].n && t < before[1].n, second = t >= before[2].n && t < before[3].n; /* the label of row t is token t without BOS */
        assert_int_equal(e->tokens[t], want.id[t]);
        assert_int_equal(e->labels[t], first || second ? want.id[t + 1] : -1);
    }
    dataset_free(&a);
    dataset_free(&b);
    struct dataset_options everything = by(answered, false);
    everything.train_on_inputs = true;
    a = load("{\"messages\": [{\"role\": \"user\", \"content\": \"one two\"}, {\"role\": \"assistant\", \"content\": \"three\"}]}", "auto", everything);
    assert_int_equal(a.labelled, a.tokens - 1);
    dataset_free(&a);
    tokens_free(&want);
    for (int i = 0; i < 4; i++)
        tokens_free(&before[i]);
}

/* An instruction stays in Alpaca's form unless a template is asked for. */
static void alpaca_by_a_template(void **state)
{
    (void)state;
    static const char alpaca[] = "{\"instruction\": \"Add.\", \"input\": \"1 and 2\", \"output\": \"three\"}\n{\"instruction\": \"Greet.\", \"output\": \"Hello\"}";
    static const char messages[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Add.\\n\\n1 and 2\"}, {\"role\": \"assistant\", \"content\": \"three\"}]}\n"
                                   "{\"messages\": [{\"role\": \"user\", \"content\": \"Greet.\"}, {\"role\": \"assistant\", \"content\": \"Hello\"}]}";
    struct dataset asked = load(alpaca, "auto", by(answered, true)), same = load(messages, "auto", by(answered, false));
    struct dataset_options wide = by(answered, false);
    wide.max_seq_len = 2048;
    struct dataset not_asked = load(alpaca, "auto", wide), plain = load(alpaca, "auto", (struct dataset_options){.max_seq_len = 2048, .bos = -1});
    same_datasets(&asked, &same);
    same_datasets(&not_asked, &plain);
    assert_string_equal(asked.form, "the template");
    assert_string_equal(not_asked.form, "");
    dataset_free(&asked);
    dataset_free(&same);
    dataset_free(&not_asked);
    dataset_free(&plain);
}

static void refused_by_a_template(void **state)
{
    (void)state;
    static const char file[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n"
                               "{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n";
    static const char strict[] = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ m.content }}{% endfor %}";
    static const char sentence[] = ":2: the template: line 1: the template refuses this conversation: no tools";
    struct dataset d;
    struct err err;
    assert_int_equal(load_bytes(&d, file, sizeof file - 1, "auto", by(strict, false), &err), ERR_INPUT);
    assert_non_null(strstr(err.text, sentence));
    struct dataset_options skip = by(strict, false);
    skip.skip_invalid = true;
    d = load(file, "auto", skip);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.skipped, 1);
    assert_non_null(strstr(d.first_skipped, sentence));
    dataset_free(&d);
    assert_int_equal(load_bytes(&d, file, sizeof file - 1, "auto", by("{% if %}", false), &err), ERR_INPUT);
    assert_string_equal(err.text, "the template: line 1: got %}, want a value");
}

/* ---- text ---- */

static void documents(void **state)
{
    (void)state;
    struct dataset lines = load("{\"text\": \"one two\"}\n{\"text\": \"three\\n\\nfour\"}\n", "auto", usual);
    struct dataset marked = load("one two\n<|endoftext|>\nthree\n\nfour\n", "auto", usual);
    same_datasets(&lines, &marked);
    struct dataset paragraphs = load("one two\n\n\nthree\r\n\r\nfour\n", "text", usual);
    assert_int_equal(paragraphs.n, 3);
    struct tokens want = {0};
    struct err err;
    assert_int_equal(tokens_push(&want, 1, &err), OK);
    encode(&want, "one two");
    assert_int_equal(tokens_push(&want, 2, &err), OK);
    same_example(&paragraphs.example[0], &want, 1);
    tokens_free(&want);
    dataset_free(&lines);
    dataset_free(&marked);
    dataset_free(&paragraphs);
}

/* Packed rows, put one after the other, are the documents with BOS and EOS, and each token but the first is predicted once. */
static void packed_rows(void **state)
{
    (void)state;
    static const char file[] = "one two three\n\nfour five\n\nsix\n";
    struct dataset whole = load(file, "text", usual);
    struct dataset rows = load(file, "text", (struct dataset_options){.max_seq_len = 5, .bos = -1, .packing = true});
    struct tokens stream = {0};
    struct err err;
    for (size_t i = 0; i < whole.n; i++)
        for (int32_t t = 0; t < whole.example[i].n; t++)
            assert_int_equal(tokens_push(&stream, whole.example[i].tokens[t], &err), OK);
    size_t at = 1;
    for (size_t i = 0; i < rows.n; i++)
        for (int32_t t = 0; t < rows.example[i].n; t++) {
            assert_true(rows.example[i].n <= 5);
            if (rows.example[i].labels[t] < 0)
                continue;
            assert_int_equal(rows.example[i].tokens[t], stream.id[at - 1]);
            assert_int_equal(rows.example[i].labels[t], stream.id[at++]);
        }
    assert_int_equal(at, stream.n);
    tokens_free(&stream);
    dataset_free(&whole);
    dataset_free(&rows);
}

static void no_more_than_the_limit(void **state)
{
    (void)state;
    static const char file[] = "one\n\ntwo\n\nthree\n";
    for (size_t limit = 1; limit < 3; limit++)
        for (int packing = 0; packing < 2; packing++) {
            struct dataset d = load(file, "text", (struct dataset_options){.max_seq_len = 2, .bos = -1, .packing = packing, .limit = limit});
            assert_int_equal(d.n, limit);
            dataset_free(&d);
        }
}

/* ---- files that lie ---- */

static void refused(const char *file, size_t n, const char *format, const char *sentence)
{
    struct dataset d;
    struct err err;
    char want[512];
    assert_int_equal(load_bytes(&d, file, n, format, usual, &err), ERR_INPUT);
    snprintf(want, sizeof want, "%s%s", temp_path(), sentence);
    assert_string_equal(err.text, want);
    assert_int_equal(d.n, 0);
    assert_null(d.example);
}

static void files_that_lie(void **state)
{
    (void)state;
    static const struct {
        const char *file, *format, *sentence;
    } cases[] = {
        {"", "auto", ": is empty, want examples"},
        {" \n\t\n", "auto", ": is empty, want examples"},
        {"[]", "auto", ": no example has a token to learn within 256 tokens"},
        {"{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\"}\n", "auto", ":2.output: is missing, want a string"},
        {"{\"instruction\": \"a\", \"output\": \"\"}\n", "auto", ":1.output: is empty, want text"},
        {"{\"instruction\": 7, \"output\": \"b\"}\n", "auto", ":1.instruction: got a number, want a string"},
        {"{\"instruction\": \"a\", \"input\": [], \"output\": \"b\"}\n", "auto", ":1.input: got an array, want a string"},
        {"[{\"prompt\": \"a\", \"completion\": \"b\"}, {\"prompt\": \"a\"}]", "auto", "[1].completion: is missing, want a string"},
        {"[{\"prompt\": \"a\", \"completion\": \"b\"}, 3]", "auto", "[1]: got a number, want an object"},
        {"{\"question\": \"a\"}\n", "auto", ":1: has none of instruction, messages, conversations, prompt, text"},
        {"{\"messages\": []}\n", "auto", ":1.messages: is empty, want turns"},
        {"{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}\n", "auto", ":1: role 'tool', want system, user or assistant"},
        {"{\"text\": \"a\"}\n", "alpaca", ":1.instruction: is missing, want a string"},
        {"plain text\n", "alpaca", ":1: 'p' opens no JSON, want an array or one object a line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].file, strlen(cases[i].file), cases[i].format, cases[i].sentence);
    refused("plain\nte\0xt\n", 12, "text", ":2: holds a NUL byte, want text");
}

/* skip_invalid: bad rows are counted and the first is named; a file of nothing else is still refused. */
static void bad_rows_left_out(void **state)
{
    (void)state;
    struct dataset_options skip = usual;
    skip.skip_invalid = true;
    struct dataset d = load("{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"output\": \"\"}\n{\"instruction\"\n"
                            "{\"instruction\": \"c\", \"output\": \"d\"}\n", "auto", skip);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.skipped, 2);
    assert_non_null(strstr(d.first_skipped, ":2.output: is empty, want text"));
    dataset_free(&d);
    d = load("[{\"prompt\": \"a\"}, {\"prompt\": \"a\", \"completion\": \"b\"}, 3]", "auto", skip);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.skipped, 2);
    dataset_free(&d);
    struct err err;
    char want[256];
    static const char none[] = "{\"instruction\": \"a\", \"output\": \"\"}\n";
    assert_int_equal(load_bytes(&d, none, sizeof none - 1, "auto", skip, &err), ERR_INPUT);
    snprintf(want, sizeof want, "%s: all 1 rows were left out, the first: %s:1.output: is empty, want text", temp_path(), temp_path());
    assert_string_equal(err.text, want);
}

/* The JSON reader's own words follow the place. */
static void no_json(void **state)
{
    (void)state;
    struct dataset d;
    struct err err;
    char want[128];
    static const char file[] = "{\"text\": \"a\"}\n{\"text\": \"b\"\n";
    assert_int_equal(load_bytes(&d, file, sizeof file - 1, "auto", usual, &err), ERR_INPUT);
    snprintf(want, sizeof want, "%s:2: ", temp_path());
    assert_memory_equal(err.text, want, strlen(want));
    assert_int_equal(load_bytes(&d, file, sizeof file - 1, "csv", usual, &err), ERR_INPUT);
    assert_string_equal(err.text, "dataset_format = 'csv', want auto, alpaca, messages, sharegpt, prompt or text");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alpaca_template), cmocka_unit_test(answer_is_learned), cmocka_unit_test(cut_on_the_right), cmocka_unit_test(one_bos_before_a_prompt),
        cmocka_unit_test(answers_of_a_conversation), cmocka_unit_test(conversations_by_a_template), cmocka_unit_test(alpaca_by_a_template),
        cmocka_unit_test(refused_by_a_template), cmocka_unit_test(documents), cmocka_unit_test(packed_rows),
        cmocka_unit_test(no_more_than_the_limit), cmocka_unit_test(files_that_lie), cmocka_unit_test(no_json),
        cmocka_unit_test(bad_rows_left_out),
    };
    return cmocka_run_group_tests(tests, load_tokenizer, free_tokenizer);
}
