/* gpu_probe.c - the CUDA device of a number (0 by default) as one JSON object; exit 77 and a sentence where there
 * is none that can be computed with. */
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"

enum { NONE = 77 };

int main(int argc, char **argv) {
    int index = argc > 1 ? atoi(argv[1]) : 0, driver = 0, runtime = 0;
    esp_error why = {0};
    struct cudaDeviceProp p;
    if (kern_cuda_check((uint32_t)index, &why) != ESP_OK) {
        fprintf(stderr, "%s\n", why.message);
        return NONE;
    }
    if (cudaGetDeviceProperties(&p, index) || cudaDriverGetVersion(&driver) ||
        cudaRuntimeGetVersion(&runtime))
        return EXIT_FAILURE;
    printf("{\"name\":\"%s\",\"sm\":\"%d%d\",\"processors\":%d,\"memory_gib\":%.1f,\"l2_mib\":%.1f,"
           "\"driver\":\"%d.%d\",\"runtime\":\"%d.%d\"}\n",
           p.name, p.major, p.minor, p.multiProcessorCount, (double)p.totalGlobalMem / 0x1p30,
           (double)p.l2CacheSize / 0x1p20, driver / 1000, driver % 1000 / 10, runtime / 1000,
           runtime % 1000 / 10);
    return EXIT_SUCCESS;
}
