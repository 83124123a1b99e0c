/* config.json: what is refused and how; defaults of each family; what is printed reads back; RoPE frequencies by hand. */
#include "test/refused.h"

#include <math.h>

#include "io/model_config.h"

static enum status parse(struct model_config *c, const char *json, struct err *err)
{
    return model_config_parse(c, json, strlen(json), "c", err);
}

static void parsed(struct model_config *c, const char *json)
{
    struct err err;
    if (parse(c, json, &err) != OK)
        fail_msg("%s", err.text);
}

static void configs_that_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[]", "c: got an array, want an object"},
        {"{}", "c.model_type: got nothing, want llama, mistral or qwen2"},
        {"{\"model_type\":\"gemma2\"}", "c.model_type: got gemma2, want llama, mistral or qwen2"},
        {"{\"architectures\":[\"PhiForCausalLM\"]}", "c.model_type: got PhiForCausalLM, want llama, mistral or qwen2"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}",
         "c.architectures: got LlamaForSequenceClassification, want LlamaForCausalLM"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":0}", "c.num_hidden_layers: got 0, want an integer from 1 to 1024"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1025}", "c.num_hidden_layers: got 1025, want an integer from 1 to 1024"},
        {"{\"model_type\":\"llama\",\"vocab_size\":\"big\"}", "c.vocab_size: got a string, want a number"},
        {"{\"model_type\":\"llama\",\"vocab_size\":-1}", "c.vocab_size: got -1, want an integer from 1 to 4194304"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1.5}", "c.hidden_size: got 1.5, want an integer from 1 to 1048576"},
        {"{\"model_type\":\"llama\",\"hidden_size\":100,\"num_attention_heads\":3}",
         "c: hidden_size 100 is no multiple of num_attention_heads 3, and head_dim is not given"},
        {"{\"model_type\":\"llama\",\"hidden_size\":9,\"num_attention_heads\":3}",
         "c: head_dim is 3, want an even number from 2 to 4096 (RoPE turns pairs)"},
        {"{\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_key_value_heads\":5}",
         "c: layer 0 has 32 attention heads, no multiple of its 5 key-value heads"},
        {"{\"model_type\":\"llama\",\"hidden_act\":\"gelu\"}", "c.hidden_act: got gelu, want silu"},
        {"{\"model_type\":\"llama\",\"mlp_bias\":true}", "c.mlp_bias: got true, want false (no biases in the MLP)"},
        {"{\"model_type\":\"llama\",\"partial_rotary_factor\":0.5}", "c.partial_rotary_factor: got another number, want 1"},
        {"{\"model_type\":\"llama\",\"rms_norm_eps\":0}", "c.rms_norm_eps: got 0, want a number between 0 and 1"},
        {"{\"model_type\":\"llama\",\"bos_token_id\":32000}", "c.bos_token_id: got 32000, want an integer from -1 to 31999"},
        {"{\"model_type\":\"llama\",\"eos_token_id\":[2,40000]}", "c: eos_token_id: got 40000, want an integer from 0 to 31999"},
        {"{\"model_type\":\"llama\",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "c.eos_token_id: 9 ids, want at most 8"},
        {"{\"model_type\":\"llama\",\"rope_theta\":0}", "c.rope_theta: got 0, want 1 to 1e12"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"longrope\",\"factor\":4}}",
         "c.rope_type: got longrope, want default, linear, dynamic, yarn or llama3"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"dynamic\"}}", "c.factor: is missing, want a number"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\"}}", "c.factor: is missing, want a number"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1}}", "c: beta_fast 1 is not above beta_slow 1"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":0}}", "c.truncate: got a number, want true or false"},
        {"{\"model_type\":\"llama\",\"rope_theta\":1,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", "c.rope_theta: got 1, want more than 1 with yarn"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"attention_factor\":0}}",
         "c.attention_factor: got 0, want 1e-06 to 1e12"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":1e12}}",
         "c: mscale 1 and mscale_all_dim 1e+12 give an attention factor of 8.21348e-12, want 1e-6 to 1e12"},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
         "c.full_attention: got an object, want one RoPE for all layers"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\"}}", "c.factor: is missing, want a number"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}}", "c.factor: got 0.5, want 1 to 1e12"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
         "\"original_max_position_embeddings\":8192}}", "c: high_freq_factor 4 is not above low_freq_factor 4"},
        {"{\"model_type\":\"llama\",\"rope_freqs\":[1]}", "c.rope_freqs: 1 numbers, want 64 (half of head_dim)"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"32\":{}}}", "c.per_layer_config: got layer \"32\", want 0 to 31"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"-1\":{}}}", "c.per_layer_config: got layer \"-1\", want 0 to 31"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"4\":{},\"04\":{}}}", "c.per_layer_config: layer 4 is there twice"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"4\":{\"head_dim\":64}}}",
         "c.per_layer_config.4: got \"head_dim\", want num_attention_heads, num_key_value_heads, intermediate_size"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"4\":{\"num_attention_heads\":0}}}",
         "c.per_layer_config.4.num_attention_heads: got 0, want an integer from 1 to 16384"},
        {"{\"model_type\":\"llama\",\"per_layer_config\":{\"4\":{\"num_attention_heads\":24}}}",
         "c: layer 4 has 24 attention heads, no multiple of its 32 key-value heads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        struct err err = {""};
        assert_refused(parse(&c, cases[i][0], &err), ERR_INPUT, &err, "", cases[i][1]);
        assert_null(c.num_attention_heads);
    }
}

