/* jinja_parse.c: tokens -> the tree of statements; a template's life from source to free. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/jinja_private.h"

enum status jinja_take(struct arena *arena, size_t n, const char *where, void **out, struct err *err)
{
    *out = n <= JINJA_MAX_MEMORY ? arena_take(arena, 1, n) : NULL;
    if (!*out)
        return err_set(err, ERR_INPUT, "%s: takes more than %zu MiB of memory", where, arena->size >> 20);
    memset(*out, 0, n);
    return OK;
}

/* ---- bodies ---- */

static enum status parse_statement(struct parser *p, struct node **out);

/* The next block is one of the tags that end a body ("elif else endif"); *which is its place among them. */
static bool is_end(const struct parser *p, const char *ends, int *which)
{
    const struct token *t = p->at + 1;
    *which = 0;
    if (p->at->kind != TOKEN_BLOCK || t->kind != TOKEN_NAME)
        return false;
    for (const char *s = ends; *s; ++*which) {
        size_t n = strcspn(s, " ");
        if (t->n == n && memcmp(t->s, s, n) == 0)
            return true;
        s += n + (s[n] == ' ');
    }
    return false;
}

/* Statements up to one of the tags, whose name is then behind us. */
static enum status parse_body(struct parser *p, const char *ends, int *which, struct node **first)
{
    while (!is_end(p, ends, which)) {
        if (p->at->kind == TOKEN_END)
            return parse_fail(p, ends);
        TRY(parse_statement(p, first));
        while (*first)
            first = &(*first)->next;
    }
    p->at += 2;
    return OK;
}

static enum status parse_block_end(struct parser *p)
{
    if (p->at->kind != TOKEN_BLOCK_END)
        return parse_fail(p, "%}");
    p->at++;
    return OK;
}

/* ---- statements: the tag's name is behind us ---- */

static enum status parse_if(struct parser *p, struct node **out)
{
    for (int which = 0; which == 0;) {
        TRY(parse_node(p, NODE_IF, out));
        TRY(parse_or(p, &(*out)->a));
        TRY(parse_block_end(p));
        TRY(parse_body(p, "elif else endif", &which, &(*out)->b));
        out = &(*out)->c;
        if (which != 1)
            continue;
        TRY(parse_block_end(p));
        TRY(parse_body(p, "endif", &which, out));
        break;
    }
    return parse_block_end(p);
}

/* a name, names with commas, or (of set) a namespace's attribute. */
static enum status parse_target(struct parser *p, bool attribute, struct node **out)
{
    struct node **last = out;
    bool brackets = parse_skip_sign(p, "(");
    do {
        TRY(parse_node(p, NODE_NAME, last));
        TRY(parse_want_name(p, *last));
        if (attribute && last == out && parse_skip_sign(p, ".")) {
            struct node *of = *out;
            TRY(parse_node(p, NODE_ATTRIBUTE, out));
            (*out)->a = of;
            return parse_want_name(p, *out);
        }
        last = &(*last)->next;
    } while (parse_skip_sign(p, ",") && p->at->kind == TOKEN_NAME);
    if (brackets)
        TRY(parse_want_sign(p, ")"));
    if (!(*out)->next)
        return OK;
    struct node *names = *out;
    TRY(parse_node(p, NODE_LIST, out));
    (*out)->a = names;
    return OK;
}

static enum status parse_for(struct parser *p, struct node **out)
{
    int which;
    TRY(parse_node(p, NODE_FOR, out));
    TRY(parse_target(p, false, &(*out)->a));
    if (!parse_skip_name(p, "in"))
        return parse_fail(p, "'in'");
    TRY(parse_tuple(p, false, &(*out)->b));
    if (parse_skip_name(p, "if"))
        TRY(parse_expression(p, &(*out)->c));
    if (parse_is_name(p, "recursive"))
        return parse_fail(p, "a loop that does not call itself");
    TRY(parse_block_end(p));
    TRY(parse_body(p, "else endfor", &which, &(*out)->d));
    if (which == 0) {
        TRY(parse_block_end(p));
        TRY(parse_body(p, "endfor", &which, &(*out)->e));
    }
    return parse_block_end(p);
}

static enum status parse_set(struct parser *p, struct node **out)
{
    int which;
    TRY(parse_node(p, NODE_SET, out));
    TRY(parse_target(p, true, &(*out)->a));
    if (parse_skip_sign(p, "=")) {
        TRY(parse_tuple(p, true, &(*out)->b));
        return parse_block_end(p);
    }
    if (parse_is_sign(p, "|")) {
        TRY(parse_node(p, NODE_NAME, &(*out)->b));
        (*out)->b->s = ""; /* no name in a source: the text of the body */
        TRY(parse_filters(p, &(*out)->b));
    }
    TRY(parse_block_end(p));
    TRY(parse_body(p, "endset", &which, &(*out)->d));
    return parse_block_end(p);
}

