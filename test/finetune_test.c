/* finetune_test.c: the training loop: it learns, every example once an epoch, the same bits after a stop, a watchdog that bites. */
#include "toy.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/stop.h"
#include "finetune.h"
#include "refused.h"

enum { VOCAB = 40, EXAMPLES = 7, LONGEST = 9, STEPS = 24 };

/* ---- data: EXAMPLES sequences of different lengths; the first token tells which, the first half is prompt ---- */

static void make_data(struct dataset *d)
{
    memset(d, 0, sizeof *d);
    d->n = EXAMPLES;
    d->example = calloc(EXAMPLES, sizeof *d->example);
    assert_non_null(d->example);
    for (int i = 0; i < EXAMPLES; i++) {
        struct example *e = &d->example[i];
        e->n = LONGEST - i % 4;
        e->tokens = calloc(LONGEST, sizeof *e->tokens);
        e->labels = calloc(LONGEST, sizeof *e->labels);
        assert_true(e->tokens && e->labels);
        for (int t = 0; t < e->n; t++)
            e->tokens[t] = t == 0 ? i : (int32_t)(rng_at(1, RNG_WORLD, (uint32_t)i, (uint64_t)t) % VOCAB);
        for (int t = 0; t < e->n; t++)
            e->labels[t] = t + 1 < e->n && t >= 1 + i % 3 ? e->tokens[t + 1] : -1;
        d->tokens += (uint64_t)e->n;
        d->longest = e->n > d->longest ? e->n : d->longest;
    }
}

/* ---- a run that can be looked into: its own slots in the table of kernels ---- */

struct probe {
    const struct ops *real;
    int embeds, stop_at_embed; /* forward passes; a stop is asked for in this one, 0: never */
    int updates, spoil_from, spoil_to; /* norms that come out as NaN: norm number from .. to-1 */
    double factor_from, factor; /* losses are multiplied by factor from forward pass factor_from on */
    int32_t first[4096];       /* first token of each pass */
    char log[4096];
};
static struct probe probe; /* kernels carry no user pointer */

static void probe_embed(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y)
{
    if (probe.embeds < 4096)
        probe.first[probe.embeds] = tokens[0];
    if (++probe.embeds == probe.stop_at_embed)
        stop_request();
    probe.real->embed_forward(c, W, tokens, n, y);
}

static double probe_sum_squares(const struct ops_context *c, const real *x, size_t n)
{
    int number = probe.updates++;
    return number >= probe.spoil_from && number < probe.spoil_to ? NAN : probe.real->sum_squares(c, x, n);
}

static void probe_head(const struct ops_context *c, const struct head_args *a)
{
    probe.real->head_loss(c, a);
    if (a->nll && probe.factor > 0 && probe.embeds > probe.factor_from)
        for (size_t i = 0; i < a->n; i++)
            a->nll[i] *= probe.factor;
}

static void keep_line(void *user, const char *line)
{
    struct probe *p = user;
    size_t n = strlen(p->log);
    snprintf(p->log + n, sizeof p->log - n, "%s\n", line);
}

struct session {
    struct toy toy;
    struct dataset data;
    struct finetune f;
    struct arena arena;
    struct finetune_options o;
    struct finetune_target target;
    int64_t steps;
};

