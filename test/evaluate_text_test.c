/* evaluate_text_test.c: measures of a text: perplexity by windows, and how far a model's probabilities are from another's, by their definitions. */
#include "evaluate_bench.h"

#include <math.h>

#include "evaluate.h"

enum { TEXT_N = 70, WINDOW = 16 };

static void make_text(const struct bench *b, int32_t tokens[TEXT_N])
{
    for (int i = 0; i < TEXT_N; i++)
        tokens[i] = (int32_t)(rng_at(2, RNG_WORLD, 0, (uint64_t)i) % (uint32_t)tokenizer_vocab_size(b->tokenizer));
}

static void perplexity_by_windows(void **state)
{
    struct bench *b = *state;
    struct err err;
    int32_t tokens[TEXT_N];
    double perplexity, sum = 0;
    size_t scored;
    make_text(b, tokens);
    for (int w = 0; w < TEXT_N / WINDOW; w++)
        sum += log_likelihood(b, tokens + w * WINDOW, WINDOW, 1);
    ASSERT_OK(evaluate_perplexity(&b->toy.run, &b->toy.model, NULL, tokens, TEXT_N, WINDOW, &perplexity, &scored, &err));
    assert_int_equal(scored, TEXT_N / WINDOW * (WINDOW - 1));
    assert_true(fabs(log(perplexity) + sum / (double)scored) <= 1e-12); /* the same sums of doubles, divided once */
    assert_int_equal(evaluate_perplexity(&b->toy.run, &b->toy.model, NULL, tokens, WINDOW - 1, WINDOW, &perplexity, &scored, &err),
                     ERR_INPUT);
    assert_non_null(strstr(err.text, "the text has 15 tokens, a window 16"));
}

/* Log-probabilities of every row of a window, in double from the model's logits. */
static void log_probabilities(struct bench *b, const struct model *model, const int32_t *tokens, double *out)
{
    struct err err;
    int32_t positions[WINDOW], labels[WINDOW];
    const real *x;
    size_t V = (size_t)model->config.vocab_size;
    real *logits = malloc(WINDOW * V * sizeof *logits);
    assert_non_null(logits);
    for (int t = 0; t < WINDOW; t++) {
        positions[t] = t;
        labels[t] = -1;
    }
    struct segment segment = {.len = WINDOW};
    struct batch batch = {.n = WINDOW, .tokens = tokens, .positions = positions, .labels = labels, .segments = &segment, .n_segments = 1};
    ASSERT_OK(model_hidden(&b->toy.run, model, NULL, &batch, &x, &err));
    model_logits(&b->toy.run, model, x, WINDOW, logits);
    for (size_t t = 0; t < WINDOW; t++) {
        double sum = 0;
        for (size_t i = 0; i < V; i++)
            sum += exp((double)logits[t * V + i]);
        for (size_t i = 0; i < V; i++)
            out[t * V + i] = (double)logits[t * V + i] - log(sum);
    }
    free(logits);
}

