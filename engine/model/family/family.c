/* family.c - the table of families; how one is found in a GGUF file. */
// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "engine/model/family/family_table.h"

const model_family *const FAMILIES[] = {
    &family_llama,  &family_mistral, &family_ministral, &family_qwen2, &family_qwen3,
    &family_gemma2, &family_gemma3,  &family_phi3,      &family_bert,  NULL};

static esp_code fail_architecture(const gguf_file *file, model_text seen, esp_error *err) {
    char known[96] = "";
    for (size_t i = 0; FAMILIES[i]; i++) {
        if (!FAMILIES[i]->architecture) continue;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                 FAMILIES[i]->architecture);
    }
    char shown[48] = "";
    for (size_t i = 0; i < seen.bytes && i < sizeof shown - 1; i++)
        shown[i] = seen.at[i] < 0x20 || seen.at[i] > 0x7e ? '?' : seen.at[i];
    return esp_fail(err, ESP_INVALID, "%s: general.architecture is \"%s\"; wanted one of %s",
                    gguf_name(file), shown, known);
}

esp_code family_find(const gguf_file *file, const model_family **out, esp_error *err) {
    bool found;
    model_text seen = {"", 0};
    esp_code code = gguf_get_text(file, "general.architecture", &found, &seen, err);
    if (code) return code;
    if (!found)
        return esp_fail(err, ESP_INVALID,
                        "%s: the metadata key general.architecture is missing; this is no model",
                        gguf_name(file));
    for (size_t i = 0; FAMILIES[i]; i++) {
        const char *name = FAMILIES[i]->architecture;
        if (!name || strlen(name) != seen.bytes || memcmp(name, seen.at, seen.bytes) != 0) continue;
        *out = FAMILIES[i];
        return ESP_OK;
    }
    return fail_architecture(file, seen, err);
}
