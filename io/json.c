/* json.c: a strict scan of the whole text (RFC 8259), then cJSON builds the tree, then the tree is checked once. */
#include "io/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 (RFC 3629) ---- */

size_t utf8_length(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    if (n == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    size_t k = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || k > n)
        return 0;
    for (size_t i = 1; i < k; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    /* the second byte decides overlong forms, surrogates and what lies above U+10FFFF */
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return k;
}

bool utf8_is_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t k = utf8_length(s + i, n - i);
        if (k == 0 || s[i] == 0)
            return false;
        i += k;
    }
    return true;
}

/* ---- the scan ---- */

struct scan {
    const char *s, *where;
    size_t n, i;
    size_t values;
    int depth;
    struct err *err;
};

static enum status refuse(const struct scan *scan, const char *what)
{
    return err_set(scan->err, ERR_INPUT, "%s: at byte %zu: %s", scan->where, scan->i, what);
}

static int peek(const struct scan *scan)
{
    return scan->i < scan->n ? (unsigned char)scan->s[scan->i] : -1;
}

static void skip_space(struct scan *scan)
{
    int c;
    while ((c = peek(scan)) == ' ' || c == '\t' || c == '\n' || c == '\r')
        scan->i++;
}

/* Four hex digits at i -> *code; i stays in front of them when they are none. */
static bool scan_hex4(struct scan *scan, unsigned *code)
{
    unsigned value = 0;
    if (scan->n - scan->i < 4)
        return false;
    for (size_t k = 0; k < 4; k++) {
        int c = (unsigned char)scan->s[scan->i + k];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return false;
        value = value * 16 + (unsigned)digit;
    }
    scan->i += 4;
    *code = value;
    return true;
}

/* After a backslash. */
static enum status scan_escape(struct scan *scan)
{
    int c = peek(scan);
    if (c < 1 || !strchr("\"\\/bfnrtu", c))
        return refuse(scan, "a string has an escape that JSON does not know");
    scan->i++;
    if (c != 'u')
        return OK;
    unsigned code, low;
    if (!scan_hex4(scan, &code))
        return refuse(scan, "\\u wants four hex digits");
    if (code == 0)
        return refuse(scan, "\\u0000 in a string");
    if (code >= 0xdc00 && code <= 0xdfff)
        return refuse(scan, "a low surrogate without its high one");
    if (code < 0xd800 || code > 0xdbff)
        return OK;
    if (scan->n - scan->i < 6 || scan->s[scan->i] != '\\' || scan->s[scan->i + 1] != 'u')
        return refuse(scan, "a high surrogate without its low one");
    scan->i += 2;
    if (!scan_hex4(scan, &low) || low < 0xdc00 || low > 0xdfff)
        return refuse(scan, "a high surrogate without its low one");
    return OK;
}

static enum status scan_string(struct scan *scan)
{
    scan->i++; /* the opening quote */
    for (;;) {
        int c = peek(scan);
        if (c < 0)
            return refuse(scan, "the text ends inside a string");
        if (c == '"')
            break;
        if (c < 32)
            return refuse(scan, "a control byte in a string");
        if (c == '\\') {
            scan->i++;
            TRY(scan_escape(scan));
            continue;
        }
        size_t k = utf8_length(scan->s + scan->i, scan->n - scan->i);
        if (k == 0)
            return refuse(scan, "not UTF-8");
        scan->i += k;
    }
    scan->i++;
    return OK;
}

/* One or more digits. */
static bool scan_digits(struct scan *scan)
{
    size_t start = scan->i;
    while (peek(scan) >= '0' && peek(scan) <= '9')
        scan->i++;
    return scan->i > start;
}

