/* profile.h - the numeric profile: everything on which a bit of the logits depends, as one line.
 * Replay and failover want equal profiles and refuse otherwise. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_PROFILE_H
#define ESPALIER_PROFILE_H

#include "engine/base/status.h"
#include "kernels/kernels.h"

enum {
    PROFILE_BYTES_MAX = 160,
    /* Raised whenever a change of ours may change a bit of anyone's logits, or a pick from them. */
    NUMERICS_VERSION = 8,
};

/* "cpu:avx512,act=bf16,kv=bf16,tp=1,numerics=8"; with --quantize also ",quantize=Q4_K". ranks:
 * that share the model; quantize: NULL without. */
void profile_print(const kern_ops *ops, const kern_device *dev, uint32_t ranks,
                   const esp_dtype *quantize, char out[PROFILE_BYTES_MAX]);

/* The one that --device auto gives on this machine, without any model. */
ESP_CHECKED esp_code profile_of_auto(char out[PROFILE_BYTES_MAX], esp_error *err);

#endif
