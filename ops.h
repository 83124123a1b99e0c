/* ops.h: the waist.  One documented function pointer per kernel; cpu/ (and later cuda/) fills the table.
 *
 * Letters: n rows (tokens, all sequences of a batch one after the other, no padding), C hidden width, H query heads, KV
 * key/value heads, D head size, F FFN width, V vocabulary, r LoRA rank.  Matrices are row-major; W[out, in] as in Hugging Face.
 * A gradient is `d` + the name.  Gradients of parameters (dW, dA, dB, dg, dbias) are ADDED to; gradients of
 * activations (dx, dq ...) are overwritten unless the slot says "+=".  NULL where a pointer is said optional means: not wanted.
 * Kernels cannot fail: shapes were checked when the plan was made.  Everything but scalars lives on the device.
 * Streams (the residual stream, its gradient), statistics and parameters are reals; what lies inside a layer between two kernels is an `act`.
 * Results do not depend on the number of threads: outputs are shared out in fixed tiles, a sum's order depends on its length. */
#ifndef VENEER_OPS_H
#define VENEER_OPS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/real.h"
#include "quant.h"

/* An activation inside a layer, or its gradient: a real.  In memory of a device whose context computes in bf16 or int8 it is a bf16, two bytes: half the memory, and what
 * products read without a copy.  Such memory is taken by act_bytes and indexed by act_at; only that device's kernels look inside. */
typedef real act;

/* A run of consecutive rows that is one sequence: row i attends to rows prefix_start .. prefix_start+prefix_len-1 (a shared
 * prefix, forward only) and then causally to rows start .. i. prefix_len is 0 in training. */
struct segment {
    int32_t start, len, prefix_start, prefix_len;
};

/* The adapter of one linear: y += s * B A dropout(x).  Hu et al. 2021 (arXiv:2106.09685). r == 0: none. */
struct lora_args {
    int32_t r;
    real s;        /* alpha / r, or alpha / sqrt(r) */
    const real *A; /* [r, in] */
    const real *B; /* [out, r] */
    real *dA, *dB; /* backward, added to */
    real *h;       /* [n, r] = dropout(x) A^T: written by forward, read by backward (caller keeps it) */
    uint32_t *mask; /* [n, mask_words(in)] what dropout keeps, bit col % 32 of word col / 32: likewise; only needed when dropout > 0 */
    float dropout; /* 0: none.  Element (row, col) is kept when rng_at(seed, RNG_DROPOUT, step, stream_base + row*in + col) >= p * 2^32 */
    uint64_t seed;
    uint32_t step;
    uint64_t index0;
};

static inline size_t mask_words(size_t in)
{
    return (in + 31) / 32;
}

struct linear_args {
    const struct qmat *W;  /* [out, in], any format */
    const struct qmat *next; /* what is multiplied after W: its memory may be asked for ahead; optional */
    const real *bias;      /* [out], optional */
    struct lora_args lora; /* r = 0: none */
    size_t n;
    const act *x;          /* [n, in] */
    act *y;                /* forward: [n, out]; NULL: only lora.h is wanted (a layer computed again for its backward) */
    const act *dy;         /* backward: [n, out] */
    bool real_y;           /* y and dy are reals whatever an act is: a stream, logits */
    act *dx;               /* backward: [n, in], optional; += when dx_add */
    bool dx_add;
    real *dW;              /* backward: [out, in], optional (full training, importance) */
    real *dbias;           /* backward: [out], optional */
};

enum { LINEAR_GROUP = 3 };

struct attention_args {
    const struct segment *segments;
    size_t n_segments;
    size_t n;             /* rows in all */
    int32_t H, KV, D;     /* H % KV == 0; query head h reads KV head h / (H/KV) */
    const act *q, *k, *v; /* [n, H*D], [n, KV*D], [n, KV*D], after RoPE */
    act *out;              /* [n, H*D] */
    real *lse;             /* [n, H] log-sum-exp of the scores: forward writes, backward reads */
    const act *dout;
    act *dq, *dk, *dv;
};

