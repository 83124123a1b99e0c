/* child.h: a measurement in a process of its own, so that its peak of resident memory is its own.
 *
 * The parent must not have started threads (a forked OpenMP runtime has none of them); so whoever uses this measures everything in children. */
#ifndef VENEER_BENCH_CHILD_H
#define VENEER_BENCH_CHILD_H
#include <stddef.h>

#include "base/err.h"

/* work(argument, result[bytes]) in a child; its result, or its sentence.  ERR_FAILED also when the child dies by a signal. */
enum status child_run(enum status (*work)(const void *argument, void *result, struct err *err), const void *argument, void *result, size_t bytes,
                      struct err *err);

#endif
