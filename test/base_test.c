/* base_test.c: the ground floor.  What a user would lose if it broke: a torn file, a lost or forged record, another order of the data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/journal.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/stop.h"
#include "base/text.h"

/* ---- a folder for each test ---- */

static int make_folder(void **state)
{
    char name[] = "/tmp/veneer-base-XXXXXX";
    if (!mkdtemp(name))
        return -1;
    *state = strdup(name);
    return *state ? 0 : -1;
}

static int drop_folder(void **state)
{
    dir_remove(*state);
    free(*state);
    return 0;
}

static char *in_folder(void **state, const char *name)
{
    char *path = path_join(*state, name);
    assert_non_null(path);
    return path;
}

static void put_raw(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void assert_content(const char *path, const char *want)
{
    char *data = NULL;
    size_t size;
    struct err err;
    assert_int_equal(file_read(path, 1 << 20, &data, &size, &err), OK);
    assert_int_equal(size, strlen(want));
    assert_string_equal(data, want);
    free(data);
}

static bool there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- err ---- */

static void err_escapes_control_bytes(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(err_set(&err, ERR_INPUT, "%s: bad", "a\x1b[31mb\nc\x7f"), ERR_INPUT);
    assert_string_equal(err.text, "a\\x1b[31mb\\x0ac\\x7f: bad");
    assert_int_equal(err_prefix(&err, ERR_FAILED, "line %d", 7), ERR_FAILED);
    assert_string_equal(err.text, "line 7: a\\x1b[31mb\\x0ac\\x7f: bad");
    assert_int_equal(err_set(NULL, ERR_BUSY, "nobody listens"), ERR_BUSY);
    char long_name[4000];
    memset(long_name, '\n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    err_set(&err, ERR_INPUT, "%s", long_name);
    assert_in_range(strlen(err.text), 1000, sizeof err.text - 1);
}

/* ---- sizes and the arena ---- */

static void sizes_refuse_overflow(void **state)
{
    (void)state;
    uint64_t out = 42;
    assert_false(size_mul(1ull << 32, 1ull << 32, &out));
    assert_false(size_add(UINT64_MAX, 1, &out));
    assert_false(size_align(UINT64_MAX - 3, 64, &out));
    assert_false(size_align(10, 48, &out));
    assert_int_equal(out, 42);
    assert_true(size_align(65, 64, &out));
    assert_int_equal(out, 128);
}

static void place(struct arena *arena, unsigned char **a, double **b)
{
    *a = arena_take(arena, 3, 1);
    *b = arena_take(arena, 100, sizeof **b);
}

static void arena_counts_what_it_carves(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct err err;
    unsigned char *a;
    double *b;
    place(&arena, &a, &b);
    assert_null(a);
    size_t counted = arena.used;
    assert_int_equal(counted, 64 + 832); /* 3 -> 64, 800 -> 832: multiples of 64 */
    assert_int_equal(arena_commit(&arena, "test", &err), OK);
    place(&arena, &a, &b);
    assert_int_equal(arena.used, counted);
    assert_false(arena.overflow);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal((uintptr_t)b % 64, 0);
    for (int i = 0; i < 100; i++)
        assert_true(b[i] == 0);
    assert_null(arena_take(&arena, 1, 1)); /* more than was counted */
    assert_true(arena.overflow);
    arena_free(&arena);
    assert_null(arena.base);
}

static void arena_refuses_what_does_not_fit(void **state)
{
    (void)state;
    struct arena arena = {0};
    struct err err;
    arena_take(&arena, SIZE_MAX / 2, 4);
    assert_int_equal(arena_commit(&arena, "weights", &err), ERR_MEMORY);
    assert_non_null(strstr(err.text, "weights"));
    struct arena large = {0};
    arena_take(&large, SIZE_MAX / 4, 1); /* fits size_t, not the address space */
    assert_int_equal(arena_commit(&large, "activations", &err), ERR_MEMORY);
    assert_non_null(strstr(err.text, "activations"));
}

/* ---- random numbers ---- */

static void philox_known_answers(void **state)
{
    (void)state;
    /* Random123, kat_vectors, philox4x32 with 10 rounds */
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        philox4x32(kat[i], kat[i] + 4, out);
        assert_memory_equal(out, kat[i] + 6, sizeof out);
    }
    uint32_t counter[4] = {5, 1, 9, RNG_INIT}, key[2] = {0xdeadbeef, 7}, out[4];
    philox4x32(counter, key, out); /* the mapping that the header draws */
    for (uint64_t lane = 0; lane < 4; lane++)
        assert_int_equal(rng_at(0x7deadbeefull, RNG_INIT, 9, ((1ull << 32 | 5) * 4) + lane), out[lane]);
}

static void rng_is_a_function_of_its_place(void **state)
{
    (void)state;
    struct rng a = {.seed = 3, .stream = RNG_SAMPLE, .step = 2}, b = a;
    for (int i = 0; i < 10; i++)
        rng_next(&a);
    b.index = 10;
    assert_int_equal(rng_next(&a), rng_next(&b));
    struct rng c = {.seed = 1, .stream = RNG_INIT};
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&c);
        sum += x;
        squares += x * x;
    }
    assert_int_equal(c.index, 2 * N);
    /* standard errors: 1/sqrt(N) = 0.0071 of the mean, sqrt(2/N) = 0.01 of the variance; five of each */
    assert_true(fabs(sum / N) <= 0.036);
    assert_true(fabs(squares / N - 1) <= 0.05);
}

