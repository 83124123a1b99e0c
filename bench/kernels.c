/* kernels.c: products of activations with a frozen matrix, each against the peak and against OpenBLAS of the same minute.
 *
 *     build/bench/kernels [--brief] [--threads N] [--out DIR]
 *
 * Three tables: limits, kernels (many rows: forward y = x W^T and backward dx = dy W), decode (one row, weights from memory).  All contestants of a table
 * take turns; a figure and its limit come from the same rounds.  bench/README.md says how to read them. */
#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/linalg.h"
#include "base/log.h"
#include "base/rng.h"
#include "bench/roofline.h"
#include "bench/samples.h"
#include "bench/table.h"
#include "bench/workload.h"
#include "ops.h"
#include "quant_panel.h"

enum { FORMATS = 6, SAMPLED = 32, INT8 = 3 /* formats in the fast mode */, MOST_M = 1024, ROUNDS_LEAST = 3, ROUNDS_MOST = 15 };
static const enum format formats[FORMATS] = {FORMAT_NF4, FORMAT_INT8, FORMAT_Q4_0, FORMAT_Q8_0, FORMAT_BF16, FORMAT_F32};

struct settings {
    bool brief;
    int threads; /* the most */
    const char *dir;
};

/* ---- one matrix in all formats ---- */

/* W and its copies, inputs and outputs of both passes, what sampled outputs should be. */
struct matrix {
    size_t out, in;
    float *W;                                     /* [out, in]: what OpenBLAS gets */
    struct qmat q[FORMATS];
    float *x, *y, *dy, *dx;                       /* [MOST_M, in or out] */
    double *forward[FORMATS], *backward[FORMATS]; /* [MOST_M, SAMPLED]: fp64 products with the decoded matrix, columns first .. first+SAMPLED-1 */
    size_t first_out, first_in;
    struct arena arena;
};

static void place_matrix(struct matrix *m)
{
    size_t out = m->out, in = m->in;
    m->W = arena_take(&m->arena, out * in, sizeof(float));
    for (int f = 0; f < FORMATS; f++) {
        quant_place(&m->q[f], formats[f], 0, false, out, in, &m->arena);
        m->forward[f] = arena_take(&m->arena, MOST_M * SAMPLED, sizeof(double));
        m->backward[f] = arena_take(&m->arena, MOST_M * SAMPLED, sizeof(double));
    }
    m->x = arena_take(&m->arena, MOST_M * in, sizeof(float));
    m->dx = arena_take(&m->arena, MOST_M * in, sizeof(float));
    m->y = arena_take(&m->arena, MOST_M * out, sizeof(float));
    m->dy = arena_take(&m->arena, MOST_M * out, sizeof(float));
}

static void normals(float *x, size_t n, uint32_t step)
{
    struct rng rng = {.seed = 1, .stream = RNG_INIT, .step = step};
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&rng);
}

/* Sampled columns of x W^T and of dy W in double, from the matrix as its format stores it. */
static enum status sample_products(struct matrix *m, int f, struct err *err)
{
    size_t in = m->in, out = m->out;
    struct arena temp = {0};
    arena_take(&temp, SAMPLED * in, sizeof(float));
    arena_take(&temp, SAMPLED * out, sizeof(float));
    TRY(arena_commit(&temp, "samples", err));
    float *rows = arena_take(&temp, SAMPLED * in, sizeof(float)), *columns = arena_take(&temp, SAMPLED * out, sizeof(float));
    quant_decode_rows(&m->q[f], m->first_out, SAMPLED, rows);
    for (size_t o = 0; o < out; o++) {
        float span[SAMPLED];
        quant_decode_span(&m->q[f], o, m->first_in, SAMPLED, span);
        for (size_t j = 0; j < SAMPLED; j++)
            columns[j * out + o] = span[j];
    }
#pragma omp parallel for
    for (size_t i = 0; i < MOST_M; i++)
        for (size_t j = 0; j < SAMPLED; j++) {
            double y = 0, dx = 0;
            for (size_t k = 0; k < in; k++)
                y += (double)m->x[i * in + k] * (double)rows[j * in + k];
            for (size_t o = 0; o < out; o++)
                dx += (double)m->dy[i * out + o] * (double)columns[j * out + o];
            m->forward[f][i * SAMPLED + j] = y;
            m->backward[f][i * SAMPLED + j] = dx;
        }
    arena_free(&temp);
    return OK;
}

