/* linalg_test.c: factorisations multiply back, bases are orthogonal, signs unique, and what cannot be factored is said. */
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
#include "base/rng.h"

static double *normals(size_t n, uint32_t step)
{
    struct rng rng = {.seed = 4, .stream = RNG_WORLD, .step = step};
    double *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal(&rng);
    return x;
}

static double *copied(const double *x, size_t n)
{
    return memcpy(malloc(n * sizeof *x), x, n * sizeof *x);
}

/* ---- singular values ---- */

struct svd {
    size_t rows, cols, k;
    double *W, *U, *S, *Vt;
};

static struct svd decompose(const double *W, size_t rows, size_t cols)
{
    size_t k = rows < cols ? rows : cols;
    struct svd s = {rows, cols, k, copied(W, rows * cols), malloc(rows * k * sizeof *W), malloc(k * sizeof *W), malloc(k * cols * sizeof *W)};
    struct err err;
    if (linalg_svd(s.W, rows, cols, s.U, s.S, s.Vt, &err) != OK)
        fail_msg("%s", err.text);
    return s;
}

static void svd_free(struct svd *s)
{
    free(s->W);
    free(s->U);
    free(s->S);
    free(s->Vt);
}

/* LAPACK promises a backward error of a modest multiple of eps * S[0]; the dimension bounds the multiple here. */
static double tolerance(const struct svd *s)
{
    return 8 * (double)(s->rows + s->cols) * DBL_EPSILON;
}

static void check_product(const struct svd *s, const double *W)
{
    for (size_t r = 0; r < s->rows; r++)
        for (size_t c = 0; c < s->cols; c++) {
            double sum = 0;
            for (size_t i = 0; i < s->k; i++)
                sum += s->U[r * s->k + i] * s->S[i] * s->Vt[i * s->cols + c];
            assert_true(fabs(sum - W[r * s->cols + c]) <= tolerance(s) * s->S[0]);
        }
}

static void check_orthogonal(const struct svd *s)
{
    for (size_t i = 0; i < s->k; i++)
        for (size_t j = 0; j < s->k; j++) {
            double u = 0, v = 0;
            for (size_t r = 0; r < s->rows; r++)
                u += s->U[r * s->k + i] * s->U[r * s->k + j];
            for (size_t c = 0; c < s->cols; c++)
                v += s->Vt[i * s->cols + c] * s->Vt[j * s->cols + c];
            assert_true(fabs(u - (i == j)) <= tolerance(s) && fabs(v - (i == j)) <= tolerance(s));
        }
}

static void check_order_and_signs(const struct svd *s)
{
    for (size_t i = 0; i < s->k; i++) {
        double most = 0;
        for (size_t c = 0; c < s->cols; c++)
            most = fabs(s->Vt[i * s->cols + c]) > fabs(most) ? s->Vt[i * s->cols + c] : most;
        assert_true(most > 0 && s->S[i] >= 0 && (i == 0 || s->S[i] <= s->S[i - 1]));
    }
}

static void svd_multiplies_back(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {1, 7}, {7, 1}, {5, 5}, {12, 33}, {33, 12}, {64, 80}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        size_t rows = shapes[k][0], cols = shapes[k][1];
        double *W = normals(rows * cols, (uint32_t)k);
        struct svd s = decompose(W, rows, cols);
        check_product(&s, W);
        check_orthogonal(&s);
        check_order_and_signs(&s);
        svd_free(&s);
        free(W);
    }
}

/* diag(3, -2) embedded in 2 x 3: S = 3, 2; the second pair takes the sign into U. */
static void svd_by_hand(void **state)
{
    (void)state;
    const double W[6] = {3, 0, 0, 0, -2, 0};
    struct svd s = decompose(W, 2, 3);
    assert_true(fabs(s.S[0] - 3) <= tolerance(&s) * 3 && fabs(s.S[1] - 2) <= tolerance(&s) * 3);
    assert_true(s.Vt[0] > 0.999 && s.Vt[4] > 0.999 && s.U[0] > 0.999 && s.U[3] < -0.999);
    svd_free(&s);
}

