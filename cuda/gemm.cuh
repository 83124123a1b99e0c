/* gemm.cuh: row-major products by cuBLAS; private to gemm.cu and head.cu. */
#ifndef VENEER_CUDA_GEMM_CUH
#define VENEER_CUDA_GEMM_CUH
#include "cuda/kernels.cuh"

/* A matrix as a product reads it: floats, or bf16 when the context computes in halves. */
struct operand {
    const void *at;
    cudaDataType type;
    size_t ld;
};

/* Acts (ops.h) lie as products read and write them. */
static inline cudaDataType act_type(const struct ops_context *c)
{
    return act_in_halves(c) ? CUDA_R_16BF : CUDA_R_32F;
}

/* x[rows, cols] of reals with rows `ld` apart: itself, or a copy in bf16, without gaps, in a piece of scratch. */
struct operand operand_of(const struct ops_context *c, struct pieces *p, const float *x, size_t rows, size_t cols, size_t ld);
/* Rows row0 .. row0+n-1 of W: in place where it is stored as the product reads it, else decoded into a piece.  row0 is a multiple of 8. */
struct operand weight_of(const struct ops_context *c, struct pieces *p, const struct qmat *W, size_t row0, size_t n);
/* Rows of W at once, where a product goes through them in turn: SLAB, or all where W is not decoded. */
size_t slab_of(const struct ops_context *c, const struct qmat *W);
/* The part of an operand, or of a result, that begins at (row, col). */
struct operand operand_at(struct operand a, size_t row, size_t col);

/* A matrix that a product writes: floats or bf16. */
struct result {
    void *at;
    cudaDataType type;
    size_t ld;
};
struct result result_at(struct result a, size_t row, size_t col);

/* C[M, N] = alpha op(A) op(B) + beta C, all row-major; op(X) = X^T where t is true.  Sums in fp32, rounded once into C. */
struct product {
    bool ta, tb;
    size_t M, N, K;
    float alpha, beta;
    struct operand A, B;
    struct result C;
};
void multiply(struct device *device, const struct product *p);

#endif
