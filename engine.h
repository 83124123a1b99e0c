/* engine.h: the state of one job, shared by the engine's files; not public (veneer.h is).
 *
 * engine.c       veneer.h's functions, the order of the stages
 * engine_load.c  inputs      engine_memory.c  widths after pruning, memory plan      engine_model.c  pruning, placing, calibration
 * engine_device.c  what of it lies in a GPU's memory
 * engine_budget.c  target_size and target_bpw
 * engine_ratios.c  a model for each of pruning_ratios   engine_scratch.c  a model from random weights, all parameters trained
 * engine_journal.c  what is remembered between runs of the same command
 * engine_prior.c  what another run's search learnt
 * engine_pairs.c  trials compared on the same documents
 * engine_output.c   exported files      engine_report.c  report.html */
#ifndef VENEER_ENGINE_H
#define VENEER_ENGINE_H
#include "base/arena.h"
#include "base/err.h"
#include "base/journal.h"
#include "base/log.h"
#include "base/text.h"
#include "config.h"
#include "evaluate.h"
#include "finetune.h"
#include "io/checkpoint.h"
#include "io/dataset.h"
#include "io/json.h"
#include "io/tasks.h"
#include "io/tokenizer.h"
#include "model.h"
#include "prune.h"
#include "search.h"
#include "search_prior.h"
#include "trial.h"

/* The five rows of the final table. */
enum milestone { BEFORE_PRUNING, AFTER_PRUNING, ALL_LOW, ALL_HIGH, PICK, MILESTONES };
extern const char *const milestone_name[MILESTONES]; /* "before", "after", "low", "high", "pick" */

struct milestone_record {
    bool done;
    struct trial_outcome outcome;
    struct finetune_point *curve; /* owned; NULL for the first two */
    size_t n_curve;
    uint8_t *level;               /* owned, [variables]; NULL for the first two */
};

/* Bytes of activations: of the largest batch; of the longest sequence that importance is measured on, in f32, in the place of the first. */
struct device_run {
    size_t tuning, measuring;
};

/* Bytes in a GPU's memory, of the largest model of any ratio; 0 where passes run on the CPU. */
struct device_plan {
    size_t base, importance;  /* the model as it is stored, what measuring takes beside it, unless nothing reads them */
    size_t unquantized;       /* a pruned model before it is quantized, likewise */
    size_t weights, smallest; /* as they are stored, every linear in the largest of its formats, or in the smallest */
    size_t adapters;          /* with gradients and moments */
    size_t reference, answers, gguf; /* hidden states of the unquantized model; the longest written answer; model.gguf compared with the pick */
    struct device_run kept, recomputed, activations; /* either way; the one of them that was chosen */
    size_t scratch, own;      /* of the kernels; of every open device */
    size_t peak;              /* the most that lies there at one time */
};

/* Bytes of each lifetime, planned before any is taken. */
struct memory_plan {
    size_t base_weights;    /* the model as loaded, until it is pruned */
    size_t loading;         /* a matrix that is encoded on the way in, or copied into panels */
    size_t importance;      /* gradients, and what calibration keeps for them */
    size_t slicing;         /* a matrix that is decoded and encoded anew where a cut divides its blocks */
    size_t weights;         /* pruned, linears F32 or as they are stored: what every format is made from */
    size_t variants;        /* every linear in every format with its adapter's start */
    size_t optimizer;       /* adapters, gradients, moments, micro-batch */
    size_t activations;     /* of a batch; kept or recomputed */
    size_t scratch;         /* of the kernels */
    size_t reference;       /* hidden states of the unquantized model on the held-out text */
    size_t requantize;      /* what gptq or awq takes */
    size_t answers;         /* the context of the longest answer that a task has written */
    size_t start;           /* LoftQ's workspace for the largest linear */
    size_t gguf;            /* model.gguf as it is written and compared with the pick */
    size_t program;         /* code, libraries, text of data and tasks: resident when the plan was made */
    size_t peak;            /* the largest sum that exists at one time */
    struct device_plan device;
    bool keep_activations;
};

/* What a pruned model has of its own, of a ratio that is not in use; of the one in use all but the value are empty here and stand in the engine. */
struct engine_ratio {
    double value; /* as the key says */
    struct model_config shape;
    double group_ratio, achieved_ratio;
    struct arena weights, variants, optimizer;
    struct model pruned;
    struct trials trials;
};

/* The arrays behind a search space with a ratio: [variables of the trials + 1], owned. */
struct engine_joint {
    uint8_t *n_levels, *kind;
    uint16_t *group;
    const double **feature;
    double position[CONFIG_RATIOS]; /* of the ratios */
};

/* How many trials answered each document of the search part right. */
struct engine_pairs {
    size_t n[MAX_TASKS], n_tasks;  /* documents of each task */
    size_t n_documents, n_trials; /* n_documents 0: the objective is not accuracy */
    uint8_t *right;               /* [n_documents] of the trial under way; owned */
    uint32_t *count;              /* [n_documents]; owned */
};

