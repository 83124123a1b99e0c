/* tokenizer_load.c: vocabularies from files: SentencePiece's protobuf, GGUF metadata, tiktoken ranks, llama2.c's table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/gguf.h"
#include "io/tokenizer_private.h"

/* ---- SentencePiece: ModelProto { 1 repeated pieces { 1 piece 2 score 3 type }, 2 trainer_spec, 3 normalizer_spec } ---- */

struct wire {
    const unsigned char *at, *end;
    const char *where;
    struct err *err;
};

struct field {
    uint32_t number, kind; /* kind: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value;
    struct wire bytes;
};

static enum status varint(struct wire *w, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end)
            return err_set(w->err, ERR_INPUT, "%s: ends inside a number", w->where);
        unsigned char b = *w->at++;
        *out |= (uint64_t)(b & 127) << shift;
        if (!(b & 128))
            return OK;
    }
    return err_set(w->err, ERR_INPUT, "%s: a number is longer than ten bytes", w->where);
}

static enum status next_field(struct wire *w, struct field *f)
{
    uint64_t key, n = 0;
    TRY(varint(w, &key));
    f->number = (uint32_t)(key >> 3);
    f->kind = (uint32_t)(key & 7);
    f->value = 0;
    if (f->kind == 0)
        return varint(w, &f->value);
    if (f->kind == 2)
        TRY(varint(w, &n));
    else if (f->kind == 1 || f->kind == 5)
        n = f->kind == 1 ? 8 : 4;
    else
        return err_set(w->err, ERR_INPUT, "%s: field %u has wire type %u, this is no SentencePiece model", w->where, f->number, f->kind);
    if (n > (uint64_t)(w->end - w->at))
        return err_set(w->err, ERR_INPUT, "%s: field %u has %llu bytes, the file has %lld left", w->where, f->number,
                       (unsigned long long)n, (long long)(w->end - w->at));
    f->bytes = (struct wire){w->at, w->at + n, w->where, w->err};
    if (f->kind != 2)
        memcpy(&f->value, w->at, (size_t)n);
    w->at += n;
    return OK;
}

static float as_float(uint64_t value)
{
    uint32_t bits = (uint32_t)value;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static enum status read_piece(struct tokenizer *t, int32_t id, struct wire w)
{
    struct field f;
    const unsigned char *piece = NULL;
    size_t n = 0;
    float score = 0;
    uint64_t type = PIECE_NORMAL;
    const char *where = w.where;
    struct err *err = w.err;
    while (w.at < w.end) {
        TRY(next_field(&w, &f));
        if (f.number == 1 && f.kind == 2) {
            piece = f.bytes.at;
            n = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 2 && f.kind == 5) {
            score = as_float(f.value);
        } else if (f.number == 3 && f.kind == 0) {
            type = f.value;
        }
    }
    return tokenizer_set(t, id, (const char *)piece, n, score, type <= PIECE_BYTE ? (int32_t)type : 0, where, err);
}

struct specs {
    uint64_t model_type; /* 1 unigram, 2 BPE, 3 words, 4 characters */
    bool normalises, suffix, raw_spaces, add_dummy_prefix, remove_extra_spaces;
    int32_t unk, bos, eos;
};

/* Silence would be wrong ids: what this reader does not do is refused by name. */
static enum status refuse(const struct specs *s, const char *where, struct err *err)
{
    if (s->model_type != 2)
        return err_set(err, ERR_INPUT, "%s: is a SentencePiece %s model, want BPE", where,
                       s->model_type == 1 ? "unigram" : s->model_type == 3 ? "word" : s->model_type == 4 ? "character" : "foreign");
    if (s->normalises)
        return err_set(err, ERR_INPUT, "%s: normalises text by a character map, want the identity normalizer", where);
    if (s->suffix)
        return err_set(err, ERR_INPUT, "%s: treat_whitespace_as_suffix is set, want spaces in front of words", where);
    if (s->raw_spaces)
        return err_set(err, ERR_INPUT, "%s: escape_whitespaces is not set, want spaces as U+2581", where);
    return OK;
}

