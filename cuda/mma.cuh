/* mma.cuh: the tensor core's instructions, the only assembly of this folder; on the CPU their meaning is the emulator's.
 *
 * Fragments are those of PTX's m16n8k16 for 16-bit factors.  Lane l = 4 g + t of a warp holds
 *     A[16, 16]   a[0]: (g, 2t), (g, 2t+1)   a[1]: row g+8   a[2]: columns + 8   a[3]: both
 *     B[16, 8]    b[0]: (2t, g), (2t+1, g)   b[1]: rows + 8
 *     C[16, 8]    c[0], c[1]: (g, 2t), (g, 2t+1)   c[2], c[3]: row g+8
 * so that two neighbouring C's, rounded to bf16, are an A. */
#ifndef VENEER_CUDA_MMA_CUH
#define VENEER_CUDA_MMA_CUH
#include "cuda/kernels.cuh"

#if defined(VENEER_CUDA_EMU)

#define mma_bf16(c, a, b) emu::mma_m16n8k16(c, a, b, true, __LINE__)
#define load_matrices(r, p) emu::ldmatrix_x4(r, p, false, __LINE__)
#define load_matrices_turned(r, p) emu::ldmatrix_x4(r, p, true, __LINE__)

__device__ static inline uint32_t two_halves(float low, float high)
{
    return (uint32_t)bf16_of(low) | (uint32_t)bf16_of(high) << 16;
}

#else

/* c += a b, sums in fp32 */
__device__ static inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16 bits from shared memory: lane l gives the address of row l % 8 of matrix l / 8 and gets of each the pair that an A holds. */
__device__ static inline void load_matrices(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* The same, each matrix transposed. */
__device__ static inline void load_matrices_turned(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

__device__ static inline uint32_t two_halves(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

#endif

/* ---- products of tiles in shared memory: rows of D halves, LD apart ---- */

/* Sixteen bytes more a row: the eight rows of a matrix lie in different banks. */
template <int D> struct tile {
    enum { LD = D + 8 };
};

/* s[16, N] = A B^T: A is rows 0 .. 15 of `a`, B rows 0 .. N-1 of `b`. */
template <int D, int N> __device__ static inline void rows_by_rows(float s[N / 8][4], const uint16_t *a, const uint16_t *b)
{
    const int lane = threadIdx.x & 31, LD = tile<D>::LD;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t fa[4];
        load_matrices(fa, a + (lane & 15) * LD + k * 16 + (lane >> 4) * 8);
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            uint32_t fb[4]; /* two B's */
            load_matrices(fb, b + (j * 16 + (lane & 7) + (lane >> 4) * 8) * LD + k * 16 + (lane >> 3 & 1) * 8);
            mma_bf16(s[2 * j], fa, fb);
            mma_bf16(s[2 * j + 1], fa, fb + 2);
        }
    }
}

/* c[16, D] += bf16(s[16, N]) B: B is rows 0 .. N-1 of `b`. */
template <int D, int N> __device__ static inline void rows_by_columns(float c[D / 8][4], const float s[N / 8][4], const uint16_t *b)
{
    const int lane = threadIdx.x & 31, LD = tile<D>::LD;
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
        uint32_t fa[4] = {two_halves(s[2 * j][0], s[2 * j][1]), two_halves(s[2 * j][2], s[2 * j][3]), two_halves(s[2 * j + 1][0], s[2 * j + 1][1]),
                          two_halves(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t fb[4];
            load_matrices_turned(fb, b + (j * 16 + (lane & 15)) * LD + d * 16 + (lane >> 4) * 8);
            mma_bf16(c[2 * d], fa, fb);
            mma_bf16(c[2 * d + 1], fa, fb + 2);
        }
    }
}

#endif
