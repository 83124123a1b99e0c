/* engine_search_test.c: whole jobs with each strategy and quantizer.  What a user would miss: a strategy that the engine cannot run, one that goes another way
 * after a stop, ranks that are searched but not written, a model that is not the one that was measured. */
#include "job_outputs.h"

#include "base/journal.h"
#include "io/checkpoint.h"
#include "plan.h"

/* 4 layers of 28 linears in all; trials of the loss take 2 steps. */
static const struct {
    const char *name, *search, *space, *formats, *more;
    size_t probes;
} cases[] = {
    {"amq", "search=amq", "search_space=linear", "quant_types=hqq2,hqq3,hqq4", "amq_batch=3", 29},
    {"dp", "search=dp", "search_space=layer", "quant_types=hqq2,hqq3,nf4", "target_bpw=3.6", 9},
    {"evopress", "search=evopress", "search_space=layer", "quant_types=nf4,int8", "objective=kl", 0},
    {"autoqra", "search=autoqra", "search_space=layer", "quant_types=nf4,int8", "rank_types=1,2,4", 0},
    {"gp", "search=gp", "search_space=layer", "quant_types=nf4,int8", "num_initial=3", 0},
};

static void run_case(size_t c, const char *dir)
{
    char sentence[1024], out[64];
    snprintf(out, sizeof out, "output_dir=%s", dir);
    /* config.txt's objective = loss is the job's; auto is what each strategy is made for */
    const char *objective = c == 2 ? cases[c].more : c >= 3 ? "objective=loss" : "objective=auto";
    if (job_run(sentence, "job.txt", out, cases[c].search, cases[c].space, cases[c].formats, objective, cases[c].more, "low_fidelity=0.5", NULL))
        fail_msg("%s: %s", cases[c].name, sentence);
}

static void strategies_run_and_go_on_after_a_stop(void **state)
{
    (void)state;
    static const char *const files[] = {"search/journal.jsonl", "search/plan-best.txt", "search/pareto.csv", "model/model.safetensors", "eval/results.json"};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char path[128], again[64];
        run_case(c, cases[c].name);
        snprintf(path, sizeof path, "%s/search/journal.jsonl", cases[c].name);
        char *journal = job_read_text(path);
        assert_int_equal(job_count(journal, "\"probe: "), cases[c].probes);
        size_t short_ones = job_count(journal, "\"low_fidelity\":true"), all = job_count(journal, "\"type\":\"trial\"");
        assert_true(all - short_ones >= cases[c].probes + 3); /* 5 trials' worth, of which short ones cost half */
        assert_true((c >= 2) == (short_ones > 0));
        assert_int_equal(job_count(journal, "\"type\":\"importance\""), c == 3);
        free(journal);
        snprintf(again, sizeof again, "%s-again", cases[c].name);
        job_cut_journal(cases[c].name, again, 3 + cases[c].probes / 2 + 2);
        run_case(c, again);
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            job_assert_same_file(cases[c].name, again, files[i]);
        job_assert_written_as_measured(cases[c].name);
    }
}

/* AutoQRA as published chooses from 2, 3, 4 and 8 bits.  A target_size that is only just above the least that it can reach takes nf4 for the embedding
 * too, which nobody asked for by name, and the pick keeps within it; asked for f32 by name, the same budget is refused. */
static void a_small_budget_narrows_the_embedding(void **state)
{
    (void)state;
    char sentence[1024], target[64];
    double budget, least, size;
    static const char search[] = "search=autoqra", levels[] = "quant_types=auto", ranks[] = "rank_types=1,2";
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=small", search, levels, ranks, "target_size=1000", NULL), VENEER_INPUT);
    assert_int_equal(sscanf(sentence, "nothing fits the budget of %lf bytes: the smallest configuration has %lf", &budget, &least), 2);
    snprintf(target, sizeof target, "target_size=%.0f", 1.02 * least);
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=small", search, levels, ranks, target, "embedding_type=f32", NULL), VENEER_INPUT);
    if (job_run(sentence, "job.txt", "output_dir=small", search, levels, ranks, target, NULL))
        fail_msg("%s", sentence);
    char *plan = job_read_text("small/search/plan-best.txt"), *log = job_read_text("small/train.log"), *results = job_read_text("small/eval/results.json");
    const char *pick = strstr(results, "\"pick\": {\"size_bytes\": ");
    assert_true(job_count(plan, "=hqq2") > 0);
    assert_int_equal(job_count(log, "embedding: nf4, for target_size = "), 1);
    assert_non_null(pick);
    assert_int_equal(sscanf(pick, "\"pick\": {\"size_bytes\": %lf", &size), 1);
    assert_true(size >= least && size <= 1.02 * least + 1); /* target_size is written in whole bytes */
    job_assert_written_as_measured("small");
    free(plan);
    free(log);
    free(results);
}

