/* emu_block.cpp - runs a grid block by block; barriers; what a stuck block looked like. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emu_barrier.h"
#include "emu_core.h"
#include "emu_sanitizers.h"
#include "emu_settings.h"
#include "emu_shared.h"

namespace cuemu {

Processor processor;

uint32_t random_bits() {
    uint64_t x = processor.random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    processor.random = x;
    return static_cast<uint32_t>(x >> 16);
}

void make_ready(int index) {
    Processor &p = processor;
    p.fibers[index].wait = Wait::ready;
    p.ready[(p.ready_head + p.ready_count++) % THREADS_MAX] = index;
}

/* The first in line; with a seed any of them. The host when nobody is ready. */
static Fiber *next_fiber() {
    Processor &p = processor;
    if (p.ready_count == 0) return &p.host;
    if (p.shuffled) {
        int any = (p.ready_head + static_cast<int>(random_bits() % p.ready_count)) % THREADS_MAX;
        int index = p.ready[p.ready_head];
        p.ready[p.ready_head] = p.ready[any];
        p.ready[any] = index;
    }
    int index = p.ready[p.ready_head];
    p.ready_head = (p.ready_head + 1) % THREADS_MAX;
    p.ready_count--;
    return &p.fibers[index];
}

void run_next() { fiber_switch(next_fiber()); }

static void release_barrier(int result) {
    Processor &p = processor;
    p.barrier_result[p.barrier_generation & 1] = result;
    p.at_barrier = p.barrier_sum = 0;
    p.barrier_generation++;
    for (int i = 0; i < p.thread_count; i++)
        if (p.fibers[i].wait == Wait::block) make_ready(i);
}

/* Stricter than hardware, where threads that have exited do not count: all must come, and to the
 * same line. */
int block_barrier(int value, const char *what, Place place) {
    Processor &p = processor;
    Fiber *self = p.current;
    p.counts.barriers++;
    if (p.at_barrier &&
        (p.barrier_place.line != place.line || p.barrier_place.file != place.file)) {
        char text[256];
        snprintf(text, sizeof text,
                 "threads of one block meet at different barriers (the other: %s:%d)",
                 p.barrier_place.file, p.barrier_place.line);
        fail(text, place);
    }
    self->wait = Wait::block;
    self->place = p.barrier_place = place;
    self->what = what;
    unsigned generation = p.barrier_generation;
    order_release(&p.barrier_order[generation & 1]);
    p.barrier_sum += value;
    if (++p.at_barrier == p.thread_count) release_barrier(p.barrier_sum);
    run_next();
    order_acquire(&p.barrier_order[generation & 1]);
    return p.barrier_result[generation & 1];
}

static bool same_state(const Fiber *a, const Fiber *b) {
    if (a->wait != b->wait) return false;
    return a->wait == Wait::done ||
           (a->place.line == b->place.line && a->what == b->what && a->mask == b->mask);
}

/* One line for the threads that are where fiber `first` is; marks them seen. */
static void print_group(int first, bool *seen) {
    const Fiber *fiber = &processor.fibers[first];
    int count = 0, last = first;
    for (int i = first; i < processor.thread_count; i++) {
        if (!same_state(fiber, &processor.fibers[i])) continue;
        seen[i] = true;
        count++;
        last = i;
    }
    if (fiber->wait == Wait::done)
        fprintf(stderr, "  %4d thread(s) of %d..%d: exited\n", count, first, last);
    else
        fprintf(stderr, "  %4d thread(s) of %d..%d: in %s at %s:%d\n", count, first, last,
                fiber->what, fiber->place.file, fiber->place.line);
}

/* Nobody is ready and not all have exited. */
static void report_stuck() {
    Processor &p = processor;
    bool seen[THREADS_MAX] = {};
    fprintf(stderr, "cudaemu: the block cannot go on; its threads:\n");
    for (int i = 0; i < p.thread_count; i++)
        if (!seen[i]) print_group(i, seen);
    char text[128];
    snprintf(text, sizeof text, "barrier not reached by all: %d of %d threads wait, %d have exited",
             p.at_barrier, p.thread_count, p.thread_count - p.alive);
    fail(text, p.at_barrier ? p.barrier_place : Place{"?", 0});
}

