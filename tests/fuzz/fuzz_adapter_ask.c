/* fuzz_adapter_ask.c - bodies of the HTTP routes that load and unload adapters. */
// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/serve/adapter_routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const paths[] = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"};
    for (uint32_t i = 0; i < 2; i++) {
        adapter_ask ask;
        esp_error error = {0};
        esp_code code = adapter_ask_read(&ask, paths[i], (const char *)data, size, &error);
        ESP_ASSERT(code == error.code && ask.unloads == (i == 1));
        if (code != ESP_OK) continue;
        ESP_ASSERT(store_check_name(ask.name, strlen(ask.name), NULL) == ESP_OK);
        ESP_ASSERT(ask.unloads == !ask.reference[0]);
    }
    return 0;
}
