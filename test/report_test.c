/* report_test.c: the page is well formed whatever it is given: empty, without numbers, with names that are HTML.
 *
 * VENEER_REPORT_OUT=page.html also writes the full sample, to be looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/report.h"

/* ---- a checker: every tag closed in order, attributes quoted, no bare & or <, printable text, no NaN, nothing that runs or is fetched ---- */

enum { DEEPEST = 32 };

struct checker {
    char open[DEEPEST][16];
    size_t depth;
};

static const char *skip_name(const char *s)
{
    while (isalnum((unsigned char)*s) || *s == '-')
        s++;
    return s;
}

static const char *attributes(const char *s)
{
    while (*s == ' ') {
        const char *end = skip_name(++s);
        if (end == s || end[0] != '=' || end[1] != '"')
            fail_msg("attribute at: %.40s", s);
        for (s = end + 2; *s && *s != '"'; s++)
            if (*s == '<' || *s == '>')
                fail_msg("%c in an attribute: %.40s", *s, end);
        assert_true(*s == '"');
        s++;
    }
    return s;
}

static const char *tag(struct checker *c, const char *s)
{
    bool closing = s[1] == '/';
    const char *name = s + 1 + closing, *end = skip_name(name);
    size_t n = (size_t)(end - name);
    if (n == 0 || n >= sizeof c->open[0])
        fail_msg("tag at: %.40s", s);
    if (closing) {
        if (c->depth == 0 || strlen(c->open[c->depth - 1]) != n || memcmp(c->open[c->depth - 1], name, n) != 0 || *end != '>')
            fail_msg("closes what is not open: %.40s", s);
        c->depth--;
        return end + 1;
    }
    end = attributes(end);
    if (end[0] == '/' && end[1] == '>')
        return end + 2;
    if (*end != '>' || c->depth == DEEPEST)
        fail_msg("tag does not end: %.60s", s);
    memcpy(c->open[c->depth], name, n);
    c->open[c->depth++][n] = 0;
    return end + 1;
}

static void well_formed(const struct text *page)
{
    static const char first[] = "<!DOCTYPE html>\n";
    struct checker c = {.depth = 0};
    assert_false(page->failed);
    assert_int_equal(strlen(page->s), page->n);
    assert_memory_equal(page->s, first, strlen(first));
    for (const char *s = page->s + strlen(first); *s;) {
        if (*s == '<') {
            s = tag(&c, s);
            continue;
        }
        if (*s == '&' && strncmp(s, "&amp;", 5) && strncmp(s, "&lt;", 4) && strncmp(s, "&gt;", 4) && strncmp(s, "&quot;", 6))
            fail_msg("a bare &: %.40s", s);
        assert_true((unsigned char)*s >= ' ' || *s == '\n' || *s == '\t');
        s++;
    }
    assert_int_equal(c.depth, 0);
    static const char *const never[] = {"<script", "http:", "https:", "url(", "@import", ">nan", "\"nan", " nan", ">inf", "\"inf", "-nan"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(page->s, never[i]))
            fail_msg("the page holds '%s': %.60s", never[i], strstr(page->s, never[i]));
}

static void check(const struct report *r)
{
    struct text page = {0};
    report_html(r, &page);
    well_formed(&page);
    text_free(&page);
}

/* ---- a sample ---- */

enum { TASKS = 7, COLUMNS = 5, TRIALS = 50, LAYERS = 16, STEPS = 200 };

struct sample {
    struct report report;
    double score[COLUMNS][TASKS], error[COLUMNS][TASKS], volume[TRIALS], layer[8][LAYERS], step[STEPS], loss[3][STEPS];
    struct report_column column[COLUMNS];
    struct report_trial trial[TRIALS];
    struct report_layers layers[4];
    struct report_curve curve[3];
};

static void make_trials(struct sample *s, struct rng *rng)
{
    for (size_t i = 0; i < TRIALS; i++) {
        double x = i == 0 ? 0 : i == 1 ? 1 : rng_uniform(rng);
        s->trial[i] = (struct report_trial){.bytes = 1.5e6 + 7e5 * x, .score = 0.62 + 0.14 * sqrt(x) + 0.012 * rng_normal(rng), .error = 0.011,
                                            .kind = i < 10 ? REPORT_SEED : i % 19 == 0 ? REPORT_FAILED : REPORT_PROPOSED,
                                            .mark = i == 0 ? "all low" : i == 1 ? "all high" : NULL, .note = i < 10 ? "seed" : "gp: expects 0.71 +- 0.01"};
        s->volume[i] = 0.6 + 0.3 * (1 - exp(-(double)i / 12));
    }
    for (size_t i = 0; i < TRIALS; i++) {
        s->trial[i].front = s->trial[i].kind != REPORT_FAILED;
        for (size_t j = 0; j < TRIALS; j++)
            if (s->trial[j].kind != REPORT_FAILED && s->trial[j].bytes < s->trial[i].bytes && s->trial[j].score >= s->trial[i].score)
                s->trial[i].front = false;
        if (s->trial[i].front && s->trial[i].bytes < 1.8e6)
            s->report.pick = i;
    }
}

