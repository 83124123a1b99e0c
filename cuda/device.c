/* device.c: opening a CUDA device and what can be wrong with it; memory, copies, the first failure.
 *
 * CUDA's runtime is part of the program and asks for the driver when it is first used; cuBLAS is looked for when a device is opened.  So one program
 * runs with and without a GPU. */
#include "cuda/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/private.h"
#include "quant_affine.h"
#include "quant_ggml.h"

enum { OLDEST = 8 }; /* compute capability */

/* ---- failures ---- */

void device_note(struct device *device, cudaError_t error, const char *where)
{
    if (error == cudaSuccess || device->where)
        return;
    device->error = error;
    device->where = where;
}

void device_note_blas(struct device *device, cublasStatus_t status, const char *where)
{
    if (status == CUBLAS_STATUS_SUCCESS || device->where)
        return;
    device->blas_error = status;
    device->where = where;
}

enum status device_check(struct device *device, struct err *err)
{
    device_note(device, cudaStreamSynchronize(device->stream), "the kernels");
    if (!device->where)
        return OK;
    if (device->error != cudaSuccess)
        return err_set(err, ERR_FAILED, "the GPU %s failed in %s: %s", device->name, device->where, cudaGetErrorString(device->error));
    return err_set(err, ERR_FAILED, "cuBLAS failed on the GPU %s in %s: status %d", device->name, device->where, (int)device->blas_error);
}

/* ---- opening ---- */

static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

/* GPUs of the machine, those too that CUDA_VISIBLE_DEVICES hides: NVML, which comes with the driver, counts them.  0: not known. */
static unsigned count_gpus(void)
{
    int (*start)(void), (*count)(unsigned *), (*stop)(void);
    unsigned n = 0;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    if (find(library, "nvmlInit_v2", &start) && find(library, "nvmlDeviceGetCount_v2", &count) && find(library, "nvmlShutdown", &stop) && start() == 0) {
        n = count(&n) == 0 ? n : 0;
        stop();
    }
    dlclose(library);
    return n;
}

/* Where CUDA_VISIBLE_DEVICES hides every device the sentence names its value, and how many there are. */
static enum status none_visible(struct err *err)
{
    static const char unset[] = "or the variable unset";
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible)
        return err_set(err, ERR_INPUT, "no CUDA device: the driver finds no GPU (nvidia-smi lists them), want one or device = cpu");
    unsigned n = count_gpus();
    const char *quote = visible[0] ? "'" : "", *value = visible[0] ? visible : "empty";
    if (n == 0)
        return err_set(err, ERR_INPUT, "no CUDA device: CUDA_VISIBLE_DEVICES is %s%s%s, which names no GPU of this machine, want its number, such as 0, %s", quote,
                       value, quote, unset);
    if (n == 1)
        return err_set(err, ERR_INPUT, "no CUDA device: CUDA_VISIBLE_DEVICES is %s%s%s, this machine has 1 GPU, want 0 %s", quote, value, quote, unset);
    return err_set(err, ERR_INPUT, "no CUDA device: CUDA_VISIBLE_DEVICES is %s%s%s, this machine has %u GPUs, want a number from 0 to %u %s", quote, value, quote,
                   n, n - 1, unset);
}

static enum status check_driver(struct err *err)
{
    int driver = 0, runtime = 0, count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return err_set(err, ERR_INPUT, "no CUDA driver: libcuda.so.1 is not there, want NVIDIA's driver or device = cpu");
    if (cudaRuntimeGetVersion(&runtime) == cudaSuccess && driver / 1000 < runtime / 1000)
        return err_set(err, ERR_INPUT, "the CUDA driver is for CUDA %d.%d, this program was built with CUDA %d.%d, want a newer driver", driver / 1000,
                       driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || error == cudaErrorInvalidDevice || (error == cudaSuccess && count == 0))
        return none_visible(err);
    if (error == cudaErrorInsufficientDriver)
        return err_set(err, ERR_INPUT, "the CUDA driver is too old for this program's CUDA %d.%d, want a newer driver", runtime / 1000, runtime % 1000 / 10);
    if (error != cudaSuccess)
        return err_set(err, ERR_INPUT, "the CUDA driver gives no device: %s", cudaGetErrorString(error));
    return OK;
}

static enum status check_card(struct device *d, struct err *err)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(0);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, 0);
    if (error != cudaSuccess)
        return err_set(err, ERR_INPUT, "the first CUDA device cannot be used: %s", cudaGetErrorString(error));
    snprintf(d->name, sizeof d->name, "%s", properties.name);
    if (properties.major < OLDEST)
        return err_set(err, ERR_INPUT, "the GPU %s has compute capability %d.%d, want 8.0 or newer (Ampere and later) or device = cpu", d->name,
                       properties.major, properties.minor);
    return OK;
}

/* ---- cuBLAS ---- */

