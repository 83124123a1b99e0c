/* file.c: reading with every range checked, directories and their locks. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ---- */

enum status file_open(struct file *file, const char *path, struct err *err)
{
    memset(file, 0, sizeof *file);
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a FIFO must not hang the open */
    if (file->fd < 0)
        return err_set(err, ERR_INPUT, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(file->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(file->fd);
        file->fd = -1;
        return err_set(err, ERR_INPUT, "%s: %s, want a regular file", path,
                       S_ISDIR(st.st_mode) ? "is a folder" : "is a device, pipe or socket");
    }
    file->size = (uint64_t)st.st_size;
    file->path = strdup(path);
    if (!file->path) {
        close(file->fd);
        memset(file, 0, sizeof *file);
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    }
    return OK;
}

enum status file_pread(const struct file *file, uint64_t offset, void *dst, size_t n, struct err *err)
{
    if (offset > file->size || n > file->size - offset)
        return err_set(err, ERR_INPUT, "%s: %zu bytes at byte %llu are wanted, the file has %llu", file->path, n,
                       (unsigned long long)offset, (unsigned long long)file->size);
    unsigned char *to = dst;
    while (n > 0) {
        size_t part = n < (size_t)1 << 30 ? n : (size_t)1 << 30;
        ssize_t got = pread(file->fd, to, part, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, ERR_FAILED, "%s: at byte %llu: %s", file->path, (unsigned long long)offset, strerror(errno));
        if (got == 0)
            return err_set(err, ERR_INPUT, "%s: ends at byte %llu, it was %llu bytes long when it was opened", file->path,
                           (unsigned long long)offset, (unsigned long long)file->size);
        to += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return OK;
}

void file_close(struct file *file)
{
    if (file->path && file->fd >= 0)
        close(file->fd);
    free(file->path);
    memset(file, 0, sizeof *file);
}

enum status file_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct err *err)
{
    struct file file;
    TRY(file_open(&file, path, err));
    enum status status = OK;
    char *bytes = NULL;
    if (file.size > limit_bytes)
        status = err_set(err, ERR_INPUT, "%s: %llu bytes, want at most %zu", path, (unsigned long long)file.size, limit_bytes);
    if (status == OK && !(bytes = malloc((size_t)file.size + 1)))
        status = err_set(err, ERR_MEMORY, "%s: no memory for %llu bytes", path, (unsigned long long)file.size);
    if (status == OK)
        status = file_pread(&file, 0, bytes, (size_t)file.size, err);
    if (status == OK) {
        bytes[file.size] = 0;
        *data = bytes;
        *size = (size_t)file.size;
    } else {
        free(bytes);
    }
    file_close(&file);
    return status;
}

/* ---- directories ---- */

static enum status make_one(const char *path, struct err *err)
{
    struct stat st;
    if (mkdir(path, 0777) == 0)
        return OK;
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return OK;
    return err_set(err, ERR_INPUT, "%s: cannot be made a folder: %s", path, errno == EEXIST ? "a file is there" : strerror(errno));
}

enum status dir_make(const char *path, struct err *err)
{
    char *copy = strdup(path);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = OK;
    for (char *p = copy + 1; status == OK && *p; p++)
        if (*p == '/') {
            *p = 0;
            status = make_one(copy, err);
            *p = '/';
        }
    if (status == OK)
        status = make_one(copy, err);
    free(copy);
    return status;
}

enum status dir_lock(const char *path, int *lock_fd, struct err *err)
{
    char *name = path_join(path, ".lock");
    if (!name)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    free(name);
    if (fd < 0)
        return err_set(err, ERR_INPUT, "%s: cannot be written: %s", path, strerror(errno));
    char holder[32] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int reason = errno;
        if (reason != EWOULDBLOCK) {
            close(fd);
            return err_set(err, ERR_FAILED, "%s/.lock: cannot be locked: %s", path, strerror(reason));
        }
        ssize_t n = read(fd, holder, sizeof holder - 1);
        holder[n > 0 ? n : 0] = 0;
        close(fd);
        return err_set(err, ERR_BUSY, "%s: in use by process %s", path, *holder ? holder : "(unknown)");
    }
    int n = snprintf(holder, sizeof holder, "%ld", (long)getpid());
    if (ftruncate(fd, 0) != 0 || write(fd, holder, (size_t)n) != n) {
        close(fd);
        return err_set(err, ERR_FAILED, "%s/.lock: %s", path, strerror(errno));
    }
    *lock_fd = fd;
    return OK;
}

enum status dir_sweep(const char *path, struct err *err)
{
    static const char suffix[] = ".tmp-veneer";
    DIR *dir = opendir(path);
    if (!dir)
        return err_set(err, ERR_INPUT, "%s: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name), k = sizeof suffix - 1;
        if (n > k && strcmp(entry->d_name + n - k, suffix) == 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    return OK;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)st;
    (void)kind;
    (void)place;
    return remove(path);
}

void dir_remove(const char *path)
{
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

char *path_join(const char *dir, const char *name)
{
    size_t a = strlen(dir), b = strlen(name);
    char *joined = malloc(a + b + 2);
    if (!joined)
        return NULL;
    memcpy(joined, dir, a);
    size_t slash = a > 0 && dir[a - 1] != '/';
    if (slash)
        joined[a] = '/';
    memcpy(joined + a + slash, name, b + 1);
    return joined;
}

int path_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
