/* tokenizer_test.c: vocabularies that lie, each with its sentence; long texts in little time; a vocabulary that goes through a GGUF and
 * comes back; llama.cpp's own test vectors.  The ids of real texts are held by tokenizer_golden_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "export.h"
#include "io/gguf.h"
#include "io/tokenizer.h"

/* ---- a SentencePiece model written by hand ---- */

static void put_varint(struct text *t, uint64_t x)
{
    do {
        char b = (char)((x & 127) | (x > 127 ? 128 : 0));
        text_add(t, &b, 1);
        x >>= 7;
    } while (x);
}

static void put_number(struct text *t, int field, uint64_t x)
{
    put_varint(t, (uint64_t)field << 3);
    put_varint(t, x);
}

static void put_block(struct text *t, int field, const char *bytes, size_t n)
{
    put_varint(t, (uint64_t)field << 3 | 2);
    put_varint(t, n);
    text_add(t, bytes, n);
}

static void put_piece(struct text *model, const char *piece, float score, int type)
{
    struct text t = {0};
    put_block(&t, 1, piece, strlen(piece));
    put_varint(&t, 2 << 3 | 5);
    text_add(&t, (const char *)&score, 4);
    put_number(&t, 3, (uint64_t)type);
    put_block(model, 1, t.s, t.n);
    text_free(&t);
}

/* fields of a message, pairs of field and value up to field 0 */
static void put_spec(struct text *model, int field, const uint64_t *pairs)
{
    struct text t = {0};
    for (; pairs[0]; pairs += 2)
        put_number(&t, (int)pairs[0], pairs[1]);
    put_block(model, field, t.s ? t.s : "", t.n);
    text_free(&t);
}

static const uint64_t bpe_spec[] = {3, 2, 0};

static struct text small_model(void)
{
    struct text m = {0};
    put_piece(&m, "<unk>", 0, 2);
    put_piece(&m, "<s>", 0, 3);
    put_piece(&m, "</s>", 0, 3);
    put_piece(&m, "\xe2\x96\x81", -3, 1);
    put_piece(&m, "a", -4, 1);
    put_piece(&m, "b", -5, 1);
    put_piece(&m, "ab", -1, 1);
    put_piece(&m, "aa", -2, 1);
    put_piece(&m, "<tag>", 0, 4);
    put_spec(&m, 2, bpe_spec);
    return m;
}

static enum status parse(struct tokenizer **t, const struct text *m, struct err *err)
{
    *err = (struct err){{0}};
    return tokenizer_parse_sentencepiece(t, m->s ? m->s : "", m->n, "x.model", err);
}

/* Takes m. */
static void refused(struct text m, const char *sentence)
{
    struct tokenizer *t;
    struct err err;
    assert_int_equal(parse(&t, &m, &err), ERR_INPUT);
    assert_string_equal(err.text, sentence);
    assert_null(t);
    text_free(&m);
}

static void files_that_lie(void **state)
{
    (void)state;
    struct text m = {0};
    refused(m, "x.model: holds no pieces, want a SentencePiece model");
    text_puts(&m, "<html>an error page</html>");
    refused(m, "x.model: field 7 has wire type 4, this is no SentencePiece model");
    m = small_model();
    m.n -= 1;
    refused(m, "x.model: field 2 has 2 bytes, the file has 1 left");
    m = small_model();
    put_varint(&m, 1 << 3 | 2);
    put_varint(&m, UINT64_MAX);
    refused(m, "x.model: field 1 has 18446744073709551615 bytes, the file has 0 left");
    m = small_model();
    text_add(&m, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12);
    refused(m, "x.model: a number is longer than ten bytes");
    m = small_model();
    text_add(&m, "\x08\xff", 2);
    refused(m, "x.model: ends inside a number");
}

static void pieces_that_lie(void **state)
{
    (void)state;
    struct text m = small_model();
    put_piece(&m, "<0x-1>", 0, 6);
    refused(m, "x.model: byte piece 9 is '<0x-1>', want <0x00> to <0xFF>");
    m = small_model();
    put_piece(&m, "<0x123>", 0, 6);
    refused(m, "x.model: byte piece 9 is '<0x123>', want <0x00> to <0xFF>");
    m = small_model();
    put_piece(&m, "ab", -9, 1);
    refused(m, "x.model: pieces 6 and 9 are the same text");
    m = small_model();
    put_piece(&m, "nan", NAN, 1);
    refused(m, "x.model: the score of piece 9 is not finite");
    m = small_model();
    put_piece(&m, "", 0, 1);
    refused(m, "x.model: piece 9 has 0 bytes, want 1 to 65536");
    m = small_model();
    put_piece(&m, "x", 0, 7);
    refused(m, "x.model: piece 9 has type 0, want 1 to 6");
    char *big = calloc(1, 65538);
    assert_non_null(big);
    memset(big, 'x', 65537);
    m = small_model();
    put_piece(&m, big, 0, 1);
    refused(m, "x.model: piece 9 has 65537 bytes, want 1 to 65536");
    free(big);
}

