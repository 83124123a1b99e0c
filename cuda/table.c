/* table.c: the table of the device's kernels, and the scratch memory that they share. */
#include "cuda/private.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* All of it is shared: kernels run one after another.  256 bytes more, for pieces begin at multiples of 256. */
size_t cuda_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V)
{
    size_t products = larger(cuda_linear_bytes(c, max_out, max_in, T), cuda_head_bytes(c, max_out, max_in, T, V));
    size_t bytes = larger(products, cuda_attention_bytes(larger(max_in, max_out), D, T)) + 256;
    c->shared_n = (bytes / sizeof(real) + 15) / 16 * 16;
    c->scratch_n = 0;
    return c->shared_n;
}

static const struct ops cuda_table = {
    .name = "cuda",
    .scratch_size = cuda_scratch_size,
    .embed_forward = cuda_embed_forward,
    .embed_backward = cuda_embed_backward,
    .rmsnorm_forward = cuda_rmsnorm_forward,
    .rmsnorm_backward = cuda_rmsnorm_backward,
    .linear_forward = cuda_linear_forward,
    .linear_backward = cuda_linear_backward,
    .rope_angles = cuda_rope_angles,
    .rope = cuda_rope,
    .attention_forward = cuda_attention_forward,
    .attention_backward = cuda_attention_backward,
    .attention_decode = cuda_attention_decode,
    .swiglu_forward = cuda_swiglu_forward,
    .swiglu_backward = cuda_swiglu_backward,
    .add = cuda_add,
    .to_bf16 = cuda_to_bf16,
    .from_bf16 = cuda_from_bf16,
    .head_loss = cuda_head_loss,
    .divergence = cuda_divergence,
    .adamw = cuda_adamw,
    .sum_squares = cuda_sum_squares,
    .salience = cuda_salience,
};

const struct ops *device_ops(void)
{
    return &cuda_table;
}
