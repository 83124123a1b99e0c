/* A trained model, whole: stories260K (llama2.c's file and vocabulary) continues as llama2.c itself printed it; sampling, characters, chat.
 *
 * The model lies beside this repository (../shared/data/models/stories260K) or where VENEER_STORIES says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "generate.h"
#include "inference.h"
#include "io/tokenizer.h"

#define CHECK(call)                                                       \
    do {                                                                  \
        struct err err = {""};                                            \
        enum status status_ = (call);                                     \
        if (status_ != OK)                                                \
            fail_msg("%s: status %d, %s", #call, (int)status_, err.text); \
    } while (0)

/* Skips the test that calls it when the folder is not there. */
static const char *stories(char path[512], const char *name)
{
    const char *dir = getenv("VENEER_STORIES");
    snprintf(path, 512, "%s/%s", dir && *dir ? dir : "../shared/data/models/stories260K", name);
    if (access(path, R_OK) != 0)
        skip();
    return path;
}

static void continue_greedily(const struct model *model, const struct tokenizer *tokenizer, int threads, struct text *out)
{
    enum { N = 200 };
    struct generator g;
    struct text_stream stream = {0};
    const struct ops_context ops = {.ops = cpu_ops(false), .threads = threads};
    int32_t token = tokenizer_bos(tokenizer);
    CHECK(text_stream_start(&stream, tokenizer, &token, 1, &err));
    CHECK(generator_open(&g, model, NULL, N + 1, FORMAT_F32, &ops, &err));
    for (int i = 0; i < N; i++) {
        CHECK(generator_feed(&g, &token, 1, &err));
        CHECK(generator_sample(&g, &token, &err));
        if (token == tokenizer_bos(tokenizer) || generator_is_end(&g, token))
            break;
        CHECK(text_stream_add(&stream, token, out, &err));
    }
    CHECK(text_stream_end(&stream, out, &err));
    text_stream_free(&stream);
    generator_close(&g);
}

static void test_continues_as_llama2c(void **state)
{
    (void)state;
    char path[512], *want;
    size_t n;
    struct inference in;
    CHECK(file_read(stories(path, "expected_t0_n200.txt"), 1 << 20, &want, &n, &err));
    CHECK(inference_open(&in, stories(path, "stories260K.bin"), &(struct inference_options){.threads = 1}, &err));
    const struct tokenizer *tokenizer = in.tokenizer;
    for (int threads = 1; threads <= 2; threads++) {
        struct text got = {0};
        continue_greedily(&in.model, tokenizer, threads, &got);
        text_puts(&got, "\n");
        assert_string_equal(got.s, want);
        text_free(&got);
    }
    free(want);
    inference_close(&in);
}

/* A prompt fed at once gives what it gives token by token. */
static void test_prompt_in_pieces(void **state)
{
    (void)state;
    char path[512];
    struct inference in;
    struct tokens tokens = {0};
    struct generator g;
    static const char prompt[] = "Once upon a time, there was a dog who liked to run in the park and";
    int32_t all[24], single[24];
    CHECK(inference_open(&in, stories(path, "stories260K.bin"), &(struct inference_options){.threads = 1}, &err));
    const struct tokenizer *tokenizer = in.tokenizer;
    CHECK(tokens_push(&tokens, tokenizer_bos(tokenizer), &err));
    CHECK(tokenizer_encode(tokenizer, prompt, sizeof prompt - 1, false, &tokens, &err));
    for (int way = 0; way < 2; way++) {
        CHECK(generator_open(&g, &in.model, NULL, 128, FORMAT_F16, &in.ops, &err));
        for (size_t i = 0; i < tokens.n; i += way ? 1 : tokens.n)
            CHECK(generator_feed(&g, tokens.id + i, way ? 1 : tokens.n, &err));
        for (int i = 0; i < 24; i++) {
            int32_t token;
            CHECK(generator_sample(&g, &token, &err));
            (way ? single : all)[i] = token;
            CHECK(generator_feed(&g, &token, 1, &err));
        }
        generator_close(&g);
    }
    assert_memory_equal(all, single, sizeof all);
    tokens_free(&tokens);
    inference_close(&in);
}

/* ---- sampling ---- */

static int32_t next_of_four(struct sampler *s, const real logits[4])
{
    int32_t token = -1;
    struct ops_context c = {.ops = cpu_ops(false), .threads = 1};
    real *scratch = calloc(c.ops->scratch_size(&c, 1, 1, 1, 1, 4), sizeof *scratch);
    assert_non_null(scratch);
    c.scratch = scratch;
    sampler_next(s, &c, logits, 4, &token);
    free(scratch);
    return token;
}

