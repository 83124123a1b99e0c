/* jinja_value.c: what a template computes with: lists, dicts, comparison, items, slices.  As Python has them, strings in characters. */
#include <string.h>

#include "io/jinja_private.h"

struct value value_string(const char *s, size_t n)
{
    return (struct value){.type = VALUE_STRING, .s = s, .n = n};
}

struct value value_int(int64_t integer)
{
    return (struct value){.type = VALUE_INT, .integer = integer};
}

struct value value_none(void)
{
    return (struct value){.type = VALUE_NONE};
}

struct value value_undefined(const char *name)
{
    return (struct value){.type = VALUE_UNDEFINED, .s = name};
}

struct value jinja_bool(bool boolean)
{
    return (struct value){.type = VALUE_BOOL, .boolean = boolean};
}

struct value jinja_string(const char *s)
{
    return value_string(s, strlen(s));
}

bool value_is(struct value v, const char *s)
{
    return v.type == VALUE_STRING && v.n == strlen(s) && memcmp(v.s, s, v.n) == 0;
}

bool value_is_number(struct value v)
{
    return v.type == VALUE_BOOL || v.type == VALUE_INT || v.type == VALUE_FLOAT;
}

double value_number(struct value v)
{
    return v.type == VALUE_FLOAT ? v.number : v.type == VALUE_BOOL ? (double)v.boolean : (double)v.integer;
}

bool value_true(struct value v)
{
    switch (v.type) {
    case VALUE_BOOL:
        return v.boolean;
    case VALUE_INT:
        return v.integer != 0;
    case VALUE_FLOAT:
        return v.number != 0;
    case VALUE_STRING:
        return v.n > 0;
    case VALUE_LIST:
        return v.list->n > 0;
    case VALUE_DICT:
        return v.dict->n > 0;
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    default:
        return true;
    }
}

const char *value_type_name(struct value v)
{
    static const char *const names[] = {"nothing", "an undefined value", "none",        "a boolean", "an integer", "a float", "a string",
                                        "a list",  "a dict",             "a namespace", "a macro",   "a function", "a loop"};
    return names[v.type];
}

/* ---- lists and dicts: grown by doubling, the smaller ones stay behind in the arena ---- */

static enum status grow(struct run *r, void **items, size_t n, size_t *cap, size_t item_bytes)
{
    void *grown;
    if (n < *cap)
        return OK;
    size_t most = *cap ? 2 * *cap : 4;
    TRY(run_take(r, most * item_bytes, &grown));
    if (n)
        memcpy(grown, *items, n * item_bytes);
    *items = grown;
    *cap = most;
    return OK;
}

enum status value_list(struct run *r, struct value *out)
{
    void *list;
    TRY(run_take(r, sizeof *out->list, &list));
    *out = (struct value){.type = VALUE_LIST, .list = list};
    return OK;
}

enum status value_list_add(struct run *r, struct value list, struct value item)
{
    void *items = list.list->item;
    TRY(grow(r, &items, list.list->n, &list.list->cap, sizeof item));
    list.list->item = items;
    list.list->item[list.list->n++] = item;
    return OK;
}

enum status value_dict(struct run *r, struct value *out)
{
    void *dict;
    TRY(run_take(r, sizeof *out->dict, &dict));
    *out = (struct value){.type = VALUE_DICT, .dict = dict};
    return OK;
}

const struct value *value_dict_get(const struct dict *dict, const char *key, size_t n)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->entry[i].key.n == n && memcmp(dict->entry[i].key.s, key, n) == 0)
            return &dict->entry[i].value;
    return NULL;
}

