/* init_golden_test.c: LoftQ and PiSSA: the quantized base, the product B A and what is left, as numpy float64 over bitsandbytes gives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "base/linalg.h"
#include "golden_tensors.h"
#include "lora.h"

struct made {
    struct qmat q;
    struct arena arena;
    real *A, *B;
    size_t out, in;
    int32_t r;
    double s;
};

static void start(struct made *m, const float *W, const struct json *j, const struct lora_init_options *o, enum format format, int block)
{
    struct err err = {{0}};
    m->r = (int32_t)golden_number(j, "r");
    m->s = golden_number(j, "scaling");
    quant_place(&m->q, format, block, false, m->out, m->in, &m->arena);
    assert_int_equal(arena_commit(&m->arena, "test", &err), OK);
    quant_place(&m->q, format, block, false, m->out, m->in, &m->arena);
    m->A = malloc((size_t)m->r * m->in * sizeof *m->A);
    m->B = malloc((size_t)m->r * m->out * sizeof *m->B);
    if (lora_start(&m->q, m->A, m->B, W, m->r, (real)m->s, o, &err) != OK)
        fail_msg("%s", err.text);
}

static double product(const struct made *m, size_t o, size_t c)
{
    double sum = 0;
    for (int32_t i = 0; i < m->r; i++)
        sum += (double)m->B[o * (size_t)m->r + (size_t)i] * (double)m->A[(size_t)i * m->in + c];
    return sum;
}

/* ||W - Q - s B A||_F */
static double residual(const struct made *m, const float *W)
{
    double sum = 0;
    float *row = malloc(m->in * sizeof *row);
    for (size_t o = 0; o < m->out; o++) {
        quant_decode_rows(&m->q, o, 1, row);
        for (size_t c = 0; c < m->in; c++) {
            double d = (double)W[o * m->in + c] - (double)row[c] - m->s * product(m, o, c);
            sum += d * d;
        }
    }
    free(row);
    return sqrt(sum);
}

static void compare_product(const struct made *m, const struct safetensors *st, const char *name)
{
    double *want = golden_doubles(st, golden_find(st, "%s.BA", name)), most = 0;
    for (size_t i = 0; i < m->out * m->in; i++)
        most = fmax(most, fabs(want[i]));
    for (size_t o = 0; o < m->out; o++)
        for (size_t c = 0; c < m->in; c++) /* a float32 SVD: 2e-6 of the largest element */
            if (!(fabs(product(m, o, c) - want[o * m->in + c]) <= 2e-6 * most))
                fail_msg("%s: BA[%zu, %zu] is %.9g, want %.9g", name, o, c, product(m, o, c), want[o * m->in + c]);
    free(want);
}

static size_t codes_that_differ(const struct made *m, const struct safetensors *st, const char *name)
{
    bool nibbles = m->q.format == FORMAT_NF4;
    uint8_t *want = golden_bytes(st, golden_find(st, nibbles ? "%s.packed" : "%s.CB", name)), *got = m->q.codes;
    size_t n = m->out * m->in, differ = 0;
    for (size_t i = 0; i < n; i++)
        differ += nibbles ? (got[i / 2] >> (i % 2 ? 0 : 4) & 15) != (want[i / 2] >> (i % 2 ? 0 : 4) & 15) : got[i] != want[i];
    free(want);
    return differ;
}

static void one(const struct safetensors *st, const struct json *j, const float *W, size_t out, size_t in)
{
    const char *name = json_key(j), *type;
    struct err err;
    struct made m = {.out = out, .in = in};
    bool pissa = strncmp(name, "pissa", 5) == 0, exact = pissa;
    int64_t iters = 1, allowed = 0;
    if (json_string(j, "format", name, &type, &err) != OK)
        type = "f32";
    if (strcmp(type, "int8") == 0) /* rounded to fp16 first there; int8_f32 is ours */
        return;
    enum format format = strncmp(type, "int8", 4) == 0 ? FORMAT_INT8 : strcmp(type, "nf4") == 0 ? FORMAT_NF4 : FORMAT_F32;
    if (!pissa)
        assert_int_equal(json_int(j, "iters", name, 1, 100, &iters, &err), OK);
    assert_int_equal(json_int_or(j, "codes_changed_by_float32_svd", name, 0, 1000, 0, &allowed, &err), OK);
    struct lora_init_options o = {.init = pissa ? LORA_INIT_PISSA : LORA_INIT_LOFTQ, .loftq_iters = (int)iters};
    start(&m, W, j, &o, format, format == FORMAT_NF4 ? (int)(json_member(j, "block") ? golden_number(j, "block") : 64) : 0);
    exact = exact || iters == 1;
    if (exact)
        compare_product(&m, st, name);
    if (format != FORMAT_F32 && (!pissa || golden_find(st, "%s.packed", name))) {
        size_t differ = codes_that_differ(&m, st, name);
        if (differ > (iters == 1 && !pissa ? 0 : (size_t)allowed + 2)) /* a float32 SVD may move an element over a boundary */
            fail_msg("%s: %zu codes differ, want at most %lld", name, differ, (long long)allowed + 2);
    }
    if (json_member(j, "residual_norm")) {
        double want = golden_number(j, "residual_norm"), got = residual(&m, W);
        if (!(fabs(got - want) <= (iters == 1 ? 1e-6 : 1e-4) * want + 1e-7 * (format == FORMAT_F32)))
            fail_msg("%s: residual %.9g, want %.9g", name, got, want);
    }
    free(m.A);
    free(m.B);
    arena_free(&m.arena);
}

static void all_cases(void **state)
{
    (void)state;
    struct safetensors st = {0};
    struct json *j = golden_json("init/init.json");
    assert_non_null(j);
    linalg_init();
    golden_open(&st, "init/init.safetensors");
    const struct st_tensor *t = golden_find(&st, "W");
    float *W = golden_bytes(&st, t);
    size_t cases = 0;
    for (const struct json *item = json_first(j); item; item = json_next(item))
        if (json_type(item) == JSON_OBJECT && json_member(item, "scaling")) {
            one(&st, item, W, (size_t)t->dim[0], (size_t)t->dim[1]);
            cases++;
        }
    assert_true(cases > 0);
    free(W);
    safetensors_close(&st);
    json_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
