/* model_config.c: config.json of llama, mistral and qwen2 models, read with every cross-check.  model_config_write.c writes it, model_config_rope.c says what
 * its RoPE members mean.
 *
 * What changes numbers and is not built here (other architectures, longrope, MLP biases ...) is refused by name, never ignored. */
#include "io/model_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"

enum { MAX_VOCAB = 1 << 22, MAX_WIDTH = 1 << 20, MAX_HEADS = 1 << 14, MAX_HEAD_DIM = 1 << 12, MAX_POSITIONS = 1 << 27 };

/* What the readers below share. */
struct reader {
    struct model_config *config;
    const struct json *root;
    const char *where;
    struct err *err;
    int32_t layers, heads, kv_heads, ffn; /* the same for all layers, before per_layer_config */
    int32_t positions;                    /* max_position_embeddings, before a sliding window */
};

/* ---- memory ---- */

enum status model_config_alloc(struct model_config *config, int32_t n_layers, struct err *err)
{
    *config = (struct model_config){.vocab_size = 32000, .hidden_size = 4096, .num_hidden_layers = n_layers, .head_dim = 128,
                                    .max_position_embeddings = 2048, .rms_norm_eps = 1e-6f, .rope_theta = 10000.0,
                                    .rope_factor = 1.0, .rope_low_freq_factor = 1.0, .rope_high_freq_factor = 4.0,
                                    .rope_beta_fast = 32.0, .rope_beta_slow = 1.0, .rope_attention_factor = 1.0, .rope_truncate = true,
                                    .bos_token_id = 1, .eos_token_id = {2}, .n_eos = 1, .model_type = "llama"};
    if (n_layers < 1 || n_layers > MAX_LAYERS)
        return err_set(err, ERR_INPUT, "num_hidden_layers: got %d, want 1 to %d", n_layers, MAX_LAYERS);
    size_t n = (size_t)n_layers;
    config->num_attention_heads = malloc(n * sizeof *config->num_attention_heads);
    config->num_key_value_heads = malloc(n * sizeof *config->num_key_value_heads);
    config->intermediate_size = malloc(n * sizeof *config->intermediate_size);
    if (!config->num_attention_heads || !config->num_key_value_heads || !config->intermediate_size) {
        model_config_free(config);
        return err_set(err, ERR_MEMORY, "out of memory for the widths of %d layers", n_layers);
    }
    for (size_t l = 0; l < n; l++) {
        config->num_attention_heads[l] = config->num_key_value_heads[l] = 32;
        config->intermediate_size[l] = 11008;
    }
    return OK;
}

void model_config_free(struct model_config *config)
{
    free(config->num_attention_heads);
    free(config->num_key_value_heads);
    free(config->intermediate_size);
    free(config->rope_freqs);
    memset(config, 0, sizeof *config);
}

enum status model_config_copy(struct model_config *to, const struct model_config *from, struct err *err)
{
    struct model_config copy;
    TRY(model_config_alloc(&copy, from->num_hidden_layers, err));
    struct model_config owned = copy;
    copy = *from;
    copy.num_attention_heads = owned.num_attention_heads;
    copy.num_key_value_heads = owned.num_key_value_heads;
    copy.intermediate_size = owned.intermediate_size;
    copy.rope_freqs = NULL;
    size_t bytes = (size_t)from->num_hidden_layers * sizeof(int32_t);
    memcpy(copy.num_attention_heads, from->num_attention_heads, bytes);
    memcpy(copy.num_key_value_heads, from->num_key_value_heads, bytes);
    memcpy(copy.intermediate_size, from->intermediate_size, bytes);
    if (from->rope_freqs) {
        bytes = (size_t)(from->head_dim / 2) * sizeof(float);
        if (!(copy.rope_freqs = malloc(bytes))) {
            model_config_free(&copy);
            return err_set(err, ERR_MEMORY, "out of memory for rope_freqs");
        }
        memcpy(copy.rope_freqs, from->rope_freqs, bytes);
    }
    *to = copy;
    return OK;
}

bool model_config_uniform(const struct model_config *config)
{
    for (int32_t l = 1; l < config->num_hidden_layers; l++)
        if (config->num_attention_heads[l] != config->num_attention_heads[0] ||
            config->num_key_value_heads[l] != config->num_key_value_heads[0] ||
            config->intermediate_size[l] != config->intermediate_size[0])
            return false;
    return true;
}

/* ---- reading: one member at a time ---- */

static enum status read_int(const struct reader *r, const char *key, int64_t lo, int64_t hi, int64_t fallback, int32_t *out)
{
    int64_t value;
    TRY(json_int_or(r->root, key, r->where, lo, hi, fallback, &value, r->err));
    *out = (int32_t)value;
    return OK;
}

