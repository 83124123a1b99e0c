/* tokenizer_json_test.c: tokenizer.json files that lie or hold what is not read, each with its sentence; the files beside one; which of a folder's
 * tokenizers is taken; what an export makes and copies.  The ids are held by tokenizer_json_golden_test.c. */
#include "refused.h"

#include "base/file.h"
#include "base/log.h"
#include "export.h"
#include "io/checkpoint.h"

/* ---- one small file, a part of it exchanged ---- */

struct parts {
    const char *added, *normalizer, *pre, *post, *decoder, *model, *vocab, *merges;
};

static const char byte_level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"c\": 3, \"<e>\": 4}", merges[] = "[\"a b\"]";

static const char *or(const char *s, const char *otherwise)
{
    return s ? s : otherwise;
}

static void print(struct text *out, const struct parts *p)
{
    text_printf(out,
                "{\"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, \"post_processor\": %s, \"decoder\": %s, "
                "\"model\": {%s\"vocab\": %s, \"merges\": %s}}",
                or(p->added, "[{\"id\": 4, \"content\": \"<e>\", \"special\": true}]"), or(p->normalizer, "null"), or(p->pre, byte_level),
                or(p->post, "null"), or(p->decoder, "null"), or(p->model, "\"type\": \"BPE\", "), or(p->vocab, vocab), or(p->merges, merges));
}

static enum status parse(struct tokenizer **t, const struct parts *p, struct err *err)
{
    struct text json = {0};
    print(&json, p);
    *err = (struct err){{0}};
    enum status status = tokenizer_parse_json(t, json.s, json.n, "t.json", err);
    text_free(&json);
    return status;
}

static struct tokenizer *good(const struct parts *p)
{
    struct tokenizer *t;
    struct err err;
    enum status status = parse(&t, p, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    return t;
}

struct lie {
    struct parts parts;
    const char *sentence;
};

static void all_refused(const struct lie *lies, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct tokenizer *t;
        struct err err;
        enum status status = parse(&t, &lies[i].parts, &err);
        assert_refused(status, ERR_INPUT, &err, "", lies[i].sentence);
        assert_null(t);
    }
}

#define GGUF "; use the model's GGUF or tokenizer.model instead"

static void vocabularies_that_lie(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {{.vocab = "{}", .added = "[]"}, "t.json: the vocabulary is empty"},
        {{.vocab = "{\"a\": 0, \"b\": 0}", .added = "[]"}, "t.json: 'a' and 'b' both have the id 0"},
        {{.vocab = "{\"a\": 0, \"b\": 1, \"ab\": 7}", .added = "[]"}, "t.json: no piece has the id 2, want one for each from 0 to 7"},
        {{.vocab = "{\"a\": 0, \"a\": 1}"}, "t.json: member \"a\" is there twice"},
        {{.vocab = "{\"a\": -1}"}, "t.json: model.vocab: got -1, want an integer from 0 to 3999999"},
        {{.vocab = "{\"a\": 4000000}"}, "t.json: model.vocab: got 4000000, want an integer from 0 to 3999999"},
        {{.vocab = "{\"a\": 0.5}"}, "t.json: model.vocab: got 0.5, want an integer from 0 to 3999999"},
        {{.vocab = "{\"\": 0}", .added = "[]"}, "t.json: piece 0 has 0 bytes, want 1 to 65536"},
        {{.vocab = "[]"}, "t.json: model.vocab: got an array, want an object"},
        {{.added = "[{\"id\": 4, \"content\": \"<f>\"}]"}, "t.json: added_tokens calls 4 '<f>', the vocabulary '<e>'"},
        {{.added = "[{\"id\": 5, \"content\": \"<e>\"}]"}, "t.json: pieces 4 and 5 are the same text"},
        {{.added = "[{\"id\": 5, \"content\": \"x\"}, {\"id\": 5, \"content\": \"y\"}]"}, "t.json: added_tokens has the id 5 twice"},
        {{.added = "[{\"id\": 6, \"content\": \"x\"}]"}, "t.json: no piece has the id 5, want one for each from 0 to 6"},
        {{.added = "[{\"content\": \"x\"}]"}, "t.json: added_tokens.id: is missing, want a number"},
        {{.merges = "[\"a x\"]"}, "t.json: merge 0, 'a' and 'x': the right one is no piece of the vocabulary"},
        {{.merges = "[\"a b\", \"x a\"]"}, "t.json: merge 1, 'x' and 'a': the left one is no piece of the vocabulary"},
        {{.merges = "[[\"b\", \"a\"]]"}, "t.json: merge 0, 'b' and 'a': what they join to is no piece of the vocabulary"},
        {{.merges = "[\"a b\", [\"a\", \"b\"]]"}, "t.json: merge 1, 'a' and 'b', is there twice"},
        {{.merges = "[\"ab\"]"}, "t.json: merge 0 is 'ab', want two pieces with a space between"},
        {{.merges = "[[\"a\", \"b\", \"c\"]]"}, "t.json: a merge has 3 pieces, want 2"},
        {{.merges = "[3]"}, "t.json: model.merges: got a number, want a string"},
        {{.model = "\"unk_token\": \"<u>\", "}, "t.json: model.unk_token '<u>' is no piece of the vocabulary"},
    };
    all_refused(lies, sizeof lies / sizeof *lies);
}