enum status value_dict_set(struct run *r, struct value dict, struct value key, struct value item)
{
    struct dict *d = dict.dict;
    if (key.type != VALUE_STRING)
        return run_fail(r, "a key of a dict is %s, want a string", value_type_name(key));
    TRY(run_steps(r, d->n / 8));
    for (size_t i = 0; i < d->n; i++)
        if (d->entry[i].key.n == key.n && memcmp(d->entry[i].key.s, key.s, key.n) == 0) {
            d->entry[i].value = item;
            return OK;
        }
    void *entries = d->entry;
    TRY(grow(r, &entries, d->n, &d->cap, sizeof *d->entry));
    d->entry = entries;
    d->entry[d->n++] = (struct entry){.key = key, .value = item};
    return OK;
}

/* ---- comparison ---- */

static enum status lists_equal(struct run *r, const struct list *a, const struct list *b, bool *equal)
{
    *equal = a->n == b->n && a->tuple == b->tuple;
    for (size_t i = 0; *equal && i < a->n; i++)
        TRY(value_equal(r, a->item[i], b->item[i], equal));
    return OK;
}

static enum status dicts_equal(struct run *r, const struct dict *a, const struct dict *b, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        const struct value *other = value_dict_get(b, a->entry[i].key.s, a->entry[i].key.n);
        *equal = other != NULL;
        if (other)
            TRY(value_equal(r, a->entry[i].value, *other, equal));
    }
    return OK;
}

enum status value_equal(struct run *r, struct value a, struct value b, bool *equal)
{
    TRY(run_steps(r, 1));
    if (value_is_number(a) && value_is_number(b)) {
        bool whole = a.type != VALUE_FLOAT && b.type != VALUE_FLOAT;
        int64_t x = a.type == VALUE_BOOL ? a.boolean : a.integer, y = b.type == VALUE_BOOL ? b.boolean : b.integer;
        *equal = whole ? x == y : value_number(a) == value_number(b);
        return OK;
    }
    *equal = a.type == b.type;
    if (!*equal || a.type == VALUE_NONE || a.type == VALUE_UNDEFINED)
        return OK;
    switch (a.type) {
    case VALUE_STRING:
        *equal = a.n == b.n && memcmp(a.s, b.s, a.n) == 0;
        return run_steps(r, a.n / 64);
    case VALUE_LIST:
    case VALUE_DICT:
        TRY(run_enter(r));
        TRY(a.type == VALUE_LIST ? lists_equal(r, a.list, b.list, equal) : dicts_equal(r, a.dict, b.dict, equal));
        r->depth--;
        return OK;
    default:
        *equal = a.s == b.s; /* the same thing */
        return OK;
    }
}

enum status value_less(struct run *r, struct value a, struct value b, bool *less)
{
    if (value_is_number(a) && value_is_number(b)) {
        *less = a.type == VALUE_INT && b.type == VALUE_INT ? a.integer < b.integer : value_number(a) < value_number(b);
        return OK;
    }
    if (a.type == VALUE_STRING && b.type == VALUE_STRING) { /* the bytes of UTF-8 are in the order of its characters */
        int order = memcmp(a.s, b.s, a.n < b.n ? a.n : b.n);
        *less = order < 0 || (order == 0 && a.n < b.n);
        return run_steps(r, a.n / 64);
    }
    return run_fail(r, "%s and %s have no order", value_type_name(a), value_type_name(b));
}

enum status value_contains(struct run *r, struct value container, struct value item, bool *contains)
{
    *contains = false;
    switch (container.type) {
    case VALUE_UNDEFINED:
        return OK;
    case VALUE_STRING:
        if (item.type != VALUE_STRING)
            return run_fail(r, "'in' asks for %s in a string", value_type_name(item));
        *contains = memmem(container.s, container.n, item.s, item.n) != NULL;
        return run_steps(r, container.n / 64);
    case VALUE_LIST:
        for (size_t i = 0; !*contains && i < container.list->n; i++)
            TRY(value_equal(r, container.list->item[i], item, contains));
        return OK;
    case VALUE_DICT:
        *contains = item.type == VALUE_STRING && value_dict_get(container.dict, item.s, item.n);
        return OK;
    default:
        return run_fail(r, "'in' looks into %s", value_type_name(container));
    }
}