static enum status read_trainer(struct wire w, struct specs *s)
{
    struct field f;
    while (w.at < w.end) {
        TRY(next_field(&w, &f));
        if (f.kind != 0)
            continue;
        if (f.number == 3)
            s->model_type = f.value;
        if (f.number == 24)
            s->suffix = f.value != 0;
        int32_t *id = f.number == 40 ? &s->unk : f.number == 41 ? &s->bos : f.number == 42 ? &s->eos : NULL;
        if (id)
            *id = f.value <= INT32_MAX ? (int32_t)f.value : (int64_t)f.value == -1 ? -1 : INT32_MAX; /* -1 is stored as 2^64 - 1 */
    }
    return OK;
}

static enum status read_normalizer(struct wire w, struct specs *s)
{
    struct field f;
    while (w.at < w.end) {
        TRY(next_field(&w, &f));
        if (f.number == 2 && f.kind == 2)
            s->normalises = f.bytes.end > f.bytes.at;
        if (f.number == 3 && f.kind == 0)
            s->add_dummy_prefix = f.value != 0;
        if (f.number == 4 && f.kind == 0)
            s->remove_extra_spaces = f.value != 0;
        if (f.number == 5 && f.kind == 0)
            s->raw_spaces = f.value == 0;
    }
    return OK;
}

static enum status read_model(struct tokenizer *t, struct wire w, int32_t *count, struct specs *s)
{
    struct field f;
    *count = 0;
    while (w.at < w.end) {
        TRY(next_field(&w, &f));
        if (f.kind != 2)
            continue;
        if (f.number == 1 && *count == MAX_PIECES)
            return err_set(w.err, ERR_INPUT, "%s: has more than %d pieces", w.where, MAX_PIECES);
        if (f.number == 1 && t)
            TRY(read_piece(t, *count, f.bytes));
        if (f.number == 1)
            ++*count;
        if (f.number == 2)
            TRY(read_trainer(f.bytes, s));
        if (f.number == 3)
            TRY(read_normalizer(f.bytes, s));
    }
    return OK;
}

static enum status fill_sentencepiece(struct tokenizer *t, struct wire w, const struct specs *s)
{
    int32_t count;
    struct specs again = *s;
    TRY(read_model(t, w, &count, &again));
    t->unk = s->unk;
    t->bos = s->bos;
    t->eos = s->eos;
    t->add_bos = s->bos >= 0;
    t->add_space_prefix = s->add_dummy_prefix;
    t->remove_extra_spaces = s->remove_extra_spaces;
    return tokenizer_finish(t, w.where, w.err);
}

enum status tokenizer_parse_sentencepiece(struct tokenizer **out, const void *bytes, size_t n, const char *where, struct err *err)
{
    const unsigned char *start = bytes;
    struct wire w = {start, start + n, where, err};
    struct specs s = {.unk = 0, .bos = 1, .eos = 2, .add_dummy_prefix = true, .remove_extra_spaces = true, .model_type = 1};
    int32_t count;
    *out = NULL;
    TRY(read_model(NULL, w, &count, &s));
    if (count == 0)
        return err_set(err, ERR_INPUT, "%s: holds no pieces, want a SentencePiece model", where);
    TRY(refuse(&s, where, err));
    TRY(tokenizer_new(out, TOKENIZER_SPM, count, err));
    enum status status = fill_sentencepiece(*out, w, &s);
    return status == OK ? OK : tokenizer_fail(out, status);
}

enum status tokenizer_load_sentencepiece(struct tokenizer **out, const char *path, struct err *err)
{
    char *bytes;
    size_t n;
    *out = NULL;
    TRY(file_read(path, 1 << 27, &bytes, &n, err));
    enum status status = tokenizer_parse_sentencepiece(out, bytes, n, path, err);
    free(bytes);
    return status;
}

/* ---- GGUF ---- */

