/* evaluate_test.c: scores of a toy model against the same scores computed one choice at a time from the plain definition. */
#include "evaluate_bench.h"

#include <math.h>
#include <stdio.h>

#include "base/stop.h"
#include "evaluate.h"

/* ---- documents ---- */

static const struct {
    const char *context[3], *continuation[3]; /* context NULL: as the one before */
    int n, gold;
} DOCS[] = {
    {{"Question: what is red?\nAnswer:", NULL, NULL}, {" a rose", " the deep sea, on most days", " b"}, 3, 0},
    {{"The cat saw that", "The dog saw that", NULL}, {" it was late.", " it was late.", NULL}, 2, 1}, /* contexts differ, as in winogrande */
    {{"", NULL, NULL}, {" nothing before me", " me", NULL}, 2, 1},
    {{"It ends with a space: ", NULL, NULL}, {"one", "three", NULL}, 2, 0},
    {{"A long story that does not fit into the context of this small model: one two three four five six seven eight nine ten, one two "
      "three four five six seven eight nine ten, and then, at last, comes the end of it. So what was it that we wanted to say?",
      NULL, NULL},
     {" yes", " no, not at all", NULL}, 2, 0},
    {{"x", NULL, NULL}, {" y", " y", NULL}, 2, 0}, /* a tie */
};
enum { N_DOCS = sizeof DOCS / sizeof *DOCS };

static void make_task(struct task *task)
{
    memset(task, 0, sizeof *task);
    snprintf(task->name, sizeof task->name, "toy");
    task->has_norm = task->headline_norm = true;
    task->n = N_DOCS;
    task->doc = calloc(N_DOCS, sizeof *task->doc);
    assert_non_null(task->doc);
    for (int i = 0; i < N_DOCS; i++) {
        struct task_doc *d = &task->doc[i];
        d->idx = 10 + i;
        d->n_choices = DOCS[i].n;
        d->gold = DOCS[i].gold;
        for (int c = 0; c < d->n_choices; c++) {
            const char *context = DOCS[i].context[c] ? DOCS[i].context[c] : DOCS[i].context[0];
            d->context[c] = strdup(context);
            d->continuation[c] = strdup(DOCS[i].continuation[c]);
            d->characters[c] = (int32_t)strlen(DOCS[i].continuation[c]) - (*DOCS[i].continuation[c] == ' ');
        }
    }
}

static void free_task(struct task *task)
{
    for (size_t i = 0; i < task->n; i++)
        for (int c = 0; c < task->doc[i].n_choices; c++) {
            free(task->doc[i].context[c]);
            free(task->doc[i].continuation[c]);
        }
    free(task->doc);
}

/* ---- the plain definition: one choice, one sequence ---- */

static void encode(const struct bench *b, const char *text, size_t n, struct tokens *out)
{
    struct err err;
    ASSERT_OK(tokenizer_encode(b->tokenizer, text, n, true, out, &err));
}

static double expected(struct bench *b, const struct task_doc *d, int c, bool bos, bool legacy)
{
    char text[1024];
    struct tokens whole = {0}, context = {0};
    struct err err;
    const char *first = d->context[c], *rest = d->continuation[c];
    size_t own = strlen(first);
    while (own > 0 && first[own - 1] == ' ' && !legacy)
        own--;
    if (*first == 0) {
        ASSERT_OK(tokens_push(&whole, legacy ? tokenizer_eos(b->tokenizer) : tokenizer_bos(b->tokenizer), &err));
        encode(b, rest, strlen(rest), &whole);
        context.n = 1;
    } else {
        for (int i = 0; bos && i < 2; i++)
            ASSERT_OK(tokens_push(i ? &context : &whole, tokenizer_bos(b->tokenizer), &err));
        encode(b, first, own, &context);
        if (legacy) {
            encode(b, first, own, &whole);
            encode(b, rest, strlen(rest), &whole);
        } else {
            snprintf(text, sizeof text, "%s%s", first, rest);
            encode(b, text, strlen(text), &whole);
        }
    }
    size_t cut = whole.n > BENCH_CONTEXT + 1 ? whole.n - (BENCH_CONTEXT + 1) : 0;
    double ll = log_likelihood(b, whole.id + cut, whole.n - cut, context.n - cut);
    tokens_free(&whole);
    tokens_free(&context);
    return ll;
}

