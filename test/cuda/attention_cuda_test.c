/* Attention of the CUDA table: tensor cores at head sizes 64 and 128, plain kernels else and in f32; packed sequences, shared prefixes, grouped heads,
 * lengths that are no multiple of a tile; decoding in splits, prompts over a cache.
 *
 * Bounds.  Scores, weights P and everything behind them are computed here in double, with the size of each sum.  q, k, v and dout are numbers that bf16
 * holds, so that they are exact as acts of either type and products are exact too; with tensor cores P and dS are rounded to bf16 (2^-8 each) before the
 * second product.  Scores are off by gamma(D + 4) sum |q||k| scale plus the exponential's own error (4 u and u |s - max|): eps below, relative for P.
 * Backward is given the reference's `out` as the device holds it, and so is the reference: what out lost as an act is in no bound.  check_acts: what each
 * result loses as an act. */
#include "half.h"
#include "on_device.h"

struct shape {
    int n, H, KV, D;
    int n_segments;
    struct segment segments[6];
};

/* Lengths around the tile of 64; rows 70 .. 75 of `ragged` belong to no segment; the endings of `shared` read a common prefix. */
static const struct shape one = {70, 2, 1, 64, 1, {{0, 70, 0, 0}}};
static const struct shape wide = {96, 2, 2, 128, 2, {{0, 65, 0, 0}, {65, 31, 0, 0}}};
static const struct shape ragged = {140, 4, 2, 64, 4, {{0, 1, 0, 0}, {1, 69, 0, 0}, {76, 63, 0, 0}, {139, 1, 0, 0}}};
static const struct shape odd = {37, 3, 1, 20, 2, {{0, 33, 0, 0}, {33, 4, 0, 0}}};
static const struct shape shared = {150, 2, 1, 64, 4, {{0, 90, 0, 0}, {90, 5, 0, 90}, {95, 20, 0, 90}, {115, 35, 3, 60}}};
static const struct shape far = {260, 1, 1, 128, 3, {{0, 30, 0, 0}, {30, 100, 0, 0}, {130, 130, 0, 30}}};

/* What one query sees. */
struct row {
    int keys, key[512];
    double P[512], s[512], s_size[512], eps[512], lse; /* eps: relative error of P */
};

static void see(struct row *r, const struct shape *t, const real *q, const real *k, int i, int h)
{
    int kv = h / (t->H / t->KV);
    double most = -INFINITY, worst = 0, sum = 0, scale = 1 / sqrt(t->D);
    r->keys = 0;
    for (int g = 0; g < t->n_segments; g++) {
        const struct segment *s = &t->segments[g];
        if (i < s->start || i >= s->start + s->len)
            continue;
        for (int j = s->prefix_start; j < s->prefix_start + s->prefix_len; j++)
            r->key[r->keys++] = j;
        for (int j = s->start; j <= i; j++)
            r->key[r->keys++] = j;
    }
    for (int j = 0; j < r->keys; j++) {
        r->s[j] = r->s_size[j] = 0;
        for (int d = 0; d < t->D; d++) {
            double p = (double)q[(i * t->H + h) * t->D + d] * (double)k[(r->key[j] * t->KV + kv) * t->D + d] * scale;
            r->s[j] += p;
            r->s_size[j] += fabs(p);
        }
        most = fmax(most, r->s[j]);
        worst = fmax(worst, r->s_size[j]);
    }
    for (int j = 0; j < r->keys; j++)
        sum += exp(r->s[j] - most);
    r->lse = most + log(sum);
    for (int j = 0; j < r->keys; j++) {
        r->P[j] = exp(r->s[j] - r->lse);
        /* of its score, of the exponential, of the sum and lse */
        r->eps[j] = gamma_of(t->D + 4) * (r->s_size[j] + worst) + (8 + fabs(r->s[j] - r->lse) + fabs(r->lse)) * 2 * UNIT + gamma_of(r->keys);
    }
}

struct arrays {
    real *q, *k, *v, *dout, *out, *lse, *dq, *dk, *dv;
    real *out_size, *lse_size, *dq_size, *dk_size, *dv_size; /* bounds */
};