static enum status gguf_pieces(struct tokenizer *t, const struct gguf *g, const struct gguf_value *tokens, struct err *err)
{
    const struct gguf_value *types = NULL, *scores = NULL;
    const char *where = gguf_path(g);
    if (gguf_find(g, "tokenizer.ggml.token_type"))
        TRY(gguf_array(g, "tokenizer.ggml.token_type", GGUF_I64, &types, err));
    if (t->kind == TOKENIZER_SPM)
        TRY(gguf_array(g, "tokenizer.ggml.scores", GGUF_F64, &scores, err));
    if ((types && types->n != tokens->n) || (scores && scores->n != tokens->n))
        return err_set(err, ERR_INPUT, "%s: tokenizer.ggml.tokens has %llu elements, scores or token_type another number", where,
                       (unsigned long long)tokens->n);
    for (uint64_t i = 0; i < tokens->n; i++) {
        size_t n;
        const char *piece = gguf_item_string(tokens, i, &n);
        int64_t type = types ? gguf_item_int(types, i) : PIECE_NORMAL;
        double score = scores ? gguf_item_number(scores, i) : 0;
        TRY(tokenizer_set(t, (int32_t)i, piece, n, (float)score, type > 0 && type <= PIECE_BYTE ? (int32_t)type : 0, where, err));
    }
    return OK;
}

static enum status gguf_merges(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *merges;
    struct bpe_options options = {0};
    bool known;
    TRY(pretokenizer_new(&t->pretokenizer, err));
    TRY(pretokenizer_add_named(t->pretokenizer, t->pre, &known, &options.ignore_merges, err));
    if (!known)
        return err_set(err, ERR_INPUT, "%s: tokenizer.ggml.pre = '%s', want smollm, starcoder, llama-bpe, qwen2, gpt-2 or default", gguf_path(g), t->pre);
    TRY(gguf_array(g, "tokenizer.ggml.merges", GGUF_STRING, &merges, err));
    TRY(bpe_new(t, &options, err));
    for (uint64_t i = 0; i < merges->n; i++) {
        size_t n;
        const char *merge = gguf_item_string(merges, i, &n);
        TRY(bpe_add_merge_text(t, merge, n, false, gguf_path(g), err));
    }
    return OK;
}

static enum status copy_string(char **to, const struct gguf *g, const char *key, struct err *err)
{
    const char *s;
    TRY(gguf_string_or(g, key, NULL, &s, err));
    if (s && !(*to = strdup(s)))
        return err_set(err, ERR_MEMORY, "out of memory for %s", key);
    return OK;
}

/* tokenizer.chat_templates lists the names of tokenizer.chat_template.NAME. */
static enum status gguf_templates(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *names;
    TRY(copy_string(&t->chat_template, g, "tokenizer.chat_template", err));
    if (!gguf_find(g, "tokenizer.chat_templates"))
        return OK;
    TRY(gguf_array(g, "tokenizer.chat_templates", GGUF_STRING, &names, err));
    for (uint64_t i = 0; i < names->n; i++) {
        size_t n;
        char name[128], key[192];
        const char *s = gguf_item_string(names, i, &n), *source;
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name), s);
        snprintf(key, sizeof key, "tokenizer.chat_template.%s", name);
        TRY(gguf_string_or(g, key, NULL, &source, err));
        if (source)
            TRY(tokenizer_add_chat_template(t, name, source, gguf_path(g), err));
    }
    return OK;
}

static enum status gguf_id(const struct gguf *g, const char *key, int32_t fallback, int32_t n, int32_t *out, struct err *err)
{
    int64_t id;
    TRY(gguf_int_or(g, key, 0, n - 1, fallback < n ? fallback : -1, &id, err));
    *out = (int32_t)id;
    return OK;
}

