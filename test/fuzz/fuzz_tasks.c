/* Any bytes as a task file: a user's own, and each of the common-sense tasks; documents are whole, and what counts of an answer is found in any text. */
#include <string.h>

#include "io/tasks.h"
#include "test/fuzz/memfd.h"

static void need(bool good)
{
    if (!good)
        abort();
}

static void check_answer(const struct task_rules *rules, const struct task_doc *d)
{
    struct err err;
    struct text out = {0};
    bool found, same;
    const char *text = d->context[0]; /* as good as any */
    size_t n = strlen(text), end = task_rules_end(rules, text, n, 0);
    need(d->answer && *d->answer && d->pattern >= NO_PATTERN && d->pattern < (int32_t)rules->n_patterns && end <= n);
    text_add(&out, "", 0);
    need(task_rules_extract(rules, d->pattern, text, n, &out, &found, &err) == OK && (found || out.n == 0));
    need(task_rules_same(rules, d->answer, out.s, &same, &err) == OK);
    need(task_rules_same(rules, d->answer, d->answer, &same, &err) == OK && same);
    text_free(&out);
}

static void check(const struct task *task)
{
    need(task->n > 0);
    for (size_t i = 0; i < task->n; i++) {
        const struct task_doc *d = &task->doc[i];
        need(d->n_choices >= 1 && d->n_choices <= MAX_CHOICES && d->gold >= 0 && d->gold < d->n_choices && d->line > 0 && !d->front && !d->group);
        for (int c = 0; c < d->n_choices; c++)
            need(d->context[c] && d->continuation[c] && d->characters[c] >= 0);
        if (task->rules)
            check_answer(task->rules, d);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct task task;
    struct err err;
    char path[64];
    int fd = memfd_of(data, n, path);
    if (task_load_file(&task, "own", path, &err) == OK)
        check(&task);
    task_free(&task);
    const char *name;
    for (size_t i = 0; (name = task_name_at(i)); i++) {
        if (task_load_file(&task, name, path, &err) == OK)
            check(&task);
        task_free(&task);
    }
    close(fd);
    return 0;
}
