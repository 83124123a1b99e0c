/* tokenizer_chat.c: the chat templates that a tokenizer carries: the one that is taken unless another is asked for, and those with names.
 * transformers keeps the named ones in additional_chat_templates/NAME.jinja, in older folders as a list in tokenizer_config.json. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "io/json.h"
#include "io/tokenizer_private.h"

enum { MOST_NAME = 64, MOST_BYTES = 1 << 27 };

/* ---- kept ---- */

const char *tokenizer_chat_template(const struct tokenizer *t)
{
    return t->chat_template;
}

enum status tokenizer_set_chat_template(struct tokenizer *t, const char *source, struct err *err)
{
    char *copy = strdup(source);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    free(t->chat_template);
    t->chat_template = copy;
    t->new_template = true;
    return OK;
}

bool tokenizer_chat_template_is_new(const struct tokenizer *t)
{
    return t->new_template;
}

static struct named_template *find(const struct tokenizer *t, const char *name)
{
    for (size_t i = 0; i < t->n_named; i++)
        if (strcmp(t->named[i].name, name) == 0)
            return &t->named[i];
    return NULL;
}

const char *tokenizer_named_chat_template(const struct tokenizer *t, const char *name)
{
    const struct named_template *named = find(t, name);
    return named ? named->source : NULL;
}

const char *tokenizer_chat_template_name(const struct tokenizer *t, size_t i)
{
    return i < t->n_named ? t->named[i].name : NULL;
}

void tokenizer_free_chat(struct tokenizer *t)
{
    for (size_t i = 0; i < t->n_named; i++) {
        free(t->named[i].name);
        free(t->named[i].source);
    }
    free(t->named);
    free(t->chat_template);
}

/* It becomes the name of a file. */
static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strlen(name);
    return n > 0 && n <= MOST_NAME && name[0] != '.' && strspn(name, letters) == n;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named_template *)a)->name, ((const struct named_template *)b)->name);
}

/* A place for the source, in the order of names whatever order they come in. */
static enum status new_name(struct tokenizer *t, const char *name, const char *where, struct err *err)
{
    if (t->n_named == TOKENIZER_MOST_TEMPLATES)
        return err_set(err, ERR_INPUT, "%s: more than %d chat templates", where, TOKENIZER_MOST_TEMPLATES);
    struct named_template *more = realloc(t->named, (t->n_named + 1) * sizeof *more);
    if (!more)
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    t->named = more;
    more[t->n_named] = (struct named_template){.name = strdup(name), .source = strdup("")};
    if (!more[t->n_named].name || !more[t->n_named].source) {
        free(more[t->n_named].name);
        free(more[t->n_named].source);
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    }
    qsort(more, ++t->n_named, sizeof *more, by_name);
    return OK;
}

enum status tokenizer_add_chat_template(struct tokenizer *t, const char *name, const char *source, const char *where, struct err *err)
{
    bool first = strcmp(name, "default") == 0;
    if (!is_name(name))
        return err_set(err, ERR_INPUT, "%s: a chat template is named '%.80s', want at most %d letters, digits, '_', '-' and '.', no '.' in front", where, name,
                       MOST_NAME);
    if (!first && !find(t, name))
        TRY(new_name(t, name, where, err));
    char **to = first ? &t->chat_template : &find(t, name)->source, *copy = strdup(source);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a chat template");
    free(*to);
    *to = copy;
    return OK;
}

/* ---- read from a folder ---- */

static enum status add_file(struct tokenizer *t, const char *name, const char *path, struct err *err)
{
    char *text;
    size_t n;
    TRY(file_read(path, MOST_BYTES, &text, &n, err));
    enum status status = utf8_is_name(text, n) ? tokenizer_add_chat_template(t, name, text, path, err) : err_set(err, ERR_INPUT, "%s: is no UTF-8 text", path);
    free(text);
    return status;
}

/* NAME.jinja as NAME; other files are none of ours. */
static enum status add_entry(struct tokenizer *t, const char *dir, const char *leaf, struct err *err)
{
    static const char end[] = ".jinja";
    size_t n = strlen(leaf), k = sizeof end - 1;
    char name[256];
    if (leaf[0] == '.' || n <= k || n - k >= sizeof name || strcmp(leaf + n - k, end) != 0)
        return OK;
    snprintf(name, sizeof name, "%.*s", (int)(n - k), leaf);
    char *path = path_join(dir, leaf);
    enum status status = path ? add_file(t, name, path, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    free(path);
    return status;
}

static enum status add_folder(struct tokenizer *t, const char *dir, struct err *err)
{
    DIR *d = opendir(dir);
    enum status status = OK;
    if (!d)
        return errno == ENOENT ? OK : err_set(err, ERR_INPUT, "%s: %s", dir, strerror(errno));
    for (struct dirent *entry; status == OK && (entry = readdir(d));)
        status = add_entry(t, dir, entry->d_name, err);
    closedir(d);
    return status;
}

/* A string, or [{"name": "default", "template": ...}, ...]. */
static enum status config_templates(struct tokenizer *t, const struct json *config, const char *where, struct err *err)
{
    const struct json *value = json_member(config, "chat_template");
    const char *text, *name;
    if (value && json_type(value) == JSON_ARRAY) {
        for (const struct json *item = json_first(value); item; item = json_next(item)) {
            TRY(json_string(item, "name", where, &name, err));
            TRY(json_string(item, "template", where, &text, err));
            TRY(tokenizer_add_chat_template(t, name, text, where, err));
        }
        return OK;
    }
    TRY(json_string_or(config, "chat_template", where, NULL, &text, err));
    return text ? tokenizer_add_chat_template(t, "default", text, where, err) : OK;
}

static enum status apply_config(struct tokenizer *t, const char *text, size_t n, const char *where, struct err *err)
{
    struct json *config;
    TRY(json_parse(text, n, where, &config, err));
    enum status status = config_templates(t, config, where, err);
    json_free(config);
    return status;
}

enum status tokenizer_load_chat_template(struct tokenizer *t, const char *path, struct err *err)
{
    char *first = tokenizer_path_beside(path, "chat_template.jinja"), *more = tokenizer_path_beside(path, TOKENIZER_TEMPLATES);
    enum status status = first && more ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK && access(first, R_OK) == 0)
        status = add_file(t, "default", first, err);
    if (status == OK)
        status = add_folder(t, more, err);
    free(first);
    free(more);
    return status == OK && !t->chat_template ? tokenizer_apply_beside(t, path, "tokenizer_config.json", apply_config, err) : status;
}
