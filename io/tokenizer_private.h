/* tokenizer_private.h: the vocabulary that tokenizer.c keeps and the algorithms read; private to the tokenizer. */
#ifndef VENEER_TOKENIZER_PRIVATE_H
#define VENEER_TOKENIZER_PRIVATE_H
#include "base/text.h"
#include "io/tokenizer.h"

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };
enum tokenizer_kind { TOKENIZER_SPM, TOKENIZER_BPE };
enum { MAX_PIECES = 4000000, MAX_PIECE_BYTES = 65536 };
/* How a piece of tokenizer.json's added_tokens is found; OUTSIDE: it is no piece of the model's own vocabulary. */
enum added { ADDED = 1, ADDED_LSTRIP = 2, ADDED_RSTRIP = 4, ADDED_SINGLE_WORD = 8, ADDED_NORMALIZED = 16, ADDED_OUTSIDE = 32 };

struct bpe;          /* merges */
struct pretokenizer; /* what rewrites and cuts text before BPE */

/* Texts that are found as a whole, sorted by bytes. */
struct named {
    char *s; /* owned */
    uint32_t n;
    int32_t id;
};
struct names {
    struct named *item;
    size_t n, cap;
    bool opens[256]; /* some text begins with this byte */
};

struct tokenizer {
    enum tokenizer_kind kind;
    char **piece;   /* [n], as stored, NUL-terminated */
    uint32_t *length;
    float *score;   /* [n] or NULL */
    int32_t *type;  /* [n] */
    uint8_t *added; /* [n] enum added, of tokenizer.json; else NULL */
    int32_t n;
    int32_t bos, eos, unk;
    bool add_bos;
    bool add_space_prefix, byte_fallback;
    bool remove_extra_spaces; /* SPM: when encoding; both: all spaces in front when decoding, not one */
    bool words; /* no piece has U+2581 behind another character: text may be cut in front of such a one, and the ids stay */
    bool spaces_escaped; /* pieces have U+2581 for a space: always with SPM, with BPE when it came from SentencePiece */
    int32_t byte[256]; /* id of <0xXX>, or -1 */
    char *chat_template, *pre;
    bool new_template; /* chat_template is not the one that was read */
    struct named_template {
        char *name, *source;
    } *named; /* chat templates beside it, by name */
    size_t n_named;
    uint32_t *slot; /* hash table of ids + 1 */
    size_t n_slots;
    struct names special, normalized; /* control and user-defined pieces; the second are found in rewritten text */
    struct bpe *bpe;
    struct pretokenizer *pretokenizer;
};

/* ---- building ---- */
enum status tokenizer_new(struct tokenizer **out, enum tokenizer_kind kind, int32_t n, struct err *err);
enum status tokenizer_set(struct tokenizer *t, int32_t id, const char *piece, size_t length, float score, int32_t type,
                          const char *where, struct err *err);
/* Checks what single pieces cannot: duplicates, byte pieces, ids in range; builds the tables.  With `added` the pre-tokenizer must be there. */
enum status tokenizer_finish(struct tokenizer *t, const char *where, struct err *err);
/* For a reader that fails: frees and hands the status up. */
enum status tokenizer_fail(struct tokenizer **out, enum status status);

/* ---- chat templates (tokenizer_chat.c) and other files beside it (tokenizer_json.c) ---- */
/* "default": chat_template; another name is one of those beside it.  ERR_INPUT: it cannot be the name of a file, or there are too many. */
enum status tokenizer_add_chat_template(struct tokenizer *t, const char *name, const char *source, const char *where, struct err *err);
void tokenizer_free_chat(struct tokenizer *t);
/* NAME in the folder of the file `path`, malloc'ed; NULL when out of memory. */
char *tokenizer_path_beside(const char *path, const char *name);
/* Reads it and applies its text, when it is there. */
enum status tokenizer_apply_beside(struct tokenizer *t, const char *path, const char *name,
                                   enum status (*apply)(struct tokenizer *t, const char *text, size_t n, const char *where, struct err *err), struct err *err);

/* ---- looking up ---- */
/* Bytes of the word that s[n], spaces escaped, begins with: up to the next U+2581 behind another character. */
size_t tokenizer_word(const char *s, size_t n);
int32_t tokenizer_lookup(const struct tokenizer *t, const char *piece, size_t n); /* -1: none */
/* A piece that an algorithm may make from ordinary text: not one that was only added. */
int32_t tokenizer_lookup_model(const struct tokenizer *t, const char *piece, size_t n);

/* ---- texts that are found as a whole (tokenizer_added.c) ---- */
enum status names_add(struct names *names, const char *s, size_t n, int32_t id, struct err *err);
void names_sort(struct names *names);
void names_free(struct names *names);
/* The longest name that s[n] begins with, NULL: none.  control: all count, else only user-defined pieces.  Costs the name's bytes times
 * the logarithm of the number of names. */
const struct named *names_longest(const struct tokenizer *t, const struct names *names, const char *s, size_t n, bool control);

typedef enum status stretch_encoder(const struct tokenizer *t, const char *text, size_t n, bool first, bool control, struct tokens *out,
                                    struct err *err);
