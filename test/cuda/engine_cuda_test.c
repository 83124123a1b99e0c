/* Whole jobs on the device beside the CPU's: the same units pruned, the same configurations chosen, losses within 1e-5 of each other, the same bytes when it is
 * done again; and what is said when the device fails or is too small. */
#include <math.h>

#include "job_outputs.h"
#ifdef VENEER_CUDA_EMU
#include "emu_ctl.h"
#endif

/* As small as a job can be that prunes by gradients, searches, fine-tunes, scores and writes: the emulator runs every thread of every kernel. */
static const char small_text[] = "model = tiny/model\ndataset = train.jsonl\neval_data = tasks\neval_tasks = boolq\neval_limit = 1\noutput_dir = out\n"
                                 "search_data = held.jsonl\npruning_ratio = 0.15\nffn_multiple = 8\nquant_types = nf4,int8\nnum_initial = 2\nnum_trials = 1\n"
                                 "max_steps = 2\nsave_steps = 1\nlora_r = 2\nbatch_size = 2\nmicro_batch_size = 1\nmax_seq_len = 40\nskip_invalid = yes\n"
                                 "calibration_seq_len = 16\ncalibration_samples = 2\nlearning_rate = 1e-2\nobjective = loss\ncompute_dtype = f32\n"
                                 "threads = 1\n";

/* The other ways: channels of the residual stream by second derivatives, divergences, importance before the search, formats written by GPTQ. */
static const char other_text[] = "model = tiny/model\ndataset = train.jsonl\noutput_dir = out\nsearch_data = held.jsonl\npruning_ratio = 0.2\npruning_mode = channel\n"
                                 "hidden_multiple = 8\ntaylor = param_mix\nquant_types = hqq3,hqq4\nquantizer = gptq\nquantizer_samples = 2\nsearch = autoqra\n"
                                 "rank_types = 1,2\nnum_initial = 1\nnum_trials = 1\nobjective = kl\nmax_steps = 1\nbatch_size = 1\nmicro_batch_size = 1\n"
                                 "max_seq_len = 40\nskip_invalid = yes\ncalibration_seq_len = 16\ncalibration_samples = 2\nlearning_rate = 1e-2\n"
                                 "compute_dtype = f32\ngradient_checkpointing = yes\nexport = hf,peft\nthreads = 1\n";

static const char *const outputs[] = {"model/model.safetensors", "adapter/adapter_model.safetensors", "model.gguf", "search/journal.jsonl",
                                      "search/pareto.csv", "eval/results.json", "eval/samples_boolq.jsonl", "metrics.jsonl"};

static void run_job(const char *config, const char *output_dir, const char *device)
{
    char out[64], where[64], sentence[1024];
    snprintf(out, sizeof out, "output_dir=%s", output_dir);
    snprintf(where, sizeof where, "device=%s", device);
    if (job_run(sentence, config, out, where, NULL))
        fail_msg("%s: %s", output_dir, sentence);
}

/* Two layers, all parameters trained; stored in bf16, so that the host's F32 lies on the device as bf16. */
static void train_base(const char *output_dir, const char *device)
{
    char out[64], where[64], sentence[1024];
    snprintf(out, sizeof out, "output_dir=%s", output_dir);
    snprintf(where, sizeof where, "device=%s", device);
    if (job_run(sentence, "base.txt", out, where, "num_hidden_layers=2", "batch_size=2", "micro_batch_size=2", "max_steps=2", "export_dtype=bf16", NULL))
        fail_msg("%s: %s", output_dir, sentence);
}

#ifdef VENEER_CUDA_EMU
static long calls_of_a_job;
static size_t bytes_of_a_job, bytes_in_halves;
#endif

static int setup(void **state)
{
    job_setup(state);
    job_write("small.txt", small_text);
    job_write("other.txt", other_text);
    job_write_text("held.jsonl", 2);
    train_base("tiny", "cpu");
    run_job("small.txt", "here", "cpu");
#ifdef VENEER_CUDA_EMU
    emu_calls(1);
    emu_memory(&bytes_of_a_job, 1);
#endif
    run_job("small.txt", "there", "cuda");
#ifdef VENEER_CUDA_EMU
    calls_of_a_job = emu_calls(1);
    emu_memory(&bytes_of_a_job, 0);
#endif
    return 0;
}

static char *text_of(const char *dir, const char *name)
{
    char path[128], *text;
    size_t n;
    struct err err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ASSERT_OK(file_read(path, 1 << 26, &text, &n, &err));
    return text;
}

/* In f32 only the order of sums differs. */
static const double in_f32 = 1e-5;

/* What stands behind each `word` in two files is a number: as many, and within `bound`. */
static void assert_close(const char *a, const char *b, const char *name, const char *word, double bound)
{
    char *x = text_of(a, name), *y = text_of(b, name), *p = x, *q = y;
    size_t n = 0;
    assert_int_equal(job_count(x, word), job_count(y, word));
    for (; (p = strstr(p, word)) && (q = strstr(q, word)); n++) {
        double u = strtod(p += strlen(word), NULL), v = strtod(q += strlen(word), NULL);
        if (!(fabs(u - v) <= bound))
            fail_msg("%s/%s and %s: %s %g and %g", a, name, b, word, u, v);
    }
    assert_true(n > 0);
    free(x);
    free(y);
}

/* What the search left, but for scores in their last digits: sizes and levels of every trial, the front, the pick. */
static void assert_same_choices(const char *a, const char *b)
{
    char *x = text_of(a, "search/pareto.csv"), *y = text_of(b, "search/pareto.csv"), *p = x, *q = y;
    for (int line = 0; *p || *q; line++) {
        size_t n = strcspn(p, "\n"), m = strcspn(q, "\n");
        double u[3], v[3];
        char rest[2][256] = {"", ""};
        int read = sscanf(p, "%lf,%lf,%lf,%255[^\n]", &u[0], &u[1], &u[2], rest[0]);
        assert_true(n > 0 && m > 0);
        if (line > 0 && (read != 4 || sscanf(q, "%lf,%lf,%lf,%255[^\n]", &v[0], &v[1], &v[2], rest[1]) != 4))
            fail_msg("%s: line %d is %.*s", b, line + 1, (int)m, q);
        if (line > 0)
            assert_true(u[0] == v[0] && u[1] == v[1] && fabs(u[2] - v[2]) <= 1e-5);
        assert_string_equal(strchr(rest[0], ',') ? strchr(rest[0], ',') : "", strchr(rest[1], ',') ? strchr(rest[1], ',') : "");
        p += n + 1;
        q += m + 1;
    }
    free(x);
    free(y);
}

/* The base's codes tell which units were kept, and by what each linear was encoded. */
static void the_job_is_the_cpus(void **state)
{
    (void)state;
    job_assert_same_file("here", "there", "model/model.safetensors");
    assert_same_choices("here", "there");
    assert_close("here", "there", "metrics.jsonl", "\"loss\": ", in_f32);
    assert_close("here", "there", "eval/results.json", "\"mean\": ", in_f32);
    assert_close("here", "there", "run.json", "\"gguf_kl\": ", in_f32);
    char *run = text_of("there", "run.json");
    assert_non_null(strstr(run, "\"kernels\": \"cuda\""));
    free(run);
}

/* In bf16 the activations of the device are half as wide, importance is measured in f32 all the same: the units that are pruned and their codes stay what they are.  Losses differ
 * by roundings: of each of some tens of activations on the way of a token 2^-8, of either sign, of a loss of 6 nats. */
static void halves_are_near(void **state)
{
    (void)state;
    char sentence[1024];
#ifdef VENEER_CUDA_EMU
    emu_memory(&bytes_in_halves, 1);
#endif
    if (job_run(sentence, "small.txt", "output_dir=halves", "device=cuda", "compute_dtype=bf16", NULL))
        fail_msg("%s", sentence);
#ifdef VENEER_CUDA_EMU
    emu_memory(&bytes_in_halves, 0);
#endif
    job_assert_same_file("here", "halves", "model/model.safetensors");
    assert_close("here", "halves", "metrics.jsonl", "\"loss\": ", 1e-2);
}

