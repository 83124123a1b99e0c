/* keep_test.c: quant_types = keep: adapters are trained on a model as it is stored, whose tensors come back byte for byte; what a cut divides is encoded anew
 * and told; memory is that of the stored formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "blocks_model.h"
#include "export.h"
#include "inference.h"
#include "job_outputs.h"
#include "quant_cut.h"
#include "refused.h"

enum { LAYERS = 4, FFN = 512 };
static const int32_t ffn[LAYERS] = {FFN, FFN, FFN, FFN};
static const enum format formats[] = {FORMAT_Q4_0, FORMAT_Q2_K, FORMAT_Q3_K, FORMAT_Q4_K, FORMAT_IQ4_NL, FORMAT_Q5_K, FORMAT_Q8_0, FORMAT_F32, FORMAT_Q6_K,
                                      FORMAT_IQ4_XS, FORMAT_BF16, FORMAT_Q4_1, FORMAT_Q5_0, FORMAT_F16, FORMAT_Q5_1};
enum { FORMATS = sizeof formats / sizeof *formats };
static const char job_keep[] = "model = model.gguf\ndataset = train.jsonl\noutput_dir = out\npruning_ratio = 0\nsearch = none\nquant_types = keep\nmax_steps = 2\n"
                          "lora_r = 2\nlearning_rate = 1e-3\nbatch_size = 4\nmicro_batch_size = 4\nmax_seq_len = 48\ncalibration_seq_len = 32\nthreads = 1\n";

static int setup(void **state)
{
    static struct job_home home;
    struct blocks_model w;
    struct tokenizer *tokenizer;
    job_open(&home);
    *state = &home;
    job_write("keep.txt", job_keep);
    CHECK(tokenizer_load_sentencepiece(&tokenizer, "tokenizer.model", &err));
    blocks_make(&w, LAYERS, ffn, formats, FORMATS);
    CHECK(export_gguf_stored("model.gguf", &w.model, tokenizer, "test", &err));
    blocks_free(&w);
    tokenizer_free(tokenizer);
    return 0;
}

static char *contents(const char *path)
{
    char *text;
    size_t n;
    CHECK(file_read(path, 1 << 26, &text, &n, &err));
    return text;
}

static void says(const char *path, const char *line)
{
    char *text = contents(path);
    if (!strstr(text, line))
        fail_msg("%s does not say '%s':\n%s", path, line, text);
    free(text);
}

#define RUN(...)                                                 \
    do {                                                         \
        char sentence[1024];                                     \
        if (job_run(sentence, "keep.txt", __VA_ARGS__, NULL))    \
            fail_msg("%s", sentence);                            \
    } while (0)

/* Every format of a GGUF, in panels while it was trained on, is what it was; the adapter has learnt, and is the same in both of its files. */
static void comes_back_byte_for_byte(void **state)
{
    (void)state;
    struct inference in;
    struct gguf *g;
    RUN("output_dir=out");
    blocks_same_tensors("model.gguf", "out/model.gguf");
    says("out/train.log", "embedding q4_k");
    says("out/train.log", "lora_init = loftq finds nothing that a stored format lacks");
    CHECK(inference_open(&in, "model.gguf", &(struct inference_options){.adapter = "out/adapter", .threads = 1}, &err));
    const struct adapter *a = &in.lora.adapter[2][LINEAR_V];
    double norm = 0;
    for (size_t i = 0; i < a->out * (size_t)a->r; i++)
        norm += fabs((double)a->B[i]);
    assert_true(norm > 0); /* it began at 0 */
    real *B = malloc(a->out * (size_t)a->r * sizeof *B);
    CHECK(gguf_open(&g, "out/adapter.gguf", &err));
    CHECK(gguf_read_rows(g, gguf_tensor(g, "blk.2.attn_v.weight.lora_b"), 0, a->out, B, &err));
    for (size_t i = 0; i < a->out * (size_t)a->r; i++)
        assert_true(B[i] == a->s * a->B[i]);
    free(B);
    gguf_close(g);
    inference_close(&in);
}

/* In the folder K-quants are F32 numbers, and its plan says so: it opens, with the values of the file. */
static void the_folder_opens(void **state)
{
    (void)state;
    struct inference folder, file;
    CHECK(inference_open(&folder, "out/model", &(struct inference_options){.threads = 1}, &err));
    CHECK(inference_open(&file, "model.gguf", &(struct inference_options){.threads = 1}, &err));
    real *a = malloc(BLOCKS_HIDDEN * FFN * sizeof *a), *b = malloc(BLOCKS_HIDDEN * FFN * sizeof *b);
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *q = &folder.model.layer[l].linear[j], *p = &file.model.layer[l].linear[j];
            assert_int_equal(q->format, format_info(p->format)->read_only ? FORMAT_F32 : p->format);
            quant_decode_rows(q, 0, q->rows, a);
            quant_decode_rows(p, 0, p->rows, b);
            assert_memory_equal(a, b, q->rows * q->cols * sizeof *a);
        }
    free(a);
    free(b);
    inference_close(&folder);
    inference_close(&file);
}

