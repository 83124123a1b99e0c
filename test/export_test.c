/* export_test.c: what is written comes back: a folder with the same codes in every format, widths that differ between layers, adapters of any rank; a padded
 * model says what the pruned one said. */
#include "export_fixture.h"

#include "convert.h"
#include "inference.h"
#include "io/gguf.h"

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
        cmocka_unit_test(folders),                  cmocka_unit_test(mixed_folder_loads_equal),
        cmocka_unit_test(panels_stay_inside),       cmocka_unit_test(adapters),
        cmocka_unit_test(patterns_are_whole_names), cmocka_unit_test(padded),
        cmocka_unit_test(padding_refused),          cmocka_unit_test(packed_embedding),
    };
    return cmocka_run_group_tests(tests, open_world_dir, close_world_dir);
}
