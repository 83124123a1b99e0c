/* engine_output.c: the files that a finished job leaves in output_dir. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cuda/device.h"
#include "engine.h"
#include "export.h"
#include "veneer.h"

static enum status write_text(struct engine *engine, const char *name, struct text *text)
{
    char *path = path_join(engine->config->output_dir, name);
    enum status status = path && !text->failed ? file_write(path, text->s ? text->s : "", text->n, engine->err)
                                               : err_set(engine->err, ERR_MEMORY, "out of memory for %s", name);
    free(path);
    text_free(text);
    return status;
}

/* ---- search/ ---- */

static void print_levels(const struct engine *engine, const uint8_t *level, struct text *out)
{
    for (size_t v = 0; v < engine->space.n; v++)
        if (engine->space.kind[v] == SEARCH_RATIO)
            text_printf(out, " pruning_ratio=%g", engine->ratio[level[v]].value);
        else if (engine->space.kind[v] == SEARCH_RANK)
            text_printf(out, "%sr%d", v ? " " : "", engine->trials.rank[level[v]]);
        else
            text_printf(out, "%s%s", v ? " " : "", trials_level_name(&engine->trials, level[v]));
}

static enum status write_pareto(struct engine *engine)
{
    struct text out = {0};
    const struct search_archive *a = &engine->archive;
    size_t *front = calloc(a->n ? a->n : 1, sizeof *front);
    if (!front)
        return err_set(engine->err, ERR_MEMORY, "out of memory for the front");
    size_t n = search_front(a, front);
    text_printf(&out, "trial,size_bytes,score,stderr,failed,short,on_front,pick,levels%s\n", engine->space.time ? ",tokens_per_second" : "");
    for (size_t i = 0; i < a->n; i++) {
        const struct search_point *p = &a->point[i];
        bool on_front = false;
        for (size_t k = 0; k < n; k++)
            on_front = on_front || front[k] == i;
        text_printf(&out, "%zu,%.0f,", i, p->size);
        if (p->failed)
            text_puts(&out, ",,1,");
        else
            text_printf(&out, "%.6f,%.6f,0,", p->score, sqrt(p->variance));
        text_printf(&out, "%d,%d,%d,", p->low_fidelity, on_front, i == engine->pick);
        print_levels(engine, p->level, &out);
        if (engine->space.time)
            text_printf(&out, ",%.2f", 1 / p->time);
        text_puts(&out, "\n");
    }
    free(front);
    return write_text(engine, "search/pareto.csv", &out);
}

/* A plan as another run can take it: with several ratios, at the one that its first line says. */
static void print_plan(const struct engine *engine, const uint8_t *level, const struct plan *plan, struct text *out)
{
    if (engine->n_ratios)
        text_printf(out, "# pruning_ratio = %g\n", engine->ratio[engine_ratio_of(engine, level)].value);
    plan_print(plan, out);
}

/* Every configuration of the front as a plan: plan = search/front/trial-7.txt. */
static enum status write_front(struct engine *engine)
{
    const struct search_archive *a = &engine->archive;
    size_t *front = calloc(a->n ? a->n : 1, sizeof *front), n = front ? search_front(a, front) : 0;
    char *dir = path_join(engine->config->output_dir, "search/front");
    enum status status = front && dir ? OK : err_set(engine->err, ERR_MEMORY, "out of memory for the front");
    if (status == OK && n > 0)
        status = dir_make(dir, engine->err);
    for (size_t i = 0; status == OK && i < n; i++) {
        struct plan plan;
        struct text out = {0};
        char name[64];
        snprintf(name, sizeof name, "search/front/trial-%zu.txt", front[i]);
        const uint8_t *level = a->point[front[i]].level;
        status = trials_plan(engine_trials_of(engine, level), level, &plan, engine->err);
        if (status != OK)
            break;
        print_plan(engine, level, &plan, &out);
        plan_free(&plan);
        status = write_text(engine, name, &out);
    }
    free(dir);
    free(front);
    return status;
}

/* ---- eval/ ---- */

static void print_row(struct text *out, const char *name, const struct trial_outcome *o)
{
    text_printf(out, "\"%s\": {\"size_bytes\": %.0f, \"mean\": %.17g, \"mean_stderr\": %.17g", name, o->size, o->score,
                sqrt(o->variance));
    for (size_t i = 0; i < o->n_tasks; i++)
        text_printf(out, ", \"%s\": %.17g", o->task[i].task, o->task[i].headline);
    text_puts(out, "}");
}

