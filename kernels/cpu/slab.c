/* slab.c - memory of packed matrices, many to a mapping.
 *
 * The kernel gives huge pages to whole stretches of 2 MiB only, and a matrix of a small model is less:
 * mapped by themselves, all layers would lie on small pages. So the matrices of a device are cut from
 * slabs, one behind the other. A slab goes when its last matrix does. Large matrices get one to
 * themselves. Pages that nobody touched take no memory: what a slab has left over costs nothing.
 *
 * With several memory nodes a huge page lies beside the processor that touched it first, small
 * matrices and all; a worker's share of a matrix that is larger than a page lies beside that worker. */
// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

enum { SLAB_BYTES = 64 << 20, LARGE_BYTES = SLAB_BYTES / 8 };

struct cpu_slab {
    uint8_t *memory;
    size_t bytes, used;
    uint32_t users; /* matrices, and the device while it cuts from it */
};

static cpu_slab *slab_open(size_t bytes) {
    uint8_t *memory = mem_map(bytes);
    if (!memory) return NULL;
    cpu_slab *slab = mem_new(1, sizeof *slab);
    *slab = (cpu_slab){.memory = memory, .bytes = bytes, .users = 1};
    return slab;
}

void cpu_slab_drop(cpu_slab *slab) {
    if (!slab || --slab->users > 0) return;
    mem_unmap(slab->memory, slab->bytes);
    free(slab);
}

uint8_t *cpu_slab_cut(kern_device *dev, size_t bytes, cpu_slab **out) {
    if (bytes > LARGE_BYTES) {
        *out = slab_open(bytes);
        return *out ? (*out)->memory : NULL;
    }
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    cpu_slab *slab = dev->slab;
    if (!slab || slab->bytes - slab->used < bytes) {
        cpu_slab *next = slab_open(SLAB_BYTES);
        if (!next) return NULL;
        cpu_slab_drop(slab);
        dev->slab = slab = next;
    }
    uint8_t *memory = slab->memory + slab->used;
    slab->used += bytes;
    slab->users++;
    *out = slab;
    return memory;
}
