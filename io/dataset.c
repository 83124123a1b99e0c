/* dataset.c: records of a data file -> tokens and labels.  dataset_text.c has the shapes of records and the plain-text reader, dataset_chat.c
 * conversations. */
#include "io/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/gzip.h"
#include "io/dataset_private.h"

/* ---- examples ---- */

enum status dataset_no_memory(const struct loader *load)
{
    return err_set(load->err, ERR_MEMORY, "%s: out of memory for examples", load->path);
}

enum status dataset_add_example(struct loader *load, const int32_t *tokens, const uint8_t *learn, size_t n)
{
    struct dataset *d = load->dataset;
    size_t most = (size_t)load->options->max_seq_len, labelled = 0;
    d->cut += n > most;
    n = n < most ? n : most;
    for (size_t t = 1; t < n; t++)
        labelled += learn[t];
    if (labelled == 0)
        return OK;
    if (d->n == load->cap) {
        size_t cap = load->cap ? 2 * load->cap : 1024;
        struct example *grown = realloc(d->example, cap * sizeof *grown);
        if (!grown)
            return dataset_no_memory(load);
        d->example = grown;
        load->cap = cap;
    }
    struct example e = {.tokens = malloc(n * sizeof *e.tokens), .labels = malloc(n * sizeof *e.labels), .n = (int32_t)n};
    if (!e.tokens || !e.labels) {
        free(e.tokens);
        free(e.labels);
        return dataset_no_memory(load);
    }
    for (size_t t = 0; t < n; t++) {
        e.tokens[t] = tokens[t];
        e.labels[t] = t + 1 < n && learn[t + 1] ? tokens[t + 1] : -1;
    }
    d->example[d->n++] = e;
    d->tokens += n;
    d->labelled += labelled;
    d->longest = (int32_t)n > d->longest ? (int32_t)n : d->longest;
    return OK;
}

/* ---- prompt and answer ---- */

/* The boundary is found in the joint tokens: as many as the prompt alone has, its one BOS among them. */
static enum status add_prompt(struct loader *load, const char *prompt, const char *answer)
{
    struct tokens all = {0}, alone = {0};
    struct text text = {0};
    text_puts(&text, prompt);
    text_puts(&text, answer);
    enum status status = text.failed ? dataset_no_memory(load) : OK;
    int32_t bos = tokenizer_bos_for(load->tokenizer, load->options->bos);
    size_t most = (size_t)load->options->max_seq_len;
    if (status == OK)
        status = tokenizer_encode_bos(load->tokenizer, bos, text.s ? text.s : "", text.n, &all, load->err);
    if (status == OK)
        status = tokenizer_encode_bos(load->tokenizer, bos, prompt, strlen(prompt), &alone, load->err);
    int32_t eos = tokenizer_eos(load->tokenizer);
    if (status == OK && all.n < most && eos >= 0 && (all.n == 0 || all.id[all.n - 1] != eos))
        status = tokens_push(&all, eos, load->err);
    uint8_t *learn = status == OK ? malloc(all.n ? all.n : 1) : NULL;
    if (status == OK && !learn)
        status = dataset_no_memory(load);
    for (size_t t = 0; status == OK && t < all.n; t++)
        learn[t] = load->options->train_on_inputs || t >= alone.n;
    if (status == OK)
        status = dataset_add_example(load, all.id, learn, all.n);
    free(learn);
    text_free(&text);
    tokens_free(&all);
    tokens_free(&alone);
    return status;
}

char *dataset_alpaca_prompt(const char *instruction, const char *input)
{
    struct text t = {0};
    bool has_input = input && *input;
    text_puts(&t, "Below is an instruction that describes a task");
    text_puts(&t, has_input ? ", paired with an input that provides further context. " : ". ");
    text_puts(&t, "Write a response that appropriately completes the request.\n\n### Instruction:\n");
    text_puts(&t, instruction);
    if (has_input) {
        text_puts(&t, "\n\n### Input:\n");
        text_puts(&t, input);
    }
    text_puts(&t, "\n\n### Response:\n");
    if (t.failed)
        text_free(&t);
    return t.s;
}

