/* engine_load.c: the inputs of a job: model head, tokenizer, data, tasks; and what is given back at its end. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "export.h"
#include "io/chat_template.h"
#include "use_device.h"

/* ---- inputs ---- */

bool engine_has_weights(const struct engine *engine)
{
    return !engine->checkpoint || checkpoint_has_weights(engine->checkpoint);
}

static enum status load_model_head(struct engine *engine)
{
    const struct config *config = engine->config;
    if (*config->model) {
        TRY((engine->planning ? checkpoint_open_shapes : checkpoint_open)(&engine->checkpoint, config->model, engine->err));
        TRY(model_config_copy(&engine->base_shape, checkpoint_config(engine->checkpoint), engine->err));
        TRY(model_stored_formats(&engine->stored, engine->checkpoint, engine->err));
    }
    if (!engine_has_weights(engine))
        return OK;
    if (*config->tokenizer) {
        TRY(tokenizer_load_sentencepiece(&engine->own_tokenizer, config->tokenizer, engine->err));
        engine->tokenizer = engine->own_tokenizer;
        return OK;
    }
    return checkpoint_tokenizer(engine->checkpoint, &engine->tokenizer, engine->err);
}

static int bos_of(const struct config *config)
{
    return strcmp(config->bos, "yes") == 0 ? 1 : strcmp(config->bos, "no") == 0 ? 0 : -1;
}

/* The last twentieth (at most 200) of the examples is held out: what is measured on them is not what was trained on. */
static enum status hold_out(struct engine *engine)
{
    size_t n = engine->dataset.n / 20;
    n = n > 200 ? 200 : n;
    if (n < 2)
        return err_set(engine->err, ERR_INPUT, "%s: %zu examples, want at least 40 where some are held out for the objective; or give search_data",
                       engine->config->dataset, engine->dataset.n);
    engine->held_out.example = calloc(n, sizeof *engine->held_out.example);
    if (!engine->held_out.example)
        return err_set(engine->err, ERR_MEMORY, "out of memory for held-out examples");
    engine->dataset.n -= n;
    memcpy(engine->held_out.example, engine->dataset.example + engine->dataset.n, n * sizeof *engine->held_out.example);
    engine->held_out.longest = engine->dataset.longest;
    engine->held_out.n = n;
    engine->held_out_is_tail = true;
    return OK;
}

bool engine_requantizes(const struct config *config)
{
    return strcmp(config->quantizer, "hqq") != 0;
}

static bool needs_held_out(const struct config *config)
{
    bool searches = config_searches(config) && strcmp(config->train_mode, "full") != 0;
    return config_objective(config) != OBJECTIVE_ACCURACY || engine_requantizes(config) || (searches && strcmp(config->search, "autoqra") == 0); /* it measures importance there */
}

/* A text is cut into rows of max_seq_len, one after the other. */
static enum status load_search_data(struct engine *engine, struct dataset_options options)
{
    options.packing = true;
    options.train_on_inputs = true;
    return dataset_load(&engine->held_out, engine->config->search_data, "auto", engine->tokenizer, &options, engine->err);
}

/* The template of conversations: the model's own, or the one that chat_template names, which what is written then carries. */
static enum status choose_template(struct engine *engine, struct dataset_options *options)
{
    const char *name = engine->config->chat_template;
    bool own = !*name || strcmp(name, "model") == 0;
    char *source = NULL;
    if (!own)
        TRY(chat_template_read(name, engine->tokenizer, &source, engine->err));
    enum status status = own                   ? OK
                         : engine->own_tokenizer ? tokenizer_set_chat_template(engine->own_tokenizer, source, engine->err)
                                                 : checkpoint_set_chat_template(engine->checkpoint, source, engine->err);
    free(source);
    options->chat_template = tokenizer_chat_template(engine->tokenizer);
    options->chat_tools = own ? tokenizer_named_chat_template(engine->tokenizer, "tool_use") : NULL;
    options->chat_name = own ? "the model's chat template" : name;
    options->chat_all = *name != 0;
    if (status == OK && *name)
        status = chat_template_first(engine->tokenizer, engine->err);
    if (status == OK && *name && !options->chat_template)
        return err_set(engine->err, ERR_INPUT, "chat_template = model, and the model has none; choose one of %s, or a file", chat_template_names);
    return status;
}

static enum status check_context(const struct engine *engine)
{
    const struct config *config = engine->config;
    int64_t context = engine->checkpoint ? engine->base_shape.max_position_embeddings : config->max_position_embeddings;
    if (config->max_seq_len > context)
        return err_set(engine->err, ERR_INPUT, "max_seq_len = %lld is longer than the model's context of %lld tokens",
                       (long long)config->max_seq_len, (long long)context);
    return OK;
}

static enum status load_data(struct engine *engine)
{
    const struct config *config = engine->config;
    struct dataset_options options = {.max_seq_len = (int32_t)config->max_seq_len,
                                      .train_on_inputs = config->train_on_inputs,
                                      .packing = config->packing,
                                      .skip_invalid = config->skip_invalid,
                                      .bos = bos_of(config)};
    TRY(choose_template(engine, &options));
    TRY(dataset_load(&engine->dataset, config->dataset, config->dataset_format, engine->tokenizer, &options, engine->err));
    log_line(&engine->log, "data: %zu examples (%s%s%s), %llu tokens, %llu in the loss, longest %d", engine->dataset.n,
             engine->dataset.format, *engine->dataset.form ? ", " : "", engine->dataset.form, (unsigned long long)engine->dataset.tokens, (unsigned long long)engine->dataset.labelled,
             engine->dataset.longest);
    if (engine->dataset.skipped > 0)
        log_line(&engine->log, "data: %zu rows were left out (skip_invalid), the first: %s", engine->dataset.skipped, engine->dataset.first_skipped);
    if (*config->calibration_data)
        TRY(dataset_load(&engine->calibration, config->calibration_data, "auto", engine->tokenizer, &options, engine->err));
    if (!needs_held_out(config))
        return OK;
    return *config->search_data ? load_search_data(engine, options) : hold_out(engine);
}

