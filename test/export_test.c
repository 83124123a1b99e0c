/* export_test.c: what is written comes back: a folder with the same codes in every format, a GGUF with the same weights within what its
 * formats round, widths that differ between layers, padding pieces, adapters of any rank; a padded model says what the pruned one said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/file.h"
#include "convert.h"
#include "export.h"
#include "inference.h"
#include "io/gguf.h"
#include "model_fixture.h"
#include "quant_affine.h"
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

/* A model of random weights in the formats of the plan, adapters of usual size where it has ranks. */
static void make_planned(struct fixture *f, const struct model_config *c, struct plan *plan)
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

static struct plan_linear *linear_at(struct plan *plan, int i)
{
    return &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
}

/* All linears in one format. */
static void make_model(struct fixture *f, enum format format, bool double_quant, bool uneven)
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
static void make_mixed(struct fixture *f, bool uneven)
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
                 {FORMAT_INT8, false}, {FORMAT_INT8_64, false}, {FORMAT_NF8, false}, {FORMAT_HQQ3, false}};
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
 * 127 x 2^-11 of it.  hqq4's codes are taken over: only the minimum of a group, at most its range of 2 m, is rounded once more.  Floats that are kept
 * are the same numbers. */
static void ggufs(void **state)
{
    (void)state;
    static const struct {
        enum format format;
        double relative, absolute;
        bool keep_floats;
    } cases[] = {{FORMAT_F32, 1.0 / 2048, 1e-7, false},
                 {FORMAT_NF4, 1.0 / 2048, 1.0 / 8 + 1.0 / 2048, false},
                 {FORMAT_INT8, 1.0 / 2048, 0.5 / 127 + 1.0 / 2048, false},
                 {FORMAT_HQQ4, 1.0 / 2048, 1.0 / 1024, false},
                 {FORMAT_HQQ2, 1.0 / 2048, 1.0 / 1024, false},
                 {FORMAT_F32, 0, 0, true},
                 {FORMAT_BF16, 0, 0, true},
                 {FORMAT_NF4, 1.0 / 2048, 1.0 / 8 + 1.0 / 2048, true}};
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    for (int uneven = 0; uneven < 2; uneven++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct fixture f;
            struct checkpoint *c;
            const struct tokenizer *back;
            make_model(&f, cases[i].format, false, uneven == 1);
            if (cases[i].keep_floats)
                CHECK(export_gguf_stored(path, &f.model, tokenizer, "test", &err));
            else
                CHECK(export_gguf(path, &f.model, NULL, tokenizer, "test", &err));
            CHECK(checkpoint_open(&c, path, &err));
            compare_model(c, &f.model, cases[i].relative, cases[i].absolute, cases[i].keep_floats ? 0 : 1.0 / 2048, cases[i].keep_floats ? 0 : 1e-7);
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

/* llama.cpp rounds the bounds of yarn's blend, always. */
static void yarn_without_truncate(void **state)
{
    (void)state;
    char path[128];
    struct err err;
    struct fixture f;
    snprintf(path, sizeof path, "%s/none.gguf", dir);
    make_model(&f, FORMAT_F32, false, false);
    f.model.config.rope_type = ROPE_YARN;
    f.model.config.rope_truncate = false;
    assert_int_equal(export_gguf(path, &f.model, NULL, tokenizer, "test", &err), ERR_FAILED);
    assert_string_equal(err.text, "GGUF has no key for yarn with truncate = false, so llama.cpp would turn heads at other speeds");
    fixture_close(&f);
}

/* Yarn in llama.cpp's keys: the frequencies and the factor come back; what is its default there is not written. */
static void yarn_in_a_gguf(void **state)
{
    (void)state;
    static const struct {
        double attention, fast, slow;
        bool written;
    } cases[] = {{0, 32, 1, false}, {1.25, 16, 2, true}};
    char path[128];
    snprintf(path, sizeof path, "%s/yarn.gguf", dir);
    for (size_t i = 0; i < 2; i++) {
        struct fixture f;
        struct checkpoint *c;
        struct gguf *g;
        float want[8], got[8];
        make_model(&f, FORMAT_F32, false, i == 1);
        struct model_config *m = &f.model.config;
        m->rope_type = ROPE_YARN;
        m->rope_factor = 4;
        m->rope_original_max_position = 128;
        m->rope_beta_fast = cases[i].fast;
        m->rope_beta_slow = cases[i].slow;
        m->rope_attention_factor = cases[i].attention > 0 ? cases[i].attention : model_config_yarn_factor(4);
        CHECK(export_gguf(path, &f.model, NULL, tokenizer, "test", &err));
        CHECK(gguf_open(&g, path, &err));
        assert_int_equal(gguf_find(g, i ? "deci.rope.scaling.attn_factor" : "llama.rope.scaling.attn_factor") != NULL, cases[i].written);
        assert_int_equal(gguf_find(g, i ? "deci.rope.scaling.yarn_beta_fast" : "llama.rope.scaling.yarn_beta_fast") != NULL, cases[i].written);
        gguf_close(g);
        CHECK(checkpoint_open(&c, path, &err));
        const struct model_config *back = checkpoint_config(c);
        model_config_inv_freq(m, want);
        model_config_inv_freq(back, got);
        assert_memory_equal(want, got, sizeof want); /* head_dim 16 */
        assert_true(back->rope_type == ROPE_YARN && fabs(back->rope_attention_factor / m->rope_attention_factor - 1) <= 1.0 / (1 << 24)); /* an F32 on the way */
        checkpoint_close(c);
        fixture_close(&f);
    }
}

/* ---- the same model again ---- */

/* Codes, scales and values, bit for bit.  int8_64 comes back from 127 (absmax / 127), at times one rounding away from absmax, but the quotient
 * by 127, which is all that decoding uses, is the same for every float. */
static void same_matrix(const struct qmat *a, const struct qmat *b)
{
    size_t n = a->rows * a->cols, blocks = a->block ? (n + (size_t)a->block - 1) / (size_t)a->block : a->rows;
    assert_int_equal(a->format, b->format);
    assert_int_equal(a->block, b->block);
    assert_int_equal(a->double_quant, b->double_quant);
    assert_true(a->rows == b->rows && a->cols == b->cols);
    bool nibbles = a->format == FORMAT_NF4 || a->format == FORMAT_FP4;
    size_t pairs = a->affine ? blocks * 2 * sizeof *a->affine : 0;
    assert_memory_equal(a->codes, b->codes, nibbles ? (n + 1) / 2 : a->scales ? n : quant_bytes(a->format, a->block, false, a->rows, a->cols) - pairs);
    if (pairs)
        assert_memory_equal(a->affine, b->affine, pairs);
    for (size_t i = 0; a->scales && i < blocks; i++)
        assert_true(a->scales[i] == b->scales[i] || (a->format == FORMAT_INT8_64 && a->scales[i] / 127 == b->scales[i] / 127));
    if (a->double_quant) {
        assert_memory_equal(a->scale_codes, b->scale_codes, blocks);
        assert_memory_equal(a->nested_absmax, b->nested_absmax, (blocks + 255) / 256 * sizeof(float));
        assert_true(a->nested_offset == b->nested_offset);
    }
    real *x = weights_of(a), *y = weights_of(b);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x);
    free(y);
}

/* The plan that the folder brings, and every code of every matrix.  Formats that Hugging Face has no form for lie in the folder as F32 and
 * are encoded again, which gives the same codes: a block's largest value is one that the format has. */
static void mixed_folder_loads_equal(void **state)
{
    (void)state;
    static const char *const dtypes[] = {"f32", "bf16"};
    for (int d = 0; d < 2; d++) {
        struct fixture f, back;
        struct checkpoint *c;
        struct plan plan;
        char path[128];
        snprintf(path, sizeof path, "%s/mixed-%s", dir, dtypes[d]);
        make_mixed(&f, true);
        CHECK(export_folder(path, &f.model, tokenizer, NULL, dtypes[d], &err));
        CHECK(checkpoint_open(&c, path, &err));
        CHECK(plan_parse(&plan, checkpoint_config(c), checkpoint_plan_text(c), "plan.txt", &err));
        fixture_open(&back, checkpoint_config(c), &plan, (struct fixture_options){.max_n = 8, .threads = 1, .scoring = true});
        CHECK(model_load(&back.model, c, &err));
        for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
            const struct qmat *q = &f.model.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
            if (d == 0 || q->format != FORMAT_F32) /* floats are rounded to the dtype */
                same_matrix(q, &back.model.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT]);
        }
        if (d == 0)
            assert_memory_equal(f.model.embed.codes, back.model.embed.codes, VOCAB * 64 * sizeof(real));
        checkpoint_close(c);
        plan_free(&plan);
        fixture_close(&back);
        fixture_close(&f);
    }
}

