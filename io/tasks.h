/* tasks.h: documents of the common-sense tasks and lambada, as contexts and continuations (lm-evaluation-harness' prompts). */
#ifndef VENEER_TASKS_H
#define VENEER_TASKS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { MAX_CHOICES = 16 };

struct task_doc {
    int64_t idx;                     /* the document's idx in its file */
    int32_t n_choices, gold;
    char *context[MAX_CHOICES];      /* owned; all the same text but in winogrande */
    char *continuation[MAX_CHOICES]; /* owned; begins with the delimiter " " */
    int32_t characters[MAX_CHOICES]; /* Unicode characters of the choice without the delimiter */
    char part;                       /* 's', 'r' when the file says "split": "search" / "report", else 0 */
};

struct task {
    char name[32];
    struct task_doc *doc; /* owned */
    size_t n;
    bool has_norm;        /* acc_norm is reported */
    bool headline_norm;   /* the published metric is acc_norm: hellaswag, arc_challenge, openbookqa */
    bool greedy;          /* lambada: one continuation, accuracy = all tokens greedy */
};

/* Looks for dir/NAME.test.jsonl, NAME.validation.jsonl, NAME_xl.validation.jsonl, NAME_openai.jsonl, NAME.jsonl.  ERR_INPUT: file:line:field. */
enum status task_load(struct task *task, const char *name, const char *dir, struct err *err);
void task_free(struct task *task);

/* Names of the tasks that there are, NULL behind the last; whether the published metric of one is acc_norm. */
const char *task_name_at(size_t i);
bool task_headline_norm(const char *name);

enum task_part { PART_ALL, PART_SEARCH, PART_REPORT };
/* Documents of a part into index[task->n], ascending; returns their number.  Where the file names parts they decide; else the first
 * ceil(share * n) of a fixed Philox order are SEARCH, the rest REPORT.  limit 0: all; else the first `limit` of the part in that order. */
size_t task_split(const struct task *task, enum task_part part, double share, size_t limit, size_t *index);

#endif
