/* journal.h: an append-only file of JSON lines that survives kill -9 and power cuts.
 *
 * A record is one JSON object; on disk it gets a last member "crc32c":"xxxxxxxx" over the caller's text, so each line stays
 * plain JSON.  Opening cuts a torn last line; a bad line in the middle is an error that names the line. */
#ifndef VENEER_JOURNAL_H
#define VENEER_JOURNAL_H
#include <stddef.h>

#include "base/err.h"

struct journal {
    char *path;
    int fd;        /* holds a flock while open */
    char **record; /* [n], each the caller's text without checksum, owned */
    size_t n, cap;
};

/* Opens or creates.  ERR_BUSY when another process holds it. */
enum status journal_open(struct journal *journal, const char *path, struct err *err);
/* Reads without a lock and changes nothing; a torn last line is left out.  journal_close releases, also after a failure, and until then record[n] holds what
 * stood before the damage. */
enum status journal_read(struct journal *journal, const char *path, struct err *err);
/* Appends "{...}" (at least one member, no newline inside), fsyncs, and keeps a copy.  ERR_FAILED: the disk is full or broken, and
 * the file is as it was before. */
enum status journal_append(struct journal *journal, const char *object, struct err *err);
void journal_close(struct journal *journal); /* a zeroed or closed one is fine */

#endif
