/* fuzz_lora_config.c - any bytes as adapter_config.json, a NUL, and adapter_model.safetensors: what opens
 * is read whole. Seeds: corpus/lora_config, made by make_lora_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/lora_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    if (!end) return 0;
    size_t text = (size_t)(end - data);
    lora_fuzz_open(data, text, end + 1, size - text - 1);
    return 0;
}
