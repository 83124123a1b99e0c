/* Every slot of the fast table against the plain reference, on shapes around the tiles' edges and in every number format; the same
 * bits for 1, 2 and 3 threads; every buffer ends at a page that may not be touched, so reading or writing past it crashes.
 *
 * Bounds.  u = 2^-24.  A float sum of k products differs from the exact one by at most gamma(k) sum |x||w|, gamma(k) = k u / (1 - k u),
 * in any order (Higham 2002, (3.5)).  The reference sums in double, so its own share is the rounding of its results; the
 * sum of absolute values comes from running the reference on absolute values.  Attention: ops_attention_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/arena.h"
#include "base/linalg.h"
#include "cpu/vector.h"
#include "ops_checks.h"
#include "quant_panel.h"
#include "random_blocks.h"

/* ---- linear ---- */

struct linear_result {
    real *y, *h, *dx, *dA, *dB, *dW, *dbias;
};

/* Forward, then backward into zeroed (dx: given) gradients. */
static struct linear_result linear_run(const struct ops *ops, int threads, struct linear_args a)
{
    size_t n = a.n, in = a.W->cols, out = a.W->rows, r = (size_t)a.lora.r;
    struct ops_context c = context_new(ops, threads);
    struct linear_result t = {zeros(n * out), zeros(n * r), copied(a.x, n * in, false), zeros(r * in), zeros(out * r),
                              zeros(out * in), zeros(out)};
    a.lora.mask = walled(&walls, n * mask_words(in) * sizeof(uint32_t) + sizeof(uint32_t));
    a.y = t.y, a.lora.h = t.h, a.lora.dA = t.dA, a.lora.dB = t.dB, a.dx = t.dx, a.dW = t.dW, a.dbias = t.dbias;
    ops->linear_forward(&c, &a, 1);
    ops->linear_backward(&c, &a);
    return t;
}

static void linear_check(struct linear_args a, const struct qmat *absolute)
{
    size_t n = a.n, in = a.W->cols, out = a.W->rows, r = (size_t)a.lora.r;
    struct linear_result want = linear_run(cpu_ops(true), 1, a), got = linear_run(cpu_ops(false), 2, a);
    struct linear_args b = a;
    b.W = absolute;
    b.x = copied(a.x, n * in, true), b.dy = copied(a.dy, n * out, true), b.bias = a.bias ? copied(a.bias, out, true) : NULL;
    b.lora.A = copied(a.lora.A, r * in, true), b.lora.B = copied(a.lora.B, out * r, true);
    struct linear_result size = linear_run(cpu_ops(true), 1, b);
    /* each result is a sum of sums: the lengths add up, with a few roundings for s, dropout's factor and the additions between */
    check("y", got.y, want.y, size.y, gamma_of(in + r + 8), n * out);
    check("h", got.h, want.h, size.h, gamma_of(in + 4), n * r);
    check("dx", got.dx, want.dx, size.dx, gamma_of(2 * out + r + 8), n * in);
    check("dA", got.dA, want.dA, size.dA, gamma_of(out + n + 8), r * in);
    check("dB", got.dB, want.dB, size.dB, gamma_of(in + n + 8), out * r);
    check("dW", got.dW, want.dW, size.dW, gamma_of(n + 4), out * in);
    check("dbias", got.dbias, want.dbias, size.dbias, gamma_of(n), out);
    for (int threads = 1; threads <= 3; threads += 2) {
        struct linear_result other = linear_run(cpu_ops(false), threads, a);
        same_bits("y", other.y, got.y, n * out);
        same_bits("dx", other.dx, got.dx, n * in);
        same_bits("dA", other.dA, got.dA, r * in);
        same_bits("dB", other.dB, got.dB, out * r);
        same_bits("dW", other.dW, got.dW, out * in);
        same_bits("dbias", other.dbias, got.dbias, out);
    }
}

