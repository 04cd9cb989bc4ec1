/* check.h - arithmetic on outside numbers. Each returns false on overflow and leaves *out alone.
 * The one place where sizes read from files and requests are added and multiplied. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_CHECK_H
#define ESPALIER_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool check_add(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

static inline bool check_mul(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

/* Rounds up to a multiple of alignment, a power of two. */
static inline bool check_align(uint64_t value, uint64_t alignment, uint64_t *out) {
    uint64_t padded;
    if (!check_add(value, alignment - 1, &padded)) return false;
    *out = padded & ~(alignment - 1);
    return true;
}

/* True when [offset, offset + bytes) lies inside [0, limit). */
static inline bool check_span(uint64_t offset, uint64_t bytes, uint64_t limit) {
    uint64_t end;
    return check_add(offset, bytes, &end) && end <= limit;
}

#endif
