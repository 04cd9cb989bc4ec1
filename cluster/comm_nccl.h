/* comm_nccl.h - collectives between GPUs, over memory of the device: operations of the device's stream, which
 * return before they are done. comm_check waits for the stream, within the patience: before whatever waits for
 * the device without one.
 *
 * A second comm of the same ranks, over host memory (comm_local.h, comm_mpi.h), carries all else and says who
 * failed. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_CLUSTER_COMM_NCCL_H
#define ESPALIER_CLUSTER_COMM_NCCL_H

#include "cluster/comm.h"
#include "kernels/kernels.h"

/* Every rank of `control`, which is borrowed, calls it with its own device, one of kern_cuda's. ESP_UNAVAILABLE: no
 * NCCL, or it says why. */
ESP_CHECKED esp_code comm_nccl_open(comm **out, comm *control, kern_device *dev, esp_error *err);

#endif
