/* A model of files on the device, held against the same files on the CPU, in f32: text, scores, divergences; too little memory, a device that fails.
 *
 * Bound of a logit: a sum of n <= 96 terms has an error of at most n 2^-24 sum|terms|, and sum|terms| is below sqrt(n) times the usual size of a sum: 5.7e-5 of it, once in
 * each of two sums of two layers and in the head.
 * A key or value between two of f16's may fall to either side: 2^-10 of it, of scores of size 1 and of what they weight, in two layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "blocks_model.h"
#include "cuda/device.h"
#include "evaluate.h"
#include "export.h"
#include "generate.h"
#include "inference.h"
#include "io/dataset.h"
#include "io/tasks.h"
#include "refused.h"
#ifdef VENEER_CUDA_EMU
#include "emu_ctl.h"
#endif

enum { LAYERS = 2, HIDDEN = 64, FFN = 96, ROWS = 192, WINDOW = 12, CONTEXT = 48 };
static const double logit_bound = 5 * 5.7e-5, f16_bound = 2 * 2 * 0x1p-10, score_bound = 1e-4;

static struct tokenizer *tokenizer;
static struct device *card;
static char dir[64], folder[96], adapter[96], blocks[96];

/* ---- files ---- */

static void make_config(struct model_config *c)
{
    CHECK(model_config_alloc(c, LAYERS, &err));
    c->vocab_size = tokenizer_vocab_size(tokenizer);
    c->hidden_size = HIDDEN;
    c->head_dim = 16;
    c->max_position_embeddings = 256;
    strcpy(c->model_type, "llama");
    c->attention_bias = c->attention_out_bias = true;
    for (int l = 0; l < LAYERS; l++) {
        c->num_attention_heads[l] = 4;
        c->num_key_value_heads[l] = 2;
        c->intermediate_size[l] = FFN;
    }
}

static void make_plan(struct plan *plan, const struct model_config *c)
{
    static const enum format formats[] = {FORMAT_NF4, FORMAT_INT8, FORMAT_Q4_0, FORMAT_HQQ4, FORMAT_BF16, FORMAT_NF8, FORMAT_Q8_0};
    CHECK(plan_new(plan, c, FORMAT_F32, &err));
    for (int l = 0; l < LAYERS; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            enum format f = formats[(j + 3 * l) % LINEAR_COUNT];
            plan->layer[l].linear[j] = (struct plan_linear){.format = f, .block = format_info(f)->default_block, .double_quant = f == FORMAT_NF4 && l == 0,
                                                            .rank = j == LINEAR_K ? 0 : 2 + l, .alpha = 8};
        }
}

static void fill(struct qmat *q, uint32_t step, double size)
{
    struct rng rng = {.seed = 9, .stream = RNG_INIT, .step = step};
    size_t n = q->rows * q->cols;
    real *W = malloc(n * sizeof *W);
    assert_non_null(W);
    for (size_t i = 0; i < n; i++)
        W[i] = (real)(size * rng_normal(&rng));
    CHECK(quant_encode(q, W, false, &err));
    free(W);
}

/* The head is large: logits differ by more than roundings. */
static void fill_model(struct model *m)
{
    fill(&m->embed, 1, 1);
    fill(&m->head, 2, 0.5);
    for (int i = 0; i < HIDDEN; i++)
        m->norm[i] = 1;
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < HIDDEN; i++)
            m->layer[l].input_norm[i] = m->layer[l].post_norm[i] = 1;
        for (int j = 0; j < LINEAR_COUNT; j++) {
            struct qmat *q = &m->layer[l].linear[j];
            fill(q, (uint32_t)(10 + l * LINEAR_COUNT + j), 1 / sqrt((double)q->cols));
            for (size_t i = 0; m->layer[l].bias[j] && i < q->rows; i++)
                m->layer[l].bias[j][i] = (real)(0.1 * (double)(i % 7));
        }
    }
}

