/* evaluate_compare.h: finished evaluations against each other, document by document.
 *
 * Models that answered the same documents are compared on these, which is sharper than two means with their errors: what all find easy or hard cancels.
 * What it is not: it runs no model. */
#ifndef VENEER_EVALUATE_COMPARE_H
#define VENEER_EVALUATE_COMPARE_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"

enum { ANSWERS_TASKS = 16 };

struct answer {
    int64_t idx;   /* of the document in its task */
    uint8_t right; /* by the task's headline metric: exact_match of a written answer; acc_norm for hellaswag, arc_challenge, openbookqa, and where the task's file
                    * says so; else acc */
};

/* What one model answered. */
struct answers {
    char name[64]; /* last part of the path */
    struct {
        char name[32];
        struct answer *answer; /* [n] owned, ascending in idx */
        size_t n;
    } task[ANSWERS_TASKS];
    size_t n_tasks;
    double size, peak, seconds; /* bytes of the stored model, measured peak, time of the run; NaN but for a folder */
};

/* path: a folder that train wrote (eval/samples_TASK.jsonl), the file of `evaluate --json`, or that of `evaluate --samples` (.jsonl).  answers_free also after a
 * failure.  ERR_INPUT: no answer is in it, a document twice, file:line:field. */
enum status answers_read(struct answers *answers, const char *path, struct err *err);
void answers_free(struct answers *answers);

struct comparison {
    size_t n;                     /* documents that both answered */
    size_t only_a, only_b;        /* right in one alone */
    double a, b;                  /* accuracy on them; several tasks: mean over tasks */
    double low, high;             /* 95 % interval of a - b: percentiles of 2000 bootstrap samples, documents drawn anew within each task (Efron 1979) */
    double p;                     /* exact McNemar test (1947): how often a fair coin splits only_a + only_b as unevenly */
};
/* task: a name, or NULL for all tasks that both have.  NaN where n = 0. */
enum status answers_compare(const struct answers *a, const struct answers *b, const char *task, struct comparison *comparison, struct err *err);

/* Two: a line a task.  More: a line each, against the first one.  Markdown. */
enum status answers_print(const struct answers *answers, size_t n, struct text *out, struct err *err);

#endif