static enum status write_results(struct engine *engine)
{
    struct text out = {0}, extra = {0};
    const struct trial_outcome *pick = &engine->milestone[PICK].outcome;
    text_puts(&extra, "\"part\": \"report\",\n  \"rows\": {");
    const char *comma = "";
    for (int i = 0; i < MILESTONES; i++)
        if (engine->milestone[i].done) {
            text_puts(&extra, comma);
            print_row(&extra, milestone_name[i], &engine->milestone[i].outcome);
            comma = ",\n    ";
        }
    text_puts(&extra, "}");
    evaluate_print_json(pick->task, pick->n_tasks, extra.s, &out);
    bool failed = extra.failed;
    text_free(&extra);
    out.failed = out.failed || failed;
    return write_text(engine, "eval/results.json", &out);
}

static enum status write_samples(struct engine *engine)
{
    struct trials *t = &engine->trials;
    for (size_t i = 0; i < engine->tasks.n; i++) {
        struct evaluate_result r = engine->milestone[PICK].outcome.task[i];
        struct evaluate_set *set = engine->tasks.report[i];
        struct text out = {0};
        char name[64];
        const struct model *model = &t->model;
        const struct lora *lora = &t->lora;
        if (!engine->pick_is_scored) {
            TRY(trials_there(t, &model, &lora, engine->err));
            TRY(evaluate_run(set, 1, &engine->run, model, lora, &r, NULL, engine->err));
        }
        evaluate_print_samples(r.task, evaluate_samples(set), r.n, isfinite(r.acc_norm), &out);
        snprintf(name, sizeof name, "eval/samples_%s.jsonl", r.task);
        TRY(write_text(engine, name, &out));
    }
    return OK;
}

/* ---- the model ---- */

static char *output_path(const struct engine *engine, const char *name)
{
    return path_join(engine->config->output_dir, name);
}

static const char *tokenizer_from(const struct engine *engine)
{
    return engine->own_tokenizer ? engine->config->tokenizer : checkpoint_folder(engine->checkpoint);
}

static enum status write_folder(struct engine *engine, const struct model *model)
{
    char *dir = output_path(engine, "model");
    if (!dir)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = export_folder(dir, model, engine->tokenizer, tokenizer_from(engine), engine->config->export_dtype, engine->err);
    free(dir);
    return status;
}

static enum status write_adapter(struct engine *engine)
{
    char *dir = output_path(engine, "adapter");
    if (!dir)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = export_adapter(dir, &engine->trials.lora, &engine->trials.plan, "../model", engine->err);
    if (status == OK)
        status = export_chat_template(dir, engine->tokenizer, engine->err);
    free(dir);
    return status;
}

/* Merged, or the base alone: then with keep as it is stored. */
static enum status write_gguf(struct engine *engine, const struct model *model, const struct lora *lora)
{
    char *path = output_path(engine, "model.gguf");
    if (!path)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = !lora && config_keeps(engine->config) ? export_gguf_stored(path, model, engine->tokenizer, "veneer", engine->err)
                                                               : export_gguf(path, model, lora, engine->tokenizer, "veneer", engine->err);
    if (status == ERR_FAILED)
        err_prefix(engine->err, status, "%s (export=hf,peft leaves it out)", path);
    free(path);
    return status;
}

/* What is merged has none: that of an earlier run would be added twice. */
static enum status write_gguf_adapter(struct engine *engine, const struct trials *t, bool merged)
{
    char *path = output_path(engine, "adapter.gguf");
    if (!path)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = OK;
    if (merged)
        unlink(path);
    else
        status = export_adapter_gguf(path, &t->lora, &t->model.config, FORMAT_F32, "veneer", engine->err);
    free(path);
    return status;
}

/* A packed embedding as export_gguf stores it, in the nearest ggml format; one in floats loses nothing that shows. */
static enum status make_gguf_embed(const struct qmat *from, struct qmat *q, bool fill, real *W, struct arena *arena, struct err *err)
{
    if (format_is_float(from->format) || export_gguf_format(from) == from->format)
        return OK; /* the view shows the model's own */
    quant_place(q, export_gguf_format(from), 0, false, from->rows, from->cols, arena);
    if (!fill)
        return OK;
    quant_decode_rows(from, 0, from->rows, W);
    return quant_encode(q, W, false, err);
}

