/* gemm.cu: products by cuBLAS, and the linear layer: a frozen matrix in any format plus a low-rank adapter (cpu/ref_linear.c's equations).
 *
 * One stream and a fixed workspace: cuBLAS's own condition for the same bits every time.  With compute = bf16 both factors are rounded to bf16 and sums
 * are fp32; with f32 nothing is rounded.  Acts are bf16 then already: products read and write them where they lie.  W is decoded into one piece of scratch
 * that all matrices use in turn; a few rows meet the codes directly. */
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

static bool is_read_in_place(const struct ops_context *c, const struct qmat *W)
{
    return W->format == (in_halves(c) ? FORMAT_BF16 : FORMAT_F32);
}

size_t slab_of(const struct ops_context *c, const struct qmat *W)
{
    return is_read_in_place(c, W) ? W->rows : (size_t)SLAB;
}

struct operand weight_of(const struct ops_context *c, struct pieces *p, const struct qmat *W, size_t row0, size_t n)
{
    bool halves = in_halves(c);
    cudaDataType type = halves ? CUDA_R_16BF : CUDA_R_32F;
    if (is_read_in_place(c, W))
        return operand{(const unsigned char *)W->codes + row0 * W->cols * operand_bytes(c), type, W->cols};
    void *to = piece_take(p, n * W->cols * operand_bytes(c));
    cuda_decode(c->device, W, row0, n, to, halves);
    return operand{to, type, W->cols};
}

static size_t bytes_before(cudaDataType type, size_t ld, size_t row, size_t col)
{
    return (row * ld + col) * (type == CUDA_R_32F ? sizeof(float) : sizeof(uint16_t));
}

struct operand operand_at(struct operand a, size_t row, size_t col)
{
    a.at = (const unsigned char *)a.at + bytes_before(a.type, a.ld, row, col);
    return a;
}

