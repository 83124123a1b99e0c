/* encode.cu: W -> codes and scales on the device, with the bits of quant_encode (quant.c, quant_affine.c, quant_ggml.c say what each format computes).
 *
 * A warp takes a block or group.  Divisions and roots are IEEE's, products and sums are single operations, sums of doubles have the CPU's order: of the
 * mean of all absmax and of the errors of HQQ's groups one thread makes them.  pow in HQQ's shrinkage is the one function that may differ in its last bit,
 * where an error is above 0.17; codes and the f16 numbers stored do not show it. */
#include "cuda/kernels.cuh"
extern "C" {
#include "quant_affine.h"
#include "quant_ggml.h"
}

enum { WARPS = THREADS / 32, NESTED = 256, ITERATIONS = 20, LANES = 8 };

struct seat {
    int lane;
    size_t warp; /* of all */
};

__device__ static inline struct seat seat_here()
{
    return seat{(int)(threadIdx.x & 31), (size_t)blockIdx.x * WARPS + (threadIdx.x >> 5)};
}

__device__ static inline float inverse_of(float x)
{
    float inverse = x != 0 ? __fdiv_rn(1, x) : 0;
    return isfinite(inverse) ? inverse : 0;
}

/* quant_nearest256 */
__device__ static inline uint8_t nearest256(const float *table, float x)
{
    int at = 0;
    for (int step = 128; step > 0; step /= 2)
        at += x > __fmul_rn(0.5f, __fadd_rn(table[at + step - 1], table[at + step])) ? step : 0;
    return (uint8_t)at;
}

/* ---- floats ---- */

__global__ void __launch_bounds__(THREADS) k_encode_halves(uint16_t *to, const float *W, size_t n, int f16)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        to[i] = f16 ? f16_of(W[i]) : bf16_of(W[i]);
}

/* ---- blocks over the flattened matrix: the largest magnitude, then codes ---- */

__device__ static inline float block_largest(const float *W, size_t first, size_t end, int lane)
{
    float most = 0;
    for (size_t i = first + lane; i < end; i += 32)
        most = fmaxf(most, fabsf(W[i]));
    return warp_max(most);
}

/* nf4, fp4: two elements a byte, the first in the high nibble; behind an odd end the code of zero. */
__global__ void __launch_bounds__(THREADS) k_encode_book4(uint8_t *codes, float *absmax, const float *W, size_t n, size_t block, int fp4, const struct code_books *books)
{
    struct seat at = seat_here();
    size_t first = at.warp * block, end = first + block < n ? first + block : n;
    float most = block_largest(W, first, end, at.lane), inverse = inverse_of(most);
    for (size_t i = first + 2 * at.lane; i < end; i += 64) {
        uint32_t byte = 0;
        for (int k = 0; k < 2; k++) {
            float x = i + k < end ? __fmul_rn(W[i + k], inverse) : 0;
            int rank = 0;
            for (int m = 0; m + 1 < books->rank4[fp4].n; m++)
                rank += x > books->rank4[fp4].midpoint[m];
            byte = byte << 4 | books->rank4[fp4].code[rank];
        }
        codes[i / 2] = (uint8_t)byte;
    }
    if (at.lane == 0 && first < n)
        absmax[at.warp] = most;
}

/* int8_64, nf8 */
__global__ void __launch_bounds__(THREADS) k_encode_blocks8(uint8_t *codes, float *scales, const float *W, size_t n, size_t block, int nf8, const struct code_books *books)
{
    struct seat at = seat_here();
    size_t first = at.warp * block, end = first + block < n ? first + block : n;
    float most = block_largest(W, first, end, at.lane), inverse = inverse_of(most);
    for (size_t i = first + at.lane; i < end; i += 32) {
        float x = __fmul_rn(W[i], inverse);
        codes[i] = nf8 ? nearest256(books->nf8, x) : (uint8_t)(int8_t)__float2int_rn(__fmul_rn(x, 127));
    }
    if (at.lane == 0 && first < n)
        scales[at.warp] = most;
}

