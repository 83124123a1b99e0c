/* random_blocks.h: matrices of ggml's blocks that no encoder writes: random bytes, and scales of either sign from 2^-10 to 2^-9, so that values are of the size
 * of weights (6-bit scales and codes: up to about 4). */
#ifndef VENEER_TEST_RANDOM_BLOCKS_H
#define VENEER_TEST_RANDOM_BLOCKS_H
#include "base/rng.h"
#include "quant_ggml.h"

static inline void random_blocks(enum format format, uint8_t *codes, size_t n, uint32_t step)
{
    struct rng rng = {.seed = 5, .stream = RNG_WORLD, .step = step};
    size_t bytes = quant_ggml_bytes(format), size = quant_ggml_size(format, n);
    for (size_t i = 0; i < size; i++)
        codes[i] = (uint8_t)rng_below(&rng, 256);
    for (size_t block = 0; block < size; block += bytes)
        for (int k = 0; k < 2; k++) {
            int at = quant_ggml_scale_at(format, k);
            if (at >= 0) /* exponent 5 - 15, sign and mantissa as they fell */
                codes[block + (size_t)at + 1] = (uint8_t)((codes[block + (size_t)at + 1] & 0x83) | 0x14);
        }
}

#endif