static void write_folder(void)
{
    struct model_config config = {0};
    struct plan plan;
    struct model model;
    struct lora lora = {0};
    struct arena arena = {0};
    make_config(&config);
    make_plan(&plan, &config);
    CHECK(model_shape(&model, &config, &plan, &err));
    for (int pass = 0; pass < 2; pass++) {
        model_place_head(&model, FORMAT_BF16, FORMAT_F32, &arena);
        lora_place(&lora, &plan, &config, false, &arena);
        if (pass == 0)
            CHECK(arena_commit(&arena, "a model", &err));
    }
    fill_model(&model);
    struct rng rng = {.seed = 9, .stream = RNG_INIT, .step = 90};
    for (size_t i = 0; i < lora.n; i++)
        lora.p[i] = (real)(0.1 * rng_normal(&rng));
    CHECK(export_folder(folder, &model, tokenizer, NULL, "f32", &err));
    CHECK(export_adapter(adapter, &lora, &plan, folder, &err));
    model_free(&model);
    arena_free(&arena);
    plan_free(&plan);
    model_config_free(&config);
}

/* A GGUF of the formats that files alone have. */
static void write_blocks(void)
{
    static const enum format formats[] = {FORMAT_Q2_K, FORMAT_Q3_K, FORMAT_Q4_K, FORMAT_Q5_K, FORMAT_Q6_K, FORMAT_IQ4_XS, FORMAT_IQ4_NL};
    struct blocks_model w;
    blocks_make(&w, 1, (const int32_t[]){256}, formats, sizeof formats / sizeof *formats);
    CHECK(export_gguf(blocks, &w.model, NULL, tokenizer, "test", &err));
    blocks_free(&w);
}

static const char own_task[] = "{\"config\": {\"max_gen_toks\": 6, \"until\": [\"never written\"]}}\n"
                               "{\"prompt\": \"The snow fox eats\", \"answer\": \"x\"}\n{\"prompt\": \"The snow fox eats a\", \"answer\": \"y\"}\n";

static int setup(void **state)
{
    (void)state;
    CHECK(tokenizer_load_sentencepiece(&tokenizer, "data/world/tokenizer.model", &err));
    make_folder(dir);
    snprintf(folder, sizeof folder, "%s/model", dir);
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    snprintf(blocks, sizeof blocks, "%s/blocks.gguf", dir);
    write_folder();
    write_blocks();
    put_file(dir, "own.jsonl", own_task, strlen(own_task));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    dir_remove(dir);
    return 0;
}

/* ---- both sides ---- */

static int begin(void **state)
{
    (void)state;
    CHECK(device_open(&card, &err));
    return 0;
}

static int end(void **state)
{
    (void)state;
    device_close(card);
#ifdef VENEER_CUDA_EMU
    emu_revive();
    emu_set_device(&emu_default_device);
    return emu_live() == 0 ? 0 : -1; /* nothing that a test made is left */
#else
    return 0;
#endif
}

struct sides {
    struct inference here, there;
};

static void open_sides(struct sides *s, const char *path, const char *with, size_t rows)
{
    struct inference *each[] = {&s->here, &s->there};
    for (int i = 0; i < 2; i++) {
        CHECK(inference_open(each[i], path, &(struct inference_options){.adapter = with, .device = i ? card : NULL, .threads = 1}, &err));
        if (rows)
            CHECK(inference_place(each[i], rows, &err));
    }
}

static void close_sides(struct sides *s)
{
    inference_close(&s->here);
    inference_close(&s->there);
}

static void open_generator(struct generator *g, const struct inference *in, enum format cache_type)
{
    CHECK(generator_open(g, &in->model, inference_lora(in), CONTEXT, cache_type, &in->ops, &err));
}

/* |got - want| <= bound times the largest |want|; NaN fails. */
static void near(const char *what, const real *got, const real *want, size_t n, double bound)
{
    double size = 0;
    for (size_t i = 0; i < n; i++)
        size = fmax(size, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= bound * size))
            fail_msg("%s: logit %zu is %.9g, want %.9g within %g", what, i, (double)got[i], (double)want[i], bound * size);
}

/* What two generators hold. */
static void near_generators(const char *what, const struct generator *got, const struct generator *want, double bound)
{
    size_t V = (size_t)want->model->config.vocab_size;
    real *a = malloc(V * sizeof *a), *b = malloc(V * sizeof *b);
    assert_true(a && b);
    CHECK(generator_logits(got, a, &err));
    CHECK(generator_logits(want, b, &err));
    near(what, a, b, V, bound);
    free(a);
    free(b);
}

