/* engine_ratios_test.c: whole jobs that choose a pruning ratio too (pruning_ratios).  What a user would miss: a front whose plans have the widths of another
 * ratio, a model that a run at that ratio alone would not have made, sizes that the files do not have, another way after a stop. */
#include "job_outputs.h"

#include "io/checkpoint.h"
#include "plan.h"

/* Of the job's model 0.1977 can go. */
static const double ratio[] = {0, 0.08, 0.16};
enum { RATIOS = 3, TRIALS = 9 };
static const char ratios[] = "pruning_ratios=0,0.08,0.16";

/* search_lambda: one pick for its score, little pruned, one for its size. */
static const struct {
    const char *name, *search, *more, *lambda;
} cases[] = {{"gp", "search=gp", "rank_types=1,2", "search_lambda=100"}, {"random", "search=random", "pruning_mode=channel", "search_lambda=1"}};
enum { CASES = sizeof cases / sizeof *cases };

static void run_case(size_t c, const char *dir)
{
    char sentence[1024], out[64];
    snprintf(out, sizeof out, "output_dir=%s", dir);
    if (job_run(sentence, "job.txt", out, cases[c].search, cases[c].more, ratios, cases[c].lambda, "hidden_multiple=2", "num_initial=5", "num_trials=4", NULL))
        fail_msg("%s: %s", cases[c].name, sentence);
}

static void the_front_is_over_all_ratios(void **state)
{
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        char path[64], word[64];
        run_case(c, cases[c].name);
        job_assert_written_as_measured(cases[c].name);
        assert_true(job_told_size(cases[c].name, "pick") == job_written_size(cases[c].name));
        snprintf(path, sizeof path, "%s/search/pareto.csv", cases[c].name);
        char *table = job_read_text(path);
        size_t all = 0, used = 0;
        for (int k = 0; k < RATIOS; k++) {
            snprintf(word, sizeof word, " pruning_ratio=%g\n", ratio[k]);
            all += job_count(table, word);
            used += job_count(table, word) > 0;
        }
        assert_int_equal(all, TRIALS);
        assert_true(used >= 2);
        free(table);
    }
}

static void it_goes_on_after_a_stop(void **state)
{
    (void)state;
    static const char *const files[] = {"search/journal.jsonl", "search/plan-best.txt", "search/pareto.csv", "model/model.safetensors",
                                        "adapter/adapter_model.safetensors", "model.gguf", "eval/results.json", "metrics.jsonl"};
    static const size_t lines[CASES] = {5, 2 + TRIALS}; /* in the middle of the search; after it, before the rows of the final table */
    for (size_t c = 0; c < CASES; c++) {
        char again[64];
        snprintf(again, sizeof again, "%s-again", cases[c].name);
        job_cut_journal(cases[c].name, again, lines[c]);
        run_case(c, again);
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            job_assert_same_file(cases[c].name, again, files[i]);
    }
}

/* The first line of a plan. */
static double ratio_of_plan(const char *path)
{
    char *text = job_read_text(path);
    assert_true(strncmp(text, "# pruning_ratio = ", 18) == 0);
    double x = strtod(text + 18, NULL);
    free(text);
    return x;
}

/* Every plan of the front runs at the ratio that it says, and has the size that the search told; one of them is refused at another ratio. */
static void plans_of_the_front_have_their_widths(void **state)
{
    (void)state;
    size_t ran = 0, refused = 0;
    char *table = job_read_text("gp/search/pareto.csv");
    for (int i = 0; i < TRIALS; i++) {
        char path[64], plan[96], pruning[64], out[64], row[32], sentence[1024];
        snprintf(path, sizeof path, "gp/search/front/trial-%d.txt", i);
        if (access(path, R_OK) != 0)
            continue;
        double x = ratio_of_plan(path);
        snprintf(plan, sizeof plan, "plan=%s", path);
        snprintf(pruning, sizeof pruning, "pruning_ratio=%g", x);
        snprintf(out, sizeof out, "output_dir=front-%d", i);
        if (job_run(sentence, "job.txt", out, plan, pruning, NULL))
            fail_msg("%s: %s", path, sentence);
        snprintf(out, sizeof out, "front-%d", i);
        snprintf(row, sizeof row, "\n%d,", i);
        if (job_told_size(out, "pick") != job_number_after(table, row) || job_written_size(out) != job_told_size(out, "pick"))
            fail_msg("%s: %.0f bytes were told, %.0f are written", path, job_number_after(table, row), job_written_size(out));
        ran++;
        refused += job_run(sentence, "job.txt", "output_dir=wrong", plan, x == ratio[1] ? "pruning_ratio=0.16" : "pruning_ratio=0.08", NULL) == VENEER_INPUT;
    }
    free(table);
    assert_true(ran >= 2);
    assert_int_equal(refused, ran);
}

/* Cut beside others from one measuring of importance, the pick is to the byte what a run at its ratio alone makes. */
static void the_pick_is_that_of_its_ratio_alone(void **state)
{
    (void)state;
    char sentence[1024], pruning[64];
    snprintf(pruning, sizeof pruning, "pruning_ratio=%g", ratio_of_plan("random/search/plan-best.txt"));
    if (job_run(sentence, "job.txt", "output_dir=alone", "plan=random/search/plan-best.txt", "pruning_mode=channel", "hidden_multiple=2", pruning, NULL))
        fail_msg("%s", sentence);
    job_assert_same_file("random", "alone", "model/model.safetensors");
    job_assert_same_file("random", "alone", "adapter/adapter_model.safetensors");
    assert_true(job_told_size("random", "after") == job_told_size("alone", "after"));
}

