/* evaluate.c: the roof of scoring: tasks, perplexity, divergence. */
#include <math.h>

#include "base/file.h"
#include "evaluate.h"
#include "evaluate_compare.h"
#include "inference.h"
#include "tools/roof.h"

static const char usage[] =
    "usage: evaluate MODEL [--adapter DIR] --data DIR --tasks boolq,piqa,... [options]\n"
    "       evaluate MODEL [--adapter DIR] --perplexity FILE [--window N]\n"
    "       evaluate MODEL [--adapter DIR] --kl REFERENCE --text FILE [--window N]\n"
    "       evaluate --compare A B [C ...]\n"
    "\n"
    "MODEL: a Hugging Face folder, a .gguf file, the model/ folder that train wrote, or a llama2.c .bin.\n"
    "\n"
    "  --data DIR          folder of the task files\n"
    "  --tasks A,B,...     boolq piqa hellaswag winogrande arc_easy arc_challenge openbookqa lambada; any other name is a task of your\n"
    "                      own, DIR/NAME.test.jsonl or DIR/NAME.jsonl, a document a line: {\"context\", \"choices\", \"gold\"}, or\n"
    "                      {\"prompt\", \"answer\", \"pattern\"} for answers that the model writes (docs/evaluate.md: MMLU, GSM8K)\n"
    "  --num-fewshot N     examples in front of each document, the first ones of DIR/NAME.dev.jsonl or DIR/NAME.train.jsonl;\n"
    "                      0: as the task's file says, else none (0)\n"
    "  --first I           skip the first I documents of each task (0)\n"
    "  --limit N           documents of each task; 0: all (0)\n"
    "  --harness current|legacy   context and choice tokenized together, as lm-evaluation-harness does today, or apart and without\n"
    "                      a begin-of-text token, as the one of 2023 that LLM-Pruner carries (current)\n"
    "  --bos auto|yes|no   a begin-of-text token in front (auto: as the tokenizer's models expect)\n"
    "  --samples FILE      one JSON line a document: log-likelihoods in nats, acc, acc_norm; or what was written, exact_match\n"
    "  --json FILE         results in lm-evaluation-harness' form, with every document's; - is stdout\n"
    "  --compare A B ...   no model is run: accuracies of finished runs, on the documents that both answered, with the 95 % interval of\n"
    "                      the difference (bootstrap) and McNemar's test; each a file of --json or --samples, or a folder that train wrote.\n"
    "                      Two: a line a task; more: a line each, against the first\n"
    "  --perplexity FILE   exp(mean nll) of a text in windows of --window tokens (256)\n"
    "  --kl REFERENCE      divergence (Kullback-Leibler, Jensen-Shannon) from a reference model on --text, and both perplexities\n"
    "  --batch N           rows at once (1024)\n"
    "  --compute-dtype T   f32, bf16 (faster, log-likelihoods off by some 0.05), int8 (faster and coarser still; on a GPU it is bf16), or\n"
    "                      auto: bf16 or what this CPU has that is at least as exact (f32)\n"
    "  --threads N         0: one a core (0)\n"
    "  --device D          cuda: the GPU (docs/cuda.md); cpu; auto: the GPU if there is one that can be used (auto)\n"
    "  --quiet             no progress lines\n"
    "  --help, --version\n"
    "\n"
    "environment: VENEER_CPU = avx512_bf16, avx512, avx2, neon, plain or ref: kernels of that instruction set instead of the best that\n"
    "             the CPU has; ref is the plain C that all of them are held to, slow\n"
    "exit: 0 done, 1 failed, 2 wrong usage or input, 3 not enough memory, 75 stopped\n";

struct options {
    const char *model, *adapter, *data, *tasks, *harness, *bos, *samples, *json, *perplexity, *kl, *text, *compute_dtype, *device;
    struct ops_context kernels;
    long long first, limit, num_fewshot, window, batch, threads;
    bool quiet;
};

