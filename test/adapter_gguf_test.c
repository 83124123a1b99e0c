/* adapter_gguf_test.c: an adapter written as a GGUF says what the PEFT adapter said: keys, names and shapes that llama.cpp asks for, the same factors with
 * the scale in B, and rows in the order of the base's GGUF: base + B A is what the merged GGUF holds. */
#include "export_fixture.h"

#include "io/gguf.h"

enum { HEAD = 16, MOST = 64 * 96 };

static char path[128];

static int setup(void **state)
{
    if (open_world_dir(state) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/adapter.gguf", dir);
    return 0;
}

/* Ranks 0 to 5 and alphas of their own: s differs from linear to linear.  uneven: layer 1 is narrower. */
static void make_adapted(struct fixture *f, bool uneven, int most_rank)
{
    struct model_config c;
    struct plan plan;
    make_config(&c, uneven);
    CHECK(plan_new(&plan, &c, FORMAT_F32, &err));
    for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
        linear_at(&plan, i)->rank = most_rank ? i % (most_rank + 1) : 0;
        linear_at(&plan, i)->alpha = 0.3F + (float)(i % 4);
    }
    make_planned(f, &c, &plan);
    plan_free(&plan);
    model_config_free(&c);
}

static void assert_key(const struct gguf *g, const char *key, const char *want)
{
    const char *s;
    CHECK(gguf_string(g, key, &s, &err));
    assert_string_equal(s, want);
}

/* Shape as a GGUF says it: the contiguous side first. */
static const struct gguf_tensor *matrix(const struct gguf *g, int l, int j, const char *suffix, size_t cols, size_t rows, real *W)
{
    static const char *const names[LINEAR_COUNT] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    char name[96];
    snprintf(name, sizeof name, "blk.%d.%s.weight%s", l, names[j], suffix);
    const struct gguf_tensor *t = gguf_tensor(g, name);
    if (t && cols) {
        assert_true(t->n_dims == 2 && t->dim[0] == cols && t->dim[1] == rows);
        CHECK(gguf_read_rows(g, t, 0, rows, W, &err));
    }
    return t;
}

/* Where a GGUF has row r of q or k: halves of a head become pairs, row 0 of each half first. */
static size_t place(int j, size_t r)
{
    size_t half = HEAD / 2, head = r / HEAD * HEAD, i = r % HEAD;
    return j > LINEAR_K ? r : head + (i < half ? 2 * i : 2 * (i - half) + 1);
}

/* A to the bit; s B after one rounding, in 16 bits after a second: 2^-11 of the number with f16 and half its smallest step, 2^-8 with bf16. */
static void factors_come_back(void **state)
{
    (void)state;
    static const struct {
        enum format format;
        const char *type;
        double relative, absolute;
    } cases[] = {{FORMAT_F32, "F32", 0, 0}, {FORMAT_F16, "F16", 0x1p-11, 0x1p-25}, {FORMAT_BF16, "BF16", 0x1p-8, 0}};
    static real A[MOST], B[MOST];
    for (int k = 0; k < 6; k++) {
        struct fixture f;
        struct gguf *g;
        double alpha, relative = cases[k / 2].relative, absolute = cases[k / 2].absolute;
        size_t n = 0;
        make_adapted(&f, k % 2 == 1, 5);
        CHECK(export_adapter_gguf(path, &f.lora, &f.model.config, cases[k / 2].format, "test", &err));
        CHECK(gguf_open(&g, path, &err));
        assert_key(g, "general.type", "adapter");
        assert_key(g, "adapter.type", "lora");
        assert_key(g, "general.architecture", k % 2 ? "deci" : "llama");
        CHECK(gguf_number(g, "adapter.lora.alpha", -1, 1e9, &alpha, &err));
        assert_true(alpha == 0);
        for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
            int l = i / LINEAR_COUNT, j = i % LINEAR_COUNT;
            const struct adapter *a = &f.lora.adapter[l][j];
            size_t r = (size_t)a->r;
            if (r == 0) {
                assert_null(matrix(g, l, j, ".lora_a", 0, 0, NULL));
                continue;
            }
            const struct gguf_tensor *t = matrix(g, l, j, ".lora_a", a->in, r, A);
            assert_non_null(t);
            assert_string_equal(gguf_type_name(t->type), cases[k / 2].type);
            assert_non_null(matrix(g, l, j, ".lora_b", r, a->out, B));
            for (size_t e = 0; e < r * a->in; e++)
                assert_true(fabs((double)(A[e] - a->A[e])) <= relative * fabs((double)a->A[e]) + absolute);
            for (size_t e = 0; e < a->out * r; e++) {
                real want = a->s * a->B[e];
                assert_true(fabs((double)(B[place(j, e / r) * r + e % r] - want)) <= relative * fabs((double)want) + absolute);
            }
            n += 2;
        }
        assert_int_equal(gguf_n_tensors(g), n);
        gguf_close(g);
        fixture_close(&f);
    }
}

