/* emu_sanitizers.h - what the sanitizers must be told about fibers and memory; nothing without one. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_SANITIZERS_H
#define EMU_SANITIZERS_H

#include <cstddef>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
extern "C" {
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *bytes);
void __asan_unpoison_memory_region(void const volatile *address, size_t bytes);
void __asan_poison_memory_region(void const volatile *address, size_t bytes);
}
#endif

/* The core is compiled without -fsanitize=thread, so that the build says it by EMU_TSAN. */
#if defined(__SANITIZE_THREAD__) && !defined(EMU_TSAN)
#define EMU_TSAN 1
#endif
#ifdef EMU_TSAN
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
}
#endif

namespace cuemu {

inline void order_release(void *at) {
#ifdef EMU_TSAN
    __tsan_release(at);
#else
    (void)at;
#endif
}

inline void order_acquire(void *at) {
#ifdef EMU_TSAN
    __tsan_acquire(at);
#else
    (void)at;
#endif
}

inline void memory_forbid(const void *at, size_t bytes) {
#ifdef EMU_ASAN
    __asan_poison_memory_region(at, bytes);
#else
    (void)at, (void)bytes;
#endif
}

inline void memory_allow(const void *at, size_t bytes) {
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(at, bytes);
#else
    (void)at, (void)bytes;
#endif
}

/* memset that no sanitizer records: it is the emulator's write, not a thread's. */
inline void fill_unseen(void *at, int byte, size_t bytes) {
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
}

} // namespace cuemu

#endif
