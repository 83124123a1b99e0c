/* jinja_expression.c: tokens -> the tree of an expression.  From loose to tight: a if b else c, or, and, not, comparisons, + -, ~, * / // %, signs,
 * and behind a value . [] () and then | and `is`. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/jinja_private.h"

/* ---- the next token ---- */

static bool is_token(const struct token *t, enum token_kind kind, const char *s)
{
    return t->kind == kind && t->n == strlen(s) && memcmp(t->s, s, t->n) == 0;
}

bool parse_is_name(const struct parser *p, const char *name)
{
    return is_token(p->at, TOKEN_NAME, name);
}

bool parse_is_sign(const struct parser *p, const char *sign)
{
    return is_token(p->at, TOKEN_SIGN, sign);
}

bool parse_skip_sign(struct parser *p, const char *sign)
{
    bool there = parse_is_sign(p, sign);
    p->at += there;
    return there;
}

bool parse_skip_name(struct parser *p, const char *name)
{
    bool there = parse_is_name(p, name);
    p->at += there;
    return there;
}

enum status parse_fail(const struct parser *p, const char *want)
{
    static const char *const kinds[] = {[TOKEN_END] = "the end of the template", [TOKEN_TEXT] = "text", [TOKEN_PRINT] = "{{", [TOKEN_PRINT_END] = "}}",
                                        [TOKEN_BLOCK] = "{%", [TOKEN_BLOCK_END] = "%}"};
    const struct token *t = p->at;
    char got[64];
    snprintf(got, sizeof got, "'%.*s'", (int)(t->n < 48 ? t->n : 48), t->s);
    bool literal = t->kind >= TOKEN_NAME;
    return err_set(p->err, ERR_INPUT, "%s: line %d: got %s, want %s", p->template->where, t->line, literal ? got : kinds[t->kind], want);
}

enum status parse_want_sign(struct parser *p, const char *sign)
{
    char want[16];
    snprintf(want, sizeof want, "'%s'", sign);
    return parse_skip_sign(p, sign) ? OK : parse_fail(p, want);
}

/* A copy of a token as a string. */
static enum status keep(struct parser *p, const struct token *t, struct node *into)
{
    void *s;
    TRY(jinja_take(&p->template->code, t->n + 1, p->template->where, &s, p->err));
    memcpy(s, t->s, t->n);
    into->s = s;
    into->n = t->n;
    return OK;
}

enum status parse_want_name(struct parser *p, struct node *into)
{
    if (p->at->kind != TOKEN_NAME)
        return parse_fail(p, "a name");
    return keep(p, p->at++, into);
}

enum status parse_node(struct parser *p, enum node_kind kind, struct node **out)
{
    void *node;
    TRY(jinja_take(&p->template->code, sizeof **out, p->template->where, &node, p->err));
    *out = node;
    (*out)->kind = kind;
    (*out)->line = p->at->line;
    return OK;
}

/* *out becomes the first operand of a new node. */
static enum status wrap(struct parser *p, enum node_kind kind, struct node **out)
{
    struct node *node;
    TRY(parse_node(p, kind, &node));
    node->a = *out;
    *out = node;
    return OK;
}

static enum status enter(struct parser *p)
{
    if (++p->depth > JINJA_MAX_DEPTH)
        return err_set(p->err, ERR_INPUT, "%s: line %d: nested deeper than %d", p->template->where, p->at->line, JINJA_MAX_DEPTH);
    return OK;
}

/* ---- literals ---- */

static void put_code(uint32_t code, struct text *out)
{
    char s[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6)
        s[i] = (char)(0x80 | (code & 0x3F));
    s[0] = (char)(n == 1 ? code : (0xF00u >> n & 0xF0u) | code);
    text_add(out, s, n);
}

