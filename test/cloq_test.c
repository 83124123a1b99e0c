/* cloq_test.c: no adapter of that rank leaves less error of the outputs; an error of that rank is made up for in full; with inputs that are alike it is
 * LoftQ's; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/linalg.h"
#include "cloq.h"
#include "refused.h"
#include "toy.h"

enum { OUT = 24, IN = 30, RANK = 4 };
static const double DAMP = 0.01;

struct problem {
    struct cloq cloq;
    struct gram gram;
    double H[IN * IN], abs_sum[IN];
    real W[OUT * IN], Q[OUT * IN], A[RANK * IN], B[OUT * RANK];
};

/* Inputs that hang together and differ in size; an error without structure. */
static void problem_make(struct problem *p)
{
    struct rng rng = {.seed = 6, .stream = RNG_WORLD};
    memset(p, 0, sizeof *p);
    p->cloq = (struct cloq){.out = OUT, .in = IN, .r = RANK, .s = 2, .damp = DAMP};
    p->gram = (struct gram){.in = IN, .n = 100, .H = p->H, .abs_sum = p->abs_sum};
    for (size_t t = 0; t < 100; t++) {
        double x[IN], common = rng_normal(&rng);
        for (size_t i = 0; i < IN; i++)
            x[i] = (rng_normal(&rng) + common) * (i % 5 == 1 ? 4 : 1);
        for (size_t i = 0; i < IN * IN; i++)
            p->H[i] += x[i / IN] * x[i % IN];
    }
    for (size_t i = 0; i < OUT * IN; i++) {
        p->W[i] = (real)rng_normal(&rng);
        p->Q[i] = p->W[i] + (real)(0.1 * rng_normal(&rng));
    }
}

/* W - Q - s B A; r 0: without the adapter. */
static void residual(double *E, const struct problem *p, size_t r)
{
    for (size_t i = 0; i < OUT * IN; i++) {
        E[i] = (double)p->W[i] - (double)p->Q[i];
        for (size_t k = 0; k < r; k++)
            E[i] -= (double)p->cloq.s * (double)p->B[i / IN * RANK + k] * (double)p->A[k * IN + i % IN];
    }
}

/* tr(E H E^T) with H damped. */
static double energy(const struct problem *p, const double *E)
{
    double sum = 0, mean = 0;
    for (size_t i = 0; i < IN; i++)
        mean += p->H[i * IN + i] / IN;
    for (size_t r = 0; r < OUT; r++)
        for (size_t i = 0; i < IN; i++)
            for (size_t j = 0; j < IN; j++)
                sum += E[r * IN + i] * (p->H[i * IN + j] + (i == j) * DAMP * mean) * E[r * IN + j];
    return sum;
}

/* At the least error its derivatives vanish: steps of B and A any way raise it, in both directions. */
static void no_adapter_leaves_less(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    struct rng rng = {.seed = 7, .stream = RNG_WORLD};
    double E[OUT * IN], U[OUT * OUT], S[OUT], Vt[OUT * IN];
    problem_make(&p);
    ASSERT_OK(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err));
    residual(E, &p, RANK);
    double least = energy(&p, E);
    for (int k = 0; k < 200; k++) {
        struct problem q = p;
        for (size_t i = 0; i < RANK * IN; i++)
            q.A[i] += (real)(0.02 * rng_normal(&rng) * fabs((double)p.A[i]));
        for (size_t i = 0; i < OUT * RANK; i++)
            q.B[i] += (real)(0.02 * rng_normal(&rng) * fabs((double)p.B[i]));
        residual(E, &q, RANK);
        assert_true(energy(&q, E) > least);
    }
    residual(E, &p, 0);
    double without = energy(&p, E);
    ASSERT_OK(linalg_svd(E, OUT, IN, U, S, Vt, &err)); /* LoftQ: the best for the weights */
    for (size_t i = 0; i < RANK * IN; i++)
        p.A[i] = (real)(S[i / IN] * Vt[i] / (double)p.cloq.s);
    for (size_t i = 0; i < OUT * RANK; i++)
        p.B[i] = (real)U[i / RANK * OUT + i % RANK];
    residual(E, &p, RANK);
    double loftq = energy(&p, E);
    if (!(least < 0.8 * loftq && loftq < without))
        fail_msg("cloq leaves %g, loftq %g, of %g", least, loftq, without);
}

