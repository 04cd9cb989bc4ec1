/* comm_local.h - collectives between threads of one process, over host memory: each rank copies out of the
 * others' buffers. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_LOCAL_H
#define ESPALIER_CLUSTER_COMM_LOCAL_H

#include "cluster/comm.h"

/* out[rank] is the end of the thread that is this rank; each is closed on its own, by any thread, when its
 * rank takes part no more. 1 <= size <= COMM_RANKS_MAX. */
void comm_local_open(comm **out, uint32_t size);

#endif
