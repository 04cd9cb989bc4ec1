/* least.h - the smaller and the larger of two counts.
 * A wider one is refused by -Wconversion rather than cut. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_LEAST_H
#define ESPALIER_BASE_LEAST_H

#include <stdint.h>

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }

#endif
