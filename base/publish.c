/* publish.c: a file appears whole or not at all: temp file, write, fsync, rename, fsync of the directory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

enum { BUFFER = 1 << 18 };

enum status publish_open(struct publish *publish, const char *path, struct err *err)
{
    memset(publish, 0, sizeof *publish);
    publish->fd = -1;
    size_t n = strlen(path);
    publish->path = strdup(path);
    publish->temp = malloc(n + sizeof ".tmp-veneer");
    publish->buffer = malloc(BUFFER);
    if (!publish->path || !publish->temp || !publish->buffer) {
        publish_abandon(publish);
        return err_set(err, ERR_MEMORY, "%s: out of memory for writing", path);
    }
    memcpy(publish->temp, path, n);
    memcpy(publish->temp + n, ".tmp-veneer", sizeof ".tmp-veneer");
    unlink(publish->temp); /* one that a killed run left */
    publish->fd = open(publish->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (publish->fd >= 0)
        return OK;
    int reason = errno;
    publish_abandon(publish);
    return err_set(err, ERR_FAILED, "%s: cannot be written: %s", path, strerror(reason));
}

/* A write may be short or interrupted. */
static enum status write_all(const struct publish *publish, const unsigned char *bytes, size_t n, struct err *err)
{
    while (n > 0) {
        ssize_t put = write(publish->fd, bytes, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_set(err, ERR_FAILED, "%s: cannot be written: %s", publish->path, strerror(errno));
        bytes += put;
        n -= (size_t)put;
    }
    return OK;
}

static enum status flush(struct publish *publish, struct err *err)
{
    size_t n = publish->buffered;
    publish->buffered = 0;
    return write_all(publish, publish->buffer, n, err);
}

enum status publish_write(struct publish *publish, const void *bytes, size_t n, struct err *err)
{
    if (n > BUFFER - publish->buffered)
        TRY(flush(publish, err));
    if (n > BUFFER)
        return write_all(publish, bytes, n, err);
    if (n)
        memcpy(publish->buffer + publish->buffered, bytes, n);
    publish->buffered += n;
    return OK;
}

enum status dir_sync_parent(const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!folder)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum status status = OK;
    if (fd < 0 || fsync(fd) != 0)
        status = err_set(err, ERR_FAILED, "%s: cannot be synced: %s", folder, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(folder);
    return status;
}

/* fsync is never tried twice: after a failure the kernel may have dropped the pages and would report success. */
enum status publish_commit(struct publish *publish, struct err *err)
{
    enum status status = flush(publish, err);
    if (status == OK && fsync(publish->fd) != 0)
        status = err_set(err, ERR_FAILED, "%s: cannot be synced: %s", publish->path, strerror(errno));
    int fd = publish->fd;
    publish->fd = -1;
    if (close(fd) != 0 && status == OK)
        status = err_set(err, ERR_FAILED, "%s: cannot be closed: %s", publish->path, strerror(errno));
    if (status == OK && rename(publish->temp, publish->path) != 0)
        status = err_set(err, ERR_FAILED, "%s: cannot be put in place: %s", publish->path, strerror(errno));
    if (status == OK) {
        free(publish->temp);
        publish->temp = NULL;
        status = dir_sync_parent(publish->path, err);
    }
    publish_abandon(publish);
    return status;
}

void publish_abandon(struct publish *publish)
{
    if (publish->fd >= 0 && publish->path)
        close(publish->fd);
    if (publish->temp)
        unlink(publish->temp);
    free(publish->path);
    free(publish->temp);
    free(publish->buffer);
    memset(publish, 0, sizeof *publish);
    publish->fd = -1;
}

enum status file_write(const char *path, const void *bytes, size_t n, struct err *err)
{
    struct publish publish;
    TRY(publish_open(&publish, path, err));
    enum status status = publish_write(&publish, bytes, n, err);
    if (status != OK) {
        publish_abandon(&publish);
        return status;
    }
    return publish_commit(&publish, err);
}
