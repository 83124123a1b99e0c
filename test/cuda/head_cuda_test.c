/* The head's cross-entropy, the divergence of two sets of logits and salience on the CUDA table against the plain reference. */
#define MOST_V 9000
#include "on_device.h"

/* ---- cross-entropy ---- */

struct loss {
    double *nll;
    uint8_t *greedy;
    real *dx, *dW;
};

/* With W and x as bf16 holds them products are exact in both precisions, and logits off by gamma(C) sum |x||w| <= z_off; so is nll, but for the logarithm and
 * the sum (gamma(V / 512 + 22)).  dz = scale (p - [label]): p is off by 2 z_off + that, relative; bf16 rounds dz once (2^-8).  dx and dW: sums of those;
 * a dx in bf16 is rounded once, which costs 2^-8 of it and of its error. */
static void loss(enum format format, enum compute compute, size_t n, size_t C, size_t V)
{
    real *x = normal_halves(n * C, 1, 1), *W = normal_halves(V * C, 2, 0.2), *dW = normals(V * C, 3, 1);
    struct qmat q;
    encoded(&q, format, false, V, C, W);
    quant_decode_rows(&q, 0, V, W);
    bool halves = compute == COMPUTE_BF16, exact = format == FORMAT_BF16 || format == FORMAT_F32 || !halves;
    int32_t *labels = take(n * sizeof *labels);
    for (size_t i = 0; i < n; i++)
        labels[i] = i == 1 ? -1 : (int32_t)(rng_at(3, RNG_DATA_ORDER, 0, i) % V);
    labels[n - 1] = (int32_t)V - 1;
    struct loss want = {take(n * sizeof(double)), take(n), zeros(n * C), copied(dW, V * C, false)};
    struct head_args a = {.W = &q, .n = n, .x = x, .labels = labels, .nll = want.nll, .greedy = want.greedy, .dx = want.dx, .dW = want.dW, .scale = 0.01f};
    cpu.ops->head_loss(&cpu, &a);
    set_compute(compute);
    gpu.ops->scratch_size(&gpu, C, C, 32, n, V); /* no more than such a head wants of what lies there */
    struct qmat Q = up_matrix(&q);
    double *nll = (double *)(void *)up_nan(2 * n);
    struct head_args b = {.W = &Q, .n = n, .x = up_acts(x, n * C), .labels = UP(labels, n), .nll = nll, .greedy = (uint8_t *)up_nan(n), .dx = up_nan_acts(n * C),
                          .dW = UP(dW, V * C), .scale = 0.01f};
    gpu.ops->head_loss(&gpu, &b);
    nll = DOWN(nll, n);
    real *dx_size = zeros(n * C), *dW_size = copied(dW, V * C, true), *z = zeros(V);
    double product = exact ? 0 : HALF_UNIT, worst = 0; /* of W, rounded to bf16 */
    for (size_t i = 0; i < n; i++) {
        double z_off = 0, most = -INFINITY, sum = 0;
        for (size_t v = 0; v < V; v++) {
            double dot = 0, size = 0;
            for (size_t k = 0; k < C; k++) {
                dot += (double)x[i * C + k] * (double)W[v * C + k];
                size += fabs((double)x[i * C + k] * (double)W[v * C + k]);
            }
            z[v] = (real)dot;
            z_off = fmax(z_off, (gamma_of((double)C + 2) + product) * size);
            most = fmax(most, dot);
        }
        for (size_t v = 0; v < V; v++)
            sum += exp((double)z[v] - most);
        double off = 2 * z_off + gamma_of((double)V / 512 + 30) + 2 * UNIT * (fabs(most) + fabs(log(sum)) + 2);
        if (labels[i] < 0) {
            assert_true(nll[i] == 0);
            continue;
        }
        worst = fmax(worst, off);
        assert_true(fabs(nll[i] - want.nll[i]) <= off);
        for (size_t v = 0; v < V; v++) {
            double p = exp((double)z[v] - most) / sum, d = 0.01 * fabs(p - (v == (size_t)labels[i]));
            double d_off = 0.01 * p * off + d * ((halves ? HALF_UNIT : 0) + product + gamma_of((double)V + 4));
            for (size_t k = 0; k < C; k++) {
                dx_size[i * C + k] += (real)(d_off * fabs((double)W[v * C + k]));
                dW_size[v * C + k] += (real)(d_off * fabs((double)x[i * C + k]) / gamma_of((double)n + 4));
            }
        }
    }
    double store = halves ? HALF_UNIT : 0;
    check("dx", down_acts(b.dx, n * C), want.dx, dx_size, 1.01 * (1 + store), 2 + store / UNIT, n * C);
    check("dW", DOWN(b.dW, V * C), want.dW, dW_size, gamma_of((double)n + 4), 2, V * C);
    uint8_t *greedy = DOWN(b.greedy, n);
    for (size_t i = 0; exact && i < n; i++) /* no two logits of a row are so near that rounding decides */
        assert_int_equal(greedy[i], want.greedy[i]);
    assert_true(worst < 0.1);
}

