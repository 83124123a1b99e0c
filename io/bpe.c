/* bpe.c: byte pair encoding: a cut's characters, or its bytes in printable form, are pieces at first, and neighbours are joined by rank.
 * Sennrich et al. 2016 (arXiv:1508.07909), Radford et al. 2019 (GPT-2).  pretokenizer.c makes the cuts. */
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/tokenizer_private.h"

struct pair {
    int32_t left, right;
    uint32_t rank;
    int32_t joined; /* -1: an empty slot */
};

struct bpe {
    struct bpe_options options;
    struct pair *pair; /* hash table, at most half full */
    size_t n_slots, n_pairs;
    char **merge; /* [n] "left right", for GGUF; none where spaces are escaped */
    size_t n, cap;
    int32_t byte[256]; /* byte level: the piece of each byte, -1: none */
    struct {
        char s[2];
        uint8_t n;
    } printed[256];
};

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

/* ---- pairs ---- */

static size_t slot_of(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h ^ h >> 32) & (bpe->n_slots - 1);
    while (bpe->pair[at].joined >= 0 && (bpe->pair[at].left != left || bpe->pair[at].right != right))
        at = (at + 1) & (bpe->n_slots - 1);
    return at;
}

/* NULL: they do not join. */
static const struct pair *find_pair(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct pair *pair = &bpe->pair[slot_of(bpe, left, right)];
    return pair->joined >= 0 ? pair : NULL;
}

static enum status make_slots(struct bpe *bpe, size_t n, struct err *err)
{
    struct pair *old = bpe->pair;
    size_t n_old = bpe->n_slots;
    bpe->pair = malloc(n * sizeof *bpe->pair);
    if (!bpe->pair) {
        bpe->pair = old;
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    }
    bpe->n_slots = n;
    for (size_t i = 0; i < n; i++)
        bpe->pair[i].joined = -1;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].joined >= 0)
            bpe->pair[slot_of(bpe, old[i].left, old[i].right)] = old[i];
    free(old);
    return OK;
}

/* *there: the pair has a rank already, and keeps it. */
static enum status add_pair(struct bpe *bpe, struct pair pair, bool *there, struct err *err)
{
    if (2 * (bpe->n_pairs + 1) > bpe->n_slots)
        TRY(make_slots(bpe, 2 * bpe->n_slots, err));
    struct pair *slot = &bpe->pair[slot_of(bpe, pair.left, pair.right)];
    *there = slot->joined >= 0;
    if (*there)
        return OK;
    *slot = pair;
    bpe->n_pairs++;
    return OK;
}

/* ---- building ---- */

static enum status keep_text(struct bpe *bpe, const char *left, size_t n_left, const char *right, size_t n_right, struct err *err)
{
    if (bpe->n == bpe->cap) {
        size_t more = bpe->cap ? 2 * bpe->cap : 4096;
        char **grown = realloc(bpe->merge, more * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for merges");
        bpe->merge = grown;
        bpe->cap = more;
    }
    char *merge = malloc(n_left + n_right + 2);
    if (!merge)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    memcpy(merge, left, n_left);
    merge[n_left] = ' ';
    memcpy(merge + n_left + 1, right, n_right);
    merge[n_left + 1 + n_right] = 0;
    bpe->merge[bpe->n++] = merge;
    return OK;
}

enum status bpe_new(struct tokenizer *t, const struct bpe_options *options, struct err *err)
{
    struct bpe *bpe = t->bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    bpe->options = *options;
    for (int b = 0; b < 256; b++) {
        bpe->printed[b].n = (uint8_t)bpe_put_byte(b, bpe->printed[b].s);
        bpe->byte[b] = tokenizer_lookup_model(t, bpe->printed[b].s, bpe->printed[b].n);
    }
    return make_slots(bpe, 1024, err);
}

enum status bpe_add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, bool strict, const char *where,
                          struct err *err)
{
    struct bpe *bpe = t->bpe;
    char *joined = malloc(n_left + n_right + 1);
    if (!joined)
        return err_set(err, ERR_MEMORY, "out of memory for merges");
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    int32_t ids[] = {tokenizer_lookup_model(t, left, n_left), tokenizer_lookup_model(t, right, n_right),
                     tokenizer_lookup_model(t, joined, n_left + n_right)};
    free(joined);
    size_t number = bpe->n_pairs;
    for (int i = 0; i < 3; i++)
        if (ids[i] < 0)
            return err_set(err, ERR_INPUT, "%s: merge %zu, '%.*s' and '%.*s': %s is no piece of the vocabulary", where, number,
                           (int)(n_left < 64 ? n_left : 64), left, (int)(n_right < 64 ? n_right : 64), right,
                           i == 0 ? "the left one" : i == 1 ? "the right one" : "what they join to");
    bool there;
    TRY(add_pair(bpe, (struct pair){ids[0], ids[1], (uint32_t)number, ids[2]}, &there, err));
    if (there && strict)
        return err_set(err, ERR_INPUT, "%s: merge %zu, '%.*s' and '%.*s', is there twice", where, number, (int)(n_left < 64 ? n_left : 64), left,
                       (int)(n_right < 64 ? n_right : 64), right);
    return there || t->spaces_escaped ? OK : keep_text(bpe, left, n_left, right, n_right, err);
}