static void score(struct bench *b, const struct task *task, const struct evaluate_options *options, size_t max_n,
                  struct evaluate_result *result, double ll[N_DOCS][3], struct evaluate_sample samples[N_DOCS])
{
    struct err err;
    struct evaluate_set *set;
    const struct evaluate_sample *got;
    ASSERT_OK(evaluate_prepare(&set, task, NULL, task->n, b->tokenizer, &b->toy.model.config, options, &err));
    b->toy.run.max_n = max_n ? max_n : evaluate_rows(set);
    assert_true(b->toy.run.max_n <= BENCH_ROWS);
    ASSERT_OK(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, result, &got, &err));
    b->toy.run.max_n = BENCH_ROWS;
    for (size_t i = 0; i < task->n; i++) {
        samples[i] = got[i];
        for (int c = 0; c < got[i].n_choices; c++)
            ll[i][c] = got[i].loglikelihood[c];
        samples[i].loglikelihood = NULL;
    }
    evaluate_free(set);
}

/* Attention over a shared prefix adds the same terms in other blocks; 40 tokens of nll near 6, each good to some 1e-6. */
static const double SAME = 2e-4;

static void choices_share_a_prefix_and_nothing_else(void **state)
{
    struct bench *b = *state;
    struct task task;
    make_task(&task);
    for (int mode = 0; mode < 4; mode++) {
        bool legacy = mode == 3, bos = mode != 1 && mode != 3;
        struct evaluate_options options = {.legacy = legacy, .bos = mode == 1 ? BOS_NO : mode == 2 ? BOS_YES : BOS_AUTO};
        assert_true(tokenizer_add_bos(b->tokenizer));
        struct evaluate_result r;
        struct evaluate_sample s[N_DOCS];
        double ll[N_DOCS][3], alone[N_DOCS][3];
        score(b, &task, &options, BENCH_ROWS, &r, ll, s);
        for (int i = 0; i < N_DOCS; i++)
            for (int c = 0; c < DOCS[i].n; c++)
                if (!(fabs(ll[i][c] - expected(b, &task.doc[i], c, bos, legacy)) <= SAME))
                    fail_msg("mode %d document %d choice %d: %.6f, want %.6f", mode, i, c, ll[i][c],
                             expected(b, &task.doc[i], c, bos, legacy));
        score(b, &task, &options, 0, &r, alone, s); /* batches as small as they can be */
        for (int i = 0; i < N_DOCS; i++)
            for (int c = 0; c < DOCS[i].n; c++)
                assert_true(fabs(ll[i][c] - alone[i][c]) <= SAME);
    }
    free_task(&task);
}

/* With the plain kernels a row's bits do not depend on its neighbours, so results do not depend on how documents are batched. */
static void batches_do_not_matter(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct evaluate_result r;
    struct evaluate_sample s[N_DOCS];
    double ll[N_DOCS][3], alone[N_DOCS][3];
    struct evaluate_options options = {.bos = BOS_AUTO};
    make_task(&task);
    b->toy.table = *cpu_ops(true);
    score(b, &task, &options, BENCH_ROWS, &r, ll, s);
    score(b, &task, &options, 0, &r, alone, s);
    for (int i = 0; i < N_DOCS; i++)
        assert_memory_equal(ll[i], alone[i], (size_t)DOCS[i].n * sizeof(double));
    b->toy.table = *cpu_ops(false);
    free_task(&task);
}