struct engine {
    const struct config *config;
    struct log log;       /* writes train.log too, once output_dir is there */
    struct log outer_log; /* the caller's */
    int log_fd;
    struct err *err;
    double started_s;
    int lock_fd;
    bool planning; /* nothing will be run: weights may be missing, no device is opened */

    /* inputs */
    struct checkpoint *checkpoint;
    struct model_stored stored;    /* how it holds its matrices */
    struct tokenizer *own_tokenizer; /* from scratch */
    const struct tokenizer *tokenizer;
    struct dataset dataset, calibration; /* calibration: n 0 when it is the dataset */
    struct dataset held_out;      /* what loss and divergence are measured on; n 0: nothing is */
    bool held_out_is_tail;        /* of the dataset, whose arrays it borrows; else search_data's */
    struct task task[MAX_TASKS];
    struct trial_tasks tasks;
    size_t dropped[MAX_TASKS];

    /* shapes and memory */
    struct model_config base_shape, shape; /* before and after pruning */
    struct prune_options prune_options;
    double group_ratio, achieved_ratio;
    struct memory_plan memory;
    struct arena base_weights, weights, variants, optimizer;
    struct arena importance, activations, scratch; /* of passes; importance: gradients, of train_mode = full with moments */
    struct ops_context ops;       /* where passes run: on a device their arenas are its memory, all others the host's */
    struct model_mirror mirror;   /* on a device: what they read */
    struct arena tables[2];       /* likewise: what the host reads of activations and of importance */
    struct model base, pruned;
    struct model_run run;
    struct ops_context host_ops;  /* likewise: the CPU, for what calibration data tells */
    struct model_run host_run;
    struct arena host_activations, host_scratch;
    struct trials trials;
    const char *embedding;        /* what target_size made of embedding_type = auto; NULL: what auto stands for (static) */

    /* pruning_ratios, the most pruned first; n_ratios 0: the key is empty, and there is one model, by pruning_ratio */
    struct engine_ratio *ratio; /* owned */
    size_t n_ratios, ratio_in_use;
    struct engine_joint joint;

    /* progress */
    struct journal journal;
    struct search_space space;
    struct search_archive archive;
    struct search_prior prior; /* gp.n 0: there is none */
    struct engine_pairs pairs;
    struct text trial_notes; /* one line a trial: seed or why it was proposed */
    struct milestone_record milestone[MILESTONES];
    double *known_importance; /* [space.n] from the journal, or NULL; owned */
    double *known_speed;      /* [models * levels] likewise */
    double max_size;
    size_t pick;
    bool pick_is_scored; /* in this process: the report part's sets hold its answers */
    double peak_bytes, gguf_kl;
};

/* engine_load.c */
enum status engine_load_inputs(struct engine *engine);
enum status engine_load_tasks(struct engine *engine);   /* from the base's shape */
bool engine_requantizes(const struct config *config);      /* the last quantizer is a calibrated one */
bool engine_has_weights(const struct engine *engine);      /* false: a plan of a folder that holds config.json alone; data and tasks are not opened */
void engine_free(struct engine *engine);

/* engine_budget.c */
double engine_size_budget(const struct engine *engine);    /* the largest stored size that target_size and target_bpw allow; INFINITY without them */
/* embedding_type = auto, where nothing fits target_size with f32: the widest of 16 bits, int8 and nf4 with which something does (engine->embedding).
 * From the shape after pruning, before anything is counted; of several ratios from the most pruned one. */
enum status engine_fit_embedding(struct engine *engine);
enum status engine_check_budget(struct engine *engine);    /* before a folder is made, by the widths that pruning is planned to lead to; makes the space */

/* engine_memory.c */
enum status engine_plan_memory(struct engine *engine);  /* counts every lifetime; ERR_MEMORY when it does not fit */
void engine_print_plan(struct engine *engine, struct text *out);
int engine_threads(const struct config *config);
size_t engine_scratch_reals(struct engine *engine, const struct model *base); /* of the kernels, for the largest batch; sets ops' sizes */
struct model_run engine_run_of(const struct engine *engine, bool keep); /* what a pass over the largest batch needs room for */
struct model_run engine_measuring_run(const struct engine *engine, bool keep); /* on a device: what a pass that measures importance needs room for */
bool engine_prunes(const struct config *config);
/* Whether a model's linears lie as the file stores them until they are quantized: with quant_types = keep, and in 16-bit floats, which a cut only moves. */
bool engine_as_stored(const struct engine *engine);
/* The formats in which a model of these widths lies in memory before trials change them: F32, or as stored those of the checkpoint, or what a cut
 * leaves of them (prune_formats, which appends to told).  Embedding and head by embedding_type.  plan_free(&held->plan) releases. */
enum status engine_held(const struct engine *engine, const struct model_config *shape, struct model_stored *held, struct text *told);
enum status engine_held_base(const struct engine *engine, struct model_stored *held); /* those of the base until it is cut; likewise */
bool engine_measures(const struct engine *engine);         /* importance reads the weights */

