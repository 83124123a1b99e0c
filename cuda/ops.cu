/* ops.cu: the slots that are one pass over their arguments: RMSNorm, RoPE, SwiGLU, additions, bf16, the embedding's gradient, AdamW, the sum of squares.
 *
 * All are bound by memory.  T is the type of an act (ops.h), float or bf16; what is computed of it is fp32.  Sums over a row are of floats, thread by
 * thread and then as a tree; sums over rows, whose length has no bound, are of doubles. */
#include "cuda/kernels.cuh"

/* ---- embedding ---- */

/* A token may come twice, so a thread owns a column and takes the rows in order: the CPU's sums, bit for bit. */
__global__ void __launch_bounds__(THREADS) k_embed_backward(float *dW, const int32_t *tokens, size_t n, size_t C, const float *dy)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= C)
        return;
    for (size_t i = 0; i < n; i++)
        dW[(size_t)tokens[i] * C + j] += dy[i * C + j];
}

extern "C" void cuda_embed_backward(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy)
{
    k_embed_backward<<<blocks_for(C, THREADS), THREADS, 0, c->device->stream>>>(dW, tokens, n, C, dy);
    launched(c->device, "embed_backward");
}

/* ---- RMSNorm: a block a row ---- */

template <int V, class T> __global__ void __launch_bounds__(THREADS) k_rmsnorm_forward(T *y, float *s, const float *x, const float *g, float eps, size_t C)
{
    size_t row = blockIdx.x;
    x += row * C;
    y += row * C;
    float squares = 0;
    for (size_t j = threadIdx.x * V; j < C; j += THREADS * V) {
        floats<V> a = load<V>(x + j);
        for (int k = 0; k < V; k++)
            squares += a.v[k] * a.v[k];
    }
    float scale = 1 / sqrtf(block_sum(squares) / (float)C + eps);
    if (threadIdx.x == 0)
        s[row] = scale;
    for (size_t j = threadIdx.x * V; j < C; j += THREADS * V) { /* the second read is the cache's */
        floats<V> a = load<V>(x + j), b = load<V>(g + j);
        for (int k = 0; k < V; k++)
            a.v[k] = b.v[k] * a.v[k] * scale;
        store<V>(y + j, a);
    }
}

template <class T> static void rmsnorm_forward(struct device *d, T *y, real *s, const real *x, const real *g, real eps, size_t n, size_t C)
{
    if (n == 0)
        return;
    if (in_fours(C, y, x, g))
        k_rmsnorm_forward<4, T><<<(unsigned)n, THREADS, 0, d->stream>>>(y, s, x, g, eps, C);
    else
        k_rmsnorm_forward<1, T><<<(unsigned)n, THREADS, 0, d->stream>>>(y, s, x, g, eps, C);
    launched(d, "rmsnorm_forward");
}

extern "C" void cuda_rmsnorm_forward(const struct ops_context *c, act *y, real *s, const real *x, const real *g, real eps, size_t n, size_t C)
{
    if (act_in_halves(c))
        rmsnorm_forward(c->device, (bf16 *)y, s, x, g, eps, n, C);
    else
        rmsnorm_forward(c->device, y, s, x, g, eps, n, C);
}

template <int V, class T>
__global__ void __launch_bounds__(THREADS) k_rmsnorm_backward(float *dx, const T *dy, const float *x, const float *g, const float *s, size_t C)
{
    size_t row = blockIdx.x;
    x += row * C;
    dy += row * C;
    dx += row * C;
    float scale = s[row], dot = 0;
    for (size_t j = threadIdx.x * V; j < C; j += THREADS * V) {
        floats<V> a = load<V>(x + j), b = load<V>(g + j), d = load<V>(dy + j);
        for (int k = 0; k < V; k++)
            dot += b.v[k] * d.v[k] * a.v[k];
    }
    float common = scale * scale * scale * (block_sum(dot) / (float)C);
    for (size_t j = threadIdx.x * V; j < C; j += THREADS * V) {
        floats<V> a = load<V>(x + j), b = load<V>(g + j), d = load<V>(dy + j), sum = load<V>(dx + j);
        for (int k = 0; k < V; k++)
            sum.v[k] += scale * b.v[k] * d.v[k] - a.v[k] * common;
        store<V>(dx + j, sum);
    }
}

