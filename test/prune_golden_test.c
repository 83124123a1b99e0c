/* prune_golden_test.c: importance of every head and channel, removed sets, pruned logits, parameter counts of real models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>

#include "base/linalg.h"
#include "golden_tensors.h"
#include "prune.h"

struct bench {
    struct checkpoint *checkpoint;
    struct model model;
    struct model_run run;
    struct ops_context ops;
    struct arena weights, acts, scratch;
    int32_t *tokens, *labels, *positions;
    struct batch *batch;
    struct segment *segment;
    size_t n, T;
};

static void must(enum status status, const struct err *err)
{
    if (status != OK)
        fail_msg("%s", err->text);
}

static void open_bench(struct bench *b, const char *folder, const struct safetensors *st)
{
    char path[512];
    struct err err = {{0}};
    struct plan plan;
    memset(b, 0, sizeof *b);
    linalg_init();
    must(checkpoint_open(&b->checkpoint, golden_path(path, folder), &err), &err);
    must(plan_new(&plan, checkpoint_config(b->checkpoint), FORMAT_F32, &err), &err);
    must(model_shape(&b->model, checkpoint_config(b->checkpoint), &plan, &err), &err);
    plan_free(&plan);
    model_place(&b->model, FORMAT_F32, &b->weights);
    must(arena_commit(&b->weights, "weights", &err), &err);
    model_place(&b->model, FORMAT_F32, &b->weights);
    must(model_load(&b->model, b->checkpoint, &err), &err);
    const struct st_tensor *t = golden_find(st, "calibration");
    b->n = (size_t)t->dim[0];
    b->T = (size_t)t->dim[1];
    b->tokens = golden_bytes(st, t);
    b->labels = malloc(b->n * b->T * sizeof *b->labels);
    b->positions = malloc(b->T * sizeof *b->positions);
    b->batch = calloc(b->n, sizeof *b->batch);
    b->segment = calloc(b->n, sizeof *b->segment);
    for (size_t t0 = 0; t0 < b->T; t0++)
        b->positions[t0] = (int32_t)t0;
    for (size_t i = 0; i < b->n; i++) {
        for (size_t k = 0; k < b->T; k++)
            b->labels[i * b->T + k] = k + 1 < b->T ? b->tokens[i * b->T + k + 1] : -1;
        b->segment[i] = (struct segment){.len = (int32_t)b->T};
        b->batch[i] = (struct batch){.n = b->T, .tokens = b->tokens + i * b->T, .labels = b->labels + i * b->T, .positions = b->positions,
                                     .segments = &b->segment[i], .n_segments = 1};
    }
    b->ops = (struct ops_context){.ops = cpu_ops(false), .threads = 1};
    size_t reals = b->ops.ops->scratch_size(&b->ops, 512, 512, (size_t)b->model.config.head_dim, b->T, (size_t)b->model.config.vocab_size);
    arena_take(&b->scratch, reals, sizeof(real));
    must(arena_commit(&b->scratch, "scratch", &err), &err);
    b->ops.scratch = arena_take(&b->scratch, reals, sizeof(real));
    b->run = (struct model_run){.ops = &b->ops, .max_n = b->T, .training = true, .keep = true};
    for (int pass = 0; pass < 2; pass++) {
        must(model_run_place(&b->run, &b->model, NULL, &b->acts, &err), &err);
        if (pass == 0) {
            must(arena_commit(&b->acts, "acts", &err), &err);
        }
    }
}

static void close_bench(struct bench *b)
{
    model_free(&b->model);
    arena_free(&b->weights);
    arena_free(&b->acts);
    arena_free(&b->scratch);
    checkpoint_close(b->checkpoint);
    free(b->tokens);
    free(b->labels);
    free(b->positions);
    free(b->batch);
    free(b->segment);
}

static const char *const methods[] = {"vectorize", "param_first", "param_second", "param_mix"};
static const char *const groupings[] = {"sum", "mean", "max", "prod", "first"};

/* Golden [layers, units] against ours: within `relative` of the vector's mean (prod: of the value), 10 x the measured float32 error. */
static void compare_scores(const char *what, const double *want, double *const *got, int32_t layers, const int32_t *n, double relative, bool each)
{
    for (int32_t l = 0; l < layers; l++) {
        double mean = 0;
        for (int32_t i = 0; i < n[l]; i++)
            mean += want[i] / n[l];
        for (int32_t i = 0; i < n[l]; i++) {
            double allowed = each ? 1e-4 * want[i] + 1e-37 : relative * mean;
            if (!(fabs(got[l][i] - want[i]) <= allowed))
                fail_msg("%s: layer %d unit %d is %.9g, want %.9g", what, l, i, got[l][i], want[i]);
        }
        want += n[l];
    }
}

