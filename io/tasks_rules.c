/* tasks_rules.c: what counts of a written answer, and whether it is the right one. */
#include "io/tasks_rules.h"

#include <stdlib.h>
#include <string.h>

/* ---- the rules of a task ---- */

struct task_rules *task_rules_new(void)
{
    struct task_rules *rules = calloc(1, sizeof *rules);
    if (rules) {
        rules->max_gen_toks = 256;
        rules->holders = 1;
    }
    return rules;
}

struct task_rules *task_rules_share(struct task_rules *rules)
{
    rules->holders++;
    return rules;
}

void task_rules_free(struct task_rules *rules)
{
    if (!rules || --rules->holders > 0)
        return;
    for (size_t i = 0; i < rules->n_until; i++)
        free(rules->until[i]);
    for (size_t i = 0; i < rules->n_ignored; i++)
        regex_free(rules->ignored[i]);
    for (size_t i = 0; i < rules->n_patterns; i++) {
        regex_free(rules->pattern[i]);
        free(rules->source[i]);
    }
    free(rules->pattern);
    free(rules->source);
    free(rules);
}

static enum status no_memory(struct err *err)
{
    return err_set(err, ERR_MEMORY, "out of memory for the rules of a task");
}

enum status task_rules_add_until(struct task_rules *rules, const char *stop, const char *where, struct err *err)
{
    if (!*stop)
        return err_set(err, ERR_INPUT, "%s: one is empty, want text", where);
    if (rules->n_until == MAX_UNTIL)
        return err_set(err, ERR_INPUT, "%s: more than %d stop strings", where, MAX_UNTIL);
    char *copy = strdup(stop);
    if (!copy)
        return no_memory(err);
    rules->until[rules->n_until++] = copy;
    return OK;
}

static enum status compile(struct regex **out, const char *pattern, const char *where, struct err *err)
{
    struct err why;
    size_t at;
    enum status status = regex_new(out, pattern, 0, &at, &why);
    return status == OK ? OK : err_set(err, status, "%s: '%.200s' is no regular expression: %s at offset %zu", where, pattern, why.text, at);
}

enum status task_rules_add_ignored(struct task_rules *rules, const char *pattern, const char *where, struct err *err)
{
    if (rules->n_ignored == MAX_IGNORED)
        return err_set(err, ERR_INPUT, "%s: more than %d patterns", where, MAX_IGNORED);
    TRY(compile(&rules->ignored[rules->n_ignored], pattern, where, err));
    rules->n_ignored++;
    return OK;
}

enum status task_rules_add_pattern(struct task_rules *rules, const char *pattern, const char *where, int32_t *index, struct err *err)
{
    for (size_t i = 0; i < rules->n_patterns; i++)
        if (strcmp(rules->source[i], pattern) == 0) {
            *index = (int32_t)i;
            return OK;
        }
    size_t n = rules->n_patterns + 1;
    struct regex **patterns = realloc(rules->pattern, n * sizeof *patterns);
    rules->pattern = patterns ? patterns : rules->pattern;
    char **sources = realloc(rules->source, n * sizeof *sources);
    rules->source = sources ? sources : rules->source;
    if (!patterns || !sources)
        return no_memory(err);
    TRY(compile(&patterns[n - 1], pattern, where, err));
    sources[n - 1] = strdup(pattern);
    if (!sources[n - 1]) {
        regex_free(patterns[n - 1]);
        return no_memory(err);
    }
    rules->n_patterns = n;
    *index = (int32_t)(n - 1);
    return OK;
}

/* ---- what counts ---- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Takes blanks off both ends of s[from, to). */
static void strip(const char *s, size_t *from, size_t *to)
{
    while (*from < *to && is_blank(s[*from]))
        ++*from;
    while (*to > *from && is_blank(s[*to - 1]))
        --*to;
}

static size_t next_character(const char *s, size_t n, size_t at)
{
    for (at++; at < n && ((unsigned char)s[at] & 0xC0) == 0x80;)
        at++;
    return at;
}

enum { MOST_GROUPS = 64 }; /* that are looked at */

/* The first group that holds something, else the whole match. */
static void matched_part(const struct regex_match *match, size_t *from, size_t *to)
{
    size_t a, b;
    regex_group(match, 0, from, to);
    *from = *from < *to ? *from : *to; /* \K may turn them round */
    for (size_t group = 1; group < MOST_GROUPS; group++)
        if (regex_group(match, group, &a, &b) && b > a) {
            *from = a;
            *to = b;
            return;
        }
}