static void cross_entropy(void **state)
{
    (void)state;
    loss(FORMAT_F32, COMPUTE_F32, 6, 32, 3001);
    loss(FORMAT_BF16, COMPUTE_BF16, 6, 32, 3001);
    loss(FORMAT_BF16, COMPUTE_F32, 5, 32, 701);
    loss(FORMAT_Q8_0, COMPUTE_BF16, 5, 32, 701);
    loss(FORMAT_Q8_0, COMPUTE_F32, 3, 32, 9000); /* two slabs */
    loss(FORMAT_F32, COMPUTE_BF16, 20, 8, 9000);
    loss(FORMAT_BF16, COMPUTE_BF16, 1025, 8, 40); /* two chunks */
}

/* dx of a head that is decoded in two slabs has the bits of that of the same head in bf16, which is read at once: sums are fp32, and rounded once.  x = 0 makes all of
 * dz the same bf16 of 1 / V, 2^-21 times a whole number, but for the label's, which is -1; with W of 1/2, 1, 3/2 every sum is a multiple of 2^-22 below 2: exact in any order.
 * All of p W comes to about 1 and the label's share to -1, so that a first slab rounded to bf16, by up to 2^-9, would show. */
static void slabs_are_added_in_fp32(void **state)
{
    (void)state;
    enum { V = 9000, C = 32 };
    const enum format formats[2] = {FORMAT_F32, FORMAT_BF16};
    real *W = zeros(V * C), *dx[2];
    int32_t label = V - 1;
    for (size_t i = 0; i < V * C; i++)
        W[i] = i / C == V - 1 ? 1 : 0.5f * (real)(1 + rng_at(3, RNG_DATA_ORDER, 0, i) % 3);
    set_compute(COMPUTE_BF16);
    for (int f = 0; f < 2; f++) {
        struct qmat q;
        encoded(&q, formats[f], false, V, C, W);
        struct qmat Q = up_matrix(&q);
        struct head_args a = {.W = &Q, .n = 1, .x = up_acts(zeros(C), C), .labels = UP(&label, 1), .dx = up_nan_acts(C), .scale = 1};
        gpu.ops->head_loss(&gpu, &a);
        dx[f] = down_acts(a.dx, C);
    }
    same("dx of slabs", dx[0], dx[1], C * sizeof(real));
}

/* Of two largest logits the first is the greedy one; nothing but the score is wanted. */
static void greedy_is_the_first_largest(void **state)
{
    (void)state;
    enum { V = 40, C = 8, N = 4 };
    struct qmat q;
    real *W = zeros(V * C), *x = zeros(N * C);
    for (int i = 0; i < N; i++)
        x[i * C] = 1;
    W[7 * C] = W[31 * C] = 2;
    int32_t labels[N] = {7, 31, 8, -1};
    encoded(&q, FORMAT_F32, false, V, C, W);
    struct qmat Q = up_matrix(&q);
    struct head_args a = {.W = &Q, .n = N, .x = up_acts(x, N * C), .labels = UP(labels, N), .greedy = (uint8_t *)up_nan(N), .scale = 1};
    gpu.ops->head_loss(&gpu, &a);
    uint8_t want[N] = {1, 0, 0, 0};
    same("greedy", DOWN(a.greedy, N), want, N);
}

/* A hidden state that is not a number gives a loss that is none: the run must see it. */
static void nan_is_seen(void **state)
{
    (void)state;
    enum { V = 40, C = 8 };
    struct qmat q;
    real *x = normals(C, 1, 1);
    x[3] = NAN;
    int32_t label = 5;
    encoded(&q, FORMAT_F32, false, V, C, normals(V * C, 2, 1));
    struct qmat Q = up_matrix(&q);
    struct head_args a = {.W = &Q, .n = 1, .x = up_acts(x, C), .labels = UP(&label, 1), .nll = (double *)(void *)up_nan(2), .scale = 1};
    gpu.ops->head_loss(&gpu, &a);
    double *nll = DOWN(a.nll, 1);
    assert_true(isnan(nll[0]));
}

/* ---- divergence ---- */

