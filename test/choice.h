/* choice.h: what tests of the choice wing share: BLAS on one thread, and a clock for what must be quick. */
#ifndef VENEER_TEST_CHOICE_H
#define VENEER_TEST_CHOICE_H
#include <time.h>

#include "base/linalg.h"

/* Of this process's own work: what runs beside a test does not make it slower. */
static inline double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* A group's setup. */
static inline int choice_setup(void **state)
{
    (void)state;
    linalg_init();
    return 0;
}

#endif
