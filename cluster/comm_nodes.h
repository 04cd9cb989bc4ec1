/* comm_nodes.h - collectives between ranks that are threads of several processes, as many in each, over host memory:
 * two hosts of four GPUs each are eight ranks.
 *
 *   process 0: ranks 0 .. each - 1     process 1: ranks each .. 2 * each - 1     ...
 *   +--- within: comm_local ---+       +--- within -------------+
 *   | 0 (leads)  1  2  3       |       | 4 (leads)  5  6  7     |
 *   +--|-----------------------+       +--|---------------------+
 *      +------ between: comm_tcp, comm_mpi ----+
 *
 * The first rank of each process leads it: it alone calls the comm between the processes, for all of its own. Who
 * sums gets the bytes that one process of as many ranks would give it, in the same order, and so the same bits.
 *
 * A failure on one level is one on the other: a rank that is late among its own, one that aborts, a process that
 * ended. Sentences count all ranks alike. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_NODES_H
#define ESPALIER_CLUSTER_COMM_NODES_H

#include "cluster/comm.h"

/* out[i] is the end of the thread that is rank between->rank * each + i, closed on its own when that rank takes part no
 * more, after its last collective. `between`, of the processes, is borrowed, and its own collectives are called no
 * more. between->size * each <= COMM_RANKS_MAX; the same `each` in all processes. */
void comm_nodes_open(comm **out, comm *between, uint32_t each);

#endif
