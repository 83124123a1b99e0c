/* json.h: JSON as RFC 8259 has it and no looser: text from outside is scanned in full before the JSON library sees it.
 *
 * Refused, with the byte: text that is not UTF-8 or starts with a byte order mark, nesting deeper than 64, a member that is there
 * twice, \u0000 and lone surrogates, numbers that are not finite or longer than 60 characters, more than 4 million values,
 * anything after the value.  So a string never holds a NUL, and a member has one meaning.
 * What it is not: a writer (text.h has text_json_string).  The only room that includes cJSON. */
#ifndef VENEER_JSON_H
#define VENEER_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { JSON_MAX_DEPTH = 64, JSON_MAX_NUMBER = 60, JSON_MAX_VALUES = 4000000 };
#define JSON_MAX_INT 9007199254740991 /* 2^53 - 1: above it the double that holds a number is not exact */

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json; /* one value; owned by its root */

/* text[n] -> *root (json_free).  `where` opens each message: a path, or path:line.  ERR_INPUT, ERR_MEMORY. */
enum status json_parse(const char *text, size_t n, const char *where, struct json **root, struct err *err);
void json_free(struct json *root); /* NULL is fine */

enum json_type json_type(const struct json *value);
const char *json_type_name(enum json_type type); /* "a string", "a number" ... */
/* Member of an object by exact name; NULL when absent or when `object` is none. */
const struct json *json_member(const struct json *object, const char *key);
/* Items of an array or an object in the order of the text; `json_at` costs i steps, so walk with first and next. */
size_t json_size(const struct json *value);
const struct json *json_first(const struct json *value);
const struct json *json_next(const struct json *item);
const struct json *json_at(const struct json *array, size_t i); /* NULL when there are not so many */
const char *json_key(const struct json *item);                  /* name of an object's member */

/* A value as a C type.  ERR_INPUT: "WHERE: got a string, want an integer from 1 to 9". */
enum status json_as_string(const struct json *value, const char *where, const char **out, struct err *err);
enum status json_as_int(const struct json *value, const char *where, int64_t lo, int64_t hi, int64_t *out, struct err *err);
enum status json_as_number(const struct json *value, const char *where, double *out, struct err *err);
enum status json_as_bool(const struct json *value, const char *where, bool *out, struct err *err);

/* A member that must be there.  ERR_INPUT: "WHERE.KEY: is missing, want ...", "WHERE.KEY: got ..., want ...". */
enum status json_string(const struct json *object, const char *key, const char *where, const char **out, struct err *err);
enum status json_int(const struct json *object, const char *key, const char *where, int64_t lo, int64_t hi, int64_t *out,
                     struct err *err);
enum status json_number(const struct json *object, const char *key, const char *where, double *out, struct err *err);
enum status json_bool(const struct json *object, const char *key, const char *where, bool *out, struct err *err);
enum status json_array(const struct json *object, const char *key, const char *where, const struct json **out,
                       struct err *err);
enum status json_object(const struct json *object, const char *key, const char *where, const struct json **out,
                        struct err *err);

/* A member that may be absent or null: then `fallback` (NULL for arrays and objects). */
enum status json_string_or(const struct json *object, const char *key, const char *where, const char *fallback,
                           const char **out, struct err *err);
enum status json_int_or(const struct json *object, const char *key, const char *where, int64_t lo, int64_t hi,
                        int64_t fallback, int64_t *out, struct err *err);
enum status json_number_or(const struct json *object, const char *key, const char *where, double fallback, double *out,
                           struct err *err);
enum status json_bool_or(const struct json *object, const char *key, const char *where, bool fallback, bool *out,
                         struct err *err);
enum status json_array_or(const struct json *object, const char *key, const char *where, const struct json **out,
                          struct err *err);
enum status json_object_or(const struct json *object, const char *key, const char *where, const struct json **out,
                           struct err *err);

/* Bytes of the UTF-8 sequence that s[n] starts with (1 to 4); 0 when it is malformed, overlong, a surrogate or n is 0. */
size_t utf8_length(const char *s, size_t n);
/* All of s[n] is UTF-8 and holds no NUL: what a name from a file must be. */
bool utf8_is_name(const char *s, size_t n);

#endif