static void test_sampling(void **state)
{
    (void)state;
    real logits[4] = {(real)log(0.1), (real)log(0.4), (real)log(0.2), (real)log(0.3)};
    struct sampler s = {.top_p = 1, .temperature = 0, .rng = {.seed = 4, .stream = RNG_SAMPLE}};
    assert_int_equal(next_of_four(&s, logits), 1);
    s.temperature = 1;
    enum { DRAWS = 40000 };
    int count[4] = {0};
    for (int i = 0; i < DRAWS; i++)
        count[next_of_four(&s, logits)]++;
    /* five deviations of a binomial number */
    static const double p[4] = {0.1, 0.4, 0.2, 0.3};
    for (int v = 0; v < 4; v++)
        assert_true(fabs(count[v] - DRAWS * p[v]) <= 5 * sqrt(DRAWS * p[v] * (1 - p[v])));
    /* the two likeliest, 4 : 3 */
    s.top_k = 2;
    int first = 0;
    for (int i = 0; i < DRAWS; i++) {
        int32_t v = next_of_four(&s, logits);
        assert_true(v == 1 || v == 3);
        first += v == 1;
    }
    assert_true(fabs(first - DRAWS * 4.0 / 7) <= 5 * sqrt(DRAWS * 12.0 / 49));
    /* 0.4 + 0.3 reach 0.65 */
    s.top_k = 0;
    s.top_p = 0.65;
    for (int i = 0; i < 1000; i++) {
        int32_t v = next_of_four(&s, logits);
        assert_true(v == 1 || v == 3);
    }
    s.top_p = 1e-9;
    for (int i = 0; i < 100; i++)
        assert_int_equal(next_of_four(&s, logits), 1);
    /* cold enough is greedy; equal logits rank by id */
    s.top_p = 1;
    s.temperature = 1e-3;
    assert_int_equal(next_of_four(&s, logits), 1);
    logits[3] = logits[1];
    s.top_k = 1;
    assert_int_equal(next_of_four(&s, logits), 1);
    /* same seed, same draws */
    struct sampler a = {.top_p = 0.9, .temperature = 2, .rng = {.seed = 8, .stream = RNG_SAMPLE}}, b = a;
    for (int i = 0; i < 100; i++) {
        int32_t v = next_of_four(&a, logits);
        assert_int_equal(v, next_of_four(&b, logits));
    }
}

/* ---- characters ---- */

/* A vocabulary of bytes: characters come whole, however many tokens they take, and broken ones do not stop the rest. */
static void test_characters(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *want;
    } cases[] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80!", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80!"},
        {"a\xC3", "a\xEF\xBF\xBD"},
        {"\x80\x80\x80\x80\x80\x80\x80\x80z", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                                               "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz"},
    };
    char path[512];
    struct tokenizer *tokenizer;
    CHECK(tokenizer_load_llama2c(&tokenizer, stories(path, "tok512.bin"), 512, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text_stream stream = {0};
        struct text out = {0}, piece = {0};
        int32_t before = tokenizer_find(tokenizer, "<0x41>");
        assert_true(before >= 0);
        CHECK(text_stream_start(&stream, tokenizer, &before, 1, &err));
        for (const char *p = cases[i].bytes; *p; p++) {
            char name[8];
            snprintf(name, sizeof name, "<0x%02X>", (unsigned char)*p);
            text_clear(&piece);
            CHECK(text_stream_add(&stream, tokenizer_find(tokenizer, name), &piece, &err));
            text_add(&out, piece.s ? piece.s : "", piece.n);
            /* nothing comes out in halves: all that is out begins the text that is wanted */
            assert_memory_equal(out.s ? out.s : "", cases[i].want, out.n);
        }
        CHECK(text_stream_end(&stream, &out, &err));
        assert_string_equal(out.s, cases[i].want);
        text_stream_free(&stream);
        text_free(&out);
        text_free(&piece);
    }
    tokenizer_free(tokenizer);
}

/* A template that writes the last message in another way than the earlier ones: part of the context is taken back. */
static const char talk_template[] = "{{ bos_token }}{% for m in messages %}{{ 'Now: ' if loop.last else '' }}{{ m.content ~ '\n' }}{% endfor %}";

static void answer(struct conversation *talk, struct generator *g, const struct tokenizer *tokenizer, bool afresh, struct text *out)
{
    size_t fed;
    if (afresh)
        g->cache.n = 0;
    CHECK(conversation_feed(talk, g, &fed, &err));
    assert_true(afresh || talk->n < 3 || fed < g->cache.n);
    struct text_stream stream = {0};
    text_clear(out);
    CHECK(text_stream_start(&stream, tokenizer, g->held, g->cache.n, &err));
    for (int i = 0; i < 12; i++) {
        int32_t token;
        CHECK(generator_sample(g, &token, &err));
        if (conversation_is_end(talk, g, token))
            break;
        CHECK(text_stream_add(&stream, token, out, &err));
        CHECK(generator_feed(g, &token, 1, &err));
    }
    CHECK(text_stream_end(&stream, out, &err));
    text_stream_free(&stream);
    CHECK(conversation_say(talk, "assistant", out->s, &err));
}

/* What the context keeps from turn to turn changes no answer. */
static void test_conversation(void **state)
{
    (void)state;
    static const char *const lines[] = {"Once upon a time, there was a dog.", "The dog saw a cat.", "The end came."};
    char path[512], *said[3];
    struct inference in;
    struct text out = {0};
    CHECK(inference_open(&in, stories(path, "stories260K.bin"), &(struct inference_options){.threads = 1}, &err));
    for (int afresh = 0; afresh < 2; afresh++) {
        struct chat_template *template;
        struct conversation talk;
        struct generator g;
        CHECK(chat_template_open(&template, talk_template, "the template", in.tokenizer, &err));
        CHECK(conversation_open(&talk, template, &err));
        CHECK(generator_open(&g, &in.model, NULL, 256, FORMAT_F16, &in.ops, &err));
        for (int i = 0; i < 3; i++) {
            CHECK(conversation_say(&talk, "user", lines[i], &err));
            answer(&talk, &g, in.tokenizer, afresh, &out);
            if (afresh)
                assert_string_equal(out.s, said[i]);
            else
                said[i] = strdup(out.s);
        }
        generator_close(&g);
        conversation_free(&talk);
        chat_template_free(template);
    }
    for (int i = 0; i < 3; i++)
        free(said[i]);
    text_free(&out);
    inference_close(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continues_as_llama2c), cmocka_unit_test(test_prompt_in_pieces), cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_characters),           cmocka_unit_test(test_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
