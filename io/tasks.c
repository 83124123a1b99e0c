/* tasks.c: the prompts of the common-sense tasks, from one JSON object a line; tasks_own.c has a user's own documents, tasks_fewshot.c the examples in front. */
#include "io/tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/tasks_private.h"

/* ---- a document ---- */

char *task_join(const char *a, const char *b, const char *c)
{
    size_t na = strlen(a), nb = strlen(b), nc = strlen(c);
    char *s = malloc(na + nb + nc + 1);
    if (!s)
        return NULL;
    memcpy(s, a, na);
    memcpy(s + na, b, nb);
    memcpy(s + na + nb, c, nc + 1);
    return s;
}

static int32_t characters(const char *s)
{
    int32_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80; /* continuation bytes open no character */
    return n;
}

enum status task_add_choice(const struct task_line *line, struct task_doc *doc, char *context, const char *delimiter, const char *choice)
{
    int c = doc->n_choices;
    doc->context[c] = context;
    doc->continuation[c] = task_join(delimiter, choice, "");
    doc->characters[c] = characters(choice);
    doc->n_choices++;
    if (!doc->context[c] || !doc->continuation[c])
        return err_set(line->err, ERR_MEMORY, "%s: out of memory", line->where);
    return OK;
}

/* One of the common-sense tasks. */
static enum status add_choice(const struct task_line *line, struct task_doc *doc, char *context, const char *choice)
{
    return task_add_choice(line, doc, context, " ", choice);
}

/* Of the array "choices"; the right one's index is read by the caller. */
enum status task_add_choices(const struct task_line *line, struct task_doc *doc, const char *a, const char *b, const char *c, const char *delimiter)
{
    const struct json *choices;
    TRY(json_array(line->json, "choices", line->where, &choices, line->err));
    size_t n = json_size(choices);
    if (n < 2 || n > MAX_CHOICES)
        return err_set(line->err, ERR_INPUT, "%s.choices: %zu choices, want 2 to %d", line->where, n, MAX_CHOICES);
    for (const struct json *item = json_first(choices); item; item = json_next(item)) {
        const char *choice;
        TRY(json_as_string(item, line->where, &choice, line->err));
        if (!*choice)
            return err_set(line->err, ERR_INPUT, "%s.choices: one is empty, want text", line->where);
        TRY(task_add_choice(line, doc, doc->n_choices ? doc->context[0] : task_join(a, b, c), delimiter, choice));
    }
    return OK;
}

static enum status add_choices(const struct task_line *line, struct task_doc *doc, const char *a, const char *b, const char *c)
{
    return task_add_choices(line, doc, a, b, c, " ");
}

enum status task_need(const struct task_line *line, const char *key, const char **out)
{
    TRY(json_string(line->json, key, line->where, out, line->err));
    if (!**out)
        return err_set(line->err, ERR_INPUT, "%s.%s: is empty, want text", line->where, key);
    return OK;
}

static enum status read_boolq(const struct task_line *line, struct task_doc *doc)
{
    const char *passage, *question;
    TRY(task_need(line, "question", &question));
    TRY(task_need(line, "passage", &passage));
    char *before = task_join(passage, "\nQuestion: ", question);
    if (!before)
        return err_set(line->err, ERR_MEMORY, "%s: out of memory", line->where);
    enum status status = add_choice(line, doc, task_join(before, "?\nAnswer:", ""), "no");
    free(before);
    return status == OK ? add_choice(line, doc, doc->context[0], "yes") : status;
}

static enum status read_piqa(const struct task_line *line, struct task_doc *doc)
{
    const char *goal;
    TRY(task_need(line, "goal", &goal));
    return add_choices(line, doc, "Question: ", goal, "\nAnswer:");
}

static enum status read_arc(const struct task_line *line, struct task_doc *doc)
{
    const char *question;
    TRY(task_need(line, "question", &question));
    return add_choices(line, doc, "Question: ", question, "\nAnswer:");
}

static enum status read_openbookqa(const struct task_line *line, struct task_doc *doc)
{
    const char *stem;
    TRY(task_need(line, "question_stem", &stem));
    return add_choices(line, doc, stem, "", "");
}

/* The harness writes "activity: context"; the files hold the context already cleaned. */
static enum status read_hellaswag(const struct task_line *line, struct task_doc *doc)
{
    const char *activity, *context;
    TRY(json_string_or(line->json, "activity_label", line->where, "", &activity, line->err));
    TRY(task_need(line, "ctx", &context));
    return add_choices(line, doc, activity, *activity ? ": " : "", context);
}

/* Each option fills the blank; what stands behind it is scored. */
static enum status read_winogrande(const struct task_line *line, struct task_doc *doc)
{
    const char *sentence;
    const struct json *choices;
    TRY(task_need(line, "sentence", &sentence));
    TRY(json_array(line->json, "choices", line->where, &choices, line->err));
    const char *blank = strchr(sentence, '_');
    if (!blank || json_size(choices) != 2)
        return err_set(line->err, ERR_INPUT, "%s.sentence: want one with a blank _ and two choices", line->where);
    const char *rest = blank + 1;
    while (*rest == ' ')
        rest++;
    size_t n = strlen(rest);
    while (n && (rest[n - 1] == ' ' || rest[n - 1] == '\n'))
        n--;
    char *before = strndup(sentence, (size_t)(blank - sentence)), *after = strndup(rest, n);
    enum status status = before && after ? OK : err_set(line->err, ERR_MEMORY, "%s: out of memory", line->where);
    if (status == OK && n == 0)
        status = err_set(line->err, ERR_INPUT, "%s.sentence: nothing stands behind the blank", line->where);
    for (const struct json *item = json_first(choices); status == OK && item; item = json_next(item)) {
        const char *option;
        status = json_as_string(item, line->where, &option, line->err);
        if (status == OK)
            status = add_choice(line, doc, task_join(before, option, ""), after);
    }
    free(before);
    free(after);
    return status;
}

/* The last word is asked for.  The files hold the whole text, or the two sides of that cut. */
static enum status read_lambada(const struct task_line *line, struct task_doc *doc)
{
    const char *text, *context, *word;
    if (!json_member(line->json, "text") && json_member(line->json, "context")) {
        TRY(task_need(line, "context", &context));
        TRY(task_need(line, "continuation", &word));
        return add_choice(line, doc, strdup(context), word);
    }
    TRY(task_need(line, "text", &text));
    const char *space = strrchr(text, ' ');
    if (!space || space == text || !space[1])
        return err_set(line->err, ERR_INPUT, "%s.text: want at least two words", line->where);
    return add_choice(line, doc, strndup(text, (size_t)(space - text)), space + 1);
}

/* ---- the table of tasks ---- */

struct task_kind {
    const char *name;
    enum status (*read)(const struct task_line *line, struct task_doc *doc);
    bool has_norm, headline_norm, greedy;
};

static const struct task_kind kinds[] = {
    {"boolq", read_boolq, false, false, false},         {"piqa", read_piqa, true, false, false},
    {"hellaswag", read_hellaswag, true, true, false},   {"winogrande", read_winogrande, false, false, false},
    {"arc_easy", read_arc, true, false, false},         {"arc_challenge", read_arc, true, true, false},
    {"openbookqa", read_openbookqa, true, true, false}, {"lambada", read_lambada, false, false, true},
};

const char *task_name_at(size_t i)
{
    return i < sizeof kinds / sizeof *kinds ? kinds[i].name : NULL;
}

bool task_headline_norm(const char *name)
{
    for (size_t i = 0; task_name_at(i); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return kinds[i].headline_norm;
    return false;
}

static const struct task_kind *kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    return NULL;
}

/* ---- a file ---- */

/* doc->idx is set to what it is when the line does not say. */
static enum status read_doc(const struct task_kind *kind, struct task_own *own, const struct task_line *line, struct task_doc *doc)
{
    const char *split;
    int64_t label = 0;
    TRY(json_int_or(line->json, "idx", line->where, 0, JSON_MAX_INT, doc->idx, &doc->idx, line->err));
    TRY(json_string_or(line->json, "split", line->where, "", &split, line->err));
    doc->part = strcmp(split, "search") == 0 ? 's' : strcmp(split, "report") == 0 ? 'r' : 0;
    if (!kind)
        return task_own_doc(own, line, doc);
    TRY(kind->read(line, doc));
    if (!kind->greedy)
        TRY(json_int(line->json, "label", line->where, 0, doc->n_choices - 1, &label, line->err));
    doc->gold = (int32_t)label;
    return OK;
}

static enum status grow(struct task *task, size_t *cap, struct err *err)
{
    if (task->n < *cap)
        return OK;
    size_t more = *cap ? 2 * *cap : 256;
    struct task_doc *grown = realloc(task->doc, more * sizeof *grown);
    if (!grown)
        return err_set(err, ERR_MEMORY, "out of memory for task %s", task->name);
    task->doc = grown;
    *cap = more;
    return OK;
}

/* Documents of a user's own are counted from 0 as they come, those of the common-sense tasks by line. */
static enum status read_line(struct task *task, struct task_own *own, const struct task_line *line, size_t number, struct err *err)
{
    struct task_doc *doc = &task->doc[task->n];
    *doc = (struct task_doc){.idx = (int64_t)(own ? task->n : number - 1), .line = number, .pattern = NO_PATTERN};
    task->n++; /* counted first: what it holds is freed even when it failed half-way */
    if (json_type(line->json) != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "%s: got %s, want an object", line->where, json_type_name(json_type(line->json)));
    return read_doc(own ? NULL : kind_of(task->name), own, line, doc);
}

static enum status read_lines(struct task *task, struct task_own *own, const char *text, size_t n, bool config, struct err *err)
{
    size_t cap = 0, at = 0;
    bool first = true;
    for (size_t number = 1; at < n; number++) {
        const char *start = text + at, *end = memchr(start, '\n', n - at);
        size_t length = end ? (size_t)(end - start) : n - at;
        char where[512];
        at += length + 1;
        if (length == 0 || (length == 1 && *start == '\r'))
            continue;
        snprintf(where, sizeof where, "%s:%zu", task->path, number);
        struct json *json;
        TRY(grow(task, &cap, err));
        TRY(json_parse(start, length, where, &json, err));
        struct task_line line = {.json = json, .where = where, .err = err};
        bool opens = first && own && json_member(json, "config");
        enum status status = !opens ? read_line(task, own, &line, number, err) : config ? task_own_config(own, task, &line) : OK;
        json_free(json);
        TRY(status);
        first = false;
    }
    return task->n ? OK : err_set(err, ERR_INPUT, "%s: is empty, want documents of %s", task->path, task->name);
}

enum status task_read_file(struct task *task, struct task_own *own, const char *path, bool config, struct err *err)
{
    char *text;
    size_t n;
    task->path = strdup(path);
    if (!task->path)
        return err_set(err, ERR_MEMORY, "out of memory for task %s", task->name);
    TRY(file_read(path, (size_t)1 << 30, &text, &n, err));
    enum status status = read_lines(task, own, text, n, config, err);
    free(text);
    return status;
}

/* ---- a task ---- */

static char *find_file(const char *name, const char *dir, struct text *tried)
{
    static const char *const endings[] = {".test.jsonl", ".validation.jsonl", "_xl.validation.jsonl", "_openai.jsonl", ".jsonl"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s%s", name, endings[i]);
        char *path = path_join(dir, file);
        if (path && access(path, R_OK) == 0)
            return path;
        text_printf(tried, "%s%s", i ? ", " : "", file);
        free(path);
    }
    return NULL;
}

static enum status no_file(const char *name, const char *dir, const char *tried, struct err *err)
{
    if (kind_of(name))
        return err_set(err, ERR_INPUT, "%s: has no data of task %s, want one of: %s", dir, name, tried);
    return err_set(err, ERR_INPUT,
                   "%s: has no data of task %s, want one of: %s; it is none of boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa, lambada, so "
                   "it is a task of your own (docs/evaluate.md)",
                   dir, name, tried);
}

/* dir NULL: no examples. */
static enum status load(struct task *task, const char *name, const char *path, const char *dir, int64_t num_fewshot, struct err *err)
{
    const struct task_kind *kind = kind_of(name);
    struct task_own own;
    memset(task, 0, sizeof *task);
    snprintf(task->name, sizeof task->name, "%s", name);
    task->own = !kind;
    if (kind) {
        task->has_norm = kind->has_norm;
        task->headline_norm = kind->headline_norm;
        task->greedy = kind->greedy;
    }
    enum status status = task_own_open(&own, err);
    if (status == OK)
        status = task_read_file(task, kind ? NULL : &own, path, true, err);
    if (status == OK && !kind)
        status = task_own_finish(&own, task, err);
    if (status == OK)
        status = task_add_fewshot(task, kind ? NULL : &own, dir, !dir ? 0 : num_fewshot > 0 ? num_fewshot : own.num_fewshot, err);
    task_own_close(&own);
    if (status != OK)
        task_free(task);
    return status;
}

