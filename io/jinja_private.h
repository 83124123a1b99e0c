/* jinja_private.h: tokens, the tree and values of a template; private to jinja*.c. */
#ifndef VENEER_JINJA_PRIVATE_H
#define VENEER_JINJA_PRIVATE_H
#include <time.h>

#include "base/arena.h"
#include "io/jinja.h"

/* ---- tokens (jinja_lex.c) ---- */

enum token_kind { TOKEN_END, TOKEN_TEXT, TOKEN_PRINT, TOKEN_PRINT_END, TOKEN_BLOCK, TOKEN_BLOCK_END, TOKEN_NAME, TOKEN_STRING, TOKEN_INTEGER, TOKEN_FLOAT,
                  TOKEN_SIGN };
struct token {
    enum token_kind kind;
    int line;
    const char *s; /* in the template's source; a string with its quotes */
    size_t n;
};

/* ---- the tree ---- */

enum op { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOOR_DIV, OP_MOD, OP_CONCAT, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN };
enum node_kind {
    /* statements */
    NODE_TEXT,       /* s */
    NODE_PRINT,      /* a */
    NODE_IF,         /* a: condition, b: body, c: else, or the NODE_IF of an elif */
    NODE_FOR,        /* a: target, b: sequence, c: filter or NULL, d: body, e: else */
    NODE_SET,        /* a: target, b: value; or d: body whose text is the value, b: filters of it or NULL */
    NODE_MACRO,      /* s: name, a: parameters as NODE_NAMED, d: body */
    NODE_GENERATION, /* d: body */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_VALUE,      /* value */
    NODE_NAME,       /* s */
    NODE_LIST,       /* a: items; n: it is a tuple */
    NODE_DICT,       /* a: key, value, key, value ... */
    NODE_ATTRIBUTE,  /* a.s */
    NODE_ITEM,       /* a[b] */
    NODE_SLICE,      /* a[b:c:d], each NULL where it is not said */
    NODE_CALL,       /* a(b) */
    NODE_FILTER,     /* a | s(b) */
    NODE_TEST,       /* a is s(b) */
    NODE_NAMED,      /* argument s = a; parameter s with its default a or NULL */
    NODE_NOT,        /* not a */
    NODE_MINUS,      /* -a */
    NODE_PLUS,       /* +a */
    NODE_AND,        /* a and b */
    NODE_OR,         /* a or b */
    NODE_BINARY,     /* a op b */
    NODE_COMPARE,    /* a, and in b the others, each with its op to the left: 1 < x < 3 */
    NODE_CONDITION,  /* b if a else c; c may be NULL */
};
struct node {
    enum node_kind kind;
    enum op op;
    int line;
    struct node *next; /* the next statement, item or argument */
    struct node *a, *b, *c, *d, *e;
    const char *s; /* NUL-terminated */
    size_t n;
    struct value value;
};

struct jinja {
    struct arena code, run; /* of the tree; of variables and one rendering */
    struct node *body;
    struct frame *variables;
    char *where;
    time_t parsed; /* when: strftime_now gives one date for all texts */
};

/* n bytes of an arena, zeroed.  ERR_INPUT: the template asks for more than there is. */
enum status jinja_take(struct arena *arena, size_t n, const char *where, void **out, struct err *err);

/* Newlines as '\n', the last one left out; tokens[] ends in TOKEN_END.  Text is what the marks around it leave of it. */
enum status jinja_lex(struct jinja *template, const char *source, size_t n, struct token **tokens, struct err *err);

/* ---- the parsers: jinja_parse.c statements, jinja_expression.c expressions ---- */

struct parser {
    struct jinja *template;
    const struct token *at;
    int depth;
    struct err *err;
};

bool parse_is_name(const struct parser *p, const char *name); /* the next token */
bool parse_is_sign(const struct parser *p, const char *sign);
bool parse_skip_sign(struct parser *p, const char *sign); /* true: it was there, and is behind us */
bool parse_skip_name(struct parser *p, const char *name);
enum status parse_want_sign(struct parser *p, const char *sign);
enum status parse_want_name(struct parser *p, struct node *into); /* any name, as its s */
enum status parse_fail(const struct parser *p, const char *what); /* "... , got X" */
enum status parse_node(struct parser *p, enum node_kind kind, struct node **out);
enum status parse_expression(struct parser *p, struct node **out);
enum status parse_or(struct parser *p, struct node **out);                     /* an expression without `a if b else c` */
enum status parse_tuple(struct parser *p, bool conditions, struct node **out); /* `a` or `a, b` */
enum status parse_filters(struct parser *p, struct node **expression);         /* | f | g behind it */

/* ---- running ---- */

struct list {
    struct value *item;
    size_t n, cap;
    bool tuple; /* as Python's: of its own kind when it is compared, joined and printed */
};
struct dict {
    struct entry {
        struct value key; /* a string */
        struct value value;
    } *entry;
    size_t n, cap;
};
struct frame { /* names of a template, a macro's call or one turn of a loop */
    struct frame *up;
    struct binding {
        struct binding *next;
        const char *name;
        struct value value;
    } *first;
};
struct macro {
    const struct node *node;
    struct frame *frame; /* where it was defined */
};
struct loop {
    const struct list *items;
    size_t index0;
};

struct run {
    struct jinja *template;
    struct frame *frame;
    struct text *out;
    const struct text *whole; /* the output itself: `out` elsewhere gathers the text of a macro or a set */
    struct jinja_spans *spans;
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
    int line, depth, loops;
    size_t steps;
    struct err *err;
};

