/* head.cu: the head's cross-entropy in chunks of rows, the divergence of two sets of logits, salience.
 *
 * The logits of a chunk exist in fp32 while it is computed; with compute = bf16 their gradient is rounded to bf16 for its products.  A head that must be
 * decoded is decoded slab after slab, so that scratch does not grow with the vocabulary times the width. */
#include "cuda/gemm.cuh"

enum { LOSS_THREADS = 512 };

/* ---- one row's loss ---- */

struct loss_row {
    const int32_t *labels;
    double *nll;
    uint8_t *greedy;
    float scale;
};

/* nll, greedy; dz (may be z itself; NULL: not wanted) = scale (softmax(z) - [v = label]).  z is read twice: the running maximum and sum of Milakov and
 * Gimelshein 2018 (arXiv:1805.02867), then the gradient. */
template <class T> __global__ void __launch_bounds__(LOSS_THREADS) k_cross_entropy(T *dz, const float *z, struct loss_row a, size_t V)
{
    size_t row = blockIdx.x;
    int32_t label = a.labels[row];
    z += row * V;
    if (dz)
        dz += row * V;
    float most = -INFINITY, sum = 0, target = label >= 0 ? z[label] : 0, above = 0;
    for (size_t v = threadIdx.x; label >= 0 && v < V; v += LOSS_THREADS) {
        float x = z[v], next = fmaxf(most, x);
        sum = sum * expf(most - next) + expf(x - next); /* the first time: 0 * 0 */
        most = next;
        above += (v < (size_t)label ? !(x < target) : !(x <= target)) ? 1.f : 0.f;
    }
    float largest = block_max(most);
    float total = block_sum(most > -INFINITY ? sum * expf(most - largest) : sum); /* a thread that saw NaN alone hands it on */
    above = block_sum(above);
    float lse = largest + logf(total);
    if (threadIdx.x == 0 && a.nll)
        a.nll[row] = label >= 0 ? (double)lse - (double)target : 0;
    if (threadIdx.x == 0 && a.greedy)
        a.greedy[row] = label >= 0 && above == 0;
    for (size_t v = threadIdx.x; dz && v < V; v += LOSS_THREADS)
        put(dz + v, label >= 0 ? a.scale * (expf(z[v] - lse) - (v == (size_t)label ? 1.f : 0.f)) : 0.f);
}

/* ---- chunks ---- */

struct chunk {
    size_t row, n; /* rows of the batch */
    struct operand x, dz;
    float *z, *dx;         /* dx: NULL, or where slabs of it are added up */
    struct pieces scratch; /* what is left of it: slabs of W */
};

static void chunk_logits(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols, slab = slab_of(c, a->W);
    for (size_t v = 0; v < V; v += slab) {
        struct pieces p = k->scratch;
        size_t m = size_min(V - v, slab);
        struct product z = {false, true, k->n, m, C, 1, 0, k->x, weight_of(c, &p, a->W, v, m), {k->z + v, CUDA_R_32F, V}};
        multiply(c->device, &z);
    }
}

static void chunk_loss(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    bool wanted = a->dx || a->dW;
    struct loss_row row = {a->labels + k->row, a->nll ? a->nll + k->row : NULL, a->greedy ? a->greedy + k->row : NULL, a->scale};
    void *dz = wanted ? (void *)k->dz.at : NULL;
    if (c->device->where)
        return;
    if (in_halves(c))
        k_cross_entropy<bf16><<<(unsigned)k->n, LOSS_THREADS, 0, c->device->stream>>>((bf16 *)dz, k->z, row, a->W->rows);
    else
        k_cross_entropy<float><<<(unsigned)k->n, LOSS_THREADS, 0, c->device->stream>>>((float *)dz, k->z, row, a->W->rows);
    launched(c->device, "cross-entropy");
}

/* dx = dz W.  Of several slabs the sum is fp32 and rounded once. */
static void chunk_dx(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols, slab = slab_of(c, a->W);
    act *to = act_at(c, a->dx, k->row * C);
    struct result sum = k->dx ? result{k->dx, CUDA_R_32F, C} : result{to, act_type(c), C};
    for (size_t v = 0; v < V; v += slab) {
        struct pieces p = k->scratch;
        size_t m = size_min(V - v, slab);
        struct product dx = {false, false, k->n, C, m, 1, v > 0 ? 1.f : 0.f, operand_at(k->dz, 0, v), weight_of(c, &p, a->W, v, m), sum};
        multiply(c->device, &dx);
    }
    if (k->dx)
        cuda_to_bf16(c, (uint16_t *)to, k->dx, k->n * C);
}

