/* comm_mpi.h - collectives between processes that mpirun started, here or on several hosts, over host memory.
 *
 * Beside the patience of comm.h, a process of this host that ended is noticed within a second, also while this rank
 * waits for ever. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_MPI_H
#define ESPALIER_CLUSTER_COMM_MPI_H

#include "cluster/comm.h"

/* This process's rank; once in a process, waits for all others. ESP_UNIMPLEMENTED: there is no object for MPI beside
 * the program (ESPALIER_MPI=ON builds it). ESP_UNAVAILABLE: MPI did not start. */
ESP_CHECKED esp_code comm_mpi_open(comm **out, esp_error *err);

#endif
