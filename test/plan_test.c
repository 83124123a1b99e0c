/* The plan: text that reads back equal, counts and bytes worked out another way, patterns, and what it says about mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

#define CHECK(call)                                                       \
    do {                                                                  \
        struct err err = {""};                                            \
        enum status status_ = (call);                                     \
        if (status_ != OK)                                                \
            fail_msg("%s: status %d, %s", #call, (int)status_, err.text); \
    } while (0)

/* The call fails as bad input with just this sentence. */
#define SAYS(call, sentence)                          \
    do {                                              \
        struct err err = {""};                        \
        assert_int_equal((call), ERR_INPUT);          \
        assert_string_equal(err.text, (sentence));    \
    } while (0)

/* Layer 1 is pruned; rows of 16 wide heads; 40 is no multiple of 32. */
static void make_config(struct model_config *config)
{
    CHECK(model_config_alloc(config, 2, &err));
    config->vocab_size = 100;
    config->hidden_size = 64;
    config->head_dim = 16;
    config->tie_word_embeddings = true;
    static const int32_t heads[] = {4, 2}, kv[] = {2, 1}, ffn[] = {96, 40};
    for (int l = 0; l < 2; l++) {
        config->num_attention_heads[l] = heads[l];
        config->num_key_value_heads[l] = kv[l];
        config->intermediate_size[l] = ffn[l];
    }
}

static void make_mixed(struct plan *plan, const struct model_config *config)
{
    CHECK(plan_new(plan, config, FORMAT_NF4, &err));
    plan->use_rslora = true;
    for (int i = 0; i < 2 * LINEAR_COUNT; i++) {
        struct plan_linear *p = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        static const enum format formats[] = {FORMAT_NF4, FORMAT_INT8, FORMAT_F32, FORMAT_BF16, FORMAT_FP4};
        p->format = formats[i % 5];
        p->block = p->format == FORMAT_NF4 ? 128 : 0;
        p->double_quant = p->format == FORMAT_NF4 && i > 5;
        p->rank = i % 3 * 4;
        p->alpha = p->rank ? 0.1f * (float)(i + 1) : 0;
    }
}

static void test_text_reads_back_equal(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan, copy, back;
    struct text text = {0}, again = {0};
    make_config(&config);
    make_mixed(&plan, &config);
    CHECK(plan_copy(&copy, &plan, &err));
    plan_print(&copy, &text);
    CHECK(plan_parse(&back, &config, text.s, "plan.txt", &err));
    assert_int_equal(back.n_layers, 2);
    assert_true(back.use_rslora);
    for (int l = 0; l < 2; l++) {
        const struct plan_layer *a = &plan.layer[l], *b = &back.layer[l];
        assert_true(a->heads == b->heads && a->kv_heads == b->kv_heads && a->ffn == b->ffn);
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &a->linear[j], *q = &b->linear[j];
            assert_true(p->format == q->format && p->block == q->block && p->double_quant == q->double_quant);
            assert_true(p->rank == q->rank && p->alpha == q->alpha); /* %.9g holds every float */
        }
    }
    plan_print(&back, &again);
    assert_string_equal(text.s, again.s);
    assert_non_null(strstr(text.s, "model.layers.1 heads=2 kv_heads=1 ffn=40\n"));
    text_free(&text);
    text_free(&again);
    plan_free(&plan);
    plan_free(&copy);
    plan_free(&back);
    model_config_free(&config);
}