static enum status parse_macro(struct parser *p, struct node **out)
{
    int which;
    TRY(parse_node(p, NODE_MACRO, out));
    TRY(parse_want_name(p, *out));
    TRY(parse_want_sign(p, "("));
    for (struct node **last = &(*out)->a; !parse_skip_sign(p, ")"); last = &(*last)->next) {
        TRY(parse_node(p, NODE_NAMED, last));
        TRY(parse_want_name(p, *last));
        if (parse_skip_sign(p, "="))
            TRY(parse_expression(p, &(*last)->a));
        if (!parse_is_sign(p, ")"))
            TRY(parse_want_sign(p, ","));
    }
    TRY(parse_block_end(p));
    TRY(parse_body(p, "endmacro", &which, &(*out)->d));
    return parse_block_end(p);
}

static enum status parse_generation(struct parser *p, struct node **out)
{
    int which;
    TRY(parse_node(p, NODE_GENERATION, out));
    TRY(parse_block_end(p));
    TRY(parse_body(p, "endgeneration", &which, &(*out)->d));
    return parse_block_end(p);
}

static enum status parse_flow(struct parser *p, struct node **out)
{
    const struct token *name = p->at - 1;
    TRY(parse_node(p, *name->s == 'b' ? NODE_BREAK : NODE_CONTINUE, out));
    return parse_block_end(p);
}

static enum status parse_block(struct parser *p, struct node **out)
{
    static const struct {
        const char *name;
        enum status (*parse)(struct parser *p, struct node **out);
    } tags[] = {{"if", parse_if},       {"for", parse_for},     {"set", parse_set},          {"macro", parse_macro},
                {"break", parse_flow}, {"continue", parse_flow}, {"generation", parse_generation}};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (parse_skip_name(p, tags[i].name))
            return tags[i].parse(p, out);
    return parse_fail(p, "one of the tags that this program knows: if, for, set, macro, break, continue, generation, raw");
}

static enum status parse_print(struct parser *p, struct node **out)
{
    TRY(parse_node(p, NODE_PRINT, out));
    TRY(parse_tuple(p, true, &(*out)->a));
    if (p->at->kind != TOKEN_PRINT_END)
        return parse_fail(p, "}}");
    p->at++;
    return OK;
}

static enum status parse_statement(struct parser *p, struct node **out)
{
    const struct token *t = p->at++;
    if (t->kind == TOKEN_TEXT) {
        TRY(parse_node(p, NODE_TEXT, out));
        (*out)->s = t->s;
        (*out)->n = t->n;
        return OK;
    }
    if (++p->depth > JINJA_MAX_DEPTH)
        return err_set(p->err, ERR_INPUT, "%s: line %d: nested deeper than %d", p->template->where, t->line, JINJA_MAX_DEPTH);
    TRY(t->kind == TOKEN_PRINT ? parse_print(p, out) : parse_block(p, out));
    p->depth--;
    return OK;
}

/* ---- a template ---- */

/* Memory is reserved for the worst that a source of n bytes can be made into, and touched as far as it is needed. */
static enum status reserve(struct arena *arena, size_t bytes, struct err *err)
{
    arena_take(arena, 1, bytes);
    return arena_commit(arena, "a chat template", err);
}

static enum status parse_template(struct jinja *t, const char *source, size_t n, struct err *err)
{
    struct token *tokens;
    if (n > JINJA_MAX_SOURCE)
        return err_set(err, ERR_INPUT, "%s: has %zu bytes, want at most %d", t->where, n, JINJA_MAX_SOURCE);
    if (!utf8_is_name(source, n))
        return err_set(err, ERR_INPUT, "%s: is no UTF-8 text", t->where);
    TRY(reserve(&t->code, 65536 + 512 * n, err));
    TRY(reserve(&t->run, JINJA_MAX_MEMORY, err));
    TRY(jinja_lex(t, source, n, &tokens, err));
    struct parser p = {.template = t, .at = tokens, .err = err};
    for (struct node **last = &t->body; p.at->kind != TOKEN_END; last = &(*last)->next)
        TRY(parse_statement(&p, last));
    jinja_begin(t);
    return OK;
}

enum status jinja_parse(struct jinja **out, const char *source, size_t n, const char *where, struct err *err)
{
    struct jinja *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t || !(t->where = strdup(where))) {
        free(t);
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    }
    t->parsed = time(NULL);
    enum status status = parse_template(t, source, n, err);
    if (status == OK)
        *out = t;
    else
        jinja_free(t);
    return status;
}

void jinja_free(struct jinja *t)
{
    if (!t)
        return;
    arena_free(&t->code);
    arena_free(&t->run);
    free(t->where);
    free(t);
}
