/* fuzz_sentence_files.c - sentence-transformers' files: the input is cut at NUL bytes into them. What
 * is taken has a pooling and fits the model. */
// SPDX-License-Identifier: Apache-2.0
#include <stdint.h>
#include <string.h>

#include "engine/model/family/sentence_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sentence_bytes files[SENTENCE_FILE_COUNT] = {0};
    model_spec spec = {.encoder = true, .hidden = 384, .context = 512};
    for (uint32_t i = 0; i < SENTENCE_FILE_COUNT && size > 0; i++) {
        const uint8_t *end = memchr(data, 0, size);
        size_t count = end ? (size_t)(end - data) : size;
        if (count > 0) files[i] = (sentence_bytes){data, count};
        data += end ? count + 1 : count;
        size -= end ? count + 1 : count;
    }
    esp_error err = {0};
    if (sentence_read_memory(files, &spec, &err) == ESP_OK)
        ESP_ASSERT(spec.pooling != POOLING_NONE && spec.input_max <= spec.context);
    return 0;
}
