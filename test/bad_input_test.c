/* bad_input_test.c: what a whole job says of input that is wrong: its exit code, its sentence word for word, and that a finished
 * output_dir is as it was. */
#include "job.h"

#include <ftw.h>
#include <math.h>
#include <stdbool.h>

#include "io/safetensors.h"

enum { MOST_TENSORS = 64 };

/* ---- a finished output_dir that no failing job may touch ---- */

static uint32_t kept_crc;

static int add_file(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    char *bytes;
    size_t n;
    (void)st;
    const char *name = path + ftw->base;
    if (strcmp(name, ".lock") == 0 || strcmp(name, "train.log") == 0) /* who asks for the folder, and what it was told */
        return 0;
    kept_crc = crc32c(kept_crc, path, strlen(path));
    if (kind != FTW_F)
        return 0;
    if (file_read(path, 1 << 26, &bytes, &n, NULL) != OK)
        return 1;
    kept_crc = crc32c(kept_crc, bytes, n);
    free(bytes);
    return 0;
}

/* Over all names and bytes, in the order of the folder (which a job that writes nothing leaves alone). */
static uint32_t fingerprint(const char *dir)
{
    kept_crc = 0;
    assert_int_equal(nftw(dir, add_file, 8, FTW_PHYS), 0);
    return kept_crc;
}

static void check_sentence(int code, int wanted, const char *sentence, const char *says)
{
    if (code != wanted || strcmp(sentence, says) != 0)
        fail_msg("\ncode %d, want %d\n got: %s\nwant: %s", code, wanted, sentence, says);
}

/* The job on the finished output_dir, with assignments up to NULL, is refused with this code and sentence. */
static void assert_refused(int wanted, const char *says, ...)
{
    char sentence[1024];
    va_list list;
    uint32_t before = fingerprint("out");
    va_start(list, says);
    int code = job_run_list(sentence, "job.txt", list);
    va_end(list);
    check_sentence(code, wanted, sentence, says);
    assert_int_equal(fingerprint("out"), before);
}

static int setup(void **state)
{
    struct job_home *home = calloc(1, sizeof *home);
    char sentence[1024];
    assert_non_null(home);
    job_open(home);
    if (job_run(sentence, "job.txt", NULL))
        fail_msg("%s", sentence);
    *state = home;
    return 0;
}

static int teardown(void **state)
{
    job_close(*state);
    free(*state);
    return 0;
}

/* ---- keys ---- */

static void test_unknown_key(void **state)
{
    (void)state;
    char sentence[1024];
    job_write("typo.txt", "model = base/model\nlora_rank = 8\n");
    check_sentence(job_run(sentence, "typo.txt", NULL), VENEER_INPUT, sentence,
                   "typo.txt:2: unknown key 'lora_rank', the nearest known one is 'lora_r'");
    assert_refused(VENEER_INPUT, "test: unknown key 'num_trails', the nearest known one is 'num_trials'", "num_trails=4", NULL);
    check_sentence(job_run(sentence, "nowhere.txt", NULL), VENEER_INPUT, sentence, "nowhere.txt: No such file or directory");
}

