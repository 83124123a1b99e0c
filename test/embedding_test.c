/* embedding_test.c: the key embedding_type: what was measured is what is written, sizes are those of the files, the memory plan counts it, and a run is
 * another one with it. */
#include "job_outputs.h"

#include <math.h>

#include "quant.h"

enum { VOCAB = 1024, HIDDEN = 32 };

static int setup(void **state)
{
    struct job_home *home = calloc(1, sizeof *home);
    assert_non_null(home);
    job_open(home);
    *state = home;
    return 0;
}

static int teardown(void **state)
{
    job_close(*state);
    free(*state);
    return 0;
}

/* One configuration: a layer in F32, a linear in bf16, a layer in int8, the rest nf4. */
static void run_on(const char *model, const char *type, const char *dtype, const char *dir, const char *threads)
{
    char sentence[1024], from[64], embedding[64], export[64], out[64];
    snprintf(from, sizeof from, "model=%s", model);
    snprintf(embedding, sizeof embedding, "embedding_type=%s", type);
    snprintf(export, sizeof export, "export_dtype=%s", dtype);
    snprintf(out, sizeof out, "output_dir=%s", dir);
    if (job_run(sentence, "job.txt", from, embedding, export, out, threads, "pruning_ratio=0.1", "search=none", "bits_pattern=layers.0=f32,layers.1.*q_proj=bf16,layers.3=int8", NULL))
        fail_msg("%s: %s", type, sentence);
}

static void run(const char *type, const char *dtype, const char *dir, const char *threads)
{
    run_on("base/model", type, dtype, dir, threads);
}

/* ---- what is written ---- */

static void test_measured_is_written(void **state)
{
    (void)state;
    static const char *const types[] = {"bf16", "f16", "int8", "nf4"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        run(types[i], "f32", types[i], "threads=1");
        job_assert_written_as_measured(types[i]);
    }
}

/* Model, adapter, scores: the same bytes with two threads. */
static void test_threads(void **state)
{
    (void)state;
    static const char *const outputs[] = {"model/model.safetensors", "adapter/adapter_model.safetensors", "model.gguf", "eval/results.json", "metrics.jsonl"};
    run("int8", "f32", "two", "threads=2");
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        job_assert_same_file("int8", "two", outputs[i]);
}

static void read_embedding(const char *path, enum format stored, real *W)
{
    struct err err;
    struct checkpoint *c;
    struct qmat q;
    ASSERT_OK(checkpoint_open(&c, path, &err));
    ASSERT_OK(checkpoint_format(c, "model.embed_tokens.weight", &q, &err));
    assert_int_equal(q.format, stored);
    ASSERT_OK(checkpoint_read(c, "model.embed_tokens.weight", W, VOCAB, HIDDEN, &err));
    checkpoint_close(c);
}

/* q8_0 is a GGUF's own: there it is as it was held, in the folder its values are. */
static void test_q8_0(void **state)
{
    (void)state;
    static real folder[VOCAB * HIDDEN], gguf[VOCAB * HIDDEN], base[VOCAB * HIDDEN];
    run("q8_0", "f32", "q8_0", "threads=1");
    read_embedding("q8_0/model", FORMAT_F32, folder);
    read_embedding("q8_0/model.gguf", FORMAT_Q8_0, gguf);
    read_embedding("base/model", FORMAT_F32, base);
    assert_memory_equal(folder, gguf, sizeof gguf);
    assert_memory_not_equal(folder, base, sizeof base);
}

static void test_other_files(void **state)
{
    (void)state;
    static real W[VOCAB * HIDDEN];
    read_embedding("int8/model", FORMAT_INT8, W);
    read_embedding("int8/model.gguf", FORMAT_Q8_0, W);
    read_embedding("bf16/model", FORMAT_BF16, W);
    read_embedding("bf16/model.gguf", FORMAT_F16, W);
}

/* ---- sizes ---- */

