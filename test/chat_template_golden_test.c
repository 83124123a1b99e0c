/* chat_template_golden_test.c: SmolLM2's own template and tokenizer against apply_chat_template of transformers: text, ids, which are the assistant's
 * (test/golden/chat/make.py).  Skips where the model (make models) is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "golden.h"
#include "io/chat_template.h"
#include "io/gguf.h"

static const char model[] = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf";
static struct err err;

static struct tokenizer *load(void)
{
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    if (access(model, R_OK) != 0) {
        print_message("skipped: %s is not there (make models)\n", model);
        skip();
    }
    assert_int_equal(gguf_open(&gguf, model, &err), OK);
    assert_int_equal(tokenizer_load_gguf(&tokenizer, gguf, &err), OK);
    gguf_close(gguf);
    return tokenizer;
}

static void same_text(struct chat_template *t, const struct chat *chat, bool prompt, const struct json *c)
{
    const char *want;
    struct text out = {0};
    assert_int_equal(json_string(c, prompt ? "prompt" : "text", "case", &want, &err), OK);
    assert_int_equal(chat_template_render(t, chat, prompt, &out, &err), OK);
    assert_string_equal(out.s, want);
    text_free(&out);
}

static int64_t number(const struct json *item)
{
    int64_t x;
    assert_int_equal(json_as_int(item, "number", 0, 1 << 30, &x, &err), OK);
    return x;
}

static void same_ids(const struct tokens *got, const struct json *want)
{
    size_t i = 0;
    assert_int_equal(got->n, json_size(want));
    for (const struct json *id = json_first(want); id; id = json_next(id))
        assert_int_equal(got->id[i++], number(id));
}

/* The ids, and for the last ones whether they are the assistant's: the model's own form may begin with a system's turn that the marked one has not. */
static void same_answers(struct chat_template *t, const struct chat *chat, const struct json *ids, const struct json *mask)
{
    struct tokens tokens = {0};
    uint8_t *learn;
    err.text[0] = 0;
    chat_template_answers(t, chat, -1, 1000, &tokens, &learn, &err);
    assert_string_equal(err.text, "");
    same_ids(&tokens, ids);
    assert_true(tokens.n >= json_size(mask));
    size_t i = tokens.n - json_size(mask);
    for (const struct json *m = json_first(mask); m; m = json_next(m))
        assert_int_equal(learn[i++], number(m));
    free(learn);
    tokens_free(&tokens);
}

static void as_apply_chat_template(void **state)
{
    (void)state;
    const char *source;
    struct chat_template *own, *marked;
    struct tokenizer *tokenizer = load();
    struct json *golden = golden_json("chat/smollm2.json");
    assert_non_null(golden);
    assert_int_equal(json_string(golden, "masked", "golden", &source, &err), OK);
    assert_int_equal(chat_template_open(&own, tokenizer_chat_template(tokenizer), "SmolLM2's template", tokenizer, &err), OK);
    assert_int_equal(chat_template_open(&marked, source, "the marked template", tokenizer, &err), OK);
    for (const struct json *c = json_first(json_member(golden, "cases")); c; c = json_next(c)) {
        struct chat_message message[8] = {0};
        size_t n = 0;
        for (const struct json *m = json_first(json_member(c, "messages")); m; m = json_next(m), n++) {
            assert_int_equal(json_string(m, "role", "message", &message[n].role, &err), OK);
            assert_int_equal(json_string(m, "content", "message", &message[n].content, &err), OK);
        }
        const struct chat chat = {.message = message, .n = n};
        same_text(own, &chat, false, c);
        same_text(own, &chat, true, c);
        same_answers(marked, &chat, json_member(c, "masked_ids"), json_member(c, "mask"));
        same_answers(own, &chat, json_member(c, "ids"), json_member(c, "mask")); /* without marks: by rendering what comes before */
    }
    int32_t end;
    assert_int_equal(chat_template_end(own, &end, &err), OK);
    assert_int_equal(end, tokenizer_find(tokenizer, "<|im_end|>"));
    chat_template_free(own);
    chat_template_free(marked);
    tokenizer_free(tokenizer);
    json_free(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_apply_chat_template)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
