/* evaluate_text.c: perplexity of a text, divergence between two models on it, and results as JSON and tables.
 *
 * What it is not: rolling log-likelihood of whole documents (word perplexity); windows do not overlap, as LLM-Pruner, GPTQ and Wanda
 * measure. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "evaluate.h"

/* ---- windows of a text ---- */

struct window {
    struct batch batch;
    struct segment segment;
    int32_t *positions, *labels;
};

static enum status open_window(struct window *w, size_t size, struct err *err)
{
    memset(w, 0, sizeof *w);
    w->positions = malloc(size * sizeof *w->positions);
    w->labels = malloc(size * sizeof *w->labels);
    if (!w->positions || !w->labels)
        return err_set(err, ERR_MEMORY, "out of memory for a window of %zu tokens", size);
    for (size_t t = 0; t < size; t++)
        w->positions[t] = (int32_t)t;
    w->segment = (struct segment){.len = (int32_t)size};
    w->batch = (struct batch){.n = size, .positions = w->positions, .labels = w->labels, .segments = &w->segment, .n_segments = 1};
    return OK;
}

static void set_window(struct window *w, const int32_t *tokens)
{
    w->batch.tokens = tokens;
    for (size_t t = 0; t < w->batch.n; t++)
        w->labels[t] = t + 1 < w->batch.n ? tokens[t + 1] : -1;
}

static void close_window(struct window *w)
{
    free(w->positions);
    free(w->labels);
}

static enum status check_window(const struct model_run *run, size_t n, size_t window, struct err *err)
{
    if (window < 2 || window > run->max_n)
        return err_set(err, ERR_INPUT, "a window of %zu tokens, want 2 to %zu", window, run->max_n);
    if (n < window)
        return err_set(err, ERR_INPUT, "the text has %zu tokens, a window %zu", n, window);
    return OK;
}

enum status evaluate_perplexity(struct model_run *run, const struct model *model, const struct lora *lora, const int32_t *tokens,
                                size_t n, size_t window, double *perplexity, size_t *scored, struct err *err)
{
    struct window w;
    double total = 0;
    *scored = 0;
    TRY(check_window(run, n, window, err));
    enum status status = open_window(&w, window, err);
    for (size_t at = 0; status == OK && at + window <= n; at += window) {
        double sum;
        size_t count;
        set_window(&w, tokens + at);
        status = stop_check(err);
        if (status == OK)
            status = model_score(run, model, lora, &w.batch, NULL, NULL, &sum, &count, err);
        total += status == OK ? sum : 0;
        *scored += status == OK ? count : 0;
    }
    close_window(&w);
    *perplexity = *scored ? exp(total / (double)*scored) : NAN;
    return status;
}

/* ---- divergence ---- */

/* log(sum exp(x)) of a row of logits. */
static double log_sum_exp(const real *x, size_t n)
{
    double most = (double)x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return most + log(sum);
}

/* KL(p || q) = sum p (log p - log q) and JSD = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, from rows of logits: logarithms
 * are taken of logits, not of probabilities, so that a tail that underflows still counts.  Lin 1991, eq. 3.1 and 4.1 (equal weights). */
static void diverge(const real *p, const real *q, size_t n, double *kl, double *jsd)
{
    double a = 0, b = 0, zp = log_sum_exp(p, n), zq = log_sum_exp(q, n);
    for (size_t i = 0; i < n; i++) {
        double lp = (double)p[i] - zp, lq = (double)q[i] - zq, x = exp(lp), y = exp(lq), lm = log(0.5 * (x + y));
        a += x * (lp - lq);
        b += (x > 0 ? 0.5 * x * (lp - lm) : 0) + (y > 0 ? 0.5 * y * (lq - lm) : 0);
    }
    *kl += a < 0 ? 0 : a; /* rounding of equal distributions; NaN stays NaN */
    *jsd += b < 0 ? 0 : b;
}

enum { CHUNK = 32 };

struct divergence {
    struct model_run *run, *reference_run;
    const struct model *model, *reference;
    const struct lora *lora, *reference_lora;
    real *hidden;      /* [window, C] of the reference: the two runs may share memory */
    real *p, *q;       /* [CHUNK, V] */
    double kl, jsd;
    size_t count;
};