static void svd_of_low_rank_and_of_zero(void **state)
{
    (void)state;
    double *a = normals(20, 1), *b = normals(30, 2), W[600], zero[12] = {0};
    for (size_t r = 0; r < 20; r++)
        for (size_t c = 0; c < 30; c++)
            W[r * 30 + c] = a[r] * b[c];
    struct svd s = decompose(W, 20, 30);
    check_product(&s, W);
    check_orthogonal(&s);
    assert_true(s.S[0] > 1 && s.S[1] <= tolerance(&s) * s.S[0]);
    svd_free(&s);
    s = decompose(zero, 3, 4);
    check_orthogonal(&s);
    assert_true(s.S[0] == 0);
    svd_free(&s);
    free(a);
    free(b);
}

static void singular_values_alone_are_the_same(void **state)
{
    (void)state;
    double *W = normals(12 * 9, 3), S[9];
    struct svd s = decompose(W, 12, 9);
    struct err err;
    assert_int_equal(linalg_svd(W, 12, 9, NULL, S, NULL, &err), OK);
    for (int i = 0; i < 9; i++)
        assert_true(fabs(S[i] - s.S[i]) <= tolerance(&s) * s.S[0]);
    svd_free(&s);
    free(W);
}

static void svd_of_nan_is_refused(void **state)
{
    (void)state;
    double W[6] = {1, 2, NAN, 4, 5, 6}, U[4], S[2], Vt[6];
    struct err err;
    assert_int_equal(linalg_svd(W, 2, 3, U, S, Vt, &err), ERR_FAILED);
    assert_string_equal(err.text, "the SVD of 2 x 3 did not converge");
}

/* The leading k of W; NULL and err when refused. */
static enum status decompose_leading(struct svd *s, const double *W, size_t rows, size_t cols, size_t k, struct err *err)
{
    size_t n = rows < cols ? rows : cols;
    *s = (struct svd){rows, cols, k, copied(W, rows * cols), malloc(rows * k * sizeof *W), malloc(k * sizeof *W), malloc(k * cols * sizeof *W)};
    double *gram = malloc(n * n * sizeof *gram), *values = malloc(n * sizeof *values), *vectors = malloc(k * n * sizeof *vectors);
    enum status status = linalg_svd_leading(&(struct linalg_leading_svd){rows, cols, k, s->U, s->S, s->Vt, gram, values, vectors}, s->W, err);
    free(gram);
    free(values);
    free(vectors);
    return status;
}

/* An eigenvector z of G = W W^T has |G z - s^2 z| <= tolerance s_0^2: W v = s u and W^T u = s v hold within that over s, and the sum of the k squares, which is
 * what a product of rank k can take from |W|^2 (Eckart-Young), within k of it. */
static void leading_values_are_those_of_all(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1}, {1, 7, 1}, {7, 1, 1}, {12, 33, 4}, {33, 12, 4}, {5, 5, 5}, {64, 80, 16}, {90, 64, 64}};
    for (size_t t = 0; t < sizeof shapes / sizeof *shapes; t++) {
        size_t rows = shapes[t][0], cols = shapes[t][1], k = shapes[t][2];
        double *W = normals(rows * cols, (uint32_t)t), taken = 0, best = 0;
        struct svd all = decompose(W, rows, cols), s;
        struct err err;
        assert_int_equal(decompose_leading(&s, W, rows, cols, k, &err), OK);
        assert_memory_equal(s.W, W, rows * cols * sizeof *W);
        double most = tolerance(&s) * all.S[0] * all.S[0];
        for (size_t i = 0; i < k; i++) {
            taken += s.S[i] * s.S[i];
            best += all.S[i] * all.S[i];
            assert_true(fabs(s.S[i] - all.S[i]) <= most / all.S[i]);
            for (size_t r = 0; r < rows; r++) {
                double sum = 0;
                for (size_t c = 0; c < cols; c++)
                    sum += W[r * cols + c] * s.Vt[i * cols + c];
                assert_true(fabs(sum - s.S[i] * s.U[r * k + i]) <= most / s.S[i]);
            }
            for (size_t c = 0; c < cols; c++) {
                double sum = 0;
                for (size_t r = 0; r < rows; r++)
                    sum += W[r * cols + c] * s.U[r * k + i];
                assert_true(fabs(sum - s.S[i] * s.Vt[i * cols + c]) <= most / s.S[i]);
            }
        }
        assert_true(fabs(taken - best) <= (double)k * most);
        svd_free(&all);
        svd_free(&s);
        free(W);
    }
}