/* Names in text[n] become their ids, what stands between goes to `rest`.  first: text is the beginning of the whole; handed on for its first
 * stretch.  In an SPM vocabulary user-defined pieces stay in the stretches. */
enum status names_split(const struct tokenizer *t, const struct names *names, const char *text, size_t n, bool first, bool control,
                        stretch_encoder *rest, struct tokens *out, struct err *err);

/* ---- the algorithms, on a stretch of text without special pieces ---- */
enum status spm_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err);
/* text: UTF-8 as the rules of the pre-tokenizer left it. */
enum status bpe_encode(const struct tokenizer *t, const char *text, size_t n, struct tokens *out, struct err *err);

/* ---- BPE (bpe.c) ---- */
struct bpe_options {
    bool ignore_merges; /* a cut that is itself a piece is taken whole */
    bool fuse_unk;      /* neighbours without a piece become one <unk> */
    bool byte_fallback; /* what has no piece becomes byte pieces */
};
/* Byte level unless t->spaces_escaped.  After tokenizer_finish. */
enum status bpe_new(struct tokenizer *t, const struct bpe_options *options, struct err *err);
/* The next merge in the order of ranks.  ERR_INPUT: a piece that is not there, or (strict) a pair for the second time. */
enum status bpe_add_merge(struct tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right, bool strict, const char *where,
                          struct err *err);
/* The same as "left right". */
enum status bpe_add_merge_text(struct tokenizer *t, const char *merge, size_t n, bool strict, const char *where, struct err *err);
/* Ranks are the ids themselves (tiktoken): a pair merges when the joined piece exists. */
enum status bpe_new_ranked(struct tokenizer *t, struct err *err);
void bpe_free(struct bpe *bpe);
size_t bpe_merges(const struct tokenizer *t, char *const **merge);
bool bpe_ignores_merges(const struct tokenizer *t);
/* -(place of the first merge that makes a piece) as its score, so that SentencePiece's algorithm joins in the same order. */
void bpe_scores(struct tokenizer *t);
/* Each way to cut a piece in two pieces that text can give, ordered by left, then right: calls `each` with the bytes of the left one. */
enum status bpe_halves(const struct tokenizer *t, int32_t id, enum status (*each)(void *user, const char *piece, size_t n, size_t left), void *user,
                       struct err *err);
/* A byte in printable form into to[2]; returns its bytes. */
size_t bpe_put_byte(int byte, char *to);
/* One byte of a stored piece's printable form; *used bytes of s. -1: not such a form. */
int bpe_byte(const char *s, size_t n, size_t *used);

/* ---- before BPE (pretokenizer.c) ---- */
enum rules { RULES_NORMALIZER, RULES_PRETOKENIZER }; /* the second run after names were found in what the first left */
enum unicode_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };

enum status pretokenizer_new(struct pretokenizer **p, struct err *err);
void pretokenizer_free(struct pretokenizer *p); /* NULL is fine */
/* Rules in the order in which they are added. */
enum status pretokenizer_add_form(struct pretokenizer *p, enum unicode_form form, const char *where, struct err *err);
enum status pretokenizer_add_prepend(struct pretokenizer *p, const char *text, const char *where, struct err *err);
/* In front of a stretch that does not begin with it; first: only at the beginning of the whole text. */
enum status pretokenizer_add_prefix(struct pretokenizer *p, const char *text, bool first, const char *where, struct err *err);
/* literal: the pattern is the text itself, else a regular expression. */
enum status pretokenizer_add_replace(struct pretokenizer *p, enum rules list, const char *pattern, bool literal, const char *with, const char *where,
                                     struct err *err);
/* Each match of the expression is a cut, and so is what stands between two; drop: that is left out. */
enum status pretokenizer_add_cut(struct pretokenizer *p, const char *pattern, bool literal, bool drop, const char *where, struct err *err);

/* llama.cpp's name for the cuts, which says ignore_merges too; NULL: it has none. */
const char *pretokenizer_name(const struct pretokenizer *p, bool ignore_merges);
/* The cuts that llama.cpp calls so; *ignore_merges as it does.  false: an unknown name. */
enum status pretokenizer_add_named(struct pretokenizer *p, const char *name, bool *known, bool *ignore_merges, struct err *err);
/* Expressions of a named pre-tokenizer for a writer, NULL after the last. */
const char *pretokenizer_expression(const struct pretokenizer *p, int i);
/* s as an expression that matches nothing else. */
void pretokenizer_escape(const char *s, struct text *out);
extern const char pretokenizer_gpt2[], pretokenizer_digit[], pretokenizer_digits[];

bool pretokenizer_rewrites(const struct pretokenizer *p, enum rules list);
enum status pretokenizer_rewrite(const struct pretokenizer *p, enum rules list, const char *text, size_t n, bool first, struct text *out,
                                 struct err *err);
enum status pretokenizer_cut(const struct pretokenizer *p, const char *text, size_t n, enum status (*each)(void *user, const char *s, size_t n),
                             void *user, struct err *err);
/* Bytes of white space (Unicode's property) at the end and at the start of s[n]; whether it ends in, begins with a character of words. */
size_t space_at_end(const char *s, size_t n);
size_t space_at_start(const char *s, size_t n);
bool word_at_end(const char *s, size_t n);
bool word_at_start(const char *s, size_t n);

#endif