static enum status scan_number(struct scan *scan)
{
    size_t start = scan->i;
    if (peek(scan) == '-')
        scan->i++;
    if (peek(scan) == '0')
        scan->i++;
    else if (!scan_digits(scan))
        return refuse(scan, "want a JSON value");
    if (peek(scan) == '.') {
        scan->i++;
        if (!scan_digits(scan))
            return refuse(scan, "want a digit after the decimal point");
    }
    if (peek(scan) == 'e' || peek(scan) == 'E') {
        scan->i++;
        if (peek(scan) == '+' || peek(scan) == '-')
            scan->i++;
        if (!scan_digits(scan))
            return refuse(scan, "want a digit in the exponent");
    }
    if (scan->i - start > JSON_MAX_NUMBER) /* cJSON reads the first 63 characters of a number */
        return refuse(scan, "a number of more than 60 characters");
    return OK;
}

static enum status scan_word(struct scan *scan, const char *word)
{
    size_t k = strlen(word);
    if (scan->n - scan->i < k || memcmp(scan->s + scan->i, word, k) != 0)
        return refuse(scan, "want a JSON value");
    scan->i += k;
    return OK;
}

static enum status scan_value(struct scan *scan);

/* The inside of an array or an object, from its bracket to its closing one. */
static enum status scan_items(struct scan *scan, char close)
{
    if (++scan->depth > JSON_MAX_DEPTH)
        return refuse(scan, "nested deeper than 64");
    scan->i++;
    skip_space(scan);
    for (bool first = true; peek(scan) != close || !first; first = false) {
        if (close == '}') {
            skip_space(scan);
            if (peek(scan) != '"')
                return refuse(scan, "want the name of a member");
            TRY(scan_string(scan));
            skip_space(scan);
            if (peek(scan) != ':')
                return refuse(scan, "want ':' after the name of a member");
            scan->i++;
        }
        TRY(scan_value(scan));
        skip_space(scan);
        if (peek(scan) == close)
            break;
        if (peek(scan) != ',')
            return refuse(scan, close == '}' ? "want ',' or '}'" : "want ',' or ']'");
        scan->i++;
    }
    scan->i++;
    scan->depth--;
    return OK;
}

static enum status scan_value(struct scan *scan)
{
    skip_space(scan);
    if (++scan->values > JSON_MAX_VALUES)
        return refuse(scan, "more than 4000000 values");
    switch (peek(scan)) {
    case '{': return scan_items(scan, '}');
    case '[': return scan_items(scan, ']');
    case '"': return scan_string(scan);
    case 't': return scan_word(scan, "true");
    case 'f': return scan_word(scan, "false");
    case 'n': return scan_word(scan, "null");
    case -1: return refuse(scan, "the text ends where a JSON value is wanted");
    default: return scan_number(scan);
    }
}

static enum status scan_text(struct scan *scan)
{
    if (scan->n >= 3 && memcmp(scan->s, "\xef\xbb\xbf", 3) == 0)
        return refuse(scan, "a byte order mark, want plain UTF-8");
    TRY(scan_value(scan));
    skip_space(scan);
    if (scan->i < scan->n)
        return refuse(scan, "something follows the JSON value");
    return OK;
}

/* ---- the tree, checked once ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names are sorted rather than hashed: no choice of names makes it slow. */
static enum status check_names(const cJSON *object, const char *where, struct err *err)
{
    size_t n = 0;
    for (const cJSON *item = object->child; item; item = item->next)
        n++;
    if (n < 2)
        return OK;
    const char *few[16], **name = n <= 16 ? few : malloc(n * sizeof *name);
    if (!name)
        return err_set(err, ERR_MEMORY, "%s: no memory for %zu names", where, n);
    size_t k = 0;
    for (const cJSON *item = object->child; item; item = item->next)
        name[k++] = item->string;
    qsort(name, n, sizeof *name, compare_names);
    enum status status = OK;
    for (k = 1; k < n && status == OK; k++)
        if (strcmp(name[k - 1], name[k]) == 0)
            status = err_set(err, ERR_INPUT, "%s: member \"%.200s\" is there twice", where, name[k]);
    if (name != few)
        free(name);
    return status;
}

static enum status check_tree(const cJSON *value, const char *where, struct err *err)
{
    if (cJSON_IsNumber(value) && !isfinite(value->valuedouble))
        return err_set(err, ERR_INPUT, "%s: a number is too large for a double", where);
    if (cJSON_IsObject(value))
        TRY(check_names(value, where, err));
    for (const cJSON *item = value->child; item; item = item->next)
        TRY(check_tree(item, where, err)); /* at most JSON_MAX_DEPTH deep */
    return OK;
}