static void assert_same_bytes(const char *first, const char *second)
{
    char *x, *y;
    size_t n, m;
    CHECK(file_read(first, 1 << 26, &x, &n, &err));
    CHECK(file_read(second, 1 << 26, &y, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* Kernels want matrices in panels of 16 rows (quant_panel.h); no file ever shows it. */
static void panels_stay_inside(void **state)
{
    (void)state;
    struct fixture f;
    char plain[128], panels[128];
    make_mixed(&f, false);
    snprintf(plain, sizeof plain, "%s/as-files", dir);
    CHECK(export_folder(plain, &f.model, tokenizer, NULL, "f32", &err));
    CHECK(model_to_panels(&f.model, &err));
    assert_true(f.model.layer[0].linear[0].panels);
    snprintf(panels, sizeof panels, "%s/from-panels", dir);
    CHECK(export_folder(panels, &f.model, tokenizer, NULL, "f32", &err));
    strcat(plain, "/model.safetensors");
    strcat(panels, "/model.safetensors");
    assert_same_bytes(plain, panels);
    fixture_close(&f);
}

/* Affine codes with their minimum rounded to f16, as q4_1 has it. */
static void taken_over(const struct qmat *q, real *w)
{
    for (size_t i = 0; i < q->rows * q->cols; i++) {
        float scale = quant_affine_scale(q, i / AFFINE_GROUP), zero = quant_affine_zero(q, i / AFFINE_GROUP);
        w[i] = (float)quant_affine_code(q, i) * scale + f32_from_f16(f16_from_f32(-zero * scale));
    }
}

/* W + s B A, encoded in the GGUF's format and decoded: what the file must hold, bit for bit (q and k are permuted by whole rows, blocks lie in
 * rows). */
static real *as_in_gguf(const struct fixture *f, int l, int j)
{
    const struct qmat *q = &f->model.layer[l].linear[j];
    real *w = malloc(q->rows * q->cols * sizeof *w);
    struct arena arena = {0};
    struct qmat encoded;
    assert_non_null(w);
    if (q->affine && export_gguf_format(q) == FORMAT_Q4_1 && f->lora.adapter[l][j].r == 0) {
        taken_over(q, w);
        return w;
    }
    export_merged(&f->model, &f->lora, l, (enum linear)j, w);
    quant_place(&encoded, export_gguf_format(q), 0, false, q->rows, q->cols, &arena);
    CHECK(arena_commit(&arena, "test", &err));
    quant_place(&encoded, export_gguf_format(q), 0, false, q->rows, q->cols, &arena);
    CHECK(quant_encode(&encoded, w, false, &err));
    quant_decode_rows(&encoded, 0, q->rows, w);
    arena_free(&arena);
    return w;
}

static void merged_gguf(void **state)
{
    (void)state;
    char path[128], name[96];
    snprintf(path, sizeof path, "%s/merged.gguf", dir);
    for (int uneven = 0; uneven < 2; uneven++) {
        struct fixture f;
        struct checkpoint *c;
        make_mixed(&f, uneven == 1);
        assert_true(f.lora.n > 0);
        CHECK(export_gguf(path, &f.model, &f.lora, tokenizer, "test", &err));
        CHECK(checkpoint_open(&c, path, &err));
        compare_widths(c, &f.model);
        for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
            const struct qmat *q = &f.model.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
            real *want = as_in_gguf(&f, i / LINEAR_COUNT, i % LINEAR_COUNT);
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", i / LINEAR_COUNT, linear_name[i % LINEAR_COUNT]);
            compare(c, name, want, q->rows, q->cols, 0, 0);
            free(want);
        }
        checkpoint_close(c);
        fixture_close(&f);
    }
}

/* ---- adapters ---- */

static void adapter_plan(struct plan *plan, int variant)
{
    for (int i = 0; i < plan->n_layers * LINEAR_COUNT; i++) {
        struct plan_linear *p = linear_at(plan, i);
        int l = i / LINEAR_COUNT, j = i % LINEAR_COUNT;
        p->rank = variant == 0 ? 4 : variant == 1 ? (i * 7) % 5 : variant == 2 ? (j < 2 ? 1 + l : 0) : 0;
        p->alpha = variant == 0 ? 16 : variant == 1 ? 0.1F + (float)(i % 3) : 2.0F * (float)p->rank;
    }
    plan->use_rslora = variant == 1;
}

/* One rank for all; ranks and alphas of their own everywhere, some linears without; ranks by layer (layers 1 and 11 must not be taken for each
 * other); none at all. */
static void adapters(void **state)
{
    (void)state;
    enum { DEEP = 12 };
    for (int variant = 0; variant < 4; variant++) {
        struct model_config c;
        struct plan a, b;
        struct arena arena_a = {0}, arena_b = {0};
        struct lora lora_a = {0}, lora_b = {0};
        char path[128];
        memset(&c, 0, sizeof c);
        CHECK(model_config_alloc(&c, DEEP, &err));
        c.vocab_size = c.hidden_size = c.max_position_embeddings = 32;
        c.head_dim = 8;
        for (int l = 0; l < DEEP; l++) {
            c.num_attention_heads[l] = 4;
            c.num_key_value_heads[l] = 2;
            c.intermediate_size[l] = 16 + 8 * l;
        }
        CHECK(plan_new(&a, &c, FORMAT_NF4, &err));
        CHECK(plan_new(&b, &c, FORMAT_NF4, &err));
        adapter_plan(&a, variant);
        lora_place(&lora_a, &a, &c, false, &arena_a);
        CHECK(arena_commit(&arena_a, "test", &err));
        lora_place(&lora_a, &a, &c, false, &arena_a);
        struct rng rng = {.seed = 4, .stream = RNG_INIT};
        for (size_t i = 0; i < lora_a.n; i++)
            lora_a.p[i] = (real)rng_normal(&rng);
        snprintf(path, sizeof path, "%s/adapter-%d", dir, variant);
        CHECK(export_adapter(path, &lora_a, &a, "a \"base\"", &err));
        CHECK(adapter_read_plan(&b, &c, path, &err));
        for (int i = 0; i < DEEP * LINEAR_COUNT; i++) {
            assert_int_equal(linear_at(&a, i)->rank, linear_at(&b, i)->rank);
            assert_true(linear_at(&a, i)->rank == 0 || linear_at(&a, i)->alpha == linear_at(&b, i)->alpha);
        }
        assert_int_equal(a.use_rslora, b.use_rslora);
        lora_place(&lora_b, &b, &c, false, &arena_b);
        CHECK(arena_commit(&arena_b, "test", &err));
        lora_place(&lora_b, &b, &c, false, &arena_b);
        CHECK(adapter_read_weights(&lora_b, path, &err));
        assert_int_equal(lora_a.n, lora_b.n);
        if (lora_a.n)
            assert_memory_equal(lora_a.p, lora_b.p, lora_a.n * sizeof(real));
        arena_free(&arena_a);
        arena_free(&arena_b);
        plan_free(&a);
        plan_free(&b);
        model_config_free(&c);
    }
}

/* PEFT matches a key of a pattern with the end of the path from a dot on; the first key that matches counts. */
static void patterns_are_whole_names(void **state)
{
    (void)state;
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"up_proj\"],"
                                 "\"rank_pattern\": {\"proj\": 9, \"layers.1.self_attn.q_proj\": 2, \".*q_proj\": 3},"
                                 "\"alpha_pattern\": {\"up_proj\": 5}}";
    struct model_config c;
    struct plan plan;
    make_config(&c, false);
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    put_file(dir, "adapter_config.json", config, sizeof config - 1);
    CHECK(adapter_read_plan(&plan, &c, dir, &err));
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &plan.layer[l].linear[j];
            assert_int_equal(p->rank, j == LINEAR_Q ? (l == 1 ? 2 : 3) : j == LINEAR_UP ? 4 : 0);
            assert_true(p->rank == 0 || p->alpha == (j == LINEAR_UP ? 5 : 8));
        }
    plan_free(&plan);
    model_config_free(&c);
}

/* ---- padding ---- */

static real *logits_of(struct fixture *f, const struct model *model, const struct lora *lora)
{
    static struct fixture_batch b;
    const real *x;
    memset(&b, 0, sizeof b);
    add_random_sequence(&b, 12, VOCAB, 1);
    add_random_sequence(&b, 5, VOCAB, 2);
    real *logits = malloc(b.batch.n * VOCAB * sizeof *logits);
    assert_non_null(logits);
    CHECK(model_hidden(&f->run, model, lora, &b.batch, &x, &err));
    model_logits(&f->run, model, x, b.batch.n, logits);
    return logits;
}

/* The padded model's sums are the pruned one's with zeros among their terms, so only their order may differ.  A sum of n terms has an error of at
 * most n 2^-24 sum|terms|; here n <= 96, and sum|terms| is below sqrt(n) times the usual size of a sum: 6e-5 of it.  Merging rounds W + s B A,
 * 2^-24 a weight, which is less.  Errors go into the sum of the residuals and are normalised with it: those of 3 layers of 2 sums add up. */
static const double padding_bound = 6 * 6e-5;

/* Largest difference of the logits, as a share of the largest logit; f's adapters are merged or left out. */
static double padding_difference(struct fixture *f, bool merge)
{
    struct fixture wide;
    struct arena arena = {0};
    struct model to;
    double most = 0, worst = 0;
    CHECK(convert_model(&to, &f->model, merge ? &f->lora : NULL, NULL, FORMAT_F32, FORMAT_F32, true, &arena, &err));
    for (int l = 0; l < LAYERS; l++)
        assert_true(to.plan.layer[l].heads == 4 && to.plan.layer[l].kv_heads == 2 && to.plan.layer[l].ffn == 96);
    fixture_open(&wide, &to.config, &to.plan, (struct fixture_options){.max_n = 32, .threads = 1, .scoring = true});
    real *want = logits_of(f, &f->model, merge ? &f->lora : NULL), *got = logits_of(&wide, &to, NULL);
    for (size_t i = 0; i < 17 * VOCAB; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        assert_true(d < 1e30);
        most = fabs((double)want[i]) > most ? fabs((double)want[i]) : most;
        worst = d > worst ? d : worst;
    }
    free(want);
    free(got);
    model_free(&to);
    arena_free(&arena);
    fixture_close(&wide);
    return worst / most;
}

static void padded(void **state)
{
    (void)state;
    struct fixture f;
    make_mixed(&f, true);
    for (int merge = 0; merge < 2; merge++) {
        double d = padding_difference(&f, merge);
        print_message("padded%s: largest difference %.2g of the largest logit\n", merge ? " and merged" : "", d);
        assert_true(d <= padding_bound);
    }
    fixture_close(&f);
}

static void padding_refused(void **state)
{
    (void)state;
    struct model_config c;
    struct plan plan;
    struct fixture f;
    struct arena arena = {0};
    struct model to;
    struct err said;
    make_config(&c, true);
    c.num_key_value_heads[1] = 2; /* two for two, where the others have four for two */
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    make_planned(&f, &c, &plan);
    memset(&to, 0, sizeof to);
    assert_refused(convert_model(&to, &f.model, NULL, NULL, FORMAT_F32, FORMAT_F32, true, &arena, &said), ERR_INPUT, &said, "",
                   "layer 1 has 2 query heads for 2 KV heads, the widest layer 4 for 2: padding cannot keep them together");
    fixture_close(&f);
    arena_free(&arena);
    plan_free(&plan);
    model_config_free(&c);
}

/* ---- a packed embedding ---- */

static bool text_holds(const char *path, const char *word)
{
    char *text;
    size_t n;
    CHECK(file_read(path, 1 << 20, &text, &n, &err));
    bool holds = strstr(text, word) != NULL;
    free(text);
    return holds;
}

/* An int8 embedding comes back with its codes, and no other program is told that it could read it: transformers would take the codes for weights.  One in
 * q8_0 is written in F32, which everybody reads. */
static void packed_embedding(void **state)
{
    (void)state;
    static const enum format embeds[] = {FORMAT_F32, FORMAT_INT8, FORMAT_Q8_0};
    char path[128], name[160];
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        struct model to;
        struct plan plan;
        struct arena arena = {0};
        struct checkpoint *c;
        struct gguf *g;
        make_model(&f, FORMAT_F32, false, false);
        CHECK(plan_new(&plan, &f.model.config, FORMAT_NF4, &err));
        CHECK(convert_model(&to, &f.model, NULL, &plan, embeds[i], embeds[i], false, &arena, &err));
        assert_true(to.embed.format == embeds[i] && to.head.format == embeds[i]);
        snprintf(path, sizeof path, "%s/embed-%d", dir, i);
        CHECK(export_folder(path, &to, tokenizer, NULL, "f32", &err));
        CHECK(checkpoint_open(&c, path, &err));
        for (int head = 0; head < 2; head++) {
            real *w = weights_of(head ? &to.head : &to.embed);
            compare(c, head ? "lm_head.weight" : "model.embed_tokens.weight", w, VOCAB, 64, 0, 0);
            free(w);
        }
        checkpoint_close(c);
        snprintf(name, sizeof name, "%s/config.json", path);
        assert_int_equal(text_holds(name, "quantization_config"), embeds[i] != FORMAT_INT8);
        snprintf(name, sizeof name, "%s/embed.gguf", dir);
        CHECK(export_gguf(name, &to, NULL, tokenizer, "test", &err));
        CHECK(gguf_open(&g, name, &err));
        assert_string_equal(gguf_type_name(gguf_tensor(g, "token_embd.weight")->type), i ? "Q8_0" : "F16");
        assert_string_equal(gguf_type_name(gguf_tensor(g, "output.weight")->type), i ? "Q8_0" : "F16");
        gguf_close(g);
        model_free(&to);
        arena_free(&arena);
        plan_free(&plan);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders),     cmocka_unit_test(mixed_folder_loads_equal), cmocka_unit_test(panels_stay_inside), cmocka_unit_test(ggufs),
        cmocka_unit_test(what_readers_need), cmocka_unit_test(yarn_in_a_gguf), cmocka_unit_test(yarn_without_truncate), cmocka_unit_test(merged_gguf),        cmocka_unit_test(adapters),
        cmocka_unit_test(patterns_are_whole_names), cmocka_unit_test(padded),      cmocka_unit_test(padding_refused), cmocka_unit_test(packed_embedding),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
