/* evaluate_own_test.c: a user's own tasks on a toy model: written answers against a plain greedy loop without a cache, choices against the common-sense task that has
 * the same documents. */
#include "evaluate_bench.h"

#include <math.h>

#include "base/stop.h"
#include "dir.h"
#include "evaluate.h"

#define COMMONSENSE "../shared/data/commonsense"

enum { WINDOW = 200, MADE = 12, MOST_N = 700 };

static int open_own(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    *state = b;
    bench_open(b, MOST_N);
    b->toy.model.config.max_position_embeddings = WINDOW;
    return make_dir(state);
}

static int close_own(void **state)
{
    remove_dir(state);
    return close_bench(state);
}

/* ---- the plain definition ---- */

static int32_t likeliest_next(struct bench *b, const int32_t *ids, size_t n)
{
    struct err err;
    int32_t positions[WINDOW], labels[WINDOW], best = 0;
    const real *x;
    size_t V = (size_t)b->toy.model.config.vocab_size, C = (size_t)b->toy.model.config.hidden_size;
    real *logits = malloc(V * sizeof *logits);
    assert_true(logits && n <= WINDOW);
    for (size_t t = 0; t < n; t++) {
        positions[t] = (int32_t)t;
        labels[t] = -1;
    }
    struct segment segment = {.len = (int32_t)n};
    struct batch batch = {.n = n, .tokens = ids, .positions = positions, .labels = labels, .segments = &segment, .n_segments = 1};
    ASSERT_OK(model_hidden(&b->toy.run, &b->toy.model, NULL, &batch, &x, &err));
    model_logits(&b->toy.run, &b->toy.model, x + (n - 1) * C, 1, logits);
    for (size_t v = 1; v < V; v++)
        best = logits[v] > logits[best] ? (int32_t)v : best;
    free(logits);
    return best;
}

/* BOS, the prompt, and `made` tokens, each the likeliest behind all before it; *prompt_n of them are the prompt. */
static void continue_plainly(struct bench *b, const char *prompt, size_t made, struct tokens *ids, size_t *prompt_n)
{
    struct err err;
    ASSERT_OK(tokens_push(ids, tokenizer_bos(b->tokenizer), &err));
    ASSERT_OK(tokenizer_encode(b->tokenizer, prompt, strlen(prompt), true, ids, &err));
    *prompt_n = ids->n;
    for (size_t i = 0; i < made; i++)
        ASSERT_OK(tokens_push(ids, likeliest_next(b, ids->id, ids->n), &err));
}

/* The text of `made` tokens behind a prompt, owned by the caller. */
static char *plain_text(struct bench *b, const char *prompt, size_t made)
{
    struct err err;
    struct tokens ids = {0};
    char *all, *before;
    size_t n, m, prompt_n;
    continue_plainly(b, prompt, made, &ids, &prompt_n);
    ASSERT_OK(tokenizer_decode(b->tokenizer, ids.id, ids.n, &all, &n, &err));
    ASSERT_OK(tokenizer_decode(b->tokenizer, ids.id, prompt_n, &before, &m, &err));
    assert_true(n > m && memcmp(all, before, m) == 0);
    memmove(all, all + m, n - m + 1);
    free(before);
    tokens_free(&ids);
    return all;
}

/* ---- a task in a file ---- */

static void put_task(const char *name, const struct text *text)
{
    put_file(dir, name, text->s, text->n);
}

static void prepare(struct bench *b, const char *name, const struct evaluate_options *options, struct evaluate_set **set)
{
    struct err err;
    struct task task;
    ASSERT_OK(task_load(&task, name, dir, &err));
    ASSERT_OK(evaluate_prepare(set, &task, NULL, task.n, b->tokenizer, &b->toy.model.config, options, &err));
    task_free(&task); /* the set has what it needs */
}

static const struct evaluate_sample *run(struct bench *b, struct evaluate_set *set, struct evaluate_result *result)
{
    struct err err;
    const struct evaluate_sample *samples;
    ASSERT_OK(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, result, &samples, &err));
    return samples;
}

/* The first three open alike, so that the cache of one serves the next; the fourth is the beginning of the third. */
static const char *const prompts[] = {"The cat saw that", "The cat saw a bird and", "The cat saw a bird and then it", "The cat saw a bird", "Who?"};
enum { N_PROMPTS = sizeof prompts / sizeof *prompts };

