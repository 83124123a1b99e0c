/* evaluate_text.c: perplexity of a text, and results as JSON and tables.
 *
 * What it is not: rolling log-likelihood of whole documents (word perplexity); windows do not overlap, as LLM-Pruner, GPTQ and Wanda
 * measure. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/gzip.h"
#include "base/stop.h"
#include "evaluate.h"
#include "evaluate_window.h"

enum status evaluate_read_text(const struct tokenizer *tokenizer, const char *path, struct tokens *tokens, struct err *err)
{
    char *text;
    size_t n;
    TRY(gzip_read(path, (size_t)1 << 30, &text, &n, err));
    int32_t bos = tokenizer_bos_for(tokenizer, -1);
    enum status status = bos >= 0 ? tokens_push(tokens, bos, err) : OK;
    if (status == OK)
        status = tokenizer_encode(tokenizer, text, n, false, tokens, err);
    free(text);
    return status;
}

enum status evaluate_perplexity(struct model_run *run, const struct model *model, const struct lora *lora, const int32_t *tokens,
                                size_t n, size_t window, double *perplexity, size_t *scored, struct err *err)
{
    struct text_window w;
    double total = 0;
    *scored = 0;
    TRY(text_window_check(run, n, window, err));
    enum status status = text_window_open(&w, window, err);
    for (size_t at = 0; status == OK && at + window <= n; at += window) {
        double sum;
        size_t count;
        text_window_set(&w, tokens + at);
        status = stop_check(err);
        if (status == OK)
            status = model_score(run, model, lora, &w.batch, NULL, NULL, &sum, &count, err);
        total += status == OK ? sum : 0;
        *scored += status == OK ? count : 0;
    }
    text_window_close(&w);
    *perplexity = *scored ? exp(total / (double)*scored) : NAN;
    return status;
}

/* ---- results ---- */

void evaluate_mean(const struct evaluate_result *results, size_t n, double *mean, double *variance)
{
    double sum = 0, var = 0;
    for (size_t i = 0; i < n; i++) {
        double p = results[i].headline;
        sum += p;
        var += p * (1 - p) / (double)results[i].n;
    }
    *mean = n ? sum / (double)n : NAN;
    *variance = n ? var / ((double)n * (double)n) : NAN;
}

static void number_member(struct text *out, const char *name, double x)
{
    if (isfinite(x))
        text_printf(out, ", \"%s\": %.17g", name, x);
}

void evaluate_print_json(const struct evaluate_result *results, size_t n, const char *extra, struct text *out)
{
    text_puts(out, "{\n  \"results\": {");
    for (size_t i = 0; i < n; i++) {
        const struct evaluate_result *r = &results[i];
        text_printf(out, "%s\n    \"%s\": {\"alias\": \"%s\"", i ? "," : "", r->task, r->task);
        number_member(out, r->exact_match ? "exact_match,none" : "acc,none", r->acc);
        number_member(out, r->exact_match ? "exact_match_stderr,none" : "acc_stderr,none", r->acc_stderr);
        number_member(out, "acc_norm,none", r->acc_norm);
        number_member(out, "acc_norm_stderr,none", r->acc_norm_stderr);
        number_member(out, "perplexity,none", r->perplexity);
        text_puts(out, "}");
    }
    text_puts(out, "\n  },\n  \"n-samples\": {");
    for (size_t i = 0; i < n; i++)
        text_printf(out, "%s\"%s\": {\"original\": %zu, \"effective\": %zu}", i ? ", " : "", results[i].task, results[i].n, results[i].n);
    text_puts(out, "},\n  \"n-shot\": {");
    for (size_t i = 0; i < n; i++)
        text_printf(out, "%s\"%s\": %lld", i ? ", " : "", results[i].task, (long long)results[i].num_fewshot);
    text_printf(out, "}%s%s\n}\n", extra ? ",\n  " : "", extra ? extra : "");
}

