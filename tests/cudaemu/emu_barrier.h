/* emu_barrier.h - the barriers of a block and the fences. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_BARRIER_H
#define EMU_BARRIER_H

#include "emu_core.h"

namespace cuemu {

/* Waits for every thread of the block; returns the sum of their values. */
int block_barrier(int value, const char *what, Place place);

} // namespace cuemu

inline void __syncthreads(cuemu::Place place = EMU_HERE) {
    cuemu::block_barrier(0, "__syncthreads", place);
}
inline int __syncthreads_count(int predicate, cuemu::Place place = EMU_HERE) {
    return cuemu::block_barrier(predicate != 0, "__syncthreads_count", place);
}
inline int __syncthreads_or(int predicate, cuemu::Place place = EMU_HERE) {
    return cuemu::block_barrier(predicate != 0, "__syncthreads_or", place) != 0;
}
inline int __syncthreads_and(int predicate, cuemu::Place place = EMU_HERE) {
    return cuemu::block_barrier(predicate == 0, "__syncthreads_and", place) == 0;
}

inline void __threadfence() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence_system() { __asm__ volatile("" ::: "memory"); }

/* A kernel that finds its input impossible. */
[[noreturn]] inline void __trap(cuemu::Place place = EMU_HERE) {
    cuemu::fail("__trap", place);
    __builtin_unreachable();
}

#endif