static void encode(const char *text, struct tokens *ids)
{
    CHECK(tokens_push(ids, tokenizer_bos(tokenizer), &err));
    CHECK(tokenizer_encode(tokenizer, text, strlen(text), false, ids, &err));
}

/* ---- text ---- */

static const char prompt[] = "The snow fox eats what the army spoon is made of, and Tom Reed lives in a house.";

/* A prompt at once on both sides, then the likeliest tokens; and the same prompt on the device in pieces of several sizes. */
static void text_in(enum format cache_type)
{
    double bound = logit_bound + (cache_type == FORMAT_F16 ? f16_bound : 0);
    static const size_t pieces[] = {1, 3, 9, 2};
    struct sides s;
    struct generator here, there, cut;
    struct tokens ids = {0};
    open_sides(&s, folder, adapter, 0);
    assert_true(s.there.ops.ops == device_ops() && s.there.ops.device == card && !s.there.model.layer[0].linear[0].panels);
    open_generator(&here, &s.here, cache_type);
    open_generator(&there, &s.there, cache_type);
    open_generator(&cut, &s.there, cache_type);
    encode(prompt, &ids);
    assert_true(ids.n > 16 && ids.n < CONTEXT - 12);
    CHECK(generator_feed(&here, ids.id, ids.n, &err));
    CHECK(generator_feed(&there, ids.id, ids.n, &err));
    for (size_t i = 0, at = 0; at < ids.n; i++) {
        size_t n = i < 4 ? pieces[i] : ids.n - at;
        CHECK(generator_feed(&cut, ids.id + at, n, &err));
        at += n;
    }
    near_generators("the prompt in pieces", &cut, &there, 2 * bound);
    for (int i = 0; i < 12; i++) {
        int32_t token, same;
        CHECK(generator_sample(&here, &token, &err));
        CHECK(generator_sample(&there, &same, &err));
        near_generators("a token", &there, &here, bound);
        assert_int_equal(same, token);
        CHECK(generator_feed(&here, &token, 1, &err));
        CHECK(generator_feed(&there, &token, 1, &err));
    }
    assert_memory_equal(there.held, here.held, here.cache.n * sizeof *here.held);
    struct err full = {""};
    static const int32_t many[CONTEXT];
    assert_refused(generator_feed(&there, many, CONTEXT, &full), ERR_INPUT, &full, "", "the context of 48 tokens is full");
    tokens_free(&ids);
    generator_close(&here);
    generator_close(&there);
    generator_close(&cut);
    close_sides(&s);
}

static void text_is_the_cpus(void **state)
{
    (void)state;
    text_in(FORMAT_F16);
    text_in(FORMAT_F32);
}

/* Superblocks go to the device as they lie in the file. */
static void formats_of_files_alone(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, 50, 700, 3, 999};
    struct sides s;
    struct generator here, there;
    open_sides(&s, blocks, NULL, 0);
    assert_true(s.there.model.embed.format == FORMAT_Q4_K && s.there.model.head.format == FORMAT_Q6_K);
    assert_true(s.there.weights.size < s.here.weights.size); /* no room for panels */
    open_generator(&here, &s.here, FORMAT_F32);
    open_generator(&there, &s.there, FORMAT_F32);
    for (int i = 0; i < 2; i++) {
        CHECK(generator_feed(&here, ids + 4 * i, i ? 1 : 4, &err));
        CHECK(generator_feed(&there, ids + 4 * i, i ? 1 : 4, &err));
        near_generators("superblocks", &there, &here, 3 * 256 * 16 * 0x1p-24); /* as above, n <= 256, one layer */
    }
    generator_close(&here);
    generator_close(&there);
    close_sides(&s);
}

/* ---- evaluation ---- */

