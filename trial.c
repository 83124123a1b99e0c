/* trial.c: the cache of quantized linears and started adapters, one trial. */
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/stop.h"
#include "cloq.h"
#include "quant_affine.h"
#include "quant_panel.h"

/* ---- memory ---- */

/* True when the start of a small rank is the beginning of that of a larger one (one SVD cut later; random rows drawn by index), so that one stands for all. */
static bool ranks_share(const struct config *config)
{
    bool loftq_once = strcmp(config->lora_init, "loftq") == 0 && config->loftq_iters == 1 && !config->use_rslora;
    bool cloq = strcmp(config->lora_init, "cloq") == 0 && !config->use_rslora;
    return loftq_once || cloq || strcmp(config->lora_init, "default") == 0;
}

static size_t rank_slots(const struct trials *trials)
{
    return trials->n_ranks == 0 || ranks_share(trials->config) ? 1 : trials->n_ranks;
}

/* The rank that a variant's start is made with. */
static int32_t start_rank(const struct trials *trials, size_t linear, size_t slot)
{
    if (!trials->ranked[linear])
        return trials->plan.layer[linear / LINEAR_COUNT].linear[linear % LINEAR_COUNT].rank;
    return trials->rank[rank_slots(trials) == 1 ? trials->n_ranks - 1 : slot];
}

static struct variant *variant_at(const struct trials *trials, size_t linear, size_t format, size_t slot)
{
    return &trials->variant[(linear * MAX_LEVELS + format) * rank_slots(trials) + slot];
}

static bool variant_used(const struct trials *trials, size_t linear, size_t format)
{
    return trials->pinned[linear] == TRIALS_NOT_PINNED ? format < trials->n_levels : format == trials->pinned[linear];
}

static void place_variant(struct trials *trials, const struct model_config *shape, size_t linear, size_t format, size_t slot, struct arena *weights)
{
    int l = (int)(linear / LINEAR_COUNT), j = (int)(linear % LINEAR_COUNT);
    size_t out, in, r = (size_t)start_rank(trials, linear, slot);
    struct plan_linear p;
    struct variant v = {.ready = false};
    plan_shape(&trials->plan, shape, l, (enum linear)j, &out, &in);
    trials_set_format(trials, linear, trials->format[format], &p);
    if (trials->format[format] != FORMAT_KEEP) /* else it is the source's */
        quant_place(&v.q, p.format, p.block, p.double_quant, out, in, weights);
    v.A = arena_take(weights, r * in, sizeof(real));
    v.B = arena_take(weights, r * out, sizeof(real));
    if (trials->variant)
        *variant_at(trials, linear, format, slot) = v;
}

void trials_place_weights(struct trials *trials, const struct model_config *shape, struct arena *weights)
{
    size_t slots = rank_slots(trials);
    trials->variant = arena_take(weights, trials->n_linears * MAX_LEVELS * slots, sizeof *trials->variant);
    for (size_t i = 0; i < trials->n_linears; i++)
        for (size_t f = 0; f < trials->n_formats; f++)
            for (size_t slot = 0; slot < (trials->ranked[i] ? slots : 1) && variant_used(trials, i, f); slot++)
                place_variant(trials, shape, i, f, slot, weights);
}

void trials_place_training(struct trials *trials, const struct model_config *shape, int64_t max_steps, struct arena *optimizer)
{
    lora_place(&trials->lora, &trials->plan, shape, !trials->mirror, optimizer);
    trials->lora.dropout = (float)trials->config->lora_dropout;
    trials->lora.seed = (uint64_t)trials->config->seed;
    finetune_place(&trials->finetune, trials->dataset, trials->config->micro_batch_size, max_steps, optimizer);
    int32_t longest = trials->dataset->longest; /* search_data may have longer rows than what is trained on */
    if (trials->held_out && trials->held_out->longest > longest)
        longest = trials->held_out->longest;
    trials->positions = arena_take(optimizer, (size_t)longest, sizeof *trials->positions);
    for (int32_t t = 0; trials->positions && t < longest; t++)
        trials->positions[t] = t;
}

size_t trials_max_rank(const struct trials *trials)
{
    int32_t most = 0;
    for (size_t i = 0; i < trials->n_linears; i++) {
        int32_t rank = trials->plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].rank;
        rank = trials->ranked[i] ? trials->rank[trials->n_ranks - 1] : rank;
        most = rank > most ? rank : most;
    }
    return (size_t)most;
}

/* ---- on a device ---- */

