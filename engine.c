/* engine.c: veneer.h's functions and the order of the stages.  It composes the floors below and computes nothing itself. */
#include "engine.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/linalg.h"
#include "base/stop.h"
#include "veneer.h"

struct veneer {
    struct config config;
    struct err err;
    struct log log;
    struct text text;
};

const char *const milestone_name[MILESTONES] = {"before", "after", "low", "high", "pick"};

/* ---- the search ---- */

static void level_text(const struct engine *engine, const uint8_t *level, struct text *out)
{
    text_clear(out);
    for (size_t i = 0; i < engine->trials.n_variables; i++)
        text_printf(out, "%x", level[i]);
}

/* Optimizer steps of a trial: a divergence is measured before any. */
static int64_t trial_steps(const struct engine *engine, double share)
{
    return objective_is_divergence(engine->trials.objective) ? 0 : (int64_t)ceil(share * (double)engine->trials.steps);
}

/* One configuration, from its formats to its score; a trial that diverges is recorded as failed and the search goes on. */
static enum status try_configuration(struct engine *engine, const struct search_proposal *next, const char *label)
{
    struct err *err = engine->err;
    struct trials *trials = &engine->trials;
    const uint8_t *level = next->level;
    struct trial_outcome outcome = {.size = engine->space.size(engine->space.user, level), .right = next->low_fidelity || !engine->pairs.n_documents ? NULL : engine->pairs.right};
    size_t index = engine->archive.n;
    double share = next->low_fidelity ? engine->config->low_fidelity : 1;
    char folder[64];
    snprintf(folder, sizeof folder, "search/trial-%zu", index);
    char *checkpoint_dir = path_join(engine->config->output_dir, folder);
    if (!checkpoint_dir)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    engine_use_ratio(engine, engine_ratio_of(engine, level));
    enum status status = trials_set(trials, level, err);
    if (status == OK)
        status = trials_finetune(trials, trial_steps(engine, share), label, checkpoint_dir, err);
    if (status == OK)
        status = trials_score(trials, PART_SEARCH, share, &trials->model, &trials->lora, &outcome, err);
    if (status == OK && !isfinite(outcome.score))
        status = err_set(err, ERR_DIVERGED, "the score is not finite");
    if (status == OK || status == ERR_DIVERGED) {
        struct search_point point = {.level = level, .size = outcome.size, .time = engine->space.time ? engine->space.time(engine, level) : 0, .score = outcome.score,
                                     .variance = outcome.variance, .failed = status == ERR_DIVERGED, .low_fidelity = next->low_fidelity};
        if (point.failed)
            log_line(&engine->log, "%sfailed: %s", label, err->text);
        status = engine_record_trial(engine, &point, &outcome, point.failed ? err->text : next->note);
        dir_remove(checkpoint_dir);
    }
    free(checkpoint_dir);
    return status;
}

static void log_trial(const struct engine *engine, const char *label)
{
    const struct search_point *p = &engine->archive.point[engine->archive.n - 1];
    struct text levels = {0};
    level_text(engine, p->level, &levels);
    if (engine->n_ratios)
        text_printf(&levels, "  pruning_ratio %g", engine_ratio(engine));
    if (!p->failed)
        log_line(&engine->log, "%s%s  size %.3f MB  score %.4f +- %.4f%s", label, levels.s, p->size / 1e6, p->score, sqrt(p->variance),
                 p->low_fidelity ? "  (short)" : "");
    text_free(&levels);
}

/* A trial that was recorded just before a kill may have left its checkpoints. */
static void clear_trial(const struct engine *engine, size_t index)
{
    char folder[64];
    snprintf(folder, sizeof folder, "search/trial-%zu", index);
    char *path = path_join(engine->config->output_dir, folder);
    if (path)
        dir_remove(path);
    free(path);
}

static struct search_options options_of(const struct config *config, struct search_cache *cache)
{
    bool short_trials = strcmp(config->search, "autoqra") == 0 || strcmp(config->search, "evopress") == 0 || strcmp(config->search, "gp") == 0;
    return (struct search_options){.strategy = config->search, .seed = (uint64_t)config->seed, .num_initial = (size_t)config->num_initial,
                                   .num_trials = (size_t)config->num_trials, .stop_gain = config->search_stop_gain,
                                   .stop_patience = (size_t)config->search_stop_patience, .low_cost = short_trials ? config->low_fidelity : 0,
                                   .predictor = config->amq_predictor, .batch = (size_t)config->amq_batch, .cache = cache};
}