/* dg: a thread a column. */
template <class T> __global__ void __launch_bounds__(THREADS) k_rmsnorm_dg(float *dg, const T *dy, const float *x, const float *s, size_t n, size_t C)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= C)
        return;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)(real_of(dy[i * C + j]) * x[i * C + j] * s[i]);
    dg[j] += (float)sum;
}

template <class T>
static void rmsnorm_backward(struct device *d, real *dx, real *dg, const T *dy, const real *x, const real *g, const real *s, size_t n, size_t C)
{
    if (n == 0)
        return;
    if (in_fours(C, dx, dy, x, g))
        k_rmsnorm_backward<4, T><<<(unsigned)n, THREADS, 0, d->stream>>>(dx, dy, x, g, s, C);
    else
        k_rmsnorm_backward<1, T><<<(unsigned)n, THREADS, 0, d->stream>>>(dx, dy, x, g, s, C);
    launched(d, "rmsnorm_backward");
    if (!dg)
        return;
    k_rmsnorm_dg<T><<<blocks_for(C, THREADS), THREADS, 0, d->stream>>>(dg, dy, x, s, n, C);
    launched(d, "rmsnorm_backward");
}

extern "C" void cuda_rmsnorm_backward(const struct ops_context *c, real *dx, real *dg, const act *dy, const real *x, const real *g, const real *s,
                                      size_t n, size_t C)
{
    if (act_in_halves(c))
        rmsnorm_backward(c->device, dx, dg, (const bf16 *)dy, x, g, s, n, C);
    else
        rmsnorm_backward(c->device, dx, dg, dy, x, g, s, n, C);
}

/* ---- RoPE ---- */

/* Sine and cosine of a position: the angle in double less whole quarters of a turn, then the polynomials of Cephes' sinf and cosf on [-pi/4, pi/4].
 * The library's sinf would be off by pairs a unit of the last place of the ANGLE, which at position 100000 is 0.004. */
__device__ static inline void sine_cosine(double angle, float *sine, float *cosine)
{
    double quarters = rint(angle * 0.63661977236758134308);
    int q = (int)(long long)quarters & 3;
    float r = (float)(fma(quarters, -6.12323399573676603587e-17, fma(quarters, -1.57079632679489655800, angle))), z = r * r;
    float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
    float c = 1 - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    *sine = q == 0 ? s : q == 1 ? c : q == 2 ? -s : -c;
    *cosine = q == 0 ? c : q == 1 ? -s : q == 2 ? -c : s;
}

__global__ void __launch_bounds__(THREADS) k_rope_angles(float *angles, const int32_t *positions, const float *inv_freq, float scale, size_t n, size_t pairs)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * pairs)
        return;
    size_t row = i / pairs, j = i % pairs;
    float sine, cosine;
    sine_cosine((double)positions[row] * (double)inv_freq[j], &sine, &cosine);
    angles[row * 2 * pairs + j] = scale * sine;
    angles[row * 2 * pairs + pairs + j] = scale * cosine;
}

extern "C" void cuda_rope_angles(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D)
{
    if (n == 0)
        return;
    k_rope_angles<<<blocks_for(n * (D / 2), THREADS), THREADS, 0, c->device->stream>>>(angles, positions, inv_freq, scale, n, D / 2);
    launched(c->device, "rope_angles");
}

/* A thread a pair, `each` blocks a row; sign is -1 for backward. */
template <class T> __global__ void __launch_bounds__(THREADS) k_rope(T *x, const float *angles, unsigned each, unsigned heads, unsigned pairs, float sign)
{
    unsigned i = blockIdx.x % each * THREADS + threadIdx.x, head = i / pairs, j = i % pairs;
    size_t row = blockIdx.x / each;
    if (head >= heads)
        return;
    angles += row * 2 * pairs + j;
    float sine = sign * angles[0], cosine = angles[pairs];
    T *p = x + (row * heads + head) * 2 * pairs + j;
    float a = real_of(p[0]), b = real_of(p[pairs]);
    put(p, a * cosine - b * sine);
    put(p + pairs, b * cosine + a * sine);
}

template <class T> static void rope(struct device *d, T *x, const real *angles, size_t n, size_t heads, size_t D, bool backward)
{
    if (n == 0)
        return;
    unsigned each = blocks_for(heads * (D / 2), THREADS);
    k_rope<T><<<(unsigned)n * each, THREADS, 0, d->stream>>>(x, angles, each, (unsigned)heads, (unsigned)(D / 2), backward ? -1.f : 1.f);
    launched(d, "rope");
}

