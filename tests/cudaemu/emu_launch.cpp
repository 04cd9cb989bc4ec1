/* emu_launch.cpp - kernels as operations of a stream; what a function may use. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include "emu_device.h"
#include "emu_guard.h"
#include "emu_launch.h"
#include "emu_settings.h"
#include "emu_stream.h"

namespace cuemu {

enum { SHARED_BYTES_PLAIN = 48 * 1024 };

/* Bytes of dynamic shared memory that a function has opted in to, on each device for itself. */
using FunctionThere = std::pair<int, const void *>;
static std::map<FunctionThere, int> &opted_in() {
    static auto *map = new std::map<FunctionThere, int>;
    return *map;
}

static size_t shared_bytes_of(const void *function) {
    auto it = opted_in().find(FunctionThere{current_device(), function});
    return it == opted_in().end() ? size_t{SHARED_BYTES_PLAIN} : static_cast<size_t>(it->second);
}

/* What static and dynamic arrays may take together. */
static size_t shared_bytes_of_all(const void *function) {
    const bool more = shared_bytes_of(function) > SHARED_BYTES_PLAIN;
    return more ? shared_bytes_max() : size_t{SHARED_BYTES_PLAIN};
}

static bool launchable(const LaunchShape &s) {
    dim3 g = s.grid, b = s.block;
    size_t limit = shared_bytes_of(s.function), threads = size_t{b.x} * b.y * b.z;
    bool grid = g.x && g.y && g.z && g.x <= 0x7fffffff && g.y <= 65535 && g.z <= 65535;
    bool block = threads && threads <= THREADS_MAX && b.z <= 64;
    if (grid && block && s.shared_bytes <= limit) return true;
    fprintf(stderr,
            "cudaemu: invalid launch of %s: grid (%u,%u,%u) block (%u,%u,%u), %zu bytes of dynamic "
            "shared memory where %zu are allowed\n",
            s.name, g.x, g.y, g.z, b.x, b.y, b.z, s.shared_bytes, limit);
    return false;
}

struct Launch final : Operation {
    std::unique_ptr<Kernel> kernel;
    LaunchShape shape;
    std::vector<const void *> pointers;
    Launch(Kernel *k, const LaunchShape &s, std::initializer_list<const void *> p)
        : kernel(k), shape(s), pointers(p) {}
    void run(Stream *stream) override;
    bool touches(const void *at, size_t bytes) const override;

  private:
    bool reachable(int device) const;
};

/* May the device use this pointer? One past an array's end is allowed: an array may be empty. */
static bool device_may_use(int device, const void *p) {
    const Allocation *a = allocation_of(p, 0);
    return a && (a->device < 0 || device_reaches(device, a->device));
}

bool Launch::reachable(int device) const {
    for (size_t i = 0; i < pointers.size(); i++) {
        if (!pointers[i] || device_may_use(device, pointers[i])) continue;
        char text[160];
        snprintf(text, sizeof text,
                 "argument %zu (%p) is no memory of device %d: host memory, freed, or a peer's", i,
                 pointers[i], device);
        fail(text, Place{"launch", 0});
        return false;
    }
    return true;
}

/* Has it an argument, or a part of one, that could be a pointer into the allocation? */
bool Launch::touches(const void *at, size_t bytes) const {
    const Allocation *a = allocation_of(at, bytes);
    const char *words = reinterpret_cast<const char *>(kernel.get());
    for (size_t i = 0; a && i + sizeof(char *) <= kernel->bytes(); i += sizeof(char *)) {
        const char *p;
        memcpy(&p, words + i, sizeof p);
        if (p >= a->at && p < a->at + a->bytes) return true;
    }
    return !a;
}

void Launch::run(Stream *stream) {
    processor.kernel_name = shape.name;
    if (!reachable(stream->device)) {
        device_lose(stream->device, cudaErrorIllegalAddress);
        return;
    }
    guard_begin(stream->device, kernel.get(), kernel->bytes());
    run_grid(kernel.get(), shape);
    guard_end();
    if (processor.failed) device_lose(stream->device, cudaErrorLaunchFailure);
}

/* Who asks what became of a launch hears of what nobody took back before it. */
static void tell_pending(const char *kernel) {
    const cudaError_t pending = cudaPeekAtLastError();
    if (pending == cudaSuccess) return;
    fprintf(stderr, "cudaemu: the launch of %s will tell of an earlier error, %s: cudaGetLastError was not called\n",
            kernel, cudaGetErrorName(pending));
}

cudaError_t launch_kernel(Kernel *kernel, const LaunchShape &shape, cudaStream_t handle,
                          std::initializer_list<const void *> pointers) {
    auto launch = std::make_shared<Launch>(kernel, shape, pointers);
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    tell_pending(shape.name);
    if (stream->device != current_device())
        return refused(cudaErrorInvalidResourceHandle, "launch on another device's stream");
    launch->shape.shared_bytes_max = shared_bytes_of_all(shape.function);
    if (!launchable(shape)) return failed(cudaErrorInvalidConfiguration);
    error = stream_enter(stream, launch);
    if (error != cudaSuccess) return error;
    /* Eager: a fault is known at once, and a device tells it at the next call at the latest. */
    return failed(device_error(stream->device));
}

struct HostFunction final : Operation {
    cudaHostFn_t function;
    void *data;
    HostFunction(cudaHostFn_t f, void *d) : function(f), data(d) {}
    void run(Stream *) override {
        Unlocked unlocked;
        function(data);
    }
};

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *data) {
    Locked lock;
    cudaError_t error;
    Stream *stream = stream_of(handle, &error);
    if (!stream) return error;
    return stream_enter(stream, std::make_shared<HostFunction>(function, data));
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute which, int value) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    if (which == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        static_cast<size_t>(value) > shared_bytes_max())
        return failed(cudaErrorInvalidValue);
    opted_in()[FunctionThere{current_device(), function}] = value > SHARED_BYTES_PLAIN ? value : int{SHARED_BYTES_PLAIN};
    return cudaSuccess;
}

/* What a build for these has for a device: the newest instructions of its generation that are not newer than it,
 * or, for a generation to come, the last one's PTX, translated. */
static void choose_code(cudaFuncAttributes *out, int sm) {
    constexpr int built[] = {80, 86, 89, 90};
    for (int arch : built)
        if (arch / 10 == sm / 10 && arch <= sm) out->ptxVersion = out->binaryVersion = arch;
    if (out->binaryVersion) return;
    out->ptxVersion = 90;
    out->binaryVersion = sm;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *function) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    *out = cudaFuncAttributes{};
    out->maxThreadsPerBlock = THREADS_MAX;
    out->numRegs = 64;
    choose_code(out, settings()->sm);
    out->maxDynamicSharedSizeBytes = static_cast<int>(shared_bytes_of(function));
    return cudaSuccess;
}

/* By threads and dynamic shared memory; the emulator knows no registers. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *out, const void *, int threads,
                                                          size_t dynamic_bytes) {
    if (threads <= 0 || threads > THREADS_MAX) return failed(cudaErrorInvalidValue);
    size_t by_threads = static_cast<size_t>(2048 / threads);
    size_t by_shared = (shared_bytes_max() + 1024) / (dynamic_bytes + 1024);
    *out = static_cast<int>(by_threads < by_shared ? by_threads : by_shared);
    return cudaSuccess;
}