/* What is left of rank 1 is below 1e-7 of it; of nothing comes nothing, and no division by it. */
static void leading_part_of_low_rank_and_of_zero(void **state)
{
    (void)state;
    double *a = normals(20, 1), *b = normals(30, 2), W[600], zero[12] = {0};
    struct svd s;
    struct err err;
    for (size_t r = 0; r < 20; r++)
        for (size_t c = 0; c < 30; c++)
            W[r * 30 + c] = a[r] * b[c];
    assert_int_equal(decompose_leading(&s, W, 20, 30, 3, &err), OK);
    check_product(&s, W);
    assert_true(s.S[0] > 1 && s.S[1] <= 1e-7 * s.S[0] && s.S[2] <= 1e-7 * s.S[0]);
    svd_free(&s);
    assert_int_equal(decompose_leading(&s, zero, 3, 4, 2, &err), OK);
    for (size_t i = 0; i < 2; i++)
        assert_true(s.S[i] == 0 && isfinite(s.U[i]) && s.Vt[i * 4] == 0);
    svd_free(&s);
    W[7] = NAN;
    assert_int_equal(decompose_leading(&s, W, 20, 30, 2, &err), ERR_FAILED);
    assert_string_equal(err.text, "the SVD of 20 x 30 did not converge");
    svd_free(&s);
    free(a);
    free(b);
}

/* ---- Cholesky ---- */

static void cholesky_by_hand(void **state)
{
    (void)state;
    double K[9] = {4, 77, 88, 2, 10, 99, -2, 5, 21}, jitter = -1; /* the upper triangle is not read */
    const double want[9] = {2, 77, 88, 1, 3, 99, -1, 2, 4};
    struct err err;
    assert_int_equal(linalg_cholesky(K, 3, &jitter, &err), OK);
    assert_true(jitter == 0);
    for (int i = 0; i < 9; i++)
        assert_true(fabs(K[i] - want[i]) <= 1e-14 * fabs(want[i]));
}

static void cholesky_multiplies_back_and_solves(void **state)
{
    (void)state;
    enum { N = 30, M = 3 };
    double *G = normals(N * N, 7), *x = normals(M * N, 8), K[N * N], L[N * N], b[M * N], jitter;
    struct err err;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            K[i * N + j] = i == j ? N : 0;
            for (size_t k = 0; k < N; k++)
                K[i * N + j] += G[i * N + k] * G[j * N + k];
        }
    memcpy(L, K, sizeof L);
    assert_int_equal(linalg_cholesky(L, N, &jitter, &err), OK);
    for (size_t m = 0; m < M; m++) /* b = K x, then K b = L L^T b */
        for (size_t i = 0; i < N; i++) {
            b[m * N + i] = 0;
            for (size_t j = 0; j < N; j++)
                b[m * N + i] += K[i * N + j] * x[m * N + j];
        }
    linalg_solve_lower(L, N, b, M);
    linalg_solve_lower_transposed(L, N, b, M);
    /* eigenvalues from N to about 5 N: condition 5; N^2 roundings of numbers up to 4 each way */
    for (size_t i = 0; i < M * N; i++)
        assert_true(fabs(b[i] - x[i]) <= 10.0 * N * N * DBL_EPSILON * 4);
    free(G);
    free(x);
}

