/* Every check of the safetensors reader has a file that breaks just it; what the writer writes is what the format says. */
#include "dir.h"

#include <math.h>
#include <sys/stat.h>

#include "io/safetensors.h"

/* DIR/name: length, header, n bytes of data 0, 1, 2 ... */
static void put_tensors(const char *name, uint64_t length, const char *header, size_t data)
{
    unsigned char bytes[8192];
    size_t h = strlen(header);
    assert_true(8 + h + data <= sizeof bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, h);
    for (size_t i = 0; i < data; i++)
        bytes[8 + h + i] = (unsigned char)i;
    put_file(dir, name, bytes, 8 + h + data);
}

static enum status open_one(struct safetensors *st, const char *name, struct err *err)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return safetensors_open(st, path, err);
}

static void headers_that_break_one_rule(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *sentence;
    } cases[] = {
        {"", 0, "m: at byte 8: the header does not begin with '{'"},
        {" {}", 0, "m: at byte 8: the header does not begin with '{'"},
        {"[]", 0, "m: at byte 8: the header does not begin with '{'"},
        {"{\"a\"", 0, "m: at byte 4: want ':' after the name of a member"},
        {"{\"a\":{},\"a\":{}}", 0, "m: member \"a\" is there twice"},
        {"{\"a\":[]}", 0, "m: a: got an array, want an object"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "m: a tensor's name of 0 bytes, want 1 to 255"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "m: a.dtype: is missing, want a string"},
        {"{\"a\":{\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "m: a.dtype: got \"U9\", want F32, F16, BF16 ... U8 as the format lists them"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "m: a.shape: is missing, want an array"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
         "m: a.shape[0]: got -1, want an integer from 0 to 281474976710656"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", 1,
         "m: a.shape[0]: got 1.5, want an integer from 0 to 281474976710656"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,\"1\"],\"data_offsets\":[0,1]}}", 1, "m: a.shape[1]: got a string, want a number"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "m: a.shape: more than 8 dimensions"},
        /* 2^32 x 2^32 is 0 in 64 bits: an empty tensor, were the product looked at instead of each multiplication */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "m: a.shape: its size overflows or is no whole number of bytes"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[281474976710656,16384],\"data_offsets\":[0,0]}}", 0,
         "m: a.shape: its size overflows or is no whole number of bytes"}, /* elements fit, bits do not */
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
         "m: a.shape: its size overflows or is no whole number of bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "m: a.data_offsets: is missing, want an array"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "m: a.data_offsets: 1 numbers, want begin and end"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1,
         "m: a.data_offsets: ends at 0, before it begins at 1"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "m: a.data_offsets: ends at byte 2 of 1 bytes of data"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1000,1000],\"data_offsets\":[0,4]}}", 4,
         "m: a: 4 bytes of data, want 4000000 for its shape and dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9007199254740992,9007199254740993]}}", 1,
         "m: a.data_offsets[0]: got 9007199254740992, want an integer from 0 to 9007199254740991"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "m: a begins at byte 1 of the data, want 0 (no hole)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3,
         "m: b begins at byte 1 of the data, want 2 (no overlap)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
         "m: b begins at byte 0 of the data, want 2 (no overlap)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 5, "m: 3 bytes follow the last tensor"},
        {"{}", 1, "m: 1 bytes follow the last tensor"},
        {"{\"__metadata__\":[]}", 0, "m: __metadata__: got an array, want an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "m: __metadata__.a: got a number, want a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct safetensors st;
        struct err err = {""};
        put_tensors("m", strlen(cases[i].header), cases[i].header, cases[i].data);
        assert_refused(open_one(&st, "m", &err), ERR_INPUT, &err, dir, cases[i].sentence);
        assert_null(st.tensor); /* nothing is left to close */
    }
}

