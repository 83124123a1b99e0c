/* jinja_golden_test.c: pieces of templates as transformers' Jinja2 renders them (test/golden/chat/make.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "golden.h"
#include "io/jinja.h"

static void variables(struct jinja *t, const struct json *json)
{
    struct err err;
    struct value value;
    jinja_begin(t);
    for (const struct json *member = json_first(json); member; member = json_next(member)) {
        assert_int_equal(jinja_json(t, member, &value, &err), OK);
        assert_int_equal(jinja_set(t, json_key(member), value, &err), OK);
    }
}

static enum status render(const char *source, const struct json *names, struct text *out, struct jinja_spans *spans, struct err *err)
{
    struct jinja *t;
    enum status status = jinja_parse(&t, source, strlen(source), "the template", err);
    if (status != OK)
        return status;
    variables(t, names);
    status = jinja_render(t, out, spans, err);
    jinja_free(t);
    return status;
}

/* Bytes in front of character k. */
static size_t byte_of(const char *s, int64_t k)
{
    const char *start = s;
    while (k > 0 && *s)
        for (s++, k--; ((unsigned char)*s & 0xC0) == 0x80; s++)
            ;
    return (size_t)(s - start);
}

static bool same_spans(const struct json *want, const struct jinja_spans *got, const char *text)
{
    size_t i = 0;
    bool same = json_size(want) == got->n;
    for (const struct json *span = json_first(want); same && span; span = json_next(span), i++) {
        int64_t start, end;
        struct err err;
        assert_int_equal(json_as_int(json_at(span, 0), "start", 0, 1 << 20, &start, &err), OK);
        assert_int_equal(json_as_int(json_at(span, 1), "end", 0, 1 << 20, &end, &err), OK);
        same = got->span[i].start == byte_of(text, start) && got->span[i].end == byte_of(text, end);
    }
    return same;
}

/* A refusal that says what is missing here. */
static bool by_name(const char *sentence)
{
    return strstr(sentence, "not among what this program knows") || strstr(sentence, "want another operator") ||
           strstr(sentence, "has an escape that is not among") || strstr(sentence, "'*' between") || strstr(sentence, "'%' between");
}

/* 0: as Jinja2; 1: refused by name; -1: wrong. */
static int compare(const struct json *names, const struct json *c)
{
    const char *source, *want;
    struct err err = {{0}};
    struct text out = {0};
    struct jinja_spans spans = {0};
    assert_int_equal(json_string(c, "source", "case", &source, &err), OK);
    assert_int_equal(json_string_or(c, "text", "case", NULL, &want, &err), OK);
    enum status status = render(source, names, &out, &spans, &err);
    const char *got = out.n ? out.s : "";
    int verdict = want ? (status == OK && strcmp(got, want) == 0 ? 0 : status == ERR_INPUT && by_name(err.text) ? 1 : -1) : status == ERR_INPUT ? 0 : -1;
    if (verdict == 0 && json_member(c, "spans") && !same_spans(json_member(c, "spans"), &spans, want))
        verdict = -1;
    if (verdict != 0 && (verdict < 0 || getenv("VENEER_VERBOSE")))
        fprintf(stderr, "%s\n    got  '%s'\n    want '%s'\n", source, status == OK ? got : err.text, want ? want : "an error");
    free(spans.span);
    text_free(&out);
    return verdict;
}

static void as_jinja2(void **state)
{
    (void)state;
    struct json *golden = golden_json("chat/jinja.json");
    assert_non_null(golden);
    size_t cases = 0, refused = 0, wrong = 0;
    int64_t now;
    char seconds[32];
    struct err err;
    assert_int_equal(json_int(golden, "now", "chat/jinja.json", 0, INT32_MAX, &now, &err), OK);
    snprintf(seconds, sizeof seconds, "%lld", (long long)now);
    assert_int_equal(setenv("SOURCE_DATE_EPOCH", seconds, 1), 0);
    for (const struct json *c = json_first(json_member(golden, "cases")); c; c = json_next(c), cases++) {
        int verdict = compare(json_member(golden, "variables"), c);
        refused += verdict == 1;
        wrong += verdict < 0;
    }
    print_message("%zu cases, %zu of them refused by name\n", cases, refused);
    assert_int_equal(wrong, 0);
    assert_true(cases > 0 && refused * 20 < cases);
    json_free(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_jinja2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
