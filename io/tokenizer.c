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
    t->spaces_escaped = kind == TOKENIZER_SPM;
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

int32_t tokenizer_lookup_model(const struct tokenizer *t, const char *piece, size_t n)
{
    int32_t id = tokenizer_lookup(t, piece, n);
    bool other = id >= 0 && (t->added ? (t->added[id] & ADDED_OUTSIDE) != 0 : t->type[id] == PIECE_CONTROL);
    return other ? -1 : id;
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

/* Where a text is looked for: as it stands, or as the normalizer leaves it. */
static enum status add_name(struct tokenizer *t, int32_t id, struct err *err)
{
    bool rewritten = t->added && t->added[id] & ADDED_NORMALIZED && pretokenizer_rewrites(t->pretokenizer, RULES_NORMALIZER);
    if (!rewritten)
        return names_add(t->added && t->added[id] & ADDED_NORMALIZED ? &t->normalized : &t->special, t->piece[id], t->length[id], id, err);
    struct text text;
    TRY(pretokenizer_rewrite(t->pretokenizer, RULES_NORMALIZER, t->piece[id], t->length[id], true, &text, err));
    enum status status = text.n ? names_add(&t->normalized, text.s, text.n, id, err) : OK;
    text_free(&text);
    return status;
}

static enum status index_special(struct tokenizer *t, struct err *err)
{
    for (int32_t id = 0; id < t->n; id++)
        if (t->added ? t->added[id] & ADDED : t->type[id] == PIECE_CONTROL || t->type[id] == PIECE_USER || t->type[id] == PIECE_UNKNOWN)
            TRY(add_name(t, id, err));
    names_sort(&t->special);
    names_sort(&t->normalized);
    return OK;
}

static const char space[] = "\xe2\x96\x81"; /* U+2581 stands for a space in SentencePiece */

size_t tokenizer_word(const char *s, size_t n)
{
    size_t at = 0;
    while (n - at >= 3 && memcmp(s + at, space, 3) == 0)
        at += 3;
    for (const char *next; at < n; at = (size_t)(next - s) + 1) {
        next = memchr(s + at, space[0], n - at);
        if (!next)
            return n;
        if (n - (size_t)(next - s) >= 3 && memcmp(next, space, 3) == 0)
            return (size_t)(next - s);
    }
    return n;
}

/* A word ends where no piece goes on: asked once, so that long texts need no long heaps.  Without a piece for U+2581 itself what is unknown on both
 * sides would be one. */
static bool has_words(const struct tokenizer *t)
{
    bool words = t->spaces_escaped && tokenizer_lookup(t, space, 3) >= 0;
    for (int32_t id = 0; words && id < t->n; id++)
        words = tokenizer_word(t->piece[id], t->length[id]) == t->length[id];
    return words;
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
    t->words = has_words(t);
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
    tokenizer_free_chat(t);
    free(t->pre);
    free(t->slot);
    free(t->added);
    names_free(&t->special);
    names_free(&t->normalized);
    bpe_free(t->bpe);
    pretokenizer_free(t->pretokenizer);
    free(t);
}

enum status tokenizer_fail(struct tokenizer **out, enum status status)
{
    tokenizer_free(*out);
    *out = NULL;
    return status;
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

int32_t tokenizer_find(const struct tokenizer *t, const char *piece)
{
    return tokenizer_lookup(t, piece, strlen(piece));
}

void tokenizer_view(const struct tokenizer *t, struct tokenizer_view *view)
{
    char *const *merge = NULL;
    size_t n = t->bpe ? bpe_merges(t, &merge) : 0;
    *view = (struct tokenizer_view){.model = t->spaces_escaped ? "llama" : "gpt2", .pre = t->pre, .n = t->n,
                                    .piece = (const char *const *)t->piece, .score = t->spaces_escaped ? t->score : NULL,
                                    .type = t->type, .merge = (const char *const *)merge, .n_merges = (int32_t)n,
                                    .add_space_prefix = t->add_space_prefix};
}

/* ---- bytes that are no UTF-8 ---- */

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

/* one_per_byte: as SentencePiece, else one U+FFFD for each ill-formed part. */
static void repair(const char *s, size_t n, bool one_per_byte, struct text *out)
{
    size_t start = 0;
    for (size_t i = 0; i < n;) {
        size_t k = utf8_length(s + i, n - i);
        if (k) {
            i += k;
            continue;
        }
        text_add(out, s + start, i - start);
        text_puts(out, "\xef\xbf\xbd");
        i += one_per_byte ? 1 : ill_formed((const unsigned char *)s + i, n - i);
        start = i;
    }
    text_add(out, s + start, n - start);
}

/* ---- encoding: special pieces first, the stretches between them by the algorithm ---- */

static enum status spm_stretch(const struct tokenizer *t, const char *text, size_t n, bool first, bool control, struct tokens *out, struct err *err)
{
    (void)first;
    (void)control;
    return spm_encode(t, text, n, out, err);
}

static enum status cut_stretch(const struct tokenizer *t, const char *text, size_t n, bool first, bool control, struct tokens *out, struct err *err)
{
    (void)control;
    if (!pretokenizer_rewrites(t->pretokenizer, RULES_PRETOKENIZER))
        return bpe_encode(t, text, n, out, err);
    struct text made;
    TRY(pretokenizer_rewrite(t->pretokenizer, RULES_PRETOKENIZER, text, n, first, &made, err));
    enum status status = bpe_encode(t, made.s, made.n, out, err);
    text_free(&made);
    return status;
}

static enum status normal_stretch(const struct tokenizer *t, const char *text, size_t n, bool first, bool control, struct tokens *out,
                                  struct err *err)
{
    if (!pretokenizer_rewrites(t->pretokenizer, RULES_NORMALIZER))
        return names_split(t, &t->normalized, text, n, first, control, cut_stretch, out, err);
    struct text made;
    TRY(pretokenizer_rewrite(t->pretokenizer, RULES_NORMALIZER, text, n, first, &made, err));
    enum status status = names_split(t, &t->normalized, made.s, made.n, first, control, cut_stretch, out, err);
    text_free(&made);
    return status;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool parse_special, struct tokens *out,
                             struct err *err)
{
    if (n > UINT32_MAX / 16)
        return err_set(err, ERR_INPUT, "a text of %zu bytes is too long to tokenize at once", n);
    /* user-defined pieces of SentencePiece are found inside spm_encode, after spaces were escaped */
    if (t->kind == TOKENIZER_SPM)
        return n == 0 || !parse_special ? spm_encode(t, text, n, out, err) : names_split(t, &t->special, text, n, true, true, spm_stretch, out, err);
    struct text sound = {0};
    repair(text, n, true, &sound); /* such bytes would mislead an expression */
    enum status status = sound.failed ? err_set(err, ERR_MEMORY, "out of memory for tokenizing")
                                      : names_split(t, &t->special, sound.s, sound.n, true, parse_special, normal_stretch, out, err);
    text_free(&sound);
    return status;
}

int32_t tokenizer_bos_for(const struct tokenizer *t, int bos)
{
    return bos == 1 || (bos < 0 && t->add_bos) ? t->bos : -1;
}

enum status tokenizer_encode_bos(const struct tokenizer *t, int32_t bos, const char *text, size_t n, struct tokens *out, struct err *err)
{
    size_t first = out->n;
    if (bos >= 0)
        TRY(tokens_push(out, bos, err));
    TRY(tokenizer_encode(t, text, n, true, out, err));
    if (bos >= 0 && out->n > first + 1 && out->id[first + 1] == bos)
        memmove(out->id + first, out->id + first + 1, (--out->n - first) * sizeof *out->id);
    return OK;
}

/* ---- decoding ---- */

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

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, char **text, size_t *text_n, struct err *err)
{
    struct text raw = {0}, out = {0};
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n) {
            text_free(&raw);
            return err_set(err, ERR_INPUT, "token %d, want one from 0 to %d", ids[i], t->n - 1);
        }
        (t->spaces_escaped ? add_spm_piece : add_bpe_piece)(t, ids[i], &raw);
    }
    size_t drop = t->spaces_escaped && t->add_space_prefix && raw.n > 0 && raw.s[0] == ' ';
    while (drop && t->remove_extra_spaces && drop < raw.n && raw.s[drop] == ' ')
        drop++;
    if (raw.n > drop)
        repair(raw.s + drop, raw.n - drop, t->spaces_escaped, &out);
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
