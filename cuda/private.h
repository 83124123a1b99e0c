/* private.h: what the files of cuda/ share: the open device, how a failure is kept, scratch, the slots. */
#ifndef VENEER_CUDA_PRIVATE_H
#define VENEER_CUDA_PRIVATE_H
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* in C++ the function format_info hides a constructor of the struct */
extern "C" {
#include "cuda/sizes.h"
}
#pragma GCC diagnostic pop
extern "C" {
#else
#include "cuda/sizes.h"
#endif

/* cuBLAS by its symbols: found when a device is opened, so that a program starts where there is none. */
struct blas {
    void *library;
    cublasHandle_t handle;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*set_workspace)(cublasHandle_t, void *, size_t);
    cublasStatus_t (*set_math_mode)(cublasHandle_t, cublasMath_t);
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *, const void *, cudaDataType, int,
                           const void *, cudaDataType, int, const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
};

struct device {
    char name[256];
    cudaStream_t stream;
    struct blas blas;
    void *own;                      /* one piece of memory: workspace, books, results */
    const struct code_books *books; /* device */
    double *results;                /* device [RESULTS] */
    cudaError_t error;              /* first failure of a call or launch, and where */
    cublasStatus_t blas_error;
    const char *where;
};

/* After each launch, and around each call that should not fail: keeps the first failure. */
void device_note(struct device *device, cudaError_t error, const char *where);
void device_note_blas(struct device *device, cublasStatus_t status, const char *where);
static inline void launched(struct device *device, const char *kernel)
{
    device_note(device, cudaGetLastError(), kernel);
}

/* Pieces of the context's scratch, in order, aligned to 256 bytes.  What a kernel takes was counted by sizes.c: running out is our own mistake
 * and is noted as one; the piece is then NULL. */
struct pieces {
    struct device *device;
    unsigned char *at, *end;
};
struct pieces pieces_of(const struct ops_context *c);
void *piece_take(struct pieces *p, size_t bytes);

/* The slots (ops.h says what each computes), by file. */
/* ops.cu */
void cuda_embed_backward(const struct ops_context *c, real *dW, const int32_t *tokens, size_t n, size_t C, const real *dy);
void cuda_rmsnorm_forward(const struct ops_context *c, act *y, real *s, const real *x, const real *g, real eps, size_t n, size_t C);
void cuda_rmsnorm_backward(const struct ops_context *c, real *dx, real *dg, const act *dy, const real *x, const real *g, const real *s, size_t n,
                           size_t C);
void cuda_rope_angles(const struct ops_context *c, real *angles, const int32_t *positions, const float *inv_freq, real scale, size_t n, size_t D);
void cuda_rope(const struct ops_context *c, act *x, const real *angles, size_t n, size_t heads, size_t D, bool backward);
void cuda_swiglu_forward(const struct ops_context *c, act *y, const act *gate, const act *up, size_t n);
void cuda_swiglu_backward(const struct ops_context *c, act *dgate, act *dup, const act *dy, const act *gate, const act *up, size_t n);
void cuda_add(const struct ops_context *c, real *y, const real *x, size_t n);
void cuda_add_squares(const struct ops_context *c, real *y, const real *x, real divisor, size_t n);
void cuda_to_bf16(const struct ops_context *c, uint16_t *to, const real *x, size_t n);
void cuda_from_bf16(const struct ops_context *c, real *y, const uint16_t *from, size_t n);
void cuda_adamw(const struct ops_context *c, const struct adamw_args *a);
double cuda_sum_squares(const struct ops_context *c, const real *x, size_t n);
/* quant.cu */
void cuda_embed_forward(const struct ops_context *c, const struct qmat *W, const int32_t *tokens, size_t n, real *y);
/* Rows row0 .. row0+n-1 as reals, or as bf16.  row0 * cols is a multiple of 8. */
void cuda_decode(struct device *device, const struct qmat *W, size_t row0, size_t n, void *to, bool halves);
/* y[n, rows] = x W^T straight from the codes; y is reals or acts.  cols is a multiple of 8, x begins at a multiple of 16 bytes. */
void cuda_gemv(const struct ops_context *c, const struct qmat *W, const act *x, size_t n, void *y, bool real_y);
/* gemm.cu */
void cuda_linear_forward(const struct ops_context *c, const struct linear_args *a, size_t count);
void cuda_linear_backward(const struct ops_context *c, const struct linear_args *a);
/* head.cu */
void cuda_head_loss(const struct ops_context *c, const struct head_args *a);
void cuda_divergence(const struct ops_context *c, real *p, real *q, size_t n, size_t V, double *kl, double *jsd, double *lse);
void cuda_salience(const struct ops_context *c, enum salience kind, const struct qmat *W, const real *G, const real *F, double *rows, double *cols);
/* sample.cu */
void cuda_sample(const struct ops_context *c, const struct sample_args *a);
/* attention.cu */
void cuda_attention_forward(const struct ops_context *c, const struct attention_args *a);
void cuda_attention_backward(const struct ops_context *c, const struct attention_args *a);
void cuda_attention_keep(const struct ops_context *c, const struct decode_args *a);
void cuda_attention_decode(const struct ops_context *c, const struct decode_args *a);
#ifdef __cplusplus
}
#endif

#endif
