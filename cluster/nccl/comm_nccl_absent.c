/* comm_nccl_absent.c - a build without CUDA has no device whose ranks could exchange anything. */
// SPDX-License-Identifier: Apache-2.0
#include "cluster/comm_nccl.h"

esp_code comm_nccl_open(comm **out, comm *control, kern_device *dev, esp_error *err) {
    (void)out, (void)control, (void)dev;
    return esp_fail_field(err, ESP_UNIMPLEMENTED, "--tp",
                          "this build has no CUDA backend, and so no ranks on GPUs");
}
