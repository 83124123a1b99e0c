/* file.h: files that are read with every range checked and written so that nobody ever sees half of one. */
#ifndef VENEER_FILE_H
#define VENEER_FILE_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* ---- reading ---- */
struct file {
    char *path; /* owned */
    int fd;
    uint64_t size; /* fixed at open */
};

/* Opens a regular file (never a directory, FIFO or device), close-on-exec.  ERR_INPUT names the path and the reason. */
enum status file_open(struct file *file, const char *path, struct err *err);
/* Reads exactly n bytes at `offset`; ERR_INPUT when the range is outside `size` or the file has shrunk. */
enum status file_pread(const struct file *file, uint64_t offset, void *dst, size_t n, struct err *err);
void file_close(struct file *file); /* a zeroed one is fine */

/* The whole file and a NUL after it, owned by the caller (free).  ERR_INPUT when it is larger than limit_bytes. */
enum status file_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct err *err);

/* ---- publishing: temp file beside the target, written whole, fsynced, renamed, directory fsynced ---- */
struct publish {
    char *path, *temp; /* owned */
    int fd;
    unsigned char *buffer;
    size_t buffered;
};

enum status publish_open(struct publish *publish, const char *path, struct err *err);
enum status publish_write(struct publish *publish, const void *bytes, size_t n, struct err *err);
enum status publish_commit(struct publish *publish, struct err *err); /* after it, success or not, only a zeroed struct is left */
void publish_abandon(struct publish *publish);                         /* removes the temp file; safe after commit */

/* open, write, commit in one. */
enum status file_write(const char *path, const void *bytes, size_t n, struct err *err);

/* ---- directories ---- */
enum status dir_make(const char *path, struct err *err); /* with parents; an existing directory is fine */
/* fsync of the folder that holds `path`, so that a new name in it survives a power cut. */
enum status dir_sync_parent(const char *path, struct err *err);
/* Takes the directory's `.lock` for this process (flock, vanishes with the process).  ERR_BUSY names the holder's PID. */
enum status dir_lock(const char *path, int *lock_fd, struct err *err);
/* Removes temp files that a killed publish left in `path` (names end in ".tmp-veneer"). */
enum status dir_sweep(const char *path, struct err *err);
/* Removes a folder and what is in it; silently nothing when it is not there. */
void dir_remove(const char *path);
/* malloc'ed "dir/name"; NULL when out of memory. */
char *path_join(const char *dir, const char *name);
/* Both name the same file (device and inode). */
int path_same(const char *a, const char *b);

/* ---- checksums ---- */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n); /* Castagnoli; start with 0 */
struct sha256 {
    uint32_t h[8];
    uint64_t n;
    unsigned char block[64];
};
void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *bytes, size_t n);
void sha256_hex(struct sha256 *s, char hex[65]);
enum status file_sha256(const char *path, char hex[65], struct err *err);

#endif
