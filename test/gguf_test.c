/* Every check of the GGUF reader has a file that breaks just it; what the writer writes is what the format says. */
#include "dir.h"
#include "gguf_bytes.h"

#include <math.h>

static enum status open_bytes(struct gguf **g, const struct text *t, struct err *err)
{
    char path[256];
    assert_false(t->failed);
    put_file(dir, "m", t->s, t->n);
    snprintf(path, sizeof path, "%s/m", dir);
    return gguf_open(g, path, err);
}

static void refused(const struct text *t, const char *sentence)
{
    struct gguf *g;
    struct err err = {""};
    assert_refused(open_bytes(&g, t, &err), ERR_INPUT, &err, dir, sentence);
    assert_null(g);
}

static void starts_that_are_none(void **state)
{
    (void)state;
    struct text t = {0};
    text_puts(&t, "GG");
    refused(&t, "m: at byte 0: magic: got 4 bytes, the file has 2 more");
    text_puts(&t, "ML and more");
    refused(&t, "m: at byte 0: magic: want \"GGUF\" (this is no GGUF file)");
    start(&t, 1, 0, 0);
    refused(&t, "m: at byte 8: version: got 1, want 2 or 3");
    start(&t, 4, 0, 0);
    refused(&t, "m: at byte 8: version: got 4, want 2 or 3");
    start(&t, 0x03000000, 0, 0);
    refused(&t, "m: at byte 8: version: got 0x03000000, a big-endian file, want little-endian");
    start(&t, 3, 0, 65537);
    zeros(&t, 1, 65537 * 14);
    refused(&t, "m: at byte 24: n_kv: got 65537, want at most 65536 and 14 bytes of file for each");
    start(&t, 3, 0, UINT64_MAX);
    refused(&t, "m: at byte 24: n_kv: got 18446744073709551615, want at most 65536 and 14 bytes of file for each");
    start(&t, 3, 1ull << 61, 0); /* times the size of an info it wraps */
    refused(&t, "m: at byte 24: n_tensors: got 2305843009213693952, want at most 1048576 and 33 bytes of file for each");
    start(&t, 3, 3, 0);
    zeros(&t, 1, 98);
    refused(&t, "m: at byte 24: n_tensors: got 3, want at most 1048576 and 33 bytes of file for each");
    text_free(&t);
}

static void keys_that_break_one_rule(void **state)
{
    (void)state;
    struct text t = {0};
    char name[300];
    start(&t, 3, 0, 1);
    key(&t, "", GGUF_U8);
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 32: key: 0 bytes long, want 1 to 255");
    memset(name, 'k', 256);
    name[256] = 0;
    start(&t, 3, 0, 1);
    key(&t, name, GGUF_U8);
    refused(&t, "m: at byte 288: key: 256 bytes long, want 1 to 255");
    start(&t, 3, 0, 1);
    key(&t, "\xc0\x80", GGUF_U8);
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 34: key: is not UTF-8 or holds a NUL");
    start(&t, 3, 0, 1);
    u64(&t, 3);
    text_add(&t, "a\0b", 3);
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 35: key: is not UTF-8 or holds a NUL");
    start(&t, 3, 0, 1);
    u64(&t, UINT64_MAX); /* length + 1 is 0 */
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 32: key: a string of 18446744073709551615 bytes, want at most 16777216");
    start(&t, 3, 0, 1);
    u64(&t, 100);
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 32: key: got 100 bytes, the file has 8 more");
    start(&t, 3, 0, 1);
    key(&t, "k", 13);
    zeros(&t, 1, 8);
    refused(&t, "m: at byte 37: value type: got 13, want 0 to 12");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_U64);
    u32(&t, 0);
    refused(&t, "m: at byte 37: value: got 8 bytes, the file has 4 more");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_BOOL);
    text_add(&t, "\2", 1);
    refused(&t, "m: at byte 37: value: a bool is 2, want 0 or 1");
    start(&t, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        key(&t, "k", GGUF_U32);
        u32(&t, 1);
    }
    refused(&t, "m: key k is there twice");
    text_free(&t);
}

