/* What JSON is refused and how, to the letter; what is read comes back as it was. */
#include "test/refused.h"

#include "io/json.h"

struct refusal {
    const char *text, *sentence;
};

static void text_that_is_no_strict_json_is_refused_at_its_byte(void **state)
{
    (void)state;
    static const struct refusal cases[] = {
        {"", "f: at byte 0: the text ends where a JSON value is wanted"},
        {"  ", "f: at byte 2: the text ends where a JSON value is wanted"},
        {"\xef\xbb\xbf{}", "f: at byte 0: a byte order mark, want plain UTF-8"},
        {"{} x", "f: at byte 3: something follows the JSON value"},
        {"[1]]", "f: at byte 3: something follows the JSON value"},
        {"[1,]", "f: at byte 3: want a JSON value"},
        {"[1 2]", "f: at byte 3: want ',' or ']'"},
        {"[1", "f: at byte 2: want ',' or ']'"},
        {"{\"a\":1", "f: at byte 6: want ',' or '}'"},
        {"{\"a\":1,}", "f: at byte 7: want the name of a member"},
        {"{a:1}", "f: at byte 1: want the name of a member"},
        {"{\"a\" 1}", "f: at byte 5: want ':' after the name of a member"},
        {"nul", "f: at byte 0: want a JSON value"},
        {"NaN", "f: at byte 0: want a JSON value"},
        {"Infinity", "f: at byte 0: want a JSON value"},
        {"+1", "f: at byte 0: want a JSON value"},
        {"-", "f: at byte 1: want a JSON value"},
        {"01", "f: at byte 1: something follows the JSON value"},
        {"1.", "f: at byte 2: want a digit after the decimal point"},
        {"1e", "f: at byte 2: want a digit in the exponent"},
        {"1e400", "f: a number is too large for a double"},
        {"-1e400", "f: a number is too large for a double"},
        {"1234567890123456789012345678901234567890123456789012345678901", "f: at byte 61: a number of more than 60 characters"},
        {"\"abc", "f: at byte 4: the text ends inside a string"},
        {"\"a\tb\"", "f: at byte 2: a control byte in a string"},
        {"\"\\x41\"", "f: at byte 2: a string has an escape that JSON does not know"},
        {"\"\\", "f: at byte 2: a string has an escape that JSON does not know"},
        {"\"\\u12g4\"", "f: at byte 3: \\u wants four hex digits"},
        {"\"\\u12", "f: at byte 3: \\u wants four hex digits"},
        {"\"\\u0000\"", "f: at byte 7: \\u0000 in a string"},
        {"\"\\udc00\"", "f: at byte 7: a low surrogate without its high one"},
        {"\"\\ud800\"", "f: at byte 7: a high surrogate without its low one"},
        {"\"\\ud800\\u0041\"", "f: at byte 13: a high surrogate without its low one"},
        {"\"\xc0\x80\"", "f: at byte 1: not UTF-8"},         /* overlong NUL */
        {"\"\xe0\x80\x80\"", "f: at byte 1: not UTF-8"},     /* overlong */
        {"\"\xed\xa0\x80\"", "f: at byte 1: not UTF-8"},     /* surrogate */
        {"\"\xf4\x90\x80\x80\"", "f: at byte 1: not UTF-8"}, /* above U+10FFFF */
        {"\"\xe2\x82\"", "f: at byte 1: not UTF-8"},         /* cut short */
        {"\"\x80\"", "f: at byte 1: not UTF-8"},
        {"{\"a\":1,\"a\":2}", "f: member \"a\" is there twice"},
        {"{\"a\":1,\"\\u0061\":2}", "f: member \"a\" is there twice"}, /* the same name, spelled otherwise */
        {"[{\"x\":{\"b\":1,\"c\":2,\"b\":3}}]", "f: member \"b\" is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json *root;
        struct err err = {""};
        enum status got = json_parse(cases[i].text, strlen(cases[i].text), "f", &root, &err);
        assert_refused(got, ERR_INPUT, &err, "", cases[i].sentence);
        assert_null(root);
    }
}

static void a_nul_byte_is_refused(void **state)
{
    (void)state;
    struct json *root;
    struct err err;
    assert_refused(json_parse("{}\0", 3, "f", &root, &err), ERR_INPUT, &err, "", "f: at byte 2: something follows the JSON value");
    assert_refused(json_parse("\"a\0b\"", 5, "f", &root, &err), ERR_INPUT, &err, "", "f: at byte 2: a control byte in a string");
}

static void nesting_ends_at_64(void **state)
{
    (void)state;
    char text[2 * 100000];
    struct json *root;
    struct err err;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    assert_int_equal(json_parse(text, 128, "f", &root, &err), OK);
    json_free(root);
    memset(text, '[', sizeof text); /* a reader that recursed per bracket would end here */
    assert_refused(json_parse(text, sizeof text, "f", &root, &err), ERR_INPUT, &err, "", "f: at byte 64: nested deeper than 64");
}

/* 200,000 members, all in one object: a check of each name against each other would take hours. */
static void many_members_are_checked_in_order_n_log_n(void **state)
{
    (void)state;
    enum { N = 200000 };
    char *text = malloc((size_t)N * 16 + 64);
    struct json *root;
    struct err err;
    assert_non_null(text);
    size_t n = 0;
    text[n++] = '{';
    for (int i = 0; i < N; i++)
        n += (size_t)sprintf(text + n, "\"%x\":0,", i);
    n += (size_t)sprintf(text + n, "\"abc\":0}");
    assert_refused(json_parse(text, n, "f", &root, &err), ERR_INPUT, &err, "", "f: member \"abc\" is there twice"); /* 0xabc */
    free(text);
}

static void members_are_typed_and_named_when_wrong(void **state)
{
    (void)state;
    static const char text[] = "{\"s\":\"x\",\"i\":7,\"f\":1.5,\"b\":true,\"n\":null,\"a\":[1,2],\"o\":{},\"big\":9007199254740993,"
                               "\"edge\":9007199254740991,\"low\":-9007199254740991}";
    struct json *root;
    struct err err;
    const char *s;
    int64_t i;
    double x;
    bool b;
    const struct json *v;
    assert_int_equal(json_parse(text, sizeof text - 1, "f", &root, &err), OK);

    assert_int_equal(json_string(root, "s", "f", &s, &err), OK);
    assert_string_equal(s, "x");
    assert_int_equal(json_int(root, "i", "f", 7, 7, &i, &err), OK);
    assert_int_equal(i, 7);
    assert_int_equal(json_int(root, "edge", "f", INT64_MIN, INT64_MAX, &i, &err), OK);
    assert_true(i == JSON_MAX_INT);
    assert_int_equal(json_int(root, "low", "f", INT64_MIN, INT64_MAX, &i, &err), OK);
    assert_true(i == -JSON_MAX_INT);
    assert_int_equal(json_number(root, "f", "f", &x, &err), OK);
    assert_true(x == 1.5);
    assert_int_equal(json_bool(root, "b", "f", &b, &err), OK);
    assert_true(b);
    assert_int_equal(json_array(root, "a", "f", &v, &err), OK);
    assert_int_equal(json_size(v), 2);
    assert_int_equal(json_as_int(json_at(v, 1), "f", 0, 9, &i, &err), OK);
    assert_int_equal(i, 2);
    assert_null(json_at(v, 2));

    assert_refused(json_string(root, "i", "f", &s, &err), ERR_INPUT, &err, "", "f.i: got a number, want a string");
    assert_refused(json_string(root, "S", "f", &s, &err), ERR_INPUT, &err, "", "f.S: is missing, want a string"); /* exact case */
    assert_refused(json_int(root, "s", "f", 0, 9, &i, &err), ERR_INPUT, &err, "", "f.s: got a string, want a number");
    assert_refused(json_int(root, "f", "f", 0, 9, &i, &err), ERR_INPUT, &err, "", "f.f: got 1.5, want an integer from 0 to 9");
    assert_refused(json_int(root, "i", "f", 8, 9, &i, &err), ERR_INPUT, &err, "", "f.i: got 7, want an integer from 8 to 9");
    assert_refused(json_int(root, "big", "f", 0, INT64_MAX, &i, &err), ERR_INPUT, &err, "",
                   "f.big: got 9007199254740992, want an integer from 0 to 9223372036854775807");
    assert_refused(json_number(root, "n", "f", &x, &err), ERR_INPUT, &err, "", "f.n: got null, want a number");
    assert_refused(json_bool(root, "i", "f", &b, &err), ERR_INPUT, &err, "", "f.i: got a number, want true or false");
    assert_refused(json_array(root, "o", "f", &v, &err), ERR_INPUT, &err, "", "f.o: got an object, want an array");
    assert_refused(json_object(root, "a", "f", &v, &err), ERR_INPUT, &err, "", "f.a: got an array, want an object");
    assert_refused(json_as_string(root, "f", &s, &err), ERR_INPUT, &err, "", "f: got an object, want a string");

    assert_int_equal(json_int_or(root, "none", "f", 0, 9, 3, &i, &err), OK); /* absent and null give the fallback ... */
    assert_int_equal(i, 3);
    assert_int_equal(json_int_or(root, "n", "f", 0, 9, 4, &i, &err), OK);
    assert_int_equal(i, 4);
    assert_refused(json_int_or(root, "s", "f", 0, 9, 3, &i, &err), ERR_INPUT, &err, "", "f.s: got a string, want a number"); /* ... another type does not */
    json_free(root);
}

static void strings_come_back_decoded(void **state)
{
    (void)state;
    static const char text[] = "[\"\\u00e9\\ud83d\\ude42\\n\\\"\\\\\\/\", \"\xc3\xa9\xf0\x9f\x99\x82\"]";
    struct json *root;
    struct err err;
    const char *s;
    assert_int_equal(json_parse(text, sizeof text - 1, "f", &root, &err), OK);
    assert_int_equal(json_as_string(json_at(root, 0), "f", &s, &err), OK);
    assert_string_equal(s, "\xc3\xa9\xf0\x9f\x99\x82\n\"\\/");
    assert_int_equal(json_as_string(json_at(root, 1), "f", &s, &err), OK);
    assert_string_equal(s, "\xc3\xa9\xf0\x9f\x99\x82");
    json_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_is_no_strict_json_is_refused_at_its_byte),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(nesting_ends_at_64),
        cmocka_unit_test(many_members_are_checked_in_order_n_log_n),
        cmocka_unit_test(members_are_typed_and_named_when_wrong),
        cmocka_unit_test(strings_come_back_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
