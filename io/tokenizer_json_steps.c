/* tokenizer_json_steps.c: normalizer, pre_tokenizer, post_processor and decoder of a tokenizer.json.  What is not known is refused by name: silence
 * would be wrong ids. */
#include <stdio.h>
#include <string.h>

#include "io/tokenizer_json.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */

struct reader {
    struct tokenizer *t;
    const char *where;
    struct json_steps *steps;
    struct err *err;
};

static enum status unknown(const struct reader *r, const char *component, const char *what, const char *want)
{
    return err_set(r->err, ERR_INPUT, "%s: %s %.64s is not read, want %s; use the model's GGUF or tokenizer.model instead", r->where, component, what,
                   want);
}

static bool is_null(const struct json *value)
{
    return !value || json_type(value) == JSON_NULL;
}

typedef enum status component_reader(const struct reader *r, const char *type, const struct json *object);

/* One component, or those of a Sequence in their order. */
static enum status read_component(const struct reader *r, const struct json *value, const char *key, const char *items, component_reader *read)
{
    char where[512];
    const char *type;
    const struct json *list;
    if (is_null(value))
        return OK;
    snprintf(where, sizeof where, "%s: %s", r->where, key);
    TRY(json_string(value, "type", where, &type, r->err));
    if (strcmp(type, "Sequence") != 0)
        return read(r, type, value);
    TRY(json_array(value, items, where, &list, r->err));
    for (const struct json *item = json_first(list); item; item = json_next(item)) {
        TRY(json_string(item, "type", where, &type, r->err));
        TRY(read(r, type, item)); /* a Sequence in a Sequence is an unknown component */
    }
    return OK;
}

/* {"String": ...} or {"Regex": ...} */
static enum status read_pattern(const struct reader *r, const struct json *object, const char **pattern, bool *literal)
{
    const struct json *value;
    TRY(json_object(object, "pattern", r->where, &value, r->err));
    *literal = json_member(value, "String") != NULL;
    return json_string(value, *literal ? "String" : "Regex", r->where, pattern, r->err);
}

/* ---- normalizer ---- */

static enum status read_replace(const struct reader *r, const struct json *object)
{
    const char *pattern, *content;
    bool literal;
    TRY(read_pattern(r, object, &pattern, &literal));
    TRY(json_string(object, "content", r->where, &content, r->err));
    if (literal && strcmp(pattern, " ") == 0 && strcmp(content, space_mark) == 0)
        r->steps->escapes_spaces = true;
    return pretokenizer_add_replace(r->t->pretokenizer, RULES_NORMALIZER, pattern, literal, content, r->where, r->err);
}

static enum status read_normalizer(const struct reader *r, const char *type, const struct json *object)
{
    static const char *const forms[] = {[FORM_NFC] = "NFC", [FORM_NFD] = "NFD", [FORM_NFKC] = "NFKC", [FORM_NFKD] = "NFKD"};
    const char *prepend;
    for (int i = 0; i < 4; i++)
        if (strcmp(type, forms[i]) == 0)
            return pretokenizer_add_form(r->t->pretokenizer, (enum unicode_form)i, r->where, r->err);
    if (strcmp(type, "Replace") == 0)
        return read_replace(r, object);
    if (strcmp(type, "Prepend") != 0)
        return unknown(r, "the normalizer", type, "NFC, NFD, NFKC, NFKD, Prepend or Replace");
    TRY(json_string(object, "prepend", r->where, &prepend, r->err));
    r->t->add_space_prefix |= strcmp(prepend, space_mark) == 0;
    return pretokenizer_add_prepend(r->t->pretokenizer, prepend, r->where, r->err);
}

/* ---- pre_tokenizer ---- */

static enum status read_metaspace(const struct reader *r, const struct json *object)
{
    struct pretokenizer *p = r->t->pretokenizer;
    const char *mark, *scheme;
    bool prefix, split;
    TRY(json_string_or(object, "replacement", r->where, space_mark, &mark, r->err));
    TRY(json_bool_or(object, "add_prefix_space", r->where, true, &prefix, r->err)); /* what older files have instead of prepend_scheme */
    TRY(json_string_or(object, "prepend_scheme", r->where, prefix ? "always" : "never", &scheme, r->err));
    TRY(json_bool_or(object, "split", r->where, true, &split, r->err));
    if (strcmp(mark, space_mark) != 0)
        return unknown(r, "a Metaspace with the replacement", mark, "U+2581");
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0)
        return unknown(r, "a Metaspace with the prepend_scheme", scheme, "always, first or never");
    if (pretokenizer_expression(p, 0) || r->steps->escapes_spaces)
        return unknown(r, "the pre-tokenizer", "Metaspace behind another component", "it first");
    r->steps->escapes_spaces = true;
    TRY(pretokenizer_add_replace(p, RULES_PRETOKENIZER, " ", true, space_mark, r->where, r->err));
    if (strcmp(scheme, "never") != 0) {
        r->t->add_space_prefix = true;
        TRY(pretokenizer_add_prefix(p, space_mark, strcmp(scheme, "first") == 0, r->where, r->err));
    }
    return split ? pretokenizer_add_cut(p, "\xe2\x96\x81[^\xe2\x96\x81]*|[^\xe2\x96\x81]+", false, false, r->where, r->err) : OK;
}

static enum status read_byte_level(const struct reader *r, const struct json *object)
{
    bool prefix, regex;
    TRY(json_bool_or(object, "add_prefix_space", r->where, true, &prefix, r->err));
    TRY(json_bool_or(object, "use_regex", r->where, true, &regex, r->err));
    if (prefix && pretokenizer_expression(r->t->pretokenizer, 0))
        return unknown(r, "a ByteLevel with add_prefix_space", "behind another component", "it first");
    r->steps->byte_level = true;
    if (prefix)
        TRY(pretokenizer_add_prefix(r->t->pretokenizer, " ", false, r->where, r->err));
    return regex ? pretokenizer_add_cut(r->t->pretokenizer, pretokenizer_gpt2, false, false, r->where, r->err) : OK;
}

