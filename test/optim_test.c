/* optim_test.c: rates of the schedules by hand, clipping, AdamW against its equations, gradients that are not finite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "optim.h"

static bool near(double got, double want)
{
    return fabs(got - want) <= 1e-7 * fabs(want); /* lr is a float: 2^-24 */
}

/* ---- schedules: transformers' get_*_schedule_with_warmup, worked out on paper ---- */

static void rates_by_hand(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.lr = (real)0.5;
    o.warmup_steps = 4;
    o.total_steps = 10;
    static const double linear[11] = {0,        .25,     .5,      .75, 1, 5. / 6, 4. / 6, 3. / 6, 2. / 6, 1. / 6, 0};
    static const double cosine[11] = {0, .25, .5, .75, 1, 0.9330127018922193, .75, .5, .25, 0.0669872981077807, 0};
    for (int64_t k = 0; k <= 10; k++) {
        o.schedule = SCHEDULE_LINEAR;
        assert_true(near(optim_rate(&o, k), 0.5 * linear[k]));
        o.schedule = SCHEDULE_COSINE;
        assert_true(fabs(optim_rate(&o, k) - 0.5 * cosine[k]) <= 1e-15);
        o.schedule = SCHEDULE_CONSTANT;
        assert_true(near(optim_rate(&o, k), k < 4 ? 0.5 * linear[k] : 0.5));
    }
}

static void rates_at_the_edges(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.lr = 1;
    o.total_steps = 5;
    assert_true(optim_rate(&o, 0) == 1); /* no warm-up: the first step has the full rate */
    assert_true(optim_rate(&o, 4) == 1. / 5);
    assert_true(optim_rate(&o, 5) == 0 && optim_rate(&o, 50) == 0); /* past the end: never negative */
    o.warmup_steps = 8; /* longer than the run: only the climb */
    for (int64_t k = 0; k < 5; k++)
        assert_true(optim_rate(&o, k) == (double)k / 8);
    o.warmup_steps = 5;
    o.schedule = SCHEDULE_COSINE;
    assert_true(optim_rate(&o, 5) == 1 && isfinite(optim_rate(&o, 6)));
}

static void defaults_and_names(void **state)
{
    (void)state;
    struct optim o;
    enum schedule s;
    struct err err;
    optim_default(&o);
    assert_true(o.lr == (real)3e-4 && o.beta1 == (real)0.9 && o.beta2 == (real)0.999 && o.eps == (real)1e-8 && o.weight_decay == 0 &&
                o.max_grad_norm == 1 && o.schedule == SCHEDULE_LINEAR);
    assert_true(schedule_parse("cosine", &s, &err) == OK && s == SCHEDULE_COSINE);
    assert_int_equal(schedule_parse("cosin", &s, &err), ERR_INPUT);
    assert_string_equal(err.text, "lr_scheduler = 'cosin', want linear, cosine or constant");
}

/* ---- steps ---- */

struct state {
    size_t n;
    real *p, *g, *m, *v;
};

static struct state make(size_t n, double grad_size)
{
    struct state s = {n, calloc(n, sizeof(real)), calloc(n, sizeof(real)), calloc(n, sizeof(real)), calloc(n, sizeof(real))};
    struct rng rng = {.seed = 6, .stream = RNG_WORLD};
    for (size_t i = 0; i < n; i++) {
        s.p[i] = (real)rng_normal(&rng);
        s.g[i] = (real)(grad_size * rng_normal(&rng));
        s.m[i] = (real)(0.1 * rng_normal(&rng));
        s.v[i] = (real)(0.01 * rng_uniform(&rng));
    }
    return s;
}

static void state_free(struct state *s)
{
    free(s->p);
    free(s->g);
    free(s->m);
    free(s->v);
}

static enum status step(const struct optim *o, struct state *s, int64_t k, int threads, double *norm, struct err *err)
{
    real *scratch = calloc(4096 * 4, sizeof *scratch);
    struct ops_context c = {.ops = cpu_ops(false), .threads = threads, .scratch = scratch, .scratch_n = 4096};
    enum status status = optim_step(o, &c, k, s->p, s->g, s->m, s->v, s->n, norm, err);
    free(scratch);
    return status;
}

/* One element's AdamW in double: Loshchilov & Hutter (arXiv:1711.05101), algorithm 2, with torch's order (decay first). */
static void reference(const struct optim *o, double scale, int64_t k, double *p, double g, double *m, double *v)
{
    double b1 = (double)o->beta1, b2 = (double)o->beta2, t = (double)(k + 1), lr = optim_rate(o, k);
    g *= scale;
    *p -= lr * (double)o->weight_decay * *p;
    *m = b1 * *m + (1 - b1) * g;
    *v = b2 * *v + (1 - b2) * g * g;
    *p -= lr * (*m / (1 - pow(b1, t))) / (sqrt(*v / (1 - pow(b2, t))) + (double)o->eps);
}

/* One step from the same numbers.  Tolerances: about six roundings of each term (float, 2^-24), and the terms of p's update. */
static void check_step(const struct optim *o, double grad_size, int64_t k)
{
    struct state s = make(1000, grad_size), old = make(1000, grad_size);
    double norm, sum = 0, u = 8 * 0x1p-24;
    struct err err;
    for (size_t i = 0; i < s.n; i++)
        sum += (double)s.g[i] * (double)s.g[i];
    assert_int_equal(step(o, &s, k, 1, &norm, &err), OK);
    assert_true(fabs(norm - sqrt(sum)) <= 1e-12 * norm); /* before clipping */
    double most = (double)o->max_grad_norm, scale = most > 0 ? fmin(1, most / (sqrt(sum) + 1e-6)) : 1;
    for (size_t i = 0; i < s.n; i++) {
        double p = (double)old.p[i], m = (double)old.m[i], v = (double)old.v[i], g = (double)old.g[i], m0 = fabs(m), v0 = v;
        reference(o, scale, k, &p, g, &m, &v);
        double step_size = fabs(p - (double)old.p[i]), m_terms = m0 + fabs(scale * g);
        assert_true(fabs((double)s.m[i] - m) <= u * m_terms);
        assert_true(fabs((double)s.v[i] - v) <= u * (v0 + scale * scale * g * g));
        /* m may cancel: its error rides into p through lr / sqrt(v) */
        double carried = fabs(m) > 0 ? step_size * u * m_terms / fabs(m) : 0;
        assert_true(fabs((double)s.p[i] - p) <= u * (fabs((double)old.p[i]) + step_size) + 4 * carried + 1e-3 * step_size * u);
    }
    state_free(&s);
    state_free(&old);
}

