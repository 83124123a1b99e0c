/* tasks_rules.h: how an answer that a model writes is asked for and judged: stop strings, length, the part that counts, when it is right.
 *
 * As lm-evaluation-harness does (generation_kwargs, RegexFilter, exact_match): of the written text the pattern's match number group_select (0 the first, -1
 * the last) is taken; where it has groups in parentheses, the first of them that holds something.  Blanks at both ends go, then what regexes_to_ignore match.
 * What it is not: it runs no model (evaluate_generate.c). */
#ifndef VENEER_TASKS_RULES_H
#define VENEER_TASKS_RULES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"
#include "io/regex.h"

enum { MAX_UNTIL = 16, MAX_IGNORED = 16, NO_PATTERN = -1 };

struct task_rules {
    int32_t max_gen_toks; /* tokens of an answer at most */
    char *until[MAX_UNTIL]; /* owned; none is empty */
    size_t n_until;
    int64_t group_select;
    bool ignore_case;
    struct regex *ignored[MAX_IGNORED];
    size_t n_ignored;
    struct regex **pattern; /* [n_patterns] each once */
    char **source;          /* their texts */
    size_t n_patterns;
    size_t holders;
};

/* With the harness' defaults: 256 tokens, the first match, nothing ignored, no stop string.  NULL: out of memory. */
struct task_rules *task_rules_new(void);
struct task_rules *task_rules_share(struct task_rules *rules); /* one more holder; not from several threads */
void task_rules_free(struct task_rules *rules);                /* the last holder's frees; NULL is fine */

enum status task_rules_add_until(struct task_rules *rules, const char *stop, const char *where, struct err *err);
/* ERR_INPUT: "WHERE: 'PATTERN' is no regular expression: PCRE2's sentence at offset N", more than there is room for. */
enum status task_rules_add_ignored(struct task_rules *rules, const char *pattern, const char *where, struct err *err);
enum status task_rules_add_pattern(struct task_rules *rules, const char *pattern, const char *where, int32_t *index, struct err *err);

/* Appends to out what counts of text[n] (UTF-8); index NO_PATTERN: all of it.  *found false: the pattern is nowhere in it, or gives up on it (regex.h). */
enum status task_rules_extract(const struct task_rules *rules, int32_t index, const char *text, size_t n, struct text *out, bool *found, struct err *err);
/* Equal, as far as the case is looked at. */
enum status task_rules_same(const struct task_rules *rules, const char *a, const char *b, bool *same, struct err *err);
/* Where text[n] ends: at its first stop string, none of which was there before byte `from`; n: it has none. */
size_t task_rules_end(const struct task_rules *rules, const char *text, size_t n, size_t from);

#endif