static enum status make_matrix(struct matrix *m, size_t out, size_t in, struct err *err)
{
    *m = (struct matrix){.out = out, .in = in, .first_out = out / 64 * 32, .first_in = in / 64 * 32};
    place_matrix(m);
    TRY(arena_commit(&m->arena, "a matrix in all formats", err));
    place_matrix(m);
    normals(m->W, out * in, 1);
    normals(m->x, MOST_M * in, 2);
    normals(m->dy, MOST_M * out, 3);
    for (int f = 0; f < FORMATS; f++) {
        TRY(quant_encode(&m->q[f], m->W, false, err));
        TRY(sample_products(m, f, err));
        TRY(quant_to_panels(&m->q[f], err));
    }
    return OK;
}

/* Relative error in the Frobenius norm over the sampled columns of the first M rows. */
static double relative_error(const double *right, const float *got, size_t M, size_t width, size_t first)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < SAMPLED; j++) {
            double r = right[i * SAMPLED + j], d = (double)got[i * width + first + j] - r;
            error += d * d;
            norm += r * r;
        }
    return sqrt(error / norm);
}

/* ---- many rows ---- */

struct contestant {
    int format; /* index; -1: OpenBLAS on W */
    bool backward;
    enum compute compute;
    double error;
    struct samples rate; /* GF/s */
};

enum { CONTESTANTS_MOST = 2 + 4 * FORMATS + INT8 };

struct contest {
    struct matrix *matrix;
    size_t M;
    struct ops_context c; /* compute is the contestant's */
    struct contestant contestant[CONTESTANTS_MOST];
    int n;
    struct samples peak[PEAK_COUNT];
};

static void call(const struct contest *t, const struct contestant *who)
{
    const struct matrix *m = t->matrix;
    int M = (int)t->M, in = (int)m->in, out = (int)m->out;
    if (who->format < 0 && who->backward)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, in, out, 1, m->dy, out, m->W, in, 0, m->dx, in);
    else if (who->format < 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, M, out, in, 1, m->x, in, m->W, in, 0, m->y, out);
    else {
        struct ops_context c = t->c;
        struct linear_args a = {.W = &m->q[who->format], .n = t->M, .x = m->x, .y = m->y, .dy = m->dy, .dx = who->backward ? m->dx : NULL};
        c.compute = who->compute;
        if (who->backward)
            c.ops->linear_backward(&c, &a);
        else
            c.ops->linear_forward(&c, &a, 1);
    }
}

/* OpenBLAS' threads spin for some 30 ms behind a call and OpenMP's for one: neither may steal the other's time. */
static void pause_threads(void)
{
    struct timespec t = {.tv_nsec = 40 * 1000 * 1000};
    nanosleep(&t, NULL);
}

static void turn(struct contest *t, struct contestant *who)
{
    double flops = 2.0 * (double)t->M * (double)t->matrix->out * (double)t->matrix->in;
    int calls = 1 + (int)(2e-3 * 2e11 / flops); /* 2 ms at 200 GF/s */
    double start = bench_clock_s();
    for (int i = 0; i < calls; i++)
        call(t, who);
    samples_add(&who->rate, flops * calls / (bench_clock_s() - start) / 1e9);
}

static void round_of(struct contest *t)
{
    for (int i = 0; i < t->n; i++) {
        struct contestant *who = &t->contestant[i];
        if (who->format < 0) {
            openblas_set_num_threads(t->c.threads);
            call(t, who);
            turn(t, who);
            openblas_set_num_threads(1);
            continue;
        }
        if (i > 0 && t->contestant[i - 1].format < 0)
            pause_threads();
        turn(t, who);
        if (i % 4 == 3)
            for (int k = 0; k < PEAK_COUNT; k++)
                samples_add(&t->peak[k], peak_measure((enum peak)k, t->c.threads));
    }
    pause_threads();
}

static void enter(struct contest *t, int format, enum compute compute)
{
    for (int back = 0; back < 2; back++)
        t->contestant[t->n++] = (struct contestant){.format = format, .backward = back, .compute = compute};
}

