/* quant.cu: reading quantized matrices: decoding rows for a product, the embedding, products with few rows straight from the codes.
 *
 * Every decoded number has the CPU's bits (quant.cuh); as bf16 it is that number rounded to nearest even. */
#include "cuda/quant.cuh"

/* One kernel a format; CALL is a launch with F for the format. */
#define EACH_FORMAT(format, CALL)            \
    switch (format) {                        \
    case FORMAT_F32: CALL(FORMAT_F32)        \
    case FORMAT_F16: CALL(FORMAT_F16)        \
    case FORMAT_BF16: CALL(FORMAT_BF16)      \
    case FORMAT_NF4: CALL(FORMAT_NF4)        \
    case FORMAT_FP4: CALL(FORMAT_FP4)        \
    case FORMAT_INT8: CALL(FORMAT_INT8)      \
    case FORMAT_INT8_64: CALL(FORMAT_INT8_64) \
    case FORMAT_NF8: CALL(FORMAT_NF8)        \
    case FORMAT_Q4_0: CALL(FORMAT_Q4_0)      \
    case FORMAT_Q4_1: CALL(FORMAT_Q4_1)      \
    case FORMAT_Q5_0: CALL(FORMAT_Q5_0)      \
    case FORMAT_Q5_1: CALL(FORMAT_Q5_1)      \
    case FORMAT_Q8_0: CALL(FORMAT_Q8_0)      \
    case FORMAT_IQ4_NL: CALL(FORMAT_IQ4_NL)  \
    case FORMAT_IQ4_XS: CALL(FORMAT_IQ4_XS)  \
    case FORMAT_Q2_K: CALL(FORMAT_Q2_K)      \
    case FORMAT_Q3_K: CALL(FORMAT_Q3_K)      \
    case FORMAT_Q4_K: CALL(FORMAT_Q4_K)      \
    case FORMAT_Q5_K: CALL(FORMAT_Q5_K)      \
    case FORMAT_Q6_K: CALL(FORMAT_Q6_K)      \
    case FORMAT_HQQ2: CALL(FORMAT_HQQ2)      \
    case FORMAT_HQQ3: CALL(FORMAT_HQQ3)      \
    case FORMAT_HQQ4: CALL(FORMAT_HQQ4)      \
    case FORMAT_COUNT: break;                \
    }

/* ---- decoding ---- */

__device__ static inline void put8(float *to, eight x)
{
    store<4>(to, floats<4>{{x.v[0], x.v[1], x.v[2], x.v[3]}});
    store<4>(to + 4, floats<4>{{x.v[4], x.v[5], x.v[6], x.v[7]}});
}

__device__ static inline void put8(bf16 *to, eight x)
{
    halves8 h;
#pragma unroll
    for (int j = 0; j < 8; j++)
        h.v[j] = bf16_of(x.v[j]);
    store_halves(&to->bits, h);
}

/* Elements first .. first+n-1 of the flattened matrix, eight a thread; first is a multiple of 8. */
template <int F, class T> __global__ void __launch_bounds__(THREADS) k_decode(T *to, struct qmat q, size_t first, size_t n, const struct code_books *books)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= n)
        return;
    eight x = eight_of<F>(q, first + i, books);
    if (i + 8 <= n) {
        put8(to + i, x);
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (i + j < n)
            put(to + i + j, x.v[j]);
}

#define DECODE_F32(F)                                                                                                                       \
    k_decode<F, float><<<blocks_for(count, 8 * THREADS), THREADS, 0, device->stream>>>((float *)to, *W, row0 * W->cols, count, device->books); \
    break;
#define DECODE_BF16(F)                                                                                                                       \
    k_decode<F, bf16><<<blocks_for(count, 8 * THREADS), THREADS, 0, device->stream>>>((bf16 *)to, *W, row0 * W->cols, count, device->books); \
    break;

extern "C" void cuda_decode(struct device *device, const struct qmat *W, size_t row0, size_t n, void *to, bool halves)
{
    size_t count = n * W->cols;
    if (count == 0 || !to)
        return;
    if (halves)
        EACH_FORMAT(W->format, DECODE_BF16)
    else
        EACH_FORMAT(W->format, DECODE_F32)
    launched(device, "decode");
}

