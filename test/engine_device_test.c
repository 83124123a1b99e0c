/* engine_device_test.c: train --plan of a folder that holds config.json alone, and what it says of a device: without weights, data, tokenizer or GPU.
 *
 * The numbers are recomputed here from the widths: every piece of memory is a multiple of 64 bytes. */
#include <math.h>

#include "job_outputs.h"

enum { C = 128, F = 384, V = 512, L = 3, H = 4, KV = 2, D = 32, R = 8, ROWS = 64 };

static const char config_json[] = "{\"model_type\": \"llama\", \"vocab_size\": 512, \"hidden_size\": 128, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,"
                                  " \"num_key_value_heads\": 2, \"intermediate_size\": 384, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6,"
                                  " \"tie_word_embeddings\": false, \"torch_dtype\": \"float16\"}";
static const char plan_text[] = "model = shapes\ndataset = none.jsonl\noutput_dir = out\nquant_types = nf4,int8\nembedding_type = bf16\ndouble_quant = no\nsearch = random\n"
                                "objective = accuracy\neval_data = none\nlora_r = 8\nmax_seq_len = 32\nmicro_batch_size = 2\nbatch_size = 4\ncalibration_seq_len = 32\n"
                                "gradient_checkpointing = yes\nlora_dropout = 0\nthreads = 1\n";

static char root[512];

static int setup(void **state)
{
    static struct job_home home;
    assert_non_null(getcwd(root, sizeof root));
    snprintf(home.dir, sizeof home.dir, "/tmp/veneer-job-XXXXXX");
    assert_non_null(mkdtemp(home.dir));
    assert_int_equal(chdir(home.dir), 0);
    assert_int_equal(mkdir("shapes", 0777), 0);
    job_write("shapes/config.json", config_json);
    job_write("plan.txt", plan_text);
    *state = &home;
    return 0;
}

/* The plan's text, owned by the job; keys up to NULL. */
static const char *plan(struct veneer **job, int want, const char *config, ...)
{
    const char *text = NULL, *key;
    va_list list;
    assert_int_equal(veneer_new(job), 0);
    assert_int_equal(veneer_read(*job, config), 0);
    va_start(list, config);
    while ((key = va_arg(list, const char *)))
        assert_int_equal(veneer_set(*job, key, "test"), 0);
    va_end(list);
    int code = veneer_plan(*job, &text);
    if (code != want)
        fail_msg("%s: code %d: %s", config, code, veneer_error(*job));
    return text;
}

static double row(const char *text, const char *name)
{
    char line[64];
    const char *device = strstr(text, "\non the device in bytes");
    assert_non_null(device);
    snprintf(line, sizeof line, "\n%s ", name);
    return job_number_after(device, line);
}

/* ---- what is printed ---- */

static double linears(double a_row, double a_weight)
{
    const double shape[][2] = {{H * D, C}, {KV * D, C}, {KV * D, C}, {C, H * D}, {F, C}, {F, C}, {C, F}};
    double sum = 0;
    for (size_t j = 0; j < 7; j++)
        sum += shape[j][0] * (a_row + shape[j][1] * a_weight);
    return L * sum;
}

static void test_weights_are_as_they_are_stored(void **state)
{
    (void)state;
    struct veneer *job;
    const char *text = plan(&job, 0, "plan.txt", "device=cuda", NULL), *smallest = strstr(text, "in the smallest ");
    double rest = 2 * 2.0 * V * C + 4.0 * C * (2 * L + 1) + 64; /* embedding and head in bf16, norms, 16 frequencies */
    assert_true(row(text, "weights") == linears(4, 1) + rest);           /* int8: a scale a row */
    assert_non_null(smallest);
    assert_true(job_number_after(smallest, "in the smallest ") == linears(0, 0.5 + 4 / 64.) + rest); /* nf4: a scale for 64 weights */
    assert_true(row(text, "adapters") == 4 * 4 * R * (double)L * (H * D + C + 2 * (KV * D + C) + C + H * D + 3 * (F + C)));
    assert_non_null(strstr(text, "for batches of up to 64 tokens\n"));
    assert_non_null(strstr(text, "shapes holds config.json alone: no data and no tasks were opened; rows of max_seq_len = 32 tokens are assumed\n"));
    veneer_free(job);
}

/* A trial's rows are one sum; the peak is another stage's where gradients are measured. */
static void test_rows_add_up(void **state)
{
    (void)state;
    static const char *const parts[] = {"weights", "adapters", "activations", "scratch", "own"};
    static const char *const keys[][2] = {{"gradient_checkpointing=yes", "pruning_ratio=0"}, {"gradient_checkpointing=no", "pruning_ratio=0.2"},
                                          {"rank_types=4,8", "pruning_ratios=0,0.2"}, {"compute_dtype=f32", "quant_types=keep,nf4"}};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        struct veneer *job;
        double sum = 0, shared = 0;
        const char *text = plan(&job, 0, "plan.txt", "device=cuda", "ffn_multiple=8", "search=random", keys[k][0], keys[k][1], NULL);
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            assert_true(row(text, parts[i]) > 0);
            sum += row(text, parts[i]);
            shared += i >= 3 ? row(text, parts[i]) : 0;
        }
        assert_true(row(text, "tuning") == sum);
        if (k == 1 || k == 2) /* a run that measures takes the place of the others' activations */
            assert_true(row(text, "peak") == shared + row(text, "base") + fmax(row(text, "importance") + row(text, "measuring"), row(text, "activations")));
        else
            assert_true(row(text, "peak") == sum);
        veneer_free(job);
    }
}

