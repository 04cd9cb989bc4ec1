/* emu_fiber.cpp - stacks, and switching between them; 13 instructions on x86-64. */
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include <pthread.h>
#include <sys/mman.h>

#include "emu_core.h"
#include "emu_sanitizers.h"

#ifndef __x86_64__
#error "the emulator switches stacks in x86-64 assembly; add the switch of this machine here"
#endif

namespace cuemu {

#if defined(EMU_ASAN) || defined(EMU_TSAN)
static const size_t stack_bytes = 256 * 1024;
#else
static const size_t stack_bytes = FIBER_STACK_BYTES;
#endif
static const size_t guard_bytes = 4096;

/* Saves the callee's registers on the old stack, *from = its top; takes the new one. */
__attribute__((naked, noinline)) static void switch_stack(void **, void *) {
    __asm__ volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n"
                     "pushq %r15\n movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
                     "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
                     "ret\n");
}

#ifdef EMU_ASAN
struct StackBounds {
    void *bottom;
    size_t bytes;
};

/* Bounds of the launching OS thread's own stack. */
static StackBounds host_bounds() {
    static thread_local StackBounds bounds;
    if (bounds.bytes) return bounds;
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) abort();
    pthread_attr_getstack(&attributes, &bounds.bottom, &bounds.bytes);
    pthread_attr_destroy(&attributes);
    return bounds;
}
#endif

static void before_switch(Fiber *from, Fiber *to) {
    (void)from, (void)to;
#ifdef EMU_ASAN
    StackBounds bounds = {to->stack, stack_bytes};
    if (to == &processor.host) bounds = host_bounds();
    __sanitizer_start_switch_fiber(&from->asan_fake, bounds.bottom, bounds.bytes);
#endif
#ifdef EMU_TSAN
    const unsigned no_sync = 1;
    __tsan_switch_to_fiber(to->tsan, no_sync);
#endif
}

static void after_switch(Fiber *self) {
    (void)self;
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(self->asan_fake, nullptr, nullptr);
#endif
}

void fiber_switch(Fiber *to) {
    Fiber *from = processor.current;
    processor.current = to;
    processor.counts.switches++;
    if (from == to) return;
    before_switch(from, to);
    switch_stack(&from->sp, to->sp);
    after_switch(from);
}

/* Where a fiber begins; it serves one thread of each block, for ever. */
static void fiber_main() {
    after_switch(processor.current);
    for (;;) {
        Fiber *self = processor.current;
        order_acquire(&processor.start_order);
        processor.kernel->thread();
        order_release(&processor.end_order);
        if (self->copies_head != self->copies_tail)
            fail("thread exits with cp.async in flight; wait<0> before the end", self->place);
        self->wait = Wait::done;
        processor.alive--;
        run_next();
    }
}

static char *new_stack() {
    void *p = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("cudaemu: a fiber's stack");
        abort();
    }
    mprotect(p, guard_bytes, PROT_NONE);
    return static_cast<char *>(p) + guard_bytes;
}

/* The stack as if fiber_main had been called and switched away from: return address 0 ends
 * backtraces; rsp is 8 mod 16 at entry. Tops are offset, or all would share the same cache sets. */
static void *first_frame(const Fiber *fiber) {
    size_t colour = static_cast<size_t>(fiber - processor.fibers) * 192 % 3840;
    void **sp = reinterpret_cast<void **>(fiber->stack + stack_bytes - colour);
    for (int i = 0; i < 3; i++)
        *--sp = nullptr;
    *--sp = reinterpret_cast<void *>(fiber_main);
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    return sp;
}

void fiber_prepare(Fiber *fiber) {
    if (fiber->begun) return;
    if (!fiber->stack) {
        fiber->stack = new_stack();
        fiber->copies = static_cast<AsyncCopy *>(malloc(sizeof(AsyncCopy) * COPIES_MAX));
        if (!fiber->copies) abort();
    }
    memory_allow(fiber->stack, stack_bytes);
#ifdef EMU_TSAN
    if (!fiber->tsan) fiber->tsan = __tsan_create_fiber(0);
#endif
    fiber->asan_fake = nullptr;
    fiber->sp = first_frame(fiber);
    fiber->begun = true;
}

/* The calling OS thread becomes the one that fibers return to. */
void host_enter() {
    processor.current = &processor.host;
#ifdef EMU_TSAN
    processor.host.tsan = __tsan_get_current_fiber();
#endif
}

} // namespace cuemu