static void adamw_is_its_equation(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.total_steps = 100;
    o.lr = (real)1e-2;
    check_step(&o, 1e-3, 0); /* norm 0.03: not clipped */
    check_step(&o, 1, 0);    /* norm 32: clipped to 1 */
    check_step(&o, 1, 30);
    o.max_grad_norm = 0; /* no clipping */
    check_step(&o, 1, 5);
    o.weight_decay = (real)0.1;
    o.beta2 = (real)0.95;
    o.schedule = SCHEDULE_COSINE;
    check_step(&o, 1, 5);
}

/* g = (3, 4) has norm 5: with max_grad_norm 1 each moment starts at (1 - beta) of g / 5. */
static void clipping_by_hand(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.total_steps = 10;
    struct state s = make(2, 1);
    double norm;
    struct err err;
    s.g[0] = 3;
    s.g[1] = -4;
    s.m[0] = s.m[1] = s.v[0] = s.v[1] = 0;
    assert_int_equal(step(&o, &s, 0, 1, &norm, &err), OK);
    assert_true(norm == 5);
    double scale = 1 / (5 + 1e-6);
    assert_true(fabs((double)s.m[0] - 0.1 * 3 * scale) <= 1e-6 * 0.06 && fabs((double)s.m[1] + 0.1 * 4 * scale) <= 1e-6 * 0.08);
    assert_true(fabs((double)s.v[1] - 0.001 * 16 * scale * scale) <= 1e-4 * 0.00064); /* 1 - 0.999f is 1.3e-5 off 0.001 */
    state_free(&s);
}

/* A warm-up's first step has rate 0: parameters stand, the moments learn. */
static void a_step_of_rate_zero(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.total_steps = 10;
    o.warmup_steps = 3;
    o.weight_decay = (real)0.1;
    struct state s = make(64, 1), old = make(64, 1);
    double norm;
    struct err err;
    assert_int_equal(step(&o, &s, 0, 1, &norm, &err), OK);
    assert_memory_equal(s.p, old.p, 64 * sizeof(real));
    assert_true(memcmp(s.m, old.m, 64 * sizeof(real)) != 0 && memcmp(s.v, old.v, 64 * sizeof(real)) != 0);
    state_free(&s);
    state_free(&old);
}

static void a_gradient_that_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    static const size_t places[] = {0, 4095, 4096, 9999};
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    struct optim o;
    optim_default(&o);
    o.total_steps = 10;
    for (size_t i = 0; i < 4; i++)
        for (size_t b = 0; b < 3; b++) {
            struct state s = make(10000, 1), old = make(10000, 1);
            double norm = 0;
            struct err err;
            s.g[places[i]] = (real)bad[b];
            assert_int_equal(step(&o, &s, 6, 2, &norm, &err), ERR_DIVERGED);
            assert_string_equal(err.text, "step 7: the gradient's norm is not finite");
            assert_true(!isfinite(norm));
            assert_memory_equal(s.p, old.p, s.n * sizeof(real));
            assert_memory_equal(s.m, old.m, s.n * sizeof(real));
            assert_memory_equal(s.v, old.v, s.n * sizeof(real));
            state_free(&s);
            state_free(&old);
        }
}

/* Gradients as large as floats go have a finite norm in double: the step is clipped, not refused. */
static void huge_gradients_are_clipped(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.total_steps = 10;
    struct state s = make(100, 1);
    double norm;
    struct err err;
    for (size_t i = 0; i < s.n; i++)
        s.g[i] = (real)1e30;
    assert_int_equal(step(&o, &s, 0, 1, &norm, &err), OK);
    assert_true(fabs(norm - 1e31) <= 1e-6 * 1e31);
    for (size_t i = 0; i < s.n; i++)
        assert_true(isfinite(s.p[i]) && isfinite(s.m[i]) && isfinite(s.v[i]));
    state_free(&s);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    struct optim o;
    optim_default(&o);
    o.total_steps = 10;
    struct state one = make(10001, 1);
    double norm, other;
    struct err err;
    assert_int_equal(step(&o, &one, 3, 1, &norm, &err), OK);
    for (int threads = 2; threads <= 3; threads++) {
        struct state s = make(10001, 1);
        assert_int_equal(step(&o, &s, 3, threads, &other, &err), OK);
        assert_true(other == norm);
        assert_memory_equal(s.p, one.p, s.n * sizeof(real));
        assert_memory_equal(s.m, one.m, s.n * sizeof(real));
        assert_memory_equal(s.v, one.v, s.n * sizeof(real));
        state_free(&s);
    }
    state_free(&one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_by_hand),       cmocka_unit_test(rates_at_the_edges),
        cmocka_unit_test(defaults_and_names),  cmocka_unit_test(adamw_is_its_equation),
        cmocka_unit_test(clipping_by_hand),    cmocka_unit_test(a_step_of_rate_zero),
        cmocka_unit_test(huge_gradients_are_clipped), cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