static struct sample *sample_new(void)
{
    static const char *const task[TASKS] = {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"};
    static const char *const column[COLUMNS] = {"before pruning", "pruned, not tuned", "all low, tuned", "all high, tuned", "pick, tuned"};
    static const char *const label[4] = {"bits a weight", "query heads", "FFN width", "mean LoRA rank"}, *const curve[3] = {"all low", "all high", "pick"};
    static const struct report_fact fact[] = {{"stored size", "5.25 \xe2\x86\x92 1.71 MB"}, {"mean accuracy", "81.2 \xe2\x86\x92 78.9 %"},
                                              {"parameters", "1.31 \xe2\x86\x92 1.05 M"},   {"time, peak memory", "3 min 0 s, 112 MB"},
                                              {"model", "data/world/model (llama, 8 layers)"}, {"seed", "0"}, {"processor", "2 threads, AVX2 kernels"}};
    static const struct report_memory memory[] = {
        {"base weights", "the model as loaded, until it is pruned", 5.25e6, NAN, false}, {"weights", "the pruned model in F32", 4.22e6, NAN, false},
        {"formats", "its linears in every format, with adapter starts", 2.47e6, NAN, false}, {"optimizer", "adapters, gradients, moments", 1.87e6, NAN, false},
        {"activations", "kept for backward", 95.28e6, NAN, false}, {"scratch", "of the kernels", 2.62e6, NAN, false},
        {"peak", "the largest sum that exists at one time", 112.4e6, 110.9e6, true}};
    static const char *const remark[] = {"model.gguf holds the adapters merged, int8 as q8_0 and nf4 as q4_0, which costs 0.00213 nats a token."};
    struct sample *s = calloc(1, sizeof *s);
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    assert_non_null(s);
    for (size_t c = 0; c < COLUMNS; c++) {
        for (size_t t = 0; t < TASKS; t++) {
            s->score[c][t] = 0.8 - (c == 1 ? 0.2 : 0) + 0.05 * rng_normal(&rng);
            s->error[c][t] = 0.02;
        }
        s->column[c] = (struct report_column){column[c], s->score[c], s->error[c], s->score[c][0], 0.008, c < 1 ? 5.25e6 : 1.7e6 + 1e5 * (double)c, c == 4};
    }
    make_trials(s, &rng);
    for (size_t i = 0; i < 4; i++) {
        s->layers[i] = (struct report_layers){label[i], s->layer[i], s->layer[4 + i]};
        for (size_t l = 0; l < LAYERS; l++) {
            s->layer[4 + i][l] = i == 2 ? 256 : 8;
            s->layer[i][l] = s->layer[4 + i][l] * (1 - 0.5 * (rng_below(&rng, 2) && i < 3));
        }
    }
    for (size_t i = 0; i < 3; i++) {
        s->curve[i] = (struct report_curve){curve[i], s->step, s->loss[i], STEPS};
        for (size_t k = 0; k < STEPS; k++) {
            s->step[k] = (double)k + 1;
            s->loss[i][k] = 0.8 + (1.6 - 0.3 * (double)i) * exp(-(double)k / 40) + 0.05 * rng_normal(&rng) - 0.03 * (double)i;
        }
    }
    size_t pick = s->report.pick;
    s->report = (struct report){.title = "world model", .version = "veneer 0.1.0", .when = "2026-01-01 12:00 UTC", .command = "./train config.txt",
                                .summary = "20 % of the parameters were removed, the rest stored in nf4 or int8, layer by layer, as 50 trials taught.",
                                .fact = fact, .n_facts = 7, .task = task, .n_tasks = TASKS, .column = s->column, .n_columns = COLUMNS, .trial = s->trial,
                                .n_trials = TRIALS, .pick = pick, .pick_rule = "The pick trades bytes for accuracy by equation 5 of AutoMixQ, lambda 1.",
                                .hypervolume = s->volume, .layers = s->layers, .n_series = 4, .n_layers = LAYERS, .curve = s->curve, .n_curves = 3,
                                .memory = memory, .n_memory = sizeof memory / sizeof *memory, .config = "seed = 0\nlora_r = 8\n", .remark = remark, .n_remarks = 1};
    return s;
}

static size_t occurrences(const char *page, const char *what)
{
    size_t n = 0;
    for (const char *at = page; (at = strstr(at, what)); at++)
        n++;
    return n;
}

static void whole_sample(void **state)
{
    (void)state;
    struct sample *s = sample_new();
    struct text page = {0};
    report_html(&s->report, &page);
    well_formed(&page);
    /* every trial is there, in both sizes, and so is every task */
    assert_int_equal(occurrences(page.s, "<title>trial "), 2 * TRIALS);
    assert_int_equal(occurrences(page.s, "<td>arc_challenge</td>"), 1);
    assert_non_null(strstr(page.s, "one standard error"));
    assert_true(page.n < 200000); /* it is mailed and kept */
    if (getenv("VENEER_REPORT_OUT")) {
        struct err err;
        assert_int_equal(report_write(&s->report, getenv("VENEER_REPORT_OUT"), &err), OK);
    }
    text_free(&page);
    free(s);
}

static void empty(void **state)
{
    (void)state;
    struct report r = {0};
    check(&r);
    r.title = r.version = r.when = r.command = r.summary = r.config = "";
    check(&r);
    /* arrays that are there but hold nothing */
    struct report_column column = {.mean = NAN, .mean_error = NAN, .bytes = NAN};
    struct report_trial trial = {.bytes = NAN, .score = NAN, .error = NAN};
    struct report_curve curve = {0};
    struct report_layers layers = {0};
    struct report_memory memory = {.planned_bytes = NAN, .measured_bytes = NAN};
    const char *const remark = NULL;
    r = (struct report){.column = &column, .n_columns = 1, .trial = &trial, .n_trials = 1, .curve = &curve, .n_curves = 1, .layers = &layers,
                        .n_series = 1, .n_layers = 3, .memory = &memory, .n_memory = 1, .remark = &remark, .n_remarks = 1};
    check(&r);
}

/* Numbers that a broken run may leave. */
static void odd_numbers(void **state)
{
    (void)state;
    static const double odd[] = {NAN, INFINITY, -INFINITY, 0, -1, 1e308, -1e308, 1e-308, 0.5};
    struct rng rng = {.seed = 4, .stream = RNG_WORLD};
    for (int c = 0; c < 200; c++) {
        struct sample *s = sample_new();
        double *first[] = {s->score[0], s->error[0], s->volume, s->layer[0], s->step, s->loss[0]};
        size_t n[] = {COLUMNS * TASKS, COLUMNS * TASKS, TRIALS, 8 * LAYERS, STEPS, 3 * STEPS};
        uint32_t share = 1 + rng_below(&rng, 4); /* from all of them to a quarter */
        for (size_t a = 0; a < sizeof n / sizeof *n; a++)
            for (size_t i = 0; i < n[a]; i++)
                if (rng_below(&rng, share) == 0)
                    first[a][i] = odd[rng_below(&rng, 9)];
        for (size_t i = 0; i < TRIALS; i++) {
            double *value[] = {&s->trial[i].bytes, &s->trial[i].score, &s->trial[i].error};
            *value[rng_below(&rng, 3)] = odd[rng_below(&rng, 9)];
        }
        check(&s->report);
        free(s);
    }
}

/* Every string of the caller comes out escaped: nothing it says becomes markup. */
static void names_are_text(void **state)
{
    (void)state;
    static const char evil[] = "<b onclick=\"x\">&'</b>";
    struct sample *s = sample_new();
    struct report *r = &s->report;
    const struct report_fact fact[5] = {{evil, evil}, {evil, evil}, {evil, evil}, {evil, evil}, {evil, evil}};
    const char *task[TASKS], *const remark = evil;
    struct report_memory memory = {evil, evil, 1e6, 2e6, true};
    struct text page = {0};
    for (size_t t = 0; t < TASKS; t++)
        task[t] = evil;
    r->title = r->version = r->when = r->command = r->summary = r->pick_rule = r->config = evil;
    r->fact = fact;
    r->n_facts = 5;
    r->task = task;
    r->remark = &remark;
    r->memory = &memory;
    r->n_memory = 1;
    for (size_t i = 0; i < TRIALS; i++)
        s->trial[i].note = s->trial[i].mark = evil;
    for (size_t i = 0; i < 3; i++)
        s->curve[i].name = evil;
    for (size_t i = 0; i < 4; i++)
        s->layers[i].label = evil;
    for (size_t i = 0; i < COLUMNS; i++)
        s->column[i].name = evil;
    report_html(r, &page);
    well_formed(&page);
    assert_null(strstr(page.s, "<b onclick"));
    text_free(&page);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_sample), cmocka_unit_test(empty), cmocka_unit_test(odd_numbers),
                                       cmocka_unit_test(names_are_text)};
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