static size_t placed_bytes(const struct plan_linear *p, size_t out, size_t in)
{
    struct arena tables = {0}, count = {.tables = &tables};
    struct qmat q;
    quant_place(&q, p->format, p->block, p->double_quant, out, in, &count);
    return count.used;
}

enum status trials_formats_by_room(const struct trials *trials, const struct model_config *shape, bool most, struct plan *plan, struct err *err)
{
    TRY(plan_copy(plan, &trials->plan, err));
    for (size_t i = 0; i < trials->n_linears; i++) {
        struct plan_linear *chosen = &plan->layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
        size_t out, in, bytes = 0;
        plan_shape(plan, shape, (int)(i / LINEAR_COUNT), (enum linear)(i % LINEAR_COUNT), &out, &in);
        for (size_t f = 0; f < trials->n_formats; f++) {
            struct plan_linear p = *chosen;
            if (!variant_used(trials, i, f))
                continue;
            trials_set_format(trials, i, trials->format[f], &p);
            size_t n = placed_bytes(&p, out, in);
            if (bytes > 0 && most != (n > bytes))
                continue;
            *chosen = p;
            bytes = n;
        }
    }
    return OK;
}

enum status trials_find_widest(struct trials *trials, const struct model_config *shape, struct err *err)
{
    plan_free(&trials->widest);
    return trials_formats_by_room(trials, shape, true, &trials->widest, err);
}

enum status trials_there(struct trials *trials, const struct model **model, const struct lora **lora, struct err *err)
{
    if (!trials->mirror)
        return OK;
    const struct plan *widest = *model == &trials->model ? &trials->widest : NULL;
    TRY(model_mirror_model(trials->mirror, *model, widest, model, err));
    return model_mirror_adapters(trials->mirror, *lora, lora, err);
}

struct lora *trials_trained(struct trials *trials)
{
    return trials->mirror ? &trials->mirror->lora : &trials->lora;
}

enum status trials_rest(const struct trials *trials, struct qmat *q, struct err *err)
{
    return trials->mirror ? OK : quant_to_panels(q, err);
}

/* ---- a trial ---- */

static real scaling_of(const struct trials *trials, size_t linear, int32_t rank)
{
    int l = (int)(linear / LINEAR_COUNT), j = (int)(linear % LINEAR_COUNT);
    if (!trials->ranked[linear])
        return plan_scaling(&trials->plan, l, (enum linear)j);
    return (real)trials_alpha(trials, rank) / (real)(trials->config->use_rslora ? sqrt((double)rank) : (double)rank);
}

static enum status start_options(const struct trials *trials, size_t linear, struct lora_init_options *options, struct err *err)
{
    *options = (struct lora_init_options){.loftq_iters = (int)trials->config->loftq_iters, .pissa_niter = (int)trials->config->pissa_niter,
                                          .seed = (uint64_t)trials->config->seed, .step = (uint32_t)linear};
    return lora_init_parse(trials->config->lora_init, &options->init, err);
}

/* The source's weights of a linear as reals: *temp is the caller's to free where they had to be decoded. */
static enum status source_weights(const struct trials *trials, size_t linear, const real **W, real **temp, struct err *err)
{
    const struct qmat *q = &trials->source->layer[linear / LINEAR_COUNT].linear[linear % LINEAR_COUNT];
    *temp = NULL;
    *W = q->codes;
    if (q->format == FORMAT_F32)
        return OK;
    *W = *temp = malloc(q->rows * q->cols * sizeof **temp);
    if (!*temp)
        return err_set(err, ERR_MEMORY, "out of memory for a matrix of %zu elements", q->rows * q->cols);
    quant_decode_rows(q, 0, q->rows, *temp);
    return OK;
}

/* The matrix as it is stored is the base: LoftQ finds nothing that it lacks, so every start is one with B = 0. */
static enum status start_kept(const struct trials *trials, size_t linear, int32_t rank, struct variant *v, struct lora_init_options *options, struct err *err)
{
    v->q = trials->source->layer[linear / LINEAR_COUNT].linear[linear % LINEAR_COUNT];
    options->init = options->init == LORA_INIT_GAUSSIAN ? LORA_INIT_GAUSSIAN : LORA_INIT_DEFAULT;
    return lora_start_beside(&v->q, v->A, v->B, NULL, rank, scaling_of(trials, linear, rank), options, err);
}