/* ---- one record ---- */

enum status dataset_need_text(const struct loader *load, const struct json *record, const char *key, const char **out)
{
    TRY(json_string(record, key, load->where, out, load->err));
    if (**out == 0)
        return err_set(load->err, ERR_INPUT, "%s.%s: is empty, want text", load->where, key);
    return OK;
}

static enum status add_alpaca(struct loader *load, const struct json *record)
{
    const char *instruction, *input, *output, *key = json_member(record, "output") ? "output" : "response";
    TRY(dataset_need_text(load, record, "instruction", &instruction));
    TRY(json_string_or(record, "input", load->where, "", &input, load->err));
    if (!json_member(record, key))
        return err_set(load->err, ERR_INPUT, "%s.output: is missing, want a string", load->where);
    TRY(dataset_need_text(load, record, key, &output));
    if (load->options->chat_template && load->options->chat_all)
        return dataset_add_exchange(load, instruction, input, output);
    char *prompt = dataset_alpaca_prompt(instruction, input);
    if (!prompt)
        return dataset_no_memory(load);
    enum status status = add_prompt(load, prompt, output);
    free(prompt);
    return status;
}

static enum status add_completion(struct loader *load, const struct json *record)
{
    const char *prompt, *completion;
    TRY(dataset_need_text(load, record, "prompt", &prompt));
    TRY(dataset_need_text(load, record, "completion", &completion));
    return add_prompt(load, prompt, completion);
}

/* A text is learned whole: from its first token on when a BOS stands before it. */
enum status dataset_add_text(struct loader *load, const char *text, size_t n)
{
    struct tokens all = {0};
    int32_t bos = tokenizer_bos_for(load->tokenizer, load->options->bos), eos = tokenizer_eos(load->tokenizer);
    enum status status = bos >= 0 ? tokens_push(&all, bos, load->err) : OK;
    if (status == OK)
        status = tokenizer_encode(load->tokenizer, text, n, false, &all, load->err);
    if (status == OK && eos >= 0)
        status = tokens_push(&all, eos, load->err);
    for (size_t t = 0; status == OK && load->options->packing && t < all.n; t++)
        status = tokens_push(&load->stream, all.id[t], load->err);
    if (status == OK && !load->options->packing) {
        uint8_t *learn = malloc(all.n ? all.n : 1);
        if (learn)
            memset(learn, 1, all.n);
        status = learn ? dataset_add_example(load, all.id, learn, all.n) : dataset_no_memory(load);
        free(learn);
    }
    tokens_free(&all);
    return status;
}

static enum status add_record(struct loader *load, const struct json *record)
{
    const char *text;
    if (json_type(record) != JSON_OBJECT)
        return err_set(load->err, ERR_INPUT, "%s: got %s, want an object", load->where, json_type_name(json_type(record)));
    if (load->format == DATASET_AUTO)
        TRY(dataset_detect(load, record));
    switch (load->format) {
    case DATASET_ALPACA:
        return add_alpaca(load, record);
    case DATASET_PROMPT:
        return add_completion(load, record);
    case DATASET_MESSAGES:
        return dataset_add_conversation(load, record, false);
    case DATASET_SHAREGPT:
        return dataset_add_conversation(load, record, true);
    default:
        TRY(dataset_need_text(load, record, "text", &text));
        return dataset_add_text(load, text, strlen(text));
    }
}

/* ---- the file ---- */

/* What becomes of a row: with skip_invalid a row that is wrong in itself is no error of the file. */
static enum status taken(const struct loader *load, enum status status)
{
    struct dataset *d = load->dataset;
    if (status != ERR_INPUT || !load->options->skip_invalid)
        return status;
    if (d->skipped++ == 0)
        snprintf(d->first_skipped, sizeof d->first_skipped, "%.255s", load->err->text);
    *load->err = (struct err){{0}};
    return OK;
}

static bool is_full(const struct loader *load)
{
    return load->options->limit && load->dataset->n >= load->options->limit;
}