/* One sequence that is being decoded: n new rows at positions past .. past+n-1.  The caches hold the rows of each KV head one after the other, so
 * that decoding reads them as they lie: as reals (FORMAT_F32), or rounded to f16 (FORMAT_F16). */
struct decode_args {
    act *out;              /* [n, H*D] */
    const act *q;          /* [n, H*D], after RoPE */
    const act *k, *v;      /* [n, KV*D], k after RoPE: what attention_keep puts into the cache */
    void *k_cache, *v_cache; /* [KV, capacity, D] */
    enum format cache_type;
    size_t n, past, capacity;
    int32_t H, KV, D;
};

/* Bytes of one of its numbers. */
static inline size_t cache_number_bytes(enum format cache_type)
{
    return cache_type == FORMAT_F16 ? sizeof(uint16_t) : sizeof(real);
}

/* Cross-entropy through the head in chunks of rows; logits of a chunk exist only inside. */
struct head_args {
    const struct qmat *W;  /* [V, C]: lm_head, or the embedding when tied */
    size_t n;
    const act *x;          /* [n, C], after the final norm */
    const int32_t *labels; /* [n]: the token that row predicts, or -1: row not computed */
    double *nll;           /* [n] nats, 0 where label is -1; optional */
    uint8_t *greedy;       /* [n] 1 when the label is the (first) largest logit; optional */
    act *dx;               /* [n, C], overwritten (0 for unlabelled rows) with scale * d(sum nll)/dx; optional */
    real *dW;              /* [V, C], added to; optional */
    real scale;
};

/* The next token.  z: the logits, a NaN counting as -infinity; equal ones rank by id.
 * temperature not above 0, or a largest logit that is infinite: the first largest.  Else with w_v = exp((z_v - max z) / temperature): of the top_k largest (0 or less: all) the
 * fewest, largest first, whose w reach top_p of the sum of theirs, at least one; of these the first, by id, at which the running sum of w exceeds u times
 * the sum of theirs.  Holtzman et al. 2019 (arXiv:1904.09751).
 * w is a whole number, 2^SAMPLE_BITS for the largest, made of single operations that every machine rounds alike (cpu/sample.h): the same token on every level, for
 * any number of threads and on a device.  What weighs less than half, 5e-10 of the largest, weighs nothing. */
enum { SAMPLE_BITS = 30 };

struct sample_args {
    const real *logits; /* [V] */
    size_t V;           /* 1 or more */
    double temperature;
    int32_t top_k;
    double top_p, u; /* u in [0, 1) */
    int32_t *token;  /* [1] */
};

/* w = 2^(scale (z - max z)).  Finite, so that the largest weighs 1 however cold. */
static inline real sample_scale(double temperature)
{
    double scale = 1.4426950408889634 / temperature;
    return scale < 1e38 ? (real)scale : (real)1e38;
}

enum salience { SALIENCE_VECTORIZE, SALIENCE_PARAM_FIRST, SALIENCE_PARAM_SECOND, SALIENCE_PARAM_MIX, SALIENCE_L1, SALIENCE_L2 };

struct adamw_args {
    size_t n;
    real *p;
    const real *g;
    real *m, *v;
    real grad_scale; /* clipping: g is multiplied by it */
    real lr, beta1, beta2, eps, weight_decay;
    int64_t t; /* step from 1 */
};

/* What products are computed in.  bf16: both factors rounded to bf16, sums in fp32 (relative error of a product about 2.4e-3), where the CPU has such
 * instructions; else what it has that is at least as exact: with AVX2 fp32, and 16-bit fixed point (about 1e-4) where few rows meet 4-bit codes; else fp32.
 * int8: the fast mode for reading a prompt, never for training: forward products of 13 rows or more with frozen weights (nf4, int8,
 * int8_64, q4_0, q8_0) round x to 8 bits for each 64 columns (relative error of a product 6e-3 to 8e-3) where the CPU multiplies bytes; all else as bf16. */
