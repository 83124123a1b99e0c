/* bpe.c: learns byte-pair merges from a text and writes them as a SentencePiece model.
 *
 * Words are runs of letters or of one other character ("###"), a blank in front belongs to its word (U+2581), so that no piece reaches
 * over a word's end.  Each round joins the pair that occurs most often; ties go to the pair that is first in byte order, so
 * the model is a function of the text.  Sennrich et al. 2016, arXiv:1508.07909; the file: sentencepiece_model.proto.
 * What it is not: an encoder (io/spm.c), and it takes ASCII text only. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { MOST_WORDS = 8192, MOST_SYMBOLS = 48, MOST_PIECES = 4096, PIECE_BYTES = 64, N_BYTES = 256, N_CONTROL = 3 };

struct word {
    int symbol[MOST_SYMBOLS], n;
    long long count;
};

struct learner {
    struct word word[MOST_WORDS];
    int n_words;
    char piece[MOST_PIECES][PIECE_BYTES]; /* characters first, then merges in order */
    int n_pieces, n_characters;
    int of_character[128];
    int underline; /* the piece of U+2581 */
    struct text key; /* the words as text, one a line, for looking one up */
};

static const char UNDERLINE[] = "\xe2\x96\x81";

static bool same_word(char a, char b)
{
    return (isalpha((unsigned char)a) && isalpha((unsigned char)b)) || (a == b && a != ' ');
}

static int character(struct learner *l, char c)
{
    int *id = c == ' ' ? &l->underline : &l->of_character[(unsigned char)c & 127];
    if (*id < 0) {
        *id = l->n_pieces;
        if (c == ' ')
            memcpy(l->piece[l->n_pieces++], UNDERLINE, sizeof UNDERLINE);
        else
            l->piece[l->n_pieces++][0] = c;
    }
    return *id;
}

static enum status add_word(struct learner *l, const char *s, size_t n, struct err *err)
{
    struct word word = {.n = 0, .count = 1};
    if (n > MOST_SYMBOLS)
        return err_set(err, ERR_INPUT, "a word of %zu letters, want at most %d", n, MOST_SYMBOLS);
    for (size_t i = 0; i < n; i++)
        word.symbol[word.n++] = character(l, s[i]);
    for (int w = 0; w < l->n_words; w++)
        if (l->word[w].n == word.n && memcmp(l->word[w].symbol, word.symbol, (size_t)word.n * sizeof *word.symbol) == 0) {
            l->word[w].count++;
            return OK;
        }
    if (l->n_words == MOST_WORDS)
        return err_set(err, ERR_INPUT, "more than %d different words", MOST_WORDS);
    l->word[l->n_words++] = word;
    return OK;
}

static enum status read_words(struct learner *l, const char *s, size_t n, struct err *err)
{
    for (size_t i = 0; i < n;) {
        size_t j = i + 1;
        if ((unsigned char)s[i] > 127)
            return err_set(err, ERR_INPUT, "byte %zu of the text is not ASCII", i);
        if (s[i] == ' ' && j < n && isalpha((unsigned char)s[j]))
            j++;
        while (j < n && same_word(s[j - 1], s[j]))
            j++;
        TRY(add_word(l, s + i, j - i, err));
        i = j;
    }
    return OK;
}

static int before(const struct learner *l, const int a[2], const int b[2])
{
    int first = strcmp(l->piece[a[0]], l->piece[b[0]]);
    return first ? first : strcmp(l->piece[a[1]], l->piece[b[1]]);
}

/* The most frequent pair; false when no word has two symbols left. */
static bool best_pair(const struct learner *l, long long *counts, int best[2])
{
    long long most = 0;
    size_t side = (size_t)l->n_pieces;
    memset(counts, 0, side * side * sizeof *counts);
    for (int w = 0; w < l->n_words; w++)
        for (int i = 0; i + 1 < l->word[w].n; i++) {
            int pair[2] = {l->word[w].symbol[i], l->word[w].symbol[i + 1]};
            counts[(size_t)pair[0] * side + (size_t)pair[1]] += l->word[w].count;
        }
    for (size_t k = 0; k < side * side; k++) {
        int pair[2] = {(int)(k / side), (int)(k % side)};
        if (counts[k] > most || (counts[k] > 0 && counts[k] == most && before(l, pair, best) < 0)) {
            most = counts[k];
            memcpy(best, pair, sizeof pair);
        }
    }
    return most > 0;
}

static enum status join(struct learner *l, const int pair[2], struct err *err)
{
    int id = l->n_pieces++;
    size_t a = strlen(l->piece[pair[0]]), b = strlen(l->piece[pair[1]]);
    if (a + b >= PIECE_BYTES)
        return err_set(err, ERR_INPUT, "a piece of %zu bytes, want fewer than %d", a + b, PIECE_BYTES);
    memcpy(l->piece[id], l->piece[pair[0]], a);
    memcpy(l->piece[id] + a, l->piece[pair[1]], b + 1);
    for (int w = 0; w < l->n_words; w++) {
        struct word *word = &l->word[w];
        int n = 0;
        for (int i = 0; i < word->n; i++)
            if (i + 1 < word->n && word->symbol[i] == pair[0] && word->symbol[i + 1] == pair[1]) {
                word->symbol[n++] = id;
                i++;
            } else {
                word->symbol[n++] = word->symbol[i];
            }
        word->n = n;
    }
    return OK;
}