extern "C" void cuda_rope(const struct ops_context *c, act *x, const real *angles, size_t n, size_t heads, size_t D, bool backward)
{
    if (act_in_halves(c))
        rope(c->device, (bf16 *)x, angles, n, heads, D, backward);
    else
        rope(c->device, x, angles, n, heads, D, backward);
}

/* ---- SwiGLU, addition ---- */

/* silu(z) = z sig(z); where e^-z is infinite, sig is 0. */
__device__ static inline float sigmoid(float z)
{
    return 1 / (1 + expf(-z));
}

template <int V, class T> __global__ void __launch_bounds__(THREADS) k_swiglu_forward(T *y, const T *gate, const T *up, size_t n)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n)
        return;
    floats<V> z = load<V>(gate + i), u = load<V>(up + i);
    for (int k = 0; k < V; k++)
        z.v[k] = z.v[k] * sigmoid(z.v[k]) * u.v[k];
    store<V>(y + i, z);
}

template <class T> static void swiglu_forward(struct device *d, T *y, const T *gate, const T *up, size_t n)
{
    if (n == 0)
        return;
    if (in_fours(n, y, gate, up))
        k_swiglu_forward<4, T><<<blocks_for(n, 4 * THREADS), THREADS, 0, d->stream>>>(y, gate, up, n);
    else
        k_swiglu_forward<1, T><<<blocks_for(n, THREADS), THREADS, 0, d->stream>>>(y, gate, up, n);
    launched(d, "swiglu_forward");
}

extern "C" void cuda_swiglu_forward(const struct ops_context *c, act *y, const act *gate, const act *up, size_t n)
{
    if (act_in_halves(c))
        swiglu_forward(c->device, (bf16 *)y, (const bf16 *)gate, (const bf16 *)up, n);
    else
        swiglu_forward(c->device, y, gate, up, n);
}

/* Outputs may lie in the inputs: a thread reads its elements, then writes them. */
template <int V, class T> __global__ void __launch_bounds__(THREADS) k_swiglu_backward(T *dgate, T *dup, const T *dy, const T *gate, const T *up, size_t n)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n)
        return;
    floats<V> z = load<V>(gate + i), u = load<V>(up + i), d = load<V>(dy + i);
    for (int k = 0; k < V; k++) {
        float s = sigmoid(z.v[k]), a = z.v[k], b = d.v[k];
        z.v[k] = b * u.v[k] * s * (1 + a * (1 - s));
        u.v[k] = b * a * s;
    }
    store<V>(dgate + i, z);
    store<V>(dup + i, u);
}

template <class T> static void swiglu_backward(struct device *d, T *dgate, T *dup, const T *dy, const T *gate, const T *up, size_t n)
{
    if (n == 0)
        return;
    if (in_fours(n, dgate, dup, dy, gate, up))
        k_swiglu_backward<4, T><<<blocks_for(n, 4 * THREADS), THREADS, 0, d->stream>>>(dgate, dup, dy, gate, up, n);
    else
        k_swiglu_backward<1, T><<<blocks_for(n, THREADS), THREADS, 0, d->stream>>>(dgate, dup, dy, gate, up, n);
    launched(d, "swiglu_backward");
}

extern "C" void cuda_swiglu_backward(const struct ops_context *c, act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n)
{
    if (act_in_halves(c))
        swiglu_backward(c->device, (bf16 *)dgate, (bf16 *)dup, (const bf16 *)dy, (const bf16 *)gate, (const bf16 *)up, n);
    else
        swiglu_backward(c->device, dgate, dup, dy, gate, up, n);
}

template <int V> __global__ void __launch_bounds__(THREADS) k_add(float *y, const float *x, size_t n)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n)
        return;
    floats<V> a = load<V>(y + i), b = load<V>(x + i);
    for (int k = 0; k < V; k++)
        a.v[k] += b.v[k];
    store<V>(y + i, a);
}

extern "C" void cuda_add(const struct ops_context *c, real *y, const real *x, size_t n)
{
    if (n == 0)
        return;
    if (in_fours(n, y, x))
        k_add<4><<<blocks_for(n, 4 * THREADS), THREADS, 0, c->device->stream>>>(y, x, n);
    else
        k_add<1><<<blocks_for(n, THREADS), THREADS, 0, c->device->stream>>>(y, x, n);
    launched(c->device, "add");
}

