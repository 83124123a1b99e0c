/* gemm.cu: products by cuBLAS, and the linear layer: a frozen matrix in any format plus a low-rank adapter (cpu/ref_linear.c's equations).
 *
 * One stream and a fixed workspace: cuBLAS's own condition for the same bits every time.  With compute = bf16 both factors are rounded to bf16 and sums
 * are fp32; with f32 nothing is rounded.  W is decoded into one piece of scratch that all matrices use in turn; a few rows meet the codes directly. */
#include "cuda/gemm.cuh"

enum { GEMV_MOST = 4 }; /* rows of x that go the way of the codes */

/* ---- operands ---- */

/* Eight a thread where rows allow it: to[rows, cols] without gaps. */
template <int V> __global__ void __launch_bounds__(THREADS) k_halves(uint16_t *to, const float *x, size_t rows, size_t cols, size_t ld)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= rows * cols)
        return;
    const float *from = x + i / cols * ld + i % cols;
    if (V == 1) {
        to[i] = bf16_of(*from);
        return;
    }
    floats<4> a = load<4>(from), b = load<4>(from + 4);
    halves8 h;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        h.v[j] = bf16_of(a.v[j]);
        h.v[4 + j] = bf16_of(b.v[j]);
    }
    store_halves(to + i, h);
}

struct operand operand_of(const struct ops_context *c, struct pieces *p, const float *x, size_t rows, size_t cols, size_t ld)
{
    if (!in_halves(c))
        return operand{x, CUDA_R_32F, ld};
    uint16_t *to = (uint16_t *)piece_take(p, rows * cols * sizeof *to);
    size_t n = rows * cols;
    if (to && cols % 8 == 0 && in_fours(ld, x))
        k_halves<8><<<blocks_for(n, 8 * THREADS), THREADS, 0, c->device->stream>>>(to, x, rows, cols, ld);
    else if (to)
        k_halves<1><<<blocks_for(n, THREADS), THREADS, 0, c->device->stream>>>(to, x, rows, cols, ld);
    launched(c->device, "rounding to bf16");
    return operand{to, CUDA_R_16BF, cols};
}

struct operand weight_of(const struct ops_context *c, struct pieces *p, const struct qmat *W, size_t row0, size_t n)
{
    bool halves = in_halves(c);
    cudaDataType type = halves ? CUDA_R_16BF : CUDA_R_32F;
    if (W->format == (halves ? FORMAT_BF16 : FORMAT_F32))
        return operand{(const unsigned char *)W->codes + row0 * W->cols * operand_bytes(c), type, W->cols};
    void *to = piece_take(p, n * W->cols * operand_bytes(c));
    cuda_decode(c->device, W, row0, n, to, halves);
    return operand{to, type, W->cols};
}

struct operand operand_at(struct operand a, size_t row, size_t col)
{
    size_t bytes = a.type == CUDA_R_32F ? sizeof(float) : sizeof(uint16_t);
    a.at = (const unsigned char *)a.at + (row * a.ld + col) * bytes;
    return a;
}

/* A row-major matrix is the transpose of the column-major one in the same memory: C^T = op(B)^T op(A)^T. */
void multiply(struct device *device, const struct product *p)
{
    cublasOperation_t ta = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (device->where) /* after a failure operands may be missing */
        return;
    device_note_blas(device,
                     device->blas.gemm(device->blas.handle, tb, ta, (int)p->N, (int)p->M, (int)p->K, &p->alpha, p->B.at, p->B.type, (int)p->B.ld,
                                       p->A.at, p->A.type, (int)p->A.ld, &p->beta, p->C, CUDA_R_32F, (int)p->ldc, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT),
                     "a product");
}

/* ---- dropout ---- */

/* A thread a word of the mask: bit j is column 32 w + j; bits behind the last column are 0. */
__global__ void __launch_bounds__(THREADS) k_draw_mask(uint32_t *mask, uint64_t seed, uint32_t step, uint64_t index0, uint32_t threshold, size_t n, size_t in, size_t words)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * words)
        return;
    size_t row = i / words, col = i % words * 32;
    uint64_t index = index0 + (uint64_t)row * in + col;
    int skip = (int)(index % 4), count = in - col < 32 ? (int)(in - col) : 32;
    uint32_t bits = 0;
    for (int b = 0; b * 4 < count + skip; b++) {
        random4 r = random_block(seed, RNG_DROPOUT, step, index / 4 + (uint64_t)b);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int at = 4 * b + j - skip;
            if (at >= 0 && at < count && r.v[j] >= threshold)
                bits |= 1u << at;
        }
    }
    mask[i] = bits;
}

