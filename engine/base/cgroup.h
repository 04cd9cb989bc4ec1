/* cgroup.h - what the container allows this process. Private to engine/base.
 *
 * Source  kernel documentation: admin-guide/cgroup-v2.rst; cgroup-v1/memory.rst. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_BASE_CGROUP_H
#define ESPALIER_BASE_CGROUP_H

#include <stdint.h>

/* CPUs' worth of time this process may use, rounded up; UINT32_MAX without a quota. */
uint32_t cgroup_cpus(void);

/* Bytes left below the memory limit, the page cache that can be dropped counted as left;
 * UINT64_MAX without a limit. */
uint64_t cgroup_memory_left(void);

#endif