static enum status refuse(const struct reader *r, const char *key, const char *got, const char *want)
{
    return err_set(r->err, ERR_INPUT, "%s.%s: got %.100s, want %s", r->where, key, got, want);
}

static enum status read_architecture(struct reader *r)
{
    static const char *const known[][2] = {
        {"llama", "LlamaForCausalLM"}, {"mistral", "MistralForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"}};
    const char *type, *class = NULL;
    const struct json *classes;
    TRY(json_string_or(r->root, "model_type", r->where, NULL, &type, r->err));
    TRY(json_array_or(r->root, "architectures", r->where, &classes, r->err));
    if (classes && json_first(classes))
        TRY(json_as_string(json_first(classes), r->where, &class, r->err));
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        bool is = type ? strcmp(type, known[k][0]) == 0 : class && strcmp(class, known[k][1]) == 0;
        if (is && class && strcmp(class, known[k][1]) != 0)
            return refuse(r, "architectures", class, known[k][1]);
        if (is) {
            snprintf(r->config->model_type, sizeof r->config->model_type, "%s", known[k][0]);
            return OK;
        }
    }
    return refuse(r, "model_type", type ? type : class ? class : "nothing", "llama, mistral or qwen2");
}

static bool is_type(const struct reader *r, const char *type)
{
    return strcmp(r->config->model_type, type) == 0;
}

/* Sizes that all layers share. */
static enum status read_sizes(struct reader *r)
{
    struct model_config *c = r->config;
    bool mistral = is_type(r, "mistral"), qwen = is_type(r, "qwen2");
    TRY(read_int(r, "vocab_size", 1, MAX_VOCAB, qwen ? 151936 : 32000, &c->vocab_size));
    TRY(read_int(r, "hidden_size", 1, MAX_WIDTH, 4096, &c->hidden_size));
    TRY(read_int(r, "intermediate_size", 1, MAX_WIDTH, mistral ? 14336 : qwen ? 22016 : 11008, &r->ffn));
    TRY(read_int(r, "num_attention_heads", 1, MAX_HEADS, 32, &r->heads));
    TRY(read_int(r, "num_key_value_heads", 1, MAX_HEADS, mistral ? 8 : qwen ? 32 : r->heads, &r->kv_heads));
    TRY(read_int(r, "head_dim", 2, MAX_HEAD_DIM, 0, &c->head_dim));
    if (c->head_dim == 0) {
        if (c->hidden_size % r->heads != 0)
            return err_set(r->err, ERR_INPUT, "%s: hidden_size %d is no multiple of num_attention_heads %d, and head_dim is not given",
                           r->where, c->hidden_size, r->heads);
        c->head_dim = c->hidden_size / r->heads;
    }
    if (c->head_dim % 2 != 0 || c->head_dim < 2 || c->head_dim > MAX_HEAD_DIM)
        return err_set(r->err, ERR_INPUT, "%s: head_dim is %d, want an even number from 2 to %d (RoPE turns pairs)", r->where,
                       c->head_dim, MAX_HEAD_DIM);
    TRY(read_int(r, "max_position_embeddings", 1, MAX_POSITIONS, mistral ? 131072 : qwen ? 32768 : 2048,
                 &c->max_position_embeddings));
    r->positions = c->max_position_embeddings;
    return OK;
}

/* Attention here is full.  With a sliding window both agree up to the window, so the window is the longest context. */
static enum status read_window(struct reader *r)
{
    int32_t window = 0;
    bool used = is_type(r, "mistral");
    if (is_type(r, "qwen2"))
        TRY(json_bool_or(r->root, "use_sliding_window", r->where, false, &used, r->err));
    const struct json *given = json_member(r->root, "sliding_window");
    if (!used || (given && json_type(given) == JSON_NULL))
        return OK;
    TRY(read_int(r, "sliding_window", 1, MAX_POSITIONS, 4096, &window));
    if (window < r->config->max_position_embeddings)
        r->config->max_position_embeddings = window;
    return OK;
}