static enum status start_quantized(const struct trials *trials, size_t linear, int32_t rank, struct variant *v, const struct lora_init_options *options,
                                   struct err *err)
{
    const real *W;
    real *temp;
    TRY(source_weights(trials, linear, &W, &temp, err));
    enum status status = lora_start(&v->q, v->A, v->B, W, rank, scaling_of(trials, linear, rank), options, err);
    free(temp);
    return status == OK ? trials_rest(trials, &v->q, err) : status;
}

static enum status start_variant(struct trials *trials, size_t linear, size_t format, size_t slot, struct err *err)
{
    struct variant *v = variant_at(trials, linear, format, slot);
    if (v->ready)
        return OK;
    TRY(stop_check(err));
    int32_t rank = start_rank(trials, linear, slot);
    struct lora_init_options options;
    TRY(start_options(trials, linear, &options, err));
    if (options.init == LORA_INIT_CLOQ && rank > 0)
        return err_set(err, ERR_FAILED, "an adapter that trials_start_all has not started");
    enum status status = trials->format[format] == FORMAT_KEEP ? start_kept(trials, linear, rank, v, &options, err)
                                                               : start_quantized(trials, linear, rank, v, &options, err);
    char name[64];
    plan_name((int)(linear / LINEAR_COUNT), (enum linear)(linear % LINEAR_COUNT), name);
    if (status != OK)
        return err_prefix(err, status, "%s", name);
    v->ready = true;
    return OK;
}

/* The first `rank` rows of A and columns of B of a start that was made with rank `made`. */
static void start_adapter(struct adapter *a, const struct variant *v, int32_t rank, int32_t made, real s)
{
    if (made == 0)
        return;
    a->r = rank;
    a->s = s;
    memcpy(a->A, v->A, (size_t)rank * a->in * sizeof(real));
    for (size_t row = 0; row < a->out; row++)
        memcpy(a->B + row * (size_t)rank, v->B + row * (size_t)made, (size_t)rank * sizeof(real));
}

static size_t slot_of(const struct trials *trials, size_t linear, const uint8_t *level)
{
    return rank_slots(trials) == 1 ? 0 : trials_rank_level(trials, linear, level);
}

struct variant *trials_variant(const struct trials *trials, size_t linear, const uint8_t *level)
{
    return variant_at(trials, linear, trials_format(trials, linear, level), slot_of(trials, linear, level));
}

/* Fills v's adapter, of rank `rank`, beside the codes that v holds. */
static enum status start_beside(struct trials *trials, size_t linear, int32_t rank, struct variant *v, const real *W, const struct gram *gram, struct err *err)
{
    struct lora_init_options options;
    real s = scaling_of(trials, linear, rank);
    TRY(start_options(trials, linear, &options, err));
    if (options.init != LORA_INIT_CLOQ)
        return lora_start_beside(&v->q, v->A, v->B, W, rank, s, &options, err);
    if (rank == 0)
        return OK;
    struct cloq cloq = {.out = v->q.rows, .in = v->q.cols, .r = rank, .s = s, .damp = GRAM_DAMP};
    real *Q = malloc(cloq.out * cloq.in * sizeof *Q);
    if (!Q)
        return err_set(err, ERR_MEMORY, "out of memory for an adapter's start");
    quant_decode_rows(&v->q, 0, cloq.out, Q);
    enum status status = cloq_start(v->A, v->B, W, Q, gram, &cloq, err);
    free(Q);
    return status;
}

enum status trials_start_beside(struct trials *trials, size_t linear, const uint8_t *level, struct variant *v, const real *W, const struct gram *gram,
                                struct err *err)
{
    return start_beside(trials, linear, start_rank(trials, linear, slot_of(trials, linear, level)), v, W, gram, err);
}

enum status trials_start_variants(struct trials *trials, size_t linear, const real *W, const struct gram *gram, const double *U, struct err *err)
{
    size_t slots = trials->ranked[linear] ? rank_slots(trials) : 1;
    for (size_t f = 0; f < trials->n_formats; f++)
        for (size_t slot = 0; slot < slots && variant_used(trials, linear, f); slot++) {
            struct variant *v = variant_at(trials, linear, f, slot);
            TRY(stop_check(err));
            TRY(U && quant_affine_bits(v->q.format) > 0 ? trials_encode_gptq(trials, &v->q, W, gram, U, err) : quant_encode(&v->q, W, false, err));
            TRY(start_beside(trials, linear, start_rank(trials, linear, slot), v, W, gram, err));
            TRY(trials_rest(trials, &v->q, err));
            v->ready = true;
        }
    return OK;
}

