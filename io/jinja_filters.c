/* jinja_filters.c: | filters and `is` tests, each a row of a table. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/jinja_private.h"

/* ---- tests ---- */

static bool is_kind(enum value_type type, const char *kind)
{
    static const struct {
        const char *kind;
        unsigned types;
    } kinds[] = {{"none", 1u << VALUE_NONE},
                 {"undefined", 1u << VALUE_UNDEFINED},
                 {"boolean", 1u << VALUE_BOOL},
                 {"integer", 1u << VALUE_INT},
                 {"float", 1u << VALUE_FLOAT},
                 {"number", 1u << VALUE_BOOL | 1u << VALUE_INT | 1u << VALUE_FLOAT},
                 {"string", 1u << VALUE_STRING},
                 {"mapping", 1u << VALUE_DICT},
                 {"iterable", 1u << VALUE_STRING | 1u << VALUE_LIST | 1u << VALUE_DICT | 1u << VALUE_UNDEFINED | 1u << VALUE_LOOP},
                 {"sequence", 1u << VALUE_STRING | 1u << VALUE_LIST | 1u << VALUE_DICT | 1u << VALUE_UNDEFINED | 1u << VALUE_LOOP},
                 {"callable", 1u << VALUE_MACRO | 1u << VALUE_FUNCTION | 1u << VALUE_LOOP}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kind, kinds[i].kind) == 0)
            return kinds[i].types >> type & 1;
    return false;
}

static enum status test_kind(struct run *r, const char *name, struct value in, struct value other, bool *out)
{
    (void)r, (void)other;
    *out = strcmp(name, "defined") == 0 ? in.type != VALUE_UNDEFINED : is_kind(in.type, name);
    return OK;
}

static enum status test_boolean(struct run *r, const char *name, struct value in, struct value other, bool *out)
{
    (void)r, (void)other;
    *out = in.type == VALUE_BOOL && in.boolean == (strcmp(name, "true") == 0);
    return OK;
}

static enum status test_order(struct run *r, const char *name, struct value in, struct value other, bool *out)
{
    bool swapped = name[0] == 'g' ? name[1] != 'e' : name[1] == 'e', negated = name[0] == 'n' || name[1] == 'e';
    if (*name == 'e' || *name == '=' || *name == 'n') { /* eq, equalto, ==, ne */
        TRY(value_equal(r, in, other, out));
        *out = *out != (*name == 'n');
        return OK;
    }
    TRY(swapped ? value_less(r, other, in, out) : value_less(r, in, other, out));
    *out = *out != negated;
    return OK;
}

static enum status test_in(struct run *r, const char *name, struct value in, struct value other, bool *out)
{
    (void)name;
    return value_contains(r, other, in, out);
}

static enum status test_divisible(struct run *r, const char *name, struct value in, struct value other, bool *out)
{
    struct value by = other.type == VALUE_ABSENT ? value_int(2) : other;
    if (in.type != VALUE_INT || by.type != VALUE_INT || by.integer == 0)
        return run_fail(r, "%s wants integers, and none that divides by 0", name);
    *out = (by.integer == -1 || in.integer % by.integer == 0) != (strcmp(name, "odd") == 0);
    return OK;
}

enum status apply_test(struct run *r, const char *name, struct value in, const struct arguments *arguments, bool *out)
{
    static const struct {
        const char *name;
        enum status (*apply)(struct run *r, const char *name, struct value in, struct value other, bool *out);
        bool other;
    } tests[] = {{"defined", test_kind, false},      {"undefined", test_kind, false}, {"none", test_kind, false},     {"boolean", test_kind, false},
                 {"integer", test_kind, false},      {"float", test_kind, false},     {"number", test_kind, false},   {"string", test_kind, false},
                 {"mapping", test_kind, false},      {"iterable", test_kind, false},  {"sequence", test_kind, false}, {"callable", test_kind, false},
                 {"true", test_boolean, false},      {"false", test_boolean, false},  {"odd", test_divisible, false}, {"even", test_divisible, false},
                 {"divisibleby", test_divisible, true}, {"in", test_in, true},        {"eq", test_order, true},       {"equalto", test_order, true},
                 {"==", test_order, true},           {"ne", test_order, true},        {"lt", test_order, true},       {"le", test_order, true},
                 {"gt", test_order, true},           {"ge", test_order, true}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strcmp(name, tests[i].name) == 0) {
            if (arguments->n != tests[i].other)
                return run_fail(r, "the test '%s' has %zu arguments, want %d", name, arguments->n, tests[i].other);
            return tests[i].apply(r, name, in, arguments->value[0], out);
        }
    return run_lacks(r, "the test ", name);
}