enum status bpe_add_merge_text(struct tokenizer *t, const char *merge, size_t n, bool strict, const char *where, struct err *err)
{
    const char *space = n > 2 ? memchr(merge + 1, ' ', n - 2) : NULL;
    if (!space)
        return err_set(err, ERR_INPUT, "%s: merge %zu is '%.*s', want two pieces with a space between", where, t->bpe->n_pairs,
                       (int)(n < 64 ? n : 64), merge);
    return bpe_add_merge(t, merge, (size_t)(space - merge), space + 1, (size_t)(merge + n - space - 1), strict, where, err);
}

/* ---- pieces as merges ---- */

struct halves {
    int32_t left, right;
    size_t at; /* bytes of the left one */
};

static int by_halves(const void *a, const void *b)
{
    const struct halves *x = a, *y = b;
    return x->left != y->left ? (x->left > y->left) - (x->left < y->left) : (x->right > y->right) - (x->right < y->right);
}

static bool from_text(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && t->type[id] == PIECE_NORMAL;
}

enum status bpe_halves(const struct tokenizer *t, int32_t id, enum status (*each)(void *user, const char *piece, size_t n, size_t left), void *user,
                       struct err *err)
{
    const char *s = t->piece[id];
    size_t n = t->length[id], found = 0;
    if (!from_text(t, id))
        return OK;
    struct halves *halves = malloc((n + 1) * sizeof *halves);
    enum status status = halves ? OK : err_set(err, ERR_MEMORY, "out of memory for merges");
    for (size_t at = 1; status == OK && at < n; at++) {
        if (((unsigned char)s[at] & 0xC0) == 0x80)
            continue;
        int32_t left = tokenizer_lookup(t, s, at), right = from_text(t, left) ? tokenizer_lookup(t, s + at, n - at) : -1;
        if (from_text(t, right))
            halves[found++] = (struct halves){left, right, at};
    }
    if (found)
        qsort(halves, found, sizeof *halves, by_halves);
    for (size_t i = 0; status == OK && i < found; i++)
        status = each(user, s, n, halves[i].at);
    free(halves);
    return status;
}

struct ranked {
    struct tokenizer *t;
    int32_t id;
    struct err *err;
};

static enum status add_ranked(void *user, const char *piece, size_t n, size_t left)
{
    struct ranked *r = user;
    bool there;
    struct pair pair = {tokenizer_lookup(r->t, piece, left), tokenizer_lookup(r->t, piece + left, n - left), (uint32_t)r->id, r->id};
    TRY(add_pair(r->t->bpe, pair, &there, r->err));
    return keep_text(r->t->bpe, piece, left, piece + left, n - left, r->err);
}

enum status bpe_new_ranked(struct tokenizer *t, struct err *err)
{
    TRY(bpe_new(t, &(struct bpe_options){.ignore_merges = true}, err));
    for (int32_t id = 0; id < t->n; id++)
        TRY(bpe_halves(t, id, add_ranked, &(struct ranked){t, id, err}, err));
    return OK;
}

