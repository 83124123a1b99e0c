/* file_test.c: files, folders and the journal.  What a user would lose if they broke: a torn file, a lost or forged record. */
#include "refused.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/journal.h"
#include "base/rng.h"
#include "base/stop.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(file_pread_checks_its_range),       IN_FOLDER(file_open_wants_a_regular_file),
        IN_FOLDER(publish_is_whole_or_not_there),     IN_FOLDER(publish_passes_every_byte),
        IN_FOLDER(read_only_folder_is_said),          IN_FOLDER(full_disk_leaves_the_old_state),
        IN_FOLDER(folders_are_made_swept_removed),    IN_FOLDER(folder_lock_names_its_holder),
        IN_FOLDER(journal_survives_every_torn_tail),  IN_FOLDER(journal_names_a_damaged_line),
        IN_FOLDER(journal_is_read_beside_its_writer), IN_FOLDER(journal_has_one_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
