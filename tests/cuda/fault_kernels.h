/* fault_kernels.h - kernels with one planted fault each, and the same kernels without it.
 *
 * Right, each makes out[i] = i for i in 0..63, of in[i] = i; both are exactly FAULT_WORDS floats of
 * device memory. */
// SPDX-License-Identifier: Apache-2.0
#ifndef FAULT_KERNELS_H
#define FAULT_KERNELS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FAULT_WORDS = 64 };

typedef int fault_kernel(float *out, const float *in, bool planted);

fault_kernel fault_missing_barrier, fault_barrier_missing_in_loop, fault_order_by_luck,
    fault_missing_syncwarp, fault_dynamic_overrun, fault_shared_overrun, fault_global_write_overrun,
    fault_global_read_overrun, fault_exit_before_barrier, fault_two_barriers, fault_absent_lanes,
    fault_unwritten_shared, fault_unwritten_global, fault_copy_not_waited, fault_copy_not_synced,
    fault_copy_left_in_flight, fault_copy_misaligned, fault_misaligned_load,
    fault_misaligned_vector, fault_ldmatrix_misaligned, fault_same_value_race, fault_lost_update,
    fault_race_between_blocks, fault_host_pointer, fault_no_dynamic_memory, fault_host_in_struct,
    fault_host_in_table, fault_peer_in_struct, fault_static_and_dynamic, fault_kept_too_long;

#ifdef __cplusplus
}
#endif
#endif
