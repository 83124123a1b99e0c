/* tokenizer.c: the vocabulary, special pieces, decoding.  spm.c and bpe.c encode; tokenizer_load.c reads files. */
#include "io/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "io/json.h"
#include "io/tokenizer_private.h"

/* ---- tokens ---- */

void tokens_free(struct tokens *tokens)
{
    free(tokens->id);
    memset(tokens, 0, sizeof *tokens);
}

enum status tokens_push(struct tokens *tokens, int32_t id, struct err *err)
{
    if (tokens->n == tokens->cap) {
        size_t cap = tokens->cap ? 2 * tokens->cap : 64;
        int32_t *grown = realloc(tokens->id, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "out of memory for tokens");
        tokens->id = grown;
        tokens->cap = cap;
    }
    tokens->id[tokens->n++] = id;
    return OK;
}

/* ---- building ---- */

enum status tokenizer_new(struct tokenizer **out, enum tokenizer_kind kind, int32_t n, struct err *err)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    *out = t;
    if (!t)
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    t->kind = kind;
    t->n = n;
    t->bos = t->eos = t->unk = -1;
    size_t count = (size_t)n;
    t->piece = calloc(count, sizeof *t->piece);
    t->length = calloc(count, sizeof *t->length);
    t->score = calloc(count, sizeof *t->score);
    t->type = calloc(count, sizeof *t->type);
    if (t->piece && t->length && t->score && t->type)
        return OK;
    tokenizer_free(t);
    *out = NULL;
    return err_set(err, ERR_MEMORY, "out of memory for a vocabulary of %d pieces", n);
}

enum status tokenizer_set(struct tokenizer *t, int32_t id, const char *piece, size_t length, float score, int32_t type,
                          const char *where, struct err *err)
{
    if (length == 0 || length > MAX_PIECE_BYTES)
        return err_set(err, ERR_INPUT, "%s: piece %d has %zu bytes, want 1 to %d", where, id, length, MAX_PIECE_BYTES);
    if (!isfinite(score))
        return err_set(err, ERR_INPUT, "%s: the score of piece %d is not finite", where, id);
    if (type < PIECE_NORMAL || type > PIECE_BYTE)
        return err_set(err, ERR_INPUT, "%s: piece %d has type %d, want 1 to 6", where, id, type);
    t->piece[id] = malloc(length + 1);
    if (!t->piece[id])
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    memcpy(t->piece[id], piece, length);
    t->piece[id][length] = 0;
    t->length[id] = (uint32_t)length;
    t->score[id] = score;
    t->type[id] = type;
    return OK;
}

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

int32_t tokenizer_lookup(const struct tokenizer *t, const char *piece, size_t n)
{
    for (size_t at = hash(piece, n) & (t->n_slots - 1); t->slot[at]; at = (at + 1) & (t->n_slots - 1)) {
        uint32_t id = t->slot[at] - 1;
        if (t->length[id] == n && memcmp(t->piece[id], piece, n) == 0)
            return (int32_t)id;
    }
    return -1;
}

