/* sizes.h: what the device's kernels take beside their arguments, and what every open device keeps: numbers that the kernels and the memory plan share. */
#ifndef VENEER_CUDA_SIZES_H
#define VENEER_CUDA_SIZES_H
#include "base/size.h"
#include "cuda/device.h"

/* The tables of quant.h, as kernels read them.  rank4: for encoding, the entries of a 4-bit book in ascending order: their codes, and the midpoints between
 * neighbours, at which ties go down (nf4's, then fp4's, which has one zero less). */
struct code_books {
    float nf4[16], fp4[16], nf8[256], dynamic[256];
    float iq4[16];
    struct {
        float midpoint[15];
        int32_t n;
        uint8_t code[16];
    } rank4[2];
};

enum {
    WORKSPACE = 32 << 20, /* cuBLAS's, in bytes: fixed, so that it always takes the same ways */
    RESULTS = 512,        /* doubles of the device that a kernel leaves for the host */
    RANKS = 256,          /* columns of an adapter at once */
    DROPPED_ROWS = 1024,  /* rows of the gradient behind dropout at once */
    SLAB = 8192,          /* rows of a matrix that are decoded at once, but for a linear's backward, which decodes all */
    CHUNK_LEAST = 16, CHUNK_MOST = 1024, LOGITS = 1 << 25, /* rows of logits at once; numbers, unless the vocabulary is very large */
    SALIENCE_PARTS = 64,  /* runs of rows whose sums of columns are kept apart */
    SPLIT = 64, DECODE_MOST = 8 /* keys of a split; queries that are decoded in splits */
};

/* Pieces of scratch begin at multiples of 256 bytes. */
static inline size_t piece_bytes(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* What products of the device read: bf16 unless the context says f32.  act_in_halves (ops.h) for one that has no device yet: a plan's. */
static inline bool in_halves(const struct ops_context *c)
{
    return c->compute != COMPUTE_F32;
}

/* Bytes of an element of a copy that a product reads. */
static inline size_t operand_bytes(const struct ops_context *c)
{
    return in_halves(c) ? sizeof(uint16_t) : sizeof(float);
}

/* Rows of a chunk of logits. */
static inline size_t chunk_of(size_t n, size_t V)
{
    return size_min(n, size_min(size_max(LOGITS / V, CHUNK_LEAST), CHUNK_MOST));
}

#endif