static void a_prefix_is_computed_once(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct err err;
    struct evaluate_set *set;
    make_task(&task);
    size_t first = 0;
    struct tokens context = {0}, whole = {0};
    struct evaluate_options options = {.bos = BOS_NO};
    const struct task_doc *d = &task.doc[0];
    encode(b, d->context[0], strlen(d->context[0]), &context);
    size_t rows = context.n - 1;
    for (int c = 0; c < d->n_choices; c++) {
        char text[1024];
        whole.n = 0;
        snprintf(text, sizeof text, "%s%s", d->context[c], d->continuation[c]);
        encode(b, text, strlen(text), &whole);
        rows += whole.n - 1 - (context.n - 1);
    }
    ASSERT_OK(evaluate_prepare(&set, &task, &first, 1, b->tokenizer, &b->toy.model.config, &options, &err));
    assert_int_equal(evaluate_rows(set), rows);
    evaluate_free(set);
    tokens_free(&context);
    tokens_free(&whole);
    free_task(&task);
}

static void accuracy_by_hand(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct evaluate_result r;
    struct evaluate_sample s[N_DOCS];
    double ll[N_DOCS][3];
    make_task(&task);
    score(b, &task, &(struct evaluate_options){.bos = BOS_AUTO}, BENCH_ROWS, &r, ll, s);
    int right = 0, right_norm = 0;
    for (int i = 0; i < N_DOCS; i++) {
        int best = 0, best_norm = 0;
        for (int c = 1; c < DOCS[i].n; c++) {
            best = ll[i][c] > ll[i][best] ? c : best;
            best_norm = ll[i][c] / task.doc[i].characters[c] > ll[i][best_norm] / task.doc[i].characters[best_norm] ? c : best_norm;
        }
        assert_int_equal(s[i].idx, 10 + i);
        assert_int_equal(s[i].acc, best == DOCS[i].gold);
        assert_int_equal(s[i].acc_norm, best_norm == DOCS[i].gold);
        right += best == DOCS[i].gold;
        right_norm += best_norm == DOCS[i].gold;
    }
    assert_true(s[5].acc && ll[5][0] == ll[5][1]); /* a tie goes to the first */
    double p = (double)right / N_DOCS, q = (double)right_norm / N_DOCS, squares = 0;
    for (int i = 0; i < N_DOCS; i++)
        squares += (s[i].acc - p) * (s[i].acc - p);
    /* sample deviation (n - 1) over sqrt(n), from its definition; doubles */
    assert_true(fabs(r.acc_stderr - sqrt(squares / (N_DOCS - 1)) / sqrt(N_DOCS)) <= 1e-14);
    assert_true(r.acc == p && r.acc_norm == q && r.headline == q && r.headline_stderr == r.acc_norm_stderr);
    assert_true(isnan(r.perplexity));
    assert_int_equal(r.n, N_DOCS);
    free_task(&task);
}

static void greedy_task_wants_every_token(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct evaluate_result r;
    struct evaluate_sample s[N_DOCS];
    double ll[N_DOCS][3];
    make_task(&task);
    for (size_t i = 0; i < task.n; i++) { /* one continuation a document */
        for (int c = 1; c < task.doc[i].n_choices; c++) {
            free(task.doc[i].context[c]);
            free(task.doc[i].continuation[c]);
        }
        task.doc[i].n_choices = 1;
        task.doc[i].gold = 0;
    }
    task.greedy = true;
    task.has_norm = task.headline_norm = false;
    score(b, &task, &(struct evaluate_options){.bos = BOS_AUTO}, BENCH_ROWS, &r, ll, s);
    double sum = 0;
    for (int i = 0; i < N_DOCS; i++) {
        assert_false(s[i].acc); /* random weights do not say what we want */
        sum += ll[i][0];
    }
    assert_true(fabs(r.perplexity / exp(-sum / N_DOCS) - 1) <= 1e-12);
    assert_true(isnan(r.acc_norm) && r.headline == r.acc);
    free_task(&task);
}

