/* evaluate_divergence.c: how far a model's next-token distributions are from another's: KL and Jensen-Shannon divergence.
 *
 * Two models once, on windows of a text; or many models against one whose hidden states are kept, which is what a search asks.  What it is not: it
 * measures no accuracy. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "evaluate.h"
#include "evaluate_window.h"

/* Rows of logits that exist at one time, of either model: 16 million numbers at most, at least 8 rows: the head is read once for all of them. */
enum { LOGITS = 1 << 24, LEAST_ROWS = 8, MOST_ROWS = 256 };
/* A reference keeps its logits, not only its hidden states, where they take no more than this: a third of the head's work is saved each time. */
static const size_t MOST_KEPT_BYTES = (size_t)512 << 20;

static size_t chunk_rows(size_t V)
{
    size_t rows = LOGITS / V / 8 * 8;
    return rows < LEAST_ROWS ? LEAST_ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
}

struct logits {
    real *p, *q;            /* [rows, V] */
    double *kl, *jsd;       /* [rows] */
    double *lse;            /* [rows, 2] */
    double *z;              /* [rows, 2] logits of the tokens that follow */
    size_t rows, V;
};

static enum status logits_open(struct logits *l, size_t V, struct err *err)
{
    *l = (struct logits){.rows = chunk_rows(V), .V = V};
    l->p = malloc(l->rows * V * sizeof(real));
    l->q = malloc(l->rows * V * sizeof(real));
    l->kl = malloc(l->rows * sizeof *l->kl);
    l->jsd = malloc(l->rows * sizeof *l->jsd);
    l->lse = malloc(2 * l->rows * sizeof *l->lse);
    l->z = malloc(2 * l->rows * sizeof *l->z);
    return l->p && l->q && l->kl && l->jsd && l->lse && l->z ? OK : err_set(err, ERR_MEMORY, "out of memory for the logits of %zu tokens", l->rows);
}

static void logits_close(struct logits *l)
{
    free(l->p);
    free(l->q);
    free(l->kl);
    free(l->jsd);
    free(l->lse);
    free(l->z);
}

struct side {
    struct model_run *run;
    const struct model *model;
    const struct lora *lora;
};

/* Sums over rows; nll: of the tokens that follow. */
struct sums {
    double kl, jsd, nll, reference_nll;
};

static void add_chunk(const struct logits *l, size_t rows, const int32_t *next, struct sums *sums)
{
    for (size_t i = 0; i < rows; i++) {
        sums->kl += l->kl[i];
        sums->jsd += l->jsd[i];
        if (next) {
            sums->reference_nll += l->lse[2 * i] - l->z[2 * i];
            sums->nll += l->lse[2 * i + 1] - l->z[2 * i + 1];
        }
    }
}

/* Adds n rows of hidden states; kept[n, V]: the reference's logits, or NULL; next[n]: the tokens that follow, or NULL. */
static void add_rows(struct logits *l, const struct side *reference, const real *x0, const real *kept, const struct side *model, const real *x, size_t n,
                     const int32_t *next, struct sums *sums)
{
    size_t C0 = (size_t)reference->model->config.hidden_size, C = (size_t)model->model->config.hidden_size;
    for (size_t row = 0; row < n; row += l->rows) {
        size_t k = n - row < l->rows ? n - row : l->rows;
        if (kept)
            memcpy(l->p, kept + row * l->V, k * l->V * sizeof *l->p);
        else
            model_logits(reference->run, reference->model, x0 + row * C0, k, l->p);
        model_logits(model->run, model->model, x + row * C, k, l->q);
        for (size_t i = 0; next && i < k; i++) { /* the logits are overwritten */
            l->z[2 * i] = (double)l->p[i * l->V + (size_t)next[row + i]];
            l->z[2 * i + 1] = (double)l->q[i * l->V + (size_t)next[row + i]];
        }
        model->run->ops->ops->divergence(model->run->ops, l->p, l->q, k, l->V, l->kl, l->jsd, l->lse);
        add_chunk(l, k, next ? next + row : NULL, sums);
    }
}

