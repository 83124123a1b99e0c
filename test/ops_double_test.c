/* Gradients of every kernel with a backward, by central differences in double, for the reference and the fast table (whose
 * sources are the ones that train in float); and values that can be worked out by hand.
 *
 * Tolerance: with steps of 1e-5 a central difference of these smooth functions is off by h^2 f'''/6 (about 1e-10) and by rounding
 * 2^-53 |L| / h (about 1e-11 |L|): 1e-6 of the largest gradient leaves room for every constant and none for a wrong term. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/rng.h"
#include "ops.h"

static const struct ops *tables[2];

static struct ops_context context_new(const struct ops *ops)
{
    struct ops_context c = {.ops = ops, .threads = 2};
    size_t reals = ops->scratch_size(&c, 200, 200, 64, 200, 200);
    c.scratch = aligned_alloc(64, reals * sizeof(real));
    assert_non_null(c.scratch);
    return c;
}

static real *random_reals(size_t n, uint32_t step, double size)
{
    struct rng rng = {.seed = 7, .stream = RNG_INIT, .step = step};
    real *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = size * rng_normal(&rng);
    return x;
}

static real *zeros(size_t n)
{
    real *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

static double dot(const real *a, const real *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

typedef double loss_function(void *user);

/* dx is the claimed gradient of loss in x[n]; at most about 300 elements are tried. */
static void check_gradient(const char *what, real *x, const real *dx, size_t n, loss_function *loss, void *user)
{
    double largest = 1e-3, worst = 0;
    size_t step = n / 300 + 1;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(dx[i]));
    for (size_t i = 0; i < n; i += step) {
        double keep = x[i], h = 1e-5;
        x[i] = keep + h;
        double above = loss(user);
        x[i] = keep - h;
        double below = loss(user);
        x[i] = keep;
        double error = fabs((above - below) / (2 * h) - dx[i]) / largest;
        worst = error > worst || isnan(error) ? error : worst;
    }
    if (!(worst <= 1e-6))
        print_error("gradient of %s: off by %g of the largest\n", what, worst);
    assert_true(worst <= 1e-6);
}

/* ---- linear ---- */

struct linear_case {
    struct ops_context c;
    struct linear_args a;
    const real *w; /* weights of the loss, [n, out] */
};

static double linear_loss(void *user)
{
    struct linear_case *t = user;
    t->c.ops->linear_forward(&t->c, &t->a, 1);
    return dot(t->a.y, t->w, t->a.n * t->a.W->rows);
}

static void linear_gradients(const struct ops *ops, size_t n, size_t out, size_t in, int32_t r, float dropout)
{
    struct linear_case t = {.c = context_new(ops), .w = random_reals(n * out, 1, 1)};
    struct qmat W = {.format = FORMAT_F32, .rows = out, .cols = in, .codes = random_reals(out * in, 2, 0.3)};
    real *x = random_reals(n * in, 3, 1), *bias = random_reals(out, 4, 1);
    size_t rank = (size_t)r;
    real *A = random_reals(rank * in + 1, 5, 0.3), *B = random_reals(out * rank + 1, 6, 0.3);
    t.a = (struct linear_args){.W = &W, .bias = bias, .n = n, .x = x, .y = zeros(n * out), .dy = t.w, .dx = zeros(n * in),
                               .dW = zeros(out * in), .dbias = zeros(out)};
    t.a.lora = (struct lora_args){.r = r, .s = 0.7, .A = A, .B = B, .dA = zeros(rank * in + 1), .dB = zeros(out * rank + 1),
                                  .h = zeros(n * rank + 1), .mask = (uint32_t *)(void *)zeros(n * mask_words(in)), .dropout = dropout, .seed = 11, .step = 3, .index0 = 1234567};
    linear_loss(&t);
    ops->linear_backward(&t.c, &t.a);
    check_gradient("linear x", x, t.a.dx, n * in, linear_loss, &t);
    check_gradient("linear W", W.codes, t.a.dW, out * in, linear_loss, &t);
    check_gradient("linear bias", bias, t.a.dbias, out, linear_loss, &t);
    check_gradient("linear A", A, t.a.lora.dA, rank * in, linear_loss, &t);
    check_gradient("linear B", B, t.a.lora.dB, out * rank, linear_loss, &t);
    /* dx += and gradients of parameters are added to */
    linear_loss(&t);
    t.a.dx_add = true;
    real once = t.a.dx[0], onceW = t.a.dW[0], onceA = t.a.lora.dA[0];
    ops->linear_backward(&t.c, &t.a);
    assert_true(fabs(t.a.dx[0] - 2 * once) <= 1e-12 * fabs(once) && fabs(t.a.dW[0] - 2 * onceW) <= 1e-12 * fabs(onceW));
    assert_true(fabs(t.a.lora.dA[0] - 2 * onceA) <= 1e-12 * fabs(onceA));
    real *all[] = {t.c.scratch, (real *)t.w, W.codes, x, bias, A, B, t.a.y, t.a.dx, t.a.dW, t.a.dbias, t.a.lora.dA, t.a.lora.dB,
                   t.a.lora.h, (real *)(void *)t.a.lora.mask};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_linear(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        linear_gradients(tables[k], 1, 5, 3, 0, 0);
        linear_gradients(tables[k], 37, 12, 18, 4, 0);
        linear_gradients(tables[k], 70, 67, 35, 3, 0.25f);
        linear_gradients(tables[k], 5, 1, 130, 1, 0.5f);
    }
}

