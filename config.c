/* config.c: the table of keys and the reader of config.txt.  What it is not: it starts nothing and opens no model. */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "io/chat_template.h"

enum kind { STRING, PATH, TEMPLATE, CHOICE, LIST, INTEGER, NUMBER, BYTES, BOOLEAN }; /* TEMPLATE: a name or a path */

struct key {
    const char *name, *aliases; /* aliases: space-separated, or NULL */
    enum kind kind;
    size_t offset;
    const char *fallback; /* the default as text */
    double low, high;
    const char *choices; /* CHOICE: the values; LIST: the allowed items or NULL */
    bool harmless;       /* does not change results */
    const char *help;
};

#define AT(field) offsetof(struct config, field)
#define MANY 9007199254740992.0 /* 2^53 */
static const struct key keys[] = {
    {"model", "base_model model_name_or_path", PATH, AT(model), "", 0, 0, NULL, false, "the base model: a Hugging Face folder, a .gguf file or a model/ folder"},
    {"tokenizer", NULL, PATH, AT(tokenizer), "", 0, 0, NULL, false, "tokenizer.model, when the model is trained from scratch"},
    {"dataset", NULL, PATH, AT(dataset), "", 0, 0, NULL, false, "fine-tuning data: json, jsonl or text, also compressed by gzip"},
    {"dataset_format", NULL, CHOICE, AT(dataset_format), "auto", 0, 0, "auto alpaca messages sharegpt prompt text", false, "how dataset is laid out"},
    {"chat_template", NULL, TEMPLATE, AT(chat_template), "", 0, 0, NULL, false, "form of conversations, for alpaca too: chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3, a file of Jinja, or model: the model's own; empty: the model's own for messages and sharegpt"},
    {"output_dir", NULL, PATH, AT(output_dir), "out", 0, 0, NULL, true, "where everything is written"},
    {"seed", NULL, INTEGER, AT(seed), "0", 0, MANY, NULL, false, "covers data order, dropout, initial values and search"},
    {"train_mode", NULL, CHOICE, AT(train_mode), "lora", 0, 0, "lora full", false, "lora: adapters on a frozen, quantized model; full: all weights (with no model: from scratch)"},
    {"plan", NULL, PATH, AT(plan), "", 0, 0, NULL, false, "a plan file (search/plan-best.txt of another run): its formats and ranks instead of a search"},
    {"vocab_size", NULL, INTEGER, AT(vocab_size), "0", 0, 4e6, NULL, false, "from scratch: 0 takes the tokenizer's"},
    {"hidden_size", NULL, INTEGER, AT(hidden_size), "0", 0, 65536, NULL, false, "from scratch"},
    {"num_hidden_layers", NULL, INTEGER, AT(num_hidden_layers), "8", 1, 1024, NULL, false, "from scratch"},
    {"num_attention_heads", NULL, INTEGER, AT(num_attention_heads), "8", 1, 1024, NULL, false, "from scratch"},
    {"num_key_value_heads", NULL, INTEGER, AT(num_key_value_heads), "0", 0, 1024, NULL, false, "from scratch: 0 means as many as heads"},
    {"head_dim", NULL, INTEGER, AT(head_dim), "0", 0, 1024, NULL, false, "from scratch: 0 means hidden_size / num_attention_heads"},
    {"intermediate_size", NULL, INTEGER, AT(intermediate_size), "0", 0, 1 << 20, NULL, false, "from scratch: FFN width"},
    {"max_position_embeddings", NULL, INTEGER, AT(max_position_embeddings), "256", 8, 1 << 20, NULL, false, "from scratch: context"},
    {"tie_word_embeddings", NULL, BOOLEAN, AT(tie_word_embeddings), "yes", 0, 0, NULL, false, "from scratch: the head is the embedding"},
    {"initializer_range", NULL, NUMBER, AT(initializer_range), "0.02", 1e-6, 10, NULL, false, "from scratch: standard deviation of the first weights"},
    {"rope_theta", NULL, NUMBER, AT(rope_theta), "10000", 1, 1e9, NULL, false, "from scratch"},
    {"rms_norm_eps", NULL, NUMBER, AT(rms_norm_eps), "1e-5", 1e-12, 1e-1, NULL, false, "from scratch"},

    {"pruning_ratio", "pruning", NUMBER, AT(pruning_ratio), "0", 0, 0.95, NULL, false, "share of all parameters to remove"},
    {"pruning_ratios", NULL, LIST, AT(pruning_ratios), "", 0, 0, NULL, false, "ratios that the search may choose from, beside formats and ranks, such as 0.1,0.2,0.3: one front over all (search = gp, random); empty: pruning_ratio"},
    {"pruning_mode", NULL, CHOICE, AT(pruning_mode), "block", 0, 0, "block channel layer", false, "what goes: heads and FFN channels of each layer, channels of hidden_size, or whole layers"},
    {"keep_layers", NULL, INTEGER, AT(keep_layers), "0", 0, 1024, NULL, false, "pruning_mode = layer: the first so many layers stay, instead of pruning_ratio; 0: the most important ones, by pruning_ratio"},
    {"hidden_multiple", NULL, INTEGER, AT(hidden_multiple), "32", 1, 4096, NULL, false, "pruning_mode = channel: hidden_size stays a multiple of this"},
    {"pruner_type", NULL, CHOICE, AT(pruner_type), "taylor", 0, 0, "taylor l1 l2 random", false, "how importance is measured"},
    {"taylor", NULL, CHOICE, AT(taylor), "param_first", 0, 0, "vectorize param_first param_second param_mix", false, "which Taylor terms"},
    {"grouping_strategy", NULL, CHOICE, AT(grouping_strategy), "sum", 0, 0, "sum mean max prod first", false, "how coupled rows and columns are joined"},
    {"block_attention_layer_start", NULL, INTEGER, AT(block_attention_layer_start), "-1", -1, 1024, NULL, false, "pruning_mode = block: first layer whose heads may go (-1: by depth)"},
    {"block_attention_layer_end", NULL, INTEGER, AT(block_attention_layer_end), "-1", -1, 1024, NULL, false, "first layer after that range"},
    {"block_mlp_layer_start", NULL, INTEGER, AT(block_mlp_layer_start), "-1", -1, 1024, NULL, false, "the same for FFN channels"},
    {"block_mlp_layer_end", NULL, INTEGER, AT(block_mlp_layer_end), "-1", -1, 1024, NULL, false, "first layer after that range"},
    {"iterative_steps", NULL, INTEGER, AT(iterative_steps), "1", 1, 100, NULL, false, "prune in so many steps, importance anew in each"},
    {"global_pruning", NULL, BOOLEAN, AT(global_pruning), "no", 0, 0, NULL, false, "one threshold for all layers"},
    {"ffn_multiple", NULL, INTEGER, AT(ffn_multiple), "32", 1, 4096, NULL, false, "FFN widths stay multiples of this"},
    {"calibration_data", NULL, PATH, AT(calibration_data), "", 0, 0, NULL, false, "text for importance (default: dataset)"},
    {"calibration_samples", NULL, INTEGER, AT(calibration_samples), "10", 1, 100000, NULL, false, "sequences for importance"},
    {"calibration_seq_len", NULL, INTEGER, AT(calibration_seq_len), "128", 2, 1 << 20, NULL, false, "tokens of each"},

    {"quant_types", NULL, LIST, AT(quant_types), "nf4,int8", 0, 0, "keep nf4 fp4 int8 int8_64 nf8 q4_0 q4_1 q5_0 q5_1 q8_0 iq4_nl hqq2 hqq3 hqq4 bf16 f16 f32", false, "formats that the search may give a layer; keep: the one that each linear of the model is stored in, byte for byte"},
    {"quantizer", NULL, CHOICE, AT(quantizer), "hqq", 0, 0, "hqq rtn gptq awq", false, "how hqq2, hqq3 and hqq4 are written at last, at the bits that were chosen: gptq and awq use calibration data, rtn rounds to nearest, hqq keeps what the search tried"},
    {"search_quantizer", NULL, CHOICE, AT(search_quantizer), "hqq", 0, 0, "hqq gptq", false, "how hqq2, hqq3 and hqq4 are written while the search tries them; gptq: by the moments of the unquantized model on calibration data"},
    {"quantizer_samples", NULL, INTEGER, AT(quantizer_samples), "128", 1, 100000, NULL, false, "sequences of calibration_seq_len tokens for gptq, awq and cloq"},
    {"double_quant", NULL, BOOLEAN, AT(double_quant), "no", 0, 0, NULL, false, "quantize the scales of nf4 and fp4 too"},
    {"block_size", NULL, INTEGER, AT(block_size), "64", 32, 4096, NULL, false, "elements that share a scale in nf4 and fp4"},
    {"embedding_type", "token_embedding_type", CHOICE, AT(embedding_type), "auto", 0, 0, "auto keep f32 bf16 f16 int8 q8_0 nf4", false, "format of the embedding and the head from loading on: in every trial and in what is written; counts in sizes; keep: as the model stores them; auto: keep if quant_types has keep, else f32"},
    {"bits_pattern", NULL, STRING, AT(bits_pattern), "", 0, 0, NULL, false, "regex=format,... : linears pinned to a format"},
    {"rank_pattern", NULL, STRING, AT(rank_pattern), "", 0, 0, NULL, false, "regex=rank,..."},
    {"alpha_pattern", NULL, STRING, AT(alpha_pattern), "", 0, 0, NULL, false, "regex=alpha,..."},
    {"lora_r", "r", INTEGER, AT(lora_r), "8", 0, 4096, NULL, false, "rank of the adapters"},
    {"rank_types", NULL, LIST, AT(rank_types), "", 0, 0, NULL, false, "ranks that the search may give a layer, beside its format, such as 4,8,16; empty: lora_r, and 4,8,16 for autoqra"},
    {"lora_alpha", NULL, NUMBER, AT(lora_alpha), "16", 0, 1e6, NULL, false, "scale: alpha / r"},
    {"lora_dropout", NULL, NUMBER, AT(lora_dropout), "0.05", 0, 0.95, NULL, false, "on the adapter's input"},
    {"lora_target_modules", "target_modules", LIST, AT(lora_target_modules), "all", 0, 0, "all q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", false, "linears that get an adapter"},
    {"use_rslora", NULL, BOOLEAN, AT(use_rslora), "no", 0, 0, NULL, false, "scale alpha / sqrt(r)"},
    {"lora_init", "init_lora_weights", CHOICE, AT(lora_init), "loftq", 0, 0, "default gaussian loftq pissa cloq", false, "how adapters start; cloq: loftq weighed by calibration data (quantizer_samples)"},
    {"loftq_iters", "loftq_iter", INTEGER, AT(loftq_iters), "1", 1, 100, NULL, false, "alternations of LoftQ"},
    {"pissa_niter", NULL, INTEGER, AT(pissa_niter), "4", 0, 100, NULL, false, "power iterations of PiSSA's SVD; 0: exact"},

    {"learning_rate", "lr", NUMBER, AT(learning_rate), "3e-4", 0, 10, NULL, false, "peak rate"},
    {"lr_scheduler", "lr_scheduler_type", CHOICE, AT(lr_scheduler), "linear", 0, 0, "linear cosine constant", false, "after the warm-up"},
    {"warmup_steps", NULL, INTEGER, AT(warmup_steps), "0", 0, 1e9, NULL, false, "steps from rate 0 to the peak"},
    {"warmup_ratio", NULL, NUMBER, AT(warmup_ratio), "0", 0, 1, NULL, false, "the same as a share of all steps"},
    {"weight_decay", NULL, NUMBER, AT(weight_decay), "0", 0, 1, NULL, false, "decoupled"},
    {"max_grad_norm", NULL, NUMBER, AT(max_grad_norm), "1.0", 0, 1e9, NULL, false, "global clipping; 0: none"},
    {"adam_beta1", NULL, NUMBER, AT(adam_beta1), "0.9", 0, 0.99999, NULL, false, "AdamW"},
    {"adam_beta2", NULL, NUMBER, AT(adam_beta2), "0.999", 0, 0.9999999, NULL, false, "AdamW"},
    {"adam_epsilon", NULL, NUMBER, AT(adam_epsilon), "1e-8", 0, 1, NULL, false, "AdamW"},
    {"loss_average", NULL, CHOICE, AT(loss_average), "token", 0, 0, "token micro", false, "token: mean over the label tokens of a step; micro: mean of micro-batch means"},
    {"batch_size", NULL, INTEGER, AT(batch_size), "128", 1, 1e6, NULL, false, "sequences a step"},
    {"micro_batch_size", NULL, INTEGER, AT(micro_batch_size), "4", 1, 1e6, NULL, false, "sequences at once"},
    {"max_steps", NULL, INTEGER, AT(max_steps), "0", 0, 1e9, NULL, false, "optimizer steps of a trial; 0: from num_epochs"},
    {"num_epochs", "num_train_epochs epochs", NUMBER, AT(num_epochs), "1", 0, 1e6, NULL, false, "passes over the data when max_steps is 0"},
    {"max_seq_len", "cutoff_len", INTEGER, AT(max_seq_len), "256", 2, 1 << 20, NULL, false, "longer examples are cut"},
    {"packing", NULL, BOOLEAN, AT(packing), "no", 0, 0, NULL, false, "text: documents are joined and cut into rows of max_seq_len"},
    {"skip_invalid", NULL, BOOLEAN, AT(skip_invalid), "no", 0, 0, NULL, false, "rows that are no JSON, lack a field or are empty (Alpaca has 28) are left out and counted instead of ending the run"},
    {"train_on_inputs", NULL, BOOLEAN, AT(train_on_inputs), "no", 0, 0, NULL, false, "prompts count in the loss too"},
    {"gradient_checkpointing", NULL, CHOICE, AT(gradient_checkpointing), "auto", 0, 0, "auto yes no", false, "recompute activations; auto: only when max_memory asks for it"},
    {"save_steps", NULL, INTEGER, AT(save_steps), "200", 0, 1e9, NULL, true, "steps between checkpoints; 0: none"},

    {"search", NULL, CHOICE, AT(search), "gp", 0, 0, "none gp amq autoqra dp evopress random", false, "how formats are chosen: gp (AutoMixQ), amq, autoqra (ranks too), dp (knapsack over measured losses), evopress (evolution at one size), random"},
    {"search_space", NULL, CHOICE, AT(search_space), "layer", 0, 0, "layer linear", false, "one choice a layer or one a linear"},
    {"search_prior", NULL, PATH, AT(search_prior), "", 0, 0, NULL, false, "gp: output_dir or search/journal.jsonl of another run, of any number of layers, whose trials say what to expect"},
    {"num_initial", NULL, INTEGER, AT(num_initial), "10", 1, 10000, NULL, false, "trials of the seed set"},
    {"num_trials", NULL, INTEGER, AT(num_trials), "40", 0, 10000, NULL, false, "trials proposed after it"},
    {"search_lambda", NULL, NUMBER, AT(search_lambda), "1", 0, 1e6, NULL, false, "the pick: argmin M - lambda P on normalised axes"},
    {"search_speed", NULL, BOOLEAN, AT(search_speed), "no", 0, 0, NULL, false, "gp, random: tokens a second as a third objective, measured here before the first trial"},
    {"search_stop_gain", NULL, NUMBER, AT(search_stop_gain), "0", 0, 1, NULL, false, "stop when the hypervolume grew less than this ..."},
    {"search_stop_patience", NULL, INTEGER, AT(search_stop_patience), "10", 1, 10000, NULL, false, "... over so many trials"},
    {"objective", NULL, CHOICE, AT(objective), "auto", 0, 0, "auto accuracy loss kl jsd", false, "what scores a trial: accuracy on tasks, loss on held-out examples, or how far it is from the unquantized model before fine-tuning (kl, jsd: such trials do not fine-tune); auto: jsd for amq, kl for evopress and dp, else accuracy"},
    {"search_data", NULL, PATH, AT(search_data), "", 0, 0, NULL, false, "text that loss, kl and jsd are measured on (default: the last twentieth of dataset, which is not trained on)"},
    {"search_tokens", NULL, INTEGER, AT(search_tokens), "2048", 16, 1e9, NULL, false, "tokens of it for kl and jsd"},
    {"low_fidelity", NULL, NUMBER, AT(low_fidelity), "0", 0, 1, NULL, false, "gp, autoqra, evopress: a short trial takes this share of the steps and the documents (0.25, say); 0: there are none"},
    {"amq_predictor", NULL, CHOICE, AT(amq_predictor), "rbf", 0, 0, "rbf gp mlp", false, "amq: what predicts a configuration's score"},
    {"amq_batch", NULL, INTEGER, AT(amq_batch), "8", 1, 1000, NULL, false, "amq: trials of an iteration"},
    {"final_steps", NULL, INTEGER, AT(final_steps), "0", 0, 1e9, NULL, false, "steps of the last fine-tuning of the pick; 0: as a trial's"},
    {"target_size", NULL, BYTES, AT(target_size), "0", 0, 1e15, NULL, false, "the stored model must fit (3.5G)"},
    {"max_memory", NULL, BYTES, AT(max_memory), "0", 0, 1e15, NULL, false, "the process must fit; with device = cuda what lies on the device"},
    {"target_bpw", NULL, NUMBER, AT(target_bpw), "0", 0, 32, NULL, false, "mean stored bits a weight of the linears"},
    {"max_hours", NULL, NUMBER, AT(max_hours), "0", 0, 1e6, NULL, true, "no new trial after so long"},

    {"eval_tasks", "tasks", LIST, AT(eval_tasks), "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa", 0, 0, NULL, false, "these, lambada, or tasks of your own (docs/evaluate.md)"},
    {"eval_data", NULL, PATH, AT(eval_data), "", 0, 0, NULL, false, "folder of the task files"},
    {"eval_limit", "limit", INTEGER, AT(eval_limit), "0", 0, 1e9, NULL, false, "documents of a task in each part; 0: all"},
    {"num_fewshot", NULL, INTEGER, AT(num_fewshot), "0", 0, 1000, NULL, false, "examples in front of each document, from NAME.dev.jsonl or NAME.train.jsonl beside the task; 0: as its file says, else none"},
    {"search_eval_limit", NULL, INTEGER, AT(search_eval_limit), "0", 0, 1e9, NULL, false, "documents of a task in the part that steers the search; 0: eval_limit"},
    {"eval_split", NULL, NUMBER, AT(eval_split), "0.3", 0.01, 0.99, NULL, false, "share of each task that steers the search; the rest is scored once at the end"},
    {"harness", NULL, CHOICE, AT(harness), "current", 0, 0, "current legacy", false, "tokenization of context and choice: together or apart"},
    {"bos", "add_bos_token", CHOICE, AT(bos), "auto", 0, 0, "auto yes no", false, "begin-of-text token in front"},

    {"export", NULL, LIST, AT(export_formats), "hf,gguf,peft", 0, 0, "hf gguf peft none", true, "what is written at the end"},
    {"export_merge", NULL, CHOICE, AT(export_merge), "auto", 0, 0, "auto yes no", true, "adapters merged into model.gguf, or beside it in adapter.gguf; auto: beside it if quant_types has keep, whose blocks a merge would round anew"},
    {"export_dtype", "torch_dtype", CHOICE, AT(export_dtype), "f32", 0, 0, "f32 bf16 f16", false, "of norms, biases and f32 matrices in model/; counts in sizes"},
    {"threads", NULL, INTEGER, AT(threads), "0", 0, 1024, NULL, true, "0: one a core"},
    {"compute_dtype", "bnb_4bit_compute_dtype", CHOICE, AT(compute_dtype), "auto", 0, 0, "auto f32 bf16", false, "products in fine-tuning and evaluation; auto: bf16, or what this CPU has that is at least as exact. Activations wait for backward as bf16 unless f32. Pruning and train_mode = full compute in f32"},
    {"device", NULL, CHOICE, AT(device), "auto", 0, 0, "auto cpu cuda", false, "where kernels run; auto: cpu. cuda: train --plan prints what lies on the device; a run is refused for now, in a sentence: the kernels are there, the stages do not run on them yet"},
    {"strict", NULL, BOOLEAN, AT(strict), "yes", 0, 0, NULL, false, "the same bits for any number of threads; the CPU kernels always keep this"},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

struct config_origin {
    char text[128]; /* "default", "config.txt:3", "command line" */
};

static void *slot(const struct config *config, const struct key *key)
{
    return (char *)(uintptr_t)config + key->offset;
}

/* ---- lists and names ---- */

static bool word_in(const char *words, const char *item, size_t n)
{
    for (const char *p = words; *p;) {
        size_t k = strcspn(p, " ");
        if (k == n && strncmp(p, item, n) == 0)
            return true;
        p += k;
        p += strspn(p, " ");
    }
    return false;
}

bool config_list_has(const char *list, const char *item)
{
    size_t n = strlen(item);
    for (const char *p = list; *p;) {
        size_t k = strcspn(p, ",");
        if (k == n && strncmp(p, item, n) == 0)
            return true;
        p += k;
        p += strspn(p, ",");
    }
    return false;
}

/* Levenshtein distance, capped lengths: for "did you mean". */
static int distance(const char *a, size_t na, const char *b, size_t nb)
{
    int row[65];
    if (na > 64 || nb > 64)
        return 99;
    for (size_t j = 0; j <= nb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[nb];
}

static const struct key *find(const char *name)
{
    for (int i = 0; i < N_KEYS; i++)
        if (strcmp(keys[i].name, name) == 0 || (keys[i].aliases && word_in(keys[i].aliases, name, strlen(name))))
            return &keys[i];
    return NULL;
}

static const char *nearest(const char *name)
{
    const char *best = keys[0].name;
    int least = 1000;
    for (int i = 0; i < N_KEYS; i++) {
        int d = distance(name, strlen(name), keys[i].name, strlen(keys[i].name));
        if (d < least) {
            least = d;
            best = keys[i].name;
        }
    }
    return best;
}

/* ---- values ---- */

static enum status set_text(char **to, const char *value, struct err *err)
{
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    free(*to);
    *to = copy;
    return OK;
}

static enum status set_path(char **to, const char *value, const char *folder, struct err *err)
{
    if (!folder || value[0] == '/' || value[0] == 0)
        return set_text(to, value, err);
    char *joined = path_join(folder, value);
    if (!joined)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    free(*to);
    *to = joined;
    return OK;
}

static enum status check_list(const struct key *key, const char *value, const char *where, struct err *err)
{
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, ",");
        if (key->choices && !word_in(key->choices, p, n))
            return err_set(err, ERR_INPUT, "%s: %s holds '%.*s', want a list of: %s", where, key->name, (int)n, p, key->choices);
        p += n;
        p += *p == ',';
    }
    return OK;
}

