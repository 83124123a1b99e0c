/* jinja_run.c: statements -> text; names and where they are seen; bounds on work, depth and memory. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "io/jinja_private.h"

/* ---- bounds and messages ---- */

enum { STEPS_A_POLL = 4096 };

enum status run_steps(struct run *r, size_t n)
{
    size_t before = r->steps / STEPS_A_POLL;
    r->steps += n;
    if (r->steps > JINJA_MAX_STEPS)
        return run_fail(r, "takes more than %d steps", JINJA_MAX_STEPS);
    return r->steps / STEPS_A_POLL == before ? OK : stop_check(r->err);
}

enum status run_enter(struct run *r)
{
    return ++r->depth > JINJA_MAX_DEPTH ? run_fail(r, "nested deeper than %d", JINJA_MAX_DEPTH) : OK;
}

enum status run_take(struct run *r, size_t n, void **out)
{
    TRY(run_steps(r, n / 64));
    return jinja_take(&r->template->run, n, r->template->where, out, r->err);
}

enum status run_fail(struct run *r, const char *format, ...)
{
    char sentence[768];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return err_set(r->err, ERR_INPUT, "%s: line %d: %s", r->template->where, r->line, sentence);
}

enum status run_lacks(struct run *r, const char *kind, const char *name)
{
    return run_fail(r, "%s%s is not among what this program knows of Jinja; choose another template (--chat-template, chat_template), such as chatml", kind, name);
}

/* ---- names ---- */

static struct binding *find(struct frame *frame, const char *name)
{
    for (struct binding *b = frame->first; b; b = b->next)
        if (strcmp(b->name, name) == 0)
            return b;
    return NULL;
}

static enum status bind(struct run *r, const char *name, struct value value)
{
    void *fresh;
    struct binding *known = find(r->frame, name);
    if (known) {
        known->value = value;
        return OK;
    }
    TRY(run_take(r, sizeof *known, &fresh));
    known = fresh;
    *known = (struct binding){.next = r->frame->first, .name = name, .value = value};
    r->frame->first = known;
    return OK;
}

static enum status push_frame(struct run *r, struct frame *up)
{
    void *frame;
    TRY(run_take(r, sizeof *r->frame, &frame));
    r->frame = frame;
    r->frame->up = up;
    return OK;
}

static enum status unpack(struct run *r, const struct node *names, struct value value)
{
    size_t n = 0;
    for (const struct node *name = names; name; name = name->next)
        n++;
    if (value.type != VALUE_LIST || value.list->n != n)
        return run_fail(r, "%s is unpacked to %zu names", value_type_name(value), n);
    for (size_t i = 0; i < n; i++, names = names->next)
        TRY(bind(r, names->s, value.list->item[i]));
    return OK;
}

enum status run_assign(struct run *r, const struct node *target, struct value value)
{
    struct value of;
    if (target->kind == NODE_NAME)
        return bind(r, target->s, value);
    if (target->kind == NODE_LIST)
        return unpack(r, target->a, value);
    TRY(jinja_eval(r, target->a, &of));
    if (of.type != VALUE_NAMESPACE)
        return run_fail(r, "'%s.%s' is set, and '%s' is %s; only a namespace can be", target->a->s, target->s, target->a->s, value_type_name(of));
    return value_dict_set(r, of, value_string(target->s, target->n), value);
}

/* ---- statements ---- */

static enum status put(struct run *r, const char *s, size_t n)
{
    text_add(r->out, s, n);
    return run_check_text(r, r->out);
}

static enum status run_if(struct run *r, const struct node *node)
{
    struct value condition;
    for (; node && node->kind == NODE_IF; node = node->c) {
        TRY(jinja_eval(r, node->a, &condition));
        if (value_true(condition))
            return run_statements(r, node->b);
        if (node->c && node->c->kind != NODE_IF)
            break;
    }
    return node ? run_statements(r, node->c) : OK;
}

/* What the filter of a loop leaves. */
static enum status filter_items(struct run *r, const struct node *node, struct value *items)
{
    struct value kept, condition;
    struct frame *outer = r->frame;
    TRY(value_list(r, &kept));
    for (size_t i = 0; i < items->list->n; i++) {
        TRY(push_frame(r, outer));
        TRY(run_assign(r, node->a, items->list->item[i]));
        TRY(jinja_eval(r, node->c, &condition));
        r->frame = outer;
        if (value_true(condition))
            TRY(value_list_add(r, kept, items->list->item[i]));
    }
    *items = kept;
    return OK;
}

