/* The whole model's gradients by central differences in double: full parameters and adapters, over shapes that catch the usual
 * mistakes (grouped heads, layers of different widths, a head size that is not hidden / heads, tied and untied heads, biases).
 *
 * Tolerance: with h = 1e-5 a central difference of a smooth loss of size 10 is off by h^2 f'''/6 (about 1e-10) and by rounding
 * 2^-53 * 10 / (2 h) (about 1e-10), while the largest gradients of a tensor are 1e-2 and more: 1e-6 of the tensor's largest
 * element leaves room for every constant and none for a wrong term. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "model_fixture.h"

struct variant {
    bool tied, bias, out_bias, reference, keep, quantized, panels; /* panels: an embedding and a head of a shape that has them, in them */
    float dropout;
    enum format embed;
};

/* Three layers, none like another. */
static void make_config(struct model_config *config, const struct variant *v)
{
    static const int32_t heads[] = {4, 6, 2}, kv[] = {2, 2, 2}, ffn[] = {24, 40, 17};
    CHECK(model_config_alloc(config, 3, &err));
    config->vocab_size = v->panels ? 32 : 29;
    config->hidden_size = v->panels ? 24 : 20;
    config->head_dim = 6;
    config->max_position_embeddings = 64;
    config->tie_word_embeddings = v->tied;
    config->attention_bias = v->bias;
    config->attention_out_bias = v->out_bias;
    for (int l = 0; l < 3; l++) {
        config->num_attention_heads[l] = heads[l];
        config->num_key_value_heads[l] = kv[l];
        config->intermediate_size[l] = ffn[l];
    }
}

/* Adapters of different ranks on some of the linears, the lowest in layer `first`. */
static void add_ranks(struct plan *plan, int first)
{
    for (int l = first; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++)
            if ((l * LINEAR_COUNT + j) % 4 != 1) {
                plan->layer[l].linear[j].rank = 1 + (l + j) % 3;
                plan->layer[l].linear[j].alpha = 2.5f;
            }
}

static void open_variant(struct fixture *f, const struct variant *v, int first_adapter)
{
    struct model_config config;
    struct plan plan;
    make_config(&config, v);
    CHECK(plan_new(&plan, &config, v->quantized ? FORMAT_NF4 : FORMAT_F32, &err));
    if (first_adapter >= 0)
        add_ranks(&plan, first_adapter);
    fixture_open(f, &config, &plan, (struct fixture_options){.max_n = 40, .threads = 1, .reference = v->reference, .keep = v->keep, .embed = v->embed});
    plan_free(&plan);
    model_config_free(&config);
    f->lora.dropout = v->dropout;
    f->lora.seed = 99;
}

/* Sequences of 9, 1 and 14 rows; a token of the first comes again in the third. */
static void make_batch(struct fixture_batch *b)
{
    memset(b, 0, sizeof *b);
    add_random_sequence(b, 9, 29, 1);
    add_random_sequence(b, 1, 29, 2);
    add_random_sequence(b, 14, 29, 3);
    b->tokens[10] = b->tokens[0];
}

struct question {
    struct fixture *f;
    struct lora *lora;
    const struct fixture_batch *batch;
    size_t asked;
};

enum { STEP = 41 }; /* dropout draws the same mask each time */

static double loss(const struct question *q, struct model_grads *grads, real scale)
{
    double sum;
    size_t count;
    CHECK(model_train(&q->f->run, &q->f->model, q->lora, grads, &q->batch->batch, scale, STEP, &sum, &count, &err));
    return (double)scale * sum;
}

static const real scale = 0.125;

/* Scoring has no dropout: without it, the forward pass alone says the same. */
static double loss_here(const struct question *q)
{
    double sum;
    size_t count;
    if (q->lora && q->lora->dropout > 0)
        return loss(q, NULL, scale);
    CHECK(model_score(&q->f->run, &q->f->model, q->lora, &q->batch->batch, NULL, NULL, &sum, &count, &err));
    return scale * sum;
}

/* Largest element of g, so that an element that happens to be zero asks for no more than its neighbours. */
static double largest(const real *g, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(g[i]));
    return most;
}

