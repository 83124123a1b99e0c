/* journal.c: append-only JSON lines with a lock and a checksum each. */
#include "base/journal.h"

#include <errno.h>
#include <stdbool.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"

/* A line is the caller's {...} with its last brace replaced by ,"crc32c":"xxxxxxxx"} (TAIL bytes). */
enum { TAIL = 21, LIMIT = 1 << 30 };

static enum status keep(struct journal *journal, const char *object, size_t n, struct err *err)
{
    if (journal->n == journal->cap) {
        size_t cap = journal->cap ? 2 * journal->cap : 64;
        char **grown = realloc(journal->record, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_MEMORY, "%s: out of memory for its records", journal->path);
        journal->record = grown;
        journal->cap = cap;
    }
    char *copy = strndup(object, n);
    if (!copy)
        return err_set(err, ERR_MEMORY, "%s: out of memory for its records", journal->path);
    journal->record[journal->n++] = copy;
    return OK;
}

/* Takes the checksum off a line in place: true when it fits, and then the line is the caller's object again. */
static bool check_line(char *line, size_t n)
{
    if (n < TAIL + 1 || line[0] != '{' || line[n - TAIL] != ',')
        return false;
    char tail[TAIL + 1];
    line[n - TAIL] = '}';
    uint32_t crc = crc32c(0, line, n - TAIL + 1);
    line[n - TAIL] = ',';
    snprintf(tail, sizeof tail, ",\"crc32c\":\"%08x\"}", crc);
    if (memcmp(line + n - TAIL, tail, TAIL) != 0)
        return false;
    line[n - TAIL] = '}';
    line[n - TAIL + 1] = 0;
    return true;
}

/* Everything up to the last whole line; what stands behind it was being written when the power went and is cut off, where the file is ours. */
static enum status load(struct journal *journal, struct err *err)
{
    char *data = NULL;
    size_t size, at = 0;
    TRY(file_read(journal->path, LIMIT, &data, &size, err));
    enum status status = OK;
    for (int number = 1; status == OK && at < size; number++) {
        char *line = data + at, *end = memchr(line, '\n', size - at);
        size_t n = end ? (size_t)(end - line) : size - at;
        bool good = end && check_line(line, n);
        if (!good && (!end || at + n + 1 == size))
            break;
        if (!good)
            status = err_set(err, ERR_INPUT, "%s:%d: the line's checksum does not fit its text, the journal is damaged",
                             journal->path, number);
        else
            status = keep(journal, line, n - TAIL + 1, err);
        at += n + 1;
    }
    free(data);
    if (status == OK && at < size && journal->fd >= 0 && (ftruncate(journal->fd, (off_t)at) != 0 || fsync(journal->fd) != 0))
        status = err_set(err, ERR_FAILED, "%s: its torn last line cannot be cut off: %s", journal->path, strerror(errno));
    return status;
}

enum status journal_open(struct journal *journal, const char *path, struct err *err)
{
    memset(journal, 0, sizeof *journal);
    journal->fd = -1;
    journal->path = strdup(path);
    if (!journal->path)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    bool is_new = access(path, F_OK) != 0;
    journal->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    enum status status = OK;
    if (journal->fd < 0)
        status = err_set(err, ERR_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    else if (flock(journal->fd, LOCK_EX | LOCK_NB) != 0)
        status = errno == EWOULDBLOCK ? err_set(err, ERR_BUSY, "%s: in use by another process", path)
                                      : err_set(err, ERR_FAILED, "%s: cannot be locked: %s", path, strerror(errno));
    if (status == OK && is_new)
        status = dir_sync_parent(path, err);
    if (status == OK)
        status = load(journal, err);
    if (status != OK)
        journal_close(journal);
    return status;
}

enum status journal_read(struct journal *journal, const char *path, struct err *err)
{
    *journal = (struct journal){.fd = -1, .path = strdup(path)};
    return journal->path ? load(journal, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
}

/* Writes all of a line or takes back what was written of it, so that a full disk leaves no torn line in the middle. */
static enum status append_line(const struct journal *journal, const char *line, size_t n, struct err *err)
{
    off_t before = lseek(journal->fd, 0, SEEK_END);
    size_t done = 0;
    while (before >= 0 && done < n) {
        ssize_t put = write(journal->fd, line + done, n - done);
        if (put < 0 && errno != EINTR)
            break;
        done += put > 0 ? (size_t)put : 0;
    }
    if (done == n && fsync(journal->fd) == 0)
        return OK;
    int reason = errno;
    bool back = before >= 0 && ftruncate(journal->fd, before) == 0;
    return err_set(err, ERR_FAILED, "%s: a record cannot be written%s: %s", journal->path, back ? "" : " or taken back",
                   strerror(reason));
}

enum status journal_append(struct journal *journal, const char *object, struct err *err)
{
    size_t n = strlen(object);
    char *line = malloc(n + TAIL + 1);
    if (!line)
        return err_set(err, ERR_MEMORY, "%s: out of memory for a record", journal->path);
    memcpy(line, object, n - 1);
    int tail = snprintf(line + n - 1, TAIL + 2, ",\"crc32c\":\"%08x\"}\n", crc32c(0, object, n));
    enum status status = append_line(journal, line, n - 1 + (size_t)tail, err);
    free(line);
    return status == OK ? keep(journal, object, n, err) : status;
}

void journal_close(struct journal *journal)
{
    for (size_t i = 0; i < journal->n; i++)
        free(journal->record[i]);
    free(journal->record);
    if (journal->path && journal->fd >= 0) /* a zeroed journal holds nothing, not descriptor 0 */
        close(journal->fd);
    free(journal->path);
    memset(journal, 0, sizeof *journal);
    journal->fd = -1;
}
