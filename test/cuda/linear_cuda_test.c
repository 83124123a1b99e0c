/* The linear layer of the CUDA table against the plain reference: every format, adapters of more ranks than go at once, dropout whose masks are the CPU's
 * bits, bias, all gradients; f32 and bf16, there with y and dy as acts and as reals.
 *
 * Bounds as in on_device.h: chains of the lengths of all sums; with bf16 each factor of each product is rounded once (2^-8), results between products (h, dh)
 * once more, as factors.  Acts are what bf16 holds, so that both sides begin with the same numbers.  A y or dx that is an act is rounded each time that something was
 * added to it; each sum on the way is at most the sum of absolute values, so that k roundings make an error f of it (1 + f) (1 + 2^-8)^k - 1. */
#include "on_device.h"

struct result {
    real *y, *h, *dx, *dA, *dB, *dW, *dbias;
    uint32_t *mask;
};

static real *ones(size_t n)
{
    real *x = zeros(n);
    for (size_t i = 0; i < n; i++)
        x[i] = 1;
    return x;
}

/* Whether y and dy are bf16. */
static bool y_in_halves(const struct linear_args *a)
{
    return act_in_halves(&gpu) && !a->real_y;
}

/* Forward, then backward; gradients of parameters begin with ones, dx with x when it is added to. */
static struct result run_cpu(struct linear_args a)
{
    size_t n = a.n, in = a.W->cols, out = a.W->rows, r = (size_t)a.lora.r;
    struct result t = {zeros(n * out), zeros(n * r), copied(a.x, n * in, false), ones(r * in), ones(out * r), ones(out * in), ones(out),
                       take(n * mask_words(in) * sizeof(uint32_t))};
    a.y = t.y, a.lora.h = t.h, a.lora.dA = t.dA, a.lora.dB = t.dB, a.dx = t.dx, a.dW = t.dW, a.dbias = t.dbias, a.lora.mask = t.mask;
    cpu.ops->linear_forward(&cpu, &a, 1);
    cpu.ops->linear_backward(&cpu, &a);
    return t;
}

static struct result run_gpu(struct linear_args a)
{
    size_t n = a.n, in = a.W->cols, out = a.W->rows, r = (size_t)a.lora.r;
    bool halves = y_in_halves(&a);
    struct result t = {halves ? up_nan_acts(n * out) : up_nan(n * out), up_nan(n * r), up_acts(a.x, n * in), UP(ones(r * in), r * in), UP(ones(out * r), out * r),
                       UP(ones(out * in), out * in), UP(ones(out), out), (uint32_t *)(void *)up_nan(n * mask_words(in))};
    struct qmat W = up_matrix(a.W);
    a.W = &W;
    a.x = up_acts(a.x, n * in), a.dy = halves ? up_acts(a.dy, n * out) : UP(a.dy, n * out), a.bias = a.bias ? UP(a.bias, out) : NULL;
    a.lora.A = UP(a.lora.A, r * in), a.lora.B = UP(a.lora.B, out * r);
    a.y = t.y, a.lora.h = t.h, a.lora.dA = t.dA, a.lora.dB = t.dB, a.dx = t.dx, a.dW = t.dW, a.dbias = t.dbias, a.lora.mask = t.mask;
    gpu.ops->linear_forward(&gpu, &a, 1);
    gpu.ops->linear_backward(&gpu, &a);
    return (struct result){halves ? down_acts(t.y, n * out) : DOWN(t.y, n * out), DOWN(t.h, n * r), down_acts(t.dx, n * in), DOWN(t.dA, r * in),
                           DOWN(t.dB, out * r), DOWN(t.dW, out * in), DOWN(t.dbias, out), DOWN(t.mask, n * mask_words(in))};
}

/* The same shape of |W|. */
static struct qmat absolute(const struct qmat *W)
{
    struct qmat q;
    real *rows = zeros(W->rows * W->cols);
    quant_decode_rows(W, 0, W->rows, rows);
    quant_place(&q, FORMAT_F32, 0, false, W->rows, W->cols, &host);
    memcpy(q.codes, copied(rows, W->rows * W->cols, true), W->rows * W->cols * sizeof(real));
    return q;
}

