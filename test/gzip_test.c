/* gzip_test.c: compressed files.  What a user would miss: data sets as they are handed out, cut short or damaged ones that pass for whole, a small file that takes all memory. */
#include "refused.h"

#include <zlib.h>

#include "base/file.h"
#include "base/gzip.h"
#include "base/rng.h"

/* One member; its bytes. */
static size_t compressed(const char *text, size_t n, char *out, size_t room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)n;
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void put(const char *path, const char *bytes, size_t n)
{
    struct err err;
    assert_int_equal(file_write(path, bytes, n, &err), OK);
}

enum { TEXT = 300000, ROOM = TEXT + 1000 };

/* Letters that compress little, so that blocks end anywhere. */
static char *text_of(size_t n)
{
    struct rng rng = {.seed = 3, .stream = RNG_WORLD};
    char *text = malloc(n + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)('a' + rng_below(&rng, 26));
    text[n] = 0;
    return text;
}

static void whole_files(void **state)
{
    (void)state;
    char *text = text_of(TEXT), *gz = malloc(2 * ROOM), *read;
    size_t n = compressed(text, 1000, gz, ROOM), size;
    struct err err;
    assert_non_null(gz);
    put("a.txt", text, TEXT);
    assert_int_equal(gzip_read("a.txt", TEXT, &read, &size, &err), OK);
    assert_true(size == TEXT && memcmp(read, text, TEXT + 1) == 0); /* not compressed: as it is */
    free(read);
    n += compressed(text + 1000, TEXT - 1000, gz + n, ROOM); /* a second member, as `cat a.gz b.gz` makes */
    put("a.gz", gz, n);
    assert_int_equal(gzip_read("a.gz", TEXT, &read, &size, &err), OK);
    assert_true(size == TEXT && memcmp(read, text, TEXT + 1) == 0);
    free(read);
    put("empty.gz", gz, compressed("", 0, gz, ROOM));
    assert_int_equal(gzip_read("empty.gz", TEXT, &read, &size, &err), OK);
    assert_true(size == 0 && read[0] == 0);
    free(read);
    free(gz);
    free(text);
}

static void assert_says(const char *path, size_t limit, const char *sentence)
{
    char *read;
    size_t size;
    struct err err;
    assert_refused(gzip_read(path, limit, &read, &size, &err), ERR_INPUT, &err, "", sentence);
}

static void what_is_not_whole(void **state)
{
    (void)state;
    char *text = text_of(TEXT), *gz = malloc(ROOM), sentence[128];
    assert_non_null(gz);
    size_t n = compressed(text, TEXT, gz, ROOM);
    const size_t cuts[] = {2, 10, 11, 5000, n - 8, n - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        put("cut.gz", gz, cuts[i]);
        snprintf(sentence, sizeof sentence, "cut.gz: the gzip file is cut short after %zu bytes", cuts[i]);
        assert_says("cut.gz", TEXT, sentence);
    }
    gz[n - 6] ^= 1; /* of the checksum */
    put("sum.gz", gz, n);
    snprintf(sentence, sizeof sentence, "sum.gz: the gzip file is damaged at byte %zu: incorrect data check", n - 4);
    assert_says("sum.gz", TEXT, sentence);
    gz[n - 6] ^= 1;
    memcpy(gz + n, "tail", 4);
    put("tail.gz", gz, n + 4);
    snprintf(sentence, sizeof sentence, "tail.gz: the gzip file is damaged at byte %zu: incorrect header check", n + 2);
    assert_says("tail.gz", TEXT, sentence);
    put("a.gz", gz, n);
    assert_says("a.gz", TEXT - 1, "a.gz: more than 299999 bytes once decompressed");
    assert_says("nowhere.gz", TEXT, "nowhere.gz: No such file or directory");
    free(gz);
    free(text);
}

/* A thousand zeros in one byte: the limit ends it, not the machine's memory. */
static void a_bomb(void **state)
{
    (void)state;
    size_t n = (size_t)1 << 24;
    char *zeros = calloc(n, 1), *gz = malloc(1 << 20);
    assert_true(zeros && gz);
    put("bomb.gz", gz, compressed(zeros, n, gz, 1 << 20));
    assert_says("bomb.gz", 1 << 20, "bomb.gz: more than 1048576 bytes once decompressed");
    free(zeros);
    free(gz);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_files), cmocka_unit_test(what_is_not_whole), cmocka_unit_test(a_bomb)};
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
