/* huge.h - whether memory lies in huge pages (2 MiB), as the kernel tells it.
 *
 * Weights are read from end to end for every token: over pages of 4 KiB one core reads 14 GB/s where
 * it reads 18 over huge ones. Anonymous memory has them for the asking (mem_map). A mapped file has
 * them where the file system keeps large folios (ext4 from Linux 6.16, xfs from 5.18), so it is
 * asked for and then looked at.
 *
 * Thread  any. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_HUGE_H
#define ESPALIER_BASE_HUGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HUGE_PAGE_BYTES = 2 << 20 };

/* Asks for huge pages under a mapping whose pages have not been touched. */
void huge_ask(const void *at, size_t bytes);

/* Bytes of the mapping around `at` that are mapped in huge pages now; 0 where it is not known. */
uint64_t huge_bytes(const void *at);

/* Whether anonymous memory that asks for huge pages can have them. */
bool huge_is_allowed(void);

#endif