/* The adapter that is written has the ranks of the plan. */
static void searched_ranks_are_written(void **state)
{
    (void)state;
    struct err err;
    struct checkpoint *c;
    struct plan best, written;
    char *text = job_read_text("autoqra/search/plan-best.txt");
    ASSERT_OK(checkpoint_open(&c, "autoqra/model", &err));
    ASSERT_OK(plan_parse(&best, checkpoint_config(c), text, "plan-best.txt", &err));
    ASSERT_OK(plan_new(&written, checkpoint_config(c), FORMAT_F32, &err));
    ASSERT_OK(adapter_read_plan(&written, checkpoint_config(c), "autoqra/adapter", &err));
    for (int l = 0; l < best.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            int32_t rank = best.layer[l].linear[j].rank;
            assert_true(rank == 1 || rank == 2 || rank == 4);
            assert_int_equal(written.layer[l].linear[j].rank, rank);
        }
    plan_free(&best);
    plan_free(&written);
    checkpoint_close(c);
    free(text);
}

/* A front's plan is a job of its own. */
static void a_plan_of_the_front_runs(void **state)
{
    (void)state;
    char sentence[1024], plan[128] = "";
    for (int i = 0; i < 40 && access(plan, R_OK) != 0; i++)
        snprintf(plan, sizeof plan, "dp/search/front/trial-%d.txt", i);
    char assignment[160];
    snprintf(assignment, sizeof assignment, "plan=%s", plan);
    if (job_run(sentence, "job.txt", "output_dir=from-front", assignment, NULL))
        fail_msg("%s", sentence);
    job_assert_same_file("from-front", "from-front", "search/plan-best.txt");
}

static void calibrated_quantizers_write_what_they_measured(void **state)
{
    (void)state;
    static const char *const quantizers[] = {"rtn", "gptq", "awq"};
    char hex[3][65];
    for (int i = 0; i < 3; i++) {
        char sentence[1024], out[64], quantizer[64], path[64];
        double calibrated, hqq;
        struct err err;
        snprintf(out, sizeof out, "output_dir=%s", quantizers[i]);
        snprintf(quantizer, sizeof quantizer, "quantizer=%s", quantizers[i]);
        if (job_run(sentence, "job.txt", out, "search=none", "quant_types=hqq3", "bits_pattern=.*k_proj=nf4", "quantizer_samples=30", quantizer, NULL))
            fail_msg("%s: %s", quantizers[i], sentence);
        snprintf(path, sizeof path, "%s/train.log", quantizers[i]);
        char *log = job_read_text(path);
        const char *line = strstr(log, "KL ");
        assert_non_null(line);
        assert_int_equal(sscanf(line, "KL %lf nats a token from the unquantized model (by hqq %lf)", &calibrated, &hqq), 2);
        assert_true(calibrated >= 0 && hqq >= 0);
        free(log);
        job_assert_written_as_measured(quantizers[i]);
        snprintf(path, sizeof path, "%s/model/model.safetensors", quantizers[i]);
        ASSERT_OK(file_sha256(path, hex[i], &err));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(hex[i], hex[k]); /* each has codes of its own */
    }
}

/* The divergence that a search sees of one plan, with levels by HQQ or by GPTQ; and what it tried is what is written. */
static double tried(const char *out, const char *search_quantizer)
{
    char sentence[1024], dir[64], levels[64], path[64];
    double divergence;
    snprintf(dir, sizeof dir, "output_dir=%s", out);
    snprintf(levels, sizeof levels, "search_quantizer=%s", search_quantizer);
    if (job_run(sentence, "job.txt", dir, levels, "search=random", "objective=kl", "num_initial=1", "num_trials=0", "quant_types=hqq2", "quantizer_samples=30", NULL))
        fail_msg("%s", sentence);
    job_assert_written_as_measured(out);
    snprintf(path, sizeof path, "%s/search/pareto.csv", out);
    char *table = job_read_text(path);
    assert_int_equal(sscanf(table, "%*[^\n]\n%*d,%*f,%lf", &divergence), 1);
    free(table);
    return -divergence;
}