/* ---- filters of strings ---- */

static enum status filter_trim(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    TRY(value_to_string(r, in, &in));
    return string_strip(r, in, arg[0], true, true, out);
}

static enum status filter_upper(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    TRY(value_to_string(r, in, &in));
    return string_case(r, in, toupper, toupper, false, out);
}

static enum status filter_lower(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    TRY(value_to_string(r, in, &in));
    return string_case(r, in, tolower, tolower, false, out);
}

static enum status filter_capitalize(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    TRY(value_to_string(r, in, &in));
    return string_case(r, in, toupper, tolower, false, out);
}

static enum status filter_replace(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    TRY(value_to_string(r, in, &in));
    return string_replace(r, in, arg[0], arg[1], arg[2], out);
}

static enum status filter_string(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return value_to_string(r, in, out);
}

/* Lines after the first that are not empty move to the right. */
static enum status filter_indent(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    struct text text = {0};
    int64_t width = arg[0].type == VALUE_INT && arg[0].integer >= 0 && arg[0].integer < 256 ? arg[0].integer : 4;
    bool first = value_true(arg[1]), blank = value_true(arg[2]);
    TRY(value_to_string(r, in, &in));
    TRY(run_steps(r, in.n / 8));
    for (size_t at = 0; at < in.n;) {
        const char *end = memchr(in.s + at, '\n', in.n - at);
        size_t n = end ? (size_t)(end + 1 - in.s) - at : in.n - at;
        bool moves = at == 0 ? first : blank || in.s[at] != '\n';
        for (int64_t i = 0; moves && i < width; i++)
            text_puts(&text, " ");
        text_add(&text, in.s + at, n);
        at += n;
    }
    return value_from_text(r, &text, OK, out);
}

static enum status filter_int(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    char digits[32];
    char *end;
    *out = arg[0].type == VALUE_ABSENT ? value_int(0) : arg[0];
    if (value_is_number(in) && (in.type != VALUE_FLOAT || (in.number > -9e18 && in.number < 9e18)))
        *out = value_int(in.type == VALUE_FLOAT ? (int64_t)in.number : in.type == VALUE_BOOL ? in.boolean : in.integer);
    if (in.type != VALUE_STRING)
        return OK;
    TRY(string_strip(r, in, (struct value){0}, true, true, &in));
    if (in.n == 0 || in.n >= sizeof digits)
        return OK;
    memcpy(digits, in.s, in.n);
    digits[in.n] = 0;
    errno = 0;
    int64_t number = strtoll(digits, &end, 10);
    double fraction = *end ? strtod(digits, &end) : 0; /* "3.7" is 3 */
    if (*end == 0 && errno == 0 && fraction > -9e18 && fraction < 9e18)
        *out = value_int(fraction != 0 ? (int64_t)fraction : number);
    return OK;
}

/* ---- filters of any value ---- */

static enum status filter_length(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    size_t n;
    (void)arg;
    TRY(value_length(r, in, &n));
    *out = value_int((int64_t)n);
    return OK;
}

static enum status filter_default(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)r;
    bool replaced = in.type == VALUE_UNDEFINED || (value_true(arg[1]) && !value_true(in));
    *out = !replaced ? in : arg[0].type == VALUE_ABSENT ? value_string("", 0) : arg[0];
    return OK;
}