/* Rows of the final table: all low and all high are of the pick's ratio. */
static void uniform_rows_are_of_the_picks_ratio(void **state)
{
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        char path[64], word[64];
        snprintf(path, sizeof path, "%s/search/journal.jsonl", cases[c].name);
        char *journal = job_read_text(path), digit[3];
        static const char *const rows[] = {"low", "high", "pick"};
        for (int i = 0; i < 3; i++) {
            snprintf(word, sizeof word, "\"name\":\"%s\",\"level\":\"", rows[i]);
            const char *at = strstr(journal, word);
            assert_non_null(at);
            at = strchr(at + strlen(word), '"') - 1;
            digit[i] = *at;
        }
        assert_true(digit[0] == digit[2] && digit[1] == digit[2]);
        snprintf(path, sizeof path, "%s/search/plan-best.txt", cases[c].name);
        assert_true(ratio[RATIOS - 1 - (digit[2] - '0')] == ratio_of_plan(path)); /* levels go from the most pruned up */
        free(journal);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *ratios, *more, *sentence;
    } bad[] = {
        {"0.1,0.05", "seed=0", "test: pruning_ratios = '0.1,0.05', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1,0.1", "seed=0", "test: pruning_ratios = '0.1,0.1', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1", "seed=0", "test: pruning_ratios = '0.1', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1,0.96", "seed=0", "test: pruning_ratios = '0.1,0.96', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1,nan", "seed=0", "test: pruning_ratios = '0.1,nan', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1,x", "seed=0", "test: pruning_ratios = '0.1,x', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0,0.01,0.02,0.03,0.04,0.05,0.06,0.07,0.08", "seed=0",
         "test: pruning_ratios = '0,0.01,0.02,0.03,0.04,0.05,0.06,0.07,0.08', want 2 to 8 ascending numbers from 0 to 0.95 such as 0.1,0.2,0.3"},
        {"0.1,0.15", "train_mode=full", "test: pruning_ratios is for train_mode = lora: full training prunes nothing"},
        {"0.1,0.15", "plan=gp/search/plan-best.txt", "test: pruning_ratios wants a search, and a plan has the widths of one ratio: set pruning_ratio to it"},
        {"0.1,0.15", "search=none", "test: pruning_ratios wants a search: with search = none set pruning_ratio"},
        {"0.1,0.15", "pruning_mode=layer",
         "test: pruning_ratios is for pruning_mode = block or channel: with layer each ratio has layers of its own to choose formats for"},
        {"0.1,0.15", "iterative_steps=2", "test: pruning_ratios wants iterative_steps = 1: importance is measured once, on the unpruned model"},
        {"0.1,0.15", "target_bpw=5", "test: pruning_ratios wants target_size instead of target_bpw: bits a weight do not say how many weights are left"},
        {"0.1,0.15", "search=amq", "search = amq, want gp or random with pruning_ratios: it counts on sizes that add up over layers"},
        {"0.1,0.15", "search=autoqra", "search = autoqra, want gp or random with pruning_ratios: it counts on sizes that add up over layers"},
        {"0.1,0.15", "search=dp", "search = dp, want gp or random with pruning_ratios: it counts on sizes that add up over layers"},
        {"0.1,0.15", "search=evopress", "search = evopress, want gp or random with pruning_ratios: it counts on sizes that add up over layers"},
        {"0.1,0.15", "objective=jsd",
         "objective = jsd, want accuracy or loss with pruning_ratios: a divergence is from the same pruned model, unquantized, and does not tell what "
         "pruning lost"},
        {"0.1,0.1001", "seed=0", "pruning_ratios = 0.1,0.1001: 0.1 and 0.1001 lead to the same widths; take them further apart"},
        {"0.1,0.15", "bits_pattern=layers\\.1\\.mlp.down_proj=q4_0",
         "pruning_ratios: at 0.15: bits_pattern: model.layers.1.mlp.down_proj: a matrix of 32 x 24 cannot be q4_0, which wants columns in multiples of 32"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char sentence[1024], key[128];
        snprintf(key, sizeof key, "pruning_ratios=%s", bad[i].ratios);
        int code = job_run(sentence, "job.txt", "output_dir=bad", key, bad[i].more, NULL);
        assert_string_equal(sentence, bad[i].sentence);
        assert_int_equal(code, VENEER_INPUT);
        assert_int_not_equal(access("bad", F_OK), 0); /* nothing was written */
    }
}

/* A budget is held over all ratios, and one that nothing meets is told with the ends of all of them. */
static void budget(void **state)
{
    (void)state;
    char sentence[1024];
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=bad", ratios, "target_size=1000", NULL), VENEER_INPUT);
    double least = job_number_after(sentence, "the smallest configuration has "), most = job_number_after(sentence, "the largest ");
    char target[64];
    snprintf(target, sizeof target, "target_size=%.0f", least + 0.4 * (most - least));
    if (job_run(sentence, "job.txt", "output_dir=within", ratios, target, "num_initial=4", NULL))
        fail_msg("%s", sentence);
    assert_true(job_told_size("within", "pick") <= least + 0.4 * (most - least));
    assert_true(job_told_size("within", "pick") == job_written_size("within"));
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_front_is_over_all_ratios),        cmocka_unit_test(it_goes_on_after_a_stop),
        cmocka_unit_test(plans_of_the_front_have_their_widths), cmocka_unit_test(the_pick_is_that_of_its_ratio_alone),
        cmocka_unit_test(uniform_rows_are_of_the_picks_ratio), cmocka_unit_test(refusals),
        cmocka_unit_test(budget),
    };
    return cmocka_run_group_tests(tests, job_setup, job_teardown);
}