enum status task_load_file(struct task *task, const char *name, const char *path, struct err *err)
{
    return load(task, name, path, NULL, 0, err);
}

enum status task_load_fewshot(struct task *task, const char *name, const char *dir, int64_t num_fewshot, struct err *err)
{
    struct text tried = {0};
    memset(task, 0, sizeof *task);
    TRY(task_list_check(name, "task", 1, err));
    char *path = find_file(name, dir, &tried);
    enum status status = path ? load(task, name, path, dir, num_fewshot, err) : no_file(name, dir, tried.s ? tried.s : "", err);
    text_free(&tried);
    free(path);
    return status;
}

enum status task_load(struct task *task, const char *name, const char *dir, struct err *err)
{
    return task_load_fewshot(task, name, dir, 0, err);
}

void task_free(struct task *task)
{
    for (size_t i = 0; i < task->n; i++) {
        struct task_doc *d = &task->doc[i];
        for (int c = 0; c < d->n_choices; c++) {
            if (c == 0 || d->context[c] != d->context[0])
                free(d->context[c]);
            free(d->continuation[c]);
        }
        free(d->answer);
        free(d->group);
        free(d->front);
    }
    free(task->doc);
    free(task->path);
    task_rules_free(task->rules);
    memset(task, 0, sizeof *task);
}

/* ---- lists of names ---- */

bool task_list_next(const char **list, char name[MAX_TASK_NAME + 1])
{
    size_t n = strcspn(*list, ",");
    if (**list == 0)
        return false;
    snprintf(name, MAX_TASK_NAME + 1, "%.*s", (int)n, *list);
    *list += n + ((*list)[n] == ',');
    return true;
}

static bool is_there(const char *list, const char *end, const char *name, size_t n)
{
    for (const char *p = list; p < end; p += strcspn(p, ",") + 1)
        if (strcspn(p, ",") == n && strncmp(p, name, n) == 0)
            return true;
    return false;
}

enum status task_list_check(const char *list, const char *key, size_t most, struct err *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t count = 0;
    for (const char *p = list; *p; count++) {
        size_t n = strcspn(p, ",");
        if (n == 0 || n > MAX_TASK_NAME || strspn(p, letters) < n || *p == '.' || *p == '-')
            return err_set(err, ERR_INPUT, "%s: '%.*s' is no name of a task, want 1 to %d letters, digits, '_', '-' and '.'", key, (int)(n < 100 ? n : 100), p,
                           MAX_TASK_NAME);
        if (is_there(list, p, p, n))
            return err_set(err, ERR_INPUT, "%s: names '%.*s' twice", key, (int)n, p);
        if (count == most)
            return err_set(err, ERR_INPUT, "%s: names more than %zu tasks", key, most);
        p += n + (p[n] == ',');
    }
    return count ? OK : err_set(err, ERR_INPUT, "%s: names no task", key);
}

/* ---- parts ---- */

static int by_index(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

size_t task_split(const struct task *task, enum task_part part, double share, size_t limit, size_t *index)
{
    uint32_t *order = malloc((task->n ? task->n : 1) * sizeof *order);
    bool named = false;
    size_t k = 0;
    if (!order)
        return 0;
    for (size_t i = 0; i < task->n; i++) {
        order[i] = (uint32_t)i;
        named = named || task->doc[i].part;
    }
    struct rng rng = {.seed = 20241121, .stream = RNG_DATA_ORDER, .step = (uint32_t)task->n};
    rng_shuffle(&rng, order, task->n);
    size_t first = (size_t)((double)task->n * share + 0.999999); /* ceil */
    for (size_t i = 0; i < task->n; i++) {
        bool search = named ? task->doc[order[i]].part == 's' : i < first;
        bool mine = part == PART_ALL || (part == PART_SEARCH) == search;
        if (mine && (limit == 0 || k < limit))
            index[k++] = order[i];
    }
    free(order);
    qsort(index, k, sizeof *index, by_index);
    return k;
}
