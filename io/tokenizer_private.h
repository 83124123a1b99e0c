/* tokenizer_private.h: the vocabulary that tokenizer.c keeps and the two algorithms read; private to the tokenizer. */
#ifndef VENEER_TOKENIZER_PRIVATE_H
#define VENEER_TOKENIZER_PRIVATE_H
#include "io/tokenizer.h"

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };
enum tokenizer_kind { TOKENIZER_SPM, TOKENIZER_BPE };
enum { MAX_PIECES = 4000000, MAX_PIECE_BYTES = 65536 };

struct bpe; /* merges and the pre-tokenizer */

struct tokenizer {
    enum tokenizer_kind kind;
    char **piece;   /* [n], as stored, NUL-terminated */
    uint32_t *length;
    float *score;   /* [n] or NULL */
    int32_t *type;  /* [n] */
    int32_t n;
    int32_t bos, eos, unk;
    bool add_bos;
    bool add_space_prefix, remove_extra_spaces, byte_fallback;
    int32_t byte[256]; /* id of <0xXX>, or -1 */
    char *chat_template, *pre;
    uint32_t *slot; /* hash table of ids + 1 */
    size_t n_slots;
    int32_t *special; /* ids that may be found in text as a whole: control and user-defined, sorted by bytes */
    size_t n_special;
    bool opens[256];  /* some special piece begins with this byte */
    struct bpe *bpe;
};

/* ---- building ---- */
enum status tokenizer_new(struct tokenizer **out, enum tokenizer_kind kind, int32_t n, struct err *err);
enum status tokenizer_set(struct tokenizer *t, int32_t id, const char *piece, size_t length, float score, int32_t type,
                          const char *where, struct err *err);
/* Checks what single pieces cannot: duplicates, byte pieces, ids in range; builds the tables. */
enum status tokenizer_finish(struct tokenizer *t, const char *where, struct err *err);

/* ---- looking up ---- */
int32_t tokenizer_lookup(const struct tokenizer *t, const char *piece, size_t n); /* -1: none */
/* The longest special piece that s[n] begins with, -1: none.  control: control pieces count, else only user-defined ones.  Costs the
 * piece's bytes times the logarithm of the number of special pieces. */
int32_t tokenizer_special(const struct tokenizer *t, const char *s, size_t n, bool control);

/* ---- the algorithms, on a stretch of text without special pieces ---- */
enum status spm_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err);
enum status bpe_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err);

/* Takes ownership of nothing; merges as "left right". */
enum status bpe_new(struct tokenizer *t, char *const *merge, size_t n_merges, const char *where, struct err *err);
/* Ranks are the ids themselves (tiktoken): a pair merges when the joined piece exists. */
enum status bpe_new_ranked(struct tokenizer *t, const char *where, struct err *err);
void bpe_free(struct bpe *bpe);
size_t bpe_merges(const struct tokenizer *t, char *const **merge);
/* A byte in printable form into to[2]; returns its bytes. */
size_t bpe_put_byte(int byte, char *to);
/* One byte of a stored piece's printable form; *used bytes of s. -1: not such a form. */
int bpe_byte(const char *s, size_t n, size_t *used);

#endif
