/* kquants_test.c: a model whose matrices are in every format that only files have: its GGUF is read as it lies, says what its values say, and goes on
 * byte for byte; what must change becomes q8_0; what is cut short is refused. */
#include "job.h"

#include "blocks_model.h"
#include "convert.h"
#include "export.h"
#include "inference.h"
#include "world_dir.h"

enum { LAYERS = 2, VOCAB = BLOCKS_VOCAB, HIDDEN = BLOCKS_HIDDEN, TOKENS = 7 };

/* Rows of 352 (those of down_proj in layer 1) hold no superblock: llama.cpp writes such a tensor in another format. */
static const int32_t ffn[LAYERS] = {512, 352};
static const enum format formats[] = {FORMAT_Q2_K, FORMAT_Q3_K, FORMAT_Q4_K, FORMAT_Q5_K, FORMAT_Q6_K, FORMAT_IQ4_XS, FORMAT_IQ4_NL};
enum { FORMATS = sizeof formats / sizeof *formats };

static char path[128];

static void make(struct blocks_model *w)
{
    blocks_make(w, LAYERS, ffn, formats, FORMATS);
}

static int setup(void **state)
{
    struct err err;
    struct blocks_model w;
    if (open_world_dir(state) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    make(&w);
    enum status status = export_gguf(path, &w.model, NULL, tokenizer, "test", &err);
    blocks_free(&w);
    return status == OK ? 0 : -1;
}

static void same_matrix(const struct qmat *got, const struct qmat *want, const char *what)
{
    size_t n = want->rows * want->cols;
    real *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
    quant_decode_rows(got, 0, got->rows, a);
    quant_decode_rows(want, 0, want->rows, b);
    if (memcmp(a, b, n * sizeof *a) != 0)
        fail_msg("%s: other values", what);
    free(a);
    free(b);
}

static void logits_of(struct inference *in, real *out)
{
    int32_t tokens[TOKENS] = {1, 50, 700, 3, 999, 20, 1029}, positions[TOKENS], labels[TOKENS];
    struct segment segment = {.len = TOKENS};
    for (int i = 0; i < TOKENS; i++)
        positions[i] = i, labels[i] = -1;
    struct batch batch = {.n = TOKENS, .tokens = tokens, .positions = positions, .labels = labels, .segments = &segment, .n_segments = 1};
    const real *x;
    CHECK(inference_place(in, TOKENS, &err));
    CHECK(model_hidden(&in->run, &in->model, NULL, &batch, &x, &err));
    model_logits(&in->run, &in->model, x, TOKENS, out);
}

/* A sum of n <= 512 terms has an error of at most n 2^-24 sum|terms|, and sum|terms| is below sqrt(n) times the usual size of a sum: 7e-4 of it.  Those of 2 layers of
 * 2 sums add up. */
static const double bound = 4 * 7e-4;

static void held_as_stored(void **state)
{
    (void)state;
    struct blocks_model w;
    struct inference stored, decoded;
    real *a = malloc(TOKENS * VOCAB * sizeof *a), *b = malloc(TOKENS * VOCAB * sizeof *b);
    double most = 0, worst = 0;
    make(&w);
    CHECK(inference_open(&stored, path, &(struct inference_options){.threads = 2}, &err));
    CHECK(inference_open(&decoded, path, &(struct inference_options){.threads = 2, .decode = true}, &err));
    assert_true(stored.model.embed.format == FORMAT_Q4_K && stored.model.head.format == FORMAT_Q6_K);
    assert_true(decoded.model.embed.format == FORMAT_F32 && decoded.model.head.format == FORMAT_F32);
    same_matrix(&stored.model.embed, &w.model.embed, "embedding");
    same_matrix(&stored.model.head, &w.model.head, "head");
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            const struct qmat *want = &w.model.layer[l].linear[j];
            assert_int_equal(stored.model.layer[l].linear[j].format, want->format);
            assert_int_equal(decoded.model.layer[l].linear[j].format, FORMAT_F32);
            same_matrix(&stored.model.layer[l].linear[j], want, linear_name[j]);
            same_matrix(&decoded.model.layer[l].linear[j], want, linear_name[j]);
        }
    logits_of(&stored, a);
    logits_of(&decoded, b);
    for (size_t i = 0; i < TOKENS * VOCAB; i++)
        most = fmax(most, fabs((double)b[i]));
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        assert_true(d <= bound * most);
        worst = fmax(worst, d);
    }
    print_message("largest difference of a logit: %.2g of the largest\n", worst / most);
    inference_close(&stored);
    inference_close(&decoded);
    blocks_free(&w);
    free(a);
    free(b);
}

