/* engine_prior.c: search_prior: the journal of another run, read for what its search learnt.  Nothing is written to it, and it may still be growing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "engine.h"
#include "io/json.h"

/* The other run: its keys, the space they make, its trials. */
struct other {
    const char *path;
    struct journal journal;
    struct config config;
    struct trials trials;
    struct search_space space;
    struct search_archive archive;
};

/* PATH, or PATH/search/journal.jsonl where PATH is a folder; malloc'ed, NULL when out of memory. */
static char *journal_path(const char *given)
{
    struct stat s;
    return stat(given, &s) == 0 && S_ISDIR(s.st_mode) ? path_join(given, "search/journal.jsonl") : strdup(given);
}

static enum status not_a_journal(const struct other *o, struct err *err)
{
    return err_set(err, ERR_INPUT, "search_prior: %s is no journal of a run, want another run's output_dir or its search/journal.jsonl", o->path);
}

static enum status open_other(struct other *o, struct err *err)
{
    enum status status = journal_read(&o->journal, o->path, err);
    if (status == ERR_INPUT && o->journal.n == 0 && access(o->path, R_OK) == 0) /* not one line whose checksum fits */
        return not_a_journal(o, err);
    return status != OK ? status : o->journal.n == 0 ? not_a_journal(o, err) : OK;
}

static size_t lines(const char *s)
{
    size_t n = 0;
    for (; (s = strchr(s, '\n')); s++)
        n++;
    return n;
}

/* The keys of the first record into a configuration; false where one is unknown or has a value that is not allowed. */
static bool take_keys(struct other *o, char *identity)
{
    struct err ignored;
    struct text assignment = {0};
    bool known = true;
    for (char *line; known && (line = strsep(&identity, "\n")) && *line;) {
        char *equals = strstr(line, " = ");
        text_clear(&assignment);
        if (equals)
            text_printf(&assignment, "%.*s=%s", (int)(equals - line), line, equals + 3);
        known = equals && !assignment.failed && config_set(&o->config, assignment.s, "search_prior", &ignored) == OK;
    }
    text_free(&assignment);
    return known;
}

/* A program that knew other keys may have meant other things by its levels. */
static enum status read_keys(struct other *o, const struct json *first, const char *where, struct err *err)
{
    const char *type, *identity;
    struct text ours = {0};
    if (json_string(first, "type", where, &type, err) != OK || strcmp(type, "run") != 0 || json_string(first, "identity", where, &identity, err) != OK)
        return not_a_journal(o, err);
    TRY(config_new(&o->config, err));
    config_identity(&o->config, &ours);
    char *copy = strdup(identity);
    enum status status = copy && !ours.failed ? OK : err_set(err, ERR_MEMORY, "out of memory for the configuration");
    if (status == OK && (lines(identity) != lines(ours.s) || !take_keys(o, copy)))
        status = err_set(err, ERR_INPUT, "search_prior: %s was written by another version of this program, which knew other keys: want a journal of this version",
                         o->path);
    free(copy);
    text_free(&ours);
    return status;
}

static enum status read_trial(struct other *o, const struct json *json, const char *where, struct err *err)
{
    const char *digits;
    struct search_point p = {0};
    TRY(json_string(json, "level", where, &digits, err));
    if (!o->space.n) { /* the first trial says how many variables there are */
        TRY(trials_init_space(&o->trials, &o->config, strlen(digits), err));
        trials_space(&o->trials, INFINITY, &o->space);
    }
    uint8_t *level = calloc(o->space.n, 1);
    p.level = level;
    enum status status = level ? engine_read_level(json, where, o->space.n, o->space.n_levels, level, err) : err_set(err, ERR_MEMORY, "out of memory for a trial");
    if (status == OK)
        status = json_bool(json, "failed", where, &p.failed, err);
    if (status == OK)
        status = json_bool(json, "low_fidelity", where, &p.low_fidelity, err);
    if (status == OK && !p.failed)
        status = json_number(json, "score", where, &p.score, err);
    if (status == OK)
        status = json_number_or(json, "variance", where, 0, &p.variance, err);
    if (status == OK)
        status = search_archive_add(&o->archive, &o->space, &p, err);
    free(level);
    return status;
}

static enum status read_record(struct other *o, size_t i, struct err *err)
{
    char where[320];
    const char *type;
    struct json *json = NULL;
    snprintf(where, sizeof where, "%s:%zu", o->path, i + 1);
    TRY(json_parse(o->journal.record[i], strlen(o->journal.record[i]), where, &json, err));
    enum status status = i == 0 ? read_keys(o, json, where, err) : json_string(json, "type", where, &type, err);
    if (status == OK && i > 0 && strcmp(type, "trial") == 0)
        status = read_trial(o, json, where, err);
    json_free(json);
    return status;
}

static enum status learn(struct engine *engine, struct other *o)
{
    struct err *err = engine->err;
    struct search_space space;
    TRY(open_other(o, err));
    for (size_t i = 0; i < o->journal.n; i++)
        TRY(read_record(o, i, err));
    trials_space(&engine->trials, INFINITY, &space);
    enum status status = search_prior_new(&engine->prior, &o->space, &o->archive, &space, err);
    if (status != OK)
        return err_prefix(err, status, "search_prior: %s", o->path);
    log_line(&engine->log, "search_prior: %zu trials of %zu variables in %s", engine->prior.gp.n, o->space.n, o->path);
    return OK;
}

enum status engine_learn_prior(struct engine *engine)
{
    if (!*engine->config->search_prior)
        return OK;
    char *path = journal_path(engine->config->search_prior), *own = path_join(engine->config->output_dir, "search/journal.jsonl");
    struct other o = {.path = path};
    enum status status = path && own ? OK : err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    if (status == OK && path_same(path, own))
        status = err_set(engine->err, ERR_INPUT, "search_prior: %s is this run's own journal, want another run's", path);
    if (status == OK)
        status = learn(engine, &o);
    if (o.journal.path)
        journal_close(&o.journal);
    search_archive_free(&o.archive);
    trials_free(&o.trials);
    if (o.config.origin)
        config_free(&o.config);
    free(path);
    free(own);
    return status;
}
