/* rng.h: counter-based random numbers, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 *
 * A number is a function of (seed, stream, step, index): there is no state to save, threads do not matter, and any number
 * can be drawn again.  A stream is a purpose. */
#ifndef VENEER_RNG_H
#define VENEER_RNG_H
#include <stddef.h>
#include <stdint.h>

enum rng_stream {
    RNG_DATA_ORDER = 1, /* step = epoch */
    RNG_DROPOUT,        /* step = optimizer step x micro-batch, index = element */
    RNG_INIT,           /* step = which tensor */
    RNG_SEARCH,
    RNG_PRUNE,
    RNG_SAMPLE, /* generation */
    RNG_WORLD,
    RNG_SVD,
    RNG_BOOTSTRAP, /* step = draw */
};

struct rng {
    uint64_t seed;
    uint32_t stream;
    uint32_t step;
    uint64_t index; /* of the next number; the sequential functions advance it */
};

/* One block: ten rounds.  out may be ctr. */
void philox4x32(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

/* 32 random bits of the place (seed, stream, step, index).  counter = {index/4 lo, index/4 hi, step, stream}, key = seed;
 * lane index%4. */
uint32_t rng_at(uint64_t seed, uint32_t stream, uint32_t step, uint64_t index);

/* Sequential: the next number and index += 1 (normal: += 2). */
uint32_t rng_next(struct rng *rng);
double rng_uniform(struct rng *rng);                 /* [0, 1) in steps of 2^-32 */
double rng_normal(struct rng *rng);                  /* N(0, 1), Box-Muller */
uint32_t rng_below(struct rng *rng, uint32_t n);     /* 0 .. n-1, n > 0, without bias (rejection) */
void rng_shuffle(struct rng *rng, uint32_t *items, size_t n); /* Fisher-Yates */

#endif
