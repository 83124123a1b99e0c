/* sample.cu: the next token, drawn where its logits lie (ops.h, sample_args): one block, by radix selection; a number comes back and not V.
 *
 * Weights are whole numbers made as the CPU makes them (cpu/sample.h, word for word), so that sums are exact in any order and the token is the CPU's. */
#include "cuda/kernels.cuh"

enum { SAMPLE_THREADS = 1024, WARPS = SAMPLE_THREADS / 32, AT_ONCE = 8, DIGIT = 11, DIGITS = 1 << DIGIT, KEY = 32 };

typedef unsigned long long whole; /* sums of weights */

struct sample {
    const float *z;
    size_t V;
    bool greedy;
    float most, scale; /* most: found by the kernel */
    int32_t top_k;
    double top_p, u;
};

/* ---- numbers ---- */

__device__ static inline uint32_t weight_of(float z, const struct sample &a)
{
    float exponent = __fmul_rn(__fadd_rn(z, -a.most), a.scale), y = exponent > -32 ? exponent : -32.f;
    float biased = __fadd_rn(y, 12582912.f), f = __fadd_rn(y, -__fadd_rn(biased, -12582912.f)), power = 1.5403530e-4f;
    const float c[6] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.f};
#pragma unroll
    for (int i = 0; i < 6; i++)
        power = __fadd_rn(__fmul_rn(power, f), c[i]);
    uint32_t bits = __float_as_uint(power) + (__float_as_uint(biased) << 23) + ((uint32_t)SAMPLE_BITS << 23);
    return (uint32_t)__float2int_rz(__fadd_rn(__uint_as_float(bits), 0.5f));
}

/* In the order of floats; both zeros are one, what is no number is -infinity.  0 is nobody's. */
__device__ static inline uint32_t key_of(float z)
{
    uint32_t u = __float_as_uint(__fadd_rn(z == z ? z : -INFINITY, 0.f));
    return u >> 31 ? ~u : u | 0x80000000u;
}

