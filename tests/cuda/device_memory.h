/* device_memory.h - device memory for tests of launchers: taken, filled, read back; a failure fails the
 * test. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_DEVICE_MEMORY_H
#define ESPALIER_DEVICE_MEMORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

static inline void device_check(int error) {
    if (error != cudaSuccess) fail_msg("%s", cudaGetErrorString((cudaError_t)error));
}

/* bytes of value `fill`; 0xff is NaN in every float. */
static inline void *device_new(size_t bytes, int fill) {
    void *memory = NULL;
    device_check(cudaMalloc(&memory, bytes ? bytes : 1));
    device_check(cudaMemset(memory, fill, bytes));
    return memory;
}

static inline void *device_put(const void *host, size_t bytes) {
    void *memory = device_new(bytes, 0xff);
    device_check(cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice));
    return memory;
}

static inline void device_get(void *host, const void *memory, size_t bytes) {
    device_check(cudaDeviceSynchronize());
    device_check(cudaMemcpy(host, memory, bytes, cudaMemcpyDeviceToHost));
}

static inline void device_free(const void *memory) { device_check(cudaFree((void *)memory)); }

#endif
