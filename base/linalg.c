/* linalg.c: LAPACK for small dense problems.
 *
 * LAPACK is column-major: a row-major W[rows, cols] is its W^T[cols, rows], so W = U S Vt is asked for as W^T = V S U^T and no matrix is
 * transposed. */
#include "base/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void openblas_set_num_threads(int n);

void linalg_init(void)
{
    openblas_set_num_threads(1);
}

enum status linalg_reserve(struct err *err)
{
    enum { BUFFER = 1 << 27, MORE = 1 << 16 };
    void *room = mmap(NULL, BUFFER + MORE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double one = 1;
    if (room == MAP_FAILED)
        return err_set(err, ERR_MEMORY, "linear algebra: %d bytes are not to be had", BUFFER + MORE);
    munmap(room, BUFFER + MORE);
    LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', 1, &one, 1); /* it keeps the buffer of its first call */
    return OK;
}

/* ---- Cholesky ---- */

static double mean_diagonal(const double *K, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs(K[i * n + i]);
    return n ? sum / (double)n : 0;
}

/* Lower triangle of the copy `from` plus `add` on its diagonal -> factor in K. */
static bool factor(double *K, const double *from, size_t n, double add)
{
    for (size_t i = 0; i < n; i++) {
        memcpy(K + i * n, from + i * n, (i + 1) * sizeof *K);
        K[i * n + i] += add;
    }
    int m = (int)n;
    return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', m, K, m) == 0; /* row-major lower = column-major upper */
}

enum status linalg_cholesky(double *K, size_t n, double *jitter, struct err *err)
{
    static const double ladder[] = {0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4};
    double scale = mean_diagonal(K, n), *copy = malloc((n ? n * n : 1) * sizeof *copy);
    if (!copy)
        return err_set(err, ERR_MEMORY, "out of memory for a factorisation of order %zu", n);
    memcpy(copy, K, n * n * sizeof *copy);
    bool done = false;
    for (size_t i = 0; !done && i < sizeof ladder / sizeof *ladder && isfinite(scale); i++) {
        *jitter = ladder[i] * scale;
        done = factor(K, copy, n, *jitter);
    }
    free(copy);
    if (done)
        return OK;
    return err_set(err, ERR_FAILED, "a matrix of order %zu is not positive definite, not even with 1e-4 of its mean diagonal added", n);
}

/* Row-major L is column-major L^T, an upper triangle; b[m, n] is column-major n x m: m right-hand sides. */
void linalg_solve_lower(const double *L, size_t n, double *b, size_t m)
{
    LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'U', 'T', 'N', (int)n, (int)m, L, (int)n, b, (int)n);
}

void linalg_solve_lower_transposed(const double *L, size_t n, double *b, size_t m)
{
    LAPACKE_dtrtrs_work(LAPACK_COL_MAJOR, 'U', 'N', 'N', (int)n, (int)m, L, (int)n, b, (int)n);
}

void linalg_invert_lower(double *L, size_t n)
{
    LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', (int)n, L, (int)n);
}

/* ---- products ---- */

void linalg_multiply_add(double *C, size_t ldc, double alpha, const double *A, size_t lda, const double *B, size_t ldb, size_t m, size_t n, size_t k)
{
    if (m > 0 && n > 0 && k > 0)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, A, (int)lda, B, (int)ldb, 1, C, (int)ldc);
}

/* ---- SVD ---- */

static enum status svd_status(lapack_int info, size_t rows, size_t cols, struct err *err)
{
    if (info == 0)
        return OK;
    if (info == LAPACK_WORK_MEMORY_ERROR)
        return err_set(err, ERR_MEMORY, "out of memory for the SVD of %zu x %zu", rows, cols);
    return err_set(err, ERR_FAILED, "the SVD of %zu x %zu did not converge", rows, cols);
}

/* Turns pairs of vectors round where the largest entry of the row of Vt is negative. */
static void fix_signs(double *U, double *Vt, size_t rows, size_t cols, size_t k)
{
    for (size_t i = 0; i < k; i++) {
        double *v = Vt + i * cols;
        size_t at = 0;
        for (size_t c = 1; c < cols; c++)
            at = fabs(v[c]) > fabs(v[at]) ? c : at;
        if (v[at] >= 0)
            continue;
        for (size_t c = 0; c < cols; c++)
            v[c] = -v[c];
        for (size_t r = 0; r < rows; r++)
            U[r * k + i] = -U[r * k + i];
    }
}

enum status linalg_svd(double *W, size_t rows, size_t cols, double *U, double *S, double *Vt, struct err *err)
{
    size_t k = rows < cols ? rows : cols;
    int m = (int)cols, n = (int)rows;
    double none;
    lapack_int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, U ? 'S' : 'N', m, n, W, m, S, U ? Vt : &none, m, U ? U : &none, U ? (int)k : n);
    TRY(svd_status(info, rows, cols, err));
    if (U)
        fix_signs(U, Vt, rows, cols, k);
    return OK;
}

/* ---- its leading part ---- */

