/* attention.cuh: what the kernels of attention share: which keys a query reads. */
#ifndef VENEER_CUDA_ATTENTION_CUH
#define VENEER_CUDA_ATTENTION_CUH
#include "cuda/kernels.cuh"

/* Arguments of every kernel of attention; strides in numbers.  Query i reads keys start .. past + i and prefix .. prefix_end-1, by reach[i] = {start, end of
 * its segment, prefix, prefix_end}; end 0: it belongs to no segment.  reach NULL: one sequence, all keys up to past + i. */
struct attend {
    const float *q, *k, *v; /* k, v: backward's; forward has keys */
    float *out, *lse;
    const int4 *reach;
    int n, keys, past, H, KV, D;
    size_t k_row, k_head; /* from key to key, from head to head; queries: H D and D */
    float scale;
    const float *dout, *delta; /* backward: dout . out of each query and head */
    float *dq, *dk, *dv;
};

/* What forward and decoding read: reals, or a cache's in f16 (KEY: uint16_t). */
template <class KEY> struct key_rows {
    const KEY *k, *v;
};

__device__ static inline float real_of(uint16_t h)
{
    return f32_of_f16(h);
}

__device__ static inline int4 reach_of(const struct attend &a, int i)
{
    if (i >= a.n)
        return make_int4(0, 0, 0, 0);
    return a.reach ? a.reach[i] : make_int4(0, 0x7fffffff, 0, 0);
}

__device__ static inline bool reads(int4 reach, int last, int key)
{
    return (key >= reach.x && key <= last && reach.y > 0) || (key >= reach.z && key < reach.w);
}

/* flash.cu: on tensor cores, heads of 64 and 128, products in bf16; false: another case, nothing was queued. */
template <class KEY> bool flash_forward(const struct ops_context *c, const struct attend &a, struct key_rows<KEY> keys);
bool flash_backward(const struct ops_context *c, const struct attend &a);

#endif