/* The all-ones matrix has rank 1: the factor appears with the first jitter that outgrows rounding, and no larger one is tried. */
static void the_jitter_ladder_is_climbed_from_below(void **state)
{
    (void)state;
    enum { N = 40 };
    double K[N * N], jitter = 0;
    struct err err;
    for (size_t i = 0; i < N * N; i++)
        K[i] = 3;
    assert_int_equal(linalg_cholesky(K, N, &jitter, &err), OK);
    assert_true(jitter >= 0 && jitter <= 3e-10 * (1 + 1e-12));
    /* one eigenvalue of -1e-6 of the diagonal: 1e-6 just fails or just passes, 1e-5 is enough */
    double small[4] = {1, 0, 1 + 1e-6, 1};
    assert_int_equal(linalg_cholesky(small, 2, &jitter, &err), OK);
    assert_true(jitter >= 0.9e-6 && jitter <= 1.1e-5);
    assert_true(fabs(small[0] * small[0] - 1 - jitter) <= 1e-14);
}

static void what_is_not_positive_definite_is_refused(void **state)
{
    (void)state;
    double K[4] = {1, 0, 2, 1}, jitter;
    struct err err;
    const char *want = "a matrix of order 2 is not positive definite, not even with 1e-4 of its mean diagonal added";
    assert_int_equal(linalg_cholesky(K, 2, &jitter, &err), ERR_FAILED);
    assert_string_equal(err.text, want);
    double bad[4] = {NAN, 0, 0, 1};
    assert_int_equal(linalg_cholesky(bad, 2, &jitter, &err), ERR_FAILED);
    assert_string_equal(err.text, want);
}

static void an_inverse_and_a_product_undo_each_other(void **state)
{
    (void)state;
    enum { N = 37, M = 5 };
    double *L = normals(N * N, 11), *X = normals(M * N, 12), *inverse, Y[M * N] = {0}, Z[M * N] = {0};
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            L[i * N + j] = j < i ? L[i * N + j] / N : j == i ? 2 + fabs(L[i * N + j]) : 0; /* well conditioned */
    inverse = copied(L, N * N);
    inverse[3] = 7;
    linalg_invert_lower(inverse, N);
    assert_true(inverse[3] == 7); /* above the diagonal: left alone */
    inverse[3] = 0;
    linalg_multiply_add(Y, N, -2, X, N, L, N, M, N, N);
    linalg_multiply_add(Z, N, -0.5, Y, N, inverse, N, M, N, N);
    for (size_t i = 0; i < M * N; i++)
        assert_true(fabs(Z[i] - X[i]) <= N * 16 * DBL_EPSILON * (1 + fabs(X[i])));
    linalg_multiply_add(Z + 1, N, 1, X, N, L + 2 * N, N, 1, 3, 0); /* no terms: nothing changes */
    assert_true(fabs(Z[1] - X[1]) <= N * 16 * DBL_EPSILON * (1 + fabs(X[1])));
    free(L);
    free(X);
    free(inverse);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(svd_multiplies_back), cmocka_unit_test(leading_values_are_those_of_all), cmocka_unit_test(leading_part_of_low_rank_and_of_zero),
        cmocka_unit_test(svd_by_hand),
        cmocka_unit_test(svd_of_low_rank_and_of_zero),
        cmocka_unit_test(singular_values_alone_are_the_same),
        cmocka_unit_test(svd_of_nan_is_refused),
        cmocka_unit_test(cholesky_by_hand),
        cmocka_unit_test(cholesky_multiplies_back_and_solves),
        cmocka_unit_test(the_jitter_ladder_is_climbed_from_below),
        cmocka_unit_test(what_is_not_positive_definite_is_refused),
        cmocka_unit_test(an_inverse_and_a_product_undo_each_other),
    };
    linalg_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