static void test_shapes_and_names(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    size_t out, in;
    char name[64];
    static const size_t want[LINEAR_COUNT][2] = {{32, 64}, {16, 64}, {16, 64}, {64, 32}, {40, 64}, {40, 64}, {64, 40}};
    make_config(&config);
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    for (int j = 0; j < LINEAR_COUNT; j++) {
        plan_shape(&plan, &config, 1, (enum linear)j, &out, &in);
        assert_true(out == want[j][0] && in == want[j][1]);
    }
    plan_name(1, LINEAR_DOWN, name);
    assert_string_equal(name, "model.layers.1.mlp.down_proj");
    plan_name(0, LINEAR_Q, name);
    assert_string_equal(name, "model.layers.0.self_attn.q_proj");
    plan.layer[1].linear[LINEAR_Q].rank = 4;
    plan.layer[1].linear[LINEAR_Q].alpha = 16;
    assert_true(plan_scaling(&plan, 1, LINEAR_Q) == 4 && plan_scaling(&plan, 1, LINEAR_K) == 0);
    plan.use_rslora = true;
    assert_true(plan_scaling(&plan, 1, LINEAR_Q) == 8);
    plan_free(&plan);
    model_config_free(&config);
}

/* Llama-2-7B has 6,738,415,616 parameters, TinyLlama-1.1B 1,100,048,384: the published counts. */
static void test_counts_of_real_models(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    CHECK(model_config_alloc(&config, 32, &err));
    config.vocab_size = 32000;
    config.hidden_size = 4096;
    config.head_dim = 128;
    for (int l = 0; l < 32; l++) {
        config.num_attention_heads[l] = config.num_key_value_heads[l] = 32;
        config.intermediate_size[l] = 11008;
    }
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    assert_true(plan_parameters(&plan, &config) == UINT64_C(6738415616));
    plan_free(&plan);
    model_config_free(&config);
    CHECK(model_config_alloc(&config, 22, &err));
    config.vocab_size = 32000;
    config.hidden_size = 2048;
    config.head_dim = 64;
    for (int l = 0; l < 22; l++) {
        config.num_attention_heads[l] = 32;
        config.num_key_value_heads[l] = 4;
        config.intermediate_size[l] = 5632;
    }
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    assert_true(plan_parameters(&plan, &config) == UINT64_C(1100048384));
    plan_free(&plan);
    model_config_free(&config);
}

static void test_counts_and_bytes(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    make_config(&config);
    config.attention_bias = config.attention_out_bias = true;
    make_mixed(&plan, &config);
    /* embedding once, three norms a model and two a layer; biases on q, k, v, o */
    uint64_t other = 100 * 64 + 64 + 2 * 2 * 64 + (4 + 2 * 2) * 16 + 64 + (2 + 2 * 1) * 16 + 64;
    uint64_t weights = 0, bytes = 0, floats = 0, adapters = 0;
    for (int l = 0; l < 2; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct plan_linear *p = &plan.layer[l].linear[j];
            size_t out, in;
            plan_shape(&plan, &config, l, (enum linear)j, &out, &in);
            weights += out * in;
            bytes += quant_bytes(p->format, p->block, p->double_quant, out, in);
            floats += p->format == FORMAT_F32 ? quant_bytes(p->format, 0, false, out, in) : 0;
            adapters += (uint64_t)p->rank * (out + in);
        }
    assert_true(plan_parameters(&plan, &config) == other + weights);
    assert_true(plan_adapter_parameters(&plan, &config) == adapters && adapters > 0);
    struct plan_storage whole = {FORMAT_F32, FORMAT_F32, 32}, half = {FORMAT_F32, FORMAT_F32, 16}, packed = {FORMAT_INT8, FORMAT_INT8, 16};
    assert_true(plan_bytes(&plan, &config, &whole) == bytes + 4 * other + 4 * adapters);
    assert_true(plan_bytes(&plan, &config, &half) == bytes - floats / 2 + 2 * other + 4 * adapters);
    assert_true(plan_bytes(&plan, &config, &packed) == bytes - floats / 2 + 2 * (other - 100 * 64) + 100 * (64 + 4) + 4 * adapters);
    assert_true(fabs(plan_bits(&plan, &config) - 8 * (double)bytes / (double)weights) <= 1e-12);
    config.tie_word_embeddings = false;
    assert_true(plan_parameters(&plan, &config) == other + 100 * 64 + weights);
    plan_free(&plan);
    /* int8 with a float a row: 8 + 32/64 bits in layers of 64 columns */
    CHECK(plan_new(&plan, &config, FORMAT_NF4, &err));
    assert_true(fabs(plan_bits(&plan, &config) - 4.5) <= 1e-12);
    plan_free(&plan);
    model_config_free(&config);
}