static void rng_below_has_no_bias(void **state)
{
    (void)state;
    struct rng rng = {.seed = 11, .stream = RNG_SEARCH};
    const uint32_t n = 3u << 30; /* x % n without rejection would give the lower third twice as often */
    int low = 0;
    enum { N = 6000 };
    for (int i = 0; i < N; i++) {
        uint32_t x = rng_below(&rng, n);
        assert_true(x < n);
        low += x < (1u << 30);
    }
    /* a third of N with a standard deviation of sqrt(N 2/9) = 36.5; five of them.  The biased one would be at 3000 */
    assert_in_range(low, 2000 - 183, 2000 + 183);
}

static void shuffle_is_a_permutation_by_epoch(void **state)
{
    (void)state;
    uint32_t a[257], b[257], seen[257] = {0};
    for (uint32_t i = 0; i < 257; i++)
        a[i] = b[i] = i;
    struct rng first = {.seed = 5, .stream = RNG_DATA_ORDER, .step = 0}, second = {.seed = 5, .stream = RNG_DATA_ORDER, .step = 1};
    rng_shuffle(&first, a, 257);
    rng_shuffle(&second, b, 257);
    for (int i = 0; i < 257; i++)
        seen[a[i]]++;
    for (int i = 0; i < 257; i++)
        assert_int_equal(seen[i], 1);
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- text ---- */

static void text_escapes(void **state)
{
    (void)state;
    struct text text = {0};
    text_json_string(&text, "a\"b\\\n\t\x01\xc3\xa9", 9);
    assert_string_equal(text.s, "\"a\\\"b\\\\\\n\\t\\u0001\xc3\xa9\"");
    text_clear(&text);
    text_html(&text, "<a href=\"x\">&");
    assert_string_equal(text.s, "&lt;a href=&quot;x&quot;&gt;&amp;");
    text_clear(&text);
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%d,", i);
    assert_int_equal(text.n, strlen(text.s));
    assert_int_equal(text.n, 10 * 2 + 90 * 3 + 900 * 4);
    assert_false(text.failed);
    text_free(&text);
}

/* ---- reading ---- */

static void file_pread_checks_its_range(void **state)
{
    char *path = in_folder(state, "ten"), bytes[16];
    put_raw(path, "0123456789");
    struct file file;
    struct err err;
    assert_int_equal(file_open(&file, path, &err), OK);
    assert_int_equal(file.size, 10);
    assert_int_equal(file_pread(&file, 7, bytes, 3, &err), OK);
    assert_memory_equal(bytes, "789", 3);
    assert_int_equal(file_pread(&file, 10, bytes, 0, &err), OK);
    assert_int_equal(file_pread(&file, 8, bytes, 3, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "ten: 3 bytes at byte 8 are wanted, the file has 10"));
    assert_int_equal(file_pread(&file, UINT64_MAX - 1, bytes, 4, &err), ERR_INPUT); /* offset + n wraps */
    assert_int_equal(truncate(path, 4), 0);
    assert_int_equal(file_pread(&file, 2, bytes, 8, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "ends at byte 4"));
    file_close(&file);
    file_close(&file);
    free(path);
}

static void file_open_wants_a_regular_file(void **state)
{
    struct file file;
    struct err err;
    char *fifo = in_folder(state, "fifo"), *none = in_folder(state, "none"), *data;
    size_t size;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(file_open(&file, fifo, &err), ERR_INPUT); /* and does not hang */
    assert_int_equal(file_open(&file, *state, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "is a folder"));
    assert_int_equal(file_open(&file, none, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "No such file"));
    put_raw(none, "12345");
    assert_int_equal(file_read(none, 4, &data, &size, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "5 bytes, want at most 4"));
    free(fifo);
    free(none);
}

/* ---- publishing ---- */

static void publish_is_whole_or_not_there(void **state)
{
    char *path = in_folder(state, "out.bin"), *temp = in_folder(state, "out.bin.tmp-veneer");
    struct publish publish;
    struct err err;
    put_raw(path, "old");
    assert_int_equal(publish_open(&publish, path, &err), OK);
    assert_int_equal(publish_write(&publish, "new ", 4, &err), OK);
    assert_content(path, "old");
    assert_true(there(temp));
    assert_int_equal(publish_write(&publish, "text", 4, &err), OK);
    assert_int_equal(publish_commit(&publish, &err), OK);
    assert_content(path, "new text");
    assert_false(there(temp));
    publish_abandon(&publish);

    assert_int_equal(publish_open(&publish, path, &err), OK);
    assert_int_equal(publish_write(&publish, "half", 4, &err), OK);
    publish_abandon(&publish);
    publish_abandon(&publish);
    assert_content(path, "new text");
    assert_false(there(temp));
    free(path);
    free(temp);
}

static void publish_passes_every_byte(void **state)
{
    enum { N = 3 << 18 };
    char *path = in_folder(state, "large"), *data, *back;
    size_t size;
    struct publish publish;
    struct err err;
    assert_non_null(data = malloc(N));
    for (uint32_t i = 0; i < N; i++)
        data[i] = (char)rng_at(1, 1, 1, i);
    assert_int_equal(publish_open(&publish, path, &err), OK);
    /* pieces below, at and above the buffer's 2^18 bytes */
    size_t piece[] = {1, 7, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 0}, at = 0;
    for (int i = 0; i < 6; i++) {
        size_t n = piece[i] && at + piece[i] < N ? piece[i] : i == 5 ? N - at : 0;
        assert_int_equal(publish_write(&publish, data + at, n, &err), OK);
        at += n;
    }
    assert_int_equal(publish_write(&publish, data + at, N - at, &err), OK);
    assert_int_equal(publish_commit(&publish, &err), OK);
    assert_int_equal(file_read(path, N, &back, &size, &err), OK);
    assert_int_equal(size, N);
    assert_memory_equal(back, data, N);
    free(back);
    free(data);
    free(path);
}

/* Runs in a child as nobody, since root may write anywhere: exit status 0 when the sentence is right. */
static int refused_in_child(const char *path)
{
    struct publish publish;
    struct err err;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
        return 2;
    if (publish_open(&publish, path, &err) != ERR_FAILED)
        return 3;
    return strstr(err.text, path) && strstr(err.text, "Permission denied") ? 0 : 4;
}

static void read_only_folder_is_said(void **state)
{
    char *folder = in_folder(state, "ro"), *path = in_folder(state, "ro/out.bin");
    struct err err;
    assert_int_equal(chmod(*state, 0755), 0);
    assert_int_equal(dir_make(folder, &err), OK);
    assert_int_equal(chmod(folder, 0555), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(refused_in_child(path));
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    free(folder);
    free(path);
}

/* A file system that is full, played by a limit on file size; the old file stays and the temp file goes. */
static int full_in_child(const char *path, const char *journal_path)
{
    struct rlimit limit = {4096, 4096};
    static char bytes[10000];
    struct err err;
    struct journal journal;
    stop_install(); /* ignores SIGXFSZ */
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0 || file_write(path, bytes, sizeof bytes, &err) != ERR_FAILED)
        return 2;
    if (journal_open(&journal, journal_path, &err) != OK)
        return 3;
    memset(bytes, 'x', sizeof bytes - 1);
    memcpy(bytes, "{\"a\":\"", 6);
    memcpy(bytes + sizeof bytes - 3, "\"}", 3);
    if (journal_append(&journal, "{\"a\":1}", &err) != OK || journal_append(&journal, bytes, &err) != ERR_FAILED)
        return 4;
    return journal_append(&journal, "{\"a\":2}", &err) == OK ? 0 : 5; /* space came back: the file has no torn line inside */
}

static void full_disk_leaves_the_old_state(void **state)
{
    char *path = in_folder(state, "out.bin"), *temp = in_folder(state, "out.bin.tmp-veneer"), *lines = in_folder(state, "j.jsonl");
    struct journal journal;
    struct err err;
    put_raw(path, "old");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(full_in_child(path, lines));
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    assert_content(path, "old");
    assert_false(there(temp));
    assert_int_equal(journal_open(&journal, lines, &err), OK);
    assert_int_equal(journal.n, 2);
    assert_string_equal(journal.record[1], "{\"a\":2}");
    journal_close(&journal);
    free(path);
    free(temp);
    free(lines);
}

/* ---- directories ---- */

static void folders_are_made_swept_removed(void **state)
{
    char *deep = in_folder(state, "a/b/c"), *temp = in_folder(state, "a/x.tmp-veneer"), *kept = in_folder(state, "a/x"),
         *top = in_folder(state, "a"), *below = in_folder(state, "a/x/y");
    struct err err;
    assert_int_equal(dir_make(deep, &err), OK);
    assert_int_equal(dir_make(deep, &err), OK);
    put_raw(temp, "torn");
    put_raw(kept, "good");
    assert_int_equal(dir_sweep(top, &err), OK);
    assert_false(there(temp));
    assert_true(there(kept));
    assert_int_equal(dir_make(below, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "a file is there"));
    assert_true(path_same(top, deep) == 0 && path_same(top, top) == 1);
    dir_remove(top);
    assert_false(there(top));
    dir_remove(top);
    free(deep), free(temp), free(kept), free(top), free(below);
}

static void folder_lock_names_its_holder(void **state)
{
    int fd = -1, second = -1;
    struct err err;
    char pid[32];
    assert_int_equal(dir_lock(*state, &fd, &err), OK);
    assert_int_equal(dir_lock(*state, &second, &err), ERR_BUSY);
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(err.text, pid));
    close(fd);
    assert_int_equal(dir_lock(*state, &second, &err), OK);
    close(second);
}

