/* evaluate_golden_test.c: a real model on real tasks against lm-evaluation-harness.  Skipped, by name, where the model (make models), the
 * task files or the golden lines (a set that was remade has none) are not there. */
#include "toy.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "golden.h"
#include "evaluate.h"
#include "io/checkpoint.h"

#define MODEL "data/models/SmolLM2-135M-Instruct.Q4_1.gguf"
#define TASKS "../shared/data/commonsense"

enum { DOCUMENTS = 5 }; /* of each task: seconds, not minutes */

static const char *const names[] = {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"};
enum { N_TASKS = sizeof names / sizeof *names };

struct bench {
    struct checkpoint *checkpoint;
    const struct tokenizer *tokenizer;
    struct toy toy;
    struct evaluate_set *set[N_TASKS];
    size_t index[N_TASKS][DOCUMENTS];
    size_t choices, close, documents, same;
};

static void prepare(struct bench *b, int i)
{
    struct err err;
    struct task task;
    size_t n = 0;
    ASSERT_OK(task_load(&task, names[i], TASKS, &err));
    for (size_t k = 0; k < task.n && n < DOCUMENTS; k++)
        b->index[i][n++] = k;
    struct evaluate_options options = {.bos = BOS_AUTO};
    ASSERT_OK(evaluate_prepare(&b->set[i], &task, b->index[i], n, b->tokenizer, checkpoint_config(b->checkpoint), &options, &err));
    task_free(&task);
}

static void open_model(struct bench *b)
{
    struct err err;
    struct plan plan;
    size_t rows = 512;
    const struct model_config *config = checkpoint_config(b->checkpoint);
    ASSERT_OK(plan_new(&plan, config, FORMAT_F32, &err));
    ASSERT_OK(model_shape(&b->toy.model, config, &plan, &err));
    plan_free(&plan);
    for (int i = 0; i < N_TASKS; i++)
        rows = size_max(rows, evaluate_rows(b->set[i]));
    for (int pass = 0; pass < 2; pass++) {
        model_place(&b->toy.model, FORMAT_F32, &b->toy.weights);
        if (pass == 0)
            ASSERT_OK(arena_commit(&b->toy.weights, "weights", &err));
    }
    ASSERT_OK(model_load(&b->toy.model, b->checkpoint, &err));
    toy_place(&b->toy, rows, 1, 1, false);
}

/* The golden line of a document. */
static void compare(struct bench *b, const char *text, size_t n, const struct evaluate_sample *s, bool has_norm)
{
    struct err err;
    struct json *line;
    const struct json *want;
    int64_t right;
    ASSERT_OK(json_parse(text, n, "golden", &line, &err));
    ASSERT_OK(json_int(line, "label", "golden", 0, 15, &right, &err));
    assert_int_equal(s->gold, right);
    ASSERT_OK(json_array(line, "loglikelihoods", "golden", &want, &err));
    assert_int_equal(json_size(want), s->n_choices);
    for (int c = 0; c < s->n_choices; c++) {
        double x;
        ASSERT_OK(json_as_number(json_at(want, (size_t)c), "golden", &x, &err));
        b->choices++;
        b->close += fabs(s->loglikelihood[c] - x) <= 0.02;
    }
    ASSERT_OK(json_int(line, "acc", "golden", 0, 1, &right, &err));
    bool same = s->acc == right;
    ASSERT_OK(json_int(line, "acc_norm", "golden", 0, 1, &right, &err));
    same = same && (!has_norm || s->acc_norm == right);
    b->documents++;
    b->same += same;
    json_free(line);
}

static void score(struct bench *b, int i)
{
    struct err err;
    struct evaluate_result r;
    const struct evaluate_sample *samples;
    char name[64], path[512], *text;
    size_t size, number = 0, done = 0;
    snprintf(name, sizeof name, "eval/smollm2_%s.jsonl", names[i]);
    ASSERT_OK(file_read(golden_path(path, name), 1 << 26, &text, &size, &err));
    ASSERT_OK(evaluate_run(b->set[i], 1, &b->toy.run, &b->toy.model, NULL, &r, &samples, &err));
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, number++)
        if (done < r.n && samples[done].idx == (int64_t)number)
            compare(b, line, (size_t)(end - line), &samples[done++], isfinite(r.acc_norm));
    assert_int_equal(done, r.n);
    free(text);
}

static void log_likelihoods_are_those_of_the_harness(void **state)
{
    (void)state;
    struct err err;
    char path[512];
    if (access(MODEL, R_OK) != 0 || access(TASKS, R_OK) != 0 || access(golden_path(path, "eval"), R_OK) != 0)
        skip();
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    ASSERT_OK(checkpoint_open(&b->checkpoint, MODEL, &err));
    ASSERT_OK(checkpoint_tokenizer(b->checkpoint, &b->tokenizer, &err));
    for (int i = 0; i < N_TASKS; i++)
        prepare(b, i);
    open_model(b);
    for (int i = 0; i < N_TASKS; i++)
        score(b, i);
    print_message("  %zu of %zu choices within 0.02 nats; acc and acc_norm of %zu of %zu documents\n", b->close, b->choices, b->same,
                  b->documents);
    assert_true(100 * b->close >= 99 * b->choices);
    assert_int_equal(b->same, b->documents);
    for (int i = 0; i < N_TASKS; i++)
        evaluate_free(b->set[i]);
    toy_close(&b->toy);
    checkpoint_close(b->checkpoint);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(log_likelihoods_are_those_of_the_harness)};
    return cmocka_run_group_tests_name("evaluate_golden", tests, NULL, NULL);
}
