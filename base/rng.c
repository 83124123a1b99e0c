/* rng.c: Philox4x32-10. */
#include "base/rng.h"

#include <math.h>

void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint32_t rng_at(uint64_t seed, uint32_t stream, uint32_t step, uint64_t index)
{
    uint64_t block = index / 4;
    uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), step, stream};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    philox4x32(counter, key, out);
    return out[index % 4];
}

uint32_t rng_next(struct rng *rng)
{
    return rng_at(rng->seed, rng->stream, rng->step, rng->index++);
}

double rng_uniform(struct rng *rng)
{
    return rng_next(rng) * 0x1p-32;
}

double rng_normal(struct rng *rng)
{
    double u = ((double)rng_next(rng) + 1) * 0x1p-32, v = rng_uniform(rng); /* u in (0, 1]: its logarithm is finite */
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

uint32_t rng_below(struct rng *rng, uint32_t n)
{
    uint32_t reject = (uint32_t)(-n) % n; /* 2^32 mod n numbers at the bottom would make small results likelier */
    uint32_t x;
    do
        x = rng_next(rng);
    while (x < reject);
    return x % n;
}

void rng_shuffle(struct rng *rng, uint32_t *items, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        uint32_t j = rng_below(rng, (uint32_t)i), t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}
