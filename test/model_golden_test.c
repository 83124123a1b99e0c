/* The whole model against transformers in float64 (golden/llama): logits, hidden states, losses, every gradient; padded batches too.
 *
 * Every folder of golden/llama that holds a golden.json is a case.  Tolerances come from its JSON: ten times the error that
 * Hugging Face's own float32 run has for the same quantity, which covers other orders of summation (see the folder's README). */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "golden.h"
#include "io/safetensors.h"
#include "model_acts.h"
#include "model_fixture.h"

enum { MARGIN = 10 };
/* A loss of about 8 is summed in double from float32 log-likelihoods of 5e-7 each: README of the folder. */
static const double loss_tolerance = 2e-6;

struct golden {
    char folder[300];
    struct json *json;
    const struct json *variant; /* of the variant under test */
    char prefix[16];            /* "" for plain gradients, else "right." */
    char variant_name[16];
    struct safetensors st;
    struct fixture f;
    double logits, nll, hidden, grad; /* tolerances */
};

/* ---- arrays ---- */

static const struct st_tensor *find(const struct golden *g, const char *group, const char *what)
{
    char name[160];
    snprintf(name, sizeof name, "%s.%s", group, what);
    return safetensors_find(&g->st, name);
}

static real *read_reals(const struct safetensors *st, const struct st_tensor *t)
{
    real *x = malloc(t->elements * sizeof *x);
    assert_non_null(x);
    CHECK(safetensors_read_real(st, t, 0, t->elements, x, &err));
    return x;
}

static int32_t *read_ints(const struct golden *g, const char *what)
{
    const struct st_tensor *t = find(g, g->variant_name, what);
    if (!t)
        return NULL;
    assert_int_equal(t->dtype, ST_I32);
    int32_t *x = malloc(t->bytes);
    assert_non_null(x);
    CHECK(safetensors_read(&g->st, t, 0, x, t->bytes, &err));
    return x;
}

/* max |a - b|, NaN when there is one */
static double distance(const real *a, const real *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = d > most || isnan(d) ? d : most;
    }
    return most;
}

/* ---- a case ---- */

static void read_tolerances(struct golden *g)
{
    const struct json *error;
    CHECK(json_object(g->variant, "hf_float32_max_abs_error", g->folder, &error, &err));
    CHECK(json_number(error, "logits", g->folder, &g->logits, &err));
    CHECK(json_number(error, "nll", g->folder, &g->nll, &err));
    CHECK(json_number_or(error, "hidden", g->folder, 0, &g->hidden, &err)); /* plain only */
    CHECK(json_number(error, "grad_relative_to_tensor_norm", g->folder, &g->grad, &err));
    g->logits *= MARGIN;
    g->nll *= MARGIN;
    g->hidden *= MARGIN;
    g->grad *= MARGIN;
}

static void load_weights(struct golden *g)
{
    static struct parameters all;
    struct safetensors st;
    char path[400];
    snprintf(path, sizeof path, "%s/model.safetensors", g->folder);
    CHECK(safetensors_open(&st, path, &err));
    list_parameters(&all, &g->f);
    assert_int_equal(all.n, st.n);
    for (size_t i = 0; i < all.n; i++) {
        const struct st_tensor *t = safetensors_find(&st, all.p[i].name);
        if (!t || t->elements != all.p[i].rows * all.p[i].cols)
            fail_msg("%s: %s is missing or has another shape", path, all.p[i].name);
        CHECK(safetensors_read_real(&st, t, 0, t->elements, all.p[i].w, &err));
    }
    safetensors_close(&st);
}

static void open_golden(struct golden *g, const char *name, bool reference, bool keep)
{
    char path[600], relative[400], *text;
    size_t n;
    struct model_config config;
    struct plan plan;
    memset(g, 0, sizeof *g);
    snprintf(relative, sizeof relative, "llama/%.200s", name);
    snprintf(g->folder, sizeof g->folder, "%.299s", golden_path(path, relative));
    snprintf(relative, sizeof relative, "llama/%.200s/golden.json", name);
    g->json = golden_json(relative);
    assert_non_null(g->json);
    snprintf(path, sizeof path, "%s/golden.safetensors", g->folder);
    CHECK(safetensors_open(&g->st, path, &err));
    snprintf(path, sizeof path, "%s/config.json", g->folder);
    CHECK(file_read(path, 1 << 20, &text, &n, &err));
    CHECK(model_config_parse(&config, text, n, path, &err));
    free(text);
    CHECK(plan_new(&plan, &config, FORMAT_F32, &err));
    fixture_open(&g->f, &config, &plan,
                 (struct fixture_options){.max_n = FIXTURE_ROWS, .threads = 2, .reference = reference, .keep = keep});
    plan_free(&plan);
    model_config_free(&config);
    load_weights(g);
}