/* ---- two models ---- */

static enum status same_vocabulary(const struct model *reference, const struct model *model, struct err *err)
{
    if (reference->config.vocab_size == model->config.vocab_size)
        return OK;
    return err_set(err, ERR_INPUT, "the reference has %d tokens, the model %d: their distributions cannot be compared",
                   reference->config.vocab_size, model->config.vocab_size);
}

static enum status diverge_window(struct logits *l, const struct side *reference, const struct side *model, const struct text_window *w, real *hidden,
                                  struct sums *sums, struct err *err)
{
    size_t C = (size_t)reference->model->config.hidden_size;
    const real *x;
    TRY(model_hidden(reference->run, reference->model, reference->lora, &w->batch, &x, err));
    memcpy(hidden, x, w->batch.n * C * sizeof *x); /* the two runs may share memory */
    TRY(model_hidden(model->run, model->model, model->lora, &w->batch, &x, err));
    add_rows(l, reference, hidden, NULL, model, x, w->batch.n - 1, w->labels, sums);
    return OK;
}

enum status evaluate_divergence(struct model_run *run, const struct model *model, const struct lora *lora,
                                struct model_run *reference_run, const struct model *reference, const struct lora *reference_lora,
                                const int32_t *tokens, size_t n, size_t window, struct evaluate_divergences *d, struct err *err)
{
    struct side to = {reference_run, reference, reference_lora}, from = {run, model, lora};
    struct text_window w = {0};
    struct logits l = {0};
    struct sums sums = {0};
    size_t count = 0;
    TRY(same_vocabulary(reference, model, err));
    TRY(text_window_check(run, n, window, err));
    TRY(text_window_check(reference_run, n, window, err));
    real *hidden = malloc(window * (size_t)reference->config.hidden_size * sizeof *hidden);
    enum status status = hidden ? text_window_open(&w, window, err) : err_set(err, ERR_MEMORY, "out of memory for a window of %zu tokens", window);
    if (status == OK)
        status = logits_open(&l, (size_t)model->config.vocab_size, err);
    for (size_t at = 0; status == OK && at + window <= n; at += window) {
        text_window_set(&w, tokens + at);
        status = stop_check(err);
        if (status == OK)
            status = diverge_window(&l, &to, &from, &w, hidden, &sums, err);
        count += window - 1;
    }
    text_window_close(&w);
    logits_close(&l);
    free(hidden);
    double each = 1 / (double)count; /* no window, no numbers */
    *d = (struct evaluate_divergences){.kl = sums.kl * each, .jsd = sums.jsd * each, .kl_variance = NAN, .jsd_variance = NAN, .nll = sums.nll * each,
                                       .reference_nll = sums.reference_nll * each, .tokens = count};
    return status;
}

/* ---- many models against one ---- */

struct evaluate_reference {
    const struct dataset *text;
    struct side reference;
    struct logits logits;
    real *hidden;       /* [rows of all sequences, C] */
    real *kept;         /* [rows, V] logits, or NULL: there are too many */
    size_t *first;      /* [n + 1] row of each sequence's beginning */
    size_t n, capacity; /* sequences; rows of a batch */
    struct batch batch;
    struct segment *segments;
    int32_t *tokens, *positions, *labels;
};

/* The sequences from `at` that fit into a batch; returns the next one. */
static size_t fill_batch(struct evaluate_reference *r, size_t at, size_t end)
{
    r->batch.n = r->batch.n_segments = 0;
    for (; at < end && r->batch.n + (size_t)r->text->example[at].n <= r->capacity; at++) {
        const struct example *e = &r->text->example[at];
        for (int32_t t = 0; t < e->n; t++) {
            r->tokens[r->batch.n + (size_t)t] = e->tokens[t];
            r->positions[r->batch.n + (size_t)t] = t;
            r->labels[r->batch.n + (size_t)t] = -1;
        }
        r->segments[r->batch.n_segments++] = (struct segment){.start = (int32_t)r->batch.n, .len = e->n};
        r->batch.n += (size_t)e->n;
    }
    return at;
}

