/* jinja_methods.c: what is called: methods of strings and dicts as Python has them, Jinja's functions.  string_* serve filters too. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/jinja_private.h"

/* ---- strings ---- */

static bool holds(struct value set, const char *s, size_t n)
{
    for (size_t at = 0; at < set.n;) {
        size_t k = utf8_skip(set.s + at, set.n - at, 1);
        if (k == n && memcmp(set.s + at, s, n) == 0)
            return true;
        at += k;
    }
    return false;
}

enum status string_strip(struct run *r, struct value in, struct value chars, bool left, bool right, struct value *out)
{
    size_t start = 0, end = in.n;
    if (chars.type != VALUE_STRING && chars.type != VALUE_ABSENT && chars.type != VALUE_NONE)
        return run_fail(r, "characters to strip are %s, want a string", value_type_name(chars));
    TRY(run_steps(r, in.n / 64));
    if (chars.type != VALUE_STRING) {
        start = left ? space_before(in.s, in.n) : 0;
        end -= right ? space_behind(in.s + start, in.n - start) : 0;
        *out = value_string(in.s + start, end - start);
        return OK;
    }
    while (left && start < end) {
        size_t k = utf8_skip(in.s + start, end - start, 1);
        if (!holds(chars, in.s + start, k))
            break;
        start += k;
    }
    while (right && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)in.s[last] & 0xC0) == 0x80)
            last--;
        if (!holds(chars, in.s + last, end - last))
            break;
        end = last;
    }
    *out = value_string(in.s + start, end - start);
    return OK;
}

enum status string_case(struct run *r, struct value in, int (*first)(int), int (*rest)(int), bool words, struct value *out)
{
    void *room;
    TRY(run_take(r, in.n + 1, &room));
    char *s = room;
    bool begins = true;
    for (size_t i = 0; i < in.n; i++) {
        if ((unsigned char)in.s[i] >= 0x80)
            return run_fail(r, "upper and lower case of text that is not ASCII are not among what this program knows of Jinja");
        s[i] = (char)(begins ? first : rest)((unsigned char)in.s[i]);
        begins = words && !isalpha((unsigned char)in.s[i]);
    }
    *out = value_string(s, in.n);
    return OK;
}

enum status string_replace(struct run *r, struct value in, struct value old, struct value new, struct value count, struct value *out)
{
    struct text text = {0};
    int64_t left = count.type == VALUE_INT && count.integer >= 0 ? count.integer : INT64_MAX;
    size_t at = 0;
    if (old.type != VALUE_STRING || new.type != VALUE_STRING || old.n == 0)
        return run_fail(r, "replace wants two strings, and the first not empty");
    TRY(run_steps(r, in.n / 64));
    for (; left > 0; left--) {
        const char *found = memmem(in.s + at, in.n - at, old.s, old.n);
        if (!found || text.n > JINJA_MAX_OUTPUT)
            break;
        text_add(&text, in.s + at, (size_t)(found - in.s) - at);
        text_add(&text, new.s, new.n);
        at = (size_t)(found - in.s) + old.n;
    }
    text_add(&text, in.s + at, in.n - at);
    return value_from_text(r, &text, OK, out);
}

enum status string_join(struct run *r, struct value items, struct value between, struct value *out)
{
    struct value list;
    struct text text = {0};
    TRY(value_items(r, items, &list));
    enum status status = OK;
    for (size_t i = 0; status == OK && i < list.list->n; i++) {
        if (i && between.type == VALUE_STRING)
            text_add(&text, between.s, between.n);
        status = value_print(r, list.list->item[i], &text);
    }
    return value_from_text(r, &text, status, out);
}

static enum status method_strip(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return string_strip(r, in, arg[0], true, true, out);
}

static enum status method_lstrip(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return string_strip(r, in, arg[0], true, false, out);
}

static enum status method_rstrip(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return string_strip(r, in, arg[0], false, true, out);
}