void bpe_free(struct bpe *bpe)
{
    if (!bpe)
        return;
    for (size_t i = 0; i < bpe->n; i++)
        free(bpe->merge[i]);
    free(bpe->merge);
    free(bpe->pair);
    free(bpe);
}

size_t bpe_merges(const struct tokenizer *t, char *const **merge)
{
    *merge = t->bpe->merge;
    return t->bpe->n;
}

bool bpe_ignores_merges(const struct tokenizer *t)
{
    return t->bpe->options.ignore_merges;
}

void bpe_scores(struct tokenizer *t)
{
    const struct bpe *bpe = t->bpe;
    for (int32_t id = 0; id < t->n; id++)
        t->score[id] = t->type[id] == PIECE_NORMAL ? -(float)bpe->n_pairs : 0;
    for (size_t i = 0; i < bpe->n_slots; i++) {
        const struct pair *p = &bpe->pair[i];
        if (p->joined >= 0 && -(float)p->rank > t->score[p->joined])
            t->score[p->joined] = -(float)p->rank;
    }
}

/* ---- one cut ---- */

enum { JOINED = -1 };

struct part {
    int32_t id; /* JOINED: into the one before */
    int32_t before, after;
};

struct join {
    uint32_t rank;
    int32_t at;          /* the left part */
    int32_t left, right; /* pieces when it was found */
};

/* A cut, or a word of one, that was seen before in this text, and where its ids are. */
struct seen {
    const char *s;
    uint32_t n, count;
    size_t first;
};

enum { SEEN = 4096, SEEN_FROM = 4096 /* bytes of text that pay for the table */ };

struct word {
    const struct tokenizer *t;
    struct tokens *out;
    struct err *err;
    char *text; /* a cut in printable form */
    struct part *part;
    struct join *heap;
    size_t n_heap, room; /* room: bytes of a cut */
    struct seen *seen;   /* [SEEN] or NULL */
};

static bool comes_first(const struct join *a, const struct join *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
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

static void try_join(struct word *w, int32_t at)
{
    int32_t after = at < 0 ? -1 : w->part[at].after;
    if (after < 0)
        return;
    const struct pair *pair = find_pair(w->t->bpe, w->part[at].id, w->part[after].id);
    if (pair)
        push(w, (struct join){pair->rank, at, pair->left, pair->right});
}

static void join_all(struct word *w, int32_t n)
{
    for (int32_t i = 0; i + 1 < n; i++)
        try_join(w, i);
    while (w->n_heap) {
        struct join j = pop(w);
        struct part *a = &w->part[j.at];
        if (a->id != j.left || a->after < 0 || w->part[a->after].id != j.right) /* one of them has been joined meanwhile */
            continue;
        struct part *b = &w->part[a->after];
        a->id = find_pair(w->t->bpe, j.left, j.right)->joined;
        b->id = JOINED;
        a->after = b->after;
        if (b->after >= 0)
            w->part[b->after].before = j.at;
        try_join(w, a->before);
        try_join(w, j.at);
    }
}

static enum status make_room(struct word *w, size_t n)
{
    if (n <= w->room)
        return OK;
    size_t room = n < 256 ? 256 : n + n / 2;
    free(w->text);
    free(w->part);
    free(w->heap);
    w->text = malloc(2 * room + 2);
    w->part = malloc(room * sizeof *w->part);
    w->heap = malloc((3 * room + 4) * sizeof *w->heap); /* n - 1 pairs at the start, two more for each of n - 1 joins */
    w->room = w->text && w->part && w->heap ? room : 0;
    return w->room ? OK : err_set(w->err, ERR_MEMORY, "out of memory for tokenizing");
}

static void add_part(struct word *w, int32_t *n, int32_t id)
{
    w->part[*n] = (struct part){id, *n - 1, *n + 1};
    ++*n;
}

/* <unk> for what has no piece; left out where there is none, as transformers and llama.cpp do. */
static void add_unknown(struct word *w, int32_t *n)
{
    const struct tokenizer *t = w->t;
    bool again = t->bpe->options.fuse_unk && *n > 0 && w->part[*n - 1].id == t->unk;
    if (t->unk >= 0 && !again)
        add_part(w, n, t->unk);
}

/* Characters; what has no piece as byte pieces, where all of its bytes have one. */
static int32_t split_characters(struct word *w, const char *s, size_t n)
{
    const struct tokenizer *t = w->t;
    int32_t count = 0;
    for (size_t i = 0, k; i < n; i += k) {
        k = s[i] == 0 ? 1 : utf8_length(s + i, n - i);
        k = k ? k : 1; /* an expression has cut a character */
        int32_t id = tokenizer_lookup_model(t, s + i, k);
        bool bytes = id < 0 && t->bpe->options.byte_fallback;
        for (size_t b = 0; bytes && b < k; b++)
            bytes = t->byte[(unsigned char)s[i + b]] >= 0;
        for (size_t b = 0; bytes && b < k; b++)
            add_part(w, &count, t->byte[(unsigned char)s[i + b]]);
        if (id >= 0)
            add_part(w, &count, id);
        else if (!bytes)
            add_unknown(w, &count);
    }
    return count;
}

static int32_t split_bytes(struct word *w, const char *s, size_t n)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = w->t->bpe->byte[(unsigned char)s[i]];
        if (id >= 0)
            add_part(w, &count, id);
        else
            add_unknown(w, &count);
    }
    return count;
}