static void the_same_bytes_again(void **state)
{
    (void)state;
    run_job("small.txt", "again", "cuda");
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        job_assert_same_file("there", "again", outputs[i]);
}

static void the_other_ways_are_the_cpus(void **state)
{
    (void)state;
    run_job("other.txt", "other-here", "cpu");
    run_job("other.txt", "other-there", "cuda");
    job_assert_same_file("other-here", "other-there", "model/model.safetensors");
    assert_same_choices("other-here", "other-there");
    assert_close("other-here", "other-there", "metrics.jsonl", "\"loss\": ", in_f32);
}

static void full_training_is_the_cpus(void **state)
{
    (void)state;
    train_base("full", "auto"); /* the device, where there is one */
    assert_close("tiny", "full", "metrics.jsonl", "\"loss\": ", in_f32);
}

#ifdef VENEER_CUDA_EMU
/* What --plan prints, without a device, is what the job takes. */
static void assert_planned(const char *compute, size_t bytes)
{
    struct veneer *job;
    const char *text, *device;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "small.txt"), 0);
    assert_int_equal(veneer_set(job, compute, "test"), 0);
    assert_int_equal(veneer_set(job, "device=cuda", "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    assert_non_null(device = strstr(text, "on the device in bytes"));
    double own = job_number_after(device, "\nown "), planned = job_number_after(device, "\npeak ") - own, took = (double)bytes - own;
    if (!(took <= planned && took >= 0.95 * planned)) /* own would hide the rest of so small a job */
        fail_msg("%s: the job took %.0f bytes, the plan says %.0f", compute, took, planned);
    veneer_free(job);
}

static void the_plan_is_kept(void **state)
{
    (void)state;
    assert_planned("compute_dtype=f32", bytes_of_a_job);
    assert_planned("compute_dtype=bf16", bytes_in_halves);
}

/* Half-way, for good: exit code 1 and the device's sentence; what was finished is whole, so that the job goes on from there to the same bytes. */
static void a_device_that_fails_ends_the_run(void **state)
{
    (void)state;
    char sentence[1024];
    emu_fail(calls_of_a_job / 2, 1);
    assert_int_equal(job_run(sentence, "small.txt", "output_dir=failed", "device=cuda", NULL), VENEER_FAILED);
    assert_non_null(strstr(sentence, "the GPU "));
    assert_non_null(strstr(sentence, " failed ")); /* a call of CUDA's or of cuBLAS's */
    emu_revive();
    run_job("small.txt", "failed", "cuda");
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        job_assert_same_file("there", "failed", outputs[i]);
}


/* Said before anything is made, with both numbers. */
static void too_little_memory_is_said(void **state)
{
    (void)state;
    char sentence[1024];
    struct emu_device narrow = emu_default_device;
    narrow.memory = 33 << 20; /* cuBLAS's workspace takes 32 */
    emu_set_device(&narrow);
    assert_int_equal(job_run(sentence, "small.txt", "output_dir=narrow", "device=cuda", NULL), VENEER_MEMORY);
    emu_set_device(&emu_default_device);
    assert_non_null(strstr(sentence, "the plan takes "));
    assert_non_null(strstr(sentence, " MB on the device, the GPU "));
    assert_non_null(strstr(sentence, " has 34.6 MB free: want a smaller micro_batch_size or max_seq_len, gradient_checkpointing = yes, smaller quant_types, or device = cpu"));
    assert_int_equal(access("narrow", F_OK), -1);
}
#endif

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_job_is_the_cpus), cmocka_unit_test(halves_are_near), cmocka_unit_test(the_same_bytes_again), cmocka_unit_test(the_other_ways_are_the_cpus),
        cmocka_unit_test(full_training_is_the_cpus),
#ifdef VENEER_CUDA_EMU
        cmocka_unit_test(the_plan_is_kept), cmocka_unit_test(too_little_memory_is_said), cmocka_unit_test(a_device_that_fails_ends_the_run),
#endif
    };
    return cmocka_run_group_tests_name("engine_cuda", tests, setup, job_teardown);
}