static void arrays_that_break_one_rule(void **state)
{
    (void)state;
    struct text t = {0};
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_ARRAY);
    u32(&t, GGUF_ARRAY);
    u64(&t, 1);
    refused(&t, "m: at byte 41: element type: an array of arrays");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_ARRAY);
    u32(&t, 99);
    u64(&t, 1);
    refused(&t, "m: at byte 41: element type: got 99, want 0 to 12");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_ARRAY);
    u32(&t, GGUF_U32);
    u64(&t, 1ull << 62); /* times 4 it wraps to 0 */
    refused(&t, "m: at byte 49: element count: got 4611686018427387904, want at most 0 (what there is room for)");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_ARRAY);
    u32(&t, GGUF_STRING);
    u64(&t, 3);
    zeros(&t, 1, 17);
    refused(&t, "m: at byte 49: element count: got 3, want at most 2 (what there is room for)");
    start(&t, 3, 0, 1);
    key(&t, "k", GGUF_ARRAY);
    u32(&t, GGUF_STRING);
    u64(&t, 2);
    u64(&t, 9);
    text_puts(&t, "12345678");
    refused(&t, "m: at byte 57: element: got 9 bytes, the file has 8 more");
    text_free(&t);
}

static void infos_that_break_one_rule(void **state)
{
    (void)state;
    struct text t = {0};
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    start(&t, 3, 1, 0);
    info(&t, name, 4, 0, 0);
    refused(&t, "m: at byte 96: tensor name: 64 bytes long, want 1 to 63");
    static const uint32_t dims[] = {0, 5, UINT32_MAX};
    static const char *const sentence[] = {"m: at byte 37: n_dims: got 0, want 1 to 4", "m: at byte 37: n_dims: got 5, want 1 to 4",
                                           "m: at byte 37: n_dims: got 4294967295, want 1 to 4"};
    for (int i = 0; i < 3; i++) {
        start(&t, 3, 1, 0);
        str(&t, "a");
        u32(&t, dims[i]);
        zeros(&t, 1, 64);
        refused(&t, sentence[i]);
    }
    start(&t, 3, 1, 0);
    info(&t, "a", 0, 0, 0);
    refused(&t, "m: at byte 45: dim[0]: got 0, want at least 1");
    start(&t, 3, 1, 0);
    str(&t, "a");
    u32(&t, 2);
    u64(&t, 1ull << 32);
    u64(&t, 1ull << 32); /* the product is 0 */
    u32(&t, 0);
    u64(&t, 0);
    refused(&t, "m: at byte 53: dim[1]: the number of elements overflows at 4294967296");
    start(&t, 3, 1, 0);
    info(&t, "a", 1ull << 62, 28, 0); /* elements fit, bytes of F64 do not */
    refused(&t, "m: at byte 49: tensor: the size of 4611686018427387904 elements overflows");
    static const uint32_t none[] = {4, 31, 1000000000, UINT32_MAX};
    for (int i = 0; i < 4; i++) {
        char want[96];
        start(&t, 3, 1, 0);
        info(&t, "a", 32, none[i], 0);
        snprintf(want, sizeof want, "m: at byte 49: tensor type of a: got %u, ggml has no such type", none[i]);
        refused(&t, want);
    }
    start(&t, 3, 1, 0);
    info(&t, "a", 33, 8, 0);
    refused(&t, "m: at byte 49: dim[0]: got 33, want a multiple of 32 (blocks of Q8_0)");
    start(&t, 3, 2, 0);
    info(&t, "a", 8, 0, 0);
    info(&t, "a", 8, 0, 32);
    zeros(&t, 32, 64);
    refused(&t, "m: tensor a is there twice");
    text_free(&t);
}

