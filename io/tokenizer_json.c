/* tokenizer_json.c: Hugging Face's tokenizer.json: vocabulary, merges and added tokens; and what stands beside it in tokenizer_config.json,
 * special_tokens_map.json.  BPE alone: byte-level, or made from SentencePiece. */
#include "io/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* ---- vocabulary ---- */

struct model {
    const struct json *vocab, *merges, *added; /* added NULL: none */
    const char *unk;                           /* NULL: none */
    struct bpe_options options;
    char in_vocab[512], in_merges[512], in_added[512]; /* where, for messages */
};

static enum status refuse_text(const struct json *model, const char *key, const char *where, struct err *err)
{
    const char *s;
    TRY(json_string_or(model, key, where, "", &s, err));
    return *s ? err_set(err, ERR_INPUT, "%s.%s is '%.32s', want none; use the model's GGUF instead", where, key, s) : OK;
}

static enum status read_model(const struct json *root, const char *path, struct model *m, struct err *err)
{
    char where[512];
    const struct json *model;
    const char *type;
    double dropout;
    snprintf(where, sizeof where, "%.400s: model", path);
    snprintf(m->in_vocab, sizeof m->in_vocab, "%.400s: model.vocab", path);
    snprintf(m->in_merges, sizeof m->in_merges, "%.400s: model.merges", path);
    snprintf(m->in_added, sizeof m->in_added, "%.400s: added_tokens", path);
    TRY(json_object(root, "model", path, &model, err));
    TRY(json_string_or(model, "type", where, "BPE", &type, err)); /* older files of GPT-2 do not say it */
    if (strcmp(type, "BPE") != 0)
        return err_set(err, ERR_INPUT, "%s: the model %.64s is not read, want BPE; use the model's GGUF or tokenizer.model instead", path, type);
    TRY(refuse_text(model, "continuing_subword_prefix", where, err));
    TRY(refuse_text(model, "end_of_word_suffix", where, err));
    TRY(json_number_or(model, "dropout", where, 0, &dropout, err));
    if (dropout != 0)
        return err_set(err, ERR_INPUT, "%s.dropout is %g, want none", where, dropout);
    TRY(json_string_or(model, "unk_token", where, NULL, &m->unk, err));
    TRY(json_bool_or(model, "ignore_merges", where, false, &m->options.ignore_merges, err));
    TRY(json_bool_or(model, "byte_fallback", where, false, &m->options.byte_fallback, err));
    TRY(json_bool_or(model, "fuse_unk", where, false, &m->options.fuse_unk, err));
    TRY(json_object(model, "vocab", where, &m->vocab, err));
    TRY(json_array(model, "merges", where, &m->merges, err));
    return json_array_or(root, "added_tokens", path, &m->added, err);
}

static enum status largest_id(const struct model *m, const char *where, int64_t *largest, struct err *err)
{
    int64_t id;
    *largest = -1;
    for (const struct json *item = json_first(m->vocab); item; item = json_next(item)) {
        TRY(json_as_int(item, m->in_vocab, 0, MAX_PIECES - 1, &id, err));
        *largest = id > *largest ? id : *largest;
    }
    for (const struct json *item = m->added ? json_first(m->added) : NULL; item; item = json_next(item)) {
        TRY(json_int(item, "id", m->in_added, 0, MAX_PIECES - 1, &id, err));
        *largest = id > *largest ? id : *largest;
    }
    return *largest < 0 ? err_set(err, ERR_INPUT, "%s: the vocabulary is empty", where) : OK;
}

/* <0x00> to <0xFF> */
static bool names_byte(const char *s)
{
    static const char digits[] = "0123456789ABCDEF";
    return strlen(s) == 6 && memcmp(s, "<0x", 3) == 0 && strchr(digits, s[3]) && strchr(digits, s[4]) && s[5] == '>';
}

static enum status read_vocab(struct tokenizer *t, const struct model *m, const char *where, struct err *err)
{
    for (const struct json *item = json_first(m->vocab); item; item = json_next(item)) {
        const char *piece = json_key(item);
        int64_t id;
        TRY(json_as_int(item, m->in_vocab, 0, t->n - 1, &id, err));
        if (t->piece[id])
            return err_set(err, ERR_INPUT, "%s: '%.64s' and '%.64s' both have the id %d", where, t->piece[id], piece, (int)id);
        int32_t type = m->options.byte_fallback && names_byte(piece) ? PIECE_BYTE : PIECE_NORMAL;
        TRY(tokenizer_set(t, (int32_t)id, piece, strlen(piece), 0, type, where, err));
    }
    return OK;
}