enum compute { COMPUTE_F32, COMPUTE_BF16, COMPUTE_INT8 };

/* What a table's kernels share: threads and scratch memory (its sizes set by the table, counted like all memory). */
struct ops;
struct device;
struct ops_context {
    const struct ops *ops;
    struct device *device; /* cuda/device.h; NULL: the CPU */
    int threads;
    enum compute compute;
    real *scratch;    /* shared_n reals of all threads, then scratch_n of each */
    size_t shared_n, scratch_n;
};

/* Whether an act is a bf16, and its bytes. */
static inline bool act_in_halves(const struct ops_context *c)
{
    return c->device && c->compute != COMPUTE_F32;
}

static inline size_t act_bytes(const struct ops_context *c)
{
    return act_in_halves(c) ? sizeof(uint16_t) : sizeof(real);
}

/* Where element i of x lies; as writable as x is. */
static inline act *act_at(const struct ops_context *c, const act *x, size_t i)
{
    return (act *)((uintptr_t)x + i * act_bytes(c));
}

/* Table of kernels.  First argument: the context. */
struct ops {
    const char *name;
    /* Reals of scratch in all for c->threads threads, matrices up to max_out x max_in, heads of size D, up to T rows, vocabulary V; sets c->shared_n and
     * c->scratch_n. */
    size_t (*scratch_size)(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V);
    /* body(args), in which slots are called that each take little time: on the CPU threads stay awake for them. */
    void (*together)(const struct ops_context *c, void (*body)(void *args), void *args);

    /* y[i] = W[tokens[i]] */
    void (*embed_forward)(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y);
    /* dW[tokens[i]] += dy[i] */
    void (*embed_backward)(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy);

    /* y[i,c] = g[c] x[i,c] s[i],  s[i] = 1/sqrt(mean_c x^2 + eps).  y may be x where both are reals; s [n] is kept for backward. */
    void (*rmsnorm_forward)(const struct ops_context *c, act *y, real *s, const real *x, const real *g, real eps, size_t n,
                            size_t C);
    /* dx[i,c] += s g[c] dy - x s^3/C sum_c(g dy x);  dg[c] += sum_i dy x s (optional) */
    void (*rmsnorm_backward)(const struct ops_context *c, real *dx, real *dg, const act *dy, const real *x, const real *g,
                             const real *s, size_t n, size_t C);

    /* y = x W^T + bias + lora for `count` linears (at most LINEAR_GROUP) that read the same x: a[i].x and a[i].n are all alike. */
    void (*linear_forward)(const struct ops_context *c, const struct linear_args *a, size_t count);
    /* dx = dy W + s dropout'(dy B A);  dB += s dy^T h;  dA += s (dy B)^T dropout(x);  dW += dy^T x;  dbias += sum dy */
    void (*linear_backward)(const struct ops_context *c, const struct linear_args *a);

    /* angles[n, D]: of each row the sines of position * inv_freq[j], j < D/2, then the cosines, all times scale: so is what they rotate, forward and
     * backward (yarn's attention factor). */
    void (*rope_angles)(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D);
    /* Rotates pairs (j, j + D/2) of each head of x[n, heads*D] by these angles; backward: by the negative ones. */
    void (*rope)(const struct ops_context *c, act *x, const real *angles, size_t n, size_t heads, size_t D, bool backward);

    /* out = softmax(q k^T / sqrt(D)) v in blocks; T x T is never stored. */
    void (*attention_forward)(const struct ops_context *c, const struct attention_args *a);
    void (*attention_backward)(const struct ops_context *c, const struct attention_args *a);
    /* cache[g, past + i] = rows i of k and of v, head g: to nearest even in f16, what is too large as its largest number, 65504. */
    void (*attention_keep)(const struct ops_context *c, const struct decode_args *a);
    /* out of the new rows, whose own keys and values the cache holds already (attention_keep). */
    void (*attention_decode)(const struct ops_context *c, const struct decode_args *a);