static void test_keys_that_do_not_fit_the_model(void **state)
{
    (void)state;
    assert_refused(VENEER_INPUT, "max_seq_len = 200 is longer than the model's context of 128 tokens", "max_seq_len=200", NULL);
    assert_refused(VENEER_INPUT, "pruning_ratio = 0.9: the layers that may be pruned hold no more than 0.1977 of the parameters (one KV "
                   "head and the smallest FFN width stay); lower it or widen block_attention_layer_* and block_mlp_layer_*",
                   "pruning_ratio=0.9", NULL);
    assert_refused(VENEER_INPUT, "pruning_ratio = 0.9: no more than 0.3982 of the parameters can go (one layer of 4 stays); lower it", "pruning_mode=layer",
                   "pruning_ratio=0.9", NULL);
    assert_refused(VENEER_INPUT, "keep_layers = 5: the model has 4 layers", "pruning_mode=layer", "keep_layers=5", NULL);
    assert_refused(VENEER_INPUT, "pruning_ratio = 0.1: no channel of hidden_size = 32 would go, for hidden_multiple = 8; raise the one or lower the other",
                   "pruning_mode=channel", "hidden_multiple=8", "pruning_ratio=0.1", NULL);
    assert_refused(VENEER_INPUT, "pruning_ratio = 0.15: no more than 0.0000 of the parameters can go (32 channels of hidden_size = 32 stay); lower it or "
                   "hidden_multiple", "pruning_mode=channel", NULL);
    assert_refused(VENEER_INPUT, "pruning_ratio = 0.8: no more than 0.7500 of the parameters can go (8 channels of hidden_size = 32 stay); lower it or hidden_multiple", "pruning_mode=channel", "hidden_multiple=8", "pruning_ratio=0.8", NULL);
    assert_refused(VENEER_INPUT, "bits_pattern: model.layers.1.mlp.down_proj: a matrix of 32 x 24 cannot be q4_0, which wants columns in multiples of 32",
                   "bits_pattern=layers\\.[12]\\.mlp.down_proj=q4_0", NULL);
    assert_refused(VENEER_INPUT, "bits_pattern: 'layers\\.9' matches no linear (model.layers.0.self_attn.q_proj ...)",
                   "bits_pattern=layers\\.9=q4_0", NULL);
    assert_refused(VENEER_INPUT, "base: has no data of task boolq, want one of: boolq.test.jsonl, boolq.validation.jsonl, "
                   "boolq_xl.validation.jsonl, boolq_openai.jsonl, boolq.jsonl",
                   "eval_data=base", NULL);
}

static void test_keys_of_another_mode_of_pruning(void **state)
{
    (void)state;
    assert_refused(VENEER_INPUT, "test: pruning_mode = 'width', want one of: block channel layer", "pruning_mode=width", NULL);
    assert_refused(VENEER_INPUT, "test: keep_layers = 3 is for pruning_mode = layer, not block", "keep_layers=3", NULL);
    assert_refused(VENEER_INPUT, "test: iterative_steps = 2, want 1 with keep_layers = 3: no importance is measured", "pruning_mode=layer", "keep_layers=3",
                   "iterative_steps=2", NULL);
    assert_refused(VENEER_INPUT, "test: embedding_type = int8, want f32 with pruning_mode = channel, which cuts the embedding's columns", "pruning_mode=channel",
                   "embedding_type=int8", NULL);
    assert_refused(VENEER_INPUT, "test: global_pruning is for pruning_mode = block: with channel all units stand in one list already", "pruning_mode=channel",
                   "global_pruning=yes", NULL);
}

static void test_memory_that_is_not_there(void **state)
{
    (void)state;
    char sentence[1024];
    double plan, most;
    int code = job_run(sentence, "job.txt", "max_memory=1M", NULL);
    assert_int_equal(code, VENEER_MEMORY);
    assert_int_equal(sscanf(sentence, "the smallest plan takes %lf MB, max_memory = %lf MB", &plan, &most), 2);
    assert_true(plan > most);
}

/* ---- the model's files ---- */

static void test_no_model(void **state)
{
    (void)state;
    struct err err;
    job_write("empty", "");
    job_write("story.gguf", "GG once upon a time\n");
    assert_int_equal(dir_make("hollow", &err), OK);
    assert_refused(VENEER_INPUT, "nowhere: No such file or directory", "model=nowhere", NULL);
    assert_refused(VENEER_INPUT, "empty: is no model: want a folder with config.json, a GGUF file or a llama2.c .bin", "model=empty", NULL);
    assert_refused(VENEER_INPUT, "story.gguf: is no model: want a folder with config.json, a GGUF file or a llama2.c .bin",
                   "model=story.gguf", NULL);
    assert_refused(VENEER_INPUT, "hollow/config.json: No such file or directory", "model=hollow", NULL);
    assert_refused(VENEER_INPUT, "model is not set: the base model, a folder or a .gguf file", "model=", NULL);
}

/* A copy of base/model under another name, without its weights. */
static void copy_model(const char *name)
{
    static const char *const files[] = {"config.json", "plan.txt", "tokenizer.gguf", "tokenizer.model", "generation_config.json"};
    struct err err;
    char from[128], to[128];
    assert_int_equal(dir_make(name, &err), OK);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "base/model/%s", files[i]);
        snprintf(to, sizeof to, "%s/%s", name, files[i]);
        job_copy(from, to);
    }
}

