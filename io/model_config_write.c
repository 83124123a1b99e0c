/* model_config_write.c: config.json as transformers 4 and 5 read it. */
#include "io/model_config.h"

#include <string.h>

/* As a float of JSON: with a point. */
static void print_number(struct text *out, double x, bool single)
{
    size_t start = out->n;
    text_number(out, x, single);
    if (out->s && !strpbrk(out->s + start, ".e"))
        text_puts(out, ".0");
}

static void print_id(struct text *out, const char *key, const int32_t *id, int n)
{
    text_printf(out, "  \"%s\": ", key);
    if (n == 0)
        text_puts(out, "null");
    else if (n == 1)
        text_printf(out, "%d", id[0]);
    for (int i = 0; n > 1 && i < n; i++)
        text_printf(out, "%s%d", i ? ", " : "[", id[i]);
    text_puts(out, n > 1 ? "],\n" : ",\n");
}

static void print_member(struct text *out, const char *key, double x)
{
    text_printf(out, ", \"%s\": ", key);
    print_number(out, x, false);
}

static void print_scaling(const struct model_config *c, struct text *out)
{
    static const char *const types[] = {[ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn", [ROPE_DYNAMIC] = "dynamic"};
    text_printf(out, "{\"rope_type\": \"%s\"", types[c->rope_type]);
    print_member(out, "factor", c->rope_factor);
    if (c->rope_type == ROPE_LLAMA3) {
        print_member(out, "low_freq_factor", c->rope_low_freq_factor);
        print_member(out, "high_freq_factor", c->rope_high_freq_factor);
    }
    if (c->rope_type == ROPE_YARN) {
        print_member(out, "beta_fast", c->rope_beta_fast);
        print_member(out, "beta_slow", c->rope_beta_slow);
        print_member(out, "attention_factor", c->rope_attention_factor);
        text_puts(out, c->rope_truncate ? "" : ", \"truncate\": false");
    }
    if (c->rope_type == ROPE_LLAMA3 || c->rope_type == ROPE_YARN)
        text_printf(out, ", \"original_max_position_embeddings\": %d", c->rope_original_max_position);
    text_puts(out, "},\n");
}

static void print_rope(const struct model_config *c, struct text *out)
{
    text_puts(out, "  \"rope_theta\": ");
    print_number(out, c->rope_theta, false);
    text_puts(out, ",\n  \"rope_scaling\": ");
    if (c->rope_type == ROPE_DEFAULT)
        text_puts(out, "null,\n");
    else
        print_scaling(c, out);
    for (int32_t i = 0; c->rope_freqs && i < c->head_dim / 2; i++) {
        text_puts(out, i ? ", " : "  \"rope_freqs\": [");
        print_number(out, (double)c->rope_freqs[i], true);
        if (i + 1 == c->head_dim / 2)
            text_puts(out, "],\n");
    }
}

static int32_t largest(const int32_t *width, int32_t n)
{
    int32_t most = width[0];
    for (int32_t l = 1; l < n; l++)
        most = width[l] > most ? width[l] : most;
    return most;
}

/* Layers whose widths differ from the largest, which the plain members hold. */
static void print_layers(const struct model_config *c, int32_t heads, int32_t kv_heads, int32_t ffn, struct text *out)
{
    bool any = false;
    for (int32_t l = 0; l < c->num_hidden_layers; l++) {
        int32_t h = c->num_attention_heads[l], kv = c->num_key_value_heads[l], f = c->intermediate_size[l];
        if (h == heads && kv == kv_heads && f == ffn)
            continue;
        text_puts(out, any ? ",\n" : "  \"per_layer_config\": {\n");
        text_printf(out, "    \"%d\": {\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"intermediate_size\": %d}", l, h,
                    kv, f);
        any = true;
    }
    if (any)
        text_puts(out, "\n  },\n");
}

void model_config_print(const struct model_config *config, const char *torch_dtype, const char *extra_json_members,
                        struct text *out)
{
    const struct model_config *c = config;
    int32_t n = c->num_hidden_layers, heads = largest(c->num_attention_heads, n), kv = largest(c->num_key_value_heads, n);
    int32_t ffn = largest(c->intermediate_size, n);
    bool mistral = strcmp(c->model_type, "mistral") == 0, qwen = strcmp(c->model_type, "qwen2") == 0;
    text_printf(out, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n",
                mistral ? "MistralForCausalLM" : qwen ? "Qwen2ForCausalLM" : "LlamaForCausalLM", c->model_type);
    if (!mistral && !qwen)
        text_printf(out, "  \"attention_bias\": %s,\n  \"mlp_bias\": false,\n", c->attention_bias ? "true" : "false");
    if (mistral)
        text_puts(out, "  \"sliding_window\": null,\n");
    print_id(out, "bos_token_id", &c->bos_token_id, c->bos_token_id >= 0);
    print_id(out, "eos_token_id", c->eos_token_id, c->n_eos);
    text_printf(out,
                "  \"hidden_act\": \"silu\",\n  \"vocab_size\": %d,\n  \"hidden_size\": %d,\n  \"num_hidden_layers\": %d,\n"
                "  \"num_attention_heads\": %d,\n  \"num_key_value_heads\": %d,\n  \"head_dim\": %d,\n"
                "  \"intermediate_size\": %d,\n  \"max_position_embeddings\": %d,\n",
                c->vocab_size, c->hidden_size, n, heads, kv, c->head_dim, ffn, c->max_position_embeddings);
    text_puts(out, "  \"rms_norm_eps\": ");
    print_number(out, (double)c->rms_norm_eps, true);
    text_puts(out, ",\n");
    print_rope(c, out);
    print_layers(c, heads, kv, ffn, out);
    if (extra_json_members && *extra_json_members)
        text_printf(out, "  %s,\n", extra_json_members);
    if (torch_dtype)
        text_printf(out, "  \"torch_dtype\": \"%s\",\n", torch_dtype);
    text_printf(out, "  \"tie_word_embeddings\": %s\n}\n", c->tie_word_embeddings ? "true" : "false");
}