/* The fast mode, forward alone, where it is more than bf16. */
static void enter_int8(struct contest *t, bool brief)
{
    static const enum format fast[INT8] = {FORMAT_NF4, FORMAT_INT8, FORMAT_Q4_0};
    for (int f = 0; f < FORMATS; f++)
        for (int k = 0; k < (brief ? 1 : INT8) && level_has_int8() && t->M > 12; k++)
            if (formats[f] == fast[k])
                t->contestant[t->n++] = (struct contestant){.format = f, .compute = COMPUTE_INT8};
}

static void measure_errors(struct contest *t)
{
    const struct matrix *m = t->matrix;
    for (int i = 0; i < t->n; i++) {
        struct contestant *who = &t->contestant[i];
        if (who->format < 0)
            continue;
        memset(m->y, 0, t->M * m->out * sizeof *m->y);
        memset(m->dx, 0, t->M * m->in * sizeof *m->dx);
        call(t, who);
        who->error = who->backward ? relative_error(m->backward[who->format], m->dx, t->M, m->in, m->first_in)
                                   : relative_error(m->forward[who->format], m->y, t->M, m->out, m->first_out);
    }
}

static enum peak peak_of(enum compute compute)
{
    return compute == COMPUTE_INT8 ? PEAK_INT8 : compute == COMPUTE_BF16 && level_has_bf16() ? PEAK_BF16 : PEAK_F32;
}

/* Goals of the table "figures to reach"; 0: none is set. */
struct goal {
    double share, blas, error;
};

static struct goal goal_of(const struct contest *t, const struct contestant *who)
{
    if (who->compute == COMPUTE_INT8)
        return (struct goal){.error = 1e-2};
    struct goal g = {.error = who->compute == COMPUTE_BF16 ? 3e-3 : 1e-6};
    enum format f = formats[who->format];
    bool bf16 = who->compute == COMPUTE_BF16 && level_has_bf16();
    if (!bf16 && level_has_bf16())
        return g;
    if (f == FORMAT_F32 && t->M >= 256 && !who->backward)
        g.share = 0.85;
    if (f != FORMAT_NF4 && f != FORMAT_INT8)
        return g;
    if (t->M < 64 && who->backward)
        return g; /* nobody trains on 8 tokens */
    g.share = t->M < 64 ? 0.80 : t->M < 256 ? 0.72 : who->backward ? bf16 ? 0.80 : 0.78 : 0.84;
    g.blas = bf16 && t->M >= 256 ? 1.9 : 0;
    return g;
}

static void print_contestant(const struct contest *t, const struct contestant *who, struct table *table)
{
    const struct contestant *blas = &t->contestant[who->backward];
    const struct samples *peak = &t->peak[peak_of(who->compute)];
    double share = samples_best(&who->rate) / samples_best(peak), ratio = samples_median(&who->rate) / samples_median(&blas->rate);
    struct goal g = goal_of(t, who);
    table_number(table, (double)t->M, 0);
    table_number(table, (double)t->matrix->out, 0);
    table_number(table, (double)t->matrix->in, 0);
    table_text(table, "%s", format_info(formats[who->format])->name);
    table_text(table, who->backward ? "dX" : "forward");
    table_text(table, who->compute == COMPUTE_INT8 ? "int8" : who->compute == COMPUTE_F32 ? "f32" : level_has_bf16() ? "bf16" : "i16");
    table_number(table, t->c.threads, 0);
    table_number(table, samples_best(&who->rate), 1);
    table_number(table, samples_median(&who->rate), 1);
    table_number(table, samples_best(peak), 1);
    table_number(table, 100 * share, 1);
    table_number(table, g.share > 0 ? 100 * g.share : NAN, 0);
    table_number(table, samples_median(&blas->rate), 1);
    table_number(table, ratio, 2);
    table_number(table, g.blas > 0 ? g.blas : NAN, 1);
    table_number(table, who->error, -1);
    table_number(table, g.error, -1);
    table_yes_no(table, share >= g.share && ratio >= g.blas && who->error <= g.error);
}

static const char *const kernel_columns[] = {"M", "N", "K", "weights", "pass", "compute", "threads", "best GF/s", "median GF/s", "peak GF/s",
                                             "% of peak", "goal %", "sgemm GF/s", "x sgemm", "goal x", "error", "goal error", "met"};

