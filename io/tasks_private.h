/* tasks_private.h: what the readers of task files share; private to io/tasks*.c. */
#ifndef VENEER_TASKS_PRIVATE_H
#define VENEER_TASKS_PRIVATE_H
#include "io/json.h"
#include "io/tasks.h"

/* A line of a task file. */
struct task_line {
    const struct json *json;
    const char *where; /* "path:number" */
    struct err *err;
};

/* "a" "b" "c" joined, owned by the caller; NULL: out of memory. */
char *task_join(const char *a, const char *b, const char *c);
/* A text that must be there and not be empty. */
enum status task_need(const struct task_line *line, const char *key, const char **out);
/* One more choice: takes context over, which may be the pointer that the choice before it has. */
enum status task_add_choice(const struct task_line *line, struct task_doc *doc, char *context, const char *delimiter, const char *choice);
/* The context before, between and after, for each text of the array "choices". */
enum status task_add_choices(const struct task_line *line, struct task_doc *doc, const char *a, const char *b, const char *c, const char *delimiter);

/* ---- a user's own file (tasks_own.c) ---- */

/* What its first line may say, with lm-evaluation-harness' names and defaults. */
struct task_own {
    char *description, *target_delimiter, *fewshot_delimiter; /* owned */
    int64_t num_fewshot;
    bool for_choices, for_answers; /* it sets what only the one kind of documents has */
    char where[512];               /* the line, when there is one */
    int32_t pattern;               /* of the task's rules */
    struct task_rules *rules;      /* owned; the task's, when its answers are written */
    bool choices, answers;         /* the kind of the documents so far */
};
enum status task_own_open(struct task_own *own, struct err *err);
void task_own_close(struct task_own *own);
/* A line that opens the file may hold {"config": {...}}. */
enum status task_own_config(struct task_own *own, struct task *task, const struct task_line *line);
/* {"context", "choices", "gold"} or {"prompt", "answer", "pattern"}, each with "description", "fewshot", "group". */
enum status task_own_doc(struct task_own *own, const struct task_line *line, struct task_doc *doc);
/* After the last line: the rules go to the task, an idx is there once. */
enum status task_own_finish(struct task_own *own, struct task *task, struct err *err);

/* ---- examples (tasks_fewshot.c) ---- */

/* The documents of a file, appended by its kind; own NULL: one of task_name_at.  config: whether a first line that has one is read or passed over. */
enum status task_read_file(struct task *task, struct task_own *own, const char *path, bool config, struct err *err);
/* Puts description and the first n examples in front of each document's contexts. */
enum status task_add_fewshot(struct task *task, struct task_own *own, const char *dir, int64_t n, struct err *err);

#endif
