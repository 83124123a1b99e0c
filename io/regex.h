/* regex.h: regular expressions over UTF-8, in PCRE2's syntax; \w, \d, \s and \b as Unicode has them.  The only room that includes PCRE2. */
#ifndef VENEER_REGEX_H
#define VENEER_REGEX_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct regex;       /* a compiled expression; never changed, so threads may share it */
struct regex_match; /* where one matched; one a thread */

/* REGEX_LITERAL: the pattern is the text itself.  REGEX_WHOLE: all of the text is to match.  REGEX_JIT: compiled for the processor where PCRE2 can. */
enum { REGEX_MULTILINE = 1, REGEX_CASELESS = 2, REGEX_LITERAL = 4, REGEX_WHOLE = 8, REGEX_JIT = 16 };

/* *regex is NULL on failure.  ERR_INPUT: PCRE2's own sentence, of the byte *offset. */
enum status regex_new(struct regex **regex, const char *pattern, int options, size_t *offset, struct err *err);
void regex_free(struct regex *regex); /* NULL is fine */
/* Some text is matched without taking a character of it. */
bool regex_takes_nothing(const struct regex *regex);

struct regex_match *regex_match_new(const struct regex *regex); /* NULL: out of memory */
void regex_match_free(struct regex_match *match);
/* The next match in s[n] (UTF-8) from byte `at`, a character's first.  ERR_INPUT: PCRE2's sentence when it gives up: its limits on steps (10 million) and memory. */
enum status regex_next(const struct regex *regex, struct regex_match *match, const char *s, size_t n, size_t at, bool *found, struct err *err);
/* Of the last match that was found: group 0 is all of it, 1 ... those in parentheses.  false: there is no such group, or it took no part. */
bool regex_group(const struct regex_match *match, size_t group, size_t *from, size_t *to);

#endif