/* engine_device.c */
bool engine_on_device(const struct engine *engine);        /* passes run on one, or would where only a plan is made */
enum format engine_floats(const struct engine *engine);    /* that of a checkpoint whose linears all have it, if it is half as wide as F32; else F32 */
enum status engine_count_device(struct engine *engine, const struct model *pruned, size_t reference); /* of the ratio in use, its trials' memory counted */
enum status engine_count_device_base(struct engine *engine, const struct model *base, size_t importance, size_t answers);
size_t engine_device_scratch(const struct engine *engine, const struct model *base, struct ops_context *c); /* reals, for every pass of a job */
size_t engine_device_peak(struct engine *engine);          /* by memory.keep_activations */
enum status engine_device_room(const struct engine *engine, double *bytes); /* of the open device */
enum status engine_check_device(const struct engine *engine); /* ERR_MEMORY when the open device has not the peak */
void engine_print_device(const struct engine *engine, struct text *out);

/* engine_model.c */
enum status engine_prune(struct engine *engine);        /* loads, scores milestone BEFORE_PRUNING, prunes (to every ratio), frees the base */
/* Bytes of a model of this plan before trials, as its row of the final table says: kept linears as they are, else in export_dtype, however they lie in memory. */
enum status engine_untried_bytes(struct engine *engine, const struct plan *plan, const struct model_config *shape, double *bytes);
enum status engine_importance_bytes(struct engine *engine, const struct model *base, size_t *bytes); /* what measuring takes beside a pass */
size_t engine_host_run_bytes(const struct engine *engine, const struct model *model); /* of the CPU's own run, beside a device's */
enum status engine_place_training(struct engine *engine); /* trials of every ratio */
enum status engine_open_device(struct engine *engine);  /* by the keys device and compute_dtype: engine->ops; ERR_INPUT when it cannot be */
struct model_mirror *engine_mirror(struct engine *engine); /* NULL: passes run on the CPU */
const char *engine_kernels(const struct engine *engine);   /* "avx2", "cuda" ... */
const char *engine_compute(const struct engine *engine);   /* what products are computed in there */
enum status engine_place_run(struct engine *engine, const struct model *model); /* scratch and activations */
enum status engine_requantize(struct engine *engine, const uint8_t *level, const char *label); /* by the key `quantizer`; hqq: nothing to do */

/* engine_ratios.c */
enum status engine_ratios_new(struct engine *engine);      /* reads the key; ERR_INPUT when strategy or objective cannot */
enum status engine_ratios_check(const struct engine *engine); /* ERR_INPUT when two lead to the same widths */
void engine_ratios_free(struct engine *engine);
size_t engine_models(const struct engine *engine);         /* pruned ones: one for each ratio, or one */
void engine_use_ratio(struct engine *engine, size_t k);    /* its model and trials become the engine's; without the key: nothing */
double engine_ratio(const struct engine *engine);          /* the value of the one in use, or pruning_ratio */
size_t engine_ratio_of(const struct engine *engine, const uint8_t *level); /* of a configuration of engine->space */
const struct trials *engine_trials_at(const struct engine *engine, size_t k); /* of the k-th ratio, in use or not */
const struct trials *engine_trials_of(const struct engine *engine, const uint8_t *level); /* the trials of that ratio, in use or not */
enum status engine_make_space(struct engine *engine, double max_size); /* engine->space and max_size, from the trials as they are now */

/* engine_scratch.c */
enum status engine_train_full(struct engine *engine);

/* engine_journal.c */
enum status engine_open_journal(struct engine *engine); /* ERR_INPUT when output_dir holds another run: says which key differs */
enum status engine_record_trial(struct engine *engine, const struct search_point *point, const struct trial_outcome *outcome,
                                const char *note);
enum status engine_record_importance(struct engine *engine); /* trials.importance */
enum status engine_record_speed(struct engine *engine); /* seconds of the trials of every ratio */
enum status engine_record_milestone(struct engine *engine, enum milestone milestone);

/* The digits of a record's member "level" as n levels, each below most[i]. */
enum status engine_read_level(const struct json *record, const char *where, size_t n, const uint8_t *most, uint8_t *level, struct err *err);

/* engine_speed.c */
enum status engine_check_speed(const struct engine *engine); /* ERR_INPUT when the strategy knows no third objective */
enum status engine_know_speed(struct engine *engine);        /* by the key search_speed: measured or remembered, into the space and the archive */

/* engine_prior.c */
enum status engine_learn_prior(struct engine *engine); /* by the key search_prior, if it is set; after engine_load_tasks.  ERR_INPUT: see there */

/* engine_pairs.c */
enum status engine_pairs_new(struct engine *engine);
void engine_pairs_free(struct engine_pairs *pairs);
void engine_pairs_add(struct engine_pairs *pairs, const uint8_t *right); /* of a full trial that did not fail */
double engine_pairs_variance(const struct engine_pairs *pairs);          /* of a trial's score, compared with another's; 0: no trial yet */
void engine_pairs_apply(struct engine *engine);                          /* the paired variance into every full trial of the archive */

/* engine_output.c */
enum status engine_write_outputs(struct engine *engine);
enum status engine_write_scratch(struct engine *engine, const struct finetune *finetune);

/* engine_report.c */
enum status engine_write_report(struct engine *engine);

#endif
