/* regex.c: PCRE2 behind a small door. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/regex.h"

#include <pcre2.h>
#include <stdlib.h>

struct regex {
    pcre2_code *code;
};

struct regex_match {
    pcre2_match_data *data;
    size_t groups; /* that took part, counting 0 */
};

static enum status say(int error, struct err *err)
{
    PCRE2_UCHAR message[128];
    if (error == PCRE2_ERROR_NOMEMORY)
        return err_set(err, ERR_MEMORY, "out of memory for a regular expression");
    pcre2_get_error_message(error, message, sizeof message);
    return err_set(err, ERR_INPUT, "%s", (const char *)message);
}

enum status regex_new(struct regex **out, const char *pattern, int options, size_t *offset, struct err *err)
{
    int error;
    PCRE2_SIZE at = 0;
    uint32_t flags = PCRE2_UTF | PCRE2_NO_UTF_CHECK;
    flags |= options & REGEX_LITERAL ? PCRE2_LITERAL : PCRE2_UCP;
    flags |= options & REGEX_MULTILINE ? PCRE2_MULTILINE : 0;
    flags |= options & REGEX_CASELESS ? PCRE2_CASELESS : 0;
    flags |= options & REGEX_WHOLE ? PCRE2_ANCHORED | PCRE2_ENDANCHORED : 0;
    *offset = 0;
    *out = calloc(1, sizeof **out);
    if (!*out)
        return say(PCRE2_ERROR_NOMEMORY, err);
    (*out)->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, flags, &error, &at, NULL);
    if (!(*out)->code) {
        *offset = at;
        regex_free(*out);
        *out = NULL;
        return say(error == PCRE2_ERROR_HEAP_FAILED ? PCRE2_ERROR_NOMEMORY : error, err);
    }
    if (options & REGEX_JIT)
        pcre2_jit_compile((*out)->code, PCRE2_JIT_COMPLETE); /* where there is no such compiler it is interpreted */
    return OK;
}

void regex_free(struct regex *regex)
{
    if (regex)
        pcre2_code_free(regex->code);
    free(regex);
}

bool regex_takes_nothing(const struct regex *regex)
{
    uint32_t empty = 0;
    pcre2_pattern_info(regex->code, PCRE2_INFO_MATCHEMPTY, &empty);
    return empty != 0;
}

struct regex_match *regex_match_new(const struct regex *regex)
{
    struct regex_match *match = calloc(1, sizeof *match);
    if (match && (match->data = pcre2_match_data_create_from_pattern(regex->code, NULL)))
        return match;
    free(match);
    return NULL;
}

void regex_match_free(struct regex_match *match)
{
    if (match)
        pcre2_match_data_free(match->data);
    free(match);
}

enum status regex_next(const struct regex *regex, struct regex_match *match, const char *s, size_t n, size_t at, bool *found, struct err *err)
{
    int result = pcre2_match(regex->code, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, match->data, NULL);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result = pcre2_match(regex->code, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match->data, NULL);
    *found = result >= 0;
    match->groups = result >= 0 ? (size_t)result : 0;
    return result >= 0 || result == PCRE2_ERROR_NOMATCH ? OK : say(result, err);
}

bool regex_group(const struct regex_match *match, size_t group, size_t *from, size_t *to)
{
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(match->data) + 2 * group;
    if (group >= match->groups || at[0] == PCRE2_UNSET)
        return false;
    *from = at[0];
    *to = at[1];
    return true;
}