struct result result_at(struct result a, size_t row, size_t col)
{
    a.at = (unsigned char *)a.at + bytes_before(a.type, a.ld, row, col);
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
                                       p->A.at, p->A.type, (int)p->A.ld, &p->beta, p->C.at, p->C.type, (int)p->C.ld, CUBLAS_COMPUTE_32F,
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

template <class T> __global__ void __launch_bounds__(THREADS) k_dropped(T *to, const T *x, const uint32_t *mask, float kept, unsigned each, size_t in)
{
    struct spot at = spot_of(each);
    size_t i = at.row * in + at.col;
    if (at.col < in)
        put(to + i, masked(mask, at, in, real_of(x[i]), kept));
}

template <class T> __global__ void __launch_bounds__(THREADS) k_add_dropped(T *y, const float *x, const uint32_t *mask, float kept, unsigned each, size_t in)
{
    struct spot at = spot_of(each);
    size_t i = at.row * in + at.col;
    if (at.col < in)
        put(y + i, real_of(y[i]) + masked(mask, at, in, x[i], kept));
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
template <class T> static struct operand dropped_as(const struct ops_context *c, struct pieces *p, const struct linear_args *a, const T *x)
{
    size_t in = a->W->cols, n = a->n;
    T *to = (T *)piece_take(p, n * in * sizeof *to);
    unsigned each = blocks_for(in, THREADS);
    if (to)
        k_dropped<T><<<(unsigned)n * each, THREADS, 0, c->device->stream>>>(to, x, a->lora.mask, kept_factor(&a->lora), each, in);
    launched(c->device, "dropout");
    return operand{to, act_type(c), in};
}

static struct operand dropped(const struct ops_context *c, struct pieces *p, const struct linear_args *a)
{
    return act_in_halves(c) ? dropped_as(c, p, a, (const bf16 *)a->x) : dropped_as(c, p, a, a->x);
}

/* Rows row .. row+n-1 of dx += dropout'(x), x in fp32. */
template <class T> static void add_dropped(const struct ops_context *c, const struct linear_args *a, T *dx, const float *x, size_t row, size_t n)
{
    size_t in = a->W->cols;
    unsigned each = blocks_for(in, THREADS);
    const uint32_t *mask = a->lora.mask + row * mask_words(in);
    k_add_dropped<T><<<(unsigned)n * each, THREADS, 0, c->device->stream>>>(dx + row * in, x, mask, kept_factor(&a->lora), each, in);
    launched(c->device, "dropout");
}

/* ---- forward ---- */

/* Whether y and dy are bf16. */
static bool y_in_halves(const struct ops_context *c, const struct linear_args *a)
{
    return act_in_halves(c) && !a->real_y;
}

static struct result y_of(const struct ops_context *c, const struct linear_args *a)
{
    return result{a->y, y_in_halves(c, a) ? CUDA_R_16BF : CUDA_R_32F, a->W->rows};
}

template <class T> __global__ void __launch_bounds__(THREADS) k_add_bias(T *y, const float *bias, unsigned each, size_t out)
{
    struct spot at = spot_of(each);
    size_t i = at.row * out + at.col;
    if (at.col < out)
        put(y + i, real_of(y[i]) + bias[at.col]);
}

template <class T> static void add_bias(const struct ops_context *c, const struct linear_args *a, T *y)
{
    unsigned each = blocks_for(a->W->rows, THREADS);
    k_add_bias<T><<<(unsigned)a->n * each, THREADS, 0, c->device->stream>>>(y, a->bias, each, a->W->rows);
    launched(c->device, "bias");
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
        struct product hidden = {false, true, a->n, k, in, 1, 0, x, operand_of(c, &p, l->A + r0 * in, k, in, in), {l->h + r0, CUDA_R_32F, r}};
        multiply(c->device, &hidden);
        if (!a->y)
            continue;
        struct operand h = operand_of(c, &p, l->h + r0, a->n, k, r), B = operand_of(c, &p, l->B + r0, out, k, r);
        struct product up = {false, true, a->n, out, k, l->s, 1, h, B, y_of(c, a)};
        multiply(c->device, &up);
    }
}

/* y = x W^T, a slab of W at a time: a head of many rows is never decoded whole. */
static void multiply_slabs(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand x)
{
    size_t out = a->W->rows, slab = slab_of(c, a->W);
    for (size_t o = 0; o < out; o += slab) {
        struct pieces p = scratch;
        size_t n = size_min(out - o, slab);
        struct product y = {false, true, a->n, n, a->W->cols, 1, 0, x, weight_of(c, &p, a->W, o, n), result_at(y_of(c, a), 0, o)};
        multiply(c->device, &y);
    }
}

/* y = x W^T + bias */
static void base_forward(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand x)
{
    size_t in = a->W->cols;
    if (a->n <= GEMV_MOST && in % 8 == 0 && in_fours(in, a->x))
        cuda_gemv(c, a->W, a->x, a->n, a->y, a->real_y);
    else
        multiply_slabs(c, scratch, a, x);
    if (!a->bias)
        return;
    if (y_in_halves(c, a))
        add_bias(c, a, (bf16 *)a->y);
    else
        add_bias(c, a, a->y);
}

extern "C" void cuda_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count)
{
    struct pieces scratch = pieces_of(c);
    if (a->n == 0)
        return;
    struct operand x = {a->x, act_type(c), a->W->cols};
    for (size_t i = 0; i < count; i++) {
        if (a[i].y)
            base_forward(c, scratch, &a[i], x);
        if (a[i].lora.r > 0)
            adapter_forward(c, scratch, &a[i], x);
    }
}

/* ---- backward ---- */

template <class T> __global__ void __launch_bounds__(THREADS) k_dbias(float *dbias, const T *dy, size_t n, size_t out)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= out)
        return;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)real_of(dy[i * out + j]);
    dbias[j] += (float)sum;
}

