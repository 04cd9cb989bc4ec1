/* mem.c - allocation that cannot fail quietly, mapped arenas, and what memory there is. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#ifndef ESPALIER_SANITIZED
#include <jemalloc/jemalloc.h>
#endif

#include "engine/base/cgroup.h"
#include "engine/base/check.h"
#include "engine/base/status.h"

static _Noreturn void out_of_memory(size_t count, size_t size) {
    fprintf(stderr, "out of memory: %zu x %zu bytes wanted; lower --kv-memory or --max-seqs\n",
            count, size);
    abort();
}

void *mem_new(size_t count, size_t size) {
    if (count == 0 || size == 0) count = size = 1; /* NULL is never an answer */
    void *memory = calloc(count, size);
    if (!memory) out_of_memory(count, size);
    return memory;
}

void *mem_resize(void *memory, size_t count, size_t size) {
    uint64_t bytes;
    if (!check_mul(count, size, &bytes)) out_of_memory(count, size);
    void *moved = realloc(memory, bytes ? bytes : 1);
    if (!moved) out_of_memory(count, size);
    return moved;
}

char *mem_copy_text(const char *text, size_t bytes) {
    uint64_t with_nul;
    if (!check_add(bytes, 1, &with_nul)) out_of_memory(bytes, 1);
    char *copy = mem_new(with_nul, 1);
    if (bytes) memcpy(copy, text, bytes);
    return copy;
}

/* Mapped memory. The kernel gives huge pages to whole, aligned 2 MiB stretches only, so large maps
 * are placed on such a border: one huge page more is mapped and the ends are given back. */

enum { HUGE_PAGE = 2 << 20 };

static void *map_pages(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static size_t whole_pages(size_t bytes) {
    uint64_t padded;
    return check_align(bytes ? bytes : 1, 4096, &padded) ? padded : 0;
}

static void *map_on_huge_border(size_t bytes) {
    uint64_t wide;
    if (!check_add(bytes, HUGE_PAGE, &wide)) return NULL;
    char *memory = map_pages(wide);
    if (!memory) return NULL;
    size_t before = (size_t)(-(uintptr_t)memory & (HUGE_PAGE - 1));
    if (before) munmap(memory, before);
    munmap(memory + before + bytes, HUGE_PAGE - before);
    madvise(memory + before, bytes, MADV_HUGEPAGE); /* advice: refusing it costs speed only */
    return memory + before;
}

void *mem_map(size_t bytes) {
    size_t padded = whole_pages(bytes);
    if (padded == 0) return NULL;
    return padded >= HUGE_PAGE ? map_on_huge_border(padded) : map_pages(padded);
}

void mem_unmap(void *memory, size_t bytes) {
    if (memory) munmap(memory, whole_pages(bytes));
}

bool mem_huge_pages(const char **why_not) {
    char modes[64] = ""; /* "always [madvise] never" */
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    bool known = file && fgets(modes, sizeof modes, file);
    if (file) fclose(file);
    *why_not = NULL;
    if (!known)
        *why_not = "this kernel has no transparent huge pages";
    else if (strstr(modes, "[never]"))
        *why_not = "/sys/kernel/mm/transparent_hugepage/enabled says never; wanted madvise";
    else if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1)
        *why_not = "they are turned off for this process (PR_SET_THP_DISABLE)";
    return !*why_not;
}

#ifdef ESPALIER_SANITIZED
uint64_t mem_thread_allocated(void) { return 0; }
#else
uint64_t mem_thread_allocated(void) {
    static _Thread_local uint64_t *counter;
    if (!counter) {
        size_t bytes = sizeof counter;
        if (mallctl("thread.allocatedp", &counter, &bytes, NULL, 0) != 0) counter = NULL;
    }
    ESP_ASSERT(counter);
    return *counter;
}
#endif

uint64_t mem_available(void) {
    uint64_t kib, system = 0, group = cgroup_memory_left();
    FILE *file = fopen("/proc/meminfo", "re");
    if (file) {
        char line[128];
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1) system = kib * 1024;
        fclose(file);
    }
    return system < group ? system : group;
}

/* Arena: a list of chunks, newest first; each allocation is padded to 16 bytes. */

enum { CHUNK_BYTES = 64 << 10, ARENA_ALIGN = 16 };

typedef struct chunk {
    struct chunk *next;
    size_t used, bytes;
    _Alignas(ARENA_ALIGN) unsigned char data[];
} chunk;

struct mem_arena {
    chunk *chunks;
    size_t used, bytes_max;
};

mem_arena *mem_arena_open(size_t bytes_max) {
    mem_arena *arena = mem_new(1, sizeof *arena);
    arena->bytes_max = bytes_max;
    return arena;
}

void mem_arena_close(mem_arena *arena) {
    if (!arena) return;
    while (arena->chunks) {
        chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    free(arena);
}

static chunk *add_chunk(mem_arena *arena, size_t bytes) {
    if (bytes < CHUNK_BYTES) bytes = CHUNK_BYTES;
    chunk *c = calloc(1, sizeof *c + bytes);
    if (!c) return NULL;
    c->next = arena->chunks;
    c->bytes = bytes;
    return arena->chunks = c;
}

void *mem_arena_take(mem_arena *arena, size_t bytes) {
    uint64_t padded, used;
    if (!check_align(bytes ? bytes : 1, ARENA_ALIGN, &padded)) return NULL;
    if (!check_add(arena->used, padded, &used) || used > arena->bytes_max) return NULL;
    chunk *c = arena->chunks;
    if (!c || c->bytes - c->used < padded) c = add_chunk(arena, padded);
    if (!c) return NULL;
    void *memory = c->data + c->used;
    c->used += padded;
    arena->used = used;
    return memory;
}

size_t mem_arena_used(const mem_arena *arena) { return arena->used; }
