/* jinja_eval.c: the tree of an expression -> a value. */
#include <math.h>
#include <string.h>

#include "io/jinja_private.h"

/* ---- names ---- */

static enum status eval_name(struct run *r, const struct node *node, struct value *out)
{
    size_t steps = 1;
    for (const struct frame *frame = r->frame; frame; frame = frame->up)
        for (const struct binding *b = frame->first; b; b = b->next, steps++)
            if (strcmp(b->name, node->s) == 0) {
                *out = b->value;
                return run_steps(r, steps / 8);
            }
    const char *function = jinja_function(node->s);
    *out = function ? (struct value){.type = VALUE_FUNCTION, .s = function} : value_undefined(node->s);
    return OK;
}

/* ---- lists, dicts, slices ---- */

static enum status eval_list(struct run *r, const struct node *node, struct value *out)
{
    struct value item;
    TRY(value_list(r, out));
    out->list->tuple = node->n > 0;
    for (const struct node *n = node->a; n; n = n->next) {
        TRY(jinja_eval(r, n, &item));
        TRY(value_list_add(r, *out, item));
    }
    return OK;
}

static enum status eval_dict(struct run *r, const struct node *node, struct value *out)
{
    struct value key, item;
    TRY(value_dict(r, out));
    for (const struct node *n = node->a; n; n = n->next->next) {
        TRY(jinja_eval(r, n, &key));
        TRY(jinja_eval(r, n->next, &item));
        TRY(value_dict_set(r, *out, key, item));
    }
    return OK;
}

static enum status eval_item(struct run *r, const struct node *node, struct value *out)
{
    struct value of, key;
    TRY(jinja_eval(r, node->a, &of));
    TRY(jinja_eval(r, node->b, &key));
    return value_item(r, of, key, out);
}

static enum status eval_slice(struct run *r, const struct node *node, struct value *out)
{
    struct value of, bound[3] = {0};
    const struct node *nodes[3] = {node->b, node->c, node->d};
    TRY(jinja_eval(r, node->a, &of));
    for (int i = 0; i < 3; i++)
        if (nodes[i])
            TRY(jinja_eval(r, nodes[i], &bound[i]));
    return value_slice(r, of, bound[0], bound[1], bound[2], out);
}

/* ---- operators ---- */

static int64_t whole(struct value v)
{
    return v.type == VALUE_BOOL ? v.boolean : v.integer;
}

/* Rounded down, as Python divides. */
static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static enum status integers(struct run *r, enum op op, int64_t a, int64_t b, struct value *out)
{
    int64_t result = 0;
    bool division = op == OP_FLOOR_DIV || op == OP_MOD, failed = false;
    if (division && b == 0)
        return run_fail(r, "a division by 0");
    if (division && b == -1)
        failed = op == OP_FLOOR_DIV ? __builtin_sub_overflow((int64_t)0, a, &result) : false;
    else
        switch (op) {
        case OP_ADD:
            failed = __builtin_add_overflow(a, b, &result);
            break;
        case OP_SUB:
            failed = __builtin_sub_overflow(a, b, &result);
            break;
        case OP_MUL:
            failed = __builtin_mul_overflow(a, b, &result);
            break;
        case OP_FLOOR_DIV:
            result = floor_div(a, b);
            break;
        default:
            result = a - b * floor_div(a, b);
        }
    if (failed)
        return run_fail(r, "a number beyond 64 bits");
    *out = value_int(result);
    return OK;
}

static enum status floats(struct run *r, enum op op, double a, double b, struct value *out)
{
    if ((op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD) && b == 0)
        return run_fail(r, "a division by 0");
    double result = op == OP_ADD ? a + b : op == OP_SUB ? a - b : op == OP_MUL ? a * b : op == OP_DIV ? a / b : floor(a / b);
    if (op == OP_MOD) {
        result = fmod(a, b);
        result += result != 0 && (result < 0) != (b < 0) ? b : 0;
    }
    *out = (struct value){.type = VALUE_FLOAT, .number = result};
    return OK;
}

static enum status join_strings(struct run *r, struct value a, struct value b, struct value *out)
{
    void *s;
    TRY(run_take(r, a.n + b.n + 1, &s));
    memcpy(s, a.s ? a.s : "", a.n);
    memcpy((char *)s + a.n, b.s ? b.s : "", b.n);
    *out = value_string(s, a.n + b.n);
    return OK;
}

static enum status join_lists(struct run *r, struct value a, struct value b, struct value *out)
{
    TRY(value_list(r, out));
    out->list->tuple = a.list->tuple;
    for (size_t i = 0; i < a.list->n + b.list->n; i++)
        TRY(value_list_add(r, *out, i < a.list->n ? a.list->item[i] : b.list->item[i - a.list->n]));
    return OK;
}