/* Wherever a file ends too early, its end is missed before anything is made of it. */
static void cut_short(const char *from, const char *to, const char *assignment)
{
    char *bytes, sentence[1024];
    size_t n;
    struct err err;
    static const double parts[] = {0, 1e-4, 0.001, 0.01, 0.1, 0.3, 0.6, 0.9};
    enum { PARTS = sizeof parts / sizeof *parts };
    uint32_t before = fingerprint("out");
    assert_int_equal(file_read(from, 1 << 26, &bytes, &n, &err), OK);
    for (int i = 0; i <= PARTS; i++) {
        size_t left = i < PARTS ? (size_t)(parts[i] * (double)n) : n - 2; /* the last byte of a text may be its newline */
        assert_int_equal(file_write(to, bytes, left, &err), OK);
        int code = job_run(sentence, "job.txt", assignment, NULL);
        if (code != VENEER_INPUT || !strstr(sentence, to))
            fail_msg("%s cut at %zu of %zu: code %d: %s", to, left, n, code, sentence);
    }
    free(bytes);
    assert_int_equal(fingerprint("out"), before);
}

static void test_truncated_model(void **state)
{
    (void)state;
    copy_model("short");
    cut_short("base/model/model.safetensors", "short/model.safetensors", "model=short");
    cut_short("base/model/config.json", "short/config.json", "model=short");
    cut_short("out/model.gguf", "short.gguf", "model=short.gguf");
}

/* ---- tensors ---- */

enum change { DROPPED, TURNED, SPOILED, ENDLESS, ROW_LESS, HOT };

static void change_tensor(struct st_item *item, float *data, enum change change)
{
    uint64_t rows = item->dim[0];
    if (change == SPOILED || change == ENDLESS)
        data[3 * item->dim[1] + 5] = change == SPOILED ? NAN : INFINITY;
    for (uint64_t i = 0; change == HOT && i < item->dim[0]; i++)
        data[i] *= 1e12f;
    if (change == ROW_LESS)
        item->dim[0]--;
    if (change == TURNED) {
        item->dim[0] = item->dim[1];
        item->dim[1] = rows;
    }
}

/* base/model with one tensor changed, as NAME. */
static void change_model(const char *name, const char *tensor, enum change change)
{
    struct safetensors st;
    struct st_item item[MOST_TENSORS];
    float *data[MOST_TENSORS];
    struct err err;
    char path[128];
    size_t n = 0;
    copy_model(name);
    memset(&st, 0, sizeof st);
    assert_int_equal(safetensors_open(&st, "base/model/model.safetensors", &err), OK);
    assert_true(st.n < MOST_TENSORS);
    for (size_t i = 0; i < st.n; i++) {
        const struct st_tensor *t = &st.tensor[i];
        bool this_one = strcmp(t->name, tensor) == 0;
        if (this_one && change == DROPPED)
            continue;
        data[n] = malloc(t->bytes);
        assert_non_null(data[n]);
        assert_int_equal(safetensors_read(&st, t, 0, data[n], t->bytes, &err), OK);
        item[n] = (struct st_item){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .data = data[n]};
        memcpy(item[n].dim, t->dim, sizeof t->dim);
        if (this_one)
            change_tensor(&item[n], data[n], change);
        n++;
    }
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    assert_int_equal(safetensors_write(path, item, n, NULL, NULL, NULL, &err), OK);
    for (size_t i = 0; i < n; i++)
        free(data[i]);
    safetensors_close(&st);
}

static void test_tensors(void **state)
{
    (void)state;
    change_model("dropped", "model.layers.2.mlp.up_proj.weight", DROPPED);
    assert_refused(VENEER_INPUT, "dropped: tensor model.layers.2.mlp.up_proj.weight is missing", "model=dropped", NULL);
    change_model("turned", "model.layers.1.mlp.down_proj.weight", TURNED);
    assert_refused(VENEER_INPUT, "turned: model.layers.1.mlp.down_proj.weight has shape [64, 32], the configuration wants [32, 64]",
                   "model=turned", NULL);
}

