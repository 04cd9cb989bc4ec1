/* emu_runtime.h - what the runtime's sources share: its lock, errors, memory's books. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_RUNTIME_H
#define EMU_RUNTIME_H

#include <cstddef>

#include "cuda_runtime_api.h"

namespace cuemu {

/* Held by every call of the runtime while it reads or changes anything, and while kernels run. Two
 * threads meet only here. */
void runtime_lock();
void runtime_unlock();
struct Locked {
    Locked() { runtime_lock(); }
    ~Locked() { runtime_unlock(); }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
};

/* Notes an error as the calling thread's last one and returns it. */
cudaError_t failed(cudaError_t error);

/* The calling thread's device. */
int current_device();

/* One allocation, or registered host memory. */
struct Allocation {
    char *at;
    size_t bytes;
    int device; /* -1: host */
    bool registered;
};
/* The allocation that holds all of [at, at + bytes), or null. */
const Allocation *allocation_of(const void *at, size_t bytes);

} // namespace cuemu

#endif
