/* engine_report.c: what a job knows, as the plain arrays of io/report.h, which makes the page. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "engine.h"
#include "io/report.h"
#include "veneer.h"

enum { SERIES = 4, CURVES = MILESTONES - ALL_LOW, MEMORY_ROWS = 10, FACTS = 8, REMARKS = 1 };

/* The arrays behind a report, owned here. */
struct filled {
    struct report report;
    char value[FACTS][160], version[32], summary[512], when[64], rule[256], remark[256];
    struct report_fact fact[FACTS];
    const char *task[MAX_TASKS], *remarks[REMARKS];
    char label[MAX_TASKS][MAX_TASK_NAME + 20]; /* of tasks whose metric is not an accuracy */
    struct report_column column[MILESTONES];
    double score[MILESTONES][MAX_TASKS], error[MILESTONES][MAX_TASKS];
    struct report_trial *trial; /* [archive.n] */
    double *volume;             /* [archive.n] */
    char *notes;                /* the trials' notes, one string each */
    struct report_layers layers[SERIES];
    double *layer;              /* [2 SERIES, layers] */
    struct report_curve curve[CURVES];
    double *points[CURVES];     /* [2, n_curve] */
    struct report_memory memory[MEMORY_ROWS];
    struct text config;
};

static void *array(size_t n, size_t bytes, bool *failed)
{
    void *p = calloc(n ? n : 1, bytes);
    *failed = *failed || !p;
    return p;
}

/* ---- header ---- */

static uint64_t parameters(const struct model_config *shape)
{
    struct plan plan = {0};
    struct err err;
    uint64_t n = plan_new(&plan, shape, FORMAT_F32, &err) == OK ? plan_parameters(&plan, shape) : 0;
    plan_free(&plan);
    return n;
}

/* The last two names of a path: "world/model" says more than "model". */
static const char *short_name(const char *path)
{
    size_t at = strlen(path);
    for (int slashes = 0; at > 0; at--)
        if (path[at - 1] == '/' && ++slashes == 2)
            break;
    return path + at;
}

/* The key quant_types, in words where it is no format. */
static const char *formats_of(const struct engine *e)
{
    return strcmp(e->config->quant_types, "keep") == 0 ? "the formats that it came in" : config_quant_types(e->config);
}

static void fill_facts(const struct engine *e, struct filled *f)
{
    const struct trial_outcome *before = &e->milestone[BEFORE_PRUNING].outcome, *pick = &e->milestone[PICK].outcome;
    const char *const name[FACTS] = {"parameters", "stored size", "mean accuracy", "time and peak memory", "model", "seed", "machine", "formats"};
    double then = (double)parameters(&e->base_shape), now = (double)parameters(&e->shape), seconds = clock_s() - e->started_s;
    struct report *r = &f->report;
    snprintf(f->value[0], sizeof f->value[0], "%.2f \xe2\x86\x92 %.2f M", then / 1e6, now / 1e6);
    snprintf(f->value[1], sizeof f->value[1], "%.2f \xe2\x86\x92 %.2f MB", before->size / 1e6, pick->size / 1e6);
    if (pick->n_tasks)
        snprintf(f->value[2], sizeof f->value[2], "%.1f \xe2\x86\x92 %.1f %%", 100 * before->score, 100 * pick->score);
    else
        snprintf(f->value[2], sizeof f->value[2], "not measured");
    snprintf(f->value[3], sizeof f->value[3], "%.0f s, %.0f MB", seconds, e->peak_bytes / 1e6);
    snprintf(f->value[4], sizeof f->value[4], "%.150s", e->config->model);
    snprintf(f->value[5], sizeof f->value[5], "%lld", (long long)e->config->seed);
    snprintf(f->value[6], sizeof f->value[6], "%d threads, %s kernels, %s", e->ops.threads, engine_kernels(e), engine_compute(e));
    snprintf(f->value[7], sizeof f->value[7], "%.120s; embedding %s", formats_of(e), format_info(e->trials.storage.embed)->name);
    for (size_t i = 0; i < FACTS; i++)
        f->fact[i] = (struct report_fact){name[i], f->value[i]};
    r->fact = f->fact;
    r->n_facts = FACTS;
}