static void test_patterns(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    make_config(&config);
    CHECK(plan_new(&plan, &config, FORMAT_NF4, &err));
    plan.layer[0].linear[LINEAR_V].double_quant = true;
    /* of several that match, the first; whatever of the name */
    CHECK(plan_apply_pattern(&plan, &config, PATTERN_FORMAT, "layers\\.1\\.mlp\\.=int8,mlp=q8_0,layers.0.*v_proj$=bf16", "bits_pattern",
                             &err));
    assert_int_equal(plan.layer[1].linear[LINEAR_DOWN].format, FORMAT_INT8);
    assert_int_equal(plan.layer[0].linear[LINEAR_DOWN].format, FORMAT_Q8_0);
    assert_int_equal(plan.layer[0].linear[LINEAR_V].format, FORMAT_BF16);
    assert_false(plan.layer[0].linear[LINEAR_V].double_quant);
    assert_int_equal(plan.layer[1].linear[LINEAR_V].format, FORMAT_NF4);
    CHECK(plan_apply_pattern(&plan, &config, PATTERN_RANK, "q_proj=4,^model\\.layers\\.0\\.=2", "rank_pattern", &err));
    CHECK(plan_apply_pattern(&plan, &config, PATTERN_ALPHA, "self_attn=2.5", "alpha_pattern", &err));
    CHECK(plan_apply_pattern(&plan, &config, PATTERN_ALPHA, "", "alpha_pattern", &err));
    assert_int_equal(plan.layer[0].linear[LINEAR_Q].rank, 4);
    assert_int_equal(plan.layer[1].linear[LINEAR_Q].rank, 4);
    assert_int_equal(plan.layer[0].linear[LINEAR_UP].rank, 2);
    assert_int_equal(plan.layer[1].linear[LINEAR_UP].rank, 0);
    assert_true(plan.layer[1].linear[LINEAR_O].alpha == 2.5f && plan.layer[1].linear[LINEAR_UP].alpha == 0);
    plan_free(&plan);
    model_config_free(&config);
}

static void test_what_patterns_say(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    make_config(&config);
    CHECK(plan_new(&plan, &config, FORMAT_NF4, &err));
#define PATTERN(kind, text, sentence) SAYS(plan_apply_pattern(&plan, &config, kind, text, "bits_pattern", &err), sentence)
    PATTERN(PATTERN_FORMAT, "q_proj", "bits_pattern: 'q_proj', want regex=value");
    PATTERN(PATTERN_FORMAT, ",q_proj=nf4", "bits_pattern: '', want regex=value");
    PATTERN(PATTERN_FORMAT, "q_proj=nf44", "bits_pattern: q_proj: unknown format 'nf44', the nearest known one is 'nf4'");
    PATTERN(PATTERN_FORMAT, "(q_proj=nf4", "bits_pattern: '(q_proj' is no regular expression");
    PATTERN(PATTERN_FORMAT, "layers.7=nf4", "bits_pattern: 'layers.7' matches no linear (model.layers.0.self_attn.q_proj ...)");
    PATTERN(PATTERN_FORMAT, "1.mlp=q4_0",
            "bits_pattern: model.layers.1.mlp.down_proj: a matrix of 64 x 40 cannot be q4_0, which wants columns in multiples of 32");
    PATTERN(PATTERN_RANK, "q_proj=2.5", "bits_pattern: q_proj = '2.5', want a rank from 0 to 65536");
    PATTERN(PATTERN_RANK, "1.*k_proj=17",
            "bits_pattern: model.layers.1.self_attn.k_proj: rank 17, want at most 16 (the smaller side of the matrix)");
    PATTERN(PATTERN_ALPHA, "q_proj=nan", "bits_pattern: q_proj = 'nan', want a number from 0 to 1000000");
#undef PATTERN
    plan_free(&plan);
    model_config_free(&config);
}

