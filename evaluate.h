/* evaluate.h: scores a model: multiple choice and written answers as lm-evaluation-harness does, perplexity, divergence from a reference. */
#ifndef VENEER_EVALUATE_H
#define VENEER_EVALUATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "io/dataset.h"
#include "io/tasks.h"
#include "io/tokenizer.h"
#include "model.h"

enum evaluate_bos { BOS_AUTO, BOS_YES, BOS_NO };

struct evaluate_options {
    bool legacy;            /* context and continuation tokenized apart, as LLM-Pruner's harness */
    enum evaluate_bos bos;
    size_t max_length;      /* tokens; 0: the model's context */
};

/* A task made ready once: tokens of every document, choices batched over their common prefix. */
struct evaluate_set; /* opaque */
/* Documents index[n] of task->doc, or the first n when index is NULL.  The task may be freed afterwards, the tokenizer must stay; *set is NULL on failure.
 * ERR_INPUT: no document, a choice without tokens, a BOS that is wanted and not there; a document of a user's own that the model's window does not hold, or
 * whose prompt leaves no room for max_gen_toks in it (the common-sense tasks lose their left, as in the harness). */
enum status evaluate_prepare(struct evaluate_set **set, const struct task *task, const size_t *index, size_t n,
                             const struct tokenizer *tokenizer, const struct model_config *config,
                             const struct evaluate_options *options, struct err *err);
void evaluate_free(struct evaluate_set *set);
/* Rows of the largest single document: run->max_n must hold it; 0 when answers are written. */
size_t evaluate_rows(const struct evaluate_set *set);
/* Bytes that evaluate_run takes beside its run (whose ops are `ops`; on a device, of its memory), to have a model with adapters of up to max_rank write answers: the context of the longest; 0 for choices. */
size_t evaluate_bytes(const struct evaluate_set *set, const struct model *model, size_t max_rank, const struct ops_context *ops);

struct evaluate_result {
    char task[32];
    size_t n;
    int64_t num_fewshot;
    bool exact_match;                 /* answers are written: acc is the share of exact matches */
    double acc, acc_stderr;
    double acc_norm, acc_norm_stderr; /* NaN where the task has none (boolq, winogrande) */
    double headline, headline_stderr; /* the metric of the published tables, or that the task's file asks for */
    bool headline_norm;               /* it is acc_norm */
    double perplexity;                /* lambada, else NaN */
};

/* What a model wrote. */
struct evaluate_answer {
    const char *target;    /* what is right */
    const char *written;   /* up to the first stop string */
    const char *extracted; /* the part that counts; NULL: the pattern is not in it */
};

struct evaluate_sample {
    int64_t idx;
    int32_t n_choices, gold;
    double *loglikelihood; /* [n_choices] nats */
    bool acc, acc_norm;    /* acc: of a written answer whether it is an exact match */
    const struct evaluate_answer *answer; /* NULL: choices */
    const char *headline;  /* "acc_norm" where a user's own task has it as its metric, else NULL */
};

/* True when the sample counts as right in its task's headline. */
bool evaluate_is_right(const struct evaluate_set *set, const struct evaluate_sample *sample);
/* Documents of a set, in the order of evaluate_prepare, with what the last evaluate_run made of them. */
const struct evaluate_sample *evaluate_samples(const struct evaluate_set *set);
size_t evaluate_count(const struct evaluate_set *set);

/* Scores a share of a set (1: all documents; else the first ones, at least one), several at a time.  samples [those scored], optional: their loglikelihood arrays are owned by the set. */
enum status evaluate_run(struct evaluate_set *set, double share, struct model_run *run, const struct model *model, const struct lora *lora,
                         struct evaluate_result *result, const struct evaluate_sample **samples, struct err *err);

/* Mean headline over tasks and its variance: sum p(1-p)/N / tasks^2. */
void evaluate_mean(const struct evaluate_result *results, size_t n, double *mean, double *variance);
/* lm-eval style JSON of results ({"results": {task: {"acc,none": ...}}, ...}); extra: further top-level members, or NULL. */
void evaluate_print_json(const struct evaluate_result *results, size_t n, const char *extra, struct text *out);
/* A table for people: task, n, acc, acc_norm, and exact_match if some task has it, with +- stderr. */
void evaluate_print_table(const struct evaluate_result *results, size_t n, struct text *out);
/* One document as a JSON object: {task, idx, loglikelihoods, label, acc, acc_norm}, or {task, idx, target, resps, filtered_resps, exact_match}; and documents, a
 * line each. */
void evaluate_print_sample(const char *task, const struct evaluate_sample *sample, bool has_norm, struct text *out);
void evaluate_print_samples(const char *task, const struct evaluate_sample *samples, size_t n, bool has_norm, struct text *out);

/* The tokens of a text file, BOS in front where the tokenizer wants one; special tokens are not looked for.  ERR_INPUT. */
enum status evaluate_read_text(const struct tokenizer *tokenizer, const char *path, struct tokens *tokens, struct err *err);
/* exp(mean nll) of a text by non-overlapping windows of `window` tokens (each scored for window-1 tokens). */
enum status evaluate_perplexity(struct model_run *run, const struct model *model, const struct lora *lora,
                                const int32_t *tokens, size_t n, size_t window, double *perplexity, size_t *scored,
                                struct err *err);
/* Means, nats a token, and the variances of the means over sequences. */
struct evaluate_divergences {
    double kl, kl_variance;    /* KL(reference || model) */
    double jsd, jsd_variance;  /* Jensen-Shannon, at most log 2 */
    double nll, reference_nll; /* of the text itself: exp of it is the perplexity of either model */
    size_t tokens;
};
/* Over windows of a text, each scored for window-1 tokens; variances are NaN. */
enum status evaluate_divergence(struct model_run *run, const struct model *model, const struct lora *lora,
                                struct model_run *reference_run, const struct model *reference, const struct lora *reference_lora,
                                const int32_t *tokens, size_t n, size_t window, struct evaluate_divergences *divergences, struct err *err);

/* Bytes that it takes beside the two runs, where their kernels are. */
size_t evaluate_divergence_bytes(const struct model *model, size_t window);

/* A text and what a reference model says of it, for holding many models against it: hidden states after the final norm are kept. */
struct evaluate_reference; /* opaque */
/* The first sequences of `text` (borrowed) until max_tokens are reached (0: all); run and model are borrowed too, and must stay.  ERR_INPUT: no
 * sequence; ERR_FAILED: one that is longer than run->max_n. */
enum status evaluate_reference_new(struct evaluate_reference **reference, const struct dataset *text, size_t max_tokens, struct model_run *run,
                                   const struct model *model, struct err *err);
void evaluate_reference_free(struct evaluate_reference *reference);
/* On a device all that is kept lies in its memory.  Bytes that it will take, for batches up to `capacity` rows. */
size_t evaluate_reference_bytes(const struct dataset *text, size_t max_tokens, size_t capacity, size_t C, size_t V);

/* Means over sequences of the mean over their tokens; nll is NaN.  share: of the sequences, the first ones, at least one; 1: all. */
enum status evaluate_against(struct evaluate_reference *reference, double share, struct model_run *run, const struct model *model,
                             const struct lora *lora, struct evaluate_divergences *divergences, struct err *err);
#endif