    /* y = silu(gate) * up */
    void (*swiglu_forward)(const struct ops_context *c, act *y, const act *gate, const act *up, size_t n);
    /* dgate and dup may be dy's own memory or gate's and up's */
    void (*swiglu_backward)(const struct ops_context *c, act *dgate, act *dup, const act *dy, const act *gate,
                            const act *up, size_t n);
    void (*add)(const struct ops_context *c, real *y, const real *x, size_t n); /* y += x */
    void (*add_squares)(const struct ops_context *c, real *y, const real *x, real divisor, size_t n); /* y += x^2 / divisor */
    /* Reals that are kept for backward in half the memory: to[i] = bf16(x[i]), to nearest even; back exactly. */
    void (*to_bf16)(const struct ops_context *c, uint16_t *to, const real *x, size_t n);
    void (*from_bf16)(const struct ops_context *c, real *y, const uint16_t *from, size_t n);

    void (*head_loss)(const struct ops_context *c, const struct head_args *a);
    /* Of n rows of logits p[n, V] and q[n, V] (both overwritten), with P = softmax(p), Q = softmax(q), M = (P + Q) / 2, in nats:
     *     kl[i] = sum_v P (log P - log Q),   jsd[i] = sum_v P (log P - log M) / 2 + Q (log Q - log M) / 2.   Lin 1991, eq. 3.1 and 4.1.
     * lse[n, 2], optional: log sum_v exp(p_v), log sum_v exp(q_v), so that what either says of one token is known too. */
    void (*divergence)(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse);

    void (*sample)(const struct ops_context *c, const struct sample_args *a);

    /* Decoupled weight decay first: p -= lr wd p; then m, v and p -= lr mhat / (sqrt(vhat) + eps).  Loshchilov & Hutter, arXiv:1711.05101 */
    void (*adamw)(const struct ops_context *c, const struct adamw_args *a);
    double (*sum_squares)(const struct ops_context *c, const real *x, size_t n); /* in double, fixed chunks of 4096 */

    /* Element salience S of W[out, in] with gradient G and Fisher F (each optional where the kind does not need it), summed:
     * rows[out] += over inputs, cols[in] += over outputs; |sum S| is taken by the caller for VECTORIZE, sum |S| here else. */
    void (*salience)(const struct ops_context *c, enum salience kind, const struct qmat *W, const real *G, const real *F,
                     double *rows, double *cols);
};

/* ops->together where nothing is gained by it. */
static inline void ops_alone(const struct ops_context *c, void (*body)(void *args), void *args)
{
    (void)c;
    body(args);
}

/* The best table of this machine, or the plain reference when `reference` (or VENEER_CPU=ref). */
const struct ops *cpu_ops(bool reference);
/* VENEER_CPU names an instruction set: ref, plain, avx2, avx512, avx512_bf16, neon.  ERR_INPUT when there is none of that name or this CPU lacks it. */
enum status cpu_check(struct err *err);
/* Wakes the threads that kernels called from this thread will use, and makes `threads` the number for every parallel loop that names none.  OpenMP ends the program
 * when the system refuses a thread; here that is ERR_MEMORY. */
enum status cpu_threads(int threads, struct err *err);
/* The name of the level that runs. */
const char *cpu_level_name(void);
/* "f32", "bf16", "int8", or "auto": bf16 where that is faster on this CPU.  ERR_INPUT: another word. */
enum status compute_parse(const char *name, enum compute *compute, struct err *err);
/* What products are really computed in on this machine: "f32", "bf16", "int8", or "f32, few rows of 4 bits in 16-bit fixed point" (AVX2's place for bf16). */
const char *compute_name(enum compute compute);

#endif
