/* engine_report.c: report.html: one file, SVG inside, no script, light and dark. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "engine.h"
#include "io/plot.h"
#include "veneer.h"

static const char style[] =
    ":root{--bg:#fbfbf9;--ink:#1d2326;--soft:#667077;--grid:#e3e5e2;--card:#fff;--c0:#2b6cb0;--c1:#c05621;--c2:#2f855a;--c3:#805ad5;--c4:#b83280}"
    "@media(prefers-color-scheme:dark){:root{--bg:#14181b;--ink:#e8eaeb;--soft:#98a2a9;--grid:#2b3237;--card:#1b2024;--c0:#63b3ed;--c1:#f6ad55;"
    "--c2:#68d391;--c3:#b794f4;--c4:#f687b3}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:980px;margin:0 auto;padding:24px 16px 64px}h1{font-size:28px;margin:8px 0}h2{font-size:20px;margin:36px 0 4px}"
    "p{margin:4px 0 12px;max-width:72ch}.soft,figcaption{color:var(--soft)}figure{margin:12px 0;background:var(--card);border:1px solid var(--grid);"
    "border-radius:8px;padding:12px}figcaption{font-size:14px;margin-top:6px}figure{overflow-x:auto}svg{width:100%;min-width:640px;height:auto;display:block}"
    "svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .tick{fill:var(--soft)}svg .label{fill:var(--soft)}svg .grid{stroke:var(--grid)}"
    "svg .axis{stroke:var(--soft)}svg .line{fill:none;stroke-width:2}svg .bar{stroke-width:1;opacity:.45}"
    "circle.s0,rect.s0{fill:var(--c0)}circle.s1,rect.s1{fill:var(--c1)}circle.s2,rect.s2{fill:var(--c2)}circle.s3,rect.s3{fill:var(--c3)}"
    "circle.s4,rect.s4{fill:var(--c4)}circle.muted,rect.muted{fill:var(--soft)}rect.grid-bar{opacity:.22}circle.ring{fill:none;stroke:var(--c4);stroke-width:3}"
    "path.s0,line.s0{stroke:var(--c0)}path.s1,line.s1{stroke:var(--c1)}path.s2,line.s2{stroke:var(--c2)}path.s3,line.s3{stroke:var(--c3)}"
    "path.s4,line.s4{stroke:var(--c4)}line.muted,path.muted{stroke:var(--soft)}"
    ".key span{display:inline-block;margin-right:18px;font-size:14px}.key i{display:inline-block;width:11px;height:11px;border-radius:6px;margin-right:6px}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}td .soft{font-size:11px}th,td{padding:6px 6px;text-align:right;border-bottom:1px solid "
    "var(--grid);white-space:nowrap}th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}tr.pick td{font-weight:600}"
    "pre{font-size:12px;overflow-x:auto;background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:12px}";

static void key_item(struct text *out, const char *colour, const char *name)
{
    text_printf(out, "<span><i style=\"background:var(--%s)\"></i>%s</span>", colour, name);
}

static void heading(struct text *out, const char *title, const char *lead)
{
    text_puts(out, "<h2>");
    text_html(out, title);
    text_puts(out, "</h2>\n<p>");
    text_html(out, lead);
    text_puts(out, "</p>\n");
}

/* ---- the table of milestones ---- */

static void table_row(const struct engine *e, enum milestone which, const char *name, struct text *out)
{
    const struct milestone_record *m = &e->milestone[which];
    if (!m->done)
        return;
    text_printf(out, "<tr%s><td>%s</td>", which == PICK ? " class=\"pick\"" : "", name);
    for (size_t i = 0; i < m->outcome.n_tasks; i++)
        text_printf(out, "<td>%.1f <span class=\"soft\">&plusmn; %.1f</span></td>", 100 * m->outcome.task[i].headline,
                    100 * m->outcome.task[i].headline_stderr);
    text_printf(out, "<td>%.1f <span class=\"soft\">&plusmn; %.1f</span></td><td>%.3f</td></tr>\n", 100 * m->outcome.score,
                100 * sqrt(m->outcome.variance), m->outcome.size / 1e6);
}

static void table(const struct engine *e, struct text *out)
{
    heading(out, "What it cost, and what came back",
            "Accuracy in percent on the part of each task that the search never saw, with standard errors. acc_norm for hellaswag, arc_challenge "
            "and openbookqa, acc for the others. Size: the stored model with its adapters, in MB.");
    text_puts(out, "<div class=\"wide\"><table><thead><tr><th></th>");
    for (size_t i = 0; i < e->tasks.n; i++)
        text_printf(out, "<th>%s</th>", e->tasks.name[i]);
    text_puts(out, "<th>mean</th><th>MB</th></tr></thead><tbody>\n");
    table_row(e, BEFORE_PRUNING, "before pruning", out);
    table_row(e, AFTER_PRUNING, "pruned, not tuned", out);
    table_row(e, ALL_LOW, "all low, tuned", out);
    table_row(e, ALL_HIGH, "all high, tuned", out);
    table_row(e, PICK, "pick, tuned", out);
    text_puts(out, "</tbody></table></div>\n");
}