static void both_answer(struct sides *s, const char *name, const char *from, size_t n)
{
    struct task task;
    struct evaluate_set *set[2];
    struct evaluate_result r[2];
    const struct evaluate_sample *sample[2];
    CHECK(task_load(&task, name, from, &err));
    for (int i = 0; i < 2; i++) {
        struct inference *in = i ? &s->there : &s->here;
        CHECK(evaluate_prepare(&set[i], &task, NULL, n, in->tokenizer, &in->model.config, &(struct evaluate_options){0}, &err));
        CHECK(evaluate_run(set[i], 1, &in->run, &in->model, inference_lora(in), &r[i], &sample[i], &err));
    }
    for (size_t k = 0; k < n; k++) {
        for (int c = 0; c < sample[0][k].n_choices; c++) {
            double got = sample[1][k].loglikelihood[c], want = sample[0][k].loglikelihood[c];
            if (!(fabs(got - want) <= score_bound * (1 + fabs(want))))
                fail_msg("%s, document %zu, choice %d: %.9g, want %.9g", name, k, c, got, want);
        }
        if (sample[0][k].answer)
            assert_string_equal(sample[1][k].answer->written, sample[0][k].answer->written);
        assert_int_equal(sample[1][k].acc, sample[0][k].acc);
    }
    evaluate_free(set[0]);
    evaluate_free(set[1]);
    task_free(&task);
}