static enum status repeat(struct run *r, struct value s, int64_t times, struct value *out)
{
    struct text text = {0};
    TRY(run_steps(r, times > 0 && times < JINJA_MAX_STEPS ? (size_t)times : 1));
    for (int64_t i = 0; i < times && text.n <= JINJA_MAX_OUTPUT && s.n > 0; i++)
        text_add(&text, s.s, s.n);
    return value_from_text(r, &text, OK, out);
}

static enum status concat(struct run *r, struct value a, struct value b, struct value *out)
{
    TRY(value_to_string(r, a, &a));
    TRY(value_to_string(r, b, &b));
    return join_strings(r, a, b, out);
}

static enum status eval_binary(struct run *r, const struct node *node, struct value *out)
{
    static const char *const words[] = {"+", "-", "*", "/", "//", "%"};
    struct value a, b;
    enum op op = node->op;
    TRY(jinja_eval(r, node->a, &a));
    TRY(jinja_eval(r, node->b, &b));
    r->line = node->line;
    if (op == OP_CONCAT)
        return concat(r, a, b, out);
    if (value_is_number(a) && value_is_number(b)) {
        if (op != OP_DIV && a.type != VALUE_FLOAT && b.type != VALUE_FLOAT)
            return integers(r, op, whole(a), whole(b), out);
        return floats(r, op, value_number(a), value_number(b), out);
    }
    if (op == OP_ADD && a.type == VALUE_STRING && b.type == VALUE_STRING)
        return join_strings(r, a, b, out);
    if (op == OP_ADD && a.type == VALUE_LIST && b.type == VALUE_LIST && a.list->tuple == b.list->tuple)
        return join_lists(r, a, b, out);
    if (op == OP_MUL && a.type == VALUE_STRING && b.type == VALUE_INT)
        return repeat(r, a, b.integer, out);
    if (a.type == VALUE_UNDEFINED || b.type == VALUE_UNDEFINED) {
        const char *name = a.type == VALUE_UNDEFINED ? a.s : b.s;
        return run_fail(r, "'%s' is undefined, and '%s' needs it", name ? name : "a value", words[op]);
    }
    return run_fail(r, "'%s' between %s and %s", words[op], value_type_name(a), value_type_name(b));
}

static enum status compare(struct run *r, enum op op, struct value a, struct value b, bool *out)
{
    bool swapped = op == OP_GT || op == OP_LE, negated = op == OP_NE || op == OP_LE || op == OP_GE || op == OP_NOT_IN;
    if (op == OP_EQ || op == OP_NE)
        TRY(value_equal(r, a, b, out));
    else if (op == OP_IN || op == OP_NOT_IN)
        TRY(value_contains(r, b, a, out));
    else
        TRY(swapped ? value_less(r, b, a, out) : value_less(r, a, b, out));
    *out = *out != negated;
    return OK;
}

static enum status eval_compare(struct run *r, const struct node *node, struct value *out)
{
    struct value a, b;
    bool holds = true;
    TRY(jinja_eval(r, node->a, &a));
    for (const struct node *n = node->b; n && holds; n = n->next, a = b) {
        TRY(jinja_eval(r, n->a, &b));
        r->line = n->line;
        TRY(compare(r, n->op, a, b, &holds));
    }
    *out = jinja_bool(holds);
    return OK;
}

static enum status eval_sign(struct run *r, const struct node *node, struct value *out)
{
    TRY(jinja_eval(r, node->a, out));
    if (!value_is_number(*out))
        return run_fail(r, "a sign in front of %s", value_type_name(*out));
    if (out->type == VALUE_FLOAT)
        out->number = node->kind == NODE_MINUS ? -out->number : out->number;
    else
        return integers(r, node->kind == NODE_MINUS ? OP_SUB : OP_ADD, 0, whole(*out), out);
    return OK;
}

static enum status eval_condition(struct run *r, const struct node *node, struct value *out)
{
    TRY(jinja_eval(r, node->a, out));
    const struct node *choice = value_true(*out) ? node->b : node->c;
    *out = value_undefined("the else of an if");
    return choice ? jinja_eval(r, choice, out) : OK;
}

/* ---- calls ---- */

enum status eval_arguments(struct run *r, const struct node *list, struct arguments *out)
{
    memset(out, 0, sizeof *out);
    for (const struct node *n = list; n; n = n->next) {
        if (out->n == MAX_ARGUMENTS)
            return run_fail(r, "more than %d arguments", MAX_ARGUMENTS);
        out->name[out->n] = n->kind == NODE_NAMED ? n->s : NULL;
        TRY(jinja_eval(r, n->kind == NODE_NAMED ? n->a : n, &out->value[out->n]));
        out->n++;
    }
    return OK;
}

