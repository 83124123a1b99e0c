/* evaluate_divergence.c: how far a model's next-token distributions are from another's: KL and Jensen-Shannon divergence.
 *
 * Two models once, on windows of a text; or many models against one whose hidden states are kept, which is what a search asks.  What it is not: it
 * measures no accuracy. */
#include <math.h>
#include <stdlib.h>

#include "base/stop.h"
#include "cuda/device.h"
#include "evaluate.h"
#include "evaluate_window.h"

/* Rows of logits that exist at one time, of either model: 16 million numbers at most, at least 8 rows: the head is read once for all of them. */
enum { LOGITS = 1 << 24, LEAST_ROWS = 8, MOST_ROWS = MODEL_LOGITS_MOST };
/* A reference keeps its logits, not only its hidden states, where they take no more than this: a third of the head's work is saved each time. */
static const size_t MOST_KEPT_BYTES = (size_t)512 << 20;

static size_t chunk_rows(size_t V, size_t capacity)
{
    size_t rows = LOGITS / V / 8 * 8;
    rows = rows < LEAST_ROWS ? LEAST_ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
    return rows < capacity ? rows : capacity;
}

/* A chunk's logits, and what is read off them.  Kernels write `there`, one piece of memory of theirs; `here` is the same where the host reads it. */
struct readings {
    double *kl, *jsd; /* [rows] */
    double *lse;      /* [rows, 2] */
    real *z, *z0;     /* [rows] logits of the tokens that follow: the model's, the reference's */
};

struct logits {
    const struct ops_context *ops;
    real *p, *q; /* [rows, V] */
    struct readings here, there;
    int32_t *at, *at_there; /* [rows] where those tokens' logits lie */
    size_t rows, V;
};

static size_t readings_bytes(size_t rows)
{
    return rows * (4 * sizeof(double) + 2 * sizeof(real));
}

static struct readings readings_at(void *memory, size_t rows)
{
    if (!memory)
        return (struct readings){0};
    double *x = memory;
    real *z = (real *)(void *)(x + 4 * rows);
    return (struct readings){.kl = x, .jsd = x + rows, .lse = x + 2 * rows, .z = z, .z0 = z + rows};
}

