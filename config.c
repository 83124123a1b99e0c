/* config.c: the reader of config.txt and of key=value.  What it is not: it starts nothing and opens no model. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "config_private.h"
#include "io/chat_template.h"

void *config_slot(const struct config *config, const struct config_key *key)
{
    return (char *)(uintptr_t)config + key->offset;
}

/* ---- lists and names ---- */

static bool word_in(const char *words, const char *item, size_t n)
{
    for (const char *p = words; *p;) {
        size_t k = strcspn(p, " ");
        if (k == n && strncmp(p, item, n) == 0)
            return true;
        p += k;
        p += strspn(p, " ");
    }
    return false;
}

bool config_list_has(const char *list, const char *item)
{
    size_t n = strlen(item);
    for (const char *p = list; *p;) {
        size_t k = strcspn(p, ",");
        if (k == n && strncmp(p, item, n) == 0)
            return true;
        p += k;
        p += strspn(p, ",");
    }
    return false;
}

/* Levenshtein distance, capped lengths: for "did you mean". */
static int distance(const char *a, size_t na, const char *b, size_t nb)
{
    int row[65];
    if (na > 64 || nb > 64)
        return 99;
    for (size_t j = 0; j <= nb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[nb];
}

const struct config_key *config_key_find(const char *name)
{
    for (int i = 0; i < config_n_keys; i++)
        if (strcmp(config_keys[i].name, name) == 0 || (config_keys[i].aliases && word_in(config_keys[i].aliases, name, strlen(name))))
            return &config_keys[i];
    return NULL;
}

static const char *nearest(const char *name)
{
    const char *best = config_keys[0].name;
    int least = 1000;
    for (int i = 0; i < config_n_keys; i++) {
        int d = distance(name, strlen(name), config_keys[i].name, strlen(config_keys[i].name));
        if (d < least) {
            least = d;
            best = config_keys[i].name;
        }
    }
    return best;
}

/* ---- values ---- */

static enum status set_text(char **to, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    free(*to);
    *to = copy;
    return OK;
}

static enum status set_path(char **to, const char *value, const char *folder, struct err *err)
{
    if (!folder || value[0] == '/' || value[0] == 0)
        return set_text(to, value, err);
    char *joined = path_join(folder, value);
    if (!joined)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    free(*to);
    *to = joined;
    return OK;
}

/* The name of a form, or of a template that the model has, which is not known yet: what is no file stays as it is. */
static enum status set_template(char **to, const char *value, const char *folder, struct err *err)
{
    if (strcmp(value, "model") == 0 || chat_template_known(value))
        return set_text(to, value, err);
    TRY(set_path(to, value, folder, err));
    return strchr(value, '/') || access(*to, F_OK) == 0 ? OK : set_text(to, value, err);
}

static enum status check_list(const struct config_key *key, const char *value, const char *where, struct err *err)
{
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, ",");
        if (key->choices && !word_in(key->choices, p, n))
            return err_set(err, ERR_INPUT, "%s: %s holds '%.*s', want a list of: %s", where, key->name, (int)n, p, key->choices);
        p += n;
        p += *p == ',';
    }
    return OK;
}

/* Digits, an optional fraction, and for bytes one of K M G T (powers of 1024). */
static enum status parse_number(const struct config_key *key, const char *value, const char *where, double *out, struct err *err)
{
    char *end;
    errno = 0;
    double x = strtod(value, &end);
    bool bad = end == value || errno == ERANGE || !isfinite(x);
    if (!bad && key->kind == BYTES && *end) {
        const char *units = "KMGT", *u = strchr(units, toupper((unsigned char)*end));
        if (u && *u) {
            x *= pow(1024, (double)(u - units + 1));
            end++;
            if (*end == 'i')
                end++;
            if (*end == 'B' || *end == 'b')
                end++;
        }
    }
    bad = bad || *end || (key->kind == INTEGER && x != floor(x));
    if (bad)
        return err_set(err, ERR_INPUT, "%s: %s = '%s', want %s", where, key->name, value,
                       key->kind == INTEGER ? "a whole number" : key->kind == BYTES ? "bytes such as 300M or 3.5G" : "a number");
    if (!(x >= key->low && x <= key->high))
        return err_set(err, ERR_INPUT, "%s: %s = %s, want %.10g to %.10g", where, key->name, value, key->low, key->high);
    *out = x;
    return OK;
}

static enum status parse_bool(const struct config_key *key, const char *value, const char *where, bool *out, struct err *err)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
    for (int i = 0; i < 4; i++)
        if (strcasecmp(value, yes[i]) == 0 || strcasecmp(value, no[i]) == 0) {
            *out = strcasecmp(value, yes[i]) == 0;
            return OK;
        }
    return err_set(err, ERR_INPUT, "%s: %s = '%s', want yes or no", where, key->name, value);
}