static enum status parse(int argc, char **argv, struct options *o, struct err *err)
{
    struct {
        const char *name, **text;
        long long *number, low, high;
    } table[] = {{"--adapter", &o->adapter, NULL, 0, 0},
                 {"--data", &o->data, NULL, 0, 0},
                 {"--tasks", &o->tasks, NULL, 0, 0},
                 {"--harness", &o->harness, NULL, 0, 0},
                 {"--bos", &o->bos, NULL, 0, 0},
                 {"--samples", &o->samples, NULL, 0, 0},
                 {"--json", &o->json, NULL, 0, 0},
                 {"--perplexity", &o->perplexity, NULL, 0, 0},
                 {"--kl", &o->kl, NULL, 0, 0},
                 {"--text", &o->text, NULL, 0, 0},
                 {"--compute-dtype", &o->compute_dtype, NULL, 0, 0},
                 {"--device", &o->device, NULL, 0, 0},
                 {"--first", NULL, &o->first, 0, 1 << 30},
                 {"--limit", NULL, &o->limit, 0, 1 << 30},
                 {"--num-fewshot", NULL, &o->num_fewshot, 0, 1000},
                 {"--window", NULL, &o->window, 2, 1 << 20},
                 {"--batch", NULL, &o->batch, 1, 1 << 20},
                 {"--threads", NULL, &o->threads, 0, 1024}};
    for (int i = 1; i < argc; i++) {
        const char *value;
        size_t k = 0, n = sizeof table / sizeof *table;
        while (k < n && !roof_option(argc, argv, &i, table[k].name, &value))
            k++;
        if (k < n && table[k].number)
            TRY(roof_int(table[k].name, value, table[k].low, table[k].high, table[k].number, err));
        else if (k < n && !value)
            return err_set(err, ERR_INPUT, "%s without a value", table[k].name);
        else if (k < n)
            *table[k].text = value;
        else if (strcmp(argv[i], "--quiet") == 0)
            o->quiet = true;
        else if (argv[i][0] == '-' && argv[i][1])
            return err_set(err, ERR_INPUT, "unknown option '%s'; --help lists what there is", argv[i]);
        else if (o->model)
            return err_set(err, ERR_INPUT, "a second model '%s'", argv[i]);
        else
            o->model = argv[i];
    }
    if (!o->model)
        return err_set(err, ERR_INPUT, "no model is named; --help says how");
    if (!o->tasks && !o->perplexity && !o->kl)
        return err_set(err, ERR_INPUT, "want --tasks, --perplexity or --kl");
    if (o->tasks && !o->data)
        return err_set(err, ERR_INPUT, "--tasks wants --data DIR, the folder of the task files");
    if (o->kl && !o->text)
        return err_set(err, ERR_INPUT, "--kl wants --text FILE");
    if (strcmp(o->harness, "current") != 0 && strcmp(o->harness, "legacy") != 0)
        return err_set(err, ERR_INPUT, "--harness %s, want current or legacy", o->harness);
    if (strcmp(o->bos, "auto") != 0 && strcmp(o->bos, "yes") != 0 && strcmp(o->bos, "no") != 0)
        return err_set(err, ERR_INPUT, "--bos %s, want auto, yes or no", o->bos);
    return roof_kernels(o->device, o->compute_dtype, &o->kernels, err);
}

/* ---- tasks ---- */

enum { MOST_TASKS = 16 };

struct scoring {
    const struct options *o;
    struct inference *in;
    struct evaluate_result result[MOST_TASKS];
    struct task task[MOST_TASKS];
    struct evaluate_set *set[MOST_TASKS];
    size_t n;
    struct text samples, documents; /* lines; and "TASK": [...], of the same */
};

static enum status prepare(struct scoring *s, struct err *err)
{
    struct evaluate_options options = {.legacy = strcmp(s->o->harness, "legacy") == 0,
                                       .bos = strcmp(s->o->bos, "yes") == 0  ? BOS_YES
                                              : strcmp(s->o->bos, "no") == 0 ? BOS_NO
                                                                             : BOS_AUTO};
    char name[MAX_TASK_NAME + 1];
    TRY(task_list_check(s->o->tasks, "--tasks", MOST_TASKS, err));
    for (const char *list = s->o->tasks; task_list_next(&list, name); s->n++) {
        struct task *task = &s->task[s->n];
        TRY(task_load_fewshot(task, name, s->o->data, s->o->num_fewshot, err));
        size_t first = (size_t)s->o->first < task->n ? (size_t)s->o->first : task->n, left = task->n - first;
        size_t count = s->o->limit && (size_t)s->o->limit < left ? (size_t)s->o->limit : left;
        size_t *index = malloc((count + 1) * sizeof *index);
        if (!index)
            return err_set(err, ERR_MEMORY, "out of memory for task %s", name);
        for (size_t i = 0; i < count; i++)
            index[i] = first + i;
        enum status status = evaluate_prepare(&s->set[s->n], task, index, count, s->in->tokenizer, &s->in->model.config, &options, err);
        free(index);
        if (status != OK) {
            s->n++;
            return status;
        }
    }
    return OK;
}

static enum status score(struct scoring *s, struct err *err)
{
    size_t rows = (size_t)s->o->batch;
    TRY(prepare(s, err));
    for (size_t i = 0; i < s->n; i++)
        rows = evaluate_rows(s->set[i]) > rows ? evaluate_rows(s->set[i]) : rows;
    TRY(inference_place(s->in, rows, err));
    for (size_t i = 0; i < s->n; i++) {
        const struct evaluate_sample *samples;
        TRY(evaluate_run(s->set[i], 1, &s->in->run, &s->in->model, inference_lora(s->in), &s->result[i], &samples, err));
        if (!s->o->quiet)
            fprintf(stderr, "%s: %zu documents, %s %.4f\n", s->result[i].task, s->result[i].n, s->result[i].exact_match ? "exact_match" : "acc", s->result[i].acc);
        evaluate_print_samples(s->result[i].task, samples, s->result[i].n, s->task[i].has_norm, &s->samples);
        text_printf(&s->documents, "%s\n    \"%s\": [", i ? "," : "", s->result[i].task);
        for (size_t k = 0; k < s->result[i].n; k++) {
            text_puts(&s->documents, k ? ",\n      " : "\n      ");
            evaluate_print_sample(s->result[i].task, &samples[k], s->task[i].has_norm, &s->documents);
        }
        text_puts(&s->documents, "]");
    }
    return OK;
}

static enum status write_results(struct scoring *s, struct err *err)
{
    struct text table = {0}, json = {0}, extra = {0};
    enum status status = OK;
    text_puts(&extra, "\"config\": {\"model\": ");
    text_json_string(&extra, s->o->model, strlen(s->o->model));
    text_printf(&extra, ", \"harness\": \"%s\", \"bos\": \"%s\", \"limit\": %lld},\n  \"samples\": {", s->o->harness, s->o->bos, s->o->limit);
    text_add(&extra, s->documents.s ? s->documents.s : "", s->documents.n);
    text_puts(&extra, "}");
    evaluate_print_json(s->result, s->n, extra.s, &json);
    evaluate_print_table(s->result, s->n, &table);
    bool to_stdout = s->o->json && strcmp(s->o->json, "-") == 0;
    if (table.failed || json.failed || extra.failed || s->samples.failed || s->documents.failed)
        status = err_set(err, ERR_MEMORY, "out of memory for results");
    if (status == OK && fputs(to_stdout ? json.s : table.s, stdout) < 0)
        status = err_set(err, ERR_FAILED, "standard output cannot be written");
    if (status == OK && s->o->json && !to_stdout)
        status = file_write(s->o->json, json.s, json.n, err);
    if (status == OK && s->o->samples)
        status = file_write(s->o->samples, s->samples.s ? s->samples.s : "", s->samples.n, err);
    text_free(&table);
    text_free(&json);
    text_free(&extra);
    return status;
}

static enum status run_tasks(const struct options *o, struct inference *in, struct err *err)
{
    struct scoring s = {.o = o, .in = in};
    enum status status = score(&s, err);
    if (status == OK)
        status = write_results(&s, err);
    for (size_t i = 0; i < s.n; i++) {
        evaluate_free(s.set[i]);
        task_free(&s.task[i]);
    }
    text_free(&s.samples);
    text_free(&s.documents);
    return status;
}

/* ---- text ---- */

static enum status run_perplexity(const struct options *o, struct inference *in, const struct tokens *tokens, struct err *err)
{
    double perplexity;
    size_t scored;
    TRY(evaluate_perplexity(&in->run, &in->model, inference_lora(in), tokens->id, tokens->n, (size_t)o->window, &perplexity, &scored, err));
    printf("perplexity %.4f over %zu tokens in windows of %lld\n", perplexity, scored, o->window);
    return OK;
}