/* The system's library, or the toolkit's. */
static void *open_blas(void)
{
    static const char *const names[] = {"libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13", "libcublas.so"};
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

static enum status load_blas(struct blas *b, struct err *err)
{
    b->library = open_blas();
    if (!b->library)
        return err_set(err, ERR_INPUT, "no cuBLAS: libcublas.so.13 is not there (LD_LIBRARY_PATH may name its folder), want the CUDA 13 libraries or device = cpu");
    bool all = find(b->library, "cublasCreate_v2", &b->create) && find(b->library, "cublasDestroy_v2", &b->destroy) &&
               find(b->library, "cublasSetStream_v2", &b->set_stream) && find(b->library, "cublasSetWorkspace_v2", &b->set_workspace) &&
               find(b->library, "cublasSetMathMode", &b->set_math_mode) && find(b->library, "cublasGemmEx", &b->gemm);
    return all ? OK : err_set(err, ERR_INPUT, "the cuBLAS found lacks a function that this program calls, want the library of CUDA 13");
}

static enum status open_handle(struct device *d, struct err *err)
{
    struct blas *b = &d->blas;
    cublasStatus_t status = b->create(&b->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        b->handle = NULL;
        return err_set(err, ERR_FAILED, "cuBLAS cannot be started on the GPU %s: status %d", d->name, (int)status);
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        status = b->set_stream(b->handle, d->stream);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = b->set_workspace(b->handle, d->own, WORKSPACE);
    if (status == CUBLAS_STATUS_SUCCESS) /* f32 means f32: no rounding to TF32; and sums of halves stay in f32 */
        status = b->set_math_mode(b->handle, (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    if (status != CUBLAS_STATUS_SUCCESS)
        return err_set(err, ERR_FAILED, "cuBLAS cannot be set up on the GPU %s: status %d", d->name, (int)status);
    return OK;
}

/* ---- what every device keeps ---- */

/* Entries by value; of two equal ones (fp4's zeros) the lower code stays. */
static void rank(struct code_books *books, int which, const float table[16])
{
    int n = 0;
    for (int code = 0; code < 16; code++) {
        int at = 0;
        while (at < n && table[books->rank4[which].code[at]] < table[code])
            at++;
        if (at < n && table[books->rank4[which].code[at]] == table[code])
            continue;
        memmove(books->rank4[which].code + at + 1, books->rank4[which].code + at, (size_t)(n++ - at));
        books->rank4[which].code[at] = (uint8_t)code;
    }
    books->rank4[which].n = n;
    for (int i = 0; i + 1 < n; i++)
        books->rank4[which].midpoint[i] = 0.5f * (table[books->rank4[which].code[i]] + table[books->rank4[which].code[i + 1]]);
}

static void fill_books(struct code_books *books)
{
    memset(books, 0, sizeof *books);
    rank(books, 0, quant_nf4_table);
    rank(books, 1, quant_fp4_table);
    memcpy(books->nf4, quant_nf4_table, sizeof books->nf4);
    memcpy(books->fp4, quant_fp4_table, sizeof books->fp4);
    memcpy(books->nf8, quant_nf8_table(), sizeof books->nf8);
    memcpy(books->dynamic, quant_dynamic_table(true), sizeof books->dynamic);
    for (int i = 0; i < 16; i++)
        books->iq4[i] = (float)quant_iq4_table[i];
}

static enum status short_of(struct device *d, const char *what, size_t bytes, struct err *err)
{
    size_t total = 0, available = 0;
    cudaGetLastError(); /* this failure is handled: the device stays of use */
    TRY(device_memory(d, &total, &available, err));
    return err_set(err, ERR_MEMORY, "%s: the GPU %s has %zu of its %zu bytes free, want %zu or device = cpu", what, d->name, available, total, bytes);
}

static enum status take_own(struct device *d, struct err *err)
{
    struct code_books books;
    if (cudaMalloc(&d->own, device_own_bytes()) != cudaSuccess) {
        d->own = NULL;
        return short_of(d, "cuBLAS's workspace", device_own_bytes(), err);
    }
    unsigned char *at = (unsigned char *)d->own + WORKSPACE;
    d->books = (const struct code_books *)(void *)at;
    d->results = (double *)(void *)(at + piece_bytes(sizeof books));
    fill_books(&books);
    return device_upload(d, at, &books, sizeof books, err);
}

static enum status open_all(struct device *d, struct err *err)
{
    TRY(check_driver(err));
    TRY(check_card(d, err));
    TRY(load_blas(&d->blas, err));
    cudaError_t error = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        d->stream = NULL;
        return err_set(err, ERR_FAILED, "the GPU %s gives no stream: %s", d->name, cudaGetErrorString(error));
    }
    TRY(take_own(d, err));
    return open_handle(d, err);
}

enum status device_open(struct device **device, struct err *err)
{
    struct device *d = calloc(1, sizeof *d);
    *device = NULL;
    if (!d)
        return err_set(err, ERR_MEMORY, "out of memory for a device");
    enum status status = open_all(d, err);
    if (status != OK) {
        device_close(d);
        return status;
    }
    *device = d;
    return OK;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    if (d->blas.handle)
        d->blas.destroy(d->blas.handle);
    if (d->own)
        cudaFree(d->own);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    if (d->blas.library)
        dlclose(d->blas.library);
    free(d);
}

const char *device_name(const struct device *device)
{
    return device->name;
}

/* ---- memory ---- */

enum status device_memory(const struct device *device, size_t *total, size_t *available, struct err *err)
{
    cudaError_t error = cudaMemGetInfo(available, total);
    if (error != cudaSuccess)
        return err_set(err, ERR_FAILED, "the GPU %s does not say how much memory it has: %s", device->name, cudaGetErrorString(error));
    return OK;
}

enum status device_commit(struct device *device, struct arena *arena, const char *what, struct err *err)
{
    void *base = NULL;
    if (arena->overflow)
        return err_set(err, ERR_MEMORY, "%s: the size does not fit in memory addresses", what);
    size_t size = arena->used ? arena->used : 64;
    cudaError_t error = cudaMalloc(&base, size);
    if (error == cudaErrorMemoryAllocation)
        return short_of(device, what, size, err);
    if (error == cudaSuccess) {
        arena->base = base;
        arena->size = size;
        arena->used = 0;
        error = cudaMemsetAsync(base, 0, size, device->stream);
    }
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(device->stream);
    if (error == cudaSuccess)
        return OK;
    device_release(device, arena);
    return err_set(err, ERR_FAILED, "%s: the GPU %s gives no memory: %s", what, device->name, cudaGetErrorString(error));
}

void device_release(struct device *device, struct arena *arena)
{
    if (arena->base)
        device_note(device, cudaFree(arena->base), "giving memory back");
    memset(arena, 0, sizeof *arena);
}

struct pieces pieces_of(const struct ops_context *c)
{
    unsigned char *at = (unsigned char *)(void *)c->scratch;
    return (struct pieces){.device = c->device, .at = at, .end = at + (c->shared_n + c->scratch_n * (size_t)c->threads) * sizeof(real)};
}

void *piece_take(struct pieces *p, size_t bytes)
{
    unsigned char *at = p->at + (size_t)(-(uintptr_t)p->at % 256);
    if (bytes > (size_t)(p->end - at) || at > p->end) {
        device_note(p->device, cudaErrorMemoryAllocation, "the scratch memory, which was planned too small");
        return NULL;
    }
    p->at = at + bytes;
    return at;
}

/* ---- copies ---- */

static enum status copy(struct device *d, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, struct err *err)
{
    cudaError_t error = bytes == 0 ? cudaSuccess : cudaMemcpyAsync(to, from, bytes, kind, d->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(d->stream);
    device_note(d, error, kind == cudaMemcpyHostToDevice ? "a copy to it" : "a copy from it");
    return device_check(d, err);
}

enum status device_upload(struct device *device, void *to, const void *from, size_t bytes, struct err *err)
{
    return copy(device, to, from, bytes, cudaMemcpyHostToDevice, err);
}

enum status device_download(struct device *device, void *to, const void *from, size_t bytes, struct err *err)
{
    return copy(device, to, from, bytes, cudaMemcpyDeviceToHost, err);
}

void device_zero(struct device *device, void *to, size_t bytes)
{
    if (bytes > 0)
        device_note(device, cudaMemsetAsync(to, 0, bytes, device->stream), "clearing memory");
}

void device_copy(struct device *device, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, size_t rows)
{
    cudaError_t error;
    if (bytes == 0 || rows == 0)
        return;
    if (rows == 1) /* strides have a limit, lengths have none */
        error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device->stream);
    else
        error = cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, rows, cudaMemcpyDeviceToDevice, device->stream);
    device_note(device, error, "a copy within it");
}

enum status device_upload_matrix(struct device *device, struct qmat *to, const struct qmat *from, struct err *err)
{
    size_t n = from->rows * from->cols, bytes = quant_bytes(from->format, from->block, from->double_quant, from->rows, from->cols);
    size_t blocks = from->format == FORMAT_INT8 ? from->rows : from->block ? (n + (size_t)from->block - 1) / (size_t)from->block : 0;
    size_t nested = (blocks + 255) / 256 * sizeof(float);
    to->nested_offset = from->nested_offset;
    if (from->double_quant) {
        bytes -= blocks + nested + sizeof(float);
        TRY(device_upload(device, to->scale_codes, from->scale_codes, blocks, err));
        TRY(device_upload(device, to->nested_absmax, from->nested_absmax, nested, err));
    } else if (from->scales) {
        bytes -= blocks * sizeof(float);
        TRY(device_upload(device, to->scales, from->scales, blocks * sizeof(float), err));
    } else if (from->affine) {
        bytes -= quant_affine_groups(n) * 2 * sizeof(uint16_t);
        TRY(device_upload(device, to->affine, from->affine, quant_affine_groups(n) * 2 * sizeof(uint16_t), err));
    }
    return device_upload(device, to->codes, from->codes, bytes, err);
}