/* A product's relative error is the sum of its factors': each of them is wrong by up to `relative` of its own vector's mean. */
static double factor_error(const struct safetensors *st, const char *method, int32_t layer, int32_t unit, double relative)
{
    static const char *const names[] = {"gate", "up", "down"};
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        const struct st_tensor *t = golden_find(st, "score.%s.layers.%d.%s", method, layer, names[i]);
        double *x = golden_doubles(st, t), mean = 0;
        for (size_t k = 0; k < t->elements; k++)
            mean += x[k] / (double)t->elements;
        sum += relative * mean / x[unit];
        free(x);
    }
    return sum;
}

static void compare_ffn_products(const struct safetensors *st, const char *method, const double *want, double *const *got, int32_t layers,
                                 const int32_t *n, double relative)
{
    for (int32_t l = 0; l < layers; want += n[l], l++)
        for (int32_t i = 0; i < n[l]; i++)
            if (!(fabs(got[l][i] - want[i]) <= 1e-4 * want[i]) &&
                !(fabs(got[l][i] - want[i]) <= factor_error(st, method, l, i, relative) * want[i]))
                fail_msg("ffn.%s.prod: layer %d unit %d is %.9g, want %.9g", method, l, i, got[l][i], want[i]);
}

static struct prune_scores measure(struct bench *b, const struct prune_options *o)
{
    struct arena arena = {0};
    struct prune_room room;
    struct prune_scores scores;
    struct err err;
    prune_room_place(&room, &b->model, o, b->n * b->T, &arena);
    must(arena_commit(&arena, "importance", &err), &err);
    prune_room_place(&room, &b->model, o, b->n * b->T, &arena);
    must(prune_scores_compute(&scores, &b->model, &b->run, &room, b->batch, b->n, o, &err), &err);
    arena_free(&arena);
    return scores;
}

static void one_method(struct bench *b, const struct safetensors *st, int method, int grouping, bool interleaved, double relative)
{
    struct prune_scores scores;
    struct prune_options o = {.taylor = (enum salience)method, .grouping = (enum prune_grouping)grouping, .interleaved_folding = interleaved};
    const struct st_tensor *head = golden_find(st, "%s.%s.%s", interleaved ? "head_compat" : "head", methods[method], groupings[grouping]);
    const struct st_tensor *ffn = golden_find(st, "ffn.%s.%s", methods[method], groupings[grouping]);
    if (!head)
        return;
    scores = measure(b, &o);
    const struct model_config *c = &b->model.config;
    double *want = golden_doubles(st, head);
    bool product = grouping == GROUP_PROD;
    compare_scores(head->name, want, scores.head, c->num_hidden_layers, c->num_key_value_heads, relative, product);
    free(want);
    if (ffn) {
        want = golden_doubles(st, ffn);
        if (product)
            compare_ffn_products(st, methods[method], want, scores.ffn, c->num_hidden_layers, c->intermediate_size, relative);
        else
            compare_scores(ffn->name, want, scores.ffn, c->num_hidden_layers, c->intermediate_size, relative, false);
        free(want);
    }
    prune_scores_free(&scores);
}

static double tolerance_of(const struct json *j, const char *method)
{
    const struct json *errors = json_member(j, "hf_float32_error_relative_to_mean_score"), *e = errors ? json_member(errors, method) : NULL;
    double x = 0, most = 0;
    struct err err;
    if (e && json_type(e) == JSON_NUMBER && json_as_number(e, "error", &x, &err) == OK)
        return 10 * x;
    for (const struct json *item = e && json_type(e) == JSON_OBJECT ? json_first(e) : errors ? json_first(errors) : NULL; item; item = json_next(item))
        if (json_type(item) == JSON_NUMBER && json_as_number(item, "error", &x, &err) == OK)
            most = fmax(most, x);
    return 10 * fmax(most, 1e-6);
}

