/* evaluate.c: multiple-choice scoring with lm-evaluation-harness' semantics; evaluate_generate.c has the answers that a model writes.
 *
 * A document is one batch: the tokens that its choices share are computed once, and each choice attends to them.
 * What it is not: it writes no prompts (io/tasks.h) and knows no vocabulary (io/tokenizer.h).
 * Rules: EleutherAI/lm-evaluation-harness, lm_eval/api/model.py (_encode_pair), api/task.py, models/huggingface.py; legacy: commit
 * 4d21ab6b of 2023-05, which LLM-Pruner carries. */
#include "evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "evaluate_private.h"

/* ---- tokens of a (context, continuation) pair ---- */

/* Code points that Python's str.rstrip takes off. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The whitespace that ends a context belongs to the continuation: returns the length of the context without it. */
static size_t without_trailing_space(const char *context)
{
    size_t n = strlen(context);
    while (n > 0) {
        size_t first = n - 1;
        while (first > 0 && ((unsigned char)context[first] & 0xc0) == 0x80)
            first--;
        uint32_t c = (unsigned char)context[first];
        if (n - first == 2)
            c = (c & 0x1f) << 6 | ((unsigned char)context[first + 1] & 0x3f);
        else if (n - first == 3)
            c = (c & 0x0f) << 12 | ((uint32_t)(unsigned char)context[first + 1] & 0x3f) << 6 | ((unsigned char)context[first + 2] & 0x3f);
        else if (n - first > 3)
            break;
        if (!is_space(c))
            break;
        n = first;
    }
    return n;
}

/* A BOS that the tokenizer's models expect, unless the text itself opens with one; none in the old harness. */
static enum status make_encoder(struct encoder *e, const struct tokenizer *tokenizer, const struct model_config *config,
                                const struct evaluate_options *options, struct err *err)
{
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer);
    size_t most = (size_t)config->max_position_embeddings;
    int wanted = options->bos == BOS_YES ? 1 : options->bos == BOS_AUTO && !options->legacy ? -1 : 0;
    if (options->bos == BOS_YES && bos < 0)
        return err_set(err, ERR_INPUT, "bos = yes, but this model's vocabulary has no token that begins a text");
    *e = (struct encoder){.tokenizer = tokenizer, .bos = tokenizer_bos_for(tokenizer, wanted), .legacy = options->legacy,
                          .max_length = options->max_length && options->max_length < most ? options->max_length : most};
    e->prefix = bos >= 0 && !options->legacy ? bos : eos >= 0 ? eos : bos;
    return OK;
}

const char *evaluate_where(const struct task *task, const struct task_doc *doc, char where[512])
{
    if (task->path)
        snprintf(where, 512, "%s:%zu", task->path, doc->line);
    else
        snprintf(where, 512, "document %lld", (long long)doc->idx);
    return where;
}

enum status evaluate_encode_context(struct tokens *out, const struct encoder *e, const char *text, size_t n, struct err *err)
{
    return tokenizer_encode_bos(e->tokenizer, e->bos, text, n, out, err);
}

/* Context and continuation are one text to the tokenizer; what stands behind the context's own token count is the continuation, a
 * token that crosses the boundary with it. */
static enum status encode_together(struct tokens *out, size_t *context_n, const struct encoder *e, const char *context,
                                   const char *continuation, struct err *err)
{
    struct text text = {0};
    struct tokens alone = {0};
    text_puts(&text, context);
    text_puts(&text, continuation);
    enum status status = text.failed ? err_set(err, ERR_MEMORY, "out of memory for a document") : OK;
    if (status == OK)
        status = evaluate_encode_context(out, e, text.s, text.n, err);
    if (status == OK)
        status = evaluate_encode_context(&alone, e, context, without_trailing_space(context), err);
    *context_n = alone.n;
    text_free(&text);
    tokens_free(&alone);
    return status;
}

