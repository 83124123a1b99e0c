/* merge_report_test.c: how much of an adapter a merge leaves: values by hand, an update that a format swallows, a GGUF that holds what was measured, and the
 * program from a PEFT folder to merge_report.txt. */
#include "job_outputs.h"

#include "convert.h"
#include "export.h"
#include "inference.h"
#include "merge_report.h"
#include "model_fixture.h"
#include "world_dir.h"

enum { LAYERS = 2, VOCAB = 1030 };

static char world[512];

static int setup(void **state)
{
    assert_non_null(getcwd(world, sizeof world - 16));
    strcat(world, "/data/world");
    return open_world_dir(state) == 0 ? chdir(dir) : -1;
}

static int teardown(void **state)
{
    return chdir("/") == 0 ? close_world_dir(state) : -1;
}

/* ---- one linear ---- */

static struct merge_sums compare(const real *W, const struct qmat *to, const struct adapter *a)
{
    struct merge_sums sums;
    const struct qmat from = {.format = FORMAT_F32, .rows = a->out, .cols = a->in, .codes = (void *)(uintptr_t)W};
    CHECK(merge_compare(&from, a, to, &sums, &err));
    return sums;
}

/* dW = 0.5 [2; 0] [1 1] = [1 1; 0 0];  W' - W = [1 0; 0 1]: half of the update, and a rest of [0 -1; 0 1], as long as the update.  `to` is padded. */
static void by_hand(void **state)
{
    (void)state;
    real A[] = {1, 1}, B[] = {2, 0}, W[] = {1, 2, 3, 4}, merged[] = {2, 2, 0, 3, 5, 0, 0, 0, 0};
    const struct adapter a = {.r = 1, .s = 0.5F, .in = 2, .out = 2, .A = A, .B = B};
    const struct qmat to = {.format = FORMAT_F32, .rows = 3, .cols = 3, .codes = merged};
    struct merge_sums sums = compare(W, &to, &a), none = {0};
    assert_true(sums.moved == 1 && sums.update == 2 && sums.rest == 2);
    assert_true(merge_survived(&sums) == 0.5 && merge_noise(&sums) == 1);
    assert_true(isnan(merge_survived(&none)) && isnan(merge_noise(&none)));
}

/* A row of whole numbers with 127 among them: q8_0's step is 1.  Updates of 0.25 are rounded away, those of 0.75 become 1. */
static void rounded_away(void **state)
{
    (void)state;
    static const double updates[] = {0.25, 0.75}, survived[] = {0, 4.0 / 3}, noise[] = {1, 1.0 / 3};
    for (int k = 0; k < 2; k++) {
        real A[32], B[] = {(real)updates[k]}, W[32], sum[32];
        const struct adapter a = {.r = 1, .s = 1, .in = 32, .out = 1, .A = A, .B = B};
        struct arena arena = {0};
        struct qmat q;
        for (int i = 0; i < 32; i++) {
            W[i] = (real)(i ? 3 * i - 40 : 127);
            A[i] = (real)(i > 0);
            sum[i] = W[i] + B[0] * A[i];
        }
        quant_place(&q, FORMAT_Q8_0, 0, false, 1, 32, &arena);
        CHECK(arena_commit(&arena, "test", &err));
        quant_place(&q, FORMAT_Q8_0, 0, false, 1, 32, &arena);
        CHECK(quant_encode(&q, sum, false, &err));
        struct merge_sums sums = compare(W, &q, &a);
        assert_true(fabs(merge_survived(&sums) - survived[k]) < 1e-12);
        assert_true(fabs(merge_noise(&sums) - noise[k]) < 1e-12);
        arena_free(&arena);
    }
}

/* ---- a model ---- */

/* F32; adapters beside all linears but o. */
static void make_model(struct fixture *f, struct plan *plan)
{
    struct model_config c;
    memset(&c, 0, sizeof c);
    CHECK(model_config_alloc(&c, LAYERS, &err));
    c.vocab_size = VOCAB;
    c.hidden_size = 64;
    c.head_dim = 16;
    c.max_position_embeddings = 128;
    strcpy(c.model_type, "llama");
    for (int l = 0; l < LAYERS; l++) {
        c.num_attention_heads[l] = 4;
        c.num_key_value_heads[l] = 2;
        c.intermediate_size[l] = l ? 40 : 96;
    }
    CHECK(plan_new(plan, &c, FORMAT_F32, &err));
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            plan->layer[l].linear[j].rank = j == LINEAR_O ? 0 : 1 + j % 3;
            plan->layer[l].linear[j].alpha = 2;
        }
    fixture_open(f, &c, plan, (struct fixture_options){.max_n = 8, .threads = 1, .scoring = true});
    fixture_fill(f, 3);
    struct rng rng = {.seed = 3, .stream = RNG_INIT, .step = 1000};
    for (size_t i = 0; i < f->lora.n; i++)
        f->lora.p[i] = (real)(0.1 * rng_normal(&rng));
    model_config_free(&c);
}

