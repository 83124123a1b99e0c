/* cpu.c: which table of kernels this machine gets. */
#include "cpu/cpu.h"
#include "cpu/fast.h"

#include <string.h>

static const struct ops reference_table = {
    .name = "reference",
    .scratch_size = ref_scratch_size,
    .embed_forward = ref_embed_forward,
    .embed_backward = ref_embed_backward,
    .rmsnorm_forward = ref_rmsnorm_forward,
    .rmsnorm_backward = ref_rmsnorm_backward,
    .linear_forward = ref_linear_forward,
    .linear_backward = ref_linear_backward,
    .rope = ref_rope,
    .attention_forward = ref_attention_forward,
    .attention_backward = ref_attention_backward,
    .attention_decode = ref_attention_decode,
    .swiglu_forward = ref_swiglu_forward,
    .swiglu_backward = ref_swiglu_backward,
    .add = ref_add,
    .to_bf16 = ref_to_bf16,
    .from_bf16 = ref_from_bf16,
    .head_loss = ref_head_loss,
    .adamw = ref_adamw,
    .sum_squares = ref_sum_squares,
    .salience = ref_salience,
};

const struct ops *cpu_ops(bool reference)
{
    return reference || strcmp(cpu_level_name(), "ref") == 0 ? &reference_table : &fast_table;
}
