/* text.c: a growing string. */
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct text *text, size_t more)
{
    if (text->failed || more >= (size_t)1 << 40) {
        text->failed = true;
        return false;
    }
    size_t need = text->n + more + 1;
    if (need <= text->cap)
        return true;
    size_t cap = text->cap ? text->cap : 256;
    while (cap < need)
        cap *= 2;
    char *grown = realloc(text->s, cap);
    if (!grown) {
        text->failed = true;
        return false;
    }
    text->s = grown;
    text->cap = cap;
    return true;
}

void text_add(struct text *text, const char *bytes, size_t n)
{
    if (!reserve(text, n))
        return;
    if (n)
        memcpy(text->s + text->n, bytes, n);
    text->n += n;
    text->s[text->n] = 0;
}

void text_puts(struct text *text, const char *s)
{
    text_add(text, s, strlen(s));
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(text, (size_t)n)) {
        text->failed = true;
        return;
    }
    va_start(args, format);
    vsnprintf(text->s + text->n, (size_t)n + 1, format, args);
    va_end(args);
    text->n += (size_t)n;
}

/* %.17g prints 0.1 as 0.10000000000000001. */
void text_number(struct text *text, double x, bool single)
{
    char s[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        double back = strtod(s, NULL);
        if (single ? (float)back == (float)x : back == x)
            break;
    }
    text_puts(text, s);
}

void text_json_string(struct text *text, const char *s, size_t n)
{
    text_add(text, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            text_printf(text, "\\%c", c);
        else if (c == '\n')
            text_puts(text, "\\n");
        else if (c == '\t')
            text_puts(text, "\\t");
        else if (c < 32)
            text_printf(text, "\\u%04x", c);
        else
            text_add(text, s + i, 1);
    }
    text_add(text, "\"", 1);
}

void text_html(struct text *text, const char *s)
{
    for (; *s; s++) {
        const char *name = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '"' ? "&quot;" : NULL;
        if (name)
            text_puts(text, name);
        else
            text_add(text, s, 1);
    }
}

void text_clear(struct text *text)
{
    text->n = 0;
    text->failed = false;
    if (text->s)
        text->s[0] = 0;
}

void text_free(struct text *text)
{
    free(text->s);
    memset(text, 0, sizeof *text);
}
