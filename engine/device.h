/* device.h - which device an engine computes on. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_DEVICE_H
#define ESPALIER_DEVICE_H

#include "engine/config.h"
#include "kernels/kernels.h"

/* Decides what --device auto means here and which KV type that takes: config->device is not DEVICE_AUTO
 * afterwards. auto: the first CUDA device where there is one and it is new enough; else the CPU, with one
 * line in the log where this build could use a CUDA device; ref where the CPU has not even AVX2. A config
 * with `ops` of its own keeps its device: auto is then the CPU. */
ESP_CHECKED esp_code device_choose(model_config *config, esp_error *err);

/* Of a chosen one. */
const kern_ops *device_ops(device_kind device);
kern_level device_level(const model_config *config);
uint32_t device_index(const model_config *config);
/* Of a rank of it: ranks on GPUs have one each. */
uint32_t device_of_rank(const model_config *config, uint32_t rank);

#endif