static void test_what_reading_says(void **state)
{
    (void)state;
    struct model_config config;
    struct plan plan;
    make_config(&config);
#define TEXT(text, sentence) SAYS(plan_parse(&plan, &config, text, "plan.txt", &err), sentence)
    TEXT("\nmodel.layers.2 heads=4", "plan.txt:2: 'model.layers.2', the model has layers 0 to 1");
    TEXT("model.layer.0 heads=4",
         "plan.txt:1: want a name such as model.layers.0 or model.layers.0.mlp.up_proj, got 'model.layer.0'");
    TEXT("model.layers.0.mlp.side_proj format=nf4", "plan.txt:1: no linear is called 'model.layers.0.mlp.side_proj'");
    TEXT("# a comment\nmodel.layers.0.mlp.up_proj format=int9", "plan.txt:2: unknown format 'int9', the nearest known one is 'int8'");
    TEXT("model.layers.1 heads=3", "plan.txt:1: 'heads=3', want an integer from 1 to 2");
    TEXT("model.layers.0 heads=2.5", "plan.txt:1: 'heads=2.5', want an integer from 1 to 4");
    TEXT("model.layers.0 ffn=0", "plan.txt:1: 'ffn=0', want an integer from 1 to 96");
    TEXT("model.layers.0 heads=3", "plan.txt: model.layers.0: heads=3 is no multiple of kv_heads=2");
    TEXT("model.layers.0 width=3", "plan.txt:1: want heads=, kv_heads= or ffn=, got 'width=3'");
    TEXT("model.layers.0 heads", "plan.txt:1: want key=value, got 'heads'");
    TEXT("model.layers.0.mlp.up_proj bits=4", "plan.txt:1: want format=, block=, double_quant=, rank= or alpha=, got 'bits=4'");
    TEXT("model.layers.0.mlp.up_proj block=8", "plan.txt:1: 'block=8', want an integer from 32 to 4096");
    TEXT("model.layers.0.mlp.up_proj rank=-1", "plan.txt:1: 'rank=-1', want an integer from 0 to 65536");
    TEXT("model.layers.0.mlp.up_proj alpha=nan", "plan.txt:1: 'alpha=nan', want a number from 0 to 1e+06");
    TEXT("model.layers.0.mlp.up_proj double_quant=maybe", "plan.txt:1: want yes or no, got 'double_quant=maybe'");
    TEXT("use_rslora=perhaps", "plan.txt:1: want yes or no, got 'use_rslora=perhaps'");
    TEXT("model.layers.1.mlp.down_proj format=q8_0",
         "plan.txt: model.layers.1.mlp.down_proj: a matrix of 64 x 40 cannot be q8_0, which wants columns in multiples of 32");
    TEXT("model.layers.1.mlp.down_proj format=nf4 block=96",
         "plan.txt: model.layers.1.mlp.down_proj: block = 96 for nf4, want a power of two from 32 to 4096");
    TEXT("model.layers.1.mlp.down_proj format=int8 double_quant=yes",
         "plan.txt: model.layers.1.mlp.down_proj: int8 has no double quantization");
    TEXT("model.layers.1.self_attn.k_proj rank=17",
         "plan.txt: model.layers.1.self_attn.k_proj: rank=17, want at most 16 (the smaller side of the matrix)");
#undef TEXT
    /* a layer may shrink, and its shapes with it */
    CHECK(plan_parse(&plan, &config, "model.layers.0 heads=2 kv_heads=1 ffn=32\r\n", "plan.txt", &err));
    size_t out, in;
    plan_shape(&plan, &config, 0, LINEAR_DOWN, &out, &in);
    assert_true(out == 64 && in == 32 && plan.layer[1].ffn == 40);
    plan_free(&plan);
    model_config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_reads_back_equal), cmocka_unit_test(test_shapes_and_names),
        cmocka_unit_test(test_counts_of_real_models), cmocka_unit_test(test_counts_and_bytes),
        cmocka_unit_test(test_patterns),              cmocka_unit_test(test_what_patterns_say),
        cmocka_unit_test(test_what_reading_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