/* llama.cpp computes W x + B (A x) with the rows of both files.  The base's numbers and the merged ones are F16: two roundings by 2^-11. */
static void base_and_adapter_are_the_merged(void **state)
{
    (void)state;
    static real W[MOST], M[MOST], A[MOST], B[MOST];
    char base[128], merged[128];
    struct fixture f;
    struct gguf *g[3];
    snprintf(base, sizeof base, "%s/base.gguf", dir);
    snprintf(merged, sizeof merged, "%s/merged.gguf", dir);
    make_adapted(&f, true, 5);
    CHECK(export_gguf(base, &f.model, NULL, tokenizer, "test", &err));
    CHECK(export_gguf(merged, &f.model, &f.lora, tokenizer, "test", &err));
    CHECK(export_adapter_gguf(path, &f.lora, &f.model.config, FORMAT_F32, "test", &err));
    CHECK(gguf_open(&g[0], base, &err));
    CHECK(gguf_open(&g[1], merged, &err));
    CHECK(gguf_open(&g[2], path, &err));
    for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
        int l = i / LINEAR_COUNT, j = i % LINEAR_COUNT;
        const struct adapter *a = &f.lora.adapter[l][j];
        size_t r = (size_t)a->r;
        if (r == 0)
            continue;
        matrix(g[0], l, j, "", a->in, a->out, W);
        matrix(g[1], l, j, "", a->in, a->out, M);
        matrix(g[2], l, j, ".lora_a", a->in, r, A);
        matrix(g[2], l, j, ".lora_b", r, a->out, B);
        for (size_t e = 0; e < a->out * a->in; e++) {
            double sum = (double)W[e];
            for (size_t k = 0; k < r; k++)
                sum += (double)B[e / a->in * r + k] * (double)A[k * a->in + e % a->in];
            assert_true(fabs(sum - (double)M[e]) <= (fabs((double)W[e]) + fabs((double)M[e])) / 2048 + 1e-6);
        }
    }
    for (int i = 0; i < 3; i++)
        gguf_close(g[i]);
    fixture_close(&f);
}

static void refused(void **state)
{
    (void)state;
    struct fixture f;
    struct err err;
    make_adapted(&f, false, 5);
    assert_refused(export_adapter_gguf(path, &f.lora, &f.model.config, FORMAT_NF4, "test", &err), ERR_INPUT, &err, "",
                   "an adapter cannot be written as nf4, want f32, f16 or bf16");
    f.lora.adapter[0][LINEAR_K].B[3] = 1e6F; /* row 3 of rank 1, times s = 1.3: row 6 of the GGUF */
    assert_refused(export_adapter_gguf(path, &f.lora, &f.model.config, FORMAT_F16, "test", &err), ERR_FAILED, &err, "",
                   "blk.0.attn_k.weight.lora_b: element [6, 0] is 1.3e+06, want less than 65520 in magnitude, which f16 can hold");
    fixture_close(&f);
    make_adapted(&f, false, 0);
    assert_refused(export_adapter_gguf(path, &f.lora, &f.model.config, FORMAT_F32, "test", &err), ERR_INPUT, &err, "",
                   "the adapter has no linear with a rank: nothing to write");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(factors_come_back), cmocka_unit_test(base_and_adapter_are_the_merged), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, setup, close_world_dir);
}