static void ask(struct question *q, const char *name, real *x, const real *g, size_t n, size_t most)
{
    const double h = 1e-5;
    double size = largest(g, n), worst = 0;
    size_t step = (n + most - 1) / most;
    for (size_t i = 0; i < n; i += step) {
        real keep = x[i];
        x[i] = keep + h;
        double above = loss_here(q);
        x[i] = keep - h;
        double below = loss_here(q);
        x[i] = keep;
        double error = fabs((above - below) / (2 * h) - g[i]) / size;
        worst = error > worst || isnan(error) ? error : worst;
        q->asked++;
    }
    if (!(worst <= 1e-6))
        fail_msg("gradient of %s: off by %g of the largest, %g", name, worst, size);
}

static void check_parameters(const struct variant *v)
{
    static struct parameters all;
    struct fixture f;
    static struct fixture_batch b;
    open_variant(&f, v, -1);
    fixture_fill(&f, 3);
    make_batch(&b);
    struct question q = {.f = &f, .batch = &b};
    loss(&q, &f.grads, scale);
    list_parameters(&all, &f);
    for (size_t i = 0; i < all.n; i++)
        ask(&q, all.p[i].name, all.p[i].w, all.p[i].g, all.p[i].rows * all.p[i].cols, 60);
    assert_true(q.asked >= 1000);
    fixture_close(&f);
}

static void test_parameters_untied(void **state)
{
    (void)state;
    check_parameters(&(struct variant){.keep = true});
    check_parameters(&(struct variant){.keep = false, .bias = true, .out_bias = true});
}

static void test_parameters_tied(void **state)
{
    (void)state;
    check_parameters(&(struct variant){.keep = true, .tied = true, .bias = true});
    check_parameters(&(struct variant){.keep = true, .tied = true, .reference = true});
}

/* Weights of a quantized model cannot be differentiated, but what is above them can: dx goes through the decoded W. */
static void fill_matrix(struct qmat *W, double size, struct rng *rng)
{
    real temp[64 * 64];
    assert_true(W->rows * W->cols <= sizeof temp / sizeof *temp);
    for (size_t i = 0; i < W->rows * W->cols; i++)
        temp[i] = size * rng_normal(rng);
    CHECK(quant_encode(W, temp, false, &err));
}

static void fill_quantized(struct fixture *f, bool panels)
{
    struct rng rng = {.seed = 8, .stream = RNG_INIT, .step = 77};
    for (int l = 0; l < f->model.plan.n_layers; l++) {
        for (int c = 0; c < f->model.config.hidden_size; c++)
            f->model.layer[l].input_norm[c] = f->model.layer[l].post_norm[c] = 1 + 0.1 * rng_normal(&rng);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct qmat *W = &f->model.layer[l].linear[j];
            fill_matrix(W, 1 / sqrt((double)W->cols), &rng);
        }
    }
    for (int c = 0; c < f->model.config.hidden_size; c++)
        f->model.norm[c] = 1;
    fill_matrix(&f->model.embed, 0.25, &rng);
    if (!f->model.config.tie_word_embeddings)
        fill_matrix(&f->model.head, 0.25, &rng);
    if (panels)
        CHECK(model_embed_to_panels(&f->model, &err));
    assert_true(f->model.embed.panels == panels && f->model.head.panels == panels);
    for (size_t i = 0; i < f->lora.n; i++)
        f->lora.p[i] = 0.3 * rng_normal(&rng);
}