static void offsets_that_break_one_rule(void **state)
{
    (void)state;
    static const struct {
        uint64_t second;
        size_t data;
        const char *sentence;
    } cases[] = {
        {0, 64, "m: at byte 90: b: offset 0, want 32 (tensors follow each other)"},                       /* overlap */
        {64, 96, "m: at byte 90: b: offset 64, want 32 (tensors follow each other)"},                     /* hole */
        {33, 96, "m: at byte 90: b: offset 33, want 32 (tensors follow each other)"},                     /* not aligned */
        {UINT64_MAX - 95, 96, "m: at byte 90: b: offset 18446744073709551520, want 32 (tensors follow each other)"}, /* wraps */
        {32, 63, "m: at byte 90: b: 32 bytes at 32 of the data, the file has 63 bytes of data"},
        {32, 0, "m: at byte 90: a: 20 bytes at 0 of the data, the file has 0 bytes of data"},
    };
    struct text t = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start(&t, 3, 2, 0);
        info(&t, "a", 5, 0, 0);
        info(&t, "b", 8, 0, cases[i].second);
        zeros(&t, 32, cases[i].data);
        refused(&t, cases[i].sentence);
    }
    start(&t, 3, 1, 0);
    info(&t, "a", 5, 0, 0);
    refused(&t, "m: at byte 57: data: begins behind the end of the file (57 bytes)");
    start(&t, 3, 1, 0);
    info(&t, "a", UINT64_MAX / 8, 0, 0); /* padded it would wrap to little */
    zeros(&t, 32, 64);
    refused(&t, "m: at byte 57: a: 9223372036854775804 bytes at 0 of the data, the file has 64 bytes of data");
    text_free(&t);
}

static void alignments(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 3, 13, 1u << 17, 1u << 31};
    struct text t = {0};
    for (size_t i = 0; i < 5; i++) {
        char want[120];
        start(&t, 3, 1, 1);
        key(&t, "general.alignment", GGUF_U32);
        u32(&t, bad[i]);
        info(&t, "a", 8, 0, 0);
        zeros(&t, 32, 32);
        snprintf(want, sizeof want, "m: general.alignment: got %u, want a power of two up to 65536", bad[i]);
        refused(&t, want);
    }
    start(&t, 3, 1, 1);
    key(&t, "general.alignment", GGUF_I32);
    u32(&t, 32);
    info(&t, "a", 8, 0, 0);
    zeros(&t, 32, 32);
    refused(&t, "m: general.alignment: want an unsigned 32-bit integer");
    for (uint32_t good = 1; good <= 65536; good *= 256) {
        struct gguf *g;
        struct err err;
        start(&t, 2, 1, 1);
        key(&t, "general.alignment", GGUF_U32);
        u32(&t, good);
        info(&t, "a", 8, 0, 0);
        zeros(&t, good, 32);
        assert_int_equal(open_bytes(&g, &t, &err), OK);
        assert_int_equal(gguf_tensor(g, "a")->offset % good, 0);
        gguf_close(g);
    }
    text_free(&t);
}

/* A file of one key of each kind. */
static struct gguf *open_kinds(void)
{
    struct text t = {0};
    struct gguf *g = NULL;
    struct err err;
    start(&t, 3, 0, 10);
    key(&t, "i8", GGUF_I8);
    text_add(&t, "\xff", 1);
    key(&t, "u16", GGUF_U16);
    text_add(&t, "\xff\xff", 2);
    key(&t, "u64", GGUF_U64);
    u64(&t, UINT64_MAX);
    key(&t, "f32", GGUF_F32);
    f32(&t, 1.5f);
    key(&t, "nan", GGUF_F32);
    f32(&t, NAN);
    key(&t, "yes", GGUF_BOOL);
    text_add(&t, "\1", 1);
    key(&t, "s", GGUF_STRING);
    str(&t, "text");
    key(&t, "nul", GGUF_STRING);
    u64(&t, 3);
    text_add(&t, "a\0b", 3);
    key(&t, "ints", GGUF_ARRAY);
    u32(&t, GGUF_I16);
    u64(&t, 3);
    text_add(&t, "\1\0\xfe\xff\3\0", 6);
    key(&t, "words", GGUF_ARRAY);
    u32(&t, GGUF_STRING);
    u64(&t, 2);
    str(&t, "");
    str(&t, "two");
    assert_int_equal(open_bytes(&g, &t, &err), OK);
    text_free(&t);
    return g;
}