static void defaults_of_each_family(void **state)
{
    (void)state;
    struct model_config c;
    parsed(&c, "{\"model_type\":\"llama\"}");
    assert_true(c.vocab_size == 32000 && c.hidden_size == 4096 && c.num_hidden_layers == 32 && c.head_dim == 128);
    assert_true(c.num_attention_heads[31] == 32 && c.num_key_value_heads[31] == 32 && c.intermediate_size[31] == 11008);
    assert_true(c.max_position_embeddings == 2048 && c.rms_norm_eps == 1e-6f && c.rope_theta == 10000);
    assert_true(c.bos_token_id == 1 && c.n_eos == 1 && c.eos_token_id[0] == 2 && !c.attention_bias && !c.tie_word_embeddings);
    model_config_free(&c);
    parsed(&c, "{\"architectures\":[\"MistralForCausalLM\"],\"eos_token_id\":null,\"bos_token_id\":null}");
    assert_true(c.intermediate_size[0] == 14336 && c.num_key_value_heads[0] == 8 && !c.attention_bias);
    assert_int_equal(c.max_position_embeddings, 4096); /* the window: beyond it attention would not be full */
    assert_true(c.bos_token_id == -1 && c.n_eos == 0);
    model_config_free(&c);
    parsed(&c, "{\"model_type\":\"mistral\",\"sliding_window\":null}");
    assert_int_equal(c.max_position_embeddings, 131072);
    model_config_free(&c);
    parsed(&c, "{\"model_type\":\"qwen2\"}");
    assert_true(c.vocab_size == 151936 && c.intermediate_size[0] == 22016 && c.bos_token_id == -1);
    assert_true(c.attention_bias && !c.attention_out_bias);
    model_config_free(&c);
    parsed(&c, "{\"model_type\":\"llama\",\"attention_bias\":true}");
    assert_true(c.attention_bias && c.attention_out_bias);
    model_config_free(&c);
}

/* The pair of transformers 4 and the one dict of transformers 5 say the same; where both are, the dict counts. */
static void both_forms_of_rope(void **state)
{
    (void)state;
    struct model_config c;
    parsed(&c, "{\"model_type\":\"llama\",\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}");
    assert_true(c.rope_theta == 5e5 && c.rope_type == ROPE_LINEAR && c.rope_factor == 2.5);
    model_config_free(&c);
    parsed(&c, "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"linear\",\"factor\":2.5}}");
    assert_true(c.rope_theta == 5e5 && c.rope_type == ROPE_LINEAR && c.rope_factor == 2.5);
    model_config_free(&c);
    parsed(&c, "{\"model_type\":\"llama\",\"rope_theta\":1e4,\"rope_scaling\":null,\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"}}");
    assert_true(c.rope_theta == 5e5 && c.rope_type == ROPE_DEFAULT);
    model_config_free(&c);
}