/* Merged on demand (also over what an earlier run has left): superblocks become q8_0, the rest stays in its format, and there is no adapter.gguf. */
static void merged_when_asked(void **state)
{
    (void)state;
    struct gguf *was, *is;
    RUN("output_dir=merged", "export=gguf", "rank_pattern=layers\\.0\\.=0");
    assert_int_equal(access("merged/adapter.gguf", F_OK), 0);
    RUN("output_dir=merged", "export=gguf", "export_merge=yes", "rank_pattern=layers\\.0\\.=0");
    assert_int_not_equal(access("merged/adapter.gguf", F_OK), 0);
    CHECK(gguf_open(&was, "model.gguf", &err));
    CHECK(gguf_open(&is, "merged/model.gguf", &err));
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < 2; k++) {
            char name[64];
            enum format from, to;
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, k ? "ffn_down" : "attn_k");
            CHECK(gguf_format(was, gguf_tensor(was, name), &from, &err));
            CHECK(gguf_format(is, gguf_tensor(is, name), &to, &err));
            enum format want = from == FORMAT_F32 || from == FORMAT_BF16 ? FORMAT_F16 : l > 0 && format_info(from)->read_only ? FORMAT_Q8_0 : from;
            assert_int_equal(to, want);
        }
    gguf_close(was);
    gguf_close(is);
}

/* Rows of what stays are those of the file; columns are cut where blocks end, else the linear is encoded anew, and the log and the plan say which. */
static void pruned_by_rows(void **state)
{
    (void)state;
    struct inference was, is;
    size_t moved = 0, anew = 0;
    RUN("output_dir=pruned", "pruning_ratio=0.35", "export_merge=no", "block_attention_layer_start=0", "block_attention_layer_end=4", "block_mlp_layer_start=0",
        "block_mlp_layer_end=4");
    says("pruned/train.log", "stored blocks: encoded anew, as the cut divides them: ");
    const struct inference_options open = {.threads = 1, .decode = true, .keep_blocks = true};
    CHECK(inference_open(&was, "model.gguf", &open, &err));
    CHECK(inference_open(&is, "pruned/model.gguf", &open, &err));
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *q = &is.model.layer[l].linear[j], *p = &was.model.layer[l].linear[j];
            size_t unit = j == LINEAR_O ? (size_t)BLOCKS_HEADS / BLOCKS_KV * BLOCKS_HEAD_DIM : 1;
            bool whole = q->cols == p->cols || (format_is_ggml(p->format) && unit % quant_ggml_elements(p->format) == 0);
            if (!format_is_ggml(p->format))
                continue;
            assert_int_equal(q->format, whole ? p->format : quant_fallback(p->format, q->cols));
            anew += !whole;
            if (!whole)
                continue;
            size_t bytes = quant_ggml_size(q->format, q->cols), from = quant_ggml_size(p->format, p->cols), r = 0;
            for (size_t i = 0; i < p->rows && r < q->rows && q->cols == p->cols; i++) /* in order: each row is the next of the file's that is equal to it */
                r += memcmp((const char *)q->codes + r * bytes, (const char *)p->codes + i * from, bytes) == 0;
            assert_int_equal(r, q->cols == p->cols ? q->rows : 0);
            moved += q->rows < p->rows;
        }
    print_message("%zu linears lost rows, %zu were encoded anew\n", moved, anew);
    assert_true(moved >= 6 && anew >= 2);
    inference_close(&was);
    inference_close(&is);
}