static void values_are_typed_and_named_when_wrong(void **state)
{
    (void)state;
    struct gguf *g = open_kinds();
    struct err err;
    int64_t i;
    double x;
    bool b;
    const char *s;
    int32_t three[3], four[4];
    const struct gguf_value *v;
    assert_int_equal(gguf_int(g, "i8", -1, 5, &i, &err), OK);
    assert_int_equal(i, -1);
    assert_int_equal(gguf_int(g, "u16", 0, 65535, &i, &err), OK);
    assert_int_equal(i, 65535);
    assert_int_equal(gguf_number(g, "f32", 0, 2, &x, &err), OK);
    assert_true(x == 1.5);
    assert_int_equal(gguf_bool(g, "yes", &b, &err), OK);
    assert_true(b);
    assert_int_equal(gguf_string(g, "s", &s, &err), OK);
    assert_string_equal(s, "text");
    assert_int_equal(gguf_ints(g, "ints", 3, -2, 3, three, &err), OK);
    assert_true(three[0] == 1 && three[1] == -2 && three[2] == 3);
    assert_int_equal(gguf_ints(g, "i8", 3, -2, 3, three, &err), OK); /* one for all */
    assert_true(three[0] == -1 && three[2] == -1);
    assert_int_equal(gguf_array(g, "words", GGUF_STRING, &v, &err), OK);
    size_t n;
    assert_memory_equal(gguf_item_string(v, 1, &n), "two", 3);
    assert_int_equal(n, 3);
    gguf_item_string(v, 0, &n);
    assert_int_equal(n, 0);
    assert_int_equal(gguf_int_or(g, "none", 0, 5, 4, &i, &err), OK);
    assert_int_equal(i, 4);

    assert_refused(gguf_int(g, "none", 0, 5, &i, &err), ERR_INPUT, &err, dir, "m: key none is missing, want an integer");
    assert_refused(gguf_int(g, "s", 0, 5, &i, &err), ERR_INPUT, &err, dir, "m: key s: got a string, want an integer");
    assert_refused(gguf_int(g, "f32", 0, 5, &i, &err), ERR_INPUT, &err, dir, "m: key f32: got a float, want an integer");
    assert_refused(gguf_int(g, "yes", 0, 5, &i, &err), ERR_INPUT, &err, dir, "m: key yes: got a bool, want an integer");
    assert_refused(gguf_int_or(g, "s", 0, 5, 4, &i, &err), ERR_INPUT, &err, dir, "m: key s: got a string, want an integer");
    assert_refused(gguf_int(g, "i8", 0, 5, &i, &err), ERR_INPUT, &err, dir, "m: key i8: got -1, want 0 to 5");
    assert_refused(gguf_int(g, "u64", 0, 1 << 20, &i, &err), ERR_INPUT, &err, dir,
                   "m: key u64: got 9223372036854775807, want 0 to 1048576");
    assert_refused(gguf_number(g, "nan", 0, 1, &x, &err), ERR_INPUT, &err, dir, "m: key nan: got nan, want 0 to 1");
    assert_refused(gguf_number(g, "i8", 0, 1, &x, &err), ERR_INPUT, &err, dir, "m: key i8: got an integer, want a float");
    assert_refused(gguf_bool(g, "i8", &b, &err), ERR_INPUT, &err, dir, "m: key i8: got an integer, want a bool");
    assert_refused(gguf_string(g, "nul", &s, &err), ERR_INPUT, &err, dir, "m: key nul: is not UTF-8 or holds a NUL");
    assert_refused(gguf_ints(g, "ints", 4, -2, 3, four, &err), ERR_INPUT, &err, dir, "m: key ints: 3 elements, want 4");
    assert_refused(gguf_ints(g, "ints", 3, 0, 3, three, &err), ERR_INPUT, &err, dir, "m: key ints[1]: got -2, want 0 to 3");
    assert_refused(gguf_array(g, "ints", GGUF_F64, &v, &err), ERR_INPUT, &err, dir,
                   "m: key ints: got an array whose elements are each an integer, want an array of floats");
    assert_refused(gguf_array(g, "words", GGUF_I64, &v, &err), ERR_INPUT, &err, dir,
                   "m: key words: got an array whose elements are each a string, want an array of integers");
    assert_refused(gguf_array(g, "i8", GGUF_I64, &v, &err), ERR_INPUT, &err, dir,
                   "m: key i8: got an integer, want an array of integers");
    gguf_close(g);
}

