/* team.c: kernels shared out among threads; short ones, one after the other, by threads that stay awake for them.
 *
 * Inside team_together all threads are one OpenMP team.  The first goes on as if it were alone.  When a kernel is worth sharing it posts the kernel and
 * takes its own part; the others, which wait for the count of posts to change, take theirs and count themselves done.  A post is read after its count
 * (release, acquire), a part's results after the count of those that are done. */
#include "cpu/team.h"

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>

enum { SPINS = 2000 /* some 40 us */ };

struct crew {
    int threads;
    void (*run)(void *args); /* of the last post; NULL: it is over */
    void *args;
    _Alignas(64) atomic_uint posts;
    _Alignas(64) atomic_uint parts; /* that the others have done, of all posts */
};

static _Thread_local struct crew *here; /* of the thread that posts */

static inline void breathe(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

/* Whoever waits long gives its core to others that want it. */
static void wait_until(atomic_uint *count, unsigned value)
{
    for (unsigned spins = 0; atomic_load_explicit(count, memory_order_acquire) != value; spins++)
        if (spins < SPINS)
            breathe();
        else
            sched_yield();
}

static void post(struct crew *crew, void (*run)(void *), void *args)
{
    crew->run = run;
    crew->args = args;
    atomic_fetch_add_explicit(&crew->posts, 1, memory_order_release);
}

static void crew_run(struct crew *crew, void (*run)(void *), void *args)
{
    post(crew, run, args);
    run(args);
    unsigned posts = atomic_load_explicit(&crew->posts, memory_order_relaxed);
    wait_until(&crew->parts, posts * (unsigned)(crew->threads - 1));
}

static void work(struct crew *crew)
{
    for (unsigned next = 1;; next++) { /* nothing is posted before the last post is done */
        wait_until(&crew->posts, next);
        if (!crew->run)
            return;
        crew->run(crew->args);
        atomic_fetch_add_explicit(&crew->parts, 1, memory_order_release);
    }
}

void team_run(const struct ops_context *c, size_t multiplications, void (*run)(void *args), void *args)
{
    int threads = team(c, multiplications);
    if (here && threads > 1) {
        crew_run(here, run, args);
        return;
    }
#pragma omp parallel num_threads(threads)
    run(args);
}

struct shared {
    void (*part)(void *, size_t, size_t);
    void *args;
    size_t n;
};

static void run_shared(void *args)
{
    const struct shared *s = args;
    size_t i = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads(), each = (s->n + threads - 1) / threads;
    if (i * each < s->n)
        s->part(s->args, i * each, s->n - i * each < each ? s->n : (i + 1) * each);
}

void team_share(const struct ops_context *c, size_t multiplications, size_t n, void (*part)(void *args, size_t begin, size_t end), void *args)
{
    if (team(c, multiplications) == 1)
        part(args, 0, n);
    else
        team_run(c, multiplications, run_shared, &(struct shared){part, args, n});
}

void team_together(const struct ops_context *c, void (*body)(void *args), void *args)
{
    struct crew crew = {.threads = 1};
    if (here || c->threads == 1 || c->threads > omp_get_num_procs()) { /* who has no core of its own must not wait awake */
        body(args);
        return;
    }
#pragma omp parallel num_threads(c->threads)
    {
#pragma omp single
        crew.threads = omp_get_num_threads();
        if (omp_get_thread_num() == 0) {
            here = crew.threads > 1 ? &crew : NULL;
            body(args);
            here = NULL;
            post(&crew, NULL, NULL);
        } else
            work(&crew);
    }
}
