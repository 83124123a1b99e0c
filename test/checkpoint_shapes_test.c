/* checkpoint_shapes_test.c: a folder of config.json alone, opened for a plan: its tensors' names, shapes and formats; what is refused. */
#include "dir.h"

#include "io/checkpoint.h"

/* C 8, two layers of 2 heads of 4, one KV head, F 24, V 5; and these members of config.json. */
static enum status open_with(struct checkpoint **c, const char *members, struct err *err)
{
    char path[128], text[1024];
    int n = snprintf(text, sizeof text, "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
                                        "\"num_key_value_heads\": 1, \"vocab_size\": 5%s}", members);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(file_write(path, text, (size_t)n, err), OK);
    return checkpoint_open_shapes(c, dir, err);
}

static void assert_format(const char *members, const char *name, enum format format, int32_t block, bool twice, size_t rows, size_t cols)
{
    struct checkpoint *c;
    struct err err = {""};
    struct qmat q;
    if (open_with(&c, members, &err) != OK)
        fail_msg("%s", err.text);
    assert_false(checkpoint_has_weights(c));
    assert_true(checkpoint_has(c, name));
    assert_int_equal(checkpoint_format(c, name, &q, &err), OK);
    if (q.format != format || q.block != block || q.double_quant != twice || q.rows != rows || q.cols != cols)
        fail_msg("%s of %s: %s, block %d, [%zu, %zu]", name, members, format_info(q.format)->name, q.block, q.rows, q.cols);
    checkpoint_close(c);
}

static void shapes_and_formats(void **state)
{
    (void)state;
    static const char four[] = ", \"torch_dtype\": \"float16\", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true, "
                               "\"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": true}";
    assert_format("", "model.embed_tokens.weight", FORMAT_BF16, 0, false, 5, 8);
    assert_format(", \"torch_dtype\": \"float32\"", "lm_head.weight", FORMAT_F32, 0, false, 5, 8);
    assert_format(", \"dtype\": \"float16\"", "model.layers.1.self_attn.k_proj.weight", FORMAT_F16, 0, false, 4, 8);
    assert_format(", \"dtype\": \"float16\"", "model.layers.0.mlp.down_proj.weight", FORMAT_F16, 0, false, 8, 24);
    assert_format(", \"quantization_config\": null", "model.norm.weight", FORMAT_BF16, 0, false, 1, 8);
    assert_format(four, "model.layers.1.mlp.up_proj.weight", FORMAT_NF4, 64, true, 24, 8);
    assert_format(four, "lm_head.weight", FORMAT_F16, 0, false, 5, 8); /* linears alone are packed */
    assert_format(", \"quantization_config\": {\"load_in_4bit\": true}", "model.layers.0.self_attn.q_proj.weight", FORMAT_FP4, 64, false, 8, 8);
    assert_format(", \"quantization_config\": {\"load_in_8bit\": true, \"bnb_4bit_use_double_quant\": true}", "model.layers.0.self_attn.o_proj.weight", FORMAT_INT8, 0,
                  false, 8, 8);
}

static void what_is_not_there(void **state)
{
    (void)state;
    static const char *const none[] = {"model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias", "model.layers.0.self_attn.q_proj.bias", "lm_head.weight",
                                       "model.layers.0.x", "score.weight"};
    struct checkpoint *c;
    struct err err = {""};
    real x[40];
    assert_int_equal(open_with(&c, ", \"tie_word_embeddings\": true", &err), OK);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(checkpoint_has(c, none[i]));
    assert_int_equal(checkpoint_read(c, "model.embed_tokens.weight", x, 5, 8, &err), ERR_INPUT);
    assert_string_equal(strchr(err.text, ':'), ": holds config.json alone, and no model.embed_tokens.weight");
    const struct tokenizer *tokenizer;
    assert_int_equal(checkpoint_tokenizer(c, &tokenizer, &err), ERR_INPUT);
    assert_string_equal(strchr(err.text, ':'), ": holds config.json alone, and no tokenizer");
    checkpoint_close(c);
}

static void refused(const char *members, const char *sentence)
{
    struct checkpoint *c;
    struct err err = {""};
    assert_int_equal(open_with(&c, members, &err), ERR_INPUT);
    assert_null(c);
    assert_string_equal(err.text + strlen(dir), sentence);
}

static void what_is_refused(void **state)
{
    (void)state;
    refused(", \"torch_dtype\": \"float8\"", "/config.json.torch_dtype: got float8, want float32, float16 or bfloat16");
    refused(", \"quantization_config\": {\"quant_method\": \"gptq\"}", "/config.json.quantization_config.quant_method: got gptq, want bitsandbytes");
    refused(", \"quantization_config\": {\"load_in_4bit\": true, \"bnb_4bit_quant_type\": \"nf5\"}",
            "/config.json.quantization_config.bnb_4bit_quant_type: got nf5, want nf4 or fp4");
    refused(", \"quantization_config\": {\"load_in_4bit\": 1}", "/config.json.quantization_config.load_in_4bit: got a number, want true or false");
    refused(", \"quantization_config\": 4", "/config.json.quantization_config: got a number, want an object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes_and_formats), cmocka_unit_test(what_is_not_there), cmocka_unit_test(what_is_refused)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
