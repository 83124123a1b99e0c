/* text.h: a growing string. Failure to grow is remembered, so that a writer checks once at the end. */
#ifndef VENEER_TEXT_H
#define VENEER_TEXT_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct text {
    char *s;    /* NUL-terminated once anything was added; owned, text_free */
    size_t n;   /* bytes without the NUL */
    size_t cap;
    bool failed; /* out of memory: s holds what fitted */
};

void text_add(struct text *text, const char *bytes, size_t n);
void text_puts(struct text *text, const char *s);
void text_printf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_number(struct text *text, double x, bool single); /* the shortest decimal that reads back as x; single: as a float */
void text_json_string(struct text *text, const char *s, size_t n); /* quoted and escaped, UTF-8 kept */
void text_html(struct text *text, const char *s);                  /* & < > " escaped */
void text_clear(struct text *text);                                /* n = 0, memory kept */
void text_free(struct text *text);

#endif