static enum status read_switches(struct reader *r)
{
    struct model_config *c = r->config;
    bool bias, mlp_bias;
    const char *act;
    double eps, partial;
    TRY(json_string_or(r->root, "hidden_act", r->where, "silu", &act, r->err));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return refuse(r, "hidden_act", act, "silu");
    TRY(json_bool_or(r->root, "mlp_bias", r->where, false, &mlp_bias, r->err));
    if (mlp_bias)
        return refuse(r, "mlp_bias", "true", "false (no biases in the MLP)");
    TRY(json_number_or(r->root, "partial_rotary_factor", r->where, 1.0, &partial, r->err));
    if (partial != 1.0)
        return refuse(r, "partial_rotary_factor", "another number", "1");
    TRY(json_bool_or(r->root, "attention_bias", r->where, false, &bias, r->err));
    c->attention_bias = bias || is_type(r, "qwen2");
    c->attention_out_bias = bias && is_type(r, "llama");
    TRY(json_bool_or(r->root, "tie_word_embeddings", r->where, false, &c->tie_word_embeddings, r->err));
    TRY(json_number_or(r->root, "rms_norm_eps", r->where, 1e-6, &eps, r->err));
    c->rms_norm_eps = (float)eps;
    if (!(c->rms_norm_eps > 0 && c->rms_norm_eps < 1))
        return err_set(r->err, ERR_INPUT, "%s.rms_norm_eps: got %g, want a number between 0 and 1", r->where, eps);
    return OK;
}

/* A default id that a tiny vocabulary does not have is none. */
static enum status read_ids(struct reader *r)
{
    struct model_config *c = r->config;
    bool qwen = is_type(r, "qwen2");
    int64_t top = c->vocab_size - 1;
    const struct json *bos = json_member(r->root, "bos_token_id"), *eos = json_member(r->root, "eos_token_id");
    c->bos_token_id = bos || qwen || top < 1 ? -1 : 1;
    c->n_eos = eos || qwen || top < 2 ? 0 : 1;
    c->eos_token_id[0] = c->n_eos ? 2 : -1;
    if (bos)
        TRY(read_int(r, "bos_token_id", -1, top, -1, &c->bos_token_id));
    if (!eos || json_type(eos) == JSON_NULL)
        return OK;
    if (json_type(eos) != JSON_ARRAY) {
        TRY(read_int(r, "eos_token_id", -1, top, -1, &c->eos_token_id[0]));
        c->n_eos = c->eos_token_id[0] >= 0;
        return OK;
    }
    if (json_size(eos) > MAX_EOS)
        return err_set(r->err, ERR_INPUT, "%s.eos_token_id: %zu ids, want at most %d", r->where, json_size(eos), MAX_EOS);
    for (const struct json *item = json_first(eos); item; item = json_next(item)) {
        int64_t id;
        if (json_as_int(item, "eos_token_id", 0, top, &id, r->err) != OK)
            return err_prefix(r->err, ERR_INPUT, "%s", r->where);
        c->eos_token_id[c->n_eos++] = (int32_t)id;
    }
    return OK;
}

/* ---- reading: RoPE ---- */

static enum status read_positive(const struct reader *r, const struct json *from, const char *key, double least, double *out)
{
    TRY(json_number(from, key, r->where, out, r->err));
    if (*out < least || *out > 1e12)
        return err_set(r->err, ERR_INPUT, "%s.%s: got %g, want %g to 1e12", r->where, key, *out, least);
    return OK;
}

static enum status read_llama3(struct reader *r, const struct json *from)
{
    struct model_config *c = r->config;
    int64_t original;
    TRY(read_positive(r, from, "factor", 1.0, &c->rope_factor));
    TRY(read_positive(r, from, "low_freq_factor", 1e-6, &c->rope_low_freq_factor));
    TRY(read_positive(r, from, "high_freq_factor", 1e-6, &c->rope_high_freq_factor));
    TRY(json_int(from, "original_max_position_embeddings", r->where, 1, MAX_POSITIONS, &original, r->err));
    c->rope_original_max_position = (int32_t)original;
    if (c->rope_high_freq_factor <= c->rope_low_freq_factor)
        return err_set(r->err, ERR_INPUT, "%s: high_freq_factor %g is not above low_freq_factor %g", r->where,
                       c->rope_high_freq_factor, c->rope_low_freq_factor);
    return OK;
}

/* A number that may be absent or null, and then stays as it is. */
static enum status read_optional(const struct reader *r, const struct json *from, const char *key, double least, double *out)
{
    const struct json *given = json_member(from, key);
    return !given || json_type(given) == JSON_NULL ? OK : read_positive(r, from, key, least, out);
}