/* Digits, an optional fraction, and for bytes one of K M G T (powers of 1024). */
static enum status parse_number(const struct key *key, const char *value, const char *where, double *out, struct err *err)
{
    char *end;
    errno = 0;
    double x = strtod(value, &end);
    bool bad = end == value || errno == ERANGE || !isfinite(x);
    if (!bad && key->kind == BYTES && *end) {
        const char *units = "KMGT", *u = strchr(units, toupper((unsigned char)*end));
        if (u && *u) {
            x *= pow(1024, (double)(u - units + 1));
            end++;
            if (*end == 'i')
                end++;
            if (*end == 'B' || *end == 'b')
                end++;
        }
    }
    bad = bad || *end || (key->kind == INTEGER && x != floor(x));
    if (bad)
        return err_set(err, ERR_INPUT, "%s: %s = '%s', want %s", where, key->name, value,
                       key->kind == INTEGER ? "a whole number" : key->kind == BYTES ? "bytes such as 300M or 3.5G" : "a number");
    if (!(x >= key->low && x <= key->high))
        return err_set(err, ERR_INPUT, "%s: %s = %s, want %.10g to %.10g", where, key->name, value, key->low, key->high);
    *out = x;
    return OK;
}

static enum status parse_bool(const struct key *key, const char *value, const char *where, bool *out, struct err *err)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
    for (int i = 0; i < 4; i++)
        if (strcasecmp(value, yes[i]) == 0 || strcasecmp(value, no[i]) == 0) {
            *out = strcasecmp(value, yes[i]) == 0;
            return OK;
        }
    return err_set(err, ERR_INPUT, "%s: %s = '%s', want yes or no", where, key->name, value);
}