static void chunk_gradients(const struct ops_context *c, const struct head_args *a, const struct chunk *k)
{
    size_t V = a->W->rows, C = a->W->cols;
    if (a->dx)
        chunk_dx(c, a, k);
    if (!a->dW)
        return;
    struct product dW = {true, false, V, C, k->n, 1, 1, k->dz, k->x, {a->dW, CUDA_R_32F, C}}; /* dW += dz^T x */
    multiply(c->device, &dW);
}

extern "C" void cuda_head_loss(const struct ops_context *c, const struct head_args *a)
{
    size_t V = a->W->rows, C = a->W->cols, rows = chunk_of(a->n, V);
    for (size_t i = 0; i < a->n; i += rows) {
        struct chunk k = {};
        k.row = i;
        k.n = size_min(a->n - i, rows);
        k.scratch = pieces_of(c);
        k.z = (float *)piece_take(&k.scratch, k.n * V * sizeof(float));
        k.dz = operand{k.z, CUDA_R_32F, V};
        if (in_halves(c))
            k.dz = operand{piece_take(&k.scratch, k.n * V * sizeof(uint16_t)), CUDA_R_16BF, V};
        k.x = operand{act_at(c, a->x, i * C), act_type(c), C};
        if (a->dx && act_in_halves(c) && slab_of(c, a->W) < V)
            k.dx = (float *)piece_take(&k.scratch, k.n * C * sizeof *k.dx);
        chunk_logits(c, a, &k);
        chunk_loss(c, a, &k);
        chunk_gradients(c, a, &k);
    }
}

/* ---- divergence ---- */

/* log sum exp of a row; its sum of floats is of doubles, and its logarithm too: differences of two such numbers matter. */
__device__ static inline double log_sum_exp(const float *z, size_t V)
{
    float most = -INFINITY;
    double sum = 0;
    for (size_t v = threadIdx.x; v < V; v += LOSS_THREADS)
        most = fmaxf(most, z[v]);
    most = block_max(most);
    for (size_t v = threadIdx.x; v < V; v += LOSS_THREADS)
        sum += (double)expf(z[v] - most);
    return (double)most + log(block_sum(sum));
}

/* ((1 + d) log(1 + d) + (1 - d) log(1 - d)) / 2, |d| <= 1: its series where the two terms would cancel (the next term is below 2^-24 of the sum). */
__device__ static inline float mixture(float d)
{
    float s = d * d;
    if (s < 0.0625f)
        return 0.5f * s * (1 + s * (1 / 6.f + s * (1 / 15.f + s * (1 / 28.f + s * (1 / 45.f)))));
    float up = 1 + d, down = 1 - d;
    return 0.5f * ((up > 0 ? up * log1pf(d) : 0) + (down > 0 ? down * log1pf(-d) : 0));
}

/* t - 1 + e^-t >= 0 */
__device__ static inline float excess(float t)
{
    if (fabsf(t) > 0.25f)
        return t + expm1f(-t);
    return t * t * (0.5f - t * (1 / 6.f - t * (1 / 24.f - t * (1 / 120.f - t * (1 / 720.f - t * (1 / 5040.f))))));
}

/* With t = log P - log Q:  kl = sum P t = sum P (t - 1 + e^-t), for both sum to 1: no term is negative, and an error of the logarithms of the sums, the same
 * for every t, counts only as much as P and Q differ.  Likewise (P - Q) / (P + Q) = tanh(t / 2) = d, P = M (1 + d), jsd = sum M mixture(d). */
