/* The one-pass slots of the CUDA table against the plain reference: norms, RoPE, SwiGLU, additions, bf16, the embedding's gradient, AdamW, the sum of
 * squares; on odd shapes, on rows that may and may not be read four at a time. */
#include "on_device.h"

/* An act is stored once: in bf16 rounded by HALF_UNIT of itself, of what is off by less than a hundredth of it already; in u. */
static double stored(void)
{
    return act_in_halves(&gpu) ? 1.01 * HALF_UNIT / UNIT : 0;
}

/* ---- RMSNorm ---- */

/* Forward: the sum of squares is of ceil(C / 256) floats a thread and 16 additions of a tree, all positive: relative error gamma(C / 256 + 18), half of it
 * in its root, then root, division, and two products: 4 roundings. */
static void rmsnorm(enum compute compute, size_t n, size_t C)
{
    set_compute(compute);
    real *x = normals(n * C, 1, 2), *g = normals(C, 2, 1), *dy = normal_halves(n * C, 3, 1), *dx = normals(n * C, 4, 1), *dg = normals(C, 5, 1);
    real *y = zeros(n * C), *s = zeros(n), *Y = up_nan_acts(n * C), *S = up_nan(n), *X = UP(x, n * C), *G = UP(g, C), *DX = UP(dx, n * C), *DG = UP(dg, C);
    double chain = (double)C / 256 + 18;
    cpu.ops->rmsnorm_forward(&cpu, y, s, x, g, 1e-5f, n, C);
    gpu.ops->rmsnorm_forward(&gpu, Y, S, X, G, 1e-5f, n, C);
    check("rmsnorm", down_acts(Y, n * C), y, NULL, 0, chain / 2 + 6 + stored(), n * C);
    check("rmsnorm's scale", DOWN(S, n), s, NULL, 0, chain / 2 + 4, n);

    /* dx: its sum is of products with both signs, bounded by the reference on absolute values (where both terms add up); dg likewise */
    real *ax = copied(x, n * C, true), *ag = copied(g, C, true), *ady = copied(dy, n * C, true), *size = copied(dx, n * C, true), *dg_size = copied(dg, C, true);
    for (size_t i = 0; i < n; i++) {
        double sum = 0, si = (double)s[i];
        for (size_t j = 0; j < C; j++)
            sum += (double)ag[j] * (double)ady[i * C + j] * (double)ax[i * C + j];
        for (size_t j = 0; j < C; j++)
            size[i * C + j] += (real)(si * (double)ag[j] * (double)ady[i * C + j] + (double)ax[i * C + j] * si * si * si * sum / (double)C);
        for (size_t j = 0; j < C; j++)
            dg_size[j] += ady[i * C + j] * ax[i * C + j] * s[i];
    }
    S = UP(s, n);
    gpu.ops->rmsnorm_backward(&gpu, DX, DG, up_acts(dy, n * C), X, G, S, n, C);
    cpu.ops->rmsnorm_backward(&cpu, dx, dg, dy, x, g, s, n, C);
    check("rmsnorm's dx", DOWN(DX, n * C), dx, size, gamma_of(chain + 8), 1, n * C);
    check("rmsnorm's dg", DOWN(DG, C), dg, dg_size, gamma_of(4), 1, C);
}

static void rmsnorm_is_the_references(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        enum compute compute = i ? COMPUTE_BF16 : COMPUTE_F32;
        rmsnorm(compute, 33, 576);
        rmsnorm(compute, 3, 1030);
        rmsnorm(compute, 1, 1);
    }
}

/* y may be x, and dg is optional. */
static void rmsnorm_in_place(void **state)
{
    (void)state;
    size_t n = 5, C = 96;
    real *x = normals(n * C, 1, 2), *g = normals(C, 2, 1), *X = UP(x, n * C), *G = UP(g, C), *S = up_nan(n), *Y = up_nan(n * C), *DX = UP(x, n * C);
    gpu.ops->rmsnorm_forward(&gpu, Y, S, X, G, 1e-5f, n, C);
    gpu.ops->rmsnorm_backward(&gpu, DX, NULL, Y, X, G, S, n, C);
    gpu.ops->rmsnorm_forward(&gpu, X, S, X, G, 1e-5f, n, C);
    same("rmsnorm in place", DOWN(X, n * C), DOWN(Y, n * C), n * C * sizeof(real));
}

/* ---- RoPE ---- */

