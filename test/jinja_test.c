/* jinja_test.c: what a template is refused for, word by word; bounds on work, memory and depth; a template used again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/stop.h"
#include "io/jinja.h"

static struct err err;

static enum status render(const char *source, struct text *out)
{
    struct jinja *t;
    enum status status = jinja_parse(&t, source, strlen(source), "model.gguf", &err);
    if (status != OK)
        return status;
    jinja_begin(t);
    status = jinja_set(t, "s", jinja_string("text"), &err);
    if (status == OK)
        status = jinja_render(t, out, NULL, &err);
    jinja_free(t);
    return status;
}

static void refused(const char *source, const char *sentence)
{
    struct text out = {0};
    char want[512];
    snprintf(want, sizeof want, "model.gguf: %s", sentence);
    err.text[0] = 0;
    assert_int_equal(render(source, &out), ERR_INPUT);
    assert_string_equal(err.text, want);
    text_free(&out);
}

static void sentences(void **state)
{
    (void)state;
    static const struct {
        const char *source, *sentence;
    } cases[] = {
        {"a\n{{ raise_exception('Roles must alternate') }}", "line 2: the template refuses this conversation: Roles must alternate"},
        {"{{ s | sort }}", "line 1: the filter sort is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml"},
        {"{% if s is filter %}{% endif %}", "line 1: the test filter is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml"},
        {"\n\n{{ s.zfill(3) }}", "line 3: the string method zfill is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml"},
        {"{{ cycler(1) }}", "line 1: the function cycler is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml"},
        {"{{ strftime_now(1) }}", "line 1: strftime_now wants a format such as '%d %b %Y'"},
        {"{{ strftime_now() }}", "line 1: strftime_now wants a format such as '%d %b %Y'"},
        {"{{ strftime_now('%9999d') }}", "line 1: strftime_now: more than 256 bytes for each character of the format"},
        {"{% include 'x' %}", "line 1: got 'include', want one of the tags that this program knows: if, for, set, macro, break, continue, generation, raw"},
        {"{{ ['\\u00e9'] }}", "line 1: a list or a dict with text that is not ASCII is printed, which is not among what this program knows of Jinja; tojson is"},
        {"{{ namespace() }}", "line 1: a namespace is printed"},
        {"{{ [1] + (1,) }}", "line 1: '+' between a list and a list"},
        {"{{ 'a' + 1 }}", "line 1: '+' between a string and an integer"},
        {"{{ gone + 'a' }}", "line 1: 'gone' is undefined, and '+' needs it"},
        {"{{ gone.role }}", "line 1: 'gone' is undefined, and its 'role' is asked for"},
        {"{% for x in 5 %}{% endfor %}", "line 1: an integer has no items to walk over"},
        {"{% if s %}\nx", "line 2: got the end of the template, want elif else endif"},
        {"{{ s", "line 1: {{ has no end }}"},
        {"\n{% if s", "line 2: {% has no end %}"},
        {"{# s", "line 1: a comment {# has no end #}"},
        {"{{ 9223372036854775807 + 1 }}", "line 1: a number beyond 64 bits"},
        {"{{ s|tojson(sort_keys=true) }}", "line 1: tojson with sort_keys is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml"},
        {"{{ s.strip(1, 2) }}", "line 1: strip has an argument that this program does not know"},
        {"{{ s|trim(x=1) }}", "line 1: trim has an argument x that this program does not know"},
        {"\xff", "is no UTF-8 text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].source, cases[i].sentence);
}

/* Small sources that would take for ever, all memory or all stack end in a sentence. */
static void bounds(void **state)
{
    (void)state;
    refused("{% set ns = namespace(t='aaaaaaaaaaaaaaaa') %}{% for i in range(16) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{% for i in range(999) %}{{ 'b' in ns.t }}{% endfor %}",
            "line 1: takes more than 4194304 steps");
    refused("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "takes more than 64 MiB of memory");
    refused("{% set ns = namespace(t='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}", "takes more than 64 MiB of memory");
    refused("{% set ns = namespace(t='aaaaaaaaaaaaaaaa') %}{% for i in range(17) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{% for i in range(99) %}{{ ns.t }}{% endfor %}",
            "line 1: the text has more than 16 MiB");
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "line 1: nested deeper than 200");
    refused("{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == ns.l }}", "line 1: nested deeper than 200");
    refused("{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
            "line 1: tojson of a value that is nested deeper than 200");
    struct text source = {0};
    text_puts(&source, "{{ ");
    for (int i = 0; i < 10000; i++)
        text_puts(&source, i < 5000 ? "(" : ")");
    text_puts(&source, " }}");
    refused(source.s, "line 1: nested deeper than 200");
    text_clear(&source);
    for (int i = 0; i < 5000; i++)
        text_puts(&source, "{% if s %}");
    refused(source.s, "line 1: nested deeper than 200");
    text_clear(&source);
    for (int i = 0; i < 5000; i++)
        text_puts(&source, i ? " + 1" : "{{ 1");
    text_puts(&source, " }}");
    refused(source.s, "line 1: nested deeper than 200");
    text_clear(&source);
    for (int i = 0; i <= JINJA_MAX_SOURCE; i++)
        text_puts(&source, "a");
    refused(source.s, "has 262145 bytes, want at most 262144");
    text_free(&source);
}

