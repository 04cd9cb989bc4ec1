/* host_memory.c - see host_memory.h. */
// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_memory.h"

#include <string.h>

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

void kern_host_move_frames(kern_device *dev, const kern_move_frames *op) {
    (void)dev;
    ESP_ASSERT(op->frame_bytes % 64 == 0);
    for (uint32_t i = 0; i < op->count; i++) {
        uint32_t from = op->from_frames ? op->from_frames[i] : i;
        uint32_t to = op->to_frames ? op->to_frames[i] : i;
        memcpy((char *)op->to + to * op->frame_bytes,
               (const char *)op->from + from * op->frame_bytes, op->frame_bytes);
    }
}
