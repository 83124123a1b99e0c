/* chat_template_test.c: conversations in the forms that templates have by name; which tokens are answers; one BOS; templates that cannot be trained on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "golden.h"
#include "io/chat_template.h"
#include "world_tokenizer.h"

static struct chat_template *open_source(const char *source)
{
    struct chat_template *t;
    struct err err = {{0}};
    chat_template_open(&t, source, "the template", tokenizer, &err);
    assert_string_equal(err.text, "");
    return t;
}

/* ---- forms by name ---- */

static size_t messages_of(const struct json *list, struct chat_message message[8])
{
    struct err err;
    size_t n = 0;
    for (const struct json *m = json_first(list); m; m = json_next(m), n++) {
        assert_int_equal(json_string(m, "role", "message", &message[n].role, &err), OK);
        assert_int_equal(json_string(m, "content", "message", &message[n].content, &err), OK);
        message[n].members = NULL;
    }
    return n;
}

static void forms_by_name(void **state)
{
    (void)state;
    struct json *golden = golden_json("chat/known.json");
    assert_non_null(golden);
    size_t names = 1, cases = 0;
    const char *last = "";
    for (const struct json *c = json_first(json_member(golden, "cases")); c; c = json_next(c), cases++) {
        struct chat_message message[8];
        const char *name, *want;
        bool prompt;
        struct err err = {{0}};
        struct text out = {0};
        assert_int_equal(json_string(c, "name", "case", &name, &err), OK);
        assert_int_equal(json_string(c, "text", "case", &want, &err), OK);
        assert_int_equal(json_bool(c, "add_generation_prompt", "case", &prompt, &err), OK);
        struct chat chat = {.message = message, .n = messages_of(json_member(c, "messages"), message)};
        struct chat_template *t = open_source(chat_template_known(name));
        chat_template_render(t, &chat, prompt, &out, &err);
        assert_string_equal(err.text, "");
        assert_string_equal(out.s, want);
        names += *last && strcmp(last, name) != 0;
        last = name;
        text_free(&out);
        chat_template_free(t);
    }
    size_t commas = 1;
    for (const char *s = chat_template_names; *s; s++)
        commas += *s == ',';
    assert_int_equal(names, commas); /* every name has its cases */
    assert_null(chat_template_known("no such"));
    json_free(golden);
}

static void name_or_file(void **state)
{
    (void)state;
    char *source, path[64];
    struct err err = {{0}};
    assert_int_equal(chat_template_read("zephyr", tokenizer, &source, &err), OK);
    assert_string_equal(source, chat_template_known("zephyr"));
    free(source);
    snprintf(path, sizeof path, "/tmp/veneer-template-%d.jinja", (int)getpid());
    assert_int_equal(file_write(path, "{{ 1 }}", 7, &err), OK);
    assert_int_equal(chat_template_read(path, tokenizer, &source, &err), OK);
    assert_string_equal(source, "{{ 1 }}");
    free(source);
    assert_int_equal(file_write(path, "\xff", 1, &err), OK);
    assert_int_equal(chat_template_read(path, tokenizer, &source, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, ".jinja: is no UTF-8 text"));
    unlink(path);
    assert_int_equal(chat_template_read("chatmll", tokenizer, &source, &err), ERR_INPUT);
    assert_string_equal(err.text, "the chat template is no file and none of chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3: "
                                  "chatmll: No such file or directory");
}

/* ---- answers ---- */

static const struct chat_message talk[] = {{.role = "system", .content = "S"},        {.role = "user", .content = "one"}, {.role = "assistant", .content = "two three"},
                                           {.role = "user", .content = "four"}, {.role = "assistant", .content = "five"}};

/* The learned stretches, each as its ids' pieces, with a bar behind each. */
static char *learned(const struct tokens *tokens, const uint8_t *learn)
{
    struct text text = {0};
    struct tokenizer_view view;
    tokenizer_view(tokenizer, &view);
    text_puts(&text, "");
    for (size_t i = 0; i < tokens->n; i++) {
        if (learn[i])
            text_puts(&text, view.piece[tokens->id[i]]);
        if (learn[i] && (i + 1 == tokens->n || !learn[i + 1]))
            text_puts(&text, "|");
    }
    for (char *s; (s = strstr(text.s, "\xe2\x96\x81"));) { /* SentencePiece's space */
        *s = ' ';
        memmove(s + 1, s + 3, strlen(s + 3) + 1);
    }
    return text.s;
}