/* Numbers are read after output_dir is taken: a job of its own, which writes no model. */
static void assert_number_refused(const char *says, const char *model, const char *output_dir)
{
    char sentence[1024], path[128];
    snprintf(path, sizeof path, "%s/model", output_dir + strlen("output_dir="));
    check_sentence(job_run(sentence, "job.txt", model, output_dir, NULL), VENEER_INPUT, sentence, says);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_numbers_that_are_none(void **state)
{
    (void)state;
    change_model("spoiled", "model.layers.3.self_attn.k_proj.weight", SPOILED);
    assert_number_refused("spoiled: model.layers.3.self_attn.k_proj.weight[3, 5] is NaN, want a finite number", "model=spoiled",
                          "output_dir=from-spoiled");
    change_model("endless", "model.embed_tokens.weight", ENDLESS);
    assert_number_refused("endless: model.embed_tokens.weight[3, 5] is infinite, want a finite number", "model=endless",
                          "output_dir=from-endless");
}

static void test_vocabulary_larger_than_the_embedding(void **state)
{
    (void)state;
    char *config, *at, small[4096];
    size_t n;
    struct err err;
    int rows, used;
    change_model("small", "model.embed_tokens.weight", ROW_LESS);
    assert_int_equal(file_read("base/model/config.json", 4000, &config, &n, &err), OK);
    assert_non_null(at = strstr(config, "\"vocab_size\": "));
    assert_int_equal(sscanf(at, "\"vocab_size\": %d%n", &rows, &used), 1);
    snprintf(small, sizeof small, "%.*s\"vocab_size\": %d%s", (int)(at - config), config, rows - 1, at + used);
    job_write("small/config.json", small);
    free(config);
    assert_int_equal(rows, 1024);
    assert_refused(VENEER_INPUT, "small: the tokenizer has 1024 pieces, the embedding 1023 rows", "model=small", NULL);
}

/* Said before anything is trained, not when model.gguf is written. */
static void test_tokenizer_without_a_gguf_name(void **state)
{
    (void)state;
    copy_model("uncut");
    job_copy("base/model/model.safetensors", "uncut/model.safetensors");
    assert_int_equal(unlink("uncut/tokenizer.gguf"), 0);
    job_write("uncut/tokenizer.json", "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"use_regex\": false}, "
                                      "\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}}");
    assert_refused(VENEER_INPUT,
                   "uncut (export=hf,peft leaves model.gguf out): GGUF has no name for the pre-tokenizer of this tokenizer.json, so llama.cpp could not "
                   "cut text as it does",
                   "model=uncut", NULL);
}

/* ---- the data ---- */

/* A dataset of one good line and this one. */
static void assert_data_refused(const char *line, const char *says)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"instruction\": \"Say yes.\", \"output\": \"yes\"}\n%s\n", line);
    job_write("bad.jsonl", text);
    assert_refused(VENEER_INPUT, says, "dataset=bad.jsonl", NULL);
}

static void test_dataset(void **state)
{
    (void)state;
    assert_data_refused("{\"instruction\": \"Say no.\", \"output\": \"no\"", "bad.jsonl:2: at byte 41: want ',' or '}'");
    assert_data_refused("{\"instruction\": \"Say no.\"}", "bad.jsonl:2.output: is missing, want a string");
    assert_data_refused("{\"output\": \"no\"}", "bad.jsonl:2.instruction: is missing, want a string");
    assert_data_refused("{\"instruction\": \"\", \"output\": \"no\"}", "bad.jsonl:2.instruction: is empty, want text");
    assert_data_refused("{\"instruction\": \"Say no.\", \"output\": \"\"}", "bad.jsonl:2.output: is empty, want text");
    assert_data_refused("{\"instruction\": 7, \"output\": \"no\"}", "bad.jsonl:2.instruction: got a number, want a string");
    assert_refused(VENEER_INPUT, "empty: is empty, want examples", "dataset=empty", NULL);
    assert_refused(VENEER_INPUT, "nowhere.jsonl: No such file or directory", "dataset=nowhere.jsonl", NULL);
    assert_refused(VENEER_INPUT, "tasks: is a folder, want a regular file", "dataset=tasks", NULL);
}

