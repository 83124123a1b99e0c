/* config_test.c: what a user types into config.txt and what is said when it is wrong, word for word. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

static char folder[] = "/tmp/veneer-config-XXXXXX";
static char path[64];

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "%s/c.txt", mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* Reads `body` as a file over the defaults. */
static enum status read_body(struct config *config, const char *body, struct err *err)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(body, f);
    fclose(f);
    assert_int_equal(config_new(config, err), OK);
    return config_read(config, path, err);
}

static void says(const char *body, const char *tail)
{
    struct config config;
    struct err err = {{0}};
    assert_int_equal(read_body(&config, body, &err), ERR_INPUT);
    char want[512];
    snprintf(want, sizeof want, "%s%s", path, tail);
    assert_string_equal(err.text, want);
    config_free(&config);
}

static void test_messages(void **state)
{
    (void)state;
    says("lora_rr = 8\n", ":1: unknown key 'lora_rr', the nearest known one is 'lora_r'");
    says("\n\nlearning_rat = 1\n", ":3: unknown key 'learning_rat', the nearest known one is 'learning_rate'");
    says("lora_r = many\n", ":1: lora_r = 'many', want a whole number");
    says("lora_r = 1.5\n", ":1: lora_r = '1.5', want a whole number");
    says("lora_r = -1\n", ":1: lora_r = -1, want 0 to 4096");
    says("pruning_ratio = nan\n", ":1: pruning_ratio = 'nan', want a number");
    says("pruning_ratio = 1.5\n", ":1: pruning_ratio = 1.5, want 0 to 0.95");
    says("target_size = 3 apples\n", ":1: target_size = '3 apples', want bytes such as 300M or 3.5G");
    says("strict = maybe\n", ":1: strict = 'maybe', want yes or no");
    says("search = magic\n", ":1: search = 'magic', want one of: none gp amq autoqra dp evopress random");
    says("quant_types = nf4,int9\n",
         ":1: quant_types holds 'int9', want a list of: auto keep nf4 fp4 int8 int8_64 nf8 q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl hqq2 hqq3 hqq4 bf16 f16 f32");
    says("embedding_type = int4\n", ":1: embedding_type = 'int4', want one of: auto keep f32 bf16 f16 int8 q8_0 nf4");
    says("seed = 1\nseed = 2\n", ":2: seed is set a second time");
    says("r = 4\nlora_r = 4\n", ":2: lora_r is set a second time");
    says("just words\n", ":1: 'just words', want key = value, # comment or [section]");
}

static void test_reads(void **state)
{
    (void)state;
    struct config config;
    struct err err;
    assert_int_equal(read_body(&config,
                               "# comment\n[training]\n r = 4   # rank\ntarget_size = 3.5G\r\nquant_types = nf4, int8\n"
                               "model = sub/m.gguf ; where it is\nrank_pattern = a#b=3\n",
                               &err),
                     OK);
    assert_int_equal(config.lora_r, 4);
    assert_true(config.target_size == 3.5 * 1073741824.0);
    assert_string_equal(config.quant_types, "nf4,int8");
    assert_string_equal(config.rank_pattern, "a#b=3");
    char want[128];
    snprintf(want, sizeof want, "%s/sub/m.gguf", folder);
    assert_string_equal(config.model, want);
    assert_int_equal(config_set(&config, "model=here.gguf", "command line", &err), OK);
    assert_string_equal(config.model, "here.gguf");
    config_free(&config);
}

/* What --print-config prints is a config.txt that means the same. */
static void test_print_reads_back(void **state)
{
    (void)state;
    struct config config;
    struct err err;
    struct text first = {0}, second = {0};
    assert_int_equal(read_body(&config, "learning_rate = 0.1\nmodel = m\nlora_r = 5\nmax_memory = 300M\n", &err), OK);
    config_print(&config, true, &first);
    config_free(&config);
    assert_int_equal(read_body(&config, first.s, &err), OK);
    config_print(&config, false, &second);
    config_free(&config);
    assert_non_null(strstr(second.s, "learning_rate = 0.1\n"));
    assert_non_null(strstr(second.s, "max_memory = 314572800\n"));
    assert_non_null(strstr(first.s, ":1\n"));
    assert_non_null(strstr(first.s, "# default\n"));
    text_free(&first);
    text_free(&second);
}

static void test_identity(void **state)
{
    (void)state;
    struct config config;
    struct err err;
    struct text a = {0}, b = {0}, c = {0};
    char difference[256];
    assert_int_equal(config_new(&config, &err), OK);
    config_identity(&config, &a);
    assert_int_equal(config_set(&config, "threads=3", "test", &err), OK);
    config_identity(&config, &b);
    assert_false(config_identity_differs(a.s, b.s, difference, sizeof difference));
    assert_non_null(strstr(a.s, "\nembedding_type = auto\n"));
    assert_non_null(strstr(a.s, "\nexport_dtype = f32\n")); /* it decides sizes */
    assert_int_equal(config_set(&config, "seed=3", "test", &err), OK);
    config_identity(&config, &c);
    assert_true(config_identity_differs(a.s, c.s, difference, sizeof difference));
    assert_string_equal(difference, "'seed = 0', now 'seed = 3'");
    text_free(&a);
    text_free(&b);
    text_free(&c);
    config_free(&config);
}

static void test_check(void **state)
{
    (void)state;
    struct config config;
    struct err err;
    assert_int_equal(config_new(&config, &err), OK);
    assert_int_equal(config_check(&config, &err), ERR_INPUT);
    assert_string_equal(err.text, "model is not set: the base model, a folder or a .gguf file");
    assert_int_equal(config_set(&config, "model=m", "test", &err), OK);
    assert_int_equal(config_check(&config, &err), ERR_INPUT);
    assert_string_equal(err.text, "dataset is not set: fine-tuning needs data");
    assert_int_equal(config_set(&config, "dataset=d", "test", &err), OK);
    assert_int_equal(config_set(&config, "eval_data=d", "test", &err), OK);
    assert_int_equal(config_check(&config, &err), OK);
    assert_int_equal(config_set(&config, "micro_batch_size=256", "test", &err), OK);
    assert_int_equal(config_check(&config, &err), ERR_INPUT);
    assert_string_equal(err.text, "test: micro_batch_size = 256 is larger than batch_size = 128");
    assert_int_equal(config_set(&config, "train_mode=full", "test", &err), OK);
    assert_int_equal(config_set(&config, "embedding_type=bf16", "test", &err), OK);
    assert_int_equal(config_check(&config, &err), ERR_INPUT);
    assert_string_equal(err.text, "test: embedding_type = bf16, want f32 with train_mode = full, which trains the embedding too");
    config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages), cmocka_unit_test(test_reads),  cmocka_unit_test(test_print_reads_back),
        cmocka_unit_test(test_identity), cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
