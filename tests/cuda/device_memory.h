/* device_memory.h - device memory in tests: the same on a device and on the emulated one, where it is checked
 * byte for byte. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_DEVICE_MEMORY_H
#define ESPALIER_TESTS_DEVICE_MEMORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

/* Filled with 0xff: NaN, -1. */
static inline void *device_new(size_t bytes) {
    void *memory = NULL;
    assert_int_equal(cudaMalloc(&memory, bytes ? bytes : 1), cudaSuccess);
    assert_int_equal(cudaMemset(memory, 0xff, bytes ? bytes : 1), cudaSuccess);
    return memory;
}

static inline void *device_copy(const void *from, size_t bytes) {
    void *memory = device_new(bytes);
    if (bytes) assert_int_equal(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice), 0);
    return memory;
}

static inline void device_read(void *to, const void *from, size_t bytes) {
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    if (bytes) assert_int_equal(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
}

static inline void device_free(const void *memory) {
    assert_int_equal(cudaFree((void *)memory), cudaSuccess);
}

#endif