static enum status run_for(struct run *r, const struct node *node)
{
    struct value sequence, items;
    struct frame *outer = r->frame;
    void *room;
    TRY(jinja_eval(r, node->b, &sequence));
    TRY(value_items(r, sequence, &items));
    if (node->c)
        TRY(filter_items(r, node, &items));
    if (items.list->n == 0)
        return run_statements(r, node->e);
    TRY(run_take(r, sizeof(struct loop), &room));
    struct loop *loop = room;
    *loop = (struct loop){.items = items.list};
    r->loops++;
    for (; loop->index0 < items.list->n && r->flow != FLOW_BREAK; loop->index0++) {
        TRY(push_frame(r, outer));
        TRY(bind(r, "loop", (struct value){.type = VALUE_LOOP, .loop = loop}));
        TRY(run_assign(r, node->a, items.list->item[loop->index0]));
        TRY(run_statements(r, node->d));
        r->flow = r->flow == FLOW_CONTINUE ? FLOW_ON : r->flow;
        r->frame = outer;
    }
    r->loops--;
    r->flow = FLOW_ON;
    return OK;
}

/* Statements whose text is a value: of a macro, of {% set x %}. */
static enum status gather(struct run *r, const struct node *body, struct value *out)
{
    struct text text = {0}, *outer = r->out;
    r->out = &text;
    enum status status = run_statements(r, body);
    r->out = outer;
    return value_from_text(r, &text, status, out);
}

static enum status run_set(struct run *r, const struct node *node)
{
    struct value value;
    if (!node->d) {
        TRY(jinja_eval(r, node->b, &value));
        return run_assign(r, node->a, value);
    }
    struct frame *outer = r->frame;
    TRY(push_frame(r, outer)); /* what is set inside stays there */
    TRY(gather(r, node->d, &value));
    r->frame = outer;
    if (node->b) { /* filters find the text under the name that the parser gave it */
        TRY(push_frame(r, outer));
        TRY(bind(r, "", value));
        TRY(jinja_eval(r, node->b, &value));
        r->frame = outer;
    }
    return run_assign(r, node->a, value);
}

static enum status run_define(struct run *r, const struct node *node)
{
    void *room;
    TRY(run_take(r, sizeof(struct macro), &room));
    struct macro *macro = room;
    *macro = (struct macro){.node = node, .frame = r->frame};
    return bind(r, node->s, (struct value){.type = VALUE_MACRO, .macro = macro});
}

static enum status run_generation(struct run *r, const struct node *node)
{
    size_t start = r->out->n;
    struct frame *outer = r->frame;
    TRY(push_frame(r, outer)); /* what is set inside stays there */
    TRY(run_statements(r, node->d));
    r->frame = outer;
    if (!r->spans || r->out != r->whole)
        return OK;
    struct jinja_spans *spans = r->spans;
    if (spans->n == spans->cap) {
        size_t cap = spans->cap ? 2 * spans->cap : 16;
        struct jinja_span *grown = realloc(spans->span, cap * sizeof *grown);
        if (!grown)
            return err_set(r->err, ERR_MEMORY, "out of memory for a chat template");
        spans->span = grown;
        spans->cap = cap;
    }
    spans->span[spans->n++] = (struct jinja_span){start, r->out->n};
    return OK;
}

static enum status run_statement(struct run *r, const struct node *node)
{
    struct value value;
    r->line = node->line;
    TRY(run_steps(r, 1));
    switch (node->kind) {
    case NODE_TEXT:
        return put(r, node->s, node->n);
    case NODE_PRINT:
        TRY(jinja_eval(r, node->a, &value));
        return value_print(r, value, r->out);
    case NODE_IF:
        return run_if(r, node);
    case NODE_FOR:
        return run_for(r, node);
    case NODE_SET:
        return run_set(r, node);
    case NODE_MACRO:
        return run_define(r, node);
    case NODE_GENERATION:
        return run_generation(r, node);
    default:
        if (r->loops == 0)
            return run_fail(r, "break or continue outside of a loop");
        r->flow = node->kind == NODE_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return OK;
    }
}

enum status run_statements(struct run *r, const struct node *statement)
{
    TRY(run_enter(r));
    for (; statement && r->flow == FLOW_ON; statement = statement->next)
        TRY(run_statement(r, statement));
    r->depth--;
    return OK;
}

/* ---- macros ---- */