static enum status run_contest(struct matrix *matrix, size_t M, int threads, bool brief, struct table *table, struct err *err)
{
    struct contest t = {.matrix = matrix, .M = M, .c = {.ops = cpu_ops(false), .threads = threads, .compute = best_compute()}};
    size_t n = t.c.ops->scratch_size(&t.c, matrix->out, matrix->in, 64, M, matrix->out);
    struct arena scratch = {0};
    arena_take(&scratch, n, sizeof(real));
    TRY(arena_commit(&scratch, "kernel scratch", err));
    t.c.scratch = arena_take(&scratch, n, sizeof(real));
    enter(&t, -1, COMPUTE_F32);
    for (int f = 0; f < FORMATS; f++)
        if (!brief || formats[f] == FORMAT_NF4 || formats[f] == FORMAT_INT8 || formats[f] == FORMAT_F32)
            enter(&t, f, formats[f] == FORMAT_F32 ? COMPUTE_F32 : t.c.compute); /* reals are always multiplied as reals */
    if (t.c.compute == COMPUTE_BF16)
        enter(&t, 0, COMPUTE_F32);
    enter_int8(&t, brief);
    measure_errors(&t);
    double start = bench_clock_s(), budget = brief ? 1.5 : 4;
    for (int i = 0; i < ROUNDS_MOST; i++) { /* a slow level is left alone after its first round */
        double spent = bench_clock_s() - start;
        if (spent > 4 * budget || (i >= ROUNDS_LEAST && spent > budget))
            break;
        round_of(&t);
    }
    for (int i = 2; i < t.n; i++)
        print_contestant(&t, &t.contestant[i], table);
    arena_free(&scratch);
    return OK;
}

/* Thread counts: one, and all that are asked for. */
static enum status run_threads(struct matrix *matrix, size_t M, const struct settings *s, struct table *table, struct err *err)
{
    TRY(run_contest(matrix, M, 1, s->brief, table, err));
    return s->threads > 1 ? run_contest(matrix, M, s->threads, s->brief, table, err) : OK;
}

static enum status many_rows(const struct settings *s, struct err *err)
{
    static const struct {
        size_t out, in, M[5];
    } set[] = {{1536, 576, {256}}, {576, 1536, {1024}}, {4096, 4096, {256, 1024, 64, 8}}}, brief[] = {{1536, 576, {256}}, {4096, 4096, {256}}};
    struct table table;
    enum status status = OK;
    table_open(&table, "kernels", "Products with a frozen matrix: many rows", kernel_columns, sizeof kernel_columns / sizeof *kernel_columns);
    for (size_t i = 0; status == OK && i < (s->brief ? 2 : 3); i++) {
        const size_t *M = s->brief ? brief[i].M : set[i].M;
        struct matrix matrix;
        status = make_matrix(&matrix, s->brief ? brief[i].out : set[i].out, s->brief ? brief[i].in : set[i].in, err);
        for (int j = 0; status == OK && M[j]; j++)
            status = run_threads(&matrix, M[j], s, &table, err);
        arena_free(&matrix.arena);
    }
    text_puts(&table.notes, "y[M, N] = x[M, K] W[N, K]^T, dX = dY W.  sgemm: OpenBLAS on ready fp32 weights in the same rounds.  Error: relative, Frobenius, "
                            "against fp64 products with the decoded weights.\n");
    if (status == OK)
        status = table_write(&table, s->dir, err);
    table_free(&table);
    return status;
}

/* ---- one row ---- */

/* Copies of one matrix, together much larger than the last-level cache. */
struct pool {
    struct qmat *q;
    size_t n, bytes;
    struct arena arena;
};

/* Six times the last-level cache.  From the kernel, since sysconf's answer on some CPUs is that of all sockets' parts together. */
static size_t pool_bytes(void)
{
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    size_t kib = 0;
    if (f && fscanf(f, "%zuK", &kib) != 1)
        kib = 0;
    if (f)
        fclose(f);
    return 6 * (kib > 0 && kib < (1u << 20) ? kib << 10 : (size_t)32 << 20);
}

