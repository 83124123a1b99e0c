/* team.h: who computes a kernel's parts: one thread, a new OpenMP team, or the team that waits already (ops->together).
 *
 * A team for one kernel costs about 1.2 us, waking one that spins 0.3: a token of a 135M model takes 150 kernels and 2500 us.
 * Private to cpu/. */
#ifndef VENEER_CPU_TEAM_H
#define VENEER_CPU_TEAM_H
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

/* ops->together: body(args) on this thread, while the others wait for what team_run and team_share, called by it, hand out. */
void team_together(const struct ops_context *c, void (*body)(void *args), void *args);

#endif
