/* tasks.c: the prompts of the common-sense tasks, from one JSON object a line. */
#include "io/tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/json.h"

/* ---- a document ---- */

struct line {
    const struct json *json;
    const char *where;
    struct err *err;
};

/* "a" "b" "c" joined, owned by the caller. */
static char *join(const char *a, const char *b, const char *c)
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

static enum status add_choice(const struct line *line, struct task_doc *doc, char *context, const char *choice)
{
    int c = doc->n_choices;
    doc->context[c] = context;
    doc->continuation[c] = join(" ", choice, "");
    doc->characters[c] = characters(choice);
    doc->n_choices++;
    if (!doc->context[c] || !doc->continuation[c])
        return err_set(line->err, ERR_MEMORY, "%s: out of memory", line->where);
    return OK;
}

/* The same context for each of "choices"; label is the index of the right one. */
static enum status add_choices(const struct line *line, struct task_doc *doc, const char *a, const char *b, const char *c)
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
        TRY(add_choice(line, doc, join(a, b, c), choice));
    }
    return OK;
}

static enum status need(const struct line *line, const char *key, const char **out)
{
    TRY(json_string(line->json, key, line->where, out, line->err));
    if (!**out)
        return err_set(line->err, ERR_INPUT, "%s.%s: is empty, want text", line->where, key);
    return OK;
}

static enum status read_boolq(const struct line *line, struct task_doc *doc)
{
    const char *passage, *question;
    TRY(need(line, "question", &question));
    TRY(need(line, "passage", &passage));
    char *before = join(passage, "\nQuestion: ", question);
    if (!before)
        return err_set(line->err, ERR_MEMORY, "%s: out of memory", line->where);
    static const char *const answers[] = {"no", "yes"};
    enum status status = OK;
    for (int c = 0; status == OK && c < 2; c++)
        status = add_choice(line, doc, join(before, "?\nAnswer:", ""), answers[c]);
    free(before);
    return status;
}

static enum status read_piqa(const struct line *line, struct task_doc *doc)
{
    const char *goal;
    TRY(need(line, "goal", &goal));
    return add_choices(line, doc, "Question: ", goal, "\nAnswer:");
}

static enum status read_arc(const struct line *line, struct task_doc *doc)
{
    const char *question;
    TRY(need(line, "question", &question));
    return add_choices(line, doc, "Question: ", question, "\nAnswer:");
}

static enum status read_openbookqa(const struct line *line, struct task_doc *doc)
{
    const char *stem;
    TRY(need(line, "question_stem", &stem));
    return add_choices(line, doc, stem, "", "");
}

/* The harness writes "activity: context"; the files hold the context already cleaned. */
static enum status read_hellaswag(const struct line *line, struct task_doc *doc)
{
    const char *activity, *context;
    TRY(json_string_or(line->json, "activity_label", line->where, "", &activity, line->err));
    TRY(need(line, "ctx", &context));
    return add_choices(line, doc, activity, *activity ? ": " : "", context);
}

/* Each option fills the blank; what stands behind it is scored. */
static enum status read_winogrande(const struct line *line, struct task_doc *doc)
{
    const char *sentence;
    const struct json *choices;
    TRY(need(line, "sentence", &sentence));
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
            status = add_choice(line, doc, join(before, option, ""), after);
    }
    free(before);
    free(after);
    return status;
}

/* The last word is asked for.  The files hold the whole text, or the two sides of that cut. */
static enum status read_lambada(const struct line *line, struct task_doc *doc)
{
    const char *text, *context, *word;
    if (!json_member(line->json, "text") && json_member(line->json, "context")) {
        TRY(need(line, "context", &context));
        TRY(need(line, "continuation", &word));
        return add_choice(line, doc, strdup(context), word);
    }
    TRY(need(line, "text", &text));
    const char *space = strrchr(text, ' ');
    if (!space || space == text || !space[1])
        return err_set(line->err, ERR_INPUT, "%s.text: want at least two words", line->where);
    return add_choice(line, doc, strndup(text, (size_t)(space - text)), space + 1);
}

/* ---- the table of tasks ---- */

struct task_kind {
    const char *name;
    enum status (*read)(const struct line *line, struct task_doc *doc);
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

static enum status read_doc(const struct task_kind *kind, const struct line *line, struct task_doc *doc, int64_t number)
{
    const char *split;
    int64_t label = 0;
    TRY(json_int_or(line->json, "idx", line->where, 0, JSON_MAX_INT, number, &doc->idx, line->err));
    TRY(json_string_or(line->json, "split", line->where, "", &split, line->err));
    doc->part = strcmp(split, "search") == 0 ? 's' : strcmp(split, "report") == 0 ? 'r' : 0;
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

static enum status read_file(struct task *task, const struct task_kind *kind, const char *path, const char *text, size_t n, struct err *err)
{
    size_t cap = 0, at = 0;
    for (size_t number = 1; at < n; number++) {
        const char *start = text + at, *end = memchr(start, '\n', n - at);
        size_t length = end ? (size_t)(end - start) : n - at;
        char where[512];
        at += length + 1;
        if (length == 0)
            continue;
        snprintf(where, sizeof where, "%s:%zu", path, number);
        struct json *json;
        TRY(grow(task, &cap, err));
        TRY(json_parse(start, length, where, &json, err));
        struct task_doc *doc = &task->doc[task->n];
        memset(doc, 0, sizeof *doc);
        task->n++;
        struct line line = {.json = json, .where = where, .err = err};
        enum status status = read_doc(kind, &line, doc, (int64_t)number - 1);
        json_free(json);
        TRY(status);
    }
    return task->n ? OK : err_set(err, ERR_INPUT, "%s: is empty, want documents of %s", path, task->name);
}

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

enum status task_load(struct task *task, const char *name, const char *dir, struct err *err)
{
    const struct task_kind *kind = NULL;
    memset(task, 0, sizeof *task);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0)
            kind = &kinds[i];
    if (!kind)
        return err_set(err, ERR_INPUT, "unknown task '%s', want boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge, openbookqa or lambada", name);
    snprintf(task->name, sizeof task->name, "%s", name);
    task->has_norm = kind->has_norm;
    task->headline_norm = kind->headline_norm;
    task->greedy = kind->greedy;
    struct text tried = {0};
    char *path = find_file(name, dir, &tried), *text = NULL;
    size_t n = 0;
    enum status status = path ? OK : err_set(err, ERR_INPUT, "%s: has no data of task %s, want one of: %s", dir, name, tried.s ? tried.s : "");
    text_free(&tried);
    if (status == OK)
        status = file_read(path, (size_t)1 << 30, &text, &n, err);
    if (status == OK)
        status = read_file(task, kind, path, text, n, err);
    free(text);
    free(path);
    if (status != OK)
        task_free(task);
    return status;
}

void task_free(struct task *task)
{
    for (size_t i = 0; i < task->n; i++)
        for (int c = 0; c < task->doc[i].n_choices; c++) {
            free(task->doc[i].context[c]);
            free(task->doc[i].continuation[c]);
        }
    free(task->doc);
    memset(task, 0, sizeof *task);
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
