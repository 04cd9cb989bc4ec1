/* cuda_probe.c - whether there is a CUDA device to use. Asks the runtime, which looks for the driver; nothing is
 * opened or allocated. */
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include "kernels/kernels.h"

enum { MAJOR_LEAST = 8 }; /* Ampere: bf16 matrix instructions, cp.async */

static esp_code none(int error, esp_error *err) {
    (void)cudaGetLastError(); /* the runtime keeps it else */
    return esp_fail_field(err, ESP_UNAVAILABLE, "--device", "no CUDA device here (%s); %s",
                          error ? cudaGetErrorString((cudaError_t)error) : "the driver sees none",
                          "install NVIDIA's driver, or use --device cpu");
}

esp_code kern_cuda_probe(uint32_t index, esp_error *err) {
    int count = 0, major = 0;
    int error = (int)cudaGetDeviceCount(&count);
    if (error || count == 0) return none(error, err);
    if (index >= (uint32_t)count)
        return esp_fail_field(err, ESP_OUT_OF_RANGE, "--device",
                              "--device cuda:%u: this machine has %d, the first of which is cuda:0",
                              index, count);
    error = (int)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)index);
    if (error) return none(error, err);
    if (major < MAJOR_LEAST)
        return esp_fail_field(err, ESP_UNAVAILABLE, "--device",
                              "CUDA device %u is of compute capability %d; wanted 8.0 (Ampere) or "
                              "later; use --device cpu",
                              index, major);
    return ESP_OK;
}
