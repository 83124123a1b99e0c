/* convert_test.c: floats of the world's model through ./convert: what --dtype asks for is what is in the file, and a model that becomes another in the same
 * container, without --dtype, keeps every byte of its tensors. */
#include "job.h"

#include "dir.h"
#include "io/gguf.h"
#include "model_fixture.h"

static const char model[] = "data/world/model";

static void convert(const char *in, const char *out, const char *more)
{
    char program[512], command[2048];
    job_program(program, "tools/convert");
    snprintf(command, sizeof command, "%s %s %s --quiet %s", program, in, out, more);
    if (system(command) != 0)
        fail_msg("%s", command);
}

static void assert_same_file(const char *a, const char *b)
{
    char *x, *y;
    size_t n, m;
    CHECK(file_read(a, 1 << 28, &x, &n, &err));
    CHECK(file_read(b, 1 << 28, &y, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* Matrices of `type`, norms in F32 as every reader of ours and ggml's wants them. */
static void assert_gguf_types(const char *path, const char *type)
{
    struct gguf *g;
    CHECK(gguf_open(&g, path, &err));
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        assert_string_equal(gguf_type_name(t->type), t->n_dims == 1 ? "F32" : type);
    }
    gguf_close(g);
}

static void ggufs(void **state)
{
    (void)state;
    static const struct {
        const char *dtype, *type;
    } cases[] = {{"f32", "F32"}, {"bf16", "BF16"}, {"f16", "F16"}};
    char one[96], two[96], dtype[32];
    snprintf(two, sizeof two, "%s/two.gguf", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(one, sizeof one, "%s/%s.gguf", dir, cases[i].dtype);
        snprintf(dtype, sizeof dtype, "--dtype %s", cases[i].dtype);
        convert(model, one, dtype);
        assert_gguf_types(one, cases[i].type);
        convert(one, two, "");
        assert_same_file(one, two);
    }
    convert(model, two, ""); /* a folder's floats */
    assert_gguf_types(two, "F16");
}

/* The world's model is stored in F16. */
static void folders(void **state)
{
    (void)state;
    char one[96], two[96], weights[2][128];
    snprintf(one, sizeof one, "%s/one", dir);
    snprintf(two, sizeof two, "%s/two", dir);
    snprintf(weights[0], sizeof weights[0], "%s/model.safetensors", one);
    snprintf(weights[1], sizeof weights[1], "%s/model.safetensors", two);
    convert(model, one, "");
    assert_same_file("data/world/model/model.safetensors", weights[0]);
    convert(model, one, "--dtype bf16");
    convert(one, two, "");
    assert_same_file(weights[0], weights[1]);
    convert(model, one, "--dtype nf4"); /* packed matrices, norms in F32 */
    convert(one, two, "");
    assert_same_file(weights[0], weights[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ggufs), cmocka_unit_test(folders)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
