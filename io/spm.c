/* spm.c: SentencePiece's BPE: neighbours are joined by the score of the joined piece, best first.
 *
 * Kudo & Richardson 2018 (arXiv:1808.06226).  Spaces become U+2581, one is put in front when the model says so; what no piece covers becomes
 * byte pieces.  O(n log n) with a heap; joined symbols stay in a linked list. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "io/json.h"
#include "io/tokenizer_private.h"

struct symbol {
    uint32_t start, n; /* bytes of the text; n 0: joined into the one before */
    int32_t before, after;
    bool frozen; /* a user-defined piece */
};

struct pair {
    float score;
    int32_t left, right;
    uint32_t n; /* bytes of both when the pair was made: differs when one of them has changed since */
};

struct merge {
    const struct tokenizer *t;
    const char *text;
    struct symbol *symbol;
    struct pair *heap;
    size_t n_heap, room; /* room: bytes of a word */
};

/* Higher score first, then further left. */
static bool comes_first(const struct pair *a, const struct pair *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void push(struct merge *m, struct pair p)
{
    size_t at = m->n_heap++;
    while (at > 0 && comes_first(&p, &m->heap[(at - 1) / 2])) {
        m->heap[at] = m->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    m->heap[at] = p;
}

static struct pair pop(struct merge *m)
{
    struct pair top = m->heap[0], last = m->heap[--m->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < m->n_heap; at = child) {
        if (child + 1 < m->n_heap && comes_first(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!comes_first(&m->heap[child], &last))
            break;
        m->heap[at] = m->heap[child];
    }
    m->heap[at] = last;
    return top;
}

static void try_pair(struct merge *m, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || m->symbol[left].frozen || m->symbol[right].frozen)
        return;
    const struct symbol *a = &m->symbol[left], *b = &m->symbol[right];
    int32_t id = tokenizer_lookup(m->t, m->text + a->start, a->n + b->n);
    if (id < 0 || (m->t->type[id] != PIECE_NORMAL && m->t->type[id] != PIECE_USER && m->t->type[id] != PIECE_UNUSED))
        return;
    push(m, (struct pair){m->t->score[id], left, right, a->n + b->n});
}

static void join_all(struct merge *m, int32_t n)
{
    for (int32_t i = 0; i + 1 < n; i++)
        try_pair(m, i, i + 1);
    while (m->n_heap) {
        struct pair p = pop(m);
        struct symbol *a = &m->symbol[p.left], *b = &m->symbol[p.right];
        if (a->n == 0 || b->n == 0 || a->n + b->n != p.n) /* one of them has been joined meanwhile */
            continue;
        a->n += b->n;
        b->n = 0;
        a->after = b->after;
        if (b->after >= 0)
            m->symbol[b->after].before = p.left;
        try_pair(m, a->before, p.left);
        try_pair(m, p.left, a->after);
    }
}

/* ---- text as symbols ---- */

static const char escaped[] = "\xe2\x96\x81"; /* U+2581 */

static void strip_end(struct text *out)
{
    while (out->n >= 3 && memcmp(out->s + out->n - 3, escaped, 3) == 0)
        out->n -= 3;
}

/* Spaces escaped, bytes that are no UTF-8 replaced by U+FFFD.  remove_extra_spaces: none at the ends, one where there were several; as in the
 * reference, a U+2581 of the text itself counts as a space only at the end. */
static void normalise(const struct tokenizer *t, const char *text, size_t n, struct text *out)
{
    bool after_space = t->remove_extra_spaces, opened = false;
    for (size_t i = 0, k; i < n; i += k) {
        bool is_space = text[i] == ' ';
        k = is_space || text[i] == 0 ? 1 : utf8_length(text + i, n - i);
        if (is_space && after_space)
            continue;
        if (!opened && t->add_space_prefix)
            text_puts(out, escaped);
        opened = true;
        if (is_space)
            text_puts(out, escaped);
        else if (k)
            text_add(out, text + i, k);
        else
            text_puts(out, "\xef\xbf\xbd");
        after_space = is_space && t->remove_extra_spaces;
        k = k ? k : 1;
    }
    if (t->remove_extra_spaces)
        strip_end(out);
}

/* Bytes of the character at s, at least 1: a user-defined piece that ends inside a character leaves bytes that begin none. */
static size_t character(const char *s, size_t n)
{
    size_t k = utf8_length(s, n);
    return k ? k : 1;
}

static int32_t split(const struct tokenizer *t, const char *s, size_t n, struct symbol *symbol)
{
    int32_t count = 0;
    for (size_t i = 0; i < n;) {
        const struct named *user = names_longest(t, &t->special, s + i, n - i, false);
        size_t k = user ? user->n : character(s + i, n - i);
        symbol[count] = (struct symbol){.start = (uint32_t)i, .n = (uint32_t)k, .before = count - 1, .after = count + 1, .frozen = user != NULL};
        count++;
        i += k;
    }
    if (count)
        symbol[count - 1].after = -1;
    return count;
}

/* ---- symbols as ids ---- */

static enum status add_bytes(const struct tokenizer *t, const char *s, size_t n, struct tokens *out, struct err *err)
{
    if (!t->byte_fallback)
        return t->unk >= 0 ? tokens_push(out, t->unk, err) : err_set(err, ERR_INPUT, "a character has no piece and there is no <unk>");
    for (size_t i = 0; i < n; i++)
        TRY(tokens_push(out, t->byte[(unsigned char)s[i]], err));
    return OK;
}

/* A piece that is UNUSED came about only on the way: it falls apart into its characters. */
static enum status add_symbol(const struct tokenizer *t, const char *s, size_t n, struct tokens *out, struct err *err)
{
    int32_t id = tokenizer_lookup(t, s, n);
    if (id >= 0 && (t->type[id] == PIECE_NORMAL || t->type[id] == PIECE_USER))
        return tokens_push(out, id, err);
    for (size_t i = 0, k; id >= 0 && t->type[id] == PIECE_UNUSED && i < n; i += k) {
        k = character(s + i, n - i);
        int32_t one = tokenizer_lookup(t, s + i, k);
        TRY(one >= 0 && t->type[one] == PIECE_NORMAL ? tokens_push(out, one, err) : add_bytes(t, s + i, k, out, err));
        if (i + k >= n)
            return OK;
    }
    return add_bytes(t, s, n, out, err);
}

static enum status make_room(struct merge *m, size_t n, struct err *err)
{
    if (n <= m->room)
        return OK;
    free(m->symbol);
    free(m->heap);
    m->room = n + n / 2;
    m->symbol = malloc(m->room * sizeof *m->symbol);
    m->heap = malloc((3 * m->room + 4) * sizeof *m->heap); /* n - 1 pairs at the start, two more for each of n - 1 joins */
    return m->symbol && m->heap ? OK : err_set(err, ERR_MEMORY, "out of memory for tokenizing");
}

static enum status encode_word(struct merge *m, const char *s, size_t n, struct tokens *out, struct err *err)
{
    TRY(make_room(m, n, err));
    m->text = s;
    int32_t count = split(m->t, s, n, m->symbol);
    join_all(m, count);
    for (int32_t i = 0; i >= 0; i = m->symbol[i].after)
        TRY(add_symbol(m->t, s + m->symbol[i].start, m->symbol[i].n, out, err));
    return OK;
}

enum status spm_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err)
{
    struct text normal = {0};
    struct merge m = {.t = t};
    normalise(t, text, n, &normal);
    enum status status = normal.failed ? err_set(err, ERR_MEMORY, "out of memory for tokenizing") : OK;
    for (size_t at = 0, k; status == OK && at < normal.n; at += k) {
        k = t->words ? tokenizer_word(normal.s + at, normal.n - at) : normal.n;
        status = encode_word(&m, normal.s + at, k, out, err);
    }
    free(m.symbol);
    free(m.heap);
    text_free(&normal);
    return status;
}
