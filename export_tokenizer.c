/* export_tokenizer.c: the tokenizer's files of a model/ folder: those of the folder that the model came from, or made from the vocabulary. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "export.h"

/* All that another program may look for; the first three are written where there is nothing to copy. */
enum { OWN, JSON, CONFIG, MODEL, TEMPLATE = 6, N_NAMES };
static const char *const names[N_NAMES] = {"tokenizer.gguf",          "tokenizer.json",    "tokenizer_config.json", "tokenizer.model",
                                           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"};

struct folder {
    const char *dir, *from; /* from NULL: no folder */
    bool copied[N_NAMES];
    struct err *err;
};

static enum status path_of(const struct folder *f, const char *dir, int name, char **path)
{
    *path = path_join(dir, names[name]);
    return *path ? OK : err_set(f->err, ERR_MEMORY, "out of memory for a path");
}

static bool is_there(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    bool there = path && access(path, R_OK) == 0;
    free(path);
    return there;
}

static enum status write_bytes(const struct folder *f, int name, const void *bytes, size_t n)
{
    char *path;
    TRY(path_of(f, f->dir, name, &path));
    enum status status = file_write(path, bytes, n, f->err);
    free(path);
    return status;
}

static enum status copy(struct folder *f, int name, const char *file)
{
    char *bytes;
    size_t n;
    TRY(file_read(file, 1 << 27, &bytes, &n, f->err));
    enum status status = write_bytes(f, name, bytes, n);
    free(bytes);
    f->copied[name] = true;
    return status;
}

/* Without a tokenizer.json over there only tokenizer.model is taken: the other files would speak of another form than the one that is made. */
static enum status copy_folder(struct folder *f)
{
    bool whole = is_there(f->from, names[JSON]);
    for (int name = 0; name < N_NAMES; name++) {
        char *path;
        if ((!whole && name != MODEL) || !is_there(f->from, names[name]))
            continue;
        TRY(path_of(f, f->from, name, &path));
        enum status status = copy(f, name, path);
        free(path);
        TRY(status);
    }
    return OK;
}

/* What an earlier export left would be read in place of what is written now. */
static enum status remove_rest(const struct folder *f)
{
    char *more = path_join(f->dir, TOKENIZER_TEMPLATES);
    if (more)
        dir_remove(more);
    free(more);
    for (int name = 0; name < N_NAMES; name++) {
        char *path;
        if (f->copied[name])
            continue;
        TRY(path_of(f, f->dir, name, &path));
        unlink(path);
        free(path);
    }
    return OK;
}

static enum status write_text(const struct folder *f, int name, struct text *text, enum status status)
{
    if (status == OK && text->failed)
        status = err_set(f->err, ERR_MEMORY, "out of memory for %s", names[name]);
    if (status == OK)
        status = write_bytes(f, name, text->s, text->n);
    text_free(text);
    return status;
}

static enum status make(const struct folder *f, const struct tokenizer *t, int32_t max_length)
{
    struct text json = {0}, config = {0};
    char *own;
    TRY(path_of(f, f->dir, OWN, &own));
    enum status status = export_vocabulary(own, t, f->err);
    free(own);
    if (status != OK || !tokenizer_has_json(t))
        return status;
    TRY(write_text(f, JSON, &json, tokenizer_print_json(t, &json, f->err)));
    tokenizer_print_config(t, max_length, &config);
    return write_text(f, CONFIG, &config, OK);
}

static enum status write_named(const char *dir, const struct tokenizer *tokenizer, struct err *err)
{
    const char *name;
    enum status status = tokenizer_chat_template_name(tokenizer, 0) ? dir_make(dir, err) : OK;
    for (size_t i = 0; status == OK && (name = tokenizer_chat_template_name(tokenizer, i)); i++) {
        char leaf[128];
        const char *source = tokenizer_named_chat_template(tokenizer, name);
        snprintf(leaf, sizeof leaf, "%s.jinja", name);
        char *path = path_join(dir, leaf);
        status = path ? file_write(path, source, strlen(source), err) : err_set(err, ERR_MEMORY, "out of memory for a path");
        free(path);
    }
    return status;
}

enum status export_chat_template(const char *dir, const struct tokenizer *tokenizer, struct err *err)
{
    const struct folder f = {.dir = dir, .err = err};
    const char *source = tokenizer_chat_template(tokenizer);
    char *path, *more = path_join(dir, TOKENIZER_TEMPLATES);
    enum status status = more ? OK : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK) {
        dir_remove(more);
        status = write_named(more, tokenizer, err);
    }
    free(more);
    TRY(status);
    if (source)
        return write_bytes(&f, TEMPLATE, source, strlen(source));
    TRY(path_of(&f, dir, TEMPLATE, &path));
    unlink(path);
    free(path);
    return OK;
}

/* Those of a tokenizer_config.json that is copied are there already.  transformers takes no template out of it beside one that is a file. */
static bool wants_files(const struct folder *f, const struct tokenizer *tokenizer)
{
    bool named = tokenizer_chat_template_name(tokenizer, 0) != NULL;
    return f->copied[JSON] ? tokenizer_chat_template_is_new(tokenizer) || (named && is_there(f->from, TOKENIZER_TEMPLATES)) : named;
}

enum status export_tokenizer(const char *dir, const struct tokenizer *tokenizer, const char *from, int32_t max_length, struct err *err)
{
    struct folder f = {.dir = dir, .err = err};
    struct stat st;
    bool folder = from && stat(from, &st) == 0 && S_ISDIR(st.st_mode);
    f.from = folder ? from : NULL;
    if (folder)
        TRY(copy_folder(&f));
    else if (from)
        TRY(copy(&f, MODEL, from));
    if (!folder || !path_same(dir, from))
        TRY(remove_rest(&f));
    if (!f.copied[JSON])
        TRY(make(&f, tokenizer, max_length));
    return wants_files(&f, tokenizer) ? export_chat_template(dir, tokenizer, err) : OK;
}
