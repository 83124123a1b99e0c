/* engine_journal.c: search/journal.jsonl: what is remembered between runs of the same command.
 *
 * Records: {"type": "run", "identity": ...} first, then {"type": "importance", ...}, {"type": "speed", ...}, {"type": "trial", ...} and {"type": "milestone", ...} as they are reached.
 * No clock time is in them: a run that was killed and went on leaves the same bytes as one that was not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "engine.h"

static const char digits[] = "0123456789abcdef";

/* ---- writing ---- */

/* JSON has no NaN: null stands for it. */
static void put_number(struct text *out, const char *name, double x)
{
    if (isfinite(x))
        text_printf(out, ",\"%s\":%.17g", name, x);
    else
        text_printf(out, ",\"%s\":null", name);
}

static void put_level(struct text *out, const uint8_t *level, size_t n)
{
    text_puts(out, ",\"level\":\"");
    for (size_t i = 0; i < n; i++)
        text_add(out, &digits[level[i] & 15], 1);
    text_puts(out, "\"");
}

static void put_outcome(struct text *out, const struct trial_outcome *o)
{
    put_number(out, "size", o->size);
    put_number(out, "score", o->score);
    put_number(out, "variance", o->variance);
    put_number(out, "held_out_loss", o->held_out_loss);
    put_number(out, "divergence", o->divergence);
    put_number(out, "first_loss", o->first_loss);
    put_number(out, "last_loss", o->last_loss);
    text_puts(out, ",\"tasks\":[");
    for (size_t i = 0; i < o->n_tasks; i++) {
        const struct evaluate_result *r = &o->task[i];
        text_printf(out, "%s{\"task\":\"%s\",\"n\":%zu", i ? "," : "", r->task, r->n);
        if (r->num_fewshot)
            text_printf(out, ",\"num_fewshot\":%lld", (long long)r->num_fewshot);
        if (r->exact_match)
            text_puts(out, ",\"exact_match\":true");
        put_number(out, "acc", r->acc);
        put_number(out, "acc_stderr", r->acc_stderr);
        put_number(out, "acc_norm", r->acc_norm);
        put_number(out, "acc_norm_stderr", r->acc_norm_stderr);
        put_number(out, "headline", r->headline);
        put_number(out, "headline_stderr", r->headline_stderr);
        put_number(out, "perplexity", r->perplexity);
        text_puts(out, "}");
    }
    text_puts(out, "]");
}

/* Four documents a digit, the first one its highest bit. */
static void put_right(struct text *out, const uint8_t *right, size_t n)
{
    text_puts(out, ",\"right\":\"");
    for (size_t d = 0; d < n; d += 4) {
        int digit = 0;
        for (size_t k = 0; k < 4; k++)
            digit = 2 * digit + (d + k < n && right[d + k]);
        text_add(out, &digits[digit], 1);
    }
    text_puts(out, "\"");
}

static void put_curve(struct text *out, const struct finetune_point *p, size_t n)
{
    text_puts(out, ",\"curve\":[");
    for (size_t i = 0; i < n; i++) {
        text_printf(out, "%s{\"step\":%lld", i ? "," : "", (long long)p[i].step);
        put_number(out, "loss", p[i].loss);
        put_number(out, "norm", p[i].norm);
        put_number(out, "rate", p[i].rate);
        text_printf(out, ",\"tokens\":%lld}", (long long)p[i].tokens);
    }
    text_puts(out, "]");
}

static enum status append(struct engine *engine, struct text *record)
{
    enum status status = record->failed ? err_set(engine->err, ERR_MEMORY, "out of memory for a journal record")
                                        : journal_append(&engine->journal, record->s, engine->err);
    text_free(record);
    return status;
}

static void note_trial(struct engine *engine, const uint8_t *level, const char *note)
{
    if (engine->n_ratios)
        text_printf(&engine->trial_notes, "pruning_ratio %g; ", engine->ratio[engine_ratio_of(engine, level)].value);
    text_printf(&engine->trial_notes, "%s\n", note);
}