enum status bind_arguments(struct run *r, const char *what, const struct arguments *arguments, const char *parameters, struct value bound[MAX_PARAMETERS])
{
    memset(bound, 0, MAX_PARAMETERS * sizeof *bound);
    for (size_t i = 0; i < arguments->n; i++) {
        const char *name = parameters;
        size_t place = 0, n = strcspn(name, " ");
        bool found = false;
        for (; *name; name += n + (name[n] == ' '), n = strcspn(name, " "), place++) {
            const char *given = arguments->name[i];
            found = given ? strlen(given) == n && memcmp(given, name, n) == 0 : place == i;
            if (found)
                break;
        }
        if (!found)
            return run_fail(r, "%s has an argument%s%s that this program does not know", what, arguments->name[i] ? " " : "",
                            arguments->name[i] ? arguments->name[i] : "");
        bound[place] = arguments->value[i];
    }
    return OK;
}

static enum status eval_call(struct run *r, const struct node *node, struct value *out)
{
    struct value of;
    struct arguments arguments;
    const struct node *callee = node->a;
    TRY(jinja_eval(r, callee->kind == NODE_ATTRIBUTE ? callee->a : callee, &of));
    if (callee->kind == NODE_ATTRIBUTE) {
        TRY(eval_arguments(r, node->b, &arguments));
        r->line = node->line;
        return apply_method(r, callee->s, of, &arguments, out);
    }
    if (of.type == VALUE_MACRO)
        return run_macro(r, of.macro, node->b, out);
    TRY(eval_arguments(r, node->b, &arguments));
    r->line = node->line;
    if (of.type == VALUE_FUNCTION)
        return apply_function(r, of.s, &arguments, out);
    if (of.type == VALUE_UNDEFINED)
        return run_lacks(r, "the function ", of.s ? of.s : "that is called");
    return run_fail(r, "%s is called", value_type_name(of));
}

static enum status eval_filter(struct run *r, const struct node *node, struct value *out)
{
    struct value in;
    struct arguments arguments;
    TRY(jinja_eval(r, node->a, &in));
    TRY(eval_arguments(r, node->b, &arguments));
    r->line = node->line;
    return apply_filter(r, node->s, in, &arguments, out);
}

static enum status eval_test(struct run *r, const struct node *node, struct value *out)
{
    struct value in;
    struct arguments arguments;
    TRY(jinja_eval(r, node->a, &in));
    TRY(eval_arguments(r, node->b, &arguments));
    r->line = node->line;
    *out = jinja_bool(false);
    return apply_test(r, node->s, in, &arguments, &out->boolean);
}

static enum status eval_node(struct run *r, const struct node *node, struct value *out)
{
    switch (node->kind) {
    case NODE_VALUE:
        *out = node->value;
        return OK;
    case NODE_NAME:
        return eval_name(r, node, out);
    case NODE_LIST:
        return eval_list(r, node, out);
    case NODE_DICT:
        return eval_dict(r, node, out);
    case NODE_ATTRIBUTE:
        TRY(jinja_eval(r, node->a, out));
        return value_attribute(r, *out, node->s, out);
    case NODE_ITEM:
        return eval_item(r, node, out);
    case NODE_SLICE:
        return eval_slice(r, node, out);
    case NODE_CALL:
        return eval_call(r, node, out);
    case NODE_FILTER:
        return eval_filter(r, node, out);
    case NODE_TEST:
        return eval_test(r, node, out);
    case NODE_NOT:
        TRY(jinja_eval(r, node->a, out));
        *out = jinja_bool(!value_true(*out));
        return OK;
    case NODE_MINUS:
    case NODE_PLUS:
        return eval_sign(r, node, out);
    case NODE_AND:
    case NODE_OR:
        TRY(jinja_eval(r, node->a, out));
        return value_true(*out) == (node->kind == NODE_AND) ? jinja_eval(r, node->b, out) : OK;
    case NODE_BINARY:
        return eval_binary(r, node, out);
    case NODE_COMPARE:
        return eval_compare(r, node, out);
    default:
        return eval_condition(r, node, out);
    }
}

enum status jinja_eval(struct run *r, const struct node *node, struct value *out)
{
    r->line = node->line;
    TRY(run_steps(r, 1));
    TRY(run_enter(r));
    TRY(eval_node(r, node, out));
    r->depth--;
    return OK;
}