/* \xNN, \uNNNN, \UNNNNNNNN: digits are as many as the letter says.  NULL: they are not there, or no character. */
static const char *put_hex(const char *s, const char *end, size_t n, struct text *out)
{
    char digits[9] = {0}, *rest;
    if ((size_t)(end - s) < n)
        return NULL;
    memcpy(digits, s, n);
    unsigned long code = strtoul(digits, &rest, 16);
    if (*rest || digits[0] == '-' || digits[0] == '+' || code == 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return NULL;
    put_code((uint32_t)code, out);
    return s + n;
}

/* What follows a backslash; s is behind it.  NULL: refused. */
static const char *put_escape(const char *s, const char *end, struct text *out)
{
    static const char from[] = "ntrabfv\\'\"", to[] = "\n\t\r\a\b\f\v\\'\"";
    const char *known = memchr(from, *s, sizeof from - 1);
    if (known) {
        text_add(out, &to[known - from], 1);
        return s + 1;
    }
    if (*s == '\n') /* the line goes on */
        return s + 1;
    if (*s == 'x' || *s == 'u' || *s == 'U')
        return put_hex(s + 1, end, *s == 'x' ? 2 : *s == 'u' ? 4 : 8, out);
    if (*s == 'N' || (*s >= '0' && *s <= '7'))
        return NULL;
    text_add(out, "\\", 1); /* as in Python, an unknown one stays */
    return s;
}

static enum status unescape(struct parser *p, const struct token *t, struct text *out)
{
    const char *s = t->s + 1, *end = t->s + t->n - 1;
    while (s < end) {
        if (*s != '\\') {
            text_add(out, s++, 1);
            continue;
        }
        s = put_escape(s + 1, end, out);
        if (!s)
            return err_set(p->err, ERR_INPUT, "%s: line %d: a string has an escape that is not among \\n \\t \\r \\\\ \\' \\\" \\xNN \\uNNNN \\UNNNNNNNN",
                           p->template->where, t->line);
    }
    return OK;
}

/* Strings that stand side by side are one. */
static enum status parse_string(struct parser *p, struct node **out)
{
    struct text text = {0};
    struct token whole = *p->at;
    enum status status = parse_node(p, NODE_VALUE, out);
    while (status == OK && p->at->kind == TOKEN_STRING)
        status = unescape(p, p->at++, &text);
    if (status == OK && text.failed)
        status = err_set(p->err, ERR_MEMORY, "out of memory for a chat template");
    whole.s = text.n ? text.s : "";
    whole.n = text.n;
    if (status == OK)
        status = keep(p, &whole, *out);
    if (status == OK)
        (*out)->value = value_string((*out)->s, (*out)->n);
    text_free(&text);
    return status;
}

static enum status parse_number(struct parser *p, struct node **out)
{
    char digits[64];
    size_t n = 0;
    TRY(parse_node(p, NODE_VALUE, out));
    for (size_t i = 0; i < p->at->n && n + 1 < sizeof digits; i++)
        if (p->at->s[i] != '_')
            digits[n++] = p->at->s[i];
    digits[n] = 0;
    errno = 0;
    (*out)->value = p->at->kind == TOKEN_INTEGER ? value_int(strtoll(digits, NULL, 10))
                                                 : (struct value){.type = VALUE_FLOAT, .number = strtod(digits, NULL)};
    if (errno || n + 1 == sizeof digits)
        return parse_fail(p, "a number that is not so large");
    p->at++;
    return OK;
}

static enum status parse_name(struct parser *p, struct node **out)
{
    static const struct {
        const char *name;
        struct value value;
    } constants[] = {{"true", {.type = VALUE_BOOL, .boolean = true}}, {"false", {.type = VALUE_BOOL}}, {"none", {.type = VALUE_NONE}},
                     {"True", {.type = VALUE_BOOL, .boolean = true}}, {"False", {.type = VALUE_BOOL}}, {"None", {.type = VALUE_NONE}}};
    TRY(parse_node(p, NODE_NAME, out));
    TRY(parse_want_name(p, *out));
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (strcmp((*out)->s, constants[i].name) == 0) {
            (*out)->kind = NODE_VALUE;
            (*out)->value = constants[i].value;
        }
    return OK;
}

/* Items up to the sign that closes; a comma may stand behind the last. */
static enum status parse_items(struct parser *p, const char *close, struct node **first)
{
    while (!parse_skip_sign(p, close)) {
        TRY(parse_expression(p, first));
        first = &(*first)->next;
        if (!parse_is_sign(p, close))
            TRY(parse_want_sign(p, ","));
    }
    return OK;
}

static enum status parse_dict(struct parser *p, struct node **out)
{
    TRY(parse_node(p, NODE_DICT, out));
    for (struct node **last = &(*out)->a; !parse_skip_sign(p, "}"); last = &(*last)->next->next) {
        TRY(parse_expression(p, last));
        TRY(parse_want_sign(p, ":"));
        TRY(parse_expression(p, &(*last)->next));
        if (!parse_is_sign(p, "}"))
            TRY(parse_want_sign(p, ","));
    }
    return OK;
}

static enum status parse_primary(struct parser *p, struct node **out)
{
    switch (p->at->kind) {
    case TOKEN_NAME:
        return parse_name(p, out);
    case TOKEN_STRING:
        return parse_string(p, out);
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return parse_number(p, out);
    default:
        break;
    }
    if (parse_skip_sign(p, "[")) {
        TRY(parse_node(p, NODE_LIST, out));
        return parse_items(p, "]", &(*out)->a);
    }
    if (parse_skip_sign(p, "{"))
        return parse_dict(p, out);
    if (!parse_skip_sign(p, "("))
        return parse_fail(p, "a value");
    if (parse_skip_sign(p, ")")) {
        TRY(parse_node(p, NODE_LIST, out));
        (*out)->n = 1;
        return OK;
    }
    TRY(parse_tuple(p, true, out));
    return parse_want_sign(p, ")");
}

/* ---- behind a value ---- */

/* ( a, b, name = c ); the opening sign is behind us. */
static enum status parse_arguments(struct parser *p, struct node **first)
{
    while (!parse_skip_sign(p, ")")) {
        bool named = p->at->kind == TOKEN_NAME && is_token(p->at + 1, TOKEN_SIGN, "=");
        if (named) {
            TRY(parse_node(p, NODE_NAMED, first));
            TRY(parse_want_name(p, *first));
            p->at++;
        }
        TRY(parse_expression(p, named ? &(*first)->a : first));
        first = &(*first)->next;
        if (!parse_is_sign(p, ")"))
            TRY(parse_want_sign(p, ","));
    }
    return OK;
}

/* [ index ] or [ start : stop : step ]; the opening sign is behind us. */
static enum status parse_subscript(struct parser *p, struct node **out)
{
    struct node *bounds[3] = {0};
    int n = 0;
    for (; n < 3; n++) {
        if (!parse_is_sign(p, ":") && !parse_is_sign(p, "]"))
            TRY(parse_expression(p, &bounds[n]));
        if (!parse_skip_sign(p, ":"))
            break;
    }
    if (n == 0 && !bounds[0])
        return parse_fail(p, "an index");
    TRY(parse_want_sign(p, "]"));
    TRY(wrap(p, n == 0 ? NODE_ITEM : NODE_SLICE, out));
    (*out)->b = bounds[0];
    (*out)->c = bounds[1];
    (*out)->d = bounds[2];
    return OK;
}

static enum status parse_call(struct parser *p, struct node **out)
{
    TRY(wrap(p, NODE_CALL, out));
    return parse_arguments(p, &(*out)->b);
}

static enum status parse_postfix(struct parser *p, struct node **out)
{
    for (;;) {
        if (parse_skip_sign(p, ".")) {
            TRY(wrap(p, NODE_ATTRIBUTE, out));
            TRY(parse_want_name(p, *out));
        } else if (parse_skip_sign(p, "[")) {
            TRY(parse_subscript(p, out));
        } else if (parse_skip_sign(p, "(")) {
            TRY(parse_call(p, out));
        } else {
            return OK;
        }
    }
}

static enum status parse_filter(struct parser *p, struct node **out)
{
    TRY(wrap(p, NODE_FILTER, out));
    TRY(parse_want_name(p, *out));
    return parse_skip_sign(p, "(") ? parse_arguments(p, &(*out)->b) : OK;
}

enum status parse_filters(struct parser *p, struct node **expression)
{
    while (parse_skip_sign(p, "|"))
        TRY(parse_filter(p, expression));
    return OK;
}

/* `is` [not] name, with arguments in brackets, or one value without. */
static enum status parse_test(struct parser *p, struct node **out)
{
    bool negated = parse_skip_name(p, "not");
    TRY(wrap(p, NODE_TEST, out));
    TRY(parse_want_name(p, *out));
    bool goes_on = parse_is_name(p, "else") || parse_is_name(p, "or") || parse_is_name(p, "and") || parse_is_name(p, "if") || parse_is_name(p, "is");
    bool value = (p->at->kind >= TOKEN_NAME && p->at->kind <= TOKEN_FLOAT && !goes_on) || parse_is_sign(p, "[") || parse_is_sign(p, "{");
    if (parse_skip_sign(p, "(")) {
        TRY(parse_arguments(p, &(*out)->b));
    } else if (value) {
        TRY(parse_primary(p, &(*out)->b));
        TRY(parse_postfix(p, &(*out)->b));
    }
    return negated ? wrap(p, NODE_NOT, out) : OK;
}

static enum status parse_behind(struct parser *p, struct node **out)
{
    for (;;) {
        if (parse_skip_sign(p, "|"))
            TRY(parse_filter(p, out));
        else if (parse_skip_name(p, "is"))
            TRY(parse_test(p, out));
        else if (parse_skip_sign(p, "("))
            TRY(parse_call(p, out));
        else
            return OK;
    }
}

/* ---- operators ---- */

static enum status parse_unary(struct parser *p, bool filters, struct node **out)
{
    enum node_kind sign = parse_is_sign(p, "-") ? NODE_MINUS : parse_is_sign(p, "+") ? NODE_PLUS : NODE_VALUE;
    TRY(enter(p));
    p->at += sign != NODE_VALUE;
    TRY(sign == NODE_VALUE ? parse_primary(p, out) : parse_unary(p, false, out));
    if (sign != NODE_VALUE)
        TRY(wrap(p, sign, out));
    TRY(parse_postfix(p, out));
    if (filters)
        TRY(parse_behind(p, out));
    p->depth--;
    return parse_is_sign(p, "**") ? parse_fail(p, "another operator") : OK;
}

/* Operators of one strength, from the left: the rooms below are tighter ones. */
static enum status parse_binary(struct parser *p, int level, struct node **out)
{
    static const struct {
        const char *sign;
        enum op op;
        int level;
    } signs[] = {{"+", OP_ADD, 0}, {"-", OP_SUB, 0}, {"~", OP_CONCAT, 1}, {"*", OP_MUL, 2}, {"/", OP_DIV, 2}, {"//", OP_FLOOR_DIV, 2}, {"%", OP_MOD, 2}};
    if (level == 3)
        return parse_unary(p, true, out);
    TRY(parse_binary(p, level + 1, out));
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        if (signs[i].level != level || !parse_skip_sign(p, signs[i].sign))
            continue;
        TRY(wrap(p, NODE_BINARY, out));
        (*out)->op = signs[i].op;
        TRY(parse_binary(p, level + 1, &(*out)->b));
        i = (size_t)-1; /* and again */
    }
    return OK;
}

