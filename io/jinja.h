/* jinja.h: a template language, as much of it as chat templates use: text and variables -> text.
 *
 * The language is Jinja's (jinja.palletsprojects.com) in the setting that transformers renders chat templates in: trim_blocks and lstrip_blocks, no
 * escaping, break and continue, {% generation %}, tojson that keeps characters as they are, an undefined name is empty until it is used.
 *   statements   if for set macro break continue generation raw, and comments
 *   values       none, true, integers, floats, strings, lists, dicts, namespaces; strings are UTF-8 and are counted in characters
 *   functions    range namespace dict raise_exception strftime_now (the date when the template was parsed; SOURCE_DATE_EPOCH sets another)
 * Filters, tests and methods are the tables in jinja_filters.c and jinja_methods.c.  What is not there is refused by its name and line where it is
 * reached: include, import, extends, call, filter blocks, sort, 2 ** 3.
 * What it is not: it knows no messages and no tokens (chat_template.h). */
#ifndef VENEER_JINJA_H
#define VENEER_JINJA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"
#include "io/json.h"

enum { JINJA_MAX_SOURCE = 1 << 18, JINJA_MAX_OUTPUT = 1 << 24, JINJA_MAX_MEMORY = 1 << 26, JINJA_MAX_STEPS = 1 << 22, JINJA_MAX_DEPTH = 200 };

struct jinja; /* a template; one thread at a time */

/* source[n] -> *out (jinja_free).  `where` opens each message: "the model's chat template".  ERR_INPUT: "WHERE: line N: ...", ERR_MEMORY. */
enum status jinja_parse(struct jinja **out, const char *source, size_t n, const char *where, struct err *err);
void jinja_free(struct jinja *template); /* NULL is fine */

/* ---- variables ---- */

struct list;
struct dict;
struct macro;
struct loop;
enum value_type { VALUE_ABSENT, VALUE_UNDEFINED, VALUE_NONE, VALUE_BOOL, VALUE_INT, VALUE_FLOAT, VALUE_STRING, VALUE_LIST, VALUE_DICT, VALUE_NAMESPACE,
                  VALUE_MACRO, VALUE_FUNCTION, VALUE_LOOP };
struct value {
    enum value_type type;
    size_t n; /* bytes of a string */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const char *s; /* a string [n]; of VALUE_UNDEFINED and VALUE_FUNCTION the name, NUL-terminated, or NULL */
        struct list *list;
        struct dict *dict; /* namespaces too */
        const struct macro *macro;
        const struct loop *loop;
    };
};

/* Variables live until the next jinja_begin; what they point to must live as long. */
void jinja_begin(struct jinja *template);
enum status jinja_set(struct jinja *template, const char *name, struct value value, struct err *err);
struct value jinja_bool(bool boolean);
struct value jinja_string(const char *s); /* borrowed */
enum status jinja_list(struct jinja *template, struct value *out, struct err *err);
enum status jinja_append(struct jinja *template, struct value list, struct value item, struct err *err);
enum status jinja_dict(struct jinja *template, struct value *out, struct err *err);
enum status jinja_put(struct jinja *template, struct value dict, const char *key, struct value item, struct err *err); /* key borrowed */
/* A JSON value, its strings borrowed. */
enum status jinja_json(struct jinja *template, const struct json *json, struct value *out, struct err *err);

/* ---- rendering ---- */

/* Stretches of the output that stood between {% generation %} and {% endgeneration %}. */
struct jinja_spans {
    struct jinja_span {
        size_t start, end;
    } *span; /* owned, free */
    size_t n, cap;
};

/* Appends to out.  spans may be NULL.  The template may be rendered again with other variables: jinja_begin.
 * ERR_INPUT: "WHERE: line N: ..."; what raise_exception says is handed up as a sentence.  ERR_MEMORY, ERR_STOPPED. */
enum status jinja_render(struct jinja *template, struct text *out, struct jinja_spans *spans, struct err *err);

#endif