template <class T> static void add_dbias(const struct ops_context *c, const struct linear_args *a, const T *dy)
{
    size_t out = a->W->rows;
    k_dbias<T><<<blocks_for(out, THREADS), THREADS, 0, c->device->stream>>>(a->dbias, dy, a->n, out);
    launched(c->device, "bias");
}

/* dx += dropout'(dh A), some rows at a time: the product is fp32, and as wide as x. */
static void dx_through_dropout(const struct ops_context *c, struct pieces p, const struct linear_args *a, struct operand dh, struct operand A, size_t k)
{
    size_t in = a->W->cols, most = size_min(a->n, DROPPED_ROWS);
    float *x = (float *)piece_take(&p, most * in * sizeof *x);
    for (size_t row = 0; row < a->n; row += most) {
        size_t n = size_min(a->n - row, most);
        struct product dx = {false, false, n, in, k, 1, 0, operand_at(dh, row, 0), A, {x, CUDA_R_32F, in}};
        multiply(c->device, &dx);
        if (act_in_halves(c))
            add_dropped(c, a, (bf16 *)a->dx, x, row, n);
        else
            add_dropped(c, a, a->dx, x, row, n);
    }
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
    for (size_t r0 = 0; r0 < r; r0 += RANKS) {
        struct pieces p = scratch;
        size_t k = size_min(r - r0, RANKS);
        float *dh = (float *)piece_take(&p, n * k * sizeof *dh);
        struct operand B = operand_of(c, &p, l->B + r0, out, k, r);
        struct product down = {false, false, n, k, out, l->s, 0, dy, B, {dh, CUDA_R_32F, k}};
        multiply(d, &down);
        struct operand dh16 = operand_of(c, &p, dh, n, k, k);
        if (l->dB) {
            struct product dB = {true, false, out, k, n, l->s, 1, dy, operand_of(c, &p, l->h + r0, n, k, r), {l->dB + r0, CUDA_R_32F, r}};
            multiply(d, &dB);
        }
        if (l->dA) {
            struct product dA = {true, false, k, in, n, 1, 1, dh16, x, {l->dA + r0 * in, CUDA_R_32F, in}};
            multiply(d, &dA);
        }
        if (!a->dx)
            continue;
        struct operand A = operand_of(c, &p, l->A + r0 * in, k, in, in);
        if (drops) {
            dx_through_dropout(c, p, a, dh16, A, k);
        } else {
            struct product dx = {false, false, n, in, k, 1, 1, dh16, A, {a->dx, act_type(c), in}};
            multiply(d, &dx);
        }
    }
}

static void base_dx(const struct ops_context *c, struct pieces scratch, const struct linear_args *a, struct operand dy)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct product p = {false, false, a->n, in, out, 1, a->dx_add ? 1.f : 0.f, dy, weight_of(c, &scratch, a->W, 0, out), {a->dx, act_type(c), in}};
    multiply(c->device, &p);
}

extern "C" void cuda_linear_backward(const struct ops_context *c, const struct linear_args *a)
{
    size_t in = a->W->cols, out = a->W->rows;
    struct pieces scratch = pieces_of(c);
    if (a->n == 0)
        return;
    struct operand x = {a->x, act_type(c), in}, dy = a->real_y ? operand_of(c, &scratch, a->dy, a->n, out, out) : operand{a->dy, act_type(c), out};
    if (a->dW) {
        struct product dW = {true, false, out, in, a->n, 1, 1, dy, x, {a->dW, CUDA_R_32F, in}};
        multiply(c->device, &dW);
    }
    if (a->dbias && y_in_halves(c, a))
        add_dbias(c, a, (const bf16 *)a->dy);
    else if (a->dbias)
        add_dbias(c, a, a->dy);
    if (a->dx)
        base_dx(c, scratch, a, dy);
    if (a->lora.r > 0)
        adapter_backward(c, scratch, a, dy, x);
}
