/* finetune.c: the training loop: batches, accumulation, the step, the watchdog, progress lines.
 *
 * What it is not: it knows neither the kernels nor how a gradient comes about (model.h), nor the update rule (optim.h).
 * Accumulation by label tokens follows transformers since 4.46: sum of nll / labels of the whole step; micro_mean is what it did before. */
#include "finetune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/order.h"
#include "base/rng.h"
#include "base/stop.h"
#include "base/text.h"
#include "finetune_checkpoint.h"

enum { MOST_SKIPPED = 5, WINDOW = 8 };

int64_t finetune_steps(int64_t max_steps, double num_epochs, size_t n, int64_t batch_size)
{
    if (max_steps > 0)
        return max_steps;
    double steps = ceil(num_epochs * (double)n / (double)batch_size);
    return steps < 1 ? 1 : (int64_t)steps;
}

size_t finetune_rows(const struct dataset *dataset, int64_t micro_batch_size)
{
    return (size_t)micro_batch_size * (size_t)dataset->longest;
}

void finetune_place(struct finetune *finetune, const struct dataset *dataset, int64_t micro_batch_size, int64_t max_steps,
                    struct arena *arena)
{
    size_t rows = finetune_rows(dataset, micro_batch_size);
    finetune->max_rows = rows;
    finetune->max_segments = (size_t)micro_batch_size;
    finetune->max_steps = (size_t)max_steps;
    finetune->n_curve = 0;
    finetune->tokens = arena_take_table(arena, rows, sizeof *finetune->tokens);
    finetune->positions = arena_take_table(arena, rows, sizeof *finetune->positions);
    finetune->labels = arena_take_table(arena, rows, sizeof *finetune->labels);
    finetune->segments = arena_take_table(arena, finetune->max_segments, sizeof *finetune->segments);
    finetune->order = arena_take_table(arena, dataset->n, sizeof *finetune->order);
    finetune->curve = arena_take_table(arena, finetune->max_steps, sizeof *finetune->curve);
}

/* ---- the order of the data: a new shuffle each epoch, a function of (seed, epoch) ---- */

struct reader {
    const struct dataset *dataset;
    uint32_t *order;
    uint64_t seed;
    int64_t epoch; /* whose shuffle is in order; -1: none */
};

static const struct example *example_at(struct reader *reader, uint64_t sequence)
{
    uint64_t n = reader->dataset->n;
    int64_t epoch = (int64_t)(sequence / n);
    if (epoch != reader->epoch) {
        for (size_t i = 0; i < n; i++)
            reader->order[i] = (uint32_t)i;
        struct rng rng = {.seed = reader->seed, .stream = RNG_DATA_ORDER, .step = (uint32_t)epoch};
        rng_shuffle(&rng, reader->order, n);
        reader->epoch = epoch;
    }
    return &reader->dataset->example[reader->order[sequence % n]];
}

static size_t labels_of(const struct example *e)
{
    size_t count = 0;
    for (int32_t t = 0; t < e->n; t++)
        count += e->labels[t] >= 0;
    return count;
}

/* Sequences first .. first+n-1 one after the other, without padding. */
static struct batch make_batch(struct finetune *f, struct reader *reader, uint64_t first, size_t n, size_t *labels)
{
    size_t row = 0;
    *labels = 0;
    for (size_t i = 0; i < n; i++) {
        const struct example *e = example_at(reader, first + i);
        f->segments[i] = (struct segment){.start = (int32_t)row, .len = e->n};
        for (int32_t t = 0; t < e->n; t++, row++) {
            f->tokens[row] = e->tokens[t];
            f->labels[row] = e->labels[t];
            f->positions[row] = t;
        }
        *labels += labels_of(e);
    }
    return (struct batch){.n = row, .tokens = f->tokens, .positions = f->positions, .labels = f->labels,
                          .segments = f->segments, .n_segments = n};
}

/* ---- a step ---- */

struct loop {
    struct finetune *f;
    struct model_run *run;
    const struct model *model;
    struct finetune_target *target;
    const struct finetune_options *options;
    struct reader reader;
    struct finetune_state state; /* p, g, m, v, step: what a checkpoint holds */
    real *g;
    int64_t steps, micros;       /* micro-batches a step */
    double started_s, told_s;    /* speed and time left are those of this process */
    int64_t steps_here;
    uint64_t rows_here;
};

static size_t labels_of_step(struct loop *loop)
{
    uint64_t first = (uint64_t)loop->state.step * (uint64_t)loop->options->batch_size;
    size_t count = 0;
    for (int64_t i = 0; i < loop->options->batch_size; i++)
        count += labels_of(example_at(&loop->reader, first + (uint64_t)i));
    return count;
}

