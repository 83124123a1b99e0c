/* bpe.c: byte-level BPE: text is cut by a regular expression, each cut's bytes are written as printable characters and neighbours joined by
 * rank.  Sennrich et al. 2016 (arXiv:1508.07909), Radford et al. 2019 (GPT-2).  The only room that includes PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/tokenizer_private.h"

struct bpe {
    pcre2_code *cut[2]; /* applied one after the other; the second may be NULL */
    bool ignore_merges; /* a cut that is itself a piece is taken whole */
    bool ranked;        /* tiktoken: the rank of a pair is the id of the joined piece */
    char **merge;       /* [n] "left right" */
    size_t n;
    uint32_t *slot;     /* hash table of merges + 1, by text */
    size_t n_slots;
};

/* White space by Unicode's property, as the references have it; PCRE2's \s would count U+180E. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define RUNS "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+" /* a run gives its last space to the word behind it */

static const char gpt2_cut[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" RUNS;
static const char llama3_cut[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|"
                                 "[" SPACE "]*[\\r\\n]+|" RUNS;
static const char digits_cut[] = "\\p{N}|[^\\p{N}]+"; /* each digit alone, then GPT-2's cut of what is between */

/* ---- bytes as printable characters (GPT-2's table) ---- */

static bool printable(int b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static uint32_t code_point(int byte)
{
    uint32_t next = 256;
    if (printable(byte))
        return (uint32_t)byte;
    for (int b = 0; b < byte; b++)
        next += !printable(b);
    return next;
}

size_t bpe_put_byte(int byte, char *to)
{
    uint32_t c = code_point(byte);
    if (c < 128) {
        to[0] = (char)c;
        return 1;
    }
    to[0] = (char)(0xC0 | c >> 6);
    to[1] = (char)(0x80 | (c & 63));
    return 2;
}

int bpe_byte(const char *s, size_t n, size_t *used)
{
    unsigned char a = (unsigned char)s[0];
    uint32_t c = a;
    *used = 1;
    if (a >= 0xC2 && a <= 0xC5 && n > 1) {
        c = (uint32_t)(a & 31) << 6 | ((unsigned char)s[1] & 63);
        *used = 2;
    } else if (a >= 128) {
        return -1;
    }
    if (c < 256)
        return printable((int)c) ? (int)c : -1;
    uint32_t next = 256;
    for (int b = 0; b < 256; b++)
        if (!printable(b) && next++ == c)
            return b;
    return -1;
}

/* ---- building ---- */

static pcre2_code *compile(const char *pattern)
{
    int error;
    PCRE2_SIZE at;
    return pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &at, NULL);
}

static enum status choose_cut(struct tokenizer *t, struct bpe *bpe, const char *where, struct err *err)
{
    const char *pre = t->pre ? t->pre : "default";
    bool llama3 = strcmp(pre, "llama-bpe") == 0 || strcmp(pre, "llama3") == 0, smollm = strcmp(pre, "smollm") == 0;
    if (!llama3 && !smollm && strcmp(pre, "default") != 0 && strcmp(pre, "gpt-2") != 0)
        return err_set(err, ERR_INPUT, "%s: tokenizer.ggml.pre = '%s', want smollm, llama-bpe, gpt-2 or default", where, pre);
    bpe->cut[0] = compile(llama3 ? llama3_cut : smollm ? digits_cut : gpt2_cut);
    bpe->cut[1] = smollm ? compile(gpt2_cut) : NULL;
    bpe->ignore_merges = llama3;
    if (!bpe->cut[0] || (smollm && !bpe->cut[1]))
        return err_set(err, ERR_MEMORY, "out of memory for a pre-tokenizer");
    return OK;
}

static uint64_t hash(const char *a, size_t na, const char *b, size_t nb)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < na; i++)
        h = (h ^ (unsigned char)a[i]) * 1099511628211u;
    h = (h ^ ' ') * 1099511628211u;
    for (size_t i = 0; i < nb; i++)
        h = (h ^ (unsigned char)b[i]) * 1099511628211u;
    return h ^ h >> 29;
}

