/* emu_kernels.h: what emu_kernels.cu offers to emu_test.c: kernels on device memory, and what self_mix must give. */
#ifndef VENEER_EMU_KERNELS_H
#define VENEER_EMU_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
void run_self_warp(int *out);                                          /* out[64, 10] */
void run_self_sum(const int *x, int n, unsigned *total, unsigned *most);
void run_self_mix(uint64_t *out, int n);
uint64_t self_mix_expected(int i);
void run_self_tile(float *c, const uint16_t *a, const uint16_t *b);    /* c[16, 8] = a[16, 16] b[16, 8], bf16 */
void run_self_double(float *y, const float *x, cudaStream_t stream);   /* 32 of them */
#ifdef __cplusplus
}
#endif
#endif