static enum status keep_hidden(struct evaluate_reference *r, struct err *err)
{
    size_t C = (size_t)r->reference.model->config.hidden_size;
    for (size_t at = 0, next; at < r->n; at = next) {
        const real *x;
        next = fill_batch(r, at, r->n);
        TRY(model_hidden(r->reference.run, r->reference.model, r->reference.lora, &r->batch, &x, err));
        memcpy(r->hidden + r->first[at] * C, x, r->batch.n * C * sizeof *x);
    }
    return OK;
}

static size_t kept_bytes(size_t rows, size_t V)
{
    size_t bytes = rows * V * sizeof(real);
    return bytes <= MOST_KEPT_BYTES ? bytes : 0;
}

static enum status keep_logits(struct evaluate_reference *r, struct err *err)
{
    size_t rows = r->first[r->n], V = r->logits.V, C = (size_t)r->reference.model->config.hidden_size;
    if (kept_bytes(rows, V) == 0)
        return OK;
    r->kept = malloc(kept_bytes(rows, V));
    if (!r->kept)
        return err_set(err, ERR_MEMORY, "out of memory for the logits of %zu tokens", rows);
    for (size_t row = 0; row < rows; row += r->logits.rows) {
        size_t k = rows - row < r->logits.rows ? rows - row : r->logits.rows;
        TRY(stop_check(err));
        model_logits(r->reference.run, r->reference.model, r->hidden + row * C, k, r->kept + row * V);
    }
    return OK;
}

static enum status reference_take(struct evaluate_reference *r, struct err *err)
{
    size_t rows = r->first[r->n], C = (size_t)r->reference.model->config.hidden_size;
    r->hidden = malloc(rows * C * sizeof *r->hidden);
    r->segments = malloc(r->n * sizeof *r->segments);
    r->tokens = malloc(r->capacity * sizeof *r->tokens);
    r->positions = malloc(r->capacity * sizeof *r->positions);
    r->labels = malloc(r->capacity * sizeof *r->labels);
    if (!r->hidden || !r->segments || !r->tokens || !r->positions || !r->labels)
        return err_set(err, ERR_MEMORY, "out of memory for what the reference says of %zu tokens", rows);
    r->batch = (struct batch){.tokens = r->tokens, .positions = r->positions, .labels = r->labels, .segments = r->segments};
    TRY(logits_open(&r->logits, (size_t)r->reference.model->config.vocab_size, err));
    TRY(keep_hidden(r, err));
    return keep_logits(r, err);
}

/* Whole sequences until max_tokens are reached, at least one. */
static enum status choose_sequences(struct evaluate_reference *r, size_t max_tokens, struct err *err)
{
    r->first = malloc((r->text->n + 1) * sizeof *r->first);
    if (!r->first)
        return err_set(err, ERR_MEMORY, "out of memory for %zu sequences", r->text->n);
    r->first[0] = 0;
    while (r->n < r->text->n && (r->n == 0 || max_tokens == 0 || r->first[r->n] < max_tokens)) {
        size_t rows = (size_t)r->text->example[r->n].n;
        if (rows > r->capacity)
            return err_set(err, ERR_FAILED, "a sequence has %zu rows, memory was planned for %zu", rows, r->capacity);
        r->first[r->n + 1] = r->first[r->n] + rows;
        r->n++;
    }
    return r->n ? OK : err_set(err, ERR_INPUT, "no text to measure divergence on");
}

