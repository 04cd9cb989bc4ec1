/* level.h - every file here is compiled once per instruction level; LEVEL_NAME(linear) is then
 * linear_avx2 or linear_avx512, so that both live in one program. CMakeLists.txt gives CPU_LEVEL.
 */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_LEVEL_H
#define ESPALIER_LEVEL_H

#include "kernels/cpu/cpu.h"

#define LEVEL_JOIN_(name, level) name##_##level
#define LEVEL_JOIN(name, level) LEVEL_JOIN_(name, level)
#define LEVEL_NAME(name) LEVEL_JOIN(name, CPU_LEVEL)

#define LEVEL_TEXT_(level) #level
#define LEVEL_TEXT(level) LEVEL_TEXT_(level)

/* For the bodies of inner loops, whose constant arguments make one copy per shape. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

void LEVEL_NAME(level_norm)(kern_device *dev, const kern_norm *op);
void LEVEL_NAME(level_linear)(kern_device *dev, const kern_linear *op);
void LEVEL_NAME(level_rope_store)(kern_device *dev, const kern_rope_store *op);
void LEVEL_NAME(level_attention)(kern_device *dev, const kern_attention *op);
void LEVEL_NAME(level_tiles)(const struct linear_job *job, const struct strip *s, uint32_t first,
                             uint32_t count, uint32_t tokens, cpu_scratch *scratch);
void LEVEL_NAME(lora_shrink)(const struct linear_job *job, uint32_t worker, uint32_t workers);
void LEVEL_NAME(lora_fetch_next)(const struct linear_job *job, uint32_t worker, uint32_t workers,
                                 struct lora_fetch *fetch);
void LEVEL_NAME(lora_update)(const struct linear_job *job, const struct strip *s, uint32_t base,
                             uint32_t tokens, float *sums, uint32_t stride);

#endif
