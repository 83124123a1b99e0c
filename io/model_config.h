/* model_config.h: the hyper-parameters of a LLaMA-family model, under the names of Hugging Face's config.json. */
#ifndef VENEER_MODEL_CONFIG_H
#define VENEER_MODEL_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/text.h"

/* Dynamic: the base grows with texts longer than max_position_embeddings; up to there, which is the longest context here, it is the default. */
enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_DYNAMIC };
enum { MAX_LAYERS = 1024, MAX_EOS = 8 };

struct model_config {
    int32_t vocab_size, hidden_size, num_hidden_layers, head_dim;
    int32_t *num_attention_heads;  /* owned, [num_hidden_layers], per layer after pruning */
    int32_t *num_key_value_heads;  /* likewise */
    int32_t *intermediate_size;    /* likewise */
    int32_t max_position_embeddings;
    float rms_norm_eps;
    double rope_theta;
    enum rope_type rope_type;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    double rope_beta_fast, rope_beta_slow; /* yarn */
    double rope_attention_factor;          /* yarn: sines and cosines times this; else 1 */
    bool rope_truncate;                    /* yarn: whole numbers bound the blend */
    int32_t rope_original_max_position;
    float *rope_freqs;             /* owned, [head_dim/2] divisors from a GGUF's rope_freqs.weight, or NULL */
    bool tie_word_embeddings, attention_bias; /* attention_bias: on q, k, v */
    bool attention_out_bias;                  /* on o (llama's attention_bias: true; qwen2: false) */
    int32_t bos_token_id, eos_token_id[MAX_EOS], n_eos; /* -1: none */
    char model_type[32];           /* "llama", "mistral", "qwen2" */
};

/* config.json text -> config, all cross-checks done (formats.md 2.1; per_layer_config honoured). */
enum status model_config_parse(struct model_config *config, const char *json, size_t n, const char *where, struct err *err);
/* Writes config.json with the old rope pair, per_layer_config when widths differ, "architectures", torch_dtype. */
void model_config_print(const struct model_config *config, const char *torch_dtype, const char *extra_json_members,
                        struct text *out);
enum status model_config_copy(struct model_config *to, const struct model_config *from, struct err *err);
void model_config_free(struct model_config *config);
enum status model_config_alloc(struct model_config *config, int32_t n_layers, struct err *err); /* arrays, defaults of llama */
bool model_config_uniform(const struct model_config *config); /* all layers share their widths */
/* inv_freq[head_dim/2]: theta^(-2i/D), then linear, llama3, yarn or rope_freqs scaling, computed in double. */
void model_config_inv_freq(const struct model_config *config, float *inv_freq);
/* Yarn's attention factor where nothing else is said: 0.1 log(factor) + 1 (Peng et al. 2023, 3.4). */
double model_config_yarn_factor(double factor);

#endif