static enum status read_flags(const struct json *item, const char *where, bool special, uint8_t *flags, struct err *err)
{
    static const struct {
        const char *key;
        uint8_t flag;
    } known[] = {{"lstrip", ADDED_LSTRIP}, {"rstrip", ADDED_RSTRIP}, {"single_word", ADDED_SINGLE_WORD}, {"normalized", ADDED_NORMALIZED}};
    *flags |= ADDED;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bool set;
        TRY(json_bool_or(item, known[i].key, where, known[i].flag == ADDED_NORMALIZED && !special, &set, err));
        *flags |= set ? known[i].flag : 0;
    }
    return OK;
}

static enum status read_added(struct tokenizer *t, const struct json *item, const char *in_added, const char *where, struct err *err)
{
    int64_t id;
    const char *content;
    bool special;
    TRY(json_int(item, "id", in_added, 0, t->n - 1, &id, err));
    TRY(json_string(item, "content", in_added, &content, err));
    TRY(json_bool_or(item, "special", in_added, false, &special, err));
    int32_t type = special ? PIECE_CONTROL : PIECE_USER;
    if (t->added[id])
        return err_set(err, ERR_INPUT, "%s: added_tokens has the id %d twice", where, (int)id);
    if (t->piece[id] && strcmp(t->piece[id], content) != 0)
        return err_set(err, ERR_INPUT, "%s: added_tokens calls %d '%.64s', the vocabulary '%.64s'", where, (int)id, content, t->piece[id]);
    if (t->piece[id]) {
        t->type[id] = t->type[id] == PIECE_NORMAL ? type : t->type[id];
    } else {
        t->added[id] = ADDED_OUTSIDE;
        TRY(tokenizer_set(t, (int32_t)id, content, strlen(content), 0, type, where, err));
    }
    return read_flags(item, in_added, special, &t->added[id], err);
}

static enum status read_pieces(struct tokenizer *t, const struct model *m, const char *where, struct err *err)
{
    t->added = calloc((size_t)t->n, sizeof *t->added);
    if (!t->added)
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    TRY(read_vocab(t, m, where, err));
    for (const struct json *item = m->added ? json_first(m->added) : NULL; item; item = json_next(item))
        TRY(read_added(t, item, m->in_added, where, err));
    for (int32_t id = 0; id < t->n; id++)
        if (!t->piece[id])
            return err_set(err, ERR_INPUT, "%s: no piece has the id %d, want one for each from 0 to %d", where, id, t->n - 1);
    return OK;
}

static enum status read_merges(struct tokenizer *t, const struct model *m, const char *where, struct err *err)
{
    for (const struct json *item = json_first(m->merges); item; item = json_next(item)) {
        const char *left, *right;
        if (json_type(item) == JSON_ARRAY) {
            if (json_size(item) != 2)
                return err_set(err, ERR_INPUT, "%s: a merge has %zu pieces, want 2", where, json_size(item));
            TRY(json_as_string(json_first(item), m->in_merges, &left, err));
            TRY(json_as_string(json_next(json_first(item)), m->in_merges, &right, err));
            TRY(bpe_add_merge(t, left, strlen(left), right, strlen(right), true, where, err));
        } else {
            TRY(json_as_string(item, m->in_merges, &left, err));
            TRY(bpe_add_merge_text(t, left, strlen(left), true, where, err));
        }
    }
    return OK;
}

static enum status set_unknown(struct tokenizer *t, const char *unk, const char *where, struct err *err)
{
    if (!unk)
        return OK;
    t->unk = tokenizer_find(t, unk);
    if (t->unk < 0)
        return err_set(err, ERR_INPUT, "%s: model.unk_token '%.64s' is no piece of the vocabulary", where, unk);
    if (t->spaces_escaped) /* a byte-level one is never met */
        t->type[t->unk] = PIECE_UNKNOWN;
    return OK;
}

static enum status fill(struct tokenizer *t, const struct json *root, const struct model *m, const char *where, struct err *err)
{
    struct json_steps steps = {0};
    TRY(read_pieces(t, m, where, err));
    TRY(json_read_steps(t, root, where, &steps, err));
    t->spaces_escaped = steps.escapes_spaces;
    TRY(tokenizer_finish(t, where, err));
    TRY(set_unknown(t, m->unk, where, err));
    TRY(bpe_new(t, &m->options, err));
    TRY(read_merges(t, m, where, err));
    if (t->spaces_escaped)
        bpe_scores(t);
    TRY(json_read_template(t, root, where, &steps, err));
    t->bos = steps.bos;
    t->eos = steps.eos;
    t->add_bos = steps.bos >= 0;
    const char *pre = t->spaces_escaped ? NULL : pretokenizer_name(t->pretokenizer, m->options.ignore_merges);
    if (pre && !(t->pre = strdup(pre)))
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    return OK;
}