/* The argument for a parameter: by place, by name, or NULL. */
static const struct value *argument(const struct arguments *given, size_t place, const char *name)
{
    for (size_t i = 0; i < given->n; i++)
        if (given->name[i] ? strcmp(given->name[i], name) == 0 : i == place)
            return &given->value[i];
    return NULL;
}

static enum status bind_parameters(struct run *r, const struct node *node, const struct arguments *given)
{
    size_t place = 0, taken = 0;
    for (const struct node *parameter = node->a; parameter; parameter = parameter->next, place++) {
        const struct value *found = argument(given, place, parameter->s);
        struct value value = value_undefined(parameter->s);
        taken += found != NULL;
        if (found)
            value = *found;
        else if (parameter->a)
            TRY(jinja_eval(r, parameter->a, &value));
        TRY(bind(r, parameter->s, value));
    }
    return taken == given->n ? OK : run_fail(r, "macro '%s' has no such parameters", node->s);
}

enum status run_macro(struct run *r, const struct macro *macro, const struct node *arguments, struct value *out)
{
    struct arguments given;
    struct frame *outer = r->frame;
    int line = r->line, loops = r->loops;
    TRY(eval_arguments(r, arguments, &given));
    TRY(push_frame(r, macro->frame));
    TRY(bind_parameters(r, macro->node, &given));
    r->loops = 0;
    TRY(gather(r, macro->node->d, out));
    r->loops = loops;
    r->frame = outer;
    r->line = line;
    return OK;
}

/* ---- from outside ---- */

/* Of variables that are made before the template runs. */
static struct run run_of(struct jinja *t, struct err *err)
{
    return (struct run){.template = t, .frame = t->variables, .err = err};
}

void jinja_begin(struct jinja *t)
{
    t->run.used = 0;
    t->run.overflow = false;
    t->variables = arena_take(&t->run, 1, sizeof *t->variables);
    memset(t->variables, 0, sizeof *t->variables);
}

enum status jinja_set(struct jinja *t, const char *name, struct value value, struct err *err)
{
    struct run r = run_of(t, err);
    return bind(&r, name, value);
}

enum status jinja_list(struct jinja *t, struct value *out, struct err *err)
{
    struct run r = run_of(t, err);
    return value_list(&r, out);
}

enum status jinja_append(struct jinja *t, struct value list, struct value item, struct err *err)
{
    struct run r = run_of(t, err);
    return value_list_add(&r, list, item);
}

enum status jinja_dict(struct jinja *t, struct value *out, struct err *err)
{
    struct run r = run_of(t, err);
    return value_dict(&r, out);
}

enum status jinja_put(struct jinja *t, struct value dict, const char *key, struct value item, struct err *err)
{
    struct run r = run_of(t, err);
    return value_dict_set(&r, dict, jinja_string(key), item);
}

static enum status json_number_value(const struct json *json, struct value *out, struct err *err)
{
    double number;
    int64_t whole;
    TRY(json_as_number(json, "a number", &number, err));
    bool is_whole = json_as_int(json, "a number", -JSON_MAX_INT, JSON_MAX_INT, &whole, NULL) == OK;
    *out = is_whole ? value_int(whole) : (struct value){.type = VALUE_FLOAT, .number = number};
    return OK;
}

enum status jinja_json(struct jinja *t, const struct json *json, struct value *out, struct err *err)
{
    const char *text;
    struct value item;
    switch (json_type(json)) {
    case JSON_NULL:
        *out = value_none();
        return OK;
    case JSON_BOOL:
        *out = jinja_bool(false);
        return json_as_bool(json, "a boolean", &out->boolean, err);
    case JSON_NUMBER:
        return json_number_value(json, out, err);
    case JSON_STRING:
        TRY(json_as_string(json, "a string", &text, err));
        *out = jinja_string(text);
        return OK;
    default:
        break;
    }
    bool list = json_type(json) == JSON_ARRAY;
    TRY(list ? jinja_list(t, out, err) : jinja_dict(t, out, err));
    for (const struct json *member = json_first(json); member; member = json_next(member)) {
        TRY(jinja_json(t, member, &item, err));
        TRY(list ? jinja_append(t, *out, item, err) : jinja_put(t, *out, json_key(member), item, err));
    }
    return OK;
}

enum status jinja_render(struct jinja *t, struct text *out, struct jinja_spans *spans, struct err *err)
{
    struct run r = {.template = t, .frame = t->variables, .out = out, .whole = out, .spans = spans, .err = err};
    return run_statements(&r, t->body);
}