static enum status diverge_window(struct divergence *d, const struct window *w, struct err *err)
{
    size_t C = (size_t)d->reference->config.hidden_size, V = (size_t)d->model->config.vocab_size;
    const real *x;
    TRY(model_hidden(d->reference_run, d->reference, d->reference_lora, &w->batch, &x, err));
    memcpy(d->hidden, x, w->batch.n * C * sizeof *x);
    TRY(model_hidden(d->run, d->model, d->lora, &w->batch, &x, err));
    size_t width = (size_t)d->model->config.hidden_size;
    for (size_t row = 0; row + 1 < w->batch.n; row += CHUNK) {
        size_t n = w->batch.n - 1 - row < CHUNK ? w->batch.n - 1 - row : CHUNK;
        model_logits(d->reference_run, d->reference, d->hidden + row * C, n, d->p);
        model_logits(d->run, d->model, x + row * width, n, d->q);
        for (size_t i = 0; i < n; i++)
            diverge(d->p + i * V, d->q + i * V, V, &d->kl, &d->jsd);
        d->count += n;
    }
    return OK;
}

enum status evaluate_divergence(struct model_run *run, const struct model *model, const struct lora *lora,
                                struct model_run *reference_run, const struct model *reference, const struct lora *reference_lora,
                                const int32_t *tokens, size_t n, size_t window, double *kl, double *jsd, struct err *err)
{
    struct divergence d = {.run = run, .reference_run = reference_run, .model = model, .reference = reference, .lora = lora,
                           .reference_lora = reference_lora};
    size_t V = (size_t)model->config.vocab_size, C = (size_t)reference->config.hidden_size;
    if (reference->config.vocab_size != model->config.vocab_size)
        return err_set(err, ERR_INPUT, "the reference has %d tokens, the model %d: their distributions cannot be compared",
                       reference->config.vocab_size, model->config.vocab_size);
    TRY(check_window(run, n, window, err));
    TRY(check_window(reference_run, n, window, err));
    struct window w;
    enum status status = open_window(&w, window, err);
    d.hidden = malloc(window * C * sizeof(real));
    d.p = malloc(CHUNK * V * sizeof(real));
    d.q = malloc(CHUNK * V * sizeof(real));
    if (status == OK && (!d.hidden || !d.p || !d.q))
        status = err_set(err, ERR_MEMORY, "out of memory for the logits of %d tokens", CHUNK);
    for (size_t at = 0; status == OK && at + window <= n; at += window) {
        set_window(&w, tokens + at);
        status = stop_check(err);
        if (status == OK)
            status = diverge_window(&d, &w, err);
    }
    close_window(&w);
    free(d.hidden);
    free(d.p);
    free(d.q);
    *kl = d.count ? d.kl / (double)d.count : NAN;
    *jsd = d.count ? d.jsd / (double)d.count : NAN;
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
        number_member(out, "acc,none", r->acc);
        number_member(out, "acc_stderr,none", r->acc_stderr);
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
        text_printf(out, "%s\"%s\": 0", i ? ", " : "", results[i].task);
    text_printf(out, "}%s%s\n}\n", extra ? ",\n  " : "", extra ? extra : "");
}

void evaluate_print_table(const struct evaluate_result *results, size_t n, struct text *out)
{
    text_printf(out, "| %-14s | %6s | %-17s | %-17s |\n", "task", "n", "acc", "acc_norm");
    text_puts(out, "|----------------|-------:|-------------------|-------------------|\n");
    for (size_t i = 0; i < n; i++) {
        const struct evaluate_result *r = &results[i];
        text_printf(out, "| %-14s | %6zu | %.4f +- %.4f%*s |", r->task, r->n, r->acc, r->acc_stderr, 1, "");
        if (isfinite(r->acc_norm))
            text_printf(out, " %.4f +- %.4f%*s |\n", r->acc_norm, r->acc_norm_stderr, 1, "");
        else
            text_printf(out, " %-17s |\n", "");
    }
    double mean, variance;
    evaluate_mean(results, n, &mean, &variance);
    text_printf(out, "\nmean of the tasks' headline metrics %.4f +- %.4f (acc; acc_norm for hellaswag, arc_challenge, openbookqa)\n", mean,
                sqrt(variance));
}

void evaluate_print_samples(const char *task, const struct evaluate_sample *samples, size_t n, bool has_norm, struct text *out)
{
    for (size_t i = 0; i < n; i++) {
        const struct evaluate_sample *s = &samples[i];
        text_printf(out, "{\"task\": \"%s\", \"idx\": %lld, \"loglikelihoods\": [", task, (long long)s->idx);
        for (int c = 0; c < s->n_choices; c++)
            text_printf(out, "%s%.9g", c ? ", " : "", s->loglikelihood[c]);
        text_printf(out, "], \"label\": %d, \"acc\": %d", s->gold, s->acc);
        if (has_norm)
            text_printf(out, ", \"acc_norm\": %d", s->acc_norm);
        text_puts(out, "}\n");
    }
}