static void lengths_that_lie(void **state)
{
    (void)state;
    struct safetensors st;
    struct err err;
    put_file(dir, "m", "1234567", 7);
    assert_refused(open_one(&st, "m", &err), ERR_INPUT, &err, dir,
                   "m: 7 bytes, want at least 8 (a safetensors file begins with its header's length)");
    put_tensors("m", 3, "{}", 0);
    assert_refused(open_one(&st, "m", &err), ERR_INPUT, &err, dir, "m: at byte 0: a header of 3 bytes, the file has 10");
    put_tensors("m", UINT64_MAX, "{}", 0); /* 8 + N wraps */
    assert_refused(open_one(&st, "m", &err), ERR_INPUT, &err, dir,
                   "m: at byte 0: a header of 18446744073709551615 bytes, want at most 100000000 (is this a safetensors file?)");
    put_file(dir, "m", "<!DOCTYPE html>", 15);
    assert_refused(open_one(&st, "m", &err), ERR_INPUT, &err, dir,
                   "m: at byte 0: a header of 5789751444030890300 bytes, want at most 100000000 (is this a safetensors file?)");
    assert_refused(open_one(&st, "none", &err), ERR_INPUT, &err, dir, "none: No such file or directory");
    assert_refused(open_one(&st, ".", &err), ERR_INPUT, &err, dir, ".: is a folder, want a regular file");
}

/* Every prefix of a good file is refused; no byte flipped anywhere makes the reader read past the file (a sanitizer looks on). */
static void prefixes_and_flips(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";
    struct safetensors st;
    struct err err;
    char path[256];
    size_t n = 8 + sizeof header - 1 + 24;
    put_tensors("m", sizeof header - 1, header, 24);
    assert_int_equal(open_one(&st, "m", &err), OK);
    safetensors_close(&st);
    snprintf(path, sizeof path, "%s/m", dir);
    for (size_t k = n; k-- > 0;) {
        assert_int_equal(truncate(path, (off_t)k), 0);
        assert_int_equal(open_one(&st, "m", &err), ERR_INPUT);
    }
    for (size_t bit = 0; bit < 8 * (n - 24); bit++) {
        unsigned char whole[256];
        uint64_t length = sizeof header - 1;
        memcpy(whole, &length, 8);
        memcpy(whole + 8, header, sizeof header - 1);
        memset(whole + n - 24, 0, 24);
        whole[bit / 8] ^= (unsigned char)(1u << bit % 8);
        put_file(dir, "m", whole, n);
        if (open_one(&st, "m", &err) == OK && st.n == 1) {
            unsigned char value[64];
            assert_int_equal(safetensors_read(&st, &st.tensor[0], 0, value, (size_t)st.tensor[0].bytes, &err), OK);
        }
        safetensors_close(&st);
    }
}

static void ranges_outside_a_tensor(void **state)
{
    (void)state;
    struct safetensors st;
    struct err err;
    char bytes[64];
    real value[8];
    static const char header[] = "{\"a\":{\"dtype\":\"I32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}    "; /* padded with spaces */
    put_tensors("m", sizeof header - 1, header, 8);
    assert_int_equal(open_one(&st, "m", &err), OK);
    const struct st_tensor *a = safetensors_find(&st, "a");
    assert_non_null(a);
    assert_null(safetensors_find(&st, "A"));
    assert_null(safetensors_metadata(&st, "format"));
    assert_refused(safetensors_read(&st, a, 1, bytes, 8, &err), ERR_INPUT, &err, dir, "m: a: 8 bytes at 1 are wanted, it has 8");
    assert_refused(safetensors_read(&st, a, UINT64_MAX, bytes, 8, &err), ERR_INPUT, &err, dir,
                   "m: a: 8 bytes at 18446744073709551615 are wanted, it has 8");
    assert_refused(safetensors_read_real(&st, a, 0, 2, value, &err), ERR_INPUT, &err, dir,
                   "m: a: dtype I32, want F32, F16 or BF16");
    char shape[128];
    st_shape_text(a, shape);
    assert_string_equal(shape, "[2, 1]");
    safetensors_close(&st);
}

/* ---- shards ---- */

#define SHARD(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"

static enum status open_index(struct safetensors *st, const char *json, struct err *err)
{
    put_file(dir, "i", json, strlen(json));
    return safetensors_open_index(st, dir, "i", err);
}