enum status engine_record_trial(struct engine *engine, const struct search_point *point, const struct trial_outcome *outcome,
                                const char *note)
{
    struct text record = {0};
    text_printf(&record, "{\"type\":\"trial\",\"index\":%zu", engine->archive.n);
    put_level(&record, point->level, engine->space.n);
    text_printf(&record, ",\"failed\":%s,\"low_fidelity\":%s,\"note\":", point->failed ? "true" : "false", point->low_fidelity ? "true" : "false");
    text_json_string(&record, note, strlen(note));
    put_outcome(&record, outcome);
    bool answered = outcome->right && !point->failed;
    if (answered)
        put_right(&record, outcome->right, engine->pairs.n_documents);
    text_puts(&record, "}");
    TRY(append(engine, &record));
    if (answered)
        engine_pairs_add(&engine->pairs, outcome->right);
    note_trial(engine, point->level, note);
    return search_archive_add(&engine->archive, &engine->space, point, engine->err);
}

static enum status record_values(struct engine *engine, const char *type, const double *value, size_t n)
{
    struct text record = {0};
    text_printf(&record, "{\"type\":\"%s\",\"values\":[", type);
    for (size_t i = 0; i < n; i++)
        text_printf(&record, "%s%.17g", i ? "," : "", value[i]);
    text_puts(&record, "]}");
    return append(engine, &record);
}

enum status engine_record_importance(struct engine *engine)
{
    return record_values(engine, "importance", engine->trials.importance, engine->space.n);
}

enum status engine_record_speed(struct engine *engine)
{
    double value[CONFIG_RATIOS * MAX_LEVELS];
    size_t n = engine->trials.n_levels;
    for (size_t k = 0; k < engine_models(engine); k++)
        memcpy(value + k * n, engine_trials_at(engine, k)->seconds, n * sizeof *value);
    return record_values(engine, "speed", value, engine_models(engine) * n);
}

enum status engine_record_milestone(struct engine *engine, enum milestone which)
{
    struct milestone_record *m = &engine->milestone[which];
    struct text record = {0};
    text_printf(&record, "{\"type\":\"milestone\",\"name\":\"%s\"", milestone_name[which]);
    if (m->level)
        put_level(&record, m->level, engine->space.n);
    put_outcome(&record, &m->outcome);
    put_curve(&record, m->curve, m->n_curve);
    text_puts(&record, "}");
    TRY(append(engine, &record));
    m->done = true;
    return OK;
}

/* ---- reading back ---- */

struct record {
    const struct json *json;
    const char *where;
    struct err *err;
};

static enum status get_number(const struct record *r, const struct json *object, const char *name, double *out)
{
    return json_number_or(object, name, r->where, NAN, out, r->err);
}

enum status engine_read_level(const struct json *record, const char *where, size_t n, const uint8_t *most, uint8_t *level, struct err *err)
{
    const char *s;
    TRY(json_string(record, "level", where, &s, err));
    if (strlen(s) != n)
        return err_set(err, ERR_INPUT, "%s.level: %zu digits, want %zu", where, strlen(s), n);
    for (size_t i = 0; i < n; i++) {
        const char *digit = strchr(digits, s[i]);
        if (!digit || digit - digits >= most[i])
            return err_set(err, ERR_INPUT, "%s.level: '%c' at %zu, want a level below %d", where, s[i], i, most[i]);
        level[i] = (uint8_t)(digit - digits);
    }
    return OK;
}

static enum status get_task(const struct record *r, const struct json *item, struct evaluate_result *t)
{
    const char *name;
    int64_t n;
    TRY(json_string(item, "task", r->where, &name, r->err));
    TRY(json_int(item, "n", r->where, 0, JSON_MAX_INT, &n, r->err));
    memset(t, 0, sizeof *t);
    strncpy(t->task, name, sizeof t->task - 1);
    t->n = (size_t)n;
    TRY(json_int_or(item, "num_fewshot", r->where, 0, JSON_MAX_INT, 0, &t->num_fewshot, r->err));
    TRY(json_bool_or(item, "exact_match", r->where, false, &t->exact_match, r->err));
    TRY(get_number(r, item, "acc", &t->acc));
    TRY(get_number(r, item, "acc_stderr", &t->acc_stderr));
    TRY(get_number(r, item, "acc_norm", &t->acc_norm));
    TRY(get_number(r, item, "acc_norm_stderr", &t->acc_norm_stderr));
    TRY(get_number(r, item, "headline", &t->headline));
    TRY(get_number(r, item, "headline_stderr", &t->headline_stderr));
    return get_number(r, item, "perplexity", &t->perplexity);
}

