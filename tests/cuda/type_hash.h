/* type_hash.h - half and bfloat16 on the host, as one number for many results. */
// SPDX-License-Identifier: Apache-2.0
#ifndef TYPE_HASH_H
#define TYPE_HASH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of all 65,536 values of both types as floats. */
uint64_t type_hash_widen(void);
/* Of every 6,007th float in both types. */
uint64_t type_hash_narrow(void);
/* Of sums, differences, products, quotients and comparisons of 200,000 random pairs. */
uint64_t type_hash_arithmetic(void);

#ifdef __cplusplus
}
#endif
#endif