static enum status read_split(const struct reader *r, const struct json *object)
{
    const char *pattern, *behavior;
    bool literal, invert;
    TRY(read_pattern(r, object, &pattern, &literal));
    TRY(json_string(object, "behavior", r->where, &behavior, r->err));
    TRY(json_bool_or(object, "invert", r->where, false, &invert, r->err));
    bool drop = strcmp(behavior, "Removed") == 0 && invert;
    if (strcmp(behavior, "Isolated") != 0 && !drop)
        return unknown(r, "a Split with the behavior", behavior, "Isolated, or Removed with invert");
    return pretokenizer_add_cut(r->t->pretokenizer, pattern, literal, drop, r->where, r->err);
}

static enum status read_pretokenizer(const struct reader *r, const char *type, const struct json *object)
{
    bool single;
    if (r->steps->byte_level) /* it would see bytes in printable form */
        return unknown(r, "the pre-tokenizer", type, "nothing behind ByteLevel");
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(r, object);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(r, object);
    if (strcmp(type, "Split") == 0)
        return read_split(r, object);
    if (strcmp(type, "Digits") != 0)
        return unknown(r, "the pre-tokenizer", type, "ByteLevel, Metaspace, Split or Digits");
    TRY(json_bool_or(object, "individual_digits", r->where, false, &single, r->err));
    return pretokenizer_add_cut(r->t->pretokenizer, single ? pretokenizer_digit : pretokenizer_digits, false, false, r->where, r->err);
}

/* ---- decoder: bytes and spaces come back as the encoder made them, so only the kind is looked at, and how many spaces a Strip drops ---- */

static enum status read_decoder(const struct reader *r, const char *type, const struct json *object)
{
    static const char *const fine[] = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"};
    if (strcmp(type, "Strip") == 0) {
        int64_t start;
        TRY(json_int_or(object, "start", r->where, 0, 1 << 30, 0, &start, r->err));
        r->t->remove_extra_spaces = start > 1;
    }
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        if (strcmp(type, fine[i]) == 0)
            return OK;
    return unknown(r, "the decoder", type, "ByteLevel, Metaspace, Replace, ByteFallback, Fuse or Strip");
}

enum status json_read_steps(struct tokenizer *t, const struct json *root, const char *where, struct json_steps *steps, struct err *err)
{
    struct reader r = {t, where, steps, err};
    TRY(pretokenizer_new(&t->pretokenizer, err));
    TRY(read_component(&r, json_member(root, "normalizer"), "normalizer", "normalizers", read_normalizer));
    TRY(read_component(&r, json_member(root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", read_pretokenizer));
    TRY(read_component(&r, json_member(root, "decoder"), "decoder", "decoders", read_decoder));
    if (steps->byte_level == steps->escapes_spaces)
        return err_set(err, ERR_INPUT,
                       "%s: has %s a ByteLevel pre-tokenizer %s one that writes spaces as U+2581, want one of them; use the model's GGUF or "
                       "tokenizer.model instead",
                       where, steps->byte_level ? "both" : "neither", steps->byte_level ? "and" : "nor");
    return OK;
}

/* ---- post_processor ---- */

/* The id of {"SpecialToken": {"id": NAME}} by the template's own table. */
static enum status special_id(const struct reader *r, const struct json *processor, const struct json *special, int32_t *id)
{
    const char *name;
    const struct json *table, *entry, *ids;
    int64_t value;
    TRY(json_string(special, "id", r->where, &name, r->err));
    TRY(json_object(processor, "special_tokens", r->where, &table, r->err));
    TRY(json_object(table, name, r->where, &entry, r->err));
    TRY(json_array(entry, "ids", r->where, &ids, r->err));
    if (json_size(ids) != 1)
        return err_set(r->err, ERR_INPUT, "%s: the post-processor's %.64s stands for %zu tokens, want 1", r->where, name, json_size(ids));
    TRY(json_as_int(json_first(ids), r->where, 0, r->t->n - 1, &value, r->err));
    *id = (int32_t)value;
    return OK;
}

static enum status read_processor(const struct reader *r, const char *type, const struct json *object)
{
    const struct json *single;
    int texts = 0;
    if (strcmp(type, "ByteLevel") == 0) /* offsets alone */
        return OK;
    if (strcmp(type, "TemplateProcessing") != 0)
        return unknown(r, "the post-processor", type, "TemplateProcessing or ByteLevel");
    TRY(json_array(object, "single", r->where, &single, r->err));
    for (const struct json *item = json_first(single); item; item = json_next(item)) {
        const struct json *special = json_member(item, "SpecialToken");
        int32_t *id = texts ? &r->steps->eos : &r->steps->bos;
        texts += !special;
        if (special && *id >= 0)
            return err_set(r->err, ERR_INPUT, "%s: the post-processor puts two tokens %s a text, want at most one", r->where,
                           texts ? "behind" : "in front of");
        if (special)
            TRY(special_id(r, object, special, id));
    }
    return texts == 1 ? OK : err_set(r->err, ERR_INPUT, "%s: the post-processor's template takes %d texts, want 1", r->where, texts);
}

enum status json_read_template(struct tokenizer *t, const struct json *root, const char *where, struct json_steps *steps, struct err *err)
{
    struct reader r = {t, where, steps, err};
    steps->bos = steps->eos = -1;
    return read_component(&r, json_member(root, "post_processor"), "post_processor", "processors", read_processor);
}