static void test_task_files(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(dir_make("bad-tasks", &err), OK);
    job_write("bad-tasks/boolq.jsonl", "{\"question\": \"is it\", \"passage\": \"It is.\", \"label\": 1}\n{\"question\": \"is it\"}\n");
    assert_refused(VENEER_INPUT, "bad-tasks/boolq.jsonl:2.passage: is missing, want a string", "eval_data=bad-tasks", "eval_tasks=boolq",
                   NULL);
    job_write("bad-tasks/boolq.jsonl", "{\"question\": \"is it\", \"passage\": \"It is.\", \"label\": 2}\n");
    assert_refused(VENEER_INPUT, "bad-tasks/boolq.jsonl:1.label: got 2, want an integer from 0 to 1", "eval_data=bad-tasks",
                   "eval_tasks=boolq", NULL);
    /* every document in the search part: none is left to report on */
    job_write("bad-tasks/boolq.jsonl",
              "{\"split\": \"search\", \"question\": \"is it\", \"passage\": \"It is.\", \"label\": 1}\n");
    assert_refused(VENEER_INPUT, "task boolq: no documents in this part", "eval_data=bad-tasks", "eval_tasks=boolq", NULL);
}

/* ---- output_dir ---- */

static void test_output_dir_that_cannot_be_written(void **state)
{
    (void)state;
    assert_refused(VENEER_INPUT, "job.txt: cannot be made a folder: a file is there", "output_dir=job.txt", NULL);
    assert_refused(VENEER_INPUT, "job.txt: cannot be made a folder: a file is there", "output_dir=job.txt/out", NULL);
    assert_refused(VENEER_INPUT, "/proc/veneer: cannot be made a folder: No such file or directory", "output_dir=/proc/veneer", NULL);
}

/* The result of one run is the base model of the next, in the same folder by mistake. */
static void test_output_over_input(void **state)
{
    (void)state;
    char sentence[1024];
    uint32_t before = fingerprint("base");
    check_sentence(job_run(sentence, "job.txt", "output_dir=base", NULL), VENEER_INPUT, sentence,
                   "base/model would be written over: this run reads it; take another output_dir");
    check_sentence(job_run(sentence, "base.txt", "model=base/model", NULL), VENEER_INPUT, sentence,
                   "base/model would be written over: this run reads it; take another output_dir");
    assert_int_equal(fingerprint("base"), before);
    assert_refused(VENEER_INPUT, "out/model.gguf would be written over: this run reads it; take another output_dir",
                   "model=out/model.gguf", NULL);
    assert_refused(VENEER_INPUT, "out/metrics.jsonl would be written over: this run reads it; take another output_dir",
                   "dataset=out/metrics.jsonl", NULL);
}

static void test_output_dir_without_leave_to_write(void **state)
{
    (void)state;
    struct err err;
    assert_int_equal(dir_make("locked", &err), OK);
    assert_int_equal(chmod("locked", 0555), 0);
    if (access("locked", W_OK) == 0)
        skip(); /* root writes anyway */
    assert_refused(VENEER_INPUT, "locked: cannot be written: Permission denied", "output_dir=locked", NULL);
}

/* A flipped bit in the middle of the journal is no torn end: nobody guesses what the line said. */
static void test_damaged_journal(void **state)
{
    (void)state;
    struct err err;
    char *journal, sentence[1024];
    size_t n;
    assert_int_equal(dir_make("damaged/search", &err), OK);
    assert_int_equal(file_read("out/search/journal.jsonl", 1 << 26, &journal, &n, &err), OK);
    char *second = strchr(journal, '\n') + 30;
    *second ^= 1;
    assert_int_equal(file_write("damaged/search/journal.jsonl", journal, n, &err), OK);
    check_sentence(job_run(sentence, "job.txt", "output_dir=damaged", NULL), VENEER_INPUT, sentence,
                   "damaged/search/journal.jsonl:2: the line's checksum does not fit its text, the journal is damaged");
    free(journal);
}

/* ---- found out while running ---- */