static void fill_header(const struct engine *e, struct filled *f)
{
    static const char *const unit[] = {[PRUNE_BLOCK] = "whole heads and FFN channels", [PRUNE_CHANNEL] = "whole channels of the hidden state",
                                       [PRUNE_LAYER] = "whole layers"};
    struct report *r = &f->report;
    struct tm tm;
    time_t now = time(NULL);
    strftime(f->when, sizeof f->when, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
    int n = snprintf(f->summary, sizeof f->summary, "%.1f %% of the parameters were removed, %s at a time; what is left is stored in %.60s",
                     100 * e->achieved_ratio, unit[e->prune_options.mode], formats_of(e));
    if (e->archive.n && n > 0 && (size_t)n < sizeof f->summary)
        snprintf(f->summary + n, sizeof f->summary - (size_t)n, ", chosen %s by %s over %zu trials, each %s.",
                 e->trials.n_format_variables == e->trials.n_linears ? "linear by linear" : "layer by layer", e->config->search, e->archive.n,
                 objective_is_divergence(e->trials.objective) ? "held against the unquantized model" : "really fine-tuned and scored");
    else if (n > 0 && (size_t)n < sizeof f->summary)
        snprintf(f->summary + n, sizeof f->summary - (size_t)n, ".");
    n = (int)strlen(f->summary);
    if (e->n_ratios)
        snprintf(f->summary + n, sizeof f->summary - (size_t)n, " How much goes was chosen too, of %.100s: the rows below are of the pick's %g.",
                 e->config->pruning_ratios, engine_ratio(e));
    r->title = short_name(e->config->model);
    snprintf(f->version, sizeof f->version, "veneer %s", veneer_version());
    r->version = f->version;
    r->when = f->when;
    r->summary = f->summary;
    fill_facts(e, f);
}

/* ---- tasks ---- */

static void fill_tasks(const struct engine *e, struct filled *f)
{
    static const char *const name[MILESTONES] = {"before pruning", "pruned, not tuned", "all low, tuned", "all high, tuned", "pick, tuned"};
    struct report *r = &f->report;
    for (size_t t = 0; t < e->tasks.n; t++) {
        snprintf(f->label[t], sizeof f->label[t], "%s (exact match)", e->tasks.name[t]);
        f->task[t] = e->task[t].rules ? f->label[t] : e->tasks.name[t];
    }
    for (int k = 0; k < MILESTONES; k++) {
        const struct milestone_record *m = &e->milestone[k];
        if (!m->done || m->outcome.n_tasks != e->tasks.n)
            continue;
        for (size_t t = 0; t < m->outcome.n_tasks; t++) {
            f->score[k][t] = m->outcome.task[t].headline;
            f->error[k][t] = m->outcome.task[t].headline_stderr;
        }
        f->column[r->n_columns++] = (struct report_column){.name = name[k], .score = f->score[k], .error = f->error[k], .mean = m->outcome.score,
                                                           .mean_error = sqrt(m->outcome.variance), .bytes = m->outcome.size, .chosen = k == PICK};
    }
    r->task = f->task;
    r->n_tasks = e->tasks.n;
    r->column = f->column;
}

/* ---- the search ---- */

/* The journal keeps the notes as lines; a report wants one string a trial. */
static void fill_notes(const struct engine *e, struct filled *f, bool *failed)
{
    f->notes = array(e->trial_notes.n + 1, 1, failed);
    if (!f->notes || !e->trial_notes.s)
        return;
    memcpy(f->notes, e->trial_notes.s, e->trial_notes.n);
    char *line = f->notes;
    for (size_t i = 0; i < e->archive.n && *line; i++) {
        char *end = strchr(line, '\n');
        f->trial[i].note = line;
        if (!end)
            break;
        *end = 0;
        line = end + 1;
    }
}

static const char *mark_of(const struct engine *e, const uint8_t *level)
{
    bool low = true, high = true;
    for (size_t v = 0; v < e->space.n; v++) {
        low = low && level[v] == 0;
        high = high && level[v] == e->space.n_levels[v] - 1;
    }
    return low ? "all low" : high ? "all high" : NULL;
}

static void fill_rule(const struct engine *e, struct filled *f)
{
    if (isfinite(e->max_size))
        snprintf(f->rule, sizeof f->rule, "The pick is the best score within the budget of %.3f MB.", e->max_size / 1e6);
    else if (e->space.time)
        snprintf(f->rule, sizeof f->rule, "The pick trades bytes and seconds for score by equation 5 of AutoMixQ with a third objective: the least (size + time of a token) / 2 - %g x score, all on axes "
                 "from 0 to 1: %.1f tokens a second where this search ran.", e->config->search_lambda, 1 / e->archive.point[e->pick].time);
    else
        snprintf(f->rule, sizeof f->rule, "The pick trades bytes for score by equation 5 of AutoMixQ: the least size - %g x score, both on axes from 0 to 1.",
                 e->config->search_lambda);
}

static void fill_search(const struct engine *e, struct filled *f, bool *failed)
{
    const struct search_archive *a = &e->archive;
    struct report *r = &f->report;
    const struct strategy *strategy = NULL;
    size_t probes = search_strategy_find(e->config->search, &strategy, e->err) == OK ? search_probe_count(&e->space, strategy->probes) : 0;
    size_t *front = array(a->n, sizeof *front, failed);
    f->trial = array(a->n, sizeof *f->trial, failed);
    f->volume = array(a->n, sizeof *f->volume, failed);
    for (size_t i = 0; !*failed && i < a->n; i++) {
        const struct search_point *p = &a->point[i];
        f->trial[i] = (struct report_trial){.bytes = p->size, .score = p->score, .error = sqrt(p->variance), .mark = mark_of(e, p->level),
                                            .kind = p->failed ? REPORT_FAILED : p->low_fidelity ? REPORT_SHORT : i < probes ? REPORT_PROBE
                                                    : i < probes + (size_t)e->config->num_initial ? REPORT_SEED : REPORT_PROPOSED};
        f->volume[i] = search_hypervolume(a, i + 1);
    }
    size_t n = *failed ? 0 : search_front(a, front);
    for (size_t i = 0; i < n; i++)
        f->trial[front[i]].front = true;
    free(front);
    if (*failed)
        return;
    fill_notes(e, f, failed);
    fill_rule(e, f);
    r->trial = f->trial;
    r->n_trials = a->n;
    r->pick = e->pick;
    r->pick_rule = f->rule;
    r->hypervolume = f->volume;
    static const char *const label[] = {[OBJECTIVE_LOSS] = "minus the held-out loss, nats a token",
                                        [OBJECTIVE_KL] = "minus the KL divergence from the unquantized model, nats a token",
                                        [OBJECTIVE_JSD] = "minus the Jensen-Shannon divergence from the unquantized model, nats a token"};
    enum objective objective = config_objective(e->config);
    if (objective != OBJECTIVE_ACCURACY) {
        r->score_label = label[objective];
        r->score_scale = 1;
    }
}

/* ---- layers ---- */

static double bits_of(const struct engine *e, int l)
{
    double bits = 0, weights = 0;
    for (int j = 0; j < LINEAR_COUNT; j++) {
        size_t out, in;
        plan_shape(&e->trials.plan, &e->shape, l, (enum linear)j, &out, &in);
        bits += format_info(e->trials.plan.layer[l].linear[j].format)->bits * (double)(out * in);
        weights += (double)(out * in);
    }
    return weights > 0 ? bits / weights : 0;
}

static double rank_of(const struct engine *e, int l)
{
    double sum = 0;
    for (int j = 0; j < LINEAR_COUNT; j++)
        sum += e->trials.plan.layer[l].linear[j].rank;
    return sum / LINEAR_COUNT;
}

static void fill_layers(const struct engine *e, struct filled *f, bool *failed)
{
    static const char *const label[SERIES] = {"bits a weight", "query heads", "FFN width", "mean LoRA rank"};
    const struct model_config *whole = e->prune_options.mode == PRUNE_BLOCK ? &e->base_shape : &e->shape; /* else a layer that stays keeps its widths */
    struct report *r = &f->report;
    int L = e->trials.plan.n_layers;
    size_t n = L > 0 ? (size_t)L : 0;
    f->layer = array(2 * SERIES * n, sizeof *f->layer, failed);
    if (!f->layer || n == 0)
        return;
    for (int l = 0; l < L; l++) {
        const double value[SERIES] = {bits_of(e, l), e->trials.plan.layer[l].heads, e->trials.plan.layer[l].ffn, rank_of(e, l)};
        const double full[SERIES] = {e->trials.n_levels ? fmax(trials_level_bits(&e->trials, e->trials.format[e->trials.n_levels - 1]), value[0]) : value[0],
                                     whole->num_attention_heads[l], whole->intermediate_size[l], fmax((double)e->config->lora_r, value[3])};
        for (int k = 0; k < SERIES; k++) {
            f->layer[(size_t)k * n + (size_t)l] = value[k];
            f->layer[(size_t)(SERIES + k) * n + (size_t)l] = full[k];
        }
    }
    for (size_t k = 0; k < SERIES; k++)
        f->layers[k] = (struct report_layers){label[k], f->layer + k * n, f->layer + (SERIES + k) * n};
    r->layers = f->layers;
    r->n_series = SERIES;
    r->n_layers = n;
}

/* ---- losses and memory ---- */

static void fill_curves(const struct engine *e, struct filled *f, bool *failed)
{
    static const char *const name[CURVES] = {"all low", "all high", "pick"};
    for (size_t c = 0; c < CURVES; c++) {
        const struct milestone_record *m = &e->milestone[ALL_LOW + c];
        f->points[c] = array(2 * m->n_curve, sizeof *f->points[c], failed);
        if (!f->points[c])
            return;
        for (size_t k = 0; k < m->n_curve; k++) {
            f->points[c][k] = (double)m->curve[k].step;
            f->points[c][m->n_curve + k] = m->curve[k].loss;
        }
        f->curve[c] = (struct report_curve){name[c], f->points[c], f->points[c] + m->n_curve, m->n_curve};
    }
    f->report.curve = f->curve;
    f->report.n_curves = CURVES;
}

static void fill_memory(const struct engine *e, struct filled *f)
{
    const struct memory_plan *m = &e->memory;
    const struct report_memory row[MEMORY_ROWS] = {
        {"program", "code, libraries, data and tasks", (double)m->program, NAN, false},
        {"base weights", "the model, until it is pruned", (double)m->base_weights, NAN, false},
        {"importance", "gradients and what calibration keeps, until it is pruned", (double)m->importance, NAN, false},
        {"weights", "the pruned model, linears in F32", (double)m->weights, NAN, false},
        {"formats", "its linears in every format, with adapter starts", (double)m->variants, NAN, false},
        {"optimizer", "adapters, gradients, moments", (double)m->optimizer, NAN, false},
        {"activations", m->keep_activations ? "kept for backward" : "recomputed in backward", (double)m->activations, NAN, false},
        {"scratch", "of the kernels", (double)m->scratch, NAN, false},
        {"start", "workspace of the adapters' starts", (double)m->start, NAN, false},
        {"peak", "the largest sum that exists at one time", (double)m->peak, e->peak_bytes, true},
    };
    memcpy(f->memory, row, sizeof row);
    f->report.memory = f->memory;
    f->report.n_memory = MEMORY_ROWS;
}

static void fill_foot(const struct engine *e, struct filled *f)
{
    config_print(e->config, false, &f->config);
    f->report.config = f->config.s;
    if (!isfinite(e->gguf_kl))
        return;
    snprintf(f->remark, sizeof f->remark,
             "model.gguf holds the adapters merged, int8 as q8_0 and nf4 as q4_0, which costs %.5f nats of KL divergence a token.", e->gguf_kl);
    f->remarks[0] = f->remark;
    f->report.remark = f->remarks;
    f->report.n_remarks = REMARKS;
}

static void filled_free(struct filled *f)
{
    free(f->trial);
    free(f->volume);
    free(f->notes);
    free(f->layer);
    for (size_t c = 0; c < CURVES; c++)
        free(f->points[c]);
    text_free(&f->config);
    free(f);
}

enum status engine_write_report(struct engine *engine)
{
    bool failed = false;
    char *path = path_join(engine->config->output_dir, "report.html");
    struct filled *f = array(1, sizeof *f, &failed);
    if (f) {
        fill_header(engine, f);
        fill_tasks(engine, f);
        fill_search(engine, f, &failed);
        fill_layers(engine, f, &failed);
        fill_curves(engine, f, &failed);
        fill_memory(engine, f);
        fill_foot(engine, f);
    }
    enum status status = path && f && !failed ? report_write(&f->report, path, engine->err) : err_set(engine->err, ERR_MEMORY, "out of memory for the report");
    if (f)
        filled_free(f);
    free(path);
    if (status == OK)
        log_line(&engine->log, "done: %s/report.html", engine->config->output_dir);
    return status;
}