/* What autoqra wants to know before its first trial: measured once, then remembered by the journal. */
static enum status know_importance(struct engine *engine)
{
    if (strcmp(engine->config->search, "autoqra") != 0)
        return OK;
    if (engine->known_importance) {
        engine->trials.importance = engine->known_importance;
        engine->known_importance = NULL;
    } else {
        TRY(trials_measure_importance(&engine->trials, engine->err));
        TRY(engine_record_importance(engine));
    }
    engine->space.importance = engine->trials.importance;
    return OK;
}

/* "[probe 3/57] ", then "[trial 12/50] ", which counts what full trials would have cost as much. */
static void name_trial(const struct engine *engine, const struct search_options *options, size_t probes, char label[64])
{
    double cost = 1 + search_spent(&engine->archive, options, probes);
    size_t n = engine->archive.n;
    if (n < probes)
        snprintf(label, 64, "[probe %zu/%zu] ", n + 1, probes);
    else
        snprintf(label, 64, "[trial %.4g/%zu] ", cost, options->num_initial + options->num_trials);
}

static enum status search(struct engine *engine)
{
    struct search_cache cache = {0};
    struct search_options options = options_of(engine->config, &cache);
    const struct strategy *strategy;
    TRY(search_strategy_find(options.strategy, &strategy, engine->err));
    TRY(know_importance(engine));
    TRY(engine_know_speed(engine));
    size_t probes = search_probe_count(&engine->space, strategy->probes);
    uint8_t *level = calloc(engine->space.n, 1);
    if (!level)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a configuration");
    struct search_proposal next = {.level = level};
    enum status status = OK;
    if (engine->archive.n)
        clear_trial(engine, engine->archive.n - 1);
    while (status == OK) {
        char label[64];
        status = stop_check(engine->err);
        if (status == OK && engine->config->max_hours > 0 && clock_s() - engine->started_s > engine->config->max_hours * 3600)
            break;
        engine_pairs_apply(engine);
        if (status == OK)
            status = search_propose(&engine->space, &engine->archive, &options, &next, engine->err);
        if (status != OK || next.done)
            break;
        name_trial(engine, &options, probes, label);
        status = try_configuration(engine, &next, label);
        if (status == OK)
            log_trial(engine, label);
    }
    search_cache_free(&cache);
    free(level);
    return status;
}

/* ---- the milestones of the final table ---- */

/* A given plan leaves nothing to choose. */
/* The rows of the final table are of its ratio. */
static enum status choose_pick(struct engine *engine)
{
    engine_pairs_apply(engine);
    TRY(search_pick_posterior(&engine->space, &engine->archive, engine->config->search_lambda, engine->max_size, &engine->pick, engine->err));
    engine_use_ratio(engine, engine_ratio_of(engine, engine->archive.point[engine->pick].level));
    return OK;
}

/* The level of every variable: lowest or highest, of the ratio in use; or the pick's.  Without a search there is one configuration: the pinned formats, the
 * rest at the first level. */
static void milestone_level(const struct engine *engine, enum milestone which, uint8_t *level)
{
    for (size_t i = 0; i < engine->space.n; i++)
        level[i] = which == ALL_HIGH ? (uint8_t)(engine->space.n_levels[i] - 1) : 0;
    if (engine->n_ratios)
        level[engine->trials.n_variables] = (uint8_t)engine->ratio_in_use;
    if (which == PICK && config_searches(engine->config))
        memcpy(level, engine->archive.point[engine->pick].level, engine->space.n);
}

static enum status keep_curve(struct engine *engine, struct milestone_record *record)
{
    const struct finetune *f = &engine->trials.finetune;
    free(record->curve);
    record->n_curve = f->n_curve;
    record->curve = calloc(f->n_curve ? f->n_curve : 1, sizeof *record->curve);
    if (!record->curve)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a loss curve");
    memcpy(record->curve, f->curve, f->n_curve * sizeof *f->curve);
    return OK;
}

/* Fine-tunes a configuration as a trial would be and scores it on the report part.  The pick's adapter is wanted afterwards, so it
 * is fine-tuned (or read back from its checkpoint) even when its scores are known. */
static enum status reach_milestone(struct engine *engine, enum milestone which)
{
    struct milestone_record *record = &engine->milestone[which];
    if (record->done && which != PICK)
        return OK;
    int64_t steps = engine->config->final_steps ? engine->config->final_steps : engine->trials.steps;
    char label[32], folder[32];
    snprintf(label, sizeof label, "[%s] ", milestone_name[which]);
    snprintf(folder, sizeof folder, "%s%s", which == PICK ? "" : "search/", which == PICK ? "." : milestone_name[which]);
    if (!record->level)
        record->level = calloc(engine->space.n, 1);
    if (!record->level)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a configuration");
    milestone_level(engine, which, record->level);
    TRY(engine_requantize(engine, record->level, label));
    TRY(trials_set(&engine->trials, record->level, engine->err));
    char *dir = path_join(engine->config->output_dir, folder);
    if (!dir)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    enum status status = trials_finetune(&engine->trials, steps, label, dir, engine->err);
    if ((status == OK || status == ERR_DIVERGED) && which != PICK)
        dir_remove(dir);
    free(dir);
    if (status != OK || record->done)
        return status;
    record->outcome.size = trials_size(&engine->trials, record->level);
    TRY(trials_score(&engine->trials, PART_REPORT, 1, &engine->trials.model, &engine->trials.lora, &record->outcome, engine->err));
    engine->pick_is_scored = which == PICK;
    TRY(keep_curve(engine, record));
    log_line(&engine->log, "%sreport part: %.4f +- %.4f, %.3f MB", label, record->outcome.score, sqrt(record->outcome.variance),
             record->outcome.size / 1e6);
    return engine_record_milestone(engine, which);
}