/* Gradients of the step's mean loss into g; its value into *loss. */
static enum status accumulate(struct loop *loop, double *loss, int64_t *rows, struct err *err)
{
    const struct finetune_options *o = loop->options;
    uint64_t first = (uint64_t)loop->state.step * (uint64_t)o->batch_size;
    size_t in_step = labels_of_step(loop);
    *loss = 0;
    *rows = 0;
    model_clear(loop->run->ops, loop->g, loop->state.n);
    for (int64_t i = 0; i < loop->micros; i++) {
        int64_t done = i * o->micro_batch_size, left = o->batch_size - done;
        size_t n = (size_t)(left < o->micro_batch_size ? left : o->micro_batch_size), labels, count;
        struct batch batch = make_batch(loop->f, &loop->reader, first + (uint64_t)done, n, &labels);
        double weight = o->micro_mean ? 1.0 / ((double)loop->micros * (double)labels) : 1.0 / (double)in_step, sum;
        uint32_t number = (uint32_t)(loop->state.step * loop->micros + i);
        TRY(model_train(loop->run, loop->model, loop->target->lora, loop->target->grads, &batch, (real)weight, number, &sum, &count,
                        err));
        *loss += sum * weight;
        *rows += (int64_t)batch.n;
    }
    return OK;
}

static bool was_taken(const struct finetune_point *p)
{
    return isfinite(p->loss) && isfinite(p->norm);
}

/* Five steps in a row whose loss or gradient was not finite end the run.  Counted in the curve, which a checkpoint holds. */
static enum status watch_skipped(const struct finetune *f, struct err *err)
{
    size_t n = 0;
    while (n < f->n_curve && !was_taken(&f->curve[f->n_curve - 1 - n]))
        n++;
    if (n < MOST_SKIPPED)
        return OK;
    const struct finetune_point *last = &f->curve[f->n_curve - 1];
    return err_set(err, ERR_DIVERGED, "step %lld: loss %g, gradient norm %g: not finite for the %dth step in a row",
                   (long long)last->step, last->loss, last->norm, MOST_SKIPPED);
}

static double median(double value[WINDOW])
{
    qsort(value, WINDOW, sizeof *value, order_doubles);
    return 0.5 * (value[WINDOW / 2 - 1] + value[WINDOW / 2]);
}

/* The median of the last eight finite losses against that of the first eight: three times as high is not noise. */
static enum status watch_loss(const struct finetune *f, struct err *err)
{
    double first[WINDOW], last[WINDOW];
    size_t i = 0, j = f->n_curve, n = 0, m = 0;
    for (; i < f->n_curve && n < WINDOW; i++)
        if (isfinite(f->curve[i].loss))
            first[n++] = f->curve[i].loss;
    for (; j > i && m < WINDOW; j--)
        if (isfinite(f->curve[j - 1].loss))
            last[m++] = f->curve[j - 1].loss;
    if (n < WINDOW || m < WINDOW)
        return OK;
    double start = median(first), now = median(last);
    if (!(now > 3 * start))
        return OK;
    return err_set(err, ERR_DIVERGED, "step %lld: the median of the last %d losses is %.4g, of the first %d it was %.4g",
                   (long long)f->curve[f->n_curve - 1].step, WINDOW, now, WINDOW, start);
}

static void tell(struct loop *loop, const struct finetune_point *p)
{
    double now = clock_s(), spent = now - loop->started_s;
    if (now - loop->told_s < 2 && p->step != loop->steps)
        return;
    loop->told_s = now;
    double speed = spent > 0 ? (double)loop->rows_here / spent : 0;
    long s = (long)(spent / (double)loop->steps_here * (double)(loop->steps - p->step));
    log_line(&loop->options->log, "%sstep %lld/%lld  loss %.3f  gnorm %.2f  lr %.1e  %.0f tok/s  mem %.2f GiB  ETA %02ld:%02ld:%02ld",
             loop->options->label ? loop->options->label : "", (long long)p->step, (long long)loop->steps, p->loss, p->norm, p->rate,
             speed, process_now_bytes() / 1073741824.0, s / 3600, s / 60 % 60, s % 60);
}

/* A step that is not finite is skipped: p, m, v stay, and neither Adam's count nor the schedule moves on (as in Accelerate). */
static enum status one_step(struct loop *loop, struct err *err)
{
    const struct optim *optim = &loop->options->optim;
    struct finetune_state *s = &loop->state;
    struct finetune *f = loop->f;
    int64_t update = s->step - f->skipped, rows;
    double loss, norm = NAN;
    enum status status = accumulate(loop, &loss, &rows, err);
    if (status == ERR_DIVERGED)
        loss = NAN; /* a micro-batch has none, so the step has none */
    else if (status == OK)
        status = optim_step(optim, loop->run->ops, update, s->p, loop->g, s->m, s->v, s->n, &norm, err);
    if (status != OK && status != ERR_DIVERGED)
        return status;
    f->skipped += status == ERR_DIVERGED;
    s->step++;
    f->curve[f->n_curve++] = (struct finetune_point){.step = s->step, .loss = loss, .norm = status == OK ? norm : NAN,
                                                     .rate = optim_rate(optim, update), .tokens = rows};
    loop->steps_here++;
    loop->rows_here += (uint64_t)rows;
    tell(loop, &f->curve[f->n_curve - 1]);
    TRY(watch_skipped(f, err));
    return watch_loss(f, err);
}

/* ---- the run ---- */