/* vectors[k, n]: eigenvectors of gram[n, n] (lower triangle; destroyed), the largest eigenvalue's last. */
static enum status leading_vectors(const struct linalg_leading_svd *s, int n, struct err *err)
{
    lapack_int found = 0, *support = malloc(2 * s->k * sizeof *support);
    if (!support)
        return err_set(err, ERR_MEMORY, "out of memory for the SVD of %zu x %zu", s->rows, s->cols);
    lapack_int info = LAPACKE_dsyevr(LAPACK_COL_MAJOR, 'V', 'I', 'U', n, s->gram, n, 0, 0, n - (int)s->k + 1, n, 0, &found, s->values, s->vectors, n, support);
    free(support);
    return svd_status(info == 0 && (size_t)found < s->k ? 1 : info, s->rows, s->cols, err);
}

enum status linalg_svd_leading(const struct linalg_leading_svd *s, const double *W, struct err *err)
{
    bool tall = s->rows > s->cols;
    int n = (int)(tall ? s->cols : s->rows), other = (int)(tall ? s->rows : s->cols), k = (int)s->k, ld = (int)s->cols;
    cblas_dsyrk(CblasRowMajor, CblasLower, tall ? CblasTrans : CblasNoTrans, n, other, 1, W, ld, 0, s->gram, n); /* row-major's lower is column-major's upper */
    TRY(leading_vectors(s, n, err));
    double *near = tall ? s->Vt : s->U, *far = tall ? s->U : s->Vt; /* of the smaller side, of the other; [k, .] or [., k] */
    size_t near_step = tall ? s->cols : 1, near_next = tall ? 1 : s->k, far_step = tall ? 1 : s->cols, far_next = tall ? s->k : 1;
    for (size_t i = 0; i < s->k; i++)
        for (size_t j = 0; j < (size_t)n; j++)
            near[i * near_step + j * near_next] = s->vectors[(s->k - 1 - i) * (size_t)n + j];
    if (tall)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, other, k, n, 1, W, ld, near, ld, 0, far, k);
    else
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, other, n, 1, near, k, W, ld, 0, far, ld);
    for (size_t i = 0; i < s->k; i++) {
        double square = 0;
        for (size_t j = 0; j < (size_t)other; j++)
            square += far[i * far_step + j * far_next] * far[i * far_step + j * far_next];
        s->S[i] = sqrt(square);
        for (size_t j = 0; j < (size_t)other && square > 0; j++)
            far[i * far_step + j * far_next] /= s->S[i];
    }
    fix_signs(s->U, s->Vt, s->rows, s->cols, s->k);
    return OK;
}

/* ---- the same from random directions ---- */

/* Modified Gram-Schmidt, twice, on the p columns of Y[n, p]: enough for a basis. */
static void orthonormalise(double *Y, size_t n, size_t p)
{
    for (int pass = 0; pass < 2; pass++)
        for (size_t j = 0; j < p; j++) {
            for (size_t i = 0; i < j; i++) {
                double dot = 0;
                for (size_t r = 0; r < n; r++)
                    dot += Y[r * p + i] * Y[r * p + j];
                for (size_t r = 0; r < n; r++)
                    Y[r * p + j] -= dot * Y[r * p + i];
            }
            double norm = 0;
            for (size_t r = 0; r < n; r++)
                norm += Y[r * p + j] * Y[r * p + j];
            double inv = norm > 0 ? 1 / sqrt(norm) : 0;
            for (size_t r = 0; r < n; r++)
                Y[r * p + j] *= inv;
        }
}

/* y[rows, p] = W z^T for z[p, cols];  z[p, cols] = y^T W. */
static void times(double *y, const double *W, const double *z, size_t rows, size_t cols, size_t p)
{
#pragma omp parallel for
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < p; j++) {
            double sum = 0;
            for (size_t c = 0; c < cols; c++)
                sum += W[r * cols + c] * z[j * cols + c];
            y[r * p + j] = sum;
        }
}

static void times_transposed(double *z, const double *W, const double *y, size_t rows, size_t cols, size_t p)
{
#pragma omp parallel for
    for (size_t j = 0; j < p; j++) {
        memset(z + j * cols, 0, cols * sizeof *z);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++)
                z[j * cols + c] += y[r * p + j] * W[r * cols + c];
    }
}

enum status linalg_svd_randomised(struct linalg_random_svd *s, const double *W, struct err *err)
{
    size_t rows = s->rows, cols = s->cols, k = s->k;
    for (size_t i = 0; i < k * cols; i++)
        s->Q[i] = rng_normal(&s->rng);
    times(s->Y, W, s->Q, rows, cols, k);
    for (int pass = 0; pass < s->iterations; pass++) {
        orthonormalise(s->Y, rows, k);
        times_transposed(s->Q, W, s->Y, rows, cols, k);
        times(s->Y, W, s->Q, rows, cols, k);
    }
    orthonormalise(s->Y, rows, k);
    times_transposed(s->Q, W, s->Y, rows, cols, k);
    TRY(linalg_svd(s->Q, k, cols, s->small, s->S, s->Vt, err)); /* Y^T W = small S Vt, U = Y small */
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < k; j++) {
            double sum = 0;
            for (size_t i = 0; i < k; i++)
                sum += s->Y[r * k + i] * s->small[i * k + j];
            s->U[r * k + j] = sum;
        }
    return OK;
}

double linalg_dot(const double *a, const double *b, size_t n)
{
    enum { LANES = 8 };
    double lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            lane[k] += a[i + k] * b[i + k];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (size_t k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}
