/* emu_device.cpp - devices: choice, properties, peers. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>

#include "emu_device.h"
#include "emu_runtime.h"
#include "emu_settings.h"

namespace cuemu {

enum { REGISTERS = 65536, PROCESSORS = 4, L2_BYTES = 4 << 20 };

static struct {
    size_t used[DEVICES_MAX];
    bool peer[DEVICES_MAX][DEVICES_MAX];
    int link[DEVICES_MAX][DEVICES_MAX]; /* performance rank; negative: no access */
    cudaError_t error[DEVICES_MAX];
} devices;

static thread_local int chosen;

bool device_none() { return settings()->device_count == 0; }
bool device_valid(int device) { return device >= 0 && device < settings()->device_count; }
int current_device() { return chosen; }

bool device_take(int device, size_t bytes) {
    if (bytes > settings()->memory_bytes - devices.used[device]) return false;
    devices.used[device] += bytes;
    return true;
}
void device_give(int device, size_t bytes) { devices.used[device] -= bytes; }

cudaError_t device_error(int device) { return devices.error[device]; }
void device_lose(int device, cudaError_t error) { devices.error[device] = error; }

bool device_reaches(int device, int other) {
    return device == other || devices.peer[device][other];
}

static void describe(cudaDeviceProp *out, int device) {
    int sm = settings()->sm;
    *out = cudaDeviceProp{};
    snprintf(out->name, sizeof out->name, "Emulated sm_%d", sm);
    out->totalGlobalMem = settings()->memory_bytes;
    out->sharedMemPerBlock = 48 * 1024;
    out->sharedMemPerBlockOptin = shared_bytes_max();
    out->reservedSharedMemPerBlock = 1024;
    out->sharedMemPerMultiprocessor = shared_bytes_max() + 1024;
    out->regsPerBlock = out->regsPerMultiprocessor = REGISTERS;
    out->warpSize = 32;
    out->maxThreadsPerBlock = out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 0x7fffffff;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->totalConstMem = 65536;
    out->major = sm / 10;
    out->minor = sm % 10;
    out->multiProcessorCount = PROCESSORS;
    out->canMapHostMemory = out->concurrentKernels = out->unifiedAddressing = 1;
    out->pciBusID = device;
    out->asyncEngineCount = 2;
    out->memoryBusWidth = 5120;
    out->l2CacheSize = L2_BYTES;
    out->maxThreadsPerMultiProcessor = sm == 86 || sm == 89 ? 1536 : 2048;
}

static int attribute(enum cudaDeviceAttr which, const cudaDeviceProp *p) {
    switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
        return p->maxThreadsPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return static_cast<int>(p->sharedMemPerBlock);
    case cudaDevAttrWarpSize:
        return p->warpSize;
    case cudaDevAttrClockRate:
        return 1000000;
    case cudaDevAttrMultiProcessorCount:
        return p->multiProcessorCount;
    case cudaDevAttrMemoryClockRate:
        return 1000000;
    case cudaDevAttrGlobalMemoryBusWidth:
        return p->memoryBusWidth;
    case cudaDevAttrL2CacheSize:
        return p->l2CacheSize;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return p->maxThreadsPerMultiProcessor;
    case cudaDevAttrComputeCapabilityMajor:
        return p->major;
    case cudaDevAttrComputeCapabilityMinor:
        return p->minor;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return static_cast<int>(p->sharedMemPerMultiprocessor);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return static_cast<int>(p->sharedMemPerBlockOptin);
    }
    return -1;
}

static bool can_reach(int device, int peer) {
    return device != peer && devices.link[device][peer] >= 0;
}

/* Success, or why this device (and these others) cannot be asked. */
static cudaError_t check_devices(int device, int other) {
    if (device_none()) return failed(cudaErrorNoDevice);
    if (!device_valid(device) || !device_valid(other)) return failed(cudaErrorInvalidDevice);
    return cudaSuccess;
}

} // namespace cuemu

using namespace cuemu;

cudaError_t cudaGetDeviceCount(int *count) {
    if (device_none()) return failed(cudaErrorNoDevice); /* *count stays as it was */
    *count = settings()->device_count;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    cudaError_t error = check_devices(device, device);
    if (error == cudaSuccess) chosen = device;
    return error;
}

cudaError_t cudaGetDevice(int *device) {
    if (device_none()) return failed(cudaErrorNoDevice);
    *device = chosen;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
    cudaError_t error = check_devices(device, device);
    if (error == cudaSuccess) describe(out, device);
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr which, int device) {
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) return error;
    int value = attribute(which, &properties);
    if (value < 0) return failed(cudaErrorInvalidValue);
    *out = value;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int device) {
    cudaError_t error = check_devices(device, device);
    if (error != cudaSuccess) return error;
    if (bytes < 13) return failed(cudaErrorInvalidValue);
    snprintf(out, static_cast<size_t>(bytes), "0000:%02x:00.0", device & 0xff);
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = device_none() ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned) { return cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    Locked lock;
    if (device_none()) return failed(cudaErrorNoDevice);
    *free_bytes = settings()->memory_bytes - devices.used[chosen];
    *total_bytes = settings()->memory_bytes;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    cudaError_t error = check_devices(device, peer);
    if (error == cudaSuccess) *can = can_reach(device, peer);
    return error;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    Locked lock;
    cudaError_t error = check_devices(chosen, peer);
    if (error != cudaSuccess) return error;
    if (flags || peer == chosen) return failed(cudaErrorInvalidValue);
    if (!can_reach(chosen, peer)) return failed(cudaErrorPeerAccessUnsupported);
    if (devices.peer[chosen][peer]) return failed(cudaErrorPeerAccessAlreadyEnabled);
    devices.peer[chosen][peer] = true;
    return cudaSuccess;
}

cudaError_t cudaDeviceDisablePeerAccess(int peer) {
    Locked lock;
    cudaError_t error = check_devices(chosen, peer);
    if (error != cudaSuccess) return error;
    if (!devices.peer[chosen][peer]) return failed(cudaErrorPeerAccessNotEnabled);
    devices.peer[chosen][peer] = false;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetP2PAttribute(int *out, enum cudaDeviceP2PAttr which, int source,
                                      int dest) {
    cudaError_t error = check_devices(source, dest);
    if (error != cudaSuccess) return error;
    if (source == dest) return failed(cudaErrorInvalidDevice);
    bool can = can_reach(source, dest);
    *out = which == cudaDevP2PAttrPerformanceRank && can ? devices.link[source][dest] : can;
    return cudaSuccess;
}

void emu_set_devices(int count) { settings()->device_count = count; }

void emu_set_link(int device, int other, int rank) {
    Locked lock;
    devices.link[device][other] = devices.link[other][device] = rank;
}

void emu_reset(void) {
    Locked lock;
    for (cudaError_t &error : devices.error)
        error = cudaSuccess;
    (void)cudaGetLastError();
}