static void answers_are(const char *source, const struct chat_message *message, size_t n, const char *want)
{
    struct chat_template *t = open_source(source);
    struct chat chat = {.message = message, .n = n};
    struct tokens tokens = {0};
    uint8_t *learn;
    struct err err = {{0}};
    chat_template_answers(t, &chat, -1, 1000, &tokens, &learn, &err);
    assert_string_equal(err.text, "");
    char *got = learned(&tokens, learn);
    assert_string_equal(got, want);
    assert_int_equal(tokens.id[0], 1);
    assert_int_not_equal(tokens.id[1], 1);
    free(got);
    free(learn);
    tokens_free(&tokens);
    chat_template_free(t);
}

/* The answer and what ends it, and nothing of the white space behind: whichever way the form opens an answer. */
static void answers_and_their_end(void **state)
{
    (void)state;
    static const struct {
        const char *name, *want;
    } cases[] = {
        {"llama2", " two three </s>| five </s>|"}, {"mistral-v1", " two three</s>| five</s>|"}, {"mistral-v7", " two three</s>| five</s>|"},
        {"zephyr", "two three</s>|five</s>|"},     {"vicuna", " two three</s>| five</s>|"},     {"alpaca", "two three</s>|five</s>|"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        answers_are(chat_template_known(cases[i].name), talk, 5, cases[i].want);
    answers_are(chat_template_known("zephyr"), talk, 4, "two three</s>|");
    answers_are(chat_template_known("zephyr"), talk, 2, "");
}

/* A form without a token that ends a turn: the last answer gets an EOS. */
static void eos_where_there_is_none(void **state)
{
    (void)state;
    static const char plain[] = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    answers_are(plain, talk + 1, 2, " two three\n</s>|");
    answers_are(plain, talk + 1, 3, " two three\n|");
}

static void marked_by_the_template(void **state)
{
    (void)state;
    static const char marked[] = "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content ~ eos_token }}{% endgeneration %}{% else %}"
                                 "{{ m.content ~ loop.length }}{% endif %}{% endfor %}"; /* earlier turns change: only marks can tell */
    answers_are(marked, talk, 5, "two three</s>|five</s>|");
}

static void refused(const char *source, const struct chat_message *message, size_t n, const char *sentence)
{
    struct chat_template *t = open_source(source);
    struct chat chat = {.message = message, .n = n};
    struct tokens tokens = {0};
    uint8_t *learn;
    struct err err = {{0}};
    assert_int_equal(chat_template_answers(t, &chat, -1, 1000, &tokens, &learn, &err), ERR_INPUT);
    assert_string_equal(err.text, sentence);
    assert_null(learn);
    tokens_free(&tokens);
    chat_template_free(t);
}

static void what_cannot_be_told_apart(void **state)
{
    (void)state;
    refused("{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}", talk + 1, 2,
            "the template: writes the first 1 messages and its generation prompt in another way when more follow, so that answers cannot be told apart; mark them by "
            "{% generation %} in it, or choose another template (--chat-template, chat_template), such as chatml");
    refused("{% for m in messages %}{{ m.content }}{% endfor %}{{ 'think' if add_generation_prompt }}", talk + 1, 2,
            "the template: writes the first 1 messages and its generation prompt in another way when more follow, so that answers cannot be told apart; mark them by "
            "{% generation %} in it, or choose another template (--chat-template, chat_template), such as chatml");
    refused("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", talk + 1, 2, "the template: leaves message 2, an assistant's, out");
    refused("{% for m in messages %}{{ m.content }}{% endfor %}", talk + 2, 2, "the first message is the assistant's, want a user's before it");
    refused("{{ raise_exception('Roles must alternate') }}", talk, 2, "the template: line 1: the template refuses this conversation: Roles must alternate");
}

/* ---- BOS, the end of a turn, other members ---- */

static void one_bos(void **state)
{
    (void)state;
    static const char *const names[] = {"llama2", "zephyr"}; /* the first writes one itself */
    for (int i = 0; i < 2; i++)
        for (int bos = -1; bos < 2; bos++) {
            struct chat_template *t = open_source(chat_template_known(names[i]));
            struct chat chat = {.message = talk + 1, .n = 1};
            struct tokens tokens = {0};
            struct err err;
            size_t count = 0;
            assert_int_equal(chat_template_encode(t, &chat, true, bos, &tokens, &err), OK);
            for (size_t k = 0; k < tokens.n; k++)
                count += tokens.id[k] == 1;
            assert_int_equal(count, i == 0 || bos != 0);
            tokens_free(&tokens);
            chat_template_free(t);
        }
}

static void end_of_a_turn(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        int32_t id;
    } cases[] = {{"{% for m in messages %}{{ m.content }}\n{{ eos_token }}{% endfor %}", 2},
                 {"{% for m in messages %}{{ m.content }}|{{ eos_token }}{% endfor %}", -1},
                 {"{% for m in messages %}{{ m.content }}{% endfor %}", -1},
                 {"nothing of it", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_template *t = open_source(cases[i].source);
        struct err err;
        int32_t id;
        assert_int_equal(chat_template_end(t, &id, &err), OK);
        assert_int_equal(id, cases[i].id);
        chat_template_free(t);
    }
}

static void other_members(void **state)
{
    (void)state;
    static const char file[] = "{\"role\": \"r\", \"content\": null, \"name\": \"n\", \"tool_calls\": [{\"id\": 7, \"f\": {\"x\": 0.5}}]}";
    struct json *json;
    struct err err = {{0}};
    struct text out = {0};
    assert_int_equal(json_parse(file, sizeof file - 1, "message", &json, &err), OK);
    struct chat_template *t = open_source("{% for m in messages %}{{ m.role }} {{ m.content is none }} {{ m.name }} {{ m.tool_calls|tojson }} {{ tools|tojson }}{% endfor %}");
    struct chat_message message = {.role = "assistant", .members = json};
    struct chat chat = {.message = &message, .n = 1, .tools = json_member(json, "tool_calls")};
    assert_int_equal(chat_template_render(t, &chat, false, &out, &err), OK);
    assert_string_equal(out.s, "assistant True n [{\"id\": 7, \"f\": {\"x\": 0.5}}] [{\"id\": 7, \"f\": {\"x\": 0.5}}]");
    text_free(&out);
    chat_template_free(t);
    json_free(json);
}

/* Conversations with tools go by the template that is for them, the others do not. */
static void for_tools(void **state)
{
    (void)state;
    struct json *tools;
    struct err err = {{0}};
    assert_int_equal(json_parse("[1]", 3, "tools", &tools, &err), OK);
    struct chat_template *t = open_source("plain {{ bos_token }}");
    const struct chat_message message = {.role = "user", .content = "x"};
    for (int i = 0; i < 4; i++) {
        struct text out = {0};
        struct chat chat = {.message = &message, .n = 1, .tools = i % 2 ? tools : NULL};
        if (i == 2)
            assert_int_equal(chat_template_for_tools(t, "with {{ tools|tojson }} {{ bos_token }}", &err), OK);
        assert_int_equal(chat_template_render(t, &chat, false, &out, &err), OK);
        assert_string_equal(out.s, i == 3 ? "with [1] <s>" : "plain <s>");
        text_free(&out);
    }
    assert_int_equal(chat_template_for_tools(t, "{% if %}", &err), ERR_INPUT);
    assert_string_equal(err.text, "the model's chat template tool_use: line 1: got %}, want a value");
    chat_template_free(t);
    json_free(tools);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_by_name),           cmocka_unit_test(name_or_file),
        cmocka_unit_test(answers_and_their_end),   cmocka_unit_test(eos_where_there_is_none),
        cmocka_unit_test(marked_by_the_template),  cmocka_unit_test(what_cannot_be_told_apart),
        cmocka_unit_test(one_bos),                 cmocka_unit_test(end_of_a_turn),
        cmocka_unit_test(other_members),           cmocka_unit_test(for_tools),
    };
    return cmocka_run_group_tests(tests, load_tokenizer, free_tokenizer);
}