static void add_prompt(struct text *text, const char *prompt, const char *answer)
{
    text_puts(text, "{\"prompt\": ");
    text_json_string(text, prompt, strlen(prompt));
    text_puts(text, ", \"answer\": ");
    text_json_string(text, answer, strlen(answer));
    text_puts(text, "}\n");
}

/* MADE tokens of each prompt, none of the stop strings in them; right where the answer is what comes. */
static void answers_are_the_likeliest_tokens(void **state)
{
    struct bench *b = *state;
    struct evaluate_set *set;
    struct evaluate_result r;
    struct text text = {0}, line = {0}, want = {0};
    char *plain[N_PROMPTS];
    text_printf(&text, "{\"config\": {\"max_gen_toks\": %d, \"until\": [\"never written\"]}}\n", MADE);
    for (int i = 0; i < N_PROMPTS; i++) {
        plain[i] = plain_text(b, prompts[i], MADE);
        add_prompt(&text, prompts[i], i == 1 ? "something else" : plain[i]);
    }
    put_task("written.jsonl", &text);
    prepare(b, "written", &(struct evaluate_options){.bos = BOS_YES}, &set);
    assert_int_equal(evaluate_rows(set), 0);
    const struct evaluate_sample *s = run(b, set, &r);
    for (int i = 0; i < N_PROMPTS; i++) {
        assert_string_equal(s[i].answer->written, plain[i]);
        assert_int_equal(s[i].acc, i != 1);
        assert_true(evaluate_is_right(set, &s[i]) == s[i].acc && s[i].idx == i);
    }
    double p = (double)(N_PROMPTS - 1) / N_PROMPTS;
    assert_true(r.exact_match && r.n == N_PROMPTS && r.acc == p && r.headline == p && isnan(r.acc_norm) && isnan(r.perplexity));
    assert_true(fabs(r.acc_stderr - sqrt(p * (1 - p) / (N_PROMPTS - 1))) <= 1e-15);
    evaluate_print_sample("written", &s[1], false, &line);
    text_puts(&want, "{\"task\": \"written\", \"idx\": 1, \"target\": \"something else\", \"resps\": [");
    text_json_string(&want, plain[1], strlen(plain[1]));
    text_puts(&want, "], \"filtered_resps\": [");
    text_json_string(&want, s[1].answer->extracted, strlen(s[1].answer->extracted));
    text_puts(&want, "], \"exact_match\": 0}");
    assert_string_equal(line.s, want.s);
    evaluate_free(set);
    for (int i = 0; i < N_PROMPTS; i++)
        free(plain[i]);
    text_free(&text);
    text_free(&line);
    text_free(&want);
}

/* A stop string, also one in the middle of a token, ends the answer and is not part of it; a pattern that is not in the text finds nothing. */
static void stop_strings_end_an_answer(void **state)
{
    struct bench *b = *state;
    struct evaluate_set *set;
    struct evaluate_result r;
    struct text text = {0}, line = {0};
    char *plain = plain_text(b, prompts[0], MADE);
    size_t n = strlen(plain), at = n / 2;
    while (((unsigned char)plain[at] & 0xC0) == 0x80 || ((unsigned char)plain[at + 1] & 0xC0) == 0x80 || ((unsigned char)plain[at + 2] & 0xC0) == 0x80)
        at--;
    char stop[3] = {plain[at], plain[at + 1], 0};
    size_t first = (size_t)(strstr(plain, stop) - plain);
    text_puts(&text, "{\"config\": {\"max_gen_toks\": 12, \"pattern\": \"never written\", \"until\": [\"zzzz\", ");
    text_json_string(&text, stop, 2);
    text_puts(&text, "]}}\n");
    add_prompt(&text, prompts[0], "x");
    put_task("stops.jsonl", &text);
    prepare(b, "stops", &(struct evaluate_options){.bos = BOS_YES}, &set);
    const struct evaluate_sample *s = run(b, set, &r);
    assert_int_equal(strlen(s[0].answer->written), first);
    assert_memory_equal(s[0].answer->written, plain, first);
    assert_null(s[0].answer->extracted);
    assert_false(s[0].acc);
    evaluate_print_sample("stops", &s[0], false, &line);
    assert_non_null(strstr(line.s, "\"filtered_resps\": [null], \"exact_match\": 0}"));
    evaluate_free(set);
    free(plain);
    text_free(&text);
    text_free(&line);
}