/* Of several ratios the widest model counts; a pruned one takes less. */
static void test_the_largest_ratio_counts(void **state)
{
    (void)state;
    struct veneer *whole, *half, *both;
    const char *a = plan(&whole, 0, "plan.txt", "device=cuda", "ffn_multiple=8", NULL);
    const char *b = plan(&half, 0, "plan.txt", "device=cuda", "ffn_multiple=8", "pruning_ratio=0.2", NULL);
    const char *c = plan(&both, 0, "plan.txt", "device=cuda", "ffn_multiple=8", "pruning_ratios=0,0.2", NULL);
    assert_true(row(b, "weights") < 0.9 * row(a, "weights"));
    assert_true(row(c, "weights") == row(a, "weights"));
    assert_true(row(c, "adapters") == row(a, "adapters"));
    assert_true(row(c, "activations") == row(a, "activations"));
    veneer_free(whole);
    veneer_free(half);
    veneer_free(both);
}

/* The host keeps what it loads, cuts, encodes and writes; gradients, moments, activations and scratch are the device's. */
static void test_the_hosts_rows(void **state)
{
    (void)state;
    static const char *const rows[] = {"\nbase weights ", "\nweights ", "\nformats ", "\nstart "};
    struct veneer *here, *there, *steps, *reals;
    const char *a = plan(&here, 0, "plan.txt", "device=cpu", "pruning_ratio=0.2", "ffn_multiple=8", NULL);
    const char *b = plan(&there, 0, "plan.txt", "device=cuda", "pruning_ratio=0.2", "ffn_multiple=8", NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(job_number_after(a, rows[i]) > 0);
        assert_true(job_number_after(a, rows[i]) == job_number_after(b, rows[i]));
    }
    assert_null(strstr(a, "on the device"));
    assert_true(job_number_after(a, "\nbase weights ") == linears(0, 2) + 2 * 2.0 * V * C + 4.0 * C * (2 * L + 1) + 64); /* in the file's float16 */
    assert_true(row(b, "base") == job_number_after(a, "\nbase weights "));
    const char *c = plan(&steps, 0, "plan.txt", "device=cuda", "pruning_ratio=0.2", "iterative_steps=2", "ffn_multiple=8", NULL);
    assert_true(job_number_after(c, "\nbase weights ") == job_number_after(a, "\nbase weights ")); /* a cut only moves float16 */
    assert_true(row(c, "base") == row(b, "base"));
    const char *d = plan(&reals, 0, "plan.txt", "device=cuda", "pruning_ratio=0.2", "iterative_steps=2", "ffn_multiple=8", "quant_types=hqq4", "quantizer=gptq", NULL);
    assert_true(job_number_after(d, "\nbase weights ") == linears(0, 4) + 2 * 2.0 * V * C + 4.0 * C * (2 * L + 1) + 64); /* what GPTQ works on is F32 */
    assert_true(job_number_after(d, "\nweights ") > 1.5 * job_number_after(c, "\nweights "));
    assert_true(row(d, "base") == row(b, "base"));
    veneer_free(steps);
    veneer_free(reals);
    assert_true(job_number_after(a, "\noptimizer ") - job_number_after(b, "\noptimizer ") == 0.75 * row(b, "adapters"));
    assert_true(job_number_after(b, "\npeak ") < job_number_after(a, "\npeak "));
    veneer_free(here);
    veneer_free(there);
}

/* The example's own numbers, all nf4 and not pruned. */
static void test_llama7b(void **state)
{
    (void)state;
    char config[640];
    struct veneer *job;
    double blocks = 6476005376. / 64; /* of the linears; scales are bytes, and a float for 256 of them */
    snprintf(config, sizeof config, "%s/examples/llama7b.txt", root);
    const char *text = plan(&job, 0, config, "device=cuda", "quant_types=nf4", "pruning_ratio=0", NULL);
    assert_true(row(text, "weights") >= 6476005376. / 2 + blocks * (1 + 4 / 256.) + 2 * 2 * 32000. * 4096);
    assert_true(row(text, "weights") <= 1.001 * (6476005376. / 2 + blocks * (1 + 4 / 256.) + 2 * 2 * 32000. * 4096));
    assert_true(row(text, "adapters") == 4 * 4 * 16 * 32 * (4 * 8192. + 3 * (4096 + 11008)));
    assert_non_null(strstr(text, "for batches of up to 4096 tokens\n"));
    assert_true(row(text, "peak") <= 9e9); /* 8192 tokens a step, in two micro-batches; on any CPU */
    veneer_free(job);
}

