/* random_blocks.h: matrices of ggml's blocks that no encoder writes: random bytes, and scales of either sign that give values the size of weights. */
#ifndef VENEER_TEST_RANDOM_BLOCKS_H
#define VENEER_TEST_RANDOM_BLOCKS_H
#include "base/rng.h"
#include "quant_ggml.h"

/* Exponent of f16 (biased by 15) that makes values of some hundredths: the product of a usual scale and a usual code is 12 (q2_k) to 1300 (q6_k). */
static inline uint8_t random_blocks_exponent(enum format format)
{
    return format == FORMAT_Q2_K ? 7 : format == FORMAT_Q3_K ? 5 : format == FORMAT_Q4_K ? 3 : format == FORMAT_Q5_K ? 2 : 1;
}

static inline void random_blocks(enum format format, uint8_t *codes, size_t n, uint32_t step)
{
    struct rng rng = {.seed = 5, .stream = RNG_WORLD, .step = step};
    size_t bytes = quant_ggml_bytes(format), size = quant_ggml_size(format, n);
    for (size_t i = 0; i < size; i++)
        codes[i] = (uint8_t)rng_below(&rng, 256);
    for (size_t block = 0; block < size; block += bytes)
        for (int k = 0; k < 2; k++) {
            int at = quant_ggml_scale_at(format, k);
            if (at >= 0) /* sign and mantissa as they fell */
                codes[block + (size_t)at + 1] = (uint8_t)((codes[block + (size_t)at + 1] & 0x83) | random_blocks_exponent(format) << 2);
        }
}

#endif