/* A merge may not go through a piece that was only added: the reference does not know it either. */
static void added_pieces_do_not_merge(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err err;
    const struct parts p = {.added = "[{\"id\": 5, \"content\": \"bc\"}]", .merges = "[\"b c\"]"};
    assert_refused(parse(&t, &p, &err), ERR_INPUT, &err, "", "t.json: merge 0, 'b' and 'c': what they join to is no piece of the vocabulary");
}

static void components_that_are_not_read(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {{.model = "\"type\": \"WordPiece\", "}, "t.json: the model WordPiece is not read, want BPE" GGUF},
        {{.model = "\"type\": \"Unigram\", "}, "t.json: the model Unigram is not read, want BPE" GGUF},
        {{.model = "\"continuing_subword_prefix\": \"##\", "}, "t.json: model.continuing_subword_prefix is '##', want none; use the model's GGUF instead"},
        {{.model = "\"end_of_word_suffix\": \"</w>\", "}, "t.json: model.end_of_word_suffix is '</w>', want none; use the model's GGUF instead"},
        {{.model = "\"dropout\": 0.1, "}, "t.json: model.dropout is 0.1, want none"},
        {{.normalizer = "{\"type\": \"Lowercase\"}"},
         "t.json: the normalizer Lowercase is not read, want NFC, NFD, NFKC, NFKD, Prepend or Replace" GGUF},
        {{.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"Precompiled\"}]}"},
         "t.json: the normalizer Precompiled is not read, want NFC, NFD, NFKC, NFKD, Prepend or Replace" GGUF},
        {{.normalizer = "{\"type\": 1}"}, "t.json: normalizer.type: got a number, want a string"},
        {{.pre = "{\"type\": \"BertPreTokenizer\"}"},
         "t.json: the pre-tokenizer BertPreTokenizer is not read, want ByteLevel, Metaspace, Split or Digits" GGUF},
        {{.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Digits\"}]}"},
         "t.json: the pre-tokenizer Digits is not read, want nothing behind ByteLevel" GGUF},
        {{.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\"}, {\"type\": \"ByteLevel\"}]}"},
         "t.json: a ByteLevel with add_prefix_space behind another component is not read, want it first" GGUF},
        {{.pre = "{\"type\": \"Split\", \"pattern\": {\"String\": \" \"}, \"behavior\": \"MergedWithPrevious\"}"},
         "t.json: a Split with the behavior MergedWithPrevious is not read, want Isolated, or Removed with invert" GGUF},
        {{.pre = "{\"type\": \"Split\", \"pattern\": {\"Regex\": \" \"}, \"behavior\": \"Removed\"}"},
         "t.json: a Split with the behavior Removed is not read, want Isolated, or Removed with invert" GGUF},
        {{.pre = "{\"type\": \"Metaspace\", \"replacement\": \"_\"}"}, "t.json: a Metaspace with the replacement _ is not read, want U+2581" GGUF},
        {{.pre = "{\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}"},
         "t.json: a Metaspace with the prepend_scheme last is not read, want always, first or never" GGUF},
        {{.pre = "null"}, "t.json: has neither a ByteLevel pre-tokenizer nor one that writes spaces as U+2581, want one of them" GGUF},
        {{.normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}"},
         "t.json: has both a ByteLevel pre-tokenizer and one that writes spaces as U+2581, want one of them" GGUF},
        {{.decoder = "{\"type\": \"WordPiece\"}"},
         "t.json: the decoder WordPiece is not read, want ByteLevel, Metaspace, Replace, ByteFallback, Fuse or Strip" GGUF},
        {{.post = "{\"type\": \"RobertaProcessing\"}"},
         "t.json: the post-processor RobertaProcessing is not read, want TemplateProcessing or ByteLevel" GGUF},
    };
    all_refused(lies, sizeof lies / sizeof *lies);
}

