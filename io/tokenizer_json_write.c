/* tokenizer_json_write.c: a vocabulary as Hugging Face's tokenizer.json and tokenizer_config.json, so that transformers' fast tokenizers give the
 * ids that this program gives.
 *
 * SentencePiece becomes BPE with merges: each way to cut a piece into two pieces, the piece of the highest score first (as transformers'
 * convert_slow_tokenizer.py).  Prepend and Replace put U+2581 where spm.c does.  User-defined pieces are cut out of the rewritten text and, whole
 * as they are, taken by ignore_merges; as added tokens they would leave stretches that each get a space in front. */
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "io/json.h"
#include "io/tokenizer_private.h"

static void put_string(struct text *out, const char *s)
{
    text_json_string(out, s, strlen(s));
}

bool tokenizer_has_json(const struct tokenizer *t)
{
    bool sound = !t->added; /* the components that it was read from are not kept */
    for (int32_t id = 0; sound && id < t->n; id++)
        sound = utf8_is_name(t->piece[id], t->length[id]);
    return sound;
}

/* ---- added tokens ---- */

static void put_added(const struct tokenizer *t, struct text *out)
{
    bool any = false;
    text_puts(out, "  \"added_tokens\": [");
    for (int32_t id = 0; id < t->n; id++) {
        bool user = t->type[id] == PIECE_USER && !t->spaces_escaped;
        if (t->type[id] != PIECE_CONTROL && t->type[id] != PIECE_UNKNOWN && !user)
            continue;
        text_printf(out, "%s\n    {\"id\": %d, \"content\": ", any ? "," : "", id);
        put_string(out, t->piece[id]);
        text_printf(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": %s}", user ? "false" : "true");
        any = true;
    }
    text_puts(out, any ? "\n  ],\n" : "],\n");
}

/* ---- SentencePiece ---- */

static void put_replace(struct text *out, const char *kind, const char *pattern, const char *content)
{
    text_printf(out, "{\"type\": \"Replace\", \"pattern\": {\"%s\": ", kind);
    put_string(out, pattern);
    text_puts(out, "}, \"content\": ");
    put_string(out, content);
    text_puts(out, "}");
}