static void open_session(struct session *s, bool full, int64_t batch, int64_t micro, int threads)
{
    struct err err;
    memset(s, 0, sizeof *s);
    stop_reset();
    make_data(&s->data);
    toy_open(&s->toy, VOCAB, FORMAT_NF4, full ? 0 : 4, (size_t)(micro * LONGEST), threads);
    s->toy.lora.dropout = full ? 0 : 0.1f;
    s->toy.lora.seed = 9;
    s->steps = STEPS;
    for (int pass = 0; pass < 2; pass++) {
        finetune_place(&s->f, &s->data, micro, 400, &s->arena);
        if (pass == 0)
            ASSERT_OK(arena_commit(&s->arena, "batches", &err));
    }
    optim_default(&s->o.optim);
    s->o.optim.lr = (real)5e-3;
    s->o.optim.schedule = SCHEDULE_CONSTANT;
    s->o.optim.total_steps = s->steps;
    s->o.batch_size = batch;
    s->o.micro_batch_size = micro;
    s->o.seed = 4;
    s->o.label = "[trial 1/2] ";
    s->o.log = (struct log){keep_line, &probe};
    size_t n;
    s->target = full ? (struct finetune_target){.grads = &s->toy.grads, .p = model_parameter_block(&s->toy.model, &n), .m = s->toy.m,
                                                .v = s->toy.v}
                     : (struct finetune_target){.lora = &s->toy.lora};
    memset(&probe, 0, sizeof probe);
    probe.real = cpu_ops(false);
    s->toy.table.embed_forward = probe_embed;
    s->toy.table.sum_squares = probe_sum_squares;
    s->toy.table.head_loss = probe_head;
}

static void close_session(struct session *s)
{
    toy_close(&s->toy);
    arena_free(&s->arena);
    dataset_free(&s->data);
    stop_reset();
}

static enum status go(struct session *s, struct err *err)
{
    return finetune_run(&s->f, &s->toy.run, &s->toy.model, &s->target, &s->data, s->steps, &s->o, err);
}

static void assert_same_run(const struct session *a, const struct session *b)
{
    assert_int_equal(a->f.n_curve, b->f.n_curve);
    assert_int_equal(a->f.skipped, b->f.skipped);
    assert_memory_equal(a->f.curve, b->f.curve, a->f.n_curve * sizeof *a->f.curve);
    if (a->target.lora) {
        size_t bytes = a->toy.lora.n * sizeof(real);
        assert_memory_equal(a->toy.lora.p, b->toy.lora.p, bytes);
        assert_memory_equal(a->toy.lora.m, b->toy.lora.m, bytes);
        assert_memory_equal(a->toy.lora.v, b->toy.lora.v, bytes);
    } else {
        size_t bytes = a->toy.grads.n * sizeof(real);
        assert_memory_equal(a->target.p, b->target.p, bytes);
        assert_memory_equal(a->toy.m, b->toy.m, bytes);
        assert_memory_equal(a->toy.v, b->toy.v, bytes);
    }
}

/* ---- learning ---- */

static void full_training_learns_by_heart(void **state)
{
    (void)state;
    struct session s;
    struct err err;
    open_session(&s, true, EXAMPLES, EXAMPLES, 1);
    s.steps = 150;
    ASSERT_OK(go(&s, &err));
    /* random weights of 0.02 know nothing: log VOCAB nats, give or take what their logits scatter */
    assert_true(fabs(s.f.curve[0].loss - log(VOCAB)) <= 0.1);
    assert_true(s.f.curve[149].loss <= 0.05);
    close_session(&s);
}

static void adapters_learn_on_a_frozen_base(void **state)
{
    (void)state;
    struct session s;
    struct err err;
    open_session(&s, false, EXAMPLES, EXAMPLES, 1);
    s.steps = 100;
    real *head = s.toy.model.head.codes;
    for (size_t i = 0; i < VOCAB * 32; i++)
        head[i] *= 20; /* logits of a frozen head of 0.02 could not leave +-0.7 whatever the adapters do */
    void *codes = s.toy.model.layer[0].linear[LINEAR_UP].codes;
    char before[32 * 96 / 2];
    memcpy(before, codes, sizeof before);
    ASSERT_OK(go(&s, &err));
    assert_true(s.f.curve[99].loss <= 0.7 * s.f.curve[0].loss);
    assert_memory_equal(before, codes, sizeof before);
    assert_non_null(strstr(probe.log, "[trial 1/2] step 100/100  loss "));
    close_session(&s);
}

