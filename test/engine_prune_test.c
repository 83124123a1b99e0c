/* engine_prune_test.c: whole jobs that remove layers or channels of hidden_size.  What a user would miss: files of the old shape, a plan that says
 * another number of layers than comes, a job that cannot go on after a stop, a plan of such a run that the next run does not take. */
#include "job_outputs.h"

#include "io/checkpoint.h"
#include "io/gguf.h"
#include "plan.h"

/* Of a model with 4 layers, hidden_size 32, 4 heads of 8.  0.15 of it are 1.13 layers, or 27.2 channels are left: 24 is the nearest of the eighths. */
static const struct {
    const char *name, *mode, *multiple;
    int32_t layers, hidden_size;
} cases[] = {{"layer", "pruning_mode=layer", "hidden_multiple=8", 2, 32}, {"channel", "pruning_mode=channel", "hidden_multiple=8", 4, 24}};
enum { CASES = 2 };

static void run_case(int c, const char *dir)
{
    char sentence[1024], out[64];
    snprintf(out, sizeof out, "output_dir=%s", dir);
    if (job_run(sentence, "job.txt", out, cases[c].mode, cases[c].multiple, NULL))
        fail_msg("%s: %s", cases[c].name, sentence);
}

static void assert_shape(const char *path, const char *adapter, int32_t layers, int32_t hidden_size)
{
    struct err err;
    struct checkpoint *c;
    const struct tokenizer *t;
    struct plan plan;
    ASSERT_OK(checkpoint_open(&c, path, &err));
    const struct model_config *config = checkpoint_config(c);
    assert_true(config->num_hidden_layers == layers && config->hidden_size == hidden_size);
    for (int32_t l = 0; l < layers; l++)
        assert_true(config->num_attention_heads[l] == 4 && config->num_key_value_heads[l] == 2 && config->intermediate_size[l] == 64);
    assert_int_equal(config->head_dim, 8);
    ASSERT_OK(checkpoint_tokenizer(c, &t, &err));
    ASSERT_OK(plan_new(&plan, config, FORMAT_F32, &err));
    ASSERT_OK(adapter_read_plan(&plan, config, adapter, &err));
    assert_int_equal(plan.layer[layers - 1].linear[LINEAR_DOWN].rank, 2);
    plan_free(&plan);
    checkpoint_close(c);
}

/* Every matrix, from the whole file: shapes that other programs would refuse are refused here too. */
static void assert_scores(const char *path)
{
    struct text samples = {0};
    job_score_again(path, NULL, "piqa", &samples);
    assert_int_equal(job_count(samples.s, "\n"), 6);
    text_free(&samples);
}

static void files_have_the_new_shape(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        char path[64], adapter[64], *text;
        run_case(c, cases[c].name);
        snprintf(adapter, sizeof adapter, "%s/adapter", cases[c].name);
        snprintf(path, sizeof path, "%s/model.gguf", cases[c].name);
        assert_shape(path, adapter, cases[c].layers, cases[c].hidden_size);
        assert_scores(path);
        struct gguf *g;
        struct err err;
        int64_t key_length;
        ASSERT_OK(gguf_open(&g, path, &err)); /* one width for all layers: not deci */
        ASSERT_OK(gguf_int(g, "llama.attention.key_length", 8, 8, &key_length, &err));
        gguf_close(g);
        snprintf(path, sizeof path, "%s/model", cases[c].name);
        assert_shape(path, adapter, cases[c].layers, cases[c].hidden_size);
        job_assert_written_as_measured(cases[c].name);
        snprintf(path, sizeof path, "%s/model/config.json", cases[c].name);
        text = job_read_text(path);
        assert_non_null(strstr(text, "\"head_dim\": 8"));
        free(text);
    }
}

/* The number of variables of the search is known before the model is loaded. */
static void a_stopped_job_goes_on(void **state)
{
    (void)state;
    static const char *const files[] = {"search/journal.jsonl", "model/model.safetensors", "model/config.json", "adapter/adapter_model.safetensors", "model.gguf"};
    for (int c = 0; c < CASES; c++) {
        char again[64];
        snprintf(again, sizeof again, "%s-again", cases[c].name);
        job_cut_journal(cases[c].name, again, 4);
        run_case(c, again);
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            job_assert_same_file(cases[c].name, again, files[i]);
    }
}

static void a_plan_is_taken_again(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        char sentence[1024], plan[64], out[64];
        snprintf(plan, sizeof plan, "plan=%s/search/plan-best.txt", cases[c].name);
        snprintf(out, sizeof out, "output_dir=%s-planned", cases[c].name);
        if (job_run(sentence, "job.txt", out, cases[c].mode, cases[c].multiple, plan, NULL))
            fail_msg("%s: %s", cases[c].name, sentence);
        job_assert_same_file(cases[c].name, out + 11, "search/plan-best.txt");
        job_assert_same_file(cases[c].name, out + 11, "adapter/adapter_model.safetensors");
    }
    char sentence[1024]; /* the layer-pruned run's two layers */
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=too-many", "pruning_mode=layer", "keep_layers=1", "plan=layer/search/plan-best.txt", NULL), VENEER_INPUT);
    assert_string_equal(sentence, "layer/search/plan-best.txt:10: 'model.layers.1', the model has layers 0 to 0");
}

static void log_says(const char *dir, const char *words)
{
    char path[64];
    snprintf(path, sizeof path, "%s/train.log", dir);
    char *log = job_read_text(path);
    if (!strstr(log, words))
        fail_msg("%s: no '%s' in\n%s", dir, words, log);
    free(log);
}

/* Fisher terms, several steps; the first layers without any measurement; what --plan says of it. */
static void the_other_ways(void **state)
{
    (void)state;
    char sentence[1024];
    if (job_run(sentence, "job.txt", "output_dir=steps", "pruning_mode=layer", "iterative_steps=2", "taylor=param_mix", "search=none", NULL) ||
        job_run(sentence, "job.txt", "output_dir=channel-steps", "pruning_mode=channel", "hidden_multiple=8", "iterative_steps=3", "taylor=param_second",
                "search=none", NULL) ||
        job_run(sentence, "job.txt", "output_dir=first", "pruning_mode=layer", "keep_layers=3", "pruning_ratio=0", "search=none", NULL))
        fail_msg("%s", sentence);
    assert_shape("steps/model", "steps/adapter", 2, 32);
    assert_shape("channel-steps/model", "channel-steps/adapter", 4, 24);
    assert_shape("first/model", "first/adapter", 3, 32);
    log_says("first", "layers removed: 3\n");
    log_says("first", "pruned: 13.27 % of the parameters removed (group ratio 0.2500), 60640 left");
    log_says("steps", "pruned: 26.54 % of the parameters removed (group ratio 0.5000), 51360 left");
    struct veneer *job;
    const char *text;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "job.txt"), 0);
    assert_int_equal(veneer_set(job, "pruning_mode=layer", "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    assert_non_null(strstr(text, "layers                        2  of 4: the most important ones, as will be measured\n"
                                 "parameters                51360  of 69920 (26.54 % removed"));
    veneer_free(job);
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_have_the_new_shape),
        cmocka_unit_test(a_stopped_job_goes_on),
        cmocka_unit_test(a_plan_is_taken_again),
        cmocka_unit_test(the_other_ways),
    };
    return cmocka_run_group_tests(tests, job_setup, job_teardown);
}