static enum status set_value(struct config *config, const struct config_key *key, const char *value, const char *folder,
                             const char *where, struct err *err)
{
    void *to = config_slot(config, key);
    double x;
    switch (key->kind) {
    case STRING:
        return set_text(to, value, err);
    case PATH:
        return set_path(to, value, folder, err);
    case TEMPLATE:
        return set_template(to, value, folder, err);
    case CHOICE:
        if (!word_in(key->choices, value, strlen(value)))
            return err_set(err, ERR_INPUT, "%s: %s = '%s', want one of: %s", where, key->name, value, key->choices);
        return set_text(to, value, err);
    case LIST:
        TRY(check_list(key, value, where, err));
        return set_text(to, value, err);
    case BOOLEAN:
        return parse_bool(key, value, where, to, err);
    case INTEGER:
        TRY(parse_number(key, value, where, &x, err));
        *(int64_t *)to = (int64_t)x;
        return OK;
    case NUMBER:
    case BYTES:
        return parse_number(key, value, where, to, err);
    }
    return OK;
}

/* A list may be written with spaces after its commas; they are taken out. */
static void squeeze_list(char *value)
{
    char *to = value;
    for (const char *p = value; *p; p++)
        if (!isspace((unsigned char)*p))
            *to++ = *p;
    *to = 0;
}

static enum status set_named(struct config *config, const char *name, const char *value, const char *folder, const char *where,
                             struct err *err)
{
    const struct config_key *key = config_key_find(name);
    if (!key)
        return err_set(err, ERR_INPUT, "%s: unknown key '%s', the nearest known one is '%s'", where, name, nearest(name));
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    if (key->kind == LIST)
        squeeze_list(copy);
    enum status status = set_value(config, key, copy, folder, where, err);
    free(copy);
    if (status == OK)
        snprintf(config->origin[key - config_keys].text, sizeof config->origin->text, "%s", where);
    return status;
}

enum status config_new(struct config *config, struct err *err)
{
    memset(config, 0, sizeof *config);
    config->origin = calloc((size_t)config_n_keys, sizeof *config->origin);
    if (!config->origin)
        return err_set(err, ERR_MEMORY, "out of memory for the configuration");
    for (int i = 0; i < config_n_keys; i++)
        TRY(set_named(config, config_keys[i].name, config_keys[i].fallback, NULL, "default", err));
    return OK;
}

/* ---- the file ---- */

/* A reader of our own: inih as distributions build it reports no line numbers, cuts lines at 200 bytes and knows no `#`
 * behind a value. */
struct reading {
    struct config *config;
    const char *path;
    char *folder;
    bool seen[CONFIG_MOST_KEYS];
};

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return s;
}

/* A comment opens with # or ; at the start of a line or behind a blank. */
static void cut_comment(char *line)
{
    for (char *p = line; *p; p++)
        if ((*p == '#' || *p == ';') && (p == line || isspace((unsigned char)p[-1]))) {
            *p = 0;
            return;
        }
}

static enum status read_line(struct reading *reading, char *line, int number, struct err *err)
{
    char where[sizeof reading->config->origin->text];
    snprintf(where, sizeof where, "%.100s:%d", reading->path, number);
    cut_comment(line);
    char *name = trim(line), *equals = strchr(name, '=');
    if (*name == 0 || (*name == '[' && name[strlen(name) - 1] == ']')) /* sections only group */
        return OK;
    if (!equals || equals == name)
        return err_set(err, ERR_INPUT, "%s: '%s', want key = value, # comment or [section]", where, name);
    *equals = 0;
    name = trim(name);
    const struct config_key *key = config_key_find(name);
    if (key && reading->seen[key - config_keys])
        return err_set(err, ERR_INPUT, "%s: %s is set a second time", where, key->name);
    if (key)
        reading->seen[key - config_keys] = true;
    return set_named(reading->config, name, trim(equals + 1), reading->folder, where, err);
}

static enum status read_lines(struct reading *reading, char *text, size_t n, struct err *err)
{
    if (memchr(text, 0, n))
        return err_set(err, ERR_INPUT, "%s: holds a NUL byte, want a text of key = value lines", reading->path);
    int number = 1;
    for (char *line = text; line; number++) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        TRY(read_line(reading, line, number, err));
        line = next;
    }
    return OK;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : NULL;
}

enum status config_read(struct config *config, const char *path, struct err *err)
{
    char *text;
    size_t n;
    TRY(file_read(path, 1 << 20, &text, &n, err));
    struct reading reading = {.config = config, .path = path, .folder = folder_of(path)};
    enum status status = read_lines(&reading, text, n, err);
    free(reading.folder);
    free(text);
    return status;
}

enum status config_set(struct config *config, const char *assignment, const char *where, struct err *err)
{
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return err_set(err, ERR_INPUT, "%s: '%s', want key=value", where, assignment);
    char *name = strndup(assignment, (size_t)(equals - assignment));
    if (!name)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    enum status status = set_named(config, name, equals + 1, NULL, where, err);
    free(name);
    return status;
}

void config_free(struct config *config)
{
    for (int i = 0; i < config_n_keys; i++)
        if (config_keys[i].kind <= LIST)
            free(*(char **)config_slot(config, &config_keys[i]));
    free(config->origin);
    memset(config, 0, sizeof *config);
}
