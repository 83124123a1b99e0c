/* emu_ctl.h: what a test may ask of the emulator.  On a real GPU there is nothing behind it: guard calls by VENEER_CUDA_EMU.
 *
 * Environment: EMU_ORDER=0|1|2 and EMU_SEED (order of threads), EMU_LAZY=1 (streams run late), EMU_PTX=a.ptx:b.ptx (kernels found there run as
 * PTX), EMU_STOP=1 (ends at the first report).  A program that ends with reports nobody asked for (emu_errors) prints their number and ends with status 3. */
#ifndef VENEER_EMU_CTL_H
#define VENEER_EMU_CTL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

struct emu_counters {
    long launches, barriers, shuffles, mma, ldmatrix, atomics, accesses, gemms, gemms_unaligned, exited_before_barrier, ptx_instructions;
};

/* Order in which the threads that can run do: 0 ascending, 1 descending (blocks too), 2 shuffled by seed.  lazy: copies and launches on a
 * stream run when the host waits for them, so that a buffer reused or read too early gives wrong numbers.  stats: emu_print_stats. */
void emu_set(int order, unsigned long long seed, int lazy, int stats);
/* What the checker reported so far, all kinds; reset: forget it. */
long emu_errors(int reset);
/* Of them, those of a kind: memcheck, initcheck, racecheck, synccheck, launch, cublas, trap. */
long emu_reported(const char *kind);
/* 1: count reports, print none. */
void emu_quiet(int quiet);
/* 1: reports are made (the kernels were built for the checker, or run as PTX). */
int emu_checked(void);
void emu_counts(struct emu_counters *counts, int reset);
/* For each line that touches memory: sectors of a request, or ways of a bank conflict.  Then forgets them. */
void emu_print_stats(const char *title);

/* The nth call from now on (1: the next) of all that can fail, launches and cuBLAS's among them, fails; 0: none.  sticky: and every later one of
 * the device, as after an illegal address, until emu_revive. */
void emu_fail(long nth, int sticky);
void emu_revive(void);
/* Calls that can fail, made since the last reset; the name of the one that emu_fail made fail, or NULL. */
long emu_calls(int reset);
const char *emu_failed(void);
/* Device and pinned allocations, streams, events and cuBLAS handles that were made and not freed. */
long emu_live(void);
/* Device memory p[0 .. n) as the checker sees it from now on: nobody's, an access is out of bounds; or an allocation's that nobody wrote yet. */
void emu_fence(const void *p, size_t n);
void emu_forget(const void *p, size_t n);
/* Bytes of device memory in use now, and the most since the last reset. */
size_t emu_memory(size_t *most, int reset);

/* The machine that the API tells of. */
struct emu_device {
    int devices;         /* 0: cudaErrorNoDevice */
    int major, minor;    /* compute capability */
    int driver;          /* 13000 = CUDA 13.0; 0: there is no driver */
    size_t memory;       /* bytes; at most 1 GB can be had */
    bool no_blas;        /* dlopen finds no cuBLAS */
    int gpus;            /* as NVML counts them, visible or not; 0: dlopen finds no NVML */
};
extern const struct emu_device emu_default_device; /* one, 8.0, 13000, 1 GB, 1 */
void emu_set_device(const struct emu_device *device);

#ifdef __cplusplus
}
#endif
#endif
