/* world_test.c: the default run's data.  What a user would lose if it broke: task scores that measure memorised questions, a
 * search part that leaks into the report, labels that a constant guess wins, files that cannot be made again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/world/src/world.h"
#include "io/json.h"
#include "io/tasks.h"
#include "io/tokenizer.h"

static const char *const folder = "data/world";

static void load(struct task *task, int form)
{
    struct err err = {{0}};
    if (task_load(task, task_forms[form].name, folder, &err) != OK)
        fail_msg("%s", err.text);
}

/* What the model reads when the right choice is scored. */
static char *right_text(const struct task_doc *doc)
{
    struct text text = {0};
    text_printf(&text, "%s%s", doc->context[doc->gold], doc->continuation[doc->gold]);
    assert_false(text.failed);
    return text.s;
}

/* ---- the committed files are what the generator writes ---- */

static void same_as_file(const char *name, const struct text *made)
{
    struct err err = {{0}};
    char path[256], *data;
    size_t n;
    assert_false(made->failed);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (file_read(path, 64u << 20, &data, &n, &err) != OK)
        fail_msg("%s", err.text);
    if (n != made->n || memcmp(data, made->s, n) != 0)
        fail_msg("%s differs from what `make world` writes", path);
    free(data);
}

static void remade_bit_for_bit(void **state)
{
    (void)state;
    struct err err = {{0}};
    struct text out = {0};
    struct world world;
    world_draw(&world, WORLD_SEED);
    for (int form = 0; form < WORLD_TASKS; form++) {
        text_clear(&out);
        task_file(&out, &world, form, WORLD_SEARCH, WORLD_REPORT);
        same_as_file(task_forms[form].file, &out);
    }
    text_clear(&out);
    corpus_instruct(&out, &world, WORLD_INSTRUCTIONS);
    same_as_file("instruct.jsonl", &out);
    text_clear(&out);
    if (world_tokenizer(&out, &world, &err) != OK)
        fail_msg("%s", err.text);
    same_as_file("tokenizer.model", &out);
    text_free(&out);
}

/* ---- names ---- */

static int shared_words(const char *a, const char *b)
{
    const char *last_a = strchr(a, ' '), *last_b = strchr(b, ' ');
    assert_non_null(last_a);
    assert_non_null(last_b);
    bool first = last_a - a == last_b - b && memcmp(a, b, (size_t)(last_a - a)) == 0;
    return first + (strcmp(last_a, last_b) == 0);
}

static void each_name_needs_both_words(int domain)
{
    struct text name[MAX_ENTITIES] = {{0}};
    int relation = 0, n;
    while (relations[relation].domain != domain)
        relation++;
    n = world_count(relation);
    assert_true(n <= MAX_ENTITIES);
    for (int e = 0; e < n; e++)
        world_entity(&name[e], domain, e);
    for (int e = 0; e < n; e++) {
        int others = 0;
        for (int o = 0; o < n; o++) {
            int shared = o == e ? 0 : shared_words(name[e].s, name[o].s);
            assert_true(shared < 2);
            others += shared;
        }
        assert_true(others >= 4); /* two others or more by each of its words */
    }
    for (int e = 0; e < n; e++)
        text_free(&name[e]);
}

/* A thing that is told by one word of its name is known from that word's embedding, which is never quantized; and two things of one
 * name make questions that have no answer.  So no two names are alike, and each word of one is in other names too. */
static void names_need_both_words(void **state)
{
    (void)state;
    for (int domain = 0; domain < world_domains(); domain++)
        each_name_needs_both_words(domain);
}

/* ---- labels and choices ---- */