/* Rank of joining a and b; UINT32_MAX: they do not join. */
static uint32_t rank_of(const struct tokenizer *t, const char *a, size_t na, const char *b, size_t nb)
{
    const struct bpe *bpe = t->bpe;
    if (bpe->ranked) { /* a and b are neighbours in memory */
        int32_t id = tokenizer_lookup(t, a, na + nb);
        return id < 0 || t->type[id] == PIECE_CONTROL ? UINT32_MAX : (uint32_t)id;
    }
    for (size_t at = hash(a, na, b, nb) & (bpe->n_slots - 1); bpe->slot[at]; at = (at + 1) & (bpe->n_slots - 1)) {
        uint32_t i = bpe->slot[at] - 1;
        const char *m = bpe->merge[i];
        if (strlen(m) == na + nb + 1 && memcmp(m, a, na) == 0 && m[na] == ' ' && memcmp(m + na + 1, b, nb) == 0)
            return i;
    }
    return UINT32_MAX;
}

static enum status add_merge(struct tokenizer *t, const char *merge, const char *where, struct err *err)
{
    struct bpe *bpe = t->bpe;
    const char *space = strchr(merge + (*merge != 0), ' ');
    size_t na = space ? (size_t)(space - merge) : 0, nb = space ? strlen(space + 1) : 0;
    if (na == 0 || nb == 0)
        return err_set(err, ERR_INPUT, "%s: merge %zu is '%.64s', want two pieces with a space between", where, bpe->n, merge);
    bpe->merge[bpe->n] = strdup(merge);
    if (!bpe->merge[bpe->n])
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    if (rank_of(t, merge, na, space + 1, nb) == UINT32_MAX) { /* of a merge that is there twice the first counts */
        size_t at = hash(merge, na, space + 1, nb) & (bpe->n_slots - 1);
        while (bpe->slot[at])
            at = (at + 1) & (bpe->n_slots - 1);
        bpe->slot[at] = (uint32_t)bpe->n + 1;
    }
    bpe->n++;
    return OK;
}

enum status bpe_new(struct tokenizer *t, char *const *merge, size_t n_merges, const char *where, struct err *err)
{
    struct bpe *bpe = t->bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    TRY(choose_cut(t, bpe, where, err));
    for (bpe->n_slots = 16; bpe->n_slots < 2 * n_merges;)
        bpe->n_slots *= 2;
    bpe->slot = calloc(bpe->n_slots, sizeof *bpe->slot);
    bpe->merge = calloc(n_merges + 1, sizeof *bpe->merge);
    if (!bpe->slot || !bpe->merge)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    for (size_t i = 0; i < n_merges; i++)
        TRY(add_merge(t, merge[i], where, err));
    return OK;
}

/* ---- ranks as merges, for writers: each way to cut a piece into two pieces, in the order of the pieces, then of their halves ---- */

struct halves {
    int32_t left, right;
    size_t at; /* bytes of the left one */
};

static int by_halves(const void *a, const void *b)
{
    const struct halves *x = a, *y = b;
    return x->left != y->left ? (x->left > y->left) - (x->left < y->left) : (x->right > y->right) - (x->right < y->right);
}