static void stops(void **state)
{
    (void)state;
    struct text out = {0};
    stop_request();
    assert_int_equal(render("{% for i in range(9999) %}{% endfor %}", &out), ERR_STOPPED);
    stop_reset();
    text_free(&out);
}

/* Variables of one rendering are gone in the next, and the same ones give the same text. */
static void used_again(void **state)
{
    (void)state;
    static const char source[] = "{% set x = a|default('-') ~ b|default('-') %}{{ x }}";
    static const char *const want[] = {"1-", "-2", "1-"};
    struct jinja *t;
    struct text out = {0};
    assert_int_equal(jinja_parse(&t, source, sizeof source - 1, "model.gguf", &err), OK);
    for (int i = 0; i < 3; i++) {
        jinja_begin(t);
        assert_int_equal(jinja_set(t, i == 1 ? "b" : "a", jinja_string(i == 1 ? "2" : "1"), &err), OK);
        text_clear(&out);
        assert_int_equal(jinja_render(t, &out, NULL, &err), OK);
        assert_string_equal(out.s, want[i]);
    }
    text_free(&out);
    jinja_free(t);
}

/* The hour of a place is that of its clocks; SOURCE_DATE_EPOCH needs no place. */
static void dates(void **state)
{
    (void)state;
    struct text out = {0};
    char want[2][32];
    for (int i = 0; i < 2; i++) { /* a day may end between two looks at the clock */
        time_t now = time(NULL);
        struct tm tm;
        assert_int_equal(setenv("TZ", "XXX-5:30", 1), 0);
        tzset();
        if (i == 0)
            assert_int_equal(render("{{ strftime_now('%d %b %Y %H') }}", &out), OK);
        strftime(want[i], sizeof want[i], "%d %b %Y %H", localtime_r(&now, &tm));
    }
    assert_true(strcmp(out.s, want[0]) == 0 || strcmp(out.s, want[1]) == 0);
    assert_int_equal(setenv("SOURCE_DATE_EPOCH", "1709211909", 1), 0);
    text_clear(&out);
    assert_int_equal(render("{{ strftime_now('%d %b %Y %H') }}", &out), OK);
    assert_string_equal(out.s, "29 Feb 2024 13");
    static const char *const wrong[] = {"tomorrow", "-1", "1e9", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char sentence[128];
        snprintf(sentence, sizeof sentence, "line 1: strftime_now: SOURCE_DATE_EPOCH = '%s', want the seconds since 1970", wrong[i]);
        assert_int_equal(setenv("SOURCE_DATE_EPOCH", wrong[i], 1), 0);
        refused("{{ strftime_now('%d') }}", sentence);
    }
    unsetenv("SOURCE_DATE_EPOCH");
    text_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sentences), cmocka_unit_test(bounds), cmocka_unit_test(stops), cmocka_unit_test(used_again),
                                       cmocka_unit_test(dates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