static enum status fill_gguf(struct tokenizer *t, const struct gguf *g, const struct gguf_value *tokens, struct err *err)
{
    bool spm = t->kind == TOKENIZER_SPM;
    TRY(gguf_pieces(t, g, tokens, err));
    TRY(copy_string(&t->pre, g, "tokenizer.ggml.pre", err));
    if (!spm && !t->pre && !(t->pre = strdup("default")))
        return err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    TRY(gguf_templates(t, g, err));
    TRY(gguf_id(g, "tokenizer.ggml.bos_token_id", spm ? 1 : 11, t->n, &t->bos, err));
    TRY(gguf_id(g, "tokenizer.ggml.eos_token_id", spm ? 2 : 11, t->n, &t->eos, err));
    TRY(gguf_id(g, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1, t->n, &t->unk, err));
    bool llama3 = t->pre && strcmp(t->pre, "llama-bpe") == 0;
    TRY(gguf_bool_or(g, "tokenizer.ggml.add_bos_token", spm || llama3, &t->add_bos, err));
    TRY(gguf_bool_or(g, "tokenizer.ggml.add_space_prefix", spm, &t->add_space_prefix, err));
    TRY(tokenizer_finish(t, gguf_path(g), err));
    return spm ? OK : gguf_merges(t, g, err);
}

enum status tokenizer_load_gguf(struct tokenizer **out, const struct gguf *g, struct err *err)
{
    const char *model;
    const struct gguf_value *tokens;
    *out = NULL;
    TRY(gguf_string(g, "tokenizer.ggml.model", &model, err));
    bool spm = strcmp(model, "llama") == 0;
    if (!spm && strcmp(model, "gpt2") != 0)
        return err_set(err, ERR_INPUT, "%s: tokenizer.ggml.model = '%s', want llama or gpt2", gguf_path(g), model);
    TRY(gguf_array(g, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, err));
    if (tokens->n == 0 || tokens->n > MAX_PIECES)
        return err_set(err, ERR_INPUT, "%s: tokenizer.ggml.tokens has %llu elements, want 1 to %d", gguf_path(g),
                       (unsigned long long)tokens->n, MAX_PIECES);
    TRY(tokenizer_new(out, spm ? TOKENIZER_SPM : TOKENIZER_BPE, (int32_t)tokens->n, err));
    enum status status = fill_gguf(*out, g, tokens, err);
    return status == OK ? OK : tokenizer_fail(out, status);
}

/* ---- tiktoken: lines of base64 and rank ---- */

static int base64_value(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decoded bytes in GPT-2's printable form, as GGUF stores them; 0: not base64. */
static size_t decode_line(const char *s, size_t n, char *piece)
{
    uint32_t bits = 0;
    int held = 0;
    size_t k = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        int v = base64_value(s[i]);
        if (v < 0)
            return 0;
        bits = bits << 6 | (uint32_t)v;
        held += 6;
        if (held >= 8) {
            held -= 8;
            k += bpe_put_byte((int)(bits >> held & 255), piece + k);
        }
    }
    return k;
}