static void specs_that_lie(void **state)
{
    (void)state;
    struct text m = small_model();
    put_spec(&m, 2, (const uint64_t[]){41, 9, 0});
    refused(m, "x.model: bos id 9, want one below 9");
    m = small_model();
    put_spec(&m, 2, (const uint64_t[]){42, (uint64_t)1 << 40, 0});
    refused(m, "x.model: eos id 2147483647, want one below 9");
    m = small_model();
    put_spec(&m, 2, (const uint64_t[]){3, 1, 0});
    refused(m, "x.model: is a SentencePiece unigram model, want BPE");
    m = small_model();
    put_spec(&m, 2, (const uint64_t[]){3, 4, 0});
    refused(m, "x.model: is a SentencePiece character model, want BPE");
    m = small_model();
    put_spec(&m, 2, (const uint64_t[]){24, 1, 0});
    refused(m, "x.model: treat_whitespace_as_suffix is set, want spaces in front of words");
    m = small_model();
    put_spec(&m, 3, (const uint64_t[]){5, 0, 0});
    refused(m, "x.model: escape_whitespaces is not set, want spaces as U+2581");
    struct text spec = {0};
    put_block(&spec, 2, "\1\0\0\0", 4);
    m = small_model();
    put_block(&m, 3, spec.s, spec.n);
    text_free(&spec);
    refused(m, "x.model: normalises text by a character map, want the identity normalizer");
}

/* Every cut of a file is refused or, where it ends between two fields, another sound file. */
static void cut_anywhere(void **state)
{
    (void)state;
    struct text m = small_model();
    for (size_t n = 0; n < m.n; n++) {
        struct tokenizer *t;
        struct err err;
        struct text cut = {.s = m.s, .n = n};
        assert_int_not_equal(parse(&t, &cut, &err), OK); /* the specs come last: without them it is a unigram model */
        assert_non_null(strstr(err.text, "x.model: "));
    }
    text_free(&m);
}

/* ---- encoding ---- */

static struct tokenizer *small(void)
{
    struct tokenizer *t;
    struct err err;
    struct text m = small_model();
    assert_int_equal(parse(&t, &m, &err), OK);
    text_free(&m);
    return t;
}

static void expect(const struct tokenizer *t, const char *text, bool special, const int32_t *want, size_t n)
{
    struct tokens got = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), special, &got, &err), OK);
    assert_int_equal(got.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got.id[i], want[i]);
    tokens_free(&got);
}

/* By hand: scores ab -1, aa -2; the higher one goes first, of equal ones the left one. */
static void merges_by_score(void **state)
{
    (void)state;
    struct tokenizer *t = small();
    expect(t, "aab", false, (const int32_t[]){3, 4, 6}, 3);
    expect(t, "aaaa", false, (const int32_t[]){3, 7, 7}, 3);
    expect(t, "aaa", false, (const int32_t[]){3, 7, 4}, 3);
    expect(t, "a<tag>a", false, (const int32_t[]){3, 4, 8, 4}, 4);
    expect(t, "a</s>", true, (const int32_t[]){3, 4, 2}, 3);
    expect(t, "zb", false, (const int32_t[]){3, 0, 5}, 3); /* no bytes in this vocabulary: <unk> */
    expect(t, "", false, NULL, 0);
    tokenizer_free(t);
}

/* 2 MB of one character, of spaces, of digits and of bytes that are no UTF-8: a quadratic step would take minutes. */
static void long_texts(void **state)
{
    (void)state;
    enum { N = 2000000 };
    char *text = malloc(N);
    struct tokenizer *t[2] = {small(), NULL};
    struct gguf *gguf;
    struct err err;
    assert_non_null(text);
    if (gguf_open(&gguf, "data/models/SmolLM2-135M-Instruct.Q4_1.gguf", &err) == OK) {
        assert_int_equal(tokenizer_load_gguf(&t[1], gguf, &err), OK);
        gguf_close(gguf);
    }
    double start = clock_s();
    for (int i = 0; i < 8; i++) {
        struct tokens ids = {0};
        if (!t[i % 2])
            continue;
        memset(text, "a 7\xff"[i / 2], N);
        assert_int_equal(tokenizer_encode(t[i % 2], text, N, true, &ids, &err), OK);
        tokens_free(&ids);
    }
    assert_true(clock_s() - start < 60);
    tokenizer_free(t[0]);
    tokenizer_free(t[1]);
    free(text);
}

