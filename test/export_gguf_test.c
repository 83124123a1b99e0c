/* export_gguf_test.c: a GGUF has the weights of the model within what its formats round, widths that differ between layers, padding pieces, adapters merged, and
 * the keys that readers ask for. */
#include "export_fixture.h"

#include "io/gguf.h"
#include "quant_affine.h"

/* ---- weights and keys ---- */

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

/* ---- with adapters ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ggufs),                 cmocka_unit_test(what_readers_need),
        cmocka_unit_test(yarn_without_truncate), cmocka_unit_test(yarn_in_a_gguf),
        cmocka_unit_test(merged_gguf),
    };
    return cmocka_run_group_tests(tests, open_world_dir, close_world_dir);
}
