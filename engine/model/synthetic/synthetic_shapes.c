/* synthetic_shapes.c - the shapes, as the published config.json of each model says. */
// SPDX-License-Identifier: Apache-2.0
#include "engine/model/synthetic/synthetic.h"

#include <stdio.h>
#include <string.h>

#define LLAMA3_ROPE(factor)                                                                        \
    "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": " factor                           \
    ", \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "                                      \
    "\"original_max_position_embeddings\": 8192}}"
#define GEMMA2_KEYS                                                                                \
    "{\"hidden_activation\": \"gelu_pytorch_tanh\", \"query_pre_attn_scalar\": 256, "              \
    "\"sliding_window\": 4096, \"attn_logit_softcapping\": 50.0, "                                 \
    "\"final_logit_softcapping\": 30.0}"

static const synthetic_shape shapes[] = {
    {"llama-3.2-1b", &family_llama, 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, 1e-5, true,
     LLAMA3_ROPE("32.0")},
    {"llama-3.2-3b", &family_llama, 28, 3072, 24, 8, 128, 8192, 128256, 131072, 5e5, 1e-5, true,
     LLAMA3_ROPE("32.0")},
    {"llama-3.1-8b", &family_llama, 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5, 1e-5, false,
     LLAMA3_ROPE("8.0")},
    {"mistral-7b-v0.3", &family_mistral, 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e6, 1e-5,
     false, "{\"sliding_window\": null}"},
    {"gemma-2-2b", &family_gemma2, 26, 2304, 8, 4, 256, 9216, 256000, 8192, 1e4, 1e-6, true,
     GEMMA2_KEYS},
    {"gemma-2-9b", &family_gemma2, 42, 3584, 16, 8, 256, 14336, 256000, 8192, 1e4, 1e-6, true,
     GEMMA2_KEYS},
    {"qwen2.5-7b", &family_qwen2, 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1e6, 1e-6, false,
     "{\"use_sliding_window\": false}"},
    {"qwen3-8b", &family_qwen3, 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1e6, 1e-6, false,
     "{\"use_sliding_window\": false}"},
    {"tiny", &family_llama, 2, 64, 4, 2, 16, 160, 512, 512, 1e4, 1e-5, true, NULL},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const synthetic_shape *synthetic_at(uint32_t index) {
    return index < SHAPES ? &shapes[index] : NULL;
}

esp_code synthetic_find(const char *name, const synthetic_shape **out, esp_error *err) {
    char known[256] = "", shown[64];
    for (uint32_t i = 0; i < SHAPES; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", shapes[i].name);
        if (strcmp(shapes[i].name, name) != 0) continue;
        *out = &shapes[i];
        return ESP_OK;
    }
    esp_show(shown, sizeof shown, name, strlen(name));
    return esp_fail_field(err, ESP_OUT_OF_RANGE, "--shape", "--shape \"%s\": wanted one of %s",
                          shown, known);
}