/* q: W in its format, every array ending at a wall.  Formats that are only read: random blocks. */
static bool encoded(struct qmat *q, enum format format, bool double_quant, size_t rows, size_t cols, const real *W)
{
    struct err err;
    struct arena arena = {0};
    bool read_only = format_info(format)->read_only;
    if (read_only ? cols % (size_t)format_info(format)->row_multiple != 0 : quant_check(format, 0, rows, cols, &err) != OK)
        return false;
    quant_place(q, format, 0, double_quant, rows, cols, &arena);
    assert_int_equal(arena_commit(&arena, "W", &err), OK);
    quant_place(q, format, 0, double_quant, rows, cols, &arena);
    if (read_only)
        random_blocks(format, q->codes, rows * cols, (uint32_t)rows);
    else
        assert_int_equal(quant_encode(q, W, false, &err), OK);
    size_t scales = q->scales || q->affine ? (format == FORMAT_INT8 ? rows : (rows * cols + (size_t)q->block - 1) / (size_t)q->block) : 0;
    size_t bytes = quant_bytes(format, 0, double_quant, rows, cols) - scales * sizeof(float);
    if (!double_quant) { /* then codes are all the rest */
        q->codes = memcpy(walled(&walls, bytes), q->codes, bytes);
        q->scales = q->scales ? memcpy(walled(&walls, scales * sizeof(float)), q->scales, scales * sizeof(float)) : NULL;
        q->affine = q->affine ? memcpy(walled(&walls, scales * sizeof(float)), q->affine, scales * sizeof(float)) : NULL; /* two f16 are as long */
    }
    if (!double_quant)
        arena_free(&arena);
    return true;
}

/* One case: W in `format` where its shape can take it. */
static void linear_case(enum format format, size_t n, size_t in, size_t out, size_t r, size_t turn)
{
    struct qmat W, absolute = {.format = FORMAT_F32, .rows = out, .cols = in};
    const real *dense = normals(out * in, 1, 0.1);
    if (encoded(&W, format, false, out, in, dense)) {
        real *decoded = zeros(out * in);
        quant_decode_rows(&W, 0, out, decoded);
        absolute.codes = copied(decoded, out * in, true);
        struct linear_args a = {.W = &W, .n = n, .x = normals(n * in, 2, 1), .dy = normals(n * out, 3, 1),
                                .bias = turn % 3 == 0 ? normals(out, 4, 1) : NULL, .dx_add = turn % 2 == 0};
        a.lora = (struct lora_args){.r = (int32_t)r, .s = 2, .A = normals(r * in, 5, 0.1), .B = normals(out * r, 6, 0.1),
                                    .dropout = turn % 5 == 0 ? 0.3f : 0, .seed = 9, .step = 4, .index0 = turn};
        linear_check(a, &absolute);
    }
    walls_down(&walls);
}

/* Columns that hold whole blocks of every format. */
static size_t whole_blocks(enum format format)
{
    return format_info(format)->row_multiple > GGML_BLOCK ? 2 * GGML_SUPERBLOCK : 5 * GGML_BLOCK;
}

static void test_linear(void **state)
{
    (void)state;
    size_t turn = 0;
    for (int f = 0; f < FORMAT_COUNT; f++)
        for (size_t i = 0; i < SHAPES * SHAPES + 4; i++, turn++) {
            /* the last four give the ggml formats rows they can take */
            size_t out = i < 36 ? shapes[i / SHAPES] : shapes[i - 36], in = i < 36 ? shapes[i % SHAPES] : whole_blocks((enum format)f);
            linear_case((enum format)f, shapes[turn % SHAPES], in, out, (size_t[]){0, 1, 7, 16}[turn / 2 % 4], turn);
        }
}

/* W decoded in two blocks; so many rows that dh is made in two spans; so many that each of three threads keeps to its own. */
static void test_linear_large(void **state)
{
    (void)state;
    linear_case(FORMAT_NF4, 70, 600, 700, 8, 0);
    linear_case(FORMAT_INT8, 9, 800, 400, 0, 1);
    linear_case(FORMAT_F32, 800, 12, 20, 172, 5);
    linear_case(FORMAT_F32, 800, 20, 12, 172, 1);
    linear_case(FORMAT_NF4, 389, 64, 160, 8, 0);
    linear_case(FORMAT_INT8, 390, 160, 64, 16, 1);
}

/* ---- decoding ---- */

/* The fast mode, with a bias and an adapter: near the reference (1e-2, the mode's goal; fp32's 1e-6 where the CPU lacks it), the same bits for any number of
 * threads, which share out rows (1 and 2) or, in spans of few, columns (3). */