static enum status run_divergence(const struct options *o, struct inference *in, const struct tokens *tokens, struct err *err)
{
    struct inference reference;
    struct evaluate_divergences d;
    const struct inference_options options = {.threads = (int)o->threads, .compute = o->kernels.compute, .device = o->kernels.device};
    enum status status = inference_open(&reference, o->kl, &options, err);
    if (status == OK)
        status = inference_place(&reference, (size_t)o->window, err);
    if (status == OK)
        status = evaluate_divergence(&in->run, &in->model, inference_lora(in), &reference.run, &reference.model, NULL, tokens->id, tokens->n,
                                     (size_t)o->window, &d, err);
    if (status == OK)
        printf("KL %.6f nats a token, Jensen-Shannon divergence %.6f; perplexity %.4f, of the reference %.4f, over %zu tokens in windows of %lld\n", d.kl, d.jsd,
               exp(d.nll), exp(d.reference_nll), d.tokens, o->window);
    inference_close(&reference);
    return status;
}

static enum status run_text(const struct options *o, struct inference *in, struct err *err)
{
    struct tokens tokens = {0};
    TRY(inference_place(in, (size_t)o->window, err));
    enum status status = evaluate_read_text(in->tokenizer, o->perplexity ? o->perplexity : o->text, &tokens, err);
    if (status == OK)
        status = (o->perplexity ? run_perplexity : run_divergence)(o, in, &tokens, err);
    tokens_free(&tokens);
    return status;
}

/* ---- finished runs ---- */

enum { MOST_RUNS = 256 };

static enum status print_comparison(char **path, size_t n, struct err *err)
{
    struct answers *answers = calloc(n, sizeof *answers);
    struct text table = {0};
    enum status status = answers ? OK : err_set(err, ERR_MEMORY, "out of memory for answers");
    for (size_t i = 0; i < n && status == OK; i++)
        status = answers_read(&answers[i], path[i], err);
    if (status == OK)
        status = answers_print(answers, n, &table, err);
    if (status == OK && table.failed)
        status = err_set(err, ERR_MEMORY, "out of memory for a table");
    if (status == OK && fputs(table.s, stdout) < 0)
        status = err_set(err, ERR_FAILED, "standard output cannot be written");
    for (size_t i = 0; answers && i < n; i++)
        answers_free(&answers[i]);
    free(answers);
    text_free(&table);
    return status;
}

static enum status compare(int argc, char **argv, struct err *err)
{
    for (int i = 2; i < argc; i++)
        if (argv[i][0] == '-')
            return err_set(err, ERR_INPUT, "--compare takes finished runs alone, got '%s'", argv[i]);
    if (argc < 4 || argc - 2 > MOST_RUNS)
        return err_set(err, ERR_INPUT, "--compare wants 2 to %d finished runs, got %d", MOST_RUNS, argc - 2);
    return print_comparison(argv + 2, (size_t)(argc - 2), err);
}

int main(int argc, char **argv)
{
    struct options o = {.harness = "current", .compute_dtype = "f32", .device = "auto", .bos = "auto", .window = 256, .batch = 1024};
    struct inference in;
    struct err err = {{0}};
    int code;
    if (roof_asked(argc, argv, usage, &code))
        return code;
    roof_start(argv);
    stop_install();
    bool compares = argc > 1 && strcmp(argv[1], "--compare") == 0;
    enum status status = compares ? compare(argc, argv, &err) : parse(argc, argv, &o, &err);
    if (compares && status == OK)
        return 0;
    if (status != OK)
        return roof_fail("evaluate", status, &err);
    roof_threads("evaluate", o.threads, o.quiet);
    roof_device("evaluate", &o.kernels, o.quiet);
    const struct inference_options open = {.adapter = o.adapter, .threads = (int)o.threads, .compute = o.kernels.compute, .device = o.kernels.device};
    status = inference_open(&in, o.model, &open, &err);
    if (status == OK)
        status = o.tasks ? run_tasks(&o, &in, &err) : run_text(&o, &in, &err);
    inference_close(&in);
    use_device_close(&o.kernels);
    return status == OK ? 0 : roof_fail("evaluate", status, &err);
}