static enum status read_yarn(struct reader *r, const struct json *from)
{
    struct model_config *c = r->config;
    int64_t original;
    double scale = 0, scale_all = 0, given = 0; /* 0: not there */
    TRY(read_positive(r, from, "factor", 1.0, &c->rope_factor));
    TRY(read_optional(r, from, "beta_fast", 1e-6, &c->rope_beta_fast));
    TRY(read_optional(r, from, "beta_slow", 1e-6, &c->rope_beta_slow));
    TRY(read_optional(r, from, "mscale", 0, &scale));
    TRY(read_optional(r, from, "mscale_all_dim", 0, &scale_all));
    TRY(read_optional(r, from, "attention_factor", 1e-6, &given));
    TRY(json_int_or(from, "original_max_position_embeddings", r->where, 1, MAX_POSITIONS, r->positions, &original, r->err));
    TRY(json_bool_or(from, "truncate", r->where, true, &c->rope_truncate, r->err));
    if (c->rope_beta_fast <= c->rope_beta_slow)
        return err_set(r->err, ERR_INPUT, "%s: beta_fast %g is not above beta_slow %g", r->where, c->rope_beta_fast, c->rope_beta_slow);
    if (c->rope_theta <= 1)
        return err_set(r->err, ERR_INPUT, "%s.rope_theta: got %g, want more than 1 with yarn", r->where, c->rope_theta);
    c->rope_original_max_position = (int32_t)original;
    double yarn = model_config_yarn_factor(c->rope_factor);
    c->rope_attention_factor = given > 0 ? given : scale > 0 && scale_all > 0 ? ((yarn - 1) * scale + 1) / ((yarn - 1) * scale_all + 1) : yarn;
    if (!(c->rope_attention_factor >= 1e-6 && c->rope_attention_factor <= 1e12))
        return err_set(r->err, ERR_INPUT, "%s: mscale %g and mscale_all_dim %g give an attention factor of %g, want 1e-6 to 1e12", r->where, scale, scale_all,
                       c->rope_attention_factor);
    return OK;
}

