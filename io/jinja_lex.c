/* jinja_lex.c: a template's source -> tokens.  White space around marks is settled here: trim_blocks, lstrip_blocks, the signs - and +. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "io/jinja_private.h"

struct lexer {
    struct jinja *template;
    const char *s; /* [n], newlines made '\n' */
    size_t n, at;
    int line;
    size_t counted;  /* newlines before here are in `line` */
    bool fresh_line; /* the last mark took a newline with it */
    struct token *token;
    size_t n_tokens, cap;
    struct err *err;
};

static enum status fail(struct lexer *l, const char *what)
{
    return err_set(l->err, ERR_INPUT, "%s: line %d: %s", l->template->where, l->line, what);
}

static bool at_mark(const struct lexer *l, const char *mark)
{
    size_t n = strlen(mark);
    return l->n - l->at >= n && memcmp(l->s + l->at, mark, n) == 0;
}

static enum status push(struct lexer *l, enum token_kind kind, size_t start, size_t n)
{
    if (l->n_tokens == l->cap) {
        void *grown;
        size_t cap = l->cap ? 2 * l->cap : 64;
        TRY(jinja_take(&l->template->code, cap * sizeof *l->token, l->template->where, &grown, l->err));
        if (l->n_tokens)
            memcpy(grown, l->token, l->n_tokens * sizeof *l->token);
        l->token = grown;
        l->cap = cap;
    }
    for (; l->counted < start; l->counted++)
        l->line += l->s[l->counted] == '\n';
    l->token[l->n_tokens++] = (struct token){.kind = kind, .line = l->line, .s = l->s + start, .n = n};
    return OK;
}

/* ---- text and the marks that open ---- */

/* What is left of text[start, end) before a mark that is followed by `sign`; of a block or a comment when not `print`. */
static size_t text_end(const struct lexer *l, size_t start, size_t end, char sign, bool print)
{
    if (sign == '-')
        return end - space_behind(l->s + start, end - start);
    if (sign == '+' || print)
        return end;
    size_t line = end;
    while (line > start && l->s[line - 1] != '\n')
        line--;
    bool opens_line = line > start || l->fresh_line;
    return opens_line && space_before(l->s + line, end - line) == end - line ? line : end;
}

static char sign_at(const struct lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : 0;
}

/* Behind a mark that closes: with '-' all white space goes, without a sign one newline. */
static void trim_behind(struct lexer *l, char sign, bool one_newline)
{
    size_t start = l->at;
    if (sign == '-')
        l->at += space_before(l->s + l->at, l->n - l->at);
    else if (sign != '+' && one_newline && l->at < l->n && l->s[l->at] == '\n')
        l->at++;
    l->fresh_line = l->at > start && l->s[l->at - 1] == '\n';
}

static enum status lex_comment(struct lexer *l)
{
    const char *end = memmem(l->s + l->at, l->n - l->at, "#}", 2);
    if (!end)
        return fail(l, "a comment {# has no end #}");
    char sign = end > l->s + l->at ? end[-1] : 0;
    l->at = (size_t)(end - l->s) + 2;
    trim_behind(l, sign, true);
    return OK;
}

/* `{% raw %}`, its sign included: bytes it takes, 0: something else. */
static size_t tag_length(const struct lexer *l, size_t at, const char *name, char *closing)
{
    size_t start = at, n = strlen(name);
    at += 2;
    at += sign_at(l, at) != 0;
    at += space_before(l->s + at, l->n - at);
    if (l->n - at < n || memcmp(l->s + at, name, n) != 0)
        return 0;
    at += n;
    at += space_before(l->s + at, l->n - at);
    *closing = sign_at(l, at);
    at += *closing != 0;
    return l->n - at >= 2 && memcmp(l->s + at, "%}", 2) == 0 ? at + 2 - start : 0;
}

static enum status lex_raw(struct lexer *l, size_t tag, char closing)
{
    l->at += tag;
    trim_behind(l, closing, false);
    for (size_t end = l->at; end + 2 <= l->n; end++) {
        size_t n = memcmp(l->s + end, "{%", 2) == 0 ? tag_length(l, end, "endraw", &closing) : 0;
        if (n == 0)
            continue;
        size_t stop = text_end(l, l->at, end, sign_at(l, end + 2), false);
        TRY(push(l, TOKEN_TEXT, l->at, stop - l->at));
        l->at = end + n;
        trim_behind(l, closing, true);
        return OK;
    }
    return fail(l, "{% raw %} has no {% endraw %}");
}

/* ---- inside of {{ }} and {% %} ---- */

static size_t name_length(const char *s, size_t n)
{
    size_t k = 0;
    while (k < n && (isalnum((unsigned char)s[k]) || s[k] == '_'))
        k++;
    return k;
}

static size_t digits(const char *s, size_t n)
{
    size_t k = 0;
    while (k < n && (isdigit((unsigned char)s[k]) || (k > 0 && s[k] == '_' && k + 1 < n && isdigit((unsigned char)s[k + 1]))))
        k++;
    return k;
}