static enum status set_value(struct config *config, const struct key *key, const char *value, const char *folder,
                             const char *where, struct err *err)
{
    void *to = slot(config, key);
    double x;
    switch (key->kind) {
    case STRING:
        return set_text(to, value, err);
    case PATH:
        return set_path(to, value, folder, err);
    case TEMPLATE:
        return strcmp(value, "model") == 0 || chat_template_known(value) ? set_text(to, value, err) : set_path(to, value, folder, err);
    case CHOICE:
        if (!word_in(key->choices, value, strlen(value)))
            return err_set(err, ERR_INPUT, "%s: %s = '%s', want one of: %s", where, key->name, value, key->choices);
        return set_text(to, value, err);
    case LIST:
        TRY(check_list(key, value, where, err));
        return set_text(to, value, err);
    case BOOLEAN:
        return parse_bool(key, value, where, to, err);
    case INTEGER:
        TRY(parse_number(key, value, where, &x, err));
        *(int64_t *)to = (int64_t)x;
        return OK;
    case NUMBER:
    case BYTES:
        return parse_number(key, value, where, to, err);
    }
    return OK;
}

/* A list may be written with spaces after its commas; they are taken out. */
static void squeeze_list(char *value)
{
    char *to = value;
    for (const char *p = value; *p; p++)
        if (!isspace((unsigned char)*p))
            *to++ = *p;
    *to = 0;
}

