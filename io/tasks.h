/* tasks.h: documents of the common-sense tasks, lambada and a user's own ones, as contexts and continuations (lm-evaluation-harness' prompts). */
#ifndef VENEER_TASKS_H
#define VENEER_TASKS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/tasks_rules.h"

enum { MAX_CHOICES = 16, MAX_TASK_NAME = 31 };

struct task_doc {
    int64_t idx;                     /* the document's idx in its file */
    size_t line;                     /* in the file, from 1 */
    int32_t n_choices, gold;
    char *context[MAX_CHOICES];      /* owned; the same pointer for all choices, but in winogrande */
    char *continuation[MAX_CHOICES]; /* owned; begins with the delimiter, " " */
    int32_t characters[MAX_CHOICES]; /* Unicode characters of the choice without the delimiter */
    char part;                       /* 's', 'r' when the file says "split": "search" / "report", else 0 */
    char *answer;                    /* what a written answer is to be, as the rules leave it; owned; NULL: choices */
    int32_t pattern;                 /* of the rules, for a written answer */
    char *group, *front;             /* while examples are looked for (tasks_fewshot.c), then NULL */
};

struct task {
    char name[MAX_TASK_NAME + 1];
    char *path;           /* of its file; owned */
    struct task_doc *doc; /* owned */
    size_t n;
    bool has_norm;        /* acc_norm is reported */
    bool headline_norm;   /* the published metric is acc_norm: hellaswag, arc_challenge, openbookqa */
    bool greedy;          /* lambada: one continuation, accuracy = all tokens greedy */
    bool own;             /* not one of task_name_at: its file has documents of the forms in docs/evaluate.md */
    struct task_rules *rules; /* answers are written, one context a document; NULL: choices */
    int64_t num_fewshot;  /* examples in front of each document */
};

/* Looks for dir/NAME.test.jsonl, NAME.validation.jsonl, NAME_xl.validation.jsonl, NAME_openai.jsonl, NAME.jsonl.  ERR_INPUT: file:line:field.
 * With examples in front where its file says num_fewshot. */
enum status task_load(struct task *task, const char *name, const char *dir, struct err *err);
/* The same with num_fewshot examples, the first ones of dir/NAME.dev.jsonl or NAME.train.jsonl (of the document's group, if it has one); 0: as the file says. */
enum status task_load_fewshot(struct task *task, const char *name, const char *dir, int64_t num_fewshot, struct err *err);
/* One file, without examples. */
enum status task_load_file(struct task *task, const char *name, const char *path, struct err *err);
void task_free(struct task *task);

/* The next name of a list with commas; false: there is none.  A list that task_list_check took. */
bool task_list_next(const char **list, char name[MAX_TASK_NAME + 1]);
/* ERR_INPUT: no name, one that cannot be a file's, one that is there twice, more than `most`.  key: what holds the list. */
enum status task_list_check(const char *list, const char *key, size_t most, struct err *err);

/* Names of the tasks that there are, NULL behind the last; whether the published metric of one is acc_norm. */
const char *task_name_at(size_t i);
bool task_headline_norm(const char *name);

enum task_part { PART_ALL, PART_SEARCH, PART_REPORT };
/* Documents of a part into index[task->n], ascending; returns their number.  Where the file names parts they decide; else the first
 * ceil(share * n) of a fixed Philox order are SEARCH, the rest REPORT.  limit 0: all; else the first `limit` of the part in that order. */
size_t task_split(const struct task *task, enum task_part part, double share, size_t limit, size_t *index);

#endif