static void start_loop(struct loop *loop, struct finetune *f, const struct dataset *dataset, int64_t steps)
{
    struct finetune_target *t = loop->target;
    const struct finetune_options *o = loop->options;
    loop->f = f;
    loop->reader = (struct reader){.dataset = dataset, .order = f->order, .seed = o->seed, .epoch = -1};
    loop->state = t->grads ? (struct finetune_state){.n = t->grads->n, .p = t->p, .m = t->m, .v = t->v}
                           : (struct finetune_state){.n = t->lora->n, .p = t->lora->p, .m = t->lora->m, .v = t->lora->v};
    loop->state.finetune = f;
    loop->g = t->grads ? t->grads->block : t->lora->g;
    loop->steps = steps;
    loop->micros = (o->batch_size + o->micro_batch_size - 1) / o->micro_batch_size;
    loop->started_s = loop->told_s = clock_s();
    f->n_curve = 0;
    f->skipped = 0;
    loop->state.device = loop->run->ops->device;
    model_clear(loop->run->ops, loop->state.m, loop->state.n);
    model_clear(loop->run->ops, loop->state.v, loop->state.n);
}

static uint32_t data_identity(const struct dataset *dataset)
{
    uint32_t crc = 0;
    for (size_t i = 0; i < dataset->n; i++) {
        const struct example *e = &dataset->example[i];
        crc = crc32c(crc, e->tokens, (size_t)e->n * sizeof *e->tokens);
        crc = crc32c(crc, e->labels, (size_t)e->n * sizeof *e->labels);
    }
    return crc;
}

/* What must agree for a checkpoint to belong to this run: where it starts and everything that steers it.  The frozen weights are
 * named by the plan (shapes, formats, ranks), not read: they are made anew from the same files by the same seed. */
static enum status identify(struct loop *loop, struct err *err)
{
    const struct finetune_options *o = loop->options;
    const struct optim *m = &o->optim;
    const struct lora *lora = loop->target->lora;
    struct text text = {0};
    text_printf(&text, "%.9g %.9g %.9g %.9g %.9g %.9g %d %lld %lld\n", (double)m->lr, (double)m->beta1, (double)m->beta2,
                (double)m->eps, (double)m->weight_decay, (double)m->max_grad_norm, (int)m->schedule, (long long)m->warmup_steps,
                (long long)m->total_steps);
    text_printf(&text, "%lld %lld %lld %d %llu %08x\n", (long long)loop->steps, (long long)o->batch_size,
                (long long)o->micro_batch_size, o->micro_mean, (unsigned long long)o->seed, data_identity(loop->reader.dataset));
    text_printf(&text, "%d %.9g %llu\n", !loop->target->grads, lora ? (double)lora->dropout : 0.0,
                lora ? (unsigned long long)lora->seed : 0ull);
    plan_print(&loop->model->plan, &text);
    if (text.failed) {
        text_free(&text);
        return err_set(err, ERR_MEMORY, "out of memory for a checkpoint's identity");
    }
    loop->state.identity = crc32c(0, text.s, text.n);
    text_free(&text);
    return finetune_identify(&loop->state, err);
}

static enum status check_places(const struct loop *loop, struct err *err)
{
    const struct finetune *f = loop->f;
    size_t rows = finetune_rows(loop->reader.dataset, loop->options->micro_batch_size);
    if ((size_t)loop->steps > f->max_steps)
        return err_set(err, ERR_FAILED, "%lld steps are asked for, memory was planned for %zu", (long long)loop->steps, f->max_steps);
    if (rows > f->max_rows || (size_t)loop->options->micro_batch_size > f->max_segments || rows > loop->run->max_n)
        return err_set(err, ERR_FAILED, "a micro-batch can have %zu rows, memory was planned for %zu", rows,
                       f->max_rows < loop->run->max_n ? f->max_rows : loop->run->max_n);
    if (loop->reader.dataset->n == 0)
        return err_set(err, ERR_INPUT, "the dataset has no example with a label");
    return OK;
}

enum status finetune_run(struct finetune *finetune, struct model_run *run, const struct model *model,
                         struct finetune_target *target, const struct dataset *dataset, int64_t steps,
                         const struct finetune_options *options, struct err *err)
{
    struct loop loop = {.run = run, .model = model, .target = target, .options = options};
    const char *dir = options->checkpoint_dir;
    start_loop(&loop, finetune, dataset, steps);
    TRY(check_places(&loop, err));
    if (dir) {
        TRY(identify(&loop, err));
        TRY(finetune_restore(&loop.state, dir, &options->log, err));
    }
    while (loop.state.step < steps) {
        enum status status = stop_check(err);
        if (status == OK)
            status = one_step(&loop, err);
        if (status == ERR_STOPPED && dir && loop.state.step > 0) {
            struct err saving;
            if (finetune_save(&loop.state, dir, &saving) != OK)
                return err_set(err, ERR_FAILED, "%s", saving.text);
        }
        TRY(status);
        bool last = loop.state.step == steps;
        if (dir && options->save_steps > 0 && (last || loop.state.step % options->save_steps == 0))
            TRY(finetune_save(&loop.state, dir, err));
    }
    return OK;
}
