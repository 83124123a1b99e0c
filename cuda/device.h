/* device.h: one CUDA device: opening it, its memory, copies, the table of its kernels.
 *
 * No type of CUDA's is seen here: what stands above the waist holds a `struct device *` and pointers into its memory.  In a build without CUDA the
 * same functions exist (stub.c), and opening says what is missing.
 *
 * Work is queued on one stream and runs in order; nothing fails where it is queued (ops.h).  The first failure is remembered and device_check hands
 * it up.  Memory is planned by the same code as on the CPU: count with an arena, device_commit it, carve it; its base is then an address of the device. */
#ifndef VENEER_CUDA_DEVICE_H
#define VENEER_CUDA_DEVICE_H
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "ops.h"

struct device;

/* Opens the first device that CUDA_VISIBLE_DEVICES leaves.  ERR_INPUT, with what to do: built without CUDA, no driver, a driver older than the toolkit,
 * no visible device, a card below compute capability 8.0, no cuBLAS.  ERR_MEMORY: no room for what every device keeps (device_own_bytes). */
enum status device_open(struct device **device, struct err *err);
void device_close(struct device *device); /* NULL is fine */
const char *device_name(const struct device *device);
/* Bytes that an open device keeps for itself, beside its driver's own: cuBLAS's workspace and the code books.  Part of every build. */
size_t device_own_bytes(void);
/* The table's scratch_size (ops.h), part of every build: a plan counts it without a GPU. */
size_t device_scratch_size(struct ops_context *c, size_t max_out, size_t max_in, size_t D, size_t T, size_t V);
/* Bytes of the device, and of them free now. */
enum status device_memory(const struct device *device, size_t *total, size_t *available, struct err *err);

/* arena_commit and arena_free with memory of the device, zeroed.  ERR_MEMORY names `what`, the bytes wanted and those that are free. */
enum status device_commit(struct device *device, struct arena *arena, const char *what, struct err *err);
void device_release(struct device *device, struct arena *arena);

/* Host to device and back; each returns when the bytes are there. */
enum status device_upload(struct device *device, void *to, const void *from, size_t bytes, struct err *err);
enum status device_download(struct device *device, void *to, const void *from, size_t bytes, struct err *err);
/* Zeros, queued behind what was. */
void device_zero(struct device *device, void *to, size_t bytes);
/* Within the device's memory: `rows` pieces of `bytes`, one every to_stride and from_stride bytes; queued. */
void device_copy(struct device *device, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, size_t rows);
/* The bits of `from` (host, layout of files) into `to`, placed in the device's memory with from's format, block and shape. */
enum status device_upload_matrix(struct device *device, struct qmat *to, const struct qmat *from, struct err *err);

/* Waits for all that was queued.  ERR_FAILED says what failed first and in which kernel; the device is of no use from then on. */
enum status device_check(struct device *device, struct err *err);

/* W[rows, cols] (device) -> q (placed on the device): the bits of quant_encode, for nf4, fp4 (with double quantization), int8, int8_64, nf8, hqq2, hqq3,
 * hqq4, q4_0, q8_0 and the floats.  W is finite and fits the format (quant_check_values, or values that came from a format).  ERR_INPUT: another format. */
enum status device_encode(struct device *device, struct qmat *q, const real *W, bool f16_first, struct err *err);

/* The table; NULL in a build without CUDA.  Every slot of ops.h is filled; ops_context.device is the open device, scratch lies in its memory. */
const struct ops *device_ops(void);

#endif