static void divergence_by_its_definition(void **state)
{
    struct bench *b = *state;
    struct err err;
    struct toy other;
    int32_t tokens[TEXT_N];
    struct evaluate_divergences there, back, same;
    double want_kl = 0, want_jsd = 0, most_kl = 0, most_jsd = 0, perplexity[2];
    size_t scored, V = (size_t)tokenizer_vocab_size(b->tokenizer);
    make_text(b, tokens);
    toy_open(&other, (int32_t)V, FORMAT_F32, 0, WINDOW, 2); /* the same weights, its head left small */
    struct model *p = &other.model, *q = &b->toy.model;
    double *lp = malloc(WINDOW * V * sizeof *lp), *lq = malloc(WINDOW * V * sizeof *lq);
    assert_true(lp && lq);
    for (int w = 0; w < TEXT_N / WINDOW; w++) {
        log_probabilities(b, p, tokens + w * WINDOW, lp);
        log_probabilities(b, q, tokens + w * WINDOW, lq);
        for (size_t i = 0; i < (WINDOW - 1) * V; i++) {
            double m = log(0.5 * (exp(lp[i]) + exp(lq[i])));
            /* exponentials and their sums in single precision are within 8 roundings, quotients of two within 18, logarithms within 18 and 2 of their own */
            double rounding = ldexp(1, -24) * (60 + 12 * fabs(lp[i] - lq[i]));
            most_kl += rounding * exp(lp[i]);
            most_jsd += rounding * exp(m);
            want_kl += exp(lp[i]) * (lp[i] - lq[i]);
            want_jsd += 0.5 * exp(lp[i]) * (lp[i] - m) + 0.5 * exp(lq[i]) * (lq[i] - m);
        }
    }
    double n = TEXT_N / WINDOW * (WINDOW - 1);
    ASSERT_OK(evaluate_divergence(&b->toy.run, q, NULL, &b->toy.run, p, NULL, tokens, TEXT_N, WINDOW, &there, &err));
    assert_true(fabs(there.kl - want_kl / n) <= most_kl / n && there.kl > 0);
    assert_true(fabs(there.jsd - want_jsd / n) <= most_jsd / n && there.jsd > 0 && there.jsd <= log(2));
    ASSERT_OK(evaluate_divergence(&b->toy.run, p, NULL, &b->toy.run, q, NULL, tokens, TEXT_N, WINDOW, &back, &err));
    assert_true(fabs(there.jsd - back.jsd) <= 2 * most_jsd / n);
    assert_true(fabs(there.kl - back.kl) > 1e-3); /* KL has a direction: from the reference */
    ASSERT_OK(evaluate_divergence(&b->toy.run, q, NULL, &b->toy.run, q, NULL, tokens, TEXT_N, WINDOW, &same, &err));
    assert_true(same.kl == 0 && same.jsd >= 0 && same.jsd <= 1e-12);
    /* the perplexities beside it are those of the models: means of logarithms, each a sum of exponentials within 8 roundings and a logit */
    ASSERT_OK(evaluate_perplexity(&b->toy.run, q, NULL, tokens, TEXT_N, WINDOW, &perplexity[0], &scored, &err));
    ASSERT_OK(evaluate_perplexity(&b->toy.run, p, NULL, tokens, TEXT_N, WINDOW, &perplexity[1], &scored, &err));
    assert_int_equal(there.tokens, scored);
    assert_true(fabs(there.nll - log(perplexity[0])) <= ldexp(60, -24) * (1 + there.nll));
    assert_true(fabs(there.reference_nll - log(perplexity[1])) <= ldexp(60, -24) * (1 + there.reference_nll));
    free(lp);
    free(lq);
    toy_close(&other);
}

/* Many models against one: the first one's divergences are those of evaluate_divergence, whatever a batch holds; a share looks at the first sequences. */
static void reference_is_kept(void **state)
{
    struct bench *b = *state;
    struct err err;
    struct toy other;
    enum { SEQUENCES = TEXT_N / WINDOW };
    int32_t tokens[TEXT_N];
    make_text(b, tokens);
    struct example example[SEQUENCES];
    for (int i = 0; i < SEQUENCES; i++)
        example[i] = (struct example){.tokens = tokens + i * WINDOW, .n = WINDOW};
    struct dataset text = {.example = example, .n = SEQUENCES};
    toy_open(&other, (int32_t)tokenizer_vocab_size(b->tokenizer), FORMAT_F32, 0, WINDOW, 2);
    struct evaluate_reference *reference;
    struct evaluate_divergences all, first, itself, want;
    ASSERT_OK(evaluate_reference_new(&reference, &text, 0, &other.run, &other.model, &err));
    ASSERT_OK(evaluate_against(reference, 1, &b->toy.run, &b->toy.model, NULL, &all, &err));
    ASSERT_OK(evaluate_divergence(&b->toy.run, &b->toy.model, NULL, &other.run, &other.model, NULL, tokens, TEXT_N, WINDOW, &want, &err));
    assert_true(fabs(all.kl - want.kl) <= 1e-6 * want.kl && fabs(all.jsd - want.jsd) <= 1e-6 * want.jsd && all.tokens == SEQUENCES * WINDOW);
    ASSERT_OK(evaluate_divergence(&b->toy.run, &b->toy.model, NULL, &other.run, &other.model, NULL, tokens, WINDOW, WINDOW, &want, &err));
    ASSERT_OK(evaluate_against(reference, 0.01, &b->toy.run, &b->toy.model, NULL, &first, &err));
    assert_true(fabs(first.kl - want.kl) <= 1e-6 * want.kl && first.kl_variance == 0 && all.kl_variance > 0);
    ASSERT_OK(evaluate_against(reference, 1, &other.run, &other.model, NULL, &itself, &err));
    assert_true(itself.kl == 0 && itself.jsd == 0);
    evaluate_reference_free(reference);
    text.n = 0;
    assert_int_equal(evaluate_reference_new(&reference, &text, 0, &other.run, &other.model, &err), ERR_INPUT);
    assert_string_equal(err.text, "no text to measure divergence on");
    toy_close(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_by_windows),        cmocka_unit_test(divergence_by_its_definition),
        cmocka_unit_test(reference_is_kept),
    };
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
