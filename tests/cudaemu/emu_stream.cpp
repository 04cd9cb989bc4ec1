/* emu_stream.cpp - streams; for now each operation runs when it is called. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "emu_launch.h"
#include "emu_runtime.h"
#include "emu_settings.h"

namespace cuemu {

static std::mutex mutex;
void runtime_lock() { mutex.lock(); }
void runtime_unlock() { mutex.unlock(); }

static std::map<const void *, size_t> opted_in;

static bool launchable(const LaunchShape &s) {
    size_t limit = 48 * 1024;
    if (opted_in.count(s.function)) limit = opted_in[s.function];
    size_t threads = size_t{s.block.x} * s.block.y * s.block.z;
    bool blocks = s.grid.x && s.grid.y && s.grid.z && s.grid.x <= 0x7fffffff && s.grid.y <= 65535 &&
                  s.grid.z <= 65535;
    if (blocks && threads && threads <= THREADS_MAX && s.block.z <= 64 && s.shared_bytes <= limit)
        return true;
    fprintf(stderr,
            "cudaemu: invalid launch of %s: grid (%u,%u,%u) block (%u,%u,%u), %zu bytes of dynamic "
            "shared memory where %zu are allowed\n",
            s.name, s.grid.x, s.grid.y, s.grid.z, s.block.x, s.block.y, s.block.z, s.shared_bytes,
            limit);
    return false;
}

cudaError_t launch_kernel(Kernel *kernel, const LaunchShape &shape, cudaStream_t) {
    Locked lock;
    cudaError_t error = cudaErrorInvalidConfiguration;
    if (launchable(shape)) {
        run_grid(kernel, shape.name, shape.grid, shape.block, shape.shared_bytes);
        error = processor.failed ? cudaErrorLaunchFailure : cudaSuccess;
    }
    delete kernel;
    return failed(error);
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute which, int value) {
    Locked lock;
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > shared_bytes_max())
        return failed(cudaErrorInvalidValue);
    opted_in[function] = static_cast<size_t>(value);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t) {
    memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t) {
    memset(memory, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    return cudaMemsetAsync(memory, value, bytes, nullptr);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    *out = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithFlags(out, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
