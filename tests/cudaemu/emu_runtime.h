/* emu_runtime.h - what the runtime's sources share: the lock, errors, memory's books. */
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

/* Notes an error as the calling thread's last one and returns it; cudaErrorNotReady is one as well, which the
 * next launch would tell of if nobody takes it back. */
cudaError_t failed(cudaError_t error);

/* Same, after saying on stderr what was wrong: a caller's mistake, which a device would not explain. */
cudaError_t refused(cudaError_t error, const char *why);

/* One allocation, or registered host memory. */
struct Allocation {
    char *at;
    size_t bytes;
    int device; /* -1: host */
    bool registered;
};
/* The allocation that holds all of [at, at + bytes), or null; bytes may be 0. */
const Allocation *allocation_of(const void *at, size_t bytes);
/* The last one that begins there or before; null when there is none. */
const Allocation *allocation_before(const void *at);

/* Under AddressSanitizer device memory is closed to the host; operations run between these two. */
void memory_open();
void memory_close();

} // namespace cuemu

#endif
