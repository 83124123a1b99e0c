/* tasks_own.c: a user's own documents, with choices or with an answer that the model writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tasks_private.h"

/* ---- what the first line says ---- */

static enum status no_memory(struct err *err)
{
    return err_set(err, ERR_MEMORY, "out of memory for a task");
}

static enum status set_text(char **to, const char *text, struct err *err)
{
    free(*to);
    *to = strdup(text);
    return *to ? OK : no_memory(err);
}

enum status task_own_open(struct task_own *own, struct err *err)
{
    *own = (struct task_own){.pattern = NO_PATTERN, .rules = task_rules_new()};
    TRY(set_text(&own->description, "", err));
    TRY(set_text(&own->target_delimiter, " ", err));
    TRY(set_text(&own->fewshot_delimiter, "\n\n", err));
    return own->rules ? OK : no_memory(err);
}

void task_own_close(struct task_own *own)
{
    free(own->description);
    free(own->target_delimiter);
    free(own->fewshot_delimiter);
    task_rules_free(own->rules);
    memset(own, 0, sizeof *own);
}

static enum status read_text(const struct task_line *line, const char *key, char **to)
{
    const char *text;
    TRY(json_string_or(line->json, key, line->where, *to, &text, line->err));
    return text == *to ? OK : set_text(to, text, line->err);
}

/* Each text of an array to `add`. */
static enum status read_list(const struct task_line *line, const char *key, struct task_rules *rules,
                             enum status (*add)(struct task_rules *rules, const char *text, const char *where, struct err *err))
{
    const struct json *list;
    char where[640];
    TRY(json_array_or(line->json, key, line->where, &list, line->err));
    snprintf(where, sizeof where, "%s.%s", line->where, key);
    for (const struct json *item = list ? json_first(list) : NULL; item; item = json_next(item)) {
        const char *text;
        TRY(json_as_string(item, where, &text, line->err));
        TRY(add(rules, text, where, line->err));
    }
    return OK;
}

static enum status read_pattern(const struct task_line *line, struct task_rules *rules, int32_t *index)
{
    const char *pattern;
    char where[640];
    TRY(json_string_or(line->json, "pattern", line->where, NULL, &pattern, line->err));
    snprintf(where, sizeof where, "%s.pattern", line->where);
    return pattern ? task_rules_add_pattern(rules, pattern, where, index, line->err) : OK;
}

static enum status read_metric(const struct task_line *line, struct task *task)
{
    const char *metric;
    TRY(json_string_or(line->json, "metric", line->where, "acc", &metric, line->err));
    task->headline_norm = strcmp(metric, "acc_norm") == 0;
    if (!task->headline_norm && strcmp(metric, "acc") != 0)
        return err_set(line->err, ERR_INPUT, "%s.metric: '%s', want acc or acc_norm", line->where, metric);
    return OK;
}

/* Keys of written answers, then the one of choices, then those of both. */
static const char *const keys[] = {"max_gen_toks", "until", "pattern", "group_select", "ignore_case", "regexes_to_ignore", "metric",
                                   "description", "target_delimiter", "fewshot_delimiter", "num_fewshot"};
enum { N_KEYS = sizeof keys / sizeof *keys, N_ANSWER_KEYS = 6, METRIC_KEY = 6 };

static enum status check_keys(struct task_own *own, const struct task_line *line)
{
    for (const struct json *item = json_first(line->json); item; item = json_next(item)) {
        int i = 0;
        while (i < N_KEYS && strcmp(json_key(item), keys[i]) != 0)
            i++;
        if (i == N_KEYS)
            return err_set(line->err, ERR_INPUT,
                           "%s.%s: is unknown, want description, target_delimiter, fewshot_delimiter, num_fewshot; metric for choices; max_gen_toks, until, "
                           "pattern, group_select, ignore_case, regexes_to_ignore for answers",
                           line->where, json_key(item));
        own->for_answers = own->for_answers || i < N_ANSWER_KEYS;
        own->for_choices = own->for_choices || i == METRIC_KEY;
    }
    return OK;
}

enum status task_own_config(struct task_own *own, struct task *task, const struct task_line *first)
{
    const struct json *config;
    int64_t tokens;
    TRY(json_object(first->json, "config", first->where, &config, first->err));
    snprintf(own->where, sizeof own->where, "%.490s.config", first->where);
    struct task_line line = {.json = config, .where = own->where, .err = first->err};
    TRY(check_keys(own, &line));
    TRY(read_text(&line, "description", &own->description));
    TRY(read_text(&line, "target_delimiter", &own->target_delimiter));
    TRY(read_text(&line, "fewshot_delimiter", &own->fewshot_delimiter));
    TRY(json_int_or(config, "num_fewshot", line.where, 0, 1000, 0, &own->num_fewshot, line.err));
    TRY(read_metric(&line, task));
    TRY(json_int_or(config, "max_gen_toks", line.where, 1, 1 << 20, own->rules->max_gen_toks, &tokens, line.err));
    own->rules->max_gen_toks = (int32_t)tokens;
    TRY(json_int_or(config, "group_select", line.where, -1000, 1000, 0, &own->rules->group_select, line.err));
    TRY(json_bool_or(config, "ignore_case", line.where, false, &own->rules->ignore_case, line.err));
    TRY(read_list(&line, "until", own->rules, task_rules_add_until));
    TRY(read_list(&line, "regexes_to_ignore", own->rules, task_rules_add_ignored));
    return read_pattern(&line, own->rules, &own->pattern);
}

/* ---- documents ---- */