static void ids_out_of_range(void **state)
{
    (void)state;
    struct tokenizer *t = small();
    char *text;
    size_t n;
    struct err err;
    assert_int_equal(tokenizer_decode(t, (const int32_t[]){4, 9}, 2, &text, &n, &err), ERR_INPUT);
    assert_string_equal(err.text, "token 9, want one from 0 to 8");
    assert_int_equal(tokenizer_decode(t, (const int32_t[]){-1}, 1, &text, &n, &err), ERR_INPUT);
    assert_string_equal(err.text, "token -1, want one from 0 to 8");
    tokenizer_free(t);
}

/* ---- through a GGUF and back ---- */

static char *temp_file(const char *name)
{
    struct text t = {0};
    text_printf(&t, "/tmp/veneer-%d-%s", (int)getpid(), name);
    return t.s;
}

static struct tokenizer *through_gguf(const struct tokenizer *t)
{
    char *path = temp_file("vocabulary.gguf");
    struct gguf *gguf;
    struct tokenizer *back = NULL;
    struct err err = {{0}};
    assert_int_equal(export_vocabulary(path, t, &err), OK);
    enum status status = gguf_open(&gguf, path, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    status = tokenizer_load_gguf(&back, gguf, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, OK);
    gguf_close(gguf);
    unlink(path);
    free(path);
    return back;
}

static void same_ids(const struct tokenizer *a, const struct tokenizer *b, const char *text, size_t n)
{
    struct tokens x = {0}, y = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(a, text, n, true, &x, &err), OK);
    assert_int_equal(tokenizer_encode(b, text, n, true, &y, &err), OK);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.id, y.id, x.n * sizeof *x.id);
    tokens_free(&x);
    tokens_free(&y);
}

static const char mixed[] = "The 1234 quick\tbrown foxes' déjà vu — 生活的真谛是  \n\n  don't stop!! aaaaaaaa <|eot_id|>\xff";

static void spm_through_gguf(void **state)
{
    (void)state;
    struct tokenizer *t, *back;
    struct err err;
    if (access("../shared/data/tokenizers/llama2/tokenizer.model", R_OK) != 0)
        skip();
    assert_int_equal(tokenizer_load_sentencepiece(&t, "../shared/data/tokenizers/llama2/tokenizer.model", &err), OK);
    back = through_gguf(t);
    same_ids(t, back, mixed, sizeof mixed - 1);
    assert_int_equal(tokenizer_bos(back), tokenizer_bos(t));
    assert_true(tokenizer_add_bos(back));
    tokenizer_free(t);
    tokenizer_free(back);
}

/* User-defined pieces and remove_extra_whitespaces, which Hugging Face's form says by other means: the ids stay. */
static void spm_through_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"aab", "a<tag>ab", "<tag>", " <tag> <tag>a", "  ab  ba ", "", " ", "<s>ab</s> ab", "<unk>a", "ab\xe2\x96\x81 ", "zz", "<tag"};
    for (int squeeze = 0; squeeze < 2; squeeze++)
        for (int prefix = 0; prefix < 2; prefix++) {
            struct text m = small_model(), json = {0};
            struct tokenizer *t, *back;
            struct err err;
            put_spec(&m, 3, (const uint64_t[]){3, (uint64_t)prefix, 4, (uint64_t)squeeze, 0});
            assert_int_equal(parse(&t, &m, &err), OK);
            assert_int_equal(tokenizer_print_json(t, &json, &err), OK);
            assert_int_equal(tokenizer_parse_json(&back, json.s, json.n, "back", &err), OK);
            for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
                same_ids(t, back, texts[i], strlen(texts[i]));
            tokenizer_free(t);
            tokenizer_free(back);
            text_free(&json);
            text_free(&m);
        }
}

/* A rank file has no merges; those that a GGUF needs are all ways to cut a piece in two: 280,147 for Llama 3, as its published
 * tokenizer.json counts. */
static void ranks_through_gguf(void **state)
{
    (void)state;
    static const char path[] = "../shared/data/tokenizers/llama3/tokenizer.model", prose[] = "../shared/data/lm/wikitext-2-v1.valid.txt";
    struct tokenizer *t, *back;
    struct tokenizer_view view;
    struct err err;
    char *text;
    size_t n;
    if (access(path, R_OK) != 0 || access(prose, R_OK) != 0)
        skip();
    assert_int_equal(tokenizer_load_tiktoken(&t, path, &err), OK);
    tokenizer_view(t, &view);
    assert_int_equal(view.n_merges, 280147);
    back = through_gguf(t);
    same_ids(t, back, mixed, sizeof mixed - 1);
    assert_int_equal(file_read(prose, 1 << 24, &text, &n, &err), OK);
    same_ids(t, back, text, n);
    free(text);
    tokenizer_free(t);
    tokenizer_free(back);
}

/* ---- llama.cpp's vectors: texts divided by a mark, a line of ids for each ---- */

