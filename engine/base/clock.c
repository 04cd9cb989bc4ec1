/* clock.c - the monotonic clock. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/base/clock.h"

#include <time.h>

int64_t clock_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t clock_now_us(void) { return clock_now_ns() / 1000; }