/* Match number `wanted` of the pattern in s[n], of as many as there are, as re.findall finds them. */
static enum status nth_match(const struct regex *pattern, struct regex_match *match, int64_t wanted, const char *s, size_t n, size_t *from, size_t *to,
                             int64_t *count, struct err *err)
{
    size_t a, b;
    *count = 0;
    for (size_t at = 0; at <= n && (wanted < 0 || *count <= wanted);) {
        bool found;
        TRY(regex_next(pattern, match, s, n, at, &found, err));
        if (!found)
            return OK;
        regex_group(match, 0, &a, &b);
        if (wanted < 0 || *count == wanted)
            matched_part(match, from, to);
        ++*count;
        at = b > a && b > at ? b : next_character(s, n, b > at ? b : at);
    }
    return OK;
}

static enum status find_part(const struct regex *pattern, int64_t select, const char *s, size_t n, size_t *from, size_t *to, bool *found, struct err *err)
{
    struct regex_match *match = regex_match_new(pattern);
    struct err why;
    int64_t count = 0;
    if (!match)
        return no_memory(err);
    enum status status = nth_match(pattern, match, select, s, n, from, to, &count, &why);
    *found = status == OK && (select < 0 ? count >= -select : count > select);
    if (*found && select < -1) /* counted from the end: now it is known which one that is */
        status = nth_match(pattern, match, count + select, s, n, from, to, &count, &why);
    regex_match_free(match);
    if (status == ERR_MEMORY)
        return no_memory(err);
    *found = *found && status == OK;
    return OK;
}

/* All matches taken out. */
static enum status without(const struct regex *pattern, struct text *text, struct err *err)
{
    struct regex_match *match = regex_match_new(pattern);
    struct text left = {0};
    struct err why;
    enum status status = match ? OK : no_memory(err);
    size_t from, to;
    text_add(&left, "", 0);
    for (size_t at = 0, kept = 0; status == OK && at <= text->n;) {
        bool found = false;
        status = regex_next(pattern, match, text->s, text->n, at, &found, &why);
        status = status == ERR_MEMORY ? no_memory(err) : OK; /* a pattern that gives up takes nothing out */
        if (!found) {
            text_add(&left, text->s + kept, text->n - kept);
            break;
        }
        regex_group(match, 0, &from, &to);
        if (to > from && from >= kept) {
            text_add(&left, text->s + kept, from - kept);
            kept = to;
        }
        at = to > from && to > at ? to : next_character(text->s, text->n, to > at ? to : at);
        if (at > text->n)
            text_add(&left, text->s + kept, text->n - kept);
    }
    regex_match_free(match);
    text_free(text);
    *text = left;
    return status == OK && left.failed ? no_memory(err) : status;
}

enum status task_rules_extract(const struct task_rules *rules, int32_t index, const char *text, size_t n, struct text *out, bool *found, struct err *err)
{
    size_t from = 0, to = n;
    struct text part = {0};
    *found = true;
    if (index != NO_PATTERN)
        TRY(find_part(rules->pattern[index], rules->group_select, text, n, &from, &to, found, err));
    if (!*found)
        return OK;
    strip(text, &from, &to);
    text_add(&part, text + from, to - from);
    enum status status = part.failed ? no_memory(err) : OK;
    for (size_t i = 0; status == OK && i < rules->n_ignored; i++)
        status = without(rules->ignored[i], &part, err);
    if (status == OK) {
        from = 0;
        to = part.n;
        strip(part.s, &from, &to);
        text_add(out, part.s + from, to - from);
        status = out->failed ? no_memory(err) : OK;
    }
    text_free(&part);
    return status;
}

enum status task_rules_same(const struct task_rules *rules, const char *a, const char *b, bool *same, struct err *err)
{
    struct regex *text;
    struct err why;
    size_t at;
    *same = strcmp(a, b) == 0;
    if (*same || !rules->ignore_case || !*a)
        return OK;
    if (regex_new(&text, a, REGEX_CASELESS | REGEX_LITERAL | REGEX_WHOLE, &at, &why) != OK)
        return OK; /* longer than an expression may be */
    struct regex_match *match = regex_match_new(text);
    enum status status = match ? regex_next(text, match, b, strlen(b), 0, same, &why) : ERR_MEMORY;
    regex_match_free(match);
    regex_free(text);
    return status == ERR_MEMORY ? no_memory(err) : OK;
}

size_t task_rules_end(const struct task_rules *rules, const char *text, size_t n, size_t from)
{
    size_t end = n;
    for (size_t i = 0; i < rules->n_until; i++) {
        size_t length = strlen(rules->until[i]), start = from + 1 > length ? from + 1 - length : 0;
        const char *found = start < n ? memmem(text + start, n - start, rules->until[i], length) : NULL;
        if (found && (size_t)(found - text) < end)
            end = (size_t)(found - text);
    }
    return end;
}
