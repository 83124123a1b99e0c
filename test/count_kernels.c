/* count_kernels.c: one kernel called on one thread, for test/callgrind.sh to count its instructions.
 *
 *     count_kernels KERNEL
 *
 * The first call wakes tables and threads, the second, in counted_call, is the one that counts.  What it is not: a test of results (ops_test.c) or of speed
 * (bench/). */
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/rng.h"
#include "ops.h"
#include "quant_panel.h"

enum { TOKENS = 128, H = 9, KV = 3, D = 64 };

struct kernel {
    const char *name;
    size_t n, out, in; /* of the linears */
    enum compute compute;
    bool backward, attention;
};

static const struct kernel kernels[] = {
    {.name = "forward", .n = 64, .out = 576, .in = 576},
    {.name = "dX", .n = 64, .out = 576, .in = 576, .backward = true},
    {.name = "few", .n = 1, .out = 576, .in = 1536},
    {.name = "few_fixed", .n = 1, .out = 576, .in = 1536, .compute = COMPUTE_BF16}, /* AVX2: 16-bit fixed point */
    {.name = "attention", .n = TOKENS, .out = H * D, .in = H * D, .attention = true},
};

struct work {
    struct ops_context ops;
    struct qmat W;
    real *weights, *x, *y, *k, *v, *lse;
};

static void normals(real *x, size_t n, uint32_t step)
{
    struct rng rng = {.seed = 1, .stream = RNG_INIT, .step = step};
    for (size_t i = 0; x && i < n; i++)
        x[i] = (real)rng_normal(&rng);
}

static void place(struct work *w, const struct kernel *kernel, size_t scratch, struct arena *arena)
{
    size_t wide = kernel->out > kernel->in ? kernel->out : kernel->in;
    quant_place(&w->W, FORMAT_NF4, 64, false, kernel->out, kernel->in, arena);
    w->weights = arena_take(arena, kernel->out * kernel->in, sizeof(real));
    w->x = arena_take(arena, kernel->n * wide, sizeof(real));
    w->y = arena_take(arena, kernel->n * wide, sizeof(real));
    w->k = arena_take(arena, (size_t)TOKENS * KV * D, sizeof(real));
    w->v = arena_take(arena, (size_t)TOKENS * KV * D, sizeof(real));
    w->lse = arena_take(arena, (size_t)TOKENS * H, sizeof(real));
    w->ops.scratch = arena_take(arena, scratch, sizeof(real));
}

static enum status make(struct work *w, const struct kernel *kernel, struct arena *arena, struct err *err)
{
    TRY(cpu_check(err));
    w->ops = (struct ops_context){.ops = cpu_ops(false), .threads = 1, .compute = kernel->compute};
    size_t scratch = w->ops.ops->scratch_size(&w->ops, kernel->out, kernel->in, D, TOKENS, 16);
    place(w, kernel, scratch, arena);
    TRY(arena_commit(arena, "kernel", err));
    place(w, kernel, scratch, arena);
    normals(w->weights, kernel->out * kernel->in, 1);
    normals(w->x, kernel->n * (kernel->backward ? kernel->out : kernel->in), 2);
    normals(w->k, (size_t)TOKENS * KV * D, 3);
    normals(w->v, (size_t)TOKENS * KV * D, 4);
    TRY(quant_encode(&w->W, w->weights, false, err));
    return quant_to_panels(&w->W, err);
}

static void call(const struct work *w, const struct kernel *kernel)
{
    const struct ops *ops = w->ops.ops;
    if (kernel->attention) {
        struct segment segment = {.start = 0, .len = TOKENS};
        struct attention_args a = {.segments = &segment, .n_segments = 1, .n = TOKENS, .H = H, .KV = KV, .D = D, .q = w->x, .k = w->k, .v = w->v,
                                   .out = w->y, .lse = w->lse};
        ops->attention_forward(&w->ops, &a);
        return;
    }
    struct linear_args a = {.W = &w->W, .n = kernel->n, .x = w->x, .y = w->y};
    if (kernel->backward)
        a = (struct linear_args){.W = &w->W, .n = kernel->n, .dy = w->x, .dx = w->y};
    if (kernel->backward)
        ops->linear_backward(&w->ops, &a);
    else
        ops->linear_forward(&w->ops, &a, 1);
}

/* A function of its own with a name to be found by: callgrind counts between its entry and its return. */
void counted_call(const struct work *w, const struct kernel *kernel);
__attribute__((noinline)) void counted_call(const struct work *w, const struct kernel *kernel)
{
    call(w, kernel);
}

int main(int argc, char **argv)
{
    struct arena arena = {0};
    struct work work;
    struct err err;
    for (size_t i = 0; argc == 2 && i < sizeof kernels / sizeof *kernels; i++) {
        if (strcmp(kernels[i].name, argv[1]) != 0)
            continue;
        if (make(&work, &kernels[i], &arena, &err) != OK) {
            fprintf(stderr, "count_kernels: %s\n", err.text);
            return 1;
        }
        call(&work, &kernels[i]);
        counted_call(&work, &kernels[i]);
        arena_free(&arena);
        return 0;
    }
    fprintf(stderr, "usage: count_kernels forward|dX|few|few_fixed|attention\n");
    return 2;
}
