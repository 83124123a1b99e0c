/* gzip.c: inflate into a block that is doubled until the text fits or the limit is passed. */
#include "base/gzip.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/file.h"
#include "base/stop.h"

enum { FIRST_BYTES = 1 << 16, GZIP_WINDOW = 15 + 16 /* the largest window, gzip's header */ };

struct inflating {
    const char *path;
    z_stream z;
    const char *from;
    size_t from_n, limit; /* limit: one more than is allowed, so that a text of just the allowed size is seen to end */
    char *to; /* [cap + 1] */
    size_t n, cap;
};

static enum status make_room(struct inflating *s, struct err *err)
{
    if (s->n < s->cap)
        return OK;
    if (s->cap == s->limit)
        return err_set(err, ERR_INPUT, "%s: more than %zu bytes once decompressed", s->path, s->limit - 1);
    size_t cap = s->cap ? 2 * s->cap : FIRST_BYTES;
    cap = cap > s->limit ? s->limit : cap;
    char *grown = realloc(s->to, cap + 1);
    if (!grown)
        return err_set(err, ERR_MEMORY, "%s: no memory for %zu bytes", s->path, cap);
    s->to = grown;
    s->cap = cap;
    return OK;
}

static size_t chunk(size_t n)
{
    return n < INT_MAX ? n : INT_MAX;
}

/* One member, from the byte after the one before. */
static enum status inflate_member(struct inflating *s, size_t *at, struct err *err)
{
    int code = Z_OK;
    while (code != Z_STREAM_END) {
        TRY(stop_check(err));
        TRY(make_room(s, err));
        size_t in = chunk(s->from_n - *at), out = chunk(s->cap - s->n);
        s->z.next_in = (Bytef *)(s->from + *at); /* zlib does not write there */
        s->z.avail_in = (uInt)in;
        s->z.next_out = (Bytef *)(s->to + s->n);
        s->z.avail_out = (uInt)out;
        code = inflate(&s->z, Z_NO_FLUSH);
        *at += in - s->z.avail_in;
        s->n += out - s->z.avail_out;
        if (code == Z_MEM_ERROR)
            return err_set(err, ERR_MEMORY, "%s: no memory to decompress it", s->path);
        if (code == Z_BUF_ERROR || (code == Z_OK && *at == s->from_n && s->z.avail_out > 0))
            return err_set(err, ERR_INPUT, "%s: the gzip file is cut short after %zu bytes", s->path, s->from_n);
        if (code != Z_OK && code != Z_STREAM_END)
            return err_set(err, ERR_INPUT, "%s: the gzip file is damaged at byte %zu: %s", s->path, *at, s->z.msg ? s->z.msg : "no member begins there");
    }
    return OK;
}

static enum status inflate_all(struct inflating *s, struct err *err)
{
    if (inflateInit2(&s->z, GZIP_WINDOW) != Z_OK)
        return err_set(err, ERR_MEMORY, "%s: no memory to decompress it", s->path);
    enum status status = OK;
    for (size_t at = 0; status == OK && at < s->from_n;) {
        status = inflate_member(s, &at, err);
        inflateReset(&s->z);
    }
    if (status == OK && s->n == s->limit)
        status = err_set(err, ERR_INPUT, "%s: more than %zu bytes once decompressed", s->path, s->limit - 1);
    inflateEnd(&s->z);
    return status;
}

enum status gzip_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct err *err)
{
    TRY(file_read(path, limit_bytes, data, size, err));
    if (*size < 2 || (*data)[0] != '\x1f' || (*data)[1] != '\x8b')
        return OK;
    struct inflating s = {.path = path, .from = *data, .from_n = *size, .limit = limit_bytes + 1};
    enum status status = inflate_all(&s, err);
    free(*data);
    *data = NULL;
    if (status != OK) {
        free(s.to);
        return status;
    }
    s.to[s.n] = 0;
    *data = s.to;
    *size = s.n;
    return OK;
}