/* Terms are positive (head.cu): P and Q are off by exp's 4 u and u |z|, where z is its rounded argument, functions of t by 20 u; the logarithms of the
 * sums by eps = (4 + |z|) u, which shifts every t: to first order sum |P - Q| eps, at most sqrt(2 kl) eps (Pinsker) and 2 sqrt(2 jsd) eps.  The reference's
 * own sums have cancelling terms of doubles: 1e-14. */
static void divergence(void **state)
{
    (void)state;
    enum { N = 4, V = 3001 };
    real *p = normals(N * V, 1, 4), *q = normals(N * V, 2, 4);
    for (int v = 0; v < V; v++) {
        q[V + v] = p[V + v] + 1e-3f * q[V + v]; /* near each other: 1e-5 */
        q[2 * V + v] = p[2 * V + v];            /* equal */
        q[3 * V + v] = v == 17 ? 200 : -p[3 * V + v]; /* far: probabilities underflow */
    }
    double kl[N], jsd[N], lse[2 * N], *KL = (double *)(void *)up_nan(2 * N), *JSD = (double *)(void *)up_nan(2 * N), *LSE = (double *)(void *)up_nan(4 * N);
    real *P = UP(p, N * V), *Q = UP(q, N * V), *a = copied(p, N * V, false), *b = copied(q, N * V, false);
    gpu.ops->divergence(&gpu, P, Q, N, V, KL, JSD, LSE);
    cpu.ops->divergence(&cpu, a, b, N, V, kl, jsd, lse);
    KL = DOWN(KL, N), JSD = DOWN(JSD, N), LSE = DOWN(LSE, 2 * N);
    for (int i = 0; i < N; i++) {
        double most = 0;
        for (int v = 0; v < V; v++)
            most = fmax(most, fmax(fabs((double)p[i * V + v] - lse[2 * i]), fabs((double)q[i * V + v] - lse[2 * i + 1])));
        double eps = (4 + most) * UNIT, factor = (24 + most) * UNIT;
        assert_true(fabs(KL[i] - kl[i]) <= factor * kl[i] + 2 * eps * sqrt(2 * kl[i]) + 1e-14);
        assert_true(fabs(JSD[i] - jsd[i]) <= factor * jsd[i] + 4 * eps * sqrt(2 * jsd[i]) + 1e-14);
        assert_true(fabs(LSE[2 * i] - lse[2 * i]) <= eps && fabs(LSE[2 * i + 1] - lse[2 * i + 1]) <= eps);
    }
    assert_true(KL[2] == 0 && JSD[2] == 0);
}

/* ---- salience ---- */

/* Doubles throughout; only the order of sums differs. */
static void salience(void **state)
{
    (void)state;
    enum { OUT = 130, IN = 160 };
    struct qmat q;
    real *G = normals(OUT * IN, 2, 1), *F = copied(normals(OUT * IN, 3, 1), OUT * IN, true);
    encoded(&q, FORMAT_NF4, false, OUT, IN, normals(OUT * IN, 1, 0.1));
    struct qmat Q = up_matrix(&q);
    real *g = UP(G, OUT * IN), *f = UP(F, OUT * IN);
    for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_L2; kind++) {
        bool gradient = kind != SALIENCE_L1 && kind != SALIENCE_L2, fisher = kind == SALIENCE_PARAM_SECOND || kind == SALIENCE_PARAM_MIX;
        double rows[OUT], cols[IN];
        for (int i = 0; i < OUT; i++)
            rows[i] = 0.5;
        for (int j = 0; j < IN; j++)
            cols[j] = 0.25;
        double *ROWS = UP(rows, OUT), *COLS = UP(cols, IN);
        gpu.ops->salience(&gpu, (enum salience)kind, &Q, gradient ? g : NULL, fisher ? f : NULL, ROWS, COLS);
        cpu.ops->salience(&cpu, (enum salience)kind, &q, gradient ? G : NULL, fisher ? F : NULL, rows, cols);
        ROWS = DOWN(ROWS, OUT), COLS = DOWN(COLS, IN);
        for (int i = 0; i < OUT; i++)
            assert_true(fabs(ROWS[i] - rows[i]) <= 1e-13 * (fabs(rows[i]) + 10));
        for (int j = 0; j < IN; j++)
            assert_true(fabs(COLS[j] - cols[j]) <= 1e-13 * (fabs(cols[j]) + 10));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(cross_entropy), ON_DEVICE(slabs_are_added_in_fp32), ON_DEVICE(greedy_is_the_first_largest), ON_DEVICE(nan_is_seen), ON_DEVICE(divergence), ON_DEVICE(salience),
    };
    return cmocka_run_group_tests_name("head_cuda", tests, NULL, NULL);
}