static void scores_of(const char *folder, const char *name)
{
    char file[128];
    struct safetensors st = {0};
    struct bench b;
    snprintf(file, sizeof file, "prune/%s.safetensors", name);
    golden_open(&st, file);
    snprintf(file, sizeof file, "prune/%s.json", name);
    struct json *j = golden_json(file);
    open_bench(&b, folder, &st);
    for (int m = 0; m < 4; m++)
        for (int g = 0; g < 5; g++)
            one_method(&b, &st, m, g, false, tolerance_of(j, methods[m]));
    one_method(&b, &st, 1, 0, true, tolerance_of(j, methods[1]));
    close_bench(&b);
    json_free(j);
    safetensors_close(&st);
}

static void scores_mha(void **state)
{
    (void)state;
    scores_of("prune/mha", "mha");
}

static void scores_gqa(void **state)
{
    (void)state;
    scores_of("llama/A", "gqa");
}

/* ---- removed sets and the logits of what is left ---- */

static bool kept(const int32_t *unit, int32_t n, int64_t which)
{
    for (int32_t i = 0; i < n; i++)
        if (unit[i] == which)
            return true;
    return false;
}

static void compare_set(const char *what, const struct json *removed, const int32_t *unit, int32_t left, int32_t all)
{
    struct err err;
    if ((size_t)(all - left) != json_size(removed))
        fail_msg("%s: %d removed, want %zu", what, all - left, json_size(removed));
    for (const struct json *item = json_first(removed); item; item = json_next(item)) {
        int64_t which;
        must(json_as_int(item, what, 0, all - 1, &which, &err), &err);
        if (kept(unit, left, which))
            fail_msg("%s: unit %lld was kept", what, (long long)which);
    }
}

static void compare_logits(struct bench *b, const struct prune_selection *s, const struct safetensors *st, const char *key)
{
    const struct st_tensor *t = golden_find(st, "pruned_logits.%s", key);
    if (!t)
        return;
    struct model small = {0};
    struct model_config config = {0};
    struct plan plan;
    struct arena arena = {0};
    struct err err;
    must(prune_config(&config, &b->model.config, s, &err), &err);
    must(plan_new(&plan, &config, FORMAT_F32, &err), &err);
    must(model_shape(&small, &config, &plan, &err), &err);
    model_place(&small, FORMAT_F32, &arena);
    must(arena_commit(&arena, "small", &err), &err);
    model_place(&small, FORMAT_F32, &arena);
    must(prune_apply(&small, &b->model, s, &err), &err);
    double *want = golden_doubles(st, t);
    size_t V = (size_t)t->dim[2];
    real *logits = malloc(b->T * V * sizeof *logits);
    for (size_t i = 0; i < t->dim[0]; i++) {
        const real *x;
        must(model_hidden(&b->run, &small, NULL, &b->batch[i], &x, &err), &err);
        model_logits(&b->run, &small, x, b->T, logits);
        for (size_t k = 0; k < b->T * V; k++)
            if (!(fabs((double)logits[k] - want[i * b->T * V + k]) <= 1e-4))
                fail_msg("%s: logit %zu is %.7g, want %.7g", t->name, k, (double)logits[k], want[i * b->T * V + k]);
    }
    free(want);
    free(logits);
    plan_free(&plan);
    model_config_free(&config);
    model_free(&small);
    arena_free(&arena);
}

static int index_of(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    fail_msg("'%s' is unknown", name);
    return 0;
}

static void one_set(struct bench *b, const struct safetensors *st, const struct json *item, int32_t first, int32_t last)
{
    char method[32], grouping[32], what[96];
    double ratio;
    struct prune_scores scores;
    struct prune_selection s;
    struct err err;
    const char *key = json_key(item);
    if (sscanf(key, "%31[^.].%31[^.].%lf", method, grouping, &ratio) != 3)
        fail_msg("'%s' is no METHOD.GROUPING.RATIO", key);
    struct prune_options o = {.taylor = (enum salience)index_of(method, methods, 4), .grouping = (enum prune_grouping)index_of(grouping, groupings, 5),
                              .group_ratio = ratio, .ffn_multiple = 1, .attention_start = first, .attention_end = last, .mlp_start = first,
                              .mlp_end = last};
    scores = measure(b, &o);
    must(prune_select(&s, &scores, &b->model.config, &o, &b->model.config, &err), &err);
    for (const struct json *layer = json_first(item); layer; layer = json_next(layer)) {
        int32_t l = (int32_t)strtol(json_key(layer), NULL, 10);
        snprintf(what, sizeof what, "%s layer %d heads", key, l);
        compare_set(what, json_member(layer, "head"), s.head[l], s.n_heads[l], b->model.config.num_key_value_heads[l]);
        snprintf(what, sizeof what, "%s layer %d channels", key, l);
        compare_set(what, json_member(layer, "ffn"), s.ffn[l], s.n_ffn[l], b->model.config.intermediate_size[l]);
    }
    compare_logits(b, &s, st, key);
    prune_selection_free(&s);
    prune_scores_free(&scores);
}