/* By white space, which never leaves an empty piece. */
static enum status split_words(struct run *r, struct value in, int64_t most, struct value *out)
{
    for (size_t at = space_before(in.s, in.n); at < in.n; most--) {
        size_t end = at;
        while (end < in.n && (most <= 0 || space_before(in.s + end, in.n - end) == 0))
            end += utf8_skip(in.s + end, in.n - end, 1);
        TRY(value_list_add(r, *out, value_string(in.s + at, end - at)));
        at = end + space_before(in.s + end, in.n - end);
    }
    return OK;
}

static enum status method_split(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    int64_t most = arg[1].type == VALUE_INT && arg[1].integer >= 0 ? arg[1].integer : INT64_MAX;
    size_t at = 0;
    TRY(value_list(r, out));
    TRY(run_steps(r, in.n / 64));
    if (arg[0].type == VALUE_ABSENT || arg[0].type == VALUE_NONE)
        return split_words(r, in, most, out);
    if (arg[0].type != VALUE_STRING || arg[0].n == 0)
        return run_fail(r, "split wants a string that is not empty");
    for (; most > 0; most--) {
        const char *found = memmem(in.s + at, in.n - at, arg[0].s, arg[0].n);
        if (!found)
            break;
        TRY(value_list_add(r, *out, value_string(in.s + at, (size_t)(found - in.s) - at)));
        at = (size_t)(found - in.s) + arg[0].n;
    }
    return value_list_add(r, *out, value_string(in.s + at, in.n - at));
}

static bool matches(struct value in, struct value part, bool end)
{
    return part.type == VALUE_STRING && part.n <= in.n && memcmp(in.s + (end ? in.n - part.n : 0), part.s, part.n) == 0;
}

/* A string, or a tuple of which any will do. */
static enum status at_edge(struct run *r, struct value in, struct value parts, bool end, struct value *out)
{
    *out = jinja_bool(matches(in, parts, end));
    if (parts.type != VALUE_STRING && parts.type != VALUE_LIST)
        return run_fail(r, "startswith and endswith want a string, got %s", value_type_name(parts));
    for (size_t i = 0; parts.type == VALUE_LIST && i < parts.list->n; i++)
        out->boolean = out->boolean || matches(in, parts.list->item[i], end);
    return OK;
}

static enum status method_startswith(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return at_edge(r, in, arg[0], false, out);
}

static enum status method_endswith(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return at_edge(r, in, arg[0], true, out);
}

static enum status method_replace(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return string_replace(r, in, arg[0], arg[1], arg[2], out);
}

static enum status method_upper(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return string_case(r, in, toupper, toupper, false, out);
}

static enum status method_lower(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return string_case(r, in, tolower, tolower, false, out);
}

static enum status method_capitalize(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return string_case(r, in, toupper, tolower, false, out);
}

static enum status method_title(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return string_case(r, in, toupper, tolower, true, out);
}

static enum status method_join(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    return string_join(r, arg[0], in, out);
}

static enum status method_find(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    if (arg[0].type != VALUE_STRING)
        return run_fail(r, "find wants a string, got %s", value_type_name(arg[0]));
    const char *found = memmem(in.s, in.n, arg[0].s, arg[0].n);
    *out = value_int(found ? (int64_t)utf8_count(in.s, (size_t)(found - in.s)) : -1);
    return run_steps(r, in.n / 64);
}

static enum status method_count(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    *out = value_int(0);
    if (arg[0].type != VALUE_STRING || arg[0].n == 0)
        return run_fail(r, "count wants a string that is not empty");
    for (const char *s = in.s, *end = in.s + in.n; (s = memmem(s, (size_t)(end - s), arg[0].s, arg[0].n)); s += arg[0].n)
        out->integer++;
    return run_steps(r, in.n / 64);
}

/* ---- dicts ---- */

enum status value_dict_items(struct run *r, struct value dict, struct value *out)
{
    struct value pair;
    TRY(value_list(r, out));
    for (size_t i = 0; i < dict.dict->n; i++) {
        TRY(value_list(r, &pair));
        pair.list->tuple = true;
        TRY(value_list_add(r, pair, dict.dict->entry[i].key));
        TRY(value_list_add(r, pair, dict.dict->entry[i].value));
        TRY(value_list_add(r, *out, pair));
    }
    return OK;
}

static enum status method_items(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return value_dict_items(r, in, out);
}

