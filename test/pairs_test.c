/* pairs_test.c: the variance of scores whose trials answer the same documents.  What a user would miss: a search that takes for noise what is only how hard
 * the questions are, or for signal what is luck. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "engine.h"

enum { EASY = 40, OPEN = 20, HARD = 40, N = EASY + OPEN + HARD, TRIALS = 2000 };

/* Easy documents are always right, hard ones never, open ones by a coin: scores of trials vary by the open ones alone, sqrt(20 / 4) / 100. */
static void only_luck_counts(void **state)
{
    (void)state;
    uint8_t right[N];
    uint32_t count[N] = {0};
    struct engine_pairs p = {.n = {N}, .n_tasks = 1, .n_documents = N, .count = count};
    double sum = 0, squares = 0;
    assert_true(engine_pairs_variance(&p) == 0);
    for (uint32_t t = 0; t < TRIALS; t++) {
        double score = 0;
        for (uint32_t d = 0; d < N; d++) {
            right[d] = d < EASY || (d < EASY + OPEN && rng_at(3, RNG_WORLD, t, d) & 1);
            score += right[d] / (double)N;
        }
        sum += score;
        squares += score * score;
        engine_pairs_add(&p, right);
    }
    double mean = sum / TRIALS, seen = squares / TRIALS - mean * mean, want = OPEN / 4.0 / (N * N), said = engine_pairs_variance(&p);
    assert_true(fabs(seen - want) < 5 * want * sqrt(2.0 / TRIALS)); /* a variance of n values is off by sqrt(2 / n) of it */
    /* p (1 - p) of a coin's estimated p is low by 1 / n of it; Jeffreys' prior adds 0.5 / n for each of the other 80 documents */
    assert_true(fabs(said - want) <= want * 10 / TRIALS + 0.5 / TRIALS * (EASY + HARD) / (N * N));
    assert_true(said < 0.25 / N / 4); /* a quarter of what the binomial would say */
}

/* Two tasks count alike however many documents each has; one trial alone knows nothing and says nearly the binomial's most, 3/16 a document. */
static void tasks_count_alike(void **state)
{
    (void)state;
    uint8_t right[110] = {0};
    uint32_t count[110] = {0};
    struct engine_pairs p = {.n = {10, 100}, .n_tasks = 2, .n_documents = 110, .count = count};
    engine_pairs_add(&p, right);
    double want = (3.0 / 16 / 10 + 3.0 / 16 / 100) / 4;
    assert_true(fabs(engine_pairs_variance(&p) - want) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_luck_counts), cmocka_unit_test(tasks_count_alike)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
