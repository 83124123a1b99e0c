/* evaluate_private.h: documents made ready for a model; private to the evaluation. */
#ifndef VENEER_EVALUATE_PRIVATE_H
#define VENEER_EVALUATE_PRIVATE_H
#include "evaluate.h"

/* A document made ready: what all choices have in common, then each choice's own rows.
 * tokens: | prefix (shared) | rest of choice 0 | rest of choice 1 | ...; a choice's rest begins with the last shared input token, since
 * that row predicts the first token in which the choices differ.  For a written answer: the prompt's tokens. */
struct ready {
    int64_t idx;
    int32_t gold, n_choices;
    int32_t prefix;                  /* rows shared by all choices */
    int32_t *tokens, *labels;        /* [rows] */
    int32_t rows;
    int32_t start[MAX_CHOICES], len[MAX_CHOICES]; /* own rows of a choice */
    int32_t characters[MAX_CHOICES];
};

/* A written answer: what is wanted, and what came. */
struct written {
    int32_t pattern;          /* of the rules */
    char *target;             /* owned */
    struct text text, part;
    struct evaluate_answer answer; /* of these, for the sample */
};

struct evaluate_set {
    char task[32];
    bool has_norm, headline_norm, greedy, own;
    int64_t num_fewshot;
    struct ready *doc;
    struct evaluate_sample *sample;
    double *loglikelihood; /* [n * MAX_CHOICES] */
    bool *all_greedy;      /* [n] */
    size_t n, most_rows;
    /* written answers; rules NULL: choices */
    struct task_rules *rules; /* shared */
    const struct tokenizer *tokenizer;
    struct written *written; /* [n] */
    /* a batch under way */
    struct batch batch;
    int32_t *tokens, *positions, *labels;
    struct segment *segments;
    double *nll;
    uint8_t *is_greedy;
    size_t capacity;
};

/* What tokens of a pair depend on besides its text. */
struct encoder {
    const struct tokenizer *tokenizer;
    int32_t bos;    /* put in front of a context; -1: none */
    int32_t prefix; /* stands for an empty context */
    bool legacy, own;
    size_t max_length;
};

/* "document 7", or the line of its file, for messages. */
const char *evaluate_where(const struct task *task, const struct task_doc *doc, char where[512]);
/* The text's own tokens, with BOS, into out. */
enum status evaluate_encode_context(struct tokens *out, const struct encoder *encoder, const char *text, size_t n, struct err *err);

/* ---- written answers (evaluate_generate.c) ---- */
enum status evaluate_ready_prompt(struct evaluate_set *set, struct ready *ready, struct written *written, const struct task *task, const struct task_doc *doc,
                                  const struct encoder *encoder, struct err *err);
void evaluate_free_written(struct written *written);
/* The first `count` documents answered and judged: acc of their samples. */
enum status evaluate_write_answers(struct evaluate_set *set, size_t count, const struct model_run *run, const struct model *model, const struct lora *lora,
                                   struct err *err);

#endif