enum status evaluate_reference_new(struct evaluate_reference **reference, const struct dataset *text, size_t max_tokens, struct model_run *run,
                                   const struct model *model, struct err *err)
{
    struct evaluate_reference *r = calloc(1, sizeof *r);
    *reference = NULL;
    if (!r)
        return err_set(err, ERR_MEMORY, "out of memory for a reference");
    r->text = text;
    r->reference = (struct side){run, model, NULL};
    r->capacity = run->max_n;
    enum status status = choose_sequences(r, max_tokens, err);
    if (status == OK)
        status = reference_take(r, err);
    if (status != OK) {
        evaluate_reference_free(r);
        return status;
    }
    *reference = r;
    return OK;
}

void evaluate_reference_free(struct evaluate_reference *r)
{
    if (!r)
        return;
    logits_close(&r->logits);
    free(r->hidden);
    free(r->kept);
    free(r->first);
    free(r->segments);
    free(r->tokens);
    free(r->positions);
    free(r->labels);
    free(r);
}

size_t evaluate_reference_bytes(const struct dataset *text, size_t max_tokens, size_t capacity, size_t C, size_t V)
{
    size_t rows = 0;
    for (size_t i = 0; i < text->n && (i == 0 || max_tokens == 0 || rows < max_tokens); i++)
        rows += (size_t)text->example[i].n;
    return rows * C * sizeof(real) + kept_bytes(rows, V) + 2 * chunk_rows(V) * (V * sizeof(real) + 3 * sizeof(double)) + 3 * capacity * sizeof(int32_t);
}

/* Sums over one sequence, its last row left out: nothing follows it. */
static void add_sequence(struct evaluate_reference *r, const struct side *model, size_t i, const real *x, double *kl, double *jsd)
{
    size_t rows = r->first[i + 1] - r->first[i];
    const real *hidden = r->hidden + r->first[i] * (size_t)r->reference.model->config.hidden_size, *kept = r->kept ? r->kept + r->first[i] * r->logits.V : NULL;
    size_t scored = rows > 1 ? rows - 1 : 1;
    struct sums sums = {0};
    add_rows(&r->logits, &r->reference, hidden, kept, model, x, scored, NULL, &sums);
    *kl = sums.kl / (double)scored;
    *jsd = sums.jsd / (double)scored;
}

struct moments {
    double n, mean, squares; /* Welford */
};

static void moments_add(struct moments *m, double x)
{
    double d = x - m->mean;
    m->n++;
    m->mean += d / m->n;
    m->squares += d * (x - m->mean);
}

static double variance_of_mean(const struct moments *m)
{
    return m->n > 1 ? m->squares / (m->n - 1) / m->n : 0;
}

enum status evaluate_against(struct evaluate_reference *r, double share, struct model_run *run, const struct model *model, const struct lora *lora,
                             struct evaluate_divergences *d, struct err *err)
{
    struct side side = {run, model, lora};
    struct moments kl = {0}, jsd = {0};
    size_t end = (size_t)ceil(share * (double)r->n), C = (size_t)model->config.hidden_size;
    TRY(same_vocabulary(r->reference.model, model, err));
    end = end < 1 ? 1 : end > r->n ? r->n : end;
    for (size_t at = 0, next; at < end; at = next) {
        const real *x;
        TRY(stop_check(err));
        next = fill_batch(r, at, end);
        TRY(model_hidden(run, model, lora, &r->batch, &x, err));
        for (size_t i = at; i < next; i++) {
            double a, b;
            add_sequence(r, &side, i, x + (r->first[i] - r->first[at]) * C, &a, &b);
            moments_add(&kl, a);
            moments_add(&jsd, b);
        }
    }
    *d = (struct evaluate_divergences){.kl = kl.mean, .jsd = jsd.mean, .kl_variance = variance_of_mean(&kl), .jsd_variance = variance_of_mean(&jsd),
                                       .nll = NAN, .reference_nll = NAN, .tokens = r->first[end]};
    return OK;
}
