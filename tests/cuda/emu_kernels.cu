/* emu_kernels.cu - small kernels for the tests of the emulator's runtime. */
// SPDX-License-Identifier: Apache-2.0
#include "cu.h"
#include "emu_kernels.h"

static __global__ void add(uint32_t *data, uint32_t value, int count) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) data[i] += value;
}

static __global__ void copy(uint32_t *to, const uint32_t *from, int count) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) to[i] = from[i];
}

static __global__ void shape(int) {}

extern "C" int emu_add(uint32_t *data, uint32_t value, int count, void *stream) {
    return CU_LAUNCH(add, dim3(cu_ceil(count, 64)), dim3(64), 0, static_cast<cudaStream_t>(stream),
                     data, value, count);
}

extern "C" int emu_copy(uint32_t *to, const uint32_t *from, int count, void *stream) {
    return CU_LAUNCH(copy, dim3(cu_ceil(count, 64)), dim3(64), 0, static_cast<cudaStream_t>(stream),
                     to, from, count);
}

extern "C" int emu_shape(int threads, size_t bytes, void *stream) {
    return CU_LAUNCH(shape, dim3(1), dim3(threads), bytes, static_cast<cudaStream_t>(stream), 0);
}

extern "C" int emu_opt_in(int bytes) {
    return cudaFuncSetAttribute(shape, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
