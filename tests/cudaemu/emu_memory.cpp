/* emu_memory.cpp - device memory and pinned host memory: allocations and their books.
 *
 * A device's memory is the host's heap, aligned as the device aligns it, each allocation by itself,
 * so that AddressSanitizer has its red zones. It begins as 0xff: NaN. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <map>

#include "emu_device.h"
#include "emu_runtime.h"

namespace cuemu {

static std::map<const char *, Allocation> &books() {
    static auto *map = new std::map<const char *, Allocation>; /* used until the very end */
    return *map;
}

const Allocation *allocation_of(const void *at, size_t bytes) {
    const char *p = static_cast<const char *>(at);
    auto next = books().upper_bound(p);
    if (next == books().begin()) return nullptr;
    const Allocation &a = std::prev(next)->second;
    return p + bytes <= a.at + a.bytes ? &a : nullptr;
}

static void enter(void *at, size_t bytes, int device, bool registered) {
    char *p = static_cast<char *>(at);
    books()[p] = Allocation{p, bytes, device, registered};
}

/* New memory of a device (or of the host, -1), all ones. */
static cudaError_t allocate(void **out, size_t bytes, int device) {
    if (!out) return failed(cudaErrorInvalidValue);
    *out = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (device >= 0 && !device_take(device, bytes)) return failed(cudaErrorMemoryAllocation);
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes) != 0) return failed(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes);
    enter(p, bytes, device, false);
    *out = p;
    return cudaSuccess;
}

/* Frees what begins at `memory`, a device's or the host's as asked. */
static cudaError_t release(void *memory, bool host) {
    auto it = books().find(static_cast<char *>(memory));
    if (it == books().end() || it->second.registered || (it->second.device < 0) != host)
        return failed(cudaErrorInvalidValue);
    if (!host) device_give(it->second.device, it->second.bytes);
    books().erase(it);
    free(memory);
    return cudaSuccess;
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaMalloc(void **out, size_t bytes) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    return allocate(out, bytes, current_device());
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    return allocate(out, bytes, -1);
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFree(void *memory) {
    if (!memory) return cudaSuccess;
    cudaDeviceSynchronize(); /* as the device does: nothing uses it any more */
    Locked lock;
    return release(memory, false);
}

cudaError_t cudaFreeHost(void *memory) {
    if (!memory) return cudaSuccess;
    cudaDeviceSynchronize();
    Locked lock;
    return release(memory, true);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned) {
    Locked lock;
    if (!memory || bytes == 0 || allocation_of(memory, 1)) return failed(cudaErrorInvalidValue);
    enter(memory, bytes, -1, true);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory) {
    Locked lock;
    auto it = books().find(static_cast<char *>(memory));
    if (it == books().end() || !it->second.registered) return failed(cudaErrorInvalidValue);
    books().erase(it);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *memory) {
    Locked lock;
    if (!out) return failed(cudaErrorInvalidValue);
    const Allocation *a = allocation_of(memory, 1);
    void *p = const_cast<void *>(memory);
    *out = cudaPointerAttributes{};
    out->device = a && a->device >= 0 ? a->device : -2;
    if (!a) return cudaSuccess;
    out->type = a->device >= 0 ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    out->devicePointer = p;
    out->hostPointer = a->device >= 0 ? nullptr : p;
    return cudaSuccess;
}
