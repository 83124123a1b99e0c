/* ops_bench.c: GFLOP/s of a linear layer, forward and backward, in f32, nf4 and int8, beside plain cblas_sgemm in the same run.
 *
 *     make bench && build/release/bench/ops_bench [threads]
 *
 * One line a shape: rows x in x out; the best of several repeats; backward is dx only, as for frozen weights. */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/linalg.h"
#include "base/log.h"
#include "base/rng.h"
#include "ops.h"

enum { REPEATS = 15 };

struct shape {
    size_t n, in, out;
};

struct bench {
    struct ops_context c;
    struct linear_args a;
    const float *W; /* the same matrix as plain floats */
};

static void forward(struct bench *b)
{
    b->c.ops->linear_forward(&b->c, &b->a);
}

static void backward(struct bench *b)
{
    b->c.ops->linear_backward(&b->c, &b->a);
}

static void plain(struct bench *b)
{
    const struct linear_args *a = &b->a;
    int n = (int)a->n, in = (int)a->W->cols, out = (int)a->W->rows;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, out, in, 1, a->x, in, b->W, in, 0, a->y, out);
}

/* GFLOP/s of the fastest repeat; each repeats the call until about 5 ms have gone. */
static double rate(struct bench *b, void (*call)(struct bench *))
{
    double flops = 2.0 * (double)b->a.n * (double)b->a.W->rows * (double)b->a.W->cols, best = 0;
    int calls = 1 + (int)(5e-3 * 5e10 / flops);
    call(b);
    for (int i = 0; i < REPEATS; i++) {
        double start = clock_s();
        for (int j = 0; j < calls; j++)
            call(b);
        double r = flops * calls / (clock_s() - start) / 1e9;
        best = r > best ? r : best;
    }
    return best;
}

static float *normals(size_t n, uint32_t step)
{
    struct rng rng = {.seed = 1, .stream = RNG_INIT, .step = step};
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    for (size_t i = 0; x && i < n; i++)
        x[i] = (float)rng_normal(&rng);
    return x;
}

/* One line. */
static int run(const struct shape *s, int threads, int32_t rank, float dropout)
{
    static const enum format formats[] = {FORMAT_F32, FORMAT_NF4, FORMAT_INT8};
    struct err err;
    const struct ops *ops = cpu_ops(false);
    struct bench b = {.c = {.ops = ops, .threads = threads, .scratch_n = ops->scratch_size(s->out, s->in, 64, 64, 64)}};
    size_t r = (size_t)rank;
    float *W = normals(s->out * s->in, 1), *h = normals(s->n * (r + 1), 2), *dA = normals((r + 1) * s->in, 3),
          *dB = normals((r + 1) * s->out, 4), *A = normals((r + 1) * s->in, 5), *B = normals((r + 1) * s->out, 6);
    b.c.scratch = normals(b.c.scratch_n * (size_t)threads, 7);
    b.a = (struct linear_args){.n = s->n, .x = normals(s->n * s->in, 2), .y = normals(s->n * s->out, 3),
                               .dy = normals(s->n * s->out, 4), .dx = normals(s->n * s->in, 5)};
    b.a.lora = (struct lora_args){.r = rank, .s = 1, .A = A, .B = B, .dA = dA, .dB = dB, .h = h, .dropout = dropout};
    b.W = W;
    printf("%5zu x %4zu x %4zu  rank %2d  dropout %.2f ", s->n, s->in, s->out, rank, (double)dropout);
    for (int f = 0; f < 3; f++) {
        struct arena arena = {0};
        struct qmat q;
        quant_place(&q, formats[f], 0, false, s->out, s->in, &arena);
        if (arena_commit(&arena, "W", &err) != OK)
            return 1;
        quant_place(&q, formats[f], 0, false, s->out, s->in, &arena);
        if (quant_encode(&q, W, false, &err) != OK)
            return 1;
        b.a.W = &q;
        if (f == 0) {
            openblas_set_num_threads(threads);
            printf(" sgemm %5.0f", rate(&b, plain));
            openblas_set_num_threads(1);
        }
        printf("   %s %5.0f %5.0f", format_info(formats[f])->name, rate(&b, forward), rate(&b, backward));
        arena_free(&arena);
    }
    printf("\n");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct shape shapes[] = {{512, 192, 192}, {512, 192, 512}, {512, 512, 192}, {1024, 576, 1536}, {1024, 1536, 576},
                                          {1, 576, 1536}};
    int threads = argc > 1 ? atoi(argv[1]) : omp_get_max_threads();
    linalg_init();
    printf("GFLOP/s, forward and backward, %d threads\n", threads);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (run(&shapes[i], threads, 0, 0) || run(&shapes[i], threads, 8, 0) || run(&shapes[i], threads, 8, 0.05f))
            return 1;
    return 0;
}