/* ---- the front ---- */

struct range {
    double low, high;
};

static void take_in(struct range *r, double x)
{
    if (!isfinite(x))
        return;
    r->low = fmin(r->low, x);
    r->high = fmax(r->high, x);
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (x[0] > y[0]) - (x[0] < y[0]);
}

static void front_line(struct plot *plot, const struct search_archive *a)
{
    size_t *index = calloc(a->n + 1, sizeof *index);
    double (*xy)[2] = calloc(a->n + 1, sizeof *xy), *x = calloc(a->n + 1, sizeof *x), *y = calloc(a->n + 1, sizeof *y);
    if (index && xy && x && y) {
        size_t n = search_front(a, index);
        for (size_t i = 0; i < n; i++) {
            xy[i][0] = a->point[index[i]].size / 1e6;
            xy[i][1] = 100 * a->point[index[i]].score;
        }
        qsort(xy, n, sizeof *xy, by_size);
        for (size_t i = 0; i < n; i++) {
            x[i] = xy[i][0];
            y[i] = xy[i][1];
        }
        plot_line(plot, "s2", x, y, n, true);
    }
    free(index);
    free(xy);
    free(x);
    free(y);
}

static void front(const struct engine *e, struct text *out)
{
    const struct search_archive *a = &e->archive;
    struct range size = {INFINITY, -INFINITY}, score = {INFINITY, -INFINITY};
    for (size_t i = 0; i < a->n; i++) {
        if (a->point[i].failed)
            continue;
        double s = sqrt(a->point[i].variance);
        take_in(&size, a->point[i].size / 1e6);
        take_in(&score, 100 * (a->point[i].score - s));
        take_in(&score, 100 * (a->point[i].score + s));
    }
    heading(out, "Size against accuracy",
            "Each point is one choice of formats, really fine-tuned and scored on the search part of the tasks; bars are one standard error of the "
            "score. The line joins the points that no other beats in both. Differences smaller than the bars are noise.");
    text_puts(out, "<figure><div class=\"key\">");
    key_item(out, "soft", "seed set");
    key_item(out, "c0", "proposed");
    key_item(out, "c2", "front");
    key_item(out, "c4", "pick");
    text_puts(out, "</div>\n");
    struct plot plot;
    plot_open(&plot, out, 940, 420, size.low, size.high, score.low, score.high, "stored model, MB", "accuracy, %", "Pareto front");
    front_line(&plot, a);
    size_t failed = 0;
    for (size_t i = 0; i < a->n; i++) {
        const struct search_point *p = &a->point[i];
        char title[128];
        failed += p->failed;
        if (p->failed)
            continue;
        snprintf(title, sizeof title, "trial %zu: %.3f MB, %.1f %% +- %.1f", i + 1, p->size / 1e6, 100 * p->score, 100 * sqrt(p->variance));
        plot_point(&plot, i < (size_t)e->config->num_initial ? "muted" : "s0", p->size / 1e6, 100 * p->score, 100 * sqrt(p->variance), 4, title);
        if (i == e->pick)
            plot_point(&plot, "ring", p->size / 1e6, 100 * p->score, 0, 9, title);
    }
    plot_close(&plot);
    text_printf(out, "<figcaption>%zu trials, %zu of them failed. The pick trades bytes for accuracy by equation 5 of AutoMixQ (lambda %g) or is the best "
                     "within a budget.</figcaption></figure>\n",
                a->n, failed, e->config->search_lambda);
}

static void volume(const struct engine *e, struct text *out)
{
    const struct search_archive *a = &e->archive;
    double *x = calloc(a->n + 1, sizeof *x), *y = calloc(a->n + 1, sizeof *y);
    struct plot plot;
    if (x && y && a->n > 1) {
        struct range r = {INFINITY, -INFINITY};
        for (size_t i = 0; i < a->n; i++) {
            x[i] = (double)i + 1;
            y[i] = search_hypervolume(a, i + 1);
            take_in(&r, y[i]);
        }
        heading(out, "How the front grew", "The area that the front covers, after each trial, on axes that all trials span. A flat end means that more trials would "
                                           "have found little.");
        text_puts(out, "<figure>");
        plot_open(&plot, out, 940, 240, 1, (double)a->n, r.low, r.high, "trial", "hypervolume", "Hypervolume");
        plot_line(&plot, "s0", x, y, a->n, true);
        plot_close(&plot);
        text_puts(out, "</figure>\n");
    }
    free(x);
    free(y);
}