/* Element of a matrix whose rows take `each` blocks of a grid: no division of 64 bits. */
struct spot {
    size_t row, col;
};

__device__ static inline struct spot spot_of(unsigned each)
{
    return spot{blockIdx.x / each, (size_t)(blockIdx.x % each) * THREADS + threadIdx.x};
}

__device__ static inline float masked(const uint32_t *mask, struct spot at, size_t in, float x, float kept)
{
    return mask[at.row * ((in + 31) / 32) + at.col / 32] >> (at.col & 31) & 1 ? x * kept : 0;
}

__device__ static inline void put(uint16_t *to, float x)
{
    *to = bf16_of(x);
}

template <class T> __global__ void __launch_bounds__(THREADS) k_dropped(T *to, const float *x, const uint32_t *mask, float kept, unsigned each, size_t in)
{
    struct spot at = spot_of(each);
    size_t i = at.row * in + at.col;
    if (at.col < in)
        put(to + i, masked(mask, at, in, x[i], kept));
}

__global__ void __launch_bounds__(THREADS) k_add_dropped(float *y, const float *x, const uint32_t *mask, float kept, unsigned each, size_t in)
{
    struct spot at = spot_of(each);
    size_t i = at.row * in + at.col;
    if (at.col < in)
        y[i] += masked(mask, at, in, x[i], kept);
}

static float kept_factor(const struct lora_args *lora)
{
    return (float)(1 / (1 - (double)lora->dropout));
}

static void draw_mask(const struct ops_context *c, const struct linear_args *a)
{
    const struct lora_args *l = &a->lora;
    size_t in = a->W->cols;
    uint32_t threshold = (uint32_t)((double)l->dropout * 4294967296.0);
    k_draw_mask<<<blocks_for(a->n * mask_words(in), THREADS), THREADS, 0, c->device->stream>>>(l->mask, l->seed, l->step, l->index0, threshold, a->n, in, mask_words(in));
    launched(c->device, "dropout");
}

/* dropout(x) by the mask. */
static struct operand dropped(const struct ops_context *c, struct pieces *p, const struct linear_args *a)
{
    size_t in = a->W->cols, n = a->n;
    void *to = piece_take(p, n * in * operand_bytes(c));
    unsigned each = blocks_for(in, THREADS), blocks = (unsigned)n * each;
    float kept = kept_factor(&a->lora);
    if (to && in_halves(c))
        k_dropped<uint16_t><<<blocks, THREADS, 0, c->device->stream>>>((uint16_t *)to, a->x, a->lora.mask, kept, each, in);
    else if (to)
        k_dropped<float><<<blocks, THREADS, 0, c->device->stream>>>((float *)to, a->x, a->lora.mask, kept, each, in);
    launched(c->device, "dropout");
    return operand{to, in_halves(c) ? CUDA_R_16BF : CUDA_R_32F, in};
}

/* ---- forward ---- */

__global__ void __launch_bounds__(THREADS) k_add_bias(float *y, const float *bias, unsigned each, size_t out)
{
    struct spot at = spot_of(each);
    if (at.col < out)
        y[at.row * out + at.col] += bias[at.col];
}

/* h = dropout(x) A^T;  y += s h B^T */
static void adapter_forward(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand x)
{
    const struct lora_args *l = &a->lora;
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)l->r;
    if (l->dropout > 0) {
        draw_mask(c, a);
        x = dropped(c, &scratch, a);
    }
    for (size_t r0 = 0; r0 < r; r0 += RANKS) {
        struct pieces p = scratch;
        size_t k = size_min(r - r0, RANKS);
        struct product hidden = {false, true, a->n, k, in, 1, 0, x, operand_of(c, &p, l->A + r0 * in, k, in, in), l->h + r0, r};
        multiply(c->device, &hidden);
        if (!a->y)
            continue;
        struct operand h = operand_of(c, &p, l->h + r0, a->n, k, r), B = operand_of(c, &p, l->B + r0, out, k, r);
        struct product up = {false, true, a->n, out, k, l->s, 1, h, B, a->y, out};
        multiply(c->device, &up);
    }
}