enum status json_parse(const char *text, size_t n, const char *where, struct json **root, struct err *err)
{
    *root = NULL;
    struct scan scan = {.s = text, .n = n, .where = where, .err = err};
    TRY(scan_text(&scan));
    cJSON *tree = cJSON_ParseWithLengthOpts(text, n, NULL, false);
    if (!tree) /* the grammar was checked: memory is what is left */
        return err_set(err, ERR_MEMORY, "%s: no memory for %zu JSON values", where, scan.values);
    enum status status = check_tree(tree, where, err);
    if (status != OK) {
        cJSON_Delete(tree);
        return status;
    }
    *root = (struct json *)tree;
    return OK;
}

void json_free(struct json *root)
{
    cJSON_Delete((cJSON *)root);
}

/* ---- looking at values ---- */

static const cJSON *node(const struct json *value)
{
    return (const cJSON *)value;
}

enum json_type json_type(const struct json *value)
{
    switch (node(value)->type & 0xff) {
    case cJSON_True:
    case cJSON_False: return JSON_BOOL;
    case cJSON_Number: return JSON_NUMBER;
    case cJSON_String: return JSON_STRING;
    case cJSON_Array: return JSON_ARRAY;
    case cJSON_Object: return JSON_OBJECT;
    default: return JSON_NULL;
    }
}