/* A token that ends texts ends an answer, and is not part of it. */
static void eos_ends_an_answer(void **state)
{
    struct bench *b = *state;
    struct model_config *config = &b->toy.model.config;
    struct evaluate_set *set;
    struct evaluate_result r;
    struct text text = {0};
    struct tokens ids = {0};
    size_t prompt_n, before = 0;
    int32_t saved_n = config->n_eos, saved = config->eos_token_id[0];
    continue_plainly(b, prompts[1], MADE, &ids, &prompt_n);
    int32_t last = ids.id[ids.n - 1];
    while (ids.id[prompt_n + before] != last)
        before++;
    char *plain = before ? plain_text(b, prompts[1], before) : strdup("");
    config->n_eos = 1;
    config->eos_token_id[0] = last;
    text_puts(&text, "{\"config\": {\"until\": [\"never written\"], \"max_gen_toks\": 100}}\n");
    add_prompt(&text, prompts[1], "x");
    put_task("ends.jsonl", &text);
    prepare(b, "ends", &(struct evaluate_options){.bos = BOS_YES}, &set);
    assert_string_equal(run(b, set, &r)[0].answer->written, plain);
    config->n_eos = saved_n;
    config->eos_token_id[0] = saved;
    evaluate_free(set);
    free(plain);
    tokens_free(&ids);
    text_free(&text);
}

/* ---- the same documents as a common-sense task and as one's own ---- */

static void copy_as_own(const char *from, const char *to)
{
    struct err err;
    struct task task;
    struct text text = {0};
    ASSERT_OK(task_load_file(&task, "arc_easy", from, &err));
    for (size_t i = 0; i < 40; i++) {
        const struct task_doc *d = &task.doc[i];
        text_puts(&text, "{\"context\": ");
        text_json_string(&text, d->context[0], strlen(d->context[0]));
        for (int c = 0; c < d->n_choices; c++) {
            text_puts(&text, c ? ", " : ", \"choices\": [");
            text_json_string(&text, d->continuation[c] + 1, strlen(d->continuation[c] + 1));
        }
        text_printf(&text, "], \"gold\": %d}\n", d->gold);
    }
    ASSERT_OK(file_write(to, text.s, text.n, &err));
    text_free(&text);
    task_free(&task);
}

static void scores_of(struct bench *b, const char *name, const char *folder, const struct evaluate_options *options, double *ll, bool *acc, bool *acc_norm)
{
    struct err err;
    struct task task;
    struct evaluate_set *set;
    struct evaluate_result r;
    ASSERT_OK(task_load(&task, name, folder, &err));
    ASSERT_OK(evaluate_prepare(&set, &task, NULL, 40, b->tokenizer, &b->toy.model.config, options, &err));
    const struct evaluate_sample *s = run(b, set, &r);
    for (size_t i = 0; i < 40; i++) {
        for (int c = 0; c < MAX_CHOICES; c++)
            ll[i * MAX_CHOICES + (size_t)c] = c < s[i].n_choices ? s[i].loglikelihood[c] : 0;
        acc[i] = s[i].acc;
        acc_norm[i] = s[i].acc_norm;
    }
    evaluate_free(set);
    task_free(&task);
}

static void own_choices_score_as_arc_easy(void **state)
{
    struct bench *b = *state;
    static double known[40 * MAX_CHOICES], own[40 * MAX_CHOICES], joint[40 * MAX_CHOICES];
    bool acc[2][40], acc_norm[2][40];
    char path[128];
    if (access(COMMONSENSE "/arc_easy.test.jsonl", R_OK) != 0)
        skip();
    b->toy.model.config.max_position_embeddings = MOST_N;
    snprintf(path, sizeof path, "%s/mine.jsonl", dir);
    copy_as_own(COMMONSENSE "/arc_easy.test.jsonl", path);
    for (int legacy = 0; legacy < 2; legacy++) {
        struct evaluate_options options = {.bos = BOS_AUTO, .legacy = legacy};
        scores_of(b, "arc_easy", COMMONSENSE, &options, known, acc[0], acc_norm[0]);
        scores_of(b, "mine", dir, &options, own, acc[1], acc_norm[1]);
        assert_memory_equal(known, own, sizeof own);
        assert_memory_equal(acc[0], acc[1], sizeof acc[0]);
        assert_memory_equal(acc_norm[0], acc_norm[1], sizeof acc_norm[0]);
        if (!legacy)
            memcpy(joint, own, sizeof joint);
    }
    assert_memory_not_equal(joint, own, sizeof own); /* the old harness has no BOS, and two texts where today's has one */
    b->toy.model.config.max_position_embeddings = WINDOW;
}

/* ---- what cannot be scored ---- */