static void vectors(const struct tokenizer *t, const char *base, const char *without)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[256], *inp, *out;
    size_t n;
    struct err err;
    int texts = 0;
    snprintf(path, sizeof path, "%s.inp", base);
    assert_int_equal(file_read(path, 1 << 20, &inp, &n, &err), OK);
    snprintf(path, sizeof path, "%s.out", base);
    assert_int_equal(file_read(path, 1 << 20, &out, &n, &err), OK);
    char *text = inp, *line = out;
    for (char *end; (end = strstr(text, mark)); text = end + sizeof mark - 1, texts++) {
        struct tokens ids = {0};
        struct text got = {0};
        char *stop = line + strcspn(line, "\n");
        assert_int_equal(tokenizer_encode(t, text, (size_t)(end - text), false, &ids, &err), OK);
        for (size_t i = 0; i < ids.n; i++)
            text_printf(&got, " %d", ids.id[i]);
        *stop = 0;
        if (!without || (size_t)(end - text) != strlen(without) || strncmp(text, without, strlen(without)) != 0)
            assert_string_equal(got.s ? got.s : "", line);
        line = stop + 1;
        text_free(&got);
        tokens_free(&ids);
    }
    assert_true(texts > 40);
    free(inp);
    free(out);
}

static void from_gguf(const char *base, const char *without)
{
    char path[256];
    struct gguf *gguf;
    struct tokenizer *t;
    struct err err;
    snprintf(path, sizeof path, "%s", base);
    if (access(path, R_OK) != 0)
        skip();
    assert_int_equal(gguf_open(&gguf, path, &err), OK);
    assert_int_equal(tokenizer_load_gguf(&t, gguf, &err), OK);
    gguf_close(gguf);
    vectors(t, base, without);
    tokenizer_free(t);
}

static void vectors_llama_spm(void **state)
{
    (void)state;
    from_gguf("../shared/data/models/gguf-vocab/ggml-vocab-llama-spm.gguf", NULL);
}

static void vectors_gpt_2(void **state)
{
    (void)state;
    from_gguf("../shared/data/models/gguf-vocab/ggml-vocab-gpt-2.gguf", NULL);
}

static void vectors_llama_bpe(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct err err;
    if (access("../shared/data/tokenizers/llama3/tokenizer.model", R_OK) != 0 ||
        access("../shared/data/models/gguf-vocab/ggml-vocab-llama-bpe.gguf.inp", R_OK) != 0)
        skip();
    assert_int_equal(tokenizer_load_tiktoken(&t, "../shared/data/tokenizers/llama3/tokenizer.model", &err), OK);
    vectors(t, "../shared/data/models/gguf-vocab/ggml-vocab-llama-bpe.gguf", NULL);
    tokenizer_free(t);
}

/* ---- the other files ---- */

static void refused_file(enum status (*load)(struct tokenizer **, const char *, struct err *), const void *bytes, size_t n, const char *what)
{
    char *path = temp_file("tokenizer");
    struct tokenizer *t;
    struct err err;
    struct text want = {0};
    assert_int_equal(file_write(path, bytes, n, &err), OK);
    assert_int_equal(load(&t, path, &err), ERR_INPUT);
    text_printf(&want, "%s%s", path, what);
    assert_string_equal(err.text, want.s);
    text_free(&want);
    unlink(path);
    free(path);
}

static enum status load_tok_bin(struct tokenizer **t, const char *path, struct err *err)
{
    return tokenizer_load_llama2c(t, path, 260, err);
}

static void other_files(void **state)
{
    (void)state;
    refused_file(tokenizer_load_tiktoken, "\n", 1, ": is empty, want lines of base64 and rank");
    refused_file(tokenizer_load_tiktoken, "IQ== 0\nIg== 2\n", 14, ":2: want base64 and rank 1");
    refused_file(tokenizer_load_tiktoken, "IQ== 0\n!!! 1\n", 13, ":2: want base64 and rank 1");
    refused_file(load_tok_bin, "\7\0\0\0", 4, ": ends at piece 0 of 260");
    refused_file(load_tok_bin, "\7\0\0\0\0\0\0\0\xff\xff\xff\xff", 12, ": piece 0 has 4294967295 bytes, the file has 0 left");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_lie),    cmocka_unit_test(pieces_that_lie),   cmocka_unit_test(specs_that_lie),
        cmocka_unit_test(cut_anywhere),      cmocka_unit_test(merges_by_score),   cmocka_unit_test(long_texts),
        cmocka_unit_test(ids_out_of_range),  cmocka_unit_test(spm_through_gguf),  cmocka_unit_test(ranks_through_gguf),
        cmocka_unit_test(spm_through_json),
        cmocka_unit_test(vectors_llama_spm), cmocka_unit_test(vectors_gpt_2),     cmocka_unit_test(vectors_llama_bpe),
        cmocka_unit_test(other_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