/* ---- layers ---- */

static void layer_bars(const struct engine *e, struct text *out, const char *css, const char *label, double (*value)(const struct engine *, int, double *))
{
    struct plot plot;
    int L = e->trials.plan.n_layers;
    double most = 0, full;
    for (int l = 0; l < L; l++) {
        value(e, l, &full);
        most = fmax(most, full);
    }
    plot_open(&plot, out, 940, 170, 0, L, 0, most, "layer", label, label);
    for (int l = 0; l < L; l++) {
        char title[96];
        double v = value(e, l, &full);
        snprintf(title, sizeof title, "layer %d: %g of %g", l, v, full);
        plot_bar(&plot, "grid-bar muted", l + 0.12, 0.76, full, title);
        plot_bar(&plot, css, l + 0.12, 0.76, v, title);
    }
    plot_close(&plot);
}

static double bits_of(const struct engine *e, int l, double *full)
{
    double bits = 0, weights = 0;
    for (int j = 0; j < LINEAR_COUNT; j++) {
        const struct plan_linear *p = &e->trials.plan.layer[l].linear[j];
        size_t out, in;
        plan_shape(&e->trials.plan, &e->shape, l, (enum linear)j, &out, &in);
        bits += format_info(p->format)->bits * (double)(out * in);
        weights += (double)(out * in);
    }
    *full = format_info(e->trials.format[e->trials.n_levels - 1])->bits;
    return weights > 0 ? bits / weights : 0;
}

static double heads_of(const struct engine *e, int l, double *full)
{
    *full = e->base_shape.num_attention_heads[l];
    return e->trials.plan.layer[l].heads;
}

static double width_of(const struct engine *e, int l, double *full)
{
    *full = e->base_shape.intermediate_size[l];
    return e->trials.plan.layer[l].ffn;
}

static double rank_of(const struct engine *e, int l, double *full)
{
    double sum = 0;
    for (int j = 0; j < LINEAR_COUNT; j++)
        sum += e->trials.plan.layer[l].linear[j].rank;
    *full = (double)e->config->lora_r > sum / LINEAR_COUNT ? (double)e->config->lora_r : sum / LINEAR_COUNT;
    return sum / LINEAR_COUNT;
}

static void layers(const struct engine *e, struct text *out)
{
    heading(out, "Layer by layer", "The pick: coloured what a layer has, grey what it had before pruning or could have had. Layer 0 reads the embeddings.");
    text_puts(out, "<figure>");
    layer_bars(e, out, "s0", "bits a weight", bits_of);
    layer_bars(e, out, "s1", "query heads", heads_of);
    layer_bars(e, out, "s2", "FFN width", width_of);
    layer_bars(e, out, "s3", "mean LoRA rank", rank_of);
    text_puts(out, "</figure>\n");
}

/* ---- loss ---- */

static void curve(struct plot *plot, const char *css, const struct milestone_record *m)
{
    double *x = calloc(m->n_curve + 1, sizeof *x), *y = calloc(m->n_curve + 1, sizeof *y), mean = NAN;
    for (size_t i = 0; x && y && i < m->n_curve; i++) {
        mean = isfinite(mean) ? 0.8 * mean + 0.2 * m->curve[i].loss : m->curve[i].loss;
        x[i] = (double)m->curve[i].step;
        y[i] = mean;
    }
    if (x && y)
        plot_line(plot, css, x, y, m->n_curve, false);
    free(x);
    free(y);
}

static void losses(const struct engine *e, struct text *out)
{
    struct range loss = {INFINITY, -INFINITY};
    double steps = 0;
    for (int i = ALL_LOW; i < MILESTONES; i++) {
        const struct milestone_record *m = &e->milestone[i];
        for (size_t k = 0; k < m->n_curve; k++) {
            take_in(&loss, m->curve[k].loss);
            steps = fmax(steps, (double)m->curve[k].step);
        }
    }
    if (steps < 1)
        return;
    heading(out, "Fine-tuning", "Loss in nats a label token, smoothed over about five steps. Lower is better; where the curves start says how much the formats "
                                "themselves cost.");
    text_puts(out, "<figure><div class=\"key\">");
    key_item(out, "c1", "all low");
    key_item(out, "c0", "all high");
    key_item(out, "c4", "pick");
    text_puts(out, "</div>\n");
    struct plot plot;
    plot_open(&plot, out, 940, 300, 1, steps, loss.low, loss.high, "step", "loss, nats", "Loss curves");
    curve(&plot, "s1", &e->milestone[ALL_LOW]);
    curve(&plot, "s0", &e->milestone[ALL_HIGH]);
    curve(&plot, "s4", &e->milestone[PICK]);
    plot_close(&plot);
    text_puts(out, "</figure>\n");
}

/* ---- memory ---- */