static void add_key(const struct shape *t, const struct arrays *a, const struct row *r, int i, int h, int j, double P_off, double S_off)
{
    int kv = h / (t->H / t->KV);
    size_t q = (size_t)(i * t->H + h) * (size_t)t->D, k = (size_t)(r->key[j] * t->KV + kv) * (size_t)t->D;
    double dP = 0, delta = 0, dP_size = 0, delta_size = 0, scale = 1 / sqrt(t->D), eps = r->eps[j];
    for (int d = 0; d < t->D; d++) {
        dP += (double)a->dout[q + (size_t)d] * (double)a->v[k + (size_t)d];
        dP_size += fabs((double)a->dout[q + (size_t)d] * (double)a->v[k + (size_t)d]);
        delta += (double)a->dout[q + (size_t)d] * (double)a->out[q + (size_t)d];
        delta_size += fabs((double)a->dout[q + (size_t)d] * (double)a->out[q + (size_t)d]);
    }
    double dS = r->P[j] * (dP - delta) * scale;
    double off = fabs(dS) * (eps + S_off + 4 * UNIT) + r->P[j] * scale * (gamma_of(t->D + 4) * (dP_size + delta_size));
    double chain = gamma_of(t->n * (t->H / t->KV) + 4); /* of the second product's sum */
    for (int d = 0; d < t->D; d++) {
        a->dq[q + (size_t)d] += (real)(dS * (double)a->k[k + (size_t)d]);
        a->dk[k + (size_t)d] += (real)(dS * (double)a->q[q + (size_t)d]);
        a->dv[k + (size_t)d] += (real)(r->P[j] * (double)a->dout[q + (size_t)d]);
        a->dq_size[q + (size_t)d] += (real)((off + chain * fabs(dS)) * fabs((double)a->k[k + (size_t)d]));
        a->dk_size[k + (size_t)d] += (real)((off + chain * fabs(dS)) * fabs((double)a->q[q + (size_t)d]));
        a->dv_size[k + (size_t)d] += (real)(r->P[j] * (eps + P_off + chain) * fabs((double)a->dout[q + (size_t)d]));
    }
}

/* out and lse.  Sums of floats here; 2 gamma more for them, in `check`. */
static void expect(const struct shape *t, const struct arrays *a, bool halves)
{
    static struct row r;
    for (int i = 0; i < t->n; i++)
        for (int h = 0; h < t->H; h++) {
            size_t at = (size_t)(i * t->H + h);
            see(&r, t, a->q, a->k, i, h);
            if (r.keys == 0)
                continue;
            a->lse[at] = (real)r.lse;
            a->lse_size[at] = (real)r.eps[0];
            for (int d = 0; d < t->D; d++) {
                double sum = 0, size = 0;
                for (int j = 0; j < r.keys; j++) {
                    double v = (double)a->v[(size_t)((r.key[j] * t->KV + h / (t->H / t->KV)) * t->D + d)];
                    sum += r.P[j] * v;
                    size += r.P[j] * fabs(v) * (r.eps[j] + (halves ? HALF_UNIT : 0) + gamma_of(r.keys + 8));
                }
                a->out[at * (size_t)t->D + (size_t)d] = (real)sum;
                a->out_size[at * (size_t)t->D + (size_t)d] = (real)size;
            }
        }
}

/* dq, dk and dv, from `out` as it is there. */
static void expect_backward(const struct shape *t, const struct arrays *a, bool halves)
{
    static struct row r;
    for (int i = 0; i < t->n; i++)
        for (int h = 0; h < t->H; h++) {
            see(&r, t, a->q, a->k, i, h);
            for (int j = 0; j < r.keys; j++)
                add_key(t, a, &r, i, h, j, halves ? HALF_UNIT : 0, halves ? HALF_UNIT : 0);
        }
}

static struct arrays arrays_of(const struct shape *t)
{
    size_t nq = (size_t)(t->n * t->H * t->D), nk = (size_t)(t->n * t->KV * t->D), nl = (size_t)(t->n * t->H);
    return (struct arrays){normal_halves(nq, 1, 1), normal_halves(nk, 2, 1), normal_halves(nk, 3, 1), normal_halves(nq, 4, 1), zeros(nq), zeros(nl), zeros(nq),
                           zeros(nk), zeros(nk), zeros(nq), zeros(nl), zeros(nq), zeros(nk), zeros(nk)};
}

