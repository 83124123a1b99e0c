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
    if (n < TAIL + 1 || line[0] != '{' || line[n - 1] != '}')
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

/* Everything up to the last whole line; what stands behind it was being written when the power went and is cut off. */
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
    if (status == OK && at < size && (ftruncate(journal->fd, (off_t)at) != 0 || fsync(journal->fd) != 0))
        status = err_set(err, ERR_FAILED, "%s: its torn last line cannot be cut off: %s", journal->path, strerror(errno));
    return status;
}

enum status journal_open(struct journal *journal, const char *path, struct err *err)
{
    memset(journal, 0, sizeof *journal);
    journal->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (journal->fd < 0)
        return err_set(err, ERR_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    journal->path = strdup(path);
    enum status status = journal->path ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK && flock(journal->fd, LOCK_EX | LOCK_NB) != 0)
        status = err_set(err, ERR_BUSY, "%s: in use by another process", path);
    if (status == OK)
        status = load(journal, err);
    if (status != OK)
        journal_close(journal);
    return status;
}

enum status journal_append(struct journal *journal, const char *object, struct err *err)
{
    size_t n = strlen(object);
    char *line = malloc(n + TAIL + 1);
    if (!line)
        return err_set(err, ERR_MEMORY, "%s: out of memory for a record", journal->path);
    memcpy(line, object, n - 1);
    int tail = snprintf(line + n - 1, TAIL + 2, ",\"crc32c\":\"%08x\"}\n", crc32c(0, object, n));
    size_t size = n - 1 + (size_t)tail;
    enum status status = OK;
    /* one write: a line is there whole, or torn at the end of the file where the next opening cuts it */
    ssize_t put;
    do
        put = write(journal->fd, line, size);
    while (put < 0 && errno == EINTR);
    if (put != (ssize_t)size || fsync(journal->fd) != 0)
        status = err_set(err, ERR_FAILED, "%s: cannot be written: %s", journal->path, put >= 0 && put != (ssize_t)size ? "no space left" : strerror(errno));
    free(line);
    return status == OK ? keep(journal, object, n, err) : status;
}

void journal_close(struct journal *journal)
{
    for (size_t i = 0; i < journal->n; i++)
        free(journal->record[i]);
    free(journal->record);
    free(journal->path);
    if (journal->fd >= 0)
        close(journal->fd);
    memset(journal, 0, sizeof *journal);
    journal->fd = -1;
}