/* ---- what a value is made of ---- */

static enum status characters(struct run *r, struct value v, struct value list)
{
    for (size_t at = 0; at < v.n;) {
        size_t k = utf8_skip(v.s + at, v.n - at, 1);
        TRY(value_list_add(r, list, value_string(v.s + at, k)));
        at += k;
    }
    return OK;
}

enum status value_items(struct run *r, struct value v, struct value *list)
{
    *list = v;
    if (v.type == VALUE_LIST)
        return OK;
    if (v.type != VALUE_UNDEFINED && v.type != VALUE_STRING && v.type != VALUE_DICT)
        return run_fail(r, "%s has no items to walk over", value_type_name(v));
    TRY(value_list(r, list));
    for (size_t i = 0; v.type == VALUE_DICT && i < v.dict->n; i++)
        TRY(value_list_add(r, *list, v.dict->entry[i].key));
    return v.type == VALUE_STRING ? characters(r, v, *list) : OK;
}

enum status value_length(struct run *r, struct value v, size_t *n)
{
    *n = v.type == VALUE_STRING ? utf8_count(v.s, v.n) : v.type == VALUE_LIST ? v.list->n : v.type == VALUE_DICT ? v.dict->n : 0;
    if (v.type == VALUE_STRING)
        return run_steps(r, v.n / 64);
    if (v.type != VALUE_LIST && v.type != VALUE_DICT && v.type != VALUE_UNDEFINED)
        return run_fail(r, "%s has no length", value_type_name(v));
    return OK;
}

static enum status loop_attribute(struct run *r, const struct loop *loop, const char *name, struct value *out)
{
    const size_t i = loop->index0, n = loop->items->n;
    const struct {
        const char *name;
        struct value value;
    } attributes[] = {{"index0", value_int((int64_t)i)},
                      {"index", value_int((int64_t)i + 1)},
                      {"first", jinja_bool(i == 0)},
                      {"last", jinja_bool(i + 1 == n)},
                      {"length", value_int((int64_t)n)},
                      {"revindex", value_int((int64_t)(n - i))},
                      {"revindex0", value_int((int64_t)(n - i) - 1)},
                      {"depth", value_int(1)}, /* of loops that do not call themselves */
                      {"depth0", value_int(0)},
                      {"previtem", i > 0 ? loop->items->item[i - 1] : value_undefined("loop.previtem")},
                      {"nextitem", i + 1 < n ? loop->items->item[i + 1] : value_undefined("loop.nextitem")}};
    for (size_t k = 0; k < sizeof attributes / sizeof *attributes; k++)
        if (strcmp(name, attributes[k].name) == 0) {
            *out = attributes[k].value;
            return OK;
        }
    return run_lacks(r, "loop.", name);
}

enum status value_attribute(struct run *r, struct value v, const char *name, struct value *out)
{
    *out = value_undefined(name);
    if (v.type == VALUE_UNDEFINED)
        return run_fail(r, "'%s' is undefined, and its '%s' is asked for", v.s ? v.s : "a value", name);
    if (v.type == VALUE_LOOP)
        return loop_attribute(r, v.loop, name, out);
    if (v.type == VALUE_DICT && dict_has_method(name))
        return run_lacks(r, "the method without a call .", name);
    if (v.type == VALUE_DICT || v.type == VALUE_NAMESPACE) {
        const struct value *found = value_dict_get(v.dict, name, strlen(name));
        *out = found ? *found : *out;
        return run_steps(r, v.dict->n / 8);
    }
    return OK;
}

/* An index from the front, or from behind when it is negative. */
static bool place(int64_t index, size_t n, size_t *at)
{
    index += index < 0 ? (int64_t)n : 0;
    *at = (size_t)index;
    return index >= 0 && (uint64_t)index < n;
}

