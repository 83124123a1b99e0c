// blas.cpp: cuBLAS as far as it is used: column-major, so that a wrong leading dimension or transposition gives wrong numbers, and stricter than the
// library: types, leading dimensions and bounds are checked on every call.  Sums in fp32, eight at a time: not the library's order.
#include "emu.h"
#include <algorithm>

using namespace emu;

struct cublasContext {
    cudaStream_t stream;
};

struct Matrix { // column-major, an element of it is rows x columns of what is stored
    const char *at;
    cudaDataType type;
    int rows, columns, ld;
    long long stride;
};

static size_t element_bytes(cudaDataType t)
{
    return t == CUDA_R_32F || t == CUDA_R_32I ? 4 : t == CUDA_R_8I ? 1 : 2;
}

static float element(const void *p, size_t i, cudaDataType t)
{
    switch (t) {
    case CUDA_R_32F:
        return static_cast<const float *>(p)[i];
    case CUDA_R_16BF:
        return unpack<float>(static_cast<uint64_t>(static_cast<const uint16_t *>(p)[i]) << 16);
    case CUDA_R_8I:
        return static_cast<const int8_t *>(p)[i];
    case CUDA_R_32I:
        return static_cast<float>(static_cast<const int32_t *>(p)[i]);
    default:
        __half_raw r;
        r.x = static_cast<const uint16_t *>(p)[i];
        return __half2float(__half(r));
    }
}

static void set_element(void *p, size_t i, cudaDataType t, float v)
{
    switch (t) {
    case CUDA_R_32F:
        static_cast<float *>(p)[i] = v;
        break;
    case CUDA_R_16BF:
        static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(v);
        break;
    case CUDA_R_32I:
        static_cast<int32_t *>(p)[i] = static_cast<int32_t>(v);
        break;
    default:
        static_cast<__half *>(p)[i] = __float2half_rn(v);
    }
}

static size_t span(const Matrix &m)
{
    return (static_cast<size_t>(m.ld) * static_cast<size_t>(m.columns - 1) + static_cast<size_t>(m.rows)) * element_bytes(m.type);
}

static bool aligned(const Matrix &m)
{
    return (reinterpret_cast<uintptr_t>(m.at) | static_cast<size_t>(m.ld) * element_bytes(m.type)) % 16 == 0;
}

// out[i * columns + p]: row i of op(m), as floats; `turned`: the rows are columns of what is stored.
static std::vector<float> gather(const Matrix &m, const char *at, bool turned, const char *name)
{
    int n = turned ? m.columns : m.rows, k = turned ? m.rows : m.columns;
    std::vector<float> out(static_cast<size_t>(n) * static_cast<size_t>(k));
    bool unwritten = false, foreign = false;
    for (int i = 0; i < n; i++)
        for (int p = 0; p < k; p++) {
            size_t at_element = turned ? static_cast<size_t>(p) + static_cast<size_t>(i) * static_cast<size_t>(m.ld)
                                       : static_cast<size_t>(i) + static_cast<size_t>(p) * static_cast<size_t>(m.ld);
            out[static_cast<size_t>(i) * static_cast<size_t>(k) + static_cast<size_t>(p)] = element(at, at_element, m.type);
            ByteState state = arena_state[static_cast<size_t>(at - arena) + at_element * element_bytes(m.type)];
            unwritten |= state == UNWRITTEN;
            foreign |= state == FOREIGN;
        }
    if (foreign && machine.checked)
        report(0, "memcheck", "%s of a cuBLAS product goes on behind its array", name);
    if (unwritten && machine.checked)
        report(0, "initcheck", "%s of a cuBLAS product holds elements that nobody wrote", name);
    return out;
}