static void what_is_printed_reads_back(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model_type\":\"llama\",\"num_hidden_layers\":3,\"hidden_size\":60,\"head_dim\":4,\"num_attention_heads\":8,\"num_key_value_heads\":4,"
        "\"intermediate_size\":96,\"vocab_size\":100,\"rms_norm_eps\":1e-5,\"eos_token_id\":[2,7],\"tie_word_embeddings\":true,"
        "\"rope_freqs\":[1,3.7],\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":8192},\"per_layer_config\":{\"1\":{\"num_attention_heads\":6,\"num_key_value_heads\":3},"
        "\"02\":{\"intermediate_size\":64}}}";
    struct model_config c, back, copy;
    struct text one = {0}, two = {0};
    struct err err;
    parsed(&c, json);
    assert_false(model_config_uniform(&c));
    assert_int_equal(model_config_copy(&copy, &c, &err), OK);
    model_config_print(&copy, "bfloat16", "\"note\": {\"a\": 1}", &one);
    assert_non_null(strstr(one.s, "\"rms_norm_eps\": 1e-05,"));
    assert_non_null(strstr(one.s, "\"1\": {\"num_attention_heads\": 6, \"num_key_value_heads\": 3, \"intermediate_size\": 96}"));
    assert_non_null(strstr(one.s, "\"note\": {\"a\": 1},"));
    assert_non_null(strstr(one.s, "\"torch_dtype\": \"bfloat16\""));
    parsed(&back, one.s);
    assert_memory_equal(back.num_attention_heads, ((int32_t[]){8, 6, 8}), 12);
    assert_memory_equal(back.num_key_value_heads, ((int32_t[]){4, 3, 4}), 12);
    assert_memory_equal(back.intermediate_size, ((int32_t[]){96, 96, 64}), 12);
    assert_true(back.rms_norm_eps == c.rms_norm_eps && back.rope_factor == 32 && back.rope_freqs[1] == c.rope_freqs[1]);
    model_config_print(&back, "bfloat16", "\"note\": {\"a\": 1}", &two);
    assert_string_equal(one.s, two.s);
    text_free(&one);
    text_free(&two);
    model_config_free(&c);
    model_config_free(&copy);
    model_config_free(&back);
}

/* By hand: theta^(-2i/D) with theta 100, D 4 is 1, 0.1.  All tolerances: one rounding to float. */
static void frequencies(void **state)
{
    (void)state;
    struct model_config c;
    float inv[4];
    parsed(&c, "{\"model_type\":\"llama\",\"hidden_size\":8,\"num_attention_heads\":2,\"rope_theta\":100}");
    model_config_inv_freq(&c, inv);
    assert_true(inv[0] == 1 && fabsf(inv[1] - 0.1f) <= 1e-8f);
    c.rope_type = ROPE_LINEAR;
    c.rope_factor = 4;
    model_config_inv_freq(&c, inv);
    assert_true(inv[0] == 0.25f && fabsf(inv[1] - 0.025f) <= 2e-9f);
    model_config_free(&c);
    /* llama3, theta 1e6, D 8, original 1000: waves of 6.3, 198.7, 6283 and 198692 tokens.  Those below 1000/4 are kept, those above 1000/1
     * are slowed by 8. */
    parsed(&c, "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_attention_heads\":2,\"rope_theta\":1000000,\"rope_scaling\":{\"rope_type\":"
               "\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":1000}}");
    model_config_inv_freq(&c, inv);
    assert_true(inv[0] == 1 && fabsf(inv[1] / 0.031622777f - 1) <= 2e-7f);
    assert_true(fabsf(inv[2] / (1e-3f / 8) - 1) <= 2e-7f && fabsf(inv[3] / (3.1622777e-5f / 8) - 1) <= 2e-7f);
    /* original 400: the second wave lies between 400/4 and 400/1, and s = (400/198.7 - 1) / (4 - 1) blends */
    c.rope_original_max_position = 400;
    model_config_inv_freq(&c, inv);
    double wave = 2 * 3.14159265358979 * 31.6227766016838, s = (400 / wave - 1) / 3;
    assert_true(fabs((double)inv[1] / (0.0316227766016838 * ((1 - s) / 8 + s)) - 1) <= 2e-7);
    model_config_free(&c);
}

static float printed_and_parsed(const struct model_config *c, int pair)
{
    struct model_config back;
    struct text text = {0};
    float inv[4];
    model_config_print(c, NULL, NULL, &text);
    parsed(&back, text.s);
    model_config_inv_freq(&back, inv);
    model_config_free(&back);
    text_free(&text);
    return inv[pair];
}

/* Theta 10000, D 8, original 64: pairs 8 log(64 / (2 pi r)) / (2 log 10000) that turn r times are -0.50 for 32 and 1.01 for 1, so that the blend runs from pair
 * 0 to pair 2. */