static enum status set_named(struct config *config, const char *name, const char *value, const char *folder, const char *where,
                             struct err *err)
{
    const struct key *key = find(name);
    if (!key)
        return err_set(err, ERR_INPUT, "%s: unknown key '%s', the nearest known one is '%s'", where, name, nearest(name));
    char *copy = strdup(value);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    if (key->kind == LIST)
        squeeze_list(copy);
    enum status status = set_value(config, key, copy, folder, where, err);
    free(copy);
    if (status == OK)
        snprintf(config->origin[key - keys].text, sizeof config->origin->text, "%s", where);
    return status;
}

enum status config_new(struct config *config, struct err *err)
{
    memset(config, 0, sizeof *config);
    config->origin = calloc(N_KEYS, sizeof *config->origin);
    if (!config->origin)
        return err_set(err, ERR_MEMORY, "out of memory for the configuration");
    for (int i = 0; i < N_KEYS; i++)
        TRY(set_named(config, keys[i].name, keys[i].fallback, NULL, "default", err));
    return OK;
}

/* ---- the file ---- */

/* A reader of our own: inih as distributions build it reports no line numbers, cuts lines at 200 bytes and knows no `#`
 * behind a value. */
struct reading {
    struct config *config;
    const char *path;
    char *folder;
    bool seen[N_KEYS];
};

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return s;
}