static float dot(const float *a, const float *b, int n)
{
    float s[8] = {};
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        s[0] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static void multiply(const Matrix &A, bool ta, const Matrix &B, bool tb, const Matrix &C, float alpha, float beta, int batch)
{
    const char *a = A.at + batch * A.stride * static_cast<long long>(element_bytes(A.type));
    const char *b = B.at + batch * B.stride * static_cast<long long>(element_bytes(B.type));
    char *c = const_cast<char *>(C.at) + batch * C.stride * static_cast<long long>(element_bytes(C.type));
    if (!device_range(a, span(A), "A of a cuBLAS product") || !device_range(b, span(B), "B of a cuBLAS product") ||
        !device_range(c, span(C), "C of a cuBLAS product"))
        return;
    std::vector<float> fa = gather(A, a, ta, "A"), fb = gather(B, b, !tb, "B");
    int k = ta ? A.rows : A.columns;
    size_t bytes = element_bytes(C.type);
    for (int j = 0; j < C.columns; j++)
        for (int i = 0; i < C.rows; i++) {
            size_t at = static_cast<size_t>(i) + static_cast<size_t>(j) * static_cast<size_t>(C.ld);
            float v = alpha * dot(&fa[static_cast<size_t>(i) * static_cast<size_t>(k)], &fb[static_cast<size_t>(j) * static_cast<size_t>(k)], k);
            if (beta != 0)
                v += beta * element(c, at, C.type);
            set_element(c, at, C.type, v);
            memset(arena_state + (c - arena) + at * bytes, WRITTEN, bytes);
        }
}

static bool supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute)
{
    if (a != b)
        return false;
    if (compute == CUBLAS_COMPUTE_32I)
        return a == CUDA_R_8I && c == CUDA_R_32I;
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_FAST_TF32 && compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return false;
    return a != CUDA_R_8I && (c == CUDA_R_32F || c == a);
}

static cublasStatus_t begin_blas(const char *name, cublasStatus_t failure)
{
    return begin_call(name, cudaErrorLaunchFailure) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : failure;
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *h)
{
    cublasStatus_t s = begin_blas("cublasCreate", CUBLAS_STATUS_NOT_INITIALIZED);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    *h = new cublasContext();
    live++;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t h)
{
    delete h;
    live--;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return begin_blas("cublasSetStream", CUBLAS_STATUS_NOT_INITIALIZED);
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *p, size_t n)
{
    if (n && !device_range(p, n, "workspace of cuBLAS"))
        return CUBLAS_STATUS_INVALID_VALUE;
    return begin_blas("cublasSetWorkspace", CUBLAS_STATUS_INVALID_VALUE);
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return begin_blas("cublasSetMathMode", CUBLAS_STATUS_INVALID_VALUE);
}
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version)
{
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasGetStatusString(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS ? "the operation completed successfully" : "the operation failed";
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                          const void *alpha, const void *A, cudaDataType At, int lda, long long sa, const void *B,
                                          cudaDataType Bt, int ldb, long long sb, const void *beta, void *C, cudaDataType Ct, int ldc,
                                          long long sc, int count, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    cublasStatus_t s = begin_blas("cublasGemmEx", CUBLAS_STATUS_EXECUTION_FAILED);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || !supported(At, Bt, Ct, compute)) {
        report(0, "cublas", "leading dimension or type: m %d n %d k %d lda %d ldb %d ldc %d", m, n, k, lda, ldb, ldc);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (m == 0 || n == 0 || count == 0)
        return CUBLAS_STATUS_SUCCESS;
    Matrix a = {static_cast<const char *>(A), At, ta ? k : m, ta ? m : k, lda, sa};
    Matrix b = {static_cast<const char *>(B), Bt, tb ? n : k, tb ? k : n, ldb, sb};
    Matrix c = {static_cast<const char *>(C), Ct, m, n, ldc, sc};
    machine.counts.gemms_unaligned += !aligned(a) || !aligned(b) || !aligned(c);
    bool integers = compute == CUBLAS_COMPUTE_32I; // scalars of the host, read now
    float al = integers ? static_cast<float>(*static_cast<const int *>(alpha)) : *static_cast<const float *>(alpha);
    float be = integers ? static_cast<float>(*static_cast<const int *>(beta)) : *static_cast<const float *>(beta);
    enqueue(reinterpret_cast<Stream *>(h->stream), [=] {
        OpenArena open;
        machine.counts.gemms++;
        for (int i = 0; i < count; i++)
            multiply(a, ta, b, tb, c, al, be, i);
    });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void *alpha,
                            const void *A, cudaDataType At, int lda, const void *B, cudaDataType Bt, int ldb, const void *beta, void *C,
                            cudaDataType Ct, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, A, At, lda, 0, B, Bt, ldb, 0, beta, C, Ct, ldc, 0, 1, compute, algorithm);
}
}