/* Rows of the head that point along the states that ought to predict them: then the continuation is what the model says. */
static void a_greedy_continuation_is_right(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct err err;
    struct evaluate_set *set;
    struct evaluate_result r;
    struct tokens ids = {0};
    const real *x;
    make_task(&task);
    task.doc[5].n_choices = 1;
    task.greedy = true;
    task.has_norm = task.headline_norm = false;
    encode(b, "x y", 3, &ids);
    int32_t positions[16], labels[16];
    assert_true(ids.n >= 2 && ids.n <= 16);
    for (size_t t = 0; t < ids.n; t++) {
        positions[t] = (int32_t)t;
        labels[t] = -1;
    }
    struct segment segment = {.len = (int32_t)ids.n};
    struct batch batch = {.n = ids.n, .tokens = ids.id, .positions = positions, .labels = labels, .segments = &segment, .n_segments = 1};
    ASSERT_OK(model_hidden(&b->toy.run, &b->toy.model, NULL, &batch, &x, &err));
    real *head = b->toy.model.head.codes;
    size_t C = b->toy.model.head.cols, size = b->toy.model.head.rows * C, index = 5;
    real *saved = malloc(size * sizeof *saved);
    assert_non_null(saved);
    memcpy(saved, head, size * sizeof *head);
    for (int wrong = 0; wrong < 2; wrong++) { /* the second time the last token is not what the model says */
        for (size_t i = 0; i < size; i++)
            head[i] = 0;
        for (size_t t = 0; t + 1 < ids.n; t++)
            for (size_t i = 0; i < C; i++)
                head[(size_t)ids.id[t + 1] * C + i] += x[t * C + i] * (real)(wrong && t + 2 == ids.n ? -1 : 1);
        ASSERT_OK(evaluate_prepare(&set, &task, &index, 1, b->tokenizer, &b->toy.model.config, &(struct evaluate_options){.bos = BOS_NO}, &err));
        ASSERT_OK(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, &r, NULL, &err));
        assert_true(r.acc == !wrong);
        evaluate_free(set);
        memcpy(head, saved, size * sizeof *head);
        ASSERT_OK(model_hidden(&b->toy.run, &b->toy.model, NULL, &batch, &x, &err));
    }
    free(saved);
    tokens_free(&ids);
    task.doc[5].n_choices = 2;
    free_task(&task);
}

static void what_cannot_be_scored_is_said(void **state)
{
    struct bench *b = *state;
    struct task task;
    struct err err;
    struct evaluate_set *set;
    struct evaluate_result r;
    make_task(&task);
    struct evaluate_options options = {.bos = BOS_AUTO};
    assert_int_equal(evaluate_prepare(&set, &task, NULL, 0, b->tokenizer, &b->toy.model.config, &options, &err), ERR_INPUT);
    assert_null(set);
    assert_non_null(strstr(err.text, "task toy: no documents"));
    free(task.doc[1].continuation[1]);
    task.doc[1].continuation[1] = strdup("");
    assert_int_equal(evaluate_prepare(&set, &task, NULL, task.n, b->tokenizer, &b->toy.model.config, &options, &err), ERR_INPUT);
    assert_null(set);
    assert_non_null(strstr(err.text, "task toy: document 11: choice 1 has no token of its own"));
    size_t good = 4;
    ASSERT_OK(evaluate_prepare(&set, &task, &good, 1, b->tokenizer, &b->toy.model.config, &options, &err));
    b->toy.run.max_n = evaluate_rows(set) - 1;
    assert_int_equal(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, &r, NULL, &err), ERR_FAILED);
    b->toy.run.max_n = BENCH_ROWS;
    stop_request();
    assert_int_equal(evaluate_run(set, 1, &b->toy.run, &b->toy.model, NULL, &r, NULL, &err), ERR_STOPPED);
    stop_reset();
    evaluate_free(set);
    free_task(&task);
}

/* ---- results ---- */

static void mean_and_variance(void **state)
{
    (void)state;
    struct evaluate_result r[2] = {{.n = 100, .headline = 0.5}, {.n = 400, .headline = 0.8}};
    double mean, variance;
    evaluate_mean(r, 2, &mean, &variance);
    assert_true(fabs(mean - 0.65) <= 1e-15);
    assert_true(fabs(variance - (0.25 / 100 + 0.16 / 400) / 4) <= 1e-18);
}