static void sets_of(const char *folder, const char *name)
{
    char file[128];
    struct safetensors st = {0};
    struct bench b;
    struct err err;
    int64_t first, last;
    snprintf(file, sizeof file, "prune/%s.safetensors", name);
    golden_open(&st, file);
    snprintf(file, sizeof file, "prune/%s.json", name);
    struct json *j = golden_json(file);
    open_bench(&b, folder, &st);
    const struct json *layers = json_member(j, "layers");
    must(json_as_int(json_at(layers, 0), "layers", 0, 1000, &first, &err), &err);
    must(json_as_int(json_at(layers, 1), "layers", 0, 1000, &last, &err), &err);
    size_t count = 0;
    for (const struct json *item = json_first(json_member(j, "removed")); item; item = json_next(item), count++)
        one_set(&b, &st, item, (int32_t)first, (int32_t)last);
    assert_true(count > 0);
    close_bench(&b);
    json_free(j);
    safetensors_close(&st);
}

static void sets_mha(void **state)
{
    (void)state;
    sets_of("prune/mha", "mha");
}

static void sets_gqa(void **state)
{
    (void)state;
    sets_of("llama/A", "gqa");
}

/* ---- parameter counts of real models ---- */

static int32_t whole(const struct json *j, const char *key)
{
    return (int32_t)golden_number(j, key);
}

static void counts(void **state)
{
    (void)state;
    struct json *j = golden_json("prune/parameter_counts.json");
    assert_non_null(j);
    for (const struct json *e = json_first(j); e; e = json_next(e)) {
        struct model_config c = {0};
        struct err err;
        const char *ratio;
        int64_t first, last;
        bool tied;
        double group, achieved;
        struct plan plan;
        must(model_config_alloc(&c, whole(e, "L"), &err), &err);
        c.hidden_size = whole(e, "d");
        c.head_dim = whole(e, "hd");
        c.vocab_size = whole(e, "V");
        must(json_bool(e, "tied", "counts", &tied, &err), &err);
        c.tie_word_embeddings = tied;
        for (int32_t l = 0; l < c.num_hidden_layers; l++) {
            c.num_attention_heads[l] = whole(e, "h");
            c.num_key_value_heads[l] = whole(e, "kv");
            c.intermediate_size[l] = whole(e, "f");
        }
        must(json_string(e, "ratio", "counts", &ratio, &err), &err);
        must(json_as_int(json_at(json_member(e, "layers"), 0), "layers", 0, 1000, &first, &err), &err);
        must(json_as_int(json_at(json_member(e, "layers"), 1), "layers", 0, 1000, &last, &err), &err);
        struct prune_options o = {.group_ratio = strtod(ratio, NULL), .ffn_multiple = 1, .attention_start = (int32_t)first,
                                  .attention_end = (int32_t)last, .mlp_start = (int32_t)first, .mlp_end = (int32_t)last};
        must(plan_new(&plan, &c, FORMAT_F32, &err), &err);
        assert_true((double)plan_parameters(&plan, &c) == golden_number(e, "total"));
        plan_free(&plan);
        must(prune_widths(&c, &o, &group, &achieved, &err), &err);
        must(plan_new(&plan, &c, FORMAT_F32, &err), &err);
        if ((double)plan_parameters(&plan, &c) != golden_number(e, "after"))
            fail_msg("ratio %s: %llu parameters, want %.0f", ratio, (unsigned long long)plan_parameters(&plan, &c), golden_number(e, "after"));
        plan_free(&plan);
        model_config_free(&c);
    }
    json_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_mha), cmocka_unit_test(scores_gqa), cmocka_unit_test(sets_mha), cmocka_unit_test(sets_gqa), cmocka_unit_test(counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
