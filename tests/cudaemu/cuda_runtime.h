/* cuda_runtime.h - the runtime API as C++ sees it: typed overloads over cuda_runtime_api.h. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
template <class T> inline cudaError_t cudaMalloc(T **out, size_t bytes) {
    return cudaMalloc(reinterpret_cast<void **>(out), bytes);
}
template <class T> inline cudaError_t cudaMallocHost(T **out, size_t bytes) {
    return cudaMallocHost(reinterpret_cast<void **>(out), bytes);
}
template <class R, class... A>
inline cudaError_t cudaFuncSetAttribute(R (*function)(A...), cudaFuncAttribute which, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(function), which, value);
}
template <class R, class... A>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, R (*function)(A...)) {
    return cudaFuncGetAttributes(out, reinterpret_cast<const void *>(function));
}
template <class R, class... A>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *out, R (*function)(A...),
                                                                 int threads, size_t bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        out, reinterpret_cast<const void *>(function), threads, bytes);
}
#endif

#endif
