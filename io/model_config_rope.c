/* model_config_rope.c: how fast RoPE turns each pair of a head.
 *
 * Scaling: transformers' modeling_rope_utils (linear: Chen et al. 2023, arXiv:2306.15595; yarn: Peng et al. 2023, arXiv:2309.00071; llama3: Llama Team
 * 2024). */
#include "io/model_config.h"

#include <math.h>

/* inv' of transformers' llama3: long waves slowed by factor, short ones kept, between them a blend. */
static double llama3_scaled(const struct model_config *c, double inv)
{
    double wave = 2.0 * M_PI / inv, original = (double)c->rope_original_max_position;
    if (wave < original / c->rope_high_freq_factor)
        return inv;
    if (wave > original / c->rope_low_freq_factor)
        return inv / c->rope_factor;
    double s = (original / wave - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1.0 - s) * inv / c->rope_factor + s * inv;
}

/* The pair that turns `rotations` times in the original context. */
static double yarn_pair(const struct model_config *c, double rotations)
{
    return (double)c->head_dim * log((double)c->rope_original_max_position / (rotations * 2.0 * M_PI)) / (2.0 * log(c->rope_theta));
}

/* Pairs that turn often keep their speed, those that hardly turn are slowed by factor, between them a blend by the pair's number. */
static double yarn_scaled(const struct model_config *c, double inv, int32_t i)
{
    double low = yarn_pair(c, c->rope_beta_fast), high = yarn_pair(c, c->rope_beta_slow);
    low = fmax(c->rope_truncate ? floor(low) : low, 0);
    high = fmin(c->rope_truncate ? ceil(high) : high, (double)c->head_dim - 1);
    high += high == low ? 0.001 : 0;
    double slowed = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    return inv / c->rope_factor * slowed + inv * (1 - slowed);
}

void model_config_inv_freq(const struct model_config *config, float *inv_freq)
{
    for (int32_t i = 0; i < config->head_dim / 2; i++) {
        double inv = pow(config->rope_theta, -2.0 * (double)i / (double)config->head_dim);
        if (config->rope_type == ROPE_LINEAR)
            inv /= config->rope_factor;
        else if (config->rope_type == ROPE_LLAMA3)
            inv = llama3_scaled(config, inv);
        else if (config->rope_type == ROPE_YARN)
            inv = yarn_scaled(config, inv, i);
        if (config->rope_freqs)
            inv /= (double)config->rope_freqs[i];
        inv_freq[i] = (float)inv;
    }
}

double model_config_yarn_factor(double factor)
{
    return factor > 1 ? 0.1 * log(factor) + 1 : 1;
}