/* Places and fills every matrix as export_gguf stores it: nearest ggml format, adapters merged where there are any; what goes over as it is shows the model's. */
static enum status make_gguf_matrices(struct engine *engine, struct model *view, const struct lora *lora, real *W, struct arena *arena)
{
    const struct trials *t = &engine->trials;
    for (int pass = 0; pass < 2; pass++) {
        TRY(make_gguf_embed(&t->model.embed, &view->embed, pass, W, arena, engine->err));
        if (t->model.config.tie_word_embeddings)
            view->head = view->embed;
        else
            TRY(make_gguf_embed(&t->model.head, &view->head, pass, W, arena, engine->err));
        for (int l = 0; l < view->plan.n_layers; l++)
            for (int j = 0; j < LINEAR_COUNT; j++) {
                const struct qmat *from = &t->model.layer[l].linear[j];
                struct qmat *q = &view->layer[l].linear[j];
                bool merged = lora && lora->adapter[l][j].r > 0;
                enum format format = merged ? export_gguf_merged_format(from) : export_gguf_format(from);
                if (!merged && format == from->format)
                    continue;
                quant_place(q, format, 0, false, from->rows, from->cols, arena);
                if (pass)
                    TRY(export_gguf_linear(&t->model, lora, l, (enum linear)j, W, q, engine->err));
            }
        if (!pass)
            TRY(arena_commit(arena, "GGUF weights", engine->err));
    }
    return OK;
}

/* What the GGUF's formats cost: KL of its distribution from the fine-tuned model's, on the first examples of the data.  merged: with the adapters in its
 * matrices, else beside them. */
static enum status measure_gguf(struct engine *engine, bool merged, struct evaluate_divergences *d)
{
    struct trials *t = &engine->trials;
    struct model view = {0};
    struct arena arena = {0};
    struct model_mirror beside = {.ops = &engine->ops}; /* both models are read in turn */
    const struct model *from = &view, *to = &t->model;
    const struct lora *lora = &t->lora;
    size_t most = t->model.embed.rows * t->model.embed.cols, n = 0, window = (size_t)engine->dataset.longest, cap = 8 * window;
    for (size_t i = 0; i < t->n_linears; i++) {
        const struct qmat *q = &t->model.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        most = q->rows * q->cols > most ? q->rows * q->cols : most;
    }
    real *W = malloc(most * sizeof *W);
    int32_t *tokens = malloc(cap * sizeof *tokens);
    enum status status = W && tokens ? OK : err_set(engine->err, ERR_MEMORY, "out of memory for a comparison");
    for (size_t i = 0; status == OK && i < engine->dataset.n && n < cap; i++)
        for (int32_t k = 0; k < engine->dataset.example[i].n && n < cap; k++)
            tokens[n++] = engine->dataset.example[i].tokens[k];
    if (status == OK)
        status = model_alias(&view, &t->model, &t->plan, engine->err);
    if (status == OK)
        status = make_gguf_matrices(engine, &view, merged ? &t->lora : NULL, W, &arena);
    if (status == OK && n < window)
        window = n;
    if (status == OK)
        status = trials_there(t, &to, &lora, engine->err);
    if (status == OK)
        status = model_mirror_model(&beside, &view, NULL, &from, engine->err);
    if (status == OK)
        status = evaluate_divergence(&engine->run, from, merged ? NULL : lora, &engine->run, to, lora, tokens, n, window, d, engine->err);
    model_mirror_free(&beside);
    model_free(&view);
    arena_free(&arena);
    free(W);
    free(tokens);
    return status;
}

/* ---- run.json: what this run was; holds times, so it is not the same bytes twice ---- */

static void put_member(struct text *out, const char *key, const char *value)
{
    text_printf(out, ",\n  \"%s\": ", key);
    text_json_string(out, value, strlen(value));
}

static void put_hash(struct engine *engine, struct text *out, const char *key, const char *path)
{
    char hex[65];
    struct err err;
    if (*path && file_sha256(path, hex, &err) == OK) {
        put_member(out, key, path);
        text_printf(out, ",\n  \"%s_sha256\": \"%s\"", key, hex);
    }
    (void)engine;
}