#define TEMPLATE(items, ids)                                                                                                          \
    "{\"type\": \"TemplateProcessing\", \"single\": [" items "], \"special_tokens\": {\"<e>\": {\"id\": \"<e>\", \"ids\": " ids "}}}"
#define SPECIAL "{\"SpecialToken\": {\"id\": \"<e>\", \"type_id\": 0}}"
#define TEXT "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"

static void templates_that_lie(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {{.post = TEMPLATE(SPECIAL ", " SPECIAL ", " TEXT, "[4]")}, "t.json: the post-processor puts two tokens in front of a text, want at most one"},
        {{.post = TEMPLATE(TEXT ", " SPECIAL ", " SPECIAL, "[4]")}, "t.json: the post-processor puts two tokens behind a text, want at most one"},
        {{.post = TEMPLATE(SPECIAL ", " TEXT, "[4, 4]")}, "t.json: the post-processor's <e> stands for 2 tokens, want 1"},
        {{.post = TEMPLATE(SPECIAL ", " TEXT, "[5]")}, "t.json: got 5, want an integer from 0 to 4"},
        {{.post = TEMPLATE(SPECIAL, "[4]")}, "t.json: the post-processor's template takes 0 texts, want 1"},
        {{.post = TEMPLATE(TEXT ", " TEXT, "[4]")}, "t.json: the post-processor's template takes 2 texts, want 1"},
    };
    all_refused(lies, sizeof lies / sizeof *lies);
}

#define SPLIT(regex)                                                                                                                  \
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" regex "\"}, \"behavior\": \"Isolated\"}, "     \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}"
#define UNKNOWN(regex, what) \
    "t.json: the regular expression '" regex "' has " what ", which this reader does not know; use the model's GGUF instead"

/* What Oniguruma and PCRE2 read differently, and what PCRE2 does not read. */
static void expressions_that_are_not_read(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {{.pre = SPLIT("a|\\\\h")}, UNKNOWN("a|\\h", "\\h")},
        {{.pre = SPLIT("[a[bc]]")}, UNKNOWN("[a[bc]]", "a bracket inside brackets")},
        {{.pre = SPLIT("[a-z&&[^b]]")}, UNKNOWN("[a-z&&[^b]]", "an intersection (&&)")},
        {{.pre = SPLIT("a{1,3}+")}, UNKNOWN("a{1,3}+", "}+")},
        {{.pre = SPLIT("(?m:a.)")}, UNKNOWN("(?m:a.)", "a group of another kind than (?:, (?i, (?=, (?!, (?<, (?>")},
        {{.pre = SPLIT("(*LIMIT_MATCH=1)a")}, UNKNOWN("(*LIMIT_MATCH=1)a", "a group of another kind than (?:, (?i, (?=, (?!, (?<, (?>")},
        {{.pre = SPLIT("a*")}, "t.json: the regular expression 'a*' matches nothing at all, want one that takes a character"},
        {{.pre = SPLIT("(a")}, "t.json: the regular expression '(a' is not understood: missing closing parenthesis; use the model's GGUF instead"},
    };
    all_refused(lies, sizeof lies / sizeof *lies);
}