static void close_golden(struct golden *g)
{
    fixture_close(&g->f);
    safetensors_close(&g->st);
    json_free(g->json);
}

static void begin_variant(struct golden *g, const struct json *variant)
{
    g->variant = variant;
    snprintf(g->variant_name, sizeof g->variant_name, "%s", json_key(variant));
    bool plain = strcmp(g->variant_name, "plain") == 0;
    snprintf(g->prefix, sizeof g->prefix, "%.14s%s", plain ? "" : g->variant_name, plain ? "" : ".");
    read_tolerances(g);
    memset(g->f.grads.block, 0, g->f.grads.n * sizeof(real));
}

/* Rows of the golden arrays without their padding, one segment each.  where[row of ours] = row of theirs. */
static void pack(const struct golden *g, struct fixture_batch *b, size_t *where)
{
    const struct st_tensor *ids = find(g, g->variant_name, "input_ids");
    assert_non_null(ids);
    size_t T = ids->dim[1];
    int32_t *tokens = read_ints(g, "input_ids"), *mask = read_ints(g, "attention_mask"), *labels = read_ints(g, "labels");
    memset(b, 0, sizeof *b);
    for (size_t r = 0; r < ids->dim[0]; r++) {
        int32_t position = 0;
        begin_segment(b);
        for (size_t t = 0; t < T; t++) {
            size_t i = r * T + t;
            if (mask && !mask[i])
                continue;
            int32_t next = t + 1 == T ? -1 : labels ? labels[i + 1] : tokens[i + 1];
            where[b->batch.n] = i;
            add_row(b, tokens[i], position++, next < 0 ? -1 : next);
        }
    }
    free(tokens);
    free(mask);
    free(labels);
}

/* ---- what is compared ---- */

static void compare_logits(struct golden *g, const struct fixture_batch *b, const size_t *where)
{
    size_t V = (size_t)g->f.model.config.vocab_size;
    const struct st_tensor *t = find(g, g->variant_name, "logits");
    assert_non_null(t);
    real *want = read_reals(&g->st, t), *got = malloc(b->batch.n * V * sizeof *got);
    const real *x;
    CHECK(model_hidden(&g->f.run, &g->f.model, NULL, &b->batch, &x, &err));
    model_logits(&g->f.run, &g->f.model, x, b->batch.n, got);
    double worst = 0;
    for (size_t i = 0; i < b->batch.n; i++) {
        double d = distance(got + i * V, want + where[i] * V, V);
        worst = d > worst || isnan(d) ? d : worst;
    }
    assert_true(worst <= g->logits);
    free(want);
    free(got);
}

/* The residual stream before and after every layer, as long as the arrays are there (variant plain). */
static void compare_hidden(struct golden *g, const struct fixture_batch *b)
{
    size_t n = b->batch.n * (size_t)g->f.model.config.hidden_size;
    for (int l = -1; l <= g->f.model.config.num_hidden_layers; l++) {
        char name[32];
        snprintf(name, sizeof name, "layer.%d", l);
        bool last = l == g->f.model.config.num_hidden_layers;
        const struct st_tensor *t = find(g, "hidden", l < 0 ? "embed" : last ? "norm" : name);
        assert_non_null(t);
        assert_int_equal(t->elements, n);
        real *want = read_reals(&g->st, t);
        double d = distance(last ? g->f.run.acts->nf : g->f.run.acts->x[l + 1], want, n);
        assert_true(d <= g->hidden);
        free(want);
    }
}

static void compare_losses(struct golden *g, const struct fixture_batch *b, const size_t *where)
{
    const struct st_tensor *t = find(g, g->variant_name, "nll");
    assert_non_null(t);
    size_t T = t->dim[1] + 1, count;
    real *want = read_reals(&g->st, t);
    double nll[FIXTURE_ROWS], sum, loss;
    int64_t tokens;
    CHECK(model_score(&g->f.run, &g->f.model, NULL, &b->batch, nll, NULL, &sum, &count, &err));
    CHECK(json_number(g->variant, "loss", g->folder, &loss, &err));
    CHECK(json_int(g->variant, "tokens", g->folder, 1, FIXTURE_ROWS, &tokens, &err));
    for (size_t i = 0; i < b->batch.n; i++)
        if (b->labels[i] >= 0)
            assert_true(fabs(nll[i] - (double)want[where[i] / T * (T - 1) + where[i] % T]) <= g->nll);
    assert_int_equal(count, tokens);
    assert_true(fabs(sum / (double)count - loss) <= loss_tolerance);
    free(want);
}