/* GGUF -> GGUF: every tensor has the bytes it had, q's and k's rows back in ggml's order. */
static void handed_on(void **state)
{
    (void)state;
    struct inference in;
    struct model to;
    struct arena arena = {0};
    char other[128];
    snprintf(other, sizeof other, "%s/again.gguf", dir);
    CHECK(inference_open(&in, path, &(struct inference_options){.threads = 1, .decode = true, .keep_blocks = true}, &err));
    CHECK(convert_model(&to, &in.model, NULL, &in.plan, FORMAT_Q4_K, FORMAT_Q6_K, false, &arena, &err));
    CHECK(export_gguf(other, &to, NULL, tokenizer, "test", &err));
    blocks_same_tensors(path, other);
    model_free(&to);
    arena_free(&arena);
    inference_close(&in);
}

/* Layer 1 gets the width of layer 0: what grows cannot stay a superblock, what does not grow does. */
static void what_changes_becomes_q8_0(void **state)
{
    (void)state;
    struct inference in;
    struct model to;
    struct arena arena = {0};
    CHECK(inference_open(&in, path, &(struct inference_options){.threads = 1, .decode = true, .keep_blocks = true}, &err));
    CHECK(convert_model(&to, &in.model, NULL, &in.plan, FORMAT_F32, FORMAT_F32, true, &arena, &err));
    const struct qmat *grown = &to.layer[1].linear[LINEAR_GATE], *was = &in.model.layer[1].linear[LINEAR_GATE];
    assert_true(format_info(was->format)->read_only);
    assert_true(grown->format == FORMAT_Q8_0 && grown->rows == 512);
    real *row = malloc(2 * HIDDEN * sizeof *row), *before = row + HIDDEN;
    for (size_t r = 0; r < 512; r++) {
        quant_decode_rows(grown, r, 1, row);
        memset(before, 0, HIDDEN * sizeof *row);
        if (r < 352)
            quant_decode_rows(was, r, 1, before);
        for (size_t at = 0; at < HIDDEN; at += 32) {
            real most = 0;
            for (size_t i = at; i < at + 32; i++)
                most = before[i] > most ? before[i] : -before[i] > most ? -before[i] : most;
            for (size_t i = at; i < at + 32; i++) /* half a step of 127 and the f16 scale: 1/254 + 2^-11 of the block's largest */
                assert_true(fabs((double)row[i] - (double)before[i]) <= (1.0 / 254 + 0x1p-11) * 1.001 * (double)most);
        }
    }
    free(row);
    assert_int_equal(to.layer[1].linear[LINEAR_O].format, in.model.layer[1].linear[LINEAR_O].format);
    same_matrix(&to.layer[1].linear[LINEAR_O], &in.model.layer[1].linear[LINEAR_O], "o_proj");
    model_free(&to);
    arena_free(&arena);
    inference_close(&in);
}

static void asked_for_by_name(void **state)
{
    (void)state;
    struct inference in;
    struct model to;
    struct plan plan;
    struct arena arena = {0};
    struct err said;
    CHECK(inference_open(&in, path, &(struct inference_options){.threads = 1, .decode = true}, &err));
    CHECK(plan_new(&plan, &in.model.config, FORMAT_Q4_K, &err));
    assert_refused(convert_model(&to, &in.model, NULL, &plan, FORMAT_F32, FORMAT_F32, false, &arena, &said), ERR_INPUT, &said, "",
                   "model.layers.0.self_attn.q_proj: q4_k is only read from GGUF files, want a format that can be written, such as q4_0, iq4_nl or q8_0");
    plan_free(&plan);
    arena_free(&arena);
    inference_close(&in);
}