static void levels_by_gptq_lose_less(void **state)
{
    (void)state;
    double hqq = tried("levels-hqq", "hqq"), gptq = tried("levels-gptq", "gptq");
    if (!(gptq > 0 && gptq < hqq)) /* the codes of one search are nearer to what the model computes: 2 bits, its own text */
        fail_msg("KL %g by gptq, %g by hqq", gptq, hqq);
}

/* With ranks to choose, one start stands for all of them: its first rows and columns. */
static void cloq_starts_from_data(void **state)
{
    (void)state;
    char sentence[1024], hex[2][65];
    struct err err;
    if (job_run(sentence, "job.txt", "output_dir=cloq", "lora_init=cloq", "rank_types=1,2", "quantizer_samples=30", NULL) ||
        job_run(sentence, "job.txt", "output_dir=loftq", "lora_init=loftq", "rank_types=1,2", NULL))
        fail_msg("%s", sentence);
    job_assert_written_as_measured("cloq");
    ASSERT_OK(file_sha256("cloq/adapter/adapter_model.safetensors", hex[0], &err));
    ASSERT_OK(file_sha256("loftq/adapter/adapter_model.safetensors", hex[1], &err));
    assert_string_not_equal(hex[0], hex[1]);
}

/* 4 layers, searched by amq a linear at a time, tell a search by layers what to expect: from the folder or from the file, and after a kill. */
static void another_runs_trials_are_a_prior(void **state)
{
    (void)state;
    static const char *const dirs[] = {"prior", "prior-file", "prior-again"};
    char sentence[1024], out[64];
    for (int k = 0; k < 3; k++) {
        snprintf(out, sizeof out, "output_dir=%s", dirs[k]);
        if (k == 2)
            job_cut_journal("prior", "prior-again", 8);
        const char *from = k == 1 ? "search_prior=amq/search/journal.jsonl" : "search_prior=amq";
        if (job_run(sentence, "job.txt", out, from, "num_initial=3", "num_trials=4", NULL))
            fail_msg("%s: %s", dirs[k], sentence);
        job_assert_same_file("prior", dirs[k], "search/pareto.csv");
    }
    job_assert_same_file("prior", "prior-again", "search/journal.jsonl");
}

/* Lines of a journal up to and with the first one that holds `word`. */
static size_t lines_until(const char *journal, const char *word)
{
    const char *at = strstr(journal, word);
    assert_non_null(at);
    size_t lines = 1;
    for (const char *p = journal; p < at; p++)
        lines += *p == '\n';
    return lines;
}

/* A clock never says the same twice: after a stop the journal says it, for each ratio. */
static void speed_is_a_third_objective(void **state)
{
    (void)state;
    static const char *const ratios[] = {"pruning_ratios=", "pruning_ratios=0.08,0.16"}, *const dirs[][2] = {{"speed", "speed-again"}, {"speeds", "speeds-again"}};
    char sentence[1024], out[64];
    for (int c = 0; c < 2; c++)
        for (int k = 0; k < 2; k++) {
            if (k == 1) {
                char path[64];
                snprintf(path, sizeof path, "%s/search/journal.jsonl", dirs[c][0]);
                char *journal = job_read_text(path);
                assert_int_equal(job_count(journal, "\"type\":\"speed\""), 1);
                job_cut_journal(dirs[c][0], dirs[c][1], lines_until(journal, "\"type\":\"speed\"") + 2);
                free(journal);
            }
            snprintf(out, sizeof out, "output_dir=%s", dirs[c][k]);
            if (job_run(sentence, "job.txt", out, "search=gp", "search_speed=yes", ratios[c], "num_trials=3", NULL))
                fail_msg("%s: %s", ratios[c], sentence);
            job_assert_same_file(dirs[c][0], dirs[c][k], "search/pareto.csv");
            job_assert_same_file(dirs[c][0], dirs[c][k], "search/journal.jsonl");
        }
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=bad", "search=dp", "search_speed=yes", NULL), VENEER_INPUT);
    assert_string_equal(sentence, "search = dp, want gp or random with search_speed: it knows two objectives");
    assert_int_not_equal(access("bad", F_OK), 0);
}

