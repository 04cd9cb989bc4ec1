/* fuzz_lora_gguf.c - any bytes as a GGUF adapter: what opens is read whole. Seeds: corpus/lora_gguf,
 * made by make_lora_corpus.py. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/lora_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lora_fuzz_open(NULL, 0, data, size);
    return 0;
}
