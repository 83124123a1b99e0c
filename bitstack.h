/* bitstack.h: a matrix as a stack of blocks of about one bit a weight, of which any number may be loaded.
 *
 * Wang et al. 2024, BitStack (arXiv:2410.23918).  Columns are scaled by what their inputs carry, s_i = sqrt(H_ii / n) (gram.h); then block after block
 * takes from what is left, R = sign(R) * |R|, the signs and the best rank-k approximation of |R|:
 *     R_0 = W diag(s)      U V = SVD_k(|R|)      block = sign(R), U, V diag(1/s)      R' = R - sign(R) * (U V)       (*: element by element)
 * so that W' = sum over the blocks of sign * (U V diag(1/s)) is computed without s.  U and V are stored in fp16, and R' is what the stored numbers leave.
 * What it is not: it reads no file and keeps no memory but what is placed. */
#ifndef VENEER_BITSTACK_H
#define VENEER_BITSTACK_H
#include <stddef.h>
#include <stdint.h>

#include "gram.h"

enum { BITSTACK_RANK = 16 }; /* the paper's k; less where a side of the matrix is shorter */

struct bitstack_block {
    uint8_t *signs;    /* [(out in + 7) / 8] bit i % 8 of byte i / 8: element i of the flattened matrix is negative */
    uint16_t *U, *V;   /* [out, k], [k, in] fp16 */
};

struct bitstack {
    size_t out, in, rank, n; /* n blocks */
    struct bitstack_block *block;
    double *error; /* [n + 1] sum over elements of s_i^2 (w - w')^2 with the first m blocks: falls with every block */
};

/* Sets the shape and takes the memory of n blocks (counts while the arena counts). */
void bitstack_place(struct bitstack *stack, size_t out, size_t in, size_t n, struct arena *arena);
/* Bytes of one block: out in / 8 + 2 k (out + in). */
size_t bitstack_block_bytes(const struct bitstack *stack);
/* W[out, in] -> stack (placed).  A column that no token reached counts as 1e-4 of the largest.
 * ERR_FAILED names the element of W that is not finite, or says that fp16 cannot hold a factor; ERR_INPUT, ERR_DIVERGED: gram_check; ERR_STOPPED; ERR_MEMORY:
 * it takes bitstack_bytes while it runs.  The same bits for any number of threads. */
enum status bitstack_decompose(struct bitstack *stack, const real *W, const struct gram *gram, struct err *err);
size_t bitstack_bytes(const struct bitstack *stack);
/* W[out, in] of the first m blocks. */
void bitstack_decode(const struct bitstack *stack, size_t m, real *W);

/* The order in which blocks of many stacks are loaded: the next is, of each stack's first block that is not loaded, the one that lowers error the most per
 * byte (of equals that of the first stack).  order[sum of n]: which stack.  ERR_MEMORY. */
enum status bitstack_order(const struct bitstack *stacks, size_t n_stacks, uint32_t *order, struct err *err);
/* loaded[n_stacks]: blocks of each stack, in this order until the next does not fit into the budget: what fits into less memory is part of what fits into more.
 * Returns their bytes. */
uint64_t bitstack_load(const struct bitstack *stacks, size_t n_stacks, const uint32_t *order, uint64_t budget_bytes, size_t *loaded);

#endif
