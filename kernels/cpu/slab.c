/* slab.c - memory of packed weights: large mappings, filled from the front, given back when empty. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

/* Touched only where something lies, so room costs nothing. */
static const size_t SLAB_BYTES = (size_t)64 << 20;

static cpu_slab *open_slab(kern_device *dev, size_t bytes) {
    cpu_slab *slab = mem_new(1, sizeof *slab);
    slab->bytes = bytes > SLAB_BYTES ? bytes : SLAB_BYTES;
    slab->memory = mem_map(slab->bytes);
    if (!slab->memory) {
        free(slab);
        return NULL;
    }
    slab->next = dev->slabs;
    dev->slabs = slab;
    return slab;
}

uint8_t *cpu_slab_take(kern_device *dev, size_t bytes, cpu_slab **out) {
    ESP_ASSERT(bytes % CACHE_LINE_BYTES == 0);
    cpu_slab *slab = dev->slabs;
    while (slab && slab->bytes - slab->used < bytes)
        slab = slab->next;
    if (!slab) slab = open_slab(dev, bytes);
    *out = slab;
    if (!slab) return NULL;
    uint8_t *memory = slab->memory + slab->used;
    slab->used += bytes;
    slab->users++;
    return memory;
}

void cpu_slab_drop(kern_device *dev, cpu_slab *slab) {
    if (!slab || --slab->users > 0) return;
    cpu_slab **at = &dev->slabs;
    while (*at != slab)
        at = &(*at)->next;
    *at = slab->next;
    mem_unmap(slab->memory, slab->bytes);
    free(slab);
}