static double norm(const real *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* ||got - want|| <= tolerance ||want|| where the array is there; the norm of every gradient in any case. */
static size_t compare_gradient(struct golden *g, const struct parameter *p, const struct json *norms)
{
    char name[128];
    double want_norm;
    size_t n = p->rows * p->cols;
    CHECK(json_number(norms, p->name, g->folder, &want_norm, &err));
    double off = fabs(norm(p->g, n) - want_norm);
    if (!(off <= g->grad * want_norm))
        fail_msg("%s %s: gradient of %s has another norm: %g", g->folder, g->variant_name, p->name, off);
    snprintf(name, sizeof name, "%sgrad.%s", g->prefix, p->name);
    const struct st_tensor *t = safetensors_find(&g->st, name);
    if (!t)
        return 0;
    real *want = read_reals(&g->st, t), *difference = malloc(n * sizeof *difference);
    assert_int_equal(t->elements, n);
    for (size_t i = 0; i < n; i++)
        difference[i] = p->g[i] - want[i];
    double d = norm(difference, n);
    if (!(d <= g->grad * norm(want, n)))
        fail_msg("%s %s: gradient of %s is off by %g of its norm", g->folder, g->variant_name, p->name, d / norm(want, n));
    free(want);
    free(difference);
    return 1;
}

static void compare_gradients(struct golden *g, const struct fixture_batch *b)
{
    static struct parameters all;
    const struct json *norms;
    int64_t tokens;
    double sum;
    size_t count, compared = 0, there = 0;
    CHECK(json_int(g->variant, "tokens", g->folder, 1, FIXTURE_ROWS, &tokens, &err));
    CHECK(json_object(g->variant, "grad_norm", g->folder, &norms, &err));
    CHECK(model_train(&g->f.run, &g->f.model, NULL, &g->f.grads, &b->batch, (real)1 / (real)tokens, 0, &sum, &count, &err));
    list_parameters(&all, &g->f);
    for (size_t i = 0; i < all.n; i++)
        compared += compare_gradient(g, &all.p[i], norms);
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%sgrad.", g->prefix);
    for (size_t i = 0; i < g->st.n; i++)
        there += strncmp(g->st.tensor[i].name, prefix, strlen(prefix)) == 0;
    assert_true(compared == there && compared > 0);
}

static void compare_frequencies(struct golden *g)
{
    const struct st_tensor *t = safetensors_find(&g->st, "inv_freq");
    assert_non_null(t);
    real *want = read_reals(&g->st, t);
    /* theirs is a float32 power: its exponent is off by 2^-24, the power by ln(theta) 2^-24 < 8e-7 of itself, and a division */
    for (size_t i = 0; i < t->elements; i++)
        assert_true(fabs((double)g->f.model.inv_freq[i] - (double)want[i]) <= 1e-6 * (double)want[i]);
    free(want);
}

static void check_case(const char *name, bool reference, bool keep)
{
    struct golden g;
    open_golden(&g, name, reference, keep);
    compare_frequencies(&g);
    const struct json *variants;
    CHECK(json_object(g.json, "variants", g.folder, &variants, &err));
    for (const struct json *v = json_first(variants); v; v = json_next(v)) {
        static struct fixture_batch b;
        size_t where[FIXTURE_ROWS];
        begin_variant(&g, v);
        pack(&g, &b, where);
        compare_logits(&g, &b, where);
        if (!*g.prefix)
            compare_hidden(&g, &b);
        compare_losses(&g, &b, where);
        compare_gradients(&g, &b);
    }
    close_golden(&g);
}

static void check_all(bool reference, bool keep)
{
    char path[512], inside[800];
    DIR *dir = opendir(golden_path(path, "llama"));
    int cases = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        snprintf(inside, sizeof inside, "%s/%s/golden.json", path, e->d_name);
        if (e->d_name[0] == '.' || access(inside, R_OK) != 0)
            continue;
        check_case(e->d_name, reference, keep);
        cases++;
    }
    closedir(dir);
    assert_true(cases > 0);
}

static void test_reference(void **state)
{
    (void)state;
    check_all(true, true);
}

static void test_fast(void **state)
{
    (void)state;
    check_all(false, true);
}

static void test_fast_recomputing(void **state)
{
    (void)state;
    check_all(false, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference), cmocka_unit_test(test_fast),
                                       cmocka_unit_test(test_fast_recomputing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
