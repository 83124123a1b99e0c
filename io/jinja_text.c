/* jinja_text.c: values as text: str() and JSON as Python writes them; characters and white space. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/jinja_private.h"

/* ---- characters ---- */

size_t utf8_count(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

size_t utf8_skip(const char *s, size_t n, size_t k)
{
    size_t at = 0;
    while (at < n && k > 0) {
        at++;
        while (at < n && ((unsigned char)s[at] & 0xC0) == 0x80)
            at++;
        k--;
    }
    return at;
}

/* The code point that s[n], valid and not empty, begins with. */
static uint32_t code_point(const char *s, size_t n)
{
    unsigned char c = (unsigned char)*s;
    uint32_t code = c < 0x80 ? c : c < 0xE0 ? c & 31u : c < 0xF0 ? c & 15u : c & 7u;
    for (size_t i = 1; i < n && ((unsigned char)s[i] & 0xC0) == 0x80; i++)
        code = code << 6 | ((unsigned char)s[i] & 63u);
    return code;
}

/* Python's str.isspace. */
static bool is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

size_t space_before(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n && is_space(code_point(s + at, n - at)))
        at += utf8_skip(s + at, n - at, 1);
    return at;
}

size_t space_behind(const char *s, size_t n)
{
    size_t end = n;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80)
            start--;
        if (!is_space(code_point(s + start, end - start)))
            break;
        end = start;
    }
    return n - end;
}

/* ---- str() ---- */

/* The fewest digits that read back as x, written as Python's repr does. */
static void put_float(double x, struct text *out)
{
    char digits[40], *e;
    int precision = 0;
    if (!isfinite(x)) {
        text_puts(out, isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && precision++ < 17);
    e = strchr(digits, 'e');
    int power = e ? atoi(e + 1) : 0;
    if (power < -4 || power >= 16)
        text_puts(out, digits);
    else
        text_printf(out, "%.*f", precision > power ? precision - power : 1, x);
}

/* True when v has a text of its own. */
static bool put_plain(struct value v, struct text *out)
{
    switch (v.type) {
    case VALUE_UNDEFINED:
        return true;
    case VALUE_NONE:
        text_puts(out, "None");
        return true;
    case VALUE_BOOL:
        text_puts(out, v.boolean ? "True" : "False");
        return true;
    case VALUE_INT:
        text_printf(out, "%lld", (long long)v.integer);
        return true;
    case VALUE_FLOAT:
        put_float(v.number, out);
        return true;
    case VALUE_STRING:
        text_add(out, v.s, v.n);
        return true;
    default:
        return false;
    }
}

enum status run_check_text(struct run *r, const struct text *out)
{
    if (out->failed)
        return err_set(r->err, ERR_MEMORY, "out of memory for the text of a chat template");
    return out->n > JINJA_MAX_OUTPUT ? run_fail(r, "the text has more than %d MiB", JINJA_MAX_OUTPUT >> 20) : OK;
}

/* repr() of a string: in the quotes that it does not hold. */
static enum status put_quoted(struct run *r, struct value v, struct text *out)
{
    static const char from[] = "\\\n\r\t", to[] = "\\nrt";
    char quote = memchr(v.s, '\'', v.n) && !memchr(v.s, '"', v.n) ? '"' : '\'';
    text_add(out, &quote, 1);
    for (size_t i = 0; i < v.n; i++) {
        const char *known = strchr(from, v.s[i]);
        unsigned char c = (unsigned char)v.s[i];
        if (c >= 0x80)
            return run_fail(r, "a list or a dict with text that is not ASCII is printed, which is not among what this program knows of Jinja; tojson is");
        if (known || c == (unsigned char)quote)
            text_printf(out, "\\%c", known ? to[known - from] : quote);
        else if (c < 32 || c == 127)
            text_printf(out, "\\x%02x", c);
        else
            text_add(out, v.s + i, 1);
    }
    text_add(out, &quote, 1);
    return OK;
}

static enum status put_repr(struct run *r, struct value v, struct text *out);

static enum status put_items(struct run *r, struct value v, struct text *out)
{
    bool list = v.type == VALUE_LIST, tuple = list && v.list->tuple;
    size_t n = list ? v.list->n : v.dict->n;
    text_puts(out, tuple ? "(" : list ? "[" : "{");
    for (size_t i = 0; i < n; i++) {
        text_puts(out, i ? ", " : "");
        if (!list) {
            TRY(put_quoted(r, v.dict->entry[i].key, out));
            text_puts(out, ": ");
        }
        TRY(put_repr(r, list ? v.list->item[i] : v.dict->entry[i].value, out));
    }
    text_puts(out, !tuple ? list ? "]" : "}" : n == 1 ? ",)" : ")");
    return OK;
}

static enum status put_repr(struct run *r, struct value v, struct text *out)
{
    TRY(run_steps(r, 1 + (v.type == VALUE_STRING ? v.n / 16 : 0)));
    TRY(run_check_text(r, out));
    if (v.type == VALUE_UNDEFINED)
        text_puts(out, "Undefined");
    if (v.type == VALUE_STRING)
        return put_quoted(r, v, out);
    if (v.type != VALUE_LIST && v.type != VALUE_DICT)
        return put_plain(v, out) ? OK : run_fail(r, "%s in a list or a dict is printed", value_type_name(v));
    TRY(run_enter(r));
    TRY(put_items(r, v, out));
    r->depth--;
    return OK;
}

enum status value_print(struct run *r, struct value v, struct text *out)
{
    if (v.type == VALUE_LIST || v.type == VALUE_DICT)
        return put_repr(r, v, out);
    if (!put_plain(v, out))
        return run_fail(r, "%s is printed", value_type_name(v));
    return run_check_text(r, out);
}

enum status value_from_text(struct run *r, struct text *text, enum status status, struct value *out)
{
    void *s = NULL;
    if (status == OK)
        status = run_check_text(r, text);
    if (status == OK)
        status = run_take(r, text->n + 1, &s);
    if (status == OK && text->n)
        memcpy(s, text->s, text->n);
    *out = value_string(s, text->n);
    text_free(text);
    return status;
}

enum status value_to_string(struct run *r, struct value v, struct value *out)
{
    struct text text = {0};
    if (v.type == VALUE_STRING) {
        *out = v;
        return OK;
    }
    enum status status = value_print(r, v, &text);
    return value_from_text(r, &text, status, out);
}

/* ---- JSON ---- */

/* As Python's json.dumps: text_json_string has no \b, \f and \r of its own, and keeps all characters. */
static void put_json_string(struct value v, bool ascii, struct text *out)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    text_puts(out, "\"");
    for (size_t i = 0, k; i < v.n; i += k) {
        const char *c = strchr(from, v.s[i]);
        k = utf8_skip(v.s + i, v.n - i, 1);
        uint32_t code = code_point(v.s + i, k);
        if (c)
            text_printf(out, "\\%c", to[c - from]);
        else if (code < 32 || (ascii && code > 126 && code < 0x10000))
            text_printf(out, "\\u%04x", code);
        else if (ascii && code >= 0x10000)
            text_printf(out, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF));
        else
            text_add(out, v.s + i, k);
    }
    text_puts(out, "\"");
}