/* For batches of up to `capacity` rows.  Counts or carves (base/arena.h). */
static void logits_place(struct logits *l, const struct ops_context *ops, size_t V, size_t capacity, struct arena *arena)
{
    size_t rows = chunk_rows(V, capacity);
    *l = (struct logits){.ops = ops, .rows = rows, .V = V};
    l->p = arena_take(arena, rows * V, sizeof *l->p);
    l->q = arena_take(arena, rows * V, sizeof *l->q);
    l->there = readings_at(arena_take(arena, readings_bytes(rows), 1), rows);
    l->at = arena_take_table(arena, rows, sizeof *l->at);
    l->here = arena->tables ? readings_at(arena_take_table(arena, readings_bytes(rows), 1), rows) : l->there;
    l->at_there = arena->tables ? arena_take(arena, rows, sizeof *l->at_there) : l->at;
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

static void add_chunk(const struct readings *r, size_t rows, bool next, struct sums *sums)
{
    for (size_t i = 0; i < rows; i++) {
        sums->kl += r->kl[i];
        sums->jsd += r->jsd[i];
        if (next) {
            sums->reference_nll += r->lse[2 * i] - (double)r->z0[i];
            sums->nll += r->lse[2 * i + 1] - (double)r->z[i];
        }
    }
}

/* The logits of the tokens that follow k rows: to the embedding's kernel, rows of one number. */
static enum status pick_next(struct logits *l, const int32_t *next, size_t k, struct err *err)
{
    struct qmat p = {.format = FORMAT_F32, .rows = k * l->V, .cols = 1, .codes = l->p}, q = p;
    q.codes = l->q;
    for (size_t i = 0; i < k; i++)
        l->at[i] = (int32_t)(i * l->V) + next[i];
    if (l->at_there != l->at)
        TRY(device_upload(l->ops->device, l->at_there, l->at, k * sizeof *l->at, err));
    l->ops->ops->embed_forward(l->ops, &p, l->at_there, k, l->there.z0);
    l->ops->ops->embed_forward(l->ops, &q, l->at_there, k, l->there.z);
    return OK;
}

/* Adds n rows of hidden states; kept[n, V]: the reference's logits, or NULL; next[n]: the tokens that follow, or NULL. */
static enum status add_rows(struct logits *l, const struct side *reference, const act *x0, const real *kept, const struct side *model, const act *x, size_t n,
                            const int32_t *next, struct sums *sums, struct err *err)
{
    size_t C0 = (size_t)reference->model->config.hidden_size, C = (size_t)model->model->config.hidden_size;
    for (size_t row = 0; row < n; row += l->rows) {
        size_t k = n - row < l->rows ? n - row : l->rows;
        if (kept)
            model_copy(l->ops, l->p, 0, kept + row * l->V, 0, k * l->V, 1);
        else
            model_logits(reference->run, reference->model, act_at(reference->run->ops, x0, row * C0), k, l->p);
        model_logits(model->run, model->model, act_at(model->run->ops, x, row * C), k, l->q);
        if (next) /* before the logits are overwritten */
            TRY(pick_next(l, next + row, k, err));
        l->ops->ops->divergence(l->ops, l->p, l->q, k, l->V, l->there.kl, l->there.jsd, l->there.lse);
        if (l->here.kl != l->there.kl)
            TRY(device_download(l->ops->device, l->here.kl, l->there.kl, readings_bytes(l->rows), err));
        add_chunk(&l->here, k, next != NULL, sums);
    }
    return OK;
}

/* ---- two models ---- */

static enum status same_vocabulary(const struct model *reference, const struct model *model, struct err *err)
{
    if (reference->config.vocab_size == model->config.vocab_size)
        return OK;
    return err_set(err, ERR_INPUT, "the reference has %d tokens, the model %d: their distributions cannot be compared",
                   reference->config.vocab_size, model->config.vocab_size);
}

/* Logits, and the reference's hidden states of a window: the two runs may share memory. */
static void place_window(struct logits *l, act **hidden, const struct side *reference, const struct side *model, size_t window, struct arena *arena)
{
    logits_place(l, model->run->ops, (size_t)model->model->config.vocab_size, window, arena);
    *hidden = arena_take(arena, window * (size_t)reference->model->config.hidden_size, sizeof **hidden); /* as wide as an act can be: where it is counted no context is known */
}

size_t evaluate_divergence_bytes(const struct model *model, size_t window)
{
    struct model_run run = {0};
    struct side side = {&run, model, NULL};
    struct logits l;
    struct arena count = {0};
    act *hidden;
    place_window(&l, &hidden, &side, &side, window, &count);
    return count.used;
}

static enum status diverge_window(struct logits *l, const struct side *reference, const struct side *model, const struct text_window *w, act *hidden,
                                  struct sums *sums, struct err *err)
{
    size_t C = (size_t)reference->model->config.hidden_size;
    const act *x;
    TRY(model_hidden(reference->run, reference->model, reference->lora, &w->batch, &x, err));
    model_copy_acts(l->ops, hidden, x, w->batch.n * C);
    TRY(model_hidden(model->run, model->model, model->lora, &w->batch, &x, err));
    return add_rows(l, reference, hidden, NULL, model, x, w->batch.n - 1, w->labels, sums, err);
}

enum status evaluate_divergence(struct model_run *run, const struct model *model, const struct lora *lora,
                                struct model_run *reference_run, const struct model *reference, const struct lora *reference_lora,
                                const int32_t *tokens, size_t n, size_t window, struct evaluate_divergences *d, struct err *err)
{
    struct side to = {reference_run, reference, reference_lora}, from = {run, model, lora};
    struct text_window w = {0};
    struct logits l;
    struct sums sums = {0};
    struct arena memory = {0}, tables = {0};
    act *hidden;
    size_t count = 0;
    TRY(same_vocabulary(reference, model, err));
    TRY(text_window_check(run, n, window, err));
    TRY(text_window_check(reference_run, n, window, err));
    model_use_tables(run->ops, &memory, &tables);
    place_window(&l, &hidden, &to, &from, window, &memory);
    TRY(model_commit(run->ops, &memory, "logits", err));
    place_window(&l, &hidden, &to, &from, window, &memory);
    enum status status = text_window_open(&w, window, err);
    for (size_t at = 0; status == OK && at + window <= n; at += window) {
        text_window_set(&w, tokens + at);
        status = stop_check(err);
        if (status == OK)
            status = diverge_window(&l, &to, &from, &w, hidden, &sums, err);
        count += window - 1;
    }
    text_window_close(&w);
    model_release(run->ops, &memory);
    double each = 1 / (double)count; /* no window, no numbers */
    *d = (struct evaluate_divergences){.kl = sums.kl * each, .jsd = sums.jsd * each, .kl_variance = NAN, .jsd_variance = NAN, .nll = sums.nll * each,
                                       .reference_nll = sums.reference_nll * each, .tokens = count};
    return status;
}

/* ---- many models against one ---- */

struct evaluate_reference {
    const struct dataset *text;
    struct side reference;
    struct arena memory, tables; /* of logits, hidden and kept */
    struct logits logits;
    act *hidden;        /* [rows of all sequences, C] */
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
        const act *x;
        next = fill_batch(r, at, r->n);
        TRY(model_hidden(r->reference.run, r->reference.model, r->reference.lora, &r->batch, &x, err));
        model_copy_acts(r->reference.run->ops, act_at(r->reference.run->ops, r->hidden, r->first[at] * C), x, r->batch.n * C);
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
    for (size_t row = 0; r->kept && row < rows; row += r->logits.rows) {
        size_t k = rows - row < r->logits.rows ? rows - row : r->logits.rows;
        TRY(stop_check(err));
        model_logits(r->reference.run, r->reference.model, act_at(r->reference.run->ops, r->hidden, row * C), k, r->kept + row * V);
    }
    return OK;
}

/* What it keeps of `rows` rows.  Counts or carves. */
static void reference_place(struct evaluate_reference *r, size_t rows, const struct ops_context *ops, size_t C, size_t V)
{
    logits_place(&r->logits, ops, V, r->capacity, &r->memory);
    r->hidden = arena_take(&r->memory, rows * C, sizeof *r->hidden);
    r->kept = kept_bytes(rows, V) ? arena_take(&r->memory, kept_bytes(rows, V), 1) : NULL;
}

static enum status reference_take(struct evaluate_reference *r, struct err *err)
{
    const struct ops_context *ops = r->reference.run->ops;
    size_t rows = r->first[r->n], C = (size_t)r->reference.model->config.hidden_size, V = (size_t)r->reference.model->config.vocab_size;
    model_use_tables(ops, &r->memory, &r->tables);
    reference_place(r, rows, ops, C, V);
    TRY(model_commit(ops, &r->memory, "what the reference says", err));
    reference_place(r, rows, ops, C, V);
    r->segments = malloc(r->n * sizeof *r->segments);
    r->tokens = malloc(r->capacity * sizeof *r->tokens);
    r->positions = malloc(r->capacity * sizeof *r->positions);
    r->labels = malloc(r->capacity * sizeof *r->labels);
    if (!r->segments || !r->tokens || !r->positions || !r->labels)
        return err_set(err, ERR_MEMORY, "out of memory for batches of %zu tokens", r->capacity);
    r->batch = (struct batch){.tokens = r->tokens, .positions = r->positions, .labels = r->labels, .segments = r->segments};
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
    model_release(r->reference.run->ops, &r->memory);
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
    struct evaluate_reference r = {.capacity = capacity};
    reference_place(&r, rows, NULL, C, V);
    return r.memory.used + 3 * capacity * sizeof(int32_t);
}

/* Sums over one sequence, its last row left out: nothing follows it. */
static enum status add_sequence(struct evaluate_reference *r, const struct side *model, size_t i, const act *x, double *kl, double *jsd, struct err *err)
{
    size_t rows = r->first[i + 1] - r->first[i];
    const act *hidden = act_at(r->reference.run->ops, r->hidden, r->first[i] * (size_t)r->reference.model->config.hidden_size);
    const real *kept = r->kept ? r->kept + r->first[i] * r->logits.V : NULL;
    size_t scored = rows > 1 ? rows - 1 : 1;
    struct sums sums = {0};
    TRY(add_rows(&r->logits, &r->reference, hidden, kept, model, x, scored, NULL, &sums, err));
    *kl = sums.kl / (double)scored;
    *jsd = sums.jsd / (double)scored;
    return OK;
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
        const act *x;
        TRY(stop_check(err));
        next = fill_batch(r, at, end);
        TRY(model_hidden(run, model, lora, &r->batch, &x, err));
        for (size_t i = at; i < next; i++) {
            double a, b;
            TRY(add_sequence(r, &side, i, act_at(run->ops, x, (r->first[i] - r->first[at]) * C), &a, &b, err));
            moments_add(&kl, a);
            moments_add(&jsd, b);
        }
    }
    *d = (struct evaluate_divergences){.kl = kl.mean, .jsd = jsd.mean, .kl_variance = variance_of_mean(&kl), .jsd_variance = variance_of_mean(&jsd),
                                       .nll = NAN, .reference_nll = NAN, .tokens = r->first[end]};
    return OK;
}