/* Acts as the device's context holds them. */
static void hold(real *x, size_t n)
{
    for (size_t i = 0; act_in_halves(&gpu) && i < n; i++)
        x[i] = f32_from_bf16(bf16_from_f32(x[i]));
}

/* Rows of no segment keep what was there: NaN, which is not looked at. */
static void blank(const struct shape *t, real *x, size_t width)
{
    for (int i = 0; i < t->n; i++) {
        bool inside = false;
        for (int g = 0; g < t->n_segments; g++)
            inside = inside || (i >= t->segments[g].start && i < t->segments[g].start + t->segments[g].len);
        for (size_t j = 0; !inside && j < width; j++) {
            assert_true(isnan(x[(size_t)i * width + j]));
            x[(size_t)i * width + j] = 0;
        }
    }
}

/* What is stored as an act is rounded once more, by h = 2^-8 of itself in bf16: |bf16(x) - want| <= (1 + h) |x - want| + h |want|. */
static void check_acts(const char *what, const real *got, const real *want, const real *size, double factor, size_t n)
{
    double h = act_in_halves(&gpu) ? HALF_UNIT : 0;
    check(what, got, want, size, factor * (1 + h), 2 + h / UNIT, n);
}

static void attention(const struct shape *t, enum compute compute)
{
    struct arrays a = arrays_of(t);
    bool halves = compute == COMPUTE_BF16 && (t->D == 64 || t->D == 128), backward = true;
    size_t nq = (size_t)(t->n * t->H * t->D), nk = (size_t)(t->n * t->KV * t->D), nl = (size_t)(t->n * t->H);
    for (int g = 0; g < t->n_segments; g++)
        backward = backward && t->segments[g].prefix_len == 0;
    set_compute(compute);
    expect(t, &a, halves);
    struct attention_args g = {.segments = UP(t->segments, (size_t)t->n_segments), .n_segments = (size_t)t->n_segments, .n = (size_t)t->n, .H = t->H, .KV = t->KV, .D = t->D,
                               .q = up_acts(a.q, nq), .k = up_acts(a.k, nk), .v = up_acts(a.v, nk), .out = up_nan_acts(nq), .lse = up_nan(nl), .dout = up_acts(a.dout, nq),
                               .dq = up_nan_acts(nq), .dk = up_nan_acts(nk), .dv = up_nan_acts(nk)};
    gpu.ops->attention_forward(&gpu, &g);
    real *out = down_acts(g.out, nq), *lse = DOWN(g.lse, nl);
    blank(t, out, (size_t)(t->H * t->D));
    blank(t, lse, (size_t)t->H);
    check_acts("out", out, a.out, a.out_size, 1, nq);
    check("lse", lse, a.lse, a.lse_size, 1, 4, nl);
    if (!backward)
        return;
    hold(a.out, nq);
    expect_backward(t, &a, halves);
    g.out = up_acts(a.out, nq), g.lse = UP(a.lse, nl); /* the reference's: lse's rounding is in the bounds */
    gpu.ops->attention_backward(&gpu, &g);
    real *dq = down_acts(g.dq, nq), *dk = down_acts(g.dk, nk), *dv = down_acts(g.dv, nk);
    blank(t, dq, (size_t)(t->H * t->D));
    blank(t, dk, (size_t)(t->KV * t->D));
    blank(t, dv, (size_t)(t->KV * t->D));
    check_acts("dq", dq, a.dq, a.dq_size, 1.1, nq);
    check_acts("dk", dk, a.dk, a.dk_size, 1.1, nk);
    check_acts("dv", dv, a.dv, a.dv_size, 1.1, nk);
}

static void tensor_cores(void **state)
{
    (void)state;
    attention(&one, COMPUTE_BF16);
    attention(&wide, COMPUTE_BF16);
    attention(&ragged, COMPUTE_BF16);
}