static enum status add_special(struct tokenizer *t, int32_t first, struct err *err)
{
    static const char *const names[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                                        "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
                                        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"};
    for (int32_t i = 0; i < 256; i++) {
        char name[64];
        int n = i < 11 ? snprintf(name, sizeof name, "%s", names[i]) : snprintf(name, sizeof name, "<|reserved_special_token_%d|>", i - 8);
        TRY(tokenizer_set(t, first + i, name, (size_t)n, 0, PIECE_CONTROL, "tiktoken", err));
    }
    t->bos = first;
    t->eos = first + 1;
    t->add_bos = true;
    return OK;
}

static enum status read_ranks(struct tokenizer *t, const char *text, size_t n, const char *path, int32_t *count, struct err *err)
{
    char piece[4096];
    *count = 0;
    for (size_t at = 0; at < n;) {
        const char *line = text + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        const char *space = memchr(line, ' ', length);
        if (length == 0)
            continue;
        size_t k = space && space - line < 1024 ? decode_line(line, (size_t)(space - line), piece) : 0;
        if (k == 0 || strtol(space + 1, NULL, 10) != *count)
            return err_set(err, ERR_INPUT, "%s:%d: want base64 and rank %d", path, *count + 1, *count);
        if (t)
            TRY(tokenizer_set(t, *count, piece, k, 0, PIECE_NORMAL, path, err));
        ++*count;
    }
    return OK;
}

enum status tokenizer_load_tiktoken(struct tokenizer **out, const char *path, struct err *err)
{
    char *text;
    size_t n;
    int32_t count = 0;
    *out = NULL;
    TRY(file_read(path, 1 << 27, &text, &n, err));
    enum status status = read_ranks(NULL, text, n, path, &count, err);
    if (status == OK && count == 0)
        status = err_set(err, ERR_INPUT, "%s: is empty, want lines of base64 and rank", path);
    if (status == OK)
        status = tokenizer_new(out, TOKENIZER_BPE, count + 256, err);
    if (status == OK)
        status = read_ranks(*out, text, n, path, &count, err);
    if (status == OK)
        status = add_special(*out, count, err);
    if (status == OK && !((*out)->pre = strdup("llama-bpe")))
        status = err_set(err, ERR_MEMORY, "out of memory for a vocabulary");
    bool known, ignore_merges;
    if (status == OK)
        status = pretokenizer_new(&(*out)->pretokenizer, err);
    if (status == OK)
        status = pretokenizer_add_named((*out)->pretokenizer, "llama-bpe", &known, &ignore_merges, err);
    if (status == OK)
        status = tokenizer_finish(*out, path, err);
    if (status == OK)
        status = bpe_new_ranked(*out, err);
    free(text);
    return status == OK ? OK : tokenizer_fail(out, status);
}

/* ---- llama2.c: | u32 longest | then per piece | float score | u32 length | bytes | ---- */

static enum status fill_llama2c(struct tokenizer *t, const char *bytes, size_t size, const char *path, struct err *err)
{
    size_t at = 4;
    for (int32_t id = 0; id < t->n; id++) {
        float score;
        uint32_t n;
        if (size < at + 8)
            return err_set(err, ERR_INPUT, "%s: ends at piece %d of %d", path, id, t->n);
        memcpy(&score, bytes + at, 4);
        memcpy(&n, bytes + at + 4, 4);
        at += 8;
        if (n > size - at)
            return err_set(err, ERR_INPUT, "%s: piece %d has %u bytes, the file has %zu left", path, id, n, size - at);
        if (n > 80)
            return err_set(err, ERR_INPUT, "%s: piece %d has %u bytes, want at most 80", path, id, n);
        const char *piece = bytes + at;
        char escaped[256];
        size_t k = 0;
        int32_t type = id == 0 ? PIECE_UNKNOWN : id < 3 ? PIECE_CONTROL : id < 259 ? PIECE_BYTE : PIECE_NORMAL;
        if (id < 3) {
            static const char *const names[] = {"<unk>", "<s>", "</s>"};
            piece = names[id];
            k = strlen(piece);
            memcpy(escaped, piece, k);
        } else {
            for (uint32_t i = 0; i < n; i++) /* spaces are stored as such there */
                if (piece[i] == ' ' && type == PIECE_NORMAL) {
                    memcpy(escaped + k, "\xe2\x96\x81", 3);
                    k += 3;
                } else {
                    escaped[k++] = piece[i];
                }
        }
        TRY(tokenizer_set(t, id, escaped, k, score, type, path, err));
        at += n;
    }
    if (at != size)
        return err_set(err, ERR_INPUT, "%s: goes on after piece %d: another vocabulary than the model's?", path, t->n - 1);
    t->unk = 0;
    t->bos = 1;
    t->eos = 2;
    t->add_bos = true;
    t->add_space_prefix = true;
    return tokenizer_finish(t, path, err);
}

enum status tokenizer_load_llama2c(struct tokenizer **out, const char *path, int32_t vocab_size, struct err *err)
{
    char *bytes;
    size_t n;
    *out = NULL;
    if (vocab_size < 259 || vocab_size > MAX_PIECES)
        return err_set(err, ERR_INPUT, "%s: a vocabulary of %d pieces, want at least 259", path, vocab_size);
    TRY(file_read(path, 1 << 27, &bytes, &n, err));
    enum status status = tokenizer_new(out, TOKENIZER_SPM, vocab_size, err);
    if (status == OK)
        status = fill_llama2c(*out, bytes, n, path, err);
    free(bytes);
    return status == OK ? OK : tokenizer_fail(out, status);
}
