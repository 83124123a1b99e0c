/* dataset_text.c: which shape a record has, and plain text as documents. */
#include <stdio.h>
#include <string.h>

#include "io/dataset_private.h"

static const char *const names[] = {"auto", "alpaca", "messages", "sharegpt", "prompt", "text"};

enum status dataset_format_parse(const char *name, enum dataset_format *format, struct err *err)
{
    for (int i = 0; i <= DATASET_TEXT; i++)
        if (strcmp(name, names[i]) == 0) {
            *format = (enum dataset_format)i;
            return OK;
        }
    return err_set(err, ERR_INPUT, "dataset_format = '%s', want auto, alpaca, messages, sharegpt, prompt or text", name);
}

const char *dataset_format_name(enum dataset_format format)
{
    return names[format];
}

enum status dataset_detect(struct loader *load, const struct json *record)
{
    static const struct {
        const char *member;
        enum dataset_format format;
    } signs[] = {{"instruction", DATASET_ALPACA}, {"messages", DATASET_MESSAGES}, {"conversations", DATASET_SHAREGPT},
                 {"prompt", DATASET_PROMPT},      {"text", DATASET_TEXT}};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (json_member(record, signs[i].member)) {
            load->format = signs[i].format;
            return OK;
        }
    return err_set(load->err, ERR_INPUT, "%s: has none of instruction, messages, conversations, prompt, text", load->where);
}

static const char mark[] = "<|endoftext|>";

/* Bytes of the line at `s`, its newline not counted. */
static size_t line_length(const char *s, size_t n)
{
    const char *end = memchr(s, '\n', n);
    return end ? (size_t)(end - s) : n;
}

static bool divides(const char *line, size_t n, bool marked)
{
    while (n && (line[n - 1] == '\r' || line[n - 1] == ' '))
        n--;
    return marked ? n == sizeof mark - 1 && memcmp(line, mark, n) == 0 : n == 0;
}

static enum status add_document(struct loader *load, const char *text, size_t n)
{
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    if (n == 0 || (load->options->limit && load->dataset->n >= load->options->limit))
        return OK;
    return dataset_add_text(load, text, n);
}

enum status dataset_read_text(struct loader *load, const char *text, size_t n)
{
    bool marked = memmem(text, n, mark, sizeof mark - 1) != NULL;
    size_t start = 0, at = 0;
    load->format = DATASET_TEXT;
    for (size_t number = 1; at < n; number++) {
        size_t length = line_length(text + at, n - at);
        snprintf(load->where, sizeof load->where, "%s:%zu", load->path, number);
        if (memchr(text + at, 0, length))
            return err_set(load->err, ERR_INPUT, "%s: holds a NUL byte, want text", load->where);
        if (divides(text + at, length, marked)) {
            TRY(add_document(load, text + start, at - start));
            start = at + length + 1;
        }
        at += length + 1;
    }
    return start < n ? add_document(load, text + start, n - start) : OK;
}