/* A journal of these records, ended by NULL. */
static void write_journal(const char *path, const char *const *record)
{
    struct err err;
    struct journal journal;
    remove(path);
    ASSERT_OK(journal_open(&journal, path, &err));
    for (; *record; record++)
        ASSERT_OK(journal_append(&journal, *record, &err));
    journal_close(&journal);
}

static void priors_that_are_none(void **state)
{
    (void)state;
    static const char *const old[] = {"{\"type\":\"run\",\"identity\":\"model = m\\nseed = 1\\n\"}", NULL}, *const other[] = {"{\"type\":\"step\"}", NULL};
    static const struct {
        const char *assignment, *more, *sentence;
    } bad[] = {
        {"search_prior=nowhere", NULL, "nowhere: No such file or directory"},
        {"search_prior=tasks", NULL, "tasks/search/journal.jsonl: No such file or directory"},
        {"search_prior=train.jsonl", NULL, "search_prior: train.jsonl is no journal of a run, want another run's output_dir or its search/journal.jsonl"},
        {"search_prior=other.jsonl", NULL, "search_prior: other.jsonl is no journal of a run, want another run's output_dir or its search/journal.jsonl"},
        {"search_prior=old.jsonl", NULL, "search_prior: old.jsonl was written by another version of this program, which knew other keys: want a journal of this version"},
        {"search_prior=base", NULL, "search_prior: base/search/journal.jsonl: no trial succeeded, want a search that learnt something"},
        {"search_prior=amq", "pruning_ratios=0.1,0.15", "test: search_prior is set with pruning_ratios = 0.1,0.15: a prior says nothing of the ratio"},
        {"search_prior=amq", "search=dp", "test: search_prior is set with search = dp, want search = gp: no other strategy takes a prior"},
        {"search_prior=amq", "output_dir=amq", "search_prior: amq/search/journal.jsonl is this run's own journal, want another run's"},
    };
    write_journal("old.jsonl", old);
    write_journal("other.jsonl", other);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char sentence[1024];
        assert_int_equal(job_run(sentence, "job.txt", "output_dir=bad", bad[i].assignment, bad[i].more, NULL), VENEER_INPUT);
        assert_string_equal(sentence, bad[i].sentence);
        assert_int_not_equal(access("bad", F_OK), 0);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *assignment, *sentence;
    } bad[] = {
        {"rank_types=4,2", "rank_types = '4,2', want ascending whole numbers from 1 to 4096 such as 4,8,16"},
        {"rank_types=2,x", "rank_types = '2,x', want ascending whole numbers from 1 to 4096 such as 4,8,16"},
        {"rank_types=2,64", "rank_types = 64 for model.layers.0.self_attn.q_proj, want at most 32, the smaller side of the matrix"},
        {"search_data=nowhere.txt", "nowhere.txt: No such file or directory"},
        {"search_quantizer=awq", "test: search_quantizer = 'awq', want one of: hqq gptq"},
        {"search=annealing", "test: search = 'annealing', want one of: none gp amq autoqra dp evopress random"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char sentence[1024];
        assert_int_equal(job_run(sentence, "job.txt", "output_dir=bad", bad[i].assignment, NULL), VENEER_INPUT);
        assert_string_equal(sentence, bad[i].sentence);
        assert_int_not_equal(access("bad", F_OK), 0); /* nothing was written */
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strategies_run_and_go_on_after_a_stop),
        cmocka_unit_test(a_small_budget_narrows_the_embedding),
        cmocka_unit_test(searched_ranks_are_written),
        cmocka_unit_test(a_plan_of_the_front_runs),
        cmocka_unit_test(calibrated_quantizers_write_what_they_measured),
        cmocka_unit_test(levels_by_gptq_lose_less),
        cmocka_unit_test(cloq_starts_from_data),
        cmocka_unit_test(another_runs_trials_are_a_prior),
        cmocka_unit_test(priors_that_are_none),
        cmocka_unit_test(speed_is_a_third_objective),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, job_setup, job_teardown);
}