static void no_json(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err err;
    assert_refused(tokenizer_parse_json(&t, "<html>", 6, "t.json", &err), ERR_INPUT, &err, "", "t.json: at byte 0: want a JSON value");
    assert_refused(tokenizer_parse_json(&t, "{}", 2, "t.json", &err), ERR_INPUT, &err, "", "t.json.model: is missing, want an object");
    struct text json = {0};
    print(&json, &(struct parts){0});
    for (size_t n = 0; n < json.n; n++) {
        assert_int_equal(tokenizer_parse_json(&t, json.s, n, "t.json", &err), ERR_INPUT);
        assert_non_null(strstr(err.text, "t.json: "));
    }
    text_free(&json);
}

/* ---- encoding ---- */

static void expect(const struct tokenizer *t, const char *text, const int32_t *want, size_t n)
{
    struct tokens got = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), true, &got, &err), OK);
    assert_int_equal(got.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got.id[i], want[i]);
    tokens_free(&got);
}

static void merges_by_rank(void **state)
{
    (void)state;
    struct tokenizer *t = good(&(struct parts){.vocab = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"c\": 3, \"bc\": 4, \"abc\": 5, \"aa\": 6}", .added = "[]",
                                               .merges = "[\"b c\", [\"a\", \"bc\"], \"a b\", \"a a\"]"});
    expect(t, "abc", (const int32_t[]){5}, 1);
    expect(t, "abab", (const int32_t[]){2, 2}, 2);
    expect(t, "aabc", (const int32_t[]){0, 5}, 2);
    expect(t, "aaa", (const int32_t[]){6, 0}, 2);
    expect(t, "azb", (const int32_t[]){2}, 1); /* no piece and no <unk>: left out, before anything is joined */
    expect(t, "", NULL, 0);
    tokenizer_free(t);
}

/* An expression that backtracks without end is stopped by PCRE2's limit, in little time. */
static void an_expression_that_explodes(void **state)
{
    (void)state;
    struct tokenizer *t = good(&(struct parts){.pre = SPLIT("(?:a+)+b|c")});
    char text[4001];
    struct tokens ids = {0};
    struct err err;
    memset(text, 'a', 4000);
    double start = clock_s();
    assert_refused(tokenizer_encode(t, text, 4000, true, &ids, &err), ERR_INPUT, &err, "",
                   "the tokenizer's regular expression gives up on this text behind byte 0: match limit exceeded");
    assert_true(clock_s() - start < 30);
    tokens_free(&ids);
    tokenizer_free(t);
}

/* ---- beside it ---- */

static void put(const char *dir, const char *name, const char *text)
{
    put_file(dir, name, text, strlen(text));
}

static enum status load(struct tokenizer **t, const char *dir, struct err *err)
{
    char *path = path_join(dir, "tokenizer.json");
    enum status status = tokenizer_load_json(t, path, err);
    free(path);
    return status;
}

static void files_beside(void **state)
{
    (void)state;
    char dir[64];
    struct tokenizer *t;
    struct err err;
    struct text json = {0};
    make_folder(dir);
    print(&json, &(struct parts){.post = TEMPLATE(SPECIAL ", " TEXT, "[4]")});
    put(dir, "tokenizer.json", json.s);
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_bos(t), 4); /* of the post-processor */
    assert_int_equal(tokenizer_eos(t), -1);
    assert_true(tokenizer_add_bos(t));
    assert_null(tokenizer_chat_template(t));
    tokenizer_free(t);
    put(dir, "special_tokens_map.json", "{\"bos_token\": \"a\", \"eos_token\": {\"content\": \"b\"}}");
    put(dir, "tokenizer_config.json", "{\"bos_token\": \"ab\", \"add_bos_token\": false, \"chat_template\": [{\"name\": \"tool\", \"template\": \"T\"}, "
                                      "{\"name\": \"default\", \"template\": \"D\"}]}");
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_bos(t), 4);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_false(tokenizer_add_bos(t));
    assert_string_equal(tokenizer_chat_template(t), "D");
    assert_string_equal(tokenizer_named_chat_template(t, "tool"), "T");
    assert_string_equal(tokenizer_chat_template_name(t, 0), "tool");
    assert_null(tokenizer_chat_template_name(t, 1));
    tokenizer_free(t);
    put(dir, "chat_template.jinja", "J");
    put(dir, "tokenizer_config.json", "{\"eos_token\": null, \"chat_template\": \"C\"}");
    assert_int_equal(load(&t, dir, &err), OK);
    assert_int_equal(tokenizer_eos(t), -1);
    assert_string_equal(tokenizer_chat_template(t), "J");
    assert_null(tokenizer_named_chat_template(t, "tool")); /* as transformers, which takes files or the list */
    tokenizer_free(t);
    put(dir, "tokenizer_config.json", "{\"eos_token\": \"<x>\"}");
    assert_refused(load(&t, dir, &err), ERR_INPUT, &err, dir, "tokenizer_config.json: eos_token '<x>' is no piece of tokenizer.json");
    put(dir, "special_tokens_map.json", "{}");
    text_clear(&json);
    print(&json, &(struct parts){0});
    put(dir, "tokenizer.json", json.s);
    put(dir, "tokenizer_config.json", "{\"add_bos_token\": true}");
    assert_refused(load(&t, dir, &err), ERR_INPUT, &err, dir, "tokenizer_config.json: add_bos_token is true, and no bos_token is named");
    text_free(&json);
    dir_remove(dir);
}

