/* fuzz_sentencepiece.c - any bytes as a folder's tokenizer.model: a sentence, or a tokenizer that encodes. */
// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/hf_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return hf_fuzz_file("tokenizer.model", data, size);
}