static void place_pool(struct pool *p, enum format format, size_t out, size_t in)
{
    p->q = arena_take(&p->arena, p->n, sizeof *p->q);
    for (size_t i = 0; i < p->n; i++) {
        struct qmat counted, *q = p->q ? &p->q[i] : &counted;
        quant_place(q, format, 0, false, out, in, &p->arena);
    }
}

static enum status make_pool(struct pool *p, enum format format, size_t out, size_t in, struct err *err)
{
    struct arena one = {0};
    size_t each = quant_bytes(format, 0, false, out, in);
    *p = (struct pool){.n = pool_bytes() / each + 1};
    p->bytes = p->n * each;
    place_pool(p, format, out, in);
    TRY(arena_commit(&p->arena, "a pool of matrices", err));
    place_pool(p, format, out, in);
    arena_take(&one, out * in, sizeof(float));
    TRY(arena_commit(&one, "a matrix", err));
    float *W = arena_take(&one, out * in, sizeof(float));
    normals(W, out * in, 5);
    TRY(quant_encode(&p->q[0], W, false, err));
    TRY(quant_to_panels(&p->q[0], err));
    arena_free(&one);
    size_t codes = each - (p->q[0].scales ? sizeof(float) * (p->q[0].block ? out * in / (size_t)p->q[0].block : out) : 0);
    for (size_t i = 1; i < p->n; i++) {
        memcpy(p->q[i].codes, p->q[0].codes, codes);
        if (p->q[0].scales)
            memcpy(p->q[i].scales, p->q[0].scales, each - codes);
        p->q[i].panels = p->q[0].panels;
    }
    return OK;
}

static const char *const decode_columns[] = {"N", "K", "weights", "pool MiB", "threads", "best GB/s", "median GB/s", "read GB/s", "median read GB/s",
                                             "% of read", "% of medians"};

/* Every matrix of the pool once, against the buffer once, in turns. */
static void stream_pool(const struct pool *p, struct ops_context *c, const struct read_buffer *buffer, const float *x, float *y, struct table *table)
{
    struct samples rate = {0}, read = {0};
    for (int i = 0; i < 9; i++) {
        samples_add(&read, read_measure(buffer, buffer->n, c->threads));
        double start = bench_clock_s();
        for (size_t j = 0; j < p->n; j++) {
            struct linear_args a = {.W = &p->q[j], .n = 1, .x = x, .y = y};
            c->ops->linear_forward(c, &a, 1);
        }
        if (i > 0)
            samples_add(&rate, (double)p->bytes / (bench_clock_s() - start) / 1e9);
    }
    table_number(table, (double)p->q[0].rows, 0);
    table_number(table, (double)p->q[0].cols, 0);
    table_text(table, "%s", format_info(p->q[0].format)->name);
    table_number(table, (double)p->bytes / 1048576, 0);
    table_number(table, c->threads, 0);
    table_number(table, samples_best(&rate), 1);
    table_number(table, samples_median(&rate), 1);
    table_number(table, samples_best(&read), 1);
    table_number(table, samples_median(&read), 1);
    table_number(table, 100 * samples_best(&rate) / samples_best(&read), 1);
    table_number(table, 100 * samples_median(&rate) / samples_median(&read), 1);
}

static enum status one_shape(const struct settings *s, size_t out, size_t in, const struct read_buffer *buffer, struct table *table, struct err *err)
{
    struct arena memory = {0};
    struct ops_context c = {.ops = cpu_ops(false), .threads = s->threads, .compute = best_compute()};
    size_t n = c.ops->scratch_size(&c, out, in, 64, 64, out);
    arena_take(&memory, n + in + out + 64, sizeof(real));
    TRY(arena_commit(&memory, "kernel scratch", err));
    real *scratch = arena_take(&memory, n, sizeof(real)), *x = arena_take(&memory, in, sizeof(real)), *y = arena_take(&memory, out, sizeof(real));
    normals(x, in, 6);
    for (int f = 0; f < FORMATS; f++) {
        struct pool pool;
        TRY(make_pool(&pool, formats[f], out, in, err));
        for (int threads = 1; threads <= s->threads; threads += s->threads > 1 ? s->threads - 1 : 1) {
            c.threads = threads;
            c.ops->scratch_size(&c, out, in, 64, 64, out);
            c.scratch = scratch;
            stream_pool(&pool, &c, buffer, x, y, table);
        }
        arena_free(&pool.arena);
    }
    arena_free(&memory);
    return OK;
}