static void yarn(void **state)
{
    (void)state;
    struct model_config c, back;
    struct text text = {0};
    float inv[4], again[4];
    static const char sizes[] = "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_attention_heads\":2,\"max_position_embeddings\":256,";
    static const struct {
        const char *rope;
        double attention;
    } cases[] = {
        {"\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64}}", 1.1386294361119891}, /* 0.1 log 4 + 1 */
        {"\"rope_parameters\":{\"rope_theta\":10000,\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64,\"attention_factor\":1.25,"
         "\"beta_fast\":null}}", 1.25},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64,\"mscale\":0.5,\"mscale_all_dim\":1.0}}",
         1.0693147180559945 / 1.1386294361119891},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        snprintf(json, sizeof json, "%s%s", sizes, cases[i].rope);
        parsed(&c, json);
        assert_true(c.rope_type == ROPE_YARN && fabs(c.rope_attention_factor - cases[i].attention) <= 1e-15);
        model_config_inv_freq(&c, inv);
        assert_true(inv[0] == 1 && fabsf(inv[1] / (0.1f * (0.5f / 4 + 0.5f)) - 1) <= 2e-7f);
        assert_true(fabsf(inv[2] / (0.01f / 4) - 1) <= 2e-7f && fabsf(inv[3] / (0.001f / 4) - 1) <= 2e-7f);
        text_clear(&text);
        model_config_print(&c, NULL, NULL, &text);
        parsed(&back, text.s);
        model_config_inv_freq(&back, again);
        assert_memory_equal(inv, again, sizeof inv);
        assert_true(back.rope_attention_factor == c.rope_attention_factor && back.max_position_embeddings == 256);
        model_config_free(&c);
        model_config_free(&back);
    }
    /* without an original length it is max_position_embeddings, before a sliding window; beta_slow 20 ends the blend at pair -0.29, so that it is a step behind pair 0 */
    parsed(&c, "{\"model_type\":\"mistral\",\"hidden_size\":16,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"max_position_embeddings\":64,\"sliding_window\":32,"
               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_slow\":20}}");
    assert_true(c.rope_original_max_position == 64 && c.max_position_embeddings == 32 && c.rope_beta_slow == 20);
    model_config_inv_freq(&c, inv);
    assert_true(inv[0] == 1 && fabsf(inv[1] / 0.05f - 1) <= 2e-7f);
    model_config_free(&c);
    /* not truncated: from pair 0 to pair 1.008 = 4 log10(64 / 2 pi) / 4, so that pair 1 is slowed by 0.992 of the way; from pair 0 to a pair before it nothing is slowed */
    parsed(&c, "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_attention_heads\":2,\"max_position_embeddings\":256,"
               "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"truncate\":false}}");
    model_config_inv_freq(&c, inv);
    double slowed = 1 / log10(64 / (2 * M_PI));
    assert_true(fabs(inv[1] / (0.1 * (slowed / 4 + 1 - slowed)) - 1) <= 2e-7 && fabsf(inv[2] / (0.01f / 4) - 1) <= 2e-7f);
    assert_true(printed_and_parsed(&c, 1) == inv[1]);
    c.rope_beta_slow = 20;
    model_config_inv_freq(&c, inv);
    assert_true(fabsf(inv[1] / 0.1f - 1) <= 2e-7f && fabsf(inv[3] / 0.001f - 1) <= 2e-7f);
    model_config_free(&c);
    text_free(&text);
}

/* Up to max_position_embeddings, the longest context here, dynamic scaling is none; files keep it. */
static void dynamic(void **state)
{
    (void)state;
    struct model_config c;
    struct text text = {0};
    float inv[4];
    parsed(&c, "{\"model_type\":\"llama\",\"hidden_size\":8,\"num_attention_heads\":2,\"rope_theta\":100,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":8}}");
    assert_true(c.rope_type == ROPE_DYNAMIC && c.max_position_embeddings == 2048 && c.rope_attention_factor == 1);
    model_config_inv_freq(&c, inv);
    assert_true(inv[0] == 1 && fabsf(inv[1] - 0.1f) <= 1e-8f);
    model_config_print(&c, NULL, NULL, &text);
    assert_non_null(strstr(text.s, "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 8.0},"));
    text_free(&text);
    model_config_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_that_are_refused), cmocka_unit_test(defaults_of_each_family),
        cmocka_unit_test(both_forms_of_rope),       cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(frequencies),              cmocka_unit_test(yarn),
        cmocka_unit_test(dynamic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