static void put_spm_normalizer(const struct tokenizer *t, struct text *out)
{
    text_puts(out, "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
    if (t->remove_extra_spaces) {
        put_replace(out, "Regex", "\\A +", "");
        text_puts(out, ", ");
        put_replace(out, "Regex", "[ \xe2\x96\x81]+\\z", "");
        text_puts(out, ", ");
        put_replace(out, "Regex", " {2,}", " ");
        text_puts(out, ", ");
    }
    if (t->add_space_prefix)
        text_puts(out, "{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}, ");
    put_replace(out, "String", " ", "\xe2\x96\x81");
    text_puts(out, "]},\n");
}

/* An alternation of the user-defined pieces, longer ones before their beginnings: sorted by bytes, backwards. */
static bool user_pieces(const struct tokenizer *t, struct text *out)
{
    bool any = false;
    for (size_t i = t->special.n; i-- > 0;) {
        const struct named *name = &t->special.item[i];
        if (t->type[name->id] != PIECE_USER)
            continue;
        text_puts(out, any ? "|" : "");
        pretokenizer_escape(name->s, out);
        any = true;
    }
    return any;
}

static bool put_spm_cuts(const struct tokenizer *t, struct text *out)
{
    struct text pattern = {0};
    bool any = user_pieces(t, &pattern);
    text_puts(out, "  \"pre_tokenizer\": ");
    if (any) {
        text_puts(out, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        text_json_string(out, pattern.s, pattern.n);
        text_puts(out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n");
    } else {
        text_puts(out, "null,\n");
    }
    out->failed |= pattern.failed;
    text_free(&pattern);
    return any;
}

static void put_spm_decoder(const struct tokenizer *t, struct text *out)
{
    text_puts(out, "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [");
    put_replace(out, "String", "\xe2\x96\x81", " ");
    text_puts(out, ", {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}");
    if (t->add_space_prefix) /* the one that Prepend has put there; all, where the encoder leaves none of the text's own */
        text_printf(out, ", {\"type\": \"Strip\", \"content\": \" \", \"start\": %d, \"stop\": 0}", t->remove_extra_spaces ? 65536 : 1);
    text_puts(out, "]},\n");
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : (x->id > y->id) - (x->id < y->id);
}

struct merges {
    struct text *out;
    bool any;
};

static void put_merge(struct merges *m, const char *merge, size_t n)
{
    text_puts(m->out, m->any ? ",\n      " : "\n      ");
    text_json_string(m->out, merge, n);
    m->any = true;
}

static enum status put_half(void *user, const char *piece, size_t n, size_t left)
{
    struct merges *m = user;
    struct text merge = {0};
    text_add(&merge, piece, left);
    text_puts(&merge, " ");
    text_add(&merge, piece + left, n - left);
    put_merge(m, merge.s ? merge.s : "", merge.n);
    m->out->failed |= merge.failed;
    text_free(&merge);
    return OK;
}

static enum status put_spm_merges(const struct tokenizer *t, struct merges *m, struct err *err)
{
    struct scored *order = malloc((size_t)t->n * sizeof *order);
    enum status status = order ? OK : err_set(err, ERR_MEMORY, "out of memory for merges");
    for (int32_t id = 0; order && id < t->n; id++)
        order[id] = (struct scored){t->score[id], id};
    if (order)
        qsort(order, (size_t)t->n, sizeof *order, by_score);
    for (int32_t i = 0; status == OK && i < t->n; i++) {
        status = stop_check(err);
        if (status == OK && !memchr(t->piece[order[i].id], ' ', t->length[order[i].id])) /* text has no spaces any more */
            status = bpe_halves(t, order[i].id, put_half, m, err);
    }
    free(order);
    return status;
}

/* ---- byte level ---- */

static void put_byte_cuts(const struct tokenizer *t, struct text *out)
{
    bool gpt2 = false;
    text_puts(out, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [");
    for (int i = 0; pretokenizer_expression(t->pretokenizer, i); i++) {
        const char *expression = pretokenizer_expression(t->pretokenizer, i);
        gpt2 = strcmp(expression, pretokenizer_gpt2) == 0;
        if (gpt2)
            break; /* always the last one, and ByteLevel's own */
        if (strcmp(expression, pretokenizer_digit) == 0) {
            text_puts(out, "{\"type\": \"Digits\", \"individual_digits\": true}, ");
            continue;
        }
        text_puts(out, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_string(out, expression);
        text_puts(out, "}, \"behavior\": \"Isolated\", \"invert\": false}, ");
    }
    text_printf(out, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": %s}]},\n", gpt2 ? "true" : "false");
    text_puts(out, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n");
}

/* ---- the file ---- */

static void put_special(struct text *out, const char *name, int type_id)
{
    text_puts(out, "{\"SpecialToken\": {\"id\": ");
    put_string(out, name);
    text_printf(out, ", \"type_id\": %d}}, ", type_id);
}

static void put_template(const struct tokenizer *t, struct text *out)
{
    const char *bos = t->add_bos && t->bos >= 0 ? t->piece[t->bos] : NULL;
    text_puts(out, "  \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [");
    if (bos)
        put_special(out, bos, 0);
    text_puts(out, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [");
    if (bos)
        put_special(out, bos, 0);
    text_puts(out, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, ");
    if (bos)
        put_special(out, bos, 1);
    text_puts(out, "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": {");
    if (bos) {
        put_string(out, bos);
        text_puts(out, ": {\"id\": ");
        put_string(out, bos);
        text_printf(out, ", \"ids\": [%d], \"tokens\": [", t->bos);
        put_string(out, bos);
        text_puts(out, "]}");
    }
    text_puts(out, "}},\n");
}

static enum status put_model(const struct tokenizer *t, bool ignore_merges, struct text *out, struct err *err)
{
    struct merges m = {.out = out};
    text_puts(out, "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": ");
    if (t->unk >= 0)
        put_string(out, t->piece[t->unk]);
    else
        text_puts(out, "null");
    text_printf(out,
                ", \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false,\n    \"byte_fallback\": %s, "
                "\"ignore_merges\": %s,\n    \"vocab\": {",
                t->byte_fallback ? "true" : "false", ignore_merges ? "true" : "false");
    for (int32_t id = 0; id < t->n; id++) {
        text_puts(out, id ? ",\n      " : "\n      ");
        put_string(out, t->piece[id]);
        text_printf(out, ": %d", id);
    }
    text_puts(out, "\n    },\n    \"merges\": [");
    if (t->spaces_escaped)
        TRY(put_spm_merges(t, &m, err));
    char *const *merge = NULL;
    size_t n = t->bpe ? bpe_merges(t, &merge) : 0;
    for (size_t i = 0; i < n; i++)
        put_merge(&m, merge[i], strlen(merge[i]));
    text_puts(out, m.any ? "\n    ]}\n}\n" : "]}\n}\n");
    return OK;
}

enum status tokenizer_print_json(const struct tokenizer *t, struct text *out, struct err *err)
{
    bool ignore_merges = t->bpe && bpe_ignores_merges(t);
    text_puts(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added(t, out);
    if (t->spaces_escaped) {
        put_spm_normalizer(t, out);
        ignore_merges = put_spm_cuts(t, out);
        put_spm_decoder(t, out);
    } else {
        put_byte_cuts(t, out);
    }
    put_template(t, out);
    TRY(put_model(t, ignore_merges, out, err));
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for tokenizer.json") : OK;
}

static void put_token(const struct tokenizer *t, const char *key, int32_t id, struct text *out)
{
    if (id < 0)
        return;
    text_printf(out, "  \"%s\": ", key);
    put_string(out, t->piece[id]);
    text_puts(out, ",\n");
}

void tokenizer_print_config(const struct tokenizer *t, int32_t max_length, struct text *out)
{
    text_puts(out, "{\n");
    put_token(t, "bos_token", t->bos, out);
    put_token(t, "eos_token", t->eos, out);
    put_token(t, "unk_token", t->unk, out);
    if (t->chat_template) {
        text_puts(out, "  \"chat_template\": ");
        put_string(out, t->chat_template);
        text_puts(out, ",\n");
    }
    text_printf(out,
                "  \"add_bos_token\": %s,\n  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": %d,\n"
                "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n",
                t->add_bos && t->bos >= 0 ? "true" : "false", max_length);
}