/* A file that ends inside its last tensor, a scale that is infinite. */
static void broken_files(void **state)
{
    (void)state;
    char *bytes, other[128];
    size_t n;
    struct gguf *g;
    struct inference in;
    struct err said;
    snprintf(other, sizeof other, "%s/broken.gguf", dir);
    CHECK(file_read(path, 1 << 26, &bytes, &n, &err));
    CHECK(gguf_open(&g, path, &err));
    const struct gguf_tensor *last = gguf_tensor(g, "blk.1.ffn_down.weight"), *v = gguf_tensor(g, "blk.0.attn_v.weight");
    size_t end = (size_t)(last->offset + last->bytes), at = (size_t)v->offset, data = (size_t)gguf_tensor(g, "token_embd.weight")->offset;
    size_t place = (size_t)last->offset - data, size = (size_t)last->bytes;
    char want[256];
    assert_string_equal(gguf_type_name(v->type), "Q4_K");
    gguf_close(g);
    CHECK(file_write(other, bytes, end - 1, &err));
    assert_int_equal(gguf_open(&g, other, &said), ERR_INPUT);
    snprintf(want, sizeof want, ": blk.1.ffn_down.weight: %zu bytes at %zu of the data, the file has %zu bytes of data", size, place, place + size - 1);
    assert_non_null(strstr(said.text, want));
    bytes[at + 1] = 0x7c; /* d of the first superblock */
    bytes[at] = 0;
    CHECK(file_write(other, bytes, n, &err));
    assert_refused(inference_open(&in, other, &(struct inference_options){.threads = 1}, &said), ERR_INPUT, &said, dir,
                   "broken.gguf: model.layers.0.self_attn.v_proj.weight[0, 0] is infinite, want a finite number");
    inference_close(&in);
    free(bytes);
}

/* With an adapter merged in: superblocks that it changes become q8_0, the others stay. */
static void merged(const char *adapter)
{
    struct inference in;
    struct model to;
    struct arena arena = {0};
    size_t changed = 0;
    CHECK(inference_open(&in, path, &(struct inference_options){.adapter = adapter, .threads = 1, .decode = true, .keep_blocks = true}, &err));
    CHECK(convert_model(&to, &in.model, inference_lora(&in), &in.plan, FORMAT_F32, FORMAT_F32, false, &arena, &err));
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            enum format was = in.model.layer[l].linear[j].format;
            bool becomes = format_info(was)->read_only && in.lora.adapter[l][j].r > 0;
            assert_int_equal(to.layer[l].linear[j].format, becomes ? FORMAT_Q8_0 : was);
            changed += becomes;
        }
    assert_true(changed > 0);
    model_free(&to);
    arena_free(&arena);
    inference_close(&in);
}

/* A job from such a file: its values are the base, iq4_nl is what the layers become, and what the GGUF of the result has. */
static void trained(void **state)
{
    (void)state;
    char text[2048], config[128], out[128], sentence[1024], here[512];
    struct gguf *g;
    assert_non_null(getcwd(here, sizeof here));
    snprintf(config, sizeof config, "%s/job.txt", dir);
    snprintf(out, sizeof out, "%s/out/model.gguf", dir);
    snprintf(text, sizeof text,
             "model = model.gguf\ndataset = %s/data/world/instruct.jsonl\noutput_dir = out\npruning_ratio = 0\nsearch = none\nquant_types = iq4_nl\n"
             "objective = loss\nmax_steps = 2\nlora_r = 2\nbatch_size = 4\nmicro_batch_size = 4\nmax_seq_len = 48\nthreads = 1\n",
             here);
    CHECK(file_write(config, text, strlen(text), &err));
    if (job_run(sentence, config, NULL))
        fail_msg("%s", sentence);
    CHECK(gguf_open(&g, out, &err));
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.0.attn_q.weight")->type), "IQ4_NL");
    assert_string_equal(gguf_type_name(gguf_tensor(g, "blk.1.ffn_down.weight")->type), "IQ4_NL");
    gguf_close(g);
    snprintf(out, sizeof out, "%s/out/adapter", dir);
    merged(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_as_stored), cmocka_unit_test(handed_on), cmocka_unit_test(what_changes_becomes_q8_0),
        cmocka_unit_test(asked_for_by_name), cmocka_unit_test(broken_files), cmocka_unit_test(trained),
    };
    return cmocka_run_group_tests(tests, setup, close_world_dir);
}