/* What the engine has no number format for is known by name, measured, and refused when it is asked for. */
static void formats_that_are_not_built(void **state)
{
    (void)state;
    struct text t = {0};
    struct gguf *g;
    struct err err;
    enum format format;
    real row[256];
    start(&t, 3, 1, 0);
    info(&t, "a", 256, 21, 0);
    zeros(&t, 32, 110);
    assert_int_equal(open_bytes(&g, &t, &err), OK);
    const struct gguf_tensor *a = gguf_tensor(g, "a");
    assert_int_equal(a->bytes, 110);
    assert_refused(gguf_format(g, a, &format, &err), ERR_INPUT, &err, dir,
                   "m: a: type 21 (IQ3_S), want F32, F16, BF16, Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL or IQ4_XS");
    assert_int_equal(gguf_read_rows(g, a, 0, 1, row, &err), ERR_INPUT);
    assert_refused(gguf_read(g, a, 106, row, 5, &err), ERR_INPUT, &err, dir, "m: a: 5 bytes at 106 are wanted, it has 110");
    gguf_close(g);
    text_free(&t);
}

/* ---- writing ---- */

static void put_example(struct gguf_writer *w, const float *f, struct err *err)
{
    static const char *const words[] = {"<s>", "\xe2\x96\x81" "a"};
    static const int32_t ints[] = {-1, 2};
    gguf_put_string(w, "s", "text");
    gguf_put_u32(w, "u", 7);
    gguf_put_f32(w, "f", 0.5f);
    gguf_put_bool(w, "b", true);
    gguf_put_strings(w, "words", words, 2);
    gguf_put_i32s(w, "ints", ints, 2);
    gguf_put_f32s(w, "floats", f, 3);
    struct gguf_item one = {.name = "one", .format = FORMAT_F32, .n_dims = 2, .dim = {3, 2}, .data = f};
    struct gguf_item two = {.name = "two", .format = FORMAT_Q8_0, .n_dims = 1, .dim = {32}, .data = "\0\x3c" "0123456789abcdefghijklmnopqrstuv"};
    assert_int_equal(gguf_put_tensor(w, &one, err), OK);
    assert_int_equal(gguf_put_tensor(w, &two, err), OK);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    static const float f[6] = {1, -2, 3.5f, 4, 5, 6};
    struct gguf_writer w = {0};
    struct gguf *g;
    struct err err;
    char path[256], *bytes;
    size_t n;
    put_example(&w, f, &err);
    snprintf(path, sizeof path, "%s/w", dir);
    assert_int_equal(gguf_write(&w, path, NULL, NULL, &err), OK);
    gguf_writer_free(&w);
    assert_int_equal(file_read(path, 1 << 16, &bytes, &n, &err), OK);
    assert_memory_equal(bytes, "GGUF\3\0\0\0\2\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0s\x08\0\0\0\4\0\0\0\0\0\0\0text", 49);
    assert_int_equal(n % 32, 0);
    assert_memory_equal(bytes + n - 96, f, 24); /* one: 24 bytes, padded to 32; two: 34, padded to 64 */
    free(bytes);

    int32_t ints[2];
    int64_t u;
    real row[32];
    const struct gguf_value *v;
    assert_int_equal(gguf_open(&g, path, &err), OK);
    assert_int_equal(gguf_int(g, "u", 0, 9, &u, &err), OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_ints(g, "ints", 2, -1, 2, ints, &err), OK);
    assert_true(ints[0] == -1 && ints[1] == 2);
    assert_int_equal(gguf_array(g, "floats", GGUF_F64, &v, &err), OK);
    assert_true(gguf_item_number(v, 2) == 3.5);
    assert_int_equal(gguf_read_rows(g, gguf_tensor(g, "one"), 1, 1, row, &err), OK);
    assert_true(row[0] == 4 && row[2] == 6);
    assert_refused(gguf_read_rows(g, gguf_tensor(g, "one"), 1, 2, row, &err), ERR_INPUT, &err, dir,
                   "w: one: 2 rows at 1 are wanted, it has 2");
    assert_int_equal(gguf_read_rows(g, gguf_tensor(g, "two"), 0, 1, row, &err), OK);
    assert_true(row[0] == '0' && row[31] == 'v'); /* scale 1 */
    gguf_close(g);
}

