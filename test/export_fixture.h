/* export_fixture.h: models in every format and with every rank to write out, and a checkpoint held against one. */
#ifndef VENEER_TEST_EXPORT_FIXTURE_H
#define VENEER_TEST_EXPORT_FIXTURE_H
#include "world_dir.h"

#include "export.h"
#include "io/checkpoint.h"
#include "model_fixture.h"

enum { LAYERS = 3, VOCAB = 1030 }; /* six rows more than data/world/tokenizer.model has pieces */

static inline void make_config(struct model_config *c, bool uneven)
{
    memset(c, 0, sizeof *c);
    CHECK(model_config_alloc(c, LAYERS, &err));
    c->vocab_size = VOCAB;
    c->hidden_size = 64;
    c->head_dim = 16;
    c->max_position_embeddings = 128;
    c->attention_bias = c->attention_out_bias = true;
    strcpy(c->model_type, "llama");
    for (int l = 0; l < LAYERS; l++) {
        int smaller = uneven && l == 1;
        c->num_attention_heads[l] = smaller ? 2 : 4;
        c->num_key_value_heads[l] = smaller ? 1 : 2;
        c->intermediate_size[l] = smaller ? 40 : 96; /* 40: no row of ggml's blocks */
    }
}

/* A model of random weights in the formats of the plan, adapters of usual size where it has ranks. */
static inline void make_planned(struct fixture *f, const struct model_config *c, struct plan *plan)
{
    const struct fixture_options options = {.max_n = 32, .threads = 1, .scoring = true};
    struct plan float_plan;
    struct fixture floats;
    CHECK(plan_new(&float_plan, c, FORMAT_F32, &err));
    fixture_open(&floats, c, &float_plan, options);
    fixture_fill(&floats, 3);
    fixture_open(f, c, plan, options);
    struct rng rng = {.seed = 3, .stream = RNG_INIT, .step = 1000};
    for (size_t i = 0; i < f->lora.n; i++)
        f->lora.p[i] = (real)(0.3 * rng_normal(&rng));
    memcpy(f->model.embed.codes, floats.model.embed.codes, VOCAB * 64 * sizeof(real));
    if (!c->tie_word_embeddings)
        memcpy(f->model.head.codes, floats.model.head.codes, VOCAB * 64 * sizeof(real));
    memcpy(f->model.norm, floats.model.norm, 64 * sizeof(real));
    for (int l = 0; l < LAYERS; l++) {
        struct model_layer *to = &f->model.layer[l], *from = &floats.model.layer[l];
        memcpy(to->input_norm, from->input_norm, 64 * sizeof(real));
        memcpy(to->post_norm, from->post_norm, 64 * sizeof(real));
        for (int j = 0; j < LINEAR_COUNT; j++) {
            CHECK(quant_encode(&to->linear[j], from->linear[j].codes, false, &err));
            assert_int_equal(to->bias[j] != NULL, from->bias[j] != NULL);
            if (to->bias[j])
                memcpy(to->bias[j], from->bias[j], to->linear[j].rows * sizeof(real));
        }
    }
    fixture_close(&floats);
    plan_free(&float_plan);
}

static inline struct plan_linear *linear_at(struct plan *plan, int i)
{
    return &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
}

/* All linears in one format. */
static inline void make_model(struct fixture *f, enum format format, bool double_quant, bool uneven)
{
    struct model_config c;
    struct plan plan;
    make_config(&c, uneven);
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
        linear_at(&plan, i)->format = format;
        linear_at(&plan, i)->double_quant = double_quant;
    }
    make_planned(f, &c, &plan);
    plan_free(&plan);
    model_config_free(&c);
}