static enum status encode_apart(struct tokens *out, size_t *context_n, const struct encoder *e, const char *context,
                                const char *continuation, struct err *err)
{
    TRY(evaluate_encode_context(out, e, context, strlen(context), err));
    *context_n = out->n;
    return tokenizer_encode(e->tokenizer, continuation, strlen(continuation), true, out, err);
}

/* An empty context is the prefix token, which a continuation may bring itself. */
static enum status encode_alone(struct tokens *out, size_t *context_n, const struct encoder *e, const char *continuation,
                                struct err *err)
{
    if (e->prefix < 0)
        return err_set(err, ERR_INPUT, "a document has no context, and the vocabulary has neither BOS nor EOS to stand for it");
    *context_n = 1;
    TRY(tokenizer_encode(e->tokenizer, continuation, strlen(continuation), true, out, err));
    if (out->n > 0 && out->id[0] == e->prefix)
        return OK;
    TRY(tokens_push(out, e->prefix, err));
    memmove(out->id + 1, out->id, (out->n - 1) * sizeof *out->id);
    out->id[0] = e->prefix;
    return OK;
}

/* All tokens of a pair and how many are context; too long ones lose their left, but for a user's own. */
static enum status encode_pair(struct tokens *out, size_t *context_n, const struct encoder *e, const struct task *task, const struct task_doc *doc,
                               int choice, struct err *err)
{
    char where[512];
    const char *context = doc->context[choice], *continuation = doc->continuation[choice];
    if (*context == 0)
        TRY(encode_alone(out, context_n, e, continuation, err));
    else if (e->legacy)
        TRY(encode_apart(out, context_n, e, context, continuation, err));
    else
        TRY(encode_together(out, context_n, e, context, continuation, err));
    if (*context_n < 1 || *context_n >= out->n)
        return err_set(err, ERR_INPUT, "%s: choice %d has no token of its own", evaluate_where(task, doc, where), choice);
    if (out->n > e->max_length + 1 && e->own)
        return err_set(err, ERR_INPUT, "%s: context and choice %d have %zu tokens: the model's window holds %zu; want a shorter one, or fewer of num_fewshot",
                       evaluate_where(task, doc, where), choice, out->n, e->max_length);
    if (out->n > e->max_length + 1) {
        size_t cut = out->n - (e->max_length + 1);
        memmove(out->id, out->id + cut, (e->max_length + 1) * sizeof *out->id);
        out->n -= cut;
        *context_n = *context_n > cut + 1 ? *context_n - cut : 1;
    }
    return OK;
}

/* ---- a document made ready ---- */

struct pairs {
    struct tokens t[MAX_CHOICES];
    size_t context_n[MAX_CHOICES];
};

/* Input rows that all choices share: equal tokens, all of them context, and the last context row left to each choice. */
static size_t shared_rows(const struct pairs *pairs, int n)
{
    size_t k = pairs->context_n[0] - 1;
    for (int c = 1; c < n; c++) {
        size_t most = pairs->context_n[c] - 1;
        k = k < most ? k : most;
        size_t same = 0;
        while (same < k && pairs->t[c].id[same] == pairs->t[0].id[same])
            same++;
        k = same;
    }
    return n > 1 ? k : 0;
}

static enum status lay_out(struct ready *ready, const struct pairs *pairs, int n, struct err *err)
{
    size_t prefix = shared_rows(pairs, n), rows = prefix;
    for (int c = 0; c < n; c++)
        rows += pairs->t[c].n - 1 - prefix;
    ready->tokens = malloc(rows * sizeof *ready->tokens);
    ready->labels = malloc(rows * sizeof *ready->labels);
    if (!ready->tokens || !ready->labels)
        return err_set(err, ERR_MEMORY, "out of memory for a document");
    ready->prefix = (int32_t)prefix;
    ready->rows = (int32_t)rows;
    size_t row = 0;
    for (; row < prefix; row++) {
        ready->tokens[row] = pairs->t[0].id[row];
        ready->labels[row] = -1;
    }
    for (int c = 0; c < n; c++) {
        ready->start[c] = (int32_t)row;
        for (size_t t = prefix; t + 1 < pairs->t[c].n; t++, row++) {
            ready->tokens[row] = pairs->t[c].id[t];
            ready->labels[row] = t + 1 >= pairs->context_n[c] ? pairs->t[c].id[t + 1] : -1;
        }
        ready->len[c] = (int32_t)row - ready->start[c];
    }
    return OK;
}

