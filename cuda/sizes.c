/* sizes.c: the bytes behind sizes.h.  Arithmetic, part of every build: a plan needs neither a GPU nor the toolkit. */
#include "cuda/sizes.h"

size_t device_own_bytes(void)
{
    return WORKSPACE + piece_bytes(sizeof(struct code_books)) + piece_bytes(RESULTS * sizeof(double));
}

/* Of n reals that a product reads: the copy in bf16; without one they are read where they lie. */
static size_t copy_bytes(const struct ops_context *c, size_t n)
{
    return in_halves(c) ? piece_bytes(n * sizeof(uint16_t)) : 0;
}

/* gemm.cu: the most that either direction takes: a real dy, then W or the adapter's pieces: dropout(x), rows of the dropped dx and dh of backward, factors. */
static size_t linear_bytes(const struct ops_context *c, size_t max_out, size_t max_in, size_t T)
{
    size_t e = operand_bytes(c), base = piece_bytes(max_out * max_in * e);
    size_t factors = copy_bytes(c, RANKS * max_in) + copy_bytes(c, RANKS * max_out) + 2 * copy_bytes(c, T * RANKS);
    size_t adapter = piece_bytes(T * max_in * e) + piece_bytes(size_min(T, DROPPED_ROWS) * max_in * sizeof(float)) + piece_bytes(T * RANKS * sizeof(float)) + factors;
    return copy_bytes(c, T * max_out) + size_max(base, adapter);
}

/* head.cu: logits; with bf16 their gradient and, of several slabs, the sum of dx; a slab. */
static size_t head_bytes(const struct ops_context *c, size_t max_out, size_t max_in, size_t T, size_t V)
{
    size_t rows = chunk_of(T, V > 0 ? V : 1), slab = size_min(V, SLAB), part = size_min(size_max(max_out, V), SLAB); /* salience reads the embedding too */
    size_t sum = in_halves(c) && V > SLAB ? piece_bytes(rows * max_in * sizeof(float)) : 0;
    size_t loss = piece_bytes(rows * V * sizeof(float)) + copy_bytes(c, rows * V) + sum + piece_bytes(slab * max_in * operand_bytes(c));
    size_t salience = piece_bytes(SALIENCE_PARTS * max_in * sizeof(double)) + piece_bytes(part * max_in * sizeof(float));
    return size_max(loss, salience);
}

/* attention.cu: what each query reads and its delta, or the parts of splits. */
static size_t attention_bytes(size_t width, size_t D, size_t T)
{
    size_t heads = width / D + 1, splits = (T + SPLIT - 1) / SPLIT;
    size_t training = piece_bytes(T * 4 * sizeof(int32_t)) + piece_bytes(T * heads * sizeof(float));
    size_t decoding = piece_bytes(DECODE_MOST * heads * splits * (D + 2) * sizeof(float));
    return size_max(training, decoding);
}

/* All of it is shared: kernels run one after another.  256 bytes more, for scratch itself may begin anywhere. */
size_t device_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V)
{
    size_t products = size_max(linear_bytes(c, max_out, max_in, T), head_bytes(c, max_out, max_in, T, V));
    size_t bytes = size_max(products, attention_bytes(size_max(max_in, max_out), D, T)) + 256;
    c->shared_n = (bytes / sizeof(real) + 15) / 16 * 16;
    c->scratch_n = 0;
    return c->shared_n;
}
