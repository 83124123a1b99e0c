/* golden.h: where golden vectors lie, and files as JSON. */
#ifndef VENEER_TEST_GOLDEN_H
#define VENEER_TEST_GOLDEN_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "io/json.h"

/* VENEER_GOLDEN/NAME, or test/golden/NAME.  In a buffer of the caller. */
static inline const char *golden_path(char path[512], const char *name)
{
    const char *dir = getenv("VENEER_GOLDEN");
    snprintf(path, 512, "%s/%s", dir && *dir ? dir : "test/golden", name);
    return path;
}

/* A JSON file whole.  U+0000, which the strict reader refuses, is read as U+E000 (see golden_text). */
static inline struct json *golden_json(const char *name)
{
    char path[512], *text;
    size_t n;
    struct err err;
    struct json *json;
    if (file_read(golden_path(path, name), 1 << 28, &text, &n, &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        return NULL;
    }
    for (char *p = text; (p = strstr(p, "\\u0000")); p += 6)
        memcpy(p, "\\ue000", 6);
    enum status status = json_parse(text, n, path, &json, &err);
    free(text);
    if (status != OK)
        fprintf(stderr, "%s\n", err.text);
    return status == OK ? json : NULL;
}

/* A copy of s with U+E000 turned back into a NUL byte; the caller frees it. */
static inline char *golden_text(const char *s, size_t *n)
{
    char *copy = malloc(strlen(s) + 1);
    *n = 0;
    while (copy && *s) {
        int nul = strncmp(s, "\xee\x80\x80", 3) == 0;
        copy[(*n)++] = nul ? 0 : *s;
        s += nul ? 3 : 1;
    }
    return copy;
}

#endif