/* ---- journal ---- */

static void write_three(const char *path)
{
    struct journal journal;
    struct err err;
    assert_int_equal(journal_open(&journal, path, &err), OK);
    assert_int_equal(journal_append(&journal, "{\"n\":1}", &err), OK);
    assert_int_equal(journal_append(&journal, "{\"n\":2,\"s\":\"}\"}", &err), OK);
    assert_int_equal(journal_append(&journal, "{\"n\":3}", &err), OK);
    assert_int_equal(journal.n, 3);
    journal_close(&journal);
    journal_close(&journal);
}

static void journal_survives_every_torn_tail(void **state)
{
    char *path = in_folder(state, "j.jsonl"), *whole, *cut = in_folder(state, "cut.jsonl");
    size_t size;
    struct err err;
    write_three(path);
    assert_int_equal(file_read(path, 4096, &whole, &size, &err), OK);
    char *second = strchr(whole, '\n') + 1, *third = strchr(second, '\n') + 1;
    for (size_t n = (size_t)(third - whole); n <= size; n++) {
        struct journal journal;
        assert_int_equal(file_write(cut, whole, n, &err), OK);
        assert_int_equal(journal_open(&journal, cut, &err), OK);
        assert_int_equal(journal.n, n == size ? 3 : 2);
        assert_string_equal(journal.record[1], "{\"n\":2,\"s\":\"}\"}");
        assert_int_equal(journal_append(&journal, "{\"n\":4}", &err), OK); /* on a line of its own */
        journal_close(&journal);
        assert_int_equal(journal_open(&journal, cut, &err), OK);
        assert_int_equal(journal.n, n == size ? 4 : 3);
        assert_string_equal(journal.record[journal.n - 1], "{\"n\":4}");
        journal_close(&journal);
    }
    free(whole);
    free(path);
    free(cut);
}