static enum status emit_few(void *user, const struct gguf_item *item, struct gguf_sink *sink, struct err *err)
{
    static const float f[8];
    (void)item;
    return gguf_sink_put(sink, f, *(size_t *)user, err);
}

static void what_is_not_written(void **state)
{
    (void)state;
    struct gguf_writer w = {0};
    struct err err;
    char path[256];
    size_t few = 4, many = 32;
    struct gguf_item item = {.name = "a", .format = FORMAT_F32, .n_dims = 1, .dim = {2}};
    assert_int_equal(gguf_put_tensor(&w, &item, &err), OK);
    assert_refused(gguf_put_tensor(&w, &item, &err), ERR_INPUT, &err, "", "a is given twice");
    strcpy(item.name, "b");
    item.format = FORMAT_NF4;
    assert_refused(gguf_put_tensor(&w, &item, &err), ERR_INPUT, &err, "", "b: GGUF has no type for nf4");
    item.format = FORMAT_Q4_0;
    assert_refused(gguf_put_tensor(&w, &item, &err), ERR_INPUT, &err, "", "b: rows of 2 elements, Q4_0 wants a multiple of 32");
    item.format = FORMAT_F32;
    item.dim[0] = 0;
    assert_refused(gguf_put_tensor(&w, &item, &err), ERR_INPUT, &err, "", "b: its number of elements is 0 or overflows");
    item.name[0] = 0;
    assert_refused(gguf_put_tensor(&w, &item, &err), ERR_INPUT, &err, "", "\"\" cannot be the name of a tensor, want 1 to 63 bytes");
    snprintf(path, sizeof path, "%s/new", dir);
    assert_refused(gguf_write(&w, path, emit_few, &few, &err), ERR_FAILED, &err, dir, "new: a: 4 bytes are missing");
    assert_refused(gguf_write(&w, path, emit_few, &many, &err), ERR_FAILED, &err, dir, "new: a: more bytes than its shape");
    assert_int_equal(access(path, F_OK), -1);
    gguf_writer_free(&w);
}

/* Every prefix of a good file is refused; no bit flipped in its header makes the reader read past it (a sanitizer looks on). */
static void prefixes_and_flips(void **state)
{
    (void)state;
    static const float f[6] = {0};
    struct gguf_writer w = {0};
    struct err err;
    struct gguf *g;
    char path[256], *bytes;
    size_t n;
    put_example(&w, f, &err);
    snprintf(path, sizeof path, "%s/w", dir);
    assert_int_equal(gguf_write(&w, path, NULL, NULL, &err), OK);
    gguf_writer_free(&w);
    assert_int_equal(file_read(path, 1 << 16, &bytes, &n, &err), OK);
    for (size_t bit = 0; bit < 8 * (n - 96); bit++) {
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
        put_file(dir, "w", bytes, n);
        if (gguf_open(&g, path, &err) == OK) {
            for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                unsigned char data[256];
                const struct gguf_tensor *t = gguf_tensor_at(g, i);
                assert_true(t->bytes <= sizeof data && gguf_read(g, t, 0, data, (size_t)t->bytes, &err) == OK);
            }
            gguf_close(g);
        }
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ 1 << bit % 8);
    }
    put_file(dir, "w", bytes, n);
    for (size_t k = n - 30; k-- > 0;) { /* the last tensor's padding is nobody's */
        assert_int_equal(truncate(path, (off_t)k), 0);
        assert_int_equal(gguf_open(&g, path, &err), ERR_INPUT);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_that_are_none),       cmocka_unit_test(keys_that_break_one_rule),
        cmocka_unit_test(arrays_that_break_one_rule), cmocka_unit_test(infos_that_break_one_rule),
        cmocka_unit_test(offsets_that_break_one_rule), cmocka_unit_test(alignments),
        cmocka_unit_test(values_are_typed_and_named_when_wrong), cmocka_unit_test(formats_that_are_not_built),
        cmocka_unit_test(what_is_written_reads_back), cmocka_unit_test(what_is_not_written),
        cmocka_unit_test(prefixes_and_flips),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
