/* err.c: one sentence about what went wrong. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A control byte in a file name or a value must not reach a terminal. */
static void escape_into(char *to, size_t cap, const char *from)
{
    size_t n = 0;
    for (; *from && n + 5 < cap; from++) {
        unsigned char c = (unsigned char)*from;
        if (c < 32 || c == 127) {
            static const char hex[] = "0123456789abcdef";
            to[n++] = '\\';
            to[n++] = 'x';
            to[n++] = hex[c >> 4];
            to[n++] = hex[c & 15];
        } else {
            to[n++] = (char)c;
        }
    }
    to[n] = 0;
}

enum status err_set(struct err *err, enum status status, const char *format, ...)
{
    if (!err)
        return status;
    char raw[sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    escape_into(err->text, sizeof err->text, raw);
    return status;
}

enum status err_prefix(struct err *err, enum status status, const char *format, ...)
{
    if (!err)
        return status;
    char raw[sizeof err->text], joined[2 * sizeof err->text + 4];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    snprintf(joined, sizeof joined, "%s: %s", raw, err->text);
    escape_into(err->text, sizeof err->text, joined);
    return status;
}