/* ---- attention ---- */

struct attention_case {
    struct ops_context c;
    struct attention_args a;
    const real *w;
};

static double attention_loss(void *user)
{
    struct attention_case *t = user;
    t->c.ops->attention_forward(&t->c, &t->a);
    return dot(t->a.out, t->w, t->a.n * (size_t)(t->a.H * t->a.D));
}

static void attention_gradients(const struct ops *ops, const int32_t *lengths, size_t n_segments, int32_t H, int32_t KV, int32_t D)
{
    struct segment segments[8] = {{0, 0, 0, 0}};
    size_t n = 0;
    for (size_t i = 0; i < n_segments; i++) {
        segments[i] = (struct segment){.start = (int32_t)n, .len = lengths[i]};
        n += (size_t)lengths[i];
    }
    size_t nq = n * (size_t)(H * D), nk = n * (size_t)(KV * D);
    struct attention_case t = {.c = context_new(ops), .w = random_reals(nq, 1, 1)};
    real *q = random_reals(nq, 2, 1), *k = random_reals(nk, 3, 1), *v = random_reals(nk, 4, 1);
    t.a = (struct attention_args){.segments = segments, .n_segments = n_segments, .n = n, .H = H, .KV = KV, .D = D, .q = q, .k = k,
                                  .v = v, .out = zeros(nq), .lse = zeros(n * (size_t)H), .dout = t.w, .dq = zeros(nq),
                                  .dk = zeros(nk), .dv = zeros(nk)};
    attention_loss(&t);
    ops->attention_backward(&t.c, &t.a);
    check_gradient("attention q", q, t.a.dq, nq, attention_loss, &t);
    check_gradient("attention k", k, t.a.dk, nk, attention_loss, &t);
    check_gradient("attention v", v, t.a.dv, nk, attention_loss, &t);
    real *all[] = {t.c.scratch, (real *)t.w, q, k, v, t.a.out, t.a.lse, t.a.dq, t.a.dk, t.a.dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_attention(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        attention_gradients(tables[k], (int32_t[]){1}, 1, 1, 1, 2);
        attention_gradients(tables[k], (int32_t[]){1, 7, 3}, 3, 4, 2, 6);
        attention_gradients(tables[k], (int32_t[]){70, 1, 33}, 3, 6, 2, 4);
        attention_gradients(tables[k], (int32_t[]){64, 65}, 2, 3, 3, 8);
    }
}

/* ---- RMSNorm, SwiGLU, RoPE, embedding ---- */

struct small_case {
    struct ops_context c;
    size_t n, C;
    real *x, *g, *up, *y, *s, *copy;
    const int32_t *index;
    const float *inv_freq;
    const real *w;
};

static double rmsnorm_loss(void *user)
{
    struct small_case *t = user;
    t->c.ops->rmsnorm_forward(&t->c, t->y, t->s, t->x, t->g, 1e-5, t->n, t->C);
    return dot(t->y, t->w, t->n * t->C);
}

static double swiglu_loss(void *user)
{
    struct small_case *t = user;
    t->c.ops->swiglu_forward(&t->c, t->y, t->x, t->up, t->n * t->C);
    return dot(t->y, t->w, t->n * t->C);
}

static double rope_loss(void *user)
{
    struct small_case *t = user;
    memcpy(t->y, t->x, t->n * t->C * sizeof(real));
    real angles[8 * 6];
    t->c.ops->rope_angles(&t->c, angles, t->index, t->inv_freq, (real)1.25, t->n, 6);
    t->c.ops->rope(&t->c, t->y, angles, t->n, t->C / 6, 6, false);
    return dot(t->y, t->w, t->n * t->C);
}

static double embed_loss(void *user)
{
    struct small_case *t = user;
    struct qmat W = {.format = FORMAT_F32, .rows = 5, .cols = t->C, .codes = t->x};
    t->c.ops->embed_forward(&t->c, &W, t->index, t->n, t->y);
    return dot(t->y, t->w, t->n * t->C);
}

static void small_gradients(const struct ops *ops, size_t n, size_t C)
{
    static const int32_t index[8] = {0, 3, 1, 3, 4, 3, 0, 2};
    static const float inv_freq[3] = {1, 0.1f, 0.01f};
    size_t m = n * C, room = m > 5 * C ? m : 5 * C; /* the embedding has five rows */
    struct small_case t = {.c = context_new(ops), .n = n, .C = C, .x = random_reals(room, 1, 1),
                           .g = random_reals(C, 2, 1), .up = random_reals(m, 3, 1), .y = zeros(m), .s = zeros(n),
                           .index = index, .inv_freq = inv_freq, .w = random_reals(m, 4, 1)};
    real *dx = zeros(room), *dg = zeros(C), *dup = zeros(m);
    rmsnorm_loss(&t);
    ops->rmsnorm_backward(&t.c, dx, dg, t.w, t.x, t.g, t.s, n, C);
    check_gradient("rmsnorm x", t.x, dx, m, rmsnorm_loss, &t);
    check_gradient("rmsnorm g", t.g, dg, C, rmsnorm_loss, &t);
    ops->swiglu_backward(&t.c, dx, dup, t.w, t.x, t.up, m);
    check_gradient("swiglu gate", t.x, dx, m, swiglu_loss, &t);
    check_gradient("swiglu up", t.up, dup, m, swiglu_loss, &t);
    memcpy(dx, t.w, m * sizeof(real));
    real angles[8 * 6];
    ops->rope_angles(&t.c, angles, index, inv_freq, (real)1.25, n, 6);
    ops->rope(&t.c, dx, angles, n, C / 6, 6, true);
    check_gradient("rope x", t.x, dx, m, rope_loss, &t);
    memset(dx, 0, 5 * C * sizeof(real));
    ops->embed_backward(&t.c, dx, index, n, C, t.w);
    check_gradient("embedding", t.x, dx, 5 * C, embed_loss, &t);
    real *all[] = {t.c.scratch, t.x, t.g, t.up, t.y, t.s, (real *)t.w, dx, dg, dup};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_small(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        small_gradients(tables[k], 1, 6);
        small_gradients(tables[k], 8, 18);
        small_gradients(tables[k], 7, 66);
    }
}

/* ---- head ---- */

struct head_case {
    struct ops_context c;
    struct head_args a;
};

static double head_loss(void *user)
{
    struct head_case *t = user;
    struct head_args a = t->a;
    a.dx = a.dW = NULL;
    t->c.ops->head_loss(&t->c, &a);
    double sum = 0;
    for (size_t i = 0; i < a.n; i++)
        sum += a.nll[i];
    return a.scale * sum;
}

static void head_gradients(const struct ops *ops, size_t n, size_t V, size_t C)
{
    struct qmat W = {.format = FORMAT_F32, .rows = V, .cols = C, .codes = random_reals(V * C, 1, 0.5)};
    int32_t *labels = malloc(n * sizeof *labels);
    double *nll = malloc(n * sizeof *nll);
    assert_true(labels && nll);
    for (size_t i = 0; i < n; i++)
        labels[i] = i % 3 == 1 ? -1 : (int32_t)((i * 31) % V);
    real *x = random_reals(n * C, 2, 1);
    struct head_case t = {.c = context_new(ops), .a = {.W = &W, .n = n, .x = x, .labels = labels, .nll = nll, .scale = 0.3,
                                                      .dx = random_reals(n * C, 3, 1), .dW = zeros(V * C)}};
    ops->head_loss(&t.c, &t.a);
    check_gradient("head x", x, t.a.dx, n * C, head_loss, &t);
    check_gradient("head W", W.codes, t.a.dW, V * C, head_loss, &t);
    void *all[] = {W.codes, labels, nll, x, t.c.scratch, t.a.dx, t.a.dW};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void test_head(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        head_gradients(tables[k], 1, 2, 3);
        head_gradients(tables[k], 7, 67, 5);
        head_gradients(tables[k], 200, 130, 9);
    }
}

/* ---- by hand ---- */

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * (1 + fabs(want))))
        print_error("got %.17g, want %.17g\n", got, want);
    assert_true(fabs(got - want) <= 1e-12 * (1 + fabs(want)));
}