/* int8: a block a row */
__global__ void __launch_bounds__(THREADS) k_encode_rows8(int8_t *codes, float *scales, const float *W, size_t cols, int f16_first)
{
    size_t row = blockIdx.x;
    float most = 0;
    W += row * cols;
    for (size_t j = threadIdx.x; j < cols; j += THREADS)
        most = fmaxf(most, fabsf(f16_first ? f32_of_f16(f16_of(W[j])) : W[j]));
    most = block_max(most);
    float scale = most > 0 ? __fdiv_rn(127, most) : 0;
    scale = isfinite(scale) ? scale : 0;
    for (size_t j = threadIdx.x; j < cols; j += THREADS)
        codes[row * cols + j] = (int8_t)__float2int_rn(__fmul_rn(f16_first ? f32_of_f16(f16_of(W[j])) : W[j], scale));
    if (threadIdx.x == 0)
        scales[row] = most;
}

/* ---- double quantization ---- */

/* The sum of n numbers in order: all threads fetch, one adds. */
template <class T> __global__ void __launch_bounds__(THREADS) k_sum_in_order(double *total, const T *x, size_t n)
{
    __shared__ T part[THREADS];
    double sum = 0;
    for (size_t i = 0; i < n; i += THREADS) {
        __syncthreads();
        if (i + threadIdx.x < n)
            part[threadIdx.x] = x[i + threadIdx.x];
        __syncthreads();
        for (int k = 0; threadIdx.x == 0 && k < THREADS && i + k < n; k++)
            sum += (double)part[k];
    }
    if (threadIdx.x == 0)
        *total = sum;
}

__global__ void __launch_bounds__(NESTED) k_encode_scales(uint8_t *codes, float *nested, const float *absmax, float offset, size_t blocks, const struct code_books *books)
{
    size_t i = (size_t)blockIdx.x * NESTED + threadIdx.x;
    float d = i < blocks ? __fsub_rn(absmax[i], offset) : 0, most = block_max(fabsf(d)), inverse = inverse_of(most);
    if (i < blocks)
        codes[i] = nearest256(books->dynamic, __fmul_rn(d, inverse));
    if (threadIdx.x == 0)
        nested[blockIdx.x] = most;
}

/* ---- ggml's blocks of 32: a lane an element ---- */

/* Remembers the first block or group whose numbers f16 cannot hold, as its complement: 0 is none. */
__device__ static inline void too_large(unsigned *bad, size_t block)
{
    atomicMax(bad, ~(unsigned)block);
}