__device__ static inline float float_of(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

__device__ static inline whole target_of(double top_p, whole all)
{
    double want = ceil(__dmul_rn(top_p, (double)all));
    if (!(top_p < 1) || want >= (double)all)
        return all;
    return want > 1 ? (whole)want : 1;
}

__device__ static inline whole point_of(double u, whole all)
{
    double at = __dmul_rn(u, (double)all);
    if (at >= (double)all)
        return all - 1;
    return at > 0 ? (whole)at : 0;
}

/* ---- over the block ---- */

/* each(v, z[v]) of this thread's tokens: AT_ONCE of them are waited for together.  Behind the last come some of -infinity, which weigh nothing and are never first. */
template <class Each> __device__ static inline void each_token(const struct sample &a, Each each)
{
    for (size_t v = threadIdx.x; v < a.V; v += AT_ONCE * SAMPLE_THREADS) {
        float z[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            z[i] = v + i * SAMPLE_THREADS < a.V ? a.z[v + i * SAMPLE_THREADS] : -INFINITY;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            each(v + i * SAMPLE_THREADS, z[i]);
    }
}

/* The sum over the lanes up to this one. */
__device__ static inline whole warp_up_to(whole x)
{
    int lane = threadIdx.x & 31;
    for (int o = 1; o < 32; o <<= 1) {
        whole below = __shfl_up_sync(0xffffffffu, x, o);
        x += lane >= o ? below : 0;
    }
    return x;
}

/* The sum over the threads before this one. */
__device__ static whole block_before(whole x)
{
    __shared__ whole part[WARPS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    whole up_to = warp_up_to(x);
    __syncthreads();
    if (lane == 31)
        part[warp] = up_to;
    __syncthreads();
    whole warps = warp_up_to(part[lane]), before = __shfl_sync(0xffffffffu, warps, warp > 0 ? warp - 1 : 0);
    return up_to - x + (warp > 0 ? before : 0);
}

__device__ static inline whole warp_largest(whole x)
{
    for (int o = 16; o > 0; o >>= 1) {
        whole other = __shfl_xor_sync(0xffffffffu, x, o);
        x = other > x ? other : x;
    }
    return x;
}

__device__ static whole block_largest(whole x)
{
    __shared__ whole part[WARPS];
    x = warp_largest(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        part[threadIdx.x >> 5] = x;
    __syncthreads();
    return warp_largest(part[threadIdx.x & 31]);
}

/* The largest key of this thread's tokens and, below it, the first that has it, the other way round. */
__device__ static inline whole first_largest(const struct sample &a)
{
    whole best = 0;
    each_token(a, [&](size_t v, float z) {
        whole here = (whole)key_of(z) << 32 | (uint32_t)~v;
        best = here > best ? here : best;
    });
    return best;
}

/* The largest key, of 16 bits, that n threads' own reach: the n largest tokens reach it too.  0: there are not so many threads. */
__device__ static inline uint32_t bound_of(uint32_t own, uint32_t n)
{
    uint32_t bound = 0;
    for (uint32_t bit = 1u << 31; bit > 0xffff; bit >>= 1)
        if (block_sum(own >= (bound | bit) ? 1u : 0u) >= n)
            bound |= bit;
    return bound;
}

/* ---- cuts ---- */

/* Tokens above the key stay, and the first `kept` of those that have it, which weigh `each`; `above`: the sum over the former. */
struct cut {
    uint32_t key, each;
    whole kept, above;
};

/* Sums by digit.  Two words each, for shared memory adds words by themselves, and none longer without trying again. */
struct masses {
    uint32_t low[DIGITS], high[DIGITS];
};

__device__ static inline void mass_add(struct masses *m, uint32_t digit, uint32_t w)
{
    if (atomicAdd(&m->low[digit], w) + w < w)
        atomicAdd(&m->high[digit], 1u);
}

__device__ static inline whole mass_at(const struct masses *m, uint32_t digit)
{
    return (whole)m->high[digit] << 32 | m->low[digit];
}

/* Where, from the highest digit down, the sum of mass reaches `rest`; before: the sum above it.  Every thread looks at two digits. */
struct reached {
    whole digit, before;
};

__device__ static struct reached reach(const struct masses *mass, whole rest)
{
    __shared__ struct reached found;
    uint32_t high = DIGITS - 1 - 2 * threadIdx.x;
    whole first = mass_at(mass, high), second = mass_at(mass, high - 1), before = block_before(first + second);
    if (before < rest && rest <= before + first)
        found = reached{high, before};
    else if (before + first < rest && rest <= before + first + second)
        found = reached{high - 1, before + first};
    __syncthreads();
    return found;
}

/* Where the weights of the largest numbers, none more than `most`, reach `rest`: no more than the sum of those that are not below a key. */
__device__ static struct cut find_cut(const struct sample &a, uint32_t from, uint32_t most, whole rest)
{
    __shared__ struct masses mass;
    struct cut cut = {0, 0, 0, 0};
    for (int shift = KEY - DIGIT, known = KEY; known > 0; known = shift, shift = shift > DIGIT ? shift - DIGIT : 0) {
        for (int d = threadIdx.x; d < DIGITS; d += SAMPLE_THREADS)
            mass.low[d] = mass.high[d] = 0;
        __syncthreads();
        each_token(a, [&](size_t, float z) {
            uint32_t key = key_of(z), w;
            if (key < from || (uint64_t)key >> known != (uint64_t)cut.key >> known || (w = weight_of(z, a)) == 0)
                return;
            mass_add(&mass, key >> shift & (DIGITS - 1), w < most ? w : most);
        });
        __syncthreads();
        struct reached r = reach(&mass, rest);
        rest -= r.before;
        cut.above += r.before;
        cut.key |= (uint32_t)r.digit << shift;
    }
    cut.each = weight_of(float_of(cut.key), a);
    uint32_t counted = cut.each < most ? cut.each : most;
    cut.kept = (rest + counted - 1) / counted;
    return cut;
}

/* The sum over tokens that are not below a key, each weighing no more than `most`. */
__device__ static whole sum_from(const struct sample &a, uint32_t from, uint32_t most)
{
    whole sum = 0;
    each_token(a, [&](size_t, float z) {
        uint32_t w = key_of(z) >= from ? weight_of(z, a) : 0;
        sum += w < most ? w : most;
    });
    return block_sum(sum);
}

/* ---- the draw ---- */

/* What stays of one token: equal: it has the cut's key. */
struct share {
    whole sum, equal;
};

__device__ static inline struct share share_of(const struct sample &a, const struct cut &cut, size_t v, size_t end)
{
    if (v >= end)
        return share{0, 0};
    uint32_t key = key_of(a.z[v]);
    return share{key > cut.key ? weight_of(a.z[v], a) : 0, key == cut.key};
}

__device__ static inline whole least_of(whole a, whole b)
{
    return a < b ? a : b;
}

/* The first token in v .. end-1 at which the running sum exceeds point, by one warp: `equal` of them still stay. */
__device__ static void draw_in(const struct sample &a, const struct cut &cut, size_t v, size_t end, whole point, whole equal, int32_t *token)
{
    int lane = threadIdx.x & 31;
    for (; v < end; v += 32) {
        struct share s = share_of(a, cut, v + lane, end);
        whole rank = warp_up_to(s.equal), up_to = warp_up_to(s.sum + (s.equal && rank <= equal ? cut.each : 0));
        unsigned past = __ballot_sync(0xffffffffu, up_to > point);
        if (past) {
            if (lane == __ffs(past) - 1)
                *token = (int32_t)(v + lane);
            return;
        }
        point -= __shfl_sync(0xffffffffu, up_to, 31);
        equal -= least_of(equal, __shfl_sync(0xffffffffu, rank, 31));
    }
}

/* Each warp sums up a run of neighbours; the one whose run goes past the point looks closer. */
__device__ static void draw(const struct sample &a, const struct cut &cut, int32_t *token)
{
    __shared__ struct share part[WARPS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, chosen = 0;
    size_t run = (a.V + SAMPLE_THREADS - 1) / SAMPLE_THREADS * 32, begin = warp * run, end = begin + run < a.V ? begin + run : a.V;
    struct share sum = {0, 0};
    for (size_t v = begin + lane; v < end; v += 32) {
        struct share s = share_of(a, cut, v, end);
        sum.sum += s.sum;
        sum.equal += s.equal;
    }
    sum.sum = warp_sum(sum.sum);
    sum.equal = warp_sum(sum.equal);
    if (lane == 0)
        part[warp] = sum;
    __syncthreads();
    whole point = point_of(a.u, cut.above + cut.kept * cut.each), equal = cut.kept;
    for (; chosen < WARPS - 1; chosen++) {
        whole here = least_of(equal, part[chosen].equal), all = part[chosen].sum + here * cut.each;
        if (point < all)
            break;
        point -= all;
        equal -= here;
    }
    if (warp == chosen)
        draw_in(a, cut, begin, end, point, equal, token);
}

/* own: the largest key of this thread's tokens. */
__device__ static void draw_by_weight(const struct sample &a, uint32_t own, int32_t *token)
{
    struct cut cut = {0, 0, 0, 0};
    if (a.top_k > 0) {
        uint32_t bound = bound_of(own, (uint32_t)a.top_k);
        if (sum_from(a, bound, 1) >= (whole)a.top_k)
            cut = find_cut(a, bound, 1, (whole)a.top_k);
    }
    cut.above = sum_from(a, cut.key + 1, UINT32_MAX);
    whole all = cut.above + cut.kept * cut.each, target = target_of(a.top_p, all);
    if (target < all)
        cut = find_cut(a, cut.key, UINT32_MAX, target);
    draw(a, cut, token);
}

__global__ void __launch_bounds__(SAMPLE_THREADS) k_sample(struct sample a, int32_t *token)
{
    whole own = first_largest(a), first = block_largest(own);
    a.most = float_of((uint32_t)(first >> 32));
    if (!a.greedy && fabsf(a.most) < INFINITY)
        draw_by_weight(a, (uint32_t)(own >> 32), token);
    else if (threadIdx.x == 0)
        *token = (int32_t)~(uint32_t)first;
}

extern "C" void cuda_sample(const struct ops_context *c, const struct sample_args *a)
{
    struct sample s = {a->logits, a->V, !(a->temperature > 0), 0, sample_scale(a->temperature), a->top_k, a->top_p, a->u};
    k_sample<<<1, SAMPLE_THREADS, 0, c->device->stream>>>(s, a->token);
    launched(c->device, "sampling");
}
