/* Models out of GGUF files (golden/gguf): logits against transformers in float64, decoded to F32 and in the formats they are stored in; codes
 * taken over bit for bit; the vocabulary inside.
 *
 * Every NAME.logits of logits.safetensors is a case with its NAME.gguf.  Tolerance: ten times the error of Hugging Face's own float32 run,
 * from the golden.json of the model that the files were made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "golden.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"
#include "model_fixture.h"

enum { MARGIN = 10 };

static void stored_plan(struct plan *plan, const struct checkpoint *checkpoint)
{
    CHECK(plan_new(plan, checkpoint_config(checkpoint), FORMAT_F32, &err));
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char module[64], name[96];
            struct qmat stored;
            plan_name(l, (enum linear)j, module);
            snprintf(name, sizeof name, "%s.weight", module);
            CHECK(checkpoint_format(checkpoint, name, &stored, &err));
            plan->layer[l].linear[j].format = stored.format;
        }
}

/* decode(codes that were taken over) == what the file decodes to: the same bits, q and k in Hugging Face's row order */
static void compare_weights(const struct model *stored, const struct model *decoded)
{
    for (int l = 0; l < stored->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *q = &stored->layer[l].linear[j], *W = &decoded->layer[l].linear[j];
            real *w = malloc(q->rows * q->cols * sizeof *w);
            assert_non_null(w);
            quant_decode_rows(q, 0, q->rows, w);
            assert_memory_equal(w, W->codes, q->rows * q->cols * sizeof *w);
            free(w);
        }
}

static void compare_logits(struct fixture *f, const struct fixture_batch *b, const real *want, double tolerance, const char *name)
{
    size_t n = b->batch.n * (size_t)f->model.config.vocab_size;
    real *got = malloc(n * sizeof *got);
    const real *x;
    assert_non_null(got);
    CHECK(model_hidden(&f->run, &f->model, NULL, &b->batch, &x, &err));
    model_logits(&f->run, &f->model, x, b->batch.n, got);
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance))
            fail_msg("%s: logit %zu is %.9g, want %.9g within %g", name, i, (double)got[i], (double)want[i], tolerance);
    free(got);
}

static double read_tolerance(const char *model)
{
    char name[300];
    snprintf(name, sizeof name, "%s/golden.json", model);
    struct json *json = golden_json(name);
    const struct json *variants, *plain, *error;
    double tolerance;
    assert_non_null(json);
    CHECK(json_object(json, "variants", name, &variants, &err));
    CHECK(json_object(variants, "plain", name, &plain, &err));
    CHECK(json_object(plain, "hf_float32_max_abs_error", name, &error, &err));
    CHECK(json_number(error, "logits", name, &tolerance, &err));
    json_free(json);
    return MARGIN * tolerance;
}

static void read_batch(const struct safetensors *st, struct fixture_batch *b)
{
    const struct st_tensor *ids = safetensors_find(st, "input_ids");
    int32_t tokens[FIXTURE_ROWS];
    assert_non_null(ids);
    assert_true(ids->bytes <= sizeof tokens);
    CHECK(safetensors_read(st, ids, 0, tokens, ids->bytes, &err));
    memset(b, 0, sizeof *b);
    for (size_t r = 0; r < ids->dim[0]; r++) {
        begin_segment(b);
        for (size_t t = 0; t < ids->dim[1]; t++)
            add_row(b, tokens[r * ids->dim[1] + t], (int32_t)t, -1);
    }
}

static void check_file(const char *name, const struct fixture_batch *b, const real *want, double tolerance)
{
    char path[512], file[300];
    struct checkpoint *checkpoint;
    struct plan plan, floats;
    struct fixture stored, decoded;
    struct fixture_options o = {.max_n = FIXTURE_ROWS, .threads = 2, .scoring = true};
    snprintf(file, sizeof file, "gguf/%.200s.gguf", name);
    CHECK(checkpoint_open(&checkpoint, golden_path(path, file), &err));
    stored_plan(&plan, checkpoint);
    CHECK(plan_new(&floats, checkpoint_config(checkpoint), FORMAT_F32, &err));
    fixture_open(&stored, checkpoint_config(checkpoint), &plan, o);
    fixture_open(&decoded, checkpoint_config(checkpoint), &floats, o);
    CHECK(model_load(&stored.model, checkpoint, &err));
    CHECK(model_load(&decoded.model, checkpoint, &err));
    compare_weights(&stored.model, &decoded.model);
    compare_logits(&stored, b, want, tolerance, name);
    compare_logits(&decoded, b, want, tolerance, name);
    plan_free(&plan);
    plan_free(&floats);
    fixture_close(&stored);
    fixture_close(&decoded);
    checkpoint_close(checkpoint);
}

static void test_logits(void **state)
{
    (void)state;
    char path[512];
    struct safetensors st;
    static struct fixture_batch b;
    struct json *json = golden_json("gguf/gguf.json");
    const char *model;
    int cases = 0;
    assert_non_null(json);
    CHECK(json_string(json, "model", "gguf.json", &model, &err));
    CHECK(safetensors_open(&st, golden_path(path, "gguf/logits.safetensors"), &err));
    read_batch(&st, &b);
    for (size_t i = 0; i < st.n; i++) {
        const struct st_tensor *t = &st.tensor[i];
        const char *dot = strstr(t->name, ".logits");
        char name[200];
        if (!dot)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(dot - t->name), t->name);
        real *want = malloc(t->elements * sizeof *want);
        assert_non_null(want);
        CHECK(safetensors_read_real(&st, t, 0, t->elements, want, &err));
        check_file(name, &b, want, read_tolerance(model));
        free(want);
        cases++;
    }
    assert_true(cases > 0);
    safetensors_close(&st);
    json_free(json);
}

static void check_text(const struct tokenizer *tokenizer, const struct json *item)
{
    const char *text, *want;
    const struct json *ids;
    struct tokens got = {0};
    char *back;
    size_t n, i = 0;
    CHECK(json_string(item, "text", "gguf.json", &text, &err));
    CHECK(json_string(item, "decoded", "gguf.json", &want, &err));
    CHECK(json_array(item, "ids", "gguf.json", &ids, &err));
    CHECK(tokenizer_encode(tokenizer, text, strlen(text), false, &got, &err));
    assert_int_equal(got.n, json_size(ids));
    for (const struct json *id = json_first(ids); id; id = json_next(id)) {
        int64_t x;
        CHECK(json_as_int(id, "gguf.json", 0, INT32_MAX, &x, &err));
        assert_int_equal(got.id[i++], x);
    }
    CHECK(tokenizer_decode(tokenizer, got.id, got.n, &back, &n, &err));
    assert_int_equal(n, strlen(want));
    assert_memory_equal(back, want, n);
    free(back);
    tokens_free(&got);
}

static void test_vocabulary(void **state)
{
    (void)state;
    char path[512];
    struct checkpoint *checkpoint;
    const struct tokenizer *tokenizer;
    struct json *json = golden_json("gguf/gguf.json");
    const struct json *texts;
    assert_non_null(json);
    CHECK(checkpoint_open(&checkpoint, golden_path(path, "gguf/mixed.gguf"), &err));
    CHECK(checkpoint_tokenizer(checkpoint, &tokenizer, &err));
    CHECK(json_array(json, "tokenizer", "gguf.json", &texts, &err));
    assert_true(json_size(texts) > 0);
    for (const struct json *item = json_first(texts); item; item = json_next(item))
        check_text(tokenizer, item);
    checkpoint_close(checkpoint);
    json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits), cmocka_unit_test(test_vocabulary)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
