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
#include "emu_sanitizers.h"
#include "emu_stream.h"

namespace cuemu {

static std::map<const char *, Allocation> &books() {
    static auto *map = new std::map<const char *, Allocation>; /* used until the very end */
    return *map;
}

const Allocation *allocation_before(const void *at) {
    auto next = books().upper_bound(static_cast<const char *>(at));
    return next == books().begin() ? nullptr : &std::prev(next)->second;
}

const Allocation *allocation_of(const void *at, size_t bytes) {
    const Allocation *a = allocation_before(at);
    return a && static_cast<const char *>(at) + bytes <= a->at + a->bytes ? a : nullptr;
}

/* Large ones stay open: closing them would take longer than what runs in between. */
static bool closable(const Allocation &a) { return a.device >= 0 && a.bytes <= size_t{8} << 20; }

void memory_open() {
#ifdef EMU_ASAN
    for (auto &entry : books())
        if (closable(entry.second)) memory_allow(entry.second.at, entry.second.bytes);
#endif
}

void memory_close() {
#ifdef EMU_ASAN
    for (auto &entry : books())
        if (closable(entry.second)) memory_forbid(entry.second.at, entry.second.bytes);
#endif
}

static void enter(void *at, size_t bytes, int device, bool registered) {
    char *p = static_cast<char *>(at);
    Allocation a = {p, bytes, device, registered};
    books()[p] = a;
    if (closable(a)) memory_forbid(a.at, a.bytes);
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

static cudaError_t may_allocate() {
    if (device_none()) return failed(cudaErrorNoDevice);
    cudaError_t error = device_error(current_device());
    return error != cudaSuccess ? failed(error) : capture_forbids();
}

/* Frees what begins at `memory`, a device's or the host's as asked. */
static cudaError_t release(void *memory, bool host) {
    auto it = books().find(static_cast<char *>(memory));
    if (it == books().end() || it->second.registered || (it->second.device < 0) != host)
        return failed(cudaErrorInvalidValue);
    if (!host) device_give(it->second.device, it->second.bytes);
    memory_allow(it->second.at, it->second.bytes);
    books().erase(it);
    free(memory);
    return cudaSuccess;
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaMalloc(void **out, size_t bytes) {
    Locked lock;
    cudaError_t error = may_allocate();
    return error != cudaSuccess ? error : allocate(out, bytes, current_device());
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    Locked lock;
    cudaError_t error = may_allocate();
    return error != cudaSuccess ? error : allocate(out, bytes, -1);
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFree(void *memory) {
    if (!memory) return cudaSuccess;
    cudaDeviceSynchronize(); /* as the device does: nothing uses it any more */
    Locked lock;
    cudaError_t error = capture_forbids();
    return error != cudaSuccess ? error : release(memory, false);
}

cudaError_t cudaFreeHost(void *memory) {
    if (!memory) return cudaSuccess;
    cudaDeviceSynchronize();
    Locked lock;
    cudaError_t error = capture_forbids();
    return error != cudaSuccess ? error : release(memory, true);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned) {
    Locked lock;
    if (cudaError_t error = capture_forbids()) return error;
    if (!memory || bytes == 0 || allocation_of(memory, 1)) return failed(cudaErrorInvalidValue);
    enter(memory, bytes, -1, true);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory) {
    Locked lock;
    if (cudaError_t error = capture_forbids()) return error;
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