/* The choices of a document over their shared prefix; answers that are written. */
static void scores_are_the_cpus(void **state)
{
    (void)state;
    static const char *const tasks[] = {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"};
    struct sides s;
    open_sides(&s, folder, adapter, ROWS);
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        both_answer(&s, tasks[i], "data/world", 1);
    both_answer(&s, "own", dir, 2);
    close_sides(&s);
}

static void near_number(const char *what, double got, double want)
{
    if (!(fabs(got - want) <= score_bound * (1 + fabs(want))))
        fail_msg("%s: %.9g, want %.9g", what, got, want);
}

static void same_divergences(const struct evaluate_divergences *got, const struct evaluate_divergences *want)
{
    assert_true(want->kl > 0.01 && want->jsd > 0.001);
    near_number("kl", got->kl, want->kl);
    near_number("jsd", got->jsd, want->jsd);
    assert_int_equal(got->tokens, want->tokens);
}

/* Perplexity; the model with its adapter against the one without: on a text, and with what the reference says kept. */
static void text_is_scored_alike(void **state)
{
    (void)state;
    enum { SEQUENCES = 3 };
    struct sides s, bare;
    struct evaluate_divergences d[2], kept[2];
    double perplexity[2];
    size_t scored;
    int32_t tokens[SEQUENCES * WINDOW];
    struct example example[SEQUENCES];
    struct rng rng = {.seed = 4, .stream = RNG_WORLD};
    for (int i = 0; i < SEQUENCES * WINDOW; i++)
        tokens[i] = (int32_t)rng_below(&rng, (uint32_t)tokenizer_vocab_size(tokenizer));
    for (int i = 0; i < SEQUENCES; i++)
        example[i] = (struct example){.tokens = tokens + i * WINDOW, .n = WINDOW - i};
    const struct dataset text = {.example = example, .n = SEQUENCES};
    open_sides(&s, folder, adapter, 2 * WINDOW);
    open_sides(&bare, folder, NULL, 2 * WINDOW);
    for (int i = 0; i < 2; i++) {
        struct inference *in = i ? &s.there : &s.here, *of = i ? &bare.there : &bare.here;
        struct evaluate_reference *reference;
        CHECK(evaluate_perplexity(&in->run, &in->model, inference_lora(in), tokens, SEQUENCES * WINDOW, WINDOW, &perplexity[i], &scored, &err));
        CHECK(evaluate_divergence(&in->run, &in->model, inference_lora(in), &of->run, &of->model, NULL, tokens, SEQUENCES * WINDOW, WINDOW, &d[i], &err));
        CHECK(evaluate_reference_new(&reference, &text, 0, &of->run, &of->model, &err));
        CHECK(evaluate_against(reference, 1, &in->run, &in->model, inference_lora(in), &kept[i], &err));
        evaluate_reference_free(reference);
    }
    near_number("log perplexity", log(perplexity[1]), log(perplexity[0]));
    near_number("nll", d[1].nll, log(perplexity[0]));
    near_number("the reference's nll", d[1].reference_nll, d[0].reference_nll);
    same_divergences(&d[1], &d[0]);
    same_divergences(&kept[1], &kept[0]);
    near_number("variance of kl", kept[1].kl_variance, kept[0].kl_variance);
    close_sides(&s);
    close_sides(&bare);
}

#ifdef VENEER_CUDA_EMU
/* ---- what goes wrong ---- */

/* Opens the model and makes a few tokens. */
static enum status make_tokens(struct err *err)
{
    static const int32_t ids[] = {1, 50, 70, 3, 99, 4, 5, 6, 7, 8};
    struct inference in;
    struct generator g = {0};
    int32_t token;
    enum status status = inference_open(&in, folder, &(struct inference_options){.adapter = adapter, .device = card, .threads = 1}, err);
    if (status == OK)
        status = generator_open(&g, &in.model, inference_lora(&in), CONTEXT, FORMAT_F16, &in.ops, err);
    if (status == OK)
        status = generator_feed(&g, ids, 10, err);
    if (status == OK)
        status = generator_feed(&g, ids, 1, err);
    if (status == OK)
        status = generator_sample(&g, &token, err);
    generator_close(&g);
    inference_close(&in);
    return status;
}

/* Any call may be the one at which the device goes: while weights are uploaded, memory is taken, a prompt is read, a token is made.  The sentence names the device, and
 * nothing is left of the model. */
static void a_device_that_fails(void **state)
{
    (void)state;
    enum { PLACES = 7 };
    emu_calls(1);
    CHECK(make_tokens(&err));
    long calls = emu_calls(1);
    assert_true(calls > 100);
    for (long i = 0; i < PLACES; i++) {
        struct err said = {""};
        emu_fail(1 + i * (calls - 2) / (PLACES - 1), 1);
        assert_int_equal(make_tokens(&said), ERR_FAILED);
        assert_non_null(emu_failed());
        if (!strstr(said.text, "the GPU emulated device "))
            fail_msg("%s", said.text);
        device_close(card);
        card = NULL;
        emu_revive();
        assert_int_equal(emu_live(), 0);
        CHECK(device_open(&card, &err));
    }
}

/* Both numbers are said, at the weights before any is read, and at the context behind them. */
static void too_little_memory(void **state)
{
    (void)state;
    struct emu_device small = emu_default_device;
    struct inference in;
    char want[256];
    struct err said = {""};
    size_t total, available, all;
    CHECK(device_memory(card, &total, &available, &err));
    CHECK(inference_open(&in, folder, &(struct inference_options){.device = card, .threads = 1}, &err));
    all = in.weights.size;
    size_t context = generator_bytes(&in.model, 0, CONTEXT, FORMAT_F16, &in.ops), taken;
    inference_close(&in);
    small.memory = total - available + all - 256;
    emu_set_device(&small);
    assert_int_equal(inference_open(&in, folder, &(struct inference_options){.device = card, .threads = 1}, &said), ERR_MEMORY);
    snprintf(want, sizeof want, "weights: the GPU emulated device has %zu of its %zu bytes free, want %zu or device = cpu", all - 256, small.memory, all);
    assert_string_equal(said.text, want);
    inference_close(&in);
    emu_set_device(&emu_default_device);
    CHECK(inference_open(&in, folder, &(struct inference_options){.device = card, .threads = 1}, &err));
    CHECK(device_memory(card, &total, &available, &err));
    taken = total - available;
    small.memory = taken + context / 2;
    emu_set_device(&small);
    struct generator g;
    assert_int_equal(generator_open(&g, &in.model, NULL, CONTEXT, FORMAT_F16, &in.ops, &said), ERR_MEMORY);
    snprintf(want, sizeof want, "the context: the GPU emulated device has %zu of its %zu bytes free, want %zu or device = cpu", context / 2, small.memory, context);
    assert_string_equal(said.text, want);
    generator_close(&g);
    inference_close(&in);
}
#endif

#define ON_DEVICE(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DEVICE(text_is_the_cpus), ON_DEVICE(formats_of_files_alone), ON_DEVICE(scores_are_the_cpus), ON_DEVICE(text_is_scored_alike),
#ifdef VENEER_CUDA_EMU
        ON_DEVICE(a_device_that_fails), ON_DEVICE(too_little_memory),
#endif
    };
    return cmocka_run_group_tests_name("inference_cuda", tests, setup, teardown);
}
