/* tokenizer_json_test.c: tokenizer.json files that lie or hold what is not read, each with its sentence; what the ids of a small one are.  Those of large ones
 * are held by tokenizer_json_golden_test.c. */
#include "tokenizer_parts.h"

#include "base/log.h"

/* ---- files that lie ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabularies_that_lie),         cmocka_unit_test(added_pieces_do_not_merge),
        cmocka_unit_test(components_that_are_not_read),  cmocka_unit_test(templates_that_lie),
        cmocka_unit_test(expressions_that_are_not_read), cmocka_unit_test(no_json),
        cmocka_unit_test(merges_by_rank),                cmocka_unit_test(an_expression_that_explodes),
        cmocka_unit_test(one_bos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
