/* fuzz_tekken.c - any bytes as a folder's tekken.json: a sentence, or a tokenizer that encodes. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/hf_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return hf_fuzz_file("tekken.json", data, size);
}