static bool skip_comparison(struct parser *p, enum op *op)
{
    static const struct {
        const char *sign;
        enum op op;
    } signs[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT}, {"<=", OP_LE}, {">", OP_GT}, {">=", OP_GE}};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (parse_skip_sign(p, signs[i].sign)) {
            *op = signs[i].op;
            return true;
        }
    *op = OP_IN;
    if (parse_skip_name(p, "in"))
        return true;
    *op = OP_NOT_IN;
    bool there = parse_is_name(p, "not") && is_token(p->at + 1, TOKEN_NAME, "in");
    p->at += there ? 2 : 0;
    return there;
}

static enum status parse_comparison(struct parser *p, struct node **out)
{
    enum op op;
    struct node **last = NULL;
    TRY(parse_binary(p, 0, out));
    while (skip_comparison(p, &op)) {
        if (!last) {
            TRY(wrap(p, NODE_COMPARE, out));
            last = &(*out)->b;
        }
        struct node *other;
        TRY(parse_binary(p, 0, &other));
        TRY(parse_node(p, NODE_COMPARE, last));
        (*last)->op = op;
        (*last)->a = other;
        last = &(*last)->next;
    }
    return OK;
}

static enum status parse_not(struct parser *p, struct node **out)
{
    if (!parse_skip_name(p, "not"))
        return parse_comparison(p, out);
    TRY(enter(p));
    TRY(parse_not(p, out));
    p->depth--;
    return wrap(p, NODE_NOT, out);
}

