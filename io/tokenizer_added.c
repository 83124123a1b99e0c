/* tokenizer_added.c: pieces that are found in text as a whole: control and user-defined ones, with the flags of tokenizer.json's added_tokens.
 * Leftmost first, of those the longest, as huggingface/tokenizers' added_vocabulary.rs has it. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_private.h"

/* ---- the list ---- */

enum status names_add(struct names *names, const char *s, size_t n, int32_t id, struct err *err)
{
    if (names->n == names->cap) {
        size_t cap = names->cap ? 2 * names->cap : 64;
        struct named *grown = realloc(names->item, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for special pieces");
        names->item = grown;
        names->cap = cap;
    }
    char *copy = malloc(n + 1);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for special pieces");
    memcpy(copy, s, n);
    copy[n] = 0;
    names->item[names->n++] = (struct named){copy, (uint32_t)n, id};
    names->opens[(unsigned char)s[0]] = true;
    return OK;
}

static int by_bytes(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int d = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return d ? d : (x->n > y->n) - (x->n < y->n);
}

void names_sort(struct names *names)
{
    if (names->n)
        qsort(names->item, names->n, sizeof *names->item, by_bytes);
}

void names_free(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->item[i].s);
    free(names->item);
}

/* ---- looking ---- */

/* First of item[lo, hi) whose byte at `depth` is at least `byte`; all of them share the bytes before it. */
static size_t lower(const struct names *names, size_t lo, size_t hi, uint32_t depth, int byte)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)names->item[mid].s[depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct named *names_longest(const struct tokenizer *t, const struct names *names, const char *s, size_t n, bool control)
{
    const struct named *best = NULL;
    if (n == 0 || !names->opens[(unsigned char)s[0]])
        return NULL;
    size_t lo = 0, hi = names->n;
    for (uint32_t depth = 0; lo < hi; depth++) {
        for (; lo < hi && names->item[lo].n == depth; lo++) /* sorted: what ends here comes first */
            if (control || t->type[names->item[lo].id] == PIECE_USER)
                best = &names->item[lo];
        if (depth == n)
            break;
        int byte = (unsigned char)s[depth];
        lo = lower(names, lo, hi, depth, byte);
        hi = lower(names, lo, hi, depth, byte + 1);
    }
    return best;
}

/* A name that must stand alone has no letter, digit or underscore on either side. */
static bool stands(const struct tokenizer *t, const struct named *name, const char *text, size_t at, size_t n)
{
    bool alone = t->added && t->added[name->id] & ADDED_SINGLE_WORD;
    size_t end = at + name->n;
    return !alone || (!word_at_end(text, at) && !word_at_start(text + end, n - end));
}

enum status names_split(const struct tokenizer *t, const struct names *names, const char *text, size_t n, bool first, bool control,
                        stretch_encoder *rest, struct tokens *out, struct err *err)
{
    size_t start = 0;
    for (size_t at = 0; names->n && at < n;) {
        const struct named *name = names_longest(t, names, text + at, n - at, control);
        if (!name) {
            at++;
            continue;
        }
        size_t end = at + name->n, from = at;
        int added = t->added ? t->added[name->id] : 0;
        at = end;
        if ((t->kind == TOKENIZER_SPM && t->type[name->id] == PIECE_USER) || !stands(t, name, text, from, n))
            continue;
        if (added & ADDED_LSTRIP)
            from -= space_at_end(text + start, from - start);
        if (added & ADDED_RSTRIP)
            at = end += space_at_start(text + end, n - end);
        if (from > start)
            TRY(rest(t, text + start, from - start, first && start == 0, control, out, err));
        TRY(tokens_push(out, name->id, err));
        start = end;
    }
    return start < n ? rest(t, text + start, n - start, first && start == 0, control, out, err) : OK;
}