static void test_linear_int8(void **state)
{
    enum { N = 2 * MOST, IN = 576, OUT = 288, R = 8 };
    (void)state;
    static const enum format formats[] = {FORMAT_NF4, FORMAT_INT8, FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_HQQ3};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct arena arena = {0};
        struct qmat W;
        struct err err;
        quant_place(&W, formats[f], 0, false, OUT, IN, &arena);
        assert_int_equal(arena_commit(&arena, "W", &err), OK);
        quant_place(&W, formats[f], 0, false, OUT, IN, &arena);
        assert_int_equal(quant_encode(&W, normals(OUT * IN, 1, 0.05), false, &err), OK);
        assert_int_equal(quant_to_panels(&W, &err), OK);
        struct linear_args a = {.W = &W, .bias = normals(OUT, 2, 1), .n = N, .x = normals(N * IN, 3, 1),
                                .lora = {.r = R, .s = 2, .A = normals(R * IN, 4, 0.05), .B = normals(OUT * R, 5, 0.05), .h = zeros(N * R)}};
        real *y[4];
        for (int threads = 0; threads < 4; threads++) { /* 0: the reference */
            struct ops_context c = context_new(cpu_ops(threads == 0), threads > 0 ? threads : 1);
            c.compute = COMPUTE_INT8;
            size_t less = (1 << 18) + 50 * IN; /* several spans */
            if (threads == 3 && c.shared_n > less)
                c.shared_n = less;
            a.y = y[threads] = zeros(N * OUT);
            c.ops->linear_forward(&c, &a, 1);
        }
        double error = 0, norm = 0;
        for (size_t i = 0; i < N * OUT; i++) {
            double d = (double)y[1][i] - (double)y[0][i];
            error += d * d;
            norm += (double)y[0][i] * (double)y[0][i];
        }
        assert_true(sqrt(error) <= 1e-2 * sqrt(norm));
        same_bits("y", y[1], y[2], N * OUT);
        same_bits("y", y[1], y[3], N * OUT);
        arena_free(&arena);
        walls_down(&walls);
    }
}

static void test_decode(void **state)
{
    (void)state;
    const struct vector *tables[] = {&vector_plain, vector()};
    for (int f = 0; f < FORMAT_COUNT; f++)
        for (size_t i = 0; i < SHAPES * SHAPES + 1; i++)
            for (int double_quant = 0; double_quant <= format_info((enum format)f)->double_quant; double_quant++) {
                size_t rows = i < 36 ? shapes[i / SHAPES] : 9, cols = i < 36 ? shapes[i % SHAPES] : whole_blocks((enum format)f);
                struct qmat W;
                if (!encoded(&W, (enum format)f, double_quant, rows, cols, normals(rows * cols, 1, 0.1))) {
                    walls_down(&walls);
                    continue;
                }
                size_t row0 = rows / 3, n = rows - row0;
                real *want = zeros(n * cols);
                quant_decode_rows(&W, row0, n, want);
                for (int t = 0; t < 2; t++) {
                    real *got = zeros(n * cols);
                    tables[t]->decode(&W, row0, n, got);
                    assert_memory_equal(got, want, n * cols * sizeof(real));
                }
                walls_down(&walls);
            }
}

/* ---- head ---- */

struct head_result {
    double *nll;
    uint8_t *greedy;
    real *dx, *dW;
};

static struct head_result head_run(const struct ops *ops, int threads, struct head_args a)
{
    struct ops_context c = context_new(ops, threads);
    size_t V = a.W->rows, C = a.W->cols;
    struct head_result t = {walled(&walls, a.n * sizeof(double)), walled(&walls, a.n), copied(a.x, a.n * C, false), zeros(V * C)};
    a.nll = t.nll, a.greedy = t.greedy, a.dx = t.dx, a.dW = t.dW;
    ops->head_loss(&c, &a);
    return t;
}

/* Logits are off by delta, so each softmax entry by e^(2 delta); dx and dW are sums of them. */
static void head_check(struct head_args a, const real *dense)
{
    size_t V = a.W->rows, C = a.W->cols;
    struct head_result want = head_run(cpu_ops(true), 1, a), got = head_run(cpu_ops(false), 2, a);
    double x = largest(a.x, a.n * C), w = largest(dense, V * C);
    double z = (double)C * x * w, delta = gamma_of(C + 2) * z + 4 * U * (z + 8), P = exp(2 * delta) - 1 + gamma_of(V + 8);
    for (size_t i = 0; i < a.n; i++) {
        assert_true(fabs(got.nll[i] - want.nll[i]) <= 2 * delta + 8 * U);
        assert_int_equal(got.greedy[i], want.greedy[i]);
    }
    check_within("head dx", got.dx, want.dx, (double)a.scale * w * (2 * P + 2 * gamma_of(V + 4)), a.n * C);
    check_within("head dW", got.dW, want.dW, (double)a.scale * x * (double)a.n * (P + gamma_of(a.n + 4)), V * C);
    for (int threads = 1; threads <= 3; threads += 2) {
        struct head_result other = head_run(cpu_ops(false), threads, a);
        assert_memory_equal(other.nll, got.nll, a.n * sizeof(double));
        same_bits("head dx", other.dx, got.dx, a.n * C);
        same_bits("head dW", other.dW, got.dW, V * C);
    }
}