/* As transformers replaces Jinja's own: Python's json.dumps, nothing escaped for HTML. */
static enum status filter_tojson(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    struct text text = {0};
    struct json_style style = {.indent = -1};
    if (arg[1].type == VALUE_INT && arg[1].integer >= 0 && arg[1].integer <= 64)
        style.indent = arg[1].integer;
    else if (arg[1].type != VALUE_ABSENT && arg[1].type != VALUE_NONE)
        return run_fail(r, "the indent of tojson is %s, want an integer from 0 to 64", value_type_name(arg[1]));
    style.ascii = value_true(arg[0]);
    if (arg[2].type == VALUE_LIST && arg[2].list->n == 2) {
        style.between = arg[2].list->item[0];
        style.colon = arg[2].list->item[1];
    }
    if (value_true(arg[3]))
        return run_lacks(r, "tojson with ", "sort_keys");
    enum status status = value_to_json(r, in, &style, 0, &text);
    return value_from_text(r, &text, status, out);
}

static enum status filter_safe(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)r, (void)arg;
    *out = in; /* nothing is escaped */
    return OK;
}

/* ---- filters of lists ---- */

/* "a.b" of an item: dots lead on. */
static enum status dotted(struct run *r, struct value in, struct value path, struct value *out)
{
    *out = in;
    if (path.type != VALUE_STRING)
        return value_item(r, in, path, out);
    for (size_t at = 0; at <= path.n;) {
        const char *dot = memchr(path.s + at, '.', path.n - at);
        size_t n = dot ? (size_t)(dot - path.s) - at : path.n - at;
        TRY(value_item(r, *out, value_string(path.s + at, n), out));
        at += n + 1;
    }
    return OK;
}

static enum status filter_join(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    struct value items, picked, one;
    if (arg[1].type == VALUE_ABSENT)
        return string_join(r, in, arg[0], out);
    TRY(value_items(r, in, &items));
    TRY(value_list(r, &picked));
    for (size_t i = 0; i < items.list->n; i++) {
        TRY(dotted(r, items.list->item[i], arg[1], &one));
        TRY(value_list_add(r, picked, one));
    }
    return string_join(r, picked, arg[0], out);
}

static enum status filter_first(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    struct value items;
    (void)arg;
    TRY(value_items(r, in, &items));
    *out = items.list->n ? items.list->item[0] : value_undefined("the first item of nothing");
    return OK;
}

static enum status filter_last(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    struct value items;
    (void)arg;
    TRY(value_items(r, in, &items));
    *out = items.list->n ? items.list->item[items.list->n - 1] : value_undefined("the last item of nothing");
    return OK;
}

static enum status filter_list(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    TRY(value_items(r, in, out));
    if (!out->list->tuple)
        return OK;
    TRY(value_slice(r, *out, (struct value){0}, (struct value){0}, (struct value){0}, out));
    out->list->tuple = false;
    return OK;
}

static enum status filter_reverse(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    return value_slice(r, in, (struct value){0}, (struct value){0}, value_int(-1), out);
}

static enum status filter_items(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    (void)arg;
    if (in.type == VALUE_UNDEFINED)
        return value_list(r, out);
    if (in.type != VALUE_DICT)
        return run_fail(r, "items of %s, want a dict", value_type_name(in));
    return value_dict_items(r, in, out);
}

/* Whether key a stands behind key b; equal ones stay in their order. */
static bool behind(struct value a, struct value b, bool cased)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = cased ? memcmp(a.s, b.s, n) : strncasecmp(a.s, b.s, n);
    return order > 0 || (order == 0 && a.n > b.n);
}

/* Pairs in the order of their keys, upper and lower case of ASCII alike unless the first argument says otherwise. */
static enum status filter_dictsort(struct run *r, struct value in, const struct value *arg, struct value *out)
{
    if (in.type != VALUE_DICT)
        return run_fail(r, "dictsort of %s, want a dict", value_type_name(in));
    if ((arg[1].type != VALUE_ABSENT && !value_is(arg[1], "key")) || value_true(arg[2]))
        return run_lacks(r, "dictsort by another order than ", "that of keys");
    TRY(value_dict_items(r, in, out));
    struct value *pair = out->list->item;
    for (size_t i = 1; i < out->list->n; i++) {
        size_t k = i;
        struct value moved = pair[i];
        for (; k > 0 && behind(pair[k - 1].list->item[0], moved.list->item[0], value_true(arg[0])); k--)
            pair[k] = pair[k - 1];
        pair[k] = moved;
        TRY(run_steps(r, i - k));
    }
    return OK;
}