/* The right choice cycles, so a constant guess gains at most one document over 1 / choices in each part. */
static void labels_balance_and_choices_differ(void **state)
{
    (void)state;
    for (int form = 0; form < WORLD_TASKS; form++) {
        struct task task;
        load(&task, form);
        assert_int_equal(task.n, WORLD_SEARCH + WORLD_REPORT);
        size_t count[2][MAX_CHOICES] = {{0}}, n[2] = {0};
        int choices = task_forms[form].n_choices;
        for (size_t i = 0; i < task.n; i++) {
            const struct task_doc *doc = &task.doc[i];
            assert_true(doc->part == 's' || doc->part == 'r');
            assert_int_equal(doc->n_choices, choices);
            count[doc->part == 'r'][doc->gold]++;
            n[doc->part == 'r']++;
            for (int a = 0; a < choices; a++)
                for (int b = 0; b < a; b++)
                    assert_true(strcmp(doc->continuation[a], doc->continuation[b]) != 0 || strcmp(doc->context[a], doc->context[b]) != 0);
        }
        assert_int_equal(n[0], WORLD_SEARCH);
        for (int part = 0; part < 2; part++)
            for (int c = 0; c < choices; c++)
                assert_true(count[part][c] * (size_t)choices <= n[part] + (size_t)choices);
        task_free(&task);
    }
}

/* ---- nothing asked is in what is learned ---- */

/* Many strings are looked for in one pass: a table from the hash of their first KEY bytes. */
enum { KEY = 12, SLOTS = 1 << 16 };

struct wanted {
    char *text[2 * WORLD_TASKS * (WORLD_SEARCH + WORLD_REPORT)];
    int next[2 * WORLD_TASKS * (WORLD_SEARCH + WORLD_REPORT)]; /* chain in a slot, -1 ends */
    int slot[SLOTS], n;
};

static uint32_t hash(const char *s)
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < KEY; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return (h ^ h >> 16) % SLOTS;
}

static void want(struct wanted *wanted, char *text)
{
    assert_true(strlen(text) >= KEY);
    wanted->text[wanted->n] = text;
    wanted->next[wanted->n] = wanted->slot[hash(text)];
    wanted->slot[hash(text)] = wanted->n++;
}

static void none_in(const struct wanted *wanted, const char *s, size_t n)
{
    for (size_t i = 0; i + KEY <= n; i++)
        for (int w = wanted->slot[hash(s + i)]; w >= 0; w = wanted->next[w]) {
            size_t length = strlen(wanted->text[w]);
            if (length <= n - i && memcmp(s + i, wanted->text[w], length) == 0)
                fail_msg("the training text holds '%s'", wanted->text[w]);
        }
}

/* Where the context alone names the fact, not even the question may have been read. */
static bool context_names_fact(int form)
{
    const char *name = task_forms[form].name;
    return strcmp(name, "winogrande") != 0 && strcmp(name, "arc_challenge") != 0;
}

static void collect(struct wanted *wanted)
{
    memset(wanted->slot, -1, sizeof wanted->slot);
    for (int form = 0; form < WORLD_TASKS; form++) {
        struct task task;
        load(&task, form);
        for (size_t i = 0; i < task.n; i++) {
            want(wanted, right_text(&task.doc[i]));
            if (context_names_fact(form))
                want(wanted, strdup(task.doc[i].context[0]));
        }
        task_free(&task);
    }
}

/* instruct.jsonl holds contexts and answers in two fields: they are joined as the tasks do. */
static void none_in_instructions(const struct wanted *wanted, const struct world *world)
{
    struct text file = {0}, joined = {0};
    struct err err = {{0}};
    corpus_instruct(&file, world, WORLD_INSTRUCTIONS);
    assert_false(file.failed);
    for (char *line = file.s, *end; (end = strchr(line, '\n')); line = end + 1) {
        struct json *record;
        const char *instruction, *output;
        assert_int_equal(json_parse(line, (size_t)(end - line), "instruct.jsonl", &record, &err), OK);
        assert_int_equal(json_string(record, "instruction", "instruct.jsonl", &instruction, &err), OK);
        assert_int_equal(json_string(record, "output", "instruct.jsonl", &output, &err), OK);
        text_clear(&joined);
        text_printf(&joined, "%s %s", instruction, output);
        none_in(wanted, joined.s, joined.n);
        json_free(record);
    }
    text_free(&joined);
    text_free(&file);
}

