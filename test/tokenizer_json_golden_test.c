/* tokenizer_json_golden_test.c: tokenizer.json files with ids and decoded text by huggingface/tokenizers, component by component; and the
 * vocabularies of tokenizer_golden_test.c written as tokenizer.json and read again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "golden_ids.h"
#include "io/gguf.h"

static struct tokenizer *parse(const char *text, size_t n, const char *where)
{
    struct tokenizer *t = NULL;
    struct err err = {{0}};
    enum status status = tokenizer_parse_json(&t, text, n, where, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return t;
}

static void compare_pipeline(const struct json *texts, const struct json *entry)
{
    const char *name, *text;
    struct err err;
    assert_int_equal(json_string(entry, "name", "entry", &name, &err), OK);
    assert_int_equal(json_string(entry, "json", "entry", &text, &err), OK);
    struct tokenizer *t = parse(text, strlen(text), name);
    const struct json *ids = json_first(json_member(entry, "ids")), *special = json_first(json_member(entry, "ids_special"));
    const struct json *list = json_member(entry, "decoded"), *decoded = list ? json_first(list) : NULL;
    for (const struct json *item = json_first(texts); item; item = json_next(item)) {
        assert_int_equal(json_as_string(item, "texts", &text, &err), OK);
        golden_encode(t, ids, text, strlen(text), false, name);
        golden_encode(t, special, text, strlen(text), true, name);
        golden_decode(t, ids, decoded);
        ids = json_next(ids);
        special = json_next(special);
        decoded = decoded ? json_next(decoded) : NULL;
    }
    tokenizer_free(t);
}

static void pipelines(void **state)
{
    (void)state;
    struct json *golden = golden_json("tokenizer/tokenizer_json.json");
    int count = 0;
    assert_non_null(golden);
    golden_wrong = 0;
    for (const struct json *e = json_first(json_member(golden, "tokenizers")); e; e = json_next(e), count++)
        compare_pipeline(json_member(golden, "texts"), e);
    json_free(golden);
    assert_int_equal(count, 12);
    assert_int_equal(golden_wrong, 0);
}

/* ---- through tokenizer.json and back ---- */

/* Takes t. */
static void round_trip(struct tokenizer *t, const char *name)
{
    struct text json = {0}, config = {0};
    struct err err = {{0}};
    assert_true(tokenizer_has_json(t));
    assert_int_equal(tokenizer_print_json(t, &json, &err), OK);
    tokenizer_print_config(t, 2048, &config);
    struct tokenizer *back = parse(json.s, json.n, name);
    assert_int_equal(tokenizer_apply_config(back, config.s, config.n, name, &err), OK);
    golden_compare(back, name);
    assert_int_equal(tokenizer_vocab_size(back), tokenizer_vocab_size(t));
    assert_int_equal(tokenizer_bos(back), tokenizer_bos(t));
    assert_int_equal(tokenizer_eos(back), tokenizer_eos(t));
    assert_int_equal(tokenizer_unk(back), tokenizer_unk(t));
    assert_int_equal(tokenizer_add_bos(back), tokenizer_add_bos(t));
    assert_false(tokenizer_has_json(back));
    text_free(&json);
    text_free(&config);
    tokenizer_free(back);
    tokenizer_free(t);
}

static void file_round_trip(const char *name, enum status (*load)(struct tokenizer **, const char *, struct err *))
{
    round_trip(golden_file(name, load), name);
}

static void llama2(void **state)
{
    (void)state;
    file_round_trip("llama2", tokenizer_load_sentencepiece);
}

static void mistral_v3(void **state)
{
    (void)state;
    file_round_trip("mistral-v3", tokenizer_load_sentencepiece);
}

static void openllama3b(void **state)
{
    (void)state;
    file_round_trip("openllama3b", tokenizer_load_sentencepiece);
}

static void llama3(void **state)
{
    (void)state;
    file_round_trip("llama3", tokenizer_load_tiktoken);
}

static void smollm2(void **state)
{
    (void)state;
    round_trip(golden_smollm2(), "smollm2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelines),   cmocka_unit_test(llama2), cmocka_unit_test(mistral_v3),
        cmocka_unit_test(openllama3b), cmocka_unit_test(llama3), cmocka_unit_test(smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
