/* tokenizer_parts.h: one small tokenizer.json, a part of it exchanged. */
#ifndef VENEER_TEST_TOKENIZER_PARTS_H
#define VENEER_TEST_TOKENIZER_PARTS_H
#include "refused.h"

#include "io/tokenizer.h"

#define TEMPLATE(items, ids)                                                                                                          \
    "{\"type\": \"TemplateProcessing\", \"single\": [" items "], \"special_tokens\": {\"<e>\": {\"id\": \"<e>\", \"ids\": " ids "}}}"
#define SPECIAL "{\"SpecialToken\": {\"id\": \"<e>\", \"type_id\": 0}}"
#define TEXT "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
#define SPLIT(regex)                                                                                                                  \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex "\"}, \"behavior\": \"Isolated\"}, "     \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}"

struct parts {
    const char *added, *normalizer, *pre, *post, *decoder, *model, *vocab, *merges;
};

static const char byte_level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"c\": 3, \"<e>\": 4}", merges[] = "[\"a b\"]";

static inline const char *or(const char *s, const char *otherwise)
{
    return s ? s : otherwise;
}

static inline void print(struct text *out, const struct parts *p)
{
    text_printf(out,
                "{\"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, \"post_processor\": %s, \"decoder\": %s, "
                "\"model\": {%s\"vocab\": %s, \"merges\": %s}}",
                or(p->added, "[{\"id\": 4, \"content\": \"<e>\", \"special\": true}]"), or(p->normalizer, "null"), or(p->pre, byte_level),
                or(p->post, "null"), or(p->decoder, "null"), or(p->model, "\"type\": \"BPE\", "), or(p->vocab, vocab), or(p->merges, merges));
}

static inline enum status parse(struct tokenizer **t, const struct parts *p, struct err *err)
{
    struct text json = {0};
    print(&json, p);
    *err = (struct err){{0}};
    enum status status = tokenizer_parse_json(t, json.s, json.n, "t.json", err);
    text_free(&json);
    return status;
}

static inline struct tokenizer *good(const struct parts *p)
{
    struct tokenizer *t;
    struct err err;
    enum status status = parse(&t, p, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return t;
}

#endif