static enum status lex_number(struct lexer *l)
{
    const char *s = l->s + l->at;
    size_t n = l->n - l->at, k = digits(s, n);
    bool whole = true;
    if (k + 1 < n && s[k] == '.' && isdigit((unsigned char)s[k + 1])) {
        k += 1 + digits(s + k + 1, n - k - 1);
        whole = false;
    }
    size_t e = k + 1;
    if (k < n && (s[k] == 'e' || s[k] == 'E')) {
        e += e < n && (s[e] == '+' || s[e] == '-');
        if (e < n && isdigit((unsigned char)s[e])) {
            k = e + digits(s + e, n - e);
            whole = false;
        }
    }
    TRY(push(l, whole ? TOKEN_INTEGER : TOKEN_FLOAT, l->at, k));
    l->at += k;
    return OK;
}

static enum status lex_string(struct lexer *l)
{
    size_t end = l->at + 1;
    while (end < l->n && l->s[end] != l->s[l->at])
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        return fail(l, "a string has no end");
    TRY(push(l, TOKEN_STRING, l->at, end + 1 - l->at));
    l->at = end + 1;
    return OK;
}

/* depth: brackets that are open. */
static enum status lex_sign(struct lexer *l, int *depth)
{
    static const char two[][3] = {"//", "**", "==", "!=", ">=", "<="};
    size_t n = 1;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        n = at_mark(l, two[i]) ? 2 : n;
    char c = l->s[l->at], word[64];
    if (!strchr("+-*/%~[](){}<>=.:|,;!", c) || (c == '!' && n == 1)) {
        snprintf(word, sizeof word, "a character that has no meaning here (byte 0x%02x)", (unsigned char)c);
        return fail(l, word);
    }
    *depth += strchr("([{", c) ? 1 : strchr(")]}", c) ? -1 : 0;
    TRY(push(l, TOKEN_SIGN, l->at, n));
    l->at += n;
    return OK;
}

static enum status lex_inside(struct lexer *l, bool print)
{
    const char *end = print ? "}}" : "%}", *what = print ? "{{ has no end }}" : "{% has no end %}";
    int depth = 0;
    while (l->at < l->n) {
        l->at += space_before(l->s + l->at, l->n - l->at);
        char c = l->at < l->n ? l->s[l->at] : 0, sign = sign_at(l, l->at);
        bool closes = depth <= 0 && (at_mark(l, end) || (sign && !(print && sign == '+') && l->n - l->at > 2 && memcmp(l->s + l->at + 1, end, 2) == 0));
        if (closes) {
            TRY(push(l, print ? TOKEN_PRINT_END : TOKEN_BLOCK_END, l->at, 0));
            l->at += at_mark(l, end) ? 2 : 3;
            trim_behind(l, c == *end ? 0 : sign, !print);
            return OK;
        }
        if (c == 0)
            break;
        if (isalpha((unsigned char)c) || c == '_') {
            size_t n = name_length(l->s + l->at, l->n - l->at);
            TRY(push(l, TOKEN_NAME, l->at, n));
            l->at += n;
        } else {
            TRY(isdigit((unsigned char)c)      ? lex_number(l)
                : c == '"' || c == '\'' ? lex_string(l)
                                               : lex_sign(l, &depth));
        }
    }
    return fail(l, what);
}

/* Text up to the next mark, and what the mark opens. */
static enum status lex_next(struct lexer *l)
{
    size_t start = l->at, end = start;
    while (end < l->n && !(l->s[end] == '{' && end + 1 < l->n && strchr("{%#", l->s[end + 1])))
        end++;
    if (end == l->n) {
        l->at = end;
        return push(l, TOKEN_TEXT, start, end - start);
    }
    char kind = l->s[end + 1], sign = sign_at(l, end + 2), closing;
    size_t stop = text_end(l, start, end, sign, kind == '{');
    if (stop > start)
        TRY(push(l, TOKEN_TEXT, start, stop - start));
    l->at = end;
    size_t raw = kind == '%' ? tag_length(l, end, "raw", &closing) : 0;
    if (raw)
        return lex_raw(l, raw, closing);
    l->at += sign ? 3 : 2;
    if (kind == '#')
        return lex_comment(l);
    TRY(push(l, kind == '{' ? TOKEN_PRINT : TOKEN_BLOCK, end, 2));
    return lex_inside(l, kind == '{');
}

/* "\r\n" and "\r" are newlines too; one at the end is none. */
static size_t copy_source(char *to, const char *source, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        to[k++] = source[i] == '\r' ? '\n' : source[i];
    }
    return k > 0 && to[k - 1] == '\n' ? k - 1 : k;
}

enum status jinja_lex(struct jinja *template, const char *source, size_t n, struct token **tokens, struct err *err)
{
    void *copy;
    TRY(jinja_take(&template->code, n + 1, template->where, &copy, err));
    struct lexer l = {.template = template, .s = copy, .n = copy_source(copy, source, n), .line = 1, .fresh_line = true, .err = err};
    while (l.at < l.n)
        TRY(lex_next(&l));
    TRY(push(&l, TOKEN_END, l.n, 0));
    *tokens = l.token;
    return OK;
}