/* The table of rows lies in scratch, where the batch before left its own: rows that belong to no sequence now are as if they were not there. */
static void rows_of_no_sequence(void **state)
{
    (void)state;
    struct shape whole = ragged;
    struct arrays a = arrays_of(&ragged);
    size_t nq = (size_t)(ragged.n * ragged.H * ragged.D), nk = (size_t)(ragged.n * ragged.KV * ragged.D), nl = (size_t)(ragged.n * ragged.H), row = (size_t)(ragged.H * ragged.D);
    whole.segments[0] = (struct segment){0, ragged.n, 0, 0};
    struct attention_args g = {.segments = UP(whole.segments, 1), .n_segments = 1, .n = (size_t)ragged.n, .H = ragged.H, .KV = ragged.KV, .D = ragged.D,
                               .q = UP(a.q, nq), .k = UP(a.k, nk), .v = UP(a.v, nk), .out = up_nan(nq), .lse = up_nan(nl)};
    gpu.ops->attention_forward(&gpu, &g);
    g.segments = UP(ragged.segments, 4), g.n_segments = 4, g.out = up_nan(nq);
    gpu.ops->attention_forward(&gpu, &g);
    real *out = DOWN(g.out, nq);
    for (size_t i = 70 * row; i < 76 * row; i++)
        assert_true(isnan(out[i]));
}

static void prefixes(void **state)
{
    (void)state;
    attention(&shared, COMPUTE_BF16);
    attention(&far, COMPUTE_BF16);
    attention(&shared, COMPUTE_F32);
}

static void plain(void **state)
{
    (void)state;
    attention(&odd, COMPUTE_BF16);
    attention(&odd, COMPUTE_F32);
    attention(&ragged, COMPUTE_F32);
}

/* ---- decoding ---- */

/* Rows that are kept, the first `past` of them by a call of their own, as the reference keeps them.  What is no row stays NaN: nobody may read it. */
static struct decode_args kept(const real *k, const real *v, int n, int past, int H, int KV, int D, enum format type)
{
    size_t capacity = (size_t)(past + n + 3), row = (size_t)(KV * D), bytes = capacity * row * cache_number_bytes(type);
    unsigned char *want[2] = {memset(take(bytes), 0xff, bytes), memset(take(bytes), 0xff, bytes)};
    struct decode_args d = {.cache_type = type, .capacity = capacity, .H = H, .KV = KV, .D = D}, on_host = d;
    d.k_cache = up(want[0], bytes), d.v_cache = up(want[1], bytes);
    on_host.k_cache = want[0], on_host.v_cache = want[1];
    for (int i = 0; i < 2; i++) {
        size_t from = i == 0 ? 0 : (size_t)past, some = (size_t)(i == 0 ? past : n);
        d.past = on_host.past = from, d.n = on_host.n = some;
        on_host.k = k + from * row, on_host.v = v + from * row;
        d.k = up_acts(on_host.k, some * row), d.v = up_acts(on_host.v, some * row);
        cpu.ops->attention_keep(&cpu, &on_host);
        gpu.ops->attention_keep(&gpu, &d);
    }
    same("kept keys", down(d.k_cache, bytes), want[0], bytes);
    same("kept values", down(d.v_cache, bytes), want[1], bytes);
    return d;
}

/* n new rows behind `past` in a cache; the same rows, rounded as the cache does, as one sequence of past + n.  Keys and values that are acts in bf16 are
 * numbers that bf16 holds; in f16 they stay what they are down to 2^-17, whose last bit is f16's 2^-24, and below that are rounded to multiples of it, which
 * bf16 holds again: tensor cores read them exactly. */
static void decode(int n, int past, int H, int KV, int D, enum compute compute, enum format type)
{
    struct shape t = {past + n, H, KV, D, 1, {{0, past + n, 0, 0}}};
    struct arrays a = arrays_of(&t);
    bool halves = compute == COMPUTE_BF16 && (D == 64 || D == 128) && n > 8;
    size_t nq = (size_t)(n * H * D), nk = (size_t)((past + n) * KV * D), skip = (size_t)(past * H * D);
    set_compute(compute);
    if (!act_in_halves(&gpu)) {
        a.k = normals(nk, 2, 1);
        a.v = normals(nk, 3, 1);
    }
    struct decode_args d = kept(a.k, a.v, n, past, H, KV, D, type);
    for (size_t i = 0; type == FORMAT_F16 && i < nk; i++) {
        a.k[i] = (real)half_of((double)a.k[i]);
        a.v[i] = (real)half_of((double)a.v[i]);
    }
    expect(&t, &a, halves);
    d.q = up_acts(a.q + skip, nq);
    d.out = up_nan_acts(nq);
    gpu.ops->attention_decode(&gpu, &d);
    check_acts("decoded", down_acts(d.out, nq), a.out + skip, a.out_size + skip, 1, nq);
}