static void check_masks(const struct linear_args *a, const uint32_t *mask)
{
    size_t in = a->W->cols;
    uint32_t threshold = (uint32_t)((double)a->lora.dropout * 4294967296.0);
    for (size_t i = 0; i < a->n; i++)
        for (size_t j = 0; j < mask_words(in) * 32; j++) {
            bool kept = j < in && rng_at(a->lora.seed, RNG_DROPOUT, a->lora.step, a->lora.index0 + i * in + j) >= threshold;
            assert_int_equal(mask[i * mask_words(in) + j / 32] >> (j % 32) & 1, kept);
        }
}

/* Of an error `factor` after that many roundings to bf16. */
static double stored(double factor, int roundings)
{
    return (1 + factor) * pow(1 + HALF_UNIT, roundings) - 1;
}

static void one_linear(enum format format, enum compute compute, bool real_y, size_t n, size_t in, size_t out, int r, float dropout, bool bias, bool add)
{
    struct qmat W;
    bool halves = compute == COMPUTE_BF16;
    encoded(&W, format, false, out, in, normals(out * in, 1, 0.1));
    set_compute(compute);
    gpu.ops->scratch_size(&gpu, out, in, 32, n, 0); /* no more than such a linear wants of what lies there */
    struct linear_args a = {.W = &W, .n = n, .x = halves ? normal_halves(n * in, 2, 1) : normals(n * in, 2, 1), .real_y = real_y,
                            .dy = halves && !real_y ? normal_halves(n * out, 3, 1) : normals(n * out, 3, 1), .bias = bias ? normals(out, 4, 1) : NULL, .dx_add = add,
                            .lora = {.r = r, .s = 1.5f, .A = normals((size_t)r * in, 5, 0.1), .B = normals(out * (size_t)r, 6, 0.1), .dropout = dropout, .seed = 11,
                                     .step = 7, .index0 = 5}};
    struct linear_args b = a;
    struct qmat size_W = absolute(&W);
    b.W = &size_W, b.x = copied(a.x, n * in, true), b.dy = copied(a.dy, n * out, true), b.bias = bias ? copied(a.bias, out, true) : NULL;
    b.lora.A = copied(a.lora.A, (size_t)r * in, true), b.lora.B = copied(a.lora.B, out * (size_t)r, true);
    struct result want = run_cpu(a), got = run_gpu(a), size = run_cpu(b);
    double one = halves ? 2 * HALF_UNIT + HALF_UNIT * HALF_UNIT : 0, two = halves ? 2 * one + HALF_UNIT : 0; /* of a product; of one behind another */
    double ranks = r, rows = (double)n;
    int adapters = (r + 255) / 256, stores_y = y_in_halves(&a) ? 1 + bias + adapters : 0; /* 256 ranks at once */
    int stores_dx = halves ? 1 + adapters : 0;
    check("y", got.y, want.y, size.y, stored(gamma_of((double)in + ranks + 12) + two, stores_y), 1, n * out);
    check("dx", got.dx, want.dx, size.dx, stored(gamma_of((double)out + ranks + 12) + two, stores_dx), 1, n * in);
    check("dW", got.dW, want.dW, size.dW, gamma_of(rows + 4) + one, 1, out * in);
    check("dbias", got.dbias, want.dbias, size.dbias, gamma_of(2), 1, out);
    if (r > 0) {
        check("h", got.h, want.h, size.h, gamma_of((double)in + 6) + one, 1, n * (size_t)r);
        check("dA", got.dA, want.dA, size.dA, gamma_of(rows + (double)out + 10) + two, 1, (size_t)r * in);
        check("dB", got.dB, want.dB, size.dB, gamma_of(rows + (double)in + 10) + two, 1, out * (size_t)r);
    }
    if (r > 0 && dropout > 0)
        check_masks(&a, got.mask);
}

static void linear(enum format format, enum compute compute, size_t n, size_t in, size_t out, int r, float dropout, bool bias, bool add)
{
    one_linear(format, compute, false, n, in, out, r, dropout, bias, add);
    if (compute != COMPUTE_F32)
        one_linear(format, compute, true, n, in, out, r, dropout, bias, add);
}

static void every_format_in_both_precisions(void **state)
{
    (void)state;
    for (int f = 0; f < FORMAT_COUNT; f++) {
        if (format_info((enum format)f)->read_only)
            continue;
        linear((enum format)f, COMPUTE_F32, 6, 64, 33, 0, 0, false, false);
        linear((enum format)f, COMPUTE_BF16, 6, 64, 33, 0, 0, false, false);
    }
}