static void refused(struct bench *b, const char *name, const char *sentence)
{
    struct err err = {{0}};
    struct task task;
    struct evaluate_set *set;
    char want[512];
    ASSERT_OK(task_load(&task, name, dir, &err));
    snprintf(want, sizeof want, "task %s: %s/%s.jsonl:%s", name, dir, name, sentence);
    assert_refused(evaluate_prepare(&set, &task, NULL, task.n, b->tokenizer, &b->toy.model.config, &(struct evaluate_options){.bos = BOS_NO}, &err), ERR_INPUT, &err, "", want);
    assert_null(set);
    task_free(&task);
}

static size_t tokens_of(const struct bench *b, const char *s)
{
    struct err err;
    struct tokens ids = {0};
    ASSERT_OK(tokenizer_encode(b->tokenizer, s, strlen(s), true, &ids, &err));
    size_t n = ids.n;
    tokens_free(&ids);
    return n;
}

static void too_long_for_the_window(void **state)
{
    struct bench *b = *state;
    struct text text = {0}, words = {0};
    char sentence[256];
    text_puts(&words, "a");
    for (int i = 0; i < WINDOW; i++)
        text_puts(&words, " a");
    text_puts(&text, "{\"config\": {\"max_gen_toks\": 20}}\n");
    add_prompt(&text, "P", "x");
    add_prompt(&text, words.s, "x");
    put_task("long.jsonl", &text);
    snprintf(sentence, sizeof sentence,
             "3: the prompt has %zu tokens, and max_gen_toks is 20: the model's window holds 200; want fewer of either, or of num_fewshot", tokens_of(b, words.s));
    refused(b, "long", sentence);
    text_clear(&text);
    text_printf(&text, "{\"context\": \"C\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n{\"context\": \"C\", \"choices\": [\"x\", \"%s\"], \"gold\": 0}\n", words.s);
    put_task("wide.jsonl", &text);
    text_clear(&text);
    text_printf(&text, "C %s", words.s);
    snprintf(sentence, sizeof sentence,
             "2: context and choice 1 have %zu tokens: the model's window holds 200; want a shorter one, or fewer of num_fewshot", tokens_of(b, text.s));
    refused(b, "wide", sentence);
    text_free(&text);
    text_free(&words);
}

static void a_stop_is_seen(void **state)
{
    struct bench *b = *state;
    struct err err;
    struct evaluate_set *set;
    struct evaluate_result r;
    struct text text = {0};
    add_prompt(&text, "P", "x");
    put_task("halts.jsonl", &text);
    b->toy.model.config.max_position_embeddings = 300; /* the harness' 256 tokens and the prompt */
    prepare(b, "halts", &(struct evaluate_options){.bos = BOS_NO}, &set);
    stop_request();
    assert_int_equal(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, &r, NULL, &err), ERR_STOPPED);
    stop_reset();
    b->toy.model.config.max_position_embeddings = WINDOW;
    evaluate_free(set);
    text_free(&text);
}

/* Memory that a plan counts is what is taken: a context of twice the tokens has twice the keys and values. */
static void memory_is_counted(void **state)
{
    struct bench *b = *state;
    struct evaluate_set *set[2];
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        struct text text = {0};
        text_printf(&text, "{\"config\": {\"max_gen_toks\": %d}}\n", i ? 198 : 128); /* more rows of a prompt than are fed at once change nothing else */
        add_prompt(&text, "P", "x");
        put_task("counts.jsonl", &text);
        prepare(b, "counts", &(struct evaluate_options){.bos = BOS_NO}, &set[i]);
        bytes[i] = evaluate_bytes(set[i], &b->toy.model, 0, &b->toy.ops);
        evaluate_free(set[i]);
        text_free(&text);
    }
    size_t row = 2 * 2 * 2 * 16 * sizeof(real); /* two layers, keys and values, two heads of 16 */
    assert_true(bytes[1] - bytes[0] >= 70 * row - 4 * 64 && bytes[1] > bytes[0]); /* each of four pieces is rounded to 64 bytes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_likeliest_tokens), cmocka_unit_test(stop_strings_end_an_answer), cmocka_unit_test(eos_ends_an_answer),
        cmocka_unit_test(own_choices_score_as_arc_easy),    cmocka_unit_test(too_long_for_the_window),    cmocka_unit_test(a_stop_is_seen),
        cmocka_unit_test(memory_is_counted),
    };
    return cmocka_run_group_tests_name("evaluate_own", tests, open_own, close_own);
}