/* The piece that the whole cut is, -1: none. */
static int32_t whole(struct word *w, const char *s, size_t n)
{
    const struct bpe *bpe = w->t->bpe;
    char *to = w->text;
    if (w->t->spaces_escaped)
        return tokenizer_lookup_model(w->t, s, n);
    for (size_t i = 0; i < n; i++) {
        int b = (unsigned char)s[i];
        memcpy(to, bpe->printed[b].s, 2);
        to += bpe->printed[b].n;
    }
    return tokenizer_lookup_model(w->t, w->text, (size_t)(to - w->text));
}

static enum status join_word(struct word *w, const char *s, size_t n)
{
    const struct tokenizer *t = w->t;
    int32_t count = t->spaces_escaped ? split_characters(w, s, n) : split_bytes(w, s, n);
    if (count == 0)
        return OK;
    w->part[count - 1].after = -1;
    join_all(w, count);
    for (int32_t i = 0; i >= 0; i = w->part[i].after)
        TRY(tokens_push(w->out, w->part[i].id, w->err));
    return OK;
}

static enum status encode_word(struct word *w, const char *s, size_t n)
{
    if (!w->seen)
        return join_word(w, s, n);
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    struct seen *seen = &w->seen[(h ^ h >> 32) & (SEEN - 1)];
    size_t first = w->out->n;
    if (seen->n == n && memcmp(seen->s, s, n) == 0) {
        for (size_t i = 0; i < seen->count; i++)
            TRY(tokens_push(w->out, w->out->id[seen->first + i], w->err));
    } else {
        TRY(join_word(w, s, n));
        *seen = (struct seen){s, (uint32_t)n, (uint32_t)(w->out->n - first), first};
    }
    return OK;
}

static enum status encode_cut(void *user, const char *s, size_t n)
{
    struct word *w = user;
    TRY(make_room(w, n));
    int32_t id = w->t->bpe->options.ignore_merges ? whole(w, s, n) : -1;
    if (id >= 0)
        return tokens_push(w->out, id, w->err);
    for (size_t at = 0, k; at < n; at += k) {
        k = w->t->words ? tokenizer_word(s + at, n - at) : n;
        TRY(encode_word(w, s + at, k));
    }
    return OK;
}

enum status bpe_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err)
{
    struct word w = {.t = t, .out = out, .err = err};
    if (n >= SEEN_FROM && !(w.seen = calloc(SEEN, sizeof *w.seen)))
        return err_set(err, ERR_MEMORY, "out of memory for tokenizing");
    enum status status = pretokenizer_cut(t->pretokenizer, text, n, encode_cut, &w, err);
    free(w.seen);
    free(w.text);
    free(w.part);
    free(w.heap);
    return status;
}
