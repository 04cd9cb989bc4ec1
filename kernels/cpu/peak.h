/* peak.h - the loops behind roofline.c, one instruction's limit each.
 *
 * A loop multiplies ones with ones and returns the sum of its accumulators: how often it multiplied
 * and added, counted by the arithmetic itself. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PEAK_H
#define ESPALIER_PEAK_H

#include <stddef.h>
#include <stdint.h>

typedef double (*peak_multiply)(uint32_t rounds);

double peak_f32_avx2(uint32_t rounds);
double peak_f32_avx512(uint32_t rounds);
double peak_int16_avx2(uint32_t rounds);
double peak_int16_avx2_vnni(uint32_t rounds);
double peak_int16_avx512(uint32_t rounds);
double peak_bf16_avx512(uint32_t rounds);
double peak_int8_avx512(uint32_t rounds);
double peak_bf16_amx(uint32_t rounds);
double peak_int8_amx(uint32_t rounds);

enum { PEAK_LINE = 64, PEAK_STREAMS_MAX = 8 };

/* Reads lines of 64 bytes in 1, 2, 4 or 8 streams side by side and returns the sum of their 64-bit
 * words, so that nothing can be left out. from is 64-byte aligned. */
uint64_t peak_read_avx2(const void *from, size_t lines, uint32_t streams);
uint64_t peak_read_avx512(const void *from, size_t lines, uint32_t streams);

/* Copies lines with stores that pass the caches by. Both 64-byte aligned, apart from each other. */
void peak_copy_avx2(void *to, const void *from, size_t lines);
void peak_copy_avx512(void *to, const void *from, size_t lines);

#endif