static void an_error_of_that_rank_is_made_up_for(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    struct rng rng = {.seed = 8, .stream = RNG_WORLD};
    double a[RANK * IN], b[OUT * RANK], E[OUT * IN];
    problem_make(&p);
    for (size_t i = 0; i < RANK * IN; i++)
        a[i] = rng_normal(&rng);
    for (size_t i = 0; i < OUT * RANK; i++)
        b[i] = rng_normal(&rng);
    for (size_t i = 0; i < OUT * IN; i++) {
        double sum = 0;
        for (size_t k = 0; k < RANK; k++)
            sum += b[i / IN * RANK + k] * a[k * IN + i % IN];
        p.W[i] = (real)sum;
        p.Q[i] = 0;
    }
    ASSERT_OK(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err));
    residual(E, &p, RANK);
    for (size_t i = 0; i < OUT * IN; i++)
        assert_true(fabs(E[i]) < 64 * (double)FLT_EPSILON); /* W's and the factors' own roundings, of numbers up to about 10 */
}

static void inputs_that_are_alike_or_never_there(void **state)
{
    (void)state;
    struct err err;
    for (int zero = 0; zero < 2; zero++) {
        struct problem p;
        double E[OUT * IN], U[OUT * OUT], S[OUT], Vt[OUT * IN];
        problem_make(&p);
        memset(p.H, 0, sizeof p.H);
        for (size_t i = 0; i < IN && !zero; i++)
            p.H[i * IN + i] = 3;
        residual(E, &p, 0);
        ASSERT_OK(linalg_svd(E, OUT, IN, U, S, Vt, &err));
        ASSERT_OK(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err));
        for (size_t i = 0; i < OUT * IN; i++) { /* s B A = U_r S_r V_r */
            double got = 0, want = 0;
            for (size_t k = 0; k < RANK; k++) {
                got += (double)p.cloq.s * (double)p.B[i / IN * RANK + k] * (double)p.A[k * IN + i % IN];
                want += U[i / IN * OUT + k] * S[k] * Vt[k * IN + i % IN];
            }
            assert_true(fabs(got - want) <= 8 * (double)FLT_EPSILON * S[0]);
        }
    }
}

static void what_has_no_adapter_is_said(void **state)
{
    (void)state;
    struct err err;
    struct problem p;
    problem_make(&p);
    p.cloq.r = 25;
    assert_refused(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err), ERR_INPUT, &err, "",
                   "cloq: rank 25 of a matrix of 24 x 30, want 1 to 24");
    p.cloq.r = RANK;
    p.cloq.s = 0;
    assert_refused(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err), ERR_INPUT, &err, "", "cloq: a scale of 0, want above 0");
    p.cloq.s = 1;
    p.cloq.damp = -1;
    assert_refused(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err), ERR_FAILED, &err, "", "cloq: damp = -1, want above 0");
    p.cloq.damp = DAMP;
    p.Q[2 * IN + 3] = INFINITY;
    assert_refused(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err), ERR_FAILED, &err, "",
                   "element [2, 3] of the error is -inf, want a finite number");
    p.Q[2 * IN + 3] = 0;
    p.H[0] = NAN;
    assert_refused(cloq_start(p.A, p.B, p.W, p.Q, &p.gram, &p.cloq, &err), ERR_DIVERGED, &err, "",
                   "calibration: input 0 of a linear is not finite");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_adapter_leaves_less),
        cmocka_unit_test(an_error_of_that_rank_is_made_up_for),
        cmocka_unit_test(inputs_that_are_alike_or_never_there),
        cmocka_unit_test(what_has_no_adapter_is_said),
    };
    linalg_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