/* A comment opens with # or ; at the start of a line or behind a blank. */
static void cut_comment(char *line)
{
    for (char *p = line; *p; p++)
        if ((*p == '#' || *p == ';') && (p == line || isspace((unsigned char)p[-1]))) {
            *p = 0;
            return;
        }
}

static enum status read_line(struct reading *reading, char *line, int number, struct err *err)
{
    char where[sizeof reading->config->origin->text];
    snprintf(where, sizeof where, "%.100s:%d", reading->path, number);
    cut_comment(line);
    char *name = trim(line), *equals = strchr(name, '=');
    if (*name == 0 || (*name == '[' && name[strlen(name) - 1] == ']')) /* sections only group */
        return OK;
    if (!equals || equals == name)
        return err_set(err, ERR_INPUT, "%s: '%s', want key = value, # comment or [section]", where, name);
    *equals = 0;
    name = trim(name);
    const struct key *key = find(name);
    if (key && reading->seen[key - keys])
        return err_set(err, ERR_INPUT, "%s: %s is set a second time", where, key->name);
    if (key)
        reading->seen[key - keys] = true;
    return set_named(reading->config, name, trim(equals + 1), reading->folder, where, err);
}

static enum status read_lines(struct reading *reading, char *text, size_t n, struct err *err)
{
    if (memchr(text, 0, n))
        return err_set(err, ERR_INPUT, "%s: holds a NUL byte, want a text of key = value lines", reading->path);
    int number = 1;
    for (char *line = text; line; number++) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        TRY(read_line(reading, line, number, err));
        line = next;
    }
    return OK;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : NULL;
}