static enum status write_run(struct engine *engine, const struct evaluate_divergences *gguf)
{
    struct text out = {0}, config = {0};
    const struct memory_plan *m = &engine->memory;
    text_printf(&out, "{\n  \"veneer\": \"%s\"", veneer_version());
    put_member(&out, "kernels", engine_kernels(engine));
    if (engine->ops.device)
        put_member(&out, "device", device_name(engine->ops.device));
    put_member(&out, "compute_dtype", engine_compute(engine));
    text_printf(&out, ",\n  \"threads\": %d,\n  \"seed\": %lld", engine->ops.threads, (long long)engine->config->seed);
    put_hash(engine, &out, "model", engine->config->model);
    put_hash(engine, &out, "dataset", engine->config->dataset);
    text_printf(&out, ",\n  \"seconds\": %.1f,\n  \"trials\": %zu", clock_s() - engine->started_s, engine->archive.n);
    text_printf(&out, ",\n  \"planned_peak_bytes\": %zu,\n  \"measured_peak_bytes\": %.0f", m->peak, process_peak_bytes());
    if (isfinite(gguf->kl))
        text_printf(&out, ",\n  \"gguf_kl\": %.6g,\n  \"gguf_jsd\": %.6g", gguf->kl, gguf->jsd);
    config_print(engine->config, false, &config);
    text_puts(&out, ",\n  \"config\": ");
    text_json_string(&out, config.s ? config.s : "", config.n);
    text_puts(&out, "\n}\n");
    text_free(&config);
    return write_text(engine, "run.json", &out);
}

static enum status write_config(struct engine *engine)
{
    struct text out = {0};
    config_print(engine->config, false, &out);
    return write_text(engine, "config_used.txt", &out);
}

static enum status write_metrics(struct engine *engine)
{
    struct text out = {0};
    for (int i = 0; i < MILESTONES; i++)
        for (size_t k = 0; k < engine->milestone[i].n_curve; k++) {
            const struct finetune_point *p = &engine->milestone[i].curve[k];
            text_printf(&out, "{\"run\": \"%s\", \"step\": %lld, \"loss\": %.9g, \"grad_norm\": %.9g, \"learning_rate\": %.9g, \"tokens\": %lld}\n",
                        milestone_name[i], (long long)p->step, p->loss, p->norm, p->rate, (long long)p->tokens);
        }
    return write_text(engine, "metrics.jsonl", &out);
}

enum status engine_write_outputs(struct engine *engine)
{
    const char *formats = engine->config->export_formats;
    struct trials *t = &engine->trials;
    struct text plan = {0};
    struct evaluate_divergences gguf = {.kl = NAN, .jsd = NAN};
    print_plan(engine, engine->milestone[PICK].level, &t->plan, &plan);
    TRY(write_text(engine, "search/plan-best.txt", &plan));
    TRY(write_pareto(engine));
    TRY(write_front(engine));
    TRY(write_config(engine));
    TRY(write_metrics(engine));
    if (engine->tasks.n)
        TRY(write_results(engine));
    TRY(write_samples(engine));
    if (config_list_has(formats, "peft") && t->lora.n)
        TRY(write_adapter(engine));
    if (config_list_has(formats, "hf"))
        TRY(write_folder(engine, &t->model));
    if (config_list_has(formats, "gguf")) {
        bool merged = config_merges(engine->config) || t->lora.n == 0;
        TRY(write_gguf(engine, &t->model, merged && t->lora.n ? &t->lora : NULL));
        TRY(write_gguf_adapter(engine, t, merged));
        TRY(measure_gguf(engine, merged, &gguf));
        log_line(&engine->log, "model.gguf%s: KL %.5f nats a token from the fine-tuned model (its formats, adapters %s)", merged ? "" : " with adapter.gguf",
                 gguf.kl, merged ? "merged" : "beside them");
    }
    engine->gguf_kl = gguf.kl;
    return write_run(engine, &gguf);
}

enum status engine_write_scratch(struct engine *engine, const struct finetune *finetune)
{
    struct text out = {0};
    for (size_t k = 0; k < finetune->n_curve; k++) {
        const struct finetune_point *p = &finetune->curve[k];
        text_printf(&out, "{\"step\": %lld, \"loss\": %.9g, \"grad_norm\": %.9g, \"learning_rate\": %.9g, \"tokens\": %lld}\n",
                    (long long)p->step, p->loss, p->norm, p->rate, (long long)p->tokens);
    }
    TRY(write_text(engine, "metrics.jsonl", &out));
    TRY(write_config(engine));
    TRY(write_folder(engine, &engine->base));
    log_line(&engine->log, "written: %s/model", engine->config->output_dir);
    return OK;
}