static void by_hand(const struct ops *ops)
{
    struct ops_context c = context_new(ops);
    real y[8], s[2];

    /* mean of 9 and 16 is 12.5 */
    ops->rmsnorm_forward(&c, y, s, (real[]){3, 4}, (real[]){1, 2}, 0, 1, 2);
    near(s[0], 1 / sqrt(12.5));
    near(y[1], 8 / sqrt(12.5));
    real in_place[2] = {3, 4};
    ops->rmsnorm_forward(&c, in_place, s, in_place, (real[]){1, 2}, 0, 1, 2);
    near(in_place[0], 3 / sqrt(12.5));

    /* y = [1 2; 3 4] [5 6]^T + [10 20] + 2 * [1 0]^T (1*5 - 1*6) */
    struct qmat W = {.format = FORMAT_F32, .rows = 2, .cols = 2, .codes = (real[]){1, 2, 3, 4}};
    struct linear_args a = {.W = &W, .bias = (real[]){10, 20}, .n = 1, .x = (real[]){5, 6}, .y = y,
                            .lora = {.r = 1, .s = 2, .A = (real[]){1, -1}, .B = (real[]){1, 0}, .h = s}};
    ops->linear_forward(&c, &a, 1);
    near(y[0], 5 + 12 + 10 - 2);
    near(y[1], 15 + 24 + 20);
    near(s[0], -1);

    /* a quarter turn is impossible in one radian: cos and sin of 1 */
    real turned[2] = {1, 0}, angles[2];
    ops->rope_angles(&c, angles, (int32_t[]){1}, (float[]){1}, 1, 1, 2);
    ops->rope(&c, turned, angles, 1, 1, 2, false);
    near(turned[0], cos(1));
    near(turned[1], sin(1));
    ops->rope(&c, turned, angles, 1, 1, 2, true);
    near(turned[0], 1);
    near(turned[1], 0);

    ops->swiglu_forward(&c, y, (real[]){1, -800}, (real[]){2, 1}, 2);
    near(y[0], 2 / (1 + exp(-1)));
    near(y[1], 0);

    /* two keys, the query sees scores log 3 and 0: weights 3/4 and 1/4 */
    struct segment segment = {.start = 0, .len = 2};
    real lse[2], k2 = log(3);
    struct attention_args t = {.segments = &segment, .n_segments = 1, .n = 2, .H = 1, .KV = 1, .D = 1, .q = (real[]){1, 1},
                               .k = (real[]){k2, 0}, .v = (real[]){8, 4}, .out = y, .lse = lse};
    ops->attention_forward(&c, &t);
    near(y[0], 8);
    near(y[1], 7);
    near(lse[1], log(4));
    real kept[2][2];
    struct decode_args d = {.out = y, .q = t.q, .k = t.k, .v = t.v, .k_cache = kept[0], .v_cache = kept[1], .cache_type = FORMAT_F32, .n = 2, .capacity = 2,
                            .H = 1, .KV = 1, .D = 1};
    ops->attention_keep(&c, &d);
    ops->attention_decode(&c, &d);
    near(y[0], 8);
    near(y[1], 7);
    /* the same as prefix of one row and a sequence of one row */
    struct segment shared[2] = {{.start = 0, .len = 1}, {.start = 1, .len = 1, .prefix_start = 0, .prefix_len = 1}};
    t.segments = shared;
    t.n_segments = 2;
    ops->attention_forward(&c, &t);
    near(y[1], 7);

    /* logits 0, log 2, 0 against label 1: probability 1/2; row 1 has no label; row 2 a tie, which the first of the two wins */
    struct qmat head = {.format = FORMAT_F32, .rows = 3, .cols = 1, .codes = (real[]){0, log(2), 0}};
    double nll[3] = {9, 9, 9};
    uint8_t greedy[3] = {9, 9, 9};
    real dx[3] = {9, 9, 9}, dW[3] = {0};
    struct head_args h = {.W = &head, .n = 3, .x = (real[]){1, 1, -1}, .labels = (int32_t[]){1, -1, 2}, .nll = nll,
                          .greedy = greedy, .dx = dx, .dW = dW, .scale = 4};
    ops->head_loss(&c, &h);
    near(nll[0], log(2));
    near(nll[1], 0);
    near(nll[2], log(2.5));
    assert_true(greedy[0] == 1 && greedy[1] == 0 && greedy[2] == 0);
    near(dx[0], 4 * -0.5 * log(2));
    near(dx[1], 0);
    near(dx[2], 4 * 0.2 * log(2));
    near(dW[0], 4 * (0.25 - 0.4));
    free(c.scratch);
}