/* One cell of a share with its error; an empty one where there is none. */
static void print_share(bool there, double x, double error, struct text *out)
{
    if (there)
        text_printf(out, " %.4f +- %.4f  |", x, error);
    else
        text_printf(out, " %-17s |", "");
}

enum headline { HEADLINE_NORM, HEADLINE_MATCH };

/* The tasks whose headline is another than acc. */
static void print_names(const struct evaluate_result *results, size_t n, enum headline headline, struct text *out)
{
    const char *before = headline == HEADLINE_NORM ? "; acc_norm for " : "; exact_match for ";
    for (size_t i = 0; i < n; i++)
        if (headline == HEADLINE_NORM ? results[i].headline_norm : results[i].exact_match) {
            text_printf(out, "%s%s", before, results[i].task);
            before = ", ";
        }
}

void evaluate_print_table(const struct evaluate_result *results, size_t n, struct text *out)
{
    bool matches = false;
    for (size_t i = 0; i < n; i++)
        matches = matches || results[i].exact_match;
    text_printf(out, "| %-14s | %6s | %-17s | %-17s |", "task", "n", "acc", "acc_norm");
    text_puts(out, matches ? " exact_match       |\n" : "\n");
    text_puts(out, "|----------------|-------:|-------------------|-------------------|");
    text_puts(out, matches ? "-------------------|\n" : "\n");
    for (size_t i = 0; i < n; i++) {
        const struct evaluate_result *r = &results[i];
        text_printf(out, "| %-14s | %6zu |", r->task, r->n);
        print_share(!r->exact_match, r->acc, r->acc_stderr, out);
        print_share(isfinite(r->acc_norm), r->acc_norm, r->acc_norm_stderr, out);
        if (matches)
            print_share(r->exact_match, r->acc, r->acc_stderr, out);
        text_puts(out, "\n");
    }
    double mean, variance;
    evaluate_mean(results, n, &mean, &variance);
    text_printf(out, "\nmean of the tasks' headline metrics %.4f +- %.4f (acc", mean, sqrt(variance));
    print_names(results, n, HEADLINE_NORM, out);
    print_names(results, n, HEADLINE_MATCH, out);
    text_puts(out, ")\n");
}

static void print_answer(const struct evaluate_answer *a, struct text *out)
{
    text_puts(out, ", \"target\": ");
    text_json_string(out, a->target, strlen(a->target));
    text_puts(out, ", \"resps\": [");
    text_json_string(out, a->written, strlen(a->written));
    text_puts(out, "], \"filtered_resps\": [");
    if (a->extracted)
        text_json_string(out, a->extracted, strlen(a->extracted));
    else
        text_puts(out, "null");
}

void evaluate_print_sample(const char *task, const struct evaluate_sample *s, bool has_norm, struct text *out)
{
    text_printf(out, "{\"task\": \"%s\", \"idx\": %lld", task, (long long)s->idx);
    if (s->answer) {
        print_answer(s->answer, out);
        text_printf(out, "], \"exact_match\": %d}", s->acc);
        return;
    }
    text_puts(out, ", \"loglikelihoods\": [");
    for (int c = 0; c < s->n_choices; c++)
        text_printf(out, "%s%.9g", c ? ", " : "", s->loglikelihood[c]);
    text_printf(out, "], \"label\": %d, \"acc\": %d", s->gold, s->acc);
    if (has_norm)
        text_printf(out, ", \"acc_norm\": %d", s->acc_norm);
    if (s->headline)
        text_printf(out, ", \"headline\": \"%s\"", s->headline);
    text_puts(out, "}");
}

void evaluate_print_samples(const char *task, const struct evaluate_sample *samples, size_t n, bool has_norm, struct text *out)
{
    for (size_t i = 0; i < n; i++) {
        evaluate_print_sample(task, &samples[i], has_norm, out);
        text_puts(out, "\n");
    }
}