static void plan_counts_what_is_stored(void **state)
{
    (void)state;
    struct veneer *job;
    struct blocks_model w;
    const char *text;
    char want[128];
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "keep.txt"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    blocks_make(&w, LAYERS, ffn, formats, FORMATS);
    snprintf(want, sizeof want, "base weights     %14zu  the model as it is stored", w.arena.used);
    assert_non_null(strstr(text, want));
    snprintf(want, sizeof want, "weights          %14zu  the pruned model, as it is stored", w.arena.used);
    assert_non_null(strstr(text, want));
    assert_null(strstr(text, "encoded anew"));
    assert_int_equal(veneer_set(job, "pruning_ratio=0.2", "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    assert_non_null(strstr(text, "encoded anew"));
    assert_non_null(strstr(text, " -> ")); /* which */
    blocks_free(&w);
    veneer_free(job);
}

/* The stored format is one of the levels, and ranks are chosen on it. */
static void one_of_the_levels(void **state)
{
    (void)state;
    RUN("output_dir=levels", "quant_types=keep,int8", "search=random", "objective=loss", "search_data=text.jsonl", "eval_data=tasks", "num_initial=3", "num_trials=1", "max_steps=1");
    says("levels/search/pareto.csv", "keep keep");
    RUN("output_dir=ranks", "rank_types=1,2", "search=random", "objective=loss", "search_data=text.jsonl", "eval_data=tasks", "num_initial=2", "num_trials=1", "max_steps=1");
    blocks_same_tensors("model.gguf", "ranks/model.gguf");
    RUN("output_dir=again", "plan=ranks/search/plan-best.txt", "max_steps=1");
    blocks_same_tensors("model.gguf", "again/model.gguf");
}

/* Heads, channels, layers, in steps, to several ratios: every kind of cut finds its formats. */
static void pruned_in_every_way(void **state)
{
    (void)state;
    RUN("output_dir=steps", "pruning_ratio=0.3", "iterative_steps=2", "export=gguf", "max_steps=1");
    RUN("output_dir=channels", "pruning_ratio=0.2", "pruning_mode=channel", "export=gguf", "max_steps=1");
    says("channels/train.log", "q_proj q4_0 -> q4_0");
    RUN("output_dir=layers", "pruning_ratio=0.2", "pruning_mode=layer", "export=gguf", "max_steps=1");
    says("layers/train.log", "stored blocks: all that stay are as they were");
    RUN("output_dir=ratios", "pruning_ratios=0,0.3", "search=random", "objective=loss", "search_data=text.jsonl", "eval_data=tasks", "num_initial=3", "num_trials=1",
        "max_steps=1", "export=gguf");
    RUN("output_dir=pinned", "bits_pattern=down_proj=q8_0", "export=gguf", "max_steps=1");
    struct gguf *g;
    CHECK(gguf_open(&g, "pinned/model.gguf", &err));
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.1.ffn_down.weight")->type), "Q8_0");
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.0.attn_q.weight")->type), "Q4_0");
    gguf_close(g);
}

/* bitsandbytes' codes never become reals: with double quantization too what is written is what was read. */
static void folders_come_back(void **state)
{
    (void)state;
    static const char *const runs[][3] = {{"quant_types=nf4", "double_quant=yes", "block_size=128"}, {"quant_types=fp4", "double_quant=no", "block_size=64"},
                                          {"quant_types=int8", "double_quant=no", "block_size=64"}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        RUN("model=base/model", "output_dir=packed", runs[i][0], runs[i][1], runs[i][2], "lora_init=default", "export=hf");
        assert_int_equal(unlink("packed/model/plan.txt"), 0); /* as another program leaves a folder */
        RUN("model=packed/model", "output_dir=kept", "embedding_type=keep");
        char *a = contents("packed/model/model.safetensors"), *b = contents("kept/model/model.safetensors");
        size_t n, m;
        free(a);
        free(b);
        CHECK(file_read("packed/model/model.safetensors", 1 << 26, &a, &n, &err));
        CHECK(file_read("kept/model/model.safetensors", 1 << 26, &b, &m, &err));
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
        dir_remove("packed");
        dir_remove("kept");
    }
}

/* The plan's row of the base. */
static double base_weights(const char *model, const char *ratio, const char *what)
{
    struct veneer *job;
    const char *text;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "keep.txt"), 0);
    assert_int_equal(veneer_set(job, model, "test"), 0);
    assert_int_equal(veneer_set(job, "quant_types=nf4", "test"), 0);
    assert_int_equal(veneer_set(job, ratio, "test"), 0);
    if (veneer_plan(job, &text) != 0)
        fail_msg("%s", veneer_error(job));
    assert_non_null(strstr(text, what));
    double bytes = job_number_after(text, "\nbase weights ");
    veneer_free(job);
    return bytes;
}

/* A base that will be cut lies as it is stored until then, whatever its linears become: the same units go as from its values in F32, and the same numbers stay. */
static void a_base_stays_as_stored_until_it_is_cut(void **state)
{
    (void)state;
    static const char *const modes[] = {"pruning_mode=block", "pruning_mode=layer", "pruning_mode=channel"};
    RUN("output_dir=floats", "quant_types=f32", "embedding_type=f32", "export=hf", "export_dtype=f32", "lora_init=default", "max_steps=1");
    double stored = base_weights("model=model.gguf", "pruning_ratio=0.2", "the model as it is stored, until it is pruned"), floats = base_weights("model=floats/model", "pruning_ratio=0.2", "until it is pruned");
    double linears = LAYERS * (2 * 256. * 256 + 2 * 128. * 256 + 3. * FFN * 256);
    assert_true(floats - stored > 1.9 * linears); /* of 4 bytes a weight: the formats above take less than 2 */
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        RUN("model=model.gguf", "output_dir=as-stored", modes[i], "quant_types=f32", "embedding_type=f32", "pruning_ratio=0.2", "export=hf", "export_dtype=f32", "max_steps=1");
        RUN("model=floats/model", "output_dir=as-floats", modes[i], "quant_types=f32", "embedding_type=f32", "pruning_ratio=0.2", "export=hf", "export_dtype=f32", "max_steps=1");
        job_assert_same_file("as-stored", "as-floats", "model/model.safetensors");
        dir_remove("as-stored");
        dir_remove("as-floats");
    }
}

