/* export_test.c: what is written comes back: a folder with the same codes in every format, a GGUF with the same weights within what its
 * formats round, widths that differ between layers, padding pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "export.h"
#include "io/gguf.h"
#include "model_fixture.h"
#include "refused.h"

enum { LAYERS = 3, VOCAB = 1030 }; /* six rows more than data/world/tokenizer.model has pieces */

static struct tokenizer *tokenizer;
static char dir[64];

static int setup(void **state)
{
    (void)state;
    struct err err;
    make_folder(dir);
    return tokenizer_load_sentencepiece(&tokenizer, "data/world/tokenizer.model", &err) == OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    tokenizer_free(tokenizer);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void make_config(struct model_config *c, bool uneven)
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

/* A model of random weights, its linears in `format`. */
static void make_model(struct fixture *f, enum format format, bool double_quant, bool uneven)
{
    struct model_config c;
    struct plan plan;
    struct fixture floats;
    make_config(&c, uneven);
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    fixture_open(&floats, &c, &plan, (struct fixture_options){.max_n = 8, .threads = 1, .scoring = true});
    fixture_fill(&floats, 3);
    for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
        plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].format = format;
        plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].double_quant = double_quant;
    }
    fixture_open(f, &c, &plan, (struct fixture_options){.max_n = 8, .threads = 1, .scoring = true});
    memcpy(f->model.embed.codes, floats.model.embed.codes, VOCAB * 64 * sizeof(real));
    if (!c.tie_word_embeddings)
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
    plan_free(&plan);
    model_config_free(&c);
}

/* ---- what both containers must give back ---- */

static real *weights_of(const struct qmat *q)
{
    real *w = malloc(q->rows * q->cols * sizeof *w);
    assert_non_null(w);
    quant_decode_rows(q, 0, q->rows, w);
    return w;
}

/* |read - written| <= relative |written| + absolute max|written|, element by element */
static void compare(const struct checkpoint *c, const char *name, const real *want, size_t rows, size_t cols, double relative, double absolute)
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

static void compare_widths(const struct checkpoint *c, const struct model *m)
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

static void compare_model(const struct checkpoint *c, const struct model *m, double relative, double absolute, double float_relative, double float_absolute)
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

/* ---- the folder ---- */

static void folders(void **state)
{
    (void)state;
    static const struct {
        enum format format;
        bool double_quant;
    } cases[] = {{FORMAT_F32, false}, {FORMAT_BF16, false},   {FORMAT_NF4, false}, {FORMAT_NF4, true}, {FORMAT_FP4, false},
                 {FORMAT_INT8, false}, {FORMAT_INT8_64, false}, {FORMAT_NF8, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct checkpoint *c;
        char path[128];
        snprintf(path, sizeof path, "%s/model-%zu", dir, i);
        make_model(&f, cases[i].format, cases[i].double_quant, true);
        CHECK(export_folder(path, &f.model, tokenizer, NULL, "f32", &err));
        CHECK(checkpoint_open(&c, path, &err));
        compare_model(c, &f.model, 0, 0, 0, 0); /* nothing is rounded */
        assert_non_null(checkpoint_plan_text(c));
        checkpoint_close(c);
        fixture_close(&f);
    }
}

/* ---- GGUF ---- */

static char *string_of(const char *path, const char *key)
{
    struct gguf *g;
    const char *s;
    CHECK(gguf_open(&g, path, &err));
    CHECK(gguf_string(g, key, &s, &err));
    char *copy = strdup(s);
    gguf_close(g);
    return copy;
}

/* F16 rounds by 2^-11 of a number, or by half its smallest step.  q4_0 steps by an eighth of a block's largest magnitude m: at most m/8 away (the
 * far end, 8 steps of the other sign being one short), and its step is an F16; q8_0 steps by m/127: half of one away, and the F16 step adds
 * 127 x 2^-11 of it. */
static void ggufs(void **state)
{
    (void)state;
    static const struct {
        enum format format;
        double relative, absolute;
    } cases[] = {{FORMAT_F32, 1.0 / 2048, 1e-7}, {FORMAT_NF4, 1.0 / 2048, 1.0 / 8 + 1.0 / 2048}, {FORMAT_INT8, 1.0 / 2048, 0.5 / 127 + 1.0 / 2048}};
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    for (int uneven = 0; uneven < 2; uneven++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct fixture f;
            struct checkpoint *c;
            const struct tokenizer *back;
            make_model(&f, cases[i].format, false, uneven == 1);
            CHECK(export_gguf(path, &f.model, NULL, tokenizer, "test", &err));
            CHECK(checkpoint_open(&c, path, &err));
            compare_model(c, &f.model, cases[i].relative, cases[i].absolute, 1.0 / 2048, 1e-7);
            CHECK(checkpoint_tokenizer(c, &back, &err));
            assert_int_equal(tokenizer_vocab_size(back), VOCAB);
            assert_int_equal(tokenizer_find(back, "[PAD1029]"), 1029);
            char *architecture = string_of(path, "general.architecture");
            assert_string_equal(architecture, uneven ? "deci" : "llama");
            free(architecture);
            checkpoint_close(c);
            fixture_close(&f);
        }
}

/* llama.cpp's readers before 2026 take per-layer widths as INT32 only, and need the size of a head said. */
static void what_readers_need(void **state)
{
    (void)state;
    static const char *const arrays[] = {"deci.attention.head_count", "deci.attention.head_count_kv", "deci.feed_forward_length"};
    char path[128];
    struct fixture f;
    struct gguf *g;
    int64_t n;
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    make_model(&f, FORMAT_NF4, false, true);
    CHECK(export_gguf(path, &f.model, NULL, tokenizer, "test", &err));
    CHECK(gguf_open(&g, path, &err));
    for (int i = 0; i < 3; i++) {
        const struct gguf_value *v = gguf_find(g, arrays[i]);
        assert_non_null(v);
        assert_true(v->type == GGUF_ARRAY && v->item == GGUF_I32 && v->n == LAYERS);
    }
    CHECK(gguf_int(g, "deci.attention.key_length", 1, 1024, &n, &err));
    assert_int_equal(n, 16);
    CHECK(gguf_int(g, "deci.attention.value_length", 1, 1024, &n, &err));
    assert_int_equal(n, 16);
    CHECK(gguf_int(g, "deci.rope.dimension_count", 1, 1024, &n, &err));
    assert_int_equal(n, 16);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (t->n_dims == 1)
            assert_string_equal(gguf_type_name(t->type), "F32");
    }
    /* rows of 40 columns fit no block of 32 */
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.1.ffn_down.weight")->type), "F16");
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.0.ffn_down.weight")->type), "Q4_0");
    gguf_close(g);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders), cmocka_unit_test(ggufs), cmocka_unit_test(what_readers_need)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