/* Parameters of the scaling in `from`: rope_scaling, or rope_parameters of transformers 5. */
static enum status read_scaling(struct reader *r, const struct json *from)
{
    struct model_config *c = r->config;
    const char *type;
    for (const struct json *item = json_first(from); item; item = json_next(item))
        if (json_type(item) == JSON_OBJECT)
            return refuse(r, json_key(item), "an object", "one RoPE for all layers");
    TRY(json_string_or(from, "type", r->where, "default", &type, r->err));
    TRY(json_string_or(from, "rope_type", r->where, type, &type, r->err));
    double partial;
    TRY(json_number_or(from, "partial_rotary_factor", r->where, 1.0, &partial, r->err));
    if (partial != 1.0)
        return refuse(r, "partial_rotary_factor", "another number", "1");
    static const char *const types[] = {[ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn",
                                        [ROPE_DYNAMIC] = "dynamic"};
    int k = 0;
    while (k <= ROPE_DYNAMIC && strcmp(type, types[k]) != 0)
        k++;
    if (k > ROPE_DYNAMIC)
        return refuse(r, "rope_type", type, "default, linear, dynamic, yarn or llama3");
    c->rope_type = (enum rope_type)k;
    if (c->rope_type == ROPE_DEFAULT)
        return OK;
    if (c->rope_type == ROPE_LLAMA3)
        return read_llama3(r, from);
    return c->rope_type == ROPE_YARN ? read_yarn(r, from) : read_positive(r, from, "factor", 1.0, &c->rope_factor);
}

/* Our own member: the divisors of a GGUF whose parameters are not known. */
static enum status read_rope_freqs(struct reader *r)
{
    const struct json *list;
    TRY(json_array_or(r->root, "rope_freqs", r->where, &list, r->err));
    if (!list)
        return OK;
    size_t half = (size_t)r->config->head_dim / 2, i = 0;
    if (json_size(list) != half)
        return err_set(r->err, ERR_INPUT, "%s.rope_freqs: %zu numbers, want %zu (half of head_dim)", r->where, json_size(list), half);
    if (!(r->config->rope_freqs = malloc(half * sizeof(float))))
        return err_set(r->err, ERR_MEMORY, "out of memory for rope_freqs");
    for (const struct json *item = json_first(list); item; item = json_next(item)) {
        double value;
        TRY(json_as_number(item, r->where, &value, r->err));
        if (!(value >= 1e-6 && value <= 1e6))
            return err_set(r->err, ERR_INPUT, "%s.rope_freqs[%zu]: got %g, want 1e-6 to 1e6", r->where, i, value);
        r->config->rope_freqs[i++] = (float)value;
    }
    return OK;
}

static enum status read_rope(struct reader *r)
{
    const struct json *parameters, *scaling;
    TRY(json_object_or(r->root, "rope_parameters", r->where, &parameters, r->err));
    TRY(json_object_or(r->root, "rope_scaling", r->where, &scaling, r->err));
    if (json_member(r->root, "rope_theta"))
        TRY(read_positive(r, r->root, "rope_theta", 1.0, &r->config->rope_theta));
    if (parameters) {
        if (json_member(parameters, "rope_theta"))
            TRY(read_positive(r, parameters, "rope_theta", 1.0, &r->config->rope_theta));
        TRY(read_scaling(r, parameters));
    } else if (scaling) {
        TRY(read_scaling(r, scaling));
    }
    return read_rope_freqs(r);
}

/* ---- reading: widths a layer ---- */

/* One member of per_layer_config: "4": {"num_attention_heads": 24, ...}. */
static enum status read_layer(struct reader *r, const struct json *layer, uint8_t *seen)
{
    struct model_config *c = r->config;
    const char *key = json_key(layer);
    char *end, where[256];
    size_t digits = strspn(key, "0123456789");
    long l = digits > 0 && digits <= 9 && key[digits] == 0 ? strtol(key, &end, 10) : -1;
    if (l < 0 || l >= c->num_hidden_layers)
        return err_set(r->err, ERR_INPUT, "%s.per_layer_config: got layer \"%.40s\", want 0 to %d", r->where, key,
                       c->num_hidden_layers - 1);
    if (seen[l]++)
        return err_set(r->err, ERR_INPUT, "%s.per_layer_config: layer %ld is there twice", r->where, l);
    snprintf(where, sizeof where, "%.180s.per_layer_config.%ld", r->where, l);
    if (json_type(layer) != JSON_OBJECT)
        return err_set(r->err, ERR_INPUT, "%s: got %s, want an object", where, json_type_name(json_type(layer)));
    for (const struct json *item = json_first(layer); item; item = json_next(item)) {
        const char *name = json_key(item);
        int32_t *to = strcmp(name, "num_attention_heads") == 0   ? &c->num_attention_heads[l]
                      : strcmp(name, "num_key_value_heads") == 0 ? &c->num_key_value_heads[l]
                      : strcmp(name, "intermediate_size") == 0   ? &c->intermediate_size[l]
                                                                 : NULL;
        if (!to)
            return err_set(r->err, ERR_INPUT, "%s: got \"%.60s\", want num_attention_heads, num_key_value_heads, intermediate_size",
                           where, name);
        int64_t value;
        TRY(json_int(layer, name, where, 1, to == &c->intermediate_size[l] ? MAX_WIDTH : MAX_HEADS, &value, r->err));
        *to = (int32_t)value;
    }
    return OK;
}

static enum status read_layers(struct reader *r)
{
    struct model_config *c = r->config;
    const struct json *layers;
    uint8_t seen[MAX_LAYERS] = {0};
    TRY(json_object_or(r->root, "per_layer_config", r->where, &layers, r->err));
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        c->num_attention_heads[l] = r->heads;
        c->num_key_value_heads[l] = r->kv_heads;
        c->intermediate_size[l] = r->ffn;
    }
    for (const struct json *item = layers ? json_first(layers) : NULL; item; item = json_next(item))
        TRY(read_layer(r, item, seen));
    for (int32_t l = 0; l < c->num_hidden_layers; l++)
        if (c->num_attention_heads[l] % c->num_key_value_heads[l] != 0)
            return err_set(r->err, ERR_INPUT, "%s: layer %d has %d attention heads, no multiple of its %d key-value heads",
                           r->where, l, c->num_attention_heads[l], c->num_key_value_heads[l]);
    return OK;
}

static enum status read_all(struct reader *r)
{
    if (json_type(r->root) != JSON_OBJECT)
        return err_set(r->err, ERR_INPUT, "%s: got %s, want an object", r->where, json_type_name(json_type(r->root)));
    int64_t layers;
    TRY(json_int_or(r->root, "num_hidden_layers", r->where, 1, MAX_LAYERS, 32, &layers, r->err));
    TRY(model_config_alloc(r->config, (int32_t)layers, r->err));
    TRY(read_architecture(r));
    TRY(read_sizes(r));
    TRY(read_window(r));
    TRY(read_switches(r));
    TRY(read_ids(r));
    TRY(read_rope(r));
    return read_layers(r);
}

enum status model_config_parse(struct model_config *config, const char *json, size_t n, const char *where, struct err *err)
{
    memset(config, 0, sizeof *config);
    struct json *root;
    TRY(json_parse(json, n, where, &root, err));
    struct reader reader = {.config = config, .root = root, .where = where, .err = err};
    enum status status = read_all(&reader);
    json_free(root);
    if (status != OK)
        model_config_free(config);
    return status;
}
