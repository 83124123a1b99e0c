/* gzip.h: files that may be compressed by gzip, as data sets are handed out.  The only room that includes zlib. */
#ifndef VENEER_GZIP_H
#define VENEER_GZIP_H
#include <stddef.h>

#include "base/err.h"

/* The whole file and a NUL after it, owned by the caller (free); one that begins with gzip's two bytes (RFC 1952) is decompressed, member after member.
 * ERR_INPUT: as file_read; damaged, cut short, or larger than limit_bytes once decompressed, which is never taken; ERR_MEMORY, ERR_STOPPED. */
enum status gzip_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct err *err);

#endif