__device__ static inline bool held(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

__global__ void __launch_bounds__(THREADS) k_encode_q4_0(uint8_t *codes, const float *W, size_t blocks, unsigned *bad)
{
    struct seat at = seat_here();
    bool there = at.warp < blocks;
    float x = there ? W[at.warp * 32 + at.lane] : 0, most = warp_max(fabsf(x));
    unsigned who = __ballot_sync(0xffffffffu, fabsf(x) == most);
    float largest = __shfl_sync(0xffffffffu, x, __ffs((int)who) - 1); /* the first, with its sign */
    float d = __fdiv_rn(most > 0 ? largest : 0, -8);
    int code = min((int)__fadd_rn(__fmul_rn(x, inverse_of(d)), 8.5f), 15), high = __shfl_down_sync(0xffffffffu, code, 16);
    uint8_t *block = codes + at.warp * 18;
    if (there && at.lane < 16)
        block[2 + at.lane] = (uint8_t)(code | high << 4);
    if (there && at.lane == 0) {
        *(uint16_t *)block = f16_of(d);
        if (!held(f16_of(d)))
            too_large(bad, at.warp);
    }
}

__global__ void __launch_bounds__(THREADS) k_encode_q8_0(uint8_t *codes, const float *W, size_t blocks, unsigned *bad)
{
    struct seat at = seat_here();
    bool there = at.warp < blocks;
    float x = there ? W[at.warp * 32 + at.lane] : 0, d = __fdiv_rn(warp_max(fabsf(x)), 127);
    uint8_t *block = codes + at.warp * 34;
    if (there)
        block[2 + at.lane] = (uint8_t)(int8_t)(int)roundf(__fmul_rn(x, inverse_of(d)));
    if (there && at.lane == 0) {
        *(uint16_t *)block = f16_of(d);
        if (!held(f16_of(d)))
            too_large(bad, at.warp);
    }
}

/* ---- HQQ: a warp a group of 128 (quant_affine.c) ---- */

struct fit {
    const float *W;
    size_t n, groups;
    double top;
    int bits;
    double *s, *zero, *next, *best, *error; /* [groups] */
};

__device__ static inline double clamp(double x, double most)
{
    x = x > 0 ? x : 0;
    return x < most ? x : most;
}

__device__ static inline double shrink(double x)
{
    double a = fabs(x), e = a <= 0.17 ? 0 : a - pow(a, 0.7 - 1) / 10;
    return e > 0 ? copysign(e, x) : 0;
}

/* Four elements of a group a lane: lane, lane + 32 ... ; end of the group. */
struct group {
    size_t first, end;
};

__device__ static inline struct group group_of(const struct fit &f, size_t g)
{
    size_t first = g * AFFINE_GROUP, end = first + AFFINE_GROUP;
    return group{first, end < f.n ? end : f.n};
}

__global__ void __launch_bounds__(THREADS) k_fit_start(struct fit f)
{
    struct seat at = seat_here();
    bool there = at.warp < f.groups;
    struct group g = group_of(f, there ? at.warp : 0);
    float least = INFINITY, most = -INFINITY;
    for (size_t i = g.first + at.lane; i < g.end; i += 32) {
        least = fminf(least, f.W[i]);
        most = fmaxf(most, f.W[i]);
    }
    most = warp_max(most);
    least = -warp_max(-least);
    double range = (double)most - (double)least, s = range <= 1e-4 ? 1 : f.top / range;
    s = s < 2e4 ? s : 2e4;
    double z = (0 - (double)least) * s;
    if (there && at.lane == 0) {
        f.s[at.warp] = s;
        f.zero[at.warp] = f.bits == 4 ? rint(z) : z;
    }
}

/* x[128] in the CPU's order: eight running sums, then those in order.  Every lane gets the sum. */
__device__ static inline double sum_of(double *x, int lane)
{
    double sum = 0;
    __syncwarp();
    for (int i = lane; lane < LANES && i < AFFINE_GROUP; i += LANES)
        sum += x[i];
    double total = 0;
    for (int j = 0; j < LANES; j++)
        total += __shfl_sync(0xffffffffu, sum, j);
    __syncwarp();
    return total;
}

__global__ void __launch_bounds__(THREADS) k_fit_step(struct fit f)
{
    __shared__ double memory[WARPS][AFFINE_GROUP];
    struct seat at = seat_here();
    bool there = at.warp < f.groups;
    size_t g = there ? at.warp : 0;
    struct group part = group_of(f, g);
    double *x = memory[threadIdx.x >> 5], s = f.s[g], z = f.zero[g], inverse = 1 / s, rest[4], shift[4];
    float largest = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        size_t i = part.first + at.lane + 32 * k;
        rest[k] = shift[k] = 0;
        if (i < part.end) {
            double w = (double)f.W[i], scaled = __dmul_rn(w, s), code = rint(clamp(__dadd_rn(scaled, z), f.top));
            rest[k] = __dadd_rn(w, -__dmul_rn(code - z, inverse));
            shift[k] = __dadd_rn(code, -scaled);
        }
        x[at.lane + 32 * k] = fabs(rest[k]);
        largest = fmaxf(largest, fabs(rest[k]) > 0.17 ? 1.f : 0.f);
    }
    double error = sum_of(x, at.lane);
    largest = warp_max(largest);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        bool inside = part.first + at.lane + 32 * k < part.end;
        x[at.lane + 32 * k] = inside && largest > 0 ? __dadd_rn(shift[k], __dmul_rn(shrink(rest[k]), s)) : shift[k];
    }
    double sum = sum_of(x, at.lane);
    if (there && at.lane == 0) {
        f.error[g] = error;
        f.next[g] = sum / (double)(part.end - part.first);
    }
}