/* The uniform configurations are there to compare with: one that diverges leaves its row out. */
static enum status reach_uniform(struct engine *engine, enum milestone which)
{
    enum status status = reach_milestone(engine, which);
    if (status != ERR_DIVERGED)
        return status;
    log_line(&engine->log, "[%s] failed: %s", milestone_name[which], engine->err->text);
    return OK;
}

/* ---- the whole job ---- */

/* The milestone AFTER_PRUNING. */
static enum status score_pruned(struct engine *engine)
{
    struct milestone_record *after = &engine->milestone[AFTER_PRUNING];
    if (after->done)
        return OK;
    if (engine_prunes(engine->config))
        TRY(trials_score(&engine->trials, PART_REPORT, 1, &engine->pruned, NULL, &after->outcome, engine->err));
    else
        after->outcome = engine->milestone[BEFORE_PRUNING].outcome; /* the same model */
    TRY(engine_untried_bytes(engine, &engine->pruned.plan, &engine->shape, &after->outcome.size));
    TRY(engine_record_milestone(engine, AFTER_PRUNING));
    log_line(&engine->log, "after pruning, untuned: %.4f", after->outcome.score);
    return OK;
}

static enum status compress(struct engine *engine)
{
    TRY(engine_make_space(engine, INFINITY));
    TRY(engine_pairs_new(engine));
    TRY(engine_open_journal(engine));
    TRY(engine_prune(engine));
    TRY(engine_place_training(engine));
    TRY(engine_make_space(engine, engine_size_budget(engine)));
    engine->space.prior = engine->prior.gp.n ? &engine->prior : NULL;
    if (engine->n_ratios == 0)
        TRY(score_pruned(engine));
    if (config_searches(engine->config)) {
        TRY(search(engine));
        TRY(choose_pick(engine));
        if (engine->n_ratios) /* of which ratio is known now */
            TRY(score_pruned(engine));
        TRY(reach_uniform(engine, ALL_LOW));
        TRY(reach_uniform(engine, ALL_HIGH));
    }
    TRY(reach_milestone(engine, PICK));
    engine->peak_bytes = process_peak_bytes();
    TRY(engine_write_outputs(engine));
    return engine_write_report(engine);
}

/* A line to train.log, then to the caller.  A log that cannot be written stops no run. */
static void write_line(void *user, const char *text)
{
    struct engine *engine = user;
    struct text line = {0};
    text_printf(&line, "%s\n", text);
    if (engine->log_fd >= 0 && !line.failed && write(engine->log_fd, line.s, line.n) < 0) {
        close(engine->log_fd);
        engine->log_fd = -1;
    }
    text_free(&line);
    log_line(&engine->outer_log, "%s", text);
}

static enum status open_log(struct engine *engine)
{
    char *path = path_join(engine->config->output_dir, "train.log");
    if (!path)
        return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
    engine->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    free(path);
    engine->outer_log = engine->log;
    engine->log = (struct log){.line = write_line, .user = engine};
    return OK;
}

/* A job never writes over what it reads: output_dir/model may be another run's result and this run's base model. */
static enum status keep_inputs(const struct engine *engine)
{
    static const char *const written[] = {"model", "model.gguf", "metrics.jsonl"};
    const char *inputs[] = {engine->config->model, engine->config->dataset};
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        char *path = path_join(engine->config->output_dir, written[i]);
        if (!path)
            return err_set(engine->err, ERR_MEMORY, "out of memory for a path");
        enum status status = OK;
        for (size_t k = 0; k < 2; k++)
            if (*inputs[k] && path_same(inputs[k], path))
                status = err_set(engine->err, ERR_INPUT, "%s would be written over: this run reads it; take another output_dir", inputs[k]);
        free(path);
        TRY(status);
    }
    return OK;
}