/* Merged into a ggml format and written: the file decodes to what was measured, to the bit, although it is encoded once more on its way. */
static void a_gguf_holds_what_is_measured(void **state)
{
    (void)state;
    static const enum format formats[] = {FORMAT_F16, FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_Q5_0, FORMAT_Q5_1, FORMAT_Q8_0};
    static real got[64 * 96], want[64 * 96];
    for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
        struct fixture f;
        struct plan plan;
        struct model to;
        struct arena arena = {0};
        struct checkpoint *c;
        make_model(&f, &plan);
        for (int i = 0; i < LAYERS * LINEAR_COUNT; i++)
            plan.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT].format = i == LINEAR_COUNT + LINEAR_DOWN ? FORMAT_F16 : formats[k];
        CHECK(convert_model(&to, &f.model, &f.lora, &plan, FORMAT_F32, FORMAT_F32, false, &arena, &err));
        CHECK(export_gguf("merged.gguf", &to, NULL, tokenizer, "test", &err));
        CHECK(checkpoint_open(&c, "merged.gguf", &err));
        for (int i = 0; i < LAYERS * LINEAR_COUNT; i++) {
            const struct qmat *q = &to.layer[i / LINEAR_COUNT].linear[i % LINEAR_COUNT];
            char module[64], name[80];
            plan_name(i / LINEAR_COUNT, (enum linear)(i % LINEAR_COUNT), module);
            snprintf(name, sizeof name, "%s.weight", module);
            CHECK(checkpoint_read(c, name, got, q->rows, q->cols, &err));
            quant_decode_rows(q, 0, q->rows, want);
            assert_memory_equal(got, want, q->rows * q->cols * sizeof *want);
        }
        checkpoint_close(c);
        model_free(&to);
        arena_free(&arena);
        plan_free(&plan);
        fixture_close(&f);
    }
}

/* ---- the program ---- */

static int run(const char *arguments, char *said, size_t size)
{
    char program[512], command[1024];
    job_program(program, "tools/convert");
    snprintf(command, sizeof command, "%s %s 2>&1", program, arguments);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(said, 1, size - 1, p);
    said[n] = 0;
    return pclose(p) / 256;
}

static void assert_runs(const char *arguments, char *said, size_t size)
{
    int code = run(arguments, said, size);
    if (code)
        fail_msg("convert %s: code %d, %s", arguments, code, said);
}

/* The number behind the n-th word `name` that begins a line, in column `column`. */
static double cell(const char *text, const char *name, int n, int column)
{
    for (const char *line = text; *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : line + strlen(line)) {
        const char *p = line + strspn(line, " ");
        size_t length = strlen(name);
        if (strncmp(p, name, length) != 0 || p[length] != ' ' || n-- > 0)
            continue;
        p += length;
        for (int i = 0; i < column; i++) {
            p += strspn(p, " ");
            p += strcspn(p, " \n");
        }
        return atof(p);
    }
    fail_msg("no line %s in:\n%s", name, text);
    return 0;
}

/* Floats keep all of it, four bits less, and the KL divergence tells the same: none of F32, some of nf4.  What a folder says, a GGUF's run prints. */
static void program(void **state)
{
    (void)state;
    static char said[1 << 16];
    struct fixture f;
    struct plan plan;
    char *report;
    size_t n;
    make_model(&f, &plan);
    CHECK(export_folder("model", &f.model, tokenizer, NULL, "f32", &err));
    CHECK(export_adapter("adapter", &f.lora, &plan, "../model", &err));
    char text[600], arguments[900];
    snprintf(text, sizeof text, "%s/README.md", world);
    snprintf(arguments, sizeof arguments, "model f32 --adapter adapter --merge --dtype f32 --text %s --window 64 --quiet", text);
    assert_runs(arguments, said, sizeof said);
    assert_string_equal(said, "");
    CHECK(file_read("f32/merge_report.txt", 1 << 20, &report, &n, &err));
    assert_true(cell(report, "all", 0, 0) == 1 && cell(report, "all", 1, 0) == 0); /* four places */
    assert_non_null(strstr(report, "layer       all    q_proj    k_proj    v_proj    o_proj gate_proj   up_proj down_proj\n"));
    assert_true(fabs(cell(report, "merged", 0, 0)) < 1e-6 && cell(report, "base", 1, 0) > 1e-4);
    free(report);
    snprintf(arguments, sizeof arguments, "model nf4 --adapter adapter --merge --dtype nf4 --text %s --window 64", text);
    assert_runs(arguments, said, sizeof said);
    CHECK(file_read("nf4/merge_report.txt", 1 << 20, &report, &n, &err));
    assert_non_null(strstr(said, report));
    assert_true(cell(report, "all", 1, 0) > 0.01 && cell(report, "merged", 0, 0) > 1e-6);
    free(report);
    assert_runs("model merged.gguf --adapter adapter --dtype int8", said, sizeof said);
    double coarse = cell(said, "all", 1, 0);
    assert_true(coarse > 0 && coarse < 1);
    assert_non_null(strstr(said, "survived: "));
    assert_int_equal(access("merged.gguf", F_OK), 0);
    assert_runs("model adapter.gguf --adapter adapter --no-merge --dtype f16", said, sizeof said);
    snprintf(text, sizeof text, "written: adapter.gguf (%llu parameters)\n", (unsigned long long)plan_adapter_parameters(&plan, &f.model.config));
    assert_string_equal(said, text);
    plan_free(&plan);
    fixture_close(&f);
}