static void nothing_asked_was_read(void **state)
{
    (void)state;
    struct wanted *wanted = calloc(1, sizeof *wanted);
    struct text out = {0}, plain = {0};
    struct world world;
    assert_non_null(wanted);
    collect(wanted);
    world_draw(&world, WORLD_SEED);
    corpus_text(&out, &plain, &world, WORLD_DOCUMENTS);
    assert_false(plain.failed);
    none_in(wanted, plain.s, plain.n);
    none_in_instructions(wanted, &world);
    for (int i = 0; i < wanted->n; i++)
        free(wanted->text[i]);
    free(wanted);
    text_free(&out);
    text_free(&plain);
}

/* The search part and the report part ask about different facts, so no text of one is a text of the other. */
static void search_and_report_differ(void **state)
{
    (void)state;
    for (int form = 0; form < WORLD_TASKS; form++) {
        struct task task;
        load(&task, form);
        for (size_t i = 0; i < task.n; i++)
            for (size_t j = 0; j < i; j++) {
                char *a = right_text(&task.doc[i]), *b = right_text(&task.doc[j]);
                if (strcmp(a, b) == 0)
                    fail_msg("documents %zu and %zu of %s are both '%s'", i, j, task.name, a);
                if (task.doc[i].part != task.doc[j].part && context_names_fact(form))
                    assert_true(strcmp(task.doc[i].context[0], task.doc[j].context[0]) != 0);
                free(a);
                free(b);
            }
        task_free(&task);
    }
}

/* Every fact that the search or the report asks is stated somewhere in the training text. */
static void everything_asked_was_told(void **state)
{
    (void)state;
    struct text out = {0}, plain = {0}, sentence = {0};
    struct world world;
    world_draw(&world, WORLD_SEED);
    corpus_text(&out, &plain, &world, WORLD_DOCUMENTS);
    assert_false(plain.failed);
    for (int r = 0; r < world_relations(); r++)
        for (int e = 0; e < world_count(r); e++) {
            text_clear(&sentence);
            world_fill(&sentence, relations[r].say[0], (struct fact){r, e}, world.value[r][e], "");
            if (!strstr(plain.s, sentence.s))
                fail_msg("'%s' is nowhere in the training text", sentence.s);
        }
    text_free(&out);
    text_free(&plain);
    text_free(&sentence);
}

/* ---- the tokenizer ---- */

static void tokenizer_spells_the_tasks(void **state)
{
    (void)state;
    struct err err = {{0}};
    struct tokenizer *tokenizer;
    if (tokenizer_load_sentencepiece(&tokenizer, "data/world/tokenizer.model", &err) != OK)
        fail_msg("%s", err.text);
    assert_int_equal(tokenizer_vocab_size(tokenizer), WORLD_PIECES);
    int32_t first_byte = tokenizer_find(tokenizer, "<0x00>");
    for (int form = 0; form < WORLD_TASKS; form++) {
        struct task task;
        load(&task, form);
        for (size_t i = 0; i < task.n; i++) {
            struct tokens tokens = {0};
            char *text = right_text(&task.doc[i]), *back;
            size_t n;
            assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), false, &tokens, &err), OK);
            assert_true(tokens.n <= 60);
            for (size_t t = 0; t < tokens.n; t++)
                assert_true(tokens.id[t] >= first_byte + 256); /* no byte pieces: every character is known */
            assert_int_equal(tokenizer_decode(tokenizer, tokens.id, tokens.n, &back, &n, &err), OK);
            assert_string_equal(back, text);
            free(back);
            free(text);
            tokens_free(&tokens);
        }
        task_free(&task);
    }
    tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(remade_bit_for_bit),
        cmocka_unit_test(names_need_both_words),
        cmocka_unit_test(labels_balance_and_choices_differ),
        cmocka_unit_test(nothing_asked_was_read),
        cmocka_unit_test(search_and_report_differ),
        cmocka_unit_test(everything_asked_was_told),
        cmocka_unit_test(tokenizer_spells_the_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