static enum status filter_map(struct run *r, struct value in, const struct arguments *arguments, struct value *out)
{
    struct value items, one, arg[MAX_PARAMETERS];
    static const struct arguments none = {0};
    char name[64] = "";
    TRY(bind_arguments(r, "map", arguments, "filter attribute default", arg));
    if (arg[0].type == VALUE_STRING && arg[0].n < sizeof name)
        memcpy(name, arg[0].s, arg[0].n);
    if (!*name && arg[1].type == VALUE_ABSENT)
        return run_fail(r, "map wants a filter or attribute=");
    TRY(value_items(r, in, &items));
    TRY(value_list(r, out));
    for (size_t i = 0; i < items.list->n; i++) {
        TRY(*name ? apply_filter(r, name, items.list->item[i], &none, &one) : dotted(r, items.list->item[i], arg[1], &one));
        TRY(value_list_add(r, *out, one.type == VALUE_UNDEFINED && arg[2].type != VALUE_ABSENT ? arg[2] : one));
    }
    return OK;
}

/* select, reject: a test of each item; selectattr, rejectattr: of an attribute of each.  Without a test: whether it is true. */
static enum status filter_select(struct run *r, const char *name, struct value in, const struct arguments *arguments, struct value *out)
{
    bool attribute = strstr(name, "attr") != NULL, keep = *name == 's', holds;
    struct value items, one, arg[MAX_PARAMETERS];
    char test[64] = "";
    TRY(bind_arguments(r, name, arguments, attribute ? "attribute test value" : "test value", arg));
    const struct value *asked = arg + attribute;
    struct arguments other = {.value = {asked[1]}, .n = asked[1].type != VALUE_ABSENT};
    if (asked->type == VALUE_STRING && asked->n < sizeof test)
        memcpy(test, asked->s, asked->n);
    TRY(value_items(r, in, &items));
    TRY(value_list(r, out));
    for (size_t i = 0; i < items.list->n; i++) {
        one = items.list->item[i];
        if (attribute)
            TRY(dotted(r, one, arg[0], &one));
        holds = value_true(one);
        if (*test)
            TRY(apply_test(r, test, one, &other, &holds));
        if (holds == keep)
            TRY(value_list_add(r, *out, items.list->item[i]));
    }
    return OK;
}

enum status apply_filter(struct run *r, const char *name, struct value in, const struct arguments *arguments, struct value *out)
{
    static const struct {
        const char *name, *parameters;
        enum status (*apply)(struct run *r, struct value in, const struct value *arg, struct value *out);
    } filters[] = {{"trim", "chars", filter_trim},
                   {"upper", "", filter_upper},
                   {"lower", "", filter_lower},
                   {"capitalize", "", filter_capitalize},
                   {"replace", "old new count", filter_replace},
                   {"string", "", filter_string},
                   {"indent", "width first blank", filter_indent},
                   {"int", "default", filter_int},
                   {"length", "", filter_length},
                   {"count", "", filter_length},
                   {"default", "default_value boolean", filter_default},
                   {"d", "default_value boolean", filter_default},
                   {"tojson", "ensure_ascii indent separators sort_keys", filter_tojson},
                   {"safe", "", filter_safe},
                   {"join", "d attribute", filter_join},
                   {"first", "", filter_first},
                   {"last", "", filter_last},
                   {"list", "", filter_list},
                   {"reverse", "", filter_reverse},
                   {"items", "", filter_items},
                   {"dictsort", "case_sensitive by reverse", filter_dictsort}};
    struct value arg[MAX_PARAMETERS];
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strcmp(name, filters[i].name) == 0) {
            TRY(bind_arguments(r, name, arguments, filters[i].parameters, arg));
            return filters[i].apply(r, in, arg, out);
        }
    if (strcmp(name, "map") == 0)
        return filter_map(r, in, arguments, out);
    if (strcmp(name, "select") == 0 || strcmp(name, "reject") == 0 || strcmp(name, "selectattr") == 0 || strcmp(name, "rejectattr") == 0)
        return filter_select(r, name, in, arguments, out);
    return run_lacks(r, "the filter ", name);
}
