/* gp_golden_test.c: posterior, likelihood and gradient as scikit-learn's formulas in float64; expected improvement by mpmath; EHVI by quadrature;
 * ranks, crowding and hypervolume in exact rationals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "golden_tensors.h"
#include "gp.h"
#include "pareto.h"

static void close_to(const char *what, double got, double want, double relative, double absolute)
{
    if (!(fabs(got - want) <= relative * fabs(want) + absolute))
        fail_msg("%s: got %.17g, want %.17g", what, got, want);
}

static void one_process(const struct safetensors *st, const struct json *j)
{
    const char *name = json_key(j);
    const struct st_tensor *tX = golden_find(st, "%s.X", name), *tS = golden_find(st, "%s.Xs", name);
    double *X = golden_doubles(st, tX), *y = golden_doubles(st, golden_find(st, "%s.y", name));
    double *noise = golden_doubles(st, golden_find(st, "%s.noise", name)), *w = golden_doubles(st, golden_find(st, "%s.w", name));
    double *Xs = golden_doubles(st, tS), *mean = golden_doubles(st, golden_find(st, "%s.mean", name));
    double *var = golden_doubles(st, golden_find(st, "%s.var", name)), *dw = golden_doubles(st, golden_find(st, "%s.dlml_dlog_w", name));
    size_t n = (size_t)tX->dim[0], d = (size_t)tX->dim[1];
    struct gp gp;
    struct err err;
    assert_int_equal(gp_new(&gp, X, y, noise, n, d, &err), OK);
    memcpy(gp.w, w, d * sizeof *w);
    gp.sf2 = golden_number(j, "sf2");
    gp.sn2 = golden_number(j, "sn2");
    assert_int_equal(gp_condition(&gp, &err), OK);
    double *slope = malloc(gp_parameters(&gp) * sizeof *slope), m, v;
    /* float64 throughout, condition below 1e5: 1e-16 * 1e5 * n */
    close_to("lml", gp_likelihood(&gp, slope), golden_number(j, "lml"), 1e-9, 1e-11);
    close_to("d log sf2", slope[d], golden_number(j, "dlml_dlog_sf2"), 1e-9, 1e-10);
    close_to("d log sn2", slope[d + 1], golden_number(j, "dlml_dlog_sn2"), 1e-9, 1e-10);
    for (size_t i = 0; i < d; i++)
        close_to("d log w", slope[i], dw[i], 1e-9, 1e-10);
    for (size_t i = 0; i < tS->dim[0]; i++) {
        gp_predict(&gp, Xs + i * d, &m, &v);
        close_to("mean", m, mean[i], 1e-9, 1e-11);
        close_to("variance", v, var[i], 1e-9, 1e-11);
    }
    gp_free(&gp);
    double *owned[] = {X, y, noise, w, Xs, mean, var, dw, slope};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
}

static void processes(void **state)
{
    (void)state;
    struct safetensors st = {0};
    struct json *j = golden_json("gp/gp.json");
    assert_non_null(j);
    golden_open(&st, "gp/gp.safetensors");
    for (const struct json *item = json_first(j); item; item = json_next(item))
        one_process(&st, item);
    safetensors_close(&st);
    json_free(j);
}

static void improvement(void **state)
{
    (void)state;
    struct json *j = golden_json("gp/ei.json");
    assert_non_null(j);
    for (const struct json *e = json_first(json_member(j, "standardised")); e; e = json_next(e)) {
        double z = golden_number(e, "z"), h = golden_number(e, "h"), log_h = golden_number(e, "log_h");
        if (!(fabs(normal_log_h(z) - log_h) <= 1e-12 * fmax(1, fabs(log_h))))
            fail_msg("log h(%g): got %.17g, want %.17g", z, normal_log_h(z), log_h);
        if (h > 1e-300 && !(fabs(normal_h(z) - h) <= 1e-12 * fmax(1, 0.5 * z * z) * h)) /* exp of log h costs z^2/2 roundings */
            fail_msg("h(%g): got %.17g, want %.17g", z, normal_h(z), h);
    }
    const struct json *erfcx = json_member(j, "erfcx");
    for (const struct json *e = erfcx ? json_first(erfcx) : NULL; e; e = json_next(e)) {
        double x = golden_number(e, "x"), want = golden_number(e, "erfcx");
        if (!(fabs(normal_erfcx(x) - want) <= 1e-13 * want))
            fail_msg("erfcx(%g): got %.17g, want %.17g", x, normal_erfcx(x), want);
    }
    json_free(j);
}

static struct pareto_point point_of(const struct json *pair, double c)
{
    struct pareto_point p = {.c = c};
    struct err err;
    assert_int_equal(json_as_number(json_at(pair, 0), "pair", &p.a, &err), OK);
    assert_int_equal(json_as_number(json_at(pair, 1), "pair", &p.b, &err), OK);
    return p;
}

static struct pareto_point *points_of(const struct json *list, size_t *n)
{
    *n = json_size(list);
    struct pareto_point *p = malloc((*n + 1) * sizeof *p);
    size_t i = 0;
    for (const struct json *item = json_first(list); item; item = json_next(item))
        p[i++] = point_of(item, 0);
    return p;
}

static void ehvi(void **state)
{
    (void)state;
    struct json *j = golden_json("gp/ehvi.json");
    assert_non_null(j);
    for (const struct json *e = json_first(j); e; e = json_next(e)) {
        size_t n;
        struct err err;
        struct pareto_ehvi v;
        struct pareto_point *front = points_of(json_member(e, "front"), &n);
        assert_int_equal(pareto_ehvi_new(&v, front, n, point_of(json_member(e, "reference"), 1), &err), OK);
        double got = pareto_ehvi_at(&v, point_of(json_member(e, "mean"), 0), point_of(json_member(e, "sd"), 0));
        close_to("ehvi", got, golden_number(e, "ehvi"), 1e-10, 1e-14);
        pareto_ehvi_free(&v);
        free(front);
    }
    json_free(j);
}

static void fronts(void **state)
{
    (void)state;
    struct json *j = golden_json("gp/pareto.json");
    assert_non_null(j);
    for (const struct json *e = json_first(j); e; e = json_next(e)) {
        size_t n, i = 0;
        struct err err;
        double volume;
        struct pareto_point *p = points_of(json_member(e, "points"), &n);
        int *rank = malloc((n + 1) * sizeof *rank);
        double *crowding = malloc((n + 1) * sizeof *crowding);
        assert_int_equal(pareto_ranks(p, n, rank, &err), OK);
        assert_int_equal(pareto_crowding(p, rank, n, crowding, &err), OK);
        assert_int_equal(pareto_hypervolume(p, n, point_of(json_member(e, "reference"), 1), &volume, &err), OK);
        close_to("hypervolume", volume, golden_number(e, "hypervolume"), 1e-15, 0);
        for (const struct json *r = json_first(json_member(e, "rank")); r; r = json_next(r), i++) {
            int64_t want;
            assert_int_equal(json_as_int(r, "rank", 0, 1000, &want, &err), OK);
            assert_int_equal(rank[i], want);
        }
        i = 0;
        for (const struct json *c = json_first(json_member(e, "crowding")); c; c = json_next(c), i++) {
            double want = INFINITY;
            if (json_type(c) == JSON_NUMBER)
                assert_int_equal(json_as_number(c, "crowding", &want, &err), OK);
            assert_true(crowding[i] == want || fabs(crowding[i] - want) <= 1e-15 * want);
        }
        free(p);
        free(rank);
        free(crowding);
    }
    json_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(processes), cmocka_unit_test(improvement), cmocka_unit_test(ehvi), cmocka_unit_test(fronts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