enum status value_item(struct run *r, struct value v, struct value key, struct value *out)
{
    size_t at, n;
    *out = value_undefined(key.type == VALUE_STRING ? NULL : "an item");
    if (v.type == VALUE_UNDEFINED)
        return run_fail(r, "'%s' is undefined, and an item of it is asked for", v.s ? v.s : "a value");
    if ((v.type == VALUE_DICT || v.type == VALUE_NAMESPACE) && key.type == VALUE_STRING) {
        const struct value *found = value_dict_get(v.dict, key.s, key.n);
        *out = found ? *found : *out;
        return run_steps(r, v.dict->n / 8);
    }
    if (key.type != VALUE_INT)
        return OK;
    if (v.type == VALUE_LIST && place(key.integer, v.list->n, &at))
        *out = v.list->item[at];
    if (v.type != VALUE_STRING)
        return OK;
    TRY(value_length(r, v, &n));
    if (place(key.integer, n, &at)) {
        size_t start = utf8_skip(v.s, v.n, at);
        *out = value_string(v.s + start, utf8_skip(v.s + start, v.n - start, 1));
    }
    return OK;
}

/* Python's slice.indices: a bound between 0 and n, or n - 1 and -1 where steps go back. */
static enum status bound(struct run *r, struct value v, int64_t n, bool back, bool is_start, int64_t *out)
{
    int64_t low = back ? -1 : 0, high = back ? n - 1 : n;
    *out = is_start != back ? low : high;
    if (v.type == VALUE_ABSENT || v.type == VALUE_NONE)
        return OK;
    if (v.type != VALUE_INT)
        return run_fail(r, "a bound of a slice is %s, want an integer", value_type_name(v));
    int64_t at = v.integer < -n ? -1 - n : v.integer > n ? n : v.integer;
    at += at < 0 ? n : 0;
    *out = at < low ? low : at > high ? high : at;
    return OK;
}

static enum status pick(struct run *r, struct value list, int64_t start, int64_t stop, int64_t step, struct value *out)
{
    TRY(value_list(r, out));
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
        TRY(value_list_add(r, *out, list.list->item[i]));
    return OK;
}

enum status value_slice(struct run *r, struct value v, struct value start, struct value stop, struct value step, struct value *out)
{
    size_t length;
    int64_t first, last, stride = step.type == VALUE_INT ? step.integer : 1;
    struct value list, picked;
    struct text text = {0};
    if (v.type != VALUE_LIST && v.type != VALUE_STRING)
        return run_fail(r, "a slice of %s, want a list or a string", value_type_name(v));
    TRY(value_length(r, v, &length));
    const int64_t n = (int64_t)length;
    if (stride == 0 || (step.type != VALUE_INT && step.type != VALUE_NONE && step.type != VALUE_ABSENT))
        return run_fail(r, "the step of a slice is %s, want an integer that is not 0", stride == 0 ? "0" : value_type_name(step));
    stride = stride > n + 1 ? n + 1 : stride < -n - 1 ? -n - 1 : stride;
    TRY(bound(r, start, n, stride < 0, true, &first));
    TRY(bound(r, stop, n, stride < 0, false, &last));
    if (v.type == VALUE_STRING && stride == 1) {
        size_t from = utf8_skip(v.s, v.n, (size_t)first), more = first < last ? (size_t)(last - first) : 0;
        *out = value_string(v.s + from, utf8_skip(v.s + from, v.n - from, more));
        return OK;
    }
    TRY(value_items(r, v, &list));
    TRY(pick(r, list, first, last, stride, &picked));
    *out = picked;
    picked.list->tuple = list.list->tuple;
    if (v.type == VALUE_LIST)
        return OK;
    for (size_t i = 0; i < picked.list->n; i++)
        text_add(&text, picked.list->item[i].s, picked.list->item[i].n);
    return value_from_text(r, &text, OK, out);
}