/* One linear under a configuration: its matrix and its adapter's start. */
static enum status set_linear(struct trials *trials, size_t linear, const uint8_t *level, const struct variant **variant, struct err *err)
{
    int l = (int)(linear / LINEAR_COUNT), j = (int)(linear % LINEAR_COUNT);
    size_t slot = slot_of(trials, linear, level);
    int32_t made = start_rank(trials, linear, slot), rank = trials->ranked[linear] ? trials->rank[trials_rank_level(trials, linear, level)] : made;
    TRY(start_variant(trials, linear, trials_format(trials, linear, level), slot, err));
    *variant = trials_variant(trials, linear, level);
    trials_plan_linear(trials, linear, level, &trials->plan.layer[l].linear[j]);
    start_adapter(&trials->lora.adapter[l][j], *variant, rank, made, scaling_of(trials, linear, rank));
    return OK;
}

enum status trials_set(struct trials *trials, const uint8_t *level, struct err *err)
{
    if (!trials->model.layer)
        TRY(model_alias(&trials->model, trials->source, &trials->plan, err));
    memset(trials->lora.p, 0, trials->lora.n * sizeof(real)); /* a small rank leaves room unused: checkpoints hold it */
    for (size_t i = 0; i < trials->n_linears; i++) {
        int l = (int)(i / LINEAR_COUNT), j = (int)(i % LINEAR_COUNT);
        const struct variant *v;
        TRY(set_linear(trials, i, level, &v, err));
        trials->model.layer[l].linear[j] = v->q;
        trials->model.plan.layer[l].linear[j] = trials->plan.layer[l].linear[j];
        if (trials->own_layer) {
            trials->model.layer[l].input_norm = trials->own_layer[l].input_norm;
            trials->model.layer[l].post_norm = trials->own_layer[l].post_norm;
            trials->model.layer[l].bias[j] = trials->own_layer[l].bias[j];
        }
    }
    return OK;
}

void trial_options(const struct config *config, int64_t steps, struct finetune_options *options)
{
    memset(options, 0, sizeof *options);
    struct optim *o = &options->optim;
    optim_default(o);
    o->lr = (real)config->learning_rate;
    o->beta1 = (real)config->adam_beta1;
    o->beta2 = (real)config->adam_beta2;
    o->eps = (real)config->adam_epsilon;
    o->weight_decay = (real)config->weight_decay;
    o->max_grad_norm = (real)config->max_grad_norm;
    schedule_parse(config->lr_scheduler, &o->schedule, NULL); /* one of its names: config.c has checked */
    o->total_steps = steps;
    o->warmup_steps = config->warmup_steps ? config->warmup_steps : (int64_t)ceil(config->warmup_ratio * (double)steps);
    options->batch_size = config->batch_size;
    options->micro_batch_size = config->micro_batch_size;
    options->micro_mean = strcmp(config->loss_average, "micro") == 0;
    options->seed = (uint64_t)config->seed;
    options->save_steps = config->save_steps;
    options->label = "";
}

enum status trials_finetune(struct trials *trials, int64_t steps, const char *label, const char *checkpoint_dir, struct err *err)
{
    struct finetune_options options;
    trial_options(trials->config, steps, &options);
    options.log = trials->log;
    options.label = label;
    options.checkpoint_dir = checkpoint_dir;
    if (trials->lora.n == 0 || steps == 0) {
        trials->finetune.n_curve = 0;
        return OK;
    }
    const struct model *model = &trials->model;
    const struct lora *lora = &trials->lora;
    TRY(trials_there(trials, &model, &lora, err));
    struct finetune_target target = {.lora = trials_trained(trials)};
    TRY(finetune_run(&trials->finetune, trials->run, model, &target, trials->dataset, steps, &options, err));
    return model_mirror_adapters_down(trials->mirror, &trials->lora, err);
}

/* ---- scores ---- */

struct batch trials_example(const struct trials *trials, const struct example *e, struct segment *segment)
{
    *segment = (struct segment){.len = e->n};
    return (struct batch){.n = (size_t)e->n, .tokens = e->tokens, .labels = e->labels, .segments = segment, .n_segments = 1, .positions = trials->positions};
}