__global__ void __launch_bounds__(LOSS_THREADS) k_divergence(const float *p, const float *q, size_t V, double *kl, double *jsd, double *lse)
{
    size_t row = blockIdx.x;
    p += row * V;
    q += row * V;
    double zp = log_sum_exp(p, V), zq = log_sum_exp(q, V), sum = 0, both = 0;
    for (size_t v = threadIdx.x; v < V; v += LOSS_THREADS) {
        double t = ((double)p[v] - (double)q[v]) - (zp - zq);
        float P = expf((float)((double)p[v] - zp)), Q = expf((float)((double)q[v] - zq));
        sum += t > -1 ? (double)P * (double)excess((float)t) : (double)P * (t - 1) + (double)Q; /* P e^-t, where it may be inf times 0 */
        both += (double)(0.5f * (P + Q) * mixture(tanhf(0.5f * (float)t)));
    }
    sum = block_sum(sum);
    both = block_sum(both);
    if (threadIdx.x != 0)
        return;
    kl[row] = sum;
    jsd[row] = both;
    if (lse) {
        lse[2 * row] = zp;
        lse[2 * row + 1] = zq;
    }
}

extern "C" void cuda_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse)
{
    if (n == 0)
        return;
    k_divergence<<<(unsigned)n, LOSS_THREADS, 0, c->device->stream>>>(p, q, V, kl, jsd, lse);
    launched(c->device, "divergence");
}

/* ---- salience ---- */

__device__ static inline double element(int kind, double w, double g, double f)
{
    switch (kind) {
    case SALIENCE_VECTORIZE: return w * g; /* summed with its sign */
    case SALIENCE_PARAM_FIRST: return fabs(w * g);
    case SALIENCE_PARAM_SECOND: return fabs(w * w * f);
    case SALIENCE_PARAM_MIX: return fabs(w * g - 0.5 * w * w * f);
    case SALIENCE_L1: return fabs(w);
    default: return w * w;
    }
}

struct salience_args {
    const float *W, *G, *F; /* [rows, in]; G and F may be NULL */
    int kind;
    size_t n, in;
};

__device__ static inline double element_at(const struct salience_args &a, size_t i)
{
    return element(a.kind, (double)a.W[i], a.G ? (double)a.G[i] : 0, a.F ? (double)a.F[i] : 0);
}

__global__ void __launch_bounds__(THREADS) k_salience_rows(double *rows, struct salience_args a)
{
    size_t row = blockIdx.x;
    double sum = 0;
    for (size_t j = threadIdx.x; j < a.in; j += THREADS)
        sum += element_at(a, row * a.in + j);
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        rows[row] += sum;
}

/* part[blockIdx.y, j] = sum over that run of rows */
__global__ void __launch_bounds__(THREADS) k_salience_parts(double *part, struct salience_args a)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x, run = (a.n + SALIENCE_PARTS - 1) / SALIENCE_PARTS, first = blockIdx.y * run;
    if (j >= a.in)
        return;
    double sum = 0;
    for (size_t i = first; i < first + run && i < a.n; i++)
        sum += element_at(a, i * a.in + j);
    part[blockIdx.y * a.in + j] = sum;
}

__global__ void __launch_bounds__(THREADS) k_salience_columns(double *cols, const double *part, size_t in)
{
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= in)
        return;
    double sum = 0;
    for (int k = 0; k < SALIENCE_PARTS; k++)
        sum += part[(size_t)k * in + j];
    cols[j] += sum;
}

extern "C" void cuda_salience(const struct ops_context *c, enum salience kind, const struct qmat *W, const real *G, const real *F, double *rows, double *cols)
{
    size_t in = W->cols, slab = W->format == FORMAT_F32 ? W->rows : (size_t)SLAB;
    struct device *d = c->device;
    struct ops_context exact = *c; /* W as it decodes, not rounded for a product */
    exact.compute = COMPUTE_F32;
    for (size_t o = 0; o < W->rows; o += slab) {
        struct pieces p = pieces_of(c);
        double *part = (double *)piece_take(&p, SALIENCE_PARTS * in * sizeof *part);
        size_t n = size_min(W->rows - o, slab);
        struct salience_args a = {(const float *)weight_of(&exact, &p, W, o, n).at, G ? G + o * in : NULL, F ? F + o * in : NULL, kind, n, in};
        if (d->where)
            return;
        k_salience_rows<<<(unsigned)n, THREADS, 0, d->stream>>>(rows + o, a);
        k_salience_parts<<<dim3(blocks_for(in, THREADS), SALIENCE_PARTS), THREADS, 0, d->stream>>>(part, a);
        k_salience_columns<<<blocks_for(in, THREADS), THREADS, 0, d->stream>>>(cols, part, in);
        launched(d, "salience");
    }
}