static void put_line(const struct json_style *style, int depth, struct text *out)
{
    text_puts(out, "\n");
    for (int64_t i = 0; i < style->indent * depth; i++)
        text_puts(out, " ");
}

/* What stands before an item. */
static void put_before(const struct json_style *style, bool first, int depth, struct text *out)
{
    if (!first && style->between.type == VALUE_STRING)
        text_add(out, style->between.s, style->between.n);
    else if (!first)
        text_puts(out, style->indent >= 0 ? "," : ", ");
    if (style->indent >= 0)
        put_line(style, depth, out);
}

static enum status put_list(struct run *r, const struct list *list, const struct json_style *style, int depth, struct text *out)
{
    text_puts(out, "[");
    for (size_t i = 0; i < list->n; i++) {
        put_before(style, i == 0, depth + 1, out);
        TRY(value_to_json(r, list->item[i], style, depth + 1, out));
    }
    if (style->indent >= 0 && list->n)
        put_line(style, depth, out);
    text_puts(out, "]");
    return OK;
}

static enum status put_dict(struct run *r, const struct dict *dict, const struct json_style *style, int depth, struct text *out)
{
    text_puts(out, "{");
    for (size_t i = 0; i < dict->n; i++) {
        put_before(style, i == 0, depth + 1, out);
        put_json_string(dict->entry[i].key, style->ascii, out);
        text_add(out, style->colon.type == VALUE_STRING ? style->colon.s : ": ", style->colon.type == VALUE_STRING ? style->colon.n : 2);
        TRY(value_to_json(r, dict->entry[i].value, style, depth + 1, out));
    }
    if (style->indent >= 0 && dict->n)
        put_line(style, depth, out);
    text_puts(out, "}");
    return OK;
}

enum status value_to_json(struct run *r, struct value v, const struct json_style *style, int depth, struct text *out)
{
    TRY(run_steps(r, 1 + (v.type == VALUE_STRING ? v.n / 64 : 0)));
    TRY(run_check_text(r, out));
    if (depth > JINJA_MAX_DEPTH)
        return run_fail(r, "tojson of a value that is nested deeper than %d", JINJA_MAX_DEPTH);
    switch (v.type) {
    case VALUE_NONE:
        text_puts(out, "null");
        return OK;
    case VALUE_BOOL:
        text_puts(out, v.boolean ? "true" : "false");
        return OK;
    case VALUE_INT:
    case VALUE_FLOAT:
        put_plain(v, out);
        return OK;
    case VALUE_STRING:
        put_json_string(v, style->ascii, out);
        return OK;
    case VALUE_LIST:
        return put_list(r, v.list, style, depth, out);
    case VALUE_DICT:
        return put_dict(r, v.dict, style, depth, out);
    default:
        return run_fail(r, "tojson of %s", value_type_name(v));
    }
}