static void head_case(enum format format, bool panels, size_t n, size_t V, size_t C)
{
    real *dense = normals(V * C, 1, 0.3);
    struct qmat W;
    struct err err;
    assert_true(encoded(&W, format, false, V, C, dense));
    assert_int_equal(panels ? quant_to_panels(&W, &err) : OK, OK);
    assert_int_equal(W.panels, panels);
    int32_t *labels = walled(&walls, n * sizeof *labels);
    for (size_t j = 0; j < n; j++)
        labels[j] = j % 4 == 1 ? -1 : (int32_t)(j * 7 % V);
    head_check((struct head_args){.W = &W, .n = n, .x = normals(n * C, 2, 1), .labels = labels, .scale = (real)0.5}, dense);
    walls_down(&walls);
}

static void test_head(void **state)
{
    (void)state;
    static const enum format formats[] = {FORMAT_F32, FORMAT_BF16, FORMAT_INT8};
    for (size_t i = 0; i < SHAPES * 3; i++)
        head_case(formats[i / SHAPES], false, shapes[(i + 3) % SHAPES], shapes[i % SHAPES], shapes[(i * 5 + 2) % SHAPES]);
    head_case(FORMAT_BF16, false, 10, 9000, 60); /* W decoded in three blocks */
    head_case(FORMAT_F32, false, 700, 65, 20);   /* three chunks of labelled rows */
    static const enum format packed[] = {FORMAT_INT8, FORMAT_Q8_0, FORMAT_NF4};
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        head_case(packed[i], true, 10, 9008, 64);
}

/* ---- rows and runs ---- */

