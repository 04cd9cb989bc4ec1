/* mem.h - memory. jemalloc serves malloc for the whole process.
 *
 * Serving memory is taken at start; out of memory there is an error of the operator's flags. Small
 * bookkeeping allocations that cannot be refused in a useful way use mem_new, which aborts.
 *
 * Thread  any; an arena belongs to one thread at a time. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_MEM_H
#define ESPALIER_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory for count elements of size bytes; aborts when there is none or the product
 * overflows. Free with free(). */
void *mem_new(size_t count, size_t size);

/* realloc for arrays; aborts like mem_new. New bytes are not zeroed. */
void *mem_resize(void *memory, size_t count, size_t size);

/* Copy of bytes plus a closing NUL. */
char *mem_copy_text(const char *text, size_t bytes);

/* Zeroed, 64-byte aligned, huge-page advised above 2 MiB; NULL when there is none. Pages are not
 * touched. Free with mem_unmap(memory, bytes). */
void *mem_map(size_t bytes);
void mem_unmap(void *memory, size_t bytes);

/* Whether the system follows that advice; else why not. */
bool mem_huge_pages(const char **why_not);

/* Bytes that this thread has ever allocated through malloc (jemalloc's thread.allocated): a test
 * takes the difference around a decode step and wants 0. 0 under sanitizers. */
uint64_t mem_thread_allocated(void);

/* Bytes of memory the kernel says are available (MemAvailable, and the cgroup's limit). */
uint64_t mem_available(void);

/* Arena: many small allocations, freed together, never more than bytes_max in all. */
typedef struct mem_arena mem_arena;
mem_arena *mem_arena_open(size_t bytes_max);
void mem_arena_close(mem_arena *arena);
/* Zeroed, 16-byte aligned; NULL once the cap would be passed. */
void *mem_arena_take(mem_arena *arena, size_t bytes);
size_t mem_arena_used(const mem_arena *arena);

#endif
