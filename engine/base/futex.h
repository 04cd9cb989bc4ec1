/* futex.h - the system call that glibc does not wrap. Private to engine/base.
 * Source  futex(2). */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_FUTEX_H
#define ESPALIER_BASE_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word == value, at most timeout_us (< 0: for ever). May wake early; look again. */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us) {
    struct timespec timeout = {.tv_sec = timeout_us / 1000000,
                               .tv_nsec = timeout_us % 1000000 * 1000};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_us < 0 ? NULL : &timeout, NULL, 0);
}

static inline void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif
