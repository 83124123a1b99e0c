/* log.c: lines, clocks, the memory of this process, the machine's cores. */
#include "base/log.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void log_line(const struct log *log, const char *format, ...)
{
    if (!log || !log->line)
        return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log->line(log->user, text);
}

double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* VmHWM counts this program only; ru_maxrss would include what the process was before exec, such as a large shell. */
double process_peak_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    double kib = 0;
    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf kB", &kib) != 1)
            kib = 0;
    if (f)
        fclose(f);
    if (kib > 0)
        return 1024 * kib;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return 1024.0 * (double)usage.ru_maxrss;
}

double process_now_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    long long total = 0, resident = 0;
    int got = fscanf(f, "%lld %lld", &total, &resident);
    fclose(f);
    return got == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

int machine_cores(void)
{
    cpu_set_t allowed; /* of containers, taskset and batch systems: more threads than these cores would wait for one another */
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0)
        return CPU_COUNT(&allowed);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 ? (int)cores : 1;
}
