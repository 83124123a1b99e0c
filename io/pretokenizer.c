/* pretokenizer.c: what happens to text before BPE: rules that rewrite it (Unicode forms, prefixes, replacements), regular expressions that cut
 * it.  The components are those of huggingface/tokenizers; expressions are written as Oniguruma reads them, there, and turned into PCRE2's.
 * The only room that includes utf8proc. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/json.h"
#include "io/regex.h"
#include "io/tokenizer_private.h"

enum { MAX_RULES = 16, MAX_CUTS = 8 };
enum rule_kind { RULE_FORM, RULE_PREPEND, RULE_PREFIX, RULE_REPLACE };

struct rule {
    enum rule_kind kind;
    enum unicode_form form;
    bool first;
    char *text; /* owned: what is put in front, or in the place of matches */
    struct regex *pattern;
};

struct cut {
    char *source; /* owned */
    struct regex *pattern;
    bool drop;
};

struct pretokenizer {
    struct rule rule[2][MAX_RULES];
    int n_rules[2];
    struct cut cut[MAX_CUTS];
    int n_cuts;
};

/* ---- expressions ---- */

/* Oniguruma's \s is Unicode's White_Space; PCRE2's would count U+180E too. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

struct reading {
    const char *at, *pattern, *where;
    bool bracket; /* inside [...] */
    struct text out;
    struct err *err;
};

static enum status foreign(const struct reading *r, const char *what)
{
    return err_set(r->err, ERR_INPUT, "%s: the regular expression '%.200s' has %s, which this reader does not know; use the model's GGUF instead",
                   r->where, r->pattern, what);
}

static void copy(struct reading *r, size_t n)
{
    text_add(&r->out, r->at, n);
    r->at += n;
}

static enum status read_escape(struct reading *r)
{
    char c = r->at[1];
    if (c == 0 || strchr("hHRXKQEGyYgkCNOo", c)) {
        char what[] = {'\\', c, 0};
        return foreign(r, what);
    }
    if (c == 's' || (c == 'S' && !r->bracket)) {
        text_puts(&r->out, r->bracket ? SPACE : c == 's' ? "[" SPACE "]" : "[^" SPACE "]");
        r->at += 2;
        return OK;
    }
    const char *close = strchr("pPx", c) && r->at[2] == '{' ? strchr(r->at, '}') : NULL;
    copy(r, close ? (size_t)(close + 1 - r->at) : 2);
    return OK;
}

static enum status read_bracket(struct reading *r)
{
    if (r->bracket) {
        if (r->at[1] != ':')
            return foreign(r, "a bracket inside brackets");
        copy(r, 1);
        return OK;
    }
    r->bracket = true;
    copy(r, r->at[1] == '^' ? 2 : 1);
    if (*r->at == ']') { /* the first one is a character */
        text_puts(&r->out, "\\]");
        r->at++;
    }
    return OK;
}

/* (?i:...) and the like mean the same in both; (?m is another thing in Ruby's syntax. */
static enum status read_group(struct reading *r)
{
    size_t n = r->at[1] == '?' ? strspn(r->at + 2, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") : 0;
    if (n != (n ? strspn(r->at + 2, "ix-") : 0) || (r->at[1] == '?' && n == 0 && !strchr(":=!<>", r->at[2])) || r->at[1] == '*')
        return foreign(r, "a group of another kind than (?:, (?i, (?=, (?!, (?<, (?>");
    copy(r, 1);
    return OK;
}

static enum status read_expression(struct reading *r)
{
    while (*r->at) {
        if (*r->at == '\\')
            TRY(read_escape(r));
        else if (*r->at == '[')
            TRY(read_bracket(r));
        else if (*r->at == '(' && !r->bracket)
            TRY(read_group(r));
        else if (r->bracket && r->at[0] == '&' && r->at[1] == '&')
            return foreign(r, "an intersection (&&)");
        else if (!r->bracket && r->at[0] == '}' && r->at[1] == '+')
            return foreign(r, "}+");
        else {
            r->bracket = r->bracket && *r->at != ']';
            copy(r, 1);
        }
    }
    return OK;
}

void pretokenizer_escape(const char *s, struct text *out)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 128 && !(*s >= 'a' && *s <= 'z') && !(*s >= 'A' && *s <= 'Z') && !(*s >= '0' && *s <= '9'))
            text_puts(out, "\\");
        text_add(out, s, 1);
    }
}