/* A folder has no form for hqq4: its floats are encoded again where that is kept, and stay floats where the base is cut.  So does what several steps cut. */
static void else_it_is_floats(void **state)
{
    (void)state;
    RUN("model=base/model", "output_dir=affine", "quant_types=hqq4", "lora_init=default", "export=hf", "max_steps=1");
    base_weights("model=affine/model", "pruning_ratio=0.1", "the model as loaded, linears F32, until it is pruned");
    RUN("model=affine/model", "output_dir=affine-cut", "quant_types=nf4", "pruning_ratio=0.1", "export=hf", "max_steps=1");
    RUN("model=base/model", "output_dir=steps-cut", "quant_types=nf4", "pruning_ratio=0.1", "iterative_steps=2", "export=hf", "max_steps=1");
}

/* model.gguf is held beside the pick at the end: its merged linears, room to decode the largest, two rows of logits a position; not where none is written. */
static void plan_counts_the_comparison(void **state)
{
    (void)state;
    struct veneer *job;
    const char *text;
    const double linears = LAYERS * (2 * 256. * 256 + 2 * 128. * 256 + 3. * FFN * 256), least = linears * 18 / 32 + 4. * FFN * 256;
    assert_int_equal(veneer_new(&job), 0);
    assert_int_equal(veneer_read(job, "keep.txt"), 0);
    assert_int_equal(veneer_set(job, "quant_types=nf4", "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    double bytes = job_number_after(text, "\ncomparison ");
    assert_true(bytes > least && bytes < least + 48 * (2 * 4. * BLOCKS_VOCAB + 4 * BLOCKS_HIDDEN + 64) + 64 * 32);
    assert_int_equal(veneer_set(job, "export=hf,peft", "test"), 0);
    assert_int_equal(veneer_plan(job, &text), 0);
    assert_null(strstr(text, "\ncomparison "));
    veneer_free(job);
}

static void refused(const char *want, const char *a, const char *b)
{
    char sentence[1024];
    assert_int_equal(job_run(sentence, "keep.txt", "output_dir=none", a, b, NULL), VENEER_INPUT);
    assert_string_equal(sentence, want);
}

static void what_cannot_be_is_said(void **state)
{
    (void)state;
    refused("test: lora_init = pissa takes its directions out of the weights, which quant_types = keep leaves as they are: want default or gaussian", "lora_init=pissa", NULL);
    refused("test: lora_init = cloq makes up for what quantization lost, which a model that is stored quantized does not tell: want default or gaussian with "
            "quant_types = keep", "lora_init=cloq", NULL);
    refused("test: a calibrated quantizer needs the weights before quantization: want quantizer = hqq with quant_types = keep", "quant_types=keep,hqq3",
            "quantizer=gptq");
    refused("test: nothing to choose with quant_types = keep alone: want search = none, or rank_types, pruning_ratios or more quant_types", "search=gp", NULL);
    refused("test: embedding_type = keep, want f32 with pruning_mode = channel, which cuts the embedding's columns", "embedding_type=keep", "pruning_mode=channel");
    refused("bits_pattern: model.layers.0.self_attn.q_proj: q4_k is only read from GGUF files, want a format that can be written, such as q4_0, iq4_nl or q8_0",
            "bits_pattern=q_proj=q4_k", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_byte_for_byte), cmocka_unit_test(the_folder_opens),  cmocka_unit_test(merged_when_asked),
        cmocka_unit_test(pruned_by_rows),           cmocka_unit_test(plan_counts_what_is_stored), cmocka_unit_test(one_of_the_levels),
        cmocka_unit_test(pruned_in_every_way),      cmocka_unit_test(folders_come_back),        cmocka_unit_test(what_cannot_be_is_said),
        cmocka_unit_test(a_base_stays_as_stored_until_it_is_cut), cmocka_unit_test(else_it_is_floats), cmocka_unit_test(plan_counts_the_comparison),
    };
    return cmocka_run_group_tests(tests, setup, job_teardown);
}