static enum status get_outcome(const struct record *r, struct trial_outcome *o)
{
    const struct json *tasks;
    memset(o, 0, sizeof *o);
    TRY(get_number(r, r->json, "size", &o->size));
    TRY(get_number(r, r->json, "score", &o->score));
    TRY(get_number(r, r->json, "variance", &o->variance));
    TRY(get_number(r, r->json, "held_out_loss", &o->held_out_loss));
    TRY(get_number(r, r->json, "divergence", &o->divergence));
    TRY(get_number(r, r->json, "first_loss", &o->first_loss));
    TRY(get_number(r, r->json, "last_loss", &o->last_loss));
    TRY(json_array(r->json, "tasks", r->where, &tasks, r->err));
    for (const struct json *item = json_first(tasks); item && o->n_tasks < MAX_TASKS; item = json_next(item))
        TRY(get_task(r, item, &o->task[o->n_tasks++]));
    return OK;
}

static enum status get_curve(const struct record *r, struct milestone_record *m)
{
    const struct json *curve;
    TRY(json_array(r->json, "curve", r->where, &curve, r->err));
    size_t n = json_size(curve);
    free(m->curve);
    m->n_curve = 0;
    m->curve = calloc(n ? n : 1, sizeof *m->curve);
    if (!m->curve)
        return err_set(r->err, ERR_MEMORY, "out of memory for a loss curve");
    for (const struct json *item = json_first(curve); item; item = json_next(item)) {
        struct finetune_point *p = &m->curve[m->n_curve++];
        TRY(json_int(item, "step", r->where, 0, JSON_MAX_INT, &p->step, r->err));
        TRY(json_int(item, "tokens", r->where, 0, JSON_MAX_INT, &p->tokens, r->err));
        TRY(get_number(r, item, "loss", &p->loss));
        TRY(get_number(r, item, "norm", &p->norm));
        TRY(get_number(r, item, "rate", &p->rate));
    }
    return OK;
}

static enum status get_right(const struct record *r, struct engine_pairs *pairs)
{
    const char *s;
    if (!json_member(r->json, "right"))
        return OK;
    TRY(json_string(r->json, "right", r->where, &s, r->err));
    if (strlen(s) != (pairs->n_documents + 3) / 4 || strspn(s, digits) != strlen(s))
        return err_set(r->err, ERR_INPUT, "%s.right: want %zu hexadecimal digits, a bit for each of %zu documents", r->where, (pairs->n_documents + 3) / 4,
                       pairs->n_documents);
    for (size_t d = 0; d < pairs->n_documents; d++)
        pairs->right[d] = (uint8_t)((strchr(digits, s[d / 4]) - digits) >> (3 - d % 4) & 1);
    engine_pairs_add(pairs, pairs->right);
    return OK;
}

static enum status read_trial(struct engine *engine, const struct record *r)
{
    struct trial_outcome outcome;
    const char *note;
    bool failed, low_fidelity;
    uint8_t *level = calloc(engine->space.n, 1);
    if (!level)
        return err_set(r->err, ERR_MEMORY, "out of memory for a trial");
    enum status status = engine_read_level(r->json, r->where, engine->space.n, engine->space.n_levels, level, r->err);
    if (status == OK)
        status = get_outcome(r, &outcome);
    if (status == OK)
        status = json_bool(r->json, "failed", r->where, &failed, r->err);
    if (status == OK)
        status = json_bool(r->json, "low_fidelity", r->where, &low_fidelity, r->err);
    if (status == OK)
        status = json_string(r->json, "note", r->where, &note, r->err);
    if (status == OK)
        status = get_right(r, &engine->pairs);
    if (status == OK) {
        struct search_point p = {.level = level, .size = outcome.size, .score = outcome.score, .variance = outcome.variance,
                                 .failed = failed, .low_fidelity = low_fidelity};
        status = search_archive_add(&engine->archive, &engine->space, &p, r->err);
        note_trial(engine, level, note);
    }
    free(level);
    return status;
}