static void journal_names_a_damaged_line(void **state)
{
    char *path = in_folder(state, "j.jsonl"), *data;
    size_t size;
    struct err err;
    struct journal journal;
    write_three(path);
    assert_int_equal(file_read(path, 4096, &data, &size, &err), OK);
    for (char *at = strchr(data, '\n') + 1; *at != '\n'; at++) { /* any byte of the second line */
        char was = *at;
        *at = (char)(was ^ 1);
        if (*at == '\n' || *at == 0) {
            *at = was;
            continue;
        }
        assert_int_equal(file_write(path, data, size, &err), OK);
        assert_int_equal(journal_open(&journal, path, &err), ERR_INPUT);
        assert_non_null(strstr(err.text, "j.jsonl:2: "));
        *at = was;
    }
    free(data);
    free(path);
}

/* A reader beside the writer sees the whole lines, and leaves a torn one where it is. */
static void journal_is_read_beside_its_writer(void **state)
{
    char *path = in_folder(state, "j.jsonl");
    struct journal writer, reader;
    struct err err;
    write_three(path);
    assert_int_equal(journal_open(&writer, path, &err), OK);
    assert_int_equal(journal_append(&writer, "{\"n\":4}", &err), OK);
    assert_int_equal(write(writer.fd, "{\"n\":", 5), 5); /* a fifth is under way */
    assert_int_equal(journal_read(&reader, path, &err), OK);
    assert_int_equal(reader.n, 4);
    assert_string_equal(reader.record[3], "{\"n\":4}");
    journal_close(&reader);
    assert_int_equal(write(writer.fd, "5}", 2), 2);
    journal_close(&writer);
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 4096, &data, &size, &err), OK);
    assert_non_null(strstr(data, "{\"n\":5}"));
    free(data);
    free(path);
}

