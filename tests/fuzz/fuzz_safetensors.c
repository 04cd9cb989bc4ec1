/* fuzz_safetensors.c - any bytes as a .safetensors file: refused with a sentence, or every byte of
 * every tensor can be read and each is found by its name. Seeds: corpus/safetensors, made by
 * make_safetensors_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <stdlib.h>

#include "engine/model/format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A sum that depends on every byte, so that reading them is not optimised away. */
static uint32_t touch(const void *at, uint64_t bytes) {
    const uint8_t *byte = at;
    uint32_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++)
        sum = sum * 31 + byte[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static volatile uint32_t sink; /* the reads must not be optimised away */
    safetensors_file *file;
    esp_error err = {0};
    if (safetensors_open_memory(&file, data, size, "fuzz", &err)) {
        ESP_ASSERT(err.message[0] && !file);
        return 0;
    }
    const tensor_set *all = safetensors_tensors(file);
    uint64_t bytes = 0;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        const model_tensor *tensor = &all->at[i];
        ESP_ASSERT(tensor_set_find(all, tensor->name.at) == tensor);
        ESP_ASSERT(tensor_element_count(tensor) <= tensor->bytes);
        sum += touch(tensor->data, tensor->bytes);
        bytes += tensor->bytes;
    }
    ESP_ASSERT(bytes < size);
    sink = sum;
    (void)sink;
    safetensors_close(file);
    return 0;
}
