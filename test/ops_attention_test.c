/* ops_attention_test.c: attention, and that of decoding from a cache of reals or f16: the fast table against the plain reference; the same bits for 1, 2 and 3
 * threads; every buffer ends at a page that may not be touched.  Bounds as in ops_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "half.h"
#include "ops_checks.h"

struct attention_result {
    real *out, *lse, *dq, *dk, *dv;
};

static struct attention_result attention_run(const struct ops *ops, int threads, struct attention_args a, bool backward)
{
    struct ops_context c = context_new(ops, threads);
    size_t nq = a.n * (size_t)(a.H * a.D), nk = a.n * (size_t)(a.KV * a.D);
    struct attention_result t = {zeros(nq), zeros(a.n * (size_t)a.H), zeros(nq), zeros(nk), zeros(nk)};
    a.out = t.out, a.lse = t.lse, a.dq = t.dq, a.dk = t.dk, a.dv = t.dv;
    ops->attention_forward(&c, &a);
    if (backward)
        ops->attention_backward(&c, &a);
    return t;
}

/* Scores are off by at most delta = gamma(D+2) max|q||k| / sqrt(D), so P by a factor within e^(2 delta) and the roundings of exp and
 * sum; P sums to 1, so out by that times max |v|.  ds = P (dP - dout.out) / sqrt(D), each factor with its own share. */
static void attention_check(struct attention_args a, size_t longest, bool backward)
{
    size_t D = (size_t)a.D, group = (size_t)(a.H / a.KV), nq = a.n * (size_t)a.H * D, nk = a.n * (size_t)a.KV * D;
    struct attention_result want = attention_run(cpu_ops(true), 1, a, backward);
    struct attention_result got = attention_run(cpu_ops(false), 2, a, backward);
    double root = sqrt((double)D), q = largest(a.q, nq), k = largest(a.k, nk), v = largest(a.v, nk), d = largest(a.dout, nq);
    double score = (double)D * q * k / root, delta = gamma_of(D + 4) * score + 4 * U * (score + 8);
    double P = exp(2 * delta) - 1 + gamma_of(longest + 16), dP = (double)D * d * v;
    double ds = (P + gamma_of(D + 8)) * 2 * dP / root, whole = 2 * dP / root * gamma_of(longest * group + 8);
    check_within("out", got.out, want.out, P * v, nq);
    check_within("lse", got.lse, want.lse, 2 * delta + gamma_of(longest + 16), a.n * (size_t)a.H);
    if (backward) {
        check_within("dq", got.dq, want.dq, (ds + whole) * k, nq);
        check_within("dk", got.dk, want.dk, (double)(longest * group) * (ds + whole) * q, nk);
        check_within("dv", got.dv, want.dv, (double)(longest * group) * (P + gamma_of(longest * group + 8)) * d, nk);
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        struct attention_result other = attention_run(cpu_ops(false), threads, a, backward);
        same_bits("out", other.out, got.out, nq);
        same_bits("dq", other.dq, got.dq, nq);
        same_bits("dk", other.dk, got.dk, nk);
        same_bits("dv", other.dv, got.dv, nk);
    }
}

static void attention_case(int32_t H, int32_t KV, int32_t D, int32_t prefix)
{
    struct segment segments[SHAPES + 1];
    int32_t n = 0, count = 0;
    if (prefix > 0)
        segments[count++] = (struct segment){.start = 0, .len = prefix}, n = prefix;
    for (size_t i = 0; i < SHAPES; i++) {
        segments[count++] = (struct segment){.start = n, .len = (int32_t)shapes[i], .prefix_start = 0, .prefix_len = prefix};
        n += (int32_t)shapes[i];
    }
    size_t nq = (size_t)(n * H * D), nk = (size_t)(n * KV * D);
    struct attention_args a = {.segments = segments, .n_segments = (size_t)count, .n = (size_t)n, .H = H, .KV = KV, .D = D,
                               .q = normals(nq, 1, 1), .k = normals(nk, 2, 1), .v = normals(nk, 3, 1), .dout = normals(nq, 4, 1)};
    attention_check(a, MOST + (size_t)prefix, prefix == 0);
    walls_down(&walls);
}

static void test_attention(void **state)
{
    (void)state;
    attention_case(6, 2, 24, 0);
    attention_case(3, 3, 7, 0);
    attention_case(4, 1, 64, 0);
    attention_case(6, 2, 24, 5);
    attention_case(2, 1, 16, 70);
}