/* Gradients of one layer and 33 streams of the calibration; of all layers where so long a calibration takes more. */
static void test_importance_takes_the_smaller_way(void **state)
{
    (void)state;
    static const struct {
        const char *keys[2];
        double grads, streams, rows;
    } cases[] = {{{"taylor=param_first", "calibration_samples=10"}, 1, 33, 1280},
                 {{"taylor=param_second", "calibration_samples=10"}, 2, 33, 1280},
                 {{"taylor=param_mix", "pruning_mode=layer"}, 2, 34, 1280},
                 {{"taylor=param_first", "calibration_samples=360"}, 1, 33, 46080},
                 {{"taylor=param_first", "calibration_samples=370"}, 32, 0, 0},
                 {{"taylor=param_mix", "calibration_samples=800"}, 64, 0, 0},
                 {{"pruner_type=l1", "calibration_samples=10"}, 0, 0, 0}};
    char config[640];
    const double layer = 4 * (4 * 4096. * 4096 + 3 * 4096. * 11008), sums = 8 * (4 * 8192. + 3 * 15104);
    snprintf(config, sizeof config, "%s/examples/llama7b.txt", root);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct veneer *job;
        const char *text = plan(&job, 0, config, "device=cuda", cases[i].keys[0], cases[i].keys[1], NULL);
        double want = cases[i].grads * layer + cases[i].streams * cases[i].rows * 4096 * 4 + sums, got = row(text, "importance");
        if (!(got == want))
            fail_msg("%s %s: %.0f bytes, want %.0f", cases[i].keys[0], cases[i].keys[1], got, want);
        veneer_free(job);
    }
}

/* ---- limits ---- */

static void test_max_memory_is_the_device_s(void **state)
{
    (void)state;
    struct veneer *job;
    char sentence[256], enough[64];
    const char *text = plan(&job, VENEER_MEMORY, "plan.txt", "device=cuda", "gradient_checkpointing=no", "max_memory=1000000", NULL);
    double kept = row(text, "peak"), activations = row(text, "activations");
    snprintf(sentence, sizeof sentence, "the plan takes %.1f MB on the device, max_memory = 1.0 MB", kept / 1e6);
    assert_string_equal(veneer_error(job), sentence);
    veneer_free(job);
    snprintf(enough, sizeof enough, "max_memory=%.0f", kept - 1); /* auto: layers are computed again */
    text = plan(&job, 0, "plan.txt", "device=cuda", "gradient_checkpointing=auto", enough, NULL);
    assert_true(row(text, "activations") < activations);
    veneer_free(job);
    snprintf(enough, sizeof enough, "max_memory=%.0f", kept);
    text = plan(&job, 0, "plan.txt", "device=cuda", "gradient_checkpointing=auto", enough, NULL);
    assert_true(row(text, "activations") == activations);
    veneer_free(job);
}

/* ---- bad input ---- */

static void refused(int code, const char *sentence, const char *model, bool plans)
{
    struct veneer *job;
    const char *text = NULL;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "plan.txt"), 0);
    assert_int_equal(veneer_set(job, model, "test"), 0);
    assert_int_equal(plans ? veneer_plan(job, &text) : veneer_run(job), code);
    assert_string_equal(veneer_error(job), sentence);
    veneer_free(job);
}

static void test_what_is_missing_is_said(void **state)
{
    (void)state;
    refused(VENEER_INPUT, "shapes: holds config.json and no weights, want model.safetensors beside it (train --plan needs none)", "model=shapes", false);
    assert_int_equal(access("out", F_OK), -1);
    assert_int_equal(mkdir("empty", 0777), 0);
    refused(VENEER_INPUT, "empty/config.json: No such file or directory", "model=empty", true);
    refused(VENEER_INPUT, "nowhere: No such file or directory", "model=nowhere", true);
    job_write("empty/config.json", "{\"model_type\": \"llama\", \"torch_dtype\": \"float8\"}");
    refused(VENEER_INPUT, "empty/config.json.torch_dtype: got float8, want float32, float16 or bfloat16", "model=empty", true);
    job_write("empty/config.json", "{\"model_type\": \"llama\", \"dtype\": 16}");
    refused(VENEER_INPUT, "empty/config.json.dtype: got a number, want a string", "model=empty", true);
    job_write("empty/config.json", "{\"model_type\": \"llama\", \"max_position_embeddings\": 16}");
    refused(VENEER_INPUT, "max_seq_len = 32 is longer than the model's context of 16 tokens", "model=empty", true);
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_as_they_are_stored), cmocka_unit_test(test_rows_add_up),
        cmocka_unit_test(test_the_largest_ratio_counts),       cmocka_unit_test(test_the_hosts_rows),
        cmocka_unit_test(test_llama7b),           cmocka_unit_test(test_importance_takes_the_smaller_way), cmocka_unit_test(test_max_memory_is_the_device_s),
        cmocka_unit_test(test_what_is_missing_is_said),
    };
    return cmocka_run_group_tests_name("engine_device", tests, setup, job_teardown);
}
