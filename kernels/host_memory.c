/* host_memory.c - see host_memory.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_memory.h"

#include "engine/base/mem.h"

void *kern_host_take(const kern_device *dev, size_t bytes) {
    (void)dev;
    return mem_map(bytes);
}

void kern_host_give(const kern_device *dev, void *memory, size_t bytes) {
    (void)dev;
    if (memory) mem_unmap(memory, bytes);
}

void kern_host_memory(const kern_device *dev, kern_memory *out) {
    (void)dev;
    uint64_t available = mem_available();
    *out = (kern_memory){.free = available, .total = available, .shared = true};
}
