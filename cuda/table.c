/* table.c: the table of the device's kernels. */
#include "cuda/private.h"

static const struct ops cuda_table = {
    .name = "cuda",
    .scratch_size = device_scratch_size,
    .together = ops_alone,
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
    .attention_keep = cuda_attention_keep,
    .attention_decode = cuda_attention_decode,
    .swiglu_forward = cuda_swiglu_forward,
    .swiglu_backward = cuda_swiglu_backward,
    .add = cuda_add,
    .add_squares = cuda_add_squares,
    .to_bf16 = cuda_to_bf16,
    .from_bf16 = cuda_from_bf16,
    .head_loss = cuda_head_loss,
    .divergence = cuda_divergence,
    .sample = cuda_sample,
    .adamw = cuda_adamw,
    .sum_squares = cuda_sum_squares,
    .salience = cuda_salience,
};

const struct ops *device_ops(void)
{
    return &cuda_table;
}
