/* tasks_fewshot.c: examples in front of a document: description, then for each example its context, its right answer and a delimiter. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/stop.h"
#include "io/tasks_private.h"

static enum status no_memory(const struct task *task, struct err *err)
{
    return err_set(err, ERR_MEMORY, "out of memory for the examples of task %s", task->name);
}

static enum status find_examples(const struct task *task, const char *dir, int64_t n, char **path, struct err *err)
{
    static const char *const endings[] = {"dev", "train"};
    for (int i = 0; i < 2; i++) {
        char file[64];
        snprintf(file, sizeof file, "%s.%s.jsonl", task->name, endings[i]);
        *path = path_join(dir, file);
        if (!*path)
            return no_memory(task, err);
        if (access(*path, R_OK) == 0)
            return OK;
        free(*path);
    }
    *path = NULL;
    return err_set(err, ERR_INPUT, "%s: num_fewshot = %lld wants examples of task %s in %s.dev.jsonl or %s.train.jsonl", dir, (long long)n, task->name, task->name,
                   task->name);
}

static const char *group_of(const struct task_doc *doc)
{
    return doc->group ? doc->group : "";
}

/* The first n examples of a group as one text. */
static enum status group_text(const struct task *examples, const char *group, const char *delimiter, int64_t n, struct text *out, struct err *err)
{
    int64_t found = 0;
    for (size_t i = 0; i < examples->n && found < n; i++) {
        const struct task_doc *d = &examples->doc[i];
        if (strcmp(group_of(d), group) != 0)
            continue;
        text_puts(out, d->context[d->gold]);
        text_puts(out, d->continuation[d->gold]);
        text_puts(out, delimiter);
        found++;
    }
    if (found < n && *group)
        return err_set(err, ERR_INPUT, "%s: has %lld examples of group '%.100s', num_fewshot = %lld", examples->path, (long long)found, group, (long long)n);
    if (found < n)
        return err_set(err, ERR_INPUT, "%s: has %lld examples%s, num_fewshot = %lld", examples->path, (long long)found, examples->own ? " without a group" : "",
                       (long long)n);
    return out->failed ? no_memory(examples, err) : OK;
}

/* front stands before every context of the document from now on. */
static enum status put_front(const struct task *task, struct task_doc *doc, const char *front, const char *examples, struct err *err)
{
    char *shared = doc->context[0];
    for (int c = 0; c < doc->n_choices; c++) {
        if (c > 0 && doc->context[c] == shared) {
            doc->context[c] = doc->context[0];
            continue;
        }
        char *whole = task_join(front, examples, doc->context[c]);
        if (!whole)
            return no_memory(task, err);
        if (c > 0)
            free(doc->context[c]);
        doc->context[c] = whole;
    }
    free(shared);
    return OK;
}

/* Documents of one group stand together mostly: the last group's text is kept. */
static enum status put_fronts(struct task *task, const struct task *examples, const char *delimiter, int64_t n, struct err *err)
{
    struct text text = {0};
    const char *of = NULL;
    enum status status = OK;
    for (size_t i = 0; status == OK && i < task->n; i++) {
        struct task_doc *d = &task->doc[i];
        bool takes = n > 0 && (!task->own || d->group); /* a text of its own stands for examples */
        status = stop_check(err);
        if (status == OK && takes && (!of || strcmp(of, group_of(d)) != 0)) {
            text_clear(&text);
            text_add(&text, "", 0);
            of = group_of(d);
            status = group_text(examples, of, delimiter, n, &text, err);
        }
        if (status == OK && (takes || d->front))
            status = put_front(task, d, d->front ? d->front : "", takes ? text.s : "", err);
    }
    text_free(&text);
    return status;
}

static void forget_fronts(struct task *task)
{
    for (size_t i = 0; i < task->n; i++) {
        free(task->doc[i].group);
        free(task->doc[i].front);
        task->doc[i].group = task->doc[i].front = NULL;
    }
}

enum status task_add_fewshot(struct task *task, struct task_own *own, const char *dir, int64_t n, struct err *err)
{
    struct task examples = {.own = task->own};
    char *path = NULL;
    memcpy(examples.name, task->name, sizeof examples.name);
    enum status status = n > 0 ? find_examples(task, dir, n, &path, err) : OK;
    if (status == OK && path)
        status = task_read_file(&examples, own, path, false, err);
    if (status == OK)
        status = put_fronts(task, &examples, own ? own->fewshot_delimiter : "\n\n", n, err);
    task->num_fewshot = n;
    forget_fronts(task);
    task_free(&examples);
    free(path);
    return status;
}