static enum status compile(const char *pattern, const char *source, const char *where, struct regex **out, struct err *err)
{
    struct err why;
    size_t at;
    enum status status = regex_new(out, pattern, REGEX_MULTILINE | REGEX_JIT, &at, &why);
    if (status != OK)
        return err_set(err, status, "%s: the regular expression '%.200s' is not understood: %s; use the model's GGUF instead", where, source, why.text);
    if (!regex_takes_nothing(*out))
        return OK;
    regex_free(*out);
    *out = NULL;
    return err_set(err, ERR_INPUT, "%s: the regular expression '%.200s' matches nothing at all, want one that takes a character", where, source);
}

static enum status expression(const char *pattern, bool literal, const char *where, struct regex **out, struct err *err)
{
    struct reading r = {.at = pattern, .pattern = pattern, .where = where, .err = err};
    enum status status = OK;
    if (literal)
        pretokenizer_escape(pattern, &r.out);
    else
        status = read_expression(&r);
    text_add(&r.out, "", 0);
    if (status == OK)
        status = r.out.failed ? err_set(err, ERR_MEMORY, "out of memory for a pre-tokenizer") : compile(r.out.s, pattern, where, out, err);
    text_free(&r.out);
    return status;
}

/* ---- building ---- */

enum status pretokenizer_new(struct pretokenizer **p, struct err *err)
{
    *p = calloc(1, sizeof **p);
    return *p ? OK : err_set(err, ERR_MEMORY, "out of memory for a pre-tokenizer");
}

void pretokenizer_free(struct pretokenizer *p)
{
    if (!p)
        return;
    for (int list = 0; list < 2; list++)
        for (int i = 0; i < p->n_rules[list]; i++) {
            free(p->rule[list][i].text);
            regex_free(p->rule[list][i].pattern);
        }
    for (int i = 0; i < p->n_cuts; i++) {
        free(p->cut[i].source);
        regex_free(p->cut[i].pattern);
    }
    free(p);
}

static enum status add_rule(struct pretokenizer *p, enum rules list, struct rule rule, const char *text, const char *where, struct err *err)
{
    rule.text = text ? strdup(text) : NULL;
    bool full = p->n_rules[list] == MAX_RULES;
    if (full || (text && !rule.text)) {
        free(rule.text);
        regex_free(rule.pattern);
        return full ? err_set(err, ERR_INPUT, "%s: has more than %d steps", where, MAX_RULES)
                    : err_set(err, ERR_MEMORY, "out of memory for a pre-tokenizer");
    }
    p->rule[list][p->n_rules[list]++] = rule;
    return OK;
}

enum status pretokenizer_add_form(struct pretokenizer *p, enum unicode_form form, const char *where, struct err *err)
{
    return add_rule(p, RULES_NORMALIZER, (struct rule){.kind = RULE_FORM, .form = form}, NULL, where, err);
}

enum status pretokenizer_add_prepend(struct pretokenizer *p, const char *text, const char *where, struct err *err)
{
    return add_rule(p, RULES_NORMALIZER, (struct rule){.kind = RULE_PREPEND}, text, where, err);
}

enum status pretokenizer_add_prefix(struct pretokenizer *p, const char *text, bool first, const char *where, struct err *err)
{
    return add_rule(p, RULES_PRETOKENIZER, (struct rule){.kind = RULE_PREFIX, .first = first}, text, where, err);
}

enum status pretokenizer_add_replace(struct pretokenizer *p, enum rules list, const char *pattern, bool literal, const char *with, const char *where,
                                     struct err *err)
{
    struct rule rule = {.kind = RULE_REPLACE};
    TRY(expression(pattern, literal, where, &rule.pattern, err));
    return add_rule(p, list, rule, with, where, err);
}

enum status pretokenizer_add_cut(struct pretokenizer *p, const char *pattern, bool literal, bool drop, const char *where, struct err *err)
{
    struct cut *cut = &p->cut[p->n_cuts];
    if (p->n_cuts == MAX_CUTS)
        return err_set(err, ERR_INPUT, "%s: cuts text more than %d times", where, MAX_CUTS);
    *cut = (struct cut){.drop = drop};
    TRY(expression(pattern, literal, where, &cut->pattern, err));
    p->n_cuts++;
    cut->source = strdup(pattern);
    return cut->source ? OK : err_set(err, ERR_MEMORY, "out of memory for a pre-tokenizer");
}