static enum status method_keys(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return value_items(r, in, out);
}

static enum status method_values(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    TRY(value_list(r, out));
    for (size_t i = 0; i < in.dict->n; i++)
        TRY(value_list_add(r, *out, in.dict->entry[i].value));
    return OK;
}

static enum status method_get(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    const struct value *found = arg[0].type == VALUE_STRING ? value_dict_get(in.dict, arg[0].s, arg[0].n) : NULL;
    *out = found ? *found : arg[1].type == VALUE_ABSENT ? value_none() : arg[1];
    return run_steps(r, in.dict->n / 8);
}

/* Names of Python's dict that hide a key behind a dot, whether they can be called here or not. */
bool dict_has_method(const char *name)
{
    static const char *const names[] = {"clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

enum status apply_method(struct run *r, const char *name, struct value in, const struct arguments *arguments, struct value *out)
{
    static const struct {
        enum value_type of;
        const char *name, *parameters;
        enum status (*apply)(struct run *r, struct value in, const struct value *arg, struct value *out);
    } methods[] = {{VALUE_STRING, "strip", "chars", method_strip},
                   {VALUE_STRING, "lstrip", "chars", method_lstrip},
                   {VALUE_STRING, "rstrip", "chars", method_rstrip},
                   {VALUE_STRING, "split", "sep maxsplit", method_split},
                   {VALUE_STRING, "startswith", "prefix", method_startswith},
                   {VALUE_STRING, "endswith", "suffix", method_endswith},
                   {VALUE_STRING, "replace", "old new count", method_replace},
                   {VALUE_STRING, "upper", "", method_upper},
                   {VALUE_STRING, "lower", "", method_lower},
                   {VALUE_STRING, "capitalize", "", method_capitalize},
                   {VALUE_STRING, "title", "", method_title},
                   {VALUE_STRING, "join", "iterable", method_join},
                   {VALUE_STRING, "find", "sub", method_find},
                   {VALUE_STRING, "count", "sub", method_count},
                   {VALUE_DICT, "items", "", method_items},
                   {VALUE_DICT, "keys", "", method_keys},
                   {VALUE_DICT, "values", "", method_values},
                   {VALUE_DICT, "get", "key default", method_get}};
    struct value arg[MAX_PARAMETERS];
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (in.type == methods[i].of && strcmp(name, methods[i].name) == 0) {
            TRY(bind_arguments(r, name, arguments, methods[i].parameters, arg));
            return methods[i].apply(r, in, arg, out);
        }
    if (in.type == VALUE_UNDEFINED)
        return run_fail(r, "'%s' is undefined, and its '%s' is called", in.s ? in.s : "a value", name);
    if (in.type == VALUE_STRING || in.type == VALUE_DICT || in.type == VALUE_LOOP)
        return run_lacks(r, in.type == VALUE_STRING ? "the string method " : in.type == VALUE_DICT ? "the dict method " : "loop.", name);
    return run_fail(r, "%s has no method '%s'", value_type_name(in), name);
}

/* ---- functions ---- */

static enum status call_range(struct run *r, const struct arguments *a, struct value *out)
{
    int64_t bound[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3)
        return run_fail(r, "range wants one to three integers");
    for (size_t i = 0; i < a->n; i++) {
        if (a->value[i].type != VALUE_INT || a->name[i])
            return run_fail(r, "range wants one to three integers");
        bound[a->n == 1 ? 1 : i] = a->value[i].integer;
    }
    if (bound[2] == 0)
        return run_fail(r, "range wants a step that is not 0");
    TRY(value_list(r, out));
    for (int64_t i = bound[0]; bound[2] > 0 ? i < bound[1] : i > bound[1];) {
        TRY(run_steps(r, 1));
        TRY(value_list_add(r, *out, value_int(i)));
        if (__builtin_add_overflow(i, bound[2], &i))
            break;
    }
    return OK;
}

static enum status call_dict(struct run *r, const struct arguments *a, struct value *out)
{
    TRY(value_dict(r, out));
    for (size_t i = 0; i < a->n; i++) {
        if (!a->name[i])
            return run_fail(r, "dict and namespace want arguments with names");
        TRY(value_dict_set(r, *out, jinja_string(a->name[i]), a->value[i]));
    }
    return OK;
}

static enum status call_namespace(struct run *r, const struct arguments *a, struct value *out)
{
    TRY(call_dict(r, a, out));
    out->type = VALUE_NAMESPACE;
    return OK;
}

static enum status call_raise(struct run *r, const struct arguments *a, struct value *out)
{
    (void)out;
    bool said = a->n == 1 && a->value[0].type == VALUE_STRING;
    return run_fail(r, "the template refuses this conversation: %.*s", said ? (int)(a->value[0].n < 500 ? a->value[0].n : 500) : 10,
                    said ? a->value[0].s : "no reason ");
}

/* When the template was parsed, as a clock on the wall shows it; SOURCE_DATE_EPOCH (reproducible-builds.org) sets another moment, in UTC. */
static enum status wall_clock(struct run *r, struct tm *tm)
{
    const char *fixed = getenv("SOURCE_DATE_EPOCH");
    char *end;
    if (!fixed || !*fixed)
        return localtime_r(&r->template->parsed, tm) ? OK : run_fail(r, "strftime_now: the clock shows no date");
    long long seconds = strtoll(fixed, &end, 10);
    time_t moment = (time_t)seconds;
    if (*end || seconds < 0 || !gmtime_r(&moment, tm))
        return run_fail(r, "strftime_now: SOURCE_DATE_EPOCH = '%.40s', want the seconds since 1970", fixed);
    return OK;
}

/* Python's own directives of a time without a zone: microseconds, which are 0 here, and nothing. */
static size_t python_directive(const char *s, size_t n, const char **is)
{
    static const char *const own[][2] = {{"%f", "000000"}, {"%z", ""}, {"%Z", ""}, {"%:z", ""}, {"%%", "%%"}};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        size_t k = strlen(own[i][0]);
        if (k <= n && memcmp(s, own[i][0], k) == 0) {
            *is = own[i][1];
            return k;
        }
    }
    return 0;
}

/* datetime.now().strftime(format) */
static enum status call_strftime_now(struct run *r, const struct arguments *a, struct value *out)
{
    enum { GROWTH = 256 /* of a format's character at most, as in Python */ };
    struct value format[MAX_PARAMETERS];
    struct tm tm;
    void *pattern, *room;
    TRY(bind_arguments(r, "strftime_now", a, "format", format));
    if (format->type != VALUE_STRING || memchr(format->s, 0, format->n))
        return run_fail(r, "strftime_now wants a format such as '%%d %%b %%Y'");
    TRY(wall_clock(r, &tm));
    TRY(run_take(r, 3 * format->n + 2, &pattern)); /* %f becomes three times as long */
    TRY(run_take(r, GROWTH * (format->n + 1), &room));
    char *to = pattern;
    for (size_t i = 0, k; i < format->n; i += k) {
        const char *is;
        k = python_directive(format->s + i, format->n - i, &is);
        to = k ? stpcpy(to, is) : (*to = format->s[i], to + 1);
        k += k == 0;
    }
    *to = '.'; /* a text is never empty, so that 0 says that there is too much of it */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the template's own; strftime reads nothing but tm by it */
    size_t n = strftime(room, GROWTH * (format->n + 1), pattern, &tm);
#pragma GCC diagnostic pop
    if (n == 0)
        return run_fail(r, "strftime_now: more than %d bytes for each character of the format", GROWTH);
    *out = value_string(room, n - 1);
    return OK;
}

static const struct {
    const char *name;
    enum status (*call)(struct run *r, const struct arguments *a, struct value *out);
} functions[] = {{"range", call_range}, {"dict", call_dict}, {"namespace", call_namespace}, {"raise_exception", call_raise}, {"strftime_now", call_strftime_now}};

const char *jinja_function(const char *name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(name, functions[i].name) == 0)
            return functions[i].name;
    return NULL;
}

enum status apply_function(struct run *r, const char *name, const struct arguments *arguments, struct value *out)
{
    size_t i = 0;
    while (strcmp(name, functions[i].name) != 0)
        i++;
    return functions[i].call(r, arguments, out);
}