static void journal_has_one_writer(void **state)
{
    char *path = in_folder(state, "j.jsonl");
    struct journal first, second, zeroed = {0};
    struct err err;
    assert_int_equal(journal_open(&first, path, &err), OK);
    assert_int_equal(journal_open(&second, path, &err), ERR_BUSY);
    journal_close(&first);
    assert_int_equal(journal_open(&second, path, &err), OK);
    journal_close(&second);
    journal_close(&zeroed);
    assert_true(fcntl(0, F_GETFD) >= 0 || errno == EBADF);
    free(path);
}

/* ---- checksums ---- */

static void checksums_known_answers(void **state)
{
    (void)state;
    unsigned char zeros[32] = {0}, ones[32];
    memset(ones, 255, sizeof ones);
    /* RFC 3720, B.4, and the check value of the catalogue */
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    /* FIPS 180-4 examples: one block, two blocks, a million 'a' in odd pieces */
    struct sha256 s;
    char hex[65];
    sha256_init(&s);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_init(&s);
    sha256_add(&s, "abc", 3);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_init(&s);
    sha256_add(&s, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    sha256_hex(&s, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char piece[1000];
    memset(piece, 'a', sizeof piece);
    sha256_init(&s);
    for (size_t left = 1000000, n = 1; left > 0; left -= n) {
        n = (n * 7 + 3) % 999 + 1;
        n = n < left ? n : left;
        sha256_add(&s, piece, n);
    }
    sha256_hex(&s, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- signals, memory ---- */

static void a_signal_is_a_flag(void **state)
{
    (void)state;
    struct err err;
    stop_install();
    stop_reset();
    assert_int_equal(stop_check(&err), OK);
    assert_int_equal(raise(SIGTERM), 0);
    assert_true(stop_requested());
    assert_int_equal(stop_check(&err), ERR_STOPPED);
    stop_reset();
    assert_false(stop_requested());
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        stop_install();
        raise(SIGTERM);
        raise(SIGTERM); /* the second ends the process */
        _exit(0);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGTERM);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
}

/* Two threads on one core wait for each other at every barrier: what a container or taskset leaves to the process is what counts. */
static void cores_are_those_that_the_process_may_use(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(machine_cores(), CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(machine_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void peak_memory_sees_what_was_touched(void **state)
{
    (void)state;
    enum { N = 64 << 20 };
    struct arena arena = {0};
    struct err err;
    double before = process_now_bytes();
    arena_take(&arena, N, 1);
    assert_int_equal(arena_commit(&arena, "test", &err), OK);
    memset(arena.base, 1, N);
    assert_true(process_peak_bytes() - before >= 0.95 * N);
    assert_true(process_now_bytes() <= process_peak_bytes() + 1048576); /* the kernel batches its counters */
    arena_free(&arena);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_escapes_control_bytes),
        cmocka_unit_test(sizes_refuse_overflow),
        cmocka_unit_test(arena_counts_what_it_carves),
        cmocka_unit_test(arena_refuses_what_does_not_fit),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(rng_is_a_function_of_its_place),
        cmocka_unit_test(rng_below_has_no_bias),
        cmocka_unit_test(shuffle_is_a_permutation_by_epoch),
        cmocka_unit_test(text_escapes),
        IN_FOLDER(file_pread_checks_its_range),
        IN_FOLDER(file_open_wants_a_regular_file),
        IN_FOLDER(publish_is_whole_or_not_there),
        IN_FOLDER(publish_passes_every_byte),
        IN_FOLDER(read_only_folder_is_said),
        IN_FOLDER(full_disk_leaves_the_old_state),
        IN_FOLDER(folders_are_made_swept_removed),
        IN_FOLDER(folder_lock_names_its_holder),
        IN_FOLDER(journal_survives_every_torn_tail),
        IN_FOLDER(journal_names_a_damaged_line),
        IN_FOLDER(journal_is_read_beside_its_writer),
        IN_FOLDER(journal_has_one_writer),
        cmocka_unit_test(checksums_known_answers),
        cmocka_unit_test(a_signal_is_a_flag),
        cmocka_unit_test(cores_are_those_that_the_process_may_use),
        cmocka_unit_test(peak_memory_sees_what_was_touched),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