enum status config_read(struct config *config, const char *path, struct err *err)
{
    char *text;
    size_t n;
    TRY(file_read(path, 1 << 20, &text, &n, err));
    struct reading reading = {.config = config, .path = path, .folder = folder_of(path)};
    enum status status = read_lines(&reading, text, n, err);
    free(reading.folder);
    free(text);
    return status;
}

enum status config_set(struct config *config, const char *assignment, const char *where, struct err *err)
{
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return err_set(err, ERR_INPUT, "%s: '%s', want key=value", where, assignment);
    char *name = strndup(assignment, (size_t)(equals - assignment));
    if (!name)
        return err_set(err, ERR_MEMORY, "out of memory for a configuration value");
    enum status status = set_named(config, name, equals + 1, NULL, where, err);
    free(name);
    return status;
}

static const char *origin(const struct config *config, const char *name)
{
    return config->origin[find(name) - keys].text;
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
        {alone && !ranks && !*config->pruning_ratios && !*config->plan && strcmp(config->search, "none") != 0, "search",
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
    if (!full && strcmp(config->search, "none") != 0 && !*config->plan && config_objective(config) == OBJECTIVE_ACCURACY)
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

void config_free(struct config *config)
{
    for (int i = 0; i < N_KEYS; i++)
        if (keys[i].kind <= LIST)
            free(*(char **)slot(config, &keys[i]));
    free(config->origin);
    memset(config, 0, sizeof *config);
}

/* ---- printing ---- */

/* %.17g prints 0.1 as 0.10000000000000001: the shortest form that reads back equal is nicer. */
static void print_number(double x, struct text *out)
{
    char s[40];
    if (x == floor(x) && fabs(x) < 1e15) {
        text_printf(out, "%.0f", x);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x)
            break;
    }
    text_puts(out, s);
}

static void print_value(const struct config *config, const struct key *key, struct text *out)
{
    const void *from = slot(config, key);
    switch (key->kind) {
    case STRING:
    case PATH:
    case TEMPLATE:
    case CHOICE:
    case LIST:
        text_puts(out, *(char *const *)from);
        break;
    case INTEGER:
        text_printf(out, "%lld", (long long)*(const int64_t *)from);
        break;
    case NUMBER:
    case BYTES:
        print_number(*(const double *)from, out);
        break;
    case BOOLEAN:
        text_puts(out, *(const bool *)from ? "yes" : "no");
        break;
    }
}

static void print_key(const struct config *config, const struct key *key, struct text *out)
{
    text_printf(out, "%s = ", key->name);
    print_value(config, key, out);
}

void config_print(const struct config *config, bool with_origin, struct text *out)
{
    for (int i = 0; i < N_KEYS; i++) {
        size_t start = out->n;
        print_key(config, &keys[i], out);
        if (with_origin) {
            size_t width = out->n - start;
            text_printf(out, "%*s # %s", width < 44 ? (int)(44 - width) : 1, "", config->origin[i].text);
        }
        text_puts(out, "\n");
    }
}

void config_help(struct text *out)
{
    for (int i = 0; i < N_KEYS; i++) {
        const struct key *key = &keys[i];
        text_printf(out, "  %-28s %s", key->name, key->help);
        if (key->kind == CHOICE)
            text_printf(out, " [%s]", key->choices);
        text_printf(out, "%s%s%s%s\n", *key->fallback ? "; default " : "", key->fallback, key->aliases ? "; also: " : "",
                    key->aliases ? key->aliases : "");
    }
}

void config_identity(const struct config *config, struct text *out)
{
    for (int i = 0; i < N_KEYS; i++)
        if (!keys[i].harmless) {
            print_key(config, &keys[i], out);
            text_puts(out, "\n");
        }
}

bool config_identity_differs(const char *before, const char *now, char *out, size_t n)
{
    while (*before && *now) {
        size_t a = strcspn(before, "\n"), b = strcspn(now, "\n");
        if (a != b || strncmp(before, now, a) != 0) {
            snprintf(out, n, "'%.*s', now '%.*s'", (int)a, before, (int)b, now);
            return true;
        }
        before += a + (before[a] == '\n');
        now += b + (now[b] == '\n');
    }
    if (*before == *now)
        return false;
    snprintf(out, n, "other keys");
    return true;
}
