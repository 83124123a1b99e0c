/* tokenizer_golden_test.c: ids and decoded text of 156 strings in six vocabularies, as sentencepiece, tiktoken and tokenizers give them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/gguf.h"
#include "io/tokenizer.h"
#include "golden.h"

static int wrong;

static void compare_ids(const char *what, const char *text, const struct json *want, const struct tokens *got)
{
    size_t i = 0;
    bool same = json_size(want) == got->n;
    for (const struct json *item = json_first(want); same && item; item = json_next(item), i++) {
        int64_t id;
        struct err err;
        assert_int_equal(json_as_int(item, "id", 0, 1 << 30, &id, &err), OK);
        same = id == got->id[i];
    }
    if (same)
        return;
    wrong++;
    fprintf(stderr, "%s of '%s': got", what, text);
    for (i = 0; i < got->n; i++)
        fprintf(stderr, " %d", got->id[i]);
    fprintf(stderr, "\n");
}

static void encode(const struct tokenizer *t, const struct json *entry, const char *text, size_t n, const char *key, bool special)
{
    const struct json *want = json_member(entry, key);
    struct tokens got = {0};
    struct err err;
    if (!want)
        return;
    assert_int_equal(tokenizer_encode(t, text, n, special, &got, &err), OK);
    compare_ids(key, text, want, &got);
    tokens_free(&got);
}

static void decode(const struct tokenizer *t, const struct json *entry)
{
    const struct json *ids = json_member(entry, "ids");
    const char *want;
    struct err err;
    struct tokens tokens = {0};
    char *got;
    size_t n, want_n;
    assert_int_equal(json_string(entry, "decoded", "entry", &want, &err), OK);
    for (const struct json *item = json_first(ids); item; item = json_next(item)) {
        int64_t id;
        assert_int_equal(json_as_int(item, "id", 0, 1 << 30, &id, &err), OK);
        assert_int_equal(tokens_push(&tokens, (int32_t)id, &err), OK);
    }
    assert_int_equal(tokenizer_decode(t, tokens.id, tokens.n, &got, &n, &err), OK);
    char *expected = golden_text(want, &want_n);
    if (n != want_n || memcmp(got, expected, n) != 0) {
        wrong++;
        fprintf(stderr, "decoded: got '%s', want '%s'\n", got, expected);
    }
    free(got);
    free(expected);
    tokens_free(&tokens);
}

static void invalid(const struct tokenizer *t, const struct json *entry)
{
    const char *hex;
    struct err err;
    char bytes[256];
    size_t n = 0;
    assert_int_equal(json_string(entry, "hex", "entry", &hex, &err), OK);
    for (; hex[0] && hex[1] && n < sizeof bytes; hex += 2) {
        char two[3] = {hex[0], hex[1], 0};
        bytes[n++] = (char)strtol(two, NULL, 16);
    }
    encode(t, entry, bytes, n, "ids", false);
}

static void compare(const struct tokenizer *t, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, "tokenizer/%s.json", name);
    struct json *golden = golden_json(file);
    assert_non_null(golden);
    wrong = 0;
    size_t count = 0;
    for (const struct json *e = json_first(json_member(golden, "entries")); e; e = json_next(e), count++) {
        const char *raw;
        struct err err;
        size_t n;
        assert_int_equal(json_string(e, "text", "entry", &raw, &err), OK);
        char *text = golden_text(raw, &n);
        encode(t, e, text, n, "ids", false);
        if (t && json_member(e, "ids_special"))
            encode(t, e, text, n, "ids_special", true);
        free(text);
        decode(t, e);
    }
    for (const struct json *e = json_first(json_member(golden, "decode")); e; e = json_next(e))
        decode(t, e);
    const struct json *bad = json_member(golden, "invalid_utf8");
    for (const struct json *e = bad ? json_first(bad) : NULL; e; e = json_next(e))
        invalid(t, e);
    json_free(golden);
    assert_true(count > 0);
    assert_int_equal(wrong, 0);
}

static void with_file(const char *name, enum status (*load)(struct tokenizer **, const char *, struct err *))
{
    char path[256];
    struct tokenizer *t;
    struct err err;
    snprintf(path, sizeof path, "../shared/data/tokenizers/%s/tokenizer.model", name);
    if (access(path, R_OK) != 0)
        skip();
    assert_int_equal(load(&t, path, &err), OK);
    compare(t, name);
    tokenizer_free(t);
}

static void llama2(void **state)
{
    (void)state;
    with_file("llama2", tokenizer_load_sentencepiece);
}

static void mistral_v1(void **state)
{
    (void)state;
    with_file("mistral-v1", tokenizer_load_sentencepiece);
}

static void mistral_v3(void **state)
{
    (void)state;
    with_file("mistral-v3", tokenizer_load_sentencepiece);
}

static void openllama3b(void **state)
{
    (void)state;
    with_file("openllama3b", tokenizer_load_sentencepiece);
}

static void llama3(void **state)
{
    (void)state;
    with_file("llama3", tokenizer_load_tiktoken);
}

static void smollm2(void **state)
{
    (void)state;
    static const char path[] = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    struct gguf *g;
    struct tokenizer *t;
    struct err err;
    if (access(path, R_OK) != 0)
        skip();
    assert_int_equal(gguf_open(&g, path, &err), OK);
    assert_int_equal(tokenizer_load_gguf(&t, g, &err), OK);
    compare(t, "smollm2");
    tokenizer_free(t);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama2),      cmocka_unit_test(mistral_v1), cmocka_unit_test(mistral_v3),
        cmocka_unit_test(openllama3b), cmocka_unit_test(llama3),     cmocka_unit_test(smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