static void assert_holds(const char *path, const char *words)
{
    char *text;
    size_t n;
    CHECK(file_read(path, 1 << 20, &text, &n, &err));
    if (!strstr(text, words))
        fail_msg("%s has no %s: %s", path, words, text);
    free(text);
}

/* A padded base and its padded adapter are the padded merge; the same as GGUFs.  Without --pad the adapter comes out as it went in. */
static void padded(void **state)
{
    (void)state;
    static char said[1 << 16];
    struct fixture f;
    struct plan plan;
    make_model(&f, &plan);
    CHECK(export_folder("model", &f.model, tokenizer, NULL, "f32", &err));
    CHECK(export_adapter("adapter", &f.lora, &plan, "../model", &err));
    assert_runs("model padded --format hf --pad --dtype f32", said, sizeof said);
    assert_runs("model wide --format hf --pad --adapter adapter --no-merge", said, sizeof said);
    assert_holds("wide/adapter_config.json", "\"base_model_name_or_path\": null,");
    assert_runs("model first --format hf --pad --dtype f32 --adapter adapter --merge --quiet", said, sizeof said);
    assert_runs("padded second --format hf --dtype f32 --adapter wide --merge --quiet", said, sizeof said);
    job_assert_same_file("first", "second", "model.safetensors");
    assert_runs("model first/adapter.gguf --pad --adapter adapter --no-merge", said, sizeof said);
    assert_runs("padded second/adapter.gguf --adapter wide --no-merge", said, sizeof said);
    job_assert_same_file("first", "second", "adapter.gguf");
    assert_runs("model again --adapter adapter --no-merge", said, sizeof said);
    job_assert_same_file("adapter", "again", "adapter_model.safetensors");
    assert_holds("again/adapter_config.json", "\"base_model_name_or_path\": \"model\",");
    plan_free(&plan);
    fixture_close(&f);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *arguments, *says;
    } cases[] = {
        {"model out.gguf --no-merge", "--no-merge writes an adapter alone: it wants --adapter DIR"},
        {"model out.gguf --no-merge --merge --adapter adapter", "--merge and --no-merge: want one of them"},
        {"model out --no-merge --adapter adapter --dtype f16", "--dtype f16: an adapter's folder is written in f32"},
        {"model adapter --no-merge --adapter ./adapter", "./adapter and adapter are the same: an input is never overwritten"},
        {"model out --adapter adapter", "an adapter goes into a folder only with --merge; --no-merge writes the adapter alone"},
        {"model out.gguf --no-merge --adapter adapter --dtype nf4", "an adapter cannot be written as nf4, want f32, f16 or bf16"},
        {"model out --text text", "--text measures a merge: it wants --adapter DIR without --no-merge"},
        {"model out --adapter adapter --merge --text nowhere", "nowhere: No such file or directory"},
        {"model out --dtype q4_0", "--dtype q4_0: model.layers.1.mlp.down_proj: a matrix of 64 x 40 cannot be q4_0, which wants columns in multiples of 32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char said[1024], want[1024];
        snprintf(want, sizeof want, "convert: %s\n", cases[i].says);
        assert_int_equal(run(cases[i].arguments, said, sizeof said), 2);
        assert_string_equal(said, want);
        assert_int_not_equal(access("out", F_OK), 0);
        assert_int_not_equal(access("out.gguf", F_OK), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_hand), cmocka_unit_test(rounded_away), cmocka_unit_test(a_gguf_holds_what_is_measured),
                                       cmocka_unit_test(program), cmocka_unit_test(padded), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