static void results_are_json(void **state)
{
    (void)state;
    struct evaluate_result r[2] = {{.task = "boolq", .n = 3, .acc = 2.0 / 3, .acc_stderr = 1.0 / 3, .acc_norm = NAN,
                                    .acc_norm_stderr = NAN, .headline = 2.0 / 3, .perplexity = NAN},
                                   {.task = "piqa", .n = 2, .acc = 1, .acc_norm = 0.5, .acc_norm_stderr = 0.5, .headline = 1,
                                    .perplexity = NAN}};
    struct text text = {0};
    struct json *json;
    struct err err;
    double x;
    int64_t n;
    const struct json *results, *task;
    evaluate_print_json(r, 2, "\"config\": {\"limit\": 3}", &text);
    ASSERT_OK(json_parse(text.s, text.n, "results", &json, &err));
    ASSERT_OK(json_object(json, "results", "results", &results, &err));
    ASSERT_OK(json_object(results, "boolq", "results", &task, &err));
    ASSERT_OK(json_number(task, "acc,none", "boolq", &x, &err));
    assert_true(x == 2.0 / 3); /* 17 digits bring a double back */
    assert_null(json_member(task, "acc_norm,none"));
    ASSERT_OK(json_object(results, "piqa", "results", &task, &err));
    ASSERT_OK(json_number(task, "acc_norm_stderr,none", "piqa", &x, &err));
    assert_true(x == 0.5);
    ASSERT_OK(json_int(json_member(json_member(json, "n-samples"), "piqa"), "effective", "n", 0, 9, &n, &err));
    assert_int_equal(n, 2);
    assert_non_null(json_member(json, "config"));
    json_free(json);
    text_clear(&text);
    double ll[2] = {-1.25, -3};
    struct evaluate_sample s = {.idx = 7, .n_choices = 2, .gold = 1, .loglikelihood = ll, .acc_norm = true};
    evaluate_print_samples("piqa", &s, 1, true, &text);
    assert_string_equal(text.s, "{\"task\": \"piqa\", \"idx\": 7, \"loglikelihoods\": [-1.25, -3], \"label\": 1, \"acc\": 0, \"acc_norm\": 1}\n");
    text_clear(&text);
    evaluate_print_table(r, 2, &text);
    assert_non_null(strstr(text.s, "| piqa           |      2 | 1.0000 +- 0.0000  | 0.5000 +- 0.5000  |\n"));
    assert_non_null(strstr(text.s, " (acc)\n"));
    r[0].exact_match = r[1].headline_norm = true;
    r[0].num_fewshot = 5;
    text_clear(&text);
    evaluate_print_table(r, 2, &text);
    assert_non_null(strstr(text.s, "| task           |      n | acc               | acc_norm          | exact_match       |\n"));
    assert_non_null(strstr(text.s, "| boolq          |      3 |                   |                   | 0.6667 +- 0.3333  |\n"));
    assert_non_null(strstr(text.s, "| piqa           |      2 | 1.0000 +- 0.0000  | 0.5000 +- 0.5000  |                   |\n"));
    assert_non_null(strstr(text.s, " (acc; acc_norm for piqa; exact_match for boolq)\n"));
    text_clear(&text);
    evaluate_print_json(r, 2, NULL, &text);
    assert_non_null(strstr(text.s, "\"boolq\": {\"alias\": \"boolq\", \"exact_match,none\": 0.66666666666666663, \"exact_match_stderr,none\": "));
    assert_non_null(strstr(text.s, "\"n-shot\": {\"boolq\": 5, \"piqa\": 0}"));
    text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_share_a_prefix_and_nothing_else),
        cmocka_unit_test(batches_do_not_matter),
        cmocka_unit_test(a_prefix_is_computed_once),
        cmocka_unit_test(accuracy_by_hand),
        cmocka_unit_test(greedy_task_wants_every_token),
        cmocka_unit_test(a_greedy_continuation_is_right),
        cmocka_unit_test(what_cannot_be_scored_is_said),
        cmocka_unit_test(mean_and_variance),
        cmocka_unit_test(results_are_json),
    };
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