static enum status index_pieces(struct tokenizer *t, const char *where, struct err *err)
{
    t->n_slots = 16;
    while (t->n_slots < 2 * (size_t)t->n)
        t->n_slots *= 2;
    t->slot = calloc(t->n_slots, sizeof *t->slot);
    if (!t->slot)
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    for (int32_t id = 0; id < t->n; id++) {
        int32_t other = tokenizer_lookup(t, t->piece[id], t->length[id]);
        if (other >= 0)
            return err_set(err, ERR_INPUT, "%s: pieces %d and %d are the same text", where, other, id);
        size_t at = hash(t->piece[id], t->length[id]) & (t->n_slots - 1);
        while (t->slot[at])
            at = (at + 1) & (t->n_slots - 1);
        t->slot[at] = (uint32_t)id + 1;
    }
    return OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* <0xXX> -> byte; exactly two hexadecimal digits, no sign. */
static enum status index_bytes(struct tokenizer *t, const char *where, struct err *err)
{
    for (int b = 0; b < 256; b++)
        t->byte[b] = -1;
    for (int32_t id = 0; id < t->n; id++) {
        const char *s = t->piece[id];
        if (t->type[id] != PIECE_BYTE)
            continue;
        int high = t->length[id] == 6 ? hex_digit(s[3]) : -1, low = t->length[id] == 6 ? hex_digit(s[4]) : -1;
        if (high < 0 || low < 0 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
            return err_set(err, ERR_INPUT, "%s: byte piece %d is '%s', want <0x00> to <0xFF>", where, id, s);
        t->byte[16 * high + low] = id;
    }
    t->byte_fallback = true;
    for (int b = 0; b < 256; b++)
        t->byte_fallback = t->byte_fallback && t->byte[b] >= 0;
    return OK;
}

struct named { /* a special piece while they are sorted */
    const char *s;
    uint32_t n;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int d = memcmp(x->s, y->s, x->n < y->n ? x->n : y->n);
    return d ? d : (x->n > y->n) - (x->n < y->n);
}

static enum status index_special(struct tokenizer *t, struct err *err)
{
    size_t most = (size_t)t->n;
    struct named *named = malloc(most * sizeof *named);
    t->special = malloc(most * sizeof *t->special);
    if (!named || !t->special) {
        free(named);
        return err_set(err, ERR_MEMORY, "out of memory for special pieces");
    }
    for (int32_t id = 0; id < t->n; id++)
        if (t->type[id] == PIECE_CONTROL || t->type[id] == PIECE_USER) {
            named[t->n_special++] = (struct named){t->piece[id], t->length[id], id};
            t->opens[(unsigned char)t->piece[id][0]] = true;
        }
    qsort(named, t->n_special, sizeof *named, by_bytes);
    for (size_t i = 0; i < t->n_special; i++)
        t->special[i] = named[i].id;
    free(named);
    return OK;
}

enum status tokenizer_finish(struct tokenizer *t, const char *where, struct err *err)
{
    const int32_t ids[] = {t->bos, t->eos, t->unk};
    static const char *const names[] = {"bos", "eos", "unk"};
    for (int i = 0; i < 3; i++)
        if (ids[i] < -1 || ids[i] >= t->n)
            return err_set(err, ERR_INPUT, "%s: %s id %d, want one below %d", where, names[i], ids[i], t->n);
    TRY(index_pieces(t, where, err));
    TRY(index_bytes(t, where, err));
    return index_special(t, err);
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    for (int32_t i = 0; t->piece && i < t->n; i++)
        free(t->piece[i]);
    free(t->piece);
    free(t->length);
    free(t->score);
    free(t->type);
    free(t->chat_template);
    free(t->pre);
    free(t->slot);
    free(t->special);
    bpe_free(t->bpe);
    free(t);
}

/* ---- what it is ---- */

int32_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_unk(const struct tokenizer *t)
{
    return t->unk;
}

bool tokenizer_add_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

const char *tokenizer_chat_template(const struct tokenizer *t)
{
    return t->chat_template;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    return tokenizer_lookup(t, piece, strlen(piece));
}

void tokenizer_view(const struct tokenizer *t, struct tokenizer_view *view)
{
    char *const *merge = NULL;
    size_t n = t->bpe ? bpe_merges(t, &merge) : 0;
    *view = (struct tokenizer_view){.model = t->kind == TOKENIZER_SPM ? "llama" : "gpt2", .pre = t->pre, .n = t->n,
                                    .piece = (const char *const *)t->piece, .score = t->kind == TOKENIZER_SPM ? t->score : NULL,
                                    .type = t->type, .merge = (const char *const *)merge, .n_merges = (int32_t)n,
                                    .add_space_prefix = t->add_space_prefix};
}

/* ---- encoding: special pieces first, the stretches between them by the algorithm ---- */

/* First of special[lo, hi) whose byte at `depth` is at least `byte`; all of them share the bytes before it. */
static size_t lower(const struct tokenizer *t, size_t lo, size_t hi, uint32_t depth, int byte)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)t->piece[t->special[mid]][depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int32_t tokenizer_special(const struct tokenizer *t, const char *s, size_t n, bool control)
{
    int32_t best = -1;
    if (n == 0 || !t->opens[(unsigned char)s[0]])
        return -1;
    size_t lo = 0, hi = t->n_special;
    for (uint32_t depth = 0; lo < hi; depth++) {
        int32_t id = t->special[lo];
        if (t->length[id] == depth) { /* sorted: the piece that ends here comes first */
            if (control || t->type[id] == PIECE_USER)
                best = id;
            lo++;
        }
        if (depth == n)
            break;
        int byte = (unsigned char)s[depth];
        lo = lower(t, lo, hi, depth, byte);
        hi = lower(t, lo, hi, depth, byte + 1);
    }
    return best;
}

static enum status encode_stretch(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err)
{
    if (n == 0)
        return OK;
    return (t->kind == TOKENIZER_SPM ? spm_encode : bpe_encode)(t, text, n, out, err);
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool parse_special, struct tokens *out,
                             struct err *err)
{
    /* user-defined pieces of SentencePiece are found inside spm_encode, after spaces were escaped */
    if (!parse_special || t->n_special == 0)
        return encode_stretch(t, text, n, out, err);
    size_t start = 0;
    for (size_t at = 0; at < n;) {
        int32_t id = tokenizer_special(t, text + at, n - at, true);
        if (id < 0 || (t->kind == TOKENIZER_SPM && t->type[id] == PIECE_USER)) {
            at += id < 0 ? 1 : t->length[id];
            continue;
        }
        TRY(encode_stretch(t, text + start, at - start, out, err));
        TRY(tokens_push(out, id, err));
        at += t->length[id];
        start = at;
    }
    return encode_stretch(t, text + start, n - start, out, err);
}

/* ---- decoding ---- */

static const char space[] = "\xe2\x96\x81"; /* U+2581 stands for a space in SentencePiece */

static void add_spm_piece(const struct tokenizer *t, int32_t id, struct text *out)
{
    const char *s = t->piece[id];
    size_t n = t->length[id];
    if (t->type[id] == PIECE_CONTROL)
        return;
    if (t->type[id] == PIECE_BYTE) {
        char b = (char)(16 * hex_digit(s[3]) + hex_digit(s[4]));
        text_add(out, &b, 1);
        return;
    }
    if (t->type[id] == PIECE_UNKNOWN) {
        text_puts(out, " \xe2\x81\x87 ");
        return;
    }
    for (size_t i = 0; i < n;) {
        bool is_space = n - i >= 3 && memcmp(s + i, space, 3) == 0;
        text_add(out, is_space ? " " : s + i, 1);
        i += is_space ? 3 : 1;
    }
}

static void add_bpe_piece(const struct tokenizer *t, int32_t id, struct text *out)
{
    const char *s = t->piece[id];
    size_t n = t->length[id], used;
    if (t->type[id] == PIECE_CONTROL || t->type[id] == PIECE_USER) {
        text_add(out, s, n);
        return;
    }
    for (size_t i = 0; i < n; i += used) {
        int b = bpe_byte(s + i, n - i, &used);
        char c = b >= 0 ? (char)b : s[i];
        text_add(out, &c, 1);
        used = b >= 0 ? used : 1;
    }
}

/* Bytes of an ill-formed part that a decoder replaces by one U+FFFD: the longest beginning of a well-formed sequence (Unicode, table 3-8). */
static size_t ill_formed(const unsigned char *s, size_t n)
{
    unsigned char a = s[0];
    size_t need = a >= 0xC2 && a <= 0xDF ? 1 : a >= 0xE0 && a <= 0xEF ? 2 : a >= 0xF0 && a <= 0xF4 ? 3 : 0, k = 1;
    for (; k <= need && k < n; k++) {
        unsigned char low = 0x80, high = 0xBF;
        if (k == 1 && a == 0xE0)
            low = 0xA0;
        if (k == 1 && a == 0xED)
            high = 0x9F;
        if (k == 1 && a == 0xF0)
            low = 0x90;
        if (k == 1 && a == 0xF4)
            high = 0x8F;
        if (s[k] < low || s[k] > high)
            break;
    }
    return k;
}

static void repair(const struct text *raw, bool one_per_byte, struct text *out)
{
    for (size_t i = 0; i < raw->n;) {
        size_t k = (unsigned char)raw->s[i] == 0 ? 1 : utf8_length(raw->s + i, raw->n - i);
        if (k) {
            text_add(out, raw->s + i, k);
            i += k;
            continue;
        }
        k = one_per_byte ? 1 : ill_formed((const unsigned char *)raw->s + i, raw->n - i);
        text_puts(out, "\xef\xbf\xbd");
        i += k;
    }
}

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **text, size_t *text_n, struct err *err)
{
    struct text raw = {0}, out = {0};
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n) {
            text_free(&raw);
            return err_set(err, ERR_INPUT, "token %d, want one from 0 to %d", ids[i], t->n - 1);
        }
        (t->kind == TOKENIZER_SPM ? add_spm_piece : add_bpe_piece)(t, ids[i], &raw);
    }
    size_t drop = t->kind == TOKENIZER_SPM && t->add_space_prefix && raw.n > 0 && raw.s[0] == ' ';
    while (drop && t->remove_extra_spaces && drop < raw.n && raw.s[drop] == ' ')
        drop++;
    struct text body = {.s = raw.s ? raw.s + drop : raw.s, .n = raw.n - drop};
    repair(&body, t->kind == TOKENIZER_SPM, &out);
    text_add(&out, "", 0);
    bool failed = raw.failed || out.failed;
    text_free(&raw);
    if (failed) {
        text_free(&out);
        return err_set(err, ERR_MEMORY, "out of memory for decoded text");
    }
    *text = out.s;
    *text_n = out.n;
    return OK;
}