static enum status make_ready(struct ready *ready, const struct task *task, const struct task_doc *doc, const struct encoder *encoder, struct err *err)
{
    struct pairs pairs;
    memset(&pairs, 0, sizeof pairs);
    *ready = (struct ready){.idx = doc->idx, .gold = doc->gold, .n_choices = doc->n_choices};
    enum status status = OK;
    for (int c = 0; status == OK && c < doc->n_choices; c++) {
        ready->characters[c] = doc->characters[c];
        status = encode_pair(&pairs.t[c], &pairs.context_n[c], encoder, task, doc, c, err);
    }
    if (status == OK)
        status = lay_out(ready, &pairs, doc->n_choices, err);
    for (int c = 0; c < doc->n_choices; c++)
        tokens_free(&pairs.t[c]);
    return status;
}

static enum status prepare_docs(struct evaluate_set *set, const struct task *task, const size_t *index, size_t n,
                                const struct encoder *encoder, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        TRY(stop_check(err));
        struct ready *d = &set->doc[set->n++]; /* counted first: what it holds is freed even when it failed half-way */
        const struct task_doc *doc = &task->doc[index ? index[i] : i];
        TRY(set->rules ? evaluate_ready_prompt(set, d, &set->written[i], task, doc, encoder, err) : make_ready(d, task, doc, encoder, err));
        size_t rows = (size_t)d->rows;
        set->most_rows = rows > set->most_rows ? rows : set->most_rows;
        set->sample[i] = (struct evaluate_sample){.idx = d->idx, .n_choices = d->n_choices, .gold = d->gold,
                                                  .loglikelihood = set->loglikelihood + i * MAX_CHOICES,
                                                  .answer = set->rules ? &set->written[i].answer : NULL,
                                                  .headline = set->own && set->headline_norm ? "acc_norm" : NULL};
    }
    return OK;
}

static struct evaluate_set *new_set(const struct task *task, size_t n)
{
    struct evaluate_set *set = calloc(1, sizeof *set);
    if (!set)
        return NULL;
    set->doc = calloc(n ? n : 1, sizeof *set->doc);
    set->sample = calloc(n ? n : 1, sizeof *set->sample);
    set->loglikelihood = calloc(n ? n : 1, MAX_CHOICES * sizeof *set->loglikelihood);
    set->all_greedy = calloc(n ? n : 1, sizeof *set->all_greedy);
    memcpy(set->task, task->name, sizeof set->task);
    set->has_norm = task->has_norm;
    set->headline_norm = task->headline_norm;
    set->greedy = task->greedy;
    set->own = task->own;
    set->num_fewshot = task->num_fewshot;
    set->rules = task->rules ? task_rules_share(task->rules) : NULL;
    set->written = calloc(n ? n : 1, sizeof *set->written);
    if (set->doc && set->sample && set->loglikelihood && set->all_greedy && set->written)
        return set;
    evaluate_free(set);
    return NULL;
}

enum status evaluate_prepare(struct evaluate_set **out, const struct task *task, const size_t *index, size_t n,
                             const struct tokenizer *tokenizer, const struct model_config *config,
                             const struct evaluate_options *options, struct err *err)
{
    struct encoder encoder;
    *out = NULL;
    if (n == 0)
        return err_set(err, ERR_INPUT, "task %s: no documents in this part", task->name);
    TRY(make_encoder(&encoder, tokenizer, config, options, err));
    struct evaluate_set *set = new_set(task, n);
    if (!set)
        return err_set(err, ERR_MEMORY, "out of memory for task %s", task->name);
    set->tokenizer = tokenizer;
    encoder.own = task->own;
    enum status status = prepare_docs(set, task, index, n, &encoder, err);
    if (status == OK) {
        *out = set;
        return OK;
    }
    evaluate_free(set);
    return status == ERR_STOPPED ? status : err_prefix(err, status, "task %s", task->name);
}

