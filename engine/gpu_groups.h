/* gpu_groups.h - which GPUs a replica's ranks get: groups whose links are good, as pure numbers.
 *
 * Ranks exchange partial sums twice a layer, so the slowest link inside a group is what its steps wait for. Of all
 * ways to take the groups the one is chosen whose slowest link is best, then the one whose links are best together,
 * then that of the lowest numbers; so where all links are alike, as behind a switch, replica r has the GPUs r * tp
 * and on. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_GPU_GROUPS_H
#define ESPALIER_GPU_GROUPS_H

#include <stdbool.h>
#include <stdint.h>

enum { GPU_GROUPS_DEVICES_MAX = 64 };

typedef struct gpu_groups_options {
    uint32_t device_count; /* <= GPU_GROUPS_DEVICES_MAX */
    const uint32_t *links; /* [device_count][device_count] 0: best; the diagonal is not read */
    uint32_t first;        /* devices below are left alone */
    uint32_t group_size, group_count;
} gpu_groups_options;

/* out: [group_count][group_size] devices, ascending inside a group. false: there are not so many. All ways are
 * looked at where that takes 200,000 looks at most, as on any machine of eight; else the best of those. */
bool gpu_groups_choose(const gpu_groups_options *o, uint32_t *out);

#endif