/* Angles: the reduced angle rounded to float (at most pi / 4: 2^-25) and polynomials that are good to one unit of the last place below 1: 2 u + u. */
static void rope(enum compute compute)
{
    enum { N = 7, HEADS = 3, D = 64 };
    set_compute(compute);
    int32_t positions[N] = {0, 1, 2, 3, 4095, 131071, 1000000};
    float inv_freq[D / 2];
    for (int j = 0; j < D / 2; j++)
        inv_freq[j] = (float)pow(10000, -2.0 * j / D);
    real *angles = zeros(N * D), *x = normal_halves(N * HEADS * D, 1, 1), *A = up_nan(N * D), *X = up_acts(x, N * HEADS * D);
    cpu.ops->rope_angles(&cpu, angles, positions, inv_freq, 1, N, D);
    gpu.ops->rope_angles(&gpu, A, UP(positions, N), UP(inv_freq, D / 2), 1, N, D);
    real *ones = zeros(N * D);
    for (int i = 0; i < N * D; i++)
        ones[i] = 1;
    check("angles", DOWN(A, N * D), angles, ones, 3 * UNIT, 1, N * D);
    A = UP(angles, N * D);
    real *size = copied(x, N * HEADS * D, true); /* two products and their sum: 3 roundings of |a| + |b| */
    for (int i = 0; i < N * HEADS; i++)
        for (int j = 0; j < D / 2; j++)
            size[i * D + j] = size[i * D + D / 2 + j] = size[i * D + j] + size[i * D + D / 2 + j];
    cpu.ops->rope(&cpu, x, angles, N, HEADS, D, false);
    gpu.ops->rope(&gpu, X, A, N, HEADS, D, false);
    check("rope", down_acts(X, N * HEADS * D), x, size, 3 * UNIT, stored(), N * HEADS * D);
    X = up_acts(x, N * HEADS * D);
    x = down_acts(X, N * HEADS * D); /* as it is held */
    cpu.ops->rope(&cpu, x, angles, N, HEADS, D, true);
    gpu.ops->rope(&gpu, X, A, N, HEADS, D, true);
    check("rope backward", down_acts(X, N * HEADS * D), x, size, 2 * 3 * UNIT, stored(), N * HEADS * D);
}

static void rope_is_the_references(void **state)
{
    (void)state;
    rope(COMPUTE_F32);
    rope(COMPUTE_BF16);
}

/* ---- SwiGLU, addition, bf16 ---- */

/* exp: 2 units; 1 + e, the division and the products one each: 8 roundings at most, relative, but where e^-z is infinite and the result 0 (the exact one
 * is below 1e-36).  Backward's 1 + z (1 - sig) cancels near z = -1.28: bounded by the sum of its terms. */
static void swiglu(enum compute compute, size_t n, size_t shift)
{
    set_compute(compute);
    real *gate = normal_halves(n + 1, 1, 4), *up_ = normal_halves(n + 1, 2, 1), *dy = normal_halves(n + 1, 3, 1), *y = zeros(n), *tiny = zeros(n), *size = zeros(n);
    gate += shift;
    for (size_t i = 0; i < n; i++)
        tiny[i] = 1e-30f;
    gate[0] = -120;
    act *Y = up_nan_acts(n), *G = up_acts(gate, n), *P = up_acts(up_ + shift, n), *DY = up_acts(dy + shift, n);
    up_ += shift;
    dy += shift;
    cpu.ops->swiglu_forward(&cpu, y, gate, up_, n);
    gpu.ops->swiglu_forward(&gpu, Y, G, P, n);
    check("swiglu", down_acts(Y, n), y, tiny, 1, 8 + stored(), n);
    for (size_t i = 0; i < n; i++) {
        double z = (double)gate[i], sig = 1 / (1 + exp(-z));
        size[i] = (real)(fabs((double)dy[i] * (double)up_[i]) * sig * (1 + fabs(z))) + 1e-24f;
    }
    real *dgate = zeros(n), *dup = zeros(n);
    cpu.ops->swiglu_backward(&cpu, dgate, dup, dy, gate, up_, n);
    gpu.ops->swiglu_backward(&gpu, G, P, DY, G, P, n); /* into its inputs */
    check("swiglu's dgate", down_acts(G, n), dgate, size, 10 * UNIT, stored(), n);
    check("swiglu's dup", down_acts(P, n), dup, tiny, 1, 8 + stored(), n);
}

static void swiglu_is_the_references(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        swiglu(i ? COMPUTE_BF16 : COMPUTE_F32, 33 * 172, 0);
        swiglu(i ? COMPUTE_BF16 : COMPUTE_F32, 1003, 1);
    }
}