static enum status one_row(const struct settings *s, const struct read_buffer *buffer, struct err *err)
{
    struct table table;
    table_open(&table, "decode", "Products with a frozen matrix: one row, weights from memory", decode_columns,
               sizeof decode_columns / sizeof *decode_columns);
    enum status status = one_shape(s, 4096, 4096, buffer, &table, err);
    if (status == OK)
        status = one_shape(s, 1536, 576, buffer, &table, err);
    text_puts(&table.notes, "Bytes of stored codes and scales a second over a pool six times the last-level cache; read: of the same rounds.\n");
    if (status == OK)
        status = table_write(&table, s->dir, err);
    table_free(&table);
    return status;
}

/* ---- limits ---- */

static const char *const limit_columns[] = {"limit", "by", "threads", "best", "median", "unit"};

static void limit_row(struct table *table, const char *what, const char *by, int threads, const struct samples *v, const char *unit)
{
    table_text(table, "%s", what);
    table_text(table, "%s", by ? by : "not on this CPU");
    table_number(table, threads, 0);
    table_number(table, by ? samples_best(v) : NAN, 1);
    table_number(table, by ? samples_median(v) : NAN, 1);
    table_text(table, "%s", unit);
}

static void limits_of(struct table *table, const struct read_buffer *buffer, int threads)
{
    static const struct {
        const char *what;
        size_t each; /* bytes a thread; 0: the whole buffer */
    } reads[] = {{"second-level cache read", 512 << 10}, {"last-level cache read", 6 << 20}, {"memory read", 0}};
    static const char *const peaks[] = {"fp32 multiply-add", "bf16 pairs", "int8 quadruples"};
    for (int k = 0; k < PEAK_COUNT; k++) {
        struct samples v = {0};
        for (int i = 0; i < 7; i++)
            samples_add(&v, peak_measure((enum peak)k, threads));
        limit_row(table, peaks[k], peak_name((enum peak)k), threads, &v, k == PEAK_INT8 ? "GOP/s" : "GF/s");
    }
    for (int k = 0; k < 3; k++) {
        struct samples v = {0};
        for (int i = 0; i < 7; i++)
            samples_add(&v, read_measure(buffer, reads[k].each ? reads[k].each * (size_t)threads : buffer->n, threads));
        limit_row(table, reads[k].what, "huge pages", threads, &v, "GB/s");
    }
}

static enum status limits(const struct settings *s, const struct read_buffer *buffer, struct err *err)
{
    struct table table;
    table_open(&table, "limits", "Limits of this machine", limit_columns, sizeof limit_columns / sizeof *limit_columns);
    limits_of(&table, buffer, 1);
    if (s->threads > 1)
        limits_of(&table, buffer, s->threads);
    enum status status = table_write(&table, s->dir, err);
    table_free(&table);
    return status;
}

/* ---- the program ---- */

static enum status run(const struct settings *s, struct err *err)
{
    struct read_buffer buffer = {0};
    TRY(cpu_check(err));
    linalg_init();
    if (!s->brief)
        TRY(read_buffer_open(&buffer, (size_t)512 << 20, err));
    enum status status = s->brief ? OK : limits(s, &buffer, err);
    if (status == OK)
        status = many_rows(s, err);
    if (status == OK && !s->brief)
        status = one_row(s, &buffer, err);
    read_buffer_close(&buffer);
    return status;
}

int main(int argc, char **argv)
{
    struct settings s = {.threads = omp_get_num_procs(), .dir = "build/bench"};
    struct err err = {.text = ""};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--brief") == 0)
            s.brief = true;
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            s.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--out") == 0 && i + 1 < argc)
            s.dir = argv[++i];
        else
            s.threads = 0;
    }
    if (s.threads < 1) {
        fprintf(stderr, "usage: kernels [--brief] [--threads N] [--out DIR]\n");
        return ERR_INPUT;
    }
    enum status status = run(&s, &err);
    if (status != OK)
        fprintf(stderr, "kernels: %s\n", err.text);
    return (int)status;
}