static enum status copy_text(const struct task_line *line, const char *key, char **to)
{
    const char *text;
    TRY(json_string_or(line->json, key, line->where, NULL, &text, line->err));
    return text ? set_text(to, text, line->err) : OK;
}

/* What is to stand in front: the document's own text, or the description that examples follow. */
static enum status read_front(const struct task_own *own, const struct task_line *line, struct task_doc *doc)
{
    TRY(copy_text(line, "fewshot", &doc->front));
    TRY(copy_text(line, "group", &doc->group));
    if (doc->front && doc->group)
        return err_set(line->err, ERR_INPUT, "%s: has fewshot, which stands for all examples, and group, whose examples are taken; want one of them", line->where);
    if (doc->front) /* as it is */
        return OK;
    if (!doc->group)
        TRY(set_text(&doc->group, "", line->err));
    TRY(set_text(&doc->front, own->description, line->err));
    return copy_text(line, "description", &doc->front);
}

static enum status read_choices(const struct task_own *own, const struct task_line *line, struct task_doc *doc)
{
    const char *context;
    int64_t gold;
    TRY(task_need(line, "context", &context));
    TRY(task_add_choices(line, doc, context, "", "", own->target_delimiter));
    TRY(json_int(line->json, "gold", line->where, 0, doc->n_choices - 1, &gold, line->err));
    doc->gold = (int32_t)gold;
    return OK;
}

/* The reference goes through the pattern, where it is found in it, and through what is ignored, as the model's answer will. */
static enum status read_reference(const struct task_own *own, const struct task_line *line, struct task_doc *doc, const char *answer)
{
    struct text left = {0};
    bool found;
    size_t n = strlen(answer);
    enum status status = task_rules_extract(own->rules, doc->pattern, answer, n, &left, &found, line->err);
    if (status == OK && !found)
        status = task_rules_extract(own->rules, NO_PATTERN, answer, n, &left, &found, line->err);
    if (status == OK && left.n == 0)
        status = err_set(line->err, ERR_INPUT, "%s.answer: '%.100s' leaves nothing to be matched, once blanks and regexes_to_ignore are taken out", line->where,
                         answer);
    if (status == OK)
        status = set_text(&doc->answer, left.s, line->err);
    text_free(&left);
    return status;
}

static enum status read_prompt(const struct task_own *own, const struct task_line *line, struct task_doc *doc)
{
    const char *prompt, *answer;
    TRY(task_need(line, "prompt", &prompt));
    TRY(task_need(line, "answer", &answer));
    doc->pattern = own->pattern;
    TRY(read_pattern(line, own->rules, &doc->pattern));
    TRY(read_reference(own, line, doc, answer));
    return task_add_choice(line, doc, strdup(prompt), own->target_delimiter, answer);
}

enum status task_own_doc(struct task_own *own, const struct task_line *line, struct task_doc *doc)
{
    bool choices = json_member(line->json, "context") || json_member(line->json, "choices") || json_member(line->json, "gold");
    bool answers = json_member(line->json, "prompt") || json_member(line->json, "answer");
    if (json_member(line->json, "config"))
        return err_set(line->err, ERR_INPUT, "%s.config: want it in the first line alone", line->where);
    if (choices == answers)
        return err_set(line->err, ERR_INPUT, "%s: has %s, want either context, choices and gold, or prompt and answer", line->where,
                       choices ? "fields of both kinds" : "no document");
    if ((choices && own->answers) || (answers && own->choices))
        return err_set(line->err, ERR_INPUT, "%s: has %s, the documents before it %s; want one kind in a task", line->where, choices ? "choices" : "a prompt",
                       choices ? "prompts" : "choices");
    own->choices = choices;
    own->answers = answers;
    TRY(read_front(own, line, doc));
    return choices ? read_choices(own, line, doc) : read_prompt(own, line, doc);
}

/* ---- the whole file ---- */

struct numbered {
    int64_t idx;
    size_t line;
};

static int by_idx(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;
    return x->idx != y->idx ? (x->idx > y->idx ? 1 : -1) : (x->line > y->line) - (x->line < y->line);
}

static enum status check_idx(const struct task *task, struct err *err)
{
    struct numbered *all = malloc((task->n + 1) * sizeof *all);
    if (!all)
        return no_memory(err);
    for (size_t i = 0; i < task->n; i++)
        all[i] = (struct numbered){task->doc[i].idx, task->doc[i].line};
    qsort(all, task->n, sizeof *all, by_idx);
    enum status status = OK;
    for (size_t i = 1; status == OK && i < task->n; i++)
        if (all[i].idx == all[i - 1].idx)
            status = err_set(err, ERR_INPUT, "%s:%zu.idx: %lld is that of line %zu too", task->path, all[i].line, (long long)all[i].idx, all[i - 1].line);
    free(all);
    return status;
}

enum status task_own_finish(struct task_own *own, struct task *task, struct err *err)
{
    TRY(check_idx(task, err));
    if (own->answers && own->for_choices)
        return err_set(err, ERR_INPUT, "%s.metric: is for choices, the documents have prompts: their metric is exact_match", own->where);
    if (own->choices && own->for_answers)
        return err_set(err, ERR_INPUT, "%s: has keys for prompts (max_gen_toks, until, pattern, group_select, ignore_case, regexes_to_ignore), the documents have choices",
                       own->where);
    task->has_norm = own->choices;
    if (!own->answers)
        return OK;
    if (own->rules->n_until == 0 && *own->fewshot_delimiter) /* the harness' default */
        TRY(task_rules_add_until(own->rules, own->fewshot_delimiter, task->path, err));
    task->rules = task_rules_share(own->rules);
    return OK;
}