static enum status prepare_part(struct engine *engine, const struct task *task, enum task_part part, struct evaluate_set **set)
{
    const struct config *config = engine->config;
    size_t *index = calloc(task->n ? task->n : 1, sizeof *index);
    if (!index)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a task");
    int64_t limit = part == PART_SEARCH && config->search_eval_limit ? config->search_eval_limit : config->eval_limit;
    size_t n = task_split(task, part, config->eval_split, (size_t)limit, index);
    struct evaluate_options options = {.legacy = strcmp(config->harness, "legacy") == 0,
                                       .bos = bos_of(config) < 0 ? BOS_AUTO : bos_of(config) ? BOS_YES : BOS_NO};
    enum status status = evaluate_prepare(set, task, index, n, engine->tokenizer, &engine->base_shape, &options, engine->err);
    free(index);
    return status;
}

enum status engine_load_tasks(struct engine *engine)
{
    struct trial_tasks *tasks = &engine->tasks;
    if (!*engine->config->eval_data || !*engine->config->eval_tasks || !engine_has_weights(engine))
        return OK;
    TRY(task_list_check(engine->config->eval_tasks, "eval_tasks", MAX_TASKS, engine->err));
    for (const char *list = engine->config->eval_tasks; task_list_next(&list, tasks->name[tasks->n]);) {
        struct task *task = &engine->task[tasks->n];
        TRY(task_load_fewshot(task, tasks->name[tasks->n], engine->config->eval_data, engine->config->num_fewshot, engine->err));
        TRY(prepare_part(engine, task, PART_SEARCH, &tasks->search[tasks->n]));
        TRY(prepare_part(engine, task, PART_REPORT, &tasks->report[tasks->n]));
        tasks->n++;
    }
    return OK;
}

enum status engine_load_inputs(struct engine *engine)
{
    TRY(cpu_check(engine->err));
    TRY(load_model_head(engine));
    TRY(check_context(engine));
    if (!engine_has_weights(engine)) { /* every row as long as it may be */
        engine->dataset.longest = (int32_t)engine->config->max_seq_len;
        return OK;
    }
    if (engine->checkpoint && tokenizer_vocab_size(engine->tokenizer) > engine->base_shape.vocab_size)
        return err_set(engine->err, ERR_INPUT, "%s: the tokenizer has %d pieces, the embedding %d rows", engine->config->model,
                       tokenizer_vocab_size(engine->tokenizer), engine->base_shape.vocab_size);
    /* said now, not after the search */
    bool gguf = config_list_has(engine->config->export_formats, "gguf");
    if (gguf && (export_gguf_tokenizer(engine->tokenizer, engine->err) != OK || export_gguf_rope(&engine->base_shape, engine->err) != OK))
        return err_prefix(engine->err, ERR_INPUT, "%s (export=hf,peft leaves model.gguf out)", engine->config->model);
    TRY(load_data(engine));
    return OK;
}

void engine_free(struct engine *engine)
{
    engine_ratios_free(engine);
    trials_free(&engine->trials);
    model_free(&engine->base);
    model_free(&engine->pruned);
    struct arena *arenas[] = {&engine->base_weights, &engine->weights, &engine->variants, &engine->optimizer, &engine->host_activations,
                              &engine->host_scratch};
    struct arena *of_passes[] = {&engine->importance, &engine->activations, &engine->scratch};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++)
        arena_free(arenas[i]);
    for (size_t i = 0; i < sizeof of_passes / sizeof *of_passes; i++)
        model_release(&engine->ops, of_passes[i]);
    model_mirror_free(&engine->mirror);
    use_device_close(&engine->ops);
    for (size_t i = 0; i < MAX_TASKS; i++) {
        evaluate_free(engine->tasks.search[i]);
        evaluate_free(engine->tasks.report[i]);
        task_free(&engine->task[i]);
    }
    for (int i = 0; i < MILESTONES; i++) {
        free(engine->milestone[i].curve);
        free(engine->milestone[i].level);
    }
    if (engine->held_out_is_tail) {
        engine->dataset.n += engine->held_out.n;
        free(engine->held_out.example);
    } else {
        dataset_free(&engine->held_out);
    }
    dataset_free(&engine->dataset);
    dataset_free(&engine->calibration);
    search_archive_free(&engine->archive);
    search_prior_free(&engine->prior);
    free(engine->known_importance);
    free(engine->known_speed);
    engine_pairs_free(&engine->pairs);
    if (engine->journal.path)
        journal_close(&engine->journal);
    text_free(&engine->trial_notes);
    plan_free(&engine->stored.plan);
    model_config_free(&engine->base_shape);
    model_config_free(&engine->shape);
    checkpoint_close(engine->checkpoint);
    tokenizer_free(engine->own_tokenizer);
    if (engine->log_fd >= 0)
        close(engine->log_fd);
    if (engine->lock_fd >= 0)
        close(engine->lock_fd);
}