static void by_hand_optimizer(const struct ops *ops)
{
    struct ops_context c = context_new(ops);
    /* first step: mhat = g, vhat = g^2, so p moves by lr against the sign of g, after decaying by lr wd */
    real p[2] = {1, 1}, m[2] = {0}, v[2] = {0};
    struct adamw_args a = {.n = 2, .p = p, .g = (real[]){4, -0.5}, .m = m, .v = v, .grad_scale = 0.5, .lr = 0.1, .beta1 = 0.9,
                           .beta2 = 0.99, .eps = 0, .weight_decay = 0.2, .t = 1};
    ops->adamw(&c, &a);
    near(p[0], 1 - 0.02 - 0.1);
    near(p[1], 1 - 0.02 + 0.1);
    near(m[0], 0.2);
    near(v[0], 0.04);

    real x[5000];
    for (size_t i = 0; i < 5000; i++)
        x[i] = 2;
    near(ops->sum_squares(&c, x, 5000), 20000);

    struct qmat W = {.format = FORMAT_F32, .rows = 2, .cols = 2, .codes = (real[]){1, -2, 3, 4}};
    const real G[4] = {1, 1, -1, 1}, F[4] = {2, 2, 2, 0};
    static const double want[][4] = {
        [SALIENCE_VECTORIZE] = {-1, 1, -2, 2}, [SALIENCE_PARAM_FIRST] = {3, 7, 4, 6}, [SALIENCE_PARAM_SECOND] = {10, 18, 20, 8},
        [SALIENCE_PARAM_MIX] = {6, 16, 12, 10}, [SALIENCE_L1] = {3, 7, 4, 6},         [SALIENCE_L2] = {5, 25, 10, 20},
    };
    for (int kind = SALIENCE_VECTORIZE; kind <= SALIENCE_L2; kind++) {
        double rows[2] = {100, 100}, cols[2] = {100, 100};
        ops->salience(&c, (enum salience)kind, &W, G, F, rows, cols);
        for (int i = 0; i < 2; i++) {
            near(rows[i], 100 + want[kind][i]);
            near(cols[i], 100 + want[kind][2 + i]);
        }
    }
    free(c.scratch);
}

static void test_by_hand(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        by_hand(tables[k]);
        by_hand_optimizer(tables[k]);
    }
}

int main(void)
{
    tables[0] = cpu_ops(true);
    tables[1] = cpu_ops(false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand), cmocka_unit_test(test_linear), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_small),   cmocka_unit_test(test_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