static enum status read_array(struct loader *load, const char *text, size_t n)
{
    struct json *root;
    size_t i = 0;
    TRY(json_parse(text, n, load->path, &root, load->err));
    enum status status = OK;
    for (const struct json *item = json_first(root); status == OK && item && !is_full(load); item = json_next(item)) {
        snprintf(load->where, sizeof load->where, "%s[%zu]", load->path, i++);
        status = taken(load, add_record(load, item));
    }
    json_free(root);
    return status;
}

static enum status read_lines(struct loader *load, const char *text, size_t n)
{
    size_t at = 0;
    for (size_t number = 1; at < n && !is_full(load); number++) {
        const char *line = text + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        snprintf(load->where, sizeof load->where, "%s:%zu", load->path, number);
        if (length == 0 || (length == 1 && line[0] == '\r'))
            continue;
        struct json *record = NULL;
        enum status status = json_parse(line, length, load->where, &record, load->err);
        if (status == OK)
            status = add_record(load, record);
        json_free(record);
        TRY(taken(load, status));
    }
    return OK;
}

/* Packed text: the stream in rows of max_seq_len; a row's last token is the next row's first, so that each token is predicted once. */
static enum status cut_stream(struct loader *load)
{
    size_t T = (size_t)load->options->max_seq_len;
    uint8_t *learn = malloc(T + 1);
    if (!learn)
        return dataset_no_memory(load);
    memset(learn, 1, T + 1);
    enum status status = OK;
    size_t most = load->options->limit ? load->options->limit : SIZE_MAX;
    for (size_t at = 0; status == OK && at + 1 < load->stream.n && load->dataset->n < most; at += T - 1) {
        size_t n = load->stream.n - at < T ? load->stream.n - at : T;
        status = dataset_add_example(load, load->stream.id + at, learn, n);
    }
    free(learn);
    return status;
}

static enum status read_all(struct loader *load, const char *text, size_t n)
{
    size_t first = 0;
    while (first < n && strchr(" \t\r\n", text[first]))
        first++;
    if (first == n)
        return err_set(load->err, ERR_INPUT, "%s: is empty, want examples", load->path);
    if (text[first] == '[')
        TRY(read_array(load, text, n));
    else if (text[first] == '{')
        TRY(read_lines(load, text, n));
    else if (load->format == DATASET_AUTO || load->format == DATASET_TEXT)
        TRY(dataset_read_text(load, text, n));
    else
        return err_set(load->err, ERR_INPUT, "%s:1: '%c' opens no JSON, want an array or one object a line", load->path, text[first]);
    if (load->stream.n)
        TRY(cut_stream(load));
    if (load->dataset->n == 0 && load->dataset->skipped > 0)
        return err_set(load->err, ERR_INPUT, "%s: all %zu rows were left out, the first: %s", load->path, load->dataset->skipped,
                       load->dataset->first_skipped);
    if (load->dataset->n == 0)
        return err_set(load->err, ERR_INPUT, "%s: no example has a token to learn within %d tokens", load->path, load->options->max_seq_len);
    return OK;
}

enum status dataset_load(struct dataset *dataset, const char *path, const char *format, const struct tokenizer *tokenizer,
                         const struct dataset_options *options, struct err *err)
{
    char *text;
    size_t n;
    struct loader load = {.dataset = dataset, .path = path, .tokenizer = tokenizer, .options = options, .err = err};
    memset(dataset, 0, sizeof *dataset);
    TRY(dataset_format_parse(format, &load.format, err));
    TRY(gzip_read(path, (size_t)1 << 31, &text, &n, err));
    enum status status = read_all(&load, text, n);
    snprintf(dataset->format, sizeof dataset->format, "%s", dataset_format_name(load.format));
    free(text);
    tokens_free(&load.stream);
    chat_template_free(load.chat);
    if (status != OK)
        dataset_free(dataset);
    return status;
}

void dataset_free(struct dataset *dataset)
{
    for (size_t i = 0; i < dataset->n; i++) {
        free(dataset->example[i].tokens);
        free(dataset->example[i].labels);
    }
    free(dataset->example);
    memset(dataset, 0, sizeof *dataset);
}