static void test_target_that_nothing_fits(void **state)
{
    (void)state;
    char sentence[1024];
    double budget, least;
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=tiny", "target_size=10000", NULL), VENEER_INPUT);
    assert_int_equal(sscanf(sentence, "nothing fits the budget of %lf bytes: the smallest configuration has %lf", &budget, &least), 2);
    assert_true(budget >= 10000 && budget <= 10000 && least > 10000);
    assert_non_null(strstr(sentence, "; to go lower: a larger pruning_ratio, smaller quant_types or lora_r")); /* the embedding has gone as low as it can */
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=tiny", "target_size=10000", "embedding_type=f32", NULL), VENEER_INPUT);
    assert_non_null(strstr(sentence, "; to go lower: embedding_type = nf4 ("));
    assert_non_null(strstr(sentence, " less), a larger pruning_ratio, smaller quant_types or lora_r"));
    /* and that size is one that fits */
    char smallest[64];
    snprintf(smallest, sizeof smallest, "target_size=%.0f", least);
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=smallest", smallest, NULL), 0);
}

/* Trials that diverge are kept as failed and the search goes on; when all of them did there is nothing to pick.  A norm's gain of 1e12
 * makes the FFN's activations large enough that adapters of this rate leave what a float can hold. */
static void test_a_rate_that_diverges(void **state)
{
    (void)state;
    char sentence[1024], *journal;
    size_t n;
    struct err err;
    change_model("hot", "model.layers.1.post_attention_layernorm.weight", HOT);
    for (int again = 0; again < 2; again++) { /* what failed stays failed: the same end, nothing tried anew */
        int code = job_run(sentence, "job.txt", "model=hot", "output_dir=wild", "pruning_ratio=0", "learning_rate=10", "lora_alpha=1000",
                           "max_steps=12", NULL);
        check_sentence(code, VENEER_FAILED, sentence, "no trial succeeded within the budget: there is nothing to pick");
        assert_int_equal(file_read("wild/search/journal.jsonl", 1 << 26, &journal, &n, &err), OK);
        assert_int_equal(job_count(journal, "\"type\":\"trial\""), 5);
        assert_int_equal(job_count(journal, "\"failed\":true"), 5);
        assert_int_equal(job_count(journal, "not finite for the 5th step in a row"), 5);
        free(journal);
    }
    assert_int_equal(access("wild/model", F_OK), -1);
}

/* Adapters of a rate like this one leave what f16 holds: the GGUF is refused, the rest is there, and the job can end without it. */
static void test_weights_that_no_gguf_holds(void **state)
{
    (void)state;
    char sentence[1024], tensor[64];
    int code = job_run(sentence, "job.txt", "output_dir=huge", "learning_rate=10", "max_steps=40", "batch_size=4", "max_grad_norm=0",
                       "lr_scheduler=constant", NULL);
    assert_int_equal(code, VENEER_FAILED);
    if (sscanf(sentence, "huge/model.gguf (export=hf,peft leaves it out): %63[a-z0-9._]: element [", tensor) != 1)
        fail_msg("%s", sentence);
    assert_int_equal(access("huge/model.gguf", F_OK), -1);
    assert_int_equal(job_run(sentence, "job.txt", "output_dir=huge", "learning_rate=10", "max_steps=40", "batch_size=4",
                             "max_grad_norm=0", "lr_scheduler=constant", "export=hf,peft", NULL), 0);
    assert_int_equal(access("huge/report.html", R_OK), 0);
}

int main(int argc, char **argv)
{
    (void)argc;
    job_share_cores(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_key),
        cmocka_unit_test(test_keys_that_do_not_fit_the_model),
        cmocka_unit_test(test_keys_of_another_mode_of_pruning),
        cmocka_unit_test(test_memory_that_is_not_there),
        cmocka_unit_test(test_no_model),
        cmocka_unit_test(test_truncated_model),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_numbers_that_are_none),
        cmocka_unit_test(test_vocabulary_larger_than_the_embedding), cmocka_unit_test(test_tokenizer_without_a_gguf_name),
        cmocka_unit_test(test_dataset),
        cmocka_unit_test(test_task_files),
        cmocka_unit_test(test_output_dir_that_cannot_be_written),
        cmocka_unit_test(test_output_over_input),
        cmocka_unit_test(test_output_dir_without_leave_to_write),
        cmocka_unit_test(test_damaged_journal),
        cmocka_unit_test(test_target_that_nothing_fits),
        cmocka_unit_test(test_a_rate_that_diverges),
        cmocka_unit_test(test_weights_that_no_gguf_holds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