static void test_sizes_are_those_of_the_files(void **state)
{
    (void)state;
    static const char *const cases[][3] = {{"f32", "f32", "f32-f32"},  {"f32", "bf16", "f32-bf16"}, {"bf16", "f32", "bf16"}, {"f16", "f32", "f16"},
                                           {"int8", "f32", "int8"}, {"int8", "bf16", "int8-bf16"}, {"nf4", "f32", "nf4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *dir = cases[i][2];
        if (access(dir, F_OK) != 0)
            run(cases[i][0], cases[i][1], dir, "threads=1");
        double told = job_told_size(dir, "pick"), written = job_written_size(dir);
        if (told != written)
            fail_msg("%s: %.0f bytes are told, %.0f written", dir, told, written);
    }
    /* what the embedding alone makes out, in the rows without formats too */
    double saved = VOCAB * HIDDEN * 3 - VOCAB * 4;
    assert_true(job_told_size("f32-f32", "pick") - job_told_size("int8", "pick") == saved);
    assert_true(job_told_size("f32-f32", "before") - job_told_size("int8", "before") == saved);
    assert_true(job_told_size("f32-f32", "after") - job_told_size("int8", "after") == saved);
    assert_true(job_told_size("f32-bf16", "before") == job_told_size("f32-f32", "before") / 2); /* all of it is floats */
}

/* A head of its own is packed and counted like the embedding. */
static void test_untied(void **state)
{
    (void)state;
    char sentence[1024];
    if (job_run(sentence, "base.txt", "output_dir=untied", "tie_word_embeddings=no", NULL))
        fail_msg("%s", sentence);
    run_on("untied/model", "int8", "f32", "head", "threads=1");
    job_assert_written_as_measured("head");
    assert_true(job_told_size("head", "pick") == job_written_size("head"));
    assert_true(job_told_size("head", "before") == job_told_size("int8", "before") + VOCAB * HIDDEN + VOCAB * 4);
}

/* ---- memory ---- */

static void plan_of(const char *embedding, double *base, double *weights)
{
    struct veneer *job;
    const char *text;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "job.txt"), 0);
    assert_int_equal(veneer_set(job, embedding, "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    *base = job_number_after(text, "\nbase weights ");
    *weights = job_number_after(text, "\nweights ");
    veneer_free(job);
}

static void test_plan_counts_it(void **state)
{
    (void)state;
    double base, weights, packed_base, packed_weights, saved = VOCAB * HIDDEN * 3 - VOCAB * 4; /* all multiples of 64 */
    plan_of("embedding_type=f32", &base, &weights);
    plan_of("embedding_type=int8", &packed_base, &packed_weights);
    assert_true(base - packed_base == saved);
    assert_true(weights - packed_weights == saved);
}

/* ---- what is refused ---- */

static void refused(const char *sentence, const char *config, const char *a, const char *b)
{
    char said[1024];
    assert_int_equal(job_run(said, config, a, b, NULL), VENEER_INPUT);
    assert_string_equal(said, sentence);
}

static void test_refused(void **state)
{
    (void)state;
    refused("test: embedding_type = 'int4', want one of: auto keep f32 bf16 f16 int8 q8_0 nf4", "job.txt", "output_dir=none", "embedding_type=int4");
    refused("test: embedding_type = int8, want f32 with train_mode = full, which trains the embedding too", "base.txt", "output_dir=none",
            "embedding_type=int8");
}

/* Rows of q8_0 are blocks of 32. */
static void test_shape_refused(void **state)
{
    (void)state;
    char sentence[1024];
    if (job_run(sentence, "base.txt", "output_dir=narrow", "hidden_size=24", "max_steps=1", NULL))
        fail_msg("%s", sentence);
    refused("embedding_type: a matrix of 1024 x 24 cannot be q8_0, which wants columns in multiples of 32", "job.txt", "model=narrow/model",
            "embedding_type=q8_0");
}

static void test_another_run(void **state)
{
    (void)state;
    char sentence[1024];
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=int8", "embedding_type=bf16", "export_dtype=f32", "pruning_ratio=0.1", "search=none",
                             "bits_pattern=layers.0=f32,layers.1.*q_proj=bf16,layers.3=int8", NULL),
                     VENEER_INPUT);
    assert_string_equal(sentence, "int8 holds another run: 'embedding_type = int8', now 'embedding_type = bf16'; take another output_dir or remove it");
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured_is_written), cmocka_unit_test(test_threads), cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_other_files),         cmocka_unit_test(test_sizes_are_those_of_the_files),
        cmocka_unit_test(test_untied), cmocka_unit_test(test_plan_counts_it), cmocka_unit_test(test_refused), cmocka_unit_test(test_shape_refused),
        cmocka_unit_test(test_another_run),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