/* Mean nll of held-out examples, and the variance of that mean over examples. */
static enum status score_held_out(struct trials *trials, double share, const struct model *model, const struct lora *lora,
                                  struct trial_outcome *outcome, struct err *err)
{
    double sum = 0, squares = 0;
    size_t n = (size_t)ceil(share * (double)trials->held_out->n);
    TRY(trials_there(trials, &model, &lora, err));
    for (size_t i = 0; i < n; i++) {
        const struct example *e = &trials->held_out->example[i];
        struct segment segment;
        struct batch batch = trials_example(trials, e, &segment);
        double nll;
        size_t count;
        TRY(model_score(trials->run, model, lora, &batch, NULL, NULL, &nll, &count, err));
        double mean = nll / (double)(count ? count : 1);
        sum += mean;
        squares += mean * mean;
    }
    double mean = sum / (double)n;
    outcome->held_out_loss = mean;
    outcome->score = -mean;
    outcome->variance = n > 1 ? fmax(squares / (double)n - mean * mean, 0) / (double)(n - 1) : 0;
    return OK;
}

/* Against the unquantized model on the held-out text. */
static enum status measure_divergence(struct trials *trials, double share, const struct model *model, const struct lora *lora,
                                      struct evaluate_divergences *d, struct err *err)
{
    const struct model *source = trials->source;
    const struct lora *none = NULL;
    if (!trials->reference) {
        TRY(trials_there(trials, &source, &none, err));
        TRY(evaluate_reference_new(&trials->reference, trials->held_out, (size_t)trials->config->search_tokens, trials->run, source, err));
    }
    TRY(trials_there(trials, &model, &lora, err));
    return evaluate_against(trials->reference, share, trials->run, model, lora, d, err);
}

enum status trials_divergence(struct trials *trials, const uint8_t *level, double *kl, struct err *err)
{
    struct evaluate_divergences d;
    TRY(stop_check(err));
    TRY(trials_set(trials, level, err));
    TRY(measure_divergence(trials, 1, &trials->model, &trials->lora, &d, err));
    *kl = d.kl;
    return OK;
}

/* Larger is better, so the divergence is negated. */
static enum status score_divergence(struct trials *trials, double share, const struct model *model, const struct lora *lora,
                                    struct trial_outcome *outcome, struct err *err)
{
    struct evaluate_divergences d;
    TRY(measure_divergence(trials, share, model, lora, &d, err));
    bool jsd = trials->objective == OBJECTIVE_JSD;
    outcome->divergence = jsd ? d.jsd : d.kl;
    outcome->score = -outcome->divergence;
    outcome->variance = jsd ? d.jsd_variance : d.kl_variance;
    return OK;
}

static enum status score_tasks(struct trials *trials, enum task_part part, double share, const struct model *model, const struct lora *lora,
                               struct trial_outcome *outcome, struct err *err)
{
    const struct trial_tasks *tasks = trials->tasks;
    outcome->n_tasks = tasks->n;
    if (tasks->n)
        TRY(trials_there(trials, &model, &lora, err));
    uint8_t *right = part == PART_SEARCH ? outcome->right : NULL;
    for (size_t i = 0; i < tasks->n; i++) {
        struct evaluate_set *set = part == PART_SEARCH ? tasks->search[i] : tasks->report[i];
        const struct evaluate_sample *sample;
        TRY(evaluate_run(set, share, trials->run, model, lora, &outcome->task[i], &sample, err));
        for (size_t k = 0; right && k < outcome->task[i].n; k++)
            right[k] = evaluate_is_right(set, &sample[k]);
        right = right ? right + evaluate_count(set) : NULL;
    }
    if (tasks->n)
        evaluate_mean(outcome->task, tasks->n, &outcome->score, &outcome->variance);
    return OK;
}

enum status trials_score(struct trials *trials, enum task_part part, double share, const struct model *model, const struct lora *lora,
                         struct trial_outcome *outcome, struct err *err)
{
    outcome->n_tasks = 0;
    outcome->score = outcome->variance = 0;
    outcome->held_out_loss = outcome->divergence = outcome->first_loss = outcome->last_loss = NAN;
    if (trials->finetune.n_curve && lora) {
        outcome->first_loss = trials->finetune.curve[0].loss;
        outcome->last_loss = trials->finetune.curve[trials->finetune.n_curve - 1].loss;
    }
    if (part == PART_SEARCH && objective_is_divergence(trials->objective))
        return score_divergence(trials, share, model, lora, outcome, err);
    TRY(score_tasks(trials, part, share, model, lora, outcome, err));
    if (part == PART_SEARCH && trials->objective == OBJECTIVE_LOSS)
        return score_held_out(trials, share, model, lora, outcome, err);
    return OK;
}
