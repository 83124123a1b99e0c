/* attention.cuh: what the kernels of attention share: which keys a query reads. */
#ifndef VENEER_CUDA_ATTENTION_CUH
#define VENEER_CUDA_ATTENTION_CUH
#include "cuda/kernels.cuh"

/* Arguments of every kernel of attention, of acts in T (float or bf16); strides in numbers.  Query i reads keys start .. past + i and prefix ..
 * prefix_end-1, by reach[i] = {start, end of its segment, prefix, prefix_end}; end 0: it belongs to no segment.  reach NULL: one sequence, all keys up to
 * past + i. */
template <class T> struct attend {
    const T *q, *k, *v; /* k, v: backward's; forward has keys */
    T *out;
    float *lse;
    const int4 *reach;
    int n, keys, past, H, KV, D;
    size_t k_row, k_head; /* from key to key, from head to head; queries: H D and D */
    float scale;
    const T *dout;
    const float *delta; /* backward: dout . out of each query and head */
    T *dq, *dk, *dv;
};

/* A number of a cache in f16: sixteen bits as an act's bf16, and another number. */
struct f16 {
    uint16_t bits;
};

__device__ static inline float real_of(f16 x)
{
    return f32_of_f16(x.bits);
}

/* What forward and decoding read: acts (KEY is T), or a cache's numbers (float or f16). */
template <class KEY> struct key_rows {
    const KEY *k, *v;
};

template <class T> __device__ static inline int4 reach_of(const struct attend<T> &a, int i)
{
    if (i >= a.n)
        return make_int4(0, 0, 0, 0);
    return a.reach ? a.reach[i] : make_int4(0, 0x7fffffff, 0, 0);
}

__device__ static inline bool reads(int4 reach, int last, int key)
{
    return (key >= reach.x && key <= last && reach.y > 0) || (key >= reach.z && key < reach.w);
}

/* flash.cu: on tensor cores, acts in bf16, heads of 64 and 128; false: another case, nothing was queued. */
template <class KEY> bool flash_forward(struct device *d, const struct attend<bf16> &a, struct key_rows<KEY> keys);
bool flash_backward(struct device *d, const struct attend<bf16> &a);

/* Acts in fp32 are multiplied in fp32. */
template <class KEY> static inline bool flash_forward(struct device *, const struct attend<float> &, struct key_rows<KEY>)
{
    return false;
}

static inline bool flash_backward(struct device *, const struct attend<float> &)
{
    return false;
}

#endif