/* More rows than are decoded at once: the second slab's go where they belong, behind the first's. */
static void slabs(void **state)
{
    (void)state;
    linear(FORMAT_Q8_0, COMPUTE_F32, 6, 32, 8200, 0, 0, true, false);
    linear(FORMAT_Q8_0, COMPUTE_BF16, 6, 32, 8200, 2, 0, false, false);
}

static void adapters(void **state)
{
    (void)state;
    linear(FORMAT_NF4, COMPUTE_F32, 33, 96, 41, 8, 0, true, true);
    linear(FORMAT_NF4, COMPUTE_BF16, 33, 96, 41, 8, 0, false, true);
    linear(FORMAT_INT8, COMPUTE_F32, 7, 37, 19, 3, 0, true, false); /* rows that are no multiple of 4 */
    linear(FORMAT_INT8, COMPUTE_BF16, 7, 37, 19, 3, 0, true, false);
    linear(FORMAT_NF4, COMPUTE_F32, 5, 64, 48, 260, 0, false, false); /* more ranks than go at once */
    linear(FORMAT_NF4, COMPUTE_BF16, 5, 64, 48, 260, 0.1f, false, false);
    linear(FORMAT_NF4, COMPUTE_BF16, 5, 64, 48, 260, 0, true, true);
}

static void dropout_has_the_cpus_masks(void **state)
{
    (void)state;
    linear(FORMAT_NF4, COMPUTE_F32, 33, 96, 41, 8, 0.1f, false, true);
    linear(FORMAT_NF4, COMPUTE_BF16, 33, 96, 41, 8, 0.5f, true, false);
    linear(FORMAT_F32, COMPUTE_F32, 9, 37, 19, 3, 0.25f, false, false);
    linear(FORMAT_F32, COMPUTE_F32, 1100, 37, 8, 2, 0.25f, false, true); /* more rows than go through dropout backward at once */
    linear(FORMAT_F32, COMPUTE_BF16, 1100, 40, 8, 2, 0.25f, false, true);
}

/* Rows that meet the codes directly; with an adapter. */
static void few_rows(void **state)
{
    (void)state;
    linear(FORMAT_NF4, COMPUTE_BF16, 1, 576, 33, 4, 0, true, false);
    linear(FORMAT_Q8_0, COMPUTE_F32, 4, 64, 33, 4, 0, true, false);
    linear(FORMAT_Q8_0, COMPUTE_BF16, 4, 64, 33, 0, 0, false, true);
}

/* Three linears of one x, the second without y, the third with a real one: what each gives alone, bit for bit. */
static void a_group_is_its_members(void **state)
{
    (void)state;
    enum { N = 9, IN = 64, OUT = 24, R = 4 };
    struct qmat W[3], w[3];
    struct linear_args a[3];
    set_compute(COMPUTE_BF16);
    act *X = up_acts(normals(N * IN, 2, 1), N * IN);
    for (size_t i = 0; i < 3; i++) {
        encoded(&w[i], FORMAT_NF4, true, OUT, IN, normals(OUT * IN, (uint32_t)i, 0.1));
        W[i] = up_matrix(&w[i]);
        a[i] = (struct linear_args){.W = &W[i], .n = N, .x = X, .y = i == 1 ? NULL : i == 0 ? up_nan_acts(N * OUT) : up_nan(N * OUT), .real_y = i == 2,
                                    .lora = {.r = R, .s = 2, .A = UP(normals(R * IN, 5, 0.1), R * IN), .B = UP(normals(OUT * R, 6, 0.1), OUT * R), .h = up_nan(N * R)}};
    }
    gpu.ops->linear_forward(&gpu, a, 3);
    for (size_t i = 0; i < 3; i++) {
        size_t bytes = N * OUT * (y_in_halves(&a[i]) ? sizeof(uint16_t) : sizeof(real));
        real *h = DOWN(a[i].lora.h, N * R), *y = a[i].y ? down(a[i].y, bytes) : NULL;
        gpu.ops->linear_forward(&gpu, &a[i], 1);
        same("h", DOWN(a[i].lora.h, N * R), h, N * R * sizeof *h);
        if (y)
            same("y", down(a[i].y, bytes), y, bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(every_format_in_both_precisions), ON_DEVICE(slabs), ON_DEVICE(adapters), ON_DEVICE(dropout_has_the_cpus_masks), ON_DEVICE(few_rows), ON_DEVICE(a_group_is_its_members),
    };
    return cmocka_run_group_tests_name("linear_cuda", tests, NULL, NULL);
}
