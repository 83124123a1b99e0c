/* config_check.c: what keys say together: what is missing, what contradicts itself, and what a key set to auto comes to. */
#include <stdlib.h>
#include <string.h>

#include "config_private.h"

static const char *origin(const struct config *config, const char *name)
{
    return config->origin[config_key_find(name) - config_keys].text;
}

static enum status need(const struct config *config, const char *name, const char *value, const char *why, struct err *err)
{
    (void)config;
    if (*value)
        return OK;
    return err_set(err, ERR_INPUT, "%s is not set: %s", name, why);
}

static enum status check_scratch(const struct config *config, struct err *err)
{
    TRY(need(config, "tokenizer", config->tokenizer, "a model from scratch needs one", err));
    if (config->hidden_size < 1 || config->intermediate_size < 1)
        return err_set(err, ERR_INPUT, "hidden_size = %lld and intermediate_size = %lld, want at least 1 for a model from scratch",
                       (long long)config->hidden_size, (long long)config->intermediate_size);
    return OK;
}

enum objective config_objective(const struct config *config)
{
    static const struct {
        const char *name;
        enum objective objective;
    } known[] = {{"loss", OBJECTIVE_LOSS}, {"kl", OBJECTIVE_KL}, {"jsd", OBJECTIVE_JSD}, {"amq", OBJECTIVE_JSD}, {"evopress", OBJECTIVE_KL}, {"dp", OBJECTIVE_KL}};
    bool as_strategy = strcmp(config->objective, "auto") == 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(as_strategy ? config->search : config->objective, known[i].name) == 0)
            return known[i].objective;
    return OBJECTIVE_ACCURACY;
}

bool config_searches(const struct config *config)
{
    return strcmp(config->search, "none") != 0 && !*config->plan;
}

const char *config_quant_types(const struct config *config)
{
    static const struct {
        const char *search, *levels;
    } of_paper[] = {{"amq", "hqq2,hqq3,hqq4"}, {"autoqra", "hqq2,hqq3,nf4,int8"}};
    if (strcmp(config->quant_types, "auto") != 0)
        return config->quant_types;
    for (size_t i = 0; i < sizeof of_paper / sizeof *of_paper; i++)
        if (strcmp(config->search, of_paper[i].search) == 0)
            return of_paper[i].levels;
    return "nf4,int8";
}

bool config_keeps(const struct config *config)
{
    return strcmp(config->train_mode, "full") != 0 && config_list_has(config->quant_types, "keep");
}

const char *config_embedding(const struct config *config)
{
    if (strcmp(config->embedding_type, "auto") != 0)
        return config->embedding_type;
    return config_keeps(config) && strcmp(config->pruning_mode, "channel") != 0 ? "keep" : "f32";
}

bool config_merges(const struct config *config)
{
    return strcmp(config->export_merge, "auto") == 0 ? !config_keeps(config) : strcmp(config->export_merge, "yes") == 0;
}

enum status config_ratios(const struct config *config, double ratio[CONFIG_RATIOS], size_t *n, struct err *err)
{
    bool good = true;
    *n = 0;
    for (const char *p = config->pruning_ratios; good && *p;) {
        char *end;
        double x = strtod(p, &end);
        good = end != p && (!*end || *end == ',') && x >= 0 && x <= 0.95 && *n < CONFIG_RATIOS && (*n == 0 || x > ratio[*n - 1]);
        if (good)
            ratio[(*n)++] = x;
        p = end + (*end == ',');
    }
    if (!good || *n == 1)
        return err_set(err, ERR_INPUT, "%s: pruning_ratios = '%s', want 2 to %d ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3",
                       origin(config, "pruning_ratios"), config->pruning_ratios, CONFIG_RATIOS);
    return OK;
}

/* What leaves no choice between ratios, or has no meaning over several. */
static enum status check_ratios(const struct config *config, struct err *err)
{
    double ratio[CONFIG_RATIOS];
    size_t n;
    TRY(config_ratios(config, ratio, &n, err));
    const struct {
        bool wrong;
        const char *why;
    } bad[] = {
        {strcmp(config->train_mode, "full") == 0, "pruning_ratios is for train_mode = lora: full training prunes nothing"},
        {*config->plan, "pruning_ratios wants a search, and a plan has the widths of one ratio: set pruning_ratio to it"},
        {strcmp(config->search, "none") == 0, "pruning_ratios wants a search: with search = none set pruning_ratio"},
        {strcmp(config->pruning_mode, "layer") == 0,
         "pruning_ratios is for pruning_mode = block or channel: with layer each ratio has layers of its own to choose formats for"},
        {config->iterative_steps > 1, "pruning_ratios wants iterative_steps = 1: importance is measured once, on the unpruned model"},
        {config->target_bpw > 0, "pruning_ratios wants target_size instead of target_bpw: bits a weight do not say how many weights are left"},
    };
    for (size_t i = 0; n > 0 && i < sizeof bad / sizeof *bad; i++)
        if (bad[i].wrong)
            return err_set(err, ERR_INPUT, "%s: %s", origin(config, "pruning_ratios"), bad[i].why);
    return OK;
}