/* y = x W^T + bias.  x16: x as products read it. */
static void base_forward(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand x16)
{
    size_t in = a->W->cols, out = a->W->rows;
    if (a->n <= GEMV_MOST && in % 8 == 0 && in_fours(in, a->x)) {
        cuda_gemv(c->device, a->W, a->x, a->n, a->y);
    } else {
        struct product p = {false, true, a->n, out, in, 1, 0, x16, weight_of(c, &scratch, a->W, 0, out), a->y, out};
        multiply(c->device, &p);
    }
    if (!a->bias)
        return;
    unsigned each = blocks_for(out, THREADS);
    k_add_bias<<<(unsigned)a->n * each, THREADS, 0, c->device->stream>>>(a->y, a->bias, each, out);
    launched(c->device, "bias");
}

extern "C" void cuda_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    struct pieces scratch = pieces_of(c);
    if (a->n == 0)
        return;
    struct operand x = operand_of(c, &scratch, a->x, a->n, a->W->cols, a->W->cols);
    for (size_t i = 0; i < count; i++) {
        if (a[i].y)
            base_forward(c, scratch, &a[i], x);
        if (a[i].lora.r > 0)
            adapter_forward(c, scratch, &a[i], x);
    }
}

/* ---- backward ---- */

__global__ void __launch_bounds__(THREADS) k_dbias(float *dbias, const float *dy, size_t n, size_t out)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= out)
        return;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)dy[i * out + j];
    dbias[j] += (float)sum;
}

/* dh = s dy B;  dB += s dy^T h;  dA += dh^T dropout(x);  dx += dropout'(dh A) */
static void adapter_backward(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand dy, struct operand x)
{
    const struct lora_args *l = &a->lora;
    struct device *d = c->device;
    size_t in = a->W->cols, out = a->W->rows, r = (size_t)l->r, n = a->n;
    bool drops = l->dropout > 0;
    if (drops && l->dA)
        x = dropped(c, &scratch, a);
    float *dropped_dx = drops && a->dx ? (float *)piece_take(&scratch, n * in * sizeof(float)) : NULL;
    for (size_t r0 = 0; r0 < r; r0 += RANKS) {
        struct pieces p = scratch;
        size_t k = size_min(r - r0, RANKS);
        float *dh = (float *)piece_take(&p, n * k * sizeof *dh);
        struct operand B = operand_of(c, &p, l->B + r0, out, k, r);
        struct product down = {false, false, n, k, out, l->s, 0, dy, B, dh, k};
        multiply(d, &down);
        struct operand dh16 = operand_of(c, &p, dh, n, k, k);
        if (l->dB) {
            struct product dB = {true, false, out, k, n, l->s, 1, dy, operand_of(c, &p, l->h + r0, n, k, r), l->dB + r0, r};
            multiply(d, &dB);
        }
        if (l->dA) {
            struct product dA = {true, false, k, in, n, 1, 1, dh16, x, l->dA + r0 * in, in};
            multiply(d, &dA);
        }
        if (a->dx) {
            float *to = drops ? dropped_dx : a->dx, beta = drops && r0 == 0 ? 0.f : 1.f;
            struct product dx = {false, false, n, in, k, 1, beta, dh16, operand_of(c, &p, l->A + r0 * in, k, in, in), to, in};
            multiply(d, &dx);
        }
    }
    if (!dropped_dx)
        return;
    unsigned each = blocks_for(in, THREADS);
    k_add_dropped<<<(unsigned)n * each, THREADS, 0, d->stream>>>(a->dx, dropped_dx, l->mask, kept_factor(l), each, in);
    launched(d, "dropout");
}

static void base_dx(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand dy)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct product p = {false, false, a->n, in, out, 1, a->dx_add ? 1.f : 0.f, dy, weight_of(c, &scratch, a->W, 0, out), a->dx, in};
    multiply(c->device, &p);
}

extern "C" void cuda_linear_backward(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct pieces scratch = pieces_of(c);
    if (a->n == 0)
        return;
    struct operand dy = operand_of(c, &scratch, a->dy, a->n, out, out), x = {NULL, CUDA_R_32F, in};
    if (a->dW || (a->lora.r > 0 && a->lora.dA && a->lora.dropout <= 0))
        x = operand_of(c, &scratch, a->x, a->n, in, in);
    if (a->dW) {
        struct product dW = {true, false, out, in, a->n, 1, 1, dy, x, a->dW, in};
        multiply(c->device, &dW);
    }
    if (a->dbias) {
        k_dbias<<<blocks_for(out, THREADS), THREADS, 0, c->device->stream>>>(a->dbias, a->dy, a->n, out);
        launched(c->device, "bias");
    }
    if (a->dx)
        base_dx(c, scratch, a, dy);
    if (a->lora.r > 0)
        adapter_backward(c, scratch, a, dy, x);
}