static void free_batch(struct evaluate_set *set)
{
    free(set->tokens);
    free(set->positions);
    free(set->labels);
    free(set->segments);
    free(set->nll);
    free(set->is_greedy);
}

void evaluate_free(struct evaluate_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++) {
        free(set->doc[i].tokens);
        free(set->doc[i].labels);
        evaluate_free_written(&set->written[i]);
    }
    free_batch(set);
    free(set->doc);
    free(set->sample);
    free(set->loglikelihood);
    free(set->all_greedy);
    free(set->written);
    task_rules_free(set->rules);
    free(set);
}

size_t evaluate_rows(const struct evaluate_set *set)
{
    return set->rules ? 0 : set->most_rows;
}

/* ---- scoring ---- */

static enum status reserve_batch(struct evaluate_set *set, size_t rows, struct err *err)
{
    if (set->capacity >= rows)
        return OK;
    free_batch(set);
    set->tokens = malloc(rows * sizeof *set->tokens);
    set->positions = malloc(rows * sizeof *set->positions);
    set->labels = malloc(rows * sizeof *set->labels);
    set->segments = malloc((rows + 1) * sizeof *set->segments); /* a segment has at least one row */
    set->nll = malloc(rows * sizeof *set->nll);
    set->is_greedy = malloc(rows);
    set->capacity = rows;
    if (set->tokens && set->positions && set->labels && set->segments && set->nll && set->is_greedy)
        return OK;
    set->capacity = 0;
    return err_set(err, ERR_MEMORY, "out of memory for a batch of task %s", set->task);
}

/* Appends a document to the batch under way. */
static void add_doc(struct evaluate_set *set, const struct ready *d)
{
    struct batch *b = &set->batch;
    size_t base = b->n;
    for (int32_t t = 0; t < d->rows; t++) {
        set->tokens[base + (size_t)t] = d->tokens[t];
        set->labels[base + (size_t)t] = d->labels[t];
    }
    for (int32_t t = 0; t < d->prefix; t++)
        set->positions[base + (size_t)t] = t;
    if (d->prefix)
        set->segments[b->n_segments++] = (struct segment){.start = (int32_t)base, .len = d->prefix};
    for (int c = 0; c < d->n_choices; c++) {
        for (int32_t t = 0; t < d->len[c]; t++)
            set->positions[base + (size_t)(d->start[c] + t)] = d->prefix + t;
        set->segments[b->n_segments++] = (struct segment){.start = (int32_t)base + d->start[c], .len = d->len[c],
                                                          .prefix_start = (int32_t)base, .prefix_len = d->prefix};
    }
    b->n += (size_t)d->rows;
}

static void read_scores(struct evaluate_set *set, size_t first, size_t last)
{
    size_t base = 0;
    for (size_t i = first; i < last; i++) {
        const struct ready *d = &set->doc[i];
        set->all_greedy[i] = true;
        for (int c = 0; c < d->n_choices; c++) {
            double sum = 0;
            for (int32_t t = 0; t < d->len[c]; t++) {
                size_t row = base + (size_t)(d->start[c] + t);
                if (set->labels[row] < 0)
                    continue;
                sum -= set->nll[row];
                set->all_greedy[i] = set->all_greedy[i] && set->is_greedy[row];
            }
            set->sample[i].loglikelihood[c] = sum;
        }
        base += (size_t)d->rows;
    }
}

static enum status score_batch(struct evaluate_set *set, size_t first, size_t last, struct model_run *run, const struct model *model,
                               const struct lora *lora, struct err *err)
{
    double sum;
    size_t count;
    set->batch = (struct batch){.tokens = set->tokens, .positions = set->positions, .labels = set->labels,
                                .segments = set->segments};
    for (size_t i = first; i < last; i++)
        add_doc(set, &set->doc[i]);
    TRY(model_score(run, model, lora, &set->batch, set->nll, set->is_greedy, &sum, &count, err));
    read_scores(set, first, last);
    return OK;
}