static void decoding(void **state)
{
    (void)state;
    static const enum format types[] = {FORMAT_F16, FORMAT_F32};
    for (int i = 0; i < 2; i++) {
        decode(1, 0, 2, 1, 64, COMPUTE_BF16, types[i]);
        decode(1, 200, 4, 2, 64, COMPUTE_BF16, types[i]);
        decode(3, 62, 2, 1, 20, COMPUTE_F32, types[i]); /* the last split is empty for the first query */
        decode(8, 127, 2, 2, 128, COMPUTE_BF16, types[i]);
        decode(70, 0, 2, 1, 64, COMPUTE_BF16, types[i]);
        decode(33, 40, 2, 2, 128, COMPUTE_BF16, types[i]);
        decode(9, 40, 2, 1, 64, COMPUTE_F32, types[i]);
        decode(9, 40, 3, 1, 20, COMPUTE_BF16, types[i]);
    }
}

/* Between two numbers of f16, below its normal ones, beyond its last, and none; as acts in bf16 what those hold of them. */
static void odd_numbers_are_kept(void **state)
{
    (void)state;
    real x[16] = {65504, 65519, 65520, -1e30f, INFINITY, -INFINITY, NAN, 0, -0.f, 6e-8f, 2.9e-8f, 3e-8f, 6.1e-5f, -1.00048828125f, 1.00146484375f, 2049};
    static const enum compute computes[] = {COMPUTE_F32, COMPUTE_BF16};
    for (int i = 0; i < 2; i++) {
        set_compute(computes[i]);
        hold(x, 16);
        kept(x, x, 1, 1, 1, 1, 8, FORMAT_F16);
        kept(x, x, 1, 1, 1, 1, 8, FORMAT_F32);
    }
}

/* Two runs, the same bits: nothing is added by two blocks. */
static void backward_has_the_same_bits_twice(void **state)
{
    (void)state;
    struct arrays a = arrays_of(&ragged);
    size_t nq = (size_t)(ragged.n * ragged.H * ragged.D), nk = (size_t)(ragged.n * ragged.KV * ragged.D), nl = (size_t)(ragged.n * ragged.H);
    set_compute(COMPUTE_BF16);
    real *first[3] = {NULL}, *again[3];
    for (int i = 0; i < 2; i++) {
        struct attention_args g = {.segments = UP(ragged.segments, 4), .n_segments = 4, .n = (size_t)ragged.n, .H = ragged.H, .KV = ragged.KV, .D = ragged.D,
                                   .q = up_acts(a.q, nq), .k = up_acts(a.k, nk), .v = up_acts(a.v, nk), .out = up_nan_acts(nq), .lse = up_nan(nl),
                                   .dout = up_acts(a.dout, nq), .dq = up_nan_acts(nq), .dk = up_nan_acts(nk), .dv = up_nan_acts(nk)};
        gpu.ops->attention_forward(&gpu, &g);
        gpu.ops->attention_backward(&gpu, &g);
        real **to = i == 0 ? first : again;
        to[0] = down_acts(g.dq, nq), to[1] = down_acts(g.dk, nk), to[2] = down_acts(g.dv, nk);
    }
    same("dq", again[0], first[0], nq * sizeof(real));
    same("dk", again[1], first[1], nk * sizeof(real));
    same("dv", again[2], first[2], nk * sizeof(real));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(tensor_cores), ON_DEVICE(rows_of_no_sequence), ON_DEVICE(prefixes), ON_DEVICE(plain), ON_DEVICE(decoding), ON_DEVICE(odd_numbers_are_kept),
        ON_DEVICE(backward_has_the_same_bits_twice),
    };
    return cmocka_run_group_tests_name("attention_cuda", tests, NULL, NULL);
}
