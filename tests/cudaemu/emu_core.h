/* emu_core.h - the emulated processor: its threads, its one running block, and how it fails.
 *
 * Each thread of a CUDA block is a fiber: a stack of its own, switched to by hand, on the one OS
 * thread that launched the kernel. Blocks run one after another. A fiber runs until it meets a
 * barrier or a warp operation; then the next ready one runs.
 *
 *   ready --(picked)--> running --> wait_block --(all arrived)--> ready
 *                          |------> wait_warp  --(mask arrived)-> ready
 *                          `------> done
 *
 * Thread     one launch at a time in the process (the runtime's lock, emu_stream.h); any OS thread.
 * Sanitizers the sources listed in cudaemu.cmake as core are compiled without ThreadSanitizer, so
 *            that it sees what kernels do and not how they are emulated. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_CORE_H
#define EMU_CORE_H

#include <cstddef>
#include <cstdint>

#include "emu_words.h"

namespace cuemu {

enum { THREADS_MAX = 1024, LANES = 32, WARPS_MAX = THREADS_MAX / LANES };
enum { FIBER_STACK_BYTES = 64 * 1024 /* where no sanitizer is compiled in */ };
enum {
    COPIES_MAX = 1024,  /* cp.async in flight of one thread */
    COLLECTIVES_MAX = 8 /* divergent warp operations of one warp at a time */
};

enum class Wait : uint8_t { ready, block, warp, done };

/* Where in a kernel's source something was called: as a parameter's default, the caller's line. */
struct Place {
    const char *file;
    int line;
    static constexpr Place here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
        return Place{file, line};
    }
};
#define EMU_HERE ::cuemu::Place::here()

/* One cp.async; from is null for zeros. */
struct AsyncCopy {
    void *to;
    const void *from;
    int bytes, group;
};

struct Fiber {
    void *sp; /* saved stack pointer while it does not run */
    char *stack;
    void *asan_fake, *tsan;
    uint3 tid;
    int index, lane, warp;
    Wait wait;
    bool begun;
    const char *what; /* what it waits in */
    Place place;
    unsigned mask;
    AsyncCopy *copies; /* ring of COPIES_MAX */
    int copies_head, copies_tail, copy_group;
};

/* Does a warp operation for all lanes of mask, once they are all there; args[lane] is each lane's. */
using Complete = void (*)(void **args, unsigned mask);

struct Collective {
    unsigned mask, arrived;
    Complete complete;
    int line;
    void *args[LANES];
};

struct Warp {
    Collective pending[COLLECTIVES_MAX];
    int pending_count;
    unsigned generation;
    char order[2]; /* addresses that ThreadSanitizer hangs the edges of __syncwarp on */
};

/* A kernel with its arguments, run by each thread of a grid. */
struct Kernel {
    virtual void thread() = 0;
    virtual size_t bytes() const = 0; /* of this object */
    virtual ~Kernel() = default;
};

struct LaunchShape {
    const char *name;
    const void *function;
    dim3 grid, block;
    size_t shared_bytes;     /* dynamic */
    size_t shared_bytes_max; /* of dynamic and static arrays together */
};

struct Counts {
    uint64_t blocks, switches, barriers, warp_operations, ldmatrix_reads, ldmatrix_conflicts;
};

struct Processor {
    Fiber fibers[THREADS_MAX];
    Warp warps[WARPS_MAX];
    Fiber host; /* the launching OS thread */
    Fiber *current;
    int thread_count, alive, at_barrier, barrier_sum;
    int ready[THREADS_MAX], ready_head, ready_count;
    unsigned barrier_generation;
    int barrier_result[2];
    char barrier_order[2], start_order, end_order;
    Place barrier_place;
    uint3 block_index;
    dim3 block_size, grid_size;
    Kernel *kernel;
    const char *kernel_name;
    bool shuffled, failed, rough; /* rough: approximations are as far off as a device's may be */
    uint64_t random;
    Counts counts;
};
extern Processor processor;

/* A fault of the kernel. Prints what, where, kernel, block, thread. Aborts the process; with
 * emu_trap_faults the launch ends instead and the device is in error. Does not return to a fiber. */
void fail(const char *what, Place place);

uint32_t random_bits();

/* Fibers: emu_fiber.cpp */
void fiber_prepare(Fiber *fiber);
void fiber_switch(Fiber *to);
void host_enter();

/* The scheduler of one block: emu_block.cpp */
void make_ready(int index);
void run_next();
void run_grid(Kernel *kernel, const LaunchShape &shape);

inline bool in_kernel() { return processor.current && processor.current != &processor.host; }

} // namespace cuemu

#define threadIdx (::cuemu::processor.current->tid)
#define blockIdx (::cuemu::processor.block_index)
#define blockDim (::cuemu::processor.block_size)
#define gridDim (::cuemu::processor.grid_size)
#define warpSize 32

#endif