/* Two ways may build the same string ("a"+"bc", "ab"+"c"): one piece cannot be listed twice. */
static bool known(const struct learner *l, const int pair[2])
{
    size_t a = strlen(l->piece[pair[0]]);
    for (int p = 0; p < l->n_pieces; p++)
        if (strncmp(l->piece[p], l->piece[pair[0]], a) == 0 && strcmp(l->piece[p] + a, l->piece[pair[1]]) == 0)
            return true;
    return false;
}

/* ---- protobuf: tag = field << 3 | wire type (0 varint, 2 length, 5 four bytes) ---- */

static void put_varint(struct text *out, uint64_t x)
{
    do {
        char byte = (char)((x & 127) | (x > 127 ? 128 : 0));
        text_add(out, &byte, 1);
        x >>= 7;
    } while (x);
}

static void put_number(struct text *out, int field, int64_t x)
{
    put_varint(out, (uint64_t)field << 3);
    put_varint(out, (uint64_t)x);
}

static void put_bytes(struct text *out, int field, const char *s, size_t n)
{
    put_varint(out, (uint64_t)field << 3 | 2);
    put_varint(out, n);
    text_add(out, s, n);
}

enum piece_type { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

static void put_piece(struct text *out, struct text *scratch, const char *piece, float score, enum piece_type type)
{
    unsigned char little[4];
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    for (int i = 0; i < 4; i++)
        little[i] = (unsigned char)(bits >> (8 * i));
    text_clear(scratch);
    put_bytes(scratch, 1, piece, strlen(piece));
    put_varint(scratch, 2 << 3 | 5);
    text_add(scratch, (const char *)little, 4);
    put_number(scratch, 3, type);
    put_bytes(out, 1, scratch->s, scratch->n);
}

/* A merge's score falls with its turn, characters come last: an encoder that joins the highest score first repeats the merges. */
static void write_model(struct text *out, const struct learner *l)
{
    struct text scratch = {0};
    float turn = 0;
    put_piece(out, &scratch, "<unk>", 0, UNKNOWN);
    put_piece(out, &scratch, "<s>", 0, CONTROL);
    put_piece(out, &scratch, "</s>", 0, CONTROL);
    for (int b = 0; b < N_BYTES; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char name[] = "<0x00>";
        name[3] = hex[b >> 4];
        name[4] = hex[b & 15];
        put_piece(out, &scratch, name, 0, BYTE);
    }
    for (int p = l->n_characters; p < l->n_pieces; p++, turn -= 1)
        put_piece(out, &scratch, l->piece[p], turn, NORMAL);
    for (int p = 0; p < l->n_characters; p++, turn -= 1)
        put_piece(out, &scratch, l->piece[p], turn, NORMAL);
    text_clear(&scratch);
    put_number(&scratch, 3, 2); /* model_type BPE */
    put_number(&scratch, 4, l->n_pieces + N_BYTES + N_CONTROL);
    put_number(&scratch, 35, 1); /* byte_fallback */
    put_number(&scratch, 40, 0); /* unk, bos, eos, pad */
    put_number(&scratch, 41, 1);
    put_number(&scratch, 42, 2);
    put_number(&scratch, 43, -1);
    put_bytes(out, 2, scratch.s, scratch.n);
    text_clear(&scratch);
    put_bytes(&scratch, 1, "identity", 8);
    put_bytes(&scratch, 2, "", 0);
    put_number(&scratch, 3, 1); /* add_dummy_prefix */
    put_number(&scratch, 4, 0); /* remove_extra_whitespaces */
    put_number(&scratch, 5, 1); /* escape_whitespaces */
    put_bytes(out, 3, scratch.s, scratch.n);
    text_free(&scratch);
}

static enum status learn(struct learner *l, long long *counts, int pieces, struct err *err)
{
    while (l->n_pieces + N_BYTES + N_CONTROL < pieces) {
        int pair[2] = {0, 0};
        if (!best_pair(l, counts, pair))
            return err_set(err, ERR_INPUT, "the text gives only %d pieces, want %d", l->n_pieces + N_BYTES + N_CONTROL, pieces);
        if (known(l, pair))
            return err_set(err, ERR_INPUT, "piece '%s%s' is built in two ways", l->piece[pair[0]], l->piece[pair[1]]);
        TRY(join(l, pair, err));
    }
    return OK;
}

enum status bpe_learn(struct text *model, const char *text, size_t n, int pieces, struct err *err)
{
    if (pieces > MOST_PIECES)
        return err_set(err, ERR_INPUT, "%d pieces, want at most %d", pieces, MOST_PIECES);
    struct learner *l = calloc(1, sizeof *l);
    long long *counts = malloc((size_t)pieces * (size_t)pieces * sizeof *counts);
    enum status status = OK;
    if (!l || !counts) {
        status = err_set(err, ERR_MEMORY, "out of memory for the merges");
    } else {
        memset(l->of_character, -1, sizeof l->of_character);
        l->underline = -1;
        status = read_words(l, text, n, err);
        l->n_characters = l->n_pieces;
        if (status == OK)
            status = learn(l, counts, pieces, err);
        if (status == OK)
            write_model(model, l);
    }
    free(counts);
    free(l);
    return status;
}