static enum status keep_merge(struct bpe *bpe, size_t *cap, const char *piece, size_t n, size_t at, struct err *err)
{
    if (bpe->n == *cap) {
        size_t more = *cap ? 2 * *cap : 4096;
        char **grown = realloc(bpe->merge, more * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for merges");
        bpe->merge = grown;
        *cap = more;
    }
    char *merge = malloc(n + 2);
    if (!merge)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    memcpy(merge, piece, at);
    merge[at] = ' ';
    memcpy(merge + at + 1, piece + at, n - at + 1);
    bpe->merge[bpe->n++] = merge;
    return OK;
}

static enum status merges_of(struct tokenizer *t, int32_t id, size_t *cap, struct halves *halves, struct err *err)
{
    const char *s = t->piece[id];
    size_t n = t->length[id], found = 0;
    for (size_t at = 1; at < n; at++) {
        if (((unsigned char)s[at] & 0xC0) == 0x80)
            continue;
        int32_t left = tokenizer_lookup(t, s, at), right = left < 0 ? -1 : tokenizer_lookup(t, s + at, n - at);
        if (right >= 0)
            halves[found++] = (struct halves){left, right, at};
    }
    qsort(halves, found, sizeof *halves, by_halves);
    for (size_t i = 0; i < found; i++)
        TRY(keep_merge(t->bpe, cap, s, n, halves[i].at, err));
    return OK;
}

static enum status merges_from_ranks(struct tokenizer *t, struct err *err)
{
    size_t longest = 0, cap = 0;
    for (int32_t id = 0; id < t->n; id++)
        longest = t->length[id] > longest ? t->length[id] : longest;
    struct halves *halves = malloc((longest + 1) * sizeof *halves);
    enum status status = halves ? OK : err_set(err, ERR_MEMORY, "out of memory for merges");
    for (int32_t id = 0; status == OK && id < t->n; id++)
        if (t->type[id] != PIECE_CONTROL)
            status = merges_of(t, id, &cap, halves, err);
    free(halves);
    return status;
}

enum status bpe_new_ranked(struct tokenizer *t, const char *where, struct err *err)
{
    struct bpe *bpe = t->bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    bpe->ranked = true;
    TRY(choose_cut(t, bpe, where, err));
    return merges_from_ranks(t, err);
}

void bpe_free(struct bpe *bpe)
{
    if (!bpe)
        return;
    for (size_t i = 0; bpe->merge && i < bpe->n; i++)
        free(bpe->merge[i]);
    free(bpe->merge);
    free(bpe->slot);
    pcre2_code_free(bpe->cut[0]);
    pcre2_code_free(bpe->cut[1]);
    free(bpe);
}

size_t bpe_merges(const struct tokenizer *t, char *const **merge)
{
    *merge = t->bpe->merge;
    return t->bpe->n;
}

/* ---- one cut ---- */

struct part {
    uint32_t start, n;
    int32_t before, after;
};

struct join {
    uint32_t rank;
    int32_t left, right;
    uint32_t n; /* bytes of both when it was found */
};

struct word {
    const struct tokenizer *t;
    char *text; /* in printable form */
    struct part *part;
    struct join *heap;
    size_t n_heap;
};

static bool comes_first(const struct join *a, const struct join *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void push(struct word *w, struct join j)
{
    size_t at = w->n_heap++;
    for (; at > 0 && comes_first(&j, &w->heap[(at - 1) / 2]); at = (at - 1) / 2)
        w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = j;
}

static struct join pop(struct word *w)
{
    struct join top = w->heap[0], last = w->heap[--w->n_heap];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < w->n_heap; at = child) {
        if (child + 1 < w->n_heap && comes_first(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!comes_first(&w->heap[child], &last))
            break;
        w->heap[at] = w->heap[child];
    }
    w->heap[at] = last;
    return top;
}

static void try_join(struct word *w, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return;
    const struct part *a = &w->part[left], *b = &w->part[right];
    uint32_t rank = rank_of(w->t, w->text + a->start, a->n, w->text + b->start, b->n);
    if (rank != UINT32_MAX)
        push(w, (struct join){rank, left, right, a->n + b->n});
}

static void join_all(struct word *w, int32_t n)
{
    for (int32_t i = 0; i + 1 < n; i++)
        try_join(w, i, i + 1);
    while (w->n_heap) {
        struct join j = pop(w);
        struct part *a = &w->part[j.left], *b = &w->part[j.right];
        if (a->n == 0 || b->n == 0 || a->n + b->n != j.n)
            continue;
        a->n += b->n;
        b->n = 0;
        a->after = b->after;
        if (b->after >= 0)
            w->part[b->after].before = j.left;
        try_join(w, a->before, j.left);
        try_join(w, j.left, a->after);
    }
}

static int32_t split(struct word *w, const char *s, size_t n, size_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = bpe_put_byte((unsigned char)s[i], w->text + *bytes);
        w->part[i] = (struct part){(uint32_t)*bytes, (uint32_t)k, (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
        *bytes += k;
    }
    return (int32_t)n;
}

static enum status encode_cut(struct word *w, const char *s, size_t n, struct tokens *out, struct err *err)
{
    size_t bytes;
    int32_t count = split(w, s, n, &bytes);
    if (w->t->bpe->ignore_merges) {
        int32_t id = tokenizer_lookup(w->t, w->text, bytes);
        if (id >= 0)
            return tokens_push(out, id, err);
    }
    join_all(w, count);
    for (int32_t i = 0; i >= 0; i = w->part[i].after) {
        int32_t id = tokenizer_lookup(w->t, w->text + w->part[i].start, w->part[i].n);
        if (id < 0)
            id = w->t->unk;
        if (id < 0)
            return err_set(err, ERR_INPUT, "a byte of the text has no piece in the vocabulary");
        TRY(tokens_push(out, id, err));
    }
    return OK;
}

/* ---- cutting ---- */

struct cutting {
    struct word word;
    pcre2_match_data *match[2];
    struct tokens *out;
    struct err *err;
};

static enum status cut_text(struct cutting *c, int level, const char *text, size_t n)
{
    pcre2_code *code = level < 2 ? c->word.t->bpe->cut[level] : NULL;
    if (!code)
        return n ? encode_cut(&c->word, text, n, c->out, c->err) : OK;
    for (size_t at = 0; at < n;) {
        int found = pcre2_match(code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, c->match[level], NULL);
        size_t from = n, to = n;
        if (found > 0) {
            from = pcre2_get_ovector_pointer(c->match[level])[0];
            to = pcre2_get_ovector_pointer(c->match[level])[1];
        } else if (found != PCRE2_ERROR_NOMATCH) {
            return err_set(c->err, ERR_FAILED, "the pre-tokenizer gave up (PCRE2 error %d)", found);
        }
        if (from > at) /* what no alternative matches stays one cut */
            TRY(cut_text(c, level + 1, text + at, from - at));
        if (to > from)
            TRY(cut_text(c, level + 1, text + from, to - from));
        at = to > at ? to : n;
    }
    return OK;
}

/* Bytes that are no UTF-8 would mislead the expression: each is replaced by U+FFFD. */
static char *repaired(const char *text, size_t n, size_t *out_n)
{
    char *s = malloc(3 * n + 1);
    size_t k = 0;
    for (size_t i = 0; s && i < n;) {
        size_t m = text[i] == 0 ? 1 : utf8_length(text + i, n - i);
        memcpy(s + k, m ? text + i : "\xef\xbf\xbd", m ? m : 3);
        k += m ? m : 3;
        i += m ? m : 1;
    }
    *out_n = k;
    return s;
}

enum status bpe_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err)
{
    size_t m;
    if (n > UINT32_MAX / 16)
        return err_set(err, ERR_INPUT, "a text of %zu bytes is too long to tokenize at once", n);
    char *s = repaired(text, n, &m);
    struct cutting c = {.word = {.t = t}, .out = out, .err = err};
    c.word.text = malloc(2 * m + 1);
    c.word.part = malloc((m + 1) * sizeof *c.word.part);
    c.word.heap = malloc((3 * m + 4) * sizeof *c.word.heap);
    c.match[0] = pcre2_match_data_create(1, NULL);
    c.match[1] = pcre2_match_data_create(1, NULL);
    bool good = s && c.word.text && c.word.part && c.word.heap && c.match[0] && c.match[1];
    enum status status = good ? cut_text(&c, 0, s, m) : err_set(err, ERR_MEMORY, "out of memory for tokenizing");
    pcre2_match_data_free(c.match[0]);
    pcre2_match_data_free(c.match[1]);
    free(c.word.text);
    free(c.word.part);
    free(c.word.heap);
    free(s);
    return status;
}