/* ---- llama.cpp's names ---- */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BEHIND "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char pretokenizer_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char pretokenizer_digit[] = "\\p{N}", pretokenizer_digits[] = "\\p{N}+";
static const char llama3[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" BEHIND;
static const char qwen2[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" BEHIND;

/* Of two names for the same cuts the first is the one that is written. */
static const struct known {
    const char *name, *cut[2];
    bool ignore_merges;
} known_cuts[] = {
    {"gpt-2", {pretokenizer_gpt2, NULL}, false}, {"default", {pretokenizer_gpt2, NULL}, false},
    {"smollm", {pretokenizer_digit, pretokenizer_gpt2}, false}, {"starcoder", {pretokenizer_digit, pretokenizer_gpt2}, false},
    {"llama-bpe", {llama3, NULL}, true}, {"llama3", {llama3, NULL}, true}, {"qwen2", {qwen2, NULL}, false},
};

const char *pretokenizer_name(const struct pretokenizer *p, bool ignore_merges)
{
    for (size_t i = 0; i < sizeof known_cuts / sizeof *known_cuts; i++) {
        const struct known *k = &known_cuts[i];
        bool same = p->n_cuts == (k->cut[1] ? 2 : 1) && k->ignore_merges == ignore_merges;
        for (int j = 0; same && j < p->n_cuts; j++)
            same = !p->cut[j].drop && strcmp(p->cut[j].source, k->cut[j]) == 0;
        if (same && p->n_rules[RULES_PRETOKENIZER] == 0)
            return k->name;
    }
    return NULL;
}

enum status pretokenizer_add_named(struct pretokenizer *p, const char *name, bool *known, bool *ignore_merges, struct err *err)
{
    *known = false;
    for (size_t i = 0; i < sizeof known_cuts / sizeof *known_cuts && !*known; i++) {
        const struct known *k = &known_cuts[i];
        if (strcmp(name, k->name) != 0)
            continue;
        *known = true;
        *ignore_merges = k->ignore_merges;
        for (int j = 0; j < 2 && k->cut[j]; j++)
            TRY(pretokenizer_add_cut(p, k->cut[j], false, false, name, err));
    }
    return OK;
}

const char *pretokenizer_expression(const struct pretokenizer *p, int i)
{
    return i < p->n_cuts ? p->cut[i].source : NULL;
}

/* ---- matching ---- */

/* The next match in s[n] from `at`; *from = n: none. */
static enum status next_match(const struct regex *pattern, struct regex_match *match, const char *s, size_t n, size_t at, size_t *from, size_t *to,
                              struct err *err)
{
    struct err why;
    bool found;
    enum status status = regex_next(pattern, match, s, n, at, &found, &why);
    if (status != OK)
        return err_set(err, status, "the tokenizer's regular expression gives up on this text behind byte %zu: %s", at, why.text);
    *from = *to = n;
    if (found)
        regex_group(match, 0, from, to);
    if (found && *to <= *from) /* \K and look-arounds are the ways to this */
        return err_set(err, ERR_INPUT, "the tokenizer's regular expression matches nothing at all at byte %zu of this text", *from);
    return OK;
}

/* ---- rewriting ---- */

static enum status compose(enum unicode_form form, const struct text *in, struct text *out, struct err *err)
{
    static const int options[] = {[FORM_NFC] = UTF8PROC_COMPOSE, [FORM_NFD] = UTF8PROC_DECOMPOSE, [FORM_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  [FORM_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)in->s, (utf8proc_ssize_t)in->n, &made, (utf8proc_option_t)(UTF8PROC_STABLE | options[form]));
    if (n >= 0)
        text_add(out, (const char *)made, (size_t)n);
    free(made);
    return n >= 0 ? OK : err_set(err, ERR_MEMORY, "a text could not be normalized: %s", utf8proc_errmsg(n));
}

static enum status replace(const struct rule *rule, const struct text *in, struct text *out, struct err *err)
{
    struct regex_match *match = regex_match_new(rule->pattern);
    enum status status = match ? OK : err_set(err, ERR_MEMORY, "out of memory for tokenizing");
    for (size_t at = 0, from, to; status == OK && at < in->n; at = to) {
        status = next_match(rule->pattern, match, in->s, in->n, at, &from, &to, err);
        text_add(out, in->s + at, from - at);
        if (to > from)
            text_puts(out, rule->text);
    }
    regex_match_free(match);
    return status;
}

static bool is_ascii(const struct text *in)
{
    unsigned char all = 0;
    for (size_t i = 0; i < in->n; i++)
        all |= (unsigned char)in->s[i];
    return all < 128;
}

static enum status apply(const struct rule *rule, bool first, const struct text *in, struct text *out, struct err *err)
{
    size_t n = rule->text ? strlen(rule->text) : 0;
    if (rule->kind == RULE_REPLACE)
        return replace(rule, in, out, err);
    if (rule->kind == RULE_FORM && !is_ascii(in))
        return compose(rule->form, in, out, err);
    bool there = in->n >= n && n && memcmp(in->s, rule->text, n) == 0;
    if (in->n && (rule->kind == RULE_PREPEND || (rule->kind == RULE_PREFIX && !there && (first || !rule->first))))
        text_add(out, rule->text, n);
    text_add(out, in->s, in->n);
    return OK;
}

bool pretokenizer_rewrites(const struct pretokenizer *p, enum rules list)
{
    return p->n_rules[list] > 0;
}

enum status pretokenizer_rewrite(const struct pretokenizer *p, enum rules list, const char *text, size_t n, bool first, struct text *out,
                                 struct err *err)
{
    struct text now = {0};
    enum status status = OK;
    text_add(&now, text, n);
    for (int i = 0; status == OK && !now.failed && i < p->n_rules[list]; i++) {
        struct text next = {0};
        text_add(&next, "", 0);
        status = apply(&p->rule[list][i], first, &now, &next, err);
        text_free(&now);
        now = next;
    }
    if (status == OK && now.failed)
        status = err_set(err, ERR_MEMORY, "out of memory for tokenizing");
    *out = now;
    if (status != OK)
        text_free(out);
    return status;
}

/* ---- cutting ---- */

struct cutting {
    const struct pretokenizer *p;
    struct regex_match *match[MAX_CUTS];
    enum status (*each)(void *user, const char *s, size_t n);
    void *user;
    struct err *err;
};

static enum status cut_text(struct cutting *c, int level, const char *s, size_t n)
{
    if (level == c->p->n_cuts)
        return c->each(c->user, s, n);
    const struct cut *cut = &c->p->cut[level];
    for (size_t at = 0, from, to; at < n; at = to) {
        TRY(next_match(cut->pattern, c->match[level], s, n, at, &from, &to, c->err));
        if (from > at && !cut->drop)
            TRY(cut_text(c, level + 1, s + at, from - at));
        if (to > from)
            TRY(cut_text(c, level + 1, s + from, to - from));
    }
    return OK;
}

enum status pretokenizer_cut(const struct pretokenizer *p, const char *text, size_t n, enum status (*each)(void *user, const char *s, size_t n),
                             void *user, struct err *err)
{
    struct cutting c = {.p = p, .each = each, .user = user, .err = err};
    enum status status = OK;
    for (int i = 0; i < p->n_cuts; i++)
        if (!(c.match[i] = regex_match_new(p->cut[i].pattern)))
            status = err_set(err, ERR_MEMORY, "out of memory for tokenizing");
    if (status == OK)
        status = cut_text(&c, 0, text, n);
    for (int i = 0; i < p->n_cuts; i++)
        regex_match_free(c.match[i]);
    return status;
}

/* ---- characters beside an added token ---- */

static utf8proc_int32_t character(const char *s, size_t n, size_t *used)
{
    utf8proc_int32_t c = -1;
    size_t k = n == 0 ? 0 : s[0] == 0 ? 1 : utf8_length(s, n);
    *used = k ? k : 1;
    if (k)
        utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)k, &c);
    return c;
}

/* The start of the last character. */
static size_t last(const char *s, size_t n)
{
    size_t at = n ? n - 1 : 0;
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80)
        at--;
    return at;
}

static bool is_space(utf8proc_int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return (c >= 9 && c <= 13) || c == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

static bool is_word(utf8proc_int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

size_t space_at_end(const char *s, size_t n)
{
    size_t end = n, used;
    while (end > 0 && is_space(character(s + last(s, end), end - last(s, end), &used)))
        end = last(s, end);
    return n - end;
}

size_t space_at_start(const char *s, size_t n)
{
    size_t at = 0, used;
    while (at < n && is_space(character(s + at, n - at, &used)))
        at += used;
    return at;
}

bool word_at_end(const char *s, size_t n)
{
    size_t used;
    return n > 0 && is_word(character(s + last(s, n), n - last(s, n), &used));
}

bool word_at_start(const char *s, size_t n)
{
    size_t used;
    return n > 0 && is_word(character(s, n, &used));
}