/* One BOS, told by ids: the name of BOS may open another piece's, and BOS may swallow the spaces in front of it. */
static void one_bos(void **state)
{
    (void)state;
    struct tokenizer *t = good(&(struct parts){
        .added = "[{\"id\": 4, \"content\": \"<e>\", \"special\": true, \"lstrip\": true}, {\"id\": 5, \"content\": \"<e>>\", \"special\": true}]",
        .post = TEMPLATE(SPECIAL ", " TEXT, "[4]")});
    static const struct {
        const char *text;
        int32_t id[3];
        size_t n;
    } cases[] = {{"a", {4, 0}, 2}, {"<e>a", {4, 0}, 2}, {" <e>a", {4, 0}, 2}, {"<e>>a", {4, 5, 0}, 3}, {"a<e>", {4, 0, 4}, 3}, {"", {4}, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int bos = -1; bos < 2; bos++) {
            struct tokens got = {0}, plain = {0};
            struct err err;
            assert_int_equal(tokens_push(&got, 1, &err), OK); /* they are appended */
            assert_int_equal(tokenizer_encode_bos(t, tokenizer_bos_for(t, bos), cases[i].text, strlen(cases[i].text), &got, &err), OK);
            assert_int_equal(tokenizer_encode(t, cases[i].text, strlen(cases[i].text), true, &plain, &err), OK);
            assert_int_equal(got.n, 1 + (bos ? cases[i].n : plain.n));
            if (got.n > 1)
                assert_memory_equal(got.id + 1, bos ? cases[i].id : plain.id, (got.n - 1) * sizeof *got.id);
            tokens_free(&got);
            tokens_free(&plain);
        }
    tokenizer_free(t);
    t = good(&(struct parts){0});
    for (int bos = -1; bos < 2; bos++) /* a vocabulary without one */
        assert_int_equal(tokenizer_bos_for(t, bos), -1);
    tokenizer_free(t);
}

/* ---- in a model's folder ---- */

static void copy_world(const char *dir, const char *name)
{
    char from[128], *bytes;
    size_t n;
    struct err err;
    snprintf(from, sizeof from, "data/world/model/%s", name);
    assert_int_equal(file_read(from, 1 << 27, &bytes, &n, &err), OK);
    put_file(dir, name, bytes, n);
    free(bytes);
}

static void folder_takes(const char *dir, int32_t pieces, const char *sentence)
{
    struct checkpoint *c;
    const struct tokenizer *t;
    struct err err;
    assert_int_equal(checkpoint_open(&c, dir, &err), OK);
    if (sentence) {
        assert_refused(checkpoint_tokenizer(c, &t, &err), ERR_INPUT, &err, dir, sentence);
    } else {
        assert_int_equal(checkpoint_tokenizer(c, &t, &err), OK);
        assert_int_equal(tokenizer_vocab_size(t), pieces);
    }
    checkpoint_close(c);
}

/* Our own tokenizer.gguf before tokenizer.json before tokenizer.model. */
static void which_one_is_taken(void **state)
{
    (void)state;
    char dir[64];
    struct text json = {0};
    make_folder(dir);
    copy_world(dir, "config.json");
    copy_world(dir, "model.safetensors");
    folder_takes(dir, 0, ": has no tokenizer.json, tokenizer.model or tokenizer.gguf");
    copy_world(dir, "tokenizer.model");
    folder_takes(dir, 1024, NULL);
    print(&json, &(struct parts){0});
    put(dir, "tokenizer.json", json.s);
    folder_takes(dir, 5, NULL);
    text_clear(&json);
    print(&json, &(struct parts){.added = "[]", .vocab = "{\"a\": 2000}"});
    put(dir, "tokenizer.json", json.s);
    folder_takes(dir, 0, "tokenizer.json: no piece has the id 0, want one for each from 0 to 2000");
    text_clear(&json);
    text_puts(&json, "{\"x0\": 0");
    for (int i = 1; i < 1025; i++)
        text_printf(&json, ", \"x%d\": %d", i, i);
    text_puts(&json, "}");
    struct text whole = {0};
    print(&whole, &(struct parts){.added = "[]", .vocab = json.s, .merges = "[]"});
    put(dir, "tokenizer.json", whole.s);
    folder_takes(dir, 0, ": the tokenizer has 1025 pieces, the embedding 1024 rows");
    copy_world(dir, "tokenizer.gguf");
    folder_takes(dir, 1024, NULL);
    text_free(&json);
    text_free(&whole);
    dir_remove(dir);
}

/* ---- out ---- */

static bool same_file(const char *a, const char *b, const char *name)
{
    char *from = path_join(a, name), *to = path_join(b, name), *x = NULL, *y = NULL;
    size_t nx, ny;
    struct err err;
    bool same = file_read(from, 1 << 27, &x, &nx, &err) == OK && file_read(to, 1 << 27, &y, &ny, &err) == OK && nx == ny && memcmp(x, y, nx) == 0;
    free(from);
    free(to);
    free(x);
    free(y);
    return same;
}

static bool is_there(const char *dir, const char *name)
{
    return same_file(dir, dir, name);
}

static void make_templates(const char *dir)
{
    char *path = path_join(dir, TOKENIZER_TEMPLATES);
    struct err err;
    assert_int_equal(dir_make(path, &err), OK);
    free(path);
}

static void copies_and_makes(void **state)
{
    (void)state;
    char from[64], to[64];
    struct tokenizer *json, *model;
    struct text text = {0};
    struct err err = {{0}};
    make_folder(from);
    make_folder(to);
    print(&text, &(struct parts){.pre = SPLIT("a|b")}); /* llama.cpp has no name for this */
    put(from, "tokenizer.json", text.s);
    put(from, "tokenizer_config.json", "{\"eos_token\":   \"<e>\"}");
    put(from, "chat_template.jinja", "J");
    put(to, "special_tokens_map.json", "{\"of\": \"another model\"}");
    put(to, "tokenizer.gguf", "of another model");
    assert_int_equal(load(&json, from, &err), OK);
    assert_int_equal(export_tokenizer(to, json, from, 2048, &err), OK);
    assert_true(same_file(from, to, "tokenizer.json"));
    assert_true(same_file(from, to, "tokenizer_config.json"));
    assert_true(same_file(from, to, "chat_template.jinja"));
    assert_false(is_there(to, "special_tokens_map.json"));
    assert_false(is_there(to, "tokenizer.gguf"));
    assert_int_equal(tokenizer_set_chat_template(json, "another", &err), OK);
    assert_int_equal(export_tokenizer(to, json, from, 2048, &err), OK);
    assert_false(same_file(from, to, "chat_template.jinja"));
    tokenizer_free(json);
    assert_int_equal(load(&json, to, &err), OK); /* what is written takes the new one along */
    assert_string_equal(tokenizer_chat_template(json), "another");
    assert_refused(export_tokenizer(to, json, NULL, 2048, &err), ERR_FAILED, &err, "",
                   "GGUF has no name for the pre-tokenizer of this tokenizer.json, so llama.cpp could not cut text as it does");
    assert_int_equal(tokenizer_load_sentencepiece(&model, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(to, model, "data/world/model/tokenizer.model", 2048, &err), OK);
    assert_true(same_file("data/world/model", to, "tokenizer.model"));
    assert_true(is_there(to, "tokenizer.gguf"));
    assert_false(is_there(to, "chat_template.jinja"));
    tokenizer_free(json);
    assert_int_equal(load(&json, to, &err), OK); /* made from the vocabulary */
    assert_int_equal(tokenizer_vocab_size(json), 1024);
    assert_int_equal(tokenizer_bos(json), tokenizer_bos(model));
    assert_int_equal(tokenizer_eos(json), tokenizer_eos(model));
    tokenizer_free(json);
    tokenizer_free(model);
    text_free(&text);
    dir_remove(from);
    dir_remove(to);
}

/* Templates with names: from files into files, from files into a GGUF and out of it into files again. */
static void named_templates(void **state)
{
    (void)state;
    char from[64], to[64];
    struct tokenizer *t;
    struct checkpoint *c;
    const struct tokenizer *back;
    struct err err;
    make_folder(from);
    make_folder(to);
    copy_world(from, "tokenizer.model");
    copy_world(from, "config.json");
    copy_world(from, "model.safetensors");
    put(from, "chat_template.jinja", "J");
    make_templates(from);
    put(from, "additional_chat_templates/tool_use.jinja", "T");
    put(from, "additional_chat_templates/a-b.jinja", "A");
    put(from, "additional_chat_templates/.hidden.jinja", "H");
    put(from, "additional_chat_templates/README.md", "R");
    for (int round = 0; round < 2; round++) { /* the second time from the tokenizer.gguf that the first has written, in which '-' is '_' */
        assert_int_equal(checkpoint_open(&c, round ? to : from, &err), OK);
        assert_int_equal(checkpoint_tokenizer(c, &back, &err), OK);
        assert_string_equal(tokenizer_chat_template(back), "J");
        assert_string_equal(tokenizer_named_chat_template(back, "tool_use"), "T");
        assert_string_equal(tokenizer_named_chat_template(back, "a-b"), "A");
        assert_string_equal(tokenizer_chat_template_name(back, round ? 2 : 1), "tool_use");
        assert_null(tokenizer_chat_template_name(back, round ? 3 : 2));
        assert_int_equal(export_tokenizer(to, back, NULL, 2048, &err), OK);
        assert_true(same_file(from, to, "chat_template.jinja"));
        assert_true(same_file(from, to, "additional_chat_templates/tool_use.jinja"));
        assert_true(same_file(from, to, "additional_chat_templates/a-b.jinja"));
        if (round == 0) {
            copy_world(to, "config.json");
            copy_world(to, "model.safetensors");
        }
        checkpoint_close(c);
    }
    assert_true(is_there(to, "additional_chat_templates/a_b.jinja"));
    /* a model without them removes them */
    assert_int_equal(tokenizer_load_sentencepiece(&t, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(to, t, NULL, 2048, &err), OK);
    assert_false(is_there(to, "additional_chat_templates/tool_use.jinja"));
    assert_false(is_there(to, "chat_template.jinja"));
    tokenizer_free(t);
    put(from, "additional_chat_templates/two words.jinja", "T");
    assert_int_equal(checkpoint_open(&c, from, &err), OK);
    assert_refused(checkpoint_tokenizer(c, &back, &err), ERR_INPUT, &err, from,
                   "additional_chat_templates/two words.jinja: a chat template is named 'two words', want at most 64 letters, digits, '_', '-' and '.', no '.' in front");
    checkpoint_close(c);
    put(from, "additional_chat_templates/two words.jinja", "\xff");
    assert_int_equal(checkpoint_open(&c, from, &err), OK);
    assert_refused(checkpoint_tokenizer(c, &back, &err), ERR_INPUT, &err, from, "additional_chat_templates/two words.jinja: is no UTF-8 text");
    checkpoint_close(c);
    dir_remove(from);
    dir_remove(to);
}

/* What a tokenizer_config.json lists stays there, unless a new template goes over it: beside a file transformers takes no list. */
static void listed_templates(void **state)
{
    (void)state;
    char from[64], to[64], list[8192];
    struct tokenizer *t;
    struct text json = {0};
    struct err err;
    make_folder(from);
    make_folder(to);
    print(&json, &(struct parts){0});
    put(from, "tokenizer.json", json.s);
    put(from, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", \"template\": \"D\"}, {\"name\": \"rag\", \"template\": \"R\"}]}");
    assert_int_equal(load(&t, from, &err), OK);
    assert_int_equal(export_tokenizer(to, t, from, 2048, &err), OK);
    assert_false(is_there(to, "additional_chat_templates/rag.jinja"));
    assert_int_equal(tokenizer_set_chat_template(t, "new", &err), OK);
    assert_int_equal(export_tokenizer(to, t, from, 2048, &err), OK);
    tokenizer_free(t);
    assert_int_equal(load(&t, to, &err), OK);
    assert_string_equal(tokenizer_chat_template(t), "new");
    assert_string_equal(tokenizer_named_chat_template(t, "rag"), "R");
    tokenizer_free(t);
    put(from, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"../x\", \"template\": \"D\"}]}");
    assert_refused(load(&t, from, &err), ERR_INPUT, &err, from,
                   "tokenizer_config.json: a chat template is named '../x', want at most 64 letters, digits, '_', '-' and '.', no '.' in front");
    size_t n = (size_t)snprintf(list, sizeof list, "{\"chat_template\": [");
    for (int i = 0; i < 65; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s{\"name\": \"t%d\", \"template\": \"\"}", i ? ", " : "", i);
    snprintf(list + n, sizeof list - n, "]}");
    put(from, "tokenizer_config.json", list);
    assert_refused(load(&t, from, &err), ERR_INPUT, &err, from, "tokenizer_config.json: more than 64 chat templates");
    text_free(&json);
    dir_remove(from);
    dir_remove(to);
}

/* A tokenizer.json from SentencePiece goes into a GGUF with scores that join as its merges do. */
static void merges_as_scores(void **state)
{
    (void)state;
    char dir[64];
    struct tokenizer *model, *json;
    struct checkpoint *c;
    const struct tokenizer *back;
    struct err err;
    static const char prose[] = "The quick  brown fox's 12 dogs\n\tare in the garden; d\xc3\xa9j\xc3\xa0 vu <s>";
    make_folder(dir);
    copy_world(dir, "config.json");
    copy_world(dir, "model.safetensors");
    assert_int_equal(tokenizer_load_sentencepiece(&model, "data/world/model/tokenizer.model", &err), OK);
    assert_int_equal(export_tokenizer(dir, model, NULL, 2048, &err), OK);
    assert_int_equal(load(&json, dir, &err), OK);
    char *path = path_join(dir, "tokenizer.gguf");
    assert_int_equal(export_vocabulary(path, json, &err), OK);
    assert_int_equal(checkpoint_open(&c, dir, &err), OK);
    assert_int_equal(checkpoint_tokenizer(c, &back, &err), OK);
    for (int special = 0; special < 2; special++) {
        struct tokens want = {0};
        assert_int_equal(tokenizer_encode(model, prose, sizeof prose - 1, special, &want, &err), OK);
        const struct tokenizer *others[] = {json, back};
        for (int i = 0; i < 2; i++) {
            struct tokens got = {0};
            assert_int_equal(tokenizer_encode(others[i], prose, sizeof prose - 1, special, &got, &err), OK);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, want.n * sizeof *want.id);
            tokens_free(&got);
        }
        tokens_free(&want);
    }
    checkpoint_close(c);
    tokenizer_free(model);
    tokenizer_free(json);
    free(path);
    dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabularies_that_lie),         cmocka_unit_test(added_pieces_do_not_merge),
        cmocka_unit_test(components_that_are_not_read),  cmocka_unit_test(templates_that_lie),
        cmocka_unit_test(expressions_that_are_not_read), cmocka_unit_test(no_json),
        cmocka_unit_test(merges_by_rank),                cmocka_unit_test(an_expression_that_explodes),
        cmocka_unit_test(files_beside),                  cmocka_unit_test(which_one_is_taken),
        cmocka_unit_test(copies_and_makes),              cmocka_unit_test(named_templates),
        cmocka_unit_test(listed_templates),              cmocka_unit_test(merges_as_scores),
        cmocka_unit_test(one_bos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
