/* roof.h: what the small programs share: options that take a value, messages, exit codes. */
#ifndef VENEER_ROOF_H
#define VENEER_ROOF_H
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/stop.h"
#include "cuda/device.h"
#include "ops.h"
#include "use_device.h"
#include "veneer.h"

/* First in main.  Two libraries read the environment once, before main, so the program starts itself again with what is missing in it.
 *
 * OpenMP: threads that wait shall spin for some 40 microseconds and then sleep.  Longer spinning slows a model down twentyfold and more where
 * another program shares the cores; no spinning costs a wake-up at each of the 200 meetings of threads that a decoded token takes.
 * OpenBLAS: no threads of its own (linalg.h uses one); where memory is short they would ask for it forever and the program never end. */
static inline void roof_start(char **argv)
{
    bool again = false;
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT"))
        again = setenv("OMP_WAIT_POLICY", "passive", 1) == 0 && setenv("GOMP_SPINCOUNT", "2000", 1) == 0;
    if (!getenv("OPENBLAS_NUM_THREADS"))
        again = setenv("OPENBLAS_NUM_THREADS", "1", 1) == 0 || again;
    if (again)
        execv("/proc/self/exe", argv); /* when it cannot: on as it is */
}

/* --help or --version anywhere: prints it, *code is the exit code. */
static inline bool roof_asked(int argc, char **argv, const char *usage, int *code)
{
    for (int i = 1; i < argc; i++) {
        bool help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
        if (help)
            *code = fputs(usage, stdout) < 0;
        else if (strcmp(argv[i], "--version") == 0)
            *code = printf("veneer %s\n", veneer_version()) < 0;
        else
            continue;
        return true;
    }
    return false;
}

/* ERR_DIVERGED has no exit code of its own. */
static inline int roof_fail(const char *program, enum status status, const struct err *err)
{
    fprintf(stderr, "%s: %s\n", program, err->text);
    return status == ERR_DIVERGED ? ERR_FAILED : (int)status;
}

/* If argv[*i] is `name`, its value is the next word: *value is set and *i moved.  A missing value is *value = NULL. */
static inline bool roof_option(int argc, char **argv, int *i, const char *name, const char **value)
{
    if (strcmp(argv[*i], name) != 0)
        return false;
    *value = *i + 1 < argc ? argv[++*i] : NULL;
    return true;
}

static inline enum status roof_int(const char *name, const char *value, long long low, long long high, long long *out, struct err *err)
{
    char *end;
    errno = 0;
    long long x = value ? strtoll(value, &end, 10) : 0;
    if (!value || end == value || *end || errno || x < low || x > high)
        return err_set(err, ERR_INPUT, "%s %s, want a whole number from %lld to %lld", name, value ? value : "without a value", low, high);
    *out = x;
    return OK;
}

/* More threads than cores give the same bits, later: that is worth a line. */
static inline void roof_threads(const char *program, long long threads, bool quiet)
{
    if (threads > machine_cores() && !quiet)
        fprintf(stderr, "%s: --threads %lld on %d cores: they take turns; --threads 0 is one a core\n", program, threads, machine_cores());
}

/* Where auto found one, that is worth a line too. */
static inline void roof_device(const char *program, const struct ops_context *kernels, bool quiet)
{
    if (kernels->device && !quiet)
        fprintf(stderr, "%s: on the GPU %s\n", program, device_name(kernels->device));
}

/* --device and --compute-dtype; use_device_close gives back what is opened.  ERR_INPUT. */
static inline enum status roof_kernels(const char *device, const char *compute, struct ops_context *kernels, struct err *err)
{
    TRY(compute_parse(compute, &kernels->compute, err));
    TRY(use_device_open(device, kernels, err));
    if (kernels->device && strcmp(compute, "auto") == 0)
        kernels->compute = COMPUTE_BF16; /* what is fast on it, whatever the CPU has */
    return OK;
}

#endif