static int best(const double *value, const int32_t *divisor, int n)
{
    int at = 0;
    double most = -INFINITY;
    for (int c = 0; c < n; c++) {
        double v = divisor ? value[c] / (double)(divisor[c] > 0 ? divisor[c] : 1) : value[c];
        if (v > most) { /* strict: the first of equals */
            most = v;
            at = c;
        }
    }
    return at;
}

/* Standard error of a mean of n zeros and ones, with n - 1 as the harness has it. */
static double proportion_stderr(double p, size_t n)
{
    return n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : 0;
}

static void summarise(struct evaluate_set *set, size_t count, struct evaluate_result *r)
{
    size_t right = 0, right_norm = 0;
    double ll = 0;
    for (size_t i = 0; i < count; i++) {
        struct evaluate_sample *s = &set->sample[i];
        right += s->answer && s->acc;
        if (s->answer)
            continue;
        s->acc = set->greedy ? set->all_greedy[i] : best(s->loglikelihood, NULL, s->n_choices) == s->gold;
        s->acc_norm = best(s->loglikelihood, set->doc[i].characters, s->n_choices) == s->gold;
        right += s->acc;
        right_norm += s->acc_norm;
        ll += s->loglikelihood[0];
    }
    double n = (double)count;
    memset(r, 0, sizeof *r);
    memcpy(r->task, set->task, sizeof r->task);
    r->n = count;
    r->num_fewshot = set->num_fewshot;
    r->exact_match = set->rules != NULL;
    r->acc = (double)right / n;
    r->acc_stderr = proportion_stderr(r->acc, count);
    r->acc_norm = set->has_norm ? (double)right_norm / n : NAN;
    r->acc_norm_stderr = set->has_norm ? proportion_stderr(r->acc_norm, count) : NAN;
    r->headline_norm = set->headline_norm;
    r->headline = set->headline_norm ? r->acc_norm : r->acc;
    r->headline_stderr = set->headline_norm ? r->acc_norm_stderr : r->acc_stderr;
    r->perplexity = set->greedy ? exp(-ll / n) : NAN;
}

static enum status score_choices(struct evaluate_set *set, size_t count, struct model_run *run, const struct model *model, const struct lora *lora,
                                 struct err *err)
{
    if (set->most_rows > run->max_n)
        return err_set(err, ERR_FAILED, "task %s: a document has %zu rows, memory was planned for %zu", set->task, set->most_rows,
                       run->max_n);
    TRY(reserve_batch(set, run->max_n, err));
    for (size_t first = 0; first < count;) {
        size_t last = first, rows = 0;
        while (last < count && rows + (size_t)set->doc[last].rows <= run->max_n)
            rows += (size_t)set->doc[last++].rows;
        TRY(stop_check(err));
        TRY(score_batch(set, first, last, run, model, lora, err));
        first = last;
    }
    return OK;
}

enum status evaluate_run(struct evaluate_set *set, double share, struct model_run *run, const struct model *model, const struct lora *lora,
                         struct evaluate_result *result, const struct evaluate_sample **samples, struct err *err)
{
    size_t count = (size_t)ceil(share * (double)set->n);
    count = count < 1 ? 1 : count > set->n ? set->n : count;
    TRY(set->rules ? evaluate_write_answers(set, count, run, model, lora, err) : score_choices(set, count, run, model, lora, err));
    summarise(set, count, result);
    if (samples)
        *samples = set->sample;
    return OK;
}

bool evaluate_is_right(const struct evaluate_set *set, const struct evaluate_sample *sample)
{
    return set->headline_norm ? sample->acc_norm : sample->acc;
}

const struct evaluate_sample *evaluate_samples(const struct evaluate_set *set)
{
    return set->sample;
}

size_t evaluate_count(const struct evaluate_set *set)
{
    return set->n;
}
