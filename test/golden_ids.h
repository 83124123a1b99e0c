/* golden_ids.h: a tokenizer against golden ids and decoded text; golden_wrong counts what differs. */
#ifndef VENEER_TEST_GOLDEN_IDS_H
#define VENEER_TEST_GOLDEN_IDS_H
#include "golden.h"
#include "io/gguf.h"
#include "io/tokenizer.h"

static int golden_wrong;

static inline void golden_compare_ids(const char *what, const char *text, const struct json *want, const struct tokens *got)
{
    size_t i = 0;
    bool same = json_size(want) == got->n;
    for (const struct json *item = json_first(want); same && item; item = json_next(item), i++) {
        int64_t id;
        struct err err;
        assert_int_equal(json_as_int(item, "id", 0, 1 << 30, &id, &err), OK);
        same = id == got->id[i];
    }
    if (same)
        return;
    golden_wrong++;
    fprintf(stderr, "%s of '%s': got", what, text);
    for (i = 0; i < got->n; i++)
        fprintf(stderr, " %d", got->id[i]);
    fprintf(stderr, "\n");
}

/* want NULL: nothing to compare. */
static inline void golden_encode(const struct tokenizer *t, const struct json *want, const char *text, size_t n, bool special, const char *what)
{
    struct tokens got = {0};
    struct err err;
    if (!want)
        return;
    assert_int_equal(tokenizer_encode(t, text, n, special, &got, &err), OK);
    golden_compare_ids(what, text, want, &got);
    tokens_free(&got);
}

/* decoded NULL: nothing to compare. */
static inline void golden_decode(const struct tokenizer *t, const struct json *ids, const struct json *decoded)
{
    const char *want;
    struct err err;
    struct tokens tokens = {0};
    char *got;
    size_t n, want_n;
    if (!decoded)
        return;
    assert_int_equal(json_as_string(decoded, "decoded", &want, &err), OK);
    for (const struct json *item = json_first(ids); item; item = json_next(item)) {
        int64_t id;
        assert_int_equal(json_as_int(item, "id", 0, 1 << 30, &id, &err), OK);
        assert_int_equal(tokens_push(&tokens, (int32_t)id, &err), OK);
    }
    assert_int_equal(tokenizer_decode(t, tokens.id, tokens.n, &got, &n, &err), OK);
    char *expected = golden_text(want, &want_n);
    if (n != want_n || memcmp(got, expected, n) != 0) {
        golden_wrong++;
        fprintf(stderr, "decoded: got '%s', want '%s'\n", got, expected);
    }
    free(got);
    free(expected);
    tokens_free(&tokens);
}

static inline void golden_invalid(const struct tokenizer *t, const struct json *entry)
{
    const char *hex;
    struct err err;
    char bytes[256];
    size_t n = 0;
    assert_int_equal(json_string(entry, "hex", "entry", &hex, &err), OK);
    for (; hex[0] && hex[1] && n < sizeof bytes; hex += 2) {
        char two[3] = {hex[0], hex[1], 0};
        bytes[n++] = (char)strtol(two, NULL, 16);
    }
    golden_encode(t, json_member(entry, "ids"), bytes, n, false, "invalid");
}

static inline void golden_compare(const struct tokenizer *t, const char *name)
{
    char file[64];
    snprintf(file, sizeof file, "tokenizer/%s.json", name);
    struct json *golden = golden_json(file);
    assert_non_null(golden);
    golden_wrong = 0;
    size_t count = 0;
    for (const struct json *e = json_first(json_member(golden, "entries")); e; e = json_next(e), count++) {
        const char *raw;
        struct err err;
        size_t n;
        assert_int_equal(json_string(e, "text", "entry", &raw, &err), OK);
        char *text = golden_text(raw, &n);
        golden_encode(t, json_member(e, "ids"), text, n, false, "ids");
        golden_encode(t, json_member(e, "ids_special"), text, n, true, "ids_special");
        free(text);
        golden_decode(t, json_member(e, "ids"), json_member(e, "decoded"));
    }
    for (const struct json *e = json_first(json_member(golden, "decode")); e; e = json_next(e))
        golden_decode(t, json_member(e, "ids"), json_member(e, "decoded"));
    const struct json *bad = json_member(golden, "invalid_utf8");
    for (const struct json *e = bad ? json_first(bad) : NULL; e; e = json_next(e))
        golden_invalid(t, e);
    json_free(golden);
    assert_true(count > 0);
    assert_int_equal(golden_wrong, 0);
}

/* A real tokenizer of the shared data, the caller's; the test is skipped where it is not. */
static inline struct tokenizer *golden_file(const char *name, enum status (*load)(struct tokenizer **, const char *, struct err *))
{
    char path[256];
    struct tokenizer *t;
    struct err err;
    snprintf(path, sizeof path, "../shared/data/tokenizers/%s/tokenizer.model", name);
    if (access(path, R_OK) != 0)
        skip();
    assert_int_equal(load(&t, path, &err), OK);
    return t;
}

/* The same of the GGUF that `make models` fetches. */
static inline struct tokenizer *golden_smollm2(void)
{
    static const char path[] = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    struct gguf *g;
    struct tokenizer *t;
    struct err err;
    if (access(path, R_OK) != 0)
        skip();
    assert_int_equal(gguf_open(&g, path, &err), OK);
    assert_int_equal(tokenizer_load_gguf(&t, g, &err), OK);
    gguf_close(g);
    return t;
}

#endif