__global__ void __launch_bounds__(THREADS) k_add_squares(float *y, const float *x, float divisor, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = __fadd_rn(y[i], __fmul_rn(x[i], x[i]) / divisor); /* the CPU's roundings */
}

extern "C" void cuda_add_squares(const struct ops_context *c, real *y, const real *x, real divisor, size_t n)
{
    if (n == 0)
        return;
    k_add_squares<<<blocks_for(n, THREADS), THREADS, 0, c->device->stream>>>(y, x, divisor, n);
    launched(c->device, "add_squares");
}

/* ---- bf16 ---- */

__global__ void __launch_bounds__(THREADS) k_to_bf16(uint16_t *to, const float *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        to[i] = bf16_of(x[i]);
}

__global__ void __launch_bounds__(THREADS) k_from_bf16(float *y, const uint16_t *from, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = f32_of_bf16(from[i]);
}

extern "C" void cuda_to_bf16(const struct ops_context *c, uint16_t *to, const real *x, size_t n)
{
    if (n == 0)
        return;
    k_to_bf16<<<blocks_for(n, THREADS), THREADS, 0, c->device->stream>>>(to, x, n);
    launched(c->device, "to_bf16");
}

extern "C" void cuda_from_bf16(const struct ops_context *c, real *y, const uint16_t *from, size_t n)
{
    if (n == 0)
        return;
    k_from_bf16<<<blocks_for(n, THREADS), THREADS, 0, c->device->stream>>>(y, from, n);
    launched(c->device, "from_bf16");
}

/* ---- AdamW ---- */

/* What does not differ from element to element, rounded once from double. */
struct adamw_numbers {
    float grad_scale, beta1, beta2, one_less_beta1, one_less_beta2, decay;
    float step, root, eps; /* p -= step m / (root sqrt(v) + eps) */
};

__global__ void __launch_bounds__(THREADS) k_adamw(float *p, const float *g, float *m, float *v, struct adamw_numbers a, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    float gi = g[i] * a.grad_scale, mi = a.beta1 * m[i] + a.one_less_beta1 * gi, vi = a.beta2 * v[i] + a.one_less_beta2 * gi * gi;
    m[i] = mi;
    v[i] = vi;
    p[i] = p[i] * a.decay - a.step * mi / (a.root * sqrtf(vi) + a.eps);
}

extern "C" void cuda_adamw(const struct ops_context *c, const struct adamw_args *a)
{
    if (a->n == 0)
        return;
    double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr, t = (double)a->t;
    struct adamw_numbers k;
    k.grad_scale = a->grad_scale;
    k.beta1 = a->beta1;
    k.beta2 = a->beta2;
    k.one_less_beta1 = (float)(1 - beta1);
    k.one_less_beta2 = (float)(1 - beta2);
    k.decay = (float)(1 - lr * (double)a->weight_decay);
    k.step = (float)(lr / (1 - pow(beta1, t)));
    k.root = (float)(1 / sqrt(1 - pow(beta2, t)));
    k.eps = a->eps;
    k_adamw<<<blocks_for(a->n, THREADS), THREADS, 0, c->device->stream>>>(a->p, a->g, a->m, a->v, k, a->n);
    launched(c->device, "adamw");
}

/* ---- sum of squares: a fixed grid, then one block: the same bits on every card ---- */

enum { PARTS = 256 };

__global__ void __launch_bounds__(THREADS) k_squares(double *part, const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)PARTS * THREADS)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS) k_total(double *total, const double *part)
{
    double sum = block_sum(part[threadIdx.x]);
    if (threadIdx.x == 0)
        *total = sum;
}

extern "C" double cuda_sum_squares(const struct ops_context *c, const real *x, size_t n)
{
    struct device *d = c->device;
    double total = 0;
    k_squares<<<PARTS, THREADS, 0, d->stream>>>(d->results, x, n);
    launched(d, "sum_squares");
    if (d->where) /* there are no parts to add */
        return NAN;
    k_total<<<1, THREADS, 0, d->stream>>>(d->results + PARTS, d->results);
    launched(d, "sum_squares");
    if (d->where)
        return NAN;
    device_note(d, cudaMemcpyAsync(&total, d->results + PARTS, sizeof total, cudaMemcpyDeviceToHost, d->stream), "sum_squares");
    device_note(d, cudaStreamSynchronize(d->stream), "sum_squares");
    return d->where ? NAN : total;
}