/* ---- embedding: a block a token ---- */

template <int F> __global__ void __launch_bounds__(THREADS) k_embed(float *y, struct qmat q, const int32_t *tokens, const struct code_books *books)
{
    size_t C = q.cols, first = (size_t)tokens[blockIdx.x] * C;
    y += (size_t)blockIdx.x * C;
    /* rows of odd length begin inside of eight: groups from the one that holds the first element on */
    for (size_t e = first / 8 * 8 + threadIdx.x * 8; e < first + C; e += THREADS * 8) {
        eight x = eight_of<F>(q, e, books);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (e + j >= first && e + j < first + C)
                y[e + j - first] = x.v[j];
    }
}

#define EMBED(F)                                                                              \
    k_embed<F><<<(unsigned)n, THREADS, 0, c->device->stream>>>(y, *W, tokens, c->device->books); \
    break;

extern "C" void cuda_embed_forward(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y)
{
    if (n == 0)
        return;
    EACH_FORMAT(W->format, EMBED)
    launched(c->device, "embed_forward");
}

/* ---- products with few rows ---- */

enum { WARPS = THREADS / 32, GEMV_ROWS = 2 }; /* rows of W that a warp takes: x is read once for both */

__device__ static inline eight eight_at(const float *x)
{
    floats<4> x0 = load<4>(x), x1 = load<4>(x + 4);
    eight v;
#pragma unroll
    for (int j = 0; j < 8; j++)
        v.v[j] = j < 4 ? x0.v[j & 3] : x1.v[j & 3];
    return v;
}

__device__ static inline eight eight_at(const bf16 *x)
{
    halves8 h = load_halves(&x->bits);
    eight v;
#pragma unroll
    for (int j = 0; j < 8; j++)
        v.v[j] = f32_of_bf16(h.v[j]);
    return v;
}

/* Two stores a warp: a kernel of its own for each type of y would gain nothing. */
__device__ static inline void put_y(void *y, bool halves, size_t i, float x)
{
    if (halves)
        put((bf16 *)y + i, x);
    else
        put((float *)y + i, x);
}

template <int F, class T> __global__ void __launch_bounds__(THREADS) k_gemv(void *y, bool halves, struct qmat q, const T *x, const struct code_books *books)
{
    size_t lane = threadIdx.x & 31, row = ((size_t)blockIdx.x * WARPS + (threadIdx.x >> 5)) * GEMV_ROWS;
    bool one = row < q.rows, two = row + 1 < q.rows;
    x += (size_t)blockIdx.y * q.cols;
    float a = 0, b = 0;
    for (size_t k = lane * 8; one && k < q.cols; k += 256) {
        eight w0 = eight_of<F>(q, row * q.cols + k, books), w1 = eight_of<F>(q, (two ? row + 1 : row) * q.cols + k, books), v = eight_at(x + k);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            a += w0.v[j] * v.v[j];
            b += w1.v[j] * v.v[j];
        }
    }
    a = warp_sum(a);
    b = warp_sum(b);
    if (lane == 0 && one)
        put_y(y, halves, (size_t)blockIdx.y * q.rows + row, a);
    if (lane == 0 && two)
        put_y(y, halves, (size_t)blockIdx.y * q.rows + row + 1, b);
}

#define GEMV(F)                                                                                                                                     \
    k_gemv<F, T><<<dim3(blocks_for(W->rows, WARPS * GEMV_ROWS), (unsigned)n), THREADS, 0, c->device->stream>>>(y, halves, *W, x, c->device->books); \
    break;

template <class T> static void gemv(const struct ops_context *c, const struct qmat *W, const T *x, size_t n, void *y, bool halves)
{
    EACH_FORMAT(W->format, GEMV)
    launched(c->device, "gemv");
}

extern "C" void cuda_gemv(const struct ops_context *c, const struct qmat *W, const act *x, size_t n, void *y, bool real_y)
{
    if (act_in_halves(c))
        gemv(c, W, (const bf16 *)x, n, y, !real_y);
    else
        gemv(c, W, x, n, y, false);
}
