/* roofline.h: the limits of this machine in this minute: multiplications and bytes a second that nothing can exceed.
 *
 * Measured, not looked up: clocks move, and on a shared host the memory's share moves more.  A figure elsewhere in bench/ is a share of a limit that was
 * measured between its own repeats.  Williams, Waterman, Patterson 2009 ("Roofline", CACM 52(4)).
 * What it is not: it knows no kernel of ours. */
#ifndef VENEER_BENCH_ROOFLINE_H
#define VENEER_BENCH_ROOFLINE_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Seconds for all measurements here: of the wall, or with BENCH_CLOCK=cpu in the environment those that this process has run, so that one thread can be
 * measured on a machine that others use.  (With more threads it would count their waiting for each other.) */
double bench_clock_s(void);

enum peak {
    PEAK_F32,  /* fused multiply-add of fp32, the widest vectors there are */
    PEAK_BF16, /* products of bf16 pairs added to fp32 (VDPBF16PS, BFMMLA) */
    PEAK_INT8, /* products of 8-bit quadruples added to int32 (VPDPBUSD) */
    PEAK_COUNT
};

/* The instruction behind a peak on this CPU ("VDPBF16PS, 512 bits"), NULL when it has none. */
const char *peak_name(enum peak peak);
/* 10^9 operations a second (a multiplication and an addition are two) of `threads` threads together; the best of a few runs, 15 ms in all.  NaN when the CPU
 * lacks the instruction. */
double peak_measure(enum peak peak, int threads);

/* Memory to read: huge pages where the system gives them, every page touched. */
struct read_buffer {
    unsigned char *bytes;
    size_t n;
};
/* ERR_MEMORY when n bytes are not to be had. */
enum status read_buffer_open(struct read_buffer *buffer, size_t n, struct err *err);
void read_buffer_close(struct read_buffer *buffer);
/* 10^9 bytes a second.  Each thread reads its own share of the buffer's first `n` bytes from front to back, again and again until about 32 MiB a
 * thread have gone (the whole at least once); the best of two access patterns: with and without prefetching 4 KiB ahead. */
double read_measure(const struct read_buffer *buffer, size_t n, int threads);

/* True when the level that runs (VENEER_CPU) multiplies bf16: its products are then held against PEAK_BF16, else against PEAK_F32. */
bool level_has_bf16(void);
/* The same of bytes: the fast mode exists. */
bool level_has_int8(void);

#endif