/* What is stored is the base: nothing can be read out of weights that it was made from. */
static enum status check_keep(const struct config *config, struct err *err)
{
    if (!config_keeps(config))
        return OK;
    bool alone = strcmp(config->quant_types, "keep") == 0, ranks = *config->rank_types || strcmp(config->search, "autoqra") == 0;
    const struct {
        bool wrong;
        const char *key, *why;
    } bad[] = {
        {strcmp(config->lora_init, "pissa") == 0, "lora_init", "lora_init = pissa takes its directions out of the weights, which quant_types = keep leaves as they are: want default or gaussian"},
        {strcmp(config->lora_init, "cloq") == 0, "lora_init", "lora_init = cloq makes up for what quantization lost, which a model that is stored quantized does not tell: want default or gaussian with quant_types = keep"},
        {strcmp(config->quantizer, "hqq") != 0, "quantizer", "a calibrated quantizer needs the weights before quantization: want quantizer = hqq with quant_types = keep"},
        {strcmp(config->search_quantizer, "hqq") != 0, "search_quantizer", "a calibrated quantizer needs the weights before quantization: want search_quantizer = hqq with quant_types = keep"},
        {*config->search_prior, "search_prior", "search_prior cannot compare quant_types = keep, which is another format in every model"},
        {alone && !ranks && !*config->pruning_ratios && config_searches(config), "search",
         "nothing to choose with quant_types = keep alone: want search = none, or rank_types, pruning_ratios or more quant_types"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (bad[i].wrong)
            return err_set(err, ERR_INPUT, "%s: %s", origin(config, bad[i].key), bad[i].why);
    return OK;
}

/* Keys of one mode of pruning in another. */
static enum status check_pruning(const struct config *config, struct err *err)
{
    const char *mode = config->pruning_mode;
    if (config->keep_layers > 0 && strcmp(mode, "layer") != 0)
        return err_set(err, ERR_INPUT, "%s: keep_layers = %lld is for pruning_mode = layer, not %s", origin(config, "keep_layers"),
                       (long long)config->keep_layers, mode);
    if (config->keep_layers > 0 && config->iterative_steps > 1)
        return err_set(err, ERR_INPUT, "%s: iterative_steps = %lld, want 1 with keep_layers = %lld: no importance is measured",
                       origin(config, "iterative_steps"), (long long)config->iterative_steps, (long long)config->keep_layers);
    if (config->global_pruning && strcmp(mode, "block") != 0)
        return err_set(err, ERR_INPUT, "%s: global_pruning is for pruning_mode = block: with %s all units stand in one list already",
                       origin(config, "global_pruning"), mode);
    if (strcmp(mode, "channel") == 0 && strcmp(config_embedding(config), "f32") != 0)
        return err_set(err, ERR_INPUT, "%s: embedding_type = %s, want f32 with pruning_mode = channel, which cuts the embedding's columns",
                       origin(config, "embedding_type"), config->embedding_type);
    return OK;
}

enum status config_check(const struct config *config, struct err *err)
{
    bool full = strcmp(config->train_mode, "full") == 0;
    if (full && !*config->model)
        TRY(check_scratch(config, err));
    else
        TRY(need(config, "model", config->model, "the base model, a folder or a .gguf file", err));
    TRY(need(config, "output_dir", config->output_dir, "want a folder", err));
    TRY(need(config, "quant_types", config->quant_types, "want formats such as nf4,int8", err));
    TRY(check_keep(config, err));
    if (!full)
        TRY(need(config, "dataset", config->dataset, "fine-tuning needs data", err));
    if (!full && config_searches(config) && config_objective(config) == OBJECTIVE_ACCURACY)
        TRY(need(config, "eval_data", config->eval_data, "the search is scored on tasks", err));
    if (full && strcmp(config_embedding(config), "f32") != 0)
        return err_set(err, ERR_INPUT, "%s: embedding_type = %s, want f32 with train_mode = full, which trains the embedding too",
                       origin(config, "embedding_type"), config->embedding_type);
    TRY(check_pruning(config, err));
    if (*config->search_prior && strcmp(config->search, "gp") != 0)
        return err_set(err, ERR_INPUT, "%s: search_prior is set with search = %s, want search = gp: no other strategy takes a prior", origin(config, "search_prior"),
                       config->search);
    if (*config->search_prior && *config->pruning_ratios)
        return err_set(err, ERR_INPUT, "%s: search_prior is set with pruning_ratios = %s: a prior says nothing of the ratio", origin(config, "search_prior"),
                       config->pruning_ratios);
    TRY(check_ratios(config, err));
    if (config->max_steps == 0 && config->num_epochs <= 0)
        return err_set(err, ERR_INPUT, "%s: max_steps = 0 and num_epochs = %g, want one of them above 0", origin(config, "num_epochs"),
                       config->num_epochs);
    if (config->micro_batch_size > config->batch_size)
        return err_set(err, ERR_INPUT, "%s: micro_batch_size = %lld is larger than batch_size = %lld", origin(config, "micro_batch_size"),
                       (long long)config->micro_batch_size, (long long)config->batch_size);
    if (config->block_size & (config->block_size - 1))
        return err_set(err, ERR_INPUT, "%s: block_size = %lld, want a power of two from 32 to 4096", origin(config, "block_size"),
                       (long long)config->block_size);
    return OK;
}
