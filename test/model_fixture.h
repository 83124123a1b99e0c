/* model_fixture.h: a small model with everything a step needs, for the tests of model.  Include after cmocka.h. */
#ifndef VENEER_TEST_MODEL_FIXTURE_H
#define VENEER_TEST_MODEL_FIXTURE_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model.h"

#define CHECK(call)                                                        \
    do {                                                                   \
        struct err err = {""};                                             \
        enum status status_ = (call);                                      \
        if (status_ != OK)                                                 \
            fail_msg("%s: status %d, %s", #call, (int)status_, err.text);  \
    } while (0)

struct fixture {
    struct arena weights, acts, scratch, training;
    struct model model;
    struct lora lora; /* n 0: the plan has no ranks */
    struct model_grads grads;
    struct ops_context ops;
    struct model_run run;
};

struct fixture_options {
    size_t max_n;
    int threads;
    bool reference, scoring, keep;
    bool small_adapters; /* that barely change the weights: roundings are not amplified from layer to layer */
    enum compute compute;
    enum format embed; /* F32 unless said */
};

static inline int32_t fixture_rank(const struct plan *plan)
{
    int32_t most = 0;
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            most = plan->layer[l].linear[j].rank > most ? plan->layer[l].linear[j].rank : most;
    return most;
}

static inline size_t fixture_widest(const struct model *m)
{
    size_t most = (size_t)m->config.hidden_size;
    for (int l = 0; l < m->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            most = m->layer[l].linear[j].rows > most ? m->layer[l].linear[j].rows : most;
            most = m->layer[l].linear[j].cols > most ? m->layer[l].linear[j].cols : most;
        }
    return most;
}

static inline void fixture_place(struct fixture *f, const struct fixture_options *o)
{
    size_t widest = fixture_widest(&f->model), V = (size_t)f->model.config.vocab_size;
    size_t reals = f->ops.ops->scratch_size(&f->ops, widest > V ? widest : V, widest, (size_t)f->model.config.head_dim, o->max_n, V);
    f->ops.scratch = arena_take(&f->scratch, reals, sizeof(real));
    lora_place(&f->lora, &f->model.plan, &f->model.config, true, &f->training);
    model_grads_place(&f->grads, &f->model, false, &f->training);
    CHECK(model_run_place(&f->run, &f->model, &f->lora, &f->acts, &err));
}

/* The model of config and plan, no weights yet. */
static inline void fixture_open(struct fixture *f, const struct model_config *config, const struct plan *plan, struct fixture_options o)
{
    memset(f, 0, sizeof *f);
    CHECK(model_shape(&f->model, config, plan, &err));
    model_place(&f->model, o.embed, &f->weights);
    size_t counted = f->weights.used;
    CHECK(arena_commit(&f->weights, "weights", &err));
    model_place(&f->model, o.embed, &f->weights);
    assert_int_equal(f->weights.used, counted);
    f->ops = (struct ops_context){.ops = cpu_ops(o.reference), .threads = o.threads, .compute = o.compute};
    f->run = (struct model_run){.ops = &f->ops, .max_n = o.max_n, .max_rank = (size_t)fixture_rank(plan), .dropout = true, .training = !o.scoring,
                                .keep = o.keep, .halves = o.compute == COMPUTE_BF16};
    fixture_place(f, &o);
    size_t acts = f->acts.used, scratch = f->scratch.used, training = f->training.used;
    CHECK(arena_commit(&f->acts, "activations", &err));
    CHECK(arena_commit(&f->scratch, "scratch", &err));
    CHECK(arena_commit(&f->training, "training", &err));
    fixture_place(f, &o);
    assert_true(f->acts.used == acts && f->scratch.used == scratch && f->training.used == training);
    assert_false(f->acts.overflow || f->scratch.overflow || f->training.overflow);
}

static inline void fixture_close(struct fixture *f)
{
    model_free(&f->model);
    arena_free(&f->weights);
    arena_free(&f->acts);
    arena_free(&f->scratch);
    arena_free(&f->training);
}

/* ---- parameters by their names ---- */

struct parameter {
    char name[96];
    real *w, *g;
    size_t rows, cols;
};
enum { MAX_PARAMETERS = 512 };

struct parameters {
    struct parameter p[MAX_PARAMETERS];
    size_t n;
};

static inline void add_parameter(struct parameters *all, const char *name, real *w, real *g, size_t rows, size_t cols)
{
    assert_true(all->n < MAX_PARAMETERS);
    struct parameter *p = &all->p[all->n++];
    snprintf(p->name, sizeof p->name, "%.95s", name);
    p->w = w;
    p->g = g;
    p->rows = rows;
    p->cols = cols;
}

/* Every weight of an F32 model with its gradient, under Hugging Face's name. */
static inline void list_parameters(struct parameters *all, const struct fixture *f)
{
    const struct model *m = &f->model;
    size_t C = (size_t)m->config.hidden_size, V = (size_t)m->config.vocab_size;
    char name[160];
    all->n = 0;
    add_parameter(all, "model.embed_tokens.weight", m->embed.codes, f->grads.embed, V, C);
    for (int l = 0; l < m->plan.n_layers; l++) {
        const struct model_layer *layer = &m->layer[l];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
        add_parameter(all, name, layer->input_norm, f->grads.layer[l].input_norm, 1, C);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
        add_parameter(all, name, layer->post_norm, f->grads.layer[l].post_norm, 1, C);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char module[64];
            plan_name(l, (enum linear)j, module);
            snprintf(name, sizeof name, "%s.weight", module);
            add_parameter(all, name, layer->linear[j].codes, f->grads.layer[l].linear[j], layer->linear[j].rows, layer->linear[j].cols);
            snprintf(name, sizeof name, "%s.bias", module);
            if (layer->bias[j])
                add_parameter(all, name, layer->bias[j], f->grads.layer[l].bias[j], 1, layer->linear[j].rows);
        }
    }
    add_parameter(all, "model.norm.weight", m->norm, f->grads.norm, 1, C);
    if (!m->config.tie_word_embeddings)
        add_parameter(all, "lm_head.weight", m->head.codes, f->grads.head, V, C);
}

