/* clock.h - time. Timers use the monotonic clock; only logs show the wall clock.
 * Modules that decide (scheduler, kvcache) take now_us as an argument instead. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_CLOCK_H
#define ESPALIER_BASE_CLOCK_H

#include <stdint.h>

/* Microseconds of CLOCK_MONOTONIC. */
int64_t clock_now_us(void);

/* Nanoseconds of CLOCK_MONOTONIC, for benches. */
int64_t clock_now_ns(void);

#endif