static void shards_stay_in_their_folder(void **state)
{
    (void)state;
    static const struct {
        const char *index, *sentence;
    } cases[] = {
        {"[]", "i.weight_map: is missing, want an object"},
        {"{\"weight_map\":{\"a\":1}}", "i: got a number, want a string"},
        {"{\"weight_map\":{\"a\":\"../one\"}}", "i: shard \"../one\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "i: shard \"/etc/passwd\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"sub/one\"}}", "i: shard \"sub/one\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "i: shard \"..\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "i: shard \"\" is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"link\"}}", "link: is a symbolic link, want the file itself (a shard may not point elsewhere)"},
        {"{\"weight_map\":{\"a\":\"folder\"}}", "folder: want a regular file"},
        {"{\"weight_map\":{\"a\":\"none\"}}", "none: No such file or directory"},
        {"{\"weight_map\":{\"a\":\"one\",\"b\":\"one\"}}", "i: b is not in one"},
        {"{\"weight_map\":{\"a\":\"two\",\"b\":\"one\"}}", "i: a is not in two"},
        {"{\"weight_map\":{\"a\":\"one\",\"b\":\"again\"}}", NULL}, /* which file is named first is the sort's choice */
    };
    char path[256], target[256];
    put_tensors("one", strlen(SHARD("a")), SHARD("a"), 2);
    put_tensors("two", strlen(SHARD("b")), SHARD("b"), 2);
    put_tensors("again", strlen(SHARD("a")), SHARD("a"), 2);
    snprintf(path, sizeof path, "%s/link", dir);
    snprintf(target, sizeof target, "%s/one", dir);
    assert_int_equal(symlink(target, path), 0);
    snprintf(path, sizeof path, "%s/folder", dir);
    assert_int_equal(mkdir(path, 0777), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct safetensors st;
        struct err err = {""};
        enum status got = open_index(&st, cases[i].index, &err);
        if (cases[i].sentence)
            assert_refused(got, ERR_INPUT, &err, dir, cases[i].sentence);
        else
            assert_true(got == ERR_INPUT && strstr(err.text, ": a is also in ") != NULL);
    }
    struct safetensors st;
    struct err err;
    unsigned char value[2];
    assert_int_equal(open_index(&st, "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"b\":\"two\",\"a\":\"one\"}}", &err), OK);
    assert_int_equal(st.n, 2);
    assert_int_equal(safetensors_read(&st, safetensors_find(&st, "b"), 0, value, 2, &err), OK);
    assert_int_equal(value[1], 1);
    safetensors_close(&st);
}

/* ---- writing ---- */

static enum status emit_ones(void *user, const struct st_item *item, struct st_sink *sink, struct err *err)
{
    static const float ones[4] = {1, 1, 1, 1};
    return st_put(sink, ones, *(size_t *)user, item->id == 9 ? err : NULL);
}

/* Byte for byte: highest dtype first, then by name; the data begins at a multiple of 8. */
static void what_is_written(void **state)
{
    (void)state;
    static const float f[2] = {1.5f, -2};
    static const uint16_t half[3] = {0x3c00, 0xc000, 0x7c00}; /* 1, -2, inf */
    static const uint16_t brain[1] = {0x4040};                /* 3 */
    static const uint8_t code[1] = {7};
    const struct st_item items[] = {
        {.name = "u", .dtype = ST_U8, .n_dims = 1, .dim = {1}, .data = code},
        {.name = "h", .dtype = ST_F16, .n_dims = 2, .dim = {3, 1}, .data = half},
        {.name = "b", .dtype = ST_BF16, .n_dims = 0, .data = brain},
        {.name = "z", .dtype = ST_F32, .n_dims = 1, .dim = {2}, .data = f},
        {.name = "e", .dtype = ST_F32, .n_dims = 1, .dim = {4}, .id = 9},
        {.name = "none", .dtype = ST_F32, .n_dims = 2, .dim = {0, 4}, .data = f},
    };
    const char *const metadata[] = {"base", "a \"b\"", NULL};
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"base\":\"a \\\"b\\\"\"},"
        "\"e\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[16,16]},"
        "\"z\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]},\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
        "\"h\":{\"dtype\":\"F16\",\"shape\":[3,1],\"data_offsets\":[26,32]},\"u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[32,33]}}";
    char path[256], *bytes;
    size_t n, whole = 16, length = (sizeof want - 1 + 7) / 8 * 8;
    struct err err;
    snprintf(path, sizeof path, "%s/w", dir);
    assert_int_equal(safetensors_write(path, items, 6, metadata, emit_ones, &whole, &err), OK);
    assert_int_equal(file_read(path, 1 << 16, &bytes, &n, &err), OK);
    uint64_t stored;
    memcpy(&stored, bytes, 8);
    assert_int_equal(stored, length);
    assert_int_equal(n, 8 + length + 33);
    assert_memory_equal(bytes + 8, want, sizeof want - 1);
    for (size_t i = 8 + sizeof want - 1; i < 8 + length; i++)
        assert_int_equal(bytes[i], ' ');
    assert_memory_equal(bytes + 8 + length + 16, f, 8);
    free(bytes);

    struct safetensors st;
    real value[4];
    assert_int_equal(safetensors_open(&st, path, &err), OK);
    assert_string_equal(safetensors_metadata(&st, "base"), "a \"b\"");
    assert_int_equal(safetensors_read_real(&st, safetensors_find(&st, "h"), 1, 2, value, &err), OK);
    assert_true(value[0] == -2 && isinf(value[1])); /* values are the caller's to judge */
    assert_int_equal(safetensors_read_real(&st, safetensors_find(&st, "b"), 0, 1, value, &err), OK);
    assert_true(value[0] == 3);
    assert_int_equal(safetensors_read_real(&st, safetensors_find(&st, "z"), 1, 1, value, &err), OK);
    assert_true(value[0] == -2);
    assert_refused(safetensors_read_real(&st, safetensors_find(&st, "z"), 1, 2, value, &err), ERR_INPUT, &err, dir,
                   "w: z: 2 elements at 1 are wanted, it has 2");
    safetensors_close(&st);
}

static void what_is_not_written(void **state)
{
    (void)state;
    static const float f[4] = {0};
    const struct st_item twice[] = {{.name = "a", .dtype = ST_F32, .n_dims = 1, .dim = {1}, .data = f},
                                    {.name = "a", .dtype = ST_F16, .n_dims = 1, .dim = {1}, .data = f}};
    const struct st_item empty = {.name = "", .dtype = ST_F32, .n_dims = 1, .dim = {1}, .data = f};
    const struct st_item huge = {.name = "a", .dtype = ST_F32, .n_dims = 2, .dim = {1ull << 32, 1ull << 32}, .data = f};
    const struct st_item asked = {.name = "a", .dtype = ST_F32, .n_dims = 1, .dim = {2}, .id = 9};
    struct err err;
    char path[256];
    size_t few = 4, many = 12;
    snprintf(path, sizeof path, "%s/new", dir);
    assert_refused(safetensors_write(path, twice, 2, NULL, NULL, NULL, &err), ERR_INPUT, &err, dir, "new: a is given twice");
    assert_refused(safetensors_write(path, &empty, 1, NULL, NULL, NULL, &err), ERR_INPUT, &err, dir,
                   "new: \"\" cannot be the name of a tensor");
    assert_refused(safetensors_write(path, &huge, 1, NULL, NULL, NULL, &err), ERR_INPUT, &err, dir,
                   "new: a: its size overflows or is no whole number of bytes");
    assert_refused(safetensors_write(path, &asked, 1, NULL, emit_ones, &few, &err), ERR_FAILED, &err, dir, "new: a: 4 bytes are missing");
    assert_refused(safetensors_write(path, &asked, 1, NULL, emit_ones, &many, &err), ERR_FAILED, &err, dir,
                   "new: a: more bytes than its shape");
    assert_int_equal(access(path, F_OK), -1); /* and no half of a file is left */
    snprintf(path, sizeof path, "%s/new.tmp-veneer", dir);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_that_break_one_rule), cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(prefixes_and_flips),          cmocka_unit_test(ranges_outside_a_tensor),
        cmocka_unit_test(shards_stay_in_their_folder), cmocka_unit_test(what_is_written),
        cmocka_unit_test(what_is_not_written),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