static void every_example_comes_once_an_epoch(void **state)
{
    (void)state;
    struct session s;
    struct err err;
    open_session(&s, false, 1, 1, 1);
    s.steps = 3 * EXAMPLES;
    ASSERT_OK(go(&s, &err));
    assert_int_equal(probe.embeds, 3 * EXAMPLES);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[EXAMPLES] = {0};
        for (int i = 0; i < EXAMPLES; i++)
            seen[probe.first[epoch * EXAMPLES + i]]++;
        for (int i = 0; i < EXAMPLES; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_memory_not_equal(probe.first, probe.first + EXAMPLES, EXAMPLES * sizeof *probe.first);
    close_session(&s);
}

/* The gradient of a step does not depend on how it is cut into micro-batches when it is normalised by all its label tokens. */
static void accumulation_is_one_large_batch(void **state)
{
    (void)state;
    struct session whole, cut, means;
    struct err err;
    open_session(&whole, false, 6, 6, 2);
    whole.toy.lora.dropout = 0;
    ASSERT_OK(go(&whole, &err));
    open_session(&cut, false, 6, 4, 2); /* 4 + 2: the last micro-batch is smaller */
    cut.toy.lora.dropout = 0;
    ASSERT_OK(go(&cut, &err));
    /* sums of a few hundred floats in another order: 1e-5 of a loss near 3.7 is 30 units in the last place */
    for (int k = 0; k < STEPS; k++)
        assert_true(fabs(whole.f.curve[k].loss - cut.f.curve[k].loss) <= 1e-5 * whole.f.curve[k].loss * (1 + k));
    open_session(&means, false, 6, 4, 2);
    means.toy.lora.dropout = 0;
    means.o.micro_mean = true;
    ASSERT_OK(go(&means, &err));
    assert_true(fabs(means.f.curve[0].loss - whole.f.curve[0].loss) > 1e-4); /* micro-batches of unlike lengths: another mean */
    close_session(&whole);
    close_session(&cut);
    close_session(&means);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    struct session one, other;
    struct err err;
    open_session(&one, false, 5, 3, 1);
    ASSERT_OK(go(&one, &err));
    for (int threads = 2; threads <= 3; threads++) {
        open_session(&other, false, 5, 3, threads);
        ASSERT_OK(go(&other, &err));
        assert_same_run(&one, &other);
        close_session(&other);
    }
    close_session(&one);
}

static void steps_come_from_epochs(void **state)
{
    (void)state;
    assert_int_equal(finetune_steps(0, 1.5, 100, 8), 19); /* ceil(150 / 8) */
    assert_int_equal(finetune_steps(0, 0.001, 10, 8), 1);
    assert_int_equal(finetune_steps(17, 3, 100, 8), 17);
}

/* ---- checkpoints ---- */

static bool has(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool there = path && access(path, F_OK) == 0;
    free(path);
    return there;
}

/* A stop in the middle of a step's forward pass, in every phase of the accumulation; then the same command again. */
static void stop_and_resume_gives_the_same_bits(void **state)
{
    struct session whole;
    struct err err;
    for (int full = 0; full < 2; full++) {
        open_session(&whole, full, 5, 2, 1);
        ASSERT_OK(go(&whole, &err));
        for (int at = 3 * 8 + 1; at <= 3 * 9 + 1; at++) { /* three micro-batches a step: step 9 whole, and the first of step 10 */
            char *dir = path_join(*state, full ? "full" : "lora");
            struct session s;
            open_session(&s, full, 5, 2, 1);
            s.o.checkpoint_dir = dir;
            probe.stop_at_embed = at;
            assert_int_equal(go(&s, &err), ERR_STOPPED);
            assert_true(has(dir, at <= 3 * 9 ? "checkpoint-8/state.bin" : "checkpoint-9/state.bin"));
            close_session(&s);
            open_session(&s, full, 5, 2, 1); /* a new process: weights as at the start */
            s.o.checkpoint_dir = dir;
            ASSERT_OK(go(&s, &err));
            assert_non_null(strstr(probe.log, at <= 3 * 9 ? "going on from step 8" : "going on from step 9"));
            assert_same_run(&whole, &s);
            close_session(&s);
            dir_remove(dir);
            free(dir);
        }
        close_session(&whole);
    }
}

static void two_checkpoints_are_kept(void **state)
{
    struct session s;
    struct err err;
    open_session(&s, false, 4, 2, 1);
    s.o.checkpoint_dir = *state;
    s.o.save_steps = 5;
    ASSERT_OK(go(&s, &err));
    assert_false(has(*state, "checkpoint-5") || has(*state, "checkpoint-10") || has(*state, "checkpoint-15"));
    assert_true(has(*state, "checkpoint-20/state.bin") && has(*state, "checkpoint-24/state.bin"));
    close_session(&s);
}

/* Any byte of the newest checkpoint wrong, or its end missing: named, passed over, and the older one leads to the same bits. */
static void a_damaged_checkpoint_is_passed_over(void **state)
{
    struct session whole, s;
    struct err err;
    char *path = path_join(*state, "checkpoint-24/state.bin"), *data;
    size_t n;
    open_session(&whole, false, 4, 2, 1);
    whole.o.checkpoint_dir = *state;
    whole.o.save_steps = 5;
    ASSERT_OK(go(&whole, &err));
    ASSERT_OK(file_read(path, 1 << 28, &data, &n, &err));
    for (int i = 0; i < 6; i++) {
        size_t at = (size_t[]){0, 60, n / 2, n - 1, 0, 0}[i], length = i < 4 ? n : i == 4 ? 0 : n - 1;
        data[at] ^= 1;
        ASSERT_OK(file_write(path, data, length, &err));
        data[at] ^= 1;
        open_session(&s, false, 4, 2, 1);
        s.o.checkpoint_dir = *state;
        ASSERT_OK(go(&s, &err));
        assert_non_null(strstr(probe.log, "passed over: "));
        assert_non_null(strstr(probe.log, "checkpoint-24/state.bin"));
        assert_non_null(strstr(probe.log, "going on from step 20"));
        assert_same_run(&whole, &s);
        close_session(&s);
    }
    free(data);
    free(path);
    close_session(&whole);
}

/* Another rate, other data, other formats of the frozen weights: another run, which starts anew and loses nothing of its own. */
static void a_checkpoint_belongs_to_one_run(void **state)
{
    struct session s;
    struct err err;
    open_session(&s, false, 4, 2, 1);
    s.o.checkpoint_dir = *state;
    s.o.save_steps = 10;
    ASSERT_OK(go(&s, &err));
    close_session(&s);
    for (int what = 0; what < 3; what++) {
        open_session(&s, false, 4, 2, 1);
        s.o.checkpoint_dir = *state;
        s.o.save_steps = 5;
        s.steps = STEPS;
        if (what == 0)
            s.o.optim.lr = (real)4e-3;
        else if (what == 1)
            s.data.example[3].tokens[2] ^= 1;
        else
            s.toy.model.plan.layer[1].linear[LINEAR_V].format = FORMAT_FP4;
        probe.stop_at_embed = 2 * 7 + 1;
        assert_int_equal(go(&s, &err), ERR_STOPPED);
        assert_null(strstr(probe.log, "going on"));
        assert_true(has(*state, "checkpoint-7/state.bin"));
        stop_reset();
        close_session(&s);
    }
}

/* ---- the watchdog ---- */

static void a_gradient_that_is_not_finite_is_not_taken(void **state)
{
    (void)state;
    struct session clean, s;
    struct err err;
    open_session(&clean, true, 4, 4, 1);
    clean.steps = 3;
    ASSERT_OK(go(&clean, &err));
    open_session(&s, true, 4, 4, 1);
    s.steps = 5;
    probe.spoil_from = 3;
    probe.spoil_to = 5;
    ASSERT_OK(go(&s, &err));
    assert_int_equal(s.f.skipped, 2);
    size_t bytes = s.toy.grads.n * sizeof(real);
    assert_memory_equal(clean.target.p, s.target.p, bytes);
    assert_memory_equal(clean.toy.m, s.toy.m, bytes);
    assert_memory_equal(clean.toy.v, s.toy.v, bytes);
    assert_true(isnan(s.f.curve[4].norm) && isfinite(s.f.curve[4].loss));
    close_session(&clean);
    close_session(&s);
}

static void five_in_a_row_end_the_run(void **state)
{
    struct session s;
    struct err err;
    open_session(&s, false, 4, 4, 1);
    probe.spoil_from = 6;
    probe.spoil_to = 10; /* four are forgiven */
    ASSERT_OK(go(&s, &err));
    assert_int_equal(s.f.skipped, 4);
    close_session(&s);
    open_session(&s, false, 4, 4, 1);
    probe.spoil_from = 6;
    probe.spoil_to = 11;
    assert_int_equal(go(&s, &err), ERR_DIVERGED);
    assert_non_null(strstr(err.text, "step 11: loss "));
    assert_non_null(strstr(err.text, "5th step in a row"));
    close_session(&s);
    /* a stop in between does not start the count anew */
    open_session(&s, false, 4, 4, 1);
    s.o.checkpoint_dir = *state;
    probe.spoil_from = 6;
    probe.spoil_to = 100;
    probe.stop_at_embed = 9;
    assert_int_equal(go(&s, &err), ERR_STOPPED);
    close_session(&s);
    open_session(&s, false, 4, 4, 1);
    s.o.checkpoint_dir = *state;
    probe.spoil_to = 100;
    assert_int_equal(go(&s, &err), ERR_DIVERGED);
    assert_non_null(strstr(err.text, "step 11: loss "));
    close_session(&s);
}

static void a_loss_that_blows_up_ends_the_run(void **state)
{
    (void)state;
    struct session s;
    struct err err;
    open_session(&s, false, 4, 4, 1);
    s.o.optim.lr = 0; /* the loss stands still but for the data and our factor */
    probe.factor = 2.5;
    probe.factor_from = 8;
    ASSERT_OK(go(&s, &err)); /* 2.5 times is noise */
    close_session(&s);
    open_session(&s, false, 4, 4, 1);
    s.o.optim.lr = 0;
    probe.factor = 4;
    probe.factor_from = 8;
    assert_int_equal(go(&s, &err), ERR_DIVERGED);
    assert_non_null(strstr(err.text, "step 16: the median of the last 8 losses is"));
    close_session(&s);
    open_session(&s, false, 4, 4, 1);
    probe.factor = INFINITY;
    probe.factor_from = 12; /* losses that are not finite do not enter the medians, they are counted */
    assert_int_equal(go(&s, &err), ERR_DIVERGED);
    assert_non_null(strstr(err.text, "step 17: loss nan"));
    close_session(&s);
}

static void memory_that_was_not_planned_is_refused(void **state)
{
    (void)state;
    struct session s;
    struct err err;
    open_session(&s, false, 4, 2, 1);
    s.o.micro_batch_size = 3;
    assert_int_equal(go(&s, &err), ERR_FAILED);
    assert_non_null(strstr(err.text, "a micro-batch can have 27 rows, memory was planned for 18"));
    s.o.micro_batch_size = 2;
    s.steps = 401;
    assert_int_equal(go(&s, &err), ERR_FAILED);
    close_session(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_training_learns_by_heart),
        cmocka_unit_test(adapters_learn_on_a_frozen_base),
        cmocka_unit_test(every_example_comes_once_an_epoch),
        cmocka_unit_test(accumulation_is_one_large_batch),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(steps_come_from_epochs),
        IN_FOLDER(stop_and_resume_gives_the_same_bits),
        IN_FOLDER(two_checkpoints_are_kept),
        IN_FOLDER(a_damaged_checkpoint_is_passed_over),
        IN_FOLDER(a_checkpoint_belongs_to_one_run),
        cmocka_unit_test(a_gradient_that_is_not_finite_is_not_taken),
        IN_FOLDER(five_in_a_row_end_the_run),
        cmocka_unit_test(a_loss_that_blows_up_ends_the_run),
        cmocka_unit_test(memory_that_was_not_planned_is_refused),
    };
    return cmocka_run_group_tests_name("finetune", tests, NULL, NULL);
}
