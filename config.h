/* config.h: the keys of config.txt: their names, defaults, ranges and where each value came from.
 *
 * One table row per key (config.c); what a key means is said in `--help-config` from the same row.  Names follow Hugging Face,
 * PEFT, LLM-Pruner and lm-evaluation-harness.  Precedence: default < file < command line. */
#ifndef VENEER_CONFIG_H
#define VENEER_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"

struct config {
    /* input and output */
    char *model, *tokenizer, *dataset, *dataset_format, *chat_template, *output_dir, *plan;
    int64_t seed;
    char *train_mode; /* lora, full */
    /* a model from scratch (train_mode = full without model) */
    int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size,
        max_position_embeddings;
    bool tie_word_embeddings;
    double initializer_range, rope_theta, rms_norm_eps;
    /* pruning */
    double pruning_ratio;
    char *pruning_ratios, *pruning_mode; /* a list or ""; block, channel, layer */
    int64_t keep_layers, hidden_multiple;
    char *pruner_type, *taylor, *grouping_strategy;
    int64_t block_attention_layer_start, block_attention_layer_end, block_mlp_layer_start, block_mlp_layer_end;
    int64_t iterative_steps, calibration_samples, calibration_seq_len, ffn_multiple;
    bool global_pruning;
    char *calibration_data;
    /* quantization and adapters */
    char *quant_types, *rank_types, *quantizer, *search_quantizer;
    int64_t quantizer_samples;
    bool double_quant;
    int64_t block_size;
    char *embedding_type;
    char *bits_pattern, *rank_pattern, *alpha_pattern;
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    char *lora_target_modules;
    bool use_rslora;
    char *lora_init;
    int64_t loftq_iters, pissa_niter;
    /* training */
    double learning_rate;
    char *lr_scheduler;
    int64_t warmup_steps;
    double warmup_ratio, weight_decay, max_grad_norm, adam_beta1, adam_beta2, adam_epsilon;
    char *loss_average; /* token, micro */
    int64_t batch_size, micro_batch_size, max_steps, max_seq_len, save_steps;
    double num_epochs;
    bool packing, train_on_inputs, skip_invalid;
    char *gradient_checkpointing; /* auto, yes, no */
    /* search */
    char *search, *search_space, *search_prior;
    bool search_speed;
    int64_t num_initial, num_trials, search_stop_patience, final_steps, search_tokens, search_eval_limit, amq_batch;
    double search_lambda, search_stop_gain, low_fidelity;
    char *objective, *search_data, *amq_predictor;
    double target_size, max_memory, target_bpw, max_hours; /* bytes, bytes, bits, hours; 0: none */
    /* evaluation */
    char *eval_tasks, *eval_data, *harness, *bos;
    int64_t eval_limit, num_fewshot;
    double eval_split;
    /* export and the machine */
    char *export_formats; /* key: export */
    char *export_merge;   /* auto, yes, no */
    char *export_dtype;
    int64_t threads;
    char *compute_dtype, *device;
    bool strict;

    struct config_origin *origin; /* private: [keys] */
};

/* All defaults. */
enum status config_new(struct config *config, struct err *err);
/* key = value lines, `#` and `;` comments, [sections] that only group.  Relative paths are taken from the file's folder. */
enum status config_read(struct config *config, const char *path, struct err *err);
/* One key=value of the command line; `where` names it in messages. */
enum status config_set(struct config *config, const char *assignment, const char *where, struct err *err);
/* What no single key can say: required keys, pairs that exclude each other. */
enum status config_check(const struct config *config, struct err *err);
void config_free(struct config *config);

/* Every key with its value and where it came from; reads back equal. */
void config_print(const struct config *config, bool with_origin, struct text *out);
/* One line a key: name, aliases, default, meaning. */
void config_help(struct text *out);
/* The keys that change results, one "key = value" a line: two runs with equal text give equal bytes.  Leaves out output_dir,
 * threads, export, save_steps and max_hours. */
void config_identity(const struct config *config, struct text *out);
/* The first key whose value differs between two identity texts: "key (old -> new)" into out[n]; false when equal. */
bool config_identity_differs(const char *before, const char *now, char *out, size_t n);
/* Is `item` in a comma-separated list? */
bool config_list_has(const char *list, const char *item);
/* Formats and ranks are chosen by a search, not given by a plan or by the keys alone. */
bool config_searches(const struct config *config);
/* The key quant_types, auto resolved: the levels of the strategy's paper (AMQ's space; AutoQRA's configurations: 2, 3, 4 and 8 bits). */
const char *config_quant_types(const struct config *config);
/* The base stays in the formats of its checkpoint, at least as one that is chosen from: quant_types holds keep. */
bool config_keeps(const struct config *config);
/* The key embedding_type, auto resolved, where no budget asks for less (engine_budget.c): a format's name or "keep". */
const char *config_embedding(const struct config *config);
/* The key export_merge, auto resolved. */
bool config_merges(const struct config *config);
/* The key pruning_ratios, ascending; *n 0 where it is empty.  ERR_INPUT when it is no such list. */
enum { CONFIG_RATIOS = 8 };
enum status config_ratios(const struct config *config, double ratio[CONFIG_RATIOS], size_t *n, struct err *err);

/* What a trial is scored by.  A divergence is that of the model from the unquantized one before fine-tuning: such a trial does not fine-tune. */
enum objective { OBJECTIVE_ACCURACY, OBJECTIVE_LOSS, OBJECTIVE_KL, OBJECTIVE_JSD };
/* The key `objective`; auto: what the strategy's paper measures: jsd for amq, kl for evopress and dp, else accuracy. */
enum objective config_objective(const struct config *config);
static inline bool objective_is_divergence(enum objective objective)
{
    return objective == OBJECTIVE_KL || objective == OBJECTIVE_JSD;
}
#endif