enum status run_statements(struct run *r, const struct node *statement);
/* A macro's text with arguments as at a call. */
enum status run_macro(struct run *r, const struct macro *macro, const struct node *arguments, struct value *out);
enum status run_assign(struct run *r, const struct node *target, struct value value);
enum status jinja_eval(struct run *r, const struct node *node, struct value *out);
/* Counts work and polls for a stop; ERR_INPUT beyond JINJA_MAX_STEPS. */
enum status run_steps(struct run *r, size_t n);
/* One level deeper; the caller takes it back from r->depth.  ERR_INPUT beyond JINJA_MAX_DEPTH. */
enum status run_enter(struct run *r);
enum status run_take(struct run *r, size_t n, void **out);
enum status run_check_text(struct run *r, const struct text *out); /* it grew, and not beyond JINJA_MAX_OUTPUT */
/* "WHERE: line N: " and the sentence. */
enum status run_fail(struct run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What the language has and this program has not. */
enum status run_lacks(struct run *r, const char *kind, const char *name);

/* ---- values (jinja_value.c) ---- */

struct value value_string(const char *s, size_t n);
struct value value_int(int64_t integer);
struct value value_none(void);
struct value value_undefined(const char *name);
bool value_is(struct value v, const char *s); /* a string of these bytes */
bool value_is_number(struct value v);         /* bool, int, float */
double value_number(struct value v);
bool value_true(struct value v);
const char *value_type_name(struct value v);
/* As Python compares; deep. */
enum status value_equal(struct run *r, struct value a, struct value b, bool *equal);
enum status value_less(struct run *r, struct value a, struct value b, bool *less);
enum status value_contains(struct run *r, struct value container, struct value item, bool *contains);
enum status value_list(struct run *r, struct value *out);
enum status value_list_add(struct run *r, struct value list, struct value item);
enum status value_dict(struct run *r, struct value *out);
enum status value_dict_set(struct run *r, struct value dict, struct value key, struct value item);
const struct value *value_dict_get(const struct dict *dict, const char *key, size_t n); /* NULL: none */
/* What a for walks over: a list itself, keys, characters; none of an undefined value. */
enum status value_items(struct run *r, struct value v, struct value *list);
enum status value_length(struct run *r, struct value v, size_t *n);
/* v.name and v[key]; what is not there is undefined.  An undefined v is refused. */
enum status value_attribute(struct run *r, struct value v, const char *name, struct value *out);
enum status value_item(struct run *r, struct value v, struct value key, struct value *out);
/* bounds: VALUE_ABSENT or VALUE_NONE where one is not said. */
enum status value_slice(struct run *r, struct value v, struct value start, struct value stop, struct value step, struct value *out);

/* ---- text of values (jinja_text.c) ---- */

/* str(v), lists and dicts as Python writes them.  Refused: namespaces and the like, and text that is not ASCII inside of a list or a dict, where Python
 * escapes what Unicode calls unprintable. */
enum status value_print(struct run *r, struct value v, struct text *out);
enum status value_to_string(struct run *r, struct value v, struct value *out);
/* What text holds, moved to the run's memory; frees text. */
enum status value_from_text(struct run *r, struct text *text, enum status status, struct value *out);
struct json_style {
    int64_t indent; /* -1: one line */
    bool ascii;
    struct value between, colon; /* VALUE_ABSENT: Python's */
};
enum status value_to_json(struct run *r, struct value v, const struct json_style *style, int depth, struct text *out);
size_t utf8_count(const char *s, size_t n);           /* characters of valid UTF-8 */
size_t utf8_skip(const char *s, size_t n, size_t k);  /* bytes of the first k characters, at most n */
/* Bytes of the white space (as Python's str.strip has it) that s[n] begins with, ends in. */
size_t space_before(const char *s, size_t n);
size_t space_behind(const char *s, size_t n);

/* ---- functions ---- */

enum { MAX_ARGUMENTS = 16, MAX_PARAMETERS = 4 };
struct arguments {
    struct value value[MAX_ARGUMENTS];
    const char *name[MAX_ARGUMENTS]; /* NULL: by position */
    size_t n;
};
enum status eval_arguments(struct run *r, const struct node *list, struct arguments *out);
/* By position and by name to `parameters` ("chars", "old new count"); bound[i] is VALUE_ABSENT where nothing is said. */
enum status bind_arguments(struct run *r, const char *what, const struct arguments *arguments, const char *parameters, struct value bound[MAX_PARAMETERS]);

enum status apply_filter(struct run *r, const char *name, struct value in, const struct arguments *arguments, struct value *out);
enum status apply_test(struct run *r, const char *name, struct value in, const struct arguments *arguments, bool *out);
enum status apply_method(struct run *r, const char *name, struct value in, const struct arguments *arguments, struct value *out);
enum status apply_function(struct run *r, const char *name, const struct arguments *arguments, struct value *out);
const char *jinja_function(const char *name); /* the same name in the table of functions, NULL: none */
bool dict_has_method(const char *name);      /* of Python's dict: hides a key of that name behind a dot */
/* For filters and methods alike. */
enum status string_strip(struct run *r, struct value in, struct value chars, bool left, bool right, struct value *out);
enum status string_case(struct run *r, struct value in, int (*first)(int), int (*rest)(int), bool words, struct value *out);
enum status string_replace(struct run *r, struct value in, struct value old, struct value new, struct value count, struct value *out);
enum status string_join(struct run *r, struct value items, struct value between, struct value *out);
enum status value_dict_items(struct run *r, struct value dict, struct value *out);

#endif