const char *json_type_name(enum json_type type)
{
    static const char *const name[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
    return name[type];
}

const struct json *json_member(const struct json *object, const char *key)
{
    if (!object || json_type(object) != JSON_OBJECT)
        return NULL;
    for (const cJSON *item = node(object)->child; item; item = item->next)
        if (strcmp(item->string, key) == 0)
            return (const struct json *)item;
    return NULL;
}

const struct json *json_first(const struct json *value)
{
    return (const struct json *)node(value)->child;
}

const struct json *json_next(const struct json *item)
{
    return (const struct json *)node(item)->next;
}

size_t json_size(const struct json *value)
{
    size_t n = 0;
    for (const struct json *item = json_first(value); item; item = json_next(item))
        n++;
    return n;
}

const struct json *json_at(const struct json *array, size_t i)
{
    const struct json *item = json_first(array);
    while (item && i-- > 0)
        item = json_next(item);
    return item;
}

const char *json_key(const struct json *item)
{
    return node(item)->string;
}

/* ---- values as C types; `key` NULL: the value itself is meant, not a member ---- */

struct place {
    const char *where, *key;
    struct err *err;
};

static enum status mismatch(struct place at, const struct json *value, const char *want)
{
    const char *got = value ? json_type_name(json_type(value)) : "nothing";
    if (!at.key)
        return err_set(at.err, ERR_INPUT, "%s: got %s, want %s", at.where, got, want);
    if (!value)
        return err_set(at.err, ERR_INPUT, "%s.%s: is missing, want %s", at.where, at.key, want);
    return err_set(at.err, ERR_INPUT, "%s.%s: got %s, want %s", at.where, at.key, got, want);
}

static enum status need_type(struct place at, const struct json *value, enum json_type type)
{
    return value && json_type(value) == type ? OK : mismatch(at, value, json_type_name(type));
}

static enum status as_string(struct place at, const struct json *value, const char **out)
{
    TRY(need_type(at, value, JSON_STRING));
    *out = node(value)->valuestring;
    return OK;
}

static enum status as_int(struct place at, const struct json *value, int64_t lo, int64_t hi, int64_t *out)
{
    TRY(need_type(at, value, JSON_NUMBER));
    double x = node(value)->valuedouble;
    if (x >= -(double)JSON_MAX_INT && x <= (double)JSON_MAX_INT && x == trunc(x) && (int64_t)x >= lo && (int64_t)x <= hi) {
        *out = (int64_t)x;
        return OK;
    }
    return err_set(at.err, ERR_INPUT, "%s%s%s: got %.17g, want an integer from %lld to %lld", at.where, at.key ? "." : "",
                   at.key ? at.key : "", x, (long long)lo, (long long)hi);
}

static enum status as_number(struct place at, const struct json *value, double *out)
{
    TRY(need_type(at, value, JSON_NUMBER));
    *out = node(value)->valuedouble;
    return OK;
}

static enum status as_bool(struct place at, const struct json *value, bool *out)
{
    TRY(need_type(at, value, JSON_BOOL));
    *out = cJSON_IsTrue(node(value));
    return OK;
}

enum status json_as_string(const struct json *value, const char *where, const char **out, struct err *err)
{
    return as_string((struct place){where, NULL, err}, value, out);
}

enum status json_as_int(const struct json *value, const char *where, int64_t lo, int64_t hi, int64_t *out, struct err *err)
{
    return as_int((struct place){where, NULL, err}, value, lo, hi, out);
}

enum status json_as_number(const struct json *value, const char *where, double *out, struct err *err)
{
    return as_number((struct place){where, NULL, err}, value, out);
}

enum status json_as_bool(const struct json *value, const char *where, bool *out, struct err *err)
{
    return as_bool((struct place){where, NULL, err}, value, out);
}

enum status json_string(const struct json *object, const char *key, const char *where, const char **out, struct err *err)
{
    return as_string((struct place){where, key, err}, json_member(object, key), out);
}

enum status json_int(const struct json *object, const char *key, const char *where, int64_t lo, int64_t hi, int64_t *out,
                     struct err *err)
{
    return as_int((struct place){where, key, err}, json_member(object, key), lo, hi, out);
}

enum status json_number(const struct json *object, const char *key, const char *where, double *out, struct err *err)
{
    return as_number((struct place){where, key, err}, json_member(object, key), out);
}

enum status json_bool(const struct json *object, const char *key, const char *where, bool *out, struct err *err)
{
    return as_bool((struct place){where, key, err}, json_member(object, key), out);
}

enum status json_array(const struct json *object, const char *key, const char *where, const struct json **out,
                       struct err *err)
{
    *out = json_member(object, key);
    return need_type((struct place){where, key, err}, *out, JSON_ARRAY);
}

enum status json_object(const struct json *object, const char *key, const char *where, const struct json **out,
                        struct err *err)
{
    *out = json_member(object, key);
    return need_type((struct place){where, key, err}, *out, JSON_OBJECT);
}

/* ---- members that may be absent ---- */

static bool given(const struct json *object, const char *key)
{
    const struct json *value = json_member(object, key);
    return value && json_type(value) != JSON_NULL;
}

enum status json_string_or(const struct json *object, const char *key, const char *where, const char *fallback,
                           const char **out, struct err *err)
{
    *out = fallback;
    return given(object, key) ? json_string(object, key, where, out, err) : OK;
}

enum status json_int_or(const struct json *object, const char *key, const char *where, int64_t lo, int64_t hi,
                        int64_t fallback, int64_t *out, struct err *err)
{
    *out = fallback;
    return given(object, key) ? json_int(object, key, where, lo, hi, out, err) : OK;
}

enum status json_number_or(const struct json *object, const char *key, const char *where, double fallback, double *out,
                           struct err *err)
{
    *out = fallback;
    return given(object, key) ? json_number(object, key, where, out, err) : OK;
}

enum status json_bool_or(const struct json *object, const char *key, const char *where, bool fallback, bool *out,
                         struct err *err)
{
    *out = fallback;
    return given(object, key) ? json_bool(object, key, where, out, err) : OK;
}

enum status json_array_or(const struct json *object, const char *key, const char *where, const struct json **out,
                          struct err *err)
{
    *out = NULL;
    return given(object, key) ? json_array(object, key, where, out, err) : OK;
}

enum status json_object_or(const struct json *object, const char *key, const char *where, const struct json **out,
                           struct err *err)
{
    *out = NULL;
    return given(object, key) ? json_object(object, key, where, out, err) : OK;
}