static inline const struct parameter *find_parameter(const struct parameters *all, const char *name)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->p[i].name, name) == 0)
            return &all->p[i];
    return NULL;
}

/* Weights of a usual size everywhere (model_random starts biases at 0 and norms at 1, where mistakes hide). */
static inline void fixture_fill(struct fixture *f, uint64_t seed)
{
    static struct parameters all;
    list_parameters(&all, f);
    for (size_t i = 0; i < all.n; i++) {
        struct rng rng = {.seed = seed, .stream = RNG_INIT, .step = (uint32_t)i};
        bool vector = all.p[i].rows == 1, bias = strstr(all.p[i].name, "bias") != NULL;
        double size = vector ? 0.1 : 1 / sqrt((double)all.p[i].cols), mean = vector && !bias ? 1 : 0;
        for (size_t e = 0; e < all.p[i].rows * all.p[i].cols; e++)
            all.p[i].w[e] = (real)(mean + size * rng_normal(&rng));
    }
    struct rng rng = {.seed = seed, .stream = RNG_INIT, .step = 1000};
    for (size_t e = 0; e < f->lora.n; e++)
        f->lora.p[e] = (real)(0.3 * rng_normal(&rng));
}

/* ---- batches ---- */

enum { FIXTURE_ROWS = 512, FIXTURE_SEGMENTS = 32 };

struct fixture_batch {
    int32_t tokens[FIXTURE_ROWS], positions[FIXTURE_ROWS], labels[FIXTURE_ROWS];
    struct segment segments[FIXTURE_SEGMENTS];
    struct batch batch;
};

/* Starts a segment at the end of the batch. */
static inline struct segment *begin_segment(struct fixture_batch *b)
{
    assert_true(b->batch.n_segments < FIXTURE_SEGMENTS);
    struct segment *s = &b->segments[b->batch.n_segments++];
    *s = (struct segment){.start = (int32_t)b->batch.n};
    b->batch.segments = b->segments;
    b->batch.tokens = b->tokens;
    b->batch.positions = b->positions;
    b->batch.labels = b->labels;
    return s;
}

static inline void add_row(struct fixture_batch *b, int32_t token, int32_t position, int32_t label)
{
    assert_true(b->batch.n < FIXTURE_ROWS && b->batch.n_segments > 0);
    size_t i = b->batch.n++;
    b->tokens[i] = token;
    b->positions[i] = position;
    b->labels[i] = label;
    b->segments[b->batch.n_segments - 1].len++;
}

/* A sequence of random tokens that predict the next one; every third row is not labelled. */
static inline void add_random_sequence(struct fixture_batch *b, int32_t n, int32_t vocab, uint32_t step)
{
    struct rng rng = {.seed = 5, .stream = RNG_WORLD, .step = step};
    int32_t token = (int32_t)rng_below(&rng, (uint32_t)vocab);
    begin_segment(b);
    for (int32_t t = 0; t < n; t++) {
        int32_t next = (int32_t)rng_below(&rng, (uint32_t)vocab);
        add_row(b, token, t, t % 3 == 1 || t == n - 1 ? -1 : next);
        token = next;
    }
}

#endif
