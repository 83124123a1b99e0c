/* The files of golden/gguf against what they were made of: f32.gguf holds the very numbers of its Hugging Face folder once rows of q and
 * k are put back, and every tensor has the type that gguf.json says.  Logits and vocabulary: model_gguf_golden_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "golden.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/safetensors.h"

static void open_or_fail(enum status status, const struct err *err)
{
    if (status != OK)
        fail_msg("%s", err->text);
}

static struct json *description(const char **model)
{
    struct err err;
    struct json *json = golden_json("gguf/gguf.json");
    assert_non_null(json);
    open_or_fail(json_string(json, "model", "gguf.json", model, &err), &err);
    return json;
}

static void f32_gguf_holds_the_numbers_of_its_folder(void **state)
{
    (void)state;
    char path[512], folder[400];
    const char *model;
    struct json *json = description(&model);
    struct err err;
    struct checkpoint *gguf;
    struct safetensors st;
    open_or_fail(checkpoint_open(&gguf, golden_path(path, "gguf/f32.gguf"), &err), &err);
    snprintf(folder, sizeof folder, "%s/model.safetensors", model);
    open_or_fail(safetensors_open(&st, golden_path(path, folder), &err), &err);
    assert_true(st.n > 0);
    for (size_t i = 0; i < st.n; i++) {
        const struct st_tensor *t = &st.tensor[i];
        size_t rows = t->n_dims == 2 ? (size_t)t->dim[0] : 1, n = (size_t)t->elements;
        real *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
        assert_true(want && got);
        open_or_fail(safetensors_read_real(&st, t, 0, n, want, &err), &err);
        open_or_fail(checkpoint_read(gguf, t->name, got, rows, n / rows, &err), &err);
        if (memcmp(want, got, n * sizeof *want) != 0)
            fail_msg("%s differs", t->name);
        free(want);
        free(got);
    }
    safetensors_close(&st);
    checkpoint_close(gguf);
    json_free(json);
}

static void tensors_have_the_types_that_are_said(void **state)
{
    (void)state;
    char path[512];
    const char *model, *type;
    struct json *json = description(&model);
    const struct json *types;
    struct err err;
    struct gguf *gguf;
    open_or_fail(json_object(json, "types", "gguf.json", &types, &err), &err);
    open_or_fail(gguf_open(&gguf, golden_path(path, "gguf/mixed.gguf"), &err), &err);
    assert_int_equal(gguf_n_tensors(gguf), json_size(types));
    for (const struct json *item = json_first(types); item; item = json_next(item)) {
        const struct gguf_tensor *t = gguf_tensor(gguf, json_key(item));
        open_or_fail(json_as_string(item, json_key(item), &type, &err), &err);
        assert_non_null(t);
        assert_string_equal(gguf_type_name(t->type), type);
    }
    gguf_close(gguf);
    json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(f32_gguf_holds_the_numbers_of_its_folder),
                                       cmocka_unit_test(tensors_have_the_types_that_are_said)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