static enum status parse(struct tokenizer **out, const struct json *root, const char *where, struct err *err)
{
    struct model m = {0};
    int64_t largest;
    TRY(read_model(root, where, &m, err));
    TRY(largest_id(&m, where, &largest, err));
    TRY(tokenizer_new(out, TOKENIZER_BPE, (int32_t)largest + 1, err));
    return fill(*out, root, &m, where, err);
}

enum status tokenizer_parse_json(struct tokenizer **out, const char *text, size_t n, const char *where, struct err *err)
{
    struct json *root;
    *out = NULL;
    TRY(json_parse(text, n, where, &root, err));
    enum status status = parse(out, root, where, err);
    json_free(root);
    return status == OK ? OK : tokenizer_fail(out, status);
}

/* ---- what stands beside it ---- */

/* A token that is a name or an object with its content; -1 for null; *there: the key is in the file. */
static enum status config_token(const struct tokenizer *t, const struct json *config, const char *key, const char *where, int32_t *id, bool *there,
                                struct err *err)
{
    const struct json *value = json_member(config, key);
    const char *name;
    *there = value != NULL;
    if (!value || json_type(value) == JSON_NULL)
        return OK;
    if (json_type(value) == JSON_OBJECT)
        TRY(json_string(value, "content", where, &name, err));
    else
        TRY(json_string(config, key, where, &name, err));
    *id = tokenizer_find(t, name);
    return *id >= 0 ? OK : err_set(err, ERR_INPUT, "%s: %s '%.64s' is no piece of tokenizer.json", where, key, name);
}

static enum status apply_ids(struct tokenizer *t, const struct json *config, const char *where, struct err *err)
{
    bool named;
    int32_t bos = -1, eos = -1;
    TRY(config_token(t, config, "bos_token", where, &bos, &named, err));
    if (named && !(t->add_bos && t->bos >= 0)) /* the post-processor's own BOS is the one that is put in front */
        t->bos = bos;
    TRY(config_token(t, config, "eos_token", where, &eos, &named, err));
    if (named)
        t->eos = eos;
    TRY(json_bool_or(config, "add_bos_token", where, t->add_bos, &t->add_bos, err));
    return t->add_bos && t->bos < 0 ? err_set(err, ERR_INPUT, "%s: add_bos_token is true, and no bos_token is named", where) : OK;
}

enum status tokenizer_apply_config(struct tokenizer *t, const char *text, size_t n, const char *where, struct err *err)
{
    struct json *config;
    TRY(json_parse(text, n, where, &config, err));
    enum status status = apply_ids(t, config, where, err);
    json_free(config);
    return status;
}

char *tokenizer_path_beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    struct text full = {0};
    text_add(&full, path, slash ? (size_t)(slash + 1 - path) : 0);
    text_puts(&full, name);
    if (full.failed)
        text_free(&full);
    return full.s;
}

enum status tokenizer_apply_beside(struct tokenizer *t, const char *path, const char *name,
                                   enum status (*apply)(struct tokenizer *t, const char *text, size_t n, const char *where, struct err *err), struct err *err)
{
    char *text = NULL, *full = tokenizer_path_beside(path, name);
    size_t n;
    enum status status = full ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    bool there = status == OK && access(full, R_OK) == 0;
    if (there)
        status = file_read(full, 1 << 27, &text, &n, err);
    if (status == OK && there)
        status = apply(t, text, n, full, err);
    free(text);
    free(full);
    return status;
}

enum status tokenizer_load_json(struct tokenizer **out, const char *path, struct err *err)
{
    char *text;
    size_t n;
    *out = NULL;
    TRY(file_read(path, 1 << 27, &text, &n, err));
    enum status status = tokenizer_parse_json(out, text, n, path, err);
    free(text);
    if (status == OK)
        status = tokenizer_apply_beside(*out, path, "special_tokens_map.json", tokenizer_apply_config, err);
    if (status == OK)
        status = tokenizer_apply_beside(*out, path, "tokenizer_config.json", tokenizer_apply_config, err);
    if (status == OK)
        status = tokenizer_load_chat_template(*out, path, err);
    return status == OK ? OK : tokenizer_fail(out, status);
}