static enum status read_milestone(struct engine *engine, const struct record *r)
{
    const char *name;
    TRY(json_string(r->json, "name", r->where, &name, r->err));
    for (int i = 0; i < MILESTONES; i++) {
        struct milestone_record *m = &engine->milestone[i];
        if (strcmp(name, milestone_name[i]) != 0)
            continue;
        TRY(get_outcome(r, &m->outcome));
        TRY(get_curve(r, m));
        if (json_member(r->json, "level")) {
            free(m->level);
            m->level = calloc(engine->space.n, 1);
            if (!m->level)
                return err_set(r->err, ERR_MEMORY, "out of memory for a configuration");
            TRY(engine_read_level(r->json, r->where, engine->space.n, engine->space.n_levels, m->level, r->err));
        }
        m->done = true;
        return OK;
    }
    return err_set(r->err, ERR_INPUT, "%s.name: '%s' is no milestone", r->where, name);
}

/* Before pruning the space has been planned only, and is made anew afterwards: the engine keeps these until then. */
static enum status read_values(const struct record *r, size_t want, double **known)
{
    const struct json *values;
    size_t n = 0;
    TRY(json_array(r->json, "values", r->where, &values, r->err));
    free(*known);
    *known = calloc(want, sizeof **known);
    if (!*known)
        return err_set(r->err, ERR_MEMORY, "out of memory for what was measured of the layers");
    for (const struct json *item = json_first(values); item && n < want; item = json_next(item))
        TRY(json_as_number(item, r->where, &(*known)[n++], r->err));
    if (n != want || json_size(values) != n)
        return err_set(r->err, ERR_INPUT, "%s.values: %zu numbers, want %zu", r->where, json_size(values), want);
    return OK;
}

/* With the device that auto came to: it rounds otherwise, so a run that began on one is not gone on with on another. */
static void identity_of(const struct engine *engine, struct text *out)
{
    static char cpu[] = "cpu", cuda[] = "cuda";
    struct config now = *engine->config;
    now.device = engine->ops.device ? cuda : cpu;
    config_identity(&now, out);
}

static enum status check_identity(struct engine *engine, const struct record *r)
{
    const char *before;
    char difference[256];
    struct text now = {0};
    TRY(json_string(r->json, "identity", r->where, &before, r->err));
    identity_of(engine, &now);
    if (now.failed)
        return err_set(r->err, ERR_MEMORY, "out of memory for the configuration");
    bool differs = config_identity_differs(before, now.s, difference, sizeof difference);
    text_free(&now);
    if (differs)
        return err_set(r->err, ERR_INPUT, "%s holds another run: %s; take another output_dir or remove it", engine->config->output_dir,
                       difference);
    return OK;
}

static enum status read_record(struct engine *engine, size_t i)
{
    char where[64];
    snprintf(where, sizeof where, "journal.jsonl:%zu", i + 1);
    struct json *json = NULL;
    TRY(json_parse(engine->journal.record[i], strlen(engine->journal.record[i]), where, &json, engine->err));
    struct record r = {.json = json, .where = where, .err = engine->err};
    const char *type;
    enum status status = json_string(json, "type", where, &type, engine->err);
    if (status == OK && i == 0)
        status = check_identity(engine, &r);
    else if (status == OK && strcmp(type, "trial") == 0)
        status = read_trial(engine, &r);
    else if (status == OK && strcmp(type, "importance") == 0)
        status = read_values(&r, engine->space.n, &engine->known_importance);
    else if (status == OK && strcmp(type, "speed") == 0)
        status = read_values(&r, engine_models(engine) * engine->trials.n_levels, &engine->known_speed);
    else if (status == OK && strcmp(type, "milestone") == 0)
        status = read_milestone(engine, &r);
    else if (status == OK)
        status = err_set(engine->err, ERR_INPUT, "%s.type: '%s', want trial, importance, speed or milestone", where, type);
    json_free(json);
    return status;
}

static enum status start_journal(struct engine *engine)
{
    struct text identity = {0}, record = {0};
    identity_of(engine, &identity);
    text_puts(&record, "{\"type\":\"run\",\"identity\":");
    text_json_string(&record, identity.s ? identity.s : "", identity.n);
    text_puts(&record, "}");
    text_free(&identity);
    return append(engine, &record);
}

enum status engine_open_journal(struct engine *engine)
{
    char *path = path_join(engine->config->output_dir, "search/journal.jsonl");
    if (!path)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = journal_open(&engine->journal, path, engine->err);
    free(path);
    TRY(status);
    if (engine->journal.n == 0)
        return start_journal(engine);
    for (size_t i = 0; i < engine->journal.n; i++)
        TRY(read_record(engine, i));
    log_line(&engine->log, "going on: %zu trials are in %s", engine->archive.n, engine->config->output_dir);
    return OK;
}