static enum status prepare_output_dir(struct engine *engine)
{
    struct err *err = engine->err;
    const char *dir = engine->config->output_dir;
    static const char *const folders[] = {"search", "eval"};
    TRY(dir_make(dir, err));
    TRY(dir_lock(dir, &engine->lock_fd, err));
    TRY(dir_sweep(dir, err));
    TRY(open_log(engine));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *path = path_join(dir, folders[i]);
        enum status status = path ? dir_make(path, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
        if (status == OK)
            status = dir_sweep(path, err);
        free(path);
        TRY(status);
    }
    if (engine_threads(engine->config) > machine_cores())
        log_line(&engine->log, "threads = %d on %d cores: they take turns; threads = 0 is one a core", engine_threads(engine->config), machine_cores());
    return OK;
}

static enum status run(struct engine *engine)
{
    bool full = strcmp(engine->config->train_mode, "full") == 0;
    TRY(config_check(engine->config, engine->err));
    TRY(keep_inputs(engine));
    TRY(cpu_threads(engine_threads(engine->config), engine->err));
    TRY(engine_load_inputs(engine));
    if (full) {
        TRY(prepare_output_dir(engine));
        TRY(engine_open_device(engine));
        TRY(engine_open_journal(engine)); /* holds nothing but whose folder this is */
        return engine_train_full(engine);
    }
    TRY(linalg_reserve(engine->err));
    TRY(engine_load_tasks(engine));
    TRY(engine_plan_memory(engine));
    TRY(engine_check_budget(engine));
    TRY(engine_learn_prior(engine));
    TRY(prepare_output_dir(engine));
    if (engine->embedding)
        log_line(&engine->log, "embedding: %s, for target_size = %.0f; with f32 nothing fits", engine->embedding, engine->config->target_size);
    return compress(engine);
}

static void engine_new(struct engine *engine, struct veneer *job)
{
    memset(engine, 0, sizeof *engine);
    engine->config = &job->config;
    engine->log = job->log;
    engine->err = &job->err;
    engine->started_s = clock_s();
    engine->lock_fd = engine->log_fd = -1;
    linalg_init();
}

/* ---- veneer.h ---- */

/* ERR_DIVERGED has no exit code of its own: outside a trial it is a failure. */
static int code_of(enum status status)
{
    return status == ERR_DIVERGED ? VENEER_FAILED : (int)status;
}

const char *veneer_version(void)
{
    return "0.1.0";
}

int veneer_new(struct veneer **job)
{
    *job = calloc(1, sizeof **job);
    if (!*job)
        return VENEER_MEMORY;
    return code_of(config_new(&(*job)->config, &(*job)->err));
}

void veneer_free(struct veneer *job)
{
    if (!job)
        return;
    config_free(&job->config);
    text_free(&job->text);
    free(job);
}

void veneer_log(struct veneer *job, void (*line)(void *user, const char *text), void *user)
{
    job->log = (struct log){.line = line, .user = user};
}

int veneer_read(struct veneer *job, const char *path)
{
    return code_of(config_read(&job->config, path, &job->err));
}

int veneer_set(struct veneer *job, const char *assignment, const char *where)
{
    return code_of(config_set(&job->config, assignment, where, &job->err));
}

static int give_text(struct veneer *job, const char **text)
{
    *text = job->text.s;
    if (job->text.failed || !job->text.s)
        return code_of(err_set(&job->err, ERR_MEMORY, "out of memory for a text"));
    return VENEER_OK;
}

int veneer_print_config(struct veneer *job, const char **text)
{
    text_clear(&job->text);
    config_print(&job->config, true, &job->text);
    return give_text(job, text);
}

int veneer_help(struct veneer *job, const char **text)
{
    text_clear(&job->text);
    config_help(&job->text);
    return give_text(job, text);
}

int veneer_plan(struct veneer *job, const char **text)
{
    struct engine engine;
    engine_new(&engine, job);
    engine.planning = true;
    text_clear(&job->text);
    *text = NULL;
    enum status status = config_check(&job->config, &job->err);
    if (status == OK)
        status = engine_load_inputs(&engine);
    if (status == OK)
        status = engine_load_tasks(&engine);
    enum status fits = OK;
    if (status == OK) {
        fits = engine_plan_memory(&engine);
        status = fits == ERR_MEMORY ? OK : fits;
    }
    if (status == OK) {
        engine_print_plan(&engine, &job->text);
        status = (enum status)give_text(job, text);
    }
    engine_free(&engine);
    return code_of(status != OK ? status : fits);
}

int veneer_run(struct veneer *job)
{
    struct engine engine;
    engine_new(&engine, job);
    enum status status = run(&engine);
    engine_free(&engine);
    stop_reset(); /* a request was meant for this run: a host program may run the job again */
    return code_of(status);
}

void veneer_stop(void)
{
    stop_request();
}

const char *veneer_error(const struct veneer *job)
{
    return job->err.text;
}