static enum status parse_and(struct parser *p, struct node **out)
{
    TRY(parse_not(p, out));
    while (parse_skip_name(p, "and")) {
        TRY(wrap(p, NODE_AND, out));
        TRY(parse_not(p, &(*out)->b));
    }
    return OK;
}

enum status parse_or(struct parser *p, struct node **out)
{
    TRY(parse_and(p, out));
    while (parse_skip_name(p, "or")) {
        TRY(wrap(p, NODE_OR, out));
        TRY(parse_and(p, &(*out)->b));
    }
    return OK;
}

enum status parse_expression(struct parser *p, struct node **out)
{
    TRY(enter(p));
    TRY(parse_or(p, out));
    while (parse_skip_name(p, "if")) {
        struct node *value = *out, *choice;
        TRY(parse_node(p, NODE_CONDITION, &choice));
        choice->b = value;
        TRY(parse_or(p, &choice->a));
        if (parse_skip_name(p, "else"))
            TRY(parse_expression(p, &choice->c));
        *out = choice;
    }
    p->depth--;
    return OK;
}

enum status parse_tuple(struct parser *p, bool conditions, struct node **out)
{
    TRY(conditions ? parse_expression(p, out) : parse_or(p, out));
    if (!parse_is_sign(p, ","))
        return OK;
    TRY(wrap(p, NODE_LIST, out));
    (*out)->n = 1;
    struct node **last = &(*out)->a->next;
    while (parse_skip_sign(p, ",") && !parse_is_sign(p, ")") && p->at->kind != TOKEN_BLOCK_END && p->at->kind != TOKEN_PRINT_END && !parse_is_sign(p, "=")) {
        TRY(conditions ? parse_expression(p, last) : parse_or(p, last));
        last = &(*last)->next;
    }
    return OK;
}