/* Scale and zero in f16, and the codes nearest under what was stored: a lane packs up to eight elements into BITS bytes. */
template <int BITS> __global__ void __launch_bounds__(THREADS) k_fit_store(uint8_t *codes, uint16_t *affine, struct fit f, unsigned *bad)
{
    struct seat at = seat_here();
    if (at.warp >= f.groups)
        return;
    struct group g = group_of(f, at.warp);
    uint16_t half_scale = f16_of((float)(1 / f.s[at.warp])), half_zero = f16_of((float)f.best[at.warp]);
    double scale = (double)f32_of_f16(half_scale), zero = (double)f32_of_f16(half_zero), inverse = scale != 0 ? 1 / scale : 0;
    if (at.lane == 0) {
        affine[2 * at.warp] = half_scale;
        affine[2 * at.warp + 1] = half_zero;
        if (!held(half_scale) || !held(half_zero))
            too_large(bad, at.warp);
    }
    size_t first = g.first + 8 * (size_t)at.lane;
    if (at.lane >= AFFINE_GROUP / 8 || first >= g.end)
        return;
    int count = g.end - first < 8 ? (int)(g.end - first) : 8;
    uint32_t stream = 0;
    for (int j = 0; j < count; j++)
        stream |= (uint32_t)rint(clamp(__dadd_rn(__dmul_rn((double)f.W[first + j], inverse), zero), f.top)) << (BITS * j);
    for (int b = 0; b < (count * BITS + 7) / 8; b++)
        codes[first / 8 * BITS + b] = (uint8_t)(stream >> 8 * b);
}

/* ---- what the host does ---- */

/* Memory for one matrix's encoding, taken and given back: encoding is no part of a step. */
struct work {
    struct device *device;
    struct arena arena;
    float *absmax;
    struct fit fit;
    double *total;
    unsigned *bad;
};

static void place_work(struct work *w, const struct qmat *q, size_t blocks)
{
    double **const fit[] = {&w->fit.s, &w->fit.zero, &w->fit.next, &w->fit.best, &w->fit.error};
    w->bad = (unsigned *)arena_take(&w->arena, 1, sizeof(unsigned));
    w->total = (double *)arena_take(&w->arena, 1, sizeof(double));
    w->absmax = q->double_quant ? (float *)arena_take(&w->arena, blocks, sizeof(float)) : q->scales;
    for (size_t i = 0; q->affine && i < sizeof fit / sizeof *fit; i++)
        *fit[i] = (double *)arena_take(&w->arena, w->fit.groups, sizeof(double));
}

static double total_of(struct work *w)
{
    double total = 0;
    struct device *d = w->device;
    device_note(d, cudaMemcpyAsync(&total, w->total, sizeof total, cudaMemcpyDeviceToHost, d->stream), "encode");
    device_note(d, cudaStreamSynchronize(d->stream), "encode");
    return total;
}

static void encode_scales(struct work *w, struct qmat *q, size_t blocks)
{
    struct device *d = w->device;
    k_sum_in_order<float><<<1, THREADS, 0, d->stream>>>(w->total, w->absmax, blocks);
    launched(d, "encode");
    q->nested_offset = (float)(total_of(w) / (double)blocks);
    k_encode_scales<<<blocks_for(blocks, NESTED), NESTED, 0, d->stream>>>(q->scale_codes, q->nested_absmax, w->absmax, q->nested_offset, blocks, d->books);
    launched(d, "encode");
}

/* Zeros get better as long as the error of the whole matrix falls; those of its lowest value are kept. */
static void fit_zeros(struct work *w)
{
    struct device *d = w->device;
    struct fit *f = &w->fit;
    unsigned grid = blocks_for(f->groups, WARPS);
    double least = INFINITY;
    k_fit_start<<<grid, THREADS, 0, d->stream>>>(*f);
    launched(d, "encode");
    for (int k = 0; k < ITERATIONS && !d->where; k++) {
        k_fit_step<<<grid, THREADS, 0, d->stream>>>(*f);
        launched(d, "encode");
        k_sum_in_order<double><<<1, THREADS, 0, d->stream>>>(w->total, f->error, f->groups);
        launched(d, "encode");
        double sum = total_of(w);
        if (!(sum < least))
            return;
        least = sum;
        double *old = f->best;
        f->best = f->zero;
        f->zero = f->next;
        f->next = old;
    }
}

static void encode_affine(struct work *w, struct qmat *q)
{
    struct device *d = w->device;
    uint8_t *codes = (uint8_t *)q->codes;
    unsigned grid = blocks_for(w->fit.groups, WARPS);
    fit_zeros(w);
    if (q->format == FORMAT_HQQ2)
        k_fit_store<2><<<grid, THREADS, 0, d->stream>>>(codes, q->affine, w->fit, w->bad);
    else if (q->format == FORMAT_HQQ3)
        k_fit_store<3><<<grid, THREADS, 0, d->stream>>>(codes, q->affine, w->fit, w->bad);
    else
        k_fit_store<4><<<grid, THREADS, 0, d->stream>>>(codes, q->affine, w->fit, w->bad);
    launched(d, "encode");
}