void fail(const char *what, Place place) {
    Processor &p = processor;
    bool inside = in_kernel();
    char text[512];
    snprintf(text, sizeof text, "cudaemu: %s; %s:%d kernel %s block (%u,%u,%u) thread %d", what,
             place.file ? place.file : "?", place.line, p.kernel_name ? p.kernel_name : "?",
             p.block_index.x, p.block_index.y, p.block_index.z, inside ? p.current->index : -1);
    fprintf(stderr, "%s\n", text);
    if (!settings()->trap) abort();
    p.failed = true;
    if (!inside) return;
    fiber_switch(&p.host);
    abort(); /* a failed fiber is never resumed */
}

static void begin_block(uint64_t id) {
    Processor &p = processor;
    p.counts.blocks++;
    p.block_index.x = static_cast<unsigned>(id % p.grid_size.x);
    p.block_index.y = static_cast<unsigned>(id / p.grid_size.x % p.grid_size.y);
    p.block_index.z = static_cast<unsigned>(id / p.grid_size.x / p.grid_size.y);
    shared_begin_block();
    p.alive = p.thread_count;
    p.at_barrier = p.barrier_sum = p.ready_count = p.ready_head = 0;
    for (int i = 0; i < (p.thread_count + LANES - 1) / LANES; i++)
        p.warps[i].pending_count = 0;
    for (int i = 0; i < p.thread_count; i++) {
        Fiber *f = &p.fibers[i];
        f->copies_head = f->copies_tail = f->copy_group = 0;
        make_ready(i);
    }
}

/* Two blocks are ordered for ThreadSanitizer unless races between blocks are looked for. */
static void run_block(uint64_t id, bool last) {
    Processor &p = processor;
    begin_block(id);
    order_release(&p.start_order);
    run_next();
    if (last || !settings()->interblock) order_acquire(&p.end_order);
    if (!p.failed && p.alive) report_stuck();
    shared_end_block();
}

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void prepare_threads(dim3 block) {
    Processor &p = processor;
    for (int i = 0; i < p.thread_count; i++) {
        Fiber *f = &p.fibers[i];
        unsigned n = static_cast<unsigned>(i);
        fiber_prepare(f);
        f->index = i;
        f->lane = i % LANES;
        f->warp = i / LANES;
        f->tid = uint3{n % block.x, n / block.x % block.y, n / (block.x * block.y)};
    }
}

/* With a seed the blocks come in a random order: start + i * step mod count, step prime to it. */
static void run_blocks() {
    Processor &p = processor;
    uint64_t count = static_cast<uint64_t>(p.grid_size.x) * p.grid_size.y * p.grid_size.z;
    uint64_t start = 0, step = 1;
    if (p.shuffled && count > 1) {
        start = random_bits() % count;
        step = 1 + random_bits() % count;
        while (common_divisor(step, count) != 1)
            step++;
    }
    for (uint64_t i = 0; i < count && !p.failed; i++)
        run_block((start + i * step) % count, i + 1 == count);
}

void run_grid(Kernel *kernel, const LaunchShape &shape) {
    Processor &p = processor;
    host_enter();
    p.kernel = kernel;
    p.kernel_name = shape.name;
    p.thread_count = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
    p.block_size = shape.block;
    p.grid_size = shape.grid;
    p.failed = false;
    prepare_threads(shape.block);
    shared_begin_grid(shape.shared_bytes, shape.shared_bytes_max);
    run_blocks();
    shared_end_grid();
    if (p.failed)
        for (Fiber &f : p.fibers)
            f.begun = false; /* their stacks hold half a kernel */
}

} // namespace cuemu