static void memory_row(struct text *out, const char *name, size_t bytes, const char *what)
{
    text_printf(out, "<tr><td>%s</td><td>%.2f</td><td style=\"text-align:left;white-space:normal\">%s</td></tr>\n", name, (double)bytes / 1e6, what);
}

static void memory(const struct engine *e, struct text *out)
{
    const struct memory_plan *m = &e->memory;
    heading(out, "Memory", "Planned before anything was taken, by the code that later took it.");
    text_puts(out, "<div class=\"wide\"><table><thead><tr><th>lifetime</th><th>MB</th><th></th></tr></thead><tbody>\n");
    memory_row(out, "program", m->program, "code, libraries, data and tasks");
    memory_row(out, "base weights", m->base_weights, "the model as loaded, until it is pruned");
    memory_row(out, "importance", m->importance, "gradients of its linears, until it is pruned");
    memory_row(out, "weights", m->weights, "the pruned model in F32");
    memory_row(out, "formats", m->variants, "its linears in every format, with adapter starts");
    memory_row(out, "optimizer", m->optimizer, "adapters, gradients, moments");
    memory_row(out, "activations", m->activations, m->keep_activations ? "kept for backward" : "recomputed in backward");
    memory_row(out, "scratch", m->scratch, "of the kernels");
    memory_row(out, "start", m->start, "workspace of the adapters' starts");
    text_printf(out, "<tr class=\"pick\"><td>peak, planned</td><td>%.2f</td><td></td></tr><tr class=\"pick\"><td>peak, measured</td><td>%.2f</td>"
                     "<td></td></tr></tbody></table></div>\n",
                (double)m->peak / 1e6, e->peak_bytes / 1e6);
}

/* ---- the page ---- */

static void head(const struct engine *e, struct text *out)
{
    const struct milestone_record *before = &e->milestone[BEFORE_PRUNING], *pick = &e->milestone[PICK];
    char when[64];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
    text_puts(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
                   "<meta name=\"color-scheme\" content=\"light dark\"><title>veneer report</title><style>");
    text_puts(out, style);
    text_puts(out, "</style></head><body><main>\n<p class=\"soft\">veneer ");
    text_printf(out, "%s, %s, seed %lld</p>\n<h1>", veneer_version(), when, (long long)e->config->seed);
    const char *slash = strrchr(e->config->model, '/');
    text_html(out, slash && slash[1] ? slash + 1 : e->config->model);
    text_puts(out, "</h1>\n<p>");
    uint64_t original = 0;
    struct plan plan = {0};
    struct err err;
    if (plan_new(&plan, &e->base_shape, FORMAT_F32, &err) == OK)
        original = plan_parameters(&plan, &e->base_shape);
    plan_free(&plan);
    text_printf(out, "%.1f %% of %llu parameters removed, the rest in %s chosen layer by layer over %zu trials: %.2f MB became %.2f MB",
                100 * e->achieved_ratio, (unsigned long long)original, e->config->quant_types, e->archive.n, before->outcome.size / 1e6,
                pick->outcome.size / 1e6);
    if (pick->done && pick->outcome.n_tasks)
        text_printf(out, ", and mean accuracy went from %.1f %% to %.1f %%", 100 * before->outcome.score, 100 * pick->outcome.score);
    text_printf(out, ". The whole run took %.0f seconds with %d threads (%s kernels).</p>\n", clock_s() - e->started_s, e->ops.threads,
                e->ops.ops->name);
}

static void foot(const struct engine *e, struct text *out)
{
    struct text config = {0};
    heading(out, "Configuration", "Every key, as the run used it.");
    config_print(e->config, false, &config);
    text_puts(out, "<pre>");
    text_html(out, config.s ? config.s : "");
    text_puts(out, "</pre>\n");
    if (isfinite(e->gguf_kl))
        text_printf(out, "<p class=\"soft\">model.gguf holds the adapters merged, int8 as q8_0 and nf4 as q4_0, which costs %.5f nats of KL divergence a token.</p>\n",
                    e->gguf_kl);
    text_puts(out, "</main></body></html>\n");
    text_free(&config);
}

enum status engine_write_report(struct engine *engine)
{
    struct text out = {0};
    char *path = path_join(engine->config->output_dir, "report.html");
    head(engine, &out);
    if (engine->tasks.n)
        table(engine, &out);
    if (engine->archive.n) {
        front(engine, &out);
        volume(engine, &out);
    }
    layers(engine, &out);
    losses(engine, &out);
    memory(engine, &out);
    foot(engine, &out);
    enum status status = path && !out.failed ? file_write(path, out.s, out.n, engine->err) : err_set(engine->err, ERR_MEMORY, "out of memory for the report");
    text_free(&out);
    free(path);
    if (status == OK)
        log_line(&engine->log, "done: %s/report.html", engine->config->output_dir);
    return status;
}