static void check_adapters(const struct variant *v, int first, size_t at_least)
{
    struct fixture f;
    static struct fixture_batch b;
    open_variant(&f, v, first);
    if (v->quantized)
        fill_quantized(&f, v->panels);
    else
        fixture_fill(&f, 4);
    make_batch(&b);
    struct question q = {.f = &f, .lora = &f.lora, .batch = &b};
    loss(&q, NULL, scale);
    real *g = malloc(f.lora.n * sizeof *g); /* loss() adds to lora.g again and again */
    assert_non_null(g);
    memcpy(g, f.lora.g, f.lora.n * sizeof *g);
    for (int l = 0; l < f.lora.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct adapter *a = &f.lora.adapter[l][j];
            char name[64];
            plan_name(l, (enum linear)j, name);
            if (a->r == 0)
                continue;
            ask(&q, name, a->A, g + (a->dA - f.lora.g), (size_t)a->r * a->in, 80);
            ask(&q, name, a->B, g + (a->dB - f.lora.g), (size_t)a->r * a->out, 80);
        }
    if (q.asked < at_least)
        fail_msg("only %zu coordinates", q.asked);
    free(g);
    fixture_close(&f);
}

static void test_adapters(void **state)
{
    (void)state;
    check_adapters(&(struct variant){.keep = true}, 0, 1000);
    check_adapters(&(struct variant){.keep = true, .dropout = 0.3f, .tied = true, .bias = true}, 0, 1000);
    check_adapters(&(struct variant){.keep = false, .dropout = 0.3f}, 0, 1000);
    check_adapters(&(struct variant){.keep = true, .dropout = 0.3f, .reference = true}, 1, 500);
}

static void test_adapters_on_quantized(void **state)
{
    (void)state;
    check_adapters(&(struct variant){.tied = true, .quantized = true, .keep = true, .dropout = 0.1f}, 0, 1000);
    check_adapters(&(struct variant){.tied = true, .quantized = true}, 2, 200);
}

/* A head in codes: dx goes through what they decode to. */
static void test_adapters_below_a_quantized_head(void **state)
{
    (void)state;
    check_adapters(&(struct variant){.tied = true, .quantized = true, .keep = true, .embed = FORMAT_INT8}, 0, 1000);
    check_adapters(&(struct variant){.quantized = true, .keep = true, .embed = FORMAT_INT8, .panels = true}, 0, 1000);
    check_adapters(&(struct variant){.tied = true, .quantized = true, .keep = true, .embed = FORMAT_NF4, .panels = true}, 0, 1000);
    check_adapters(&(struct variant){.quantized = true, .keep = true, .embed = FORMAT_BF16}, 0, 1000);
    check_adapters(&(struct variant){.tied = true, .quantized = true, .keep = true, .embed = FORMAT_INT8, .reference = true}, 0, 1000);
}

/* Both at once, and linears only (importance): the same numbers as when asked for alone. */
static void test_gradients_do_not_depend_on_company(void **state)
{
    (void)state;
    struct fixture f;
    static struct fixture_batch b;
    struct model_grads alone;
    struct arena arena = {0};
    open_variant(&f, &(struct variant){.keep = true, .bias = true}, 0);
    fixture_fill(&f, 6);
    make_batch(&b);
    struct question q = {.f = &f, .lora = &f.lora, .batch = &b};
    loss(&q, &f.grads, scale);
    model_grads_place(&alone, &f.model, true, &arena);
    CHECK(arena_commit(&arena, "importance", &err));
    model_grads_place(&alone, &f.model, true, &arena);
    loss(&q, &alone, scale);
    for (int l = 0; l < 3; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *W = &f.model.layer[l].linear[j];
            assert_memory_equal(alone.layer[l].linear[j], f.grads.layer[l].linear[j], W->rows * W->cols * sizeof(real));
            assert_null(alone.layer[l].bias[j]);
        }
    /* the two passes added the same adapter gradients twice */
    real *twice = malloc(f.lora.n * sizeof *twice);
    assert_non_null(twice);
    memcpy(twice, f.lora.g, f.lora.n * sizeof *twice);
    memset(f.lora.g, 0, f.lora.n * sizeof *f.lora.g);
    loss(&q, NULL, scale);
    loss(&q, NULL, scale);
    assert_memory_equal(twice, f.lora.g, f.lora.n * sizeof *twice);
    free(twice);
    arena_free(&arena);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters_untied),
        cmocka_unit_test(test_parameters_tied),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_adapters_on_quantized),
        cmocka_unit_test(test_adapters_below_a_quantized_head),
        cmocka_unit_test(test_gradients_do_not_depend_on_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