static void encode_blocks(struct work *w, struct qmat *q, const real *W, bool f16_first, size_t blocks)
{
    struct device *d = w->device;
    size_t n = q->rows * q->cols, block = (size_t)q->block;
    uint8_t *codes = (uint8_t *)q->codes;
    unsigned grid = blocks_for(blocks, WARPS);
    if (q->format == FORMAT_NF4 || q->format == FORMAT_FP4)
        k_encode_book4<<<grid, THREADS, 0, d->stream>>>(codes, w->absmax, W, n, block, q->format == FORMAT_FP4, d->books);
    else if (q->format == FORMAT_INT8)
        k_encode_rows8<<<(unsigned)q->rows, THREADS, 0, d->stream>>>((int8_t *)codes, q->scales, W, q->cols, f16_first);
    else if (q->format == FORMAT_Q4_0)
        k_encode_q4_0<<<grid, THREADS, 0, d->stream>>>(codes, W, blocks, w->bad);
    else if (q->format == FORMAT_Q8_0)
        k_encode_q8_0<<<grid, THREADS, 0, d->stream>>>(codes, W, blocks, w->bad);
    else
        k_encode_blocks8<<<grid, THREADS, 0, d->stream>>>(codes, q->scales, W, n, block, q->format == FORMAT_NF8, d->books);
    launched(d, "encode");
}

static void encode_floats(struct device *d, struct qmat *q, const real *W)
{
    size_t n = q->rows * q->cols;
    if (q->format == FORMAT_F32) {
        device_note(d, cudaMemcpyAsync(q->codes, W, n * sizeof(float), cudaMemcpyDeviceToDevice, d->stream), "encode");
        return;
    }
    k_encode_halves<<<blocks_for(n, THREADS), THREADS, 0, d->stream>>>((uint16_t *)q->codes, W, n, q->format == FORMAT_F16);
    launched(d, "encode");
}

static enum status check_held(struct work *w, const struct qmat *q, size_t block, struct err *err)
{
    unsigned bad = 0;
    TRY(device_download(w->device, &bad, w->bad, sizeof bad, err));
    if (bad == 0)
        return OK;
    size_t n = q->rows * q->cols, first = (size_t)~bad * block, end = size_min(first + block, n) - 1;
    return err_set(err, ERR_FAILED, "elements [%zu, %zu] to [%zu, %zu] are too large for %s: f16 cannot hold what their block is scaled with", first / q->cols,
                   first % q->cols, end / q->cols, end % q->cols, format_info(q->format)->name);
}

static bool is_encoded(enum format format)
{
    return format <= FORMAT_Q4_0 || format == FORMAT_Q8_0 || quant_affine_bits(format) > 0;
}

extern "C" enum status device_encode(struct device *device, struct qmat *q, const real *W, bool f16_first, struct err *err)
{
    size_t n = q->rows * q->cols, block = format_is_ggml(q->format) ? (size_t)GGML_BLOCK : q->affine ? (size_t)AFFINE_GROUP : (size_t)q->block;
    size_t blocks = q->format == FORMAT_INT8 ? q->rows : block > 0 ? (n + block - 1) / block : 0;
    if (!is_encoded(q->format))
        return err_set(err, ERR_INPUT, "%s is not encoded on a GPU, want device = cpu or another format", format_info(q->format)->name);
    if (format_is_float(q->format)) {
        encode_floats(device, q, W);
        return device_check(device, err);
    }
    struct work w = {};
    w.device = device;
    w.fit.W = W;
    w.fit.n = n;
    w.fit.groups = blocks;
    w.fit.bits = quant_affine_bits(q->format);
    w.fit.top = (1 << w.fit.bits) - 1;
    place_work(&w, q, blocks);
    TRY(device_commit(device, &w.arena, "encoding a matrix", err));
    place_work(&w, q, blocks);
    if (q->affine)
        encode_affine(&w, q);
    else
        encode_blocks(&w, q, W, f16_first, blocks);
    if (q->double_quant)
        encode_scales(&w, q, blocks);
    enum status status = check_held(&w, q, block, err);
    device_release(device, &w.arena);
    return status;
}