/* Every format somewhere, other ones in every layer, ranks 0 to 5. */
static inline void make_mixed(struct fixture *f, bool uneven)
{
    static const struct plan_linear mixed[] = {
        {.format = FORMAT_NF4}, {.format = FORMAT_NF4, .double_quant = true}, {.format = FORMAT_FP4}, {.format = FORMAT_INT8}, {.format = FORMAT_INT8_64},
        {.format = FORMAT_NF8}, {.format = FORMAT_Q4_0}, {.format = FORMAT_BF16}, {.format = FORMAT_F32}, {.format = FORMAT_FP4, .double_quant = true},
        {.format = FORMAT_HQQ2}, {.format = FORMAT_HQQ3}, {.format = FORMAT_HQQ4},
    };
    enum { MIXED = sizeof mixed / sizeof *mixed };
    struct model_config c;
    struct plan plan;
    make_config(&c, uneven);
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
        *linear_at(&plan, i) = mixed[i % MIXED];
        size_t rows, cols;
        plan_shape(&plan, &c, i / LINEAR_COUNT, (enum linear)(i % LINEAR_COUNT), &rows, &cols);
        if (cols % 32 != 0 && mixed[i % MIXED].format == FORMAT_Q4_0)
            linear_at(&plan, i)->format = FORMAT_NF4;
        linear_at(&plan, i)->rank = i % 6;
        linear_at(&plan, i)->alpha = 1;
    }
    make_planned(f, &c, &plan);
    plan_free(&plan);
    model_config_free(&c);
}

/* ---- what both containers must give back ---- */

static inline real *weights_of(const struct qmat *q)
{
    real *w = malloc(q->rows * q->cols * sizeof *w);
    assert_non_null(w);
    quant_decode_rows(q, 0, q->rows, w);
    return w;
}

/* |read - written| <= relative |written| + absolute max|written|, element by element */
static inline void compare(const struct checkpoint *c, const char *name, const real *want, size_t rows, size_t cols, double relative, double absolute)
{
    real *got = malloc(rows * cols * sizeof *got);
    double most = 0;
    assert_non_null(got);
    CHECK(checkpoint_read(c, name, got, rows, cols, &err));
    for (size_t i = 0; i < rows * cols; i++)
        most = fabs((double)want[i]) > most ? fabs((double)want[i]) : most;
    for (size_t i = 0; i < rows * cols; i++) {
        double d = fabs((double)got[i] - (double)want[i]), x = fabs((double)want[i]);
        if (!(d <= relative * x + absolute * most))
            fail_msg("%s[%zu] is %g, want %g", name, i, (double)got[i], (double)want[i]);
    }
    free(got);
}

static inline void compare_widths(const struct checkpoint *c, const struct model *m)
{
    const struct model_config *a = checkpoint_config(c), *b = &m->config;
    assert_int_equal(a->vocab_size, b->vocab_size);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_true(a->rope_theta == b->rope_theta && a->rms_norm_eps == b->rms_norm_eps);
    for (int l = 0; l < LAYERS; l++) {
        assert_int_equal(a->num_attention_heads[l], b->num_attention_heads[l]);
        assert_int_equal(a->num_key_value_heads[l], b->num_key_value_heads[l]);
        assert_int_equal(a->intermediate_size[l], b->intermediate_size[l]);
    }
}

static inline void compare_model(const struct checkpoint *c, const struct model *m, double relative, double absolute, double float_relative, double float_absolute)
{
    char name[96];
    compare_widths(c, m);
    compare(c, "model.embed_tokens.weight", m->embed.codes, VOCAB, 64, float_relative, float_absolute);
    compare(c, "model.norm.weight", m->norm, 1, 64, 0, 0);
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *q = &m->layer[l].linear[j];
            char module[64];
            real *w = weights_of(q);
            plan_name(l, (enum linear)j, module);
            snprintf(name, sizeof name, "%s.weight", module);
            compare(c, name, w, q->rows, q->cols, relative, absolute);
            snprintf(name, sizeof name, "%s.bias", module);
            if (m->layer[l].bias[j])
                compare(c, name, m->layer[l].bias[j], 1, q->rows, 0, 0);
            free(w);
        }
}

#endif
