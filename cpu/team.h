/* team.h: who computes a kernel's parts: one thread, a new OpenMP team, or the team that waits already (ops->together).
 *
 * A team for one kernel costs about 1.2 us, waking one that spins 0.3: a token of a 135M model takes 150 kernels and 2500 us.
 * Private to cpu/. */
#ifndef VENEER_CPU_TEAM_H
#define VENEER_CPU_TEAM_H
#include <omp.h>
#include <stdatomic.h>

#include "base/size.h"
#include "ops.h"

/* Threads worth waking for so many multiplications. */
static inline int team(const struct ops_context *c, size_t work)
{
    return work < 60000 ? 1 : c->threads;
}

/* run(args) on each of team(c, work) threads at once: `omp for` and `omp barrier` in it are the team's. */
void team_run(const struct ops_context *c, size_t work, void (*run)(void *args), void *args);

/* part(args, begin, end) for runs of neighbours that make up 0 .. n-1, one run a thread. */
void team_share(const struct ops_context *c, size_t work, size_t n, void (*part)(void *args, size_t begin, size_t end), void *args);

/* Tasks 0 .. n-1 of different lengths.  Each thread of a team first takes from its own run of neighbours, then from what others have left: where tasks lie
 * as rows do, a thread mostly meets what it wrote itself. */
struct deal {
    size_t n, runs;
    struct {
        _Alignas(64) atomic_size_t next;
    } run[32];
};

static inline void deal_open(struct deal *d, size_t n, int threads)
{
    d->n = n;
    d->runs = size_min((size_t)threads, sizeof d->run / sizeof *d->run);
    for (size_t r = 0; r < d->runs; r++)
        atomic_init(&d->run[r].next, n * r / d->runs);
}

/* A task that nobody has taken; n: there is none. */
static inline size_t deal_next(struct deal *d)
{
    size_t own = (size_t)omp_get_thread_num();
    for (size_t i = 0; i < d->runs; i++) {
        size_t r = (own + i) % d->runs, task = atomic_fetch_add_explicit(&d->run[r].next, 1, memory_order_relaxed);
        if (task < d->n * (r + 1) / d->runs)
            return task;
    }
    return d->n;
}

/* ops->together: body(args) on this thread, while the others wait for what team_run and team_share, called by it, hand out. */
void team_together(const struct ops_context *c, void (*body)(void *args), void *args);

#endif
