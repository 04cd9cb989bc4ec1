/* adapter_folder.h - small PEFT folders on disk for tests of the adapter store, each content by its
 * seed. */
// SPDX-License-Identifier: Apache-2.0
#ifndef ESPALIER_TESTS_ADAPTER_FOLDER_H
#define ESPALIER_TESTS_ADAPTER_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/safetensors_builder.h"

enum { ADAPTER_FOLDER_WIDTH = 16, ADAPTER_FOLDER_RANK = 4 };

static inline void adapter_folder_put(const char *folder, const char *name, const void *bytes,
                                      size_t count) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) abort();
}

static inline const char *adapter_folder_config(void) {
    return "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": "
           "[\"q_proj\"],"
           " \"base_model_name_or_path\": \"test/base\", \"task_type\": \"CAUSAL_LM\"}";
}

/* Rank 4 on q_proj of layer 0, 16 wide; malloc'd. */
static inline char *adapter_folder_tensors(uint32_t seed, size_t *count) {
    enum { HALF = ADAPTER_FOLDER_RANK * ADAPTER_FOLDER_WIDTH };
    char header[640];
    const char *module = "base_model.model.model.layers.0.self_attn.q_proj";
    snprintf(
        header, sizeof header,
        "{\"%s.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[4,16],\"data_offsets\":[0,256]},"
        "\"%s.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[16,4],\"data_offsets\":[256,512]}}",
        module, module);
    char *file = st_build(header, 2 * HALF * sizeof(float), count);
    char *data = file + *count - 2 * HALF * sizeof(float);
    for (uint32_t i = 0; i < 2 * HALF; i++) {
        float value = (float)(seed * 131 + i) / 4096.0f;
        memcpy(data + i * sizeof value, &value, sizeof value);
    }
    return file;
}

/* Makes the folder, which must not be there. */
static inline void adapter_folder_make(const char *folder, uint32_t seed) {
    size_t count;
    char *tensors = adapter_folder_tensors(seed, &count);
    if (mkdir(folder, 0700) != 0) abort();
    adapter_folder_put(folder, "adapter_config.json", adapter_folder_config(),
                       strlen(adapter_folder_config()));
    adapter_folder_put(folder, "adapter_model.safetensors", tensors, count);
    free(tensors);
}

#endif