/* One rounding on both sides: the same bits; also where four at a time are not to be had. */
static void add_and_bf16_have_the_references_bits(void **state)
{
    (void)state;
    for (size_t n = 1000; n < 1004; n += 3) {
        real *x = normals(n, 1, 1), *y = normals(n, 2, 1), *X = UP(x, n), *Y = UP(y, n), *back = zeros(n), *BACK = up_nan(n);
        uint16_t *h = take(n * sizeof *h), *H = UP((uint16_t *)(void *)zeros(n), n);
        cpu.ops->add(&cpu, y, x, n);
        gpu.ops->add(&gpu, Y, X, n);
        same("add", DOWN(Y, n), y, n * sizeof *y);
        size_t fours = (n - 1) / 4 * 4; /* a multiple of four from an address that is none */
        cpu.ops->add(&cpu, y + 1, x + 1, fours);
        gpu.ops->add(&gpu, Y + 1, X + 1, fours);
        same("add, not aligned", DOWN(Y, n), y, n * sizeof *y);
        cpu.ops->add_squares(&cpu, y, x, 7, n);
        gpu.ops->add_squares(&gpu, Y, X, 7, n);
        same("add_squares", DOWN(Y, n), y, n * sizeof *y);
        x[0] = NAN, x[1] = INFINITY, x[2] = -0.0f, x[3] = 3e38f, x[4] = 1e-40f;
        x[5] = 1.00390625f, x[6] = 1.01171875f; /* ties: one goes down to even, one up */
        X = UP(x, n);
        cpu.ops->to_bf16(&cpu, h, x, n);
        gpu.ops->to_bf16(&gpu, H, X, n);
        same("to_bf16", DOWN(H, n), h, n * sizeof *h);
        cpu.ops->from_bf16(&cpu, back, h, n);
        gpu.ops->from_bf16(&gpu, BACK, H, n);
        same("from_bf16", DOWN(BACK, n), back, n * sizeof *back);
    }
}

/* Tokens come twice: the sums have the reference's order, and bits. */
static void embedding_gradient_has_the_references_bits(void **state)
{
    (void)state;
    enum { N = 9, C = 301, V = 6 };
    int32_t tokens[N] = {3, 0, 3, 5, 3, 1, 0, 5, 3};
    real *dW = normals(V * C, 1, 1), *dy = normals(N * C, 2, 1), *DW = UP(dW, V * C);
    cpu.ops->embed_backward(&cpu, dW, tokens, N, C, dy);
    gpu.ops->embed_backward(&gpu, DW, UP(tokens, N), N, C, UP(dy, N * C));
    same("embedding's gradient", DOWN(DW, V * C), dW, V * C * sizeof *dW);
}

/* ---- AdamW, sum of squares ---- */

/* m and v: two products, a sum, and (1 - beta) g rounded in between: 4 roundings of sums of like size; the update has 10 more (root, division, products),
 * relative to itself, and one of p's.  The constants are rounded once each. */
static void adamw_is_the_references(void **state)
{
    (void)state;
    enum { N = 1003 };
    real *p = normals(N, 1, 1), *g = normals(N, 2, 0.1), *m = normals(N, 3, 0.1), *v = copied(normals(N, 4, 0.01), N, true), *before = copied(p, N, false);
    struct adamw_args a = {.n = N, .g = g, .grad_scale = 0.7f, .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .t = 3}, b = a;
    real *M = UP(m, N), *V = UP(v, N), *P = UP(p, N), *m_size = zeros(N), *step = zeros(N);
    for (int i = 0; i < N; i++)
        m_size[i] = 0.9f * fabsf(m[i]) + 0.1f * 0.7f * fabsf(g[i]);
    a.p = p, a.m = m, a.v = v;
    b.p = P, b.m = M, b.v = V, b.g = UP(g, N);
    cpu.ops->adamw(&cpu, &a);
    gpu.ops->adamw(&gpu, &b);
    /* the step's error: of m, relative to m's size, and its own */
    for (int i = 0; i < N; i++) {
        double root = sqrt((double)v[i] / (1 - pow(0.999, 3))) + 1e-8;
        step[i] = (real)(1e-2 * ((double)m_size[i] / (1 - pow(0.9, 3))) / root) + fabsf(before[i]);
    }
    check("adamw's m", DOWN(M, N), m, m_size, 5 * UNIT, 1, N);
    check("adamw's v", DOWN(V, N), v, NULL, 0, 6, N);
    check("adamw's p", DOWN(P, N), p, step, 16 * UNIT, 1, N);
}

/* Sums of doubles: 2^-53 for each of n terms, all positive. */
static void sum_of_squares_is_the_references(void **state)
{
    (void)state;
    size_t n = 300001;
    real *x = normals(n, 1, 1);
    double want = cpu.ops->sum_squares(&cpu, x, n), got = gpu.ops->sum_squares(&gpu, UP(x, n), n), none = gpu.ops->sum_squares(&gpu, gpu.scratch, 0);
    assert_true(fabs(got / want - 1) <= (double)n * 0x1p-53);
    assert_true(none == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(rmsnorm_is_the_references),
        ON_DEVICE(rmsnorm_in_place),
        ON_DEVICE(rope_is_the_references),
        ON_DEVICE(swiglu_is_the_references),
        ON_DEVICE(add_and_bf16_have_the_references_bits),
        ON_DEVICE(embedding_gradient_has_the_references_bits),
        ON_DEVICE(adamw_is_the_references),
        ON_DEVICE(sum_of_squares_is_the_references),
    };
    return cmocka_run_group_tests_name("ops_cuda", tests, NULL, NULL);
}