/* ---- decoding ---- */

/* Rows of k and v that a cache of keys and values holds, the same as f16 has them, and the query of the last n. */
struct decoding {
    size_t n, past, capacity, H, KV, D;
    const real *q, *k, *v;
};

static struct decode_args cache_of(const struct decoding *t, enum format type)
{
    size_t bytes = t->KV * t->capacity * t->D * cache_number_bytes(type);
    struct decode_args a = {.q = t->q, .cache_type = type, .capacity = t->capacity, .H = (int32_t)t->H, .KV = (int32_t)t->KV, .D = (int32_t)t->D};
    a.out = zeros(t->n * t->H * t->D);
    a.k_cache = memset(walled(&walls, bytes), 0xff, bytes); /* rows that no call wrote are NaN: nobody may read them */
    a.v_cache = memset(walled(&walls, bytes), 0xff, bytes);
    return a;
}

/* Rows from .. from+n-1 join the cache. */
static void keep(const struct ops_context *c, struct decode_args *a, const struct decoding *t, size_t from, size_t n)
{
    size_t row = t->KV * t->D;
    a->k = t->k + from * row;
    a->v = t->v + from * row;
    a->past = from;
    a->n = n;
    if (n > 0)
        c->ops->attention_keep(c, a);
}

static real *decode_run(const struct ops *ops, int threads, const struct decoding *t, enum format type)
{
    struct ops_context c = context_new(ops, threads);
    struct decode_args a = cache_of(t, type);
    keep(&c, &a, t, 0, t->past);
    keep(&c, &a, t, t->past, t->n);
    ops->attention_decode(&c, &a);
    return a.out;
}

static real *halves_of(const real *x, size_t n)
{
    real *y = zeros(n);
    for (size_t i = 0; i < n; i++)
        y[i] = (real)half_of((double)x[i]);
    return y;
}

/* A cache in f16 is one of reals that were rounded before: to the last bit in the reference, so that the bound of the fast table is that of its sums alone, and so
 * it is there. */
static void decoding_check(struct decoding t)
{
    size_t nq = t.n * t.H * t.D, nk = (t.past + t.n) * t.KV * t.D;
    struct decoding rounded = t;
    rounded.k = halves_of(t.k, nk);
    rounded.v = halves_of(t.v, nk);
    const real *want[2] = {decode_run(cpu_ops(true), 1, &t, FORMAT_F32), decode_run(cpu_ops(true), 1, &rounded, FORMAT_F32)};
    same_bits("reference of f16", decode_run(cpu_ops(true), 2, &t, FORMAT_F16), want[1], nq);
    double score = sqrt((double)t.D) * largest(t.q, nq) * largest(t.k, nk), delta = gamma_of(t.D + 4) * score + 4 * U * (score + 8);
    for (int f16 = 0; f16 < 2; f16++) {
        enum format type = f16 ? FORMAT_F16 : FORMAT_F32;
        const real *got = decode_run(cpu_ops(false), 1, &t, type);
        if (f16)
            same_bits("f16", decode_run(cpu_ops(false), 1, &rounded, FORMAT_F32), got, nq);
        check_within("decode", got, want[f16], (exp(2 * delta) - 1 + gamma_of(t.past + t.n + 16)) * largest(t.v, nk), nq);
        for (int threads = 2; threads <= 3; threads++)
            same_bits("decode", decode_run(cpu_ops(false), threads, &t, type), got, nq);
    }
    walls_down(&walls);
}

static void test_attention_decode(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{1, 0}, {1, 100}, {3, 5}, {8, 64}, {9, 0}, {70, 100}, {330, 20}};
    static const size_t heads[][3] = {{6, 2, 24}, {3, 3, 7}, {8, 1, 64}, {4, 1, 61}, {2, 1, 44}};
    for (size_t s = 0; s < sizeof heads / sizeof *heads; s++)
        for (size_t t = 0; t < sizeof cases / sizeof *cases; t++) {
            struct decoding d = {.n = cases[t][0], .past = cases[t][1], .capacity = cases[t][0] + cases[t][1] + 3, .H = heads[s][0], .KV = heads[s][1], .D = heads[s][2]};
            size_t nk = (d.past + d.n) * d.KV * d.D;
            d.q = normals(d.n * d.H * d.D, 1, 1);
            d.k = normals(nk, 2, 1);
            d.v = normals(nk, 3, 1);
            decoding_check(d);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_decode)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