/* The kernel `what` into y[k], with the reference (0) and the fast table on 1, 2 and 3 threads (1 .. 3). */
#define FOUR_TIMES(y, n, start, call)                          \
    for (int k = 0; k < 4; k++) {                              \
        const struct ops *ops = cpu_ops(k == 0);               \
        struct ops_context c = context_new(ops, k == 0 ? 1 : k); \
        y[k] = copied(start, n, false);                        \
        call;                                                  \
    }                                                          \
    same_bits(#call, y[2], y[1], n);                           \
    same_bits(#call, y[3], y[1], n);

static void small_case(size_t n, size_t C)
{
    size_t m = n * C;
    real *x = normals(m, 1, 2), *g = normals(C, 2, 1), *up = normals(m, 3, 1), *dy = normals(m, 4, 1), *zero = zeros(m);
    real *y[4], *size = zeros(m), *s = zeros(n), *s_ref = zeros(n);
    FOUR_TIMES(y, m, zero, ops->rmsnorm_forward(&c, y[k], k == 0 ? s_ref : s, x, g, (real)1e-5, n, C))
    check("rmsnorm", y[1], y[0], copied(y[0], m, true), 6 * U, m);
    check("rmsnorm s", s, s_ref, s_ref, 2 * U, n);

    real *dg[4];
    for (int k = 0; k < 4; k++)
        dg[k] = copied(g, C, false);
    FOUR_TIMES(y, m, up, ops->rmsnorm_backward(&c, y[k], dg[k], dy, x, g, s_ref, n, C))
    for (size_t i = 0; i < n; i++) {
        double sum = 0, si = (double)s_ref[i];
        for (size_t j = 0; j < C; j++)
            sum += fabs((double)g[j] * (double)dy[i * C + j] * (double)x[i * C + j]);
        for (size_t j = 0; j < C; j++) {
            size_t at = i * C + j;
            size[at] = (real)(fabs((double)up[at]) + si * fabs((double)g[j] * (double)dy[at]) +
                              fabs((double)x[at]) * si * si * si * sum / (double)C);
        }
    }
    check("rmsnorm dx", y[1], y[0], size, 10 * U, m);
    same_bits("rmsnorm dg", dg[3], dg[1], C);
    real *dg_size = copied(g, C, true);
    for (size_t i = 0; i < m; i++)
        dg_size[i % C] += (real)fabs((double)dy[i] * (double)x[i] * (double)s_ref[i / C]);
    check("rmsnorm dg", dg[1], dg[0], dg_size, 6 * U, C);

    /* exp within 2 ulp, then 1 + e, quotient, product */
    FOUR_TIMES(y, m, zero, ops->swiglu_forward(&c, y[k], x, up, m))
    check("swiglu", y[1], y[0], copied(y[0], m, true), 8 * U, m);
    real *dup[4];
    for (int k = 0; k < 4; k++)
        dup[k] = copied(up, m, false);
    /* outputs in the inputs' places */
    FOUR_TIMES(y, m, x, ops->swiglu_backward(&c, y[k], dup[k], dy, y[k], dup[k], m))
    for (size_t i = 0; i < m; i++)
        size[i] = (real)(fabs((double)dy[i] * (double)up[i]) * (1 + fabs((double)x[i])));
    check("swiglu dgate", y[1], y[0], size, 16 * U, m);
    check("swiglu dup", dup[1], dup[0], copied(dup[0], m, true), 8 * U, m);
    FOUR_TIMES(y, m, x, ops->add(&c, y[k], up, m))
    same_bits("add", y[1], y[0], m);
    double sums[2];
    for (int k = 0; k < 2; k++) {
        struct ops_context c = context_new(cpu_ops(k == 0), 2);
        sums[k] = c.ops->sum_squares(&c, x, m);
    }
    assert_true(fabs(sums[1] - sums[0]) <= (double)m * 0x1p-53 * sums[0]);
    walls_down(&walls);
}

static void rope_case(size_t n, size_t heads, size_t D, int32_t first)
{
    size_t m = n * heads * D, half = D / 2;
    real *x = normals(m, 1, 1), *y[4], *size = zeros(m);
    int32_t *positions = walled(&walls, n * sizeof *positions);
    float *inv_freq = walled(&walls, half * sizeof *inv_freq);
    for (size_t i = 0; i < n; i++)
        positions[i] = first + (int32_t)i;
    for (size_t j = 0; j < half; j++)
        inv_freq[j] = (float)pow(10000, -(double)j / (double)half);
    for (size_t i = 0; i < m; i++)
        size[i] = (real)(fabs((double)x[i]) + fabs((double)x[i % D < half ? i + half : i - half]));
    for (int back = 0; back < 2; back++) {
        FOUR_TIMES(y, m, x, real *angles = zeros(n * D); ops->rope_angles(&c, angles, positions, inv_freq, (real)1.25, n, D);
                   ops->rope(&c, y[k], angles, n, heads, D, back))
        check("rope", y[1], y[0], size, 4 * U, m);
    }
    walls_down(&walls);
}

static void adamw_case(size_t n)
{
    real *g = normals(n, 1, 1), *p = normals(n, 2, 1), *m = normals(n, 3, 1), *v = copied(normals(n, 4, 1), n, true);
    real *P[4], *M[4], *V[4], *size = zeros(n);
    struct adamw_args a = {.n = n, .g = g, .grad_scale = (real)0.7, .lr = (real)0.01, .beta1 = (real)0.9, .beta2 = (real)0.999,
                           .eps = (real)1e-8, .weight_decay = (real)0.1, .t = 3};
    for (int k = 0; k < 4; k++) {
        struct ops_context c = context_new(cpu_ops(k == 0), k == 0 ? 1 : k);
        a.p = P[k] = copied(p, n, false), a.m = M[k] = copied(m, n, false), a.v = V[k] = copied(v, n, false);
        c.ops->adamw(&c, &a);
    }
    same_bits("adamw", P[3], P[1], n);
    same_bits("adamw", P[2], P[1], n);
    /* m may cancel: its error is that of its two terms */
    double correction1 = 1 - pow(0.9f, 3), correction2 = 1 - pow(0.999f, 3);
    for (size_t i = 0; i < n; i++) {
        double terms = 0.9 * fabs((double)m[i]) + 0.1 * fabs(0.7 * (double)g[i]);
        size[i] = (real)(fabs((double)p[i]) + 0.01 * terms / correction1 / (sqrt((double)V[0][i] / correction2) + 1e-8));
    }
    check("adamw v", V[1], V[0], V[0], 8 * U, n);
    check("adamw p", P[1], P[0], size, 16 * U, n);
    walls_down(&walls);
}

static void embed_case(size_t n, size_t C)
{
    size_t V = 7;
    real *dense = normals(V * C, 1, 1), *dy = normals(n * C, 2, 1), *y[4], *zero = zeros(n * C);
    int32_t *tokens = walled(&walls, n * sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 3 % V);
    for (int f = 0; f < FORMAT_Q4_0; f++) {
        struct qmat W;
        if (!encoded(&W, (enum format)f, false, V, C, dense))
            continue;
        FOUR_TIMES(y, n * C, zero, ops->embed_forward(&c, &W, tokens, n, y[k]))
        same_bits("embedding", y[1], y[0], n * C);
    }
    walls_down(&walls);
    dense = normals(V * C, 1, 1), dy = normals(n * C, 2, 1), tokens = walled(&walls, n * sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 3 % V);
    FOUR_TIMES(y, V * C, dense, ops->embed_backward(&c, y[k], tokens, n, C, dy))
    same_bits("embedding's gradient", y[1], y[0], V * C); /* the same additions in the same order */
    walls_down(&walls);
}

static void salience_case(size_t out, size_t in)
{
    struct qmat W;
    assert_true(encoded(&W, FORMAT_NF4, false, out, in, normals(out * in, 1, 1)));
    real *G = normals(out * in, 2, 1), *F = copied(normals(out * in, 3, 1), out * in, true);
    for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_L2; kind++) {
        double *rows[4], *cols[4];
        for (int k = 0; k < 4; k++) {
            struct ops_context c = context_new(cpu_ops(k == 0), k == 0 ? 1 : k);
            rows[k] = walled(&walls, out * sizeof(double)), cols[k] = walled(&walls, in * sizeof(double));
            c.ops->salience(&c, (enum salience)kind, &W, G, F, rows[k], cols[k]);
            assert_memory_equal(rows[k], rows[0], out * sizeof(double));
            assert_memory_equal(cols[k], cols[0], in * sizeof(double));
        }
    }
    walls_down(&walls);
}

/* A matrix in any format, in the layout of files or in panels, scores as its values do. */
static void test_salience_of_codes(void **state)
{
    (void)state;
    enum { OUT = 32 };
    struct ops_context c = context_new(cpu_ops(false), 1);
    for (int f = 0; f < FORMAT_COUNT; f++) {
        size_t in = whole_blocks((enum format)f);
        struct arena arena = {0};
        struct err err;
        struct qmat W, values = {.format = FORMAT_F32, .rows = OUT, .cols = in, .codes = zeros(OUT * in)};
        quant_place(&W, (enum format)f, 0, false, OUT, in, &arena);
        assert_int_equal(arena_commit(&arena, "W", &err), OK);
        quant_place(&W, (enum format)f, 0, false, OUT, in, &arena);
        if (format_info((enum format)f)->read_only)
            random_blocks((enum format)f, W.codes, OUT * in, (uint32_t)f);
        else
            assert_int_equal(quant_encode(&W, normals(OUT * in, 1, 1), false, &err), OK);
        quant_decode_rows(&W, 0, OUT, values.codes);
        real *G = normals(OUT * in, 2, 1);
        double *rows[3], *cols[3];
        for (int k = 0; k < 3; k++) {
            rows[k] = walled(&walls, OUT * sizeof(double)), cols[k] = walled(&walls, in * sizeof(double));
            assert_int_equal(k == 2 ? quant_to_panels(&W, &err) : OK, OK);
            c.ops->salience(&c, SALIENCE_PARAM_FIRST, k ? &W : &values, G, NULL, rows[k], cols[k]);
            assert_memory_equal(rows[k], rows[0], OUT * sizeof(double));
            assert_memory_equal(cols[k], cols[0], in * sizeof(double));
        }
        arena_free(&arena);
    }
    walls_down(&walls);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHAPES; i++) {
        small_case(shapes[i], shapes[(i + 2) % SHAPES]);
        small_case(shapes[i], shapes[(i + 5) % SHAPES]);
        rope_case(shapes[i], 3, 2 * shapes[(i + 1) % SHAPES], (int32_t)(i * 3000));
        adamw_case(shapes[i] * 100 + 1);
        embed_case(shapes[i], shapes[(i + 3) % SHAPES]);
        salience_case(shapes[i], shapes[(i + 1) % SHAPES]);
    }
}

int main(void)
{
    linalg_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_linear_large), cmocka_unit_test(test_linear_int8), cmocka_unit_test(test_decode),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_rows), cmocka_unit_test(test_salience_of_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
